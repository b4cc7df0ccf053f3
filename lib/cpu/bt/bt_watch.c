/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which way branches go in the long run. The first translation of a block follows what its first
 * few runs did, which may be what it never does again. The translations that use up the budget
 * are those in which time is spent, each in proportion. One that has done so often enough is given
 * up; for some hundred blocks the interpreter executes everything and counts what branches do, and
 * the next translation goes by that.
 */
#include "cpu/bt/bt_work.h"

/* How often C sees a translation use up its part of the budget until it is made again, one time in
   BT_REFILLS + 1; blocks that are interpreted for it; runs of a block that tell something. And
   where everything is translated at once, for tests. */
static const struct {
    uint8_t spent;
    uint16_t blocks, runs;
} limits[2] = {{16 / (BT_REFILLS + 1), BT_WAYS, 32}, {1, 80, 4}};

/* A branch back is taken as often each time if that was seen so often, and one of so many at most
   was unlike the one before, and the first. */
#define ROWS_LEAST  3u
#define ROWS_UNLIKE 16u

/* An indirect jump is judged by what it did behind the same blocks, so many at most, if that was
   seen so often. */
#define WAY_MAX  48u
#define WAY_RUNS 4u

static unsigned row(const struct vmci_soft_cpu *sc)
{
    return sc->cpu.vm->bt_hot == 0;
}

bool bt_branch_known(const struct vmci_soft_cpu *sc, const struct block *b)
{
    return b->runs >= limits[row(sc)].runs;
}

void bt_sample(struct vmci_soft_cpu *sc)
{
    struct vmci_bt *bt = &sc->bt;
    struct bt_trans *t = (struct bt_trans *)(uintptr_t)bt->spent;
    struct block *b = t->blk;

    if (t->dead || t->alone || b->watched || ++t->spent < limits[row(sc)].spent)
        return;
    b->watched = true;
    bt->st_watched++;
    bt_kill(sc, b);
    if (!bt_branch_known(sc, b)) {
        bt->watch = limits[row(sc)].blocks;
        bt->ways = 0;
    }
}

void bt_watched(struct vmci_soft_cpu *sc, struct block *b)
{
    const struct vmci_insn *last = &b->insn[b->n - 1];

    sc->bt.watch--;
    if (sc->bt.ways < BT_WAYS)
        sc->bt.way[sc->bt.ways++] = b->gpa;
    if (b->heat < bt_hot(sc))
        b->heat++;
    if (b->runs == UINT16_MAX) {
        b->runs /= 2;
        b->taken /= 2;
        b->unlike /= 2;
    }
    b->runs++;
    /* What is seen so often has its share of the time: its own translations are made again, too. */
    if (b->runs == limits[row(sc)].runs && !b->watched && !b->dead && b->bt != NULL) {
        b->watched = true;
        sc->bt.st_watched++;
        bt_kill(sc, b);
    } else if (sc->cpu.cpl == 3 && b->runs >= BT_UNANIMOUS && (b->runs & (b->runs - 1)) == 0 &&
               !b->watched && !b->dead && b->bt != NULL) {
        bt_kill(sc, b);
    }
    if (last->op != VMCI_OP_JCC)
        return;
    if (soft_code_la(&sc->cpu) != b->la + last->next) {
        b->taken++;
        b->row = (uint8_t)VMCI_MIN(b->row + 1u, UINT8_MAX);
        return;
    }
    b->unlike += b->row != b->rows;
    b->rows = b->row;
    b->row = 0;
}

unsigned bt_branch_row(const struct block *b)
{
    unsigned falls = (unsigned)(b->runs - b->taken);

    return falls >= ROWS_LEAST && b->unlike <= falls / ROWS_UNLIKE + 1u ? b->rows : 0;
}

/* How many of the blocks, the last ones of n, were run one after the other until i. */
static unsigned matches(const struct vmci_bt *bt, unsigned i, const uint64_t *gpa, unsigned n)
{
    unsigned m = 0;

    while (m < n && m <= i && bt->way[i - m] == gpa[n - 1 - m])
        m++;
    return m;
}

/* Behind so many blocks at least, as the last ones, it was seen often enough: the most there are.
 */
static unsigned way_length(const struct vmci_bt *bt, const uint64_t *gpa, unsigned n)
{
    uint16_t seen[WAY_MAX + 1] = {0};
    unsigned m = VMCI_MIN(n, WAY_MAX);

    for (unsigned i = 0; i + 1 < bt->ways; i++)
        seen[matches(bt, i, gpa + (n - m), m)]++;
    for (unsigned all = 0; m > 0; m--) {
        all += seen[m];
        if (all >= WAY_RUNS)
            break;
    }
    return m;
}

bool bt_branch_way(const struct vmci_soft_cpu *sc, const uint64_t *gpa, unsigned n, uint64_t *to,
                   unsigned *most, unsigned *all)
{
    const struct vmci_bt *bt = &sc->bt;
    unsigned length = way_length(bt, gpa, n);
    unsigned votes = 0;

    *most = *all = 0;
    if (length == 0)
        return false;
    gpa += n - length;
    /* The candidate that a majority would be, and how many there are. */
    for (unsigned i = 0; i + 1 < bt->ways; i++) {
        if (matches(bt, i, gpa, length) < length)
            continue;
        if (votes == 0)
            *to = bt->way[i + 1];
        votes += bt->way[i + 1] == *to ? 1 : -1u;
    }
    for (unsigned i = 0; i + 1 < bt->ways; i++) {
        if (matches(bt, i, gpa, length) < length)
            continue;
        ++*all;
        *most += bt->way[i + 1] == *to;
    }
    return ((*to ^ gpa[0]) & PAGE_MASK) == 0;
}
