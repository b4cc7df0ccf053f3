/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Corrections of the disassembly library's view. Each row is covered by a case of
 * tests/unit/cpu/test_decode.c.
 */
#include "cpu/decode/dec_int.h"

#include <vmcore/x86_state.h>

/*
 * Encodings that the library refuses or reads wrongly, but reads right in another spelling that
 * means the same to a processor. opcode points at the last opcode byte.
 */
void dec_fix_bytes(const struct dec_scan *s, uint8_t *opcode, unsigned avail)
{
    uint8_t *modrm = avail > 1 ? opcode + 1 : NULL;

    if (s->vex || modrm == NULL)
        return;
    if (s->map == VMCI_MAP_0F) {
        /* MOV to and from CR and DR ignore ModR/M.mod: always a register (SDM 2B, MOV). */
        if (*opcode >= 0x20 && *opcode <= 0x23)
            *modrm |= 0xc0;
        /* Hint NOPs and prefetches with any ModR/M (SDM 2D appendix A, 0F 0D and 0F 18..1F). */
        if (*opcode == 0x0d || (*opcode >= 0x18 && *opcode <= 0x1f)) {
            *opcode = 0x1f;
            *modrm &= 0xc7;
        }
        /* LFENCE, MFENCE and SFENCE ignore ModR/M.rm (SDM 2A, LFENCE). */
        if (*opcode == 0xae && s->pp == 0 && *modrm >= 0xe8)
            *modrm &= 0xf8;
    } else if (s->map == VMCI_MAP_1B) {
        unsigned reg = (*modrm >> 3) & 7u;
        /* TEST has an alias at /1, SHL at /6 (SDM 2D table A-6). */
        if ((*opcode == 0xf6 || *opcode == 0xf7) && reg == 1)
            *modrm &= 0xc7;
        bool shift = *opcode == 0xc0 || *opcode == 0xc1 || (*opcode >= 0xd0 && *opcode <= 0xd3);
        if (shift && reg == 6)
            *modrm = (uint8_t)((*modrm & 0xc7) | 4 << 3);
        /* MOV to and from segment registers ignores REX.R. */
        if ((*opcode == 0x8c || *opcode == 0x8e) && s->rex != 0)
            opcode[-1] &= (uint8_t)~4;
    }
}

/* Instructions newer than the library, and those that it gives the identity of another. */
struct fix_row {
    uint8_t map, opcode;
    uint8_t pp;                /* 0 none, 1 66, 2 F3, 3 F2, ANY */
    uint8_t mask, value;       /* of ModR/M */
    bool modrm;                /* has a ModR/M byte (when the library knows nothing) */
    uint16_t op;
    uint8_t feature;
    struct vmci_opnd opnd;     /* KEEP: as the library has it */
};
#define ANY 0xff
#define KEEP 0xff

