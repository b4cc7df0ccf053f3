/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The tables of jump targets. An entry is right while its address is mapped where it was: flushes
 * of the TLB take entries out. The tables are this vCPU's alone; another thread only stores 0 to
 * the mask.
 *
 * A program's entries sleep while another address space is in use: when the first target in a page
 * is entered again, and the page is mapped to what it was, the other entries of the page are right
 * again, too. A sleeping entry holds an address that selects another entry, so nothing matches it.
 */
#include "cpu/bt/bt_work.h"

/* No address that selects the entry is this one negated. */
static uint64_t none(unsigned i)
{
    return i == 0 ? ~0ull : 0;
}

static void clear(struct vmci_bt *bt, unsigned mode, unsigned i)
{
    bt->jumps[mode][i].neg = none(i);
}

static void clear_table(struct vmci_bt *bt, unsigned mode)
{
    if (!bt->jump_used[mode])
        return;
    bt->jump_used[mode] = false;
    for (unsigned i = 0; i < BT_JUMP_SIZE; i++)
        clear(bt, mode, i);
}

static unsigned page_bit(uint64_t la)
{
    return (unsigned)(((la >> VMC_PAGE_SHIFT) * 0x9e3779b97f4a7c15ull) >> 50); /* 14 bits */
}

void bt_jumps_init(struct vmci_soft_cpu *sc)
{
    struct vmci_bt *bt = &sc->bt;

    for (unsigned m = 0; m < BT_JUMP_MODES; m++) {
        bt->jump_used[m] = true;
        clear_table(bt, m);
        bt->jump_bits[m] = 64;
    }
    bt->jump_log_n = 0;
    memset(bt->jump_pages, 0, sizeof(bt->jump_pages));
    for (unsigned k = 0; k < BT_JUMP_KNOWN_PAGES; k++)
        bt->jump_known[k].page = ~0ull;
    bt->jump_mask = BT_JUMP_MASK;
}

static uint64_t asleep(uint64_t neg)
{
    return 0 - ((0 - neg) ^ 1);
}
_Static_assert(BT_JUMP_FOLD > 0, "addresses that differ in bit 0 select different entries");

static void log_entry(struct vmci_bt *bt, unsigned mode, unsigned i)
{
    if (bt->jump_log_n < BT_JUMP_LOG)
        bt->jump_log[bt->jump_log_n] = i | (uint32_t)mode << BT_JUMP_BITS;
    bt->jump_log_n += bt->jump_log_n <= BT_JUMP_LOG;
}

/* The other entries of the page, which has this key, are right again. */
static void wake_page(struct vmci_bt *bt, const struct code_page *p, uint64_t page)
{
    for (unsigned word = 0; word < VMCI_ARRAY_SIZE(p->target); word++)
        for (uint64_t bits = p->target[word]; bits != 0; bits &= bits - 1) {
            uint64_t key = page + 64 * word + (unsigned)__builtin_ctzll(bits);
            unsigned i = bt_jump_index(key);
            struct bt_jump *e = &bt->jumps[VMCI_TLB_USER][i];
            if (bt->jump_gpa[i] != p->gpa || e->neg != asleep(0 - key))
                continue;
            e->neg = 0 - key;
            log_entry(bt, VMCI_TLB_USER, i);
        }
}

/* Entry i, of a program, is right, and so are others of its page. */
static void enter_program(struct vmci_soft_cpu *sc, unsigned i, const struct bt_trans *t)
{
    struct vmci_bt *bt = &sc->bt;
    struct code_page *p = code_page_find(sc, t->blk->gpa & PAGE_MASK);

    bt->jump_gpa[i] = p != NULL && t->blk->gpa2 == GPA_NONE ? p->gpa : GPA_NONE;
    if (bt->jump_gpa[i] == GPA_NONE)
        return;
    if (p->woken != bt->jump_naps)
        wake_page(bt, p, t->key & PAGE_MASK);
    p->woken = bt->jump_naps;
    vmci_bit_set(p->target, (unsigned)(t->blk->gpa & ~PAGE_MASK));
}

static struct bt_jump_known *known(struct vmci_bt *bt, uint64_t page)
{
    return &bt->jump_known[page_bit(page) % BT_JUMP_KNOWN_PAGES];
}

/* The page has an entry there. */
static void note_known(struct vmci_bt *bt, uint64_t page, uint32_t at)
{
    struct bt_jump_known *k = known(bt, page);

    if (k->page != page || k->n > BT_JUMP_KNOWN)
        return;
    for (unsigned n = 0; n < k->n; n++)
        if (k->at[n] == at)
            return;
    if (k->n < BT_JUMP_KNOWN)
        k->at[k->n] = at;
    k->n++;
}

