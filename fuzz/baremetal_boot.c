/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the bare-metal hypervisor is given when it starts: a boot loader's information, ACPI tables,
 * its configuration file. The first byte of an input chooses:
 *   0, 1   the information of a Multiboot 1 or 2 loader, as it is
 *   2, 3   ACPI tables below an RSDT or XSDT, each a byte for its kind, two for its length and its
 *          contents; checksums and addresses are put right
 *   else   a configuration
 */
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bm_int.h"
#include "hv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SPACE      (1ull << 32) /* of physical addresses, which read as zeros */
#define INPUT_PA   0x100000u
#define INPUT_MAX  65536u
#define ROOT_PA    0x1000u
#define RSDP_PA    0x800u
#define MAX_TABLES 8u

static jmp_buf panicked;

static void must(bool ok)
{
    if (!ok)
        abort();
}

/* ---- what the kernel's other files would be ---------------------------------------------------
 */

void bm_printf(const char *fmt, ...)
{
    (void)fmt;
}

void bm_panic(const char *fmt, ...)
{
    (void)fmt;
    longjmp(panicked, 1);
}

void bm_puts(const char *s, size_t n)
{
    (void)s;
    (void)n;
}

void bm_serial_flush(void)
{
}

void bm_delay_us(uint64_t us)
{
    (void)us;
}

size_t bm_strlen(const char *s)
{
    return strlen(s);
}

uint64_t bm_virt_to_phys(const void *va)
{
    (void)va;
    return RSDP_PA;
}

static unsigned mapped;

void *bm_vmap(uint64_t pa, uint64_t pages, unsigned flags)
{
    (void)flags;
    must(pa < 1ull << 52); /* an entry of a page table has reserved bits there */
    if (pa >= SPACE || pages > (SPACE - pa) / PAGE)
        return NULL;
    mapped++;
    return phys_ptr(pa);
}

void bm_vunmap(void *va, uint64_t pages)
{
    (void)va;
    (void)pages;
    mapped--;
}

void *bm_mmio_map(uint64_t pa, uint64_t bytes)
{
    (void)bytes;
    return phys_ptr(pa);
}

size_t vmc_bm_snprintf(char *dst, size_t bytes, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(dst, bytes, fmt, ap);
    va_end(ap);
    return n < 0 ? 0 : (size_t)n;
}

/* ---- inputs -----------------------------------------------------------------------------------
 */

static void physical_memory(void)
{
    static bool there;

    if (!there)
        must(mmap((void *)PHYSMAP_BASE, SPACE + 65536, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1,
                  0) == (void *)PHYSMAP_BASE);
    there = true;
}

static void boot_information(const uint8_t *data, size_t size, bool second)
{
    memcpy(phys_ptr(INPUT_PA), data, size);
    bm_boot_parse(second ? 0x36d76289u : 0x2badb002u, INPUT_PA);
    must(bm_boot.ranges > 0 && bm_boot.ranges <= BM_MAX_RANGES);
    must(bm_boot.modules <= BM_MAX_MODULES);
    for (unsigned i = 0; i < bm_boot.modules; i++)
        must(bm_boot.module[i].pa + bm_boot.module[i].bytes <= SPACE);
    char out[32];
    if (bm_boot_option("serial", out, sizeof(out)))
        must(memchr(out, 0, sizeof(out)) != NULL);
}

static void put_sum(uint8_t *p, size_t bytes, uint8_t *sum)
{
    uint8_t s = 0;

    *sum = 0;
    for (size_t i = 0; i < bytes; i++)
        s = (uint8_t)(s + p[i]);
    *sum = (uint8_t)-s;
}

static uint32_t put_table(uint32_t pa, const char *sig, const uint8_t *body, uint32_t bytes)
{
    uint8_t *t = phys_ptr(pa);
    uint32_t all = bytes + 36;

    memcpy(t, sig, 4);
    memcpy(t + 4, &all, 4);
    memcpy(t + 10, "FUZZER", 6);
    if (bytes != 0)
        memcpy(t + 36, body, bytes);
    put_sum(t, all, t + 9);
    return pa;
}

