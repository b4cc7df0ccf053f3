/* SPDX-License-Identifier: BSD-2-Clause */
/* The PCI layer: configuration access, BARs, capabilities, MSI-X, pins. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <vmcore/pci.h>

#include "test_board.h"

#include <cmocka.h>

#define ECAM 0xb0000000ull
#define ECAM_BYTES (256ull << 20)

struct fx {
    struct test_board b;
    struct vmc_pci_bus *bus;
    struct vmc_pci_func *f;
    uint64_t last_offset, last_value;
    unsigned reads, writes, msix_changes, config_writes;
    uint64_t move_ecam_to;
};

static uint64_t reg_read(void *dev, uint64_t offset, unsigned bytes)
{
    struct fx *f = dev;

    (void)bytes;
    f->reads++;
    f->last_offset = offset;
    return 0x1122334455667788ull;
}

static void reg_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    struct fx *f = dev;

    (void)bytes;
    f->writes++;
    f->last_offset = offset;
    f->last_value = value;
}

static const struct vmc_bus_ops reg_ops = {.read = reg_read, .write = reg_write};

static void config_read(void *dev, uint16_t offset, unsigned bytes, uint32_t *value)
{
    (void)dev;
    (void)bytes;
    if (offset == 0xf0)
        *value = 0xabcd;
}

static void config_write(void *dev, uint16_t offset, unsigned bytes, uint32_t value)
{
    struct fx *f = dev;

    (void)offset;
    (void)bytes;
    (void)value;
    f->config_writes++;
    if (offset == 0xf4 && f->move_ecam_to != 0)
        assert_int_equal(vmc_pci_bus_set_ecam(f->bus, f->move_ecam_to, ECAM_BYTES, NULL), VMC_OK);
}

static void msix_changed(void *dev)
{
    ((struct fx *)dev)->msix_changes++;
}

static const struct vmc_pci_func_ops func_ops = {
    .config_read = config_read, .config_write = config_write, .msix_changed = msix_changed};

static struct vmc_pci_func *new_func(struct fx *f, unsigned slot, unsigned pin)
{
    struct vmc_pci_func_config cfg = {
        .size = sizeof(cfg), .slot = (uint8_t)slot, .int_pin = (uint8_t)pin,
        .vendor_id = 0x1af4, .device_id = 0x1042, .subsys_vendor_id = 0x1af4, .subsys_id = 0x1100,
        .class_code = 0x010000, .revision = 1, .ops = &func_ops, .dev = f};
    struct vmc_pci_func *func = NULL;

    assert_int_equal(vmc_pci_func_create(f->bus, &cfg, &func, NULL), VMC_OK);
    return func;
}

static int setup(void **state)
{
    struct fx *f = calloc(1, sizeof(*f));
    struct vmc_pci_bus_config cfg = {.size = sizeof(cfg)};

    test_board_init(&f->b, 0);
    for (unsigned i = 0; i < 4; i++)
        cfg.intx[i] = test_board_line(&f->b, 20 + i);
    cfg.reset_port = &reg_ops;
    cfg.reset_port_dev = f;
    assert_int_equal(vmc_pci_bus_create(&f->b.bd, &cfg, &f->bus, NULL), VMC_OK);
    assert_ptr_equal(vmc_pci_bus_board(f->bus), &f->b.bd);
    f->f = new_func(f, 3, 1);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fx *f = *state;

    vmc_pci_func_destroy(f->f);
    test_board_fini(&f->b);
    free(f);
    return 0;
}

static uint32_t cfg_in(struct fx *f, unsigned slot, unsigned reg, unsigned bytes)
{
    test_out(&f->b, 0xcf8, 4, 0x80000000u | slot << 11 | (reg & 0xfc));
    return test_in(&f->b, (uint16_t)(0xcfc + (reg & 3)), bytes);
}

static void cfg_out(struct fx *f, unsigned slot, unsigned reg, unsigned bytes, uint32_t v)
{
    test_out(&f->b, 0xcf8, 4, 0x80000000u | slot << 11 | (reg & 0xfc));
    test_out(&f->b, (uint16_t)(0xcfc + (reg & 3)), bytes, v);
}

/* ---- configuration ------------------------------------------------------------------------- */

