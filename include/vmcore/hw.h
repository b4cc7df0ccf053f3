/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * What a kernel gives the VT-x and SVM engines: privileged operations, and what the processor's
 * state is made of.
 *
 * The engines decide everything and execute nothing privileged themselves, so they run under a
 * unit test against a model of a processor as well as in a kernel. A kernel does not write these
 * operations: vmc_baremetal_hw (backends/baremetal/engine) fills in all that are instructions; the
 * kernel adds percpu and to_phys, and timer where it has one. It also needs platform.pages and
 * platform.cpu (platform.h). Unstable: it may change in a minor release.
 *
 * Contract of a kernel that runs these engines:
 *  - CPL 0, 64-bit mode, a GDT with a TSS loaded in TR, an IDT, its stack mapped; interrupts on
 *    while vmc_vcpu_run is called. Its own x87, SSE and AVX registers, XCR0, CR2, DR0-DR3 and the
 *    MSRs of SYSCALL are not preserved by run. Its interrupt handlers do not use them either.
 *  - Every processor that runs vCPUs has called vmc_hw_cpu_up.
 *  - Between the start and the end of a call for one vCPU no other vCPU is run on that processor
 *    (interrupt handlers may call kick and irq_notify), and the call stays on it.
 *  - platform.cpu.interrupt sends an IPI to another processor; its handler needs to do nothing but
 *    acknowledge it. It may be called with interrupts on or off.
 */
#ifndef VMCORE_HW_H
#define VMCORE_HW_H

#include <vmcore/engine.h>

VMC_BEGIN_DECLS

/** Flags of both frames. */
#define VMC_HW_LAUNCHED  0x01u /**< VT-x: the VMCS was launched: VMRESUME */
#define VMC_HW_TIMER     0x02u /**< VT-x: write timer to the preemption-timer field */
#define VMC_HW_CLEAR_CPU 0x04u /**< overwrite CPU buffers (VERW) before entry */
#define VMC_HW_FILL_RSB  0x08u /**< overwrite the return stack buffer after exit */
#define VMC_HW_FLUSH_L1D 0x10u /**< flush the L1 data cache before entry */
#define VMC_HW_SET_IBRS  0x20u /**< write SPEC_CTRL.IBRS after exit */
#define VMC_HW_POSTED    0x40u /**< VT-x: *posted not zero prevents the entry */

/** Results of vmx_run and svm_run. */
#define VMC_HW_EXITED    0 /**< the guest ran and exited */
#define VMC_HW_STOPPED   1 /**< *stop was not zero: the guest was not entered */
#define VMC_HW_FAIL      2 /**< VMfailValid: the VM-instruction error is in reason */
#define VMC_HW_FAIL_VMCS 3 /**< VMfailInvalid: there is no current VMCS */

/**
 * One VT-x entry and exit. The layout is known to assembly (offsets are asserted there). Values
 * are written to and read from the current VMCS by the operation itself, in one sequence.
 */
struct vmc_hw_vmx_frame {
    uint64_t *gpr;             /**< 16 registers in encoding order, in and out; RSP's is not used */
    const uint32_t *stop;      /**< looked at with interrupts off: not zero prevents the entry */
    uint64_t rip;              /**< in: written; out: read */
    uint64_t rflags;           /**< out */
    uint64_t qualification;    /**< out */
    uint32_t reason;           /**< out */
    uint32_t insn_len;         /**< out; valid for exits caused by instructions */
    uint32_t interruptibility; /**< out */
    uint32_t flags;            /**< in: VMC_HW_* */
    uint64_t timer;            /**< in, with VMC_HW_TIMER */
    uint64_t gpa;              /**< out, where there is EPT */
    uint64_t idt_info;         /**< out: IDT-vectoring information */
    const uint32_t *posted;    /**< in, with VMC_HW_POSTED: looked at with interrupts off */
};

/** One SVM entry and exit. RAX, RSP, RIP and RFLAGS are in the VMCB. */
struct vmc_hw_svm_frame {
    uint64_t *gpr;        /**< 16 registers; RAX's and RSP's are not used */
    const uint32_t *stop; /**< looked at with GIF clear: not zero prevents the entry */
    uint64_t vmcb;        /**< host-physical address of the guest's VMCB */
    uint64_t host_vmcb;   /**< of the page that VMSAVE keeps the host's state in */
    uint32_t flags;       /**< VMC_HW_* */
    uint32_t pad;
};

/** The host state that a VM exit has to restore, of this processor now. */
struct vmc_hw_host {
    uint64_t cr0, cr3, cr4, efer, pat;
    uint64_t fs_base, gs_base, tr_base, gdtr_base, idtr_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t exit_rip; /**< where vmx_run continues after an exit */
    uint16_t es, cs, ss, ds, fs, gs, tr, pad;
};

#define VMC_HW_PERCPU_BYTES 256

/**
 * vmc_hw_ops.flags: whatever the callbacks of vmc_engine_io reach, the embedder's back ends
 * included, uses no x87, SSE or AVX register, so that a guest's may stay in the processor
 * meanwhile.
 */
#define VMC_HW_KEEPS_FPU 1u

/**
 * Privileged operations. ctx is platform.ctx. They act on the calling processor. None fails unless
 * it says so.
 */
struct vmc_hw_ops {
    uint32_t size;  /**< sizeof(struct vmc_hw_ops) */
    uint32_t flags; /**< VMC_HW_KEEPS_FPU */

