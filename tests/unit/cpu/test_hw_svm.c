/* SPDX-License-Identifier: BSD-2-Clause */
/* The SVM engine on a model of a processor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "hw_model.h"

static struct hw_model model;

static struct {
    uint64_t code, info1, info2, int_info;
    unsigned entries;
    uint64_t event, first_event;
    bool takes; /* the first entry delivers a virtual interrupt */
    bool masks; /* ... to a handler with interrupts off */
    bool kick;  /* just before an entry */
    uint8_t first_tlb_control;
    uint64_t first_xcr0;
    uint8_t virq, vector, first_virq, first_vector;
    uint32_t misc1, first_misc1;
    uint64_t first_cr0, first_cr4;
    uint16_t first_cr_read, first_cr_write;
    uint64_t rip;
    uint64_t exit_rip; /* 0: as entered */
    uint64_t next_rip;
    const char *fetched; /* 15 bytes */
    uint64_t xcr0;       /* what the guest sets it to; 0: nothing */
    bool user;           /* the guest exits at CPL 3, in the middle of what RF is for */
    uint8_t cpl;
} play;

static int on_entry(struct hw_model *m, struct vmc_hw_svm_frame *f)
{
    struct vmcb *b = (struct vmcb *)(uintptr_t)f->vmcb;
    struct vmc_error err = {.text = ""};

    if (play.xcr0 != 0)
        m->xcr0 = play.xcr0;
    if (svm_check(b, 48, &err) != VMC_OK)
        fail_msg("%s", err.text);
    b->exit_int_info = 0;
    b->nrip = play.next_rip;
    b->fetched = play.fetched != NULL ? 15 : 0;
    if (play.fetched != NULL)
        memcpy(b->bytes, play.fetched, 15);
    if (play.entries++ == 0) {
        play.first_event = b->event_inj;
        play.first_misc1 = b->misc1;
        play.first_xcr0 = m->xcr0;
        play.first_tlb_control = b->tlb_control;
        play.first_virq = b->v_irq;
        play.first_cr0 = b->cr0;
        play.first_cr4 = b->cr4;
        play.first_cr_read = b->cr_read;
        play.first_cr_write = b->cr_write;
        play.first_vector = b->v_vector;
        if (play.takes)
            b->v_irq = 0;
        if (play.masks)
            b->rflags &= ~VMC_FLAG_IF;
        b->exit_code = play.code;
        b->exit_info1 = play.info1;
        b->exit_info2 = play.info2;
        b->exit_int_info = play.int_info;
        if (play.exit_rip != 0)
            b->rip = play.exit_rip;
        if (play.user) {
            b->cpl = 3;
            b->rflags |= VMC_FLAG_RF;
        }
        return VMC_HW_EXITED;
    }
    play.cpl = b->cpl;
    play.event = b->event_inj;
    play.virq = b->v_irq;
    play.vector = b->v_vector;
    play.misc1 = b->misc1;
    play.rip = b->rip;
    b->nrip = play.next_rip != 0 ? b->rip + 1 : 0;
    b->exit_code = SVM_HLT;
    return VMC_HW_EXITED;
}

static void begin(enum hw_model_cpu cpu)
{
    struct vmc_error err = {.text = ""};

    if (hw_model_init(&model, cpu, &err) != VMC_OK)
        fail_msg("%s", err.text);
    model.svm = on_entry;
    memset(&play, 0, sizeof(play));
    assert_int_equal(hw_model_long_mode(&model), VMC_OK);
    memset(model.ram + 0x8000, 0x90, 64);
}

static void end(void)
{
    hw_model_fini(&model);
    test_platform_check(&model.tp);
}

static void run(uint64_t code)
{
    play.entries = 0;
    play.code = code;
    model.v->st.activity = VMC_RUN_RUNNING;
    model.v->todo &= ~HW_TODO_IDLE;
    assert_int_equal(hw_model_run(&model), VMC_OK);
}

