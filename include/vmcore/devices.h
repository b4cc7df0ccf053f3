/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * The platform devices of a PC, for embedders that build their own machine; vmc_pc_create makes
 * all of them.
 *
 * Every device is created on a board while the VM is quiesced, copies its configuration, joins the
 * board's list and is destroyed with it. Creation fails with VMC_EINVAL, VMC_ENOMEM, or VMC_EEXIST
 * when its ports are taken. Functions named here may be called from any thread unless said
 * otherwise.
 */
#ifndef VMCORE_DEVICES_H
#define VMCORE_DEVICES_H

#include <vmcore/device.h>
#include <vmcore/exit.h>
#include <vmcore/pci.h>

VMC_BEGIN_DECLS

/** Who ends the run when a device asks for it: enum vmc_stop and its detail. By value. */
struct vmc_stop_sink {
    void (*stop)(void *ctx, uint32_t why, uint64_t detail);
    void *ctx;
};

/* ---- serial port: 16550A ------------------------------------------------------------------- */

struct vmc_uart;
/**
 * Refuse input until the guest listens for the first time (it enables the receive interrupt or
 * polls the line status), so that what was piped in early is not lost when a driver clears the
 * FIFO.
 */
#define VMC_UART_PATIENT 1u
struct vmc_uart_config {
    uint32_t size;
    uint16_t port;  /**< 0x3f8 for COM1 */
    uint16_t flags; /**< VMC_UART_* */
    struct vmc_irq_line irq;
    struct vmc_chardev out; /**< ops NULL: output is dropped */
    /** Called with no lock held when input was refused and there is room again. May be NULL. */
    void (*input_ready)(void *ctx);
    void *input_ready_ctx;
};
/** A 16550A at eight ports. The board owns it. VMC_EINVAL, VMC_ENOMEM, VMC_EEXIST: ports taken. */
VMC_API VMC_MUST_CHECK int vmc_uart_create(struct vmc_board *bd, const struct vmc_uart_config *cfg,
                                           struct vmc_uart **out, struct vmc_error *err);
/** Characters arrive on the line. Returns how many were taken; the rest when input_ready says. */
VMC_API size_t vmc_uart_input(struct vmc_uart *u, const void *data, size_t bytes);
/** A break condition arrives on the line. */
VMC_API void vmc_uart_input_break(struct vmc_uart *u);
/** Replace the input_ready callback. While quiesced. */
VMC_API void vmc_uart_set_input_ready(struct vmc_uart *u, void (*fn)(void *ctx), void *ctx);
/** The far end that refused output takes characters again (it is also asked every few ms). */
VMC_API void vmc_uart_output_ready(struct vmc_uart *u);

/* ---- timers -------------------------------------------------------------------------------- */

struct vmc_pit;
/** 8254 at 0x40-0x43, and port 0x61: gate and output of channel 2, refresh toggle. */
VMC_API VMC_MUST_CHECK int vmc_pit_create(struct vmc_board *bd, struct vmc_irq_line irq0,
                                          struct vmc_pit **out, struct vmc_error *err);

struct vmc_rtc;
/** MC146818 and 256 bytes of CMOS RAM at 0x70-0x73. The clock starts at the platform's wall_s. */
VMC_API VMC_MUST_CHECK int vmc_rtc_create(struct vmc_board *bd, struct vmc_irq_line irq8,
                                          struct vmc_rtc **out, struct vmc_error *err);
/** Set a CMOS byte from 0x0e on, for now and after every reset. VMC_ERANGE. */
VMC_API VMC_MUST_CHECK int vmc_rtc_set_cmos(struct vmc_rtc *rtc, uint32_t index, uint8_t value);
/** A line that is high while an alarm is reported and enabled, beside IRQ 8. While quiesced. */
VMC_API void vmc_rtc_set_alarm_line(struct vmc_rtc *rtc, struct vmc_irq_line line);

struct vmc_hpet;
#define VMC_HPET_GSIS 24
struct vmc_hpet_config {
    uint32_t size;
    uint32_t pad;
    uint64_t gpa;                           /**< 0xfed00000 on a PC */
    struct vmc_irq_line gsi[VMC_HPET_GSIS]; /**< where comparators may be routed */
    struct vmc_irq_line irq0, irq8; /**< PIT's and RTC's wires; shared in legacy replacement */
};
/**
 * An HPET of three comparators. The board owns it. VMC_EINVAL, VMC_ENOMEM, VMC_EEXIST: address
 * taken.
 */
VMC_API VMC_MUST_CHECK int vmc_hpet_create(struct vmc_board *bd, const struct vmc_hpet_config *cfg,
                                           struct vmc_hpet **out, struct vmc_error *err);
/** What to give to the PIT and the RTC instead of the wires themselves. */
VMC_API struct vmc_irq_line vmc_hpet_pit_line(struct vmc_hpet *h);
/** The same for the RTC. */
VMC_API struct vmc_irq_line vmc_hpet_rtc_line(struct vmc_hpet *h);

