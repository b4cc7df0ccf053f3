/* SPDX-License-Identifier: BSD-2-Clause */
/* Wires and messages between devices, the PIC, the IOAPIC and local APICs. */
#include "base/snapshot.h"
#include "irq/irq_int.h"

#define SOURCES_MAX  64u
#define SOURCE_SHIFT 8

/* ---- messages to local APICs --------------------------------------------------------------- */

bool vmci_msi_decode(uint64_t addr, uint32_t data, struct vmci_irq_msg *out)
{
    if ((addr & ~0xfffffull) != 0xfee00000ull)
        return false;
    *out = (struct vmci_irq_msg){
        /* Bits 5-11 extend the destination to 15 bits (CPUID 0x40000001 EAX bit 15). */
        .dest = (uint32_t)((addr >> 12) & 0xff) | (uint32_t)((addr >> 5) & 0x7f) << 8,
        .logical = (addr & 4) != 0,
        .level = (data & 0x8000) != 0,
        .mode = (data >> 8) & 7,
        .vector = data & 0xff,
    };
    return true;
}

static bool match_physical(const struct vmci_lapic *l, const struct vmci_irq_msg *m)
{
    return m->dest == l->id || m->dest == (m->wide ? 0xffffffffu : 0xffu);
}

/* Logical addresses (SDM 3A 11.6.2.2, 11.12.10.2). */
static bool match_logical(const struct vmci_lapic *l, const struct vmci_irq_msg *m)
{
    uint32_t ldr = vmci_load_relaxed(&l->ldr);

    if (m->dest == (m->wide ? 0xffffffffu : 0xffu))
        return true;
    if (vmci_lapic_x2(l))
        return (ldr >> 16) == (m->dest >> 16) && (ldr & m->dest & 0xffff) != 0;
    uint32_t mine = ldr >> 24;
    if (vmci_load_relaxed(&l->dfr) >> 28 == 0xf)
        return (mine & m->dest & 0xff) != 0;
    return mine >> 4 == ((m->dest >> 4) & 0xf) && (mine & m->dest & 0xf) != 0;
}

static bool matches(const struct vmci_lapic *l, const struct vmci_irq_msg *m)
{
    if (!vmci_lapic_on(l))
        return false;
    return m->logical ? match_logical(l, m) : match_physical(l, m);
}

/* The matching processor with the lowest priority; equal ones take turns. */
static bool deliver_lowest(struct vmci_irqchip *chip, const struct vmci_irq_msg *m)
{
    struct vmci_lapic *best = NULL;
    uint32_t best_ppr = 0;
    uint32_t first = vmci_load_relaxed(&chip->next_lowest) % chip->lapics;

    for (uint32_t i = 0; i < chip->lapics; i++) {
        struct vmci_lapic *l = &chip->lapic[(first + i) % chip->lapics];
        uint32_t ppr = vmci_load_relaxed(&l->ppr);
        if (!matches(l, m) || !(vmci_load_relaxed(&l->svr) & VMCI_SVR_ENABLE))
            continue;
        if (best == NULL || ppr < best_ppr) {
            best = l;
            best_ppr = ppr;
        }
    }
    if (best == NULL)
        return false;
    vmci_store_relaxed(&chip->next_lowest, best->index + 1);
    return vmci_lapic_accept(best, m);
}

bool vmci_irqchip_deliver(struct vmci_irqchip *chip, const struct vmci_irq_msg *m)
{
    if (chip->lapics == 0) {
        /* 8259 interrupts do not travel as MSIs: the engine's owner pulls them. */
        if (m->mode == VMCI_IRQ_EXTINT)
            chip->ops->notify(chip->ctx, 0);
        return true;
    }
    if (m->mode == VMCI_IRQ_LOWEST)
        return deliver_lowest(chip, m);
    if (!m->logical && m->dest < chip->lapics && m->dest != 0xff)
        return vmci_lapic_accept(&chip->lapic[m->dest], m); /* IDs are indices: no search */
    bool accepted = false;
    for (uint32_t i = 0; i < chip->lapics; i++) {
        if (matches(&chip->lapic[i], m))
            accepted |= vmci_lapic_accept(&chip->lapic[i], m);
    }
    return accepted;
}

