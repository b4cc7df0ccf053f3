/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM 2B; APM 3). Intel and AMD differ: SYSCALL outside 64-bit
 * mode is AMD's, SYSENTER in long mode Intel's, and Intel's SYSRET checks RCX.
 */
#include "sys_priv.h"

#define SYSRET_FLAGS 0x3c7fd7ull /* RF and VM are clear after SYSRET */

static uint16_t star_cs(const struct vmci_cpu *cpu, unsigned shift)
{
    return (uint16_t)(cpu->msr.star >> shift);
}

int vmci_syscall(struct vmci_cpu *cpu, uint64_t next)
{
    bool long_mode = vmci_long_mode(cpu);
    uint16_t star = star_cs(cpu, 32);

    if ((cpu->efer & VMC_EFER_SCE) == 0 || !vmci_prot_mode(cpu) || vmci_v86_mode(cpu) ||
        (cpu->code_bits != 64 && !cpu->amd))
        return vmci_raise(cpu, VMC_VEC_UD);
    if (long_mode) {
        cpu->gpr[VMC_RCX] = next;
        cpu->gpr[VMC_R11] = cpu->rflags & ~VMC_FLAG_RF;
        cpu->rip = cpu->code_bits == 64 ? cpu->msr.lstar : cpu->msr.cstar;
        cpu->rflags = (cpu->rflags & ~(cpu->msr.sfmask | VMC_FLAG_RF)) | VMC_FLAG_1;
    } else {
        cpu->gpr[VMC_RCX] = (uint32_t)next;
        cpu->rip = (uint32_t)cpu->msr.star;
        cpu->rflags &= ~(VMC_FLAG_VM | VMC_FLAG_IF | VMC_FLAG_RF);
    }
    /* Only CS loses the requested level; SS keeps what the guest wrote. */
    sys_seg_flat_code(&cpu->seg[VMC_CS], star & 0xfffcu, 0, long_mode);
    sys_seg_flat_stack(&cpu->seg[VMC_SS], (uint16_t)(star + 8), 0);
    vmci_update_mode(cpu);
    return 0;
}

int vmci_sysret(struct vmci_cpu *cpu, unsigned opbytes)
{
    bool to64 = opbytes == 8;
    uint16_t base = star_cs(cpu, 48) & 0xfffcu;
    uint64_t rip = cpu->gpr[VMC_RCX];

    if ((cpu->efer & VMC_EFER_SCE) == 0 || (cpu->code_bits != 64 && !cpu->amd))
        return vmci_raise(cpu, VMC_VEC_UD);
    if (!vmci_prot_mode(cpu) || cpu->cpl != 0)
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    if (to64 && !cpu->amd && !vmci_canonical(cpu, rip))
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    cpu->rip = to64 ? rip : (uint32_t)rip;
    sys_seg_flat_code(&cpu->seg[VMC_CS], (uint16_t)((base + (to64 ? 16 : 0)) | 3), 3, to64);
    sys_seg_flat_stack(&cpu->seg[VMC_SS], (uint16_t)((base + 8) | 3), 3);
    if (vmci_long_mode(cpu))
        vmci_set_rflags(cpu, cpu->gpr[VMC_R11], SYSRET_FLAGS | VMC_FLAG_RF | VMC_FLAG_VM);
    else
        vmci_set_rflags(cpu, VMC_FLAG_IF, VMC_FLAG_IF);
    cpu->rflags &= ~(VMC_FLAG_RF | VMC_FLAG_VM);
    /* A step over SYSCALL ends here: TF counts as SYSRET leaves it, not as it found it. */
    if ((cpu->rflags & VMC_FLAG_TF) != 0)
        cpu->pending_db |= VMC_DR6_BS;
    vmci_update_mode(cpu);
    return 0;
}

int vmci_sysenter(struct vmci_cpu *cpu)
{
    bool long_mode = vmci_long_mode(cpu);
    uint16_t cs = (uint16_t)(cpu->msr.sysenter_cs & 0xfffcu);

    if (long_mode && cpu->amd)
        return vmci_raise(cpu, VMC_VEC_UD);
    if (!vmci_prot_mode(cpu) || cs == 0)
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    cpu->rflags &= ~(VMC_FLAG_VM | VMC_FLAG_IF | VMC_FLAG_RF);
    sys_seg_flat_code(&cpu->seg[VMC_CS], cs, 0, long_mode);
    sys_seg_flat_stack(&cpu->seg[VMC_SS], (uint16_t)(cs + 8), 0);
    cpu->rip = long_mode ? cpu->msr.sysenter_eip : (uint32_t)cpu->msr.sysenter_eip;
    cpu->gpr[VMC_RSP] = long_mode ? cpu->msr.sysenter_esp : (uint32_t)cpu->msr.sysenter_esp;
    vmci_update_mode(cpu);
    return 0;
}

int vmci_sysexit(struct vmci_cpu *cpu, unsigned opbytes)
{
    bool to64 = opbytes == 8;
    uint16_t base = (uint16_t)(cpu->msr.sysenter_cs & 0xfffcu);
    uint64_t rip = cpu->gpr[VMC_RDX];
    uint64_t rsp = cpu->gpr[VMC_RCX];

    if (!vmci_prot_mode(cpu) || cpu->cpl != 0)
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    if (vmci_long_mode(cpu) && cpu->amd) /* behind the look at the level, as processors do it */
        return vmci_raise(cpu, VMC_VEC_UD);
    if (base == 0)
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    if (to64 && (!vmci_canonical(cpu, rip) || !vmci_canonical(cpu, rsp)))
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    sys_seg_flat_code(&cpu->seg[VMC_CS], (uint16_t)((base + (to64 ? 32 : 16)) | 3), 3, to64);
    sys_seg_flat_stack(&cpu->seg[VMC_SS], (uint16_t)((base + (to64 ? 40 : 24)) | 3), 3);
    cpu->rip = to64 ? rip : (uint32_t)rip;
    cpu->gpr[VMC_RSP] = to64 ? rsp : (uint32_t)rsp;
    cpu->rflags &= ~VMC_FLAG_RF;
    vmci_update_mode(cpu);
    return 0;
}
