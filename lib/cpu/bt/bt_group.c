/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Groups: accesses of a trace whose addresses count from the same value, constants apart, are
 * checked together by the first of them. Values are followed through moves between registers,
 * additions of constants, and pushes and pops; where a register holds a constant, that is part of
 * the constants.
 *
 * The check asks for one page that holds everything from the lowest byte to the highest, and for
 * write access if any of them writes. If that is not to be had, the interpreter executes the rest
 * of the block, each access by itself; a block to which that happens often is translated again
 * without groups, but for those of the stack: frames mostly lie where they did, so these are cut
 * where the page ends now.
 */
#include "cpu/bt/bt_work.h"

/* What a register holds: a value that is known by number, and a constant. Number 0 is zero, 1 to 16
   are what the registers hold where the trace begins. */
struct value {
    uint16_t root;
    int32_t off;
};
#define ROOT_ZERO 0u
#define ROOT_TOP  16u
/* Constants beyond are values of their own. */
#define OFF_MAX (1 << 24)

struct scan {
    struct bt_work *w;
    uint16_t roots;
    struct value v[EM_NONE + 1]; /* the last one is that of no register */
};

static void forget(struct scan *s, uint32_t regs)
{
    for (unsigned r = 0; r < 16; r++)
        if ((regs & 1u << r) != 0)
            s->v[r] = (struct value){++s->roots, 0};
}

