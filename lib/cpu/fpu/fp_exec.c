/* SPDX-License-Identifier: BSD-2-Clause */
/* Execution of FP instructions: checks, operands, the plain path, unmasked SIMD exceptions. */
#include "fp_int.h"

/* ---- checks ---------------------------------------------------------------------------------- */

static int check_slow(struct vmci_cpu *cpu, unsigned kind)
{
    if (kind == VMCI_FK_AVX) {
        if (!vmci_prot_mode(cpu) || vmci_v86_mode(cpu) || !(cpu->cr4 & VMC_CR4_OSXSAVE) ||
            (cpu->xcr0 & (VMC_XCR0_SSE | VMC_XCR0_AVX)) != (VMC_XCR0_SSE | VMC_XCR0_AVX))
            return vmci_raise(cpu, VMC_VEC_UD);
    } else if (kind == VMCI_FK_X87 || kind == VMCI_FK_X87_CTL) {
        if (cpu->cr0 & VMC_CR0_EM)
            return vmci_raise(cpu, VMC_VEC_NM);
    } else {
        if (cpu->cr0 & VMC_CR0_EM)
            return vmci_raise(cpu, VMC_VEC_UD);
        if (kind != VMCI_FK_MMX && !(cpu->cr4 & VMC_CR4_OSFXSR))
            return vmci_raise(cpu, VMC_VEC_UD);
    }
    if (cpu->cr0 & VMC_CR0_TS)
        return vmci_raise(cpu, VMC_VEC_NM);
    return 0;
}

int vmci_fp_check(struct vmci_cpu *cpu, unsigned kind)
{
    int r;
    if (unlikely((cpu->cr0 & (VMC_CR0_EM | VMC_CR0_TS)) || kind == VMCI_FK_AVX ||
                 !(cpu->cr4 & VMC_CR4_OSFXSR))) {
        r = check_slow(cpu, kind);
        if (r != 0)
            return r;
    }
    if (unlikely(cpu->fp->x87_check || cpu->fp->ferr) &&
        (kind == VMCI_FK_X87 || kind == VMCI_FK_MMX || kind == VMCI_FK_MMX_XMM))
        return vmci_fp_check_mf(cpu);
    return 0;
}

/* ---- memory operands ------------------------------------------------------------------------- */

static bool alignment_checked(const struct vmci_cpu *cpu)
{
    return cpu->cpl == 3 && (cpu->cr0 & VMC_CR0_AM) && (cpu->rflags & VMC_FLAG_AC);
}

/* Alignment that #AC asks for: the operand's size, or that of its parts (SDM 3A table 6-7). */
static unsigned natural_alignment(unsigned bytes)
{
    switch (bytes) {
    case 10:
        return 8;
    case 14:
    case 94:
        return 2;
    case 28:
    case 108:
        return 4;
    default:
        return bytes <= 32 ? VMCI_MIN(bytes, 16u) : 0;
    }
}

int vmci_fp_check_ac(struct vmci_cpu *cpu, uint64_t la, unsigned bytes)
{
    unsigned n = natural_alignment(bytes);
    if (likely(!alignment_checked(cpu)) || n == 0 || !(la & (n - 1)))
        return 0;
    return vmci_raise_code(cpu, VMC_VEC_AC, 0);
}

/* Is the operand's linear address no multiple of align? In 64-bit mode only FS and GS have bases.
 */
static bool misaligned(const struct vmci_cpu *cpu, unsigned seg, uint64_t ea, unsigned align)
{
    if (cpu->code_bits != 64 || seg == VMC_FS || seg == VMC_GS)
        ea += cpu->seg[seg].base;
    return (ea & (align - 1)) != 0;
}

int vmci_fp_operand(struct vmci_cpu *cpu, const struct vmci_insn *in, unsigned bytes,
                    unsigned align, bool write, uint64_t *la)
{
    uint64_t ea = vmci_ea(cpu, in);
    /* An operand that must be aligned is checked for that first. */
    if (align != 0 && misaligned(cpu, in->seg, ea, align))
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    int r = vmci_seg_la(cpu, in->seg, ea, bytes, write, la);
    if (r != 0)
        return r;
    return vmci_fp_check_ac(cpu, *la, bytes);
}

