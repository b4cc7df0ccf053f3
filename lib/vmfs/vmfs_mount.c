/* SPDX-License-Identifier: BSD-2-Clause */
/* Mounting, unmounting, and what a volume says about itself. */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("mount");

#define OVERLOOK_LOG 100u /* messages; a volume has many entries */

void vmc_vmfs_uuid_text(const struct vmc_vmfs_uuid *u, char *text)
{
    const uint8_t *b = u->b;

    vmci_snprintf(text, VMC_VMFS_UUID_TEXT, "%08x-%08x-%04x-%02x%02x%02x%02x%02x%02x",
                  vmci_ld_le32(b), vmci_ld_le32(b + 4), vmci_ld_le16(b + 8), b[10], b[11], b[12],
                  b[13], b[14], b[15]);
}

static bool uuid_zero(const struct vmc_vmfs_uuid *u)
{
    for (unsigned i = 0; i < sizeof(u->b); i++)
        if (u->b[i] != 0)
            return false;
    return true;
}

/* ---- what a read-only mount can do about a crash
 * ------------------------------------------------- */

/* Sessions that ended in the middle: show what replay would give, without writing it. */
static int overlay_journals(struct vmc_vmfs *v, struct vmc_error *err)
{
    uint8_t hb[FS_PAGE];

    for (uint32_t i = 0; i < v->g.hb_slots; i++) {
        bool ours;
        uint32_t fb;
        int rc = vmci_fs_read(v, vmci_fs_hb_lv(v, i), hb, v->g.hb_bytes, err);
        if (rc != VMC_OK)
            return rc;
        uint64_t gen = vmci_ld_le64(hb + HB_GENERATION);
        if (vmci_ld_le32(hb + HB_STATE) != HB_USED)
            continue;
        rc = vmci_fs_host_record(v, i, gen, &ours, &fb, err);
        if (rc == VMC_OK && ours)
            rc = vmci_fs_journal_replay(v, i, gen, err);
        if (rc != VMC_OK)
            return rc;
    }
    return VMC_OK;
}

void vmci_fs_overlook(struct vmc_vmfs *v, const struct vmc_error *why)
{
    if (v->overlooked++ < OVERLOOK_LOG)
        vmci_log(v->pf, VMC_LOG_WARN, "vmfs", "reading goes on in spite of this: %s", why->text);
    if (v->problem[0] == '\0')
        vmci_snprintf(v->problem, sizeof(v->problem), "%s", why->text);
}

int vmci_fs_doubt(struct vmc_vmfs *v, const struct vmc_error *why, struct vmc_error *err)
{
    if (v->ro) {
        vmci_fs_overlook(v, why);
        return VMC_OK;
    }
    if (err != NULL)
        *err = *why;
    return why->code;
}

/* ---- mount
 * --------------------------------------------------------------------------------------- */

static int read_descriptor(struct vmc_vmfs *v, struct vmc_error *err)
{
    uint8_t buf[FS_PAGE];
    int rc = vmci_fs_read(v, FS_DESC_LV, buf, FS_PAGE, err);

    if (rc != VMC_OK)
        return rc;
    memcpy(v->desc, buf, FS_SECTOR);
    rc = vmci_fs_geometry(&v->g, v->desc, v->g.lv_bytes, err);
    if (rc != VMC_OK)
        return rc;
    memcpy(v->fs_uuid.b, v->desc + FSD_UUID, 16);
    if (memcmp(v->desc + FSD_LVM_UUID, v->lvm_uuid.b, 16) != 0) {
        struct vmc_error why;
        vmci_error(&why, VMC_EFORMAT, site,
                   "the file system's LVM UUID is not the one of the extents: a copy of a "
                   "volume that was not resignatured");
        rc = vmci_fs_doubt(v, &why, err);
        if (rc != VMC_OK)
            return rc;
    }
    for (uint32_t i = 0; i < v->ndevs; i++)
        if (!v->ro && v->dev[i].info.sector_bytes != FS_SECTOR)
            return vmci_error(err, VMC_ENOTSUP, site,
                              "VMFS%u is written on devices of 512-byte sectors, not %u",
                              v->g.version, v->dev[i].info.sector_bytes);
    return VMC_OK;
}

