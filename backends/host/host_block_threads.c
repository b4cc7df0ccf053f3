/* SPDX-License-Identifier: BSD-2-Clause */
/* A pool of threads that do blocking I/O, for hosts without io_uring. */
#include "host_block_priv.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct pool {
    struct vmc_host_disk *disk;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct vmc_block_req *head; /* linked through backend[0] (l) */
    struct vmc_block_req *tail; /* (l) */
    bool stop;                  /* (l) */
    unsigned threads;
    pthread_t thread[];
};

static struct vmc_block_req *take(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    while (p->head == NULL && !p->stop)
        pthread_cond_wait(&p->work, &p->lock);
    struct vmc_block_req *r = p->head; /* what is queued is finished even when stopping */
    if (r != NULL) {
        p->head = r->backend[0];
        if (p->head == NULL)
            p->tail = NULL;
    }
    pthread_mutex_unlock(&p->lock);
    return r;
}

static void *worker(void *arg)
{
    struct pool *p = arg;
    struct vmc_block_req *r;

    while ((r = take(p)) != NULL) {
        r->status = vmci_host_disk_sync(p->disk, r, 0);
        r->done(r);
    }
    return NULL;
}

static int threads_submit(struct vmc_host_disk *d, struct vmc_block_req *r)
{
    struct pool *p = d->engine_data;

    r->backend[0] = NULL;
    pthread_mutex_lock(&p->lock);
    if (p->tail != NULL)
        p->tail->backend[0] = r;
    else
        p->head = r;
    p->tail = r;
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
    return VMC_BLOCK_PENDING;
}

static void threads_close(struct vmc_host_disk *d)
{
    struct pool *p = d->engine_data;

    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->threads; i++)
        pthread_join(p->thread[i], NULL);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

static int threads_open(struct vmc_host_disk *d, struct vmc_error *err)
{
    struct pool *p = calloc(1, sizeof(*p) + d->cfg.threads * sizeof(p->thread[0]));

    if (p == NULL)
        return vmci_host_error(err, VMC_ENOMEM, 0, "host-disk/threads", "no memory");
    p->disk = d;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    d->engine_data = p;
    for (; p->threads < d->cfg.threads; p->threads++) {
        int e = pthread_create(&p->thread[p->threads], NULL, worker, p);
        if (e != 0) {
            threads_close(d);
            return vmci_host_error(err, VMC_EHOST, e, "host-disk/threads",
                                   "cannot start a thread: %s", strerror(e));
        }
    }
    return VMC_OK;
}

const struct vmci_host_engine vmci_host_engine_threads = {
    .name = "threads",
    .open = threads_open,
    .close = threads_close,
    .submit = threads_submit,
};
