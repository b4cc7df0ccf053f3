/* SPDX-License-Identifier: BSD-2-Clause */
/* The VMCB (APM 2 appendix B) and exit codes (appendix C). */
#ifndef HW_VMCB_H
#define HW_VMCB_H

#include <stddef.h>
#include <stdint.h>

struct vmcb_seg {
    uint16_t selector, attr;
    uint32_t limit;
    uint64_t base;
};

struct vmcb {
    /* 000H: control area */
    uint16_t cr_read, cr_write, dr_read, dr_write;
    uint32_t exceptions, misc1, misc2, misc3;
    uint8_t pad018[0x3c - 0x18];
    uint16_t pause_threshold, pause_count;
    uint64_t iopm, msrpm, tsc_offset;
    uint32_t asid;
    uint8_t tlb_control, pad05d[3];
    uint8_t v_tpr, v_irq, v_prio, v_masking, v_vector, pad065[3];
    uint64_t interrupt_shadow;
    uint64_t exit_code, exit_info1, exit_info2, exit_int_info;
    uint64_t np_enable;
    uint8_t pad098[0xa8 - 0x98];
    uint64_t event_inj, n_cr3, lbr, clean, nrip;
    uint8_t fetched, bytes[15];
    uint8_t pad0e0[0x400 - 0xe0];
    /* 400H: save area */
    struct vmcb_seg es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr;
    uint8_t pad4a0[0x4cb - 0x4a0];
    uint8_t cpl;
    uint32_t pad4cc;
    uint64_t efer;
    uint8_t pad4d8[0x548 - 0x4d8];
    uint64_t cr4, cr3, cr0, dr7, dr6, rflags, rip;
    uint8_t pad580[0x5d8 - 0x580];
    uint64_t rsp;
    uint8_t pad5e0[0x5f8 - 0x5e0];
    uint64_t rax, star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip, cr2;
    uint8_t pad648[0x668 - 0x648];
    uint64_t g_pat, dbgctl;
    uint8_t pad678[0x1000 - 0x678];
};
_Static_assert(sizeof(struct vmcb) == 4096, "one page");
_Static_assert(offsetof(struct vmcb, iopm) == 0x40 && offsetof(struct vmcb, asid) == 0x58 &&
                   offsetof(struct vmcb, v_tpr) == 0x60 &&
                   offsetof(struct vmcb, exit_code) == 0x70 &&
                   offsetof(struct vmcb, np_enable) == 0x90 &&
                   offsetof(struct vmcb, event_inj) == 0xa8 && offsetof(struct vmcb, nrip) == 0xc8,
               "control area");
_Static_assert(offsetof(struct vmcb, tr) == 0x490 && offsetof(struct vmcb, efer) == 0x4d0 &&
                   offsetof(struct vmcb, rip) == 0x578 && offsetof(struct vmcb, rax) == 0x5f8 &&
                   offsetof(struct vmcb, cr2) == 0x640 && offsetof(struct vmcb, g_pat) == 0x668,
               "save area");

/* misc1 */
#define SVM_I_INTR     (1u << 0)
#define SVM_I_NMI      (1u << 1)
#define SVM_I_SMI      (1u << 2)
#define SVM_I_INIT     (1u << 3)
#define SVM_I_VINTR    (1u << 4)
#define SVM_I_CR0_SEL  (1u << 5)
#define SVM_I_RDPMC    (1u << 15)
#define SVM_I_CPUID    (1u << 18)
#define SVM_I_RSM      (1u << 19)
#define SVM_I_IRET     (1u << 20)
#define SVM_I_INVD     (1u << 22)
#define SVM_I_HLT      (1u << 24)
#define SVM_I_INVLPG   (1u << 25)
#define SVM_I_INVLPGA  (1u << 26)
#define SVM_I_IOIO     (1u << 27)
#define SVM_I_MSR      (1u << 28)
#define SVM_I_TASK     (1u << 29)
#define SVM_I_FERR     (1u << 30)
#define SVM_I_SHUTDOWN (1u << 31)
/* misc2 */
#define SVM_I_VMRUN   (1u << 0)
#define SVM_I_VMMCALL (1u << 1)
#define SVM_I_VMLOAD  (1u << 2)
#define SVM_I_VMSAVE  (1u << 3)
#define SVM_I_STGI    (1u << 4)
#define SVM_I_CLGI    (1u << 5)
#define SVM_I_SKINIT  (1u << 6)
#define SVM_I_RDTSCP  (1u << 7)
#define SVM_I_WBINVD  (1u << 9)
#define SVM_I_MONITOR (1u << 10)
#define SVM_I_MWAIT   (1u << 11)
#define SVM_I_XSETBV  (1u << 13)
#define SVM_I_RDPRU   (1u << 14)
/* misc3 */
#define SVM_I_INVLPGB (1u << 0)
#define SVM_I_INVPCID (1u << 2)
#define SVM_I_TLBSYNC (1u << 4)

