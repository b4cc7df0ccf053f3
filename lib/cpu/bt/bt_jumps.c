/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The tables of jump targets. An entry is right while its address is mapped where it was: flushes
 * of the TLB take entries out. The tables are this vCPU's alone; another thread only stores 0 to
 * the mask.
 */
#include "cpu/bt/bt_work.h"

static unsigned index_of(uint64_t la)
{
    return (unsigned)((la & 0x7ff) | (la >> 12 & 7) << 11);
}
_Static_assert(BT_JUMP_MASK == (0x7ffull | 7ull << 12) && BT_JUMP_BITS == 14, "index_of is PEXT");

/* No address that selects the entry is this one negated. */
static uint64_t none(unsigned i)
{
    return i == 0 ? ~0ull : 0;
}

static void clear(struct bt_jumps *j, unsigned i)
{
    j->neg[i] = none(i);
}

static void clear_table(struct vmci_bt *bt, unsigned mode)
{
    for (unsigned i = 0; i < BT_JUMP_SIZE; i++)
        clear(&bt->jumps[mode], i);
}

static unsigned page_bit(uint64_t la)
{
    return (unsigned)(((la >> VMC_PAGE_SHIFT) * 0x9e3779b97f4a7c15ull) >> 54); /* 10 bits */
}

void bt_jumps_init(struct vmci_soft_cpu *sc)
{
    struct vmci_bt *bt = &sc->bt;

    for (unsigned m = 0; m < BT_JUMP_MODES; m++) {
        clear_table(bt, m);
        bt->jump_bits[m] = 64;
    }
    bt->jump_log_n = 0;
    memset(bt->jump_pages, 0, sizeof(bt->jump_pages));
    bt->jump_mask = BT_JUMP_MASK;
}

/* Is the page that la lies in mapped as global? Then a change of address space leaves it alone. */
static bool is_global(const struct vmci_soft_cpu *sc, uint64_t la)
{
    unsigned mode = sc->cpu.cpl == 3 ? VMCI_TLB_USER : VMCI_TLB_SUP;
    const struct tlb_info *i = &sc->info[mode][vmci_tlb_index(la)];

    return i->la == (la & PAGE_MASK) && i->global;
}

void bt_jumps_enter(struct vmci_soft_cpu *sc, const struct bt_trans *t)
{
    struct vmci_bt *bt = &sc->bt;
    unsigned i = index_of(t->la);

    if (i == 0 || t->mode >= BT_JUMP_MODES)
        return;
    bt->jumps[t->mode].neg[i] = 0 - t->la;
    bt->jumps[t->mode].host[i] = t->canon;
    vmci_bit_set(bt->jump_pages, page_bit(t->la));
    bt->st_jumps++;
    if (t->blk->gpa2 != GPA_NONE || !is_global(sc, t->la)) {
        if (bt->jump_log_n < BT_JUMP_LOG)
            bt->jump_log[bt->jump_log_n] = (uint16_t)(i | (unsigned)t->mode << BT_JUMP_BITS);
        bt->jump_log_n += bt->jump_log_n <= BT_JUMP_LOG;
    }
}

void bt_jumps_forget(struct vmci_soft_cpu *sc, const struct bt_trans *t)
{
    struct bt_jumps *j = &sc->bt.jumps[t->mode];
    unsigned i = index_of(t->la);

    if (j->host[i] == t->canon)
        clear(j, i);
}

void bt_jumps_flush(struct vmci_soft_cpu *sc, bool globals_too)
{
    struct vmci_bt *bt = &sc->bt;

    if (!bt->enabled)
        return;
    if (globals_too || bt->jump_log_n > BT_JUMP_LOG) {
        for (unsigned m = 0; m < BT_JUMP_MODES; m++)
            clear_table(bt, m);
        memset(bt->jump_pages, 0, sizeof(bt->jump_pages));
    } else {
        for (unsigned n = 0; n < bt->jump_log_n; n++) {
            unsigned at = bt->jump_log[n];
            clear(&bt->jumps[at >> BT_JUMP_BITS], at & (BT_JUMP_SIZE - 1));
        }
    }
    bt->jump_log_n = 0;
}

static void flush_in_page(struct vmci_bt *bt, uint64_t page)
{
    if (!vmci_bit_test(bt->jump_pages, page_bit(page)))
        return;
    unsigned first = index_of(page);
    for (unsigned m = 0; m < BT_JUMP_MODES; m++)
        for (unsigned i = first; i < first + 0x800; i++)
            if ((0 - bt->jumps[m].neg[i]) >> VMC_PAGE_SHIFT == page >> VMC_PAGE_SHIFT)
                clear(&bt->jumps[m], i);
}

void bt_jumps_flush_page(struct vmci_soft_cpu *sc, uint64_t la)
{
    if (!sc->bt.enabled)
        return;
    flush_in_page(&sc->bt, la & PAGE_MASK);
    /* An instruction may begin in the page before. */
    flush_in_page(&sc->bt, (la & PAGE_MASK) - VMC_PAGE_SIZE);
}

void bt_jumps_open(struct vmci_soft_cpu *sc)
{
    struct vmci_bt *bt = &sc->bt;

    /* A request that comes now has its own store of 0 behind its bit, or finds ours behind it. */
    vmci_store_relaxed(&bt->jump_mask, BT_JUMP_MASK);
    vmci_fence_seq();
    if (vmci_load_relaxed(&sc->cpu.request) != 0)
        vmci_store_relaxed(&bt->jump_mask, 0ull);
}

void bt_jumps_bits(struct vmci_soft_cpu *sc)
{
    struct vmci_bt *bt = &sc->bt;
    unsigned m = sc->cpu.tlb_mode;

    if (m >= BT_JUMP_MODES || bt->jump_bits[m] == sc->cpu.code_bits)
        return;
    clear_table(bt, m);
    bt->jump_bits[m] = sc->cpu.code_bits;
}
