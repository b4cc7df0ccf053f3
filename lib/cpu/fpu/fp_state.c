/* SPDX-License-Identifier: BSD-2-Clause */
/* The guest's FP state: creation, loading into the host's registers and back, transfer. */
#include "fp.h"
#include "fp_int.h"

/* ---- one instruction each -------------------------------------------------------------------- */

static inline void cpuid(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}
static inline uint64_t xgetbv0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo | (uint64_t)hi << 32;
}
static inline void xsave(void *p, uint64_t rfbm)
{
    __asm__ volatile("xsave64 (%0)"
                     :
                     : "r"(p), "a"((uint32_t)rfbm), "d"((uint32_t)(rfbm >> 32))
                     : "memory");
}
static inline void xrstor(const void *p, uint64_t rfbm)
{
    __asm__ volatile("xrstor64 (%0)"
                     :
                     : "r"(p), "a"((uint32_t)rfbm), "d"((uint32_t)(rfbm >> 32))
                     : "memory");
}
static inline void fxsave(void *p)
{
    __asm__ volatile("fxsave64 (%0)" : : "r"(p) : "memory");
}
static inline void fxrstor(const void *p)
{
    __asm__ volatile("fxrstor64 (%0)" : : "r"(p) : "memory");
}
static inline void fninit(void)
{
    __asm__ volatile("fninit");
}
static inline void vzeroupper(void)
{
    __asm__ volatile("vzeroupper");
}
static inline void ldmxcsr(const uint32_t *p)
{
    __asm__ volatile("ldmxcsr %0" : : "m"(*p));
}
static inline void stmxcsr(uint32_t *p)
{
    __asm__ volatile("stmxcsr %0" : "=m"(*p));
}
static inline void fldcw(const uint16_t *p)
{
    __asm__ volatile("fldcw %0" : : "m"(*p));
}
static inline void fnstcw(uint16_t *p)
{
    __asm__ volatile("fnstcw %0" : "=m"(*p));
}

/* ---- bytes, without libc: its functions use vector registers --------------------------------- */

void vmci_fp_copy(void *dst, const void *src, size_t bytes)
{
    __asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(bytes) : : "memory");
}

void vmci_fp_zero(void *dst, size_t bytes)
{
    __asm__ volatile("rep stosb" : "+D"(dst), "+c"(bytes) : "a"(0) : "memory");
}

/* ---- loading and parking --------------------------------------------------------------------- */

void vmci_fp_load(struct vmci_fp *fp)
{
    uint32_t mxcsr = fp->area.mxcsr;
    stmxcsr(&fp->host_mxcsr);
    fnstcw(&fp->host_fcw);
    if (fp->mx_check)
        fp->area.mxcsr |= VMCI_MXCSR_MASKS;
    if (fp->has_xsave)
        xrstor(&fp->area, fp->rfbm);
    else
        fxrstor(&fp->area);
    fp->area.mxcsr = mxcsr;
    fp->live = true;
}

void vmci_fp_park(struct vmci_cpu *cpu)
{
    struct vmci_fp *fp = cpu->fp;
    if (VMCI_FP_EAGER || fp == NULL || !fp->live)
        return;
    if (fp->has_xsave)
        xsave(&fp->area, fp->rfbm);
    else
        fxsave(&fp->area);
    if (fp->mx_check)
        fp->area.mxcsr = (fp->area.mxcsr & ~VMCI_MXCSR_MASKS) | fp->mx_masks;
    fp->live = false;
    /* The ABI wants an empty x87 stack; clean upper halves make the caller's SSE code fast. */
    fninit();
    fldcw(&fp->host_fcw);
    ldmxcsr(&fp->host_mxcsr);
    if (fp->has_avx)
        vzeroupper();
}

void vmci_fp_rotate(struct vmci_fp *fp, unsigned n)
{
    uint8_t st[8][16];
    vmci_fp_copy(st, fp->area.st, sizeof(st));
    for (unsigned i = 0; i < 8; i++)
        vmci_fp_copy(fp->area.st[i], st[(i + n) & 7], 16);
}

