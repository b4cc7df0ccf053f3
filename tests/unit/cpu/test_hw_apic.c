/* SPDX-License-Identifier: BSD-2-Clause */
/* The local APIC in the processor and posted interrupts, on a model of a processor with both. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "hw_model.h"

#define ALL   (PROC2_APIC_ACCESS | PROC2_X2APIC | PROC2_APIC_REG | PROC2_VID)
#define XAPIC (PROC2_APIC_ACCESS | PROC2_APIC_REG | PROC2_VID)
#define X2    (PROC2_X2APIC | PROC2_APIC_REG | PROC2_VID)

static struct hw_model model;

/* What the guest does at its first entry, then HLT. */
struct play {
    uint32_t reason;
    uint64_t qualification;
    uint32_t intr_info;
    uint32_t page_at, page_value; /* 0: nothing is written */
    void (*in_guest)(struct hw_model *m);
    unsigned entries, deliveries;
    uint8_t delivered[4];
    /* What the last entry found. */
    uint32_t proc, proc2, pin, status, entry_info;
    uint64_t eoi_exit[4], bitmap;
};
static struct play play;

static uint64_t model_field(void *ctx, uint32_t field)
{
    return ((struct hw_model *)ctx)->field[field];
}

static void look(struct hw_model *m)
{
    struct vmx_fields f = {.ctx = m, .read = model_field, .vapic = m->v->u.vmx.vapic};
    struct vmc_error err = {.text = ""};

    if (vmx_check(&m->vm->caps.vmx, &f, &err) != VMC_OK)
        fail_msg("%s", err.text);
    play.proc = (uint32_t)m->field[VMCS_PROC_CTL];
    play.proc2 = (uint32_t)m->field[VMCS_PROC2_CTL];
    play.pin = (uint32_t)m->field[VMCS_PIN_CTL];
    if (play.deliveries == 0)
        play.status = (uint32_t)m->field[VMCS_GUEST_INTR_STATUS];
    play.entry_info = (uint32_t)m->field[VMCS_ENTRY_INTR_INFO];
    play.bitmap = m->field[VMCS_MSR_BITMAP];
    for (unsigned i = 0; i < 4; i++)
        play.eoi_exit[i] = m->field[VMCS_EOI_EXIT0 + 2 * i];
}

/* What the processor does for a guest with interrupts on; it ends each of them at once. */
static void deliver(struct hw_model *m)
{
    uint8_t *page = m->v->u.vmx.vapic;

    if (!(m->field[VMCS_GUEST_RFLAGS] & VMC_FLAG_IF))
        return;
    for (unsigned vector = 255; vector > 31; vector--) {
        uint8_t *irr = page + 0x200 + vector / 32 * 16;
        uint32_t w = vmci_ld_le32(irr), bit = 1u << vector % 32;
        if (w & bit)
            play.delivered[play.deliveries++ & 3] = (uint8_t)vector;
        vmci_st_le32(irr, w & ~bit);
    }
}

static int on_entry(struct hw_model *m, struct vmc_hw_vmx_frame *f)
{
    look(m);
    deliver(m);
    m->field[VMCS_IDT_INFO] = 0;
    if (play.entries++ == 0 && play.reason != 0) {
        f->reason = play.reason;
        f->qualification = play.qualification;
        m->field[VMCS_EXIT_INTR_INFO] = play.intr_info;
        if (play.page_at != 0)
            vmci_st_le32((uint8_t *)m->v->u.vmx.vapic + play.page_at, play.page_value);
        if (play.in_guest != NULL)
            play.in_guest(m);
        return VMC_HW_EXITED;
    }
    f->reason = VMX_HLT;
    f->insn_len = 1;
    return VMC_HW_EXITED;
}

static void begin(void)
{
    struct vmc_error err = {.text = ""};

    if (hw_model_init(&model, HW_MODEL_APIC, &err) != VMC_OK)
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
    assert_false(model.apic.lent);
}

static void request(unsigned vector)
{
    model.apic.irr[vector / 32] |= 1u << vector % 32;
    model.engine->irq_notify(model.v);
}

