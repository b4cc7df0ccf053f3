/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Events in protected and virtual-8086 mode (SDM 2A INT n, "Operation"; SDM 3A 6.12, 20.3).
 */
#include "sys_priv.h"

static int read_gate(struct vmci_cpu *cpu, const struct sys_event *e, struct sys_desc *g)
{
    uint32_t at = (uint32_t)e->vector * 8;
    uint64_t raw = 0;
    int r;

    if (at + 7 > cpu->idtr.limit)
        return vmci_raise_code(cpu, VMC_VEC_GP, sys_idt_code(e));
    r = vmci_rd_sys(cpu, (uint32_t)(cpu->idtr.base + at), 8, &raw);
    if (r != 0)
        return r;
    *g = (struct sys_desc){.lo = (uint32_t)raw, .hi = (uint32_t)(raw >> 32)};
    switch (sys_d_is_seg(g) ? 0 : sys_d_type(g)) {
    case SYS_TASK_GATE:
    case SYS_INT16:
    case SYS_TRAP16:
    case SYS_INT32:
    case SYS_TRAP32:
        break;
    default:
        return vmci_raise_code(cpu, VMC_VEC_GP, sys_idt_code(e));
    }
    if (sys_soft_checked(e) && sys_d_dpl(g) < cpu->cpl)
        return vmci_raise_code(cpu, VMC_VEC_GP, sys_idt_code(e));
    if (!sys_d_present(g))
        return vmci_raise_code(cpu, VMC_VEC_NP, sys_idt_code(e));
    return 0;
}

static int through_task_gate(struct vmci_cpu *cpu, const struct sys_event *e,
                             const struct sys_desc *g)
{
    struct sys_task t = {
        .how = SYS_TASK_EVENT,
        .sel = sys_g_selector(g),
        .rip = e->rip,
        .rflags = e->rflags,
        .ext = e->ext,
        .has_code = e->has_code,
        .code = e->code,
    };
    int r = sys_task_read_tss(cpu, &t, VMC_VEC_GP);

    return r != 0 ? r : sys_task_switch(cpu, &t);
}

/* The code segment behind an interrupt or trap gate. */
static int read_target(struct vmci_cpu *cpu, const struct sys_event *e, const struct sys_desc *g,
                       struct sys_target *t)
{
    unsigned dpl;
    int r;

    t->sel = sys_g_selector(g);
    t->rip = (sys_d_type(g) & SYS_TYPE_32) != 0 ? sys_g_offset(g) : g->lo & 0xffffu;
    if (sys_null(t->sel))
        return vmci_raise_code(cpu, VMC_VEC_GP, e->ext);
    r = sys_desc_read(cpu, t->sel, VMC_VEC_GP, e->ext, &t->d);
    if (r != 0)
        return r;
    dpl = sys_d_dpl(&t->d);
    if (!sys_d_is_code(&t->d) || dpl > cpu->cpl)
        return sys_raise_sel(cpu, VMC_VEC_GP, t->sel, e->ext);
    /* From virtual-8086 mode only a non-conforming segment of level 0 will do. */
    if (vmci_v86_mode(cpu) && (sys_d_conforming(&t->d) || dpl != 0))
        return sys_raise_sel(cpu, VMC_VEC_GP, t->sel, e->ext);
    if (!sys_d_present(&t->d))
        return sys_raise_sel(cpu, VMC_VEC_NP, t->sel, e->ext);
    return 0;
}

static int push_frame(struct vmci_cpu *cpu, struct sys_stack *s, const struct sys_event *e,
                      unsigned bytes, bool inner)
{
    static const uint8_t v86_segs[] = {VMC_GS, VMC_FS, VMC_DS, VMC_ES};
    int r = 0;

    if (vmci_v86_mode(cpu))
        for (unsigned i = 0; r == 0 && i < VMCI_ARRAY_SIZE(v86_segs); i++)
            r = sys_push(cpu, s, bytes, cpu->seg[v86_segs[i]].selector);
    if (r == 0 && inner)
        r = sys_push(cpu, s, bytes, cpu->seg[VMC_SS].selector);
    if (r == 0 && inner)
        r = sys_push(cpu, s, bytes, cpu->gpr[VMC_RSP]);
    if (r == 0)
        r = sys_push(cpu, s, bytes, e->rflags);
    if (r == 0)
        r = sys_push(cpu, s, bytes, cpu->seg[VMC_CS].selector);
    if (r == 0)
        r = sys_push(cpu, s, bytes, e->rip);
    if (r == 0 && e->has_code)
        r = sys_push(cpu, s, bytes, e->code);
    return r;
}

