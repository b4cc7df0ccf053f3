/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A second opinion on the length of an instruction whose bytes are going to be executed as they
 * are. The decoder has its lengths from a library and from its table of SIMD encodings; here they
 * are computed from the opcode maps of the manual (SDM 2 appendix A), for the opcodes that are ever
 * copied. When the two differ the interpreter gets the instruction.
 */
#include "cpu/bt/bt_work.h"

#define UNKNOWN 0xff

/* What follows the opcode. */
struct tail {
    bool modrm;
    uint8_t imm; /* bytes, or UNKNOWN */
};

/* imm16 or imm32 */
static unsigned imm_z(const struct bt_work *w, const struct vmci_insn *in)
{
    bool p66 = (in->flags & VMCI_IF_66) != 0;

    return p66 != (w->bits == 16) && (in->rex & 8) == 0 ? 2 : 4;
}

static struct tail group3(const struct vmci_insn *in, unsigned imm)
{
    unsigned reg = in->raw[in->opcode_off + 1] >> 3 & 7;
    return (struct tail){true, (uint8_t)(reg < 2 ? imm : 0)};
}

static struct tail one_byte(const struct bt_work *w, const struct vmci_insn *in, unsigned op)
{
    unsigned z = imm_z(w, in);

    if (op < 0x40 && (op & 7) < 4)
        return (struct tail){true, 0};
    if (op < 0x40 && (op & 7) < 6)
        return (struct tail){false, (uint8_t)((op & 1) != 0 ? z : 1)};
    switch (op) {
    case 0x63:
    case 0x8d:
    case 0xfe:
    case 0xff:
    case 0x84 ... 0x8b:
    case 0xd0 ... 0xd3:
    case 0xd8 ... 0xdf: /* x87 */
        return (struct tail){true, 0};
    case 0x69:
    case 0x81:
    case 0xc7:
        return (struct tail){true, (uint8_t)z};
    case 0x6b:
    case 0x80:
    case 0x83:
    case 0xc0:
    case 0xc1:
    case 0xc6:
        return (struct tail){true, 1};
    case 0x40 ... 0x4f:
    case 0x90 ... 0x99:
    case 0x9e:
    case 0x9f:
    case 0xf5:
    case 0xf8:
    case 0xf9:
        return (struct tail){false, 0};
    case 0xa0 ... 0xa3:
        return (struct tail){false, in->addrsize};
    case 0xa8:
    case 0xb0 ... 0xb7:
        return (struct tail){false, 1};
    case 0xa9:
        return (struct tail){false, (uint8_t)z};
    case 0xb8 ... 0xbf:
        return (struct tail){false, (uint8_t)((in->rex & 8) != 0 ? 8 : z)};
    case 0xf6:
        return group3(in, 1);
    case 0xf7:
        return group3(in, z);
    default:
        return (struct tail){false, UNKNOWN};
    }
}

static struct tail two_byte(const struct vmci_insn *in, unsigned op)
{
    bool simd = in->op >= VMCI_OP_FP_FIRST;

    switch (op) {
    case 0x78: /* EXTRQ, INSERTQ with immediates; VMREAD is never copied */
        return (struct tail){true, simd ? 2 : UNKNOWN};
    case 0x70 ... 0x73:
    case 0xc2:
    case 0xc4 ... 0xc6:
        return (struct tail){true, simd ? 1 : UNKNOWN};
    case 0xa4:
    case 0xac:
    case 0xba:
        return (struct tail){true, 1};
    case 0xc8 ... 0xcf:
        return (struct tail){false, 0};
    case 0x40 ... 0x4f:
    case 0x90 ... 0x9f:
    case 0xa3:
    case 0xa5:
    case 0xab:
    case 0xad:
    case 0xaf ... 0xb1:
    case 0xb3:
    case 0xb6 ... 0xb8:
    case 0xbb ... 0xc1:
    case 0xc3:
    case 0xc7:
        return (struct tail){true, 0};
    case 0x77: /* VZEROUPPER, VZEROALL */
        return (struct tail){false, simd ? 0 : UNKNOWN};
    default:
        return (struct tail){true, simd ? 0 : UNKNOWN};
    }
}

/* ModR/M, SIB and displacement. */
static unsigned modrm_bytes(const struct vmci_insn *in, const uint8_t *p)
{
    unsigned mod = p[0] >> 6;
    unsigned rm = p[0] & 7;

    if (mod == 3)
        return 1;
    if (in->addrsize == 2)
        return 1 + (mod == 0 ? (rm == 6 ? 2 : 0) : mod);
    unsigned n = rm == 4 ? 2 : 1;
    unsigned base = rm == 4 ? p[1] & 7 : rm;
    if (mod == 0)
        return n + (base == 5 ? 4 : 0);
    return n + (mod == 1 ? 1 : 4);
}

static bool is_prefix(unsigned b)
{
    return b == 0x66 || b == 0x67 || b == 0xf0 || b == 0xf2 || b == 0xf3 || b == 0x26 ||
           b == 0x2e || b == 0x36 || b == 0x3e || b == 0x64 || b == 0x65;
}

/* Nothing but prefixes and the escape to its map stands in front of the opcode. */
static bool front_fits(const struct vmci_insn *in)
{
    unsigned end = in->opcode_off;
    const uint8_t *op = &in->raw[end];

    if ((in->flags & VMCI_IF_VEX) != 0) {
        unsigned n = end >= 3 && op[-3] == 0xc4 ? 3 : 2;
        if (end < n || (n == 2 && op[-2] != 0xc5))
            return false;
        end -= n;
    } else {
        unsigned escapes = in->map == VMCI_MAP_1B ? 0 : in->map == VMCI_MAP_0F ? 1 : 2;
        unsigned second = in->map == VMCI_MAP_0F38 ? 0x38 : 0x3a;
        if (end < escapes || (escapes > 0 && op[-(int)escapes] != 0x0f) ||
            (escapes == 2 && op[-1] != second))
            return false;
        end -= escapes;
        if ((in->flags & VMCI_IF_REX) != 0) {
            if (end == 0 || (in->raw[end - 1] & 0xf0) != 0x40)
                return false;
            end--;
        }
    }
    for (unsigned k = 0; k < end; k++)
        if (!is_prefix(in->raw[k]))
            return false;
    return true;
}

bool bt_length_fits(const struct bt_work *w, const struct vmci_insn *in)
{
    unsigned op = in->raw[in->opcode_off];
    unsigned at = in->opcode_off + 1u;
    struct tail t;

    if (in->len > VMCI_INSN_MAX || at > in->len || !front_fits(in))
        return false;
    switch (in->map) {
    case VMCI_MAP_1B:
        t = one_byte(w, in, op);
        break;
    case VMCI_MAP_0F:
        t = two_byte(in, op);
        break;
    default:
        t = (struct tail){true, in->map == VMCI_MAP_0F3A ? 1 : 0};
        break;
    }
    if (t.imm == UNKNOWN)
        return false;
    if (t.modrm) {
        if (at + 1 >= in->len + 1u || (in->modrm_off != 0 && in->modrm_off != at))
            return false;
        at += modrm_bytes(in, &in->raw[at]);
    }
    return at + t.imm == in->len;
}
