/* SPDX-License-Identifier: BSD-2-Clause */
/* MXCSR, FXSAVE/FXRSTOR and the XSAVE family (SDM 1 chapters 10.5 and 13; APM 2 11.5). */
#include "fp.h"
#include "fp_int.h"

#define XCOMP_COMPACT (1ull << 63)
#define LEGACY_REGS   32u /* offset of st[] */
#define LEGACY_XMM    160u

/* Memory image under construction: which parts are written. */
struct image {
    VMC_ALIGNED(64) uint8_t b[sizeof(struct vmci_xsave)];
    struct {
        uint16_t at, bytes;
    } part[8];
    unsigned parts;
};

static void part(struct image *im, unsigned at, unsigned bytes)
{
    im->part[im->parts].at = (uint16_t)at;
    im->part[im->parts].bytes = (uint16_t)bytes;
    im->parts++;
}

/* Where the image is: its bytes from `end` on are at the other end of what addresses reach. */
struct area {
    uint64_t la;
    unsigned end;
    uint64_t back;
};

static uint64_t area_la(const struct area *a, unsigned at)
{
    return a->la + at - (at >= a->end ? a->back : 0);
}

/* The operand of that many bytes: its segment and alignment are checked. */
static int find_area(struct vmci_cpu *cpu, const struct vmci_insn *in, unsigned bytes,
                     unsigned align, bool write, struct area *a)
{
    uint64_t ea = vmci_ea(cpu, in), la;
    uint64_t left = in->addrsize == 8 ? bytes : (in->addrsize == 4 ? 1ull << 32 : 1ull << 16) - ea;

    *a = (struct area){.end = UINT32_MAX};
    if (left >= bytes)
        return vmci_fp_operand(cpu, in, bytes, align, write, &a->la);
    int r = vmci_fp_operand(cpu, in, (unsigned)left, align, write, &a->la);
    if (r == 0)
        r = vmci_seg_la(cpu, in->seg, 0, bytes - (unsigned)left, write, &la);
    if (r == 0)
        *a = (struct area){a->la, (unsigned)left, a->la + left - la};
    return r;
}

/* At most 64 bytes, on one side. */
static unsigned piece(const struct area *a, unsigned at, unsigned end)
{
    return VMCI_MIN(64u, (at < a->end ? VMCI_MIN(end, a->end) : end) - at);
}

/* To memory that has been probed. */
static int write_image(struct vmci_cpu *cpu, const struct area *a, const struct image *im)
{
    int r = 0;
    for (unsigned i = 0; i < im->parts && r == 0; i++) {
        unsigned end = im->part[i].at + im->part[i].bytes;
        for (unsigned at = im->part[i].at, n; at < end && r == 0; at += n) {
            n = piece(a, at, end);
            r = vmci_wr_block(cpu, area_la(a, at), im->b + at, n);
        }
    }
    return r;
}

static int read_image(struct vmci_cpu *cpu, const struct area *a, uint8_t *dst, unsigned from,
                      unsigned to)
{
    int r = 0;
    for (unsigned at = from, n; at < to && r == 0; at += n) {
        n = piece(a, at, to);
        r = vmci_rd_block(cpu, area_la(a, at), dst + at, n);
    }
    return r;
}

/* ---- pieces ---------------------------------------------------------------------------------- */

static bool wide(const struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    return cpu->code_bits == 64 && (in->rex & 8);
}

/* XMM and YMM registers that exist in the current mode. */
static unsigned vector_regs(const struct vmci_cpu *cpu)
{
    return cpu->code_bits == 64 ? 16 : 8;
}

bool vmci_fp_vendor_amd(struct vmci_cpu *cpu)
{
    uint32_t r[4];
    vmci_cpuid(cpu, 0, 0, r);
    return r[1] == 0x68747541u; /* "Auth" */
}

