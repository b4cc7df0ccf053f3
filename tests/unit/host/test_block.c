/* SPDX-License-Identifier: BSD-2-Clause */
/* Raw disks on real files, through io_uring and through threads. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <liburing.h>
#include <pthread.h>
#include <vmcore/host_block.h>

#include <cmocka.h>

#define DISK_BYTES (4u << 20)

static char path[64];

static int make_file(void **state)
{
    (void)state;
    const char *dir = getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp";
    snprintf(path, sizeof(path), "%s/vmc-disk-XXXXXX", dir);
    int fd = mkstemp(path);
    if (fd < 0 || ftruncate(fd, DISK_BYTES) != 0)
        return -1;
    close(fd);
    return 0;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

static struct vmc_host_disk *open_disk(uint32_t engine, bool direct)
{
    struct vmc_host_disk_config cfg = {
        .size = sizeof(cfg), .engine = engine, .path = path, .direct = direct};
    struct vmc_host_disk *d = NULL;
    struct vmc_error err = {0};
    int rc = vmc_host_disk_open(&cfg, &d, &err);
    if (rc != VMC_OK)
        print_message("%s\n", err.text);
    return rc == VMC_OK ? d : NULL;
}

/* ---- waiting for requests ------------------------------------------------------------------ */

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    unsigned done;
};

static void on_done(struct vmc_block_req *r)
{
    struct waiter *w = r->opaque;
    pthread_mutex_lock(&w->lock);
    w->done++;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static void wait_for(struct waiter *w, unsigned n)
{
    pthread_mutex_lock(&w->lock);
    while (w->done < n)
        pthread_cond_wait(&w->cond, &w->lock);
    pthread_mutex_unlock(&w->lock);
}

static int run(struct vmc_host_disk *d, uint32_t op, uint64_t offset, uint64_t bytes,
               struct vmc_iovec *iov, uint32_t n)
{
    struct vmc_blockdev b = vmc_host_disk_blockdev(d);
    struct waiter w = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};
    struct vmc_block_req r = {
        .op = op, .offset = offset, .bytes = bytes, .iov = iov, .iov_count = n, .done = on_done,
        .opaque = &w};
    if (b.ops->submit(b.ctx, &r) == VMC_BLOCK_PENDING) {
        b.ops->kick(b.ctx);
        wait_for(&w, 1);
    }
    return r.status;
}

static int rw(struct vmc_host_disk *d, bool write, uint64_t offset, void *p, size_t n)
{
    struct vmc_iovec iov = {p, n};
    return run(d, write ? VMC_BLOCK_WRITE : VMC_BLOCK_READ, offset, n, &iov, 1);
}

static const uint32_t engines[] = {VMC_HOST_DISK_URING, VMC_HOST_DISK_THREADS};
static const char *const engine_names[] = {"io_uring", "threads"};

/* ---- tests --------------------------------------------------------------------------------- */

static void what_is_written_is_in_the_file_and_read_back(void **state)
{
    (void)state;
    for (unsigned e = 0; e < 2; e++) {
        struct vmc_host_disk *d = open_disk(engines[e], false);
        assert_non_null(d);
        assert_string_equal(vmc_host_disk_engine_name(d), engine_names[e]);
        static unsigned char a[8192];
        static unsigned char b[8192];
        for (unsigned i = 0; i < sizeof(a); i++)
            a[i] = (unsigned char)(i * 7 + e);
        struct vmc_iovec out[3] = {{a, 512}, {a + 512, 4096 - 512}, {a + 4096, 4096}};
        assert_int_equal(run(d, VMC_BLOCK_WRITE, 1024, 8192, out, 3), VMC_OK);
        assert_int_equal(run(d, VMC_BLOCK_FLUSH, 0, 0, NULL, 0), VMC_OK);
        assert_int_equal(rw(d, false, 1024, b, 8192), VMC_OK);
        assert_memory_equal(a, b, sizeof(a));
        int fd = open(path, O_RDONLY);
        memset(b, 0, sizeof(b));
        assert_int_equal(pread(fd, b, sizeof(b), 1024), sizeof(b));
        assert_memory_equal(a, b, sizeof(a));
        close(fd);
        vmc_host_disk_close(d);
    }
}

static void many_requests_at_once_all_complete(void **state)
{
    (void)state;
    for (unsigned e = 0; e < 2; e++) {
        struct vmc_host_disk *d = open_disk(engines[e], false);
        struct vmc_blockdev b = vmc_host_disk_blockdev(d);
        enum { N = 1000 }; /* more than the ring's depth */
        static unsigned char data[N][512];
        static struct vmc_block_req r[N];
        static struct vmc_iovec iov[N];
        struct waiter w = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};
        for (unsigned i = 0; i < N; i++) {
            memset(data[i], (int)(i + e), 512);
            iov[i] = (struct vmc_iovec){data[i], 512};
            r[i] = (struct vmc_block_req){.op = VMC_BLOCK_WRITE, .offset = i * 512ull, .bytes = 512,
                                          .iov = &iov[i], .iov_count = 1, .done = on_done,
                                          .opaque = &w};
            if (b.ops->submit(b.ctx, &r[i]) == VMC_BLOCK_COMPLETE)
                on_done(&r[i]);
        }
        b.ops->kick(b.ctx);
        wait_for(&w, N);
        unsigned char back[512];
        for (unsigned i = 0; i < N; i++) {
            assert_int_equal(r[i].status, VMC_OK);
            assert_int_equal(rw(d, false, i * 512ull, back, 512), VMC_OK);
            assert_int_equal(back[100], (unsigned char)(i + e));
        }
        vmc_host_disk_close(d);
    }
}

