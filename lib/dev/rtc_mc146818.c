/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * MC146818 real-time clock and CMOS RAM (Motorola MC146818 data sheet, Intel ICH9 13.6).
 *
 * The clock does not tick: its time is computed from the second it was set to. Flags of register C
 * are brought up to date when somebody looks; timers run only for interrupts that are enabled.
 *
 * Threats (guest input: any byte to any register)
 *   time fields that are no time       normalised, never an index          rtc_nonsense_time
 *   alarm that never matches           search is bounded by one day         rtc_alarm_never
 *   8 kHz periodic interrupt, lag      at most MAX_LAG_NS made up           rtc_periodic_lag
 */
#include "base/snapshot.h"
#include "rtc_priv.h"

#define RTC_PORT   0x70
#define RTC_PORTS  4
#define MAX_LAG_NS (NS_PER_S / 2)
#define NMI_OFF    0x80u

/* ---- flags, interrupt ---------------------------------------------------------------------- */

static uint64_t period_ticks(const struct rtc_state *s)
{
    unsigned rs = s->ram[REG_A] & 15;

    if (rs == 0)
        return 0;
    return 1u << ((rs <= 2 ? rs + 7 : rs) - 1); /* of 32768 Hz; 1 and 2 repeat 8 and 9 */
}

static uint64_t ticks_at(const struct rtc_state *s, uint64_t ns)
{
    return muldiv(ns - s->base_ns, 32768, NS_PER_S);
}

/* Fold everything that happened until now into register C. */
static void flags_update(struct rtc_state *s, uint64_t now)
{
    uint64_t period = period_ticks(s);

    if (vmci_rtc_running(s) && now > s->seen_ns) {
        if (period != 0 && ticks_at(s, now) / period != ticks_at(s, s->seen_ns) / period)
            s->ram[REG_C] |= C_PF;
        int64_t from = vmci_rtc_second(s, s->seen_ns), to = vmci_rtc_second(s, now);
        if (from != to && (s->ram[REG_B] & B_SET) == 0) {
            s->ram[REG_C] |= C_UF;
            int64_t alarm;
            if (vmci_rtc_next_alarm(s, from, &alarm) && alarm <= to)
                s->ram[REG_C] |= C_AF;
        }
    }
    s->seen_ns = now;
    s->ram[REG_C] &= (uint8_t)~C_IRQF;
    if ((s->ram[REG_C] & s->ram[REG_B] & (C_PF | C_AF | C_UF)) != 0)
        s->ram[REG_C] |= C_IRQF;
}

static void irq_update(struct vmc_rtc *r)
{
    bool level = (r->st.ram[REG_C] & C_IRQF) != 0;

    if (level != (r->st.irq_level != 0)) {
        r->st.irq_level = level;
        vmc_irq_set(&r->irq, level);
    }
    level = (r->st.ram[REG_C] & r->st.ram[REG_B] & C_AF) != 0;
    if (level != (r->st.alarm_level != 0)) {
        r->st.alarm_level = level;
        vmc_irq_set(&r->alarm, level);
    }
}

/* When does the next enabled interrupt come? */
static bool next_event(const struct rtc_state *s, uint64_t now, uint64_t *at)
{
    uint8_t on = s->ram[REG_B] & (uint8_t)~s->ram[REG_C];
    uint64_t period = period_ticks(s);
    bool found = false;
    int64_t when;

    if (!vmci_rtc_running(s))
        return false;
    if ((on & C_PF) != 0 && period != 0) {
        uint64_t tick = (ticks_at(s, now) / period + 1) * period;
        *at = s->base_ns + muldiv_up(tick, NS_PER_S, 32768);
        found = true;
    }
    if ((s->ram[REG_B] & B_SET) != 0)
        return found;
    if ((on & C_UF) != 0) {
        uint64_t u = vmci_rtc_ns_of(s, vmci_rtc_second(s, now) + 1);
        *at = found ? VMCI_MIN(*at, u) : u;
        found = true;
    }
    if ((on & C_AF) != 0 && vmci_rtc_next_alarm(s, vmci_rtc_second(s, now), &when)) {
        uint64_t a = vmci_rtc_ns_of(s, when);
        *at = found ? VMCI_MIN(*at, a) : a;
        found = true;
    }
    return found;
}

static void event_arm(struct vmc_rtc *r, uint64_t from)
{
    uint64_t at = 0;

    if (next_event(&r->st, from, &at)) {
        r->st.event_ns = at;
        vmc_timer_arm(r->timer, at);
    } else {
        r->st.event_ns = 0;
        vmc_timer_disarm(r->timer);
    }
}

