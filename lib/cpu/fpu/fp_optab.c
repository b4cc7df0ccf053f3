/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The MMX, SSE and AVX encodings that may reach the host's unit, one row each (SDM 2, APM 4).
 *
 * A thunk that the host rejects would take the whole process down, so this table, not the decoder,
 * has the last word on what is valid. tests/diff walks every encoding against the host.
 */
#include "fp_int.h"

/* clang-format off */
#define F(x) VMCI_FEAT_##x
#define V3 VMCI_FO_V3
#define LIG VMCI_FO_LIG
#define W0 VMCI_FO_W0
#define W1 VMCI_FO_W1
#define RO VMCI_FO_REG
#define MO VMCI_FO_MEM
#define AL VMCI_FO_ALIGN
#define AX (VMCI_FO_ALIGN | VMCI_FO_ALIGNX)
#define SH (VMCI_FO_ALIGN | VMCI_FO_LOOSE)
#define ST VMCI_FO_STORE
#define GR VMCI_FO_GREG
#define GS VMCI_FO_GRMR
#define GD (VMCI_FO_GRMW | VMCI_FO_STORE)
#define GQ VMCI_FO_GW
#define FL VMCI_FO_FLAGS
#define I8 VMCI_FO_IMM8
#define MX VMCI_FO_MMX
#define MXX (VMCI_FO_MMX | VMCI_FO_XMM)
#define EX VMCI_FO_EXC
#define NP 0
#define P66 1
#define PF3 2
#define PF2 3
#define M(x) VMCI_FM_##x
#define S(x) VMCI_FS_##x

#define ROW(op, pp, leg, v128, v256, mem, fl) {op, pp, F(leg), F(v128), F(v256), M(mem), 0, 0, fl}
#define SPC(op, pp, leg, v128, v256, mem, sp, fl) \
    {op, pp, F(leg), F(v128), F(v256), M(mem), S(sp), 0, fl}
#define EXT(op, pp, leg, v128, v256, mask, fl) \
    {op, pp, F(leg), F(v128), F(v256), 0, 0, mask, (fl) | VMCI_FO_EXT | RO | I8}
/* packed single, packed double; with three VEX operands */
#define PSPD(op, fl) \
    ROW(op, NP, SSE, AVX, AVX, V, AL | (fl)), ROW(op, P66, SSE2, AVX, AVX, V, AL | (fl))
#define SSSD(op, fl) \
    ROW(op, PF3, SSE, AVX, AVX, 4, LIG | (fl)), ROW(op, PF2, SSE2, AVX, AVX, 8, LIG | (fl))
#define ARITH(op) PSPD(op, V3 | EX), SSSD(op, V3 | EX)
/* integer: MMX form, SSE form, AVX form with three operands */
#define INT(op, mmx) INT2(op, mmx, SSE2)
#define INT2(op, mmx, sse) \
    ROW(op, NP, mmx, NONE, NONE, 8, MX), ROW(op, P66, sse, AVX, AVX2, V, AL | V3)
/* shifts by a register: the count is 128 bits whatever the vector length */
#define SHIFT(op) \
    ROW(op, NP, MMX, NONE, NONE, 8, MX), ROW(op, P66, SSE2, AVX, AVX2, 16, AL | V3)
#define I41(op) ROW(op, P66, SSE41, AVX, AVX2, V, AL | V3)
#define PMOVX(op, mem) ROW(op, P66, SSE41, AVX, AVX2, mem, 0)
#define FMAP(op) ROW(op, P66, NONE, FMA, FMA, V, V3 | EX)
#define FMAS(op) ROW(op, P66, NONE, FMA, FMA, W, V3 | EX | LIG)
#define FMA16(op) \
    FMAP(op), FMAP((op) + 1), FMAP((op) + 2), FMAS((op) + 3), FMAP((op) + 4), FMAS((op) + 5), \
    FMAP((op) + 6), FMAS((op) + 7), FMAP((op) + 8), FMAS((op) + 9)

