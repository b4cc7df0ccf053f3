/* SPDX-License-Identifier: BSD-2-Clause */
/* The software CPU as an engine. */
#include "cpu/bt/bt_int.h"
#include "cpu/fpu/fp.h"
#include "cpu/interp/soft_loop.h"

#define SITE "soft"

static uint64_t fp_features(const struct vmc_platform *pf)
{
    return vmci_pf_has(pf, exec) ? vmci_fp_host_features() : 0;
}

static int soft_probe(const struct vmc_platform *pf, struct vmc_engine_info *out,
                      struct vmc_error *err)
{
    (void)err;
    memset(out, 0, sizeof(*out));
    out->size = sizeof(*out);
    out->caps = VMC_CAP_RETIRED | VMC_CAP_DEADLINE | VMC_CAP_MSR_EXIT | VMC_CAP_STEP |
                VMC_CAP_BREAKPOINT | VMC_CAP_IRQ_PULL | VMC_CAP_PAUSE;
    out->vm_bytes = sizeof(struct vmci_soft_vm);
    out->vcpu_bytes = sizeof(struct vmci_soft_cpu);
    out->max_vcpus = SOFT_MAX_CPUS;
    vmci_soft_ceiling(&out->ceiling, fp_features(pf));
    if (!vmci_pf_has(pf, exec))
        vmci_log(pf, VMC_LOG_WARN, SITE, "no executable memory: guests get no x87 and no SIMD");
    return VMC_OK;
}

/* ---- VM -------------------------------------------------------------------------------------- */

static void on_code_write(void *ctx, uint64_t gpa, uint64_t bytes)
{
    smc_notify(ctx, gpa, bytes, NULL);
}

static void flush_all(struct vmci_soft_vm *vm)
{
    for (uint32_t i = 0; i < vmci_load_acquire(&vm->count); i++) {
        struct vmci_soft_cpu *sc = soft_cpu_at(vm, i);
        if (sc != NULL)
            soft_request(sc, VMCI_REQ_FLUSH);
    }
}

static void on_flush(void *ctx, uint64_t gpa, uint64_t bytes)
{
    (void)gpa;
    (void)bytes; /* all of it: flushes are rare */
    flush_all(ctx);
}

static void soft_set_a20(void *evm, bool on)
{
    struct vmci_soft_vm *vm = evm;

    if (vmci_exchange(&vm->a20_off, on ? 0u : 1u) != (on ? 0u : 1u))
        flush_all(vm);
}

static int soft_vm_init(void *evm, const struct vmc_engine_vm_config *cfg, struct vmc_error *err)
{
    struct vmci_soft_vm *vm = evm;
    const struct vmc_soft_config *sc = cfg->engine_config;

    if (cfg->max_vcpus > SOFT_MAX_CPUS)
        return vmci_error(err, VMC_ELIMIT, SITE, "%u vCPUs, at most %u are possible",
                          cfg->max_vcpus, SOFT_MAX_CPUS);
    if (sc != NULL && sc->size != sizeof(*sc))
        return vmci_error(err, VMC_EINVAL, SITE, "engine_config has size %u", sc->size);
    uint64_t code = sc != NULL && sc->code_bytes != 0 ? sc->code_bytes : BT_CODE_BYTES;
    if (code < BT_CODE_MIN || code > BT_CODE_MAX || (code & (code - 1)) != 0)
        return vmci_error(err, VMC_EINVAL, SITE,
                          "code_bytes is %llu: a power of two from %u to %u is needed",
                          (unsigned long long)code, BT_CODE_MIN, BT_CODE_MAX);
    vm->bt_bytes = (size_t)code;
    vm->pf = cfg->platform;
    vm->mem = cfg->mem;
    vm->virtual_time = (cfg->flags & VMC_ENGINE_VIRTUAL_TIME) != 0;
    if (sc != NULL) {
        vm->translate = (sc->flags & (VMC_SOFT_TRANSLATE | VMC_SOFT_TRANSLATE_ALL)) != 0;
        vm->bt_hot = (sc->flags & VMC_SOFT_TRANSLATE_ALL) != 0 ? 0 : BT_HOT;
        vm->trace = sc->trace;
        vm->trace_ctx = sc->trace_ctx;
        vm->translated = sc->translated;
        vm->translated_ctx = sc->translated_ctx;
    }
    vmci_soft_ceiling(&vm->policy, fp_features(vm->pf));
    vm->listener = (struct vmci_mem_listener){
        .ctx = vm, .code_write = on_code_write, .flush = on_flush, .settled = soft_mem_settled};
    vmci_mem_listen(vm->mem, &vm->listener);
    return VMC_OK;
}

