/* SPDX-License-Identifier: BSD-2-Clause */
#include "smp_sim.h"
#include "smp_vm.h"

#include <stdlib.h>

#include <vmcore/host.h>

/* Steps of vCPUs that run at the same time; what one does, the other sees in its next. */
#define STEP_NS 500
/* PAUSEs of a loop that waits before somebody is told, as the runner's; a step is shorter. */
#define PAUSE_LIMIT 100
#define PAUSE_EXIT  10
#define SHARES      1000u

#define LOOPS(us) ((us)*1000 / SMP_SIM_LOOP_NS)

#define LOCK(ways, n, work_us, critical_us, kind, count)                                           \
    .cpus = (n), .shared = {.mode = (kind),                                                        \
                            .cpus = (ways),                                                        \
                            .rounds = (count),                                                     \
                            .work = LOOPS(work_us),                                                \
                            .critical = LOOPS(critical_us),                                        \
                            .vary = 1}

const struct smp_sim_program smp_sim_programs[] = {
    {"2 vCPUs, ticket lock, 18+2 us", LOCK(2, 2, 18, 2, SMP_LOCK, 2000)},
    {"2 vCPUs, ticket lock, 8+2 us", LOCK(2, 2, 8, 2, SMP_LOCK, 4000)},
    {"2 vCPUs, ticket lock, 6+4 us", LOCK(2, 2, 6, 4, SMP_LOCK, 4000)},
    {"2 vCPUs, barrier, 20 us", LOCK(2, 2, 20, 0, SMP_BARRIER, 2000)},
    {"2 vCPUs, shootdown, 50 us", LOCK(2, 2, 50, 0, SMP_SHOOT, 800)},
    {"2 vCPUs, test-and-set, 8+2 us", LOCK(2, 2, 8, 2, SMP_TAS, 4000)},
    {"2 vCPUs, test-and-set, 6+4 us", LOCK(2, 2, 6, 4, SMP_TAS, 4000)},
    {"4 vCPUs, ticket lock, 18+2 us", LOCK(4, 4, 18, 2, SMP_LOCK, 2000)},
    {"4 vCPUs, barrier, 20 us", LOCK(4, 4, 20, 0, SMP_BARRIER, 2000)},
    {"4 vCPUs, shootdown, 100 us", LOCK(4, 4, 100, 0, SMP_SHOOT, 400)},
    {"4 vCPUs, test-and-set, 18+2 us", LOCK(4, 4, 18, 2, SMP_TAS, 2000)},
    {"4 on 2, ticket lock, 18+2 us", LOCK(4, 2, 18, 2, SMP_LOCK, 1000)},
    {"4 on 2, barrier, 20 us", LOCK(4, 2, 20, 0, SMP_BARRIER, 1000)},
};
const unsigned smp_sim_nprograms = sizeof(smp_sim_programs) / sizeof(smp_sim_programs[0]);

struct smp_sim {
    struct smp_vm guest;
    uint32_t pause_limit;
    uint64_t owed[SMP_MAX_CPUS];   /* ns for which no instruction has been executed yet */
    uint32_t pauses[SMP_MAX_CPUS]; /* in a row */
};

static enum sim_code_result run(void *ctx, uint32_t vm, uint32_t index, uint64_t ns)
{
    struct smp_sim *p = ctx;
    struct vmc_vcpu *v = vmc_vm_vcpu(p->guest.vm, index);
    uint32_t before = p->pauses[index];

    (void)vm;
    p->owed[index] += ns;
    while (p->owed[index] >= SMP_SIM_INSN_NS) {
        struct vmc_run_limits lim = {.size = sizeof(lim),
                                     .pause_limit = p->pause_limit,
                                     .max_insns = p->owed[index] / SMP_SIM_INSN_NS};
        struct vmc_exit x = {.kind = VMC_EXIT_KICKED};
        int rc = vmc_vcpu_run(v, &lim, &x);
        uint64_t took = x.retired * SMP_SIM_INSN_NS;
        p->owed[index] -= took < p->owed[index] ? took : p->owed[index];
        if (rc == VMC_OK && (x.kind == VMC_EXIT_BUDGET || x.kind == VMC_EXIT_KICKED))
            continue;
        if (rc == VMC_OK && x.kind == VMC_EXIT_IDLE) /* programs halt only when they are done */
            return SIM_CODE_ENDED;
        if (rc == VMC_OK && x.kind == VMC_EXIT_PAUSE)
            p->pauses[index] += PAUSE_EXIT;
        else if (smp_vm_exit(&p->guest, index, rc, &x) != VMC_RUNNER_AGAIN)
            return SIM_CODE_ENDED;
    }
    bool spins = p->pauses[index] >= PAUSE_LIMIT;
    if (spins || p->pauses[index] == before)
        p->pauses[index] = 0;
    return spins ? SIM_CODE_SPINS : SIM_CODE_RUNS;
}