void vmci_irqchip_ipi(struct vmci_irqchip *chip, struct vmci_lapic *from, unsigned shorthand,
                      const struct vmci_irq_msg *m)
{
    if (shorthand == 0) {
        vmci_irqchip_deliver(chip, m);
        return;
    }
    if (shorthand == 1) {
        vmci_lapic_accept(from, m);
        return;
    }
    for (uint32_t i = 0; i < chip->lapics; i++) {
        if (shorthand == 2 || &chip->lapic[i] != from)
            vmci_lapic_accept(&chip->lapic[i], m);
    }
}

void vmci_irqchip_msi(struct vmci_irqchip *chip, uint64_t addr, uint32_t data)
{
    struct vmci_irq_msg m;

    if (chip->ops->msi != NULL)
        chip->ops->msi(chip->ctx, addr, data);
    else if (vmci_msi_decode(addr, data, &m))
        vmci_irqchip_deliver(chip, &m);
    else if (vmci_loglimit_ok(&chip->loglimit))
        vmci_log(chip->pf, VMC_LOG_WARN, "irq", "MSI to 0x%llx is not for a local APIC",
                 (unsigned long long)addr);
}

static void msi_sink(void *ctx, uint64_t addr, uint32_t data)
{
    vmci_irqchip_msi(ctx, addr, data);
}

/* ---- 8259 output --------------------------------------------------------------------------- */

void vmci_irqchip_pic_output(struct vmci_irqchip *chip, bool up)
{
    bool was_up = (chip->ioapic.lines & 1) != 0;

    vmci_ioapic_set(&chip->ioapic, 0, up);
    if (!up)
        return;
    if (chip->lapics == 0) {
        chip->ops->notify(chip->ctx, 0);
        return;
    }
    for (uint32_t i = 0; i < chip->lapics; i++) {
        struct vmci_lapic *l = &chip->lapic[i];
        if (vmci_load_relaxed(&l->extint) != 0 || vmci_lapic_takes_extint(l))
            chip->ops->notify(chip->ctx, i);
        else if (!was_up)
            vmci_lapic_local(l, VMCI_LVT_LINT0); /* LINT0 in another mode takes the edge */
    }
}

int vmci_irqchip_pic_ack(struct vmci_irqchip *chip)
{
    vmci_lock(&chip->lock);
    int vector = vmci_pic_ack(&chip->pic);
    /* The acknowledge lowers the output for a moment: what is still requested is a new edge. */
    vmci_irqchip_pic_output(chip, false);
    vmci_irqchip_pic_output(chip, chip->pic.intr != 0);
    vmci_unlock(&chip->lock);
    return vector;
}

/* ---- wires --------------------------------------------------------------------------------- */

static void set_wire(void *ctx, uint32_t pin, bool level)
{
    struct vmci_irqchip *chip = ctx;
    uint32_t gsi = pin & 0xff;
    uint64_t source = 1ull << (pin >> SOURCE_SHIFT);

    vmci_lock(&chip->lock);
    uint64_t old = chip->sources[gsi];
    uint64_t now = level ? old | source : old & ~source;
    chip->sources[gsi] = now;
    if ((old != 0) != (now != 0)) {
        if (gsi < 16 && gsi != 2)
            vmci_irqchip_pic_output(chip, vmci_pic_set(&chip->pic, gsi, now != 0));
        /* Wire 0 is the PIT's: IOAPIC pin 2, as firmware tables say of every PC. */
        vmci_ioapic_set(&chip->ioapic, gsi == 0 ? 2 : gsi, now != 0);
    }
    vmci_unlock(&chip->lock);
}

struct vmc_irq_line vmci_irqchip_line(struct vmci_irqchip *chip, uint32_t gsi)
{
    struct vmc_irq_line none = {NULL, NULL, 0};

    if (gsi >= VMCI_IOAPIC_PINS)
        return none;
    uint32_t source = chip->source_count[gsi];
    if (source + 1 < SOURCES_MAX) /* more sources than that share the last */
        chip->source_count[gsi]++;
    return (struct vmc_irq_line){set_wire, chip, gsi | source << SOURCE_SHIFT};
}

void vmci_irqchip_eoi(struct vmci_irqchip *chip, uint8_t vector)
{
    vmci_lock(&chip->lock);
    vmci_ioapic_eoi(&chip->ioapic, vector);
    vmci_unlock(&chip->lock);
}

