/* SPDX-License-Identifier: BSD-2-Clause */
/* The SVM engine: capabilities, checks, entering the guest, life of VMs and vCPUs. */
#include "cpu/hw/svm_int.h"

#define SITE        "svm"
#define IOPM_ORDER  2u /* 12 KiB, of 16 */
#define MSRPM_ORDER 1u

/* ---- capabilities -----------------------------------------------------------------------------
 */

/* Of QEMU's processor, in the leaf of hypervisors: "TCGTCGTCGTCG". */
static bool is_tcg(const struct vmc_platform *pf)
{
    uint32_t r[4];

    pf->hw->cpuid(pf->ctx, 1, 0, r);
    if ((r[2] & 1u << 31) == 0)
        return false;
    pf->hw->cpuid(pf->ctx, 0x40000000u, 0, r);
    return r[1] == 0x54474354u && r[2] == 0x43544743u && r[3] == 0x47435447u;
}

int svm_caps_read(const struct vmc_platform *pf, uint32_t flags, struct svm_caps *c,
                  struct vmc_error *err)
{
    uint32_t r[4];

    memset(c, 0, sizeof(*c));
    pf->hw->cpuid(pf->ctx, 0x8000000au, 0, r);
    c->asids = r[1];
    c->features = r[3];
    if (c->asids < 2)
        return vmci_error(err, VMC_ENOTSUP, SITE,
                          "the processor has %u ASIDs (CPUID.8000000AH:EBX), at least 2 are needed",
                          c->asids);
    c->npt = (r[3] & SVM_F_NPT) != 0 && !(flags & VMC_HW_CFG_NO_NESTED);
    c->nrips = (r[3] & SVM_F_NRIP) != 0;
    c->clean_bits = (r[3] & SVM_F_CLEAN) != 0;
    c->flush_asid = (r[3] & SVM_F_ASID) != 0;
    c->decode = (r[3] & SVM_F_DECODE) != 0;
    c->tsc_ratio = (r[3] & SVM_F_TSC) != 0;
    c->pause_filter = (r[3] & SVM_F_PAUSE) != 0;
    c->lbr = (r[3] & SVM_F_LBR) != 0;
    c->vgif = (r[3] & SVM_F_VGIF) != 0;
    c->offer_irqs = is_tcg(pf);
    pf->hw->cpuid(pf->ctx, 0x80000001u, 0, r);
    c->npt_1g = c->npt && (r[3] & (1u << 26)) != 0;
    return VMC_OK;
}

static __attribute__((noinline, cold)) int refuse(struct vmc_error *err, const char *what,
                                                  uint64_t value)
{
    return vmci_error(err, VMC_EINVAL, "svm/check", "APM 2 15.5.1: %s (0x%llx)", what,
                      (unsigned long long)value);
}

#define REQUIRE(cond, what, value)                                                                 \
    do {                                                                                           \
        if (!(cond))                                                                               \
            return refuse(err, what, value);                                                       \
    } while (0)

#define EFER_KNOWN                                                                                 \
    (VMC_EFER_SCE | VMC_EFER_LME | VMC_EFER_LMA | VMC_EFER_NX | VMC_EFER_SVME | VMC_EFER_LMSLE |   \
     VMC_EFER_FFXSR)

int svm_check(const struct vmcb *b, unsigned phys_bits, struct vmc_error *err)
{
    unsigned type = (unsigned)(b->event_inj >> 8) & 7, vector = b->event_inj & 0xff;
    bool lme = (b->efer & VMC_EFER_LME) != 0, pg = (b->cr0 & VMC_CR0_PG) != 0;

    REQUIRE((b->efer & VMC_EFER_SVME) != 0, "EFER.SVME is 0", b->efer);
    REQUIRE(!(b->cr0 & VMC_CR0_NW) || (b->cr0 & VMC_CR0_CD), "CR0: NW without CD", b->cr0);
    REQUIRE(b->cr0 >> 32 == 0, "CR0 is above 32 bits", b->cr0);
    REQUIRE(!lme || b->cr3 >> phys_bits == 0, "CR3: reserved bits", b->cr3);
    REQUIRE(b->cr4 >> 32 == 0, "CR4: reserved bits", b->cr4);
    REQUIRE(b->dr6 >> 32 == 0, "DR6 is above 32 bits", b->dr6);
    REQUIRE(b->dr7 >> 32 == 0, "DR7 is above 32 bits", b->dr7);
    REQUIRE((b->efer & ~EFER_KNOWN) == 0, "EFER: reserved bits", b->efer);
    REQUIRE(!lme || !pg || (b->cr4 & VMC_CR4_PAE), "long mode without CR4.PAE", b->cr4);
    REQUIRE(!lme || !pg || (b->cr0 & VMC_CR0_PE), "long mode without CR0.PE", b->cr0);
    REQUIRE(!lme || !pg || (b->cs.attr & 0x600) != 0x600, "CS: L and D are both 1", b->cs.attr);
    REQUIRE((b->misc2 & SVM_I_VMRUN) != 0, "VMRUN is not intercepted", b->misc2);
    REQUIRE(b->asid != 0, "ASID is 0", 0);
    REQUIRE(b->iopm >> phys_bits == 0 && b->msrpm >> phys_bits == 0,
            "I/O or MSR permission map beyond physical memory", b->iopm);
    REQUIRE(!(b->np_enable & 1) || (b->n_cr3 & 0xfff) == 0, "N_CR3: reserved bits", b->n_cr3);
    if (b->event_inj & SVM_EV_VALID) {
        REQUIRE(type == VMC_EV_IRQ || (type >= VMC_EV_NMI && type <= VMC_EV_SOFT_INT),
                "EVENTINJ: type is reserved", b->event_inj);
        REQUIRE(type != VMC_EV_EXCEPTION || (vector < 32 && vector != VMC_VEC_NMI),
                "EVENTINJ: an exception with this vector does not exist", b->event_inj);
    }
    return VMC_OK;
}

