/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * x87, MMX, SSE and AVX of the software CPU.
 *
 * Nothing of it is re-implemented: an instruction runs on the host's own unit, inside a thunk that
 * holds that instruction with its memory operand at [rdi] and its general registers renamed to
 * fixed ones. The guest's registers stay in the host's between instructions ("live"); vmci_fp_park
 * brings them to memory before code that may use vector registers runs. Code on this path is
 * therefore compiled without vector instructions; builds that cannot be (sanitizers) load and save
 * around each instruction instead, inside generated code.
 *
 * Exceptions. x87 runs with the guest's own control word: the unit reports an unmasked exception
 * only at the next waiting instruction, which is not executed when ES is set. SIMD runs with every
 * exception masked; when the guest has unmasked some, the instruction is undone if its flags say
 * that it should have faulted.
 */
#ifndef FP_INT_H
#define FP_INT_H

#include "cpu/cpu_int.h"

/* With vector instructions in compiled code the guest's state cannot stay in the registers. */
#ifdef __SSE__
#define VMCI_FP_EAGER 1
#else
#define VMCI_FP_EAGER 0
#endif

/* Components of XCR0 that live in the host's unit, and all that a guest may have. */
#define VMCI_FP_XCR0    (VMC_XCR0_X87 | VMC_XCR0_SSE | VMC_XCR0_AVX)
#define VMCI_GUEST_XCR0 (VMCI_FP_XCR0 | VMC_XCR0_PKRU)

#define VMCI_MXCSR_INIT  0x1f80u
#define VMCI_MXCSR_FLAGS 0x003fu
#define VMCI_MXCSR_MASKS 0x1f80u
#define VMCI_MXCSR_UM    0x0800u
#define VMCI_MXCSR_FZ    0x8000u
#define VMCI_MXCSR_DAZ   0x0040u
#define VMCI_MXCSR_MM    0x20000u /* AMD: misaligned SSE operands allowed */
#define VMCI_MX_PRE      0x0007u  /* IE DE ZE: found before the operation */
#define VMCI_MX_OE       0x0008u
#define VMCI_MX_UE       0x0010u
#define VMCI_MX_PE       0x0020u
#define VMCI_FCW_INIT    0x037fu
#define VMCI_FCW_MASKS   0x003fu
#define VMCI_FSW_ES      0x0080u
#define VMCI_FSW_B       0x8000u

/* XSAVE area, standard format, x87 | SSE | AVX (SDM 1 13.4). FXSAVE's is its first 512 bytes. */
struct vmci_xsave {
    uint16_t fcw, fsw;
    uint8_t ftw, rsvd0;
    uint16_t fop;
    uint64_t fip, fdp; /* 64-bit format; the 32-bit one has a selector in bits 47:32 */
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16];
    uint8_t xmm[16][16];
    uint8_t rsvd1[48], avail[48];
    uint64_t xstate_bv, xcomp_bv, rsvd2[6];
    uint8_t ymmh[16][16];
    uint64_t pkru; /* kept in struct vmci_cpu; here only in images */
};
_Static_assert(sizeof(struct vmci_xsave) == 840, "layout");
#define VMCI_XSAVE_LEGACY 512u
#define VMCI_XSAVE_AVX    576u
#define VMCI_XSAVE_PKRU   832u /* of the CPU models made here: CPUID.(DH,9).EBX */

/* ---- the table of encodings that may reach the host's unit (fp_optab.c) ---------------------- */

/* Size of a memory operand. V is the vector length, W: 4 or 8 by REX.W/VEX.W. */
enum vmci_fp_mem {
    VMCI_FM_NONE, VMCI_FM_1, VMCI_FM_2, VMCI_FM_4, VMCI_FM_8, VMCI_FM_16,
    VMCI_FM_V, VMCI_FM_V2, VMCI_FM_V4, VMCI_FM_V8, VMCI_FM_W, VMCI_FM_GW, VMCI_FM_DUP,
};

