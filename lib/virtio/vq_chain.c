/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Buffer chains: descriptors become windows of host memory.
 *
 * Threats of this file and the two ring files (tests/unit/virtio/test_villain.c):
 *
 * | guest input                     | worst effect without a check | bound |
 * |---------------------------------|------------------------------|-------------------------------|
 * | available index, head           | read outside the ring        | jump <= size, head < size | |
 * next                            | endless loop                 | at most size steps            |
 * | indirect table address, length  | read outside RAM, huge loop  | in RAM, <= max_size entries |
 * | nested indirect                 | recursion                    | structural error | | address,
 * length of a piece      | access outside RAM           | vmc_mem_ref, else "malformed" | | sum of
 * lengths                  | overflow                     | 2^32                          | |
 * changing a descriptor in use    | check and use differ         | fetched once, copy is used    |
 * | the same head again while in use| more requests than storage   | in flight <= size |
 */
#include "virtio/virtio_int.h"

size_t vmci_chain_bytes(unsigned cap)
{
    return cap * (sizeof(struct vmc_iovec) + sizeof(struct vmci_vref));
}

void vmci_chain_place(struct vmci_chain *ch, void *storage, unsigned cap)
{
    ch->cap = (uint16_t)cap;
    ch->iov = storage;
    ch->ref = (struct vmci_vref *)(void *)(ch->iov + cap);
}

/* The window of a piece, or as much of it as is contiguous. */
static inline int map_piece(struct vmc_mem *mem, struct vmci_chain *ch, uint64_t gpa,
                            uint64_t left, bool write, void **hva, uint64_t *got)
{
    if (likely(!write || !ch->unmapped)) {
        *got = left;
        *hva = vmci_mem_ref_plain(mem, gpa, left, write);
        if (likely(*hva != NULL))
            return VMC_OK;
        ch->held = true;
        return vmc_mem_ref(mem, gpa, left, write, hva, got);
    }
    const struct vmci_mem_slot *s = vmci_mem_find(mem, gpa);
    if (s == NULL || s->attr != VMC_MEM_RAM)
        return VMC_ERANGE;
    *hva = NULL;
    *got = VMCI_MIN(left, s->gpa + s->bytes - gpa);
    return VMC_OK;
}

int vmci_chain_add(struct vmci_vq *q, struct vmci_chain *ch, const struct vmci_vdesc *d)
{
    bool write = (d->flags & VMCI_VD_WRITE) != 0;
    struct vmc_mem *mem = q->dev->mem;
    uint64_t gpa = d->addr;
    uint64_t left = d->len;

    if (!write && ch->in_n != 0)
        return vmci_vq_break(q, "readable descriptor after a writable one");
    if (ch->out_bytes + ch->in_bytes + left > VMCI_VCHAIN_BYTES_MAX)
        return vmci_vq_break(q, "chain longer than 2^32 bytes");
    if (write)
        ch->in_bytes += left;
    else
        ch->out_bytes += left;
    while (left != 0 && !ch->malformed) {
        unsigned n = ch->out_n + ch->in_n;
        void *hva;
        uint64_t got;

        if (n == ch->cap || map_piece(mem, ch, gpa, left, write, &hva, &got) != VMC_OK) {
            ch->malformed = true;
            break;
        }
        ch->iov[n] = (struct vmc_iovec){.base = hva, .bytes = (size_t)got};
        ch->ref[n] = (struct vmci_vref){.gpa = gpa, .bytes = got};
        if (write)
            ch->in_n++;
        else
            ch->out_n++;
        gpa += got;
        left -= got;
    }
    return VMC_OK;
}

/* One entry of an indirect table, through the window where it is contiguous. */
static int fetch_indirect(struct vmci_vq *q, const unsigned char *window, uint64_t gpa, unsigned i,
                          struct vmci_vdesc *d)
{
    _Alignas(8) unsigned char copy[VMCI_VD_BYTES];

    if (window != NULL) {
        vmci_vdesc_fetch(window + (size_t)i * VMCI_VD_BYTES, q->packed, d);
        return VMC_OK;
    }
    if (vmc_mem_read(q->dev->mem, gpa + (uint64_t)i * VMCI_VD_BYTES, copy, sizeof(copy)) != VMC_OK)
        return vmci_vq_break(q, "indirect table outside guest memory");
    vmci_vdesc_fetch(copy, q->packed, d);
    return VMC_OK;
}

