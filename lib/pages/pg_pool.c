/* SPDX-License-Identifier: BSD-2-Clause */
/* The pool as a whole. */
#include "pages/pages_int.h"

#define SITE          "pages/pool"
#define SCRATCH_BYTES (3 * VMC_PAGE_SIZE)

static size_t obj_dir_bytes(const struct vmc_pool *p)
{
    return ((size_t)p->obj_limit / VMCI_OBJ_CHUNK + 1) * sizeof(p->obj[0]);
}

static size_t owner_bytes(const struct vmc_pool *p)
{
    return (size_t)p->page_chunks * sizeof(p->chunk_owner[0]);
}

static int check(const struct vmc_platform *pf, const struct vmc_pool_config *cfg,
                 struct vmc_error *err)
{
    int rc = vmc_platform_check(pf, err);

    if (rc != VMC_OK)
        return rc;
    if (cfg->size != sizeof(*cfg) || cfg->flags != 0)
        return vmci_error(err, VMC_EINVAL, SITE, "size %u or flags 0x%x", cfg->size, cfg->flags);
    if (cfg->frames < 16 || cfg->frames > VMC_POOL_MAX_FRAMES ||
        cfg->max_pages > VMC_POOL_MAX_PAGES)
        return vmci_error(err, VMC_ELIMIT, SITE, "%llu frames for %llu pages, not 16 to %u for %u",
                          (unsigned long long)cfg->frames, (unsigned long long)cfg->max_pages,
                          VMC_POOL_MAX_FRAMES, VMC_POOL_MAX_PAGES);
    if ((uintptr_t)cfg->base % VMC_PAGE_SIZE != 0)
        return vmci_error(err, VMC_EINVAL, SITE, "base is not aligned to pages");
    return VMC_OK;
}

static int fill(struct vmc_pool *p, const struct vmc_pool_config *cfg)
{
    uint64_t pages =
        cfg->max_pages != 0 ? cfg->max_pages : VMCI_MIN(8 * cfg->frames, VMC_POOL_MAX_PAGES);
    p->frames = p->budget = cfg->frames;
    p->discard = cfg->discard;
    p->discard_ctx = cfg->ctx;
    p->page_chunks = (uint32_t)((pages + VMCI_SPACE_CHUNK - 1) / VMCI_SPACE_CHUNK) + 1;
    /* Pages, whose contents may be deltas to objects that no page refers to any more. */
    p->obj_limit = (uint32_t)VMCI_MIN(2 * pages, (uint64_t)VMCI_E_MASK - VMCI_OBJ_CHUNK);
    p->obj_free = VMCI_NONE;
    p->hash = vmci_page_hash_best();
    p->base = cfg->base;
    if (p->base == NULL) {
        p->base = vmci_alloc_aligned(p->pf, p->frames * VMC_PAGE_SIZE, VMC_PAGE_SIZE);
        p->own_base = true;
    }
    p->obj = vmci_zalloc(p->pf, obj_dir_bytes(p));
    p->chunk_owner = vmci_zalloc(p->pf, owner_bytes(p));
    p->scratch = vmci_alloc_aligned(p->pf, SCRATCH_BYTES, VMC_PAGE_SIZE);
    if (p->base == NULL || p->obj == NULL || p->chunk_owner == NULL || p->scratch == NULL)
        return VMC_ENOMEM;
    vmci_pool_meta(p, (int64_t)(sizeof(*p) + obj_dir_bytes(p) + owner_bytes(p) + SCRATCH_BYTES));
    int rc = vmci_frames_init(p);
    if (rc == VMC_OK)
        rc = vmci_store_init(p);
    if (rc == VMC_OK)
        rc = vmci_unpacker_create(p->pf, &p->unpacker, NULL);
    if (rc == VMC_OK)
        vmci_pool_meta(p, (int64_t)vmci_unpacker_bytes(p->unpacker));
    return rc;
}

int vmc_pool_create(const struct vmc_platform *pf, const struct vmc_pool_config *cfg,
                    struct vmc_pool **out, struct vmc_error *err)
{
    int rc = check(pf, cfg, err);

    if (rc != VMC_OK)
        return rc;
    struct vmc_pool *p = vmci_zalloc(pf, sizeof(*p));
    if (p == NULL)
        return vmci_error(err, VMC_ENOMEM, SITE, "no memory for a pool");
    p->pf = pf;
    if (vmci_lock_init(&p->lock, pf) != VMC_OK) {
        vmci_free(pf, p, sizeof(*p));
        return vmci_error(err, VMC_ENOMEM, SITE, "cannot create a lock");
    }
    if (vmci_lock_init(&p->unpack_lock, pf) != VMC_OK) {
        vmci_lock_fini(&p->lock);
        vmci_free(pf, p, sizeof(*p));
        return vmci_error(err, VMC_ENOMEM, SITE, "cannot create a lock");
    }
    rc = fill(p, cfg);
    if (rc != VMC_OK) {
        vmc_pool_destroy(p);
        return vmci_error(err, rc, SITE, "no memory for a pool of %llu frames",
                          (unsigned long long)cfg->frames);
    }
    *out = p;
    return VMC_OK;
}

void vmc_pool_destroy(struct vmc_pool *p)
{
    if (p == NULL)
        return;
    const struct vmc_platform *pf = p->pf;
    vmci_unpacker_destroy(p->unpacker);
    vmci_store_fini(p);
    vmci_frames_fini(p);
    for (uint32_t i = 0; i < p->obj_chunks; i++)
        vmci_free(pf, p->obj[i], VMCI_OBJ_CHUNK * sizeof(struct vmci_object));
    vmci_free(pf, p->obj, obj_dir_bytes(p));
    vmci_free(pf, p->chunk_owner, owner_bytes(p));
    vmci_free_aligned(pf, p->scratch, SCRATCH_BYTES, VMC_PAGE_SIZE);
    if (p->own_base)
        vmci_free_aligned(pf, p->base, p->frames * VMC_PAGE_SIZE, VMC_PAGE_SIZE);
    vmci_lock_fini(&p->lock);
    vmci_lock_fini(&p->unpack_lock);
    vmci_free(pf, p, sizeof(*p));
}

void vmc_pool_stats(struct vmc_pool *p, struct vmc_pool_stats *out)
{
    vmci_lock(&p->unpack_lock);
    vmci_lock(&p->lock);
    *out = (struct vmc_pool_stats){
        .frames = vmci_load_relaxed(&p->budget),
        .free = vmc_pool_free(p),
        .object_frames = p->objects - p->packed - p->deltas,
        .store_frames = p->store.frames,
        .limbo_frames = vmci_load_relaxed(&p->limbo),
        .objects = p->objects,
        .packed_objects = p->packed,
        .delta_objects = p->deltas,
        .packed_bytes = p->store.payload,
        .meta_bytes = vmci_load_relaxed(&p->meta_bytes),
        .discarded = p->discarded,
        .unpacks = p->unpacks,
        .unpack_bad = p->unpack_bad,
    };
    out->private_frames = p->used - 1 - out->object_frames - out->store_frames - out->limbo_frames;
    vmci_unlock(&p->lock);
    vmci_unlock(&p->unpack_lock);
}

struct vmc_space *vmci_space_of(struct vmc_pool *p, uint32_t global, uint64_t *page)
{
    uint32_t chunk = global / VMCI_SPACE_CHUNK;

    if (chunk >= p->page_chunks || p->chunk_owner[chunk] == 0)
        return NULL;
    struct vmc_space *s = p->space[p->chunk_owner[chunk] - 1];
    *page = global - s->first;
    return *page < s->pages ? s : NULL;
}
