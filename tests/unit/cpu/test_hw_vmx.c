/* SPDX-License-Identifier: BSD-2-Clause */
/* The VT-x engine on a model of a processor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "hw_model.h"

static struct hw_model model;

/* One exit to play, then a HLT that ends the run. */
struct play {
    uint32_t reason;
    uint64_t qualification, gpa;
    uint32_t intr_info, intr_code, idt_info;
    unsigned entries;
    uint32_t entry_info; /* what the second entry injects */
    uint32_t proc;       /* its processor-based controls */
    uint64_t rip;
};
static struct play play;

static uint64_t model_field(void *ctx, uint32_t field)
{
    return ((struct hw_model *)ctx)->field[field];
}

/* Every entry must pass the manual's checks. */
static void check_entry(struct hw_model *m)
{
    struct vmx_fields f = {.ctx = m, .read = model_field, .vapic = m->v->u.vmx.vapic};
    struct vmc_error err = {.text = ""};

    if (vmx_check(&m->vm->caps.vmx, &f, &err) != VMC_OK)
        fail_msg("%s", err.text);
}

static int on_entry(struct hw_model *m, struct vmc_hw_vmx_frame *f)
{
    check_entry(m);
    m->field[VMCS_IDT_INFO] = 0;
    if (play.entries++ == 0) {
        f->reason = play.reason;
        f->qualification = play.qualification;
        m->field[VMCS_GUEST_PHYSICAL] = play.gpa;
        m->field[VMCS_EXIT_INTR_INFO] = play.intr_info;
        m->field[VMCS_EXIT_INTR_CODE] = play.intr_code;
        m->field[VMCS_IDT_INFO] = play.idt_info;
        return VMC_HW_EXITED;
    }
    play.entry_info = (uint32_t)m->field[VMCS_ENTRY_INTR_INFO];
    play.proc = (uint32_t)m->field[VMCS_PROC_CTL];
    play.rip = f->rip;
    f->reason = VMX_HLT;
    f->insn_len = 1;
    return VMC_HW_EXITED;
}

static void begin(enum hw_model_cpu cpu)
{
    struct vmc_error err = {.text = ""};

    if (hw_model_init(&model, cpu, &err) != VMC_OK)
        fail_msg("%s", err.text);
    model.vmx = on_entry;
    memset(&play, 0, sizeof(play));
    assert_int_equal(hw_model_long_mode(&model), VMC_OK);
}

static void end(void)
{
    hw_model_fini(&model);
    test_platform_check(&model.tp);
}

static void run(uint32_t reason)
{
    play.entries = 0;
    play.reason = reason;
    model.v->st.activity = VMC_RUN_RUNNING; /* the last play ended with HLT */
    model.v->todo &= ~HW_TODO_IDLE;
    assert_int_equal(hw_model_run(&model), VMC_OK);
}

/* ---- capabilities -----------------------------------------------------------------------------
 */

static void missing_controls_are_named(void **state)
{
    (void)state;
    static const struct {
        uint32_t msr, bit;
        const char *name;
    } cases[] = {
        {MSR_VMX_TRUE_PIN, PIN_EXTINT, "external-interrupt exiting"},
        {MSR_VMX_TRUE_PIN, PIN_VNMI, "virtual NMIs"},
        {MSR_VMX_TRUE_PROC, PROC_HLT, "HLT exiting"},
        {MSR_VMX_TRUE_PROC, PROC_IRQ_WINDOW, "interrupt-window exiting"},
        {MSR_VMX_TRUE_PROC, PROC_TSC_OFFSET, "TSC offsetting"},
        {MSR_VMX_TRUE_EXIT, EXIT_HOST64, "host address-space size"},
        {MSR_VMX_TRUE_ENTRY, ENTRY_IA32E, "IA-32e mode guest"},
    };
    struct vmx_caps c;

    begin(HW_MODEL_FULL);
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(cases); i++) {
        struct vmc_error err = {.text = ""};
        uint64_t old = hw_model_get_msr(&model, cases[i].msr);
        hw_model_set_msr(&model, cases[i].msr, old & ~((uint64_t)cases[i].bit << 32));
        assert_int_equal(vmx_caps_read(&model.tp.pf, 0, &c, &err), VMC_ENOTSUP);
        assert_non_null(strstr(err.text, cases[i].name));
        hw_model_set_msr(&model, cases[i].msr, old);
    }
    end();
}

