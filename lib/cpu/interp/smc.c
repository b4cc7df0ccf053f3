/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Self- and cross-modifying code (SDM 3A 8.1.3).
 *
 * A page of which any vCPU caches code carries VMCI_PG_CODE, and no TLB gives direct write access
 * to it: every store to it comes to smc_written. Own blocks are dropped at once; a store into the
 * running block ends it after the instruction. Other vCPUs get the page in their inval slots and
 * see it between two blocks, in any case before anything that the writer stored afterwards.
 *
 * The flag may be set while other vCPUs hold write access to the page. They are asked to give it
 * up (code_seq); until each has passed that flush, blocks of the page are tentative: compared with
 * memory whenever they are entered.
 */
#include "cpu/interp/mem.h"

#define PATIENCE_MIN 256u
#define PATIENCE_MAX 65536u

static unsigned owner_slot(uint64_t gpa)
{
    return (unsigned)(((gpa >> VMC_PAGE_SHIFT) * 0x9e3779b97f4a7c15ull) >> 52);
}
_Static_assert(OWNER_SLOTS == 1u << 12, "owner_slot takes 12 bits");

static uint64_t cpu_bit(const struct vmci_soft_cpu *sc)
{
    return 1ull << (sc->cpu.index % 64);
}

/* ---- giving up write access ------------------------------------------------------------------ */

bool smc_settled(const struct vmci_soft_vm *vm, uint64_t seq)
{
    for (uint32_t i = 0; i < vm->count; i++)
        if (vm->cpu[i] != NULL && vmci_load_acquire(&vm->cpu[i]->ack_seq) < seq)
            return false;
    return true;
}

static void ask_flush(struct vmci_soft_cpu *sc)
{
    struct vmci_soft_vm *vm = sc->cpu.vm;

    /* Own write access is gone already; a lone vCPU has nobody to wait for. */
    uint64_t seq = vmci_fetch_add(&vm->code_seq, 1) + 1;
    for (uint32_t i = 0; i < vm->count; i++)
        if (vm->cpu[i] != NULL && vm->cpu[i] != sc)
            soft_request(vm->cpu[i], VMCI_REQ_CODE);
    if (sc->ack_seq == seq - 1)
        vmci_store_release(&sc->ack_seq, seq);
}

void smc_enter(struct vmci_soft_cpu *sc)
{
    vmci_store_release(&sc->ack_seq, 0); /* first be counted, then look */
    vmci_fence_seq();
    /* Nothing was given up meanwhile: the access that the vCPU left with is still good. */
    if (vmci_load_acquire(&sc->cpu.vm->code_seq) == sc->left_seq)
        vmci_store_release(&sc->ack_seq, sc->left_seq);
    smc_process(sc);
}

void smc_leave(struct vmci_soft_cpu *sc)
{
    sc->left_seq = sc->ack_seq;
    vmci_store_release(&sc->ack_seq, UINT64_MAX);
}

void smc_adopt_page(struct vmci_soft_cpu *sc, struct code_page *p, uint8_t *flags)
{
    unsigned slot = owner_slot(p->gpa);

    if (!p->adopted) {
        p->adopted = true;
        if (sc->slot_pages[slot]++ == 0)
            (void)vmci_fetch_or(&sc->cpu.vm->owners[slot], cpu_bit(sc));
    }
    if ((vmci_load_relaxed(flags) & VMCI_PG_CODE) == 0 &&
        (vmci_fetch_or(flags, (uint8_t)VMCI_PG_CODE) & VMCI_PG_CODE) == 0) {
        soft_tlb_drop_write(sc, p->gpa);
        ask_flush(sc);
    }
}

void smc_disown_page(struct vmci_soft_cpu *sc, struct code_page *p)
{
    unsigned slot = owner_slot(p->gpa);

    if (!p->adopted)
        return;
    p->adopted = false;
    if (--sc->slot_pages[slot] == 0)
        (void)vmci_fetch_and(&sc->cpu.vm->owners[slot], ~cpu_bit(sc));
}

void smc_disown_all(struct vmci_soft_cpu *sc)
{
    for (unsigned i = 0; i < OWNER_SLOTS; i++)
        if (sc->slot_pages[i] != 0) {
            sc->slot_pages[i] = 0;
            (void)vmci_fetch_and(&sc->cpu.vm->owners[i], ~cpu_bit(sc));
        }
}

/* ---- invalidation ---------------------------------------------------------------------------- */

static void post(struct vmci_soft_cpu *to, uint64_t page)
{
    unsigned at = (unsigned)(page >> VMC_PAGE_SHIFT) % INVAL_SLOTS;

    for (unsigned i = 0; i < INVAL_SLOTS; i++) {
        uint64_t *slot = &to->inval[(at + i) % INVAL_SLOTS], seen = 0;
        if (__atomic_compare_exchange_n(slot, &seen, page | 1, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE) ||
            seen == (page | 1))
            goto ring;
    }
    vmci_store_release(&to->inval_all, 1u);
ring:
    soft_request(to, VMCI_REQ_CODE);
}

void smc_notify(struct vmci_soft_vm *vm, uint64_t gpa, uint64_t bytes,
                const struct vmci_soft_cpu *except)
{
    for (uint64_t page = gpa & PAGE_MASK; page < gpa + bytes; page += VMC_PAGE_SIZE) {
        uint64_t who = vmci_load_acquire(&vm->owners[owner_slot(page)]);
        for (uint32_t i = 0; who != 0 && i < vm->count; i++)
            if (vm->cpu[i] != NULL && vm->cpu[i] != except && (who >> (i % 64) & 1) != 0)
                post(vm->cpu[i], page);
    }
}

