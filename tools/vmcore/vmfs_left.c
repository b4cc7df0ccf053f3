/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a command that was killed left on a volume: a file that never got its name (vmfs_new.c). Its
 * maker held it open, then renamed it, within one session; so it is left over when the session that
 * had its lock last is over. A host that lives, or might, keeps its file.
 */
#define _GNU_SOURCE
#include "json_add.h"
#include "vmfs_tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEARTBEATS 0x300000u /* on the logical volume */
#define DEPTH_MAX  64u

static bool is_temporary(const struct vmc_vmfs_dirent *d)
{
    static const char prefix[] = VT_NEW_PREFIX;
    const char *number = d->name + sizeof(prefix) - 1;

    return d->type == VMC_VMFS_FILE && strncmp(d->name, prefix, sizeof(prefix) - 1) == 0 &&
           strlen(number) == 16 && strspn(number, "0123456789abcdef") == 16;
}

/* Is the session that had the lock last over? One that cannot be told lives. */
static bool is_over(struct vt *t, const char *path)
{
    struct vmc_vmfs_info info;
    struct vmc_vmfs_lock lk;
    struct vmc_vmfs_heartbeat hb;
    uint32_t cookie = 0;
    int rc;

    if (vmc_vmfs_lock_query(t->v, path, &lk, &t->err) != VMC_OK)
        return false;
    vmc_vmfs_info(t->v, &info);
    uint64_t bytes = info.version == 6 ? 4096 : 512;
    while ((rc = vmc_vmfs_heartbeats(t->v, &cookie, &hb, &t->err)) == 1)
        if (hb.in_use && HEARTBEATS + hb.slot * bytes == lk.heartbeat &&
            hb.generation == lk.heartbeat_generation)
            return false;
    return rc == 0;
}

static char *next_left(struct vt *t, const char *dir, uint64_t *cookie, char *sub,
                       struct vmc_vmfs_dirent *d)
{
    while (vmc_vmfs_readdir(t->v, dir, cookie, d, &t->err) == 1) {
        if (strcmp(d->name, ".") == 0 || strcmp(d->name, "..") == 0)
            continue;
        snprintf(sub, VMC_VMFS_PATH_MAX + 256, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, d->name);
        if (d->type == VMC_VMFS_DIR || is_temporary(d))
            return sub;
    }
    return NULL;
}

void vt_left_remove(struct vt *t, const char *dir)
{
    char *sub = malloc(VMC_VMFS_PATH_MAX + 256);
    struct vmc_vmfs_dirent d;
    uint64_t cookie = 0;

    while (sub != NULL && next_left(t, dir, &cookie, sub, &d) != NULL) {
        if (d.type == VMC_VMFS_DIR || !is_over(t, sub))
            continue;
        if (vmc_vmfs_remove(t->v, sub, &t->err) != VMC_OK)
            continue; /* somebody else may have done so */
        cookie = 0;   /* the places of the others are not what they were */
        if (!t->quiet)
            fprintf(stderr, "%s: removed %s, left by a command that was killed\n", t->name,
                    vt_plain(sub));
    }
    free(sub);
}

/* dirs: how many more are looked into. On a damaged volume one can be in itself, more than once. */
static void look(struct vt *t, const char *dir, unsigned depth, uint64_t *dirs,
                 struct json_object *list)
{
    if (*dirs == 0 || depth == DEPTH_MAX)
        return;
    --*dirs;
    char *sub = malloc(VMC_VMFS_PATH_MAX + 256);
    struct vmc_vmfs_dirent d;
    uint64_t cookie = 0;

    while (sub != NULL && next_left(t, dir, &cookie, sub, &d) != NULL) {
        if (d.type == VMC_VMFS_DIR) {
            look(t, sub, depth + 1, dirs, list);
            continue;
        }
        bool over = is_over(t, sub);
        if (list != NULL)
            json_object_array_add(list, json_text(sub));
        else
            printf("%s: left by a command that was killed%s\n", vt_plain(sub),
                   over ? "" : ", or being written by one");
    }
    free(sub);
}

void vt_left_show(struct vt *t, uint64_t dirs, struct json_object *list)
{
    look(t, "/", 0, &dirs, list);
}
