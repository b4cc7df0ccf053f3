/* SPDX-License-Identifier: BSD-2-Clause */
/* Far JMP, CALL and RET (SDM 2A CALL, JMP; 2B RET; SDM 3A 5.8). */
#include "sys_priv.h"

static uint64_t cut(uint64_t v, unsigned bytes)
{
    return bytes == 8 ? v : bytes == 4 ? (uint32_t)v : (uint16_t)v;
}

static bool legacy_real(const struct vmci_cpu *cpu)
{
    return !vmci_prot_mode(cpu) || vmci_v86_mode(cpu);
}

int sys_target_check_rip(struct vmci_cpu *cpu, const struct sys_target *t, unsigned ext)
{
    bool ok = sys_target64(cpu, &t->d) ? vmci_canonical(cpu, t->rip)
                                       : (uint32_t)t->rip <= sys_d_limit(&t->d);

    return ok ? 0 : vmci_raise_code(cpu, VMC_VEC_GP, ext);
}

void sys_target_enter(struct vmci_cpu *cpu, const struct sys_target *t)
{
    sys_desc_to_seg(&t->d, t->sel, &cpu->seg[VMC_CS]);
    cpu->rip = sys_target64(cpu, &t->d) ? t->rip : (uint32_t)t->rip;
}

/* A code segment of long mode has L or D, not both. */
static int check_l_d(struct vmci_cpu *cpu, uint16_t sel, const struct sys_desc *d)
{
    if (vmci_long_mode(cpu) && sys_d_l(d) && sys_d_db(d))
        return sys_raise_sel(cpu, VMC_VEC_GP, sel, 0);
    return 0;
}

/* ---- real and virtual-8086 mode --------------------------------------------------------------- */

static int real_check_ip(struct vmci_cpu *cpu, uint64_t ip)
{
    /* The limit stays what it is in real mode; v86 code always has 64 KiB. */
    uint32_t limit = vmci_v86_mode(cpu) ? 0xffff : cpu->seg[VMC_CS].limit;

    return ip <= limit ? 0 : vmci_raise_code(cpu, VMC_VEC_GP, 0);
}

static void real_enter(struct vmci_cpu *cpu, uint16_t sel, uint64_t ip)
{
    if (vmci_v86_mode(cpu))
        sys_seg_v86(&cpu->seg[VMC_CS], sel);
    else
        sys_seg_real(cpu, VMC_CS, sel);
    cpu->rip = ip;
    vmci_update_mode(cpu);
}

static int real_jmp(struct vmci_cpu *cpu, uint16_t sel, uint64_t ip)
{
    int r = real_check_ip(cpu, ip);

    if (r == 0)
        real_enter(cpu, sel, ip);
    return r;
}

static int real_call(struct vmci_cpu *cpu, uint16_t sel, uint64_t ip, unsigned opbytes,
                     uint64_t next)
{
    struct sys_stack s = {0};
    int r;

    sys_stack_current(cpu, &s);
    r = sys_push_room(cpu, &s, 2, opbytes);
    if (r == 0)
        r = real_check_ip(cpu, ip);
    if (r == 0)
        r = sys_push(cpu, &s, opbytes, cpu->seg[VMC_CS].selector);
    if (r == 0)
        r = sys_push(cpu, &s, opbytes, cut(next, opbytes));
    if (r != 0)
        return r;
    sys_sp_set(cpu, s.bits, s.sp);
    real_enter(cpu, sel, ip);
    return 0;
}

static int real_ret(struct vmci_cpu *cpu, unsigned opbytes, uint16_t release)
{
    struct sys_stack s = {0};
    uint64_t ip = 0;
    uint64_t sel = 0;
    int r;

    sys_stack_current(cpu, &s);
    r = sys_pop(cpu, &s, opbytes, &ip);
    if (r == 0)
        r = sys_pop(cpu, &s, opbytes, &sel);
    if (r == 0)
        r = real_check_ip(cpu, ip);
    if (r != 0)
        return r;
    sys_sp_set(cpu, s.bits, s.sp + release);
    real_enter(cpu, (uint16_t)sel, ip);
    return 0;
}