static void features_follow_the_processor(void **state)
{
    (void)state;
    begin(HW_MODEL_FULL);
    const struct vmx_caps *c = &model.vm->caps.vmx;
    assert_true(c->ept && c->ug && c->vpid && c->timer && c->ept_ad && c->ept_1g && c->save_efer);
    assert_int_equal(c->use_proc & (PROC_CR3_LOAD | PROC_CR3_STORE | PROC_INVLPG), 0);
    end();
    begin(HW_MODEL_NO_UG);
    c = &model.vm->caps.vmx;
    assert_true(c->ept && !c->ug);
    end();
    begin(HW_MODEL_NO_EPT);
    c = &model.vm->caps.vmx;
    assert_true(!c->ept && !c->vpid && !c->timer && !c->save_efer && !c->save_pat);
    assert_int_not_equal(c->use_proc & PROC_CR3_LOAD, 0);
    assert_false(vmc_cpu_policy_has(&model.info.ceiling, "pcid"));
    end();
}

/* ---- checks -----------------------------------------------------------------------------------
 */

static void bad_fields_are_explained(void **state)
{
    (void)state;
    static const struct {
        uint32_t field;
        uint64_t value;
        const char *text;
    } cases[] = {
        {VMCS_PIN_CTL, 0, "pin-based controls"},
        {VMCS_EPTP, 3, "EPTP: memory type"},
        {VMCS_VPID, 0, "VPID"},
        {VMCS_MSR_BITMAP, 0x123, "MSR bitmap"},
        {VMCS_ENTRY_INTR_INFO, 0x80000100u, "interruption type is reserved"},
        {VMCS_ENTRY_INTR_INFO, 0x80000030u, "IF 0"},
        {VMCS_HOST_TR, 0, "host TR is 0"},
        {VMCS_HOST_CS, 0x1b, "TI or RPL"},
        {VMCS_HOST_RIP, 1ull << 63, "host RIP"},
        {VMCS_HOST_CR4, 0, "host CR4"},
        {VMCS_GUEST_CR0, 0, "guest CR0"},
        {VMCS_GUEST_CR4, 0x20, "guest CR4"},
        {VMCS_GUEST_AR(VMC_CS), 0xa091, "CS: type"},
        {VMCS_GUEST_AR(VMC_TR), 0, "TR is not"},
        {VMCS_GUEST_AR(VMC_SS), 0xc09b, "SS: type"},
        {VMCS_GUEST_BASE(VMC_FS), 1ull << 62, "FS or GS"},
        {VMCS_GUEST_RIP, 1ull << 62, "guest RIP"},
        {VMCS_GUEST_RFLAGS, 0, "guest RFLAGS"},
        {VMCS_GUEST_EFER, 0, "EFER.LMA"},
        {VMCS_LINK_POINTER, 0, "link pointer"},
        {VMCS_ACTIVITY, 7, "activity state"},
        {VMCS_INTERRUPTIBILITY, 3, "STI and MOV SS"},
        {VMCS_PENDING_DEBUG, 1ull << 40, "pending debug"},
        {VMCS_GUEST_DEBUGCTL, 8, "IA32_DEBUGCTL"},
    };
    /* Events in HLT, shutdown and wait-for-SIPI (SDM 3C 27.3.1.5). */
    static const struct {
        uint32_t activity, info;
        bool ok;
    } injected[] = {
        {1, VMC_EV_NMI << 8 | VMC_VEC_NMI, true},
        {1, VMC_EV_EXCEPTION << 8 | VMC_VEC_DB, true},
        {1, VMC_EV_EXCEPTION << 8 | VMC_VEC_UD, false},
        {1, VMC_EV_SOFT_INT << 8 | 0x80, false},
        {2, VMC_EV_NMI << 8 | VMC_VEC_NMI, true},
        {2, VMC_EV_EXCEPTION << 8 | VMC_VEC_DB, false},
        {3, VMC_EV_NMI << 8 | VMC_VEC_NMI, false},
    };
    struct vmx_fields f = {.ctx = &model, .read = model_field};
    struct vmc_error err;

    begin(HW_MODEL_FULL);
    run(VMX_HLT); /* fills the VMCS */
    model.field[VMCS_ENTRY_INTR_INFO] = 0;
    assert_int_equal(vmx_check(&model.vm->caps.vmx, &f, &err), VMC_OK);
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(cases); i++) {
        uint64_t old = model.field[cases[i].field];
        model.field[cases[i].field] = cases[i].value;
        err.text[0] = 0;
        assert_int_equal(vmx_check(&model.vm->caps.vmx, &f, &err), VMC_EINVAL);
        if (strstr(err.text, cases[i].text) == NULL)
            fail_msg("field 0x%x: \"%s\"", cases[i].field, err.text);
        model.field[cases[i].field] = old;
    }
    struct vmx_caps caps = model.vm->caps.vmx;
    caps.misc |= 7ull << 6; /* all activity states */
    model.field[VMCS_ENTRY_INSN_LEN] = 2;
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(injected); i++) {
        model.field[VMCS_ACTIVITY] = injected[i].activity;
        model.field[VMCS_ENTRY_INTR_INFO] = INTR_VALID | injected[i].info;
        err.text[0] = 0;
        int rc = vmx_check(&caps, &f, &err);
        if ((rc == VMC_OK) != injected[i].ok ||
            (!injected[i].ok && strstr(err.text, "blocks the injected event") == NULL))
            fail_msg("activity %u, event 0x%x: \"%s\"", injected[i].activity, injected[i].info,
                     err.text);
    }
    end();
}

