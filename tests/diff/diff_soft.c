/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An engine as an executor: a guest with nothing but page tables, descriptor tables and an interrupt
 * table whose handlers halt. Everything goes through struct vmc_engine_ops, so that any engine that
 * runs long mode can be tested.
 */
#include "cpu/decode/insn.h"
#include "cpu/cpu_int.h"
#include "diff.h"
#include "test_platform.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vmcore/engine.h>
#include <vmcore/x86.h>

/* Guest-physical layout. The first pages are the kernel's, at KERNEL in the upper half. */
#define KERNEL     0xffff800000000000ull
#define MEM_BYTES  0x100000u
#define GDT_PA     0x1000u
#define LDT_PA     0x1800u
#define IDT_PA     0x2000u
#define TSS_PA     0x3000u
#define HANDLER_PA 0x4000u
#define KSTACK_PA  0x6000u
#define KSTACK_TOP 0x7f00u
#define PML4_PA    0x10000u
#define PDPT_PA    0x11000u
#define PD_PA      0x12000u
#define PT_PA      0x13000u /* four: kernel, code, data, stack */
#define KPDPT_PA   0x17000u
#define KPD_PA     0x18000u
#define CODE_PA    0x80000u
#define DATA_PA    0x82000u
#define STACK_PA   0x85000u

#define KCS 0x10u
#define TSS_SEL 0x40u
#define LDT_SEL 0x50u
#define LDT_LIMIT ((DIFF_LDT_SEGS + DIFF_SEGS) * 8 - 1)
#define NX (1ull << 63)

/* A case that runs longer than this hangs; string instructions count each iteration. */
#define INSNS_MAX 200000u

struct soft {
    struct test_platform tp;
    const struct vmc_engine_ops *ops;
    struct vmc_mem *mem;
    void *evm, *ev;
    struct vmc_engine_info info;
    struct vmc_x86_state base;
    struct vmc_x86_state st;
};

/* ---- the guest ------------------------------------------------------------------------------- */

static void put(struct soft *s, uint64_t gpa, const void *p, size_t n)
{
    if (vmc_mem_write(s->mem, gpa, p, n) != VMC_OK)
        abort();
}

static void put64(struct soft *s, uint64_t gpa, uint64_t v)
{
    put(s, gpa, &v, sizeof(v));
}

static uint64_t descriptor(uint32_t base, uint32_t limit, unsigned attr)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(attr & 0xff) << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(attr >> 12 & 15) << 52 |
           (uint64_t)(base >> 24) << 56;
}

static void build_tables(struct soft *s)
{
    put64(s, GDT_PA + KCS, descriptor(0, 0xfffff, 0xa09b));
    put64(s, GDT_PA + 0x18, descriptor(0, 0xfffff, 0xc093));
    put64(s, GDT_PA + 0x20, descriptor(0, 0xfffff, 0xc0fb)); /* DIFF_CS32 */
    put64(s, GDT_PA + 0x28, descriptor(0, 0xfffff, 0xc0f3)); /* DIFF_DS */
    put64(s, GDT_PA + 0x30, descriptor(0, 0xfffff, 0xa0fb)); /* DIFF_CS64 */
    put64(s, GDT_PA + TSS_SEL, descriptor(TSS_PA, 0x67, 0x8b));
    put64(s, GDT_PA + TSS_SEL + 8, KERNEL >> 32);
    put64(s, GDT_PA + LDT_SEL, descriptor(LDT_PA, LDT_LIMIT, 0x82));
    put64(s, GDT_PA + LDT_SEL + 8, KERNEL >> 32);
    put64(s, LDT_PA, descriptor(DIFF_CODE, 0xffff, 0xfb));
    put64(s, LDT_PA + 8, descriptor(DIFF_DATA, 0xffff, 0xf3));
    put64(s, LDT_PA + 16, descriptor(DIFF_STACK, DIFF_PAGE - 1, 0xf3));
    for (unsigned i = 0; i < DIFF_SEGS; i++)
        put64(s, LDT_PA + (DIFF_LDT_SEGS + i) * 8,
              descriptor(diff_segs[i].base, diff_segs[i].limit, diff_segs[i].attr));
    put(s, TSS_PA + 0x66, "\xff\xff", 2); /* no I/O permission map */
    put64(s, TSS_PA + 4, KERNEL + KSTACK_TOP);
    for (unsigned v = 0; v < 256; v++) {
        uint64_t h = HANDLER_PA + v * 16;
        put64(s, IDT_PA + v * 16 + 8, KERNEL >> 32);
        put64(s, IDT_PA + v * 16, (h & 0xffff) | KCS << 16 | (v == 3 || v == 4 ? 0xee00ull : 0x8e00ull) << 32 | (h >> 16) << 48);
        put(s, h, "\xf4\xeb\xfd", 3); /* hlt; jmp to it */
    }
}

