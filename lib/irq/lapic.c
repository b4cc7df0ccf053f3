/* SPDX-License-Identifier: BSD-2-Clause */
/* Local APIC: requests, priorities, delivery to the processor (SDM 3A chapter 11). */
#include "irq/irq_int.h"

#define WORD(vector) ((vector) >> 5)
#define BIT(vector)  (1u << ((vector) & 31))

/* Highest set bit of a 256-bit register, or -1. */
static int highest(const uint32_t reg[8])
{
    for (int w = 7; w >= 0; w--) {
        uint32_t v = vmci_load_relaxed(&reg[w]);
        if (v != 0)
            return w * 32 + 31 - __builtin_clz(v);
    }
    return -1;
}

/* The same for IRR, looking only at words that have a bit. vCPU's thread. */
static int highest_irr(struct vmci_lapic *l)
{
    uint32_t words = vmci_load_acquire(&l->irr_words);

    while (words != 0) {
        int w = 31 - __builtin_clz(words);
        uint32_t v = vmci_load_relaxed(&l->irr[w]);
        if (v != 0)
            return w * 32 + 31 - __builtin_clz(v);
        /* A sender sets IRR first and irr_words second: take the hint back before looking again,
           so that its hint is not the one that is lost. */
        vmci_fetch_and(&l->irr_words, ~(1u << w));
        if (vmci_load_acquire(&l->irr[w]) != 0)
            vmci_fetch_or(&l->irr_words, 1u << w);
        else
            words &= ~(1u << w);
    }
    return -1;
}

void vmci_lapic_update_ppr(struct vmci_lapic *l)
{
    int in_service = highest(l->isr);
    uint32_t class = in_service < 0 ? 0 : (uint32_t)in_service & 0xf0;

    vmci_store_relaxed(&l->ppr, (l->tpr & 0xf0) >= class ? l->tpr : class);
}

bool vmci_lapic_takes_extint(const struct vmci_lapic *l)
{
    /* With the APIC switched off, the boot processor's INTR pin is the 8259's output. */
    if (!vmci_lapic_on(l))
        return l->id == 0;
    uint32_t lint0 = vmci_load_relaxed(&l->lvt[VMCI_LVT_LINT0]);
    return (lint0 & (VMCI_LVT_MASKED | 7u << VMCI_LVT_MODE_SHIFT)) ==
           (uint32_t)VMCI_IRQ_EXTINT << VMCI_LVT_MODE_SHIFT;
}

static bool extint_pending(const struct vmci_lapic *l)
{
    return vmci_load_acquire(&l->chip->pic.intr) != 0 &&
           (vmci_load_relaxed(&l->extint) != 0 || vmci_lapic_takes_extint(l));
}

/* Vector of this APIC's own that beats the processor priority, or -1. */
static int own_pending(struct vmci_lapic *l)
{
    if (!vmci_lapic_on(l))
        return -1;
    int vector = highest_irr(l);
    return vector >= 0 && ((uint32_t)vector & 0xf0) > (l->ppr & 0xf0) ? vector : -1;
}

int vmci_lapic_pending(struct vmci_lapic *l)
{
    /* The 8259's vector is known only after the acknowledge; any number says "something". */
    if (extint_pending(l))
        return 0;
    return own_pending(l);
}

void vmci_lapic_update(struct vmci_lapic *l)
{
    if (vmci_lapic_pending(l) >= 0)
        l->chip->ops->notify(l->chip->ctx, l->index);
}

int vmci_lapic_ack(struct vmci_lapic *l)
{
    int vector = -1;

    if (extint_pending(l)) {
        vmci_store_relaxed(&l->extint, 0u);
        vector = vmci_irqchip_pic_ack(l->chip);
    }
    if (vector < 0) {
        vector = own_pending(l);
        if (vector < 0)
            return -1;
        vmci_fetch_and(&l->irr[WORD(vector)], ~BIT(vector));
        vmci_store_relaxed(&l->isr[WORD(vector)], l->isr[WORD(vector)] | BIT(vector));
        vmci_lapic_update_ppr(l);
    }
    vmci_lapic_update(l); /* an 8259 interrupt leaves the way open for one of ours */
    return vector;
}

void vmci_lapic_eoi(struct vmci_lapic *l)
{
    int vector = highest(l->isr);

    if (vector < 0)
        return;
    vmci_store_relaxed(&l->isr[WORD(vector)], l->isr[WORD(vector)] & ~BIT(vector));
    vmci_lapic_update_ppr(l);
    if ((vmci_load_relaxed(&l->tmr[WORD(vector)]) & BIT(vector)) &&
        !(l->svr & VMCI_SVR_NO_BROADCAST))
        vmci_irqchip_eoi(l->chip, (uint8_t)vector);
    vmci_lapic_update(l);
}

/* ---- requests, from any thread ------------------------------------------------------------- */

void vmci_lapic_error(struct vmci_lapic *l, uint32_t bits)
{
    uint32_t old = vmci_fetch_or(&l->esr_new, bits);

    if ((old | bits) != old)
        vmci_lapic_local(l, VMCI_LVT_ERROR);
}

