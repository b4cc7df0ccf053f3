/* SPDX-License-Identifier: BSD-2-Clause */
/* Character channels of the host with real descriptors. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>
#include <vmcore/host_char.h>

#include <cmocka.h>

struct guest {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    char got[65536];
    size_t n;
    size_t limit; /* bytes input takes in all before it is full */
    atomic_int quits, writables;
};

static int guest_input(void *ctx, const void *data, size_t bytes)
{
    struct guest *g = ctx;
    pthread_mutex_lock(&g->lock);
    size_t room = g->limit - g->n;
    size_t take = bytes < room ? bytes : room;
    memcpy(g->got + g->n, data, take);
    g->n += take;
    pthread_cond_broadcast(&g->cond);
    pthread_mutex_unlock(&g->lock);
    return (int)take;
}

static void guest_quit(void *ctx)
{
    struct guest *g = ctx;
    atomic_fetch_add(&g->quits, 1);
    pthread_cond_broadcast(&g->cond);
}

static void guest_writable(void *ctx)
{
    atomic_fetch_add(&((struct guest *)ctx)->writables, 1);
}

static const struct vmc_host_char_events events = {
    .input = guest_input, .writable = guest_writable, .quit = guest_quit};

static void guest_init(struct guest *g)
{
    memset(g, 0, sizeof(*g));
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->cond, NULL);
    g->limit = sizeof(g->got);
}