#define VMCI_FO_V3     0x000001u /* VEX.vvvv names a source (else it must be 1111b) */
#define VMCI_FO_V3REG  0x000002u /* ... only in the register form */
#define VMCI_FO_LIG    0x000004u /* VEX.L ignored */
#define VMCI_FO_W0     0x000008u /* VEX.W must be 0 */
#define VMCI_FO_W1     0x000010u
#define VMCI_FO_REG    0x000020u /* register form only */
#define VMCI_FO_MEM    0x000040u /* memory form only */
#define VMCI_FO_ALIGN  0x000080u /* legacy encoding: operand must be aligned */
#define VMCI_FO_ALIGNX 0x000100u /* VEX too: an explicitly aligned move */
#define VMCI_FO_STORE  0x000200u /* r/m is the destination */
#define VMCI_FO_GREG   0x000400u /* ModRM.reg is a general register, written */
#define VMCI_FO_GRMR   0x000800u /* ModRM.rm, if a register, is a general one, read */
#define VMCI_FO_GRMW   0x001000u /* the same, written */
#define VMCI_FO_GW     0x002000u /* the general register has 64 bits with W in 64-bit mode */
#define VMCI_FO_FLAGS  0x004000u /* writes the arithmetic flags */
#define VMCI_FO_IMM8   0x008000u
#define VMCI_FO_IMM16  0x010000u /* two byte immediates (EXTRQ, INSERTQ) */
#define VMCI_FO_MMX    0x020000u /* touches MMX registers */
#define VMCI_FO_XMM    0x040000u /* ... and XMM registers */
#define VMCI_FO_EXT    0x080000u /* ModRM.reg extends the opcode; ext_mask says which are valid */
#define VMCI_FO_IS4    0x100000u /* imm8[7:4] names a register */
#define VMCI_FO_EXC    0x200000u /* may raise SIMD floating-point exceptions */
#define VMCI_FO_X87    0x400000u /* an x87 instruction */
#define VMCI_FO_LOOSE  0x800000u /* AMD's processors do not insist on the alignment */

/* What executes it, besides the plain path. */
enum vmci_fp_special {
    VMCI_FS_PLAIN, VMCI_FS_MASKMOV, VMCI_FS_VMASKLD, VMCI_FS_VMASKST, VMCI_FS_GATHER,
    VMCI_FS_PCMPSTR, VMCI_FS_EMMS,
    VMCI_FS_VZERO8, /* VZEROUPPER, VZEROALL outside 64-bit mode: of YMM0-7 only */
    /* x87 */
    VMCI_FS_FLDCW, VMCI_FS_FNSTCW, VMCI_FS_FNSTSW, VMCI_FS_FLDENV, VMCI_FS_FNSTENV,
    VMCI_FS_FRSTOR, VMCI_FS_FNSAVE, VMCI_FS_FNINIT, VMCI_FS_FNCLEX, VMCI_FS_FNOP0, VMCI_FS_FNOP,
};

struct vmci_fp_op {
    uint8_t opcode, pp; /* pp: 0, 1 (66), 2 (F3), 3 (F2) */
    uint8_t leg, v128, v256; /* enum vmci_feat of each encoding; NONE: not valid */
    uint8_t mem;             /* enum vmci_fp_mem */
    uint8_t special;         /* enum vmci_fp_special */
    uint8_t ext_mask;        /* VMCI_FO_EXT: bit n: /n is valid */
    uint32_t flags;          /* VMCI_FO_* */
};

const struct vmci_fp_op *vmci_fp_lookup(unsigned map, unsigned pp, unsigned opcode);

/* What there is to know about an FP instruction of any encoding. */
struct vmci_fp_form {
    uint32_t flags;
    uint8_t special;
    uint8_t feature;   /* enum vmci_feat */
    uint8_t vl;        /* vector length: 16 or 32 */
    uint8_t align;     /* alignment that a memory operand must have: 0, 16, 32 */
    uint8_t mem_acc;   /* VMCI_MEM_* */
    uint16_t mem_bytes;
};

/* Is in a valid FP instruction, and what does it do? False: #UD. */
bool vmci_fp_classify(const struct vmci_insn *in, unsigned bits, struct vmci_fp_form *form);
/* What FOP holds after an x87 instruction. */
static inline uint16_t vmci_fp_fop(const struct vmci_insn *in)
{
    return (uint16_t)((in->raw[in->opcode_off] & 7u) << 8 | in->raw[in->modrm_off]);
}
bool vmci_fp_x87_form(uint8_t opcode, uint8_t modrm, bool op16, struct vmci_fp_form *form);

