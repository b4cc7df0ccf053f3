/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Timer queue: a binary min-heap of armed timers. The heap has room for every timer that exists, so
 * arming never allocates; the earliest deadline is mirrored in an atomic, so asking costs a load.
 */
#include "base/base_int.h"
#include <vmcore/timer.h>

#define NO_DEADLINE UINT64_MAX
#define NOT_QUEUED  UINT32_MAX
#define FIRST_ROOM  32u

struct vmc_timer {
    struct vmc_timerq *q;
    const char *name;
    vmc_timer_fn *fn;
    void *ctx;
    uint64_t deadline;  /* (l) */
    uint32_t pos;       /* (l) index in the heap, or NOT_QUEUED */
};

struct vmc_timerq {
    const struct vmc_platform *pf;
    struct vmci_lock lock;
    struct vmc_timer **heap; /* (l) */
    uint32_t armed;          /* (l) entries in use */
    uint32_t timers;         /* (l) timers that exist */
    uint32_t room;           /* (l) entries allocated */
    bool firing;             /* (l) a thread is inside advance */
    struct vmc_timer *current; /* (l) timer whose callback runs */
    uint32_t fired;            /* (a) counts finished callbacks; destroy parks on it */
    uint32_t is_virtual;       /* (a) */
    uint64_t virtual_ns;       /* (a) */
    uint64_t next;             /* (a) deadline of heap[0], NO_DEADLINE when empty */
    void (*notify[2])(void *ctx); /* (l) the embedder's hook and the VM's own */
    void *notify_ctx[2];
};

/* ---- heap (lock held) ---------------------------------------------------------------------- */

static void heap_put(struct vmc_timerq *q, uint32_t pos, struct vmc_timer *t)
{
    q->heap[pos] = t;
    t->pos = pos;
}

static void sift_up(struct vmc_timerq *q, uint32_t pos, struct vmc_timer *t)
{
    while (pos > 0) {
        uint32_t up = (pos - 1) / 2;
        if (q->heap[up]->deadline <= t->deadline)
            break;
        heap_put(q, pos, q->heap[up]);
        pos = up;
    }
    heap_put(q, pos, t);
}

static void sift_down(struct vmc_timerq *q, uint32_t pos, struct vmc_timer *t)
{
    for (;;) {
        uint32_t kid = 2 * pos + 1;
        if (kid >= q->armed)
            break;
        if (kid + 1 < q->armed && q->heap[kid + 1]->deadline < q->heap[kid]->deadline)
            kid++;
        if (t->deadline <= q->heap[kid]->deadline)
            break;
        heap_put(q, pos, q->heap[kid]);
        pos = kid;
    }
    heap_put(q, pos, t);
}

static void heap_remove(struct vmc_timerq *q, struct vmc_timer *t)
{
    uint32_t pos = t->pos;
    struct vmc_timer *last = q->heap[--q->armed];

    t->pos = NOT_QUEUED;
    if (last == t)
        return;
    if (last->deadline < t->deadline)
        sift_up(q, pos, last);
    else
        sift_down(q, pos, last);
}

static void publish_next(struct vmc_timerq *q)
{
    vmci_store_release(&q->next, q->armed != 0 ? q->heap[0]->deadline : NO_DEADLINE);
}

/* ---- queue --------------------------------------------------------------------------------- */

int vmc_timerq_create(const struct vmc_platform *pf, struct vmc_timerq **out)
{
    struct vmc_timerq *q = vmci_zalloc(pf, sizeof(*q));

    if (q == NULL)
        return VMC_ENOMEM;
    q->pf = pf;
    q->next = NO_DEADLINE;
    int rc = vmci_lock_init(&q->lock, pf);
    if (rc != VMC_OK) {
        vmci_free(pf, q, sizeof(*q));
        return rc;
    }
    *out = q;
    return VMC_OK;
}

void vmc_timerq_destroy(struct vmc_timerq *q)
{
    if (q == NULL)
        return;
    if (q->timers != 0)
        vmci_bug(q->pf, __FILE__, __LINE__, "timer queue destroyed before its timers");
    vmci_lock_fini(&q->lock);
    vmci_free(q->pf, q->heap, q->room * sizeof(q->heap[0]));
    vmci_free(q->pf, q, sizeof(*q));
}

uint64_t vmc_timerq_now(const struct vmc_timerq *q)
{
    if (vmci_load_acquire(&q->is_virtual))
        return vmci_load_relaxed(&q->virtual_ns);
    return q->pf->now_ns(q->pf->ctx);
}

void vmc_timerq_set_virtual(struct vmc_timerq *q, uint64_t now_ns)
{
    vmci_store_relaxed(&q->virtual_ns, now_ns);
    vmci_store_release(&q->is_virtual, 1u);
}

bool vmc_timerq_next(const struct vmc_timerq *q, uint64_t *deadline_ns)
{
    uint64_t next = vmci_load_acquire(&q->next);

    if (next == NO_DEADLINE)
        return false;
    *deadline_ns = next;
    return true;
}