/* The program's VM, and behind it one for the others. */
static void describe(const struct smp_sim_config *cfg, struct sim_vm_spec *vms,
                     struct sim_scenario *sc)
{
    vms[0] = (struct sim_vm_spec){.name = "program",
                                  .pool = SIM_NONE,
                                  .vcpus = cfg->program->cpus,
                                  .coscheduling = cfg->coscheduling,
                                  .share = {.shares = SHARES * (cfg->others + !cfg->others)},
                                  .guest = {.model = SIM_CODE}};
    for (uint32_t i = 1; i <= cfg->others; i++)
        vms[i] = (struct sim_vm_spec){.name = "other",
                                      .pool = SIM_NONE,
                                      .vcpus = 1,
                                      .share = {.shares = SHARES},
                                      .guest = {.model = SIM_CPU}};
    *sc = (struct sim_scenario){.cpus = cfg->cpus,
                                .threads_per_core = 1,
                                .quantum_ns = 3000000,
                                .duration_ns = cfg->most_ns,
                                .seed = 1,
                                .switch_ns = 2000,
                                .kick_ns = 2000,
                                .late_ns = cfg->late_ns,
                                .ple_ns = cfg->spin ? 1 : 0,
                                .vms = vms,
                                .nvms = cfg->others + 1};
}

static int simulate(const struct smp_sim_config *cfg, struct smp_sim *p,
                    const struct sim_scenario *sc, struct smp_sim_result *out)
{
    const struct sim_policy *policy = sim_policy_find(cfg->policy);
    struct sim_code code = {.ctx = p, .step_ns = STEP_NS, .run = run};
    struct vmc_error err = {0};
    struct sim s;

    if (policy == NULL || vmc_vm_start(p->guest.vm, &err) != VMC_OK) {
        fprintf(stderr, "smp_sim: policy %s: %s\n", cfg->policy, err.text);
        return -1;
    }
    vmc_vm_resume(p->guest.vm);
    if (sim_init(&s, sc, policy, false, false) == 0) {
        s.code = &code;
        sim_run(&s);
        const struct smp_shared *sh = p->guest.sh;
        uint64_t rounds = 0;
        for (uint32_t i = 0; i < sh->cpus; i++)
            rounds += sh->cpu[i].progress;
        out->ns = s.now;
        out->used = s.vm[0].served;
        out->worked = rounds * (sh->work + sh->critical) * SMP_SIM_LOOP_NS;
        out->done = s.over && sh->sum == (uint64_t)sh->cpus * sh->rounds;
        if (s.over && !out->done)
            p->guest.bad++;
    }
    sim_fini(&s);
    return out->ns == 0 || p->guest.bad != 0 ? -1 : 0;
}

int smp_sim_run(const struct smp_sim_config *cfg, struct smp_sim_result *out)
{
    struct sim_vm_spec *vms = calloc(cfg->others + 1u, sizeof(*vms));
    struct vmc_platform pf;
    struct sim_scenario sc;
    struct smp_sim p = {.pause_limit = cfg->spin ? PAUSE_EXIT : 0};
    int rc = -1;

    *out = (struct smp_sim_result){0};
    if (vms != NULL && vmc_host_platform_init(&pf, NULL, NULL) == VMC_OK &&
        smp_vm_create(&p.guest, &pf, vmc_engine_soft(), cfg->program) == 0) {
        describe(cfg, vms, &sc);
        rc = simulate(cfg, &p, &sc, out);
        smp_vm_destroy(&p.guest);
    }
    free(vms);
    return rc;
}
