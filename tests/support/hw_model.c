/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE
#include "hw_model.h"

#include <stdlib.h>
#include <sys/mman.h>

/* ---- platform ---------------------------------------------------------------------------------
 */

/* Physical addresses are virtual ones; below 4 GiB, for PAE roots. */
static void *pages_alloc(void *ctx, unsigned order, uint64_t *hpa)
{
    struct test_platform *tp = ctx;
    size_t bytes = VMC_PAGE_SIZE << order;

    if (tp->fail_after != 0 && ++tp->allocs >= tp->fail_after)
        return NULL;
    void *p =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    tp->live++;
    *hpa = (uint64_t)(uintptr_t)p;
    return p;
}

static void pages_free(void *ctx, void *va, unsigned order)
{
    ((struct test_platform *)ctx)->live--;
    munmap(va, VMC_PAGE_SIZE << order);
}

static void *pages_to_virt(void *ctx, uint64_t hpa)
{
    (void)ctx;
    return (void *)(uintptr_t)hpa;
}

static const struct vmc_pages_ops pages = {pages_alloc, pages_free, pages_to_virt};

static struct hw_model *model_of(void *ctx)
{
    return VMCI_CONTAINER_OF(ctx, struct hw_model, tp);
}

static uint32_t this_cpu(void *ctx)
{
    (void)ctx;
    return 0;
}

static void interrupt(void *ctx, uint32_t cpu)
{
    (void)cpu;
    model_of(ctx)->interrupts++;
}

static const struct vmc_cpu_ops cpus = {this_cpu, interrupt};

/* ---- instructions -----------------------------------------------------------------------------
 */

static void *op_percpu(void *ctx)
{
    return model_of(ctx)->percpu;
}

static uint64_t op_to_phys(void *ctx, const void *va, uint64_t *run)
{
    (void)ctx;
    *run = VMC_PAGE_SIZE - ((uintptr_t)va & (VMC_PAGE_SIZE - 1));
    return (uint64_t)(uintptr_t)va;
}

static bool is_amd(const struct hw_model *m)
{
    return m->cpu >= HW_MODEL_NPT;
}

static void op_cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    const struct hw_model *m = model_of(ctx);

    (void)subleaf;
    memset(out, 0, 4 * sizeof(out[0]));
    if (leaf == 0)
        out[0] = 0xd;
    else if (leaf == 1)
        out[2] = is_amd(m) ? 0 : 1u << 5;
    else if (leaf == 0x80000000u)
        out[0] = 0x8000000au;
    else if (leaf == 0x80000001u)
        out[2] = is_amd(m) ? 1u << 2 : 0;
    else if (leaf == 0x80000008u)
        out[0] = 48;
    else if (leaf == 0x8000000au && is_amd(m)) {
        out[1] = 16;
        out[3] = m->cpu == HW_MODEL_NPT      ? SVM_F_NPT | SVM_F_NRIP | SVM_F_CLEAN
                 : m->cpu == HW_MODEL_DECODE ? SVM_F_NRIP | SVM_F_DECODE | SVM_F_TSC | SVM_F_LBR
                                             : 0;
    }
}

static uint64_t op_rdtsc(void *ctx)
{
    return model_of(ctx)->tp.now_ns;
}

uint64_t hw_model_get_msr(struct hw_model *m, uint32_t index)
{
    for (unsigned i = 0; i < m->msrs; i++)
        if (m->msr[i].index == index)
            return m->msr[i].value;
    return 0;
}

void hw_model_set_msr(struct hw_model *m, uint32_t index, uint64_t value)
{
    unsigned i = 0;

    while (i < m->msrs && m->msr[i].index != index)
        i++;
    if (i == VMCI_ARRAY_SIZE(m->msr))
        abort();
    m->msr[i].index = index;
    m->msr[i].value = value;
    m->msrs = VMCI_MAX(m->msrs, i + 1);
}

static uint64_t op_rdmsr(void *ctx, uint32_t index)
{
    return hw_model_get_msr(model_of(ctx), index);
}

