/* SPDX-License-Identifier: BSD-2-Clause */
/* Registers of the local APIC: the xAPIC page, the x2APIC MSRs, IA32_APIC_BASE. */
#include "irq/irq_int.h"

#define ICR_SEND_MASK 0x000ccfffu /* vector, mode, destination mode, level, trigger, shorthand */
#define ICR_LOGICAL   0x0800u
#define ICR_ASSERT    0x4000u
#define ICR_LEVEL     0x8000u

/* Writable bits of each LVT entry. */
static const uint32_t lvt_bits[VMCI_LVTS] = {
    [VMCI_LVT_TIMER] = 0x700ff, /* vector, mask, mode */
    [VMCI_LVT_THERMAL] = 0x107ff,
    [VMCI_LVT_PERF] = 0x107ff,
    [VMCI_LVT_LINT0] = 0x1a7ff, /* and polarity, trigger */
    [VMCI_LVT_LINT1] = 0x1a7ff,
    [VMCI_LVT_ERROR] = 0x100ff,
};

static int lvt_of(uint32_t reg)
{
    return reg >= VMCI_APIC_LVT_TIMER && reg <= VMCI_APIC_LVT_ERROR
               ? (int)((reg - VMCI_APIC_LVT_TIMER) / 16)
               : -1;
}

static uint32_t lvt_writable(const struct vmci_lapic *l, int n)
{
    uint32_t bits = lvt_bits[n];

    if (n == VMCI_LVT_TIMER && !l->has_deadline)
        bits &= ~VMCI_TIMER_DEADLINE;
    return bits;
}

/* ---- reading ------------------------------------------------------------------------------- */

/* False: no such register. */
static bool read_reg(struct vmci_lapic *l, uint32_t reg, uint32_t *v)
{
    bool x2 = vmci_lapic_x2(l);

    if (reg >= VMCI_APIC_ISR && reg < VMCI_APIC_ESR) {
        const uint32_t *file = reg < VMCI_APIC_TMR   ? l->isr
                               : reg < VMCI_APIC_IRR ? l->tmr
                                                     : l->irr;
        *v = vmci_load_relaxed(&file[(reg & 0x70) / 16]);
        return true;
    }
    if (lvt_of(reg) >= 0) {
        *v = vmci_load_relaxed(&l->lvt[lvt_of(reg)]);
        return true;
    }
    switch (reg) {
    case VMCI_APIC_ID:
        *v = x2 ? l->id : l->id << 24;
        return true;
    case VMCI_APIC_VERSION:
        *v = VMCI_APIC_VERSION_VALUE;
        return true;
    case VMCI_APIC_TPR:
        *v = l->tpr;
        return true;
    case VMCI_APIC_APR: /* not in x2APIC mode; we arbitrate by PPR */
    case VMCI_APIC_PPR:
        *v = l->ppr;
        return reg == VMCI_APIC_PPR || !x2;
    case VMCI_APIC_EOI:
    case VMCI_APIC_RRD:
        *v = 0;
        return !x2;
    case VMCI_APIC_LDR:
        *v = l->ldr;
        return true;
    case VMCI_APIC_DFR:
        *v = l->dfr;
        return !x2;
    case VMCI_APIC_SVR:
        *v = l->svr;
        return true;
    case VMCI_APIC_ESR:
        *v = l->esr;
        return true;
    case VMCI_APIC_ICR:
        *v = l->icr;
        return true;
    case VMCI_APIC_ICR2:
        *v = l->icr2;
        return !x2;
    case VMCI_APIC_TIMER_INIT:
        *v = l->timer_init;
        return true;
    case VMCI_APIC_TIMER_CURRENT:
        *v = vmci_apic_timer_current(l);
        return true;
    case VMCI_APIC_TIMER_DIVIDE:
        *v = l->timer_divide;
        return true;
    default:
        return false;
    }
}

uint64_t vmci_lapic_read(struct vmci_lapic *l, uint32_t offset, unsigned bytes)
{
    uint32_t v;

    /* Only the first four bytes of each 16 exist (SDM 3A 11.4.1). */
    if ((offset & 0xc) != 0)
        return 0;
    if (!read_reg(l, offset & 0xff0, &v)) {
        vmci_lapic_error(l, VMCI_ESR_REGISTER);
        return 0;
    }
    (void)bytes; /* what a longer access would see beyond the register reads as zero */
    return (uint64_t)v >> ((offset & 3) * 8);
}

/* ---- writing ------------------------------------------------------------------------------- */

