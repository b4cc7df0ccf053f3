/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory operands: the inlined TLB check and the instruction re-encoded around a host address. */
#include "cpu/bt/bt_work.h"

void bt_cold_insn(struct bt_work *w, size_t site, unsigned s, unsigned t)
{
    if (w->cold_count == BT_COLD_MAX) {
        w->failed = true;
        return;
    }
    w->cold[w->cold_count++] = (struct bt_cold){.site = site,
                                                .insn = (uint16_t)w->i,
                                                .kind = BT_COLD_INSN,
                                                .s = (uint8_t)s,
                                                .t = (uint8_t)t};
}

/* Registers that an op uses without naming them. */
static uint32_t implied(const struct vmci_insn *in)
{
    const uint32_t ax = 1u << EM_RAX;
    const uint32_t cx = 1u << EM_RCX;
    const uint32_t dx = 1u << EM_RDX;

    switch (in->op) {
    case VMCI_OP_MUL:
    case VMCI_OP_IMUL1:
    case VMCI_OP_CWD:
        return ax | dx;
    case VMCI_OP_MULX:
        return dx;
    case VMCI_OP_CBW:
    case VMCI_OP_LAHF:
    case VMCI_OP_SAHF:
    case VMCI_OP_CMPXCHG:
        return ax;
    case VMCI_OP_ROL:
    case VMCI_OP_ROR:
    case VMCI_OP_RCL:
    case VMCI_OP_RCR:
    case VMCI_OP_SHL:
    case VMCI_OP_SHR:
    case VMCI_OP_SAR:
    case VMCI_OP_SHLD:
    case VMCI_OP_SHRD:
        return cx;
    default:
        return 0;
    }
}

uint32_t bt_regs_used(const struct vmci_insn *in)
{
    uint32_t used = implied(in) | in->gpr_rd | in->gpr_wr;

    for (unsigned k = 0; k < in->nopnd && k < 4; k++) {
        if (in->opnd[k].kind == VMCI_OPND_GPR)
            used |= 1u << in->opnd[k].reg;
        else if (in->opnd[k].kind == VMCI_OPND_GPR_HI)
            used |= 1u << in->opnd[k].reg;
    }
    if ((in->flags & VMCI_IF_MEM) != 0) {
        if (in->base < 16)
            used |= 1u << in->base;
        if (in->index < 16)
            used |= 1u << in->index;
    }
    return used;
}

/*
 * RSP holds the stack; RBP, R12 and R13 as a base cost a byte more and are left alone. The low
 * registers come first: beside AH, CH, DH, BH no other can be named.
 */
void bt_pick_scratch(const struct bt_work *w, uint32_t used, unsigned *s, unsigned *t)
{
    static const uint8_t order[] = {EM_RCX, EM_RDX, EM_RAX, EM_RSI, EM_RDI, EM_RBX,
                                    8,      9,      10,     11,     14,     15};
    unsigned found = 0;

    (void)w;
    for (unsigned k = 0; k < sizeof(order) && found < 2; k++) {
        if ((used & (1u << order[k])) != 0)
            continue;
        if (found++ == 0)
            *s = order[k];
        else
            *t = order[k];
    }
}

/* The linear address of in's memory operand, or of RSP + disp where in is NULL, into s. */
static void linear(struct bt_work *w, const struct vmci_insn *in, int32_t disp, unsigned s)
{
    struct emit *e = &w->e;

    if (in == NULL) {
        em_lea(e, EM_W, s, EM_RSP, BT_NO_REG, 0, disp);
        return;
    }
    if (in->base == VMCI_REG_IP) {
        uint64_t la = w->la + (uint64_t)in->disp;
        em_mov_imm(e, s, in->addrsize == 4 ? (uint32_t)la : la);
    } else {
        em_lea(e, in->addrsize == 8 ? EM_W : 0, s, in->base, in->index, in->scale,
               (int32_t)in->disp);
    }
    if (in->seg == VMC_FS || in->seg == VMC_GS)
        em_rgs(e, EM_W, 0x03, s,
               GS_CPU(seg) + (uint32_t)(in->seg * sizeof(struct vmc_segment) +
                                        offsetof(struct vmc_segment, base)));
}

/*
 * Compare the page of the operand's last byte with the tag that its first byte selects. An empty
 * tag is no page's address (VMCI_TLB_NONE has low bits set), so nothing but a hit passes. Leaves
 * the host address in s.
 */
