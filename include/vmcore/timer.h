/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Timers of a VM. The embedder (or vmc_vcpu_run with self-timing) advances the queue; there is no
 * timer thread.
 */
#ifndef VMCORE_TIMER_H
#define VMCORE_TIMER_H

#include <vmcore/platform.h>

VMC_BEGIN_DECLS

struct vmc_timerq;
struct vmc_timer;

/** Called with no lock held, from vmc_timerq_advance. May arm its own timer again. */
typedef void vmc_timer_fn(void *ctx, uint64_t deadline_ns);

/** An empty queue on the platform's clock. *pf is borrowed. VMC_ENOMEM. */
VMC_API VMC_MUST_CHECK int vmc_timerq_create(const struct vmc_platform *pf, struct vmc_timerq **out);
/** Every timer must be destroyed first. */
VMC_API void vmc_timerq_destroy(struct vmc_timerq *q);

/** A new, disarmed timer. name is a static string. VMC_ENOMEM. */
VMC_API VMC_MUST_CHECK int vmc_timer_create(struct vmc_timerq *q, const char *name,
                                            vmc_timer_fn *fn, void *ctx, struct vmc_timer **out);
/** Waits for a running callback; not from the timer's own callback. NULL is allowed. */
VMC_API void vmc_timer_destroy(struct vmc_timer *t);
/** Fire once at deadline_ns of the queue's clock (now_ns of the platform). Any thread. */
VMC_API void vmc_timer_arm(struct vmc_timer *t, uint64_t deadline_ns);
/** Any thread. A callback that has begun may still be running on return. */
VMC_API void vmc_timer_disarm(struct vmc_timer *t);
/** True and the deadline when armed. */
VMC_API bool vmc_timer_armed(const struct vmc_timer *t, uint64_t *deadline_ns);

/** Time as the queue's users see it: the platform's clock, or virtual time once set. Any thread. */
VMC_API uint64_t vmc_timerq_now(const struct vmc_timerq *q);
/** Drive the clock by hand from now on (deterministic mode, tests). */
VMC_API void vmc_timerq_set_virtual(struct vmc_timerq *q, uint64_t now_ns);

/** Earliest deadline; false: none. Any thread. */
VMC_API bool vmc_timerq_next(const struct vmc_timerq *q, uint64_t *deadline_ns);
/**
 * Fire what is due at now_ns, each armed timer at most once on average: one that arms itself again
 * for the past goes off with the next call. One thread at a time fires; others return at once.
 */
VMC_API void vmc_timerq_advance(struct vmc_timerq *q, uint64_t now_ns);
/**
 * Called (from any thread, no lock held) when an earlier deadline than before was armed, so that
 * a sleeping embedder can shorten its sleep. One hook a queue.
 */
VMC_API void vmc_timerq_set_notify(struct vmc_timerq *q, void (*fn)(void *ctx), void *ctx);

VMC_END_DECLS

#endif
