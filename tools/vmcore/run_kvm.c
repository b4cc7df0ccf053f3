/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What KVM can keep in the kernel: doorbells of virtio devices become eventfds that a thread
 * answers, and writes to the PCI address register wait for the access to the data register behind
 * them.
 */
#define _GNU_SOURCE
#include "run_vm.h"

#include "vmcore_cmd.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#ifdef VMC_HAVE_KVM
#include <vmcore/kvm.h>

#define BELL_QUEUES 4
#define MAX_BELLS   (RUN_MAX_DISKS + RUN_MAX_NETS)
#define MAX_EVENTS  16
#define PCI_ADDRESS 0xcf8
#define BELL_BYTES                                                                                 \
    2 /* drivers write the number of the queue; any other write takes the slow way                 \
       */

struct run_bell {
    struct run_bells *all;
    struct vmc_virtio *dev; /* (l) NULL: not attached */
    struct {
        int fd;           /* -1: none yet */
        uint64_t gpa;     /* where the engine watches, 0: nowhere */
    } queue[BELL_QUEUES]; /* (l) */
};

struct run_bells {
    struct run_vm *r;
    pthread_mutex_t lock;
    int epoll_fd, stop_fd;
    pthread_t thread;
    bool stopping;
    unsigned count;
    struct run_bell bell[MAX_BELLS];
};

/* An event's number: which bell, which queue. */
static uint64_t tag_of(const struct run_bell *b, unsigned queue)
{
    return (uint64_t)(b - b->all->bell) * BELL_QUEUES + queue;
}

#define TAG_STOP UINT64_MAX

static void *bells_main(void *arg)
{
    struct run_bells *all = arg;
    struct epoll_event ev[MAX_EVENTS];
    uint64_t rings;

    pthread_setname_np(pthread_self(), "doorbells");
    for (;;) {
        int n = epoll_wait(all->epoll_fd, ev, MAX_EVENTS, -1);
        for (int i = 0; i < n; i++) {
            if (ev[i].data.u64 == TAG_STOP)
                return NULL;
            struct run_bell *b = &all->bell[ev[i].data.u64 / BELL_QUEUES];
            unsigned q = (unsigned)(ev[i].data.u64 % BELL_QUEUES);
            if (read(b->queue[q].fd, &rings, sizeof(rings)) > 0)
                vmc_virtio_notify(b->dev, q);
        }
    }
}

static int watch_fd(struct run_bells *all, int fd, uint64_t tag)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = tag};

    return epoll_ctl(all->epoll_fd, EPOLL_CTL_ADD, fd, &ev);
}

static struct run_bells *bells_create(struct run_vm *r)
{
    struct run_bells *all = calloc(1, sizeof(*all));
    sigset_t every, old;

    if (all == NULL)
        return NULL;
    all->r = r;
    pthread_mutex_init(&all->lock, NULL);
    all->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    all->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &old); /* signals are the main thread's */
    bool ok = all->epoll_fd >= 0 && all->stop_fd >= 0 &&
              watch_fd(all, all->stop_fd, TAG_STOP) == 0 &&
              pthread_create(&all->thread, NULL, bells_main, all) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (ok)
        return all;
    close(all->epoll_fd);
    close(all->stop_fd);
    free(all);
    return NULL;
}

static bool is_kvm(const struct run_vm *r)
{
    return strcmp(r->engine->name, "kvm") == 0;
}

int run_kvm_coalesce(struct run_vm *r)
{
    if (!is_kvm(r))
        return 0;
    /* The reset register inside it, 0xcf9, can wait too: the engine looks up a few times a second.
     */
    int rc = vmc_kvm_coalesce(vmc_vm_engine(r->vm), true, PCI_ADDRESS, 4, true);
    if (rc == VMC_OK || rc == VMC_ENOTSUP) /* old kernels only coalesce memory */
        return 0;
    fprintf(stderr, "vmcore run: KVM cannot coalesce writes: %s\n", vmc_strerror(rc));
    return EXIT_ERROR;
}

