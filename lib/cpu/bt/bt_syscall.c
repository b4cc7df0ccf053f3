/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SYSCALL, SYSRET and IRET of 64-bit code without a call for help: fixed code of the vCPU, made
 * with the glue, to which translations jump with the canonical scratch set. What is not the usual
 * case (SCE clear, AC or TF in the flags, RCX not canonical, an interrupt that waits for IF) is
 * left to the interpreter before anything has changed.
 *
 * IRET returns at CPL 0 or from there to CPL 3. For each of the two, what the last one that was
 * interpreted has loaded into CS and SS is kept with the descriptors that it came from: the same
 * selectors load the same as long as the descriptors in memory are the same.
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
    size_t site[32];
    unsigned n;
};

static void slow_if(struct emit *e, struct slow *s, unsigned cond)
{
    if (s->n < VMCI_ARRAY_SIZE(s->site))
        s->site[s->n++] = em_jump(e, cond);
    else
        e->full = true;
}

/* Slow if the table of jump targets is not one of 64-bit code. */
static void need_table(struct emit *e, struct slow *s, unsigned mode)
{
    em_rgs(e, 0, 0x80, 7, GS_BT(jump_bits) + mode); /* cmp byte, 64 */
    em8(e, 64);
    slow_if(e, s, CC_NE);
}

/* RAX and the flags go to memory; EFLAGS are free then, and AX is as bt.flags. */
static void begin(struct emit *e, struct slow *s, unsigned mode)
{
    em_store_gs(e, EM_RAX, GS_GPR(EM_RAX));
    bt_flags_save(e);
    em_rgs(e, 0, 0xf6, 0, GS_CPU(efer)); /* test byte, SCE */
    em8(e, VMC_EFER_SCE);
    slow_if(e, s, CC_E);
    need_table(e, s, mode);
}

