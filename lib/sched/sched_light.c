/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The light class: VMs whose vCPUs are entitled to less than one useful slice a frame. They take
 * turns on what the heavy class leaves of the frame, in the order of earliest eligible virtual
 * deadline (Stoica, Abdel-Wahab, "Earliest Eligible Virtual Deadline First", TR-95-22), each job
 * being one slice for every vCPU of the VM.
 *
 * A job waits in a wheel of one bucket per virtual frame until it is eligible, then in a heap
 * ordered by deadline.
 */
#include "sched_priv.h"

#define ARITY 4u

static void heap_set(struct vmc_sched *s, uint32_t pos, struct heap_item it)
{
    s->heap[pos] = it;
    s->heap_pos[it.vm] = pos;
}

static void sift_up(struct vmc_sched *s, uint32_t pos, struct heap_item it)
{
    while (pos > 0) {
        uint32_t up = (pos - 1) / ARITY;
        if (s->heap[up].key <= it.key)
            break;
        heap_set(s, pos, s->heap[up]);
        pos = up;
    }
    heap_set(s, pos, it);
}

/* The least of the children that begin at "child"; four of them are compared without a branch. */
static uint32_t least_child(const struct vmc_sched *s, uint32_t child)
{
    const struct heap_item *h = s->heap + child;
    uint32_t n = s->heap_n - child;
    uint32_t best = 0;

    if (likely(n >= ARITY)) {
        uint32_t a = h[1].key < h[0].key;
        uint32_t b = 2 + (h[3].key < h[2].key);
        return child + (h[b].key < h[a].key ? b : a);
    }
    for (uint32_t i = 1; i < n; i++)
        best = h[i].key < h[best].key ? i : best;
    return child + best;
}

static void sift_down(struct vmc_sched *s, uint32_t pos, struct heap_item it)
{
    for (;;) {
        uint32_t child = pos * ARITY + 1;
        if (child >= s->heap_n)
            break;
        uint32_t best = least_child(s, child);
        if (s->heap[best].key >= it.key)
            break;
        heap_set(s, pos, s->heap[best]);
        pos = best;
    }
    heap_set(s, pos, it);
}

static void heap_push(struct vmc_sched *s, uint32_t vm)
{
    struct heap_item it = {.key = s->vm[vm].vd, .vm = vm, .first = s->vm[vm].first};
    sift_up(s, s->heap_n++, it);
}

static void heap_remove(struct vmc_sched *s, uint32_t vm)
{
    uint32_t pos = s->heap_pos[vm];
    struct heap_item last = s->heap[--s->heap_n];

    s->heap_pos[vm] = NONE;
    if (last.vm == vm)
        return;
    if (pos > 0 && s->heap[(pos - 1) / ARITY].key > last.key)
        sift_up(s, pos, last);
    else
        sift_down(s, pos, last);
}

static void wheel_add(struct vmc_sched *s, uint32_t vm)
{
    struct sched_vm *m = &s->vm[vm];
    uint64_t at = VMCI_MAX(m->ve >> V_SHIFT, (s->vq >> V_SHIFT) + 1);
    uint32_t b = (uint32_t)(at % WHEEL_BUCKETS);

    m->wheel_bucket = b;
    m->wheel_prev = NONE;
    m->wheel_next = s->wheel[b];
    if (s->wheel[b] != NONE)
        s->vm[s->wheel[b]].wheel_prev = vm;
    s->wheel[b] = vm;
}

static void wheel_del(struct vmc_sched *s, uint32_t vm)
{
    struct sched_vm *m = &s->vm[vm];

    if (m->wheel_prev != NONE)
        s->vm[m->wheel_prev].wheel_next = m->wheel_next;
    else
        s->wheel[m->wheel_bucket] = m->wheel_next;
    if (m->wheel_next != NONE)
        s->vm[m->wheel_next].wheel_prev = m->wheel_prev;
    m->wheel_bucket = NONE;
}

