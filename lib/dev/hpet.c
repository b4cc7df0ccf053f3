/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * High Precision Event Timer (IA-PC HPET specification 1.0a): a 64-bit counter of 100 MHz and three
 * comparators, each one-shot or periodic, with legacy replacement routing.
 *
 * Threats (guest input: any value to any register)
 *   periods of a few ticks           interrupts at least MIN_GAP_NS apart      hpet_storm_is_bounded
 *   host that was away               periods beyond MAX_LAG_NS are skipped     hpet_lag_is_bounded
 *   comparator just passed           fires at once, as guests expect           hpet_past_comparator
 */
#include "base/snapshot.h"
#include "dev_priv.h"

#define HPET_BYTES  1024
#define COMPARATORS 3
#define TICK_NS     10u
#define TICK_FS     10000000u
#define MIN_GAP_NS  20000u
#define MAX_LAG_NS  (NS_PER_S / 2)
/* A match is by equality, so a comparator written too late would match a whole round later. The
   host can hold a guest up between its look at the counter and the write: this much is forgiven. */
#define PASSED_NS (NS_PER_S / 10)

#define REG_CAP     0x000u
#define REG_CONFIG  0x010u
#define REG_STATUS  0x020u
#define REG_COUNTER 0x0f0u
#define REG_TIMER0  0x100u
#define TIMER_STEP  0x20u
#define TN_CONFIG   0x00u
#define TN_CMP      0x08u

#define CFG_ENABLE 0x1u
#define CFG_LEGACY 0x2u

#define TN_LEVEL    0x0002u
#define TN_INT      0x0004u
#define TN_PERIODIC 0x0008u
#define TN_CAP      0x0030u /* periodic capable, 64 bits */
#define TN_VAL_SET  0x0040u
#define TN_32BIT    0x0100u
#define TN_ROUTE    0x3e00u
#define TN_WRITABLE (TN_LEVEL | TN_INT | TN_PERIODIC | TN_VAL_SET | TN_32BIT | TN_ROUTE)

/* Revision 1, three comparators, 64-bit counter, legacy replacement, vendor 8086. */
#define CAP_VALUE    (0x8086a001u | (COMPARATORS - 1) << 8 | (uint64_t)TICK_FS << 32)
#define ROUTE_CAP    0x00ff0104u /* inputs 2, 8 and 16-23 */

struct hpet_timer {
    uint64_t config; /* writable bits only */
    uint64_t cmp;
    uint64_t period;
    uint64_t due_ns; /* 0: not armed */
};

struct hpet_state {
    uint64_t config, status;
    uint64_t counter;    /* while stopped; else at base_ns */
    uint64_t base_ns;
    struct hpet_timer t[COMPARATORS];
    uint8_t pit_level, rtc_level; /* what the PIT and the RTC drive */
    uint8_t pad[6];
};
#define HPET_VERSION 1u

struct hpet_slot {
    struct vmc_hpet *hpet;
    unsigned n;
    struct vmc_timer *timer;
};

struct vmc_hpet {
    struct dev_base base;
    struct vmc_hpet_config cfg;
    struct hpet_state st; /* (l) */
    struct hpet_slot slot[COMPARATORS];
};

/* ---- counter ------------------------------------------------------------------------------- */

static uint64_t counter_at(const struct hpet_state *s, uint64_t now)
{
    if ((s->config & CFG_ENABLE) == 0 || now < s->base_ns)
        return s->counter;
    return s->counter + (now - s->base_ns) / TICK_NS;
}

static uint64_t timer_mask(const struct hpet_timer *t)
{
    return (t->config & TN_32BIT) != 0 ? UINT32_MAX : UINT64_MAX;
}

/* Ticks from count until the comparator matches; one that was just passed matches now. */
static uint64_t ticks_left(const struct hpet_timer *t, uint64_t count)
{
    uint64_t behind = (count - t->cmp) & timer_mask(t);

    if (behind <= VMCI_MIN(count, PASSED_NS / TICK_NS)) /* before 0 the counter was nowhere */
        return 0;
    return (t->cmp - count) & timer_mask(t);
}

