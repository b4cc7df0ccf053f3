/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Any sequence of register accesses to all platform devices and PCI configuration space, with time
 * passing in between, input arriving, and state saved and loaded.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <vmcore/devices.h>
#include <vmcore/pci.h>

#include "fuzz_platform.h"

static uint64_t now_ns;

static const struct vmc_platform pf = FUZZ_PLATFORM(&now_ns);

static void line_set(void *ctx, uint32_t pin, bool level)
{
    (void)ctx;
    (void)pin;
    (void)level;
}

static void stop(void *ctx, uint32_t why, uint64_t detail)
{
    (void)ctx;
    (void)why;
    (void)detail;
}

static int out_write(void *ctx, const void *data, size_t bytes)
{
    unsigned *n = ctx;

    (void)data;
    return (*n)++ % 3 == 0 ? 0 : (int)(bytes + 1) / 2;
}

static uint64_t bar_read(void *dev, uint64_t offset, unsigned bytes)
{
    (void)dev;
    if (offset + bytes > 0x4000)
        abort();
    return offset;
}

static void bar_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    (void)dev;
    (void)value;
    if (offset + bytes > 0x4000)
        abort();
}

struct machine {
    struct vmc_board bd;
    struct vmc_uart *uart;
    struct vmc_i8042 *kbd;
    struct vmc_chipset *cs;
    struct vmc_pci_func *f;
    unsigned writes;
};

static void must(int rc)
{
    if (rc != VMC_OK)
        abort();
}

static void build(struct machine *m)
{
    static const struct vmc_chardev_ops out_ops = {.write = out_write};
    static const struct vmc_bus_ops bar_ops = {.read = bar_read, .write = bar_write};
    const struct vmc_irq_line line = {.set = line_set};
    const struct vmc_stop_sink sink = {.stop = stop};
    const struct vmc_chardev out = {.ops = &out_ops, .ctx = &m->writes};
    struct vmc_hpet_config hc = {.size = sizeof(hc), .gpa = 0xfed00000, .irq0 = line, .irq8 = line};
    struct vmc_uart_config uc = {.size = sizeof(uc), .port = 0x3f8, .irq = line, .out = out};
    struct vmc_i8042_config kc = {.size = sizeof(kc), .irq1 = line, .irq12 = line, .stop = sink};
    struct vmc_chipset_config cc = {.size = sizeof(cc), .sci = line, .stop = sink};
    struct vmc_pci_func_config fc = {.size = sizeof(fc), .slot = 3, .int_pin = 1,
                                     .vendor_id = 0x1af4, .device_id = 0x1042};
    struct vmc_mem_slot ram = {.size = sizeof(ram), .attr = VMC_MEM_RAM, .bytes = 1 << 20};
    struct vmc_hpet *hpet;
    struct vmc_pit *pit;
    struct vmc_rtc *rtc;
    struct vmc_fw_cfg *fw;
    struct vmc_debugcon *dc;
    struct vmc_exit_port *ep;
    struct vmc_post_port *pp;

    m->bd.platform = &pf;
    must(vmc_mem_create(&pf, &m->bd.mem, NULL));
    must(vmc_mem_add(m->bd.mem, &ram, NULL));
    must(vmc_bus_create(&pf, "pio", 0x10000, &m->bd.pio));
    must(vmc_bus_create(&pf, "mmio", 1ull << VMC_GPA_BITS, &m->bd.mmio));
    must(vmc_timerq_create(&pf, &m->bd.timers));
    must(vmc_chipset_create(&m->bd, &cc, &m->cs, NULL));
    must(vmc_hpet_create(&m->bd, &hc, &hpet, NULL));
    must(vmc_pit_create(&m->bd, vmc_hpet_pit_line(hpet), &pit, NULL));
    must(vmc_rtc_create(&m->bd, vmc_hpet_rtc_line(hpet), &rtc, NULL));
    must(vmc_i8042_create(&m->bd, &kc, &m->kbd, NULL));
    must(vmc_uart_create(&m->bd, &uc, &m->uart, NULL));
    must(vmc_fw_cfg_create(&m->bd, &fw, NULL));
    must(vmc_debugcon_create(&m->bd, 0xe9, &out, &dc, NULL));
    must(vmc_exit_port_create(&m->bd, 0xf4, &sink, &ep, NULL));
    must(vmc_post_port_create(&m->bd, 0x80, NULL, &pp, NULL));
    must(vmc_pci_func_create(vmc_chipset_pci(m->cs), &fc, &m->f, NULL));
    must(vmc_pci_add_bar(m->f, 0, VMC_PCI_BAR_MEM64, 0x4000, &bar_ops, m, NULL));
    must(vmc_pci_add_bar(m->f, 2, VMC_PCI_BAR_IO, 64, &bar_ops, m, NULL));
    must(vmc_pci_add_msix(m->f, 4, 0, 0x1000, 0x2000, NULL));
}