static void enter(struct vmci_cpu *cpu, const struct sys_target *t, const struct sys_stack *s,
                  bool inner, bool mask_irq)
{
    static const uint8_t data[] = {VMC_ES, VMC_DS, VMC_FS, VMC_GS};

    if (vmci_v86_mode(cpu))
        for (unsigned i = 0; i < VMCI_ARRAY_SIZE(data); i++)
            sys_seg_null(&cpu->seg[data[i]], 0);
    cpu->rflags &= ~(VMC_FLAG_TF | VMC_FLAG_NT | VMC_FLAG_RF | VMC_FLAG_VM);
    if (mask_irq)
        cpu->rflags &= ~VMC_FLAG_IF;
    sys_target_enter(cpu, t);
    if (inner)
        cpu->seg[VMC_SS] = s->ss;
    sys_sp_set(cpu, s->bits, s->sp);
    vmci_update_mode(cpu);
}

int sys_event_prot(struct vmci_cpu *cpu, const struct sys_event *e)
{
    struct sys_target t = {0};
    struct sys_stack s = {0};
    struct sys_desc g = {0};
    unsigned bytes;
    unsigned items;
    unsigned cpl;
    bool inner;
    int r = read_gate(cpu, e, &g);

    if (r != 0)
        return r;
    if (sys_d_type(&g) == SYS_TASK_GATE)
        return through_task_gate(cpu, e, &g);
    r = read_target(cpu, e, &g, &t);
    if (r != 0)
        return r;
    bytes = (sys_d_type(&g) & SYS_TYPE_32) != 0 ? 4 : 2;
    cpl = sys_d_conforming(&t.d) ? cpu->cpl : sys_d_dpl(&t.d);
    inner = cpl < cpu->cpl;
    items = (inner ? 5 : 3) + (vmci_v86_mode(cpu) ? 4 : 0) + (e->has_code ? 1 : 0);
    if (inner) {
        r = sys_stack_from_tss(cpu, cpl, e->ext, &s);
    } else {
        sys_stack_current(cpu, &s);
        s.ss_code = e->ext;
    }
    if (r == 0)
        r = sys_push_room(cpu, &s, items, bytes);
    if (r == 0)
        r = sys_target_check_rip(cpu, &t, e->ext);
    if (r == 0)
        r = sys_desc_set_accessed(cpu, &t.d);
    if (r == 0)
        r = push_frame(cpu, &s, e, bytes, inner);
    if (r != 0)
        return r;
    t.sel = (uint16_t)((t.sel & 0xfffcu) | cpl);
    enter(cpu, &t, &s, inner, (sys_d_type(&g) & 1u) == 0);
    return 0;
}

/* ---- virtual-8086 mode extensions (SDM 3B 20.3.3) --------------------------------------------- */

#define TSS_IOMAP_BASE 0x66u

int sys_vme_redirected(struct vmci_cpu *cpu, unsigned vector, bool *redirected)
{
    const struct vmc_segment *tr = &cpu->seg[VMC_TR];
    uint64_t map;
    uint64_t bits;
    uint32_t at;
    int r;

    if ((tr->attr & SYS_TYPE_32) == 0 || tr->limit < TSS_IOMAP_BASE + 1)
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    r = vmci_rd_sys(cpu, (uint32_t)(tr->base + TSS_IOMAP_BASE), 2, &map);
    if (r != 0)
        return r;
    /* The 32 bytes below the I/O permission map. */
    at = (uint32_t)map - 32 + vector / 8;
    if (at > tr->limit)
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    r = vmci_rd_sys(cpu, (uint32_t)(tr->base + at), 1, &bits);
    *redirected = r == 0 && (bits >> vector % 8 & 1u) == 0;
    return r;
}

int sys_event_v86_redirect(struct vmci_cpu *cpu, const struct sys_event *e)
{
    bool virtual_if = vmci_iopl(cpu) < 3;
    uint64_t image = e->rflags;
    struct sys_stack s = {0};
    uint64_t entry = 0;
    int r = vmci_rd(cpu, (uint64_t)e->vector * 4, 4, &entry);

    if (r != 0)
        return r;
    if (virtual_if) { /* the program sees IOPL 3 and the virtual flag */
        image = (image & ~VMC_FLAG_IF) | VMC_FLAG_IOPL;
        if ((image & VMC_FLAG_VIF) != 0)
            image |= VMC_FLAG_IF;
    }
    sys_stack_current(cpu, &s);
    r = sys_push_room(cpu, &s, 3, 2);
    if (r == 0)
        r = sys_push(cpu, &s, 2, image);
    if (r == 0)
        r = sys_push(cpu, &s, 2, cpu->seg[VMC_CS].selector);
    if (r == 0)
        r = sys_push(cpu, &s, 2, e->rip);
    if (r != 0)
        return r;
    sys_sp_set(cpu, s.bits, s.sp);
    sys_seg_v86(&cpu->seg[VMC_CS], (uint16_t)(entry >> 16));
    cpu->rip = entry & 0xffffu;
    cpu->rflags &= ~(VMC_FLAG_TF | VMC_FLAG_RF | (virtual_if ? VMC_FLAG_VIF : VMC_FLAG_IF));
    return 0;
}
