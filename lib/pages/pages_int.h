/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Frames, objects and page maps, for lib/pages and lib/sharing.
 *
 * Locks, in this order: spaces by ascending index, unpack_lock, the pool's lock. Letters at
 * members: (c) constant, (a) atomic, (s) the space's lock, (p) the pool's lock, (u) unpack_lock.
 *
 * How a page changes hands while vCPUs run
 *
 * A vCPU that wants a pointer first sets the page's bit in `acc` (and `wr`, `dirty` for a write)
 * and then reads the map entry. Whoever wants to change a private page first makes the entry BUSY
 * and then looks at the bits and pin counters. Both sides use sequentially consistent operations,
 * so one of them sees the other. Bits are cleared only by a sample, which revokes all pointers;
 * until that has settled, no page of the space changes hands. So a page whose `wr` is clear cannot
 * be written, and one whose `acc` is clear cannot be read.
 */
#ifndef PAGES_INT_H
#define PAGES_INT_H

#include "pack/pack_int.h"
#include <vmcore/pages.h>

/* ---- map entries ----------------------------------------------------------------------------- */

/* 3 bits of state, 29 of what it needs: frame, object, checksum of a swapped page. */
enum vmci_entry_state {
    VMCI_E_ZERO,
    VMCI_E_BALLOON,
    VMCI_E_PRIVATE,
    VMCI_E_OBJECT,
    VMCI_E_SWAPPED,
    VMCI_E_BUSY
};
#define VMCI_E_SHIFT 29
#define VMCI_E_MASK  ((1u << VMCI_E_SHIFT) - 1)

static inline uint32_t vmci_entry(enum vmci_entry_state st, uint32_t value)
{
    return (uint32_t)st << VMCI_E_SHIFT | value;
}
static inline enum vmci_entry_state vmci_entry_state(uint32_t e)
{
    return (enum vmci_entry_state)(e >> VMCI_E_SHIFT);
}
static inline uint32_t vmci_entry_value(uint32_t e)
{
    return e & VMCI_E_MASK;
}

/* ---- objects --------------------------------------------------------------------------------- */

#define VMCI_NONE UINT32_MAX

enum vmci_object_kind { VMCI_O_FREE, VMCI_O_RESIDENT, VMCI_O_PACKED, VMCI_O_DELTA };

/*
 * Contents that pages refer to. What only a compressed one needs (its size, the object that it is a
 * difference to) is in its slot of the store.
 */
struct vmci_object {
    uint32_t where; /* (p) RESIDENT: frame; PACKED, DELTA: slot of the store; FREE: next free */
    uint16_t state; /* (p, a) kind, whether deltas were made against it, references of both sorts */
    uint8_t mark;   /* (p) of its maker */
    uint8_t stamp;  /* (a) the pool's cycle when it was last accessed */
};
_Static_assert(sizeof(struct vmci_object) == 8, "an object is 8 bytes");

#define VMCI_KIND_MASK  3u
#define VMCI_BASE_FLAG  4u
#define VMCI_REFS_SHIFT 3u
#define VMCI_NO_MARK    UINT8_MAX
/*
 * No more pages than this share an object; the next one with the same contents begins another. The
 * count has room for a few passing references more.
 */
#define VMCI_REFS_MOST ((1u << (16 - VMCI_REFS_SHIFT)) - 256)

static inline enum vmci_object_kind vmci_object_kind(const struct vmci_object *o)
{
    return (enum vmci_object_kind)(__atomic_load_n(&o->state, __ATOMIC_SEQ_CST) & VMCI_KIND_MASK);
}
static inline uint32_t vmci_object_refs(const struct vmci_object *o)
{
    return (uint32_t)__atomic_load_n(&o->state, __ATOMIC_RELAXED) >> VMCI_REFS_SHIFT;
}
/* (p) Is it, or was it, read to decode others? */
static inline bool vmci_object_is_base(const struct vmci_object *o)
{
    return (o->state & VMCI_BASE_FLAG) != 0;
}
/* (p) */
static inline void vmci_object_set(struct vmci_object *o, enum vmci_object_kind kind, uint32_t refs)
{
    unsigned flag = kind != VMCI_O_FREE ? o->state & VMCI_BASE_FLAG : 0;

    __atomic_store_n(&o->state, (uint16_t)(refs << VMCI_REFS_SHIFT | flag | kind),
                     __ATOMIC_RELEASE);
}
/* (p) One reference more. */
static inline void vmci_object_get(struct vmci_object *o)
{
    vmci_object_set(o, vmci_object_kind(o), vmci_object_refs(o) + 1);
}

