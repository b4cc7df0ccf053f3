/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The files of VM disks, in memory. Names are durable at once, as on a journaled file system;
 * contents are durable after a flush, and a power cut loses any sectors of what came later.
 */
#ifndef MEM_FILES_H
#define MEM_FILES_H

#include <vmcore/disk.h>

#define MEM_FILES 32

struct mem_file {
    char name[64];
    unsigned char *data, *durable; /* durable: what a power cut leaves, but for sectors since */
    uint64_t bytes, durable_bytes;
    bool used;
};
struct mem_files {
    struct mem_file file[MEM_FILES];
    uint64_t limit;     /* bytes of one file; 0: no limit */
    unsigned no_space;  /* so many of the next writes find none */
    int flush_status;   /* of the next flush, if not VMC_OK */
    bool no_power_cuts; /* nothing is remembered for them */
};

struct vmc_disk_files mem_files_ops(struct mem_files *m);
/* NULL: no such file. */
struct mem_file *mem_files_find(struct mem_files *m, const char *name);
/* Of what was written since the flush of each file, any sectors may have arrived. */
void mem_files_power_cut(struct mem_files *m, uint64_t *rng);
void mem_files_copy(struct mem_files *to, const struct mem_files *from);
void mem_files_fini(struct mem_files *m);

#endif