/* ---- direct transfers ------------------------------------------------------------------------- */

/* Checks of a code segment that JMP or CALL names directly; sel gets CPL as RPL. */
static int check_direct(struct vmci_cpu *cpu, uint16_t sel, struct sys_target *t)
{
    unsigned dpl = sys_d_dpl(&t->d);
    int r;

    if (sys_d_conforming(&t->d) ? dpl > cpu->cpl : sys_rpl(sel) > cpu->cpl || dpl != cpu->cpl)
        return sys_raise_sel(cpu, VMC_VEC_GP, sel, 0);
    r = check_l_d(cpu, sel, &t->d);
    if (r != 0)
        return r;
    if (!sys_d_present(&t->d))
        return sys_raise_sel(cpu, VMC_VEC_NP, sel, 0);
    t->sel = (uint16_t)((sel & 0xfffcu) | cpu->cpl);
    return 0;
}

static int call_push_and_enter(struct vmci_cpu *cpu, struct sys_target *t, unsigned bytes,
                               uint64_t next)
{
    struct sys_stack s = {0};
    int r;

    sys_stack_current(cpu, &s);
    /* From compatibility mode into 64-bit code, through a gate: pushes by RSP. */
    if (bytes == 8 && s.bits != 64) {
        s.bits = 64;
        s.sp = cpu->gpr[VMC_RSP];
    }
    r = sys_push_room(cpu, &s, 2, bytes);
    if (r == 0)
        r = sys_target_check_rip(cpu, t, 0);
    if (r == 0)
        r = sys_desc_set_accessed(cpu, &t->d);
    if (r == 0)
        r = sys_push(cpu, &s, bytes, cpu->seg[VMC_CS].selector);
    if (r == 0)
        r = sys_push(cpu, &s, bytes, cut(next, bytes));
    if (r != 0)
        return r;
    sys_sp_set(cpu, s.bits, s.sp);
    sys_target_enter(cpu, t);
    vmci_update_mode(cpu);
    return 0;
}

static int jmp_enter(struct vmci_cpu *cpu, struct sys_target *t)
{
    int r = sys_target_check_rip(cpu, t, 0);

    if (r == 0)
        r = sys_desc_set_accessed(cpu, &t->d);
    if (r != 0)
        return r;
    sys_target_enter(cpu, t);
    vmci_update_mode(cpu);
    return 0;
}

/* ---- call gates ------------------------------------------------------------------------------- */

struct gate {
    unsigned bytes;  /* of a push: 2, 4, 8 */
    unsigned params; /* to copy */
};

/* Gate in t->d; on success t describes the code segment behind it (RPL not yet set). */
static int gate_target(struct vmci_cpu *cpu, uint16_t sel, struct sys_target *t, struct gate *g)
{
    struct sys_desc gate = t->d;
    uint16_t code = sys_g_selector(&gate);
    int r;

    if (sys_d_dpl(&gate) < VMCI_MAX((unsigned)cpu->cpl, sys_rpl(sel)))
        return sys_raise_sel(cpu, VMC_VEC_GP, sel, 0);
    if (!sys_d_present(&gate))
        return sys_raise_sel(cpu, VMC_VEC_NP, sel, 0);
    g->bytes = sys_d_type(&gate) == SYS_CALL16 ? 2 : 4;
    g->params = gate.hi & 31u;
    t->rip = g->bytes == 2 ? gate.lo & 0xffffu : sys_g_offset(&gate);
    if (vmci_long_mode(cpu)) {
        r = sys_desc_read_hi(cpu, sel, VMC_VEC_GP, 0, &gate);
        if (r != 0)
            return r;
        g->bytes = 8;
        g->params = 0;
        t->rip |= (uint64_t)gate.base_hi << 32;
    }
    if (sys_null(code))
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    r = sys_desc_read(cpu, code, VMC_VEC_GP, 0, &t->d);
    if (r != 0)
        return r;
    if (!sys_d_is_code(&t->d) || sys_d_dpl(&t->d) > cpu->cpl)
        return sys_raise_sel(cpu, VMC_VEC_GP, code, 0);
    if (vmci_long_mode(cpu) && (!sys_d_l(&t->d) || sys_d_db(&t->d)))
        return sys_raise_sel(cpu, VMC_VEC_GP, code, 0);
    t->sel = code;
    return 0;
}