static int take_config(struct vmc_vmfs *v, const struct vmc_vmfs_mount_config *cfg,
                       struct vmc_error *err)
{
    v->flags = cfg->flags;
    v->ro = (cfg->flags & VMC_VMFS_RDONLY) != 0;
    v->exclusive = (cfg->flags & VMC_VMFS_EXCLUSIVE) != 0;
    v->lease_ms = cfg->lease_ms ? cfg->lease_ms : FS_LEASE_MS;
    v->window_ms = cfg->window_ms ? cfg->window_ms : 4000;
    v->beat_ms = cfg->beat_ms ? cfg->beat_ms : 3000;
    v->lock_wait_ms = cfg->lock_wait_ms ? cfg->lock_wait_ms : 2000;
    v->tsc_per_ms = vmci_pf_has(v->pf, tsc_hz) ? v->pf->tsc_hz / 1000 : 0;
    v->sleep_ns = cfg->sleep_ns;
    v->sleep_ctx = cfg->sleep_ctx;
    v->lease_until = v->exclusive || v->ro ? NULL : cfg->lease_until;
    v->lease_ctx = cfg->lease_ctx;
    v->fencing = cfg->fence != NULL && !v->exclusive && !v->ro;
    if (v->fencing)
        v->fence = *cfg->fence;
    v->host_uuid = cfg->host_uuid;
    if (cfg->host_name != NULL)
        vmci_snprintf(v->host_name, sizeof(v->host_name), "%s", cfg->host_name);
    if (uuid_zero(&v->host_uuid) && vmci_pf_has(v->pf, entropy) &&
        v->pf->entropy->fill(v->pf->ctx, v->host_uuid.b, 16) != VMC_OK)
        return vmci_error(err, VMC_EHOST, site, "no randomness for a host UUID");
    if (uuid_zero(&v->host_uuid))
        vmci_st_le64(v->host_uuid.b, vmci_fs_now(v) | 1);
    if (v->beat_ms >= v->lease_ms)
        return vmci_error(err, VMC_EINVAL, site,
                          "heartbeats every %u ms do not keep a lease of %u ms", v->beat_ms,
                          v->lease_ms);
    return VMC_OK;
}

