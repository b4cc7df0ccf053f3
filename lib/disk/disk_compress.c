/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Compress, expand, check. A compressed disk NAME.vmdk is a redo log (SE-sparse) over
 * NAME-cold.vmdk, whose extent is packed: reads decompress, writes turn grains back into plain ones
 * in the log, and compressing again gathers both. Every step but the last only makes new files; the
 * last one replaces the descriptor, in one step. What a crash leaves over is removed by the next
 * run.
 */
#include "disk/disk_priv.h"

static const char site[] = SITE("compress");

/* A packed extent of ours under a disk; NULL: the disk is not compressed. */
static struct layer *cold_layer(struct vmc_disk *d)
{
    struct layer *l = &d->layer[d->depth - 1];

    return d->depth == 2 && l->desc.format == VMC_DISK_PACKED && !vmci_disk_parent_elsewhere(d) ? l
                                                                                                : NULL;
}

/* "a.vmdk" and "-cold" give "a-cold.vmdk", or "a-cold2.vmdk" when taken says that this is in use.
 */
static int cold_name(const char *name, const char *taken, char *out, struct vmc_error *err)
{
    int rc = vmci_disk_extent_name(name, "-cold", out, err);

    return rc == VMC_OK && vmci_streq(out, taken) ? vmci_disk_extent_name(name, "-cold2", out, err)
                                                  : rc;
}

static void remove_quietly(const struct vmc_disk_files *files, const char *name)
{
    if (name[0] != '\0')
        (void)files->ops->remove(files->ctx, name, NULL); /* left over, or already gone */
}

/* Open what is to be replaced: alone, without snapshots, and of a kind that can be. */
static int open_whole(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                      const char *name, struct vmc_disk **out, struct vmc_error *err)
{
    struct vmc_disk *d;
    int rc = vmci_disk_no_children(pf, files, name, NULL, err);

    if (rc == VMC_OK)
        rc = vmci_disk_open(pf, files, name, OPEN_WRITE | OPEN_SHARED, &d, err);
    if (rc != VMC_OK)
        return rc;
    struct layer *cold = cold_layer(d);
    if (cold == NULL && (d->depth != 1 || d->layer[0].desc.format != VMC_DISK_FLAT))
        rc = vmci_error(err, VMC_ENOTSUP, site,
                        "%s is neither a flat disk nor a compressed one: clone it, or commit its "
                        "snapshots",
                        name);
    if (rc == VMC_OK && cold != NULL)
        rc = vmci_disk_no_children(pf, files, cold->name, name, err);
    if (rc == VMC_OK)
        *out = d;
    else
        (void)vmc_disk_close(d); /* nothing was written */
    return rc;
}

/* The files that a disk is made of besides its descriptor. */
struct old_files {
    char extent[DISK_NAME], cold[DISK_NAME], packed[DISK_NAME];
};

static void note(struct vmc_disk *d, struct old_files *o)
{
    struct layer *cold = cold_layer(d);

    memset(o, 0, sizeof(*o));
    memcpy(o->extent, d->layer[0].desc.extent, DISK_NAME);
    if (cold != NULL) {
        memcpy(o->cold, cold->name, DISK_NAME);
        memcpy(o->packed, cold->desc.extent, DISK_NAME);
    }
}

static void remove_old(const struct vmc_disk_files *files, const struct old_files *old)
{
    remove_quietly(files, old->extent);
    remove_quietly(files, old->cold);
    remove_quietly(files, old->packed);
}

/*
 * What interruptions left under the name of a packed part; used and used_extent stay. Its
 * descriptor goes last: without it, a log may be that of a disk whose descriptor was lost.
 * VMC_EEXIST: another disk has the name.
 */
static int remove_cold(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                       const char *cold, const char *used, const char *used_extent,
                       struct vmc_error *err)
{
    static const char *const suffix[] = {"-sesparse", "-packed"};
    struct descriptor d;
    char extent[DISK_NAME];

    if (vmci_streq(cold, used))
        return VMC_OK;
    int rc = vmci_disk_desc_read(pf, files, cold, &d, NULL);
    bool there = rc == VMC_OK;
    if ((there && d.format != VMC_DISK_PACKED) || (!there && rc != VMC_ENOENT))
        return vmci_error(err, VMC_EEXIST, site,
                          "%s is another disk, or cannot be read: rename it first", cold);
    rc = there ? vmci_disk_no_children(pf, files, cold, NULL, err) : VMC_OK;
    if (rc != VMC_OK)
        return rc;
    for (unsigned i = there ? 0 : 1; i < 2; i++)
        if (vmci_disk_extent_name(cold, suffix[i], extent, NULL) == VMC_OK &&
            !vmci_streq(extent, used_extent))
            remove_quietly(files, extent);
    if (there)
        remove_quietly(files, cold);
    return VMC_OK;
}