static int jmp_gate(struct vmci_cpu *cpu, uint16_t sel, struct sys_target *t)
{
    struct gate g = {0};
    int r = gate_target(cpu, sel, t, &g);

    if (r != 0)
        return r;
    if (!sys_d_conforming(&t->d) && sys_d_dpl(&t->d) != cpu->cpl)
        return sys_raise_sel(cpu, VMC_VEC_GP, t->sel, 0);
    if (!sys_d_present(&t->d))
        return sys_raise_sel(cpu, VMC_VEC_NP, t->sel, 0);
    t->sel = (uint16_t)((t->sel & 0xfffcu) | cpu->cpl);
    return jmp_enter(cpu, t);
}

/* Old SS:SP and parameters, then the return address, onto the inner stack. */
static int push_inner_frame(struct vmci_cpu *cpu, struct sys_stack *s, const struct gate *g,
                            uint64_t next)
{
    struct sys_stack old = {0};
    uint64_t param[31] = {0};
    int r = 0;

    sys_stack_current(cpu, &old);
    for (unsigned i = 0; r == 0 && i < g->params; i++)
        r = sys_pop(cpu, &old, g->bytes, &param[i]);
    if (r == 0)
        r = sys_push(cpu, s, g->bytes, cpu->seg[VMC_SS].selector);
    if (r == 0)
        r = sys_push(cpu, s, g->bytes, cut(cpu->gpr[VMC_RSP], g->bytes));
    for (unsigned i = g->params; r == 0 && i-- > 0;)
        r = sys_push(cpu, s, g->bytes, param[i]);
    if (r == 0)
        r = sys_push(cpu, s, g->bytes, cpu->seg[VMC_CS].selector);
    if (r == 0)
        r = sys_push(cpu, s, g->bytes, cut(next, g->bytes));
    return r;
}

static int call_gate_inner(struct vmci_cpu *cpu, struct sys_target *t, const struct gate *g,
                           uint64_t next)
{
    unsigned dpl = sys_d_dpl(&t->d);
    struct sys_stack s = {0};
    int r;

    if (vmci_long_mode(cpu)) {
        sys_ss_null(&s.ss, dpl);
        s.bits = 64;
        s.cpl = dpl;
        s.ss_code = 0;
        r = sys_rsp_from_tss64(cpu, 4 + 8 * dpl, 0, &s.sp);
    } else {
        r = sys_stack_from_tss(cpu, dpl, 0, &s);
    }
    if (r == 0)
        r = sys_push_room(cpu, &s, 4 + g->params, g->bytes);
    if (r == 0)
        r = sys_target_check_rip(cpu, t, 0);
    if (r == 0)
        r = sys_desc_set_accessed(cpu, &t->d);
    if (r == 0)
        r = push_inner_frame(cpu, &s, g, next);
    if (r != 0)
        return r;
    t->sel = (uint16_t)((t->sel & 0xfffcu) | dpl);
    sys_target_enter(cpu, t);
    cpu->seg[VMC_SS] = s.ss;
    sys_sp_set(cpu, s.bits, s.sp);
    vmci_update_mode(cpu);
    return 0;
}

static int call_gate(struct vmci_cpu *cpu, uint16_t sel, struct sys_target *t, uint64_t next)
{
    struct gate g = {0};
    int r = gate_target(cpu, sel, t, &g);

    if (r != 0)
        return r;
    if (!sys_d_present(&t->d))
        return sys_raise_sel(cpu, VMC_VEC_NP, t->sel, 0);
    if (!sys_d_conforming(&t->d) && sys_d_dpl(&t->d) < cpu->cpl)
        return call_gate_inner(cpu, t, &g, next);
    t->sel = (uint16_t)((t->sel & 0xfffcu) | cpu->cpl);
    return call_push_and_enter(cpu, t, g.bytes, next);
}

