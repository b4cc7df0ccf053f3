/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * VMware's interface to guests, as far as guests need it to find their hypervisor and for VMware's
 * own balloon: the drivers of stock kernels (vmw_balloon in Linux) work on it unmodified.
 *
 * A guest calls by IN EAX from a port with arguments in registers. What is known of the interface
 * is what open guest drivers do: Linux, arch/x86/kernel/cpu/vmware.c and
 * drivers/misc/vmw_balloon.c.
 *
 * As vmcore/virtio_balloon.h, this is mechanism only: what becomes of pages and how large the
 * balloon shall be is the embedder's policy. The guest asks for its target about once a second.
 */
#ifndef VMCORE_VMWARE_H
#define VMCORE_VMWARE_H

#include <vmcore/balloon.h>
#include <vmcore/device.h>
#include <vmcore/exit.h>

VMC_BEGIN_DECLS

#define VMC_VMWARE_PORT         0x5658u
#define VMC_VMWARE_BALLOON_PORT 0x5670u

struct vmc_vmware;

struct vmc_vmware_config {
    uint32_t size;
    uint32_t pad;
    /**
     * The guest gave the range up: contents are gone, storage may be released. Called with no lock
     * held on the thread of the vCPU that says so; several vCPUs may at a time. Ranges are whole
     * pages inside one slot of RAM, and none is given twice. May be NULL.
     */
    void (*inflate)(void *ctx, uint64_t gpa, uint64_t bytes);
    /** The guest takes the range back and will use it once this returns. */
    void (*deflate)(void *ctx, uint64_t gpa, uint64_t bytes);
    void *ctx;
};

/** State of the balloon; see vmc_vmware_balloon_info. */
struct vmc_vmware_info {
    uint32_t size;
    uint32_t capabilities; /**< agreed with the driver (bits 1: pages, 2: batches, 3: 2 MiB) */
    uint64_t target_pages;
    uint64_t held_pages;  /**< in the balloon, counted by the device */
    uint64_t guest_pages; /**< what the driver says the guest has */
    uint64_t rejected;    /**< pages out of range, given twice or taken back without being held */
    uint64_t calls;       /**< of the balloon's driver */
    uint64_t large_pages; /**< of 2 MiB given so far */
    uint32_t guest_type;  /**< 1: Linux */
    bool driver;          /**< one has started */
    uint8_t pad[3];
};

/** Memory slots must have been added to the board before. While quiesced. */
VMC_API VMC_MUST_CHECK int vmc_vmware_create(struct vmc_board *bd,
                                             const struct vmc_vmware_config *cfg,
                                             struct vmc_vmware **out, struct vmc_error *err);
/**
 * A guest's call, for vmc_vm_set_port_calls; false: the registers do not make one (the magic number
 * is wrong, or nothing is at that port). Any thread.
 */
VMC_API bool vmc_vmware_call(struct vmc_vmware *dev, struct vmc_port_call *call);
/** Ask the guest for a balloon of that many 4 KiB pages (clamped to guest RAM). Any thread. */
VMC_API void vmc_vmware_set_target(struct vmc_vmware *dev, uint64_t pages);
/** State of the balloon. Any thread. */
VMC_API void vmc_vmware_balloon_info(struct vmc_vmware *dev, struct vmc_vmware_info *out);
/** What vmc_balloon_guest_look wants to know. Any thread. */
VMC_API void vmc_vmware_look(struct vmc_vmware *dev, struct vmc_balloon_seen *out);

VMC_END_DECLS

#endif
