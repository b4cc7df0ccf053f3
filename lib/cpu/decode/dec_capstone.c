/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The only file that knows libcapstone (written against 4.0.2). It identifies the instruction and
 * its operands; prefixes, addressing and immediates are read from the bytes by dec_scan.c.
 */
#include "cpu/decode/dec_int.h"

#include <capstone/capstone.h>
#include <vmcore/x86_state.h>

struct dec_backend {
    const struct vmc_platform *pf;
    csh handle[3]; /* 16, 32, 64 bits */
    cs_insn *insn;
};

/* ---- identification -------------------------------------------------------------------------- */

struct id_row {
    uint8_t op, feat;
};
_Static_assert(VMCI_OP_COUNT <= 256, "operations in a byte");

/* clang-format off */
#define R(id, o, f) [X86_INS_##id] = {VMCI_OP_##o, VMCI_FEAT_##f},
#define P(id) R(id, id, NONE)
static const struct id_row id_rows[X86_INS_ENDING] = {
    P(AAA) P(AAD) P(AAM) P(AAS) P(ADC) R(ADCX, ADCX, ADX) P(ADD) R(ADOX, ADOX, ADX) P(AND)
    R(ANDN, ANDN, BMI1) P(ARPL) R(BEXTR, BEXTR, BMI1) R(BLSI, BLSI, BMI1) R(BLSMSK, BLSMSK, BMI1)
    R(BLSR, BLSR, BMI1) P(BOUND) P(BSF) P(BSR) P(BSWAP) P(BT) P(BTC) P(BTR) P(BTS)
    R(BZHI, BZHI, BMI2) P(CALL) P(CBW) R(CDQ, CWD, NONE) R(CDQE, CBW, NONE) R(CLAC, CLAC, SMAP)
    P(CLC) P(CLD) R(CLFLUSH, CLFLUSH, CLFLUSH) R(CLFLUSHOPT, CLFLUSHOPT, CLFLUSHOPT) P(CLI)
    P(CLTS) R(CLWB, CLWB, CLWB) P(CMC) R(CMOVA, CMOV, CMOV) R(CMOVAE, CMOV, CMOV)
    R(CMOVB, CMOV, CMOV) R(CMOVBE, CMOV, CMOV) R(CMOVE, CMOV, CMOV) R(CMOVG, CMOV, CMOV)
    R(CMOVGE, CMOV, CMOV) R(CMOVL, CMOV, CMOV) R(CMOVLE, CMOV, CMOV) R(CMOVNE, CMOV, CMOV)
    R(CMOVNO, CMOV, CMOV) R(CMOVNP, CMOV, CMOV) R(CMOVNS, CMOV, CMOV) R(CMOVO, CMOV, CMOV)
    R(CMOVP, CMOV, CMOV) R(CMOVS, CMOV, CMOV) P(CMP) R(CMPSB, CMPS, NONE) R(CMPSQ, CMPS, NONE)
    R(CMPSW, CMPS, NONE) P(CMPXCHG) R(CMPXCHG16B, CMPXCHG16B, CX16) R(CMPXCHG8B, CMPXCHG8B, CX8)
    P(CPUID) R(CQO, CWD, NONE) R(CRC32, CRC32, SSE42) P(CWD) R(CWDE, CBW, NONE) P(DAA) P(DAS)
    P(DEC) P(DIV) R(ENDBR32, NOP, NONE) R(ENDBR64, NOP, NONE) P(ENTER) R(FXRSTOR, FXRSTOR, FXSR)
    R(FXRSTOR64, FXRSTOR, FXSR) R(FXSAVE, FXSAVE, FXSR) R(FXSAVE64, FXSAVE, FXSR) P(HLT) P(IDIV)
    R(IMUL, IMUL2, NONE) P(IN) P(INC) R(INSB, INS, NONE) R(INSD, INS, NONE) R(INSW, INS, NONE)
    P(INT) P(INT1) P(INT3) P(INTO) P(INVD) P(INVLPG) R(INVPCID, INVPCID, INVPCID) P(IRET)
    R(IRETD, IRET, NONE) R(IRETQ, IRET, NONE) R(JA, JCC, NONE) R(JAE, JCC, NONE) R(JB, JCC, NONE)
    R(JBE, JCC, NONE) P(JCXZ) R(JE, JCC, NONE) R(JECXZ, JCXZ, NONE) R(JG, JCC, NONE)
    R(JGE, JCC, NONE) R(JL, JCC, NONE) R(JLE, JCC, NONE) P(JMP) R(JNE, JCC, NONE)
    R(JNO, JCC, NONE) R(JNP, JCC, NONE) R(JNS, JCC, NONE) R(JO, JCC, NONE) R(JP, JCC, NONE)
    R(JRCXZ, JCXZ, NONE) R(JS, JCC, NONE) P(LAHF) P(LAR) R(LCALL, CALL_FAR, NONE)
    R(LDMXCSR, LDMXCSR, SSE) R(LDS, LOAD_FAR, NONE) P(LEA) P(LEAVE) R(LES, LOAD_FAR, NONE)
    R(LFENCE, FENCE, SSE2) R(LFS, LOAD_FAR, NONE) P(LGDT) R(LGS, LOAD_FAR, NONE) P(LIDT)
    R(LJMP, JMP_FAR, NONE) P(LLDT) P(LMSW) R(LODSB, LODS, NONE) R(LODSD, LODS, NONE)
    R(LODSQ, LODS, NONE) R(LODSW, LODS, NONE) P(LOOP) P(LOOPE) P(LOOPNE) P(LSL)
    R(LSS, LOAD_FAR, NONE) P(LTR) R(LZCNT, LZCNT, LZCNT) R(MFENCE, FENCE, SSE2)
    R(MONITOR, MONITOR, MONITOR) P(MOV) R(MOVABS, MOV, NONE) R(MOVBE, MOVBE, MOVBE)
    R(MOVNTI, MOVNTI, SSE2) R(MOVSB, MOVS, NONE) R(MOVSQ, MOVS, NONE) R(MOVSW, MOVS, NONE)
    P(MOVSX) R(MOVSXD, MOVSX, NONE) P(MOVZX) P(MUL) R(MULX, MULX, BMI2) R(MWAIT, MWAIT, MONITOR)
    P(NEG) P(NOP) P(NOT) P(OR) P(OUT) R(OUTSB, OUTS, NONE) R(OUTSD, OUTS, NONE)
    R(OUTSW, OUTS, NONE) P(PAUSE) R(PDEP, PDEP, BMI2) R(PEXT, PEXT, BMI2) P(POP)
    R(POPAL, POPA, NONE) R(POPAW, POPA, NONE) R(POPCNT, POPCNT, POPCNT) P(POPF)
    R(POPFD, POPF, NONE) R(POPFQ, POPF, NONE) P(PREFETCH) R(PREFETCHNTA, PREFETCH, SSE)
    R(PREFETCHT0, PREFETCH, SSE) R(PREFETCHT1, PREFETCH, SSE) R(PREFETCHT2, PREFETCH, SSE)
    R(PREFETCHW, PREFETCH, NONE) P(PUSH) R(PUSHAL, PUSHA, NONE) R(PUSHAW, PUSHA, NONE) P(PUSHF)
    R(PUSHFD, PUSHF, NONE) R(PUSHFQ, PUSHF, NONE) P(RCL) P(RCR) R(RDFSBASE, RDFSBASE, FSGSBASE)
    R(RDGSBASE, RDGSBASE, FSGSBASE) R(RDMSR, RDMSR, MSR) R(RDPMC, RDPMC, RDPMC) R(RDRAND, RDRAND, RDRAND)
    R(RDSEED, RDSEED, RDSEED) R(RDTSC, RDTSC, TSC) R(RDTSCP, RDTSCP, RDTSCP) P(RET)
    R(RETF, RET_FAR, NONE) R(RETFQ, RET_FAR, NONE) P(ROL) P(ROR) R(RORX, RORX, BMI2) P(RSM)
    P(SAHF) R(SAL, SHL, NONE) P(SALC) P(SAR) R(SARX, SARX, BMI2) P(SBB) R(SCASB, SCAS, NONE)
    R(SCASD, SCAS, NONE) R(SCASQ, SCAS, NONE) R(SCASW, SCAS, NONE) R(SETA, SETCC, NONE)
    R(SETAE, SETCC, NONE) R(SETB, SETCC, NONE) R(SETBE, SETCC, NONE) R(SETE, SETCC, NONE)
    R(SETG, SETCC, NONE) R(SETGE, SETCC, NONE) R(SETL, SETCC, NONE) R(SETLE, SETCC, NONE)
    R(SETNE, SETCC, NONE) R(SETNO, SETCC, NONE) R(SETNP, SETCC, NONE) R(SETNS, SETCC, NONE)
    R(SETO, SETCC, NONE) R(SETP, SETCC, NONE) R(SETS, SETCC, NONE) R(SFENCE, FENCE, SSE) P(SGDT)
    P(SHL) P(SHLD) R(SHLX, SHLX, BMI2) P(SHR) P(SHRD) R(SHRX, SHRX, BMI2) P(SIDT) P(SLDT) P(SMSW)
    R(STAC, STAC, SMAP) P(STC) P(STD) P(STI) R(STMXCSR, STMXCSR, SSE) R(STOSB, STOS, NONE)
    R(STOSD, STOS, NONE) R(STOSQ, STOS, NONE) R(STOSW, STOS, NONE) P(STR) P(SUB) P(SWAPGS)
    R(SYSCALL, SYSCALL, SYSCALL) R(SYSENTER, SYSENTER, SEP) R(SYSEXIT, SYSEXIT, SEP)
    R(SYSRET, SYSRET, SYSCALL) P(TEST) R(TZCNT, TZCNT, BMI1) P(VERR) P(VERW)
    R(VLDMXCSR, LDMXCSR, AVX) P(VMCALL) P(VMMCALL) R(VSTMXCSR, STMXCSR, AVX) R(WAIT, FWAIT, FPU)
    P(WBINVD) R(WRFSBASE, WRFSBASE, FSGSBASE) R(WRGSBASE, WRGSBASE, FSGSBASE) R(WRMSR, WRMSR, MSR)
    P(XADD) P(XCHG) R(XGETBV, XGETBV, XSAVE) R(XLATB, XLAT, NONE) P(XOR) R(XRSTOR, XRSTOR, XSAVE)
    R(XRSTOR64, XRSTOR, XSAVE) R(XRSTORS, XRSTORS, XSAVES) R(XRSTORS64, XRSTORS, XSAVES)
    R(XSAVE, XSAVE, XSAVE) R(XSAVE64, XSAVE, XSAVE) R(XSAVEC, XSAVEC, XSAVEC)
    R(XSAVEC64, XSAVEC, XSAVEC) R(XSAVEOPT, XSAVEOPT, XSAVEOPT) R(XSAVEOPT64, XSAVEOPT, XSAVEOPT)
    R(XSAVES, XSAVES, XSAVES) R(XSAVES64, XSAVES, XSAVES) R(XSETBV, XSETBV, XSAVE)
};
#undef P
#undef R