static void the_tpr_threshold_is_compared(void **state)
{
    (void)state;
    struct vmx_fields f = {.ctx = &model, .read = model_field};
    struct vmc_error err;

    begin(HW_MODEL_FULL);
    run(VMX_HLT);
    model.field[VMCS_ENTRY_INTR_INFO] = 0;
    const struct vmx_caps *caps = &model.vm->caps.vmx;
    uint8_t *page = model.v->u.vmx.vapic;
    assert_true(caps->tpr_shadow);
    assert_int_equal(model.field[VMCS_PROC2_CTL] & (PROC2_APIC_ACCESS | PROC2_VID), 0);
    uint8_t old = page[VAPIC_TPR];
    f.vapic = page;
    page[VAPIC_TPR] = 0x6f;
    model.field[VMCS_TPR_THRESHOLD] = 6;
    assert_int_equal(vmx_check(caps, &f, &err), VMC_OK);
    model.field[VMCS_TPR_THRESHOLD] = 7;
    assert_int_equal(vmx_check(caps, &f, &err), VMC_EINVAL);
    assert_non_null(strstr(err.text, "TPR threshold is above VTPR"));
    model.field[VMCS_TPR_THRESHOLD] = 16;
    assert_int_equal(vmx_check(caps, &f, &err), VMC_EINVAL);
    assert_non_null(strstr(err.text, "TPR threshold (0x10)"));
    /* Not with the page at the guest's APIC, where the processor makes it exit instead. */
    model.field[VMCS_TPR_THRESHOLD] = 7;
    model.field[VMCS_PROC2_CTL] |= PROC2_APIC_ACCESS;
    assert_int_equal(vmx_check(caps, &f, &err), VMC_OK);
    page[VAPIC_TPR] = old;
    end();
}

static void a_failed_entry_is_reported(void **state)
{
    (void)state;
    begin(HW_MODEL_FULL);
    run(VMX_ENTRY_FAILED | VMX_BAD_GUEST);
    assert_int_equal(model.x.kind, VMC_EXIT_FAIL_ENTRY);
    assert_int_equal(model.x.raw.reason & 0xffff, VMX_BAD_GUEST);
    end();
}

/* ---- exits ------------------------------------------------------------------------------------
 */

static void cpuid_answers_and_steps_over(void **state)
{
    (void)state;
    begin(HW_MODEL_FULL);
    model.v->st.gpr[VMC_RAX] = 0;
    run(VMX_CPUID);
    assert_int_equal(model.x.kind, VMC_EXIT_IDLE);
    assert_int_equal(play.rip, 0x8002);
    const struct vmc_cpuid_leaf *l = vmc_cpu_policy_find(&model.info.ceiling, 0, 0);
    assert_int_equal(model.v->st.gpr[VMC_RAX], l->eax);
    assert_int_equal(model.v->st.gpr[VMC_RBX], l->ebx);
    end();
}