static void op_wrmsr(void *ctx, uint32_t index, uint64_t value)
{
    hw_model_set_msr(model_of(ctx), index, value);
}

static void op_host(void *ctx, struct vmc_hw_host *h)
{
    (void)ctx;
    *h = (struct vmc_hw_host){.cr0 = 0x80010031,
                              .cr3 = 0x1000,
                              .cr4 = 0x2060,
                              .efer = VMC_EFER_LME | VMC_EFER_LMA | VMC_EFER_NX,
                              .pat = 0x0007040600070406ull,
                              .tr_base = 0xffff800000001000ull,
                              .exit_rip = 0xffffffff80000000ull,
                              .cs = 8,
                              .ss = 16,
                              .tr = 24};
}

static uint64_t op_read_cr(void *ctx, unsigned n)
{
    return model_of(ctx)->cr[n];
}

static void op_write_cr(void *ctx, unsigned n, uint64_t v)
{
    model_of(ctx)->cr[n] = v;
}

static uint64_t op_read_dr(void *ctx, unsigned n)
{
    return model_of(ctx)->dr[n];
}

static void op_write_dr(void *ctx, unsigned n, uint64_t v)
{
    model_of(ctx)->dr[n] = v;
}

static uint64_t op_read_xcr0(void *ctx)
{
    return model_of(ctx)->xcr0;
}

static void op_write_xcr0(void *ctx, uint64_t v)
{
    model_of(ctx)->xcr0 = v;
}

static void op_fpu_save(void *ctx, void *area, uint64_t mask)
{
    (void)ctx, (void)area, (void)mask;
}

static void op_fpu_load(void *ctx, const void *area, uint64_t mask)
{
    (void)ctx, (void)area, (void)mask;
}

static void op_raise(void *ctx, unsigned vector)
{
    model_of(ctx)->raised++;
    model_of(ctx)->raised_vector = vector;
}

static void op_notify(void *ctx, uint32_t cpu)
{
    (void)cpu;
    model_of(ctx)->notifies++;
}

static int op_vmxon(void *ctx, uint64_t hpa)
{
    (void)ctx, (void)hpa;
    return 0;
}

static void op_vmxoff(void *ctx)
{
    (void)ctx;
}

static int op_vmclear(void *ctx, uint64_t hpa)
{
    if (model_of(ctx)->current == hpa)
        model_of(ctx)->current = 0;
    return 0;
}

static int op_vmptrld(void *ctx, uint64_t hpa)
{
    model_of(ctx)->current = hpa;
    return 0;
}

static int op_vmread(void *ctx, uint32_t field, uint64_t *value)
{
    struct hw_model *m = model_of(ctx);

    if (m->current == 0 || field >= VMCI_ARRAY_SIZE(m->field))
        abort(); /* the engine must not do this */
    *value = m->field[field];
    return 0;
}

static int op_vmwrite(void *ctx, uint32_t field, uint64_t value)
{
    struct hw_model *m = model_of(ctx);

    if (m->current == 0 || field >= VMCI_ARRAY_SIZE(m->field))
        abort();
    m->field[field] = value;
    return 0;
}

static int op_invept(void *ctx, uint64_t type, uint64_t eptp)
{
    (void)type, (void)eptp;
    model_of(ctx)->invepts++;
    return 0;
}

static int op_invvpid(void *ctx, uint64_t type, uint16_t vpid, uint64_t gva)
{
    (void)type, (void)vpid, (void)gva;
    model_of(ctx)->invvpids++;
    return 0;
}

