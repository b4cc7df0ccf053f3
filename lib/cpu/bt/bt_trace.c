/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Traces: a translation begins with a block and follows the path that is taken most from there,
 * through jumps, calls and conditional branches, as long as it stays in the page and meets no block
 * twice. Which way a branch goes mostly is told by how often the interpreter has run what lies
 * behind it.
 */
#include "cpu/bt/bt_work.h"

/* Blocks of a trace, and of one that goes around loops in it. */
#define TRACE_BLOCKS  12u
#define AROUND_BLOCKS 40u
/* ... and of one that goes on behind indirect jumps, and its instructions. */
#define WAYS_BLOCKS 64u
#define WAYS_INSNS  240u
/* A loop that is left after fewer rounds, mostly, is translated once only. */
#define ROUNDS_FEW 4u

/* A trace ends where control comes more seldom than this. */
#define CHANCE_ALL   1024u
#define CHANCE_LEAST (CHANCE_ALL / 8)

/* A loop that was watched and has fewer rounds has so many of them in its trace, in so many
   instructions, and no second copy. */
#define UNROLL_ROUNDS 12u
#define UNROLL_MAX    4u
#define UNROLL_INSNS  40u

/* A loop in a trace that has as many rounds each time, so many at most, is unrolled wholly, in so
   many instructions. */
#define INNER_ROUNDS 8u
#define INNER_INSNS  64u

/* A trace goes around a loop in it that has so many rounds at most on average: they share checks.
 */
#define AROUND_ROUNDS 5u

struct tracer {
    struct bt_work *w;
    const struct block *seen[WAYS_BLOCKS];
    uint64_t gpa[WAYS_BLOCKS];   /* where they are, */
    unsigned begin[WAYS_BLOCKS]; /* ... their first instructions */
    bool may_go_around;          /* blocks may be in it more than once, */
    bool around;                 /* ... and it has come to such a loop, */
    bool ways;                   /* ... or to an indirect jump */
    unsigned room;               /* instructions of the trace, at most */
    unsigned blocks;
    unsigned fp;
    unsigned chance; /* that control gets this far, as a part of CHANCE_ALL */
    bool watched;    /* ... is known of each branch */
    unsigned calls;  /* that the trace is in: where they return to */
    uint64_t back[WAYS_BLOCKS];
};

static bool seen(const struct tracer *t, uint64_t gpa)
{
    for (unsigned k = 0; k < t->blocks; k++)
        if (t->seen[k]->gpa == gpa)
            return true;
    return false;
}

/* Is b, at la, a loop by itself that has as many rounds each time? All of them may be in the trace
   more than once. */
static bool loops(const struct tracer *t, const struct block *b, uint64_t la)
{
    const struct vmci_insn *last = &b->insn[b->n - 1];
    unsigned more = bt_branch_row(b);

    return t->watched && t->w->word == 8 && last->op == VMCI_OP_JCC &&
           bt_branch_known(t->w->sc, b) &&
           bt_target(t->w, last, bt_wrap(t->w, la + last->next)) == la && more != 0 &&
           more < INNER_ROUNDS && t->w->n + b->n * (more + 1) <= t->room;
}

/* May b, at la, be in the trace once more? */
static bool again(const struct tracer *t, const struct block *b, uint64_t la)
{
    return ((t->around || t->ways) && la != t->w->step[0].la) || loops(t, b, la);
}

/* The block at la, if it can become part of the trace. */
static struct block *candidate(struct tracer *t, uint64_t la)
{
    struct bt_work *w = t->w;
    const struct block *head = t->seen[0];
    uint64_t at = bt_linear(w, la);

    if (((at ^ head->la) & PAGE_MASK) != 0 || !bt_in_limit(w, la))
        return NULL;
    uint64_t gpa = (head->gpa & PAGE_MASK) | (at & ~PAGE_MASK);
    struct block *b = block_ahead(w->sc, at, gpa, w->sc->cpu.vm->bt_hot == 0);
    if (b == NULL || (seen(t, gpa) && !again(t, b, la)) || b->n + w->n > t->room ||
        (bt_block_fp(w, b) & ~t->fp) != 0 || !bt_in_limit(w, la + b->bytes - 1))
        return NULL;
    return b;
}

static unsigned heat(const struct block *b)
{
    return b == NULL ? 0 : b->heat + 1u;
}

