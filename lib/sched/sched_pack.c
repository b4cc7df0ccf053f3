/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Packing: the amounts of one frame onto the CPUs.
 *
 * Without co-scheduling this is McNaughton's wrap-around rule ("Scheduling with Deadlines and Loss
 * Functions", Management Science 6, 1959): fill CPU after CPU, and where an item does not end with
 * the frame let it go on at the beginning of the next CPU; no item is longer than the frame, so it
 * never runs twice at once. Co-scheduled sets are laid first, their members side by side, and
 * single items fill the rest. Where a long single item would then have to run twice at once, the
 * sets are cut to make room for it; if that is not enough, the frame is packed without them.
 *
 * Odd frames are mirrored in time, so that what ends one frame begins the next: one switch less
 * per CPU and frame.
 */
#include "sched_priv.h"

enum attempt { TRY_SETS, TRY_SHORT_SETS, TRY_SINGLE, ATTEMPTS };

#define SLIVER 2000u /* ns: shorter pieces cost more to switch to than they give */
#define LOST   8u    /* an attempt fails that finds no place for more than this part of a frame */

struct pack {
    struct vmc_sched *s;
    struct sched_column *c;
    uint64_t frame;
    uint32_t ncol, buf;
    uint32_t frame_ns;
    uint32_t limit; /* sets end here */
    uint32_t open;  /* first column with room */
    uint32_t lost;  /* ns that found no place and stay in the lag of whom they were for */
    enum attempt attempt;
    bool mirrored; /* times run from the end of the frame */
};

/*
 * Take over the spare table of every CPU. One that still reads the old plan in it sees, when it has
 * copied its entry, that the frame is gone; every store into the table is a release, so that it
 * comes after that.
 */
static void open_tables(struct pack *p)
{
    struct vmc_sched *s = p->s;

    p->ncol = s->online;
    for (uint32_t i = 0; i < s->ncpus; i++)
        s->col_of[i] = NONE;
    for (uint32_t i = 0; i < p->ncol; i++) {
        uint32_t cpu = s->col_cpu[i];
        s->col_of[cpu] = i;
        p->c[i].tab = &s->cpu[cpu].tab[p->buf];
        vmci_store_relaxed(&p->c[i].tab->frame, FRAME_NONE);
    }
}

static void start_attempt(struct pack *p)
{
    struct vmc_sched *s = p->s;

    p->open = 0;
    p->lost = 0;
    for (uint32_t i = 0; i < p->ncol; i++) {
        p->c[i].level = s->base;
        p->c[i].first = p->c[i].end = p->mirrored ? TAB_ENTRIES : 0;
    }
    for (uint32_t i = 0; i < s->nitems && p->attempt != TRY_SETS; i++)
        s->vcpu[s->items[i].vcpu].npieces = 0;
}

/* Append len ns of a vCPU to a column. */
static bool place(struct pack *p, uint32_t col, uint32_t vm, uint32_t vcpu, uint32_t len)
{
    struct sched_column *c = &p->c[col];
    struct sched_vcpu *v = &p->s->vcpu[vcpu];
    uint32_t at = c->level;

    if (c->end - c->first == TAB_ENTRIES || v->npieces == PIECES)
        return false;
    uint32_t start = p->mirrored ? p->frame_ns - at - len : at;
    uint32_t k = p->mirrored ? --c->first : c->end++;
    vmci_store_release(&c->tab->e[k].when, start | (uint64_t)(start + len) << 32);
    vmci_store_release(&c->tab->e[k].who, vcpu | (uint64_t)vm << 32);
    v->piece[v->npieces++] = (struct piece){.start = start, .end = start + len};
    c->level = at + len;
    return true;
}

/* ---- sets ------------------------------------------------------------------------------------ */

/*
 * n adjacent columns with room below limit, from column "from", whose levels are nearly the same;
 * NONE if there are none.
 */
static uint32_t window(const struct pack *p, uint32_t from, uint32_t n)
{
    const struct sched_column *c = p->c;
    uint32_t near = p->frame_ns / UNEVEN;

    for (uint32_t col = from; col + n <= p->ncol; col++) {
        uint32_t i = 0;
        while (i < n && c[col + i].level + SLIVER <= p->limit &&
               c[col + i].level <= c[col].level + near && c[col + i].level + near >= c[col].level)
            i++;
        if (i == n)
            return col;
    }
    return NONE;
}