static void lengths_are_decoded_without_next_rip(void **state)
{
    (void)state;
    static const struct {
        uint8_t code[6];
        unsigned len;
    } cases[] = {
        {{0x0f, 0xa2}, 2},
        {{0x66, 0x0f, 0xa2}, 3},
        {{0xf3, 0x48, 0x0f, 0xa2}, 4},
        {{0x2e, 0x67, 0x41, 0x0f, 0xa2}, 5},
    };
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(cases); i++)
        for (enum hw_model_cpu cpu = HW_MODEL_NPT; cpu <= HW_MODEL_NO_NPT; cpu++) {
            begin(cpu);
            memcpy(model.ram + 0x8000, cases[i].code, sizeof(cases[i].code));
            run(SVM_CPUID);
            assert_int_equal(play.rip, 0x8000 + cases[i].len);
            end();
        }
}

static void code_that_moves_is_found_again(void **state)
{
    (void)state;
    uint64_t *pdpt;

    begin(HW_MODEL_NPT);
    pdpt = (uint64_t *)(void *)(model.ram + 0x2000);
    model.ram[0x8000] = 0x0f;
    model.ram[0x8001] = 0xa2;
    run(SVM_CPUID);
    assert_int_equal(play.rip, 0x8002);
    /* The same address by small tables, and another page with a prefix; CR3 stays. */
    uint64_t *pd = (uint64_t *)(void *)(model.ram + 0x3000);
    uint64_t *pt = (uint64_t *)(void *)(model.ram + 0x4000);
    memset(pd, 0, 0x2000);
    pd[0] = 0x4007;
    for (unsigned i = 0; i < 256; i++)
        pt[i] = (uint64_t)i << 12 | 7;
    pt[8] = 0x9007;
    model.ram[0x9000] = 0x66;
    model.ram[0x9001] = 0x0f;
    model.ram[0x9002] = 0xa2;
    pdpt[0] = 0x3007;
    model.v->st.rip = 0x8000;
    run(SVM_CPUID);
    assert_int_equal(play.rip, 0x8003);
    end();
}

static void nested_faults_map_pages(void **state)
{
    (void)state;
    begin(HW_MODEL_NPT);
    play.info1 = 0x100000006ull;
    play.info2 = 0x23456;
    run(SVM_NPF);
    struct vmci_slat_entry e = vmci_slat_lookup(&model.vm->slat, 0x23456);
    assert_int_equal(e.kind, VMCI_SLAT_LEAF);
    assert_true(e.hpa == (uint64_t)(uintptr_t)(model.ram + 0x23456));
    assert_int_equal(play.rip, 0x8000);
    end();
}

static void page_faults_fill_the_shadow(void **state)
{
    (void)state;
    begin(HW_MODEL_NO_NPT);
    play.info1 = 6; /* user write to a page that the guest maps */
    play.info2 = 0x23456;
    run(SVM_EXC + VMC_VEC_PF);
    assert_int_equal(vmci_shadow_peek(&model.v->shadow, 0x23456) & 7, 7);
    assert_int_equal(play.rip, 0x8000);
    /* Again, though nothing forbids it: whatever it is, it must not go on for ever. */
    uint64_t emulated = model.v->stat[HW_STAT_EMULATED];
    model.v->st.rip = 0x8000;
    play.info1 = 7;
    run(SVM_EXC + VMC_VEC_PF);
    assert_int_equal(model.v->stat[HW_STAT_EMULATED], emulated + 1);
    assert_int_equal(play.rip, 0x8001);
    play.info1 = 4;
    play.info2 = 0x7f0000000000ull; /* one that it does not */
    run(SVM_EXC + VMC_VEC_PF);
    assert_int_equal(play.event & 0xffffffffu,
                     SVM_EV_VALID | SVM_EV_CODE | VMC_EV_EXCEPTION << 8 | VMC_VEC_PF);
    assert_true(model.v->u.svm.vmcb->cr2 == 0x7f0000000000ull);
    end();
}