/* Does anything wait for IF? */
static void need_no_wait(struct emit *e, struct slow *s)
{
    em8(e, 0x66); /* cmp word, 0 */
    em_rgs(e, 0, 0x83, 7, (uint32_t)offsetof(struct vmci_soft_cpu, want_window));
    em8(e, 0);
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

/* Everything that vmci_update_mode and soft_new_key make of 64-bit segments. */
static void enter_mode(struct emit *e, unsigned cpl)
{
    unsigned mode = cpl == 3 ? VMCI_TLB_USER : VMCI_TLB_SUP;

    store_long_imm(e, GS_CPU(cpl), cpl | 64u << 8 | 64u << 16 | mode << 24);
    for (unsigned half = 0; half < TLB_HALVES; half++)
        store_byte_imm(e, (uint32_t)(offsetof(struct vmci_soft_cpu, key) + 8 * half),
                       0x82u | half << 3 | (cpl == 3 ? 4u : 0u));
}

/* The selector of CS or SS from X. */
static void store_selector(struct emit *e, unsigned seg)
{
    store_word(e, X, seg_at(seg, offsetof(struct vmc_segment, selector)));
}

/* Flat 64-bit segments. */
static void enter_level(struct emit *e, unsigned cpl)
{
    static const uint8_t seg[2] = {VMC_CS, VMC_SS};

    for (unsigned k = 0; k < 2; k++) {
        em_store_gs_imm(e, seg_at(seg[k], offsetof(struct vmc_segment, base)), 0);
        store_long_imm(e, seg_at(seg[k], offsetof(struct vmc_segment, limit)), UINT32_MAX);
        store_long_imm(e, seg_at(seg[k], offsetof(struct vmc_segment, attr)),
                       (k == 0 ? SEG_CODE : SEG_STACK) | cpl << VMC_SEG_DPL_SHIFT);
    }
    enter_mode(e, cpl);
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

/* Go on at the address in X with the new RFLAGS, which are in RAX; they may have RF, of which the
   next instruction would be the end. */
static void go(struct emit *e, unsigned mode, bool rf, const uint8_t *call_find)
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
    if (rf) {
        em_rgs(e, 0, 0x81, 4, GS_CPU(rflags)); /* and */
        em32(e, (uint32_t)~VMC_FLAG_RF);
    }
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
    em_lea(e, 0, X, X, EM_NONE, 0, 8);
    store_selector(e, VMC_SS); /* which keeps the requested level */
    em_lea(e, 0, X, X, EM_NONE, 0, -8);
    em_ri(e, 0, AND, X, 0xfffc);
    store_selector(e, VMC_CS);
    enter_level(e, 0);
    em_load_gs(e, X, GS_CPU(msr.lstar));
    go(e, VMCI_TLB_SUP, false, bt->call_find);
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
    need_no_wait(e, &s);
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
    store_selector(e, VMC_CS);
    em_lea(e, 0, X, X, EM_NONE, 0, -8);
    store_selector(e, VMC_SS);
    enter_level(e, 3);
    em_mov(e, X, EM_RCX);
    go(e, VMCI_TLB_USER, false, bt->call_find);
    end(e, &s, bt->call_insn);
    return at;
}
_Static_assert(offsetof(struct vmci_soft_cpu, irq_wait) ==
                   offsetof(struct vmci_soft_cpu, want_window) + 1,
               "compared as one");

/* ---- IRET ------------------------------------------------------------------------------------ */

#define IRET_FLAGS                                                                                 \
    ((uint32_t)(VMC_FLAG_ARITH | VMC_FLAG_DF | VMC_FLAG_IF | VMC_FLAG_IOPL | VMC_FLAG_RF |         \
                VMC_FLAG_ID))
/* TF traps, NT stays for the next IRET, AC chooses another TLB, the others are of other modes. */
#define IRET_RARE                                                                                  \
    ((uint32_t)(VMC_FLAG_TF | VMC_FLAG_NT | VMC_FLAG_AC | VMC_FLAG_VM | VMC_FLAG_VIF |             \
                VMC_FLAG_VIP))
#define IRET_FRAME 40 /* RIP, CS, RFLAGS, RSP, SS */

/*
 * reg becomes the addend for so many bytes at the linear address in base, which a page of the TLB
 * of supervisors must hold; scratch is lost.
 */
static void need_page(struct emit *e, struct slow *s, unsigned reg, unsigned base, unsigned scratch,
                      int32_t bytes)
{
    uint32_t table = GS_CPU(tlb) + (uint32_t)(VMCI_TLB_SUP * sizeof(struct vmci_tlb));

    em_pext_gs(e, reg, base, GS_BT(tlb_mask));
    em_load_gs_x8(e, scratch, reg, table + (uint32_t)offsetof(struct vmci_tlb, rd));
    if (base == EM_RSP)
        em_lea(e, EM_W, scratch, base, scratch, 0, bytes - 1);
    else
        em_lea(e, EM_W, scratch, scratch, base, 0, bytes - 1);
    em_test_imm(e, scratch, (uint32_t)PAGE_MASK);
    slow_if(e, s, CC_NE);
    em_load_gs_x8(e, reg, reg, table + (uint32_t)offsetof(struct vmci_tlb, addend));
}

static void load_frame(struct emit *e, unsigned w, unsigned op, unsigned reg, int32_t at)
{
    struct em_addr a = {S, EM_NONE, 0, at};
    em_rm(e, w, op, reg, &a);
}

/* The frame is read, changes the usual flags and has a canonical RIP; its host address goes to S.
 */
static void need_frame(struct emit *e, struct slow *s)
{
    static const uint8_t canonical[] = {
        0x49, 0x89, 0xc3,     /* mov r11, rax */
        0x49, 0xc1, 0xe3, 16, /* shl r11, 16 */
        0x49, 0xc1, 0xfb, 16, /* sar r11, 16 */
        0x49, 0x39, 0xc3,     /* cmp r11, rax */
    };
    need_page(e, s, S, EM_RSP, EM_RAX, IRET_FRAME);
    em_lea(e, EM_W, S, EM_RSP, S, 0, 0);
    load_frame(e, 0, 0xf7, 0, 16); /* test dword [s + 16] */
    em32(e, IRET_RARE);
    slow_if(e, s, CC_NE);
    load_frame(e, EM_W, 0x8b, EM_RAX, 0);
    for (unsigned k = 0; k < sizeof(canonical); k++)
        em8(e, canonical[k]);
    slow_if(e, s, CC_NE);
}

static uint32_t kept_at(unsigned level, size_t field)
{
    return GS_BT(iret) + (uint32_t)(level * sizeof(struct bt_iret) + field);
}

/* The descriptors of CS and SS are as they were. */
static void need_descriptors(struct emit *e, struct slow *s, unsigned level)
{
    struct em_addr at = {EM_RAX, EM_RCX, 0, 0};

    for (unsigned k = 0; k < 2; k++) {
        em_load_gs(e, EM_RAX, kept_at(level, offsetof(struct bt_iret, la) + 8 * k));
        need_page(e, s, EM_RCX, EM_RAX, X, 8);
        em_rm(e, EM_W, 0x8b, EM_RAX, &at);
        em_rgs(e, EM_W, 0x3b, EM_RAX, kept_at(level, offsetof(struct bt_iret, raw) + 8 * k));
        slow_if(e, s, CC_NE);
    }
}

/* No data segment register would be cleared on the way to CPL 3, nor a null selector's RPL. */
static void need_data(struct emit *e, struct slow *s)
{
    static const uint8_t data[] = {VMC_ES, VMC_DS, VMC_FS, VMC_GS};

    for (unsigned k = 0; k < sizeof(data); k++) {
        em_rgs(e, 0, 0x8b, EM_RAX, seg_at(data[k], offsetof(struct vmc_segment, attr)));
        em_test_imm(e, EM_RAX, VMC_SEG_UNUSABLE);
        size_t usable = em_jump(e, CC_E);
        em8(e, 0x66); /* cmp word, 0 */
        em_rgs(e, 0, 0x83, 7, seg_at(data[k], offsetof(struct vmc_segment, selector)));
        em8(e, 0);
        slow_if(e, s, CC_NE);
        size_t done = em_jump(e, EM_JMP);
        em_patch_here(e, usable);
        em_not(e, EM_RAX);
        em_test_imm(e, EM_RAX, 3u << VMC_SEG_DPL_SHIFT);
        slow_if(e, s, CC_NE);
        em_patch_here(e, done);
    }
}

/* Nothing can fail any more. */
static void return_to(struct emit *e, unsigned level, const struct vmci_bt *bt)
{
    static const uint8_t seg[2] = {VMC_CS, VMC_SS};
    unsigned mode = level != 0 ? VMCI_TLB_USER : VMCI_TLB_SUP;

    for (unsigned k = 0; k < 2; k++)
        for (unsigned at = 0; at < sizeof(struct vmc_segment); at += 8) {
            em_load_gs(e, EM_RAX,
                       kept_at(level, offsetof(struct bt_iret, seg) +
                                          k * sizeof(struct vmc_segment) + at));
            em_store_gs(e, EM_RAX, seg_at(seg[k], at));
        }
    enter_mode(e, level != 0 ? 3 : 0);
    load_frame(e, 0, 0x8b, EM_RAX, 16);
    em_ri(e, 0, AND, EM_RAX, IRET_FLAGS);
    em_ri(e, 0, OR, EM_RAX, VMC_FLAG_1);
    em_store_gs(e, EM_RAX, GS_CPU(rflags));
    em_load_gs(e, EM_RCX, GS_GPR(EM_RCX));
    load_frame(e, EM_W, 0x8b, EM_RSP, 24);
    load_frame(e, EM_W, 0x8b, X, 0);
    go(e, mode, true, bt->call_find);
}
_Static_assert(sizeof(struct vmc_segment) % 8 == 0, "copied by eights");

/* X: the record of the instruction. */
static const uint8_t *make_iret(struct emit *e, const struct vmci_bt *bt)
{
    const uint8_t *at = em_here(e);
    struct slow s = {.n = 0};

    em_store_gs(e, EM_RAX, GS_GPR(EM_RAX));
    em_store_gs(e, EM_RCX, GS_GPR(EM_RCX));
    em_store_gs(e, X, GS_SPILL(0));
    bt_flags_save(e);
    em_rgs(e, 0, 0xf7, 0, GS_CPU(rflags)); /* test */
    em32(e, (uint32_t)VMC_FLAG_NT);
    slow_if(e, &s, CC_NE);
    em_rgs(e, 0, 0x80, 7, GS_CPU(nmi_blocked)); /* cmp byte, 0 */
    em8(e, 0);
    slow_if(e, &s, CC_NE);
    need_no_wait(e, &s);
    need_frame(e, &s);
    load_frame(e, 0, 0x8b, EM_RCX, 32);
    em_ri(e, 0, AND, EM_RCX, 0xffff);
    em_rorx(e, EM_RCX, EM_RCX, 48); /* to the left by 16 */
    load_frame(e, 0, 0x8b, EM_RAX, 8);
    em_ri(e, 0, AND, EM_RAX, 0xffff);
    em_rr(e, EM_W, 0x0b, EM_RAX, EM_RCX);
    em_rgs(e, EM_W, 0x3b, EM_RAX, kept_at(0, offsetof(struct bt_iret, selectors)));
    size_t same = em_jump(e, CC_E);
    em_rgs(e, EM_W, 0x3b, EM_RAX, kept_at(1, offsetof(struct bt_iret, selectors)));
    slow_if(e, &s, CC_NE);
    need_table(e, &s, VMCI_TLB_USER);
    need_data(e, &s);
    need_descriptors(e, &s, 1);
    return_to(e, 1, bt);
    em_patch_here(e, same);
    need_table(e, &s, VMCI_TLB_SUP);
    need_descriptors(e, &s, 0);
    return_to(e, 0, bt);
    for (unsigned k = 0; k < s.n; k++)
        em_patch_here(e, s.site[k]);
    s.n = 0;
    em_load_gs(e, EM_RCX, GS_GPR(EM_RCX));
    em_load_gs(e, X, GS_SPILL(0));
    end(e, &s, bt->call_insn);
    return at;
}

void bt_iret_forget(struct vmci_bt *bt)
{
    for (unsigned k = 0; k < VMCI_ARRAY_SIZE(bt->iret); k++)
        bt->iret[k].selectors = UINT64_MAX; /* of which there are none */
}

/* What the descriptor that a selector of the GDT names is now, if the TLB of supervisors has it. */
static bool see_descriptor(const struct vmci_cpu *cpu, uint16_t sel, uint64_t *la, uint64_t *raw)
{
    const struct vmci_tlb *t = &cpu->tlb[VMCI_TLB_SUP];

    *la = cpu->gdtr.base + (sel & ~7u);
    unsigned i = vmci_tlb_index(*la);
    if ((sel & 4) != 0 || !vmci_tlb_hit(t->rd[i], *la, 8))
        return false;
    memcpy(raw, (const void *)(t->addend[i] + (uintptr_t)*la), sizeof(*raw));
    return true;
}

void bt_iret_done(struct vmci_soft_cpu *sc)
{
    const struct vmci_cpu *cpu = &sc->cpu;
    uint16_t cs = cpu->seg[VMC_CS].selector;
    uint16_t ss = cpu->seg[VMC_SS].selector;
    struct bt_iret now = {.selectors = cs | (uint64_t)ss << 16,
                          .seg = {cpu->seg[VMC_CS], cpu->seg[VMC_SS]}};

    if (cpu->code_bits != 64 || (cpu->cpl != 0 && cpu->cpl != 3))
        return;
    /* A null selector has no descriptor: that of CS stands for it. */
    if (see_descriptor(cpu, cs, &now.la[0], &now.raw[0]) &&
        see_descriptor(cpu, (ss & ~3u) != 0 ? ss : cs, &now.la[1], &now.raw[1]))
        sc->bt.iret[cpu->cpl != 0] = now;
}

/* ---- all of them ----------------------------------------------------------------------------- */

void bt_make_syscall(struct emit *e, struct vmci_bt *bt)
{
    bt->stub[BT_STUB_SYSCALL] = make_syscall(e, bt);
    bt->stub[BT_STUB_SYSRET] = make_sysret(e, bt);
    bt->stub[BT_STUB_IRET] = make_iret(e, bt);
}

bool bt_syscall(struct bt_work *w, const struct vmci_insn *in)
{
    bool user = w->t->mode == VMCI_TLB_USER;
    bool call = in->op == VMCI_OP_SYSCALL;
    bool iret = in->op == VMCI_OP_IRET;

    if (w->word != 8 || (call ? !user : user || in->opsize != 8) ||
        (iret && w->t->mode != VMCI_TLB_SUP))
        return false;
    bt_count_end(w);
    struct bt_cold *c = bt_cold(w, BT_COLD_INSN, em_jump(&w->e, EM_JMP));
    if (c != NULL)
        c->stub = call ? BT_STUB_SYSCALL : iret ? BT_STUB_IRET : BT_STUB_SYSRET;
    return true;
}
