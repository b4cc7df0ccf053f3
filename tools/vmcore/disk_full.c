/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE
#include "disk_full.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LOOK_S 1 /* between two looks for space */
#define SLOTS                                                                                      \
    256u /* writes that are watched at the same time; others fail when there is no space */

/* A write on its way, or waiting. */
struct slot {
    struct slot *next;
    struct disk_full *d;
    struct vmc_block_req *req;
    void (*done)(struct vmc_block_req *req); /* the issuer's */
    void *opaque;
    bool again; /* it waited before */
};

struct disk_full {
    char *name;
    struct vmc_blockdev below;
    bool flushes;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* for the thread */
    /* with the lock */
    struct slot *free, *waiting, **last; /* waiting: in the order in which they came */
    unsigned tries;                      /* of those that waited, on their way */
    bool (*wanted)(void *ctx);           /* or NULL */
    void *wanted_ctx;
    bool full; /* said so */
    bool fail, end;
    bool at_it; /* the thread has some in its hands */
    struct slot slots[SLOTS];
};

static struct slot *slot_take(struct disk_full *d, struct vmc_block_req *r)
{
    pthread_mutex_lock(&d->lock);
    struct slot *s = d->fail ? NULL : d->free;
    if (s != NULL)
        d->free = s->next;
    pthread_mutex_unlock(&d->lock);
    if (s != NULL) {
        s->req = r;
        s->done = r->done;
        s->opaque = r->opaque;
        s->again = false;
    }
    return s;
}

/* With the lock. */
static void end_try(struct slot *s)
{
    if (s->again && --s->d->tries == 0)
        pthread_cond_signal(&s->d->changed);
    s->again = false;
}

/* The request is its issuer's again. */
static void slot_give(struct slot *s)
{
    struct disk_full *d = s->d;

    s->req->done = s->done;
    s->req->opaque = s->opaque;
    pthread_mutex_lock(&d->lock);
    end_try(s);
    s->next = d->free;
    d->free = s;
    pthread_mutex_unlock(&d->lock);
}

/* True: it waits. */
static bool hold(struct slot *s)
{
    struct disk_full *d = s->d;

    pthread_mutex_lock(&d->lock);
    bool yes = !d->fail;
    if (yes) {
        s->next = NULL;
        *d->last = s;
        d->last = &s->next;
        if (!d->full)
            fprintf(stderr,
                    "%s: no space left: the guest's writes wait until somebody makes room "
                    "(full=fail with "
                    "--disk: they fail)\r\n",
                    d->name);
        end_try(s);
        d->full = true;
        pthread_cond_signal(&d->changed);
    }
    pthread_mutex_unlock(&d->lock);
    return yes;
}

static void finished(struct vmc_block_req *r)
{
    struct slot *s = r->opaque;

    if (r->status == VMC_ENOSPC && hold(s))
        return;
    slot_give(s);
    r->done(r);
}

/* VMC_BLOCK_COMPLETE: with the slot given back, or without space and the slot still taken. */
static int pass(struct slot *s)
{
    struct disk_full *d = s->d;
    struct vmc_block_req *r = s->req;

    r->done = finished;
    r->opaque = s;
    if (d->below.ops->submit(d->below.ctx, r) == VMC_BLOCK_PENDING)
        return VMC_BLOCK_PENDING;
    if (r->status != VMC_ENOSPC)
        slot_give(s);
    return VMC_BLOCK_COMPLETE;
}

static int full_submit(void *ctx, struct vmc_block_req *r)
{
    struct disk_full *d = ctx;
    bool may_wait = r->op == VMC_BLOCK_WRITE || r->op == VMC_BLOCK_WRITE_ZEROES ||
                    (r->op == VMC_BLOCK_FLUSH && d->flushes);
    struct slot *s = may_wait ? slot_take(d, r) : NULL;

    if (s == NULL)
        return d->below.ops->submit(d->below.ctx, r);
    if (pass(s) == VMC_BLOCK_PENDING)
        return VMC_BLOCK_PENDING;
    if (r->status != VMC_ENOSPC)
        return VMC_BLOCK_COMPLETE;
    if (hold(s))
        return VMC_BLOCK_PENDING;
    slot_give(s);
    return VMC_BLOCK_COMPLETE;
}

static struct slot *first(struct disk_full *d)
{
    struct slot *s = d->waiting;

    if (s != NULL)
        d->waiting = s->next;
    if (d->waiting == NULL)
        d->last = &d->waiting;
    return s;
}

/* All that wait, to be tried. */
static struct slot *take_all(struct disk_full *d)
{
    pthread_mutex_lock(&d->lock);
    struct slot *all = d->waiting;
    d->waiting = NULL;
    d->last = &d->waiting;
    for (struct slot *s = all; s != NULL; s = s->next) {
        s->again = true;
        d->tries++;
    }
    pthread_mutex_unlock(&d->lock);
    return all;
}

/* These wait on, before those that came since. */
static void put_back(struct disk_full *d, struct slot *all)
{
    struct slot **end = &all;

    pthread_mutex_lock(&d->lock);
    for (; *end != NULL; end = &(*end)->next)
        end_try(*end);
    *end = d->waiting;
    if (d->waiting == NULL)
        d->last = end;
    d->waiting = all;
    pthread_mutex_unlock(&d->lock);
}

