/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Page-level protection: every combination of the permission bits of two levels, CR0.WP, CR4.SMEP,
 * CR4.SMAP, EFLAGS.AC, EFER.NXE, privilege level and kind of access, in each paging mode and page
 * size; and of protection keys. What must happen is computed from the rules of SDM 3A 4.6 to 4.8 by
 * expect(), and compared: fault or not, error code, CR2, accessed and dirty bits.
 */
#include "kern.h"

/* Bits of a case, per level. */
enum { F_P = 1, F_W = 2, F_U = 4, F_NX = 8, F_RSV = 16, F_ALL = 32 };
#define PERMISSIVE (F_P | F_W | F_U)

#define PTE_A  0x20ull
#define PTE_D  0x40ull
#define PTE_PS 0x80ull
#define PTE_NX (1ull << 63)

/* The frame that is mapped, and its offset in the address: right for all page sizes. */
#define FRAME  0x600000ul
#define LDT_AT 0x100 /* descriptors in it */

#define KEY 5 /* protection key of the page while CR4.PKE is set */

enum kind { K_READ, K_WRITE, K_FETCH, K_SYSTEM, KINDS };
static const char *const kind_names[] = {"read", "write", "fetch", "descriptor"};

struct mode {
    const char *name;
    unsigned levels; /* with entries that take part */
    unsigned leaf;   /* 1: 4 KiB, 2: 2 or 4 MiB, 3: 1 GiB */
    unsigned bits;   /* of an index */
    bool wide, pse;
    unsigned long va;
};

struct env {
    bool wp, smep, smap, ac, nxe, user;
    bool pke;
    uint32_t pkru; /* of key KEY */
};

struct outcome {
    bool fault;
    unsigned code;
    unsigned level; /* of the entry that faults; 1: leaf or rights */
};

static uint64_t table[6][512] __attribute__((aligned(4096)));
static const struct mode *m;
static struct env env;
static unsigned phys_bits, low_ps; /* low_ps: PS of entries where it means nothing */
static unsigned long cases;

/* ---- entries --------------------------------------------------------------------------------- */

static uint64_t rsv_bit(unsigned level, bool other)
{
    if (!m->wide)
        return level == 2 && m->leaf == 2 && m->pse ? 1ull << 21 : 0;
    if (other && level >= 4)
        return PTE_PS;
    if (other && level == m->leaf && level > 1)
        return 1ull << 14;
    return 1ull << 51;
}

static void *slot(unsigned level)
{
    unsigned long shift = 12 + (level - 1) * m->bits;
    unsigned i = (unsigned)(m->va >> shift) & ((1u << m->bits) - 1);
    unsigned long base = (unsigned long)table[level];

    if (level == m->levels) /* the root that the processor uses */
        base = rd_cr3() & ~0xffful;
#ifndef __x86_64__
    if (m->wide && level == m->levels) /* ... of PAE: the directory that a PDPTE names */
        base = (unsigned long)table[level];
#endif
    return (void *)(base + i * (m->wide ? 8ul : 4ul));
}

static uint64_t get(unsigned level)
{
    return m->wide ? *(volatile uint64_t *)slot(level) : *(volatile uint32_t *)slot(level);
}

static void put(unsigned level, unsigned f)
{
    uint64_t v = level == m->leaf ? FRAME : (unsigned long)table[level - 1];

    if (level == m->leaf && level > 1)
        v = (FRAME & ~((1ul << (12 + (level - 1) * m->bits)) - 1)) | PTE_PS;
    v |= (f & F_P ? 1 : 0) | (f & F_W ? 2 : 0) | (f & F_U ? 4 : 0);
    if (m->wide && (f & F_NX) != 0)
        v |= PTE_NX;
    if ((f & F_RSV) != 0)
        v |= rsv_bit(level, env.wp);
    if (env.pke)
        v |= (uint64_t)(level == m->leaf ? KEY : 15 - KEY) << 59;
    if (!m->pse && !m->wide && level == 2)
        v |= low_ps; /* PS without CR4.PSE means nothing */
    if (m->wide)
        *(volatile uint64_t *)slot(level) = v;
    else
        *(volatile uint32_t *)slot(level) = (uint32_t)v;
}

