/* SPDX-License-Identifier: BSD-2-Clause */
/* Running translated code, and the C side of everything it asks for. */
#include <cpuid.h>

#include "cpu/bt/bt_work.h"
#include "cpu/fpu/fp_int.h"
#include "cpu/interp/mem.h"
#include "cpu/interp/soft_loop.h"

/* Translations of one block at different addresses; shared libraries have several. */
#define VARIANTS_MAX 8
/* Times that a return leads elsewhere than behind the call until traces end there. */
#define RETURNS_ASTRAY 8u
/* Failures of a group's check until its way out leads to a translation with others. */
#define GROUP_FAILS 3u
/* Times that one was not in the page of another group until they are all checked apart. */
#define SHARE_FAILS 4u

/* One run of so many has a part of the budget that is smaller by so much. */
#define SAMPLE_RUNS 4u
#define SAMPLE_PART 16

/* ---- state between the two worlds ------------------------------------------------------------ */

static void flags_out(struct vmci_soft_cpu *sc)
{
    uint64_t f = sc->cpu.rflags;
    sc->bt.flags = ((f >> 11) & 1) | ((f & 0xd5) | 2) << 8;
}

static void flags_in(struct vmci_soft_cpu *sc)
{
    uint64_t f = sc->bt.flags;
    sc->cpu.rflags =
        (sc->cpu.rflags & ~(uint64_t)VMC_FLAG_ARITH) | ((f >> 8) & 0xd5) | (f & 1) << 11;
}

/* ---- asked for by translated code ------------------------------------------------------------ */

/* The block at cpu->rip; NULL: the loop must look. */
static struct block *block_here(struct vmci_soft_cpu *sc)
{
    struct vmci_bt *bt = &sc->bt;
    uint64_t la = soft_code_la(&sc->cpu);
    struct block *b = sc->code.jc[jc_slot(la)];

    if (bt_spent(bt) || vmci_load_relaxed(&sc->cpu.request) != 0)
        return NULL;
    bt_x87_settle(sc); /* before blocks can go away */
    if (bt->jump_mask == 0)
        bt_jumps_open(sc);
    if ((b == NULL || !soft_valid(sc, b, la)) && block_find(sc, BLK_MAX_INSNS, &b) != 0) {
        sc->cpu.exc.pending = false; /* the engine finds it again */
        return NULL;
    }
    return b;
}

/* Go on in the translation at cpu->rip; NULL: the loop must look. */
static struct bt_trans *next_translation(struct vmci_soft_cpu *sc)
{
    uint64_t flushes = sc->bt.st_flushes;
    struct block *b = block_here(sc);
    struct bt_trans *t = b != NULL ? bt_get(sc, b) : NULL;

    return t != NULL && sc->bt.st_flushes == flushes ? t : NULL;
}

static void resume_at(struct vmci_soft_cpu *sc, const struct bt_trans *t)
{
    bt_jumps_bits(sc);
    bt_sys_see(sc);
    bt_see_segments(sc);
    (void)bt_fp_usable(sc, t);
    sc->bt.resume = (uintptr_t)t->canon;
}

/* The interpreted instruction ended its block or failed, or the translation cannot go on: find what
   comes next. */
static uint64_t settle(struct vmci_soft_cpu *sc, const struct bt_site *site, int rc)
{
    struct vmci_bt *bt = &sc->bt;
    /* Only jumps, calls and returns look in the table. */
    bool looked_up =
        rc == 0 && (sc->cpu.cur->flags & (VMCI_IF_BRANCH | VMCI_IF_END)) == VMCI_IF_BRANCH;
    int next = soft_settle(sc, rc);

    flags_out(sc);
    bt_set_retired(bt, sc->cpu.retired);
    if (next != 0)
        return (next == VMCI_EXIT ? BT_LEAVE_EXIT : BT_LEAVE_LOOK) + 1;
    struct bt_trans *t = next_translation(sc);
    if (t == NULL)
        return BT_LEAVE_LOOK + 1;
    /* Nothing is looked at before the next instruction was executed, so the shadow of STI is over:
       no interrupt was waiting, and one that comes now finds its request looked at after that. And
       translated code runs only while there are no breakpoints, for which RF could matter. */
    bool lasts = sc->cpu.irq_shadow != 0 || (sc->cpu.rflags & VMC_FLAG_RF) != 0;
    if (lasts && (bt->budget[t->part] <= BT_TRACE_MAX || !bt_fp_usable(sc, t)))
        return BT_LEAVE_LOOK + 1;
    sc->cpu.irq_shadow = 0;
    sc->cpu.rflags &= ~VMC_FLAG_RF;
    resume_at(sc, t);
    if (looked_up) /* in vain: the next time it is found */
        bt_jumps_enter(sc, t);
    if (looked_up && site->cache != NULL)
        bt_cache_enter(site, t);
    return 0;
}