static void soft_vm_fini(void *evm)
{
    struct vmci_soft_vm *vm = evm;

    vmci_mem_unlisten(vm->mem, &vm->listener);
}

static int soft_set_policy(void *evm, const struct vmc_cpu_policy *policy, struct vmc_error *err)
{
    struct vmci_soft_vm *vm = evm;

    if (policy->size != sizeof(*policy) || policy->count > VMC_CPUID_MAX_LEAVES)
        return vmci_error(err, VMC_EINVAL, SITE, "the CPU policy has %u entries", policy->count);
    vm->policy = *policy;
    for (uint32_t i = 0; i < vm->count; i++)
        if (vm->cpu[i] != NULL) {
            vmci_apply_policy(&vm->cpu[i]->cpu, &vm->policy);
            block_flush_all(vm->cpu[i]);
        }
    return VMC_OK;
}

static int soft_mem_changed(void *evm)
{
    struct vmci_soft_vm *vm = evm;

    for (uint32_t i = 0; i < vm->count; i++)
        if (vm->cpu[i] != NULL) {
            vmci_store_release(&vm->cpu[i]->inval_all, 1u);
            soft_request(vm->cpu[i], VMCI_REQ_FLUSH | VMCI_REQ_CODE);
        }
    return VMC_OK;
}

/* ---- vCPU ------------------------------------------------------------------------------------ */

static void soft_vcpu_fini(void *ev)
{
    struct vmci_soft_cpu *sc = ev;

    if (sc->cpu.vm == NULL)
        return;
    vmci_store_release(&sc->cpu.vm->cpu[sc->cpu.index], (struct vmci_soft_cpu *)NULL);
    block_cache_free(sc);
    bt_fini(sc);
    vmci_fp_destroy(&sc->cpu);
    vmci_decoder_destroy(sc->cpu.dec);
    sc->cpu.vm = NULL;
}

static int soft_vcpu_init(void *evm, void *ev, uint32_t index, const struct vmc_engine_io *io,
                          struct vmc_error *err)
{
    struct vmci_soft_vm *vm = evm;
    struct vmci_soft_cpu *sc = ev;
    struct vmci_cpu *cpu = &sc->cpu;

