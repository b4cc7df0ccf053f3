/* SPDX-License-Identifier: BSD-2-Clause */
/* Comparison of two results of one case, and the flags that the manual leaves undefined. */
#include "cpu/decode/insn.h"
#include "diff.h"
#include "diff_gen.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <vmcore/x86.h>

#define CF VMC_FLAG_CF
#define PF VMC_FLAG_PF
#define AF VMC_FLAG_AF
#define ZF VMC_FLAG_ZF
#define SF VMC_FLAG_SF
#define OF VMC_FLAG_OF
#define ALL VMC_FLAG_ARITH

/*
 * Arithmetic flags by instruction (SDM 1 appendix A, SDM 2). used: read. set: defined afterwards.
 * undef: left undefined. Instructions that are not here neither read nor change them.
 */
const struct diff_flag_use diff_flag_uses[VMCI_OP_COUNT] = {
    [VMCI_OP_ADD] = {0, ALL, 0}, [VMCI_OP_SUB] = {0, ALL, 0}, [VMCI_OP_CMP] = {0, ALL, 0},
    [VMCI_OP_NEG] = {0, ALL, 0}, [VMCI_OP_XADD] = {0, ALL, 0}, [VMCI_OP_CMPXCHG] = {0, ALL, 0},
    [VMCI_OP_ADC] = {CF, ALL, 0}, [VMCI_OP_SBB] = {CF, ALL, 0},
    [VMCI_OP_INC] = {0, ALL & ~CF, 0}, [VMCI_OP_DEC] = {0, ALL & ~CF, 0},
    [VMCI_OP_AND] = {0, ALL & ~AF, AF}, [VMCI_OP_OR] = {0, ALL & ~AF, AF},
    [VMCI_OP_XOR] = {0, ALL & ~AF, AF}, [VMCI_OP_TEST] = {0, ALL & ~AF, AF},
    [VMCI_OP_MUL] = {0, CF | OF, PF | AF | ZF | SF},
    [VMCI_OP_IMUL1] = {0, CF | OF, PF | AF | ZF | SF},
    [VMCI_OP_IMUL2] = {0, CF | OF, PF | AF | ZF | SF},
    [VMCI_OP_IMUL3] = {0, CF | OF, PF | AF | ZF | SF},
    [VMCI_OP_DIV] = {0, 0, ALL}, [VMCI_OP_IDIV] = {0, 0, ALL},
    /* a count of 0 changes nothing, so "set" clears nothing; OF is defined for a count of 1 only */
    [VMCI_OP_ROL] = {0, 0, OF}, [VMCI_OP_ROR] = {0, 0, OF}, [VMCI_OP_RCL] = {CF, 0, OF},
    [VMCI_OP_RCR] = {CF, 0, OF}, [VMCI_OP_SHL] = {0, 0, OF | AF | CF},
    [VMCI_OP_SHR] = {0, 0, OF | AF | CF}, [VMCI_OP_SAR] = {0, 0, OF | AF},
    [VMCI_OP_SHLD] = {0, 0, ALL}, [VMCI_OP_SHRD] = {0, 0, ALL},
    [VMCI_OP_BT] = {0, CF, OF | SF | AF | PF}, [VMCI_OP_BTS] = {0, CF, OF | SF | AF | PF},
    [VMCI_OP_BTR] = {0, CF, OF | SF | AF | PF}, [VMCI_OP_BTC] = {0, CF, OF | SF | AF | PF},
    [VMCI_OP_BSF] = {0, ZF, ALL & ~ZF}, [VMCI_OP_BSR] = {0, ZF, ALL & ~ZF},
    [VMCI_OP_LZCNT] = {0, CF | ZF, 0},
    [VMCI_OP_TZCNT] = {0, CF | ZF, 0},
    [VMCI_OP_POPCNT] = {0, ALL, 0},
    [VMCI_OP_AAA] = {AF | CF, AF | CF, OF | SF | ZF | PF},
    [VMCI_OP_AAS] = {AF | CF, AF | CF, OF | SF | ZF | PF},
    [VMCI_OP_AAM] = {0, SF | ZF | PF, OF | AF | CF}, [VMCI_OP_AAD] = {0, SF | ZF | PF, OF | AF | CF},
    [VMCI_OP_DAA] = {AF | CF, ALL & ~OF, OF}, [VMCI_OP_DAS] = {AF | CF, ALL & ~OF, OF},
    [VMCI_OP_ADCX] = {CF, CF, 0}, [VMCI_OP_ADOX] = {OF, OF, 0},
    [VMCI_OP_ANDN] = {0, CF | OF | SF | ZF, 0},
    [VMCI_OP_BEXTR] = {0, CF | OF | ZF, 0},
    [VMCI_OP_BLSI] = {0, CF | OF | SF | ZF, 0},
    [VMCI_OP_BLSMSK] = {0, CF | OF | SF | ZF, 0},
    [VMCI_OP_BLSR] = {0, CF | OF | SF | ZF, 0},
    [VMCI_OP_BZHI] = {0, CF | OF | SF | ZF, 0},
    [VMCI_OP_CLC] = {0, CF, 0}, [VMCI_OP_STC] = {0, CF, 0}, [VMCI_OP_CMC] = {CF, CF, 0},
    [VMCI_OP_SAHF] = {0, ALL & ~OF, 0}, [VMCI_OP_LAHF] = {ALL & ~OF, 0, 0},
    [VMCI_OP_PUSHF] = {ALL, 0, 0}, [VMCI_OP_POPF] = {0, ALL, 0},
    [VMCI_OP_CMOV] = {ALL, 0, 0}, [VMCI_OP_SETCC] = {ALL, 0, 0}, [VMCI_OP_JCC] = {ALL, 0, 0},
    [VMCI_OP_LOOPE] = {ZF, 0, 0}, [VMCI_OP_LOOPNE] = {ZF, 0, 0}, [VMCI_OP_SALC] = {CF, 0, 0},
    [VMCI_OP_INTO] = {OF, 0, 0}, [VMCI_OP_CMPS] = {0, 0, 0}, [VMCI_OP_SCAS] = {0, 0, 0},
    [VMCI_OP_CMPXCHG8B] = {0, ZF, 0}, [VMCI_OP_CMPXCHG16B] = {0, ZF, 0},
    [VMCI_OP_RDRAND] = {0, ALL, 0}, [VMCI_OP_RDSEED] = {0, ALL, 0},
    [VMCI_OP_FP_X87] = {CF | ZF | PF, 0, 0}, /* FCMOVcc */
};

