/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Q35-like chipset: the configuration registers of the host bridge (Intel 3 Series MCH data sheet,
 * chapter 5) and of the ISA bridge (ICH9 data sheet, 13.1) that firmware for this kind of machine
 * uses, and what they move around: ECAM window, PM block, PIRQ routing.
 *
 * Threats (guest input: any value to these registers)
 *   PM block over other ports    the bus refuses, the block is unmapped     pm_base_collision
 *   ECAM over anything           the bus refuses                           ecam_collision
 *   PIRQ routed to any line      16 lines, level computed from all PIRQs   pirq_routing
 */
#include "base/snapshot.h"
#include "chipset_priv.h"

/* Host bridge. */
#define MCH_PCIEXBAR   0x60
#define MCH_PAM0       0x90
#define MCH_PAMS       7
#define MCH_SMRAM      0x9d
#define MCH_ESMRAMC    0x9e
#define XBAR_ENABLE    0x1u
#define XBAR_LEN_SHIFT 1
#define XBAR_LEN_MASK  0x3u
#define SMRAM_DEFAULT  0x02u

/* ISA bridge. */
#define LPC_PMBASE    0x40
#define LPC_ACPI_CNTL 0x44
#define LPC_PIRQ_A    0x60
#define LPC_PIRQ_E    0x68
#define LPC_RCBA      0xf0
#define PMBASE_IO     0x1u
#define PMBASE_MASK   0xff80u
#define ACPI_ENABLE   0x80u
#define PIRQ_OFF      0x80u
#define PIRQS         8

#define RED_HAT_VENDOR 0x1af4u
#define QEMU_SUBSYSTEM 0x1100u /* firmware takes the machine for QEMU's by this */

#define APM_PORT 0xb2

/* ---- host bridge --------------------------------------------------------------------------- */

static bool touches(uint16_t offset, unsigned bytes, unsigned reg, unsigned len)
{
    return offset < reg + len && reg < offset + bytes;
}

static void mch_update(struct vmc_chipset *cs)
{
    uint64_t v = vmc_pci_get_config(cs->mch, MCH_PCIEXBAR, 4) |
                 (uint64_t)vmc_pci_get_config(cs->mch, MCH_PCIEXBAR + 4, 4) << 32;
    unsigned len = (unsigned)(v >> XBAR_LEN_SHIFT) & XBAR_LEN_MASK;
    uint64_t bytes = (v & XBAR_ENABLE) != 0 && len != 3 ? 256ull << 20 >> len : 0;
    uint64_t base = bytes != 0 ? v & 0xffffffffffull & ~(bytes - 1) : 0;

    /* A window that collides is not mapped; the register still reads what was written. */
    if (vmc_pci_bus_set_ecam(cs->pci, base, bytes, NULL) != VMC_OK && vmci_loglimit_ok(&cs->log))
        vmci_log(cs->base.bd->platform, VMC_LOG_WARN, "chipset",
                 "the ECAM window cannot be placed at 0x%llx", (unsigned long long)base);
}

static void mch_config_write(void *dev, uint16_t offset, unsigned bytes, uint32_t value)
{
    (void)value;
    if (touches(offset, bytes, MCH_PCIEXBAR, 8))
        mch_update(dev);
}

static const struct vmc_pci_func_ops mch_ops = {.config_write = mch_config_write};

static int mch_setup(struct vmc_chipset *cs, struct vmc_error *err)
{
    static const uint8_t zero[8];
    static const uint8_t command[2] = {0x06, 0}; /* hardwired (MCH data sheet 5.1.3) */
    static const uint8_t command_mask[2] = {0x40, 0x01};
    static const uint8_t xbar_mask[8] = {0x07, 0, 0, 0xfc, 0x0f};
    static const uint8_t pam_mask[MCH_PAMS] = {0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33};
    static const uint8_t smram[2] = {SMRAM_DEFAULT, 0x38};
    static const uint8_t smram_mask[2] = {0x40, 0x07};
    const struct vmc_pci_func_config cfg = {
        .size = sizeof(cfg),
        .slot = 0,
        .vendor_id = 0x8086,
        .device_id = 0x29c0,
        .subsys_vendor_id = RED_HAT_VENDOR,
        .subsys_id = QEMU_SUBSYSTEM,
        .class_code = 0x060000,
        .ops = &mch_ops,
        .dev = cs,
    };
    int rc = vmc_pci_func_create(cs->pci, &cfg, &cs->mch, err);

    if (rc == VMC_OK)
        rc = vmc_pci_set_config(cs->mch, VMC_PCI_COMMAND, command, command_mask, 2, err);
    if (rc == VMC_OK)
        rc = vmc_pci_set_config(cs->mch, MCH_PCIEXBAR, zero, xbar_mask, 8, err);
    if (rc == VMC_OK)
        rc = vmc_pci_set_config(cs->mch, MCH_PAM0, zero, pam_mask, MCH_PAMS, err);
    if (rc == VMC_OK)
        rc = vmc_pci_set_config(cs->mch, MCH_SMRAM, smram, smram_mask, sizeof(smram), err);
    return rc;
}

