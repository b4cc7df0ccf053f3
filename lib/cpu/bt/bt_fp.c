/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Floating point in translated code. SSE, AVX, MMX and x87 run as they are while the guest's state
 * is in the registers and the guest has masked their exceptions. The instruction and data pointers
 * of the x87 unit would be those of the translation, so each x87 instruction leaves a mark of
 * itself, and C makes the guest's pointers of the last one when it is needed.
 */
#include "cpu/bt/bt_work.h"
#include "cpu/fpu/fp_int.h"

uint8_t bt_fp_ready(struct vmci_soft_cpu *sc)
{
    struct vmci_cpu *cpu = &sc->cpu;
    struct vmci_fp *fp = cpu->fp;
    uint8_t ready = 0;

    if (VMCI_FP_EAGER || fp == NULL || !fp->has_xsave ||
        (cpu->cr0 & (VMC_CR0_EM | VMC_CR0_TS)) != 0)
        return 0;
    if (!fp->live)
        vmci_fp_load(fp);
    if (!fp->x87_check && !fp->ferr && !fp->ignored)
        ready |= BT_FP_X87;
    if (fp->mx_check || (cpu->cr4 & VMC_CR4_OSFXSR) == 0)
        return ready;
    ready |= BT_FP_SSE;
    if ((cpu->cr4 & VMC_CR4_OSXSAVE) != 0 &&
        (cpu->xcr0 & (VMC_XCR0_SSE | VMC_XCR0_AVX)) == (VMC_XCR0_SSE | VMC_XCR0_AVX))
        ready |= BT_FP_AVX;
    return ready;
}

/* By what is ready and what is needed. */
static const uint8_t lacks[8][8] = {
    {0, 1, 1, 1, 1, 1, 1, 1}, {0, 0, 1, 1, 1, 1, 1, 1}, {0, 1, 0, 1, 1, 1, 1, 1},
    {0, 0, 0, 0, 1, 1, 1, 1}, {0, 1, 1, 1, 0, 1, 1, 1}, {0, 0, 1, 1, 0, 0, 1, 1},
    {0, 1, 0, 1, 0, 1, 0, 1}, {0, 0, 0, 0, 0, 0, 0, 0},
};

bool bt_fp_usable(struct vmci_soft_cpu *sc, const struct bt_trans *t)
{
    struct vmci_bt *bt = &sc->bt;
    const struct vmci_fp *fp = sc->cpu.fp;

    if (!fp->live || bt->fp_ready == 0)
        bt->fp_ready = t->fp != 0 ? bt_fp_ready(sc) : 0;
    else if (fp->x87_check == ((bt->fp_ready & BT_FP_X87) != 0)) /* FLDCW leaves the state live */
        bt->fp_ready = bt_fp_ready(sc);
    if (bt->fp_lacks_of != bt->fp_ready) {
        bt->fp_lacks_of = bt->fp_ready;
        memcpy(bt->fp_lacks, lacks[bt->fp_ready], sizeof(bt->fp_lacks));
    }
    return (bt->fp_ready & t->fp) == t->fp;
}

/* What the unit would have noted of the last instruction (SDM 1 8.1.8). */
void bt_x87_settle(struct vmci_soft_cpu *sc)
{
    struct vmci_bt *bt = &sc->bt;
    struct vmci_cpu *cpu = &sc->cpu;
    struct vmci_fp *fp = cpu->fp;

    if (bt->x87_mark == 0)
        return;
    const struct bt_x87 *x = (const struct bt_x87 *)(const void *)(bt->arena + bt->x87_mark);
    bt->x87_mark = 0;
    fp->fip = x->t->la + x->rel;
    fp->fcs = cpu->seg[VMC_CS].selector;
    fp->fop = vmci_fp_fop(x->insn);
    if (bt->x87_ea != BT_X87_NO_EA) { /* that of the last one that had an operand in memory */
        fp->fdp = bt->x87_ea;
        fp->fds = cpu->seg[bt->x87_seg].selector;
        bt->x87_ea = BT_X87_NO_EA;
    }
}

