/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ACPI tables (ACPI 6.4, chapter 5): which processors, interrupt controllers, clocks, configuration
 * space, and how to switch off. AML is not interpreted; the one object needed, \_S5, is found by
 * its encoding.
 */
#include "bm_int.h"

struct sdt {
    char sig[4];
    uint32_t bytes;
    uint8_t rev, sum;
    char oem[6], table[8];
    uint32_t oem_rev, creator, creator_rev;
} __attribute__((packed));

#define MAX_TABLE  (16u << 20)
#define MAX_TABLES 256u

struct bm_acpi bm_acpi;

static bool sum_ok(const void *p, size_t n)
{
    const uint8_t *b = p;
    uint8_t s = 0;

    for (size_t i = 0; i < n; i++)
        s = (uint8_t)(s + b[i]);
    return s == 0;
}

/* Can the processor address it? What a table names need not be so. */
static bool addressable(uint64_t pa, uint64_t bytes)
{
    uint32_t r[4];
    unsigned bits = 36;

    cpuid(0x80000000u, 0, r);
    if (r[0] >= 0x80000008u) {
        cpuid(0x80000008u, 0, r);
        bits = r[0] & 0xff;
    }
    uint64_t end = 1ull << (bits < 52 ? bits : 52);
    return pa < end && bytes <= end - pa;
}

/* Map physical memory of firmware, read-only. */
static const void *view(uint64_t pa, uint64_t bytes)
{
    uint64_t off = pa & (PAGE - 1);

    if (!addressable(pa, bytes))
        return NULL;
    char *va = bm_vmap(pa - off, PAGES(off + bytes), 0);

    return va != NULL ? va + off : NULL;
}

static void unview(const void *p, uint64_t bytes)
{
    uint64_t off = (uint64_t)p & (PAGE - 1);

    bm_vunmap((char *)(uint64_t)p - off, PAGES(off + bytes));
}

/* A whole table, checked; NULL: it is not one. */
static const struct sdt *table(uint64_t pa)
{
    const struct sdt *t = pa != 0 ? view(pa, sizeof(*t)) : NULL;

    if (t == NULL)
        return NULL;
    uint32_t bytes = t->bytes;
    unview(t, sizeof(*t));
    if (bytes < sizeof(*t) || bytes > MAX_TABLE)
        return NULL;
    t = view(pa, bytes);
    if (t == NULL || sum_ok(t, bytes))
        return t;
    bm_printf("acpi: table %.4s at 0x%llx has a wrong checksum\n", t->sig, (unsigned long long)pa);
    unview(t, bytes);
    return NULL;
}

static uint16_t ld16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

static uint32_t ld32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static uint64_t ld64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

/* ---- the root ----------------------------------------------------------------------------------
 */

static uint64_t search(uint64_t pa, uint64_t bytes)
{
    const char *p = view(pa, bytes);
    uint64_t found = 0;

    for (uint64_t i = 0; p != NULL && i + 20 <= bytes && found == 0; i += 16)
        if (memcmp(p + i, "RSD PTR ", 8) == 0 && sum_ok(p + i, 20))
            found = pa + i;
    if (p != NULL)
        unview(p, bytes);
    return found;
}

static uint64_t find_rsdp(void)
{
    if (bm_boot.rsdp_pa != 0)
        return bm_boot.rsdp_pa;
    const char *bda = view(0x400, 256);
    uint64_t ebda = bda != NULL ? (uint64_t)ld16(bda + 0x0e) << 4 : 0;
    uint64_t pa = 0;
    if (bda != NULL)
        unview(bda, 256);
    if (ebda >= 0x80000 && ebda < 0xa0000)
        pa = search(ebda, 1024);
    return pa != 0 ? pa : search(0xe0000, 0x20000);
}

/* ---- tables ------------------------------------------------------------------------------------
 */

static void add_cpu(uint32_t apic_id, uint32_t flags)
{
    if ((flags & 1) == 0 || bm_acpi.cpus == BM_MAX_CPUS) /* disabled: not there, or to be plugged */
        return;
    for (unsigned i = 0; i < bm_acpi.cpus; i++)
        if (bm_acpi.cpu_apic[i] == apic_id)
            return;
    bm_acpi.cpu_apic[bm_acpi.cpus++] = apic_id;
}

