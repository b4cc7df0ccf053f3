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

struct pack {
    struct vmc_sched *s;
    uint64_t frame;
    uint32_t ncol, buf;
    uint32_t frame_ns;
    uint32_t limit; /* sets end here */
    uint32_t open;  /* first column with room */
    enum attempt attempt;
    bool mirrored; /* times run from the end of the frame */
};

static struct sched_tab *tab_of(const struct pack *p, uint32_t col)
{
    return &p->s->cpu[p->s->col_cpu[col]].tab[p->buf];
}

/* Take over the spare table of every CPU; a CPU still inside that old table gets no plan. */
static void open_tables(struct pack *p)
{
    struct vmc_sched *s = p->s;

    p->ncol = 0;
    for (uint32_t i = 0; i < s->online; i++)
        vmci_store_relaxed(&s->cpu[s->col_cpu[i]].tab[p->buf].frame, USING_NONE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* then look who is still reading */
    for (uint32_t i = 0; i < s->online; i++) {
        uint32_t cpu = s->col_cpu[i];
        uint64_t using = __atomic_load_n(&s->cpu[cpu].using, __ATOMIC_SEQ_CST);
        /* in a frame laid out again, the table may be read right now */
        if (using != USING_NONE && (using + 2 <= p->frame || (s->base != 0 && using == p->frame)))
            continue;
        /* usable columns first, in the same order; the others keep their place at the end */
        for (uint32_t j = i; j > p->ncol; j--)
            s->col_cpu[j] = s->col_cpu[j - 1];
        s->col_cpu[p->ncol++] = cpu;
    }
    for (uint32_t i = 0; i < s->ncpus; i++)
        s->col_of[i] = NONE;
    for (uint32_t i = 0; i < p->ncol; i++)
        s->col_of[s->col_cpu[i]] = i;
}

static void start_attempt(struct pack *p)
{
    struct vmc_sched *s = p->s;

    p->open = 0;
    for (uint32_t i = 0; i < p->ncol; i++) {
        s->level[i] = s->base;
        tab_of(p, i)->first = tab_of(p, i)->end = p->mirrored ? TAB_ENTRIES : 0;
    }
    for (uint32_t i = 0; i < s->nitems && p->attempt != TRY_SETS; i++)
        s->vcpu[s->items[i].vcpu].npieces = 0;
}

/* Append len ns of a vCPU to a column. */
static bool place(struct pack *p, uint32_t col, uint32_t vm, uint32_t vcpu, uint32_t len)
{
    struct sched_tab *t = tab_of(p, col);
    struct sched_vcpu *v = &p->s->vcpu[vcpu];
    uint32_t at = p->s->level[col];

    if (t->end - t->first == TAB_ENTRIES || v->npieces == PIECES)
        return false;
    uint32_t start = p->mirrored ? p->frame_ns - at - len : at;
    uint32_t k = p->mirrored ? --t->first : t->end++;
    t->e[k] = (struct tab_entry){.start = start, .end = start + len, .vcpu = vcpu, .vm = vm};
    v->piece[v->npieces++] = (struct piece){.start = start, .end = start + len};
    p->s->level[col] = at + len;
    return true;
}

/* ---- sets ------------------------------------------------------------------------------------ */

/* n adjacent columns filled to the same level below limit, from column "from"; NONE if none. */
static uint32_t window(const struct pack *p, uint32_t from, uint32_t n)
{
    const uint32_t *level = p->s->level;

    for (uint32_t col = from; col + n <= p->ncol; col++) {
        uint32_t i = 1;
        if (level[col] + SLIVER > p->limit)
            continue;
        while (i < n && level[col + i] <= level[col] + SLIVER &&
               level[col + i] + SLIVER > level[col])
            i++;
        if (i == n)
            return col;
    }
    return NONE;
}

/*
 * Place [done, upto) of each member side by side; columns end level. A member for which a table
 * is full keeps the time in its lag.
 */
static void place_set(struct pack *p, const struct gang *g, uint32_t col, uint32_t done,
                      uint32_t upto)
{
    uint32_t *level = p->s->level;
    uint32_t start = 0;

    for (uint32_t i = 0; i < g->n; i++)
        start = VMCI_MAX(start, level[col + i]);
    for (uint32_t i = 0; i < g->n; i++) {
        const struct item *it = &p->s->items[g->first + i];
        uint32_t end = VMCI_MIN(it->amount, upto);
        level[col + i] = start;
        if (end > done)
            (void)place(p, col + i, g->vm, it->vcpu, end - done);
        level[col + i] = start + (upto - done);
    }
}

/* True if the set was laid out side by side, whole. */
static bool lay_set(struct pack *p, const struct gang *g)
{
    const uint32_t *level = p->s->level;
    uint32_t first = window(p, p->open, g->n);

    if (g->len > p->limit - p->s->base || first == NONE)
        return false;
    if (level[first] + g->len <= p->limit + SLIVER) { /* a sliver less waits in the lag */
        place_set(p, g, first, 0, VMCI_MIN(g->len, p->limit - level[first]));
        return true;
    }
    uint32_t second = window(p, first + g->n, g->n);
    if (second == NONE)
        return false;
    uint32_t part = p->limit - level[first];
    if (level[second] + (g->len - part) <= level[first]) { /* ends before the first part begins */
        place_set(p, g, first, 0, part);
        place_set(p, g, second, part, g->len);
        return true;
    }
    if (level[second] + g->len > p->limit)
        return false;
    place_set(p, g, second, 0, g->len);
    return true;
}

/* Wide sets first: they need room side by side. Returns how many there are. */
static uint32_t order_sets(struct pack *p)
{
    struct vmc_sched *s = p->s;
    uint32_t count[VMC_SCHED_MAX_WIDTH + 1] = {0};
    uint32_t total = 0;

    for (uint32_t i = 0; i < s->ngangs; i++)
        count[s->gangs[i].n]++;
    for (uint32_t w = VMC_SCHED_MAX_WIDTH; w >= 1; w--) {
        uint32_t n = count[w];
        count[w] = total;
        total += n;
    }
    uint32_t sets = count[1];
    for (uint32_t i = 0; i < s->ngangs; i++)
        s->gang_order[count[s->gangs[i].n]++] = i;
    return sets;
}

/* ---- single items ---------------------------------------------------------------------------- */

/* Put the item wherever it fits in one or two parts that do not overlap; what is left is dropped
 * and stays in its lag. Only columns that the mask allows. */
static void place_anywhere(struct pack *p, uint32_t vm, const struct item *it)
{
    const uint32_t *level = p->s->level;
    uint32_t left = it->amount;
    uint32_t before = p->frame_ns; /* parts so far begin here or later */

    for (uint32_t round = 0; round < 2 && left >= SLIVER; round++) {
        uint32_t best = NONE;
        uint32_t most = 0;
        for (uint32_t col = 0; col < p->ncol; col++) {
            if (level[col] + SLIVER > before || !vm_allows(p->s, vm, p->s->col_cpu[col]))
                continue;
            uint32_t room = VMCI_MIN(before - level[col], left);
            if (room > most) {
                most = room;
                best = col;
            }
        }
        if (best == NONE)
            return;
        uint32_t at = level[best];
        /* a second part, before the first: push the first to the end of the frame if it can */
        if (!place(p, best, vm, it->vcpu, most))
            return;
        left -= most;
        before = at;
    }
}

/* The first column from col on that has room, or ncol. */
static uint32_t open_column(const struct pack *p, uint32_t col)
{
    while (col < p->ncol && p->s->level[col] + SLIVER > p->frame_ns)
        col++;
    return col;
}

/* McNaughton's rule from the first open column on; false: it would overlap itself. */
static bool place_wrapped(struct pack *p, uint32_t vm, const struct item *it)
{
    const uint32_t *level = p->s->level;
    uint32_t len = it->amount;

    p->open = open_column(p, p->open);
    if (p->open == p->ncol)
        return true; /* only slivers are left: the lag keeps what is lost */
    uint32_t room = p->frame_ns - level[p->open];
    if (len <= room)
        return place(p, p->open, vm, it->vcpu, len);
    uint32_t next = open_column(p, p->open + 1);
    uint32_t first_at = level[p->open];
    uint32_t rest = len - room;
    if (rest >= SLIVER && next < p->ncol && level[next] + rest > first_at)
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
        if (!place_wrapped(p, g->vm, it)) {
            if (p->attempt != TRY_SINGLE)
                return false;
            place_anywhere(p, g->vm, it);
        }
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
        if (!s->vm[g->vm].restricted)
            continue;
        for (uint32_t k = 0; k < g->n; k++)
            place_anywhere(p, g->vm, &s->items[g->first + k]);
    }
}

