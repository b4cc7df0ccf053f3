/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Inside of the CPU scheduler. Who writes what:
 *   (c) constant after create   (p) the planner, under plan_lock   (o) the CPU on which the vCPU is
 *   current, or the winner of a state change   (a) anybody, atomically   (k) the CPU itself
 */
#ifndef SCHED_PRIV_H
#define SCHED_PRIV_H

#include "base/base_int.h"
#include <vmcore/sched.h>

#define NONE VMC_SCHED_NONE

/* State of a vCPU. Only the transitions in docs/scheduling.md, "States", exist. */
#define ST_BLOCKED 0x00u
#define ST_READY   0x01u
#define ST_ONCPU   0x02u
#define ST_RUNNING (ST_READY | ST_ONCPU)
#define ST_WAKING  0x04u
#define ST_PENDING 0x08u /* woken while running: block must not sleep */
#define ST_DEAD    0x10u /* its VM is being removed */
#define ST_FREE    0x20u

/* Of a vCPU that has not run since. */
#define NOTE_WOKEN   0x01u /* a wake, at ts */
#define NOTE_STOPPED 0x02u /* a co-stop */
#define NOTE_WAITS   0x04u /* it left because it waited busily */

/* Virtual time of the light class: frames, with this many fraction bits. */
#define V_SHIFT 20
/* Entitlements: ns per frame, with this many fraction bits. */
#define C_SHIFT 16

#define UNEVEN        8u  /* members of a set start within this part of a frame, and differ by it */
#define TAB_ENTRIES   64u /* pieces of one CPU in one frame */
#define PIECES        4u  /* pieces of one vCPU in one frame */
#define BOOST_SLOTS   8u
#define WHEEL_BUCKETS 1024u
#define EARLY_BUCKETS 64u /* how far ahead of its time work is taken when a CPU would idle */
#define FILL_SCAN     64u /* vCPUs looked at to fill a hole */
#define FILL_FIRST    64u /* those that the planner names */
#define FILL_NAMED    24u /* of them, those that a CPU of a large host looks at */
#define LARGE_HOST    16u /* with more CPUs than this */
#define FRAME_NONE    UINT64_MAX

struct piece {
    uint32_t start, end; /* ns within the frame */
};

/* A piece of a CPU's frame, as its readers copy it (entry_of). */
struct tab_entry {
    uint32_t start, end; /* ns within the frame */
    uint32_t vcpu;
    uint32_t vm;
};

/* The same in the table. */
struct tab_words {
    uint64_t when, who; /* (a) start, vcpu; above them end, vm */
};

/*
 * The plan of one CPU for one frame: e[first..end), in order of time. A reader copies what it needs
 * and then looks whether the frame is still the same; the writer takes the frame away first.
 */
struct sched_tab {
    uint64_t frame;      /* (a) whose plan this is; FRAME_NONE while it is written */
    uint32_t first, end; /* (a) */
    struct tab_words e[TAB_ENTRIES];
};

struct sched_vcpu {
    uint32_t st;         /* (a) */
    uint32_t vm;         /* (p) */
    uint32_t cpu;        /* (o) where it runs or ran last */
    uint8_t index;       /* (p) number in its VM */
    uint8_t shared;      /* (p) what it receives may be charged to a sibling, and the reverse */
    uint8_t extra : 1;   /* (o) this slice is beyond the plan */
    uint8_t boosted : 1; /* (o) this slice is paid from tokens */
    uint8_t notes;       /* (a) NOTE_*: what is to be done when it next runs */
    uint64_t served;     /* (o) ns received in all, as charged; (a) if shared */
    uint64_t run_since;  /* (o) 0: not running */
    uint64_t ts;         /* (o) of the last change of state */
    uint64_t ready_ns;   /* (o) */
    uint64_t switches;   /* (o) */
    uint64_t prog_adj;   /* (o) progress credited while asleep, for skew */

    /* the planner's; the first cache line of it is all that laying out a frame looks at */
    int64_t off;         /* (p) ideal received = g_ns of the VM + off */
    uint64_t plan_frame; /* (p) frame of the pieces below */
    struct piece piece[PIECES];
    uint32_t npieces;    /* (p) */
    uint32_t in_fluid;   /* (p) FLUID_* */
    uint64_t migrations; /* (o) */

