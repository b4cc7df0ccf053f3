/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Architectural constants of x86 (SDM volume 3A chapter 2, volume 4; APM volume 2).
 */
#ifndef VMCORE_X86_H
#define VMCORE_X86_H

/* RFLAGS */
#define VMC_FLAG_CF   0x00000001ull
#define VMC_FLAG_1    0x00000002ull /**< always set */
#define VMC_FLAG_PF   0x00000004ull
#define VMC_FLAG_AF   0x00000010ull
#define VMC_FLAG_ZF   0x00000040ull
#define VMC_FLAG_SF   0x00000080ull
#define VMC_FLAG_TF   0x00000100ull
#define VMC_FLAG_IF   0x00000200ull
#define VMC_FLAG_DF   0x00000400ull
#define VMC_FLAG_OF   0x00000800ull
#define VMC_FLAG_IOPL 0x00003000ull
#define VMC_FLAG_IOPL_SHIFT 12
#define VMC_FLAG_NT   0x00004000ull
#define VMC_FLAG_RF   0x00010000ull
#define VMC_FLAG_VM   0x00020000ull
#define VMC_FLAG_AC   0x00040000ull
#define VMC_FLAG_VIF  0x00080000ull
#define VMC_FLAG_VIP  0x00100000ull
#define VMC_FLAG_ID   0x00200000ull
#define VMC_FLAG_ARITH 0x000008d5ull /**< CF PF AF ZF SF OF */

/* CR0 */
#define VMC_CR0_PE 0x00000001ull
#define VMC_CR0_MP 0x00000002ull
#define VMC_CR0_EM 0x00000004ull
#define VMC_CR0_TS 0x00000008ull
#define VMC_CR0_ET 0x00000010ull
#define VMC_CR0_NE 0x00000020ull
#define VMC_CR0_WP 0x00010000ull
#define VMC_CR0_AM 0x00040000ull
#define VMC_CR0_NW 0x20000000ull
#define VMC_CR0_CD 0x40000000ull
#define VMC_CR0_PG 0x80000000ull

/* CR4 */
#define VMC_CR4_VME        0x00000001ull
#define VMC_CR4_PVI        0x00000002ull
#define VMC_CR4_TSD        0x00000004ull
#define VMC_CR4_DE         0x00000008ull
#define VMC_CR4_PSE        0x00000010ull
#define VMC_CR4_PAE        0x00000020ull
#define VMC_CR4_MCE        0x00000040ull
#define VMC_CR4_PGE        0x00000080ull
#define VMC_CR4_PCE        0x00000100ull
#define VMC_CR4_OSFXSR     0x00000200ull
#define VMC_CR4_OSXMMEXCPT 0x00000400ull
#define VMC_CR4_UMIP       0x00000800ull
#define VMC_CR4_LA57       0x00001000ull
#define VMC_CR4_VMXE       0x00002000ull
#define VMC_CR4_SMXE       0x00004000ull
#define VMC_CR4_FSGSBASE   0x00010000ull
#define VMC_CR4_PCIDE      0x00020000ull
#define VMC_CR4_OSXSAVE    0x00040000ull
#define VMC_CR4_SMEP       0x00100000ull
#define VMC_CR4_SMAP       0x00200000ull
#define VMC_CR4_PKE        0x00400000ull

/* EFER */
#define VMC_EFER_SCE   0x0001ull
#define VMC_EFER_LME   0x0100ull
#define VMC_EFER_LMA   0x0400ull
#define VMC_EFER_NX    0x0800ull
#define VMC_EFER_SVME  0x1000ull
#define VMC_EFER_LMSLE 0x2000ull
#define VMC_EFER_FFXSR 0x4000ull

/* XCR0 */
#define VMC_XCR0_X87 0x1ull
#define VMC_XCR0_SSE 0x2ull
#define VMC_XCR0_AVX 0x4ull
#define VMC_XCR0_PKRU 0x200ull

