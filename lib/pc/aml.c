/* SPDX-License-Identifier: BSD-2-Clause */
/* See aml.h. Section numbers are those of the ACPI specification, version 6.4. */
#include "pc/aml.h"

#define PKG_LENGTH_BYTES 3 /* one form for all: up to 1 MiB */

void aml_byte(struct aml *a, uint8_t v)
{
    if (a->len < a->room)
        a->buf[a->len] = v;
    a->len++;
}

void aml_bytes(struct aml *a, const void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        aml_byte(a, ((const uint8_t *)p)[i]);
}

void aml_le(struct aml *a, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        aml_byte(a, (uint8_t)(v >> (8 * i)));
}

static void patch(struct aml *a, size_t at, uint8_t v)
{
    if (at < a->room)
        a->buf[at] = v;
}

/* ---- names (20.2.2) ------------------------------------------------------------------------ */

static size_t segment_length(const char *s)
{
    size_t n = 0;

    while (s[n] != '\0' && s[n] != '.')
        n++;
    return n;
}

void aml_path(struct aml *a, const char *path)
{
    unsigned segments = 1;

    if (*path == '\\') {
        aml_byte(a, '\\');
        path++;
    }
    for (const char *p = path; *p != '\0'; p++)
        segments += *p == '.';
    if (segments == 2)
        aml_byte(a, 0x2e); /* DualNamePrefix */
    else if (segments > 2) {
        aml_byte(a, 0x2f); /* MultiNamePrefix */
        aml_byte(a, (uint8_t)segments);
    }
    while (*path != '\0') {
        size_t n = segment_length(path);
        for (size_t i = 0; i < 4; i++)
            aml_byte(a, i < n ? (uint8_t)path[i] : '_');
        path += n + (path[n] == '.');
    }
}

void aml_name(struct aml *a, const char *name)
{
    aml_byte(a, 0x08);
    aml_path(a, name);
}

void aml_name_int(struct aml *a, const char *name, uint64_t v)
{
    aml_name(a, name);
    aml_int(a, v);
}

/* ---- data (20.2.3) ------------------------------------------------------------------------- */

void aml_int(struct aml *a, uint64_t v)
{
    if (v <= 1) {
        aml_byte(a, (uint8_t)v);
    } else if (v <= 0xff) {
        aml_byte(a, 0x0a);
        aml_le(a, v, 1);
    } else if (v <= 0xffff) {
        aml_byte(a, 0x0b);
        aml_le(a, v, 2);
    } else if (v <= 0xffffffffu) {
        aml_byte(a, 0x0c);
        aml_le(a, v, 4);
    } else {
        aml_byte(a, 0x0e);
        aml_le(a, v, 8);
    }
}

void aml_string(struct aml *a, const char *s)
{
    aml_byte(a, 0x0d);
    aml_bytes(a, s, vmci_strlen(s) + 1);
}

static unsigned hex_digit(char c)
{
    return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'A') + 10;
}

/* Three letters and four hexadecimal digits, compressed to 32 bits (19.6.36). */
void aml_eisaid(struct aml *a, const char *id)
{
    unsigned v = (unsigned)(id[0] - '@') << 10 | (unsigned)(id[1] - '@') << 5 |
                 (unsigned)(id[2] - '@');
    unsigned product = hex_digit(id[3]) << 12 | hex_digit(id[4]) << 8 | hex_digit(id[5]) << 4 |
                       hex_digit(id[6]);

    aml_byte(a, 0x0c);
    aml_byte(a, (uint8_t)(v >> 8));
    aml_byte(a, (uint8_t)v);
    aml_byte(a, (uint8_t)(product >> 8));
    aml_byte(a, (uint8_t)product);
}

/* ---- blocks (20.2.4) ----------------------------------------------------------------------- */

static size_t begin(struct aml *a)
{
    size_t at = a->len;

    aml_le(a, 0, PKG_LENGTH_BYTES);
    return at;
}

void aml_end(struct aml *a, size_t begun)
{
    size_t n = a->len - begun;

    patch(a, begun, (uint8_t)((PKG_LENGTH_BYTES - 1) << 6 | (n & 15)));
    patch(a, begun + 1, (uint8_t)(n >> 4));
    patch(a, begun + 2, (uint8_t)(n >> 12));
}

