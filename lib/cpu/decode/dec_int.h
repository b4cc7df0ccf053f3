/* SPDX-License-Identifier: BSD-2-Clause */
/* Between the parts of the decoder: encoding scanner, capstone adapter, corrections, assembly. */
#ifndef DECODE_DEC_INT_H
#define DECODE_DEC_INT_H

#include "cpu/decode/insn.h"
#include "base/base_int.h"

/* What the bytes before the opcode say. */
struct dec_scan {
    uint8_t bits;
    uint8_t opsize, addrsize; /* in force */
    uint8_t seg;              /* override, or VMC_SREGS: none */
    uint8_t rex;              /* in force, or that of a VEX prefix */
    uint8_t rep;              /* last of F2, F3; or 0 */
    bool lock, p66, p67, vex, evex, xop;
    bool bad; /* a prefix that a VEX instruction must not have */
    uint8_t vex_v, vex_lpp;
    uint8_t map, opcode;
    uint8_t prefix_end; /* offset of REX, VEX or the opcode map bytes */
    uint8_t opcode_off;
    uint8_t pp; /* mandatory prefix of a legacy SSE form: 0 none, 1 66, 2 F3, 3 F2 */
};

/* VMCI_DEC_MORE, VMCI_DEC_TOO_LONG, or 1: s is valid. */
int dec_scan(const uint8_t *b, unsigned n, unsigned bits, struct dec_scan *s);

/* ModR/M and what follows it; fills base, index, scale, disp and the offsets of in. Returns the
   offset after the displacement. b must have 8 readable bytes from off on. */
unsigned dec_modrm(const struct dec_scan *s, const uint8_t *b, unsigned off, struct vmci_insn *in);

/* What the disassembly library says, in our terms. */
struct dec_facts {
    uint8_t len;
    bool has_modrm;
    uint16_t op;
    uint8_t feature;
    uint8_t nopnd;
    struct vmci_opnd opnd[4];
    uint8_t acc[4]; /* VMCI_MEM_* for each operand */
    int64_t imm;    /* of an immediate that has no bytes (SHL reg, 1) */
    uint8_t imm_bytes; /* of an encoding that is known from the FP table */
};

struct dec_backend;
int dec_backend_create(const struct vmc_platform *pf, struct dec_backend **out,
                       struct vmc_error *err);
void dec_backend_destroy(struct dec_backend *be);
/* b: 24 readable bytes. false: not an instruction. */
bool dec_backend_facts(struct dec_backend *be, unsigned bits, const uint8_t *b,
                       struct dec_facts *f);
unsigned dec_backend_text(struct dec_backend *be, unsigned bits, const uint8_t *b, unsigned n,
                          uint64_t rip, char *text, size_t size);

/*
 * x87, MMX, SSE and AVX (dec_fp.c): the table of encodings that may reach the host's unit decides,
 * the library is not asked. facts: false: not in the table. finish: false: not a valid form.
 */
bool dec_fp_facts(const struct dec_scan *s, struct dec_facts *f);
bool dec_fp_finish(const struct dec_scan *s, struct vmci_insn *in);

/* Corrections (dec_fix.c): before the library sees the opcode, and of what it says. */
void dec_fix_bytes(const struct dec_scan *s, uint8_t *opcode, unsigned avail);
void dec_fix_facts(const struct dec_scan *s, const uint8_t *opcode, struct dec_facts *f);
bool dec_prefix_valid(const struct dec_scan *s, unsigned op);

#endif