/* ---- ports and pages ----------------------------------------------------------------------- */

static uint64_t pic_port_read(void *dev, uint64_t offset, unsigned unit)
{
    struct vmci_irqchip *chip = dev;

    vmci_lock(&chip->lock);
    bool poll = chip->pic.unit[unit].poll;
    uint8_t v = vmci_pic_read(&chip->pic, unit, (unsigned)offset);
    if (poll) /* it was an acknowledge */
        vmci_irqchip_pic_output(chip, chip->pic.intr != 0);
    vmci_unlock(&chip->lock);
    return v;
}

static void pic_port_write(void *dev, uint64_t offset, unsigned unit, uint64_t v)
{
    struct vmci_irqchip *chip = dev;

    vmci_lock(&chip->lock);
    vmci_pic_write(&chip->pic, unit, (unsigned)offset, (uint8_t)v);
    vmci_irqchip_pic_output(chip, chip->pic.intr != 0);
    vmci_unlock(&chip->lock);
}

static uint64_t master_read(void *dev, uint64_t offset, unsigned bytes)
{
    (void)bytes;
    return pic_port_read(dev, offset, 0);
}

static void master_write(void *dev, uint64_t offset, unsigned bytes, uint64_t v)
{
    (void)bytes;
    pic_port_write(dev, offset, 0, v);
}

static uint64_t slave_read(void *dev, uint64_t offset, unsigned bytes)
{
    (void)bytes;
    return pic_port_read(dev, offset, 1);
}

static void slave_write(void *dev, uint64_t offset, unsigned bytes, uint64_t v)
{
    (void)bytes;
    pic_port_write(dev, offset, 1, v);
}

static uint64_t elcr_read(void *dev, uint64_t offset, unsigned bytes)
{
    struct vmci_irqchip *chip = dev;

    vmci_lock(&chip->lock);
    uint64_t v = chip->pic.unit[offset & 1].elcr;
    if (offset == 0 && bytes >= 2)
        v |= (uint64_t)chip->pic.unit[1].elcr << 8;
    vmci_unlock(&chip->lock);
    return v;
}

static void elcr_write(void *dev, uint64_t offset, unsigned bytes, uint64_t v)
{
    struct vmci_irqchip *chip = dev;

    vmci_lock(&chip->lock);
    vmci_pic_write_elcr(&chip->pic, offset & 1, (uint8_t)v);
    if (offset == 0 && bytes >= 2)
        vmci_pic_write_elcr(&chip->pic, 1, (uint8_t)(v >> 8));
    vmci_irqchip_pic_output(chip, chip->pic.intr != 0);
    vmci_unlock(&chip->lock);
}

static uint64_t ioapic_read(void *dev, uint64_t offset, unsigned bytes)
{
    struct vmci_irqchip *chip = dev;

    vmci_lock(&chip->lock);
    uint64_t v = vmci_ioapic_read(&chip->ioapic, offset, bytes);
    vmci_unlock(&chip->lock);
    return v;
}

static void ioapic_write(void *dev, uint64_t offset, unsigned bytes, uint64_t v)
{
    struct vmci_irqchip *chip = dev;

    vmci_lock(&chip->lock);
    vmci_ioapic_write(&chip->ioapic, offset, bytes, v);
    vmci_unlock(&chip->lock);
}

static const struct vmc_bus_ops master_ops = {master_read, master_write};
static const struct vmc_bus_ops slave_ops = {slave_read, slave_write};
static const struct vmc_bus_ops elcr_ops = {elcr_read, elcr_write};
static const struct vmc_bus_ops ioapic_ops = {ioapic_read, ioapic_write};

static const struct {
    uint64_t base, bytes;
    const struct vmc_bus_ops *ops;
    bool mmio;
} ranges[] = {
    {0x20, 2, &master_ops, false},
    {0xa0, 2, &slave_ops, false},
    {0x4d0, 2, &elcr_ops, false},
    {VMCI_IOAPIC_GPA, VMC_PAGE_SIZE, &ioapic_ops, true},
};

/* ---- life ---------------------------------------------------------------------------------- */

