/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The software TLB: filling, flushing, and every access that is not a plain hit: page crossings,
 * devices, ROM, pages with cached code, watched pages, alignment checks.
 */
#include "cpu/interp/mem.h"

/* ---- entries --------------------------------------------------------------------------------- */

/* Where the tags of an entry are. */
struct tlb_at {
    struct vmci_tlb *t;
    unsigned n;
};

static struct tlb_at tags(struct vmci_soft_cpu *sc, const struct tlb_info *i)
{
    size_t at = (size_t)(i - &sc->info[0][0]);
    return (struct tlb_at){&sc->cpu.tlb[at / VMCI_TLB_SIZE], (unsigned)(at % VMCI_TLB_SIZE)};
}

static uint32_t *wr_count(struct vmci_soft_cpu *sc, uint64_t gpa)
{
    return &sc->tlb_wr[(gpa >> VMC_PAGE_SHIFT) % TLB_WR_COUNTS];
}

/* The first entry from n on of those that may hold something; VMCI_TLB_SIZE: none does. */
static unsigned next_used(const struct vmci_soft_cpu *sc, unsigned m, unsigned n)
{
    if (n % TLB_RUN != 0)
        return n;
    for (unsigned r = n / TLB_RUN; r < TLB_RUNS; r = (r / 64 + 1) * 64) {
        uint64_t left = sc->tlb_used[m][r / 64] >> r % 64;
        if (left != 0)
            return (r + (unsigned)__builtin_ctzll(left)) * TLB_RUN;
    }
    return VMCI_TLB_SIZE;
}

/*
 * Writes through the entry were not seen by the dirty log since it was last read: whoever drops
 * write access marks the page once more.
 */
static void drop_wr(struct vmci_soft_cpu *sc, struct tlb_info *i, struct tlb_at e)
{
    uint64_t none = vmci_tlb_none(e.n);

    if (e.t->wr[e.n] == none)
        return;
    if (vmci_load_relaxed(&sc->cpu.mem->dirty_clients) != 0)
        vmci_mem_mark_dirty(sc->cpu.mem, i->gpa, VMC_PAGE_SIZE);
    e.t->wr[e.n] = none;
    --*wr_count(sc, i->gpa);
}

static void evict(struct vmci_soft_cpu *sc, struct tlb_info *i)
{
    struct tlb_at e = tags(sc, i);

    drop_wr(sc, i, e);
    e.t->rd[e.n] = e.t->ex[e.n] = vmci_tlb_none(e.n);
    i->la = VMCI_TLB_NONE;
    i->rights = 0;
}

void soft_tlb_init(struct vmci_soft_cpu *sc)
{
    for (unsigned m = 0; m < VMCI_TLB_MODES; m++)
        for (unsigned i = 0; i < VMCI_TLB_SIZE; i++) {
            struct vmci_tlb *t = &sc->cpu.tlb[m];
            t->rd[i] = t->wr[i] = t->ex[i] = vmci_tlb_none(i);
        }
    for (unsigned m = 0; m < TLB_FILLED; m++)
        for (unsigned i = 0; i < VMCI_TLB_SIZE; i++)
            sc->info[m][i] = (struct tlb_info){.la = VMCI_TLB_NONE};
    sc->tlb_log_n = 0;
    memset(sc->tlb_used, 0, sizeof(sc->tlb_used));
    memset(sc->tlb_wr, 0, sizeof(sc->tlb_wr));
    for (unsigned n = 0; n < TLB_HALVES; n++)
        sc->half[n].epoch = 1;
}

static void flush_matching(struct vmci_soft_cpu *sc, bool globals_too)
{
    for (unsigned m = 0; m < TLB_FILLED; m++)
        for (unsigned n = next_used(sc, m, 0); n < VMCI_TLB_SIZE; n = next_used(sc, m, n + 1)) {
            struct tlb_info *i = &sc->info[m][n];
            if (i->la != VMCI_TLB_NONE && (globals_too || !i->global))
                evict(sc, i);
        }
    if (globals_too)
        memset(sc->tlb_used, 0, sizeof(sc->tlb_used));
}

/* Blocks of this half of the address space must be looked up again. */
static void new_epoch(struct vmci_soft_cpu *sc, unsigned half)
{
    struct tlb_half *h = &sc->half[half];

    h->epoch++;
    h->local_code = false;
    memset(h->code, 0, sizeof(h->code));
    soft_new_key(sc);
}