static void header_fields(void **state)
{
    struct fx *f = *state;

    assert_int_equal(cfg_in(f, 3, 0, 4), 0x10421af4);
    assert_int_equal(cfg_in(f, 3, 8, 4), 0x01000001);
    assert_int_equal(cfg_in(f, 3, 0x2c, 4), 0x11001af4);
    assert_int_equal(cfg_in(f, 3, 0x3d, 1), 1);
    assert_int_equal(cfg_in(f, 3, 0xf0, 4), 0xabcd);
}

static void absent_function_floats(void **state)
{
    struct fx *f = *state;

    assert_int_equal(cfg_in(f, 4, 0, 4), 0xffffffff);
    assert_int_equal(cfg_in(f, 4, 0, 2), 0xffff);
    test_out(&f->b, 0xcf8, 4, 0x80010000u | 3 << 11); /* bus 1 */
    assert_int_equal(test_in(&f->b, 0xcfc, 4), 0xffffffff);
    test_out(&f->b, 0xcf8, 4, 3 << 11); /* not enabled */
    assert_int_equal(test_in(&f->b, 0xcfc, 4), 0xffffffff);
    cfg_out(f, 4, 4, 4, 0x1234);
}

static void mech1_access_widths(void **state)
{
    struct fx *f = *state;

    assert_int_equal(cfg_in(f, 3, 1, 1), 0x1a);
    assert_int_equal(cfg_in(f, 3, 2, 2), 0x1042);
    assert_int_equal(cfg_in(f, 3, 3, 1), 0x10);
    test_out(&f->b, 0xcf8, 4, 0xffffffff);
    assert_int_equal(test_in(&f->b, 0xcf8, 4), 0x80fffffc);
    test_out(&f->b, 0xcf8, 1, 0);
    assert_int_equal(test_in(&f->b, 0xcf8, 4), 0x80fffffc); /* bytes do not reach it */
    assert_int_equal(test_in(&f->b, 0xcf8, 1), 0xff);
    f->writes = f->reads = 0;
    test_out(&f->b, 0xcf9, 1, 6);
    assert_int_equal(f->writes, 1);
    assert_int_equal(f->last_value, 6);
    assert_int_equal(test_in(&f->b, 0xcf9, 1), 0x88);
}

static void readonly_bits_stay(void **state)
{
    struct fx *f = *state;

    for (unsigned r = 0; r < 256; r += 4)
        cfg_out(f, 3, r, 4, 0xffffffff);
    assert_int_equal(cfg_in(f, 3, 0, 4), 0x10421af4);
    assert_int_equal(cfg_in(f, 3, 8, 4), 0x01000001);
    assert_int_equal(cfg_in(f, 3, 4, 2), 0x0544); /* no BARs: no decode bits */
    assert_int_equal(cfg_in(f, 3, 0x3c, 1), 0xff);
    assert_int_equal(cfg_in(f, 3, 0x3d, 1), 1);
    assert_int_equal(cfg_in(f, 3, 0x10, 4), 0);
    assert_int_equal(cfg_in(f, 3, 0x30, 4), 0); /* no ROM */
}

static void ecam_reads_the_same(void **state)
{
    struct fx *f = *state;

    assert_int_equal(vmc_pci_bus_set_ecam(f->bus, ECAM, ECAM_BYTES, NULL), VMC_OK);
    uint64_t base = ECAM + (3ull << 15);
    assert_int_equal(test_mmio_read(&f->b, base, 4), 0x10421af4);
    assert_int_equal(test_mmio_read(&f->b, base + 2, 2), 0x1042);
    assert_int_equal(test_mmio_read(&f->b, base, 8), 0x10421af4);
    assert_int_equal(test_mmio_read(&f->b, base + 0x100, 4), 0);
    assert_int_equal(test_mmio_read(&f->b, ECAM + (4ull << 15), 4), 0xffffffff);
    assert_int_equal(test_mmio_read(&f->b, ECAM + (1ull << 20), 4), 0xffffffff);
    test_mmio_write(&f->b, base + 4, 2, 4);
    assert_true(vmc_pci_bus_master(f->f));
    test_mmio_write(&f->b, base + 0xffc, 8, ~0ull);
    assert_int_equal(vmc_pci_bus_set_ecam(f->bus, 0xe0000000, ECAM_BYTES, NULL), VMC_OK);
    assert_int_equal(test_mmio_read(&f->b, base, 4), 0xffffffff);
    assert_int_equal(test_mmio_read(&f->b, 0xe0000000 + (3ull << 15), 4), 0x10421af4);
    assert_int_equal(vmc_pci_bus_set_ecam(f->bus, 0x1000, ECAM_BYTES, NULL), VMC_EINVAL);
    assert_int_equal(vmc_pci_bus_set_ecam(f->bus, 0, 4096, NULL), VMC_EINVAL);
    assert_int_equal(vmc_pci_bus_set_ecam(f->bus, 0, 0, NULL), VMC_OK);
    assert_int_equal(test_mmio_read(&f->b, 0xe0000000, 4), 0xffffffff);
}