static void reset_pic(void *dev)
{
    struct vmci_irqchip *chip = dev;

    vmci_lock(&chip->lock);
    vmci_pic_reset(&chip->pic);
    vmci_irqchip_pic_output(chip, false);
    vmci_unlock(&chip->lock);
}

static void reset_ioapic(void *dev)
{
    struct vmci_irqchip *chip = dev;

    vmci_lock(&chip->lock);
    vmci_ioapic_reset(&chip->ioapic);
    vmci_unlock(&chip->lock);
}

static size_t save_pic(void *dev, void *dst, size_t bytes)
{
    struct vmci_irqchip *chip = dev;

    if (bytes >= sizeof(chip->pic))
        memcpy(dst, &chip->pic, sizeof(chip->pic));
    return sizeof(chip->pic);
}

static int load_pic(void *dev, const void *src, size_t bytes, struct vmc_error *err)
{
    struct vmci_irqchip *chip = dev;
    struct vmci_pic pic;

    if (bytes != sizeof(pic))
        return vmci_error(err, VMC_EFORMAT, "irq/load", "PIC state has %zu bytes, %zu expected",
                          bytes, sizeof(pic));
    /* bool members are bytes of unknown value: normalise before they are read as bool */
    unsigned char raw[sizeof(pic)];
    memcpy(raw, src, bytes);
    for (unsigned u = 0; u < 2; u++) {
        size_t at = u * sizeof(struct vmci_pic_unit);
        if (raw[at + offsetof(struct vmci_pic_unit, lowest)] > 7 ||
            raw[at + offsetof(struct vmci_pic_unit, init_step)] > 4)
            return vmci_error(err, VMC_EFORMAT, "irq/load", "PIC %u: impossible state", u);
        for (size_t b = offsetof(struct vmci_pic_unit, need_icw4);
             b < sizeof(struct vmci_pic_unit); b++)
            raw[at + b] = raw[at + b] != 0;
    }
    memcpy(&pic, raw, sizeof(pic));
    vmci_lock(&chip->lock);
    memcpy(chip->pic.unit, pic.unit, sizeof(pic.unit));
    vmci_irqchip_pic_output(chip, vmci_pic_set(&chip->pic, 2, false));
    vmci_unlock(&chip->lock);
    return VMC_OK;
}

/* Saved form of the IOAPIC, with the wires. */
struct ioapic_state {
    uint64_t rte[VMCI_IOAPIC_PINS];
    uint64_t sources[VMCI_IOAPIC_PINS];
    uint32_t lines, id, select, pad;
};

static size_t save_ioapic(void *dev, void *dst, size_t bytes)
{
    struct vmci_irqchip *chip = dev;
    struct ioapic_state st = {
        .lines = chip->ioapic.lines, .id = chip->ioapic.id, .select = chip->ioapic.select};

    memcpy(st.rte, chip->ioapic.rte, sizeof(st.rte));
    memcpy(st.sources, chip->sources, sizeof(st.sources));
    if (bytes >= sizeof(st))
        memcpy(dst, &st, sizeof(st));
    return sizeof(st);
}

static int load_ioapic(void *dev, const void *src, size_t bytes, struct vmc_error *err)
{
    struct vmci_irqchip *chip = dev;
    struct ioapic_state st;

    if (bytes != sizeof(st))
        return vmci_error(err, VMC_EFORMAT, "irq/load", "IOAPIC state has %zu bytes, %zu expected",
                          bytes, sizeof(st));
    memcpy(&st, src, sizeof(st));
    vmci_lock(&chip->lock);
    memcpy(chip->ioapic.rte, st.rte, sizeof(st.rte));
    memcpy(chip->sources, st.sources, sizeof(st.sources));
    chip->ioapic.lines = st.lines & ((1u << VMCI_IOAPIC_PINS) - 1);
    chip->ioapic.id = st.id & 0xf;
    chip->ioapic.select = (uint8_t)st.select;
    vmci_ioapic_publish(&chip->ioapic);
    vmci_unlock(&chip->lock);
    return VMC_OK;
}

