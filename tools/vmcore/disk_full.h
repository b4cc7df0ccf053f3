/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A disk whose writes wait while there is no space for them: the guest sees a slow disk instead of an
 * error, and goes on when somebody has made room.
 */
#ifndef DISK_FULL_H
#define DISK_FULL_H

#include <stdbool.h>

#include <vmcore/disk.h>

struct disk_full;

/*
 * name: begins its messages. flushes: one that found no space can be tried again, as with the tables of a
 * redo log; the host's own fsync forgets what it could not write. NULL: no memory, or no thread.
 */
struct disk_full *disk_full_create(const char *name, struct vmc_blockdev below, bool flushes);
/* Is it one whose flushes can be tried again? disk: or NULL, a file or device of the host. */
bool disk_full_flushes(const struct vmc_disk *disk);
struct vmc_blockdev disk_full_blockdev(struct disk_full *d);
/* true: nothing waits from now on, what waits fails soon. false: as in the beginning. */
void disk_full_fail(struct disk_full *d, bool fail);
/*
 * For each look for space: while wanted says no, what waits fails. A driver that resets its device
 * waits for all that is in flight, and wants nothing of it. On a thread of its own, with no lock held.
 */
void disk_full_watch(struct disk_full *d, bool (*wanted)(void *ctx), void *ctx);
/* Does a write wait for space, or is one tried again? */
bool disk_full_waits(struct disk_full *d);
/* Nothing is in flight. NULL is allowed. */
void disk_full_free(struct disk_full *d);

#endif
