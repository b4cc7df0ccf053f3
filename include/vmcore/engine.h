/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * The interface between the VM layer and what executes guest instructions.
 *
 * An engine executes and reports; it knows no device and decides no policy. Unstable: it may
 * change in a minor release.
 */
#ifndef VMCORE_ENGINE_H
#define VMCORE_ENGINE_H

#include <vmcore/cpuid.h>
#include <vmcore/exit.h>
#include <vmcore/memory.h>
#include <vmcore/x86_state.h>

VMC_BEGIN_DECLS

#define VMC_ENGINE_ABI 1

/** What an engine can do. */
enum vmc_cap {
    VMC_CAP_RETIRED = 1u << 0,  /**< exact instruction counts; max_insns of any size */
    VMC_CAP_IRQCHIP = 1u << 1,  /**< owns the local APICs; the VM layer sends MSIs and lines to it */
    VMC_CAP_DEADLINE = 1u << 2, /**< run returns at deadline_ns by itself */
    VMC_CAP_CPUID_EXIT = 1u << 3,
    VMC_CAP_MSR_EXIT = 1u << 4,
    VMC_CAP_STEP = 1u << 5,       /**< max_insns == 1 */
    VMC_CAP_BREAKPOINT = 1u << 6, /**< set_debug */
    VMC_CAP_DIRTY_LOG = 1u << 7,  /**< dirty pages must be collected by dirty_fetch */
    VMC_CAP_IRQ_PULL = 1u << 8,   /**< takes interrupts by vmc_engine_io.irq_* during run */
    VMC_CAP_PAUSE = 1u << 9,      /**< PAUSE exits */
};

/** Answers of vmc_engine_io callbacks. */
#define VMC_IO_DONE 0 /**< handled; data is valid */
#define VMC_IO_EXIT 1 /**< not claimed: end the instruction without effect and exit to the embedder */
#define VMC_IO_GP   2 /**< msr only: #GP(0) */

/**
 * What an engine that runs in this address space may call while it executes, so that a claimed
 * device access needs no exit. Engines that exit for every access (KVM) do not use it.
 * All of it runs on the vCPU's thread. The guest's FPU state must have been saved before a call
 * to anything that may leave the library.
 */
struct vmc_engine_io {
    void *ctx; /**< the vCPU of the VM layer */
    int (*pio)(void *ctx, bool write, uint16_t port, unsigned bytes, uint32_t *data);
    int (*mmio)(void *ctx, bool write, uint64_t gpa, unsigned bytes, uint64_t *data);
    /** MSRs that the machine owns: APIC base, x2APIC, TSC deadline, paravirtual clock ... */
    int (*msr)(void *ctx, bool write, uint32_t index, uint64_t *value);
    /** Highest-priority interrupt ready for delivery, or -1. Does not change anything. */
    int (*irq_pending)(void *ctx);
    /** Accept it: returns the vector (or -1 when it went away). */
    int (*irq_ack)(void *ctx);
    uint64_t (*get_tpr)(void *ctx); /**< CR8: task priority bits 7:4, right-justified */
    /** Calls irq_notify if the new priority lets an interrupt in. */
    void (*set_tpr)(void *ctx, uint64_t cr8);
    /**
     * FERR#: an x87 instruction waits with an error pending and CR0.NE clear (true), or the error
     * is gone (false). Returns IGNNE#: go on. May be NULL: errors are #MF whatever NE says.
     */
    bool (*ferr)(void *ctx, bool asserted);
    /**
     * For a processor that works on the registers of a local APIC by itself: copies them to page,
     * of 1024 bytes in the layout of SDM 3A table 11-1, as far as guests read them without effect.
     * Requested interrupts (IRR) move there. level: a bit for each vector whose end of interrupt
     * (EOI) has to be told by apic_eoi. Returns VMC_APIC_*; KEPT: nothing was lent. On the vCPU's
     * thread; until apic_return, no other callback here may be used that has to do with the local
     * APIC but apic_post. All five may be NULL.
     */
    uint32_t (*apic_lend)(void *ctx, uint8_t *page, uint32_t level[8]);
    /** Takes back ISR, IRR, the task priority, the upper half of the ICR. True: one is requested. */
    bool (*apic_return)(void *ctx, const uint8_t *page);
    /** The processor has done the EOI of this vector of level. */
    void (*apic_eoi)(void *ctx, uint8_t vector);
    /**
     * Moves requests for edge-triggered interrupts to 256 bits of the engine, by atomic operations;
     * any thread. False: there are others, which wait for apic_lend or irq_ack.
     */
    bool (*apic_post)(void *ctx, uint32_t requests[8]);
    /** Puts what is left of them back, and wakes the vCPU as for a new request. Any thread. */
    void (*apic_unpost)(void *ctx, uint32_t requests[8]);
    /**
     * The guest wrote the TSC or TSC_ADJUST, and read_tsc tells the new one: a TSC deadline is
     * nearer or farther now. On the vCPU's thread; may be NULL.
     */
    void (*tsc_moved)(void *ctx);
};