/* Everything else that runs on silicon is known by the ISA extension it belongs to. The last
   match wins: the more special extension follows the more general one. */
static const struct {
    uint8_t group, feat;
} group_feats[] = {
    {X86_GRP_FPU, VMCI_FEAT_FPU},     {X86_GRP_MMX, VMCI_FEAT_MMX},
    {X86_GRP_SSE1, VMCI_FEAT_SSE},    {X86_GRP_SSE2, VMCI_FEAT_SSE2},
    {X86_GRP_SSE3, VMCI_FEAT_SSE3},   {X86_GRP_SSSE3, VMCI_FEAT_SSSE3},
    {X86_GRP_SSE41, VMCI_FEAT_SSE41}, {X86_GRP_SSE42, VMCI_FEAT_SSE42},
    {X86_GRP_SSE4A, VMCI_FEAT_SSE4A}, {X86_GRP_AVX, VMCI_FEAT_AVX},
    {X86_GRP_AVX2, VMCI_FEAT_AVX2},   {X86_GRP_FMA, VMCI_FEAT_FMA},
    {X86_GRP_F16C, VMCI_FEAT_F16C},   {X86_GRP_AES, VMCI_FEAT_AES},
    {X86_GRP_PCLMUL, VMCI_FEAT_PCLMUL}, {X86_GRP_SHA, VMCI_FEAT_SHA},
    {X86_GRP_3DNOW, VMCI_FEAT_NEVER}, {X86_GRP_AVX512, VMCI_FEAT_NEVER},
    {X86_GRP_XOP, VMCI_FEAT_NEVER},   {X86_GRP_FMA4, VMCI_FEAT_NEVER},
    {X86_GRP_TBM, VMCI_FEAT_NEVER},   {X86_GRP_CDI, VMCI_FEAT_NEVER},
    {X86_GRP_ERI, VMCI_FEAT_NEVER},   {X86_GRP_DQI, VMCI_FEAT_NEVER},
    {X86_GRP_BWI, VMCI_FEAT_NEVER},   {X86_GRP_VLX, VMCI_FEAT_NEVER},
    {X86_GRP_VM, VMCI_FEAT_NEVER},    {X86_GRP_SGX, VMCI_FEAT_NEVER},
    {X86_GRP_RTM, VMCI_FEAT_NEVER},   {X86_GRP_HLE, VMCI_FEAT_NEVER},
};
/* clang-format on */

