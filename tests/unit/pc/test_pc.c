/* SPDX-License-Identifier: BSD-2-Clause */
/* The standard machine: layout, ACPI tables (checked by iasl), fw_cfg contents, boot, reset. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vmcore/pc.h>
#include <vmcore/x86.h>

#include "base/base_int.h"
#include "engine_null.h"
#include "test_platform.h"

#include <cmocka.h>

#define MIB (1ull << 20)

struct fx {
    struct test_platform tp;
    struct null_config cfg;
    struct vmc_engine_ops engine;
    struct vmc_vm *vm;
    struct vmc_pc *pc;
    struct vmc_pci_func *disk;
};

static int program(struct null_vcpu *v, const struct vmc_run_limits *lim, struct vmc_exit *out)
{
    (void)lim;
    return null_hlt(v, out);
}

/* The null engine, for as many vCPUs as a machine may have. */
static int probe_many(const struct vmc_platform *pf, struct vmc_engine_info *out,
                      struct vmc_error *err)
{
    int rc = engine_null_pull()->probe(pf, out, err);

    out->max_vcpus = VMC_PC_MAX_CPUS;
    return rc;
}

static void machine(struct fx *f, uint64_t ram, unsigned cpus, uint32_t flags)
{
    struct vmc_error err = {.text = ""};
    struct vmc_vm_config vc = {.size = sizeof(vc), .max_vcpus = cpus, .platform = &f->tp.pf,
                               .engine = &f->engine, .engine_config = &f->cfg};
    struct vmc_pc_config pc = {.size = sizeof(pc), .flags = flags, .ram_bytes = ram, .cpus = cpus,
                               .exit_port = 0xf4};
    struct vmc_vcpu *v;

    test_platform_init(&f->tp);
    f->engine = *engine_null_pull();
    f->engine.probe = probe_many;
    f->cfg.program = program;
    if (vmc_vm_create(&vc, &f->vm, &err) != VMC_OK)
        fail_msg("%s", err.text);
    if (vmc_pc_create(f->vm, &pc, &f->pc, &err) != VMC_OK)
        fail_msg("%s", err.text);
    for (unsigned i = 0; i < cpus; i++)
        assert_int_equal(vmc_vcpu_create(f->vm, i, &v, &err), VMC_OK);
    struct vmc_pci_func_config fc = {.size = sizeof(fc), .slot = 4, .vendor_id = 0x1af4,
                                     .device_id = 0x1042, .class_code = 0x010000, .int_pin = 1};
    assert_int_equal(vmc_pci_func_create(vmc_pc_pci(f->pc), &fc, &f->disk, &err), VMC_OK);
    assert_int_equal(vmc_pci_add_bar(f->disk, 4, 12, 0x4000, NULL, NULL, &err), VMC_OK);
}

static int setup(void **state)
{
    *state = calloc(1, sizeof(struct fx));
    return 0;
}

static int teardown(void **state)
{
    struct fx *f = *state;

    if (f->disk != NULL)
        vmc_pci_func_destroy(f->disk);
    vmc_vm_destroy(f->vm);
    vmc_pc_destroy(f->pc);
    if (f->vm != NULL)
        test_platform_check(&f->tp);
    free(f);
    return 0;
}

static void boot_flat(struct fx *f)
{
    static const uint8_t code[16] = {0xf4};
    struct vmc_image_src src;
    struct vmc_pc_boot b = {.size = sizeof(b), .kind = VMC_BOOT_FLAT, .kernel = &src,
                            .flat_mode = VMC_FLAT_PROT, .flat_gpa = 0x200000};
    struct vmc_boot_result r;
    struct vmc_error err = {.text = ""};

    vmc_image_src_memory(&src, code, sizeof(code));
    if (vmc_pc_boot(f->pc, &b, &r, &err) != VMC_OK)
        fail_msg("%s", err.text);
    assert_int_equal(r.entry, 0x200000);
}

static uint64_t pio_read(struct fx *f, uint16_t port, unsigned bytes)
{
    uint64_t v;

    vmc_bus_read(vmc_vm_board(f->vm)->pio, port, bytes, &v);
    return v;
}

static void pio_write(struct fx *f, uint16_t port, unsigned bytes, uint64_t v)
{
    vmc_bus_write(vmc_vm_board(f->vm)->pio, port, bytes, v);
}

/* ---- ACPI ---------------------------------------------------------------------------------- */

static uint8_t sum(const uint8_t *p, size_t n)
{
    uint8_t s = 0;

    while (n-- != 0)
        s = (uint8_t)(s + *p++);
    return s;
}

