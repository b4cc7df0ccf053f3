/* SPDX-License-Identifier: BSD-2-Clause */
/* Decoding: layout from the bytes, identity from the library, one neutral form. */
#include "cpu/decode/dec_int.h"

#include <vmcore/x86_state.h>

struct vmci_decoder {
    const struct vmc_platform *pf;
    struct dec_backend *be;
};

#define PAD 24 /* bytes of a scratch buffer: the longest encoding and what its parser may touch */

const char *vmci_op_name(unsigned op)
{
#define NAME(n) #n,
    static const char *const names[] = {"INVALID", VMCI_OPS(NAME)};
    return op < VMCI_ARRAY_SIZE(names) ? names[op] : "?";
}

const char *vmci_feat_name(unsigned feat)
{
    static const char *const names[] = {VMCI_FEATS(NAME)};
#undef NAME
    return feat < VMCI_ARRAY_SIZE(names) ? names[feat] : "?";
}

/* ---- what the library is shown --------------------------------------------------------------- */

/* Near branches ignore 66 in 64-bit mode (SDM 2A 2.2.1.7 of Intel processors). */
static bool near_branch64(const struct dec_scan *s, const uint8_t *op)
{
    if (s->bits != 64)
        return false;
    if (s->map == VMCI_MAP_0F)
        return (op[0] & 0xf0) == 0x80;
    if (s->map != VMCI_MAP_1B)
        return false;
    unsigned reg = (op[1] >> 3) & 7u;
    return (op[0] & 0xf0) == 0x70 || (op[0] >= 0xe0 && op[0] <= 0xe3) || op[0] == 0xe8 ||
           op[0] == 0xe9 || op[0] == 0xeb || op[0] == 0xc2 || op[0] == 0xc3 ||
           (op[0] == 0xff && (reg == 2 || reg == 4));
}

/* Jcc, JMP, CALL and RET with an immediate: an address size means nothing to them, but the library
   sizes the immediate by it. */
static bool immediate_branch(const struct dec_scan *s, uint8_t op)
{
    if (s->map == VMCI_MAP_0F)
        return (op & 0xf0) == 0x80;
    return s->map == VMCI_MAP_1B &&
           ((op & 0xf0) == 0x70 || op == 0xc2 || op == 0xe8 || op == 0xe9 || op == 0xeb);
}

/* Opcodes outside the FP table that F2 or F3 makes other instructions of. Elsewhere they mean
   nothing, but would keep the library from seeing 66. */
static bool rep_matters(const struct dec_scan *s)
{
    switch (s->map) {
    case VMCI_MAP_0F:
        return s->opcode == 0x01 || s->opcode == 0x09 || s->opcode == 0xae || s->opcode == 0xb8 ||
               s->opcode == 0xbc || s->opcode == 0xbd || s->opcode == 0xc7;
    case VMCI_MAP_0F38:
        return s->opcode >= 0xf0;
    default:
        return false;
    }
}

/* Encodings that the operand-size prefix belongs to: it says nothing about a size. */
static bool mandatory66(const struct dec_scan *s)
{
    return (s->map == VMCI_MAP_0F && s->opcode == 0xae) ||
           (s->map == VMCI_MAP_0F38 && (s->opcode == 0x82 || s->opcode == 0xf6));
}

/*
 * 16-bit code is shown as 32-bit code with the size prefixes turned round: the library's 16-bit
 * mode does not know mandatory prefixes (LZCNT, POPCNT, CRC32, ADCX ...).
 *
 * The encoding with one prefix of each kind in the usual order; segment overrides, LOCK and REP of
 * one-byte opcodes are left out: they do not change what an instruction is. Returns the number of
 * bytes before the opcode's first byte that differs in position.
 */
static unsigned canonical(const struct dec_scan *s, const uint8_t *b, unsigned n, uint8_t *out)
{
    unsigned o = 0;
    bool x87 = s->map == VMCI_MAP_1B && (s->opcode & 0xf8) == 0xd8;
    uint8_t op[2] = {s->opcode, s->opcode_off + 1u < n ? b[s->opcode_off + 1] : 0};
    bool p67 = s->bits == 16 ? !s->p67 : s->p67;
    bool p66 = s->bits == 16 && !mandatory66(s) ? !s->p66 : s->p66;

    if (!s->vex) {
        if (p67 && !immediate_branch(s, op[0]))
            out[o++] = 0x67;
        if (p66 && !x87 && !near_branch64(s, op))
            out[o++] = 0x66;
        if (s->rep != 0 && rep_matters(s))
            out[o++] = s->rep;
    } else if (p67) {
        out[o++] = 0x67;
    }
    return o;
}

