/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE
#include "run_chr.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#define ESCAPE 0x01 /* Ctrl-A */
/* A pipe or terminal that polls as writable takes this much without blocking. */
#define OUT_CHUNK 512

static struct termios saved_tty;
static bool tty_changed;

static void restore_tty(void)
{
    if (tty_changed)
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &saved_tty);
    tty_changed = false;
}

/* Every key goes to the guest; output processing stays, for our own messages. */
static void raw_tty(void)
{
    if (tcgetattr(STDIN_FILENO, &saved_tty) != 0)
        return;
    struct termios t = saved_tty;
    t.c_iflag &= ~(tcflag_t)(BRKINT | ICRNL | INPCK | ISTRIP | IXON);
    t.c_lflag &= ~(tcflag_t)(ECHO | ICANON | IEXTEN | ISIG);
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    if (tcsetattr(STDIN_FILENO, TCSANOW, &t) == 0) {
        tty_changed = true;
        atexit(restore_tty);
    }
}

static int fail(const struct chr *c, const char *what)
{
    fprintf(stderr, "vmcore run: --%s: %s: %s\n", c->what, what, strerror(errno));
    return -1;
}

static int open_unix(struct chr *c, const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct stat st;

    if (strlen(path) >= sizeof(addr.sun_path)) {
        errno = ENAMETOOLONG;
        return fail(c, path);
    }
    strcpy(addr.sun_path, path);
    strcpy(c->path, path);
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
        unlink(path);
    c->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->listen_fd < 0 || bind(c->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) != 0 ||
        listen(c->listen_fd, 1) != 0)
        return fail(c, path);
    return 0;
}

static int open_pty(struct chr *c)
{
    int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || grantpt(fd) != 0 || unlockpt(fd) != 0)
        return fail(c, "pty");
    /* Hold the other end open, so that the first reader to go away is no hang-up. */
    int slave = open(ptsname(fd), O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave >= 0) {
        struct termios t;
        if (tcgetattr(slave, &t) == 0) {
            cfmakeraw(&t);
            tcsetattr(slave, TCSANOW, &t);
        }
    }
    fprintf(stderr, "vmcore: %s is on %s\n", c->what, ptsname(fd));
    c->in_fd = c->out_fd = fd;
    return 0;
}

