/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Timer of the local APIC: one-shot, periodic, TSC deadline (SDM 3A 11.5.4).
 *
 * Counting is not simulated: the next expiry is kept, and the current count follows from the time
 * left. Functions are called by the vCPU's thread; vmci_apic_timer_fire by any.
 */
#include "irq/irq_int.h"
#include <vmcore/timer.h>

/* A periodic timer goes off at most this often; ticks in between coalesce, as they do in IRR. The
   count that the guest reads stays exact. */
#define MIN_REARM_NS 10000u

static uint64_t now_ns(const struct vmci_lapic *l)
{
    return vmc_timerq_now(l->chip->board->timers);
}

/* Divide configuration: bits 0, 1, 3 encode 2, 4 ... 128, 1 (SDM 3A figure 11-10). */
static uint32_t divisor(uint32_t divide)
{
    uint32_t code = (divide & 3) | (divide & 8) >> 1;

    return 1u << ((code + 1) & 7);
}

static uint64_t period_ns(const struct vmci_lapic *l)
{
    return (uint64_t)l->timer_init * divisor(l->timer_divide);
}

static uint32_t mode(const struct vmci_lapic *l)
{
    return vmci_load_relaxed(&l->lvt[VMCI_LVT_TIMER]) & VMCI_TIMER_MODE;
}

/* Timer lock held. at: when to call back; due stays the exact expiry. */
static void start(struct vmci_lapic *l, uint64_t due, uint64_t at)
{
    l->timer_due = due;
    l->timer_armed = at;
    vmc_timer_arm(l->timer, at);
}

static void stop(struct vmci_lapic *l)
{
    l->timer_due = 0;
    l->timer_armed = 0;
    vmc_timer_disarm(l->timer);
}

/* The expiry after now of a periodic count that expired at due. */
static uint64_t next_period(const struct vmci_lapic *l, uint64_t due, uint64_t now)
{
    uint64_t period = period_ns(l);

    if (due > now)
        return due;
    return due + ((now - due) / period + 1) * period;
}

/* The end of a count, or of a period of it. Timer lock held. */
static void expire(struct vmci_lapic *l, uint64_t now)
{
    if (mode(l) == VMCI_TIMER_PERIODIC && l->timer_init != 0) {
        uint64_t due = next_period(l, l->timer_due, now);
        start(l, due, VMCI_MAX(due, now + MIN_REARM_NS));
    } else {
        stop(l);
        l->tsc_deadline = 0;
    }
}

/* A count that is over although the callback has yet to say so: what the guest does next comes
   after its end. True: the interrupt is to be sent. Timer lock held. */
static bool expire_if_late(struct vmci_lapic *l)
{
    uint64_t now = now_ns(l);

    if (l->timer_due == 0 || l->timer_due > now)
        return false;
    expire(l, now);
    return true;
}

/* Time left to the end of the running count, 0 when stopped or over. Timer lock held. */
static uint64_t left_ns(const struct vmci_lapic *l)
{
    uint64_t now = now_ns(l);
    uint64_t due = l->timer_due;

    if (due == 0 || l->timer_init == 0)
        return 0;
    if (mode(l) == VMCI_TIMER_PERIODIC)
        due = next_period(l, due, now);
    return due > now ? due - now : 0;
}

uint32_t vmci_apic_timer_current(struct vmci_lapic *l)
{
    if (mode(l) == VMCI_TIMER_DEADLINE)
        return 0;
    vmci_lock(&l->timer_lock);
    bool late = expire_if_late(l);
    uint64_t div = divisor(l->timer_divide);
    uint64_t count = (left_ns(l) + div - 1) / div;
    vmci_unlock(&l->timer_lock);
    if (late)
        vmci_lapic_local(l, VMCI_LVT_TIMER);
    return (uint32_t)count;
}

void vmci_apic_timer_set_init(struct vmci_lapic *l, uint32_t count)
{
    if (mode(l) == VMCI_TIMER_DEADLINE)
        return; /* writes are ignored in this mode */
    vmci_lock(&l->timer_lock);
    bool late = expire_if_late(l);
    l->timer_init = count;
    if (count == 0) {
        stop(l);
    } else {
        uint64_t due = now_ns(l) + period_ns(l);
        start(l, due, due);
    }
    vmci_unlock(&l->timer_lock);
    if (late)
        vmci_lapic_local(l, VMCI_LVT_TIMER);
}

void vmci_apic_timer_set_divide(struct vmci_lapic *l, uint32_t divide)
{
    vmci_lock(&l->timer_lock);
    bool late = expire_if_late(l);
    uint64_t old = divisor(l->timer_divide);
    uint64_t left = left_ns(l);
    l->timer_divide = divide & 0xb;
    if (left != 0) {
        /* The count goes on from where it is, at the new rate. */
        uint64_t due = now_ns(l) + (left + old - 1) / old * divisor(divide);
        start(l, due, due);
    }
    vmci_unlock(&l->timer_lock);
    if (late)
        vmci_lapic_local(l, VMCI_LVT_TIMER);
}