static int op_vmx_run(void *ctx, struct vmc_hw_vmx_frame *f)
{
    struct hw_model *m = model_of(ctx);

    if (*f->stop != 0 || ((f->flags & VMC_HW_POSTED) && *f->posted != 0))
        return VMC_HW_STOPPED;
    m->field[VMCS_GUEST_RIP] = f->rip;
    f->rflags = m->field[VMCS_GUEST_RFLAGS];
    f->interruptibility = (uint32_t)m->field[VMCS_INTERRUPTIBILITY];
    f->qualification = 0;
    f->insn_len = 2;
    int r = m->vmx(m, f);
    f->idt_info = m->field[VMCS_IDT_INFO];
    f->gpa = m->field[VMCS_GUEST_PHYSICAL];
    m->field[VMCS_ENTRY_INTR_INFO] &= ~(uint64_t)INTR_VALID; /* as an exit does */
    return r;
}

static int op_svm_run(void *ctx, struct vmc_hw_svm_frame *f)
{
    struct hw_model *m = model_of(ctx);

    return *f->stop != 0 ? VMC_HW_STOPPED : m->svm(m, f);
}

static void set_ops(struct hw_model *m)
{
    m->ops = (struct vmc_hw_ops){
        .size = sizeof(m->ops),
        .percpu = op_percpu,
        .to_phys = op_to_phys,
        .cpuid = op_cpuid,
        .rdtsc = op_rdtsc,
        .rdmsr = op_rdmsr,
        .wrmsr = op_wrmsr,
        .host = op_host,
        .read_cr = op_read_cr,
        .write_cr = op_write_cr,
        .read_dr = op_read_dr,
        .write_dr = op_write_dr,
        .read_xcr0 = op_read_xcr0,
        .write_xcr0 = op_write_xcr0,
        .fpu_save = op_fpu_save,
        .fpu_load = op_fpu_load,
        .raise = op_raise,
        .vmxon = op_vmxon,
        .vmxoff = op_vmxoff,
        .vmclear = op_vmclear,
        .vmptrld = op_vmptrld,
        .vmread = op_vmread,
        .vmwrite = op_vmwrite,
        .invept = op_invept,
        .invvpid = op_invvpid,
        .vmx_run = op_vmx_run,
        .svm_run = op_svm_run,
    };
}

/* As in the processors of Bochs. */
static void set_vmx_msrs(struct hw_model *m)
{
    static const uint32_t proc2[] = {0x2177fff, 0x7f, 0x41, 0x2177fff};

    hw_model_set_msr(m, VMC_MSR_FEATURE_CTL, 5);
    hw_model_set_msr(m, MSR_VMX_BASIC, 0x00d810000000002bull);
    hw_model_set_msr(m, MSR_VMX_TRUE_PIN, 0x0000007f00000016ull);
    hw_model_set_msr(m, MSR_VMX_TRUE_PROC, 0xfff9fffe04006172ull);
    hw_model_set_msr(m, MSR_VMX_TRUE_EXIT, 0x007fffff00036dfbull);
    hw_model_set_msr(m, MSR_VMX_TRUE_ENTRY, 0x0000ffff000011fbull);
    hw_model_set_msr(m, MSR_VMX_MISC, 0x400401c0);
    hw_model_set_msr(m, MSR_VMX_CR0_0, 0x80000021);
    hw_model_set_msr(m, MSR_VMX_CR0_1, 0xffffffff);
    hw_model_set_msr(m, MSR_VMX_CR4_0, 0x2000);
    hw_model_set_msr(m, MSR_VMX_CR4_1, 0x3727ff);
    hw_model_set_msr(m, MSR_VMX_PROC2, (uint64_t)proc2[m->cpu] << 32);
    hw_model_set_msr(m, MSR_VMX_EPT_VPID, m->cpu == HW_MODEL_NO_EPT ? 0 : 0xf0106334141ull);
    if (m->cpu == HW_MODEL_APIC)
        hw_model_set_msr(m, MSR_VMX_TRUE_PIN, 0x000000ff00000016ull);
    if (m->cpu == HW_MODEL_NO_EPT) { /* old: no EFER and PAT in the VMCS, no timer */
        hw_model_set_msr(m, MSR_VMX_TRUE_PIN, 0x0000003f00000016ull);
        hw_model_set_msr(m, MSR_VMX_TRUE_EXIT, 0x0003ffff00036dfbull);
        hw_model_set_msr(m, MSR_VMX_TRUE_ENTRY, 0x00003fff000011fbull);
    }
}