static void ports_are_claimed_or_exit(void **state)
{
    (void)state;
    begin(HW_MODEL_FULL);
    model.v->st.gpr[VMC_RAX] = 0xffffffffffffffaaull;
    play.qualification = 0x3f8ull << 16; /* out 0x3f8, al */
    run(VMX_IO);
    assert_int_equal(model.last_pio & 0xffffff, 0xaa03f8);
    play.qualification = 0x3f8ull << 16 | 8 | 1; /* in ax, 0x3f8 */
    run(VMX_IO);
    assert_true(model.v->st.gpr[VMC_RAX] == 0xffffffffffff5678ull);
    model.io_answer = VMC_IO_EXIT;
    play.qualification = 0x3f8ull << 16 | 8 | 3;
    run(VMX_IO);
    assert_int_equal(model.x.kind, VMC_EXIT_IO);
    uint64_t rip = model.v->st.rip;
    model.x.u.io.data = 0xcafe;
    model.x.answer = VMC_ANSWER_DONE;
    assert_int_equal(model.engine->complete(model.v, &model.x), VMC_OK);
    assert_int_equal(model.v->st.gpr[VMC_RAX], 0xcafe);
    assert_int_equal(model.v->st.rip, rip + 2);
    end();
}

static void ept_violations_map_pages(void **state)
{
    (void)state;
    begin(HW_MODEL_FULL);
    play.gpa = 0x23456;
    play.qualification = 2;
    run(VMX_EPT_VIOLATION);
    struct vmci_slat_entry e = vmci_slat_lookup(&model.vm->slat, 0x23456);
    assert_int_equal(e.kind, VMCI_SLAT_LEAF);
    assert_true(e.hpa == (uint64_t)(uintptr_t)(model.ram + 0x23456));
    assert_int_equal(e.rights, VMCI_SLAT_R | VMCI_SLAT_W | VMCI_SLAT_X);
    assert_int_equal(play.rip, 0x8000); /* the instruction is executed again */
    end();
}

static void devices_are_reached_by_emulation(void **state)
{
    (void)state;
    static const uint8_t code[] = {0xa0, 0, 0, 0, 0xe0, 0, 0, 0, 0}; /* mov al, [0xe0000000] */
    begin(HW_MODEL_FULL);
    memcpy(model.ram + 0x8000, code, sizeof(code));
    play.gpa = 0xe0000000u;
    play.qualification = 1;
    run(VMX_EPT_VIOLATION);
    assert_int_equal(model.last_mmio, 0xe0000000u);
    assert_int_equal(model.v->st.gpr[VMC_RAX] & 0xff, 0x55);
    assert_int_equal(play.rip, 0x8009);
    assert_int_equal(vmci_slat_lookup(&model.vm->slat, 0xe0000000u).kind, VMCI_SLAT_MMIO);
    end();
}

static void every_reason_has_an_outcome(void **state)
{
    (void)state;
    for (enum hw_model_cpu cpu = HW_MODEL_FULL; cpu <= HW_MODEL_NO_EPT; cpu++) {
        for (uint32_t reason = 0; reason < VMX_REASONS + 10; reason++) {
            begin(cpu);
            play.intr_info = INTR_VALID | VMC_EV_EXCEPTION << 8 | VMC_VEC_DB;
            memset(model.ram + 0x8000, 0x90, 64);
            if (reason != VMX_HLT)
                run(reason);
            assert_true(model.x.kind < VMC_EXIT_KINDS);
            end();
        }
    }
}

static void triple_faults_shut_down(void **state)
{
    (void)state;
    begin(HW_MODEL_FULL);
    run(VMX_TRIPLE);
    assert_int_equal(model.x.kind, VMC_EXIT_SHUTDOWN);
    assert_int_equal(model.x.u.stop.why, VMC_STOP_TRIPLE_FAULT);
    end();
}

/* ---- events -----------------------------------------------------------------------------------
 */

static void interrupts_wait_for_their_window(void **state)
{
    (void)state;
    begin(HW_MODEL_FULL);
    model.irq = 0x45;
    model.engine->irq_notify(model.v);
    run(VMX_PAUSE);
    assert_int_not_equal(play.proc & PROC_IRQ_WINDOW, 0);
    assert_int_equal(model.acks, 0);
    model.v->st.activity = VMC_RUN_RUNNING;
    model.v->todo &= ~HW_TODO_IDLE;
    model.v->st.rflags |= VMC_FLAG_IF;
    hw_changed(model.v, VMC_ST_RIP);
    model.field[VMCS_GUEST_RFLAGS] |= VMC_FLAG_IF;
    play.idt_info = 0;
    model.irq = 0x45;
    model.engine->irq_notify(model.v);
    play.entries = 1; /* only look at the entry */
    assert_int_equal(hw_model_run(&model), VMC_OK);
    assert_int_equal(play.entry_info, INTR_VALID | 0x45);
    assert_int_equal(model.acks, 1);
    end();
}