/* ---- immediates ------------------------------------------------------------------------------ */

static int64_t sign_extended(const uint8_t *p, unsigned bytes)
{
    switch (bytes) {
    case 1:
        return (int8_t)p[0];
    case 2:
        return (int16_t)vmci_ld_le16(p);
    case 4:
        return (int32_t)vmci_ld_le32(p);
    case 8:
        return (int64_t)vmci_ld_le64(p);
    default:
        return 0;
    }
}

static void immediate(struct vmci_insn *in, const uint8_t *b, unsigned off, int64_t implied)
{
    unsigned bytes = in->len - off;

    if (bytes == 0) {
        in->imm = implied;
        return;
    }
    in->imm_off = (uint8_t)off;
    in->imm = sign_extended(b + off, bytes);
    switch (in->op) {
    case VMCI_OP_ENTER: /* imm16, imm8 */
        in->imm = vmci_ld_le16(b + off) | (int64_t)b[off + 2] << 16;
        break;
    case VMCI_OP_RET:
    case VMCI_OP_RET_FAR:
        in->imm = (uint16_t)in->imm;
        break;
    case VMCI_OP_INT:
    case VMCI_OP_IN:
    case VMCI_OP_OUT:
    case VMCI_OP_AAM:
    case VMCI_OP_AAD:
        in->imm = (uint8_t)in->imm;
        break;
    case VMCI_OP_JMP_FAR:
    case VMCI_OP_CALL_FAR: /* offset, then selector */
        in->imm = bytes == 4 ? vmci_ld_le16(b + off) : (int64_t)vmci_ld_le32(b + off);
        in->imm |= (int64_t)vmci_ld_le16(b + off + bytes - 2) << 32;
        break;
    default:
        break;
    }
}

/* ---- operation and operand sizes ------------------------------------------------------------- */

static unsigned stack_opsize(const struct dec_scan *s)
{
    return s->bits == 64 ? (s->p66 && !(s->rex & 8) ? 2 : 8) : s->opsize;
}

static void set_opnds(struct vmci_insn *in, unsigned n, struct vmci_opnd a, struct vmci_opnd b)
{
    in->nopnd = (uint8_t)n;
    in->opnd[0] = a;
    in->opnd[1] = b;
}

static bool has_kind(const struct vmci_insn *in, unsigned kind)
{
    for (unsigned i = 0; i < in->nopnd; i++)
        if (in->opnd[i].kind == kind)
            return true;
    return false;
}

/* One-byte opcodes whose memory operand is not in ModR/M. */
static void moffs(const struct dec_scan *s, struct vmci_insn *in, const uint8_t *b)
{
    unsigned off = s->opcode_off + 1u;
    struct vmci_opnd acc = {VMCI_OPND_GPR, (s->opcode & 1) ? s->opsize : 1, VMC_RAX};
    struct vmci_opnd mem = {VMCI_OPND_MEM, acc.size, 0};

    in->disp_off = (uint8_t)off;
    in->disp_bytes = s->addrsize;
    in->disp = s->addrsize == 8   ? (int64_t)vmci_ld_le64(b + off)
               : s->addrsize == 4 ? (int64_t)vmci_ld_le32(b + off)
                                  : (int64_t)vmci_ld_le16(b + off);
    in->seg = VMC_DS;
    if (s->opcode & 2)
        set_opnds(in, 2, mem, acc);
    else
        set_opnds(in, 2, acc, mem);
}