/** What apic_lend returns. */
#define VMC_APIC_KEPT   0u /**< it is switched off, or not at its default address */
#define VMC_APIC_XAPIC  1u /**< registers are memory */
#define VMC_APIC_X2APIC 2u /**< registers are MSRs */

/** vmc_run_limits.flags. The first two are for vmc_vcpu_run; engines ignore them. */
#define VMC_RUN_PARK       1u /**< sleep inside run while idle (needs platform.sync) */
#define VMC_RUN_SELF_TIMED 2u /**< advance the VM's timer queue between entries */

struct vmc_run_limits {
    uint32_t size;
    uint32_t flags;     /**< VMC_RUN_* */
    uint32_t exit_mask; /**< bits 1 << kind: return these even when the VM layer could handle them */
    /**
     * PAUSE instructions close behind each other that make a PAUSE exit; 0: none do. Engines without
     * VMC_CAP_PAUSE ignore it.
     */
    uint32_t pause_limit;
    uint64_t max_insns;   /**< 0: no limit */
    uint64_t deadline_ns; /**< of the platform's clock; 0: none */
    uint64_t virtual_ns;  /**< VMC_ENGINE_VIRTUAL_TIME: the VM's clock at the start of this run */
};

struct vmc_engine_info {
    uint32_t size;
    uint32_t caps; /**< VMC_CAP_* */
    size_t vm_bytes, vcpu_bytes; /**< storage that the VM layer allocates, zeroed, 64-byte aligned */
    uint32_t max_vcpus;
    uint32_t pad;
    struct vmc_cpu_policy ceiling; /**< the most that set_policy accepts */
};

/** A breakpoint or watchpoint for set_debug. */
struct vmc_breakpoint {
    uint64_t gva;
    uint32_t bytes; /**< 1 for execution, 1..8 for data */
    uint32_t kind;  /**< VMC_BP_* */
};
#define VMC_BP_EXEC  0
#define VMC_BP_WRITE 1
#define VMC_BP_RW    2
#define VMC_BP_READ  3

/** Fixed inputs of vm_init. All borrowed for the VM's life. */
struct vmc_engine_vm_config {
    uint32_t size;
    uint32_t max_vcpus;
    const struct vmc_platform *platform;
    struct vmc_mem *mem;
    const void *engine_config; /**< engine-specific, or NULL */
    uint32_t flags;            /**< VMC_ENGINE_* */
    uint32_t pad;
};
/**
 * Deterministic mode, for engines with VMC_CAP_RETIRED: an instruction takes one nanosecond. The
 * TSC runs at 1 GHz and equals vmc_run_limits.virtual_ns plus the instructions retired since the
 * start of run (plus what the guest wrote to it); nothing depends on the host's clock.
 */
#define VMC_ENGINE_VIRTUAL_TIME 1u
/** The VM layer has no interrupt controllers: the engine must not create any either. */
#define VMC_ENGINE_NO_IRQCHIP 2u