/* ---- tasks ------------------------------------------------------------------------------------ */

/* Task gate or TSS descriptor in d. */
static int to_task(struct vmci_cpu *cpu, uint16_t sel, const struct sys_desc *d,
                   enum sys_task_how how, uint64_t next)
{
    struct sys_task t = {
        .how = how, .sel = sel, .d = *d, .rip = next, .rflags = cpu->rflags & ~VMC_FLAG_RF};
    int r;

    if (sys_d_dpl(d) < VMCI_MAX((unsigned)cpu->cpl, sys_rpl(sel)))
        return sys_raise_sel(cpu, VMC_VEC_GP, sel, 0);
    if (sys_d_type(d) == SYS_TASK_GATE) {
        if (!sys_d_present(d))
            return sys_raise_sel(cpu, VMC_VEC_NP, sel, 0);
        t.sel = sys_g_selector(d);
    }
    r = sys_task_read_tss(cpu, &t, VMC_VEC_GP);
    return r != 0 ? r : sys_task_switch(cpu, &t);
}

/* ---- the instructions ------------------------------------------------------------------------- */

static int far_transfer(struct vmci_cpu *cpu, uint16_t sel, uint64_t offset, unsigned opbytes,
                        uint64_t next, bool call)
{
    struct sys_target t = {.rip = cut(offset, opbytes)};
    int r;

    if (sys_null(sel))
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    r = sys_desc_read(cpu, sel, VMC_VEC_GP, 0, &t.d);
    if (r != 0)
        return r;
    if (sys_d_is_seg(&t.d)) {
        if (!sys_d_is_code(&t.d))
            return sys_raise_sel(cpu, VMC_VEC_GP, sel, 0);
        r = check_direct(cpu, sel, &t);
        if (r != 0)
            return r;
        return call ? call_push_and_enter(cpu, &t, opbytes, next) : jmp_enter(cpu, &t);
    }
    switch (sys_d_type(&t.d)) {
    case SYS_CALL16:
        if (vmci_long_mode(cpu))
            break;
        return call ? call_gate(cpu, sel, &t, next) : jmp_gate(cpu, sel, &t);
    case SYS_CALL32:
        return call ? call_gate(cpu, sel, &t, next) : jmp_gate(cpu, sel, &t);
    case SYS_TASK_GATE:
    case SYS_TSS16_AVL:
    case SYS_TSS32_AVL:
        if (vmci_long_mode(cpu))
            break;
        return to_task(cpu, sel, &t.d, call ? SYS_TASK_CALL : SYS_TASK_JMP, next);
    default:
        break;
    }
    return sys_raise_sel(cpu, VMC_VEC_GP, sel, 0);
}

int vmci_far_jmp(struct vmci_cpu *cpu, uint16_t selector, uint64_t offset, unsigned opbytes,
                 uint64_t next)
{
    if (legacy_real(cpu))
        return real_jmp(cpu, selector, cut(offset, opbytes));
    return far_transfer(cpu, selector, offset, opbytes, next, false);
}

int vmci_far_call(struct vmci_cpu *cpu, uint16_t selector, uint64_t offset, unsigned opbytes,
                  uint64_t next)
{
    if (legacy_real(cpu))
        return real_call(cpu, selector, cut(offset, opbytes), opbytes, next);
    return far_transfer(cpu, selector, offset, opbytes, next, true);
}

/* ---- RET -------------------------------------------------------------------------------------- */