static void mov_special(const struct dec_scan *s, struct vmci_insn *in, const uint8_t *b)
{
    uint8_t m = b[in->modrm_off];
    struct vmci_opnd rm = {VMCI_OPND_GPR, s->bits == 64 ? 8 : 4,
                           (uint8_t)((m & 7) | (s->rex & 1) << 3)};
    struct vmci_opnd reg = {VMCI_OPND_CR, 0, (uint8_t)(((m >> 3) & 7) | (s->rex & 4) << 1)};
    bool cr = has_kind(in, VMCI_OPND_CR), dr = has_kind(in, VMCI_OPND_DR);

    if (cr || dr) {
        in->op = cr ? VMCI_OP_MOV_CR : VMCI_OP_MOV_DR;
        in->opsize = rm.size;
        reg.kind = cr ? VMCI_OPND_CR : VMCI_OPND_DR;
        in->flags &= (uint16_t)~VMCI_IF_MEM;
        in->base = VMCI_REG_ZERO;
        if (s->opcode & 2)
            set_opnds(in, 2, reg, rm);
        else
            set_opnds(in, 2, rm, reg);
    } else if (has_kind(in, VMCI_OPND_SREG)) {
        in->op = VMCI_OP_MOV_SREG;
        bool load = in->opnd[0].kind == VMCI_OPND_SREG;
        in->opsize = s->opsize;
        in->opnd[load].size = in->opnd[load].kind == VMCI_OPND_MEM || load ? 2 : s->opsize;
    }
}

static void string_op(const struct dec_scan *s, struct vmci_insn *in)
{
    in->opsize = (s->opcode & 1) ? s->opsize : 1;
    if ((in->op == VMCI_OP_INS || in->op == VMCI_OP_OUTS) && in->opsize == 8)
        in->opsize = 4;
    in->nopnd = 0;
    in->seg = VMC_DS;
    if (s->rep == 0xf3)
        in->flags |= VMCI_IF_REP;
    if (s->rep == 0xf2)
        in->flags |= VMCI_IF_REPNE;
}

static void port_op(const struct dec_scan *s, struct vmci_insn *in)
{
    in->opsize = !(s->opcode & 1) ? 1 : s->opsize == 2 ? 2 : 4;
    struct vmci_opnd acc = {VMCI_OPND_GPR, in->opsize, VMC_RAX};
    struct vmci_opnd port = {VMCI_OPND_GPR, 2, VMC_RDX};

    if (!(s->opcode & 8))
        port = (struct vmci_opnd){VMCI_OPND_IMM, 1, 0};
    if (in->op == VMCI_OP_IN)
        set_opnds(in, 2, acc, port);
    else
        set_opnds(in, 2, port, acc);
}

