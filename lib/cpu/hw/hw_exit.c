/* SPDX-License-Identifier: BSD-2-Clause */
/* What is done about exits, in terms of the instruction that caused them. */
#include "cpu/hw/hw_hot.h"

#define PTE_AD 0x60ull

uint64_t *hw_gpr(struct hw_vcpu *v, unsigned reg)
{
    if (reg == VMC_RSP)
        hw_need(v, HW_ST_RSP);
    return &v->st.gpr[reg & 15];
}

/* The end of an instruction that was stepped over, where that is more than the next address. */
void hw_skipped(struct hw_vcpu *v)
{
    struct vmc_x86_state *st = &v->st;

    if (hw_shadowed(v) || (st->rflags & VMC_FLAG_RF) != 0) {
        st->sti_shadow = st->ss_shadow = 0;
        st->rflags &= ~VMC_FLAG_RF;
        hw_changed(v, VMC_ST_RIP);
    }
    if ((st->rflags & VMC_FLAG_TF) != 0 && (st->msr.debugctl & VMC_DEBUGCTL_BTF) == 0) {
        st->injected = (struct vmc_event){
            .vector = VMC_VEC_DB, .type = VMC_EV_EXCEPTION, .payload = VMC_DR6_BS};
        v->todo |= HW_TODO_EVENT;
    }
}

/* ---- MSRs ------------------------------------------------------------------------------------ */

/* MSRs of the local APIC: asked for often, and of no interest to the software CPU. */
static bool of_apic(uint32_t index)
{
    return index == VMC_MSR_TSC_DEADLINE || index == VMC_MSR_APIC_BASE ||
           (index >= VMC_MSR_X2APIC_FIRST && index <= VMC_MSR_X2APIC_LAST);
}

int hw_on_msr(struct hw_vcpu *v, bool write, unsigned len, struct vmc_exit *x)
{
    uint64_t *g = v->st.gpr;
    uint32_t index = (uint32_t)g[VMC_RCX];
    uint64_t value = (uint32_t)g[VMC_RAX] | g[VMC_RDX] << 32;

    v->stat[HW_STAT_MSR]++;
    if (!of_apic(index) || v->io->msr == NULL)
        return index == VMC_MSR_EFER ? hw_emulate_system(v, x) : hw_emulate(v, 1, x);
    bool deadline = index == VMC_MSR_TSC_DEADLINE; /* of the timer alone */
    hw_callback(v);
    if (!deadline)
        v->vm->vendor->tpr_out(v);
    int rc = v->io->msr(v->io->ctx, write, index, &value);
    if (!deadline)
        v->vm->vendor->tpr_in(v);
    if (rc == VMC_IO_GP)
        return hw_raise(v, VMC_VEC_GP, true, 0, x);
    if (rc == VMC_IO_EXIT) {
        hw_set_exit(v, x, VMC_EXIT_MSR);
        x->u.msr.index = index;
        x->u.msr.write = write;
        x->u.msr.value = write ? value : 0;
        return hw_owe(v, VMC_EXIT_MSR, len);
    }
    if (!write) {
        g[VMC_RAX] = (uint32_t)value;
        g[VMC_RDX] = value >> 32;
    } else if (!deadline) {
        v->irq_wait = true; /* the task priority or an EOI: another interrupt may be due */
        v->todo |= HW_TODO_EVENT;
    }
    hw_skip(v, len);
    return HW_RESUME;
}

/* ---- ports ------------------------------------------------------------------------------------
 */

int hw_leave_for_pio(struct hw_vcpu *v, bool write, uint16_t port, unsigned bytes, unsigned len,
                     struct vmc_exit *x)
{
    hw_set_exit(v, x, VMC_EXIT_IO);
    x->u.io.port = port;
    x->u.io.bytes = (uint8_t)bytes;
    x->u.io.write = write;
    x->u.io.data = write ? (uint32_t)v->st.gpr[VMC_RAX] & hw_io_mask(bytes) : 0;
    return hw_owe(v, VMC_EXIT_IO, len);
}

/* ---- HLT, VMCALL ------------------------------------------------------------------------------
 */

