/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * PCI: a root bus with configuration mechanism 1 and ECAM, functions, BARs, capabilities, MSI-X
 * and legacy interrupt pins.
 *
 * A device creates one function, adds its BARs and capabilities while the VM is quiesced, and from
 * then on raises interrupts with vmc_pci_msix_raise or vmc_pci_intx_set. The layer owns the
 * configuration space: identification, command and status, BAR sizing and decoding, MSI-X table and
 * PBA, interrupt pin and line. (PCI Local Bus 3.0, PCI Express 3.0 ch. 7.)
 */
#ifndef VMCORE_PCI_H
#define VMCORE_PCI_H

#include <vmcore/device.h>

VMC_BEGIN_DECLS

struct vmc_pci_bus;
struct vmc_pci_func;

#define VMC_PCI_CONFIG_BYTES  256  /**< conventional configuration space */
#define VMC_PCI_ECAM_BYTES    4096 /**< what one function occupies in ECAM; above 256 reads zero */
#define VMC_PCI_SLOTS         32
#define VMC_PCI_BARS          6
#define VMC_PCI_MSIX_MAX      64   /**< vectors a function may have */
#define VMC_PCI_ANY_SLOT      0xffu

#define VMC_PCI_DEVFN(slot, func) ((uint8_t)(((slot) << 3) | (func)))

/** Offsets and bits of the configuration header that devices and tests name. */
#define VMC_PCI_VENDOR_ID     0x00
#define VMC_PCI_DEVICE_ID     0x02
#define VMC_PCI_COMMAND       0x04
#define VMC_PCI_COMMAND_IO        0x0001u
#define VMC_PCI_COMMAND_MEMORY    0x0002u
#define VMC_PCI_COMMAND_MASTER    0x0004u
#define VMC_PCI_COMMAND_PARITY    0x0040u
#define VMC_PCI_COMMAND_SERR      0x0100u
#define VMC_PCI_COMMAND_INTX_OFF  0x0400u
#define VMC_PCI_STATUS        0x06
#define VMC_PCI_STATUS_INTX       0x0008u
#define VMC_PCI_STATUS_CAP_LIST   0x0010u
#define VMC_PCI_REVISION      0x08
#define VMC_PCI_CLASS         0x09 /**< programming interface, subclass, class */
#define VMC_PCI_CACHE_LINE    0x0c
#define VMC_PCI_LATENCY       0x0d
#define VMC_PCI_HEADER_TYPE   0x0e
#define VMC_PCI_BAR0          0x10
#define VMC_PCI_SUBSYS_VENDOR 0x2c
#define VMC_PCI_SUBSYS_ID     0x2e
#define VMC_PCI_ROM_BAR       0x30
#define VMC_PCI_CAP_PTR       0x34
#define VMC_PCI_INT_LINE      0x3c
#define VMC_PCI_INT_PIN       0x3d
#define VMC_PCI_CAP_ID_VENDOR 0x09
#define VMC_PCI_CAP_ID_MSIX   0x11

/* ---- root bus ------------------------------------------------------------------------------ */

/** Configuration of the root bus. Lines are copied. */
struct vmc_pci_bus_config {
    uint32_t size;
    uint32_t pad;
    /**
     * The four interrupt lines of the root bus. Pin INTx (0 = A) of slot s drives line
     * (s + x) % 4, high while any function that shares it asserts its pin.
     */
    struct vmc_irq_line intx[4];
    /**
     * Who answers byte accesses to port 0xcf9, which lies inside mechanism 1's address register
     * (the reset control register of Intel chipsets). ops NULL: nobody.
     */
    const struct vmc_bus_ops *reset_port;
    void *reset_port_dev;
};

/**
 * Create the root bus: takes ports 0xcf8-0xcff. It is a device of the board and destroyed with it,
 * after the functions that were created on it later.
 */
VMC_API VMC_MUST_CHECK int vmc_pci_bus_create(struct vmc_board *bd,
                                              const struct vmc_pci_bus_config *cfg,
                                              struct vmc_pci_bus **out, struct vmc_error *err);
/** Every function must be destroyed first. NULL is allowed. While quiesced. */
VMC_API void vmc_pci_bus_destroy(struct vmc_pci_bus *bus);
/** The board the bus was created on. */
VMC_API struct vmc_board *vmc_pci_bus_board(struct vmc_pci_bus *bus);