/* Operation size and operands where the library's answer is not ours. */
static void shape(const struct dec_scan *s, struct vmci_insn *in, const uint8_t *b)
{
    const struct vmci_opnd none = {0, 0, 0};

    switch (in->op) {
    case VMCI_OP_MOV:
        if (s->map == VMCI_MAP_1B && s->opcode >= 0xa0 && s->opcode <= 0xa3) {
            moffs(s, in, b);
            in->flags |= VMCI_IF_MEM;
            in->opsize = in->opnd[0].size;
        } else {
            mov_special(s, in, b);
        }
        break;
    case VMCI_OP_PUSH:
    case VMCI_OP_POP:
        in->opsize = (uint8_t)stack_opsize(s);
        in->opnd[0].size = in->opsize;
        if (in->opnd[0].kind == VMCI_OPND_SREG)
            in->op = in->op == VMCI_OP_PUSH ? VMCI_OP_PUSH_SREG : VMCI_OP_POP_SREG;
        break;
    case VMCI_OP_PUSHF:
    case VMCI_OP_POPF:
    case VMCI_OP_ENTER:
    case VMCI_OP_LEAVE:
    case VMCI_OP_PUSHA:
    case VMCI_OP_POPA:
        in->opsize = (uint8_t)stack_opsize(s);
        set_opnds(in, 0, none, none);
        break;
    case VMCI_OP_CALL:
    case VMCI_OP_JMP:
    case VMCI_OP_RET:
    case VMCI_OP_JCC:
    case VMCI_OP_JCXZ:
    case VMCI_OP_LOOP:
    case VMCI_OP_LOOPE:
    case VMCI_OP_LOOPNE:
        in->opsize = s->bits == 64 ? 8 : s->opsize;
        if (in->opnd[0].kind == VMCI_OPND_IMM && in->op != VMCI_OP_RET)
            in->opnd[0].kind = VMCI_OPND_REL;
        else if (in->nopnd != 0)
            in->opnd[0].size = in->opsize;
        break;
    case VMCI_OP_JMP_FAR:
    case VMCI_OP_CALL_FAR:
        in->opsize = s->opsize;
        in->nopnd = 1;
        if (!has_kind(in, VMCI_OPND_MEM))
            in->opnd[0] = (struct vmci_opnd){VMCI_OPND_FAR, 0, 0};
        break;
    case VMCI_OP_RET_FAR:
    case VMCI_OP_IRET:
    case VMCI_OP_SYSRET:
    case VMCI_OP_SYSEXIT:
    case VMCI_OP_CBW:
    case VMCI_OP_CWD:
    case VMCI_OP_LAR:
    case VMCI_OP_LSL:
    case VMCI_OP_BOUND:
    case VMCI_OP_LOAD_FAR:
    case VMCI_OP_SLDT:
    case VMCI_OP_STR:
    case VMCI_OP_SMSW:
        in->opsize = s->opsize;
        break;
    case VMCI_OP_MOVSX:
        in->opsize = s->opsize;
        in->opnd[0].size = s->opsize;
        if (s->map == VMCI_MAP_1B) /* MOVSXD; with 66h AMD's processors read four bytes */
            in->opnd[1].size = s->opsize == 2 ? 2 : 4;
        break;
    case VMCI_OP_CRC32:
        in->opsize = (s->opcode & 1) ? s->opsize : 1;
        in->opnd[0].size = s->opsize == 8 ? 8 : 4;
        in->opnd[1].size = in->opsize;
        break;
    case VMCI_OP_IMUL2:
        if (s->map == VMCI_MAP_1B)
            in->op = (s->opcode & 0xfe) == 0xf6 ? VMCI_OP_IMUL1 : VMCI_OP_IMUL3;
        break;
    case VMCI_OP_MOVS:
    case VMCI_OP_CMPS:
    case VMCI_OP_STOS:
    case VMCI_OP_LODS:
    case VMCI_OP_SCAS:
    case VMCI_OP_INS:
    case VMCI_OP_OUTS:
        string_op(s, in);
        break;
    case VMCI_OP_XLAT:
        in->seg = VMC_DS;
        break;
    case VMCI_OP_IN:
    case VMCI_OP_OUT:
        port_op(s, in);
        break;
    case VMCI_OP_NOP:
    case VMCI_OP_XCHG:
        if (s->map == VMCI_MAP_1B && s->opcode == 0x90 && !(s->rex & 1))
            in->op = s->rep == 0xf3 ? VMCI_OP_PAUSE : VMCI_OP_NOP;
        if (in->op == VMCI_OP_NOP) { /* hint NOPs address no memory */
            in->flags &= (uint16_t)~VMCI_IF_MEM;
            set_opnds(in, 0, none, none);
        }
        break;
    case VMCI_OP_PREFETCH:
        in->op = VMCI_OP_NOP;
        in->flags &= (uint16_t)~VMCI_IF_MEM;
        break;
    default:
        break;
    }
}

/* ---- validity -------------------------------------------------------------------------------- */

static bool lockable(const struct vmci_insn *in)
{
    if (in->nopnd == 0 || in->opnd[0].kind != VMCI_OPND_MEM)
        return in->op == VMCI_OP_XCHG && in->opnd[1].kind == VMCI_OPND_MEM;
    switch (in->op) {
    case VMCI_OP_ADD:
    case VMCI_OP_OR:
    case VMCI_OP_ADC:
    case VMCI_OP_SBB:
    case VMCI_OP_AND:
    case VMCI_OP_SUB:
    case VMCI_OP_XOR:
    case VMCI_OP_INC:
    case VMCI_OP_DEC:
    case VMCI_OP_NEG:
    case VMCI_OP_NOT:
    case VMCI_OP_BTS:
    case VMCI_OP_BTR:
    case VMCI_OP_BTC:
    case VMCI_OP_XADD:
    case VMCI_OP_XCHG:
    case VMCI_OP_CMPXCHG:
    case VMCI_OP_CMPXCHG8B:
    case VMCI_OP_CMPXCHG16B:
        return true;
    default:
        return false;
    }
}