/* ---- interrupts ---------------------------------------------------------------------------- */

static const struct vmc_irq_line *timer_line(const struct vmc_hpet *h, unsigned n)
{
    unsigned route = (unsigned)(h->st.t[n].config & TN_ROUTE) >> 9;

    if ((h->st.config & CFG_LEGACY) != 0 && n < 2)
        return n == 0 ? &h->cfg.irq0 : &h->cfg.irq8;
    if (route < VMC_HPET_GSIS && (ROUTE_CAP >> route & 1) != 0)
        return &h->cfg.gsi[route];
    return NULL;
}

static void timer_fire(struct vmc_hpet *h, unsigned n)
{
    const struct hpet_timer *t = &h->st.t[n];
    const struct vmc_irq_line *line = timer_line(h, n);

    if ((t->config & TN_LEVEL) != 0)
        h->st.status |= 1u << n;
    if ((t->config & TN_INT) == 0 || line == NULL)
        return;
    vmc_irq_set(line, true);
    if ((t->config & TN_LEVEL) == 0)
        vmc_irq_set(line, false);
}

static void timer_quiet(struct vmc_hpet *h, unsigned n)
{
    const struct vmc_irq_line *line = timer_line(h, n);

    if (line != NULL)
        vmc_irq_set(line, false);
}

/* Give the PIT's and the RTC's wires back what they drive, or take them. */
static void legacy_update(struct vmc_hpet *h)
{
    bool legacy = (h->st.config & CFG_LEGACY) != 0;

    vmc_irq_set(&h->cfg.irq0, !legacy && h->st.pit_level);
    vmc_irq_set(&h->cfg.irq8, !legacy && h->st.rtc_level);
}

static void wire_set(struct vmc_hpet *h, uint8_t *level, const struct vmc_irq_line *line, bool on)
{
    vmci_lock(&h->base.lock);
    *level = on;
    if ((h->st.config & CFG_LEGACY) == 0)
        vmc_irq_set(line, on);
    vmci_unlock(&h->base.lock);
}

static void pit_wire(void *ctx, uint32_t pin, bool level)
{
    struct vmc_hpet *h = ctx;

    (void)pin;
    wire_set(h, &h->st.pit_level, &h->cfg.irq0, level);
}

static void rtc_wire(void *ctx, uint32_t pin, bool level)
{
    struct vmc_hpet *h = ctx;

    (void)pin;
    wire_set(h, &h->st.rtc_level, &h->cfg.irq8, level);
}

struct vmc_irq_line vmc_hpet_pit_line(struct vmc_hpet *h)
{
    return (struct vmc_irq_line){.set = pit_wire, .ctx = h};
}

struct vmc_irq_line vmc_hpet_rtc_line(struct vmc_hpet *h)
{
    return (struct vmc_irq_line){.set = rtc_wire, .ctx = h};
}

/* ---- comparators --------------------------------------------------------------------------- */

static void timer_arm(struct vmc_hpet *h, unsigned n, uint64_t now)
{
    struct hpet_timer *t = &h->st.t[n];

    t->due_ns = 0;
    /* Without an interrupt or a status bit to set, a match has no effect. */
    if ((h->st.config & CFG_ENABLE) == 0 || (t->config & (TN_INT | TN_LEVEL)) == 0) {
        vmc_timer_disarm(h->slot[n].timer);
        return;
    }
    uint64_t ticks = ticks_left(t, counter_at(&h->st, now));
    if (ticks > UINT64_MAX / 2 / TICK_NS || now + ticks * TICK_NS < now) {
        vmc_timer_disarm(h->slot[n].timer);
        return;
    }
    t->due_ns = now + ticks * TICK_NS;
    vmc_timer_arm(h->slot[n].timer, t->due_ns);
}

