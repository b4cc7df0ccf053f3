/* SPDX-License-Identifier: BSD-2-Clause */
/* A virtual machine as "vmcore run" builds it, and its threads. */
#ifndef RUN_VM_H
#define RUN_VM_H

#include "run_options.h"

#include <json-c/json.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>

#include <vmcore/boot.h>
#include <vmcore/host.h>
#include <vmcore/host_char.h>
#include <vmcore/host_trace.h>
#include <vmcore/pages.h>
#include <vmcore/pc.h>
#include <vmcore/virtio.h>
#include <vmcore/virtio_balloon.h>
#include <vmcore/vmcore.h>

/* An image file, read by offset. */
struct run_image {
    int fd; /* -1: none */
    struct vmc_image_src src;
};

struct vmc_kvm_frames;

/* What differs when a VM is one of several of "vmcore host". */
struct run_vm;
struct run_hooks {
    /* The platform was filled in: wrap it. */
    void (*platform)(void *ctx, struct vmc_platform *pf);
    /* The VM exists: make the space for its memory (r->space). As run_vm_create. */
    int (*memory)(void *ctx);
    /* What the guest's balloon does; its context is hooks_ctx. */
    const struct vmc_balloon_ops *balloon;
    /* A disk was opened: the device that the guest gets. */
    struct vmc_blockdev (*disk)(void *ctx, unsigned index, struct vmc_blockdev dev);
    /*
     * The machine is complete: give its vCPUs to a scheduler, before the guest is told what that
     * does for it. As run_vm_create.
     */
    int (*schedule)(void *ctx);
};

struct run_vm {
    struct run_options opt;
    const struct run_hooks *hooks; /* NULL: "vmcore run" */
    void *hooks_ctx;
    struct vmc_host_log log;
    struct vmc_platform pf;
    const struct vmc_engine_ops *engine;
    struct vmc_soft_config soft;
    struct vmc_host_trace *events; /* --trace */
    FILE *trace; /* --trace-insn */
    FILE *perf_map;
    /* "vmcore trace": called with this struct; NULL. */
    void (*translated)(void *run, uint32_t vcpu, const struct vmc_translation *t);
    struct vmc_cpu_policy policy;
    struct vmc_vm *vm;
    struct vmc_pc *pc;
    void *ram;
    struct vmc_space *space; /* instead of ram */
    struct vmc_kvm_frames *frames; /* with a space and KVM: what the space's pages are in */
    uint64_t max_mappings;         /* see struct vmc_kvm_config */
    struct run_image kernel, initrd, firmware, modules[RUN_MAX_MODULES];
    struct vmc_boot_module boot_modules[RUN_MAX_MODULES];
    struct vmc_host_char *serial, *debugcon, *printer; /* NULL: none */
    struct run_bells *bells; /* run_kvm.c */
    struct run_io *io;                       /* run_io.c: disks, network cards */

    int wake_fd; /* eventfd: something for the poll loop to look at */
    uint64_t start_ns;

    /* Threads, under lock. A parked thread is outside vmc_vcpu_run. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t threads[RUN_MAX_CPUS];
    unsigned thread_count, parked;
    struct run_runner *runner; /* --workers, instead of threads */
    bool paused, quit;
    bool user_paused; /* by the control socket; the main thread's */
    bool debug_stop; /* a vCPU stopped with debug_exit */
    unsigned debug_vcpu;
    struct vmc_exit debug_exit;
    bool failed;   /* a vCPU's run failed: message printed */
    bool left;     /* by the loop, with requests in flight on a disk that does not answer */
    bool quit_key; /* Ctrl-A x was typed */
};

/* cmd_run.c: "vmcore run", once a process. translated: see struct run_vm. */
int run_with(int argc, char **argv,
             void (*translated)(void *run, uint32_t vcpu, const struct vmc_translation *t));

/* run_vm.c. 0, or an exit status after a message on standard error. */
int run_vm_create(struct run_vm *r);
int run_vm_boot(struct run_vm *r);
void run_vm_destroy(struct run_vm *r);
/* Print what a failed library call said. Returns EXIT_ERROR. */
int run_vm_fail(const char *what, const struct vmc_error *err);

/* run_console.c: serial line and debug console. Closed before the machine is destroyed. */
int run_console_open(struct run_vm *r);
struct vmc_chardev run_console_dev(struct vmc_host_char *c);
struct vmc_chardev run_console_post(void); /* prints POST codes */
int run_console_start(struct run_vm *r);
void run_console_close(struct run_vm *r);

/* run_parallel.c: the parallel port, and debug consoles at other ports. As run_vm_create. */
int run_parallel_create(struct run_vm *r);

