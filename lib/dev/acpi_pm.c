/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ACPI power management of the ICH9 (ACPI 6.4 4.8, ICH9 data sheet 13.8): PM1 event and control
 * blocks, PM timer, GPE0; the APM ports that switch ACPI mode on, and the reset register.
 *
 * Threats (guest input: any value of any width to any of these ports)
 *   sleep              reported to the embedder, who decides      pm_s5_stops, pm_s3
 *   reset              the same                                   reset_register
 *   status storms      level-triggered SCI, no timer below 2.3 s  pm_timer_overflow
 */
#include "chipset_priv.h"

/* Offsets in the PM block. */
#define PM1_STS  0x00
#define PM1_EN   0x02
#define PM1_CNT  0x04
#define PM_TMR   0x08
#define GPE0_STS 0x20
#define GPE0_EN  0x28
#define SMI_EN   0x30

#define STS_TMR           0x0001u
#define STS_GBL           0x0020u
#define STS_PWRBTN        0x0100u
#define STS_RTC           0x0400u
#define STS_WAKE          0x8000u
#define STS_ALL           0x8d31u
#define EN_ALL            0x0521u
#define CNT_SCI           0x0001u
#define CNT_SLP_TYP_SHIFT 10
#define CNT_SLP_EN        0x2000u
#define CNT_KEPT          0x1c03u
#define SLP_TYP_S5        0u
#define SLP_TYP_S3        1u

#define SMI_EN_APMC 0x20u /* set: an SMI handler is there already, firmware leaves it alone */

#define TMR_BITS 24

#define APM_ACPI_ENABLE  2u
#define APM_ACPI_DISABLE 3u

#define RESET_CPU 0x04u

/* ---- PM timer ------------------------------------------------------------------------------ */

static uint64_t pm_ticks(const struct pm_state *pm, uint64_t ns)
{
    return muldiv(ns - pm->base_ns, PM_HZ, NS_PER_S);
}

/* TMR_STS follows every change of the top bit (ACPI 4.8.3.3). */
static void tmr_update(struct pm_state *pm, uint64_t now)
{
    if (pm_ticks(pm, now) >> (TMR_BITS - 1) != pm_ticks(pm, pm->seen_ns) >> (TMR_BITS - 1))
        pm->sts |= STS_TMR;
    pm->seen_ns = now;
}

void vmci_pm_timer_arm(struct vmc_chipset *cs)
{
    struct pm_state *pm = &cs->pm;

    if ((pm->en & STS_TMR) == 0 || (pm->sts & STS_TMR) != 0) {
        vmc_timer_disarm(cs->timer);
        return;
    }
    uint64_t next = ((pm_ticks(pm, pm->seen_ns) >> (TMR_BITS - 1)) + 1) << (TMR_BITS - 1);
    vmc_timer_arm(cs->timer, pm->base_ns + muldiv_up(next, NS_PER_S, PM_HZ));
}

void vmci_pm_timer_fn(void *ctx, uint64_t deadline_ns)
{
    struct vmc_chipset *cs = ctx;

    (void)deadline_ns;
    vmci_lock(&cs->base.lock);
    vmci_pm_sci_update(cs);
    vmci_unlock(&cs->base.lock);
}

/* ---- SCI ----------------------------------------------------------------------------------- */

void vmci_pm_sci_update(struct vmc_chipset *cs)
{
    struct pm_state *pm = &cs->pm;

    tmr_update(pm, dev_now(&cs->base));
    bool level = (pm->sts & pm->en & EN_ALL) != 0 || (pm->gpe_sts & pm->gpe_en) != 0;
    level = level && (pm->cnt & CNT_SCI) != 0;
    if (level != (pm->sci_level != 0)) {
        pm->sci_level = level;
        vmc_irq_set(&cs->cfg.sci, level);
    }
    vmci_pm_timer_arm(cs);
}

void vmc_chipset_power_button(struct vmc_chipset *cs)
{
    vmci_lock(&cs->base.lock);
    cs->pm.sts |= STS_PWRBTN;
    vmci_pm_sci_update(cs);
    vmci_unlock(&cs->base.lock);
}

static void rtc_line(void *ctx, uint32_t pin, bool level)
{
    struct vmc_chipset *cs = ctx;

    (void)pin;
    if (!level)
        return;
    vmci_lock(&cs->base.lock);
    cs->pm.sts |= STS_RTC;
    vmci_pm_sci_update(cs);
    vmci_unlock(&cs->base.lock);
}