/* ---- comparison ------------------------------------------------------------------------------ */

struct report {
    char *text;
    size_t left;
    bool same;
};

__attribute__((format(printf, 2, 3))) static void differ(struct report *r, const char *fmt, ...)
{
    va_list ap;
    int n;
    r->same = false;
    if (r->text == NULL || r->left < 2)
        return;
    va_start(ap, fmt);
    n = vsnprintf(r->text, r->left, fmt, ap);
    va_end(ap);
    if (n > 0 && (size_t)n < r->left) {
        r->text += n;
        r->left -= (size_t)n;
    } else {
        r->left = 0;
    }
}

static void compare_gprs(const struct diff_case *c, const struct diff_result *a,
                         const struct diff_result *b, struct report *r)
{
    static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                        "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
    unsigned n = c->bits == 64 ? 16 : 8;
    uint64_t mask = c->bits == 64 ? ~0ull : 0xffffffffull; /* the rest is undefined */
    for (unsigned i = 0; i < n; i++)
        if ((a->out.gpr[i] ^ b->out.gpr[i]) & mask)
            differ(r, "  %s: %" PRIx64 " / %" PRIx64 "\n", names[i], a->out.gpr[i] & mask,
                   b->out.gpr[i] & mask);
}

static void compare_bytes(const char *what, unsigned i, const uint8_t *a, const uint8_t *b,
                          unsigned n, struct report *r)
{
    if (memcmp(a, b, n) == 0)
        return;
    differ(r, "  %s%u: ", what, i);
    for (unsigned k = n; k-- > 0;)
        differ(r, "%02x", a[k]);
    differ(r, " / ");
    for (unsigned k = n; k-- > 0;)
        differ(r, "%02x", b[k]);
    differ(r, "\n");
}

static void compare_fp(const struct diff_case *c, const struct diff_fp *a, const struct diff_fp *b,
                       struct report *r)
{
    unsigned n = c->bits == 64 ? 16 : 8;
    if (a->fcw != b->fcw)
        differ(r, "  fcw: %04x / %04x\n", a->fcw, b->fcw);
    if (a->fsw != b->fsw)
        differ(r, "  fsw: %04x / %04x\n", a->fsw, b->fsw);
    if (a->ftw != b->ftw)
        differ(r, "  ftw: %02x / %02x\n", a->ftw, b->ftw);
    if (a->mxcsr != b->mxcsr)
        differ(r, "  mxcsr: %x / %x\n", a->mxcsr, b->mxcsr);
    for (unsigned i = 0; i < 8; i++)
        compare_bytes("st", i, a->st[i], b->st[i], 10, r);
    for (unsigned i = 0; i < n; i++) {
        compare_bytes("xmm", i, a->xmm[i], b->xmm[i], 16, r);
        compare_bytes("ymmh", i, a->ymmh[i], b->ymmh[i], 16, r);
    }
}