/* Length of a job of one slice, in virtual time; deadline of the next job. */
void vmci_sched_light_set_job(struct vmc_sched *s, struct sched_vm *m)
{
    vmci_store_relaxed(&m->bias, light_lag(s, m));
    m->job_v = ((s->sigma << C_SHIFT) << V_SHIFT) / m->credit;
    m->vd = m->ve + m->job_v;
}

static void enqueue(struct vmc_sched *s, uint32_t vm)
{
    if ((s->vm[vm].ve >> V_SHIFT) <= (s->vq >> V_SHIFT))
        heap_push(s, vm);
    else
        wheel_add(s, vm);
}

void vmci_sched_light_insert(struct vmc_sched *s, uint32_t vm)
{
    vmci_sched_light_set_job(s, &s->vm[vm]);
    enqueue(s, vm);
}

void vmci_sched_light_remove(struct vmc_sched *s, uint32_t vm)
{
    if (s->heap_pos[vm] != NONE)
        heap_remove(s, vm);
    else if (s->vm[vm].wheel_bucket != NONE)
        wheel_del(s, vm);
}

/*
 * The entitlement changed: keep the lag, credit * (v - ve), plus "more" ns (with C_SHIFT fraction
 * bits), and let the pending job run at the new pace. After small changes it keeps its place in
 * the queue: they move the deadline by less than an eighth of a job.
 */
void vmci_sched_light_rekey(struct vmc_sched *s, uint32_t vm, uint64_t old_credit, int64_t more)
{
    struct sched_vm *m = &s->vm[vm];
    uint64_t diff = m->credit > old_credit ? m->credit - old_credit : old_credit - m->credit;
    bool small = diff < m->credit / 8 && more < (int64_t)(s->sigma << C_SHIFT) / 8;
    bool ahead = m->ve > s->v;
    uint64_t most = (uint64_t)1 << 43; /* more than 64 frames */

    if (!small)
        vmci_sched_light_remove(s, vm);
    uint64_t dist = VMCI_MIN(ahead ? m->ve - s->v : s->v - m->ve, most);
    int64_t lag =
        (int64_t)VMCI_MIN((uint64_t)(((unsigned __int128)dist * old_credit) >> V_SHIFT), most);
    lag = (ahead ? -lag : lag) + more;
    uint64_t whole = (uint64_t)(lag < 0 ? -lag : lag);
    uint64_t size = VMCI_MIN(VMCI_MIN(whole, most), most_light_lag(m));
    uint64_t kept =
        (whole - size) >> C_SHIFT; /* virtual time cannot express it: of what is granted */
    vmci_store_relaxed(&m->g_ns, lag < 0 ? m->g_ns - kept : m->g_ns + kept);
    uint64_t moved = (size << V_SHIFT) / m->credit;
    m->ve = lag < 0 ? s->v + moved : s->v - moved;
    vmci_sched_light_set_job(s, m);
    if (!small)
        enqueue(s, vm);
}

/* Everything whose eligible time has come goes to the heap. */
static void drain_wheel(struct vmc_sched *s, uint64_t from, uint64_t to)
{
    for (uint64_t b = from + 1; b <= to; b++) {
        uint32_t vm = s->wheel[b % WHEEL_BUCKETS];
        while (vm != NONE) {
            uint32_t next = s->vm[vm].wheel_next;
            uint64_t due = s->vm[vm].ve >> V_SHIFT;
            if (due <= b) {
                wheel_del(s, vm);
                heap_push(s, vm);
            } else if (due - b < WHEEL_BUCKETS) { /* it moved; else a later turn of the wheel */
                wheel_del(s, vm);
                wheel_add(s, vm);
            }
            vm = next;
        }
    }
}

/* Nothing is eligible but a CPU would idle: take what comes next. */
static bool pull_early(struct vmc_sched *s, uint64_t ahead)
{
    uint64_t now = s->vq >> V_SHIFT;
    uint32_t vm = s->wheel[(now + ahead) % WHEEL_BUCKETS];

    for (; vm != NONE; vm = s->vm[vm].wheel_next) {
        if ((s->vm[vm].ve >> V_SHIFT) <= now + ahead) {
            wheel_del(s, vm);
            heap_push(s, vm);
            return true;
        }
    }
    return false;
}