/* All columns of a window as full as the fullest: members start, and end, at the same time. */
static void make_even(struct pack *p, uint32_t col, uint32_t n)
{
    uint32_t most = 0;

    for (uint32_t i = 0; i < n; i++)
        most = VMCI_MAX(most, p->c[col + i].level);
    for (uint32_t i = 0; i < n; i++)
        p->c[col + i].level = most;
}

/* What of member i does not fit below the limit in its column of the window. */
static uint32_t beyond(const struct pack *p, const struct gang *g, uint32_t i, uint32_t window)
{
    uint32_t amount = p->s->items[g->first + i].amount;
    uint32_t room = p->limit - p->c[window + i].level;

    return amount > room + SLIVER ? amount - room : 0; /* a sliver less waits in the lag */
}

/* Has member i time in the second window, for what is beyond the first, before it begins there? */
static bool wraps(const struct pack *p, const struct gang *g, uint32_t i, uint32_t first,
                  uint32_t second)
{
    uint32_t rest = beyond(p, g, i, first);

    return rest == 0 || (second != NONE && p->c[second + i].level + rest <= p->c[first + i].level);
}

/* For those of its siblings that wait busily for it: when it first runs in this frame. */
static void note_due(const struct pack *p, const struct gang *g, uint32_t vcpu)
{
    struct sched_vcpu *v = &p->s->vcpu[vcpu];
    uint32_t start = p->frame_ns;

    for (uint32_t i = 0; i < v->npieces; i++)
        start = VMCI_MIN(start, v->piece[i].start);
    vmci_store_relaxed(&v->due[p->frame & 1], due_word(p->frame, g->first, start));
}

/*
 * Lay the members side by side, each as far as its column goes and the rest in the second window.
 * One for which a table is full keeps the time in its lag.
 */
static void place_set(struct pack *p, const struct gang *g, uint32_t first, uint32_t second)
{
    for (uint32_t i = 0; i < g->n; i++) {
        const struct item *it = &p->s->items[g->first + i];
        uint32_t rest = beyond(p, g, i, first);
        uint32_t len = VMCI_MIN(it->amount, p->limit - p->c[first + i].level);
        if (place(p, first + i, g->vm, it->vcpu, len) && rest >= SLIVER)
            (void)place(p, second + i, g->vm, it->vcpu, rest);
        note_due(p, g, it->vcpu);
    }
}

/* What the members of a set have together, in each of the columns: enough for the longest. */
static uint32_t height(const struct pack *p, const struct gang *g)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < g->n; i++)
        sum += p->s->items[g->first + i].amount;
    return (uint32_t)VMCI_MAX((sum + g->width - 1) / g->width, (uint64_t)g->len);
}

/*
 * More members than CPUs: they share a rectangle, in which McNaughton's rule lays them. What would
 * have to run twice at once, because the columns do not begin at the same level, stays in the lag.
 */
static bool lay_block(struct pack *p, const struct gang *g)
{
    uint32_t col = window(p, p->open, g->width);
    uint32_t high = height(p, g);
    uint32_t used = 0; /* of the column */

    for (uint32_t i = 0; i < g->width; i++)
        if (col == NONE || p->c[col + i].level + high > p->limit + SLIVER)
            return false;
    uint32_t last = col + g->width - 1;
    for (uint32_t i = 0; i < g->n; i++) {
        const struct item *it = &p->s->items[g->first + i];
        uint32_t start = p->c[col].level;
        uint32_t len = VMCI_MIN(VMCI_MIN(it->amount, high - used), p->limit - start);
        if (len >= SLIVER && !place(p, col, g->vm, it->vcpu, len))
            continue;
        used += len;
        uint32_t rest = it->amount - len;
        if (used + SLIVER > high && col < last) {
            used = 0;
            col++;
            rest = VMCI_MIN(rest, start > p->c[col].level ? start - p->c[col].level : 0);
            if (rest >= SLIVER && place(p, col, g->vm, it->vcpu, rest))
                used = rest;
        }
        note_due(p, g, it->vcpu);
    }
    return true;
}