static void check(struct bt_work *w, const struct vmci_insn *in, int32_t disp, enum bt_acc acc,
                  unsigned bytes, unsigned align, unsigned s, unsigned t)
{
    struct emit *e = &w->e;
    uint32_t table = GS_CPU(tlb) + (uint32_t)(w->t->mode * sizeof(w->sc->cpu.tlb[0]));
    uint32_t tag = table + (uint32_t)(acc == BT_ACC_READ ? offsetof(struct vmci_tlbe, rd)
                                                         : offsetof(struct vmci_tlbe, wr));
    unsigned shift = VMC_PAGE_SHIFT - 5;
    _Static_assert(sizeof(struct vmci_tlbe) == 32, "the index below is scaled by 32");

    linear(w, in, disp, s);
    em_rr(e, EM_W, 0x8b, t, s); /* mov t, s */
    em_rex(e, EM_W, 0, t);      /* shr t, 7 */
    em8(e, 0xc1);
    em8(e, 0xe8 | (t & 7));
    em8(e, shift);
    em_ri(e, 0, 4, t, (VMCI_TLB_SIZE - 1) << 5); /* and t, index mask */
    if (bytes > 1)
        em_ri(e, EM_W, 0, s, bytes - 1);              /* add s, bytes - 1 */
    em_ri(e, EM_W, 4, s, ~(VMC_PAGE_SIZE - 1));       /* and s, page mask */
    em_rgsb(e, EM_W, 0x3b, s, t, tag);                /* cmp s, tag */
    bt_cold_insn(w, em_jump(e, CC_NE), s, t);
    linear(w, in, disp, s);
    if (align > 1) {
        em_rex(e, 0, 0, s); /* test s, align - 1 */
        em8(e, 0xf7);
        em8(e, 0xc0 | (s & 7));
        em32(e, align - 1);
        bt_cold_insn(w, em_jump(e, CC_NE), s, t);
    }
    em_rgsb(e, EM_W, 0x03, s, t, table + (uint32_t)offsetof(struct vmci_tlbe, addend));
}

static void spill(struct bt_work *w, unsigned s, unsigned t)
{
    em_store_gs(&w->e, s, GS_SPILL(0));
    em_store_gs(&w->e, t, GS_SPILL(1));
}

void bt_reload(struct bt_work *w, unsigned s, unsigned t)
{
    if (t != BT_NO_REG)
        em_load_gs(&w->e, t, GS_SPILL(1));
    if (s != BT_NO_REG)
        em_load_gs(&w->e, s, GS_SPILL(0));
}

void bt_check_ea(struct bt_work *w, const struct vmci_insn *in, enum bt_acc acc, unsigned bytes,
                 unsigned align, unsigned s, unsigned t)
{
    bt_clobber(w);
    spill(w, s, t);
    check(w, in, 0, acc, bytes, align, s, t);
}

void bt_check_stack(struct bt_work *w, int32_t disp, enum bt_acc acc, unsigned bytes, unsigned s,
                    unsigned t)
{
    bt_clobber(w);
    spill(w, s, t);
    check(w, NULL, disp, acc, bytes, 1, s, t);
}

void bt_emit_copy(struct bt_work *w, const struct vmci_insn *in)
{
    for (unsigned k = 0; k < in->len; k++)
        em8(&w->e, in->raw[k]);
}

/* Prefixes that stay: LOCK, operand size, REPNE, REP. Segment and address size are dealt with. */
static void emit_prefixes(struct bt_work *w, const struct vmci_insn *in, unsigned end)
{
    for (unsigned k = 0; k < end; k++) {
        uint8_t b = in->raw[k];
        if (b == 0xf0 || b == 0x66 || b == 0xf2 || b == 0xf3)
            em8(&w->e, b);
    }
}

static void emit_vex(struct bt_work *w, const struct vmci_insn *in, unsigned s)
{
    unsigned r = in->rex & 4;
    unsigned wbit = in->rex & 8;
    unsigned pp = in->vex_lpp & 3;
    unsigned l = in->vex_lpp & 4;
    /* VEX.pp: 1 is 66, 2 is F3, 3 is F2. */
    em8(&w->e, 0xc4);
    em8(&w->e, (r ? 0 : 0x80) | 0x40 | (s >= 8 ? 0 : 0x20) | in->map);
    em8(&w->e, (wbit ? 0x80 : 0) | (~in->vex_v & 15) << 3 | l | pp);
    em8(&w->e, in->raw[in->opcode_off]);
}

void bt_emit_rm(struct bt_work *w, const struct vmci_insn *in, unsigned s)
{
    struct emit *e = &w->e;
    unsigned modrm = in->raw[in->modrm_off];

    if ((in->flags & VMCI_IF_VEX) != 0) {
        emit_vex(w, in, s);
    } else {
        unsigned escapes = in->map == VMCI_MAP_1B ? 0 : in->map == VMCI_MAP_0F ? 1 : 2;
        unsigned rex_off = in->opcode_off - escapes - ((in->flags & VMCI_IF_REX) ? 1 : 0);
        emit_prefixes(w, in, rex_off);
        unsigned rex = (in->rex & 0x4cu) | (s >= 8 ? 1 : 0);
        if ((in->flags & VMCI_IF_REX) != 0 || rex != 0)
            em8(e, 0x40 | rex);
        if (escapes > 0)
            em8(e, 0x0f);
        if (escapes == 2)
            em8(e, in->map == VMCI_MAP_0F38 ? 0x38 : 0x3a);
        em8(e, in->raw[in->opcode_off]);
    }
    em8(e, (modrm & 0x38) | (s & 7));
    if (in->imm_off != 0)
        for (unsigned k = in->imm_off; k < in->len; k++)
            em8(e, in->raw[k]);
}
