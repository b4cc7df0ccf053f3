/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Control flow. Within a page translations are linked directly: as long as one of them is valid, so
 * is its neighbour in the same page. Jumps between global pages are, too. Everything else that
 * leaves the page, and every indirect jump, goes by the table of jump targets (bt_jumps.c), which
 * knows only targets that are mapped where they were. A target that is not in it makes the
 * interpreter execute the branch.
 */
#include "cpu/bt/bt_work.h"

uint64_t bt_insn_la(const struct bt_work *w, const struct vmci_insn *in)
{
    return w->la + in->next - in->len;
}

static uint64_t next_la(const struct bt_work *w, const struct vmci_insn *in)
{
    return bt_wrap(w, w->la + in->next);
}

static uint64_t target_la(const struct bt_work *w, const struct vmci_insn *in)
{
    return bt_target(w, in, w->la + in->next);
}

static bool near(const struct bt_work *w, uint64_t target)
{
    return ((bt_linear(w, target) ^ bt_linear(w, w->la)) & PAGE_MASK) == 0 &&
           w->b->gpa2 == GPA_NONE;
}

/*
 * Is a jump there linked directly? In pages that are global, and stay mapped when the address space
 * changes, also to other pages: flushes, which are rare for these, undo such links (bt_evict.c).
 */
static bool linked(const struct bt_work *w, uint64_t target)
{
    return near(w, target) ||
           (w->b->global && !w->b->by_table && w->b->gpa2 == GPA_NONE && w->word == 8);
}

/* The table of the trace's mode. */
static uint32_t jump_entry(const struct bt_work *w)
{
    return GS_BT(jumps) + (uint32_t)(w->t->mode * sizeof(w->sc->bt.jumps[0]));
}

static uint32_t known_entry(const struct bt_work *w, uint64_t target)
{
    return jump_entry(w) +
           bt_jump_index(bt_key(&w->t->ctx, target)) * (uint32_t)sizeof(struct bt_jump);
}

/* Look for the address in x: twice its index is in s then; else cold code is entered by the jump
   whose place is returned, with RCX away. */
static size_t look_up(struct bt_work *w)
{
    struct emit *e = &w->e;

    if (w->seg) { /* the address as the table has it */
        uint64_t context = bt_key(&w->t->ctx, 0) & ~(uint64_t)UINT32_MAX;
        em_mov_imm(e, w->s, context);
        em_lea(e, 0, w->x, w->x, EM_NONE, 0, (int32_t)w->t->ctx.base);
        em_lea(e, EM_W, w->x, w->x, w->s, 0, 0);
    }
    if (w->lazy == 0)
        bt_rcx_away(w);
    em_rorx(e, w->s, w->x, BT_JUMP_FOLD);
    em_lea(e, EM_W, w->s, w->s, w->x, 0, 0);
    em_pext_gs(e, w->s, w->s, GS_BT(jump_mask));
    em_lea(e, EM_W, w->s, w->s, w->s, 0, 0);
    if (w->lazy != 0) {
        struct em_addr neg = {EM_NONE, (uint8_t)w->s, 3,
                              (int32_t)(jump_entry(w) + (uint32_t)offsetof(struct bt_jump, neg))};
        w->lost = w->lazy;
        em8(e, 0x65); /* add x, entry */
        em_rm(e, EM_W, 0x03, w->x, &neg);
        return em_jump(e, CC_NE);
    }
    em_load_gs_x8(e, EM_RCX, w->s, jump_entry(w) + (uint32_t)offsetof(struct bt_jump, neg));
    em_lea(e, EM_W, EM_RCX, EM_RCX, w->x, 0, 0);
    size_t miss = em_jump_unless_rcxz(e);
    bt_rcx_back(w);
    return miss;
}

