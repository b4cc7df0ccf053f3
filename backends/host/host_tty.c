/* SPDX-License-Identifier: BSD-2-Clause */
/* Kinds of character channels: terminal, file, socket, pseudo-terminal; and the escape key. */
#define _GNU_SOURCE
#include "host_char_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define ESCAPE_KEY 0x01 /* Ctrl-A */

static const char help_text[] = "\r\n"
                                "Ctrl-A h       this help\r\n"
                                "Ctrl-A x       quit\r\n"
                                "Ctrl-A Ctrl-A  send Ctrl-A\r\n";

/* ---- the escape key ------------------------------------------------------------------------ */

/* A key after Ctrl-A; true: it is for the guest. */
static bool escaped_key(struct vmc_host_char *c, unsigned char key)
{
    switch (key) {
    case 'x':
    case 'X':
        if (c->ev.quit != NULL)
            c->ev.quit(c->ctx);
        return false;
    case 'h':
    case 'H':
    case '?':
        (void)vmci_host_char_put(c, help_text, sizeof(help_text) - 1); /* best effort */
        return false;
    case ESCAPE_KEY:
        return true;
    default:
        return false;
    }
}

size_t vmci_host_char_filter(struct vmc_host_char *c, unsigned char *p, size_t n)
{
    size_t kept = 0;

    if (!c->escape)
        return n;
    for (size_t i = 0; i < n; i++) {
        bool keep = true;
        if (c->after_escape) {
            c->after_escape = false;
            keep = escaped_key(c, p[i]);
        } else if (p[i] == ESCAPE_KEY) {
            c->after_escape = true;
            keep = false;
        }
        if (keep)
            p[kept++] = p[i];
    }
    return kept;
}

/* ---- terminals ----------------------------------------------------------------------------- */

void vmci_host_char_raw(struct vmc_host_char *c)
{
    struct termios t;

    if (c->kind != VMC_HOST_CHAR_STDIO || c->in < 0 || tcgetattr(c->in, &c->saved) != 0)
        return;
    t = c->saved;
    t.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    t.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    /* Output processing stays on: our own messages end in a bare newline. */
    c->raw_tty = tcsetattr(c->in, TCSANOW, &t) == 0;
}

void vmci_host_char_restore(struct vmc_host_char *c)
{
    if (c->raw_tty) /* in may be closed off by now */
        (void)tcsetattr(STDIN_FILENO, TCSADRAIN,
                        &c->saved); /* nothing better to do about a failure */
    c->raw_tty = false;
}

static int setup_pty(struct vmc_host_char *c, struct vmc_error *err)
{
    struct termios t;
    int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);

    if (fd < 0 || grantpt(fd) != 0 || unlockpt(fd) != 0 ||
        ptsname_r(fd, c->path, sizeof(c->path)) != 0) {
        int e = errno;
        if (fd >= 0)
            close(fd);
        return vmci_host_error(err, VMC_EHOST, e, "host-char/open",
                               "cannot make a pseudo-terminal: %s", strerror(e));
    }
    if (tcgetattr(fd, &t) == 0) {
        cfmakeraw(&t);
        (void)tcsetattr(fd, TCSANOW, &t); /* a cooked one still works, with an echo */
    }
    (void)fcntl(fd, F_SETFL, O_NONBLOCK);
    c->in = c->out = fd;
    return VMC_OK;
}

/* ---- files and sockets --------------------------------------------------------------------- */

static int setup_file(struct vmc_host_char *c, struct vmc_error *err)
{
    c->out = open(c->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);
    if (c->out < 0)
        return vmci_host_error(err, vmci_host_status(errno), errno, "host-char/open",
                               "cannot write to %s: %s", c->path, strerror(errno));
    return VMC_OK;
}

/* A socket file that nobody listens on is left over from a program that died. */
static bool is_stale(const struct sockaddr_un *sa)
{
    struct stat st;
    int fd;

    if (stat(sa->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return false;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    bool refused =
        connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) != 0 && errno == ECONNREFUSED;
    close(fd);
    return refused;
}

static int setup_unix(struct vmc_host_char *c, struct vmc_error *err)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};

    if (strlen(c->path) >= sizeof(sa.sun_path))
        return vmci_host_error(err, VMC_EINVAL, 0, "host-char/open",
                               "the path of a socket has at most %zu characters",
                               sizeof(sa.sun_path) - 1);
    memcpy(sa.sun_path, c->path, strlen(c->path));
    if (is_stale(&sa))
        unlink(c->path);
    c->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->listener < 0 || bind(c->listener, (const struct sockaddr *)&sa, sizeof(sa)) != 0 ||
        listen(c->listener, 1) != 0) {
        int e = errno;
        if (c->listener >= 0)
            close(c->listener);
        c->listener = -1;
        return vmci_host_error(err, e == EADDRINUSE ? VMC_EBUSY : vmci_host_status(e), e,
                               "host-char/open", "cannot listen on %s: %s", c->path, strerror(e));
    }
    c->dropping = true; /* until a client comes */
    return VMC_OK;
}

void vmci_host_char_accept(struct vmc_host_char *c)
{
    int fd = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0) {
        /* The socket stays readable for as long as there are no descriptors. */
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            c->accept_at = vmci_host_char_now() + VMCI_CHAR_RETRY_MS * 1000000ull;
        return;
    }
    if (c->in >= 0) { /* one client at a time */
        close(fd);
        return;
    }
    c->in = c->out = fd;
    pthread_mutex_lock(&c->lock);
    c->dropping = false;
    pthread_mutex_unlock(&c->lock);
}

void vmci_host_char_hangup(struct vmc_host_char *c)
{
    if (c->kind == VMC_HOST_CHAR_UNIX) {
        close(c->in);
        c->in = c->out = -1;
    } else if (c->kind != VMC_HOST_CHAR_PTY) {
        c->in = -1; /* end of standard input: there is still the output */
        return;
    }
    pthread_mutex_lock(&c->lock);
    c->dropping = true;
    c->tail = c->head;
    pthread_mutex_unlock(&c->lock);
}

int vmci_host_char_setup(struct vmc_host_char *c, struct vmc_error *err)
{
    switch (c->kind) {
    case VMC_HOST_CHAR_STDIO:
        c->in = STDIN_FILENO;
        c->out = STDOUT_FILENO;
        return VMC_OK;
    case VMC_HOST_CHAR_FILE:
        return setup_file(c, err);
    case VMC_HOST_CHAR_UNIX:
        return setup_unix(c, err);
    case VMC_HOST_CHAR_PTY:
        return setup_pty(c, err);
    default:
        return vmci_host_error(err, VMC_EINVAL, 0, "host-char/open", "kind %u is not known",
                               c->kind);
    }
}
