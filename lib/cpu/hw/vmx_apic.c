/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The local APIC in the processor (SDM 3C chapter 30): while the guest runs, the registers of its
 * local APIC are lent to the virtual-APIC page. Most are then read without an exit, the task
 * priority, EOIs and IPIs to itself are written so, and interrupts are delivered when the guest
 * opens itself. Whatever else touches the local APIC takes it back before (vmx_tpr_out) and lends
 * it again after (vmx_tpr_in).
 *
 * Posted interrupts (30.6): who requests one for a vCPU that is in the guest puts it into the
 * descriptor and sends the notification vector, which the processor turns into a request of the
 * guest without an exit. ON says that something is in the descriptor. It is looked at with
 * interrupts off before each entry (VMC_HW_POSTED): a notification that came too early has been
 * taken by the host, one that comes later is taken by the guest.
 */
#include "cpu/hw/vmx_int.h"

#define VAPIC_ISR   0x100u
#define VAPIC_IRR   0x200u
#define POSTED_AT   2048u /* the descriptor, within the page */
#define POSTED_ON   1u    /* in its word 8 */
#define APIC_PROC2  (PROC2_APIC_ACCESS | PROC2_X2APIC | PROC2_APIC_REG | PROC2_VID)
#define X2APIC_BASE 0x800u

static struct vmx_vcpu *vmx_of(struct hw_vcpu *v)
{
    return &v->u.vmx;
}

static uint8_t *page_of(struct hw_vcpu *v)
{
    return v->u.vmx.vapic;
}

static uint32_t *posted_of(struct hw_vcpu *v)
{
    return (uint32_t *)(void *)(page_of(v) + POSTED_AT);
}

static bool weak(const struct hw_vcpu *v)
{
    return unlikely(v->vm->caps.vmx.weak_vid);
}

static bool can_lend(const struct hw_vcpu *v)
{
    return v->vm->caps.vmx.vid && v->io->apic_lend != NULL;
}

/* ---- set-up -----------------------------------------------------------------------------------
 */

/* What a guest may read and write by itself in x2APIC mode: registers without side effects, and
 * what the processor does (30.5). ICR reads are of two registers; the current count moves. */
static void open_x2apic(unsigned char *map, bool self_ipi)
{
    static const uint8_t reads[] = {0x02, 0x03, 0x08, 0x0a, 0x0d, 0x0f, 0x28, 0x38, 0x3e};
    static const uint8_t writes[] = {0x08, 0x0b};

    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(reads); i++)
        vmx_open_msr(map, X2APIC_BASE + reads[i], true, false);
    for (unsigned i = 0x10; i < 0x28; i++) /* ISR, TMR, IRR */
        vmx_open_msr(map, X2APIC_BASE + i, true, false);
    for (unsigned i = 0x32; i < 0x38; i++) /* LVT */
        vmx_open_msr(map, X2APIC_BASE + i, true, false);
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(writes); i++)
        vmx_open_msr(map, X2APIC_BASE + writes[i], false, true);
    if (self_ipi)
        vmx_open_msr(map, X2APIC_BASE + 0x3f, false, true);
}

int vmx_apic_vm_init(struct hw_vm *vm)
{
    const struct vmc_pages_ops *pages = vm->pf->pages;

    if (!vm->caps.vmx.vid)
        return VMC_OK;
    vm->apic_page = pages->alloc(vm->pf->ctx, 0, &vm->apic_page_hpa);
    vm->msr_bitmap_x2 = pages->alloc(vm->pf->ctx, 0, &vm->msr_bitmap_x2_hpa);
    if (vm->apic_page == NULL || vm->msr_bitmap_x2 == NULL)
        return VMC_ENOMEM;
    memset(vm->apic_page, 0, VMC_PAGE_SIZE);
    memcpy(vm->msr_bitmap_x2, vm->msr_bitmap, VMC_PAGE_SIZE);
    open_x2apic(vm->msr_bitmap_x2, !vm->caps.vmx.weak_vid);
    vm->apic_page_used = true;
    return VMC_OK;
}

