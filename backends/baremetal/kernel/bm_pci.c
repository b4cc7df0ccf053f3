/* SPDX-License-Identifier: BSD-2-Clause */
/* PCI configuration space (memory-mapped where MCFG says so, else by ports), functions, MSI. */
#include "bm_int.h"

#define CFG_ADDR    0xcf8
#define CFG_DATA    0xcfc
#define CMD_IO      1u
#define CMD_MEM     2u
#define CMD_MASTER  4u
#define CMD_NO_INTX (1u << 10)
#define CAP_MSI     0x05u
#define CAP_MSIX    0x11u

struct bm_pci bm_pci[BM_MAX_PCI];
unsigned bm_pci_count;
static char *ecam[256]; /* by bus, mapped on demand */
static struct bm_lock lock;

static char *ecam_of(unsigned bus)
{
    if (ecam[bus] != NULL)
        return ecam[bus];
    for (unsigned i = 0; i < bm_acpi.mcfgs; i++)
        if (bus >= bm_acpi.mcfg[i].bus_first && bus <= bm_acpi.mcfg[i].bus_last)
            ecam[bus] = bm_mmio_map(bm_acpi.mcfg[i].pa + ((uint64_t)bus << 20), 1u << 20);
    return ecam[bus];
}

uint32_t bm_pci_rd32(const struct bm_pci *p, unsigned reg)
{
    char *e = ecam_of(p->bus);
    unsigned at = (unsigned)p->dev << 15 | (unsigned)p->fn << 12 | (reg & ~3u);

    if (e != NULL)
        return mmio_rd32(e + at);
    bool on = bm_lock_irq(&lock);
    outl(CFG_ADDR, 0x80000000u | (uint32_t)p->bus << 16 | (uint32_t)p->dev << 11 |
                       (uint32_t)p->fn << 8 | (reg & 0xfcu));
    uint32_t v = inl(CFG_DATA);
    bm_unlock_irq(&lock, on);
    return v;
}

void bm_pci_wr32(const struct bm_pci *p, unsigned reg, uint32_t v)
{
    char *e = ecam_of(p->bus);
    unsigned at = (unsigned)p->dev << 15 | (unsigned)p->fn << 12 | (reg & ~3u);

    if (e != NULL) {
        mmio_wr32(e + at, v);
        return;
    }
    bool on = bm_lock_irq(&lock);
    outl(CFG_ADDR, 0x80000000u | (uint32_t)p->bus << 16 | (uint32_t)p->dev << 11 |
                       (uint32_t)p->fn << 8 | (reg & 0xfcu));
    outl(CFG_DATA, v);
    bm_unlock_irq(&lock, on);
}

uint16_t bm_pci_rd16(const struct bm_pci *p, unsigned reg)
{
    return (uint16_t)(bm_pci_rd32(p, reg) >> (reg & 2) * 8);
}

uint8_t bm_pci_rd8(const struct bm_pci *p, unsigned reg)
{
    return (uint8_t)(bm_pci_rd32(p, reg) >> (reg & 3) * 8);
}

void bm_pci_wr16(const struct bm_pci *p, unsigned reg, uint16_t v)
{
    unsigned shift = (reg & 2) * 8;
    uint32_t old = bm_pci_rd32(p, reg);

    if ((reg & ~3u) == 4)
        old &= 0xffff; /* the status bits are cleared by writing ones */
    bm_pci_wr32(p, reg, (old & ~(0xffffu << shift)) | (uint32_t)v << shift);
}

uint64_t bm_pci_bar(const struct bm_pci *p, unsigned n, bool *io, uint64_t *bytes)
{
    unsigned reg = 0x10 + 4 * n;
    uint16_t cmd = bm_pci_rd16(p, 4);
    uint32_t lo = bm_pci_rd32(p, reg);
    bool wide = (lo & 1) == 0 && (lo & 6) == 4;
    uint32_t hi = wide ? bm_pci_rd32(p, reg + 4) : 0;

    bm_pci_wr16(p, 4, cmd & ~(CMD_IO | CMD_MEM));
    bm_pci_wr32(p, reg, UINT32_MAX);
    uint64_t size = bm_pci_rd32(p, reg);
    bm_pci_wr32(p, reg, lo);
    if (wide) {
        bm_pci_wr32(p, reg + 4, UINT32_MAX);
        size |= (uint64_t)bm_pci_rd32(p, reg + 4) << 32;
        bm_pci_wr32(p, reg + 4, hi);
    } else {
        size |= 0xffffffff00000000ull;
    }
    bm_pci_wr16(p, 4, cmd);
    *io = (lo & 1) != 0;
    size &= *io ? ~3ull : ~15ull;
    *bytes = ~size + 1;
    if (*io)
        *bytes &= 0xffff;
    return *io ? lo & 0xfffcu : ((uint64_t)hi << 32 | (lo & ~15u));
}

