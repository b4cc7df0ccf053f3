/* SPDX-License-Identifier: BSD-2-Clause */
/* Fields of the VMCS (SDM 3D appendix B), control bits (3C 25.6-25.8), exit reasons (3D appendix
 * C). */
#ifndef HW_VMCS_H
#define HW_VMCS_H

/* Selectors, limits, access rights and bases of segment number s (enum vmc_sreg). */
#define VMCS_GUEST_SEL(s)   (0x0800u + 2u * (s))
#define VMCS_GUEST_LIMIT(s) (0x4800u + 2u * (s))
#define VMCS_GUEST_AR(s)    (0x4814u + 2u * (s))
#define VMCS_GUEST_BASE(s)  (0x6806u + 2u * (s))

#define VMCS_VPID               0x0000u
#define VMCS_POSTED_VECTOR      0x0002u
#define VMCS_GUEST_INTR_STATUS  0x0810u
#define VMCS_PML_INDEX          0x0812u
#define VMCS_HOST_ES            0x0c00u
#define VMCS_HOST_CS            0x0c02u
#define VMCS_HOST_SS            0x0c04u
#define VMCS_HOST_DS            0x0c06u
#define VMCS_HOST_FS            0x0c08u
#define VMCS_HOST_GS            0x0c0au
#define VMCS_HOST_TR            0x0c0cu
#define VMCS_IO_BITMAP_A        0x2000u
#define VMCS_IO_BITMAP_B        0x2002u
#define VMCS_MSR_BITMAP         0x2004u
#define VMCS_EXIT_MSR_STORE     0x2006u
#define VMCS_EXIT_MSR_LOAD      0x2008u
#define VMCS_ENTRY_MSR_LOAD     0x200au
#define VMCS_PML_ADDRESS        0x200eu
#define VMCS_TSC_OFFSET         0x2010u
#define VMCS_VIRTUAL_APIC       0x2012u
#define VMCS_APIC_ACCESS        0x2014u
#define VMCS_POSTED_DESC        0x2016u
#define VMCS_EPTP               0x201au
#define VMCS_EOI_EXIT0          0x201cu /* four, by 2 */
#define VMCS_XSS_BITMAP         0x202cu
#define VMCS_TSC_MULTIPLIER     0x2032u
#define VMCS_GUEST_PHYSICAL     0x2400u
#define VMCS_LINK_POINTER       0x2800u
#define VMCS_GUEST_DEBUGCTL     0x2802u
#define VMCS_GUEST_PAT          0x2804u
#define VMCS_GUEST_EFER         0x2806u
#define VMCS_GUEST_PDPTE0       0x280au
#define VMCS_HOST_PAT           0x2c00u
#define VMCS_HOST_EFER          0x2c02u
#define VMCS_PIN_CTL            0x4000u
#define VMCS_PROC_CTL           0x4002u
#define VMCS_EXC_BITMAP         0x4004u
#define VMCS_PF_MASK            0x4006u
#define VMCS_PF_MATCH           0x4008u
#define VMCS_CR3_TARGETS        0x400au
#define VMCS_EXIT_CTL           0x400cu
#define VMCS_EXIT_STORE_N       0x400eu
#define VMCS_EXIT_LOAD_N        0x4010u
#define VMCS_ENTRY_CTL          0x4012u
#define VMCS_ENTRY_LOAD_N       0x4014u
#define VMCS_ENTRY_INTR_INFO    0x4016u
#define VMCS_ENTRY_EXC_CODE     0x4018u
#define VMCS_ENTRY_INSN_LEN     0x401au
#define VMCS_TPR_THRESHOLD      0x401cu
#define VMCS_PROC2_CTL          0x401eu
#define VMCS_INSN_ERROR         0x4400u
#define VMCS_EXIT_REASON        0x4402u
#define VMCS_EXIT_INTR_INFO     0x4404u
#define VMCS_EXIT_INTR_CODE     0x4406u
#define VMCS_IDT_INFO           0x4408u
#define VMCS_IDT_CODE           0x440au
#define VMCS_EXIT_INSN_LEN      0x440cu
#define VMCS_EXIT_INSN_INFO     0x440eu
#define VMCS_GUEST_GDTR_LIMIT   0x4810u
#define VMCS_GUEST_IDTR_LIMIT   0x4812u
#define VMCS_INTERRUPTIBILITY   0x4824u
#define VMCS_ACTIVITY           0x4826u
#define VMCS_SMBASE             0x4828u
#define VMCS_GUEST_SYSENTER_CS  0x482au
#define VMCS_TIMER              0x482eu
#define VMCS_HOST_SYSENTER_CS   0x4c00u
#define VMCS_CR0_MASK           0x6000u
#define VMCS_CR4_MASK           0x6002u
#define VMCS_CR0_SHADOW         0x6004u
#define VMCS_CR4_SHADOW         0x6006u
#define VMCS_QUALIFICATION      0x6400u
#define VMCS_GUEST_LINEAR       0x640au
#define VMCS_GUEST_CR0          0x6800u
#define VMCS_GUEST_CR3          0x6802u
#define VMCS_GUEST_CR4          0x6804u
#define VMCS_GUEST_GDTR_BASE    0x6816u
#define VMCS_GUEST_IDTR_BASE    0x6818u
#define VMCS_GUEST_DR7          0x681au
#define VMCS_GUEST_RSP          0x681cu
#define VMCS_GUEST_RIP          0x681eu
#define VMCS_GUEST_RFLAGS       0x6820u
#define VMCS_PENDING_DEBUG      0x6822u
#define VMCS_GUEST_SYSENTER_ESP 0x6824u
#define VMCS_GUEST_SYSENTER_EIP 0x6826u
#define VMCS_HOST_CR0           0x6c00u
#define VMCS_HOST_CR3           0x6c02u
#define VMCS_HOST_CR4           0x6c04u
#define VMCS_HOST_FS_BASE       0x6c06u
#define VMCS_HOST_GS_BASE       0x6c08u
#define VMCS_HOST_TR_BASE       0x6c0au
#define VMCS_HOST_GDTR_BASE     0x6c0cu
#define VMCS_HOST_IDTR_BASE     0x6c0eu
#define VMCS_HOST_SYSENTER_ESP  0x6c10u
#define VMCS_HOST_SYSENTER_EIP  0x6c12u
#define VMCS_HOST_RSP           0x6c14u
#define VMCS_HOST_RIP           0x6c16u

