/* SPDX-License-Identifier: BSD-2-Clause */
/* The VT-x engine: entering the guest, life of VMs and vCPUs. */
#include "cpu/hw/vmx_int.h"

#define SITE "vmx"

/* ---- processors -------------------------------------------------------------------------------
 */

int vmx_cpu_up(const struct vmc_platform *pf, struct hw_percpu *pc, struct vmc_error *err)
{
    const struct vmc_hw_ops *hw = pf->hw;
    void *ctx = pf->ctx;
    struct vmx_caps *c = vmci_zalloc(pf, sizeof(*c));

    if (c == NULL)
        return vmci_error(err, VMC_ENOMEM, SITE, "no memory");
    int rc = vmx_caps_read(pf, 0, c, err);
    uint64_t basic = c->basic, set0 = c->cr0_fixed0, set4 = c->cr4_fixed0;
    pc->tags.max = c->vpid ? 0xffff : 0;
    vmci_free(pf, c, sizeof(*c));
    if (rc != VMC_OK)
        return rc;
    uint64_t ctl = hw->rdmsr(ctx, VMC_MSR_FEATURE_CTL);
    if (!(ctl & 1)) /* not locked: allow VMX outside SMX, and lock */
        hw->wrmsr(ctx, VMC_MSR_FEATURE_CTL, ctl | 5);
    pc->page[0] = pf->pages->alloc(ctx, 0, &pc->hpa[0]);
    if (pc->page[0] == NULL)
        return vmci_error(err, VMC_ENOMEM, SITE, "no memory for the VMXON region");
    vmci_st_le32(pc->page[0], (uint32_t)basic & 0x7fffffffu);
    hw->write_cr(ctx, 0, hw->read_cr(ctx, 0) | set0);
    hw->write_cr(ctx, 4, hw->read_cr(ctx, 4) | set4 | VMC_CR4_VMXE);
    rc = hw->vmxon(ctx, pc->hpa[0]);
    if (rc != 0) {
        pf->pages->free(ctx, pc->page[0], 0);
        return vmci_error_host(err, VMC_EHOST, rc, SITE,
                               "VMXON failed on processor %u (is VMX on already?)",
                               pf->cpu->this_cpu(ctx));
    }
    return VMC_OK;
}

void vmx_cpu_down(const struct vmc_platform *pf, struct hw_percpu *pc)
{
    pf->hw->vmxoff(pf->ctx);
    pf->pages->free(pf->ctx, pc->page[0], 0);
}

/* ---- a failed entry ---------------------------------------------------------------------------
 */

static uint64_t read_current(void *ctx, uint32_t field)
{
    return vmx_read(ctx, field);
}

int vmx_entry_failed(struct hw_vcpu *v, bool guest_state, uint32_t reason, struct vmc_exit *x)
{
    struct vmx_fields f = {.ctx = v, .read = read_current, .vapic = v->u.vmx.vapic};
    struct vmc_error err = {.text = "every check that we know passes"};

    (void)vmx_check(&v->vm->caps.vmx, &f, &err);
    vmci_log(v->vm->pf, VMC_LOG_ERROR, SITE, "vCPU %u: VM entry failed (%s, %s %u): %s", v->index,
             guest_state ? "guest state" : vmx_insn_error(reason), guest_state ? "reason" : "error",
             reason & 0xffff, err.text);
    hw_set_exit(v, x, VMC_EXIT_FAIL_ENTRY);
    x->u.stop.detail = reason;
    x->raw.reason = reason;
    x->raw.info[0] = v->u.vmx.frame.qualification;
    return HW_LEAVE;
}

/* ---- engine -----------------------------------------------------------------------------------
 */

static const struct hw_vendor vendor = {
    .id = 1,
    .load = vmx_load,
    .unload = vmx_unload,
    .pull = vmx_pull,
    .push = vmx_push,
    .runnable = vmx_runnable,
    .inject = vmx_inject,
    .windows = vmx_windows,
    .flush_tlb = vmx_flush_tlb,
    .tpr_out = vmx_tpr_out,
    .tpr_in = vmx_tpr_in,
    .post = vmx_post,
    .code64 = vmx_code64,
    .attach = vmx_attach,
    .detach = vmx_detach,
    .enter = vmx_enter,
};

