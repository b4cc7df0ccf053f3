/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * A virtual machine: memory, board, vCPUs, and their life cycle.
 */
#ifndef VMCORE_VM_H
#define VMCORE_VM_H

#include <vmcore/device.h>
#include <vmcore/engine.h>

VMC_BEGIN_DECLS

struct vmc_vm;
struct vmc_vcpu;

enum vmc_vm_flags {
    /** No local APIC, IOAPIC or PIC: interrupts are injected by the embedder alone. */
    VMC_VM_NO_IRQCHIP = 1u << 0,
    /**
     * Time follows retired instructions, and all vCPUs run on one thread by vmc_vm_run: two runs
     * of the same guest are the same, instruction by instruction (engines with VMC_CAP_RETIRED).
     */
    VMC_VM_DETERMINISTIC = 1u << 1,
    /** Port accesses that no device claims exit to the embedder instead of floating. */
    VMC_VM_PIO_EXITS = 1u << 2,
    /** The same for MMIO. */
    VMC_VM_MMIO_EXITS = 1u << 3,
    /** The same for MSRs that neither the engine nor the machine knows, instead of #GP. */
    VMC_VM_MSR_EXITS = 1u << 4,
    /** No hypervisor CPUID leaves and no paravirtual clock. */
    VMC_VM_NO_PARAVIRT = 1u << 5,
    /**
     * CPUID says VMware instead of KVM, and there is no paravirtual clock. For guests whose drivers
     * look for that name; the machine needs a vmc_vmware (vmcore/vmware.h) then.
     */
    VMC_VM_VMWARE = 1u << 6,
};

struct vmc_vm_config {
    uint32_t size;
    uint32_t max_vcpus;
    const struct vmc_platform *platform; /**< borrowed */
    const struct vmc_engine_ops *engine; /**< borrowed */
    const void *engine_config;           /**< engine-specific or NULL; borrowed */
    const struct vmc_cpu_policy *policy; /**< copied; NULL: the engine's ceiling */
    uint32_t flags;                      /**< enum vmc_vm_flags */
    uint32_t pad;
};

/**
 * A VM without vCPUs, memory or devices. VMC_EINVAL, VMC_ENOMEM; what the engine answers
 * (VMC_ENOTSUP).
 */
VMC_API VMC_MUST_CHECK int vmc_vm_create(const struct vmc_vm_config *cfg, struct vmc_vm **out,
                                         struct vmc_error *err);
/** While quiesced. Destroys its vCPUs, devices and memory. NULL is allowed. */
VMC_API void vmc_vm_destroy(struct vmc_vm *vm);
/** Its memory map; lives as long as the VM. Any thread. */
VMC_API struct vmc_mem *vmc_vm_mem(struct vmc_vm *vm);
/** What its devices are put on; lives as long as the VM. Any thread. */
VMC_API struct vmc_board *vmc_vm_board(struct vmc_vm *vm);
/** The engine's own object, for what the engine's header offers; NULL before creation ends. */
VMC_API void *vmc_vm_engine(struct vmc_vm *vm);
/** What the engine can do. Any thread. */
VMC_API const struct vmc_engine_info *vmc_vm_engine_info(const struct vmc_vm *vm);

/**
 * A new source on the wire of global system interrupt gsi (0-23). Sources of one wire are or-ed, so
 * devices may share it. Wires 0-15 reach the PIC pair too. As on every PC, wire 0 (the PIT) is
 * IOAPIC pin 2; pin 0 carries the PIC's output. Not connected when gsi is out of range or
 * the VM has VMC_VM_NO_IRQCHIP. While quiesced.
 */
VMC_API struct vmc_irq_line vmc_vm_gsi(struct vmc_vm *vm, uint32_t gsi);

/**
 * The wire that gates address line 20, for a keyboard controller; high: the line is on. Engines on
 * hardware ignore it.
 */
VMC_API struct vmc_irq_line vmc_vm_a20(struct vmc_vm *vm);

/** Is address line 20 off, so that the processor's physical addresses lack bit 20? From any thread. */
VMC_API bool vmc_vm_a20_off(const struct vmc_vm *vm);

/**
 * What hangs on the processors' FERR# line (struct vmc_engine_io, ferr): vmc_fpu_error_signal of a PC.
 * Called on vCPU threads. Only the software CPU reports errors this way. While quiesced.
 */
VMC_API void vmc_vm_set_ferr(struct vmc_vm *vm, bool (*ferr)(void *ctx, bool asserted), void *ctx);

/**
 * Let a guest call the hypervisor through a port: IN EAX from first to last goes to fn with the
 * registers of struct vmc_port_call, instead of to a device. fn is called on the vCPU's thread and
 * changes registers in place; false: it is no call, and the port reads as if this were not there.
 * fn NULL: none any more. While quiesced.
 */
