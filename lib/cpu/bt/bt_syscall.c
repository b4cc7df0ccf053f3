/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SYSCALL and SYSRET of 64-bit code without a call for help: fixed code of the vCPU, made with the
 * glue, to which translations jump with the canonical scratch set. What is not the usual case (SCE
 * clear, AC or TF in the flags, RCX not canonical, an interrupt that waits for IF) is left to the
 * interpreter before anything has changed.
 *
 * What need not be looked at: translated 64-bit code runs in long mode, without TF, RF and VM, and
 * without breakpoints; and with CPL 0 or 3 as its mode says (bt_get).
 */
#include "cpu/bt/bt_work.h"

#define SYSRET_FLAGS 0x3c7fd5u /* without RF and VM; bit 1 is set in any case */
#define SEG_CODE     (VMC_SEG_G | VMC_SEG_P | VMC_SEG_S | 0xbu | VMC_SEG_L)
#define SEG_STACK    (VMC_SEG_G | VMC_SEG_P | VMC_SEG_S | 0x3u | VMC_SEG_DB)

enum { X = 11, S = 10 }; /* the canonical set */
enum { OR = 1, AND = 4 };

static uint32_t seg_at(unsigned seg, size_t field)
{
    return GS_CPU(seg) + (uint32_t)(seg * sizeof(struct vmc_segment) + field);
}

/* To the interpreter if the condition holds. */
struct slow {
    size_t site[8];
    unsigned n;
};

static void slow_if(struct emit *e, struct slow *s, unsigned cond)
{
    s->site[s->n++] = em_jump(e, cond);
}

/* RAX and the flags go to memory; EFLAGS are free then, and AX is as bt.flags. */
static void begin(struct emit *e, struct slow *s, unsigned mode)
{
    em_store_gs(e, EM_RAX, GS_GPR(EM_RAX));
    bt_flags_save(e);
    em_rgs(e, 0, 0xf6, 0, GS_CPU(efer)); /* test byte, SCE */
    em8(e, VMC_EFER_SCE);
    slow_if(e, s, CC_E);
    em_rgs(e, 0, 0x80, 7, GS_BT(jump_bits) + mode); /* cmp byte, 64 */
    em8(e, 64);
    slow_if(e, s, CC_NE);
}

/* Code that gives up comes here with X as it was: the record of the site. */
static void end(struct emit *e, const struct slow *s, const uint8_t *call)
{
    for (unsigned k = 0; k < s->n; k++)
        em_patch_here(e, s->site[k]);
    bt_flags_restore(e);
    em_mov(e, EM_RAX, X);
    em_jump_to(e, EM_JMP, call);
}

static void store_word(struct emit *e, unsigned reg, uint32_t disp)
{
    em8(e, 0x66);
    em_rgs(e, 0, 0x89, reg, disp);
}

static void store_byte_imm(struct emit *e, uint32_t disp, unsigned imm)
{
    em_rgs(e, 0, 0xc6, 0, disp);
    em8(e, imm);
}

static void store_long_imm(struct emit *e, uint32_t disp, uint32_t imm)
{
    em_rgs(e, 0, 0xc7, 0, disp);
    em32(e, imm);
}

/* Flat 64-bit segments; CS from X, and SS so much higher. Everything that vmci_update_mode and
   soft_new_key make of them. */
