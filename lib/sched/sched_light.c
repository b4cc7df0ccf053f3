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
    s->vm[it.vm].heap_pos = pos;
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

static void sift_down(struct vmc_sched *s, uint32_t pos, struct heap_item it)
{
    for (;;) {
        uint32_t child = pos * ARITY + 1;
        if (child >= s->heap_n)
            break;
        uint32_t best = child;
        uint32_t end = VMCI_MIN(child + ARITY, s->heap_n);
        for (uint32_t i = child + 1; i < end; i++)
            if (s->heap[i].key < s->heap[best].key)
                best = i;
        if (s->heap[best].key >= it.key)
            break;
        heap_set(s, pos, s->heap[best]);
        pos = best;
    }
    heap_set(s, pos, it);
}

static void heap_push(struct vmc_sched *s, uint32_t vm)
{
    struct heap_item it = {.key = s->vm[vm].vd, .vm = vm};
    sift_up(s, s->heap_n++, it);
}

static void heap_remove(struct vmc_sched *s, uint32_t vm)
{
    uint32_t pos = s->vm[vm].heap_pos;
    struct heap_item last = s->heap[--s->heap_n];

    s->vm[vm].heap_pos = NONE;
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
    if (s->vm[vm].heap_pos != NONE)
        heap_remove(s, vm);
    else if (s->vm[vm].wheel_bucket != NONE)
        wheel_del(s, vm);
}

/*
 * The entitlement changed: keep the lag, credit * (v - ve), and let the pending job run at the new
 * pace. After small changes it keeps its place in the queue: they move the deadline by less than
 * an eighth of a job.
 */
void vmci_sched_light_rekey(struct vmc_sched *s, uint32_t vm, uint64_t old_credit)
{
    struct sched_vm *m = &s->vm[vm];
    uint64_t diff = m->credit > old_credit ? m->credit - old_credit : old_credit - m->credit;
    bool small = diff < m->credit / 8;

    if (!small)
        vmci_sched_light_remove(s, vm);
    /* credits are below 2^37, so the ratio keeps 20 bits */
    uint64_t dist = m->ve > s->v ? m->ve - s->v : s->v - m->ve;
    dist = VMCI_MIN(dist, (uint64_t)1 << 43);
    uint64_t ratio = VMCI_MIN(((old_credit << V_SHIFT) + m->credit / 2) / m->credit,
                              (uint64_t)1 << 30);
    uint64_t moved = (uint64_t)(((unsigned __int128)dist * ratio) >> V_SHIFT);
    m->ve = m->ve > s->v ? s->v + moved : s->v - moved;
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

/*
 * Give one job to the VM at the head of the heap. False: there is room for less than half of it,
 * which is left for a later frame: shorter slices would cost more to switch to.
 */
static bool run_job(struct vmc_sched *s, uint64_t now, uint64_t *room)
{
    uint32_t vm = s->heap[0].vm;
    struct sched_vm *m = &s->vm[vm];
    uint64_t job = s->sigma;
    uint64_t job_v = m->job_v;

    if (job * m->active > *room) {
        job = *room / m->active;
        if (job < s->sigma / 2)
            return false;
        job_v = (job_v >> 10) * ((job << 10) / s->sigma);
    }
    heap_remove(s, vm);
    vmci_store_relaxed(&m->g_ns, m->g_ns + job);
    s->bank -= (int64_t)(job * m->active);
    m->ve += job_v;
    m->vd = m->ve + m->job_v;
    vmci_store_relaxed(&m->bias, vmci_sched_light_lag(s, m));
    vmci_sched_emit(s, vm, now, 2 * s->sigma, room);
    return true;
}

/*
 * Choose who of the light class gets the room the heavy class leaves, among those eligible before
 * the end of the frame. A VM is served once a frame at most, so that no vCPU is laid out twice.
 */
void vmci_sched_light_pick(struct vmc_sched *s, uint64_t now, uint64_t room)
{
    uint32_t served = NONE; /* list through wheel_next */
    uint64_t from = s->vq >> V_SHIFT;
    uint64_t ahead = 1;

    s->vq = VMCI_MAX(s->vq, s->v + s->ahead);
    if (from + 64 < s->vq >> V_SHIFT)
        from = (s->vq >> V_SHIFT) - WHEEL_BUCKETS;
    drain_wheel(s, from, s->vq >> V_SHIFT);
    if (s->nheavy != 0) { /* beyond what the class is owed, idle time is lent to all alike */
        int64_t due = s->bank + (int64_t)(((s->light_sum >> C_SHIFT) * s->ahead) >> V_SHIFT);
        room = VMCI_MIN(room, (uint64_t)VMCI_MAX(due, 0) + s->sigma / 2);
    }
    while (room >= s->min_piece) {
        while (s->heap_n == 0 && ahead < EARLY_BUCKETS && !pull_early(s, ahead))
            ahead++;
        if (s->heap_n == 0)
            break;
        uint32_t vm = s->heap[0].vm;
        if (!run_job(s, now, &room))
            break;
        s->vm[vm].wheel_next = served;
        served = vm;
    }
    while (served != NONE) {
        uint32_t next = s->vm[served].wheel_next;
        enqueue(s, served);
        served = next;
    }
}
