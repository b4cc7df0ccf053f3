/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest code from hostile machine states: the input is a state (mode, registers, segments, control
 * bits), a piece of memory and code. Whatever it is, the software CPU must come back within its
 * instruction budget, and must not touch host memory outside the guest's. Half of the inputs run
 * twice, interpreted and translated: exits, state and memory must be the same, unless they have
 * changed their own page tables.
 *
 * Layout of an input: byte 0 mode, byte 1 flags, then 64 bytes of register seeds, 16 bytes of
 * state perturbations, then code bytes (the first 512), then descriptor and page table bytes.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vmcore/engine.h>
#include <vmcore/x86.h>

#include "fuzz_platform.h"

#define RAM            (256u << 10)
#define CODE           0x10000u
#define TABLES         0x1000u
#define TABLES_BYTES   0x4000u
#define ACCESSED_DIRTY 0x60u
#define GDT            0x5000u
#define IDT            0x6000u
#define TSS            0x7000u
#define BUDGET         400u
/* The last page's worth of a budget is always interpreted. */
#define BUDGET_TWINS (BUDGET + 4096u)
#define EXITS        16u
#define XSAVE_BV     512u
#define XSAVE_PKRU   832u /* CPUID.(DH,9).EBX of the software CPU */
#define GROUPS       (VMC_ST_ALL & ~(uint32_t)VMC_ST_LAPIC)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- platform -------------------------------------------------------------------------------- */

static uint64_t pf_now(void *ctx)
{
    static uint64_t t;
    (void)ctx;
    return t += 1000;
}
static int exec_reserve(void *ctx, size_t bytes, void **rw, const void **rx)
{
    int fd = memfd_create("fuzz", 0);

    (void)ctx;
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0)
        return VMC_ENOMEM;
    *rw = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    *rx = mmap(NULL, bytes, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    close(fd);
    return *rw == MAP_FAILED || *rx == MAP_FAILED ? VMC_ENOMEM : VMC_OK;
}
static void exec_release(void *ctx, void *rw, const void *rx, size_t bytes)
{
    (void)ctx;
    munmap(rw, bytes);
    munmap((void *)(uintptr_t)rx, bytes);
}
static const struct vmc_exec_ops exec_ops = {exec_reserve, exec_release};
static const struct vmc_platform pf = {.size = sizeof(pf),
                                       .alloc = fuzz_alloc,
                                       .free = fuzz_free,
                                       .now_ns = pf_now,
                                       .bug = fuzz_bug,
                                       .exec = &exec_ops};

/* ---- devices: claim some, refuse some -------------------------------------------------------- */

static int io_pio(void *ctx, bool write, uint16_t port, unsigned bytes, uint32_t *data)
{
    (void)ctx;
    (void)bytes;
    if (port & 1)
        return VMC_IO_EXIT;
    if (!write)
        *data = port * 0x01010101u;
    return VMC_IO_DONE;
}
static int io_mmio(void *ctx, bool write, uint64_t gpa, unsigned bytes, uint64_t *data)
{
    (void)ctx;
    (void)bytes;
    if (gpa & 0x1000)
        return VMC_IO_EXIT;
    if (!write)
        *data = gpa;
    return VMC_IO_DONE;
}
static int io_msr(void *ctx, bool write, uint32_t index, uint64_t *value)
{
    (void)ctx;
    if (index & 1)
        return (index & 2) != 0 ? VMC_IO_EXIT : VMC_IO_GP;
    if (!write)
        *value = index;
    return VMC_IO_DONE;
}
static int io_irq(void *ctx)
{
    (void)ctx;
    return -1;
}

/* ---- the machines ---------------------------------------------------------------------------- */

struct machine {
    const struct vmc_engine_ops *ops;
    struct vmc_mem *mem;
    uint8_t *ram; /* lies between two inaccessible pages */
    void *evm, *ev;
    struct vmc_engine_io io;
};

static void require(bool ok, const char *what, int line)
{
    if (ok)
        return;
    fprintf(stderr, "line %d: not so: %s\n", line, what);
    abort();
}
#define must(x) require((x), #x, __LINE__)

