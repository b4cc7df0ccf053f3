/* SPDX-License-Identifier: BSD-2-Clause */
/* State: what goes in comes out, group by group. */
#include "conf.h"

#define SAVE_AND_COMPARE(groups, member)                                                           \
    do {                                                                                           \
        unsigned char want[sizeof(c->st->member)];                                                 \
        memcpy(want, &c->st->member, sizeof(want));                                                \
        if (!conf_set(c, groups))                                                                  \
            return;                                                                                \
        memset(c->st, 0xee, sizeof(*c->st));                                                       \
        if (!conf_get(c, groups))                                                                  \
            return;                                                                                \
        CHECK(memcmp(want, &c->st->member, sizeof(want)) == 0);                                    \
    } while (0)

static void a_new_vcpu_is_in_reset_state(struct conf *c)
{
    struct vmc_x86_state *r = c->st;

    if (!conf_get(c, VMC_ST_ALL & ~(uint32_t)VMC_ST_LAPIC))
        return;
    CHECK_EQ(r->rip, 0xfff0);
    CHECK_EQ(r->rflags, 2);
    CHECK_EQ(r->seg[VMC_CS].selector, 0xf000);
    CHECK_EQ(r->seg[VMC_CS].base, 0xffff0000u);
    CHECK_EQ(r->seg[VMC_DS].limit, 0xffff);
    CHECK_EQ(r->cr0 & 0xffffffffu, 0x60000010);
    CHECK_EQ(r->cr3 | r->cr4 | r->efer, 0);
    CHECK_EQ(r->xcr0, 1);
    CHECK_EQ(r->dr6, VMC_DR6_FIXED);
    CHECK_EQ(r->dr7, VMC_DR7_FIXED);
    CHECK_EQ(r->idtr.limit, 0xffff);
    CHECK_EQ(r->msr.pat, 0x0007040600070406ull);
    CHECK_EQ(r->injected.type, VMC_EV_NONE);
    CHECK_EQ(r->nmi_pending | r->nmi_blocked, 0);
}

static void general_registers(struct conf *c)
{
    conf_start(c, 0, LONG64, CODE);
    for (unsigned i = 0; i < 16; i++)
        c->st->gpr[i] = 0x1122334455667700ull + i;
    SAVE_AND_COMPARE(VMC_ST_GPR, gpr);
}

static void flow(struct conf *c)
{
    conf_start(c, 0, LONG64, CODE);
    c->st->rip = 0x123456;
    c->st->rflags = VMC_FLAG_1 | VMC_FLAG_CF | VMC_FLAG_IF | VMC_FLAG_DF | VMC_FLAG_AC;
    c->st->sti_shadow = 1;
    if (!conf_set(c, VMC_ST_RIP))
        return;
    memset(c->st, 0xee, sizeof(*c->st));
    if (!conf_get(c, VMC_ST_RIP))
        return;
    CHECK_EQ(c->st->rip, 0x123456);
    CHECK_EQ(c->st->rflags, VMC_FLAG_1 | VMC_FLAG_CF | VMC_FLAG_IF | VMC_FLAG_DF | VMC_FLAG_AC);
    CHECK(c->st->sti_shadow || c->st->ss_shadow); /* SVM has one bit for both */
}

static bool same_segment(const struct vmc_segment *a, const struct vmc_segment *b)
{
    return a->base == b->base && a->limit == b->limit && a->attr == b->attr &&
           a->selector == b->selector;
}

static void segments_of_every_mode(struct conf *c)
{
    struct vmc_segment want[VMC_SREGS];

    for (enum conf_mode m = REAL16; m <= LONG64; m++) {
        conf_start(c, 0, m, CODE);
        c->st->seg[VMC_FS].base = m == LONG64 ? 0xffff888000001000ull : 0x12340;
        c->st->seg[VMC_LDTR] =
            (struct vmc_segment){.limit = 0x27, .attr = 0x82, .base = 0x9000, .selector = 0x28};
        memcpy(want, c->st->seg, sizeof(want));
        if (!conf_set(c, VMC_ST_SEG))
            return;
        memset(c->st, 0xee, sizeof(*c->st));
        if (!conf_get(c, VMC_ST_SEG))
            return;
        for (unsigned i = 0; i < VMC_SREGS; i++)
            CHECK(same_segment(&want[i], &c->st->seg[i]));
    }
}