static void ecam_moves_itself(void **state)
{
    struct fx *f = *state;
    uint64_t base = 0, bytes = 0;

    assert_int_equal(vmc_pci_bus_set_ecam(f->bus, ECAM, ECAM_BYTES, NULL), VMC_OK);
    f->move_ecam_to = 0xc0000000;
    test_mmio_write(&f->b, ECAM + (3ull << 15) + 0xf4, 4, 1);
    vmc_pci_bus_ecam(f->bus, &base, &bytes);
    assert_int_equal(base, ECAM); /* not from inside its own handler */
    test_board_run(&f->b, 1);
    vmc_pci_bus_ecam(f->bus, &base, &bytes);
    assert_int_equal(base, 0xc0000000);
    assert_int_equal(bytes, ECAM_BYTES);
}

/* ---- BARs ---------------------------------------------------------------------------------- */

static void bar_sizing_and_decode(void **state)
{
    struct fx *f = *state;
    uint64_t base;

    assert_int_equal(vmc_pci_add_bar(f->f, 0, VMC_PCI_BAR_MEM32, 0x4000, &reg_ops, f, NULL), VMC_OK);
    assert_int_equal(vmc_pci_add_bar(f->f, 1, VMC_PCI_BAR_IO, 64, &reg_ops, f, NULL), VMC_OK);
    assert_int_equal(vmc_pci_add_bar(f->f, 4, VMC_PCI_BAR_MEM64 | VMC_PCI_BAR_PREFETCH, 0x4000,
                                     &reg_ops, f, NULL), VMC_OK);
    for (unsigned r = 0x10; r < 0x28; r += 4)
        cfg_out(f, 3, r, 4, 0xffffffff);
    assert_int_equal(cfg_in(f, 3, 0x10, 4), 0xffffc000);
    assert_int_equal(cfg_in(f, 3, 0x14, 4), 0xffffffc1);
    assert_int_equal(cfg_in(f, 3, 0x18, 4), 0);
    assert_int_equal(cfg_in(f, 3, 0x20, 4), 0xffffc00c);
    assert_int_equal(cfg_in(f, 3, 0x24, 4), 0xffffffff);
    cfg_out(f, 3, 0x10, 4, 0xfe000000);
    cfg_out(f, 3, 0x14, 4, 0xc000);
    cfg_out(f, 3, 0x20, 4, 0);
    cfg_out(f, 3, 0x24, 4, 8);
    assert_false(vmc_pci_bar_address(f->f, 0, &base));
    assert_int_equal(test_mmio_read(&f->b, 0xfe000000, 4), 0xffffffff);
    cfg_out(f, 3, 4, 2, 7);
    assert_true(vmc_pci_bar_address(f->f, 0, &base));
    assert_int_equal(base, 0xfe000000);
    assert_int_equal(test_mmio_read(&f->b, 0xfe000010, 4), 0x55667788);
    assert_int_equal(f->last_offset, 0x10);
    test_out(&f->b, 0xc004, 2, 77);
    assert_int_equal(f->last_offset, 4);
    assert_int_equal(f->last_value, 77);
    test_mmio_write(&f->b, 0x800000008ull, 8, 99);
    assert_int_equal(f->last_value, 99);
    cfg_out(f, 3, 0x10, 4, 0xfd000000); /* moves while it is on */
    assert_int_equal(test_mmio_read(&f->b, 0xfe000010, 4), 0xffffffff);
    assert_int_equal(test_mmio_read(&f->b, 0xfd000010, 4), 0x55667788);
    cfg_out(f, 3, 4, 2, 0);
    assert_int_equal(test_mmio_read(&f->b, 0xfd000010, 4), 0xffffffff);
}

