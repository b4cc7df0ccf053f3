/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random cases. What there is to generate is found by asking the decoder about every opcode of
 * every map with every mandatory prefix, W, L and ModRM.reg: a form is one of those that decodes to
 * something that user mode may execute the same everywhere.
 */
#include "diff.h"
#include "diff_gen.h"
#include "test_platform.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vmcore/x86.h>
#include <vmcore/x86_state.h>

struct form {
    uint8_t map, opcode;
    uint8_t pp;        /* 0, 66, F3, F2 as 0..3 */
    bool vex, w, l, mem;
    uint8_t regs;      /* valid values of ModRM.reg */
    bool modrm;
    uint16_t op;
};

struct forms {
    struct form *f;
    unsigned n, room;
    /* where integer and FP forms begin: integer first */
    unsigned fp_first;
};

struct diff_gen {
    struct test_platform tp;
    struct vmci_decoder *dec;
    uint64_t features;
    unsigned int_percent; /* share of integer instructions */
    struct forms forms[3]; /* 16, 32, 64 bits */
};

static unsigned slot(unsigned bits)
{
    return bits == 64 ? 2 : bits == 32 ? 1 : 0;
}

static int decode(struct diff_gen *g, unsigned bits, const uint8_t *b, unsigned n,
                  struct vmci_insn *in)
{
    struct vmci_dec_mode m = {.bits = (uint8_t)bits, .features = g->features};
    uint8_t buf[16] = {0};
    memcpy(buf, b, n < 15 ? n : 15);
    return vmci_decode(g->dec, &m, buf, 15, in);
}

/* ---- what may run ---------------------------------------------------------------------------- */

/*
 * Instructions whose result depends on the system around them (selectors, time, processor number,
 * the kernel's emulation under UMIP), or that would call the host's kernel.
 */
static bool excluded(unsigned op)
{
    switch (op) {
    case VMCI_OP_SYSCALL: case VMCI_OP_SYSENTER: case VMCI_OP_INT: case VMCI_OP_INT1:
    case VMCI_OP_CPUID: case VMCI_OP_RDTSC: case VMCI_OP_RDTSCP: case VMCI_OP_RDPID:
    case VMCI_OP_RDPMC: case VMCI_OP_RDRAND: case VMCI_OP_RDSEED: case VMCI_OP_XGETBV:
    case VMCI_OP_SGDT: case VMCI_OP_SIDT: case VMCI_OP_SLDT: case VMCI_OP_STR: case VMCI_OP_SMSW:
    case VMCI_OP_LAR: case VMCI_OP_LSL: case VMCI_OP_VERR: case VMCI_OP_VERW:
    case VMCI_OP_MOV_SREG: case VMCI_OP_PUSH_SREG: case VMCI_OP_POP_SREG: case VMCI_OP_LOAD_FAR:
    case VMCI_OP_JMP_FAR: case VMCI_OP_CALL_FAR: case VMCI_OP_RET_FAR: case VMCI_OP_IRET:
    case VMCI_OP_RDFSBASE: case VMCI_OP_RDGSBASE: case VMCI_OP_WRFSBASE: case VMCI_OP_WRGSBASE:
    case VMCI_OP_MONITOR: case VMCI_OP_MWAIT: case VMCI_OP_VMCALL: case VMCI_OP_VMMCALL:
    case VMCI_OP_RSM: case VMCI_OP_UD: case VMCI_OP_SYSRET: case VMCI_OP_SYSEXIT:
    case VMCI_OP_IN: case VMCI_OP_OUT: case VMCI_OP_INS: case VMCI_OP_OUTS:
    case VMCI_OP_ARPL: case VMCI_OP_CLZERO:
    /* the image shows which components the processor tracks as in use: its own affair */
    case VMCI_OP_XSAVE: case VMCI_OP_XSAVEOPT: case VMCI_OP_XSAVEC:
        return true;
    default:
        return false;
    }
}

/* ---- forms ----------------------------------------------------------------------------------- */

static const uint8_t pp_bytes[4] = {0, 0x66, 0xf3, 0xf2};