static void tables(struct conf *c)
{
    conf_start(c, 0, LONG64, CODE);
    c->st->gdtr = (struct vmc_table){.base = 0xffff800000001234ull, .limit = 0x7f};
    c->st->idtr = (struct vmc_table){.base = 0xffff800000005678ull, .limit = 0xfff};
    if (!conf_set(c, VMC_ST_TABLES))
        return;
    memset(c->st, 0xee, sizeof(*c->st));
    if (!conf_get(c, VMC_ST_TABLES))
        return;
    CHECK_EQ(c->st->gdtr.base, 0xffff800000001234ull);
    CHECK_EQ(c->st->gdtr.limit, 0x7f);
    CHECK_EQ(c->st->idtr.base, 0xffff800000005678ull);
    CHECK_EQ(c->st->idtr.limit, 0xfff);
}

static void control_registers(struct conf *c)
{
    conf_start(c, 0, LONG64, CODE);
    c->st->cr2 = 0xffff888012345678ull;
    c->st->cr4 |= VMC_CR4_PGE | VMC_CR4_OSXMMEXCPT;
    c->st->cr0 |= VMC_CR0_MP | VMC_CR0_AM;
    c->st->efer |= VMC_EFER_SCE | VMC_EFER_NX;
    uint64_t cr0 = c->st->cr0, cr4 = c->st->cr4, efer = c->st->efer;
    if (!conf_set(c, VMC_ST_CTRL))
        return;
    memset(c->st, 0xee, sizeof(*c->st));
    if (!conf_get(c, VMC_ST_CTRL))
        return;
    CHECK_EQ(c->st->cr0, cr0);
    CHECK_EQ(c->st->cr2, 0xffff888012345678ull);
    CHECK_EQ(c->st->cr3, PML4);
    CHECK_EQ(c->st->cr4, cr4);
    CHECK_EQ(c->st->efer, efer);
}

static void debug_registers(struct conf *c)
{
    conf_start(c, 0, LONG64, CODE);
    for (unsigned i = 0; i < 4; i++)
        c->st->dr[i] = 0x1000 * (i + 1);
    c->st->dr7 = VMC_DR7_FIXED | 0x55;
    if (!conf_set(c, VMC_ST_DEBUG))
        return;
    memset(c->st, 0xee, sizeof(*c->st));
    if (!conf_get(c, VMC_ST_DEBUG))
        return;
    for (unsigned i = 0; i < 4; i++)
        CHECK_EQ(c->st->dr[i], 0x1000 * (i + 1));
    CHECK_EQ(c->st->dr7, VMC_DR7_FIXED | 0x55);
}

static void system_msrs(struct conf *c)
{
    conf_start(c, 0, LONG64, CODE);
    if (!conf_get(c, VMC_ST_MSR))
        return;
    struct vmc_x86_msrs *m = &c->st->msr;
    m->star = 0x0023001000000000ull;
    m->lstar = 0xffffffff81000000ull;
    m->cstar = 0xffffffff81000100ull;
    m->sfmask = 0x47700;
    m->sysenter_cs = 0x10;
    m->sysenter_esp = 0x82002000;
    m->sysenter_eip = 0x81000200; /* SVM's are 32 bits wide */
    m->kernel_gs_base = 0xffff888000003000ull;
    m->pat = 0x0407050600070106ull;
    m->mtrr_def_type = 0xc06;
    m->mtrr_fixed[0] = 0x0606060606060606ull;
    m->mtrr_base[0] = 0xc0000000u;
    m->mtrr_mask[0] = 0xffc0000800ull & 0xfff0000800ull;
    SAVE_AND_COMPARE(VMC_ST_MSR, msr.star);
    CHECK_EQ(m->lstar, 0xffffffff81000000ull);
    CHECK_EQ(m->cstar, 0xffffffff81000100ull);
    CHECK_EQ(m->sfmask, 0x47700);
    CHECK_EQ(m->sysenter_cs, 0x10);
    CHECK_EQ(m->sysenter_eip, 0x81000200);
    CHECK_EQ(m->kernel_gs_base, 0xffff888000003000ull);
    CHECK_EQ(m->pat, 0x0407050600070106ull);
    CHECK_EQ(m->mtrr_def_type, 0xc06);
    CHECK_EQ(m->mtrr_fixed[0], 0x0606060606060606ull);
    CHECK_EQ(m->mtrr_base[0], 0xc0000000u);
}

