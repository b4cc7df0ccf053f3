/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Hardware task switch (SDM 3A chapter 8).
 *
 * Up to the commit point every fault belongs to the old task, and nothing has changed. After it the
 * processor is in the new task: its general registers, EFLAGS, EIP and selectors are loaded, and a
 * fault while the segment descriptors are checked is one of the new task, whose first instruction
 * has not been executed.
 */
#include "sys_priv.h"

#define TSS32_BYTES 104u
#define TSS16_BYTES 44u

/* Segment registers in the order of the TSS. */
static const uint8_t tss_segs[] = {VMC_ES, VMC_CS, VMC_SS, VMC_DS, VMC_FS, VMC_GS};
#define SEGS16 4u /* a 16-bit TSS has no FS and GS */
#define SEGS32 6u

/* The dynamic part of a TSS, in the widest form. */
struct tss_image {
    uint32_t cr3, eip, eflags;
    uint32_t gpr[8];
    uint16_t sel[SEGS32];
    uint16_t ldt;
    bool trap;
};

/* Offsets in the two formats. */
struct tss_format {
    unsigned bytes;      /* minimum size */
    unsigned reg;        /* size of a register */
    unsigned eip;        /* EIP, EFLAGS, eight registers follow each other */
    unsigned sel, sel_step, sels;
    unsigned ldt;
};
static const struct tss_format format16 = {TSS16_BYTES, 2, 0x0e, 0x22, 2, SEGS16, 0x2a};
static const struct tss_format format32 = {TSS32_BYTES, 4, 0x20, 0x48, 4, SEGS32, 0x60};
#define TSS32_CR3  0x1cu
#define TSS32_TRAP 0x64u

static const struct tss_format *format_of(unsigned type)
{
    return (type & SYS_TYPE_32) != 0 ? &format32 : &format16;
}

static uint64_t desc_base(const struct sys_desc *d)
{
    struct vmc_segment s;

    sys_desc_to_seg(d, 0, &s);
    return s.base;
}

static uint64_t la32(uint64_t base, uint32_t offset)
{
    return (uint32_t)(base + offset);
}

int sys_task_read_tss(struct vmci_cpu *cpu, struct sys_task *t, unsigned vector)
{
    bool iret = t->how == SYS_TASK_IRET;
    unsigned type;
    int r;

    if (sys_null(t->sel) || (t->sel & 4u) != 0)
        return sys_raise_sel(cpu, vector, t->sel, t->ext);
    r = sys_desc_read(cpu, t->sel, vector, t->ext, &t->d);
    if (r != 0)
        return r;
    type = sys_d_type(&t->d);
    if (sys_d_is_seg(&t->d) ||
        (type & ~SYS_TYPE_32) != (iret ? (unsigned)SYS_TSS16_BUSY : (unsigned)SYS_TSS16_AVL))
        return sys_raise_sel(cpu, vector, t->sel, t->ext);
    if (!sys_d_present(&t->d))
        return sys_raise_sel(cpu, VMC_VEC_NP, t->sel, t->ext);
    return 0;
}

/* ---- reading and writing the TSS -------------------------------------------------------------- */

/* The upper halves of registers that come from a 16-bit TSS are ones, as they are since the 386. */
static int read_image(struct vmci_cpu *cpu, const struct sys_desc *d, struct tss_image *im)
{
    const struct tss_format *f = format_of(sys_d_type(d));
    uint64_t base = desc_base(d);
    uint64_t v = 0;
    int r;

    memset(im, 0, sizeof(*im));
    for (unsigned i = 0; i < 10; i++) {
        r = vmci_rd_sys(cpu, la32(base, f->eip + i * f->reg), f->reg, &v);
        if (r != 0)
            return r;
        if (i == 0)
            im->eip = (uint32_t)v;
        else if (i == 1)
            im->eflags = (uint32_t)v;
        else
            im->gpr[i - 2] = f == &format16 ? 0xffff0000u | (uint32_t)v : (uint32_t)v;
    }
    for (unsigned i = 0; i < f->sels; i++) {
        r = vmci_rd_sys(cpu, la32(base, f->sel + i * f->sel_step), 2, &v);
        if (r != 0)
            return r;
        im->sel[i] = (uint16_t)v;
    }
    r = vmci_rd_sys(cpu, la32(base, f->ldt), 2, &v);
    if (r != 0)
        return r;
    im->ldt = (uint16_t)v;
    if (f == &format16)
        return 0;
    r = vmci_rd_sys(cpu, la32(base, TSS32_CR3), 4, &v);
    if (r != 0)
        return r;
    im->cr3 = (uint32_t)v;
    r = vmci_rd_sys(cpu, la32(base, TSS32_TRAP), 2, &v);
    im->trap = (v & 1u) != 0;
    return r;
}

