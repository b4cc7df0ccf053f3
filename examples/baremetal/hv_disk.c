/* SPDX-License-Identifier: BSD-2-Clause */
/* What a guest's disk may be: one of the machine, a file of a volume, or a copy of a boot module.
 */
#include "hv.h"

#define SECTOR 512u

struct hv_ramdisk {
    uint8_t *data;
    uint64_t bytes;
};

static int ram_info(void *ctx, struct vmc_block_info *out)
{
    struct hv_ramdisk *d = ctx;

    *out = (struct vmc_block_info){
        .bytes = d->bytes, .sector_bytes = SECTOR, .can_write_zeroes = true};
    return VMC_OK;
}

static void copy(struct hv_ramdisk *d, const struct vmc_block_req *req)
{
    uint8_t *at = d->data + req->offset;

    for (uint32_t i = 0; i < req->iov_count; i++) {
        if (req->op == VMC_BLOCK_READ)
            memcpy(req->iov[i].base, at, req->iov[i].bytes);
        else
            memcpy(at, req->iov[i].base, req->iov[i].bytes);
        at += req->iov[i].bytes;
    }
}

static int ram_submit(void *ctx, struct vmc_block_req *req)
{
    struct hv_ramdisk *d = ctx;

    req->status = VMC_OK;
    if (req->op == VMC_BLOCK_FLUSH || req->op == VMC_BLOCK_DISCARD)
        return VMC_BLOCK_COMPLETE;
    if (req->offset > d->bytes || req->bytes > d->bytes - req->offset)
        req->status = VMC_ERANGE;
    else if (req->op == VMC_BLOCK_WRITE_ZEROES)
        memset(d->data + req->offset, 0, req->bytes);
    else if (req->op == VMC_BLOCK_READ || req->op == VMC_BLOCK_WRITE)
        copy(d, req);
    else
        req->status = VMC_ENOTSUP;
    return VMC_BLOCK_COMPLETE;
}

static const struct vmc_blockdev_ops ram_ops = {.info = ram_info, .submit = ram_submit};

static int open_module(struct hv_guest *g, uint32_t i, const struct vmc_bm_module *m,
                       struct vmc_blockdev *out)
{
    struct hv_ramdisk *d = g->pf->alloc(g->pf->ctx, sizeof(*d), 16);

    if (d == NULL)
        return VMC_ENOMEM;
    d->bytes = ((uint64_t)m->bytes + SECTOR - 1) & ~(uint64_t)(SECTOR - 1);
    d->data = g->pf->alloc(g->pf->ctx, d->bytes, VMC_PAGE_SIZE);
    if (d->data == NULL) {
        g->pf->free(g->pf->ctx, d, sizeof(*d), 16);
        return VMC_ENOMEM;
    }
    memcpy(d->data, m->data, m->bytes);
    memset(d->data + m->bytes, 0, d->bytes - m->bytes);
    g->ramdisk[i] = d;
    *out = (struct vmc_blockdev){.ops = &ram_ops, .ctx = d};
    return VMC_OK;
}

/* Two guests that write one disk would destroy it. */
static bool taken(const struct hv_guest *g, const char *name, bool read_only)
{
    for (uint32_t i = 0; i < hv_config.guests; i++) {
        const struct hv_guest *o = &hv_guests[i];
        for (uint32_t k = 0; o != g && o->state != HV_OFF && k < o->cfg->disks; k++) {
            const char *n = o->cfg->disk[k];
            bool ro = memcmp(n, "ro:", 3) == 0;
            if (hv_streq(ro ? n + 3 : n, name) && !(ro && read_only))
                return true;
        }
    }
    return false;
}

int hv_disk_open(struct hv_guest *g, uint32_t i, struct vmc_blockdev *out, bool *read_only)
{
    const char *name = g->cfg->disk[i];
    const struct vmc_bm_disk *d;

    *read_only = memcmp(name, "ro:", 3) == 0;
    if (*read_only)
        name += 3;
    if (hv_on_volume(name))
        return hv_vmdk_open(g, i, name, *read_only, out);
    for (uint32_t k = 0; (d = vmc_bm_disk(k)) != NULL; k++)
        if (hv_streq(d->name, name)) {
            if (taken(g, name, *read_only)) {
                hv_print("%s: disk %s is in use by another guest\n", g->cfg->name, name);
                return VMC_EBUSY;
            }
            if (hv_volume_on_disk(k) != NULL && !*read_only) {
                hv_print("%s: disk %s is in use: it holds volume %s\n", g->cfg->name, name,
                         hv_volume_on_disk(k));
                return VMC_EBUSY;
            }
            *out = d->dev;
            return VMC_OK;
        }
    const struct vmc_bm_module *m = hv_module(name);
    if (m != NULL)
        return open_module(g, i, m, out);
    hv_print("%s: there is no disk and no module '%s'\n", g->cfg->name, name);
    return VMC_ENOENT;
}

void hv_disks_close(struct hv_guest *g)
{
    for (uint32_t i = 0; i < HV_MAX_DISKS; i++) {
        struct hv_ramdisk *d = g->ramdisk[i];
        hv_vmdk_close(g, i);
        if (d == NULL)
            continue;
        g->pf->free(g->pf->ctx, d->data, d->bytes, VMC_PAGE_SIZE);
        g->pf->free(g->pf->ctx, d, sizeof(*d), 16);
        g->ramdisk[i] = NULL;
    }
}
