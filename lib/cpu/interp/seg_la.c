/* SPDX-License-Identifier: BSD-2-Clause */
/* From logical to linear addresses (SDM 3A 3.4, 5.3; 64-bit mode: SDM 1 3.3.7). */
#include "cpu/interp/mem.h"
#include "cpu/interp/soft_int.h"

#define SEG_W    2u
#define SEG_E    4u
#define SEG_CODE 8u

static int seg_fault(struct vmci_cpu *cpu, unsigned seg)
{
    return vmci_raise_code(cpu, seg == VMC_SS ? VMC_VEC_SS : VMC_VEC_GP, 0);
}

int vmci_seg_la(struct vmci_cpu *cpu, unsigned seg, uint64_t offset, unsigned bytes, bool write,
                uint64_t *la)
{
    const struct vmc_segment *s = &cpu->seg[seg];

    if (cpu->code_bits == 64) {
        *la = offset + (seg == VMC_FS || seg == VMC_GS ? s->base : 0);
        if (unlikely(!vmci_canonical(cpu, *la) ||
                     !vmci_canonical(cpu, *la + (bytes != 0 ? bytes - 1 : 0))))
            return seg_fault(cpu, seg);
        return 0;
    }
    uint64_t last = offset + (bytes != 0 ? bytes - 1 : 0);
    uint32_t attr = s->attr;
    *la = (uint32_t)(s->base + offset);
    /* The usual case: a present, writable, expand-up data segment. */
    if (likely((attr & (VMC_SEG_UNUSABLE | VMC_SEG_P | VMC_SEG_S | SEG_CODE | SEG_E | SEG_W)) ==
               (VMC_SEG_P | VMC_SEG_S | SEG_W))) {
        /* An access around 4 GiB may or may not fault (SDM 3A 5.3); it does on AMD's processors. */
        return likely(last <= s->limit) ? 0 : seg_fault(cpu, seg);
    }
    if ((attr & (VMC_SEG_UNUSABLE | VMC_SEG_P)) != VMC_SEG_P)
        return seg_fault(cpu, seg);
    if ((attr & SEG_CODE) != 0) {
        bool real = !vmci_prot_mode(cpu) || vmci_v86_mode(cpu);
        if (!real && (write || (attr & SEG_W) == 0)) /* bit 1 of a code type: readable */
            return seg_fault(cpu, seg);
    } else if (write && (attr & SEG_W) == 0) {
        return seg_fault(cpu, seg);
    } else if ((attr & SEG_E) != 0) {
        uint64_t top = (attr & VMC_SEG_DB) != 0 ? 0xffffffffu : 0xffffu;
        return offset > s->limit && last <= top ? 0 : seg_fault(cpu, seg);
    }
    return last <= s->limit ? 0 : seg_fault(cpu, seg);
}

int vmci_insn_la_seg(struct vmci_cpu *cpu, const struct vmci_insn *in, uint64_t ea, unsigned bytes,
                     bool write, uint64_t *la)
{
    return vmci_seg_la(cpu, in->seg, ea, bytes, write, la);
}

int vmci_rd_pair(struct vmci_cpu *cpu, const struct vmci_insn *in, unsigned bytes0, unsigned bytes1,
                 uint64_t *v0, uint64_t *v1)
{
    uint64_t ea = vmci_ea(cpu, in), la;
    int rc = vmci_insn_la_seg(cpu, in, ea, bytes0, false, &la);

    if (rc == 0)
        rc = vmci_rd(cpu, la, bytes0, v0);
    ea += bytes0;
    if (in->addrsize != 8)
        ea = in->addrsize == 4 ? (uint32_t)ea : (uint16_t)ea;
    if (rc == 0)
        rc = vmci_insn_la_seg(cpu, in, ea, bytes1, false, &la);
    return rc != 0 ? rc : vmci_rd(cpu, la, bytes1, v1);
}
