/* SPDX-License-Identifier: BSD-2-Clause */
/* Segment loads and far transfers: checks, error codes, frames. */
#include "sys_rig.h"

#define NEXT (RIG_CODE + 7)
#define AT   0x12340u

/* ---- loads of segment registers --------------------------------------------------------------- */

struct load_case {
    const char *what;
    unsigned cpl, seg;
    uint16_t sel;
    uint64_t desc; /* put at the selector's place; 0: leave */
    int vector;    /* -1: loads */
    unsigned code;
};

static void segment_loads(void **state)
{
    (void)state;
#define DESC(access) mk_desc(0x1000, 0xfff, access, F_D)
    static const struct load_case t[] = {
        {"null ds", 0, VMC_DS, 0, 0, -1, 0},
        {"null with rpl", 3, VMC_ES, 3, 0, -1, 0},
        {"null ss", 0, VMC_SS, 0, 0, VMC_VEC_GP, 0},
        {"beyond gdt", 0, VMC_DS, 0x800, 0, VMC_VEC_GP, 0x800},
        {"beyond ldt", 0, VMC_FS, 0x1004, 0, VMC_VEC_GP, 0x1004},
        {"data", 0, VMC_DS, 0x80, 1, -1, 0},
        {"system", 0, VMC_DS, S_TSS2, 0, VMC_VEC_GP, S_TSS2},
        {"dpl 0 from 3", 3, VMC_DS, S_DATA0 | 3, 0, VMC_VEC_GP, S_DATA0},
        {"rpl 3 of dpl 0", 0, VMC_DS, S_DATA0 | 3, 0, VMC_VEC_GP, S_DATA0},
        {"conforming code from 3", 3, VMC_GS, S_CONF | 3, 0, -1, 0},
        {"readable code", 0, VMC_GS, S_CODE0, 0, -1, 0},
        {"ss with code", 0, VMC_SS, S_CODE0, 0, VMC_VEC_GP, S_CODE0},
        {"ss rpl", 0, VMC_SS, S_DATA0 | 1, 0, VMC_VEC_GP, S_DATA0},
        {"ss dpl", 0, VMC_SS, S_DATA3 & ~3, 0, VMC_VEC_GP, S_DATA3 & ~3},
        {"ss", 3, VMC_SS, S_DATA3, 0, -1, 0},
    };
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(t); i++) {
        rig_prot(t[i].cpl);
        gdt(0x80, DESC(D_P | D_DATA));
        int r = vmci_load_sreg(rig.cpu, t[i].seg, t[i].sel);
        if (t[i].vector < 0) {
            if (r != 0)
                fail_msg("%s: raised %u", t[i].what, rig.cpu->exc.vector);
            assert_int_equal(rig.cpu->seg[t[i].seg].selector, t[i].sel);
        } else {
            if (r == 0)
                fail_msg("%s: loaded", t[i].what);
            assert_int_equal(rig.cpu->exc.vector, t[i].vector);
            assert_int_equal(rig.cpu->exc.code, t[i].code);
        }
    }
    /* Kinds of descriptors, one after the other at the same place. */
    static const struct load_case k[] = {
        {"not present data", 0, VMC_DS, 0x80, DESC(D_DATA), VMC_VEC_NP, 0x80},
        {"not present stack", 0, VMC_SS, 0x80, DESC(D_DATA), VMC_VEC_SS, 0x80},
        {"read-only stack", 0, VMC_SS, 0x80, DESC(D_P | D_RO), VMC_VEC_GP, 0x80},
        {"execute-only", 0, VMC_DS, 0x80, DESC(D_P | D_XCODE), VMC_VEC_GP, 0x80},
        {"expand-down stack", 0, VMC_SS, 0x80, DESC(D_P | D_EXPDN), -1, 0},
        {"dpl before present", 3, VMC_DS, 0x83, DESC(D_DATA), VMC_VEC_GP, 0x80},
    };
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(k); i++) {
        rig_prot(k[i].cpl);
        gdt(0x80, k[i].desc);
        int r = vmci_load_sreg(rig.cpu, k[i].seg, k[i].sel);
        if ((r == 0) != (k[i].vector < 0))
            fail_msg("%s: %d", k[i].what, r);
        if (r != 0) {
            assert_int_equal(rig.cpu->exc.vector, k[i].vector);
            assert_int_equal(rig.cpu->exc.code, k[i].code);
        }
    }
}