void vmci_fp_refresh(struct vmci_fp *fp)
{
    struct vmci_xsave *a = &fp->area;
    fp->mx_masks = a->mxcsr & VMCI_MXCSR_MASKS;
    fp->mx_check = fp->mx_masks != VMCI_MXCSR_MASKS;
    fp->x87_check = (a->fcw & VMCI_FCW_MASKS) != VMCI_FCW_MASKS;
    a->fsw &= (uint16_t)~(VMCI_FSW_ES | VMCI_FSW_B);
    if (a->fsw & ~a->fcw & VMCI_FCW_MASKS)
        a->fsw |= VMCI_FSW_ES | VMCI_FSW_B;
    /* What the unit does not have must not stop the area from being loaded. */
    a->mxcsr &= fp->mx_valid; /* the host's; what the guest may set is checked before */
    a->xstate_bv = fp->rfbm;
    a->xcomp_bv = 0;
}

static void init_x87(struct vmci_fp *fp)
{
    struct vmci_xsave *a = &fp->area;
    a->fcw = VMCI_FCW_INIT;
    a->fsw = 0;
    a->ftw = 0;
    fp->fip = fp->fdp = 0;
    fp->fcs = fp->fds = fp->fop = 0;
}

void vmci_fp_reset(struct vmci_cpu *cpu, bool init)
{
    struct vmci_fp *fp = cpu->fp;
    if (fp == NULL || init) /* INIT keeps the FP state (SDM 3A table 10-1) */
        return;
    vmci_fp_park(cpu);
    vmci_fp_zero(&fp->area, sizeof(fp->area));
    init_x87(fp);
    fp->area.fcw = 0x0040; /* RESET leaves FSTCW = 0040h, FNINIT makes it 037fh */
    fp->area.ftw = 0xff;   /* tag word 5555h: all zero, none empty */
    fp->area.mxcsr = VMCI_MXCSR_INIT;
    vmci_fp_refresh(fp);
}

/* ---- what the host has ----------------------------------------------------------------------- */

struct feat_bit {
    uint8_t reg, bit, feat; /* reg: 0..3 of leaf 1, 4..7 of leaf 7, 8..11 of 80000001 */
};

/* clang-format off */
static const struct feat_bit feat_bits[] = {
    {3, 0, VMCI_FEAT_FPU}, {3, 15, VMCI_FEAT_CMOV}, {3, 23, VMCI_FEAT_MMX},
    {3, 24, VMCI_FEAT_FXSR}, {11, 22, VMCI_FEAT_MMXEXT}, {3, 25, VMCI_FEAT_SSE},
    {3, 26, VMCI_FEAT_SSE2}, {2, 0, VMCI_FEAT_SSE3}, {2, 1, VMCI_FEAT_PCLMUL},
    {2, 9, VMCI_FEAT_SSSE3}, {2, 19, VMCI_FEAT_SSE41}, {2, 20, VMCI_FEAT_SSE42},
    {2, 25, VMCI_FEAT_AES}, {5, 29, VMCI_FEAT_SHA}, {10, 6, VMCI_FEAT_SSE4A},
    {6, 8, VMCI_FEAT_GFNI},
};
/* Only with the AVX state enabled. */
static const struct feat_bit avx_bits[] = {
    {2, 28, VMCI_FEAT_AVX}, {2, 12, VMCI_FEAT_FMA}, {2, 29, VMCI_FEAT_F16C},
    {5, 5, VMCI_FEAT_AVX2}, {6, 9, VMCI_FEAT_VAES}, {6, 10, VMCI_FEAT_VPCLMUL},
};
/* clang-format on */

static uint64_t gather(const struct feat_bit *t, size_t n, const uint32_t *r)
{
    uint64_t m = 0;
    for (size_t i = 0; i < n; i++) {
        if ((r[t[i].reg] >> t[i].bit) & 1)
            m |= VMCI_BIT(t[i].feat);
    }
    return m;
}

struct host_caps {
    uint64_t features, rfbm;
    bool has_xsave, has_avx, amd;
};

