/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A hypervisor that is the machine's only operating system: it reads its configuration from a boot
 * module or a VMFS volume, starts the guests and schedules their vCPUs over all processors.
 */
#include "hv.h"

const struct vmc_bm_machine *hv_machine;
static volatile uint32_t ready;

static void read_config(void)
{
    const struct vmc_bm_module *m = hv_module(HV_CONFIG_NAME);
    char message[128], where[192] = HV_CONFIG_NAME;
    const char *text = m != NULL ? m->data : NULL;
    size_t bytes = m != NULL ? m->bytes : 0;
    unsigned line;

    if (m == NULL && (text = hv_volumes_config(&bytes, where, sizeof(where))) != NULL)
        hv_print("configuration: %s\n", where);
    if (text == NULL) {
        (void)hv_config_parse(&hv_config, "", 0, message, sizeof(message), &line);
        hv_print("there is no module '%s': no guests\n", HV_CONFIG_NAME);
        return;
    }
    if (!hv_config_parse(&hv_config, text, bytes, message, sizeof(message), &line)) {
        hv_print("%s:%u: %s\n", where, line, message);
        hv_config.guests = 0;
    }
}

static void banner(void)
{
    hv_print("libvmcore bare-metal hypervisor: %u processors, %llu MiB of memory, loaded by %s%s\n",
             hv_machine->cpus, (unsigned long long)(hv_machine->ram_bytes >> 20),
             hv_machine->loader, hv_machine->efi ? " on UEFI" : "");
    hv_print("image %llu KiB and %llu KiB of libcapstone, resident %llu KiB, ready after "
             "%llu.%03llu ms\n",
             (unsigned long long)(hv_machine->image_bytes >> 10),
             (unsigned long long)(hv_machine->foreign_bytes >> 10),
             (unsigned long long)(hv_machine->resident_bytes >> 10),
             (unsigned long long)(hv_machine->start_ns / 1000000),
             (unsigned long long)(hv_machine->start_ns / 1000 % 1000));
}

void vmc_bm_main(const struct vmc_bm_machine *machine)
{
    hv_machine = machine;
    banner();
    hv_volumes_init();
    read_config();
    hv_console_init();
    hv_engines_init();
    hv_engine_cpu_up();
    hv_sched_init();
    hv_net_init();
    for (uint32_t i = 0; i < hv_config.guests; i++) {
        hv_guests[i].cfg = &hv_config.guest[i];
        hv_guests[i].number = i;
    }
    __atomic_store_n(&ready, 1, __ATOMIC_RELEASE);
    for (uint32_t i = 0; i < hv_config.guests; i++)
        if (hv_config.guest[i].autostart)
            (void)hv_guest_start(&hv_guests[i]); /* it said why not */
    hv_monitor_script(hv_config.startup);
    hv_loop(0);
}

void vmc_bm_cpu_main(uint32_t cpu)
{
    while (!__atomic_load_n(&ready, __ATOMIC_ACQUIRE))
        __asm__ volatile("pause");
    hv_engine_cpu_up();
    hv_loop(cpu);
}