/* Does the TLB hold what the group needs now? Then its addend is put where it is expected. */
static bool group_hits(struct vmci_soft_cpu *sc, const struct bt_site *site, uint64_t la)
{
    const struct vmci_tlb *t = &sc->cpu.tlb[site->t->mode];
    unsigned i = vmci_tlb_index(la);

    if (!vmci_tlb_hit(site->write ? t->wr[i] : t->rd[i], la, site->span) ||
        (la & (site->align - 1u)) != 0)
        return false;
    sc->bt.keep[site->slot] = t->addend[i];
    sc->bt.keep_tag[site->slot] = site->write ? t->wr[i] : t->rd[i];
    return true;
}

/*
 * A group's check fails again: its bytes lie in two pages. From here on control goes to a
 * translation of the rest that has fewer groups, without asking.
 */
static uint64_t go_alone(struct vmci_soft_cpu *sc, const struct bt_site *site)
{
    struct vmci_bt *bt = &sc->bt;
    struct vmci_cpu *cpu = &sc->cpu;
    const struct bt_trans *from = site->t;
    const struct vmci_insn *in = site->insn;
    uint64_t page = from->blk->gpa & PAGE_MASK;

    cpu->rip = bt_cut(&from->ctx, bt_site_la(site) + in->next - in->len);
    cpu->retired = bt_retired(bt) - site->counted + site->before + (uint64_t)(in - site->blk->insn);
    bt_set_retired(bt, cpu->retired);
    bt->alone = (uint8_t)VMCI_MIN(from->alone + 1u, BT_ALONE);
    struct bt_trans *t = next_translation(sc);
    bt->alone = 0;
    if (t == NULL)
        return BT_LEAVE_LOOKUP + 1;
    if ((t->blk->gpa & PAGE_MASK) == page && t->blk->gpa2 == GPA_NONE && t->mode == from->mode &&
        !from->dead) {
        bt_link_alone(site, t);
        bt->st_links++;
    }
    resume_at(sc, t);
    return 0;
}

/* Execute the rest of the block, of which instruction in is done. */
static int interpret_rest(struct vmci_soft_cpu *sc, const struct vmci_insn *in)
{
    struct vmci_cpu *cpu = &sc->cpu;
    int rc = 0;

    while (rc == 0 && ++in < cpu->blk_end) {
        cpu->cur = in;
        rc = in->exec(cpu, in);
    }
    return rc;
}

/* May translated code go on behind the instruction that was interpreted? */
static bool may_resume(struct vmci_soft_cpu *sc, const struct bt_trans *t)
{
    /* STAC and CLAC choose another TLB in the middle of a block. */
    return vmci_load_relaxed(&sc->cpu.request) == 0 && !bt_spent(&sc->bt) &&
           sc->cpu.tlb_mode == t->mode && !t->dead && bt_ctx_fits(sc, &t->ctx) &&
           bt_fp_usable(sc, t);
}

/*
 * The instruction ends its block. Is there nothing to look at behind it, and is the trace still
 * mapped where it was?
 */
static bool end_passes(struct vmci_soft_cpu *sc, const struct bt_site *site)
{
    return soft_passes(sc) &&
           soft_valid(sc, site->blk, bt_key_la(bt_key(&site->t->ctx, bt_site_la(site))));
}

