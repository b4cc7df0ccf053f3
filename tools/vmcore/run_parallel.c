/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What programs without a BIOS print on: the first parallel port with a printer that is always
 * ready, and debug consoles at other ports than 0xe9.
 */
#include "run_vm.h"

#include "vmcore_cmd.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include <vmcore/bus.h>
#include <vmcore/device.h>
#include <vmcore/devices.h>

#define LPT1       0x378
#define LPT1_PORTS 3

#define STATUS_READY 0xdf /* not busy, no error, selected; unused bits are ones */
#define CTL_STROBE   0x01u
#define CTL_BITS     0x1fu
#define CTL_ONES     0xe0u
#define CTL_RESET    0x0cu /* selected, not initialising */

struct run_parallel {
    struct vmc_device device;
    struct vmc_bus *pio;
    struct vmc_chardev out;
    atomic_uint data, control;
};

static uint64_t lpt_read(void *dev, uint64_t offset, unsigned bytes)
{
    struct run_parallel *p = dev;
    uint64_t v = 0;

    for (unsigned i = bytes; i-- > 0;) {
        uint64_t reg = offset + i;
        v = v << 8 | (reg == 0   ? atomic_load(&p->data)
                      : reg == 1 ? STATUS_READY
                                 : (atomic_load(&p->control) | CTL_ONES));
    }
    return v;
}

/* The printer takes a character when the strobe ends. */
static void control(struct run_parallel *p, uint8_t v)
{
    unsigned was = atomic_exchange(&p->control, v & CTL_BITS);
    uint8_t c = (uint8_t)atomic_load(&p->data);

    if ((was & CTL_STROBE) != 0 && (v & CTL_STROBE) == 0)
        (void)p->out.ops->write(p->out.ctx, &c, 1); /* what is refused is lost */
}

static void lpt_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    struct run_parallel *p = dev;

    for (unsigned i = 0; i < bytes; i++, value >>= 8) {
        if (offset + i == 0)
            atomic_store(&p->data, (uint8_t)value);
        else if (offset + i == 2)
            control(p, (uint8_t)value);
    }
}

static void lpt_reset(void *dev)
{
    struct run_parallel *p = dev;

    atomic_store(&p->data, 0u);
    atomic_store(&p->control, CTL_RESET);
}

static void lpt_destroy(void *dev)
{
    struct run_parallel *p = dev;

    if (vmc_bus_detach(p->pio, LPT1) == VMC_OK)
        free(p);
}

static int add_printer(struct run_vm *r)
{
    static const struct vmc_bus_ops ops = {.read = lpt_read, .write = lpt_write};
    static const struct vmc_device_ops device = {
        .name = "parallel", .reset = lpt_reset, .destroy = lpt_destroy};
    struct vmc_board *bd = vmc_vm_board(r->vm);
    struct run_parallel *p = calloc(1, sizeof(*p));
    struct vmc_error err = {0};

    if (p == NULL)
        return EXIT_ERROR;
    p->out = run_console_dev(r->printer);
    p->pio = bd->pio;
    p->device = (struct vmc_device){.ops = &device, .dev = p};
    lpt_reset(p);
    if (vmc_bus_attach(bd->pio, LPT1, LPT1_PORTS, &ops, p, &err) != VMC_OK) {
        free(p);
        run_vm_fail("--parallel", &err);
        return err.code == VMC_EEXIST ? EXIT_BAD_ARGS : EXIT_ERROR;
    }
    vmc_board_add(bd, &p->device);
    return 0;
}

int run_parallel_create(struct run_vm *r)
{
    struct vmc_chardev console = run_console_dev(r->debugcon);
    struct vmc_error err = {0};
    struct vmc_debugcon *dc;
    int rc = r->printer != NULL ? add_printer(r) : 0;

    for (unsigned i = 0; rc == 0 && i < r->opt.debugcon_port_count; i++) {
        if (vmc_debugcon_create(vmc_vm_board(r->vm), r->opt.debugcon_ports[i], &console, &dc,
                                &err) != VMC_OK) {
            run_vm_fail("--debugcon-port", &err);
            rc = err.code == VMC_EEXIST ? EXIT_BAD_ARGS : EXIT_ERROR;
        }
    }
    return rc;
}
