/* SPDX-License-Identifier: BSD-2-Clause */
/* Control and debug registers, system calls, MSRs, CPUID and its models, ports, state transfer. */
#include "sys_rig.h"

#include <vmcore/cpuid.h>

static struct vmc_mem *mem;

/* ---- control registers ------------------------------------------------------------------------ */

static void cr0_rules(void **state)
{
    (void)state;
    static const struct {
        uint64_t v;
        bool ok;
    } t[] = {
        {VMC_CR0_PE, true},
        {VMC_CR0_PG, false},
        {VMC_CR0_NW | VMC_CR0_PE, false},
        {VMC_CR0_NW | VMC_CR0_CD, true},
        {1ull << 32 | VMC_CR0_PE, false},
        {VMC_CR0_PE | 0x1ff8ffc0, true}, /* reserved bits are ignored */
    };
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(t); i++) {
        rig_new();
        int r = vmci_cr_write(rig.cpu, 0, t[i].v);
        assert_int_equal(r == 0, t[i].ok);
        if (r == 0)
            assert_int_equal(rig.cpu->cr0, (t[i].v & 0xe005003f) | VMC_CR0_ET);
    }
    rig_prot(3);
    assert_fault(vmci_cr_write(rig.cpu, 0, 1), VMC_VEC_GP, 0);
    assert_fault(vmci_cr_write(rig.cpu, 1, 1), VMC_VEC_UD, 0);
    assert_fault(vmci_clts(rig.cpu), VMC_VEC_GP, 0);
    rig_new();
    assert_int_equal(vmci_lmsw(rig.cpu, 0xfff9), 0);
    assert_true(vmci_prot_mode(rig.cpu));
    assert_true((rig.cpu->cr0 & VMC_CR0_TS) != 0);
    assert_int_equal(vmci_lmsw(rig.cpu, 0), 0); /* PE stays */
    assert_true(vmci_prot_mode(rig.cpu));
    assert_int_equal(rig.cpu->cr0 & VMC_CR0_TS, 0);
}

static void long_mode_switch(void **state)
{
    (void)state;
    rig_prot(0);
    rig.cpu->mem = mem;
    assert_int_equal(vmci_msr_write(rig.cpu, VMC_MSR_EFER, VMC_EFER_LME), 0);
    assert_fault(vmci_cr_write(rig.cpu, 0, VMC_CR0_PE | VMC_CR0_PG), VMC_VEC_GP, 0); /* no PAE */
    assert_int_equal(vmci_cr_write(rig.cpu, 4, VMC_CR4_PAE), 0);
    rig.cpu->seg[VMC_CS].attr |= VMC_SEG_L;
    assert_fault(vmci_cr_write(rig.cpu, 0, VMC_CR0_PE | VMC_CR0_PG), VMC_VEC_GP, 0);
    rig.cpu->seg[VMC_CS].attr &= ~VMC_SEG_L;
    assert_int_equal(vmci_cr_write(rig.cpu, 0, VMC_CR0_PE | VMC_CR0_PG), 0);
    assert_int_equal(rig.cpu->efer, VMC_EFER_LME | VMC_EFER_LMA);
    assert_int_equal(rig.cpu->code_bits, 32);
    assert_fault(vmci_msr_write(rig.cpu, VMC_MSR_EFER, 0), VMC_VEC_GP, 0); /* LME with PG */
    assert_fault(vmci_cr_write(rig.cpu, 4, 0), VMC_VEC_GP, 0);             /* PAE off */
    assert_fault(vmci_cr_write(rig.cpu, 3, 1ull << 40), VMC_VEC_GP, 0);
    assert_int_equal(vmci_cr_write(rig.cpu, 3, 0x7008), 0);
    assert_fault(vmci_cr_write(rig.cpu, 4, VMC_CR4_PAE | VMC_CR4_PCIDE), VMC_VEC_GP, 0);
    assert_int_equal(vmci_cr_write(rig.cpu, 3, 0x7000), 0);
    assert_int_equal(vmci_cr_write(rig.cpu, 4, VMC_CR4_PAE | VMC_CR4_PCIDE), 0);
    assert_int_equal(vmci_cr_write(rig.cpu, 3, 1ull << 63 | 0x7005), 0);
    assert_int_equal(rig.cpu->cr3, 0x7005);
    assert_fault(vmci_cr_write(rig.cpu, 0, VMC_CR0_PE), VMC_VEC_GP, 0); /* PCIDE */
    assert_int_equal(vmci_cr_write(rig.cpu, 4, VMC_CR4_PAE), 0);
    rig_segment(VMC_CS, S_CODE64);
    vmci_update_mode(rig.cpu);
    assert_fault(vmci_cr_write(rig.cpu, 0, VMC_CR0_PE), VMC_VEC_GP, 0); /* 64-bit code */
    assert_fault(vmci_cr_write(rig.cpu, 8, 16), VMC_VEC_GP, 0);
    assert_int_equal(vmci_cr_write(rig.cpu, 8, 15), 0);
    rig_segment(VMC_CS, S_CODE0);
    vmci_update_mode(rig.cpu);
    assert_fault(vmci_cr_write(rig.cpu, 8, 0), VMC_VEC_UD, 0);
    assert_int_equal(vmci_cr_write(rig.cpu, 0, VMC_CR0_PE), 0);
    assert_int_equal(rig.cpu->efer, VMC_EFER_LME);
}

