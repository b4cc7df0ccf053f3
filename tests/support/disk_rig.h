/* SPDX-License-Identifier: BSD-2-Clause */
/* A platform and a folder of files in memory, for tests of VM disks. */
#ifndef DISK_RIG_H
#define DISK_RIG_H

#include <vmcore/disk.h>
#include "mem_files.h"
#include "test_platform.h"

#include <cmocka.h>

struct env {
    struct test_platform tp;
    struct mem_files mem;
    struct vmc_disk_files files;
    struct vmc_error err;
};

static inline void env_init(struct env *e)
{
    memset(e, 0, sizeof(*e));
    test_platform_init(&e->tp);
    e->files = mem_files_ops(&e->mem);
}

static inline void env_fini(struct env *e)
{
    mem_files_fini(&e->mem);
    test_platform_check(&e->tp);
}

static inline void ok(struct env *e, int rc)
{
    if (rc != VMC_OK)
        fail_msg("%s: %s", vmc_status_name(rc), e->err.text);
}

#endif
