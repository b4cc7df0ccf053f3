/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Thunks: one guest instruction as a host function.
 *
 * The instruction is encoded anew: memory operand at [rdi], general register read from rsi, general
 * register written to rax, flags passed in rsi and handed back in rax. Encodings that differ only in
 * what is renamed share a thunk. Code memory is bounded; when it is full everything is dropped and
 * the generation number makes the users' references stale.
 */
#include "fp_int.h"

#define R_RAX 0u
#define R_RSI 6u
#define R_RDI 7u

struct code {
    uint8_t b[VMCI_THUNK_BYTES];
    unsigned n;
};

static void put(struct code *c, unsigned byte)
{
    c->b[c->n++] = (uint8_t)byte;
}

static void put_bytes(struct code *c, const uint8_t *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        put(c, b[i]);
}

/* ModR/M byte and the REX bits that go with it, registers renamed. */
static uint8_t rename_modrm(const struct vmci_insn *in, const struct vmci_fp_form *f, unsigned *rex)
{
    uint8_t m = in->raw[in->modrm_off];
    if (in->flags & VMCI_IF_MEM) {
        m = (uint8_t)((m & 0x38) | R_RDI);
        *rex &= ~3u;
    } else if (f->flags & VMCI_FO_GRMR) {
        m = (uint8_t)((m & 0xf8) | R_RSI);
        *rex &= ~1u;
    } else if (f->flags & VMCI_FO_GRMW) {
        m = (uint8_t)((m & 0xf8) | R_RAX);
        *rex &= ~1u;
    }
    if (f->flags & VMCI_FO_GREG) {
        m = (uint8_t)((m & 0xc7) | (R_RAX << 3));
        *rex &= ~4u;
    }
    /* MMX and x87 registers have no fourth bit: REX.B and REX.R are ignored for them. */
    return m;
}

/* W matters for the size of a general register only in 64-bit mode. */
static unsigned effective_rex(const struct vmci_insn *in, const struct vmci_fp_form *f, unsigned bits)
{
    unsigned rex = in->rex & 0xfu;
    if (bits != 64)
        rex &= (f->flags & VMCI_FO_GW) || f->special == VMCI_FS_PCMPSTR ? 0u : 8u;
    return rex;
}

static void put_imm(struct code *c, const struct vmci_insn *in, const struct vmci_fp_form *f,
                    unsigned bits)
{
    unsigned n = (f->flags & VMCI_FO_IMM16) ? 2 : (f->flags & VMCI_FO_IMM8) ? 1 : 0;
    for (unsigned i = 0; i < n; i++) {
        uint8_t v = in->raw[in->len - n + i];
        /* Outside 64-bit mode bit 7 does not name a register. */
        put(c, (f->flags & VMCI_FO_IS4) && bits != 64 ? v & 0x7fu : v);
    }
}

static void put_vex(struct code *c, const struct vmci_insn *in, const struct vmci_fp_form *f,
                    unsigned bits)
{
    unsigned rex = effective_rex(in, f, bits);
    uint8_t m = in->modrm_off ? rename_modrm(in, f, &rex) : 0;
    unsigned v = bits == 64 ? in->vex_v : in->vex_v & 7u;
    put(c, 0xc4);
    put(c, ((~rex & 7u) << 5) | in->map);
    put(c, ((rex & 8u) << 4) | ((~v & 15u) << 3) | in->vex_lpp);
    put(c, in->raw[in->opcode_off]);
    if (in->modrm_off)
        put(c, m);
    put_imm(c, in, f, bits);
}

static unsigned legacy_prefix(const struct vmci_insn *in)
{
    unsigned p = (in->flags & VMCI_IF_66) ? 0x66u : 0u;
    for (unsigned i = 0; i < in->opcode_off; i++) {
        if (in->raw[i] == 0xf3 || in->raw[i] == 0xf2)
            p = in->raw[i];
    }
    return p;
}

static void put_legacy(struct code *c, const struct vmci_insn *in, const struct vmci_fp_form *f,
                       unsigned bits)
{
    unsigned rex = effective_rex(in, f, bits);
    uint8_t m = in->modrm_off ? rename_modrm(in, f, &rex) : 0;
    unsigned p = legacy_prefix(in);
    if (p != 0)
        put(c, p);
    if (rex != 0)
        put(c, 0x40 | rex);
    put(c, 0x0f);
    if (in->map == VMCI_MAP_0F38)
        put(c, 0x38);
    else if (in->map == VMCI_MAP_0F3A)
        put(c, 0x3a);
    put(c, in->raw[in->opcode_off]);
    if (in->modrm_off)
        put(c, m);
    put_imm(c, in, f, bits);
}