uint32_t vmci_fp_mx_valid(struct vmci_cpu *cpu)
{
    uint32_t r[4], valid = cpu->fp->mx_valid;
    vmci_cpuid(cpu, 0x80000001u, 0, r);
    if (!((r[2] >> 7) & 1)) /* MISALIGNSSE */
        valid &= ~VMCI_MXCSR_MM;
    if (!((cpu->features >> VMCI_FEAT_SSE2) & 1))
        valid &= ~VMCI_MXCSR_DAZ;
    return valid;
}

/* As images have it: 0 of a processor that has no DAZ, whose bits are FFBFh (SDM 1 11.6.6). */
uint32_t vmci_fp_mx_mask(struct vmci_cpu *cpu)
{
    uint32_t valid = vmci_fp_mx_valid(cpu);
    return (valid & VMCI_MXCSR_DAZ) ? valid : 0;
}

bool vmci_fp_no_selectors(struct vmci_cpu *cpu)
{
    uint32_t r[4];
    vmci_cpuid(cpu, 7, 0, r);
    return (r[1] >> 13) & 1;
}

/*
 * AMD processors save the pointers only while an exception is pending, else zeros (APM 2 11.5.9 and
 * CPUID 8000_0008 EBX[2]); Intel's always save them.
 */
static void put_x87(struct vmci_cpu *cpu, uint8_t *p, bool w)
{
    const struct vmci_fp *fp = cpu->fp;
    const struct vmci_xsave *a = &fp->area;
    vmci_fp_zero(p, 24);
    vmci_st_le16(p, a->fcw);
    vmci_st_le16(p + 2, a->fsw);
    p[4] = a->ftw;
    if ((a->fsw & VMCI_FSW_ES) || !vmci_fp_vendor_amd(cpu)) {
        vmci_st_le16(p + 6, fp->fop);
        vmci_st_le64(p + 8, fp->fip);
        vmci_st_le64(p + 16, fp->fdp);
        if (!w) {
            bool zero = vmci_fp_no_selectors(cpu);
            vmci_st_le32(p + 12, zero ? 0 : fp->fcs);
            vmci_st_le32(p + 20, zero ? 0 : fp->fds);
        }
    }
    for (unsigned i = 0; i < 8; i++) {
        vmci_fp_copy(p + LEGACY_REGS + i * 16, a->st[i], 10);
        vmci_fp_zero(p + LEGACY_REGS + i * 16 + 10, 6);
    }
}

static void get_x87(struct vmci_cpu *cpu, const uint8_t *p, bool w)
{
    struct vmci_fp *fp = cpu->fp;
    struct vmci_xsave *a = &fp->area;
    a->fcw = (vmci_ld_le16(p) & 0x1f7f) | 0x40;
    a->fsw = vmci_ld_le16(p + 2);
    a->ftw = p[4];
    fp->fop = vmci_ld_le16(p + 6) & 0x7ff;
    fp->fip = w ? vmci_ld_le64(p + 8) : vmci_ld_le32(p + 8);
    fp->fdp = w ? vmci_ld_le64(p + 16) : vmci_ld_le32(p + 16);
    fp->fcs = w ? 0 : vmci_ld_le16(p + 12);
    fp->fds = w ? 0 : vmci_ld_le16(p + 20);
    for (unsigned i = 0; i < 8; i++)
        vmci_fp_copy(a->st[i], p + LEGACY_REGS + i * 16, 10);
}

static void init_component(struct vmci_cpu *cpu, unsigned i)
{
    struct vmci_fp *fp = cpu->fp;
    switch (i) {
    case 0:
        fp->area.fcw = VMCI_FCW_INIT;
        fp->area.fsw = 0;
        fp->area.ftw = 0;
        fp->fip = fp->fdp = 0;
        fp->fcs = fp->fds = fp->fop = 0;
        vmci_fp_zero(fp->area.st, sizeof(fp->area.st));
        break;
    case 1:
        vmci_fp_zero(fp->area.xmm, vector_regs(cpu) * 16);
        break;
    default:
        vmci_fp_zero(fp->area.ymmh, vector_regs(cpu) * 16);
        break;
    }
}

static bool all_zero(const uint8_t *p, size_t n)
{
    uint64_t m = 0;
    for (size_t i = 0; i < n; i += 8)
        m |= vmci_ld_le64(p + i);
    return m == 0;
}