/**
 * The operations of an engine. Unless said otherwise they are called by the thread that owns the
 * vCPU and never during run. Negative results mean that the host failed.
 */
struct vmc_engine_ops {
    uint32_t abi; /**< VMC_ENGINE_ABI */
    const char *name;
    /** Can it work here? err says what is missing. */
    int (*probe)(const struct vmc_platform *pf, struct vmc_engine_info *out,
                 struct vmc_error *err);
    int (*vm_init)(void *evm, const struct vmc_engine_vm_config *cfg, struct vmc_error *err);
    void (*vm_fini)(void *evm);
    /** io is NULL where the engine does not use it. The vCPU starts in the state after RESET. */
    int (*vcpu_init)(void *evm, void *ev, uint32_t index, const struct vmc_engine_io *io,
                     struct vmc_error *err);
    void (*vcpu_fini)(void *ev);
    /** Before the first run; VMC_ENOTSUP names the leaf that is too much. */
    int (*set_policy)(void *evm, const struct vmc_cpu_policy *policy, struct vmc_error *err);
    /** Execute. 0: *out says why it stopped. */
    int (*run)(void *ev, const struct vmc_run_limits *lim, struct vmc_exit *out);
    /**
     * Finish an exit that needs completion: the instruction retires here, or at the latest before
     * the state is next looked at; no interrupt comes in between. An instruction that makes several
     * accesses exits again with the next run.
     * VMC_ESTATE when none is owed; run and set_state answer VMC_ESTATE while one is.
     */
    int (*complete)(void *ev, const struct vmc_exit *done);
    int (*get_state)(void *ev, uint32_t groups, struct vmc_x86_state *st);
    int (*set_state)(void *ev, uint32_t groups, const struct vmc_x86_state *st);
    /** 0: e would be delivered before the next instruction; VMC_EAGAIN: blocked. */
    int (*can_inject)(void *ev, const struct vmc_event *e);
    int (*inject)(void *ev, const struct vmc_event *e);
    /** Exit with IRQ_WINDOW as soon as an interrupt can be injected. */
    int (*want_window)(void *ev, bool on);
    /**
     * Make run return KICKED soon; sticky: a kick before run ends that run at once. Kicks that
     * were not yet reported collapse into one. Any thread, signal-safe. With VMC_CAP_IRQCHIP, where
     * a halted vCPU stays in run, a kick that finds it waiting for a SIPI or in HLT with interrupts
     * off reports IDLE instead.
     */
    void (*kick)(void *ev);
    /**
     * Look at irq_pending soon; a halted vCPU wakes. Sticky until irq_pending was called. Any
     * thread, signal-safe. Engines with VMC_CAP_IRQ_PULL.
     */
    void (*irq_notify)(void *ev);
    /** The memory map changed (while quiesced): re-read it. */
    int (*mem_changed)(void *evm);
    /** Start or stop logging writes of vCPUs. While quiesced. VMC_CAP_DIRTY_LOG. */
    int (*dirty_log)(void *evm, bool on);
    /**
     * Take the engine's dirty bits of a range that lies in one slot: or-ed into bitmap, one bit a
     * page from gpa on. Any thread. VMC_CAP_DIRTY_LOG.
     */
    int (*dirty_fetch)(void *evm, uint64_t gpa, uint64_t pages, uint64_t *bitmap);
    int (*irq_line)(void *evm, uint32_t gsi, bool level);  /**< VMC_CAP_IRQCHIP */
    int (*msi)(void *evm, uint64_t addr, uint32_t data);   /**< VMC_CAP_IRQCHIP. Any thread. */
    /**
     * VMC_CAP_IRQCHIP: the message that IOAPIC pin now sends, so that the engine knows which
     * vectors need an EOI exit (level: it does). Any thread. May be NULL.
     */
    int (*ioapic_route)(void *evm, uint32_t pin, uint64_t addr, uint32_t data, bool level);
    /**
     * The guest's TSC at this moment, and its frequency. On the vCPU's thread, also from inside
     * vmc_engine_io callbacks. With VMC_ENGINE_VIRTUAL_TIME, *clock is the VM's clock now
     * (virtual_ns + instructions retired in this run), which the guest cannot change.
     * clock may be NULL. Not needed from engines with VMC_CAP_IRQCHIP.
     */
    int (*read_tsc)(void *ev, uint64_t *tsc, uint64_t *hz, uint64_t *clock);
    int (*set_debug)(void *ev, const struct vmc_breakpoint *bp, size_t n); /**< VMC_CAP_BREAKPOINT */
    /** Counters as name/value pairs for statistics; returns how many exist. May be NULL. */
    size_t (*stats)(void *ev, const char **names, uint64_t *values, size_t max);
    /**
     * Address line 20: while it is off, bit 20 of all addresses that processors access is 0. On at
     * first; a vCPU obeys before its next instruction. Any thread. NULL: it is always on.
     */
    void (*set_a20)(void *evm, bool on);
};