/* ---- keyboard controller, A20, reset ------------------------------------------------------- */

struct vmc_i8042;
struct vmc_i8042_config {
    uint32_t size;
    uint32_t pad;
    struct vmc_irq_line irq1, irq12;
    struct vmc_stop_sink stop; /**< reset pulses */
    struct vmc_irq_line a20;   /**< gate of address line 20 */
};
/** Controller with a keyboard and no mouse at 0x60 and 0x64, and port 0x92 (fast A20 and reset). */
VMC_API VMC_MUST_CHECK int vmc_i8042_create(struct vmc_board *bd,
                                            const struct vmc_i8042_config *cfg,
                                            struct vmc_i8042 **out, struct vmc_error *err);
/** The keyboard sends scan codes (set 2); returns how many bytes were taken. */
VMC_API size_t vmc_i8042_key(struct vmc_i8042 *k, const uint8_t *codes, size_t bytes);

/* ---- debugging ports ----------------------------------------------------------------------- */

struct vmc_debugcon;
/** Port 0xe9: bytes written go to out, reads answer 0xe9. */
VMC_API VMC_MUST_CHECK int vmc_debugcon_create(struct vmc_board *bd, uint16_t port,
                                               const struct vmc_chardev *out,
                                               struct vmc_debugcon **dc, struct vmc_error *err);
struct vmc_exit_port;
/** A write of any width to port stops the run: VMC_STOP_EXIT_PORT, the value is the detail. */
VMC_API VMC_MUST_CHECK int vmc_exit_port_create(struct vmc_board *bd, uint16_t port,
                                                const struct vmc_stop_sink *stop,
                                                struct vmc_exit_port **out, struct vmc_error *err);
struct vmc_test_device;
#define VMC_TEST_WIRES 24
/**
 * What test kernels use besides the exit port, as QEMU's pc-testdev has it: ports 0xe0-0xe3 read
 * back what was written, 0xe4-0xe7 take writes; a byte written to port 0x2000 + n raises (not 0) or
 * lowers (0) wire gsi[n]; 64 KiB at 0xff000000 are memory of the device. VMC_EEXIST: something is
 * there already.
 */
VMC_API VMC_MUST_CHECK int vmc_test_device_create(struct vmc_board *bd,
                                                  const struct vmc_irq_line gsi[VMC_TEST_WIRES],
                                                  struct vmc_test_device **out,
                                                  struct vmc_error *err);
struct vmc_post_port;
/**
 * A POST code port: keeps the last value written, reads it back, and gives the low byte of each to
 * codes, on the thread of the vCPU that writes; NULL or ops NULL: to nobody.
 */
VMC_API VMC_MUST_CHECK int vmc_post_port_create(struct vmc_board *bd, uint16_t port,
                                                const struct vmc_chardev *codes,
                                                struct vmc_post_port **out, struct vmc_error *err);
/** The last value written to it; 0 before the first. Any thread. */
VMC_API uint32_t vmc_post_port_value(const struct vmc_post_port *p);

struct vmc_fpu_error;
/**
 * The FPU's error line of a PC: FERR# raises irq13, a write to port F0h clears it and asserts
 * IGNNE# until FERR# goes away.
 */
VMC_API VMC_MUST_CHECK int vmc_fpu_error_create(struct vmc_board *bd, struct vmc_irq_line irq13,
                                                struct vmc_fpu_error **out, struct vmc_error *err);
/** FERR# changed, or an instruction waits while it is asserted. Returns IGNNE#. Any thread. */
VMC_API bool vmc_fpu_error_signal(struct vmc_fpu_error *fe, bool ferr);

/* ---- chipset ------------------------------------------------------------------------------- */

struct vmc_chipset;
/** Writing SLP_TYP 1 (S3) requests VMC_STOP_SUSPEND; else it does nothing. */
#define VMC_CHIPSET_S3 1u
struct vmc_chipset_config {
    uint32_t size;
    uint32_t flags;
    struct vmc_irq_line sci;     /**< ACPI interrupt */
    struct vmc_irq_line gsi[8];  /**< PIRQ A-H as IOAPIC inputs (16-23 on a PC) */
    struct vmc_irq_line isa[16]; /**< where the PIRQ routing registers may send them */
    struct vmc_stop_sink stop;   /**< power-off and reset */
};
/**
 * Host bridge 8086:29c0 at 00.0 (PCIEXBAR, PAM, SMRAM), ISA bridge 8086:2918 at 1f.0 (PMBASE, PIRQ
 * routing, RCBA), the ACPI power-management block behind it, the reset register 0xcf9 and the APM
 * ports 0xb2-0xb3, and the PCI root bus they are on. Shadow RAM is always readable and writable:
 * the PAM registers keep what is written and have no other effect.
 */
VMC_API VMC_MUST_CHECK int vmc_chipset_create(struct vmc_board *bd,
                                              const struct vmc_chipset_config *cfg,
                                              struct vmc_chipset **out, struct vmc_error *err);
