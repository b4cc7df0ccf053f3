/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Changes of mode: random programs in page 0, which real mode and every kind of page table map one
 * to one, that set and clear bits of CR0, CR4 and EFER, load CR3, and jump to code segments of 16,
 * 32 and 64 bits: real mode, 16-bit and 32-bit protected mode, with and without paging, PAE,
 * compatibility and 64-bit mode, and what lies between them until a far jump. Some of it faults.
 * What the registers say, which page table is in use, how wide instructions and pushes are, and the
 * frames of exceptions make one sum, which Bochs 2.7 has, too.
 */
#include "kern.h"

#ifndef SEED
#define SEED    1u
#define CASES   4000u
#define SUM     0xb8d9ea2du
#define VERBOSE 0
#endif
#include "code.h"
#include "sum.h"

/* Page 0. */
#define GDT     0x000u
#define IVT16   0x080u /* of real mode with 16-bit code, ... */
#define IVT32   0x0c0u /* ... and with the 32-bit code that protected mode leaves */
#define IDT32   0x100u
#define IDT64   0x180u
#define STUBS   0x280u /* 0xc0 bytes for each of them */
#define IDTRS   0x580u /* 16 bytes each */
#define RESUME  0x5c0u /* where the program goes on behind an exception: offset, selector */
#define SLOTS   0x5c8u /* far pointers */
#define PROGRAM 0x640u
#define END     0xe80u
#define STACK   0xfc0u
/* Others. */
#define MARK   0x2000u /* 32-bit page tables have WINDOW there */
#define WINDOW 0x5000u /* a table of any kind, with FRAME or the one behind it at 0 */
#define ROOT   0x6000u /* a table of any kind; in the one behind it PDPTE 1 has a reserved bit */
#define NEXT   0x8000u /* the table below it, of any kind */
#define LOG    0x10000u
#define FRAME  0x400000u

#define CR0_PE    1u
#define CR0_NW    (1u << 29)
#define CR0_CD    (1u << 30)
#define CR4_SOME  0x3006dcu /* TSD DE PSE MCE PGE OSFXSR OSXMMEXCPT SMEP SMAP */
#define CR4_PCIDE (1ul << 17)
#define EFER_SCE  1u
#define EFER_LME  0x100u
#define EFER_LMA  0x400u

enum {
    S_16 = 8,
    S_32 = 0x10,
    S_64 = 0x18,
    S_BOTH = 0x20,
    S_FLAT = 0x28,
    S_64K = 0x30,
    S_16B = 0x38,
    S_B0 = 0x40,
    S_GONE = 0x48
};
static const uint64_t descriptors[16] = {
    0,
    0x00009b000000ffff,
    0x00cf9b000000ffff,
    0x00af9b000000ffff,
    0x00ef9b000000ffff, /* L and D */
    0x00cf93000000ffff,
    0x000093000000ffff,
    0x000093000000000f,
    0x008f93000000ffff,
    0x00cf1b000000ffff,
};

/* Where the program is, as it is written. */
static struct {
    uint32_t cr0, cr4, cr3, efer;
    uint32_t code; /* the descriptor that code has its width from */
    bool stale;    /* the TLB may know what is no longer in a table */
    bool accessed; /* by a bit that PDPTEs must not have */
} now;
static uint32_t slot;

static volatile uint32_t *word(uint32_t pa)
{
    __asm__("" : "+r"(pa)); /* compilers have opinions about low addresses */
    return (volatile uint32_t *)(unsigned long)pa;
}
static uint32_t here(void)
{
    return (uint32_t)(unsigned long)at;
}

static bool protected(void)
{
    return (now.cr0 & CR0_PE) != 0;
}
static bool paged(void)
{
    return (now.cr0 & CR0_PG) != 0;
}
static bool in_long(void)
{
    return (now.efer & EFER_LMA) != 0;
}
static unsigned bits(void)
{
    switch (now.code) {
    case S_16:
        return 16;
    case S_64:
        return in_long() ? 64 : 16;
    default:
        return 32;
    }
}