static void pae_loads_pdptes(void **state)
{
    (void)state;
    uint64_t table[4] = {0x1001, 0, 0x3001, 0};
    rig_prot(0);
    rig.cpu->mem = mem;
    assert_int_equal(vmc_mem_write(mem, 0x2020, table, sizeof(table)), VMC_OK);
    rig.cpu->cr3 = 0x2020;
    assert_int_equal(vmci_cr_write(rig.cpu, 4, VMC_CR4_PAE), 0);
    assert_int_equal(vmci_cr_write(rig.cpu, 0, VMC_CR0_PE | VMC_CR0_PG), 0);
    assert_int_equal(rig.cpu->pdpte[2], 0x3001);
    table[1] = 0x1e7; /* reserved bits of a present entry */
    assert_int_equal(vmc_mem_write(mem, 0x2020, table, sizeof(table)), VMC_OK);
    assert_fault(vmci_cr_write(rig.cpu, 3, 0x2020), VMC_VEC_GP, 0);
    assert_int_equal(rig.cpu->pdpte[1], 0);
    table[1] = 0x5001;
    assert_int_equal(vmc_mem_write(mem, 0x2020, table, sizeof(table)), VMC_OK);
    assert_int_equal(vmci_cr_write(rig.cpu, 3, 0x2020), 0);
    assert_int_equal(rig.cpu->pdpte[1], 0x5001);
}

static void cr4_and_xcr0(void **state)
{
    (void)state;
    rig_prot(0);
    assert_fault(vmci_cr_write(rig.cpu, 4, VMC_CR4_VMXE), VMC_VEC_GP, 0);
    assert_fault(vmci_cr_write(rig.cpu, 4, 1ull << 40), VMC_VEC_GP, 0);
    assert_fault(vmci_xsetbv(rig.cpu, 0, 7), VMC_VEC_UD, 0);
    assert_int_equal(vmci_cr_write(rig.cpu, 4, VMC_CR4_OSXSAVE), 0);
    assert_fault(vmci_xsetbv(rig.cpu, 1, 7), VMC_VEC_GP, 0);
    assert_fault(vmci_xsetbv(rig.cpu, 0, 6), VMC_VEC_GP, 0);
    assert_fault(vmci_xsetbv(rig.cpu, 0, 5), VMC_VEC_GP, 0);
    assert_fault(vmci_xsetbv(rig.cpu, 0, 0x17), VMC_VEC_GP, 0);
    assert_int_equal(vmci_xsetbv(rig.cpu, 0, 7), 0);
    uint64_t v = 0;
    assert_int_equal(vmci_xgetbv(rig.cpu, 0, &v), 0);
    assert_int_equal(v, 7);
    assert_fault(vmci_xgetbv(rig.cpu, 2, &v), VMC_VEC_GP, 0);
}

static void invpcid_checks(void **state)
{
    (void)state;
    rig_long(0);
    assert_fault(vmci_invpcid(rig.cpu, 4, 0, 0), VMC_VEC_GP, 0);
    assert_fault(vmci_invpcid(rig.cpu, 0, 1, 0), VMC_VEC_GP, 0); /* PCIDE is off */
    assert_fault(vmci_invpcid(rig.cpu, 0, 0x1000, 0), VMC_VEC_GP, 0);
    assert_fault(vmci_invpcid(rig.cpu, 2, 0x1000, 0), VMC_VEC_GP, 0);
    assert_fault(vmci_invpcid(rig.cpu, 0, 0, 1ull << 50), VMC_VEC_GP, 0);
    assert_int_equal(vmci_invpcid(rig.cpu, 0, 0, 0x1000), 0);
    assert_int_equal(rig.page_flushes, 1);
    rig.flushes = 0;
    assert_int_equal(vmci_invpcid(rig.cpu, 2, 0, 0), 0);
    assert_int_equal(rig.flushes, 1);
    rig_long(3);
    assert_fault(vmci_invpcid(rig.cpu, 2, 0, 0), VMC_VEC_GP, 0);
    assert_fault(vmci_invlpg(rig.cpu, 0), VMC_VEC_GP, 0);
}

/* ---- debug registers -------------------------------------------------------------------------- */

static void debug_register_access(void **state)
{
    (void)state;
    uint64_t v = 0;
    rig_prot(0);
    assert_int_equal(vmci_dr_write(rig.cpu, 6, 0xffffffff), 0);
    assert_int_equal(rig.cpu->dr6, 0xffffefff);
    assert_int_equal(vmci_dr_write(rig.cpu, 6, 0), 0);
    assert_int_equal(rig.cpu->dr6, VMC_DR6_FIXED);
    assert_int_equal(vmci_dr_write(rig.cpu, 5, 0), 0); /* alias of DR7 */
    assert_int_equal(vmci_dr_read(rig.cpu, 7, &v), 0);
    assert_int_equal(v, 0x400);
    assert_fault(vmci_dr_write(rig.cpu, 7, 1ull << 32), VMC_VEC_GP, 0);
    rig.cpu->cr4 = VMC_CR4_DE;
    assert_fault(vmci_dr_write(rig.cpu, 5, 0), VMC_VEC_UD, 0);
    assert_int_equal(vmci_dr_write(rig.cpu, 7, 0x2000), 0);
    assert_fault(vmci_dr_read(rig.cpu, 0, &v), VMC_VEC_DB, 0);
    assert_int_equal(rig.cpu->exc.payload, VMC_DR6_BD);
    rig_prot(3);
    rig.cpu->dr7 = 0x2400;
    assert_fault(vmci_dr_read(rig.cpu, 0, &v), VMC_VEC_GP, 0); /* before GD */
}