int chr_open(struct chr *c, const struct run_chr *spec, const char *what, int wake_fd)
{
    memset(c, 0, sizeof(*c));
    c->kind = spec->kind;
    c->what = what;
    c->in_fd = c->out_fd = c->listen_fd = -1;
    c->wake_fd = wake_fd;
    switch (spec->kind) {
    case RUN_CHR_NONE:
        return 0;
    case RUN_CHR_STDIO:
        c->out_fd = STDOUT_FILENO;
        c->in_fd = STDIN_FILENO;
        return 0;
    case RUN_CHR_FILE:
        c->out_fd = open(spec->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        return c->out_fd < 0 ? fail(c, spec->path) : 0;
    case RUN_CHR_UNIX:
        return open_unix(c, spec->path);
    case RUN_CHR_PTY:
        return open_pty(c);
    }
    return -1;
}

void chr_close(struct chr *c)
{
    if (c->kind == RUN_CHR_STDIO) {
        restore_tty();
        return;
    }
    if (c->out_fd >= 0)
        close(c->out_fd);
    if (c->listen_fd >= 0) {
        close(c->listen_fd);
        unlink(c->path);
    }
}

static void wake(struct chr *c)
{
    uint64_t one = 1;
    if (write(c->wake_fd, &one, sizeof(one)) < 0)
        return; /* the counter is full: the loop is awake anyway */
}

/* vmc_chardev_ops.write: runs on a vCPU's thread and must not block for long. */
static int chr_write(void *ctx, const void *data, size_t bytes)
{
    struct chr *c = ctx;
    int fd = __atomic_load_n(&c->out_fd, __ATOMIC_ACQUIRE);
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    size_t done = 0;

    if (fd < 0)
        return (int)bytes; /* nobody listens */
    while (done < bytes) {
        if (poll(&p, 1, 0) <= 0 || (p.revents & POLLOUT) == 0)
            break;
        size_t n = bytes - done < OUT_CHUNK ? bytes - done : OUT_CHUNK;
        ssize_t put = write(fd, (const char *)data + done, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            break;
        done += (size_t)put;
    }
    if (done == bytes)
        return (int)bytes;
    if (p.revents & (POLLERR | POLLHUP | POLLNVAL))
        return (int)bytes; /* the far end is gone: drop */
    __atomic_store_n(&c->out_blocked, true, __ATOMIC_RELEASE);
    wake(c);
    return (int)done;
}

struct vmc_chardev chr_device(struct chr *c)
{
    static const struct vmc_chardev_ops ops = {.write = chr_write};

    if (c->kind == RUN_CHR_NONE)
        return (struct vmc_chardev){0};
    if (c->kind == RUN_CHR_STDIO && c->input != NULL && isatty(STDIN_FILENO) && !c->tty) {
        raw_tty();
        c->tty = tty_changed;
    }
    return (struct vmc_chardev){.ops = &ops, .ctx = c};
}

nfds_t chr_poll_fds(struct chr *c, struct pollfd *fds)
{
    nfds_t n = 0;

    if (c->listen_fd >= 0 && c->in_fd < 0)
        fds[n++] = (struct pollfd){.fd = c->listen_fd, .events = POLLIN};
    short in = c->in_fd >= 0 && c->input != NULL && c->pending_len == 0 ? POLLIN : 0;
    bool blocked = __atomic_load_n(&c->out_blocked, __ATOMIC_ACQUIRE);
    if (in != 0)
        fds[n++] = (struct pollfd){.fd = c->in_fd, .events = in};
    if (blocked && c->out_fd >= 0)
        fds[n++] = (struct pollfd){.fd = c->out_fd, .events = POLLOUT};
    return n;
}

static void help(void)
{
    fprintf(stderr, "\r\nCtrl-A x  end the virtual machine\r\n"
                    "Ctrl-A h  this help\r\n"
                    "Ctrl-A Ctrl-A  send Ctrl-A\r\n");
}

/* Take the escapes out of what was typed. */
static enum chr_key filter(struct chr *c, unsigned char *data, size_t *bytes)
{
    enum chr_key key = CHR_KEY_NONE;
    size_t out = 0;

    for (size_t i = 0; i < *bytes; i++) {
        if (!c->escaped && data[i] == ESCAPE) {
            c->escaped = true;
            continue;
        }
        if (!c->escaped) {
            data[out++] = data[i];
            continue;
        }
        c->escaped = false;
        if (data[i] == 'x' || data[i] == 'X')
            key = CHR_KEY_QUIT;
        else if (data[i] == 'h' || data[i] == 'H' || data[i] == '?')
            help();
        else if (data[i] == ESCAPE)
            data[out++] = ESCAPE;
    }
    *bytes = out;
    return key;
}

static void push_pending(struct chr *c)
{
    if (c->pending_len == 0 || c->input == NULL)
        return;
    size_t took = c->input(c->ctx, c->pending, c->pending_len);
    memmove(c->pending, c->pending + took, c->pending_len - took);
    c->pending_len -= took;
}

static enum chr_key read_input(struct chr *c)
{
    ssize_t n = read(c->in_fd, c->pending, sizeof(c->pending));

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return CHR_KEY_NONE;
    if (n < 0 && errno == EIO && c->kind == RUN_CHR_PTY)
        return CHR_KEY_NONE;
    if (n <= 0) {
        int fd = c->in_fd;
        c->in_fd = -1;
        if (c->kind == RUN_CHR_UNIX) {
            __atomic_store_n(&c->out_fd, -1, __ATOMIC_RELEASE);
            close(fd);
        }
        return CHR_KEY_NONE;
    }
    size_t bytes = (size_t)n;
    enum chr_key key = c->tty ? filter(c, c->pending, &bytes) : CHR_KEY_NONE;
    c->pending_len = bytes;
    return key;
}

enum chr_key chr_handle(struct chr *c, const struct pollfd *fds, nfds_t count)
{
    enum chr_key key = CHR_KEY_NONE;

    for (nfds_t i = 0; i < count; i++) {
        if (fds[i].revents == 0)
            continue;
        if (fds[i].fd == c->listen_fd) {
            int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (fd >= 0) {
                c->in_fd = fd;
                __atomic_store_n(&c->out_fd, fd, __ATOMIC_RELEASE);
            }
        } else if (fds[i].events & POLLOUT) {
            __atomic_store_n(&c->out_blocked, false, __ATOMIC_RELEASE);
            if (c->output_ready != NULL)
                c->output_ready(c->ctx);
        } else {
            key = read_input(c);
        }
    }
    push_pending(c);
    return key;
}