static const struct vmci_fp_op map_0f[] = {
    ROW(0x10, NP, SSE, AVX, AVX, V, 0), ROW(0x10, P66, SSE2, AVX, AVX, V, 0),
    ROW(0x10, PF3, SSE, AVX, AVX, 4, LIG | VMCI_FO_V3REG),
    ROW(0x10, PF2, SSE2, AVX, AVX, 8, LIG | VMCI_FO_V3REG),
    ROW(0x11, NP, SSE, AVX, AVX, V, ST), ROW(0x11, P66, SSE2, AVX, AVX, V, ST),
    ROW(0x11, PF3, SSE, AVX, AVX, 4, LIG | VMCI_FO_V3REG | ST),
    ROW(0x11, PF2, SSE2, AVX, AVX, 8, LIG | VMCI_FO_V3REG | ST),
    ROW(0x12, NP, SSE, AVX, NONE, 8, V3), ROW(0x12, P66, SSE2, AVX, NONE, 8, V3 | MO),
    ROW(0x12, PF3, SSE3, AVX, AVX, V, AL), ROW(0x12, PF2, SSE3, AVX, AVX, DUP, 0),
    ROW(0x13, NP, SSE, AVX, NONE, 8, MO | ST), ROW(0x13, P66, SSE2, AVX, NONE, 8, MO | ST),
    PSPD(0x14, V3), PSPD(0x15, V3),
    ROW(0x16, NP, SSE, AVX, NONE, 8, V3), ROW(0x16, P66, SSE2, AVX, NONE, 8, V3 | MO),
    ROW(0x16, PF3, SSE3, AVX, AVX, V, AL),
    ROW(0x17, NP, SSE, AVX, NONE, 8, MO | ST), ROW(0x17, P66, SSE2, AVX, NONE, 8, MO | ST),
    PSPD(0x28, AX), PSPD(0x29, AX | ST),
    ROW(0x2a, NP, SSE, NONE, NONE, 8, MXX | EX), ROW(0x2a, P66, SSE2, NONE, NONE, 8, MXX | EX),
    ROW(0x2a, PF3, SSE, AVX, AVX, GW, GS | GQ | V3 | LIG | EX),
    ROW(0x2a, PF2, SSE2, AVX, AVX, GW, GS | GQ | V3 | LIG | EX),
    PSPD(0x2b, AX | ST | MO),
    ROW(0x2b, PF3, SSE4A, NONE, NONE, 4, ST | MO), ROW(0x2b, PF2, SSE4A, NONE, NONE, 8, ST | MO),
    ROW(0x2c, NP, SSE, NONE, NONE, 8, MXX | EX), ROW(0x2c, P66, SSE2, NONE, NONE, 16, MXX | EX | AL),
    ROW(0x2c, PF3, SSE, AVX, AVX, 4, GR | GQ | LIG | EX),
    ROW(0x2c, PF2, SSE2, AVX, AVX, 8, GR | GQ | LIG | EX),
    ROW(0x2d, NP, SSE, NONE, NONE, 8, MXX | EX), ROW(0x2d, P66, SSE2, NONE, NONE, 16, MXX | EX | AL),
    ROW(0x2d, PF3, SSE, AVX, AVX, 4, GR | GQ | LIG | EX),
    ROW(0x2d, PF2, SSE2, AVX, AVX, 8, GR | GQ | LIG | EX),
    ROW(0x2e, NP, SSE, AVX, AVX, 4, FL | LIG | EX), ROW(0x2e, P66, SSE2, AVX, AVX, 8, FL | LIG | EX),
    ROW(0x2f, NP, SSE, AVX, AVX, 4, FL | LIG | EX), ROW(0x2f, P66, SSE2, AVX, AVX, 8, FL | LIG | EX),
    ROW(0x50, NP, SSE, AVX, AVX, NONE, GR | RO), ROW(0x50, P66, SSE2, AVX, AVX, NONE, GR | RO),
    PSPD(0x51, EX), SSSD(0x51, V3 | EX),
    ROW(0x52, NP, SSE, AVX, AVX, V, AL), ROW(0x52, PF3, SSE, AVX, AVX, 4, LIG | V3),
    ROW(0x53, NP, SSE, AVX, AVX, V, AL), ROW(0x53, PF3, SSE, AVX, AVX, 4, LIG | V3),
    PSPD(0x54, V3), PSPD(0x55, V3), PSPD(0x56, V3), PSPD(0x57, V3),
    ARITH(0x58), ARITH(0x59),
    ROW(0x5a, NP, SSE2, AVX, AVX, V2, EX), ROW(0x5a, P66, SSE2, AVX, AVX, V, AL | EX),
    SSSD(0x5a, V3 | EX),
    ROW(0x5b, NP, SSE2, AVX, AVX, V, AL | EX), ROW(0x5b, P66, SSE2, AVX, AVX, V, AL | EX),
    ROW(0x5b, PF3, SSE2, AVX, AVX, V, AL | EX),
    ARITH(0x5c), ARITH(0x5d), ARITH(0x5e), ARITH(0x5f),
    ROW(0x60, NP, MMX, NONE, NONE, 4, MX), ROW(0x60, P66, SSE2, AVX, AVX2, V, AL | V3),
    ROW(0x61, NP, MMX, NONE, NONE, 4, MX), ROW(0x61, P66, SSE2, AVX, AVX2, V, AL | V3),
    ROW(0x62, NP, MMX, NONE, NONE, 4, MX), ROW(0x62, P66, SSE2, AVX, AVX2, V, AL | V3),
    INT(0x63, MMX), INT(0x64, MMX), INT(0x65, MMX), INT(0x66, MMX), INT(0x67, MMX),
    INT(0x68, MMX), INT(0x69, MMX), INT(0x6a, MMX), INT(0x6b, MMX),
    ROW(0x6c, P66, SSE2, AVX, AVX2, V, AL | V3), ROW(0x6d, P66, SSE2, AVX, AVX2, V, AL | V3),
    ROW(0x6e, NP, MMX, NONE, NONE, GW, GS | GQ | MX), ROW(0x6e, P66, SSE2, AVX, NONE, GW, GS | GQ),
    ROW(0x6f, NP, MMX, NONE, NONE, 8, MX), ROW(0x6f, P66, SSE2, AVX, AVX, V, AX),
    ROW(0x6f, PF3, SSE2, AVX, AVX, V, 0),
    ROW(0x70, NP, SSE, NONE, NONE, 8, MX | I8), ROW(0x70, P66, SSE2, AVX, AVX2, V, AL | I8),
    ROW(0x70, PF3, SSE2, AVX, AVX2, V, AL | I8), ROW(0x70, PF2, SSE2, AVX, AVX2, V, AL | I8),
    EXT(0x71, NP, MMX, NONE, NONE, 0x54, MX), EXT(0x71, P66, SSE2, AVX, AVX2, 0x54, V3),
    EXT(0x72, NP, MMX, NONE, NONE, 0x54, MX), EXT(0x72, P66, SSE2, AVX, AVX2, 0x54, V3),
    EXT(0x73, NP, MMX, NONE, NONE, 0x44, MX), EXT(0x73, P66, SSE2, AVX, AVX2, 0xcc, V3),
    INT(0x74, MMX), INT(0x75, MMX), INT(0x76, MMX),
    SPC(0x77, NP, MMX, AVX, AVX, NONE, EMMS, 0),
    {0x78, P66, F(SSE4A), F(NONE), F(NONE), 0, 0, 0x01, VMCI_FO_EXT | RO | VMCI_FO_IMM16},
    ROW(0x78, PF2, SSE4A, NONE, NONE, NONE, RO | VMCI_FO_IMM16),
    ROW(0x79, P66, SSE4A, NONE, NONE, NONE, RO), ROW(0x79, PF2, SSE4A, NONE, NONE, NONE, RO),
    ROW(0x7c, P66, SSE3, AVX, AVX, V, AL | V3 | EX), ROW(0x7c, PF2, SSE3, AVX, AVX, V, AL | V3 | EX),
    ROW(0x7d, P66, SSE3, AVX, AVX, V, AL | V3 | EX), ROW(0x7d, PF2, SSE3, AVX, AVX, V, AL | V3 | EX),
    ROW(0x7e, NP, MMX, NONE, NONE, GW, GD | GQ | MX), ROW(0x7e, P66, SSE2, AVX, NONE, GW, GD | GQ),
    ROW(0x7e, PF3, SSE2, AVX, NONE, 8, 0),
    ROW(0x7f, NP, MMX, NONE, NONE, 8, MX | ST), ROW(0x7f, P66, SSE2, AVX, AVX, V, AX | ST),
    ROW(0x7f, PF3, SSE2, AVX, AVX, V, ST),
    PSPD(0xc2, V3 | I8 | EX), SSSD(0xc2, V3 | I8 | EX),
    ROW(0xc4, NP, SSE, NONE, NONE, 2, GS | MX | I8), ROW(0xc4, P66, SSE2, AVX, NONE, 2, GS | V3 | I8),
    ROW(0xc5, NP, SSE, NONE, NONE, NONE, GR | RO | MX | I8),
    ROW(0xc5, P66, SSE2, AVX, NONE, NONE, GR | RO | I8),
    PSPD(0xc6, V3 | I8),
    ROW(0xd0, P66, SSE3, AVX, AVX, V, AL | V3 | EX), ROW(0xd0, PF2, SSE3, AVX, AVX, V, AL | V3 | EX),
    SHIFT(0xd1), SHIFT(0xd2), SHIFT(0xd3), INT(0xd4, SSE2), INT(0xd5, MMX),
    ROW(0xd6, P66, SSE2, AVX, NONE, 8, ST),
    ROW(0xd6, PF3, SSE2, NONE, NONE, NONE, RO | MXX), ROW(0xd6, PF2, SSE2, NONE, NONE, NONE, RO | MXX),
    ROW(0xd7, NP, SSE, NONE, NONE, NONE, GR | RO | MX), ROW(0xd7, P66, SSE2, AVX, AVX2, NONE, GR | RO),
    INT(0xd8, MMX), INT(0xd9, MMX), INT(0xda, SSE), INT(0xdb, MMX), INT(0xdc, MMX), INT(0xdd, MMX),
    INT(0xde, SSE), INT(0xdf, MMX), INT(0xe0, SSE), SHIFT(0xe1), SHIFT(0xe2), INT(0xe3, SSE),
    INT(0xe4, SSE), INT(0xe5, MMX),
    ROW(0xe6, P66, SSE2, AVX, AVX, V, AL | EX), ROW(0xe6, PF3, SSE2, AVX, AVX, V2, 0),
    ROW(0xe6, PF2, SSE2, AVX, AVX, V, AL | EX),
    ROW(0xe7, NP, SSE, NONE, NONE, 8, MX | MO | ST), ROW(0xe7, P66, SSE2, AVX, AVX, V, AX | MO | ST),
    INT(0xe8, MMX), INT(0xe9, MMX), INT(0xea, SSE), INT(0xeb, MMX), INT(0xec, MMX), INT(0xed, MMX),
    INT(0xee, SSE), INT(0xef, MMX),
    ROW(0xf0, PF2, SSE3, AVX, AVX, V, MO),
    SHIFT(0xf1), SHIFT(0xf2), SHIFT(0xf3), INT(0xf4, SSE2), INT(0xf5, MMX), INT(0xf6, SSE),
    SPC(0xf7, NP, SSE, NONE, NONE, NONE, MASKMOV, RO | MX),
    SPC(0xf7, P66, SSE2, AVX, NONE, NONE, MASKMOV, RO),
    INT(0xf8, MMX), INT(0xf9, MMX), INT(0xfa, MMX), INT(0xfb, SSE2), INT(0xfc, MMX), INT(0xfd, MMX),
    INT(0xfe, MMX),
};

