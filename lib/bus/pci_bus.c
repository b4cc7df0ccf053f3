/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The PCI root bus: configuration mechanism 1 (PCI 3.0 3.2.2.3.2), ECAM (PCIe 3.0 7.2.2), and the
 * assignment of addresses that firmware would do.
 *
 * Threats (guest input: any access to ports 0xcf8-0xcff and to the ECAM window)
 *   absent bus, slot, function   reads all ones, writes ignored            absent_function_floats
 *   access across a register     clipped to the dword                      mech1_access_widths
 *   ECAM moved through itself    done later, from the timer queue          ecam_moves_itself
 */
#include "base/snapshot.h"
#include "pci_priv.h"

#define MECH1_PORT    0xcf8
#define MECH1_BYTES   8
#define MECH1_ENABLE  0x80000000u
#define MECH1_WMASK   0x80fffffcu
#define RESET_OFFSET  1 /* port 0xcf9 */
#define ALL_ONES      0xffffffffu

static uint32_t ones(unsigned bytes)
{
    return bytes >= 4 ? ALL_ONES : (1u << (8 * bytes)) - 1;
}

/* ---- configuration mechanism 1 ------------------------------------------------------------- */

uint32_t vmc_pci_config_read(struct vmc_pci_bus *bus, uint8_t devfn, uint16_t offset,
                             unsigned bytes)
{
    struct vmc_pci_func *f = bus->func[devfn];

    if (bytes != 1 && bytes != 2 && bytes != 4)
        return ALL_ONES;
    return f == NULL ? ones(bytes) : vmci_pci_read(f, offset, bytes);
}

void vmc_pci_config_write(struct vmc_pci_bus *bus, uint8_t devfn, uint16_t offset, unsigned bytes,
                          uint32_t value)
{
    struct vmc_pci_func *f = bus->func[devfn];

    if (f != NULL && (bytes == 1 || bytes == 2 || bytes == 4))
        vmci_pci_write(f, offset, bytes, value);
}

/* The function that the address register selects; buses other than 0 are empty. */
static bool mech1_target(const struct vmc_pci_bus *bus, uint8_t *devfn, uint16_t *reg)
{
    uint32_t a = vmci_load_relaxed(&bus->address);

    *devfn = (uint8_t)(a >> 8);
    *reg = (uint16_t)(a & 0xfc);
    return (a & MECH1_ENABLE) != 0 && ((a >> 16) & 0xff) == 0;
}

static uint64_t mech1_read(void *dev, uint64_t offset, unsigned bytes)
{
    struct vmc_pci_bus *bus = dev;
    uint8_t devfn;
    uint16_t reg;

    if (offset < 4) {
        if (offset == 0 && bytes == 4)
            return vmci_load_relaxed(&bus->address);
        if (offset == RESET_OFFSET && bytes == 1 && bus->cfg.reset_port != NULL)
            return bus->cfg.reset_port->read(bus->cfg.reset_port_dev, 0, 1);
        return ones(bytes);
    }
    bytes = VMCI_MIN(bytes, (unsigned)(MECH1_BYTES - offset));
    if (!mech1_target(bus, &devfn, &reg))
        return ones(bytes);
    return vmc_pci_config_read(bus, devfn, (uint16_t)(reg + (offset & 3)), bytes);
}

static void mech1_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    struct vmc_pci_bus *bus = dev;
    uint8_t devfn;
    uint16_t reg;

    if (offset < 4) {
        if (offset == 0 && bytes == 4)
            vmci_store_relaxed(&bus->address, (uint32_t)value & MECH1_WMASK);
        else if (offset == RESET_OFFSET && bytes == 1 && bus->cfg.reset_port != NULL)
            bus->cfg.reset_port->write(bus->cfg.reset_port_dev, 0, 1, value);
        return;
    }
    bytes = VMCI_MIN(bytes, (unsigned)(MECH1_BYTES - offset));
    if (mech1_target(bus, &devfn, &reg))
        vmc_pci_config_write(bus, devfn, (uint16_t)(reg + (offset & 3)), bytes, (uint32_t)value);
}

static const struct vmc_bus_ops mech1_ops = {.read = mech1_read, .write = mech1_write};

/* ---- ECAM ---------------------------------------------------------------------------------- */

static struct vmc_pci_func *ecam_target(const struct vmc_pci_bus *bus, uint64_t offset)
{
    return (offset >> 20) == 0 ? bus->func[(offset >> 12) & 0xff] : NULL;
}

