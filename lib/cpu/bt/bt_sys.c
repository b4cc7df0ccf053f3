/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * System instructions that are frequent and simple, without a call for help. Only code that cannot
 * change EFLAGS is emitted: RFLAGS bits are cleared by PEXT and PDEP with the same mask.
 *
 * Translations for supervisor modes run at CPL 0 alone (bt_get), so no privilege is checked.
 */
#include "cpu/bt/bt_work.h"

/* op reg, src, gs:[disp] of PEXT (pp F3) or PDEP (pp F2): a VEX encoding of map 0F38, opcode F5 */
static void pdep_gs(struct emit *e, unsigned reg, unsigned src, uint32_t disp)
{
    em8(e, 0x65);
    em8(e, 0xc4);
    em8(e, (reg & 8 ? 0 : 0x80) | 0x62);
    em8(e, 0x80 | (~src & 15) << 3 | 3);
    em8(e, 0xf5);
    em8(e, 0x04 | (reg & 7) << 3);
    em8(e, 0x25);
    em32(e, disp);
}

/* reg &= gs:[disp] */
static void and_gs(struct emit *e, unsigned reg, uint32_t disp)
{
    em_pext_gs(e, reg, reg, disp);
    pdep_gs(e, reg, reg, disp);
}

static bool supervisor(const struct bt_work *w)
{
    return w->t->mode == VMCI_TLB_SUP || w->t->mode == VMCI_TLB_SUP_AC;
}

static void clear_flag(struct emit *e, unsigned reg, uint32_t mask)
{
    em_load_gs(e, reg, GS_CPU(rflags));
    and_gs(e, reg, mask);
    em_store_gs(e, reg, GS_CPU(rflags));
}

static bool cli(struct bt_work *w)
{
    if (!supervisor(w))
        return false;
    clear_flag(&w->e, w->s, GS_BT(not_if));
    return true;
}

void bt_unless_zero(struct bt_work *w, unsigned bytes, uint32_t disp)
{
    struct emit *e = &w->e;

    bt_rcx_away(w);
    em8(e, 0x65); /* mov or movzx ecx, gs:[disp] */
    if (bytes < 4)
        em8(e, 0x0f);
    em8(e, bytes == 1 ? 0xb6 : bytes == 2 ? 0xb7 : 0x8b);
    em8(e, 0x0c);
    em8(e, 0x25);
    em32(e, disp);
    bt_cold_insn(w, em_jump_unless_rcxz(e), BT_RCX_K);
    bt_rcx_back(w);
}

/*
 * The shadow lasts until the next instruction was executed, so that one must be in the same trace,
 * and the budget, which can end it, is looked at in front of STI.
 */
static bool sti(struct bt_work *w)
{
    struct emit *e = &w->e;

    if (!supervisor(w) || w->i + 1 >= w->n)
        return false;
    bt_count_end(w);
    /* Does anything wait for IF? */
    bt_unless_zero(w, 2, (uint32_t)offsetof(struct vmci_soft_cpu, want_window));
    em_load_gs(e, w->s, GS_CPU(rflags));
    and_gs(e, w->s, GS_BT(not_if));
    em_lea(e, EM_W, w->s, w->s, EM_NONE, 0, (int32_t)VMC_FLAG_IF);
    em_store_gs(e, w->s, GS_CPU(rflags));
    return true;
}

/* ---- CPUID ----------------------------------------------------------------------------------- */

static unsigned leaf_slot(uint64_t key)
{
    return (unsigned)((key & 7) | (key >> 31 & 7) << 3);
}
_Static_assert(BT_LEAF_MASK == (7ull | 7ull << 31) && BT_LEAVES == 64, "leaf_slot is PEXT");

static void forget_leaves(struct vmci_bt *bt)
{
    for (unsigned i = 0; i < BT_LEAVES; i++)
        bt->leaf[i].neg = i == 0 ? ~0ull : 0; /* the key 1 does not select entry 0, nor 0 another */
}