static void accessed_bit_and_cache(void **state)
{
    (void)state;
    rig_prot(0);
    gdt(0x80, mk_desc(0x12345678, 0x56789, D_P | D_DATA, F_G));
    assert_int_equal(vmci_load_sreg(rig.cpu, VMC_FS, 0x80), 0);
    assert_int_equal(rig.mem[RIG_GDT + 0x85], D_P | D_DATA | 1);
    assert_int_equal(rig.cpu->seg[VMC_FS].base, 0x12345678);
    assert_int_equal(rig.cpu->seg[VMC_FS].limit, 0x56789fff);
    assert_int_equal(rig.cpu->seg[VMC_FS].attr, VMC_SEG_G | D_P | D_DATA | 1);
    /* SS with a 16-bit descriptor changes the width of the stack. */
    gdt(0x88, mk_desc(0, 0xffff, D_P | D_DATA, 0));
    assert_int_equal(vmci_load_sreg(rig.cpu, VMC_SS, 0x88), 0);
    assert_int_equal(rig.cpu->stack_bits, 16);
}

static void real_mode_keeps_limits(void **state)
{
    (void)state;
    rig_new();
    rig.cpu->seg[VMC_DS].limit = 0xffffffff;
    assert_int_equal(vmci_load_sreg(rig.cpu, VMC_DS, 0x1234), 0);
    assert_int_equal(rig.cpu->seg[VMC_DS].base, 0x12340);
    assert_int_equal(rig.cpu->seg[VMC_DS].limit, 0xffffffff);
}

static void null_ss_in_long_mode(void **state)
{
    (void)state;
    rig_long(0);
    assert_int_equal(vmci_load_sreg(rig.cpu, VMC_SS, 0), 0);
    assert_int_equal(rig.cpu->cpl, 0);
    assert_fault(vmci_load_sreg(rig.cpu, VMC_SS, 1), VMC_VEC_GP, 0);
    rig_long(3);
    assert_fault(vmci_load_sreg(rig.cpu, VMC_SS, 3), VMC_VEC_GP, 0);
}