/* Bits that the guest's CPU model reserves in its tables, whatever the processor below can do. */
static void the_shadow_keeps_to_the_model(void **state)
{
    (void)state;
    struct vmc_error err = {.text = ""};
    struct vmc_cpu_policy *p = &model.info.ceiling;
    const uint64_t fault = SVM_EV_VALID | SVM_EV_CODE | VMC_EV_EXCEPTION << 8 | VMC_VEC_PF;

    for (unsigned narrow = 0; narrow < 2; narrow++) {
        begin(HW_MODEL_NO_NPT);
        uint64_t *pdpt = (uint64_t *)(void *)(model.ram + 0x2000);
        if (narrow == 0) {
            assert_int_equal(vmc_cpu_policy_feature(p, "pdpe1gb", false, p, &err), VMC_OK);
        } else {
            struct vmc_cpuid_leaf l = *vmc_cpu_policy_find(p, 0x80000008u, 0);
            l.eax = (l.eax & ~0xffu) | 36;
            assert_int_equal(vmc_cpu_policy_set(p, &l), VMC_OK);
            pdpt[0] |= 1ull << 37;
        }
        assert_int_equal(model.engine->set_policy(model.vm, p, &err), VMC_OK);
        play.info1 = VMC_PF_USER;
        play.info2 = 0x23456;
        run(SVM_EXC + VMC_VEC_PF);
        assert_int_equal(play.event & 0xffffffffu, fault);
        assert_int_equal(play.event >> 32, VMC_PF_P | VMC_PF_RSVD | VMC_PF_USER);
        end();
    }
}

/* MOV of control registers and INVLPG: the exit says what the operand is. */
static void decode_assists_name_operands(void **state)
{
    (void)state;
    begin(HW_MODEL_DECODE);
    play.next_rip = 0x8003;
    model.v->st.gpr[VMC_RBX] = 0;
    play.info1 = SVM_CR_MOV | VMC_RBX;
    uint64_t emulated = model.v->stat[HW_STAT_EMULATED];
    run(SVM_CR_READ + 3);
    assert_true(model.v->st.gpr[VMC_RBX] == 0x1000);
    assert_int_equal(play.rip, 0x8003);
    play.next_rip = 0x8007;
    model.v->st.gpr[VMC_RBX] = 0x9000;
    run(SVM_CR_WRITE + 3);
    assert_true(model.v->st.cr3 == 0x9000);
    assert_int_equal(play.rip, 0x8007);
    /* A device's register: the code itself is not looked at. */
    model.v->st.cr3 = 0x1000;
    model.v->st.gpr[VMC_RBX] = HW_MODEL_RAM + 0x10;
    play.fetched = "\x89\x0b\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90";
    play.info1 = 2; /* MOV [RBX], ECX */
    play.info2 = HW_MODEL_RAM + 0x10;
    model.v->st.gpr[VMC_RCX] = 0x12345678;
    model.io_answer = VMC_IO_DONE;
    run(SVM_EXC + VMC_VEC_PF);
    assert_true(model.last_mmio == HW_MODEL_RAM + 0x10);
    assert_true(model.mmio_written == 0x12345678);
    assert_int_equal(play.rip, 0x800a);
    play.fetched = NULL;
    play.next_rip = 0x800e;
    play.info1 = 0x23456;
    run(SVM_INVLPG);
    assert_int_equal(play.rip, 0x800e);
    assert_int_equal(model.v->stat[HW_STAT_EMULATED], emulated);
    end();
}

static void the_clock_is_scaled(void **state)
{
    (void)state;
    uint64_t tsc, hz;

    begin(HW_MODEL_DECODE);
    model.tp.now_ns = 1000;
    assert_int_equal(hw_model_set_tsc(&model, 250000000, NULL), VMC_OK);
    run(SVM_PAUSE);
    assert_true(hw_model_get_msr(&model, MSR_TSC_RATIO) == TSC_RATIO_ONE / 4);
    assert_int_equal(model.engine->read_tsc(model.v, &tsc, &hz, NULL), VMC_OK);
    assert_true(tsc == model.tp.now_ns / 4 + model.v->u.svm.vmcb->tsc_offset);
    assert_int_equal(hw_model_set_tsc(&model, 0, NULL), VMC_OK);
    run(SVM_PAUSE);
    assert_true(hw_model_get_msr(&model, MSR_TSC_RATIO) == TSC_RATIO_ONE);
    end();
}