void vmx_apic_vm_fini(struct hw_vm *vm)
{
    if (vm->apic_page != NULL)
        vm->pf->pages->free(vm->pf->ctx, vm->apic_page, 0);
    if (vm->msr_bitmap_x2 != NULL)
        vm->pf->pages->free(vm->pf->ctx, vm->msr_bitmap_x2, 0);
    vm->apic_page = vm->msr_bitmap_x2 = NULL;
}

void vmx_apic_setup(struct hw_vcpu *v)
{
    struct vmx_vcpu *x = vmx_of(v);
    const struct vmc_hw_ops *hw = v->vm->hw;

    x->apic_mode = VMC_APIC_KEPT;
    if (!can_lend(v))
        return;
    vmx_write(v, VMCS_APIC_ACCESS, v->vm->apic_page_hpa);
    vmx_write(v, VMCS_GUEST_INTR_STATUS, 0);
    for (unsigned i = 0; i < 4; i++)
        vmx_write(v, VMCS_EOI_EXIT0 + 2 * i, 0);
    memset(x->eoi_exits, 0, sizeof(x->eoi_exits));
    if (!v->vm->caps.vmx.posted || v->io->apic_post == NULL)
        return;
    memset(posted_of(v), 0, 64);
    posted_of(v)[9] = hw->notify_vector << 16; /* NV; for the processor the VMCS counts */
    vmx_write(v, VMCS_POSTED_DESC, x->vapic_hpa + POSTED_AT);
    vmx_write(v, VMCS_POSTED_VECTOR, hw->notify_vector);
    x->frame.posted = &posted_of(v)[8];
}

/* ---- Bochs 2.7 ---------------------------------------------------------------------------------
 *
 * It delivers virtual interrupts with two faults that real processors do not have. It is told by
 * that it has no posted interrupts, which they all have (hw_int.h, weak_vid).
 */

/* Highest vector of a register of 256 bits; 0: none. */
static unsigned highest(const uint8_t *page, uint32_t reg)
{
    for (unsigned i = 8; i-- > 0;) {
        uint32_t w = vmci_ld_le32(page + reg + i * 16);
        if (w != 0)
            return i * 32 + 31 - (unsigned)__builtin_clz(w);
    }
    return 0;
}

/*
 * An interrupt of the host that ends a guest which has interrupts off first delivers to it what is
 * requested. So nothing deliverable may be there while interrupts are off: a guest that has them
 * off is entered with a window, which holds virtual interrupts back (SDM 3C 30.2.1), and while
 * something is requested every EOI exits (lend).
 */
bool vmx_apic_wants_window(struct hw_vcpu *v)
{
    return weak(v) && v->delivers && !(v->st.rflags & VMC_FLAG_IF) &&
           highest(page_of(v), VAPIC_IRR) != 0;
}

/*
 * What it delivers is not noted in the IDT-vectoring information if an exit comes in between; there
 * is an older event, of whatever vCPU. True: an interrupt was under way, since one came into
 * service after the registers were lent, and interrupts are still on.
 */
bool vmx_apic_was_delivering(struct hw_vcpu *v, uint8_t *vector)
{
    struct vmx_vcpu *x = vmx_of(v);

    if (!weak(v) || !x->lent || !(v->st.rflags & VMC_FLAG_IF))
        return false;
    uint8_t serviced = (uint8_t)(vmx_read(v, VMCS_GUEST_INTR_STATUS) >> 8);
    if (serviced == 0 || serviced == x->serviced)
        return false;
    *vector = serviced;
    return true;
}

/* ---- lending ----------------------------------------------------------------------------------
 */

/* A local APIC that is not at its default address, or not in memory: there the page must not be
 * found by anybody, and nobody needs it much longer. */
static void retire_page(struct hw_vm *vm)
{
    if (vmci_load_relaxed(&vm->apic_page_used) &&
        __atomic_exchange_n(&vm->apic_page_used, false, __ATOMIC_SEQ_CST))
        hw_mem_forget(vm, VMC_APIC_DEFAULT_GPA);
}

