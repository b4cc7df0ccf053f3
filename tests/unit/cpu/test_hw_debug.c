/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Debug exceptions under VT-x and SVM on a model of a processor: DR6, and IA32_DEBUGCTL.BTF, by
 * which branches are stepped, in the control structure or by the software CPU.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "hw_model.h"

#define IDT     0x5000u
#define GDT     0x6000u
#define HANDLER 0x9000u

static struct hw_model model;

/* One exit to play, then HLTs. What the first two entries were with. */
static struct {
    uint32_t exit;
    uint64_t info; /* exit qualification; DR6 */
    unsigned entries;
    uint64_t debugctl[2], rip[2], pending_debug[2], flags[2], event[2];
    bool lbr[2];
} play;

#define DB_OF_VMX (INTR_VALID | VMC_EV_EXCEPTION << 8 | VMC_VEC_DB)
#define DB_OF_SVM (SVM_EV_VALID | VMC_EV_EXCEPTION << 8 | VMC_VEC_DB)

static uint64_t model_field(void *ctx, uint32_t field)
{
    return ((struct hw_model *)ctx)->field[field];
}

static int on_vmx(struct hw_model *m, struct vmc_hw_vmx_frame *f)
{
    struct vmx_fields fields = {.ctx = m, .read = model_field, .vapic = m->v->u.vmx.vapic};
    struct vmc_error err = {.text = ""};
    unsigned entry = play.entries++, n = VMCI_MIN(entry, 1u);

    if (vmx_check(&m->vm->caps.vmx, &fields, &err) != VMC_OK)
        fail_msg("%s", err.text);
    if (entry < 2) {
        play.debugctl[n] = m->field[VMCS_GUEST_DEBUGCTL];
        play.pending_debug[n] = m->field[VMCS_PENDING_DEBUG];
        play.rip[n] = f->rip;
        play.flags[n] = f->rflags;
        play.event[n] = m->field[VMCS_ENTRY_INTR_INFO];
    }
    if (m->field[VMCS_ENTRY_INTR_INFO] & INTR_VALID) /* as delivery does */
        f->rflags = m->field[VMCS_GUEST_RFLAGS] &= ~(uint64_t)VMC_FLAG_TF;
    m->field[VMCS_IDT_INFO] = 0;
    m->field[VMCS_EXIT_INTR_INFO] = INTR_VALID | VMC_EV_EXCEPTION << 8 | VMC_VEC_DB;
    f->reason = n == 0 ? play.exit : VMX_HLT;
    f->qualification = play.info;
    f->insn_len = n == 0 ? 2 : 1;
    return VMC_HW_EXITED;
}

static int on_svm(struct hw_model *m, struct vmc_hw_svm_frame *f)
{
    struct vmcb *b = (struct vmcb *)(uintptr_t)f->vmcb;
    unsigned entry = play.entries++, n = VMCI_MIN(entry, 1u);

    (void)m;
    if (entry < 2) {
        play.debugctl[n] = b->dbgctl;
        play.lbr[n] = (b->lbr & SVM_LBR_ON) != 0;
        play.rip[n] = b->rip;
        play.flags[n] = b->rflags;
        play.event[n] = b->event_inj;
    }
    if (b->event_inj & SVM_EV_VALID)
        b->rflags &= ~(uint64_t)VMC_FLAG_TF;
    b->exit_code = n == 0 ? play.exit : SVM_HLT;
    b->nrip = b->rip + (n == 0 ? 2 : 1);
    if (n == 0 && play.exit == SVM_EXC + VMC_VEC_DB)
        b->dr6 = play.info;
    return VMC_HW_EXITED;
}