/* After a match: the next one of a periodic timer, or the next time round of a 32-bit one. */
static void timer_next(struct vmc_hpet *h, unsigned n, uint64_t now)
{
    struct hpet_timer *t = &h->st.t[n];
    uint64_t late = (counter_at(&h->st, now) - t->cmp) & timer_mask(t);
    uint64_t step;

    if ((t->config & TN_PERIODIC) != 0 && t->period != 0) {
        uint64_t skip = late > MAX_LAG_NS / TICK_NS ? late / t->period * t->period : 0;
        t->cmp = (t->cmp + skip + t->period) & timer_mask(t);
        step = skip + t->period > late ? skip + t->period - late : 0;
    } else if ((t->config & TN_32BIT) != 0) {
        step = (1ull << 32) - late;
    } else {
        t->due_ns = 0;
        return;
    }
    if (step > UINT64_MAX / 2 / TICK_NS) {
        t->due_ns = 0;
        return;
    }
    t->due_ns = VMCI_MAX(now + step * TICK_NS, now + MIN_GAP_NS);
    vmc_timer_arm(h->slot[n].timer, t->due_ns);
}

static void timer_fn(void *ctx, uint64_t deadline_ns)
{
    struct hpet_slot *slot = ctx;
    struct vmc_hpet *h = slot->hpet;

    (void)deadline_ns;
    vmci_lock(&h->base.lock);
    uint64_t now = dev_now(&h->base);
    uint64_t due = h->st.t[slot->n].due_ns;
    if (due != 0 && due <= now) {
        timer_fire(h, slot->n);
        timer_next(h, slot->n, now);
    }
    vmci_unlock(&h->base.lock);
}

/* ---- registers ----------------------------------------------------------------------------- */

static uint64_t timer_reg_read(const struct hpet_timer *t, unsigned reg)
{
    if (reg == TN_CONFIG)
        return (uint64_t)ROUTE_CAP << 32 | t->config | TN_CAP;
    return reg == TN_CMP ? t->cmp : 0;
}

/* A 64-bit register. */
static uint64_t reg_read(const struct vmc_hpet *h, unsigned reg, uint64_t now)
{
    const struct hpet_state *s = &h->st;

    if (reg >= REG_TIMER0 && reg < REG_TIMER0 + COMPARATORS * TIMER_STEP)
        return timer_reg_read(&s->t[(reg - REG_TIMER0) / TIMER_STEP], reg % TIMER_STEP);
    switch (reg) {
    case REG_CAP:
        return CAP_VALUE;
    case REG_CONFIG:
        return s->config;
    case REG_STATUS:
        return s->status;
    case REG_COUNTER:
        return counter_at(s, now);
    default:
        return 0;
    }
}

static void config_write(struct vmc_hpet *h, uint64_t v, uint64_t now)
{
    struct hpet_state *s = &h->st;
    uint64_t old = s->config;

    if (((old ^ v) & CFG_ENABLE) != 0) {
        s->counter = counter_at(s, now);
        s->base_ns = now;
    }
    if (((old ^ v) & CFG_LEGACY) != 0) {
        for (unsigned n = 0; n < COMPARATORS; n++)
            timer_quiet(h, n);
    }
    s->config = v & (CFG_ENABLE | CFG_LEGACY);
    if (((old ^ v) & CFG_LEGACY) != 0)
        legacy_update(h);
    if (((old ^ v) & CFG_ENABLE) != 0) {
        for (unsigned n = 0; n < COMPARATORS; n++)
            timer_arm(h, n, now);
    }
}

static void timer_config_write(struct vmc_hpet *h, unsigned n, uint64_t v, uint64_t now)
{
    struct hpet_timer *t = &h->st.t[n];
    bool was_level = (t->config & TN_LEVEL) != 0 && (h->st.status >> n & 1) != 0;

    if (was_level)
        timer_quiet(h, n); /* whatever the new routing is, the old wire is released */
    t->config = v & TN_WRITABLE;
    if ((t->config & TN_32BIT) != 0) {
        t->cmp &= UINT32_MAX;
        t->period &= UINT32_MAX;
    }
    const struct vmc_irq_line *line = timer_line(h, n);
    if (was_level && (t->config & (TN_INT | TN_LEVEL)) == (TN_INT | TN_LEVEL) && line != NULL)
        vmc_irq_set(line, true);
    timer_arm(h, n, now);
}

