/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Control flow. Within a page translations are linked directly: as long as one of them is valid, so
 * is its neighbour in the same page. Everything that leaves the page goes through the dispatcher,
 * which checks that the target is still mapped where it was. Only jumps forward within a page skip
 * the look at the budget, so every loop has one.
 */
#include "cpu/bt/bt_work.h"

/* budget -= n, flags in MEM. */
static void count_mem(struct emit *e, unsigned n)
{
    em8(e, 0x65); /* sub qword gs:[budget], imm32 */
    em8(e, 0x48);
    em8(e, 0x81);
    em8(e, 0x2c);
    em8(e, 0x25);
    em32(e, GS_BT(budget));
    em32(e, n);
}

/* budget -= n with EFLAGS kept. */
static void count_live(struct emit *e, unsigned n)
{
    em_store_gs(e, EM_RCX, GS_SPILL(0));
    em_load_gs(e, EM_RCX, GS_BT(budget));
    em_lea(e, EM_W, EM_RCX, EM_RCX, BT_NO_REG, 0, -(int32_t)n);
    em_store_gs(e, EM_RCX, GS_BT(budget));
    em_load_gs(e, EM_RCX, GS_SPILL(0));
}

/* cpu->rip = value, without touching flags or registers. */
static void set_rip(struct emit *e, uint64_t value)
{
    if (value == (uint64_t)(int64_t)(int32_t)value) {
        em_store_gs_imm(e, GS_CPU(rip), (uint32_t)value);
        return;
    }
    em_store_gs(e, EM_RAX, GS_SPILL(2));
    em_mov_imm(e, EM_RAX, value);
    em_store_gs(e, EM_RAX, GS_CPU(rip));
    em_load_gs(e, EM_RAX, GS_SPILL(2));
}

static void link_to(struct bt_work *w, uint64_t target, bool live)
{
    if (w->cold_count == BT_COLD_MAX) {
        w->failed = true;
        return;
    }
    w->cold[w->cold_count++] = (struct bt_cold){.site = em_jump(&w->e, EM_JMP),
                                                .kind = BT_COLD_LINK,
                                                .s = BT_NO_REG,
                                                .t = BT_NO_REG,
                                                .target = target,
                                                .live = live};
}

/* cpu->rip is set and the flags are in MEM: count, and go wherever that is. */
static void dispatch(struct bt_work *w, unsigned n)
{
    struct vmci_bt *bt = &w->sc->bt;

    count_mem(&w->e, n);
    em_jump_to(&w->e, CC_S, bt->leave_budget);
    em_jump_to(&w->e, EM_JMP, bt->dispatch[w->t->mode]);
}

void bt_exit_direct(struct bt_work *w, uint64_t target, unsigned n, uint64_t from)
{
    struct emit *e = &w->e;
    bool same_page = ((target ^ w->la) & PAGE_MASK) == 0;

    if (same_page && target > from) {
        bool live = w->flags == BT_FL_HOST;
        if (live)
            count_live(e, n);
        else
            count_mem(e, n);
        link_to(w, target, live);
        return;
    }
    bt_need_mem(w);
    w->flags = BT_FL_MEM;
    if (!same_page) {
        set_rip(e, target);
        dispatch(w, n);
        return;
    }
    count_mem(e, n);
    size_t go = em_jump(e, CC_NS);
    set_rip(e, target);
    em_jump_to(e, EM_JMP, w->sc->bt.leave_budget);
    em_patch_here(e, go);
    link_to(w, target, false);
}

static uint64_t insn_la(const struct bt_work *w, const struct vmci_insn *in)
{
    return w->la + in->next - in->len;
}

static bool jcc(struct bt_work *w, const struct vmci_insn *in)
{
    uint64_t next = w->la + in->next;
    unsigned n = w->i + 1;

    bt_need_host(w);
    enum bt_flags state = w->flags;
    size_t taken = em_jump(&w->e, in->cond);
    bt_exit_direct(w, next, n, insn_la(w, in));
    em_patch_here(&w->e, taken);
    w->flags = state;
    bt_exit_direct(w, next + (uint64_t)in->imm, n, insn_la(w, in));
    return true;
}

/* JRCXZ alone; the LOOPs are rare. */
static bool jcxz(struct bt_work *w, const struct vmci_insn *in)
{
    uint64_t next = w->la + in->next;

    if (in->addrsize != 8)
        return false;
    enum bt_flags state = w->flags;
    em8(&w->e, 0xe3); /* jrcxz over the jump to "not taken" */
    em8(&w->e, 5);
    size_t not_taken = em_jump(&w->e, EM_JMP);
    bt_exit_direct(w, next + (uint64_t)in->imm, w->i + 1, insn_la(w, in));
    em_patch_here(&w->e, not_taken);
    w->flags = state;
    bt_exit_direct(w, next, w->i + 1, insn_la(w, in));
    return true;
}