/* clang-format off */
static const struct fix_row rows[] = {
    /* MOVSD and CMPSD share their identity with the SSE2 instructions of the same name. */
    {VMCI_MAP_1B, 0xa5, ANY, 0, 0, false, VMCI_OP_MOVS, VMCI_FEAT_NONE, {0, 0, 0}},
    {VMCI_MAP_1B, 0xa7, ANY, 0, 0, false, VMCI_OP_CMPS, VMCI_FEAT_NONE, {0, 0, 0}},
    /* CLZERO, SERIALIZE, RDPID, RDPKRU, WRPKRU: unknown to it. */
    {VMCI_MAP_0F, 0x01, ANY, 0xff, 0xfc, true, VMCI_OP_CLZERO, VMCI_FEAT_CLZERO, {0, 0, 0}},
    {VMCI_MAP_0F, 0x01, 0, 0xff, 0xe8, true, VMCI_OP_SERIALIZE, VMCI_FEAT_SERIALIZE, {0, 0, 0}},
    {VMCI_MAP_0F, 0xc7, 2, 0xf8, 0xf8, true, VMCI_OP_RDPID, VMCI_FEAT_RDPID,
     {VMCI_OPND_GPR, 0, 0}},
    {VMCI_MAP_0F, 0x01, ANY, 0xff, 0xee, true, VMCI_OP_RDPKRU, VMCI_FEAT_PKU, {0, 0, 0}},
    {VMCI_MAP_0F, 0x01, ANY, 0xff, 0xef, true, VMCI_OP_WRPKRU, VMCI_FEAT_PKU, {0, 0, 0}},
    /* Hint NOPs: the library knows few of their register forms. Since the P6 (SDM 2B, NOP). */
    {VMCI_MAP_0F, 0x0d, ANY, 0, 0, true, VMCI_OP_NOP, VMCI_FEAT_HINTS, {0, 0, 0}},
    {VMCI_MAP_0F, 0x18, ANY, 0, 0, true, VMCI_OP_NOP, VMCI_FEAT_HINTS, {0, 0, 0}},
    {VMCI_MAP_0F, 0x19, ANY, 0, 0, true, VMCI_OP_NOP, VMCI_FEAT_HINTS, {0, 0, 0}},
    {VMCI_MAP_0F, 0x1a, ANY, 0, 0, true, VMCI_OP_NOP, VMCI_FEAT_HINTS, {0, 0, 0}},
    {VMCI_MAP_0F, 0x1b, ANY, 0, 0, true, VMCI_OP_NOP, VMCI_FEAT_HINTS, {0, 0, 0}},
    {VMCI_MAP_0F, 0x1c, ANY, 0, 0, true, VMCI_OP_NOP, VMCI_FEAT_HINTS, {0, 0, 0}},
    {VMCI_MAP_0F, 0x1d, ANY, 0, 0, true, VMCI_OP_NOP, VMCI_FEAT_HINTS, {0, 0, 0}},
    {VMCI_MAP_0F, 0x1e, ANY, 0, 0, true, VMCI_OP_NOP, VMCI_FEAT_HINTS, {0, 0, 0}},
    {VMCI_MAP_0F, 0x1f, ANY, 0, 0, true, VMCI_OP_NOP, VMCI_FEAT_HINTS, {0, 0, 0}},
    /* UD0 and UD1 have a ModR/M byte, and may have memory operands (SDM 2B, UD). */
    {VMCI_MAP_0F, 0xff, ANY, 0, 0, true, VMCI_OP_UD, VMCI_FEAT_NONE, {0, 0, 0}},
    {VMCI_MAP_0F, 0xb9, ANY, 0, 0, true, VMCI_OP_UD, VMCI_FEAT_NONE, {0, 0, 0}},
};
/* clang-format on */

void dec_fix_facts(const struct dec_scan *s, const uint8_t *opcode, struct dec_facts *f)
{
    if (s->vex)
        return;
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(rows); i++) {
        const struct fix_row *r = &rows[i];
        if (r->map != s->map || r->opcode != s->opcode || (r->pp != ANY && r->pp != s->pp) ||
            (opcode[1] & r->mask) != r->value)
            continue;
        f->op = r->op;
        f->feature = r->feature;
        f->has_modrm = r->modrm;
        if (r->opnd.kind != KEEP) {
            f->nopnd = r->opnd.kind != VMCI_OPND_NONE;
            f->opnd[0] = r->opnd;
            if (r->opnd.kind == VMCI_OPND_GPR) {
                f->opnd[0].reg = (uint8_t)((opcode[1] & 7) | (s->rex & 1) << 3);
                f->opnd[0].size = s->bits == 64 ? 8 : 4;
            }
        }
        return;
    }
}

/* Instructions for which 66, F2 or F3 select another encoding: with the wrong one they are #UD. */
bool dec_prefix_valid(const struct dec_scan *s, unsigned op)
{
    switch (op) {
    case VMCI_OP_XGETBV:
    case VMCI_OP_XSETBV:
    case VMCI_OP_RDPKRU:
    case VMCI_OP_WRPKRU:
    case VMCI_OP_FENCE:
    case VMCI_OP_MOVNTI:
    case VMCI_OP_CLFLUSH:
    case VMCI_OP_LDMXCSR:
    case VMCI_OP_STMXCSR:
    case VMCI_OP_FXSAVE:
    case VMCI_OP_FXRSTOR:
    case VMCI_OP_XSAVE:
    case VMCI_OP_XSAVEOPT:
    case VMCI_OP_XSAVEC:
    case VMCI_OP_XSAVES:
    case VMCI_OP_XRSTOR:
    case VMCI_OP_XRSTORS:
        return s->pp == 0;
    case VMCI_OP_CLFLUSHOPT:
    case VMCI_OP_CLWB:
    case VMCI_OP_INVPCID:
    case VMCI_OP_ADCX: /* without 66 or F3: WRSS */
        return s->pp == 1;
    case VMCI_OP_ADOX:
        return s->pp == 2;
    case VMCI_OP_RDRAND:
        return s->pp < 2;
    case VMCI_OP_RDSEED:
        return s->pp != 3;
    case VMCI_OP_MOVBE:
        return s->pp != 2;
    default:
        return true;
    }
}