void bt_jumps_enter(struct vmci_soft_cpu *sc, const struct bt_trans *t)
{
    struct vmci_bt *bt = &sc->bt;
    unsigned i = bt_jump_index(t->key);
    uint64_t page = bt_key_la(t->key) & PAGE_MASK;

    if (i == 0 || t->mode >= BT_JUMP_MODES)
        return;
    bt->jumps[t->mode][i] = (struct bt_jump){0 - t->key, t->canon};
    bt->jump_used[t->mode] = true;
    vmci_bit_set(bt->jump_pages, page_bit(page));
    note_known(bt, page, i | (uint32_t)t->mode << BT_JUMP_BITS);
    bt->st_jumps++;
    if (t->blk->global)
        return;
    log_entry(bt, t->mode, i);
    if (t->mode == VMCI_TLB_USER)
        enter_program(sc, i, t);
}

bool bt_jumps_forget(struct vmci_soft_cpu *sc, const struct bt_trans *t)
{
    unsigned i = bt_jump_index(t->key);
    const struct bt_jump *e = &sc->bt.jumps[t->mode][i];
    bool there = e->host == t->canon && e->neg != none(i);

    if (e->host == t->canon)
        clear(&sc->bt, t->mode, i);
    return there;
}

void bt_jumps_flush(struct vmci_soft_cpu *sc, bool globals_too)
{
    struct vmci_bt *bt = &sc->bt;

    if (!bt->enabled)
        return;
    if (globals_too)
        bt_far_flush(bt);
    if (globals_too || bt->jump_log_n > BT_JUMP_LOG) {
        for (unsigned m = 0; m < BT_JUMP_MODES; m++)
            clear_table(bt, m);
        memset(bt->jump_pages, 0, sizeof(bt->jump_pages));
    } else {
        for (unsigned n = 0; n < bt->jump_log_n; n++) {
            unsigned mode = bt->jump_log[n] >> BT_JUMP_BITS;
            unsigned i = bt->jump_log[n] & (BT_JUMP_SIZE - 1);
            uint64_t neg = bt->jumps[mode][i].neg;
            if (mode != VMCI_TLB_USER || bt_jump_index(0 - neg) != i)
                clear(bt, mode, i);
            else
                bt->jumps[mode][i].neg = asleep(neg);
        }
    }
    bt->jump_log_n = 0;
    bt->jump_naps++;
}

static void clear_in_page(struct vmci_bt *bt, unsigned mode, unsigned i, uint64_t page)
{
    if (bt_key_la(0 - bt->jumps[mode][i].neg) >> VMC_PAGE_SHIFT == page >> VMC_PAGE_SHIFT)
        clear(bt, mode, i);
}

static void scan_page(struct vmci_bt *bt, uint64_t page)
{
    struct bt_jump_known *known_at = known(bt, page);

    if (known_at->page == page && known_at->n <= BT_JUMP_KNOWN) {
        for (unsigned n = 0; n < known_at->n; n++)
            clear_in_page(bt, known_at->at[n] >> BT_JUMP_BITS, known_at->at[n] & (BT_JUMP_SIZE - 1),
                          page);
    } else {
        unsigned first = bt_jump_index(page);
        unsigned span = VMC_PAGE_SIZE + (VMC_PAGE_SIZE >> BT_JUMP_FOLD);
        for (unsigned m = 0; m < BT_JUMP_MODES; m++)
            for (unsigned k = 0; bt->jump_used[m] && k < span; k++)
                clear_in_page(bt, m, (first + k) & BT_JUMP_MASK, page);
    }
    known_at->page = page;
    known_at->n = 0;
}

static void flush_in_page(struct vmci_bt *bt, uint64_t page)
{
    if (vmci_bit_test(bt->jump_pages, page_bit(page)))
        scan_page(bt, page);
}

void bt_jumps_flush_page(struct vmci_soft_cpu *sc, uint64_t la)
{
    struct vmci_bt *bt = &sc->bt;
    uint64_t page = la & PAGE_MASK;

    if (!bt->enabled)
        return;
    /* An instruction may begin in the page before. */
    for (unsigned n = 0; n < 2; n++, page -= VMC_PAGE_SIZE) {
        bt_far_flush_page(bt, page);
        flush_in_page(bt, page);
    }
}

void bt_jumps_flush_range(struct vmci_soft_cpu *sc, uint64_t la, uint64_t bytes)
{
    struct vmci_bt *bt = &sc->bt;

    if (!bt->enabled)
        return;
    la -= VMC_PAGE_SIZE; /* as above */
    bt_far_flush_range(bt, la, bytes + VMC_PAGE_SIZE);
    for (uint64_t at = 0; at <= bytes; at += VMC_PAGE_SIZE)
        flush_in_page(bt, la + at);
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
    /* Flat and segmented code cannot ask for each other's; 64-bit code can ask for any number. */
    uint8_t bits = sc->cpu.code_bits == 64 ? 64 : 32;

    if (m >= BT_JUMP_MODES || bt->jump_bits[m] == bits)
        return;
    clear_table(bt, m);
    bt->jump_bits[m] = bits;
}