/* The state as the interpreter has it while it executes the instruction. */
static void at_insn(struct vmci_soft_cpu *sc, const struct bt_site *site)
{
    struct vmci_cpu *cpu = &sc->cpu;
    struct block *b = site->blk;

    cpu->cur = site->insn;
    cpu->rip = bt_site_la(site);
    cpu->gpr[VMCI_REG_IP] = cpu->rip;
    cpu->gpr[VMCI_REG_ZERO] = 0;
    cpu->blk = b->insn;
    cpu->blk_end = b->insn + b->n;
    cpu->retired = bt_retired(&sc->bt) - site->counted + site->before;
}

/*
 * A comparison was interpreted. May translated code execute it, too, and so get at the operand? It
 * changes nothing but flags, which are as before then; it must not come here again for the same.
 */
static bool may_retry(struct vmci_soft_cpu *sc, const struct bt_site *site)
{
    struct vmci_bt *bt = &sc->bt;
    struct vmci_cpu *cpu = &sc->cpu;
    const struct vmci_insn *in = site->insn;
    unsigned bytes = in->opnd[in->opnd[0].kind == VMCI_OPND_MEM ? 0 : 1].size;
    uint64_t at = bt_left(bt);
    uint64_t la;

    if ((bt->retried == site && bt->retried_at == at) || insn_la(cpu, in, bytes, false, &la) != 0)
        return false;
    bt->retried = site;
    bt->retried_at = at;
    return vmci_tlb_hit(cpu->tlb[site->t->mode].rd[vmci_tlb_index(la)], la, bytes);
}

/* A return of a trace that went through the call was interpreted: if it led elsewhere, and often
   does, traces end in front of it. */
static void see_return(struct vmci_soft_cpu *sc, struct bt_site *site)
{
    if (sc->cpu.rip == site->t->la + site->back || ++site->astray < RETURNS_ASTRAY)
        return;
    site->blk->astray = true;
    bt_kill(sc, site->blk);
}

/* Interpret the instruction of bt.site. */
uint64_t bt_c_insn(struct vmci_soft_cpu *sc)
{
    struct vmci_bt *bt = &sc->bt;
    struct vmci_cpu *cpu = &sc->cpu;
    struct bt_site *site = (struct bt_site *)(uintptr_t)bt->site;
    const struct bt_trans *t = site->t;
    const struct vmci_insn *in = site->insn;

    bt->st_calls++;
    bt->st_op[in->op]++;
    at_insn(sc, site);
    if (site->group != 0 && site->fails == GROUP_FAILS && !site->shares) {
        site->fails++;
        return go_alone(sc, site);
    }
    uint64_t group_la =
        cpu->gpr[site->reg] + (cpu->gpr[site->index] << site->scale) + (uint64_t)(int64_t)site->lo;
    flags_in(sc);
    if (unlikely(bt->x87_mark != 0))
        bt_x87_settle(sc);
    uint64_t leaf = (uint32_t)cpu->gpr[VMC_RAX] | cpu->gpr[VMC_RCX] << 32;
    int rc = in->exec(cpu, in);
    if ((in->flags & VMCI_IF_END) != 0 && rc == 0)
        bt_sys_done(sc, in, leaf);
    if (in->op == VMCI_OP_IRET && rc == 0 && t->mode == VMCI_TLB_SUP && in->opsize == 8)
        bt_iret_done(sc);
    if (in->op == VMCI_OP_LGDT)
        bt_iret_forget(bt);
    if (in->op == VMCI_OP_FP_X87 && (in->flags & VMCI_IF_MEM) != 0)
        bt->x87_seg = in->seg; /* the trace counts on it behind the instruction */
    bool logged = t->groups && vmci_load_relaxed(&cpu->mem->dirty_clients) != 0;
    bool hits = rc != 0 || site->group == 0 || (!site->shares && group_hits(sc, site, group_la));
    if (!hits && !logged)
        site->fails++;
    if (rc == 0 && (in + 1 < cpu->blk_end || (site->goes_on && end_passes(sc, site))) &&
        may_resume(sc, t)) {
        if (hits && !logged && !site->stop && (!site->retry || may_retry(sc, site))) {
            bt_see_segments(sc);
            if (!site->retry)
                flags_out(sc);
            bt->resume = (uintptr_t)site->resume;
            return 0;
        }
        if (logged && !site->stop)
            rc = interpret_rest(sc, in);
    }
    if (rc == 0 && site->returns)
        see_return(sc, site);
    if (rc == 0 && site->shares && site->fails >= SHARE_FAILS && !t->dead) {
        t->blk->apart = true;
        bt->st_apart++;
        bt_kill(sc, t->blk);
    }
    return settle(sc, site, rc);
}