static uint8_t *table_at(struct fx *f, uint64_t gpa, uint32_t *bytes)
{
    uint8_t head[36];

    assert_int_equal(vmc_mem_read(vmc_vm_mem(f->vm), gpa, head, sizeof(head)), VMC_OK);
    *bytes = vmci_ld_le32(head + 4);
    assert_in_range(*bytes, 36, 1 << 20);
    uint8_t *t = malloc(*bytes);
    assert_int_equal(vmc_mem_read(vmc_vm_mem(f->vm), gpa, t, *bytes), VMC_OK);
    if (memcmp(t, "FACS", 4) != 0)
        assert_int_equal(sum(t, *bytes), 0);
    return t;
}

/* Run iasl over a table: it must disassemble, and the DSDT compile again without a complaint. */
static void iasl_check(const char *dir, const char *sig, const uint8_t *t, uint32_t bytes)
{
    char path[256], cmd[1024];

    snprintf(path, sizeof(path), "%s/%s.aml", dir, sig);
    FILE *o = fopen(path, "wb");
    assert_non_null(o);
    assert_int_equal(fwrite(t, 1, bytes, o), bytes);
    fclose(o);
    snprintf(cmd, sizeof(cmd), "cd %s && iasl -d %s.aml >%s.log 2>&1 && ! grep -iE 'error|warning|"
             "invalid|Unknown' %s.log", dir, sig, sig, sig);
    assert_int_equal(system(cmd), 0);
    if (strcmp(sig, "DSDT") != 0)
        return;
    snprintf(cmd, sizeof(cmd),
             "cd %s && iasl -p again DSDT.dsl >again.log 2>&1; "
             "grep -q '0 Errors, 0 Warnings' again.log", dir);
    assert_int_equal(system(cmd), 0);
}

static void check_acpi(struct fx *f)
{
    uint8_t rsdp[36];
    uint32_t bytes, n;
    char dir[] = "/tmp/vmcore-acpi-XXXXXX", cmd[64];

    assert_int_equal(vmc_mem_read(vmc_vm_mem(f->vm), 0xe0000, rsdp, 36), VMC_OK);
    assert_memory_equal(rsdp, "RSD PTR ", 8);
    assert_int_equal(sum(rsdp, 20), 0);
    assert_int_equal(sum(rsdp, 36), 0);
    uint8_t *rsdt = table_at(f, vmci_ld_le32(rsdp + 16), &n);
    uint8_t *xsdt = table_at(f, vmci_ld_le64(rsdp + 24), &bytes);
    assert_memory_equal(rsdt, "RSDT", 4);
    assert_memory_equal(xsdt, "XSDT", 4);
    assert_int_equal((bytes - 36) / 8, (n - 36) / 4);
    n = (bytes - 36) / 8;
    bool have_iasl = system("command -v iasl >/dev/null 2>&1") == 0;
    if (have_iasl)
        assert_non_null(mkdtemp(dir));
    unsigned fadt = 0, madt = 0, mcfg = 0;
    for (unsigned i = 0; i < n; i++) {
        uint64_t at = vmci_ld_le64(xsdt + 36 + 8 * i);
        assert_int_equal(at, vmci_ld_le32(rsdt + 36 + 4 * i));
        uint8_t *t = table_at(f, at, &bytes);
        char sig[5] = {0};
        memcpy(sig, t, 4);
        fadt += memcmp(t, "FACP", 4) == 0;
        madt += memcmp(t, "APIC", 4) == 0;
        mcfg += memcmp(t, "MCFG", 4) == 0 && vmci_ld_le64(t + 44) == 0xb0000000;
        if (have_iasl)
            iasl_check(dir, sig, t, bytes);
        if (memcmp(t, "FACP", 4) == 0) {
            assert_int_equal(vmci_ld_le32(t + 40), vmci_ld_le64(t + 140));
            assert_int_equal(vmci_ld_le32(t + 36) % 64, 0);
            uint8_t *d = table_at(f, vmci_ld_le64(t + 140), &bytes);
            assert_memory_equal(d, "DSDT", 4);
            if (have_iasl)
                iasl_check(dir, "DSDT", d, bytes);
            free(d);
            d = table_at(f, vmci_ld_le32(t + 36), &bytes);
            assert_memory_equal(d, "FACS", 4);
            free(d);
        }
        free(t);
    }
    assert_int_equal(fadt, 1);
    assert_int_equal(madt, 1);
    assert_int_equal(mcfg, 1);
    free(rsdt);
    free(xsdt);
    if (have_iasl) {
        snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
        assert_int_equal(system(cmd), 0);
    } else if (getenv("VMC_TEST_REQUIRE") != NULL && strstr(getenv("VMC_TEST_REQUIRE"), "iasl")) {
        fail_msg("iasl (package acpica-tools) is required");
    } else {
        print_message("iasl is not installed: AML was not checked by it\n");
    }
}

/* ---- MP table ------------------------------------------------------------------------------ */