/* Components that are not in their initial state; by content, so that it is deterministic. */
static uint64_t in_use(const struct vmci_cpu *cpu)
{
    const struct vmci_fp *fp = cpu->fp;
    const struct vmci_xsave *a = &fp->area;
    uint64_t m = 0;
    if (a->fcw != VMCI_FCW_INIT || a->fsw || a->ftw || fp->fip || fp->fdp || fp->fop || fp->fcs ||
        fp->fds || !all_zero(a->st[0], sizeof(a->st)))
        m |= VMC_XCR0_X87;
    if (!all_zero(a->xmm[0], vector_regs(cpu) * 16))
        m |= VMC_XCR0_SSE;
    if (!all_zero(a->ymmh[0], vector_regs(cpu) * 16))
        m |= VMC_XCR0_AVX;
    if (cpu->pkru != 0)
        m |= VMC_XCR0_PKRU;
    return m;
}

uint64_t vmci_fp_in_use(struct vmci_cpu *cpu)
{
    if (cpu->fp == NULL)
        return VMCI_GUEST_XCR0;
    vmci_fp_park(cpu);
    return in_use(cpu) | (cpu->fp->area.mxcsr != VMCI_MXCSR_INIT ? VMC_XCR0_SSE : 0);
}

static uint64_t requested(const struct vmci_cpu *cpu, bool supervisor)
{
    uint64_t mask = (cpu->gpr[VMC_RDX] << 32) | (uint32_t)cpu->gpr[VMC_RAX];
    return mask & (cpu->xcr0 | (supervisor ? cpu->msr.xss : 0)) & VMCI_GUEST_XCR0;
}

/* Where PKRU is: in the compacted format behind what is there of AVX. */
static unsigned pkru_offset(bool compact, uint64_t components)
{
    return compact && (components & VMC_XCR0_AVX) == 0 ? VMCI_XSAVE_AVX : VMCI_XSAVE_PKRU;
}

/* Up to the end of the last one of some components, in an area that has room for all of `room`. All
   modes have the same areas. */
static unsigned area_bytes(bool compact, uint64_t some, uint64_t room)
{
    if (some & VMC_XCR0_PKRU)
        return pkru_offset(compact, room) + 8;
    return (some & VMC_XCR0_AVX) ? VMCI_XSAVE_AVX + 256 : VMCI_XSAVE_AVX;
}

/* ---- MXCSR ----------------------------------------------------------------------------------- */

static int load_mxcsr(struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    struct vmci_fp *fp = cpu->fp;
    uint64_t la, v;
    int r = vmci_fp_operand(cpu, in, 4, 0, false, &la);
    if (r == 0)
        r = vmci_rd(cpu, la, 4, &v);
    if (r != 0)
        return r;
    if ((v & 0xffff0040u) && (v & ~(uint64_t)vmci_fp_mx_valid(cpu)))
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    vmci_fp_park(cpu);
    fp->area.mxcsr = (uint32_t)v;
    vmci_fp_refresh(fp);
    return 0;
}

static int store_mxcsr(struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    uint64_t la;
    int r = vmci_fp_operand(cpu, in, 4, 0, true, &la);
    if (r != 0)
        return r;
    vmci_fp_park(cpu);
    return vmci_wr(cpu, la, 4, cpu->fp->area.mxcsr);
}

/* ---- FXSAVE, FXRSTOR ------------------------------------------------------------------------- */

/* SSE state takes part only with OSFXSR, and not in AMD's fast mode of privileged code. */
static bool fx_sse(const struct vmci_cpu *cpu)
{
    if ((cpu->efer & VMC_EFER_FFXSR) && cpu->cpl == 0 && cpu->code_bits == 64)
        return false;
    return (cpu->cr4 & VMC_CR4_OSFXSR) != 0;
}