static void compare_memory(const struct diff_result *a, const struct diff_result *b,
                           struct report *r)
{
    unsigned shown = 0;
    if (memcmp(a->mem, b->mem, DIFF_MEM_BYTES) == 0)
        return;
    for (unsigned i = 0; i < DIFF_MEM_BYTES; i++) {
        if (a->mem[i] == b->mem[i])
            continue;
        if (shown++ == 16)
            break;
        unsigned at = i < 3 * DIFF_PAGE ? DIFF_DATA + i : DIFF_STACK + i - 3 * DIFF_PAGE;
        differ(r, "  [%x]: %02x / %02x\n", at, a->mem[i], b->mem[i]);
    }
}

/* More than one access, in an order that the manual leaves open. */
static bool many_accesses(const struct vmci_insn *in)
{
    bool maskmov = in->op >= VMCI_OP_FP_FIRST && in->map == VMCI_MAP_0F &&
                   in->raw[in->opcode_off] == 0xf7;
    return in->op == VMCI_OP_CMPS || in->op == VMCI_OP_CALL || in->op == VMCI_OP_BOUND ||
           in->op >= VMCI_OP_FXSAVE || (in->op == VMCI_OP_FP_X87 && in->mem_bytes > 8) || maskmov;
}

static bool dot_product(const struct vmci_insn *in)
{
    uint8_t opcode = in->raw[in->opcode_off];
    return in->map == VMCI_MAP_0F3A && (opcode == 0x40 || opcode == 0x41);
}

/*
 * Details of faults that the manual leaves open: which of several accesses faults first; registers
 * that POPA loaded, and frame pointers that ENTER copied, before it faulted; the flags of a DPPS or DPPD that raises #XM, of which it does
 * not say whether they are those of all its multiplications and additions or of the first stage
 * (SDM 2A).
 */
static void forgive(struct diff_gen *g, const struct diff_case *c, const struct diff_result *a,
                    struct diff_result *b)
{
    struct vmci_insn in;
    if (a->vector >= 32 || b->vector >= 32 || a->out.rip != b->out.rip ||
        !diff_insn_at(g, c, a->out.rip, &in))
        return;
    if (many_accesses(&in)) {
        b->vector = a->vector;
        b->code = a->code;
        b->cr2 = a->cr2;
    }
    if (in.op == VMCI_OP_ENTER)
        memcpy(b->mem, a->mem, sizeof(b->mem));
    if (in.op == VMCI_OP_POPA)
        memcpy(b->out.gpr, a->out.gpr, sizeof(b->out.gpr));
    if (a->vector == VMC_VEC_XM && b->vector == VMC_VEC_XM && dot_product(&in))
        b->out.fp.mxcsr = a->out.fp.mxcsr;
}

/* Natively an operand may meet the page of the exit code, or the frame behind it. */
static bool in_exit_pages(const struct diff_result *r)
{
    return r->vector == 14 && r->cr2 >= DIFF_EXIT && r->cr2 < DIFF_EXIT + 2 * DIFF_PAGE;
}

bool diff_same(struct diff_gen *g, const struct diff_case *c, const struct diff_result *a,
               const struct diff_result *other, char *text, size_t bytes)
{
    static struct diff_result copy;
    const struct diff_result *b = other;
    struct report r = {text, bytes, true};
    uint64_t flags = (VMC_FLAG_ARITH | VMC_FLAG_DF | VMC_FLAG_AC | VMC_FLAG_NT | VMC_FLAG_ID) &
                     ~diff_undefined_flags(g, c, a->out.rip);
    uint32_t codes = ~0u;
    /* An endless loop: what is in the registers depends on when it was stopped. */
    if (a->vector == DIFF_STOPPED && (b->vector == DIFF_STOPPED || b->vector == DIFF_HANG))
        return true;
    if (in_exit_pages(a) || in_exit_pages(b))
        return true;
    if (a->vector < 32) {
        copy = *other;
        forgive(g, c, a, &copy);
        b = &copy;
    }
    if (a->vector != b->vector)
        differ(&r, "  vector: %u / %u\n", a->vector, b->vector);
    /* Linux does not tell whether a page of the kernel's half is present. */
    if (a->vector == 14 && a->cr2 >= 0x7ffffffff000)
        codes = ~1u;
    if ((a->code ^ b->code) & codes)
        differ(&r, "  error code: %x / %x\n", a->code, b->code);
    if (a->cr2 != b->cr2)
        differ(&r, "  cr2: %" PRIx64 " / %" PRIx64 "\n", a->cr2, b->cr2);
    if (a->out.rip != b->out.rip)
        differ(&r, "  rip: %" PRIx64 " / %" PRIx64 "\n", a->out.rip, b->out.rip);
    if ((a->out.rflags ^ b->out.rflags) & flags)
        differ(&r, "  rflags: %" PRIx64 " / %" PRIx64 "\n", a->out.rflags, b->out.rflags);
    compare_gprs(c, a, b, &r);
    compare_fp(c, &a->out.fp, &b->out.fp, &r);
    compare_memory(a, b, &r);
    return r.same;
}