static int probe(const struct vmc_platform *pf, struct vmc_engine_info *out, struct vmc_error *err)
{
    memset(out, 0, sizeof(*out));
    if (vmc_hw_detect(pf, err) != VMC_HW_VMX) {
        int rc = hw_platform_ok(pf, SITE, err);
        return rc != VMC_OK ? rc
                            : vmci_error(err, VMC_ENOTSUP, SITE,
                                         "the processor has no VT-x that firmware allows");
    }
    struct vmx_caps *c = vmci_zalloc(pf, sizeof(*c));
    if (c == NULL)
        return vmci_error(err, VMC_ENOMEM, SITE, "no memory");
    int rc = vmx_caps_read(pf, 0, c, err);
    if (rc == VMC_OK) {
        out->size = sizeof(*out);
        out->caps = VMC_CAP_DEADLINE | VMC_CAP_CPUID_EXIT | VMC_CAP_MSR_EXIT | VMC_CAP_STEP |
                    VMC_CAP_DIRTY_LOG | VMC_CAP_BREAKPOINT | VMC_CAP_IRQ_PULL;
        out->vm_bytes = sizeof(struct hw_vm);
        out->vcpu_bytes = sizeof(struct hw_vcpu);
        out->max_vcpus = HW_MAX_VCPUS;
        hw_ceiling(pf, c->ept, c->invpcid, c->rdtscp, &out->ceiling);
    }
    vmci_free(pf, c, sizeof(*c));
    return rc;
}

/* Reads at 0 (low) and 1024 (C0000000H up), writes 2048 further on (SDM 3C 25.6.9). */
void vmx_open_msr(unsigned char *map, uint32_t index, bool read, bool write)
{
    uint32_t bit = index & 0x1fff;
    unsigned char *p = map + (index >= 0xc0000000u ? 1024 : 0) + bit / 8;

    if (read)
        p[0] &= (unsigned char)~(1u << bit % 8);
    if (write)
        p[2048] &= (unsigned char)~(1u << bit % 8);
}

/* MSRs that exit: all, but those that the VMCS holds or that stay in the processor. */
static void fill_msr_bitmap(struct hw_vm *vm)
{
    static const uint32_t open[] = {VMC_MSR_SYSENTER_CS,  VMC_MSR_SYSENTER_ESP,
                                    VMC_MSR_SYSENTER_EIP, VMC_MSR_FS_BASE,
                                    VMC_MSR_GS_BASE,      VMC_MSR_KERNEL_GS_BASE};

    memset(vm->msr_bitmap, 0xff, VMC_PAGE_SIZE);
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(open); i++)
        vmx_open_msr(vm->msr_bitmap, open[i], true, true);
}

static void vm_fini(void *evm)
{
    struct hw_vm *vm = evm;

    if (vm->msr_bitmap != NULL)
        vm->pf->pages->free(vm->pf->ctx, vm->msr_bitmap, 0);
    vm->msr_bitmap = NULL;
    vmx_apic_vm_fini(vm);
    hw_mem_fini(vm);
}