static void set_if(bool on)
{
    model.field[VMCS_GUEST_RFLAGS] = on ? 0x202 : 2;
    model.v->st.rflags = on ? 0x202 : 2;
    hw_changed(model.v, VMC_ST_RIP);
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void controls_follow_the_mode(void **state)
{
    static const struct {
        uint32_t mode, proc2;
        bool posts;
    } cases[] = {
        {VMC_APIC_XAPIC, XAPIC, true},
        {VMC_APIC_X2APIC, X2, true},
        {VMC_APIC_KEPT, 0, false},
        {VMC_APIC_XAPIC, XAPIC, true},
    };

    (void)state;
    begin();
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(cases); i++) {
        model.apic.mode = cases[i].mode;
        run(0);
        assert_int_equal(play.proc2 & ALL, cases[i].proc2);
        assert_int_equal((play.pin & PIN_POSTED) != 0, cases[i].posts);
        assert_int_equal(model.v->posting, cases[i].posts);
        assert_int_equal(play.bitmap, cases[i].mode == VMC_APIC_X2APIC ? model.vm->msr_bitmap_x2_hpa
                                                                       : model.vm->msr_bitmap_hpa);
    }
    /* From the second one on somebody did not have it at its address in memory. */
    assert_false(model.vm->apic_page_used);
    end();
}

static void it_is_asked_for_and_whole(void **state)
{
    struct vmx_caps c;
    struct vmc_error err;

    (void)state;
    begin();
    assert_int_equal(vmx_caps_read(&model.tp.pf, 0, &c, &err), VMC_OK);
    assert_true(c.vid && c.posted && !c.weak_vid);
    assert_int_equal(vmx_caps_read(&model.tp.pf, VMC_HW_CFG_NO_APIC, &c, &err), VMC_OK);
    assert_false(c.vid || c.posted);
    assert_int_equal(c.use_exit & EXIT_ACK, 0);
    model.ops.notify = NULL;
    assert_int_equal(vmx_caps_read(&model.tp.pf, 0, &c, &err), VMC_OK);
    assert_false(c.vid || c.posted);
    assert_int_equal(vmx_caps_read(&model.tp.pf, VMC_HW_CFG_APIC, &c, &err), VMC_OK);
    assert_true(c.vid);
    assert_false(c.posted || c.weak_vid); /* it could post; we cannot notify */
    uint64_t old = hw_model_get_msr(&model, MSR_VMX_PROC2);
    hw_model_set_msr(&model, MSR_VMX_PROC2, old & ~((uint64_t)PROC2_APIC_REG << 32));
    assert_int_equal(vmx_caps_read(&model.tp.pf, VMC_HW_CFG_APIC, &c, &err), VMC_OK);
    assert_false(c.vid);
    assert_int_equal(c.use_proc2 & ALL, 0);
    end();
}

static void the_processor_delivers(void **state)
{
    (void)state;
    begin();
    for (unsigned open = 0; open < 2; open++) {
        set_if(open != 0);
        memset(&model.apic.irr, 0, sizeof(model.apic.irr));
        model.apic.isr[1] = 1u << 0x10; /* 0x30 */
        request(0x51);
        request(0x4f);
        run(0);
        assert_int_equal(play.status, 0x51 | 0x30 << 8);
        assert_int_equal(play.entry_info & INTR_VALID, 0);
        assert_int_equal(play.proc & PROC_IRQ_WINDOW, 0);
        assert_int_equal(model.acks, 0);
        /* Not delivered: they are back. */
        assert_int_equal(model.apic.irr[2], open ? 0 : 1u << 0x11 | 1u << 0x0f);
        assert_int_equal(play.deliveries, open ? 2 : 0);
    }
    assert_int_equal(play.delivered[0], 0x51);
    assert_int_equal(play.delivered[1], 0x4f);
    end();
}

static void the_8259_needs_us(void **state)
{
    (void)state;
    begin();
    set_if(false);
    model.irq = 0;
    model.engine->irq_notify(model.v);
    run(VMX_IRQ_WINDOW);
    assert_int_not_equal(play.proc & PROC_IRQ_WINDOW, 0);
    assert_int_equal(model.acks, 0);
    set_if(true);
    run(VMX_TIMER);
    assert_int_equal(model.acks, 1);
    end();
}

static void halt_ends_with_a_request(void **state)
{
    (void)state;
    begin();
    set_if(true);
    run(0);
    assert_int_equal(model.x.kind, VMC_EXIT_IDLE);
    request(0x61);
    play.entries = 0;
    assert_int_equal(hw_model_run(&model), VMC_OK);
    assert_true(play.entries > 0);
    assert_int_equal(play.status & 0xff, 0x61);
    end();
}

static void ends_of_level_interrupts_exit(void **state)
{
    (void)state;
    begin();
    model.apic.level[2] = 1u << 5; /* 0x45 */
    play.qualification = 0x45;
    run(VMX_EOI);
    assert_int_equal(play.eoi_exit[1], 1u << 5);
    assert_int_equal(model.apic.eois, 1);
    assert_int_equal(model.apic.eoi_vector, 0x45);
    end();
}