/*
 * The trace has come to the branch that ends b and leads back to a block of it. If that is a loop
 * with as many rounds each time, all of them become part of the trace.
 */
static bool unroll_inner(struct tracer *t, const struct block *b, uint64_t target)
{
    struct bt_work *w = t->w;
    unsigned more = bt_branch_row(b);
    unsigned k = t->blocks - 1;

    while (k > 0 && w->step[t->begin[k]].la != target)
        k--;
    if (w->step[t->begin[k]].la != target || more == 0 || more >= INNER_ROUNDS || w->word != 8 ||
        w->n == 0)
        return false;
    unsigned first = t->begin[k], n = w->n - first;
    if (n * more > INNER_INSNS || w->n + n * more > BT_TRACE_MAX)
        return false;
    for (unsigned r = 0; r < more; r++) {
        w->step[w->n - 1].follow = BT_FOLLOW_TAKEN;
        for (unsigned i = 0; i < n; i++) {
            w->step[w->n] = w->step[first + i];
            w->step[w->n++].before += (uint16_t)((r + 1) * n);
        }
    }
    w->step[w->n - 1].follow = BT_FOLLOW_NOT;
    t->room = BT_TRACE_MAX;
    /* A trace that begins within such a loop ends with it: the next one may go around an outer
       loop, and have all of this one in it. */
    w->few_rounds = k == 0;
    return true;
}

/* Has the trace been at la before, other than at its beginning? */
static bool was_at(const struct tracer *t, uint64_t la)
{
    for (unsigned i = 1; i < t->w->n; i++) {
        const struct bt_step *st = &t->w->step[i];
        if (st->la + st->in->next - st->in->len == la)
            return true;
    }
    return false;
}

static bool returns(const struct block *b)
{
    return b != NULL && b->insn[b->n - 1].op == VMCI_OP_RET;
}

/* A conditional branch that was watched. */
static struct block *watched_branch(struct tracer *t, const struct block *b, uint64_t la,
                                    struct block *fall, uint64_t target, enum bt_follow *how)
{
    unsigned falls = (unsigned)(b->runs - b->taken);
    bool taken = b->taken > falls;

    /* Where it goes either way as often: back to the caller, which is in the trace. */
    if (t->calls != 0 && (taken ? b->taken - falls : falls - b->taken) < b->runs / 4u) {
        bool there = returns(candidate(t, target));
        taken = there == returns(fall) ? taken : there;
    }
    t->chance = t->chance * (taken ? b->taken : falls) / b->runs;
    if (taken)
        *how = BT_FOLLOW_TAKEN;
    if (t->chance < CHANCE_LEAST)
        return NULL;
    if (taken && target <= la && t->watched && t->may_go_around && t->w->word == 8 &&
        was_at(t, target)) {
        bool few = b->taken < AROUND_ROUNDS * falls;
        if (t->around && !few)
            return NULL;
        t->around = few;
        t->room = few ? BT_TRACE_MAX : t->room;
    }
    return taken ? candidate(t, target) : fall;
}

/* A return: to where the last call of the trace pushed. */
static struct block *returned(struct tracer *t, const struct block *b, enum bt_follow *how)
{
    const struct vmci_insn *last = &b->insn[b->n - 1];

    if (t->calls == 0 || b->astray || t->w->word != 8 || last->opsize != 8 || last->nopnd != 0)
        return NULL;
    *how = BT_FOLLOW_BACK;
    return candidate(t, t->back[--t->calls]);
}

/* It has not run often while it was watched, but went the same way each time. */
static bool unanimous(const struct block *b)
{
    return b->runs >= BT_UNANIMOUS && (b->taken == 0 || b->taken == b->runs);
}

/*
 * An indirect jump: to where it led mostly when what is in the trace was run before it. That tells
 * much in programs that go by a table of what to do next.
 */
static struct block *jumped(struct tracer *t, const struct vmci_insn *last, enum bt_follow *how)
{
    struct bt_work *w = t->w;
    unsigned most, all;
    uint64_t to;

    if (!t->watched || !t->may_go_around || !t->seen[0]->watched || w->word != 8 ||
        last->opsize != 8 || last->nopnd != 1 ||
        !bt_branch_way(w->sc, t->gpa, t->blocks, &to, &most, &all) || 3 * most < 2 * all)
        return NULL;
    unsigned chance = t->chance * most / all;
    if (chance < CHANCE_LEAST)
        return NULL;
    bool before = t->ways;
    t->ways = true;
    t->room = VMCI_MAX(t->room, WAYS_INSNS);
    uint64_t at = (w->step[0].la & PAGE_MASK) | (to & ~PAGE_MASK);
    struct block *b = candidate(t, at);
    if (b == NULL) {
        t->ways = before;
        return NULL;
    }
    t->chance = chance;
    *how = BT_FOLLOW_TO;
    return b;
}