void vmci_tlb_flush(struct vmci_cpu *cpu, bool globals_too)
{
    struct vmci_soft_cpu *sc = soft_of(cpu);

    sc->stat[STAT_TLB_FLUSHES]++;
    if (sc->foreign)
        globals_too = sc->tlb_log_n > TLB_LOG; /* none is kept as global: the log has them all */
    bt_jumps_flush(sc, globals_too);
    if (globals_too || sc->tlb_log_n > TLB_LOG) {
        flush_matching(sc, globals_too);
    } else {
        for (unsigned n = 0; n < sc->tlb_log_n; n++) {
            struct tlb_info *i = &sc->info[0][0] + sc->tlb_log[n];
            if (i->la != VMCI_TLB_NONE && !i->global)
                evict(sc, i);
        }
    }
    sc->tlb_log_n = 0;
    for (unsigned n = 0; n < TLB_HALVES; n++) {
        struct tlb_half *h = &sc->half[n];
        if (globals_too) {
            memset(h->large_2m, 0, sizeof(h->large_2m));
            memset(h->large_1g, 0, sizeof(h->large_1g));
        }
        if (globals_too || h->local_code)
            new_epoch(sc, n);
    }
}

/*
 * Rights that PKRU takes away must go from the entries too; those that it gives are found by the
 * next walk. Switching CR4.PKE flushes everything.
 */
void vmci_set_pkru(struct vmci_cpu *cpu, uint32_t pkru)
{
    struct vmci_soft_cpu *sc = soft_of(cpu);
    uint32_t taken = pkru & ~cpu->pkru;
    uint32_t keys = 0;

    cpu->pkru = pkru;
    if ((cpu->cr4 & VMC_CR4_PKE) == 0)
        return;
    for (unsigned k = 0; k < 16; k++)
        if ((taken >> (2 * k) & 3u) != 0)
            keys |= 1u << k;
    keys &= sc->tlb_keys;
    if (keys == 0)
        return;
    for (unsigned m = 0; m < TLB_FILLED; m++)
        for (unsigned n = next_used(sc, m, 0); n < VMCI_TLB_SIZE; n = next_used(sc, m, n + 1)) {
            struct tlb_info *i = &sc->info[m][n];
            if (i->la != VMCI_TLB_NONE && i->keyed && (keys >> i->pkey & 1u) != 0)
                evict(sc, i);
        }
    sc->tlb_keys &= (uint16_t)~keys;
}

static unsigned large_bit(uint64_t unit)
{
    return (unsigned)((unit * 0x9e3779b97f4a7c15ull) >> 50); /* 14 bits */
}

/* Pieces of a large page: all entries within 2^bits bytes. */
static void flush_large(struct vmci_soft_cpu *sc, uint64_t la, unsigned bits)
{
    for (unsigned m = 0; m < TLB_FILLED; m++)
        for (unsigned n = next_used(sc, m, 0); n < VMCI_TLB_SIZE; n = next_used(sc, m, n + 1)) {
            struct tlb_info *i = &sc->info[m][n];
            if (i->la != VMCI_TLB_NONE && ((i->la ^ la) >> bits) == 0)
                evict(sc, i);
        }
    if (bits > 22) {
        bt_jumps_flush(sc, true);
        new_epoch(sc, soft_half(la));
        return;
    }
    la = la >> bits << bits;
    bt_jumps_flush_range(sc, la, 1ull << bits);
    for (uint64_t at = 0; at < 1ull << bits; at += VMC_PAGE_SIZE)
        if (vmci_bit_test(sc->half[soft_half(la)].code, tlb_code_bit(la + at))) {
            new_epoch(sc, soft_half(la));
            break;
        }
}

void vmci_tlb_flush_page(struct vmci_cpu *cpu, uint64_t la)
{
    struct vmci_soft_cpu *sc = soft_of(cpu);
    struct tlb_half *h = &sc->half[soft_half(la)];

    if (unlikely(vmci_bit_test(h->large_1g, large_bit(la >> 30)))) {
        flush_large(sc, la, 30);
        return;
    }
    if (unlikely(vmci_bit_test(h->large_2m, large_bit(la >> 21)))) {
        /* 4 MiB pages come as two. */
        flush_large(sc, la, (cpu->cr4 & VMC_CR4_PAE) != 0 ? 21 : 22);
        return;
    }
    for (unsigned m = 0; m < TLB_FILLED; m++) {
        struct tlb_info *i = &sc->info[m][vmci_tlb_index(la)];
        if (i->la == (la & PAGE_MASK))
            evict(sc, i);
    }
    bt_jumps_flush_page(sc, la);
    if (vmci_bit_test(h->code, tlb_code_bit(la)))
        new_epoch(sc, soft_half(la));
}