/* ---- thunks (fp_thunk.c) --------------------------------------------------------------------- */

/*
 * mem: the memory operand; src: value of the general register that is read, or RFLAGS for FCMOVcc
 * (or a struct vmci_fp_str *). Returns the general register that is written, or RFLAGS.
 */
typedef uint64_t (*vmci_thunk_fn)(void *mem, uint64_t src);
/* Load area, run fn, save area, all in one piece (VMCI_FP_EAGER). */
typedef uint64_t (*vmci_enter_fn)(void *mem, uint64_t src, vmci_thunk_fn fn,
                                  struct vmci_xsave *area, uint64_t rfbm);

struct vmci_fp_str {
    uint64_t rax, rcx, rdx, flags;
};

struct vmci_thunk {
    vmci_thunk_fn fn;
    uint32_t hash_next; /* index + 1 */
    uint8_t key[15], key_bytes;
    struct vmci_fp_form form;
    uint8_t kind;    /* enum vmci_fp_kind */
    uint8_t dst;     /* general register that gets the result */
    uint8_t src;     /* general register that is passed */
    uint16_t fop;    /* x87 opcode */
};

/* Which checks an instruction needs before anything else. */
enum vmci_fp_kind { VMCI_FK_X87, VMCI_FK_X87_CTL, VMCI_FK_MMX, VMCI_FK_MMX_XMM, VMCI_FK_SSE,
                    VMCI_FK_AVX };

#define VMCI_THUNK_MAX   4096u
#define VMCI_THUNK_HASH  2048u
#define VMCI_THUNK_BYTES 48u /* the longest thunk */
/* Fixed pieces in front of the thunks. */
#define VMCI_THUNK_FIXED 1024u
#define VMCI_THUNK_CODE  (VMCI_THUNK_FIXED + VMCI_THUNK_MAX * VMCI_THUNK_BYTES)

struct vmci_fp {
    struct vmci_xsave area; /* the guest's state when not live */
    struct vmci_xsave undo; /* state before an instruction that may have to be undone */
    VMC_ALIGNED(64) uint8_t bounce[64];
    bool live;      /* the state is in the host's registers; area is stale */
    bool mx_check;  /* the guest has unmasked SIMD exceptions: MXCSR runs with all masked */
    bool x87_check; /* the guest has unmasked x87 exceptions: look at ES before waiting */
    bool ferr;      /* FERR# is asserted (CR0.NE clear) */
    bool ignored;   /* IGNNE#: this instruction runs with its exceptions masked */
    bool has_xsave, has_avx, host_amd;
    uint32_t mx_masks;  /* the guest's mask bits of MXCSR while mx_check */
    uint32_t mx_valid;  /* bits of MXCSR that the host has */
    uint32_t host_mxcsr;
    uint16_t host_fcw;
    uint16_t ignored_fcw; /* the guest's, while ignored */
    uint64_t rfbm; /* components to load and save */
    uint64_t host_features; /* mask of enum vmci_feat that thunks may use */
    /* x87 pointers are kept here: the unit's own would show the thunk's addresses. */
    uint64_t fip, fdp;
    uint16_t fcs, fds, fop;

    /* code */
    uint8_t *rw;
    const uint8_t *rx;
    vmci_enter_fn enter;
    vmci_thunk_fn store_ymm[16], load_ymm[16]; /* xmm where the host has no AVX */
    vmci_thunk_fn fnstsw;
    uint32_t thunks; /* used */
    uint32_t generation;
    uint32_t hash[VMCI_THUNK_HASH]; /* index + 1 */
    struct vmci_thunk thunk[VMCI_THUNK_MAX];
};

/* Find or make the thunk of in. NULL: its encoding is not valid (#UD). */
struct vmci_thunk *vmci_thunk_get(struct vmci_cpu *cpu, const struct vmci_insn *in);
void vmci_thunk_init(struct vmci_fp *fp);
/* What VMCI_FS_VZERO8 is in 64-bit code. */
#define VMCI_VZERO8_BYTES 32u
void vmci_fp_vzero8(const struct vmci_insn *in, uint8_t out[VMCI_VZERO8_BYTES]);