static void events(void **state)
{
    (void)state;
    begin(HW_MODEL_NPT);
    model.irq = 0x51;
    model.engine->irq_notify(model.v);
    run(SVM_PAUSE);
    assert_int_not_equal(play.misc1 & SVM_I_VINTR, 0); /* IF is clear: a window */
    assert_int_equal(model.acks, 0);
    struct vmc_event nmi = {.type = VMC_EV_NMI, .vector = VMC_VEC_NMI};
    assert_int_equal(model.engine->inject(model.v, &nmi), VMC_OK);
    play.entries = 1;
    model.v->st.activity = VMC_RUN_RUNNING;
    model.v->todo &= ~HW_TODO_IDLE;
    assert_int_equal(hw_model_run(&model), VMC_OK);
    assert_int_equal(play.event, SVM_EV_VALID | VMC_EV_NMI << 8 | VMC_VEC_NMI);
    assert_int_not_equal(play.misc1 & SVM_I_IRET, 0); /* until it returns */
    end();
}

/* CD and NW are not the guest's, machine checks are the host's; the guest reads what it wrote. */
static void bits_of_the_host(void **state)
{
    (void)state;
    begin(HW_MODEL_NPT);
    model.cr[4] |= VMC_CR4_MCE;
    model.v->st.cr0 |= VMC_CR0_CD | VMC_CR0_NW;
    model.v->st.cr4 &= ~VMC_CR4_MCE;
    uint64_t cr0 = model.v->st.cr0, cr4 = model.v->st.cr4;
    hw_changed(model.v, VMC_ST_CTRL);
    run(SVM_PAUSE);
    assert_int_equal(play.first_cr0 & (VMC_CR0_CD | VMC_CR0_NW), 0);
    assert_int_equal(play.first_cr4 & VMC_CR4_MCE, VMC_CR4_MCE);
    assert_int_equal(play.first_cr_read, 1u << 0 | 1u << 4);
    assert_int_equal(play.first_cr_write, 1u << 0 | 1u << 4 | 1u << 8); /* CD may be cleared */
    assert_int_not_equal(play.first_misc1 & SVM_I_CR0_SEL, 0);
    hw_need(model.v, VMC_ST_CTRL);
    assert_int_equal(model.v->st.cr0, cr0);
    assert_int_equal(model.v->st.cr4, cr4);
    model.v->st.cr0 = cr0 & ~(VMC_CR0_CD | VMC_CR0_NW);
    model.v->st.cr4 = cr4 | VMC_CR4_MCE;
    model.v->st.activity = VMC_RUN_RUNNING;
    hw_changed(model.v, VMC_ST_CTRL);
    run(SVM_PAUSE);
    assert_int_equal(play.first_cr_read, 0); /* the guest's are the processor's */
    assert_int_equal(play.first_cr_write, 1u << 4 | 1u << 8);
    end();
}

/* A processor that does not exit from XSETBV: what the guest set is its state, and stays. */
static void xcr0_changes_unseen(void **state)
{
    (void)state;
    for (unsigned own = 0; own < 2; own++) {
        begin(HW_MODEL_NPT);
        struct vmc_x86_state *st = &model.v->st;
        model.vm->own_xcr0 = own != 0;
        model.vm->xcr0_mask = 7;
        assert_int_equal(st->xcr0, 1);
        play.xcr0 = 0x207;
        run(SVM_PAUSE);
        assert_int_equal(st->xcr0, own != 0 ? 7 : 1);
        model.xcr0 = 0; /* another vCPU ran */
        play.xcr0 = 0;
        model.v->st.activity = VMC_RUN_RUNNING;
        run(SVM_PAUSE);
        assert_int_equal(st->xcr0, own != 0 ? 7 : 1);
        assert_int_equal(model.xcr0, 7); /* for saving */
        end();
    }
}

/* A guest that is not to have AVX does not take it from the software CPUs of others. */
static void xcr0_is_the_host_s_again(void **state)
{
    (void)state;
    begin(HW_MODEL_NPT);
    ((struct hw_percpu *)(void *)model.percpu)->xcr0 = 7;
    model.xcr0 = 7;
    model.vm->xcr0_mask = 3;
    model.v->st.xcr0 = 1;
    run(SVM_PAUSE);
    assert_int_equal(play.first_xcr0, 1);
    assert_int_equal(model.xcr0, 7);
    end();
}