static const struct vmci_fp_op map_0f38[] = {
    INT2(0x00, SSSE3, SSSE3), INT2(0x01, SSSE3, SSSE3), INT2(0x02, SSSE3, SSSE3),
    INT2(0x03, SSSE3, SSSE3), INT2(0x04, SSSE3, SSSE3), INT2(0x05, SSSE3, SSSE3),
    INT2(0x06, SSSE3, SSSE3), INT2(0x07, SSSE3, SSSE3), INT2(0x08, SSSE3, SSSE3),
    INT2(0x09, SSSE3, SSSE3), INT2(0x0a, SSSE3, SSSE3), INT2(0x0b, SSSE3, SSSE3),
    ROW(0x0c, P66, NONE, AVX, AVX, V, V3 | W0), ROW(0x0d, P66, NONE, AVX, AVX, V, V3 | W0),
    ROW(0x0e, P66, NONE, AVX, AVX, V, W0 | FL), ROW(0x0f, P66, NONE, AVX, AVX, V, W0 | FL),
    ROW(0x10, P66, SSE41, NONE, NONE, V, AL), ROW(0x13, P66, NONE, F16C, F16C, V2, W0 | EX),
    ROW(0x14, P66, SSE41, NONE, NONE, V, AL), ROW(0x15, P66, SSE41, NONE, NONE, V, AL),
    ROW(0x16, P66, NONE, NONE, AVX2, V, V3 | W0), ROW(0x17, P66, SSE41, AVX, AVX, V, AL | FL),
    ROW(0x18, P66, NONE, AVX, AVX, 4, W0), ROW(0x19, P66, NONE, NONE, AVX, 8, W0),
    ROW(0x1a, P66, NONE, NONE, AVX, 16, W0 | MO),
    ROW(0x1c, NP, SSSE3, NONE, NONE, 8, MX), ROW(0x1c, P66, SSSE3, AVX, AVX2, V, AL),
    ROW(0x1d, NP, SSSE3, NONE, NONE, 8, MX), ROW(0x1d, P66, SSSE3, AVX, AVX2, V, AL),
    ROW(0x1e, NP, SSSE3, NONE, NONE, 8, MX), ROW(0x1e, P66, SSSE3, AVX, AVX2, V, AL),
    PMOVX(0x20, V2), PMOVX(0x21, V4), PMOVX(0x22, V8), PMOVX(0x23, V2), PMOVX(0x24, V4),
    PMOVX(0x25, V2), I41(0x28), I41(0x29), ROW(0x2a, P66, SSE41, AVX, AVX2, V, AX | MO), I41(0x2b),
    SPC(0x2c, P66, NONE, AVX, AVX, V, VMASKLD, V3 | W0 | MO),
    SPC(0x2d, P66, NONE, AVX, AVX, V, VMASKLD, V3 | W0 | MO),
    SPC(0x2e, P66, NONE, AVX, AVX, V, VMASKST, V3 | W0 | MO | ST),
    SPC(0x2f, P66, NONE, AVX, AVX, V, VMASKST, V3 | W0 | MO | ST),
    PMOVX(0x30, V2), PMOVX(0x31, V4), PMOVX(0x32, V8), PMOVX(0x33, V2), PMOVX(0x34, V4),
    PMOVX(0x35, V2), ROW(0x36, P66, NONE, NONE, AVX2, V, V3 | W0),
    ROW(0x37, P66, SSE42, AVX, AVX2, V, AL | V3), I41(0x38), I41(0x39), I41(0x3a), I41(0x3b),
    I41(0x3c), I41(0x3d), I41(0x3e), I41(0x3f), I41(0x40),
    ROW(0x41, P66, SSE41, AVX, NONE, V, AL), ROW(0x45, P66, NONE, AVX2, AVX2, V, V3),
    ROW(0x46, P66, NONE, AVX2, AVX2, V, V3 | W0), ROW(0x47, P66, NONE, AVX2, AVX2, V, V3),
    ROW(0x58, P66, NONE, AVX2, AVX2, 4, W0), ROW(0x59, P66, NONE, AVX2, AVX2, 8, W0),
    ROW(0x5a, P66, NONE, NONE, AVX2, 16, W0 | MO), ROW(0x78, P66, NONE, AVX2, AVX2, 1, W0),
    ROW(0x79, P66, NONE, AVX2, AVX2, 2, W0),
    SPC(0x8c, P66, NONE, AVX2, AVX2, V, VMASKLD, V3 | MO),
    SPC(0x8e, P66, NONE, AVX2, AVX2, V, VMASKST, V3 | MO | ST),
    SPC(0x90, P66, NONE, AVX2, AVX2, W, GATHER, V3 | MO),
    SPC(0x91, P66, NONE, AVX2, AVX2, W, GATHER, V3 | MO),
    SPC(0x92, P66, NONE, AVX2, AVX2, W, GATHER, V3 | MO),
    SPC(0x93, P66, NONE, AVX2, AVX2, W, GATHER, V3 | MO),
    FMA16(0x96), FMA16(0xa6), FMA16(0xb6),
    ROW(0xc8, NP, SHA, NONE, NONE, V, SH), ROW(0xc9, NP, SHA, NONE, NONE, V, SH),
    ROW(0xca, NP, SHA, NONE, NONE, V, SH), ROW(0xcb, NP, SHA, NONE, NONE, V, SH),
    ROW(0xcc, NP, SHA, NONE, NONE, V, SH), ROW(0xcd, NP, SHA, NONE, NONE, V, SH),
    ROW(0xcf, P66, GFNI, GFNI, GFNI, V, AL | V3 | W0),
    ROW(0xdb, P66, AES, AES, NONE, V, AL), ROW(0xdc, P66, AES, AES, VAES, V, AL | V3),
    ROW(0xdd, P66, AES, AES, VAES, V, AL | V3), ROW(0xde, P66, AES, AES, VAES, V, AL | V3),
    ROW(0xdf, P66, AES, AES, VAES, V, AL | V3),
};

