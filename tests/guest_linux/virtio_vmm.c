/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A VMM for testing the virtio devices with a stock Linux guest. The guest's script asks for things
 * to happen on the host through a virtio-serial port, one line each, and gets "ok" or "fail ..."
 * back.
 *
 * Usage: virtio_vmm KERNEL INITRD DISK CMDLINE packed|split|intx|paged
 *
 * With "paged" the guest's memory is pages of a space, which the balloon gives back to a pool.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "file_image.h"
#include <vmcore/cpuid.h>
#include <vmcore/host.h>
#include <vmcore/host_block.h>
#include <vmcore/host_net.h>
#include <vmcore/pages.h>
#include <vmcore/pc.h>
#include <vmcore/virtio_balloon.h>
#include <vmcore/virtio_blk.h>
#include <vmcore/virtio_console.h>
#include <vmcore/virtio_net.h>
#include <vmcore/virtio_rng.h>

#define RAM_BYTES  (256ull << 20)
#define PATIENCE_S 60

static struct vmc_platform pf;
static struct vmc_vm *vm;
static struct vmc_pc *pc;
static struct vmc_virtio *console, *balloon, *nic, *blk;
static struct vmc_pool *pool; /* paged: where the guest's pages are; else NULL */
static struct vmc_space *space;
static struct vmc_host_disk *disk;
static struct vmc_host_net *net;
static const char *disk_path;
static atomic_uint hint_rounds, stats_answers, discards, flushes;
static atomic_bool passed;

/* Lines from the guest, and what its console printed. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static char pipe_text[65536];
static size_t pipe_bytes;
static char hvc_text[65536];
static size_t hvc_bytes;
static bool stopping;
static char held_input[4096]; /* for the guest, until it takes it */
static size_t held_bytes;

static void die(const char *what, const struct vmc_error *err)
{
    fprintf(stderr, "virtio_vmm: %s: %s\n", what, err->text);
    exit(1);
}

/* ---- back ends ----------------------------------------------------------------------------- */

static int serial_write(void *ctx, const void *data, size_t n)
{
    (void)ctx;
    fwrite(data, 1, n, stdout);
    fflush(stdout);
    return (int)n;
}

