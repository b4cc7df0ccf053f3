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

/* One of those, or any field whatever. */
static uint32_t choose_field(void)
{
    uint8_t i = (uint8_t)take(1);

    return i >= 0xe0 ? (uint32_t)take(2) % HW_MODEL_FIELDS : fields[i % VMCI_ARRAY_SIZE(fields)];
}

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
        m->field[choose_field()] = take(8);
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
    if (how & 0x80) { /* any bytes of the save area, or of the whole VMCB */
        unsigned char *p = (unsigned char *)b;
        uint8_t n = (uint8_t)take(1);
        for (unsigned i = n & 15; i > 0; i--) {
            uint32_t at = (uint32_t)take(2);
            p[n & 0x10 ? at % VMC_PAGE_SIZE : 0x400 + at % 0x280] = (uint8_t)take(1);
        }
    }
    return VMC_HW_EXITED;
}

/*
 * Making a machine takes a hundred times as long as most inputs do, so one of each kind is used
 * again and again, and now and then made anew to see whether it leaves anything behind.
 */
#define RUNS_PER_MACHINE 2048u

struct machine {
    struct hw_model m;
    struct hw_model_copy as_new;
    unsigned runs;
    bool made;
};

static struct hw_model *machine(enum hw_model_cpu cpu)
{
    static struct machine all[HW_MODEL_CPUS];
    struct machine *a = &all[cpu];
    struct vmc_error err;

    if (a->made && ++a->runs == RUNS_PER_MACHINE) {
        a->made = false;
        hw_model_fini(&a->m);
        if (a->m.tp.live != 0)
            abort();
    }
    if (a->made) {
        if (hw_model_again(&a->m, &a->as_new) != VMC_OK)
            abort();
        return &a->m;
    }
    if (hw_model_init(&a->m, cpu, &err) != VMC_OK)
        abort();
    hw_model_keep(&a->m, &a->as_new);
    a->made = true;
    a->runs = 0;
    return &a->m;
}

/* A clock that goes on whenever somebody looks, so that every run ends. */
#define RUN_NS 3u

static uint64_t now_ns(void *ctx)
{
    return ++((struct test_platform *)ctx)->now_ns;
}

static int run(struct hw_model *m)
{
    struct vmc_run_limits lim = {.size = sizeof(lim), .deadline_ns = m->tp.now_ns + RUN_NS};

    return m->engine->run(m->v, &lim, &m->x);
}

static void play(struct hw_model *m, bool log)
{
    for (unsigned i = 0; i < 256; i++) {
        int rc = run(m);
        if (rc != VMC_OK || m->x.kind == VMC_EXIT_SHUTDOWN || m->x.kind == VMC_EXIT_FAIL_ENTRY ||
            m->x.kind == VMC_EXIT_EMULATION || m->x.kind >= VMC_EXIT_KINDS)
            break;
        if (log) {
            uint64_t bits[4] = {0};
            (void)m->engine->dirty_fetch(m->vm, take(1) << VMC_PAGE_SHIFT, 256, bits);
        }
        m->x.answer = (uint32_t)take(1) % 3;
        m->irq = take(1) & 1 ? (int)take(1) : -1;
        m->engine->irq_notify(m->v);
        (void)m->engine->complete(m->v, &m->x);
        if (in.left == 0 && (m->x.kind == VMC_EXIT_IDLE || m->x.kind == VMC_EXIT_BUDGET))
            break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > 4096)
        return 0;
    in = (struct input){data, size};
    struct hw_model *m = machine((enum hw_model_cpu)(take(1) % HW_MODEL_CPUS));
    m->vmx = vmx;
    m->svm = svm;
    m->tp.pf.now_ns = now_ns;
    m->io_answer = (int)(take(1) % 3);
    if (hw_model_long_mode(m) != VMC_OK)
        abort();
    bool log = (take(1) & 1) && vmc_mem_dirty_start(m->mem, 0) == VMC_OK;
    if (log)
        (void)m->engine->dirty_log(m->vm, true);
    play(m, log);
    if (log) {
        (void)m->engine->dirty_log(m->vm, false);
        vmc_mem_dirty_stop(m->mem, 0);
    }
    if (m->tp.bugs != 0)
        abort();
    return 0;
}
