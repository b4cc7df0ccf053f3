/* SPDX-License-Identifier: BSD-2-Clause */
/* Stacks that a far transfer builds or takes down before it changes the registers. */
#include "sys_priv.h"

static uint64_t sp_mask(unsigned bits)
{
    return bits == 64 ? ~0ull : bits == 32 ? 0xffffffffull : 0xffffull;
}

unsigned sys_stack_bits(const struct vmc_segment *ss, bool code64)
{
    if (code64)
        return 64;
    return (ss->attr & VMC_SEG_DB) != 0 ? 32 : 16;
}

void sys_stack_current(const struct vmci_cpu *cpu, struct sys_stack *s)
{
    s->ss = cpu->seg[VMC_SS];
    s->bits = cpu->stack_bits;
    s->sp = cpu->gpr[VMC_RSP] & sp_mask(s->bits);
    s->cpl = cpu->cpl;
    s->ss_code = 0;
}

/* Linear address of bytes at SP offset off; #SS outside the segment or when not canonical. */
static int stack_la(struct vmci_cpu *cpu, const struct sys_stack *s, uint64_t off, unsigned bytes,
                    uint64_t *la)
{
    if (s->bits == 64) {
        if (!vmci_canonical(cpu, off) || !vmci_canonical(cpu, off + bytes - 1))
            return vmci_raise_code(cpu, VMC_VEC_SS, s->ss_code);
        *la = off;
        return 0;
    }
    if (!sys_in_limit(&s->ss, off, bytes))
        return vmci_raise_code(cpu, VMC_VEC_SS, s->ss_code);
    *la = (uint32_t)(s->ss.base + off);
    return 0;
}

int sys_push_room(struct vmci_cpu *cpu, const struct sys_stack *s, unsigned n, unsigned bytes)
{
    uint64_t sp = s->sp;
    uint64_t la;

    if (s->bits == 64 && ((sp - n * bytes) ^ (sp - 1)) >> 63 == 0 &&
        vmci_canonical(cpu, sp - n * bytes) && vmci_canonical(cpu, sp - 1))
        return 0;
    /* Item by item, because SP may wrap between two of them. */
    for (unsigned i = 0; i < n; i++) {
        sp = (sp - bytes) & sp_mask(s->bits);
        int r = stack_la(cpu, s, sp, bytes, &la);
        if (r != 0)
            return r;
    }
    return 0;
}

/* #AC of level 3 on its own stack. The address is canonical. */
static int stack_aligned(struct vmci_cpu *cpu, const struct sys_stack *s, uint64_t la,
                         unsigned bytes)
{
    if (likely(cpu->tlb_mode != VMCI_TLB_ALIGN || s->cpl != 3 || (la & (bytes - 1)) == 0))
        return 0;
    return vmci_raise_code(cpu, VMC_VEC_AC, s->ss_code & 1u); /* EXT */
}

int sys_push(struct vmci_cpu *cpu, struct sys_stack *s, unsigned bytes, uint64_t v)
{
    uint64_t sp = (s->sp - bytes) & sp_mask(s->bits);
    uint64_t la = 0;
    int r = stack_la(cpu, s, sp, bytes, &la);

    if (r == 0)
        r = stack_aligned(cpu, s, la, bytes);
    if (r == 0)
        r = vmci_wr_cpl(cpu, s->cpl, la, bytes, v);
    if (r == 0)
        s->sp = sp;
    return r;
}

int sys_pop(struct vmci_cpu *cpu, struct sys_stack *s, unsigned bytes, uint64_t *v)
{
    uint64_t la = 0;
    int r = stack_la(cpu, s, s->sp, bytes, &la);

    if (r == 0)
        r = stack_aligned(cpu, s, la, bytes);
    if (r == 0)
        r = vmci_rd_cpl(cpu, s->cpl, la, bytes, v);
    if (r == 0)
        s->sp = (s->sp + bytes) & sp_mask(s->bits);
    return r;
}

uint64_t *sys_frame(struct vmci_cpu *cpu, const struct sys_stack *s, uint64_t sp, unsigned n,
                    bool write)
{
    if (s->bits != 64 || sp % 8 != 0)
        return NULL;
    return vmci_direct_cpl(cpu, s->cpl, sp, 8 * n, write);
}

void sys_sp_set(struct vmci_cpu *cpu, unsigned bits, uint64_t sp)
{
    uint64_t *rsp = &cpu->gpr[VMC_RSP];

    if (bits == 16)
        *rsp = (*rsp & ~0xffffull) | (sp & 0xffffu);
    else
        *rsp = sp & sp_mask(bits);
}

int sys_rsp_from_tss64(struct vmci_cpu *cpu, unsigned offset, unsigned ext, uint64_t *rsp)
{
    const struct vmc_segment *tr = &cpu->seg[VMC_TR];
    int r;

    if (offset + 7 > tr->limit)
        return sys_raise_sel(cpu, VMC_VEC_TS, tr->selector, ext);
    r = vmci_rd_sys(cpu, tr->base + offset, 8, rsp);
    if (r != 0)
        return r;
    if (!vmci_canonical(cpu, *rsp))
        return vmci_raise_code(cpu, VMC_VEC_SS, ext);
    return 0;
}

/* SSn:ESPn of a 16- or 32-bit TSS. */
static int read_tss_stack(struct vmci_cpu *cpu, unsigned dpl, unsigned ext, uint16_t *sel,
                          uint64_t *sp)
{
    const struct vmc_segment *tr = &cpu->seg[VMC_TR];
    bool tss32 = (tr->attr & SYS_TYPE_32) != 0;
    unsigned bytes = tss32 ? 4 : 2;
    uint32_t at = tss32 ? 4 + 8 * dpl : 2 + 4 * dpl;
    uint64_t v = 0;
    int r;

    if (at + bytes + 1 > tr->limit)
        return sys_raise_sel(cpu, VMC_VEC_TS, tr->selector, ext);
    r = vmci_rd_sys(cpu, (uint32_t)(tr->base + at), bytes, sp);
    if (r == 0)
        r = vmci_rd_sys(cpu, (uint32_t)(tr->base + at + bytes), 2, &v);
    if (r == 0)
        *sel = (uint16_t)v;
    return r;
}

int sys_stack_from_tss(struct vmci_cpu *cpu, unsigned dpl, unsigned ext, struct sys_stack *s)
{
    struct sys_desc d = {0};
    uint16_t sel = 0;
    int r = read_tss_stack(cpu, dpl, ext, &sel, &s->sp);

    if (r != 0)
        return r;
    if (sys_null(sel))
        return vmci_raise_code(cpu, VMC_VEC_TS, ext);
    r = sys_desc_read(cpu, sel, VMC_VEC_TS, ext, &d);
    if (r != 0)
        return r;
    if (sys_rpl(sel) != dpl || sys_d_dpl(&d) != dpl || !sys_d_writable(&d))
        return sys_raise_sel(cpu, VMC_VEC_TS, sel, ext);
    if (!sys_d_present(&d))
        return sys_raise_sel(cpu, VMC_VEC_SS, sel, ext);
    r = sys_desc_set_accessed(cpu, &d);
    if (r != 0)
        return r;
    sys_desc_to_seg(&d, sel, &s->ss);
    s->bits = sys_stack_bits(&s->ss, false);
    s->sp &= sp_mask(s->bits);
    s->cpl = dpl;
    s->ss_code = (sel & 0xfffcu) | ext;
    return 0;
}
