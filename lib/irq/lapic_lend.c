/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A local APIC whose registers a processor works on by itself while it runs the guest (SDM 3C
 * chapter 30). What it changes is in a page meanwhile, and not here: the vector files, the task
 * priority, the upper half of the ICR. Requests go on arriving in irr; who sends them tells the
 * owner, who lends again.
 */
#include "irq/irq_int.h"

#define PIECE(reg, i) ((reg) + (uint32_t)(i)*16u) /* 32 vectors of a register of 256 bits */

static void put(uint8_t *page, uint32_t reg, uint32_t v)
{
    vmci_st_le32(page + reg, v);
}

static void take_requests(struct vmci_lapic *l, uint8_t *page)
{
    uint32_t words = vmci_exchange(&l->irr_words, 0u);

    for (unsigned i = 0; i < 8; i++)
        put(page, PIECE(VMCI_APIC_IRR, i), (words & 1u << i) ? vmci_exchange(&l->irr[i], 0u) : 0);
}

uint32_t vmci_lapic_lend(struct vmci_lapic *l, uint8_t page[1024], uint32_t level[8])
{
    bool x2 = vmci_lapic_x2(l);

    if (!vmci_lapic_on(l) || (!x2 && !vmci_lapic_claims(l, VMC_APIC_DEFAULT_GPA)))
        return VMC_APIC_KEPT;
    take_requests(l, page);
    for (unsigned i = 0; i < 8; i++) { /* TMR after IRR: it is set first */
        level[i] = vmci_load_acquire(&l->tmr[i]);
        put(page, PIECE(VMCI_APIC_TMR, i), level[i]);
        put(page, PIECE(VMCI_APIC_ISR, i), l->isr[i]);
    }
    put(page, VMCI_APIC_ID, x2 ? l->id : l->id << 24);
    put(page, VMCI_APIC_VERSION, VMCI_APIC_VERSION_VALUE);
    put(page, VMCI_APIC_TPR, l->tpr);
    put(page, VMCI_APIC_PPR, l->ppr);
    put(page, VMCI_APIC_LDR, l->ldr);
    put(page, VMCI_APIC_DFR, l->dfr);
    put(page, VMCI_APIC_SVR, l->svr);
    put(page, VMCI_APIC_ESR, l->esr);
    put(page, VMCI_APIC_ICR, l->icr);
    put(page, VMCI_APIC_ICR2, l->icr2);
    for (unsigned n = 0; n < VMCI_LVTS; n++)
        put(page, PIECE(VMCI_APIC_LVT_TIMER, n), vmci_load_relaxed(&l->lvt[n]));
    put(page, VMCI_APIC_TIMER_INIT, l->timer_init);
    put(page, VMCI_APIC_TIMER_DIVIDE, l->timer_divide);
    return x2 ? VMC_APIC_X2APIC : VMC_APIC_XAPIC;
}

/* In the order that request (lapic.c) keeps. */
static void put_back(struct vmci_lapic *l, unsigned word, uint32_t requests)
{
    vmci_fetch_or(&l->irr[word], requests);
    vmci_fetch_or(&l->irr_words, 1u << word);
}

bool vmci_lapic_return(struct vmci_lapic *l, const uint8_t page[1024])
{
    bool any = false;

    for (unsigned i = 0; i < 8; i++) {
        uint32_t requests = vmci_ld_le32(page + PIECE(VMCI_APIC_IRR, i));
        vmci_store_relaxed(&l->isr[i], vmci_ld_le32(page + PIECE(VMCI_APIC_ISR, i)));
        if (requests != 0)
            put_back(l, i, requests);
        any = any || requests != 0;
    }
    l->tpr = vmci_ld_le32(page + VMCI_APIC_TPR) & 0xff;
    if (!vmci_lapic_x2(l))
        l->icr2 = vmci_ld_le32(page + VMCI_APIC_ICR2) & 0xff000000u;
    vmci_lapic_update_ppr(l);
    return any;
}

void vmci_lapic_eoi_done(struct vmci_lapic *l, uint8_t vector)
{
    if ((vmci_load_relaxed(&l->tmr[vector >> 5]) & 1u << (vector & 31)) != 0 &&
        !(l->svr & VMCI_SVR_NO_BROADCAST))
        vmci_irqchip_eoi(l->chip, vector);
}

bool vmci_lapic_post(struct vmci_lapic *l, uint32_t requests[8])
{
    uint32_t words = vmci_load_acquire(&l->irr_words);
    bool all = vmci_load_acquire(&l->chip->pic.intr) == 0;

    for (unsigned i = 0; i < 8; i++) {
        if (!(words & 1u << i))
            continue;
        uint32_t want = vmci_load_relaxed(&l->irr[i]);
        uint32_t edge = want & ~vmci_load_relaxed(&l->tmr[i]);
        /* Of two senders each moves what it still finds. */
        edge &= vmci_fetch_and(&l->irr[i], ~edge);
        if (edge != 0)
            vmci_fetch_or(&requests[i], edge);
        all = all && (want & vmci_load_relaxed(&l->tmr[i])) == 0;
    }
    return all;
}

void vmci_lapic_unpost(struct vmci_lapic *l, uint32_t requests[8])
{
    for (unsigned i = 0; i < 8; i++) {
        uint32_t r = vmci_exchange(&requests[i], 0u);
        if (r != 0)
            put_back(l, i, r);
    }
    l->chip->ops->notify(l->chip->ctx, l->index);
}