/* ---- the machine around it --------------------------------------------------------------------
 */

static int io_pio(void *ctx, bool write, uint16_t port, unsigned bytes, uint32_t *data)
{
    struct hw_model *m = ctx;

    (void)bytes;
    m->last_pio = port | (uint64_t)*data << 16 | (uint64_t)write << 63;
    if (!write)
        *data = 0x12345678;
    return m->io_answer;
}

static int io_mmio(void *ctx, bool write, uint64_t gpa, unsigned bytes, uint64_t *data)
{
    struct hw_model *m = ctx;

    m->last_mmio = gpa;
    m->mmio_bytes = bytes;
    if (write)
        m->mmio_written = *data;
    else
        *data = m->mmio_value;
    return m->io_answer;
}

static int io_msr(void *ctx, bool write, uint32_t index, uint64_t *value)
{
    struct hw_model *m = ctx;

    m->last_msr = index;
    if (!write)
        *value = 0x1122334455667788ull;
    else
        m->mmio_written = *value;
    return m->io_answer;
}

static int own_irq(const struct hw_model *m)
{
    for (unsigned i = 256; i-- > 0;)
        if (m->apic.irr[i / 32] & 1u << i % 32)
            return (int)i;
    return -1;
}

static int io_pending(void *ctx)
{
    const struct hw_model *m = ctx;

    if (m->apic.lent)
        abort(); /* it is to be taken back first */
    return m->irq >= 0 ? m->irq : own_irq(m);
}

static int io_ack(void *ctx)
{
    struct hw_model *m = ctx;
    int v = io_pending(m);

    m->acks++;
    if (m->irq >= 0)
        m->irq = -1;
    else if (v >= 0)
        m->apic.irr[v / 32] &= ~(1u << v % 32);
    return v;
}

static uint64_t io_get_tpr(void *ctx)
{
    return ((struct hw_model *)ctx)->tpr;
}

static void io_set_tpr(void *ctx, uint64_t cr8)
{
    ((struct hw_model *)ctx)->tpr = cr8;
}

/* ---- a local APIC to lend ---------------------------------------------------------------------
 */

static uint32_t io_lend(void *ctx, uint8_t *page, uint32_t level[8])
{
    struct hw_model *m = ctx;

    if (m->apic.lent)
        abort();
    if (m->apic.mode == VMC_APIC_KEPT)
        return VMC_APIC_KEPT;
    for (unsigned i = 0; i < 8; i++) {
        vmci_st_le32(page + 0x200 + i * 16, m->apic.irr[i]);
        vmci_st_le32(page + 0x100 + i * 16, m->apic.isr[i]);
        m->apic.irr[i] = 0;
        level[i] = m->apic.level[i];
    }
    vmci_st_le32(page + 0x80, (uint32_t)m->tpr << 4);
    m->apic.lent = true;
    m->apic.lends++;
    return m->apic.mode;
}

static bool io_return(void *ctx, const uint8_t *page)
{
    struct hw_model *m = ctx;
    uint32_t any = 0;

    if (!m->apic.lent)
        abort();
    for (unsigned i = 0; i < 8; i++) {
        uint32_t irr = vmci_ld_le32(page + 0x200 + i * 16);
        m->apic.irr[i] |= irr;
        m->apic.isr[i] = vmci_ld_le32(page + 0x100 + i * 16);
        any |= irr;
    }
    m->tpr = vmci_ld_le32(page + 0x80) >> 4 & 0xf;
    m->apic.lent = false;
    return any != 0;
}

static void io_eoi(void *ctx, uint8_t vector)
{
    struct hw_model *m = ctx;

    if (m->apic.lent)
        abort();
    m->apic.eois++;
    m->apic.eoi_vector = vector;
}

