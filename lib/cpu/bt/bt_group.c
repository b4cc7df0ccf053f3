/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Groups: accesses of a block that go through the same value of a base register, displacements
 * apart, are checked together by the first of them. RSP counts through pushes and pops.
 *
 * The check asks for one page that holds everything from the lowest byte to the highest, and for
 * write access if any of them writes. If that is not to be had, the interpreter executes the rest
 * of the block, each access by itself; a block to which that happens often is translated again
 * without groups.
 */
#include "cpu/bt/bt_work.h"

/* What is known of a register: the group that counts from one of its values, and the distance. */
struct value {
    uint8_t group; /* index + 1; 0: none yet */
    int32_t off;
};

struct scan {
    struct bt_work *w;
    struct value v[16];
};

static void forget(struct scan *s, uint32_t regs)
{
    for (unsigned r = 0; r < 16; r++)
        if ((regs & 1u << r) != 0)
            s->v[r] = (struct value){0, 0};
}

/* The next multiple of align, counted from zero, that is not above n. */
static int32_t floor_to(int32_t n, int32_t zero, int32_t align)
{
    return zero + ((n - zero) & -align);
}

/* Widen the group to bytes lo to hi. Where a part must be aligned, the group is: all of it lies
   within one page if its aligned pieces do. */
static bool join(struct bt_group *g, int32_t lo, int32_t hi, unsigned align)
{
    int32_t most = VMCI_MAX(g->align, (int32_t)align);
    int32_t least = VMCI_MIN(g->align, (int32_t)align);
    int32_t zero = align > 1 ? lo : g->lo;

    if (least > 1 && (lo - g->lo) % least != 0)
        return false; /* they cannot both be aligned */
    if (g->align > align)
        zero = g->lo;
    lo = floor_to(VMCI_MIN(g->lo, lo), zero, most);
    hi = floor_to(VMCI_MAX(g->hi, hi) + most - 1, zero, most);
    if (hi - lo > BT_GROUP_SPAN)
        return false;
    g->lo = lo;
    g->hi = hi;
    g->align = (uint8_t)most;
    return true;
}

/* An access to [reg + disp]. */
static struct bt_ref touch(struct scan *s, unsigned reg, int64_t disp, unsigned bytes,
                           unsigned align, bool write)
{
    struct bt_work *w = s->w;
    struct value *v = &s->v[reg];

    if (disp > INT32_MAX / 4 || disp < INT32_MIN / 4 || bytes == 0)
        return (struct bt_ref){0, 0};
    int32_t lo = v->off + (int32_t)disp;
    int32_t hi = lo + (int32_t)bytes;
    if (v->group == 0) {
        if (w->group_count == BT_GROUP_MAX)
            return (struct bt_ref){0, 0};
        w->group[w->group_count++] = (struct bt_group){
            .reg = (uint8_t)reg, .host = EM_NONE, .tag = EM_NONE, .lo = lo, .hi = hi, .align = 1};
        v->group = (uint8_t)w->group_count;
    }
    struct bt_group *g = &w->group[v->group - 1];
    if (!join(g, lo, hi, align))
        return (struct bt_ref){0, 0};
    g->write = g->write || write;
    g->count++;
    return (struct bt_ref){v->group, v->off};
}

/* Does the instruction add a constant to a 64-bit register: to which, how much? */
static bool moves(const struct vmci_insn *in, unsigned *reg, int64_t *by)
{
    if (in->opsize != 8 || in->nopnd == 0 || in->opnd[0].kind != VMCI_OPND_GPR)
        return false;
    *reg = in->opnd[0].reg;
    switch (in->op) {
    case VMCI_OP_ADD:
        *by = in->imm;
        return in->opnd[1].kind == VMCI_OPND_IMM;
    case VMCI_OP_SUB:
        *by = -in->imm;
        return in->opnd[1].kind == VMCI_OPND_IMM;
    case VMCI_OP_INC:
        *by = 1;
        return true;
    case VMCI_OP_DEC:
        *by = -1;
        return true;
    case VMCI_OP_LEA:
        *by = in->disp;
        return in->addrsize == 8 && in->base == *reg && in->index == VMCI_REG_ZERO;
    default:
        return false;
    }
}

static bool based(const struct vmci_insn *in)
{
    return in->base < 16 && in->index == VMCI_REG_ZERO && in->addrsize == 8 && in->seg != VMC_FS &&
           in->seg != VMC_GS;
}

static void scan_insn(struct scan *s, const struct vmci_insn *in)
{
    struct bt_work *w = s->w;
    struct bt_access a;
    unsigned reg;
    int64_t by;

    if (based(in) && bt_operand(w, in, &a) && (a.align <= 1 || a.align == 16 || a.align == 32))
        w->ref[w->i] =
            touch(s, in->base, in->disp, a.bytes, VMCI_MAX(a.align, 1u), a.acc == BT_ACC_WRITE);
    switch (in->op) {
    case VMCI_OP_PUSH:
    case VMCI_OP_CALL:
        if (in->opsize != 8)
            break;
        w->stack_ref[w->i] = touch(s, EM_RSP, -8, 8, 1, true);
        s->v[EM_RSP].off -= 8;
        return;
    case VMCI_OP_RET:
        if (in->opsize == 8)
            w->stack_ref[w->i] = touch(s, EM_RSP, 0, 8, 1, false);
        return;
    case VMCI_OP_POP:
        if (in->opsize != 8 || in->opnd[0].kind != VMCI_OPND_GPR || in->opnd[0].reg == EM_RSP)
            break;
        w->stack_ref[w->i] = touch(s, EM_RSP, 0, 8, 1, false);
        s->v[EM_RSP].off += 8;
        forget(s, 1u << in->opnd[0].reg);
        return;
    default:
        if (moves(in, &reg, &by) && by > -BT_GROUP_SPAN && by < BT_GROUP_SPAN) {
            s->v[reg].off += (int32_t)by;
            return;
        }
        break;
    }
    forget(s, bt_regs_written(w, in));
}

