/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A processor for tests of lib/cpu/sys: flat memory without paging behind the accessors that the
 * software TLB provides in the library. Include it in one file of a test program: what it defines
 * takes the place of the library's.
 */
#ifndef SYS_RIG_H
#define SYS_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu_int.h"
#include "cpu/fpu/fp.h"
#include "test_platform.h"

#include <cmocka.h>

#define RIG_BYTES (1u << 20)

/* Layout of the guest's structures. */
#define RIG_GDT  0x1000u
#define RIG_LDT  0x2000u
#define RIG_IDT  0x3000u
#define RIG_TSS  0x4000u
#define RIG_TSS2 0x5000u
#define RIG_STK0 0x9000u /* top of the level 0 stack */
#define RIG_STK3 0xb000u
#define RIG_CODE 0x10000u

struct rig {
    struct vmci_cpu *cpu;
    struct test_platform tp;
    uint8_t *mem;
    uint64_t fault_page; /* accesses to this page fault; 0: none */
    unsigned flushes, page_flushes;
    unsigned direct;               /* calls of vmci_direct_cpl */
    uint64_t msr_index, msr_value; /* last machine MSR */
    int msr_answer;
};
static struct rig rig;

static int rig_check(uint64_t la, unsigned bytes, unsigned code)
{
    for (unsigned i = 0; i < bytes; i++)
        if (rig.fault_page != 0 && ((la + i) & ~0xfffull) == rig.fault_page)
            return vmci_raise_pf(rig.cpu, la + i, code);
    if (la >= RIG_BYTES - bytes) {
        fail_msg("access to %llx", (unsigned long long)la);
        return VMCI_FAULT;
    }
    return 0;
}

static int rig_rd(uint64_t la, unsigned bytes, uint64_t *out, unsigned code)
{
    int r = rig_check(la, bytes, code);
    if (r == 0) {
        *out = 0;
        memcpy(out, rig.mem + la, bytes);
    }
    return r;
}

static int rig_wr(uint64_t la, unsigned bytes, uint64_t v, unsigned code)
{
    int r = rig_check(la, bytes, code | VMC_PF_WRITE);
    if (r == 0)
        memcpy(rig.mem + la, &v, bytes);
    return r;
}

int vmci_rd(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, uint64_t *out)
{
    return rig_rd(la, bytes, out, cpu->cpl == 3 ? VMC_PF_USER : 0);
}
int vmci_wr(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, uint64_t v)
{
    return rig_wr(la, bytes, v, cpu->cpl == 3 ? VMC_PF_USER : 0);
}
int vmci_rd_sys(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, uint64_t *out)
{
    (void)cpu;
    return rig_rd(la, bytes, out, 0);
}
int vmci_wr_sys(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, uint64_t v)
{
    (void)cpu;
    return rig_wr(la, bytes, v, 0);
}
int vmci_mark_sys(struct vmci_cpu *cpu, uint64_t la, uint8_t set, uint8_t clear, uint8_t *old)
{
    uint64_t v = 0;
    int rc = vmci_rd_sys(cpu, la, 1, &v);
    *old = (uint8_t)v;
    return rc != 0 ? rc : vmci_wr_sys(cpu, la, 1, (v | set) & (uint8_t)~clear);
}
int vmci_rd_cpl(struct vmci_cpu *cpu, unsigned cpl, uint64_t la, unsigned bytes, uint64_t *out)
{
    (void)cpu;
    return rig_rd(la, bytes, out, cpl == 3 ? VMC_PF_USER : 0);
}
int vmci_wr_cpl(struct vmci_cpu *cpu, unsigned cpl, uint64_t la, unsigned bytes, uint64_t v)
{
    (void)cpu;
    return rig_wr(la, bytes, v, cpl == 3 ? VMC_PF_USER : 0);
}
/* Every other time, so that both ways are taken. */
void *vmci_direct_cpl(struct vmci_cpu *cpu, unsigned cpl, uint64_t la, unsigned bytes, bool write)
{
    (void)cpu;
    (void)cpl;
    (void)write;
    for (unsigned i = 0; i < bytes; i++)
        if (rig.fault_page != 0 && ((la + i) & ~0xfffull) == rig.fault_page)
            return NULL;
    return rig.direct++ % 2 == 0 && la < RIG_BYTES - bytes ? rig.mem + la : NULL;
}
int vmci_probe_wr_cpl(struct vmci_cpu *cpu, unsigned cpl, uint64_t la, unsigned bytes)
{
    (void)cpu;
    return rig_check(la, bytes, VMC_PF_WRITE | (cpl == 3 ? VMC_PF_USER : 0));
}
void vmci_tlb_flush(struct vmci_cpu *cpu, bool globals_too)
{
    (void)cpu;
    (void)globals_too;
    rig.flushes++;
}
void vmci_tlb_flush_page(struct vmci_cpu *cpu, uint64_t la)
{
    (void)cpu;
    (void)la;
    rig.page_flushes++;
}
uint64_t vmci_fp_in_use(struct vmci_cpu *cpu)
{
    return cpu->xcr0;
}
int vmci_io_access(struct vmci_cpu *cpu, enum vmci_io_kind kind, bool write, uint64_t addr,
                   unsigned bytes, uint64_t *data)
{
    (void)bytes;
    if (kind != VMCI_IO_MSR)
        return 0;
    rig.msr_index = addr;
    if (rig.msr_answer == VMC_IO_GP)
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    if (write)
        rig.msr_value = *data;
    else
        *data = rig.msr_value;
    return 0;
}