struct vmc_irq_line vmc_chipset_rtc_line(struct vmc_chipset *cs)
{
    return (struct vmc_irq_line){.set = rtc_line, .ctx = cs};
}

/* ---- sleep --------------------------------------------------------------------------------- */

void vmc_chipset_offer_s3(struct vmc_chipset *cs, bool yes)
{
    vmci_lock(&cs->base.lock);
    cs->cfg.flags = yes ? cs->cfg.flags | VMC_CHIPSET_S3 : cs->cfg.flags & ~VMC_CHIPSET_S3;
    vmci_unlock(&cs->base.lock);
}

bool vmc_chipset_wake_event(struct vmc_chipset *cs)
{
    vmci_lock(&cs->base.lock);
    bool wake = cs->pm.asleep != 0 && (cs->pm.sts & (STS_PWRBTN | (cs->pm.en & STS_RTC))) != 0;
    vmci_unlock(&cs->base.lock);
    return wake;
}

void vmc_chipset_wake(struct vmc_chipset *cs)
{
    vmci_lock(&cs->base.lock);
    cs->pm.sts |= (uint16_t)(STS_WAKE | cs->woken);
    cs->pm.cnt |= cs->woken_cnt;
    cs->woken = cs->woken_cnt = 0;
    vmci_pm_sci_update(cs);
    vmci_unlock(&cs->base.lock);
}

/* ---- registers ----------------------------------------------------------------------------- */

/* The 32-bit register at a multiple of 4. */
static uint32_t pm_reg(struct vmc_chipset *cs, unsigned reg, uint64_t now)
{
    struct pm_state *pm = &cs->pm;

    switch (reg) {
    case PM1_STS:
        tmr_update(pm, now);
        return pm->sts | (uint32_t)pm->en << 16;
    case PM1_CNT:
        return pm->cnt;
    case PM_TMR:
        return (uint32_t)pm_ticks(pm, now) & ((1u << TMR_BITS) - 1);
    case GPE0_STS:
        return pm->gpe_sts;
    case GPE0_EN:
        return pm->gpe_en;
    case SMI_EN:
        return pm->smi_en | SMI_EN_APMC;
    default:
        return 0;
    }
}

static uint64_t pm_read(void *dev, uint64_t offset, unsigned bytes)
{
    struct vmc_chipset *cs = dev;
    uint64_t v = 0;

    vmci_lock(&cs->base.lock);
    uint64_t now = dev_now(&cs->base);
    for (unsigned i = 0; i < bytes; i++) {
        unsigned at = (unsigned)offset + i;
        v |= (uint64_t)(pm_reg(cs, at & ~3u, now) >> (8 * (at & 3)) & 0xff) << (8 * i);
    }
    vmci_unlock(&cs->base.lock);
    return v;
}

/* Returns why the run ends, or 0. */
static uint32_t cnt_write(struct vmc_chipset *cs, uint16_t v)
{
    unsigned type = (v & CNT_KEPT) >> CNT_SLP_TYP_SHIFT;

    cs->pm.cnt = v & CNT_KEPT;
    if ((v & CNT_SLP_EN) == 0)
        return 0;
    if (type == SLP_TYP_S3 && (cs->cfg.flags & VMC_CHIPSET_S3) != 0) {
        cs->pm.asleep = 1;
        return VMC_STOP_SUSPEND;
    }
    return type == SLP_TYP_S5 ? VMC_STOP_POWER_OFF : 0;
}

/* v is in its place; mask says which bits are written. Returns why the run ends, or 0. */
static uint32_t pm_write_reg(struct vmc_chipset *cs, unsigned reg, uint32_t v, uint32_t mask)
{
    struct pm_state *pm = &cs->pm;

    switch (reg) {
    case PM1_STS:
        tmr_update(pm, dev_now(&cs->base));
        pm->sts &= (uint16_t) ~(v & mask & STS_ALL);
        pm->en = (uint16_t)(((pm->en & ~(mask >> 16)) | (v & mask) >> 16) & EN_ALL);
        break;
    case PM1_CNT:
        if ((mask & 0xffff) != 0)
            return cnt_write(cs, (uint16_t)((pm->cnt & ~mask) | (v & mask)));
        break;
    case GPE0_STS:
        pm->gpe_sts &= ~(v & mask);
        break;
    case GPE0_EN:
        pm->gpe_en = (pm->gpe_en & ~mask) | (v & mask);
        break;
    case SMI_EN:
        pm->smi_en = (pm->smi_en & ~mask) | (v & mask);
        break;
    default:
        break;
    }
    return 0;
}

