/* SPDX-License-Identifier: BSD-2-Clause */
/* Kicks, budgets, steps, breakpoints, several vCPUs. */
#define _GNU_SOURCE
#include "conf.h"

#include <pthread.h>
#include <sched.h>

GUEST(g_spin, 64, "1: jmp 1b");
GUEST(g_nops, 64, ".rept 4000; nop; .endr; out 0x7e, al");
GUEST(g_steps, 64, "nop; mov eax, 5; add rax, rcx; push rax; pop rbx; out 0x7e, al");
GUEST(g_watch, 64, "mov eax, 1; mov [0x20010], eax; nop; out 0x7e, al");
GUEST(g_inc, 64, "mov ecx, 20000; 1: lock inc dword ptr [0x20000]; dec ecx; jnz 1b; out 0x7e, al");

static uint64_t now(struct conf *c)
{
    return c->tp.pf.now_ns(c->tp.pf.ctx);
}

static void a_kick_before_run_is_not_lost(struct conf *c)
{
    LOAD(LONG64, g_steps);
    c->ops->kick(c->ev[0]);
    c->ops->kick(c->ev[0]);
    if (!conf_run(c))
        return;
    CHECK_EQ(c->x.kind, VMC_EXIT_KICKED);
    if (!conf_get(c, VMC_ST_RIP))
        return;
    CHECK_EQ(c->st->rip, CODE); /* it ended that run at once */
    if (!conf_run(c))
        return;
    CHECK(conf_is_out(c, END)); /* and two kicks were one */
}

struct kicker {
    struct conf *c;
    uint32_t go, stop;
};

static void *kicker_thread(void *arg)
{
    struct kicker *k = arg;
    uint32_t seen = 0;

    while (!__atomic_load_n(&k->stop, __ATOMIC_ACQUIRE)) {
        uint32_t go = __atomic_load_n(&k->go, __ATOMIC_ACQUIRE);
        if (go == seen) {
            sched_yield();
            continue;
        }
        seen = go;
        k->c->ops->kick(k->c->ev[0]);
    }
    return NULL;
}

static void kicks_race_with_run(struct conf *c)
{
    struct kicker k = {.c = c};
    pthread_t t;
    unsigned answered = 0;

    LOAD(LONG64, g_spin);
    CHECK_EQ(pthread_create(&t, NULL, kicker_thread, &k), 0);
    for (; answered < 500; answered++) {
        __atomic_fetch_add(&k.go, 1, __ATOMIC_RELEASE); /* about when run begins */
        if (!conf_run(c) || c->x.kind != VMC_EXIT_KICKED)
            break;
    }
    __atomic_store_n(&k.stop, 1, __ATOMIC_RELEASE);
    pthread_join(t, NULL);
    if (STOPPED(c))
        return;
    CHECK_EQ(answered, 500);
}

static void deadlines_are_kept(struct conf *c)
{
    NEED(VMC_CAP_DEADLINE);
    LOAD(LONG64, g_spin);
    for (unsigned i = 1; i <= 5; i++) {
        uint64_t deadline = now(c) + i * 2000000;
        if (!conf_run_limits(c, 0, deadline))
            return;
        CHECK_EQ(c->x.kind, VMC_EXIT_BUDGET);
        CHECK(now(c) >= deadline);
        CHECK(now(c) < deadline + 60000000000u); /* a loaded machine is slow, but not that slow */
    }
    if (!conf_run_limits(c, 0, 1)) /* long past */
        return;
    CHECK_EQ(c->x.kind, VMC_EXIT_BUDGET);
}

static void instruction_budgets_are_exact(struct conf *c)
{
    static const unsigned steps[] = {1, 2, 63, 64, 65, 500, 1000};
    uint64_t at = CODE;

    NEED(VMC_CAP_RETIRED);
    LOAD(LONG64, g_nops);
    for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        if (!conf_run_limits(c, steps[i], 0))
            return;
        CHECK_EQ(c->x.kind, VMC_EXIT_BUDGET);
        CHECK_EQ(c->x.retired, steps[i]);
        at += steps[i];
        if (!conf_get(c, VMC_ST_RIP))
            return;
        CHECK_EQ(c->st->rip, at);
    }
}

static void single_steps(struct conf *c)
{
    static const unsigned length[] = {1, 5, 3, 1, 1};
    uint64_t at = CODE;

    NEED(VMC_CAP_STEP);
    LOAD(LONG64, g_steps);
    for (unsigned i = 0; i < sizeof(length) / sizeof(length[0]); i++) {
        if (!conf_run_limits(c, 1, 0))
            return;
        CHECK_EQ(c->x.kind, VMC_EXIT_BUDGET);
        at += length[i];
        if (!conf_get(c, VMC_ST_RIP | VMC_ST_GPR))
            return;
        CHECK_EQ(c->st->rip, at);
        CHECK(!(c->st->rflags & VMC_FLAG_TF)); /* the guest sees nothing of it */
    }
    if (!conf_run(c)) /* and then at full speed again */
        return;
    CHECK(conf_is_out(c, END));
}