/* Bytes of a form up to and without ModR/M. rex: 0 or REX bits; v: vvvv. */
static unsigned opcode_bytes(const struct form *f, unsigned bits, unsigned rex, unsigned v,
                             uint8_t *out)
{
    unsigned n = 0;
    if (f->w)
        rex |= 8;
    if (f->vex) {
        if (bits != 64)
            rex &= 8;
        if (f->map == VMCI_MAP_0F && !(rex & 11)) {
            out[n++] = 0xc5;
            out[n++] = (uint8_t)((~rex & 4) << 5 | (~v & 15) << 3 | (unsigned)f->l << 2 | f->pp);
        } else {
            out[n++] = 0xc4;
            out[n++] = (uint8_t)((~rex & 7) << 5 | f->map);
            out[n++] = (uint8_t)((rex & 8) << 4 | (~v & 15) << 3 | (unsigned)f->l << 2 | f->pp);
        }
        if (bits != 64)
            out[n - (out[n - 2] == 0xc5 ? 1 : 2)] |= 0xc0;
    } else {
        if (f->pp != 0)
            out[n++] = pp_bytes[f->pp];
        if (rex != 0)
            out[n++] = (uint8_t)(0x40 | rex);
        if (f->map != VMCI_MAP_1B)
            out[n++] = 0x0f;
        if (f->map >= VMCI_MAP_0F38)
            out[n++] = f->map == VMCI_MAP_0F38 ? 0x38 : 0x3a;
    }
    out[n++] = f->opcode;
    return n;
}

static bool add_form(struct forms *fs, const struct form *f)
{
    if (fs->n == fs->room) {
        unsigned room = fs->room ? fs->room * 2 : 1024;
        struct form *p = realloc(fs->f, room * sizeof(*p));
        if (p == NULL)
            return false;
        fs->f = p;
        fs->room = room;
    }
    fs->f[fs->n++] = *f;
    return true;
}

static bool prefix_byte(unsigned bits, uint8_t b)
{
    switch (b) {
    case 0x66: case 0x67: case 0xf0: case 0xf2: case 0xf3: case 0x26: case 0x2e: case 0x36:
    case 0x3e: case 0x64: case 0x65: case 0x0f: case 0xc4: case 0xc5: case 0x62: case 0x8f:
        return b != 0xc4 && b != 0xc5 && b != 0x8f && b != 0x62;
    default:
        return bits == 64 && (b & 0xf0) == 0x40;
    }
}

/* Try one form with every ModRM.reg. FP and integer in separate passes. */
static bool try_form(struct diff_gen *g, unsigned bits, struct form f, bool fp)
{
    struct forms *fs = &g->forms[slot(bits)];
    struct vmci_insn in;
    bool first = true;
    for (unsigned reg = 0; reg < 8; reg++) {
        uint8_t b[16] = {0};
        unsigned n = opcode_bytes(&f, bits, 0, 0, b);
        /* a SIB byte, so that gathers decode too */
        b[n] = (uint8_t)(f.mem ? 0x04 | reg << 3 : 0xc1 | reg << 3);
        if (f.mem)
            b[n + 1] = 0x58; /* [eax + 2*ebx] */
        if (f.mem && bits == 16)
            b[n] = (uint8_t)(reg << 3);
        if (decode(g, bits, b, 15, &in) <= 0 || excluded(in.op))
            continue;
        if ((in.flags & VMCI_IF_VEX) && !f.vex)
            continue;
        if (f.w && !f.vex && bits != 64)
            continue;
        if ((in.op >= VMCI_OP_FP_FIRST) != fp)
            continue;
        bool modrm = in.modrm_off != 0;
        if (!modrm && (reg != 0 || f.mem))
            continue;
        if (!first && in.op != f.op && in.op < VMCI_OP_FP_FIRST) { /* group: a form each */
            struct form more = f;
            more.regs = (uint8_t)(1u << reg);
            more.op = in.op;
            if (!add_form(fs, &more))
                return false;
            continue;
        }
        if (first) {
            f.op = in.op;
            f.modrm = modrm;
            first = false;
        }
        f.regs |= (uint8_t)(1u << reg);
    }
    return first || add_form(fs, &f);
}

