/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef GDB_PRIV_H
#define GDB_PRIV_H

#include "base/base_int.h"
#include <vmcore/gdb.h>
#include <vmcore/paging.h>
#include <vmcore/x86.h>

#define GDB_PACKET_BYTES 16384
#define GDB_BREAKPOINTS  64

/* What a packet parser reads from: hex digits and separators of the current packet. */
struct gdb_reader {
    const char *at, *end;
};

/* A reply being put together. */
struct gdb_writer {
    char *buf;
    size_t len, cap;
};

void gdb_put(struct gdb_writer *w, const char *text);
void gdb_put_hex(struct gdb_writer *w, const void *data, size_t bytes);
void gdb_put_num(struct gdb_writer *w, uint64_t v);
bool gdb_hex_bytes(struct gdb_reader *r, void *out, size_t bytes);

/* Registers (gdb_regs.c): one table gives the target description and the order in g packets. */
struct gdb_arch;
extern const struct gdb_arch gdb_x86_64, gdb_i386;
unsigned gdb_reg_count(const struct gdb_arch *a);
/* Size in bytes and value of register n in guest order; 0: no such register. */
unsigned gdb_reg_get(const struct gdb_arch *a, const struct vmc_x86_state *st, unsigned n,
                     uint8_t out[16]);
/* Change register n; returns the state groups to write back, 0: not writable. */
uint32_t gdb_reg_set(const struct gdb_arch *a, struct vmc_x86_state *st, unsigned n,
                     const uint8_t *value);
unsigned gdb_reg_bytes(const struct gdb_arch *a, unsigned n);
/* The description, whole; returns its length (call with bytes 0 to learn it). */
size_t gdb_target_xml(const struct gdb_arch *a, char *dst, size_t bytes);

#endif
