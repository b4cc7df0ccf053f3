/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SIMD instructions whose memory accesses depend on data: masked moves and gathers; and the string
 * compares, which use fixed general registers.
 */
#include "fp_int.h"

static int pcmpstr(struct vmci_cpu *cpu, const struct vmci_insn *in, struct vmci_thunk *t)
{
    struct vmci_fp *fp = cpu->fp;
    struct vmci_fp_str s = {.rax = cpu->gpr[VMC_RAX], .rdx = cpu->gpr[VMC_RDX],
                            .rcx = cpu->gpr[VMC_RCX]};
    if (in->flags & VMCI_IF_MEM) {
        uint64_t la;
        int r = vmci_fp_operand(cpu, in, 16, 0, false, &la);
        if (r == 0)
            r = vmci_rd_block(cpu, la, fp->bounce, 16);
        if (r != 0)
            return r;
    }
    vmci_fp_run(fp, t->fn, fp->bounce, (uint64_t)(uintptr_t)&s);
    if (in->raw[in->opcode_off] & 1) /* PCMPESTRI, PCMPISTRI: index */
        cpu->gpr[VMC_RCX] = s.rcx;
    cpu->rflags = (cpu->rflags & ~VMC_FLAG_ARITH) | (s.flags & VMC_FLAG_ARITH);
    return 0;
}

/* ---- masked moves ---------------------------------------------------------------------------- */

/* Segment of the implicit DS:rDI operand. */
static unsigned implicit_segment(const struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    unsigned seg = VMC_DS;
    for (unsigned i = 0; i < in->opcode_off; i++) {
        switch (in->raw[i]) {
        case 0x26: seg = cpu->code_bits == 64 ? seg : VMC_ES; break;
        case 0x2e: seg = cpu->code_bits == 64 ? seg : VMC_CS; break;
        case 0x36: seg = cpu->code_bits == 64 ? seg : VMC_SS; break;
        case 0x3e: seg = cpu->code_bits == 64 ? seg : VMC_DS; break;
        case 0x64: seg = VMC_FS; break;
        case 0x65: seg = VMC_GS; break;
        default:
            if (in->raw[i] == 0xc4 || in->raw[i] == 0xc5 || in->raw[i] == 0x0f)
                return seg;
            break;
        }
    }
    return seg;
}

/* Linear address of element i of an operand at ea. Only elements that are accessed are checked. */
static int element_la(struct vmci_cpu *cpu, const struct vmci_insn *in, unsigned seg, uint64_t ea,
                      unsigned bytes, bool write, uint64_t *la)
{
    if (in->addrsize != 8)
        ea = in->addrsize == 4 ? (uint32_t)ea : (uint16_t)ea;
    return vmci_seg_la(cpu, seg, ea, bytes, write, la);
}

/* Write the chosen elements of data: all are probed first. */
static int write_elements(struct vmci_cpu *cpu, const struct vmci_insn *in, unsigned seg,
                          uint64_t ea, const uint8_t *data, uint32_t chosen, unsigned elements,
                          unsigned bytes)
{
    uint64_t la;
    int r = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < elements && r == 0; i++) {
            if (!(chosen >> i & 1))
                continue;
            r = element_la(cpu, in, seg, ea + i * bytes, bytes, true, &la);
            if (r != 0)
                break;
            if (pass == 1)
                r = vmci_wr_block(cpu, la, data + i * bytes, bytes);
            else
                r = vmci_probe_wr(cpu, la, bytes);
        }
    }
    return r;
}

/*
 * MASKMOVQ, MASKMOVDQU: run twice on buffers with different contents; bytes that come out equal
 * are those that were written. MASKMOVQ enters MMX mode even when its store faults.
 */
static int maskmov(struct vmci_cpu *cpu, const struct vmci_insn *in, struct vmci_thunk *t)
{
    struct vmci_fp *fp = cpu->fp;
    uint8_t a[16], b[16];
    unsigned n = (t->form.flags & VMCI_FO_MMX) ? 8 : 16;
    uint32_t chosen = 0;
    for (unsigned i = 0; i < n; i++) {
        a[i] = 0;
        b[i] = 0xff;
    }
    vmci_fp_run(fp, t->fn, a, 0);
    vmci_fp_run(fp, t->fn, b, 0);
    for (unsigned i = 0; i < n; i++)
        chosen |= (uint32_t)(a[i] == b[i]) << i;
    unsigned seg = implicit_segment(cpu, in);
    uint64_t la;
    /* All of the operand is checked, also where nothing is written (SDM 2B leaves it open). */
    int r = element_la(cpu, in, seg, cpu->gpr[VMC_RDI], n, true, &la);
    if (r == 0)
        r = vmci_fp_check_ac(cpu, la, 8);
    if (r == 0)
        r = vmci_probe_wr(cpu, la, n);
    if (r != 0)
        return r;
    return write_elements(cpu, in, seg, cpu->gpr[VMC_RDI], a, chosen, n, 1);
}

static unsigned element_bytes(const struct vmci_insn *in)
{
    switch (in->raw[in->opcode_off]) {
    case 0x2c: case 0x2e:
        return 4;
    case 0x2d: case 0x2f:
        return 8;
    default:
        return (in->rex & 8) ? 8 : 4;
    }
}