static void lldt_and_ltr(void **state)
{
    (void)state;
    rig_prot(0);
    assert_int_equal(vmci_lldt(rig.cpu, S_LDT), 0);
    assert_int_equal(rig.cpu->seg[VMC_LDTR].base, RIG_LDT);
    assert_int_equal(vmci_lldt(rig.cpu, 0), 0);
    assert_true((rig.cpu->seg[VMC_LDTR].attr & VMC_SEG_UNUSABLE) != 0);
    assert_fault(vmci_load_sreg(rig.cpu, VMC_DS, 0x0c), VMC_VEC_GP, 0x0c);
    assert_fault(vmci_lldt(rig.cpu, S_LDT | 4), VMC_VEC_GP, S_LDT | 4);
    assert_fault(vmci_lldt(rig.cpu, S_TSS2), VMC_VEC_GP, S_TSS2);
    gdt(0x80, mk_desc(0, 0xff, 2, 0));
    assert_fault(vmci_lldt(rig.cpu, 0x80), VMC_VEC_NP, 0x80);

    assert_fault(vmci_ltr(rig.cpu, 0), VMC_VEC_GP, 0);
    assert_fault(vmci_ltr(rig.cpu, S_TSS), VMC_VEC_GP, S_TSS); /* busy */
    assert_int_equal(vmci_ltr(rig.cpu, S_TSS2), 0);
    assert_int_equal(rig.mem[RIG_GDT + S_TSS2 + 5], D_P | 0xb);
    assert_int_equal(rig.cpu->seg[VMC_TR].attr & VMC_SEG_TYPE, 0xb);
    gdt(0x80, mk_desc(0, 0x67, 9, 0));
    assert_fault(vmci_ltr(rig.cpu, 0x80), VMC_VEC_NP, 0x80);
    rig_prot(3);
    assert_fault(vmci_ltr(rig.cpu, S_TSS2), VMC_VEC_GP, 0);
    /* Long mode: 16 bytes, upper type 0, no 16-bit TSS. */
    rig_long(0);
    gdt(0x80, mk_desc(RIG_TSS2, 0x67, D_P | 9, 0));
    put64(RIG_GDT + 0x88, 0xffff8000u);
    assert_int_equal(vmci_ltr(rig.cpu, 0x80), 0);
    assert_int_equal(rig.cpu->seg[VMC_TR].base, 0xffff800000005000ull);
    gdt(0x80, mk_desc(RIG_TSS2, 0x67, D_P | 9, 0));
    put64(RIG_GDT + 0x88, 1ull << 40);
    assert_fault(vmci_ltr(rig.cpu, 0x80), VMC_VEC_GP, 0x80);
    put64(RIG_GDT + 0x88, 0x8000u);
    assert_fault(vmci_ltr(rig.cpu, 0x80), VMC_VEC_GP, 0x80);
    gdt(0x80, mk_desc(RIG_TSS2, 0x67, D_P | 1, 0));
    assert_fault(vmci_ltr(rig.cpu, 0x80), VMC_VEC_GP, 0x80);
}

static void lar_lsl_verr_verw(void **state)
{
    (void)state;
    static const struct {
        unsigned cpl;
        uint16_t sel;
        bool lar, lsl, verr, verw;
    } t[] = {
        {0, S_CODE0, true, true, true, false},     {0, S_DATA0, true, true, true, true},
        {0, S_TSS, true, true, false, false},      {0, S_LDT, true, true, false, false},
        {3, S_DATA0, false, false, false, false},  {3, S_DATA3, true, true, true, true},
        {3, S_CONF, true, true, true, false},      {0, 0, false, false, false, false},
        {0, 0x80, true, false, false, false},      {0, 0x88, false, false, false, false},
        {0, 0x90, true, true, false, false},       {0, 0x4444, false, false, false, false},
        {0, S_DATA0 | 3, false, false, false, false},
    };
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(t); i++) {
        uint32_t v = 0;
        bool zf;
        rig_prot(t[i].cpl);
        gdt(0x80, mk_gate(S_CODE0, 0, D_P | 0xc, 0));
        gdt(0x88, mk_gate(S_CODE0, 0, D_P | 0xe, 0));
        gdt(0x90, mk_desc(0, 0xfff, D_P | D_XCODE, 0));
        assert_int_equal(vmci_lar(rig.cpu, t[i].sel, &v, &zf), 0);
        assert_int_equal(zf, t[i].lar);
        assert_int_equal(vmci_lsl(rig.cpu, t[i].sel, &v, &zf), 0);
        assert_int_equal(zf, t[i].lsl);
        assert_int_equal(vmci_verrw(rig.cpu, t[i].sel, false, &zf), 0);
        assert_int_equal(zf, t[i].verr);
        assert_int_equal(vmci_verrw(rig.cpu, t[i].sel, true, &zf), 0);
        assert_int_equal(zf, t[i].verw);
    }
    uint32_t v;
    bool zf;
    rig_prot(0);
    assert_int_equal(vmci_lar(rig.cpu, S_CODE3, &v, &zf), 0);
    assert_int_equal(v, 0x00cffb00);
    assert_int_equal(vmci_lsl(rig.cpu, S_CODE3, &v, &zf), 0);
    assert_int_equal(v, 0xffffffff);
    rig_new();
    assert_fault(vmci_lar(rig.cpu, 8, &v, &zf), VMC_VEC_UD, 0);
}

