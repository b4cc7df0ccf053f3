/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The FPU's error line of a PC (SDM 1 appendix D): FERR# sets a latch that raises IRQ 13; a write
 * to port F0H clears the latch, and IGNNE# is then asserted until FERR# goes away.
 *
 * Threats (guest input: writes to F0H at any time)
 *   write without an error   clears a latch that is not set            fpu_error_needs_ferr
 */
#include "base/snapshot.h"
#include "dev_priv.h"

#define PORT_CLEAR 0xf0u

struct fpu_error_state {
    bool ferr, latched, ignne;
};

struct vmc_fpu_error {
    struct dev_base base;
    struct vmc_irq_line irq;
    struct fpu_error_state s; /* (l) */
};

/* Lock held. */
static void set_latch(struct vmc_fpu_error *fe, bool on)
{
    if (fe->s.latched != on)
        vmc_irq_set(&fe->irq, on);
    fe->s.latched = on;
}

static uint64_t fpu_error_read(void *dev, uint64_t offset, unsigned bytes)
{
    (void)dev;
    (void)offset;
    return ~0ull >> (64 - 8 * bytes);
}

static void fpu_error_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    struct vmc_fpu_error *fe = dev;

    (void)offset;
    (void)bytes;
    (void)value;
    vmci_lock(&fe->base.lock);
    fe->s.ignne = fe->s.ferr;
    set_latch(fe, false);
    vmci_unlock(&fe->base.lock);
}

static const struct vmc_bus_ops fpu_error_ops = {.read = fpu_error_read, .write = fpu_error_write};

bool vmc_fpu_error_signal(struct vmc_fpu_error *fe, bool ferr)
{
    vmci_lock(&fe->base.lock);
    fe->s.ferr = ferr;
    if (!ferr)
        fe->s.ignne = false;
    else if (!fe->s.ignne)
        set_latch(fe, true);
    bool ignne = fe->s.ignne;
    vmci_unlock(&fe->base.lock);
    return ignne;
}

/* ---- life ---------------------------------------------------------------------------------- */

static void fpu_error_reset(void *dev)
{
    struct vmc_fpu_error *fe = dev;

    vmci_lock(&fe->base.lock);
    set_latch(fe, false);
    memset(&fe->s, 0, sizeof(fe->s));
    vmci_unlock(&fe->base.lock);
}

static size_t fpu_error_save(void *dev, void *dst, size_t bytes)
{
    struct vmc_fpu_error *fe = dev;

    vmci_lock(&fe->base.lock);
    size_t n = vmci_dev_save(&fe->base, 1, &fe->s, sizeof(fe->s), dst, bytes);
    vmci_unlock(&fe->base.lock);
    return n;
}

static int fpu_error_load(void *dev, const void *src, size_t bytes, struct vmc_error *err)
{
    struct vmc_fpu_error *fe = dev;
    uint8_t raw[sizeof(struct fpu_error_state)];
    uint64_t shift;
    int rc = vmci_dev_load(&fe->base, 1, src, bytes, raw, sizeof(raw), &shift, err);

    if (rc != VMC_OK)
        return rc;
    vmci_lock(&fe->base.lock);
    fe->s.ferr = raw[0] != 0;
    fe->s.ignne = raw[2] != 0;
    set_latch(fe, raw[1] != 0);
    vmci_unlock(&fe->base.lock);
    return VMC_OK;
}

static void fpu_error_destroy(void *dev)
{
    struct vmc_fpu_error *fe = dev;

    vmci_dev_detach(&fe->base, fe->base.bd->pio, PORT_CLEAR);
    vmci_dev_free(&fe->base);
}

static const struct vmc_device_ops fpu_error_device_ops = {.name = "fpu-error",
                                                           .reset = fpu_error_reset,
                                                           .destroy = fpu_error_destroy,
                                                           .save = VMCI_SNAPSHOT(fpu_error_save),
                                                           .load = VMCI_SNAPSHOT(fpu_error_load)};

int vmc_fpu_error_create(struct vmc_board *bd, struct vmc_irq_line irq13,
                         struct vmc_fpu_error **out, struct vmc_error *err)
{
    struct vmc_fpu_error *fe = vmci_dev_alloc(bd, sizeof(*fe), &fpu_error_device_ops, err);

    if (fe == NULL)
        return VMC_ENOMEM;
    fe->irq = irq13;
    int rc = vmc_bus_attach(bd->pio, PORT_CLEAR, 1, &fpu_error_ops, fe, err);
    if (rc != VMC_OK) {
        vmci_dev_free(&fe->base);
        return rc;
    }
    vmci_dev_publish(&fe->base);
    *out = fe;
    return VMC_OK;
}