static bool enumerate(struct diff_gen *g, unsigned bits, bool fp)
{
    for (unsigned k = 0; k < 7u * 256 * 4 * 2 * 2 * 2; k++) {
        struct form f = {.opcode = (uint8_t)k, .pp = (k >> 8) & 3, .w = k >> 10 & 1,
                         .l = k >> 11 & 1, .mem = k >> 12 & 1};
        unsigned map = k >> 13;
        f.vex = map > 3;
        f.map = (uint8_t)(f.vex ? map - 3 : map);
        if ((!f.vex && f.l) || (f.w && bits != 64 && !f.vex))
            continue;
        if (f.map == VMCI_MAP_1B && (prefix_byte(bits, f.opcode) ||
                                     (f.pp > 1 && f.opcode != 0x90 && (f.opcode & 0xf4) != 0xa4 &&
                                      (f.opcode & 0xfe) != 0xaa)))
            continue; /* F2, F3 mean something to strings and NOP only */
        if (!try_form(g, bits, f, fp))
            return false;
    }
    return true;
}

struct diff_gen *diff_gen_create(uint64_t features)
{
    static const uint8_t modes[] = {16, 32, 64};
    struct diff_gen *g = calloc(1, sizeof(*g));
    if (g == NULL)
        return NULL;
    test_platform_init(&g->tp);
    g->features = features;
    g->int_percent = 50;
    if (vmci_decoder_create(&g->tp.pf, &g->dec, NULL) != 0) {
        free(g);
        return NULL;
    }
    for (unsigned i = 0; i < 3; i++) {
        bool ok = enumerate(g, modes[i], false);
        g->forms[i].fp_first = g->forms[i].n;
        if (!ok || !enumerate(g, modes[i], true)) {
            diff_gen_destroy(g);
            return NULL;
        }
    }
    return g;
}

void diff_gen_destroy(struct diff_gen *g)
{
    for (unsigned i = 0; i < 3; i++)
        free(g->forms[i].f);
    vmci_decoder_destroy(g->dec);
    free(g);
}

void diff_gen_mix(struct diff_gen *g, unsigned int_percent)
{
    g->int_percent = int_percent;
}

unsigned diff_gen_forms(const struct diff_gen *g, unsigned bits)
{
    return g->forms[slot(bits)].n;
}

/* ---- registers ------------------------------------------------------------------------------- */

/* Roles: pointers into the data pages, small integers (indexes, counts), anything. */
#define POINTERS ((1u << VMC_RBX) | (1u << VMC_RBP) | (1u << VMC_RSI) | (1u << VMC_RDI) | \
                  (1u << VMC_R8) | (1u << VMC_R13) | (1u << VMC_R14))
#define SMALL ((1u << VMC_RCX) | (1u << VMC_R9) | (1u << VMC_R12))

static uint32_t data_offset(struct diff_rng *r)
{
    unsigned p = diff_below(r, 100);
    if (p < 60)
        return 0x100 + (diff_below(r, 0xe00) & ~63u);
    if (p < 70)
        return 0x100 + diff_below(r, 0xe00);
    if (p < 82) /* around the border of two pages */
        return 0x1000 - 40 + diff_below(r, 44);
    if (p < 88) /* into the read-only page */
        return 0x2000 - 40 + diff_below(r, 44);
    if (p < 92)
        return 0x2800 + (diff_below(r, 0x400) & ~63u);
    if (p < 97) /* into nothing */
        return 0x3000 - 40 + diff_below(r, 44);
    return 0u - diff_below(r, 24); /* from below */
}

static uint64_t integer(struct diff_rng *r)
{
    static const uint64_t v[] = {0, 1, ~0ull, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff,
                                 0x80000000, 0xffffffff, 0x100000000, 0x7fffffffffffffff,
                                 0x8000000000000000, 0xfffffffffffffffe};
    return diff_chance(r, 35) ? v[diff_below(r, 16)] : diff_rand(r) >> diff_below(r, 64);
}

/* Where DS has the data pages. */
static uint32_t data_base(const struct diff_case *c)
{
    return c->bits == 16 || c->ds != 0 ? 0 : DIFF_DATA;
}

