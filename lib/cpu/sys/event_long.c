/* SPDX-License-Identifier: BSD-2-Clause */
/* Events in long mode (SDM 3A 6.14; SDM 2A INT n, "IA-32e mode"). */
#include "sys_priv.h"

#define TSS64_RSP0 4u
#define TSS64_IST1 36u

struct gate64 {
    struct sys_desc d;
    uint64_t rip;
    unsigned ist;
};

static int read_gate(struct vmci_cpu *cpu, const struct sys_event *e, struct gate64 *g)
{
    uint32_t at = (uint32_t)e->vector * 16;
    uint64_t lo = 0;
    uint64_t hi = 0;
    unsigned type;
    int r;

    if (at + 15 > cpu->idtr.limit)
        return vmci_raise_code(cpu, VMC_VEC_GP, sys_idt_code(e));
    r = vmci_rd_sys(cpu, cpu->idtr.base + at, 8, &lo);
    if (r == 0)
        r = vmci_rd_sys(cpu, cpu->idtr.base + at + 8, 8, &hi);
    if (r != 0)
        return r;
    g->d = (struct sys_desc){.lo = (uint32_t)lo, .hi = (uint32_t)(lo >> 32)};
    g->rip = sys_g_offset(&g->d) | hi << 32;
    g->ist = g->d.hi & 7u;
    type = sys_d_type(&g->d);
    if (sys_d_is_seg(&g->d) || (type != SYS_INT32 && type != SYS_TRAP32))
        return vmci_raise_code(cpu, VMC_VEC_GP, sys_idt_code(e));
    if (sys_soft_checked(e) && sys_d_dpl(&g->d) < cpu->cpl)
        return vmci_raise_code(cpu, VMC_VEC_GP, sys_idt_code(e));
    if (!sys_d_present(&g->d))
        return vmci_raise_code(cpu, VMC_VEC_NP, sys_idt_code(e));
    return 0;
}

static int read_target(struct vmci_cpu *cpu, const struct sys_event *e, const struct gate64 *g,
                       struct sys_target *t)
{
    int r;

    t->sel = sys_g_selector(&g->d);
    t->rip = g->rip;
    if (sys_null(t->sel))
        return vmci_raise_code(cpu, VMC_VEC_GP, e->ext);
    r = sys_desc_read(cpu, t->sel, VMC_VEC_GP, e->ext, &t->d);
    if (r != 0)
        return r;
    if (!sys_d_is_code(&t->d) || sys_d_dpl(&t->d) > cpu->cpl)
        return sys_raise_sel(cpu, VMC_VEC_GP, t->sel, e->ext);
    if (!sys_d_l(&t->d) || sys_d_db(&t->d))
        return sys_raise_sel(cpu, VMC_VEC_GP, t->sel, e->ext);
    if (!sys_d_present(&t->d))
        return sys_raise_sel(cpu, VMC_VEC_NP, t->sel, e->ext);
    return 0;
}

static int push_frame(struct vmci_cpu *cpu, const struct sys_event *e, struct sys_stack *s)
{
    unsigned n = e->has_code ? 6 : 5;
    uint64_t *f = sys_frame(cpu, s, s->sp - 8 * n, n, true);
    int r;

    if (f != NULL) {
        s->sp -= 8 * n;
        if (e->has_code)
            *f++ = e->code;
        f[0] = e->rip;
        f[1] = cpu->seg[VMC_CS].selector;
        f[2] = e->rflags;
        f[3] = cpu->gpr[VMC_RSP];
        f[4] = cpu->seg[VMC_SS].selector;
        return 0;
    }
    r = sys_push(cpu, s, 8, cpu->seg[VMC_SS].selector);
    if (r == 0)
        r = sys_push(cpu, s, 8, cpu->gpr[VMC_RSP]);
    if (r == 0)
        r = sys_push(cpu, s, 8, e->rflags);
    if (r == 0)
        r = sys_push(cpu, s, 8, cpu->seg[VMC_CS].selector);
    if (r == 0)
        r = sys_push(cpu, s, 8, e->rip);
    if (r == 0 && e->has_code)
        r = sys_push(cpu, s, 8, e->code);
    return r;
}

int sys_event_long(struct vmci_cpu *cpu, const struct sys_event *e)
{
    struct sys_target t = {0};
    struct sys_stack s = {0};
    struct gate64 g = {0};
    unsigned cpl;
    int r = read_gate(cpu, e, &g);

    if (r == 0)
        r = read_target(cpu, e, &g, &t);
    if (r != 0)
        return r;
    cpl = sys_d_conforming(&t.d) ? cpu->cpl : sys_d_dpl(&t.d);
    if (g.ist != 0)
        r = sys_rsp_from_tss64(cpu, TSS64_IST1 + 8 * (g.ist - 1), e->ext, &s.sp);
    else if (cpl < cpu->cpl)
        r = sys_rsp_from_tss64(cpu, TSS64_RSP0 + 8 * cpl, e->ext, &s.sp);
    else
        s.sp = cpu->gpr[VMC_RSP];
    if (r != 0)
        return r;
    s.sp &= ~15ull;
    s.bits = 64;
    s.cpl = cpl;
    s.ss_code = e->ext;
    r = sys_push_room(cpu, &s, e->has_code ? 6 : 5, 8);
    if (r == 0)
        r = sys_target_check_rip(cpu, &t, e->ext);
    if (r == 0)
        r = sys_desc_set_accessed(cpu, &t.d);
    if (r == 0)
        r = push_frame(cpu, e, &s);
    if (r != 0)
        return r;
    t.sel = (uint16_t)((t.sel & 0xfffcu) | cpl);
    if (cpl != cpu->cpl)
        sys_ss_null(&cpu->seg[VMC_SS], cpl);
    sys_target_enter(cpu, &t);
    cpu->gpr[VMC_RSP] = s.sp;
    cpu->rflags &= ~(VMC_FLAG_TF | VMC_FLAG_NT | VMC_FLAG_RF | VMC_FLAG_VM);
    if ((sys_d_type(&g.d) & 1u) == 0)
        cpu->rflags &= ~VMC_FLAG_IF;
    vmci_update_mode(cpu);
    return 0;
}