static uint8_t feature_of_groups(const cs_detail *d)
{
    uint8_t feat = VMCI_FEAT_NONE;
    unsigned best = 0;

    for (unsigned g = 0; g < d->groups_count; g++)
        for (unsigned i = 0; i < VMCI_ARRAY_SIZE(group_feats); i++)
            if (group_feats[i].group == d->groups[g] && i + 1 > best) {
                best = i + 1;
                feat = group_feats[i].feat;
            }
    return feat;
}

/* ---- operands -------------------------------------------------------------------------------- */

struct reg_row {
    uint8_t kind, reg, size;
};

/* clang-format off */
#define G(n, q, d, w, b) \
    [X86_REG_##q] = {VMCI_OPND_GPR, n, 8}, [X86_REG_##d] = {VMCI_OPND_GPR, n, 4}, \
    [X86_REG_##w] = {VMCI_OPND_GPR, n, 2}, [X86_REG_##b] = {VMCI_OPND_GPR, n, 1},
#define GX(n) G(n, R##n, R##n##D, R##n##W, R##n##B)
#define V(n) [X86_REG_XMM##n] = {VMCI_OPND_XMM, n, 16}, [X86_REG_YMM##n] = {VMCI_OPND_XMM, n, 32}, \
    [X86_REG_CR##n] = {VMCI_OPND_CR, n, 0}, [X86_REG_DR##n] = {VMCI_OPND_DR, n, 0},
#define M(n) [X86_REG_MM##n] = {VMCI_OPND_MMX, n, 8}, [X86_REG_ST##n] = {VMCI_OPND_ST, n, 10}, \
    [X86_REG_FP##n] = {VMCI_OPND_ST, n, 10},
static const struct reg_row reg_rows[X86_REG_ENDING] = {
    G(VMC_RAX, RAX, EAX, AX, AL) G(VMC_RCX, RCX, ECX, CX, CL) G(VMC_RDX, RDX, EDX, DX, DL)
    G(VMC_RBX, RBX, EBX, BX, BL) G(VMC_RSP, RSP, ESP, SP, SPL) G(VMC_RBP, RBP, EBP, BP, BPL)
    G(VMC_RSI, RSI, ESI, SI, SIL) G(VMC_RDI, RDI, EDI, DI, DIL)
    GX(8) GX(9) GX(10) GX(11) GX(12) GX(13) GX(14) GX(15)
    [X86_REG_AH] = {VMCI_OPND_GPR_HI, 0, 1}, [X86_REG_CH] = {VMCI_OPND_GPR_HI, 1, 1},
    [X86_REG_DH] = {VMCI_OPND_GPR_HI, 2, 1}, [X86_REG_BH] = {VMCI_OPND_GPR_HI, 3, 1},
    [X86_REG_ES] = {VMCI_OPND_SREG, VMC_ES, 2}, [X86_REG_CS] = {VMCI_OPND_SREG, VMC_CS, 2},
    [X86_REG_SS] = {VMCI_OPND_SREG, VMC_SS, 2}, [X86_REG_DS] = {VMCI_OPND_SREG, VMC_DS, 2},
    [X86_REG_FS] = {VMCI_OPND_SREG, VMC_FS, 2}, [X86_REG_GS] = {VMCI_OPND_SREG, VMC_GS, 2},
    V(0) V(1) V(2) V(3) V(4) V(5) V(6) V(7) V(8) V(9) V(10) V(11) V(12) V(13) V(14) V(15)
    M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)
};
#undef M
#undef V
#undef GX
#undef G
/* clang-format on */

static uint8_t access_of(uint8_t cs_access)
{
    return (uint8_t)(((cs_access & CS_AC_READ) ? VMCI_MEM_READ : 0) |
                     ((cs_access & CS_AC_WRITE) ? VMCI_MEM_WRITE : 0));
}

static void operands(const cs_x86 *x, struct dec_facts *f)
{
    for (unsigned i = 0; i < x->op_count && f->nopnd < 4; i++) {
        const cs_x86_op *o = &x->operands[i];
        struct vmci_opnd *n = &f->opnd[f->nopnd];

        n->size = o->size;
        if (o->type == X86_OP_REG && o->reg < X86_REG_ENDING) {
            *n = (struct vmci_opnd){reg_rows[o->reg].kind, reg_rows[o->reg].size,
                                    reg_rows[o->reg].reg};
        } else if (o->type == X86_OP_MEM) {
            n->kind = VMCI_OPND_MEM;
        } else {
            n->kind = VMCI_OPND_IMM;
            f->imm = o->imm;
        }
        f->acc[f->nopnd++] = access_of(o->access);
    }
}

/* ---- classification -------------------------------------------------------------------------- */

static bool has_kind(const struct dec_facts *f, unsigned kind)
{
    for (unsigned i = 0; i < f->nopnd; i++)
        if (f->opnd[i].kind == kind)
            return true;
    return false;
}

static uint16_t fp_class(const struct dec_facts *f, const uint8_t *b)
{
    if (f->feature == VMCI_FEAT_FPU)
        return VMCI_OP_FP_X87;
    if (b[0] == 0xc4 || b[0] == 0xc5)
        return VMCI_OP_FP_AVX;
    if (f->feature == VMCI_FEAT_NONE || f->feature == VMCI_FEAT_NEVER)
        return VMCI_OP_UD;
    if (has_kind(f, VMCI_OPND_MMX) && !has_kind(f, VMCI_OPND_XMM))
        return VMCI_OP_FP_MMX;
    return VMCI_OP_FP_SSE;
}

static unsigned mode_index(unsigned bits)
{
    return bits == 64 ? 2 : bits == 32 ? 1 : 0;
}

bool dec_backend_facts(struct dec_backend *be, unsigned bits, const uint8_t *b, struct dec_facts *f)
{
    const uint8_t *code = b;
    size_t left = 24;
    uint64_t addr = 0;

    memset(f, 0, sizeof(*f));
    if (!cs_disasm_iter(be->handle[mode_index(bits)], &code, &left, &addr, be->insn))
        return false;

    const cs_insn *in = be->insn;
    const cs_x86 *x = &in->detail->x86;
    f->len = (uint8_t)in->size;
    f->has_modrm = x->encoding.modrm_offset != 0;
    operands(x, f);
    if (in->id < X86_INS_ENDING && id_rows[in->id].op != VMCI_OP_INVALID) {
        f->op = id_rows[in->id].op;
        f->feature = id_rows[in->id].feat;
    } else {
        f->feature = feature_of_groups(in->detail);
        f->op = fp_class(f, b);
    }
    return true;
}

unsigned dec_backend_text(struct dec_backend *be, unsigned bits, const uint8_t *b, unsigned n,
                          uint64_t rip, char *text, size_t size)
{
    const uint8_t *code = b;
    size_t left = n;
    uint64_t addr = rip;

    if (!cs_disasm_iter(be->handle[mode_index(bits)], &code, &left, &addr, be->insn)) {
        (void)vmci_snprintf(text, size, "(bad) %02x", n != 0 ? b[0] : 0);
        return 0;
    }
    (void)vmci_snprintf(text, size, "%s %s", be->insn->mnemonic, be->insn->op_str);
    return be->insn->size;
}

/* ---- set-up ---------------------------------------------------------------------------------- */

/*
 * libcapstone 4 sorts a table of its own, without a lock, when it first meets an instruction with
 * an implied accumulator. Let that be now: two vCPUs that met one at the same time would lose
 * operands.
 */
static void settle_tables(struct dec_backend *be)
{
    static const uint8_t or_eax_imm[] = {0x0d, 0, 0, 0, 0};

    for (unsigned i = 0; i < 3; i++) {
        const uint8_t *code = or_eax_imm;
        size_t left = sizeof(or_eax_imm);
        uint64_t addr = 0;
        (void)cs_disasm_iter(be->handle[i], &code, &left, &addr, be->insn);
    }
}

int dec_backend_create(const struct vmc_platform *pf, struct dec_backend **out,
                       struct vmc_error *err)
{
    static const cs_mode modes[3] = {CS_MODE_16, CS_MODE_32, CS_MODE_64};
    struct dec_backend *be = vmci_zalloc(pf, sizeof(*be));

    if (be == NULL)
        return vmci_error(err, VMC_ENOMEM, "decode", "no memory for the decoder");
    be->pf = pf;
    for (unsigned i = 0; i < 3; i++) {
        if (cs_open(CS_ARCH_X86, modes[i], &be->handle[i]) != CS_ERR_OK ||
            cs_option(be->handle[i], CS_OPT_DETAIL, CS_OPT_ON) != CS_ERR_OK) {
            dec_backend_destroy(be);
            return vmci_error(err, VMC_ENOTSUP, "decode", "libcapstone has no x86 decoder");
        }
    }
    be->insn = cs_malloc(be->handle[0]);
    if (be->insn == NULL) {
        dec_backend_destroy(be);
        return vmci_error(err, VMC_ENOMEM, "decode", "no memory for the decoder");
    }
    settle_tables(be);
    *out = be;
    return VMC_OK;
}

void dec_backend_destroy(struct dec_backend *be)
{
    if (be == NULL)
        return;
    if (be->insn != NULL)
        cs_free(be->insn, 1);
    for (unsigned i = 0; i < 3; i++)
        if (be->handle[i] != 0)
            (void)cs_close(&be->handle[i]); /* a handle that is open always closes */
    vmci_free(be->pf, be, sizeof(*be));
}
