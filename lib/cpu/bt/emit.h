/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * x86-64 machine code, one function an instruction form. The writer stops at the end of its space
 * and remembers that it did; callers look once, at the end.
 */
#ifndef BT_EMIT_H
#define BT_EMIT_H

#include "base/base_int.h"

struct emit {
    uint8_t *rw;       /* where bytes are written */
    const uint8_t *rx; /* where they will run */
    size_t len, cap;
    bool full;
};

enum { EM_RAX, EM_RCX, EM_RDX, EM_RBX, EM_RSP, EM_RBP, EM_RSI, EM_RDI };

static inline void em8(struct emit *e, unsigned b)
{
    if (e->len < e->cap)
        e->rw[e->len++] = (uint8_t)b;
    else
        e->full = true;
}
static inline void em32(struct emit *e, uint32_t v)
{
    if (e->cap - e->len >= 4) {
        vmci_st_le32(e->rw + e->len, v);
        e->len += 4;
    } else {
        e->full = true;
    }
}
static inline void em64(struct emit *e, uint64_t v)
{
    em32(e, (uint32_t)v);
    em32(e, (uint32_t)(v >> 32));
}
static inline const uint8_t *em_here(const struct emit *e)
{
    return e->rx + e->len;
}

/* Up to a multiple of align bytes, a power of two of 128 at most: NOPs (SDM 2B, the forms of 1 to 9
   bytes), or a jump over many. */
static inline void em_align(struct emit *e, size_t align)
{
    static const uint8_t nop[] = {0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0};
    size_t n = -(uintptr_t)em_here(e) & (align - 1);

    if (n > 3 * sizeof(nop)) {
        n -= 2;
        em8(e, 0xeb);
        em8(e, (unsigned)n);
    }
    for (; n >= sizeof(nop); n -= sizeof(nop))
        for (size_t k = 0; k < sizeof(nop); k++)
            em8(e, nop[k]);
    for (; n > 1; n--)
        em8(e, 0x66);
    if (n == 1)
        em8(e, 0x90);
}

#define EM_W 8u /* REX.W */

/* REX prefix of reg and rm fields; left out when it says nothing. */
static inline void em_rex(struct emit *e, unsigned w, unsigned reg, unsigned rm)
{
    unsigned rex = 0x40 | w | (reg & 8) >> 1 | (rm & 8) >> 3;
    if (rex != 0x40)
        em8(e, rex);
}

/* op reg, rm (both registers) */
static inline void em_rr(struct emit *e, unsigned w, unsigned op, unsigned reg, unsigned rm)
{
    em_rex(e, w, reg, rm);
    em8(e, op);
    em8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}
/* op /ext rm, imm32 */
static inline void em_ri(struct emit *e, unsigned w, unsigned ext, unsigned rm, uint32_t imm)
{
    em_rex(e, w, 0, rm);
    em8(e, 0x81);
    em8(e, 0xc0 | ext << 3 | (rm & 7));
    em32(e, imm);
}
/* op reg, gs:[disp] */
static inline void em_rgs(struct emit *e, unsigned w, unsigned op, unsigned reg, uint32_t disp)
{
    em8(e, 0x65);
    em_rex(e, w, reg, 0);
    em8(e, op);
    em8(e, 0x04 | (reg & 7) << 3);
    em8(e, 0x25);
    em32(e, disp);
}
/* A memory operand: [base + (index << scale) + disp]; a register of 16: none. index is not RSP. */
struct em_addr {
    uint8_t base, index, scale;
    int32_t disp;
};
#define EM_NONE 16u