#define VMCI_OBJ_CHUNK 1024u

/* ---- the compressed store -------------------------------------------------------------------- */

#define VMCI_SLAB_FRAMES 8u
#define VMCI_SLAB_BYTES  (VMCI_SLAB_FRAMES * VMC_PAGE_SIZE)
#define VMCI_CLASS_STEP  32u
#define VMCI_CLASSES     (VMC_PAGE_SIZE / VMCI_CLASS_STEP + 1) /* by (bytes + 31) / 32 */
#define VMCI_SLOT_BITS   10u
#define VMCI_SLOT_HEAD   6u /* each slot begins with the object it belongs to, and a size */
#define VMCI_SLAB_CHUNK  256u
#define VMCI_FILLS       8u /* lists of the slabs of a class, by how full they are */

struct vmci_slab {
    uint32_t frame[VMCI_SLAB_FRAMES];
    uint32_t next, prev; /* among slabs of the class about as full, or free slab numbers */
    uint16_t used, slots;
    uint16_t free_slot; /* first of a list inside the slots */
    uint16_t cls;       /* 0: not in use */
};

struct vmci_store {
    struct vmci_slab **chunk;       /* (c) directory; chunks are allocated as needed */
    uint32_t chunks, slabs;         /* allocated; numbers given out so far */
    uint32_t free_slab;             /* list of unused numbers */
    uint32_t partial[VMCI_CLASSES][VMCI_FILLS]; /* lists of slabs with free slots */
    uint32_t room[VMCI_CLASSES];                /* free slots in all of those */
    uint64_t frames, payload;
};

/* ---- pool ------------------------------------------------------------------------------------ */

#define VMCI_SPACE_CHUNK 4096u /* pages; spaces start at multiples in the pool's numbering */

struct vmc_pool {
    const struct vmc_platform *pf;
    struct vmci_lock lock, unpack_lock;
    unsigned char *base;
    bool own_base;
    uint64_t frames;       /* (c) */
    uint64_t budget;       /* (a) */
    uint64_t used;         /* (a), written under (p) */
    uint64_t limbo;        /* (a) */
    uint64_t *free;        /* (p) bit per frame */
    uint64_t free_at;      /* (p) word where the search goes on */
    uint64_t *given;       /* (p) bit per block of 512 frames: discarded, not used since */
    uint64_t given_blocks; /* (p) */
    uint16_t *in_block;    /* (p) free frames of each block */
    uint64_t *whole;       /* (p) bit per block: all of its frames are free */
    uint64_t discarded;
    void (*discard)(void *, void *, size_t);
    void *discard_ctx;

    struct vmci_object **obj;                 /* (c) directory of chunks */
    uint32_t obj_chunks, obj_count, obj_free; /* (p) */
    uint32_t obj_limit;                       /* (c) */
    uint64_t objects, packed, deltas;         /* (p) */
    struct vmci_store store;                  /* (p) */

    vmci_page_hash_fn hash;         /* (c) */
    struct vmci_unpacker *unpacker; /* (u) */
    unsigned char *scratch;         /* (u) reference page, packed bytes, packed reference */
    uint64_t unpacks, unpack_bad;   /* (u) */

    struct vmc_space *space[VMC_POOL_MAX_SPACES]; /* (p) by index */
    uint16_t *chunk_owner; /* (p) index + 1 of the space that owns each VMCI_SPACE_CHUNK pages */
    uint32_t page_chunks;  /* (c) */
    uint8_t cycle;         /* (a) see vmci_object.stamp */
    uint8_t scanned;       /* (a) there is a scanner: the marks of objects are its */
    uint64_t meta_bytes;   /* (a) */
};

/* ---- spaces ---------------------------------------------------------------------------------- */

#define VMCI_PINS    4096u
#define VMCI_PENDING 64u
#define VMCI_SWAP_IO 2u