/* Try those that wait now, one after the other, until one finds no space. */
static void look(struct disk_full *d)
{
    struct slot *next;

    for (struct slot *s = take_all(d); s != NULL; s = next) {
        struct vmc_block_req *r = s->req;
        next = s->next; /* it may be somebody else's soon */
        if (pass(s) == VMC_BLOCK_PENDING)
            continue;
        if (r->status == VMC_ENOSPC) {
            put_back(d, s);
            break;
        }
        r->done(r);
    }
    if (d->below.ops->kick != NULL)
        d->below.ops->kick(d->below.ctx);
}

static void fail_all(struct disk_full *d)
{
    struct slot *s;

    for (;;) {
        pthread_mutex_lock(&d->lock);
        s = first(d);
        pthread_mutex_unlock(&d->lock);
        if (s == NULL)
            break;
        struct vmc_block_req *r = s->req;
        slot_give(s);
        r->done(r); /* its status says what is missing */
    }
}

static void *watch(void *arg)
{
    struct disk_full *d = arg;

    pthread_mutex_lock(&d->lock);
    while (!d->end) {
        struct timespec t;
        if (d->waiting == NULL) {
            if (d->full && d->tries == 0) {
                if (!d->fail)
                    fprintf(stderr, "%s: there is space again: the guest's writes go on\r\n",
                            d->name);
                d->full = false;
            }
            pthread_cond_wait(&d->changed, &d->lock);
            continue;
        }
        clock_gettime(CLOCK_MONOTONIC, &t);
        t.tv_sec += LOOK_S;
        while (!d->fail && !d->end && pthread_cond_timedwait(&d->changed, &d->lock, &t) == 0)
            ;
        bool fail = d->fail || d->end;
        bool (*wanted)(void *ctx) = d->wanted;
        void *ctx = d->wanted_ctx;
        d->at_it = true;
        pthread_mutex_unlock(&d->lock);
        if (fail || (wanted != NULL && !wanted(ctx)))
            fail_all(d);
        else
            look(d);
        pthread_mutex_lock(&d->lock);
        d->at_it = false;
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

static int full_info(void *ctx, struct vmc_block_info *out)
{
    struct disk_full *d = ctx;
    int rc = d->below.ops->info(d->below.ctx, out);

    out->synchronous = false;
    out->can_compare_write = false;
    return rc;
}

static void full_kick(void *ctx)
{
    struct disk_full *d = ctx;

    if (d->below.ops->kick != NULL)
        d->below.ops->kick(d->below.ctx);
}

struct disk_full *disk_full_create(const char *name, struct vmc_blockdev below, bool flushes)
{
    struct disk_full *d = calloc(1, sizeof(*d));
    pthread_condattr_t attr;

    if (d == NULL)
        return NULL;
    d->name = strdup(name);
    d->below = below;
    d->flushes = flushes;
    d->last = &d->waiting;
    for (unsigned i = 0; i < SLOTS; i++) {
        d->slots[i].d = d;
        d->slots[i].next = d->free;
        d->free = &d->slots[i];
    }
    pthread_mutex_init(&d->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&d->changed, &attr);
    pthread_condattr_destroy(&attr);
    if (d->name == NULL || pthread_create(&d->thread, NULL, watch, d) != 0) {
        pthread_cond_destroy(&d->changed);
        pthread_mutex_destroy(&d->lock);
        free(d->name);
        free(d);
        return NULL;
    }
    return d;
}

bool disk_full_flushes(const struct vmc_disk *disk)
{
    struct vmc_disk_layer top;

    return disk != NULL && vmc_disk_layer(disk, 0, &top) == VMC_OK &&
           (top.format == VMC_DISK_COWD || top.format == VMC_DISK_SESPARSE);
}

struct vmc_blockdev disk_full_blockdev(struct disk_full *d)
{
    static const struct vmc_blockdev_ops ops = {
        .info = full_info, .submit = full_submit, .kick = full_kick};

    return (struct vmc_blockdev){.ops = &ops, .ctx = d};
}

void disk_full_fail(struct disk_full *d, bool fail)
{
    pthread_mutex_lock(&d->lock);
    d->fail = fail;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

void disk_full_watch(struct disk_full *d, bool (*wanted)(void *ctx), void *ctx)
{
    pthread_mutex_lock(&d->lock);
    d->wanted = wanted;
    d->wanted_ctx = ctx;
    pthread_mutex_unlock(&d->lock);
}

bool disk_full_waits(struct disk_full *d)
{
    pthread_mutex_lock(&d->lock);
    bool yes = d->waiting != NULL || d->tries != 0 || d->at_it;
    pthread_mutex_unlock(&d->lock);
    return yes;
}

void disk_full_free(struct disk_full *d)
{
    if (d == NULL)
        return;
    pthread_mutex_lock(&d->lock);
    d->end = true;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->lock);
    pthread_join(d->thread, NULL);
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->lock);
    free(d->name);
    free(d);
}