static uint64_t blocks_of_file(void)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_blocks;
}

static void discard_releases_blocks_and_zeroes_are_zero(void **state)
{
    (void)state;
    for (unsigned e = 0; e < 2; e++) {
        struct vmc_host_disk *d = open_disk(engines[e], false);
        struct vmc_blockdev b = vmc_host_disk_blockdev(d);
        struct vmc_block_info info;
        static unsigned char a[1 << 20];
        assert_int_equal(b.ops->info(b.ctx, &info), VMC_OK);
        memset(a, 0xaa, sizeof(a));
        assert_int_equal(rw(d, true, 0, a, sizeof(a)), VMC_OK);
        assert_int_equal(run(d, VMC_BLOCK_FLUSH, 0, 0, NULL, 0), VMC_OK);
        uint64_t before = blocks_of_file();
        assert_int_equal(run(d, VMC_BLOCK_DISCARD, 65536, 1 << 19, NULL, 0), VMC_OK);
        if (info.can_discard)
            assert_true(blocks_of_file() < before);
        assert_int_equal(run(d, VMC_BLOCK_WRITE_ZEROES, 0, 4096, NULL, 0), VMC_OK);
        assert_int_equal(rw(d, false, 0, a, 8192), VMC_OK);
        for (unsigned i = 0; i < 4096; i++)
            assert_int_equal(a[i], 0);
        assert_int_equal(a[4096], 0xaa);
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_size, DISK_BYTES);
        vmc_host_disk_close(d);
    }
}

static void direct_io_takes_buffers_of_any_alignment(void **state)
{
    (void)state;
    for (unsigned e = 0; e < 2; e++) {
        struct vmc_host_disk *d = open_disk(engines[e], true);
        if (d == NULL) {
            print_message("this file system has no O_DIRECT\n");
            skip();
        }
        struct vmc_blockdev b = vmc_host_disk_blockdev(d);
        struct vmc_block_info info;
        assert_int_equal(b.ops->info(b.ctx, &info), VMC_OK);
        unsigned char *a = NULL;
        assert_int_equal(posix_memalign((void **)&a, 4096, 32768), 0);
        for (unsigned i = 0; i < 16384; i++)
            a[i + 3] = (unsigned char)(i * 13 + e);
        assert_int_equal(rw(d, true, 8192, a + 3, 8192), VMC_OK);
        /* odd pieces that make up whole sectors */
        struct vmc_iovec out[2] = {{a + 3, 100}, {a + 103, 8192 - 100}};
        assert_int_equal(run(d, VMC_BLOCK_WRITE, 65536, 8192, out, 2), VMC_OK);
        assert_int_equal(rw(d, false, 65536, a + 16385, 8192), VMC_OK);
        assert_memory_equal(a + 3, a + 16385, 8192);
        assert_int_equal(rw(d, false, 8192, a + 16384, 8192), VMC_OK);
        assert_memory_equal(a + 3, a + 16384, 8192);
        free(a);
        vmc_host_disk_close(d);
    }
}

static void second_writer_is_told_that_the_disk_is_in_use(void **state)
{
    (void)state;
    struct vmc_host_disk *d = open_disk(VMC_HOST_DISK_AUTO, false);
    struct vmc_host_disk_config cfg = {.size = sizeof(cfg), .path = path};
    struct vmc_host_disk *second;
    struct vmc_error err;
    assert_int_equal(vmc_host_disk_open(&cfg, &second, &err), VMC_EBUSY);
    assert_non_null(strstr(err.text, "in use"));
    assert_non_null(strstr(err.text, path));
    cfg.read_only = true;
    assert_int_equal(vmc_host_disk_open(&cfg, &second, &err), VMC_EBUSY);
    vmc_host_disk_close(d);
    /* readers share */
    struct vmc_host_disk *third;
    assert_int_equal(vmc_host_disk_open(&cfg, &second, &err), VMC_OK);
    assert_int_equal(vmc_host_disk_open(&cfg, &third, &err), VMC_OK);
    unsigned char a[512];
    assert_int_equal(rw(second, true, 0, a, 512), VMC_EPERM);
    assert_int_equal(rw(second, false, 0, a, 512), VMC_OK);
    cfg.read_only = false;
    struct vmc_host_disk *writer;
    assert_int_equal(vmc_host_disk_open(&cfg, &writer, &err), VMC_EBUSY);
    vmc_host_disk_close(second);
    vmc_host_disk_close(third);
}