static bool column_free(const struct pack *p, uint32_t col)
{
    return col != NONE && p->s->level[col] == p->s->base;
}

/* Has nobody a thread of the core that the column's CPU is one of? */
static bool core_free(const struct pack *p, uint32_t col)
{
    const struct vmc_sched *s = p->s;
    uint32_t cpu = s->col_cpu[col];

    for (uint32_t t = s->next_thread[cpu]; t != cpu; t = s->next_thread[t])
        if (s->col_of[t] != NONE && s->level[s->col_of[t]] != s->base)
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
        if (g->len + SLIVER < p->frame_ns - s->base || s->vm[g->vm].restricted)
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
        g->vm |= GROUP_BIT; /* laid */
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
        if ((g->vm & GROUP_BIT) != 0)
            continue;
        bool strict = s->vm[g->vm].mode == VMC_SCHED_CO_STRICT;
        g->vm |= GROUP_BIT; /* laid */
        if (p->attempt == TRY_SINGLE && !strict) {
            g->vm &= ~GROUP_BIT;
            continue;
        }
        struct gang plain = *g;
        plain.vm &= ~GROUP_BIT;
        while (p->open < p->ncol && s->level[p->open] + SLIVER > p->limit)
            p->open++;
        if (!lay_set(p, &plain) && !strict)
            g->vm &= ~GROUP_BIT;
    }
    p->open = 0;
    for (uint32_t i = 0; i < s->ngangs; i++) {
        struct gang *g = &s->gangs[s->gang_order[i]];
        bool laid = (g->vm & GROUP_BIT) != 0;
        g->vm &= ~GROUP_BIT;
        if (!laid && whole && !s->vm[g->vm].restricted)
            whole = lay_single(p, g);
    }
    return whole;
}

/* ---- publication ----------------------------------------------------------------------------- */

static void publish(struct pack *p)
{
    struct vmc_sched *s = p->s;

    for (uint32_t col = 0; col < p->ncol; col++) {
        uint32_t cpu = s->col_cpu[col];
        struct sched_tab *t = tab_of(p, col);
        const struct tab_entry *e = &t->e[t->first];
        bool work = t->end != t->first;
        bool whole = t->end - t->first == 1 && e->end - e->start + SLIVER >= p->frame_ns;
        if (!work)
            t->first = t->end = 0;
        vmci_store_relaxed(&s->cpu[cpu].dedicated, whole ? 1u : 0u);
        vmci_store_release(&t->frame, p->frame);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* then look who sleeps without a plan */
    for (uint32_t col = 0; col < p->ncol; col++) {
        uint32_t cpu = s->col_cpu[col];
        if (tab_of(p, col)->end != 0 && vmci_load_relaxed(&s->cpu[cpu].idle) == 2)
            (void)vmci_fetch_or(&s->kick_map[cpu / 64], 1ull << (cpu % 64));
    }
}

void vmci_sched_pack(struct vmc_sched *s, uint64_t frame)
{
    struct pack p = {.s = s,
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
