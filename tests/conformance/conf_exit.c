/* SPDX-License-Identifier: BSD-2-Clause */
/* Each kind of exit, its data, and its completion. */
#include "conf.h"

GUEST(g_io16, 16, "mov dx, 0x500; mov eax, 0x11223344; out dx, al; out dx, ax; out dx, eax;"
                  "in al, dx; in ax, dx; in eax, dx; out 0x7e, al");
GUEST(g_io32, 32, "mov edx, 0x500; mov eax, 0x11223344; out dx, al; out dx, ax; out dx, eax;"
                  "in al, dx; in ax, dx; in eax, dx; out 0x7e, al");
GUEST(g_io64, 64, "mov edx, 0x500; mov eax, 0x11223344; out dx, al; out dx, ax; out dx, eax;"
                  "in al, dx; in ax, dx; in eax, dx; out 0x7e, al");

static void one_access(struct conf *c, bool write, unsigned bytes, uint32_t data)
{
    if (!conf_run(c))
        return;
    CHECK_EQ(c->x.kind, VMC_EXIT_IO);
    CHECK_EQ(c->x.u.io.port, 0x500);
    CHECK_EQ(c->x.u.io.bytes, bytes);
    CHECK_EQ(c->x.u.io.write, write);
    if (write)
        CHECK_EQ(c->x.u.io.data, data);
    else
        c->x.u.io.data = data;
    conf_complete(c);
}

static void io_in_mode(struct conf *c, enum conf_mode mode, const uint8_t *code,
                       const uint8_t *end)
{
    conf_load(c, mode, code, end);
    one_access(c, true, 1, 0x44);
    one_access(c, true, 2, 0x3344);
    one_access(c, true, 4, 0x11223344);
    one_access(c, false, 1, 0xaa);
    if (STOPPED(c) || !conf_get(c, VMC_ST_GPR))
        return;
    CHECK_EQ(c->st->gpr[VMC_RAX], 0x112233aa); /* the rest of the register stays */
    one_access(c, false, 2, 0xbbcc);
    if (STOPPED(c) || !conf_get(c, VMC_ST_GPR))
        return;
    CHECK_EQ(c->st->gpr[VMC_RAX], 0x1122bbcc);
    one_access(c, false, 4, 0x87654321);
    if (!conf_run(c))
        return;
    CHECK(conf_is_out(c, END));
    conf_complete(c);
    if (!conf_get(c, VMC_ST_GPR | VMC_ST_RIP))
        return;
    CHECK_EQ(c->st->gpr[VMC_RAX], 0x87654321);
    CHECK_EQ(c->st->rip, CODE + (uint64_t)(end - code)); /* completion retires the instruction */
}

static void port_io_in_every_mode(struct conf *c)
{
    io_in_mode(c, REAL16, g_io16, g_io16_end);
    if (!STOPPED(c))
        io_in_mode(c, PROT32, g_io32, g_io32_end);
    if (!STOPPED(c))
        io_in_mode(c, LONG64, g_io64, g_io64_end);
}

GUEST(g_string, 64, "mov edx, 0x500; mov esi, 0x20000; mov ecx, 5; cld; rep outsw;"
                    "mov edi, 0x20100; mov ecx, 3; rep insd; out 0x7e, al");

static void string_io_is_split(struct conf *c)
{
    static const uint16_t out[5] = {0x1111, 0x2222, 0x3333, 0x4444, 0x5555};
    uint32_t in[3];

    LOAD(LONG64, g_string);
    CHECK_EQ(vmc_mem_write(c->mem, DATA, out, sizeof(out)), VMC_OK);
    for (unsigned i = 0; i < 5; i++) {
        one_access(c, true, 2, out[i]);
        if (STOPPED(c))
            return;
    }
    for (unsigned i = 0; i < 3; i++) {
        one_access(c, false, 4, 0xabc00000u + i);
        if (STOPPED(c))
            return;
    }
    if (!conf_run(c))
        return;
    CHECK(conf_is_out(c, END));
    conf_complete(c);
    CHECK_EQ(vmc_mem_read(c->mem, DATA + 0x100, in, sizeof(in)), VMC_OK);
    for (unsigned i = 0; i < 3; i++)
        CHECK_EQ(in[i], 0xabc00000u + i);
    if (!conf_get(c, VMC_ST_GPR))
        return;
    CHECK_EQ(c->st->gpr[VMC_RCX], 0);
    CHECK_EQ(c->st->gpr[VMC_RSI], DATA + 10);
    CHECK_EQ(c->st->gpr[VMC_RDI], DATA + 0x10c);
}

GUEST(g_msr, 64, "mov ecx, 0x4d534d53; rdmsr; mov esi, eax; mov edi, edx; mov eax, 0x11;"
                 "mov edx, 0x22; wrmsr; out 0x7e, al");

static void unknown_msrs_exit(struct conf *c)
{
    NEED(VMC_CAP_MSR_EXIT);
    LOAD(LONG64, g_msr);
    if (!conf_run(c))
        return;
    CHECK_EQ(c->x.kind, VMC_EXIT_MSR);
    CHECK_EQ(c->x.u.msr.index, 0x4d534d53);
    CHECK(!c->x.u.msr.write);
    c->x.u.msr.value = 0x0123456789abcdefull;
    conf_complete(c);
    if (!conf_run(c))
        return;
    CHECK_EQ(c->x.kind, VMC_EXIT_MSR);
    CHECK(c->x.u.msr.write);
    CHECK_EQ(c->x.u.msr.value, 0x0000002200000011ull);
    conf_complete(c);
    if (!conf_run(c))
        return;
    CHECK(conf_is_out(c, END));
    if (!conf_get(c, VMC_ST_GPR))
        return;
    CHECK_EQ(c->st->gpr[VMC_RSI], 0x89abcdef);
    CHECK_EQ(c->st->gpr[VMC_RDI], 0x01234567);
}