int sys_return_cs(struct vmci_cpu *cpu, uint16_t sel, struct sys_target *t)
{
    unsigned dpl;
    int r;

    if (sys_null(sel))
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    r = sys_desc_read(cpu, sel, VMC_VEC_GP, 0, &t->d);
    if (r != 0)
        return r;
    dpl = sys_d_dpl(&t->d);
    if (!sys_d_is_code(&t->d) || sys_rpl(sel) < cpu->cpl ||
        (sys_d_conforming(&t->d) ? dpl > sys_rpl(sel) : dpl != sys_rpl(sel)))
        return sys_raise_sel(cpu, VMC_VEC_GP, sel, 0);
    r = check_l_d(cpu, sel, &t->d);
    if (r != 0)
        return r;
    if (!sys_d_present(&t->d))
        return sys_raise_sel(cpu, VMC_VEC_NP, sel, 0);
    t->sel = sel;
    return 0;
}

int sys_return_ss(struct vmci_cpu *cpu, uint16_t sel, const struct sys_target *t,
                  struct sys_desc *d, struct vmc_segment *ss)
{
    unsigned cpl = sys_rpl(t->sel);
    int r;

    if (sys_null(sel)) {
        if (!sys_target64(cpu, &t->d) || cpl == 3 || sys_rpl(sel) != cpl)
            return vmci_raise_code(cpu, VMC_VEC_GP, 0);
        sys_ss_null(ss, cpl);
        d->hi = SEG_ACCESSED << 8; /* nothing to mark */
        return 0;
    }
    r = sys_desc_read(cpu, sel, VMC_VEC_GP, 0, d);
    if (r != 0)
        return r;
    if (sys_rpl(sel) != cpl || !sys_d_writable(d) || sys_d_dpl(d) != cpl)
        return sys_raise_sel(cpu, VMC_VEC_GP, sel, 0);
    if (!sys_d_present(d))
        return sys_raise_sel(cpu, VMC_VEC_SS, sel, 0);
    sys_desc_to_seg(d, sel, ss);
    ss->attr |= SEG_ACCESSED;
    return 0;
}

static int ret_outer(struct vmci_cpu *cpu, struct sys_stack *s, struct sys_target *t,
                     unsigned opbytes, uint16_t release)
{
    struct vmc_segment ss = {0};
    struct sys_desc d = {0};
    uint64_t sp = 0;
    uint64_t sel = 0;
    int r;

    s->sp += release;
    if (s->bits != 64)
        s->sp &= s->bits == 32 ? 0xffffffffu : 0xffffu;
    r = sys_pop(cpu, s, opbytes, &sp);
    if (r == 0)
        r = sys_pop(cpu, s, opbytes, &sel);
    if (r == 0)
        r = sys_return_ss(cpu, (uint16_t)sel, t, &d, &ss);
    if (r == 0)
        r = sys_target_check_rip(cpu, t, 0);
    if (r == 0)
        r = sys_desc_set_accessed(cpu, &t->d);
    if (r == 0)
        r = sys_desc_set_accessed(cpu, &d);
    if (r != 0)
        return r;
    sys_target_enter(cpu, t);
    cpu->seg[VMC_SS] = ss;
    vmci_update_mode(cpu);
    sys_sp_set(cpu, cpu->stack_bits, sp + release);
    sys_drop_data_segs(cpu, cpu->cpl);
    return 0;
}

int vmci_far_ret(struct vmci_cpu *cpu, unsigned opbytes, uint16_t release)
{
    struct sys_target t = {0};
    struct sys_stack s = {0};
    uint64_t sel = 0;
    int r;

    if (legacy_real(cpu))
        return real_ret(cpu, opbytes, release);
    sys_stack_current(cpu, &s);
    r = sys_pop(cpu, &s, opbytes, &t.rip);
    if (r == 0)
        r = sys_pop(cpu, &s, opbytes, &sel);
    if (r == 0)
        r = sys_return_cs(cpu, (uint16_t)sel, &t);
    if (r != 0)
        return r;
    if (sys_rpl(t.sel) > cpu->cpl)
        return ret_outer(cpu, &s, &t, opbytes, release);
    r = sys_target_check_rip(cpu, &t, 0);
    if (r == 0)
        r = sys_desc_set_accessed(cpu, &t.d);
    if (r != 0)
        return r;
    sys_sp_set(cpu, s.bits, s.sp + release);
    sys_target_enter(cpu, &t);
    vmci_update_mode(cpu);
    return 0;
}