void vmci_apic_timer_set_current(struct vmci_lapic *l, uint32_t count)
{
    vmci_lock(&l->timer_lock);
    if (count != 0 && mode(l) != VMCI_TIMER_DEADLINE) {
        uint64_t due = now_ns(l) + (uint64_t)count * divisor(l->timer_divide);
        start(l, due, due);
    } else if (mode(l) != VMCI_TIMER_DEADLINE) {
        stop(l);
    }
    vmci_unlock(&l->timer_lock);
}

void vmci_apic_timer_set_lvt(struct vmci_lapic *l, uint32_t lvt)
{
    uint32_t before = vmci_load_relaxed(&l->lvt[VMCI_LVT_TIMER]);
    uint32_t old = before & VMCI_TIMER_MODE;
    uint32_t new = lvt & VMCI_TIMER_MODE;

    vmci_lock(&l->timer_lock);
    bool late = expire_if_late(l);
    vmci_store_relaxed(&l->lvt[VMCI_LVT_TIMER], lvt);
    /* Entering or leaving TSC-deadline mode disarms the timer (SDM 3A 11.5.4.1). */
    if (old != new && (old == VMCI_TIMER_DEADLINE || new == VMCI_TIMER_DEADLINE)) {
        stop(l);
        l->timer_init = 0;
        l->tsc_deadline = 0;
    } else if (old != new && l->timer_due != 0) {
        start(l, l->timer_due, l->timer_due);
    }
    vmci_unlock(&l->timer_lock);
    if (late && (before & VMCI_LVT_MASKED) == 0) {
        struct vmci_irq_msg m = {.mode = VMCI_IRQ_FIXED, .vector = before & 0xff};
        vmci_lapic_accept(l, &m);
    }
}

uint64_t vmci_apic_timer_get_deadline(struct vmci_lapic *l)
{
    vmci_lock(&l->timer_lock);
    bool late = expire_if_late(l);
    uint64_t tsc = l->tsc_deadline;
    vmci_unlock(&l->timer_lock);
    if (late)
        vmci_lapic_local(l, VMCI_LVT_TIMER);
    return tsc;
}

/* Nanoseconds that ticks of hz take, rounded up. */
static uint64_t ticks_to_ns(uint64_t ticks, uint64_t hz)
{
    unsigned __int128 ns = (unsigned __int128)ticks * 1000000000u + hz - 1;

    /* 128 by 64 bits without a library call: hz is below 2^40, so two steps are exact enough. */
    uint64_t high = (uint64_t)(ns >> 64);
    if (high >= hz)
        return UINT64_MAX;
    uint64_t quotient, rest;
    __asm__("divq %4" : "=a"(quotient), "=d"(rest) : "a"((uint64_t)ns), "d"(high), "r"(hz) : "cc");
    return quotient;
}

/* Arm the timer for the deadline: another one, or (NULL) the one that there is, by a TSC that was
   written. */
static void aim(struct vmci_lapic *l, const uint64_t *other)
{
    uint64_t now_tsc = 0, hz = 0;

    l->chip->ops->tsc(l->chip->ctx, l->index, &now_tsc, &hz);
    vmci_lock(&l->timer_lock);
    bool late = other != NULL && expire_if_late(l);
    uint64_t tsc = other != NULL ? *other : l->tsc_deadline;
    bool past = tsc != 0 && (tsc <= now_tsc || hz == 0);
    if (tsc == 0 || past) {
        stop(l);
        l->tsc_deadline = 0;
    } else {
        uint64_t now = now_ns(l);
        uint64_t wait = ticks_to_ns(tsc - now_tsc, hz);
        uint64_t due = wait > UINT64_MAX - 1 - now ? UINT64_MAX - 1 : now + wait;
        l->tsc_deadline = tsc;
        start(l, due, due);
    }
    vmci_unlock(&l->timer_lock);
    if (past || late)
        vmci_lapic_local(l, VMCI_LVT_TIMER);
}

void vmci_apic_timer_set_deadline(struct vmci_lapic *l, uint64_t tsc)
{
    if (mode(l) == VMCI_TIMER_DEADLINE) /* writes are ignored in the other modes */
        aim(l, &tsc);
}

void vmci_apic_timer_tsc_moved(struct vmci_lapic *l)
{
    if (mode(l) == VMCI_TIMER_DEADLINE)
        aim(l, NULL);
}

void vmci_apic_timer_fire(void *ctx, uint64_t deadline_ns)
{
    struct vmci_lapic *l = ctx;

    vmci_lock(&l->timer_lock);
    if (l->timer_due == 0 || l->timer_armed != deadline_ns) {
        vmci_unlock(&l->timer_lock); /* stopped or armed anew meanwhile */
        return;
    }
    expire(l, now_ns(l));
    vmci_unlock(&l->timer_lock);
    vmci_lapic_local(l, VMCI_LVT_TIMER);
}

void vmci_apic_timer_reset(struct vmci_lapic *l)
{
    vmci_lock(&l->timer_lock);
    stop(l);
    l->timer_init = 0;
    l->timer_divide = 0;
    l->tsc_deadline = 0;
    vmci_unlock(&l->timer_lock);
}