/* ---- processors -------------------------------------------------------------------------------
 */

int svm_cpu_up(const struct vmc_platform *pf, struct hw_percpu *pc, struct vmc_error *err)
{
    const struct vmc_hw_ops *hw = pf->hw;
    struct svm_caps c;
    int rc = svm_caps_read(pf, 0, &c, err);

    if (rc != VMC_OK)
        return rc;
    for (unsigned i = 0; i < 2; i++) {
        pc->page[i] = pf->pages->alloc(pf->ctx, 0, &pc->hpa[i]);
        if (pc->page[i] == NULL) {
            if (i != 0)
                pf->pages->free(pf->ctx, pc->page[0], 0);
            return vmci_error(err, VMC_ENOMEM, SITE, "no memory for the host save area");
        }
    }
    pc->tags.max = c.asids - 1;
    hw->wrmsr(pf->ctx, VMC_MSR_EFER, hw->rdmsr(pf->ctx, VMC_MSR_EFER) | VMC_EFER_SVME);
    hw->wrmsr(pf->ctx, MSR_VM_HSAVE, pc->hpa[0]);
    return VMC_OK;
}

void svm_cpu_down(const struct vmc_platform *pf, struct hw_percpu *pc)
{
    const struct vmc_hw_ops *hw = pf->hw;

    hw->wrmsr(pf->ctx, MSR_VM_HSAVE, 0);
    hw->wrmsr(pf->ctx, VMC_MSR_EFER, hw->rdmsr(pf->ctx, VMC_MSR_EFER) & ~VMC_EFER_SVME);
    pf->pages->free(pf->ctx, pc->page[0], 0);
    pf->pages->free(pf->ctx, pc->page[1], 0);
}

/* ---- vendor -----------------------------------------------------------------------------------
 */

/* Where DBGCTL cannot be the guest's own, the software CPU steps from branch to branch. */
static bool runnable(struct hw_vcpu *v)
{
    return v->vm->caps.svm.lbr || (v->st.msr.debugctl & VMC_DEBUGCTL_BTF) == 0;
}

static int attach(struct hw_vcpu *v)
{
    (void)v;
    return VMC_OK;
}

static void detach(struct hw_vcpu *v)
{
    (void)v;
}

static const struct hw_vendor vendor = {
    .id = 2,
    .load = svm_load,
    .unload = svm_unload,
    .pull = svm_pull,
    .push = svm_push,
    .runnable = runnable,
    .inject = svm_inject,
    .windows = svm_windows,
    .flush_tlb = svm_flush_tlb,
    .tpr_out = svm_tpr_out,
    .tpr_in = svm_tpr_in,
    .code64 = svm_code64,
    .fetched = svm_fetched,
    .attach = attach,
    .detach = detach,
    .enter = svm_enter,
};

/* ---- engine -----------------------------------------------------------------------------------
 */

static int probe(const struct vmc_platform *pf, struct vmc_engine_info *out, struct vmc_error *err)
{
    struct svm_caps c;

    memset(out, 0, sizeof(*out));
    int rc = hw_platform_ok(pf, SITE, err);
    if (rc != VMC_OK)
        return rc;
    if (vmc_hw_detect(pf, err) != VMC_HW_SVM)
        return vmci_error(err, VMC_ENOTSUP, SITE, "the processor has no SVM that firmware allows");
    rc = svm_caps_read(pf, 0, &c, err);
    if (rc != VMC_OK)
        return rc;
    out->size = sizeof(*out);
    out->caps = VMC_CAP_CPUID_EXIT | VMC_CAP_MSR_EXIT | VMC_CAP_STEP | VMC_CAP_DIRTY_LOG |
                VMC_CAP_BREAKPOINT | VMC_CAP_IRQ_PULL | VMC_CAP_DEADLINE;
    out->vm_bytes = sizeof(struct hw_vm);
    out->vcpu_bytes = sizeof(struct hw_vcpu);
    out->max_vcpus = HW_MAX_VCPUS;
    hw_ceiling(pf, c.npt, c.npt, true, &out->ceiling);
    return VMC_OK;
}

