/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE
#include "kvm_window.h"
#include "kvm_int.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NO_FRAME UINT32_MAX
#define WAITING                                                                                    \
    64u             /* touches that are answered later: one of each vCPU, and of the kernel's own  \
                     */
#define BLOCK  512u /* pages that lose their mappings together */
#define AROUND 16u

/* Since Linux 6.4 (include/uapi/linux/userfaultfd.h); older headers do not have them. */
#ifndef UFFDIO_CONTINUE_MODE_WP
#define UFFDIO_CONTINUE_MODE_WP ((__u64)1 << 1)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#define FEATURES                                                                                   \
    (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM |      \
     UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_UNPOPULATED)

struct touch {
    uint64_t page;
    bool write;
};

struct kvm_window {
    struct vmc_kvm_frames *frames;
    struct vmc_space *space;
    uint64_t first; /* the space's page that is our page 0 */
    uint64_t pages;
    unsigned char *base;
    int uffd, stop;
    pthread_t thread;
    bool running;
    uint32_t around;
    pthread_mutex_t lock; /* the mappings and what follows */
    uint64_t revokes;     /* atomic, changed under the lock */
    uint32_t *frame;      /* that each page is a mapping of */
    uint64_t mappings, max_mappings;
    uint64_t hand; /* where the search for victims goes on */
    uint64_t faults, remaps, evictions;
};

static unsigned char *address(const struct kvm_window *w, uint64_t page)
{
    return w->base + page * VMC_PAGE_SIZE;
}

/* ---- how many mappings there are ------------------------------------------------------------- */

/* Is a page not part of the mapping of the page before it? */
static unsigned begins(const struct kvm_window *w, uint64_t page)
{
    if (page == 0 || page >= w->pages)
        return 0;
    if (w->frame[page] == NO_FRAME)
        return w->frame[page - 1] != NO_FRAME;
    return w->frame[page - 1] == NO_FRAME || w->frame[page] != w->frame[page - 1] + 1;
}

static void set_frames(struct kvm_window *w, uint64_t first, uint64_t count, uint32_t frame)
{
    for (uint64_t p = first; p <= first + count; p++)
        w->mappings -= begins(w, p);
    for (uint64_t i = 0; i < count; i++)
        w->frame[first + i] = frame == NO_FRAME ? NO_FRAME : frame + (uint32_t)i;
    for (uint64_t p = first; p <= first + count; p++)
        w->mappings += begins(w, p);
}

/* ---- mappings: with the lock ----------------------------------------------------------------- */