/* ---- instructions in code of any width ------------------------------------------------------- */

static unsigned bits_now; /* of what is being written */

static void op(unsigned o, unsigned modrm) /* of 32 bits */
{
    if (bits_now == 16)
        b(0x66);
    if (o > 0xff)
        b(o >> 8);
    b(o), b(modrm);
}
static void op_at(unsigned o, unsigned reg, uint32_t address)
{
    op(o, reg << 3 | (bits_now == 64 ? 4 : bits_now == 32 ? 5 : 6));
    if (bits_now == 64)
        b(0x25);
    if (bits_now == 16)
        w(address);
    else
        d(address);
}
static void mov_imm(unsigned reg, uint32_t v)
{
    if (bits_now == 16)
        b(0x66);
    b(0xb8 | reg), d(v);
}
static void store(uint32_t address, uint32_t v)
{
    op_at(0xc7, 0, address), d(v);
}
static void log_eax(void)
{
    if (bits_now == 16)
        b(0x67), b(0x66);
    b(0xab); /* stosd */
}
static void log_op(unsigned o, unsigned modrm)
{
    op(o, modrm);
    log_eax();
}

/* ---- exceptions ------------------------------------------------------------------------------ */

/* The handlers of one kind: the vector, ESP, six words of the stack, CR2; then to RESUME. */
static void handlers(unsigned kind, unsigned width)
{
    uint32_t table[] = {IVT16, IVT32, IDT32, IDT64}, base = STUBS + 0xc0 * kind;

    bits_now = width;
    at = (uint8_t *)word(base);
    for (unsigned v = 0; v < 16; v++) {
        b(0xb0), b(v); /* mov al, v; jmp */
        b(0xeb), b(base + 64 - here() - 1);
        if (kind < 2)
            *word(table[kind] + 4 * v) = base + 4 * v;
        else {
            *word(table[kind] + 8 * (kind - 1) * v) = (base + 4 * v) | (kind == 3 ? S_64 : S_32)
                                                                           << 16;
            *word(table[kind] + 8 * (kind - 1) * v + 4) = 0x8e00;
        }
    }
    log_op(0x0fb6, 0xc0); /* movzx eax, al */
    log_op(0x89, 0xe0);
    for (unsigned n = 0; n < 6; n++) { /* mov eax, [esp + 4n] */
        if (width == 16)
            b(0x67);
        op(0x8b, 0x44), b(0x24), b(4 * n);
        log_eax();
    }
    log_op(0x0f20, 0xd0);
    mov_imm(4, STACK);
    op_at(0xff, 5, RESUME); /* jmp far */
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idtr = {(uint16_t)(kind < 2    ? 63
                                                 : kind == 2 ? 127
                                                             : 255),
                                      table[kind]};
    memcpy((void *)word(IDTRS + 16 * kind), &idtr, sizeof(idtr));
}

static void load_idtr(void)
{
    unsigned kind = in_long() ? 3 : protected() ? 2 : bits() == 32 ? 1 : 0;

    op_at(0x0f01, 3, IDTRS + 16 * kind);
}

