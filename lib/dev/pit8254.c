/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * 8254 programmable interval timer (Intel 8254 data sheet) and port 0x61 of a PC.
 *
 * Nothing counts: the count and the output of a channel are computed from the time since it was
 * loaded. Only rising edges of channel 0's output need a timer, since they are what interrupts.
 *
 * Threats (guest input: any byte to any register)
 *   count of 1 or 2 asks for an interrupt storm   edges at least MIN_EDGE_NS apart  pit_storm_is_bounded
 *   host that was away for long                   at most MAX_LAG_NS of ticks made up  pit_lag_is_bounded
 */
#include "base/snapshot.h"
#include "dev_priv.h"

#define PIT_PORT     0x40
#define PIT_PORTS    4
#define PORT61       0x61
#define PIT_HZ       1193182u
#define CHANNELS     3
#define MIN_EDGE_NS  20000u
#define MAX_LAG_NS   (NS_PER_S / 2)
#define REFRESH_NS   15085u /* port 0x61 bit 4 toggles at this rate */

#define CW_READBACK    3u
#define RB_NO_COUNT    0x20u
#define RB_NO_STATUS   0x10u
#define STATUS_OUT     0x80u
#define STATUS_NULL    0x40u
#define P61_GATE2      0x01u
#define P61_WRITABLE   0x0fu
#define P61_REFRESH    0x10u
#define P61_OUT2       0x20u

/* For what a written count waits: the end of the period, the middle of it (mode 3); or, in modes 1
   and 5 and while the gate is closed, the next trigger. */
enum { WAITS_NOT, WAITS_END, WAITS_MIDDLE };
enum { ACCESS_LOW = 1, ACCESS_HIGH = 2, ACCESS_BOTH = 3 };

struct pit_channel {
    uint64_t start_ns;   /* when the current count was loaded, or the gate triggered */
    uint64_t paused;     /* ticks that had passed at start_ns */
    uint32_t count;      /* in effect: 1..65536 (binary) */
    uint8_t mode;        /* 0-5 */
    uint8_t access;      /* ACCESS_* */
    uint8_t bcd;
    uint8_t gate;
    uint8_t armed;       /* a count was written since the control word */
    uint8_t triggered;   /* modes 1 and 5: the gate started the count */
    uint8_t write_low;   /* low byte of a 16-bit write, waiting for the high one */
    uint8_t write_second;
    uint8_t read_second;
    uint8_t latched;     /* bytes of latch still to be read */
    uint8_t status_latched;
    uint8_t status;
    uint16_t latch;
    uint8_t waits;       /* WAITS_*: next was written and is not loaded yet */
    uint8_t stopped;     /* mode 0: by the first of a count's two bytes, until the second */
    uint32_t next;       /* 1..65536 */
};
_Static_assert(sizeof(struct pit_channel) == 40, "saved as it is");

struct pit_state {
    struct pit_channel ch[CHANNELS];
    uint8_t port61;
    uint8_t irq_level;
    uint8_t alias[CHANNELS]; /* 1: mode 2 or 3 was written as 6 or 7 */
    uint8_t pad[3];
    uint64_t next_edge_ns; /* channel 0, 0: none */
};
#define PIT_VERSION 1u

struct vmc_pit {
    struct dev_base base;
    struct vmc_irq_line irq;
    struct pit_state st; /* (l) */
    struct vmc_timer *timer;
};

/* ---- counting ------------------------------------------------------------------------------ */

static bool mode_is_triggered(const struct pit_channel *c)
{
    return c->mode == 1 || c->mode == 5;
}

/* Does the gate, or a count that is half written, hold the count? */
static bool is_held(const struct pit_channel *c)
{
    return c->stopped || (!c->gate && !mode_is_triggered(c));
}

static uint64_t ticks_since_start(const struct pit_channel *c, uint64_t now)
{
    if (is_held(c) || now < c->start_ns)
        return c->paused;
    return c->paused + muldiv(now - c->start_ns, PIT_HZ, NS_PER_S);
}

/* Ticks of a period of mode 3 while OUT is high: with an odd count one more than the others. */
static uint64_t high_ticks(uint32_t count)
{
    return (count + 1) / 2;
}

/* The count that waits is loaded; t: the tick, after start, at which it is. */
static void load_next(struct pit_channel *c, uint64_t t)
{
    c->start_ns += t > c->paused ? muldiv_up(t - c->paused, NS_PER_S, PIT_HZ) : 0;
    c->paused = c->waits == WAITS_MIDDLE ? high_ticks(c->next) : 0;
    c->count = c->next;
    c->waits = WAITS_NOT;
}

