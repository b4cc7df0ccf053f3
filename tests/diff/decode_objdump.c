/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The decoder against GNU objdump over whole binaries.
 *
 *   decode_objdump [-m 16|32|64] [-b] [-v] FILE...
 *
 * Every instruction that objdump finds in an executable section is decoded from the same bytes; the
 * lengths must agree, and the kind of instruction too. -b: the file is raw code, not an object. -v:
 * print every disagreement (else the first ones). Exit status 1 when lengths disagree.
 */
#include "cpu/decode/insn.h"
#include "test_platform.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INSN_MAX 15
#define PRINT_MAX 40u

struct line {
    uint64_t addr;
    unsigned len;
    uint8_t b[INSN_MAX];
    char text[96];
};

struct stats {
    unsigned long insns, bad_len, bad_op, skipped, printed;
};

static struct vmci_decoder *dec;
static unsigned mode_bits = 64;
static bool verbose;

/* ---- one line of objdump --------------------------------------------------------------------- */

/* "  addr:\tbytes \tmnemonic operands" */
static bool parse(const char *s, struct line *l)
{
    char *end;
    memset(l, 0, sizeof(*l));
    l->addr = strtoull(s, &end, 16);
    if (end == s || *end != ':')
        return false;
    s = end + 1;
    while (isspace((unsigned char)*s))
        s++;
    while (isxdigit((unsigned char)s[0]) && isxdigit((unsigned char)s[1]) && s[2] == ' ') {
        if (l->len == INSN_MAX)
            return false;
        l->b[l->len++] = (uint8_t)strtoul(s, NULL, 16);
        s += 3;
    }
    while (isspace((unsigned char)*s))
        s++;
    snprintf(l->text, sizeof(l->text), "%s", s);
    l->text[strcspn(l->text, "\n")] = '\0';
    return l->len != 0;
}

/* ---- mnemonics ------------------------------------------------------------------------------- */

/* Mnemonics of objdump that differ from the name of our op. */
static const struct {
    const char *objdump, *ours;
} names[] = {
    {"movabs", "MOV"}, {"movsxd", "MOVSX"}, {"movs", "MOVS"}, {"cmps", "CMPS"},
    {"shl", "SHL"}, {"sal", "SHL"}, {"ret", "RET"}, {"retf", "RET_FAR"}, {"retfq", "RET_FAR"}, {"vmgexit", "VMMCALL"}, {"iret", "IRET"},
    {"iretd", "IRET"}, {"iretq", "IRET"}, {"retw", "RET"}, {"int3", "INT3"}, {"int1", "INT1"},
    {"icebp", "INT1"}, {"cbw", "CBW"}, {"cwde", "CBW"}, {"cdqe", "CBW"}, {"cwd", "CWD"},
    {"cdq", "CWD"}, {"cqo", "CWD"}, {"lds", "LOAD_FAR"}, {"les", "LOAD_FAR"},
    {"lfs", "LOAD_FAR"}, {"lgs", "LOAD_FAR"}, {"lss", "LOAD_FAR"}, {"endbr64", "NOP"},
    {"endbr32", "NOP"}, {"nopw", "NOP"}, {"nopl", "NOP"}, {"fxsave64", "FXSAVE"},
    {"fxrstor64", "FXRSTOR"}, {"xsave64", "XSAVE"}, {"xsavec64", "XSAVEC"},
    {"xsaveopt64", "XSAVEOPT"}, {"xsaves64", "XSAVES"}, {"xrstor64", "XRSTOR"},
    {"xrstors64", "XRSTORS"}, {"vldmxcsr", "LDMXCSR"}, {"vstmxcsr", "STMXCSR"},
    {"lfence", "FENCE"}, {"mfence", "FENCE"}, {"sfence", "FENCE"}, {"ud2", "UD"}, {"ud0", "UD"},
    {"ud1", "UD"}, {"(bad)", "UD"}, {"xlat", "XLAT"}, {"jecxz", "JCXZ"}, {"jrcxz", "JCXZ"},
    {"jcxz", "JCXZ"}, {"sysretq", "SYSRET"}, {"sysretl", "SYSRET"}, {"sysretd", "SYSRET"},
    {"sysexitq", "SYSEXIT"}, {"sysexitl", "SYSEXIT"}, {"pushf", "PUSHF"}, {"pushfq", "PUSHF"},
    {"pushfd", "PUSHF"}, {"popfq", "POPF"}, {"popfd", "POPF"}, {"popf", "POPF"},
    {"pusha", "PUSHA"}, {"popa", "POPA"}, {"pushad", "PUSHA"}, {"popad", "POPA"},
    {"fwait", "FWAIT"}, {"prefetcht0", "NOP"}, {"prefetcht1", "NOP"}, {"prefetcht2", "NOP"},
    {"prefetchnta", "NOP"}, {"prefetchw", "NOP"}, {"prefetch", "NOP"}, {"prefetchwt1", "NOP"},
    {"jmp", "JMP"}, {"call", "CALL"}, {"rdsspq", "NOP"}, {"rdsspd", "NOP"}, {"nop", "NOP"},
    {"pause", "PAUSE"}, {"cldemote", "NOP"}, {"reservednop", "NOP"}, {"data16", "NOP"},
    {"retfw", "RET_FAR"}, {"pushw", "PUSH"}, {"popw", "POP"}, {"pushfw", "PUSHF"},
    {"popfw", "POPF"}, {"bndldx", "NOP"}, {"bndstx", "NOP"}, {"frstpm(287", "UD"}, {"enterw", "ENTER"}, {"leavew", "LEAVE"}, {"smsw", "SMSW"}, {"wbnoinvd", "WBINVD"},
};