/** The root bus, to add functions to; it lives as long as the chipset. */
VMC_API struct vmc_pci_bus *vmc_chipset_pci(struct vmc_chipset *cs);
/** I/O address of the power-management block, 0: not enabled. */
VMC_API uint16_t vmc_chipset_pm_base(struct vmc_chipset *cs);
/** Press the power button: the guest is asked by its ACPI interrupt to shut down. Any thread. */
VMC_API void vmc_chipset_power_button(struct vmc_chipset *cs);
/** RTC_STS follows the rising edges of this line (vmc_rtc_set_alarm_line). */
VMC_API struct vmc_irq_line vmc_chipset_rtc_line(struct vmc_chipset *cs);
/** In S3: the power button was pressed, or an alarm came that is enabled to wake. Any thread. */
VMC_API bool vmc_chipset_wake_event(struct vmc_chipset *cs);
/** VMC_CHIPSET_S3 from now on, or not: what is booted may not know how to be woken. Any thread. */
VMC_API void vmc_chipset_offer_s3(struct vmc_chipset *cs, bool yes);
/**
 * Out of S3, after the reset of the machine: set WAK_STS and the status bit of what woke it, and
 * SCI_EN as it was.
 */
VMC_API void vmc_chipset_wake(struct vmc_chipset *cs);

/* ---- fw_cfg -------------------------------------------------------------------------------- */

struct vmc_fw_cfg;
#define VMC_FW_CFG_SIGNATURE     0x00
#define VMC_FW_CFG_ID            0x01
#define VMC_FW_CFG_UUID          0x02
#define VMC_FW_CFG_RAM_SIZE      0x03
#define VMC_FW_CFG_NOGRAPHIC     0x04
#define VMC_FW_CFG_NB_CPUS       0x05
#define VMC_FW_CFG_KERNEL_ADDR   0x07
#define VMC_FW_CFG_KERNEL_SIZE   0x08
#define VMC_FW_CFG_INITRD_ADDR   0x0a
#define VMC_FW_CFG_INITRD_SIZE   0x0b
#define VMC_FW_CFG_BOOT_DEVICE   0x0c
#define VMC_FW_CFG_NUMA          0x0d
#define VMC_FW_CFG_BOOT_MENU     0x0e
#define VMC_FW_CFG_MAX_CPUS      0x0f
#define VMC_FW_CFG_KERNEL_DATA   0x11
#define VMC_FW_CFG_INITRD_DATA   0x12
#define VMC_FW_CFG_CMDLINE_ADDR  0x13
#define VMC_FW_CFG_CMDLINE_SIZE  0x14
#define VMC_FW_CFG_CMDLINE_DATA  0x15
#define VMC_FW_CFG_SETUP_ADDR    0x16
#define VMC_FW_CFG_SETUP_SIZE    0x17
#define VMC_FW_CFG_SETUP_DATA    0x18
#define VMC_FW_CFG_FILE_DIR      0x19
#define VMC_FW_CFG_IRQ0_OVERRIDE 0x8002 /**< keys of the architecture begin at 0x8000 */
#define VMC_FW_CFG_FILE_FIRST    0x20
#define VMC_FW_CFG_MAX_FILES     64
#define VMC_FW_CFG_NAME          56 /**< with the terminator */

/** Contents of an item. Exactly one of data and read is set. Borrowed until replaced. */
struct vmc_fw_cfg_item {
    const void *data;
    /** For large or lazy contents: read bytes at offset (inside the item). Any thread. */
    int (*read)(void *ctx, uint64_t offset, void *dst, size_t bytes);
    /** The guest selects the item: contents (not the length) may be brought up to date. */
    void (*select)(void *ctx);
    void *ctx;
    uint32_t bytes;
    uint32_t pad;
};

/** The firmware configuration device of QEMU: ports 0x510-0x511, DMA at 0x514-0x51b. */
VMC_API VMC_MUST_CHECK int vmc_fw_cfg_create(struct vmc_board *bd, struct vmc_fw_cfg **out,
                                             struct vmc_error *err);
/** Set the item of a key below VMC_FW_CFG_FILE_FIRST, or of 0x8000-0x800f. While quiesced. */
VMC_API VMC_MUST_CHECK int vmc_fw_cfg_set(struct vmc_fw_cfg *fw, uint16_t key,
                                          const struct vmc_fw_cfg_item *item);
/** Set a small integer item of bytes 2, 4 or 8 (little-endian), which is copied. */
VMC_API VMC_MUST_CHECK int vmc_fw_cfg_set_int(struct vmc_fw_cfg *fw, uint16_t key, uint64_t value,
                                              unsigned bytes);
/** Add the file name, or replace its contents. VMC_ELIMIT, VMC_EINVAL. While quiesced. */
VMC_API VMC_MUST_CHECK int vmc_fw_cfg_add_file(struct vmc_fw_cfg *fw, const char *name,
                                               const struct vmc_fw_cfg_item *item);

VMC_END_DECLS

#endif