    if (index >= SOFT_MAX_CPUS)
        return vmci_error(err, VMC_ELIMIT, SITE, "vCPU %u, at most %u are possible", index,
                          SOFT_MAX_CPUS);
    cpu->pf = vm->pf;
    cpu->mem = vm->mem;
    cpu->io = io;
    cpu->index = index;
    cpu->apic_id = index;
    cpu->tsc_source = vm->virtual_time ? VMCI_TSC_VIRTUAL : VMCI_TSC_HOST;
    sc->ack_seq = UINT64_MAX;
    sc->mem_ack = UINT64_MAX;
    sc->skip_bp = VMCI_TLB_NONE;
    sc->rep_at = UINT64_MAX;
    sc->irq_wait = true;
    soft_tlb_init(sc);
    int rc = vmci_decoder_create(vm->pf, &cpu->dec, err);
    if (rc != VMC_OK)
        return rc;
    rc = vmci_pf_has(vm->pf, exec) ? vmci_fp_create(cpu, err) : VMC_OK;
    if (rc != VMC_OK) {
        vmci_decoder_destroy(cpu->dec);
        return rc;
    }
    cpu->vm = vm;
    vmci_apply_policy(cpu, &vm->policy);
    soft_see_a20(sc);
    vmci_cpu_reset(cpu, false);
    if (vm->cpu[0] != NULL)
        cpu->tsc_offset = vm->cpu[0]->cpu.tsc_offset; /* all TSCs of a machine are one */
    if (cpu->fp != NULL)
        vmci_fp_reset(cpu, false);
    if (vm->translate && cpu->fp != NULL && bt_init(sc) == VMC_ENOMEM) {
        vmci_fp_destroy(cpu);
        vmci_decoder_destroy(cpu->dec);
        cpu->vm = NULL;
        return vmci_error(err, VMC_ENOMEM, SITE, "no memory for translated code");
    }
    cpu->injected.type = VMC_EV_NONE;
    vmci_store_release(&vm->cpu[index], sc);
    vmci_store_release(&vm->count, VMCI_MAX(vm->count, index + 1));
    return VMC_OK;
}

/* ---- run ------------------------------------------------------------------------------------- */

static bool needs_completion(uint32_t kind)
{
    return kind == VMC_EXIT_IO || kind == VMC_EXIT_MMIO || kind == VMC_EXIT_MSR ||
           kind == VMC_EXIT_HYPERCALL;
}

static int soft_run(void *ev, const struct vmc_run_limits *lim, struct vmc_exit *out)
{
    struct vmci_soft_cpu *sc = ev;
    struct vmci_cpu *cpu = &sc->cpu;
    uint64_t start = cpu->retired - sc->uncounted;

    if (sc->owed)
        return VMC_ESTATE;
    sc->uncounted = 0;
    if (sc->stashed) {
        sc->stashed = false;
        sc->owed = needs_completion(cpu->exit.kind);
        cpu->exit.retired = cpu->retired - start;
        *out = cpu->exit;
        return VMC_OK;
    }
    sc->insn_limit = lim->max_insns != 0 ? start + lim->max_insns : UINT64_MAX;
    if (sc->insn_limit < start)
        sc->insn_limit = UINT64_MAX;
    sc->deadline_ns = lim->deadline_ns;
    sc->pause_limit = lim->pause_limit;
    sc->pauses = 0;
    cpu->tsc_base = lim->virtual_ns - start;
    smc_enter(sc);
    soft_mem_enter(sc);
    (void)soft_loop(sc);
    soft_mem_leave(sc);
    smc_leave(sc);
    vmci_fp_park(cpu);
    sc->owed = needs_completion(cpu->exit.kind);
    cpu->exit.retired = cpu->retired - start;
    *out = cpu->exit;
    return VMC_OK;
}

/*
 * Retire the instruction whose access was just answered, so that the state is whole and the access
 * is not made again. What it wants further (a second access) is reported by the next run.
 */
static void retire_answered(struct vmci_soft_cpu *sc)
{
    struct vmci_cpu *cpu = &sc->cpu;
    bool window = sc->want_window;
    uint8_t nmi = cpu->nmi_pending;
    uint64_t before = cpu->retired;
    uint32_t kick = 0;

    sc->want_window = false;
    cpu->nmi_pending = 0;
    sc->insn_limit = before + 1;
    sc->deadline_ns = 0;
    sc->pause_limit = 0;
    do {
        kick |= vmci_fetch_and(&cpu->request, ~VMCI_REQ_KICK) & VMCI_REQ_KICK;
        cpu->irq_shadow |= 1; /* no interrupt comes between the access and its instruction */
        smc_enter(sc);
        soft_mem_enter(sc);
        (void)soft_loop(sc);
        soft_mem_leave(sc);
        smc_leave(sc);
        if (cpu->exit.kind == VMC_EXIT_KICKED)
            kick = VMCI_REQ_KICK;
    } while (cpu->exit.kind == VMC_EXIT_KICKED);
    vmci_fp_park(cpu);
    sc->want_window = window;
    cpu->nmi_pending |= nmi;
    sc->irq_wait = true;
    (void)vmci_fetch_or(&cpu->request, kick | VMCI_REQ_IRQ | (nmi != 0 ? VMCI_REQ_NMI : 0) |
                                           (window ? VMCI_REQ_TRAP : 0));
    sc->stashed = cpu->exit.kind != VMC_EXIT_BUDGET;
    sc->uncounted += cpu->retired - before;
}