int hw_on_hlt(struct hw_vcpu *v, unsigned len)
{
    v->stat[HW_STAT_HLT]++;
    hw_skip(v, len);
    if (v->st.injected.type == VMC_EV_EXCEPTION) /* a trap ends it at once */
        return HW_RESUME;
    v->st.activity = VMC_RUN_HALTED;
    v->irq_wait = true;
    v->todo |= HW_TODO_IDLE;
    return HW_RESUME;
}

int hw_on_hypercall(struct hw_vcpu *v, unsigned len, struct vmc_exit *x)
{
    static const uint8_t regs[6] = {VMC_RBX, VMC_RCX, VMC_RDX, VMC_RSI, VMC_RDI, VMC_RBP};

    hw_set_exit(v, x, VMC_EXIT_HYPERCALL);
    x->u.hypercall.nr = v->st.gpr[VMC_RAX];
    for (unsigned i = 0; i < 6; i++)
        x->u.hypercall.arg[i] = v->st.gpr[regs[i]];
    return hw_owe(v, VMC_EXIT_HYPERCALL, len);
}

int hw_shutdown(struct hw_vcpu *v, struct vmc_exit *x)
{
    v->st.activity = VMC_RUN_SHUTDOWN;
    v->st.injected.type = VMC_EV_NONE;
    v->todo |= HW_TODO_IDLE;
    hw_set_exit(v, x, VMC_EXIT_SHUTDOWN);
    x->u.stop.why = VMC_STOP_TRIPLE_FAULT;
    return HW_LEAVE;
}

/* ---- exceptions -------------------------------------------------------------------------------
 */

enum fault_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum fault_class class_of(const struct vmc_event *e)
{
    if (e->type != VMC_EV_EXCEPTION)
        return BENIGN;
    switch (e->vector) {
    case VMC_VEC_DE:
    case VMC_VEC_TS:
    case VMC_VEC_NP:
    case VMC_VEC_SS:
    case VMC_VEC_GP:
        return CONTRIBUTORY;
    case VMC_VEC_PF:
        return PAGE_FAULT;
    case VMC_VEC_DF:
        return DOUBLE_FAULT;
    default:
        return BENIGN;
    }
}

/* SDM 3A table 6-5. */
int hw_raise(struct hw_vcpu *v, unsigned vector, bool has_code, uint32_t code, struct vmc_exit *x)
{
    struct vmc_event e = {.vector = (uint8_t)vector,
                          .type = VMC_EV_EXCEPTION,
                          .has_code = has_code,
                          .code = code,
                          .payload = vector == VMC_VEC_PF ? v->st.cr2 : 0};
    enum fault_class first = class_of(&v->st.injected), second = class_of(&e);

    v->stat[HW_STAT_EXCEPTION]++;
    if (first == DOUBLE_FAULT && second != BENIGN)
        return hw_shutdown(v, x);
    if ((first == CONTRIBUTORY && second == CONTRIBUTORY) ||
        (first == PAGE_FAULT && (second == CONTRIBUTORY || second == PAGE_FAULT)))
        e = (struct vmc_event){.vector = VMC_VEC_DF, .type = VMC_EV_EXCEPTION, .has_code = true};
    v->st.injected = e;
    v->todo |= HW_TODO_EVENT;
    return HW_RESUME;
}

/* ---- software CPU -----------------------------------------------------------------------------
 */

/* Could the instruction at CS:RIP use the FPU state? Looks at prefixes and opcode; when in doubt:
 * yes. */