static void bar_bad_address_unmapped(void **state)
{
    struct fx *f = *state;
    uint64_t base;

    assert_int_equal(vmc_pci_add_bar(f->f, 0, VMC_PCI_BAR_MEM64, 0x100000, &reg_ops, f, NULL),
                     VMC_OK);
    assert_int_equal(vmc_pci_add_bar(f->f, 2, VMC_PCI_BAR_IO, 256, &reg_ops, f, NULL), VMC_OK);
    cfg_out(f, 3, 4, 2, 3);
    assert_false(vmc_pci_bar_address(f->f, 0, &base)); /* 0 is no address */
    cfg_out(f, 3, 0x14, 4, 0xffffffff);
    cfg_out(f, 3, 0x10, 4, 0xffffffff);
    assert_false(vmc_pci_bar_address(f->f, 0, &base));
    cfg_out(f, 3, 0x18, 4, 0xffffff01); /* beyond 64 KiB */
    assert_false(vmc_pci_bar_address(f->f, 2, &base));
}

static void bar_overlap_is_refused(void **state)
{
    struct fx *f = *state;
    struct vmc_pci_func *g = new_func(f, VMC_PCI_ANY_SLOT, 0);
    uint64_t base;

    assert_int_equal(vmc_pci_func_devfn(g), VMC_PCI_DEVFN(1, 0));
    assert_int_equal(vmc_pci_add_bar(f->f, 0, VMC_PCI_BAR_MEM32, 4096, &reg_ops, f, NULL), VMC_OK);
    assert_int_equal(vmc_pci_add_bar(g, 0, VMC_PCI_BAR_MEM32, 4096, &reg_ops, f, NULL), VMC_OK);
    cfg_out(f, 3, 0x10, 4, 0xfe000000);
    cfg_out(f, 3, 4, 2, 2);
    cfg_out(f, 1, 0x10, 4, 0xfe000000);
    cfg_out(f, 1, 4, 2, 2);
    assert_true(vmc_pci_bar_address(f->f, 0, &base));
    assert_false(vmc_pci_bar_address(g, 0, &base));
    vmc_pci_func_destroy(g);
}

static void bar_bad_arguments(void **state)
{
    struct fx *f = *state;
    struct vmc_error err;

    assert_int_equal(vmc_pci_add_bar(f->f, 0, 0, 100, &reg_ops, f, &err), VMC_EINVAL);
    assert_int_equal(vmc_pci_add_bar(f->f, 0, 0, 8, &reg_ops, f, &err), VMC_EINVAL);
    assert_int_equal(vmc_pci_add_bar(f->f, 0, VMC_PCI_BAR_IO, 512, &reg_ops, f, &err), VMC_EINVAL);
    assert_int_equal(vmc_pci_add_bar(f->f, 5, VMC_PCI_BAR_MEM64, 64, &reg_ops, f, &err), VMC_EINVAL);
    assert_int_equal(vmc_pci_add_bar(f->f, 6, 0, 64, &reg_ops, f, &err), VMC_EINVAL);
    assert_int_equal(vmc_pci_add_bar(f->f, 2, VMC_PCI_BAR_MEM64, 64, &reg_ops, f, &err), VMC_OK);
    assert_int_equal(vmc_pci_add_bar(f->f, 3, 0, 64, &reg_ops, f, &err), VMC_EEXIST);
    assert_int_equal(vmc_pci_add_bar(f->f, 1, VMC_PCI_BAR_MEM64, 64, &reg_ops, f, &err), VMC_EEXIST);
}