/* First and last byte that save_old writes. */
static int probe_old(struct vmci_cpu *cpu, const struct tss_format *f, uint64_t base)
{
    unsigned first = f->eip;
    unsigned last = f->sel + (f->sels - 1) * f->sel_step + 1;
    int r = vmci_probe_wr_cpl(cpu, 0, la32(base, first), 1);

    return r != 0 ? r : vmci_probe_wr_cpl(cpu, 0, la32(base, last), 1);
}

static int save_old(struct vmci_cpu *cpu, const struct sys_task *t)
{
    const struct vmc_segment *tr = &cpu->seg[VMC_TR];
    const struct tss_format *f = format_of(tr->attr & VMC_SEG_TYPE);
    uint64_t flags = t->how == SYS_TASK_IRET ? t->rflags & ~VMC_FLAG_NT : t->rflags;
    int r = 0;

    for (unsigned i = 0; r == 0 && i < 10; i++) {
        uint64_t v = i == 0 ? t->rip : i == 1 ? flags : cpu->gpr[i - 2];
        r = vmci_wr_sys(cpu, la32(tr->base, f->eip + i * f->reg), f->reg, v);
    }
    for (unsigned i = 0; r == 0 && i < f->sels; i++)
        r = vmci_wr_sys(cpu, la32(tr->base, f->sel + i * f->sel_step), 2,
                        cpu->seg[tss_segs[i]].selector);
    return r;
}

static int clear_busy(struct vmci_cpu *cpu, uint64_t la)
{
    uint8_t old;

    return vmci_mark_sys(cpu, la + 5, 0, SYS_TYPE_BUSY, &old);
}

/* What was saved is what a task that is switched to itself finds. */
static bool overlap(const struct vmci_cpu *cpu, const struct sys_task *t)
{
    uint32_t apart = (uint32_t)(desc_base(&t->d) - cpu->seg[VMC_TR].base);

    return apart < TSS32_BYTES || -apart < TSS32_BYTES;
}

/* ---- before the commit point ------------------------------------------------------------------ */

struct plan {
    struct tss_image im;
    uint64_t old_desc_la;
    bool nested; /* CALL or event: back link and NT */
};

/* Read the new TSS and make sure that every write up to the commit point will succeed. */
static int prepare(struct vmci_cpu *cpu, struct sys_task *t, struct plan *p)
{
    const struct vmc_segment *tr = &cpu->seg[VMC_TR];
    const struct tss_format *of = format_of(tr->attr & VMC_SEG_TYPE);
    const struct tss_format *nf = format_of(sys_d_type(&t->d));
    uint64_t base = desc_base(&t->d);
    int r;

    p->nested = t->how == SYS_TASK_CALL || t->how == SYS_TASK_EVENT;
    if (sys_d_limit(&t->d) < nf->bytes - 1)
        return sys_raise_sel(cpu, VMC_VEC_TS, t->sel, t->ext);
    if ((tr->attr & VMC_SEG_UNUSABLE) != 0 || tr->limit < of->bytes - 1 ||
        !sys_desc_addr(cpu, tr->selector & 0xfff8u, 8, &p->old_desc_la))
        return sys_raise_sel(cpu, VMC_VEC_TS, tr->selector, t->ext);
    r = read_image(cpu, &t->d, &p->im);
    if (r == 0)
        r = probe_old(cpu, of, tr->base);
    if (r == 0 && p->nested)
        r = vmci_probe_wr_cpl(cpu, 0, la32(base, 0), 2);
    if (r == 0 && !p->nested)
        r = vmci_probe_wr_cpl(cpu, 0, p->old_desc_la + 5, 1);
    if (r == 0 && t->how != SYS_TASK_IRET)
        r = vmci_probe_wr_cpl(cpu, 0, t->d.la + 5, 1);
    return r;
}