static bool may_use_fpu(struct hw_vcpu *v)
{
    const struct vmc_x86_state *st = &v->st;
    bool code64 = (st->efer & VMC_EFER_LMA) != 0 && (st->seg[VMC_CS].attr & VMC_SEG_L) != 0;
    struct vmc_paging pg;
    uint64_t la = code64 ? st->rip : (uint32_t)(st->seg[VMC_CS].base + st->rip);
    struct vmc_walk w;
    uint8_t b[15];
    unsigned i = 0;

    hw_paging(v, &pg);
    unsigned n = (unsigned)VMCI_MIN(sizeof(b), VMC_PAGE_SIZE - (la & (VMC_PAGE_SIZE - 1)));
    if (vmc_walk_gva(v->vm->mem, &pg, la, VMC_ACC_FETCH | VMC_ACC_PROBE, &w) != VMC_OK ||
        vmc_mem_read(v->vm->mem, w.gpa, b, n) != VMC_OK)
        return true;
    while (i < n &&
           (b[i] == 0x66 || b[i] == 0x67 || b[i] == 0xf0 || b[i] == 0xf2 || b[i] == 0xf3 ||
            (b[i] & 0xe7) == 0x26 || (b[i] & 0xfe) == 0x64 || (code64 && (b[i] & 0xf0) == 0x40)))
        i++;
    if (i + 1 >= n)
        return true;
    if (b[i] != 0x0f) /* x87, FWAIT, and what is VEX and EVEX in some modes */
        return (b[i] & 0xf8) == 0xd8 || b[i] == 0x9b || b[i] == 0xc4 || b[i] == 0xc5 ||
               b[i] == 0x62 || b[i] == 0x8f;
    uint8_t op = b[i + 1];
    bool system = op <= 0x09 || op == 0x0b || (op >= 0x20 && op <= 0x23) ||
                  (op >= 0x30 && op <= 0x37) || (op >= 0x40 && op <= 0x4f) ||
                  (op >= 0x80 && op <= 0xad) || (op >= 0xaf && op <= 0xc1) ||
                  (op >= 0xc8 && op <= 0xcf);
    /* 0F 01 includes XGETBV and XSETBV, which need no state. Not listed: MOVNTI, 0F C3; and 0F C7,
       where XSAVEC is. */
    return !system;
}

/* What emulation rarely changes: from the segments to the MSRs. */
#define SYSTEM_BYTES                                                                               \
    (offsetof(struct vmc_x86_state, injected) - offsetof(struct vmc_x86_state, seg))

static int after_emulation(struct hw_vcpu *v, struct vmc_exit *x)
{
    if (v->st.activity != VMC_RUN_RUNNING)
        v->todo |= HW_TODO_IDLE;
    if (v->st.injected.type != VMC_EV_NONE || v->st.nmi_pending != 0 || v->irq_wait)
        v->todo |= HW_TODO_EVENT;
    x->raw.vendor = v->vm->vendor->id;
    switch (x->kind) {
    case VMC_EXIT_BUDGET:
    case VMC_EXIT_KICKED:
    case VMC_EXIT_IDLE:
        return HW_RESUME;
    case VMC_EXIT_IO:
    case VMC_EXIT_MMIO:
    case VMC_EXIT_MSR:
    case VMC_EXIT_HYPERCALL:
        v->owed = x->kind;
        v->owed_emulator = true;
        return HW_LEAVE;
    case VMC_EXIT_SHUTDOWN:
        return hw_shutdown(v, x);
    default:
        return HW_LEAVE;
    }
}

int hw_emulate(struct hw_vcpu *v, uint64_t n, struct vmc_exit *x)
{
    const uint8_t *system = (const uint8_t *)&v->st.seg[0];
    uint8_t before[SYSTEM_BYTES];
    int64_t *tsc = vmci_emulator_tsc_offset(v->emu);

    v->stat[HW_STAT_EMULATED]++;
    hw_fpu_park(v);
    hw_need(v, HW_ST_EMULATE | HW_ST_RSP);
    if (v->loaded)
        v->vm->vendor->tpr_out(v);
    v->st.cr8 = v->io->get_tpr != NULL ? v->io->get_tpr(v->io->ctx) : 0;
    bool fpu = n > 1 || may_use_fpu(v);
    memcpy(before, system, SYSTEM_BYTES);
    /* Its clock may be made of another source than the processor's (a scaled one is). */
    if (likely(v->vm->tsc_mult == 0))
        *tsc = v->tsc_offset;
    else
        *tsc += (int64_t)(hw_guest_tsc(v) - vmci_emulator_tsc(v->emu));
    int64_t offset = *tsc;
    int rc = vmci_emulate(v->emu, HW_ST_EMULATE | (fpu ? VMC_ST_FPU : 0), &v->st, n, x);
    if (rc == VMC_EINVAL) {
        hw_set_exit(v, x, VMC_EXIT_EMULATION);
        return HW_LEAVE;
    }
    if (rc != VMC_OK)
        return rc;
    hw_changed(v, VMC_ST_GPR | VMC_ST_RIP | VMC_ST_EVENT | HW_ST_RSP);
    if (memcmp(before, system, SYSTEM_BYTES) != 0)
        hw_changed(v, HW_ST_EMULATE);
    if (*tsc != offset) {
        v->tsc_offset += *tsc - offset;
        hw_changed(v, VMC_ST_CLOCK);
        if (v->io->tsc_moved != NULL)
            v->io->tsc_moved(v->io->ctx);
    }
    if (v->loaded)
        v->vm->vendor->tpr_in(v);
    return after_emulation(v, x);
}