static void send_ipi(struct vmci_lapic *l, uint32_t low, uint32_t dest, bool wide)
{
    struct vmci_irq_msg m = {
        .dest = dest,
        .logical = (low & ICR_LOGICAL) != 0,
        .wide = wide,
        .mode = (low >> VMCI_LVT_MODE_SHIFT) & 7,
        .vector = low & 0xff,
    };

    /* INIT level de-assert only set arbitration IDs, on processors before the Pentium 4. */
    if (m.mode == VMCI_IRQ_INIT && (low & (ICR_LEVEL | ICR_ASSERT)) == ICR_LEVEL)
        return;
    if (m.mode <= VMCI_IRQ_LOWEST && m.vector < 16) {
        vmci_lapic_error(l, VMCI_ESR_SEND_VECTOR);
        return;
    }
    vmci_irqchip_ipi(l->chip, l, (low >> 18) & 3, &m);
}

static void write_svr(struct vmci_lapic *l, uint32_t v)
{
    vmci_store_relaxed(&l->svr, v & (0x1ff | VMCI_SVR_NO_BROADCAST));
    if (v & VMCI_SVR_ENABLE)
        return;
    for (int n = 0; n < VMCI_LVTS; n++) /* SDM 3A 11.4.7.2: all masked while disabled */
        vmci_fetch_or(&l->lvt[n], VMCI_LVT_MASKED);
}

static void write_lvt(struct vmci_lapic *l, int n, uint32_t v)
{
    v &= lvt_writable(l, n);
    if (!(l->svr & VMCI_SVR_ENABLE))
        v |= VMCI_LVT_MASKED;
    if (n == VMCI_LVT_TIMER)
        vmci_apic_timer_set_lvt(l, v);
    else
        vmci_store_relaxed(&l->lvt[n], v);
}

/* Not an error to write in xAPIC mode: ESR reports reserved addresses only (SDM 3A 11.5.3). */
static bool read_only(uint32_t reg)
{
    switch (reg) {
    case VMCI_APIC_ID:
    case VMCI_APIC_VERSION:
    case VMCI_APIC_APR:
    case VMCI_APIC_PPR:
    case VMCI_APIC_RRD:
    case VMCI_APIC_TIMER_CURRENT:
        return true;
    default:
        return reg >= VMCI_APIC_ISR && reg < VMCI_APIC_ESR;
    }
}

/* False: no such register, or read-only in x2APIC mode. */
static bool write_reg(struct vmci_lapic *l, uint32_t reg, uint32_t v)
{
    bool x2 = vmci_lapic_x2(l);

    if (lvt_of(reg) >= 0) {
        write_lvt(l, lvt_of(reg), v);
        vmci_lapic_update(l);
        return true;
    }
    switch (reg) {
    case VMCI_APIC_TPR:
        l->tpr = v & 0xff;
        vmci_lapic_update_ppr(l);
        vmci_lapic_update(l);
        return true;
    case VMCI_APIC_EOI:
        vmci_lapic_eoi(l);
        return true;
    case VMCI_APIC_LDR:
        if (!x2)
            vmci_store_relaxed(&l->ldr, v & 0xff000000u);
        return !x2;
    case VMCI_APIC_DFR:
        if (!x2)
            vmci_store_relaxed(&l->dfr, v | 0x0fffffffu);
        return !x2;
    case VMCI_APIC_SVR:
        write_svr(l, v);
        return true;
    case VMCI_APIC_ESR: /* a write makes the errors since the last one visible */
        l->esr = vmci_exchange(&l->esr_new, 0u);
        return true;
    case VMCI_APIC_ICR:
        l->icr = v & ICR_SEND_MASK;
        send_ipi(l, v, l->icr2 >> 24, false);
        return true;
    case VMCI_APIC_ICR2:
        l->icr2 = v & 0xff000000u;
        return true;
    case VMCI_APIC_TIMER_INIT:
        vmci_apic_timer_set_init(l, v);
        return true;
    case VMCI_APIC_TIMER_DIVIDE:
        vmci_apic_timer_set_divide(l, v);
        return true;
    case VMCI_APIC_SELF_IPI:
        if (x2)
            send_ipi(l, (v & 0xff) | 1u << 18, 0, true);
        return x2;
    default:
        return !x2 && read_only(reg);
    }
}

void vmci_lapic_write(struct vmci_lapic *l, uint32_t offset, unsigned bytes, uint64_t v)
{
    /* Registers are written as aligned doublewords; anything else has no effect. */
    if ((offset & 0xf) != 0 || bytes < 4)
        return;
    if (!write_reg(l, offset & 0xff0, (uint32_t)v))
        vmci_lapic_error(l, VMCI_ESR_REGISTER);
}

