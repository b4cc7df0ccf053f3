/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Registers as GDB's target features number them ("Debugging with GDB", G.5.5), once for a debugger
 * that takes the processor for a 64-bit one and once for a 32-bit one.
 */
#include "gdb/gdb_priv.h"

enum feature { CORE, SSE, SYSTEM };

/* Where a register lives in struct vmc_x86_state. */
enum place {
    IN_STATE, /* at offset, bytes as in the state */
    IN_XSAVE, /* at offset within the XSAVE area */
    X87_TAG,  /* the full tag word, made from the abridged one */
};

struct reg {
    const char *name;
    const char *type;
    uint16_t bits;
    uint16_t group; /* VMC_ST_* that holds it */
    uint8_t feature;
    uint8_t place;
    uint16_t store_bytes; /* bytes in the state, when fewer than bits / 8 */
    uint32_t offset;
};

#define ST(field) ((uint32_t)offsetof(struct vmc_x86_state, field))
#define GPR(name, n)                                                                               \
    {                                                                                              \
        name, "int64", 64, VMC_ST_GPR, CORE, IN_STATE, 8, ST(gpr) + 8 * (n)                        \
    }
#define SEG(name, n)                                                                               \
    {                                                                                              \
        name, "int32", 32, VMC_ST_SEG, CORE, IN_STATE, 2,                                          \
            ST(seg) + (n) * sizeof(struct vmc_segment) + offsetof(struct vmc_segment, selector)    \
    }
#define X87(name, off, n)                                                                          \
    {                                                                                              \
        name, "int", 32, VMC_ST_FPU, CORE, IN_XSAVE, n, off                                        \
    }
#define STI(name, n)                                                                               \
    {                                                                                              \
        name, "i387_ext", 80, VMC_ST_FPU, CORE, IN_XSAVE, 10, 32 + 16 * (n)                        \
    }
#define XMM(name, n)                                                                               \
    {                                                                                              \
        name, "vec128", 128, VMC_ST_FPU, SSE, IN_XSAVE, 16, 160 + 16 * (n)                         \
    }
#define SYS(name, field, g)                                                                        \
    {                                                                                              \
        name, "int64", 64, g, SYSTEM, IN_STATE, 8, ST(field)                                       \
    }
#define BASE(name, n)                                                                              \
    {                                                                                              \
        name, "int64", 64, VMC_ST_SEG, SYSTEM, IN_STATE, 8,                                        \
            ST(seg) + (n) * sizeof(struct vmc_segment) + offsetof(struct vmc_segment, base)        \
    }

#define GPR32(name, n)                                                                             \
    {                                                                                              \
        name, "int32", 32, VMC_ST_GPR, CORE, IN_STATE, 4, ST(gpr) + 8 * (n)                        \
    }
#define SYS32(name, field, g)                                                                      \
    {                                                                                              \
        name, "int32", 32, g, SYSTEM, IN_STATE, 4, ST(field)                                       \
    }
#define SEGMENTS                                                                                   \
    SEG("cs", VMC_CS), SEG("ss", VMC_SS), SEG("ds", VMC_DS), SEG("es", VMC_ES), SEG("fs", VMC_FS), \
        SEG("gs", VMC_GS)
#define X87_REGISTERS                                                                              \
    STI("st0", 0), STI("st1", 1), STI("st2", 2), STI("st3", 3), STI("st4", 4), STI("st5", 5),      \
        STI("st6", 6), STI("st7", 7), X87("fctrl", 0, 2), X87("fstat", 2, 2),                      \
        {"ftag", "int", 32, VMC_ST_FPU, CORE, X87_TAG, 1, 4}, X87("fiseg", 12, 2),                 \
        X87("fioff", 8, 4), X87("foseg", 20, 2), X87("fooff", 16, 4), X87("fop", 6, 2)
#define XMM_0_TO_7                                                                                 \
    XMM("xmm0", 0), XMM("xmm1", 1), XMM("xmm2", 2), XMM("xmm3", 3), XMM("xmm4", 4),                \
        XMM("xmm5", 5), XMM("xmm6", 6), XMM("xmm7", 7)
#define MXCSR                                                                                      \
    {                                                                                              \
        "mxcsr", "i386_mxcsr", 32, VMC_ST_FPU, SSE, IN_XSAVE, 4, 24                                \
    }
#define EFLAGS                                                                                     \
    {                                                                                              \
        "eflags", "i386_eflags", 32, VMC_ST_RIP, CORE, IN_STATE, 4, ST(rflags)                     \
    }