/* ---- the rules ------------------------------------------------------------------------------- */

static struct outcome expect(const unsigned *f, enum kind kind)
{
    bool user = env.user && kind != K_SYSTEM, u = true, w = true, x = true;
    struct outcome o = {.code = (kind == K_WRITE ? 2 : 0) | (user ? 4 : 0)};

    if (kind == K_FETCH && (env.smep || (env.nxe && m->wide)))
        o.code |= 16;
    for (unsigned l = m->levels; l >= m->leaf; l--) {
        bool nx = m->wide && (f[l] & F_NX) != 0;
        if ((f[l] & F_P) == 0) {
            o.fault = true;
            o.level = l;
            return o;
        }
        if (((f[l] & F_RSV) != 0 && rsv_bit(l, env.wp) != 0) || (nx && !env.nxe)) {
            o.fault = true;
            o.level = l;
            o.code |= 9;
            return o;
        }
        u = u && (f[l] & F_U) != 0;
        w = w && (f[l] & F_W) != 0;
        x = x && !nx;
    }
    bool ok = user ? u : true;
    if (kind == K_FETCH)
        ok = ok && x && (user || !(env.smep && u));
    else if (!user && u && env.smap && (kind == K_SYSTEM || !env.ac))
        ok = false;
    if (kind == K_WRITE)
        ok = ok && (w || (!user && !env.wp));
    if (env.pke && u && kind != K_FETCH &&
        ((env.pkru & 1) != 0 || (env.pkru == 2 && kind == K_WRITE && (user || env.wp)))) {
        ok = false;
        o.code |= 32;
    }
    if (!ok) {
        o.fault = true;
        o.level = m->leaf;
        o.code |= 1;
    }
    return o;
}

/* ---- the access ------------------------------------------------------------------------------ */

static uint8_t *const stubs = (uint8_t *)USER_AREA;
#define STUB(k) ((unsigned long)USER_AREA + 32 * (k))

static void make_stubs(void)
{
    static const uint8_t code[KINDS][10] = {
        {0x8a, 0x03, 0xcd, 0x80},                      /* mov (bx), al; int 80h */
        {0xb0, 0xc3, 0x88, 0x03, 0xcd, 0x80},          /* mov C3h, al; mov al, (bx) */
        {0xff, 0xd3, 0xcd, 0x80},                      /* call bx */
        {0xb9, 0x07, 0, 0, 0, 0x8e, 0xe1, 0xcd, 0x80}, /* mov 7, ecx; mov ecx, fs */
    };
    for (unsigned k = 0; k < KINDS; k++)
        for (unsigned i = 0; i < sizeof(code[k]); i++)
            stubs[32 * k + i] = code[k][i];
    *(volatile uint8_t *)FRAME = 0xc3; /* ret */
    *(volatile uint64_t *)(FRAME + LDT_AT) = 0x00cff3000000ffffull;
}

static void set_ac(bool on)
{
    if (on)
        __asm__ volatile("pushf\n\torl $0x40000, (%%" SP ")\n\tpopf" : : : "memory", "cc");
    else
        __asm__ volatile("pushf\n\tandl $~0x40000, (%%" SP ")\n\tpopf" : : : "memory", "cc");
}

static void supervisor(void *p)
{
    volatile uint8_t *at = (volatile uint8_t *)m->va;

    set_ac(env.ac);
    switch ((enum kind)(unsigned long)p) {
    case K_READ:
        (void)*at;
        break;
    case K_WRITE:
        *at = 0xc3;
        break;
    case K_FETCH:
        __asm__ volatile("call *%0" : : "r"(m->va) : "memory");
        break;
    default:
        __asm__ volatile("mov %0, %%fs" : : "r"(4));
        break;
    }
    set_ac(false);
}

static void user(void *p)
{
    set_ac(env.ac);
    user_call(STUB((unsigned long)p), m->va);
}

/* ---- one case -------------------------------------------------------------------------------- */

