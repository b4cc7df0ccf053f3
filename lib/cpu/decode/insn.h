/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The neutral form of one decoded instruction. Everything behind the decoder (interpreter, FP
 * thunks, translator, single-instruction emulation, tests) works on this; only dec_capstone.c knows
 * where it comes from.
 */
#ifndef DECODE_INSN_H
#define DECODE_INSN_H

#include <vmcore/types.h>

struct vmci_cpu;
struct vmci_insn;

/* Executes one instruction: 0, VMCI_FAULT or VMCI_EXIT (cpu_int.h). */
typedef int (*vmci_exec_fn)(struct vmci_cpu *cpu, const struct vmci_insn *in);

/* clang-format off */

/*
 * What an instruction is. Operand size, operands and condition are in the insn, so there is one
 * MOV, one Jcc, one MOVS. The FP ops at the end are executed by fpu/.
 */
#define VMCI_OPS(X) \
    /* data movement */ \
    X(MOV) X(MOVSX) X(MOVZX) X(MOVBE) X(XCHG) X(LEA) X(CMOV) X(SETCC) X(BSWAP) X(XLAT) \
    X(PUSH) X(POP) X(PUSHA) X(POPA) X(PUSHF) X(POPF) X(ENTER) X(LEAVE) X(LAHF) X(SAHF) X(SALC) \
    X(MOV_SREG) X(PUSH_SREG) X(POP_SREG) X(LOAD_FAR) /* LDS LES LFS LGS LSS */ \
    /* arithmetic and logic */ \
    X(ADD) X(OR) X(ADC) X(SBB) X(AND) X(SUB) X(XOR) X(CMP) X(TEST) X(INC) X(DEC) X(NEG) X(NOT) \
    X(MUL) X(IMUL1) X(IMUL2) X(IMUL3) X(DIV) X(IDIV) X(CBW) X(CWD) /* with CWDE, CDQE, CDQ, CQO */ \
    X(ROL) X(ROR) X(RCL) X(RCR) X(SHL) X(SHR) X(SAR) X(SHLD) X(SHRD) \
    X(BT) X(BTS) X(BTR) X(BTC) X(BSF) X(BSR) X(LZCNT) X(TZCNT) X(POPCNT) X(CRC32) \
    X(XADD) X(CMPXCHG) X(CMPXCHG8B) X(CMPXCHG16B) \
    X(AAA) X(AAS) X(AAM) X(AAD) X(DAA) X(DAS) \
    X(ADCX) X(ADOX) X(ANDN) X(BEXTR) X(BLSI) X(BLSMSK) X(BLSR) X(BZHI) X(MULX) X(PDEP) X(PEXT) \
    X(RORX) X(SARX) X(SHLX) X(SHRX) \
    X(CLC) X(STC) X(CMC) X(CLD) X(STD) X(NOP) X(PAUSE) \
    /* control flow */ \
    X(JMP) X(JCC) X(CALL) X(RET) X(JCXZ) X(LOOP) X(LOOPE) X(LOOPNE) \
    X(JMP_FAR) X(CALL_FAR) X(RET_FAR) X(IRET) X(INT) X(INT1) X(INT3) X(INTO) X(BOUND) \
    X(SYSCALL) X(SYSRET) X(SYSENTER) X(SYSEXIT) \
    /* strings */ \
    X(MOVS) X(CMPS) X(STOS) X(LODS) X(SCAS) X(INS) X(OUTS) \
    /* system */ \
    X(CLI) X(STI) X(HLT) X(IN) X(OUT) X(CPUID) X(RDTSC) X(RDTSCP) X(RDPMC) X(RDPID) X(RDMSR) \
    X(WRMSR) X(MOV_CR) X(MOV_DR) X(LMSW) X(SMSW) X(CLTS) X(LGDT) X(LIDT) X(SGDT) X(SIDT) \
    X(LLDT) X(SLDT) X(LTR) X(STR) X(LAR) X(LSL) X(VERR) X(VERW) X(ARPL) X(INVLPG) X(INVPCID) \
    X(INVD) X(WBINVD) X(CLFLUSH) X(CLFLUSHOPT) X(CLWB) X(CLZERO) X(PREFETCH) X(FENCE) X(MOVNTI) \
    X(MONITOR) X(MWAIT) X(SWAPGS) X(RDFSBASE) X(RDGSBASE) X(WRFSBASE) X(WRGSBASE) X(CLAC) X(STAC) \
    X(RDRAND) X(RDSEED) X(XGETBV) X(XSETBV) X(VMCALL) X(VMMCALL) X(RSM) X(SERIALIZE) X(RDPKRU) \
    X(WRPKRU) \
    /* not valid: #UD; UD0 and UD1 are distinct because they have a ModR/M byte */ \
    X(UD) \
    /* x87, MMX, SSE, AVX: executed by fpu/ */ \
    X(FP_X87) X(FWAIT) X(FP_MMX) X(FP_SSE) X(FP_AVX) \
    X(LDMXCSR) X(STMXCSR) X(FXSAVE) X(FXRSTOR) X(XSAVE) X(XSAVEOPT) X(XSAVEC) X(XSAVES) X(XRSTOR) \
    X(XRSTORS)