/* run_io.c: virtio devices of the options. */
int run_io_create(struct run_vm *r);
/* Writes that wait for space fail, now and until this is called with false: a reset is no use else. */
void run_io_fail_waiting(struct run_vm *r, bool fail);
/* Does a write wait for space? On disk i; on any. */
bool run_io_disk_waits(const struct run_vm *r, unsigned i);
bool run_io_waits(const struct run_vm *r);
/*
 * With the vCPUs stopped: nothing new is begun. Is nothing in flight any more? Before that, memory must
 * not get other contents.
 */
bool run_io_settled(struct run_vm *r);
/* Give what is in flight a moment to finish; what takes longer finishes in a machine that is paused. */
void run_io_quiesce(struct run_vm *r);
/* Ends the network threads, and lets no write wait: before the machine is destroyed. */
void run_io_stop(struct run_vm *r);
/* Closes the disks: after it. */
void run_io_destroy(struct run_vm *r);
/* The balloon, whichever it is. */
void run_io_balloon_target(struct run_vm *r, uint64_t pages);
void run_io_balloon_look(struct run_vm *r, struct vmc_balloon_seen *out);
bool run_io_uses_network(const struct run_vm *r);
bool run_io_uses_volumes(const struct run_vm *r);

/* run_kvm.c: let KVM gather writes that can wait. Nothing with another engine. */
int run_kvm_coalesce(struct run_vm *r);
/*
 * With KVM, the doorbells of disks and network cards are eventfds that a thread waits
 * for, so that a vCPU goes on while its request is worked on. NULL: not with this engine.
 */
struct run_bell;
struct run_bell *run_bells_add(struct run_vm *r);
void run_bell_attach(struct run_bell *b, struct vmc_virtio *dev);
void run_bell_changed(void *bell);
/* End the thread, before the machine is destroyed; the rest goes after it. */
void run_bells_stop(struct run_vm *r);
void run_bells_free(struct run_vm *r);

/* run_threads.c */
/* Make the main thread look at what happened. Any thread. */
void run_wake(struct run_vm *r);
int run_threads_start(struct run_vm *r, bool paused);
/* Returns when no vCPU is inside run; devices have had a moment to finish, too. */
void run_threads_pause(struct run_vm *r);
/* The same, but one that is inside of a disk that does not answer is not waited for: it stops there. */
void run_threads_pause_soon(struct run_vm *r);
/* Ask them to stop; are they stopped? */
void run_threads_halt(struct run_vm *r);
bool run_threads_halted(struct run_vm *r);
void run_threads_resume(struct run_vm *r);
void run_threads_stop(struct run_vm *r);
bool run_threads_exist(const struct run_vm *r);
/* A vCPU left run; true: it may enter again. On its thread. */
bool run_vcpu_left(struct run_vm *r, unsigned vcpu, int rc, const struct vmc_exit *x);

/*
 * run_runner.c, for run_vm.c: the VM is paused after attach, which comes before it is started; and
 * for run_threads.c.
 */
int run_runner_attach(struct run_vm *r);
int run_runner_start(struct run_vm *r);
void run_runner_wait(struct run_vm *r);
/* Until it is taken back, workers leave the vCPUs alone, whether the VM is paused or not. */
void run_runner_hold(struct run_vm *r, bool hold);
void run_runner_stop(struct run_vm *r);

/* run_stats.c */
struct json_object *run_stats_json(struct run_vm *r);
/* Write guest memory to a file; says on stderr what went wrong and returns -1. */
int run_dump_memory(struct run_vm *r, int fd);

/* run_gdb.c: a debugger on a TCP port of the loopback interface. */
struct run_gdb;
#define RUN_GDB_MAX_POLL 2
int run_gdb_create(struct run_vm *r, struct run_gdb **out);
void run_gdb_destroy(struct run_gdb *g);
/* Is the VM stopped for a debugger, or does it wait for one? Then nobody else may let it go on. */
bool run_gdb_holds(const struct run_gdb *g);
nfds_t run_gdb_poll_fds(struct run_gdb *g, struct pollfd *fds);
/* true: the debugger asks for the end of the VM. */
bool run_gdb_handle(struct run_gdb *g, const struct pollfd *fds, nfds_t count);
/* A vCPU stopped, or the VM ended (exit tells). */
void run_gdb_stopped(struct run_gdb *g, unsigned vcpu, const struct vmc_exit *exit);

/* run_loop.c: signals are the loop's alone: before any thread is made, block them (*set says which). */
void run_loop_block_signals(sigset_t *set);
/* The main thread until the VM ends; returns the exit status. */
int run_loop(struct run_vm *r, int stats_fd);

#endif