/* REX bits R, X and B of reg and a memory operand. */
static inline unsigned em_rxb(unsigned reg, const struct em_addr *a)
{
    return (reg & 8) >> 1 | (a->index < 16 ? (a->index & 8u) >> 2 : 0) |
           (a->base < 16 ? (a->base & 8u) >> 3 : 0);
}
/* ModR/M, SIB and displacement. */
static inline void em_modrm(struct emit *e, unsigned reg, const struct em_addr *a)
{
    bool has_base = a->base < 16;
    bool has_index = a->index < 16;
    int32_t disp = a->disp;
    unsigned mod = !has_base                         ? 0
                   : disp == 0 && (a->base & 7) != 5 ? 0
                   : disp == (int8_t)disp            ? 1
                                                     : 2;
    bool sib = has_index || !has_base || (a->base & 7) == 4;

    em8(e, mod << 6 | (reg & 7) << 3 | (sib ? 4u : a->base & 7u));
    if (sib)
        em8(e, (unsigned)a->scale << 6 | (has_index ? (a->index & 7u) << 3 : 4u << 3) |
                   (has_base ? a->base & 7u : 5u));
    if (!has_base || mod == 2)
        em32(e, (uint32_t)disp);
    else if (mod == 1)
        em8(e, (uint8_t)disp);
}
/* op reg, memory */
static inline void em_rm(struct emit *e, unsigned w, unsigned op, unsigned reg,
                         const struct em_addr *a)
{
    unsigned rex = 0x40 | w | em_rxb(reg, a);
    if (rex != 0x40)
        em8(e, rex);
    em8(e, op);
    em_modrm(e, reg, a);
}
/* mov reg, gs:[(index << 3) + disp] */
static inline void em_load_gs_x8(struct emit *e, unsigned reg, unsigned index, uint32_t disp)
{
    struct em_addr a = {EM_NONE, (uint8_t)index, 3, (int32_t)disp};
    em8(e, 0x65);
    em_rm(e, EM_W, 0x8b, reg, &a);
}
/* pext reg, src, gs:[disp]: the bits of src that the mask in memory selects; flags stay */
static inline void em_pext_gs(struct emit *e, unsigned reg, unsigned src, uint32_t disp)
{
    em8(e, 0x65);
    em8(e, 0xc4);
    em8(e, (reg & 8 ? 0 : 0x80) | 0x62);
    em8(e, 0x80 | (~src & 15) << 3 | 2);
    em8(e, 0xf5);
    em8(e, 0x04 | (reg & 7) << 3);
    em8(e, 0x25);
    em32(e, disp);
}

/* pext reg, src, mask (registers) */
static inline void em_pext(struct emit *e, unsigned reg, unsigned src, unsigned mask)
{
    em8(e, 0xc4);
    em8(e, (reg & 8 ? 0 : 0x80) | (mask & 8 ? 0 : 0x20) | 0x42);
    em8(e, 0x80 | (~src & 15) << 3 | 2);
    em8(e, 0xf5);
    em8(e, 0xc0 | (reg & 7) << 3 | (mask & 7));
}

/* rorx reg, src, n: rotated to the right; flags stay */
static inline void em_rorx(struct emit *e, unsigned reg, unsigned src, unsigned n)
{
    em8(e, 0xc4);
    em8(e, (reg & 8 ? 0 : 0x80) | (src & 8 ? 0 : 0x20) | 0x43);
    em8(e, 0xfb);
    em8(e, 0xf0);
    em8(e, 0xc0 | (reg & 7) << 3 | (src & 7));
    em8(e, n);
}

/* sarx reg, src, count: shifted to the right, with its sign; flags stay */
static inline void em_sarx(struct emit *e, unsigned w, unsigned reg, unsigned src, unsigned count)
{
    em8(e, 0xc4);
    em8(e, (reg & 8 ? 0 : 0x80) | (src & 8 ? 0 : 0x20) | 0x42);
    em8(e, (w != 0 ? 0x80 : 0) | (~count & 15) << 3 | 2);
    em8(e, 0xf7);
    em8(e, 0xc0 | (reg & 7) << 3 | (src & 7));
}