/* Host address of the operand if it may be touched without further ado. */
static inline void *direct(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, bool write)
{
    const struct vmci_tlb *t = &cpu->tlb[cpu->tlb_mode];
    unsigned i = vmci_tlb_index(la);

    if (!vmci_tlb_hit(write ? t->wr[i] : t->rd[i], la, bytes))
        return NULL;
    return (void *)(uintptr_t)(la + t->addend[i]);
}

/* ---- unmasked SIMD exceptions ---------------------------------------------------------------- */

/* Flags that the instruction raises under the given control bits; area is left as it ran. */
static uint32_t run_flags(struct vmci_cpu *cpu, struct vmci_thunk *t, void *mem, uint64_t src,
                          uint32_t mxcsr, uint64_t *out)
{
    struct vmci_fp *fp = cpu->fp;
    fp->area.mxcsr = mxcsr;
    *out = vmci_fp_run(fp, t->fn, mem, src);
    vmci_fp_park(cpu);
    return fp->area.mxcsr & VMCI_MXCSR_FLAGS;
}

/* What an MMX instruction does to the x87 state besides its result: top 0, no register empty. */
static void enter_mmx(struct vmci_fp *fp)
{
    vmci_fp_rotate(fp, 8u - ((fp->area.fsw >> 11) & 7));
    fp->area.fsw &= (uint16_t)~0x3800;
    fp->area.ftw = 0xff;
}

/*
 * PE beside an unmasked overflow or underflow: it tells of the result before it was clamped or
 * denormalised, unless another element was with that exception masked.
 */
static uint32_t true_inexact(struct vmci_fp *fp, struct vmci_thunk *t, const void *mem,
                             uint32_t flags, uint32_t mx)
{
    if (flags & (mx >> 7) & (VMCI_MX_OE | VMCI_MX_UE))
        return flags;
    int inexact = vmci_fp_inexact(fp, t, mem);
    if (inexact < 0)
        return flags;
    return (flags & ~VMCI_MX_PE) | (inexact ? VMCI_MX_PE : 0);
}

/*
 * Run with all exceptions masked and flags clear, then decide (SDM 1 11.5.2, 11.5.3). With
 * underflow unmasked a tiny exact result faults too, which only flush-to-zero makes visible; FZ
 * itself has no effect then.
 */
int vmci_fp_run_checked(struct vmci_cpu *cpu, struct vmci_thunk *t, void *mem, uint64_t src,
                        uint64_t *out)
{
    struct vmci_fp *fp = cpu->fp;
    vmci_fp_park(cpu);
    uint32_t mx = fp->area.mxcsr;
    uint32_t ctl = (mx & ~(VMCI_MXCSR_FLAGS | VMCI_MXCSR_MASKS)) | VMCI_MXCSR_MASKS;
    uint32_t flags = 0;
    bool check = fp->mx_check;
    fp->mx_check = false; /* MXCSR is as written here, no translation */
    vmci_fp_copy(&fp->undo, &fp->area, sizeof(fp->area));
    if (!(mx & VMCI_MXCSR_UM)) {
        flags = run_flags(cpu, t, mem, src, ctl | VMCI_MXCSR_FZ, out) & VMCI_MX_UE;
        vmci_fp_copy(&fp->area, &fp->undo, sizeof(fp->area));
        ctl &= ~VMCI_MXCSR_FZ;
    }
    flags |= run_flags(cpu, t, mem, src, ctl, out);
    fp->mx_check = check;
    if (!(mx & VMCI_MXCSR_UM) && vmci_fp_half_tiny(fp, t))
        flags |= VMCI_MX_UE;
    uint32_t unmasked = flags & ~(mx >> 7) & VMCI_MXCSR_FLAGS;
    if (unmasked & VMCI_MX_PRE)
        flags &= VMCI_MX_PRE;
    else if (unmasked & (VMCI_MX_OE | VMCI_MX_UE))
        flags = true_inexact(fp, t, mem, flags, mx);
    unmasked = flags & ~(mx >> 7) & VMCI_MXCSR_FLAGS;
    if (unmasked != 0)
        vmci_fp_copy(&fp->area, &fp->undo, sizeof(fp->area));
    fp->area.mxcsr = mx | flags;
    if (unmasked == 0)
        return 0;
    if (t->kind == VMCI_FK_MMX_XMM)
        enter_mmx(fp);
    return vmci_raise(cpu, (cpu->cr4 & VMC_CR4_OSXMMEXCPT) ? VMC_VEC_XM : VMC_VEC_UD);
}