static void breakpoint_matching(void **state)
{
    (void)state;
    static const struct {
        uint64_t dr7, at; /* breakpoint 1 at 0x1004 */
        unsigned bytes;
        bool write;
        uint64_t hits;
    } t[] = {
        {0xd00004, 0x1004, 4, true, 2},  {0xd00004, 0x1004, 4, false, 0},
        {0xf00004, 0x1004, 4, false, 2}, {0xf00004, 0x1001, 4, false, 2},
        {0xf00004, 0x1000, 4, false, 0}, {0xf00004, 0x1008, 8, false, 0},
        {0xf00004, 0x0fff, 8, true, 2},  {0x100004, 0x1005, 1, true, 0},
        {0x900004, 0x1000, 1, true, 2}, /* 8 bytes, aligned down */
        {0xd00001, 0x1004, 4, true, 0}, /* not enabled */
        {0xd00008, 0x1007, 1, true, 2},
    };
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(t); i++) {
        rig_prot(0);
        rig.cpu->dr[1] = 0x1004;
        rig.cpu->dr[0] = 0x9999999;
        rig.cpu->dr7 = 0x400 | t[i].dr7;
        vmci_dr_data_hit(rig.cpu, t[i].at, t[i].bytes, t[i].write);
        assert_int_equal(rig.cpu->pending_db, t[i].hits);
    }
    rig_prot(0);
    rig.cpu->dr[2] = 0x5000;
    rig.cpu->dr7 = 0x420;
    assert_int_equal(vmci_dr_exec_hit(rig.cpu, 0x5001), 0);
    assert_fault(vmci_dr_exec_hit(rig.cpu, 0x5000), VMC_VEC_DB, 0);
    assert_int_equal(rig.cpu->exc.payload, 4);
    rig.cpu->rflags |= VMC_FLAG_RF;
    assert_int_equal(vmci_dr_exec_hit(rig.cpu, 0x5000), 0);
    /* I/O breakpoints need CR4.DE. */
    rig_prot(0);
    uint32_t data = 0;
    rig.cpu->dr[3] = 0x60;
    rig.cpu->dr7 = 0x20000480;
    assert_int_equal(vmci_pio(rig.cpu, false, 0x60, 1, &data), 0);
    assert_int_equal(rig.cpu->pending_db, 0);
    rig.cpu->cr4 = VMC_CR4_DE;
    assert_int_equal(vmci_pio(rig.cpu, false, 0x60, 1, &data), 0);
    assert_int_equal(rig.cpu->pending_db, 8);
}

/* ---- ports ------------------------------------------------------------------------------------ */

static void io_permission(void **state)
{
    (void)state;
    rig_prot(3);
    rig.mem[RIG_TSS + 0x68 + 0x60 / 8] = 0x02; /* port 61h */
    assert_int_equal(vmci_io_check(rig.cpu, 0x60, 1), 0);
    assert_fault(vmci_io_check(rig.cpu, 0x61, 1), VMC_VEC_GP, 0);
    assert_fault(vmci_io_check(rig.cpu, 0x60, 2), VMC_VEC_GP, 0);
    assert_fault(vmci_io_check(rig.cpu, 0x5e, 4), VMC_VEC_GP, 0); /* across bytes of the map */
    assert_int_equal(vmci_io_check(rig.cpu, 0xffff, 1), 0);
    rig.cpu->seg[VMC_TR].limit = 0x68 + 0x60 / 8; /* the second byte is beyond */
    assert_fault(vmci_io_check(rig.cpu, 0x60, 1), VMC_VEC_GP, 0);
    assert_int_equal(vmci_io_check(rig.cpu, 0x58, 1), 0);
    rig.cpu->seg[VMC_TR].attr = D_P | 3; /* 16-bit TSS */
    assert_fault(vmci_io_check(rig.cpu, 0x58, 1), VMC_VEC_GP, 0);
    rig.cpu->rflags |= VMC_FLAG_IOPL;
    assert_int_equal(vmci_io_check(rig.cpu, 0x61, 1), 0);
    rig.cpu->rflags |= VMC_FLAG_VM; /* v86: the map whatever IOPL is */
    assert_fault(vmci_io_check(rig.cpu, 0x61, 1), VMC_VEC_GP, 0);
}

/* ---- system calls ----------------------------------------------------------------------------- */

static void syscall_and_sysret(void **state)
{
    (void)state;
    rig_long(3);
    rig.cpu->msr.star = 0x0053000800000000ull;
    rig.cpu->msr.lstar = 0xffff800000001000ull;
    rig.cpu->msr.sfmask = VMC_FLAG_IF | VMC_FLAG_TF;
    rig.cpu->rflags |= VMC_FLAG_IF | VMC_FLAG_RF | VMC_FLAG_CF;
    assert_int_equal(vmci_syscall(rig.cpu, 0x4002), 0);
    assert_int_equal(rig.cpu->rip, 0xffff800000001000ull);
    assert_int_equal(rig.cpu->gpr[VMC_RCX], 0x4002);
    assert_int_equal(rig.cpu->gpr[VMC_R11], VMC_FLAG_1 | VMC_FLAG_IF | VMC_FLAG_CF);
    assert_int_equal(rig.cpu->rflags, VMC_FLAG_1 | VMC_FLAG_CF);
    assert_int_equal(rig.cpu->seg[VMC_CS].selector, 8);
    assert_int_equal(rig.cpu->seg[VMC_CS].attr, 0xa09b);
    assert_int_equal(rig.cpu->seg[VMC_SS].selector, 16);
    assert_int_equal(rig.cpu->cpl, 0);
    assert_int_equal(vmci_sysret(rig.cpu, 8), 0);
    assert_int_equal(rig.cpu->rip, 0x4002);
    assert_int_equal(rig.cpu->seg[VMC_CS].selector, 0x63);
    assert_int_equal(rig.cpu->seg[VMC_SS].selector, 0x5b);
    assert_int_equal(rig.cpu->cpl, 3);
    assert_int_equal(rig.cpu->code_bits, 64);
    assert_true((rig.cpu->rflags & VMC_FLAG_IF) != 0);
    assert_fault(vmci_sysret(rig.cpu, 8), VMC_VEC_GP, 0);
    rig_long(0);
    rig.cpu->msr.star = 0x0053000800000000ull;
    rig.cpu->gpr[VMC_RCX] = 1ull << 48;
    assert_fault(vmci_sysret(rig.cpu, 8), VMC_VEC_GP, 0);
    rig.cpu->gpr[VMC_RCX] = 0x1000;
    assert_int_equal(vmci_sysret(rig.cpu, 4), 0);
    assert_int_equal(rig.cpu->code_bits, 32);
    assert_int_equal(rig.cpu->seg[VMC_CS].selector, 0x53);
    assert_fault(vmci_syscall(rig.cpu, 0), VMC_VEC_UD, 0); /* compatibility mode: AMD only */
    rig.cpu->amd = true;
    rig.cpu->msr.cstar = 0x7000;
    assert_int_equal(vmci_syscall(rig.cpu, 0), 0);
    assert_int_equal(rig.cpu->rip, 0x7000);
    rig_long(3);
    rig.cpu->efer &= ~VMC_EFER_SCE;
    assert_fault(vmci_syscall(rig.cpu, 0), VMC_VEC_UD, 0);
}

