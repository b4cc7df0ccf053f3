/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What an exit costs, guest and host together, through vmc_vcpu_run on a VM with a device: the
 * emulated machines' time-stamp counter counts instructions, so the numbers are exact.
 */
#include "hw_bench.h"

#include <stdio.h>
#include <string.h>

#include <vmcore/hw.h>
#include <vmcore/vm.h>
#include <vmcore/bus.h>
#include <vmcore/x86.h>

#define RAM    (64u << 20)
#define CODE   0x8000u
#define PML4   0x1000u
#define PDPT   0x2000u
#define PD     0x3000u
#define PORT   0x3f0u
#define ROUNDS 1000u

#define GUEST(name, text)                                                                          \
    extern const uint8_t name[], name##_end[];                                                     \
    __asm__(".pushsection .rodata\n.code64\n.intel_syntax noprefix\n" #name ":\n" text "\n" #name  \
            "_end:\n.att_syntax\n.popsection\n")

/* ESI counts the rounds; interrupts are off, so HLT is the end. */
GUEST(g_cpuid, "1: mov eax, 0x80000000; cpuid; dec esi; jnz 1b; hlt");
GUEST(g_cpuid1, "1: mov eax, 1; cpuid; dec esi; jnz 1b; hlt");
GUEST(g_out, "mov edx, 0x3f0; 1: out dx, al; dec esi; jnz 1b; hlt");
GUEST(g_in, "mov edx, 0x3f0; 1: in al, dx; dec esi; jnz 1b; hlt");
GUEST(g_touch, "mov edi, 0x2000000; 1: mov [rdi], eax; add edi, 4096; dec esi; jnz 1b; hlt");
GUEST(g_mmio, "mov edi, 0x4000000; 1: mov eax, [rdi]; dec esi; jnz 1b; hlt");

static uint64_t dev_read(void *ctx, uint64_t offset, unsigned bytes)
{
    (void)offset, (void)bytes;
    return *(uint64_t *)ctx;
}

static void dev_write(void *ctx, uint64_t offset, unsigned bytes, uint64_t value)
{
    (void)offset, (void)bytes;
    *(uint64_t *)ctx = value;
}

static const struct vmc_bus_ops dev_ops = {.read = dev_read, .write = dev_write};

struct bench {
    struct vmc_vm *vm;
    struct vmc_vcpu *v;
    uint8_t *ram;
    struct vmc_x86_state *st;
    uint64_t reg;
};

static uint64_t rdtsc(void)
{
    uint32_t lo, hi;

    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return lo | (uint64_t)hi << 32;
}

static void put64(struct bench *b, uint32_t at, uint64_t v)
{
    memcpy(b->ram + at, &v, 8);
}

static void start(struct bench *b, const uint8_t *code, const uint8_t *end, uint32_t rounds)
{
    struct vmc_x86_state *st = b->st;

    vmc_x86_state_reset(st);
    put64(b, PML4, PDPT | 7);
    put64(b, PDPT, PD | 7);
    for (unsigned i = 0; i < 64; i++)
        put64(b, PD + i * 8, (uint64_t)i << 21 | 0xe7);
    memcpy(b->ram + CODE, code, (size_t)(end - code));
    for (unsigned i = VMC_ES; i <= VMC_GS; i++)
        st->seg[i] = (struct vmc_segment){.limit = ~0u, .attr = 0xc093, .selector = 16};
    st->seg[VMC_CS] = (struct vmc_segment){.limit = ~0u, .attr = 0xa09b, .selector = 8};
    st->cr0 = VMC_CR0_PE | VMC_CR0_ET | VMC_CR0_NE | VMC_CR0_PG;
    st->cr3 = PML4;
    st->cr4 = VMC_CR4_PAE | VMC_CR4_OSFXSR;
    st->efer = VMC_EFER_LME | VMC_EFER_LMA;
    st->rip = CODE;
    st->gpr[VMC_RSI] = rounds;
}

