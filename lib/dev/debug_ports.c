/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Debug console (port 0xe9), exit port, POST code port.
 *
 * Threats (guest input: any value of any width)
 *   output flood        handed on byte by byte, the embedder's pace    (embedder)
 *   odd widths          the first byte counts (console); the whole value (exit)  exit_port_widths
 */
#include "base/snapshot.h"
#include "dev_priv.h"

/* ---- debug console ------------------------------------------------------------------------- */

#define DEBUGCON_ID 0xe9u

struct vmc_debugcon {
    struct dev_base base;
    struct vmc_chardev out;
    uint16_t port;
};

static uint64_t debugcon_read(void *dev, uint64_t offset, unsigned bytes)
{
    (void)dev;
    (void)offset;
    (void)bytes;
    return DEBUGCON_ID;
}

static void debugcon_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    struct vmc_debugcon *dc = dev;
    uint8_t c = (uint8_t)value;

    (void)offset;
    (void)bytes;
    if (dc->out.ops != NULL)
        (void)dc->out.ops->write(dc->out.ctx, &c, 1); /* no flow control: what is refused is lost */
}

static const struct vmc_bus_ops debugcon_ops = {.read = debugcon_read, .write = debugcon_write};

static void debugcon_destroy(void *dev)
{
    struct vmc_debugcon *dc = dev;

    vmci_dev_detach(&dc->base, dc->base.bd->pio, dc->port);
    vmci_dev_free(&dc->base);
}

static const struct vmc_device_ops debugcon_device_ops = {.name = "debugcon",
                                                          .destroy = debugcon_destroy};

int vmc_debugcon_create(struct vmc_board *bd, uint16_t port, const struct vmc_chardev *out,
                        struct vmc_debugcon **dcp, struct vmc_error *err)
{
    struct vmc_debugcon *dc = vmci_dev_alloc(bd, sizeof(*dc), &debugcon_device_ops, err);

    if (dc == NULL)
        return VMC_ENOMEM;
    dc->out = *out;
    dc->port = port;
    int rc = vmc_bus_attach(bd->pio, port, 1, &debugcon_ops, dc, err);
    if (rc != VMC_OK) {
        vmci_dev_free(&dc->base);
        return rc;
    }
    vmci_dev_publish(&dc->base);
    *dcp = dc;
    return VMC_OK;
}

/* ---- exit port ----------------------------------------------------------------------------- */

#define EXIT_PORTS 4

struct vmc_exit_port {
    struct dev_base base;
    struct vmc_stop_sink stop;
    uint16_t port;
    uint16_t ports;
};

static uint64_t exit_read(void *dev, uint64_t offset, unsigned bytes)
{
    (void)dev;
    (void)offset;
    (void)bytes;
    return 0;
}

static void exit_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    struct vmc_exit_port *p = dev;

    (void)offset;
    (void)bytes;
    dev_stop(&p->stop, VMC_STOP_EXIT_PORT, value);
}

static const struct vmc_bus_ops exit_ops = {.read = exit_read, .write = exit_write};

static void exit_destroy(void *dev)
{
    struct vmc_exit_port *p = dev;

    vmci_dev_detach(&p->base, p->base.bd->pio, p->port);
    vmci_dev_free(&p->base);
}

static const struct vmc_device_ops exit_device_ops = {.name = "exit-port",
                                                      .destroy = exit_destroy};

int vmc_exit_port_create(struct vmc_board *bd, uint16_t port, const struct vmc_stop_sink *stop,
                         struct vmc_exit_port **out, struct vmc_error *err)
{
    struct vmc_exit_port *p = vmci_dev_alloc(bd, sizeof(*p), &exit_device_ops, err);

    if (p == NULL)
        return VMC_ENOMEM;
    p->stop = *stop;
    p->port = port;
    /* Four ports, so that a 32-bit write stays whole; fewer where a neighbour needs them. */
    int rc = VMC_EEXIST;
    for (p->ports = EXIT_PORTS; p->ports != 0 && rc != VMC_OK; p->ports /= 2)
        rc = vmc_bus_attach(bd->pio, port, p->ports, &exit_ops, p, err);
    if (rc != VMC_OK) {
        vmci_dev_free(&p->base);
        return rc;
    }
    vmci_dev_publish(&p->base);
    *out = p;
    return VMC_OK;
}

/* ---- POST code port ------------------------------------------------------------------------ */

struct vmc_post_port {
    struct dev_base base;
    struct vmc_chardev out; /* of each code; ops NULL: none */
    uint32_t value;         /* (a) */
    uint16_t port;
};

static uint64_t post_read(void *dev, uint64_t offset, unsigned bytes)
{
    (void)offset;
    (void)bytes;
    return vmci_load_relaxed(&((struct vmc_post_port *)dev)->value);
}

static void post_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    struct vmc_post_port *p = dev;
    uint8_t code = (uint8_t)value;

    (void)offset;
    (void)bytes;
    vmci_store_relaxed(&p->value, (uint32_t)value);
    if (p->out.ops != NULL)
        (void)p->out.ops->write(p->out.ctx, &code, 1);
}

static const struct vmc_bus_ops post_ops = {.read = post_read, .write = post_write};

static void post_reset(void *dev)
{
    vmci_store_relaxed(&((struct vmc_post_port *)dev)->value, 0u);
}

static size_t post_save(void *dev, void *dst, size_t bytes)
{
    struct vmc_post_port *p = dev;

    return vmci_dev_save(&p->base, 1, &p->value, sizeof(p->value), dst, bytes);
}

static int post_load(void *dev, const void *src, size_t bytes, struct vmc_error *err)
{
    struct vmc_post_port *p = dev;
    uint32_t value;
    uint64_t shift;
    int rc = vmci_dev_load(&p->base, 1, src, bytes, &value, sizeof(value), &shift, err);

    if (rc == VMC_OK)
        p->value = value;
    return rc;
}

static void post_destroy(void *dev)
{
    struct vmc_post_port *p = dev;

    vmci_dev_detach(&p->base, p->base.bd->pio, p->port);
    vmci_dev_free(&p->base);
}

static const struct vmc_device_ops post_device_ops = {.name = "post-port",
                                                      .reset = post_reset,
                                                      .destroy = post_destroy,
                                                      .save = VMCI_SNAPSHOT(post_save),
                                                      .load = VMCI_SNAPSHOT(post_load)};

int vmc_post_port_create(struct vmc_board *bd, uint16_t port, const struct vmc_chardev *codes,
                         struct vmc_post_port **out, struct vmc_error *err)
{
    struct vmc_post_port *p = vmci_dev_alloc(bd, sizeof(*p), &post_device_ops, err);

    if (p == NULL)
        return VMC_ENOMEM;
    if (codes != NULL)
        p->out = *codes;
    p->port = port;
    int rc = vmc_bus_attach(bd->pio, port, 1, &post_ops, p, err);
    if (rc != VMC_OK) {
        vmci_dev_free(&p->base);
        return rc;
    }
    vmci_dev_publish(&p->base);
    *out = p;
    return VMC_OK;
}

uint32_t vmc_post_port_value(const struct vmc_post_port *p)
{
    return vmci_load_relaxed(&p->value);
}