static void build_pages(struct soft *s)
{
    put64(s, PML4_PA, PDPT_PA | 7);
    put64(s, PDPT_PA, PD_PA | 7);
    put64(s, PML4_PA + 256 * 8, KPDPT_PA | 3);
    put64(s, KPDPT_PA, KPD_PA | 3);
    put64(s, KPD_PA, PT_PA | 3);
    put64(s, PD_PA + (DIFF_CODE >> 21) * 8, (PT_PA + 0x1000) | 7);
    put64(s, PD_PA + (DIFF_DATA >> 21) * 8, (PT_PA + 0x2000) | 7);
    put64(s, PD_PA + (DIFF_STACK >> 21) * 8, (PT_PA + 0x3000) | 7);
    for (unsigned i = 0; i < 0x10; i++)
        put64(s, PT_PA + i * 8, i * 0x1000 | 3);
    for (unsigned i = 0; i < DIFF_CODE_PAGES; i++)
        put64(s, PT_PA + 0x1000 + i * 8, (CODE_PA + i * 0x1000) | 5);
    for (unsigned i = 0; i < 3; i++)
        put64(s, PT_PA + 0x2000 + i * 8, (DATA_PA + i * 0x1000) | (i < DIFF_DATA_RW ? 7 : 5) | NX);
    put64(s, PT_PA + 0x3000, STACK_PA | 7 | NX);
}

static void segment(struct vmc_segment *g, unsigned sel, uint64_t base, uint32_t limit,
                    uint32_t attr)
{
    *g = (struct vmc_segment){.base = base, .limit = limit, .attr = attr,
                              .selector = (uint16_t)sel};
}

static void base_state(struct soft *s)
{
    struct vmc_x86_state *b = &s->base;
    b->cr0 = VMC_CR0_PE | VMC_CR0_MP | VMC_CR0_ET | VMC_CR0_NE | VMC_CR0_WP | VMC_CR0_AM |
             VMC_CR0_PG;
    b->cr3 = PML4_PA;
    b->cr4 = VMC_CR4_PAE | VMC_CR4_PGE | VMC_CR4_OSFXSR | VMC_CR4_OSXMMEXCPT | VMC_CR4_OSXSAVE |
             VMC_CR4_FSGSBASE;
    b->efer = VMC_EFER_SCE | VMC_EFER_LME | VMC_EFER_LMA | VMC_EFER_NX;
    b->xcr0 = 7;
    b->gdtr.base = KERNEL + GDT_PA;
    b->gdtr.limit = 0x5f;
    b->idtr.base = KERNEL + IDT_PA;
    b->idtr.limit = 0xfff;
    segment(&b->seg[VMC_TR], TSS_SEL, KERNEL + TSS_PA, 0x67, 0x8b);
    segment(&b->seg[VMC_LDTR], LDT_SEL, KERNEL + LDT_PA, LDT_LIMIT, 0x82);
    b->activity = VMC_RUN_RUNNING;
    b->xsave_bytes = sizeof(struct diff_fp);
}