/* mask: which bits of the register this access covers. */
static void timer_cmp_write(struct vmc_hpet *h, unsigned n, uint64_t v, uint64_t mask, uint64_t now)
{
    struct hpet_timer *t = &h->st.t[n];

    if ((t->config & TN_PERIODIC) == 0 || (t->config & TN_VAL_SET) != 0)
        t->cmp = ((t->cmp & ~mask) | (v & mask)) & timer_mask(t);
    if ((t->config & TN_PERIODIC) != 0)
        t->period = ((t->period & ~mask) | (v & mask)) & timer_mask(t);
    /* A write ends the effect of VAL_SET (specification 2.3.9.2.2). */
    t->config &= ~(uint64_t)TN_VAL_SET;
    timer_arm(h, n, now);
}

static void status_write(struct vmc_hpet *h, uint64_t v)
{
    for (unsigned n = 0; n < COMPARATORS; n++) {
        if ((v & h->st.status & 1u << n) != 0) {
            h->st.status &= ~(uint64_t)(1u << n);
            timer_quiet(h, n);
        }
    }
}

static void reg_write(struct vmc_hpet *h, unsigned reg, uint64_t v, uint64_t mask, uint64_t now)
{
    struct hpet_state *s = &h->st;
    uint64_t whole = (reg_read(h, reg, now) & ~mask) | (v & mask);

    if (reg >= REG_TIMER0 && reg < REG_TIMER0 + COMPARATORS * TIMER_STEP) {
        unsigned n = (reg - REG_TIMER0) / TIMER_STEP;
        if (reg % TIMER_STEP == TN_CONFIG)
            timer_config_write(h, n, whole, now);
        else if (reg % TIMER_STEP == TN_CMP)
            timer_cmp_write(h, n, v, mask, now);
        return;
    }
    switch (reg) {
    case REG_CONFIG:
        config_write(h, whole, now);
        break;
    case REG_STATUS:
        status_write(h, v & mask);
        break;
    case REG_COUNTER: /* while it runs the result is undefined: it just goes on from there */
        s->counter = whole;
        s->base_ns = now;
        for (unsigned n = 0; n < COMPARATORS; n++)
            timer_arm(h, n, now);
        break;
    default:
        break;
    }
}

static uint64_t hpet_read(void *dev, uint64_t offset, unsigned bytes)
{
    struct vmc_hpet *h = dev;

    vmci_lock(&h->base.lock);
    uint64_t v = reg_read(h, (unsigned)offset & ~7u, dev_now(&h->base)) >> (8 * (offset & 7));
    vmci_unlock(&h->base.lock);
    return bytes == 8 ? v : v & ((1ull << (8 * bytes)) - 1);
}

static void hpet_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    struct vmc_hpet *h = dev;
    unsigned shift = 8 * (offset & 7);
    uint64_t mask = (bytes == 8 ? UINT64_MAX : (1ull << (8 * bytes)) - 1) << shift;

    vmci_lock(&h->base.lock);
    reg_write(h, (unsigned)offset & ~7u, value << shift, mask, dev_now(&h->base));
    vmci_unlock(&h->base.lock);
}

static const struct vmc_bus_ops hpet_ops = {.read = hpet_read, .write = hpet_write};

/* ---- life cycle ---------------------------------------------------------------------------- */

static void hpet_reset(void *dev)
{
    struct vmc_hpet *h = dev;

    vmci_lock(&h->base.lock);
    uint8_t pit = h->st.pit_level, rtc = h->st.rtc_level;
    for (unsigned n = 0; n < COMPARATORS; n++) {
        timer_quiet(h, n);
        vmc_timer_disarm(h->slot[n].timer);
    }
    memset(&h->st, 0, sizeof(h->st));
    h->st.pit_level = pit;
    h->st.rtc_level = rtc;
    for (unsigned n = 0; n < COMPARATORS; n++)
        h->st.t[n].cmp = UINT64_MAX;
    legacy_update(h);
    vmci_unlock(&h->base.lock);
}

