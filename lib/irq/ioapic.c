/* SPDX-License-Identifier: BSD-2-Clause */
/* IOAPIC, 82093AA with the EOI register of version 0x20. All functions: chip lock held. */
#include "irq/irq_int.h"

#define REG_SELECT 0x00
#define REG_WINDOW 0x10
#define REG_EOI    0x40

#define IDX_ID      0x00
#define IDX_VERSION 0x01
#define IDX_ARB     0x02
#define IDX_RTE     0x10

#define VERSION 0x20u

#define RTE_READ_ONLY (VMCI_RTE_PENDING | VMCI_RTE_REMOTE_IRR)
#define RTE_RESERVED  0x0001fffffffe0000ull /* 49-55: extended destination, as in an MSI */

static struct vmci_irq_msg message(uint64_t rte)
{
    return (struct vmci_irq_msg){
        .dest = (uint32_t)(rte >> VMCI_RTE_DEST_SHIFT) |
                (uint32_t)((rte >> 49) & 0x7f) << 8,
        .logical = (rte & VMCI_RTE_LOGICAL) != 0,
        .level = (rte & VMCI_RTE_LEVEL) != 0,
        .mode = (rte >> VMCI_RTE_MODE_SHIFT) & 7,
        .vector = rte & VMCI_RTE_VECTOR,
    };
}

/* The same as an MSI, for engines that own the local APICs. */
static void message_to_msi(const struct vmci_irq_msg *m, uint64_t *addr, uint32_t *data)
{
    *addr = 0xfee00000u | (m->dest & 0xff) << 12 | ((m->dest >> 8) & 0x7f) << 5 |
            (m->logical ? 4u : 0);
    *data = m->vector | (uint32_t)m->mode << 8 | (m->level ? 1u << 15 | 1u << 14 : 0);
}

static void publish_pin(struct vmci_ioapic *io, unsigned pin)
{
    struct vmci_irqchip *chip = io->chip;
    uint64_t addr;
    uint32_t data;

    if (chip->ops->route == NULL)
        return;
    struct vmci_irq_msg m = message(io->rte[pin]);
    message_to_msi(&m, &addr, &data);
    chip->ops->route(chip->ctx, pin, addr, data, m.level);
}

void vmci_ioapic_publish(struct vmci_ioapic *io)
{
    for (unsigned pin = 0; pin < VMCI_IOAPIC_PINS; pin++)
        publish_pin(io, pin);
}

static void send(struct vmci_ioapic *io, unsigned pin)
{
    struct vmci_irqchip *chip = io->chip;
    struct vmci_irq_msg m = message(io->rte[pin]);

    /* Only fixed and lowest-priority interrupts have a level mode (82093AA 3.2.4). */
    if (m.level && m.mode <= VMCI_IRQ_LOWEST)
        io->rte[pin] |= VMCI_RTE_REMOTE_IRR;
    if (chip->ops->msi != NULL && m.mode != VMCI_IRQ_EXTINT) {
        uint64_t addr;
        uint32_t data;
        message_to_msi(&m, &addr, &data);
        chip->ops->msi(chip->ctx, addr, data);
        return;
    }
    if (!vmci_irqchip_deliver(chip, &m))
        io->rte[pin] &= ~VMCI_RTE_REMOTE_IRR; /* nobody will end it */
}

/* A level input that is up is sent once until its EOI. */
static void service_level(struct vmci_ioapic *io, unsigned pin)
{
    uint64_t rte = io->rte[pin];

    if ((rte & (VMCI_RTE_MASKED | VMCI_RTE_LEVEL | VMCI_RTE_REMOTE_IRR)) == VMCI_RTE_LEVEL &&
        (io->lines & (1u << pin)))
        send(io, pin);
}

/*
 * Polarity is kept for the guest to read, but does not invert anything: a device asserts or does
 * not, and firmware tables describe the wire as the guest then programs it.
 */