/* ---- JMP and CALL ----------------------------------------------------------------------------- */

struct far_case {
    const char *what;
    unsigned cpl;
    uint16_t sel;
    uint64_t desc; /* at 0x80 */
    int vector;
    unsigned code;
    uint16_t cs; /* after success */
};

#define CODE_DESC(access) mk_desc(0, 0xfffff, access, F_G | F_D)

static const struct far_case direct[] = {
    {"null", 0, 0, 0, VMC_VEC_GP, 0, 0},
    {"null with rpl", 0, 3, 0, VMC_VEC_GP, 0, 0},
    {"beyond", 0, 0x1000, 0, VMC_VEC_GP, 0x1000, 0},
    {"same level", 0, S_CODE0, 0, -1, 0, S_CODE0},
    {"rpl above cpl", 0, S_CODE0 | 1, 0, VMC_VEC_GP, S_CODE0, 0},
    {"rpl below cpl", 3, S_CODE3 & ~3, 0, -1, 0, S_CODE3},
    {"inner", 3, S_CODE0, 0, VMC_VEC_GP, S_CODE0, 0},
    {"outer", 0, S_CODE3 & ~3, 0, VMC_VEC_GP, S_CODE3 & ~3, 0},
    {"conforming", 3, S_CONF, 0, -1, 0, S_CONF | 3},
    {"conforming outer", 0, 0x80, CODE_DESC(D_P | D_DPL(3) | D_CONF), VMC_VEC_GP, 0x80, 0},
    {"data", 0, S_DATA0, 0, VMC_VEC_GP, S_DATA0, 0},
    {"not present", 0, 0x80, CODE_DESC(D_CODE), VMC_VEC_NP, 0x80, 0},
    {"beyond limit", 0, 0x80, mk_desc(0, 0xfff, D_P | D_CODE, F_D), VMC_VEC_GP, 0, 0},
    {"ldt descriptor", 0, S_LDT, 0, VMC_VEC_GP, S_LDT, 0},
    {"busy tss", 0, S_TSS, 0, VMC_VEC_GP, S_TSS, 0},
    {"interrupt gate", 0, 0x80, mk_gate(S_CODE0, AT, D_P | 0xe, 0), VMC_VEC_GP, 0x80, 0},
    {"gate not present", 0, 0x80, mk_gate(S_CODE0, AT, 0xc, 0), VMC_VEC_NP, 0x80, 0},
    {"gate dpl", 3, 0x80, mk_gate(S_CODE0, AT, D_P | 0xc, 0), VMC_VEC_GP, 0x80, 0},
    {"gate rpl", 0, 0x83, mk_gate(S_CODE0, AT, D_P | 0xc, 0), VMC_VEC_GP, 0x80, 0},
    {"gate to null", 0, 0x80, mk_gate(0, AT, D_P | 0xc, 0), VMC_VEC_GP, 0, 0},
    {"gate to data", 0, 0x80, mk_gate(S_DATA0, AT, D_P | 0xc, 0), VMC_VEC_GP, S_DATA0, 0},
    {"gate to outer", 0, 0x80, mk_gate(S_CODE3, AT, D_P | 0xc, 0), VMC_VEC_GP, S_CODE3 & ~3, 0},
    {"gate, same level", 0, 0x80, mk_gate(S_CODE0 | 3, AT, D_P | 0xc, 0), -1, 0, S_CODE0},
    {"gate to conforming", 3, 0x83, mk_gate(S_CONF, AT, D_P | D_DPL(3) | 0xc, 0), -1, 0,
     S_CONF | 3},
    {"task gate dpl", 3, 0x83, mk_gate(S_TSS2, 0, D_P | 5, 0), VMC_VEC_GP, 0x80, 0},
    {"task gate not present", 0, 0x80, mk_gate(S_TSS2, 0, 5, 0), VMC_VEC_NP, 0x80, 0},
    {"task gate to ldt", 0, 0x80, mk_gate(0x0c, 0, D_P | 5, 0), VMC_VEC_GP, 0x0c, 0},
    {"task gate to busy", 0, 0x80, mk_gate(S_TSS, 0, D_P | 5, 0), VMC_VEC_GP, S_TSS, 0},
};