/* Where to go on behind b, and how; NULL: the trace ends. */
static struct block *next_block(struct tracer *t, const struct block *b, uint64_t la,
                                enum bt_follow *how)
{
    const struct vmci_insn *last = &b->insn[b->n - 1];
    uint64_t next = bt_wrap(t->w, la + last->next);
    uint64_t target = bt_target(t->w, last, next);
    unsigned hot = bt_hot(t->w->sc);

    *how = BT_FOLLOW_NEXT;
    if ((last->flags & VMCI_IF_END) != 0 && !bt_sys_goes_on(last))
        return NULL;
    if ((last->flags & VMCI_IF_BRANCH) == 0)
        return candidate(t, next);
    if (last->op == VMCI_OP_RET)
        return returned(t, b, how);
    if (last->op == VMCI_OP_JMP && last->opnd[0].kind != VMCI_OPND_REL)
        return jumped(t, last, how);
    if (last->nopnd == 0 || last->opnd[0].kind != VMCI_OPND_REL ||
        (last->opsize < t->w->word && !t->w->seg) || !bt_in_limit(t->w, target))
        return NULL;
    switch (last->op) {
    case VMCI_OP_JMP:
        *how = BT_FOLLOW_TAKEN;
        return t->around && was_at(t, target) ? NULL : candidate(t, target);
    case VMCI_OP_CALL:
        *how = BT_FOLLOW_TAKEN;
        if (t->around && was_at(t, target))
            return NULL;
        t->back[t->calls++] = next;
        return last->opsize == t->w->word || t->w->seg ? candidate(t, target) : NULL;
    case VMCI_OP_JCC:
        break;
    default:
        return NULL;
    }
    bool known = bt_branch_known(t->w->sc, b) || (t->w->sc->cpu.cpl == 3 && unanimous(b));
    if (known && t->watched && unroll_inner(t, b, target))
        return t->w->few_rounds ? NULL : candidate(t, next);
    struct block *fall = candidate(t, next);
    if (known)
        return watched_branch(t, b, la, fall, target, how);
    t->watched = false;
    if (target == t->w->step[0].la) { /* a loop is closed here */
        t->w->few_rounds = hot != 0 && ROUNDS_FEW * heat(fall) > hot;
        return NULL;
    }
    struct block *taken = candidate(t, target);
    if (heat(taken) > heat(fall)) {
        *how = BT_FOLLOW_TAKEN;
        fall = taken;
    }
    return heat(fall) > hot / 2 ? fall : NULL;
}

/* Has the block a translation that keeps a loop apart, or is it known to run around often? */
static bool is_loop(const struct tracer *t, const struct block *b, uint64_t la)
{
    const struct vmci_soft_cpu *sc = t->w->sc;

    if (bt_branch_known(sc, b))
        return b->taken >= UNROLL_ROUNDS * (unsigned)(b->runs - b->taken);
    for (const struct bt_trans *p = b->bt; p != NULL; p = p->next)
        if (p->loops && p->la == la && p->mode == sc->cpu.tlb_mode)
            return true;
    return false;
}

/*
 * Instructions of b, which begins at la, in front of a loop that begins in b and ends with it; all
 * of them if there is none. The loop has a translation of its own, which checks its accesses in
 * front of all rounds: the first one is not to be executed elsewhere.
 */
static unsigned before_loop(const struct tracer *t, const struct block *b, uint64_t la)
{
    const struct vmci_insn *last = &b->insn[b->n - 1];
    uint64_t target = bt_target(t->w, last, la + last->next);

    if (last->op != VMCI_OP_JCC || t->w->word != 8 || target <= la || target - la >= b->bytes)
        return b->n;
    for (unsigned i = 1; i < b->n; i++) {
        if (la + b->insn[i].next - b->insn[i].len != target)
            continue;
        const struct block *head = block_ahead(t->w->sc, target, b->gpa + (target - la), false);
        return head != NULL && is_loop(t, head, target) ? i : b->n;
    }
    return b->n;
}