/* Answers that were given before come from a table by leaf and subleaf. */
static bool cpuid(struct bt_work *w)
{
    static const uint8_t out[] = {EM_RAX, EM_RBX, EM_RCX, EM_RDX};
    struct emit *e = &w->e;

    if (w->word != 8)
        return false;
    em_rr(e, 0, 0x8b, w->x, EM_RCX);
    em_rorx(e, w->x, w->x, 32);
    em_rr(e, 0, 0x8b, w->s, EM_RAX);
    em_lea(e, EM_W, w->x, w->x, w->s, 0, 0);
    em_pext_gs(e, w->s, w->x, GS_BT(leaf_mask));
    em_lea(e, EM_W, w->s, EM_NONE, w->s, 2, 0);
    bt_rcx_away(w);
    em_load_gs_x8(e, EM_RCX, w->s, GS_BT(leaf) + (uint32_t)offsetof(struct bt_leaf, neg));
    em_lea(e, EM_W, EM_RCX, EM_RCX, w->x, 0, 0);
    bt_cold_insn(w, em_jump_unless_rcxz(e), BT_RCX_K);
    for (unsigned k = 0; k < sizeof(out); k++) {
        struct em_addr from = {
            EM_NONE, (uint8_t)w->s, 3,
            (int32_t)(GS_BT(leaf) + (uint32_t)offsetof(struct bt_leaf, reg) + 4 * k)};
        em8(e, 0x65);
        em_rm(e, 0, 0x8b, out[k], &from);
    }
    return true;
}
_Static_assert(sizeof(struct bt_leaf) == 32, "scaled by 4 and 8");

/* ---- time ------------------------------------------------------------------------------------ */

static bool rdtsc(struct bt_work *w, bool p)
{
    struct emit *e = &w->e;

    bt_unless_zero(w, 1, GS_BT(tsc_slow) + (supervisor(w) ? 0 : 1));
    em8(e, 0x0f); /* rdtsc */
    em8(e, 0x31);
    em_rorx(e, EM_RDX, EM_RDX, 32);
    em_lea(e, EM_W, EM_RAX, EM_RAX, EM_RDX, 0, 0);
    em_load_gs(e, EM_RDX, GS_CPU(tsc_offset));
    em_lea(e, EM_W, EM_RAX, EM_RAX, EM_RDX, 0, 0);
    em_rorx(e, EM_RDX, EM_RAX, 32);
    em_rr(e, 0, 0x8b, EM_RDX, EM_RDX);
    em_rr(e, 0, 0x8b, EM_RAX, EM_RAX);
    if (p)
        em_rgs(e, 0, 0x8b, EM_RCX, GS_CPU(msr.tsc_aux));
    return true;
}

/* ---- registers of the system ----------------------------------------------------------------- */

/* MOV from a segment register to a general one. */
static bool read_sreg(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;

    if (in->opnd[0].kind != VMCI_OPND_GPR || in->opnd[1].kind != VMCI_OPND_SREG)
        return false;
    uint32_t at = GS_CPU(seg) + (uint32_t)(in->opnd[1].reg * sizeof(struct vmc_segment) +
                                           offsetof(struct vmc_segment, selector));
    unsigned reg = in->opnd[0].reg;
    em8(e, 0x65);
    if (in->opsize == 2) /* mov r16, else movzx r32 */
        em8(e, 0x66);
    em_rex(e, 0, reg, 0);
    if (in->opsize != 2)
        em8(e, 0x0f);
    em8(e, in->opsize == 2 ? 0x8b : 0xb7);
    em8(e, 0x04 | (reg & 7) << 3);
    em8(e, 0x25);
    em32(e, at);
    return true;
}

static bool read_cr(struct bt_work *w, const struct vmci_insn *in)
{
    static const uint32_t at[] = {GS_CPU(cr0), 0, GS_CPU(cr2), GS_CPU(cr3), GS_CPU(cr4)};

    if (!supervisor(w) || w->word != 8 || in->opnd[1].kind != VMCI_OPND_CR ||
        in->opnd[1].reg >= VMCI_ARRAY_SIZE(at) || in->opnd[1].reg == 1)
        return false;
    em_load_gs(&w->e, in->opnd[0].reg, at[in->opnd[1].reg]);
    return true;
}