uint64_t vmci_lapic_get_tpr(const struct vmci_lapic *l)
{
    return l->tpr >> 4;
}

void vmci_lapic_set_tpr(struct vmci_lapic *l, uint64_t cr8)
{
    l->tpr = (uint32_t)(cr8 & 0xf) << 4;
    vmci_lapic_update_ppr(l);
    vmci_lapic_update(l);
}

/* ---- MSRs ---------------------------------------------------------------------------------- */

static bool write_base(struct vmci_lapic *l, uint64_t v)
{
    const uint64_t mode_bits = VMC_APIC_BASE_ENABLE | VMC_APIC_BASE_X2APIC;
    uint64_t old = l->base;
    uint64_t from = old & mode_bits, to = v & mode_bits;

    if (v & ~(VMCI_BIT(l->phys_bits) - 1 - 0xfff) & ~(mode_bits | VMC_APIC_BASE_BSP))
        return false;
    if (to == VMC_APIC_BASE_X2APIC || ((to & VMC_APIC_BASE_X2APIC) && !l->has_x2apic))
        return false;
    /* Allowed: off-xAPIC, xAPIC-x2APIC, any to off (SDM 3A figure 11-27). */
    if ((from == 0 && to == mode_bits) || (from == mode_bits && to == VMC_APIC_BASE_ENABLE))
        return false;
    vmci_store_relaxed(&l->base, v);
    if (from != 0 && to == 0) {
        vmci_lapic_reset(l, true);
    } else if (from != to && to == mode_bits) {
        vmci_store_relaxed(&l->ldr, (l->id >> 4) << 16 | 1u << (l->id & 15));
        l->icr2 = 0;
    }
    vmci_lapic_update(l);
    return true;
}

static bool x2apic_read(struct vmci_lapic *l, uint32_t reg, uint64_t *v)
{
    uint32_t low;

    if (!read_reg(l, reg, &low))
        return false;
    *v = low;
    if (reg == VMCI_APIC_ICR)
        *v |= (uint64_t)l->icr2 << 32;
    return true;
}

/* Bits that must be zero, by register (SDM 3A table 11-6). */
static uint64_t x2apic_reserved(const struct vmci_lapic *l, uint32_t reg)
{
    if (lvt_of(reg) >= 0) /* delivery status and remote IRR are read-only, not reserved */
        return ~(uint64_t)(lvt_writable(l, lvt_of(reg)) | 0x5000u);
    switch (reg) {
    case VMCI_APIC_TPR:
    case VMCI_APIC_SELF_IPI:
        return ~0xffull;
    case VMCI_APIC_EOI:
    case VMCI_APIC_ESR:
        return ~0ull;
    case VMCI_APIC_SVR:
        return ~(uint64_t)(0x3ff | VMCI_SVR_NO_BROADCAST);
    case VMCI_APIC_TIMER_DIVIDE:
        return ~0xbull;
    case VMCI_APIC_ICR:
        return ~(0xffffffff00000000ull | ICR_SEND_MASK | 0x1000u);
    default:
        return ~0xffffffffull;
    }
}

static bool x2apic_write(struct vmci_lapic *l, uint32_t reg, uint64_t v)
{
    if (v & x2apic_reserved(l, reg))
        return false;
    if (reg == VMCI_APIC_ICR) {
        l->icr = (uint32_t)v & ICR_SEND_MASK;
        l->icr2 = (uint32_t)(v >> 32);
        send_ipi(l, (uint32_t)v, l->icr2, true);
        return true;
    }
    return reg != VMCI_APIC_ICR2 && write_reg(l, reg, (uint32_t)v);
}

bool vmci_lapic_rdmsr(struct vmci_lapic *l, uint32_t index, uint64_t *v)
{
    if (index == VMC_MSR_APIC_BASE) {
        *v = l->base;
        return true;
    }
    if (index == VMC_MSR_TSC_DEADLINE) {
        *v = vmci_apic_timer_get_deadline(l);
        return l->has_deadline;
    }
    return vmci_lapic_x2(l) && x2apic_read(l, (index - VMC_MSR_X2APIC_FIRST) << 4, v);
}

bool vmci_lapic_wrmsr(struct vmci_lapic *l, uint32_t index, uint64_t v)
{
    if (index == VMC_MSR_APIC_BASE)
        return write_base(l, v);
    if (index == VMC_MSR_TSC_DEADLINE) {
        if (l->has_deadline)
            vmci_apic_timer_set_deadline(l, v);
        return l->has_deadline;
    }
    return vmci_lapic_x2(l) && x2apic_write(l, (index - VMC_MSR_X2APIC_FIRST) << 4, v);
}