/* ---- descriptors ----------------------------------------------------------------------------- */

#define D_P   0x80u
#define D_DPL(n) ((n) << 5)
#define D_CODE  0x1au /* readable */
#define D_XCODE 0x18u /* execute only */
#define D_CONF  0x1eu
#define D_DATA  0x12u
#define D_RO    0x10u
#define D_EXPDN 0x16u
#define F_G 0x8u
#define F_D 0x4u
#define F_L 0x2u

/* Macros, so that tables can use them. */
#define mk_desc(base, limit, access, flags)                                                        \
    (((uint64_t)(limit) & 0xffffu) | ((uint64_t)(base) & 0xffffffu) << 16 |                        \
     (uint64_t)(access) << 40 | ((uint64_t)(limit) >> 16 & 15u) << 48 | (uint64_t)(flags) << 52 |  \
     ((uint64_t)(base) >> 24) << 56)
#define mk_gate(sel, off, access, count)                                                           \
    (((uint64_t)(off) & 0xffffu) | (uint64_t)(sel) << 16 | (uint64_t)(count) << 32 |               \
     (uint64_t)(access) << 40 | (uint64_t)((uint32_t)(off) >> 16) << 48)
static inline void put64(uint64_t at, uint64_t v)
{
    memcpy(rig.mem + at, &v, 8);
}
static inline void put32(uint64_t at, uint32_t v)
{
    memcpy(rig.mem + at, &v, 4);
}
static inline void put16(uint64_t at, uint16_t v)
{
    memcpy(rig.mem + at, &v, 2);
}
static inline uint64_t get(uint64_t at, unsigned bytes)
{
    uint64_t v = 0;
    memcpy(&v, rig.mem + at, bytes);
    return v;
}
static inline void gdt(uint16_t sel, uint64_t d)
{
    put64(RIG_GDT + (sel & 0xfff8u), d);
}
static inline void ldt(uint16_t sel, uint64_t d)
{
    put64(RIG_LDT + (sel & 0xfff8u), d);
}

/* Selectors of the standard GDT. */
#define S_CODE0 0x08
#define S_DATA0 0x10
#define S_CODE3 0x1b
#define S_DATA3 0x23
#define S_TSS   0x28
#define S_TSS2  0x30
#define S_LDT   0x38
#define S_CONF  0x40
#define S_CODE1 0x49
#define S_DATA1 0x51
#define S_CODE64 0x58
#define S_CODE64U 0x63
#define S_FREE  0x80 /* tests use these and those above */

