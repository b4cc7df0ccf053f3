/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the simulators read: byte 0 chooses a trace of "vmcore sim memory", which is then run for
 * some seconds and must keep the policy's promises, or a scenario of "vmcore sim sched".
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../tools/vmcore/sim_memory.h"
#include "../tools/vmcore/sim_sched.h"

#define SECONDS 40u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static FILE *said; /* by abort's reason: the parsers' messages go nowhere */

static void memory(const char *path)
{
    static struct sim_mem s;

    if (sim_mem_load(&s, path) != 0)
        return;
    sim_mem_start(&s);
    for (unsigned i = 0; i < SECONDS && i < s.seconds; i++) {
        sim_mem_step(&s);
        const char *wrong = sim_mem_check(&s);
        if (wrong != NULL) {
            fprintf(said, "second %u: %s\n", i, wrong);
            abort();
        }
    }
    sim_mem_free(&s);
}

static void sched(const char *path)
{
    struct sim_scenario sc;

    if (sim_scenario_load(&sc, path) != 0)
        return;
    if (sc.nvms == 0 || sc.cpus == 0 || sc.cpus % sc.threads_per_core != 0)
        abort();
    for (uint32_t i = 0; i < sc.nvms; i++)
        if (sc.vms[i].vcpus == 0 || sc.vms[i].vcpus > VMC_SCHED_MAX_WIDTH ||
            (sc.vms[i].pool != SIM_NONE && sc.vms[i].pool >= sc.npools))
            abort();
    for (uint32_t i = 0; i < sc.npools; i++)
        if (sc.pools[i].parent != SIM_NONE && sc.pools[i].parent >= i)
            abort();
    sim_scenario_free(&sc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    char path[32];

    if (fd < 0) {
        fd = memfd_create("input", 0);
        said = stderr;
        stderr = fopen("/dev/null", "w");
        if (fd < 0 || stderr == NULL)
            abort();
    }
    if (size == 0)
        return 0;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data + 1, size - 1, 0) != (ssize_t)size - 1)
        abort();
    if ((data[0] & 1) == 0)
        memory(path);
    else
        sched(path);
    return 0;
}
