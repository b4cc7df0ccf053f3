/* SPDX-License-Identifier: BSD-2-Clause */
/* The other processors: INIT, start-up IPI, and what keeps them together. */
#include "bm_int.h"

extern char bm_ap_start[], bm_ap_end[], bm_ap_data[], bm_ap_gdtr[], bm_ap_far32[], bm_ap_far64[];

static volatile uint32_t go;

struct ap_data {
    uint32_t cr3, efer;
    uint64_t stack, arg, entry;
};

static _Noreturn void ap_main(struct bm_cpu *c)
{
    write_cr3(bm_kernel_cr3);
    bm_cpu_tables(c);
    bm_cpu_features();
    bm_lapic_init(false);
    __atomic_store_n(&c->online, 1, __ATOMIC_SEQ_CST);
    irq_on();
    while (!__atomic_load_n(&go, __ATOMIC_ACQUIRE))
        cpu_relax();
    vmc_bm_cpu_main(c->index);
    bm_panic("vmc_bm_cpu_main returned");
}

static void add32(char *page, const char *at, uint32_t v)
{
    uint32_t old;

    memcpy(&old, page + (at - bm_ap_start), 4);
    old += v;
    memcpy(page + (at - bm_ap_start), &old, 4);
}

/* Wait until it is up; false: it did not come. */
static bool wait_online(struct bm_cpu *c, uint64_t us)
{
    for (uint64_t t = 0; t < us && !c->online; t += 50)
        bm_delay_us(50);
    return c->online != 0;
}

static bool start_one(struct bm_cpu *c, char *page, uint64_t pa, uint64_t root)
{
    struct ap_data d = {.cr3 = (uint32_t)root,
                        .efer = (uint32_t)rdmsr(MSR_EFER) & 0x901, /* SCE, LME, NXE */
                        .stack = (uint64_t)c->stack_top,
                        .arg = (uint64_t)c,
                        .entry = (uint64_t)ap_main};

    memcpy(page + (bm_ap_data - bm_ap_start), &d, sizeof(d));
    bm_lapic_send(c->apic_id, 0x4500); /* INIT */
    bm_delay_us(10000);
    for (unsigned i = 0; i < 2; i++) { /* MP specification B.4 */
        bm_lapic_send(c->apic_id, 0x4600 | (uint32_t)(pa >> 12));
        if (wait_online(c, i == 0 ? 1000 : 500000))
            return true;
    }
    /* It may be on its way yet: back to waiting, before what it would use is another's or gone. */
    bm_lapic_send(c->apic_id, 0x4500);
    bm_delay_us(10000);
    return false;
}

static struct bm_cpu *new_cpu(uint32_t index, uint32_t apic_id)
{
    struct bm_cpu *c = bm_zalloc(sizeof(*c));

    if (c == NULL || bm_cpu_stacks(c) != VMC_OK)
        bm_panic("out of memory for CPU %u", index);
    c->index = index;
    c->apic_id = apic_id;
    c->canary = bm_cpus[0]->canary;
    c->timer_ns = UINT64_MAX;
    return c;
}

void bm_smp_start(void)
{
    char opt[8];
    uint32_t limit = BM_MAX_CPUS;
    uint64_t pa = bm_low_page();

    if (bm_boot_option("cpus", opt, sizeof(opt)) && opt[0] >= '1' && opt[0] <= '9') {
        limit = 0;
        for (const char *p = opt; *p >= '0' && *p <= '9'; p++)
            limit = limit * 10 + (uint32_t)(*p - '0');
        limit = limit < BM_MAX_CPUS ? limit : BM_MAX_CPUS;
    }
    if (bm_acpi.cpus < 2 || limit < 2)
        return;
    if (pa == 0) {
        bm_printf("smp: no page below 640 KiB to start other processors from\n");
        return;
    }
    uint64_t root = bm_paging_trampoline(pa);
    char *page = bm_vmap(pa, 1, MAP_WRITE);
    memcpy(page, bm_ap_start, (size_t)(bm_ap_end - bm_ap_start));
    add32(page, bm_ap_gdtr + 2, (uint32_t)pa);
    add32(page, bm_ap_far32, (uint32_t)pa);
    add32(page, bm_ap_far64, (uint32_t)pa);
    for (unsigned i = 0; i < bm_acpi.cpus && bm_cpu_count < limit; i++) {
        if (bm_acpi.cpu_apic[i] == bm_cpus[0]->apic_id)
            continue;
        if (!bm_lapic_reaches(bm_acpi.cpu_apic[i])) {
            bm_printf("smp: APIC id %u needs an x2APIC\n", bm_acpi.cpu_apic[i]);
            continue;
        }
        struct bm_cpu *c = new_cpu(bm_cpu_count, bm_acpi.cpu_apic[i]);
        if (!start_one(c, page, pa, root)) {
            bm_printf("smp: the processor with APIC id %u does not start\n", c->apic_id);
            continue;
        }
        bm_cpus[bm_cpu_count] = c;
        __atomic_store_n(&bm_cpu_count, bm_cpu_count + 1, __ATOMIC_SEQ_CST);
    }
    bm_vunmap(page, 1);
    bm_paging_trampoline_free(root);
}

void bm_smp_go(void)
{
    __atomic_store_n(&go, 1, __ATOMIC_RELEASE);
}

void bm_tlb_shootdown(void)
{
    static struct bm_lock lock;
    struct bm_cpu *me = this_cpu();

    if (bm_cpu_count == 1)
        return;
    bm_lock(&lock);
    for (uint32_t i = 0; i < bm_cpu_count; i++)
        if (bm_cpus[i] != me) {
            __atomic_store_n(&bm_cpus[i]->tlb_flush, 1, __ATOMIC_SEQ_CST);
            bm_lapic_send(bm_cpus[i]->apic_id, VEC_TLB | 0x4000);
        }
    for (uint32_t i = 0; i < bm_cpu_count; i++)
        while (bm_cpus[i] != me && __atomic_load_n(&bm_cpus[i]->tlb_flush, __ATOMIC_ACQUIRE))
            cpu_relax();
    bm_unlock(&lock);
}