static void wait_input(struct guest *g, size_t n)
{
    pthread_mutex_lock(&g->lock);
    while (g->n < n)
        pthread_cond_wait(&g->cond, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void temp_path(char *path, size_t bytes, const char *what)
{
    snprintf(path, bytes, "/tmp/vmc-char-%s-%ld", what, (long)getpid());
    unlink(path);
}

static void write_all(struct vmc_host_char *c, const char *s)
{
    struct vmc_chardev d = vmc_host_char_dev(c);
    assert_int_equal(d.ops->write(d.ctx, s, strlen(s)), strlen(s));
}

static void read_exactly(int fd, char *p, size_t n)
{
    while (n != 0) {
        struct pollfd pf = {.fd = fd, .events = POLLIN};
        assert_true(poll(&pf, 1, 10000) > 0);
        ssize_t got = read(fd, p, n);
        assert_true(got > 0);
        p += got;
        n -= (size_t)got;
    }
}

static void file_has_everything_after_close(void **state)
{
    (void)state;
    char path[64];
    struct guest g;
    struct vmc_host_char *c;
    guest_init(&g);
    temp_path(path, sizeof(path), "file");
    struct vmc_host_char_config cfg = {.size = sizeof(cfg), .kind = VMC_HOST_CHAR_FILE,
                                       .path = path};
    assert_int_equal(vmc_host_char_open(&cfg, &c, NULL), VMC_OK);
    assert_int_equal(vmc_host_char_start(c, &events, &g, NULL), VMC_OK);
    for (unsigned i = 0; i < 5000; i++)
        write_all(c, "line\n");
    vmc_host_char_close(c);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 25000);
    unlink(path);
    cfg.path = "/nonexistent/x";
    struct vmc_error err;
    assert_int_equal(vmc_host_char_open(&cfg, &c, &err), VMC_ENOENT);
    assert_non_null(strstr(err.text, "/nonexistent/x"));
}

static int connect_to(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    return fd;
}

static void socket_serves_one_client_after_the_other(void **state)
{
    (void)state;
    char path[64];
    char buf[16];
    struct guest g;
    struct vmc_host_char *c;
    struct vmc_host_char *other;
    struct vmc_error err;
    guest_init(&g);
    temp_path(path, sizeof(path), "sock");
    struct vmc_host_char_config cfg = {.size = sizeof(cfg), .kind = VMC_HOST_CHAR_UNIX,
                                       .path = path};
    assert_int_equal(vmc_host_char_open(&cfg, &c, NULL), VMC_OK);
    assert_int_equal(vmc_host_char_open(&cfg, &other, &err), VMC_EBUSY);
    assert_int_equal(vmc_host_char_start(c, &events, &g, NULL), VMC_OK);
    write_all(c, "nobody hears this");
    for (unsigned round = 0; round < 2; round++) {
        int fd = connect_to(path);
        assert_int_equal(write(fd, "hello", 5), 5);
        wait_input(&g, 5 * (round + 1)); /* also says that the client was accepted */
        write_all(c, "answer");
        read_exactly(fd, buf, 6);
        assert_memory_equal(buf, "answer", 6);
        int second = connect_to(path); /* turned away while the first is there */
        struct pollfd pf = {.fd = second, .events = POLLIN};
        assert_true(poll(&pf, 1, 10000) > 0);
        assert_int_equal(read(second, buf, 1), 0);
        close(second);
        close(fd);
    }
    assert_memory_equal(g.got, "hellohello", 10);
    vmc_host_char_close(c);
    assert_int_equal(access(path, F_OK), -1);
}

/* The library's accept4: one that can fail as if there were no descriptors. */
static atomic_bool no_descriptors;
static atomic_uint accepts;

int accept4(int fd, struct sockaddr *addr, socklen_t *bytes, int flags)
{
    atomic_fetch_add(&accepts, 1);
    if (atomic_load(&no_descriptors)) {
        errno = EMFILE;
        return -1;
    }
    return (int)syscall(SYS_accept4, fd, addr, bytes, flags);
}

/* A client that knocks then is asked for now and then, not all the time, and served later. */
static void socket_waits_for_descriptors(void **state)
{
    (void)state;
    char path[64];
    struct guest g;
    struct vmc_host_char *c;
    guest_init(&g);
    temp_path(path, sizeof(path), "few");
    struct vmc_host_char_config cfg = {.size = sizeof(cfg), .kind = VMC_HOST_CHAR_UNIX,
                                       .path = path};
    assert_int_equal(vmc_host_char_open(&cfg, &c, NULL), VMC_OK);
    assert_int_equal(vmc_host_char_start(c, &events, &g, NULL), VMC_OK);
    atomic_store(&accepts, 0);
    atomic_store(&no_descriptors, true);
    int fd = connect_to(path);
    while (atomic_load(&accepts) == 0)
        usleep(1000);
    usleep(1000000);
    assert_in_range(atomic_load(&accepts), 1, 20);
    atomic_store(&no_descriptors, false);
    assert_int_equal(write(fd, "hello", 5), 5);
    wait_input(&g, 5);
    assert_memory_equal(g.got, "hello", 5);
    close(fd);
    vmc_host_char_close(c);
}

static void pty_carries_both_ways_and_drops_without_reader(void **state)
{
    (void)state;
    char buf[16];
    struct guest g;
    struct vmc_host_char *c;
    guest_init(&g);
    struct vmc_host_char_config cfg = {.size = sizeof(cfg), .kind = VMC_HOST_CHAR_PTY};
    assert_int_equal(vmc_host_char_open(&cfg, &c, NULL), VMC_OK);
    int fd = open(vmc_host_char_name(c), O_RDWR | O_NOCTTY);
    assert_true(fd >= 0);
    assert_int_equal(vmc_host_char_start(c, &events, &g, NULL), VMC_OK);
    assert_int_equal(write(fd, "in\x03", 3), 3);
    wait_input(&g, 3);
    assert_memory_equal(g.got, "in\x03", 3);
    write_all(c, "out\n");
    read_exactly(fd, buf, 4);
    assert_memory_equal(buf, "out\n", 4);
    close(fd);
    /* nobody there: a guest that prints a lot is not held up for ever */
    struct vmc_chardev d = vmc_host_char_dev(c);
    static char big[1 << 16];
    size_t sent = 0;
    for (unsigned i = 0; i < 20000 && sent < 4 * sizeof(big); i++) {
        sent += (size_t)d.ops->write(d.ctx, big, sizeof(big));
        usleep(5000);
    }
    assert_true(sent >= 4 * sizeof(big));
    vmc_host_char_close(c);
}

/* Standard input and output replaced by a pseudo-terminal's slave. */
static void terminal_is_raw_and_knows_the_escapes(void **state)
{
    (void)state;
    struct guest g;
    struct vmc_host_char *c;
    char buf[256];
    struct termios before;
    struct termios during;
    guest_init(&g);
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    assert_int_equal(grantpt(master), 0);
    assert_int_equal(unlockpt(master), 0);
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    fflush(stdout);
    int in = dup(0);
    int out = dup(1);
    dup2(slave, 0);
    dup2(slave, 1);
    tcgetattr(0, &before);
    struct vmc_host_char_config cfg = {.size = sizeof(cfg), .kind = VMC_HOST_CHAR_STDIO,
                                       .escape = true};
    int opened = vmc_host_char_open(&cfg, &c, NULL);
    int started = vmc_host_char_start(c, &events, &g, NULL);
    tcgetattr(0, &during);
    ssize_t w = write(master, "a\x03" "\x01\x01" "b" "\x01h" "\x01z" "\x01x" "c", 12);
    wait_input(&g, 5);
    memset(buf, 0, sizeof(buf));
    read_exactly(master, buf, 60); /* the help */
    write_all(c, "tail");
    vmc_host_char_close(c);
    struct termios after;
    tcgetattr(0, &after);
    dup2(in, 0);
    dup2(out, 1);
    close(in);
    close(out);
    assert_int_equal(opened, VMC_OK);
    assert_int_equal(started, VMC_OK);
    assert_int_equal(w, 12);
    assert_int_equal(during.c_lflag & (ICANON | ECHO | ISIG), 0);
    assert_int_equal(after.c_lflag, before.c_lflag);
    assert_memory_equal(g.got, "a\x03\x01" "bc", 5);
    assert_int_equal(g.n, 5);
    assert_int_equal(atomic_load(&g.quits), 1);
    assert_non_null(strstr(buf, "Ctrl-A h"));
    close(slave);
    close(master);
}

static void slow_ends_are_waited_for(void **state)
{
    (void)state;
    char path[64];
    struct guest g;
    struct vmc_host_char *c;
    static char big[200000];
    guest_init(&g);
    g.limit = 3;
    temp_path(path, sizeof(path), "slow");
    struct vmc_host_char_config cfg = {.size = sizeof(cfg), .kind = VMC_HOST_CHAR_UNIX,
                                       .path = path};
    assert_int_equal(vmc_host_char_open(&cfg, &c, NULL), VMC_OK);
    assert_int_equal(vmc_host_char_start(c, &events, &g, NULL), VMC_OK);
    int fd = connect_to(path);
    assert_int_equal(write(fd, "abcdef", 6), 6);
    wait_input(&g, 3);
    pthread_mutex_lock(&g.lock);
    g.limit = sizeof(g.got);
    pthread_mutex_unlock(&g.lock);
    vmc_host_char_input_ready(c);
    wait_input(&g, 6);
    assert_memory_equal(g.got, "abcdef", 6);
    /* output: the ring fills while the client does not read, then all of it arrives in order */
    struct vmc_chardev d = vmc_host_char_dev(c);
    size_t sent = 0;
    size_t total = 2000000;
    size_t got = 0;
    bool was_short = false;
    while (got < total) {
        while (sent < total) {
            size_t n = total - sent < 1000 ? total - sent : 1000;
            for (size_t i = 0; i < n; i++)
                big[i] = (char)((sent + i) % 251);
            int took = d.ops->write(d.ctx, big, n);
            sent += (size_t)took;
            if ((size_t)took < n) {
                was_short = true;
                break;
            }
        }
        struct pollfd pf = {.fd = fd, .events = POLLIN};
        assert_true(poll(&pf, 1, 10000) > 0);
        ssize_t n = read(fd, big, sizeof(big));
        assert_true(n > 0);
        for (ssize_t i = 0; i < n; i++)
            assert_int_equal(big[i], (char)((got + (size_t)i) % 251));
        got += (size_t)n;
    }
    assert_true(was_short);
    assert_true(atomic_load(&g.writables) > 0);
    close(fd);
    vmc_host_char_close(c);
}

static volatile sig_atomic_t pipe_signals;

static void count_signal(int sig)
{
    (void)sig;
    pipe_signals = pipe_signals + 1;
}

/* A program that has done nothing about SIGPIPE would die of it. */
static void clients_that_leave_raise_no_signal(void **state)
{
    static const char big[8192];
    struct vmc_host_char *c;
    struct vmc_error err;
    struct guest g;
    char path[64];

    (void)state;
    guest_init(&g);
    temp_path(path, sizeof(path), "gone");
    struct vmc_host_char_config cfg = {
        .size = sizeof(cfg), .kind = VMC_HOST_CHAR_UNIX, .path = path};
    void (*was)(int) = signal(SIGPIPE, count_signal);
    assert_int_equal(vmc_host_char_open(&cfg, &c, &err), VMC_OK);
    assert_int_equal(vmc_host_char_start(c, &events, &g, &err), VMC_OK);
    struct vmc_chardev d = vmc_host_char_dev(c);
    int fd = connect_to(path);
    assert_int_equal(write(fd, "x", 1), 1);
    wait_input(&g, 1);
    /* The socket is full, and there is more when the client goes. */
    for (unsigned full = 0; full < 20;) {
        full = d.ops->write(d.ctx, big, sizeof(big)) == 0 ? full + 1 : 0;
        if (full != 0)
            usleep(10000);
    }
    close(fd);
    while (d.ops->write(d.ctx, big, sizeof(big)) != (int)sizeof(big))
        usleep(1000); /* until it is noticed */
    assert_int_equal(pipe_signals, 0);
    vmc_host_char_close(c);
    signal(SIGPIPE, was);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_has_everything_after_close),
        cmocka_unit_test(socket_serves_one_client_after_the_other),
        cmocka_unit_test(socket_waits_for_descriptors),
        cmocka_unit_test(pty_carries_both_ways_and_drops_without_reader),
        cmocka_unit_test(terminal_is_raw_and_knows_the_escapes),
        cmocka_unit_test(slow_ends_are_waited_for),
        cmocka_unit_test(clients_that_leave_raise_no_signal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