static void set(struct scan *s, unsigned reg, struct value v, int64_t by)
{
    int64_t off = v.off + by;

    if (off > OFF_MAX || off < -OFF_MAX)
        forget(s, 1u << reg);
    else
        s->v[reg] = (struct value){v.root, (int32_t)off};
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

/* The page of bytes lo to hi from these values, to judge by what the registers hold where the trace
   begins; VMCI_TLB_NONE: that cannot be said, or they lie in two. */
static uint64_t page_now(const struct bt_work *w, const uint16_t root[2], unsigned scale,
                         int32_t lo, int32_t hi)
{
    const uint64_t *gpr = w->sc->cpu.gpr;
    uint64_t la = (uint64_t)(int64_t)lo;

    if (root[0] > ROOT_TOP || root[1] > ROOT_TOP)
        return VMCI_TLB_NONE;
    if (root[0] != ROOT_ZERO)
        la += gpr[root[0] - 1];
    if (root[1] != ROOT_ZERO)
        la += gpr[root[1] - 1] << scale;
    uint64_t end = la + (uint64_t)(uint32_t)(hi - lo) - 1;
    return ((la ^ end) & PAGE_MASK) == 0 ? la & PAGE_MASK : VMCI_TLB_NONE;
}

/* A group of the same address, within reach; NULL: there is none, and no room. */
static struct bt_group *group_of(struct scan *s, const struct bt_ref *r, int32_t lo, int32_t hi,
                                 unsigned align)
{
    struct bt_work *w = s->w;
    uint16_t root[2] = {s->v[r->reg].root, s->v[r->index].root};

    bool stack = root[0] == EM_RSP + 1u && root[1] == ROOT_ZERO;
    uint64_t page = 0;

    if (w->t->alone != 0)
        page = stack ? page_now(w, root, r->scale, lo, hi) : VMCI_TLB_NONE;

    for (unsigned k = 0; k < w->group_count; k++) {
        struct bt_group *g = &w->group[k];
        /* Where there are two values, they are in the same registers each time. */
        if (memcmp(g->root, root, sizeof(root)) == 0 && g->scale == r->scale &&
            (r->index == EM_NONE || (g->reg == r->reg && g->index == r->index)) &&
            (w->t->alone == 0 || page_now(w, root, r->scale, g->lo, g->hi) == page) &&
            join(g, lo, hi, align))
            return g;
    }
    if (w->group_count == BT_GROUP_MAX || page == VMCI_TLB_NONE)
        return NULL;
    struct bt_group *g = &w->group[w->group_count++];
    *g = (struct bt_group){.reg = r->reg,
                           .index = r->index,
                           .scale = r->scale,
                           .root = {root[0], root[1]},
                           .host = EM_NONE,
                           .tag = EM_NONE,
                           .lo = lo,
                           .hi = hi,
                           .align = (uint8_t)align};
    /* Of several registers that hold the value, the one that has it where the trace begins. */
    g->later = root[0] > ROOT_TOP || root[1] > ROOT_TOP;
    if (r->index == EM_NONE && !g->later)
        g->reg = (uint8_t)(root[0] - 1);
    return g;
}

/* The address of an access as it is looked for: registers that hold constants are no part of it. */
static bool simplify(const struct scan *s, const struct em_addr *at, struct bt_ref *r)
{
    struct value base = s->v[at->base], index = s->v[at->index];

    *r = (struct bt_ref){.reg = at->base, .index = at->index, .scale = at->scale};
    if (index.root == ROOT_ZERO) {
        r->index = EM_NONE;
        r->scale = 0;
        r->more = (int32_t)((uint32_t)index.off << at->scale);
        r->off = base.off;
        return base.root != ROOT_ZERO;
    }
    if (base.root == ROOT_ZERO && at->scale == 0) {
        r->reg = at->index;
        r->index = EM_NONE;
        r->more = base.off;
        r->off = index.off;
        return true;
    }
    r->off = base.off + (int32_t)((uint32_t)index.off << at->scale);
    return true;
}

static struct bt_ref touch(struct scan *s, const struct em_addr *at, unsigned bytes, unsigned align,
                           bool write)
{
    struct bt_work *w = s->w;
    struct bt_ref r;

    if (at->disp > INT32_MAX / 4 || at->disp < INT32_MIN / 4 || bytes == 0 || !simplify(s, at, &r))
        return (struct bt_ref){0};
    int32_t lo = r.off + r.more + at->disp;
    struct bt_group *g = group_of(s, &r, lo, lo + (int32_t)bytes, align);
    if (g == NULL)
        return (struct bt_ref){0};
    g->write = g->write || write;
    g->count++;
    r.group = (uint8_t)(g - w->group + 1);
    return r;
}

static struct bt_ref touch_stack(struct scan *s, int32_t disp, bool write)
{
    return touch(s, &(struct em_addr){EM_RSP, EM_NONE, 0, disp}, 8, 1, write);
}

bool bt_moves(const struct vmci_insn *in, unsigned *reg, int64_t *by)
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

/* The result of a 32-bit instruction is n; registers may hold that as a constant. */
static bool is_small(int64_t n)
{
    return n >= 0 && n <= OFF_MAX;
}

/* ADD, SUB, INC, DEC and SHL of what is known. */
static bool computed(struct scan *s, const struct vmci_insn *in)
{
    const struct vmci_opnd *to = &in->opnd[0], *from = &in->opnd[1];
    struct value v = s->v[to->reg];
    int64_t n = v.off;

    switch (in->op) {
    case VMCI_OP_INC:
        n++;
        break;
    case VMCI_OP_DEC:
        n--;
        break;
    case VMCI_OP_SUB:
        if (from->kind != VMCI_OPND_IMM)
            return false;
        n -= in->imm;
        break;
    case VMCI_OP_ADD:
        if (from->kind == VMCI_OPND_IMM) {
            n += in->imm;
            break;
        }
        if (from->kind != VMCI_OPND_GPR || in->opsize != 8)
            return false;
        struct value f = s->v[from->reg];
        if (v.root != ROOT_ZERO && f.root != ROOT_ZERO)
            return false;
        set(s, to->reg, v.root == ROOT_ZERO ? f : v, v.root == ROOT_ZERO ? v.off : f.off);
        return true;
    case VMCI_OP_SHL:
        if (from->kind != VMCI_OPND_IMM || (uint64_t)in->imm > 24 || n < 0)
            return false;
        n <<= in->imm;
        break;
    default:
        return false;
    }
    if (v.root != ROOT_ZERO || !is_small(n))
        return false;
    set(s, to->reg, (struct value){ROOT_ZERO, 0}, n);
    return true;
}

/* The operand as an address that groups can be made of. */
static bool addressed(const struct vmci_insn *in, struct em_addr *at)
{
    if (in->base == VMCI_REG_IP || in->addrsize != 8 || in->seg == VMC_FS || in->seg == VMC_GS ||
        in->disp != (int32_t)in->disp)
        return false;
    *at = (struct em_addr){in->base < 16 ? in->base : EM_NONE, in->index < 16 ? in->index : EM_NONE,
                           in->index < 16 ? in->scale : 0, (int32_t)in->disp};
    return at->base != EM_NONE || at->index != EM_NONE;
}

/* Is the address a number that a register may hold as a constant? */
static bool constant(const struct scan *s, const struct em_addr *at, int64_t *n)
{
    struct value base = s->v[at->base], index = s->v[at->index];

    *n = (int64_t)base.off + ((int64_t)index.off << at->scale) + at->disp;
    return base.root == ROOT_ZERO && index.root == ROOT_ZERO && is_small(*n);
}

/* Does the instruction only give its register a value that is known? */
static bool copied(struct scan *s, const struct vmci_insn *in)
{
    const struct vmci_opnd *to = &in->opnd[0], *from = &in->opnd[1];
    struct em_addr at;
    struct bt_ref r;
    int64_t n;

    if (in->nopnd < 1 || to->kind != VMCI_OPND_GPR || in->opsize < 4)
        return false;
    switch (in->op) {
    case VMCI_OP_MOV:
        if (from->kind == VMCI_OPND_GPR) {
            struct value v = s->v[from->reg];
            if (in->opsize != 8 && (v.root != ROOT_ZERO || !is_small(v.off)))
                return false;
            set(s, to->reg, v, 0);
            return true;
        }
        if (from->kind != VMCI_OPND_IMM || in->imm < 0 || in->imm > OFF_MAX)
            return false;
        set(s, to->reg, (struct value){ROOT_ZERO, 0}, in->imm);
        return true;
    case VMCI_OP_XOR:
    case VMCI_OP_SUB:
        if (from->kind != VMCI_OPND_GPR || from->reg != to->reg)
            return computed(s, in);
        set(s, to->reg, (struct value){ROOT_ZERO, 0}, 0);
        return true;
    case VMCI_OP_LEA:
        if (in->opsize != 8 || !addressed(in, &at))
            return false;
        if (constant(s, &at, &n)) {
            set(s, to->reg, (struct value){ROOT_ZERO, 0}, n);
            return true;
        }
        if (!simplify(s, &at, &r) || r.index != EM_NONE)
            return false;
        set(s, to->reg, s->v[r.reg], (int64_t)r.more + at.disp);
        return true;
    default:
        return computed(s, in);
    }
}

static bool is_reg(const struct vmci_opnd *o)
{
    return o->kind == VMCI_OPND_GPR;
}

static void scan_insn(struct scan *s, const struct vmci_insn *in)
{
    struct bt_work *w = s->w;
    struct bt_access a;
    struct em_addr at;
    unsigned reg;
    int64_t by;

    if (addressed(in, &at) && bt_operand(w, in, &a) &&
        (a.align <= 1 || a.align == 16 || a.align == 32))
        w->ref[w->i] = touch(s, &at, a.bytes, VMCI_MAX(a.align, 1u), a.acc == BT_ACC_WRITE);
    switch (in->op) {
    case VMCI_OP_PUSH:
    case VMCI_OP_CALL:
        if (in->opsize != 8)
            break;
        w->stack_ref[w->i] = touch_stack(s, -8, true);
        s->v[EM_RSP].off -= 8;
        return;
    case VMCI_OP_RET:
        if (in->opsize == 8)
            w->stack_ref[w->i] = touch_stack(s, 0, false);
        s->v[EM_RSP].off += 8; /* if the trace goes on behind it, this is all it adds */
        return;
    case VMCI_OP_POP:
        if (in->opsize != 8 ||
            (is_reg(&in->opnd[0]) ? in->opnd[0].reg == EM_RSP : !bt_pop_mem_native(w, in)))
            break;
        w->stack_ref[w->i] = touch_stack(s, 0, false);
        s->v[EM_RSP].off += 8;
        if (is_reg(&in->opnd[0]))
            forget(s, 1u << in->opnd[0].reg);
        return;
    default:
        if (bt_moves(in, &reg, &by)) {
            set(s, reg, s->v[reg], by);
            return;
        }
        if (copied(s, in))
            return;
        break;
    }
    forget(s, bt_regs_written(w, in));
}

/*
 * Groups that lie in one page now are expected there: the first one is looked up in the TLB, the
 * others are compared with its page, and have its addend.
 */
static void find_twins(struct bt_work *w)
{
    uint64_t page[BT_GROUP_MAX];

    for (unsigned k = 0; k < w->group_count; k++) {
        struct bt_group *g = &w->group[k];
        page[k] = page_now(w, g->root, g->scale, g->lo, g->hi);
        for (unsigned m = 0; m < k && page[k] != VMCI_TLB_NONE && g->twin == 0; m++) {
            struct bt_group *first = &w->group[m];
            if (page[m] != page[k] || first->twin != 0 || first->index != EM_NONE)
                continue;
            g->twin = (uint8_t)(m + 1);
            first->shared = true;
            first->write = first->write || g->write;
            first->count += g->count;
        }
    }
}

/* The group without a register that has most accesses, two at least. */
static struct bt_group *most_used(struct bt_work *w)
{
    struct bt_group *best = NULL;

    for (unsigned k = 0; k < w->group_count; k++) {
        struct bt_group *g = &w->group[k];
        if (g->host == EM_NONE && g->twin == 0 && g->count > (best == NULL ? 1 : best->count))
            best = g;
    }
    return best;
}

/* Groups that got no register: to fetch the addend is still less than to look for it again. */
static bool keep_in_memory(struct bt_work *w)
{
    unsigned n = 0;

    /* Those that may use the addend of another one come last. */
    for (unsigned k = 0; k < 2 * w->group_count && n < BT_GROUP_MEM; k++) {
        struct bt_group *g = &w->group[k % w->group_count];
        if (g->kept || g->count < 2 || (g->twin != 0) != (k >= w->group_count))
            continue;
        g->mem = true;
        g->slot = (uint8_t)(BT_GROUP_REGS + 1 + n++);
    }
    return n != 0;
}

void bt_groups(struct bt_work *w, uint32_t used)
{
    struct scan s = {.w = w, .roots = ROOT_TOP};
    unsigned given = 0;

    for (unsigned r = 0; r < 16; r++)
        s.v[r].root = (uint16_t)(r + 1);

    w->group_count = 0;
    w->group_regs = 0;
    w->sharing = false;
    memset(w->ref, 0, sizeof(w->ref));
    memset(w->stack_ref, 0, sizeof(w->stack_ref));
    /* Offsets of 32-bit code wrap around at 4 GiB. */
    if (w->t->alone == BT_ALONE || w->word != 8)
        return;
    for (unsigned i = 0; i < w->n; i++)
        scan_insn(&s, bt_step(w, i));
    w->sharing = w->n > 0 && w->t->alone == 0 && !w->step[0].b->apart && !bt_loop_likely(w);
    if (w->sharing)
        find_twins(w);
    for (; given < BT_GROUP_REGS; given++) {
        struct bt_group *g = most_used(w);
        if (g == NULL)
            break;
        g->host = (uint8_t)bt_unused(w, used);
        if (g->host == EM_NONE)
            break;
        used |= 1u << g->host;
        g->slot = (uint8_t)given;
        g->kept = true;
        w->group_regs |= (uint16_t)(1u << g->host);
    }
    w->t->set |= w->group_regs;
    w->t->groups = keep_in_memory(w) || w->group_regs != 0;
}

static void cold(struct bt_work *w, const struct bt_group *g, const struct bt_ref *r, size_t site,
                 enum bt_rcx rcx)
{
    struct bt_cold *c = bt_cold(w, BT_COLD_INSN, site);

    if (c == NULL)
        return;
    c->rcx = (uint8_t)rcx;
    c->lazy = w->lazy;
    c->group = g;
    c->ref = *r;
}

static void load_addend(struct bt_work *w, unsigned host, uint32_t table)
{
    em_load_gs_x8(&w->e, host, host, table + (uint32_t)offsetof(struct vmci_tlb, addend));
}

/* The address has an index: it is computed in x, which is lost where the flags may be. */
static void check_indexed(struct bt_work *w, struct bt_group *g, const struct bt_ref *r,
                          unsigned host, uint32_t table, uint32_t tag)
{
    struct emit *e = &w->e;
    struct em_addr at = bt_ref_addr(r, g->lo - r->off + bt_owed(w, r->reg));
    int32_t last = bt_group_last(g) - g->lo;

    em_rm(e, EM_W, 0x8d, w->x, &at);
    em_pext_gs(e, host, w->x, GS_BT(tlb_mask));
    if (w->lazy != 0) {
        struct em_addr entry = {EM_NONE, (uint8_t)host, 3, (int32_t)tag};
        w->lost = w->lazy;
        em8(e, 0x65); /* add x, tag: the offset in the page */
        em_rm(e, EM_W, 0x03, w->x, &entry);
        if (last != 0)
            em_lea(e, EM_W, w->x, w->x, EM_NONE, 0, last);
        em_test_imm(e, w->x, bt_group_mask(g));
        cold(w, g, r, em_jump(e, CC_NE), BT_RCX_HOME);
    } else {
        bt_rcx_away(w);
        em_load_gs_x8(e, EM_RCX, host, tag);
        em_lea(e, EM_W, EM_RCX, EM_RCX, w->x, 0, last);
        em_pext_gs(e, EM_RCX, EM_RCX, bt_group_gs_mask(g));
        cold(w, g, r, em_jump_unless_rcxz(e), BT_RCX_K);
        bt_rcx_back(w);
    }
    load_addend(w, host, table);
}

/* The tag is in reg: those that share the page want it. */
static void keep_tag(struct bt_work *w, const struct bt_group *g, unsigned reg)
{
    if (g->shared && !w->loop)
        em_store_gs(&w->e, reg, GS_BT(keep_tag) + 8u * g->slot);
}

/* The first access checks for all. Leaves the page's addend in host. */
static void check(struct bt_work *w, struct bt_group *g, const struct bt_ref *r, unsigned host)
{
    struct emit *e = &w->e;
    uint32_t table = GS_CPU(tlb) + (uint32_t)(w->t->mode * sizeof(struct vmci_tlb));
    uint32_t tag = table + (uint32_t)(g->write ? offsetof(struct vmci_tlb, wr)
                                               : offsetof(struct vmci_tlb, rd));
    struct em_addr at = {r->reg, EM_NONE, 0, g->lo - r->off + bt_owed(w, r->reg)};
    unsigned from = r->reg;

    if (g->index != EM_NONE) {
        check_indexed(w, g, r, host, table, tag);
        return;
    }
    if (at.disp != 0) {
        em_rm(e, EM_W, 0x8d, host, &at);
        from = host;
    }
    em_pext_gs(e, host, from, GS_BT(tlb_mask));
    if (w->lazy != 0) {
        w->lost = w->lazy;
        em_load_gs_x8(e, w->x, host, tag);
        keep_tag(w, g, w->x);
        if (r->reg == EM_RSP)
            at.index = (uint8_t)w->x;
        else
            at = (struct em_addr){(uint8_t)w->x, r->reg, 0, at.disp};
        at.disp += bt_group_last(g) - g->lo;
        em_rm(e, EM_W, 0x8d, w->x, &at);
        em_test_imm(e, w->x, bt_group_mask(g));
        cold(w, g, r, em_jump(e, CC_NE), BT_RCX_HOME);
        load_addend(w, host, table);
        return;
    }
    em_mov(e, w->x, EM_RCX);
    em_load_gs_x8(e, EM_RCX, host, tag);
    keep_tag(w, g, EM_RCX);
    at.index = EM_RCX;
    if (at.base == EM_RCX)
        at.base = (uint8_t)w->x;
    at.disp += bt_group_last(g) - g->lo;
    em_rm(e, EM_W, 0x8d, EM_RCX, &at);
    em_pext_gs(e, EM_RCX, EM_RCX, bt_group_gs_mask(g));
    cold(w, g, r, em_jump_unless_rcxz(e), BT_RCX_X);
    em_mov(e, EM_RCX, w->x);
    load_addend(w, host, table);
}

/* Where the access is when its group was checked. */
static struct em_addr operand(struct bt_work *w, const struct bt_group *g, const struct bt_ref *r,
                              int32_t disp)
{
    struct em_addr at = bt_ref_addr(r, disp);

    if (g->index == EM_NONE) {
        at.index = g->host;
        return at;
    }
    if (w->loop && (g->hoist == BT_HOIST_BASE || g->biased)) {
        at.base = g->host;
        return at;
    }
    if (w->loop && g->hoist == BT_HOIST_INDEX)
        return (struct em_addr){r->reg, g->host, 0, disp};
    em_rm(&w->e, EM_W, 0x8d, w->x, &at); /* lea */
    return (struct em_addr){(uint8_t)w->x, g->host, 0, 0};
}

/* ---- addends in memory, which x and s hold as long as they are not needed otherwise ------------
 */

/* Is the instruction translated by code that uses x and s for nothing but what bt_group_use asks
   for its one access? */
static bool leaves_scratch(const struct bt_work *w, const struct vmci_insn *in,
                           enum bt_follow follow)
{
    switch (in->op) {
    case VMCI_OP_NOP:
        return true;
    case VMCI_OP_PUSH:
    case VMCI_OP_POP:
        return w->word == 8 && in->opsize == 8 && is_reg(&in->opnd[0]);
    case VMCI_OP_JMP:
        return follow == BT_FOLLOW_TAKEN;
    case VMCI_OP_JCC:
        return follow != BT_FOLLOW_NOT && (w->counted || w->lazy != 0);
    case VMCI_OP_LEA:
        return true;
    case VMCI_OP_FP_SSE:
    case VMCI_OP_FP_AVX:
        return bt_fp_native(w, in);
    default:
        return in->op < VMCI_OP_FP_FIRST && (in->flags & VMCI_IF_BRANCH) == 0 && bt_copyable(w, in);
    }
}

void bt_hold_begin(struct bt_work *w, const struct vmci_insn *in, enum bt_follow follow)
{
    w->holds = w->sharing && !w->loop && !w->step[w->i].kept && leaves_scratch(w, in, follow);
    if (!w->holds)
        w->held = (struct bt_held){0};
}

void bt_hold_end(struct bt_work *w)
{
    if (!w->holds)
        w->held = (struct bt_held){0};
}

static void load_slot(struct bt_work *w, unsigned reg, unsigned slot)
{
    em_load_gs(&w->e, reg, GS_BT(keep) + 8u * slot);
}

void bt_hold_again(struct bt_work *w, const struct bt_held *h)
{
    if (h->x != 0)
        load_slot(w, w->x, h->x - 1u);
    if (h->s != 0)
        load_slot(w, w->s, h->s - 1u);
}

static void hold(struct bt_work *w, unsigned reg, unsigned slot)
{
    if (reg == w->x)
        w->held.x = (uint8_t)(slot + 1);
    else
        w->held.s = (uint8_t)(slot + 1);
    w->held.x_last = reg == w->x;
}

/* Which of x and s has the addend; it is loaded if none has. */
static unsigned slot_reg(struct bt_work *w, unsigned slot)
{
    unsigned reg = w->s;

    if (w->holds && w->held.s != slot + 1) {
        if (w->held.x == slot + 1)
            reg = w->x;
        else if (w->held.s != 0 && (w->held.x == 0 || !w->held.x_last))
            reg = w->x;
    }
    if (!w->holds || (reg == w->x ? w->held.x : w->held.s) != slot + 1)
        load_slot(w, reg, slot);
    hold(w, reg, slot);
    return reg;
}

/* The group lies in the page of another one, or cold code executes the access. */
static void check_twin(struct bt_work *w, const struct bt_group *g, const struct bt_ref *r,
                       const struct bt_group *first)
{
    struct emit *e = &w->e;
    struct em_addr at = bt_ref_addr(r, g->lo - r->off + bt_owed(w, r->reg));
    bool in_x = w->holds && !first->kept && w->held.x == first->slot + 1;
    unsigned to = in_x ? w->s : w->x;

    w->lost = w->lazy;
    em_rm(e, EM_W, 0x8d, to, &at);                                 /* lea */
    em_rgs(e, EM_W, 0x03, to, GS_BT(keep_tag) + 8u * first->slot); /* add */
    if (in_x)
        w->held.s = 0;
    else
        w->held.x = 0;
    if (g->hi - g->lo > g->align || g->align == 1) {
        em_ri(e, EM_W, 7, to, (uint32_t)((int32_t)VMC_PAGE_SIZE - (g->hi - g->lo))); /* cmp */
        cold(w, g, r, em_jump(e, CC_A), BT_RCX_HOME);
        if (g->align > 1) {
            em_test_imm(e, to, g->align - 1u);
            cold(w, g, r, em_jump(e, CC_NE), BT_RCX_HOME);
        }
    } else {
        em_test_imm(e, to, bt_group_mask(g));
        cold(w, g, r, em_jump(e, CC_NE), BT_RCX_HOME);
    }
}

/* *out and the addend in reg as one address. */
static void add_addend(struct bt_work *w, unsigned reg, struct em_addr *out)
{
    unsigned other = reg == w->x ? w->s : w->x;

    if (out->index != EM_NONE) {
        em_rm(&w->e, EM_W, 0x8d, other, out); /* lea */
        *out = (struct em_addr){(uint8_t)other, EM_NONE, 0, 0};
        if (other == w->x)
            w->held.x = 0;
        else
            w->held.s = 0;
    }
    out->index = (uint8_t)reg;
}

/* The addend is in memory. */
static void use_memory(struct bt_work *w, struct bt_group *g, const struct bt_ref *r,
                       struct em_addr *out)
{
    unsigned reg = w->s;

    if (g->checked) {
        reg = slot_reg(w, g->slot);
    } else {
        check(w, g, r, w->s);
        em_store_gs(&w->e, w->s, GS_BT(keep) + 8u * g->slot);
        w->held.x = 0;
        hold(w, w->s, g->slot);
        g->checked = true;
        g->at = (uint16_t)w->i;
    }
    add_addend(w, reg, out);
}

/* The group has a twin whose page is known: its addend is used. false: it is not known, or flags
   must stay. */
static bool use_twin(struct bt_work *w, struct bt_group *g, const struct bt_ref *r,
                     struct em_addr *out)
{
    const struct bt_group *first = &w->group[g->twin - 1u];

    if (!g->shares && (g->checked || !first->checked || w->lazy == 0))
        return false;
    if (!g->shares) {
        check_twin(w, g, r, first);
        g->checked = g->shares = true;
        g->at = (uint16_t)w->i;
    }
    if (first->kept && out->index == EM_NONE) {
        out->index = first->host;
        return true;
    }
    add_addend(w, first->kept ? first->host : slot_reg(w, first->slot), out);
    return true;
}

bool bt_group_use(struct bt_work *w, const struct bt_ref *r, int32_t disp, struct em_addr *out)
{
    if (r->group == 0)
        return false;
    struct bt_group *g = &w->group[r->group - 1];
    bool hoisted = w->loop && g->hoist != BT_HOIST_NOT;
    disp += r->more + bt_owed(w, r->reg);
    if (g->twin != 0) {
        *out = bt_ref_addr(r, disp);
        if (use_twin(w, g, r, out))
            return true;
    }
    if (g->mem && (!w->loop || g->host == EM_NONE)) {
        *out = bt_ref_addr(r, disp);
        use_memory(w, g, r, out);
        return true;
    }
    if (g->host == EM_NONE || (!w->loop && !g->kept))
        return false;
    if (!hoisted && !g->checked) {
        if (w->loop && g->tag != EM_NONE)
            bt_loop_check(w, g, r);
        else
            check(w, g, r, g->host);
        w->held.x = 0;
        g->checked = true;
        g->at = (uint16_t)w->i;
    }
    if (g->index != EM_NONE) /* operand() computes the address in x */
        w->held.x = 0;
    *out = operand(w, g, r, disp);
    return true;
}

void bt_groups_undo(struct bt_work *w)
{
    for (unsigned k = 0; k < w->group_count; k++)
        if (w->group[k].checked && w->group[k].at == w->i)
            w->group[k].checked = w->group[k].shares = false;
}
