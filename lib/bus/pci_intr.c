/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Interrupts of PCI functions: MSI-X (PCI 3.0 6.8.2) and the legacy pins.
 *
 * Threats (guest input: MSI-X table, PBA and control of any width and value)
 *   vector out of range          ignored                                   msix_vector_out_of_range
 *   partial, odd or wide access  merged by byte into the entry             msix_table_access_widths
 *   message at any address       handed to the sink, which checks it       (sink contract)
 */
#include "pci_priv.h"

/* ---- MSI-X --------------------------------------------------------------------------------- */

/* f->lock. */
static uint16_t msix_control(const struct vmc_pci_func *f)
{
    return vmci_ld_le16(&f->cfg[f->msix.cap + MSIX_CTRL]);
}

static bool msix_masked(const struct vmc_pci_func *f, unsigned vector)
{
    return (msix_control(f) & MSIX_CTRL_MASKALL) != 0 ||
           (f->msix.entry[vector].control & MSIX_VECTOR_MASKED) != 0;
}

static bool msix_on(const struct vmc_pci_func *f)
{
    return f->msix.cap != 0 && (msix_control(f) & MSIX_CTRL_ENABLE) != 0;
}

static void msix_send(struct vmc_pci_func *f, unsigned vector)
{
    const struct msix_entry *e = &f->msix.entry[vector];

    vmc_msi_send(&f->bus->bd->msi, ((uint64_t)e->addr_hi << 32) | e->addr_lo, e->data);
}

/* Send what became unmasked. f->lock. */
static void msix_send_pending(struct vmc_pci_func *f)
{
    if (f->msix.pending == 0 || !msix_on(f))
        return;
    for (unsigned v = 0; v < f->msix.vectors; v++) {
        if ((f->msix.pending & VMCI_BIT(v)) != 0 && !msix_masked(f, v)) {
            f->msix.pending &= ~VMCI_BIT(v);
            msix_send(f, v);
        }
    }
}

void vmci_msix_flush(struct vmc_pci_func *f)
{
    vmci_lock(&f->lock);
    msix_send_pending(f);
    vmci_unlock(&f->lock);
}

/* f->lock. */
void vmci_msix_reset(struct vmc_pci_func *f)
{
    f->msix.pending = 0;
    memset(f->msix.entry, 0, sizeof(f->msix.entry));
    for (unsigned v = 0; v < VMC_PCI_MSIX_MAX; v++)
        f->msix.entry[v].control = MSIX_VECTOR_MASKED;
}

static uint32_t table_bytes(const struct vmc_pci_func *f)
{
    return (uint32_t)f->msix.vectors * MSIX_ENTRY_BYTES;
}

bool vmci_msix_covers(struct vmc_pci_func *f, const struct pci_bar *bar, uint64_t offset)
{
    if (f->msix.cap == 0 || bar != &f->bar[f->msix.bar])
        return false;
    return (offset >= f->msix.table && offset - f->msix.table < table_bytes(f)) ||
           (offset >= f->msix.pba && offset - f->msix.pba < 8);
}

uint64_t vmci_msix_read(struct vmc_pci_func *f, uint64_t offset, unsigned bytes)
{
    uint64_t v = 0;

    vmci_lock(&f->lock);
    for (unsigned i = 0; i < bytes; i++) {
        uint64_t at = offset + i;
        uint8_t byte = 0;
        if (at >= f->msix.table && at - f->msix.table < table_bytes(f))
            byte = ((const uint8_t *)f->msix.entry)[at - f->msix.table];
        else if (at >= f->msix.pba && at - f->msix.pba < 8)
            byte = (uint8_t)(f->msix.pending >> (8 * (at - f->msix.pba)));
        v |= (uint64_t)byte << (8 * i);
    }
    vmci_unlock(&f->lock);
    return v;
}

void vmci_msix_write(struct vmc_pci_func *f, uint64_t offset, unsigned bytes, uint64_t value)
{
    vmci_lock(&f->lock);
    for (unsigned i = 0; i < bytes; i++) {
        uint64_t at = offset + i;
        if (at >= f->msix.table && at - f->msix.table < table_bytes(f))
            ((uint8_t *)f->msix.entry)[at - f->msix.table] = (uint8_t)(value >> (8 * i));
    }
    msix_send_pending(f);
    vmci_unlock(&f->lock);
    if (f->ops != NULL && f->ops->msix_changed != NULL)
        f->ops->msix_changed(f->dev);
}

