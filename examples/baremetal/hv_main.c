/* SPDX-License-Identifier: BSD-2-Clause */
#include <vmcore/baremetal.h>
#include <vmcore/vmcore.h>
void vmc_bm_cpu_main(uint32_t cpu)
{
    vmc_bm_printf("cpu %u\n", cpu);
    for (;;)
        vmc_bm_wait(UINT64_MAX);
}
void vmc_bm_main(const struct vmc_bm_machine *m)
{
    vmc_bm_printf("main: %u cpus %llu MiB start %llu us\n", m->cpus, (unsigned long long)m->ram_bytes >> 20,
    (unsigned long long)m->start_ns/1000);
    struct vmc_engine_info *info = vmc_bm_platform()->alloc(vmc_bm_platform()->ctx, sizeof(*info), 64);
    info->size = sizeof(*info);
    struct vmc_error err;
    int rc = vmc_engine_soft()->probe(vmc_bm_platform(), info, &err);
    vmc_bm_printf("probe %d\n", rc);
    vmc_bm_wait(vmc_bm_now_ns()+100000000);
    vmc_bm_printf("waited %llu\n", (unsigned long long)vmc_bm_now_ns());
    vmc_bm_power_off();
}
