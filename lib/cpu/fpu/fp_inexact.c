/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Would the result of a SIMD instruction be inexact if exponents had no limits?
 *
 * That is what PE says when overflow or underflow is unmasked (IEEE 754-2019 7.4, 7.5; SDM 1
 * 11.5.2.5): the masked run cannot tell, because its result was clamped or denormalised. Exactness
 * is decided on integers: a result fits when its highest and lowest bits are at most the precision
 * apart.
 */
#include "fp_int.h"

typedef unsigned __int128 u128;

struct num {
    uint64_t m; /* value: m * 2^e; zero, infinity and NaN have m = 0 */
    int e;
    bool neg, special; /* special: infinity or NaN, always exact */
};

struct op {
    unsigned map, opcode, pp, vl;
    bool w;
    unsigned reg, v, rm;
    bool mem;
};

/* ---- exactness ------------------------------------------------------------------------------- */

static unsigned bits_of(u128 v)
{
    uint64_t hi = (uint64_t)(v >> 64), lo = (uint64_t)v;
    if (hi != 0)
        return 128u - (unsigned)__builtin_clzll(hi);
    return lo != 0 ? 64u - (unsigned)__builtin_clzll(lo) : 0;
}

static unsigned zeros_of(u128 v)
{
    uint64_t lo = (uint64_t)v;
    return lo != 0 ? (unsigned)__builtin_ctzll(lo) : 64u + (unsigned)__builtin_ctzll((uint64_t)(v >> 64));
}

#define WORDS 6

/* w = v << by */
static void widen(uint64_t w[WORDS], u128 v, unsigned by)
{
    unsigned at = by / 64, off = by % 64;
    for (unsigned i = 0; i < WORDS; i++)
        w[i] = 0;
    w[at] = (uint64_t)v << off;
    w[at + 1] = off != 0 ? (uint64_t)(v >> (64 - off)) : (uint64_t)(v >> 64);
    if (off != 0)
        w[at + 2] = (uint64_t)(v >> 64) >> (64 - off);
}

/* |a +- b|: its width from the highest to the lowest bit. */
static unsigned sum_width(const uint64_t a[WORDS], const uint64_t b[WORDS], bool subtract)
{
    uint64_t r[WORDS];
    unsigned carry = 0;
    int hi = -1, lo = -1;
    for (unsigned i = 0; i < WORDS; i++) {
        u128 t = subtract ? (u128)a[i] - b[i] - carry : (u128)a[i] + b[i] + carry;
        r[i] = (uint64_t)t;
        carry = (unsigned)(t >> 64) & 1;
    }
    if (subtract && carry) { /* negative: its magnitude */
        carry = 1;
        for (unsigned i = 0; i < WORDS; i++) {
            u128 t = (u128)~r[i] + carry;
            r[i] = (uint64_t)t;
            carry = (unsigned)(t >> 64);
        }
    }
    for (int i = 0; i < WORDS * 64; i++) {
        if (r[i / 64] >> (i % 64) & 1) {
            if (lo < 0)
                lo = i;
            hi = i;
        }
    }
    return hi < 0 ? 0 : (unsigned)(hi - lo) + 1;
}

/* a * b + c needs more than p bits */
static bool muladd_inexact(struct num a, struct num b, struct num c, unsigned p)
{
    uint64_t x[WORDS], y[WORDS];
    if (a.special || b.special || c.special)
        return false;
    u128 ab = (u128)a.m * b.m, cm = c.m;
    int eab = a.e + b.e, ec = c.e;
    if (ab == 0 && cm == 0)
        return false;
    if (ab != 0) {
        unsigned z = zeros_of(ab);
        ab >>= z;
        eab += (int)z;
    }
    if (cm != 0) {
        unsigned z = zeros_of(cm);
        cm >>= z;
        ec += (int)z;
    }
    if (ab == 0 || cm == 0)
        return bits_of(ab | cm) > p;
    int gap = eab - ec;
    if (gap >= 192 || gap <= -192)
        return true;
    widen(x, ab, gap > 0 ? (unsigned)gap : 0);
    widen(y, cm, gap < 0 ? (unsigned)-gap : 0);
    return sum_width(x, y, (a.neg != b.neg) != c.neg) > p;
}