static const struct vmci_fp_op map_0f3a[] = {
    ROW(0x00, P66, NONE, NONE, AVX2, V, W1 | I8), ROW(0x01, P66, NONE, NONE, AVX2, V, W1 | I8),
    ROW(0x02, P66, NONE, AVX2, AVX2, V, V3 | W0 | I8), ROW(0x04, P66, NONE, AVX, AVX, V, W0 | I8),
    ROW(0x05, P66, NONE, AVX, AVX, V, W0 | I8), ROW(0x06, P66, NONE, NONE, AVX, V, V3 | W0 | I8),
    ROW(0x08, P66, SSE41, AVX, AVX, V, AL | I8 | EX), ROW(0x09, P66, SSE41, AVX, AVX, V, AL | I8 | EX),
    ROW(0x0a, P66, SSE41, AVX, AVX, 4, V3 | LIG | I8 | EX),
    ROW(0x0b, P66, SSE41, AVX, AVX, 8, V3 | LIG | I8 | EX),
    ROW(0x0c, P66, SSE41, AVX, AVX, V, AL | V3 | I8), ROW(0x0d, P66, SSE41, AVX, AVX, V, AL | V3 | I8),
    ROW(0x0e, P66, SSE41, AVX, AVX2, V, AL | V3 | I8),
    ROW(0x0f, NP, SSSE3, NONE, NONE, 8, MX | I8), ROW(0x0f, P66, SSSE3, AVX, AVX2, V, AL | V3 | I8),
    ROW(0x14, P66, SSE41, AVX, NONE, 1, GD | I8), ROW(0x15, P66, SSE41, AVX, NONE, 2, GD | I8),
    ROW(0x16, P66, SSE41, AVX, NONE, GW, GD | GQ | I8), ROW(0x17, P66, SSE41, AVX, NONE, 4, GD | I8),
    ROW(0x18, P66, NONE, NONE, AVX, 16, V3 | W0 | I8), ROW(0x19, P66, NONE, NONE, AVX, 16, W0 | ST | I8),
    ROW(0x1d, P66, NONE, F16C, F16C, V2, W0 | ST | I8 | EX),
    ROW(0x20, P66, SSE41, AVX, NONE, 1, GS | V3 | I8), ROW(0x21, P66, SSE41, AVX, NONE, 4, V3 | I8),
    ROW(0x22, P66, SSE41, AVX, NONE, GW, GS | GQ | V3 | I8),
    ROW(0x38, P66, NONE, NONE, AVX2, 16, V3 | W0 | I8), ROW(0x39, P66, NONE, NONE, AVX2, 16, W0 | ST | I8),
    ROW(0x40, P66, SSE41, AVX, AVX, V, AL | V3 | I8 | EX),
    ROW(0x41, P66, SSE41, AVX, NONE, V, AL | V3 | I8 | EX),
    ROW(0x42, P66, SSE41, AVX, AVX2, V, AL | V3 | I8),
    ROW(0x44, P66, PCLMUL, PCLMUL, VPCLMUL, V, AL | V3 | I8),
    ROW(0x46, P66, NONE, NONE, AVX2, V, V3 | W0 | I8),
    ROW(0x4a, P66, NONE, AVX, AVX, V, V3 | W0 | I8 | VMCI_FO_IS4),
    ROW(0x4b, P66, NONE, AVX, AVX, V, V3 | W0 | I8 | VMCI_FO_IS4),
    ROW(0x4c, P66, NONE, AVX, AVX2, V, V3 | W0 | I8 | VMCI_FO_IS4),
    SPC(0x60, P66, SSE42, AVX, NONE, V, PCMPSTR, I8), SPC(0x61, P66, SSE42, AVX, NONE, V, PCMPSTR, I8),
    SPC(0x62, P66, SSE42, AVX, NONE, V, PCMPSTR, I8), SPC(0x63, P66, SSE42, AVX, NONE, V, PCMPSTR, I8),
    ROW(0xcc, NP, SHA, NONE, NONE, V, SH | I8),
    ROW(0xce, P66, GFNI, GFNI, GFNI, V, AL | V3 | W1 | I8),
    ROW(0xcf, P66, GFNI, GFNI, GFNI, V, AL | V3 | W1 | I8),
    ROW(0xdf, P66, AES, AES, NONE, V, AL | I8),
};
/* clang-format on */