/* ---- execution ------------------------------------------------------------------------------- */

static int run(struct vmci_cpu *cpu, struct vmci_thunk *t, void *mem, uint64_t src, uint64_t *out)
{
    struct vmci_fp *fp = cpu->fp;
    if (unlikely(fp->mx_check) && (t->form.flags & VMCI_FO_EXC))
        return vmci_fp_run_checked(cpu, t, mem, src, out);
    *out = vmci_fp_run(fp, t->fn, mem, src);
    return 0;
}

/* x87 with an unmasked exception that keeps the result from being stored. */
static bool store_suppressed(struct vmci_cpu *cpu)
{
    struct vmci_fp *fp = cpu->fp;
    if (!fp->x87_check)
        return false;
    vmci_fp_park(cpu);
    return (fp->area.fsw & ~fp->area.fcw & 0x1f) != 0;
}

/*
 * A store that cannot go to memory directly. Instructions that change more than memory (x87 pops,
 * flags) are undone when the write fails or has to wait for the embedder.
 */
static int store_slow(struct vmci_cpu *cpu, const struct vmci_insn *in, struct vmci_thunk *t,
                      uint64_t la, bool wraps)
{
    struct vmci_fp *fp = cpu->fp;
    uint64_t out;
    unsigned bytes = t->form.mem_bytes;
    bool undo = (t->form.flags & (VMCI_FO_X87 | VMCI_FO_EXC)) != 0;
    int r = wraps ? vmci_fp_wrapped_probe(cpu, in, bytes, true) : vmci_probe_wr(cpu, la, bytes);
    if (r != 0)
        return r;
    if (undo) {
        vmci_fp_park(cpu);
        vmci_fp_copy(&fp->undo, &fp->area, sizeof(fp->area));
    }
    if (fp->mx_check && (t->form.flags & VMCI_FO_EXC)) {
        r = vmci_fp_run_checked(cpu, t, fp->bounce, 0, &out);
        if (r != 0)
            return r;
    } else {
        vmci_fp_run(fp, t->fn, fp->bounce, 0);
    }
    if ((t->form.flags & VMCI_FO_X87) && store_suppressed(cpu))
        return 0;
    r = wraps ? vmci_fp_wrapped_write(cpu, in, fp->bounce, bytes)
              : vmci_wr_block(cpu, la, fp->bounce, bytes);
    if (r != 0 && undo) {
        vmci_fp_park(cpu);
        vmci_fp_copy(&fp->area, &fp->undo, sizeof(fp->area));
    }
    return r;
}

static int store(struct vmci_cpu *cpu, const struct vmci_insn *in, struct vmci_thunk *t,
                 uint64_t la)
{
    struct vmci_fp *fp = cpu->fp;
    void *p = direct(cpu, la, t->form.mem_bytes, true);
    if (p == NULL || (fp->mx_check && (t->form.flags & VMCI_FO_EXC)))
        return store_slow(cpu, in, t, la, false);
    vmci_fp_run(fp, t->fn, p, 0);
    return 0;
}

static int load_operand(struct vmci_cpu *cpu, struct vmci_thunk *t, uint64_t la, void **mem)
{
    struct vmci_fp *fp = cpu->fp;
    *mem = direct(cpu, la, t->form.mem_bytes, false);
    /* The host may insist on an alignment that the guest's model does not. */
    if (unlikely((t->form.flags & VMCI_FO_LOOSE) && (la & 15)))
        *mem = NULL;
    if (likely(*mem != NULL))
        return 0;
    *mem = fp->bounce;
    return vmci_rd_block(cpu, la, fp->bounce, t->form.mem_bytes);
}