static bool ad_right(const struct outcome *o, enum kind kind)
{
    for (unsigned l = m->levels; l >= m->leaf; l--) {
        uint64_t ad = get(l) & (PTE_A | PTE_D), want = PTE_A;
        if (o->fault) {
            if (l > o->level)
                continue; /* entries used on the way may be marked */
            want = 0;
        } else if (l == m->leaf && kind == K_WRITE) {
            want |= PTE_D;
        }
        if (ad != want)
            return false;
    }
    return true;
}

static void set_entries(const unsigned *f)
{
    for (unsigned l = m->levels; l >= m->leaf; l--)
        put(l, f[l]);
    invlpg(m->va);
    invlpg(m->va + LDT_AT);
}

/* The access, with entries as set. */
static void check(const unsigned *f, enum kind kind, bool fresh)
{
    struct outcome o = expect(f, kind);
    long v = try_call(env.user ? user : supervisor, (void *)(unsigned long)kind);
    unsigned long at = m->va + (kind == K_SYSTEM ? LDT_AT : 0);
    bool ok = o.fault ? v == 14 && fault.code == o.code && fault.cr2 == at : v == -1;
    cases++;
    if (ok && (!fresh || ad_right(&o, kind)))
        return;
    fail("%s %s cpl%d wp%d smep%d smap%d ac%d nxe%d pke%d:%u entries %x %x %x %x: %ld:%lx %lx, not "
         "%d:%x; "
         "leaf %lx",
         m->name, kind_names[kind], env.user ? 3 : 0, env.wp, env.smep, env.smap, env.ac, env.nxe,
         env.pke, (unsigned)env.pkru, m->levels >= 4 ? f[4] : 0, m->levels >= 3 ? f[3] : 0, f[2],
         f[1], v, fault.code, fault.cr2, o.fault ? 14 : -1, o.code, (unsigned long)get(m->leaf));
}

static void one(const unsigned *f, enum kind kind)
{
    set_entries(f);
    check(f, kind, true);
}

static void all_kinds(const unsigned *f)
{
    for (unsigned k = 0; k < KINDS; k++)
        one(f, (enum kind)k);
}

/* Of entries that are not present, the rest does not matter: all clear or all set will do. */
static bool redundant(unsigned f, unsigned top)
{
    return ((f & F_P) == 0 && f != 0 && f != (top - 1 - F_P)) || (!m->wide && (f & F_NX) != 0);
}

/* Every combination at the leaf and at one level above. */
static void all_entries(void)
{
    unsigned f[6], top = phys_bits < 52 ? F_ALL : F_RSV;

    /* Of 5 levels the lower four are as with 4. */
    for (unsigned other = m->levels == 5 ? 5 : m->leaf + 1; other <= m->levels; other++)
        for (unsigned i = 0; i < top; i++)
            for (unsigned j = 0; j < top; j++) {
                if (redundant(i, top) || redundant(j, top))
                    continue;
                for (unsigned l = 1; l < 6; l++)
                    f[l] = PERMISSIVE;
                f[other] = i;
                f[m->leaf] = j;
                all_kinds(f);
            }
    if (m->leaf == m->levels)
        for (unsigned j = 0; j < top; j++) {
            f[m->leaf] = j;
            if (!redundant(j, top))
                all_kinds(f);
        }
}

static void set_env(unsigned i)
{
    bool has_smep = cpu_has(7, 1, 7), has_smap = cpu_has(7, 1, 20);
    unsigned long cr4 = rd_cr4() & ~(CR4_SMEP | CR4_SMAP);

    env = (struct env){.wp = i & 1,
                       .smep = (i & 2) != 0,
                       .smap = (i & 4) != 0,
                       .ac = (i & 8) != 0,
                       .nxe = (i & 16) != 0,
                       .user = (i & 32) != 0};
    env.smep = env.smep && has_smep;
    env.smap = env.smap && has_smap;
    if (!m->wide)
        env.nxe = false;
    wr_cr0((rd_cr0() & ~CR0_WP) | (env.wp ? CR0_WP : 0));
    if (has_smep || has_smap)
        wr_cr4(cr4 | (env.smep ? CR4_SMEP : 0) | (env.smap ? CR4_SMAP : 0));
    if (m->wide && cpu_has(0x80000001u, 3, 20))
        wrmsr(MSR_EFER, (rdmsr(MSR_EFER) & ~EFER_NXE) | (env.nxe ? EFER_NXE : 0));
}