/* Pin-based controls */
#define PIN_EXTINT 0x01u
#define PIN_NMI    0x08u
#define PIN_VNMI   0x20u
#define PIN_TIMER  0x40u
#define PIN_POSTED 0x80u

/* Primary processor-based controls */
#define PROC_IRQ_WINDOW 0x00000004u
#define PROC_TSC_OFFSET 0x00000008u
#define PROC_HLT        0x00000080u
#define PROC_INVLPG     0x00000200u
#define PROC_MWAIT      0x00000400u
#define PROC_RDPMC      0x00000800u
#define PROC_RDTSC      0x00001000u
#define PROC_CR3_LOAD   0x00008000u
#define PROC_CR3_STORE  0x00010000u
#define PROC_CR8_LOAD   0x00080000u
#define PROC_CR8_STORE  0x00100000u
#define PROC_TPR_SHADOW 0x00200000u
#define PROC_NMI_WINDOW 0x00400000u
#define PROC_MOV_DR     0x00800000u
#define PROC_IO         0x01000000u
#define PROC_IO_BITMAP  0x02000000u
#define PROC_MTF        0x08000000u
#define PROC_MSR_BITMAP 0x10000000u
#define PROC_MONITOR    0x20000000u
#define PROC_PAUSE      0x40000000u
#define PROC_SECONDARY  0x80000000u

/* Secondary controls */
#define PROC2_APIC_ACCESS 0x00000001u
#define PROC2_EPT         0x00000002u
#define PROC2_RDTSCP      0x00000008u
#define PROC2_X2APIC      0x00000010u
#define PROC2_VPID        0x00000020u
#define PROC2_WBINVD      0x00000040u
#define PROC2_UG          0x00000080u
#define PROC2_APIC_REG    0x00000100u
#define PROC2_VID         0x00000200u
#define PROC2_INVPCID     0x00001000u
#define PROC2_VMFUNC      0x00002000u
#define PROC2_SHADOW      0x00004000u
#define PROC2_PML         0x00020000u
#define PROC2_VE          0x00040000u
#define PROC2_XSAVES      0x00100000u
#define PROC2_TSC_SCALE   0x02000000u

/* Exit controls */
#define EXIT_SAVE_DEBUG 0x00000004u
#define EXIT_HOST64     0x00000200u
#define EXIT_LOAD_PERF  0x00001000u
#define EXIT_ACK        0x00008000u
#define EXIT_SAVE_PAT   0x00040000u
#define EXIT_LOAD_PAT   0x00080000u
#define EXIT_SAVE_EFER  0x00100000u
#define EXIT_LOAD_EFER  0x00200000u
#define EXIT_SAVE_TIMER 0x00400000u

/* Entry controls */
#define ENTRY_LOAD_DEBUG 0x00000004u
#define ENTRY_IA32E      0x00000200u
#define ENTRY_SMM        0x00000400u
#define ENTRY_DUAL       0x00000800u
#define ENTRY_LOAD_PERF  0x00002000u
#define ENTRY_LOAD_PAT   0x00004000u
#define ENTRY_LOAD_EFER  0x00008000u

/* Interruption information */
#define INTR_VALID   0x80000000u
#define INTR_CODE    0x00000800u
#define INTR_UNBLOCK 0x00001000u
#define INTR_TYPE(i) (((i) >> 8) & 7u)

