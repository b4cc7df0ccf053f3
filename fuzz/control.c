/* SPDX-License-Identifier: BSD-2-Clause */
/* The control socket's protocol: any text as a request. */
#include <stddef.h>
#include <stdint.h>

#include "../tools/vmcore/control_rpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct json_object *echo(void *ctx, struct json_object *params, const char **message)
{
    (void)ctx;
    *message = "no parameters";
    return json_object_get(params);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct rpc_method methods[] = {{"status", echo}, {"stats", echo}};
    const struct rpc_server server = {.methods = methods, .count = 2};
    struct json_tokener *tok = json_tokener_new_ex(RPC_MAX_DEPTH);

    if (size > RPC_MAX_REQUEST)
        size = RPC_MAX_REQUEST;
    struct json_object *req = json_tokener_parse_ex(tok, (const char *)data, (int)size);
    if (json_tokener_get_error(tok) == json_tokener_success) {
        struct json_object *r = rpc_answer(&server, req);
        if (r != NULL)
            (void)json_object_to_json_string(r);
        json_object_put(r);
    }
    json_object_put(req);
    json_tokener_free(tok);
    return 0;
}