/* Run fn on the guest's state. */
void vmci_fp_load(struct vmci_fp *fp);
static inline uint64_t vmci_fp_run(struct vmci_fp *fp, vmci_thunk_fn fn, void *mem, uint64_t src)
{
    if (VMCI_FP_EAGER)
        return fp->enter(mem, src, fn, &fp->area, fp->rfbm);
    if (unlikely(!fp->live))
        vmci_fp_load(fp);
    return fn(mem, src);
}

/* ---- the rest -------------------------------------------------------------------------------- */

/* Linear address of the memory operand, segment and alignment checked. */
int vmci_fp_operand(struct vmci_cpu *cpu, const struct vmci_insn *in, unsigned bytes,
                    unsigned align, bool write, uint64_t *la);

int vmci_fp_check_ac(struct vmci_cpu *cpu, uint64_t la, unsigned bytes);

/* x87 operands round the end of the addresses (fp_wrap.c). */
bool vmci_fp_wraps(const struct vmci_insn *in, uint64_t ea, unsigned bytes);
/* Segments, alignment and, to write, pages. */
int vmci_fp_wrapped_probe(struct vmci_cpu *cpu, const struct vmci_insn *in, unsigned bytes,
                          bool write);
int vmci_fp_wrapped_read(struct vmci_cpu *cpu, const struct vmci_insn *in, uint8_t *p,
                         unsigned bytes);
int vmci_fp_wrapped_write(struct vmci_cpu *cpu, const struct vmci_insn *in, const uint8_t *p,
                          unsigned bytes);

/* #UD, #NM and the pending #MF of an instruction of this kind. */
int vmci_fp_check(struct vmci_cpu *cpu, unsigned kind);
/* A pending x87 error: #MF, or FERR# (fp_ferr.c). */
int vmci_fp_check_mf(struct vmci_cpu *cpu);
/* After an instruction that ran with fp->ignored. t: what it loaded, or NULL. */
void vmci_fp_unignore(struct vmci_cpu *cpu, const struct vmci_thunk *t);
/* The CPU model deprecates FCS and FDS: they are saved as 0. */
bool vmci_fp_no_selectors(struct vmci_cpu *cpu);
bool vmci_fp_vendor_amd(struct vmci_cpu *cpu);
/* Bits of MXCSR that the guest may set. */
uint32_t vmci_fp_mx_valid(struct vmci_cpu *cpu);
uint32_t vmci_fp_mx_mask(struct vmci_cpu *cpu);

/* After area was written by software: mx_check, x87_check, ES. Not live. */
void vmci_fp_refresh(struct vmci_fp *fp);
/* area.st after the top of the stack grew by n: ST(i) is what ST(i + n) was. */
void vmci_fp_rotate(struct vmci_fp *fp, unsigned n);

int vmci_fp_x87_ctl(struct vmci_cpu *cpu, const struct vmci_insn *in, struct vmci_thunk *t);
int vmci_fp_special(struct vmci_cpu *cpu, const struct vmci_insn *in, struct vmci_thunk *t);
int vmci_fp_xsave_op(struct vmci_cpu *cpu, const struct vmci_insn *in);
/* Run a SIMD instruction whose exceptions may be unmasked. */
int vmci_fp_run_checked(struct vmci_cpu *cpu, struct vmci_thunk *t, void *mem, uint64_t src,
                        uint64_t *out);
/* The operation on the state in fp->undo: 1 if inexact with unlimited exponents, 0 if not, -1:
   not known (dot products). */
int vmci_fp_inexact(const struct vmci_fp *fp, const struct vmci_thunk *t, const void *mem);
/* VCVTPS2PH with a result that is denormal and exact. */
bool vmci_fp_half_tiny(const struct vmci_fp *fp, const struct vmci_thunk *t);
void vmci_fp_copy(void *dst, const void *src, size_t bytes);
void vmci_fp_zero(void *dst, size_t bytes);

#endif