    uint64_t joined_at;   /* (p) ideal system: since when */
    uint64_t join_adj;    /* (p) prog_adj when it joined */
    uint32_t leaves;      /* (p) while the ideal is wound back: the next change that it left by */
    uint64_t stolen_seen; /* (p) */
    uint64_t left_served; /* (p) served when it went to sleep */

    uint64_t home; /* (a) with SMT: CPU + 1 on which it has a whole frame, and that frame << 16 */

    /* tokens: how much of its entitlement it may take at once after a wake */
    uint64_t tokens, tokens_at; /* (o) */

    uint64_t wait_ns, costop_ns, stolen_ns, extra_ns, max_wake_ns; /* (o) */
    uint64_t wakes, costops, yields;                               /* (o) */
    uint64_t costop_since;                                         /* (o) 0: not co-stopped */

    /* (a) when it begins in its set: the frame, by its parity, then 8 bits of the set, 24 of ns */
    uint64_t due[2];
    /* if shared */
    uint64_t had;       /* (o) ns received in all, whoever was charged */
    uint64_t paid;      /* (o) a sibling is charged for the slice in progress */
    uint64_t pays_from; /* (a) it is charged for a sibling's slice since; 0: it is not */
} __attribute__((aligned(VMCI_CACHELINE)));

enum vm_class { CLS_IDLE, CLS_HEAVY, CLS_LIGHT };

struct sched_vm {
    /* read by pick */
    uint32_t mode;     /* (p) enum vmc_sched_coscheduling */
    uint32_t n;        /* (p) vCPUs */
    uint32_t first;    /* (p) entity of vCPU 0; its vCPUs are consecutive */
    uint32_t no_extra; /* (p) at its limit, or each vCPU has one: no time beyond what it lacks */
    uint32_t bounded;  /* (p) it, or a group above it, has a limit */
    uint64_t floor;    /* (a) progress of the last runnable sibling, a lower bound */
    uint64_t g_ns;     /* (p) ideal CPU time handed out so far, per vCPU */
    uint64_t credit;   /* (p) ideal per vCPU and frame, C_SHIFT fraction bits */
    int64_t bias;      /* (p) what g_ns leaves out, for comparing lags at run time */
    uint64_t hint;     /* (p) the last credit that was not 0 */

    /* the planner's; first what laying out a light VM looks at */
    uint64_t ve, vd, job_v; /* light: eligible time, deadline, length of one job */
    uint32_t want_at;       /* heavy: its vCPUs in want[] */
    uint32_t wheel_bucket, wheel_next, wheel_prev;
    int64_t lag_ns;
    uint32_t cls;
    uint32_t active;     /* vCPUs in the fluid */
    uint32_t restricted; /* (p) has an affinity mask */
    uint32_t g_frac;

    uint64_t skew_ns, max_skew_ns;
    uint32_t used; /* (p), read by any thread: 0 free, 1 in use, 2 dying */
    uint32_t parent;
    uint64_t cap;  /* (p), read by any thread: per vCPU and frame, C_SHIFT */
    uint32_t left; /* while the ideal is wound back: how many were there that have left since */
    uint32_t slot; /* in child_*[] */
    uint64_t hi_affinity;
    uint32_t heavy_pos;
    uint32_t vcpu_cap;
    bool firm;   /* at its limit: it is lent nothing */
    bool uneven; /* the lags of its vCPUs may be off their progress */
    struct vmc_sched_share share;
} __attribute__((aligned(VMCI_CACHELINE)));

struct sched_group {
    uint32_t used, parent, depth;
    bool bounded;                    /* (p) it, or a group above it, has a limit */
    uint32_t limited;                /* (p) it, or a group above it, is at its limit */
    uint32_t slot;                   /* in child_*[], but for the root */
    uint32_t child_first, child_end; /* in child_*[] */
    uint32_t vms_end;                /* those before this are VMs */
    uint64_t hi, rate;
    bool touched;      /* what a child can use has changed since the last division */
    bool divided;      /* anew, and its VMs do not know yet */
    uint64_t division; /* the last one in which its children's rates were computed */
    struct vmc_sched_share share;
};

