/* SPDX-License-Identifier: BSD-2-Clause */
/* "vmcore vmfs bench": rates of metadata operations and of I/O on a volume. */
#define _GNU_SOURCE
#include "vmfs_tool.h"

#include <stdlib.h>
#include <string.h>

#define SPAN  (64u << 20)
#define FILES 1000u

static void result(struct vt *t, struct json_object *o, const char *name, double value,
                   const char *unit)
{
    if (t->json)
        json_object_object_add(o, name, json_object_new_double(value));
    else
        printf("%-22s %12.1f %s\n", name, value, unit);
}

static int files(struct vt *t, struct json_object *o, double seconds)
{
    struct vmc_vmfs_space space;
    char path[64];
    unsigned n = 0;
    int rc = 0;

    if (vmc_vmfs_space(t->v, &space, &t->err) != VMC_OK)
        return vt_fail(t, NULL);
    /* Half of what is free: others may want some too, and one is needed for the I/O. */
    uint64_t most = space.fds.free / 2 < FILES ? space.fds.free / 2 : FILES;
    double start = vt_now(), end = start + seconds;
    for (; vt_now() < end && n < most && rc == 0; n++) {
        snprintf(path, sizeof(path), "/.bench/%u", n);
        if (vmc_vmfs_create(t->v, path, 0600, &t->err) != VMC_OK)
            rc = vt_fail(t, path);
    }
    result(t, o, "create", n / (vt_now() - start), "files/s");
    start = vt_now();
    for (unsigned i = 0; i < n; i++) {
        snprintf(path, sizeof(path), "/.bench/%u", i);
        if (vmc_vmfs_remove(t->v, path, &t->err) != VMC_OK && rc == 0)
            rc = vt_fail(t, path);
    }
    result(t, o, "remove", n / (vt_now() - start), "files/s");
    return rc;
}

static int io(struct vt *t, struct json_object *o, double seconds)
{
    struct vmc_vmfs_file *f;
    char *buf = aligned_alloc(4096, 1 << 20);
    int rc = 0;

    if (buf == NULL || vmc_vmfs_open(t->v, "/.bench/data", VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f,
                                     &t->err) != VMC_OK) {
        free(buf);
        return vt_fail(t, "/.bench/data");
    }
    memset(buf, 0x5a, 1 << 20);
    double start = vt_now();
    for (uint64_t at = 0; at < SPAN && rc == 0; at += 1 << 20)
        if (vmc_vmfs_pwrite(f, buf, 1 << 20, at, &t->err) < 0)
            rc = vt_fail(t, "write");
    result(t, o, "sequential_write", SPAN / 1048576.0 / (vt_now() - start), "MiB/s");
    for (unsigned w = 0; w < 2 && rc == 0; w++) {
        uint64_t n = 0;
        double end = (start = vt_now()) + seconds;
        for (; rc == 0 && (n % 64 != 0 || vt_now() < end); n++) {
            uint64_t at = (n * 2654435761u) % (SPAN / 4096) * 4096;
            int64_t got = w ? vmc_vmfs_pwrite(f, buf, 4096, at, &t->err)
                            : vmc_vmfs_pread(f, buf, 4096, at, &t->err);
            if (got < 0)
                rc = vt_fail(t, "I/O");
        }
        result(t, o, w ? "random_write_4k" : "random_read_4k", (double)n / (vt_now() - start),
               "IOPS");
    }
    free(buf);
    if (vmc_vmfs_close(f, &t->err) != VMC_OK)
        rc = vt_fail(t, "/.bench/data");
    return rc;
}

int vt_bench(struct vt *t)
{
    double seconds = t->seconds > 0 ? t->seconds : 1;
    int rc = vt_mount(t, t->arg[0], 0);

    if (rc != 0)
        return rc;
    struct json_object *o = json_object_new_object();
    if (vmc_vmfs_mkdir(t->v, "/.bench", 0700, &t->err) != VMC_OK) {
        rc = vt_fail(t, "/.bench");
    } else {
        rc = files(t, o, seconds);
        if (rc == 0)
            rc = io(t, o, seconds);
        /* Also what a failure leaves. */
        int gone = vmc_vmfs_remove(t->v, "/.bench/data", &t->err);
        if ((gone != VMC_OK && gone != VMC_ENOENT) ||
            vmc_vmfs_remove(t->v, "/.bench", &t->err) != VMC_OK)
            rc = vt_fail(t, "/.bench");
    }
    if (t->json)
        vt_json(o);
    else
        json_object_put(o);
    return vt_close(t, rc);
}