static void set_mode(struct hw_vcpu *v, uint32_t mode)
{
    struct vmx_vcpu *x = vmx_of(v);
    uint32_t on = mode == VMC_APIC_KEPT    ? 0
                  : mode == VMC_APIC_XAPIC ? PROC2_APIC_ACCESS | PROC2_APIC_REG | PROC2_VID
                                           : PROC2_X2APIC | PROC2_APIC_REG | PROC2_VID;
    bool post = mode != VMC_APIC_KEPT && x->frame.posted != NULL;

    x->apic_mode = mode;
    v->delivers = mode != VMC_APIC_KEPT;
    x->proc2 = (x->proc2 & ~APIC_PROC2) | on;
    vmx_write(v, VMCS_PROC2_CTL, x->proc2);
    vmx_write(v, VMCS_MSR_BITMAP,
              mode == VMC_APIC_X2APIC ? v->vm->msr_bitmap_x2_hpa : v->vm->msr_bitmap_hpa);
    if (x->frame.posted != NULL) {
        uint32_t pin = v->vm->caps.vmx.use_pin;
        vmx_write(v, VMCS_PIN_CTL, post ? pin | PIN_POSTED : pin);
        x->frame.flags = post ? x->frame.flags | VMC_HW_POSTED : x->frame.flags & ~VMC_HW_POSTED;
        vmci_store_relaxed(&v->posting, post);
    }
    x->tpr = UINT8_MAX; /* not known */
    vmx_write(v, VMCS_TPR_THRESHOLD, 0);
    if (mode != VMC_APIC_XAPIC)
        retire_page(v->vm);
    /* Who delivers what waits is another now. */
    v->irq_wait = true;
    v->todo |= HW_TODO_EVENT;
}

/* Takes from the descriptor into the page; other threads may put more in. */
static void unpost(struct hw_vcpu *v)
{
    uint32_t *posted = posted_of(v);
    uint8_t *page = page_of(v);

    if ((vmci_fetch_and(&posted[8], ~POSTED_ON) & POSTED_ON) == 0)
        return;
    for (unsigned i = 0; i < 8; i++) {
        uint32_t w = vmci_exchange(&posted[i], 0u);
        uint8_t *irr = page + VAPIC_IRR + i * 16;
        if (w != 0)
            vmci_st_le32(irr, vmci_ld_le32(irr) | w);
    }
}

/* Out of the way of processors that do without. */
static __attribute__((noinline)) bool lend(struct hw_vcpu *v)
{
    struct vmx_vcpu *x = vmx_of(v);
    uint8_t *page = page_of(v);
    uint32_t level[8];
    uint32_t mode = v->io->apic_lend(v->io->ctx, page, level);

    if (unlikely(mode != x->apic_mode))
        set_mode(v, mode);
    if (mode == VMC_APIC_KEPT) {
        retire_page(v->vm); /* it may never have been another */
        return false;
    }
    if (x->frame.posted != NULL)
        unpost(v);
    unsigned requested = highest(page, VAPIC_IRR);
    for (unsigned i = 0; i < 4; i++) {
        uint64_t w = level[2 * i] | (uint64_t)level[2 * i + 1] << 32;
        if (weak(v) && requested != 0)
            w = UINT64_MAX;
        if (w != x->eoi_exits[i])
            vmx_write(v, VMCS_EOI_EXIT0 + 2 * i, w);
        x->eoi_exits[i] = w;
    }
    x->serviced = (uint8_t)highest(page, VAPIC_ISR);
    vmx_write(v, VMCS_GUEST_INTR_STATUS, requested | (unsigned)x->serviced << 8);
    x->lent = true;
    return true;
}

static __attribute__((noinline)) void take_back(struct hw_vcpu *v)
{
    struct vmx_vcpu *x = vmx_of(v);

    if (!x->lent)
        return;
    x->lent = false;
    if (x->frame.posted != NULL)
        unpost(v);
    if (v->io->apic_return(v->io->ctx, page_of(v)))
        v->irq_wait = true;
}

/* ---- the task priority alone ------------------------------------------------------------------
 */

void vmx_tpr_out(struct hw_vcpu *v)
{
    if (unlikely(v->delivers)) {
        take_back(v);
        return;
    }
    if (!v->vm->caps.vmx.tpr_shadow || v->io->set_tpr == NULL)
        return;
    uint8_t tpr = page_of(v)[VAPIC_TPR] >> 4;
    if (tpr != v->u.vmx.tpr) {
        v->u.vmx.tpr = tpr;
        v->io->set_tpr(v->io->ctx, tpr);
    }
}