/* The shadow follows what paging depends on. */
static void sync_shadow(struct hw_vcpu *v)
{
    if (!v->vm->nested)
        vmci_shadow_load(&v->shadow, (v->st.efer & VMC_EFER_LMA) != 0, v->st.cr3);
    v->todo |= HW_TODO_FLUSH;
}

/* What the meaning of the guest's entries depends on, beside CR3 and the mode. */
#define MEANING_CR4  (VMC_CR4_PSE | VMC_CR4_PAE | VMC_CR4_SMEP | VMC_CR4_LA57)
#define MEANING_EFER VMC_EFER_NX

int hw_emulate_system(struct hw_vcpu *v, struct vmc_exit *x)
{
    hw_need(v, VMC_ST_CTRL);
    uint64_t cr0 = v->st.cr0, cr4 = v->st.cr4, efer = v->st.efer;

    v->stat[HW_STAT_CR]++;
    int r = hw_emulate(v, 1, x);
    if (!v->vm->nested &&
        (((cr0 ^ v->st.cr0) & (VMC_CR0_PG | VMC_CR0_WP)) != 0 ||
         ((cr4 ^ v->st.cr4) & MEANING_CR4) != 0 || ((efer ^ v->st.efer) & MEANING_EFER) != 0))
        vmci_shadow_flush(&v->shadow);
    sync_shadow(v);
    return r;
}

int hw_on_mov_cr3(struct hw_vcpu *v, unsigned gpr, unsigned len, struct vmc_exit *x)
{
    hw_need(v, VMC_ST_CTRL);
    uint64_t cr3 = *hw_gpr(v, gpr);
    bool long_mode = (v->st.efer & VMC_EFER_LMA) != 0;
    struct vmc_paging pg;

    vmci_emulator_paging(v->emu, &pg);
    /* PDPTEs to load, bits to refuse, or half a register of compatibility mode: the long way. */
    uint64_t now;
    if ((!long_mode && (v->st.cr4 & VMC_CR4_PAE) != 0) || cr3 >> pg.phys_bits != 0 ||
        (cr3 >> 32 != 0 && !v->vm->vendor->code64(v, &now)))
        return hw_emulate_system(v, x);
    v->stat[HW_STAT_CR]++;
    v->st.cr3 = cr3;
    hw_skip(v, len);
    sync_shadow(v);
    return HW_RESUME;
}

/* MOV from a control register, of which the processor has another value than the guest. */
int hw_on_read_cr(struct hw_vcpu *v, uint64_t value, unsigned gpr, unsigned len)
{
    uint64_t *r = hw_gpr(v, gpr);

    v->stat[HW_STAT_CR]++;
    hw_need(v, VMC_ST_CTRL);
    *r = (v->st.efer & VMC_EFER_LMA) != 0 ? value : (uint32_t)value;
    if (gpr == VMC_RSP)
        hw_changed(v, HW_ST_RSP);
    hw_skip(v, len);
    return HW_RESUME;
}