/*
 * IN or OUT at CPL 0: to the device without the detour by executor and log. What
 * the log has, what nobody claims and virtual time, which counts instructions, are for bt_c_insn.
 */
uint64_t bt_c_io(struct vmci_soft_cpu *sc)
{
    struct vmci_bt *bt = &sc->bt;
    struct vmci_cpu *cpu = &sc->cpu;
    const struct vmc_engine_io *io = cpu->io;
    const struct bt_site *site = bt->site;
    const struct vmci_insn *in = site->insn;
    bool write = in->op == VMCI_OP_OUT;
    const struct vmci_opnd *p = &in->opnd[write ? 0 : 1];
    uint64_t bits = in->opsize >= 4 ? UINT32_MAX : in->opsize == 2 ? UINT16_MAX : UINT8_MAX;
    uint16_t port = p->kind == VMCI_OPND_IMM ? (uint8_t)in->imm : (uint16_t)cpu->gpr[VMC_RDX];
    uint32_t v = write ? (uint32_t)(cpu->gpr[VMC_RAX] & bits) : 0;

    if (unlikely(io == NULL || io->pio == NULL || sc->log.pos != sc->log.n ||
                 cpu->tsc_source == VMCI_TSC_VIRTUAL))
        return bt_c_insn(sc);
    bool live = cpu->fp->live;
    flags_in(sc);
    cpu->rip = bt_cut(&site->t->ctx, bt_site_la(site) + in->next - in->len);
    vmci_fp_park(cpu);
    soft_mem_leave(sc);
    int rc = io->pio(io->ctx, write, port, in->opsize, &v);
    soft_mem_enter(sc);
    if (unlikely(rc != VMC_IO_DONE))
        return bt_c_insn(sc); /* asks again, and leaves */
    bt->st_calls++;
    bt->st_op[in->op]++;
    sc->stat[STAT_PIO]++;
    if (!write)
        cpu->gpr[VMC_RAX] = (in->opsize >= 4 ? 0 : cpu->gpr[VMC_RAX] & ~bits) | (v & bits);
    if (live)
        (void)bt_fp_usable(sc, site->t);
    if (likely(vmci_load_relaxed(&cpu->request) == 0)) {
        bt->resume = (uintptr_t)site->resume;
        return 0;
    }
    at_insn(sc, site);
    return settle(sc, site, 0);
}

/*
 * REP MOVS or REP STOS that does not end in the page where it begins, or a TLB miss of one: what
 * the TLB has is done at once, without the detour by executor and boundary. Nothing else can have
 * changed then.
 */
uint64_t bt_c_string(struct vmci_soft_cpu *sc)
{
    struct vmci_bt *bt = &sc->bt;
    const struct bt_site *site = bt->site;

    if (unlikely(site->stop || vmci_load_relaxed(&sc->cpu.request) != 0 ||
                 !vmci_string_whole(&sc->cpu, site->insn)))
        return bt_c_insn(sc); /* goes on where it stands */
    bt->st_calls++;
    bt->st_op[site->insn->op]++;
    bt->resume = (uintptr_t)site->resume;
    return 0;
}

uint64_t bt_c_fp(struct vmci_soft_cpu *sc)
{
    struct vmci_bt *bt = &sc->bt;
    const struct bt_trans *t = bt->site;

    if (bt_fp_usable(sc, t)) {
        bt->resume = (uintptr_t)t->canon;
        return 0;
    }
    sc->cpu.rip = t->la;
    return BT_LEAVE_FP + 1;
}