static uint64_t ecam_read(void *dev, uint64_t offset, unsigned bytes)
{
    struct vmc_pci_func *f = ecam_target(dev, offset);

    if (f == NULL)
        return UINT64_MAX;
    uint16_t reg = (uint16_t)(offset & 0xfff);
    if (bytes == 8)
        return vmci_pci_read(f, reg, 4) |
               (uint64_t)vmci_pci_read(f, (uint16_t)(reg + 4), 4) << 32;
    return vmci_pci_read(f, reg, bytes);
}

static void ecam_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    struct vmc_pci_func *f = ecam_target(dev, offset);

    if (f == NULL)
        return;
    uint16_t reg = (uint16_t)(offset & 0xfff);
    vmci_fetch_add(&f->ecam_writers, 1u);
    vmci_pci_write(f, reg, VMCI_MIN(bytes, 4u), (uint32_t)value);
    if (bytes == 8)
        vmci_pci_write(f, (uint16_t)(reg + 4), 4, (uint32_t)(value >> 32));
    vmci_fetch_add(&f->ecam_writers, -1u);
}

static const struct vmc_bus_ops ecam_ops = {.read = ecam_read, .write = ecam_write};

/* One round: detach where it was, attach where it is wanted. No lock is held while detach waits. */
static int ecam_round(struct vmc_pci_bus *bus, struct vmc_error *err)
{
    vmci_lock(&bus->ecam_lock);
    uint64_t old = bus->ecam_base, old_bytes = bus->ecam_bytes;
    uint64_t base = bus->ecam_want_base, bytes = bus->ecam_want_bytes;
    vmci_unlock(&bus->ecam_lock);

    if (old_bytes == bytes && (bytes == 0 || old == base))
        return VMC_OK;
    if (old_bytes != 0 && vmc_bus_detach(bus->bd->mmio, old) != VMC_OK)
        vmci_bug(bus->bd->platform, __FILE__, __LINE__, "the ECAM window is not on the bus");
    int rc = VMC_OK;
    if (bytes != 0)
        rc = vmc_bus_attach(bus->bd->mmio, base, bytes, &ecam_ops, bus, err);
    vmci_lock(&bus->ecam_lock);
    bus->ecam_base = base;
    bus->ecam_bytes = rc == VMC_OK ? bytes : 0;
    if (rc != VMC_OK && bus->ecam_want_base == base)
        bus->ecam_want_bytes = 0;
    vmci_unlock(&bus->ecam_lock);
    return rc;
}

/* Whoever comes first does the work; others leave a note to go round once more. */
static int ecam_apply(struct vmc_pci_bus *bus, struct vmc_error *err)
{
    int rc = VMC_OK;

    if (vmci_fetch_add(&bus->ecam_moving, 1u) != 0)
        return VMC_OK;
    uint32_t seen;
    do {
        seen = vmci_load_acquire(&bus->ecam_moving);
        rc = ecam_round(bus, err);
    } while (vmci_fetch_add(&bus->ecam_moving, 0u - seen) != seen);
    return rc;
}

static void ecam_timer_fn(void *ctx, uint64_t deadline_ns)
{
    struct vmc_pci_bus *bus = ctx;

    (void)deadline_ns;
    (void)ecam_apply(bus, NULL); /* a window that collides stays unmapped, as in hardware */
}

int vmc_pci_bus_set_ecam(struct vmc_pci_bus *bus, uint64_t base, uint64_t bytes,
                         struct vmc_error *err)
{
    if (bytes != 0 && bytes != 64ull << 20 && bytes != 128ull << 20 && bytes != 256ull << 20)
        return vmci_error(err, VMC_EINVAL, "pci/ecam", "an ECAM window cannot have %#llx bytes",
                          (unsigned long long)bytes);
    if (bytes != 0 && (base % bytes != 0 || !vmci_range_ok(base, bytes, 1ull << VMC_GPA_BITS)))
        return vmci_error(err, VMC_EINVAL, "pci/ecam", "bad address %#llx for the ECAM window",
                          (unsigned long long)base);
    vmci_lock(&bus->ecam_lock);
    bus->ecam_want_base = base;
    bus->ecam_want_bytes = bytes;
    vmci_unlock(&bus->ecam_lock);

