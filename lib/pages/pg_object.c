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

uint32_t vmci_object_new(struct vmc_pool *p, uint32_t frame, uint8_t mark)
{
    if (p->obj_free == VMCI_NONE && !grow(p))
        return VMCI_NONE;
    uint32_t id = p->obj_free;
    struct vmci_object *o = vmci_object(p, id);
    p->obj_free = o->where;
    vmci_store_relaxed(&o->where, frame);
    o->mark = mark;
    vmci_store_relaxed(&o->stamp, vmci_load_relaxed(&p->cycle));
    vmci_object_set(o, VMCI_O_RESIDENT, 1);
    p->objects++;
    return id;
}

uint32_t vmci_object_base(const struct vmc_pool *p, const struct vmci_object *o)
{
    return vmci_object_kind(o) == VMCI_O_DELTA ? vmci_store_base(p, o->where) : VMCI_NONE;
}

uint16_t vmci_object_bytes(const struct vmc_pool *p, const struct vmci_object *o)
{
    enum vmci_object_kind kind = vmci_object_kind(o);

    if (kind != VMCI_O_PACKED && kind != VMCI_O_DELTA)
        return 0;
    return vmci_store_bytes(p, o->where, kind == VMCI_O_DELTA);
}

/* Free the compressed contents; what it is a difference to is to lose a reference. */
static uint32_t drop_packed(struct vmc_pool *p, const struct vmci_object *o)
{
    uint32_t base = vmci_object_base(p, o);

    vmci_store_drop(p, o->where, base != VMCI_NONE);
    if (base != VMCI_NONE)
        p->deltas--;
    else
        p->packed--;
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
    enum vmci_object_kind kind = base != VMCI_NONE ? VMCI_O_DELTA : VMCI_O_PACKED;

    if (kind == VMCI_O_DELTA &&
        (vmci_object_is_base(o) || vmci_object_kind(vmci_object(p, base)) == VMCI_O_DELTA))
        return VMC_EBUSY;
    int rc = vmci_store_put(p, id, base, data, bytes, &slot);
    if (rc != VMC_OK)
        return rc;
    vmci_object_set(o, kind, vmci_object_refs(o));
    vmci_fence_seq();
    if (!vmci_object_cold(p, o)) {
        vmci_object_set(o, VMCI_O_RESIDENT, vmci_object_refs(o));
        vmci_store_drop(p, slot, base != VMCI_NONE);
        return VMC_EBUSY;
    }
    if (base != VMCI_NONE) {
        vmci_object_get(vmci_object(p, base));
        p->deltas++;
    } else {
        p->packed++;
    }
    vmci_store_relaxed(&o->where, slot);
    vmci_frame_free_locked(p, frame);
    return VMC_OK;
}

bool vmci_object_make_base(struct vmc_pool *p, uint32_t id)
{
    struct vmci_object *o = vmci_object(p, id);
    bool was = vmci_object_is_base(o);

    __atomic_store_n(&o->state, (uint16_t)(o->state | VMCI_BASE_FLAG), __ATOMIC_RELEASE);
    return was || vmci_object_kind(o) != VMCI_O_PACKED;
}

void vmci_object_repack(struct vmc_pool *p, uint32_t id, const void *data, uint16_t bytes)
{
    struct vmci_object *o = vmci_object(p, id);
    uint32_t slot;

    if (vmci_object_kind(o) != VMCI_O_PACKED ||
        vmci_store_put(p, id, VMCI_NONE, data, bytes, &slot) != VMC_OK)
        return;
    vmci_store_drop(p, o->where, false);
    vmci_store_relaxed(&o->where, slot);
}

void vmci_object_unpack(struct vmc_pool *p, uint32_t id, uint32_t frame)
{
    struct vmci_object *o = vmci_object(p, id);
    uint32_t base = drop_packed(p, o);

    vmci_store_relaxed(&o->where, frame);
    vmci_store_relaxed(&o->stamp, vmci_load_relaxed(&p->cycle));
    vmci_object_set(o, VMCI_O_RESIDENT, vmci_object_refs(o));
    if (base != VMCI_NONE)
        vmci_object_put(p, base);
}

static void forget(struct vmc_pool *p, uint32_t id)
{
    struct vmci_object *o = vmci_object(p, id);

    vmci_object_set(o, VMCI_O_FREE, 0);
    vmci_store_relaxed(&o->where, p->obj_free);
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
        uint32_t base = VMCI_NONE, refs = vmci_object_refs(o) - 1;
        if (refs != 0) {
            vmci_object_set(o, vmci_object_kind(o), refs);
            return;
        }
        if (vmci_object_kind(o) == VMCI_O_RESIDENT)
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
    bool delta;

    vmci_lock(&p->unpack_lock);
    vmci_lock(&p->lock);
    struct vmci_object *o = vmci_object(p, id);
    if (vmci_object_kind(o) == VMCI_O_RESIDENT) {
        memcpy(page, vmci_frame(p, o->where), VMC_PAGE_SIZE);
        vmci_unlock(&p->lock);
        vmci_unlock(&p->unpack_lock);
        return VMC_OK;
    }
    delta = vmci_object_kind(o) == VMCI_O_DELTA;
    /*
     * All of this is cold: that is why it was compressed. What is going to be read, and written, is
     * asked for at once, and not a line at a time.
     */
    vmci_store_fetch(p, o->where);
    for (unsigned at = 0; at < VMC_PAGE_SIZE; at += VMCI_CACHELINE)
        __builtin_prefetch((unsigned char *)page + at, 1);
    if (delta) {
        const struct vmci_object *b = vmci_object(p, vmci_store_base(p, o->where));
        if (vmci_object_kind(b) != VMCI_O_RESIDENT)
            vmci_store_fetch(p, b->where);
    }
    bytes = vmci_store_get(p, o->where, delta, packed(p));
    if (delta) {
        const struct vmci_object *b = vmci_object(p, vmci_store_base(p, o->where));
        ref = ref_page(p);
        if (vmci_object_kind(b) == VMCI_O_RESIDENT)
            memcpy(ref_page(p), vmci_frame(p, b->where), VMC_PAGE_SIZE);
        else
            base_bytes = vmci_store_get(p, b->where, false, packed_ref(p));
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
        /* Who asked is told each time, and asks again: the 1st, 2nd, 4th, 8th time is said. */
        if ((p->unpack_bad & (p->unpack_bad - 1)) == 0)
            vmci_bug(p->pf, __FILE__, __LINE__, "a compressed page does not decode");
    }
    vmci_unlock(&p->unpack_lock);
    return rc;
}