static void event_fn(void *ctx, uint64_t deadline_ns)
{
    struct vmc_rtc *r = ctx;

    (void)deadline_ns;
    vmci_lock(&r->base.lock);
    uint64_t now = dev_now(&r->base);
    if (r->st.event_ns != 0 && r->st.event_ns <= now) {
        /* Look from the event's time, so that periods missed by a late host come after it. */
        uint64_t at = now - r->st.event_ns > MAX_LAG_NS ? now : r->st.event_ns;
        flags_update(&r->st, VMCI_MAX(at, r->st.seen_ns));
        irq_update(r);
        event_arm(r, VMCI_MAX(at, r->st.seen_ns));
    }
    vmci_unlock(&r->base.lock);
}

/* ---- registers ----------------------------------------------------------------------------- */

static uint8_t reg_a(const struct rtc_state *s, uint64_t now)
{
    uint8_t v = s->ram[REG_A] & (uint8_t)~A_UIP;

    /* The update is announced 244 us before the second ends (data sheet, figure "UIP"). */
    if (vmci_rtc_running(s) && (s->ram[REG_B] & B_SET) == 0 &&
        (now - s->base_ns) % NS_PER_S >= NS_PER_S - UIP_NS)
        v |= A_UIP;
    return v;
}

static uint8_t cmos_read(struct vmc_rtc *r, unsigned index, uint64_t now)
{
    struct rtc_state *s = &r->st;

    if (vmci_rtc_is_time(index)) {
        vmci_rtc_to_regs(s, now);
        return s->ram[index];
    }
    switch (index) {
    case REG_A:
        return reg_a(s, now);
    case REG_C: {
        flags_update(s, now);
        irq_update(r); /* an event that this read discovers still has its edge */
        uint8_t v = s->ram[REG_C];
        s->ram[REG_C] = 0;
        irq_update(r);
        event_arm(r, now);
        return v;
    }
    case REG_D:
        return D_VRT;
    default:
        return s->ram[index];
    }
}

static void cmos_write(struct vmc_rtc *r, unsigned index, uint8_t v, uint64_t now)
{
    struct rtc_state *s = &r->st;

    flags_update(s, now);
    if (vmci_rtc_is_time(index)) {
        vmci_rtc_to_regs(s, now); /* the other fields keep going from what they are */
        s->ram[index] = v;
        if ((s->ram[REG_B] & B_SET) == 0 && vmci_rtc_running(s))
            vmci_rtc_from_regs(s, now);
    } else if (index == REG_A) {
        bool was = vmci_rtc_running(s);
        vmci_rtc_to_regs(s, now);
        s->ram[REG_A] = v & (uint8_t)~A_UIP;
        /* Out of reset the first update comes half a second later (data sheet, "Divider"). */
        if (!was && vmci_rtc_running(s)) {
            s->base_ns = now - NS_PER_S / 2;
            vmci_rtc_from_regs(s, now);
        }
    } else if (index == REG_B) {
        vmci_rtc_to_regs(s, now);
        bool set = (s->ram[REG_B] & B_SET) != 0;
        if ((v & B_SET) != 0)
            v &= (uint8_t)~C_UF; /* SET clears UIE */
        if (set && (v & B_SET) == 0) {
            s->ram[REG_B] = v;
            vmci_rtc_from_regs(s, now);
        } else {
            s->ram[REG_B] = v;
            if (!set && (v & B_SET) == 0)
                vmci_rtc_to_regs(s, now); /* the format may have changed */
        }
    } else if (index != REG_C && index != REG_D) {
        s->ram[index] = v;
    }
    flags_update(s, now);
    irq_update(r);
    event_arm(r, now);
}

static uint8_t rtc_read8(void *dev, uint64_t offset)
{
    struct vmc_rtc *r = dev;
    uint8_t v;

    vmci_lock(&r->base.lock);
    switch (offset & 3) {
    case 1:
        v = cmos_read(r, r->st.index & 0x7f, dev_now(&r->base));
        break;
    case 2:
        v = r->st.index2;
        break;
    case 3:
        v = r->st.ram2[r->st.index2 & 0x7f];
        break;
    default: /* the index register is write-only */
        v = 0xff;
        break;
    }
    vmci_unlock(&r->base.lock);
    return v;
}

static void rtc_write8(void *dev, uint64_t offset, uint8_t v)
{
    struct vmc_rtc *r = dev;

    vmci_lock(&r->base.lock);
    switch (offset & 3) {
    case 0:
        r->st.index = v & (uint8_t)~NMI_OFF;
        break;
    case 1:
        cmos_write(r, r->st.index & 0x7f, v, dev_now(&r->base));
        break;
    case 2:
        r->st.index2 = v & 0x7f;
        break;
    default:
        r->st.ram2[r->st.index2 & 0x7f] = v;
        break;
    }
    vmci_unlock(&r->base.lock);
}

DEV_BYTE_OPS(rtc);