static void pending_events(struct conf *c)
{
    conf_start(c, 0, LONG64, CODE);
    c->st->injected = (struct vmc_event){.type = VMC_EV_NONE};
    c->st->nmi_blocked = 1;
    if (!conf_set(c, VMC_ST_EVENT))
        return;
    memset(c->st, 0xee, sizeof(*c->st));
    if (!conf_get(c, VMC_ST_EVENT))
        return;
    CHECK_EQ(c->st->injected.type, VMC_EV_NONE);
    CHECK_EQ(c->st->nmi_blocked, 1);
    CHECK_EQ(c->st->nmi_pending, 0);
}

static void vector_registers(struct conf *c)
{
    conf_start(c, 0, LONG64, CODE);
    if (!conf_get(c, VMC_ST_FPU))
        return;
    CHECK(c->st->xsave_bytes >= 576);
    for (unsigned i = 0; i < 16 * 16; i++)
        c->st->xsave[160 + i] = (uint8_t)(i * 7 + 1); /* XMM0-15 */
    c->st->xsave[512] |= 3;                           /* XSTATE_BV: x87, SSE */
    c->st->xsave[0] = 0x7f;                           /* FCW 0x037f */
    c->st->xsave[1] = 0x03;
    if (!conf_set(c, VMC_ST_FPU))
        return;
    memset(c->st->xsave, 0xee, sizeof(c->st->xsave));
    if (!conf_get(c, VMC_ST_FPU))
        return;
    for (unsigned i = 0; i < 16 * 16; i++)
        CHECK_EQ(c->st->xsave[160 + i], (uint8_t)(i * 7 + 1));
    CHECK_EQ(c->st->xsave[0] | c->st->xsave[1] << 8, 0x037f);
}

GUEST(g_rdtsc, 64, "rdtsc; shl rdx, 32; or rax, rdx; out 0x7e, al");

static void time_goes_on_from_where_it_is_set(struct conf *c)
{
    LOAD(LONG64, g_rdtsc);
    c->st->tsc = 1ull << 50;
    if (!conf_set(c, VMC_ST_CLOCK) || !conf_serve(c))
        return;
    CHECK(conf_is_out(c, END));
    conf_complete(c);
    if (!conf_get(c, VMC_ST_GPR | VMC_ST_CLOCK))
        return;
    if (c->emulated && c->st->gpr[VMC_RAX] < 1ull << 50)
        SKIP("this emulated KVM shows the host's TSC");
    CHECK(c->st->gpr[VMC_RAX] >= 1ull << 50);
    CHECK(c->st->gpr[VMC_RAX] < (1ull << 50) + (1ull << 42)); /* within minutes */
    CHECK(c->st->tsc >= c->st->gpr[VMC_RAX]);
}

/* TSC_ADJUST set without the TSC moves it, there and back. */
static void another_tsc_adjust_moves_the_clock(struct conf *c)
{
    uint64_t tsc;

    if (c->emulated)
        SKIP("this emulated KVM shows the host's TSC");
    conf_start(c, 0, LONG64, CODE);
    if (!conf_get(c, VMC_ST_MSR | VMC_ST_CLOCK))
        return;
    tsc = c->st->tsc;
    c->st->msr.tsc_adjust += 1ull << 52;
    if (!conf_set(c, VMC_ST_MSR) || !conf_get(c, VMC_ST_MSR | VMC_ST_CLOCK))
        return;
    if (c->st->msr.tsc_adjust < 1ull << 52)
        SKIP("there is no TSC_ADJUST");
    CHECK(c->st->tsc - tsc >= 1ull << 52);
    CHECK(c->st->tsc - tsc < (1ull << 52) + (1ull << 42)); /* within minutes */
    c->st->msr.tsc_adjust -= 1ull << 52;
    if (!conf_set(c, VMC_ST_MSR) || !conf_get(c, VMC_ST_CLOCK))
        return;
    CHECK(c->st->tsc - tsc < 1ull << 42);
}