static int soft_complete(void *ev, const struct vmc_exit *done)
{
    struct vmci_soft_cpu *sc = ev;
    struct vmci_cpu *cpu = &sc->cpu;
    uint64_t data = done->u.msr.value;

    if (!sc->owed || done->kind != cpu->exit.kind)
        return VMC_ESTATE;
    sc->owed = false;
    if (done->answer != VMC_ANSWER_DONE) {
        io_log_reset(sc);
        if (done->answer == VMC_ANSWER_GP)
            (void)vmci_raise_code(cpu, VMC_VEC_GP, 0); /* delivered when run is next entered */
        else
            (void)vmci_raise(cpu, VMC_VEC_UD);
        return VMC_OK;
    }
    if (done->kind == VMC_EXIT_HYPERCALL) {
        cpu->gpr[VMC_RAX] = done->u.hypercall.ret;
        cpu->rip += sc->exit_len;
        cpu->retired++;
        return VMC_OK;
    }
    if (done->kind == VMC_EXIT_IO)
        data = done->u.io.data & (uint32_t)(~0ull >> (64 - 8 * cpu->exit.u.io.bytes));
    else if (done->kind == VMC_EXIT_MMIO)
        data = done->u.mmio.data & (~0ull >> (64 - 8 * cpu->exit.u.mmio.bytes));
    io_log_answer(sc, data);
    retire_answered(sc);
    return VMC_OK;
}

static void soft_kick(void *ev)
{
    soft_request(ev, VMCI_REQ_KICK);
}

static void soft_irq_notify(void *ev)
{
    soft_request(ev, VMCI_REQ_IRQ);
}

/* ---- state ----------------------------------------------------------------------------------- */

static int soft_get_state(void *ev, uint32_t groups, struct vmc_x86_state *st)
{
    struct vmci_soft_cpu *sc = ev;

    if ((groups & VMC_ST_LAPIC) != 0 && groups == VMC_ST_LAPIC)
        return VMC_ENOTSUP;
    vmci_cpu_get_state(&sc->cpu, groups & ~(uint32_t)VMC_ST_FPU, st);
    if ((groups & VMC_ST_FPU) != 0) {
        memset(st->xsave, 0, sizeof(st->xsave));
        st->xsave_bytes = sc->cpu.fp != NULL ? vmci_fp_get_xsave(&sc->cpu, st->xsave) : 0;
    }
    return VMC_OK;
}

static int soft_set_state(void *ev, uint32_t groups, const struct vmc_x86_state *st)
{
    struct vmci_soft_cpu *sc = ev;
    int rc;

    if (sc->owed)
        return VMC_ESTATE;
    if ((groups & VMC_ST_FPU) != 0 && sc->cpu.fp != NULL && st->xsave_bytes != 0) {
        if (st->xsave_bytes > sizeof(st->xsave))
            return VMC_EINVAL;
        rc = vmci_fp_set_xsave(&sc->cpu, st->xsave, st->xsave_bytes);
        if (rc != VMC_OK)
            return rc;
    }
    uint64_t adjust = sc->cpu.msr.tsc_adjust;
    rc = vmci_cpu_set_state(&sc->cpu, groups & ~(uint32_t)VMC_ST_FPU, st);
    /* Another TSC_ADJUST without a TSC moves the TSC, as WRMSR does it. */
    if (rc == VMC_OK && (groups & (VMC_ST_MSR | VMC_ST_CLOCK)) == VMC_ST_MSR)
        sc->cpu.tsc_offset += (int64_t)(st->msr.tsc_adjust - adjust);
    io_log_reset(sc);
    sc->stashed = false;
    sc->cpu.exc.pending = false;
    sc->skip_bp = VMCI_TLB_NONE;
    sc->rep_at = UINT64_MAX;
    sc->fault_at = UINT64_MAX;
    sc->irq_wait = true;
    return rc;
}

