/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A model of what a VMFS volume should hold, and random operations that are done to both. Hosts
 * share one disk; operations come one at a time, so that the model always knows the right answer.
 * An operation that was cut short leaves the model uncertain about the files it was about;
 * model_resync() checks that the volume shows one of the allowed states and takes it over.
 */
#ifndef VMFS_MODEL_H
#define VMFS_MODEL_H

#include <vmcore/vmfs.h>
#include "test_disk.h"
#include "test_platform.h"

#define MODEL_NODES 48
#define MODEL_HOSTS 4
#define MODEL_DISKS 4
#define MODEL_PIECES 64

/* Bytes offset .. offset + bytes, made from seed. What no piece covers is zero. */
struct model_piece {
    uint64_t offset, bytes;
    uint64_t seed;
};

struct model_node {
    bool used, dir, link;
    int parent; /* index, or -1: root */
    unsigned name;
    uint64_t length;
    uint32_t mode;
    unsigned pieces;
    unsigned reserved; /* blocks allocated in advance, at most */
    struct model_piece piece[MODEL_PIECES];
    char target[64];
};

enum model_op { MODEL_NONE, MODEL_MAKE, MODEL_REMOVE, MODEL_RENAME, MODEL_DATA };

struct model {
    uint64_t rng;
    struct model_node node[MODEL_NODES];
    /* the operation under way, for when it is cut */
    enum model_op op;
    int a, b;
    uint64_t from, to; /* range of a data operation */
    struct model_node old_a, old_b;
    uint64_t steps;
};

struct model_host {
    struct vmc_vmfs *v; /* NULL: not mounted */
    struct test_path path[MODEL_DISKS];
    struct vmc_blockdev bd[MODEL_DISKS];
    struct vmc_vmfs_file *open; /* a handle kept over several steps */
    int open_node;
    bool waiting; /* inside a call of its own */
};

struct model_env {
    struct test_platform tp;
    struct test_disk disk[MODEL_DISKS];
    uint32_t disks, version;
    struct model_host host[MODEL_HOSTS];
    uint32_t hosts;
    struct vmc_error err;
    uint64_t busy_waits;
    bool durable; /* fsync after every data operation */
    bool small;   /* few large files */
};

void model_env_init(struct model_env *e, uint32_t disks, uint64_t bytes, uint32_t version,
                    uint32_t block_mib, uint32_t hosts);
void model_env_fini(struct model_env *e);
void model_init(struct model *m, uint64_t seed);
void model_mount(struct model_env *e, uint32_t host);
void model_unmount(struct model_env *e, struct model *m, uint32_t host);
/* One random operation by a host. False: it failed because the host was cut off or fenced. */
bool model_step(struct model_env *e, uint32_t host, struct model *m);
/* The host is gone: nothing more is written by it. */
void model_kill(struct model_env *e, uint32_t host);
void model_resync(struct model_env *e, uint32_t host, struct model *m);
/* Everything the volume shows is what the model has. */
void model_compare(struct model_env *e, uint32_t host, struct model *m);
/* A clean bill from the checker, on a read-only mount. */
void model_fsck(struct model_env *e);
void model_ok(struct model_env *e, int rc);

#endif