static void acpi_tables(const uint8_t *data, size_t size, bool wide)
{
    static const char sigs[][5] = {"APIC", "FACP", "MCFG", "HPET", "SSDT"};
    uint8_t list[8 * MAX_TABLES] = {0};
    uint32_t n = 0, width = wide ? 8 : 4, pa = INPUT_PA, dsdt = 0;

    while (size >= 3 && n < MAX_TABLES) {
        unsigned kind = data[0] % 6;
        uint32_t bytes = data[1] | (uint32_t)data[2] << 8;
        bytes = bytes > size - 3 ? (uint32_t)size - 3 : bytes;
        uint8_t body[256] = {0};
        const uint8_t *from = data + 3;
        if (kind == 1 && bytes >= 8 && bytes <= sizeof(body)) { /* FACP: where the DSDT is */
            memcpy(body, from, bytes);
            memcpy(body + 4, &dsdt, 4);
            from = body;
        }
        if (kind == 5)
            dsdt = put_table(pa, "DSDT", from, bytes);
        else
            memcpy(list + n++ * width, &pa, 4), (void)put_table(pa, sigs[kind], from, bytes);
        pa += (bytes + 36 + 15) & ~15u;
        data += 3 + bytes;
        size -= 3 + bytes;
    }
    (void)put_table(ROOT_PA, wide ? "XSDT" : "RSDT", list, n * width);
    uint8_t *rsdp = phys_ptr(RSDP_PA);
    uint32_t root = ROOT_PA;
    memcpy(rsdp, "RSD PTR ", 8);
    rsdp[15] = wide ? 2 : 0;
    memcpy(rsdp + (wide ? 24 : 16), &root, 4);
    put_sum(rsdp, 20, rsdp + 8);
    bm_boot.rsdp_pa = RSDP_PA;
    bm_acpi_init();
    must(bm_acpi.cpus <= BM_MAX_CPUS && bm_acpi.ioapics <= ARRAY_SIZE(bm_acpi.ioapic) &&
         bm_acpi.mcfgs <= ARRAY_SIZE(bm_acpi.mcfg) && memcmp(bm_acpi.oem, "FUZZER", 7) == 0);
    must(mapped == 0);
    for (unsigned i = 0; i < bm_acpi.cpus; i++) /* a broadcast starts nobody */
        must(bm_acpi.cpu_apic[i] != 0xff && bm_acpi.cpu_apic[i] != UINT32_MAX);
    for (unsigned i = 0; i < bm_acpi.mcfgs; i++)
        must(bm_acpi.mcfg[i].pa < 1ull << 52);
    must(bm_acpi.hpet_pa < 1ull << 52 && bm_acpi.reset_addr < 1ull << 52);
}

static void configuration(const uint8_t *data, size_t size)
{
    static struct hv_config c;
    char message[160];
    unsigned line = 0;
    char *text = malloc(size + 1); /* its end is where the sanitizer sees it */

    must(text != NULL);
    memcpy(text, data, size);
    message[0] = 0;
    bool ok = hv_config_parse(&c, text, size, message, sizeof(message), &line);
    must(c.guests <= HV_MAX_GUESTS && line >= 1 && (ok || message[0] != 0));
    for (uint32_t i = 0; ok && i < c.guests; i++) {
        const struct hv_guest_config *g = &c.guest[i];
        must(g->name[0] != 0 && (g->kernel != NULL || g->firmware != NULL));
        for (uint32_t k = 0; k < g->disks; k++)
            must(g->disk[k] >= c.names && g->disk[k] < c.names + sizeof(c.names) &&
                 strnlen(g->disk[k], HV_TEXT) < HV_TEXT);
        must(g->cpus >= 1 && g->cpus <= HV_MAX_VCPUS && g->disks <= HV_MAX_DISKS);
        must(g->mem_bytes >= VMC_PC_MIN_RAM && g->mem_bytes <= VMC_PC_MAX_RAM);
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size > INPUT_MAX)
        return 0;
    physical_memory();
    memset(&bm_boot, 0, sizeof(bm_boot));
    memset(&bm_acpi, 0, sizeof(bm_acpi));
    mapped = 0;
    if (setjmp(panicked) == 0) {
        if (data[0] < 2)
            boot_information(data + 1, size - 1, data[0] == 1);
        else if (data[0] < 4)
            acpi_tables(data + 1, size - 1, data[0] == 3);
        else
            configuration(data + 1, size - 1);
    }
    memset(phys_ptr(0), 0, 0x2000);
    memset(phys_ptr(INPUT_PA), 0, INPUT_MAX + 4096);
    return 0;
}