static void set_up(struct machine *m, uint32_t flags)
{
    struct vmc_error err;
    struct vmc_engine_info info;
    struct vmc_soft_config soft = {.size = sizeof(soft), .flags = flags};
    uint8_t *map = mmap(NULL, RAM + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    m->ops = vmc_engine_soft();
    must(map != MAP_FAILED);
    m->ram = map + 4096;
    must(mprotect(m->ram, RAM, PROT_READ | PROT_WRITE) == 0);
    must(vmc_mem_create(&pf, &m->mem, &err) == 0);
    struct vmc_mem_slot slot = {
        .size = sizeof(slot), .attr = VMC_MEM_RAM, .bytes = RAM, .backing = m->ram};
    must(vmc_mem_add(m->mem, &slot, &err) == 0);
    must(m->ops->probe(&pf, &info, &err) == 0);
    m->evm = fuzz_alloc(NULL, info.vm_bytes, 64);
    m->ev = fuzz_alloc(NULL, info.vcpu_bytes, 64);
    memset(m->evm, 0, info.vm_bytes);
    memset(m->ev, 0, info.vcpu_bytes);
    struct vmc_engine_vm_config cfg = {.size = sizeof(cfg),
                                       .max_vcpus = 1,
                                       .platform = &pf,
                                       .mem = m->mem,
                                       .engine_config = &soft,
                                       .flags = VMC_ENGINE_VIRTUAL_TIME};
    must(m->ops->vm_init(m->evm, &cfg, &err) == 0);
    m->io = (struct vmc_engine_io){
        .pio = io_pio, .mmio = io_mmio, .msr = io_msr, .irq_pending = io_irq, .irq_ack = io_irq};
    must(m->ops->vcpu_init(m->evm, m->ev, 0, &m->io, &err) == 0);
    must(m->ops->set_policy(m->evm, &info.ceiling, &err) == 0);
}

/* ---- an input -------------------------------------------------------------------------------- */

struct input {
    const uint8_t *p;
    size_t n;
};

static uint8_t u8(struct input *in)
{
    if (in->n == 0)
        return 0;
    in->n--;
    return *in->p++;
}
static uint32_t u32(struct input *in)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < 4; i++)
        v |= (uint32_t)u8(in) << (8 * i);
    return v;
}

/* Registers near something: small, in RAM, at page ends, non-canonical, all ones. */
static uint64_t reg_value(uint32_t seed)
{
    uint64_t v = seed & 0xffffff;

    switch (seed >> 28) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
    case 5:
        return v % RAM;
    case 6:
    case 7:
        return (v << 12) % RAM + 0xff8 + (seed & 7);
    case 8:
        return ~v;
    case 9:
        return v << 40;
    case 10:
        return 0x7fffffffff00ull + (v & 0x1ff);
    case 11:
        return 0xfffffff0u + (v & 31);
    default:
        return v;
    }
}

static void segments(struct vmc_x86_state *st, unsigned bits, unsigned cpl, struct input *in)
{
    for (unsigned i = 0; i < 6; i++) {
        uint32_t type = i == VMC_CS ? 0x9b : 0x93;
        st->seg[i] = (struct vmc_segment){
            .selector = (uint16_t)(i == VMC_CS ? 8 | cpl : 16 | cpl),
            .limit = bits == 16 ? 0xffff : 0xffffffff,
            .attr = type | cpl << VMC_SEG_DPL_SHIFT | (bits == 16 ? 0 : VMC_SEG_G) |
                    (bits == 32 || i != VMC_CS ? (bits == 16 ? 0 : VMC_SEG_DB) : 0) |
                    (bits == 64 && i == VMC_CS ? VMC_SEG_L : 0)};
    }
    uint8_t odd = u8(in);
    if (odd & 0x80) { /* one data segment of another kind */
        struct vmc_segment *s = &st->seg[odd % 6 == VMC_CS ? VMC_DS : odd % 6];
        s->limit = u32(in) >> (odd & 0x1f);
        s->base = bits == 64 ? 0 : u32(in) % RAM;
        s->attr = (s->attr & ~(uint32_t)VMC_SEG_TYPE) | (odd & 0xf);
    }
    st->seg[VMC_TR] =
        (struct vmc_segment){.selector = 0x28, .base = 0x7000, .limit = 0x67 + odd, .attr = 0x8b};
    st->seg[VMC_LDTR] = (struct vmc_segment){.attr = VMC_SEG_UNUSABLE};
}