static int soft_can_inject(void *ev, const struct vmc_event *e)
{
    const struct vmci_cpu *cpu = &((struct vmci_soft_cpu *)ev)->cpu;
    bool blocked = cpu->injected.type != VMC_EV_NONE || cpu->exc.pending;

    if (e->type == VMC_EV_IRQ)
        blocked = blocked || (cpu->rflags & VMC_FLAG_IF) == 0 || cpu->irq_shadow != 0;
    if (e->type == VMC_EV_NMI)
        blocked = cpu->nmi_pending != 0 || cpu->nmi_blocked != 0 || cpu->irq_shadow != 0;
    return blocked ? VMC_EAGAIN : VMC_OK;
}

static int soft_inject(void *ev, const struct vmc_event *e)
{
    struct vmci_cpu *cpu = &((struct vmci_soft_cpu *)ev)->cpu;

    if (e->type == VMC_EV_NMI) {
        /* One is latched while another is handled; before that, also the one to be handled. */
        if (cpu->nmi_pending < (cpu->nmi_blocked != 0 ? 1 : 2))
            cpu->nmi_pending++;
        return VMC_OK;
    }
    int rc = soft_can_inject(ev, e);
    if (rc == VMC_OK)
        cpu->injected = *e;
    return rc;
}

static int soft_want_window(void *ev, bool on)
{
    ((struct vmci_soft_cpu *)ev)->want_window = on;
    (void)vmci_fetch_or(&((struct vmci_soft_cpu *)ev)->cpu.request, VMCI_REQ_TRAP);
    return VMC_OK;
}

static int soft_read_tsc(void *ev, uint64_t *tsc, uint64_t *hz, uint64_t *clock)
{
    struct vmci_cpu *cpu = &((struct vmci_soft_cpu *)ev)->cpu;

    *tsc = vmci_tsc(cpu);
    *hz = cpu->tsc_hz;
    if (clock != NULL)
        *clock = cpu->vm->virtual_time ? cpu->tsc_base + vmci_retired_now(cpu)
                                       : cpu->pf->now_ns(cpu->pf->ctx);
    return VMC_OK;
}

static int soft_set_debug(void *ev, const struct vmc_breakpoint *bp, size_t n)
{
    struct vmci_soft_cpu *sc = ev;

    if (n > SOFT_MAX_BP)
        return VMC_ELIMIT;
    sc->bps = (unsigned)n;
    sc->bp_exec = sc->bp_data = false;
    for (size_t i = 0; i < n; i++) {
        if (bp[i].kind > VMC_BP_READ || bp[i].bytes == 0 || bp[i].bytes > VMC_PAGE_SIZE) {
            sc->bps = 0;
            sc->bp_exec = sc->bp_data = false;
            return VMC_EINVAL;
        }
        sc->bp[i] = bp[i];
        if (bp[i].kind == VMC_BP_EXEC)
            sc->bp_exec = true;
        else
            sc->bp_data = true;
    }
    sc->watch_hit = false;
    vmci_tlb_flush(&sc->cpu, true); /* watched pages are decided as they are filled */
    return VMC_OK;
}

#ifndef VMCI_SMALL /* there, bt.callouts has to do */
/* Names of the counters of struct vmci_bt.st_op. */
static const char *const callout_name[VMCI_OP_COUNT] = {[VMCI_OP_INVALID] = "bt.callout.INVALID",
#define CALLOUT_NAME(n) [VMCI_OP_##n] = "bt.callout." #n,
                                                        VMCI_OPS(CALLOUT_NAME)
#undef CALLOUT_NAME
};
#endif

