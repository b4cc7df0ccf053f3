/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A sparse disk in memory, shared by any number of block devices ("hosts' paths" to it). It
 * remembers what was written since the last flush, so that a power cut can lose, tear and reorder
 * those writes; it can stop serving a path after a number of writes, or let one fail. A flush can fail, as a kernel's
 * does: what it was for is shown as written, will never be on the medium, and the next flush succeeds.
 */
#ifndef TEST_DISK_H
#define TEST_DISK_H

#include <vmcore/io.h>

struct test_disk_write {
    uint64_t offset;
    uint32_t bytes;
    unsigned char *before, *after;
};

struct test_disk {
    unsigned char *data;
    uint64_t bytes;
    bool track; /* remember unflushed writes */
    bool no_caw, can_discard, can_zero;
    struct test_disk_write *log;
    size_t log_count, log_cap;
    struct test_disk_write *lost; /* sectors of flushes that failed; before: what the medium has */
    size_t lost_count, lost_cap;
    uint64_t writes, reads, flushes;
};

/* One host's path to a disk. */
struct test_path {
    struct test_disk *disk;
    uint64_t cut_after; /* writes until the path fails; UINT64_MAX: never */
    bool cut;
    bool torn; /* the last write before the cut is done in part */
    uint32_t fail_flush; /* the so-and-so-many-th flush from now fails; 0: none */
    bool flush_failed;
    uint32_t fail_write; /* the same of writes; compare-and-writes do not count */
    uint32_t fail_fate;  /* what of the failed one is there all the same: 0 nothing, 1 half, 2 all */
    uint32_t seed;
    struct vmc_blockdev bd;
};

void test_disk_init(struct test_disk *d, uint64_t bytes);
void test_disk_fini(struct test_disk *d);
void test_path_init(struct test_path *p, struct test_disk *d);
/*
 * Power cut: of the sectors written since the last flush, each write survives whole, in part or
 * not at all, as the seed says; seed 0: none does; 1: all do.
 */
void test_disk_power_cut(struct test_disk *d, uint64_t seed);
uint32_t test_rand(uint64_t *state);

#endif