static void madt_entry(const uint8_t *e, unsigned len)
{
    switch (e[0]) {
    case 0:                           /* local APIC */
        if (len >= 8 && e[3] != 0xff) /* that is all of them */
            add_cpu(e[3], ld32(e + 4));
        break;
    case 1: /* IOAPIC */
        if (len >= 12 && bm_acpi.ioapics < ARRAY_SIZE(bm_acpi.ioapic)) {
            bm_acpi.ioapic[bm_acpi.ioapics].pa = ld32(e + 4);
            bm_acpi.ioapic[bm_acpi.ioapics++].gsi = ld32(e + 8);
        }
        break;
    case 2: /* interrupt source override */
        if (len >= 10 && e[3] < 16) {
            bm_acpi.isa[e[3]].gsi = ld32(e + 4);
            bm_acpi.isa[e[3]].flags = ld16(e + 8);
            bm_acpi.isa[e[3]].set = true;
        }
        break;
    case 9: /* local x2APIC */
        if (len >= 16 && ld32(e + 4) != UINT32_MAX)
            add_cpu(ld32(e + 4), ld32(e + 8));
        break;
    default:
        break;
    }
}

static void parse_madt(const struct sdt *t)
{
    const uint8_t *b = (const uint8_t *)t;

    if (t->bytes >= 44)
        bm_acpi.lapic_pa = ld32(b + 36);
    for (uint32_t off = 44; off + 2 <= t->bytes && b[off + 1] >= 2 && b[off + 1] <= t->bytes - off;
         off += b[off + 1])
        madt_entry(b + off, b[off + 1]);
}

static void parse_mcfg(const struct sdt *t)
{
    const uint8_t *b = (const uint8_t *)t;

    for (uint32_t off = 44; off + 16 <= t->bytes; off += 16) {
        if (ld16(b + off + 8) != 0 || bm_acpi.mcfgs == ARRAY_SIZE(bm_acpi.mcfg) ||
            (ld64(b + off) & (PAGE - 1)) != 0 || !addressable(ld64(b + off), 256ull << 20))
            continue; /* segment 0 only */
        bm_acpi.mcfg[bm_acpi.mcfgs].pa = ld64(b + off);
        bm_acpi.mcfg[bm_acpi.mcfgs].bus_first = b[off + 10];
        bm_acpi.mcfg[bm_acpi.mcfgs++].bus_last = b[off + 11];
    }
}

static void parse_hpet(const struct sdt *t)
{
    const uint8_t *b = (const uint8_t *)t;

    if (t->bytes >= 56 && b[40] == 0 && addressable(ld64(b + 44), PAGE))
        bm_acpi.hpet_pa = ld64(b + 44);
}

/* An integer of a package: 0, 1, or a byte, word or double word with its prefix. */
static const uint8_t *aml_int(const uint8_t *p, const uint8_t *end, uint16_t *v)
{
    unsigned n = 0;

    if (p >= end)
        return end;
    if (*p == 0 || *p == 1) {
        *v = *p;
        return p + 1;
    }
    n = *p == 0x0a ? 1 : *p == 0x0b ? 2 : *p == 0x0c ? 4 : 0;
    if (n == 0 || (size_t)(end - p) < n + 1)
        return end;
    *v = n == 1 ? p[1] : ld16(p + 1);
    return p + 1 + n;
}

/* Name (_S5, Package () {a, b, ...}): 08 [5c] "_S5_" 12 length count a b */
static void find_s5(const struct sdt *t)
{
    const uint8_t *p = (const uint8_t *)t + sizeof(*t);
    const uint8_t *end = (const uint8_t *)t + t->bytes;

    for (; p + 8 < end; p++) {
        if (memcmp(p, "_S5_", 4) != 0 || p[4] != 0x12 ||
            !(p[-1] == 0x08 || (p[-1] == 0x5c && p[-2] == 0x08)))
            continue;
        const uint8_t *q = p + 5;
        q += 1 + (*q >> 6); /* package length */
        q++;                /* number of elements */
        q = aml_int(q, end, &bm_acpi.s5a);
        if (q < end)
            (void)aml_int(q, end, &bm_acpi.s5b);
        bm_acpi.has_s5 = true;
        return;
    }
}

static void parse_fadt(const struct sdt *t)
{
    const uint8_t *b = (const uint8_t *)t;

    if (t->bytes < 116)
        return;
    bm_acpi.pm1a = (uint16_t)ld32(b + 64);
    bm_acpi.pm1b = (uint16_t)ld32(b + 68);
    bm_acpi.pm_timer = (uint16_t)ld32(b + 76);
    uint32_t flags = ld32(b + 112);
    bm_acpi.pm_timer_32 = (flags & (1u << 8)) != 0;
    if (t->bytes >= 129 && (flags & (1u << 10))) {
        bm_acpi.reset_space = b[116];
        bm_acpi.reset_addr = addressable(ld64(b + 120), 1) ? ld64(b + 120) : 0;
        bm_acpi.reset_value = b[128];
    }
    uint64_t dsdt = t->bytes >= 148 ? ld64(b + 140) : 0;
    const struct sdt *d = table(dsdt != 0 ? dsdt : ld32(b + 40));
    if (d != NULL) {
        find_s5(d);
        unview(d, d->bytes);
    }
}