static bool needs_memory(unsigned op)
{
    switch (op) {
    case VMCI_OP_LEA:
    case VMCI_OP_LOAD_FAR:
    case VMCI_OP_BOUND:
    case VMCI_OP_CMPXCHG8B:
    case VMCI_OP_CMPXCHG16B:
    case VMCI_OP_INVLPG:
    case VMCI_OP_INVPCID:
    case VMCI_OP_LGDT:
    case VMCI_OP_LIDT:
    case VMCI_OP_SGDT:
    case VMCI_OP_SIDT:
    case VMCI_OP_MOVNTI:
    case VMCI_OP_MOVBE:
    case VMCI_OP_CLFLUSH:
    case VMCI_OP_CLFLUSHOPT:
    case VMCI_OP_CLWB:
    case VMCI_OP_LDMXCSR:
    case VMCI_OP_STMXCSR:
    case VMCI_OP_FXSAVE:
    case VMCI_OP_FXRSTOR:
    case VMCI_OP_XSAVE:
    case VMCI_OP_XSAVEOPT:
    case VMCI_OP_XSAVEC:
    case VMCI_OP_XSAVES:
    case VMCI_OP_XRSTOR:
    case VMCI_OP_XRSTORS:
        return true;
    default:
        return false;
    }
}

static bool valid(const struct dec_scan *s, const struct vmci_insn *in, uint64_t features)
{
    bool mem = has_kind(in, VMCI_OPND_MEM);

    if (s->bad || s->evex || s->xop || !dec_prefix_valid(s, in->op))
        return false;
    if (in->feature != VMCI_FEAT_NONE && !(features >> in->feature & 1))
        return false;
    if (s->lock && !lockable(in))
        return false;
    if (needs_memory(in->op) && !mem)
        return false;
    /* General-register instructions of the VEX space exist with L = 0 only. */
    if (s->vex && in->op < VMCI_OP_FP_FIRST && (s->vex_lpp & 4))
        return false;
    if (in->op == VMCI_OP_RORX && s->vex_v != 0)
        return false;
    return true;
}

/* ---- flags ----------------------------------------------------------------------------------- */

static uint16_t ending(const struct vmci_insn *in)
{
    switch (in->op) {
    case VMCI_OP_JMP:
    case VMCI_OP_JCC:
    case VMCI_OP_CALL:
    case VMCI_OP_RET:
    case VMCI_OP_JCXZ:
    case VMCI_OP_LOOP:
    case VMCI_OP_LOOPE:
    case VMCI_OP_LOOPNE:
        return VMCI_IF_BRANCH;
    case VMCI_OP_JMP_FAR:
    case VMCI_OP_CALL_FAR:
    case VMCI_OP_RET_FAR:
    case VMCI_OP_IRET:
    case VMCI_OP_INT:
    case VMCI_OP_INT1:
    case VMCI_OP_INT3:
    case VMCI_OP_INTO:
    case VMCI_OP_SYSCALL:
    case VMCI_OP_SYSRET:
    case VMCI_OP_SYSENTER:
    case VMCI_OP_SYSEXIT:
        return VMCI_IF_BRANCH | VMCI_IF_END;
    case VMCI_OP_MOV_SREG:
    case VMCI_OP_POP_SREG:
    case VMCI_OP_LOAD_FAR:
    case VMCI_OP_POPF:
    case VMCI_OP_STI:
    case VMCI_OP_HLT:
    case VMCI_OP_IN:
    case VMCI_OP_OUT:
    case VMCI_OP_INS:
    case VMCI_OP_OUTS:
    case VMCI_OP_MOV_CR:
    case VMCI_OP_MOV_DR:
    case VMCI_OP_LMSW:
    case VMCI_OP_CLTS:
    case VMCI_OP_CPUID:
    case VMCI_OP_WRMSR:
    case VMCI_OP_INVLPG:
    case VMCI_OP_INVPCID:
    case VMCI_OP_LTR:
    case VMCI_OP_LLDT:
    case VMCI_OP_MWAIT:
    case VMCI_OP_XSETBV:
    case VMCI_OP_WRPKRU: /* and XRSTOR: accesses behind it are checked anew */
    case VMCI_OP_XRSTOR:
    case VMCI_OP_XRSTORS:
    case VMCI_OP_VMCALL:
    case VMCI_OP_VMMCALL:
    case VMCI_OP_SERIALIZE:
    case VMCI_OP_UD:
        return VMCI_IF_END;
    default:
        return 0;
    }
}