/* The same for an address that is known now, and so is its entry. */
static size_t look_at(struct bt_work *w, uint64_t target)
{
    struct emit *e = &w->e;
    uint32_t neg = known_entry(w, target) + (uint32_t)offsetof(struct bt_jump, neg);
    uint64_t key = bt_key(&w->t->ctx, target);
    bool small = em_fits32(key) && em_fits32(0 - key);

    if (w->lazy != 0) {
        w->lost = w->lazy;
        if (small) {
            em_cmp_gs_imm(e, neg, (uint32_t)(0 - key));
        } else {
            bt_mov_neg(w, w->x, key);
            em_rgs(e, EM_W, 0x3b, w->x, neg);
            bt_fix(w, BT_FIX_JUMP, target);
        }
        return em_jump(e, CC_NE);
    }
    bt_rcx_away(w);
    em_load_gs(e, EM_RCX, neg);
    bt_fix(w, BT_FIX_JUMP, target);
    if (small) {
        em_lea(e, EM_W, EM_RCX, EM_RCX, EM_NONE, 0, (int32_t)key);
    } else {
        bt_mov_la(w, w->x, key);
        em_lea(e, EM_W, EM_RCX, EM_RCX, w->x, 0, 0);
    }
    size_t miss = em_jump_unless_rcxz(e);
    bt_rcx_back(w);
    return miss;
}

/* Where RCX is when it misses. */
static enum bt_rcx missed_rcx(const struct bt_work *w)
{
    return w->lazy != 0 ? BT_RCX_HOME : BT_RCX_K;
}

/* jmp gs:[(index << 3) + disp] */
static void jump_gs_x8(struct emit *e, unsigned index, uint32_t disp)
{
    struct em_addr a = {EM_NONE, (uint8_t)index, 3, (int32_t)disp};
    em8(e, 0x65);
    em_rm(e, 0, 0xff, 4, &a);
}

static uint32_t host_column(const struct bt_work *w)
{
    return jump_entry(w) + (uint32_t)offsetof(struct bt_jump, host);
}

/* To the translation whose host address is in memory. */
static void jump_target(struct bt_work *w)
{
    bt_flags_need(w, w->x);
    bt_rsp_pay(w);
    bt_exchange(&w->e, w->set, BT_CANON);
    em_jump_gs(&w->e, GS_BT(target));
}

/* To the translation that look_at found. */
static void jump_known(struct bt_work *w, uint64_t target)
{
    bt_flags_need(w, w->x);
    bt_exchange(&w->e, w->set, BT_CANON);
    em_jump_gs(&w->e, known_entry(w, target) + (uint32_t)offsetof(struct bt_jump, host));
    bt_fix(w, BT_FIX_JUMP, target);
}

static void keep_target(struct bt_work *w)
{
    em_load_gs_x8(&w->e, w->s, w->s, host_column(w));
    em_store_gs(&w->e, w->s, GS_BT(target));
}

/* To the translation that look_up found. */
static void jump_found(struct bt_work *w)
{
    uint16_t both = w->set & BT_CANON;

    bt_flags_need(w, w->x);
    if (w->set == BT_CANON) {
        jump_gs_x8(&w->e, w->s, host_column(w));
        return;
    }
    if (both != 0) { /* a register that is free here and there */
        unsigned r = (unsigned)__builtin_ctz(both);
        em_load_gs_x8(&w->e, r, w->s, host_column(w));
        bt_exchange(&w->e, w->set, BT_CANON);
        em_rex(&w->e, 0, 0, r); /* jmp r */
        em8(&w->e, 0xff);
        em8(&w->e, 0xe0 | (r & 7));
        return;
    }
    keep_target(w);
    jump_target(w);
}

void bt_exit_direct(struct bt_work *w, uint64_t target)
{
    struct bt_cold *c;

    bt_rsp_pay(w);
    if (target == w->t->la && near(w, target) && !w->cold_phase && w->word == 8) {
        if (!w->loop || w->lost_top == 0)
            bt_flags_need(w, w->s);
        size_t site = em_jump(&w->e, EM_JMP);
        if (w->loop)
            em_patch_at(&w->e, site, w->e.rx + w->loop_top);
        else
            w->loop_site = site;
        return;
    }
    bt_count_keep(w);
    if (linked(w, target)) {
        bt_flags_need(w, w->s);
        c = bt_cold(w, BT_COLD_LINK, em_jump(&w->e, EM_JMP));
        if (c != NULL && !near(w, target)) {
            c->blk = w->b;
            w->moves = false;
        }
    } else {
        size_t miss = look_at(w, target);
        uint16_t lost = w->lost;
        jump_known(w, target);
        c = bt_cold(w, BT_COLD_LINK, miss);
        if (c != NULL) {
            c->lazy = lost;
            c->rcx = (uint8_t)missed_rcx(w);
            c->far = true;
        }
    }
    if (c != NULL)
        c->target = target;
}