    /* Detach waits for running handlers: one of them must not wait for itself. */
    for (unsigned i = 0; i < PCI_DEVFNS; i++) {
        if (bus->func[i] != NULL && vmci_load_acquire(&bus->func[i]->ecam_writers) != 0) {
            vmc_timer_arm(bus->ecam_timer, vmc_timerq_now(bus->bd->timers));
            return VMC_OK;
        }
    }
    return ecam_apply(bus, err);
}

void vmc_pci_bus_ecam(struct vmc_pci_bus *bus, uint64_t *base, uint64_t *bytes)
{
    vmci_lock(&bus->ecam_lock);
    *base = bus->ecam_base;
    *bytes = bus->ecam_bytes;
    vmci_unlock(&bus->ecam_lock);
}

/* ---- what firmware would do ---------------------------------------------------------------- */

struct window {
    uint64_t at, end;
};

static bool window_take(struct window *w, uint64_t bytes, uint64_t *base)
{
    uint64_t at = vmci_align_up(w->at, bytes);

    if (at < w->at || !vmci_range_ok(at, bytes, w->end))
        return false;
    w->at = at + bytes;
    *base = at;
    return true;
}

static int assign_bar(struct vmc_pci_func *f, unsigned index, struct window *io,
                      struct window *mem, struct window *mem64, struct vmc_error *err)
{
    const struct pci_bar *bar = &f->bar[index];
    bool wide = (bar->flags & VMC_PCI_BAR_MEM64) != 0;
    uint64_t base = 0;
    bool ok;

    if ((bar->flags & VMC_PCI_BAR_IO) != 0)
        ok = window_take(io, bar->bytes, &base);
    else if (wide && (bar->flags & VMC_PCI_BAR_PREFETCH) != 0 && mem64->end != mem64->at)
        ok = window_take(mem64, bar->bytes, &base) || window_take(mem, bar->bytes, &base);
    else
        ok = window_take(mem, bar->bytes, &base) ||
             (wide && window_take(mem64, bar->bytes, &base));
    if (!ok)
        return vmci_error(err, VMC_ELIMIT, "pci/assign", "no room for BAR %u of %02x.%u", index,
                          f->devfn >> 3u, f->devfn & 7u);
    uint16_t reg = (uint16_t)(VMC_PCI_BAR0 + 4 * index);
    vmci_pci_write(f, reg, 4, (uint32_t)base);
    if (wide)
        vmci_pci_write(f, (uint16_t)(reg + 4), 4, (uint32_t)(base >> 32));
    return VMC_OK;
}

int vmc_pci_bus_assign(struct vmc_pci_bus *bus, const struct vmc_pci_windows *win,
                       const uint8_t irq[4], struct vmc_error *err)
{
    struct window io = {win->io_base, win->io_base + win->io_bytes};
    struct window mem = {win->mem_base, win->mem_base + win->mem_bytes};
    struct window mem64 = {win->mem64_base, win->mem64_base + win->mem64_bytes};

    /* Largest first, so that alignment wastes nothing. */
    for (unsigned order = 41; order-- > 2;) {
        for (unsigned i = 0; i < PCI_DEVFNS; i++) {
            struct vmc_pci_func *f = bus->func[i];
            for (unsigned b = 0; f != NULL && b < VMC_PCI_BARS; b++) {
                if (f->bar[b].bytes != 1ull << order)
                    continue;
                int rc = assign_bar(f, b, &io, &mem, &mem64, err);
                if (rc != VMC_OK)
                    return rc;
            }
        }
    }
    for (unsigned i = 0; i < PCI_DEVFNS; i++) {
        struct vmc_pci_func *f = bus->func[i];
        if (f == NULL)
            continue;
        if (f->init[VMC_PCI_INT_PIN] != 0)
            vmci_pci_write(f, VMC_PCI_INT_LINE, 1, irq[f->line]);
        vmci_pci_write(f, VMC_PCI_COMMAND, 2,
                       VMC_PCI_COMMAND_IO | VMC_PCI_COMMAND_MEMORY | VMC_PCI_COMMAND_MASTER);
    }
    return VMC_OK;
}

/* ---- life cycle ---------------------------------------------------------------------------- */

static void bus_reset(void *dev)
{
    struct vmc_pci_bus *bus = dev;

    vmci_store_relaxed(&bus->address, 0u);
}

static size_t bus_save(void *dev, void *dst, size_t bytes)
{
    struct vmc_pci_bus *bus = dev;

    if (bytes >= sizeof(bus->address))
        memcpy(dst, &bus->address, sizeof(bus->address));
    return sizeof(bus->address);
}

