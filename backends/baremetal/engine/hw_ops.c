/* SPDX-License-Identifier: BSD-2-Clause */
/* The operations of hw.h, one instruction each. */
#include "baremetal_hw.h"

#include <stddef.h>

#include "frame_offsets.h"

#define MSR_PAT         0x277u
#define MSR_EFER        0xc0000080u
#define MSR_FS_BASE     0xc0000100u
#define MSR_GS_BASE     0xc0000101u
#define MSR_SYSENTER_CS 0x174u

int vmc_vmx_run(void *ctx, struct vmc_hw_vmx_frame *f);
int vmc_svm_run(void *ctx, struct vmc_hw_svm_frame *f);
extern const char vmc_vmx_exit[];

#define AT(type, member, offset)                                                                   \
    _Static_assert(offsetof(struct type, member) == (offset), #type "." #member)
AT(vmc_hw_vmx_frame, gpr, F_GPR);
AT(vmc_hw_vmx_frame, stop, F_STOP);
AT(vmc_hw_vmx_frame, rip, F_RIP);
AT(vmc_hw_vmx_frame, rflags, F_RFLAGS);
AT(vmc_hw_vmx_frame, qualification, F_QUAL);
AT(vmc_hw_vmx_frame, reason, F_REASON);
AT(vmc_hw_vmx_frame, insn_len, F_LEN);
AT(vmc_hw_vmx_frame, interruptibility, F_INTR);
AT(vmc_hw_vmx_frame, flags, F_FLAGS);
AT(vmc_hw_vmx_frame, timer, F_TIMER);
AT(vmc_hw_vmx_frame, gpa, F_GPA);
AT(vmc_hw_vmx_frame, idt_info, F_IDT);
AT(vmc_hw_vmx_frame, posted, F_POSTED);
AT(vmc_hw_svm_frame, gpr, F_GPR);
AT(vmc_hw_svm_frame, stop, F_STOP);
AT(vmc_hw_svm_frame, vmcb, F_VMCB);
AT(vmc_hw_svm_frame, host_vmcb, F_HOST_VMCB);
AT(vmc_hw_svm_frame, flags, F_SVM_FLAGS);
_Static_assert(VMC_HW_LAUNCHED == HW_LAUNCHED && VMC_HW_TIMER == HW_TIMER &&
                   VMC_HW_CLEAR_CPU == HW_CLEAR_CPU && VMC_HW_FILL_RSB == HW_FILL_RSB &&
                   VMC_HW_FLUSH_L1D == HW_FLUSH_L1D && VMC_HW_SET_IBRS == HW_SET_IBRS &&
                   VMC_HW_POSTED == HW_POSTED && VMC_HW_EXITED == RC_EXITED &&
                   VMC_HW_STOPPED == RC_STOPPED && VMC_HW_FAIL == RC_FAIL &&
                   VMC_HW_FAIL_VMCS == RC_FAIL_VMCS,
               "assembly has its own copies");

/* ---- both -------------------------------------------------------------------------------------
 */

static void op_cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)ctx;
    __asm__ volatile("cpuid"
                     : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
                     : "a"(leaf), "c"(subleaf));
}

static uint64_t op_rdtsc(void *ctx)
{
    uint32_t lo, hi;

    (void)ctx;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return lo | (uint64_t)hi << 32;
}

static uint64_t op_rdmsr(void *ctx, uint32_t index)
{
    uint32_t lo, hi;

    (void)ctx;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(index));
    return lo | (uint64_t)hi << 32;
}