static size_t soft_stats(void *ev, const char **names, uint64_t *values, size_t max)
{
    static const char *const name[STAT_COUNT] = {
        [STAT_BLOCKS] = "soft.blocks",
        [STAT_DECODED] = "soft.decoded",
        [STAT_LOOKUPS] = "soft.block_lookups",
        [STAT_TLB_FILLS] = "soft.tlb_fills",
        [STAT_TLB_FLUSHES] = "soft.tlb_flushes",
        [STAT_CODE_WRITES] = "soft.code_writes",
        [STAT_INVALS] = "soft.blocks_dropped",
        [STAT_CACHE_FLUSHES] = "soft.cache_flushes",
        [STAT_EXCEPTIONS] = "soft.exceptions",
        [STAT_IRQS] = "soft.interrupts",
        [STAT_MMIO] = "soft.mmio",
        [STAT_PIO] = "soft.pio",
        [STAT_STEPS] = "soft.single_steps",
    };
    const struct vmci_soft_cpu *sc = ev;
    const struct vmci_bt *bt = &sc->bt;
    const struct {
        const char *name;
        uint64_t value;
    } more[] = {
        {"soft.retired", sc->cpu.retired},
        {"bt.translated", bt->st_translated},
        {"bt.callouts", bt->st_calls},
        {"bt.links", bt->st_links},
        {"bt.lookups", bt->st_lookups},
        {"bt.slices", bt->st_slices},
        {"bt.flushes", bt->st_flushes},
        {"bt.jump_fills", bt->st_jumps},
        {"bt.apart", bt->st_apart},
        {"bt.watched", bt->st_watched},
        {"bt.segmented", bt->st_segmented},
        {"bt.evictions", bt->st_evictions},
        {"bt.stop_max_ns", bt->st_stop_max},
        {"bt.code_bytes", bt->segments * bt->segment_bytes},
        {"bt.moved", bt->st_moved},
        {"bt.around", bt->st_around},
        {"bt.ways", bt->st_ways},
    };

    for (size_t i = 0; i < STAT_COUNT && i < max; i++) {
        names[i] = name[i];
        values[i] = sc->stat[i];
    }
    for (size_t i = 0; i < VMCI_ARRAY_SIZE(more) && STAT_COUNT + i < max; i++) {
        names[STAT_COUNT + i] = more[i].name;
        values[STAT_COUNT + i] = more[i].value;
    }
    size_t n = STAT_COUNT + VMCI_ARRAY_SIZE(more);
#ifndef VMCI_SMALL
    for (unsigned op = 0; op < VMCI_OP_COUNT; op++) {
        if (bt->st_op[op] == 0)
            continue;
        if (n < max) {
            names[n] = callout_name[op];
            values[n] = bt->st_op[op];
        }
        n++;
    }
#endif
    return n;
}

const struct vmc_engine_ops *vmc_engine_soft(void)
{
    static const struct vmc_engine_ops ops = {
        .abi = VMC_ENGINE_ABI,
        .name = "soft",
        .probe = soft_probe,
        .vm_init = soft_vm_init,
        .vm_fini = soft_vm_fini,
        .vcpu_init = soft_vcpu_init,
        .vcpu_fini = soft_vcpu_fini,
        .set_policy = soft_set_policy,
        .run = soft_run,
        .complete = soft_complete,
        .get_state = soft_get_state,
        .set_state = soft_set_state,
        .can_inject = soft_can_inject,
        .inject = soft_inject,
        .want_window = soft_want_window,
        .kick = soft_kick,
        .irq_notify = soft_irq_notify,
        .mem_changed = soft_mem_changed,
        .read_tsc = soft_read_tsc,
        .set_debug = soft_set_debug,
        .stats = soft_stats,
        .set_a20 = soft_set_a20,
    };
    return &ops;
}