static void capabilities_chain(void **state)
{
    struct fx *f = *state;
    const uint8_t body[6] = {1, 2, 3, 4, 5, 6}, mask[6] = {0, 0xff};
    uint8_t a = 0, b = 0;
    struct vmc_error err;

    assert_int_equal(vmc_pci_add_cap(f->f, 9, body, mask, 6, &a, NULL), VMC_OK);
    assert_int_equal(vmc_pci_add_cap(f->f, 9, body, NULL, 6, &b, NULL), VMC_OK);
    assert_int_equal(cfg_in(f, 3, 0x34, 1), a);
    assert_int_equal(cfg_in(f, 3, a, 2), b << 8 | 9);
    assert_int_equal(cfg_in(f, 3, b, 2), 9);
    assert_int_equal(cfg_in(f, 3, 6, 2) & 0x10, 0x10);
    cfg_out(f, 3, a + 2u, 2, 0xffff);
    assert_int_equal(cfg_in(f, 3, a + 2u, 2), 0xff01);
    cfg_out(f, 3, b + 2u, 2, 0xffff);
    assert_int_equal(cfg_in(f, 3, b + 2u, 2), 0x0201);
    int rc = VMC_OK;
    for (unsigned i = 0; i < 100 && rc == VMC_OK; i++)
        rc = vmc_pci_add_cap(f->f, 9, body, NULL, 6, &b, &err);
    assert_int_equal(rc, VMC_ELIMIT);
    vmc_pci_put_config(f->f, a + 2u, 1, 0x77);
    assert_int_equal(vmc_pci_get_config(f->f, a + 2u, 1), 0x77);
    vmc_pci_func_reset(f->f);
    assert_int_equal(cfg_in(f, 3, a + 2u, 2), 0x0201);
    assert_int_equal(vmc_pci_set_config(f->f, 255, body, NULL, 6, &err), VMC_ERANGE);
}

/* ---- interrupts ---------------------------------------------------------------------------- */

#define BAR 0xfe000000ull

static void with_msix(struct fx *f, unsigned vectors)
{
    assert_int_equal(vmc_pci_add_bar(f->f, 0, 0, 0x4000, &reg_ops, f, NULL), VMC_OK);
    assert_int_equal(vmc_pci_add_msix(f->f, vectors, 0, 0x2000, 0x3000, NULL), VMC_OK);
    cfg_out(f, 3, 0x10, 4, (uint32_t)BAR);
    cfg_out(f, 3, 4, 2, 6);
}

static void msix_entry(struct fx *f, unsigned v, uint64_t addr, uint32_t data, uint32_t ctrl)
{
    uint64_t e = BAR + 0x2000 + v * 16;

    test_mmio_write(&f->b, e, 4, addr & 0xffffffff);
    test_mmio_write(&f->b, e + 4, 4, addr >> 32);
    test_mmio_write(&f->b, e + 8, 4, data);
    test_mmio_write(&f->b, e + 12, 4, ctrl);
}

static void msix_delivers(void **state)
{
    struct fx *f = *state;
    uint64_t addr;
    uint32_t data;

    with_msix(f, 3);
    assert_int_equal(cfg_in(f, 3, 0x40, 4) & 0xffff00ff, 0x00020011);
    assert_int_equal(cfg_in(f, 3, 0x44, 4), 0x2000);
    assert_int_equal(cfg_in(f, 3, 0x48, 4), 0x3000);
    msix_entry(f, 1, 0xfee01000, 0x41, 0);
    vmc_pci_msix_raise(f->f, 1);
    assert_int_equal(f->b.msis, 0); /* not enabled */
    cfg_out(f, 3, 0x42, 2, 0x8000);
    assert_true(vmc_pci_msix_enabled(f->f));
    vmc_pci_msix_raise(f->f, 1);
    assert_int_equal(f->b.msis, 1);
    assert_int_equal(f->b.msi[0].addr, 0xfee01000);
    assert_int_equal(f->b.msi[0].data, 0x41);
    assert_true(vmc_pci_msix_message(f->f, 1, &addr, &data));
    assert_int_equal(data, 0x41);
    assert_false(vmc_pci_msix_message(f->f, 0, &addr, &data));
    assert_true(f->msix_changes >= 5);
}

static void msix_masks_and_pends(void **state)
{
    struct fx *f = *state;

    with_msix(f, 3);
    cfg_out(f, 3, 0x42, 2, 0x8000);
    msix_entry(f, 2, 0xfee00000, 0x50, 1);
    vmc_pci_msix_raise(f->f, 2);
    vmc_pci_msix_raise(f->f, 2);
    assert_int_equal(f->b.msis, 0);
    assert_int_equal(test_mmio_read(&f->b, BAR + 0x3000, 8), 4);
    msix_entry(f, 2, 0xfee00000, 0x51, 0);
    assert_int_equal(f->b.msis, 1);
    assert_int_equal(f->b.msi[0].data, 0x51);
    assert_int_equal(test_mmio_read(&f->b, BAR + 0x3000, 8), 0);
    cfg_out(f, 3, 0x42, 2, 0xc000); /* whole function masked */
    vmc_pci_msix_raise(f->f, 2);
    assert_int_equal(f->b.msis, 1);
    cfg_out(f, 3, 0x42, 2, 0x8000);
    assert_int_equal(f->b.msis, 2);
}