static size_t hpet_save(void *dev, void *dst, size_t bytes)
{
    struct vmc_hpet *h = dev;

    vmci_lock(&h->base.lock);
    size_t n = vmci_dev_save(&h->base, HPET_VERSION, &h->st, sizeof(h->st), dst, bytes);
    vmci_unlock(&h->base.lock);
    return n;
}

static int hpet_load(void *dev, const void *src, size_t bytes, struct vmc_error *err)
{
    struct vmc_hpet *h = dev;
    struct hpet_state s;
    uint64_t shift;
    int rc = vmci_dev_load(&h->base, HPET_VERSION, src, bytes, &s, sizeof(s), &shift, err);

    if (rc != VMC_OK)
        return rc;
    if ((s.config & ~(uint64_t)(CFG_ENABLE | CFG_LEGACY)) != 0)
        return vmci_error(err, VMC_EFORMAT, "hpet/load", "reserved bits are set");
    for (unsigned n = 0; n < COMPARATORS; n++)
        s.t[n].config &= TN_WRITABLE;
    vmci_lock(&h->base.lock);
    h->st = s;
    h->st.base_ns += shift;
    for (unsigned n = 0; n < COMPARATORS; n++) {
        h->st.t[n].due_ns = s.t[n].due_ns != 0 ? s.t[n].due_ns + shift : 0;
        if (s.t[n].due_ns != 0)
            vmc_timer_arm(h->slot[n].timer, h->st.t[n].due_ns);
        if ((h->st.status >> n & 1) != 0 && timer_line(h, n) != NULL &&
            (h->st.t[n].config & TN_INT) != 0)
            vmc_irq_set(timer_line(h, n), true);
    }
    vmci_unlock(&h->base.lock);
    return VMC_OK;
}

static void destroy_timers(struct vmc_hpet *h)
{
    for (unsigned n = 0; n < COMPARATORS; n++) {
        if (h->slot[n].timer != NULL)
            vmc_timer_destroy(h->slot[n].timer);
    }
}

static void hpet_destroy(void *dev)
{
    struct vmc_hpet *h = dev;

    vmci_dev_detach(&h->base, h->base.bd->mmio, h->cfg.gpa);
    destroy_timers(h);
    vmci_dev_free(&h->base);
}

static const struct vmc_device_ops hpet_device_ops = {.name = "hpet",
                                                      .reset = hpet_reset,
                                                      .destroy = hpet_destroy,
                                                      .save = VMCI_SNAPSHOT(hpet_save),
                                                      .load = VMCI_SNAPSHOT(hpet_load)};

int vmc_hpet_create(struct vmc_board *bd, const struct vmc_hpet_config *cfg, struct vmc_hpet **out,
                    struct vmc_error *err)
{
    int rc = VMC_OK;

    if (cfg->size != sizeof(*cfg))
        return vmci_error(err, VMC_EINVAL, "hpet/create", "bad configuration size");
    struct vmc_hpet *h = vmci_dev_alloc(bd, sizeof(*h), &hpet_device_ops, err);
    if (h == NULL)
        return VMC_ENOMEM;
    h->cfg = *cfg;
    for (unsigned n = 0; n < COMPARATORS && rc == VMC_OK; n++) {
        h->slot[n].hpet = h;
        h->slot[n].n = n;
        rc = vmc_timer_create(bd->timers, "hpet", timer_fn, &h->slot[n], &h->slot[n].timer);
    }
    if (rc == VMC_OK) {
        hpet_reset(h);
        rc = vmc_bus_attach(bd->mmio, cfg->gpa, HPET_BYTES, &hpet_ops, h, err);
    }
    if (rc != VMC_OK) {
        destroy_timers(h);
        vmci_dev_free(&h->base);
        return rc;
    }
    vmci_dev_publish(&h->base);
    *out = h;
    return VMC_OK;
}