static void jumps_and_calls(void **state)
{
    (void)state;
    for (unsigned call = 0; call < 2; call++) {
        for (unsigned i = 0; i < VMCI_ARRAY_SIZE(direct); i++) {
            const struct far_case *c = &direct[i];
            struct vmc_segment cs;
            rig_prot(c->cpl);
            gdt(0x80, c->desc);
            cs = rig.cpu->seg[VMC_CS];
            uint64_t sp = rig.cpu->gpr[VMC_RSP];
            int r = call ? vmci_far_call(rig.cpu, c->sel, AT, 4, NEXT)
                         : vmci_far_jmp(rig.cpu, c->sel, AT, 4, NEXT);
            if ((r == 0) != (c->vector < 0))
                fail_msg("%s %s: %d", call ? "call" : "jmp", c->what, r);
            if (r != 0) {
                if (rig.cpu->exc.vector != c->vector || rig.cpu->exc.code != c->code)
                    fail_msg("%s %s: #%u(%x)", call ? "call" : "jmp", c->what,
                             rig.cpu->exc.vector, rig.cpu->exc.code);
                assert_memory_equal(&cs, &rig.cpu->seg[VMC_CS], sizeof(cs));
                assert_int_equal(rig.cpu->gpr[VMC_RSP], sp);
                assert_int_equal(rig.cpu->rip, RIG_CODE);
                continue;
            }
            assert_int_equal(rig.cpu->rip, AT);
            assert_int_equal(rig.cpu->seg[VMC_CS].selector, c->cs);
            assert_int_equal(rig.cpu->cpl, c->cpl);
            assert_int_equal(sp - rig.cpu->gpr[VMC_RSP], call ? 8 : 0);
            if (call) {
                assert_int_equal(get(sp - 4, 4), cs.selector);
                assert_int_equal(get(sp - 8, 4), NEXT);
            }
        }
    }
}

static void jmp_never_changes_level(void **state)
{
    (void)state;
    rig_prot(3);
    gdt(0x80, mk_gate(S_CODE0, AT, D_P | D_DPL(3) | 0xc, 0));
    assert_fault(vmci_far_jmp(rig.cpu, 0x83, 0, 4, NEXT), VMC_VEC_GP, S_CODE0);
}

static void call_gate_to_inner_level(void **state)
{
    (void)state;
    for (unsigned wide = 0; wide < 2; wide++) {
        unsigned b = wide ? 4 : 2;
        rig_prot(3);
        gdt(0x80, mk_gate(S_CODE0, AT, D_P | D_DPL(3) | (wide ? 0xc : 4), 2));
        uint64_t sp3 = rig.cpu->gpr[VMC_RSP] -= 2 * b;
        put32(sp3, wide ? 0x11111111 : 0x22221111);
        put32(sp3 + 4, 0x33333333);
        assert_int_equal(vmci_far_call(rig.cpu, 0x83, 0x999, 4, NEXT), 0);
        assert_int_equal(rig.cpu->cpl, 0);
        assert_int_equal(rig.cpu->seg[VMC_CS].selector, S_CODE0);
        assert_int_equal(rig.cpu->seg[VMC_SS].selector, S_DATA0);
        assert_int_equal(rig.cpu->rip, wide ? AT : AT & 0xffff);
        uint64_t sp = rig.cpu->gpr[VMC_RSP];
        assert_int_equal(sp, RIG_STK0 - 6 * b);
        assert_int_equal(get(sp, b), wide ? NEXT : NEXT & 0xffff);
        assert_int_equal(get(sp + b, b), S_CODE3);
        assert_int_equal(get(sp + 2 * b, b), wide ? 0x11111111 : 0x1111);
        assert_int_equal(get(sp + 3 * b, b), wide ? 0x33333333 : 0x2222);
        assert_int_equal(get(sp + 4 * b, b), sp3 & (wide ? 0xffffffff : 0xffff));
        assert_int_equal(get(sp + 5 * b, b), S_DATA3);
        /* And back, releasing the parameters on both stacks. */
        rig.cpu->rip = 0;
        if (!wide)
            put16(sp, 0x7777);
        assert_int_equal(vmci_far_ret(rig.cpu, b, (uint16_t)(2 * b)), 0);
        assert_int_equal(rig.cpu->cpl, 3);
        assert_int_equal(rig.cpu->rip, wide ? NEXT : 0x7777);
        assert_int_equal(rig.cpu->gpr[VMC_RSP] & 0xffff, (sp3 + 2 * b) & 0xffff);
        assert_int_equal(rig.cpu->seg[VMC_SS].selector, S_DATA3);
    }
}