int hw_on_invlpg(struct hw_vcpu *v, uint64_t gva, unsigned len)
{
    v->stat[HW_STAT_CR]++;
    vmci_shadow_invlpg(&v->shadow, gva);
    hw_skip(v, len);
    v->todo |= HW_TODO_FLUSH;
    return HW_RESUME;
}

/* ---- memory -----------------------------------------------------------------------------------
 */

/*
 * A page of a space is not at hand. It is brought in, or will be in a while; then the guest faults
 * again and finds it. No pointer to a page is held here.
 */
static __attribute__((noinline)) int bring_in(struct hw_vcpu *v, uint64_t gpa, bool write)
{
    v->stat[HW_STAT_BROUGHT]++;
    hw_fpu_park(v); /* decompression uses what registers it likes */
    if (vmci_mem_fault(v->vm->mem, gpa, write) != VMC_OK)
        vmci_mem_wait(v->vm->mem, gpa); /* finishes what is under way */
    return HW_RESUME;
}

int hw_on_gpa_fault(struct hw_vcpu *v, uint64_t gpa, uint32_t want, struct vmc_exit *x)
{
    v->stat[HW_STAT_FAULT]++;
    if (unlikely(!v->vm->nested)) /* cannot be */
        return hw_emulate(v, 1, x);
    int rc = hw_mem_fault(v->vm, gpa, want);
    if (likely(rc == VMC_OK)) {
        v->stat[HW_STAT_MAPPED]++;
        return HW_RESUME;
    }
    if (rc == VMC_EAGAIN)
        return bring_in(v, gpa, (want & VMCI_SLAT_W) != 0);
    if (rc != VMC_ENOENT)
        return rc;
    return vmci_mem_find(v->vm->mem, gpa) == NULL ? hw_on_mmio(v, gpa, x) : hw_emulate(v, 1, x);
}

int hw_on_page_fault(struct hw_vcpu *v, uint64_t gva, uint32_t code, struct vmc_exit *x)
{
    struct vmc_x86_state *st = &v->st;
    struct vmc_paging pg;
    struct vmc_walk w;
    bool flushed;

    v->stat[HW_STAT_FAULT]++;
    if (unlikely(v->vm->nested)) /* cannot be */
        return hw_emulate(v, 1, x);
    hw_need(v, VMC_ST_CTRL);
    hw_paging(v, &pg);
    uint32_t access =
        ((code & VMC_PF_WRITE) ? VMC_ACC_WRITE : 0) | ((code & VMC_PF_FETCH) ? VMC_ACC_FETCH : 0) |
        ((code & VMC_PF_USER) ? VMC_ACC_USER : 0) | ((st->rflags & VMC_FLAG_AC) ? VMC_ACC_AC : 0);
    if ((st->efer & VMC_EFER_LMA) == 0)
        gva = (uint32_t)gva;
    uint64_t before = (code & VMC_PF_P) ? vmci_shadow_peek(&v->shadow, gva) : 0;
    switch (vmci_shadow_fault(&v->shadow, &pg, gva, access, &w, &flushed)) {
    case VMCI_SHADOW_MAPPED:
        v->stat[HW_STAT_MAPPED]++;
        if (flushed)
            v->todo |= HW_TODO_FLUSH;
        /* The fault is for a reason that is not in its code, as with SMAP and an implicit access:
           the software CPU knows which it is. */
        else if (before != 0 && ((vmci_shadow_peek(&v->shadow, gva) ^ before) & ~PTE_AD) == 0)
            return hw_emulate(v, 1, x);
        return HW_RESUME;
    case VMCI_SHADOW_FAULT:
        st->cr2 = gva;
        hw_changed(v, VMC_ST_CTRL);
        return hw_raise(v, VMC_VEC_PF, true, w.fault_code, x);
    case VMCI_SHADOW_EMULATE:
        return vmci_mem_find(v->vm->mem, w.gpa) == NULL ? hw_on_mmio(v, w.gpa, x)
                                                        : hw_emulate(v, 1, x);
    case VMCI_SHADOW_ABSENT:
        return bring_in(v, w.gpa, (access & VMC_ACC_WRITE) != 0);
    default:
        return VMC_ENOMEM;
    }
}