/* Rows are sorted by opcode; each opcode has at most four. */
static const struct vmci_fp_op *find(const struct vmci_fp_op *t, unsigned n, unsigned pp,
                                     unsigned opcode)
{
    unsigned lo = 0, hi = n;
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        if (t[mid].opcode < opcode)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; lo < n && t[lo].opcode == opcode; lo++) {
        if (t[lo].pp == pp)
            return &t[lo];
    }
    return NULL;
}

const struct vmci_fp_op *vmci_fp_lookup(unsigned map, unsigned pp, unsigned opcode)
{
    switch (map) {
    case VMCI_MAP_0F:
        return find(map_0f, VMCI_ARRAY_SIZE(map_0f), pp, opcode);
    case VMCI_MAP_0F38:
        return find(map_0f38, VMCI_ARRAY_SIZE(map_0f38), pp, opcode);
    case VMCI_MAP_0F3A:
        return find(map_0f3a, VMCI_ARRAY_SIZE(map_0f3a), pp, opcode);
    default:
        return NULL;
    }
}

static unsigned mem_size(unsigned mem, unsigned vl, bool w, bool gw)
{
    switch (mem) {
    case VMCI_FM_1: return 1;
    case VMCI_FM_2: return 2;
    case VMCI_FM_4: return 4;
    case VMCI_FM_8: return 8;
    case VMCI_FM_16: return 16;
    case VMCI_FM_V: return vl;
    case VMCI_FM_V2: return vl / 2;
    case VMCI_FM_V4: return vl / 4;
    case VMCI_FM_V8: return vl / 8;
    case VMCI_FM_W: return w ? 8 : 4;
    case VMCI_FM_GW: return gw ? 8 : 4;
    case VMCI_FM_DUP: return vl == 32 ? 32 : 8;
    default: return 0;
    }
}

