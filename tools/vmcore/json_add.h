/* SPDX-License-Identifier: BSD-2-Clause */
/* Members of a JSON object, by type. */
#ifndef JSON_ADD_H
#define JSON_ADD_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

static inline void add_u64(struct json_object *o, const char *name, uint64_t v)
{
    json_object_object_add(o, name, json_object_new_uint64(v));
}

static inline void add_bool(struct json_object *o, const char *name, bool v)
{
    json_object_object_add(o, name, json_object_new_boolean(v));
}

#endif
