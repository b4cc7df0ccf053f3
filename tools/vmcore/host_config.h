/* SPDX-License-Identifier: BSD-2-Clause */
/* The configuration file of "vmcore host", checked and in units. vmcore-host(5) describes it. */
#ifndef HOST_CONFIG_H
#define HOST_CONFIG_H

#include "run_options.h"

#include <stddef.h>

#define HOST_MAX_VMS    256
#define HOST_MAX_CPUS   256
#define HOST_MAX_SHARES 1000000u
#define HOST_MAX_POOLS  256
#define HOST_NO_POOL    UINT32_MAX /* directly below the host */

/* What a VM is entitled to. */
struct host_share {
    uint32_t shares;
    uint64_t reservation, limit; /* bytes, or millionths of a CPU; limit 0: none */
};

/* Processors of the host, that is, worker threads of the runner. */
struct host_cpu_set {
    bool any;
    uint64_t bits[HOST_MAX_CPUS / 64];
};

struct host_cpu {
    struct host_share share;
    uint32_t cap; /* of each of the VM's processors, millionths; 0: none */
    struct host_cpu_set set;
};

/* VMs, and other pools, that share what it is entitled to. */
struct host_cpu_pool_config {
    char *name;
    unsigned parent; /* an earlier pool, or HOST_NO_POOL */
    struct host_share share;
};

struct host_vm_config {
    struct run_options run;
    struct host_share mem;
    struct host_cpu cpu;
    const struct config_setting_t *pool; /* that names it; only while the file is read */
    unsigned cpu_pool;                   /* or HOST_NO_POOL */
    char *trust; /* pages are shared with VMs of the same group; NULL: with none */
    bool large;  /* large pages while memory is plenty */
};

struct host_config {
    uint64_t memory; /* for the pages of all VMs, bytes */
    char *control;   /* socket path, or NULL */
    char *swap_dir;  /* folder of the swap files; NULL: no swapping by the host */
    unsigned idle_tax;
    unsigned period_ms;  /* a sample of the working sets */
    unsigned cpus;       /* worker threads; 0: one for each processor */
    unsigned quantum_us; /* 0: the scheduler's default */
    bool no_sandbox, no_sharing, no_compression, verbose;
    struct host_vm_config *vms;
    unsigned vm_count;
    struct host_cpu_pool_config *cpu_pools;
    unsigned cpu_pool_count;
};

/*
 * Read a file. Says what is wrong and where on standard error and returns an exit status; 0 when
 * all is well. memory: a size that overrides the file's, or NULL.
 */
int host_config_load(const char *path, const char *memory, struct host_config *out);
void host_config_free(struct host_config *c);

/* "64M", "2G"; plain numbers are MiB. As --mem of vmcore run. */
bool host_parse_size(const char *text, uint64_t *bytes);

/* "0,2-3", or "all"; and back. */
bool host_parse_cpu_set(const char *text, struct host_cpu_set *out);
void host_print_cpu_set(const struct host_cpu_set *set, char *out, size_t bytes);

#endif