static void find_width(void)
{
    uint32_t r[4];

    cpuid(0x80000000u, 0, r);
    phys_bits = 36;
    if (r[0] < 0x80000008u || r[0] > 0x8000ffffu)
        return;
    cpuid(0x80000008u, 0, r);
    phys_bits = r[0] & 0xff;
}

static void load_ldt(void)
{
    uint64_t base = m->va + LDT_AT;

    gdt[SEL_LDT / 8] = 15 | (base & 0xffffff) << 16 | 0x82ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[SEL_LDT / 8 + 1] = base >> 32;
    __asm__ volatile("lldt %w0" : : "r"(SEL_LDT));
}

/* The dirty bit again, when the translation is cached already. */
static void dirty_later(void)
{
    static const unsigned f[6] = {0, PERMISSIVE, PERMISSIVE, PERMISSIVE, PERMISSIVE, PERMISSIVE};

    set_env(1);
    for (unsigned l = m->levels; l >= m->leaf; l--)
        put(l, f[l]);
    invlpg(m->va);
    CHECK(try_call(supervisor, (void *)K_READ) == -1, "read");
    CHECK((get(m->leaf) & (PTE_A | PTE_D)) == PTE_A, "%s: a read sets A only", m->name);
    CHECK(try_call(supervisor, (void *)K_WRITE) == -1, "write");
    CHECK((get(m->leaf) & (PTE_A | PTE_D)) == (PTE_A | PTE_D), "%s: a write sets D", m->name);
    put(m->leaf, PERMISSIVE);
    invlpg(m->va);
    CHECK(try_call(supervisor, (void *)K_WRITE) == -1, "write");
    CHECK((get(m->leaf) & (PTE_A | PTE_D)) == (PTE_A | PTE_D), "%s: and again", m->name);
}

static void run_mode(const struct mode *mode)
{
    bool smep = cpu_has(7, 1, 7), smap = cpu_has(7, 1, 20), nx = cpu_has(0x80000001u, 3, 20);

    m = mode;
    cases = 0;
    load_ldt();
    for (unsigned i = 0; i < 64; i++) {
        set_env(i & (nx ? 63 : 47));
        if ((smep || (i & 2) == 0) && (smap || (i & 4) == 0) &&
            ((m->wide && nx) || (i & 16) == 0) && (env.smap || !env.ac))
            all_entries();
    }
    set_env(nx ? 16 : 0);
    dirty_later();
    print("%s: %lu cases\n", m->name, cases);
}

/* ---- modes ----------------------------------------------------------------------------------- */

#ifdef __x86_64__
static void set_pkru(uint32_t rights)
{
    env.pkru = rights;
    __asm__ volatile("wrpkru" : : "a"(rights << (2 * KEY)), "c"(0), "d"(0) : "memory");
}

/* Each right of the key after each other, without an invalidation in between. */
static void key_sequence(const unsigned *f, enum kind kind)
{
    for (uint32_t from = 0; from < 4; from++)
        for (uint32_t to = 0; to < 4; to++) {
            set_pkru(from);
            set_entries(f);
            check(f, kind, true);
            set_pkru(to);
            check(f, kind, false);
        }
}

/* Protection keys: with the permission bits of the leaf, WP, SMAP, AC and privilege. */
static void keys(const struct mode *mode)
{
    unsigned f[6] = {0, 0, PERMISSIVE, PERMISSIVE, PERMISSIVE, PERMISSIVE};

    if (!cpu_has(7, 2, 3))
        return;
    m = mode;
    cases = 0;
    load_ldt();
    for (unsigned i = 0; i < 64; i++) {
        if ((i & 2) != 0)
            continue; /* SMEP is about fetches, which keys are not */
        set_env(i);
        wr_cr4(rd_cr4() | CR4_PKE);
        env.pke = true;
        for (unsigned j = 0; j <= PERMISSIVE; j++)
            for (unsigned k = 0; k < KINDS; k++) {
                f[m->leaf] = j;
                key_sequence(f, (enum kind)k);
            }
        set_pkru(0);
        wr_cr4(rd_cr4() & ~CR4_PKE);
    }
    set_env(0);
    print("%s, keys: %lu cases\n", m->name, cases);
}

