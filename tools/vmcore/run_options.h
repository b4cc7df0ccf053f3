/* SPDX-License-Identifier: BSD-2-Clause */
/* The command line of "vmcore run", checked and in units. */
#ifndef RUN_OPTIONS_H
#define RUN_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#define RUN_MAX_DISKS   16
#define RUN_MAX_NETS    8
#define RUN_MAX_DEBUGCON_PORTS 8
#define RUN_MAX_MODULES 16
#define RUN_MAX_CPUS    64
#define RUN_MAX_MEM     (1ull << 42)
#define RUN_MIN_MEM     (1ull << 20)

enum run_engine { RUN_ENGINE_AUTO, RUN_ENGINE_KVM, RUN_ENGINE_SOFT };

struct run_disk {
    char *path;
    char *serial; /* or NULL */
    char *rdm;    /* the raw device that its mapping may use, or NULL */
    bool read_only;
    bool raw;       /* whatever it looks like */
    bool exclusive; /* nobody else uses its volume */
    bool reserve;   /* hosts that are given up are shut out of the volume's disks */
    bool full_fails; /* no space: errors to the guest, instead of writes that wait */
};

struct run_net {
    bool tap;
    char *ifname; /* of a TAP */
};

struct run_module {
    char *path;
    char *args; /* or NULL */
};

/* Where a character device goes. */
enum run_chr_kind { RUN_CHR_NONE, RUN_CHR_STDIO, RUN_CHR_FILE, RUN_CHR_UNIX, RUN_CHR_PTY };
struct run_chr {
    enum run_chr_kind kind;
    char *path;
};

/* What a debugger is told that the processor is; auto: as the kernel's ELF file says. */
enum run_gdb_arch { RUN_GDB_AUTO, RUN_GDB_I386, RUN_GDB_X86_64 };

/* Whose interface guests find: enum order is that of the option's words. */
enum run_hypervisor { RUN_HYPERVISOR_KVM, RUN_HYPERVISOR_VMWARE, RUN_HYPERVISOR_NONE };

struct run_options {
    enum run_engine engine;
    enum run_hypervisor hypervisor;
    char *name;
    char *kernel, *initrd, *cmdline, *firmware;
    uint64_t load_at; /* flat binaries: where to load and start, with load_flat */
    bool load_flat;
    struct run_module modules[RUN_MAX_MODULES];
    unsigned module_count;
    uint64_t mem_bytes;
    bool merge;
    unsigned cpus;
    struct run_disk disks[RUN_MAX_DISKS];
    unsigned workers; /* threads that all vCPUs share; 0: one for each vCPU */
    unsigned disk_count;
    struct run_net nets[RUN_MAX_NETS];
    unsigned net_count;
    struct run_chr serial, debugcon, parallel;
    uint16_t debugcon_ports[RUN_MAX_DEBUGCON_PORTS]; /* beside 0xe9 */
    unsigned debugcon_port_count;
    char *cpu_model; /* PRESET[,+f|,-f]... */
    int exit_port;   /* -1: none */
    int post_port;   /* whose POST codes are printed; -1: none */
    double timeout_s; /* 0: none */
    char *stats_path, *control_path, *dump_path;
    bool gdb;
    int gdb_port; /* 0: any that is free */
    enum run_gdb_arch gdb_arch;
    char *events_path; /* --trace */
    char *trace_path;  /* --trace-insn */
    bool perf_map;
    uint64_t code_bytes; /* 0: the default */
    bool deterministic;
    bool translate; /* binary translation in the software engine */
    bool no_sandbox;
    bool verbose;
    bool from_file; /* the arguments were made from a configuration file */
};

/* What messages of the files run_* begin with: who is doing this, for which VM. */
#define RUN_WHO_BYTES 128
extern char run_who[RUN_WHO_BYTES];

/*
 * Parse; prints a message and returns EXIT_BAD_ARGS when the arguments are wrong, -1 when all is
 * well. --help exits. Strings are owned by *o; run_options_free releases them.
 */
int run_options_parse(int argc, char **argv, bool from_file, struct run_options *o);
void run_options_free(struct run_options *o);

#endif