enum vmci_op {
    VMCI_OP_INVALID,
#define VMCI_OP_ENUM(n) VMCI_OP_##n,
    VMCI_OPS(VMCI_OP_ENUM)
#undef VMCI_OP_ENUM
    VMCI_OP_COUNT,
    VMCI_OP_FP_FIRST = VMCI_OP_FP_X87,
};

/* CPU features that gate an instruction; bit numbers of vmci_cpu.features. */
#define VMCI_FEATS(X) \
    X(NONE) X(FPU) X(TSC) X(MSR) X(CX8) X(SEP) X(CMOV) X(CLFLUSH) X(MMX) X(FXSR) X(SSE) X(SSE2) \
    X(SSE3) X(PCLMUL) X(MONITOR) X(SSSE3) X(FMA) X(CX16) X(SSE41) X(SSE42) X(MOVBE) X(POPCNT) \
    X(AES) X(XSAVE) X(AVX) X(F16C) X(RDRAND) X(FSGSBASE) X(BMI1) X(AVX2) X(BMI2) X(ERMS) \
    X(INVPCID) X(RDSEED) X(ADX) X(SMAP) X(CLFLUSHOPT) X(CLWB) X(SHA) X(UMIP) X(RDPID) X(VAES) \
    X(VPCLMUL) X(GFNI) X(XSAVEOPT) X(XSAVEC) X(XSAVES) X(SYSCALL) X(MMXEXT) X(RDTSCP) X(LM) \
    X(LAHF_LM) X(LZCNT) X(SSE4A) X(PREFETCHW) X(CLZERO) X(SERIALIZE) X(PKU) X(NEVER) \
    /* that have no bit in CPUID: hint NOPs, RDPMC */ \
    X(HINTS) X(RDPMC)

enum vmci_feat {
#define VMCI_FEAT_ENUM(n) VMCI_FEAT_##n,
    VMCI_FEATS(VMCI_FEAT_ENUM)
#undef VMCI_FEAT_ENUM
    VMCI_FEAT_COUNT,
};
_Static_assert(VMCI_FEAT_COUNT <= 64, "sets of features are 64 bits");
/* clang-format on */

enum vmci_opnd_kind {
    VMCI_OPND_NONE,
    VMCI_OPND_GPR,    /* reg: 0..15 */
    VMCI_OPND_GPR_HI, /* reg: 0..3, bits 15:8 of it (AH CH DH BH) */
    VMCI_OPND_MEM,    /* the insn's one explicit memory operand */
    VMCI_OPND_IMM,    /* insn.imm, sign-extended as the instruction does */
    VMCI_OPND_REL,    /* insn.imm is relative to the next instruction */
    VMCI_OPND_FAR,    /* insn.imm: offset, selector in bits 47:32 */
    VMCI_OPND_SREG,
    VMCI_OPND_CR,
    VMCI_OPND_DR,
    VMCI_OPND_ST,
    VMCI_OPND_MMX,
    VMCI_OPND_XMM, /* size 16: XMM, 32: YMM */
};

struct vmci_opnd {
    uint8_t kind; /* enum vmci_opnd_kind */
    uint8_t size; /* bytes; 0: does not apply (LEA, INVLPG) */
    uint8_t reg;
};

/* Values of insn.base and insn.index besides 0..15: slots of vmci_cpu.gpr. */
#define VMCI_REG_ZERO 16 /* always 0: no base, no index */
#define VMCI_REG_IP   17 /* vmci_cpu.gpr[17] is the address of the first byte of the running block */

/* insn.flags */
#define VMCI_IF_LOCK   0x0001u
#define VMCI_IF_REP    0x0002u /* F3 as REP/REPE of a string instruction */
#define VMCI_IF_REPNE  0x0004u
#define VMCI_IF_MEM    0x0008u /* has an explicit memory operand */
#define VMCI_IF_REX    0x0010u
#define VMCI_IF_VEX    0x0020u
#define VMCI_IF_66     0x0040u /* the prefix bytes that are present, whatever they mean */
#define VMCI_IF_F2     0x0080u
#define VMCI_IF_F3     0x0100u
#define VMCI_IF_67     0x0200u
#define VMCI_IF_SEG    0x0400u /* segment override prefix in force */
#define VMCI_IF_BRANCH 0x0800u /* may change rip: last of its block */
#define VMCI_IF_END    0x1000u /* ends its block for another reason (mode, interrupt window ...) */
#define VMCI_IF_VSIB   0x2000u /* insn.index is a vector register (gathers) */
#define VMCI_IF_LINEAR 0x4000u /* 64-bit code and no FS/GS: linear address = effective address */

/* insn.mem_acc: how an FP instruction uses its memory operand. */
#define VMCI_MEM_READ  1u
#define VMCI_MEM_WRITE 2u

/* Opcode maps. */
enum vmci_map { VMCI_MAP_1B, VMCI_MAP_0F, VMCI_MAP_0F38, VMCI_MAP_0F3A };

#define VMCI_INSN_MAX 15