static int alloc_parts(struct vmc_vmfs *v, size_t cache_bytes, struct vmc_error *err)
{
    int rc = vmci_fs_cache_init(v, cache_bytes ? cache_bytes : 16u << 20);

    v->obs = vmci_zalloc(v->pf, FS_HB_SLOTS * sizeof(*v->obs));
    v->gen_at_mount = vmci_zalloc(v->pf, FS_HB_SLOTS * sizeof(*v->gen_at_mount));
    v->unsure = vmci_zalloc(v->pf, FS_HB_SLOTS);
    v->zeros = vmci_alloc_aligned(v->pf, FS_ZERO_BYTES, FS_PAGE);
    if (rc != VMC_OK || v->obs == NULL || v->gen_at_mount == NULL || v->unsure == NULL ||
        v->zeros == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory for a volume");
    memset(v->zeros, 0, FS_ZERO_BYTES);
    return VMC_OK;
}

static void destroy(struct vmc_vmfs *v)
{
    const struct vmc_platform *pf = v->pf;

    vmci_fs_session_over(v);
    if (v->cache.hash != NULL) {
        vmci_fs_unload_system(v);
        vmci_fs_inodes_fini(v);
    }
    vmci_fs_cache_fini(v);
    vmci_free_aligned(pf, v->j.buf, FS_RECORD_MAX, FS_PAGE);
    vmci_free(pf, v->obs, FS_HB_SLOTS * sizeof(*v->obs));
    vmci_free(pf, v->gen_at_mount, FS_HB_SLOTS * sizeof(*v->gen_at_mount));
    vmci_free(pf, v->unsure, FS_HB_SLOTS);
    vmci_free_aligned(pf, v->zeros, FS_ZERO_BYTES, FS_PAGE);
    vmci_free(pf, v->seg, FS_MAX_SEGS * sizeof(*v->seg));
    vmci_lock_fini(&v->beat_lock);
    vmci_lock_fini(&v->lock);
    vmci_free(pf, v, sizeof(*v));
}

static void choose_start(struct vmc_vmfs *v)
{
    struct fs_res *res[] = {&v->fbb, &v->fdc, &v->pbc, &v->sbc, &v->pb2, &v->lfb};

    /* Hosts begin in different places so that they seldom meet in a cluster. */
    for (uint32_t i = 0; i < VMCI_ARRAY_SIZE(res); i++)
        if (res[i]->clusters != 0)
            res[i]->next = (uint32_t)((uint64_t)(v->s.slot % 16) * res[i]->clusters / 16);
}

/*
 * The maps of VMFS6 say things that only its makers know. Volumes that carry our mark have never
 * been written to by others, as far as we can tell, and only these are written to.
 */
static int check_mark(struct vmc_vmfs *v, struct vmc_error *err)
{
    uint8_t b[FS_SECTOR];
    int rc = vmci_fs_read(v, FS6_MARK_LV, b, FS_SECTOR, err);

    if (rc != VMC_OK)
        return rc;
    v->marked = vmci_ld_le64(b) == FS6_MARK &&
                vmci_ld_le64(b + FS6_MARK_SUM) == vmci_hash64(v->fs_uuid.b, 16, FS6_MARK);
    if (v->ro)
        return VMC_OK;
    if (!v->marked)
        return vmci_error(err, VMC_ENOTSUP, site,
                          "this VMFS6 volume was not made by this library: it is only read, as its "
                          "allocation maps "
                          "are not known well enough");
    if (!(v->flags & VMC_VMFS_EXPERIMENTAL))
        return vmci_error(err, VMC_ENOTSUP, site,
                          "writing to VMFS6 is experimental and has to be asked for");
    return VMC_OK;
}

static int mount(struct vmc_vmfs *v, const struct vmc_vmfs_mount_config *cfg, struct vmc_error *err)
{
    int rc = take_config(v, cfg, err);

    if (rc == VMC_OK)
        rc = alloc_parts(v, cfg->cache_bytes, err);
    if (rc == VMC_OK)
        rc = vmci_fs_lvm_open(v, cfg, err);
    if (rc == VMC_OK)
        rc = read_descriptor(v, err);
    if (rc != VMC_OK)
        return rc;
    v->caw = !v->exclusive;
    v->unlocked = true;
    if (vmci_pf_has(v->pf, sync)) {
        v->self = v->pf->sync->self;
        v->unlocked = v->self != NULL && v->pf->sync->fence_all != NULL;
    }
    for (uint32_t i = 0; i < v->ndevs; i++) {
        v->caw = v->caw && v->dev[i].info.can_compare_write;
        v->unlocked = v->unlocked && v->dev[i].info.synchronous;
        if (v->dev[i].info.read_only && !v->ro)
            return vmci_error(err, VMC_EPERM, site, "extent %u cannot be written", i);
    }
    if (v->g.version == 6)
        rc = check_mark(v, err);
    if (rc == VMC_OK && v->ro && (v->g.version != 6 || v->marked))
        rc = overlay_journals(v, err);
    if (rc == VMC_OK)
        rc = vmci_fs_load_system(v, err);
    if (rc == VMC_OK && !v->ro)
        rc = vmci_fs_session_open(v, err);
    if (rc == VMC_OK && !v->ro)
        rc = vmci_fs_journal_open(v, err);
    if (rc == VMC_OK && !v->ro && !v->exclusive)
        rc = vmci_fs_session_agree(v, err);
    if (rc == VMC_OK)
        choose_start(v);
    return rc;
}

int vmc_vmfs_mount(const struct vmc_platform *pf, const struct vmc_vmfs_mount_config *cfg,
                   struct vmc_vmfs **out, struct vmc_error *err)
{
    int rc = vmc_platform_check(pf, err);

    if (rc != VMC_OK)
        return rc;
    if (cfg == NULL || cfg->size != sizeof(*cfg) || cfg->devs == NULL)
        return vmci_error(err, VMC_EINVAL, site, "mount configuration is incomplete");
    struct vmc_vmfs *v = vmci_zalloc(pf, sizeof(*v));
    if (v == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory for a volume");
    v->pf = pf;
    vmci_list_init(&v->files);
    vmci_list_init(&v->ilru);
    rc = vmci_lock_init(&v->lock, pf);
    if (rc == VMC_OK) {
        rc = vmci_lock_init(&v->beat_lock, pf);
        if (rc != VMC_OK)
            vmci_lock_fini(&v->lock);
    }
    if (rc != VMC_OK) {
        vmci_free(pf, v, sizeof(*v));
        return vmci_error(err, rc, site, "no lock for a volume");
    }
    rc = mount(v, cfg, err);
    if (rc != VMC_OK) {
        /* Leave no slot behind; what went wrong first is what is reported. */
        (void)vmci_fs_journal_close(v, NULL);
        (void)vmci_fs_session_close(v, NULL);
        destroy(v);
        return rc;
    }
    *out = v;
    return VMC_OK;
}

int vmc_vmfs_unmount(struct vmc_vmfs *v, struct vmc_error *err)
{
    vmci_lock(&v->lock);
    if (!vmci_list_empty(&v->files)) {
        vmci_unlock(&v->lock);
        return vmci_error(err, VMC_EBUSY, site, "files are open");
    }
    int rc = vmci_fs_journal_close(v, err);
    int rc2 = vmci_fs_session_close(v, rc == VMC_OK ? err : NULL);
    vmci_unlock(&v->lock);
    destroy(v);
    return rc != VMC_OK ? rc : rc2;
}

int vmc_vmfs_sync(struct vmc_vmfs *v, struct vmc_error *err)
{
    return v->ro ? VMC_OK : vmci_fs_flush(v, err);
}

void vmc_vmfs_abandon(struct vmc_vmfs *v)
{
    while (!vmci_list_empty(&v->files)) {
        struct vmc_vmfs_file *f = vmci_list_entry(v->files.next, struct vmc_vmfs_file, link);
        vmci_list_del(&f->link);
        vmci_fs_inode_put(f->ino);
        vmci_free(v->pf, f, sizeof(*f));
    }
    destroy(v);
}

/* ---- about the volume
 * ---------------------------------------------------------------------------- */

void vmc_vmfs_info(struct vmc_vmfs *v, struct vmc_vmfs_info *out)
{
    *out = (struct vmc_vmfs_info){
        .version = v->g.version,
        .major = v->g.major,
        .minor = v->g.minor,
        .extents = v->ndevs,
        .created_s = vmci_ld_le32(v->desc + FSD_CREATED),
        .sub_block_bytes = v->g.sb_bytes,
        .block_bytes = v->g.fb_bytes,
        .total_bytes = v->g.lv_bytes,
        .blocks = v->g.blocks,
        .fs_uuid = v->fs_uuid,
        .lvm_uuid = v->lvm_uuid,
        .host_uuid = v->host_uuid,
        .read_only = v->ro,
        .compare_write = v->caw,
        .partition_offset = v->dev[0].part_off,
    };
    memcpy(out->label, v->desc + FSD_LABEL, FSD_LABEL_BYTES - 1);
}

int vmc_vmfs_space(struct vmc_vmfs *v, struct vmc_vmfs_space *out, struct vmc_error *err)
{
    memset(out, 0, sizeof(*out));
    vmci_lock(&v->lock);
    int rc = vmci_fs_res_space(v, &v->fbb, &out->blocks, err);
    if (rc == VMC_OK)
        rc = vmci_fs_res_space(v, &v->fdc, &out->fds, err);
    if (rc == VMC_OK)
        rc = vmci_fs_res_space(v, &v->sbc, &out->sub_blocks, err);
    if (rc == VMC_OK)
        rc = vmci_fs_res_space(v, &v->pbc, &out->pointer_blocks, err);
    if (rc == VMC_OK && v->pb2.ino != NULL)
        rc = vmci_fs_res_space(v, &v->pb2, &out->pointer_blocks2, err);
    vmci_unlock(&v->lock);
    return rc;
}
