/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Encodings that nobody chose: prefixes, opcode, ModR/M and what follows are random bytes, so that
 * also what the decoder refuses is compared with the host: #UD or not, the length, what is done.
 *
 * The case's bytes end where the executable pages end. A processor that wants more bytes than there
 * are faults there before it does anything: the host's length is the number of bytes for which it
 * no longer does. So no instruction but the one in question ever runs.
 */
#include "diff.h"

#include <string.h>
#include <vmcore/x86.h>

/* The layout of an encoding, read without our decoder. */
struct raw {
    unsigned at;  /* of the opcode byte, or of the byte behind a VEX prefix */
    unsigned map; /* 1: one byte, 2: 0F, 3: 0F 38, 4: 0F 3A */
    uint8_t op, modrm;
    bool vex, o66, f2, f3, lock;
};

static bool is_prefix(unsigned bits, uint8_t b)
{
    switch (b) {
    case 0x66:
    case 0x67:
    case 0xf0:
    case 0xf2:
    case 0xf3:
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x64:
    case 0x65:
        return true;
    default:
        return bits == 64 && (b & 0xf0) == 0x40;
    }
}

static void scan(unsigned bits, const uint8_t *b, struct raw *r)
{
    unsigned i = 0;
    memset(r, 0, sizeof(*r));
    r->map = 1;
    for (; i < 12 && is_prefix(bits, b[i]); i++) {
        r->o66 |= b[i] == 0x66;
        r->f2 |= b[i] == 0xf2;
        r->f3 |= b[i] == 0xf3;
        r->lock |= b[i] == 0xf0;
    }
    if ((b[i] & 0xfe) == 0xc4 && (bits == 64 || b[i + 1] >= 0xc0)) {
        r->vex = true;
        r->map = b[i] == 0xc5 ? 2 : (b[i + 1] & 31) + 1;
        i += b[i] == 0xc5 ? 2 : 3;
    } else if (b[i] == 0x0f) {
        i++;
        r->map = b[i] == 0x38 ? 3 : b[i] == 0x3a ? 4 : 2;
        i += r->map > 2;
    }
    r->at = i;
    r->op = b[i];
    r->modrm = b[i + 1];
}

/* clang-format off */
/* What would call the host's kernel, depend on it, or change what the comparison stands on. */
static bool unsafe_1b(unsigned bits, const struct raw *r)
{
    unsigned reg = r->modrm >> 3 & 7;
    switch (r->op) {
    case 0x06: case 0x07: case 0x0e: case 0x16: case 0x17: case 0x1e: case 0x1f: /* segments */
    case 0x8c: case 0x8e: case 0x9a: case 0xea: case 0xca: case 0xcb: case 0xcf: /* far transfers */
    case 0xcc: case 0xcd: case 0xf1: /* software interrupts */
        return true;
    case 0x63: /* ARPL; MOVSXD with 66: see acceptable() in diff_gen.c */
        return bits != 64 || r->o66;
    case 0xc4: case 0xc5: /* LES, LDS */
        return true;
    case 0x62: /* BOUND, or EVEX, which the host may have */
        return bits == 64 || r->modrm >= 0xc0;
    case 0x8f: /* XOP, which old hosts have */
        return reg != 0;
    case 0xff:
        return reg == 3 || reg == 5 || ((reg == 2 || reg == 4) && r->o66);
    case 0xc8: /* ENTER: how it probes the stack */
        return true;
    case 0xe0: case 0xe1: /* F2 and F3 change the condition on AMD's processors */
        return r->o66 || r->f2 || r->f3 || r->modrm > 0xf0;
    /* 66 with near branches: vendors differ; and no endless loops */
    case 0xe2: case 0xe3: case 0xeb:
        return r->o66 || r->modrm > 0xf0;
    case 0xe8: case 0xe9: case 0xc2: case 0xc3:
        return r->o66;
    default:
        return (r->op & 0xf0) == 0x70 && (r->o66 || r->modrm > 0xf0);
    }
}

static bool unsafe_0f(const struct raw *r)
{
    unsigned reg = r->modrm >> 3 & 7;
    switch (r->op) {
    case 0x00: /* selectors; UMIP */
        return reg < 2 || reg == 4 || reg == 5;
    case 0x01:
        return reg < 2 || reg == 4 || r->modrm >= 0xc0 || (reg == 5 && r->f3);
    case 0x02: case 0x03: /* LAR, LSL */
    case 0x05: case 0x34: case 0x31: case 0x33: case 0xa2: /* RDTSC, RDPMC, CPUID */
    case 0xa0: case 0xa1: case 0xa8: case 0xa9: case 0xb2: case 0xb4: case 0xb5: /* segments */
    case 0x0d: /* 3DNow! prefetches: the register form differs among vendors */
    case 0x78: case 0x79: /* SSE4a, VMX */
    case 0x2b: /* SSE4a with F2, F3 */
        return true;
    case 0x20: case 0x22: /* LOCK makes CR8 of CR0 for AMD's processors */
        return r->lock;
    case 0xae: /* FS and GS bases, XSAVE, shadow stacks */
        return reg >= 4 || r->modrm >= 0xc0 || r->f2 || r->f3;
    case 0xc7: /* RDRAND, XSAVES, RDPID */
        return reg != 1;
    default:
        return (r->op & 0xf0) == 0x80 && r->o66; /* Jcc */
    }
}