static inline void rig_segment(unsigned seg, uint16_t sel)
{
    uint64_t d = get((sel & 4 ? RIG_LDT : RIG_GDT) + (sel & 0xfff8u), 8);
    struct vmc_segment *s = &rig.cpu->seg[seg];
    uint32_t hi = (uint32_t)(d >> 32);

    s->selector = sel;
    s->base = (d >> 16 & 0xffffffu) | (d >> 56) << 24;
    s->limit = (uint32_t)(d & 0xffffu) | (hi & 0xf0000u);
    if (hi & 0x800000u)
        s->limit = s->limit << 12 | 0xfffu;
    s->attr = hi >> 8 & 0xf0ffu;
}

static inline void rig_new(void)
{
    if (rig.cpu == NULL) {
        rig.cpu = aligned_alloc(64, (sizeof(*rig.cpu) + 63) / 64 * 64);
        rig.mem = malloc(RIG_BYTES);
    }
    struct vmci_cpu *cpu = rig.cpu;
    memset(cpu, 0, sizeof(*cpu));
    memset(rig.mem, 0, RIG_BYTES);
    rig.fault_page = 0;
    rig.flushes = rig.page_flushes = 0;
    rig.msr_answer = VMC_IO_GP;
    test_platform_init(&rig.tp);
    cpu->pf = &rig.tp.pf;
    cpu->features = ~0ull;
    cpu->phys_bits = cpu->state_phys_bits = 40;
    cpu->cr4_allowed = 0x3ffffull | VMC_CR4_OSXSAVE | VMC_CR4_SMEP | VMC_CR4_SMAP;
    cpu->cr4_allowed &= ~(VMC_CR4_VMXE | VMC_CR4_SMXE | VMC_CR4_LA57 | 0x8000ull);
    cpu->efer_allowed = cpu->state_efer = VMC_EFER_SCE | VMC_EFER_LME | VMC_EFER_NX;
    cpu->xcr0_allowed = 7;
    cpu->tsc_source = VMCI_TSC_NS;
    cpu->tsc_mult = 1ull << 32;
    cpu->tsc_hz = 1000000000u;
    vmci_cpu_reset(cpu, false);
}