/* True if the set was laid out side by side, whole. */
static bool lay_set(struct pack *p, const struct gang *g)
{
    if (g->width < g->n)
        return lay_block(p, g);
    uint32_t first = window(p, p->open, g->n);
    uint32_t second = NONE;
    bool whole = true;

    if (g->len > p->limit - p->s->base || first == NONE)
        return false;
    if (g->strict)
        make_even(p, first, g->n);
    for (uint32_t i = 0; i < g->n; i++)
        whole = whole && beyond(p, g, i, first) == 0;
    if (!whole) {
        second = window(p, first + g->n, g->n);
        if (second != NONE && g->strict)
            make_even(p, second, g->n);
        bool wrapped = true;
        bool later = second != NONE;
        for (uint32_t i = 0; i < g->n; i++) {
            wrapped = wrapped && wraps(p, g, i, first, second);
            later = later && beyond(p, g, i, second) == 0;
        }
        if (!wrapped && !later)
            return false;
        if (!wrapped)
            first = second;
    }
    place_set(p, g, first, second);
    if (g->strict) {
        make_even(p, first, g->n);
        if (second != NONE)
            make_even(p, second, g->n);
    }
    return true;
}

/* Wide sets first: they need room side by side. Returns how many there are. */
static uint32_t order_sets(struct pack *p)
{
    struct vmc_sched *s = p->s;
    uint32_t count[VMC_SCHED_MAX_WIDTH + 1] = {0};
    uint32_t total = 0;

    for (uint32_t i = 0; i < s->ngangs; i++)
        count[s->gangs[i].width]++;
    for (uint32_t w = VMC_SCHED_MAX_WIDTH; w >= 1; w--) {
        uint32_t n = count[w];
        count[w] = total;
        total += n;
    }
    uint32_t sets = count[1];
    for (uint32_t i = 0; i < s->ngangs; i++)
        s->gang_order[count[s->gangs[i].width]++] = i;
    return sets;
}

/* ---- single items ---------------------------------------------------------------------------- */

/*
 * Put the item wherever it fits in one or two parts that do not overlap, only in columns that the
 * mask allows; returns what is left, which stays in its lag.
 */
static uint32_t place_anywhere(struct pack *p, uint32_t vm, const struct item *it)
{
    uint32_t left = it->amount;
    uint32_t before = p->frame_ns; /* parts so far begin here or later */

    for (uint32_t round = 0; round < 2 && left >= SLIVER; round++) {
        uint32_t best = NONE;
        uint32_t most = 0;
        for (uint32_t col = 0; col < p->ncol; col++) {
            uint32_t level = p->c[col].level;
            if (level + SLIVER > before || !vm_allows(p->s, vm, p->s->col_cpu[col]))
                continue;
            uint32_t room = VMCI_MIN(before - level, left);
            if (room > most) {
                most = room;
                best = col;
            }
        }
        uint32_t at = best != NONE ? p->c[best].level : 0;
        if (best == NONE || !place(p, best, vm, it->vcpu, most))
            break;
        left -= most;
        before = at;
    }
    return left;
}

/* The first column from col on that has room, or ncol. */
static uint32_t open_column(const struct pack *p, uint32_t col)
{
    while (col < p->ncol && p->c[col].level + SLIVER > p->frame_ns)
        col++;
    return col;
}

/* McNaughton's rule from the first open column on; false: it would overlap itself. */
static bool place_wrapped(struct pack *p, uint32_t vm, const struct item *it)
{
    uint32_t len = it->amount;

    p->open = open_column(p, p->open);
    if (p->open == p->ncol)
        return true; /* only slivers are left: the lag keeps what is lost */
    uint32_t room = p->frame_ns - p->c[p->open].level;
    if (len <= room)
        return place(p, p->open, vm, it->vcpu, len);
    uint32_t next = open_column(p, p->open + 1);
    uint32_t first_at = p->c[p->open].level;
    uint32_t rest = len - room;
    if (rest >= SLIVER && next < p->ncol && p->c[next].level + rest > first_at)
        return false;
    if (!place(p, p->open, vm, it->vcpu, room))
        return false;
    p->open = next;
    if (rest < SLIVER || next == p->ncol)
        return true;
    return place(p, next, vm, it->vcpu, rest);
}