/* ---- transfer ------------------------------------------------------------------------------ */

void vmci_lapic_get_page(struct vmci_lapic *l, uint8_t page[1024])
{
    /* In front of the requests: the end of the count may be one of them. */
    uint32_t left = vmci_apic_timer_current(l);

    memset(page, 0, 1024);
    for (uint32_t reg = 0; reg < 1024; reg += 16) {
        uint32_t v = left;
        if (reg == VMCI_APIC_TIMER_CURRENT || read_reg(l, reg, &v))
            vmci_st_le32(page + reg, v);
    }
    vmci_st_le32(page + VMCI_APIC_ICR2, l->icr2);
    /* No register shows what is not latched yet; the reserved word after ESR carries it. */
    vmci_st_le32(page + VMCI_APIC_ESR + 16, vmci_load_relaxed(&l->esr_new));
}

void vmci_lapic_set_page(struct vmci_lapic *l, const uint8_t page[1024])
{
    uint32_t words = 0;

    for (unsigned i = 0; i < 8; i++) {
        vmci_store_relaxed(&l->isr[i], vmci_ld_le32(page + VMCI_APIC_ISR + i * 16));
        vmci_store_relaxed(&l->tmr[i], vmci_ld_le32(page + VMCI_APIC_TMR + i * 16));
        vmci_store_relaxed(&l->irr[i], vmci_ld_le32(page + VMCI_APIC_IRR + i * 16));
        words |= (l->irr[i] != 0 ? 1u : 0) << i;
    }
    l->isr[0] &= 0xffff0000u; /* vectors 0-15 cannot be in service or requested */
    l->irr[0] &= 0xffff0000u;
    vmci_store_release(&l->irr_words, words);
    l->tpr = vmci_ld_le32(page + VMCI_APIC_TPR) & 0xff;
    vmci_store_relaxed(&l->ldr, vmci_ld_le32(page + VMCI_APIC_LDR));
    vmci_store_relaxed(&l->dfr, vmci_ld_le32(page + VMCI_APIC_DFR) | 0x0fffffffu);
    vmci_store_relaxed(&l->svr, vmci_ld_le32(page + VMCI_APIC_SVR) & (0x1ff | VMCI_SVR_NO_BROADCAST));
    l->esr = vmci_ld_le32(page + VMCI_APIC_ESR) & 0xff;
    vmci_store_relaxed(&l->esr_new, vmci_ld_le32(page + VMCI_APIC_ESR + 16) & 0xff);
    l->icr = vmci_ld_le32(page + VMCI_APIC_ICR) & ICR_SEND_MASK;
    l->icr2 = vmci_ld_le32(page + VMCI_APIC_ICR2);
    vmci_lapic_update_ppr(l);
    vmci_apic_timer_reset(l);
    for (int n = 0; n < VMCI_LVTS; n++)
        vmci_store_relaxed(&l->lvt[n], vmci_ld_le32(page + VMCI_APIC_LVT_TIMER + n * 16) &
                                           lvt_writable(l, n));
    l->timer_divide = vmci_ld_le32(page + VMCI_APIC_TIMER_DIVIDE) & 0xb;
    l->timer_init = vmci_ld_le32(page + VMCI_APIC_TIMER_INIT);
    vmci_apic_timer_set_current(l, vmci_ld_le32(page + VMCI_APIC_TIMER_CURRENT));
    vmci_lapic_update(l);
}

void vmci_lapic_reset_page(uint8_t page[1024], uint32_t id)
{
    memset(page, 0, 1024);
    vmci_st_le32(page + VMCI_APIC_ID, id << 24);
    vmci_st_le32(page + VMCI_APIC_VERSION, VMCI_APIC_VERSION_VALUE);
    vmci_st_le32(page + VMCI_APIC_DFR, 0xffffffffu);
    vmci_st_le32(page + VMCI_APIC_SVR, 0xff);
    for (uint32_t n = 0; n < VMCI_LVTS; n++)
        vmci_st_le32(page + VMCI_APIC_LVT_TIMER + n * 16, VMCI_LVT_MASKED);
    if (id == 0) /* virtual wire mode, as vmci_lapic_reset */
        vmci_st_le32(page + VMCI_APIC_LVT_LINT0,
                     (uint32_t)VMCI_IRQ_EXTINT << VMCI_LVT_MODE_SHIFT);
}