static void enter_level(struct emit *e, unsigned cpl, int32_t ss)
{
    unsigned mode = cpl == 3 ? VMCI_TLB_USER : VMCI_TLB_SUP;
    static const uint8_t seg[2] = {VMC_CS, VMC_SS};

    store_word(e, X, seg_at(VMC_CS, offsetof(struct vmc_segment, selector)));
    em_lea(e, 0, X, X, EM_NONE, 0, ss);
    store_word(e, X, seg_at(VMC_SS, offsetof(struct vmc_segment, selector)));
    for (unsigned k = 0; k < 2; k++) {
        em_store_gs_imm(e, seg_at(seg[k], offsetof(struct vmc_segment, base)), 0);
        store_long_imm(e, seg_at(seg[k], offsetof(struct vmc_segment, limit)), UINT32_MAX);
        store_long_imm(e, seg_at(seg[k], offsetof(struct vmc_segment, attr)),
                       (k == 0 ? SEG_CODE : SEG_STACK) | cpl << VMC_SEG_DPL_SHIFT);
    }
    store_long_imm(e, GS_CPU(cpl), cpl | 64u << 8 | 64u << 16 | mode << 24);
    for (unsigned half = 0; half < TLB_HALVES; half++)
        store_byte_imm(e, (uint32_t)(offsetof(struct vmci_soft_cpu, key) + 8 * half),
                       0x82u | half << 3 | (cpl == 3 ? 4u : 0u));
}
_Static_assert(offsetof(struct vmci_cpu, code_bits) == offsetof(struct vmci_cpu, cpl) + 1 &&
                   offsetof(struct vmci_cpu, stack_bits) == offsetof(struct vmci_cpu, cpl) + 2 &&
                   offsetof(struct vmci_cpu, tlb_mode) == offsetof(struct vmci_cpu, cpl) + 3,
               "stored as one");

/* The flags of RFLAGS in RAX into EFLAGS. */
static void set_flags(struct emit *e)
{
    static const uint8_t code[] = {
        0x41, 0x89, 0xc3,     /* mov r11d, eax */
        0x41, 0xc1, 0xeb, 11, /* shr r11d, 11 */
        0x41, 0x83, 0xe3, 1,  /* and r11d, 1 */
        0xc1, 0xe0, 8,        /* shl eax, 8 */
        0x44, 0x08, 0xd8,     /* or al, r11b */
        0x04, 0x7f,           /* add al, 127: OF is set when al was 1 */
        0x9e,                 /* sahf */
    };
    for (unsigned k = 0; k < sizeof(code); k++)
        em8(e, code[k]);
}

/* Go on at the address in X with the new RFLAGS, which are in RAX. */
static void go(struct emit *e, unsigned mode, const uint8_t *call_find)
{
    uint32_t table = GS_BT(jumps) + (uint32_t)(mode * BT_JUMP_SIZE * sizeof(struct bt_jump));
    struct em_addr neg = {EM_NONE, S, 3, (int32_t)(table + offsetof(struct bt_jump, neg))};
    struct em_addr host = {EM_NONE, S, 3, (int32_t)(table + offsetof(struct bt_jump, host))};

    em_store_gs(e, X, GS_CPU(rip));
    em_rorx(e, S, X, BT_JUMP_FOLD); /* as look_up in bt_branch.c */
    em_lea(e, EM_W, S, S, X, 0, 0);
    em_pext_gs(e, S, S, GS_BT(jump_mask));
    em_lea(e, EM_W, S, S, S, 0, 0);
    em8(e, 0x65); /* add X, entry */
    em_rm(e, EM_W, 0x03, X, &neg);
    size_t miss = em_jump(e, CC_NE);
    set_flags(e);
    em_load_gs(e, EM_RAX, GS_GPR(EM_RAX));
    em8(e, 0x65); /* jmp */
    em_rm(e, 0, 0xff, 4, &host);
    em_patch_here(e, miss);
    set_flags(e);
    em_jump_to(e, EM_JMP, call_find);
}