unsigned bm_pci_cap(const struct bm_pci *p, unsigned id, unsigned after)
{
    if ((bm_pci_rd16(p, 6) & 0x10) == 0)
        return 0;
    unsigned reg = bm_pci_rd8(p, after != 0 ? after + 1 : 0x34) & ~3u;
    for (unsigned i = 0; i < 48 && reg >= 0x40; i++) { /* a list can have no more entries */
        if (bm_pci_rd8(p, reg) == id)
            return reg;
        reg = bm_pci_rd8(p, reg + 1) & ~3u;
    }
    return 0;
}

void bm_pci_stop(const struct bm_pci *p)
{
    bm_pci_wr16(p, 4, (uint16_t)(bm_pci_rd16(p, 4) & ~4u));
}

void bm_pci_enable(const struct bm_pci *p)
{
    bm_pci_wr16(p, 4, bm_pci_rd16(p, 4) | CMD_IO | CMD_MEM | CMD_MASTER);
}

static void msi(const struct bm_pci *p, unsigned cap, unsigned vec)
{
    uint16_t ctl = bm_pci_rd16(p, cap + 2);

    bm_pci_wr32(p, cap + 4, (uint32_t)bm_lapic_msi_addr());
    if (ctl & 0x80) { /* 64-bit address */
        bm_pci_wr32(p, cap + 8, 0);
        bm_pci_wr16(p, cap + 12, (uint16_t)vec);
    } else {
        bm_pci_wr16(p, cap + 8, (uint16_t)vec);
    }
    bm_pci_wr16(p, cap + 2, (uint16_t)((ctl & ~0x70u) | 1u)); /* one message, enabled */
}

static bool msix(const struct bm_pci *p, unsigned cap, unsigned vec)
{
    uint32_t table = bm_pci_rd32(p, cap + 4);
    uint64_t offset = table & ~7u;
    bool io;

    if ((table & 7) > 5) /* no such BAR */
        return false;
    uint64_t bytes;
    uint64_t bar = bm_pci_bar(p, table & 7, &io, &bytes);

    if (io || bar == 0 || offset + 16 > bytes)
        return false;
    char *e = bm_mmio_map(bar + offset, 16);
    mmio_wr64(e, bm_lapic_msi_addr());
    mmio_wr32(e + 8, vec);
    mmio_wr32(e + 12, 0); /* not masked */
    bm_pci_wr16(p, cap + 2, (uint16_t)((bm_pci_rd16(p, cap + 2) & 0x3fffu) | 0x8000u));
    return true;
}

bool bm_pci_msi(const struct bm_pci *p, bm_irq_fn *fn, void *ctx)
{
    unsigned x = bm_pci_cap(p, CAP_MSIX, 0);
    unsigned m = bm_pci_cap(p, CAP_MSI, 0);
    unsigned vec = x != 0 || m != 0 ? bm_irq_vector(fn, ctx) : 0;

    if (vec == 0)
        return false;
    bm_pci_wr16(p, 4, bm_pci_rd16(p, 4) | CMD_MEM | CMD_MASTER | CMD_NO_INTX);
    if (x != 0 && msix(p, x, vec))
        return true;
    if (m != 0)
        msi(p, m, vec);
    return m != 0;
}

static bool probe(unsigned bus, unsigned dev, unsigned fn)
{
    struct bm_pci p = {.bus = (uint8_t)bus, .dev = (uint8_t)dev, .fn = (uint8_t)fn};
    uint32_t id = bm_pci_rd32(&p, 0);

    if ((id & 0xffff) == 0xffff || (id & 0xffff) == 0)
        return false;
    uint32_t cls = bm_pci_rd32(&p, 8);
    p.vendor = (uint16_t)id;
    p.device = (uint16_t)(id >> 16);
    p.class_code = (uint8_t)(cls >> 24);
    p.subclass = (uint8_t)(cls >> 16);
    p.prog_if = (uint8_t)(cls >> 8);
    if (bm_pci_count < BM_MAX_PCI)
        bm_pci[bm_pci_count++] = p;
    return true;
}

/* Buses reach from 0 to the highest that a bridge leads to; roots beyond that are found by MCFG. */
void bm_pci_init(void)
{
    unsigned last = 0;

    for (unsigned i = 0; i < bm_acpi.mcfgs; i++)
        if (bm_acpi.mcfg[i].bus_last > last && bm_acpi.mcfg[i].bus_last < 64)
            last = bm_acpi.mcfg[i].bus_last;
    for (unsigned bus = 0; bus <= last; bus++)
        for (unsigned dev = 0; dev < 32; dev++) {
            struct bm_pci p = {.bus = (uint8_t)bus, .dev = (uint8_t)dev};
            if (!probe(bus, dev, 0))
                continue;
            if (bm_pci_rd8(&p, 0x0e) & 0x80)
                for (unsigned fn = 1; fn < 8; fn++)
                    (void)probe(bus, dev, fn);
            for (unsigned i = 0; i < bm_pci_count; i++)
                if (bm_pci[i].class_code == 6 && bm_pci[i].subclass == 4 &&
                    bm_pci_rd8(&bm_pci[i], 0x1a) > last)
                    last = bm_pci_rd8(&bm_pci[i], 0x1a);
        }
    bm_printf("pci: %u functions%s\n", bm_pci_count, bm_acpi.mcfgs != 0 ? ", by MCFG" : "");
}