/* clang-format on */

static bool within(uint8_t op, unsigned first, unsigned last)
{
    return op >= first && op <= last;
}

/*
 * What newer hosts have and this processor has not: AVX-512's mask registers, AMX, AVX-VNNI, -IFMA
 * and -NE-CONVERT, SHA512, SM3, SM4, CMPccXADD. AMD's processors take VPERMQ and VPERMPD without W.
 */
static bool unsafe_vex(const struct raw *r)
{
    switch (r->map) {
    case 2:
        return within(r->op, 0x41, 0x4b) || within(r->op, 0x90, 0x93) || within(r->op, 0x98, 0x99);
    case 3:
        return within(r->op, 0x48, 0x53) || within(r->op, 0x5c, 0x5f) ||
               within(r->op, 0x6c, 0x72) || within(r->op, 0xb0, 0xb5) ||
               within(r->op, 0xcb, 0xd3) || r->op == 0xda || within(r->op, 0xe0, 0xef);
    case 4:
        return r->op <= 1 || within(r->op, 0x30, 0x33) || r->op == 0xde;
    default:
        return true;
    }
}

static bool unsafe(unsigned bits, const struct raw *r)
{
    if (r->vex)
        return unsafe_vex(r);
    if (r->map == 1)
        return unsafe_1b(bits, r);
    if (r->map == 2)
        return unsafe_0f(r);
    /* Key Locker, shadow stacks, direct stores, HRESET: what newer hosts have */
    return r->map == 3 ? r->op == 0x82 || r->op >= 0xf2 || (r->f3 && within(r->op, 0xd8, 0xdf))
                       : r->op == 0xf0;
}

/* Where the bytes begin when n of them are there. */
void diff_raw_length(struct diff_case *c, unsigned n)
{
    c->insns = 1;
    c->len[0] = (uint8_t)n;
    c->code_bytes = (uint16_t)n;
    c->code_at = (uint16_t)(DIFF_CODE_PAGES * DIFF_PAGE - n);
    diff_case_finish(c);
}

bool diff_raw_wants_more(const struct diff_case *c, const struct diff_result *r)
{
    uint32_t end =
        c->bits == 16 ? DIFF_CODE_PAGES * DIFF_PAGE : DIFF_CODE + DIFF_CODE_PAGES * DIFF_PAGE;
    uint64_t cr2 = DIFF_CODE + DIFF_CODE_PAGES * DIFF_PAGE;
    return r->vector == VMC_VEC_PF && r->out.rip == end - c->code_bytes && r->cr2 == cr2 &&
           (r->code & 2) == 0;
}

void diff_raw_bytes(struct diff_rng *r, unsigned bits, uint8_t b[DIFF_MAX_BYTES])
{
    static const uint8_t prefixes[] = {0x66, 0x66, 0x67, 0xf2, 0xf3, 0xf0,
                                       0x2e, 0x65, 0x48, 0x41, 0x4f, 0x44};
    struct raw raw;
    do {
        unsigned n = 0, k = diff_below(r, 100);
        for (unsigned i = 0; i < DIFF_MAX_BYTES; i++)
            b[i] = (uint8_t)(diff_chance(r, 25) ? diff_below(r, 9) : diff_rand(r));
        for (unsigned p = k < 40 ? 0 : k < 75 ? 1 : k < 92 ? 2 : 3; p > 0; p--)
            b[n++] = prefixes[diff_below(r, bits == 64 ? 12 : 8)];
        k = diff_below(r, 100);
        if (k < 45) {
            b[n++] = 0x0f;
            if (k < 25)
                b[n] = (uint8_t)(k < 15 ? 0x38 : 0x3a);
        } else if (k < 70) {
            b[n++] = (uint8_t)(k < 52 ? 0xc5 : 0xc4);
            if (k >= 52)
                b[n] = (uint8_t)((b[n] & 0xe0) | (1 + diff_below(r, 3)));
            if (bits != 64)
                b[n] |= 0xc0;
        } else if (k < 80) { /* x87 */
            b[n] = (uint8_t)(0xd8 | (b[n] & 7));
        }
        scan(bits, b, &raw);
    } while (unsafe(bits, &raw));
}