static const struct reg regs64[] = {
    GPR("rax", VMC_RAX),
    GPR("rbx", VMC_RBX),
    GPR("rcx", VMC_RCX),
    GPR("rdx", VMC_RDX),
    GPR("rsi", VMC_RSI),
    GPR("rdi", VMC_RDI),
    {"rbp", "data_ptr", 64, VMC_ST_GPR, CORE, IN_STATE, 8, ST(gpr) + 8 * VMC_RBP},
    {"rsp", "data_ptr", 64, VMC_ST_GPR, CORE, IN_STATE, 8, ST(gpr) + 8 * VMC_RSP},
    GPR("r8", 8),
    GPR("r9", 9),
    GPR("r10", 10),
    GPR("r11", 11),
    GPR("r12", 12),
    GPR("r13", 13),
    GPR("r14", 14),
    GPR("r15", 15),
    {"rip", "code_ptr", 64, VMC_ST_RIP, CORE, IN_STATE, 8, ST(rip)},
    EFLAGS,
    SEGMENTS,
    X87_REGISTERS,
    XMM_0_TO_7,
    XMM("xmm8", 8),
    XMM("xmm9", 9),
    XMM("xmm10", 10),
    XMM("xmm11", 11),
    XMM("xmm12", 12),
    XMM("xmm13", 13),
    XMM("xmm14", 14),
    XMM("xmm15", 15),
    MXCSR,
    BASE("fs_base", VMC_FS),
    BASE("gs_base", VMC_GS),
    SYS("k_gs_base", msr.kernel_gs_base, VMC_ST_MSR),
    SYS("cr0", cr0, VMC_ST_CTRL),
    SYS("cr2", cr2, VMC_ST_CTRL),
    SYS("cr3", cr3, VMC_ST_CTRL),
    SYS("cr4", cr4, VMC_ST_CTRL),
    SYS("cr8", cr8, VMC_ST_CTRL),
    SYS("efer", efer, VMC_ST_CTRL),
};

static const struct reg regs32[] = {
    GPR32("eax", VMC_RAX),
    GPR32("ecx", VMC_RCX),
    GPR32("edx", VMC_RDX),
    GPR32("ebx", VMC_RBX),
    {"esp", "data_ptr", 32, VMC_ST_GPR, CORE, IN_STATE, 4, ST(gpr) + 8 * VMC_RSP},
    {"ebp", "data_ptr", 32, VMC_ST_GPR, CORE, IN_STATE, 4, ST(gpr) + 8 * VMC_RBP},
    GPR32("esi", VMC_RSI),
    GPR32("edi", VMC_RDI),
    {"eip", "code_ptr", 32, VMC_ST_RIP, CORE, IN_STATE, 4, ST(rip)},
    EFLAGS,
    SEGMENTS,
    X87_REGISTERS,
    XMM_0_TO_7,
    MXCSR,
    SYS32("cr0", cr0, VMC_ST_CTRL),
    SYS32("cr2", cr2, VMC_ST_CTRL),
    SYS32("cr3", cr3, VMC_ST_CTRL),
    SYS32("cr4", cr4, VMC_ST_CTRL),
};

struct gdb_arch {
    const char *name;
    const struct reg *regs;
    unsigned count;
};

const struct gdb_arch gdb_x86_64 = {"i386:x86-64", regs64, VMCI_ARRAY_SIZE(regs64)};
const struct gdb_arch gdb_i386 = {"i386", regs32, VMCI_ARRAY_SIZE(regs32)};

unsigned gdb_reg_count(const struct gdb_arch *a)
{
    return a->count;
}

unsigned gdb_reg_bytes(const struct gdb_arch *a, unsigned n)
{
    return n < a->count ? a->regs[n].bits / 8 : 0;
}

/* FNSAVE's two bits a register; 0 valid, 3 empty. Valid is not told from zero and special. */
static uint16_t full_tag(uint8_t abridged)
{
    uint16_t tag = 0;
    for (unsigned i = 0; i < 8; i++)
        if ((abridged & (1u << i)) == 0)
            tag |= (uint16_t)(3u << (2 * i));
    return tag;
}

unsigned gdb_reg_get(const struct gdb_arch *a, const struct vmc_x86_state *st, unsigned n,
                     uint8_t out[16])
{
    if (n >= a->count)
        return 0;
    const struct reg *r = &a->regs[n];
    const uint8_t *from = r->place == IN_STATE ? (const uint8_t *)st : st->xsave;

    memset(out, 0, 16);
    if (r->place == X87_TAG)
        vmci_st_le16(out, full_tag(st->xsave[r->offset]));
    else
        memcpy(out, from + r->offset, r->store_bytes);
    return r->bits / 8;
}