    /* -- from the kernel -- */
    /** VMC_HW_PERCPU_BYTES bytes of this processor, 64-byte aligned, zeroed before vmc_hw_cpu_up.
     */
    void *(*percpu)(void *ctx);
    /**
     * Host-physical address of a mapped byte of guest memory (what vmc_mem_slot.backing or
     * platform.alloc gave), and how many bytes from it on are contiguous (at least to the page's
     * end). VMC_HW_NO_PHYS: not mapped.
     */
    uint64_t (*to_phys)(void *ctx, const void *va, uint64_t *run);
    /**
     * See to it that this processor takes an interrupt at deadline_ns (of now_ns) at the latest,
     * and then every now and again until 0 is given, which says that it is no longer needed: the
     * first one may come just before the guest is entered. NULL: deadlines are kept to the kernel's
     * own tick. Not used where the processor has a preemption timer.
     */
    void (*timer)(void *ctx, uint64_t deadline_ns);
    /**
     * Posted interrupts: send notify_vector, 32 to 255, to another processor. Its handler needs to
     * do nothing but acknowledge it. Any thread, interrupts on or off. NULL: none are posted.
     */
    void (*notify)(void *ctx, uint32_t cpu);
    uint32_t notify_vector;
    uint32_t pad;

    /* -- instructions, from vmc_baremetal_hw -- */
    void (*cpuid)(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
    uint64_t (*rdtsc)(void *ctx);
    uint64_t (*rdmsr)(void *ctx, uint32_t index);
    void (*wrmsr)(void *ctx, uint32_t index, uint64_t value);
    void (*host)(void *ctx, struct vmc_hw_host *out);
    uint64_t (*read_cr)(void *ctx, unsigned n); /**< 0, 2, 3, 4 */
    void (*write_cr)(void *ctx, unsigned n, uint64_t value);
    uint64_t (*read_dr)(void *ctx, unsigned n); /**< 0-3, 6, 7 */
    void (*write_dr)(void *ctx, unsigned n, uint64_t value);
    uint64_t (*read_xcr0)(void *ctx);
    void (*write_xcr0)(void *ctx, uint64_t value);
    /** XSAVE or, mask 0, FXSAVE to a 64-byte aligned area; and the reverse. */
    void (*fpu_save)(void *ctx, void *area, uint64_t mask);
    void (*fpu_load)(void *ctx, const void *area, uint64_t mask);
    /** Deliver an interrupt, NMI or machine check that ended the guest to the kernel's handler. */
    void (*raise)(void *ctx, unsigned vector);

    /* VT-x; 0, or VMC_HW_FAIL, VMC_HW_FAIL_VMCS */
    int (*vmxon)(void *ctx, uint64_t hpa);
    void (*vmxoff)(void *ctx);
    int (*vmclear)(void *ctx, uint64_t hpa);
    int (*vmptrld)(void *ctx, uint64_t hpa);
    int (*vmread)(void *ctx, uint32_t field, uint64_t *value);
    int (*vmwrite)(void *ctx, uint32_t field, uint64_t value);
    int (*invept)(void *ctx, uint64_t type, uint64_t eptp);
    int (*invvpid)(void *ctx, uint64_t type, uint16_t vpid, uint64_t gva);
    int (*vmx_run)(void *ctx, struct vmc_hw_vmx_frame *f);
    /* SVM */
    int (*svm_run)(void *ctx, struct vmc_hw_svm_frame *f);
};
#define VMC_HW_NO_PHYS UINT64_MAX

/** What a processor has. */
enum vmc_hw_kind { VMC_HW_NONE, VMC_HW_VMX, VMC_HW_SVM };

/**
 * Which of the two this processor has and firmware allows; err says why it is NONE. pf->hw must be
 * set.
 */
VMC_API enum vmc_hw_kind vmc_hw_detect(const struct vmc_platform *pf, struct vmc_error *err);
/**
 * Switch it on for this processor; interrupts may be on. Before the first vCPU runs here.
 * VMC_ENOTSUP, VMC_ENOMEM, VMC_ESTATE (it is on already), VMC_EHOST.
 */
VMC_API VMC_MUST_CHECK int vmc_hw_cpu_up(const struct vmc_platform *pf, struct vmc_error *err);
/** Switch it off again. No vCPU may run here any more. */
VMC_API void vmc_hw_cpu_down(const struct vmc_platform *pf);

/** vmc_engine_vm_config.engine_config of both engines; NULL is the same as all members 0. */
struct vmc_hw_config {
    uint32_t size;
    uint32_t flags; /**< VMC_HW_CFG_* */
};
#define VMC_HW_CFG_NO_NESTED 1u /**< shadow paging even where the processor has EPT or NPT */
#define VMC_HW_CFG_NO_UG     2u /**< VT-x: as if it had no unrestricted guest */
#define VMC_HW_CFG_4K        4u /**< no large pages in EPT and NPT */
#define VMC_HW_CFG_APIC      8u /**< VT-x: local APICs in the processor also without posted interrupts \
                                 */
#define VMC_HW_CFG_NO_APIC 16u /**< VT-x: never */

/** Intel VT-x. Needs platform.hw, pages and cpu. */
VMC_API const struct vmc_engine_ops *vmc_engine_vmx(void);
/** AMD SVM. Needs platform.hw, pages and cpu. */
VMC_API const struct vmc_engine_ops *vmc_engine_svm(void);

VMC_END_DECLS

#endif