static int bus_load(void *dev, const void *src, size_t bytes, struct vmc_error *err)
{
    struct vmc_pci_bus *bus = dev;

    if (bytes != sizeof(bus->address))
        return vmci_error(err, VMC_EFORMAT, "pci/load", "the PCI bus has %zu bytes, not %zu",
                          sizeof(bus->address), bytes);
    bus->address = vmci_ld_le32(src) & MECH1_WMASK;
    return VMC_OK;
}

static void bus_destroy(void *dev)
{
    vmc_pci_bus_destroy(dev);
}

static const struct vmc_device_ops bus_device_ops = {.name = "pci-bus",
                                                     .reset = bus_reset,
                                                     .destroy = bus_destroy,
                                                     .save = VMCI_SNAPSHOT(bus_save),
                                                     .load = VMCI_SNAPSHOT(bus_load)};

static int init_locks(struct vmc_pci_bus *bus, const struct vmc_platform *pf)
{
    int rc = vmci_lock_init(&bus->map_lock, pf);
    if (rc != VMC_OK)
        return rc;
    rc = vmci_lock_init(&bus->irq_lock, pf);
    if (rc != VMC_OK)
        goto map;
    rc = vmci_lock_init(&bus->ecam_lock, pf);
    if (rc == VMC_OK)
        return VMC_OK;
    vmci_lock_fini(&bus->irq_lock);
map:
    vmci_lock_fini(&bus->map_lock);
    return rc;
}

static void fini_locks(struct vmc_pci_bus *bus)
{
    vmci_lock_fini(&bus->ecam_lock);
    vmci_lock_fini(&bus->irq_lock);
    vmci_lock_fini(&bus->map_lock);
}

int vmc_pci_bus_create(struct vmc_board *bd, const struct vmc_pci_bus_config *cfg,
                       struct vmc_pci_bus **out, struct vmc_error *err)
{
    const struct vmc_platform *pf = bd->platform;

    if (cfg->size != sizeof(*cfg))
        return vmci_error(err, VMC_EINVAL, "pci/bus", "bad configuration size");
    struct vmc_pci_bus *bus = vmci_zalloc(pf, sizeof(*bus));
    if (bus == NULL)
        return vmci_error(err, VMC_ENOMEM, "pci/bus", "no memory for the PCI bus");
    bus->bd = bd;
    bus->cfg = *cfg;
    int rc = init_locks(bus, pf);
    if (rc != VMC_OK) {
        vmci_error(err, rc, "pci/bus", "no lock for the PCI bus");
        goto free;
    }
    rc = vmc_timer_create(bd->timers, "pci-ecam", ecam_timer_fn, bus, &bus->ecam_timer);
    if (rc != VMC_OK) {
        vmci_error(err, rc, "pci/bus", "no timer for the PCI bus");
        goto locks;
    }
    rc = vmc_bus_attach(bd->pio, MECH1_PORT, MECH1_BYTES, &mech1_ops, bus, err);
    if (rc != VMC_OK)
        goto timer;
    bus->device = (struct vmc_device){.ops = &bus_device_ops, .dev = bus};
    vmc_board_add(bd, &bus->device);
    *out = bus;
    return VMC_OK;
timer:
    vmc_timer_destroy(bus->ecam_timer);
locks:
    fini_locks(bus);
free:
    vmci_free(pf, bus, sizeof(*bus));
    return rc;
}

void vmc_pci_bus_destroy(struct vmc_pci_bus *bus)
{
    if (bus == NULL)
        return;
    const struct vmc_platform *pf = bus->bd->platform;

    for (unsigned i = 0; i < PCI_DEVFNS; i++) {
        if (bus->func[i] != NULL)
            vmci_bug(pf, __FILE__, __LINE__, "a PCI function outlives its bus");
    }
    vmc_board_remove(bus->bd, &bus->device);
    bus->ecam_want_bytes = 0;
    (void)ecam_apply(bus, NULL); /* taking a window away cannot fail */
    if (vmc_bus_detach(bus->bd->pio, MECH1_PORT) != VMC_OK)
        vmci_bug(pf, __FILE__, __LINE__, "mechanism 1 is not on the bus");
    vmc_timer_destroy(bus->ecam_timer);
    fini_locks(bus);
    vmci_free(pf, bus, sizeof(*bus));
}

struct vmc_board *vmc_pci_bus_board(struct vmc_pci_bus *bus)
{
    return bus->bd;
}