static void writes_are_passed_on(void **state)
{
    (void)state;
    begin();
    play.qualification = 0x300;
    play.page_at = 0x300;
    play.page_value = 0x000c4031;
    run(VMX_APIC_WRITE);
    assert_int_equal(model.last_mmio, 0xfee00300);
    assert_int_equal(model.mmio_written, 0x000c4031);
    model.apic.mode = VMC_APIC_X2APIC;
    run(0);
    play.qualification = play.page_at = 0x3f0;
    play.page_value = 5; /* no vector that the processor sends by itself */
    run(VMX_APIC_WRITE);
    assert_int_equal(model.last_msr, 0x83f);
    assert_int_equal(model.mmio_written, 5);
    end();
}

static void other_accesses_are_device_accesses(void **state)
{
    static const uint8_t code[] = {0x48, 0xc7, 0xc3, 0x90,
                                   0x03, 0xe0, 0xfe, /* by hand: RBX is set */
                                   0x8b, 0x03};      /* mov (%rbx), %eax */

    (void)state;
    begin();
    memcpy(model.ram + 0x8000, code + 7, 2);
    model.v->st.gpr[VMC_RBX] = 0xfee00390;
    hw_changed(model.v, VMC_ST_GPR);
    play.qualification = 0x390; /* the current count: it has no place in the page */
    run(VMX_APIC_ACCESS);
    assert_int_equal(model.last_mmio, 0xfee00390);
    assert_int_equal(model.v->st.gpr[VMC_RAX], 0x55);
    end();
}

/* A vCPU whose local APIC is not lent from the start finds a device there, not a page of memory. */
static void the_page_is_for_those_who_lend(void **state)
{
    (void)state;
    for (unsigned lends = 0; lends < 2; lends++) {
        begin();
        memset(model.ram + 0x8000, 0x90, 16);
        model.apic.mode = lends != 0 ? VMC_APIC_XAPIC : VMC_APIC_KEPT;
        model.field[VMCS_GUEST_PHYSICAL] = VMC_APIC_DEFAULT_GPA + 0x20;
        play.qualification = 1;
        run(VMX_EPT_VIOLATION);
        assert_int_equal(vmci_slat_lookup(&model.vm->slat, VMC_APIC_DEFAULT_GPA).kind,
                         lends != 0 ? VMCI_SLAT_LEAF : VMCI_SLAT_MMIO);
        end();
    }
}

static void open_msrs_of_x2apic(void **state)
{
    (void)state;
    begin();
    const uint8_t *map = model.vm->msr_bitmap_x2, *plain = model.vm->msr_bitmap;
    for (uint32_t i = 0x800; i < 0x900; i++) {
        bool read = (map[i / 8] & 1u << i % 8) == 0, write = (map[2048 + i / 8] & 1u << i % 8) == 0;
        assert_int_equal(write, i == 0x808 || i == 0x80b || i == 0x83f);
        /* The current count moves, the ICR is two registers, EOI and self-IPI are not readable. */
        assert_false(read && (i == 0x839 || i == 0x830 || i == 0x80b || i == 0x83f || i > 0x83e));
        assert_true(plain[i / 8] & 1u << i % 8);
        assert_true(plain[2048 + i / 8] & 1u << i % 8);
    }
    end();
}

/* ---- posting --------------------------------------------------------------------------------- */

static void post_51(struct hw_model *m)
{
    (void)m;
    assert_int_equal(model.v->in_guest, 1);
    request(0x51);
    request(0x52);
}

static void requests_are_posted_into_the_guest(void **state)
{
    (void)state;
    begin();
    set_if(false);
    play.in_guest = post_51;
    run(VMX_TIMER);
    assert_int_equal(model.notifies, 1); /* the second one found ON */
    assert_int_equal(model.interrupts, 0);
    /* The exit came before the notification: the next entry has them. */
    assert_int_equal(play.status & 0xff, 0x52);
    assert_int_equal(model.apic.irr[2], 1u << 0x11 | 1u << 0x12);
    end();
}

static void post_level(struct hw_model *m)
{
    m->apic.level[2] = 1u << 0x11;
    request(0x51);
}

static void level_interrupts_are_not_posted(void **state)
{
    (void)state;
    begin();
    set_if(false);
    play.in_guest = post_level;
    run(VMX_TIMER);
    assert_int_equal(model.notifies, 0);
    assert_int_equal(model.interrupts, 1);
    assert_int_equal(play.status & 0xff, 0x51);
    assert_int_equal(play.eoi_exit[1], 1u << 0x11);
    end();
}