void vmc_timerq_advance(struct vmc_timerq *q, uint64_t now_ns)
{
    if (vmci_load_acquire(&q->next) > now_ns)
        return;
    vmci_lock(&q->lock);
    if (q->firing) {
        vmci_unlock(&q->lock);
        return;
    }
    q->firing = true;
    /* A callback may arm a timer that is due at once: the bound keeps a guest-chosen period from
       holding the thread here for ever. What is left fires with the next call. */
    for (uint32_t left = q->armed; left > 0 && q->armed > 0; left--) {
        struct vmc_timer *t = q->heap[0];
        if (t->deadline > now_ns)
            break;
        heap_remove(q, t);
        publish_next(q);
        q->current = t;
        uint64_t deadline = t->deadline;
        vmci_unlock(&q->lock);
        t->fn(t->ctx, deadline);
        vmci_lock(&q->lock);
        q->current = NULL;
        vmci_fetch_add(&q->fired, 1u);
        if (vmci_pf_has(q->pf, sync))
            q->pf->sync->wake(q->pf->ctx, &q->fired);
    }
    q->firing = false;
    vmci_unlock(&q->lock);
}

static void set_notify(struct vmc_timerq *q, unsigned who, void (*fn)(void *ctx), void *ctx)
{
    vmci_lock(&q->lock);
    q->notify[who] = fn;
    q->notify_ctx[who] = ctx;
    vmci_unlock(&q->lock);
}

void vmc_timerq_set_notify(struct vmc_timerq *q, void (*fn)(void *ctx), void *ctx)
{
    set_notify(q, 0, fn, ctx);
}

void vmci_timerq_set_owner_notify(struct vmc_timerq *q, void (*fn)(void *ctx), void *ctx)
{
    set_notify(q, 1, fn, ctx);
}

/* ---- timers -------------------------------------------------------------------------------- */

static int make_room(struct vmc_timerq *q)
{
    if (q->timers < q->room)
        return VMC_OK;
    uint32_t room = q->room == 0 ? FIRST_ROOM : q->room * 2;
    struct vmc_timer **heap = vmci_zalloc(q->pf, room * sizeof(heap[0]));
    if (heap == NULL)
        return VMC_ENOMEM;
    if (q->armed != 0)
        memcpy(heap, q->heap, q->armed * sizeof(heap[0]));
    vmci_free(q->pf, q->heap, q->room * sizeof(heap[0]));
    q->heap = heap;
    q->room = room;
    return VMC_OK;
}

int vmc_timer_create(struct vmc_timerq *q, const char *name, vmc_timer_fn *fn, void *ctx,
                     struct vmc_timer **out)
{
    struct vmc_timer *t = vmci_zalloc(q->pf, sizeof(*t));

    if (t == NULL)
        return VMC_ENOMEM;
    *t = (struct vmc_timer){.q = q, .name = name, .fn = fn, .ctx = ctx, .pos = NOT_QUEUED};
    vmci_lock(&q->lock);
    int rc = make_room(q);
    if (rc == VMC_OK)
        q->timers++;
    vmci_unlock(&q->lock);
    if (rc != VMC_OK) {
        vmci_free(q->pf, t, sizeof(*t));
        return rc;
    }
    *out = t;
    return VMC_OK;
}

void vmc_timer_destroy(struct vmc_timer *t)
{
    if (t == NULL)
        return;
    struct vmc_timerq *q = t->q;
    vmci_lock(&q->lock);
    while (q->current == t && vmci_pf_has(q->pf, sync)) {
        uint32_t seen = vmci_load_relaxed(&q->fired);
        vmci_unlock(&q->lock);
        q->pf->sync->park(q->pf->ctx, &q->fired, seen, NO_DEADLINE);
        vmci_lock(&q->lock);
    }
    if (t->pos != NOT_QUEUED) {
        heap_remove(q, t);
        publish_next(q);
    }
    q->timers--;
    vmci_unlock(&q->lock);
    vmci_free(q->pf, t, sizeof(*t));
}

void vmc_timer_arm(struct vmc_timer *t, uint64_t deadline_ns)
{
    struct vmc_timerq *q = t->q;
    void (*fn[2])(void *ctx) = {NULL, NULL};
    void *ctx[2] = {NULL, NULL};

    if (deadline_ns == NO_DEADLINE)
        deadline_ns--; /* NO_DEADLINE says "none" in the mirror */
    vmci_lock(&q->lock);
    uint64_t before = q->next;
    if (t->pos != NOT_QUEUED)
        heap_remove(q, t);
    t->deadline = deadline_ns;
    sift_up(q, q->armed++, t);
    publish_next(q);
    if (q->next < before) {
        memcpy(fn, q->notify, sizeof(fn));
        memcpy(ctx, q->notify_ctx, sizeof(ctx));
    }
    vmci_unlock(&q->lock);
    for (unsigned i = 0; i < 2; i++) {
        if (fn[i] != NULL)
            fn[i](ctx[i]);
    }
}

void vmc_timer_disarm(struct vmc_timer *t)
{
    struct vmc_timerq *q = t->q;

    vmci_lock(&q->lock);
    if (t->pos != NOT_QUEUED) {
        heap_remove(q, t);
        publish_next(q);
    }
    vmci_unlock(&q->lock);
}

bool vmc_timer_armed(const struct vmc_timer *t, uint64_t *deadline_ns)
{
    struct vmc_timerq *q = t->q;

    vmci_lock(&q->lock);
    bool armed = t->pos != NOT_QUEUED;
    uint64_t deadline = t->deadline;
    vmci_unlock(&q->lock);
    if (armed && deadline_ns != NULL)
        *deadline_ns = deadline;
    return armed;
}
