/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Real guest code with half of the simulated CPUs, with co-scheduling and without. Nothing here
 * depends on the machine: the clock counts instructions.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include "smp_sim.h"

#include <cmocka.h>

#define MOST_TIMES 6u /* what the program takes alone: enough to see that it is slow */

static uint64_t took(const struct smp_sim_config *cfg)
{
    struct smp_sim_result r;

    assert_int_equal(smp_sim_run(cfg, &r), 0);
    return r.ns;
}

/* How long the program takes alone, and beside others with co-scheduling and without, ns. */
static void compare(const char *name, uint32_t rounds, uint64_t late_ns, uint64_t *alone,
                    uint64_t *together, uint64_t *plain)
{
    const struct smp_sim_program *p = smp_sim_programs;

    while (p < smp_sim_programs + smp_sim_nprograms && strcmp(p->name, name) != 0)
        p++;
    assert_true(p < smp_sim_programs + smp_sim_nprograms);
    struct smp_shared program = p->shared;
    struct smp_sim_config cfg = {.program = &program,
                                 .policy = "vmcore",
                                 .coscheduling = VMC_SCHED_CO_RELAXED,
                                 .spin = true,
                                 .cpus = p->cpus,
                                 .late_ns = late_ns,
                                 .most_ns = 1000000000};
    program.rounds = rounds;
    *alone = took(&cfg);
    cfg.others = p->cpus + 1;
    cfg.most_ns = MOST_TIMES * *alone;
    *together = took(&cfg);
    cfg.coscheduling = VMC_SCHED_CO_NONE;
    cfg.spin = false;
    *plain = took(&cfg);
}

/* Twice as fast as without, and as fast as half of the CPUs are, to 15 %. */
static void gains_if(const char *name, uint32_t rounds, uint64_t late_ns)
{
    uint64_t alone, together, plain;

    compare(name, rounds, late_ns, &alone, &together, &plain);
    print_message("%s: alone %.1f ms, together %.1f, plain %.1f\n", name, (double)alone / 1e6,
                  (double)together / 1e6, (double)plain / 1e6);
    assert_in_range(together, 0, 2 * alone * 115 / 100);
    assert_in_range(plain, 2 * together, UINT64_MAX);
}

static void gains(const char *name, uint32_t rounds)
{
    gains_if(name, rounds, 0);
}

static void two_vcpus_with_a_ticket_lock(void **state)
{
    (void)state;
    gains("2 vCPUs, ticket lock, 8+2 us", 2000);
    gains("2 vCPUs, ticket lock, 18+2 us", 1000);
}

static void two_vcpus_with_a_barrier(void **state)
{
    (void)state;
    gains("2 vCPUs, barrier, 20 us", 1000);
}

static void two_vcpus_with_shootdowns(void **state)
{
    (void)state;
    gains("2 vCPUs, shootdown, 50 us", 500);
}

static void four_vcpus(void **state)
{
    (void)state;
    gains("4 vCPUs, ticket lock, 18+2 us", 1000);
    gains("4 vCPUs, barrier, 20 us", 1000);
}

/* As on threads: siblings whose slices do not end exactly are not laid out apart for that. */
static void slices_that_end_late(void **state)
{
    (void)state;
    gains_if("2 vCPUs, ticket lock, 8+2 us", 2000, 40000);
    gains_if("2 vCPUs, barrier, 20 us", 1000, 40000);
    gains_if("4 vCPUs, barrier, 20 us", 500, 20000);
}

/* As many of the siblings as there are CPUs run at a time, not one after the other. */
static void more_vcpus_than_cpus(void **state)
{
    (void)state;
    gains("4 on 2, ticket lock, 18+2 us", 1000);
    gains("4 on 2, barrier, 20 us", 1000);
}

/* Whoever is there takes such a lock, so that nobody has to wait for a certain sibling. */
static void a_test_and_set_lock_gains_less(void **state)
{
    uint64_t alone, together, plain;

    (void)state;
    compare("2 vCPUs, test-and-set, 8+2 us", 1000, 0, &alone, &together, &plain);
    assert_in_range(together, 0, 2 * alone * 115 / 100);
    assert_in_range(plain, together, 2 * together);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_vcpus_with_a_ticket_lock),
        cmocka_unit_test(two_vcpus_with_a_barrier),
        cmocka_unit_test(two_vcpus_with_shootdowns),
        cmocka_unit_test(four_vcpus),
        cmocka_unit_test(slices_that_end_late),
        cmocka_unit_test(more_vcpus_than_cpus),
        cmocka_unit_test(a_test_and_set_lock_gains_less),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
