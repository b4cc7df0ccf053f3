/* SPDX-License-Identifier: BSD-2-Clause */
/* Objects: contents that one or many pages refer to, in a frame or compressed. */
#include "pages/pages_int.h"

/* Parts of the scratch memory. */
static unsigned char *ref_page(const struct vmc_pool *p)
{
    return p->scratch;
}
static unsigned char *packed(const struct vmc_pool *p)
{
    return p->scratch + VMC_PAGE_SIZE;
}
static unsigned char *packed_ref(const struct vmc_pool *p)
{
    return p->scratch + 2 * VMC_PAGE_SIZE;
}

static bool grow(struct vmc_pool *p)
{
    struct vmci_object *chunk;
    size_t bytes = VMCI_OBJ_CHUNK * sizeof(*chunk);

    if (p->obj_count >= p->obj_limit)
        return false;
    chunk = vmci_zalloc(p->pf, bytes);
    if (chunk == NULL)
        return false;
    vmci_pool_meta(p, (int64_t)bytes);
    for (uint32_t i = 0; i < VMCI_OBJ_CHUNK; i++)
        chunk[i].where = i + 1 < VMCI_OBJ_CHUNK ? p->obj_count + i + 1 : p->obj_free;
    vmci_store_release(&p->obj[p->obj_chunks], chunk);
    p->obj_free = p->obj_count;
    p->obj_chunks++;
    p->obj_count += VMCI_OBJ_CHUNK;
    return true;
}

uint32_t vmci_object_new(struct vmc_pool *p, uint32_t frame, uint32_t mark)
{
    if (p->obj_free == VMCI_NONE && !grow(p))
        return VMCI_NONE;
    uint32_t id = p->obj_free;
    struct vmci_object *o = vmci_object(p, id);
    p->obj_free = o->where;
    *o = (struct vmci_object){.where = frame,
                              .refs = 1,
                              .base = mark,
                              .kind = VMCI_O_RESIDENT,
                              .stamp = vmci_load_relaxed(&p->cycle)};
    p->objects++;
    return id;
}

/* Free the compressed contents; what it is a difference to loses a reference. */
static uint32_t drop_packed(struct vmc_pool *p, struct vmci_object *o)
{
    uint32_t base = o->kind == VMCI_O_DELTA ? o->base : VMCI_NONE;

    vmci_store_drop(p, o->where, o->bytes);
    if (base != VMCI_NONE) {
        p->deltas--;
        o->base = VMCI_NONE;
    } else {
        p->packed--;
    }
    return base;
}

bool vmci_object_cold(const struct vmc_pool *p, const struct vmci_object *o)
{
    uint8_t age = (uint8_t)(vmci_load_relaxed(&p->cycle) - vmci_load_relaxed(&o->stamp));
    return age >= 3;
}

/*
 * A vCPU that reads the object sets the stamp and then looks at the kind, without a lock; here the
 * kind is changed first, then the stamp is looked at. One of the two sees the other.
 */
int vmci_object_pack(struct vmc_pool *p, uint32_t id, const void *data, uint16_t bytes,
                     uint32_t base)
{
    struct vmci_object *o = vmci_object(p, id);
    uint32_t frame = o->where, slot;
    uint8_t kind = base != VMCI_NONE ? VMCI_O_DELTA : VMCI_O_PACKED;
    int rc = vmci_store_put(p, id, data, bytes, &slot);

    if (rc != VMC_OK)
        return rc;
    vmci_store_release(&o->kind, kind);
    vmci_fence_seq();
    if (!vmci_object_cold(p, o)) {
        vmci_store_release(&o->kind, (uint8_t)VMCI_O_RESIDENT);
        vmci_store_drop(p, slot, bytes);
        return VMC_EBUSY;
    }
    if (base != VMCI_NONE) {
        vmci_object(p, base)->refs++;
        p->deltas++;
        o->base = base;
    } else {
        p->packed++;
    }
    o->bytes = bytes;
    o->where = slot;
    vmci_frame_free_locked(p, frame);
    return VMC_OK;
}

void vmci_object_unpack(struct vmc_pool *p, uint32_t id, uint32_t frame)
{
    struct vmci_object *o = vmci_object(p, id);
    uint32_t base = drop_packed(p, o);

    o->where = frame;
    vmci_store_relaxed(&o->stamp, vmci_load_relaxed(&p->cycle));
    vmci_store_release(&o->kind, (uint8_t)VMCI_O_RESIDENT);
    if (base != VMCI_NONE)
        vmci_object_put(p, base);
}

static void forget(struct vmc_pool *p, uint32_t id)
{
    struct vmci_object *o = vmci_object(p, id);

    vmci_store_release(&o->kind, (uint8_t)VMCI_O_FREE);
    o->where = p->obj_free;
    p->obj_free = id;
    p->objects--;
}

uint32_t vmci_object_steal(struct vmc_pool *p, uint32_t id)
{
    uint32_t frame = vmci_object(p, id)->where;

    forget(p, id);
    return frame;
}

void vmci_object_put(struct vmc_pool *p, uint32_t id)
{
    /* A delta's base is never a delta: at most two turns. */
    while (id != VMCI_NONE) {
        struct vmci_object *o = vmci_object(p, id);
        uint32_t base = VMCI_NONE;
        if (--o->refs != 0)
            return;
        if (o->kind == VMCI_O_RESIDENT)
            vmci_frame_free_locked(p, o->where);
        else
            base = drop_packed(p, o);
        forget(p, id);
        id = base;
    }
}

/*
 * Compressed bytes are copied out under the lock, so that the store may move them and faults of
 * other VMs do not wait for the decompressor.
 */
int vmci_object_read(struct vmc_pool *p, uint32_t id, void *page)
{
    int rc = VMC_OK;
    uint16_t base_bytes = 0, bytes;
    const void *ref = NULL;

    vmci_lock(&p->unpack_lock);
    vmci_lock(&p->lock);
    struct vmci_object *o = vmci_object(p, id);
    if (o->kind == VMCI_O_RESIDENT) {
        memcpy(page, vmci_frame(p, o->where), VMC_PAGE_SIZE);
        vmci_unlock(&p->lock);
        vmci_unlock(&p->unpack_lock);
        return VMC_OK;
    }
    bytes = o->bytes;
    vmci_store_get(p, o->where, bytes, packed(p));
    if (o->kind == VMCI_O_DELTA) {
        struct vmci_object *b = vmci_object(p, o->base);
        ref = ref_page(p);
        if (b->kind == VMCI_O_RESIDENT) {
            memcpy(ref_page(p), vmci_frame(p, b->where), VMC_PAGE_SIZE);
        } else {
            base_bytes = b->bytes;
            vmci_store_get(p, b->where, base_bytes, packed_ref(p));
        }
    }
    vmci_unlock(&p->lock);
    if (base_bytes != 0)
        rc = vmci_unpack(p->unpacker, packed_ref(p), base_bytes, NULL, ref_page(p));
    if (rc == VMC_OK)
        rc = vmci_unpack(p->unpacker, packed(p), bytes, ref, page);
    p->unpacks++;
    if (rc != VMC_OK) {
        p->unpack_bad++;
        rc = VMC_EINTERNAL;
        vmci_bug(p->pf, __FILE__, __LINE__, "a compressed page does not decode");
    }
    vmci_unlock(&p->unpack_lock);
    return rc;
}
