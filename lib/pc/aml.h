/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A writer of ACPI machine language (ACPI 6.4 chapter 20). It appends to a buffer; overflow is
 * remembered and reported at the end, so that the code that writes a table stays plain.
 */
#ifndef PC_AML_H
#define PC_AML_H

#include "base/base_int.h"

struct aml {
    uint8_t *buf;
    size_t room;
    size_t len; /* may exceed room: then the table did not fit */
};

/* ---- raw ----------------------------------------------------------------------------------- */

void aml_byte(struct aml *a, uint8_t v);
void aml_bytes(struct aml *a, const void *p, size_t n);
void aml_le(struct aml *a, uint64_t v, unsigned bytes);

/* ---- objects ------------------------------------------------------------------------------- */

/* A name or path: optional '\' in front, segments of up to four characters separated by dots. */
void aml_path(struct aml *a, const char *path);
void aml_int(struct aml *a, uint64_t v);
void aml_string(struct aml *a, const char *s);
void aml_eisaid(struct aml *a, const char *id);
/* Name (name, ...): the value follows. */
void aml_name(struct aml *a, const char *name);
void aml_name_int(struct aml *a, const char *name, uint64_t v);

/* Blocks with a length: begin returns what end needs. */
size_t aml_scope(struct aml *a, const char *path);
size_t aml_device(struct aml *a, const char *name);
size_t aml_method(struct aml *a, const char *name, unsigned args);
size_t aml_package(struct aml *a, unsigned elements);
size_t aml_buffer(struct aml *a); /* contents follow, their number is filled in */
size_t aml_if(struct aml *a);     /* the predicate follows, then the body */
size_t aml_else(struct aml *a);
void aml_end(struct aml *a, size_t begun);
void aml_buffer_end(struct aml *a, size_t begun);

/* ---- operators ----------------------------------------------------------------------------- */

enum aml_op {
    AML_ZERO = 0x00,
    AML_ONE = 0x01,
    AML_LOCAL0 = 0x60,
    AML_ARG0 = 0x68,
    AML_STORE = 0x70,
    AML_AND = 0x7b,
    AML_OR = 0x7d,
    AML_LNOT = 0x92,
    AML_LEQUAL = 0x93,
    AML_RETURN = 0xa4,
    AML_CREATE_DWORD = 0x8a,
};
static inline void aml_op(struct aml *a, enum aml_op op)
{
    aml_byte(a, (uint8_t)op);
}

/* ---- resource templates (ACPI 6.4 6.4), between aml_resources and aml_resources_end --------- */

size_t aml_resources(struct aml *a, const char *name);
void aml_resources_end(struct aml *a, size_t begun);
void aml_res_io(struct aml *a, uint16_t base, uint8_t bytes);
void aml_res_irq(struct aml *a, unsigned irq); /* edge, active high */
void aml_res_mem32(struct aml *a, uint32_t base, uint32_t bytes);
void aml_res_bus(struct aml *a, uint16_t first, uint16_t last);
void aml_res_io_window(struct aml *a, uint16_t first, uint16_t last);
void aml_res_mem_window32(struct aml *a, uint32_t first, uint32_t last);
void aml_res_mem_window64(struct aml *a, uint64_t first, uint64_t last);

#endif