static void registers(struct diff_rng *r, struct diff_case *c)
{
    uint32_t base = data_base(c);
    for (unsigned i = 0; i < 16; i++) {
        uint64_t v;
        if (POINTERS >> i & 1)
            v = c->bits == 16 ? (diff_rand(r) << 16 | (data_offset(r) & 0xffff)) : base + data_offset(r);
        else if (SMALL >> i & 1)
            v = diff_chance(r, 90) ? diff_below(r, 70) : integer(r);
        else
            v = integer(r);
        if (diff_chance(r, 2))
            v = diff_rand(r); /* most likely not canonical */
        c->in.gpr[i] = c->bits == 64 ? v : (uint32_t)v;
    }
    uint32_t sp = 0x800 + 8 * diff_below(r, 16);
    if (diff_chance(r, 8))
        sp = diff_chance(r, 50) ? diff_below(r, 40) : DIFF_PAGE - diff_below(r, 40);
    c->in.gpr[VMC_RSP] = c->bits == 16 ? sp : DIFF_STACK + sp;
}

static void fp_control(struct diff_rng *r, struct diff_case *c)
{
    struct diff_fp *f = &c->in.fp;
    c->fp_kind = (uint8_t)diff_below(r, DIFF_KINDS);
    c->data_kind = diff_chance(r, 70) ? c->fp_kind : (uint8_t)diff_below(r, DIFF_KINDS);
    f->mxcsr = 0x1f80;
    if (diff_chance(r, 30))
        f->mxcsr = (uint32_t)(diff_rand(r) & 0xe07f) | 0x1f80;
    if (diff_chance(r, 12))
        f->mxcsr = (uint32_t)(diff_rand(r) & 0xffff);
    f->fcw = 0x037f;
    if (diff_chance(r, 30))
        f->fcw = (uint16_t)((diff_rand(r) & 0x0f00) | 0x7f);
    if (diff_chance(r, 12))
        f->fcw = (uint16_t)((diff_rand(r) & 0x0f3f) | 0x40);
    f->fsw = (uint16_t)(diff_chance(r, 50) ? diff_rand(r) & 0x4700 : 0);
    f->fsw |= (uint16_t)(diff_below(r, 8) << 11);
    if (diff_chance(r, 10)) {
        f->fsw |= (uint16_t)(diff_rand(r) & 0x7f);
        if (f->fsw & ~f->fcw & 0x3f)
            f->fsw |= 0x8080;
    }
    f->ftw = (uint8_t)(diff_chance(r, 50) ? 0xff : diff_rand(r));
}

/* ---- one instruction ------------------------------------------------------------------------- */

/* A displacement or absolute address that means something, for the form of the ModR/M byte. */
static void put_disp(struct diff_rng *r, uint8_t *p, unsigned bytes, uint32_t v)
{
    (void)r;
    memcpy(p, &v, bytes);
}

static unsigned modrm16(struct diff_rng *r, uint8_t *b, unsigned reg)
{
    unsigned mod = diff_below(r, 3), rm = diff_below(r, 8), n = 0;
    b[n++] = (uint8_t)(mod << 6 | reg << 3 | rm);
    if (mod == 0 && rm == 6) {
        put_disp(r, b + n, 2, data_offset(r));
        return n + 2;
    }
    put_disp(r, b + n, mod, diff_rand(r) & 31);
    return n + mod;
}

/* vsib: the index is a vector register, the addresses will be wild unless its elements are small. */
static unsigned modrm32(struct diff_rng *r, uint8_t *b, unsigned reg, unsigned *rex, unsigned bits,
                        bool vsib)
{
    static const uint8_t ptr[] = {VMC_RBX, VMC_RBP, VMC_RSI, VMC_RDI, VMC_R8, VMC_R13, VMC_R14};
    static const uint8_t small[] = {VMC_RCX, VMC_R9, VMC_R12, VMC_RCX};
    unsigned mod = diff_below(r, 3), n = 0, base, index;
    base = diff_chance(r, 92) ? ptr[diff_below(r, bits == 64 ? 7 : 4)] : diff_below(r, 16);
    if (bits != 64)
        base &= 7;
    if (!vsib && diff_chance(r, 12)) { /* absolute, or relative to the instruction pointer */
        b[n++] = (uint8_t)(reg << 3 | 5);
        put_disp(r, b + n, 4, DIFF_DATA + data_offset(r)); /* RIP: corrected by the caller */
        *rex &= ~3u;
        return n + 4;
    }
    bool sib = vsib || diff_chance(r, 40) || (base & 7) == 4;
    *rex = (*rex & ~3u) | (base >> 3);
    if ((base & 7) == 5 && mod == 0)
        mod = 1;
    b[n++] = (uint8_t)(mod << 6 | reg << 3 | (sib ? 4 : base & 7));
    if (sib) {
        index = diff_chance(r, 85) ? small[diff_below(r, 4)] : diff_below(r, 16);
        if (vsib)
            index = diff_below(r, 16);
        if (bits != 64)
            index &= 7;
        *rex |= (index >> 3) << 1;
        b[n++] = (uint8_t)(diff_below(r, 4) << 6 | (index & 7) << 3 | (base & 7));
    }
    if (mod == 1)
        b[n++] = (uint8_t)(diff_below(r, 4) ? (diff_rand(r) & 0x30) : diff_rand(r));
    if (mod == 2) {
        put_disp(r, b + n, 4, diff_below(r, 8) ? diff_below(r, 8) * 16 : (uint32_t)diff_rand(r));
        n += 4;
    }
    return n;
}

