/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE
#include "control_socket.h"

#include "run_options.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct client {
    int fd; /* -1: free */
    struct json_tokener *tok;
    size_t pending; /* bytes of an unfinished request */
};

struct control {
    int fd;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    struct rpc_server server;
    struct client clients[CONTROL_MAX_CLIENTS];
};

struct control *control_open(const char *path, const struct rpc_server *server)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct stat st;

    if (strlen(path) >= sizeof(addr.sun_path)) {
        fprintf(stderr, "%s: --control %s: the path is too long\n", run_who, path);
        return NULL;
    }
    strcpy(addr.sun_path, path);
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool alive = probe >= 0 && connect(probe, (struct sockaddr *)&addr, sizeof(addr)) == 0;
    if (probe >= 0)
        close(probe);
    if (alive) {
        fprintf(stderr, "%s: --control %s: in use by another process\n", run_who, path);
        return NULL;
    }
    /* A socket that a dead process left behind is in the way; anything else is not ours. */
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
        unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0 ||
        chmod(path, 0600) != 0 || listen(fd, CONTROL_MAX_CLIENTS) != 0) {
        fprintf(stderr, "%s: --control %s: %s\n", run_who, path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    struct control *c = calloc(1, sizeof(*c));
    if (c == NULL) {
        close(fd);
        return NULL;
    }
    c->fd = fd;
    strcpy(c->path, addr.sun_path);
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
}

void control_close(struct control *c)
{
    if (c == NULL)
        return;
    for (unsigned i = 0; i < CONTROL_MAX_CLIENTS; i++)
        if (c->clients[i].fd >= 0)
            drop(&c->clients[i]);
    close(c->fd);
    unlink(c->path);
    free(c);
}

nfds_t control_poll_fds(struct control *c, struct pollfd *fds)
{
    nfds_t n = 0;

    if (c == NULL)
        return 0;
    fds[n++] = (struct pollfd){.fd = c->fd, .events = POLLIN};
    for (unsigned i = 0; i < CONTROL_MAX_CLIENTS; i++)
        if (c->clients[i].fd >= 0)
            fds[n++] = (struct pollfd){.fd = c->clients[i].fd, .events = POLLIN};
    return n;
}

static void accept_client(struct control *c)
{
    int fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
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

/* Replies are small; a client that does not read them is dropped. */
static bool send_reply(struct client *cl, struct json_object *r)
{
    const char *text = json_object_to_json_string_ext(r, JSON_C_TO_STRING_PLAIN);
    size_t n = strlen(text);
    char *line = malloc(n + 1);
    if (line == NULL)
        return false;
    memcpy(line, text, n);
    line[n] = '\n';
    bool ok = send(cl->fd, line, n + 1, MSG_NOSIGNAL) == (ssize_t)(n + 1);
    free(line);
    return ok;
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

static void read_client(struct control *c, struct client *cl)
{
    char buf[4096];
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
        if (fds[i].fd == c->fd) {
            accept_client(c);
            continue;
        }
        for (unsigned k = 0; k < CONTROL_MAX_CLIENTS; k++)
            if (c->clients[k].fd == fds[i].fd)
                read_client(c, &c->clients[k]);
    }
}