/* The mandatory prefix in force: F2 and F3 before 66, the later of the first two. */
static unsigned legacy_pp(const struct vmci_insn *in)
{
    unsigned pp = (in->flags & VMCI_IF_66) ? 1 : 0;
    for (unsigned i = 0; i < in->opcode_off; i++) {
        if (in->raw[i] == 0xf3)
            pp = 2;
        else if (in->raw[i] == 0xf2)
            pp = 3;
    }
    return pp;
}

static bool vex_valid(const struct vmci_insn *in, const struct vmci_fp_op *op, unsigned bits,
                      bool mem, struct vmci_fp_form *form)
{
    bool l = (in->vex_lpp & 4) != 0;
    bool w = (in->rex & 8) != 0;
    form->feature = (l && !(op->flags & VMCI_FO_LIG)) ? op->v256 : op->v128;
    if (l && !(op->flags & VMCI_FO_LIG))
        form->vl = 32;
    if (form->feature == VMCI_FEAT_NONE)
        return false;
    /* Broadcasts from a register came with AVX2. */
    if (in->map == VMCI_MAP_0F38 && !mem && (op->opcode == 0x18 || op->opcode == 0x19))
        form->feature = VMCI_FEAT_AVX2;
    if ((op->flags & VMCI_FO_W0) && w)
        return false;
    if ((op->flags & VMCI_FO_W1) && !w)
        return false;
    if (op->special == VMCI_FS_EMMS) /* VZEROUPPER, VZEROALL: no ModR/M */
        return in->vex_v == 0;
    bool v3 = (op->flags & VMCI_FO_V3) || ((op->flags & VMCI_FO_V3REG) && !mem);
    if (!v3 && in->vex_v != 0)
        return false;
    /* VPEXTRQ and VPINSRQ exist in 64-bit mode only. */
    return bits == 64 || !w || in->map != VMCI_MAP_0F3A || !(op->flags & VMCI_FO_GW);
}

