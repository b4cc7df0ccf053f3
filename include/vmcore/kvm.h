/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * The engine on Linux's /dev/kvm. Library: vmcore_kvm.
 *
 * A thread that calls vmc_vcpu_run on this engine gets the kick signal (default SIGURG) blocked; it
 * is open only inside KVM_RUN, so that no handler is installed and no kick is lost.
 *
 * A sandbox has to allow, while vCPUs run: ioctl (KVM's), rt_sigprocmask, rt_sigtimedwait, tgkill,
 * getpid, gettid, timer_create, timer_settime, timer_delete; with paged memory (struct
 * vmc_kvm_frames) also mmap, mprotect, madvise, poll, read, futex and fallocate.
 */
#ifndef VMCORE_KVM_H
#define VMCORE_KVM_H

#include <vmcore/engine.h>
#include <vmcore/pages.h>

VMC_BEGIN_DECLS

struct vmc_kvm_frames;

/**
 * The engine, with the split interrupt controller: local APICs in the kernel, PIC and IOAPIC in
 * the library.
 */
VMC_API const struct vmc_engine_ops *vmc_engine_kvm(void);
/** The same with the local APICs in the library too: for tests, and for old kernels. */
VMC_API const struct vmc_engine_ops *vmc_engine_kvm_user_apic(void);

/** vmc_vm_config.engine_config of both engines; NULL: defaults. */
struct vmc_kvm_config {
    uint32_t size;
    uint32_t kick_signal; /**< 0: SIGURG. Its default action must be to be ignored. */
    /** Memory of the pool behind slots with a space, borrowed; NULL: such slots are refused. */
    struct vmc_kvm_frames *frames;
    /** Mappings that one slot with a space may use; 0: half of vm.max_map_count. */
    uint64_t max_mappings;
};

/* ---- paged memory ---------------------------------------------------------------------------- */

/**
 * Memory for a pool (vmcore/pages.h) whose pages KVM guests run on: a file without a name that
 * pages are mapped from, so that one frame can be at several places. Slots with a space then work
 * as with the software CPU; docs/memory.md says what the kernel must offer (Linux 6.4 and
 * userfaultfd). VMC_ENOMEM, VMC_ELIMIT, VMC_EHOST. Any thread.
 */
VMC_API VMC_MUST_CHECK int vmc_kvm_frames_create(uint64_t frames, struct vmc_kvm_frames **out,
                                                 struct vmc_error *err);
/** After the pool and all VMs that use it. NULL is fine. */
VMC_API void vmc_kvm_frames_destroy(struct vmc_kvm_frames *f);
/** Set the members of *cfg that say where the pool's memory is and how to give it back. */
VMC_API void vmc_kvm_frames_pool(struct vmc_kvm_frames *f, struct vmc_pool_config *cfg);
/** What vmc_kvm_check found. */
struct vmc_kvm_report {
    uint32_t size;
    uint32_t api_version;      /**< of /dev/kvm, 0: cannot be opened */
    bool complete;             /**< every ability the engine needs is there */
    bool runs_kernels;         /**< kernel-mode code runs, and at the speed of hardware */
    uint32_t insns_per_us;     /**< speed of kernel-mode code in the self-test */
    char missing[240];         /**< one sentence about the first thing that is wrong; "" if none */
};

/**
 * Can KVM really run a kernel here? Looks at /dev/kvm and its abilities, then runs a small guest in
 * kernel mode with interrupts, SSE and paging (a few milliseconds; at most 300). VMC_OK when
 * report->runs_kernels; VMC_ENOTSUP otherwise, and report->missing and err say why. Any thread.
 */
VMC_API VMC_MUST_CHECK int vmc_kvm_check(const struct vmc_platform *pf,
                                         struct vmc_kvm_report *report, struct vmc_error *err);

/* ---- shortcuts past the vCPU's thread; evm is vmc_vm_engine(vm) ----------------------------- */

/**
 * Guest writes of bytes (0: any width; 1, 2, 4, 8) to addr signal the eventfd fd instead of
 * exiting; match: only writes of this value, or NULL. add false takes it back. VMC_EHOST.
 */
VMC_API VMC_MUST_CHECK int vmc_kvm_ioeventfd(void *evm, bool pio, uint64_t addr, uint32_t bytes,
                                             const uint64_t *match, int fd, bool add);
/**
 * Guest writes to [addr, addr+bytes) are gathered in the kernel, and reach the bus, in order, with
 * the next exit of any kind. For registers whose writes have no immediate effect. VMC_ENOTSUP.
 */
VMC_API VMC_MUST_CHECK int vmc_kvm_coalesce(void *evm, bool pio, uint64_t addr, uint32_t bytes,
                                            bool add);

VMC_END_DECLS

#endif