static bool is_prefix(const char *w)
{
    static const char *const p[] = {"lock", "rep", "repz", "repnz", "bnd", "notrack", "data16",
                                    "addr32", "addr16", "data32", "cs", "ds", "es", "ss", "fs",
                                    "gs", "xacquire", "xrelease", "repe", "repne"};
    if (strncmp(w, "rex", 3) == 0)
        return true;
    for (unsigned i = 0; i < sizeof(p) / sizeof(p[0]); i++)
        if (strcmp(w, p[i]) == 0)
            return true;
    return false;
}

static bool mnemonic(const char *text, char *w, size_t n)
{
    size_t k;
    do {
        while (*text == ' ')
            text++;
        k = strcspn(text, " ,");
        snprintf(w, n, "%.*s", (int)(k < n ? k : n - 1), text);
        text += k;
        if (k > 3 && (strcmp(w + k - 2, ",pt") == 0 || strcmp(w + k - 2, ",pn") == 0))
            w[k - 3] = '\0';
    } while (k != 0 && is_prefix(w) && *text != '\0');
    return k != 0 && !is_prefix(w);
}

static bool fp_op(unsigned op)
{
    return op >= VMCI_OP_FP_X87 && op <= VMCI_OP_FP_AVX;
}

static bool starts(const char *s, const char *with)
{
    return strncmp(s, with, strlen(with)) == 0;
}

/* AVX-512, XOP, FMA4, 3DNow!: no CPU model has them. Nor may every instruction be locked. */
static bool not_offered_encoding(const struct vmci_insn *in)
{
    unsigned i = 0;
    while (i + 1 < in->len && strchr("\x66\x67\xf2\xf3\x2e\x3e\x26\x36\x64\x65\xf0", in->raw[i]))
        if (in->raw[i++] == 0xf0)
            return true;
    if ((in->raw[i] & 0xf0) == 0x40 && (in->raw[i + 1] & 0xfe) == 0xc4) /* REX before VEX */
        return true;
    if (in->raw[i] == 0xc4 && (in->raw[i + 1] & 0x1f) == 3 && in->raw[i + 3] >= 0x5c &&
        in->raw[i + 3] <= 0x7f && (in->raw[i + 3] & 0xf8) != 0x60)
        return true;
    return in->raw[i] == 0x62 || in->raw[i] == 0x8f || (in->raw[i] == 0x0f && in->raw[i + 1] == 0x0f);
}