/* 64-bit code at 0x8000 with a handler of #DB, and DEBUGCTL and RFLAGS as wanted. */
static void begin(enum hw_model_cpu cpu, uint64_t debugctl, uint64_t flags)
{
    struct vmc_error err = {.text = ""};

    if (hw_model_init(&model, cpu, &err) != VMC_OK)
        fail_msg("%s", err.text);
    model.vmx = on_vmx;
    model.svm = on_svm;
    memset(&play, 0, sizeof(play));
    assert_int_equal(hw_model_long_mode(&model), VMC_OK);
    memset(model.ram + 0x8000, 0x90, 64);
    vmci_st_le64(model.ram + GDT + 8, 0x00af9b000000ffffull);
    vmci_st_le64(model.ram + IDT + 16 * VMC_VEC_DB, 0x00008e0000080000ull | HANDLER);
    model.ram[HANDLER] = 0xf4;
    struct vmc_x86_state want = model.v->st;
    want.gdtr = (struct vmc_table){.base = GDT, .limit = 15};
    want.idtr = (struct vmc_table){.base = IDT, .limit = 0xfff};
    want.msr.debugctl = debugctl;
    want.rflags |= flags;
    assert_int_equal(
        model.engine->set_state(model.v, VMC_ST_TABLES | VMC_ST_MSR | VMC_ST_RIP, &want), VMC_OK);
}

static void end(void)
{
    hw_model_fini(&model);
    test_platform_check(&model.tp);
}

static void run(uint32_t exit, uint64_t info)
{
    play.exit = exit;
    play.info = info;
    assert_int_equal(hw_model_run(&model), VMC_OK);
    assert_int_equal(model.x.kind, VMC_EXIT_IDLE);
}

static void vmx_steps_branches(void **state)
{
    (void)state;
    for (enum hw_model_cpu cpu = HW_MODEL_FULL; cpu <= HW_MODEL_NO_EPT; cpu++) {
        begin(cpu, VMC_DEBUGCTL_BTF, VMC_FLAG_TF);
        run(VMX_EXC_NMI, VMC_DR6_BS | 1);
        assert_int_equal(play.entries, 2);
        assert_int_equal(play.debugctl[0], VMC_DEBUGCTL_BTF);
        assert_int_equal(play.debugctl[1], 0); /* the exception clears it */
        assert_int_equal(model.v->st.msr.debugctl, 0);
        assert_int_equal(model.v->st.dr6 & (VMC_DR6_BS | 0xf), VMC_DR6_BS | 1);
        end();
    }
}

/* STI with TF: whether a trap is pending depends on BTF, and entry checks that. */
static void vmx_traps_wait_in_shadows(void **state)
{
    (void)state;
    for (unsigned btf = 0; btf < 2; btf++) {
        begin(HW_MODEL_FULL, btf != 0 ? VMC_DEBUGCTL_BTF : 0, VMC_FLAG_TF | VMC_FLAG_IF);
        model.v->st.sti_shadow = 1;
        hw_changed(model.v, VMC_ST_RIP);
        run(VMX_PAUSE, 0);
        assert_int_equal(play.pending_debug[0], btf != 0 ? 0 : VMC_DR6_BS);
        end();
    }
}

static void wrmsr_reaches_the_control_structure(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        begin(i == 0 ? HW_MODEL_FULL : HW_MODEL_DECODE, 0, 0);
        memcpy(model.ram + 0x8000, "\x0f\x30", 2);
        model.v->st.gpr[VMC_RCX] = VMC_MSR_DEBUGCTL;
        model.v->st.gpr[VMC_RAX] = VMC_DEBUGCTL_BTF;
        model.io_answer = VMC_IO_EXIT;
        if (i != 0)
            model.v->u.svm.vmcb->exit_info1 = 1;
        run(i == 0 ? (uint32_t)VMX_WRMSR : (uint32_t)SVM_MSR, 0);
        assert_int_equal(play.debugctl[0], 0);
        assert_int_equal(play.debugctl[1], VMC_DEBUGCTL_BTF);
        assert_int_equal(play.lbr[1], i != 0);
        assert_int_equal(play.rip[1], 0x8002);
        end();
    }
}