static void irq_is_due(uint8_t vector)
{
    model.v->st.rip = 0x8000;
    model.v->st.rflags |= VMC_FLAG_IF;
    hw_changed(model.v, VMC_ST_RIP);
    model.irq = vector;
    model.engine->irq_notify(model.v);
}

/* An exit that looks at no segments leaves the level alone, also where it changes RFLAGS. */
static void the_level_is_the_guest_s(void **state)
{
    (void)state;
    for (enum hw_model_cpu cpu = HW_MODEL_NPT; cpu <= HW_MODEL_NO_NPT; cpu++) {
        begin(cpu);
        model.ram[0x8000] = 0x0f;
        model.ram[0x8001] = 0xa2;
        play.user = true;
        run(SVM_CPUID);
        assert_int_equal(model.v->st.rflags & VMC_FLAG_RF, 0);
        assert_int_equal(play.cpl, 3);
        end();
    }
    /* Nor does a page fault that is the guest's, under shadow tables. */
    begin(HW_MODEL_NO_NPT);
    play.user = true;
    play.info1 = VMC_PF_USER;
    play.info2 = 0x7fff00000000ull;
    run(SVM_EXC + VMC_VEC_PF);
    assert_int_equal(play.event & 0xff, VMC_VEC_PF);
    assert_int_equal(play.cpl, 3);
    end();
}

/* Interrupts are virtual ones of the VMCB; those that were not delivered are offered again. */
static void interrupts_are_offered(void **state)
{
    (void)state;
    begin(HW_MODEL_NPT);
    model.vm->caps.svm.offer_irqs = true;
    irq_is_due(0x51);
    play.takes = true;
    play.exit_rip = 0x8010; /* in the handler */
    run(SVM_PAUSE);
    assert_int_equal(play.first_virq & SVM_V_IRQ, SVM_V_IRQ);
    assert_int_equal(play.first_vector, 0x51);
    assert_int_equal(play.virq, 0);
    assert_int_equal(play.event, 0);
    assert_int_equal(model.acks, 1);
    /* The host's interrupt was first. */
    irq_is_due(0x52);
    play.takes = false;
    play.exit_rip = 0;
    run(SVM_INTR);
    assert_int_equal(play.virq & SVM_V_IRQ, SVM_V_IRQ);
    assert_int_equal(play.vector, 0x52);
    assert_int_equal(play.misc1 & SVM_I_VINTR, 0);
    assert_int_equal(model.acks, 2);
    assert_int_equal(model.v->st.injected.type, VMC_EV_IRQ); /* HLT was not: it still waits */
    /* Its delivery met a page that was not there: silicon says so, and in EXITINTINFO ... */
    play.takes = true;
    play.info1 = 0x100000006ull;
    play.info2 = 0x5000;
    play.int_info = SVM_EV_VALID | VMC_EV_IRQ << 8 | 0x52;
    run(SVM_NPF);
    assert_int_equal(play.virq & SVM_V_IRQ, SVM_V_IRQ);
    assert_int_equal(play.vector, 0x52);
    assert_int_equal(play.event, 0);
    /* ... an emulated processor leaves it offered, and calls it an exception. */
    play.takes = false;
    play.int_info = SVM_EV_VALID | VMC_EV_EXCEPTION << 8 | 0x52;
    run(SVM_NPF);
    assert_int_equal(play.virq & SVM_V_IRQ, SVM_V_IRQ);
    assert_int_equal(play.vector, 0x52);
    assert_int_equal(play.event, 0);
    assert_int_equal(model.acks, 2);
    /* Another one that is more urgent: its window is asked for once the first is delivered. */
    irq_is_due(0xf1);
    play.int_info = 0;
    play.takes = true;
    play.masks = true;
    run(SVM_PAUSE);
    assert_int_equal(play.first_event, 0);
    assert_int_equal(play.first_virq & SVM_V_IRQ, SVM_V_IRQ);
    assert_int_equal(play.first_vector, 0x52);
    assert_int_equal(play.first_misc1 & SVM_I_VINTR, 0);
    assert_int_equal(play.event, 0);
    assert_int_equal(play.virq & SVM_V_IRQ, SVM_V_IRQ);
    assert_int_not_equal(play.misc1 & SVM_I_VINTR, 0);
    assert_int_equal(model.acks, 2);
    end();
    begin(HW_MODEL_NPT); /* only where EVENTINJ is not to be trusted */
    irq_is_due(0x53);
    run(SVM_PAUSE);
    assert_int_equal(play.first_event, SVM_EV_VALID | VMC_EV_IRQ << 8 | 0x53);
    assert_int_equal(play.first_virq & SVM_V_IRQ, 0);
    end();
}

