/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * MMIO by every form of instruction. Memory is the oracle: the same code runs once on RAM and once
 * on a device that holds the same bytes; registers, flags and bytes must agree.
 */
#include "conf.h"

#define AREA 64 /* bytes that are compared, around offset 32 */

/* BX/EBX/RBX points at the operand. Ends with OUT END. */
#define FORM64(n, text) GUEST(m64_##n, 64, text "; out 0x7e, al")
#define FORM32(n, text) GUEST(m32_##n, 32, text "; out 0x7e, al")

FORM64(mov_r8, "mov al, [rbx]");
FORM64(mov_r16, "mov cx, [rbx]");
FORM64(mov_r32, "mov ecx, [rbx]");
FORM64(mov_r64, "mov rcx, [rbx]");
FORM64(mov_m8, "mov [rbx], ch");
FORM64(mov_m16, "mov [rbx], dx");
FORM64(mov_m32, "mov [rbx], edx");
FORM64(mov_m64, "mov [rbx], r9");
FORM64(mov_imm, "mov dword ptr [rbx], 0x12345678; mov byte ptr [rbx + 5], 7");
FORM64(mov_imm64, "mov qword ptr [rbx], -2; mov word ptr [rbx + 9], 0x1234");
FORM64(movzx, "movzx eax, byte ptr [rbx]; movzx rdx, word ptr [rbx + 2]");
FORM64(movsx, "movsx eax, byte ptr [rbx]; movsx rdx, word ptr [rbx + 2];"
              "movsxd rsi, dword ptr [rbx + 4]");
FORM64(add, "add [rbx], edx; add ecx, [rbx]; add byte ptr [rbx + 4], 0x7f");
FORM64(adc_sbb, "stc; adc [rbx], edx; sbb qword ptr [rbx + 8], rcx");
FORM64(logic, "or [rbx], edx; and [rbx + 4], cx; xor [rbx + 8], r10; not dword ptr [rbx]");
FORM64(cmp_test, "cmp [rbx], edx; setc al; test byte ptr [rbx + 1], 0x81; setz cl;"
                 "cmp rcx, [rbx + 8]");
FORM64(inc_dec, "inc dword ptr [rbx]; dec byte ptr [rbx + 4]; neg qword ptr [rbx + 8]");
FORM64(shift, "shl dword ptr [rbx], 3; sar byte ptr [rbx + 4], 1; mov cl, 5;"
              "rol qword ptr [rbx + 8], cl");
FORM64(xchg, "xchg [rbx], edx; xchg [rbx + 4], cl; lock xadd [rbx + 8], r9");
FORM64(cmpxchg, "mov eax, [rbx]; lock cmpxchg [rbx], edx; setz cl; lock cmpxchg [rbx + 4], esi;"
                "setz ch");
FORM64(bits, "bt dword ptr [rbx], 5; setc al; bts dword ptr [rbx], 3; btr dword ptr [rbx + 4], 2");
FORM64(mul, "imul ecx, [rbx], 7; mov eax, 3; mul dword ptr [rbx + 4]");
FORM64(push_pop, "push qword ptr [rbx]; pop qword ptr [rbx + 8]");
FORM64(setcc_cmov, "stc; setc byte ptr [rbx]; cmovc ecx, [rbx + 4]; cmovnc rdx, [rbx + 8]");
FORM64(disp, "mov eax, [rbx + 4]; mov [rbx - 8], eax");
FORM64(stos, "mov rdi, rbx; mov eax, 0x01020304; cld; stosb; stosw; stosd; stosq");
FORM64(rep_stos, "mov rdi, rbx; mov ecx, 5; mov eax, 0xa1a2a3a4; cld; rep stosd");
FORM64(lods_scas, "mov rsi, rbx; cld; lodsd; mov edx, eax; lodsb; mov rdi, rbx; scasb");
FORM64(rep_movs_out, "mov rdi, rbx; mov esi, 0x20200; mov ecx, 7; cld; rep movsb");
FORM64(rep_movs_in, "mov rsi, rbx; mov edi, 0x20240; mov ecx, 3; cld; rep movsd;"
                    "mov rdx, [0x20240]");