/* As a guest without ACPI finds it: by its signature, with sums and lengths that hold. */
static void check_mp(struct fx *f, unsigned cpus)
{
    static const uint8_t bytes_of[] = {20, 8, 8, 8, 8};
    unsigned count[5] = {0}, isa = 0, pci = 0;
    uint8_t *bios = malloc(0x10000), *p = bios;

    assert_int_equal(vmc_mem_read(vmc_vm_mem(f->vm), 0xf0000, bios, 0x10000), VMC_OK);
    while (p < bios + 0x10000 - 16 && memcmp(p, "_MP_", 4) != 0)
        p += 16;
    assert_memory_equal(p, "_MP_", 4);
    assert_int_equal(sum(p, p[8] * 16u), 0);
    assert_in_range(vmci_ld_le32(p + 4), 0xf0000, 0x100000 - 44);
    assert_int_equal(p[11], 0);
    const uint8_t *t = bios + (vmci_ld_le32(p + 4) - 0xf0000);
    assert_memory_equal(t, "PCMP", 4);
    unsigned bytes = vmci_ld_le16(t + 4), at = 44;
    assert_in_range(bytes, 44, bios + 0x10000 - t);
    assert_int_equal(sum(t, bytes), 0);
    assert_int_equal(vmci_ld_le32(t + 36), 0xfee00000);
    for (unsigned i = 0; i < vmci_ld_le16(t + 34); i++) {
        const uint8_t *e = t + at;
        assert_in_range(e[0], 0, 4);
        if (e[0] == 0) {
            assert_int_equal(e[1], count[0]);
            assert_int_equal(e[3], count[0] == 0 ? 3 : 1);
        }
        if (e[0] == 3 && e[4] == 1) /* the timer is at input 2 */
            isa += e[7] == (e[5] == 0 ? 2 : e[5]);
        if (e[0] == 3 && e[4] == 0) /* as _PRT has it */
            pci += e[7] == 20 + ((e[5] >> 2) + (e[5] & 3)) % 4;
        count[e[0]]++;
        at += bytes_of[e[0]];
    }
    assert_int_equal(at, bytes);
    assert_int_equal(count[0], cpus);
    assert_int_equal(count[1], 2);
    assert_int_equal(count[2], 1);
    assert_int_equal(count[4], 2);
    assert_int_equal(isa, 15);
    assert_int_equal(count[3], isa + pci);
    free(bios);
}

static void acpi_small(void **state)
{
    machine(*state, 64 * MIB, 1, 0);
    boot_flat(*state);
    check_acpi(*state);
    check_mp(*state, 1);
}

static void acpi_many_cpus(void **state)
{
    machine(*state, 4096 * MIB, 300, VMC_PC_NO_HPET);
    boot_flat(*state);
    check_acpi(*state);
    check_mp(*state, 255); /* those with an 8-bit ID */
}

/* ---- fw_cfg -------------------------------------------------------------------------------- */

static void fw_read(struct fx *f, uint16_t key, void *dst, unsigned n)
{
    pio_write(f, 0x510, 2, key);
    for (unsigned i = 0; i < n; i++)
        ((uint8_t *)dst)[i] = (uint8_t)pio_read(f, 0x511, 1);
}

static uint16_t fw_file(struct fx *f, const char *name, uint32_t *bytes)
{
    uint8_t count[4], e[64];

    fw_read(f, 0x19, count, 4);
    unsigned n = __builtin_bswap32(vmci_ld_le32(count));
    for (unsigned i = 0; i < n; i++) {
        for (unsigned j = 0; j < 64; j++)
            e[j] = (uint8_t)pio_read(f, 0x511, 1);
        if (strcmp((char *)e + 8, name) == 0) {
            *bytes = __builtin_bswap32(vmci_ld_le32(e));
            return __builtin_bswap16(vmci_ld_le16(e + 4));
        }
    }
    fail_msg("no file %s", name);
    return 0;
}

static void fw_cfg_items(void **state)
{
    struct fx *f = *state;
    const struct vmc_fw_cfg_item own = {.data = "own", .bytes = 3};
    uint8_t b[64];
    uint32_t n;

    machine(f, 4096 * MIB, 3, 0);
    assert_int_equal(vmc_fw_cfg_add_file(vmc_pc_fw_cfg(f->pc), "opt/ours", &own), VMC_OK);
    boot_flat(f);
    fw_read(f, fw_file(f, "opt/ours", &n), b, 3);
    assert_int_equal(n, 3);
    assert_memory_equal(b, "own", 3);
    fw_read(f, 0, b, 4);
    assert_memory_equal(b, "QEMU", 4);
    fw_read(f, 1, b, 4);
    assert_int_equal(vmci_ld_le32(b), 3);
    fw_read(f, 3, b, 8);
    assert_int_equal(vmci_ld_le64(b), 4096 * MIB);
    fw_read(f, 5, b, 2);
    assert_int_equal(vmci_ld_le16(b), 3);
    fw_read(f, 0x0f, b, 2);
    assert_int_equal(vmci_ld_le16(b), 3);
    fw_read(f, 0x8002, b, 4);
    assert_int_equal(vmci_ld_le32(b), 1);
    fw_read(f, 0x7fff, b, 4);
    assert_int_equal(vmci_ld_le32(b), 0);
    uint16_t key = fw_file(f, "etc/e820", &n);
    assert_int_equal(n, 40);
    fw_read(f, key, b, 40);
    assert_int_equal(vmci_ld_le64(b + 8), 2048 * MIB);
    assert_int_equal(vmci_ld_le64(b + 20), 4096 * MIB);
    assert_int_equal(vmci_ld_le64(b + 28), 2048 * MIB);
    key = fw_file(f, "bootorder", &n);
    fw_read(f, key, b, n);
    assert_string_equal((char *)b, "/pci@i0cf8/scsi@4/disk@0,0");
    key = fw_file(f, "etc/acpi/rsdp", &n);
    fw_read(f, key, b, n);
    assert_memory_equal(b, "RSD PTR ", 8);
}