static void breakpoints_and_watchpoints(struct conf *c)
{
    struct vmc_breakpoint bp[2] = {
        {.gva = CODE + 6, .bytes = 1, .kind = VMC_BP_EXEC}, /* push rax */
        {.gva = DATA + 0x10, .bytes = 4, .kind = VMC_BP_WRITE},
    };

    NEED(VMC_CAP_BREAKPOINT);
    LOAD(LONG64, g_steps);
    bp[0].gva = CODE + 9;
    CHECK_EQ(c->ops->set_debug(c->ev[0], bp, 2), VMC_OK);
    if (!conf_run(c))
        return;
    if (c->emulated && conf_is_out(c, END))
        SKIP("this emulated KVM has no debug registers");
    CHECK_EQ(c->x.kind, VMC_EXIT_DEBUG);
    CHECK_EQ(c->x.u.stop.why, VMC_DEBUG_BREAKPOINT);
    CHECK_EQ(c->x.u.stop.detail, CODE + 9);
    if (!conf_get(c, VMC_ST_RIP))
        return;
    CHECK_EQ(c->st->rip, CODE + 9); /* before the instruction */
    LOAD(LONG64, g_watch);
    if (!conf_run(c))
        return;
    if (c->emulated && conf_is_out(c, END))
        SKIP("this emulated KVM has no watchpoints");
    CHECK_EQ(c->x.kind, VMC_EXIT_DEBUG);
    CHECK_EQ(c->x.u.stop.why, VMC_DEBUG_WATCH);
    CHECK_EQ(c->x.u.stop.detail, DATA + 0x10);
    CHECK_EQ(c->ops->set_debug(c->ev[0], NULL, 0), VMC_OK);
    LOAD(LONG64, g_watch);
    if (!conf_run(c))
        return;
    CHECK(conf_is_out(c, END));
}

GUEST(g_int3, 64, "int3; nop; nop; out 0x7e, al");

/* A debugger's breakpoints are no INT3s: the guest's own reach the guest. */
static void int3_belongs_to_the_guest(struct conf *c)
{
    struct vmc_breakpoint bp = {.gva = CODE + 2, .bytes = 1, .kind = VMC_BP_EXEC};

    NEED(VMC_CAP_BREAKPOINT);
    LOAD(LONG64, g_int3);
    CHECK_EQ(c->ops->set_debug(c->ev[0], &bp, 1), VMC_OK);
    if (!conf_run(c))
        return;
    CHECK(conf_is_out(c, VECTOR));
    CHECK_EQ(c->x.u.io.data, 3);
}

static void breakpoint_behind_int3(struct conf *c)
{
    int3_belongs_to_the_guest(c);
    if (STOPPED(c))
        return;
    conf_complete(c);
    if (!conf_run(c))
        return;
    if (c->emulated && conf_is_out(c, END))
        SKIP("this emulated KVM has no debug registers");
    CHECK_EQ(c->x.kind, VMC_EXIT_DEBUG);
    CHECK_EQ(c->x.u.stop.why, VMC_DEBUG_BREAKPOINT);
    CHECK_EQ(c->x.u.stop.detail, CODE + 2);
    CHECK_EQ(c->ops->set_debug(c->ev[0], NULL, 0), VMC_OK);
    if (!conf_run(c))
        return;
    CHECK(conf_is_out(c, END));
}

struct smp {
    struct conf *c;
    bool ok;
};

static void *second_cpu(void *arg)
{
    struct smp *s = arg;
    struct conf *c = s->c;
    struct vmc_run_limits lim = {.size = sizeof(lim)};
    struct vmc_exit x;

    s->ok = c->ops->run(c->ev[1], &lim, &x) == VMC_OK && x.kind == VMC_EXIT_IO &&
            x.u.io.port == END && c->ops->complete(c->ev[1], &x) == VMC_OK;
    return NULL;
}

static void vcpus_share_memory_atomically(struct conf *c)
{
    struct smp s = {.c = c};
    pthread_t t;
    uint32_t sum;

    LOAD(LONG64, g_inc);
    conf_start(c, 1, LONG64, CODE);
    CHECK_EQ(pthread_create(&t, NULL, second_cpu, &s), 0);
    bool ran = conf_run(c);
    pthread_join(t, NULL);
    if (!ran)
        return;
    CHECK(conf_is_out(c, END));
    if (!s.ok && c->emulated)
        SKIP("this emulated KVM lacks an instruction of the test");
    CHECK(s.ok);
    CHECK_EQ(vmc_mem_read(c->mem, DATA, &sum, 4), VMC_OK);
    CHECK_EQ(sum, 40000);
}

const struct conf_test conf_run_tests[] = {
    {"a_kick_before_run_is_not_lost", a_kick_before_run_is_not_lost},
    {"kicks_race_with_run", kicks_race_with_run},
    {"deadlines_are_kept", deadlines_are_kept},
    {"instruction_budgets_are_exact", instruction_budgets_are_exact},
    {"single_steps", single_steps},
    {"breakpoints_and_watchpoints", breakpoints_and_watchpoints},
    {"int3_belongs_to_the_guest", int3_belongs_to_the_guest},
    {"breakpoint_behind_int3", breakpoint_behind_int3},
    {"vcpus_share_memory_atomically", vcpus_share_memory_atomically},
    {NULL, NULL},
};