static uint64_t next_tick(const struct pit_channel *c)
{
    return c->waits == WAITS_MIDDLE ? high_ticks(c->count) : c->count;
}

static bool is_periodic(const struct pit_channel *c)
{
    return c->mode == 2 || c->mode == 3;
}

/* Up to now: load the count that waited for the end of something. */
static void settle(struct pit_channel *c, uint64_t now)
{
    if (c->waits == WAITS_NOT || !is_periodic(c) || is_held(c))
        return;
    if (ticks_since_start(c, now) >= next_tick(c))
        load_next(c, next_tick(c));
}

/* A count is written in the middle of a period of modes 2 and 3, which goes on to its end. */
static void wait_for_end(struct pit_channel *c, uint32_t count, uint64_t now)
{
    uint64_t t = ticks_since_start(c, now);

    if (t >= c->count) { /* this period begins at start_ns */
        c->start_ns += muldiv_up(t - t % c->count - c->paused, NS_PER_S, PIT_HZ);
        c->paused = 0;
    }
    c->waits = c->mode == 3 && t % c->count < high_ticks(c->count) ? WAITS_MIDDLE : WAITS_END;
    c->next = count;
}

/* Level of OUT (data sheet, "Mode definitions"). */
static bool out_level(const struct pit_channel *c, uint64_t now)
{
    uint64_t t = ticks_since_start(c, now);
    bool running = c->armed && (!mode_is_triggered(c) || c->triggered);

    switch (c->mode) {
    case 0: /* low until terminal count */
        return running && !c->stopped && t >= c->count;
    case 1: /* low for count ticks after the trigger */
        return !running || t >= c->count;
    case 2: /* low for the last tick of each period */
        return !running || !c->gate || t % c->count != c->count - 1;
    case 3: /* square wave; the odd tick is high */
        return !running || !c->gate || t % c->count < high_ticks(c->count);
    default: /* 4 and 5: low for one tick after the count */
        return !running || t != c->count;
    }
}

static uint32_t wrap(const struct pit_channel *c)
{
    return c->bcd ? 10000 : 0x10000;
}

/* What the counting element holds, in binary. */
static uint32_t current_count(const struct pit_channel *c, uint64_t now)
{
    uint64_t t = ticks_since_start(c, now);

    if (!c->armed || (mode_is_triggered(c) && !c->triggered))
        return c->count % wrap(c);
    switch (c->mode) {
    case 2:
        return (uint32_t)(c->count - t % c->count) % wrap(c);
    case 3: /* counts by two, twice a period */
        return (uint32_t)(c->count - (2 * t) % c->count) % wrap(c) & ~1u;
    default: /* goes on past zero */
        return (uint32_t)((c->count + wrap(c) - t % wrap(c)) % wrap(c));
    }
}

static uint16_t to_bcd(uint32_t v)
{
    return (uint16_t)(v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 % 10 << 12);
}

/* Digits above 9 count as they would on the chip's decimal counter: modulo 10000 at least. */
static uint32_t from_bcd(uint16_t v)
{
    return ((v & 15u) + (v >> 4 & 15u) * 10 + (v >> 8 & 15u) * 100 + (v >> 12 & 15u) * 1000) %
           10000;
}

static uint16_t readable_count(const struct pit_channel *c, uint64_t now)
{
    uint32_t v = current_count(c, now);

    return c->bcd ? to_bcd(v) : (uint16_t)v;
}

/* Tick, after start, of the next rising edge after tick t; false: none. */
static bool next_edge_tick(const struct pit_channel *c, uint64_t t, uint64_t *edge)
{
    if (!c->armed || (mode_is_triggered(c) && !c->triggered) || is_held(c))
        return false;
    switch (c->mode) {
    case 0:
    case 1:
        *edge = c->count;
        return t < c->count;
    case 2:
    case 3:
        *edge = (t / c->count + 1) * c->count;
        return true;
    default:
        *edge = (uint64_t)c->count + 1;
        return t < *edge;
    }
}

/* ---- channel 0's interrupt ----------------------------------------------------------------- */

static void irq_set(struct vmc_pit *p, bool level)
{
    if (level != (p->st.irq_level != 0)) {
        p->st.irq_level = level;
        vmc_irq_set(&p->irq, level);
    }
}