/* Do what firmware does with the linker/loader script, and find the same tables. */
static void table_loader_script(void **state)
{
    struct fx *f = *state;
    static uint8_t tables[131072], rsdp[64], cmd[128];
    const uint64_t base = 0x123000;
    uint32_t bytes, rsdp_bytes, script;

    machine(f, 64 * MIB, 2, 0);
    boot_flat(f);
    uint16_t key = fw_file(f, "etc/acpi/tables", &bytes);
    assert_in_range(bytes, 1000, sizeof(tables));
    fw_read(f, key, tables, bytes);
    fw_read(f, fw_file(f, "etc/acpi/rsdp", &rsdp_bytes), rsdp, 36);
    key = fw_file(f, "etc/table-loader", &script);
    assert_int_equal(script % 128, 0);
    pio_write(f, 0x510, 2, key);
    for (unsigned i = 0; i < script / 128; i++) {
        for (unsigned j = 0; j < 128; j++)
            cmd[j] = (uint8_t)pio_read(f, 0x511, 1);
        bool on_rsdp = strcmp((char *)cmd + 4, "etc/acpi/rsdp") == 0;
        uint8_t *file = on_rsdp ? rsdp : tables;
        uint32_t limit = on_rsdp ? rsdp_bytes : bytes;
        if (!on_rsdp)
            assert_string_equal((char *)cmd + 4, "etc/acpi/tables");
        if (vmci_ld_le32(cmd) == 2) {
            assert_string_equal((char *)cmd + 60, "etc/acpi/tables");
            uint32_t at = vmci_ld_le32(cmd + 116);
            assert_true(at + cmd[120] <= limit);
            uint64_t v = cmd[120] == 8 ? vmci_ld_le64(file + at) : vmci_ld_le32(file + at);
            assert_true(v < bytes);
            v += base;
            memcpy(file + at, &v, cmd[120]);
        } else if (vmci_ld_le32(cmd) == 3) {
            uint32_t at = vmci_ld_le32(cmd + 60), start = vmci_ld_le32(cmd + 64);
            uint32_t n = vmci_ld_le32(cmd + 68);
            assert_true(start + n <= limit && at < limit);
            file[at] = (uint8_t)(file[at] - sum(file + start, n));
        } else {
            assert_int_equal(vmci_ld_le32(cmd), 1);
        }
    }
    assert_int_equal(vmc_mem_load(vmc_vm_mem(f->vm), base, tables, bytes), VMC_OK);
    assert_int_equal(vmc_mem_load(vmc_vm_mem(f->vm), 0xe0000, rsdp, 36), VMC_OK);
    check_acpi(f);
}

static void fw_cfg_dma(void **state)
{
    struct fx *f = *state;
    uint8_t d[16], out[16];
    struct vmc_mem *mem;

    machine(f, 64 * MIB, 1, 0);
    boot_flat(f);
    mem = vmc_vm_mem(f->vm);
    assert_int_equal(pio_read(f, 0x514, 4), 0x554d4551); /* "QEMU" */
    assert_int_equal(pio_read(f, 0x518, 4), 0x47464320);
    vmci_st_le32(d, __builtin_bswap32(0u << 16 | 8 | 2)); /* select the signature, read */
    vmci_st_le32(d + 4, __builtin_bswap32(8));
    vmci_st_le64(d + 8, __builtin_bswap64(0x300000));
    memset(out, 0xaa, sizeof(out));
    assert_int_equal(vmc_mem_write(mem, 0x300000, out, 16), VMC_OK);
    assert_int_equal(vmc_mem_write(mem, 0x301000, d, 16), VMC_OK);
    pio_write(f, 0x514, 4, 0);
    pio_write(f, 0x518, 4, __builtin_bswap32(0x301000));
    assert_int_equal(vmc_mem_read(mem, 0x300000, out, 16), VMC_OK);
    assert_memory_equal(out, "QEMU\0\0\0\0\xaa", 9); /* zeros past the end */
    assert_int_equal(vmc_mem_read(mem, 0x301000, d, 4), VMC_OK);
    assert_int_equal(vmci_ld_le32(d), 0);

    vmci_st_le32(d, __builtin_bswap32(8 | 2));
    vmci_st_le64(d + 8, __builtin_bswap64(0xfee00000)); /* not RAM */
    assert_int_equal(vmc_mem_write(mem, 0x301000, d, 16), VMC_OK);
    pio_write(f, 0x518, 4, __builtin_bswap32(0x301000));
    assert_int_equal(vmc_mem_read(mem, 0x301000, d, 4), VMC_OK);
    assert_int_equal(vmci_ld_le32(d), __builtin_bswap32(1));

    vmci_st_le32(d, __builtin_bswap32(8 | 16)); /* writing is not possible */
    vmci_st_le64(d + 8, __builtin_bswap64(0x300000));
    assert_int_equal(vmc_mem_write(mem, 0x301000, d, 16), VMC_OK);
    pio_write(f, 0x514, 8, __builtin_bswap64(0x301000));
    assert_int_equal(vmc_mem_read(mem, 0x301000, d, 4), VMC_OK);
    assert_int_equal(vmci_ld_le32(d), __builtin_bswap32(1));
    pio_write(f, 0x518, 4, 0xffffffff); /* a descriptor nowhere */
}

