/* SPDX-License-Identifier: BSD-2-Clause */
/* VT-x: what its files share. */
#ifndef HW_VMX_INT_H
#define HW_VMX_INT_H

#include "cpu/hw/hw_int.h"
#include "cpu/hw/vmcs.h"

/*
 * Read the capability MSRs and choose the controls. flags: VMC_HW_CFG_*. VMC_ENOTSUP: err names the
 * first control that is missing.
 */
int vmx_caps_read(const struct vmc_platform *pf, uint32_t flags, struct vmx_caps *out,
                  struct vmc_error *err);

#define VAPIC_TPR 0x80u /* in a virtual-APIC page */

/* Where a checker finds the fields: the current VMCS, or a test's. */
struct vmx_fields {
    void *ctx;
    uint64_t (*read)(void *ctx, uint32_t field);
    const unsigned char *vapic; /* the virtual-APIC page; NULL: not at hand, and not checked */
};
/*
 * The checks that VM entry makes (SDM 3C 27.2 and 27.3), on a whole VMCS. VMC_OK, or VMC_EINVAL:
 * err says which fails, with its section.
 */
int vmx_check_controls(const struct vmx_caps *c, const struct vmx_fields *f, struct vmc_error *err);
int vmx_check_host(const struct vmx_caps *c, const struct vmx_fields *f, struct vmc_error *err);
int vmx_check_guest(const struct vmx_caps *c, const struct vmx_fields *f, struct vmc_error *err);
int vmx_check(const struct vmx_caps *c, const struct vmx_fields *f, struct vmc_error *err);
/* VM-instruction error numbers (SDM 3C table 31-1) as text. */
const char *vmx_insn_error(uint32_t n);

#define VMX_TIMER_MAX 0xffffffffull /* of the preemption timer */

static inline uint64_t vmx_read(const struct hw_vcpu *v, uint32_t field)
{
    uint64_t value = 0;

    (void)v->vm->hw->vmread(hw_ctx(v), field, &value);
    return value;
}
static inline void vmx_write(const struct hw_vcpu *v, uint32_t field, uint64_t value)
{
    (void)v->vm->hw->vmwrite(hw_ctx(v), field, value);
}

int vmx_attach(struct hw_vcpu *v);
void vmx_detach(struct hw_vcpu *v);
int vmx_load(struct hw_vcpu *v);
void vmx_unload(struct hw_vcpu *v);
/* Everything of a new VMCS that never changes. It is attached. */
void vmx_setup(struct hw_vcpu *v);
void vmx_pull(struct hw_vcpu *v, uint32_t groups);
void vmx_push(struct hw_vcpu *v, uint32_t groups);
bool vmx_runnable(struct hw_vcpu *v);
void vmx_inject(struct hw_vcpu *v, const struct vmc_event *e);
void vmx_windows(struct hw_vcpu *v, bool irq, bool nmi);
bool vmx_code64(struct hw_vcpu *v, uint64_t *cr3);
void vmx_flush_tlb(struct hw_vcpu *v);
void vmx_tpr_out(struct hw_vcpu *v);
void vmx_tpr_in(struct hw_vcpu *v);
/* Open reads or writes of an MSR in a bitmap. */
void vmx_open_msr(unsigned char *map, uint32_t index, bool read, bool write);
/* vmx_apic.c: the local APIC in the processor */
int vmx_apic_vm_init(struct hw_vm *vm);
void vmx_apic_vm_fini(struct hw_vm *vm);
void vmx_apic_setup(struct hw_vcpu *v);
bool vmx_post(struct hw_vcpu *v);
int vmx_on_apic_access(struct hw_vcpu *v, struct vmc_exit *x);
/* Is virtual delivery to be held back until the guest opens itself? */
bool vmx_apic_wants_window(struct hw_vcpu *v);
/* The exit was in the delivery of an interrupt by the processor, whatever it says: *vector is it.
 */
bool vmx_apic_was_delivering(struct hw_vcpu *v, uint8_t *vector);
int vmx_on_eoi(struct hw_vcpu *v, struct vmc_exit *x);
int vmx_on_apic_write(struct hw_vcpu *v, struct vmc_exit *x);
int vmx_enter(struct hw_vcpu *v, struct vmc_exit *x);
/* Handle the exit in the frame. */
int vmx_handle(struct hw_vcpu *v, struct vmc_exit *x);
/* The entry failed: say why. reason: as in the frame, or the VM-instruction error. */
int vmx_entry_failed(struct hw_vcpu *v, bool guest_state, uint32_t reason, struct vmc_exit *x);

#endif
