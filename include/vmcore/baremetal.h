/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * The port to a PC without an operating system. Library: vmcore_baremetal.
 *
 * The kernel boots by Multiboot 1 or 2 (BIOS or UEFI), sets the machine up, starts every processor
 * and then calls vmc_bm_main and, on the other processors, vmc_bm_cpu_main: the embedder writes
 * those two. There are no threads and no preemption: each processor runs one loop, interrupts only
 * leave notes and call the hook. Nothing here returns an error that the caller could have avoided,
 * and a broken machine ends in a panic with a backtrace on the serial line.
 *
 * Threads: [irq] also in interrupt context, [any] on any processor outside it, [one] on the
 * processor that runs vmc_bm_main.
 */
#ifndef VMCORE_BAREMETAL_H
#define VMCORE_BAREMETAL_H

#include <stdarg.h>

#include <vmcore/io.h>
#include <vmcore/platform.h>

VMC_BEGIN_DECLS

#define VMC_BM_MAX_CPUS    256u
#define VMC_BM_MAX_MODULES 64u
#define VMC_BM_MAX_DISKS   32u
#define VMC_BM_MAX_NICS    8u

/** A file that the boot loader put into memory; read-only, there for ever. */
struct vmc_bm_module {
    const char *name; /**< its string in the boot loader's configuration */
    const void *data; /**< page-aligned */
    size_t bytes;
};

/** The machine as it was found. */
struct vmc_bm_machine {
    uint32_t size;
    uint32_t cpus;           /**< running processors, numbered from 0 */
    uint64_t ram_bytes;      /**< usable memory, the kernel's own included */
    uint64_t image_bytes;    /**< code and data of this program, less foreign_bytes */
    uint64_t foreign_bytes;  /**< ... and of the libraries that are not ours */
    uint64_t resident_bytes; /**< memory it uses without any guest, boot modules left out */
    uint64_t start_ns;       /**< from the first instruction to vmc_bm_main */
    uint64_t tsc_hz;
    const char *cmdline;
    const char *loader; /**< name of the boot loader */
    bool efi;
    const struct vmc_bm_module *modules;
    uint32_t module_count;
};

/** Written by the embedder: runs on processor 0 once everything is up. Must not return. */
void vmc_bm_main(const struct vmc_bm_machine *machine);
/** Written by the embedder: runs on every other processor. Must not return. */
void vmc_bm_cpu_main(uint32_t cpu);

/** The number of this processor. [irq] */
VMC_API uint32_t vmc_bm_this_cpu(void);
/** Monotonic time in ns. [irq] */
VMC_API uint64_t vmc_bm_now_ns(void);
/** Called in interrupt context on a processor after its timer, an IPI or a device's interrupt. */
VMC_API void vmc_bm_set_hook(void (*hook)(void *ctx, uint32_t cpu), void *ctx);
/** Interrupt a processor: its hook is called. [irq] */
VMC_API void vmc_bm_interrupt(uint32_t cpu);
/** Arm this processor's timer (absolute; UINT64_MAX: disarm). [any] */
VMC_API void vmc_bm_timer(uint64_t deadline_ns);
/** Sleep until the deadline or any interrupt since the last wait returned. [any] */
VMC_API void vmc_bm_wait(uint64_t deadline_ns);
/** Let drivers finish what their interrupts announced; calls done of requests. [any] */
VMC_API void vmc_bm_poll(void);

/**
 * A function with a stack of its own. It runs when it is told to, on the processor that made it, until
 * it yields; it must not return. For work that waits while the processor does something else.
 */
struct vmc_bm_fiber;
/** Make one; it does not run yet. VMC_ENOMEM. [any] */
VMC_API VMC_MUST_CHECK int vmc_bm_fiber_create(size_t stack_bytes, void (*fn)(void *arg), void *arg,
                                               struct vmc_bm_fiber **out);
/** Run it until it yields. Not from a fiber. */
VMC_API void vmc_bm_fiber_run(struct vmc_bm_fiber *f);
/** From a fiber: back to whoever runs it. */
VMC_API void vmc_bm_fiber_yield(void);
/** The fiber that calls; NULL: none does. [any] */
VMC_API struct vmc_bm_fiber *vmc_bm_fiber_current(void);

/* ---- memory ------------------------------------------------------------------------------------
 */

/**
 * A memory domain: a platform of its own whose pages are counted one by one. What a VM is made from
 * comes out of one, so that its end can be proved to return everything.
 */