/* An exit that comes while an event is delivered. */
static void only_injected_events_are_delivered_again(void **state)
{
    (void)state;
    const struct vmc_event gp = {
        .type = VMC_EV_EXCEPTION, .vector = VMC_VEC_GP, .has_code = true, .code = 0x18};
    const uint64_t info =
        SVM_EV_VALID | SVM_EV_CODE | VMC_EV_EXCEPTION << 8 | VMC_VEC_GP | 0x18ull << 32;

    begin(HW_MODEL_NPT);
    play.info1 = 0x100000006ull;
    play.info2 = 0x5000;
    play.int_info = info;
    assert_int_equal(model.engine->inject(model.v, &gp), VMC_OK);
    run(SVM_NPF);
    assert_true(play.event == info);
    /* A fault of an instruction, and what an earlier exit left there: the instruction is executed.
     */
    uint64_t rip = model.v->st.rip;
    run(SVM_NPF);
    assert_int_equal(play.event, 0);
    assert_true(play.rip == rip);
    /* A software interrupt at the place where something was injected. */
    play.int_info = SVM_EV_VALID | VMC_EV_SOFT_INT << 8 | 0x90;
    assert_int_equal(model.engine->inject(model.v, &gp), VMC_OK);
    run(SVM_NPF);
    assert_int_equal(play.event, 0);
    /* One that was delivered: the handler runs. */
    play.int_info = info;
    play.exit_rip = 0x8010;
    assert_int_equal(model.engine->inject(model.v, &gp), VMC_OK);
    run(SVM_NPF);
    assert_int_equal(play.event, 0);
    assert_int_equal(play.rip, 0x8010);
    end();
}

static void every_code_has_an_outcome(void **state)
{
    (void)state;
    for (enum hw_model_cpu cpu = HW_MODEL_NPT; cpu <= HW_MODEL_NO_NPT; cpu++)
        for (uint64_t code = 0; code < SVM_EXITS + 4; code++) {
            begin(cpu);
            if (code != SVM_HLT)
                run(code);
            assert_true(model.x.kind < VMC_EXIT_KINDS);
            end();
        }
    begin(HW_MODEL_NPT);
    run(SVM_INVALID);
    assert_int_equal(model.x.kind, VMC_EXIT_FAIL_ENTRY);
    end();
}

static void bad_vmcbs_are_explained(void **state)
{
    (void)state;
    struct vmc_error err;

    begin(HW_MODEL_NPT);
    run(SVM_PAUSE);
    struct vmcb b = *model.v->u.svm.vmcb;
    b.event_inj = 0;
    assert_int_equal(svm_check(&b, 48, &err), VMC_OK);
#define BAD(change, what)                                                                          \
    do {                                                                                           \
        struct vmcb c = b;                                                                         \
        c.change;                                                                                  \
        assert_int_equal(svm_check(&c, 48, &err), VMC_EINVAL);                                     \
        assert_non_null(strstr(err.text, what));                                                   \
    } while (0)
    BAD(efer = 0, "SVME");
    BAD(asid = 0, "ASID");
    BAD(misc2 = 0, "VMRUN");
    BAD(cr0 = 0x20000000, "NW");
    BAD(cr4 = 0, "PAE");
    BAD(dr7 = 1ull << 40, "DR7");
    BAD(event_inj = SVM_EV_VALID | 1 << 8, "EVENTINJ");
    end();
}

