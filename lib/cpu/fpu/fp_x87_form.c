/* SPDX-License-Identifier: BSD-2-Clause */
/* The x87 encodings that exist (SDM 2D appendix A, APM 5 appendix A), and what they access. */
#include "fp_int.h"

struct x87_mem {
    uint8_t bytes, acc, special;
};
/* clang-format off */
#define R VMCI_MEM_READ
#define W VMCI_MEM_WRITE
/* Memory forms, by opcode D8..DF and ModRM.reg; bytes 0: not valid; environments: sized later. */
static const struct x87_mem mem_forms[8][8] = {
    {{4, R, 0}, {4, R, 0}, {4, R, 0}, {4, R, 0}, {4, R, 0}, {4, R, 0}, {4, R, 0}, {4, R, 0}},
    {{4, R, 0}, {0, 0, 0}, {4, W, 0}, {4, W, 0}, {28, R, VMCI_FS_FLDENV}, {2, R, VMCI_FS_FLDCW},
     {28, W, VMCI_FS_FNSTENV}, {2, W, VMCI_FS_FNSTCW}},
    {{4, R, 0}, {4, R, 0}, {4, R, 0}, {4, R, 0}, {4, R, 0}, {4, R, 0}, {4, R, 0}, {4, R, 0}},
    {{4, R, 0}, {4, W, 0}, {4, W, 0}, {4, W, 0}, {0, 0, 0}, {10, R, 0}, {0, 0, 0}, {10, W, 0}},
    {{8, R, 0}, {8, R, 0}, {8, R, 0}, {8, R, 0}, {8, R, 0}, {8, R, 0}, {8, R, 0}, {8, R, 0}},
    {{8, R, 0}, {8, W, 0}, {8, W, 0}, {8, W, 0}, {108, R, VMCI_FS_FRSTOR}, {0, 0, 0},
     {108, W, VMCI_FS_FNSAVE}, {2, W, VMCI_FS_FNSTSW}},
    {{2, R, 0}, {2, R, 0}, {2, R, 0}, {2, R, 0}, {2, R, 0}, {2, R, 0}, {2, R, 0}, {2, R, 0}},
    {{2, R, 0}, {2, W, 0}, {2, W, 0}, {2, W, 0}, {10, R, 0}, {8, R, 0}, {10, W, 0}, {8, W, 0}},
};
/* clang-format on */

/*
 * Register forms: a bit for each eight ModRM bytes C0-C7, C8-CF ... that are all valid, then single
 * bytes of the mixed groups. The aliases DC D0, DC D8, DD C8, DE D0, DF C0..D8 exist in silicon.
 */
static const uint8_t reg_groups[8] = {0xff, 0xc3, 0x0f, 0x6f, 0xff, 0x3f, 0xf7, 0x6f};

static bool reg_valid(uint8_t opcode, uint8_t modrm)
{
    if (reg_groups[opcode & 7] >> ((modrm >> 3) & 7) & 1)
        return true;
    switch (opcode) {
    case 0xd9:
        return modrm == 0xd0 || (modrm >= 0xd8 && modrm <= 0xdf) || modrm == 0xe0 ||
               modrm == 0xe1 || modrm == 0xe4 || modrm == 0xe5 || (modrm >= 0xe8 && modrm <= 0xee);
    case 0xda:
        return modrm == 0xe9;
    case 0xdb:
        return modrm >= 0xe0 && modrm <= 0xe4;
    case 0xde:
        return modrm == 0xd9;
    case 0xdf:
        return modrm == 0xe0;
    default:
        return false;
    }
}

static uint8_t reg_special(uint8_t opcode, uint8_t modrm)
{
    if (opcode == 0xd9 && modrm == 0xd0)
        return VMCI_FS_FNOP;
    if (opcode == 0xdf && modrm == 0xe0)
        return VMCI_FS_FNSTSW;
    if (opcode == 0xdb) {
        switch (modrm) {
        case 0xe0: case 0xe1: case 0xe4: /* FNENI, FNDISI, FNSETPM: nothing since the 387 */
            return VMCI_FS_FNOP0;
        case 0xe2:
            return VMCI_FS_FNCLEX;
        case 0xe3:
            return VMCI_FS_FNINIT;
        default:
            break;
        }
    }
    return VMCI_FS_PLAIN;
}

static bool is_fcomi(uint8_t opcode, uint8_t modrm)
{
    return (opcode == 0xdb || opcode == 0xdf) && modrm >= 0xe8 && modrm <= 0xf7;
}

static bool is_fcmov(uint8_t opcode, uint8_t modrm)
{
    return (opcode == 0xda || opcode == 0xdb) && modrm >= 0xc0 && modrm <= 0xdf;
}

bool vmci_fp_x87_form(uint8_t opcode, uint8_t modrm, bool op16, struct vmci_fp_form *form)
{
    form->flags = VMCI_FO_X87;
    form->feature = VMCI_FEAT_FPU;
    if (opcode < 0xd8 || opcode > 0xdf)
        return false;
    if (modrm >= 0xc0) {
        if (!reg_valid(opcode, modrm))
            return false;
        form->special = reg_special(opcode, modrm);
        if (is_fcomi(opcode, modrm))
            form->flags |= VMCI_FO_FLAGS;
        if (is_fcomi(opcode, modrm) || is_fcmov(opcode, modrm))
            form->feature = VMCI_FEAT_CMOV;
        return true;
    }
    const struct x87_mem *m = &mem_forms[opcode & 7][(modrm >> 3) & 7];
    if (m->bytes == 0)
        return false;
    if ((opcode == 0xdb || opcode == 0xdd || opcode == 0xdf) && ((modrm >> 3) & 7) == 1)
        form->feature = VMCI_FEAT_SSE3; /* FISTTP */
    form->mem_bytes = m->bytes;
    if (op16 && m->bytes >= 28)
        form->mem_bytes = m->bytes == 28 ? 14 : 94;
    form->mem_acc = m->acc;
    form->special = m->special;
    return true;
}