/* A page whose entry is BUSY for longer than a lock is held. */
struct vmci_pending {
    uint64_t page;
    uint64_t ticket; /* BREAK: goes on when that has settled */
    uint32_t entry;  /* what it was */
    uint32_t frame;  /* SWAP_IN: for the page that was asked for; NONE: read ahead */
    uint8_t kind;
    uint8_t io;
};
enum vmci_pending_kind { VMCI_P_NONE, VMCI_P_BREAK, VMCI_P_SWAP_OUT, VMCI_P_SWAP_IN };

/* A request to the swap file: a run of pages, through memory of its own. */
struct vmci_swap_io {
    struct vmc_block_req req;
    struct vmc_iovec iov;
    struct vmc_space *space;
    unsigned char *buf; /* VMC_SPACE_SWAP_BATCH pages */
    uint64_t first;
    uint32_t count;
    uint32_t state; /* (a) enum vmci_io_state */
};
enum vmci_io_state { VMCI_IO_IDLE, VMCI_IO_READY, VMCI_IO_BUSY, VMCI_IO_DONE };

/*
 * What lib/mmu calls, through the space: so a program that has no spaces does not link this module
 * and the compressor behind it.
 */
struct vmci_space_ops {
    int (*access)(struct vmc_space *s, uint64_t page, uint32_t flags, struct vmc_page_ref *out);
    bool (*fast)(struct vmc_space *s, uint64_t page, bool write, struct vmc_page_ref *out);
    int (*pin)(struct vmc_space *s, uint64_t page, uint32_t flags, struct vmc_page_ref *out);
    void (*unpin)(struct vmc_space *s, uint64_t page, bool dirty);
    int (*read)(struct vmc_space *s, uint64_t page, uint32_t offset, void *dst, uint32_t bytes,
                uint32_t flags);
    int (*gather)(struct vmc_space *s, uint64_t first, uint64_t count);
    uint64_t (*drop)(struct vmc_space *s, uint64_t first, uint64_t count, bool balloon);
    void (*give)(struct vmc_space *s, uint64_t first, uint64_t count);
    void (*wait)(struct vmc_space *s);
};

struct vmc_space {
    const struct vmci_space_ops *ops; /* (c) */
    struct vmc_pool *pool;
    struct vmci_lock lock;
    uint32_t index; /* (c) */
    uint32_t flags; /* (c) */
    uint64_t first; /* (c) its page 0 in the pool's numbering */
    uint64_t pages; /* (c) */
    uint64_t salt;  /* (c) */
    const struct vmc_provider_ops *provider;
    void *provider_ctx;
    uint32_t *map; /* (a) entries; changed under (s) */
    /* (a) bit per page: accessed, writable pointer handed out, contents new to the scanner;
       and not accessed in the sampling period before this one */
    uint64_t *acc, *wr, *dirty, *cold;
    uint64_t ticket;   /* (s) of the last sample's revoke */
    bool settled;      /* (s) the ticket has */
    uint64_t accessed; /* (s) of the last sample */
    uint8_t sampled;   /* (p) has completed a sample in the pool's present cycle */
    uint32_t *pin;     /* (a) counters of pins, by a hash of the page */
    uint32_t pins;     /* (a) pins in all */
    uint32_t *limbo;   /* (s) frames that pointers may still refer to */
    uint32_t limbo_count, limbo_cap;
    uint32_t limbo_ready; /* (s) the first so many were there when the last sample began */
    struct vmci_pending pending[VMCI_PENDING]; /* (s) */
    uint32_t pending_count;                    /* (s) */
    struct vmc_blockdev swap;
    struct vmci_swap_io io[VMCI_SWAP_IO];
    uint32_t gather[32]; /* (s) entries of pages on the move */
    uint64_t bad_page;   /* (s) one more than the page that could not be read last; 0: none */
    uint64_t clock;      /* (s) where the search for swap victims goes on */
    uint32_t changed;    /* (a) for parking: bumped when a pending page is done */
    uint32_t ending;     /* (a) back ends that are just telling us of the end of a request */
    bool abandoned;      /* (s) see vmc_space_abandon */
    bool finishing;      /* (s) see vmc_space_finish */
    uint64_t breaks, unpacks, unpack_lost, lost_page;           /* (s) */
    uint64_t swap_ins, swap_outs, swap_errors, swap_lost;       /* (s) */
    uint64_t swap_pause_ns, swap_retry_ns; /* (s) after a write that failed; 0: none did */
};