/* The renamed instruction: what identifies the thunk. */
static void encode(struct code *c, const struct vmci_insn *in, const struct vmci_fp_form *f,
                   unsigned bits)
{
    c->n = 0;
    if (f->flags & VMCI_FO_X87) {
        uint8_t m = in->raw[in->modrm_off];
        put(c, in->raw[in->opcode_off]);
        put(c, (in->flags & VMCI_IF_MEM) ? (m & 0x38u) | R_RDI : m);
    } else if (in->flags & VMCI_IF_VEX) {
        put_vex(c, in, f, bits);
    } else {
        put_legacy(c, in, f, bits);
    }
}

/*
 * PCMPxSTRx: lengths in rax and rdx, result in rcx and flags, through struct vmci_fp_str at rsi.
 */
static void wrap_string(struct code *c, const struct code *insn)
{
    static const uint8_t before[] = {0x48, 0x8b, 0x06,        /* mov rax, [rsi] */
                                     0x48, 0x8b, 0x4e, 0x08,  /* mov rcx, [rsi+8] */
                                     0x48, 0x8b, 0x56, 0x10}; /* mov rdx, [rsi+16] */
    static const uint8_t after[] = {0x48, 0x89, 0x4e, 0x08,   /* mov [rsi+8], rcx */
                                    0x9c, 0x8f, 0x46, 0x18,   /* pushfq; pop [rsi+24] */
                                    0xc3};
    put_bytes(c, before, sizeof(before));
    put_bytes(c, insn->b, insn->n);
    put_bytes(c, after, sizeof(after));
}

void vmci_fp_vzero8(const struct vmci_insn *in, uint8_t out[VMCI_VZERO8_BYTES])
{
    bool all = (in->vex_lpp & 4) != 0;
    for (unsigned i = 0; i < 8; i++, out += 4) { /* vxorps x, x, x or vmovaps x, x */
        out[0] = 0xc5;
        out[1] = (uint8_t)(0x80 | (all ? ~i & 15u : 15u) << 3);
        out[2] = all ? 0x57 : 0x28;
        out[3] = (uint8_t)(0xc0 | i << 3 | i);
    }
}

/* A body around the instruction according to what goes in and out. */
static void wrap(struct code *c, const struct code *insn, const struct vmci_fp_form *f,
                 bool flags_in)
{
    c->n = 0;
    if (f->special == VMCI_FS_PCMPSTR) {
        wrap_string(c, insn);
        return;
    }
    if (flags_in) {
        put(c, 0x56); /* push rsi */
        put(c, 0x9d); /* popfq */
    }
    put_bytes(c, insn->b, insn->n);
    if (f->flags & VMCI_FO_FLAGS) {
        put(c, 0x9c); /* pushfq */
        put(c, 0x58); /* pop rax */
    }
    put(c, 0xc3);
}

static bool is_fcmov(const struct vmci_insn *in, const struct vmci_fp_form *f)
{
    uint8_t op = in->raw[in->opcode_off];
    return (f->flags & VMCI_FO_X87) && !(in->flags & VMCI_IF_MEM) && (op == 0xda || op == 0xdb) &&
           in->raw[in->modrm_off] < 0xe0;
}

static unsigned kind_of(const struct vmci_fp *fp, const struct vmci_insn *in,
                        const struct vmci_fp_form *f)
{
    if (f->flags & VMCI_FO_X87)
        return f->special >= VMCI_FS_FLDCW && f->special <= VMCI_FS_FNOP0 ? VMCI_FK_X87_CTL
                                                                          : VMCI_FK_X87;
    if (in->flags & VMCI_IF_VEX)
        return VMCI_FK_AVX;
    if (!(f->flags & VMCI_FO_MMX))
        return VMCI_FK_SSE;
    if (!(f->flags & VMCI_FO_XMM))
        return VMCI_FK_MMX;
    /* CVTPI2PD, on AMD's also CVTPI2PS, does not enter MMX mode for an operand in memory. */
    if (in->raw[in->opcode_off] == 0x2a && (in->flags & VMCI_IF_MEM) &&
        (legacy_prefix(in) == 0x66 || fp->host_amd))
        return VMCI_FK_SSE;
    return VMCI_FK_MMX_XMM;
}

static uint32_t hash_key(const struct code *c, unsigned salt)
{
    uint32_t h = 2166136261u ^ salt;
    for (unsigned i = 0; i < c->n; i++)
        h = (h ^ c->b[i]) * 16777619u;
    return (h ^ (h >> 15)) % VMCI_THUNK_HASH;
}

static bool same_key(const struct vmci_thunk *t, const struct code *c)
{
    if (t->key_bytes != c->n)
        return false;
    for (unsigned i = 0; i < c->n; i++) {
        if (t->key[i] != c->b[i])
            return false;
    }
    return true;
}