static bool div_inexact(struct num a, struct num b, unsigned p)
{
    if (a.special || b.special || a.m == 0 || b.m == 0)
        return false;
    uint64_t odd = b.m >> zeros_of(b.m);
    return a.m % odd != 0 || bits_of((a.m / odd) >> zeros_of(a.m / odd)) > p;
}

/* ---- operands -------------------------------------------------------------------------------- */

static struct num single(uint32_t v, bool daz)
{
    unsigned e = v >> 23 & 0xff;
    struct num n = {.m = v & 0x7fffff, .neg = v >> 31, .special = e == 0xff};
    if (e != 0)
        n.m |= 1u << 23;
    else if (daz)
        n.m = 0;
    n.e = (int)(e != 0 ? e : 1) - 150;
    return n;
}

static struct num twice(uint64_t v, bool daz)
{
    unsigned e = v >> 52 & 0x7ff;
    struct num n = {.m = v & 0xfffffffffffffull, .neg = v >> 63, .special = e == 0x7ff};
    if (e != 0)
        n.m |= 1ull << 52;
    else if (daz)
        n.m = 0;
    n.e = (int)(e != 0 ? e : 1) - 1075;
    return n;
}

/* What the thunk's instruction is; its operands are renamed, its vector registers are not. */
static void parse(const struct vmci_thunk *t, struct op *o)
{
    const uint8_t *k = t->key;
    unsigned i = 0, rex = 0;
    *o = (struct op){.map = 1, .vl = t->form.vl};
    if (k[0] == 0xc4) {
        o->map = k[1] & 0x1f;
        rex = (~(unsigned)k[1] >> 5) & 7;
        o->w = k[2] >> 7;
        o->v = (~(unsigned)k[2] >> 3) & 15;
        o->pp = k[2] & 3;
        i = 3;
    } else {
        if (k[i] == 0x66 || k[i] == 0xf3 || k[i] == 0xf2) {
            o->pp = k[i] == 0x66 ? 1 : k[i] == 0xf3 ? 2 : 3;
            i++;
        }
        if ((k[i] & 0xf0) == 0x40)
            rex = k[i++] & 15u;
        i++; /* 0F */
        if (k[i] == 0x38 || k[i] == 0x3a)
            o->map = k[i++] == 0x38 ? 2 : 3;
    }
    o->opcode = k[i];
    o->reg = ((k[i + 1] >> 3) & 7u) | (rex & 4) << 1;
    o->rm = (k[i + 1] & 7u) | (rex & 1) << 3;
    o->mem = k[i + 1] < 0xc0;
    if (k[0] != 0xc4)
        o->v = o->reg; /* two-operand form */
}

static void vector(const struct vmci_xsave *a, unsigned n, uint8_t out[32])
{
    vmci_fp_copy(out, a->xmm[n], 16);
    vmci_fp_copy(out + 16, a->ymmh[n], 16);
}

struct lanes {
    uint8_t r[3][32]; /* reg, vvvv, r/m */
    bool dbl, daz;
};

static struct num lane(const struct lanes *l, unsigned which, unsigned i)
{
    return l->dbl ? twice(vmci_ld_le64(l->r[which] + i * 8), l->daz)
                  : single(vmci_ld_le32(l->r[which] + i * 4), l->daz);
}

/* ---- instructions ---------------------------------------------------------------------------- */

static const struct num one = {.m = 1}, zero = {.m = 0};

static bool fma_inexact(const struct op *o, const struct lanes *l, unsigned i, unsigned p)
{
    static const uint8_t order[3][3] = {{0, 2, 1}, {1, 0, 2}, {1, 2, 0}}; /* 132, 213, 231 */
    const uint8_t *u = order[((o->opcode >> 4) - 9) == 0 ? 0 : (o->opcode >> 4) == 0xa ? 1 : 2];
    struct num a = lane(l, u[0], i), b = lane(l, u[1], i), c = lane(l, u[2], i);
    unsigned kind = o->opcode & 15;
    if (kind >= 12)
        a.neg = !a.neg;
    bool sub = kind == 6 ? !(i & 1) : kind == 7 ? (i & 1) != 0 : (kind & 2) != 0;
    if (sub)
        c.neg = !c.neg;
    return muladd_inexact(a, b, c, p);
}