static void svm_steps_branches(void **state)
{
    (void)state;
    begin(HW_MODEL_DECODE, VMC_DEBUGCTL_BTF, VMC_FLAG_TF);
    run(SVM_EXC + VMC_VEC_DB, VMC_DR6_FIXED | VMC_DR6_BS | 2);
    assert_int_equal(play.entries, 2);
    assert_true(play.lbr[0]);
    assert_int_equal(play.debugctl[0], VMC_DEBUGCTL_BTF);
    assert_false(play.lbr[1]);
    assert_int_equal(play.debugctl[1], 0);
    assert_true(model.v->st.dr6 == (VMC_DR6_FIXED | VMC_DR6_BS | 2));
    end();
}

/* Nothing switches DBGCTL there: the software CPU executes up to the branch. */
static void svm_without_lbrs_steps_by_software(void **state)
{
    (void)state;
    for (enum hw_model_cpu cpu = HW_MODEL_NPT; cpu <= HW_MODEL_NO_NPT; cpu++) {
        begin(cpu, VMC_DEBUGCTL_BTF, VMC_FLAG_TF);
        memcpy(model.ram + 0x8002, "\xeb\x02", 2);
        run(SVM_PAUSE, 0);
        assert_int_equal(play.rip[0], HANDLER); /* the first that the processor sees */
        assert_false(play.lbr[0]);
        assert_int_equal(vmci_ld_le64(model.ram + 0x7000 - 40), 0x8006);
        assert_int_equal(model.v->st.dr6 & (VMC_DR6_BS | 0xf), VMC_DR6_BS);
        assert_int_equal(model.v->st.msr.debugctl, 0);
        end();
    }
}

/*
 * Instructions that exit and are stepped over end as others do: with a trap if TF is set, and with
 * RF clear. BTF lets them pass.
 */
static void what_exits_is_stepped_too(void **state)
{
    (void)state;
    static const struct {
        uint32_t vmx, svm, qualification;
    } cases[] = {{VMX_CPUID, SVM_CPUID, 0},
                 {VMX_IO, SVM_IOIO, 0x00800000},
                 {VMX_WBINVD, SVM_WBINVD, 0},
                 {VMX_HLT, SVM_HLT, 0}};

    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(cases); i++)
        for (unsigned amd = 0; amd < 2; amd++)
            for (unsigned btf = 0; btf < 2; btf++) {
                begin(amd != 0 ? HW_MODEL_DECODE : HW_MODEL_FULL, btf != 0 ? VMC_DEBUGCTL_BTF : 0,
                      VMC_FLAG_TF | VMC_FLAG_RF);
                if (amd != 0) {
                    model.v->u.svm.vmcb->exit_info1 = 0x00800010;
                    model.v->u.svm.vmcb->exit_info2 = 0x8002;
                }
                run(amd != 0 ? cases[i].svm : cases[i].vmx, cases[i].qualification);
                bool halts = cases[i].vmx == VMX_HLT && btf != 0;
                assert_int_equal(play.entries, halts ? 1 : 2);
                assert_int_equal((model.v->st.dr6 & VMC_DR6_BS) != 0, btf == 0);
                if (!halts) {
                    assert_int_equal(play.rip[1], 0x8002);
                    assert_int_equal(play.flags[1] & VMC_FLAG_RF, 0);
                    bool db = (uint32_t)play.event[1] == (amd != 0 ? DB_OF_SVM : DB_OF_VMX);
                    assert_int_equal(db, btf == 0);
                }
                end();
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vmx_steps_branches),
        cmocka_unit_test(vmx_traps_wait_in_shadows),
        cmocka_unit_test(wrmsr_reaches_the_control_structure),
        cmocka_unit_test(svm_steps_branches),
        cmocka_unit_test(svm_without_lbrs_steps_by_software),
        cmocka_unit_test(what_exits_is_stepped_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