/* Out of the trace, which goes on behind the branch. */
static void leave(struct bt_work *w, unsigned cond, uint64_t target)
{
    struct bt_cold *c = bt_cold(w, BT_COLD_EXIT, em_jump(&w->e, cond));

    if (c == NULL)
        return;
    c->target = target;
    c->lazy = w->step[w->i].after;
}

static void jcc(struct bt_work *w, const struct vmci_insn *in)
{
    if (w->loop && w->twice && !w->second) {
        leave(w, in->cond ^ 1u, next_la(w, in));
        return;
    }
    size_t taken = em_jump(&w->e, in->cond);

    w->lazy = w->step[w->i].after;
    if (w->loop && target_la(w, in) == w->t->la) {
        em_patch_at(&w->e, taken, w->e.rx + w->loop_top);
        bt_exit_direct(w, next_la(w, in));
        return;
    }
    bt_exit_direct(w, next_la(w, in));
    em_patch_here(&w->e, taken);
    w->lost = 0;
    bt_exit_direct(w, target_la(w, in));
}

/* To the returned jump unless the count, RCX of size bytes, is 0. x has RCX in both cases. */
static size_t unless_done(struct bt_work *w, unsigned size)
{
    struct emit *e = &w->e;

    em_mov(e, w->x, EM_RCX);
    if (size == 2)
        em_zero16(e, EM_RCX, EM_RCX);
    else if (size == 4)
        em_rr(e, 0, 0x8b, EM_RCX, EM_RCX);
    return em_jump_unless_rcxz(e);
}

/* LOOP, LOOPE, LOOPNE: they change no flags. */
static void loop(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    size_t other = 0;

    bt_flags_need(w, w->x);
    if (in->addrsize == 2)
        em8(e, 0x66);
    em_lea(e, in->addrsize == 8 ? EM_W : 0, EM_RCX, EM_RCX, EM_NONE, 0, -1);
    if (in->op != VMCI_OP_LOOP)
        other = em_jump(e, in->op == VMCI_OP_LOOPE ? CC_NE : CC_E);
    size_t more = unless_done(w, in->addrsize);
    em_mov(e, EM_RCX, w->x);
    if (other != 0)
        em_patch_here(e, other);
    w->lazy = 0;
    bt_exit_direct(w, next_la(w, in));
    em_patch_here(e, more);
    em_mov(e, EM_RCX, w->x);
    bt_exit_direct(w, target_la(w, in));
}

static bool jcxz(struct bt_work *w, const struct vmci_insn *in)
{
    bool narrow = w->seg && in->addrsize == 2;

    if (in->addrsize != w->word && !narrow)
        return false;
    if (w->word == 4 && !narrow)
        em8(&w->e, 0x67);
    uint16_t lost = w->lost;
    size_t not_taken = narrow ? unless_done(w, 2) : em_jump_unless_rcxz(&w->e);
    if (narrow)
        em_mov(&w->e, EM_RCX, w->x);
    bt_exit_direct(w, target_la(w, in));
    em_patch_here(&w->e, not_taken);
    if (narrow)
        em_mov(&w->e, EM_RCX, w->x);
    w->lost = lost;
    bt_exit_direct(w, next_la(w, in));
    return true;
}

/* The target of an indirect jump or call to x. */
static bool load_target(struct bt_work *w, const struct vmci_insn *in)
{
    struct em_addr a;

    if (in->opnd[0].kind == VMCI_OPND_GPR) {
        em_rr(&w->e, bt_wide(w), 0x8b, w->x, in->opnd[0].reg);
        if (in->opsize == 2)
            em_zero16(&w->e, w->x, w->x);
        return true;
    }
    if (!bt_check_ea(w, in, BT_ACC_READ, in->opsize, 1, &a))
        return false;
    if (w->seg)
        bt_seg_fetch(w, in, w->x, &a);
    else
        em_rm(&w->e, bt_wide(w), 0x8b, w->x, &a);
    return true;
}

/* To the address in x. */
static void jump_anywhere(struct bt_work *w)
{
    bt_cache(w, 0);
    bt_cold_insn(w, look_up(w), missed_rcx(w));
    jump_found(w);
}