static unsigned choose_bit(struct diff_rng *r, uint8_t mask)
{
    unsigned k;
    do
        k = diff_below(r, 8);
    while (!(mask >> k & 1));
    return k;
}

/* Legacy prefixes that may stand before anything. Most instructions get none. */
static unsigned random_prefixes(struct diff_rng *r, const struct form *f, unsigned bits, uint8_t *b,
                                bool *a67)
{
    static const uint8_t segs[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
    unsigned n = 0;
    *a67 = false;
    if (diff_chance(r, 10))
        b[n++] = segs[diff_below(r, bits == 64 ? 6 : 4)];
    if (diff_chance(r, 5)) {
        b[n++] = 0x67;
        *a67 = true;
    }
    if (f->mem && !f->vex && diff_chance(r, f->op < VMCI_OP_FP_FIRST ? 8 : 1))
        b[n++] = 0xf0;
    if (diff_chance(r, 2))
        b[n++] = (uint8_t)(diff_chance(r, 50) ? 0xf3 : 0xf2);
    if (diff_chance(r, 3))
        b[n++] = 0x66;
    return n;
}

/* Branches go forward, over at most one instruction: into nothing is allowed too. */
static void fix_branch(struct diff_rng *r, struct vmci_insn *in, uint8_t *b)
{
    if (in->imm_off == 0 || in->opnd[0].kind != VMCI_OPND_REL)
        return;
    unsigned bytes = in->len - in->imm_off;
    uint32_t v = 0;
    if (diff_chance(r, 3) && bytes == 4)
        v = (uint32_t)diff_rand(r) & 0x7fffffff;
    memcpy(b + in->imm_off, &v, bytes);
}

static void fix_address(const struct diff_case *c, struct vmci_insn *in, uint8_t *b, unsigned at,
                        struct diff_rng *r)
{
    uint32_t v;
    if (in->base == VMCI_REG_IP && in->disp_bytes == 4) {
        v = DIFF_DATA + data_offset(r) - (DIFF_CODE + c->code_at + at + in->len);
        memcpy(b + in->disp_off, &v, 4);
    } else if (in->modrm_off == 0 && in->disp_off != 0) { /* MOV with absolute address */
        uint64_t a = data_base(c) + (uint64_t)data_offset(r);
        memcpy(b + in->disp_off, &a, in->disp_bytes);
    } else if (c->ds != 0 && in->base == VMCI_REG_ZERO && in->disp_bytes == 4) {
        v = data_offset(r);
        memcpy(b + in->disp_off, &v, 4);
    }
}

static bool acceptable(const struct diff_case *c, const struct vmci_insn *in, uint64_t undef)
{
    if (excluded(in->op))
        return false;
    if (diff_flag_uses[in->op].used & undef)
        return false;
    /* Shifts by more than the operand's size leave it undefined. */
    if ((in->op == VMCI_OP_SHLD || in->op == VMCI_OP_SHRD) && in->opsize == 2)
        return false;
    /* The register form of 0F 0D is a NOP for Intel, #UD for AMD. */
    if (in->map == VMCI_MAP_0F && in->raw[in->opcode_off] == 0x0d && in->raw[in->modrm_off] >= 0xc0)
        return false;
    /* With 66, MOVSXD reads two bytes for Intel (SDM 2B), four on AMD's processors. */
    if (in->op == VMCI_OP_MOVSX && in->map == VMCI_MAP_1B && in->opsize == 2 &&
        in->raw[in->modrm_off] < 0xc0)
        return false;
    /* How ENTER probes the stack it will leave behind is not architectural. */
    if (in->op == VMCI_OP_ENTER && (c->in.rflags & VMC_FLAG_AC))
        return false;
    /* F3 before 66 changes what AMD's processors make of LOOP. */
    if ((in->flags & VMCI_IF_BRANCH) && (in->flags & VMCI_IF_66) &&
        (in->flags & (VMCI_IF_F2 | VMCI_IF_F3)))
        return false;
    /* Vendors differ in what 66 does to near branches in 64-bit mode. */
    if (c->bits == 64 && (in->flags & VMCI_IF_BRANCH) && (in->flags & VMCI_IF_66))
        return false;
    return true;
}

/* Append one instruction of form f. false: the attempt came to nothing. */
static bool put_insn(struct diff_gen *g, struct diff_rng *r, struct diff_case *c,
                     const struct form *f, uint64_t *undef)
{
    uint8_t b[32];
    struct vmci_insn in;
    bool a67;
    unsigned n = random_prefixes(r, f, c->bits, b, &a67);
    unsigned rex = c->bits == 64 ? (unsigned)diff_rand(r) & 7 : 0;
    unsigned v = diff_chance(r, 60) ? diff_below(r, 16) : 0;
    if (!f->vex && diff_chance(r, 50))
        rex = 0;
    uint8_t m[12];
    unsigned mn = 0;
    if (f->modrm) {
        unsigned reg = choose_bit(r, f->regs);
        if (!f->mem)
            m[mn++] = (uint8_t)(0xc0 | reg << 3 | diff_below(r, 8));
        else if (c->bits == 16 ? !a67 : a67 && c->bits == 32)
            mn = modrm16(r, m, reg);
        else
            mn = modrm32(r, m, reg, &rex, c->bits,
                         f->vex && f->map == VMCI_MAP_0F38 && (f->opcode & 0xfc) == 0x90);
    }
    n += opcode_bytes(f, c->bits, rex, v, b + n);
    memcpy(b + n, m, mn);
    n += mn;
    for (unsigned i = 0; i < 10; i++)
        b[n + i] = (uint8_t)(diff_chance(r, 30) ? diff_below(r, 9) : diff_rand(r));
    int len = decode(g, c->bits, b, 15, &in);
    if (len <= 0 || !acceptable(c, &in, *undef) || c->code_bytes + (unsigned)len > DIFF_CODE_MAX)
        return false;
    if (in.op == VMCI_OP_UD && !diff_chance(r, 3))
        return false;
    fix_branch(r, &in, b);
    fix_address(c, &in, b, c->code_bytes, r);
    memcpy(c->code + c->code_bytes, b, (size_t)len);
    c->len[c->insns++] = (uint8_t)len;
    c->code_bytes = (uint16_t)(c->code_bytes + len);
    const struct diff_flag_use *u = &diff_flag_uses[in.op];
    *undef = (*undef & ~(uint64_t)u->set) | u->undef;
    return true;
}

/* ---- cases ----------------------------------------------------------------------------------- */

static void begin(struct diff_gen *g, struct diff_rng *r, unsigned bits, uint64_t seed,
                  struct diff_case *c)
{
    (void)g;
    memset(c, 0, sizeof(*c));
    c->bits = (uint8_t)bits;
    c->seed = seed;
    c->code_at = (uint16_t)(0x100 + diff_below(r, 0x80));
    if (diff_chance(r, 5)) /* across two pages, or off the end of the second */
        c->code_at = (uint16_t)((diff_chance(r, 80) ? 1 : 2) * DIFF_PAGE - 1 - diff_below(r, 40));
    if (bits != 64 && diff_chance(r, 30)) {
        c->ds = (uint8_t)(1 + diff_below(r, DIFF_SEGS));
        c->es = diff_chance(r, 50) ? c->ds : (uint8_t)diff_below(r, DIFF_SEGS + 1);
    }
    registers(r, c);
    fp_control(r, c);
    c->in.rflags = 0x202 | (diff_rand(r) & (VMC_FLAG_ARITH | VMC_FLAG_DF));
    if (!diff_chance(r, 20))
        c->in.rflags &= ~VMC_FLAG_DF;
    if (diff_chance(r, 2))
        c->in.rflags |= VMC_FLAG_AC;
}

void diff_gen_case(struct diff_gen *g, unsigned bits, uint64_t seed, struct diff_case *c)
{
    struct diff_rng r = {seed};
    const struct forms *fs = &g->forms[slot(bits)];
    uint64_t undef = 0;
    begin(g, &r, bits, seed, c);
    unsigned want = 1 + diff_below(&r, DIFF_MAX_INSNS);
    for (unsigned tries = 0; c->insns < want && tries < 100; tries++) {
        unsigned i = diff_chance(&r, g->int_percent)
                         ? diff_below(&r, fs->fp_first)
                         : fs->fp_first + diff_below(&r, fs->n - fs->fp_first);
        (void)put_insn(g, &r, c, &fs->f[i], &undef);
    }
    diff_case_finish(c);
}

void diff_gen_form(struct diff_gen *g, unsigned bits, unsigned form, uint64_t seed,
                   struct diff_case *c)
{
    struct diff_rng r = {seed};
    uint64_t undef = 0;
    begin(g, &r, bits, seed, c);
    for (unsigned tries = 0; c->insns == 0 && tries < 50; tries++)
        (void)put_insn(g, &r, c, &g->forms[slot(bits)].f[form], &undef);
    diff_case_finish(c);
}

void diff_gen_raw(struct diff_gen *g, unsigned bits, uint64_t seed, struct diff_case *c)
{
    struct diff_rng r = {seed};
    begin(g, &r, bits, seed, c);
    diff_raw_bytes(&r, bits, c->code);
    diff_raw_length(c, 1);
}

uint64_t diff_undefined_flags(struct diff_gen *g, const struct diff_case *c, uint64_t rip)
{
    uint64_t undef = 0;
    bool branch = false;
    for (unsigned i = 0, at = 0; i < c->insns && c->in.rip + at != rip; at += c->len[i++]) {
        struct vmci_insn in;
        if (decode(g, c->bits, c->code + at, c->len[i], &in) <= 0)
            continue;
        const struct diff_flag_use *u = &diff_flag_uses[in.op];
        branch |= (in.flags & VMCI_IF_BRANCH) != 0; /* may skip what defines a flag */
        undef = (undef & ~(branch ? 0ull : (uint64_t)u->set)) | u->undef;
    }
    return undef;
}

bool diff_insn_at(struct diff_gen *g, const struct diff_case *c, uint64_t rip, struct vmci_insn *in)
{
    for (unsigned i = 0, at = 0; i < c->insns; at += c->len[i++])
        if (c->in.rip + at == rip)
            return decode(g, c->bits, c->code + at, c->len[i], in) > 0;
    return false;
}

void diff_case_print(void *file, struct diff_gen *g, const struct diff_case *c)
{
    FILE *f = file;
    fprintf(f, "case bits %u at %x seed %llx fp %u data %u\n", c->bits, c->code_at,
            (unsigned long long)c->seed, c->fp_kind, c->data_kind);
    if (c->ds != 0 || c->es != 0)
        fprintf(f, "segs %u %u\n", c->ds, c->es);
    fprintf(f, "flags %llx mxcsr %x fcw %x fsw %x ftw %x\n", (unsigned long long)c->in.rflags,
            c->in.fp.mxcsr, c->in.fp.fcw, c->in.fp.fsw, c->in.fp.ftw);
    for (unsigned i = 0; i < 16; i++)
        if (c->in.gpr[i] != 0)
            fprintf(f, "r%u %llx\n", i, (unsigned long long)c->in.gpr[i]);
    for (unsigned i = 0, at = 0; i < c->insns; at += c->len[i++]) {
        char text[96];
        fprintf(f, "insn");
        for (unsigned k = 0; k < c->len[i]; k++)
            fprintf(f, " %02x", c->code[at + k]);
        vmci_disasm(g->dec, c->bits, c->code + at, c->len[i], c->in.rip + at, text, sizeof(text));
        fprintf(f, "   ; %s\n", text);
    }
    fprintf(f, "end\n");
}
