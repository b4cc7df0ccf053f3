/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest-physical memory as the engines see it: slots, page flags, listeners. */
#ifndef MMU_INT_H
#define MMU_INT_H

#include "base/base_int.h"
#include "pages/pages_int.h"
#include <vmcore/memory.h>
#include <vmcore/paging.h>
#include <vmcore/x86.h>

/* Per-page flags, one byte a page, changed atomically. */
#define VMCI_PG_CODE 0x01u /* an engine caches decoded code of this page: report writes to it */

struct vmci_mem_slot {
    uint64_t gpa, bytes;
    uint32_t attr; /* VMC_MEM_* */
    bool owned;    /* the library allocated backing */
    unsigned char *hva;      /* NULL: pages are where space says */
    struct vmc_space *space; /* NULL: hva */
    uint64_t space_page;
    uint8_t *flags;                      /* VMCI_PG_*, one a page */
    uint64_t *dirty[VMC_DIRTY_CLIENTS]; /* NULL: client never started; go with the slot */
};

/*
 * Who caches host addresses or code of guest pages. Called from any thread that changes memory, with
 * no lock of vmc_mem held. flush is asynchronous: a listener that holds direct write access to a
 * page when it gets round to the flush must mark the page dirty and its code stale again.
 */
struct vmci_mem_listener {
    struct vmci_mem_listener *next;
    void *ctx;
    /* Bytes of a VMCI_PG_CODE page were written by an accessor (device, loader, debugger). */
    void (*code_write)(void *ctx, uint64_t gpa, uint64_t bytes);
    /* Cached host pointers and write permissions for the range must go (bytes 0: everything). */
    void (*flush)(void *ctx, uint64_t gpa, uint64_t bytes);
    /* Has everyone dropped what the revoke with this number (revoke_seq) asked for? NULL: at once. */
    bool (*settled)(void *ctx, uint64_t seq);
};

struct vmc_mem {
    const struct vmc_platform *pf;
    struct vmci_lock lock; /* dirty clients, listeners, and slots while they change */
    unsigned count;
    uint32_t dirty_clients; /* bit mask of started clients (a) */
    struct vmci_mem_listener *listeners;
    uint64_t revoke_seq; /* (a) revokes so far, of spaces behind slots */
    struct vmci_mem_slot slot[VMC_MEM_MAX_SLOTS]; /* ascending gpa; edited while quiesced, under the lock */
};

/* Slot that holds gpa, or NULL (a hole: MMIO). */
static inline struct vmci_mem_slot *vmci_mem_find(struct vmc_mem *mem, uint64_t gpa)
{
    for (unsigned i = 0; i < mem->count; i++) {
        struct vmci_mem_slot *s = &mem->slot[i];
        if (gpa - s->gpa < s->bytes)
            return s;
    }
    return NULL;
}

/*
 * The usual case of vmc_mem_ref: all of the range is ordinary memory of one slot, and nobody wants
 * to know what is written. Needs no vmc_mem_unref unless it is for writing. NULL: vmc_mem_ref knows.
 */
static inline void *vmci_mem_ref_plain(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes, bool write)
{
    struct vmci_mem_slot *s = vmci_mem_find(mem, gpa);

    if (unlikely(s == NULL || s->space != NULL || bytes > s->bytes - (gpa - s->gpa)) ||
        (write && unlikely(s->attr != VMC_MEM_RAM || vmci_load_relaxed(&mem->dirty_clients) != 0)))
        return NULL;
    return s->hva + (gpa - s->gpa);
}

/*
 * The slot of ordinary, writable memory that an address is in; NULL: there is none. near is the one
 * that the caller found last, or NULL; it is good for as long as the map of memory stays as it is.
 */
static inline struct vmci_mem_slot *vmci_mem_near(struct vmc_mem *mem, uint64_t gpa,
                                                  struct vmci_mem_slot *near)
{
    if (likely(near != NULL && gpa - near->gpa < near->bytes))
        return near;
    struct vmci_mem_slot *s = vmci_mem_find(mem, gpa);
    return s != NULL && s->space == NULL && s->attr == VMC_MEM_RAM ? s : NULL;
}