struct stack_case {
    const char *what;
    uint16_t ss;
    uint32_t sp;
    uint64_t desc; /* at 0x90 */
    uint16_t tss_limit;
    unsigned vector, code;
};

static void call_gate_checks_the_new_stack(void **state)
{
    (void)state;
    static const struct stack_case t[] = {
        {"null", 0, RIG_STK0, 0, 0x67, VMC_VEC_TS, 0},
        {"beyond gdt", 0x900, RIG_STK0, 0, 0x67, VMC_VEC_TS, 0x900},
        {"rpl", S_DATA0 | 3, RIG_STK0, 0, 0x67, VMC_VEC_TS, S_DATA0},
        {"dpl", S_DATA3 & ~3, RIG_STK0, 0, 0x67, VMC_VEC_TS, S_DATA3 & ~3},
        {"code", S_CODE0, RIG_STK0, 0, 0x67, VMC_VEC_TS, S_CODE0},
        {"read-only", 0x90, RIG_STK0, mk_desc(0, 0xfffff, D_P | D_RO, F_G | F_D), 0x67, VMC_VEC_TS,
         0x90},
        {"not present", 0x90, RIG_STK0, mk_desc(0, 0xfffff, D_DATA, F_G | F_D), 0x67, VMC_VEC_SS,
         0x90},
        {"no room", 0x90, 0x9000, mk_desc(0, 0x8fff, D_P | D_EXPDN, F_D), 0x67, VMC_VEC_SS, 0x90},
        {"short tss", S_DATA0, RIG_STK0, 0, 8, VMC_VEC_TS, S_TSS},
    };
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(t); i++) {
        rig_prot(3);
        gdt(0x80, mk_gate(S_CODE0, AT, D_P | D_DPL(3) | 0xc, 0));
        gdt(0x90, t[i].desc);
        put32(RIG_TSS + 4, t[i].sp);
        put16(RIG_TSS + 8, t[i].ss);
        rig.cpu->seg[VMC_TR].limit = t[i].tss_limit;
        int r = vmci_far_call(rig.cpu, 0x83, 0, 4, NEXT);
        if (r != VMCI_FAULT || rig.cpu->exc.vector != t[i].vector ||
            rig.cpu->exc.code != t[i].code)
            fail_msg("%s: %d #%u(%x)", t[i].what, r, rig.cpu->exc.vector, rig.cpu->exc.code);
        assert_int_equal(rig.cpu->cpl, 3);
        assert_int_equal(rig.cpu->gpr[VMC_RSP], RIG_STK3);
    }
}

static void call_page_fault_changes_nothing(void **state)
{
    (void)state;
    rig_prot(3);
    gdt(0x80, mk_gate(S_CODE0, AT, D_P | D_DPL(3) | 0xc, 0));
    rig.fault_page = RIG_STK0 - 0x1000;
    assert_fault(vmci_far_call(rig.cpu, 0x83, 0, 4, NEXT), VMC_VEC_PF, VMC_PF_WRITE);
    assert_int_equal(rig.cpu->exc.payload, RIG_STK0 - 4);
    assert_int_equal(rig.cpu->cpl, 3);
    assert_int_equal(rig.cpu->seg[VMC_SS].selector, S_DATA3);
    assert_int_equal(rig.cpu->rip, RIG_CODE);
}