static void page_tables(uint8_t *ram, unsigned bits, const struct vmc_x86_state *st)
{
    uint64_t *t = (uint64_t *)(void *)(ram + TABLES);
    bool keys = (st->cr4 & VMC_CR4_PKE) != 0;

    if (bits == 64) {
        t[0] = (TABLES + 0x1000) | 7;
        t[512] = (TABLES + 0x2000) | 7;
        t[1024] = 0x87 | (keys ? (st->gpr[VMC_RBX] & 15) << 59 : 0);
        t[1536] = TABLES | 7; /* the root of 5 levels */
        t[1025] = 0xc0000087; /* devices */
    } else {
        uint32_t *p = (uint32_t *)(void *)(ram + TABLES);
        p[0] = 0x87;
        p[1] = 0xc0000087;
    }
}

/*
 * One descriptor of each type at each privilege level, two thirds of them pointing at code or at
 * task state segments, and an IDT full of gates: what the tail of the input then damages.
 */
static void descriptor_tables(uint8_t *ram, unsigned bits)
{
    uint64_t *gdt = (uint64_t *)(void *)(ram + GDT), *idt = (uint64_t *)(void *)(ram + IDT);

    for (unsigned i = 1; i < 256; i++) {
        uint64_t type = i & 0x1f, dpl = i >> 5 & 3, wide = i >> 7;
        uint64_t base = type < 16 && (type & 4) == 0 ? TSS + 0x80 * dpl : 0;
        uint64_t gran = wide != 0 ? (bits == 64 && (type & 0x18) == 0x18 ? 0xa : 0xc) : 0;
        uint64_t limit = type < 16 ? 0x67 : 0xffff;
        gdt[i] = limit | base << 16 | (type | dpl << 5 | 0x80) << 40 | gran << 52;
        if (type < 16 && (type & 4) != 0) /* gates */
            gdt[i] = (CODE + 0x10 * dpl) | (uint64_t)(8 * (i * 7 & 0x7f)) << 16 |
                     (type | dpl << 5 | 0x80) << 40;
    }
    gdt[1] = bits == 64   ? 0x00af9b000000ffffull
             : bits == 32 ? 0x00cf9b000000ffffull
                          : 0x00009b010000ffffull;
    gdt[2] = 0x00cf93000000ffffull;
    for (unsigned i = 0; i < 512; i++) {
        uint64_t gate = bits == 16 ? 0x86 + (i & 1) : 0x8e + (i & 1);
        unsigned step = bits == 64 ? 2 : 1;
        if (i % step == 0)
            idt[i] = (CODE + 0x11 * (i & 0x1f)) % 0x10000 | 8ull << 16 | gate << 40 |
                     (uint64_t)(bits == 16 ? 0 : CODE >> 16) << 48;
    }
    for (unsigned i = 0; i < 0x400; i += 4)
        ram[TSS + i + 1] = i < 0x68 ? 0x80 : 0; /* stacks below 64 KiB */
}

static void control_bits(struct input *in, unsigned bits, struct vmc_x86_state *st, bool *twins,
                         bool *tables)
{
    static const uint32_t optional[16] = {
        VMC_CR4_VME, VMC_CR4_PVI, VMC_CR4_TSD,  VMC_CR4_DE,         VMC_CR4_MCE,
        VMC_CR4_PGE, VMC_CR4_PCE, VMC_CR4_SMEP, VMC_CR4_OSXMMEXCPT, VMC_CR4_SMAP,
        0,           0,           VMC_CR4_PKE,  VMC_CR4_LA57};
    uint8_t pick = u8(in);

    st->cr4 = VMC_CR4_OSFXSR | VMC_CR4_PSE | (pick & 1 ? VMC_CR4_OSXSAVE : 0) |
              (bits == 64 ? VMC_CR4_PAE | VMC_CR4_FSGSBASE : 0);
    for (unsigned i = 0; (pick & 4) != 0 && i < 16; i++)
        st->cr4 |= pick >> (i % 8) & 1 ? optional[i] : 0;
    if (bits != 64)
        st->cr4 &= ~(VMC_CR4_PKE | VMC_CR4_LA57);
    if ((st->cr4 & VMC_CR4_PKE) != 0) { /* rights for keys, of which page_tables() uses one */
        st->xsave_bytes = XSAVE_PKRU + 8;
        st->xsave[XSAVE_BV + 1] |= 2;
        memcpy(st->xsave + XSAVE_PKRU, &st->gpr[VMC_RSI], 4);
    }
    *twins = (pick & 2) != 0;
    *tables = (pick & 8) != 0;
}

