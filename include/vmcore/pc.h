/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * The standard machine: a Q35-like PC on a VM.
 *
 * Memory with the hole below 4 GiB, the platform devices at their standard places, a PCI root bus,
 * ACPI tables, and the boot of a kernel or firmware in it. The layout is listed in docs/machine.md.
 */
#ifndef VMCORE_PC_H
#define VMCORE_PC_H

#include <vmcore/boot.h>
#include <vmcore/devices.h>
#include <vmcore/pci.h>
#include <vmcore/vm.h>

VMC_BEGIN_DECLS

struct vmc_pc;

enum vmc_pc_flags {
    VMC_PC_NO_HPET = 1u << 0,
    /**
     * Offer ACPI S3 (suspend to RAM) to what is booted without firmware. The embedder handles
     * VMC_STOP_SUSPEND: it keeps timers running until vmc_pc_wake_event, then calls vmc_vm_reset
     * and vmc_pc_wake, and runs the VM again.
     */
    VMC_PC_SLEEP = 1u << 1,
};

#define VMC_PC_MIN_RAM  (1ull << 20)
#define VMC_PC_MAX_RAM  (1ull << 44)
#define VMC_PC_MAX_CPUS 1024

/** Configuration of the machine. Copied; what pointers refer to is borrowed for its life. */
struct vmc_pc_config {
    uint32_t size;
    uint32_t flags;     /**< enum vmc_pc_flags */
    uint64_t ram_bytes; /**< a multiple of the page size, VMC_PC_MIN_RAM..VMC_PC_MAX_RAM */
    void *ram;          /**< page-aligned host memory of ram_bytes, or NULL: the library's */
    /** Pages of a space (vmcore/pages.h) of at least that size instead of ram, borrowed; or NULL.
     */
    struct vmc_space *ram_space;
    uint32_t cpus; /**< present at start */
    /** I/O port that ends the run (VMC_STOP_EXIT_PORT), and with it a vmc_test_device; 0: none. */
    uint32_t exit_port;
    uint32_t post_port; /**< a POST code port beside 0x80, which is the one that counts; 0: none */
    uint32_t pad;
    struct vmc_chardev serial;   /**< COM1; ops NULL: output is dropped */
    struct vmc_chardev debugcon; /**< port 0xe9; ops NULL: output is dropped */
    struct vmc_stop_sink stop;   /**< who ends the run; stop NULL: vmc_vm_request_stop */
    struct vmc_chardev post;     /**< takes each POST code; ops NULL: nobody */
};

/** Build the machine on a VM that has not started. VMC_EINVAL, VMC_ENOMEM, VMC_EEXIST. */
VMC_API VMC_MUST_CHECK int vmc_pc_create(struct vmc_vm *vm, const struct vmc_pc_config *cfg,
                                         struct vmc_pc **out, struct vmc_error *err);
/**
 * The devices stay with the VM's board: call this after vmc_vm_destroy, or once the VM will not run
 * again. NULL is allowed.
 */
VMC_API void vmc_pc_destroy(struct vmc_pc *pc);

/** The root bus, for virtio and other functions. */
VMC_API struct vmc_pci_bus *vmc_pc_pci(struct vmc_pc *pc);
/** The firmware configuration device, to add files. */
VMC_API struct vmc_fw_cfg *vmc_pc_fw_cfg(struct vmc_pc *pc);
/** COM1, for its input. */
VMC_API struct vmc_uart *vmc_pc_serial(struct vmc_pc *pc);
/** Last value written to the POST port. */
VMC_API uint32_t vmc_pc_post_code(struct vmc_pc *pc);
/** Press the power button: an ACPI guest shuts down. Any thread. */
VMC_API void vmc_pc_power_button(struct vmc_pc *pc);

/**
 * The machine is suspended, and its RTC's alarm or the power button is to wake it. Any thread; to
 * be asked after timers have run and after vmc_pc_power_button.
 */
VMC_API bool vmc_pc_wake_event(struct vmc_pc *pc);
/**
 * End S3, after vmc_vm_reset, while quiesced: do what firmware does then, and set vCPU 0 to the
 * waking vector in the FACS (ACPI 6.4 16.3.2). Memory is as the guest left it. VMC_ESTATE when it
 * has set no vector in the first MiB, or runs on firmware.
 */
VMC_API VMC_MUST_CHECK int vmc_pc_wake(struct vmc_pc *pc, struct vmc_error *err);

/** What to boot in the machine. Borrowed for the machine's life when firmware is used. */
struct vmc_pc_boot {
    uint32_t size;
    uint32_t kind;                        /**< enum vmc_boot_kind of kernel */
    const struct vmc_image_src *firmware; /**< or NULL: kernel is started directly */
    const struct vmc_image_src *kernel;   /**< with firmware: offered through fw_cfg */
    const struct vmc_image_src *initrd;
    const char *cmdline;
    const char *name; /**< of the kernel, or NULL; Multiboot puts it before the command line */
    const struct vmc_boot_module *modules;
    uint32_t module_count;
    uint32_t flat_mode;
    uint64_t flat_gpa, flat_entry;
};

/**
 * Describe the machine (ACPI, memory map, fw_cfg, PCI addresses), load the image and set the state
 * of vCPU 0, after all devices were created and all vCPUs exist; before the first run, and again
 * after each vmc_vm_reset. While quiesced. Errors of vmc_boot_load.
 */
VMC_API VMC_MUST_CHECK int vmc_pc_boot(struct vmc_pc *pc, const struct vmc_pc_boot *boot,
                                       struct vmc_boot_result *out, struct vmc_error *err);

VMC_END_DECLS

#endif