/* Requested levels in STAR: SYSCALL takes them out of CS and leaves them in SS, SYSRET sets both. */
static void syscall_selectors_with_a_level(void **state)
{
    (void)state;
    for (unsigned rpl = 0; rpl < 4; rpl++) {
        rig_long(3);
        rig.cpu->msr.star = (uint64_t)(0x00500008u | rpl << 16 | rpl) << 32;
        assert_int_equal(vmci_syscall(rig.cpu, 0x4002), 0);
        assert_int_equal(rig.cpu->seg[VMC_CS].selector, 8);
        assert_int_equal(rig.cpu->seg[VMC_SS].selector, 16 | rpl);
        assert_int_equal(rig.cpu->cpl, 0);
        assert_int_equal(vmci_sysret(rig.cpu, 8), 0);
        assert_int_equal(rig.cpu->seg[VMC_CS].selector, 0x63);
        assert_int_equal(rig.cpu->seg[VMC_SS].selector, 0x5b);
    }
}

static void sysenter_and_sysexit(void **state)
{
    (void)state;
    rig_prot(3);
    assert_fault(vmci_sysenter(rig.cpu), VMC_VEC_GP, 0);
    rig.cpu->msr.sysenter_cs = 8;
    rig.cpu->msr.sysenter_eip = 0x123450000ull;
    rig.cpu->msr.sysenter_esp = 0x9000;
    rig.cpu->rflags |= VMC_FLAG_IF;
    assert_int_equal(vmci_sysenter(rig.cpu), 0);
    assert_int_equal(rig.cpu->rip, 0x23450000);
    assert_int_equal(rig.cpu->cpl, 0);
    assert_int_equal(rig.cpu->rflags & VMC_FLAG_IF, 0);
    rig.cpu->gpr[VMC_RDX] = 0x5555;
    rig.cpu->gpr[VMC_RCX] = 0x6666;
    assert_int_equal(vmci_sysexit(rig.cpu, 4), 0);
    assert_int_equal(rig.cpu->seg[VMC_CS].selector, 0x1b);
    assert_int_equal(rig.cpu->seg[VMC_SS].selector, 0x23);
    assert_int_equal(rig.cpu->rip, 0x5555);
    assert_int_equal(rig.cpu->gpr[VMC_RSP], 0x6666);
    assert_fault(vmci_sysexit(rig.cpu, 4), VMC_VEC_GP, 0);
    rig_long(0);
    rig.cpu->msr.sysenter_cs = 8;
    rig.cpu->gpr[VMC_RDX] = 1ull << 47;
    assert_fault(vmci_sysexit(rig.cpu, 8), VMC_VEC_GP, 0);
    rig.cpu->amd = true;
    assert_fault(vmci_sysenter(rig.cpu), VMC_VEC_UD, 0);
}

/* ---- MSRs ------------------------------------------------------------------------------------- */

/* Linux looks for it: a TSC that changed with the frequency would be of no use. */
static void amd_tsc_counts_at_p0(void **state)
{
    uint64_t v = 0;

    (void)state;
    rig_long(0);
    rig.cpu->amd = true;
    assert_int_equal(vmci_msr_read(rig.cpu, 0xc0010015u, &v), 0);
    assert_true((v & 1u << 24) != 0);
    rig.cpu->amd = false;
    assert_fault(vmci_msr_read(rig.cpu, 0xc0010015u, &v), VMC_VEC_GP, 0);
}

static void msr_rules(void **state)
{
    (void)state;
    static const struct {
        uint32_t index;
        uint64_t value;
        bool ok;
    } t[] = {
        {VMC_MSR_PAT, 0x0706050401000000ull, true},
        {VMC_MSR_PAT, 2, false},
        {VMC_MSR_PAT, 8ull << 56, false},
        {VMC_MSR_MTRR_DEF_TYPE, 0xc06, true},
        {VMC_MSR_MTRR_DEF_TYPE, 0xc02, false},
        {VMC_MSR_MTRR_DEF_TYPE, 0x1000, false},
        {VMC_MSR_MTRR_FIX64K, 0x0606060606060606ull, true},
        {VMC_MSR_MTRR_FIX64K, 0x0606060706060606ull, false},
        {VMC_MSR_MTRR_PHYSBASE0, 0x80000006, true},
        {VMC_MSR_MTRR_PHYSBASE0, 0x80000106, false},
        {VMC_MSR_MTRR_PHYSBASE0 + 1, 0xff80000800ull, true},
        {VMC_MSR_MTRR_PHYSBASE0 + 1, 1ull << 40, false},
        {VMC_MSR_MTRR_PHYSBASE0 + 16, 0, false},
        {VMC_MSR_MTRRCAP, 0, false},
        {VMC_MSR_EFER, VMC_EFER_SVME, false},
        {VMC_MSR_EFER, VMC_EFER_SCE | VMC_EFER_NX, true},
        {VMC_MSR_LSTAR, 1ull << 47, false},
        {VMC_MSR_LSTAR, ~0ull, true},
        {VMC_MSR_FS_BASE, 1ull << 63, false},
        {VMC_MSR_GS_BASE, 0x7fffffffffffull, true},
        {VMC_MSR_TSC_AUX, 1ull << 32, false},
        {VMC_MSR_TSC_AUX, 0xffffffff, true},
        {VMC_MSR_SYSENTER_ESP, 1ull << 48, false},
        {VMC_MSR_XSS, 1, false},
        {VMC_MSR_DEBUGCTL, VMC_DEBUGCTL_BTF, true},
        {VMC_MSR_DEBUGCTL, 0x100, false},
        {0x12345678, 0, false},
    };
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(t); i++) {
        uint64_t v = 0;
        rig_prot(0);
        int r = vmci_msr_write(rig.cpu, t[i].index, t[i].value);
        if ((r == 0) != t[i].ok)
            fail_msg("msr %x <- %llx: %d", t[i].index, (unsigned long long)t[i].value, r);
        if (r == 0) {
            assert_int_equal(vmci_msr_read(rig.cpu, t[i].index, &v), 0);
            assert_int_equal(v, t[i].value);
        } else {
            assert_int_equal(rig.cpu->exc.vector, VMC_VEC_GP);
        }
    }
}