/* Does our op mean the mnemonic? Unknown mnemonics must be FP instructions. */
static bool same_op(const char *text, const struct vmci_insn *in)
{
    char w[32], up[32];
    if (!mnemonic(text, w, sizeof(w)))
        return true; /* only prefixes: objdump gave up */
    const char *ours = vmci_op_name(in->op);
    if (in->op == VMCI_OP_UD && not_offered_encoding(in))
        return true;
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(w, names[i].objdump) != 0)
            continue;
        if (strcmp(names[i].ours, ours) == 0)
            return true;
        /* far transfers share a mnemonic */
        if (in->op == VMCI_OP_JMP_FAR || in->op == VMCI_OP_CALL_FAR)
            return starts(names[i].ours, in->op == VMCI_OP_JMP_FAR ? "JMP" : "CALL");
        return false;
    }
    size_t i;
    for (i = 0; w[i] != '\0' && i < sizeof(up) - 1; i++)
        up[i] = (char)toupper((unsigned char)w[i]);
    up[i] = '\0';
    if (strcmp(up, ours) == 0)
        return true;
    switch (in->op) {
    case VMCI_OP_NOP:
        return strncmp(text, "xchg   ax,ax", 12) == 0 || strstr(text, "xchg   rax,rax") != NULL;
    case VMCI_OP_JCC:
        return w[0] == 'j';
    case VMCI_OP_SETCC:
        return starts(w, "set");
    case VMCI_OP_CMOV:
        return starts(w, "cmov");
    case VMCI_OP_IMUL1:
    case VMCI_OP_IMUL2:
    case VMCI_OP_IMUL3:
        return strcmp(w, "imul") == 0;
    case VMCI_OP_MOV_SREG:
    case VMCI_OP_MOV_CR:
    case VMCI_OP_MOV_DR:
        return strcmp(w, "mov") == 0;
    case VMCI_OP_PUSH_SREG:
        return starts(w, "push");
    case VMCI_OP_POP_SREG:
        return starts(w, "pop");
    case VMCI_OP_UD: {
        /* extensions that the CPU models do not offer */
        static const char *const not_offered[] = {
            "vmx", "vmread", "vmwrite", "vmlaunch", "vmresume", "vmptr", "vmclear", "vmrun",
            "vmload", "vmsave", "vmfunc", "stgi", "clgi", "invept", "invvpid", "invlpga", "skinit",
            "xbegin", "xabort", "xend", "xtest", "xsusldtrk", "xresldtrk", "xstore", "xcrypt",
            "tdcall", "seamcall", "tile", "tdp", "ldtilecfg", "sttilecfg", "encls", "enclu", "enclv", "rdpkru", "wrpkru", "mwaitx",
            "monitorx", "kand", "kor", "kmov", "kx", "kunpck", "kshift", "ktest", "kadd", "knot",
            "incssp", "rstorssp", "saveprevssp", "setssbsy", "clrssbsy", "wrss", "wruss", "movdir",
            "umonitor", "umwait", "tpause", "enqcmd", "pconfig", "pvalidate", "psmash", "rmp",
            "serialize", "clac", "stac", "wbnoinvd", "hreset", "llwpcb", "slwpcb", "lwp", 
            "bnd", "pfrcp", "femms", "pf", "pi2f", "pavgusb", "pswapd", "getsec", "ptwrite",
            "blc", "bls", "t1mskc", "tzmsk", "prefetch"};
        for (unsigned k = 0; k < sizeof(not_offered) / sizeof(not_offered[0]); k++)
            if (starts(w, not_offered[k]))
                return true;
        return false;
    }
    default:
        return fp_op(in->op);
    }
}

/* ---- comparison ------------------------------------------------------------------------------ */

