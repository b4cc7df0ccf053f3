/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Address buses: a sorted table of ranges under a sequence lock.
 *
 * Readers (vCPUs) take no lock. They search the table, pin the slot they found by its active
 * count, and check that the table did not change meanwhile. Detach changes the table first and then
 * waits for the count: a reader either sees the change and lets go, or is waited for. Slots are
 * never freed while the bus lives, so a late reader's pin touches valid memory.
 */
#include "base/base_int.h"
#include <vmcore/bus.h>

#define SPINS_BEFORE_PARK 1000u
#define PARK_NS           50000u

struct slot {
    const struct vmc_bus_ops *ops;
    void *dev;
    uint64_t base, last; /* inclusive, so that a range may end at the top */
    uint32_t active;     /* (a) handlers running, and readers about to find out they are late */
    bool used;           /* (l) */
};

struct entry {
    uint64_t base, last; /* (a) copies of the slot's: the search stays in this array */
    uint32_t slot;       /* (a) */
};

struct vmc_bus {
    const struct vmc_platform *pf;
    const char *name;
    uint64_t limit;
    struct vmci_lock lock;
    uint32_t seq;   /* (a) odd while the table changes */
    uint32_t count; /* (a) */
    uint64_t
        hint; /* (a) where in slot[] the last one found is, in bytes; above, seq at that time */
    struct entry table[VMC_BUS_MAX_RANGES];
    struct slot slot[VMC_BUS_MAX_RANGES];
};

int vmc_bus_create(const struct vmc_platform *pf, const char *name, uint64_t limit,
                   struct vmc_bus **out)
{
    if (limit == 0)
        return VMC_EINVAL;
    struct vmc_bus *bus = vmci_zalloc(pf, sizeof(*bus));
    if (bus == NULL)
        return VMC_ENOMEM;
    bus->pf = pf;
    bus->name = name;
    bus->limit = limit;
    bus->hint = UINT64_MAX; /* no table has that number while it is still */
    int rc = vmci_lock_init(&bus->lock, pf);
    if (rc != VMC_OK) {
        vmci_free(pf, bus, sizeof(*bus));
        return rc;
    }
    *out = bus;
    return VMC_OK;
}

void vmc_bus_destroy(struct vmc_bus *bus)
{
    if (bus == NULL)
        return;
    vmci_lock_fini(&bus->lock);
    vmci_free(bus->pf, bus, sizeof(*bus));
}

/* ---- changing the table (lock held) -------------------------------------------------------- */

