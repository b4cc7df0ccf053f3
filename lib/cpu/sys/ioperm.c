/* SPDX-License-Identifier: BSD-2-Clause */
/* IN and OUT: IOPL, the I/O permission map, I/O breakpoints (SDM 1 19.5; SDM 3B 18.2.4). */
#include "sys_priv.h"

#define TSS_IOMAP_BASE 0x66u

int vmci_io_check(struct vmci_cpu *cpu, uint16_t port, unsigned bytes)
{
    const struct vmc_segment *tr = &cpu->seg[VMC_TR];
    uint64_t map = 0;
    uint64_t bits = 0;
    uint32_t at;
    int r;

    if (!vmci_prot_mode(cpu) || (!vmci_v86_mode(cpu) && cpu->cpl <= vmci_iopl(cpu)))
        return 0;
    if ((tr->attr & (VMC_SEG_UNUSABLE | SYS_TYPE_32)) != SYS_TYPE_32 ||
        tr->limit < TSS_IOMAP_BASE + 1)
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    r = vmci_rd_sys(cpu, sys_la(cpu, tr->base + TSS_IOMAP_BASE), 2, &map);
    if (r != 0)
        return r;
    /* Two bytes are always read, since an access may cross into the second. */
    at = (uint32_t)map + port / 8;
    if (at + 1 > tr->limit)
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    r = vmci_rd_sys(cpu, sys_la(cpu, tr->base + at), 2, &bits);
    if (r != 0)
        return r;
    if ((bits >> port % 8 & ((1u << bytes) - 1)) != 0)
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    return 0;
}

int vmci_pio(struct vmci_cpu *cpu, bool write, uint16_t port, unsigned bytes, uint32_t *data)
{
    uint64_t v = write ? *data : 0;
    int r = vmci_io_access(cpu, VMCI_IO_PIO, write, port, bytes, &v);

    if (r != 0)
        return r;
    if (!write)
        *data = (uint32_t)v;
    sys_dr_io_hit(cpu, port, bytes);
    return 0;
}