FORM64(cmps, "mov rsi, rbx; mov edi, 0x20200; mov ecx, 8; cld; repe cmpsb");
FORM64(split, "mov [rbx + 29], rdx; mov rcx, [rbx + 29]"); /* unaligned */
FORM64(sse, "movups xmm1, [rbx]; movups [rbx + 16], xmm1; movd xmm2, [rbx]; movq [rbx - 8], xmm2");
FORM32(mov, "mov ecx, [ebx]; mov [ebx + 4], dx; mov al, [ebx + 8]; mov byte ptr [ebx + 9], 3");
FORM32(alu, "add [ebx], ecx; sub edx, [ebx + 4]; xor word ptr [ebx + 8], 0x55aa");
FORM32(string, "mov edi, ebx; mov ecx, 3; mov eax, 0x11223344; cld; rep stosd");
FORM32(cmpxchg8b, "mov edi, ebx; mov ebx, 5; mov eax, [edi]; mov edx, [edi + 4]; mov ecx, 9;"
                  "lock cmpxchg8b [edi]");

struct form {
    const char *name;
    enum conf_mode mode;
    const uint8_t *code, *end;
    bool optional; /* an engine may answer EMULATION */
};
#define ROW64(n)   {#n, LONG64, m64_##n, m64_##n##_end, false}
#define ROW64O(n)  {#n, LONG64, m64_##n, m64_##n##_end, true}
#define ROW32(n)   {#n "/32", PROT32, m32_##n, m32_##n##_end, false}
static const struct form forms[] = {
    ROW64(mov_r8), ROW64(mov_r16), ROW64(mov_r32), ROW64(mov_r64), ROW64(mov_m8), ROW64(mov_m16),
    ROW64(mov_m32), ROW64(mov_m64), ROW64(mov_imm), ROW64(mov_imm64), ROW64(movzx), ROW64(movsx),
    ROW64(add), ROW64(adc_sbb), ROW64(logic), ROW64(cmp_test), ROW64(inc_dec), ROW64(shift),
    ROW64(xchg), ROW64(cmpxchg), ROW64(bits), ROW64(mul), ROW64(push_pop), ROW64(setcc_cmov),
    ROW64(disp), ROW64(stos), ROW64(rep_stos), ROW64(lods_scas), ROW64(rep_movs_out),
    ROW64(rep_movs_in), ROW64(cmps), ROW64(split), ROW64O(sse), ROW32(mov), ROW32(alu),
    ROW32(string), ROW32(cmpxchg8b),
};

struct outcome {
    uint64_t gpr[16], flags;
    uint8_t area[AREA];
    bool unsupported;
};

static void fill(uint8_t *p, size_t n, unsigned salt)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 37 + salt);
}

/* Run a form on an operand at gpa. */
static bool run_form(struct conf *c, const struct form *f, uint32_t gpa, struct outcome *o)
{
    uint8_t area[AREA];

    conf_load(c, f->mode, f->code, f->end);
    fill(area, AREA, 3);
    if (gpa >= DEV)
        memcpy(c->dev + (gpa - DEV) - 32, area, AREA);
    else if (vmc_mem_write(c->mem, gpa - 32, area, AREA) != VMC_OK)
        return false;
    fill(area, AREA, 11);
    if (vmc_mem_write(c->mem, DATA + 0x200, area, AREA) != VMC_OK)
        return false;
    c->st->gpr[VMC_RAX] = 0x0000000000000a55ull;
    c->st->gpr[VMC_RCX] = 0x00000000c0ffee01ull;
    c->st->gpr[VMC_RDX] = 0x8899aabbccddeeffull;
    c->st->gpr[VMC_RSI] = 0x1357;
    c->st->gpr[9] = 0x0123456789abcdefull;
    c->st->gpr[10] = 0xf0f0f0f00f0f0f0full;
    c->st->gpr[VMC_RBX] = gpa;
    if (f->mode == PROT32)
        c->st->gpr[VMC_RDX] &= 0xffffffffu;
    if (!conf_set(c, VMC_ST_GPR) || !conf_serve(c))
        return false;
    o->unsupported = c->x.kind == VMC_EXIT_EMULATION;
    if (o->unsupported)
        return true;
    if (!conf_is_out(c, END)) {
        conf_fail(c, __FILE__, __LINE__, "the form runs to its end");
        return false;
    }
    conf_complete(c);
    if (!conf_get(c, VMC_ST_GPR | VMC_ST_RIP))
        return false;
    memcpy(o->gpr, c->st->gpr, sizeof(o->gpr));
    o->gpr[VMC_RBX] = 0; /* the address itself differs */
    for (unsigned i = 0; i < 16; i++) /* and so do pointers derived from it */
        if (o->gpr[i] >= gpa - 64 && o->gpr[i] < (uint64_t)gpa + 64)
            o->gpr[i] -= gpa;
    o->flags = c->st->rflags;
    if (gpa >= DEV)
        memcpy(o->area, c->dev + (gpa - DEV) - 32, AREA);
    else if (vmc_mem_read(c->mem, gpa - 32, o->area, AREA) != VMC_OK)
        return false;
    return true;
}