static void interrupted_events_are_delivered_again(void **state)
{
    (void)state;
    static const uint32_t infos[] = {INTR_VALID | VMC_EV_NMI << 8 | 2,
                                     INTR_VALID | VMC_EV_EXCEPTION << 8 | VMC_VEC_UD};
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(infos); i++) {
        begin(HW_MODEL_FULL);
        play.gpa = 0x5000;
        play.qualification = 2;
        play.idt_info = infos[i];
        run(VMX_EPT_VIOLATION);
        assert_int_equal(play.entry_info, infos[i]);
        end();
    }
}

static void faults_on_faults_double(void **state)
{
    (void)state;
    static const struct {
        uint8_t first, second, result; /* 0: triple fault */
    } cases[] = {
        {VMC_VEC_GP, VMC_VEC_GP, VMC_VEC_DF}, {VMC_VEC_PF, VMC_VEC_PF, VMC_VEC_DF},
        {VMC_VEC_PF, VMC_VEC_NP, VMC_VEC_DF}, {VMC_VEC_GP, VMC_VEC_PF, VMC_VEC_PF},
        {VMC_VEC_UD, VMC_VEC_GP, VMC_VEC_GP}, {VMC_VEC_DF, VMC_VEC_PF, 0},
        {VMC_VEC_DF, VMC_VEC_GP, 0},
    };
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(cases); i++) {
        begin(HW_MODEL_FULL);
        model.v->st.injected =
            (struct vmc_event){.type = VMC_EV_EXCEPTION, .vector = cases[i].first};
        int r = hw_raise(model.v, cases[i].second, true, 0, &model.x);
        assert_int_equal(r, cases[i].result == 0 ? HW_LEAVE : HW_RESUME);
        if (cases[i].result != 0)
            assert_int_equal(model.v->st.injected.vector, cases[i].result);
        end();
    }
}

static void kicks_end_the_run(void **state)
{
    (void)state;
    begin(HW_MODEL_FULL);
    model.engine->kick(model.v);
    run(VMX_PAUSE);
    assert_int_equal(model.x.kind, VMC_EXIT_KICKED);
    assert_int_equal(play.entries, 0);
    end();
}

/* The processor writes a log of pages, which is taken by a fetch or when it is full. */
static void written_pages_are_logged(void **state)
{
    (void)state;
    uint64_t bits[4] = {0};

    begin(HW_MODEL_FULL);
    run(VMX_PAUSE);
    assert_int_equal(model.field[VMCS_PROC2_CTL] & PROC2_PML, 0);
    assert_int_equal(vmc_mem_dirty_start(model.mem, 0), VMC_OK);
    assert_int_equal(model.engine->dirty_log(model.vm, true), VMC_OK);
    assert_int_equal(vmc_mem_dirty_take(model.mem, 0, 0, 256, bits, 4), VMC_OK);
    run(VMX_PAUSE);
    assert_int_not_equal(model.field[VMCS_PROC2_CTL] & PROC2_PML, 0);
    assert_int_equal(model.field[VMCS_PML_INDEX], 511);
    uint64_t *log = (uint64_t *)(uintptr_t)model.field[VMCS_PML_ADDRESS];
    assert_true(log[511] == HW_LOG_NONE && log[0] == HW_LOG_NONE);
    /* Its dirty bit is cleared, so that the next write is logged, and translations go. */
    play.qualification = 2;
    play.gpa = 0x23456;
    run(VMX_EPT_VIOLATION);
    model.vm->slat.last[0x23] |= vmci_ept_format.dirty;
    log[511] = 0x23000;
    log[510] = 0x80000;
    memset(bits, 0, sizeof(bits));
    assert_int_equal(model.engine->dirty_fetch(model.vm, 0, 64, bits), VMC_OK);
    assert_true(bits[0] == 1ull << 0x23);
    assert_true(log[511] == HW_LOG_NONE && log[510] == HW_LOG_NONE);
    assert_false(vmci_slat_lookup(&model.vm->slat, 0x23000).dirty);
    unsigned flushes = model.invepts;
    run(VMX_PAUSE);
    assert_int_equal(model.invepts, flushes + 1);
    /* What was not asked for is in the map's log. */
    assert_int_equal(vmc_mem_dirty_take(model.mem, 0, 0, 256, bits, 4), VMC_OK);
    assert_true(bits[0] == 0 && bits[2] == 1);
    log[7] = 0x24000;
    model.field[VMCS_PML_INDEX] = 0xffff;
    play.qualification = 0;
    run(VMX_PML_FULL);
    assert_int_equal(model.field[VMCS_PML_INDEX], 511);
    assert_int_equal(vmc_mem_dirty_take(model.mem, 0, 0, 256, bits, 4), VMC_OK);
    assert_true(bits[0] == 1ull << 0x24);
    vmc_mem_dirty_stop(model.mem, 0);
    assert_int_equal(model.engine->dirty_log(model.vm, false), VMC_OK);
    run(VMX_PAUSE);
    assert_int_equal(model.field[VMCS_PROC2_CTL] & PROC2_PML, 0);
    end();
}