void test_main(void)
{
#ifdef LA57
    static const struct mode modes[] = {
        {"5-level, 4 KiB", 5, 1, 9, true, true, 0xa1123440000000 + FRAME},
        {"5-level, 2 MiB", 5, 2, 9, true, true, 0xa1123440000000 + FRAME},
        {"5-level, 1 GiB", 5, 3, 9, true, true, 0xff50123440000000 + FRAME},
    };
#else
    static const struct mode modes[] = {
        {"4-level, 4 KiB", 4, 1, 9, true, true, 0x123440000000 + FRAME},
        {"4-level, 2 MiB", 4, 2, 9, true, true, 0x123440000000 + FRAME},
        {"4-level, 1 GiB", 4, 3, 9, true, true, 0x123440000000 + FRAME},
    };
#endif
    find_width();
    make_stubs();
    for (unsigned i = 0; i < (cpu_has(0x80000001u, 3, 26) ? 3 : 2); i++)
        run_mode(&modes[i]);
    keys(&modes[0]);
    keys(&modes[1]);
}
#else
static uint32_t dir[1024] __attribute__((aligned(4096)));
static uint32_t low[2][1024] __attribute__((aligned(4096)));
static uint64_t pdpt[4] __attribute__((aligned(32)));
static uint64_t pae_low[512] __attribute__((aligned(4096)));
static uint64_t pae_pt[4][512] __attribute__((aligned(4096)));

/* The first 8 MiB one to one; what lies at and above USER_AREA is for level 3. */
static void map_32(void)
{
    for (unsigned i = 0; i < 2048; i++)
        low[i >> 10][i & 1023] = (i << 12) | (i >> 10 ? 7 : 3);
    dir[0] = (uint32_t)low[0] | 7;
    dir[1] = (uint32_t)low[1] | 7;
}

static void map_pae(void)
{
    for (unsigned i = 0; i < 2048; i++)
        pae_pt[i >> 9][i & 511] = (i << 12) | (i >> 10 ? 7 : 3);
    for (unsigned i = 0; i < 4; i++)
        pae_low[i] = (uint32_t)pae_pt[i] | 7;
    pdpt[0] = (uint32_t)pae_low | 1;
    pdpt[1] = (uint32_t)table[2] | 1;
}

static void paging(bool on, unsigned long cr3, unsigned long cr4)
{
    wr_cr0(rd_cr0() & ~CR0_PG);
    if (cr4 != 0 || cpu_has(1, 3, 3))
        wr_cr4((rd_cr4() & ~(CR4_PSE | CR4_PAE | CR4_SMEP | CR4_SMAP)) | cr4);
    wr_cr3(cr3);
    if (on)
        wr_cr0(rd_cr0() | CR0_PG);
}

void test_main(void)
{
    static const struct mode modes[] = {
        {"32-bit, 4 KiB", 2, 1, 10, false, true, 0x40000000 + FRAME},
        {"32-bit, no PSE", 2, 1, 10, false, false, 0x40000000 + FRAME},
        {"32-bit, 4 MiB", 2, 2, 10, false, true, 0x40000000 + FRAME},
        {"PAE, 4 KiB", 2, 1, 9, true, true, 0x40000000 + FRAME},
        {"PAE, 2 MiB", 2, 2, 9, true, true, 0x40000000 + FRAME},
    };
    find_width();
    make_stubs();
    map_32();
    map_pae();
    for (unsigned i = 0; i < 5; i++) {
        if ((modes[i].wide && !cpu_has(1, 3, 6)) || (i == 2 && !cpu_has(1, 3, 3)))
            continue;
        low_ps = i == 1 ? PTE_PS : 0;
        paging(true, modes[i].wide ? (unsigned long)pdpt : (unsigned long)dir,
               modes[i].wide                      ? CR4_PAE
               : modes[i].pse && cpu_has(1, 3, 3) ? CR4_PSE
                                                  : 0);
        run_mode(&modes[i]);
    }
    paging(false, 0, 0);
}
#endif