/* Exception vectors */
#define VMC_VEC_DE 0
#define VMC_VEC_DB 1
#define VMC_VEC_NMI 2
#define VMC_VEC_BP 3
#define VMC_VEC_OF 4
#define VMC_VEC_BR 5
#define VMC_VEC_UD 6
#define VMC_VEC_NM 7
#define VMC_VEC_DF 8
#define VMC_VEC_TS 10
#define VMC_VEC_NP 11
#define VMC_VEC_SS 12
#define VMC_VEC_GP 13
#define VMC_VEC_PF 14
#define VMC_VEC_MF 16
#define VMC_VEC_AC 17
#define VMC_VEC_MC 18
#define VMC_VEC_XM 19

/* Error code of #PF */
#define VMC_PF_P     0x01u
#define VMC_PF_WRITE 0x02u
#define VMC_PF_USER  0x04u
#define VMC_PF_RSVD  0x08u
#define VMC_PF_FETCH 0x10u
#define VMC_PF_PK    0x20u

/* IA32_DEBUGCTL */
#define VMC_DEBUGCTL_LBR 0x1ull
#define VMC_DEBUGCTL_BTF 0x2ull

/* DR6, DR7 */
#define VMC_DR6_BD 0x2000ull
#define VMC_DR6_BS 0x4000ull
#define VMC_DR6_BT 0x8000ull
#define VMC_DR6_FIXED 0xffff0ff0ull
#define VMC_DR7_FIXED 0x400ull
#define VMC_DR7_GD 0x2000ull

/* MSRs */
#define VMC_MSR_TSC            0x10u
#define VMC_MSR_APIC_BASE      0x1bu
#define VMC_MSR_FEATURE_CTL    0x3au
#define VMC_MSR_TSC_ADJUST     0x3bu
#define VMC_MSR_SPEC_CTRL      0x48u
#define VMC_MSR_PRED_CMD       0x49u
#define VMC_MSR_UCODE_REV      0x8bu
#define VMC_MSR_MTRRCAP        0xfeu
#define VMC_MSR_SYSENTER_CS    0x174u
#define VMC_MSR_SYSENTER_ESP   0x175u
#define VMC_MSR_SYSENTER_EIP   0x176u
#define VMC_MSR_MCG_CAP        0x179u
#define VMC_MSR_MCG_STATUS     0x17au
#define VMC_MSR_MISC_ENABLE    0x1a0u
#define VMC_MSR_DEBUGCTL       0x1d9u
#define VMC_MSR_MTRR_PHYSBASE0 0x200u
#define VMC_MSR_MTRR_FIX64K    0x250u
#define VMC_MSR_MTRR_FIX16K_8  0x258u
#define VMC_MSR_MTRR_FIX16K_A  0x259u
#define VMC_MSR_MTRR_FIX4K_C0  0x268u
#define VMC_MSR_PAT            0x277u
#define VMC_MSR_MTRR_DEF_TYPE  0x2ffu
#define VMC_MSR_TSC_DEADLINE   0x6e0u
#define VMC_MSR_X2APIC_FIRST   0x800u
#define VMC_MSR_X2APIC_LAST    0x8ffu
#define VMC_MSR_XSS            0xda0u
#define VMC_MSR_EFER           0xc0000080u
#define VMC_MSR_STAR           0xc0000081u
#define VMC_MSR_LSTAR          0xc0000082u
#define VMC_MSR_CSTAR          0xc0000083u
#define VMC_MSR_SFMASK         0xc0000084u
#define VMC_MSR_FS_BASE        0xc0000100u
#define VMC_MSR_GS_BASE        0xc0000101u
#define VMC_MSR_KERNEL_GS_BASE 0xc0000102u
#define VMC_MSR_TSC_AUX        0xc0000103u

/* Paravirtual clock, as KVM defines it (Documentation/virt/kvm/x86/msr.rst) */
#define VMC_MSR_KVM_WALL_CLOCK  0x4b564d00u
#define VMC_MSR_KVM_SYSTEM_TIME 0x4b564d01u
#define VMC_MSR_KVM_STEAL_TIME  0x4b564d03u

#define VMC_APIC_BASE_BSP    0x100ull
#define VMC_APIC_BASE_X2APIC 0x400ull
#define VMC_APIC_BASE_ENABLE 0x800ull
#define VMC_APIC_DEFAULT_GPA 0xfee00000ull

#endif