int vmc_rtc_set_cmos(struct vmc_rtc *r, uint32_t index, uint8_t value)
{
    if (index <= REG_D || index >= 2 * CMOS_BYTES || index == REG_CENTURY)
        return VMC_ERANGE;
    vmci_lock(&r->base.lock);
    if (index < CMOS_BYTES)
        r->st.ram[index] = r->init[index] = value;
    else
        r->st.ram2[index - CMOS_BYTES] = r->init2[index - CMOS_BYTES] = value;
    vmci_unlock(&r->base.lock);
    return VMC_OK;
}

void vmc_rtc_set_alarm_line(struct vmc_rtc *r, struct vmc_irq_line line)
{
    vmci_lock(&r->base.lock);
    r->alarm = line;
    vmci_unlock(&r->base.lock);
}

/* ---- life cycle ---------------------------------------------------------------------------- */

/* RESET keeps the time and the RAM, and clears the interrupt enables and flags. */
static void rtc_reset(void *dev)
{
    struct vmc_rtc *r = dev;

    vmci_lock(&r->base.lock);
    flags_update(&r->st, dev_now(&r->base));
    r->st.ram[REG_A] = A_DEFAULT;
    r->st.ram[REG_B] = (r->st.ram[REG_B] & (B_DM | B_24H)) | 0;
    r->st.ram[REG_C] = 0;
    r->st.index = r->st.index2 = 0;
    for (unsigned i = REG_D + 1; i < CMOS_BYTES; i++) {
        if (i != REG_CENTURY)
            r->st.ram[i] = r->init[i];
    }
    memcpy(r->st.ram2, r->init2, sizeof(r->st.ram2));
    irq_update(r);
    event_arm(r, dev_now(&r->base));
    vmci_unlock(&r->base.lock);
}

static size_t rtc_save(void *dev, void *dst, size_t bytes)
{
    struct vmc_rtc *r = dev;

    vmci_lock(&r->base.lock);
    size_t n = vmci_dev_save(&r->base, RTC_VERSION, &r->st, sizeof(r->st), dst, bytes);
    vmci_unlock(&r->base.lock);
    return n;
}

static int rtc_load(void *dev, const void *src, size_t bytes, struct vmc_error *err)
{
    struct vmc_rtc *r = dev;
    struct rtc_state s;
    uint64_t shift;
    int rc = vmci_dev_load(&r->base, RTC_VERSION, src, bytes, &s, sizeof(s), &shift, err);

    if (rc != VMC_OK)
        return rc;
    if (s.base_s < RTC_MIN_S || s.base_s > RTC_MAX_S)
        return vmci_error(err, VMC_EFORMAT, "rtc/load", "the time is out of range");
    vmci_lock(&r->base.lock);
    s.base_ns += shift;
    s.seen_ns += shift;
    r->st = s;
    vmc_irq_set(&r->irq, s.irq_level != 0);
    event_arm(r, s.seen_ns);
    vmci_unlock(&r->base.lock);
    return VMC_OK;
}

static void rtc_destroy(void *dev)
{
    struct vmc_rtc *r = dev;

    vmci_dev_detach(&r->base, r->base.bd->pio, RTC_PORT);
    vmc_timer_destroy(r->timer);
    vmci_dev_free(&r->base);
}

static const struct vmc_device_ops rtc_device_ops = {.name = "rtc",
                                                     .reset = rtc_reset,
                                                     .destroy = rtc_destroy,
                                                     .save = VMCI_SNAPSHOT(rtc_save),
                                                     .load = VMCI_SNAPSHOT(rtc_load)};

int vmc_rtc_create(struct vmc_board *bd, struct vmc_irq_line irq8, struct vmc_rtc **out,
                   struct vmc_error *err)
{
    struct vmc_rtc *r = vmci_dev_alloc(bd, sizeof(*r), &rtc_device_ops, err);

    if (r == NULL)
        return VMC_ENOMEM;
    r->irq = irq8;
    int rc = vmc_timer_create(bd->timers, "rtc", event_fn, r, &r->timer);
    if (rc != VMC_OK)
        goto free;
    const struct vmc_platform *pf = bd->platform;
    int64_t wall = vmci_pf_has(pf, wall_s) ? pf->wall_s(pf->ctx) : RTC_DEFAULT_S;
    r->st.base_s = VMCI_MIN(VMCI_MAX(wall, RTC_MIN_S), RTC_MAX_S);
    r->st.base_ns = r->st.seen_ns = dev_now(&r->base);
    r->st.ram[REG_A] = A_DEFAULT;
    r->st.ram[REG_B] = B_24H;
    rtc_reset(r);
    rc = vmc_bus_attach(bd->pio, RTC_PORT, RTC_PORTS, &rtc_ops, r, err);
    if (rc != VMC_OK)
        goto timer;
    vmci_dev_publish(&r->base);
    *out = r;
    return VMC_OK;
timer:
    vmc_timer_destroy(r->timer);
free:
    vmci_dev_free(&r->base);
    return rc;
}
