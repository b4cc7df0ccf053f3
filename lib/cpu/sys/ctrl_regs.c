/* SPDX-License-Identifier: BSD-2-Clause */
/* CR0, CR2, CR3, CR4, CR8, XCR0, INVLPG, INVPCID (SDM 3A 2.5, 2.6, 4.1, 4.10, 10.8.5). */
#include "cpu/fpu/fp.h"
#include "sys_priv.h"

#define CR0_KNOWN                                                                                  \
    (VMC_CR0_PE | VMC_CR0_MP | VMC_CR0_EM | VMC_CR0_TS | VMC_CR0_ET | VMC_CR0_NE | VMC_CR0_WP |    \
     VMC_CR0_AM | VMC_CR0_NW | VMC_CR0_CD | VMC_CR0_PG)
#define CR3_NO_FLUSH (1ull << 63)
#define CR3_PCID     0xfffull

static int gp0(struct vmci_cpu *cpu)
{
    return vmci_raise_code(cpu, VMC_VEC_GP, 0);
}

/* Are the PDPTE registers in use with these values? */
static bool pae_legacy(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & VMC_CR0_PG) != 0 && (cr4 & VMC_CR4_PAE) != 0 && (efer & VMC_EFER_LMA) == 0;
}

/* Loads the four registers, or #GP(0) and no change when one has reserved bits set. */
static int load_pdptes(struct vmci_cpu *cpu, uint64_t cr3)
{
    uint64_t pdpte[4];

    if ((cpu->paging_lacks & VMC_PAGING_NO_A20) != 0)
        cr3 &= ~VMCI_A20;
    if (vmc_walk_load_pdpte(cpu->mem, cr3, cpu->phys_bits, pdpte) != 0)
        return gp0(cpu);
    memcpy(cpu->pdpte, pdpte, sizeof(pdpte));
    return 0;
}

/* ---- CR0 -------------------------------------------------------------------------------------- */

static int check_cr0(struct vmci_cpu *cpu, uint64_t v)
{
    bool enable = (v & ~cpu->cr0 & VMC_CR0_PG) != 0;

    if ((v >> 32) != 0 || ((v & VMC_CR0_PG) != 0 && (v & VMC_CR0_PE) == 0) ||
        ((v & VMC_CR0_NW) != 0 && (v & VMC_CR0_CD) == 0))
        return gp0(cpu);
    if ((v & VMC_CR0_PG) == 0 && (cpu->cr0 & VMC_CR0_PG) != 0 &&
        (cpu->code_bits == 64 || (cpu->cr4 & VMC_CR4_PCIDE) != 0))
        return gp0(cpu);
    /* Entering long mode. */
    if (enable && (cpu->efer & VMC_EFER_LME) != 0 &&
        ((cpu->cr4 & VMC_CR4_PAE) == 0 || (cpu->seg[VMC_CS].attr & VMC_SEG_L) != 0 ||
         (cpu->seg[VMC_TR].attr & (VMC_SEG_UNUSABLE | SYS_TYPE_32)) == 0))
        return gp0(cpu);
    return 0;
}

static int write_cr0(struct vmci_cpu *cpu, uint64_t v)
{
    uint64_t old = cpu->cr0;
    uint64_t efer = cpu->efer;
    int r = check_cr0(cpu, v);

    if (r != 0)
        return r;
    v = (v & CR0_KNOWN) | VMC_CR0_ET;
    if ((v & VMC_CR0_PG) == 0)
        efer &= ~VMC_EFER_LMA;
    else if ((efer & VMC_EFER_LME) != 0)
        efer |= VMC_EFER_LMA;
    if (((v ^ old) & (VMC_CR0_PG | VMC_CR0_CD | VMC_CR0_NW)) != 0 &&
        pae_legacy(v, cpu->cr4, efer)) {
        r = load_pdptes(cpu, cpu->cr3);
        if (r != 0)
            return r;
    }
    cpu->cr0 = v;
    cpu->efer = efer;
    if ((old & ~v & VMC_CR0_PE) != 0) /* CS of real mode is readable and writable */
        cpu->seg[VMC_CS].attr = (cpu->seg[VMC_CS].attr & ~(VMC_SEG_TYPE | VMC_SEG_DPL)) |
                                SEG_WRITABLE | SEG_ACCESSED;
    if (((v ^ old) & (VMC_CR0_PG | VMC_CR0_PE | VMC_CR0_WP)) != 0)
        vmci_tlb_flush(cpu, true);
    vmci_update_mode(cpu);
    return 0;
}