void soft_tlb_drop_write(struct vmci_soft_cpu *sc, uint64_t gpa)
{
    if (gpa != GPA_NONE && *wr_count(sc, gpa) == 0)
        return;
    for (unsigned m = 0; m < TLB_FILLED; m++)
        for (unsigned n = next_used(sc, m, 0); n < VMCI_TLB_SIZE; n = next_used(sc, m, n + 1)) {
            struct tlb_at e = {&sc->cpu.tlb[m], n};
            if (e.t->wr[n] != vmci_tlb_none(n) && (gpa == GPA_NONE || sc->info[m][n].gpa == gpa))
                drop_wr(sc, &sc->info[m][n], e);
        }
}

void soft_tlb_forget(struct vmci_soft_cpu *sc)
{
    vmci_tlb_flush(&sc->cpu, true);
}

/* ---- filling --------------------------------------------------------------------------------- */

static uint32_t walk_access(unsigned mode, unsigned acc, uint32_t extra)
{
    uint32_t a = acc == TLB_W ? VMC_ACC_WRITE : acc == TLB_X ? VMC_ACC_FETCH : VMC_ACC_READ;

    if (mode == VMCI_TLB_USER)
        a |= VMC_ACC_USER;
    else if (mode == VMCI_TLB_SUP_AC)
        a |= VMC_ACC_AC;
    return a | extra;
}

static int walk(struct vmci_cpu *cpu, uint64_t la, uint32_t access, struct vmc_walk *w)
{
    struct vmc_paging pg = {
        .cr0 = cpu->cr0,
        .cr3 = cpu->cr3,
        .cr4 = cpu->cr4,
        .efer = cpu->efer,
        .phys_bits = cpu->phys_bits,
        .without = cpu->paging_lacks,
        .pkru = cpu->pkru,
    };
    for (unsigned i = 0; i < 4; i++)
        pg.pdpte[i] = cpu->pdpte[i];
    for (;;) {
        int rc = vmci_walk_gva(cpu->mem, &pg, la, access, w);
        if (likely(rc == 0))
            return 0;
        if (rc != VMC_EAGAIN)
            return vmci_raise_pf(cpu, la, w->fault_code);
        rc = soft_mem_bring(soft_of(cpu), w->gpa, (w->rights & VMC_RIGHT_WRITE) != 0);
        if (rc != 0)
            return rc;
    }
}

static void note_filled(struct vmci_soft_cpu *sc, const struct tlb_info *i, uint64_t page_bytes)
{
    if (!i->global && sc->tlb_log_n <= TLB_LOG) {
        if (sc->tlb_log_n < TLB_LOG)
            sc->tlb_log[sc->tlb_log_n] = (uint32_t)(i - &sc->info[0][0]);
        sc->tlb_log_n++;
    }
    struct tlb_half *h = &sc->half[soft_half(i->la)];
    if (page_bytes >= 1u << 30)
        vmci_bit_set(h->large_1g, large_bit(i->la >> 30));
    else if (page_bytes > VMC_PAGE_SIZE) { /* 4 MiB pages: INVLPG of either half means both */
        vmci_bit_set(h->large_2m, large_bit(i->la >> 21));
        vmci_bit_set(h->large_2m, large_bit((i->la >> 21) ^ 1));
    }
}

static void set_tags(struct vmci_soft_cpu *sc, struct tlb_info *i, unsigned acc)
{
    struct tlb_at e = tags(sc, i);
    uint64_t tag = 0 - i->la;

    if (i->hva == NULL || i->watched) {
        /* Fetches of watched pages are direct: instruction breakpoints are checked elsewhere. */
        if (i->hva != NULL && acc == TLB_X) {
            e.t->addend[e.n] = (uintptr_t)i->hva - (uintptr_t)i->la;
            e.t->page[e.n] = (uintptr_t)i->hva;
            e.t->ex[e.n] = tag;
        }
        return;
    }
    e.t->addend[e.n] = (uintptr_t)i->hva - (uintptr_t)i->la;
    e.t->page[e.n] = (uintptr_t)i->hva;
    if (acc == TLB_X)
        e.t->ex[e.n] = tag;
    else
        e.t->rd[e.n] = tag;
    if (acc == TLB_W && i->writable && (vmci_load_acquire(i->flags) & VMCI_PG_CODE) == 0) {
        if (e.t->wr[e.n] == vmci_tlb_none(e.n))
            ++*wr_count(sc, i->gpa);
        e.t->wr[e.n] = tag;
    }
}