static bool lane_inexact(const struct op *o, const struct lanes *l, unsigned i, unsigned p,
                         bool *known)
{
    if (o->map == 2)
        return fma_inexact(o, l, i, p);
    struct num a = lane(l, 1, i), b = lane(l, 2, i);
    switch (o->opcode) {
    case 0x58:
        return muladd_inexact(a, one, b, p);
    case 0x59:
        return muladd_inexact(a, b, zero, p);
    case 0x5c:
        b.neg = !b.neg;
        return muladd_inexact(a, one, b, p);
    case 0x5e:
        return div_inexact(a, b, p);
    case 0xd0: /* ADDSUB: even lanes subtract */
        b.neg ^= !(i & 1);
        return muladd_inexact(a, one, b, p);
    case 0x7c:
    case 0x7d: { /* pairs of either source */
        unsigned j = i | 1;
        if (i & 1)
            return false;
        struct num a1 = lane(l, 1, j), b1 = lane(l, 2, j);
        a1.neg ^= o->opcode == 0x7d;
        b1.neg ^= o->opcode == 0x7d;
        return muladd_inexact(a, one, a1, p) || muladd_inexact(b, one, b1, p);
    }
    case 0x5a: /* to single */
        return muladd_inexact(b, one, zero, 24);
    default:
        *known = false;
        return true;
    }
}

static void load_lanes(const struct vmci_fp *fp, const struct op *o, const struct vmci_thunk *t,
                       const void *mem, struct lanes *l)
{
    vmci_fp_zero(l, sizeof(*l));
    vector(&fp->undo, o->reg, l->r[0]);
    vector(&fp->undo, o->v, l->r[1]);
    if (o->mem)
        vmci_fp_copy(l->r[2], mem, t->form.mem_bytes);
    else
        vector(&fp->undo, o->rm, l->r[2]);
    l->dbl = o->map == 2 ? o->w : (o->pp & 1) != 0;
    if (o->map == 1 && (o->opcode == 0x7c || o->opcode == 0x7d || o->opcode == 0xd0))
        l->dbl = o->pp == 1;
    l->daz = (fp->undo.mxcsr & 0x40) != 0;
}

static bool scalar(const struct op *o)
{
    if (o->map == 2)
        return (o->opcode & 15) >= 9 && (o->opcode & 1);
    return o->pp >= 2 && o->opcode != 0x7c && o->opcode != 0x7d && o->opcode != 0xd0;
}

/* VCVTPS2PH of the register operand: inexact, or exact but tiny. It ignores FZ. */
static void half(const struct lanes *l, const struct op *o, bool *inexact, bool *tiny)
{
    for (unsigned i = 0; i < o->vl / 4; i++) {
        struct num a = single(vmci_ld_le32(l->r[0] + i * 4), l->daz);
        if (a.special || a.m == 0)
            continue;
        bool wide = muladd_inexact(a, one, zero, 11);
        *inexact |= wide;
        *tiny |= !wide && a.e + (int)bits_of(a.m) - 1 < -14;
    }
}

bool vmci_fp_half_tiny(const struct vmci_fp *fp, const struct vmci_thunk *t)
{
    struct op o;
    struct lanes l;
    bool inexact = false, tiny = false;
    parse(t, &o);
    if (o.map != 3 || o.opcode != 0x1d)
        return false;
    o.mem = false;
    load_lanes(fp, &o, t, NULL, &l);
    half(&l, &o, &inexact, &tiny);
    return tiny;
}

int vmci_fp_inexact(const struct vmci_fp *fp, const struct vmci_thunk *t, const void *mem)
{
    struct op o;
    struct lanes l;
    bool known = true, inexact = false, tiny = false;
    parse(t, &o);
    if (o.map == 3) {
        if (o.opcode != 0x1d)
            return -1;
        o.mem = false;
        load_lanes(fp, &o, t, mem, &l);
        half(&l, &o, &inexact, &tiny);
        return inexact;
    }
    load_lanes(fp, &o, t, mem, &l);
    unsigned n = scalar(&o) ? 1 : o.vl / (l.dbl ? 8 : 4), p = l.dbl ? 53 : 24;
    for (unsigned i = 0; i < n; i++)
        inexact |= lane_inexact(&o, &l, i, p, &known);
    return known ? inexact : -1;
}