/* The same for somebody who knows that the first byte is in the slot: where there. */
static inline bool vmci_mem_unref_inside(const struct vmci_mem_slot *s, uint64_t first,
                                         uint64_t bytes)
{
    uint64_t last = first + bytes - 1;

    return likely(bytes - 1 < VMC_PAGE_SIZE && last < s->bytes) &&
           ((vmci_load_acquire(&s->flags[first >> VMC_PAGE_SHIFT]) |
             vmci_load_acquire(&s->flags[last >> VMC_PAGE_SHIFT])) &
            VMCI_PG_CODE) == 0;
}

/*
 * The usual case of vmc_mem_unref after writing to a slot that vmci_mem_near found, while there is
 * no dirty log: at most two pages that hold no cached code. False: vmc_mem_unref knows.
 */
static inline bool vmci_mem_unref_plain(const struct vmci_mem_slot *s, uint64_t gpa, uint64_t bytes)
{
    return gpa - s->gpa < s->bytes && vmci_mem_unref_inside(s, gpa - s->gpa, bytes);
}

/* A guest page resolved for direct access by an engine. */
struct vmci_page {
    unsigned char *hva;   /* start of the page */
    uint8_t *flags;       /* its VMCI_PG_* byte */
    bool writable;        /* RAM (a write to ROM has no effect) */
};

/*
 * Resolve the page of gpa. write: the page is marked dirty for every client, and stays to be taken
 * as dirty for as long as the engine may write to it without asking again. In a slot with a space,
 * the pointer is good until a flush that covers it, out->writable says whether it may be written
 * through, and VMC_EAGAIN asks for vmci_mem_fault.
 * VMC_OK, VMC_ENOENT (hole) or VMC_EAGAIN.
 */
int vmci_mem_resolve(struct vmc_mem *mem, uint64_t gpa, bool write, struct vmci_page *out);
/* The same in a slot that vmci_mem_find has found. */
int vmci_mem_resolve_in(struct vmc_mem *mem, struct vmci_mem_slot *s, uint64_t gpa, bool write,
                        struct vmci_page *out);
/*
 * For vCPUs: where resolve answers VMC_EAGAIN, the page has to be brought in first. May take some
 * microseconds and use vector registers. VMC_OK: resolve again. VMC_EAGAIN: pass a boundary at which
 * flushes are obeyed, and resolve again. VMC_ENOSPC, VMC_EIO: the same later (vmci_mem_wait).
 */
int vmci_mem_fault(struct vmc_mem *mem, uint64_t gpa, bool write);
/* Sleep a little until a page may be there. Not while pointers are held. */
void vmci_mem_wait(struct vmc_mem *mem, uint64_t gpa);
/* A window like that of vmc_mem_ref over all of the range; pages of spaces are moved together. */
int vmci_mem_ref_whole(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes, bool write, void **hva);
/*
 * vmc_walk_gva for vCPUs: VMC_EAGAIN when a table is not at hand: out->gpa is where, and the page
 * is needed for writing if out->rights has VMC_RIGHT_WRITE.
 */
int vmci_walk_gva(struct vmc_mem *mem, const struct vmc_paging *pg, uint64_t gva, uint32_t access,
                  struct vmc_walk *out);
void vmci_mem_mark_dirty(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes);
void vmci_mem_listen(struct vmc_mem *mem, struct vmci_mem_listener *l);
void vmci_mem_unlisten(struct vmc_mem *mem, struct vmci_mem_listener *l);
/* Accesses within one slot that has a space (mem_paged.c). */
int vmci_paged_resolve(struct vmci_mem_slot *s, uint64_t gpa, bool write, struct vmci_page *out);
int vmci_paged_read(struct vmci_mem_slot *s, uint64_t gpa, void *dst, uint64_t bytes);
int vmci_paged_write(struct vmci_mem_slot *s, uint64_t gpa, const void *src, int fill,
                     uint64_t bytes);
int vmci_paged_ref(struct vmci_mem_slot *s, uint64_t gpa, uint64_t bytes, bool write, void **hva,
                   uint64_t *got);
void vmci_paged_unref(struct vmci_mem_slot *s, uint64_t gpa, uint64_t bytes, bool write);
void vmci_mem_notify_code(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes);
void vmci_mem_notify_flush(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes);

#endif
