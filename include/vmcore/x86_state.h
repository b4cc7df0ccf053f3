/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * The state of an x86 processor at the engine boundary, in groups.
 *
 * This is a transfer format: engines keep their own hot copy. It never goes to disk as it is.
 */
#ifndef VMCORE_X86_STATE_H
#define VMCORE_X86_STATE_H

#include <vmcore/types.h>

VMC_BEGIN_DECLS

/** Groups, for get_state and set_state. */
enum vmc_state_group {
    VMC_ST_GPR = 1u << 0,    /**< RAX..R15 */
    VMC_ST_RIP = 1u << 1,    /**< RIP, RFLAGS, interrupt shadow */
    VMC_ST_SEG = 1u << 2,    /**< segment registers, LDTR, TR */
    VMC_ST_TABLES = 1u << 3, /**< GDTR, IDTR */
    VMC_ST_CTRL = 1u << 4,   /**< CR0 CR2 CR3 CR4 CR8, EFER, XCR0, PDPTEs */
    VMC_ST_DEBUG = 1u << 5,  /**< DR0-3, DR6, DR7 */
    VMC_ST_MSR = 1u << 6,    /**< the system MSRs of struct vmc_x86_msrs */
    VMC_ST_EVENT = 1u << 7,  /**< injected and pending events, NMI blocking */
    VMC_ST_FPU = 1u << 8,    /**< XSAVE area */
    VMC_ST_CLOCK = 1u << 9,  /**< TSC */
    VMC_ST_RUN = 1u << 10,   /**< activity */
    VMC_ST_LAPIC = 1u << 11, /**< the local APIC's registers, where the engine owns it */
    VMC_ST_ALL = (1u << 12) - 1,
};

/** Index of a general register, in encoding order. */
enum vmc_gpr {
    VMC_RAX, VMC_RCX, VMC_RDX, VMC_RBX, VMC_RSP, VMC_RBP, VMC_RSI, VMC_RDI,
    VMC_R8, VMC_R9, VMC_R10, VMC_R11, VMC_R12, VMC_R13, VMC_R14, VMC_R15,
};

/** Index of a segment register, in encoding order. */
enum vmc_sreg {
    VMC_ES, VMC_CS, VMC_SS, VMC_DS, VMC_FS, VMC_GS, VMC_LDTR, VMC_TR, VMC_SREGS,
};

/** Bits of vmc_segment.attr: the layout of the VMX access-rights field (SDM 3C 25.4.1). */
#define VMC_SEG_TYPE     0x000fu
#define VMC_SEG_S        0x0010u /**< code or data (not system) */
#define VMC_SEG_DPL      0x0060u
#define VMC_SEG_DPL_SHIFT 5
#define VMC_SEG_P        0x0080u
#define VMC_SEG_AVL      0x1000u
#define VMC_SEG_L        0x2000u
#define VMC_SEG_DB       0x4000u
#define VMC_SEG_G        0x8000u
#define VMC_SEG_UNUSABLE 0x10000u

struct vmc_segment {
    uint64_t base;
    uint32_t limit; /**< in bytes, granularity applied */
    uint32_t attr;  /**< VMC_SEG_* */
    uint16_t selector;
    uint16_t pad[3];
};

struct vmc_table {
    uint64_t base;
    uint16_t limit;
    uint16_t pad[3];
};

/** Activity. */
enum vmc_activity { VMC_RUN_RUNNING, VMC_RUN_HALTED, VMC_RUN_WAIT_SIPI, VMC_RUN_SHUTDOWN };

#define VMC_MTRR_VARIABLE 8

struct vmc_x86_msrs {
    uint64_t star, lstar, cstar, sfmask;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t kernel_gs_base;
    uint64_t pat;
    uint64_t tsc_aux, tsc_adjust;
    uint64_t apic_base;
    uint64_t misc_enable, spec_ctrl, debugctl, xss;
    uint64_t mtrr_def_type;
    uint64_t mtrr_fixed[11];
    uint64_t mtrr_base[VMC_MTRR_VARIABLE], mtrr_mask[VMC_MTRR_VARIABLE];
    uint64_t tsc_deadline; /**< 0: not armed */
};

/** Types of vmc_event.type: the encoding of VMX interruption information (SDM 3C 25.8.3). */
enum vmc_event_type {
    VMC_EV_NONE = 0xff,
    VMC_EV_IRQ = 0,
    VMC_EV_NMI = 2,
    VMC_EV_EXCEPTION = 3,
    VMC_EV_SOFT_INT = 4,
    VMC_EV_PRIV_SOFT_EXC = 5,
    VMC_EV_SOFT_EXC = 6,
};

/** An event to be delivered, or being delivered. */
struct vmc_event {
    uint8_t vector;
    uint8_t type; /**< enum vmc_event_type */
    bool has_code;
    uint8_t insn_len; /**< of the software interrupt or exception */
    uint32_t code;
    uint64_t payload; /**< CR2 of a #PF, DR6 bits of a #DB */
};

#define VMC_XSAVE_BYTES 4096

struct vmc_x86_state {
    uint64_t gpr[16];
    uint64_t rip, rflags;
    uint8_t sti_shadow, ss_shadow; /**< interrupts are inhibited for one instruction */
    uint8_t pad0[6];

    struct vmc_segment seg[VMC_SREGS];
    struct vmc_table gdtr, idtr;

    uint64_t cr0, cr2, cr3, cr4, cr8, efer, xcr0;
    uint64_t pdpte[4];

    uint64_t dr[4], dr6, dr7;

    struct vmc_x86_msrs msr;

    struct vmc_event injected; /**< accepted, not yet delivered (type NONE: no event) */
    uint8_t nmi_pending, nmi_blocked, smm, pad1[5];

    uint64_t tsc; /**< value at the moment of the transfer */
    uint32_t activity;
    uint32_t sipi_vector; /**< pending start-up vector, or UINT32_MAX */

    uint32_t xsave_bytes; /**< valid bytes of xsave, standard (non-compacted) format */
    uint32_t pad2;
    VMC_ALIGNED(64) uint8_t xsave[VMC_XSAVE_BYTES];
    uint8_t lapic[1024]; /**< registers at 16-byte steps, as the xAPIC page lays them out */
};

/** The state of a processor after RESET (SDM 3A table 10-1): real mode at f000:fff0. */
VMC_API void vmc_x86_state_reset(struct vmc_x86_state *st);

VMC_END_DECLS

#endif
