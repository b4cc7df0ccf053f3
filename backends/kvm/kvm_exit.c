/* SPDX-License-Identifier: BSD-2-Clause */
/* From kvm_run to struct vmc_exit. */
#include "kvm_int.h"

#include <string.h>

#define DR6_BREAKPOINTS 0xfull

static void set_exit(struct kvm_evcpu *v, struct vmc_exit *out, uint32_t kind)
{
    memset(out, 0, sizeof(*out));
    out->kind = kind;
    out->rip = v->run->s.regs.regs.rip;
    out->raw.vendor = 0x4d564b; /* "KVM" */
    out->raw.reason = v->run->exit_reason;
}

/* An exit that complete() has to answer. */
static void owe(struct kvm_evcpu *v, struct vmc_exit *out, uint32_t kind)
{
    set_exit(v, out, kind);
    v->debt = DEBT_ANSWER;
    v->exit_kind = kind;
}

static bool decode_io(struct kvm_evcpu *v, struct vmc_exit *out)
{
    const struct kvm_run *r = v->run;
    const char *data = (const char *)r + r->io.data_offset;

    owe(v, out, VMC_EXIT_IO);
    out->u.io.port = r->io.port;
    out->u.io.bytes = r->io.size;
    out->u.io.write = r->io.direction == KVM_EXIT_IO_OUT;
    if (out->u.io.write && r->io.size <= sizeof(out->u.io.data))
        memcpy(&out->u.io.data, data + v->io_index * r->io.size, r->io.size);
    return true;
}

static bool decode_mmio(struct kvm_evcpu *v, struct vmc_exit *out)
{
    struct kvm_run *r = v->run;

    if (r->mmio.len <= sizeof(r->mmio.data) &&
        kvm_mem_access(v->vm, r->mmio.phys_addr, r->mmio.data, r->mmio.len, r->mmio.is_write)) {
        v->debt = DEBT_ENTRY;
        return false;
    }
    owe(v, out, VMC_EXIT_MMIO);
    out->u.mmio.gpa = r->mmio.phys_addr;
    out->u.mmio.bytes = (uint8_t)r->mmio.len;
    out->u.mmio.write = r->mmio.is_write;
    if (r->mmio.is_write && r->mmio.len <= 8)
        memcpy(&out->u.mmio.data, r->mmio.data, r->mmio.len);
    return true;
}

static bool decode_msr(struct kvm_evcpu *v, struct vmc_exit *out)
{
    owe(v, out, VMC_EXIT_MSR);
    out->u.msr.index = v->run->msr.index;
    out->u.msr.write = v->run->exit_reason == KVM_EXIT_X86_WRMSR;
    out->u.msr.value = out->u.msr.write ? v->run->msr.data : 0;
    return true;
}

static bool decode_hlt(struct kvm_evcpu *v, struct vmc_exit *out)
{
    v->halted = true;
    set_exit(v, out, VMC_EXIT_IDLE);
    out->u.idle.why = VMC_IDLE_HLT;
    out->u.idle.irqs_on = v->run->if_flag;
    return true;
}

static bool decode_debug(struct kvm_evcpu *v, struct vmc_exit *out)
{
    const struct kvm_debug_exit_arch *d = &v->run->debug.arch;

    if (v->stepping && d->exception == VMC_VEC_DB && !(d->dr6 & DR6_BREAKPOINTS)) {
        set_exit(v, out, VMC_EXIT_BUDGET);
        out->retired = 1;
        return true;
    }
    set_exit(v, out, VMC_EXIT_DEBUG);
    out->u.stop.why = VMC_DEBUG_STEP;
    out->u.stop.detail = d->pc;
    for (unsigned i = 0; d->exception == VMC_VEC_DB && i < 4; i++) {
        if (!(d->dr6 & (1u << i)))
            continue;
        out->u.stop.why =
            v->watch_kind[i] == VMC_BP_EXEC ? VMC_DEBUG_BREAKPOINT : VMC_DEBUG_WATCH;
        out->u.stop.detail = v->watch_addr[i];
        break;
    }
    return true;
}

static bool decode_system_event(struct kvm_evcpu *v, struct vmc_exit *out)
{
    set_exit(v, out, VMC_EXIT_SHUTDOWN);
    out->u.stop.detail = v->run->system_event.type;
    switch (v->run->system_event.type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
        out->u.stop.why = VMC_STOP_POWER_OFF;
        break;
    case KVM_SYSTEM_EVENT_RESET:
        out->u.stop.why = VMC_STOP_RESET;
        break;
    default:
        out->u.stop.why = VMC_STOP_TRIPLE_FAULT;
        break;
    }
    return true;
}

static bool decode_internal_error(struct kvm_evcpu *v, struct vmc_exit *out)
{
    const struct kvm_run *r = v->run;

    if (r->internal.suberror != KVM_INTERNAL_ERROR_EMULATION) {
        set_exit(v, out, VMC_EXIT_FAIL_ENTRY);
        out->u.stop.detail = r->internal.suberror;
        return true;
    }
    set_exit(v, out, VMC_EXIT_EMULATION);
    if (r->emulation_failure.ndata >= 1 &&
        (r->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
        uint8_t n = r->emulation_failure.insn_size;
        out->u.emulation.len = n <= sizeof(out->u.emulation.bytes) ? n : 0;
        memcpy(out->u.emulation.bytes, r->emulation_failure.insn_bytes, out->u.emulation.len);
    }
    return true;
}

static bool decode_fail_entry(struct kvm_evcpu *v, struct vmc_exit *out)
{
    set_exit(v, out, VMC_EXIT_FAIL_ENTRY);
    out->u.stop.detail = v->run->fail_entry.hardware_entry_failure_reason;
    return true;
}

bool kvm_decode_exit(struct kvm_evcpu *v, struct vmc_exit *out)
{
    switch (v->run->exit_reason) {
    case KVM_EXIT_IO:
        return decode_io(v, out);
    case KVM_EXIT_MMIO:
        return decode_mmio(v, out);
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
        return decode_msr(v, out);
    case KVM_EXIT_HLT:
        return decode_hlt(v, out);
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        v->run->request_interrupt_window = 0;
        set_exit(v, out, VMC_EXIT_IRQ_WINDOW);
        return true;
    case KVM_EXIT_IOAPIC_EOI:
        set_exit(v, out, VMC_EXIT_EOI);
        out->u.eoi.vector = v->run->eoi.vector;
        return true;
    case KVM_EXIT_SHUTDOWN:
        set_exit(v, out, VMC_EXIT_SHUTDOWN);
        out->u.stop.why = VMC_STOP_TRIPLE_FAULT;
        return true;
    case KVM_EXIT_SYSTEM_EVENT:
        return decode_system_event(v, out);
    case KVM_EXIT_DEBUG:
        return decode_debug(v, out);
    case KVM_EXIT_INTERNAL_ERROR:
        return decode_internal_error(v, out);
    case KVM_EXIT_FAIL_ENTRY:
        return decode_fail_entry(v, out);
    case KVM_EXIT_INTR:
    case KVM_EXIT_SET_TPR: /* run reads CR8 after every exit */
        return false;
    default:
        set_exit(v, out, VMC_EXIT_FAIL_ENTRY);
        out->u.stop.detail = v->run->exit_reason;
        return true;
    }
}