/* Have a descriptor at desc executed. Returns what is left in it. */
static uint32_t fw_dma_control(struct fx *f, uint64_t desc, uint32_t control, uint32_t bytes,
                               uint64_t gpa)
{
    struct vmc_mem *mem = vmc_vm_mem(f->vm);
    uint8_t d[16];

    vmci_st_le32(d, __builtin_bswap32(control));
    vmci_st_le32(d + 4, __builtin_bswap32(bytes));
    vmci_st_le64(d + 8, __builtin_bswap64(gpa));
    assert_int_equal(vmc_mem_write(mem, desc, d, 16), VMC_OK);
    pio_write(f, 0x514, 8, __builtin_bswap64(desc));
    assert_int_equal(vmc_mem_read(mem, desc, d, 4), VMC_OK);
    return __builtin_bswap32(vmci_ld_le32(d));
}

/* Select the item and read it to gpa. */
static uint32_t fw_dma(struct fx *f, uint64_t desc, uint16_t key, uint32_t bytes, uint64_t gpa)
{
    return fw_dma_control(f, desc, (uint32_t)key << 16 | 8 | 2, bytes, gpa);
}

static void fw_cfg_zeros_are_bounded(void **state)
{
    struct fx *f = *state;
    static uint8_t b[MIB + 5];

    machine(f, 64 * MIB, 1, 0);
    boot_flat(f);
    struct vmc_mem *mem = vmc_vm_mem(f->vm);
    memset(b, 'x', sizeof(b));
    assert_int_equal(vmc_mem_write(mem, 0x400000, b, sizeof(b)), VMC_OK);
    assert_int_equal(fw_dma(f, 0x301000, 0, 4 + MIB + 1, 0x400000), 1);
    assert_int_equal(vmc_mem_read(mem, 0x400000, b, 1), VMC_OK);
    assert_int_equal(b[0], 'x'); /* nothing of it is done */
    assert_int_equal(fw_dma(f, 0x301000, 0, UINT32_MAX, 0x400000), 1);
    assert_int_equal(fw_dma(f, 0x301000, 0, 4 + MIB, 0x400000), 0);
    assert_int_equal(vmc_mem_read(mem, 0x400000, b, sizeof(b)), VMC_OK);
    for (size_t i = 4; i < 4 + MIB; i++)
        if (b[i] != 0)
            fail_msg("byte %zu is %u", i, b[i]);
    assert_int_equal(b[4 + MIB], 'x');
}

/* An item whose selection and contents use the device themselves, as another vCPU may meanwhile. */
static unsigned nested_selects;

static void nested_select(void *ctx)
{
    if (nested_selects++ == 0)
        assert_int_equal(fw_dma(ctx, 0x302000, 0x8001, 0, 0x310000), 0);
}

static int nested_read(void *ctx, uint64_t offset, void *dst, size_t bytes)
{
    assert_int_equal(fw_dma(ctx, 0x303000, 0, 4, 0x311000), 0);
    for (size_t i = 0; i < bytes; i++)
        ((uint8_t *)dst)[i] = (uint8_t)((offset + i) * 7);
    return VMC_OK;
}

static void fw_cfg_items_may_use_fw_cfg(void **state)
{
    struct fx *f = *state;
    const struct vmc_fw_cfg_item item = {
        .read = nested_read, .select = nested_select, .ctx = f, .bytes = 3000};
    uint8_t out[3001];

    machine(f, 64 * MIB, 1, 0);
    assert_int_equal(vmc_fw_cfg_set(vmc_pc_fw_cfg(f->pc), 0x8001, &item), VMC_OK);
    boot_flat(f);
    struct vmc_mem *mem = vmc_vm_mem(f->vm);
    nested_selects = 0;
    assert_int_equal(fw_dma(f, 0x301000, 0x8001, sizeof(out), 0x320000), 0);
    assert_int_equal(nested_selects, 2);
    assert_int_equal(vmc_mem_read(mem, 0x320000, out, sizeof(out)), VMC_OK);
    for (unsigned i = 0; i < 3000; i++)
        assert_int_equal(out[i], (uint8_t)(i * 7));
    assert_int_equal(out[3000], 0);
    assert_int_equal(vmc_mem_read(mem, 0x311000, out, 4), VMC_OK);
    assert_memory_equal(out, "QEMU", 4);
}