static void host_probe(struct host_caps *fp)
{
    uint32_t r[12] = {0}, max[4], ext[4];
    cpuid(0, 0, max);
    cpuid(1, 0, r);
    if (max[0] >= 7)
        cpuid(7, 0, r + 4);
    cpuid(0x80000000u, 0, ext);
    if (ext[0] >= 0x80000001u)
        cpuid(0x80000001u, 0, r + 8);
    fp->amd = max[1] == 0x68747541u; /* "Auth" */
    fp->features = gather(feat_bits, VMCI_ARRAY_SIZE(feat_bits), r);
    fp->rfbm = VMC_XCR0_X87 | VMC_XCR0_SSE;
    fp->has_xsave = (r[2] >> 27) & 1; /* OSXSAVE */
    if (fp->has_xsave && (xgetbv0() & VMCI_FP_XCR0) == VMCI_FP_XCR0) {
        fp->has_avx = true;
        fp->rfbm = VMCI_FP_XCR0;
        fp->features |= gather(avx_bits, VMCI_ARRAY_SIZE(avx_bits), r);
        /* These are done without the host's own (fp_xsave.c). */
        fp->features |= VMCI_BIT(VMCI_FEAT_XSAVE) | VMCI_BIT(VMCI_FEAT_XSAVEOPT) |
                        VMCI_BIT(VMCI_FEAT_XSAVEC) | VMCI_BIT(VMCI_FEAT_XSAVES);
    }
}

/* ---- life ------------------------------------------------------------------------------------ */

int vmci_fp_create(struct vmci_cpu *cpu, struct vmc_error *err)
{
    const struct vmc_platform *pf = cpu->pf;
    struct host_caps caps = {0};
    void *rw;
    const void *rx;
    if (pf->exec == NULL)
        return vmci_error(err, VMC_ENOTSUP, __func__, "the platform has no executable memory");
    struct vmci_fp *fp = pf->alloc(pf->ctx, sizeof(*fp), 64);
    if (fp == NULL)
        return vmci_error(err, VMC_ENOMEM, __func__, "no memory for the FP state");
    vmci_fp_zero(fp, sizeof(*fp));
    size_t bytes = vmci_align_up(VMCI_THUNK_CODE, 4096);
    int r = pf->exec->reserve(pf->ctx, bytes, &rw, &rx);
    if (r != VMC_OK) {
        pf->free(pf->ctx, fp, sizeof(*fp), 64);
        return vmci_error(err, r, __func__, "cannot reserve %zu bytes of executable memory", bytes);
    }
    fp->rw = rw;
    fp->rx = rx;
    host_probe(&caps);
    fp->host_features = caps.features;
    fp->rfbm = caps.rfbm;
    fp->has_xsave = caps.has_xsave;
    fp->has_avx = caps.has_avx;
    fp->host_amd = caps.amd;
    fxsave(&fp->area);
    fp->mx_valid = fp->area.mxcsr_mask ? fp->area.mxcsr_mask : 0xffbfu; /* SDM 1 11.6.6 */
    vmci_thunk_init(fp);
    cpu->fp = fp;
    vmci_fp_reset(cpu, false);
    return VMC_OK;
}

void vmci_fp_destroy(struct vmci_cpu *cpu)
{
    const struct vmc_platform *pf = cpu->pf;
    struct vmci_fp *fp = cpu->fp;
    if (fp == NULL)
        return;
    vmci_fp_park(cpu);
    pf->exec->release(pf->ctx, fp->rw, fp->rx, vmci_align_up(VMCI_THUNK_CODE, 4096));
    pf->free(pf->ctx, fp, sizeof(*fp), 64);
    cpu->fp = NULL;
}

/* ---- transfer -------------------------------------------------------------------------------- */