static bool jmp(struct bt_work *w, const struct vmci_insn *in)
{
    if (in->opnd[0].kind == VMCI_OPND_REL) {
        bt_exit_direct(w, target_la(w, in));
        return true;
    }
    if ((in->opsize != w->word && !w->seg) || !load_target(w, in))
        return false;
    jump_anywhere(w);
    return true;
}

/*
 * The trace goes on where the jump leads mostly. The target is in x, or in the register that the
 * instruction names.
 */
static bool jmp_to(struct bt_work *w, const struct vmci_insn *in, uint64_t to)
{
    struct emit *e = &w->e;
    bool small = em_fits32(to) && em_fits32(0 - to);
    unsigned r = w->x;
    size_t miss;
    enum bt_rcx rcx = BT_RCX_HOME;

    if (in->opsize != w->word)
        return false;
    bt_count_end(w); /* the way out must have been charged */
    if (in->opnd[0].kind == VMCI_OPND_GPR && w->lazy != 0)
        r = in->opnd[0].reg;
    else if (!load_target(w, in))
        return false;
    if (w->lazy != 0) {
        w->lost = w->lazy;
        if (small) {
            em_ri(e, EM_W, 7, r, (uint32_t)to);
        } else {
            bt_mov_la(w, w->s, to);
            em_rr(e, EM_W, 0x3b, r, w->s);
        }
        miss = em_jump(e, CC_NE);
    } else {
        bt_rcx_away(w);
        if (small) {
            em_lea(e, EM_W, EM_RCX, r, EM_NONE, 0, -(int32_t)to);
        } else {
            bt_mov_neg(w, w->s, to);
            em_lea(e, EM_W, EM_RCX, r, w->s, 0, 0);
        }
        miss = em_jump_unless_rcxz(e);
        bt_rcx_back(w);
        rcx = BT_RCX_K;
    }
    struct bt_cold *c = bt_cold(w, BT_COLD_AWAY, miss);
    if (c == NULL)
        return true;
    c->lazy = w->lazy;
    c->rcx = (uint8_t)rcx;
    return true;
}

void bt_jump_away(struct bt_work *w, const struct vmci_insn *in)
{
    if (in->opnd[0].kind == VMCI_OPND_GPR)
        em_mov(&w->e, w->x, in->opnd[0].reg);
    jump_anywhere(w);
}

static bool push_return(struct bt_work *w, const struct vmci_insn *in, uint64_t next)
{
    struct emit *e = &w->e;
    int32_t size = (int32_t)w->word;
    struct em_addr a;

    if (w->seg)
        return bt_seg_push_return(w, in, next);
    if (!bt_check_stack(w, -size, BT_ACC_WRITE, w->word, &a))
        return false;
    if (w->word == 4 || next == (uint64_t)(int64_t)(int32_t)next) {
        em_rm(e, bt_wide(w), 0xc7, 0, &a); /* mov [a], imm32 */
        em32(e, (uint32_t)next);
    } else {
        /* With groups x is free; else it may be part of the address. */
        unsigned r = a.base == w->x || a.index == w->x ? w->s : w->x;
        if (r == w->s) {
            em_rm(e, EM_W, 0x8d, w->x, &a);
            a = (struct em_addr){(uint8_t)w->x, EM_NONE, 0, 0};
        }
        bt_mov_la(w, r, next);
        em_rm(e, EM_W, 0x89, r, &a);
    }
    bt_rsp_move(w, -size);
    return true;
}

static bool call(struct bt_work *w, const struct vmci_insn *in)
{
    uint64_t next = next_la(w, in);

    if (in->opsize != w->word && !w->seg)
        return false;
    if (in->opnd[0].kind == VMCI_OPND_REL) {
        if (!push_return(w, in, next))
            return false;
        bt_exit_direct(w, target_la(w, in));
        return true;
    }
    if (!load_target(w, in))
        return false;
    /* The push comes when the target is known to be one. */
    bt_cold_insn(w, look_up(w), missed_rcx(w));
    keep_target(w);
    if (!push_return(w, in, next))
        return false;
    jump_target(w);
    return true;
}