/* Without dirty bits a page is writable once it was written, also if another vCPU reads it then. */
static void two_faults_lose_no_write(void **state)
{
    (void)state;
    uint64_t bits[4] = {0};

    begin(HW_MODEL_FULL);
    void *log = model.v->log;
    model.v->log = NULL;
    model.vm->slat.ad = false;
    assert_int_equal(vmc_mem_dirty_start(model.mem, 0), VMC_OK);
    assert_int_equal(model.engine->dirty_log(model.vm, true), VMC_OK);
    play.gpa = 0x23456;
    play.qualification = 2;
    run(VMX_EPT_VIOLATION);
    play.qualification = 1;
    run(VMX_EPT_VIOLATION);
    assert_int_equal(model.engine->dirty_fetch(model.vm, 0, 64, bits), VMC_OK);
    assert_true(bits[0] == 1ull << 0x23);
    vmc_mem_dirty_stop(model.mem, 0);
    assert_int_equal(model.engine->dirty_log(model.vm, false), VMC_OK);
    model.v->log = log;
    end();
}

static void another_tsc_adjust_moves_the_clock(void **state)
{
    (void)state;
    static struct vmc_x86_state st;
    uint64_t before, after, hz;

    begin(HW_MODEL_FULL);
    assert_int_equal(model.engine->read_tsc(model.v, &before, &hz, NULL), VMC_OK);
    assert_int_equal(model.engine->get_state(model.v, VMC_ST_MSR, &st), VMC_OK);
    st.msr.tsc_adjust += 1ull << 40;
    assert_int_equal(model.engine->set_state(model.v, VMC_ST_MSR, &st), VMC_OK);
    assert_int_equal(model.engine->read_tsc(model.v, &after, &hz, NULL), VMC_OK);
    assert_true(after - before == 1ull << 40);
    st.tsc = 12345; /* given with it, it is what counts */
    st.msr.tsc_adjust = 0;
    assert_int_equal(model.engine->set_state(model.v, VMC_ST_MSR | VMC_ST_CLOCK, &st), VMC_OK);
    assert_int_equal(model.engine->read_tsc(model.v, &after, &hz, NULL), VMC_OK);
    assert_true(after == 12345);
    end();
}

static void the_clock_is_scaled(void **state)
{
    (void)state;
    struct vmc_error err;
    uint64_t tsc, hz;

    begin(HW_MODEL_FULL);
    model.tp.now_ns = 1000;
    assert_int_equal(hw_model_set_tsc(&model, 1500000000, NULL), VMC_OK);
    assert_int_equal(model.engine->read_tsc(model.v, &tsc, &hz, NULL), VMC_OK);
    assert_true(hz == 1500000000);
    uint64_t before = tsc;
    model.tp.now_ns += 2000;
    assert_int_equal(model.engine->read_tsc(model.v, &tsc, &hz, NULL), VMC_OK);
    assert_int_equal(tsc - before, 3000);
    run(VMX_PAUSE);
    assert_int_not_equal(model.field[VMCS_PROC2_CTL] & PROC2_TSC_SCALE, 0);
    uint64_t mult = model.field[VMCS_TSC_MULTIPLIER];
    assert_true(mult == 3ull << 47);
    assert_true(((unsigned __int128)model.tp.now_ns * mult >> 48) + model.field[VMCS_TSC_OFFSET] ==
                tsc);
    assert_int_equal(hw_model_set_tsc(&model, 1000000000, NULL), VMC_OK);
    assert_int_equal(model.engine->read_tsc(model.v, &before, &hz, NULL), VMC_OK);
    assert_true(before == tsc); /* goes on from there */
    run(VMX_PAUSE);
    assert_int_equal(model.field[VMCS_PROC2_CTL] & PROC2_TSC_SCALE, 0);
    end();
    begin(HW_MODEL_NO_UG);
    assert_int_equal(hw_model_set_tsc(&model, 1500000000, &err), VMC_ENOTSUP);
    assert_non_null(strstr(err.text, "cannot be scaled"));
    end();
}

