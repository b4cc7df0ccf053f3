/* SPDX-License-Identifier: BSD-2-Clause */
/* Descriptor tables, control registers, exceptions and the end of everything. */
#include "bm_int.h"

/* Between two ticks for a deadline that has passed. */
#define ENGINE_AGAIN_NS 50000u

#define CR0_MP         (1ull << 1)
#define CR0_EM         (1ull << 2)
#define CR0_TS         (1ull << 3)
#define CR0_NE         (1ull << 5)
#define CR0_WP         (1ull << 16)
#define CR0_NW         (1ull << 29)
#define CR0_CD         (1ull << 30)
#define CR4_MCE        (1ull << 6)
#define CR4_OSFXSR     (1ull << 9)
#define CR4_OSXMMEXCPT (1ull << 10)
#define CR4_FSGSBASE   (1ull << 16)
#define CR4_OSXSAVE    (1ull << 18)
#define SEL_CODE       0x08
#define SEL_TSS        0x18

struct gate {
    uint16_t offset0, selector, attr, offset1;
    uint32_t offset2, zero;
};
struct table_ptr {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

struct bm_cpu *bm_cpus[BM_MAX_CPUS];
uint32_t bm_cpu_count = 1;

extern char bm_vectors[], bm_text_start[], bm_text_end[];
static struct gate idt[256];
static void (*hook)(void *ctx, uint32_t cpu);
static void *hook_ctx;
static uint32_t panicking, nmi_came;

/* ---- tables ------------------------------------------------------------------------------------
 */

void bm_idt_init(void)
{
    for (unsigned v = 0; v < 256; v++) {
        uint64_t at = (uint64_t)bm_vectors + v * 16;
        unsigned ist = v == 2    ? IST_NMI
                       : v == 8  ? IST_DF
                       : v == 18 ? IST_MC
                       : v < 32  ? IST_FAULT
                                 : IST_IRQ;
        idt[v] = (struct gate){.offset0 = (uint16_t)at,
                               .selector = SEL_CODE,
                               .attr = (uint16_t)(0x8e00 | ist), /* interrupt gate: IF off */
                               .offset1 = (uint16_t)(at >> 16),
                               .offset2 = (uint32_t)(at >> 32)};
    }
}

/* Stacks with unmapped pages around them. */
int bm_cpu_stacks(struct bm_cpu *c)
{
    for (unsigned i = 0; i <= IST_COUNT; i++) {
        uint64_t bytes = i == 0 ? STACK_BYTES : IST_BYTES;
        uint64_t pa = bm_pages_alloc(PAGES(bytes), 1, OWNER_KERNEL);
        char *va = pa != 0 ? bm_vmap(pa, PAGES(bytes), MAP_WRITE) : NULL;
        if (va == NULL)
            return VMC_ENOMEM;
        if (i == 0)
            c->stack_top = (uint64_t *)(va + bytes);
        else
            c->tss.ist[i - 1] = (uint64_t)(va + bytes);
    }
    return VMC_OK;
}

void bm_cpu_tables(struct bm_cpu *c)
{
    uint64_t tss = (uint64_t)&c->tss;

    c->self = c;
    c->tss.iomap = sizeof(c->tss);
    c->gdt[0] = 0;
    c->gdt[1] = 0x00af9b000000ffff;
    c->gdt[2] = 0x00cf93000000ffff;
    c->gdt[3] =
        (sizeof(c->tss) - 1) | (tss & 0xffffff) << 16 | 0x89ull << 40 | (tss >> 24 & 0xff) << 56;
    c->gdt[4] = tss >> 32;
    struct table_ptr g = {sizeof(c->gdt) - 1, (uint64_t)c->gdt};
    struct table_ptr i = {sizeof(idt) - 1, (uint64_t)idt};
    __asm__ volatile("lgdt %0\n\tlidt %1" : : "m"(g), "m"(i) : "memory");
    __asm__ volatile("pushq %0\n\tleaq 1f(%%rip), %%rax\n\tpushq %%rax\n\tlretq\n1:\n\t"
                     "movl $16, %%eax\n\tmovl %%eax, %%ds\n\tmovl %%eax, %%es\n\t"
                     "movl %%eax, %%ss\n\txorl %%eax, %%eax\n\tmovl %%eax, %%fs\n\t"
                     "movl %%eax, %%gs\n\tlldt %%ax\n\tltr %%dx"
                     :
                     : "i"(SEL_CODE), "d"(SEL_TSS)
                     : "rax", "memory");
    wrmsr(MSR_FS_BASE, (uint64_t)c);
    wrmsr(MSR_GS_BASE, 0);
}

/* Everything that library code, and guest code on the host's own FPU, may use. */
void bm_cpu_features(void)
{
    uint32_t r[4], f[4];

    cpuid(1, 0, r);
    cpuid(0, 0, f);
    uint64_t cr4 = read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_MCE;
    if (r[2] & (1u << 26))
        cr4 |= CR4_OSXSAVE;
    if (f[0] >= 7) {
        cpuid(7, 0, f);
        if (f[1] & 1u)
            cr4 |= CR4_FSGSBASE;
    }
    write_cr4(cr4);
    write_cr0((read_cr0() & ~(CR0_EM | CR0_TS | CR0_NW | CR0_CD)) | CR0_MP | CR0_NE | CR0_WP);
    __asm__ volatile("fninit");
    uint32_t mxcsr = 0x1f80;
    __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
    if (cr4 & CR4_OSXSAVE) { /* x87, SSE and, where present, AVX */
        cpuid(13, 0, f);
        __asm__ volatile("xsetbv" : : "c"(0), "a"(f[0] & 7u), "d"(0));
    }
}

/* ---- panic --------------------------------------------------------------------------------------
 */

/* Does a call end here: relative, or by register or memory with a displacement up to 4 bytes? */
static bool is_return_address(uint64_t at)
{
    if (at < (uint64_t)bm_text_start + 8 || at >= (uint64_t)bm_text_end)
        return false;
    const uint8_t *p = (const uint8_t *)at;
    if (p[-5] == 0xe8)
        return true;
    for (int n = 2; n <= 7; n++)
        if (p[-n] == 0xff && (p[1 - n] & 0x38) == 0x10)
            return true;
    return false;
}

/* The library has no frame pointers: whatever looks like a return address on the stack is one. */
static void backtrace(uint64_t rip, uint64_t rsp)
{
    unsigned found = 0;

    bm_printf("  at 0x%016llx\n", (unsigned long long)rip);
    for (unsigned i = 0; i < 1024 && found < 24 && (rsp & 7) == 0 && bm_mapped(rsp); i++) {
        uint64_t word = *(const uint64_t *)rsp;
        if (is_return_address(word)) {
            bm_printf("  by 0x%016llx?\n", (unsigned long long)word);
            found++;
        }
        rsp += 8;
    }
    bm_printf("  (addr2line -e <image>.elf -f <address>)\n");
}

static _Noreturn void stop_all(void)
{
    for (uint32_t i = 0; i < bm_cpu_count; i++)
        if (bm_cpus[i] != NULL && bm_cpus[i]->online && bm_cpus[i] != this_cpu())
            bm_lapic_send(bm_cpus[i]->apic_id, 0x4400); /* NMI */
    char opt[12];
    if (bm_boot_option("panic", opt, sizeof(opt)) && bm_streq(opt, "poweroff"))
        vmc_bm_power_off();
    for (;;)
        __asm__ volatile("cli; hlt");
}

/* One CPU speaks; the rest stop. */
static void first_to_panic(void)
{
    irq_off();
    if (__atomic_exchange_n(&panicking, 1, __ATOMIC_SEQ_CST) != 0)
        for (;;)
            __asm__ volatile("cli; hlt");
    bm_serial_panic();
}

_Noreturn void bm_panic(const char *fmt, ...)
{
    char text[256];
    va_list ap;

    first_to_panic();
    va_start(ap, fmt);
    bm_vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    bm_printf("\n*** PANIC on CPU %u: %s\n", bm_cpus[0] != NULL ? this_cpu()->index : 0, text);
    backtrace((uint64_t)__builtin_return_address(0), (uint64_t)__builtin_frame_address(0));
    stop_all();
}

_Noreturn void bm_panic_frame(const struct bm_frame *f, const char *what)
{
    first_to_panic();
    bm_printf("\n*** PANIC on CPU %u: %s, error code 0x%llx, cr2 0x%llx\n", this_cpu()->index, what,
              (unsigned long long)f->code, (unsigned long long)read_cr2());
    bm_printf("  rip %016llx cs %04llx rflags %08llx rsp %016llx\n", (unsigned long long)f->rip,
              (unsigned long long)f->cs, (unsigned long long)f->rflags, (unsigned long long)f->rsp);
    const uint64_t *r = &f->r15;
    static const char *const name[] = {"r15", "r14", "r13", "r12", "r11", "r10", "r9 ", "r8 ",
                                       "rbp", "rdi", "rsi", "rdx", "rcx", "rbx", "rax"};
    for (unsigned i = 0; i < ARRAY_SIZE(name); i++)
        bm_printf("  %s %016llx%s", name[i], (unsigned long long)r[i], i % 4 == 3 ? "\n" : "");
    bm_printf("\n");
    backtrace(f->rip, f->rsp);
    stop_all();
}

void vmc_bm_panic(const char *fmt, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    bm_vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    bm_panic("%s", text);
}

/* ---- traps -------------------------------------------------------------------------------------
 */

static const char *const fault_name[32] = {"divide error",
                                           "debug",
                                           "NMI",
                                           "breakpoint",
                                           "overflow",
                                           "bound",
                                           "invalid opcode",
                                           "no FPU",
                                           "double fault",
                                           "9",
                                           "invalid TSS",
                                           "segment not present",
                                           "stack fault",
                                           "general protection",
                                           "page fault",
                                           "15",
                                           "x87 error",
                                           "alignment check",
                                           "machine check",
                                           "SIMD error",
                                           "virtualization",
                                           "control protection"};

/* The timer has fired. Its clock is not exactly ours: it may have been early. */
static void timer_again(struct bm_cpu *c)
{
    uint64_t now = bm_now_ns();
    uint64_t next = c->timer_ns > now ? c->timer_ns : UINT64_MAX;

    if (c->engine_ns != 0) {
        uint64_t soon = now + ENGINE_AGAIN_NS;
        uint64_t engine = c->engine_ns > soon ? c->engine_ns : soon;
        next = engine < next ? engine : next;
    }
    bm_lapic_timer(next);
}

void bm_trap(struct bm_frame *f)
{
    struct bm_cpu *c = this_cpu();

    if (f->vector == 2) {
        if (__atomic_load_n(&panicking, __ATOMIC_RELAXED))
            for (;;)
                __asm__ volatile("cli; hlt");
        /* It may have come while this very processor prints, so it is told of later. */
        __atomic_store_n(&nmi_came, 1, __ATOMIC_RELAXED);
        return;
    }
    if (f->vector < 32)
        bm_panic_frame(f, fault_name[f->vector] != NULL ? fault_name[f->vector] : "exception");
    if (f->vector == VEC_SPURIOUS || f->vector < VEC_DEVICE)
        return;
    c->stats.interrupts++;
    if (f->vector == VEC_TLB) {
        write_cr3(read_cr3());
        __atomic_store_n(&c->tlb_flush, 0, __ATOMIC_RELEASE);
        bm_lapic_eoi();
        return;
    }
    if (f->vector == VEC_POSTED) {
        bm_lapic_eoi();
        return;
    }
    if (f->vector == VEC_TIMER) {
        c->stats.timer_ticks++;
        if (bm_lapic_timer_lost(c->stats.timer_ticks)) {
            c->lost = 1;
            bm_lapic_eoi();
            return;
        }
        timer_again(c);
    } else if (f->vector == VEC_IPI) {
        c->stats.ipis++;
    } else {
        bm_irq_dispatch((unsigned)f->vector);
    }
    bm_lapic_eoi();
    c->pending = 1;
    if (__atomic_load_n(&nmi_came, __ATOMIC_RELAXED) != 0 &&
        __atomic_exchange_n(&nmi_came, 0, __ATOMIC_RELAXED) != 0)
        bm_puts("NMI: ignored\n", 13);
    if (hook != NULL)
        hook(hook_ctx, c->index);
}

void vmc_bm_set_hook(void (*fn)(void *ctx, uint32_t cpu), void *ctx)
{
    hook_ctx = ctx;
    __atomic_store_n(&hook, fn, __ATOMIC_RELEASE);
}

uint32_t vmc_bm_this_cpu(void)
{
    return this_cpu()->index;
}

/* Nobody sleeps for longer: an interrupt that was lost is made up for by looking around. */
#define LONGEST_SLEEP_NS 100000000u

void vmc_bm_wait(uint64_t deadline_ns)
{
    struct bm_cpu *c = this_cpu();

    irq_off();
    if (!c->pending) {
        uint64_t before = bm_now_ns();
        uint64_t last = before + LONGEST_SLEEP_NS;
        bm_lapic_timer(bm_poll_deadline(before, deadline_ns < last ? deadline_ns : last));
        do {
            c->lost = 0;
            __asm__ volatile("sti; hlt; cli" : : : "memory");
        } while (c->lost != 0 && !c->pending); /* another may have come with it */
        c->stats.idle_ns += bm_now_ns() - before;
    }
    c->pending = 0;
    irq_on();
}

void vmc_bm_get_cpu_stats(uint32_t cpu, struct vmc_bm_cpu_stats *out)
{
    if (cpu < bm_cpu_count)
        *out = bm_cpus[cpu]->stats;
    else
        *out = (struct vmc_bm_cpu_stats){0};
}