/* A jump to a known address was taken for the first time. */
uint64_t bt_c_link(struct vmci_soft_cpu *sc)
{
    struct vmci_bt *bt = &sc->bt;
    struct bt_link *l = (struct bt_link *)(uintptr_t)bt->site;
    const struct block *from = l->from->blk;
    uint64_t page = from->gpa & PAGE_MASK;

    sc->cpu.rip = bt_link_la(l);
    sc->cpu.retired = bt_retired(bt);
    if (l->site != NULL)
        bt->hint = l->set;
    struct bt_trans *t = next_translation(sc);
    bt->hint = BT_CANON;
    if (t == NULL)
        return BT_LEAVE_LOOKUP + 1;
    if (l->site == NULL) {
        bt_jumps_enter(sc, t);
    } else if (l->blk != NULL && !t->blk->global && !l->from->dead) {
        l->blk->by_table = true;
        bt_kill(sc, l->from->blk);
        if (t->dead)
            return BT_LEAVE_LOOKUP + 1;
    } else if ((l->blk != NULL || (t->blk->gpa & PAGE_MASK) == page) && t->blk->gpa2 == GPA_NONE &&
               t->mode == l->from->mode && t->ctx.id == l->from->ctx.id && !l->from->dead) {
        if (l->blk != NULL)
            bt_link_far(bt, l, t);
        else
            bt_link_to(l, t);
        bt->st_links++;
    }
    resume_at(sc, t);
    return 0;
}

/* Control has come to cpu->rip, which is not among the jump targets. */
uint64_t bt_c_find(struct vmci_soft_cpu *sc)
{
    sc->cpu.retired = bt_retired(&sc->bt);
    struct bt_trans *t = next_translation(sc);
    if (t == NULL)
        return BT_LEAVE_LOOKUP + 1;
    sc->cpu.rflags &= ~VMC_FLAG_RF; /* IRET's: nothing is looked at before the next instruction */
    bt_jumps_enter(sc, t);
    resume_at(sc, t);
    return 0;
}

/*
 * Mostly it is the part from which most is taken that is used up, and only the translations that
 * count there are seen (bt_sample). So every few slices another one gets little.
 */
static void new_slice(struct vmci_soft_cpu *sc, uint64_t limit)
{
    struct vmci_bt *bt = &sc->bt;
    int64_t part = (int64_t)VMCI_MIN(limit / BT_BUDGETS, (uint64_t)BT_PART);
    uint64_t n = bt->runs++;

    for (unsigned k = 0; k < BT_BUDGETS; k++)
        bt->budget[k] = VMCI_MAX(part, 1);
    if (n % SAMPLE_RUNS == 0)
        bt->budget[n / SAMPLE_RUNS % BT_BUDGETS] = VMCI_MAX(part / SAMPLE_PART, 1);
    bt->slice_end = sc->cpu.retired + bt_left(bt);
    bt->refills = limit < BT_SLICE + BT_REFILLS * BT_PART ? 0 : BT_REFILLS;
}

/* Is what the table of jump targets has for cpu->rip, in the trace that t is of? */
static bool found_in_table(struct vmci_soft_cpu *sc, const struct bt_trans *t)
{
    struct vmci_bt *bt = &sc->bt;
    uint64_t key = bt_key(&t->ctx, sc->cpu.rip);

    if (bt->jump_mask == 0 || t->mode >= BT_JUMP_MODES)
        return false;
    const struct bt_jump *e = &bt->jumps[t->mode][bt_jump_index(key)];
    if (e->neg != 0 - key)
        return false;
    bt->resume = (uintptr_t)e->host;
    return true;
}

/*
 * A part of the budget is used up in front of the instruction at cpu->rip. Unless the loop has
 * anything to do there is another slice at once.
 */
uint64_t bt_c_budget(struct vmci_soft_cpu *sc)
{
    struct vmci_bt *bt = &sc->bt;
    struct vmci_cpu *cpu = &sc->cpu;
    const struct bt_trans *spent = bt->spent;

    cpu->retired = bt_retired(bt);
    bt_x87_settle(sc);
    if (spent != NULL)
        bt_sample(sc);
    bt->spent = NULL;
    if (vmci_load_relaxed(&cpu->request) != 0 || bt->watch != 0 || sc->insn_stop < cpu->retired ||
        sc->insn_stop - cpu->retired < BT_SLICE + BT_MARGIN)
        return BT_LEAVE_BUDGET + 1;
    bt->st_slices++;
    new_slice(sc, sc->insn_stop - cpu->retired - BT_MARGIN);
    if (spent != NULL && found_in_table(sc, spent))
        return 0;
    struct bt_trans *t = next_translation(sc);
    if (t == NULL)
        return BT_LEAVE_LOOKUP + 1;
    bt_jumps_enter(sc, t);
    resume_at(sc, t);
    return 0;
}