static void real_mode_without_unrestricted_guest(void **state)
{
    (void)state;
    static struct vmc_x86_state st;
    begin(HW_MODEL_NO_UG);
    vmc_x86_state_reset(&st);
    st.cr0 = VMC_CR0_ET;
    for (unsigned i = VMC_ES; i <= VMC_GS; i++)
        st.seg[i] = (struct vmc_segment){.limit = 0xffff, .attr = i == VMC_CS ? 0x9b : 0x93};
    st.rip = 0x8000;
    model.ram[0x8000] = 0x40; /* inc ax; hlt */
    model.ram[0x8001] = 0xf4;
    assert_int_equal(
        model.engine->set_state(
            model.v, VMC_ST_GPR | VMC_ST_RIP | VMC_ST_SEG | VMC_ST_CTRL | VMC_ST_RUN, &st),
        VMC_OK);
    run(VMX_PAUSE);
    assert_int_equal(model.x.kind, VMC_EXIT_IDLE);
    assert_int_equal(play.entries, 0); /* all by the software CPU */
    assert_int_equal(model.v->st.gpr[VMC_RAX], 1);
    end();
}

static void state_survives_a_round_trip(void **state)
{
    (void)state;
    static struct vmc_x86_state a, b;
    begin(HW_MODEL_FULL);
    run(VMX_PAUSE);
    memset(&a, 0, sizeof(a));
    memset(&b, 0, sizeof(b));
    const uint32_t groups = VMC_ST_GPR | VMC_ST_RIP | VMC_ST_SEG | VMC_ST_TABLES | VMC_ST_CTRL |
                            VMC_ST_DEBUG | VMC_ST_MSR | VMC_ST_EVENT | VMC_ST_RUN;
    assert_int_equal(model.engine->get_state(model.v, groups, &a), VMC_OK);
    assert_int_equal(model.engine->set_state(model.v, groups, &a), VMC_OK);
    model.v->valid &= ~(uint32_t)HW_ST_GUEST; /* from the VMCS, after a push */
    model.v->valid |= HW_ST_GUEST;
    assert_int_equal(model.engine->get_state(model.v, groups, &b), VMC_OK);
    assert_memory_equal(&a, &b, sizeof(a));
    end();
}

/* ---- device accesses --------------------------------------------------------------------------
 */

struct access_seen {
    uint64_t gpr[16], rip, gpa, written, bytes;
};

/* The instruction at 0x8000 touches a device at gpa; once, by the short way or the software CPU. */
static void one_access(const uint8_t *code, uint64_t gpa, bool emulate, struct access_seen *out)
{
    struct hw_vcpu *v = model.v;
    struct vmc_x86_state *st = &v->st;

    assert_int_equal(hw_model_long_mode(&model), VMC_OK);
    memcpy(model.ram + 0x8000, code, 15);
    hw_code_forget(v);
    for (unsigned i = 0; i < 16; i++)
        st->gpr[i] = 0x1122334455667780ull + i * 0x0101;
    st->gpr[VMC_RBX] = gpa - 0x10;
    st->gpr[VMC_R9] = gpa;
    st->gpr[VMC_RCX] = 4;
    hw_changed(v, VMC_ST_GPR | HW_ST_RSP);
    model.mmio_value = 0x8899aabbccddeeffull;
    model.mmio_written = model.last_mmio = model.mmio_bytes = 0;
    uint64_t before = v->stat[HW_STAT_MMIO];
    int (*mmio)(void *, bool, uint64_t, unsigned, uint64_t *) = model.io.mmio;
    if (emulate)
        model.io.mmio = NULL; /* the software CPU has a copy of the table */
    play.qualification = 0;
    play.gpa = gpa;
    run(VMX_EPT_MISCONFIG);
    model.io.mmio = mmio;
    assert_int_equal(v->stat[HW_STAT_MMIO] - before, emulate ? 0 : 1);
    bool grabbed = hw_grab(v);
    hw_need(v, HW_ST_RSP);
    hw_drop(v, grabbed);
    memcpy(out->gpr, st->gpr, sizeof(out->gpr));
    out->rip = play.rip;
    out->gpa = model.last_mmio;
    out->bytes = model.mmio_bytes;
    out->written = model.mmio_written & (out->bytes >= 8 ? ~0ull : (1ull << 8 * out->bytes) - 1);
}