static bool wr_tag_empty(struct vmci_soft_cpu *sc, const struct tlb_info *i)
{
    struct tlb_at e = tags(sc, i);
    return e.t->wr[e.n] == vmci_tlb_none(e.n);
}

/* Of an operand in the stack segment #SS; pushes and pops correct it themselves. */
static unsigned noncanonical_vector(const struct vmci_cpu *cpu, unsigned acc)
{
    const struct vmci_insn *in = cpu->cur;

    if (acc != TLB_X && in != NULL && (in->flags & VMCI_IF_MEM) != 0 && in->seg == VMC_SS)
        return VMC_VEC_SS;
    return VMC_VEC_GP;
}

int soft_tlb_get(struct vmci_cpu *cpu, unsigned mode, uint64_t la, unsigned acc, uint32_t extra,
                 struct tlb_info **out)
{
    struct vmci_soft_cpu *sc = soft_of(cpu);
    struct tlb_info *i = &sc->info[mode][vmci_tlb_index(la)];
    uint64_t page = la & PAGE_MASK;
    struct vmci_page pg = {0};
    struct vmc_walk w;

    *out = i;
again:
    if (i->la == page && (i->rights & acc) != 0) {
        /* A page that lost its code becomes directly writable again. */
        if (acc == TLB_W && i->hva != NULL && i->writable &&
            (vmci_load_acquire(i->flags) & VMCI_PG_CODE) == 0 && wr_tag_empty(sc, i)) {
            struct vmci_page again;
            (void)vmci_mem_resolve(cpu->mem, i->gpa, true, &again); /* for the dirty log */
            set_tags(sc, i, acc);
        }
        return 0;
    }
    if (unlikely(vmci_long_mode(cpu) && !vmci_canonical(cpu, la)))
        return vmci_raise_code(cpu, noncanonical_vector(cpu, acc), 0);
    int rc = walk(cpu, la, walk_access(mode, acc, extra), &w);
    if (rc != 0)
        return rc;

    uint64_t gpa = w.gpa & PAGE_MASK;
    rc = vmci_mem_resolve(cpu->mem, gpa, acc == TLB_W, &pg);
    if (unlikely(rc == VMC_EAGAIN)) {
        rc = soft_mem_bring(sc, gpa, acc == TLB_W);
        if (rc != 0)
            return rc;
        goto again; /* the walk may give another page by now */
    }
    if (rc != VMC_OK)
        pg = (struct vmci_page){0};
    if (i->la != page || i->gpa != gpa || i->hva != pg.hva) {
        if (i->la != VMCI_TLB_NONE)
            evict(sc, i);
        vmci_bit_set(sc->tlb_used[mode], vmci_tlb_index(la) / TLB_RUN);
        i->writable = false;
        i->la = page;
        i->gpa = gpa;
        i->global =
            (w.rights & VMC_RIGHT_GLOBAL) != 0 && (cpu->cr4 & VMC_CR4_PGE) != 0 && !sc->foreign;
        i->watched = soft_watched(sc, page);
        note_filled(sc, i, w.page_bytes);
    }
    i->hva = pg.hva;
    i->flags = pg.flags;
    i->writable = i->writable || pg.writable; /* of a space's pages only a write's fill says so */
    i->keyed = (w.rights & VMC_RIGHT_USER) != 0;
    i->pkey = w.pkey;
    if (i->keyed)
        sc->tlb_keys |= (uint16_t)(1u << i->pkey);
    i->rights |= (uint8_t)(acc == TLB_W ? TLB_R | TLB_W : acc);
    set_tags(sc, i, acc);
    sc->stat[STAT_TLB_FILLS]++;
    return 0;
}

/* ---- accesses piece by piece ----------------------------------------------------------------- */

/* An access within one or two pages, translated. */
struct span {
    struct tlb_info i[2]; /* copies: a fill may evict the first */
    unsigned n;
    unsigned len[2];
    unsigned off;
};

/* Rights to access memory with: a filled mode and extra bits for the walk. */
struct how {
    uint8_t mode;
    bool aligned; /* #AC applies */
    bool operand; /* the address has as many bits as the code has */
    uint32_t extra;
};

