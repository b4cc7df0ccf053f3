/* SPDX-License-Identifier: BSD-2-Clause */
/* The other end of a control socket: one JSON-RPC call at a time. */
#ifndef CTL_CLIENT_H
#define CTL_CLIENT_H

#include <json-c/json.h>
#include <stdint.h>
#include <stdio.h>

struct ctl {
    const char *who; /* begins messages */
    FILE *in;
    int fd;
};

/* -1 with a message on standard error. */
int ctl_open(struct ctl *c, const char *who, const char *path);
void ctl_close(struct ctl *c);
/*
 * Call a method; params (may be NULL) is consumed. The result is the caller's; NULL with a message
 * on standard error. What comes back is not trusted: look at types before use.
 */
struct json_object *ctl_call(struct ctl *c, const char *method, struct json_object *params);

/* Members of objects; 0, "" or NULL where there is none of this type. */
uint64_t ctl_u64(struct json_object *o, const char *name);
const char *ctl_text(struct json_object *o, const char *name);
struct json_object *ctl_object(struct json_object *o, const char *name);
/* What a VM does, for people: its state, or "no space" when it runs and writes of it wait for that. */
const char *ctl_vm_state(struct json_object *vm);
/* Length of an array, 0 if it is none; and its elements. */
size_t ctl_length(struct json_object *list);
struct json_object *ctl_at(struct json_object *list, size_t i);

#endif