static uint32_t longest_single(const struct pack *p, uint32_t sets)
{
    const struct vmc_sched *s = p->s;
    uint32_t most = 0;

    for (uint32_t i = sets; i < s->ngangs; i++) {
        uint32_t len = s->gangs[s->gang_order[i]].len;
        if (len + SLIVER < p->frame_ns - s->base)
            most = VMCI_MAX(most, len);
    }
    return most;
}

static bool lay_single(struct pack *p, const struct gang *g)
{
    struct vmc_sched *s = p->s;

    for (uint32_t i = 0; i < g->n; i++) {
        const struct item *it = &s->items[g->first + i];
        if (place_wrapped(p, g->vm, it))
            continue;
        p->lost += place_anywhere(p, g->vm, it);
        if (p->attempt != TRY_SINGLE && p->lost > p->frame_ns / LOST)
            return false;
    }
    return true;
}

/* VMs tied to some CPUs take their place before those that can run anywhere. */
static void lay_restricted(struct pack *p)
{
    struct vmc_sched *s = p->s;

    if (s->nrestricted == 0)
        return;
    for (uint32_t i = 0; i < s->ngangs; i++) {
        const struct gang *g = &s->gangs[i];
        if (!g->restricted)
            continue;
        for (uint32_t k = 0; k < g->n; k++)
            (void)place_anywhere(p, g->vm, &s->items[g->first + k]);
    }
}

static bool column_free(const struct pack *p, uint32_t col)
{
    return col != NONE && p->c[col].level == p->s->base;
}

/* Has nobody a thread of the core that the column's CPU is one of? */
static bool core_free(const struct pack *p, uint32_t col)
{
    const struct vmc_sched *s = p->s;
    uint32_t cpu = s->col_cpu[col];

    for (uint32_t t = s->next_thread[cpu]; t != cpu; t = s->next_thread[t])
        if (s->col_of[t] != NONE && p->c[s->col_of[t]].level != s->base)
            return false;
    return column_free(p, col);
}

/* The first of the free columns of the same core: single items fill the columns in their order. */
static uint32_t first_thread(const struct pack *p, uint32_t col)
{
    const struct vmc_sched *s = p->s;
    uint32_t cpu = s->col_cpu[col];
    uint32_t first = col;

    for (uint32_t t = s->next_thread[cpu]; t != cpu; t = s->next_thread[t])
        if (s->col_of[t] < first && column_free(p, s->col_of[t]))
            first = s->col_of[t];
    return first;
}

/* Where columns are looked for: those before core, and from back on, have none. */
struct free_columns {
    uint32_t core, back;
};

/*
 * A column for a vCPU that has it for the whole frame: the one it has, but a core of its own if
 * there is one. NONE: there is no column.
 */
static uint32_t whole_column(struct pack *p, uint32_t cpu, struct free_columns *f)
{
    uint32_t col = p->s->col_of[cpu];

    if (column_free(p, col) && core_free(p, col))
        return first_thread(p, col);
    while (p->s->smt && f->core < p->ncol && !core_free(p, f->core))
        f->core++;
    if (p->s->smt && f->core < p->ncol)
        return f->core;
    if (column_free(p, col))
        return col;
    while (f->back > 0 && !column_free(p, f->back - 1))
        f->back--;
    return f->back == 0 ? NONE : f->back - 1;
}

/*
 * Who runs for the whole frame keeps a CPU, where possible the one it has: it has no slack to make
 * up for a migration.
 */