static inline unsigned char *vmci_frame(const struct vmc_pool *p, uint32_t frame)
{
    return p->base + ((uint64_t)frame << VMC_PAGE_SHIFT);
}
static inline struct vmci_object *vmci_object(const struct vmc_pool *p, uint32_t id)
{
    return &p->obj[id / VMCI_OBJ_CHUNK][id % VMCI_OBJ_CHUNK];
}
/* Copy of memory that a guest may be writing meanwhile: its race, if it is one. */
VMCI_GUESTS_RACE static inline void vmci_copy_racing(void *dst, const void *src, size_t bytes)
{
#ifdef VMCI_SEES_RACES
    typedef uint64_t __attribute__((may_alias, aligned(1))) u64_u;
    size_t i = 0;
    for (; i + 8 <= bytes; i += 8) /* words whole, as memcpy reads them */
        *(u64_u *)((char *)dst + i) = *(const volatile u64_u *)((const char *)src + i);
    for (; i < bytes; i++)
        ((unsigned char *)dst)[i] = ((const volatile unsigned char *)src)[i];
#else
    memcpy(dst, src, bytes);
#endif
}
static inline uint32_t vmci_pin_slot(uint64_t page)
{
    return (uint32_t)((page * 0x9e3779b97f4a7c15ull) >> 52);
}
_Static_assert(VMCI_PINS == 1u << 12, "vmci_pin_slot gives 12 bits");

/* ---- pg_frames.c (callers hold the pool's lock unless said) ---- */

int vmci_frames_init(struct vmc_pool *p);
void vmci_frames_fini(struct vmc_pool *p);
/* A frame with undefined contents for a page of the space, or VMCI_NONE. Takes the lock itself: */
uint32_t vmci_frame_alloc(const struct vmc_space *s);
void vmci_frame_free(struct vmc_pool *p, uint32_t frame);
uint32_t vmci_frame_alloc_locked(const struct vmc_space *s);
/* For the compressed store: also of the last ones, which are kept for it. */
uint32_t vmci_frame_alloc_store(struct vmc_pool *p);
void vmci_frame_free_locked(struct vmc_pool *p, uint32_t frame);
/* count frames one behind the other, or VMCI_NONE. Takes the lock. */
uint32_t vmci_frame_alloc_run(struct vmc_pool *p, uint32_t count);
/* 512 frames that are one aligned block, or VMCI_NONE. Takes the lock. */
uint32_t vmci_frame_alloc_block(struct vmc_pool *p);
void vmci_frame_free_block(struct vmc_pool *p, uint32_t first);
void vmci_pool_meta(struct vmc_pool *p, int64_t bytes);

/* ---- pg_object.c (pool's lock) ---- */

/* A new resident object with one reference and the maker's mark, or VMCI_NONE. */
uint32_t vmci_object_new(struct vmc_pool *p, uint32_t frame, uint8_t mark);
/* What a DELTA is a difference to; VMCI_NONE for others. */
uint32_t vmci_object_base(const struct vmc_pool *p, const struct vmci_object *o);
/* Of payload; 0: it is not compressed. */
uint16_t vmci_object_bytes(const struct vmc_pool *p, const struct vmci_object *o);
/* Drop a reference; the last one frees the contents. */
void vmci_object_put(struct vmc_pool *p, uint32_t id);
/*
 * RESIDENT to PACKED (base NONE) or DELTA (base gains a reference); frees the frame. VMC_EBUSY when
 * somebody accessed it meanwhile, or a delta would refer to a delta.
 */
int vmci_object_pack(struct vmc_pool *p, uint32_t id, const void *data, uint16_t bytes,
                     uint32_t base);
/* (p) It is a base from now on. false: it is PACKED, and was none. */
bool vmci_object_make_base(struct vmc_pool *p, uint32_t id);
/* A PACKED object that nobody gave back: other bytes for the same contents. */
void vmci_object_repack(struct vmc_pool *p, uint32_t id, const void *data, uint16_t bytes);
/* PACKED or DELTA to RESIDENT with the contents in frame. */
void vmci_object_unpack(struct vmc_pool *p, uint32_t id, uint32_t frame);
/* Take the frame of a resident object with one reference away from it; the object is gone. */
uint32_t vmci_object_steal(struct vmc_pool *p, uint32_t id);
/* Is nobody holding a pointer to it, as far as samples of all spaces tell? */
bool vmci_object_cold(const struct vmc_pool *p, const struct vmci_object *o);
/* Contents into page (4 KiB). No lock held. VMC_EINTERNAL when they do not decode. */
int vmci_object_read(struct vmc_pool *p, uint32_t id, void *page);