/* Half as fast as the engine's own: what the guest reads lies between what the engine says. */
static void the_clock_runs_at_the_rate_of_the_policy(struct conf *c)
{
    static struct vmc_cpu_policy p;
    struct vmc_error err;
    uint64_t before, after, hz;

    if (c->ops->read_tsc == NULL || c->emulated)
        SKIP("the engine does not tell its clock");
    LOAD(LONG64, g_rdtsc);
    CHECK_EQ(c->ops->read_tsc(c->ev[0], &before, &hz, NULL), VMC_OK);
    p = c->info.ceiling;
    p.tsc_hz = hz / 2;
    if (p.tsc_hz == 0 || c->ops->set_policy(c->evm, &p, &err) != VMC_OK)
        SKIP("the processor cannot scale its clock");
    CHECK_EQ(c->ops->read_tsc(c->ev[0], &before, &hz, NULL), VMC_OK);
    CHECK_EQ(hz, p.tsc_hz);
    if (!conf_serve(c))
        return;
    CHECK(conf_is_out(c, END));
    conf_complete(c);
    if (!conf_get(c, VMC_ST_GPR))
        return;
    CHECK_EQ(c->ops->read_tsc(c->ev[0], &after, &hz, NULL), VMC_OK);
    CHECK(c->st->gpr[VMC_RAX] >= before);
    CHECK(c->st->gpr[VMC_RAX] <= after);
}

static void activity(struct conf *c)
{
    conf_start(c, 0, LONG64, CODE);
    c->st->activity = VMC_RUN_HALTED;
    if (!conf_set(c, VMC_ST_RUN))
        return;
    c->st->activity = 77;
    if (!conf_get(c, VMC_ST_RUN))
        return;
    CHECK_EQ(c->st->activity, VMC_RUN_HALTED);
    c->st->activity = VMC_RUN_RUNNING;
    if (!conf_set(c, VMC_ST_RUN) || !conf_get(c, VMC_ST_RUN))
        return;
    CHECK_EQ(c->st->activity, VMC_RUN_RUNNING);
}

static void groups_do_not_disturb_each_other(struct conf *c)
{
    conf_start(c, 0, LONG64, CODE);
    c->st->gpr[VMC_RBX] = 42;
    if (!conf_set(c, VMC_ST_GPR))
        return;
    memset(c->st->gpr, 0, sizeof(c->st->gpr));
    c->st->rip = 0x9000;
    if (!conf_set(c, VMC_ST_RIP) || !conf_get(c, VMC_ST_GPR))
        return;
    CHECK_EQ(c->st->gpr[VMC_RBX], 42);
}

const struct conf_test conf_state_tests[] = {
    {"a_new_vcpu_is_in_reset_state", a_new_vcpu_is_in_reset_state},
    {"general_registers", general_registers},
    {"flow", flow},
    {"segments_of_every_mode", segments_of_every_mode},
    {"tables", tables},
    {"control_registers", control_registers},
    {"debug_registers", debug_registers},
    {"system_msrs", system_msrs},
    {"pending_events", pending_events},
    {"vector_registers", vector_registers},
    {"time_goes_on_from_where_it_is_set", time_goes_on_from_where_it_is_set},
    {"another_tsc_adjust_moves_the_clock", another_tsc_adjust_moves_the_clock},
    {"the_clock_runs_at_the_rate_of_the_policy", the_clock_runs_at_the_rate_of_the_policy},
    {"activity", activity},
    {"groups_do_not_disturb_each_other", groups_do_not_disturb_each_other},
    {NULL, NULL},
};