static void real_mode_transfers(void **state)
{
    (void)state;
    rig_new();
    rig.cpu->gpr[VMC_RSP] = 0x12340100;
    rig.cpu->seg[VMC_CS].base = 0x10000;
    rig.cpu->seg[VMC_CS].selector = 0x1000;
    assert_int_equal(vmci_far_call(rig.cpu, 0x2000, 0x345, 2, 0x1005), 0);
    assert_int_equal(rig.cpu->seg[VMC_CS].base, 0x20000);
    assert_int_equal(rig.cpu->rip, 0x345);
    assert_int_equal(rig.cpu->gpr[VMC_RSP], 0x123400fc);
    assert_int_equal(get(0xfc, 4), 0x10001005);
    assert_int_equal(vmci_far_ret(rig.cpu, 2, 6), 0);
    assert_int_equal(rig.cpu->rip, 0x1005);
    assert_int_equal(rig.cpu->gpr[VMC_RSP], 0x12340106);
    assert_fault(vmci_far_jmp(rig.cpu, 0x2000, 0x10000, 4, 0), VMC_VEC_GP, 0);
    rig.cpu->gpr[VMC_RSP] = 1; /* a word at ffff */
    assert_fault(vmci_far_call(rig.cpu, 0x2000, 0, 2, 0), VMC_VEC_SS, 0);
}

static void long_mode_transfers(void **state)
{
    (void)state;
    rig_long(0);
    /* L and D together. */
    gdt(0x80, mk_desc(0, 0xfffff, D_P | D_CODE, F_G | F_L | F_D));
    assert_fault(vmci_far_jmp(rig.cpu, 0x80, AT, 8, NEXT), VMC_VEC_GP, 0x80);
    /* To compatibility mode and back. */
    assert_int_equal(vmci_far_jmp(rig.cpu, S_CODE0, AT, 4, NEXT), 0);
    assert_int_equal(rig.cpu->code_bits, 32);
    assert_int_equal(vmci_far_jmp(rig.cpu, S_CODE64, AT, 4, NEXT), 0);
    assert_int_equal(rig.cpu->code_bits, 64);
    assert_fault(vmci_far_jmp(rig.cpu, S_CODE64, 1ull << 47, 8, NEXT), VMC_VEC_GP, 0);
    /* Gates: 16 bytes, to 64-bit code only. */
    gdt(0x80, mk_gate(S_CODE64, 0x12345678, D_P | 0xc, 0));
    put64(RIG_GDT + 0x88, 0xffff8000u);
    uint64_t sp = rig.cpu->gpr[VMC_RSP];
    assert_int_equal(vmci_far_call(rig.cpu, 0x80, 0, 4, NEXT), 0);
    assert_int_equal(rig.cpu->rip, 0xffff800012345678ull);
    assert_int_equal(sp - rig.cpu->gpr[VMC_RSP], 16);
    gdt(0x80, mk_gate(S_CODE0, AT, D_P | 0xc, 0));
    put64(RIG_GDT + 0x88, 0);
    assert_fault(vmci_far_call(rig.cpu, 0x80, 0, 4, NEXT), VMC_VEC_GP, S_CODE0);
    assert_fault(vmci_far_call(rig.cpu, S_TSS2, 0, 4, NEXT), VMC_VEC_GP, S_TSS2);
    /* Inner level: NULL SS, RSP from the TSS. */
    rig_long(3);
    gdt(0x80, mk_gate(S_CODE64, AT, D_P | D_DPL(3) | 0xc, 0));
    put64(RIG_GDT + 0x88, 0);
    assert_int_equal(vmci_far_call(rig.cpu, 0x83, 0, 4, NEXT), 0);
    assert_int_equal(rig.cpu->cpl, 0);
    assert_int_equal(rig.cpu->seg[VMC_SS].selector, 0);
    assert_int_equal(rig.cpu->gpr[VMC_RSP], RIG_STK0 - 32);
    assert_int_equal(get(RIG_STK0 - 8, 8), S_DATA3);
    assert_int_equal(get(RIG_STK0 - 16, 8), RIG_STK3);
    assert_int_equal(vmci_far_ret(rig.cpu, 8, 0), 0);
    assert_int_equal(rig.cpu->cpl, 3);
    assert_int_equal(rig.cpu->gpr[VMC_RSP], RIG_STK3);
}