static void msix_table_access_widths(void **state)
{
    struct fx *f = *state;

    with_msix(f, 2);
    test_mmio_write(&f->b, BAR + 0x2010, 8, 0x00000001fee02000ull);
    assert_int_equal(test_mmio_read(&f->b, BAR + 0x2010, 8), 0x00000001fee02000ull);
    test_mmio_write(&f->b, BAR + 0x2018, 1, 0x99);
    assert_int_equal(test_mmio_read(&f->b, BAR + 0x2018, 4), 0x99);
    assert_int_equal(test_mmio_read(&f->b, BAR + 0x201c, 4), 1); /* masked after reset */
    unsigned reads = f->reads;
    test_mmio_read(&f->b, BAR + 0x2020, 4); /* behind the table: the device's own */
    assert_int_equal(f->reads, reads + 1);
}

static void msix_vector_out_of_range(void **state)
{
    struct fx *f = *state;
    struct vmc_error err;

    with_msix(f, 2);
    cfg_out(f, 3, 0x42, 2, 0x8000);
    vmc_pci_msix_raise(f->f, 2);
    vmc_pci_msix_raise(f->f, 0xffffffff);
    assert_int_equal(f->b.msis, 0);
    assert_int_equal(vmc_pci_add_msix(f->f, 1, 0, 0, 0x100, &err), VMC_EEXIST);
    struct vmc_pci_func *g = new_func(f, 9, 0);
    assert_int_equal(vmc_pci_add_msix(g, 1, 0, 0, 0x100, &err), VMC_EINVAL); /* no BAR */
    assert_int_equal(vmc_pci_add_bar(g, 0, 0, 0x1000, NULL, NULL, &err), VMC_OK);
    assert_int_equal(vmc_pci_add_msix(g, 0, 0, 0, 0x100, &err), VMC_EINVAL);
    assert_int_equal(vmc_pci_add_msix(g, 65, 0, 0, 0x100, &err), VMC_EINVAL);
    assert_int_equal(vmc_pci_add_msix(g, 64, 0, 0, 0x3f8, &err), VMC_EINVAL); /* overlap */
    assert_int_equal(vmc_pci_add_msix(g, 64, 0, 0xc04, 0, &err), VMC_EINVAL);
    assert_int_equal(vmc_pci_add_msix(g, 64, 0, 0xc08, 0, &err), VMC_EINVAL);
    assert_int_equal(vmc_pci_add_msix(g, 64, 0, 0xc00, 0, &err), VMC_OK);
    vmc_pci_func_destroy(g);
}

static void intx_is_shared(void **state)
{
    struct fx *f = *state;
    struct vmc_pci_func *g = new_func(f, 7, 1); /* (7 + 0) % 4 == (3 + 0) % 4 */

    vmc_pci_intx_set(f->f, true);
    assert_true(f->b.line[23].level);
    assert_int_equal(cfg_in(f, 3, 6, 2) & 8, 8);
    vmc_pci_intx_set(g, true);
    vmc_pci_intx_set(f->f, false);
    assert_true(f->b.line[23].level);
    assert_int_equal(f->b.line[23].rises, 1);
    cfg_out(f, 7, 4, 2, 0x400); /* INTx disabled */
    assert_false(f->b.line[23].level);
    assert_int_equal(cfg_in(f, 7, 6, 2) & 8, 8);
    cfg_out(f, 7, 4, 2, 0);
    assert_true(f->b.line[23].level);
    vmc_pci_func_destroy(g); /* leaves the line low */
    assert_false(f->b.line[23].level);
}

/* ---- assignment, state --------------------------------------------------------------------- */