/* Ideal less granted of one of its vCPUs at the end of the frame, without a job in it. */
static int64_t lag_at_end(const struct vmc_sched *s, const struct sched_vm *m)
{
    return light_lag(s, m) + (int64_t)(((m->credit >> C_SHIFT) * s->ahead) >> V_SHIFT);
}

/* Whose turn is next is known before the time is come. */
static void prefetch_next(const struct vmc_sched *s)
{
    if (s->heap_n == 0)
        return;
    const struct sched_vm *m = &s->vm[s->heap[0].vm];
    const struct sched_vcpu *v = &s->vcpu[s->heap[0].first];
    __builtin_prefetch(m);
    __builtin_prefetch(&m->ve);
    uint32_t n = VMCI_MIN(s->max_vcpus - s->heap[0].first, 4u); /* its own, or the next VM's */
    for (uint32_t i = 0; i < n; i++) {
        __builtin_prefetch(v + i);
        __builtin_prefetch(&v[i].off);
    }
}

/*
 * Give a job to the VM at the head of the heap: one slice, or as many as it lacks altogether.
 * False: there is room for less than half a slice, which is left for a later frame: shorter ones
 * would cost more to switch to.
 */
static bool run_job(struct vmc_sched *s, uint64_t now, uint64_t *room, uint64_t *allot)
{
    uint32_t vm = s->heap[0].vm;
    struct sched_vm *m = &s->vm[vm];
    int64_t lag = VMCI_MIN(lag_at_end(s, m), (int64_t)(s->frame_ns - s->sigma));
    uint64_t job = lag >= 2 * (int64_t)s->sigma ? (uint64_t)lag : s->sigma;
    uint64_t before = *room;

    if (job * m->active > *room) {
        job = *room / m->active;
        if (job < s->sigma / 2)
            return false;
    }
    heap_remove(s, vm);
    prefetch_next(s);
    vmci_store_relaxed(&m->g_ns, m->g_ns + job);
    s->bank -= (int64_t)(job * m->active);
    m->ve += job == s->sigma
                 ? m->job_v
                 : (uint64_t)(((unsigned __int128)m->job_v * ((job << 24) / s->sigma)) >> 24);
    m->vd = m->ve + m->job_v;
    vmci_store_relaxed(&m->bias, light_lag(s, m));
    vmci_sched_emit(s, vm, now, job + s->sigma, room);
    *allot -= VMCI_MIN(*allot, before - *room);
    return true;
}

/*
 * Choose who of the light class gets a part of the room, "allot" in all, among those eligible
 * before the end of the frame; who is far behind gets its due beyond that. Where a CPU would be
 * idle, those follow who are not eligible yet. A VM is served once a
 * frame at most, so that no vCPU is laid out twice: those served wait in light_served until
 * vmci_sched_light_end.
 */
void vmci_sched_light_pick(struct vmc_sched *s, uint64_t now, uint64_t allot, bool idle,
                           uint64_t *room)
{
    uint64_t from = s->vq >> V_SHIFT;
    uint64_t ahead = 1;

    s->vq = VMCI_MAX(s->vq, s->v + s->ahead);
    if (from + 64 < s->vq >> V_SHIFT)
        from = (s->vq >> V_SHIFT) - WHEEL_BUCKETS;
    drain_wheel(s, from, s->vq >> V_SHIFT);
    while (*room >= s->min_piece) {
        while (idle && s->heap_n == 0 && ahead < EARLY_BUCKETS && !pull_early(s, ahead))
            ahead++;
        if (s->heap_n == 0)
            break;
        uint32_t vm = s->heap[0].vm;
        if (allot < s->sigma / 2 && lag_at_end(s, &s->vm[vm]) < 3 * (int64_t)s->sigma / 2)
            break;
        if (!run_job(s, now, room, &allot))
            break;
        s->vm[vm].wheel_next = s->light_served;
        s->light_served = vm;
    }
}

void vmci_sched_light_end(struct vmc_sched *s)
{
    while (s->light_served != NONE) {
        uint32_t vm = s->light_served;
        s->light_served = s->vm[vm].wheel_next;
        enqueue(s, vm);
    }
}