/* bt.x87_seg is the segment of bt.x87_ea. It is not stored again while a trace knows it. */
static void note_segment(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;

    if (w->x87_seg == in->seg)
        return;
    w->x87_seg = in->seg;
    em8(e, 0x65); /* mov byte gs:[x87_seg], seg */
    em8(e, 0xc6);
    em8(e, 0x04);
    em8(e, 0x25);
    em32(e, GS_BT(x87_seg));
    em8(e, in->seg);
}

/* The effective address of the operand, before the instruction changes any register. */
static void note_operand(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;

    if (in->base == VMCI_REG_IP && in->addrsize == 4) {
        /* The access has tied the code to its place. */
        em_mov_imm(e, w->s, (uint32_t)(w->la + (uint64_t)in->disp));
    } else if (in->base == VMCI_REG_IP) {
        bt_mov_la(w, w->s, w->la + (uint64_t)in->disp);
    } else {
        struct em_addr at = {in->base < 16 ? in->base : EM_NONE,
                             in->index < 16 ? in->index : EM_NONE, in->scale, (int32_t)in->disp};
        em_rm(e, in->addrsize == 8 ? EM_W : 0, 0x8d, w->s, &at); /* lea */
        if (in->addrsize == 2)
            em_zero16(e, w->s, w->s);
    }
    em_store_gs(e, w->s, GS_BT(x87_ea));
    note_segment(w, in);
}

/* mov dword gs:[x87_mark], offset of a record */
static void store_mark(struct emit *e, uint32_t record)
{
    em8(e, 0x65);
    em8(e, 0xc7);
    em8(e, 0x04);
    em8(e, 0x25);
    em32(e, GS_BT(x87_mark));
    em32(e, record);
}

void bt_x87_store(struct bt_work *w)
{
    if (w->x87_mark != 0)
        store_mark(&w->e, w->x87_mark);
    w->x87_mark = 0;
}

void bt_x87_before(struct bt_work *w, const struct vmci_insn *in, enum bt_follow follow)
{
    bool stays;

    switch (in->op) {
    case VMCI_OP_NOP:
    case VMCI_OP_LEA:
        stays = true;
        break;
    case VMCI_OP_JCC:
    case VMCI_OP_JMP:
        stays = follow != BT_FOLLOW_NOT && in->opnd[0].kind == VMCI_OPND_REL;
        break;
    case VMCI_OP_FP_X87:
    case VMCI_OP_FP_SSE:
    case VMCI_OP_FP_AVX:
        stays = bt_fp_native(w, in);
        break;
    default:
        stays =
            in->op < VMCI_OP_FP_FIRST && (in->flags & VMCI_IF_BRANCH) == 0 && bt_copyable(w, in);
    }
    if (!stays || w->i + 1 == w->n)
        bt_x87_store(w);
}

/* The next x87 instruction of the trace makes the mark void: it waits until control may leave. */
static void mark(struct bt_work *w, const struct vmci_insn *in)
{
    struct vmci_bt *bt = &w->sc->bt;

    if (bt->arena_end - bt->arena_used < sizeof(struct bt_x87)) {
        w->failed = true;
        return;
    }
    struct bt_x87 *x = (struct bt_x87 *)(void *)(bt->arena + bt->arena_used);
    *x = (struct bt_x87){in, w->t, bt_insn_la(w, in) - w->t->la};
    w->x87_mark = (uint32_t)bt->arena_used;
    bt->arena_used += sizeof(*x);
    if (w->i + 1 == w->n)
        bt_x87_store(w);
}

bool bt_x87(struct bt_work *w, const struct vmci_insn *in, const struct vmci_fp_form *form)
{
    bool is_mem = (in->flags & VMCI_IF_MEM) != 0;
    struct em_addr a;

    if (in->op == VMCI_OP_FWAIT || form->special == VMCI_FS_FNOP0)
        return true; /* no exception can be pending */
    struct bt_access acc;
    if (is_mem && form->mem_bytes == 10 && in->addrsize < w->word)
        return false; /* may be in two pieces (fp_wrap.c), which need not be on two pages */
    if (is_mem &&
        (!bt_operand(w, in, &acc) || !bt_check_ea(w, in, acc.acc, acc.bytes, acc.align, &a)))
        return false;
    if (is_mem)
        bt_emit_rm(w, in, &a);
    else
        bt_emit_copy(w, in);
    if (is_mem)
        note_operand(w, in);
    mark(w, in);
    return true;
}