/* What follows may fault and goes on where land() is, then. */
static uint32_t *resume;
static void may_fault(void)
{
    bits_now = bits();
    store(RESUME + 4, protected() ? now.code : 0);
    store(RESUME, 0);
    resume = (uint32_t *)(void *)(at - 4);
}
static void land(void)
{
    *resume = here();
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void read_state(void)
{
    log_op(0x0f20, 0xc0);
    log_op(0x0f20, 0xe0);
    mov_imm(1, MSR_EFER);
    b(0x0f), b(0x32); /* rdmsr */
    log_eax();
    log_op(0x8c, 0xc8); /* cs */
#if VERBOSE > 1
    print(" (%x: %x %x %x)", here(), now.cr0, now.cr4, now.efer);
#endif
}

/* Sets bit 63 of RAX at times, where there is one. */
static bool high_bit(void)
{
    if (bits() != 64 || rnd(12) != 0)
        return false;
    b(0x48), b(0x0f), b(0xba), b(0xe8), b(63); /* bts rax, 63 */
    return true;
}

/* The PDPTEs that CR3 says would be loaded, and are bad. */
static bool bad_pdptes(uint32_t cr0, uint32_t cr4, uint32_t cr3)
{
    return (cr0 & CR0_PG) != 0 && (cr4 & CR4_PAE) != 0 && !in_long() &&
           ((cr3 & 0x1000) != 0 || now.accessed);
}

static bool cr0_ok(uint32_t v)
{
    bool on = (v & CR0_PG) != 0, lme = (now.efer & EFER_LME) != 0;

    if ((on && (v & CR0_PE) == 0) || ((v & CR0_NW) != 0 && (v & CR0_CD) == 0))
        return false;
    if (on && !paged())
        return lme ? (now.cr4 & CR4_PAE) != 0 && now.code != S_64 && now.code != S_BOTH
                   : !bad_pdptes(v, now.cr4, now.cr3);
    return on || !paged() || (bits() != 64 && (now.cr4 & CR4_PCIDE) == 0);
}

static void step_cr0(uint32_t v)
{
    v ^= rnd(3) == 0 ? CR0_PE : 0;
    v ^= rnd(8) == 0 ? CR0_CD : 0;
    v ^= rnd(24) == 0 ? CR0_NW : 0;
    v ^= rnd(16) << 1; /* MP EM TS ET, NE, WP, AM; the order is not the compiler's to choose */
    v ^= rnd(2) << 5;
    v ^= rnd(2) << 16;
    v ^= rnd(2) << 18;
    v |= 0x10;
    if ((v & CR0_PG) != 0) /* PDPTEs have no R/W, which makes page 0 read-only for other modes */
        v &= ~CR0_WP;
    if ((v & CR0_PE) == 0 && (now.code == S_64 || now.code == S_BOTH))
        v |= CR0_PE; /* L in real mode is nobody's business */
    if (!paged()) {
        store(ROOT, NEXT | 1);
        store(ROOT + 8, WINDOW | 1);
        now.accessed = false;
    }
    may_fault();
    mov_imm(0, v);
    bool high = high_bit();
    b(0x0f), b(0x22), b(0xc0);
    if (!high && cr0_ok(v)) {
        if (((v ^ now.cr0) & CR0_PG) != 0) {
            now.stale = false;
            now.efer &= ~EFER_LMA;
            if ((v & CR0_PG) != 0 && (now.efer & EFER_LME) != 0)
                now.efer |= EFER_LMA;
        }
        now.cr0 = v;
        load_idtr();
    }
    land();
    read_state();
}

static void step_cr4(uint32_t v)
{
    v ^= rnd(4) == 0 ? CR4_PCIDE : 0;
    v ^= rnd(0x10000) & CR4_SOME;
    v ^= rnd(0x10000) << 16 & CR4_SOME;
    may_fault();
    mov_imm(0, v);
    bool ok = !high_bit();
    b(0x0f), b(0x22), b(0xe0);
    if ((in_long() && (v & CR4_PAE) == 0) || bad_pdptes(now.cr0, v, now.cr3))
        ok = false;
    if ((v & ~now.cr4 & CR4_PCIDE) != 0 && (!in_long() || (now.cr3 & 0xfff) != 0))
        ok = false;
    if (ok) {
        if (((v ^ now.cr4) & (CR4_PAE | CR4_PGE)) != 0)
            now.stale = false;
        now.cr4 = v;
    }
    land();
    read_state();
}

static void step_efer(uint32_t v)
{
    v ^= rnd(2) != 0 ? EFER_SCE : 0;
    v ^= rnd(2) != 0 ? EFER_NXE : 0;
    uint32_t high = rnd(12) == 0 ? 1u << rnd(32) : 0;

    may_fault();
    mov_imm(0, v);
    mov_imm(1, MSR_EFER);
    mov_imm(2, high);
    b(0x0f), b(0x30); /* wrmsr */
    if (high == 0 && !(paged() && ((v ^ now.efer) & EFER_LME) != 0))
        now.efer = v;
    land();
    read_state();
}

static void step_cr3(void)
{
    uint32_t v = ROOT + 0x1000 * (rnd(4) == 0), cr4 = now.cr4;

    if ((cr4 & CR4_PCIDE) != 0 ? rnd(2) != 0 : rnd(6) == 0)
        v |= (cr4 & CR4_PCIDE) != 0 ? rnd(4) : 0x18;
    may_fault();
    mov_imm(0, v);
    bool keep = high_bit();
    b(0x0f), b(0x22), b(0xd8);
    if (!(keep && (cr4 & CR4_PCIDE) == 0) && !bad_pdptes(now.cr0, cr4, v)) {
        now.stale = now.stale && ((cr4 & CR4_PCIDE) != 0 || keep);
        now.cr3 = v;
    }
    land();
    log_op(0x0f20, 0xd8);
}

static void step_jump(void)
{
    static const uint8_t to[] = {S_16, S_16,   S_32,   S_32,   S_64, S_64,
                                 S_64, S_BOTH, S_FLAT, S_GONE, 0,    0xf8};
    uint32_t sel = protected() ? to[rnd(sizeof(to))] : 0, *off;
    bool ok = sel < S_BOTH || (sel == S_BOTH && !in_long());

    if (protected() && sel == 0)
        ok = false;
    may_fault();
    if (bits() == 64) {
        op_at(0xff, 5, slot);
        off = (uint32_t *)(void *)word(slot);
        off[1] = sel;
        slot += 8;
    } else {
        if (bits() == 16)
            b(0x66);
        b(0xea);
        off = (uint32_t *)(void *)at;
        d(0), w(sel);
    }
    *off = here();
    land();
    if (ok && protected()) {
        now.code = sel;
        *resume = 0; /* where nothing is */
        bits_now = bits();
    }
    log_op(0x8c, 0xc8);
}

/* Reads, or writes, where tables of different kinds have different things. */
static void step_access(void)
{
    static const uint32_t flat[] = {MARK, 0x12344, FRAME, 0x800000};
    static const uint32_t mapped[] = {MARK,       0x12344,    FRAME,      0x800000,
                                      0x40000000, 0x40200000, 0xc0000000, 0x80000000};
    uint32_t la = paged() ? mapped[rnd(8)] : flat[rnd(4)];

    if (now.stale && (la == 0x800000 || la == 0x40000000))
        la = 0x12344;
    bool write = la >= FRAME && rnd(3) == 0;
    may_fault();
    mov_imm(3, write ? la + 8 : la);
    mov_imm(0, 0x11);
    if (bits_now == 16)
        b(0x67);
    op(write ? 0x89 : 0x8b, 0x03); /* [ebx] */
    land();
    log_eax();
}

static void step_poke(void)
{
    store(WINDOW, (FRAME + 0x200000 * rnd(2)) | 0xe3);
    now.stale = true;
}

static void step_fs(void)
{
    static const uint8_t protected_sel[] = {S_FLAT, S_64K, S_16B, S_32, S_64, S_GONE, 0xf8};
    static const uint16_t off[] = {0, 12, 13, 0x10, 0xfffc, 0xfffe};
    uint32_t sel = protected() ? protected_sel[rnd(7)] : 0x200 + 0x300 * rnd(2);

    if (rnd(2) != 0) {
        may_fault();
        mov_imm(0, sel);
        b(0x8e), b(0xe0);
        land();
        log_op(0x8c, 0xe0);
    }
    may_fault();
    mov_imm(0, 0x22);
    b(0x64);
    op_at(0x8b, 0, off[rnd(6)]);
    land();
    log_eax();
}

static void step_stack(void)
{
    if (rnd(3) == 0) {
        mov_imm(0, !protected() ? 0 : rnd(2) != 0 ? S_FLAT : S_B0);
        b(0x8e), b(0xd0); /* mov ss */
    }
    b(0x50); /* push eax */
    log_op(0x89, 0xe0);
    b(0x58);
    op(0x31, 0xc0);   /* xor eax, eax */
    b(0x40), b(0x90); /* inc eax or a prefix; nop */
    log_eax();
}

static void step_word(void) /* machine status word */
{
    uint32_t v = rnd(16);

    if (rnd(4) == 0) {
        b(0x0f), b(0x06); /* clts */
        now.cr0 &= ~8u;
    } else {
        may_fault();
        mov_imm(0, v);
        b(0x0f), b(0x01), b(0xf0); /* lmsw */
        now.cr0 = (now.cr0 & ~0xeu) | v;
        load_idtr();
        land();
    }
    log_op(0x0f01, 0xe0); /* smsw */
    read_state();
}

static void step(void)
{
    bits_now = bits();
    if (paged() && (in_long() || (now.cr4 & CR4_PAE) == 0))
        now.accessed = true;
    switch (rnd(16)) {
    case 0:
    case 1:
    case 2:
        step_cr0(now.cr0 ^ (rnd(paged() ? 4 : 2) == 0 ? CR0_PG : 0));
        break;
    case 3:
    case 4:
        step_cr4(now.cr4 ^ (rnd(2) != 0 ? CR4_PAE : 0));
        break;
    case 5:
    case 6:
        step_efer(now.efer ^ (rnd(2) != 0 ? EFER_LME : 0));
        break;
    case 7:
        step_cr3();
        break;
    case 8:
    case 9:
    case 10:
        step_jump();
        break;
    case 11:
        step_access();
        break;
    case 12:
        if (rnd(2) != 0)
            step_poke();
        else
            step_access();
        break;
    case 13:
        step_fs();
        break;
    case 14:
        if (rnd(2) != 0)
            step_word();
        else
            step_stack();
        break;
    default:
        may_fault();
        b(0xcc); /* int3 */
        land();
    }
}

/* ---- a program ------------------------------------------------------------------------------- */

/* To 32-bit protected mode without paging, and out of page 0. */
static void go_back(void)
{
    extern uint8_t modes_back[];

    bits_now = bits();
    if (bits_now == 64) {
        op_at(0xff, 5, slot);
        word(slot)[0] = here(), word(slot)[1] = S_32;
        bits_now = 32;
    }
    if (in_long()) { /* without PCIDE */
        mov_imm(0, CR4_PAE);
        b(0x0f), b(0x22), b(0xe0);
    }
    mov_imm(0, 0x11);
    b(0x0f), b(0x22), b(0xc0);
    if (bits_now == 16)
        b(0x66);
    b(0xea), d((uint32_t)(unsigned long)modes_back), w(S_32);
}

static void program(void)
{
    static const uint8_t loads[] = {0xd8, 0xc0, 0xd0, 0xe0}; /* ds, es, ss, fs */

    now.cr0 = 0x11, now.cr4 = 0, now.cr3 = ROOT, now.efer = 0;
    now.code = S_32, now.stale = false;
    slot = SLOTS;
    at = (uint8_t *)word(PROGRAM);
    bits_now = 32;
    mov_imm(0, S_FLAT);
    for (unsigned n = 0; n < sizeof(loads); n++)
        b(0x8e), b(loads[n]);
    mov_imm(4, STACK);
    mov_imm(7, LOG);
    mov_imm(0, ROOT);
    b(0x0f), b(0x22), b(0xd8);
    load_idtr();
    if (rnd(2) != 0) { /* most likely to compatibility mode */
        step_cr4(CR4_PAE);
        step_efer(EFER_LME);
        step_cr0(now.cr0 | CR0_PG);
    }
    while (here() < END - 160 && slot < PROGRAM - 16)
        step();
    go_back();
}

static void prepare(void)
{
    memset((void *)word(0), 0, 0x1000);
    memcpy((void *)word(GDT), descriptors, sizeof(descriptors));
    handlers(0, 16), handlers(1, 32), handlers(2, 32), handlers(3, 64);
    memset((void *)word(LOG), 0, 0x1000);
    for (uint32_t n = 0; n < 2; n++) {
        *word(ROOT + 0x1000 * n) = NEXT | 1;
        *word(ROOT + 0x1000 * n + 8) = WINDOW | 1 | n << 1;
        *word(FRAME + 0x200000 * n) = 0xf00 + n;
        *word(FRAME + 0x200000 * n + 8) = 0xe00 + n;
    }
    *word(NEXT) = 0x83;           /* page 0, or all of 2 MiB, or all of 1 GiB */
    *word(NEXT + 8) = WINDOW | 3; /* MARK */
    *word(NEXT + 4 * 5) = 0x5003; /* these are of 32-bit tables */
    *word(NEXT + 4 * 16) = 0x10003;
    *word(WINDOW) = FRAME | 0xe3;
    *word(MARK) = 0x1234;
    *word(0x800000) = 0x5678, *word(0x800008) = 0x9abc;
    *word(0x12344) = 0xdef0;
}

void modes_go(void);
__asm__(".text\n.globl modes_go, modes_back\nmodes_go:\n"
        "  pushl %ebx\n pushl %ebp\n pushl %esi\n pushl %edi\n pushfl\n"
        "  pushl $2\n popfl\n" /* what the C code left there is the compiler's */
        "  movl %esp, modes_sp\n sidtl modes_idtr\n sgdtl modes_gdtr\n lgdtl modes_low\n"
        "  ljmpl $0x10, $0x640\n"
        "modes_back:\n"
        "  lgdtl modes_gdtr\n lidtl modes_idtr\n ljmpl $0x08, $1f\n"
        "1: movw $0x10, %ax\n movw %ax, %ds\n movw %ax, %es\n movw %ax, %fs\n movw %ax, %ss\n"
        "  movl modes_sp, %esp\n"
        "  xorl %eax, %eax\n movl %eax, %cr4\n xorl %edx, %edx\n movl $0xc0000080, %ecx\n wrmsr\n"
        "  popfl\n popl %edi\n popl %esi\n popl %ebp\n popl %ebx\n ret\n"
        ".data\nmodes_sp: .long 0\nmodes_idtr: .quad 0\nmodes_gdtr: .quad 0\n"
        "modes_low: .word 127\n .long 0\n.text\n");

void test_main(void)
{
    for (uint32_t n = 0; n < CASES; n++) {
        prepare();
        program();
#if VERBOSE
        print("%u:", n);
#endif
        modes_go();
        uint32_t logged = 1024;
        while (logged > 0 && *word(LOG + 4 * logged - 4) == 0)
            logged--;
        for (uint32_t i = 0; i < logged; i++)
            add(*word(LOG + 4 * i));
        add(*word(ROOT)), add(*word(ROOT + 8)), add(*word(ROOT + 0x1000)),
            add(*word(ROOT + 0x1008));
        add(*word(NEXT)), add(*word(NEXT + 8)), add(*word(NEXT + 20)), add(*word(NEXT + 64));
        add(*word(WINDOW));
        add(*word(FRAME + 8)), add(*word(FRAME + 0x200008)), add(*word(0x800008));
#if VERBOSE
        print("\n");
#endif
    }
    CHECK(sum == SUM, "sum is %x", sum);
}