static void lay_whole_frames(struct pack *p)
{
    struct vmc_sched *s = p->s;
    struct free_columns f = {.core = 0, .back = p->ncol};

    for (uint32_t i = 0; i < s->ngangs; i++) {
        struct gang *g = &s->gangs[i];
        if (g->len + SLIVER < p->frame_ns - s->base || g->restricted || g->width < g->n)
            continue;
        for (uint32_t k = 0; k < g->n; k++) {
            const struct item *it = &s->items[g->first + k];
            uint32_t col = whole_column(p, vmci_load_relaxed(&s->vcpu[it->vcpu].cpu), &f);
            if (col == NONE)
                return;
            (void)place(p, col, g->vm, it->vcpu, it->amount);
            if (s->smt)
                vmci_store_relaxed(&s->vcpu[it->vcpu].home,
                                   (p->frame << 16) | (s->col_cpu[col] + 1));
        }
        g->laid = true;
    }
}

static bool try_pack(struct pack *p, uint32_t sets)
{
    struct vmc_sched *s = p->s;
    bool whole = true;

    start_attempt(p);
    lay_restricted(p);
    lay_whole_frames(p);
    for (uint32_t i = 0; i < sets; i++) {
        struct gang *g = &s->gangs[s->gang_order[i]];
        if (g->laid || (p->attempt == TRY_SINGLE && !g->strict))
            continue;
        while (p->open < p->ncol && p->c[p->open].level + SLIVER > p->limit)
            p->open++;
        g->laid = lay_set(p, g) || g->strict;
    }
    p->open = 0;
    for (uint32_t i = 0; i < s->ngangs; i++) {
        struct gang *g = &s->gangs[s->gang_order[i]];
        if (!g->laid && whole && !g->restricted)
            whole = lay_single(p, g);
        g->laid = false;
    }
    return whole;
}

/* ---- publication ----------------------------------------------------------------------------- */

static void publish(struct pack *p)
{
    struct vmc_sched *s = p->s;

    for (uint32_t col = 0; col < p->ncol; col++) {
        struct sched_column *c = &p->c[col];
        struct tab_entry e = entry_of(c->tab, c->first % TAB_ENTRIES);
        bool whole = c->end - c->first == 1 && e.end - e.start + SLIVER >= p->frame_ns;
        struct sched_cpu *cpu = &s->cpu[s->col_cpu[col]];
        if (c->end == c->first)
            c->first = c->end = 0;
        vmci_store_release(&c->tab->first, c->first);
        vmci_store_release(&c->tab->end, c->end);
        if (cpu->dedicated != whole)
            vmci_store_relaxed(&cpu->dedicated, whole);
        vmci_store_release(&c->tab->frame, p->frame);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* then look who sleeps without a plan */
    for (uint32_t col = 0; col < p->ncol; col++) {
        uint32_t cpu = s->col_cpu[col];
        if (p->c[col].end != 0 && vmci_load_relaxed(&s->cpu[cpu].idle) == 2)
            (void)vmci_fetch_or(&s->kick_map[cpu / 64], 1ull << (cpu % 64));
    }
}

void vmci_sched_pack(struct vmc_sched *s, uint64_t frame)
{
    struct pack p = {.s = s,
                     .c = s->column,
                     .frame = frame,
                     .buf = (uint32_t)(frame & 1),
                     .frame_ns = (uint32_t)s->frame_ns,
                     .limit = (uint32_t)s->frame_ns,
                     .mirrored = (frame & 1) != 0 && s->base == 0};

    open_tables(&p);
    uint32_t sets = order_sets(&p);
    for (p.attempt = TRY_SETS; p.attempt < ATTEMPTS; p.attempt++) {
        if (p.attempt == TRY_SHORT_SETS) {
            uint32_t most = longest_single(&p, sets);
            p.limit = p.frame_ns - VMCI_MIN(most, p.frame_ns - s->base);
            if (sets == 0)
                continue;
        } else {
            p.limit = p.frame_ns;
        }
        if (try_pack(&p, sets))
            break;
    }
    publish(&p);
}

uint32_t vmc_sched_take_kick(struct vmc_sched *s)
{
    for (uint32_t w = 0; w < s->mask_words; w++) {
        uint64_t bits = vmci_load_relaxed(&s->kick_map[w]);
        while (bits != 0) {
            uint64_t low = bits & -bits;
            if ((vmci_fetch_and(&s->kick_map[w], ~low) & low) != 0)
                return w * 64 + (uint32_t)__builtin_ctzll(low);
            bits &= bits - 1;
        }
    }
    return NONE;
}