uint32_t gdb_reg_set(const struct gdb_arch *a, struct vmc_x86_state *st, unsigned n,
                     const uint8_t *value)
{
    if (n >= a->count || a->regs[n].place == X87_TAG)
        return 0;
    const struct reg *r = &a->regs[n];
    /* A selector alone would leave its descriptor behind. */
    if (r->group == VMC_ST_SEG && r->feature == CORE)
        return 0;
    uint8_t *to = r->place == IN_STATE ? (uint8_t *)st : st->xsave;
    memcpy(to + r->offset, value, r->store_bytes);
    return r->group;
}

static void put_feature(struct gdb_writer *w, const struct gdb_arch *a, enum feature f,
                        const char *name, const char *types)
{
    char line[160];

    vmci_snprintf(line, sizeof(line), "<feature name=\"%s\">", name);
    gdb_put(w, line);
    gdb_put(w, types);
    for (unsigned i = 0; i < a->count; i++) {
        const struct reg *r = &a->regs[i];
        if (r->feature != f)
            continue;
        vmci_snprintf(line, sizeof(line),
                      "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\" regnum=\"%u\"/>", r->name,
                      r->bits, r->type, i);
        gdb_put(w, line);
    }
    gdb_put(w, "</feature>");
}

size_t gdb_target_xml(const struct gdb_arch *a, char *dst, size_t bytes)
{
    static const char core_types[] =
        "<flags id=\"i386_eflags\" size=\"4\">"
        "<field name=\"CF\" start=\"0\" end=\"0\"/><field name=\"\" start=\"1\" end=\"1\"/>"
        "<field name=\"PF\" start=\"2\" end=\"2\"/><field name=\"AF\" start=\"4\" end=\"4\"/>"
        "<field name=\"ZF\" start=\"6\" end=\"6\"/><field name=\"SF\" start=\"7\" end=\"7\"/>"
        "<field name=\"TF\" start=\"8\" end=\"8\"/><field name=\"IF\" start=\"9\" end=\"9\"/>"
        "<field name=\"DF\" start=\"10\" end=\"10\"/><field name=\"OF\" start=\"11\" end=\"11\"/>"
        "<field name=\"NT\" start=\"14\" end=\"14\"/><field name=\"RF\" start=\"16\" end=\"16\"/>"
        "<field name=\"VM\" start=\"17\" end=\"17\"/><field name=\"AC\" start=\"18\" end=\"18\"/>"
        "<field name=\"VIF\" start=\"19\" end=\"19\"/><field name=\"VIP\" start=\"20\" end=\"20\"/>"
        "<field name=\"ID\" start=\"21\" end=\"21\"/></flags>";
    static const char sse_types[] =
        "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
        "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
        "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>"
        "<vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
        "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>"
        "<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
        "<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/>"
        "<field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" type=\"v16i8\"/>"
        "<field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" type=\"v4i32\"/>"
        "<field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" type=\"uint128\"/>"
        "</union><flags id=\"i386_mxcsr\" size=\"4\">"
        "<field name=\"IE\" start=\"0\" end=\"0\"/><field name=\"DE\" start=\"1\" end=\"1\"/>"
        "<field name=\"ZE\" start=\"2\" end=\"2\"/><field name=\"OE\" start=\"3\" end=\"3\"/>"
        "<field name=\"UE\" start=\"4\" end=\"4\"/><field name=\"PE\" start=\"5\" end=\"5\"/>"
        "<field name=\"DAZ\" start=\"6\" end=\"6\"/><field name=\"IM\" start=\"7\" end=\"7\"/>"
        "<field name=\"DM\" start=\"8\" end=\"8\"/><field name=\"ZM\" start=\"9\" end=\"9\"/>"
        "<field name=\"OM\" start=\"10\" end=\"10\"/><field name=\"UM\" start=\"11\" end=\"11\"/>"
        "<field name=\"PM\" start=\"12\" end=\"12\"/><field name=\"FZ\" start=\"15\" end=\"15\"/>"
        "</flags>";
    struct gdb_writer w = {.buf = dst, .cap = bytes};

    gdb_put(&w, "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">"
                "<target><architecture>");
    gdb_put(&w, a->name);
    gdb_put(&w, "</architecture>");
    put_feature(&w, a, CORE, "org.gnu.gdb.i386.core", core_types);
    put_feature(&w, a, SSE, "org.gnu.gdb.i386.sse", sse_types);
    put_feature(&w, a, SYSTEM, "org.libvmcore.i386.system", "");
    gdb_put(&w, "</target>");
    return w.len;
}
