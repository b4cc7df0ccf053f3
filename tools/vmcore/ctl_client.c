/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE
#include "ctl_client.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_REPLY (16u << 20)

int ctl_open(struct ctl *c, const char *who, const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    *c = (struct ctl){.who = who, .fd = -1};
    if (strlen(path) >= sizeof(addr.sun_path)) {
        fprintf(stderr, "%s: %s: the path is too long\n", who, path);
        return -1;
    }
    strcpy(addr.sun_path, path);
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&addr, sizeof(addr)) != 0 ||
        (c->in = fdopen(c->fd, "r")) == NULL) {
        fprintf(stderr, "%s: %s: %s\n", who, path, strerror(errno));
        if (c->fd >= 0)
            close(c->fd);
        c->fd = -1;
        return -1;
    }
    return 0;
}

void ctl_close(struct ctl *c)
{
    if (c->in != NULL)
        fclose(c->in);
    *c = (struct ctl){.fd = -1};
}

static int send_all(int fd, const char *text, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = send(fd, text, bytes, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        text += n;
        bytes -= (size_t)n;
    }
    return 0;
}

/* One line, the reply; NULL: nothing came, or no JSON. */
static struct json_object *receive(struct ctl *c)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t n = getline(&line, &room, c->in);
    struct json_object *o = n > 0 && n < MAX_REPLY ? json_tokener_parse(line) : NULL;

    free(line);
    return o;
}

struct json_object *ctl_call(struct ctl *c, const char *method, struct json_object *params)
{
    struct json_object *req = json_object_new_object();

    json_object_object_add(req, "jsonrpc", json_object_new_string("2.0"));
    json_object_object_add(req, "id", json_object_new_int(1));
    json_object_object_add(req, "method", json_object_new_string(method));
    if (params != NULL)
        json_object_object_add(req, "params", params);
    /* At once: the other end may be gone as soon as it has seen the whole request ("quit"). */
    char *line = NULL;
    int n = asprintf(&line, "%s\n", json_object_to_json_string_ext(req, JSON_C_TO_STRING_PLAIN));
    json_object_put(req);
    struct json_object *reply = n > 0 && send_all(c->fd, line, (size_t)n) == 0 ? receive(c) : NULL;
    free(n > 0 ? line : NULL);
    struct json_object *result = NULL, *error = ctl_object(reply, "error");
    if (reply == NULL)
        fprintf(stderr, "%s: no answer\n", c->who);
    else if (error != NULL)
        fprintf(stderr, "%s: %s\n", c->who, ctl_text(error, "message"));
    else if (!json_object_object_get_ex(reply, "result", &result) || result == NULL)
        fprintf(stderr, "%s: an answer that makes no sense\n", c->who);
    json_object_get(result);
    json_object_put(reply);
    return result;
}

uint64_t ctl_u64(struct json_object *o, const char *name)
{
    struct json_object *v = NULL;

    if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, name, &v) ||
        !json_object_is_type(v, json_type_int))
        return 0;
    return json_object_get_uint64(v);
}

const char *ctl_text(struct json_object *o, const char *name)
{
    struct json_object *v = NULL;

    if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, name, &v) ||
        !json_object_is_type(v, json_type_string))
        return "";
    return json_object_get_string(v);
}

struct json_object *ctl_object(struct json_object *o, const char *name)
{
    struct json_object *v = NULL;

    if (json_object_is_type(o, json_type_object))
        (void)json_object_object_get_ex(o, name, &v);
    return v;
}

const char *ctl_vm_state(struct json_object *vm)
{
    const char *state = ctl_text(vm, "state");
    struct json_object *waits = ctl_object(vm, "waits_for_space");
    bool no_space = json_object_is_type(waits, json_type_boolean) && json_object_get_boolean(waits);

    return no_space && strcmp(state, "running") == 0 ? "no space" : state;
}

size_t ctl_length(struct json_object *list)
{
    return json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
}

struct json_object *ctl_at(struct json_object *list, size_t i)
{
    return i < ctl_length(list) ? json_object_array_get_idx(list, i) : NULL;
}