/* Fills st and RAM; true: run it twice. */
static bool machine_state(struct input *in, uint8_t *ram, struct vmc_x86_state *st)
{
    static const uint8_t widths[4] = {16, 32, 64, 64};
    uint8_t mode = u8(in), flags = u8(in);
    unsigned bits = widths[mode & 3], cpl = bits == 16 ? 0 : (mode & 4) != 0 ? 3 : 0;
    bool paging = bits == 64 || (mode & 8) != 0, twins, tables;

    vmc_x86_state_reset(st);
    for (unsigned i = 0; i < 16; i++)
        st->gpr[i] = reg_value(u32(in));
    segments(st, bits, cpl, in);
    st->rflags = VMC_FLAG_1 | ((uint64_t)flags << 4 & 0xff0) | (mode & 0x10 ? VMC_FLAG_AC : 0) |
                 (mode & 0x20 ? VMC_FLAG_IOPL : 0);
    if (bits == 16 && paging) { /* virtual-8086 */
        st->rflags |= VMC_FLAG_VM;
        cpl = 3;
        for (unsigned i = 0; i < 6; i++)
            st->seg[i] = (struct vmc_segment){.limit = 0xffff, .attr = 0xf3};
    }
    st->cr0 = VMC_CR0_ET | VMC_CR0_NE | (bits != 16 || paging ? VMC_CR0_PE : 0) |
              (paging ? VMC_CR0_PG : 0) | (mode & 0x40 ? VMC_CR0_AM : 0) |
              (mode & 0x80 ? VMC_CR0_TS : VMC_CR0_WP);
    control_bits(in, bits, st, &twins, &tables);
    st->cr3 = (st->cr4 & VMC_CR4_LA57) != 0 ? TABLES + 0x3000 : TABLES;
    if (bits == 64)
        st->efer = VMC_EFER_LME | VMC_EFER_LMA | VMC_EFER_SCE | VMC_EFER_NX;
    st->xcr0 = 7 | VMC_XCR0_PKRU;
    st->gdtr = (struct vmc_table){.base = GDT, .limit = 0xfff};
    st->idtr = (struct vmc_table){.base = IDT, .limit = 0xfff};
    st->rip = bits == 16 ? CODE & 0xffff : CODE;
    if (bits == 16)
        st->seg[VMC_CS].base = CODE, st->seg[VMC_CS].selector = CODE >> 4, st->rip = 0;
    if (u8(in) & 1) { /* code at the end of a page, and of the segment */
        st->rip += 0xffa;
    }
    if (u8(in) & 1) {
        st->dr[0] = reg_value(u32(in));
        st->dr7 = VMC_DR7_FIXED | (u32(in) & 0xff0003);
    }
    page_tables(ram, bits, st);
    if (tables)
        descriptor_tables(ram, bits);
    return twins;
}

/* ---- running --------------------------------------------------------------------------------- */

struct outcome {
    struct vmc_exit exit[EXITS];
    unsigned exits;
    struct vmc_x86_state st;
};

static void finish(struct machine *m, struct vmc_exit *x, struct input *in)
{
    switch (x->kind) {
    case VMC_EXIT_IO:
    case VMC_EXIT_MMIO:
    case VMC_EXIT_MSR:
    case VMC_EXIT_HYPERCALL:
        x->answer = u8(in) % 3;
        must(m->ops->complete(m->ev, x) == 0);
        break;
    default:
        break;
    }
}

/*
 * What the input before has left behind, such as an access whose instruction still has to be
 * counted, and its clock: it need not be the same in both machines (see tables_changed).
 */
static void forget(struct machine *m)
{
    static struct vmc_x86_state halted;
    struct vmc_run_limits now = {.size = sizeof(now)};
    struct vmc_exit x;

    vmc_x86_state_reset(&halted);
    halted.activity = VMC_RUN_HALTED;
    must(m->ops->set_state(m->ev, GROUPS, &halted) == 0);
    do
        must(m->ops->run(m->ev, &now, &x) == 0 && x.kind == VMC_EXIT_IDLE);
    while (x.retired != 0);
}

/* Without deadlines an input has one course; a long REP ends where RAM does. */
static bool run(struct machine *m, const uint8_t *ram, const struct vmc_x86_state *st,
                struct input in, uint64_t left, bool deadlines, struct outcome *o)
{
    uint64_t clock = 0;