struct sched_cpu {
    /* (k) */
    uint64_t now, frame, frame_start, frame_end;
    uint64_t slice_end;
    uint32_t cur; /* (a) read by others for vmc_sched_vcpu_cpu */
    uint32_t last;
    uint32_t pos;
    uint32_t yield_next;
    uint32_t payer, yield_payer; /* sibling that is charged for the current slice, for the next */
    uint32_t lent;               /* the slice is an owner's who was preempted for a woken vCPU */
    uint32_t waited_for;         /* vCPU that was still elsewhere, in waited_frame */
    uint64_t waited_frame;
    uint64_t cur_since, cur_start;
    uint64_t boost_left;
    uint32_t fill_cursor;
    uint32_t idle; /* (a) has nothing to run */
    uint64_t idle_since;
    uint32_t boosts;             /* (a) bits of used slots */
    uint32_t online;             /* (p) */
    uint32_t dedicated;          /* (p) one vCPU has it for the whole frame */
    uint32_t boost[BOOST_SLOTS]; /* (a) */
    struct vmc_sched_cpu_stats stats;
    struct vmc_sched_event *ring;
    uint64_t ring_head; /* (a) written by the CPU */
    uint64_t ring_tail; /* (a) written by the reader */
    uint64_t ring_lost; /* (a) written by the CPU */
    struct sched_tab tab[2];
} __attribute__((aligned(VMCI_CACHELINE)));

/* Is the vCPU in the ideal system? */
enum { FLUID_OUT, FLUID_IN, FLUID_DRAINS };

#define LOG_EVENTS 4096u /* changes between two plans that are replayed one by one */
/* How many times the CPUs are divided anew in one plan: fewer where there are many VMs. */
#define MIN_REPLAYS  32u
#define MAX_REPLAYS  512u
#define MOST_DIVIDED 32768u
#define FEW_VMS      64u   /* up to here, lost time is taken back in each plan, */
#define MANY_VMS     1024u /* up to here in every 16th, else in every 64th */

/* A vCPU blocked or woke. */
struct log_event {
    uint64_t seq; /* (a) position + 1 when complete */
    uint64_t time, served, adj;
    uint32_t vcpu, wake;
};

/* The ideal system had one vCPU more, or less, from a moment on. */
struct past_change {
    uint64_t time;
    uint32_t vcpu;
    bool joined;
    int64_t excess; /* C_SHIFT: what a leaver had beyond its work, since others left earlier */
};

#define PAST_CHANGES 2048u

struct heap_item {
    uint64_t key;
    uint32_t vm;
    uint32_t first; /* entity of its vCPU 0, so that it is known without looking at the VM */
};

struct item {
    uint32_t vcpu;
    uint32_t amount; /* ns */
};

/* A CPU, while a frame is laid out. */
struct sched_column {
    uint32_t level;      /* ns: laid out so far, from the end of the frame if it is mirrored */
    uint32_t first, end; /* of tab->e[] */
    struct sched_tab *tab;
};

/* A vCPU of the heavy class, while its amount is being found. */
struct want {
    int64_t lag; /* what it will lack at the end of the frame, were it given nothing in it */
    int64_t cap; /* ns a frame */
    uint32_t vcpu;
    uint32_t given; /* ns in the frame */
    bool whole, firm;
};

struct gang {
    uint32_t vm, first; /* items[first .. first + n) */
    uint32_t len;       /* ns that all its members share */
    uint8_t n;
    uint8_t width;           /* CPUs side by side; less than n: members follow each other there */
    bool strict, restricted; /* what packing asks of its VM */
    bool laid;               /* it has its place */
};

struct vmc_sched {
    const struct vmc_platform *pf;
    uint32_t ncpus, max_groups, max_vms, max_vcpus;
    uint64_t frame_ns, sigma, start, costop, costart;
    uint32_t min_piece, mask_words, ring_size;