static int do_fxsave(struct vmci_cpu *cpu, const struct vmci_insn *in, const struct area *a)
{
    struct vmci_fp *fp = cpu->fp;
    struct image im = {.parts = 0};
    vmci_fp_park(cpu);
    put_x87(cpu, im.b, wide(cpu, in));
    if (cpu->cr4 & VMC_CR4_OSFXSR) {
        vmci_st_le32(im.b + 24, fp->area.mxcsr);
        vmci_st_le32(im.b + 28, vmci_fp_mx_mask(cpu));
        part(&im, 0, LEGACY_XMM);
    } else {
        part(&im, 0, 24);
        part(&im, LEGACY_REGS, LEGACY_XMM - LEGACY_REGS);
    }
    if (fx_sse(cpu)) {
        vmci_fp_copy(im.b + LEGACY_XMM, fp->area.xmm, sizeof(fp->area.xmm));
        part(&im, LEGACY_XMM, vector_regs(cpu) * 16);
    }
    return write_image(cpu, a, &im);
}

static int do_fxrstor(struct vmci_cpu *cpu, const struct vmci_insn *in, const struct area *a)
{
    struct vmci_fp *fp = cpu->fp;
    uint8_t b[LEGACY_XMM + 256];
    int r = read_image(cpu, a, b, 0, LEGACY_XMM + vector_regs(cpu) * 16);
    if (r != 0)
        return r;
    bool mx = (cpu->cr4 & VMC_CR4_OSFXSR) != 0;
    if (mx && (vmci_ld_le32(b + 24) & ~vmci_fp_mx_valid(cpu)))
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    vmci_fp_park(cpu);
    get_x87(cpu, b, wide(cpu, in));
    if (mx)
        fp->area.mxcsr = vmci_ld_le32(b + 24);
    if (fx_sse(cpu))
        vmci_fp_copy(fp->area.xmm, b + LEGACY_XMM, vector_regs(cpu) * 16);
    vmci_fp_refresh(fp);
    return 0;
}

/* ---- XSAVE, XSAVEOPT, XSAVEC, XSAVES --------------------------------------------------------- */

static bool compacts(const struct vmci_insn *in)
{
    return in->op == VMCI_OP_XSAVEC || in->op == VMCI_OP_XSAVES;
}

static int do_xsave(struct vmci_cpu *cpu, const struct vmci_insn *in, const struct area *a,
                    uint64_t rfbm)
{
    struct vmci_fp *fp = cpu->fp;
    struct image im = {.parts = 0};
    bool compact = compacts(in);
    uint64_t header = 0;
    /* All or nothing: an EPYC 9004 looks at the first byte, then at the last one that there may be
       of what is asked for; the area has no more than two pages. */
    int r = vmci_probe_wr(cpu, a->la, 1);
    if (r == 0)
        r = vmci_probe_wr(cpu, area_la(a, area_bytes(compact, rfbm, rfbm) - 1), 1);
    if (r == 0 && !compact)
        r = vmci_rd(cpu, area_la(a, VMCI_XSAVE_LEGACY), 8, &header);
    if (r != 0)
        return r;
    vmci_fp_park(cpu);
    uint64_t used = in_use(cpu) & rfbm;
    if (compact && (rfbm & VMC_XCR0_SSE) && fp->area.mxcsr != VMCI_MXCSR_INIT)
        used |= VMC_XCR0_SSE;
    uint64_t write = in->op == VMCI_OP_XSAVE ? rfbm : used;
    if (write & VMC_XCR0_X87) {
        put_x87(cpu, im.b, wide(cpu, in));
        part(&im, 0, 24);
        part(&im, LEGACY_REGS, LEGACY_XMM - LEGACY_REGS);
    }
    if (compact ? (write & VMC_XCR0_SSE) : (rfbm & (VMC_XCR0_SSE | VMC_XCR0_AVX))) {
        vmci_st_le32(im.b + 24, fp->area.mxcsr);
        vmci_st_le32(im.b + 28, vmci_fp_mx_mask(cpu));
        part(&im, 24, 8);
    }
    if (write & VMC_XCR0_SSE) {
        vmci_fp_copy(im.b + LEGACY_XMM, fp->area.xmm, sizeof(fp->area.xmm));
        part(&im, LEGACY_XMM, vector_regs(cpu) * 16);
    }
    vmci_st_le64(im.b + VMCI_XSAVE_LEGACY, (header & ~rfbm) | used);
    vmci_st_le64(im.b + VMCI_XSAVE_LEGACY + 8, rfbm | XCOMP_COMPACT);
    part(&im, VMCI_XSAVE_LEGACY, compact ? 16 : 8);
    if (write & VMC_XCR0_AVX) {
        vmci_fp_copy(im.b + VMCI_XSAVE_AVX, fp->area.ymmh, sizeof(fp->area.ymmh));
        part(&im, VMCI_XSAVE_AVX, vector_regs(cpu) * 16);
    }
    if (write & VMC_XCR0_PKRU) {
        unsigned at = pkru_offset(compact, rfbm);
        vmci_st_le64(im.b + at, cpu->pkru);
        part(&im, at, 8);
    }
    return write_image(cpu, a, &im);
}

