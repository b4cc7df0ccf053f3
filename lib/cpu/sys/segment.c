/* SPDX-License-Identifier: BSD-2-Clause */
/* Descriptors and segment registers (SDM 3A chapter 3; MOV, LLDT, LTR, LAR, LSL, VERR, VERW). */
#include "sys_priv.h"

int sys_raise_sel(struct vmci_cpu *cpu, unsigned vector, uint16_t sel, unsigned ext)
{
    return vmci_raise_code(cpu, vector, (sel & 0xfffcu) | ext);
}

bool sys_desc_addr(const struct vmci_cpu *cpu, uint16_t sel, unsigned bytes, uint64_t *la)
{
    uint64_t base = cpu->gdtr.base;
    uint32_t limit = cpu->gdtr.limit;
    uint32_t at = sel & 0xfff8u;

    if ((sel & 4u) != 0) {
        const struct vmc_segment *ldt = &cpu->seg[VMC_LDTR];
        if ((ldt->attr & (VMC_SEG_UNUSABLE | VMC_SEG_P)) != VMC_SEG_P)
            return false;
        base = ldt->base;
        limit = ldt->limit;
    }
    if (at + bytes - 1 > limit)
        return false;
    *la = vmci_long_mode(cpu) ? base + at : (uint32_t)(base + at);
    return true;
}

int sys_desc_read(struct vmci_cpu *cpu, uint16_t sel, unsigned vector, unsigned ext,
                  struct sys_desc *d)
{
    uint64_t raw = 0;
    int r;

    if (!sys_desc_addr(cpu, sel, 8, &d->la))
        return sys_raise_sel(cpu, vector, sel, ext);
    r = vmci_rd_sys(cpu, d->la, 8, &raw);
    if (r != 0)
        return r;
    d->lo = (uint32_t)raw;
    d->hi = (uint32_t)(raw >> 32);
    d->base_hi = 0;
    return 0;
}

int sys_desc_read_hi(struct vmci_cpu *cpu, uint16_t sel, unsigned vector, unsigned ext,
                     struct sys_desc *d)
{
    uint64_t raw = 0;
    uint64_t la;
    int r;

    if (!sys_desc_addr(cpu, sel, 16, &la))
        return sys_raise_sel(cpu, vector, sel, ext);
    r = vmci_rd_sys(cpu, la + 8, 8, &raw);
    if (r != 0)
        return r;
    if ((raw >> 32 & 0x1f00u) != 0)
        return sys_raise_sel(cpu, vector, sel, ext);
    d->base_hi = (uint32_t)raw;
    return 0;
}

int sys_desc_mark(struct vmci_cpu *cpu, struct sys_desc *d, unsigned type_bits)
{
    uint8_t old;
    /* Locked, and only the byte that changes: other processors may edit the descriptor. */
    int r = vmci_mark_sys(cpu, d->la + 5, (uint8_t)type_bits, 0, &old);

    if (r == 0)
        d->hi |= type_bits << 8;
    return r;
}

int sys_desc_set_accessed(struct vmci_cpu *cpu, struct sys_desc *d)
{
    if ((sys_d_type(d) & SEG_ACCESSED) != 0)
        return 0;
    return sys_desc_mark(cpu, d, SEG_ACCESSED);
}

void sys_desc_to_seg(const struct sys_desc *d, uint16_t sel, struct vmc_segment *s)
{
    *s = (struct vmc_segment){
        .base = (d->lo >> 16) | (d->hi & 0xffu) << 16 | (d->hi & 0xff000000u) |
                (uint64_t)d->base_hi << 32,
        .limit = sys_d_limit(d),
        .attr = (d->hi >> 8) & 0xf0ffu,
        .selector = sel,
    };
}

void sys_seg_null(struct vmc_segment *s, uint16_t sel)
{
    *s = (struct vmc_segment){.attr = VMC_SEG_UNUSABLE, .selector = sel};
}

void sys_ss_null(struct vmc_segment *s, unsigned cpl)
{
    *s = (struct vmc_segment){
        .attr = VMC_SEG_UNUSABLE | cpl << VMC_SEG_DPL_SHIFT,
        .selector = (uint16_t)cpl,
    };
}