struct run_bell *run_bells_add(struct run_vm *r)
{
    if (!is_kvm(r))
        return NULL;
    if (r->bells == NULL)
        r->bells = bells_create(r);
    if (r->bells == NULL || r->bells->count == MAX_BELLS)
        return NULL; /* the vCPU answers itself */
    struct run_bell *b = &r->bells->bell[r->bells->count++];
    b->all = r->bells;
    for (unsigned q = 0; q < BELL_QUEUES; q++)
        b->queue[q].fd = -1;
    return b;
}

void run_bell_attach(struct run_bell *b, struct vmc_virtio *dev)
{
    if (b == NULL)
        return;
    pthread_mutex_lock(&b->all->lock);
    b->dev = dev;
    pthread_mutex_unlock(&b->all->lock);
}

/* Lock held. */
static void move_bell(struct run_bell *b, unsigned q, uint64_t gpa)
{
    void *evm = vmc_vm_engine(b->all->r->vm);
    uint64_t *at = &b->queue[q].gpa;

    if (*at == gpa)
        return;
    if (*at != 0 &&
        vmc_kvm_ioeventfd(evm, false, *at, BELL_BYTES, NULL, b->queue[q].fd, false) != VMC_OK)
        return; /* it stays where it is: rings for nobody */
    *at = 0;
    if (gpa == 0)
        return;
    if (b->queue[q].fd < 0) {
        b->queue[q].fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (b->queue[q].fd < 0 || watch_fd(b->all, b->queue[q].fd, tag_of(b, q)) != 0)
            return; /* without, the vCPU answers itself */
    }
    if (vmc_kvm_ioeventfd(evm, false, gpa, BELL_BYTES, NULL, b->queue[q].fd, true) == VMC_OK)
        *at = gpa;
}

void run_bell_changed(void *bell)
{
    struct run_bell *b = bell;

    pthread_mutex_lock(&b->all->lock);
    for (unsigned q = 0; b->dev != NULL && q < BELL_QUEUES; q++) {
        uint64_t gpa = 0;
        bool live =
            !b->all->stopping && vmc_virtio_live(b->dev) && vmc_virtio_doorbell(b->dev, q, &gpa);
        move_bell(b, q, live ? gpa : 0);
    }
    pthread_mutex_unlock(&b->all->lock);
}

void run_bells_stop(struct run_vm *r)
{
    struct run_bells *all = r->bells;
    uint64_t one = 1;

    if (all == NULL)
        return;
    pthread_mutex_lock(&all->lock);
    all->stopping = true;
    pthread_mutex_unlock(&all->lock);
    for (unsigned i = 0; i < all->count; i++)
        run_bell_changed(&all->bell[i]);
    if (write(all->stop_fd, &one, sizeof(one)) == sizeof(one))
        pthread_join(all->thread, NULL);
}

void run_bells_free(struct run_vm *r)
{
    struct run_bells *all = r->bells;

    if (all == NULL)
        return;
    for (unsigned i = 0; i < all->count; i++) {
        for (unsigned q = 0; q < BELL_QUEUES; q++)
            if (all->bell[i].queue[q].fd >= 0)
                close(all->bell[i].queue[q].fd);
    }
    close(all->epoll_fd);
    close(all->stop_fd);
    pthread_mutex_destroy(&all->lock);
    free(all);
    r->bells = NULL;
}

#else

int run_kvm_coalesce(struct run_vm *r)
{
    (void)r;
    return 0;
}

struct run_bell *run_bells_add(struct run_vm *r)
{
    (void)r;
    return NULL;
}

void run_bell_attach(struct run_bell *b, struct vmc_virtio *dev)
{
    (void)b;
    (void)dev;
}

void run_bell_changed(void *bell)
{
    (void)bell;
}

void run_bells_stop(struct run_vm *r)
{
    (void)r;
}

void run_bells_free(struct run_vm *r)
{
    (void)r;
}

#endif