void vmx_tpr_in(struct hw_vcpu *v)
{
    if (unlikely(v->vm->caps.vmx.vid) && can_lend(v) && (vmx_of(v)->lent || lend(v)))
        return;
    if (!v->vm->caps.vmx.tpr_shadow || v->io->get_tpr == NULL)
        return;
    uint8_t tpr = (uint8_t)(v->io->get_tpr(v->io->ctx) & 0xf);
    page_of(v)[VAPIC_TPR] = (uint8_t)(tpr << 4);
    if (tpr != v->u.vmx.tpr) {
        v->u.vmx.tpr = tpr;
        /*
         * The threshold is the priority that the local APIC last saw: only a guest that goes below
         * it can unmask something, since whatever arrives later makes us look again.
         */
        vmx_write(v, VMCS_TPR_THRESHOLD, tpr);
    }
}

/* ---- posting ----------------------------------------------------------------------------------
 */

bool vmx_post(struct hw_vcpu *v)
{
    const struct vmc_hw_ops *hw = v->vm->hw;
    bool all = v->io->apic_post(v->io->ctx, posted_of(v));

    /* Also if only some were moved: ON is what they are found by. */
    uint32_t before = __atomic_fetch_or(&posted_of(v)[8], POSTED_ON, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&v->in_guest, __ATOMIC_SEQ_CST) == 0) { /* it may not come back for long */
        v->io->apic_unpost(v->io->ctx, posted_of(v));
        return true;
    }
    if (!all)
        return false; /* it is called out of the guest, and finds both */
    if ((before & POSTED_ON) == 0)
        hw->notify(hw_ctx(v), vmci_load_relaxed(&v->cpu));
    return true;
}

/* ---- exits ------------------------------------------------------------------------------------
 */

/* An access that is not virtualised (28.2.1, table 28-6). */
int vmx_on_apic_access(struct hw_vcpu *v, struct vmc_exit *x)
{
    v->stat[HW_STAT_APIC]++;
    return hw_on_mmio(v, VMC_APIC_DEFAULT_GPA | (v->u.vmx.frame.qualification & 0xfff), x);
}

/* The guest ended an interrupt that a controller waits for; the processor has done the rest. */
int vmx_on_eoi(struct hw_vcpu *v, struct vmc_exit *x)
{
    (void)x;
    v->stat[HW_STAT_APIC]++;
    if (!v->delivers)
        return HW_RESUME;
    hw_callback(v);
    vmx_tpr_out(v);
    v->io->apic_eoi(v->io->ctx, (uint8_t)v->u.vmx.frame.qualification);
    vmx_tpr_in(v);
    v->todo |= HW_TODO_EVENT;
    return HW_RESUME;
}

/* A register was written in the page; what it does is ours (30.4.3.3). RIP is behind. */
int vmx_on_apic_write(struct hw_vcpu *v, struct vmc_exit *x)
{
    uint32_t offset = (uint32_t)v->u.vmx.frame.qualification & 0x3f0;
    uint64_t value = vmci_ld_le32(page_of(v) + offset);
    int rc;

    v->stat[HW_STAT_APIC]++;
    if (!v->delivers || v->io->mmio == NULL || v->io->msr == NULL)
        return HW_RESUME;
    hw_callback(v);
    vmx_tpr_out(v);
    if (v->u.vmx.apic_mode == VMC_APIC_X2APIC)
        rc = v->io->msr(v->io->ctx, true, X2APIC_BASE + (offset >> 4), &value);
    else
        rc = v->io->mmio(v->io->ctx, true, VMC_APIC_DEFAULT_GPA | offset, 4, &value);
    vmx_tpr_in(v);
    if (unlikely(rc == VMC_IO_GP))
        return hw_raise(v, VMC_VEC_GP, true, 0, x);
    v->irq_wait = true;
    v->todo |= HW_TODO_EVENT;
    return HW_RESUME;
}
