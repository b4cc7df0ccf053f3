/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Buffer chains: descriptors become windows of host memory.
 *
 * Threats of this file and the two ring files (tests/unit/virtio/test_villain.c):
 *
 * | guest input                     | worst without a check      | bound                         |
 * |---------------------------------|----------------------------|-------------------------------|
 * | available index, head           | read outside the ring      | jump <= size, head < size     |
 * | next                            | endless loop               | at most size steps            |
 * | indirect table address, length  | outside RAM, huge loop     | in RAM, <= max_size entries   |
 * | nested indirect                 | recursion                  | structural error              |
 * | address, length of a piece      | access outside RAM         | vmc_mem_ref, else "malformed" |
 * | sum of lengths                  | overflow                   | 2^32                          |
 * | changing a descriptor in use    | check and use differ       | fetched once, copy is used    |
 * | the same head again while in use| more requests than storage | in flight <= size             |
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

/* Inline twice: descriptors that name their next one, and descriptors in a row. */
static inline __attribute__((always_inline)) bool
walk_plain(struct vmci_vq *q, struct vmci_chain *ch, const unsigned char *table, unsigned entries,
           unsigned i, bool in_row)
{
    const unsigned kind = VMCI_VD_WRITE | VMCI_VD_INDIRECT;
    struct vmc_mem *mem = q->dev->mem;
    struct vmci_mem_slot *near = q->near;
    struct vmc_iovec *iov = ch->iov;
    unsigned most = VMCI_MIN(entries, ch->cap), n = 0, out = 0, want = 0;
    uint64_t bytes = 0, out_bytes = 0;

    for (;;) {
        struct vmci_vdesc d;
        vmci_vdesc_fetch(table + (size_t)i * VMCI_VD_BYTES, in_row, &d);
        near = vmci_mem_near(mem, d.addr, near);
        if (unlikely(n == most || near == NULL || d.len == 0))
            return false;
        uint64_t in = d.addr - near->gpa;
        if (unlikely(d.len > near->bytes - in))
            return false;
        if ((d.flags & kind) != want) { /* the first one to be written, or something else */
            if (unlikely(want != 0 || (d.flags & kind) != VMCI_VD_WRITE))
                return false;
            want = VMCI_VD_WRITE;
            out = n;
            out_bytes = bytes;
        }
        iov[n] = (struct vmc_iovec){.base = near->hva + in, .bytes = d.len};
        if (want != 0) /* the others have nothing to be released */
            ch->ref[n] = (struct vmci_vref){.gpa = d.addr, .bytes = d.len};
        n++;
        bytes += d.len;
        if (in_row ? ++i == entries : (d.flags & VMCI_VD_NEXT) == 0)
            break;
        if (!in_row) {
            if (unlikely(d.next >= entries))
                return false;
            i = (unsigned)vmci_nospec_index(d.next, entries);
        }
    }
    if (unlikely(bytes > VMCI_VCHAIN_BYTES_MAX))
        return false;
    if (want == 0) {
        out = n;
        out_bytes = bytes;
    }
    q->near = ch->near = near;
    ch->out_n = (uint16_t)out;
    ch->in_n = (uint16_t)(n - out);
    ch->out_bytes = out_bytes;
    ch->in_bytes = bytes - out_bytes;
    return true;
}

bool vmci_chain_plain(struct vmci_vq *q, struct vmci_chain *ch, const unsigned char *table,
                      unsigned entries, unsigned i, bool in_row)
{
    if (unlikely(ch->unmapped || vmci_load_relaxed(&q->dev->mem->dirty_clients) != 0))
        return false;
    return in_row ? walk_plain(q, ch, table, entries, i, true)
                  : walk_plain(q, ch, table, entries, i, false);
}

/* The window of a piece, or as much of it as is contiguous. */
static inline int map_piece(struct vmc_mem *mem, struct vmci_chain *ch, uint64_t gpa, uint64_t left,
                            bool write, void **hva, uint64_t *got)
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
    if (likely(direct && ch->out_n + ch->in_n == 0 &&
               vmci_chain_plain(q, ch, window, entries, 0, q->packed))) {
        vmc_mem_unref(mem, d->addr, got, false);
        return VMC_OK;
    }
    int rc = walk_indirect(q, ch, direct ? window : NULL, d->addr, entries);
    vmc_mem_unref(mem, d->addr, got, false);
    return rc;
}

/* Pieces from number i on. */
static void release_from(struct vmc_mem *mem, const struct vmci_chain *ch, unsigned i)
{
    unsigned mapped = ch->unmapped ? ch->out_n : ch->out_n + ch->in_n;

    for (; i < mapped; i++)
        vmc_mem_unref(mem, ch->ref[i].gpa, ch->ref[i].bytes, i >= ch->out_n);
}

void vmci_chain_release(struct vmc_mem *mem, struct vmci_chain *ch)
{
    unsigned i = ch->held ? 0 : ch->out_n, end = ch->out_n + ch->in_n;

    if (likely(ch->near != NULL && vmci_load_relaxed(&mem->dirty_clients) == 0))
        while (i < end && vmci_mem_unref_plain(ch->near, ch->ref[i].gpa, ch->ref[i].bytes))
            i++;
    if (unlikely(i < end))
        release_from(mem, ch, i);
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