/* Contents that selection makes, until then others. */
static void made_select(void *ctx)
{
    memset(ctx, 0x33, 64);
}

/* State that was saved in the middle of an item goes on in a machine where nobody has selected it. */
static void fw_cfg_goes_on_in_the_middle_of_an_item(void **state)
{
    struct fx *f = *state;
    static uint8_t made[64], saved[256];
    const struct vmc_fw_cfg_item item = {
        .data = made, .select = made_select, .ctx = made, .bytes = sizeof(made)};
    struct vmc_error err;
    uint8_t out[4];

    machine(f, 64 * MIB, 1, 0);
    assert_int_equal(vmc_fw_cfg_set(vmc_pc_fw_cfg(f->pc), 0x8001, &item), VMC_OK);
    boot_flat(f);
    struct vmc_device *d = vmc_vm_board(f->vm)->devices;
    while (strcmp(d->ops->name, "fw-cfg") != 0)
        d = d->next;
    pio_write(f, 0x510, 2, 0x8001);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(pio_read(f, 0x511, 1), 0x33);
    size_t n = d->ops->save(d->dev, saved, sizeof(saved));
    assert_in_range(n, 1, sizeof(saved));
    for (unsigned dma = 0; dma < 2; dma++) {
        d->ops->reset(d->dev);
        memset(made, 0x11, sizeof(made)); /* as in another machine */
        /* What is not a state changes nothing. */
        assert_int_equal(d->ops->load(d->dev, saved, n - 1, &err), VMC_EFORMAT);
        assert_int_equal(pio_read(f, 0x511, 1), 'Q');
        assert_int_equal(d->ops->load(d->dev, saved, n, &err), VMC_OK);
        if (dma == 0)
            assert_int_equal(pio_read(f, 0x511, 1), 0x33);
        if (dma != 0) {
            assert_int_equal(fw_dma_control(f, 0x301000, 2, 4, 0x320000), 0);
            assert_int_equal(vmc_mem_read(vmc_vm_mem(f->vm), 0x320000, out, 4), VMC_OK);
            assert_memory_equal(out, "\x33\x33\x33\x33", 4);
        }
        for (unsigned i = dma == 0 ? 11 : 14; i < 64; i++)
            assert_int_equal(pio_read(f, 0x511, 1), 0x33);
        assert_int_equal(pio_read(f, 0x511, 1), 0);
    }
}

/* ---- layout, life cycle -------------------------------------------------------------------- */

static void memory_layout(void **state)
{
    struct fx *f = *state;
    struct vmc_mem_slot s;

    machine(f, 3072 * MIB, 1, 0);
    assert_int_equal(vmc_mem_slot_at(vmc_vm_mem(f->vm), 0, &s), VMC_OK);
    assert_int_equal(s.bytes, 0xa0000);
    assert_int_equal(vmc_mem_slot_at(vmc_vm_mem(f->vm), 1, &s), VMC_OK);
    assert_int_equal(s.gpa + s.bytes, 0x80000000);
    assert_int_equal(vmc_mem_slot_at(vmc_vm_mem(f->vm), 2, &s), VMC_OK);
    assert_int_equal(s.gpa, 0x100000000);
    assert_int_equal(s.bytes, 1024 * MIB);
    pio_write(f, 0x70, 1, 0x35);
    assert_int_equal(pio_read(f, 0x71, 1), 0x7f);
    pio_write(f, 0x70, 1, 0x5c);
    assert_int_equal(pio_read(f, 0x71, 1), 0x40);
}

static void start_state_and_mtrrs(void **state)
{
    struct fx *f = *state;
    struct vmc_x86_state *st = calloc(1, sizeof(*st));

    machine(f, 64 * MIB, 2, 0);
    boot_flat(f);
    assert_int_equal(vmc_vcpu_get_state(vmc_vm_vcpu(f->vm, 0), VMC_ST_ALL, st), VMC_OK);
    assert_int_equal(st->lapic[0xf1], 1); /* enabled; LINT0 ExtINT, LINT1 NMI */
    assert_int_equal(st->lapic[0x351], 7);
    assert_int_equal(st->lapic[0x361], 4);
    assert_int_equal(st->rip, 0x200000);
    assert_int_equal(st->cr0, VMC_CR0_PE | VMC_CR0_ET);
    assert_int_equal(st->seg[VMC_CS].selector, 8);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(vmc_vcpu_get_state(vmc_vm_vcpu(f->vm, i), VMC_ST_MSR, st), VMC_OK);
        assert_int_equal(st->msr.mtrr_def_type, 0xc06);
    }
    free(st);
}

