/* SPDX-License-Identifier: BSD-2-Clause */
#include "control_rpc.h"

#include <string.h>

enum {
    RPC_PARSE_ERROR = -32700,
    RPC_INVALID_REQUEST = -32600,
    RPC_NO_METHOD = -32601,
    RPC_INVALID_PARAMS = -32602,
    RPC_FAILED = -32000,
};

static struct json_object *reply(struct json_object *id)
{
    struct json_object *r = json_object_new_object();
    json_object_object_add(r, "jsonrpc", json_object_new_string("2.0"));
    json_object_object_add(r, "id", json_object_get(id));
    return r;
}

static struct json_object *failure(struct json_object *id, int code, const char *message)
{
    struct json_object *r = reply(id);
    struct json_object *e = json_object_new_object();
    json_object_object_add(e, "code", json_object_new_int(code));
    json_object_object_add(e, "message", json_object_new_string(message));
    json_object_object_add(r, "error", e);
    return r;
}

struct json_object *rpc_parse_error(void)
{
    return failure(NULL, RPC_PARSE_ERROR, "Parse error");
}

static struct json_object *answer_one(const struct rpc_server *s, struct json_object *req)
{
    struct json_object *version = NULL;
    struct json_object *method = NULL;
    struct json_object *params = NULL;
    struct json_object *id = NULL;

    if (!json_object_is_type(req, json_type_object) ||
        !json_object_object_get_ex(req, "jsonrpc", &version) ||
        !json_object_is_type(version, json_type_string) ||
        strcmp(json_object_get_string(version), "2.0") != 0 ||
        !json_object_object_get_ex(req, "method", &method) ||
        !json_object_is_type(method, json_type_string))
        return failure(NULL, RPC_INVALID_REQUEST, "Invalid Request");
    int wants_reply = json_object_object_get_ex(req, "id", &id);
    if (wants_reply && !json_object_is_type(id, json_type_string) &&
        !json_object_is_type(id, json_type_int) && !json_object_is_type(id, json_type_double) &&
        !json_object_is_type(id, json_type_null))
        return failure(NULL, RPC_INVALID_REQUEST, "Invalid Request: id");
    if (json_object_object_get_ex(req, "params", &params) &&
        !json_object_is_type(params, json_type_object) &&
        !json_object_is_type(params, json_type_array))
        return wants_reply ? failure(id, RPC_INVALID_PARAMS, "params must be an object or an array")
                           : NULL;

    const char *name = json_object_get_string(method);
    for (size_t i = 0; i < s->count; i++) {
        if (strcmp(name, s->methods[i].name) != 0)
            continue;
        const char *message = "failed";
        struct json_object *result = s->methods[i].call(s->ctx, params, &message);
        if (!wants_reply) {
            json_object_put(result);
            return NULL;
        }
        if (result == NULL)
            return failure(id, RPC_FAILED, message);
        struct json_object *r = reply(id);
        json_object_object_add(r, "result", result);
        return r;
    }
    return wants_reply ? failure(id, RPC_NO_METHOD, "Method not found") : NULL;
}

struct json_object *rpc_answer(const struct rpc_server *s, struct json_object *request)
{
    if (!json_object_is_type(request, json_type_array))
        return answer_one(s, request);

    size_t n = json_object_array_length(request);
    if (n == 0 || n > RPC_MAX_BATCH)
        return failure(NULL, RPC_INVALID_REQUEST, "Invalid Request: size of the batch");
    struct json_object *all = json_object_new_array();
    for (size_t i = 0; i < n; i++) {
        struct json_object *r = answer_one(s, json_object_array_get_idx(request, i));
        if (r != NULL)
            json_object_array_add(all, r);
    }
    if (json_object_array_length(all) == 0) {
        json_object_put(all);
        return NULL;
    }
    return all;
}