static void bad_files_are_refused_with_their_name(void **state)
{
    (void)state;
    struct vmc_host_disk_config cfg = {.size = sizeof(cfg), .path = "/nonexistent/disk.img"};
    struct vmc_host_disk *d;
    struct vmc_error err;
    assert_int_equal(vmc_host_disk_open(&cfg, &d, &err), VMC_ENOENT);
    assert_int_equal(err.host_code, ENOENT);
    assert_non_null(strstr(err.text, "/nonexistent/disk.img"));
    cfg.path = "/dev/null";
    assert_int_equal(vmc_host_disk_open(&cfg, &d, &err), VMC_EINVAL);
    cfg.path = "/";
    assert_true(vmc_host_disk_open(&cfg, &d, &err) < 0);
    assert_int_equal(truncate(path, 0), 0);
    cfg.path = path;
    assert_int_equal(vmc_host_disk_open(&cfg, &d, &err), VMC_EINVAL);
    assert_non_null(strstr(err.text, "smaller than one sector"));
}

static void requests_beyond_a_cut_file_fail(void **state)
{
    (void)state;
    for (unsigned e = 0; e < 2; e++) {
        struct vmc_host_disk *d = open_disk(engines[e], false);
        unsigned char a[4096];
        assert_int_equal(truncate(path, 2048), 0);
        assert_int_equal(rw(d, false, 0, a, 4096), VMC_EIO);
        assert_int_equal(rw(d, false, 1 << 20, a, 4096), VMC_EIO);
        assert_int_equal(rw(d, false, 100, a, 4096), VMC_EINVAL);
        assert_int_equal(truncate(path, DISK_BYTES), 0);
        vmc_host_disk_close(d);
    }
}

/* The descriptor of the only ring that this process has; -1: none, or several. */
static int find_ring(void)
{
    int found = -1, count = 0;

    for (int fd = 3; fd < 256; fd++) {
        char link[32], what[64] = "";
        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        if (readlink(link, what, sizeof(what) - 1) > 0 && strstr(what, "[io_uring]") != NULL) {
            found = fd;
            count++;
        }
    }
    return count == 1 ? found : -1;
}

/* What the kernel answers to an entry. */
static int ask(struct io_uring *ring)
{
    struct io_uring_cqe *cqe;
    int rc = io_uring_submit(ring);

    if (rc == 1)
        rc = io_uring_wait_cqe(ring, &cqe);
    if (rc != 0)
        return rc;
    rc = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    return rc;
}

/* In a process of its own, as the disk is not to be used afterwards. 0: as it should be. */
static int abuse_a_ring(void)
{
    struct vmc_host_disk_config cfg = {.size = sizeof(cfg),
                                       .engine = VMC_HOST_DISK_URING,
                                       .path = path,
                                       .polled = true, /* nobody takes our completions */
                                       .depth = 8};
    struct io_uring_params like = {0};
    struct io_uring model, ring = {0};
    struct vmc_host_disk *d;
    struct vmc_error err;

    if (vmc_host_disk_open(&cfg, &d, &err) != VMC_OK)
        return 1;
    int fd = find_ring();
    /* a ring of the same size tells the layout of its memory */
    if (fd < 0 || io_uring_queue_init_params(cfg.depth, &model, &like) != 0 ||
        io_uring_queue_mmap(fd, &like, &ring) != 0)
        return 2;
    ring.enter_ring_fd = fd;
    io_uring_prep_nop(io_uring_get_sqe(&ring));
    if (ask(&ring) != 0)
        return 3;
    io_uring_prep_openat(io_uring_get_sqe(&ring), AT_FDCWD, "/dev/null", O_RDONLY, 0);
    if (ask(&ring) != -EACCES)
        return 4;
    io_uring_prep_unlinkat(io_uring_get_sqe(&ring), AT_FDCWD, "/no/such/file", 0);
    if (ask(&ring) != -EACCES)
        return 5;
    io_uring_prep_connect(io_uring_get_sqe(&ring), 0, NULL, 0);
    if (ask(&ring) != -EACCES)
        return 6;
    return io_uring_register_eventfd(&ring, 0) == -EACCES ? 0 : 7;
}

/* Whoever gets hold of the ring of a confined process must not get further by it. */
static void a_ring_does_nothing_but_the_io_of_disks(void **state)
{
    (void)state;
    int status = -1;
    pid_t child = fork();

    if (child == 0)
        _exit(abuse_a_ring());
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, make_file, remove_file)
        T(what_is_written_is_in_the_file_and_read_back),
        T(many_requests_at_once_all_complete),
        T(discard_releases_blocks_and_zeroes_are_zero),
        T(direct_io_takes_buffers_of_any_alignment),
        T(second_writer_is_told_that_the_disk_is_in_use),
        T(bad_files_are_refused_with_their_name),
        T(requests_beyond_a_cut_file_fail),
        T(a_ring_does_nothing_but_the_io_of_disks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