struct vmc_bm_domain;
/** Make an empty domain. VMC_ELIMIT: too many at a time, VMC_ENOMEM. [any] */
VMC_API VMC_MUST_CHECK int vmc_bm_domain_create(struct vmc_bm_domain **out);
/** Free it, and whatever it still holds; returns how many pages that was (0: nothing leaked). */
VMC_API uint64_t vmc_bm_domain_destroy(struct vmc_bm_domain *d);
/** The platform whose memory is the domain's; valid until destroy. [any] */
VMC_API const struct vmc_platform *vmc_bm_domain_platform(struct vmc_bm_domain *d);
/** Pages it holds now. [any] */
VMC_API uint64_t vmc_bm_domain_pages(struct vmc_bm_domain *d);
/** The kernel's own domain. [any] */
VMC_API const struct vmc_platform *vmc_bm_platform(void);

struct vmc_bm_memory {
    uint64_t ram_pages, free_pages, kernel_pages;
};
/** Physical memory now, in 4 KiB pages. [any] */
VMC_API void vmc_bm_get_memory(struct vmc_bm_memory *out);

/* ---- console -----------------------------------------------------------------------------------
 */

/** Write to the serial line; never blocks for longer than the line takes. [irq] */
VMC_API void vmc_bm_write(const void *data, size_t bytes);
/** How many bytes vmc_bm_write takes now without waiting for the line. [irq] */
VMC_API size_t vmc_bm_write_room(void);
/** Take what was typed; returns how many bytes. [any] */
VMC_API size_t vmc_bm_read(void *data, size_t bytes);
/** Format to the serial line, at most 511 bytes at a time. [irq] */
VMC_API VMC_PRINTF(1, 2) void vmc_bm_printf(const char *fmt, ...);
/** Format into dst, terminated, cut after bytes - 1; returns the length it would have had. [irq] */
VMC_API size_t vmc_bm_snprintf(char *dst, size_t bytes, const char *fmt, ...) VMC_PRINTF(3, 4);
/** The same for a list of arguments. [irq] */
VMC_API VMC_PRINTF(3, 0) size_t
    vmc_bm_vsnprintf(char *dst, size_t bytes, const char *fmt, va_list ap);

/* ---- devices -----------------------------------------------------------------------------------
 */

struct vmc_bm_disk {
    const char *name; /**< "ata0", "ahci1", "nvme0", "vblk0" ... */
    const char *model;
    struct vmc_blockdev dev;
};
/** Disk number i, or NULL past the last. [any] */
VMC_API const struct vmc_bm_disk *vmc_bm_disk(uint32_t i);
/**
 * The disk is written to under a lease that ends at end_ns; 0: there is none. Once it is over, writes
 * are refused (VMC_EFENCED), and one that the disk still has is ended by starting its controller
 * anew, which takes all other requests with it (VMC_EIO): none lands later. [any]
 */
VMC_API void vmc_bm_disk_lease(const struct vmc_bm_disk *disk, uint64_t end_ns);

/** A network card. Frames that arrive are given to receive, from vmc_bm_poll. */
struct vmc_bm_nic {
    const char *name;
    uint8_t mac[6];
    struct vmc_netdev dev;
    void (*receive)(void *ctx, const void *frame, size_t bytes); /**< set by the embedder */
    void *receive_ctx;
};
/** Network card number i, or NULL past the last; it lives as long as the kernel. [any] */
VMC_API struct vmc_bm_nic *vmc_bm_nic(uint32_t i);

struct vmc_bm_cpu_stats {
    uint64_t interrupts, timer_ticks, ipis, idle_ns;
};
/** Counts of a CPU since it started; zeros for one that does not exist. [any] */
VMC_API void vmc_bm_get_cpu_stats(uint32_t cpu, struct vmc_bm_cpu_stats *out);

/** Switch the machine off. Does not return. [any] */
VMC_API __attribute__((noreturn)) void vmc_bm_power_off(void);
/** Start the machine again. Does not return. [any] */
VMC_API __attribute__((noreturn)) void vmc_bm_reset(void);
/** Something is wrong beyond repair: message, backtrace, stop. [irq] */
VMC_API __attribute__((noreturn)) VMC_PRINTF(1, 2) void vmc_bm_panic(const char *fmt, ...);

VMC_END_DECLS

#endif