static void exit_port_power_off_reset(void **state)
{
    struct fx *f = *state;
    uint32_t why = 0;
    uint64_t detail = 0;

    machine(f, 64 * MIB, 1, 0);
    boot_flat(f);
    assert_false(vmc_vm_stopped(f->vm, &why, &detail));
    assert_int_equal(pio_read(f, 0x21, 1), 0xfa);
    assert_int_equal(pio_read(f, 0xa1, 1), 0xff);
    assert_int_equal(pio_read(f, 0x4d1, 1), 0x0e); /* level-triggered: SCI and PCI */
    pio_write(f, 0x80, 1, 0x5a);
    assert_int_equal(vmc_pc_post_code(f->pc), 0x5a);
    pio_write(f, 0xf4, 4, 0x12345);
    assert_true(vmc_vm_stopped(f->vm, &why, &detail));
    assert_int_equal(why, VMC_STOP_EXIT_PORT);
    assert_int_equal(detail, 0x12345);
    assert_int_equal(vmc_vm_reset(f->vm), VMC_OK);
    assert_false(vmc_vm_stopped(f->vm, &why, &detail));
    boot_flat(f);
    pio_write(f, 0x604, 2, 0x2000); /* S5 */
    assert_true(vmc_vm_stopped(f->vm, &why, &detail));
    assert_int_equal(why, VMC_STOP_POWER_OFF);
    assert_int_equal(vmc_vm_reset(f->vm), VMC_OK);
    pio_write(f, 0xcf9, 1, 0x0e);
    assert_true(vmc_vm_stopped(f->vm, &why, &detail));
    assert_int_equal(why, VMC_STOP_RESET);
}

static void firmware_is_mapped_twice(void **state)
{
    struct fx *f = *state;
    size_t n = 256 * 1024;
    uint8_t *rom = malloc(n), b[16];
    struct vmc_image_src src;
    struct vmc_pc_boot boot = {.size = sizeof(boot), .firmware = &src};
    struct vmc_boot_result r;
    struct vmc_error err;
    struct vmc_x86_state *st = calloc(1, sizeof(*st));

    machine(f, 64 * MIB, 1, 0);
    for (size_t i = 0; i < n; i++)
        rom[i] = (uint8_t)(i * 7 + (i >> 12));
    vmc_image_src_memory(&src, rom, n);
    for (unsigned round = 0; round < 2; round++) { /* and again after a reset */
        assert_int_equal(vmc_pc_boot(f->pc, &boot, &r, &err), VMC_OK);
        assert_int_equal(r.kind, VMC_BOOT_FIRMWARE);
        assert_int_equal(vmc_mem_read(vmc_vm_mem(f->vm), 0xfffc0000, b, 16), VMC_OK);
        assert_memory_equal(b, rom, 16);
        assert_int_equal(vmc_mem_read(vmc_vm_mem(f->vm), 0xffff0, b, 16), VMC_OK);
        assert_memory_equal(b, rom + n - 16, 16);
        assert_int_equal(vmc_mem_read(vmc_vm_mem(f->vm), 0xe0000, b, 16), VMC_OK);
        assert_memory_equal(b, rom + n - 0x20000, 16);
        assert_int_equal(vmc_vcpu_get_state(vmc_vm_vcpu(f->vm, 0), VMC_ST_RIP | VMC_ST_SEG, st),
                         VMC_OK);
        assert_int_equal(st->seg[VMC_CS].base + st->rip, 0xfffffff0);
        assert_int_equal(vmc_vm_reset(f->vm), VMC_OK);
    }
    src.bytes = 1000;
    assert_int_equal(vmc_pc_boot(f->pc, &boot, &r, &err), VMC_EFORMAT);
    src.bytes = 32ull << 20;
    assert_int_equal(vmc_pc_boot(f->pc, &boot, &r, &err), VMC_EFORMAT);
    free(rom);
    free(st);
}