/* kind: of struct diff_case; 0 leaves the usual one. */
static void unusual_segment(struct vmc_segment *g, unsigned kind)
{
    if (kind == 0)
        return;
    const struct diff_seg *d = &diff_segs[kind - 1];
    bool pages = (d->attr & VMC_SEG_G) != 0;
    segment(g, diff_seg_sel(kind), d->base, pages ? d->limit << 12 | 0xfff : d->limit, d->attr);
}

static void set_segments(const struct diff_case *c, struct vmc_x86_state *st)
{
    unsigned ds = c->bits == 64 ? 0 : c->bits == 32 ? DIFF_DS : DIFF_LDT_DATA16;
    uint32_t none = VMC_SEG_UNUSABLE;
    segment(&st->seg[VMC_FS], 0, c->bits == 64 ? DIFF_FS_BASE : 0, 0, none);
    segment(&st->seg[VMC_GS], 0, c->bits == 64 ? DIFF_GS_BASE : 0, 0, none);
    if (c->bits == 16) {
        segment(&st->seg[VMC_CS], DIFF_LDT_CODE16, DIFF_CODE, 0xffff, 0xfb);
        segment(&st->seg[VMC_SS], DIFF_LDT_STACK16, DIFF_STACK, DIFF_PAGE - 1, 0xf3);
        segment(&st->seg[VMC_DS], ds, DIFF_DATA, 0xffff, 0xf3);
    } else {
        bool wide = c->bits == 64;
        segment(&st->seg[VMC_CS], wide ? DIFF_CS64 : DIFF_CS32, 0, ~0u, wide ? 0xa0fb : 0xc0fb);
        segment(&st->seg[VMC_SS], DIFF_DS, 0, ~0u, 0xc0f3);
        segment(&st->seg[VMC_DS], ds, 0, wide ? 0 : ~0u, wide ? none : 0xc0f3);
    }
    st->seg[VMC_ES] = st->seg[VMC_DS];
    unusual_segment(&st->seg[VMC_DS], c->ds);
    unusual_segment(&st->seg[VMC_ES], c->es);
}

/* ---- callbacks: this guest has no devices ---------------------------------------------------- */

static int no_pio(void *ctx, bool write, uint16_t port, unsigned bytes, uint32_t *data)
{
    (void)ctx, (void)write, (void)port, (void)bytes, (void)data;
    return VMC_IO_EXIT;
}
static int no_mmio(void *ctx, bool write, uint64_t gpa, unsigned bytes, uint64_t *data)
{
    (void)ctx, (void)write, (void)gpa, (void)bytes, (void)data;
    return VMC_IO_EXIT;
}
static int no_msr(void *ctx, bool write, uint32_t index, uint64_t *value)
{
    (void)ctx, (void)write, (void)index, (void)value;
    return VMC_IO_GP;
}
static int no_irq(void *ctx)
{
    (void)ctx;
    return -1;
}
static uint64_t no_tpr(void *ctx)
{
    (void)ctx;
    return 0;
}
static void no_set_tpr(void *ctx, uint64_t v)
{
    (void)ctx, (void)v;
}
static const struct vmc_engine_io no_io = {
    .pio = no_pio, .mmio = no_mmio, .msr = no_msr, .irq_pending = no_irq, .irq_ack = no_irq,
    .get_tpr = no_tpr, .set_tpr = no_set_tpr,
};

/* ---- life ------------------------------------------------------------------------------------ */

static int set_policy(struct soft *s, struct vmc_error *err)
{
    struct vmc_cpu_policy p;
    int r = vmc_cpu_policy_preset(&p, "host", &s->info.ceiling, err);
    if (r == VMC_OK)
        r = s->ops->set_policy(s->evm, &p, err);
    return r;
}