void sys_cr0_set_ts(struct vmci_cpu *cpu)
{
    cpu->cr0 |= VMC_CR0_TS;
}

int vmci_lmsw(struct vmci_cpu *cpu, uint16_t v)
{
    uint64_t low = VMC_CR0_PE | VMC_CR0_MP | VMC_CR0_EM | VMC_CR0_TS;

    if (cpu->cpl != 0)
        return gp0(cpu);
    /* PE can be set, not cleared. */
    return write_cr0(cpu, (cpu->cr0 & ~(low & ~VMC_CR0_PE)) | (v & low));
}

int vmci_clts(struct vmci_cpu *cpu)
{
    if (cpu->cpl != 0)
        return gp0(cpu);
    cpu->cr0 &= ~VMC_CR0_TS;
    return 0;
}

/* ---- CR3 -------------------------------------------------------------------------------------- */

static int write_cr3(struct vmci_cpu *cpu, uint64_t v)
{
    uint64_t limit = vmci_long_mode(cpu) ? VMCI_BIT(cpu->phys_bits) : VMCI_BIT(32);

    if ((cpu->cr4 & VMC_CR4_PCIDE) != 0)
        v &= ~CR3_NO_FLUSH;
    if (vmci_long_mode(cpu) && v >= limit)
        return gp0(cpu);
    v &= limit - 1;
    if (pae_legacy(cpu->cr0, cpu->cr4, cpu->efer)) {
        int r = load_pdptes(cpu, v);
        if (r != 0)
            return r;
    }
    cpu->cr3 = v;
    /* The software TLB knows no PCIDs: "no flush" only permits to keep entries. */
    vmci_tlb_flush(cpu, false);
    return 0;
}

int sys_task_set_cr3(struct vmci_cpu *cpu, uint64_t v)
{
    return write_cr3(cpu, v);
}

/* ---- CR4 -------------------------------------------------------------------------------------- */

static int check_cr4(struct vmci_cpu *cpu, uint64_t v)
{
    uint64_t set = v & ~cpu->cr4;

    if ((v & ~cpu->cr4_allowed) != 0)
        return gp0(cpu);
    if (vmci_long_mode(cpu) && ((v & VMC_CR4_PAE) == 0 || ((v ^ cpu->cr4) & VMC_CR4_LA57) != 0))
        return gp0(cpu);
    if ((set & VMC_CR4_PCIDE) != 0 && (!vmci_long_mode(cpu) || (cpu->cr3 & CR3_PCID) != 0))
        return gp0(cpu);
    return 0;
}

static int write_cr4(struct vmci_cpu *cpu, uint64_t v)
{
    const uint64_t paging = VMC_CR4_PSE | VMC_CR4_PAE | VMC_CR4_PGE | VMC_CR4_PCIDE | VMC_CR4_SMEP |
                            VMC_CR4_SMAP | VMC_CR4_PKE | VMC_CR4_LA57;
    uint64_t change = v ^ cpu->cr4;
    int r = check_cr4(cpu, v);

    if (r != 0)
        return r;
    if ((change & (VMC_CR4_PSE | VMC_CR4_PAE | VMC_CR4_PGE | VMC_CR4_SMEP)) != 0 &&
        pae_legacy(cpu->cr0, v, cpu->efer)) {
        r = load_pdptes(cpu, cpu->cr3);
        if (r != 0)
            return r;
    }
    cpu->cr4 = v;
    if ((change & paging) != 0)
        vmci_tlb_flush(cpu, true);
    vmci_update_mode(cpu);
    return 0;
}

/* ---- MOV CR ----------------------------------------------------------------------------------- */

static int check_cr_access(struct vmci_cpu *cpu, unsigned n)
{
    bool exists = n == 0 || n == 2 || n == 3 || n == 4 || (n == 8 && cpu->code_bits == 64);

    if (!exists)
        return vmci_raise(cpu, VMC_VEC_UD);
    return cpu->cpl == 0 ? 0 : gp0(cpu);
}