/** What the host code of a piece of a translation is for. */
enum vmc_code_kind {
    VMC_CODE_ENTRY, /**< in front of the first instruction */
    VMC_CODE_BODY,  /**< an instruction */
    VMC_CODE_LOOP_ENTRY,
    VMC_CODE_LOOP, /**< an instruction in the second copy of a loop */
    VMC_CODE_COLD, /**< what an instruction rarely needs, behind all others */
};

/** Host code of one guest instruction. It ends where the next piece begins. */
struct vmc_code_piece {
    uint64_t gva;         /**< linear address of the instruction */
    const uint8_t *guest; /**< its bytes, or NULL: none (VMC_CODE_ENTRY, VMC_CODE_LOOP_ENTRY) */
    uint32_t offset;      /**< of the host code in the translation */
    uint8_t guest_bytes;
    uint8_t kind; /**< enum vmc_code_kind */
};

/** Guest code that was translated. */
struct vmc_translation {
    uint64_t gva;     /**< linear address of the first instruction */
    uint32_t bits;    /**< size of the guest's code: 32 or 64 */
    uint32_t pieces;  /**< how many there are, in order of their offsets */
    const void *host; /**< the host code (64-bit), where it will run */
    size_t bytes;
    const struct vmc_code_piece *piece;
};

/** vmc_soft_config.flags: translate hot 64-bit code where the host and the platform allow it. */
#define VMC_SOFT_TRANSLATE 1u
/** ... and all other 64-bit code too, the first time it runs: for tests. */
#define VMC_SOFT_TRANSLATE_ALL 2u

/** vmc_engine_vm_config.engine_config of the software CPU; all members may be 0. */
struct vmc_soft_config {
    uint32_t size;
    uint32_t flags; /**< VMC_SOFT_* */
    /**
     * Called before each instruction with its disassembly: "vcpu cs:rip text". Slow. On the vCPU's
     * thread; must not call back into the library.
     */
    void (*trace)(void *ctx, uint32_t vcpu, const char *line);
    void *trace_ctx;
    /**
     * Called when guest code was translated, for profilers and listings; *t and all that it points
     * to is valid during the call. The same host addresses may be reported again later. As trace
     * otherwise.
     */
    void (*translated)(void *ctx, uint32_t vcpu, const struct vmc_translation *t);
    void *translated_ctx;
    /**
     * Memory for translated code of each vCPU, at most: a power of two from 4 MiB to 1 GiB; 0: 128
     * MiB. 64 MiB are used at first, and more when these are too few. When it is full the oldest
     * translations go, a sixteenth at a time or less. Records beside it take half as much.
     */
    uint64_t code_bytes;
};

/** The software CPU: exact interpreter. Works on any x86-64 host. */
VMC_API const struct vmc_engine_ops *vmc_engine_soft(void);

VMC_END_DECLS

#endif