/* Protected mode at a CPL, flat segments, 32-bit TSS with stacks for levels 0 to 2. */
static inline void rig_prot(unsigned cpl)
{
    struct vmci_cpu *cpu;

    rig_new();
    cpu = rig.cpu;
    gdt(S_CODE0, mk_desc(0, 0xfffff, D_P | D_CODE | 1, F_G | F_D));
    gdt(S_DATA0, mk_desc(0, 0xfffff, D_P | D_DATA | 1, F_G | F_D));
    gdt(S_CODE3, mk_desc(0, 0xfffff, D_P | D_DPL(3) | D_CODE | 1, F_G | F_D));
    gdt(S_DATA3, mk_desc(0, 0xfffff, D_P | D_DPL(3) | D_DATA | 1, F_G | F_D));
    gdt(S_TSS, mk_desc(RIG_TSS, 0x2068, D_P | 0xb, 0));
    gdt(S_TSS2, mk_desc(RIG_TSS2, 0x67, D_P | 0x9, 0));
    gdt(S_LDT, mk_desc(RIG_LDT, 0xfff, D_P | 2, 0));
    gdt(S_CONF, mk_desc(0, 0xfffff, D_P | D_CONF | 1, F_G | F_D));
    gdt(S_CODE1, mk_desc(0, 0xfffff, D_P | D_DPL(1) | D_CODE | 1, F_G | F_D));
    gdt(S_DATA1, mk_desc(0, 0xfffff, D_P | D_DPL(1) | D_DATA | 1, F_G | F_D));
    gdt(S_CODE64, mk_desc(0, 0xfffff, D_P | D_CODE | 1, F_G | F_L));
    gdt(S_CODE64U, mk_desc(0, 0xfffff, D_P | D_DPL(3) | D_CODE | 1, F_G | F_L));
    cpu->gdtr = (struct vmc_table){.base = RIG_GDT, .limit = 0x7ff};
    cpu->idtr = (struct vmc_table){.base = RIG_IDT, .limit = 0x7ff};
    put32(RIG_TSS + 4, RIG_STK0);
    put16(RIG_TSS + 8, S_DATA0);
    put32(RIG_TSS + 12, RIG_STK0 - 0x400);
    put16(RIG_TSS + 16, S_DATA1);
    put16(RIG_TSS + 0x66, 0x68);
    cpu->cr0 = VMC_CR0_PE | VMC_CR0_ET;
    rig_segment(VMC_CS, cpl == 3 ? S_CODE3 : cpl == 1 ? S_CODE1 : S_CODE0);
    for (unsigned s = VMC_ES; s < VMC_LDTR; s++)
        if (s != VMC_CS)
            rig_segment(s, cpl == 3 ? S_DATA3 : cpl == 1 ? S_DATA1 : S_DATA0);
    rig_segment(VMC_TR, S_TSS);
    rig_segment(VMC_LDTR, S_LDT);
    cpu->gpr[VMC_RSP] = cpl == 3 ? RIG_STK3 : RIG_STK0;
    cpu->rip = RIG_CODE;
    vmci_update_mode(cpu);
    assert_int_equal(cpu->cpl, cpl);
}

/* Long mode, 64-bit code. */
static inline void rig_long(unsigned cpl)
{
    struct vmci_cpu *cpu;

    rig_prot(cpl);
    cpu = rig.cpu;
    cpu->cr4 = VMC_CR4_PAE;
    cpu->efer = VMC_EFER_LME | VMC_EFER_LMA | VMC_EFER_SCE;
    cpu->cr0 |= VMC_CR0_PG;
    cpu->idtr.limit = 0xfff;
    rig_segment(VMC_CS, cpl == 3 ? S_CODE64U : S_CODE64);
    memset(rig.mem + RIG_TSS, 0, 0x70);
    for (unsigned i = 0; i < 3; i++)
        put64(RIG_TSS + 4 + 8 * i, RIG_STK0 - 0x100 * i);
    for (unsigned i = 0; i < 7; i++)
        put64(RIG_TSS + 36 + 8 * i, RIG_STK0 - 0x1000 - 0x100 * i);
    vmci_update_mode(cpu);
    assert_int_equal(cpu->code_bits, 64);
}

static inline void idt(unsigned v, uint16_t sel, uint32_t off, unsigned access)
{
    put64(RIG_IDT + 8 * v, mk_gate(sel, off, access, 0));
}
static inline void idt64(unsigned v, uint16_t sel, uint64_t off, unsigned access, unsigned ist)
{
    put64(RIG_IDT + 16 * v, mk_gate(sel, (uint32_t)off, access, ist));
    put64(RIG_IDT + 16 * v + 8, off >> 32);
}

static inline void push32(uint32_t v)
{
    rig.cpu->gpr[VMC_RSP] -= 4;
    put32(rig.cpu->gpr[VMC_RSP], v);
}
static inline void push64(uint64_t v)
{
    rig.cpu->gpr[VMC_RSP] -= 8;
    put64(rig.cpu->gpr[VMC_RSP], v);
}

#define assert_fault(expr, vec, err)                                                               \
    do {                                                                                           \
        assert_int_equal(expr, VMCI_FAULT);                                                        \
        assert_int_equal(rig.cpu->exc.vector, vec);                                                \
        assert_int_equal(rig.cpu->exc.has_code ? rig.cpu->exc.code : 0, err);                      \
    } while (0)

#endif