static void every_form(struct conf *c)
{
    unsigned gaps = 0;

    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        const struct form *f = &forms[i];
        struct outcome ram = {.flags = 0}, dev = {.flags = 0};
        if (!run_form(c, f, DATA + 0x100, &ram) || !run_form(c, f, DEV + 0x100, &dev)) {
            if (c->skip != NULL && !c->failed) { /* a gap of an emulated KVM: the others go on */
                printf("    %s: not supported here\n", f->name);
                c->skip = NULL;
                gaps++;
                continue;
            }
            printf("    form %s\n", f->name);
            return;
        }
        if (dev.unsupported && f->optional) {
            printf("    %s: the engine answers EMULATION\n", f->name);
            continue;
        }
        /* The bit that mul and shifts leave undefined is the same code either way, so compare all. */
        if (memcmp(&ram, &dev, sizeof(ram)) != 0) {
            for (unsigned r = 0; r < 16; r++)
                if (ram.gpr[r] != dev.gpr[r])
                    printf("    form %s: register %u is 0x%llx, on RAM 0x%llx\n", f->name, r,
                           (unsigned long long)dev.gpr[r], (unsigned long long)ram.gpr[r]);
            for (unsigned b = 0; b < AREA; b++)
                if (ram.area[b] != dev.area[b])
                    printf("    form %s: byte %d is 0x%x, on RAM 0x%x\n", f->name, (int)b - 32,
                           dev.area[b], ram.area[b]);
            if (ram.flags != dev.flags)
                printf("    form %s: flags 0x%llx, on RAM 0x%llx\n", f->name,
                       (unsigned long long)dev.flags, (unsigned long long)ram.flags);
        }
        CHECK(memcmp(&ram, &dev, sizeof(ram)) == 0);
    }
    CHECK(gaps < sizeof(forms) / sizeof(forms[0]));
    CHECK(c->dev_accesses > 50);
}

GUEST(g_real, 16, "mov ebx, 0xe0000100; mov ax, 0x1234; mov [ebx], ax; mov ecx, [ebx];"
                  "mov byte ptr [ebx + 3], 0x77; out 0x7e, al");

/* Real mode reaches high memory with a segment limit of 4 GiB ("unreal" mode). */
static void real_mode_reaches_devices(struct conf *c)
{
    LOAD(REAL16, g_real);
    c->st->seg[VMC_DS].limit = ~0u;
    c->st->seg[VMC_DS].attr |= VMC_SEG_G;
    memset(c->dev + 0x100, 0xcc, 4);
    if (!conf_set(c, VMC_ST_SEG) || !conf_serve(c))
        return;
    if (c->x.kind == VMC_EXIT_IO && c->x.u.io.port == VECTOR)
        SKIP("the engine's real mode keeps 64 KiB limits");
    CHECK(conf_is_out(c, END));
    CHECK_EQ(c->dev[0x100] | c->dev[0x101] << 8, 0x1234);
    CHECK_EQ(c->dev[0x103], 0x77);
    CHECK_EQ(c->dev_accesses, 3);
    conf_complete(c);
    if (!conf_get(c, VMC_ST_GPR))
        return;
    CHECK_EQ(c->st->gpr[VMC_RCX], 0xcccc1234);
}

GUEST(g_widths, 64, "mov ebx, 0xe0000200; mov [rbx], al; mov [rbx], ax; mov [rbx], eax;"
                    "mov [rbx], rax; out 0x7e, al");

static void widths_are_told_exactly(struct conf *c)
{
    static const unsigned width[] = {1, 2, 4, 8};

    LOAD(LONG64, g_widths);
    for (unsigned i = 0; i < 4; i++) {
        if (!conf_run(c))
            return;
        CHECK_EQ(c->x.kind, VMC_EXIT_MMIO);
        CHECK_EQ(c->x.u.mmio.gpa, 0xe0000200);
        CHECK_EQ(c->x.u.mmio.bytes, width[i]);
        CHECK(c->x.u.mmio.write);
        conf_complete(c);
    }
}

const struct conf_test conf_mmio_tests[] = {
    {"widths_are_told_exactly", widths_are_told_exactly},
    {"every_form", every_form},
    {"real_mode_reaches_devices", real_mode_reaches_devices},
    {NULL, NULL},
};