/* 16-bit operand size: what environments are sized by. */
static bool operand16(const struct vmci_insn *in, unsigned bits)
{
    bool p66 = (in->flags & VMCI_IF_66) != 0;
    return bits == 64 ? p66 && !(in->rex & 8) : p66 != (bits == 16);
}

bool vmci_fp_classify(const struct vmci_insn *in, unsigned bits, struct vmci_fp_form *form)
{
    uint8_t opcode = in->raw[in->opcode_off];
    bool mem = (in->flags & VMCI_IF_MEM) != 0;
    uint8_t modrm = in->modrm_off ? in->raw[in->modrm_off] : 0xc0;
    *form = (struct vmci_fp_form){.vl = 16};
    if (in->flags & VMCI_IF_LOCK)
        return false;
    if (in->map == VMCI_MAP_1B && !(in->flags & VMCI_IF_VEX))
        return vmci_fp_x87_form(opcode, modrm, operand16(in, bits), form);
    bool vex = (in->flags & VMCI_IF_VEX) != 0;
    unsigned pp = vex ? in->vex_lpp & 3u : legacy_pp(in);
    const struct vmci_fp_op *op = vmci_fp_lookup(in->map, pp, opcode);
    if (op == NULL)
        return false;
    form->flags = op->flags;
    form->special = op->special;
    if (vex) {
        if (!vex_valid(in, op, bits, mem, form))
            return false;
    } else {
        form->feature = op->leg;
        if (form->feature == VMCI_FEAT_NONE)
            return false;
    }
    if (op->special == VMCI_FS_EMMS) {
        form->flags |= vex ? 0 : VMCI_FO_MMX;
        if (vex && bits != 64)
            form->special = VMCI_FS_VZERO8;
        return true;
    }
    if ((op->flags & VMCI_FO_REG) && mem)
        return false;
    if ((op->flags & VMCI_FO_MEM) && !mem)
        return false;
    if ((op->flags & VMCI_FO_EXT) && !((op->ext_mask >> ((modrm >> 3) & 7)) & 1))
        return false;
    if (op->special == VMCI_FS_GATHER && !(in->flags & VMCI_IF_VSIB))
        return false;
    if (mem) {
        bool w = (in->rex & 8) != 0;
        form->mem_bytes = (uint16_t)mem_size(op->mem, form->vl, w, w && bits == 64);
        form->mem_acc = (op->flags & VMCI_FO_STORE) ? VMCI_MEM_WRITE : VMCI_MEM_READ;
        if (op->flags & (vex ? VMCI_FO_ALIGNX : VMCI_FO_ALIGN))
            form->align = form->vl;
    }
    return true;
}