static const struct vmc_device_ops pic_device = {
    .name = "i8259",
    .reset = reset_pic,
    .save = VMCI_SNAPSHOT(save_pic),
    .load = VMCI_SNAPSHOT(load_pic),
};
static const struct vmc_device_ops ioapic_device = {
    .name = "ioapic",
    .reset = reset_ioapic,
    .save = VMCI_SNAPSHOT(save_ioapic),
    .load = VMCI_SNAPSHOT(load_ioapic),
};

static int init_lapics(struct vmci_irqchip *chip, uint32_t lapics)
{
    if (lapics == 0)
        return VMC_OK;
    chip->lapic = vmci_alloc_aligned(chip->pf, lapics * sizeof(chip->lapic[0]), VMCI_CACHELINE);
    if (chip->lapic == NULL)
        return VMC_ENOMEM;
    memset(chip->lapic, 0, lapics * sizeof(chip->lapic[0]));
    chip->lapics = lapics;
    for (uint32_t i = 0; i < lapics; i++) {
        int rc = vmci_lapic_init(&chip->lapic[i], chip, i, chip->board->timers);
        if (rc != VMC_OK)
            return rc;
    }
    return VMC_OK;
}

static struct vmc_bus *range_bus(const struct vmci_irqchip *chip, size_t i)
{
    return ranges[i].mmio ? chip->board->mmio : chip->board->pio;
}

/* Detach the first n ranges. */
static void detach_ranges(struct vmci_irqchip *chip, size_t n)
{
    while (n-- > 0) {
        if (vmc_bus_detach(range_bus(chip, n), ranges[n].base) != VMC_OK)
            vmci_bug(chip->pf, __FILE__, __LINE__, "interrupt controller range vanished");
    }
}

static int attach_ranges(struct vmci_irqchip *chip, struct vmc_error *err)
{
    for (size_t i = 0; i < VMCI_ARRAY_SIZE(ranges); i++) {
        int rc = vmc_bus_attach(range_bus(chip, i), ranges[i].base, ranges[i].bytes,
                                ranges[i].ops, chip, err);
        if (rc != VMC_OK) {
            detach_ranges(chip, i);
            return rc;
        }
    }
    return VMC_OK;
}

int vmci_irqchip_init(struct vmci_irqchip *chip, struct vmc_board *board, uint32_t lapics,
                      const struct vmci_irqchip_ops *ops, void *ctx, struct vmc_error *err)
{
    memset(chip, 0, sizeof(*chip));
    chip->pf = board->platform;
    chip->ops = ops;
    chip->ctx = ctx;
    chip->board = board;
    chip->ioapic.chip = chip;
    int rc = vmci_lock_init(&chip->lock, chip->pf);
    if (rc != VMC_OK)
        return vmci_error(err, rc, "irq/init", "no lock for the interrupt controllers");
    rc = attach_ranges(chip, err);
    if (rc != VMC_OK) {
        vmci_lock_fini(&chip->lock);
        chip->board = NULL;
        return rc;
    }
    rc = init_lapics(chip, lapics);
    if (rc != VMC_OK) {
        vmci_irqchip_fini(chip);
        return vmci_error(err, rc, "irq/init", "no memory for %u local APICs", lapics);
    }
    vmci_pic_reset(&chip->pic);
    vmci_ioapic_reset(&chip->ioapic);
    chip->dev_pic = (struct vmc_device){.ops = &pic_device, .dev = chip};
    chip->dev_ioapic = (struct vmc_device){.ops = &ioapic_device, .dev = chip};
    vmc_board_add(board, &chip->dev_pic);
    vmc_board_add(board, &chip->dev_ioapic);
    board->msi = (struct vmc_msi_sink){msi_sink, chip};
    return VMC_OK;
}

void vmci_irqchip_fini(struct vmci_irqchip *chip)
{
    if (chip->board == NULL)
        return;
    vmc_board_remove(chip->board, &chip->dev_pic);
    vmc_board_remove(chip->board, &chip->dev_ioapic);
    detach_ranges(chip, VMCI_ARRAY_SIZE(ranges));
    for (uint32_t i = 0; i < chip->lapics; i++)
        vmci_lapic_fini(&chip->lapic[i]);
    vmci_free_aligned(chip->pf, chip->lapic, chip->lapics * sizeof(chip->lapic[0]),
                      VMCI_CACHELINE);
    vmci_lock_fini(&chip->lock);
    memset(chip, 0, sizeof(*chip));
}
