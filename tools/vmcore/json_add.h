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

/* json_text.c. Bytes of the UTF-8 character at s, which ends with a NUL; 0: there is none. */
unsigned utf8_bytes(const unsigned char *s);
/* Text from outside, with U+FFFD for what is no UTF-8. */
struct json_object *json_text(const char *text);
/* The same as a member; if it is no UTF-8, its bytes are in another one, NAME_hex. */
void add_text(struct json_object *o, const char *name, const char *text);

#endif