/* false: the trace ends within b. */
static bool add(struct tracer *t, struct block *b, uint64_t la)
{
    struct bt_work *w = t->w;
    unsigned before = w->n;
    unsigned n = b->gpa2 == GPA_NONE ? before_loop(t, b, la) : b->n;

    for (unsigned i = 0; i < n; i++)
        w->step[w->n++] =
            (struct bt_step){.in = &b->insn[i], .b = b, .la = la, .before = (uint16_t)before};
    t->begin[t->blocks] = before;
    t->gpa[t->blocks] = b->gpa;
    t->seen[t->blocks++] = b;
    return n == b->n;
}

/* The trace ends behind b, from where control goes on as how says. Is that the way to where it
   began, and are there few rounds? */
static void unroll(struct tracer *t, const struct block *b, uint64_t la, enum bt_follow how)
{
    struct bt_work *w = t->w;
    const struct vmci_insn *last = &b->insn[b->n - 1];
    uint64_t to = la + last->next + (how == BT_FOLLOW_TAKEN ? (uint64_t)last->imm : 0);
    unsigned n = w->n;

    if (!t->watched || w->word != 8 || to != t->seen[0]->la || t->chance == CHANCE_ALL ||
        (last->op != VMCI_OP_JCC && last->op != VMCI_OP_JMP) || last->opnd[0].kind != VMCI_OPND_REL)
        return;
    unsigned rounds = CHANCE_ALL / (CHANCE_ALL - t->chance) + 1;
    if (rounds > UNROLL_ROUNDS)
        return;
    w->few_rounds = true;
    unsigned copies = VMCI_MIN(VMCI_MIN(rounds, UNROLL_MAX), UNROLL_INSNS / n);
    for (unsigned k = 1; k < copies; k++) {
        w->step[w->n - 1].follow = (uint8_t)how;
        for (unsigned i = 0; i < n; i++) {
            w->step[w->n] = w->step[i];
            w->step[w->n++].before += (uint16_t)(k * n);
        }
        w->step[w->n - 1].follow = BT_FOLLOW_NOT;
    }
}

static unsigned blocks_max(const struct tracer *t)
{
    return t->ways ? WAYS_BLOCKS : t->around ? AROUND_BLOCKS : TRACE_BLOCKS;
}

bool bt_trace(struct bt_work *w, struct block *b, bool around)
{
    w->bits = b->bits;
    w->word = b->bits == 64 ? 8 : 4;
    w->seg = w->sc->bt.ctx.id != 0;
    struct tracer t = {.w = w,
                       .fp = bt_block_fp(w, b),
                       .chance = CHANCE_ALL,
                       .watched = true,
                       .may_go_around = around,
                       .room = BLK_MAX_INSNS};
    uint64_t flushes = w->sc->bt.st_flushes;
    uint64_t la = bt_block_start(&w->sc->bt.ctx, b);
    enum bt_follow how;

    w->n = 0;
    w->few_rounds = false;
    bool whole = add(&t, b, la);
    w->fp = t.fp;
    while (whole && b->gpa2 == GPA_NONE && t.blocks < blocks_max(&t)) {
        struct block *next = next_block(&t, b, la, &how);
        if (w->sc->bt.st_flushes != flushes)
            return false; /* decoding ahead has emptied the cache: b is gone */
        if (next == NULL) {
            unroll(&t, b, la, how);
            break;
        }
        w->step[w->n - 1].follow = (uint8_t)how;
        la += (next->gpa & ~PAGE_MASK) - (bt_linear(w, la) & ~PAGE_MASK);
        la = bt_wrap(w, la);
        b = next;
        whole = add(&t, b, la);
    }
    w->around_inner = t.around;
    w->ways = t.ways;
    w->few_rounds = w->few_rounds || t.ways;
    return true;
}

unsigned bt_before_hotter(const struct bt_work *w, unsigned n)
{
    const struct block *head = w->step[0].b;

    for (unsigned i = 1; i < n && w->word == 8; i++) {
        const struct bt_step *st = &w->step[i];
        uint64_t off = st->in->next - st->in->len;
        if (off == 0 || st->b->gpa2 != GPA_NONE)
            continue; /* its first instruction */
        const struct block *b = block_ahead(w->sc, st->la + off, st->b->gpa + off, false);
        if (b != NULL && b->runs >= BT_UNANIMOUS && b->runs / 2 > head->runs)
            return i;
    }
    return n;
}