static bool same_form(const struct vmci_thunk *a, const struct vmci_thunk *b)
{
    return a->form.flags == b->form.flags && a->form.special == b->form.special &&
           a->form.mem_bytes == b->form.mem_bytes && a->form.align == b->form.align &&
           a->dst == b->dst && a->src == b->src && a->kind == b->kind;
}

static void flush(struct vmci_fp *fp)
{
    fp->thunks = 0;
    fp->generation++;
    for (unsigned i = 0; i < VMCI_THUNK_HASH; i++)
        fp->hash[i] = 0;
}

/* The encoded length must be what the decoder consumed: else one of the two is wrong. */
static bool length_agrees(const struct vmci_insn *in, const struct vmci_fp_form *f)
{
    unsigned n = in->opcode_off + 1u;
    if (in->modrm_off)
        n = in->modrm_off + 1u + (in->sib_off != 0) + in->disp_bytes;
    n += (f->flags & VMCI_FO_IMM16) ? 2u : (f->flags & VMCI_FO_IMM8) ? 1u : 0u;
    return n == in->len;
}

/* General registers that the instruction passes. */
static void name_gprs(const struct vmci_insn *in, struct vmci_thunk *t, unsigned bits)
{
    unsigned rex = bits == 64 ? in->rex & 0xfu : 0;
    uint8_t m = in->modrm_off ? in->raw[in->modrm_off] : 0;
    t->dst = 0;
    t->src = 0;
    if (t->form.flags & VMCI_FO_GREG)
        t->dst = (uint8_t)(((m >> 3) & 7) | ((rex & 4) << 1));
    if (in->flags & VMCI_IF_MEM) {
        t->form.flags &= ~(VMCI_FO_GRMR | VMCI_FO_GRMW);
        return;
    }
    if (t->form.flags & VMCI_FO_GRMR)
        t->src = (uint8_t)((m & 7) | ((rex & 1) << 3));
    if (t->form.flags & VMCI_FO_GRMW)
        t->dst = (uint8_t)((m & 7) | ((rex & 1) << 3));
}

static struct vmci_thunk *add(struct vmci_fp *fp, const struct vmci_thunk *want,
                              const struct code *key, uint32_t h, const struct vmci_insn *in)
{
    struct code body;
    uint32_t i = fp->thunks++;
    struct vmci_thunk *t = &fp->thunk[i];
    size_t at = VMCI_THUNK_FIXED + (size_t)i * VMCI_THUNK_BYTES;
    if (want->form.special == VMCI_FS_VZERO8) {
        vmci_fp_vzero8(in, body.b);
        body.b[VMCI_VZERO8_BYTES] = 0xc3;
        body.n = VMCI_VZERO8_BYTES + 1;
    } else {
        wrap(&body, key, &want->form, is_fcmov(in, &want->form));
    }
    vmci_fp_copy(fp->rw + at, body.b, body.n);
    vmci_fp_copy(t, want, sizeof(*t));
    t->fn = (vmci_thunk_fn)(uintptr_t)(fp->rx + at);
    t->key_bytes = (uint8_t)key->n;
    vmci_fp_copy(t->key, key->b, key->n);
    t->hash_next = fp->hash[h];
    fp->hash[h] = i + 1;
    return t;
}

struct vmci_thunk *vmci_thunk_get(struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    struct vmci_fp *fp = cpu->fp;
    struct vmci_thunk want = {0};
    struct code key;
    unsigned bits = cpu->code_bits;
    if (fp == NULL || !vmci_fp_classify(in, bits, &want.form) || !length_agrees(in, &want.form))
        return NULL;
    if (!((fp->host_features & cpu->features) >> want.form.feature & 1))
        return NULL;
    if ((want.form.flags & VMCI_FO_LOOSE) && vmci_fp_vendor_amd(cpu))
        want.form.align = 0;
    encode(&key, in, &want.form, bits);
    want.kind = (uint8_t)kind_of(fp, in, &want.form);
    name_gprs(in, &want, bits);
    if (want.form.flags & VMCI_FO_X87)
        want.fop = vmci_fp_fop(in);
    uint32_t h = hash_key(&key, want.dst * 16u + want.src);
    for (uint32_t i = fp->hash[h]; i != 0; i = fp->thunk[i - 1].hash_next) {
        struct vmci_thunk *t = &fp->thunk[i - 1];
        if (same_key(t, &key) && same_form(t, &want) && t->fop == want.fop)
            return t;
    }
    if (fp->thunks == VMCI_THUNK_MAX)
        flush(fp);
    return add(fp, &want, &key, h, in);
}

/* ---- fixed pieces ---------------------------------------------------------------------------- */