void vmci_ioapic_set(struct vmci_ioapic *io, unsigned pin, bool level)
{
    uint32_t bit = 1u << pin;
    bool rose = level && !(io->lines & bit);

    io->lines = level ? io->lines | bit : io->lines & ~bit;
    if (!rose)
        return;
    if (io->rte[pin] & VMCI_RTE_LEVEL)
        service_level(io, pin);
    else if (!(io->rte[pin] & VMCI_RTE_MASKED)) /* an edge on a masked input is lost */
        send(io, pin);
}

void vmci_ioapic_eoi(struct vmci_ioapic *io, uint8_t vector)
{
    for (unsigned pin = 0; pin < VMCI_IOAPIC_PINS; pin++) {
        uint64_t rte = io->rte[pin];
        if ((rte & VMCI_RTE_VECTOR) != vector || !(rte & VMCI_RTE_REMOTE_IRR))
            continue;
        io->rte[pin] &= ~VMCI_RTE_REMOTE_IRR;
        service_level(io, pin);
    }
}

static uint32_t read_index(const struct vmci_ioapic *io)
{
    unsigned n = io->select;

    if (n == IDX_ID || n == IDX_ARB)
        return io->id << 24;
    if (n == IDX_VERSION)
        return VERSION | (VMCI_IOAPIC_PINS - 1) << 16;
    if (n >= IDX_RTE && n < IDX_RTE + 2 * VMCI_IOAPIC_PINS)
        return (uint32_t)(io->rte[(n - IDX_RTE) / 2] >> ((n & 1) * 32));
    return 0;
}

static void write_rte(struct vmci_ioapic *io, unsigned pin, bool high, uint32_t v)
{
    uint64_t old = io->rte[pin];
    uint64_t rte = high ? (old & 0xffffffffu) | (uint64_t)v << 32
                        : (old & 0xffffffff00000000ull) | v;

    rte = (rte & ~(RTE_READ_ONLY | RTE_RESERVED)) | (old & RTE_READ_ONLY);
    /* A switch to edge mode drops the remote IRR: guests use it as an EOI. */
    if (!(rte & VMCI_RTE_LEVEL))
        rte &= ~VMCI_RTE_REMOTE_IRR;
    io->rte[pin] = rte;
    publish_pin(io, pin);
    service_level(io, pin);
}

static void write_index(struct vmci_ioapic *io, uint32_t v)
{
    unsigned n = io->select;

    if (n == IDX_ID)
        io->id = (v >> 24) & 0xf;
    else if (n >= IDX_RTE && n < IDX_RTE + 2 * VMCI_IOAPIC_PINS)
        write_rte(io, (n - IDX_RTE) / 2, n & 1, v);
}

uint64_t vmci_ioapic_read(struct vmci_ioapic *io, uint64_t offset, unsigned bytes)
{
    (void)bytes;
    switch (offset & ~3ull) {
    case REG_SELECT:
        return (uint64_t)io->select >> ((offset & 3) * 8);
    case REG_WINDOW:
        return (uint64_t)read_index(io) >> ((offset & 3) * 8);
    default:
        return 0;
    }
}

void vmci_ioapic_write(struct vmci_ioapic *io, uint64_t offset, unsigned bytes, uint64_t v)
{
    switch (offset) {
    case REG_SELECT:
        io->select = (uint8_t)v;
        break;
    case REG_WINDOW:
        if (bytes >= 4)
            write_index(io, (uint32_t)v);
        break;
    case REG_EOI:
        vmci_ioapic_eoi(io, (uint8_t)v);
        break;
    default:
        break;
    }
}

void vmci_ioapic_reset(struct vmci_ioapic *io)
{
    for (unsigned pin = 0; pin < VMCI_IOAPIC_PINS; pin++)
        io->rte[pin] = VMCI_RTE_MASKED;
    io->id = 0;
    io->select = 0;
    vmci_ioapic_publish(io);
}