void sys_seg_v86(struct vmc_segment *s, uint16_t sel)
{
    *s = (struct vmc_segment){
        .base = (uint64_t)sel << 4, .limit = 0xffff, .attr = SEG_ATTR_V86, .selector = sel};
}

void sys_seg_real(struct vmci_cpu *cpu, unsigned seg, uint16_t sel)
{
    struct vmc_segment *s = &cpu->seg[seg];

    /* Limit and attributes survive ("unreal mode"), except those of a NULL segment. */
    if ((s->attr & (VMC_SEG_UNUSABLE | VMC_SEG_P | VMC_SEG_S)) != (VMC_SEG_P | VMC_SEG_S)) {
        s->attr = SEG_ATTR_REAL;
        s->limit = 0xffff;
    }
    s->selector = sel;
    s->base = (uint64_t)sel << 4;
}

void sys_seg_flat_code(struct vmc_segment *s, uint16_t sel, unsigned cpl, bool l)
{
    *s = (struct vmc_segment){
        .limit = 0xffffffffu,
        .attr = VMC_SEG_G | VMC_SEG_P | VMC_SEG_S | SEG_CODE | SEG_READABLE | SEG_ACCESSED |
                cpl << VMC_SEG_DPL_SHIFT | (l ? VMC_SEG_L : VMC_SEG_DB),
        .selector = sel,
    };
}

void sys_seg_flat_stack(struct vmc_segment *s, uint16_t sel, unsigned cpl)
{
    *s = (struct vmc_segment){
        .limit = 0xffffffffu,
        .attr = VMC_SEG_G | VMC_SEG_DB | VMC_SEG_P | VMC_SEG_S | SEG_WRITABLE | SEG_ACCESSED |
                cpl << VMC_SEG_DPL_SHIFT,
        .selector = sel,
    };
}

void sys_drop_data_segs(struct vmci_cpu *cpu, unsigned cpl)
{
    static const uint8_t data[] = {VMC_ES, VMC_DS, VMC_FS, VMC_GS};

    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(data); i++) {
        struct vmc_segment *s = &cpu->seg[data[i]];
        if ((s->attr & VMC_SEG_UNUSABLE) != 0) {
            if (sys_null(s->selector))
                s->selector = 0; /* without its RPL */
            continue;
        }
        bool conforming = (s->attr & (SEG_CODE | SEG_CONFORM)) == (SEG_CODE | SEG_CONFORM);
        if (!conforming && sys_attr_dpl(s->attr) < cpl) { /* the base stays, for 64-bit mode */
            uint64_t base = s->base;
            sys_seg_null(s, 0);
            s->base = base;
        }
    }
}

/* ---- MOV to a segment register --------------------------------------------------------------- */

int sys_load_data(struct vmci_cpu *cpu, unsigned seg, uint16_t sel, unsigned cpl, unsigned vector,
                  unsigned ext)
{
    struct sys_desc d = {0};
    unsigned type;
    int r;

    if (sys_null(sel)) {
        sys_seg_null(&cpu->seg[seg], sel);
        return 0;
    }
    r = sys_desc_read(cpu, sel, vector, ext, &d);
    if (r != 0)
        return r;
    type = sys_d_type(&d);
    if (!sys_d_is_seg(&d) || (type & (SEG_CODE | SEG_READABLE)) == SEG_CODE)
        return sys_raise_sel(cpu, vector, sel, ext);
    if ((type & (SEG_CODE | SEG_CONFORM)) != (SEG_CODE | SEG_CONFORM) &&
        VMCI_MAX(sys_rpl(sel), cpl) > sys_d_dpl(&d))
        return sys_raise_sel(cpu, vector, sel, ext);
    if (!sys_d_present(&d))
        return sys_raise_sel(cpu, VMC_VEC_NP, sel, ext);
    r = sys_desc_set_accessed(cpu, &d);
    if (r != 0)
        return r;
    sys_desc_to_seg(&d, sel, &cpu->seg[seg]);
    return 0;
}