static vmci_thunk_fn put_fixed(struct vmci_fp *fp, size_t *at, const uint8_t *b, unsigned n)
{
    vmci_thunk_fn fn = (vmci_thunk_fn)(uintptr_t)(fp->rx + *at);
    vmci_fp_copy(fp->rw + *at, b, n);
    *at += n;
    return fn;
}

/* Move vector register i to or from [rdi], with the upper half where there is AVX. */
static vmci_thunk_fn put_move(struct vmci_fp *fp, size_t *at, unsigned i, bool store)
{
    uint8_t op = store ? 0x11 : 0x10; /* MOVUPS */
    uint8_t modrm = (uint8_t)(((i & 7) << 3) | R_RDI);
    uint8_t avx[] = {0xc5, (uint8_t)(i < 8 ? 0xfc : 0x7c), op, modrm, 0xc3};
    uint8_t sse[] = {(uint8_t)(i < 8 ? 0x40 : 0x44), 0x0f, op, modrm, 0xc3};
    return fp->has_avx ? put_fixed(fp, at, avx, sizeof(avx)) : put_fixed(fp, at, sse, sizeof(sse));
}

/*
 * enter(mem, src, fn, area, rfbm): the host's control words are saved, the guest's state is loaded
 * from area, fn is called, the state is saved again and the host's control words restored. The
 * vector registers belong to the caller's caller by the ABI and are not preserved.
 */
static const uint8_t enter_head[] = {
    0x53,                         /* push rbx */
    0x41, 0x54,                   /* push r12 */
    0x50,                         /* push rax: aligns, and room for the control words */
    0x48, 0x89, 0xcb,             /* mov rbx, rcx */
    0x4d, 0x89, 0xc4,             /* mov r12, r8 */
    0x49, 0x89, 0xd1,             /* mov r9, rdx */
    0x0f, 0xae, 0x1c, 0x24,       /* stmxcsr [rsp] */
    0xd9, 0x7c, 0x24, 0x04,       /* fnstcw [rsp+4] */
    0x44, 0x89, 0xc0,             /* mov eax, r8d */
    0x31, 0xd2,                   /* xor edx, edx */
};
static const uint8_t enter_call[] = {
    0x41, 0xff, 0xd1,             /* call r9 */
    0x49, 0x89, 0xc1,             /* mov r9, rax */
    0x44, 0x89, 0xe0,             /* mov eax, r12d */
    0x31, 0xd2,                   /* xor edx, edx */
};
static const uint8_t enter_tail[] = {
    0xdb, 0xe3,                   /* fninit */
    0xd9, 0x6c, 0x24, 0x04,       /* fldcw [rsp+4] */
    0x0f, 0xae, 0x14, 0x24,       /* ldmxcsr [rsp] */
    0x4c, 0x89, 0xc8,             /* mov rax, r9 */
    0x59,                         /* pop rcx */
    0x41, 0x5c,                   /* pop r12 */
    0x5b,                         /* pop rbx */
    0xc3,
};

static void put_enter(struct vmci_fp *fp, size_t *at)
{
    static const uint8_t xrstor[] = {0x0f, 0xae, 0x2b}, xsave[] = {0x0f, 0xae, 0x23};
    static const uint8_t fxrstor[] = {0x48, 0x0f, 0xae, 0x0b}, fxsave[] = {0x48, 0x0f, 0xae, 0x03};
    static const uint8_t vzeroupper[] = {0xc5, 0xf8, 0x77};
    fp->enter = (vmci_enter_fn)(uintptr_t)(fp->rx + *at);
    put_fixed(fp, at, enter_head, sizeof(enter_head));
    if (fp->has_xsave)
        put_fixed(fp, at, xrstor, sizeof(xrstor));
    else
        put_fixed(fp, at, fxrstor, sizeof(fxrstor));
    put_fixed(fp, at, enter_call, sizeof(enter_call));
    if (fp->has_xsave)
        put_fixed(fp, at, xsave, sizeof(xsave));
    else
        put_fixed(fp, at, fxsave, sizeof(fxsave));
    if (fp->has_avx)
        put_fixed(fp, at, vzeroupper, sizeof(vzeroupper));
    put_fixed(fp, at, enter_tail, sizeof(enter_tail));
}

void vmci_thunk_init(struct vmci_fp *fp)
{
    static const uint8_t fnstsw[] = {0xdf, 0xe0, 0x0f, 0xb7, 0xc0, 0xc3};
    size_t at = 0;
    for (unsigned i = 0; i < 16; i++) {
        fp->store_ymm[i] = put_move(fp, &at, i, true);
        fp->load_ymm[i] = put_move(fp, &at, i, false);
    }
    fp->fnstsw = put_fixed(fp, &at, fnstsw, sizeof(fnstsw));
    put_enter(fp, &at);
    fp->generation = 1;
}