/* LFENCE, MFENCE, SFENCE */
static bool fence(struct bt_work *w, const struct vmci_insn *in)
{
    unsigned modrm = in->raw[in->modrm_off];

    if (in->map != VMCI_MAP_0F || in->raw[in->opcode_off] != 0xae || modrm < 0xe8)
        return false;
    em8(&w->e, 0x0f);
    em8(&w->e, 0xae);
    em8(&w->e, modrm & 0xf8);
    return true;
}

/* PUSHFQ: RFLAGS with the arithmetic flags of the moment, without RF. */
static bool pushf(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    struct em_addr to;

    if (in->opsize != 8 || (w->t->set & 1u << EM_RAX) != 0)
        return false;
    em_mov(e, w->x, EM_RAX);
    em8(e, 0x0f); /* seto al */
    em8(e, 0x90);
    em8(e, 0xc0);
    em8(e, 0x9f);             /* lahf */
    em_rex(e, 0x40, w->s, 0); /* movzx s, al */
    em8(e, 0x0f);
    em8(e, 0xb6);
    em8(e, 0xc0 | (w->s & 7) << 3);
    em8(e, 0x0f); /* movzx eax, ah */
    em8(e, 0xb6);
    em8(e, 0xc4);
    pdep_gs(e, w->s, w->s, GS_BT(only_of));
    em_lea(e, EM_W, EM_RAX, EM_RAX, w->s, 0, 0);
    em_load_gs(e, w->s, GS_CPU(rflags));
    and_gs(e, w->s, GS_BT(not_arith));
    em_lea(e, EM_W, w->s, w->s, EM_RAX, 0, 0);
    em_mov(e, EM_RAX, w->x);
    em_store_gs(e, w->s, GS_SPILL(0));
    if (!bt_check_stack(w, -8, BT_ACC_WRITE, 8, &to))
        return false;
    em_load_gs(e, w->x, GS_SPILL(0));
    em_rm(e, EM_W, 0x89, w->x, &to);
    em_lea(e, EM_W, EM_RSP, EM_RSP, EM_NONE, 0, -8);
    return true;
}

/*
 * POPFQ that changes nothing but arithmetic flags; the interpreter does the others. Behind the
 * check of the stack it cannot fault, so its own flags may be lost before all is known.
 */
static bool popf(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    struct em_addr from;

    if (in->opsize != 8 || w->word != 8 || (w->t->set & 1u << EM_RAX) != 0 ||
        !bt_check_stack(w, 0, BT_ACC_READ, 8, &from))
        return false;
    em_rm(e, EM_W, 0x8b, w->x, &from);
    em_load_gs(e, w->s, GS_CPU(rflags));
    em_rr(e, EM_W, 0x33, w->s, w->x); /* xor s, x */
    em_rex(e, EM_W, 0, w->s);         /* test s, other flags */
    em8(e, 0xf7);
    em8(e, 0xc0 | (w->s & 7));
    em32(e, (uint32_t) ~(VMC_FLAG_ARITH | VMC_FLAG_1));
    bt_cold_insn(w, em_jump(e, CC_NE), BT_RCX_HOME);
    em_mov(e, w->s, EM_RAX);
    em_mov(e, EM_RAX, w->x);
    em_rex(e, 0, 0, w->x); /* shr x, 11 */
    em8(e, 0xc1);
    em8(e, 0xe8 | (w->x & 7));
    em8(e, 11);
    em_ri(e, 0, 4, w->x, 1); /* and x, 1 */
    em8(e, 0xc1);            /* shl eax, 8 */
    em8(e, 0xe0);
    em8(e, 8);
    em_rr(e, 0, 0x0b, EM_RAX, w->x); /* or eax, x */
    em8(e, 0x04);                    /* add al, 127: OF is set when al was 1 */
    em8(e, 0x7f);
    em8(e, 0x9e); /* sahf */
    em_mov(e, EM_RAX, w->s);
    em_lea(e, EM_W, EM_RSP, EM_RSP, EM_NONE, 0, 8);
    return true;
}