static void device_accesses_are_as_by_the_software_cpu(void **state)
{
    (void)state;
    static const uint8_t code[][15] = {
        {0x88, 0x43, 0x10},                         /* mov [rbx+16], al */
        {0x40, 0x88, 0x73, 0x10},                   /* mov [rbx+16], sil */
        {0x66, 0x89, 0x53, 0x10},                   /* mov [rbx+16], dx */
        {0x45, 0x89, 0x01},                         /* mov [r9], r8d */
        {0x4d, 0x89, 0x11},                         /* mov [r9], r10 */
        {0x41, 0x8a, 0x01},                         /* mov al, [r9] */
        {0x66, 0x41, 0x8b, 0x01},                   /* mov ax, [r9] */
        {0x8b, 0x44, 0x8b, 0x00},                   /* mov eax, [rbx+rcx*4] */
        {0x4c, 0x8b, 0x7c, 0x4b, 0x08},             /* mov r15, [rbx+rcx*2+8] */
        {0x8b, 0x83, 0x10, 0, 0, 0},                /* mov eax, [rbx+16] */
        {0x8b, 0x04, 0x25, 0x40, 0, 0, 0x40},       /* mov eax, [0x40000040] */
        {0xc6, 0x43, 0x10, 0x9c},                   /* mov byte [rbx+16], 0x9c */
        {0x66, 0xc7, 0x43, 0x10, 0x34, 0x92},       /* mov word [rbx+16], 0x9234 */
        {0xc7, 0x43, 0x10, 0x78, 0x56, 0x34, 0x92}, /* mov dword [rbx+16], ... */
        {0x49, 0xc7, 0x01, 0x78, 0x56, 0x34, 0x92}, /* mov qword [r9], ... */
        {0x0f, 0xb6, 0x43, 0x10},                   /* movzx eax, byte */
        {0x48, 0x0f, 0xb7, 0x53, 0x10},             /* movzx rdx, word */
        {0x66, 0x0f, 0xbe, 0x43, 0x10},             /* movsx ax, byte */
        {0x4c, 0x0f, 0xbf, 0x43, 0x10},             /* movsx r8, word */
        {0x0f, 0xbe, 0x63, 0x10},                   /* movsx esp, byte */
    };
    struct access_seen fast, slow;

    begin(HW_MODEL_FULL);
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(code); i++) {
        one_access(code[i], 0x40000040, false, &fast);
        one_access(code[i], 0x40000040, true, &slow);
        if (memcmp(&fast, &slow, sizeof(fast)) != 0)
            fail_msg("instruction %u: rip 0x%llx 0x%llx, rax 0x%llx 0x%llx, wrote 0x%llx 0x%llx", i,
                     (unsigned long long)fast.rip, (unsigned long long)slow.rip,
                     (unsigned long long)fast.gpr[0], (unsigned long long)slow.gpr[0],
                     (unsigned long long)fast.written, (unsigned long long)slow.written);
        assert_int_equal(fast.gpa, 0x40000040);
    }
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_controls_are_named),
        cmocka_unit_test(features_follow_the_processor),
        cmocka_unit_test(bad_fields_are_explained),
        cmocka_unit_test(the_tpr_threshold_is_compared),
        cmocka_unit_test(a_failed_entry_is_reported),
        cmocka_unit_test(cpuid_answers_and_steps_over),
        cmocka_unit_test(ports_are_claimed_or_exit),
        cmocka_unit_test(ept_violations_map_pages),
        cmocka_unit_test(devices_are_reached_by_emulation),
        cmocka_unit_test(every_reason_has_an_outcome),
        cmocka_unit_test(triple_faults_shut_down),
        cmocka_unit_test(interrupts_wait_for_their_window),
        cmocka_unit_test(interrupted_events_are_delivered_again),
        cmocka_unit_test(faults_on_faults_double),
        cmocka_unit_test(kicks_end_the_run),
        cmocka_unit_test(written_pages_are_logged),
        cmocka_unit_test(two_faults_lose_no_write),
        cmocka_unit_test(another_tsc_adjust_moves_the_clock),
        cmocka_unit_test(the_clock_is_scaled),
        cmocka_unit_test(real_mode_without_unrestricted_guest),
        cmocka_unit_test(state_survives_a_round_trip),
        cmocka_unit_test(device_accesses_are_as_by_the_software_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