/* ---- translations ---------------------------------------------------------------------------- */

/* The translation of b for now, which becomes the first of the list; NULL. */
static struct bt_trans *variant(struct vmci_soft_cpu *sc, struct block *b, unsigned *others)
{
    uint64_t key = bt_block_key(&sc->bt.ctx, b);

    *others = 0;
    for (struct bt_trans **p = &b->bt; *p != NULL; p = &(*p)->next) {
        struct bt_trans *t = *p;
        if (t->key == key && t->mode == sc->cpu.tlb_mode && t->alone == sc->bt.alone) {
            *p = t->next;
            t->next = b->bt;
            b->bt = t;
            return t;
        }
        ++*others;
    }
    return NULL;
}

struct bt_trans *bt_get(struct vmci_soft_cpu *sc, struct block *b)
{
    struct vmci_bt *bt = &sc->bt;
    unsigned others;

    if (!bt->enabled || b->never || b->dead || b->bits != sc->cpu.code_bits || b->seq != 0 ||
        b->clipped || sc->cpu.tlb_mode >= TLB_FILLED || sc->cpu.cpl == 1 || sc->cpu.cpl == 2)
        return NULL;
    if (!bt_see_ctx(sc) || !bt_block_fits(&bt->ctx, b))
        return NULL;
    struct bt_trans *t = variant(sc, b, &others);
    if (t == NULL && sc->cpu.tlb_mode == VMCI_TLB_USER && bt->ctx.bits == 64) {
        bt_come(sc, b);
        t = variant(sc, b, &others);
    }
    if (t != NULL)
        return t;
    if (b->heat < bt_hot(sc) && bt->alone == 0) {
        b->heat++;
        return NULL;
    }
    if (others >= VARIANTS_MAX)
        bt_kill(sc, b);
    t = bt_translate(sc, b);
    if (t == NULL && !bt_has_room(bt))
        bt->full = true; /* the engine makes room at its next look */
    if (bt->full)
        (void)vmci_fetch_or(&sc->cpu.request, VMCI_REQ_TRAP);
    return t;
}

int bt_run(struct vmci_soft_cpu *sc, struct block *b, uint64_t limit)
{
    struct vmci_bt *bt = &sc->bt;
    struct vmci_cpu *cpu = &sc->cpu;
    uint64_t (*enter)(struct vmci_soft_cpu *, const uint8_t *);
    struct bt_trans *t = b->bt;

    new_slice(sc, limit);
    bt_sys_see(sc);
    bt->fp_ready = cpu->fp->live ? bt_fp_ready(sc) : 0;
    (void)bt_fp_usable(sc, t);
    bt_jumps_bits(sc);
    bt_see_segments(sc);
    if (bt->jump_mask == 0)
        bt_jumps_open(sc);
    flags_out(sc);
    bt->spent = NULL;
    enter = (uint64_t(*)(struct vmci_soft_cpu *, const uint8_t *))(uintptr_t)bt->enter;
    int why = (int)enter(sc, t->canon);
    flags_in(sc);
    bt_x87_settle(sc);
    cpu->gpr[VMCI_REG_ZERO] = 0;
    cpu->retired = bt_retired(bt);
    if (why == BT_LEAVE_LOOKUP)
        bt->st_lookups++;
    else if (why == BT_LEAVE_BUDGET)
        bt->st_slices++;
    return why;
}

/* ---- set-up ---------------------------------------------------------------------------------- */

/* RDGSBASE and WRGSBASE, usable from where we run (a hosted kernel may keep them off, but then it
   also hides the bit); and BMI2 for PEXT. */