    struct sched_cpu *cpu;
    struct sched_vcpu *vcpu;
    struct sched_vm *vm;
    struct sched_group *group; /* [0] is the root */
    uint64_t *mask;            /* (p) mask_words for each VM */
    uint64_t *idle_map;        /* (a) idle CPUs */
    uint32_t *next_thread;     /* (c) of the CPU's core, in a ring */
    bool smt;                  /* (c) some core has several threads */
    uint64_t *kick_map;        /* (a) CPUs to kick */

    uint64_t log_head, log_tail; /* (a) */
    uint32_t log_lost;           /* (a) an event did not fit */
    struct log_event log[LOG_EVENTS];
    uint64_t lost;     /* (a) ns that the host took since the last plan */
    uint64_t planned;  /* (a) last frame laid out; FRAME_NONE: none yet */
    uint64_t claimed;  /* (a) frame whose planning pick has asked for */
    uint32_t runnable; /* (p) vCPUs in the fluid */

    /* the planner's, under plan_lock */
    struct vmci_lock plan_lock;
    bool dirty;      /* entitlements have to be computed again */
    bool dirty_tree; /* places of children too */
    bool resum;      /* what the light class has together, too */
    uint32_t online;
    uint32_t *col_cpu; /* column -> CPU: a thread of each core first, neighbours adjacent */
    uint32_t *col_of;  /* CPU -> column while a frame is packed, or NONE */
    uint32_t *order;   /* groups, parents first */
    uint32_t norder;
    /* VMs and groups, the children of each group together: shares, bounds, and the division */
    uint64_t *child_w, *child_lo, *child_hi, *child_rate;
    uint32_t *child_vm;
    uint32_t nchildren;
    uint64_t *rate_before; /* scratch: child_rate of another division */
    uint64_t divisions;    /* how often the CPUs were divided */
    uint8_t *wf_fixed;     /* scratch of a division */
    uint32_t *heavy;
    uint32_t nheavy;
    int64_t
        rest; /* ns: what a heavy vCPU will still lack (less than 0: be ahead) after the frame */
    bool changed;       /* since the last plan, somebody blocked or woke, or shares changed */
    bool tight;         /* the frame does not hold all that the heavy class lacks */
    uint64_t light_sum; /* entitlement of the light class per frame, C_SHIFT */
    uint32_t nlight, nrestricted, ndying;
    uint64_t v;      /* virtual time of the light class */
    uint64_t vq;     /* the same at the end of the frame laid out last: what is eligible */
    uint64_t at;     /* time up to which the ideal server has run */
    uint64_t ahead;  /* frames from there to the end of the frame laid out now, V_SHIFT */
    uint32_t *drain; /* asleep, but the ideal has not caught up with them */
    uint32_t ndrain;
    uint32_t replays; /* how often the CPUs may still be divided anew in this plan */
    uint32_t rewinds; /* how many divisions may be looked at again in this plan */
    uint32_t npast;
    struct past_change past[PAST_CHANGES]; /* the last changes, in order of time */
    uint64_t v_rem; /* what serve() could not express in v, in units of ns << V_SHIFT */
    /* leavers that were too many to wind back for: their lags and rates */
    uint64_t unclaimed, unclaimed_rate;
    uint64_t cut;   /* C_SHIFT: taken from the CPUs in the division that follows */
    uint64_t ago;   /* how much earlier, frames, V_SHIFT: for the division that follows */
    uint64_t frame; /* laid out now */
    uint32_t base;  /* ns of that frame that have already passed */
    int64_t bank;   /* ns: what the light class is owed altogether */
    struct heap_item *heap;
    uint32_t *heap_pos; /* by VM; NONE: not in the heap. Apart, so that few cache lines hold it */
    uint32_t heap_n;
    uint32_t wheel[WHEEL_BUCKETS];
    uint32_t light_served; /* VMs served in the frame laid out now, linked by wheel_next */
    struct item *items;
    uint32_t nitems;
    uint32_t fill_first[FILL_FIRST]; /* (a) vCPUs that lack most after the frame laid out last */
    uint32_t nfill_first;            /* (a) */
    uint32_t fill_named;             /* (c) how many of them a CPU looks at */
    struct want *want; /* scratch: the vCPUs of the heavy class that are in the ideal */
    uint32_t nwant;
    struct gang *gangs;
    uint32_t ngangs;
    struct sched_column *column;
    uint32_t *gang_order;
    uint32_t *vms_list; /* VMs in use */
    uint32_t nvms;
};