static void assign_gives_addresses(void **state)
{
    struct fx *f = *state;
    static const uint8_t irq[4] = {10, 10, 11, 11};
    struct vmc_pci_func *g = new_func(f, 5, 2);
    struct vmc_pci_windows w = {.io_base = 0xc000, .io_bytes = 0x1000, .mem_base = 0xc0000000,
                                .mem_bytes = 0x10000000, .mem64_base = 0x800000000,
                                .mem64_bytes = 0x100000000};
    uint64_t a, b, c;
    struct vmc_error err;

    assert_int_equal(vmc_pci_add_bar(f->f, 0, 0, 0x1000, &reg_ops, f, NULL), VMC_OK);
    assert_int_equal(vmc_pci_add_bar(f->f, 1, VMC_PCI_BAR_IO, 32, &reg_ops, f, NULL), VMC_OK);
    assert_int_equal(vmc_pci_add_bar(g, 4, 12, 0x4000, &reg_ops, f, NULL), VMC_OK);
    assert_int_equal(vmc_pci_bus_assign(f->bus, &w, irq, NULL), VMC_OK);
    assert_true(vmc_pci_bar_address(f->f, 0, &a));
    assert_true(vmc_pci_bar_address(f->f, 1, &b));
    assert_true(vmc_pci_bar_address(g, 4, &c));
    assert_int_equal(a, 0xc0000000);
    assert_int_equal(b, 0xc000);
    assert_int_equal(c, 0x800000000);
    assert_int_equal(cfg_in(f, 3, 0x3c, 1), 11);
    assert_int_equal(cfg_in(f, 5, 0x3c, 1), 11); /* (5 + 1) % 4 = 2 */
    assert_true(vmc_pci_bus_master(g));
    w.mem_bytes = 0x800;
    assert_int_equal(vmc_pci_bus_assign(f->bus, &w, irq, &err), VMC_ELIMIT);
    vmc_pci_func_destroy(g);
}

static void state_survives(void **state)
{
    struct fx *f = *state;
    static uint8_t saved[8192];
    struct vmc_error err;
    uint64_t base;

    with_msix(f, 3);
    cfg_out(f, 3, 0x42, 2, 0x8000);
    msix_entry(f, 1, 0xfee00000, 0x33, 1);
    vmc_pci_msix_raise(f->f, 1);
    vmc_pci_intx_set(f->f, true);
    size_t n = vmc_pci_func_save(f->f, saved, sizeof(saved));
    assert_true(n <= sizeof(saved));
    vmc_pci_func_reset(f->f);
    assert_false(f->b.line[23].level);
    assert_false(vmc_pci_bar_address(f->f, 0, &base));
    assert_int_equal(vmc_pci_func_load(f->f, saved, n - 1, &err), VMC_EFORMAT);
    assert_int_equal(vmc_pci_func_load(f->f, saved, n, &err), VMC_OK);
    assert_true(vmc_pci_bar_address(f->f, 0, &base));
    assert_int_equal(base, BAR);
    assert_true(f->b.line[23].level);
    msix_entry(f, 1, 0xfee00000, 0x33, 0);
    assert_int_equal(f->b.msis, 1);
    saved[8] ^= 1; /* another vendor */
    assert_int_equal(vmc_pci_func_load(f->f, saved, n, &err), VMC_EFORMAT);
}

static void slots_run_out(void **state)
{
    struct fx *f = *state;
    struct vmc_pci_func_config cfg = {.size = sizeof(cfg), .slot = VMC_PCI_ANY_SLOT};
    struct vmc_pci_func *g[40];
    struct vmc_error err;
    unsigned n = 0;

    while (n < 40 && vmc_pci_func_create(f->bus, &cfg, &g[n], &err) == VMC_OK)
        n++;
    assert_int_equal(n, 30);
    assert_int_equal(err.code, VMC_ELIMIT);
    cfg.slot = 3;
    assert_int_equal(vmc_pci_func_create(f->bus, &cfg, &g[n], &err), VMC_EEXIST);
    cfg.int_pin = 5;
    assert_int_equal(vmc_pci_func_create(f->bus, &cfg, &g[n], &err), VMC_EINVAL);
    while (n > 0)
        vmc_pci_func_destroy(g[--n]);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(header_fields), T(absent_function_floats), T(mech1_access_widths), T(readonly_bits_stay),
        T(ecam_reads_the_same), T(ecam_moves_itself), T(bar_sizing_and_decode),
        T(bar_bad_address_unmapped), T(bar_overlap_is_refused), T(bar_bad_arguments),
        T(capabilities_chain), T(msix_delivers), T(msix_masks_and_pends),
        T(msix_table_access_widths), T(msix_vector_out_of_range), T(intx_is_shared),
        T(assign_gives_addresses), T(state_survives), T(slots_run_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