/* Interruptibility */
#define INTR_STI 1u
#define INTR_SS  2u
#define INTR_SMI 4u
#define INTR_NMI 8u

/* Basic exit reasons */
enum vmx_reason {
    VMX_EXC_NMI = 0,
    VMX_EXTINT = 1,
    VMX_TRIPLE = 2,
    VMX_INIT = 3,
    VMX_SIPI = 4,
    VMX_IO_SMI = 5,
    VMX_SMI = 6,
    VMX_IRQ_WINDOW = 7,
    VMX_NMI_WINDOW = 8,
    VMX_TASK_SWITCH = 9,
    VMX_CPUID = 10,
    VMX_GETSEC = 11,
    VMX_HLT = 12,
    VMX_INVD = 13,
    VMX_INVLPG = 14,
    VMX_RDPMC = 15,
    VMX_RDTSC = 16,
    VMX_RSM = 17,
    VMX_VMCALL = 18,
    VMX_VMCLEAR = 19,
    VMX_VMLAUNCH = 20,
    VMX_VMPTRLD = 21,
    VMX_VMPTRST = 22,
    VMX_VMREAD = 23,
    VMX_VMRESUME = 24,
    VMX_VMWRITE = 25,
    VMX_VMXOFF = 26,
    VMX_VMXON = 27,
    VMX_CR = 28,
    VMX_DR = 29,
    VMX_IO = 30,
    VMX_RDMSR = 31,
    VMX_WRMSR = 32,
    VMX_BAD_GUEST = 33,
    VMX_BAD_MSR = 34,
    VMX_MWAIT = 36,
    VMX_MTF = 37,
    VMX_MONITOR = 39,
    VMX_PAUSE = 40,
    VMX_BAD_MCE = 41,
    VMX_TPR = 43,
    VMX_APIC_ACCESS = 44,
    VMX_EOI = 45,
    VMX_GDTR_IDTR = 46,
    VMX_LDTR_TR = 47,
    VMX_EPT_VIOLATION = 48,
    VMX_EPT_MISCONFIG = 49,
    VMX_INVEPT = 50,
    VMX_RDTSCP = 51,
    VMX_TIMER = 52,
    VMX_INVVPID = 53,
    VMX_WBINVD = 54,
    VMX_XSETBV = 55,
    VMX_APIC_WRITE = 56,
    VMX_RDRAND = 57,
    VMX_INVPCID = 58,
    VMX_VMFUNC = 59,
    VMX_ENCLS = 60,
    VMX_RDSEED = 61,
    VMX_PML_FULL = 62,
    VMX_XSAVES = 63,
    VMX_XRSTORS = 64,
    VMX_PCONFIG = 65,
    VMX_SPP = 66,
    VMX_UMWAIT = 67,
    VMX_TPAUSE = 68,
    VMX_LOADIWKEY = 69,
    VMX_ENCLV = 70,
    VMX_ENQCMD = 72,
    VMX_ENQCMDS = 73,
    VMX_BUS_LOCK = 74,
    VMX_NOTIFY = 75,
    VMX_SEAMCALL = 76,
    VMX_TDCALL = 77,
    VMX_REASONS = 78,
};
#define VMX_ENTRY_FAILED 0x80000000u

/* Capability MSRs */
#define MSR_VMX_BASIC      0x480u
#define MSR_VMX_PIN        0x481u
#define MSR_VMX_PROC       0x482u
#define MSR_VMX_EXIT       0x483u
#define MSR_VMX_ENTRY      0x484u
#define MSR_VMX_MISC       0x485u
#define MSR_VMX_CR0_0      0x486u
#define MSR_VMX_CR0_1      0x487u
#define MSR_VMX_CR4_0      0x488u
#define MSR_VMX_CR4_1      0x489u
#define MSR_VMX_PROC2      0x48bu
#define MSR_VMX_EPT_VPID   0x48cu
#define MSR_VMX_TRUE_PIN   0x48du
#define MSR_VMX_TRUE_PROC  0x48eu
#define MSR_VMX_TRUE_EXIT  0x48fu
#define MSR_VMX_TRUE_ENTRY 0x490u
#define MSR_VMX_VMFUNC     0x491u

#define BASIC_TRUE     (1ull << 55)
#define EPT_EXEC_ONLY  (1ull << 0)
#define EPT_WALK4      (1ull << 6)
#define EPT_UC         (1ull << 8)
#define EPT_WB         (1ull << 14)
#define EPT_2M         (1ull << 16)
#define EPT_1G         (1ull << 17)
#define EPT_INVEPT     (1ull << 20)
#define EPT_AD         (1ull << 21)
#define EPT_INVEPT_ONE (1ull << 25)
#define EPT_INVEPT_ALL (1ull << 26)
#define VPID_INVVPID   (1ull << 32)
#define VPID_ONE       (1ull << 41)
#define VPID_ALL       (1ull << 42)

#endif