static void complain(const struct line *l, const struct vmci_insn *in, int len, struct stats *st)
{
    if (!verbose && st->printed++ >= PRINT_MAX)
        return;
    printf("%llx:", (unsigned long long)l->addr);
    for (unsigned i = 0; i < l->len; i++)
        printf(" %02x", l->b[i]);
    printf("  objdump: %u %s; here: %d %s\n", l->len, l->text, len, vmci_op_name(in->op));
}

static void check(const struct line *l, struct stats *st)
{
    struct vmci_dec_mode mode = {.bits = (uint8_t)mode_bits, .features = ~0ull};
    struct vmci_insn in;
    uint8_t b[INSN_MAX] = {0};
    /* objdump's text of an x87 instruction with its FWAIT is two instructions */
    unsigned skip = l->b[0] == 0x9b && l->len > 1 ? 1 : 0;
    memcpy(b, l->b + skip, l->len - skip);
    st->insns++;
    memset(&in, 0, sizeof(in));
    int len = vmci_decode(dec, &mode, b, INSN_MAX, &in);
    char w[32];
    bool real = mnemonic(l->text, w, sizeof(w)) && strstr(l->text, "(bad)") == NULL &&
                strstr(l->text, ".byte") == NULL && strchr(l->text, '?') == NULL;
    /* Intel's processors ignore 66 at near branches in 64-bit mode; AMD's and objdump do not. */
    if (mode_bits == 64 && strlen(w) > 3 && w[strlen(w) - 1] == 'w' && (in.flags & VMCI_IF_BRANCH))
        real = false;
    if (!real) { /* data between functions: there is no right answer */
        st->skipped++;
        return;
    }
    if (len + (int)skip != (int)l->len && !(in.op == VMCI_OP_UD && same_op(l->text, &in))) {
        st->bad_len++;
        complain(l, &in, len, st);
    } else if (!same_op(l->text, &in)) {
        st->bad_op++;
        complain(l, &in, len, st);
    }
}

static int compare(const char *file, bool raw, struct stats *st)
{
    char cmd[512], text[512];
    const char *arch = mode_bits == 64 ? "i386:x86-64" : mode_bits == 32 ? "i386" : "i8086";
    snprintf(cmd, sizeof(cmd), "objdump -w -z --insn-width=15 -M intel -m %s %s '%s'", arch,
             raw ? "-D -b binary" : "-d", file);
    FILE *p = popen(cmd, "r");
    struct line l;
    if (p == NULL)
        return -1;
    while (fgets(text, sizeof(text), p) != NULL)
        if (parse(text, &l))
            check(&l, st);
    return pclose(p);
}

int main(int argc, char **argv)
{
    struct test_platform tp;
    struct stats all = {0};
    bool raw = false;
    int c;
    while ((c = getopt(argc, argv, "m:bv")) != -1) {
        if (c == 'm')
            mode_bits = (unsigned)atoi(optarg);
        else if (c == 'b')
            raw = true;
        else if (c == 'v')
            verbose = true;
        else
            return 2;
    }
    test_platform_init(&tp);
    if (system("objdump --version >/dev/null 2>&1") != 0) {
        printf("no objdump here\n");
        return 77;
    }
    if (vmci_decoder_create(&tp.pf, &dec, NULL) != 0)
        return 2;
    for (; optind < argc; optind++) {
        struct stats st = {0};
        if (compare(argv[optind], raw, &st) != 0) {
            printf("%s: objdump failed\n", argv[optind]);
            return 2;
        }
        printf("%s: %lu instructions, %lu lengths differ, %lu kinds differ, %lu not comparable\n",
               argv[optind], st.insns, st.bad_len, st.bad_op, st.skipped);
        all.insns += st.insns;
        all.bad_len += st.bad_len;
        all.bad_op += st.bad_op;
    }
    vmci_decoder_destroy(dec);
    if (all.insns == 0)
        return 2;
    return all.bad_len != 0 || all.bad_op != 0;
}
