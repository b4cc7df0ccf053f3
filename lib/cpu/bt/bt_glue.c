/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The fixed code between C and translated code: entering, leaving, calling for help, finding the
 * next translation. Made once a vCPU, at the start of its code memory.
 */
#include "cpu/bt/bt_work.h"

#define GLUE_MAX 8192u

/* Callee-saved registers of the C ABI, in the order in which they are pushed. */
static const uint8_t saved[] = {EM_RBX, EM_RBP, 12, 13, 14, 15};

static void push(struct emit *e, unsigned reg)
{
    em_rex(e, 0, 0, reg);
    em8(e, 0x50 | (reg & 7));
}

static void pop(struct emit *e, unsigned reg)
{
    em_rex(e, 0, 0, reg);
    em8(e, 0x58 | (reg & 7));
}

/* rdgsbase or wrgsbase reg */
static void gsbase(struct emit *e, bool write, unsigned reg)
{
    em8(e, 0xf3);
    em8(e, 0x48 | (reg >> 3));
    em8(e, 0x0f);
    em8(e, 0xae);
    em8(e, 0xc0 | (write ? 3 : 1) << 3 | (reg & 7));
}

static void load_guest(struct emit *e)
{
    bt_flags_restore(e);
    for (unsigned r = 0; r < 16; r++)
        if ((BT_CANON & 1u << r) == 0)
            em_load_gs(e, r, GS_GPR(r));
}

/* RAX was stored before. */
static void store_guest(struct emit *e)
{
    for (unsigned r = 1; r < 16; r++)
        if ((BT_CANON & 1u << r) == 0)
            em_store_gs(e, r, GS_GPR(r));
    bt_flags_save(e);
}

/* uint64_t enter(struct vmci_soft_cpu *sc, const uint8_t *code) */
static const uint8_t *make_enter(struct emit *e)
{
    const uint8_t *at = em_here(e);

    for (unsigned k = 0; k < sizeof(saved); k++)
        push(e, saved[k]);
    em_lea(e, EM_W, EM_RSP, EM_RSP, EM_NONE, 0, -8); /* alignment of calls */
    gsbase(e, false, EM_RAX);
    gsbase(e, true, EM_RDI);
    em_store_gs(e, EM_RAX, GS_BT(host_gs));
    em_store_gs(e, EM_RSP, GS_BT(host_rsp));
    em_store_gs(e, EM_RSI, GS_BT(target));
    load_guest(e);
    em_jump_gs(e, GS_BT(target));
    return at;
}

/* Back to the caller of enter; RAX is the result. */
static const uint8_t *make_return(struct emit *e)
{
    const uint8_t *at = em_here(e);

    em_load_gs(e, EM_RSP, GS_BT(host_rsp));
    em_load_gs(e, EM_RCX, GS_BT(host_gs));
    gsbase(e, true, EM_RCX);
    em_lea(e, EM_W, EM_RSP, EM_RSP, EM_NONE, 0, 8);
    for (unsigned k = sizeof(saved); k > 0; k--)
        pop(e, saved[k - 1]);
    em8(e, 0xc3);
    return at;
}

static const uint8_t *make_leave(struct emit *e, enum bt_leave why, const uint8_t *back)
{
    const uint8_t *at = em_here(e);

    em_store_gs(e, EM_RAX, GS_GPR(EM_RAX));
    store_guest(e);
    em_mov_imm(e, EM_RAX, why);
    em_jump_to(e, EM_JMP, back);
    return at;
}

/*
 * Call fn(sc) about the record in RAX, with the guest's registers in memory (RAX is there already).
 * 0: load them again and go on at bt.resume; else leave with that value - 1.
 */
static const uint8_t *make_call(struct emit *e, struct vmci_soft_cpu *sc,
                                uint64_t (*fn)(struct vmci_soft_cpu *), const uint8_t *back)
{
    const uint8_t *at = em_here(e);

    em_store_gs(e, EM_RAX, GS_BT(site));
    store_guest(e);
    em_load_gs(e, EM_RSP, GS_BT(host_rsp));
    em_mov_imm(e, EM_RDI, (uintptr_t)sc);
    em_mov_imm(e, EM_RAX, (uintptr_t)fn);
    em8(e, 0xff); /* call rax */
    em8(e, 0xd0);
    em_rr(e, EM_W, 0x85, EM_RAX, EM_RAX); /* test rax, rax */
    size_t go = em_jump(e, CC_E);
    em_lea(e, EM_W, EM_RAX, EM_RAX, EM_NONE, 0, -1);
    em_jump_to(e, EM_JMP, back);
    em_patch_here(e, go);
    load_guest(e);
    em_jump_gs(e, GS_BT(resume));
    return at;
}

/* A part of the budget is used up. */
static const uint8_t *make_budget(struct emit *e, struct vmci_soft_cpu *sc, const uint8_t *back)
{
    const uint8_t *at = em_here(e);

    em_store_gs(e, EM_RAX, GS_GPR(EM_RAX));
    em_mov_imm(e, EM_RAX, 0);
    (void)make_call(e, sc, bt_c_budget, back);
    return at;
}

int bt_make_glue(struct vmci_soft_cpu *sc)
{
    struct vmci_bt *bt = &sc->bt;
    struct emit e = {.rw = bt->rw, .rx = bt->rx, .cap = GLUE_MAX};

    bt->enter = make_enter(&e);
    const uint8_t *back = make_return(&e);
    bt->leave_lookup = make_leave(&e, BT_LEAVE_LOOKUP, back);
    bt->leave_budget = make_budget(&e, sc, back);
    bt->call_insn = make_call(&e, sc, bt_c_insn, back);
    bt->call_io = make_call(&e, sc, bt_c_io, back);
    bt->call_string = make_call(&e, sc, bt_c_string, back);
    bt->call_link = make_call(&e, sc, bt_c_link, back);
    bt->call_find = make_call(&e, sc, bt_c_find, back);
    bt->call_fp = make_call(&e, sc, bt_c_fp, back);
    bt_make_syscall(&e, bt);
    bt->glue = (e.len + 63) & ~(size_t)63;
    return e.full ? VMC_EINTERNAL : VMC_OK;
}