/* ---- ISA bridge ---------------------------------------------------------------------------- */

/* Where the registers want the PM block. */
static uint16_t pm_base_wanted(struct vmc_chipset *cs)
{
    if ((vmc_pci_get_config(cs->lpc, LPC_ACPI_CNTL, 1) & ACPI_ENABLE) == 0)
        return 0;
    return (uint16_t)(vmc_pci_get_config(cs->lpc, LPC_PMBASE, 2) & PMBASE_MASK);
}

static void pm_remap(struct vmc_chipset *cs)
{
    struct vmc_bus *pio = cs->base.bd->pio;

    vmci_lock(&cs->map_lock);
    uint16_t want = pm_base_wanted(cs);
    if (want != cs->pm_base) {
        if (cs->pm_base != 0)
            vmci_dev_detach(&cs->base, pio, cs->pm_base);
        cs->pm_base = 0;
        if (want != 0 && vmc_bus_attach(pio, want, PM_BYTES, &vmci_pm_ops, cs, NULL) == VMC_OK)
            cs->pm_base = want;
    }
    vmci_unlock(&cs->map_lock);
}

/* Lines of the IOAPIC and of the PIC from the PIRQs' levels and routes. Lock held. */
static void pirq_update(struct vmc_chipset *cs, uint8_t changed)
{
    struct pm_state *pm = &cs->pm;
    uint16_t isa = 0;

    for (unsigned n = 0; n < PIRQS; n++) {
        bool level = (pm->pirq_level >> n & 1) != 0;
        if ((changed >> n & 1) != 0)
            vmc_irq_set(&cs->cfg.gsi[n], level);
        if (level && (pm->pirq_route[n] & PIRQ_OFF) == 0)
            isa |= (uint16_t)(1u << (pm->pirq_route[n] & 15));
    }
    uint16_t diff = isa ^ pm->isa_level;
    pm->isa_level = isa;
    for (unsigned n = 0; n < 16; n++) {
        if ((diff >> n & 1) != 0)
            vmc_irq_set(&cs->cfg.isa[n], (isa >> n & 1) != 0);
    }
}

/* The root bus drives line n: it is PIRQ E-H (n = 0-3), as on this chipset's plug-in slots. */
static void intx(void *ctx, uint32_t pin, bool level)
{
    struct vmc_chipset *cs = ctx;
    unsigned n = (pin & 3) + 4;

    vmci_lock(&cs->base.lock);
    cs->pm.pirq_level = (uint8_t)((cs->pm.pirq_level & ~(1u << n)) | (unsigned)level << n);
    pirq_update(cs, (uint8_t)(1u << n));
    vmci_unlock(&cs->base.lock);
}

static void routes_update(struct vmc_chipset *cs)
{
    uint32_t ad = vmc_pci_get_config(cs->lpc, LPC_PIRQ_A, 4);
    uint32_t eh = vmc_pci_get_config(cs->lpc, LPC_PIRQ_E, 4);

    vmci_lock(&cs->base.lock);
    vmci_st_le32(cs->pm.pirq_route, ad);
    vmci_st_le32(cs->pm.pirq_route + 4, eh);
    pirq_update(cs, 0);
    vmci_unlock(&cs->base.lock);
}

static void lpc_update(struct vmc_chipset *cs)
{
    pm_remap(cs);
    routes_update(cs);
}

static void lpc_config_write(void *dev, uint16_t offset, unsigned bytes, uint32_t value)
{
    (void)value;
    if (touches(offset, bytes, LPC_PMBASE, LPC_ACPI_CNTL + 1 - LPC_PMBASE) ||
        touches(offset, bytes, LPC_PIRQ_A, LPC_PIRQ_E + 4 - LPC_PIRQ_A))
        lpc_update(dev);
}

static const struct vmc_pci_func_ops lpc_ops = {.config_write = lpc_config_write};

