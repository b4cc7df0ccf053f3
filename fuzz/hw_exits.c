/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The VT-x and SVM engines against a processor that exits with anything, in any state: the input
 * chooses the processor, then says, exit by exit, what the control structure holds. Whatever comes,
 * the engine must not touch memory that is not its own, and must come to an end.
 */
#include "hw_model.h"

#include <stdlib.h>

struct input {
    const uint8_t *p;
    size_t left;
};
static struct input in;

static uint64_t take(unsigned bytes)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < bytes && in.left > 0; i++, in.left--)
        v |= (uint64_t)*in.p++ << 8 * i;
    return v;
}

/* Fields that a guest or an exit can change. */
static const uint32_t fields[] = {
    VMCS_QUALIFICATION,    VMCS_GUEST_PHYSICAL,  VMCS_EXIT_INTR_INFO,  VMCS_EXIT_INTR_CODE,
    VMCS_IDT_INFO,         VMCS_IDT_CODE,        VMCS_GUEST_CR0,       VMCS_GUEST_CR3,
    VMCS_GUEST_CR4,        VMCS_GUEST_EFER,      VMCS_GUEST_RSP,       VMCS_GUEST_RFLAGS,
    VMCS_INTERRUPTIBILITY, VMCS_GUEST_GDTR_BASE, VMCS_GUEST_IDTR_BASE, VMCS_GUEST_IDTR_LIMIT,
    VMCS_GUEST_DR7,        VMCS_GUEST_SEL(1),    VMCS_GUEST_BASE(1),   VMCS_GUEST_LIMIT(1),
    VMCS_GUEST_AR(1),      VMCS_GUEST_AR(2),     VMCS_GUEST_BASE(7),   VMCS_GUEST_SYSENTER_EIP,
    VMCS_PML_INDEX,
};

static void scribble_ram(struct hw_model *m)
{
    uint32_t at = (uint32_t)take(3) % (HW_MODEL_RAM - 16);

    for (unsigned i = 0; i < 16; i++)
        m->ram[at + i] = (uint8_t)take(1);
}

static void scribble_registers(uint64_t *gpr)
{
    for (unsigned n = (unsigned)take(1) & 3; n > 0; n--)
        gpr[take(1) & 15] = take(8);
}

static int vmx(struct hw_model *m, struct vmc_hw_vmx_frame *f)
{
    if (in.left == 0) { /* the end: a triple fault */
        f->reason = VMX_TRIPLE;
        return VMC_HW_EXITED;
    }
    f->reason = (uint32_t)take(1) % (VMX_REASONS + 4);
    uint8_t how = (uint8_t)take(1);
    f->insn_len = how & 15;
    if (how & 0x10)
        f->rip = take(8);
    if (how & 0x20)
        scribble_registers(f->gpr);
    if (how & 0x40)
        scribble_ram(m);
    for (unsigned n = how >> 5; n > 0; n--)
        m->field[fields[take(1) % VMCI_ARRAY_SIZE(fields)]] = take(8);
    if (m->v->log != NULL && (how & 0x44) == 0x44) /* what a processor logs */
        m->v->log[take(2) % HW_LOG_ENTRIES] = take(4) << VMC_PAGE_SHIFT;
    f->qualification = m->field[VMCS_QUALIFICATION];
    f->rflags = m->field[VMCS_GUEST_RFLAGS];
    f->interruptibility = (uint32_t)m->field[VMCS_INTERRUPTIBILITY];
    return how == 0xff ? VMC_HW_FAIL : VMC_HW_EXITED;
}

static int svm(struct hw_model *m, struct vmc_hw_svm_frame *f)
{
    struct vmcb *b = (struct vmcb *)(uintptr_t)f->vmcb;

    if (in.left == 0) {
        b->exit_code = SVM_SHUTDOWN;
        return VMC_HW_EXITED;
    }
    uint8_t code = (uint8_t)take(1), how = (uint8_t)take(1);
    b->exit_code = code >= 0xf0 ? SVM_NPF : code == 0xef ? SVM_INVALID : code;
    b->exit_info1 = take(how & 8 ? 8 : 2);
    b->exit_info2 = take(how & 8 ? 8 : 3);
    b->exit_int_info = how & 4 ? take(8) : 0;
    b->nrip = how & 2 ? b->rip + 2 : 0;
    if (how & 0x10)
        b->rip = take(8);
    if (how & 0x20)
        scribble_registers(f->gpr);
    if (how & 0x40)
        scribble_ram(m);
    if (how & 0x80) { /* any byte of the save area */
        unsigned char *save = (unsigned char *)b + 0x400;
        for (unsigned n = (unsigned)take(1) & 15; n > 0; n--)
            save[take(2) % 0x280] = (uint8_t)take(1);
    }
    return VMC_HW_EXITED;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct hw_model m;
    struct vmc_error err;

    if (size < 2 || size > 4096)
        return 0;
    in = (struct input){data, size};
    if (hw_model_init(&m, (enum hw_model_cpu)(take(1) % HW_MODEL_CPUS), &err) != VMC_OK)
        abort();
    m.vmx = vmx;
    m.svm = svm;
    m.io_answer = (int)(take(1) % 3);
    if (hw_model_long_mode(&m) != VMC_OK)
        abort();
    bool log = take(1) & 1;
    if (log && vmc_mem_dirty_start(m.mem, 0) == VMC_OK)
        (void)m.engine->dirty_log(m.vm, true);
    for (unsigned i = 0; i < 256; i++) {
        int rc = hw_model_run(&m);
        if (rc != VMC_OK || m.x.kind == VMC_EXIT_SHUTDOWN || m.x.kind == VMC_EXIT_FAIL_ENTRY ||
            m.x.kind == VMC_EXIT_EMULATION || m.x.kind >= VMC_EXIT_KINDS)
            break;
        if (log) {
            uint64_t bits[4] = {0};
            (void)m.engine->dirty_fetch(m.vm, take(1) << VMC_PAGE_SHIFT, 256, bits);
        }
        m.x.answer = (uint32_t)take(1) % 3;
        m.irq = take(1) & 1 ? (int)take(1) : -1;
        m.engine->irq_notify(m.v);
        (void)m.engine->complete(m.v, &m.x);
        if (in.left == 0 && m.x.kind == VMC_EXIT_IDLE)
            break;
    }
    hw_model_fini(&m);
    if (m.tp.live != 0 || m.tp.bugs != 0)
        abort();
    return 0;
}
