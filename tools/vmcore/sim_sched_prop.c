/* SPDX-License-Identifier: BSD-2-Clause */
/* Property mode: random scenarios, searched for violations of the bounds. */
#include "sim_sched.h"

#include <math.h>
#include <string.h>

extern const struct sim_policy sim_ours;

static void fail(struct sim_property_result *r, uint64_t seed, const char *why)
{
    if (r->failures++ == 0) {
        r->first_bad_seed = seed;
        snprintf(r->why, sizeof(r->why), "%s", why);
    }
}

static void judge(struct sim *s, struct sim_property_result *r, uint64_t seed, bool verbose)
{
    struct sim_fluid_report rep;
    struct vmc_error err;
    double q = (double)s->sc->quantum_ns;
    double loss;
    uint64_t skew = 0;
    char why[200];

    sim_fluid_report(s->fluid, &rep);
    loss = fmax(rep.lost, (double)s->loss_ns) / ((double)s->now * s->ncpus);
    for (uint32_t i = 0; i < s->nvms; i++)
        if (s->vm[i].spec->coscheduling != VMC_SCHED_CO_NONE && s->vm[i].max_skew > skew)
            skew = s->vm[i].max_skew;
    double skew_ratio = (double)skew / q;
    r->max_lag_quanta = fmax(r->max_lag_quanta, rep.max_lag / q);
    r->max_window_quanta = fmax(r->max_window_quanta, rep.max_window / q);
    r->max_vm_lag_quanta = fmax(r->max_vm_lag_quanta, rep.max_vm_lag / q);
    r->max_vm_window_quanta = fmax(r->max_vm_window_quanta, rep.max_vm_window / q);
    r->max_skew_ns_over_bound = fmax(r->max_skew_ns_over_bound, skew_ratio);
    r->max_idle_loss = fmax(r->max_idle_loss, loss);
    if (vmc_sched_check(sim_ours_sched(s), &err) != VMC_OK)
        fail(r, seed, err.text);
    snprintf(why, sizeof(why), "VM %u is %.3f quanta off its ideal", rep.worst_vm,
             rep.max_window / q);
    r->beyond_quantum += rep.max_window > q;
    if (r->max_error > 0 && rep.max_window > r->max_error * q)
        fail(r, seed, why);
    snprintf(why, sizeof(why), "skew of %.3f quanta", skew_ratio);
    if (skew_ratio > 1)
        fail(r, seed, why);
    if (verbose)
        printf("seed %llu: cpus %u vms %u vcpus %u decisions %llu lag %.3f window %.3f (vm %u: "
               "%u vcpus) vm-total %.3f skew %.3f loss %.4f%%\n",
               (unsigned long long)seed, s->ncpus, s->nvms, s->nvcpus,
               (unsigned long long)s->decisions, rep.max_lag / q, rep.max_window / q, rep.worst_vm,
               s->vm[rep.worst_vm].n, rep.max_vm_window / q, skew_ratio, 100 * loss);
}

int sim_property(uint64_t seed, uint64_t scenarios, uint64_t decisions, bool verbose,
                 double max_error, struct sim_property_result *out)
{
    uint64_t each = scenarios == 0 ? decisions : (decisions + scenarios - 1) / scenarios;

    memset(out, 0, sizeof(*out));
    out->max_error = max_error;
    while (out->scenarios < scenarios) {
        struct sim_scenario sc;
        struct sim s;
        sim_scenario_random(&sc, seed);
        sc.duration_ns = 1000000000000u;
        sc.max_decisions = each;
        if (sim_init(&s, &sc, &sim_ours, true, false) != 0) {
            fail(out, seed, "the scenario was refused");
        } else {
            sim_run(&s);
            judge(&s, out, seed, verbose);
            out->decisions += s.decisions;
        }
        sim_fini(&s);
        sim_scenario_free(&sc);
        out->scenarios++;
        seed++;
    }
    return out->failures > 1000000 ? 1000000 : (int)out->failures;
}