static void parse(uint64_t pa)
{
    static const struct {
        char sig[5];
        void (*fn)(const struct sdt *t);
    } known[] = {
        {"APIC", parse_madt}, {"FACP", parse_fadt}, {"MCFG", parse_mcfg}, {"HPET", parse_hpet}};
    const struct sdt *head = pa != 0 ? view(pa, sizeof(*head)) : NULL;
    unsigned i = 0;

    if (head == NULL)
        return;
    while (i < ARRAY_SIZE(known) && memcmp(head->sig, known[i].sig, 4) != 0)
        i++;
    unview(head, sizeof(*head));
    const struct sdt *t = i < ARRAY_SIZE(known) ? table(pa) : NULL;
    if (t == NULL)
        return;
    known[i].fn(t);
    unview(t, t->bytes);
}

void bm_acpi_init(void)
{
    uint64_t pa = find_rsdp();
    const uint8_t *rsdp = pa != 0 ? view(pa, 36) : NULL;

    if (rsdp == NULL) {
        bm_printf("acpi: no tables; one processor, no power-off\n");
        return;
    }
    bool xsdt = rsdp[15] >= 2 && ld64(rsdp + 24) != 0;
    const struct sdt *root = table(xsdt ? ld64(rsdp + 24) : ld32(rsdp + 16));
    if (root == NULL && xsdt) {
        xsdt = false;
        root = table(ld32(rsdp + 16));
    }
    unview(rsdp, 36);
    if (root == NULL) {
        bm_printf("acpi: the root table is damaged\n");
        return;
    }
    memcpy(bm_acpi.oem, root->oem, 6);
    unsigned width = xsdt ? 8 : 4;
    const uint8_t *b = (const uint8_t *)root;
    uint32_t end = sizeof(*root) + MAX_TABLES * width;
    for (uint32_t off = sizeof(*root); off < end && off + width <= root->bytes; off += width)
        parse(xsdt ? ld64(b + off) : ld32(b + off));
    unview(root, root->bytes);
    bm_printf("acpi: %s, %u processors, %u IOAPICs%s%s%s\n", bm_acpi.oem, bm_acpi.cpus,
              bm_acpi.ioapics, bm_acpi.mcfgs != 0 ? ", MCFG" : "",
              bm_acpi.hpet_pa != 0 ? ", HPET" : "", bm_acpi.has_s5 ? ", S5" : "");
}

/* ---- the end -----------------------------------------------------------------------------------
 */

void vmc_bm_power_off(void)
{
    bm_serial_flush();
    irq_off();
    if (bm_acpi.has_s5 && bm_acpi.pm1a != 0) {
        outw(bm_acpi.pm1a,
             (uint16_t)((inw(bm_acpi.pm1a) & 1u) | (uint32_t)bm_acpi.s5a << 10 | 1u << 13));
        if (bm_acpi.pm1b != 0)
            outw(bm_acpi.pm1b,
                 (uint16_t)((inw(bm_acpi.pm1b) & 1u) | (uint32_t)bm_acpi.s5b << 10 | 1u << 13));
        bm_delay_us(1000000);
    }
    bm_puts("power-off: the firmware does not say how; halted\n", 49);
    bm_serial_flush();
    for (;;)
        __asm__ volatile("cli; hlt");
}

void vmc_bm_reset(void)
{
    bm_serial_flush();
    irq_off();
    if (bm_acpi.reset_addr != 0 && bm_acpi.reset_space == 1)
        outb((uint16_t)bm_acpi.reset_addr, bm_acpi.reset_value);
    else if (bm_acpi.reset_addr != 0 && bm_acpi.reset_space == 0)
        *(volatile uint8_t *)bm_mmio_map(bm_acpi.reset_addr, 1) = bm_acpi.reset_value;
    bm_delay_us(50000);
    outb(0xcf9, 2); /* hard reset */
    outb(0xcf9, 6);
    bm_delay_us(50000);
    for (unsigned i = 0; i < 1000 && (inb(0x64) & 2) != 0; i++)
        bm_delay_us(10);
    outb(0x64, 0xfe); /* keyboard controller */
    bm_delay_us(50000);
    static const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) none = {0, 0};
    __asm__ volatile("lidt %0\n\tint3" : : "m"(none)); /* triple fault */
    for (;;)
        __asm__ volatile("cli; hlt");
}