static uint16_t prefix_flags(const struct dec_scan *s)
{
    return (uint16_t)((s->lock ? VMCI_IF_LOCK : 0) | (s->p66 ? VMCI_IF_66 : 0) |
                      (s->p67 ? VMCI_IF_67 : 0) | (s->rep == 0xf3 ? VMCI_IF_F3 : 0) |
                      (s->rep == 0xf2 ? VMCI_IF_F2 : 0) | (s->vex ? VMCI_IF_VEX : 0) |
                      (s->rex != 0 && !s->vex ? VMCI_IF_REX : 0) |
                      (s->seg != VMC_SREGS ? VMCI_IF_SEG : 0));
}

/* ---- the decoder ----------------------------------------------------------------------------- */

static int undefined(struct vmci_insn *in, const struct dec_scan *s, const uint8_t *b, unsigned len)
{
    memset(in, 0, sizeof(*in));
    in->op = VMCI_OP_UD;
    in->flags = VMCI_IF_END;
    in->len = (uint8_t)VMCI_MIN(len, (unsigned)VMCI_INSN_MAX);
    in->next = in->len;
    in->opsize = s->opsize;
    in->addrsize = s->addrsize;
    in->base = in->index = VMCI_REG_ZERO;
    in->seg = VMC_DS;
    in->map = s->map;
    in->opcode_off = s->opcode_off;
    memcpy(in->raw, b, in->len);
    return in->len;
}

/* Assemble in from the parts. b: the instruction, padded. */
static int assemble(const struct dec_scan *s, const struct dec_facts *f, const uint8_t *b,
                    const uint8_t *raw, unsigned len, uint64_t features, struct vmci_insn *in)
{
    unsigned tail = s->opcode_off + 1u;

    memset(in, 0, sizeof(*in));
    in->op = f->op;
    in->feature = f->feature;
    /* A processor without them takes F3 0F BC and BD for what they were before. */
    if ((in->op == VMCI_OP_TZCNT || in->op == VMCI_OP_LZCNT) && !(features >> in->feature & 1)) {
        in->op = in->op == VMCI_OP_TZCNT ? VMCI_OP_BSF : VMCI_OP_BSR;
        in->feature = VMCI_FEAT_NONE;
    }
    in->flags = prefix_flags(s);
    in->len = (uint8_t)len;
    in->addrsize = s->addrsize;
    in->base = in->index = VMCI_REG_ZERO;
    in->seg = VMC_DS;
    in->map = s->map;
    in->opcode_off = s->opcode_off;
    in->rex = s->rex;
    in->vex_v = s->vex_v;
    in->vex_lpp = s->vex_lpp;
    in->cond = s->opcode & 15;
    in->nopnd = f->nopnd;
    memcpy(in->opnd, f->opnd, sizeof(in->opnd));
    memcpy(in->raw, raw, len);

    if (f->has_modrm) {
        tail = dec_modrm(s, b, tail, in);
        if (b[in->modrm_off] < 0xc0)
            in->flags |= VMCI_IF_MEM;
    }
    in->opsize = s->opsize;
    if (in->nopnd != 0 && in->opnd[0].size != 0 && in->opnd[0].size <= 8)
        in->opsize = in->opnd[0].size;
    shape(s, in, b);
    if (s->map == VMCI_MAP_1B && s->opcode >= 0xa0 && s->opcode <= 0xa3)
        tail += s->addrsize;
    immediate(in, b, VMCI_MIN(tail, len), f->imm);

    if (s->seg != VMC_SREGS)
        in->seg = s->seg;
    if (s->bits == 64 && s->addrsize == 8 && in->seg != VMC_FS && in->seg != VMC_GS)
        in->flags |= VMCI_IF_LINEAR;
    if (in->base == VMCI_REG_IP)
        in->disp += (int64_t)len;
    in->next = (uint16_t)len;
    in->flags |= ending(in);
    if (in->op >= VMCI_OP_FP_FIRST && !dec_fp_finish(s, in))
        return undefined(in, s, raw, len);
    if (!valid(s, in, features))
        return undefined(in, s, raw, len);
    return (int)len;
}