void bt_groups(struct bt_work *w, uint32_t used)
{
    struct scan s = {.w = w};
    unsigned given = 0;

    w->group_count = 0;
    w->group_regs = 0;
    memset(w->ref, 0, sizeof(w->ref));
    memset(w->stack_ref, 0, sizeof(w->stack_ref));
    /* Offsets of 32-bit code wrap around at 4 GiB. */
    if (w->step[0].b->alone || w->word != 8)
        return;
    for (unsigned i = 0; i < w->n; i++)
        scan_insn(&s, bt_step(w, i));
    for (unsigned k = 0; k < w->group_count && given < BT_GROUP_REGS; k++) {
        struct bt_group *g = &w->group[k];
        if (g->count < 2)
            continue;
        g->host = (uint8_t)bt_unused(used);
        if (g->host == EM_NONE)
            break;
        used |= 1u << g->host;
        g->slot = (uint8_t)given++;
        g->kept = true;
        w->group_regs |= (uint16_t)(1u << g->host);
    }
    w->t->set |= w->group_regs;
    w->t->groups = w->group_regs != 0;
}

static void cold(struct bt_work *w, const struct bt_group *g, int32_t off, size_t site,
                 enum bt_rcx rcx)
{
    struct bt_cold *c = bt_cold(w, BT_COLD_INSN, site);

    if (c == NULL)
        return;
    c->rcx = (uint8_t)rcx;
    c->lazy = w->step[w->i].lazy;
    c->group = g;
    c->off = off;
}

static void checked(struct bt_work *w, struct bt_group *g, uint32_t table)
{
    em_load_gs_x8(&w->e, g->host, g->host, table + (uint32_t)offsetof(struct vmci_tlb, addend));
    g->checked = true;
    g->at = (uint16_t)w->i;
}

/* The first access checks for all. Leaves the page's addend in the group's register. */
static void check(struct bt_work *w, struct bt_group *g, int32_t off)
{
    struct emit *e = &w->e;
    uint32_t table = GS_CPU(tlb) + (uint32_t)(w->t->mode * sizeof(struct vmci_tlb));
    uint32_t tag = table + (uint32_t)(g->write ? offsetof(struct vmci_tlb, wr)
                                               : offsetof(struct vmci_tlb, rd));
    struct em_addr at = {g->reg, EM_NONE, 0, g->lo - off};
    unsigned from = g->reg;

    if (at.disp != 0) {
        em_rm(e, EM_W, 0x8d, g->host, &at);
        from = g->host;
    }
    em_pext_gs(e, g->host, from, GS_BT(tlb_mask));
    if (w->step[w->i].lazy != 0) {
        em_load_gs_x8(e, w->x, g->host, tag);
        if (g->reg == EM_RSP)
            at.index = (uint8_t)w->x;
        else
            at = (struct em_addr){(uint8_t)w->x, g->reg, 0, at.disp};
        at.disp += bt_group_last(g) - g->lo;
        em_rm(e, EM_W, 0x8d, w->x, &at);
        em_rex(e, EM_W, 0, w->x); /* test x, page mask */
        em8(e, 0xf7);
        em8(e, 0xc0 | (w->x & 7));
        em32(e, bt_group_mask(g));
        cold(w, g, off, em_jump(e, CC_NE), BT_RCX_HOME);
        checked(w, g, table);
        return;
    }
    em_mov(e, w->x, EM_RCX);
    em_load_gs_x8(e, EM_RCX, g->host, tag);
    at.index = EM_RCX;
    if (at.base == EM_RCX)
        at.base = (uint8_t)w->x;
    at.disp += bt_group_last(g) - g->lo;
    em_rm(e, EM_W, 0x8d, EM_RCX, &at);
    em_pext_gs(e, EM_RCX, EM_RCX, bt_group_gs_mask(g));
    cold(w, g, off, em_jump_unless_rcxz(e), BT_RCX_X);
    em_mov(e, EM_RCX, w->x);
    checked(w, g, table);
}

bool bt_group_use(struct bt_work *w, const struct bt_ref *r, int32_t disp, struct em_addr *out)
{
    if (r->group == 0)
        return false;
    struct bt_group *g = &w->group[r->group - 1];
    if (g->host == EM_NONE || g->reg == EM_NONE)
        return false;
    if (!g->checked && g->tag != EM_NONE) {
        bt_loop_check(w, g, r->off);
        g->checked = true;
        g->at = (uint16_t)w->i;
    } else if (!g->checked) {
        check(w, g, r->off);
    }
    *out = (struct em_addr){g->reg, g->host, 0, disp};
    return true;
}

void bt_groups_undo(struct bt_work *w)
{
    for (unsigned k = 0; k < w->group_count; k++)
        if (w->group[k].checked && w->group[k].at == w->i)
            w->group[k].checked = false;
}