static void *engine_create(const struct vmc_engine_ops *ops, const void *config, const char **why)
{
    static struct vmc_error err;
    struct soft *s = aligned_alloc(64, (sizeof(*s) + 63) & ~63ul);
    if (s == NULL)
        return NULL;
    memset(s, 0, sizeof(*s));
    test_platform_init(&s->tp);
    s->ops = ops;
    *why = err.text;
    s->info.size = sizeof(s->info);
    struct vmc_mem_slot slot = {.size = sizeof(slot), .attr = VMC_MEM_RAM, .bytes = MEM_BYTES};
    struct vmc_engine_vm_config cfg = {.size = sizeof(cfg), .max_vcpus = 1, .platform = &s->tp.pf,
                                       .engine_config = config};
    if (ops->probe(&s->tp.pf, &s->info, &err) != VMC_OK ||
        vmc_mem_create(&s->tp.pf, &s->mem, &err) != VMC_OK ||
        vmc_mem_add(s->mem, &slot, &err) != VMC_OK)
        return NULL;
    cfg.mem = s->mem;
    s->evm = aligned_alloc(64, (s->info.vm_bytes + 63) & ~63ul);
    s->ev = aligned_alloc(64, (s->info.vcpu_bytes + 63) & ~63ul);
    memset(s->evm, 0, s->info.vm_bytes);
    memset(s->ev, 0, s->info.vcpu_bytes);
    if (ops->vm_init(s->evm, &cfg, &err) != VMC_OK ||
        ops->vcpu_init(s->evm, s->ev, 0, &no_io, &err) != VMC_OK || set_policy(s, &err) != VMC_OK ||
        ops->get_state(s->ev, VMC_ST_ALL & ~VMC_ST_LAPIC, &s->base) != VMC_OK)
        return NULL;
    build_tables(s);
    build_pages(s);
    base_state(s);
    static const struct diff_case any;
    uint8_t mem[DIFF_MEM_BYTES];
    diff_case_memory(&any, mem);
    put(s, DATA_PA + 2 * DIFF_PAGE, mem + 2 * DIFF_PAGE, DIFF_PAGE);
    return s;
}

static void engine_destroy(void *ctx)
{
    struct soft *s = ctx;
    s->ops->vcpu_fini(s->ev);
    s->ops->vm_fini(s->evm);
    vmc_mem_destroy(s->mem);
    free(s->ev);
    free(s->evm);
    free(s);
}

static bool engine_has_bits(void *ctx, unsigned bits)
{
    (void)ctx;
    return bits == 16 || bits == 32 || bits == 64;
}

/* ---- a case ---------------------------------------------------------------------------------- */

static void load_case(struct soft *s, const struct diff_case *c)
{
    uint8_t mem[DIFF_MEM_BYTES], code[DIFF_CODE_PAGES * DIFF_PAGE];
    diff_case_code_pages(c, code);
    diff_case_memory(c, mem);
    put(s, DATA_PA, mem, DIFF_DATA_RW * DIFF_PAGE);
    put(s, STACK_PA, mem + 3 * DIFF_PAGE, DIFF_PAGE);
    put(s, CODE_PA, code, sizeof(code));
    memcpy(&s->st, &s->base, sizeof(s->st));
    memcpy(s->st.gpr, c->in.gpr, sizeof(s->st.gpr));
    s->st.rip = c->in.rip;
    s->st.rflags = c->in.rflags;
    set_segments(c, &s->st);
    memcpy(s->st.xsave, &c->in.fp, sizeof(c->in.fp));
}

