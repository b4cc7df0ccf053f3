/* SPDX-License-Identifier: BSD-2-Clause */
/* A platform that passes everything on and counts what is allocated through it. */
#include "host.h"

static const struct vmc_platform *below(void *ctx)
{
    return &((struct host_overhead *)ctx)->below;
}

static void *count_alloc(void *ctx, size_t bytes, size_t align)
{
    struct host_overhead *o = ctx;
    void *p = o->below.alloc(o->below.ctx, bytes, align);

    if (p != NULL)
        atomic_fetch_add(&o->bytes, (long long)bytes);
    return p;
}

static void count_free(void *ctx, void *ptr, size_t bytes, size_t align)
{
    struct host_overhead *o = ctx;

    if (ptr != NULL)
        atomic_fetch_sub(&o->bytes, (long long)bytes);
    o->below.free(o->below.ctx, ptr, bytes, align);
}

static int count_reserve(void *ctx, size_t bytes, void **rw, const void **rx)
{
    struct host_overhead *o = ctx;
    int rc = o->below.exec->reserve(o->below.ctx, bytes, rw, rx);

    if (rc == VMC_OK)
        atomic_fetch_add(&o->bytes, (long long)bytes);
    return rc;
}

static void count_release(void *ctx, void *rw, const void *rx, size_t bytes)
{
    struct host_overhead *o = ctx;

    atomic_fetch_sub(&o->bytes, (long long)bytes);
    o->below.exec->release(o->below.ctx, rw, rx, bytes);
}

/* ---- passed on as it is ------------------------------------------------------------------------
 */

static uint64_t pass_now(void *ctx)
{
    return below(ctx)->now_ns(below(ctx)->ctx);
}

static int64_t pass_wall(void *ctx)
{
    return below(ctx)->wall_s(below(ctx)->ctx);
}

static int64_t pass_wall_ns(void *ctx)
{
    return below(ctx)->wall_ns(below(ctx)->ctx);
}

static void pass_log(void *ctx, int level, const char *module, const char *text)
{
    below(ctx)->log(below(ctx)->ctx, level, module, text);
}

static void pass_bug(void *ctx, const char *file, int line, const char *text)
{
    below(ctx)->bug(below(ctx)->ctx, file, line, text);
}

static int pass_lock_init(void *ctx, void *lock)
{
    return below(ctx)->sync->lock_init(below(ctx)->ctx, lock);
}

static void pass_lock_fini(void *ctx, void *lock)
{
    below(ctx)->sync->lock_fini(below(ctx)->ctx, lock);
}

static void pass_lock(void *ctx, void *lock)
{
    below(ctx)->sync->lock(below(ctx)->ctx, lock);
}

static void pass_unlock(void *ctx, void *lock)
{
    below(ctx)->sync->unlock(below(ctx)->ctx, lock);
}

static void pass_park(void *ctx, const uint32_t *word, uint32_t expect, uint64_t deadline_ns)
{
    below(ctx)->sync->park(below(ctx)->ctx, word, expect, deadline_ns);
}

static void pass_wake(void *ctx, const uint32_t *word)
{
    below(ctx)->sync->wake(below(ctx)->ctx, word);
}

static int pass_large_pages(void *ctx, void *at, size_t bytes)
{
    return below(ctx)->large_pages(below(ctx)->ctx, at, bytes);
}

static uint32_t pass_self(void *ctx)
{
    return below(ctx)->sync->self(below(ctx)->ctx);
}

static void pass_fence_all(void *ctx)
{
    below(ctx)->sync->fence_all(below(ctx)->ctx);
}

static int pass_fill(void *ctx, void *dst, size_t bytes)
{
    return below(ctx)->entropy->fill(below(ctx)->ctx, dst, bytes);
}

/* The host's platform has all of these groups. */
void host_overhead_wrap(struct host_overhead *o, struct vmc_platform *pf)
{
    static const struct vmc_exec_ops exec = {.reserve = count_reserve, .release = count_release};
    static const struct vmc_sync_ops sync = {.lock_bytes = VMC_LOCK_BYTES,
                                             .lock_init = pass_lock_init,
                                             .lock_fini = pass_lock_fini,
                                             .lock = pass_lock,
                                             .unlock = pass_unlock,
                                             .park = pass_park,
                                             .wake = pass_wake,
                                             .self = pass_self,
                                             .fence_all = pass_fence_all};
    static const struct vmc_entropy_ops entropy = {.fill = pass_fill};

    o->below = *pf;
    *pf = (struct vmc_platform){.size = sizeof(*pf),
                                .ctx = o,
                                .alloc = count_alloc,
                                .free = count_free,
                                .now_ns = pass_now,
                                .log = pf->log != NULL ? pass_log : NULL,
                                .bug = pf->bug != NULL ? pass_bug : NULL,
                                .exec = pf->exec != NULL ? &exec : NULL,
                                .sync = &sync,
                                .entropy = &entropy,
                                .tsc_hz = pf->tsc_hz,
                                .wall_s = pass_wall,
                                .wall_ns = pass_wall_ns,
                                .large_pages = pass_large_pages};
}