static void op_wrmsr(void *ctx, uint32_t index, uint64_t value)
{
    (void)ctx;
    __asm__ volatile("wrmsr"
                     :
                     : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
}

static uint64_t op_read_cr(void *ctx, unsigned n)
{
    uint64_t v = 0;

    (void)ctx;
    switch (n) {
    case 0:
        __asm__ volatile("mov %%cr0, %0" : "=r"(v));
        break;
    case 2:
        __asm__ volatile("mov %%cr2, %0" : "=r"(v));
        break;
    case 3:
        __asm__ volatile("mov %%cr3, %0" : "=r"(v));
        break;
    default:
        __asm__ volatile("mov %%cr4, %0" : "=r"(v));
        break;
    }
    return v;
}

static void op_write_cr(void *ctx, unsigned n, uint64_t v)
{
    (void)ctx;
    switch (n) {
    case 0:
        __asm__ volatile("mov %0, %%cr0" : : "r"(v) : "memory");
        break;
    case 2:
        __asm__ volatile("mov %0, %%cr2" : : "r"(v) : "memory");
        break;
    case 3:
        __asm__ volatile("mov %0, %%cr3" : : "r"(v) : "memory");
        break;
    default:
        __asm__ volatile("mov %0, %%cr4" : : "r"(v) : "memory");
        break;
    }
}

static uint64_t op_read_dr(void *ctx, unsigned n)
{
    uint64_t v = 0;

    (void)ctx;
    switch (n) {
    case 0:
        __asm__ volatile("mov %%dr0, %0" : "=r"(v));
        break;
    case 1:
        __asm__ volatile("mov %%dr1, %0" : "=r"(v));
        break;
    case 2:
        __asm__ volatile("mov %%dr2, %0" : "=r"(v));
        break;
    case 3:
        __asm__ volatile("mov %%dr3, %0" : "=r"(v));
        break;
    case 6:
        __asm__ volatile("mov %%dr6, %0" : "=r"(v));
        break;
    default:
        __asm__ volatile("mov %%dr7, %0" : "=r"(v));
        break;
    }
    return v;
}

static void op_write_dr(void *ctx, unsigned n, uint64_t v)
{
    (void)ctx;
    switch (n) {
    case 0:
        __asm__ volatile("mov %0, %%dr0" : : "r"(v));
        break;
    case 1:
        __asm__ volatile("mov %0, %%dr1" : : "r"(v));
        break;
    case 2:
        __asm__ volatile("mov %0, %%dr2" : : "r"(v));
        break;
    case 3:
        __asm__ volatile("mov %0, %%dr3" : : "r"(v));
        break;
    case 6:
        __asm__ volatile("mov %0, %%dr6" : : "r"(v));
        break;
    default:
        __asm__ volatile("mov %0, %%dr7" : : "r"(v));
        break;
    }
}

static uint64_t op_read_xcr0(void *ctx)
{
    uint32_t lo, hi;

    (void)ctx;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo | (uint64_t)hi << 32;
}

static void op_write_xcr0(void *ctx, uint64_t v)
{
    (void)ctx;
    __asm__ volatile("xsetbv" : : "c"(0), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}

static void op_fpu_save(void *ctx, void *area, uint64_t mask)
{
    (void)ctx;
    if (mask != 0)
        __asm__ volatile("xsave64 (%0)"
                         :
                         : "r"(area), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
                         : "memory");
    else
        __asm__ volatile("fxsave64 (%0)" : : "r"(area) : "memory");
}

static void op_fpu_load(void *ctx, const void *area, uint64_t mask)
{
    (void)ctx;
    if (mask != 0)
        __asm__ volatile("xrstor64 (%0)"
                         :
                         : "r"(area), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
                         : "memory");
    else
        __asm__ volatile("fxrstor64 (%0)" : : "r"(area) : "memory");
}

/* INT has its vector in the instruction: one for each, 4 bytes apart. */
__asm__(".pushsection .text.vmc_raise, \"ax\", @progbits\n"
        "    .balign 4\n"
        "vmc_raise_table:\n"
        "    .set v, 0\n"
        "    .rept 256\n"
        "    .byte 0xcd, v, 0xc3, 0xcc\n" /* int $v; ret */
        "    .set v, v + 1\n"
        "    .endr\n"
        "    .popsection");
extern const unsigned char vmc_raise_table[][4] __attribute__((visibility("hidden")));

static void op_raise(void *ctx, unsigned vector)
{
    typedef void raise_fn(void);

    (void)ctx;
    ((raise_fn *)(uintptr_t)vmc_raise_table[vector & 0xff])();
}

/* ---- host state -------------------------------------------------------------------------------
 */

struct __attribute__((packed)) table_register {
    uint16_t limit;
    uint64_t base;
};

static uint64_t tss_base(uint64_t gdt, uint16_t tr)
{
    const uint8_t *d = (const uint8_t *)(uintptr_t)(gdt + (tr & ~7u));
    uint64_t low =
        (uint64_t)d[2] | (uint64_t)d[3] << 8 | (uint64_t)d[4] << 16 | (uint64_t)d[7] << 24;
    uint64_t high =
        (uint64_t)d[8] | (uint64_t)d[9] << 8 | (uint64_t)d[10] << 16 | (uint64_t)d[11] << 24;

    return low | high << 32;
}

static void op_host(void *ctx, struct vmc_hw_host *h)
{
    struct table_register gdtr, idtr;

    __asm__ volatile("sgdt %0" : "=m"(gdtr));
    __asm__ volatile("sidt %0" : "=m"(idtr));
    __asm__ volatile("mov %%es, %0" : "=r"(h->es));
    __asm__ volatile("mov %%cs, %0" : "=r"(h->cs));
    __asm__ volatile("mov %%ss, %0" : "=r"(h->ss));
    __asm__ volatile("mov %%ds, %0" : "=r"(h->ds));
    __asm__ volatile("mov %%fs, %0" : "=r"(h->fs));
    __asm__ volatile("mov %%gs, %0" : "=r"(h->gs));
    __asm__ volatile("str %0" : "=r"(h->tr));
    h->cr0 = op_read_cr(ctx, 0);
    h->cr3 = op_read_cr(ctx, 3);
    h->cr4 = op_read_cr(ctx, 4);
    h->efer = op_rdmsr(ctx, MSR_EFER);
    h->pat = op_rdmsr(ctx, MSR_PAT);
    h->fs_base = op_rdmsr(ctx, MSR_FS_BASE);
    h->gs_base = op_rdmsr(ctx, MSR_GS_BASE);
    h->gdtr_base = gdtr.base;
    h->idtr_base = idtr.base;
    h->tr_base = h->tr != 0 ? tss_base(gdtr.base, h->tr) : 0;
    h->sysenter_cs = op_rdmsr(ctx, MSR_SYSENTER_CS);
    h->sysenter_esp = op_rdmsr(ctx, MSR_SYSENTER_CS + 1);
    h->sysenter_eip = op_rdmsr(ctx, MSR_SYSENTER_CS + 2);
    h->exit_rip = (uint64_t)(uintptr_t)vmc_vmx_exit;
    h->pad = 0;
}

/* ---- VT-x -------------------------------------------------------------------------------------
 */

#define VMX_RESULT(zero, carry) ((carry) ? VMC_HW_FAIL_VMCS : (zero) ? VMC_HW_FAIL : 0)

static int op_vmxon(void *ctx, uint64_t hpa)
{
    bool z, c;

    (void)ctx;
    __asm__ volatile("vmxon %2" : "=@ccz"(z), "=@ccc"(c) : "m"(hpa) : "memory");
    return VMX_RESULT(z, c);
}

static void op_vmxoff(void *ctx)
{
    (void)ctx;
    __asm__ volatile("vmxoff" : : : "cc", "memory");
}

static int op_vmclear(void *ctx, uint64_t hpa)
{
    bool z, c;

    (void)ctx;
    __asm__ volatile("vmclear %2" : "=@ccz"(z), "=@ccc"(c) : "m"(hpa) : "memory");
    return VMX_RESULT(z, c);
}

static int op_vmptrld(void *ctx, uint64_t hpa)
{
    bool z, c;

    (void)ctx;
    __asm__ volatile("vmptrld %2" : "=@ccz"(z), "=@ccc"(c) : "m"(hpa) : "memory");
    return VMX_RESULT(z, c);
}

static int op_vmread(void *ctx, uint32_t field, uint64_t *value)
{
    bool z, c;

    (void)ctx;
    __asm__ volatile("vmread %3, %2" : "=@ccz"(z), "=@ccc"(c), "=r"(*value) : "r"((uint64_t)field));
    return VMX_RESULT(z, c);
}

static int op_vmwrite(void *ctx, uint32_t field, uint64_t value)
{
    bool z, c;

    (void)ctx;
    __asm__ volatile("vmwrite %2, %3"
                     : "=@ccz"(z), "=@ccc"(c)
                     : "r"(value), "r"((uint64_t)field)
                     : "memory");
    return VMX_RESULT(z, c);
}

static int op_invept(void *ctx, uint64_t type, uint64_t eptp)
{
    uint64_t operand[2] = {eptp, 0};
    bool z, c;

    (void)ctx;
    __asm__ volatile("invept %2, %3" : "=@ccz"(z), "=@ccc"(c) : "m"(operand), "r"(type) : "memory");
    return VMX_RESULT(z, c);
}

static int op_invvpid(void *ctx, uint64_t type, uint16_t vpid, uint64_t gva)
{
    uint64_t operand[2] = {vpid, gva};
    bool z, c;

    (void)ctx;
    __asm__ volatile("invvpid %2, %3"
                     : "=@ccz"(z), "=@ccc"(c)
                     : "m"(operand), "r"(type)
                     : "memory");
    return VMX_RESULT(z, c);
}

void vmc_baremetal_hw(struct vmc_hw_ops *ops)
{
    ops->size = sizeof(*ops);
    ops->cpuid = op_cpuid;
    ops->rdtsc = op_rdtsc;
    ops->rdmsr = op_rdmsr;
    ops->wrmsr = op_wrmsr;
    ops->host = op_host;
    ops->read_cr = op_read_cr;
    ops->write_cr = op_write_cr;
    ops->read_dr = op_read_dr;
    ops->write_dr = op_write_dr;
    ops->read_xcr0 = op_read_xcr0;
    ops->write_xcr0 = op_write_xcr0;
    ops->fpu_save = op_fpu_save;
    ops->fpu_load = op_fpu_load;
    ops->raise = op_raise;
    ops->vmxon = op_vmxon;
    ops->vmxoff = op_vmxoff;
    ops->vmclear = op_vmclear;
    ops->vmptrld = op_vmptrld;
    ops->vmread = op_vmread;
    ops->vmwrite = op_vmwrite;
    ops->invept = op_invept;
    ops->invvpid = op_invvpid;
    ops->vmx_run = vmc_vmx_run;
    ops->svm_run = vmc_svm_run;
}