int vmc_pci_add_msix(struct vmc_pci_func *f, unsigned vectors, unsigned bar, uint32_t table_offset,
                     uint32_t pba_offset, struct vmc_error *err)
{
    static const uint8_t mask[MSIX_CAP_BYTES - 2] = {0x00, 0xc0}; /* enable, function mask */
    uint8_t body[MSIX_CAP_BYTES - 2];
    uint32_t table = vectors * MSIX_ENTRY_BYTES;

    if (vectors == 0 || vectors > VMC_PCI_MSIX_MAX)
        return vmci_error(err, VMC_EINVAL, "pci/add_msix", "%u vectors; 1 to %d are possible",
                          vectors, VMC_PCI_MSIX_MAX);
    if (bar >= VMC_PCI_BARS || f->bar[bar].bytes == 0 ||
        (f->bar[bar].flags & VMC_PCI_BAR_IO) != 0 || (table_offset | pba_offset) % 8 != 0 ||
        !vmci_range_ok(table_offset, table, f->bar[bar].bytes) ||
        !vmci_range_ok(pba_offset, 8, f->bar[bar].bytes) ||
        (pba_offset < table_offset + table && table_offset < pba_offset + 8))
        return vmci_error(err, VMC_EINVAL, "pci/add_msix",
                          "table at %#x and PBA at %#x do not fit BAR %u", table_offset,
                          pba_offset, bar);
    if (f->msix.cap != 0)
        return vmci_error(err, VMC_EEXIST, "pci/add_msix", "the function has MSI-X already");

    vmci_st_le16(body, (uint16_t)(vectors - 1));
    vmci_st_le32(body + 2, table_offset | bar);
    vmci_st_le32(body + 6, pba_offset | bar);
    uint8_t cap = 0;
    int rc = vmc_pci_add_cap(f, VMC_PCI_CAP_ID_MSIX, body, mask, sizeof(body), &cap, err);
    if (rc != VMC_OK)
        return rc;
    f->msix = (struct pci_msix){.cap = cap, .bar = (uint8_t)bar, .vectors = (uint16_t)vectors,
                                .table = table_offset, .pba = pba_offset};
    vmci_msix_reset(f);
    return VMC_OK;
}

bool vmc_pci_msix_enabled(struct vmc_pci_func *f)
{
    vmci_lock(&f->lock);
    bool on = msix_on(f);
    vmci_unlock(&f->lock);
    return on;
}

void vmc_pci_msix_raise(struct vmc_pci_func *f, unsigned vector)
{
    if (vector >= f->msix.vectors)
        return;
    vmci_lock(&f->lock);
    if (msix_on(f)) {
        if (msix_masked(f, vector))
            f->msix.pending |= VMCI_BIT(vector);
        else
            msix_send(f, vector);
    }
    vmci_unlock(&f->lock);
}

bool vmc_pci_msix_message(struct vmc_pci_func *f, unsigned vector, uint64_t *addr, uint32_t *data)
{
    if (vector >= f->msix.vectors)
        return false;
    vmci_lock(&f->lock);
    bool live = msix_on(f) && !msix_masked(f, vector);
    *addr = ((uint64_t)f->msix.entry[vector].addr_hi << 32) | f->msix.entry[vector].addr_lo;
    *data = f->msix.entry[vector].data;
    vmci_unlock(&f->lock);
    return live;
}

/* ---- interrupt pins ------------------------------------------------------------------------ */

/* Bring the status bit and the shared line up to date with the pin and the command register. */
void vmci_pci_line_update(struct vmc_pci_func *f)
{
    struct vmc_pci_bus *bus = f->bus;

    if (f->init[VMC_PCI_INT_PIN] == 0)
        return;
    vmci_lock(&f->lock);
    bool drive = f->pin_level &&
                 (vmci_ld_le16(&f->cfg[VMC_PCI_COMMAND]) & VMC_PCI_COMMAND_INTX_OFF) == 0;
    f->cfg[VMC_PCI_STATUS] &= (uint8_t)~VMC_PCI_STATUS_INTX;
    if (f->pin_level)
        f->cfg[VMC_PCI_STATUS] |= VMC_PCI_STATUS_INTX;

    vmci_lock(&bus->irq_lock);
    if (drive != f->line_driven) {
        f->line_driven = drive;
        uint32_t *users = &bus->line_users[f->line];
        *users += drive ? 1 : -1u;
        if (*users == (drive ? 1u : 0u))
            vmc_irq_set(&bus->cfg.intx[f->line], drive);
    }
    vmci_unlock(&bus->irq_lock);
    vmci_unlock(&f->lock);
}

void vmc_pci_intx_set(struct vmc_pci_func *f, bool level)
{
    vmci_lock(&f->lock);
    bool changed = f->pin_level != level;
    f->pin_level = level;
    vmci_unlock(&f->lock);
    if (changed)
        vmci_pci_line_update(f);
}
