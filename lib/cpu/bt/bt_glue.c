/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The fixed code between C and translated code: entering, leaving, calling for help, finding the
 * next translation. Made once a vCPU, at the start of its code memory.
 */
#include "cpu/bt/bt_work.h"

#define GLUE_MAX 4096u

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
    for (unsigned r = 0; r < 16; r++)
        em_load_gs(e, r, GS_GPR(r));
}

static void store_guest(struct emit *e, unsigned first)
{
    for (unsigned r = first; r < 16; r++)
        em_store_gs(e, r, GS_GPR(r));
}

/* jmp gs:[disp] */
static void jump_gs(struct emit *e, uint32_t disp)
{
    em8(e, 0x65);
    em8(e, 0xff);
    em8(e, 0x24);
    em8(e, 0x25);
    em32(e, disp);
}

/* uint64_t enter(struct vmci_soft_cpu *sc, const uint8_t *code) */
static const uint8_t *make_enter(struct emit *e)
{
    const uint8_t *at = em_here(e);

    for (unsigned k = 0; k < sizeof(saved); k++)
        push(e, saved[k]);
    em_lea(e, EM_W, EM_RSP, EM_RSP, BT_NO_REG, 0, -8); /* alignment of calls */
    gsbase(e, false, EM_RAX);
    gsbase(e, true, EM_RDI);
    em_store_gs(e, EM_RAX, GS_BT(host_gs));
    em_store_gs(e, EM_RSP, GS_BT(host_rsp));
    em_store_gs(e, EM_RSI, GS_BT(target));
    load_guest(e);
    jump_gs(e, GS_BT(target));
    return at;
}

/* Back to the caller of enter; RAX is the result. */
static const uint8_t *make_return(struct emit *e)
{
    const uint8_t *at = em_here(e);

    em_load_gs(e, EM_RSP, GS_BT(host_rsp));
    em_load_gs(e, EM_RCX, GS_BT(host_gs));
    gsbase(e, true, EM_RCX);
    em_lea(e, EM_W, EM_RSP, EM_RSP, BT_NO_REG, 0, 8);
    for (unsigned k = sizeof(saved); k > 0; k--)
        pop(e, saved[k - 1]);
    em8(e, 0xc3);
    return at;
}

static const uint8_t *make_leave(struct emit *e, enum bt_leave why, const uint8_t *back)
{
    const uint8_t *at = em_here(e);

    store_guest(e, 0);
    em_mov_imm(e, EM_RAX, why);
    em_jump_to(e, EM_JMP, back);
    return at;
}

/*
 * Call fn(sc) with the guest's registers in memory (RAX is there already). 0: load them again and
 * go on at bt.resume; else leave with that value - 1.
 */
static const uint8_t *make_call(struct emit *e, struct vmci_soft_cpu *sc,
                                uint64_t (*fn)(struct vmci_soft_cpu *), const uint8_t *back)
{
    const uint8_t *at = em_here(e);

    store_guest(e, 1);
    em_load_gs(e, EM_RSP, GS_BT(host_rsp));
    em_mov_imm(e, EM_RDI, (uintptr_t)sc);
    em_mov_imm(e, EM_RAX, (uintptr_t)fn);
    em8(e, 0xff); /* call rax */
    em8(e, 0xd0);
    em_rr(e, EM_W, 0x85, EM_RAX, EM_RAX); /* test rax, rax */
    size_t go = em_jump(e, CC_E);
    em_lea(e, EM_W, EM_RAX, EM_RAX, BT_NO_REG, 0, -1);
    em_jump_to(e, EM_JMP, back);
    em_patch_here(e, go);
    load_guest(e);
    jump_gs(e, GS_BT(resume));
    return at;
}

/* cmp reg, [base + disp] */
static void cmp_mem(struct emit *e, unsigned reg, unsigned base, uint32_t disp)
{
    em_rex(e, EM_W, reg, base);
    em8(e, 0x3b);
    em8(e, 0x80 | (reg & 7) << 3 | (base & 7));
    em32(e, disp);
}

/*
 * To the translation of cpu->rip, if the jump cache has a block there whose key is the current one;
 * flags are in MEM.
 */