/* ---- model-specific registers ---------------------------------------------------------------- */

/* With RCX away: x is 0 to 2 for FS_BASE, GS_BASE and KERNEL_GS_BASE; others are interpreted. */
static void which_base(struct bt_work *w)
{
    struct emit *e = &w->e;

    em_lea(e, 0, w->x, EM_RCX, EM_NONE, 0, (int32_t)(0 - VMC_MSR_FS_BASE));
    em_lea(e, EM_W, EM_RCX, w->x, EM_NONE, 0, 1);
    em_pext_gs(e, EM_RCX, EM_RCX, GS_BT(not_low2));
    bt_cold_insn(w, em_jump_unless_rcxz(e), BT_RCX_K);
}

/* reg, 32 bits: where that base is, from GS */
static void base_at(struct bt_work *w, unsigned reg)
{
    struct em_addr at = {EM_NONE, (uint8_t)w->x, 2, (int32_t)GS_BT(base_at)};

    em8(&w->e, 0x65);
    em_rm(&w->e, 0, 0x8b, reg, &at);
}

static bool rdmsr(struct bt_work *w)
{
    struct emit *e = &w->e;
    struct em_addr at = {(uint8_t)w->s, EM_NONE, 0, 0};

    if (!supervisor(w) || w->word != 8)
        return false;
    bt_rcx_away(w);
    which_base(w);
    bt_rcx_back(w);
    base_at(w, w->s);
    em8(e, 0x65);
    em_rm(e, EM_W, 0x8b, w->s, &at);
    em_rr(e, 0, 0x8b, EM_RAX, w->s);
    em_rorx(e, EM_RDX, w->s, 32);
    em_rr(e, 0, 0x8b, EM_RDX, EM_RDX);
    return true;
}

/* With RCX away: leave the instruction to the interpreter unless s is a canonical address. RCX
   comes back. */
static void unless_canonical(struct bt_work *w)
{
    struct emit *e = &w->e;

    /* Bits 63 to 47 are all zeros or all ones. One more is 1 or, but for its carry, 0. */
    em_pext_gs(e, EM_RCX, w->s, GS_BT(high17));
    em_lea(e, EM_W, EM_RCX, EM_RCX, EM_NONE, 0, 1);
    em_pext_gs(e, EM_RCX, EM_RCX, GS_BT(bits16_1));
    bt_cold_insn(w, em_jump_unless_rcxz(e), BT_RCX_K);
    bt_rcx_back(w);
}

static bool wrmsr(struct bt_work *w)
{
    struct emit *e = &w->e;
    struct em_addr at = {(uint8_t)w->x, EM_NONE, 0, 0};

    if (!supervisor(w) || w->word != 8)
        return false;
    bt_rcx_away(w);
    which_base(w);
    em_rr(e, 0, 0x8b, w->s, EM_RDX);
    em_rorx(e, w->s, w->s, 32);
    em_rr(e, 0, 0x8b, EM_RCX, EM_RAX);
    em_lea(e, EM_W, w->s, w->s, EM_RCX, 0, 0);
    unless_canonical(w);
    base_at(w, w->x);
    em8(e, 0x65);
    em_rm(e, EM_W, 0x89, w->s, &at);
    return true;
}

/* RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE: at any CPL, if CR4 allows them. */
static bool fsgsbase(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    bool fs = in->op == VMCI_OP_RDFSBASE || in->op == VMCI_OP_WRFSBASE;
    uint32_t base = GS_CPU(seg) + (uint32_t)((fs ? VMC_FS : VMC_GS) * sizeof(struct vmc_segment) +
                                             offsetof(struct vmc_segment, base));
    unsigned wide = in->opsize == 8 ? EM_W : 0;
    unsigned reg = in->opnd[0].reg;

    if (w->word != 8 || in->opnd[0].kind != VMCI_OPND_GPR)
        return false;
    if (in->op == VMCI_OP_RDFSBASE || in->op == VMCI_OP_RDGSBASE) {
        bt_unless_zero(w, 1, GS_BT(no_fsgsbase));
        em_rgs(e, wide, 0x8b, reg, base);
        return true;
    }
    em_rr(e, wide, 0x8b, w->s, reg);
    bt_unless_zero(w, 1, GS_BT(no_fsgsbase));
    bt_rcx_away(w);
    unless_canonical(w);
    em_store_gs(e, w->s, base);
    return true;
}

/* ---- waiting --------------------------------------------------------------------------------- */

/* Nothing, unless somebody wants to know of loops that wait. */
static bool pause_insn(struct bt_work *w)
{
    bt_unless_zero(w, 4, (uint32_t)offsetof(struct vmci_soft_cpu, pause_limit));
    return true;
}

/* ---- ports ----------------------------------------------------------------------------------- */

static bool in_out(struct bt_work *w)
{
    if (!supervisor(w))
        return false;
    unsigned k = w->cold_count;
    bt_cold_insn(w, em_jump(&w->e, EM_JMP), BT_RCX_HOME);
    if (k < w->cold_count)
        w->cold[k].io = true;
    return true;
}

static bool swapgs(struct bt_work *w)
{
    struct emit *e = &w->e;
    uint32_t base = GS_CPU(seg) + (uint32_t)(VMC_GS * sizeof(struct vmc_segment) +
                                             offsetof(struct vmc_segment, base));

    if (!supervisor(w) || w->word != 8)
        return false;
    em_load_gs(e, w->x, base);
    em_load_gs(e, w->s, GS_CPU(msr.kernel_gs_base));
    em_store_gs(e, w->s, base);
    em_store_gs(e, w->x, GS_CPU(msr.kernel_gs_base));
    return true;
}

/* ---- what the emitted code takes for granted ------------------------------------------------- */

void bt_sys_see(struct vmci_soft_cpu *sc)
{
    const struct vmci_cpu *cpu = &sc->cpu;
    struct vmci_bt *bt = &sc->bt;
    struct bt_seen *s = &bt->seen;

    if (likely(((s->cr4 ^ cpu->cr4) | (s->xcr0 ^ cpu->xcr0) | (s->xss ^ cpu->msr.xss) |
                (s->misc_enable ^ cpu->msr.misc_enable) | (s->apic_id ^ cpu->apic_id) |
                (s->cr0 ^ cpu->cr0) | (s->gdt_base ^ cpu->gdtr.base) |
                (s->gdt_limit ^ cpu->gdtr.limit)) == 0))
        return;
    *s = (struct bt_seen){.cr4 = cpu->cr4,
                          .xcr0 = cpu->xcr0,
                          .xss = cpu->msr.xss,
                          .misc_enable = cpu->msr.misc_enable,
                          .apic_id = cpu->apic_id,
                          .cr0 = cpu->cr0,
                          .gdt_base = cpu->gdtr.base,
                          .gdt_limit = cpu->gdtr.limit};
    bt->fp_ready = 0; /* not known: bt_fp_usable looks */
    bt->no_fsgsbase = (cpu->cr4 & VMC_CR4_FSGSBASE) == 0;
    bt->tsc_slow[0] = cpu->tsc_source != VMCI_TSC_HOST;
    bt->tsc_slow[1] = bt->tsc_slow[0] || (cpu->cr4 & VMC_CR4_TSD) != 0;
    forget_leaves(bt);
    bt_iret_forget(bt);
}

void bt_sys_forget(struct vmci_soft_cpu *sc)
{
    sc->bt.seen.cr4 = ~0ull; /* no such value: bt_run looks at it all */
}