/**
 * Place the ECAM window at base (a multiple of bytes; bytes is 64, 128 or 256 MiB), or take it away
 * with bytes 0. Any thread, but not from a handler of the window. VMC_EEXIST, VMC_EINVAL.
 */
VMC_API VMC_MUST_CHECK int vmc_pci_bus_set_ecam(struct vmc_pci_bus *bus, uint64_t base,
                                                uint64_t bytes, struct vmc_error *err);
/** Where the ECAM window is; bytes 0: nowhere. */
VMC_API void vmc_pci_bus_ecam(struct vmc_pci_bus *bus, uint64_t *base, uint64_t *bytes);

/** Address windows for vmc_pci_bus_assign; [base, base + bytes). */
struct vmc_pci_windows {
    uint64_t io_base, io_bytes;
    uint64_t mem_base, mem_bytes;     /**< below 4 GiB */
    uint64_t mem64_base, mem64_bytes; /**< for 64-bit prefetchable BARs, or 0 */
};

/**
 * What firmware does: give every BAR an address, enable decoding and bus mastering, set the
 * interrupt line of slot lines to irq[line]. For guests that are started without firmware.
 * VMC_ELIMIT: a window is too small. While quiesced.
 */
VMC_API VMC_MUST_CHECK int vmc_pci_bus_assign(struct vmc_pci_bus *bus,
                                              const struct vmc_pci_windows *win,
                                              const uint8_t irq[4], struct vmc_error *err);

/** Read or write configuration space as a guest would (bytes 1, 2 or 4). Any thread. */
VMC_API uint32_t vmc_pci_config_read(struct vmc_pci_bus *bus, uint8_t devfn, uint16_t offset,
                                     unsigned bytes);
/** Write it. Functions that do not exist ignore it. Any thread. */
VMC_API void vmc_pci_config_write(struct vmc_pci_bus *bus, uint8_t devfn, uint16_t offset,
                                  unsigned bytes, uint32_t value);

/* ---- functions ----------------------------------------------------------------------------- */

/** What the layer tells a device. Any member may be NULL. Called with no lock held. */
struct vmc_pci_func_ops {
    /**
     * The guest reads [offset, offset + bytes) of configuration space; *value holds what the layer
     * would answer and may be changed.
     */
    void (*config_read)(void *dev, uint16_t offset, unsigned bytes, uint32_t *value);
    /** The guest wrote; writable bits have changed already. */
    void (*config_write)(void *dev, uint16_t offset, unsigned bytes, uint32_t value);
    /** MSI-X was enabled, disabled or (un)masked, or a vector's mask or message changed. */
    void (*msix_changed)(void *dev);
};

/** Identification and wiring of a function. Copied. */
struct vmc_pci_func_config {
    uint32_t size;
    uint8_t slot;     /**< device number 0-31, or VMC_PCI_ANY_SLOT: the lowest free one from 1 */
    uint8_t function; /**< 0-7 */
    uint8_t int_pin;  /**< 0: no legacy interrupt, 1-4: INTA-INTD */
    uint8_t revision;
    uint16_t vendor_id, device_id;
    uint16_t subsys_vendor_id, subsys_id;
    uint32_t class_code; /**< 24 bits: class, subclass, programming interface */
    uint8_t multifunction; /**< set bit 7 of the header type */
    uint8_t pad[3];
    const struct vmc_pci_func_ops *ops; /**< may be NULL; borrowed */
    void *dev;
};

/** Create a function. VMC_EEXIST slot taken, VMC_ELIMIT no slot free, VMC_EINVAL. While quiesced. */
VMC_API VMC_MUST_CHECK int vmc_pci_func_create(struct vmc_pci_bus *bus,
                                               const struct vmc_pci_func_config *cfg,
                                               struct vmc_pci_func **out, struct vmc_error *err);
/** Unmaps its BARs. NULL is allowed. While quiesced. */
VMC_API void vmc_pci_func_destroy(struct vmc_pci_func *f);
/** Slot and function number. */
VMC_API uint8_t vmc_pci_func_devfn(const struct vmc_pci_func *f);
/** Back to the state after power-on: BARs, command, MSI-X. Device ops' reset calls this. */
VMC_API void vmc_pci_func_reset(struct vmc_pci_func *f);