static inline bool vmci_sched_log_waits(const struct vmc_sched *s)
{
    return vmci_load_relaxed(&s->log_head) != vmci_load_relaxed(&s->log_tail);
}

/* See sched_vcpu.due. */
static inline uint64_t due_word(uint64_t frame, uint32_t set, uint32_t start)
{
    return frame << 32 | (uint64_t)(set & 0xff) << 24 | start;
}

#define GROUP_BIT 0x80000000u

static inline struct tab_entry entry_of(const struct sched_tab *t, uint32_t i)
{
    uint64_t when = vmci_load_acquire(&t->e[i].when);
    uint64_t who = vmci_load_acquire(&t->e[i].who);

    return (struct tab_entry){.start = (uint32_t)when,
                              .end = (uint32_t)(when >> 32),
                              .vcpu = (uint32_t)who,
                              .vm = (uint32_t)(who >> 32)};
}

static inline void add_relaxed64(uint64_t *p, uint64_t v)
{
    vmci_store_relaxed(p, vmci_load_relaxed(p) + v);
}

static inline uint64_t *vm_mask(const struct vmc_sched *s, uint32_t vm)
{
    return s->mask + (size_t)vm * s->mask_words;
}

static inline bool vm_allows(const struct vmc_sched *s, uint32_t vm, uint32_t cpu)
{
    return !vmci_load_relaxed(&s->vm[vm].restricted) ||
           ((vmci_load_relaxed(&vm_mask(s, vm)[cpu / 64]) >> (cpu % 64)) & 1) != 0;
}

/* Progress for skew: what it received, and what its siblings received while it slept. */
static inline uint64_t vcpu_progress(const struct sched_vcpu *v)
{
    return vmci_load_relaxed(&v->served) + vmci_load_relaxed(&v->prog_adj);
}

/* What it was charged, with the slice in progress. */
static inline uint64_t served_now(const struct sched_vcpu *v, uint64_t now)
{
    uint64_t since = vmci_load_relaxed(&v->run_since);
    uint64_t served = vmci_load_relaxed(&v->served);

    if (unlikely(v->shared)) {
        uint64_t pays = vmci_load_relaxed(&v->pays_from);
        served += pays != 0 && now > pays ? now - pays : 0;
        since = vmci_load_relaxed(&v->paid) != 0 ? 0 : since;
    }
    return since != 0 && now > since ? served + (now - since) : served;
}

/* Progress with the slice in progress. */
static inline uint64_t vcpu_progress_at(const struct sched_vcpu *v, uint64_t now)
{
    return served_now(v, now) + vmci_load_relaxed(&v->prog_adj);
}

static inline uint64_t frame_of(const struct vmc_sched *s, uint64_t now)
{
    return now <= s->start ? 0 : (now - s->start) / s->frame_ns;
}

/* Eligible times are at most so far from the virtual time: what light_lag can express. */
#define MOST_V ((uint64_t)1 << 43)

/* The same as a lag, C_SHIFT: where shares are tiny, that is little. */
static inline uint64_t most_light_lag(const struct sched_vm *m)
{
    return m->credit << (43 - V_SHIFT);
}

/* Ideal less granted of a VM whose grants come a slice at a time. */
static inline int64_t light_lag(const struct vmc_sched *s, const struct sched_vm *m)
{
    if (m->cls != CLS_LIGHT)
        return 0;
    bool ahead = m->ve > s->v;
    uint64_t dist = VMCI_MIN(ahead ? m->ve - s->v : s->v - m->ve, MOST_V);
    uint64_t lag = (uint64_t)(((unsigned __int128)dist * m->credit) >> (V_SHIFT + C_SHIFT));
    return ahead ? -(int64_t)lag : (int64_t)lag;
}

/* ns that it has received in all, up to the last charge. */
static inline uint64_t had_ns(const struct sched_vcpu *v)
{
    return vmci_load_relaxed(v->shared ? &v->had : &v->served);
}