static struct how how_now(const struct vmci_cpu *cpu)
{
    bool align = cpu->tlb_mode == VMCI_TLB_ALIGN;
    return (struct how){align ? VMCI_TLB_USER : cpu->tlb_mode, align, true, 0};
}
static struct how how_sys(void)
{
    return (struct how){VMCI_TLB_SUP, false, false, VMC_ACC_IMPLICIT};
}
static struct how how_cpl(const struct vmci_cpu *cpu, unsigned cpl)
{
    if (cpl == 3)
        return (struct how){VMCI_TLB_USER, false, false, 0};
    bool ac = (cpu->rflags & VMC_FLAG_AC) != 0 && cpu->cpl < 3;
    return (struct how){ac ? VMCI_TLB_SUP_AC : VMCI_TLB_SUP, false, false, 0};
}

static uint64_t wrap(const struct vmci_cpu *cpu, uint64_t la)
{
    return vmci_long_mode(cpu) && (cpu->code_bits == 64 || la >> 32 > 1) ? la : (uint32_t)la;
}

static int translate(struct vmci_cpu *cpu, struct how h, uint64_t la, unsigned bytes, unsigned acc,
                     struct span *s)
{
    struct tlb_info *i;

    if (h.operand || !vmci_long_mode(cpu)) /* it may be a piece beyond 4 GiB */
        la = wrap(cpu, la);
    s->off = la & (VMC_PAGE_SIZE - 1);
    s->len[0] = VMCI_MIN(bytes, VMC_PAGE_SIZE - s->off);
    s->len[1] = bytes - s->len[0];
    s->n = s->len[1] != 0 ? 2 : 1;
    int rc = soft_tlb_get(cpu, h.mode, la, acc, h.extra, &i);
    if (rc != 0)
        return rc;
    s->i[0] = *i;
    if (s->n == 2) {
        uint64_t seen = soft_of(cpu)->mem_seen;
        rc = soft_tlb_get(cpu, h.mode, wrap(cpu, la + s->len[0]), acc, h.extra, &i);
        if (rc != 0)
            return rc;
        if (unlikely(soft_of(cpu)->mem_seen != seen)) /* the first may be gone again */
            return translate(cpu, h, la, bytes, acc, s);
        s->i[1] = *i;
    }
    return 0;
}

/* Copies of up to 64 bytes; sizes of operands go as one access. */
VMCI_GUESTS_RACE static void copy_in(void *dst, const uint8_t *src, unsigned n)
{
    switch (n) {
    case 1:
        *(uint8_t *)dst = *(const volatile uint8_t *)src;
        return;
    case 2:
        *(u16_u *)dst = *(const volatile u16_u *)(const void *)src;
        return;
    case 4:
        *(u32_u *)dst = *(const volatile u32_u *)(const void *)src;
        return;
    case 8:
        *(u64_u *)dst = *(const volatile u64_u *)(const void *)src;
        return;
    default:
        copy_bytes(dst, src, n);
    }
}

VMCI_GUESTS_RACE static void copy_out(uint8_t *dst, const void *src, unsigned n)
{
    switch (n) {
    case 1:
        *(volatile uint8_t *)dst = *(const uint8_t *)src;
        return;
    case 2:
        *(volatile u16_u *)(void *)dst = *(const u16_u *)src;
        return;
    case 4:
        *(volatile u32_u *)(void *)dst = *(const u32_u *)src;
        return;
    case 8:
        *(volatile u64_u *)(void *)dst = *(const u64_u *)src;
        return;
    default:
        copy_bytes(dst, src, n);
    }
}