VMC_API void vmc_vm_set_port_calls(struct vmc_vm *vm, uint16_t first, uint16_t last,
                                   bool (*fn)(void *ctx, struct vmc_port_call *call), void *ctx);

/** A device asks for the end of the run: every vCPU's run returns SHUTDOWN. Any thread. */
VMC_API void vmc_vm_request_stop(struct vmc_vm *vm, enum vmc_stop why, uint64_t detail);
/** True once a stop was requested. */
VMC_API bool vmc_vm_stopped(const struct vmc_vm *vm, uint32_t *why, uint64_t *detail);

/** Freeze topology and policy and hand them to the engine. While quiesced. */
VMC_API VMC_MUST_CHECK int vmc_vm_start(struct vmc_vm *vm, struct vmc_error *err);
/** The memory map was edited: tell the engine. While quiesced: VMC_EBUSY. */
VMC_API VMC_MUST_CHECK int vmc_vm_memory_changed(struct vmc_vm *vm);
/**
 * The dirty log of vmc_mem_dirty_*, with what engines log by themselves (KVM) included: a VM's
 * log is used through these. Start and stop while quiesced: VMC_EBUSY. take: any thread.
 */
VMC_API VMC_MUST_CHECK int vmc_vm_dirty_start(struct vmc_vm *vm, unsigned client);
/** End a client's log. VMC_EBUSY; what the engine answers. */
VMC_API VMC_MUST_CHECK int vmc_vm_dirty_stop(struct vmc_vm *vm, unsigned client);
/** As vmc_mem_dirty_take: VMC_ERANGE, VMC_ESTATE; what the engine answers. */
VMC_API VMC_MUST_CHECK int vmc_vm_dirty_take(struct vmc_vm *vm, unsigned client, uint64_t gpa,
                                             uint64_t pages, uint64_t *bitmap, size_t words);
/** Ask every vCPU to leave run with KICKED and stay out; does not wait. Any thread. */
VMC_API void vmc_vm_pause(struct vmc_vm *vm);
/** Between pause and resume. Any thread. */
VMC_API bool vmc_vm_paused(const struct vmc_vm *vm);
/** No vCPU is inside run. Any thread. */
VMC_API bool vmc_vm_quiesced(const struct vmc_vm *vm);
/** Wait for it; needs platform.sync. VMC_ENOTSUP, VMC_EAGAIN after deadline_ns. */
VMC_API VMC_MUST_CHECK int vmc_vm_pause_wait(struct vmc_vm *vm, uint64_t deadline_ns);
/** Let vCPUs run again; the wake hook is called for each of them. */
VMC_API void vmc_vm_resume(struct vmc_vm *vm);
/** All vCPUs and devices to the state after power-on; a stop request is cleared. While quiesced. */
VMC_API VMC_MUST_CHECK int vmc_vm_reset(struct vmc_vm *vm);

/* ---- vCPUs --------------------------------------------------------------------------------- */

/**
 * Make vCPU number index, in its state after power-on. The VM owns it. Before vmc_vm_start: VMC_ESTATE;
 * VMC_ERANGE, VMC_EEXIST, VMC_ENOMEM; what the engine answers.
 */
VMC_API VMC_MUST_CHECK int vmc_vcpu_create(struct vmc_vm *vm, uint32_t index,
                                           struct vmc_vcpu **out, struct vmc_error *err);
/** vCPU number index, or NULL. */
VMC_API struct vmc_vcpu *vmc_vm_vcpu(struct vmc_vm *vm, uint32_t index);
/**
 * Run until something the library does not handle. 0: *exit says what; negative: the host failed.
 * A thread owns a vCPU while inside; ownership may move between calls. VMC_ESTATE: a completion
 * is owed.
 */
VMC_API VMC_MUST_CHECK int vmc_vcpu_run(struct vmc_vcpu *v, const struct vmc_run_limits *lim,
                                        struct vmc_exit *exit);
/**
 * Run every vCPU of the VM on this thread in turns, each for a slice of instructions, until
 * something the library does not handle; *who is the vCPU that the exit is about. For machines
 * without threads, and the only way to run a VMC_VM_DETERMINISTIC VM, whose clock it drives (while
 * every vCPU is idle it jumps to the next timer). max_insns and deadline_ns count for the VM as a
 * whole; VMC_RUN_SELF_TIMED is implied. VMC_ENOTSUP: the engine has no VMC_CAP_RETIRED.
 */
VMC_API VMC_MUST_CHECK int vmc_vm_run(struct vmc_vm *vm, const struct vmc_run_limits *lim,
                                      struct vmc_vcpu **who, struct vmc_exit *exit);