static void ret_checks(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        unsigned cpl;
        uint16_t cs, ss;
        unsigned vector, code;
    } t[] = {
        {"null cs", 0, 0, 0, VMC_VEC_GP, 0},
        {"inner", 3, S_CODE0, 0, VMC_VEC_GP, S_CODE0},
        {"dpl", 0, S_CODE0 | 3, 0, VMC_VEC_GP, S_CODE0},
        {"data", 0, S_DATA0, 0, VMC_VEC_GP, S_DATA0},
        {"null ss", 0, S_CODE3, 0, VMC_VEC_GP, 0},
        {"ss rpl", 0, S_CODE3, S_DATA3 & ~3, VMC_VEC_GP, S_DATA3 & ~3},
        {"ss dpl", 0, S_CODE3, S_DATA0 | 3, VMC_VEC_GP, S_DATA0},
        {"ss code", 0, S_CODE3, S_CODE3, VMC_VEC_GP, S_CODE3 & ~3},
    };
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(t); i++) {
        rig_prot(t[i].cpl);
        push32(t[i].ss);
        push32(RIG_STK3);
        push32(t[i].cs);
        push32(AT);
        uint64_t sp = rig.cpu->gpr[VMC_RSP];
        int r = vmci_far_ret(rig.cpu, 4, 0);
        if (r != VMCI_FAULT || rig.cpu->exc.vector != t[i].vector || rig.cpu->exc.code != t[i].code)
            fail_msg("%s: %d #%u(%x)", t[i].what, r, rig.cpu->exc.vector, rig.cpu->exc.code);
        assert_int_equal(rig.cpu->gpr[VMC_RSP], sp);
    }
    /* Data segments of the inner level are taken away, conforming code stays. */
    rig_prot(0);
    rig_segment(VMC_FS, S_CONF);
    rig_segment(VMC_GS, S_DATA3);
    push32(S_DATA3);
    push32(RIG_STK3);
    push32(S_CODE3);
    push32(AT);
    assert_int_equal(vmci_far_ret(rig.cpu, 4, 0), 0);
    assert_int_equal(rig.cpu->cpl, 3);
    assert_int_equal(rig.cpu->seg[VMC_DS].selector, 0);
    assert_true((rig.cpu->seg[VMC_DS].attr & VMC_SEG_UNUSABLE) != 0);
    assert_int_equal(rig.cpu->seg[VMC_FS].selector, S_CONF);
    assert_int_equal(rig.cpu->seg[VMC_GS].selector, S_DATA3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(segment_loads),
        cmocka_unit_test(accessed_bit_and_cache),
        cmocka_unit_test(real_mode_keeps_limits),
        cmocka_unit_test(null_ss_in_long_mode),
        cmocka_unit_test(lldt_and_ltr),
        cmocka_unit_test(lar_lsl_verr_verw),
        cmocka_unit_test(jumps_and_calls),
        cmocka_unit_test(jmp_never_changes_level),
        cmocka_unit_test(call_gate_to_inner_level),
        cmocka_unit_test(call_gate_checks_the_new_stack),
        cmocka_unit_test(call_page_fault_changes_nothing),
        cmocka_unit_test(real_mode_transfers),
        cmocka_unit_test(long_mode_transfers),
        cmocka_unit_test(ret_checks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