static const uint8_t *make_dispatch(struct emit *e, unsigned mode, const uint8_t *leave_lookup)
{
    const uint8_t *at = em_here(e);
    uint32_t jc = (uint32_t)(offsetof(struct vmci_soft_cpu, code) +
                             offsetof(struct block_cache, jc));
    size_t miss[6];

    /* Code that another vCPU has replaced must not run once this one may know of it. */
    em8(e, 0x65); /* cmp dword gs:[request], 0 */
    em8(e, 0x83);
    em8(e, 0x3c);
    em8(e, 0x25);
    em32(e, GS_CPU(request));
    em8(e, 0);
    em_jump_to(e, CC_NE, leave_lookup);
    em_store_gs(e, EM_RCX, GS_SPILL(0));
    em_store_gs(e, EM_RDX, GS_SPILL(1));
    em_load_gs(e, EM_RCX, GS_CPU(rip));
    /* jc_slot: (la ^ la >> 12) & mask */
    em_rr(e, EM_W, 0x8b, EM_RDX, EM_RCX);
    em_rex(e, EM_W, 0, EM_RDX);
    em8(e, 0xc1);
    em8(e, 0xea);
    em8(e, 12);
    em_rr(e, EM_W, 0x33, EM_RDX, EM_RCX);
    em_ri(e, 0, 4, EM_RDX, (1u << BLK_JC_BITS) - 1);
    em8(e, 0x65); /* mov rdx, gs:[rdx * 8 + jc] */
    em8(e, 0x48);
    em8(e, 0x8b);
    em8(e, 0x14);
    em8(e, 0xd5);
    em32(e, jc);
    em_rr(e, EM_W, 0x85, EM_RDX, EM_RDX);
    miss[0] = em_jump(e, CC_E);
    cmp_mem(e, EM_RCX, EM_RDX, offsetof(struct block, la));
    miss[1] = em_jump(e, CC_NE);
    em_rex(e, EM_W, 0, EM_RCX); /* shr rcx, 63; mov rcx, gs:[rcx * 8 + key] */
    em8(e, 0xc1);
    em8(e, 0xe9);
    em8(e, 63);
    em8(e, 0x65);
    em8(e, 0x48);
    em8(e, 0x8b);
    em8(e, 0x0c);
    em8(e, 0xcd);
    em32(e, (uint32_t)offsetof(struct vmci_soft_cpu, key));
    cmp_mem(e, EM_RCX, EM_RDX, offsetof(struct block, key));
    miss[2] = em_jump(e, CC_NE);
    em_rex(e, EM_W, EM_RDX, EM_RDX); /* mov rdx, [rdx + bt] */
    em8(e, 0x8b);
    em8(e, 0x92);
    em32(e, offsetof(struct block, bt));
    em_rr(e, EM_W, 0x85, EM_RDX, EM_RDX);
    miss[3] = em_jump(e, CC_E);
    /* The first translation of the list may be for another address or mode. */
    em_load_gs(e, EM_RCX, GS_CPU(rip));
    cmp_mem(e, EM_RCX, EM_RDX, offsetof(struct bt_trans, la));
    miss[5] = em_jump(e, CC_NE);
    em8(e, 0x80); /* cmp byte [rdx + mode], mode */
    em8(e, 0xba);
    em32(e, offsetof(struct bt_trans, mode));
    em8(e, mode);
    miss[4] = em_jump(e, CC_NE);
    em_rex(e, EM_W, EM_RDX, EM_RDX); /* mov rdx, [rdx + mem_entry] */
    em8(e, 0x8b);
    em8(e, 0x92);
    em32(e, offsetof(struct bt_trans, mem_entry));
    em_store_gs(e, EM_RDX, GS_BT(target));
    em_load_gs(e, EM_RDX, GS_SPILL(1));
    em_load_gs(e, EM_RCX, GS_SPILL(0));
    jump_gs(e, GS_BT(target));

    for (unsigned k = 0; k < VMCI_ARRAY_SIZE(miss); k++)
        em_patch_here(e, miss[k]);
    em_load_gs(e, EM_RDX, GS_SPILL(1));
    em_load_gs(e, EM_RCX, GS_SPILL(0));
    em_jump_to(e, EM_JMP, leave_lookup);
    return at;
}

int bt_make_glue(struct vmci_soft_cpu *sc)
{
    struct vmci_bt *bt = &sc->bt;
    struct emit e = {.rw = bt->rw, .rx = bt->rx, .cap = GLUE_MAX};

    bt->enter = make_enter(&e);
    const uint8_t *back = make_return(&e);
    bt->leave_lookup = make_leave(&e, BT_LEAVE_LOOKUP, back);
    bt->leave_budget = make_leave(&e, BT_LEAVE_BUDGET, back);
    bt->call_insn = make_call(&e, sc, bt_c_insn, back);
    bt->call_link = make_call(&e, sc, bt_c_link, back);
    bt->call_fp = make_call(&e, sc, bt_c_fp, back);
    for (unsigned m = 0; m < TLB_FILLED; m++)
        bt->dispatch[m] = make_dispatch(&e, m, bt->leave_lookup);
    bt->glue = (e.len + 63) & ~(size_t)63;
    bt->used = bt->glue;
    return e.full ? VMC_EINTERNAL : VMC_OK;
}