static int lpc_setup(struct vmc_chipset *cs, struct vmc_error *err)
{
    static const uint8_t zero[4];
    /* Decoding and mastering cannot be switched off (ICH9 13.1.3); firmware looks for it. */
    static const uint8_t command[2] = {0x07, 0};
    static const uint8_t command_mask[2] = {0x40, 0x01};
    static const uint8_t pmbase[4] = {(PM_DEFAULT & 0xff) | PMBASE_IO, PM_DEFAULT >> 8};
    static const uint8_t pmbase_mask[4] = {0x80, 0xff};
    static const uint8_t acpi_cntl[1] = {ACPI_ENABLE};
    static const uint8_t acpi_cntl_mask[1] = {0x87};
    static const uint8_t pirq[4] = {PIRQ_OFF, PIRQ_OFF, PIRQ_OFF, PIRQ_OFF};
    static const uint8_t pirq_mask[4] = {0x8f, 0x8f, 0x8f, 0x8f};
    static const uint8_t rcba_mask[4] = {0x01, 0xc0, 0xff, 0xff};
    const struct vmc_pci_func_config cfg = {
        .size = sizeof(cfg),
        .slot = 0x1f,
        .revision = 2,
        .vendor_id = 0x8086,
        .device_id = 0x2918,
        .subsys_vendor_id = RED_HAT_VENDOR,
        .subsys_id = QEMU_SUBSYSTEM,
        .class_code = 0x060100,
        .ops = &lpc_ops,
        .dev = cs,
    };
    int rc = vmc_pci_func_create(cs->pci, &cfg, &cs->lpc, err);

    if (rc == VMC_OK)
        rc = vmc_pci_set_config(cs->lpc, VMC_PCI_COMMAND, command, command_mask, 2, err);
    if (rc == VMC_OK)
        rc = vmc_pci_set_config(cs->lpc, LPC_PMBASE, pmbase, pmbase_mask, 4, err);
    if (rc == VMC_OK)
        rc = vmc_pci_set_config(cs->lpc, LPC_ACPI_CNTL, acpi_cntl, acpi_cntl_mask, 1, err);
    if (rc == VMC_OK)
        rc = vmc_pci_set_config(cs->lpc, LPC_PIRQ_A, pirq, pirq_mask, 4, err);
    if (rc == VMC_OK)
        rc = vmc_pci_set_config(cs->lpc, LPC_PIRQ_E, pirq, pirq_mask, 4, err);
    if (rc == VMC_OK)
        rc = vmc_pci_set_config(cs->lpc, LPC_RCBA, zero, rcba_mask, 4, err);
    return rc;
}

/* ---- the whole ----------------------------------------------------------------------------- */

static void chipset_reset(void *dev)
{
    struct vmc_chipset *cs = dev;

    vmci_pm_reset(cs);
    vmc_pci_func_reset(cs->mch);
    vmc_pci_func_reset(cs->lpc);
    mch_update(cs);
    lpc_update(cs);
}

struct chipset_saved {
    struct dev_saved head;
    struct pm_state pm;
};

/* The bridges' configuration follows the PM state. */
static size_t chipset_save(void *dev, void *dst, size_t bytes)
{
    struct vmc_chipset *cs = dev;
    size_t func = vmc_pci_func_save(cs->mch, NULL, 0);
    size_t all = sizeof(struct chipset_saved) + 2 * func;

    if (bytes < all)
        return all;
    vmci_lock(&cs->base.lock);
    vmci_dev_save(&cs->base, CHIPSET_VERSION, &cs->pm, sizeof(cs->pm), dst, bytes);
    vmci_unlock(&cs->base.lock);
    uint8_t *p = (uint8_t *)dst + sizeof(struct chipset_saved);
    vmc_pci_func_save(cs->mch, p, func);
    vmc_pci_func_save(cs->lpc, p + func, func);
    return all;
}

/* Both, or neither. */
static int load_bridges(struct vmc_chipset *cs, const uint8_t *p, size_t func,
                        struct vmc_error *err)
{
    const struct vmc_platform *pf = cs->base.bd->platform;
    uint8_t *was = vmci_zalloc(pf, func);

    if (was == NULL)
        return vmci_error(err, VMC_ENOMEM, "chipset/load", "no memory");
    vmc_pci_func_save(cs->mch, was, func);
    int rc = vmc_pci_func_load(cs->mch, p, func, err);
    if (rc == VMC_OK) {
        rc = vmc_pci_func_load(cs->lpc, p + func, func, err);
        if (rc != VMC_OK) {
            int back = vmc_pci_func_load(cs->mch, was, func, NULL);
            (void)back; /* its own state is good */
        }
    }
    vmci_free(pf, was, func);
    return rc;
}