/* Schedule the first edge after time from. */
static void edge_arm(struct vmc_pit *p, uint64_t from, uint64_t now)
{
    struct pit_channel c = p->st.ch[0];
    uint64_t edge = 0;

    if (c.waits == WAITS_MIDDLE && !is_held(&c)) /* OUT is high now and falls then */
        load_next(&c, next_tick(&c));
    if (!next_edge_tick(&c, ticks_since_start(&c, from), &edge)) {
        p->st.next_edge_ns = 0;
        vmc_timer_disarm(p->timer);
        return;
    }
    /* Where the edge belongs is kept apart from when it can be delivered. */
    p->st.next_edge_ns = c.start_ns + muldiv_up(edge - c.paused, NS_PER_S, PIT_HZ);
    vmc_timer_arm(p->timer, VMCI_MAX(p->st.next_edge_ns, now + MIN_EDGE_NS));
}

/* The channel was programmed or gated: level and next edge anew. */
static void channel0_update(struct vmc_pit *p, uint64_t now)
{
    irq_set(p, out_level(&p->st.ch[0], now));
    edge_arm(p, now, now);
}

static void edge_fn(void *ctx, uint64_t deadline_ns)
{
    struct vmc_pit *p = ctx;

    (void)deadline_ns;
    vmci_lock(&p->base.lock);
    uint64_t now = dev_now(&p->base);
    uint64_t due = p->st.next_edge_ns;
    if (due != 0 && due <= now) {
        irq_set(p, false);
        irq_set(p, true);
        /* Missed periods are delivered one by one, but only so many of them. */
        uint64_t from = now - due > MAX_LAG_NS ? now : due;
        settle(&p->st.ch[0], from);
        edge_arm(p, from, now);
    }
    vmci_unlock(&p->base.lock);
}

/* ---- programming --------------------------------------------------------------------------- */

static void load_count(struct vmc_pit *p, unsigned n, uint16_t raw, uint64_t now)
{
    struct pit_channel *c = &p->st.ch[n];
    uint32_t count = c->bcd ? from_bcd(raw) : raw;

    if (count == 0)
        count = wrap(c);
    if (count == 1 && (c->mode == 2 || c->mode == 3))
        count = 2; /* 1 is illegal (data sheet, table "minimum and maximum counts") */
    /* The first count after a control word is loaded at once, but for modes 1 and 5. */
    if (mode_is_triggered(c) || (is_periodic(c) && c->armed && is_held(c))) {
        c->next = count;
        c->waits = WAITS_END;
        c->armed = 1;
        return;
    }
    if (is_periodic(c) && c->armed) {
        wait_for_end(c, count, now);
        /* An edge that is late is still delivered. */
        if (n == 0 && (p->st.next_edge_ns == 0 || p->st.next_edge_ns > now))
            edge_arm(p, now, now);
        return;
    }
    c->count = count;
    c->armed = 1;
    c->stopped = 0;
    c->waits = WAITS_NOT;
    c->start_ns = now;
    c->paused = 0;
    if (n == 0)
        channel0_update(p, now);
}

static void latch_count(struct pit_channel *c, uint64_t now)
{
    if (c->latched != 0)
        return;
    c->latch = readable_count(c, now);
    c->latched = c->access == ACCESS_BOTH ? 2 : 1;
    c->read_second = 0;
}

/* The mode is shown as it was written (data sheet, "Read-Back Command"). */
static void latch_status(struct vmc_pit *p, unsigned n, uint64_t now)
{
    struct pit_channel *c = &p->st.ch[n];
    bool loaded = c->armed && c->waits == WAITS_NOT;

    if (c->status_latched)
        return;
    c->status = (uint8_t)((out_level(c, now) ? STATUS_OUT : 0) | (loaded ? 0 : STATUS_NULL) |
                          c->access << 4 | p->st.alias[n] << 3 | c->mode << 1 | c->bcd);
    c->status_latched = 1;
}

static void control_write(struct vmc_pit *p, uint8_t v, uint64_t now)
{
    unsigned select = v >> 6;
    unsigned access = v >> 4 & 3;

    if (select == CW_READBACK) {
        for (unsigned i = 0; i < CHANNELS; i++) {
            if ((v & 2u << i) == 0)
                continue;
            if ((v & RB_NO_COUNT) == 0)
                latch_count(&p->st.ch[i], now);
            if ((v & RB_NO_STATUS) == 0)
                latch_status(p, i, now);
        }
        return;
    }
    struct pit_channel *c = &p->st.ch[select];
    if (access == 0) {
        latch_count(c, now);
        return;
    }
    unsigned mode = v >> 1 & 7;
    *c = (struct pit_channel){
        .mode = (uint8_t)(mode > 5 ? mode & 3 : mode), /* bit 2 is ignored in modes 2 and 3 */
        .access = (uint8_t)access,
        .bcd = v & 1,
        .gate = c->gate,
        .count = c->count,
        .start_ns = now,
    };
    p->st.alias[select] = mode > 5;
    if (select == 0)
        channel0_update(p, now);
}