/* event_inj, exit_int_info */
#define SVM_EV_CODE  (1ull << 11)
#define SVM_EV_VALID (1ull << 31)

/* byte 61H and 62H */
#define SVM_V_IRQ     1u    /* of v_irq */
#define SVM_V_IGN_TPR 0x10u /* of v_prio */

#define SVM_LBR_ON 1u /* of lbr */

/* tlb_control */
#define SVM_TLB_KEEP       0u
#define SVM_TLB_FLUSH_ALL  1u
#define SVM_TLB_FLUSH_ASID 3u

enum svm_exit {
    SVM_CR_READ = 0x000,
    SVM_CR_WRITE = 0x010,
    SVM_DR_READ = 0x020,
    SVM_DR_WRITE = 0x030,
    SVM_EXC = 0x040,
    SVM_INTR = 0x060,
    SVM_NMI = 0x061,
    SVM_SMI = 0x062,
    SVM_INIT = 0x063,
    SVM_VINTR = 0x064,
    SVM_CR0_SEL = 0x065,
    SVM_RDTSC = 0x06e,
    SVM_RDPMC = 0x06f,
    SVM_CPUID = 0x072,
    SVM_RSM = 0x073,
    SVM_IRET = 0x074,
    SVM_INVD = 0x076,
    SVM_PAUSE = 0x077,
    SVM_HLT = 0x078,
    SVM_INVLPG = 0x079,
    SVM_INVLPGA = 0x07a,
    SVM_IOIO = 0x07b,
    SVM_MSR = 0x07c,
    SVM_TASK = 0x07d,
    SVM_FERR = 0x07e,
    SVM_SHUTDOWN = 0x07f,
    SVM_VMRUN = 0x080,
    SVM_VMMCALL = 0x081,
    SVM_VMLOAD = 0x082,
    SVM_VMSAVE = 0x083,
    SVM_STGI = 0x084,
    SVM_CLGI = 0x085,
    SVM_SKINIT = 0x086,
    SVM_RDTSCP = 0x087,
    SVM_ICEBP = 0x088,
    SVM_WBINVD = 0x089,
    SVM_MONITOR = 0x08a,
    SVM_MWAIT = 0x08b,
    SVM_MWAIT_ARMED = 0x08c,
    SVM_XSETBV = 0x08d,
    SVM_RDPRU = 0x08e,
    SVM_INVLPGB = 0x0a0,
    SVM_INVPCID = 0x0a2,
    SVM_TLBSYNC = 0x0a4,
    SVM_EXITS = 0x0a8,
    SVM_NPF = 0x400,
};
#define SVM_INVALID 0xffffffffu /* of the low half: emulators differ in the upper one */

/* exit_info1 of IOIO */
#define SVM_IO_IN      0x01u
#define SVM_IO_STR     0x04u
#define SVM_IO_SIZE(i) (((i) >> 4) & 7u) /* one bit each: 1, 2, 4 bytes */

/* CPUID 8000000AH EDX */
#define SVM_F_NPT    (1u << 0)
#define SVM_F_LBR    (1u << 1) /* DBGCTL is switched, too */
#define SVM_F_LOCK   (1u << 2)
#define SVM_F_NRIP   (1u << 3)
#define SVM_F_TSC    (1u << 4)
#define SVM_F_CLEAN  (1u << 5)
#define SVM_F_ASID   (1u << 6)
#define SVM_F_DECODE (1u << 7)
#define SVM_F_PAUSE  (1u << 10)
#define SVM_F_VGIF   (1u << 16)

#define MSR_VM_HSAVE  0xc0010117u
#define MSR_TSC_RATIO 0xc0000104u
#define TSC_RATIO_ONE (1ull << 32)

/* exit_info1 with decode assists: MOV to or from a control register, and its register */
#define SVM_CR_MOV    (1ull << 63)
#define SVM_CR_GPR(i) ((unsigned)(i)&15u)

#endif