/* ---- XRSTOR, XRSTORS ------------------------------------------------------------------------- */

static bool header_valid(const struct vmci_cpu *cpu, const struct vmci_insn *in, const uint8_t *h)
{
    uint64_t bv = vmci_ld_le64(h), comp = vmci_ld_le64(h + 8);
    if (comp & XCOMP_COMPACT) {
        uint64_t allowed = cpu->xcr0 | (in->op == VMCI_OP_XRSTORS ? cpu->msr.xss : 0);
        if (!((cpu->features >> VMCI_FEAT_XSAVEC) & 1))
            return false;
        comp &= ~XCOMP_COMPACT;
        return !(comp & ~allowed) && !(bv & ~comp) && all_zero(h + 16, 48);
    }
    if (in->op == VMCI_OP_XRSTORS)
        return false;
    return !(bv & ~cpu->xcr0) && all_zero(h + 8, 16);
}

static int do_xrstor(struct vmci_cpu *cpu, const struct vmci_insn *in, const struct area *a,
                     uint64_t rfbm)
{
    struct vmci_fp *fp = cpu->fp;
    uint8_t b[sizeof(struct vmci_xsave)];
    uint64_t pkru = 0, edge;
    /* In this order on an EPYC 9004: first byte, header, and the last one that there may be of what
       is asked for; of the compacted form, of what is there. */
    int r = vmci_rd(cpu, a->la, 1, &edge);
    if (r == 0)
        r = read_image(cpu, a, b, VMCI_XSAVE_LEGACY, VMCI_XSAVE_AVX);
    if (r != 0)
        return r;
    if (!header_valid(cpu, in, b + VMCI_XSAVE_LEGACY))
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    uint64_t bv = vmci_ld_le64(b + VMCI_XSAVE_LEGACY);
    uint64_t comp = vmci_ld_le64(b + VMCI_XSAVE_LEGACY + 8);
    bool compact = (comp & XCOMP_COMPACT) != 0;
    unsigned last = area_bytes(compact, compact ? rfbm & bv : rfbm, comp) - 1;
    r = vmci_rd(cpu, area_la(a, last), 1, &edge);
    if (r != 0)
        return r;
    bool mx =
        compact ? (rfbm & bv & VMC_XCR0_SSE) != 0 : (rfbm & (VMC_XCR0_SSE | VMC_XCR0_AVX)) != 0;
    if ((rfbm & bv & (VMC_XCR0_X87 | VMC_XCR0_SSE)) || mx) {
        r = read_image(cpu, a, b, 0, LEGACY_XMM + vector_regs(cpu) * 16);
        if (r != 0)
            return r;
    }
    if (rfbm & bv & VMC_XCR0_AVX) {
        r = read_image(cpu, a, b, VMCI_XSAVE_AVX, VMCI_XSAVE_AVX + vector_regs(cpu) * 16);
        if (r != 0)
            return r;
    }
    if (rfbm & bv & VMC_XCR0_PKRU) {
        r = vmci_rd(cpu, area_la(a, pkru_offset(compact, comp)), 8, &pkru);
        if (r != 0)
            return r;
    }
    if (mx && (vmci_ld_le32(b + 24) & ~vmci_fp_mx_valid(cpu)))
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    vmci_fp_park(cpu);
    for (unsigned i = 0; i < 3; i++) {
        if ((rfbm & ~bv) >> i & 1)
            init_component(cpu, i);
    }
    if (rfbm & bv & VMC_XCR0_X87)
        get_x87(cpu, b, wide(cpu, in));
    if (rfbm & bv & VMC_XCR0_SSE)
        vmci_fp_copy(fp->area.xmm, b + LEGACY_XMM, vector_regs(cpu) * 16);
    if (rfbm & bv & VMC_XCR0_AVX)
        vmci_fp_copy(fp->area.ymmh, b + VMCI_XSAVE_AVX, vector_regs(cpu) * 16);
    if (mx)
        fp->area.mxcsr = vmci_ld_le32(b + 24);
    else if (compact && (rfbm & VMC_XCR0_SSE))
        fp->area.mxcsr = VMCI_MXCSR_INIT;
    vmci_fp_refresh(fp);
    if (rfbm & VMC_XCR0_PKRU)
        vmci_set_pkru(cpu, (uint32_t)pkru);
    return 0;
}