enum vmc_pci_bar_flags {
    VMC_PCI_BAR_MEM32 = 0,
    VMC_PCI_BAR_IO = 1u << 0,
    VMC_PCI_BAR_MEM64 = 1u << 2, /**< takes this and the next index */
    VMC_PCI_BAR_PREFETCH = 1u << 3,
};

/**
 * Add a BAR. bytes is a power of two, at least 16 for memory and 4 for I/O. The handlers get
 * offsets from the start of the BAR; they are called while the guest has decoding enabled, never
 * with a lock of the layer held, and must not touch the function's configuration space. ops NULL:
 * the BAR holds nothing but what vmc_pci_add_msix puts there. While quiesced.
 */
VMC_API VMC_MUST_CHECK int vmc_pci_add_bar(struct vmc_pci_func *f, unsigned index, uint32_t flags,
                                           uint64_t bytes, const struct vmc_bus_ops *ops,
                                           void *dev, struct vmc_error *err);
/** Where the guest has placed a BAR; false while it is not decoded. Any thread. */
VMC_API bool vmc_pci_bar_address(struct vmc_pci_func *f, unsigned index, uint64_t *base);

/**
 * Append a capability: body is what follows the ID and next-pointer bytes, mask (or NULL: read-only)
 * tells which of its bits the guest may write. *offset is where the ID byte lies. VMC_ELIMIT when
 * configuration space is full. While quiesced.
 */
VMC_API VMC_MUST_CHECK int vmc_pci_add_cap(struct vmc_pci_func *f, uint8_t id, const void *body,
                                           const void *mask, size_t bytes, uint8_t *offset,
                                           struct vmc_error *err);

/** Set bytes of configuration space, and which of their bits the guest may write (NULL: none). */
VMC_API VMC_MUST_CHECK int vmc_pci_set_config(struct vmc_pci_func *f, uint16_t offset,
                                              const void *value, const void *mask, size_t bytes,
                                              struct vmc_error *err);
/** Change bytes from the device's side, without the write mask. Any thread. */
VMC_API void vmc_pci_put_config(struct vmc_pci_func *f, uint16_t offset, unsigned bytes,
                                uint32_t value);
/** Read bytes from the device's side. Any thread. */
VMC_API uint32_t vmc_pci_get_config(struct vmc_pci_func *f, uint16_t offset, unsigned bytes);

/** The guest lets the function access memory. A device must not touch guest memory otherwise. */
VMC_API bool vmc_pci_bus_master(struct vmc_pci_func *f);

/* ---- interrupts ---------------------------------------------------------------------------- */

/**
 * Add MSI-X: the capability, and the table and pending-bit array inside BAR bar (added before) at
 * table_offset and pba_offset (multiples of 8, not overlapping). The layer answers those ranges
 * itself, ahead of the BAR's own handlers. While quiesced.
 */
VMC_API VMC_MUST_CHECK int vmc_pci_add_msix(struct vmc_pci_func *f, unsigned vectors, unsigned bar,
                                            uint32_t table_offset, uint32_t pba_offset,
                                            struct vmc_error *err);
/** The guest enabled MSI-X. Any thread. */
VMC_API bool vmc_pci_msix_enabled(struct vmc_pci_func *f);
/** Send a vector's message, or mark it pending while masked. Any thread; locks may be held. */
VMC_API void vmc_pci_msix_raise(struct vmc_pci_func *f, unsigned vector);
/**
 * A vector's message; false while it is masked or MSI-X is off. For what delivers messages without the
 * device.
 */
VMC_API bool vmc_pci_msix_message(struct vmc_pci_func *f, unsigned vector, uint64_t *addr,
                                  uint32_t *data);
/** Level of the function's interrupt pin; the guest sees it unless INTx is disabled. Any thread. */
VMC_API void vmc_pci_intx_set(struct vmc_pci_func *f, bool level);

/* ---- saved state --------------------------------------------------------------------------- */

/** As vmc_device_ops.save: configuration space, MSI-X table, pin level. While quiesced. */
VMC_API size_t vmc_pci_func_save(struct vmc_pci_func *f, void *dst, size_t bytes);
/** Check and take over; remaps BARs. VMC_EFORMAT when it is of another kind of function. */
VMC_API VMC_MUST_CHECK int vmc_pci_func_load(struct vmc_pci_func *f, const void *src, size_t bytes,
                                             struct vmc_error *err);

VMC_END_DECLS

#endif