void vmci_disk_remove_leftovers(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                                const char *name, const struct descriptor *d)
{
    struct descriptor below;
    char other[DISK_NAME];

    if (vmci_disk_extent_name(name, "-cold", other, NULL) == VMC_OK)
        (void)remove_cold(pf, files, other, d->parent, d->extent, NULL); /* another disk stays */
    if (vmci_disk_extent_name(name, "-cold2", other, NULL) == VMC_OK)
        (void)remove_cold(pf, files, other, d->parent, d->extent, NULL); /* another disk stays */
    /* A compressed disk has no flat extent any more. */
    if (vmci_disk_is_log(d) && d->parent_path[0] == '\0' &&
        vmci_disk_desc_read(pf, files, d->parent, &below, NULL) == VMC_OK &&
        below.format == VMC_DISK_PACKED &&
        vmci_disk_extent_name(name, "-flat", other, NULL) == VMC_OK)
        remove_quietly(files, other);
}

int vmc_disk_compress(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                      const char *name, const struct vmc_disk_progress *progress,
                      struct vmc_error *err)
{
    struct descriptor cold = {.format = VMC_DISK_PACKED, .parent_cid = UINT32_MAX}, log = {0};
    struct old_files old;
    struct vmc_disk *d;
    int rc = open_whole(pf, files, name, &d, err);

    if (rc != VMC_OK)
        return rc;
    note(d, &old);
    cold.sectors = d->layer[0].desc.sectors;
    cold.cid = vmci_disk_new_cid(pf);
    log = (struct descriptor){.sectors = cold.sectors,
                              .cid = cold.cid,
                              .parent_cid = cold.cid,
                              .format = VMC_DISK_SESPARSE};
    rc = cold_name(name, old.cold, log.parent, err);
    if (rc == VMC_OK)
        rc = vmci_disk_extent_name(log.parent, "-packed", cold.extent, err);
    if (rc == VMC_OK)
        rc = vmci_disk_extent_name(log.parent, "-sesparse", log.extent, err);
    if (rc == VMC_OK)
        rc = remove_cold(pf, files, log.parent, old.cold, old.extent, err);
    bool begun = rc == VMC_OK;
    if (rc == VMC_OK)
        rc = vmci_disk_packed_make(d, files, cold.extent, progress, err);
    if (rc == VMC_OK)
        rc = vmci_disk_desc_write(pf, files, log.parent, &cold, false, err);
    if (rc == VMC_OK)
        rc = vmci_disk_make_log(pf, files, log.extent, &log, err);
    if (rc == VMC_OK)
        rc = vmci_disk_desc_write(pf, files, name, &log, true, err);
    int rc2 = vmc_disk_close(d);
    if (rc != VMC_OK) {
        if (begun) /* already failing */
            (void)remove_cold(pf, files, log.parent, old.cold, old.extent, NULL);
        return rc;
    }
    remove_old(files, &old);
    return rc2;
}

int vmc_disk_expand(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                    const char *name, const struct vmc_disk_progress *progress,
                    struct vmc_error *err)
{
    struct descriptor flat = {.format = VMC_DISK_FLAT, .parent_cid = UINT32_MAX, .thin = true};
    struct old_files old;
    struct vmc_disk *d;
    void *file;
    int rc = open_whole(pf, files, name, &d, err);

    if (rc != VMC_OK)
        return rc;
    if (cold_layer(d) == NULL) {
        (void)vmc_disk_close(d); /* nothing was written */
        return vmci_error(err, VMC_EINVAL, site, "%s is not compressed", name);
    }
    note(d, &old);
    flat.sectors = d->layer[0].desc.sectors;
    flat.cid = vmci_disk_new_cid(pf);
    rc = vmci_disk_extent_name(name, "-flat", flat.extent, err);
    if (rc == VMC_OK) {
        remove_quietly(files, flat.extent);
        rc = files->ops->create(files->ctx, flat.extent, &file, err);
    }
    if (rc == VMC_OK) {
        rc = files->ops->resize(files->ctx, file, d->bytes);
        if (rc == VMC_OK)
            rc = vmci_disk_copy_out(d, files, file, progress);
        int rc2 = files->ops->close(files->ctx, file);
        rc = rc != VMC_OK ? rc : rc2;
        if (rc != VMC_OK)
            vmci_error(err, rc, site, "%s cannot be expanded: %s", name, vmc_strerror(rc));
    }
    if (rc == VMC_OK)
        rc = vmci_disk_desc_write(pf, files, name, &flat, true, err);
    int rc2 = vmc_disk_close(d);
    if (rc != VMC_OK) {
        remove_quietly(files, flat.extent);
        return rc;
    }
    remove_old(files, &old);
    return rc2;
}

int vmc_disk_check(struct vmc_disk *d, uint64_t *bad, const struct vmc_disk_progress *progress)
{
    int rc = VMC_OK;

    *bad = 0;
    vmci_lock(&d->lock);
    for (uint32_t i = 0; i < d->depth && rc == VMC_OK; i++) {
        struct layer *l = &d->layer[i];
        if (l->desc.format == VMC_DISK_PACKED)
            rc = vmci_disk_packed_check(d, l, bad, progress);
        else if (vmci_disk_is_log(&l->desc))
            rc = vmci_disk_log_check(d, l, bad);
    }
    vmci_unlock(&d->lock);
    return rc;
}