/* ---- pg_store.c (pool's lock) ---- */

int vmci_store_init(struct vmc_pool *p);
void vmci_store_fini(struct vmc_pool *p);
/*
 * Put bytes away for an object, behind a base unless that is NONE. VMC_ENOSPC, VMC_ENOMEM. The
 * other functions are told whether there is one.
 */
int vmci_store_put(struct vmc_pool *p, uint32_t object, uint32_t base, const void *data,
                   uint16_t bytes, uint32_t *slot);
uint16_t vmci_store_bytes(const struct vmc_pool *p, uint32_t slot, bool base);
uint32_t vmci_store_base(const struct vmc_pool *p, uint32_t slot);
/* Into the cache: all of the slot is going to be read. */
void vmci_store_fetch(const struct vmc_pool *p, uint32_t slot);
/* At most a page. Returns the bytes. */
uint16_t vmci_store_get(const struct vmc_pool *p, uint32_t slot, bool base, void *data);
void vmci_store_drop(struct vmc_pool *p, uint32_t slot, bool base);

/* ---- pg_space.c ---- */

struct vmc_space *vmci_space_of(struct vmc_pool *p, uint32_t global, uint64_t *page);
/* (s) Has the last sample's revoke settled? */
bool vmci_space_settled(struct vmc_space *s);
/*
 * (s) Make a private page BUSY if nobody can write it (read: nor holds a pointer at all); false: it
 * is in use and unchanged. The caller sets the new entry.
 */
bool vmci_page_seize(struct vmc_space *s, uint64_t page, uint32_t entry, bool read);
/* Pointers to the range are revoked and have gone; false: they did not, in good time. */
bool vmci_space_let_go(struct vmc_space *s, uint64_t first, uint64_t count);
/* (s) Is there room for one more frame that has to wait? */
bool vmci_page_releasable(const struct vmc_space *s);
/* (s, p) The page's frame is not its own any more: free it, now or when pointers are gone. */
void vmci_page_release(struct vmc_space *s, uint64_t page, uint32_t frame);
static inline void vmci_page_set(struct vmc_space *s, uint64_t page, uint32_t entry)
{
    vmci_store_release(&s->map[page], entry);
}

/* ---- pg_swap.c ---- */

int vmci_swap_init(struct vmc_space *s, struct vmc_error *err);
/* Waits for requests under way. */
void vmci_swap_fini(struct vmc_space *s);
/* (s) Start reading a SWAPPED page; it is pending then. VMC_EAGAIN: no request is free. */
int vmci_swap_in(struct vmc_space *s, uint64_t page);
/* (s) Did a write fail so lately that none should be tried? */
bool vmci_swap_paused(const struct vmc_space *s);
/* Submit what was prepared. No lock held. true: something finished at once. */
bool vmci_swap_kick(struct vmc_space *s);
/* (s) Note what finished requests brought. */
void vmci_swap_reap(struct vmc_space *s);

/* ---- pg_access.c ---- */

/* vmc_space_access without a lock and without waiting; false: that has to do it. */
bool vmci_space_fast(struct vmc_space *s, uint64_t page, bool write, struct vmc_page_ref *out);
/*
 * Move pages to frames that lie one behind the other, for a device that wants one pointer to all of
 * them. Waits for holders. VMC_EBUSY: they are pinned, VMC_ENOSPC: no such frames, VMC_ELIMIT.
 */
int vmci_space_gather(struct vmc_space *s, uint64_t first, uint64_t count);
struct vmci_pending *vmci_pending_find(struct vmc_space *s, uint64_t page);
/* (s) How many more may be pending: need, if that can be had. */
uint32_t vmci_pending_room(struct vmc_space *s, uint32_t need);
/* (s) Make the page BUSY; NULL: too many are. */
struct vmci_pending *vmci_pending_add(struct vmc_space *s, uint64_t page, uint8_t kind,
                                      uint32_t entry);
/* (s) It is over: the page gets this entry. */
void vmci_pending_end(struct vmc_space *s, struct vmci_pending *d, uint32_t entry);

#endif