/* ---- dispatch -------------------------------------------------------------------------------- */

static int mxcsr_op(struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    bool vex = (in->flags & VMCI_IF_VEX) != 0;
    int r = vmci_fp_check(cpu, vex ? VMCI_FK_AVX : VMCI_FK_SSE);
    if (r != 0)
        return r;
    return in->op == VMCI_OP_LDMXCSR ? load_mxcsr(cpu, in) : store_mxcsr(cpu, in);
}

static int fx_op(struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    struct area a;
    if (cpu->cr0 & (VMC_CR0_EM | VMC_CR0_TS))
        return vmci_raise(cpu, VMC_VEC_NM);
    int r = find_area(cpu, in, 512, 0, in->op == VMCI_OP_FXSAVE, &a);
    if (r != 0)
        return r;
    if (a.la & 15)
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    /* All of the area has to be there, used or not; processors look at its end first. */
    uint8_t last;
    r = in->op == VMCI_OP_FXSAVE ? vmci_probe_wr(cpu, area_la(&a, 511), 1)
                                 : vmci_rd_block(cpu, area_la(&a, 511), &last, 1);
    if (r == 0 && in->op == VMCI_OP_FXSAVE)
        r = vmci_probe_wr(cpu, a.la, 1);
    if (r != 0)
        return r;
    return in->op == VMCI_OP_FXSAVE ? do_fxsave(cpu, in, &a) : do_fxrstor(cpu, in, &a);
}

static int xsave_family(struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    bool load = in->op == VMCI_OP_XRSTOR || in->op == VMCI_OP_XRSTORS;
    bool supervisor = in->op == VMCI_OP_XSAVES || in->op == VMCI_OP_XRSTORS;
    struct area a;
    if (!(cpu->cr4 & VMC_CR4_OSXSAVE))
        return vmci_raise(cpu, VMC_VEC_UD);
    if (cpu->cr0 & VMC_CR0_TS)
        return vmci_raise(cpu, VMC_VEC_NM);
    if (supervisor && cpu->cpl != 0)
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    uint64_t rfbm = requested(cpu, supervisor);
    int r = find_area(cpu, in, area_bytes(compacts(in), rfbm, rfbm), 64, !load, &a);
    if (r != 0)
        return r;
    return load ? do_xrstor(cpu, in, &a, rfbm) : do_xsave(cpu, in, &a, rfbm);
}

int vmci_fp_xsave_op(struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    if ((in->flags & VMCI_IF_LOCK) || !(in->flags & VMCI_IF_MEM))
        return vmci_raise(cpu, VMC_VEC_UD);
    switch (in->op) {
    case VMCI_OP_LDMXCSR:
    case VMCI_OP_STMXCSR:
        return mxcsr_op(cpu, in);
    case VMCI_OP_FXSAVE:
    case VMCI_OP_FXRSTOR:
        return fx_op(cpu, in);
    default:
        return xsave_family(cpu, in);
    }
}
