/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE
#include "control_socket.h"

#include "run_options.h"
#include "unix_socket.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

struct client {
    int fd; /* -1: free */
    struct json_tokener *tok;
    size_t pending; /* bytes of an unfinished request */
    char *out;      /* replies that the socket had no room for yet; NULL: none */
    size_t out_bytes, out_sent;
};

/* A client that does not read its replies is dropped when so much waits for it. */
#define MAX_OUT (16u << 20)

/* Until descriptors or memory, which had run out, are asked for again. */
#define SHORT_NS 500000000

struct control {
    int fd;
    int timer;     /* runs while nobody can be accepted */
    bool shortage; /* nobody can: the timer is polled, not the socket, which stays readable */
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    struct rpc_server server;
    struct client clients[CONTROL_MAX_CLIENTS];
};

struct control *control_open(const char *path, const struct rpc_server *server)
{
    char who[sizeof(run_who) + 16];

    snprintf(who, sizeof(who), "%s: --control", run_who);
    int fd = unix_socket_listen(who, path, CONTROL_MAX_CLIENTS);
    if (fd < 0)
        return NULL;
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct control *c = calloc(1, sizeof(*c));
    if (c == NULL || timer < 0) {
        fprintf(stderr, "%s: out of memory or descriptors\n", run_who);
        if (timer >= 0)
            close(timer);
        close(fd);
        unlink(path);
        free(c);
        return NULL;
    }
    c->fd = fd;
    c->timer = timer;
    strcpy(c->path, path); /* which is not too long: it is bound */
    c->server = *server;
    for (unsigned i = 0; i < CONTROL_MAX_CLIENTS; i++)
        c->clients[i].fd = -1;
    return c;
}

static void drop(struct client *cl)
{
    close(cl->fd);
    cl->fd = -1;
    json_tokener_free(cl->tok);
    cl->tok = NULL;
    free(cl->out);
    cl->out = NULL;
    cl->out_bytes = cl->out_sent = 0;
}

void control_close(struct control *c)
{
    if (c == NULL)
        return;
    for (unsigned i = 0; i < CONTROL_MAX_CLIENTS; i++)
        if (c->clients[i].fd >= 0)
            drop(&c->clients[i]);
    close(c->timer);
    close(c->fd);
    unlink(c->path);
    free(c);
}

nfds_t control_poll_fds(struct control *c, struct pollfd *fds)
{
    nfds_t n = 0;

    if (c == NULL)
        return 0;
    fds[n++] = (struct pollfd){.fd = c->shortage ? c->timer : c->fd, .events = POLLIN};
    for (unsigned i = 0; i < CONTROL_MAX_CLIENTS; i++)
        if (c->clients[i].fd >= 0)
            fds[n++] = (struct pollfd){.fd = c->clients[i].fd,
                                       .events = c->clients[i].out != NULL ? POLLOUT : POLLIN};
    return n;
}

/* Who waits goes on waiting; the caller's loop must not find the socket readable all the time. */
static void accept_later(struct control *c)
{
    const struct itimerspec in = {.it_value.tv_nsec = SHORT_NS};

    c->shortage = timerfd_settime(c->timer, 0, &in, NULL) == 0;
}

static void accept_client(struct control *c)
{
    int fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            accept_later(c);
        return;
    }
    for (unsigned i = 0; i < CONTROL_MAX_CLIENTS; i++) {
        struct client *cl = &c->clients[i];
        if (cl->fd >= 0)
            continue;
        cl->tok = json_tokener_new_ex(RPC_MAX_DEPTH);
        if (cl->tok == NULL)
            break;
        cl->fd = fd;
        cl->pending = 0;
        return;
    }
    close(fd);
}

/* As much of the replies as the socket takes now. False: the client is gone. */
static bool flush(struct client *cl)
{
    while (cl->out_sent < cl->out_bytes) {
        ssize_t n =
            send(cl->fd, cl->out + cl->out_sent, cl->out_bytes - cl->out_sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 && errno == EAGAIN;
        cl->out_sent += (size_t)n;
    }
    free(cl->out);
    cl->out = NULL;
    cl->out_bytes = cl->out_sent = 0;
    return true;
}

/* Nothing more is read from a client before it has taken its replies, except what came with them.
 */
static bool send_reply(struct client *cl, struct json_object *r)
{
    const char *text = json_object_to_json_string_ext(r, JSON_C_TO_STRING_PLAIN);
    size_t n = strlen(text);
    char *more = cl->out_bytes + n < MAX_OUT ? realloc(cl->out, cl->out_bytes + n + 1) : NULL;

    if (more == NULL)
        return false;
    memcpy(more + cl->out_bytes, text, n);
    more[cl->out_bytes + n] = '\n';
    cl->out = more;
    cl->out_bytes += n + 1;
    return flush(cl);
}

static bool feed(struct control *c, struct client *cl, const char *data, size_t bytes)
{
    while (bytes > 0) {
        struct json_object *req = json_tokener_parse_ex(cl->tok, data, (int)bytes);
        enum json_tokener_error e = json_tokener_get_error(cl->tok);
        struct json_object *r = NULL;
        size_t used = bytes;
        bool close_after = false;

        if (e == json_tokener_continue) {
            cl->pending += bytes;
            return cl->pending <= RPC_MAX_REQUEST;
        }
        if (e == json_tokener_success) {
            used = json_tokener_get_parse_end(cl->tok);
            r = rpc_answer(&c->server, req);
        } else {
            r = rpc_parse_error();
            close_after = true;
        }
        json_object_put(req);
        json_tokener_reset(cl->tok);
        cl->pending = 0;
        bool ok = r == NULL || send_reply(cl, r);
        json_object_put(r);
        if (!ok || close_after)
            return false;
        data += used;
        bytes -= used;
        while (bytes > 0 && (*data == '\n' || *data == '\r' || *data == ' ')) {
            data++;
            bytes--;
        }
    }
    return true;
}

static void serve_client(struct control *c, struct client *cl)
{
    char buf[4096];

    if (cl->out != NULL) {
        if (!flush(cl))
            drop(cl);
        return;
    }
    ssize_t n = recv(cl->fd, buf, sizeof(buf), 0);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0 || !feed(c, cl, buf, (size_t)n))
        drop(cl);
}

void control_handle(struct control *c, const struct pollfd *fds, nfds_t count)
{
    for (nfds_t i = 0; i < count; i++) {
        if (fds[i].revents == 0)
            continue;
        if (fds[i].fd == c->fd || fds[i].fd == c->timer) {
            c->shortage = false;
            accept_client(c); /* nobody there any more: nothing happens */
            continue;
        }
        for (unsigned k = 0; k < CONTROL_MAX_CLIENTS; k++)
            if (c->clients[k].fd == fds[i].fd)
                serve_client(c, &c->clients[k]);
    }
}