/* Run a loop of so many rounds, all second-level mappings gone at its start; ticks, or 0. */
static uint64_t run(struct bench *b, const uint8_t *code, const uint8_t *end, uint32_t rounds)
{
    struct vmc_run_limits lim = {.size = sizeof(lim)};
    struct vmc_exit x = {.kind = VMC_EXIT_NONE};
    const uint32_t groups =
        VMC_ST_GPR | VMC_ST_RIP | VMC_ST_SEG | VMC_ST_TABLES | VMC_ST_CTRL | VMC_ST_RUN;

    if (vmc_vm_reset(b->vm) != VMC_OK || vmc_vm_memory_changed(b->vm) != VMC_OK)
        return 0;
    start(b, code, end, rounds);
    if (vmc_vcpu_set_state(b->v, groups, b->st) != VMC_OK)
        return 0;
    uint64_t t0 = rdtsc();
    int rc = vmc_vcpu_run(b->v, &lim, &x);
    uint64_t ticks = rdtsc() - t0;
    if (vmc_vcpu_get_state(b->v, VMC_ST_GPR | VMC_ST_RIP, b->st) != VMC_OK || rc != VMC_OK ||
        b->st->gpr[VMC_RSI] != 0 || b->st->rip != CODE + (uint64_t)(end - code)) {
        printf("bench: rc %d, exit %s (%u), reason 0x%x, rip 0x%llx, %llu rounds left\n", rc,
               vmc_exit_name(x.kind), x.u.stop.why, x.raw.reason, (unsigned long long)b->st->rip,
               (unsigned long long)b->st->gpr[VMC_RSI]);
        return 0;
    }
    return ticks;
}

static bool measure(struct bench *b, const char *what, const char *engine, const uint8_t *code,
                    const uint8_t *end)
{
    uint64_t one = run(b, code, end, ROUNDS), two = run(b, code, end, 2 * ROUNDS);

    if (one == 0 || two <= one)
        return false;
    uint64_t milli = (two - one) * 100 / ROUNDS;
    printf("result exits.%s_%s_ticks %llu.%02llu ticks\n", what, engine,
           (unsigned long long)(milli / 100), (unsigned long long)(milli % 100));
    return true;
}

static bool set_up(struct bench *b, const struct vmc_engine_ops *ops,
                   const struct vmc_hw_config *hc, struct vmc_error *err)
{
    const struct vmc_platform *pf = vmc_bm_platform();
    struct vmc_vm_config cfg = {.size = sizeof(cfg),
                                .max_vcpus = 1,
                                .platform = pf,
                                .engine = ops,
                                .engine_config = hc,
                                .flags = VMC_VM_NO_PARAVIRT};

    b->st = pf->alloc(pf->ctx, sizeof(*b->st), 64);
    b->ram = pf->alloc(pf->ctx, RAM, 2u << 20);
    if (b->st == NULL || b->ram == NULL)
        return false;
    struct vmc_mem_slot slot = {
        .size = sizeof(slot), .attr = VMC_MEM_RAM, .bytes = RAM, .backing = b->ram};
    return vmc_vm_create(&cfg, &b->vm, err) == VMC_OK &&
           vmc_vcpu_create(b->vm, 0, &b->v, err) == VMC_OK &&
           vmc_mem_add(vmc_vm_mem(b->vm), &slot, err) == VMC_OK &&
           vmc_bus_attach(vmc_vm_board(b->vm)->pio, PORT, 8, &dev_ops, &b->reg, err) == VMC_OK &&
           vmc_bus_attach(vmc_vm_board(b->vm)->mmio, RAM, 4096, &dev_ops, &b->reg, err) == VMC_OK &&
           vmc_vm_start(b->vm, err) == VMC_OK;
}

bool hw_bench(const char *engine, const char *only)
{
    static const struct vmc_hw_config small = {.size = sizeof(small), .flags = VMC_HW_CFG_4K};
    static struct bench b;
    struct vmc_error err = {.text = "no memory"};
    const struct vmc_engine_ops *ops =
        strcmp(engine, "vmx") == 0 ? vmc_engine_vmx() : vmc_engine_svm();

    if (!set_up(&b, ops, &small, &err)) {
        printf("bench: %s\n", err.text);
        return false;
    }
    static const struct {
        const char *name;
        const uint8_t *code, *end;
    } tests[] = {
        {"cpuid", g_cpuid, g_cpuid_end}, {"cpuid_dynamic", g_cpuid1, g_cpuid1_end},
        {"out", g_out, g_out_end},       {"in", g_in, g_in_end},
        {"fault", g_touch, g_touch_end}, {"mmio", g_mmio, g_mmio_end},
    };
    bool ok = true;
    for (unsigned i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
        if (only[0] == 0 || strcmp(only, tests[i].name) == 0)
            ok = measure(&b, tests[i].name, engine, tests[i].code, tests[i].end) && ok;
    return ok;
}
