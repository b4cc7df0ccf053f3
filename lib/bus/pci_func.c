/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * PCI functions: configuration space, BARs, capabilities.
 *
 * Threats (guest input: configuration accesses of any offset, width and value, from several vCPUs)
 *   BAR placed over another device    the bus refuses, the BAR stays unmapped   bar_overlap_is_refused
 *   BAR at 0, past the bus, wrapping  never mapped                              bar_bad_address_unmapped
 *   BAR moved while its handler runs  detach waits; no lock is held             (bus contract)
 *   read-only and absent registers    write mask per bit                        readonly_bits_stay
 */
#include "pci_priv.h"

static uint32_t get(const uint8_t *p, unsigned bytes)
{
    uint32_t v = 0;

    for (unsigned i = 0; i < bytes; i++)
        v |= (uint32_t)p[i] << (8 * i);
    return v;
}

static void put(uint8_t *p, unsigned bytes, uint32_t v)
{
    for (unsigned i = 0; i < bytes; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static bool config_range_ok(uint16_t offset, size_t bytes)
{
    return vmci_range_ok(offset, bytes, VMC_PCI_CONFIG_BYTES);
}

/* ---- BARs ---------------------------------------------------------------------------------- */

static uint64_t bar_read(void *dev, uint64_t offset, unsigned bytes)
{
    struct pci_bar *bar = dev;

    if (vmci_msix_covers(bar->func, bar, offset))
        return vmci_msix_read(bar->func, offset, bytes);
    if (bar->ops != NULL && bar->ops->read != NULL)
        return bar->ops->read(bar->dev, offset, bytes);
    return 0;
}

static void bar_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    struct pci_bar *bar = dev;

    if (vmci_msix_covers(bar->func, bar, offset))
        vmci_msix_write(bar->func, offset, bytes, value);
    else if (bar->ops != NULL && bar->ops->write != NULL)
        bar->ops->write(bar->dev, offset, bytes, value);
}

static const struct vmc_bus_ops bar_ops = {.read = bar_read, .write = bar_write};

static struct vmc_bus *bar_bus(const struct pci_bar *bar)
{
    struct vmc_board *bd = bar->func->bus->bd;

    return (bar->flags & VMC_PCI_BAR_IO) != 0 ? bd->pio : bd->mmio;
}

/* The address in a BAR's register(s). f->lock. */
uint64_t vmci_pci_bar_value(const struct vmc_pci_func *f, unsigned index)
{
    const struct pci_bar *bar = &f->bar[index];
    const uint8_t *reg = &f->cfg[VMC_PCI_BAR0 + 4 * index];

    if ((bar->flags & VMC_PCI_BAR_IO) != 0)
        return get(reg, 4) & ~(uint64_t)BAR_IO_FIXED;
    uint64_t base = get(reg, 4) & ~(uint64_t)BAR_MEM_FIXED;
    if ((bar->flags & VMC_PCI_BAR_MEM64) != 0)
        base |= (uint64_t)get(reg + 4, 4) << 32;
    return base;
}

static bool bar_wanted(struct vmc_pci_func *f, unsigned index, uint64_t *base)
{
    const struct pci_bar *bar = &f->bar[index];
    bool io = (bar->flags & VMC_PCI_BAR_IO) != 0;

    if (bar->bytes == 0)
        return false;
    vmci_lock(&f->lock);
    uint32_t command = get(&f->cfg[VMC_PCI_COMMAND], 2);
    *base = vmci_pci_bar_value(f, index);
    vmci_unlock(&f->lock);
    if ((command & (io ? VMC_PCI_COMMAND_IO : VMC_PCI_COMMAND_MEMORY)) == 0)
        return false;
    /* An unprogrammed BAR reads 0; nothing of PCI's lives there. */
    uint64_t limit = io ? 0x10000 : 1ull << VMC_GPA_BITS;
    return *base != 0 && vmci_range_ok(*base, bar->bytes, limit);
}

/* Make the buses agree with the configuration registers. */
void vmci_pci_remap(struct vmc_pci_func *f)
{
    struct vmc_pci_bus *bus = f->bus;

    vmci_lock(&bus->map_lock);
    for (unsigned i = 0; i < VMC_PCI_BARS; i++) {
        struct pci_bar *bar = &f->bar[i];
        uint64_t base = 0;
        bool want = bar_wanted(f, i, &base);

        if (bar->mapped && (!want || bar->mapped_base != base)) {
            if (vmc_bus_detach(bar_bus(bar), bar->mapped_base) != VMC_OK)
                vmci_bug(bus->bd->platform, __FILE__, __LINE__, "a mapped BAR is not on the bus");
            bar->mapped = false;
        }
        if (!want || bar->mapped)
            continue;
        if (vmc_bus_attach(bar_bus(bar), base, bar->bytes, &bar_ops, bar, NULL) == VMC_OK) {
            bar->mapped = true;
            bar->mapped_base = base;
        } else if (vmci_loglimit_ok(&bus->log)) {
            vmci_log(bus->bd->platform, VMC_LOG_WARN, "pci",
                     "%02x.%u: BAR %u cannot be placed at %#llx", f->devfn >> 3u, f->devfn & 7u, i,
                     (unsigned long long)base);
        }
    }
    vmci_unlock(&bus->map_lock);
}

int vmc_pci_add_bar(struct vmc_pci_func *f, unsigned index, uint32_t flags, uint64_t bytes,
                    const struct vmc_bus_ops *ops, void *dev, struct vmc_error *err)
{
    bool io = (flags & VMC_PCI_BAR_IO) != 0;
    bool wide = (flags & VMC_PCI_BAR_MEM64) != 0;

    if (index + (wide ? 1u : 0u) >= VMC_PCI_BARS || (io && flags != VMC_PCI_BAR_IO) ||
        (flags & ~(uint32_t)(VMC_PCI_BAR_IO | VMC_PCI_BAR_MEM64 | VMC_PCI_BAR_PREFETCH)) != 0)
        return vmci_error(err, VMC_EINVAL, "pci/add_bar", "BAR %u cannot have flags %#x", index,
                          flags);
    if (!vmci_is_pow2(bytes) || bytes < (io ? 4u : 16u) ||
        bytes > (io ? 256u : wide ? 1ull << 40 : 1ull << 31))
        return vmci_error(err, VMC_EINVAL, "pci/add_bar", "BAR %u cannot have %llu bytes", index,
                          (unsigned long long)bytes);
    if (f->bar[index].bytes != 0 || (index > 0 && f->bar[index - 1].bytes != 0 &&
                                     (f->bar[index - 1].flags & VMC_PCI_BAR_MEM64) != 0) ||
        (wide && f->bar[index + 1].bytes != 0))
        return vmci_error(err, VMC_EEXIST, "pci/add_bar", "BAR %u is taken", index);
    f->bar[index] = (struct pci_bar){
        .func = f, .ops = ops, .dev = dev, .bytes = bytes, .flags = flags};

    uint64_t mask = ~(bytes - 1) & ~(uint64_t)(io ? BAR_IO_FIXED : BAR_MEM_FIXED);
    unsigned reg = VMC_PCI_BAR0 + 4 * index;
    put(&f->mask[reg], 4, (uint32_t)mask);
    put(&f->cfg[reg], 4, flags);
    put(&f->init[reg], 4, flags);
    if (wide)
        put(&f->mask[reg + 4], 4, (uint32_t)(mask >> 32));

    uint8_t enable = io ? VMC_PCI_COMMAND_IO : VMC_PCI_COMMAND_MEMORY;
    f->mask[VMC_PCI_COMMAND] |= enable;
    return VMC_OK;
}

bool vmc_pci_bar_address(struct vmc_pci_func *f, unsigned index, uint64_t *base)
{
    if (index >= VMC_PCI_BARS)
        return false;
    vmci_lock(&f->bus->map_lock);
    bool mapped = f->bar[index].mapped;
    *base = f->bar[index].mapped_base;
    vmci_unlock(&f->bus->map_lock);
    return mapped;
}

/* ---- configuration space ------------------------------------------------------------------- */

uint32_t vmci_pci_read(struct vmc_pci_func *f, uint16_t offset, unsigned bytes)
{
    if (!config_range_ok(offset, bytes))
        return 0;
    vmci_lock(&f->lock);
    uint32_t value = get(&f->cfg[offset], bytes);
    vmci_unlock(&f->lock);
    if (f->ops != NULL && f->ops->config_read != NULL)
        f->ops->config_read(f->dev, offset, bytes, &value);
    return value;
}

static bool touches(uint16_t offset, unsigned bytes, unsigned reg, unsigned len)
{
    return offset < reg + len && reg < offset + bytes;
}

void vmci_pci_write(struct vmc_pci_func *f, uint16_t offset, unsigned bytes, uint32_t value)
{
    if (!config_range_ok(offset, bytes))
        return;
    vmci_lock(&f->lock);
    for (unsigned i = 0; i < bytes; i++) {
        uint8_t *p = &f->cfg[offset + i];
        uint8_t m = f->mask[offset + i];
        *p = (uint8_t)((*p & ~m) | ((value >> (8 * i)) & m));
    }
    vmci_unlock(&f->lock);

    bool command = touches(offset, bytes, VMC_PCI_COMMAND, 2);
    if (command || touches(offset, bytes, VMC_PCI_BAR0, 4 * VMC_PCI_BARS))
        vmci_pci_remap(f);
    if (command)
        vmci_pci_line_update(f);
    if (f->msix.cap != 0 && touches(offset, bytes, f->msix.cap + MSIX_CTRL, 2)) {
        vmci_msix_flush(f);
        if (f->ops != NULL && f->ops->msix_changed != NULL)
            f->ops->msix_changed(f->dev);
    }
    if (f->ops != NULL && f->ops->config_write != NULL)
        f->ops->config_write(f->dev, offset, bytes, value);
}

int vmc_pci_set_config(struct vmc_pci_func *f, uint16_t offset, const void *value, const void *mask,
                       size_t bytes, struct vmc_error *err)
{
    if (!config_range_ok(offset, bytes))
        return vmci_error(err, VMC_ERANGE, "pci/set_config",
                          "%zu bytes at %#x are outside configuration space", bytes, offset);
    memcpy(&f->cfg[offset], value, bytes);
    memcpy(&f->init[offset], value, bytes);
    if (mask != NULL)
        memcpy(&f->mask[offset], mask, bytes);
    else
        memset(&f->mask[offset], 0, bytes);
    return VMC_OK;
}

void vmc_pci_put_config(struct vmc_pci_func *f, uint16_t offset, unsigned bytes, uint32_t value)
{
    if (bytes > 4 || !config_range_ok(offset, bytes))
        return;
    vmci_lock(&f->lock);
    put(&f->cfg[offset], bytes, value);
    vmci_unlock(&f->lock);
}

uint32_t vmc_pci_get_config(struct vmc_pci_func *f, uint16_t offset, unsigned bytes)
{
    if (bytes > 4 || !config_range_ok(offset, bytes))
        return 0;
    vmci_lock(&f->lock);
    uint32_t v = get(&f->cfg[offset], bytes);
    vmci_unlock(&f->lock);
    return v;
}

int vmc_pci_add_cap(struct vmc_pci_func *f, uint8_t id, const void *body, const void *mask,
                    size_t bytes, uint8_t *offset, struct vmc_error *err)
{
    unsigned at = (unsigned)vmci_align_up(f->cap_next, 4);

    if (bytes > VMC_PCI_CONFIG_BYTES || !config_range_ok((uint16_t)at, bytes + 2))
        return vmci_error(err, VMC_ELIMIT, "pci/add_cap",
                          "no room for capability %#x of %zu bytes", id, bytes + 2);
    f->cfg[at] = f->init[at] = id;
    f->cfg[at + 1] = f->init[at + 1] = 0;
    int rc = vmc_pci_set_config(f, (uint16_t)(at + 2), body, mask, bytes, err);
    if (rc != VMC_OK)
        return rc;
    unsigned link = f->cap_last == 0 ? VMC_PCI_CAP_PTR : f->cap_last + 1u;
    f->cfg[link] = f->init[link] = (uint8_t)at;
    f->cfg[VMC_PCI_STATUS] |= VMC_PCI_STATUS_CAP_LIST;
    f->init[VMC_PCI_STATUS] |= VMC_PCI_STATUS_CAP_LIST;
    f->cap_last = (uint8_t)at;
    f->cap_next = (uint8_t)VMCI_MIN(at + 2 + bytes, 0xffu);
    if (offset != NULL)
        *offset = (uint8_t)at;
    return VMC_OK;
}

bool vmc_pci_bus_master(struct vmc_pci_func *f)
{
    return (vmc_pci_get_config(f, VMC_PCI_COMMAND, 2) & VMC_PCI_COMMAND_MASTER) != 0;
}

/* ---- life cycle ---------------------------------------------------------------------------- */

static void header_init(struct vmc_pci_func *f, const struct vmc_pci_func_config *c)
{
    uint8_t *h = f->cfg;

    put(h + VMC_PCI_VENDOR_ID, 2, c->vendor_id);
    put(h + VMC_PCI_DEVICE_ID, 2, c->device_id);
    h[VMC_PCI_REVISION] = c->revision;
    put(h + VMC_PCI_CLASS, 3, c->class_code);
    h[VMC_PCI_HEADER_TYPE] = c->multifunction ? 0x80 : 0;
    put(h + VMC_PCI_SUBSYS_VENDOR, 2, c->subsys_vendor_id);
    put(h + VMC_PCI_SUBSYS_ID, 2, c->subsys_id);
    h[VMC_PCI_INT_PIN] = c->int_pin;
    memcpy(f->init, f->cfg, sizeof(f->init));

    put(f->mask + VMC_PCI_COMMAND, 2, VMC_PCI_COMMAND_MASTER | VMC_PCI_COMMAND_PARITY |
                                          VMC_PCI_COMMAND_SERR | VMC_PCI_COMMAND_INTX_OFF);
    f->mask[VMC_PCI_CACHE_LINE] = 0xff;
    f->mask[VMC_PCI_LATENCY] = 0xff;
    f->mask[VMC_PCI_INT_LINE] = 0xff;
}

static int pick_devfn(struct vmc_pci_bus *bus, const struct vmc_pci_func_config *cfg,
                      uint8_t *devfn, struct vmc_error *err)
{
    if (cfg->slot != VMC_PCI_ANY_SLOT) {
        *devfn = VMC_PCI_DEVFN(cfg->slot, cfg->function);
        if (bus->func[*devfn] == NULL)
            return VMC_OK;
        return vmci_error(err, VMC_EEXIST, "pci/func", "slot %u.%u is taken", cfg->slot,
                          cfg->function);
    }
    for (unsigned slot = 1; slot < VMC_PCI_SLOTS; slot++) {
        bool used = false;
        for (unsigned fn = 0; fn < PCI_FUNCS; fn++)
            used |= bus->func[VMC_PCI_DEVFN(slot, fn)] != NULL;
        if (!used) {
            *devfn = VMC_PCI_DEVFN(slot, cfg->function);
            return VMC_OK;
        }
    }
    return vmci_error(err, VMC_ELIMIT, "pci/func", "all %u PCI slots are taken", VMC_PCI_SLOTS - 1);
}

int vmc_pci_func_create(struct vmc_pci_bus *bus, const struct vmc_pci_func_config *cfg,
                        struct vmc_pci_func **out, struct vmc_error *err)
{
    const struct vmc_platform *pf = bus->bd->platform;
    uint8_t devfn = 0;

    if (cfg->size != sizeof(*cfg) || cfg->function >= PCI_FUNCS || cfg->int_pin > PCI_LINES ||
        cfg->class_code > 0xffffff ||
        (cfg->slot >= VMC_PCI_SLOTS && cfg->slot != VMC_PCI_ANY_SLOT))
        return vmci_error(err, VMC_EINVAL, "pci/func", "bad slot, pin, class or size");
    int rc = pick_devfn(bus, cfg, &devfn, err);
    if (rc != VMC_OK)
        return rc;

    struct vmc_pci_func *f = vmci_zalloc(pf, sizeof(*f));
    if (f == NULL)
        return vmci_error(err, VMC_ENOMEM, "pci/func", "no memory for a PCI function");
    rc = vmci_lock_init(&f->lock, pf);
    if (rc != VMC_OK) {
        vmci_free(pf, f, sizeof(*f));
        return vmci_error(err, rc, "pci/func", "no lock for a PCI function");
    }
    f->bus = bus;
    f->ops = cfg->ops;
    f->dev = cfg->dev;
    f->devfn = devfn;
    f->cap_next = PCI_HEADER;
    if (cfg->int_pin != 0)
        f->line = (uint8_t)(((devfn >> 3u) + cfg->int_pin - 1u) % PCI_LINES);
    header_init(f, cfg);
    bus->func[devfn] = f;
    *out = f;
    return VMC_OK;
}

void vmc_pci_func_destroy(struct vmc_pci_func *f)
{
    if (f == NULL)
        return;
    const struct vmc_platform *pf = f->bus->bd->platform;

    vmc_pci_func_reset(f);
    f->bus->func[f->devfn] = NULL;
    vmci_lock_fini(&f->lock);
    vmci_free(pf, f, sizeof(*f));
}

uint8_t vmc_pci_func_devfn(const struct vmc_pci_func *f)
{
    return f->devfn;
}

void vmc_pci_func_reset(struct vmc_pci_func *f)
{
    vmci_lock(&f->lock);
    memcpy(f->cfg, f->init, sizeof(f->cfg));
    f->pin_level = false;
    vmci_msix_reset(f);
    vmci_unlock(&f->lock);
    vmci_pci_remap(f);
    vmci_pci_line_update(f);
}

/* ---- saved state --------------------------------------------------------------------------- */

struct func_saved {
    uint32_t version;
    uint8_t devfn, pin_level, pad[2];
    uint8_t cfg[VMC_PCI_CONFIG_BYTES];
    uint64_t msix_pending;
    struct msix_entry msix[VMC_PCI_MSIX_MAX];
};
#define FUNC_SAVED_VERSION 1u

size_t vmc_pci_func_save(struct vmc_pci_func *f, void *dst, size_t bytes)
{
    struct func_saved s = {.version = FUNC_SAVED_VERSION, .devfn = f->devfn};

    if (bytes < sizeof(s))
        return sizeof(s);
    vmci_lock(&f->lock);
    s.pin_level = f->pin_level;
    memcpy(s.cfg, f->cfg, sizeof(s.cfg));
    s.msix_pending = f->msix.pending;
    memcpy(s.msix, f->msix.entry, sizeof(s.msix));
    vmci_unlock(&f->lock);
    memcpy(dst, &s, sizeof(s)); /* dst has no alignment: a device puts its own state in front */
    return sizeof(s);
}

int vmc_pci_func_load(struct vmc_pci_func *f, const void *src, size_t bytes, struct vmc_error *err)
{
    struct func_saved s;

    if (bytes != sizeof(s))
        return vmci_error(err, VMC_EFORMAT, "pci/load", "a PCI function has %zu bytes, not %zu",
                          sizeof(s), bytes);
    memcpy(&s, src, sizeof(s));
    if (s.version != FUNC_SAVED_VERSION || s.devfn != f->devfn || s.pin_level > 1)
        return vmci_error(err, VMC_EFORMAT, "pci/load", "not the state of function %02x.%u",
                          f->devfn >> 3u, f->devfn & 7u);
    if (memcmp(s.cfg, f->init, 4) != 0)
        return vmci_error(err, VMC_EFORMAT, "pci/load", "slot %02x.%u holds another device",
                          f->devfn >> 3u, f->devfn & 7u);
    vmci_lock(&f->lock);
    for (unsigned i = 0; i < VMC_PCI_CONFIG_BYTES; i++)
        f->cfg[i] = (uint8_t)((f->init[i] & ~f->mask[i]) | (s.cfg[i] & f->mask[i]));
    f->pin_level = s.pin_level != 0;
    memcpy(f->msix.entry, s.msix, sizeof(s.msix));
    f->msix.pending =
        f->msix.vectors == 64 ? s.msix_pending : s.msix_pending & (VMCI_BIT(f->msix.vectors) - 1);
    vmci_unlock(&f->lock);
    vmci_pci_remap(f);
    vmci_pci_line_update(f);
    return VMC_OK;
}