static void pm_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    struct vmc_chipset *cs = dev;
    unsigned shift = 8 * (offset & 3);
    uint64_t mask = ((bytes >= 8 ? 0 : 1ull << (8 * bytes)) - 1) << shift;
    uint32_t why;

    value <<= shift;
    vmci_lock(&cs->base.lock);
    why = pm_write_reg(cs, (unsigned)offset & ~3u, (uint32_t)value, (uint32_t)mask);
    if ((mask >> 32) != 0) /* an access that crosses into the next register */
        why |= pm_write_reg(cs, ((unsigned)offset & ~3u) + 4, (uint32_t)(value >> 32),
                            (uint32_t)(mask >> 32));
    vmci_pm_sci_update(cs);
    vmci_unlock(&cs->base.lock);
    if (why != 0)
        dev_stop(&cs->cfg.stop, why, 0);
}

const struct vmc_bus_ops vmci_pm_ops = {.read = pm_read, .write = pm_write};

/* ---- APM ports 0xb2 (control) and 0xb3 (status) -------------------------------------------- */

static uint8_t apm_read8(void *dev, uint64_t offset)
{
    struct vmc_chipset *cs = dev;

    vmci_lock(&cs->base.lock);
    uint8_t v = offset == 0 ? cs->pm.apm_cnt : cs->pm.apm_sts;
    vmci_unlock(&cs->base.lock);
    return v;
}

static void apm_write8(void *dev, uint64_t offset, uint8_t v)
{
    struct vmc_chipset *cs = dev;

    vmci_lock(&cs->base.lock);
    if (offset == 0) {
        cs->pm.apm_cnt = v;
        if (v == APM_ACPI_ENABLE)
            cs->pm.cnt |= CNT_SCI;
        else if (v == APM_ACPI_DISABLE)
            cs->pm.cnt &= (uint16_t)~CNT_SCI;
        vmci_pm_sci_update(cs);
    } else {
        cs->pm.apm_sts = v;
    }
    vmci_unlock(&cs->base.lock);
}

DEV_BYTE_HANDLERS(apm);
const struct vmc_bus_ops vmci_apm_ops = {.read = apm_read, .write = apm_write};

/* ---- reset register 0xcf9 ------------------------------------------------------------------ */

static uint64_t reset_read(void *dev, uint64_t offset, unsigned bytes)
{
    struct vmc_chipset *cs = dev;

    (void)offset;
    (void)bytes;
    vmci_lock(&cs->base.lock);
    uint8_t v = cs->pm.reset_reg;
    vmci_unlock(&cs->base.lock);
    return v;
}

static void reset_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    struct vmc_chipset *cs = dev;

    (void)offset;
    (void)bytes;
    vmci_lock(&cs->base.lock);
    cs->pm.reset_reg = (uint8_t)value & 0x0a;
    vmci_unlock(&cs->base.lock);
    if ((value & RESET_CPU) != 0)
        dev_stop(&cs->cfg.stop, VMC_STOP_RESET, value);
}

const struct vmc_bus_ops vmci_reset_ops = {.read = reset_read, .write = reset_write};

/* ---- reset --------------------------------------------------------------------------------- */

void vmci_pm_reset(struct vmc_chipset *cs)
{
    vmci_lock(&cs->base.lock);
    struct pm_state *pm = &cs->pm;
    bool sci = pm->sci_level != 0;
    uint64_t base = pm->base_ns;
    uint8_t pirq = pm->pirq_level;
    uint16_t isa = pm->isa_level;

    cs->woken = pm->asleep ? pm->sts & (STS_PWRBTN | STS_RTC) : 0;
    cs->woken_cnt = pm->asleep ? pm->cnt & CNT_SCI : 0;
    memset(pm, 0, sizeof(*pm));
    pm->base_ns = base; /* the timer just runs */
    pm->seen_ns = dev_now(&cs->base);
    pm->pirq_level = pirq;
    pm->isa_level = isa;
    vmc_timer_disarm(cs->timer);
    if (sci)
        vmc_irq_set(&cs->cfg.sci, false);
    vmci_unlock(&cs->base.lock);
}