/* Index of the first entry whose range ends at or after addr. */
static uint32_t lower_bound(const struct vmc_bus *bus, uint64_t addr)
{
    uint32_t lo = 0, hi = vmci_load_acquire(&bus->count);

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (vmci_load_acquire(&bus->table[mid].last) < addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void copy_entry(struct entry *to, const struct entry *from)
{
    vmci_store_release(&to->base, from->base);
    vmci_store_release(&to->last, from->last);
    vmci_store_release(&to->slot, from->slot);
}

static void table_begin(struct vmc_bus *bus)
{
    __atomic_store_n(&bus->seq, bus->seq + 1, __ATOMIC_SEQ_CST);
}

static void table_end(struct vmc_bus *bus)
{
    __atomic_store_n(&bus->seq, bus->seq + 1, __ATOMIC_SEQ_CST);
}

static void table_insert(struct vmc_bus *bus, uint32_t at, uint32_t slot)
{
    struct entry e = {bus->slot[slot].base, bus->slot[slot].last, slot};

    table_begin(bus);
    for (uint32_t i = bus->count; i > at; i--)
        copy_entry(&bus->table[i], &bus->table[i - 1]);
    copy_entry(&bus->table[at], &e);
    vmci_store_release(&bus->count, bus->count + 1);
    table_end(bus);
}

static void table_delete(struct vmc_bus *bus, uint32_t at)
{
    table_begin(bus);
    for (uint32_t i = at; i + 1 < bus->count; i++)
        copy_entry(&bus->table[i], &bus->table[i + 1]);
    vmci_store_release(&bus->count, bus->count - 1);
    table_end(bus);
}

static uint32_t free_slot(const struct vmc_bus *bus)
{
    uint32_t i = 0;

    while (i < VMC_BUS_MAX_RANGES && bus->slot[i].used)
        i++;
    return i;
}

static int attach_locked(struct vmc_bus *bus, uint64_t base, uint64_t last,
                         const struct vmc_bus_ops *ops, void *dev, struct vmc_error *err)
{
    static const char site[] = "bus/attach";
    uint32_t at = lower_bound(bus, base);

    if (at < bus->count && bus->table[at].base <= last)
        return vmci_error(err, VMC_EEXIST, site, "%s range 0x%llx-0x%llx overlaps 0x%llx-0x%llx",
                          bus->name, (unsigned long long)base, (unsigned long long)last,
                          (unsigned long long)bus->table[at].base,
                          (unsigned long long)bus->table[at].last);
    uint32_t n = free_slot(bus);
    if (n == VMC_BUS_MAX_RANGES)
        return vmci_error(err, VMC_ELIMIT, site, "%s bus is full (%d ranges)", bus->name,
                          VMC_BUS_MAX_RANGES);
    struct slot *s = &bus->slot[n];
    s->used = true;
    vmci_store_relaxed(&s->base, base); /* pin_hint may look, and then find that seq has changed */
    vmci_store_relaxed(&s->last, last);
    s->ops = ops;
    s->dev = dev;
    table_insert(bus, at, n);
    return VMC_OK;
}

int vmc_bus_attach(struct vmc_bus *bus, uint64_t base, uint64_t bytes,
                   const struct vmc_bus_ops *ops, void *dev, struct vmc_error *err)
{
    static const char site[] = "bus/attach";

    if (bytes == 0 || !vmci_range_ok(base, bytes, bus->limit))
        return vmci_error(err, VMC_ERANGE, site, "%s range 0x%llx+0x%llx is not below 0x%llx",
                          bus->name, (unsigned long long)base, (unsigned long long)bytes,
                          (unsigned long long)bus->limit);
    if (ops == NULL || ops->read == NULL || ops->write == NULL)
        return vmci_error(err, VMC_EINVAL, site, "%s range 0x%llx has no handlers", bus->name,
                          (unsigned long long)base);
    vmci_lock(&bus->lock);
    int rc = attach_locked(bus, base, base + bytes - 1, ops, dev, err);
    vmci_unlock(&bus->lock);
    return rc;
}

static void wait_idle(const struct vmc_bus *bus, const struct slot *s)
{
    const struct vmc_platform *pf = bus->pf;

    for (unsigned spins = 0;; spins++) {
        uint32_t active = __atomic_load_n(&s->active, __ATOMIC_SEQ_CST);
        /* Without threads the only handler that can be active is the caller's own. */
        if (active == 0 || !vmci_pf_has(pf, sync))
            return;
        if (spins < SPINS_BEFORE_PARK)
            vmci_cpu_relax();
        else
            pf->sync->park(pf->ctx, &s->active, active, pf->now_ns(pf->ctx) + PARK_NS);
    }
}

int vmc_bus_detach(struct vmc_bus *bus, uint64_t base)
{
    vmci_lock(&bus->lock);
    uint32_t at = lower_bound(bus, base);
    if (at >= bus->count || bus->table[at].base != base) {
        vmci_unlock(&bus->lock);
        return VMC_ENOENT;
    }
    struct slot *s = &bus->slot[bus->table[at].slot];
    table_delete(bus, at);
    vmci_unlock(&bus->lock);
    wait_idle(bus, s);
    vmci_lock(&bus->lock);
    s->used = false;
    vmci_unlock(&bus->lock);
    return VMC_OK;
}

/* ---- access -------------------------------------------------------------------------------- */

static void unpin(struct slot *s)
{
    __atomic_fetch_sub(&s->active, 1, __ATOMIC_RELEASE);
}

/* Slot that claims addr, pinned; or NULL, with *gap_end one before the next range. */
static struct slot *pin(struct vmc_bus *bus, uint64_t addr, uint64_t *gap_end)
{
    for (;;) {
        uint32_t seq = vmci_load_acquire(&bus->seq);
        if (seq & 1) {
            vmci_cpu_relax();
            continue;
        }
        uint32_t at = lower_bound(bus, addr);
        struct slot *s = NULL;
        *gap_end = UINT64_MAX;
        if (at < vmci_load_acquire(&bus->count)) {
            const struct entry *e = &bus->table[at];
            uint64_t base = vmci_load_acquire(&e->base);
            uint32_t n = vmci_load_acquire(&e->slot);
            if (base <= addr) {
                s = &bus->slot[n];
                __atomic_fetch_add(&s->active, 1, __ATOMIC_SEQ_CST);
                vmci_store_relaxed(&bus->hint, (uint64_t)seq << 32 | n * sizeof(*s));
            } else {
                *gap_end = base - 1;
            }
        }
        /* The increment above and this load are ordered against table_begin and wait_idle by the
           total order of sequentially consistent operations: one of the two sees the other. */
        if (__atomic_load_n(&bus->seq, __ATOMIC_SEQ_CST) == seq)
            return s;
        if (s != NULL)
            unpin(s);
    }
}

/*
 * The range that was used last, pinned, if the whole access lies in it; else NULL. The table must
 * be what it was when the hint was made: seq says so before the pin, and after it.
 */
static inline struct slot *pin_hint(struct vmc_bus *bus, uint64_t addr, unsigned bytes)
{
    uint64_t hint = vmci_load_relaxed(&bus->hint);
    struct slot *s = (struct slot *)(void *)((char *)bus->slot + (uint32_t)hint);

    if (vmci_load_acquire(&bus->seq) != hint >> 32)
        return NULL;
    uint64_t base = vmci_load_relaxed(&s->base), last = vmci_load_relaxed(&s->last);
    if (addr - base > last - base || last - addr < bytes - 1 || (bytes & (bytes - 1)) != 0)
        return NULL;
    __atomic_fetch_add(&s->active, 1, __ATOMIC_SEQ_CST);
    if (likely(__atomic_load_n(&bus->seq, __ATOMIC_SEQ_CST) == hint >> 32))
        return s;
    unpin(s);
    return NULL;
}

/* Largest power of two that is at most n (1..8). */
static unsigned floor_pow2(uint64_t n)
{
    return n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
}

/* Bytes is a power of two. */
static uint64_t ones(unsigned bytes)
{
    static const uint64_t mask[16] = {
        [0] = UINT64_MAX, [1] = 0xff, [2] = 0xffff, [4] = 0xffffffff, [8] = UINT64_MAX};

    return mask[bytes & 15];
}

/* One piece that does not cross the end of a range; returns its length. */
static unsigned access_piece(struct vmc_bus *bus, bool write, uint64_t addr, unsigned bytes,
                             uint64_t *value, bool *claimed)
{
    uint64_t end;
    struct slot *s = pin(bus, addr, &end);

    if (s != NULL)
        end = s->last;
    if (end - addr < bytes - 1u)
        bytes = floor_pow2(end - addr + 1);
    if (s == NULL) {
        *value = ones(bytes);
        return bytes;
    }
    *claimed = true;
    if (write)
        s->ops->write(s->dev, addr - s->base, bytes, *value & ones(bytes));
    else
        *value = s->ops->read(s->dev, addr - s->base, bytes) & ones(bytes);
    unpin(s);
    return bytes;
}

static __attribute__((noinline)) bool read_pieces(struct vmc_bus *bus, uint64_t addr,
                                                  unsigned bytes, uint64_t *value)
{
    bool claimed = false;
    uint64_t all = 0;

    for (unsigned done = 0; done < bytes;) {
        uint64_t piece = 0;
        unsigned n =
            access_piece(bus, false, addr + done, floor_pow2(bytes - done), &piece, &claimed);
        all |= piece << (done * 8);
        done += n;
    }
    *value = all;
    return claimed;
}

static __attribute__((noinline)) bool write_pieces(struct vmc_bus *bus, uint64_t addr,
                                                   unsigned bytes, uint64_t value)
{
    bool claimed = false;

    for (unsigned done = 0; done < bytes;) {
        uint64_t piece = value >> (done * 8);
        done += access_piece(bus, true, addr + done, floor_pow2(bytes - done), &piece, &claimed);
    }
    return claimed;
}

bool vmc_bus_read(struct vmc_bus *bus, uint64_t addr, unsigned bytes, uint64_t *value)
{
    struct slot *s = pin_hint(bus, addr, bytes);

    if (unlikely(s == NULL))
        return read_pieces(bus, addr, bytes, value);
    *value = s->ops->read(s->dev, addr - s->base, bytes) & ones(bytes);
    unpin(s);
    return true;
}

bool vmc_bus_write(struct vmc_bus *bus, uint64_t addr, unsigned bytes, uint64_t value)
{
    struct slot *s = pin_hint(bus, addr, bytes);

    if (unlikely(s == NULL))
        return write_pieces(bus, addr, bytes, value);
    s->ops->write(s->dev, addr - s->base, bytes, value & ones(bytes));
    unpin(s);
    return true;
}