void bt_sys_done(struct vmci_soft_cpu *sc, const struct vmci_insn *in, uint64_t leaf)
{
    const uint64_t *gpr = sc->cpu.gpr;

    if (in->op != VMCI_OP_CPUID)
        bt_sys_see(sc);
    else if (sc->cpu.code_bits == 64)
        sc->bt.leaf[leaf_slot(leaf)] = (struct bt_leaf){
            .neg = 0 - leaf,
            .reg = {(uint32_t)gpr[VMC_RAX], (uint32_t)gpr[VMC_RBX], (uint32_t)gpr[VMC_RCX],
                    (uint32_t)gpr[VMC_RDX]},
        };
}

void bt_sys_init(struct vmci_soft_cpu *sc)
{
    sc->bt.leaf_mask = BT_LEAF_MASK;
    bt_sys_forget(sc);
    sc->bt.not_df = ~(uint64_t)VMC_FLAG_DF;
    sc->bt.not_if = ~(uint64_t)VMC_FLAG_IF;
    sc->bt.only_of = 0x800;
    sc->bt.not_low2 = ~3ull;
    sc->bt.high17 = 0x1ffffull << 47;
    sc->bt.bits16_1 = 0x1fffe;
    sc->bt.bit_mask[0] = 31;
    sc->bt.bit_mask[1] = 63;
    sc->bt.base_at[0] = GS_CPU(seg) + (uint32_t)(VMC_FS * sizeof(struct vmc_segment) +
                                                 offsetof(struct vmc_segment, base));
    sc->bt.base_at[1] = GS_CPU(seg) + (uint32_t)(VMC_GS * sizeof(struct vmc_segment) +
                                                 offsetof(struct vmc_segment, base));
    sc->bt.base_at[2] = GS_CPU(msr.kernel_gs_base);
    /* LAHF's image has bit 1 set, which RFLAGS has too. */
    sc->bt.not_arith = ~(uint64_t)(VMC_FLAG_ARITH | VMC_FLAG_1 | VMC_FLAG_RF | VMC_FLAG_VM);
}

bool bt_sys_goes_on(const struct vmci_insn *in)
{
    if ((in->flags & (VMCI_IF_BRANCH | VMCI_IF_END)) != VMCI_IF_END)
        return false;
    switch (in->op) {
    case VMCI_OP_HLT:
    case VMCI_OP_MWAIT:
    case VMCI_OP_VMCALL:
    case VMCI_OP_VMMCALL:
    case VMCI_OP_MOV_DR:
    case VMCI_OP_LMSW:
    case VMCI_OP_UD:
        return false;
    default:
        return true;
    }
}

bool bt_sys(struct bt_work *w, const struct vmci_insn *in)
{
    switch (in->op) {
    case VMCI_OP_CLI:
        return cli(w);
    case VMCI_OP_STI:
        return sti(w);
    case VMCI_OP_CLD:
        clear_flag(&w->e, w->s, GS_BT(not_df));
        return true;
    case VMCI_OP_CPUID:
        return cpuid(w);
    case VMCI_OP_RDTSC:
    case VMCI_OP_RDTSCP:
        return rdtsc(w, in->op == VMCI_OP_RDTSCP);
    case VMCI_OP_MOV_SREG:
        return read_sreg(w, in);
    case VMCI_OP_MOV_CR:
        return read_cr(w, in);
    case VMCI_OP_FENCE:
        return fence(w, in);
    case VMCI_OP_PUSHF:
        return pushf(w, in);
    case VMCI_OP_POPF:
        return popf(w, in);
    case VMCI_OP_RDMSR:
        return rdmsr(w);
    case VMCI_OP_WRMSR:
        return wrmsr(w);
    case VMCI_OP_IN:
    case VMCI_OP_OUT:
        return in_out(w);
    case VMCI_OP_SWAPGS:
        return swapgs(w);
    case VMCI_OP_RDFSBASE:
    case VMCI_OP_RDGSBASE:
    case VMCI_OP_WRFSBASE:
    case VMCI_OP_WRGSBASE:
        return fsgsbase(w, in);
    case VMCI_OP_PAUSE:
        return pause_insn(w);
    default:
        return false;
    }
}