static int load_ss(struct vmci_cpu *cpu, uint16_t sel)
{
    struct sys_desc d = {0};
    int r;

    if (sys_null(sel)) {
        if (cpu->code_bits != 64 || cpu->cpl == 3 || sys_rpl(sel) != cpu->cpl)
            return vmci_raise_code(cpu, VMC_VEC_GP, 0);
        sys_ss_null(&cpu->seg[VMC_SS], cpu->cpl);
        return 0;
    }
    r = sys_desc_read(cpu, sel, VMC_VEC_GP, 0, &d);
    if (r != 0)
        return r;
    if (sys_rpl(sel) != cpu->cpl || !sys_d_writable(&d) || sys_d_dpl(&d) != cpu->cpl)
        return sys_raise_sel(cpu, VMC_VEC_GP, sel, 0);
    if (!sys_d_present(&d))
        return sys_raise_sel(cpu, VMC_VEC_SS, sel, 0);
    r = sys_desc_set_accessed(cpu, &d);
    if (r != 0)
        return r;
    sys_desc_to_seg(&d, sel, &cpu->seg[VMC_SS]);
    return 0;
}

int vmci_load_sreg(struct vmci_cpu *cpu, unsigned seg, uint16_t selector)
{
    int r = 0;

    if (!vmci_prot_mode(cpu))
        sys_seg_real(cpu, seg, selector);
    else if (vmci_v86_mode(cpu))
        sys_seg_v86(&cpu->seg[seg], selector);
    else if (seg == VMC_SS)
        r = load_ss(cpu, selector);
    else
        r = sys_load_data(cpu, seg, selector, cpu->cpl, VMC_VEC_GP, 0);
    if (r == 0 && seg == VMC_SS)
        vmci_update_mode(cpu);
    return r;
}

/* ---- LLDT, LTR --------------------------------------------------------------------------------
 */

static int check_system_insn(struct vmci_cpu *cpu)
{
    if (!vmci_prot_mode(cpu) || vmci_v86_mode(cpu))
        return vmci_raise(cpu, VMC_VEC_UD);
    if (cpu->cpl != 0)
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    return 0;
}

int vmci_lldt(struct vmci_cpu *cpu, uint16_t selector)
{
    struct sys_desc d = {0};
    struct vmc_segment s;
    int r = check_system_insn(cpu);

    if (r != 0)
        return r;
    if (sys_null(selector)) {
        sys_seg_null(&cpu->seg[VMC_LDTR], selector);
        return 0;
    }
    if ((selector & 4u) != 0)
        return sys_raise_sel(cpu, VMC_VEC_GP, selector, 0);
    r = sys_desc_read(cpu, selector, VMC_VEC_GP, 0, &d);
    if (r != 0)
        return r;
    if (sys_d_is_seg(&d) || sys_d_type(&d) != SYS_LDT)
        return sys_raise_sel(cpu, VMC_VEC_GP, selector, 0);
    if (!sys_d_present(&d))
        return sys_raise_sel(cpu, VMC_VEC_NP, selector, 0);
    if (vmci_long_mode(cpu)) {
        r = sys_desc_read_hi(cpu, selector, VMC_VEC_GP, 0, &d);
        if (r != 0)
            return r;
    }
    sys_desc_to_seg(&d, selector, &s);
    if (!vmci_canonical_max(cpu, s.base))
        return sys_raise_sel(cpu, VMC_VEC_GP, selector, 0);
    cpu->seg[VMC_LDTR] = s;
    return 0;
}

int vmci_ltr(struct vmci_cpu *cpu, uint16_t selector)
{
    struct sys_desc d = {0};
    struct vmc_segment s;
    unsigned type;
    int r = check_system_insn(cpu);

    if (r != 0)
        return r;
    if (sys_null(selector))
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    if ((selector & 4u) != 0)
        return sys_raise_sel(cpu, VMC_VEC_GP, selector, 0);
    r = sys_desc_read(cpu, selector, VMC_VEC_GP, 0, &d);
    if (r != 0)
        return r;
    type = sys_d_type(&d);
    if (sys_d_is_seg(&d) ||
        !(type == SYS_TSS32_AVL || (type == SYS_TSS16_AVL && !vmci_long_mode(cpu))))
        return sys_raise_sel(cpu, VMC_VEC_GP, selector, 0);
    if (!sys_d_present(&d))
        return sys_raise_sel(cpu, VMC_VEC_NP, selector, 0);
    if (vmci_long_mode(cpu)) {
        r = sys_desc_read_hi(cpu, selector, VMC_VEC_GP, 0, &d);
        if (r != 0)
            return r;
    }
    sys_desc_to_seg(&d, selector, &s);
    if (!vmci_canonical_max(cpu, s.base))
        return sys_raise_sel(cpu, VMC_VEC_GP, selector, 0);
    uint8_t old;
    r = vmci_mark_sys(cpu, d.la + 5, SYS_TYPE_BUSY, 0, &old);
    if (r != 0)
        return r;
    if ((old & SYS_TYPE_BUSY) != 0) /* another processor was faster */
        return sys_raise_sel(cpu, VMC_VEC_GP, selector, 0);
    s.attr |= SYS_TYPE_BUSY;
    cpu->seg[VMC_TR] = s;
    return 0;
}