/* An opcode without its ModR/M byte is invalid when no ModR/M byte makes it valid. */
static bool some_modrm_is_valid(struct vmci_decoder *dec, unsigned bits, uint8_t *canon,
                                unsigned at)
{
    struct dec_facts f;

    for (unsigned reg = 0; reg < 16; reg++) {
        canon[at] = (uint8_t)((reg & 7) << 3 | (reg < 8 ? 0 : 0xc0));
        if (dec_backend_facts(dec->be, VMCI_MAX(bits, 32u), canon, &f))
            return true;
    }
    return false;
}

int vmci_decode(struct vmci_decoder *dec, const struct vmci_dec_mode *mode, const uint8_t *bytes,
                unsigned n, struct vmci_insn *in)
{
    uint8_t b[2 * PAD] = {0}, canon[2 * PAD] = {0};
    struct dec_scan s;
    struct dec_facts f;

    n = VMCI_MIN(n, (unsigned)VMCI_INSN_MAX);
    memcpy(b, bytes, n);
    int rc = dec_scan(b, n, mode->bits, &s);
    if (rc <= 0)
        return rc;

    unsigned head = canonical(&s, b, n, canon);
    unsigned body = s.prefix_end; /* from here on the bytes are copied as they are */
    memcpy(canon + head, b + body, n - body);
    unsigned op_at = head + s.opcode_off - body;
    dec_fix_bytes(&s, canon + op_at, n - s.opcode_off);

    bool known =
        !s.evex && !s.xop &&
        (dec_fp_facts(&s, &f) || dec_backend_facts(dec->be, VMCI_MAX(mode->bits, 32), canon, &f));
    if (!known) {
        memset(&f, 0, sizeof(f));
        f.op = VMCI_OP_UD;
    }
    dec_fix_facts(&s, b + s.opcode_off, &f);
    if (s.opcode_off + 1u < n && s.map != VMCI_MAP_1B)
        b[s.opcode_off + 1] = canon[op_at + 1]; /* ModR/M as corrected */
    if (!known && f.op == VMCI_OP_UD && !f.has_modrm) {
        bool cut = s.opcode_off + 1u >= n;
        if (cut && n < VMCI_INSN_MAX && some_modrm_is_valid(dec, mode->bits, canon, op_at + 1))
            return VMCI_DEC_MORE;
        return undefined(in, &s, bytes, VMCI_MIN(n, s.opcode_off + 2u));
    }

    unsigned len = s.opcode_off + 1u;
    if (known && f.len > op_at)
        len = f.len - head + body;
    if (f.has_modrm) { /* the fix-up rows know no length */
        struct vmci_insn probe = {0};
        unsigned end = dec_modrm(&s, b, s.opcode_off + 1u, &probe);
        len = VMCI_MAX(len, end);
    }
    len += f.imm_bytes;
    if (len > VMCI_INSN_MAX)
        return VMCI_DEC_TOO_LONG;
    if (len > n)
        return n < VMCI_INSN_MAX ? VMCI_DEC_MORE : VMCI_DEC_TOO_LONG;
    return assemble(&s, &f, b, bytes, len, mode->features, in);
}

unsigned vmci_disasm(struct vmci_decoder *dec, unsigned bits, const uint8_t *bytes, unsigned n,
                     uint64_t rip, char *text, size_t size)
{
    return dec_backend_text(dec->be, bits, bytes, n, rip, text, size);
}

int vmci_decoder_create(const struct vmc_platform *pf, struct vmci_decoder **out,
                        struct vmc_error *err)
{
    struct vmci_decoder *dec = vmci_zalloc(pf, sizeof(*dec));

    if (dec == NULL)
        return vmci_error(err, VMC_ENOMEM, "decode", "no memory for the decoder");
    dec->pf = pf;
    int rc = dec_backend_create(pf, &dec->be, err);
    if (rc != VMC_OK) {
        vmci_free(pf, dec, sizeof(*dec));
        return rc;
    }
    *out = dec;
    return VMC_OK;
}

void vmci_decoder_destroy(struct vmci_decoder *dec)
{
    if (dec == NULL)
        return;
    dec_backend_destroy(dec->be);
    vmci_free(dec->pf, dec, sizeof(*dec));
}