size_t aml_scope(struct aml *a, const char *path)
{
    aml_byte(a, 0x10);
    size_t at = begin(a);
    aml_path(a, path);
    return at;
}

size_t aml_device(struct aml *a, const char *name)
{
    aml_byte(a, 0x5b);
    aml_byte(a, 0x82);
    size_t at = begin(a);
    aml_path(a, name);
    return at;
}

size_t aml_method(struct aml *a, const char *name, unsigned args)
{
    aml_byte(a, 0x14);
    size_t at = begin(a);
    aml_path(a, name);
    aml_byte(a, (uint8_t)args);
    return at;
}

size_t aml_package(struct aml *a, unsigned elements)
{
    aml_byte(a, 0x12);
    size_t at = begin(a);
    aml_byte(a, (uint8_t)elements);
    return at;
}

/* The size of a buffer is a term of its own; two bytes are always enough here. */
size_t aml_buffer(struct aml *a)
{
    aml_byte(a, 0x11);
    size_t at = begin(a);
    aml_byte(a, 0x0b);
    aml_le(a, 0, 2);
    return at;
}

void aml_buffer_end(struct aml *a, size_t begun)
{
    size_t n = a->len - begun - PKG_LENGTH_BYTES - 3;

    patch(a, begun + PKG_LENGTH_BYTES + 1, (uint8_t)n);
    patch(a, begun + PKG_LENGTH_BYTES + 2, (uint8_t)(n >> 8));
    aml_end(a, begun);
}

size_t aml_if(struct aml *a)
{
    aml_byte(a, 0xa0);
    return begin(a);
}

size_t aml_else(struct aml *a)
{
    aml_byte(a, 0xa1);
    return begin(a);
}

/* ---- resources (6.4) ----------------------------------------------------------------------- */

size_t aml_resources(struct aml *a, const char *name)
{
    aml_name(a, name);
    return aml_buffer(a);
}

void aml_resources_end(struct aml *a, size_t begun)
{
    aml_byte(a, 0x79); /* end tag */
    aml_byte(a, 0);    /* checksum: none */
    aml_buffer_end(a, begun);
}

void aml_res_io(struct aml *a, uint16_t base, uint8_t bytes)
{
    aml_byte(a, 0x47);
    aml_byte(a, 1); /* 16-bit decode */
    aml_le(a, base, 2);
    aml_le(a, base, 2);
    aml_byte(a, 1);
    aml_byte(a, bytes);
}

void aml_res_irq(struct aml *a, unsigned irq)
{
    aml_byte(a, 0x22);
    aml_le(a, 1ull << irq, 2);
}

void aml_res_mem32(struct aml *a, uint32_t base, uint32_t bytes)
{
    aml_byte(a, 0x86);
    aml_le(a, 9, 2);
    aml_byte(a, 1); /* writable */
    aml_le(a, base, 4);
    aml_le(a, bytes, 4);
}

#define WINDOW_FIXED 0x0c /* minimum and maximum are fixed; produced, positive decode */

static void window(struct aml *a, uint8_t tag, uint8_t type, uint8_t type_flags, uint64_t first,
                   uint64_t last, unsigned bytes)
{
    aml_byte(a, tag);
    aml_le(a, 3 + 5ull * bytes, 2);
    aml_byte(a, type);
    aml_byte(a, WINDOW_FIXED);
    aml_byte(a, type_flags);
    aml_le(a, 0, bytes); /* granularity */
    aml_le(a, first, bytes);
    aml_le(a, last, bytes);
    aml_le(a, 0, bytes); /* translation */
    aml_le(a, last - first + 1, bytes);
}

void aml_res_bus(struct aml *a, uint16_t first, uint16_t last)
{
    window(a, 0x88, 2, 0, first, last, 2);
}

void aml_res_io_window(struct aml *a, uint16_t first, uint16_t last)
{
    window(a, 0x88, 1, 3, first, last, 2); /* entire range */
}

void aml_res_mem_window32(struct aml *a, uint32_t first, uint32_t last)
{
    window(a, 0x87, 0, 1, first, last, 4); /* read-write, not cacheable */
}

void aml_res_mem_window64(struct aml *a, uint64_t first, uint64_t last)
{
    /* Not marked prefetchable: 64-bit BARs of either kind may be placed here. */
    window(a, 0x8a, 0, 1, first, last, 8);
}