    must(vmc_mem_write(m->mem, 0, ram, RAM) == 0);
    forget(m);
    if (m->ops->set_state(m->ev, GROUPS, st) != 0)
        return false;
    for (o->exits = 0; o->exits < EXITS && left > 0;) {
        struct vmc_exit *x = &o->exit[o->exits++];
        struct vmc_run_limits lim = {.size = sizeof(lim),
                                     .max_insns = left,
                                     .virtual_ns = clock,
                                     .deadline_ns = deadlines ? pf_now(NULL) + 3000 : 0};
        memset(x, 0, sizeof(*x));
        must(m->ops->run(m->ev, &lim, x) == 0);
        must(x->retired <= left);
        left -= x->retired;
        clock += x->retired;
        finish(m, x, &in);
        if (x->kind == VMC_EXIT_SHUTDOWN || x->kind == VMC_EXIT_IDLE)
            break;
    }
    must(m->ops->get_state(m->ev, GROUPS, &o->st) == 0);
    return true;
}

static void require_same(const char *what, uint64_t a, uint64_t b)
{
    if (a == b)
        return;
    fprintf(stderr, "interpreted and translated differ in %s: %#llx, %#llx\n", what,
            (unsigned long long)a, (unsigned long long)b);
    abort();
}
#define same(what) require_same(#what, (uint64_t)a->what, (uint64_t)b->what)

static void compare_exits(const struct outcome *one, const struct outcome *two)
{
    unsigned n = one->exits < two->exits ? one->exits : two->exits;

    for (unsigned i = 0; i < n; i++) {
        const struct vmc_exit *a = &one->exit[i], *b = &two->exit[i];
        same(kind);
        same(rip);
        same(retired);
    }
}

static void compare(const struct outcome *one, const struct outcome *two)
{
    const struct vmc_x86_state *a = &one->st, *b = &two->st;

    compare_exits(one, two);
    must(one->exits == two->exits);
    for (unsigned i = 0; i < 16; i++)
        same(gpr[i]);
    same(rip);
    same(rflags);
    same(cr0);
    same(cr2);
    same(cr3);
    same(cr4);
    same(dr6);
    same(dr7);
    same(efer);
    must(memcmp(a->seg, b->seg, sizeof(a->seg)) == 0);
    must(memcmp(a->xsave, b->xsave, sizeof(a->xsave)) == 0);
}

/*
 * Has the guest changed entries of its page tables, or taken others? It may then see what they were
 * until it flushes the TLB, and which accesses do is not the same for both machines.
 */
static bool tables_changed(const uint8_t *was, const struct machine *m, const struct outcome *o,
                           const struct vmc_x86_state *st)
{
    if ((st->cr0 & VMC_CR0_PG) == 0 && (o->st.cr0 & VMC_CR0_PG) == 0)
        return false;
    for (unsigned i = TABLES; i < TABLES + TABLES_BYTES; i += 4)
        if (((was[i] ^ m->ram[i]) & ~ACCESSED_DIRTY) != 0 ||
            memcmp(was + i + 1, m->ram + i + 1, 3) != 0)
            return true;
    return o->st.cr3 != st->cr3 || ((o->st.cr0 ^ st->cr0) & VMC_CR0_PG) != 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct machine interp, transl, timed;
    static struct vmc_x86_state st;
    static struct outcome one, two;
    static uint8_t ram[RAM];
    struct input in = {data, size};

    if (interp.ops == NULL) {
        set_up(&interp, 0);
        set_up(&transl, VMC_SOFT_TRANSLATE_ALL);
        set_up(&timed, 0);
    }
    memset(ram, 0, CODE);
    memset(ram + CODE, 0xf4, sizeof(ram) - CODE); /* HLT: the end */
    bool twins = machine_state(&in, ram, &st);
    uint64_t at = CODE + (st.rip & 0xfff);
    for (unsigned i = 0; i < 512 && in.n > 64; i++)
        ram[at + i] = u8(&in);
    for (unsigned i = 0; i < 512 && in.n > 0; i++)
        ram[GDT + i * 8 % 0x2000 + i / 8] ^= u8(&in);
    if (!twins) {
        (void)run(&timed, ram, &st, in, BUDGET, true, &one);
        return 0;
    }
    if (!run(&interp, ram, &st, in, BUDGET_TWINS, false, &one))
        return 0;
    must(run(&transl, ram, &st, in, BUDGET_TWINS, false, &two));
    if (tables_changed(ram, &interp, &one, &st) || tables_changed(ram, &transl, &two, &st))
        return 0;
    compare(&one, &two);
    must(memcmp(interp.ram, transl.ram, RAM) == 0);
    return 0;
}