static void append(char *text, size_t *bytes, size_t room, const void *data, size_t n)
{
    pthread_mutex_lock(&lock);
    n = n < room - 1 - *bytes ? n : room - 1 - *bytes;
    memcpy(text + *bytes, data, n);
    *bytes += n;
    text[*bytes] = 0;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static int hvc_write(void *ctx, const void *data, size_t n)
{
    (void)ctx;
    append(hvc_text, &hvc_bytes, sizeof(hvc_text), data, n);
    return (int)n;
}

static int pipe_write(void *ctx, const void *data, size_t n)
{
    (void)ctx;
    append(pipe_text, &pipe_bytes, sizeof(pipe_text), data, n);
    return (int)n;
}

static void push_input(void)
{
    pthread_mutex_lock(&lock);
    int took = vmc_virtio_console_input(console, 1, held_input, held_bytes);
    if (took > 0) {
        memmove(held_input, held_input + took, held_bytes - (size_t)took);
        held_bytes -= (size_t)took;
    }
    pthread_mutex_unlock(&lock);
}

static atomic_bool input_wanted;

static void rx_ready(void *ctx, unsigned port)
{
    (void)ctx;
    (void)port;
    atomic_store(&input_wanted, true);
    pthread_cond_broadcast(&changed);
}

static void give_back(void *ctx, uint64_t gpa, uint64_t bytes)
{
    (void)ctx;
    /* What the guest gave up is overwritten: if it were still in use, the guest would crash. */
    static const unsigned char junk[4096] = {0xbd, 0xbd};
    for (uint64_t at = 0; at < bytes; at += sizeof(junk))
        if (vmc_mem_write(vmc_vm_mem(vm), gpa + at, junk, sizeof(junk)) != VMC_OK)
            exit(3);
}

static void hint_done(void *ctx)
{
    (void)ctx;
    atomic_fetch_add(&hint_rounds, 1);
}

static void got_stats(void *ctx, const struct vmc_balloon_stats *st)
{
    (void)ctx;
    (void)st;
    atomic_fetch_add(&stats_answers, 1);
}

/* The disk, with a count of what passes. */
static int count_info(void *ctx, struct vmc_block_info *out)
{
    struct vmc_blockdev d = vmc_host_disk_blockdev(ctx);
    return d.ops->info(d.ctx, out);
}

static int count_submit(void *ctx, struct vmc_block_req *r)
{
    struct vmc_blockdev d = vmc_host_disk_blockdev(ctx);
    if (r->op == VMC_BLOCK_FLUSH)
        atomic_fetch_add(&flushes, 1);
    if (r->op == VMC_BLOCK_DISCARD)
        atomic_fetch_add(&discards, 1);
    return d.ops->submit(d.ctx, r);
}

static void count_kick(void *ctx)
{
    struct vmc_blockdev d = vmc_host_disk_blockdev(ctx);
    d.ops->kick(d.ctx);
}

static int to_nic(void *ctx, const struct vmc_iovec *iov, uint32_t n)
{
    (void)ctx;
    return vmc_virtio_net_receive(nic, iov, n);
}

static void nic_ready(void *ctx)
{
    (void)ctx;
    vmc_host_net_rx_ready(net);
}

/* ---- what the guest may ask for ------------------------------------------------------------ */

static struct vmc_balloon_info balloon_info(void)
{
    struct vmc_balloon_info i = {.size = sizeof(i)};
    vmc_virtio_balloon_info(balloon, &i);
    return i;
}

static bool held_is(uint64_t pages)
{
    return balloon_info().held_pages == pages && balloon_info().actual_pages == pages;
}

/* Poll a condition for PATIENCE_S. */
#define EVENTUALLY(cond)                                                                           \
    ({                                                                                             \
        bool ok_ = false;                                                                          \
        for (unsigned i_ = 0; i_ < PATIENCE_S * 50 && !ok_; i_++) {                                \
            ok_ = (cond);                                                                          \
            if (!ok_)                                                                              \
                usleep(20000);                                                                     \
        }                                                                                          \
        ok_;                                                                                       \
    })

static const char *do_balloon(uint64_t pages)
{
    vmc_virtio_balloon_set_target(balloon, pages);
    return EVENTUALLY(held_is(pages)) ? NULL : "the balloon does not reach its target";
}

/* What the balloon and reports did to the pages. */
static uint64_t pages_in(enum vmc_page_state state)
{
    struct vmc_space_stats st;
    vmc_space_stats(space, &st);
    return st.state[state];
}

/* Pages that the pool and the guest's map count differently, or that the balloon did not free. */
static const char *do_paged(void)
{
    struct vmc_balloon_info i = balloon_info();
    struct vmc_pool_stats ps;

    if (space == NULL)
        return NULL;
    vmc_space_poll(space);
    vmc_pool_stats(pool, &ps);
    if (ps.private_frames != pages_in(VMC_PAGE_PRIVATE))
        return "the pool holds frames that are no page's";
    /* Pages that share a counter with one that a device has pinned keep their memory. */
    uint64_t gone = pages_in(VMC_PAGE_BALLOON);
    printf("[vmm] %llu of %llu pages in the balloon have no memory\n", (unsigned long long)gone,
           (unsigned long long)i.held_pages);
    return gone <= i.held_pages && gone + i.held_pages / 16 >= i.held_pages
               ? NULL
               : "the balloon freed too little";
}

static uint64_t squeezed;

/* As large as the policy would ask for; the guest will want some of it back. */
static const char *do_squeeze(void)
{
    static struct vmc_balloon_guest g;
    struct vmc_balloon_seen seen;

    vmc_balloon_guest_init(&g, RAM_BYTES / VMC_PAGE_SIZE);
    for (unsigned i = 0; i < 2; i++) { /* the second time with statistics */
        vmc_virtio_balloon_look(balloon, &seen);
        vmc_balloon_guest_look(&g, &seen, pf.now_ns(pf.ctx));
        if (i == 0 && !EVENTUALLY((vmc_virtio_balloon_look(balloon, &seen), seen.said)))
            return "no statistics came";
    }
    uint64_t most = vmc_balloon_guest_ask(&g, UINT64_MAX, pf.now_ns(pf.ctx));
    if (most < 16384 || most > RAM_BYTES / VMC_PAGE_SIZE * 65 / 100)
        return "a strange amount to spare";
    squeezed = most;
    return do_balloon(most);
}

static const char *do_stats(void)
{
    struct vmc_balloon_stats st;
    unsigned before = atomic_load(&stats_answers);
    if (vmc_virtio_balloon_request_stats(balloon) != VMC_OK)
        return "statistics are not supported";
    if (!EVENTUALLY(atomic_load(&stats_answers) > before))
        return "no statistics came";
    vmc_virtio_balloon_stats(balloon, &st);
    if ((st.valid & 1u << VMC_BALLOON_TOTAL) == 0 || st.value[VMC_BALLOON_TOTAL] > RAM_BYTES ||
        st.value[VMC_BALLOON_TOTAL] < RAM_BYTES / 2)
        return "the statistics make no sense";
    return NULL;
}

static const char *do_hints(void)
{
    unsigned before = atomic_load(&hint_rounds);
    if (vmc_virtio_balloon_hint_start(balloon) != VMC_OK)
        return "hinting is not supported";
    bool done = EVENTUALLY(atomic_load(&hint_rounds) > before);
    vmc_virtio_balloon_hint_release(balloon);
    if (!done)
        return "the round of hints does not end";
    return balloon_info().hinted_bytes > RAM_BYTES / 4 ? NULL : "few pages were hinted";
}

static const char *do_grow(uint64_t bytes)
{
    if (truncate(disk_path, (off_t)bytes) != 0)
        return "cannot grow the file";
    return vmc_virtio_blk_resized(blk) == VMC_OK ? NULL : "the device does not see it";
}

static const char *obey(const char *what, uint64_t n)
{
    if (strcmp(what, "balloon") == 0)
        return do_balloon(n);
    if (strcmp(what, "paged") == 0)
        return do_paged();
    if (strcmp(what, "squeeze") == 0)
        return do_squeeze();
    if (strcmp(what, "deflated") == 0)
        return EVENTUALLY(balloon_info().held_pages < squeezed) ? NULL
                                                                : "the balloon keeps its size";
    if (strcmp(what, "stats") == 0)
        return do_stats();
    if (strcmp(what, "hints") == 0)
        return do_hints();
    if (strcmp(what, "grow") == 0)
        return do_grow(n);
    if (strcmp(what, "reported") == 0) {
        bool enough = EVENTUALLY(balloon_info().reported_bytes >= n);
        fprintf(stderr, "[vmm] %llu bytes were reported\n",
                (unsigned long long)balloon_info().reported_bytes);
        return enough ? NULL : "too little was reported";
    }
    if (strcmp(what, "flushed") == 0)
        return atomic_load(&flushes) >= n ? NULL : "no flush reached the disk";
    if (strcmp(what, "discarded") == 0)
        return atomic_load(&discards) >= n ? NULL : "no discard reached the disk";
    if (strcmp(what, "hvc") == 0)
        return EVENTUALLY(strstr(hvc_text, "text-for-hvc0") != NULL) ? NULL : "nothing on hvc0";
    if (strcmp(what, "passed") == 0) {
        atomic_store(&passed, true);
        return NULL;
    }
    return "not a thing I can do";
}

static void reply(const char *why)
{
    pthread_mutex_lock(&lock);
    held_bytes += (size_t)snprintf(held_input + held_bytes, sizeof(held_input) - held_bytes,
                                   why == NULL ? "ok\n" : "fail %s\n", why);
    pthread_mutex_unlock(&lock);
    push_input();
}

/* The next whole line of the guest; false: the end. */
static bool next_line(char *line, size_t room)
{
    pthread_mutex_lock(&lock);
    char *end;
    while ((end = strchr(pipe_text, '\n')) == NULL && !stopping) {
        if (atomic_exchange(&input_wanted, false)) {
            pthread_mutex_unlock(&lock);
            push_input();
            pthread_mutex_lock(&lock);
            continue;
        }
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_nsec += 50000000;
        if (t.tv_nsec >= 1000000000) {
            t.tv_sec++;
            t.tv_nsec -= 1000000000;
        }
        pthread_cond_timedwait(&changed, &lock, &t);
    }
    if (end != NULL) {
        size_t n = (size_t)(end - pipe_text);
        snprintf(line, room, "%.*s", (int)n, pipe_text);
        memmove(pipe_text, end + 1, pipe_bytes - n);
        pipe_bytes -= n + 1;
    }
    pthread_mutex_unlock(&lock);
    return end != NULL;
}

static void *conversation(void *arg)
{
    char line[256];
    (void)arg;
    while (next_line(line, sizeof(line))) {
        char what[64] = "";
        unsigned long long n = 0;
        (void)sscanf(line, "%63s %llu", what, &n);
        const char *why = obey(what, n);
        printf("[vmm] %s: %s\n", line, why == NULL ? "ok" : why);
        fflush(stdout);
        reply(why);
    }
    return NULL;
}

/* ---- the machine --------------------------------------------------------------------------- */

static struct vmc_virtio_config place(const char *variant)
{
    struct vmc_virtio_config c = {
        .size = sizeof(c), .pci = vmc_pc_pci(pc), .slot = VMC_PCI_ANY_SLOT};
    if (strcmp(variant, "packed") != 0)
        c.flags |= VMC_VIRTIO_NO_PACKED;
    if (strcmp(variant, "intx") == 0)
        c.flags |= VMC_VIRTIO_NO_MSIX | VMC_VIRTIO_NO_EVENT_IDX | VMC_VIRTIO_NO_INDIRECT;
    return c;
}

static void add_storage_and_network(const char *variant)
{
    static const struct vmc_blockdev_ops counting = {
        .info = count_info, .submit = count_submit, .kick = count_kick};
    struct vmc_board *bd = vmc_vm_board(vm);
    struct vmc_error err;
    struct vmc_host_disk_config dc = {.size = sizeof(dc), .path = disk_path};
    struct vmc_host_user_net_config uc = {.size = sizeof(uc), .hostname = "linux"};

    if (vmc_host_disk_open(&dc, &disk, &err) != VMC_OK)
        die("disk", &err);
    const struct vmc_virtio_blk_config bc = {.virtio = place(variant),
                                             .disk = {.ops = &counting, .ctx = disk},
                                             .serial = "TEST-SERIAL-1",
                                             .queues = 2};
    if (vmc_virtio_blk_create(bd, &bc, &blk, &err) != VMC_OK)
        die("virtio-blk", &err);
    if (vmc_host_user_net_open(&uc, &net, &err) != VMC_OK)
        die("network", &err);
    const struct vmc_virtio_net_config nc = {.virtio = place(variant),
                                             .net = vmc_host_net_dev(net),
                                             .mac = {0x52, 0x54, 0, 0x12, 0x34, 0x56},
                                             .rx_ready = nic_ready};
    if (vmc_virtio_net_create(bd, &nc, &nic, &err) != VMC_OK ||
        vmc_host_net_start(net, to_nic, NULL, &err) != VMC_OK)
        die("virtio-net", &err);
}

static void add_others(const char *variant)
{
    static const struct vmc_chardev_ops hvc_ops = {.write = hvc_write};
    static const struct vmc_chardev_ops pipe_ops = {.write = pipe_write};
    static const struct vmc_balloon_ops balloon_ops = {
        .inflate = give_back, .report = give_back, .hint_done = hint_done, .stats = got_stats};
    static struct vmc_balloon_ops balloon_paged;
    const struct vmc_balloon_ops *balloon_does = &balloon_ops;
    if (space != NULL) { /* what the library does, and our counters */
        balloon_paged = *vmc_virtio_balloon_space_ops();
        balloon_paged.hint_done = hint_done;
        balloon_paged.stats = got_stats;
        balloon_does = &balloon_paged;
    }
    const struct vmc_virtio_console_port ports[2] = {
        {.out = {.ops = &hvc_ops}, .console = true},
        {.name = "org.vmcore.test", .out = {.ops = &pipe_ops}},
    };
    struct vmc_board *bd = vmc_vm_board(vm);
    struct vmc_error err;
    struct vmc_virtio *rng;
    const struct vmc_virtio_console_config cc = {.virtio = place(variant),
                                                 .port_count = 2,
                                                 .cols = 80,
                                                 .rows = 25,
                                                 .ports = ports,
                                                 .rx_ready = rx_ready};
    if (vmc_virtio_console_create(bd, &cc, &console, &err) != VMC_OK)
        die("virtio-console", &err);
    const struct vmc_virtio_rng_config rc = {.virtio = place(variant)};
    if (vmc_virtio_rng_create(bd, &rc, &rng, &err) != VMC_OK)
        die("virtio-rng", &err);
    const struct vmc_virtio_balloon_config bc = {.virtio = place(variant),
                                                 .ops = balloon_does,
                                                 .ctx = vmc_vm_mem(vm),
                                                 .deflate_on_oom = true,
                                                 .free_page_reporting = true,
                                                 .free_page_hinting = true};
    if (vmc_virtio_balloon_create(bd, &bc, &balloon, &err) != VMC_OK)
        die("virtio-balloon", &err);
}

static void create_space(void)
{
    const struct vmc_pool_config pool_cfg = {.size = sizeof(pool_cfg),
                                             .frames = RAM_BYTES / VMC_PAGE_SIZE + 1024};
    const struct vmc_space_config cfg = {.size = sizeof(cfg),
                                         .pages = RAM_BYTES / VMC_PAGE_SIZE,
                                         .provider = vmc_mem_provider(),
                                         .provider_ctx = vmc_vm_mem(vm)};
    struct vmc_error err;

    if (vmc_pool_create(&pf, &pool_cfg, &pool, &err) != VMC_OK ||
        vmc_space_create(pool, &cfg, &space, &err) != VMC_OK)
        die("pages", &err);
}

static void create(const char *variant)
{
    static const struct vmc_chardev_ops serial_ops = {.write = serial_write};
    struct vmc_error err;
    struct vmc_vcpu *vcpu;

    if (vmc_host_platform_init(&pf, NULL, &err) != VMC_OK)
        die("platform", &err);
    const struct vmc_vm_config vc = {
        .size = sizeof(vc), .max_vcpus = 1, .platform = &pf, .engine = vmc_engine_soft()};
    if (vmc_vm_create(&vc, &vm, &err) != VMC_OK)
        die("VM", &err);
    if (strcmp(variant, "paged") == 0)
        create_space();
    const struct vmc_pc_config pcc = {.size = sizeof(pcc),
                                      .ram_bytes = RAM_BYTES,
                                      .cpus = 1,
                                      .ram_space = space,
                                      .serial = {.ops = &serial_ops}};
    if (vmc_pc_create(vm, &pcc, &pc, &err) != VMC_OK)
        die("machine", &err);
    add_storage_and_network(variant);
    add_others(variant);
    if (vmc_vcpu_create(vm, 0, &vcpu, &err) != VMC_OK)
        die("vCPU", &err);
}

static void boot(const char *kernel, const char *initrd, const char *cmdline)
{
    static struct file_image images[2];
    struct vmc_boot_result done;
    struct vmc_error err;

    file_image_open(&images[0], kernel);
    file_image_open(&images[1], initrd);
    const struct vmc_pc_boot b = {.size = sizeof(b),
                                  .kind = VMC_BOOT_AUTO,
                                  .kernel = &images[0].src,
                                  .initrd = &images[1].src,
                                  .cmdline = cmdline};
    if (vmc_pc_boot(pc, &b, &done, &err) != VMC_OK || vmc_vm_start(vm, &err) != VMC_OK)
        die("boot", &err);
}

int main(int argc, char **argv)
{
    pthread_t talker;
    struct vmc_exit x = {0};

    if (argc != 6) {
        fprintf(stderr, "usage: virtio_vmm KERNEL INITRD DISK CMDLINE packed|split|intx|paged\n");
        return 2;
    }
    disk_path = argv[3];
    create(argv[5]);
    boot(argv[1], argv[2], argv[4]);
    if (pthread_create(&talker, NULL, conversation, NULL) != 0)
        return 1;
    while (x.kind != VMC_EXIT_SHUTDOWN) {
        struct vmc_run_limits lim = {.size = sizeof(lim),
                                     .flags = VMC_RUN_PARK | VMC_RUN_SELF_TIMED};
        int rc = vmc_vcpu_run(vmc_vm_vcpu(vm, 0), &lim, &x);
        if (rc < 0 || (x.kind != VMC_EXIT_SHUTDOWN && x.kind != VMC_EXIT_KICKED &&
                       x.kind != VMC_EXIT_IDLE && x.kind != VMC_EXIT_BUDGET)) {
            fprintf(stderr, "virtio_vmm: run answered %d, exit %s\n", rc, vmc_exit_name(x.kind));
            return 1;
        }
    }
    pthread_mutex_lock(&lock);
    stopping = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    pthread_join(talker, NULL);
    vmc_host_net_close(net);
    vmc_pc_destroy(pc);
    vmc_vm_destroy(vm);
    vmc_host_disk_close(disk);
    return atomic_load(&passed) ? 0 : 1;
}