/* AMD: with MXCSR.MM set only explicitly aligned moves insist on alignment (APM 1 4.2.2). */
static bool misaligned_allowed(struct vmci_cpu *cpu, const struct vmci_thunk *t)
{
    if (t->form.flags & VMCI_FO_ALIGNX)
        return false;
    vmci_fp_park(cpu);
    return (cpu->fp->area.mxcsr & VMCI_MXCSR_MM) != 0;
}

/* Address of the operand, segment and alignment checked; the fast path is flat 64-bit code. */
static inline int operand(struct vmci_cpu *cpu, const struct vmci_insn *in, struct vmci_thunk *t,
                          bool write, uint64_t *la)
{
    if (likely((in->flags & VMCI_IF_LINEAR) && !(cpu->rflags & VMC_FLAG_AC))) {
        *la = vmci_ea(cpu, in);
        if (likely(direct(cpu, *la, t->form.mem_bytes, write) != NULL &&
                   (t->form.align == 0 || !(*la & (t->form.align - 1u)))))
            return 0;
    }
    unsigned align = t->form.align;
    if (align != 0 && misaligned(cpu, in->seg, vmci_ea(cpu, in), align) &&
        misaligned_allowed(cpu, t))
        align = 0;
    return vmci_fp_operand(cpu, in, t->form.mem_bytes, align, write, la);
}

static inline void set_results(struct vmci_cpu *cpu, struct vmci_thunk *t, uint64_t out)
{
    if (t->form.flags & (VMCI_FO_GREG | VMCI_FO_GRMW))
        cpu->gpr[t->dst] = out;
    else if (t->form.flags & VMCI_FO_FLAGS)
        cpu->rflags = (cpu->rflags & ~VMC_FLAG_ARITH) | (out & VMC_FLAG_ARITH);
}

/* Where the last x87 instruction was, for FNSTENV and its kin. */
static void set_pointers(struct vmci_cpu *cpu, const struct vmci_insn *in, struct vmci_thunk *t)
{
    struct vmci_fp *fp = cpu->fp;
    fp->fip = vmci_insn_rip(cpu, in);
    fp->fcs = cpu->seg[VMC_CS].selector;
    fp->fop = t->fop;
    if (in->flags & VMCI_IF_MEM) {
        fp->fdp = vmci_ea(cpu, in);
        fp->fds = cpu->seg[in->seg].selector;
    }
}

static int load_wrapped(struct vmci_cpu *cpu, const struct vmci_insn *in, struct vmci_thunk *t)
{
    int r = vmci_fp_wrapped_probe(cpu, in, t->form.mem_bytes, false);
    return r != 0 ? r : vmci_fp_wrapped_read(cpu, in, cpu->fp->bounce, t->form.mem_bytes);
}

static int plain(struct vmci_cpu *cpu, const struct vmci_insn *in, struct vmci_thunk *t)
{
    uint64_t src, la, out = 0;
    void *mem = NULL;
    int r;
    if (in->flags & VMCI_IF_MEM) {
        bool write = (t->form.mem_acc & VMCI_MEM_WRITE) != 0;
        if (unlikely((t->form.flags & VMCI_FO_X87) &&
                     vmci_fp_wraps(in, vmci_ea(cpu, in), t->form.mem_bytes))) {
            if (write)
                return store_slow(cpu, in, t, 0, true);
            mem = cpu->fp->bounce;
            r = load_wrapped(cpu, in, t);
            if (r != 0)
                return r;
        } else {
            r = operand(cpu, in, t, write, &la);
            if (r != 0)
                return r;
            if (write)
                return store(cpu, in, t, la);
            r = load_operand(cpu, t, la, &mem);
            if (r != 0)
                return r;
        }
    }
    src = (t->form.flags & VMCI_FO_X87) ? (cpu->rflags & VMC_FLAG_ARITH) | VMC_FLAG_1
                                        : cpu->gpr[t->src];
    r = run(cpu, t, mem, src, &out);
    if (r == 0)
        set_results(cpu, t, out);
    return r;
}