static void count_write(struct vmc_pit *p, unsigned n, uint8_t v, uint64_t now)
{
    struct pit_channel *c = &p->st.ch[n];

    switch (c->access) {
    case ACCESS_LOW:
        load_count(p, n, v, now);
        break;
    case ACCESS_HIGH:
        load_count(p, n, (uint16_t)(v << 8), now);
        break;
    default:
        if (!c->write_second) {
            c->write_low = v;
            c->write_second = 1;
            /* The first byte stops a mode 0 count and sets OUT low (data sheet, "Mode 0"). */
            if (c->mode == 0) {
                c->paused = ticks_since_start(c, now);
                c->stopped = 1;
                if (n == 0)
                    channel0_update(p, now);
            }
        } else {
            c->write_second = 0;
            load_count(p, n, (uint16_t)(v << 8 | c->write_low), now);
        }
    }
}

static uint8_t count_read(struct pit_channel *c, uint64_t now)
{
    if (c->status_latched) {
        c->status_latched = 0;
        return c->status;
    }
    uint16_t v = c->latched != 0 ? c->latch : readable_count(c, now);
    bool high = c->access == ACCESS_HIGH || (c->access == ACCESS_BOTH && c->read_second);

    if (c->access == ACCESS_BOTH)
        c->read_second = !c->read_second;
    if (c->latched != 0)
        c->latched--;
    return (uint8_t)(high ? v >> 8 : v);
}

/* What the time is for an access: the channels are as they are then. */
static uint64_t settle_all(struct vmc_pit *p)
{
    uint64_t now = dev_now(&p->base);

    for (unsigned i = 0; i < CHANNELS; i++)
        settle(&p->st.ch[i], now);
    return now;
}

static uint8_t pit_read8(void *dev, uint64_t offset)
{
    struct vmc_pit *p = dev;
    uint8_t v = 0; /* the control word cannot be read */

    vmci_lock(&p->base.lock);
    uint64_t now = settle_all(p);
    if ((offset & 3) < CHANNELS)
        v = count_read(&p->st.ch[offset & 3], now);
    vmci_unlock(&p->base.lock);
    return v;
}

static void pit_write8(void *dev, uint64_t offset, uint8_t v)
{
    struct vmc_pit *p = dev;

    vmci_lock(&p->base.lock);
    uint64_t now = settle_all(p);
    if ((offset & 3) == CHANNELS)
        control_write(p, v, now);
    else
        count_write(p, offset & 3, v, now);
    vmci_unlock(&p->base.lock);
}

DEV_BYTE_OPS(pit);

/* ---- port 0x61 ----------------------------------------------------------------------------- */

static void gate_set(struct pit_channel *c, bool gate, uint64_t now)
{
    if (gate == (c->gate != 0))
        return;
    if (!gate) { /* what was counted stays, for the modes that hold */
        uint64_t t = ticks_since_start(c, now);
        c->gate = 0;
        if (!mode_is_triggered(c))
            c->paused = t;
        return;
    }
    c->gate = 1;
    if (c->waits != WAITS_NOT)
        c->count = c->next;
    c->waits = WAITS_NOT;
    c->start_ns = now;
    /* A rising gate starts modes 1 and 5, restarts modes 2 and 3, and resumes modes 0 and 4. */
    if (c->mode != 0 && c->mode != 4)
        c->paused = 0;
    if (mode_is_triggered(c))
        c->triggered = c->armed;
}

static uint8_t port61_read8(void *dev, uint64_t offset)
{
    struct vmc_pit *p = dev;

    (void)offset;
    vmci_lock(&p->base.lock);
    uint64_t now = settle_all(p);
    uint8_t v = p->st.port61;
    if (now / REFRESH_NS % 2 != 0)
        v |= P61_REFRESH;
    if (out_level(&p->st.ch[2], now))
        v |= P61_OUT2;
    vmci_unlock(&p->base.lock);
    return v;
}

static void port61_write8(void *dev, uint64_t offset, uint8_t v)
{
    struct vmc_pit *p = dev;

    (void)offset;
    vmci_lock(&p->base.lock);
    p->st.port61 = v & P61_WRITABLE;
    gate_set(&p->st.ch[2], (v & P61_GATE2) != 0, settle_all(p));
    vmci_unlock(&p->base.lock);
}