static void machine_msrs_are_asked_for(void **state)
{
    (void)state;
    static const struct vmc_engine_io none = {0};
    struct vmc_engine_io io = none;
    uint64_t v = 0;
    rig_prot(0);
    io.msr = (int (*)(void *, bool, uint32_t, uint64_t *))(uintptr_t)1; /* never called here */
    rig.cpu->io = &io;
    rig.msr_answer = VMC_IO_DONE;
    rig.msr_value = 0x77;
    assert_int_equal(vmci_msr_read(rig.cpu, VMC_MSR_TSC_DEADLINE, &v), 0);
    assert_int_equal(v, 0x77);
    assert_int_equal(rig.msr_index, VMC_MSR_TSC_DEADLINE);
    assert_int_equal(vmci_msr_write(rig.cpu, VMC_MSR_APIC_BASE, 0xfee00000), 0);
    assert_int_equal(rig.cpu->msr.apic_base, 0xfee00000);
    rig.msr_answer = VMC_IO_GP;
    assert_fault(vmci_msr_read(rig.cpu, 0x4b564d00, &v), VMC_VEC_GP, 0);
}

static void tsc_and_adjust(void **state)
{
    (void)state;
    uint64_t v = 0;
    rig_prot(0);
    assert_int_equal(vmci_tsc(rig.cpu), 0); /* since RESET */
    rig.tp.now_ns += 1000;
    assert_int_equal(vmci_tsc(rig.cpu), 1000);
    assert_int_equal(vmci_msr_write(rig.cpu, VMC_MSR_TSC, 5000), 0);
    assert_int_equal(vmci_msr_read(rig.cpu, VMC_MSR_TSC_ADJUST, &v), 0);
    assert_int_equal(v, 4000);
    assert_int_equal(vmci_msr_write(rig.cpu, VMC_MSR_TSC_ADJUST, 1000), 0);
    assert_int_equal(vmci_tsc(rig.cpu), 2000);
    vmci_cpu_reset(rig.cpu, true); /* INIT leaves it alone */
    assert_int_equal(vmci_tsc(rig.cpu), 2000);
}

/* ---- CPU models ------------------------------------------------------------------------------- */

static struct vmc_cpu_policy policy, ceiling;
#define FP_ALL (~0ull)

static void presets(void **state)
{
    (void)state;
    struct vmc_error err;
    const char *name;
    vmci_soft_ceiling(&ceiling, FP_ALL);
    for (unsigned i = 0; (name = vmc_cpu_preset_name(i, NULL)) != NULL; i++) {
        if (vmc_cpu_policy_preset(&policy, name, &ceiling, &err) != VMC_OK)
            fail_msg("%s: %s", name, err.text);
        if (vmc_cpu_policy_check(&policy, &ceiling, &err) != VMC_OK)
            fail_msg("%s: %s", name, err.text);
        rig_prot(0);
        vmci_apply_policy(rig.cpu, &policy);
        vmci_cpu_reset(rig.cpu, false);
        uint32_t r[4];
        vmci_cpuid(rig.cpu, 1, 0, r);
        assert_int_equal(rig.cpu->gpr[VMC_RDX], r[0]);
    }
    assert_int_equal(vmc_cpu_policy_preset(&policy, "i286", &ceiling, &err), VMC_ENOENT);
    assert_non_null(strstr(err.text, "x86-64-v3"));
    /* A ceiling without the unit. */
    vmci_soft_ceiling(&ceiling, FP_ALL & ~(1ull << VMCI_FEAT_AVX2));
    assert_int_equal(vmc_cpu_policy_preset(&policy, "x86-64-v3", &ceiling, &err), VMC_ENOTSUP);
    assert_non_null(strstr(err.text, "avx2"));
    assert_int_equal(vmc_cpu_policy_preset(&policy, "x86-64-v2", &ceiling, &err), VMC_OK);
    assert_false(vmc_cpu_policy_has(&policy, "avx"));
    struct vmc_cpu_policy small = ceiling; /* some hypervisors hide what 64-bit guests never use */
    assert_int_equal(vmc_cpu_policy_feature(&small, "vme", false, &ceiling, &err), VMC_OK);
    assert_int_equal(vmc_cpu_policy_preset(&policy, "default", &small, &err), VMC_OK);
    assert_false(vmc_cpu_policy_has(&policy, "vme"));
    assert_true(vmc_cpu_policy_has(&policy, "lm"));
    assert_int_equal(vmc_cpu_policy_check(&policy, &small, &err), VMC_OK);
    assert_int_equal(vmc_cpu_policy_preset(&policy, "486", &ceiling, &err), VMC_OK);
    vmci_apply_policy(rig.cpu, &policy);
    assert_int_equal(rig.cpu->cr4_allowed, VMC_CR4_VME | VMC_CR4_PVI);
    assert_int_equal(rig.cpu->efer_allowed, 0);
    assert_int_equal(rig.cpu->features,
                     1ull << VMCI_FEAT_NONE | 1ull << VMCI_FEAT_FPU);
}

static void models_have_the_pages_of_their_time(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        uint32_t lacks;
    } t[] = {{"pentium", VMC_PAGING_NO_1G | VMC_PAGING_NO_PSE36},
             {"pentium3", VMC_PAGING_NO_1G},
             {"x86-64-v1", 0}};
    struct vmc_error err;

    vmci_soft_ceiling(&ceiling, FP_ALL);
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(t); i++) {
        rig_prot(0);
        assert_int_equal(vmc_cpu_policy_preset(&policy, t[i].model, &ceiling, &err), VMC_OK);
        vmci_apply_policy(rig.cpu, &policy);
        assert_int_equal(rig.cpu->paging_lacks, t[i].lacks);
    }
    assert_int_equal(vmc_cpu_policy_feature(&policy, "pdpe1gb", false, &ceiling, &err), VMC_OK);
    vmci_apply_policy(rig.cpu, &policy);
    assert_int_equal(rig.cpu->paging_lacks, VMC_PAGING_NO_1G);
}