/* Those of level stay. */
static bool io_post(void *ctx, uint32_t requests[8])
{
    struct hw_model *m = ctx;
    uint32_t left = 0;

    for (unsigned i = 0; i < 8; i++) {
        requests[i] |= m->apic.irr[i] & ~m->apic.level[i];
        m->apic.irr[i] &= m->apic.level[i];
        left |= m->apic.irr[i];
    }
    return left == 0;
}

static void io_unpost(void *ctx, uint32_t requests[8])
{
    struct hw_model *m = ctx;

    for (unsigned i = 0; i < 8; i++) {
        m->apic.irr[i] |= requests[i];
        requests[i] = 0;
    }
    m->engine->irq_notify(m->v);
}

static int create(struct hw_model *m, struct vmc_error *err)
{
    struct vmc_engine_vm_config cfg = {.size = sizeof(cfg), .max_vcpus = 1};
    struct vmc_mem_slot ram = {.size = sizeof(ram), .attr = VMC_MEM_RAM, .bytes = HW_MODEL_RAM};

    struct vmc_hw_config own = {.size = sizeof(own), .flags = VMC_HW_CFG_APIC};

    cfg.platform = &m->tp.pf;
    if (m->cpu == HW_MODEL_APIC)
        cfg.engine_config = &own;
    ram.backing = m->ram =
        mmap(NULL, HW_MODEL_RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int rc = vmc_mem_create(&m->tp.pf, &m->mem, err);
    if (rc == VMC_OK)
        rc = vmc_mem_add(m->mem, &ram, err);
    cfg.mem = m->mem;
    m->engine = is_amd(m) ? vmc_engine_svm() : vmc_engine_vmx();
    if (rc == VMC_OK)
        rc = vmc_hw_cpu_up(&m->tp.pf, err);
    if (rc == VMC_OK)
        rc = m->engine->probe(&m->tp.pf, &m->info, err);
    if (rc != VMC_OK)
        return rc;
    m->vm = aligned_alloc(64, (m->info.vm_bytes + 63) & ~(size_t)63);
    m->v = aligned_alloc(64, (m->info.vcpu_bytes + 63) & ~(size_t)63);
    memset(m->vm, 0, m->info.vm_bytes);
    memset(m->v, 0, m->info.vcpu_bytes);
    rc = m->engine->vm_init(m->vm, &cfg, err);
    if (rc != VMC_OK)
        return rc;
    m->io = (struct vmc_engine_io){
        .ctx = m,
        .pio = io_pio,
        .mmio = io_mmio,
        .msr = io_msr,
        .irq_pending = io_pending,
        .irq_ack = io_ack,
        .get_tpr = io_get_tpr,
        .set_tpr = io_set_tpr,
    };
    if (m->cpu == HW_MODEL_APIC) {
        m->io.apic_lend = io_lend;
        m->io.apic_return = io_return;
        m->io.apic_eoi = io_eoi;
        m->io.apic_post = io_post;
        m->io.apic_unpost = io_unpost;
    }
    rc = m->engine->vcpu_init(m->vm, m->v, 0, &m->io, err);
    if (rc == VMC_OK)
        rc = m->engine->set_policy(m->vm, &m->info.ceiling, err);
    return rc;
}

int hw_model_init(struct hw_model *m, enum hw_model_cpu cpu, struct vmc_error *err)
{
    memset(m, 0, sizeof(*m));
    test_platform_init(&m->tp);
    m->cpu = cpu;
    m->irq = -1;
    m->mmio_value = 0x55;
    set_ops(m);
    m->ops.notify = op_notify;
    m->ops.notify_vector = 0xf3;
    m->apic.mode = VMC_APIC_XAPIC;
    m->tp.pf.pages = &pages;
    m->tp.pf.cpu = &cpus;
    m->tp.pf.hw = &m->ops;
    if (!is_amd(m))
        set_vmx_msrs(m);
    return create(m, err);
}

void hw_model_fini(struct hw_model *m)
{
    if (m->v != NULL)
        m->engine->vcpu_fini(m->v);
    if (m->vm != NULL)
        m->engine->vm_fini(m->vm);
    free(m->v);
    free(m->vm);
    vmc_hw_cpu_down(&m->tp.pf);
    vmc_mem_destroy(m->mem);
    munmap(m->ram, HW_MODEL_RAM);
}

void hw_model_keep(const struct hw_model *m, struct hw_model_copy *as_new)
{
    as_new->m = *m;
    as_new->v = *m->v;
    if (is_amd(m))
        as_new->vmcb = *m->v->u.svm.vmcb;
    else
        memcpy(as_new->msr_load, m->v->u.vmx.msr_load, sizeof(as_new->msr_load));
}

int hw_model_again(struct hw_model *m, const struct hw_model_copy *as_new)
{
    const size_t from = offsetof(struct hw_model, ops); /* the platform counts on */

    m->vm->apic_page_used = m->vm->apic_page != NULL;
    if (m->vm->nested)
        (void)m->engine->mem_changed(m->vm);
    else
        vmci_shadow_fini(&m->v->shadow);
    memcpy((char *)m + from, (const char *)&as_new->m + from, sizeof(*m) - from);
    m->tp.now_ns = as_new->m.tp.now_ns;
    *m->v = as_new->v;
    if (is_amd(m)) {
        *m->v->u.svm.vmcb = as_new->vmcb;
    } else {
        memset(m->v->u.vmx.vapic, 0, VMC_PAGE_SIZE);
        memcpy(m->v->u.vmx.msr_load, as_new->msr_load, sizeof(as_new->msr_load));
        if (m->v->log != NULL)
            memset(m->v->log, 0xff, VMC_PAGE_SIZE);
    }
    madvise(m->ram, HW_MODEL_RAM, MADV_DONTNEED); /* zeros */
    return m->vm->nested ? VMC_OK
                         : vmci_shadow_init(&m->v->shadow, m->vm->pf, m->mem, m->vm->hw->to_phys);
}

int hw_model_long_mode(struct hw_model *m)
{
    static struct vmc_x86_state st;
    uint64_t *pml4 = (uint64_t *)(void *)(m->ram + 0x1000);
    uint64_t *pdpt = (uint64_t *)(void *)(m->ram + 0x2000);

    pml4[0] = 0x2007;
    for (unsigned i = 0; i < 4; i++)
        pdpt[i] = (uint64_t)i << 30 | 0xe7;
    vmc_x86_state_reset(&st);
    st.cr0 = VMC_CR0_PE | VMC_CR0_ET | VMC_CR0_NE | VMC_CR0_PG | VMC_CR0_WP;
    st.cr3 = 0x1000;
    st.cr4 = VMC_CR4_PAE;
    st.efer = VMC_EFER_LME | VMC_EFER_LMA;
    for (unsigned i = VMC_ES; i <= VMC_GS; i++)
        st.seg[i] = (struct vmc_segment){.limit = ~0u, .attr = 0xc093, .selector = 16};
    st.seg[VMC_CS] = (struct vmc_segment){.limit = ~0u, .attr = 0xa09b, .selector = 8};
    st.seg[VMC_TR] = (struct vmc_segment){.limit = 0x67, .attr = 0x8b, .selector = 24};
    st.rip = 0x8000;
    st.gpr[VMC_RSP] = 0x7000;
    return m->engine->set_state(m->v,
                                VMC_ST_GPR | VMC_ST_RIP | VMC_ST_SEG | VMC_ST_TABLES | VMC_ST_CTRL |
                                    VMC_ST_EVENT | VMC_ST_RUN,
                                &st);
}

int hw_model_run(struct hw_model *m)
{
    struct vmc_run_limits lim = {.size = sizeof(lim)};

    return m->engine->run(m->v, &lim, &m->x);
}

int hw_model_set_tsc(struct hw_model *m, uint64_t hz, struct vmc_error *err)
{
    m->tp.pf.tsc_hz = 1000000000;
    m->info.ceiling.tsc_hz = hz;
    return m->engine->set_policy(m->vm, &m->info.ceiling, err);
}
