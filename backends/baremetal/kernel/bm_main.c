/* SPDX-License-Identifier: BSD-2-Clause */
/* From the first 64-bit instruction to the embedder. */
#include "bm_int.h"

extern char bm_boot_start[], bm_boot_loaded[], bm_image_start[], bm_data_loaded[], bm_text_start[],
    bm_foreign_text_end[], bm_text_used[], bm_text_end[], bm_rodata_end[], bm_rodata_used[],
    bm_rodata_start[], bm_foreign_rodata_end[], bm_data_start[], bm_foreign_data_end[];
_Noreturn void bm_call_on(void *stack_top, void (*fn)(void *arg), void *arg);
_Noreturn void bm_start(uint32_t magic, uint64_t info_pa, uint64_t load_pa, uint64_t tsc);

static struct bm_cpu first_cpu = {.timer_ns = UINT64_MAX};
static uint8_t early_ist[4096] __attribute__((aligned(16)));
static struct vmc_bm_module modules[BM_MAX_MODULES];
static struct vmc_bm_machine machine;

/* Modules belong to the kernel's pages too, but are not of its making; so does the first MiB. */
static uint64_t foreign_bytes(void)
{
    uint64_t n = 640u << 10;

    for (unsigned i = 0; i < bm_boot.modules; i++)
        n += PAGES(bm_boot.module[i].bytes) * PAGE;
    return n;
}

/* libcapstone and libzstd. */
static uint64_t foreign_code_bytes(void)
{
    return (uint64_t)(bm_foreign_text_end - bm_text_start) +
           (uint64_t)(bm_foreign_rodata_end - bm_rodata_start) +
           (uint64_t)(bm_foreign_data_end - bm_data_start);
}

/* Up to the next page behind code and constants, which have pages of their own. */
static uint64_t padding_bytes(void)
{
    return (uint64_t)(bm_text_end - bm_text_used) + (uint64_t)(bm_rodata_end - bm_rodata_used);
}

static void describe_modules(void)
{
    for (unsigned i = 0; i < bm_boot.modules; i++)
        modules[i] = (struct vmc_bm_module){.name = bm_boot.module[i].name,
                                            .data = phys_ptr(bm_boot.module[i].pa),
                                            .bytes = bm_boot.module[i].bytes};
}

static void main_on_own_stack(void *arg)
{
    struct vmc_bm_memory m;

    (void)arg;
    bm_cpu_tables(&first_cpu); /* its interrupt stacks changed */
    bm_acpi_init();
    bm_time_init();
    bm_pic_off();
    bm_lapic_init(true);
    first_cpu.online = 1;
    bm_smp_start();
    irq_on();
    bm_serial_irq();
    bm_platform_init();
    bm_pci_init();
    bm_drivers_init();
    describe_modules();
    vmc_bm_get_memory(&m);
    machine = (struct vmc_bm_machine){
        .size = sizeof(machine),
        .cpus = bm_cpu_count,
        .ram_bytes = m.ram_pages * PAGE,
        .image_bytes = (uint64_t)(bm_boot_loaded - bm_boot_start) +
                       (uint64_t)(bm_data_loaded - bm_image_start) - foreign_code_bytes() -
                       padding_bytes(),
        .foreign_bytes = foreign_code_bytes(),
        .resident_bytes = m.kernel_pages * PAGE - foreign_bytes(),
        .start_ns = bm_now_ns(),
        .tsc_hz = bm_tsc_hz(),
        .cmdline = bm_boot.cmdline,
        .loader = bm_boot.loader,
        .efi = bm_boot.efi,
        .modules = modules,
        .module_count = bm_boot.modules,
    };
    bm_smp_go();
    vmc_bm_main(&machine);
    bm_panic("vmc_bm_main returned");
}

void bm_start(uint32_t magic, uint64_t info_pa, uint64_t load_pa, uint64_t tsc)
{
    bm_boot.load_pa = load_pa;
    bm_boot.entry_tsc = tsc;
    first_cpu.canary = tsc * 0x9e3779b97f4a7c15ull & ~0xffull;
    for (unsigned i = 0; i < IST_COUNT; i++)
        first_cpu.tss.ist[i] = (uint64_t)early_ist + sizeof(early_ist);
    bm_idt_init();
    bm_cpu_tables(&first_cpu);
    bm_cpus[0] = &first_cpu;
    bm_cpu_features();
    bm_serial_init();
    bm_boot_parse(magic, info_pa);
    bm_serial_init(); /* the command line may name another port */
    bm_printf("\nvmcore bare-metal kernel, loaded at 0x%llx by %s (%s%s)\n",
              (unsigned long long)load_pa, bm_boot.loader[0] != 0 ? bm_boot.loader : "?",
              bm_boot.protocol, bm_boot.efi ? ", UEFI" : "");
    bm_pmm_init();
    bm_paging_init();
    if (bm_cpu_stacks(&first_cpu) != VMC_OK)
        bm_panic("out of memory for stacks");
    bm_call_on(first_cpu.stack_top, main_on_own_stack, NULL);
}
