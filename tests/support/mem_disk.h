/* SPDX-License-Identifier: BSD-2-Clause */
/* A disk in memory whose requests can be held back and made to fail. */
#ifndef MEM_DISK_H
#define MEM_DISK_H

#include <vmcore/io.h>

#define MEM_DISK_HELD 64

struct mem_disk {
    struct vmc_block_info info;
    unsigned char *data;      /* info.bytes */
    bool hold;                /* answer PENDING, finish in mem_disk_finish */
    int fail;                 /* status of every request, 0: really do it */
    /*
     * Direct access: windows are made of pieces of so many bytes, 0: there is none. Bit i of closed:
     * pieces whose number is i modulo 64 are in none.
     */
    uint32_t piece;
    uint64_t closed;
    bool no_writes;           /* by direct access */
    bool opened;
    uint64_t moves, windows;
    void (*moved)(struct mem_disk *d); /* after each move, or NULL */
    struct vmc_block_req *held[MEM_DISK_HELD];
    unsigned held_count;
    uint64_t ops[8];          /* by enum vmc_block_op, those that are done directly, too */
    uint64_t kicks;
    uint64_t last_offset, last_bytes;
    const void *last_base;    /* first piece of the last request */
};

void mem_disk_init(struct mem_disk *d, uint64_t bytes, uint32_t sector_bytes);
void mem_disk_fini(struct mem_disk *d);
struct vmc_blockdev mem_disk_blockdev(struct mem_disk *d);
/* Carry out and complete the oldest held request; false: none. */
bool mem_disk_finish(struct mem_disk *d);

#endif