/* Device accesses are at most 8 bytes, powers of two. */
static unsigned mmio_piece(unsigned left)
{
    return left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

static int piece(struct vmci_cpu *cpu, const struct tlb_info *i, unsigned off, uint8_t *data,
                 unsigned bytes, bool write)
{
    struct vmci_soft_cpu *sc = soft_of(cpu);

    if (likely(i->hva != NULL)) {
        if (!write) {
            copy_in(data, i->hva + off, bytes);
        } else if (i->writable) {
            copy_out(i->hva + off, data, bytes);
            vmci_fence_seq(); /* the bytes before the look at who caches them */
            if ((vmci_load_acquire(i->flags) & VMCI_PG_CODE) != 0)
                smc_written(sc, i->gpa + off, bytes, i->flags);
        }
        return 0;
    }
    while (bytes != 0) {
        unsigned n = mmio_piece(bytes);
        uint64_t v = 0;
        copy_bytes(&v, data, n);
        int rc = vmci_io_access(cpu, VMCI_IO_MMIO, write, i->gpa + off, n, &v);
        if (rc != 0)
            return rc;
        if (!write)
            copy_bytes(data, &v, n);
        data += n;
        off += n;
        bytes -= n;
    }
    return 0;
}

static void watch(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, bool write)
{
    struct vmci_soft_cpu *sc = soft_of(cpu);

    if ((cpu->dr7 & 0xff) != 0) {
        vmci_dr_data_hit(cpu, la, bytes, write);
        if (cpu->pending_db != 0)
            vmci_stop_block(cpu);
    }
    for (unsigned n = 0; sc->bp_data && n < sc->bps; n++) {
        const struct vmc_breakpoint *b = &sc->bp[n];
        bool kind = b->kind == VMC_BP_RW || b->kind == (write ? VMC_BP_WRITE : VMC_BP_READ);
        if (kind && la < b->gva + b->bytes && b->gva < la + bytes) {
            sc->watch_hit = true;
            sc->watch_la = b->gva;
            vmci_stop_block(cpu);
        }
    }
}

static int access_span(struct vmci_cpu *cpu, const struct span *s, uint64_t la, void *data,
                       bool write)
{
    int rc = piece(cpu, &s->i[0], s->off, data, s->len[0], write);

    if (rc == 0 && s->n == 2)
        rc = piece(cpu, &s->i[1], 0, (uint8_t *)data + s->len[0], s->len[1], write);
    if (rc == 0 && unlikely(s->i[0].watched || (s->n == 2 && s->i[1].watched)))
        watch(cpu, la, s->len[0] + s->len[1], write);
    return rc;
}

static int access_mem(struct vmci_cpu *cpu, struct how h, uint64_t la, void *data, unsigned bytes,
                      bool write)
{
    struct span s;

    if (unlikely(h.aligned) && (la & (bytes - 1)) != 0 && vmci_is_pow2(bytes) && bytes <= 8 &&
        vmci_canonical(cpu, la))
        return vmci_raise_code(cpu, VMC_VEC_AC, 0);
    int rc = translate(cpu, h, la, bytes, write ? TLB_W : TLB_R, &s);
    return rc != 0 ? rc : access_span(cpu, &s, la, data, write);
}

int vmci_ld_slow(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, void *dst)
{
    return access_mem(cpu, how_now(cpu), la, dst, bytes, false);
}

int vmci_st_slow(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, const void *src)
{
    uint8_t copy[8] = {0};

    copy_bytes(copy, src, bytes);
    return access_mem(cpu, how_now(cpu), la, copy, bytes, true);
}

/* ---- by value -------------------------------------------------------------------------------- */

int vmci_rd(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, uint64_t *out)
{
    const struct vmci_tlb *t = tlb_now(cpu);
    unsigned i = vmci_tlb_index(la);

    *out = 0;
    if (likely(vmci_tlb_hit(t->rd[i], la, bytes))) {
        copy_in(out, (const uint8_t *)(t->addend[i] + la), bytes);
        return 0;
    }
    return vmci_ld_slow(cpu, la, bytes, out);
}

int vmci_wr(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, uint64_t v)
{
    const struct vmci_tlb *t = tlb_now(cpu);
    unsigned i = vmci_tlb_index(la);

    if (likely(vmci_tlb_hit(t->wr[i], la, bytes))) {
        copy_out((uint8_t *)(t->addend[i] + la), &v, bytes);
        return 0;
    }
    return vmci_st_slow(cpu, la, bytes, &v);
}

/* Host addresses of the two parts of an operand across pages that may be accessed directly: *n
   bytes in the first. */
static inline bool direct_parts(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, bool write,
                                uint8_t *part[2], unsigned *n)
{
    const struct vmci_tlb *t = tlb_now(cpu);
    const uint64_t *tag = write ? t->wr : t->rd;
    uint64_t next = (la & PAGE_MASK) + VMC_PAGE_SIZE;
    unsigned i = vmci_tlb_index(la), k = vmci_tlb_index(next);

    *n = (unsigned)(next - la);
    if (cpu->code_bits != 64 || *n >= bytes || !vmci_tlb_hit(tag[i], la, 1) ||
        !vmci_tlb_hit(tag[k], next, 1))
        return false;
    part[0] = (uint8_t *)(t->addend[i] + la);
    part[1] = (uint8_t *)(t->addend[k] + next);
    return true;
}

/* Up to 64 bytes, each read and written once: less than REP MOVSB takes to begin. */
VMCI_GUESTS_RACE static inline void copy_part(uint8_t *dst, const uint8_t *src, unsigned n)
{
    for (; n >= 8; n -= 8, dst += 8, src += 8)
        *(volatile u64_u *)(void *)dst = *(const volatile u64_u *)(const void *)src;
    if ((n & 4) != 0) {
        *(volatile u32_u *)(void *)dst = *(const volatile u32_u *)(const void *)src;
        dst += 4;
        src += 4;
    }
    if ((n & 2) != 0) {
        *(volatile u16_u *)(void *)dst = *(const volatile u16_u *)(const void *)src;
        dst += 2;
        src += 2;
    }
    if ((n & 1) != 0)
        *(volatile uint8_t *)dst = *(const volatile uint8_t *)src;
}

int vmci_rd_block(struct vmci_cpu *cpu, uint64_t la, void *dst, unsigned bytes)
{
    struct how h = how_now(cpu);
    uint8_t *part[2];
    unsigned n;

    if (direct_parts(cpu, la, bytes, false, part, &n)) {
        copy_part(dst, part[0], n);
        copy_part((uint8_t *)dst + n, part[1], bytes - n);
        return 0;
    }
    h.aligned = false; /* the callers have alignment rules of their own */
    return access_mem(cpu, h, la, dst, bytes, false);
}

int vmci_wr_block(struct vmci_cpu *cpu, uint64_t la, const void *src, unsigned bytes)
{
    struct how h = how_now(cpu);
    uint8_t copy[64];
    uint8_t *part[2];
    unsigned n;

    if (direct_parts(cpu, la, bytes, true, part, &n)) {
        copy_part(part[0], src, n);
        copy_part(part[1], (const uint8_t *)src + n, bytes - n);
        return 0;
    }
    if (bytes > sizeof(copy))
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    h.aligned = false;
    copy_bytes(copy, src, bytes);
    return access_mem(cpu, h, la, copy, bytes, true);
}

int vmci_probe_wr(struct vmci_cpu *cpu, uint64_t la, unsigned bytes)
{
    uint8_t *part[2];
    struct span s;
    unsigned n;

    if (direct_parts(cpu, la, bytes, true, part, &n))
        return 0;
    return translate(cpu, how_now(cpu), la, bytes, TLB_W, &s);
}

/* Host address of bytes that lie in a page which may be accessed directly, or NULL. */
static inline uint8_t *direct(struct vmci_cpu *cpu, unsigned mode, uint64_t la, unsigned bytes,
                              bool write)
{
    const struct vmci_tlb *t = &cpu->tlb[mode];
    unsigned i = vmci_tlb_index(la);

    if (unlikely(!vmci_tlb_hit(write ? t->wr[i] : t->rd[i], la, bytes)))
        return NULL;
    return (uint8_t *)(t->addend[i] + la);
}

/* An access of 1, 2, 4 or 8 bytes. */
static int access_value(struct vmci_cpu *cpu, struct how h, uint64_t la, unsigned bytes, void *v,
                        bool write)
{
    uint8_t *p = direct(cpu, h.mode, la, bytes, write);

    if (unlikely(p == NULL))
        return access_mem(cpu, h, la, v, bytes, write);
    if (write)
        copy_out(p, v, bytes);
    else
        copy_in(v, p, bytes);
    return 0;
}

/* By value, from code that holds no pointers and may be half way through: it waits in place. */
static int access_whole(struct vmci_cpu *cpu, struct how h, uint64_t la, unsigned bytes, void *data,
                        bool write)
{
    struct vmci_soft_cpu *sc = soft_of(cpu);
    bool before = sc->in_place;

    sc->in_place = true;
    int rc = access_value(cpu, h, la, bytes, data, write);
    sc->in_place = before;
    return rc;
}

int vmci_rd_sys(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, uint64_t *out)
{
    const uint8_t *p = direct(cpu, VMCI_TLB_SUP, la, bytes, false);

    *out = 0;
    if (likely(p != NULL && bytes == 8)) { /* a descriptor, or a stack pointer of the TSS */
        copy_in(out, p, 8);
        return 0;
    }
    return access_whole(cpu, how_sys(), la, bytes, out, false);
}

int vmci_wr_sys(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, uint64_t v)
{
    return access_whole(cpu, how_sys(), la, bytes, &v, true);
}

int vmci_mark_sys(struct vmci_cpu *cpu, uint64_t la, uint8_t set, uint8_t clear, uint8_t *old)
{
    struct span s;

    *old = 0;
    int rc = translate(cpu, how_sys(), la, 1, TLB_W, &s);

    if (rc != 0)
        return rc;
    struct tlb_info *i = &s.i[0];
    if (i->hva == NULL || !i->writable) { /* a descriptor table in a device or in ROM */
        rc = piece(cpu, i, s.off, old, 1, false);
        uint8_t now = (uint8_t)((*old | set) & ~clear);
        return rc != 0 ? rc : piece(cpu, i, s.off, &now, 1, true);
    }
    uint8_t *p = i->hva + s.off;
    *old = clear != 0 ? vmci_fetch_and(p, (uint8_t)~clear) : vmci_fetch_or(p, set);
    vmci_fence_seq();
    if ((vmci_load_acquire(i->flags) & VMCI_PG_CODE) != 0)
        smc_written(soft_of(cpu), i->gpa + s.off, 1, i->flags);
    if (i->watched)
        watch(cpu, la, 1, true);
    return 0;
}

int vmci_rd_cpl(struct vmci_cpu *cpu, unsigned cpl, uint64_t la, unsigned bytes, uint64_t *out)
{
    *out = 0;
    return access_whole(cpu, how_cpl(cpu, cpl), la, bytes, out, false);
}

int vmci_wr_cpl(struct vmci_cpu *cpu, unsigned cpl, uint64_t la, unsigned bytes, uint64_t v)
{
    return access_whole(cpu, how_cpl(cpu, cpl), la, bytes, &v, true);
}

void *vmci_direct_cpl(struct vmci_cpu *cpu, unsigned cpl, uint64_t la, unsigned bytes, bool write)
{
    return direct(cpu, how_cpl(cpu, cpl).mode, la, bytes, write);
}

int vmci_probe_wr_cpl(struct vmci_cpu *cpu, unsigned cpl, uint64_t la, unsigned bytes)
{
    struct span s;
    return translate(cpu, how_cpl(cpu, cpl), la, bytes, TLB_W, &s);
}

/* ---- read-modify-write ----------------------------------------------------------------------- */

static void split_lock(struct vmci_soft_cpu *sc)
{
    if (sc->rmw.locked || sc->cpu.vm == NULL)
        return;
    while (vmci_exchange(&sc->cpu.vm->split_lock, 1u) != 0)
        __builtin_ia32_pause();
    sc->rmw.locked = true;
}

static void split_unlock(struct vmci_soft_cpu *sc)
{
    if (sc->rmw.locked)
        vmci_store_release(&sc->cpu.vm->split_lock, 0u);
    sc->rmw.locked = false;
}

void *vmci_rmw_slow(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, bool lock, int *rc)
{
    struct vmci_soft_cpu *sc = soft_of(cpu);
    struct rmw *m = &sc->rmw;
    struct how h = how_now(cpu);
    struct span s;

    if (h.aligned && (la & (bytes - 1)) != 0 && vmci_canonical(cpu, la)) {
        *rc = vmci_raise_code(cpu, VMC_VEC_AC, 0);
        return NULL;
    }
    *rc = translate(cpu, h, la, bytes, TLB_W, &s);
    if (*rc != 0)
        return NULL;
    m->bytes = (uint8_t)bytes;
    m->la = la;
    m->code_gpa = GPA_NONE;
    if (s.n == 1 && s.i[0].hva != NULL && s.i[0].writable) {
        /* In place, so that it is atomic; what watches the page is told afterwards. */
        m->bounce = false;
        m->code_gpa = s.i[0].gpa + s.off;
        m->slow = true;
        return s.i[0].hva + s.off;
    }
    if (lock)
        split_lock(sc);
    *rc = access_span(cpu, &s, la, m->buf, false);
    if (*rc != 0) {
        split_unlock(sc);
        return NULL;
    }
    m->bounce = true;
    m->slow = true;
    return m->buf;
}

int vmci_rmw_end(struct vmci_cpu *cpu)
{
    struct vmci_soft_cpu *sc = soft_of(cpu);
    struct rmw *m = &sc->rmw;
    struct how h = how_now(cpu);
    struct span s;

    m->slow = false;
    h.aligned = false;
    int rc = translate(cpu, h, m->la, m->bytes, TLB_W, &s); /* translated before: no fault */
    if (rc == 0 && m->bounce) {
        rc = access_span(cpu, &s, m->la, m->buf, true);
        split_unlock(sc);
    } else if (rc == 0) {
        vmci_fence_seq();
        if ((vmci_load_acquire(s.i[0].flags) & VMCI_PG_CODE) != 0)
            smc_written(sc, m->code_gpa, m->bytes, s.i[0].flags);
        if (s.i[0].watched)
            watch(cpu, m->la, m->bytes, true);
    }
    return rc;
}