static void kill_page(struct vmci_soft_cpu *sc, struct code_page *p)
{
    while (p->blocks != NULL)
        block_kill(sc, p->blocks);
    while (p->tails != NULL)
        block_kill(sc, p->tails);
    p->chunks = 0;
    p->misses = 0;
}

void smc_process(struct vmci_soft_cpu *sc)
{
    uint64_t seq = vmci_load_acquire(&sc->cpu.vm->code_seq);

    if (vmci_load_relaxed(&sc->ack_seq) != seq) {
        soft_tlb_drop_write(sc, GPA_NONE);
        vmci_fence_seq(); /* stores made with the old access are visible before the ack */
        vmci_store_release(&sc->ack_seq, seq);
    }
    if (vmci_exchange(&sc->inval_all, 0u) != 0) {
        block_flush_all(sc);
        return;
    }
    for (unsigned i = 0; i < INVAL_SLOTS; i++) {
        if (vmci_load_relaxed(&sc->inval[i]) == 0)
            continue;
        struct code_page *p = code_page_find(sc, vmci_exchange(&sc->inval[i], 0ull) & PAGE_MASK);
        if (p != NULL)
            kill_page(sc, p);
    }
}

/* Does b hold bytes of [off, off+bytes) of the page? */
static bool overlaps(const struct block *b, uint64_t page, unsigned off, unsigned bytes)
{
    unsigned start = (unsigned)(b->gpa & ~PAGE_MASK), end = start + b->bytes;

    if (b->gpa2 == page) { /* the part on the second page */
        start = 0;
        end -= VMC_PAGE_SIZE;
    }
    return start < off + bytes && off < end;
}

static void stop_if_running(struct vmci_soft_cpu *sc, const struct block *b)
{
    if (sc->cpu.blk == b->insn)
        vmci_stop_block(&sc->cpu);
}

static bool kill_range(struct vmci_soft_cpu *sc, struct code_page *p, unsigned off, unsigned bytes)
{
    bool hit = false;
    struct block *next;

    for (struct block *b = p->blocks; b != NULL; b = next) {
        next = b->page_next;
        if (overlaps(b, p->gpa, off, bytes)) {
            stop_if_running(sc, b);
            block_kill(sc, b);
            hit = true;
        }
    }
    for (struct block *b = p->tails; b != NULL; b = next) {
        next = b->tail_next;
        if (overlaps(b, p->gpa, off, bytes)) {
            stop_if_running(sc, b);
            block_kill(sc, b);
            hit = true;
        }
    }
    return hit;
}

static uint64_t chunk_mask(unsigned off, unsigned bytes)
{
    unsigned first = off / 64, last = (off + bytes - 1) / 64;
    return (~0ull << first) & (~0ull >> (63 - last));
}

static void recompute_chunks(struct code_page *p)
{
    p->chunks = 0;
    for (struct block *b = p->blocks; b != NULL; b = b->page_next)
        p->chunks |= chunk_mask((unsigned)(b->gpa & ~PAGE_MASK),
                                VMCI_MIN(b->bytes, VMC_PAGE_SIZE - (unsigned)(b->gpa & ~PAGE_MASK)));
    for (struct block *b = p->tails; b != NULL; b = b->tail_next)
        p->chunks |= chunk_mask(0, (unsigned)(b->gpa & ~PAGE_MASK) + b->bytes - VMC_PAGE_SIZE);
}

/* Nobody caches code of the page any more: let writes through again. */
static void release_page(struct vmci_soft_cpu *sc, uint64_t page, uint8_t *flags)
{
    uint64_t *owners = &sc->cpu.vm->owners[owner_slot(page)];

    if ((vmci_load_acquire(owners) & ~cpu_bit(sc)) != 0)
        return;
    (void)vmci_fetch_and(flags, (uint8_t)~VMCI_PG_CODE);
    vmci_fence_seq();
    if ((vmci_load_acquire(owners) & ~cpu_bit(sc)) != 0) {
        /* Another vCPU adopted the page meanwhile. */
        (void)vmci_fetch_or(flags, (uint8_t)VMCI_PG_CODE);
        soft_tlb_drop_write(sc, page);
        ask_flush(sc);
        smc_notify(sc->cpu.vm, page, 1, sc);
    }
}

void smc_written(struct vmci_soft_cpu *sc, uint64_t gpa, unsigned bytes, uint8_t *flags)
{
    uint64_t page = gpa & PAGE_MASK;
    unsigned off = (unsigned)(gpa & ~PAGE_MASK);
    struct code_page *p = code_page_find(sc, page);

    sc->stat[STAT_CODE_WRITES]++;
    if (p != NULL && (p->chunks & chunk_mask(off, bytes)) != 0 && kill_range(sc, p, off, bytes)) {
        recompute_chunks(p);
        p->misses = 0;
    } else if (p != NULL && p->chunks != 0 && ++p->misses >= p->patience) {
        /* A page that is written so often has become data, or holds both. */
        if (sc->cpu.blk != NULL)
            vmci_stop_block(&sc->cpu);
        kill_page(sc, p);
        p->patience = VMCI_MIN(VMCI_MAX(p->patience, PATIENCE_MIN) * 2, PATIENCE_MAX);
    }
    if (p == NULL || p->chunks == 0)
        release_page(sc, page, flags);
    if ((vmci_load_acquire(&sc->cpu.vm->owners[owner_slot(page)]) & ~cpu_bit(sc)) != 0)
        smc_notify(sc->cpu.vm, page, 1, sc);
}