/* aux: generation and index of the thunk, so that a flush makes it stale. */
static struct vmci_thunk *thunk_of(struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    uintptr_t aux = (uintptr_t)in->aux;
    if (likely((aux >> 16) == cpu->fp->generation))
        return &cpu->fp->thunk[aux & 0xffff];
    return vmci_thunk_get(cpu, in);
}

static int exec_ud(struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    (void)in;
    return vmci_raise(cpu, VMC_VEC_UD);
}

static int exec_simd(struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    struct vmci_thunk *t = thunk_of(cpu, in);
    if (unlikely(t == NULL))
        return exec_ud(cpu, in);
    int r = vmci_fp_check(cpu, t->kind);
    if (unlikely(r != 0))
        return r;
    r = plain(cpu, in, t);
    if (unlikely(cpu->fp->ignored))
        vmci_fp_unignore(cpu, t);
    return r;
}

static int exec_x87(struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    struct vmci_thunk *t = thunk_of(cpu, in);
    if (unlikely(t == NULL))
        return exec_ud(cpu, in);
    int r = vmci_fp_check(cpu, VMCI_FK_X87);
    if (unlikely(r != 0))
        return r;
    r = plain(cpu, in, t);
    if (likely(r == 0))
        set_pointers(cpu, in, t);
    if (unlikely(cpu->fp->ignored))
        vmci_fp_unignore(cpu, t);
    return r;
}

static int exec_special(struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    struct vmci_thunk *t = thunk_of(cpu, in);
    if (unlikely(t == NULL))
        return exec_ud(cpu, in);
    int r = vmci_fp_check(cpu, t->kind);
    if (unlikely(r != 0))
        return r;
    r = t->kind == VMCI_FK_X87_CTL ? vmci_fp_x87_ctl(cpu, in, t) : vmci_fp_special(cpu, in, t);
    if (unlikely(cpu->fp->ignored))
        vmci_fp_unignore(cpu, r == 0 ? t : NULL);
    return r;
}

static int exec_fwait(struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    (void)in;
    if ((cpu->cr0 & (VMC_CR0_TS | VMC_CR0_MP)) == (VMC_CR0_TS | VMC_CR0_MP))
        return vmci_raise(cpu, VMC_VEC_NM);
    int r = cpu->fp != NULL ? vmci_fp_check_mf(cpu) : 0;
    if (cpu->fp != NULL && unlikely(cpu->fp->ignored))
        vmci_fp_unignore(cpu, NULL);
    return r;
}

void vmci_fp_prepare(struct vmci_cpu *cpu, struct vmci_insn *in)
{
    in->aux = NULL;
    if (in->op == VMCI_OP_FWAIT) {
        in->exec = exec_fwait;
        return;
    }
    if (in->op >= VMCI_OP_LDMXCSR) {
        in->exec = cpu->fp != NULL ? vmci_fp_xsave_op : exec_ud;
        return;
    }
    struct vmci_thunk *t = vmci_thunk_get(cpu, in);
    if (t == NULL) {
        in->exec = exec_ud;
        return;
    }
    in->aux = (void *)(((uintptr_t)cpu->fp->generation << 16) | (uintptr_t)(t - cpu->fp->thunk));
    if (t->form.special != VMCI_FS_PLAIN && t->form.special != VMCI_FS_EMMS &&
        t->form.special != VMCI_FS_VZERO8 && t->form.special != VMCI_FS_FNOP)
        in->exec = exec_special;
    else
        in->exec = (t->form.flags & VMCI_FO_X87) ? exec_x87 : exec_simd;
}

int vmci_fp_exec(struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    struct vmci_insn copy;
    vmci_fp_copy(&copy, in, sizeof(copy));
    vmci_fp_prepare(cpu, &copy);
    return copy.exec(cpu, &copy);
}
