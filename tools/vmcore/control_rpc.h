/* SPDX-License-Identifier: BSD-2-Clause */
/* JSON-RPC 2.0: one request text in, one reply text out. No sockets here. */
#ifndef CONTROL_RPC_H
#define CONTROL_RPC_H

#include <json-c/json.h>
#include <stddef.h>

/*
 * A method. params is an object, an array or NULL, borrowed. Returns the result (owned by the
 * caller) or NULL with *message set to a static text.
 */
struct rpc_method {
    const char *name;
    struct json_object *(*call)(void *ctx, struct json_object *params, const char **message);
};

struct rpc_server {
    const struct rpc_method *methods;
    size_t count;
    void *ctx;
};

#define RPC_MAX_REQUEST 65536
#define RPC_MAX_DEPTH   16
#define RPC_MAX_BATCH   32

/* Answer one parsed request (or batch); NULL when nothing is to be sent (notifications). */
struct json_object *rpc_answer(const struct rpc_server *s, struct json_object *request);
/* The reply to text that is not JSON. */
struct json_object *rpc_parse_error(void);

#endif