static void save_load(struct machine *m)
{
    static uint8_t buf[65536];

    for (struct vmc_device *d = m->bd.devices; d != NULL; d = d->next) {
        if (d->ops->save == NULL)
            continue;
        size_t n = d->ops->save(d->dev, buf, sizeof(buf));
        if (n > sizeof(buf))
            abort();
        must(d->ops->load(d->dev, buf, n, NULL));
    }
}

/* Load state that the input made up: refused or taken, never fatal. */
static void load_garbage(struct machine *m, const uint8_t *data, size_t size, unsigned which)
{
    static uint8_t buf[65536];
    struct vmc_device *d = m->bd.devices;
    struct vmc_error err;

    for (unsigned i = 0; i < which && d->next != NULL; i++)
        d = d->next;
    if (d->ops->save == NULL)
        return;
    size_t n = d->ops->save(d->dev, buf, sizeof(buf));
    for (size_t i = 16; i < n && i - 16 < size; i++) /* behind the header */
        buf[i] = data[i - 16];
    int rc = d->ops->load(d->dev, buf, n, &err);
    (void)rc;
}

static void step(struct machine *m, const uint8_t *p)
{
    static const uint16_t ports[] = {0x3f8, 0x40, 0x43, 0x61, 0x70, 0x72, 0x60, 0x64,  0x92,
                                     0x510, 0x514, 0xe9, 0xf4, 0x80, 0xb2, 0xcf8, 0xcfc, 0x600};
    unsigned bytes = 1u << (p[0] >> 6);
    uint64_t value = p[2] | (uint64_t)p[3] << 8 | (uint64_t)p[4] << 16 | (uint64_t)p[5] << 24;
    uint64_t got;
    uint16_t port = (uint16_t)(ports[p[1] % 18] + (p[0] >> 3 & 7));

    switch (p[0] & 7) {
    case 0:
    case 1:
        vmc_bus_write(m->bd.pio, port, bytes > 4 ? 4 : bytes, value);
        break;
    case 2:
        vmc_bus_read(m->bd.pio, port, bytes > 4 ? 4 : bytes, &got);
        break;
    case 3:
        vmc_bus_write(m->bd.mmio, 0xfed00000ull + (p[1] << 1), bytes, value * 0x100000001ull);
        vmc_bus_read(m->bd.mmio, 0xfed00000ull + (p[1] << 1), bytes, &got);
        break;
    case 4: /* configuration space of a bridge or the function */
        vmc_pci_config_write(vmc_chipset_pci(m->cs),
                             VMC_PCI_DEVFN((p[0] >> 3 & 3) == 0   ? 0
                                           : (p[0] >> 3 & 3) == 1 ? 0x1f
                                                                  : 3, 0),
                             p[1], bytes > 4 ? 4 : bytes, (uint32_t)value);
        break;
    case 5: /* wherever the BAR or the ECAM window may be */
        vmc_bus_write(m->bd.mmio, (value & 0xfffffff0) + (p[1] & 15), bytes, value);
        break;
    case 6:
        now_ns += value;
        vmc_timerq_advance(m->bd.timers, now_ns);
        break;
    default:
        vmc_uart_input(m->uart, p + 1, 5);
        vmc_i8042_key(m->kbd, p + 1, 3);
        vmc_pci_msix_raise(m->f, p[1] & 7);
        vmc_pci_intx_set(m->f, p[1] & 1);
        if ((p[0] & 0xf8) == 0xf8)
            save_load(m);
        if ((p[0] & 0xf8) == 0xf0)
            vmc_board_reset(&m->bd);
        if ((p[0] & 0xf8) == 0xe8)
            load_garbage(m, p, 6, p[1] & 15);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct machine m = {0};

    now_ns = 1000000000;
    build(&m);
    for (size_t i = 0; i + 6 <= size && i < 6 * 4096; i += 6)
        step(&m, data + i);
    if (size > 2)
        load_garbage(&m, data + 1, size - 1, data[0] & 15);
    vmc_pci_func_destroy(m.f);
    vmc_board_destroy_devices(&m.bd);
    vmc_timerq_destroy(m.bd.timers);
    vmc_bus_destroy(m.bd.mmio);
    vmc_bus_destroy(m.bd.pio);
    vmc_mem_destroy(m.bd.mem);
    return 0;
}