/* Those of the P6 came with family 6, the APIC's base address with the local APIC. */
static void models_have_the_msrs_of_their_time(void **state)
{
    (void)state;
    static const uint32_t p6[] = {0x17, 0x2a, 0x3a, 0x79, 0x8b, 0x11e, 0x198, 0x1a0, 0x1d9, 0x1db};
    static const struct vmc_engine_io io = {
        .msr = (int (*)(void *, bool, uint32_t, uint64_t *))(uintptr_t)1}; /* never called here */
    struct vmc_error err;
    uint64_t v;

    vmci_soft_ceiling(&ceiling, FP_ALL);
    for (unsigned k = 0; k < 2; k++) {
        rig_prot(0);
        assert_int_equal(
            vmc_cpu_policy_preset(&policy, k == 0 ? "pentium" : "pentium3", &ceiling, &err),
            VMC_OK);
        vmci_apply_policy(rig.cpu, &policy);
        rig.cpu->io = &io;
        rig.msr_answer = VMC_IO_GP;
        for (unsigned i = 0; i < VMCI_ARRAY_SIZE(p6); i++) {
            int r = vmci_msr_read(rig.cpu, p6[i], &v);
            if ((r == 0) != (k == 1))
                fail_msg("MSR %x: %d", p6[i], r);
        }
        assert_int_equal(vmci_msr_write(rig.cpu, VMC_MSR_DEBUGCTL, 0) == 0, k == 1);
        assert_int_equal(vmci_msr_write(rig.cpu, VMC_MSR_MISC_ENABLE, 0) == 0, k == 1);
        assert_int_equal(vmci_msr_read(rig.cpu, 0, &v), 0); /* of the Pentium */
        rig.msr_answer = VMC_IO_DONE;
        assert_int_equal(vmci_msr_read(rig.cpu, VMC_MSR_APIC_BASE, &v) == 0, k == 1);
        assert_int_equal(vmci_msr_write(rig.cpu, VMC_MSR_APIC_BASE, v) == 0, k == 1);
    }
}

static void features_and_what_they_need(void **state)
{
    (void)state;
    struct vmc_error err;
    vmci_soft_ceiling(&ceiling, FP_ALL);
    assert_int_equal(vmc_cpu_policy_preset(&policy, "x86-64-v3", &ceiling, &err), VMC_OK);
    assert_int_equal(vmc_cpu_policy_find(&policy, 0xd, 0)->eax, 7);
    assert_int_equal(vmc_cpu_policy_feature(&policy, "avx", false, &ceiling, &err), VMC_OK);
    assert_false(vmc_cpu_policy_has(&policy, "avx2"));
    assert_false(vmc_cpu_policy_has(&policy, "fma"));
    assert_int_equal(vmc_cpu_policy_find(&policy, 0xd, 0)->eax, 3);
    assert_int_equal(vmc_cpu_policy_find(&policy, 0xd, 0)->ecx, 576);
    assert_int_equal(vmc_cpu_policy_feature(&policy, "avx2", true, &ceiling, &err), VMC_OK);
    assert_true(vmc_cpu_policy_has(&policy, "avx"));
    assert_int_equal(vmc_cpu_policy_feature(&policy, "xsave", false, &ceiling, &err), VMC_OK);
    assert_false(vmc_cpu_policy_has(&policy, "avx2"));
    assert_null(vmc_cpu_policy_find(&policy, 0xd, 0));
    assert_int_equal(vmc_cpu_policy_feature(&policy, "avx9", true, &ceiling, &err), VMC_ENOENT);
    assert_int_equal(vmc_cpu_policy_feature(&policy, "vmx", true, &ceiling, &err), VMC_ENOTSUP);
    assert_non_null(strstr(err.text, "vmx"));
    /* A table that goes too far is named. */
    struct vmc_cpuid_leaf l = *vmc_cpu_policy_find(&policy, 1, 0);
    l.ecx |= 1u << 5;
    assert_int_equal(vmc_cpu_policy_set(&policy, &l), VMC_OK);
    assert_int_equal(vmc_cpu_policy_check(&policy, &ceiling, &err), VMC_ENOTSUP);
    assert_non_null(strstr(err.text, "vmx"));
    for (unsigned i = 0; vmc_cpu_feature_name(i) != NULL; i++)
        for (unsigned k = 0; k < i; k++)
            assert_string_not_equal(vmc_cpu_feature_name(i), vmc_cpu_feature_name(k));
}

static void table_is_bounded(void **state)
{
    (void)state;
    struct vmc_cpuid_leaf l = {0};
    memset(&policy, 0, sizeof(policy));
    for (unsigned i = 0; i < VMC_CPUID_MAX_LEAVES; i++) {
        l.leaf = 0x70000000u + i;
        assert_int_equal(vmc_cpu_policy_set(&policy, &l), VMC_OK);
    }
    assert_int_equal(vmc_cpu_policy_set(&policy, &l), VMC_OK); /* replaces */
    l.leaf++;
    assert_int_equal(vmc_cpu_policy_set(&policy, &l), VMC_ELIMIT);
    assert_int_equal(vmc_cpu_policy_feature(&policy, "avx", true, NULL, NULL), VMC_ELIMIT);
    assert_int_equal(policy.count, VMC_CPUID_MAX_LEAVES);
}