static int write_memory(struct vmci_cpu *cpu, struct sys_task *t, const struct plan *p)
{
    int r = save_old(cpu, t);

    if (r == 0 && !p->nested)
        r = clear_busy(cpu, p->old_desc_la);
    if (r == 0 && p->nested)
        r = vmci_wr_sys(cpu, la32(desc_base(&t->d), 0), 2, cpu->seg[VMC_TR].selector);
    if (r == 0 && t->how != SYS_TASK_IRET)
        r = sys_desc_mark(cpu, &t->d, SYS_TYPE_BUSY);
    return r;
}

/* ---- the new task ----------------------------------------------------------------------------- */

static void load_registers(struct vmci_cpu *cpu, struct sys_task *t, const struct plan *p)
{
    const struct tss_image *im = &p->im;

    sys_desc_to_seg(&t->d, t->sel, &cpu->seg[VMC_TR]);
    sys_cr0_set_ts(cpu);
    cpu->dr7 &= ~0x155ull; /* L0-L3, LE */
    for (unsigned i = 0; i < 8; i++)
        cpu->gpr[i] = im->gpr[i];
    cpu->rip = im->eip;
    cpu->rflags = (im->eflags & (VMC_FLAG_ARITH | VMC_FLAG_TF | VMC_FLAG_IF | VMC_FLAG_DF |
                                 VMC_FLAG_IOPL | VMC_FLAG_NT | VMC_FLAG_RF | VMC_FLAG_VM |
                                 VMC_FLAG_AC | VMC_FLAG_VIF | VMC_FLAG_VIP | VMC_FLAG_ID)) |
                  VMC_FLAG_1;
    if (p->nested)
        cpu->rflags |= VMC_FLAG_NT;
    /* All descriptors are invalid until they have been checked. SS carries the CPL. */
    for (unsigned i = 0; i < SEGS32; i++)
        sys_seg_null(&cpu->seg[tss_segs[i]], im->sel[i]);
    sys_seg_null(&cpu->seg[VMC_LDTR], im->ldt);
    cpu->seg[VMC_SS].attr |= sys_rpl(cpu->seg[VMC_CS].selector) << VMC_SEG_DPL_SHIFT;
    vmci_set_rflags(cpu, cpu->rflags, 0); /* requests that TF and IF make */
    vmci_update_mode(cpu);
}

static int load_ldt(struct vmci_cpu *cpu, uint16_t sel, unsigned ext)
{
    struct sys_desc d = {0};
    int r;

    if (sys_null(sel))
        return 0;
    if ((sel & 4u) != 0)
        return sys_raise_sel(cpu, VMC_VEC_TS, sel, ext);
    r = sys_desc_read(cpu, sel, VMC_VEC_TS, ext, &d);
    if (r != 0)
        return r;
    if (sys_d_is_seg(&d) || sys_d_type(&d) != SYS_LDT || !sys_d_present(&d))
        return sys_raise_sel(cpu, VMC_VEC_TS, sel, ext);
    sys_desc_to_seg(&d, sel, &cpu->seg[VMC_LDTR]);
    return 0;
}

/* The descriptor of the selector, or zeros where there is none. */
static int peek(struct vmci_cpu *cpu, uint16_t sel, unsigned ext, struct sys_desc *d)
{
    uint64_t la;

    if (sys_null(sel) || !sys_desc_addr(cpu, sel, 8, &la))
        return 0;
    return sys_desc_read(cpu, sel, VMC_VEC_TS, ext, d);
}

static int load_ss(struct vmci_cpu *cpu, uint16_t sel, unsigned cpl, unsigned ext)
{
    struct sys_desc d = {0};
    int r = peek(cpu, sel, ext, &d);

    if (r != 0)
        return r;
    if (!sys_d_writable(&d))
        return sys_raise_sel(cpu, VMC_VEC_TS, sel, ext);
    if (!sys_d_present(&d))
        return sys_raise_sel(cpu, VMC_VEC_SS, sel, ext);
    if (sys_d_dpl(&d) != cpl)
        return sys_raise_sel(cpu, VMC_VEC_TS, sel, ext);
    if (sys_rpl(sel) != cpl) /* the caller looks at CS before it complains */
        return 0;
    r = sys_desc_set_accessed(cpu, &d);
    if (r == 0)
        sys_desc_to_seg(&d, sel, &cpu->seg[VMC_SS]);
    return r;
}