static inline void em_store_gs(struct emit *e, unsigned reg, uint32_t disp)
{
    em_rgs(e, EM_W, 0x89, reg, disp);
}
static inline void em_load_gs(struct emit *e, unsigned reg, uint32_t disp)
{
    em_rgs(e, EM_W, 0x8b, reg, disp);
}
/* mov reg, imm64 in its shortest form */
static inline void em_mov_imm(struct emit *e, unsigned reg, uint64_t imm)
{
    if (imm <= UINT32_MAX) {
        em_rex(e, 0, 0, reg);
        em8(e, 0xb8 | (reg & 7));
        em32(e, (uint32_t)imm);
    } else if (imm >= 0xffffffff80000000ull) {
        em_rex(e, EM_W, 0, reg);
        em8(e, 0xc7);
        em8(e, 0xc0 | (reg & 7));
        em32(e, (uint32_t)imm);
    } else {
        em_rex(e, EM_W, 0, reg);
        em8(e, 0xb8 | (reg & 7));
        em64(e, imm);
    }
}
/* mov qword gs:[disp], imm32 (sign-extended) */
static inline void em_store_gs_imm(struct emit *e, uint32_t disp, uint32_t imm)
{
    em8(e, 0x65);
    em8(e, 0x48);
    em8(e, 0xc7);
    em8(e, 0x04);
    em8(e, 0x25);
    em32(e, disp);
    em32(e, imm);
}
/* lea reg, [base + (index << scale) + disp]; w 0: the low 32 bits. Flags stay. */
static inline void em_lea(struct emit *e, unsigned w, unsigned reg, unsigned base, unsigned index,
                          unsigned scale, int32_t disp)
{
    struct em_addr a = {(uint8_t)base, (uint8_t)index, (uint8_t)scale, disp};
    em_rm(e, w, 0x8d, reg, &a);
}
/* test reg, imm32 (sign-extended) */
static inline void em_test_imm(struct emit *e, unsigned reg, uint32_t imm)
{
    em_rex(e, EM_W, 0, reg);
    em8(e, 0xf7);
    em8(e, 0xc0 | (reg & 7));
    em32(e, imm);
}
/* reg *= imm, a signed byte; flags are lost */
static inline void em_imul_imm(struct emit *e, unsigned reg, unsigned imm)
{
    em_rex(e, EM_W, reg, reg);
    em8(e, 0x6b);
    em8(e, 0xc0 | (reg & 7) << 3 | (reg & 7));
    em8(e, imm);
}
/* not reg; flags stay */
static inline void em_not(struct emit *e, unsigned reg)
{
    em_rex(e, EM_W, 0, reg);
    em8(e, 0xf7);
    em8(e, 0xd0 | (reg & 7));
}
/* mov reg, from */
static inline void em_mov(struct emit *e, unsigned reg, unsigned from)
{
    em_rr(e, EM_W, 0x8b, reg, from);
}

/* movzx reg, r16 */
static inline void em_zero16(struct emit *e, unsigned reg, unsigned from)
{
    em_rex(e, 0, reg, from);
    em8(e, 0x0f);
    em8(e, 0xb7);
    em8(e, 0xc0 | (reg & 7) << 3 | (from & 7));
}

/* Over a jmp rel32 to be patched if RCX is 0; returns the offset of the rel32. */
static inline size_t em_jump_unless_rcxz(struct emit *e)
{
    em8(e, 0xe3);
    em8(e, 5);
    em8(e, 0xe9);
    em32(e, 0);
    return e->len - 4;
}

/* jmp gs:[disp] */
static inline void em_jump_gs(struct emit *e, uint32_t disp)
{
    em8(e, 0x65);
    em8(e, 0xff);
    em8(e, 0x24);
    em8(e, 0x25);
    em32(e, disp);
}
/* cmp qword gs:[disp], imm32, sign-extended; does v fit? */
static inline void em_cmp_gs_imm(struct emit *e, uint32_t disp, uint32_t imm)
{
    em8(e, 0x65);
    em8(e, 0x48);
    em8(e, 0x81);
    em8(e, 0x3c);
    em8(e, 0x25);
    em32(e, disp);
    em32(e, imm);
}
static inline bool em_fits32(uint64_t v)
{
    return v == (uint64_t)(int64_t)(int32_t)v;
}

/* jcc rel32 or jmp rel32 (cond 16) to be patched; returns the offset of the rel32. */
#define EM_JMP 16u
static inline size_t em_jump(struct emit *e, unsigned cond)
{
    if (cond == EM_JMP) {
        em8(e, 0xe9);
    } else {
        em8(e, 0x0f);
        em8(e, 0x80 | cond);
    }
    em32(e, 0);
    return e->len - 4;
}
static inline void em_patch_at(struct emit *e, size_t at, const uint8_t *target)
{
    if (!e->full)
        vmci_st_le32(e->rw + at, (uint32_t)(target - (e->rx + at + 4)));
}
static inline void em_patch_here(struct emit *e, size_t at)
{
    em_patch_at(e, at, em_here(e));
}
static inline void em_jump_to(struct emit *e, unsigned cond, const uint8_t *target)
{
    em_patch_at(e, em_jump(e, cond), target);
}

enum { CC_O, CC_NO, CC_B, CC_AE, CC_E, CC_NE, CC_BE, CC_A, CC_S, CC_NS };

#endif