static void asids_run_out_and_start_again(void **state)
{
    (void)state;
    begin(HW_MODEL_NPT);
    uint32_t seen = 0;
    for (unsigned i = 0; i < 40; i++) {
        run(SVM_PAUSE);
        uint32_t asid = model.v->u.svm.vmcb->asid;
        assert_in_range(asid, 1, 15);
        seen |= 1u << asid;
        assert_int_equal(model.engine->mem_changed(model.vm), VMC_OK);
        play.info1 = 0x100000006ull;
        play.info2 = 0x5000;
        run(SVM_NPF);
    }
    assert_int_equal(seen, 0xfffe);
    end();
}

/*
 * A new generation of ASIDs begins with a flush of all, which VMRUN makes. A vCPU that leaves
 * without one has flushed nothing: who comes next has to.
 */
static void kick_late(void *ctx, const void *area, uint64_t mask)
{
    (void)ctx, (void)area, (void)mask;
    if (play.kick)
        model.engine->kick(model.v);
}

static void an_owed_flush_is_not_lost(void **state)
{
    (void)state;
    begin(HW_MODEL_NPT);
    struct vmcb *b = model.v->u.svm.vmcb;
    struct hw_percpu *pc = (struct hw_percpu *)(void *)model.percpu;
    run(SVM_PAUSE);
    assert_int_equal(b->tlb_control, SVM_TLB_KEEP); /* an exit has been */
    model.ops.fpu_load = kick_late;
    pc->tags.next = pc->tags.max + 1;
    model.v->last_cpu = UINT32_MAX; /* it was on another processor */
    model.v->st.activity = VMC_RUN_RUNNING;
    model.v->todo &= ~HW_TODO_IDLE;
    play.entries = 0;
    play.kick = true;
    assert_int_equal(hw_model_run(&model), VMC_OK);
    assert_int_equal(model.x.kind, VMC_EXIT_KICKED);
    assert_int_equal(play.entries, 0);
    assert_int_equal(pc->owes_flush, 1);
    play.kick = false;
    run(SVM_PAUSE);
    assert_int_equal(play.first_tlb_control, SVM_TLB_FLUSH_ALL);
    assert_int_equal(pc->owes_flush, 0);
    end();
}

/* Tags of a processor that was off are not those of before. */
static void tags_end_with_the_processor(void **state)
{
    (void)state;
    for (enum hw_model_cpu cpu = HW_MODEL_FULL; cpu <= HW_MODEL_NPT; cpu += HW_MODEL_NPT) {
        struct vmc_error err = {.text = ""};
        begin(cpu);
        const struct hw_percpu *pc = (const struct hw_percpu *)(const void *)model.percpu;
        uint64_t before = pc->tags.generation;
        vmc_hw_cpu_down(&model.tp.pf);
        assert_int_equal(vmc_hw_cpu_up(&model.tp.pf, &err), VMC_OK);
        assert_int_not_equal(pc->tags.generation, before);
        assert_int_equal(pc->owes_flush, 1);
        end();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths_are_decoded_without_next_rip),
        cmocka_unit_test(code_that_moves_is_found_again),
        cmocka_unit_test(nested_faults_map_pages),
        cmocka_unit_test(page_faults_fill_the_shadow),
        cmocka_unit_test(the_shadow_keeps_to_the_model),
        cmocka_unit_test(decode_assists_name_operands),
        cmocka_unit_test(the_clock_is_scaled),
        cmocka_unit_test(events),
        cmocka_unit_test(bits_of_the_host),
        cmocka_unit_test(xcr0_changes_unseen),
        cmocka_unit_test(xcr0_is_the_host_s_again),
        cmocka_unit_test(the_level_is_the_guest_s),
        cmocka_unit_test(interrupts_are_offered),
        cmocka_unit_test(only_injected_events_are_delivered_again),
        cmocka_unit_test(every_code_has_an_outcome),
        cmocka_unit_test(bad_vmcbs_are_explained),
        cmocka_unit_test(asids_run_out_and_start_again),
        cmocka_unit_test(an_owed_flush_is_not_lost),
        cmocka_unit_test(tags_end_with_the_processor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