DEV_BYTE_OPS(port61);

/* ---- life cycle ---------------------------------------------------------------------------- */

static void pit_reset(void *dev)
{
    struct vmc_pit *p = dev;

    vmci_lock(&p->base.lock);
    bool level = p->st.irq_level != 0;
    memset(&p->st, 0, sizeof(p->st));
    for (unsigned i = 0; i < CHANNELS; i++) {
        p->st.ch[i].count = 0x10000;
        p->st.ch[i].mode = 3;
        p->st.ch[i].access = ACCESS_BOTH;
        p->st.ch[i].gate = i != 2;
    }
    vmc_timer_disarm(p->timer);
    if (level)
        vmc_irq_set(&p->irq, false);
    vmci_unlock(&p->base.lock);
}

static size_t pit_save(void *dev, void *dst, size_t bytes)
{
    struct vmc_pit *p = dev;

    vmci_lock(&p->base.lock);
    size_t n = vmci_dev_save(&p->base, PIT_VERSION, &p->st, sizeof(p->st), dst, bytes);
    vmci_unlock(&p->base.lock);
    return n;
}

static int pit_load(void *dev, const void *src, size_t bytes, struct vmc_error *err)
{
    struct vmc_pit *p = dev;
    struct pit_state s;
    uint64_t shift;
    int rc = vmci_dev_load(&p->base, PIT_VERSION, src, bytes, &s, sizeof(s), &shift, err);

    if (rc != VMC_OK)
        return rc;
    for (unsigned i = 0; i < CHANNELS; i++) {
        const struct pit_channel *c = &s.ch[i];
        if (c->mode > 5 || c->access == 0 || c->access > ACCESS_BOTH || c->count == 0 ||
            c->count > 0x10000 || c->bcd > 1 || c->stopped > (c->mode == 0) ||
            c->waits > WAITS_MIDDLE ||
            (c->waits != WAITS_NOT && (c->next == 0 || c->next > 0x10000)) ||
            s.alias[i] > (c->mode == 2 || c->mode == 3))
            return vmci_error(err, VMC_EFORMAT, "pit/load", "channel %u is malformed", i);
        s.ch[i].start_ns += shift;
    }
    vmci_lock(&p->base.lock);
    p->st = s;
    vmc_irq_set(&p->irq, s.irq_level != 0);
    if (s.next_edge_ns != 0) {
        p->st.next_edge_ns += shift;
        vmc_timer_arm(p->timer, p->st.next_edge_ns);
    }
    vmci_unlock(&p->base.lock);
    return VMC_OK;
}

static void pit_destroy(void *dev)
{
    struct vmc_pit *p = dev;

    vmci_dev_detach(&p->base, p->base.bd->pio, PIT_PORT);
    vmci_dev_detach(&p->base, p->base.bd->pio, PORT61);
    vmc_timer_destroy(p->timer);
    vmci_dev_free(&p->base);
}

static const struct vmc_device_ops pit_device_ops = {.name = "pit",
                                                     .reset = pit_reset,
                                                     .destroy = pit_destroy,
                                                     .save = VMCI_SNAPSHOT(pit_save),
                                                     .load = VMCI_SNAPSHOT(pit_load)};

int vmc_pit_create(struct vmc_board *bd, struct vmc_irq_line irq0, struct vmc_pit **out,
                   struct vmc_error *err)
{
    struct vmc_pit *p = vmci_dev_alloc(bd, sizeof(*p), &pit_device_ops, err);

    if (p == NULL)
        return VMC_ENOMEM;
    p->irq = irq0;
    int rc = vmc_timer_create(bd->timers, "pit", edge_fn, p, &p->timer);
    if (rc != VMC_OK)
        goto free;
    pit_reset(p);
    rc = vmc_bus_attach(bd->pio, PIT_PORT, PIT_PORTS, &pit_ops, p, err);
    if (rc != VMC_OK)
        goto timer;
    rc = vmc_bus_attach(bd->pio, PORT61, 1, &port61_ops, p, err);
    if (rc != VMC_OK)
        goto ports;
    vmci_dev_publish(&p->base);
    *out = p;
    return VMC_OK;
ports:
    vmci_dev_detach(&p->base, bd->pio, PIT_PORT);
timer:
    vmc_timer_destroy(p->timer);
free:
    vmci_dev_free(&p->base);
    return rc;
}