/* s, an indirect target, goes to cpu->rip; one that is not canonical faults at the branch. */
static void take_target(struct bt_work *w, unsigned s, unsigned t)
{
    struct emit *e = &w->e;

    em_rr(e, EM_W, 0x8b, t, s); /* mov t, s */
    em_rex(e, EM_W, 0, t);      /* sar t, 47: 0 or -1 */
    em8(e, 0xc1);
    em8(e, 0xf8 | (t & 7));
    em8(e, 47);
    em_ri(e, EM_W, 0, t, 1); /* add t, 1 */
    em_ri(e, EM_W, 7, t, 1); /* cmp t, 1 */
    bt_cold_insn(w, em_jump(e, CC_A), s, t);
    em_store_gs(e, s, GS_CPU(rip));
}

/* The target of an indirect jump or call. */
static void load_target(struct bt_work *w, const struct vmci_insn *in, unsigned s, unsigned t)
{
    struct emit *e = &w->e;

    if (in->opnd[0].kind == VMCI_OPND_GPR) {
        em_store_gs(e, s, GS_SPILL(0));
        em_store_gs(e, t, GS_SPILL(1));
        em_rr(e, EM_W, 0x8b, s, in->opnd[0].reg);
    } else {
        bt_check_ea(w, in, BT_ACC_READ, 8, 1, s, t);
        em_rm(e, EM_W, 0x8b, s, s);
    }
    take_target(w, s, t);
    bt_reload(w, s, t);
}

static bool jmp(struct bt_work *w, const struct vmci_insn *in)
{
    unsigned s = EM_RCX;
    unsigned t = EM_RDX;

    if (in->opnd[0].kind == VMCI_OPND_REL) {
        bt_exit_direct(w, w->la + in->next + (uint64_t)in->imm, w->i + 1, insn_la(w, in));
        return true;
    }
    if (in->opsize != 8)
        return false;
    bt_clobber(w);
    bt_pick_scratch(w, bt_regs_used(in), &s, &t);
    load_target(w, in, s, t);
    dispatch(w, w->i + 1);
    return true;
}

static bool call(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    uint64_t next = w->la + in->next;
    bool direct = in->opnd[0].kind == VMCI_OPND_REL;
    unsigned s = EM_RCX;
    unsigned t = EM_RDX;

    if (in->opsize != 8)
        return false;
    bt_clobber(w);
    bt_pick_scratch(w, bt_regs_used(in) | 1u << EM_RSP, &s, &t);
    if (!direct)
        load_target(w, in, s, t);
    bt_check_stack(w, -8, BT_ACC_WRITE, 8, s, t);
    em_mov_imm(e, t, next);
    em_rm(e, EM_W, 0x89, t, s);
    em_lea(e, EM_W, EM_RSP, EM_RSP, BT_NO_REG, 0, -8);
    bt_reload(w, s, t);
    if (direct) {
        bt_exit_direct(w, next + (uint64_t)in->imm, w->i + 1, insn_la(w, in));
        return true;
    }
    dispatch(w, w->i + 1);
    return true;
}

static bool ret(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    int32_t release = in->nopnd > 0 ? (int32_t)(uint16_t)in->imm : 0;

    if (in->opsize != 8)
        return false;
    bt_check_stack(w, 0, BT_ACC_READ, 8, EM_RCX, EM_RDX);
    em_rm(e, EM_W, 0x8b, EM_RCX, EM_RCX);
    take_target(w, EM_RCX, EM_RDX);
    bt_reload(w, EM_RCX, EM_RDX);
    em_lea(e, EM_W, EM_RSP, EM_RSP, BT_NO_REG, 0, 8 + release);
    dispatch(w, w->i + 1);
    return true;
}

bool bt_branch(struct bt_work *w, const struct vmci_insn *in)
{
    /* The interpreter knows how a branch out of the canonical addresses faults. */
    if (in->nopnd != 0 && in->opnd[0].kind == VMCI_OPND_REL &&
        !vmci_canonical(w->la + in->next + (uint64_t)in->imm))
        return false;
    switch (in->op) {
    case VMCI_OP_JCC:
        return jcc(w, in);
    case VMCI_OP_JCXZ:
        return jcxz(w, in);
    case VMCI_OP_JMP:
        return jmp(w, in);
    case VMCI_OP_CALL:
        return call(w, in);
    case VMCI_OP_RET:
        return ret(w, in);
    default:
        return false;
    }
}