/* A range that userfaultfd watches, in one step from no access to all. */
static bool map(struct kvm_window *w, uint64_t first, uint64_t count, uint32_t frame)
{
    bool file = frame != NO_FRAME;
    size_t bytes = count * VMC_PAGE_SIZE;
    int flags = MAP_FIXED | MAP_NORESERVE | (file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
    off_t offset = file ? (off_t)frame * (off_t)VMC_PAGE_SIZE : 0;
    struct uffdio_register reg = {
        .range = {(uintptr_t)address(w, first), bytes},
        .mode = file ? UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR |
                           UFFDIO_REGISTER_MODE_WP
                     : UFFDIO_REGISTER_MODE_MISSING,
    };
    void *at = mmap(address(w, first), bytes, PROT_NONE, flags,
                    file ? kvm_frames_fd(w->frames) : -1, offset);

    if (at == MAP_FAILED || ioctl(w->uffd, UFFDIO_REGISTER, &reg) < 0)
        return false;
    return mprotect(at, bytes, PROT_READ | PROT_WRITE) == 0;
}

/* Make mappings go until there are few enough. */
static void evict(struct kvm_window *w)
{
    for (uint64_t looks = 0; w->mappings > w->max_mappings / 4 * 3 && looks < w->pages;
         looks += BLOCK) {
        uint64_t first = w->hand, count = w->pages - first < BLOCK ? w->pages - first : BLOCK;
        w->hand = first + count < w->pages ? first + count : 0;
        if (!map(w, first, count, NO_FRAME))
            continue;
        set_frames(w, first, count, NO_FRAME);
        w->evictions++;
    }
}

/* One page's entry, or leave to write through the one that is there. */
static bool fill_one(struct kvm_window *w, uint64_t page, bool writable)
{
    struct uffdio_range range = {(uintptr_t)address(w, page), VMC_PAGE_SIZE};
    struct uffdio_continue go = {.range = range, .mode = writable ? 0 : UFFDIO_CONTINUE_MODE_WP};
    struct uffdio_writeprotect open = {.range = range};

    if (ioctl(w->uffd, UFFDIO_CONTINUE, &go) == 0)
        return true;
    return errno == EEXIST && (!writable || ioctl(w->uffd, UFFDIO_WRITEPROTECT, &open) == 0);
}

/* Entries for pages that are mapped where they should be; some may be there already. */
static bool fill(struct kvm_window *w, uint64_t first, uint64_t count, bool writable)
{
    struct uffdio_range range = {(uintptr_t)address(w, first), count * VMC_PAGE_SIZE};
    struct uffdio_continue go = {.range = range, .mode = writable ? 0 : UFFDIO_CONTINUE_MODE_WP};
    bool good = ioctl(w->uffd, UFFDIO_CONTINUE, &go) == 0;

    if (!good) { /* it stops at the first that is */
        good = true;
        for (uint64_t i = 0; i < count; i++)
            good = fill_one(w, first + i, writable) && good;
    }
    (void)ioctl(w->uffd, UFFDIO_WAKE, &range);
    return good;
}

static bool place(struct kvm_window *w, uint64_t first, uint64_t count, uint32_t frame,
                  bool writable)
{
    bool same = true;

    for (uint64_t i = 0; i < count && same; i++)
        same = w->frame[first + i] == frame + i;
    if (!same) {
        w->remaps++;
        if (w->mappings + 2 > w->max_mappings)
            evict(w);
        if (!map(w, first, count, frame)) {
            (void)map(w, first, count, NO_FRAME); /* watched again, and asked for again */
            set_frames(w, first, count, NO_FRAME);
            evict(w);
            return false;
        }
        set_frames(w, first, count, frame);
    }
    return fill(w, first, count, writable);
}

void kvm_window_revoke(struct kvm_window *w, uint64_t first, uint64_t count)
{
    if (first >= w->pages || count == 0)
        return;
    if (count > w->pages - first)
        count = w->pages - first;
    pthread_mutex_lock(&w->lock);
    __atomic_add_fetch(&w->revokes, 1, __ATOMIC_SEQ_CST);
    /* Entries go, mappings stay; the next touch is reported again. */
    (void)madvise(address(w, first), count * VMC_PAGE_SIZE, MADV_DONTNEED);
    pthread_mutex_unlock(&w->lock);
}

/* ---- touches --------------------------------------------------------------------------------- */

static uint32_t frame_of(const struct kvm_window *w, const struct vmc_page_ref *ref)
{
    return (uint32_t)((uint64_t)((unsigned char *)ref->ptr - kvm_frames_base(w->frames)) /
                      VMC_PAGE_SIZE);
}

/* Is a neighbour at hand, in the frame next to ours, and to be had the same way? */
static bool joins(struct kvm_window *w, uint64_t page, uint32_t frame, bool writable)
{
    struct vmc_page_ref ref;
    uint32_t flags = VMC_ACCESS_READY | (writable ? VMC_ACCESS_WRITE : 0);

    return vmc_space_access(w->space, w->first + page, flags, &ref) == VMC_OK &&
           frame_of(w, &ref) == frame && ref.writable == writable;
}

/* false: not to be had yet. */
static bool serve(struct kvm_window *w, const struct touch *t)
{
    uint64_t seen = __atomic_load_n(&w->revokes, __ATOMIC_SEQ_CST);
    uint64_t first = t->page, end = first + 1;
    uint64_t low = first & ~(uint64_t)(w->around - 1), high = low + w->around;
    struct vmc_page_ref ref;

    if (vmc_space_access(w->space, w->first + first, t->write ? VMC_ACCESS_WRITE : 0, &ref) !=
        VMC_OK)
        return false;
    uint32_t frame = frame_of(w, &ref);
    while (first > low && frame > 0 && joins(w, first - 1, frame - 1, ref.writable)) {
        first--;
        frame--;
    }
    while (end < high && end < w->pages &&
           joins(w, end, frame + (uint32_t)(end - first), ref.writable))
        end++;
    pthread_mutex_lock(&w->lock);
    /* What was revoked since must not be mapped again. */
    bool good = w->revokes == seen;
    if (good && place(w, first, end - first, frame, ref.writable))
        w->faults++;
    else
        good = false;
    pthread_mutex_unlock(&w->lock);
    return good;
}

static unsigned take(struct kvm_window *w, struct touch *t, unsigned room)
{
    struct uffd_msg msg[WAITING];
    ssize_t got = read(w->uffd, msg, room * sizeof(msg[0]));
    unsigned n = 0;

    for (unsigned i = 0; got > 0 && i < (size_t)got / sizeof(msg[0]); i++) {
        if (msg[i].event != UFFD_EVENT_PAGEFAULT)
            continue;
        uint64_t at = msg[i].arg.pagefault.address - (uintptr_t)w->base;
        uint64_t how = msg[i].arg.pagefault.flags;
        t[n++] = (struct touch){
            .page = at / VMC_PAGE_SIZE,
            .write = (how & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP)) != 0};
    }
    return n;
}