static bool host_can(void)
{
    unsigned a, b, c, d;

    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return false;
    return (b & 1u) != 0 && (b & 1u << 8) != 0;
}

/* Features of the interpreter's own whose instructions the host does not have. */
static uint64_t host_lacks(void)
{
    static const struct {
        uint8_t reg, bit, feat; /* reg: 0: leaf 1 ECX, 1: leaf 7 EBX, 2: leaf 80000001 ECX */
    } t[] = {
        {0, 20, VMCI_FEAT_SSE42}, {0, 22, VMCI_FEAT_MOVBE}, {0, 23, VMCI_FEAT_POPCNT},
        {1, 3, VMCI_FEAT_BMI1},   {1, 8, VMCI_FEAT_BMI2},   {1, 19, VMCI_FEAT_ADX},
        {2, 5, VMCI_FEAT_LZCNT},  {0, 13, VMCI_FEAT_CX16},
    };
    unsigned a, b, c, d;
    unsigned r[3] = {0};
    uint64_t lacks = 0;

    if (__get_cpuid(1, &a, &b, &c, &d))
        r[0] = c;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d))
        r[1] = b;
    if (__get_cpuid(0x80000001u, &a, &b, &c, &d))
        r[2] = c;
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(t); i++)
        if ((r[t[i].reg] >> t[i].bit & 1) == 0)
            lacks |= VMCI_BIT(t[i].feat);
    return lacks;
}

int bt_init(struct vmci_soft_cpu *sc)
{
    const struct vmc_platform *pf = sc->cpu.pf;
    struct vmci_bt *bt = &sc->bt;
    void *rw = NULL;
    const void *rx = NULL;

    if (!vmci_pf_has(pf, exec) || !host_can() || VMCI_FP_EAGER)
        return VMC_ENOTSUP;
    bt->lacks = host_lacks();
    bt->work = vmci_zalloc(pf, sizeof(*bt->work));
    bt->code_bytes = sc->cpu.vm->bt_bytes;
    bt->segment_bytes = VMCI_MIN(bt->code_bytes / BT_SEGMENTS, (size_t)BT_SEGMENT);
    bt->segments_max = (unsigned)(bt->code_bytes / bt->segment_bytes);
    bt->segments = (unsigned)(VMCI_MIN(bt->code_bytes, (size_t)BT_CODE_FIRST) / bt->segment_bytes);
    bt->arena = vmci_alloc_aligned(pf, bt->code_bytes / 2, VMC_PAGE_SIZE);
    int rc = bt->work == NULL || bt->arena == NULL
                 ? VMC_ENOMEM
                 : pf->exec->reserve(pf->ctx, bt->code_bytes, &rw, &rx);
    if (rc == VMC_OK) {
        bt->rw = rw;
        bt->rx = rx;
        bt->tlb_mask = VMCI_TLB_MASK;
        bt->fp_lacks_of = UINT8_MAX; /* none was made */
        bt->page_mask[0] = PAGE_MASK;
        bt->page_mask[1] = PAGE_MASK | 15;
        bt->page_mask[2] = PAGE_MASK | 31;
        bt->sign_mask = 1ull << 63;
        bt->hint = BT_CANON;
        bt->only_df = VMC_FLAG_DF;
        bt_sys_init(sc);
        bt_jumps_init(sc);
        rc = bt_make_glue(sc);
        bt->x87_ea = BT_X87_NO_EA;
        bt_segment_begin(sc, 0);
    }
    bt->enabled = rc == VMC_OK;
    if (rc != VMC_OK)
        bt_fini(sc);
    return rc;
}

void bt_fini(struct vmci_soft_cpu *sc)
{
    const struct vmc_platform *pf = sc->cpu.pf;
    struct vmci_bt *bt = &sc->bt;

    bt->enabled = false;
    if (bt->rw != NULL)
        pf->exec->release(pf->ctx, bt->rw, bt->rx, bt->code_bytes);
    bt->rw = NULL;
    vmci_free_aligned(pf, bt->arena, bt->code_bytes / 2, VMC_PAGE_SIZE);
    bt->arena = NULL;
    vmci_free(pf, bt->work, sizeof(*bt->work));
    bt->work = NULL;
}