/* What the frame in progress, or one already laid out, will still give. */
static inline uint64_t in_flight(const struct vmc_sched *s, const struct sched_vcpu *v,
                                 uint64_t now)
{
    uint64_t begin = s->start + v->plan_frame * s->frame_ns;
    uint64_t sum = 0;

    if (v->npieces == 0 || now >= begin + s->frame_ns)
        return 0;
    uint64_t t = now > begin ? now - begin : 0;
    for (uint32_t i = 0; i < v->npieces; i++) {
        if (v->piece[i].end > t)
            sum += v->piece[i].end - VMCI_MAX(v->piece[i].start, t);
    }
    return sum;
}

/*
 * What the vCPU will lack at the end of the frame laid out now, were it given nothing in it. A
 * light VM is granted whole slices, so its grants are not extrapolated.
 */
static inline int64_t vcpu_lag(const struct vmc_sched *s, const struct sched_vm *m,
                               const struct sched_vcpu *v, uint64_t now)
{
    int64_t lag = (int64_t)(m->g_ns - served_now(v, now)) + v->off - (int64_t)in_flight(s, v, now);

    if (m->cls == CLS_HEAVY)
        lag += (int64_t)(((m->credit >> C_SHIFT) * s->ahead) >> V_SHIFT);
    return lag;
}

/* sched_share.c */
void vmci_sched_fill(struct vmc_sched *s);
void vmci_sched_sum_light(struct vmc_sched *s);
void vmci_sched_rebuild_tree(struct vmc_sched *s);
void vmci_sched_divide(struct vmc_sched *s);
void vmci_sched_touch_all(struct vmc_sched *s);
void vmci_sched_set_active(struct vmc_sched *s, struct sched_vm *m, uint32_t active);
void vmci_sched_add_ideal(struct vmc_sched *s, uint32_t vm, int64_t more);
/* sched_rewind.c */
void vmci_sched_note_change(struct vmc_sched *s, uint32_t vcpu, bool joined);
void vmci_sched_rewind(struct vmc_sched *s, uint64_t lag);
/* sched_light.c */
void vmci_sched_light_insert(struct vmc_sched *s, uint32_t vm);
void vmci_sched_light_remove(struct vmc_sched *s, uint32_t vm);
void vmci_sched_light_rekey(struct vmc_sched *s, uint32_t vm, uint64_t old_credit, int64_t more);
void vmci_sched_light_set_job(struct vmc_sched *s, struct sched_vm *m);
void vmci_sched_light_pick(struct vmc_sched *s, uint64_t now, uint64_t allot, bool idle,
                           uint64_t *room);
void vmci_sched_light_end(struct vmc_sched *s);
/* sched_plan.c */
void vmci_sched_log(struct vmc_sched *s, uint32_t vcpu, bool wake, uint64_t now);
void vmci_sched_set_class(struct vmc_sched *s, uint32_t vm, uint32_t cls);
/* sched_amount.c */
void vmci_sched_emit(struct vmc_sched *s, uint32_t vm, uint64_t now, uint64_t most, uint64_t *room);
void vmci_sched_lay_out(struct vmc_sched *s, uint64_t now, uint64_t frame);
void vmci_sched_level(struct vmc_sched *s, struct sched_vm *m, int64_t least);
/* sched_pack.c */
void vmci_sched_pack(struct vmc_sched *s, uint64_t frame);
/* sched_cosched.c */
bool vmci_sched_costop(struct vmc_sched *s, struct sched_cpu *c, uint32_t vm, uint32_t vcpu,
                       uint64_t now);
bool vmci_sched_held(const struct vmc_sched *s, const struct sched_vcpu *v);
void vmci_sched_costart(struct sched_vcpu *v, uint64_t now);
void vmci_sched_note_skew(struct vmc_sched *s, struct sched_vm *m, uint64_t now);
/* sched_stats.c */
void vmci_sched_trace(struct vmc_sched *s, struct sched_cpu *c, uint64_t now, uint32_t type,
                      uint32_t vcpu);

#endif