static int chipset_load(void *dev, const void *src, size_t bytes, struct vmc_error *err)
{
    struct vmc_chipset *cs = dev;
    size_t func = vmc_pci_func_save(cs->mch, NULL, 0);
    const uint8_t *p = (const uint8_t *)src + sizeof(struct chipset_saved);
    struct pm_state pm;
    uint64_t shift;

    if (bytes != sizeof(struct chipset_saved) + 2 * func)
        return vmci_error(err, VMC_EFORMAT, "chipset/load", "wrong length of state");
    int rc = vmci_dev_load(&cs->base, CHIPSET_VERSION, src, bytes - 2 * func, &pm, sizeof(pm),
                           &shift, err);
    if (rc == VMC_OK)
        rc = load_bridges(cs, p, func, err);
    if (rc != VMC_OK)
        return rc;
    vmci_lock(&cs->base.lock);
    /* What is driven is what functions drive now; they load after this, and tell what changes. */
    pm.pirq_level = cs->pm.pirq_level;
    pm.isa_level = cs->pm.isa_level;
    cs->pm = pm;
    cs->woken = cs->woken_cnt = 0;
    cs->pm.base_ns += shift;
    cs->pm.seen_ns += shift;
    vmc_irq_set(&cs->cfg.sci, pm.sci_level != 0);
    vmci_pm_timer_arm(cs);
    vmci_unlock(&cs->base.lock);
    mch_update(cs);
    lpc_update(cs);
    return VMC_OK;
}

/* Everything that was made, last first; a partial chipset too. */
static void chipset_free(struct vmc_chipset *cs)
{
    if (cs->pm_base != 0)
        vmci_dev_detach(&cs->base, cs->base.bd->pio, cs->pm_base);
    vmc_pci_func_destroy(cs->lpc);
    vmc_pci_func_destroy(cs->mch);
    vmc_pci_bus_destroy(cs->pci);
    if (cs->timer != NULL)
        vmc_timer_destroy(cs->timer);
    vmci_lock_fini(&cs->map_lock);
    vmci_dev_free(&cs->base);
}

static void chipset_destroy(void *dev)
{
    struct vmc_chipset *cs = dev;

    vmci_dev_detach(&cs->base, cs->base.bd->pio, APM_PORT);
    chipset_free(cs);
}

static const struct vmc_device_ops chipset_device_ops = {.name = "chipset",
                                                         .reset = chipset_reset,
                                                         .destroy = chipset_destroy,
                                                         .save = VMCI_SNAPSHOT(chipset_save),
                                                         .load = VMCI_SNAPSHOT(chipset_load)};

static int create_parts(struct vmc_board *bd, struct vmc_chipset *cs, struct vmc_error *err)
{
    struct vmc_pci_bus_config bus = {
        .size = sizeof(bus), .reset_port = &vmci_reset_ops, .reset_port_dev = cs};
    for (unsigned i = 0; i < 4; i++)
        bus.intx[i] = (struct vmc_irq_line){.set = intx, .ctx = cs, .pin = i};

    int rc = vmc_timer_create(bd->timers, "pm-timer", vmci_pm_timer_fn, cs, &cs->timer);
    if (rc != VMC_OK)
        return vmci_error(err, rc, "chipset/create", "no timer for the PM block");
    rc = vmc_pci_bus_create(bd, &bus, &cs->pci, err);
    if (rc == VMC_OK)
        rc = mch_setup(cs, err);
    if (rc == VMC_OK)
        rc = lpc_setup(cs, err);
    if (rc == VMC_OK)
        rc = vmc_bus_attach(bd->pio, APM_PORT, 2, &vmci_apm_ops, cs, err);
    return rc;
}

int vmc_chipset_create(struct vmc_board *bd, const struct vmc_chipset_config *cfg,
                       struct vmc_chipset **out, struct vmc_error *err)
{
    if (cfg->size != sizeof(*cfg))
        return vmci_error(err, VMC_EINVAL, "chipset/create", "bad configuration size");
    struct vmc_chipset *cs = vmci_dev_alloc(bd, sizeof(*cs), &chipset_device_ops, err);
    if (cs == NULL)
        return VMC_ENOMEM;
    cs->cfg = *cfg;
    cs->pm.base_ns = dev_now(&cs->base);
    if (vmci_lock_init(&cs->map_lock, bd->platform) != VMC_OK) {
        vmci_dev_free(&cs->base);
        return vmci_error(err, VMC_ENOMEM, "chipset/create", "no lock for the chipset");
    }
    int rc = create_parts(bd, cs, err);
    if (rc != VMC_OK) {
        chipset_free(cs);
        return rc;
    }
    chipset_reset(cs);
    vmci_dev_publish(&cs->base);
    *out = cs;
    return VMC_OK;
}

struct vmc_pci_bus *vmc_chipset_pci(struct vmc_chipset *cs)
{
    return cs->pci;
}

uint16_t vmc_chipset_pm_base(struct vmc_chipset *cs)
{
    vmci_lock(&cs->map_lock);
    uint16_t base = cs->pm_base;
    vmci_unlock(&cs->map_lock);
    return base;
}