/* In the order of SDM 3A table 8-1, which is the P6 family's. */
static int load_cs_ss(struct vmci_cpu *cpu, unsigned cpl, unsigned ext)
{
    const uint16_t cs = cpu->seg[VMC_CS].selector, ss = cpu->seg[VMC_SS].selector;
    struct sys_desc d = {0};
    int r = peek(cpu, cs, ext, &d);

    if (r != 0)
        return r;
    if (sys_d_is_code(&d) && (sys_d_conforming(&d) ? sys_d_dpl(&d) > cpl : sys_d_dpl(&d) != cpl))
        return sys_raise_sel(cpu, VMC_VEC_TS, cs, ext);
    r = load_ss(cpu, ss, cpl, ext);
    if (r != 0)
        return r;
    if (!sys_d_is_code(&d))
        return sys_raise_sel(cpu, VMC_VEC_TS, cs, ext);
    if (!sys_d_present(&d))
        return sys_raise_sel(cpu, VMC_VEC_NP, cs, ext);
    if (sys_rpl(ss) != cpl)
        return sys_raise_sel(cpu, VMC_VEC_TS, ss, ext);
    r = sys_desc_set_accessed(cpu, &d);
    if (r == 0)
        sys_desc_to_seg(&d, cs, &cpu->seg[VMC_CS]);
    return r;
}

static int load_segments(struct vmci_cpu *cpu, const struct tss_image *im, unsigned ext)
{
    static const uint8_t data[] = {VMC_DS, VMC_ES, VMC_FS, VMC_GS};
    unsigned cpl = sys_rpl(cpu->seg[VMC_CS].selector);
    int r = load_ldt(cpu, im->ldt, ext);

    if (r != 0)
        return r;
    if (vmci_v86_mode(cpu)) {
        for (unsigned i = 0; i < SEGS32; i++)
            sys_seg_v86(&cpu->seg[tss_segs[i]], im->sel[i]);
        vmci_update_mode(cpu);
        return 0;
    }
    r = load_cs_ss(cpu, cpl, ext);
    vmci_update_mode(cpu);
    for (unsigned i = 0; r == 0 && i < VMCI_ARRAY_SIZE(data); i++)
        r = sys_load_data(cpu, data[i], cpu->seg[data[i]].selector, cpl, VMC_VEC_TS, ext);
    return r;
}

static int push_code(struct vmci_cpu *cpu, const struct sys_task *t)
{
    unsigned bytes = (sys_d_type(&t->d) & SYS_TYPE_32) != 0 ? 4 : 2;
    struct sys_stack s = {0};
    int r;

    sys_stack_current(cpu, &s);
    s.ss_code = t->ext;
    r = sys_push(cpu, &s, bytes, t->code);
    if (r == 0)
        sys_sp_set(cpu, s.bits, s.sp);
    return r;
}

int sys_task_switch(struct vmci_cpu *cpu, struct sys_task *t)
{
    struct plan p = {0};
    int r = prepare(cpu, t, &p);

    if (r == 0)
        r = write_memory(cpu, t, &p);
    if (r == 0 && overlap(cpu, t))
        r = read_image(cpu, &t->d, &p.im);
    if (r != 0)
        return r;
    /* Commit. */
    bool tss32 = (sys_d_type(&t->d) & SYS_TYPE_32) != 0;
    load_registers(cpu, t, &p);
    cpu->task_switched = true;
    if (tss32 && (cpu->cr0 & VMC_CR0_PG) != 0)
        r = sys_task_set_cr3(cpu, p.im.cr3);
    if (r == 0)
        r = load_segments(cpu, &p.im, t->ext);
    if (r == 0 && t->has_code)
        r = push_code(cpu, t);
    if (r == 0 && cpu->rip > cpu->seg[VMC_CS].limit)
        r = vmci_raise_code(cpu, VMC_VEC_GP, t->ext);
    if (r == 0 && p.im.trap) {
        cpu->pending_db |= VMC_DR6_BT;
        sys_request(cpu, VMCI_REQ_TRAP);
    }
    cpu->exc.rip_set = r == VMCI_FAULT;
    return r;
}