static void cpuid_follows_the_state(void **state)
{
    (void)state;
    uint32_t r[4];
    vmci_soft_ceiling(&ceiling, FP_ALL);
    assert_int_equal(vmc_cpu_policy_preset(&policy, "x86-64-v3", &ceiling, NULL), VMC_OK);
    assert_int_equal(vmc_cpu_policy_topology(&policy, 6), VMC_OK);
    assert_int_equal(vmc_cpu_policy_tsc(&policy, 2595124000u, 1000000000u), VMC_OK);
    assert_int_equal(vmc_cpu_policy_hypervisor(&policy, "KVMKVMKVM\0\0", 0x1000008), VMC_OK);
    rig_long(0);
    vmci_apply_policy(rig.cpu, &policy);
    rig.cpu->apic_id = 5;
    rig.cpu->xcr0 = 1;
    rig.cpu->msr.apic_base = VMC_APIC_BASE_ENABLE;
    vmci_cpuid(rig.cpu, 1, 0, r);
    assert_int_equal(r[1] >> 24, 5);
    assert_int_equal(r[1] >> 16 & 0xff, 6);
    assert_int_equal(r[2] >> 27 & 1, 0);
    assert_int_equal(r[3] >> 9 & 1, 1);
    rig.cpu->cr4 |= VMC_CR4_OSXSAVE;
    rig.cpu->msr.apic_base = 0;
    vmci_cpuid(rig.cpu, 1, 0, r);
    assert_int_equal(r[2] >> 27 & 1, 1);
    assert_int_equal(r[3] >> 9 & 1, 0);
    vmci_cpuid(rig.cpu, 0xd, 0, r);
    assert_int_equal(r[1], 576);
    assert_int_equal(r[2], 832);
    rig.cpu->xcr0 = 7;
    vmci_cpuid(rig.cpu, 0xd, 0, r);
    assert_int_equal(r[1], 832);
    vmci_cpuid(rig.cpu, 0xb, 1, r);
    assert_int_equal(r[0], 3);
    assert_int_equal(r[1], 6);
    assert_int_equal(r[2], 0x201);
    assert_int_equal(r[3], 5);
    vmci_cpuid(rig.cpu, 0xb, 9, r);
    assert_int_equal(r[2], 9);
    assert_int_equal(r[3], 5);
    vmci_cpuid(rig.cpu, 0x40000000, 0, r);
    assert_memory_equal(&r[1], "KVMKVMKVM\0\0\0", 12);
    vmci_cpuid(rig.cpu, 0x40000001, 0, r);
    assert_int_equal(r[0], 0x1000008);
    static const uint32_t zero[4];
    struct vmc_cpuid_leaf base = *vmc_cpu_policy_find(&policy, 0x40000000, 0);
    base.eax = 0x40000010;
    assert_int_equal(vmc_cpu_policy_set(&policy, &base), VMC_OK);
    for (uint32_t leaf = 0x40000002; leaf <= 0x40000010; leaf++) {
        vmci_cpuid(rig.cpu, leaf, 0, r); /* a gap below the range's maximum */
        assert_memory_equal(r, zero, sizeof(r));
    }
    vmci_cpuid(rig.cpu, 0x15, 0, r);
    assert_int_equal((uint64_t)r[2] * r[1] / r[0], 2595124000u);
    vmci_cpuid(rig.cpu, 0x80000001, 0, r);
    assert_int_equal(r[3] >> 11 & 1, 1);
    rig_segment(VMC_CS, S_CODE0);
    vmci_update_mode(rig.cpu);
    vmci_cpuid(rig.cpu, 0x80000001, 0, r); /* SYSCALL on Intel: 64-bit code only */
    assert_int_equal(r[3] >> 11 & 1, 0);
    uint32_t last[4];
    vmci_cpuid(rig.cpu, 0x16, 0, last);
    vmci_cpuid(rig.cpu, 0x5555, 0, r); /* beyond the last: Intel repeats it */
    assert_memory_equal(r, last, sizeof(r));
    vmci_cpuid(rig.cpu, 0x40000011, 0, r); /* so too beyond the maximum of a hypervisor range */
    assert_memory_equal(r, last, sizeof(r));
    vmci_cpuid(rig.cpu, 0x40000100, 0, r);
    assert_memory_equal(r, last, sizeof(r));
}

/* ---- state transfer --------------------------------------------------------------------------- */

static struct vmc_x86_state st, st2;

static void reset_agrees_with_public_state(void **state)
{
    (void)state;
    rig_new();
    vmc_x86_state_reset(&st);
    memset(&st2, 0, sizeof(st2));
    vmci_cpu_get_state(rig.cpu, VMC_ST_ALL, &st2);
    st2.gpr[VMC_RDX] = 0; /* signature of the model */
    st2.msr.apic_base &= ~VMC_APIC_BASE_BSP;
    assert_memory_equal(st.gpr, st2.gpr, sizeof(st.gpr));
    assert_memory_equal(st.seg, st2.seg, sizeof(st.seg));
    assert_memory_equal(&st.msr, &st2.msr, sizeof(st.msr));
    assert_int_equal(st.rip, st2.rip);
    assert_int_equal(st.cr0, st2.cr0);
    assert_int_equal(st.dr6, st2.dr6);
    assert_int_equal(st.dr7, st2.dr7);
    assert_int_equal(st.gdtr.limit, st2.gdtr.limit);
    assert_int_equal(st.injected.type, st2.injected.type);
}

static void state_round_trip(void **state)
{
    (void)state;
    const uint32_t groups = VMC_ST_ALL & ~(uint32_t)(VMC_ST_FPU | VMC_ST_LAPIC);
    rig_long(3);
    rig.cpu->mem = mem;
    rig.cpu->gpr[VMC_R15] = 0x1234;
    rig.cpu->irq_shadow = 3;
    rig.cpu->nmi_blocked = 1;
    rig.cpu->pending_db = VMC_DR6_BS;
    rig.cpu->msr.lstar = 0xffff800000000000ull;
    memset(&st, 0, sizeof(st));
    vmci_cpu_get_state(rig.cpu, groups, &st);
    assert_int_equal(st.injected.payload, VMC_DR6_BS);
    rig_new();
    rig.cpu->mem = mem;
    assert_int_equal(vmci_cpu_set_state(rig.cpu, groups, &st), VMC_OK);
    assert_int_equal(rig.cpu->cpl, 3);
    assert_int_equal(rig.cpu->code_bits, 64);
    assert_int_equal(rig.cpu->irq_shadow, 3);
    memset(&st2, 0, sizeof(st2));
    vmci_cpu_get_state(rig.cpu, groups, &st2);
    st2.tsc = st.tsc;
    assert_memory_equal(&st, &st2, sizeof(st));
}