/* The exception frame on the kernel's stack. */
static void read_frame(struct soft *s, struct diff_result *r)
{
    static const uint32_t with_code = 1u << 8 | 0x1fu << 10 | 1u << 17;
    uint64_t f[6] = {0};
    bool has_code = with_code >> r->vector & 1;
    if (vmc_mem_read(s->mem, s->st.gpr[VMC_RSP] - KERNEL, f + !has_code, has_code ? 48 : 40) != VMC_OK) {
        r->vector = DIFF_DEAD;
        return;
    }
    r->code = (uint32_t)f[0];
    r->out.rip = f[1];
    r->out.rflags = f[3];
    r->out.gpr[VMC_RSP] = f[4];
    r->cr2 = r->vector == 14 ? s->st.cr2 : 0;
    if (r->vector == 14 && r->cr2 == DIFF_EXIT && r->out.rip == DIFF_EXIT) {
        r->vector = DIFF_END;
        r->code = 0;
        r->cr2 = 0;
    }
}

static void run_case(struct soft *s, const struct diff_case *c, struct diff_result *r)
{
    struct vmc_run_limits lim = {.size = sizeof(lim), .max_insns = INSNS_MAX};
    struct vmc_exit x = {0};
    const uint32_t groups = VMC_ST_ALL & ~(VMC_ST_LAPIC | VMC_ST_CLOCK);
    memset(r, 0, offsetof(struct diff_result, mem));
    load_case(s, c);
    if (s->ops->set_state(s->ev, groups, &s->st) != VMC_OK ||
        s->ops->run(s->ev, &lim, &x) != VMC_OK ||
        s->ops->get_state(s->ev, groups, &s->st) != VMC_OK) {
        r->vector = DIFF_DEAD;
        return;
    }
    memcpy(r->out.gpr, s->st.gpr, sizeof(s->st.gpr));
    memcpy(&r->out.fp, s->st.xsave, sizeof(r->out.fp));
    if (x.kind == VMC_EXIT_BUDGET) {
        r->vector = DIFF_HANG;
    } else if (s->st.rip - KERNEL - HANDLER_PA >= 256 * 16 || (s->st.rip & 15) > 3) {
        r->vector = DIFF_DEAD; /* not a halted handler */
        r->code = x.kind;
    } else {
        r->vector = (uint32_t)(s->st.rip - KERNEL - HANDLER_PA) / 16;
        read_frame(s, r);
    }
    if (vmc_mem_read(s->mem, DATA_PA, r->mem, 3 * DIFF_PAGE) != VMC_OK ||
        vmc_mem_read(s->mem, STACK_PA, r->mem + 3 * DIFF_PAGE, DIFF_PAGE) != VMC_OK)
        r->vector = DIFF_DEAD;
}

static void engine_run(void *ctx, const struct diff_case *c, struct diff_result *r, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        run_case(ctx, &c[i], &r[i]);
}

uint64_t diff_features(void)
{
    struct test_platform tp;
    struct vmc_engine_info info = {.size = sizeof(info)};
    struct vmc_cpu_policy p;
    struct vmci_cpu *cpu = calloc(1, sizeof(*cpu));
    uint64_t f = 0;
    test_platform_init(&tp);
    if (cpu != NULL && vmc_engine_soft()->probe(&tp.pf, &info, NULL) == VMC_OK &&
        vmc_cpu_policy_preset(&p, "host", &info.ceiling, NULL) == VMC_OK) {
        cpu->pf = &tp.pf;
        vmci_apply_policy(cpu, &p);
        f = cpu->features;
    }
    free(cpu);
    return f;
}

static void *soft_create(const char **why)
{
    return engine_create(vmc_engine_soft(), NULL, why);
}

static void *bt_create(const char **why)
{
    static const struct vmc_soft_config all = {.size = sizeof(all),
                                               .flags = VMC_SOFT_TRANSLATE_ALL};
    return engine_create(vmc_engine_soft(), &all, why);
}

const struct diff_executor diff_soft = {
    .name = "soft",
    .create = soft_create,
    .destroy = engine_destroy,
    .has_bits = engine_has_bits,
    .run = engine_run,
};

/* The same with every block translated the first time it runs. */
const struct diff_executor diff_bt = {
    .name = "bt",
    .create = bt_create,
    .destroy = engine_destroy,
    .has_bits = engine_has_bits,
    .run = engine_run,
};