unsigned vmci_fp_get_xsave(struct vmci_cpu *cpu, void *dst)
{
    struct vmci_fp *fp = cpu->fp;
    struct vmci_xsave *out = dst;
    if (fp == NULL)
        return 0;
    vmci_fp_park(cpu);
    vmci_fp_copy(out, &fp->area, sizeof(*out));
    out->fip = fp->fip;
    out->fdp = fp->fdp;
    out->fop = fp->fop;
    out->rsvd0 = 0;
    out->mxcsr_mask = vmci_fp_mx_mask(cpu);
    vmci_fp_zero(out->rsvd1, sizeof(out->rsvd1) + sizeof(out->avail));
    /* The 64-bit format has no room for the selectors: the library keeps them where software may. */
    vmci_st_le16(out->avail, fp->fcs);
    vmci_st_le16(out->avail + 2, fp->fds);
    out->xstate_bv = fp->rfbm;
    vmci_fp_zero(&out->xcomp_bv, sizeof(out->xcomp_bv) + sizeof(out->rsvd2));
    if (!fp->has_avx)
        vmci_fp_zero(out->ymmh, sizeof(out->ymmh));
    if ((cpu->xcr0_allowed & VMC_XCR0_PKRU) == 0)
        return VMCI_XSAVE_PKRU;
    out->xstate_bv |= VMC_XCR0_PKRU;
    out->pkru = cpu->pkru;
    return sizeof(*out);
}

int vmci_fp_set_xsave(struct vmci_cpu *cpu, const void *src, unsigned bytes)
{
    struct vmci_fp *fp = cpu->fp;
    const struct vmci_xsave *in = src;
    if (fp == NULL)
        return bytes == 0 ? VMC_OK : VMC_ENOTSUP;
    if (bytes < VMCI_XSAVE_LEGACY)
        return VMC_EINVAL;
    uint64_t bv = bytes >= VMCI_XSAVE_AVX ? in->xstate_bv : VMC_XCR0_X87 | VMC_XCR0_SSE;
    if (bytes < VMCI_XSAVE_PKRU)
        bv &= ~VMC_XCR0_AVX;
    if (bytes < sizeof(*in))
        bv &= ~VMC_XCR0_PKRU;
    if ((bv & ~(fp->rfbm | (cpu->xcr0_allowed & VMC_XCR0_PKRU))) ||
        (in->mxcsr & ~fp->mx_valid)) {
        /* Under VT-x and SVM the guest sets whatever the processor has. */
        vmci_log(cpu->pf, VMC_LOG_WARN, "cpu",
                 "vCPU %u: XSTATE_BV 0x%llx or MXCSR 0x%x is not of the CPU model", cpu->apic_id,
                 (unsigned long long)bv, in->mxcsr);
        return VMC_EINVAL;
    }
    vmci_fp_park(cpu);
    init_x87(fp);
    vmci_fp_zero(fp->area.st, sizeof(fp->area.st) + sizeof(fp->area.xmm));
    vmci_fp_zero(fp->area.ymmh, sizeof(fp->area.ymmh));
    if (bv & VMC_XCR0_X87) {
        fp->area.fcw = in->fcw;
        fp->area.fsw = in->fsw;
        fp->area.ftw = in->ftw;
        fp->fop = in->fop & 0x7ff;
        fp->fip = in->fip;
        fp->fdp = in->fdp;
        fp->fcs = vmci_ld_le16(in->avail);
        fp->fds = vmci_ld_le16(in->avail + 2);
        vmci_fp_copy(fp->area.st, in->st, sizeof(in->st));
    }
    if (bv & VMC_XCR0_SSE)
        vmci_fp_copy(fp->area.xmm, in->xmm, sizeof(in->xmm));
    if (bv & VMC_XCR0_AVX)
        vmci_fp_copy(fp->area.ymmh, in->ymmh, sizeof(in->ymmh));
    fp->area.mxcsr = (bv & (VMC_XCR0_SSE | VMC_XCR0_AVX)) ? in->mxcsr : VMCI_MXCSR_INIT;
    vmci_fp_refresh(fp);
    vmci_set_pkru(cpu, (bv & VMC_XCR0_PKRU) ? (uint32_t)in->pkru : 0);
    return VMC_OK;
}

uint64_t vmci_fp_host_features(void)
{
    struct host_caps caps = {0};
    host_probe(&caps);
    return caps.features;
}