/* MISC_ENABLE takes NX away from those who set it later. */
static void nx_stays_while_it_is_disabled(void **state)
{
    (void)state;
    const uint32_t groups = VMC_ST_ALL & ~(uint32_t)(VMC_ST_FPU | VMC_ST_LAPIC);
    rig_long(0);
    rig.cpu->mem = mem;
    rig.cpu->efer |= VMC_EFER_NX;
    rig.cpu->efer_allowed &= ~VMC_EFER_NX;
    memset(&st, 0, sizeof(st));
    vmci_cpu_get_state(rig.cpu, groups, &st);
    assert_int_equal(vmci_cpu_set_state(rig.cpu, groups, &st), VMC_OK);
}

static void impossible_states_are_refused(void **state)
{
    (void)state;
    const uint32_t groups = VMC_ST_ALL & ~(uint32_t)(VMC_ST_FPU | VMC_ST_LAPIC);
#define BAD(member, value, says)                                                                   \
    do {                                                                                           \
        struct vmc_x86_state *p = &st2;                                                            \
        memcpy(p, &st, sizeof(st));                                                                \
        p->member = value;                                                                         \
        if (vmci_cpu_set_state(rig.cpu, groups, p) != VMC_EINVAL)                                  \
            fail_msg("%s = %s was taken", #member, #value);                                        \
        if (strstr(rig.tp.last_log, says) == NULL)                                                 \
            fail_msg("%s = %s: \"%s\"", #member, #value, rig.tp.last_log);                         \
    } while (0)
    rig_long(0);
    rig.cpu->mem = mem;
    memset(&st, 0, sizeof(st));
    vmci_cpu_get_state(rig.cpu, groups, &st);
    assert_int_equal(vmci_cpu_set_state(rig.cpu, groups, &st), VMC_OK);
    BAD(cr0, VMC_CR0_PG, "CR0: PG without PE (0x80000000)");
    BAD(cr0, 1ull << 40, "CR0 is above 32 bits (0x10000000000)");
    BAD(cr0, VMC_CR0_PE, "EFER.LMA is not"); /* LMA without PG */
    BAD(cr3, 1ull << 40, "CR3: reserved");
    BAD(cr4, 0, "without CR4.PAE (0x0)");
    BAD(cr4, VMC_CR4_PAE | VMC_CR4_VMXE, "CR4: bits");
    BAD(cr8, 16, "CR8 is above 4 bits (0x10)");
    BAD(efer, VMC_EFER_LME, "EFER.LMA is not");
    BAD(efer, VMC_EFER_LME | VMC_EFER_LMA | VMC_EFER_SVME, "EFER: bits");
    BAD(xcr0, 2, "XCR0: without x87");
    BAD(xcr0, 0x80, "XCR0: components");
    BAD(rflags, 1ull << 32, "RFLAGS: reserved bits (0x100000000)");
    BAD(rflags, VMC_FLAG_VM, "RFLAGS.VM");
    BAD(seg[VMC_CS].attr, 0xe09b, "CS: L and D");
    BAD(seg[VMC_TR].base, 1ull << 50, "LDTR or TR is not canonical (0x4000000000000)");
    BAD(seg[VMC_SS].base, 1ull << 32, "SS or DS is above");
    BAD(gdtr.base, 1ull << 50, "GDTR: base");
    BAD(dr7, 1ull << 32, "DR7");
    BAD(msr.pat, 2, "PAT");
    BAD(msr.lstar, 1ull << 50, "LSTAR");
    BAD(msr.xss, 1, "XSS");
    BAD(pdpte[0], 0x1e7, "PDPTE: reserved bits (0x1e7)");
    BAD(injected.type, 1, "event to deliver");
    BAD(smm, 1, "management mode");
    BAD(activity, 17, "activity");
}

static int setup(void **state)
{
    static struct test_platform tp;
    struct vmc_mem_slot slot = {
        .size = sizeof(slot), .attr = VMC_MEM_RAM, .gpa = 0, .bytes = 0x100000};
    (void)state;
    test_platform_init(&tp);
    return vmc_mem_create(&tp.pf, &mem, NULL) != VMC_OK || vmc_mem_add(mem, &slot, NULL) != VMC_OK;
}

static int teardown(void **state)
{
    (void)state;
    vmc_mem_destroy(mem);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cr0_rules),
        cmocka_unit_test(long_mode_switch),
        cmocka_unit_test(pae_loads_pdptes),
        cmocka_unit_test(cr4_and_xcr0),
        cmocka_unit_test(invpcid_checks),
        cmocka_unit_test(debug_register_access),
        cmocka_unit_test(breakpoint_matching),
        cmocka_unit_test(io_permission),
        cmocka_unit_test(syscall_and_sysret),
        cmocka_unit_test(syscall_selectors_with_a_level),
        cmocka_unit_test(sysenter_and_sysexit),
        cmocka_unit_test(amd_tsc_counts_at_p0),
        cmocka_unit_test(msr_rules),
        cmocka_unit_test(machine_msrs_are_asked_for),
        cmocka_unit_test(tsc_and_adjust),
        cmocka_unit_test(presets),
        cmocka_unit_test(models_have_the_pages_of_their_time),
        cmocka_unit_test(models_have_the_msrs_of_their_time),
        cmocka_unit_test(features_and_what_they_need),
        cmocka_unit_test(table_is_bounded),
        cmocka_unit_test(cpuid_follows_the_state),
        cmocka_unit_test(reset_agrees_with_public_state),
        cmocka_unit_test(state_round_trip),
        cmocka_unit_test(nx_stays_while_it_is_disabled),
        cmocka_unit_test(impossible_states_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