static bool request(struct vmci_lapic *l, uint8_t vector, bool level)
{
    if (!(vmci_load_relaxed(&l->svr) & VMCI_SVR_ENABLE))
        return false;
    if (vector < 16) {
        vmci_lapic_error(l, VMCI_ESR_RECV_VECTOR);
        return false;
    }
    if (level)
        vmci_fetch_or(&l->tmr[WORD(vector)], BIT(vector));
    else
        vmci_fetch_and(&l->tmr[WORD(vector)], ~BIT(vector));
    vmci_fetch_or(&l->irr[WORD(vector)], BIT(vector));
    vmci_fetch_or(&l->irr_words, 1u << WORD(vector));
    l->chip->ops->notify(l->chip->ctx, l->index);
    return true;
}

bool vmci_lapic_accept(struct vmci_lapic *l, const struct vmci_irq_msg *m)
{
    const struct vmci_irqchip_ops *ops = l->chip->ops;
    void *ctx = l->chip->ctx;

    if (!vmci_lapic_on(l))
        return false;
    switch (m->mode) {
    case VMCI_IRQ_FIXED:
    case VMCI_IRQ_LOWEST:
        return request(l, m->vector, m->level);
    case VMCI_IRQ_NMI:
        ops->nmi(ctx, l->index);
        break;
    case VMCI_IRQ_INIT:
        ops->init(ctx, l->index);
        break;
    case VMCI_IRQ_SIPI:
        ops->sipi(ctx, l->index, m->vector);
        break;
    case VMCI_IRQ_EXTINT:
        vmci_store_relaxed(&l->extint, 1u);
        ops->notify(ctx, l->index);
        break;
    default: /* SMI: there is no system management mode; 3: reserved */
        return false;
    }
    return true;
}

void vmci_lapic_local(struct vmci_lapic *l, enum vmci_lvt entry)
{
    uint32_t lvt = vmci_load_relaxed(&l->lvt[entry]);

    if (lvt & VMCI_LVT_MASKED)
        return;
    struct vmci_irq_msg m = {.mode = (lvt >> VMCI_LVT_MODE_SHIFT) & 7, .vector = lvt & 0xff};
    if (entry == VMCI_LVT_TIMER || entry == VMCI_LVT_ERROR)
        m.mode = VMCI_IRQ_FIXED; /* these two have no mode field */
    if (m.mode == VMCI_IRQ_EXTINT) {
        l->chip->ops->notify(l->chip->ctx, l->index); /* pulled through extint_pending */
        return;
    }
    /* INIT is not for local sources of a vCPU that is to go on; SIPI is not a mode of the LVT. */
    if (m.mode == VMCI_IRQ_FIXED || m.mode == VMCI_IRQ_NMI)
        vmci_lapic_accept(l, &m);
}

/* ---- life ---------------------------------------------------------------------------------- */

void vmci_lapic_reset(struct vmci_lapic *l, bool init)
{
    /* The hints go before what they point at: a request that comes meanwhile may leave a hint too
       many, never one too few. */
    vmci_exchange(&l->irr_words, 0u);
    for (unsigned i = 0; i < 8; i++) {
        vmci_store_relaxed(&l->irr[i], 0u);
        vmci_store_relaxed(&l->isr[i], 0u);
        vmci_store_relaxed(&l->tmr[i], 0u);
    }
    vmci_store_relaxed(&l->extint, 0u);
    vmci_store_relaxed(&l->esr_new, 0u);
    for (unsigned i = 0; i < VMCI_LVTS; i++)
        vmci_store_relaxed(&l->lvt[i], VMCI_LVT_MASKED);
    vmci_store_relaxed(&l->svr, 0xffu);
    vmci_store_relaxed(&l->dfr, 0xffffffffu);
    l->tpr = l->esr = l->icr = l->icr2 = 0;
    vmci_lapic_update_ppr(l);
    if (!init) {
        uint64_t bsp = l->id == 0 ? VMC_APIC_BASE_BSP : 0;
        vmci_store_relaxed(&l->base, VMC_APIC_DEFAULT_GPA | VMC_APIC_BASE_ENABLE | bsp);
    }
    /* As firmware leaves it (virtual wire mode): the boot processor takes 8259 interrupts, so that
       a kernel that is started without firmware finds them working. */
    if (!init && l->id == 0)
        vmci_store_relaxed(&l->lvt[VMCI_LVT_LINT0],
                           (uint32_t)VMCI_IRQ_EXTINT << VMCI_LVT_MODE_SHIFT);
    vmci_store_relaxed(&l->ldr, vmci_lapic_x2(l) ? (l->id >> 4) << 16 | 1u << (l->id & 15) : 0);
    vmci_apic_timer_reset(l);
}

int vmci_lapic_init(struct vmci_lapic *l, struct vmci_irqchip *chip, uint32_t index,
                    struct vmc_timerq *timers)
{
    l->chip = chip;
    l->index = index;
    l->id = index;
    l->has_x2apic = true;
    l->has_deadline = true;
    l->phys_bits = VMC_GPA_BITS;
    int rc = vmci_lock_init(&l->timer_lock, chip->pf);
    if (rc != VMC_OK)
        return rc;
    rc = vmc_timer_create(timers, "lapic", vmci_apic_timer_fire, l, &l->timer);
    if (rc != VMC_OK) {
        vmci_lock_fini(&l->timer_lock);
        return rc;
    }
    vmci_lapic_reset(l, false);
    return VMC_OK;
}

void vmci_lapic_fini(struct vmci_lapic *l)
{
    if (l->timer == NULL)
        return;
    vmc_timer_destroy(l->timer);
    l->timer = NULL;
    vmci_lock_fini(&l->timer_lock);
}
