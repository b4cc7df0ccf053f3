/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of the PCI layer share. */
#ifndef PCI_PRIV_H
#define PCI_PRIV_H

#include <vmcore/pci.h>

#include "base/base_int.h"

#define PCI_FUNCS   8
#define PCI_DEVFNS  (VMC_PCI_SLOTS * PCI_FUNCS)
#define PCI_HEADER  0x40 /* bytes of the standard header */
#define PCI_LINES   4

#define BAR_IO_FIXED  0x3u /* low bits that are not address */
#define BAR_MEM_FIXED 0xfu

#define MSIX_CAP_BYTES     12
#define MSIX_CTRL          2 /* message control, from the start of the capability */
#define MSIX_CTRL_ENABLE   0x8000u
#define MSIX_CTRL_MASKALL  0x4000u
#define MSIX_ENTRY_BYTES   16
#define MSIX_VECTOR_MASKED 1u

struct vmc_pci_func;

struct pci_bar {
    struct vmc_pci_func *func;
    const struct vmc_bus_ops *ops; /* NULL: nothing but the MSI-X ranges */
    void *dev;
    uint64_t bytes; /* 0: not present */
    uint32_t flags;
    bool mapped;          /* bus->map_lock */
    uint64_t mapped_base; /* bus->map_lock */
};

struct msix_entry {
    uint32_t addr_lo, addr_hi, data, control;
};

struct pci_msix {
    uint8_t cap; /* offset of the capability, 0: none */
    uint8_t bar;
    uint16_t vectors;
    uint32_t table, pba;
    uint64_t pending;                 /* f->lock */
    struct msix_entry entry[VMC_PCI_MSIX_MAX]; /* f->lock */
};

struct vmc_pci_func {
    struct vmc_pci_bus *bus;
    const struct vmc_pci_func_ops *ops;
    void *dev;
    uint8_t devfn;
    uint8_t line;      /* of the root bus, where int_pin is set */
    uint8_t cap_last;  /* the list's last capability, 0: empty */
    uint8_t cap_next;  /* where the next one goes */
    bool pin_level;    /* what the device drives; f->lock */
    bool line_driven;  /* what this function contributes to the line; bus->irq_lock */
    uint32_t ecam_writers; /* atomic: hooks running on behalf of an ECAM write */
    struct vmci_lock lock;
    uint8_t cfg[VMC_PCI_CONFIG_BYTES];   /* f->lock */
    uint8_t mask[VMC_PCI_CONFIG_BYTES];  /* guest-writable bits; constant after set-up */
    uint8_t init[VMC_PCI_CONFIG_BYTES];  /* values after power-on */
    struct pci_bar bar[VMC_PCI_BARS];
    struct pci_msix msix;
};

/*
 * Locks: map_lock (BAR moves; no handler takes it) -> the I/O buses; f->lock -> irq_lock ->
 * interrupt controllers. f->lock is never held across a call of the device's.
 */
struct vmc_pci_bus {
    struct vmc_board *bd;
    struct vmc_pci_bus_config cfg;
    struct vmc_pci_func *func[PCI_DEVFNS];
    struct vmc_device device;
    uint32_t address; /* mechanism 1, atomic */
    struct vmci_lock map_lock;
    struct vmci_lock irq_lock;
    uint32_t line_users[PCI_LINES]; /* functions that drive a line; irq_lock */
    struct vmci_loglimit log;

    uint32_t ecam_moving; /* atomic: somebody is inside ecam_apply, or asked for another round */
    struct vmci_lock ecam_lock;
    uint64_t ecam_base, ecam_bytes;           /* mapped now; ecam_lock */
    uint64_t ecam_want_base, ecam_want_bytes; /* ecam_lock */
    struct vmc_timer *ecam_timer;
};

uint32_t vmci_pci_read(struct vmc_pci_func *f, uint16_t offset, unsigned bytes);
void vmci_pci_write(struct vmc_pci_func *f, uint16_t offset, unsigned bytes, uint32_t value);
void vmci_pci_remap(struct vmc_pci_func *f);
void vmci_pci_line_update(struct vmc_pci_func *f);

uint64_t vmci_pci_bar_value(const struct vmc_pci_func *f, unsigned index);
bool vmci_msix_covers(struct vmc_pci_func *f, const struct pci_bar *bar, uint64_t offset);
uint64_t vmci_msix_read(struct vmc_pci_func *f, uint64_t offset, unsigned bytes);
void vmci_msix_write(struct vmc_pci_func *f, uint64_t offset, unsigned bytes, uint64_t value);
void vmci_msix_flush(struct vmc_pci_func *f);
void vmci_msix_reset(struct vmc_pci_func *f);

#endif