/* S: the address of the next instruction; X: the record of this one. */
static const uint8_t *make_syscall(struct emit *e, const struct vmci_bt *bt)
{
    static const uint8_t arith[] = {
        0x44, 0x0f, 0xb6, 0xd0, /* movzx r10d, al */
        0x41, 0xc1, 0xe2, 11,   /* shl r10d, 11 */
        0x0f, 0xb6, 0xc4,       /* movzx eax, ah */
        0x41, 0x09, 0xc2,       /* or r10d, eax */
    };
    const uint8_t *at = em_here(e);
    struct slow s = {.n = 0};

    begin(e, &s, VMCI_TLB_SUP);
    em_rgs(e, 0, 0xf7, 0, GS_CPU(rflags)); /* test: with AC set SFMASK decides about the mode */
    em32(e, (uint32_t)VMC_FLAG_AC);
    slow_if(e, &s, CC_NE);
    em_mov(e, EM_RCX, S);
    for (unsigned k = 0; k < sizeof(arith); k++)
        em8(e, arith[k]);
    em_load_gs(e, EM_RAX, GS_CPU(rflags));
    em_ri(e, EM_W, AND, EM_RAX, (uint32_t) ~(VMC_FLAG_ARITH | VMC_FLAG_RF));
    em_rr(e, EM_W, 0x0b, S, EM_RAX);
    em_store_gs(e, S, GS_GPR(VMC_R11));
    em_load_gs(e, EM_RAX, GS_CPU(msr.sfmask));
    em8(e, 0x48); /* not rax */
    em8(e, 0xf7);
    em8(e, 0xd0);
    em_rr(e, EM_W, 0x23, EM_RAX, S);
    em_ri(e, EM_W, OR, EM_RAX, VMC_FLAG_1);
    em_store_gs(e, EM_RAX, GS_CPU(rflags));
    em_rgs(e, 0, 0x8b, X, GS_CPU(msr.star) + 4);
    em_ri(e, 0, AND, X, 0xfffc);
    enter_level(e, 0, 8);
    em_load_gs(e, X, GS_CPU(msr.lstar));
    go(e, VMCI_TLB_SUP, bt->call_find);
    end(e, &s, bt->call_insn);
    return at;
}

/* X: the record of the instruction. */
static const uint8_t *make_sysret(struct emit *e, const struct vmci_bt *bt)
{
    static const uint8_t canonical[] = {
        0x48, 0x89, 0xc8,     /* mov rax, rcx */
        0x48, 0xc1, 0xe0, 16, /* shl rax, 16 */
        0x48, 0xc1, 0xf8, 16, /* sar rax, 16 */
        0x48, 0x39, 0xc8,     /* cmp rax, rcx */
    };
    const uint8_t *at = em_here(e);
    struct slow s = {.n = 0};

    begin(e, &s, VMCI_TLB_USER);
    em8(e, 0x66); /* cmp word, 0: does anything wait for IF? */
    em_rgs(e, 0, 0x83, 7, (uint32_t)offsetof(struct vmci_soft_cpu, want_window));
    em8(e, 0);
    slow_if(e, &s, CC_NE);
    for (unsigned k = 0; k < sizeof(canonical); k++)
        em8(e, canonical[k]);
    slow_if(e, &s, CC_NE);
    em_load_gs(e, EM_RAX, GS_GPR(VMC_R11));
    em8(e, 0xa9); /* test eax, imm32 */
    em32(e, (uint32_t)(VMC_FLAG_TF | VMC_FLAG_AC));
    slow_if(e, &s, CC_NE);
    em_ri(e, 0, AND, EM_RAX, SYSRET_FLAGS);
    em_ri(e, 0, OR, EM_RAX, VMC_FLAG_1);
    em_store_gs(e, EM_RAX, GS_CPU(rflags));
    em_rgs(e, 0, 0x8b, X, GS_CPU(msr.star) + 6); /* and two bytes more */
    em_ri(e, 0, AND, X, 0xfffc);
    em_lea(e, 0, X, X, EM_NONE, 0, 16 + 3);
    enter_level(e, 3, -8);
    em_mov(e, X, EM_RCX);
    go(e, VMCI_TLB_USER, bt->call_find);
    end(e, &s, bt->call_insn);
    return at;
}
_Static_assert(offsetof(struct vmci_soft_cpu, irq_wait) ==
                   offsetof(struct vmci_soft_cpu, want_window) + 1,
               "compared as one");

void bt_make_syscall(struct emit *e, struct vmci_bt *bt)
{
    bt->stub[BT_STUB_SYSCALL] = make_syscall(e, bt);
    bt->stub[BT_STUB_SYSRET] = make_sysret(e, bt);
}

bool bt_syscall(struct bt_work *w, const struct vmci_insn *in)
{
    bool user = w->t->mode == VMCI_TLB_USER;
    bool call = in->op == VMCI_OP_SYSCALL;

    if (w->word != 8 || (call ? !user : user || in->opsize != 8))
        return false;
    bt_count_end(w);
    struct bt_cold *c = bt_cold(w, BT_COLD_INSN, em_jump(&w->e, EM_JMP));
    if (c != NULL)
        c->stub = call ? BT_STUB_SYSCALL : BT_STUB_SYSRET;
    return true;
}