/**
 * For embedders that run many vCPUs on few processors and do not park in run (no VMC_RUN_PARK): fn
 * is called whenever vCPU index may have something to do and is not executing guest code; after an
 * IDLE exit it is what ends the idleness. It may come before run has returned IDLE, and without a
 * reason. From any thread that may wake a vCPU, under the rules for callbacks of the platform. One
 * hook a VM; NULL: none. While quiesced.
 */
VMC_API void vmc_vm_set_wake_hook(struct vmc_vm *vm, void (*fn)(void *ctx, uint32_t index),
                                  void *ctx);
/**
 * Tell guests how much time was stolen from their vCPUs (VMC_MSR_KVM_STEAL_TIME): fn gives the total
 * of vCPU index, in ns, that never goes back. It is called on the vCPU's thread when run is entered
 * and left, and when the guest asks. Before vmc_vm_start, which announces it to the guest; engines
 * that report stolen time themselves (KVM) do not call it.
 */
VMC_API void vmc_vm_set_steal_clock(struct vmc_vm *vm, uint64_t (*fn)(void *ctx, uint32_t index),
                                    void *ctx);
/** What a vCPU does, for vmc_vm_set_trace. */
enum vmc_vm_trace {
    VMC_TRACE_ENTER, /**< into the engine */
    VMC_TRACE_EXIT,  /**< out of it; detail: enum vmc_exit_kind, NONE when a request came first */
    VMC_TRACE_IRQ,   /**< takes an interrupt of the VM layer's controllers; detail: the vector */
    VMC_TRACE_SLEEP, /**< parks, having nothing to do (VMC_RUN_PARK) */
    VMC_TRACE_WAKE,  /**< is awake again */
};
/**
 * Call fn at each of these moments, on the thread that runs the vCPU; IRQ also from inside the
 * engine. It must not call back into the VM. NULL: no more. While quiesced.
 */
VMC_API void vmc_vm_set_trace(struct vmc_vm *vm,
                              void (*fn)(void *ctx, uint32_t index, enum vmc_vm_trace what,
                                         uint64_t detail),
                              void *ctx);
/** Number of a vCPU. */
VMC_API uint32_t vmc_vcpu_index(const struct vmc_vcpu *v);
/** Finish the exit that run returned. VMC_ESTATE when none is owed. */
VMC_API VMC_MUST_CHECK int vmc_vcpu_complete(struct vmc_vcpu *v, const struct vmc_exit *exit);
/**
 * Read groups (VMC_ST_*) of the state, others stay as they are in *st. Owner's thread, or while
 * quiesced. VMC_EINVAL: unknown groups; what the engine answers.
 */
VMC_API VMC_MUST_CHECK int vmc_vcpu_get_state(struct vmc_vcpu *v, uint32_t groups,
                                              struct vmc_x86_state *st);
/**
 * Set groups of the state. Owner's thread, or while quiesced. VMC_EINVAL: unknown groups, or values
 * that no processor can hold; VMC_ESTATE: a completion is owed.
 */
VMC_API VMC_MUST_CHECK int vmc_vcpu_set_state(struct vmc_vcpu *v, uint32_t groups,
                                              const struct vmc_x86_state *st);
/**
 * Deliver an exception, interrupt or NMI at the next entry. Owner's thread. VMC_ESTATE: a
 * completion is owed; VMC_EAGAIN: the guest cannot take it now.
 */
VMC_API VMC_MUST_CHECK int vmc_vcpu_inject(struct vmc_vcpu *v, const struct vmc_event *e);
/** Make run return KICKED soon; a kick before run is not lost. Any thread, signal-safe. */
VMC_API void vmc_vcpu_kick(struct vmc_vcpu *v);
/** Breakpoints and watchpoints; DEBUG exits report them. VMC_ENOTSUP. */
VMC_API VMC_MUST_CHECK int vmc_vcpu_set_debug(struct vmc_vcpu *v, const struct vmc_breakpoint *bp,
                                              size_t n);

/** Exits counted by kind, and time. */
struct vmc_vcpu_stats {
    uint32_t size;
    uint32_t pad;
    uint64_t exits[32]; /**< by enum vmc_exit_kind, handled inside or returned */
    uint64_t retired;   /**< instructions, where the engine counts */
    uint64_t guest_ns;  /**< inside the engine */
    uint64_t idle_ns;   /**< parked */
    uint64_t irqs;      /**< interrupts delivered */
    uint64_t pio, mmio; /**< device accesses, with or without an exit */
};
/** Counts since creation. Any thread; exact while the vCPU does not run. */
VMC_API void vmc_vcpu_get_stats(struct vmc_vcpu *v, struct vmc_vcpu_stats *out);
/** The engine's own counters; returns how many exist. */
VMC_API size_t vmc_vcpu_engine_stats(struct vmc_vcpu *v, const char **names, uint64_t *values,
                                     size_t max);

VMC_END_DECLS

#endif