static bool ret(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    int32_t release = in->nopnd > 0 ? (int32_t)(uint16_t)in->imm : 0;
    struct em_addr a;

    if (w->seg) {
        if (!bt_seg_return(w, in))
            return false;
        bt_cold_insn(w, look_up(w), missed_rcx(w));
        bt_seg_returned(w, in);
        jump_found(w);
        return true;
    }
    if (in->opsize != w->word || !bt_check_stack(w, 0, BT_ACC_READ, w->word, &a))
        return false;
    em_rm(e, bt_wide(w), 0x8b, w->x, &a);
    bt_cache(w, (int32_t)w->word + release);
    bt_cold_insn(w, look_up(w), missed_rcx(w));
    bt_rsp_move(w, (int32_t)w->word + release);
    bt_rsp_pay(w);
    jump_found(w);
    return true;
}

/*
 * A return behind the call: the address on the stack is looked at, nothing else. When it is another
 * one, the interpreter goes there.
 */
static bool ret_back(struct bt_work *w, const struct vmci_insn *in, uint64_t to)
{
    struct emit *e = &w->e;
    bool small = em_fits32(to) && em_fits32(0 - to);
    struct em_addr a;

    if (in->opsize != w->word || !bt_check_stack(w, 0, BT_ACC_READ, w->word, &a))
        return false;
    if (w->lazy != 0) {
        w->lost = w->lazy;
        if (small) { /* cmp qword [a], imm32 */
            em_rm(e, EM_W, 0x81, 7, &a);
            em32(e, (uint32_t)to);
        } else {
            em_rm(e, EM_W, 0x8b, w->x, &a);
            bt_mov_la(w, w->s, to);
            em_rr(e, EM_W, 0x3b, w->x, w->s);
        }
        bt_cold_insn(w, em_jump(e, CC_NE), BT_RCX_HOME);
    } else {
        em_rm(e, EM_W, 0x8b, w->x, &a);
        bt_rcx_away(w);
        if (small) {
            em_lea(e, EM_W, EM_RCX, w->x, EM_NONE, 0, -(int32_t)to);
        } else {
            bt_mov_neg(w, w->s, to);
            em_lea(e, EM_W, EM_RCX, w->x, w->s, 0, 0);
        }
        bt_cold_insn(w, em_jump_unless_rcxz(e), BT_RCX_K);
        bt_rcx_back(w);
    }
    bt_rsp_move(w, (int32_t)w->word);
    return true;
}

bool bt_branch_follow(struct bt_work *w, const struct vmci_insn *in, enum bt_follow follow)
{
    uint64_t next = next_la(w, in);
    bool taken = follow == BT_FOLLOW_TAKEN;

    if (follow == BT_FOLLOW_BACK)
        return ret_back(w, in, bt_after(w, w->i));
    if (follow == BT_FOLLOW_TO)
        return jmp_to(w, in, bt_after(w, w->i));
    if (in->op == VMCI_OP_JCC) /* the way out must have been charged */
        bt_count_end(w);
    if (in->op == VMCI_OP_CALL)
        return push_return(w, in, next);
    if (in->op == VMCI_OP_JCC)
        leave(w, taken ? in->cond ^ 1u : in->cond, taken ? next : target_la(w, in));
    return true;
}

bool bt_branch(struct bt_work *w, const struct vmci_insn *in)
{
    /* The interpreter knows which addresses are canonical, and how a branch to others faults. */
    if (in->nopnd != 0 && in->opnd[0].kind == VMCI_OPND_REL &&
        (!vmci_canonical48(target_la(w, in)) || !bt_in_limit(w, target_la(w, in)) ||
         (in->opsize < w->word && !w->seg)))
        return false;
    switch (in->op) {
    case VMCI_OP_JCC:
        bt_count_end(w);
        jcc(w, in);
        return true;
    case VMCI_OP_JCXZ:
        bt_count_end(w);
        return jcxz(w, in);
    case VMCI_OP_LOOP:
    case VMCI_OP_LOOPE:
    case VMCI_OP_LOOPNE:
        bt_count_end(w);
        loop(w, in);
        return true;
    case VMCI_OP_JMP:
        bt_count_end(w);
        return jmp(w, in);
    case VMCI_OP_CALL:
        bt_count_end(w);
        return call(w, in);
    case VMCI_OP_RET:
        bt_count_end(w);
        return ret(w, in);
    case VMCI_OP_SYSCALL:
    case VMCI_OP_SYSRET:
    case VMCI_OP_IRET:
        return bt_syscall(w, in);
    default:
        return false;
    }
}