/* ---- LAR, LSL, VERR, VERW ---------------------------------------------------------------------
 */

/* System types that LAR and LSL know. */
#define LAR_LEGACY (1u << 1 | 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 9 | 1u << 11 | 1u << 12)
#define LAR_LONG   (1u << 2 | 1u << 9 | 1u << 11 | 1u << 12)
#define LSL_LEGACY (1u << 1 | 1u << 2 | 1u << 3 | 1u << 9 | 1u << 11)
#define LSL_LONG   (1u << 2 | 1u << 9 | 1u << 11)

/* The descriptor, and whether a program at this CPL may look at it. */
static int peek(struct vmci_cpu *cpu, uint16_t sel, struct sys_desc *d, bool *ok)
{
    uint64_t raw = 0;
    int r;

    *ok = false;
    if (!vmci_prot_mode(cpu) || vmci_v86_mode(cpu))
        return vmci_raise(cpu, VMC_VEC_UD);
    if (sys_null(sel) || !sys_desc_addr(cpu, sel, 8, &d->la))
        return 0;
    r = vmci_rd_sys(cpu, d->la, 8, &raw);
    if (r != 0)
        return r;
    d->lo = (uint32_t)raw;
    d->hi = (uint32_t)(raw >> 32);
    d->base_hi = 0;
    *ok = (sys_d_is_code(d) && sys_d_conforming(d)) ||
          VMCI_MAX((unsigned)cpu->cpl, sys_rpl(sel)) <= sys_d_dpl(d);
    return 0;
}

/* In long mode a system descriptor takes 16 bytes, all within the table. */
static bool system_type_ok(const struct vmci_cpu *cpu, uint16_t sel, const struct sys_desc *d,
                           uint32_t legacy, uint32_t long_mode)
{
    uint64_t la;

    if (sys_d_is_seg(d))
        return true;
    if (!vmci_long_mode(cpu))
        return (legacy >> sys_d_type(d) & 1u) != 0;
    return (long_mode >> sys_d_type(d) & 1u) != 0 && sys_desc_addr(cpu, sel, 16, &la);
}

int vmci_lar(struct vmci_cpu *cpu, uint16_t selector, uint32_t *out, bool *zf)
{
    struct sys_desc d = {0};
    int r = peek(cpu, selector, &d, zf);

    if (r != 0 || !*zf)
        return r;
    *zf = system_type_ok(cpu, selector, &d, LAR_LEGACY, LAR_LONG);
    if (*zf)
        *out = d.hi & 0x00ffff00u; /* limit 19:16, too (APM 3, LAR), as processors give it */
    return 0;
}

int vmci_lsl(struct vmci_cpu *cpu, uint16_t selector, uint32_t *out, bool *zf)
{
    struct sys_desc d = {0};
    int r = peek(cpu, selector, &d, zf);

    if (r != 0 || !*zf)
        return r;
    *zf = system_type_ok(cpu, selector, &d, LSL_LEGACY, LSL_LONG);
    if (*zf)
        *out = sys_d_limit(&d);
    return 0;
}

int vmci_verrw(struct vmci_cpu *cpu, uint16_t selector, bool write, bool *zf)
{
    struct sys_desc d = {0};
    unsigned type;
    int r = peek(cpu, selector, &d, zf);

    if (r != 0 || !*zf)
        return r;
    type = sys_d_type(&d);
    if (!sys_d_is_seg(&d))
        *zf = false;
    else if (write)
        *zf = sys_d_writable(&d);
    else
        *zf = (type & (SEG_CODE | SEG_READABLE)) != SEG_CODE;
    return 0;
}
