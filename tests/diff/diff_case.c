/* SPDX-License-Identifier: BSD-2-Clause */
/* Cases: what a seed means, memory, text form, dropping instructions. */
#include "diff.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* splitmix64 (Steele, Lea, Flood 2014) */
uint64_t diff_rand(struct diff_rng *r)
{
    uint64_t z = (r->s += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* ---- values ---------------------------------------------------------------------------------- */

static const uint32_t floats[] = {
    0x00000000, 0x80000000, 0x3f800000, 0xbf800000, 0x40000000, 0x3f000000, 0x7f800000, 0xff800000,
    0x7fc00000, 0xffc00000, 0x7f800001, 0xff812345, 0x7fffffff, 0x00000001, 0x80000001, 0x007fffff,
    0x00800000, 0x80800000, 0x00800001, 0x7f7fffff, 0xff7fffff, 0x4b000000, 0x4effffff, 0x4f000000,
    0xcf000000, 0x5f000000, 0xdf000000, 0x33800000, 0x34000000, 0x477fe000, 0x33000000, 0x38800000,
};
static const uint64_t doubles[] = {
    0x0000000000000000, 0x8000000000000000, 0x3ff0000000000000, 0xbff0000000000000,
    0x4000000000000000, 0x3fe0000000000000, 0x7ff0000000000000, 0xfff0000000000000,
    0x7ff8000000000000, 0xfff8000000000000, 0x7ff0000000000001, 0xfff4567890abcdef,
    0x7fffffffffffffff, 0x0000000000000001, 0x8000000000000001, 0x000fffffffffffff,
    0x0010000000000000, 0x8010000000000000, 0x7fefffffffffffff, 0xffefffffffffffff,
    0x41dfffffffc00000, 0x41e0000000000000, 0xc1e0000000000000, 0x43e0000000000000,
    0xc3e0000000000000, 0x3ca0000000000000, 0x36a0000000000000, 0x380fffffffffffff,
    0x47efffffe0000000, 0x47f0000000000000, 0x40e0000000000000, 0x3fb999999999999a,
};
static const uint64_t ints[] = {
    0, 1, 0xffffffffffffffff, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x7fffffff,
    0x80000000, 0xffffffff, 0x7fffffffffffffff, 0x8000000000000000, 0x0101010101010101,
};

static uint64_t value(struct diff_rng *r, unsigned kind)
{
    uint64_t v = diff_rand(r);
    unsigned pick = (unsigned)(v & 31);
    if (kind == DIFF_MIXED)
        kind = (unsigned)(v >> 60) % 3;
    switch (kind) {
    case DIFF_FLOATS: /* two; a third of them near 1 */
        if ((v >> 40) % 3 == 0)
            return (v & 0x807fffff007fffffull) | 0x3f0000003f800000ull;
        return floats[pick] | (uint64_t)floats[(v >> 8) & 31] << 32;
    case DIFF_DOUBLES:
        if ((v >> 40) % 3 == 0)
            return (diff_rand(r) & 0x800fffffffffffffull) | 0x3fe0000000000000ull |
                   (uint64_t)(pick & 3) << 52;
        return doubles[pick];
    default:
        return (v >> 32) % 3 == 0 ? ints[v & 15] : diff_rand(r);
    }
}

static void st_value(struct diff_rng *r, unsigned kind, uint8_t out[16])
{
    uint64_t m = value(r, kind), v = diff_rand(r);
    uint16_t e = (uint16_t)(v >> 48);
    switch (v % 8) {
    case 0: e = 0; m = 0; break;                                 /* zero */
    case 1: e = 0; break;                                        /* denormal */
    case 2: e = 0x7fff; m = 1ull << 63; break;                   /* infinity */
    case 3: e = 0x7fff; m |= 1ull << 63; break;                  /* NaN */
    case 4: m |= 1ull << 63; break;                              /* any exponent */
    case 5: break;                                               /* perhaps unsupported */
    default: e = (uint16_t)(0x3fff - 40 + v % 80); m |= 1ull << 63; break;
    }
    if ((v >> 20) & 1)
        e |= 0x8000;
    memset(out, 0, 16);
    memcpy(out, &m, 8);
    memcpy(out + 8, &e, 2);
}

/* ---- segments -------------------------------------------------------------------------------- */

const struct diff_seg diff_segs[DIFF_SEGS] = {
    {DIFF_DATA, 0x2fff, 0x40f1},          /* read-only */
    {DIFF_DATA, 0x17ff, 0x40f3},          /* a limit in bytes */
    {DIFF_DATA, 1, 0xc0f3},               /* and in pages */
    {DIFF_DATA, 0x7ff, 0x40f7},           /* expand-down */
    {DIFF_DATA, 0x7ff, 0x00f7},           /* the same with 16 bits: up to FFFFH */
    {DIFF_DATA, 0, 0xc0f5},               /* expand-down, read-only, in pages */
    {DIFF_DATA, 0xffff, 0x40fb},          /* readable code */
    {DIFF_DATA, 0xfffff, 0xc0f3},         /* to the end of the address space and round it */
};

/* ---- what the seed determines ---------------------------------------------------------------- */

void diff_case_finish(struct diff_case *c)
{
    struct diff_rng r = {c->seed ^ 0x5eed0f9};
    struct diff_fp *f = &c->in.fp;
    uint32_t mxcsr = f->mxcsr;
    uint16_t fcw = f->fcw, fsw = f->fsw;
    uint8_t ftw = f->ftw;
    memset(f, 0, sizeof(*f));
    f->mxcsr = mxcsr;
    f->fcw = fcw;
    f->fsw = fsw;
    f->ftw = ftw;
    f->header[0] = 7;
    for (unsigned i = 0; i < 8; i++)
        st_value(&r, c->fp_kind, f->st[i]);
    for (unsigned i = 0; i < 16; i++) {
        uint64_t v[4];
        for (unsigned k = 0; k < 4; k++)
            v[k] = value(&r, c->fp_kind);
        memcpy(f->xmm[i], v, 16);
        memcpy(f->ymmh[i], v + 2, 16);
    }
    c->in.rip = c->bits == 16 ? c->code_at : DIFF_CODE + c->code_at;
}

void diff_case_memory(const struct diff_case *c, uint8_t mem[DIFF_MEM_BYTES])
{
    enum { PATTERN = 1024 };
    struct diff_rng r = {c->seed ^ 0xda7a};
    for (unsigned at = 0; at < PATTERN; at += 8) {
        uint64_t v = value(&r, c->data_kind);
        memcpy(mem + at, &v, 8);
    }
    for (unsigned at = PATTERN; at < DIFF_MEM_BYTES; at += PATTERN)
        memcpy(mem + at, mem, PATTERN);
    for (unsigned at = 2 * DIFF_PAGE; at < 3 * DIFF_PAGE; at += 8) { /* read-only: always the same */
        uint64_t v = 0x3ff0000000000001ull * (at + 1);
        memcpy(mem + at, &v, 8);
    }
}

/* The code with the jump to DIFF_EXIT behind it; returns its length. */
static unsigned with_exit(const struct diff_case *c, uint8_t out[DIFF_CODE_MAX + 16])
{
    static const uint8_t jmp64[] = {0xff, 0x25, 0, 0, 0, 0, 0, 0, 0x57, 0x3a, 0, 0, 0, 0};
    static const uint8_t jmp32[] = {0xea, 0, 0, 0x57, 0x3a, DIFF_CS64, 0};
    unsigned n = c->code_bytes;
    memcpy(out, c->code, n);
    switch (c->bits) {
    case 64:
        memcpy(out + n, jmp64, sizeof(jmp64));
        return n + (unsigned)sizeof(jmp64);
    case 16: /* operand size prefix: 32-bit offset */
        out[n++] = 0x66;
        __attribute__((fallthrough));
    default:
        memcpy(out + n, jmp32, sizeof(jmp32));
        return n + (unsigned)sizeof(jmp32);
    }
}

void diff_case_code_pages(const struct diff_case *c, uint8_t out[DIFF_CODE_PAGES * DIFF_PAGE])
{
    uint8_t code[DIFF_CODE_MAX + 16];
    unsigned n = with_exit(c, code), room = DIFF_CODE_PAGES * DIFF_PAGE - c->code_at;
    memset(out, 0xcc, DIFF_CODE_PAGES * DIFF_PAGE);
    memcpy(out + c->code_at, code, n < room ? n : room);
}

void diff_case_drop(struct diff_case *c, unsigned i)
{
    unsigned at = 0, len = c->len[i];
    for (unsigned k = 0; k < i; k++)
        at += c->len[k];
    memmove(c->code + at, c->code + at + len, c->code_bytes - at - len);
    memmove(c->len + i, c->len + i + 1, c->insns - i - 1u);
    c->code_bytes = (uint16_t)(c->code_bytes - len);
    c->insns--;
}

/* ---- text ------------------------------------------------------------------------------------ */

bool diff_case_read(void *file, struct diff_case *c, bool *bad)
{
    FILE *f = file;
    char line[512];
    bool begun = false;
    memset(c, 0, sizeof(*c));
    *bad = false;
    while (fgets(line, sizeof(line), f) != NULL) {
        char word[32];
        unsigned a, b, d, e;
        uint64_t v;
        if (line[0] == '#' || line[0] == '\n')
            continue;
        if (sscanf(line, "%31s", word) != 1)
            continue;
        if (strcmp(word, "end") == 0) {
            *bad = !begun || c->insns == 0;
            diff_case_finish(c);
            return true;
        }
        if (sscanf(line, "case bits %u at %x seed %" SCNx64 " fp %u data %u", &a, &b, &v, &d, &e) == 5) {
            c->bits = (uint8_t)a;
            c->code_at = (uint16_t)b;
            c->seed = v;
            c->fp_kind = (uint8_t)d;
            c->data_kind = (uint8_t)e;
            begun = true;
        } else if (sscanf(line, "segs %u %u", &a, &b) == 2 && a <= DIFF_SEGS && b <= DIFF_SEGS) {
            c->ds = (uint8_t)a;
            c->es = (uint8_t)b;
        } else if (sscanf(line, "flags %" SCNx64 " mxcsr %x fcw %x fsw %x ftw %x", &v, &a, &b, &d, &e) == 5) {
            c->in.rflags = v;
            c->in.fp.mxcsr = a;
            c->in.fp.fcw = (uint16_t)b;
            c->in.fp.fsw = (uint16_t)d;
            c->in.fp.ftw = (uint8_t)e;
        } else if (sscanf(line, "r%u %" SCNx64, &a, &v) == 2 && a < 16) {
            c->in.gpr[a] = v;
        } else if (strcmp(word, "insn") == 0 && c->insns < DIFF_MAX_INSNS) {
            const char *p = line + 4;
            unsigned len = 0;
            int used;
            while (sscanf(p, " %2x%n", &a, &used) == 1 && len < 15 &&
                   c->code_bytes < DIFF_CODE_MAX) {
                c->code[c->code_bytes++] = (uint8_t)a;
                len++;
                p += used;
            }
            c->len[c->insns++] = (uint8_t)len;
        } else {
            *bad = true;
        }
    }
    return false;
}