static int vm_init(void *evm, const struct vmc_engine_vm_config *cfg, struct vmc_error *err)
{
    struct hw_vm *vm = evm;
    struct vmx_caps *c = &vm->caps.vmx;
    int rc = hw_platform_ok(cfg->platform, SITE, err);

    if (rc == VMC_OK)
        rc = hw_vm_init(vm, cfg, &vendor, err);
    if (rc == VMC_OK)
        rc = vmx_caps_read(vm->pf, vm->flags, c, err);
    if (rc != VMC_OK)
        return rc;
    vm->nested = c->ept;
    vm->tsc_fraction = c->tsc_scaling ? 48 : 0;
    hw_ceiling(vm->pf, c->ept, c->invpcid, c->rdtscp, &vm->policy);
    rc = hw_mem_init(vm, &vmci_ept_format, c->ept_1g ? 3 : c->ept_2m ? 2 : 1, c->ept_ad, err);
    if (rc != VMC_OK)
        return rc;
    vm->msr_bitmap = vm->pf->pages->alloc(vm->pf->ctx, 0, &vm->msr_bitmap_hpa);
    if (vm->msr_bitmap == NULL) {
        vm_fini(vm);
        return vmci_error(err, VMC_ENOMEM, SITE, "no memory for the MSR bitmap");
    }
    fill_msr_bitmap(vm);
    rc = vmx_apic_vm_init(vm);
    if (rc != VMC_OK) {
        vm_fini(vm);
        return vmci_error(err, rc, SITE, "no memory for the APIC-access page");
    }
    return VMC_OK;
}

static void free_pages(struct hw_vcpu *v)
{
    const struct vmc_platform *pf = v->vm->pf;
    void *log = v->log;
    void **page[] = {&v->u.vmx.vmcs, &v->u.vmx.vapic, &v->u.vmx.msr_load, &log};

    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(page); i++) {
        if (*page[i] != NULL)
            pf->pages->free(pf->ctx, *page[i], 0);
        *page[i] = NULL;
    }
    v->log = NULL;
}

static void vcpu_fini(void *ev)
{
    struct hw_vcpu *v = ev;

    if (v->vm == NULL)
        return;
    free_pages(v);
    hw_vcpu_fini(v);
}

static int vcpu_init(void *evm, void *ev, uint32_t index, const struct vmc_engine_io *io,
                     struct vmc_error *err)
{
    struct hw_vm *vm = evm;
    struct hw_vcpu *v = ev;
    struct vmx_vcpu *x = &v->u.vmx;
    const struct vmc_pages_ops *pages = vm->pf->pages;
    const struct vmx_caps *c = &vm->caps.vmx;
    int rc = hw_vcpu_init(vm, v, index, io, err);

    if (rc != VMC_OK)
        return rc;
    x->vmcs = pages->alloc(vm->pf->ctx, 0, &x->vmcs_hpa);
    x->vapic = pages->alloc(vm->pf->ctx, 0, &x->vapic_hpa);
    x->msr_load = pages->alloc(vm->pf->ctx, 0, &x->msr_load_hpa);
    if (c->pml)
        v->log = pages->alloc(vm->pf->ctx, 0, &x->log_hpa);
    if (x->vmcs == NULL || x->vapic == NULL || x->msr_load == NULL || (c->pml && v->log == NULL)) {
        vcpu_fini(v);
        return vmci_error(err, VMC_ENOMEM, SITE, "no memory for the VMCS of vCPU %u", index);
    }
    vmci_st_le32(x->vmcs, (uint32_t)c->basic & 0x7fffffffu);
    x->frame.gpr = v->st.gpr;
    x->frame.stop = &v->stop;
    x->frame.flags = (c->timer ? VMC_HW_TIMER : 0) | vm->spec.entry_flags;
    vm->hw->vmclear(vm->pf->ctx, x->vmcs_hpa);
    rc = vmx_attach(v);
    if (rc != VMC_OK) {
        vcpu_fini(v);
        return vmci_error(err, rc, SITE, "VMPTRLD failed: call vmc_hw_cpu_up on this processor");
    }
    vmx_setup(v);
    vmx_detach(v);
    hw_vcpu_publish(v);
    return VMC_OK;
}

const struct vmc_engine_ops *vmc_engine_vmx(void)
{
    static const struct vmc_engine_ops ops = {
        HW_ENGINE_OPS,      .name = "vmx",          .probe = probe,         .vm_init = vm_init,
        .vm_fini = vm_fini, .vcpu_init = vcpu_init, .vcpu_fini = vcpu_fini,
    };
    return &ops;
}