/* Two bits an MSR, read and write; three ranges of 8192 (APM 2 15.11). */
static void open_msr(unsigned char *map, uint32_t index)
{
    uint32_t base = index >= 0xc0010000u ? 0x1000 : index >= 0xc0000000u ? 0x800 : 0;
    uint32_t bit = (index & 0x1fff) * 2;

    map[base + bit / 8] &= (unsigned char)~(3u << bit % 8);
}

static void fill_bitmaps(struct hw_vm *vm)
{
    static const uint32_t open[] = {
        VMC_MSR_SYSENTER_CS, VMC_MSR_SYSENTER_ESP,  VMC_MSR_SYSENTER_EIP, VMC_MSR_STAR,
        VMC_MSR_LSTAR,       VMC_MSR_CSTAR,         VMC_MSR_SFMASK,       VMC_MSR_FS_BASE,
        VMC_MSR_GS_BASE,     VMC_MSR_KERNEL_GS_BASE};

    memset(vm->io_bitmap, 0xff, VMC_PAGE_SIZE << IOPM_ORDER);
    memset(vm->msr_bitmap, 0xff, VMC_PAGE_SIZE << MSRPM_ORDER);
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(open); i++)
        open_msr(vm->msr_bitmap, open[i]);
}

static void vm_fini(void *evm)
{
    struct hw_vm *vm = evm;

    if (vm->msr_bitmap != NULL)
        vm->pf->pages->free(vm->pf->ctx, vm->msr_bitmap, MSRPM_ORDER);
    if (vm->io_bitmap != NULL)
        vm->pf->pages->free(vm->pf->ctx, vm->io_bitmap, IOPM_ORDER);
    vm->msr_bitmap = vm->io_bitmap = NULL;
    hw_mem_fini(vm);
}

static int vm_init(void *evm, const struct vmc_engine_vm_config *cfg, struct vmc_error *err)
{
    struct hw_vm *vm = evm;
    struct svm_caps *c = &vm->caps.svm;
    int rc = hw_platform_ok(cfg->platform, SITE, err);

    if (rc == VMC_OK)
        rc = hw_vm_init(vm, cfg, &vendor, err);
    if (rc == VMC_OK)
        rc = svm_caps_read(vm->pf, vm->flags, c, err);
    if (rc != VMC_OK)
        return rc;
    vm->nested = c->npt;
    vm->tsc_fraction = c->tsc_ratio ? 32 : 0;
    vm->fetches = c->decode;
    /* QEMU 7.2 knows the intercept of XSETBV, but has no look at it where it executes it. */
    vm->own_xcr0 = c->offer_irqs;
    hw_ceiling(vm->pf, c->npt, c->npt, true, &vm->policy);
    rc = hw_mem_init(vm, &vmci_npt_format, c->npt_1g ? 3 : 2, true, err);
    if (rc != VMC_OK)
        return rc;
    const struct vmc_pages_ops *pages = vm->pf->pages;
    vm->msr_bitmap = pages->alloc(vm->pf->ctx, MSRPM_ORDER, &vm->msr_bitmap_hpa);
    vm->io_bitmap = pages->alloc(vm->pf->ctx, IOPM_ORDER, &vm->io_bitmap_hpa);
    if (vm->msr_bitmap == NULL || vm->io_bitmap == NULL) {
        vm_fini(vm);
        return vmci_error(err, VMC_ENOMEM, SITE, "no memory for the permission maps");
    }
    fill_bitmaps(vm);
    return VMC_OK;
}

static void vcpu_fini(void *ev)
{
    struct hw_vcpu *v = ev;

    if (v->vm == NULL)
        return;
    if (v->u.svm.vmcb != NULL)
        v->vm->pf->pages->free(v->vm->pf->ctx, v->u.svm.vmcb, 0);
    v->u.svm.vmcb = NULL;
    hw_vcpu_fini(v);
}

static int vcpu_init(void *evm, void *ev, uint32_t index, const struct vmc_engine_io *io,
                     struct vmc_error *err)
{
    struct hw_vm *vm = evm;
    struct hw_vcpu *v = ev;
    int rc = hw_vcpu_init(vm, v, index, io, err);

    if (rc != VMC_OK)
        return rc;
    v->u.svm.vmcb = vm->pf->pages->alloc(vm->pf->ctx, 0, &v->u.svm.vmcb_hpa);
    if (v->u.svm.vmcb == NULL) {
        vcpu_fini(v);
        return vmci_error(err, VMC_ENOMEM, SITE, "no memory for the VMCB of vCPU %u", index);
    }
    v->u.svm.frame.gpr = v->st.gpr;
    v->u.svm.frame.stop = &v->stop;
    v->u.svm.frame.vmcb = v->u.svm.vmcb_hpa;
    v->u.svm.frame.flags = vm->spec.entry_flags;
    svm_setup(v);
    hw_vcpu_publish(v);
    return VMC_OK;
}

const struct vmc_engine_ops *vmc_engine_svm(void)
{
    static const struct vmc_engine_ops ops = {
        HW_ENGINE_OPS,      .name = "svm",          .probe = probe,         .vm_init = vm_init,
        .vm_fini = vm_fini, .vcpu_init = vcpu_init, .vcpu_fini = vcpu_fini,
    };
    return &ops;
}
