/* SPDX-License-Identifier: BSD-2-Clause */
/* FP and SIMD instructions: identity and operands from the FP unit's table of valid encodings. */
#include "cpu/decode/dec_int.h"
#include "cpu/fpu/fp_int.h"

bool dec_fp_facts(const struct dec_scan *s, struct dec_facts *f)
{
    struct dec_facts facts = {.has_modrm = true};
    if (s->map == VMCI_MAP_1B && !s->vex) {
        if ((s->opcode & 0xf8) != 0xd8)
            return false;
        facts.op = VMCI_OP_FP_X87;
        *f = facts;
        return true;
    }
    const struct vmci_fp_op *op = vmci_fp_lookup(s->map, s->pp, s->opcode);
    if (op == NULL || (s->vex ? op->v128 == VMCI_FEAT_NONE && op->v256 == VMCI_FEAT_NONE
                              : op->leg == VMCI_FEAT_NONE))
        return false;
    facts.op = s->vex ? VMCI_OP_FP_AVX : VMCI_OP_FP_SSE;
    if ((op->flags & (VMCI_FO_MMX | VMCI_FO_XMM)) == VMCI_FO_MMX && !s->vex)
        facts.op = VMCI_OP_FP_MMX;
    facts.imm_bytes = (op->flags & VMCI_FO_IMM16) ? 2 : (op->flags & VMCI_FO_IMM8) ? 1 : 0;
    facts.has_modrm = op->special != VMCI_FS_EMMS;
    *f = facts;
    return true;
}

/* General registers that are read or written as data. */
static void gprs(const struct dec_scan *s, struct vmci_insn *in, const struct vmci_fp_form *form)
{
    unsigned m = in->modrm_off ? in->raw[in->modrm_off] : 0;
    unsigned rex = s->bits == 64 ? s->rex : 0;
    unsigned reg = ((m >> 3) & 7) | (rex & 4) << 1, rm = (m & 7) | (rex & 1) << 3;
    bool mem = (in->flags & VMCI_IF_MEM) != 0;

    if (form->flags & VMCI_FO_GREG)
        in->gpr_wr |= (uint16_t)(1u << reg);
    if ((form->flags & VMCI_FO_GRMR) && !mem)
        in->gpr_rd |= (uint16_t)(1u << rm);
    if ((form->flags & VMCI_FO_GRMW) && !mem)
        in->gpr_wr |= (uint16_t)(1u << rm);
    if (form->special == VMCI_FS_MASKMOV)
        in->gpr_rd |= 1u << VMC_RDI;
    if (form->special == VMCI_FS_FNSTSW && !mem)
        in->gpr_wr |= 1u << VMC_RAX;
    if (form->special == VMCI_FS_PCMPSTR) {
        if (in->raw[in->opcode_off] & 1)
            in->gpr_wr |= 1u << VMC_RCX;
        if (in->raw[in->opcode_off] < 0x62)
            in->gpr_rd |= 1u << VMC_RAX | 1u << VMC_RDX;
    }
}

bool dec_fp_finish(const struct dec_scan *s, struct vmci_insn *in)
{
    struct vmci_fp_form form;

    if (in->op == VMCI_OP_FWAIT)
        return true;
    if (in->op >= VMCI_OP_LDMXCSR)
        return s->vex_v == 0 && !(s->vex_lpp & 4);
    const struct vmci_fp_op *op = vmci_fp_lookup(s->map, s->pp, s->opcode);
    if (op != NULL && op->special == VMCI_FS_GATHER) {
        if (in->sib_off == 0)
            return false;
        unsigned sib = in->raw[in->sib_off];
        in->index = (uint8_t)(((sib >> 3) & 7) | (s->rex & 2) << 2);
        in->scale = (uint8_t)(sib >> 6);
        in->flags |= VMCI_IF_VSIB;
    }
    if (!vmci_fp_classify(in, s->bits, &form))
        return false;
    in->feature = form.feature;
    in->mem_bytes = form.mem_bytes;
    in->mem_acc = form.mem_acc;
    if (in->flags & VMCI_IF_MEM) {
        in->nopnd = 1;
        in->opnd[0] = (struct vmci_opnd){VMCI_OPND_MEM, (uint8_t)VMCI_MIN(form.mem_bytes, 255), 0};
    }
    gprs(s, in, &form);
    return true;
}