int vmci_cr_read(struct vmci_cpu *cpu, unsigned n, uint64_t *out)
{
    int r = check_cr_access(cpu, n);

    if (r != 0)
        return r;
    switch (n) {
    case 0:
        *out = cpu->cr0;
        break;
    case 2:
        *out = cpu->cr2;
        break;
    case 3:
        *out = cpu->cr3;
        break;
    case 4:
        *out = cpu->cr4;
        break;
    default:
        *out = cpu->io != NULL && cpu->io->get_tpr != NULL ? cpu->io->get_tpr(cpu->io->ctx) : 0;
        break;
    }
    return 0;
}

int vmci_cr_write(struct vmci_cpu *cpu, unsigned n, uint64_t v)
{
    int r = check_cr_access(cpu, n);

    if (r != 0)
        return r;
    switch (n) {
    case 0:
        return write_cr0(cpu, v);
    case 2:
        cpu->cr2 = v;
        return 0;
    case 3:
        return write_cr3(cpu, v);
    case 4:
        return write_cr4(cpu, v);
    default:
        if (v > 15)
            return gp0(cpu);
        if (cpu->io != NULL && cpu->io->set_tpr != NULL)
            cpu->io->set_tpr(cpu->io->ctx, v);
        return 0; /* irq_notify tells if a lower priority lets an interrupt in */
    }
}

/* ---- XCR0 ------------------------------------------------------------------------------------- */

int vmci_xsetbv(struct vmci_cpu *cpu, uint32_t index, uint64_t v)
{
    if ((cpu->cr4 & VMC_CR4_OSXSAVE) == 0)
        return vmci_raise(cpu, VMC_VEC_UD);
    if (cpu->cpl != 0 || index != 0 || (v & ~cpu->xcr0_allowed) != 0 || (v & VMC_XCR0_X87) == 0 ||
        (v & (VMC_XCR0_SSE | VMC_XCR0_AVX)) == VMC_XCR0_AVX)
        return gp0(cpu);
    cpu->xcr0 = v;
    return 0;
}

int vmci_xgetbv(struct vmci_cpu *cpu, uint32_t index, uint64_t *out)
{
    if ((cpu->cr4 & VMC_CR4_OSXSAVE) == 0)
        return vmci_raise(cpu, VMC_VEC_UD);
    if (index > 1 || (index == 1 && (cpu->features >> VMCI_FEAT_XSAVEC & 1u) == 0))
        return gp0(cpu);
    *out = cpu->xcr0 & (index == 1 ? vmci_fp_in_use(cpu) : ~0ull);
    return 0;
}

/* ---- invalidation ----------------------------------------------------------------------------- */

int vmci_invlpg(struct vmci_cpu *cpu, uint64_t la)
{
    if (cpu->cpl != 0)
        return gp0(cpu);
    if (vmci_canonical_max(cpu, la)) /* otherwise it is a no-op */
        vmci_tlb_flush_page(cpu, la);
    return 0;
}

int vmci_invpcid(struct vmci_cpu *cpu, uint64_t type, uint64_t pcid, uint64_t la)
{
    enum { ADDRESS, CONTEXT, ALL_GLOBAL, ALL };
    bool pcide = (cpu->cr4 & VMC_CR4_PCIDE) != 0;

    if (cpu->cpl != 0 || type > ALL)
        return gp0(cpu);
    if (type <= CONTEXT && ((pcid >> 12) != 0 || (!pcide && pcid != 0)))
        return gp0(cpu);
    if (type >= ALL_GLOBAL && (pcid >> 12) != 0)
        return gp0(cpu);
    if (type == ADDRESS) {
        if (!vmci_canonical_max(cpu, la))
            return gp0(cpu);
        /* Entries of other PCIDs are never kept. */
        if (pcid == (pcide ? cpu->cr3 & CR3_PCID : 0))
            vmci_tlb_flush_page(cpu, la);
        return 0;
    }
    if (type == CONTEXT && pcid != (pcide ? cpu->cr3 & CR3_PCID : 0))
        return 0;
    vmci_tlb_flush(cpu, type == ALL_GLOBAL);
    return 0;
}