/* A kernel beside firmware is in fw_cfg for the boot that it was given to, and no longer. */
static void kernel_beside_firmware(void **state)
{
    struct fx *f = *state;
    static const uint16_t keys[] = {0x07, 0x08, 0x0a, 0x0b, 0x11, 0x12, 0x13,
                                    0x14, 0x15, 0x16, 0x17, 0x18};
    size_t n = 256 * 1024;
    uint8_t *rom = calloc(1, n), *kernel = calloc(1, 8192), b[16];
    struct vmc_image_src rom_src, kernel_src, initrd_src;
    struct vmc_boot_result r;
    struct vmc_error err;

    machine(f, 64 * MIB, 1, 0);
    kernel[0x1f1] = 1;
    vmci_st_le16(kernel + 0x1fe, 0xaa55);
    memcpy(kernel + 0x202, "HdrS\x0f\x02", 6);
    kernel[0x211] = 1;
    memset(kernel + 1024, 0x5c, 8192 - 1024);
    vmc_image_src_memory(&rom_src, rom, n);
    vmc_image_src_memory(&kernel_src, kernel, 8192);
    vmc_image_src_memory(&initrd_src, "a disk in memory", 16);
    struct vmc_pc_boot boot = {.size = sizeof(boot),
                               .firmware = &rom_src,
                               .kernel = &kernel_src,
                               .initrd = &initrd_src,
                               .cmdline = "quiet"};
    assert_int_equal(vmc_pc_boot(f->pc, &boot, &r, &err), VMC_OK);
    fw_read(f, 0x11, b, 4);
    assert_int_equal(vmci_ld_le32(b), 0x5c5c5c5c);
    fw_read(f, 0x12, b, 16);
    assert_memory_equal(b, "a disk in memory", 16);
    fw_read(f, 0x15, b, 6);
    assert_string_equal((char *)b, "quiet");
    fw_read(f, 0x0a, b, 4);
    assert_int_equal(vmci_ld_le32(b), 64 * MIB - 4096);
    assert_int_equal(vmc_vm_reset(f->vm), VMC_OK);
    boot.kernel = boot.initrd = NULL;
    assert_int_equal(vmc_pc_boot(f->pc, &boot, &r, &err), VMC_OK);
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        fw_read(f, keys[i], b, 8);
        assert_int_equal(vmci_ld_le64(b), 0);
    }
    boot.kernel = &kernel_src;
    boot.initrd = &initrd_src;
    kernel_src.bytes = 1 * MIB + 1024; /* 1 MiB behind its setup code: it ends at 2 MiB */
    initrd_src.bytes = 62 * MIB;
    assert_int_equal(vmc_pc_boot(f->pc, &boot, &r, &err), VMC_OK);
    fw_read(f, 0x0a, b, 4);
    assert_int_equal(vmci_ld_le32(b), 2 * MIB);
    static const uint64_t too_much[] = {62 * MIB + 1, 63 * MIB, 64 * MIB, UINT32_MAX};
    for (size_t i = 0; i < sizeof(too_much) / sizeof(too_much[0]); i++) {
        initrd_src.bytes = too_much[i];
        assert_int_equal(vmc_vm_reset(f->vm), VMC_OK);
        assert_int_equal(vmc_pc_boot(f->pc, &boot, &r, &err), VMC_ELIMIT);
        assert_non_null(strstr(err.text, "do not fit"));
    }
    boot.initrd = NULL; /* nor a kernel alone */
    kernel_src.bytes = 63 * MIB + 1025;
    assert_int_equal(vmc_vm_reset(f->vm), VMC_OK);
    assert_int_equal(vmc_pc_boot(f->pc, &boot, &r, &err), VMC_ELIMIT);
    free(rom);
    free(kernel);
}

static void create_checks(void **state)
{
    struct fx *f = *state;
    struct vmc_error err;
    struct vmc_pc *pc;
    struct vmc_pc_config c = {.size = sizeof(c), .ram_bytes = 64 * MIB, .cpus = 1};

    machine(f, 64 * MIB, 1, 0);
    c.ram_bytes = 4097;
    assert_int_equal(vmc_pc_create(f->vm, &c, &pc, &err), VMC_EINVAL);
    c.ram_bytes = 4096;
    assert_int_equal(vmc_pc_create(f->vm, &c, &pc, &err), VMC_EINVAL);
    c.ram_bytes = 1ull << 60;
    assert_int_equal(vmc_pc_create(f->vm, &c, &pc, &err), VMC_EINVAL);
    c.ram_bytes = 64 * MIB;
    c.cpus = 0;
    assert_int_equal(vmc_pc_create(f->vm, &c, &pc, &err), VMC_EINVAL);
    c.cpus = 5000;
    assert_int_equal(vmc_pc_create(f->vm, &c, &pc, &err), VMC_EINVAL);
    c.cpus = 1;
    assert_int_equal(vmc_pc_create(f->vm, &c, &pc, &err), VMC_EEXIST); /* there is one already */
    struct vmc_pc_boot b = {.size = sizeof(b)};
    struct vmc_boot_result r;
    assert_int_equal(vmc_pc_boot(f->pc, &b, &r, &err), VMC_EINVAL);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(acpi_small), T(acpi_many_cpus), T(fw_cfg_items), T(table_loader_script), T(fw_cfg_dma), T(fw_cfg_zeros_are_bounded), T(fw_cfg_items_may_use_fw_cfg),
        T(fw_cfg_goes_on_in_the_middle_of_an_item),
        T(memory_layout), T(start_state_and_mtrrs), T(exit_port_power_off_reset),
        T(firmware_is_mapped_twice), T(kernel_beside_firmware), T(create_checks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
