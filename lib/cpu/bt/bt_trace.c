/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Traces: a translation begins with a block and follows the path that is taken most from there,
 * through jumps, calls and conditional branches, as long as it stays in the page and meets no block
 * twice. Which way a branch goes mostly is told by how often the interpreter has run what lies
 * behind it.
 */
#include "cpu/bt/bt_work.h"

/* Blocks of a trace. */
#define TRACE_BLOCKS 12
/* A loop that is left after fewer rounds, mostly, is translated once only. */
#define ROUNDS_FEW 4u

struct tracer {
    struct bt_work *w;
    const struct block *seen[TRACE_BLOCKS];
    unsigned blocks;
    unsigned fp;
};

static bool seen(const struct tracer *t, uint64_t gpa)
{
    for (unsigned k = 0; k < t->blocks; k++)
        if (t->seen[k]->gpa == gpa)
            return true;
    return false;
}

/* The block at la, if it can become part of the trace. */
static struct block *candidate(struct tracer *t, uint64_t la)
{
    struct bt_work *w = t->w;
    const struct block *head = t->seen[0];

    if (((la ^ head->la) & PAGE_MASK) != 0)
        return NULL;
    uint64_t gpa = (head->gpa & PAGE_MASK) | (la & ~PAGE_MASK);
    if (seen(t, gpa))
        return NULL;
    struct block *b = block_ahead(w->sc, la, gpa, w->sc->cpu.vm->bt_hot == 0);
    if (b == NULL || b->n + w->n > BLK_MAX_INSNS || (bt_block_fp(w, b) & ~t->fp) != 0)
        return NULL;
    return b;
}

static unsigned heat(const struct block *b)
{
    return b == NULL ? 0 : b->heat + 1u;
}

/* Where to go on behind b, and how; NULL: the trace ends. */
static struct block *next_block(struct tracer *t, const struct block *b, uint64_t la,
                                enum bt_follow *how)
{
    const struct vmci_insn *last = &b->insn[b->n - 1];
    uint64_t next = bt_wrap(t->w, la + last->next);
    uint64_t target = bt_wrap(t->w, next + (uint64_t)last->imm);
    unsigned hot = t->w->sc->cpu.vm->bt_hot;

    *how = BT_FOLLOW_NEXT;
    if ((last->flags & VMCI_IF_END) != 0 && !bt_sys_goes_on(last))
        return NULL;
    if ((last->flags & VMCI_IF_BRANCH) == 0)
        return candidate(t, next);
    if (last->nopnd == 0 || last->opnd[0].kind != VMCI_OPND_REL || last->opsize < t->w->word)
        return NULL;
    switch (last->op) {
    case VMCI_OP_JMP:
        *how = BT_FOLLOW_TAKEN;
        return candidate(t, target);
    case VMCI_OP_CALL:
        *how = BT_FOLLOW_TAKEN;
        return last->opsize == t->w->word ? candidate(t, target) : NULL;
    case VMCI_OP_JCC:
        break;
    default:
        return NULL;
    }
    struct block *fall = candidate(t, next);
    if (target == t->seen[0]->la) { /* a loop is closed here */
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

static void add(struct tracer *t, struct block *b, uint64_t la)
{
    struct bt_work *w = t->w;
    unsigned before = w->n;

    for (unsigned i = 0; i < b->n; i++)
        w->step[w->n++] =
            (struct bt_step){.in = &b->insn[i], .b = b, .la = la, .before = (uint16_t)before};
    t->seen[t->blocks++] = b;
}

bool bt_trace(struct bt_work *w, struct block *b)
{
    w->word = b->bits / 8;
    struct tracer t = {.w = w, .fp = bt_block_fp(w, b)};
    uint64_t flushes = w->sc->bt.st_flushes;
    uint64_t la = b->la;
    enum bt_follow how;

    w->n = 0;
    w->few_rounds = false;
    add(&t, b, la);
    w->fp = t.fp;
    while (b->gpa2 == GPA_NONE && t.blocks < TRACE_BLOCKS) {
        struct block *next = next_block(&t, b, la, &how);
        if (w->sc->bt.st_flushes != flushes)
            return false; /* decoding ahead has emptied the cache: b is gone */
        if (next == NULL)
            break;
        w->step[w->n - 1].follow = (uint8_t)how;
        la = (la & PAGE_MASK) | (next->gpa & ~PAGE_MASK);
        b = next;
        add(&t, b, la);
    }
    return true;
}