/* Sign bits of the elements of vector register v. */
static uint32_t mask_of(struct vmci_fp *fp, unsigned v, unsigned elements, unsigned bytes)
{
    uint8_t m[32];
    uint32_t chosen = 0;
    vmci_fp_run(fp, fp->store_ymm[v], m, 0);
    for (unsigned i = 0; i < elements; i++)
        chosen |= (uint32_t)(m[(i + 1) * bytes - 1] >> 7) << i;
    return chosen;
}

static int vmaskmov(struct vmci_cpu *cpu, const struct vmci_insn *in, struct vmci_thunk *t)
{
    struct vmci_fp *fp = cpu->fp;
    bool load = t->form.special == VMCI_FS_VMASKLD;
    unsigned bytes = element_bytes(in), n = t->form.vl / bytes;
    unsigned v = cpu->code_bits == 64 ? in->vex_v : in->vex_v & 7u;
    uint32_t chosen = mask_of(fp, v, n, bytes);
    uint64_t la, ea = vmci_ea(cpu, in);
    int r = 0;
    vmci_fp_zero(fp->bounce, sizeof(fp->bounce));
    for (unsigned i = 0; load && i < n && r == 0; i++) {
        if (!(chosen >> i & 1))
            continue;
        r = element_la(cpu, in, in->seg, ea + i * bytes, bytes, false, &la);
        if (r == 0)
            r = vmci_rd_block(cpu, la, fp->bounce + i * bytes, bytes);
    }
    if (r != 0)
        return r;
    vmci_fp_run(fp, t->fn, fp->bounce, 0);
    return load ? 0 : write_elements(cpu, in, in->seg, ea, fp->bounce, chosen, n, bytes);
}

/* ---- gathers --------------------------------------------------------------------------------- */

struct gather {
    uint8_t dst[32], mask[32], index[32];
    unsigned data, idx, n; /* bytes of an element, of an index; elements */
    unsigned rd, rm;
};

/* Registers back: elements done so far; at the end the mask and what lies above are zero. */
static void gather_commit(struct vmci_fp *fp, struct gather *g, bool done)
{
    if (done) {
        vmci_fp_zero(g->mask, sizeof(g->mask));
        vmci_fp_zero(g->dst + g->n * g->data, sizeof(g->dst) - g->n * g->data);
    }
    vmci_fp_run(fp, fp->load_ymm[g->rd], g->dst, 0);
    vmci_fp_run(fp, fp->load_ymm[g->rm], g->mask, 0);
}

static int gather_element(struct vmci_cpu *cpu, const struct vmci_insn *in, struct gather *g,
                          unsigned i)
{
    uint64_t la, v;
    int64_t x = g->idx == 8 ? (int64_t)vmci_ld_le64(g->index + i * 8)
                            : (int32_t)vmci_ld_le32(g->index + i * 4);
    uint64_t ea = cpu->gpr[in->base] + ((uint64_t)x << in->scale) + (uint64_t)in->disp;
    int r = element_la(cpu, in, in->seg, ea, g->data, false, &la);
    if (r == 0)
        r = vmci_rd_block(cpu, la, &v, g->data); /* #AC is not reported */
    if (r == 0)
        vmci_fp_copy(g->dst + i * g->data, &v, g->data);
    return r;
}

static int gather_op(struct vmci_cpu *cpu, const struct vmci_insn *in, struct vmci_thunk *t)
{
    struct vmci_fp *fp = cpu->fp;
    struct gather g;
    unsigned modrm = in->raw[in->modrm_off];
    bool wide = cpu->code_bits == 64;
    g.rd = ((modrm >> 3) & 7) | (wide ? (in->rex & 4u) << 1 : 0);
    g.rm = wide ? in->vex_v : in->vex_v & 7u;
    unsigned ri = ((in->raw[in->sib_off] >> 3) & 7) | (wide ? (in->rex & 2u) << 2 : 0);
    if (g.rd == g.rm || g.rd == ri || g.rm == ri || in->addrsize == 2)
        return vmci_raise(cpu, VMC_VEC_UD);
    g.data = (in->rex & 8) ? 8 : 4;
    g.idx = (in->raw[in->opcode_off] & 1) ? 8 : 4;
    g.n = t->form.vl / VMCI_MAX(g.data, g.idx);
    vmci_fp_run(fp, fp->store_ymm[g.rd], g.dst, 0);
    vmci_fp_run(fp, fp->store_ymm[g.rm], g.mask, 0);
    vmci_fp_run(fp, fp->store_ymm[ri], g.index, 0);
    for (unsigned i = 0; i < g.n; i++) {
        uint8_t *m = g.mask + i * g.data;
        if (m[g.data - 1] >> 7) {
            int r = gather_element(cpu, in, &g, i);
            if (r == VMCI_FAULT)
                gather_commit(fp, &g, false);
            if (r != 0)
                return r;
        }
        vmci_fp_zero(m, g.data);
    }
    gather_commit(fp, &g, true);
    return 0;
}

int vmci_fp_special(struct vmci_cpu *cpu, const struct vmci_insn *in, struct vmci_thunk *t)
{
    switch (t->form.special) {
    case VMCI_FS_PCMPSTR:
        return pcmpstr(cpu, in, t);
    case VMCI_FS_MASKMOV:
        return maskmov(cpu, in, t);
    case VMCI_FS_VMASKLD:
    case VMCI_FS_VMASKST:
        return vmaskmov(cpu, in, t);
    default:
        return gather_op(cpu, in, t);
    }
}