/* A page that cannot be had yet does not keep others waiting. */
static void *answer(void *arg)
{
    struct kvm_window *w = arg;
    struct touch waiting[WAITING];
    unsigned n = 0;

    for (;;) {
        struct pollfd fd[2] = {{.fd = w->stop, .events = POLLIN},
                               {.fd = n < WAITING ? w->uffd : -1, .events = POLLIN}};
        if (poll(fd, 2, n == 0 ? -1 : 0) < 0 && errno != EINTR)
            return NULL;
        if (fd[0].revents != 0)
            return NULL;
        if (fd[1].revents != 0)
            n += take(w, waiting + n, WAITING - n);
        unsigned left = 0;
        for (unsigned i = 0; i < n; i++)
            if (!serve(w, &waiting[i]))
                waiting[left++] = waiting[i];
        n = left;
        if (n > 0)
            vmc_space_wait(w->space);
    }
}

/* ---- life ------------------------------------------------------------------------------------ */

static uint64_t allowed_mappings(void)
{
    unsigned long long n = 65530; /* the kernel's default */
    FILE *f = fopen("/proc/sys/vm/max_map_count", "re");

    if (f != NULL) {
        if (fscanf(f, "%llu", &n) != 1)
            n = 65530;
        fclose(f);
    }
    return n;
}

static int open_uffd(struct vmc_error *err)
{
    struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) { /* where it is a device, its permissions decide */
        int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
        if (dev >= 0) {
            fd = ioctl(dev, _IO(0xAA, 0), O_CLOEXEC | O_NONBLOCK); /* USERFAULTFD_IOC_NEW */
            close(dev);
        }
    }
    if (fd < 0)
        return kvm_set_error(err, VMC_ENOTSUP,
                             "no userfaultfd (vm.unprivileged_userfaultfd, /dev/userfaultfd)");
    if (ioctl(fd, UFFDIO_API, &api) < 0) {
        close(fd);
        return kvm_set_error(err, VMC_ENOTSUP, "this kernel's userfaultfd is older than Linux 6.4");
    }
    return fd;
}

int kvm_window_create(const struct kvm_window_config *cfg, struct kvm_window **out,
                      struct vmc_error *err)
{
    struct kvm_window *w = calloc(1, sizeof(*w));

    if (w == NULL)
        return kvm_set_error(err, VMC_ENOMEM, "no memory for a window");
    w->frames = cfg->frames;
    w->pages = cfg->pages;
    w->max_mappings = cfg->max_mappings != 0 ? cfg->max_mappings : allowed_mappings() / 2;
    w->around = cfg->around != 0 ? cfg->around : AROUND;
    w->mappings = 1;
    w->base = MAP_FAILED;
    w->stop = -1;
    pthread_mutex_init(&w->lock, NULL);
    w->uffd = open_uffd(err);
    int rc = w->uffd < 0 ? w->uffd : VMC_OK;
    if (rc == VMC_OK) {
        w->frame = malloc(w->pages * sizeof(w->frame[0]));
        w->stop = eventfd(0, EFD_CLOEXEC);
        w->base = mmap(NULL, w->pages * VMC_PAGE_SIZE, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        for (uint64_t i = 0; w->frame != NULL && i < w->pages; i++)
            w->frame[i] = NO_FRAME;
        if (w->frame == NULL || w->stop < 0 || w->base == MAP_FAILED ||
            !map(w, 0, w->pages, NO_FRAME))
            rc = kvm_host_error(err, "cannot reserve a window for guest memory");
    }
    if (rc != VMC_OK) {
        kvm_window_destroy(w);
        return rc;
    }
    *out = w;
    return VMC_OK;
}

int kvm_window_bind(struct kvm_window *w, struct vmc_space *space, uint64_t first,
                    struct vmc_error *err)
{
    w->space = space;
    w->first = first;
    if (pthread_create(&w->thread, NULL, answer, w) != 0)
        return kvm_set_error(err, VMC_EHOST, "no thread for page faults");
    w->running = true;
    return VMC_OK;
}

void kvm_window_destroy(struct kvm_window *w)
{
    const uint64_t one = 1;

    if (w == NULL)
        return;
    if (w->running && write(w->stop, &one, sizeof(one)) == sizeof(one))
        pthread_join(w->thread, NULL);
    if (w->base != MAP_FAILED) /* before nobody watches it any more */
        munmap(w->base, w->pages * VMC_PAGE_SIZE);
    if (w->uffd >= 0)
        close(w->uffd);
    if (w->stop >= 0)
        close(w->stop);
    free(w->frame);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

void *kvm_window_base(const struct kvm_window *w)
{
    return w->base;
}

void kvm_window_get_stats(struct kvm_window *w, struct kvm_window_stats *out)
{
    pthread_mutex_lock(&w->lock);
    *out = (struct kvm_window_stats){.faults = w->faults,
                                     .remaps = w->remaps,
                                     .mappings = w->mappings,
                                     .evictions = w->evictions};
    pthread_mutex_unlock(&w->lock);
}