static int walk_indirect(struct vmci_vq *q, struct vmci_chain *ch, const unsigned char *window,
                         uint64_t gpa, unsigned entries)
{
    unsigned i = 0;

    for (unsigned steps = 0; steps < entries; steps++) {
        struct vmci_vdesc d = {0};
        int rc = fetch_indirect(q, window, gpa, i, &d);

        if (rc != VMC_OK)
            return rc;
        if ((d.flags & VMCI_VD_INDIRECT) != 0)
            return vmci_vq_break(q, "indirect table inside an indirect table");
        rc = vmci_chain_add(q, ch, &d);
        if (rc != VMC_OK)
            return rc;
        if (q->packed) { /* 2.8.7: every entry belongs to it, in order; NEXT is reserved */
            i++;
            continue;
        }
        if ((d.flags & VMCI_VD_NEXT) == 0)
            return VMC_OK;
        if (d.next >= entries)
            return vmci_vq_break(q, "next index outside the indirect table");
        i = d.next;
    }
    return q->packed ? VMC_OK : vmci_vq_break(q, "loop in an indirect table");
}

int vmci_chain_add_indirect(struct vmci_vq *q, struct vmci_chain *ch, const struct vmci_vdesc *d)
{
    struct vmc_mem *mem = q->dev->mem;
    unsigned entries = d->len / VMCI_VD_BYTES;
    void *window;
    uint64_t got;

    if (!q->indirect)
        return vmci_vq_break(q, "indirect descriptor without the feature");
    if ((d->flags & VMCI_VD_NEXT) != 0)
        return vmci_vq_break(q, "indirect descriptor with a next one");
    if (d->len == 0 || d->len % VMCI_VD_BYTES != 0 || entries > q->max_size)
        return vmci_vq_break(q, "bad length of an indirect table");
    if (vmc_mem_ref(mem, d->addr, d->len, false, &window, &got) != VMC_OK)
        return vmci_vq_break(q, "indirect table outside guest memory");

    /* An unaligned table, or one across two slots, is read by copies. */
    bool direct = got >= d->len && ((uintptr_t)window & 7) == 0;
    int rc = walk_indirect(q, ch, direct ? window : NULL, d->addr, entries);
    vmc_mem_unref(mem, d->addr, got, false);
    return rc;
}

void vmci_chain_release(struct vmc_mem *mem, struct vmci_chain *ch)
{
    unsigned mapped = ch->unmapped ? ch->out_n : ch->out_n + ch->in_n;

    for (unsigned i = ch->held ? 0 : ch->out_n; i < mapped; i++)
        if (i < ch->out_n || !vmci_mem_unref_plain(mem, ch->ref[i].gpa, ch->ref[i].bytes))
            vmc_mem_unref(mem, ch->ref[i].gpa, ch->ref[i].bytes, i >= ch->out_n);
    ch->out_n = ch->in_n = 0;
}

size_t vmci_chain_read(const struct vmci_chain *ch, uint64_t offset, void *dst, size_t bytes)
{
    unsigned char *to = dst;
    size_t done = 0;

    for (unsigned i = 0; i < ch->out_n && done < bytes; i++) {
        size_t len = ch->iov[i].bytes;
        if (offset >= len) {
            offset -= len;
            continue;
        }
        size_t n = VMCI_MIN(len - (size_t)offset, bytes - done);
        memcpy(to + done, (const unsigned char *)ch->iov[i].base + offset, n);
        done += n;
        offset = 0;
    }
    return done;
}

size_t vmci_chain_write(const struct vmci_chain *ch, uint64_t offset, const void *src, size_t bytes)
{
    const unsigned char *from = src;
    const struct vmc_iovec *in = ch->iov + ch->out_n;
    size_t done = 0;

    for (unsigned i = 0; i < ch->in_n && done < bytes; i++) {
        size_t len = in[i].bytes;
        if (offset >= len) {
            offset -= len;
            continue;
        }
        size_t n = VMCI_MIN(len - (size_t)offset, bytes - done);
        /* A network that loops frames back may hand us the guest's own buffers. */
        memmove((unsigned char *)in[i].base + offset, from + done, n);
        done += n;
        offset = 0;
    }
    return done;
}

unsigned vmci_iov_drop_front(struct vmc_iovec **iov, unsigned n, uint64_t bytes)
{
    while (n != 0 && bytes >= (*iov)->bytes) {
        bytes -= (*iov)->bytes;
        (*iov)++;
        n--;
    }
    if (n != 0 && bytes != 0) {
        (*iov)->base = (unsigned char *)(*iov)->base + bytes;
        (*iov)->bytes -= (size_t)bytes;
    }
    return n;
}

unsigned vmci_iov_drop_back(struct vmc_iovec *iov, unsigned n, uint64_t bytes)
{
    while (n != 0 && bytes >= iov[n - 1].bytes) {
        bytes -= iov[n - 1].bytes;
        n--;
    }
    if (n != 0)
        iov[n - 1].bytes -= (size_t)bytes;
    return n;
}