static void post_both(struct hw_model *m)
{
    m->apic.level[2] = 1u << 0x11;
    m->apic.irr[2] = 1u << 0x12;
    request(0x51);
}

/* An edge-triggered one that was moved to the descriptor beside a level-triggered one that stays.
 */
static void nothing_stays_in_the_descriptor(void **state)
{
    (void)state;
    begin();
    set_if(false);
    play.in_guest = post_both;
    run(VMX_TIMER);
    assert_int_equal(model.notifies, 0);
    assert_int_equal(model.interrupts, 1);
    assert_int_equal(play.status & 0xff, 0x52);
    assert_int_equal(model.apic.irr[2], 1u << 0x11 | 1u << 0x12);
    end();
}

static void the_host_handles_what_was_acknowledged(void **state)
{
    (void)state;
    begin();
    play.intr_info = INTR_VALID | 0xf0;
    run(VMX_EXTINT);
    assert_int_equal(model.raised, 1);
    assert_int_equal(model.raised_vector, 0xf0);
    end();
}

/* Somebody posts just as the guest leaves for good. */
static void late_posts_are_put_back(void **state)
{
    (void)state;
    begin();
    set_if(false);
    run(0);
    assert_true(model.v->posting);
    model.apic.irr[2] = 1u << 0x11;
    assert_true(model.vm->vendor->post(model.v));
    assert_int_equal(model.notifies, 0);
    assert_int_equal(model.apic.irr[2], 1u << 0x11);
    assert_int_equal(model.v->stop & HW_REQ_IRQ, HW_REQ_IRQ);
    run(0);
    assert_int_equal(play.status & 0xff, 0x51);
    end();
}

/* ---- Bochs 2.7 ------------------------------------------------------------------------------- */

static void weak_processors_deliver_to_open_guests_only(void **state)
{
    (void)state;
    begin();
    model.vm->caps.vmx.weak_vid = true;
    for (unsigned open = 0; open < 2; open++) {
        set_if(open != 0);
        request(0x51);
        run(VMX_TIMER);
        assert_int_equal((play.proc & PROC_IRQ_WINDOW) != 0, !open);
        for (unsigned i = 0; i < 4 && !open; i++)
            assert_int_equal(play.eoi_exit[i], UINT64_MAX);
    }
    assert_int_equal(play.deliveries, 1);
    /* Nothing is requested: EOIs need no exit. */
    request(0x52);
    run(0);
    run(0);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(play.eoi_exit[i], 0);
    end();
}

/* The delivery of 0x51 met an unmapped page; what the processor notes is a #PF of long ago. */
static void exit_under_delivery(struct hw_model *m)
{
    m->field[VMCS_IDT_INFO] = INTR_VALID | INTR_CODE | VMC_EV_EXCEPTION << 8 | VMC_VEC_PF;
    m->field[VMCS_GUEST_INTR_STATUS] = 0x51u << 8;
    m->field[VMCS_GUEST_PHYSICAL] = 0x20000;
}

static void weak_processors_forget_what_they_deliver(void **state)
{
    (void)state;
    begin();
    for (unsigned is_weak = 0; is_weak < 2; is_weak++) {
        model.vm->caps.vmx.weak_vid = is_weak != 0;
        set_if(true);
        play.in_guest = exit_under_delivery;
        play.qualification = 0x182; /* write */
        run(VMX_EPT_VIOLATION);
        assert_int_equal(play.entry_info & (INTR_VALID | 0x7ff),
                         is_weak ? INTR_VALID | 0x51
                                 : INTR_VALID | VMC_EV_EXCEPTION << 8 | VMC_VEC_PF);
    }
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(controls_follow_the_mode),
        cmocka_unit_test(it_is_asked_for_and_whole),
        cmocka_unit_test(the_processor_delivers),
        cmocka_unit_test(the_8259_needs_us),
        cmocka_unit_test(halt_ends_with_a_request),
        cmocka_unit_test(ends_of_level_interrupts_exit),
        cmocka_unit_test(writes_are_passed_on),
        cmocka_unit_test(other_accesses_are_device_accesses),
        cmocka_unit_test(the_page_is_for_those_who_lend),
        cmocka_unit_test(open_msrs_of_x2apic),
        cmocka_unit_test(requests_are_posted_into_the_guest),
        cmocka_unit_test(level_interrupts_are_not_posted),
        cmocka_unit_test(the_host_handles_what_was_acknowledged),
        cmocka_unit_test(late_posts_are_put_back),
        cmocka_unit_test(nothing_stays_in_the_descriptor),
        cmocka_unit_test(weak_processors_deliver_to_open_guests_only),
        cmocka_unit_test(weak_processors_forget_what_they_deliver),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