/*
 * Hot part first: 64 bytes. The effective address of the memory operand is
 * gpr[base] + (gpr[index] << scale) + disp, cut to addrsize. A RIP-relative operand has base
 * VMCI_REG_IP and disp corrected to the block's first byte.
 */
struct vmci_insn {
    vmci_exec_fn exec;
    int64_t imm;
    int64_t disp;
    uint16_t op;    /* enum vmci_op */
    uint16_t flags; /* VMCI_IF_* */
    uint16_t next;  /* offset of the next instruction from the block's first byte */
    uint8_t len;
    uint8_t opsize; /* 1, 2, 4, 8: of the operation */
    uint8_t base, index, scale; /* scale: shift 0..3 */
    uint8_t seg;      /* segment of the memory operand or of a string source, defaults applied */
    uint8_t addrsize; /* 2, 4, 8 */
    uint8_t cond;     /* 0..15 of Jcc, SETcc, CMOVcc */
    struct vmci_opnd opnd[4]; /* in Intel order: destination first */
    uint8_t nopnd;
    uint8_t feature; /* enum vmci_feat: what the CPU model must have */
    void *aux;       /* fpu/'s thunk; what exec_vex of bind.c ends in; NULL */

    /* Encoding, for FP thunks, the translator and disassembly. Offsets into raw; 0: absent. */
    uint8_t raw[VMCI_INSN_MAX];
    uint8_t map;        /* enum vmci_map */
    uint8_t opcode_off; /* of the last opcode byte (after 0F, 0F38, 0F3A or the VEX prefix) */
    uint8_t rex;        /* REX byte, or one made of VEX.RXB and W (0x40 | WRXB) */
    uint8_t modrm_off, sib_off, disp_off, imm_off;
    uint8_t disp_bytes;      /* imm_off..len are immediates (ENTER, far pointers: both) */
    uint8_t vex_v;           /* vvvv, not inverted; C4 or C5 is at opcode_off - 3 or - 2 */
    uint8_t vex_lpp;         /* L in bit 2, pp in bits 1:0 (0, 66, F3, F2) */
    uint8_t mem_acc;         /* FP ops: VMCI_MEM_* */
    uint16_t mem_bytes;      /* FP ops: size of the memory operand */
    uint16_t gpr_rd, gpr_wr; /* FP ops: GPRs used as data (not for addressing) */
};

_Static_assert(sizeof(struct vmci_insn) == 96, "compact");

/* Mode of the code that is decoded. */
struct vmci_dec_mode {
    uint8_t bits;      /* 16, 32, 64 */
    uint64_t features; /* bit mask of enum vmci_feat: others decode to UD */
};

struct vmci_decoder;

/*
 * Decode one instruction from at most n bytes (n <= 15 is enough). Returns
 *   its length        (invalid encodings too: op UD, with the length consumed)
 *   VMCI_DEC_MORE     n bytes are not enough: the caller fetches more
 *   VMCI_DEC_TOO_LONG 15 bytes are not enough: #GP
 * in->exec is not set; the caller binds handlers (vmci_bind).
 */
#define VMCI_DEC_MORE     0
#define VMCI_DEC_TOO_LONG (-1)
int vmci_decode(struct vmci_decoder *dec, const struct vmci_dec_mode *mode, const uint8_t *bytes,
                unsigned n, struct vmci_insn *in);

struct vmc_platform;
struct vmc_error;
/* One per thread of use. */
int vmci_decoder_create(const struct vmc_platform *pf, struct vmci_decoder **out,
                        struct vmc_error *err);
void vmci_decoder_destroy(struct vmci_decoder *dec);

/* One line of disassembly (Intel syntax) of in at address rip; returns its length. */
unsigned vmci_disasm(struct vmci_decoder *dec, unsigned bits, const uint8_t *bytes, unsigned n,
                     uint64_t rip, char *text, size_t size);

/* Static name of an op ("mov"); for tests, statistics and dumps. */
const char *vmci_op_name(unsigned op);
const char *vmci_feat_name(unsigned feat);

/* Choose the interpreter's handler from op, sizes and operand kinds. */
void vmci_bind(struct vmci_insn *in, unsigned bits);

/* ---- provided by fpu/ ------------------------------------------------------------------------ */

/*
 * FP instructions (op >= VMCI_OP_FP_FIRST). prepare is called once when such an instruction enters
 * the block cache; it may choose another exec and set aux (a thunk shared by all insns of the same
 * encoding: aux is not freed with the block). exec_ does all checks (#UD by CR0/CR4/XCR0, #NM, #MF,
 * alignment, memory faults) and runs the instruction.
 */
void vmci_fp_prepare(struct vmci_cpu *cpu, struct vmci_insn *in);
int vmci_fp_exec(struct vmci_cpu *cpu, const struct vmci_insn *in);

/*
 * Bring the guest's FP state from the host's registers into memory, if it is there. The core calls
 * it before anything that may use the host's vector registers: decoding, callbacks of
 * vmc_engine_io, the platform, returning from run.
 */
void vmci_fp_park(struct vmci_cpu *cpu);

#endif