static void a_refused_msr_faults(struct conf *c)
{
    NEED(VMC_CAP_MSR_EXIT);
    LOAD(LONG64, g_msr);
    if (!conf_run(c))
        return;
    CHECK_EQ(c->x.kind, VMC_EXIT_MSR);
    c->x.answer = VMC_ANSWER_GP;
    CHECK_EQ(c->ops->complete(c->ev[0], &c->x), VMC_OK);
    if (!conf_run(c))
        return;
    CHECK(conf_is_out(c, VECTOR));
    CHECK_EQ(c->x.u.io.data, VMC_VEC_GP);
}

#define CPUID_HTT (1u << 28)

GUEST(g_cpuid, 64, "mov eax, 1; xor ecx, ecx; cpuid; out 0x7e, al");

static void cpuid_follows_the_policy(struct conf *c)
{
    const struct vmc_cpuid_leaf *one = vmc_cpu_policy_find(&c->info.ceiling, 1, 0);

    LOAD(LONG64, g_cpuid);
    CHECK(one != NULL);
    if (!conf_run(c))
        return;
    if (c->x.kind == VMC_EXIT_CPUID) {
        CHECK_EQ(c->x.u.cpuid.leaf, 1);
        c->x.u.cpuid.eax = one->eax;
        c->x.u.cpuid.edx = one->edx;
        conf_complete(c);
        if (!conf_run(c))
            return;
    }
    CHECK(conf_is_out(c, END));
    conf_complete(c);
    if (!conf_get(c, VMC_ST_GPR))
        return;
    CHECK_EQ(c->st->gpr[VMC_RAX], one->eax);
    CHECK_EQ(c->st->gpr[VMC_RDX] & ~CPUID_HTT, one->edx & ~CPUID_HTT); /* depends on topology */
    CHECK_EQ(c->st->gpr[VMC_RBX] >> 24, 0); /* APIC ID of the first vCPU */
}

GUEST(g_hlt, 64, "hlt; sti; hlt; out 0x7e, al");

static void halt_is_idle(struct conf *c)
{
    if (c->info.caps & VMC_CAP_IRQCHIP)
        SKIP("the engine handles HLT itself");
    LOAD(LONG64, g_hlt);
    for (unsigned i = 0; i < 3; i++) { /* it stays halted, however often it is run */
        if (!conf_run(c))
            return;
        CHECK_EQ(c->x.kind, VMC_EXIT_IDLE);
        CHECK_EQ(c->x.u.idle.why, VMC_IDLE_HLT);
        CHECK(!c->x.u.idle.irqs_on);
    }
    if (!conf_get(c, VMC_ST_RUN | VMC_ST_RIP))
        return;
    CHECK_EQ(c->st->activity, VMC_RUN_HALTED);
    CHECK_EQ(c->st->rip, CODE + 1);
    c->st->activity = VMC_RUN_RUNNING;
    if (!conf_set(c, VMC_ST_RUN) || !conf_run(c))
        return;
    CHECK_EQ(c->x.kind, VMC_EXIT_IDLE);
    CHECK(c->x.u.idle.irqs_on);
}

GUEST(g_triple, 64, "lidt [rip + 1f]; ud2; 1: .word 0; .quad 0");

static void triple_fault_is_shutdown(struct conf *c)
{
    LOAD(LONG64, g_triple);
    if (!conf_run(c))
        return;
    CHECK_EQ(c->x.kind, VMC_EXIT_SHUTDOWN);
    CHECK_EQ(c->x.u.stop.why, VMC_STOP_TRIPLE_FAULT);
}

static void misuse_is_refused(struct conf *c)
{
    struct vmc_run_limits lim = {.size = sizeof(lim)};
    struct vmc_exit x;

    LOAD(LONG64, g_io64);
    memset(&x, 0, sizeof(x));
    x.kind = VMC_EXIT_IO;
    CHECK_EQ(c->ops->complete(c->ev[0], &x), VMC_ESTATE);
    if (!conf_run(c))
        return;
    CHECK_EQ(c->x.kind, VMC_EXIT_IO);
    CHECK_EQ(c->ops->run(c->ev[0], &lim, &x), VMC_ESTATE);
    CHECK_EQ(c->ops->set_state(c->ev[0], VMC_ST_GPR, c->st), VMC_ESTATE);
    CHECK_EQ(c->ops->get_state(c->ev[0], VMC_ST_GPR, c->st), VMC_OK); /* looking is allowed */
    CHECK_EQ(c->st->gpr[VMC_RAX], 0x11223344);
    conf_complete(c);
    CHECK_EQ(c->ops->complete(c->ev[0], &c->x), VMC_ESTATE);
}

const struct conf_test conf_exit_tests[] = {
    {"port_io_in_every_mode", port_io_in_every_mode},
    {"string_io_is_split", string_io_is_split},
    {"unknown_msrs_exit", unknown_msrs_exit},
    {"a_refused_msr_faults", a_refused_msr_faults},
    {"cpuid_follows_the_policy", cpuid_follows_the_policy},
    {"halt_is_idle", halt_is_idle},
    {"triple_fault_is_shutdown", triple_fault_is_shutdown},
    {"misuse_is_refused", misuse_is_refused},
    {NULL, NULL},
};
