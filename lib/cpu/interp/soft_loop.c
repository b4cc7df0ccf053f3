/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The run loop: blocks one after the other, and between them whatever else a processor does at an
 * instruction boundary (SDM 3A table 6-2 gives the order).
 */
#include "cpu/bt/bt_int.h"
#include "cpu/interp/exec.h"
#include "cpu/interp/soft_loop.h"

/* Instructions between two looks at the clock, while there is a deadline. */
#define CLOCK_PERIOD 16384u

/* ---- data breakpoints ------------------------------------------------------------------------ */

static bool range_touches(uint64_t page, uint64_t la, unsigned bytes)
{
    return (la & PAGE_MASK) == page || ((la + bytes - 1) & PAGE_MASK) == page;
}

bool soft_watched(const struct vmci_soft_cpu *sc, uint64_t page)
{
    const struct vmci_cpu *cpu = &sc->cpu;

    if (unlikely((cpu->dr7 & 0xff) != 0)) {
        for (unsigned n = 0; n < 4; n++) {
            bool on = (cpu->dr7 >> (2 * n) & 3) != 0;
            unsigned rw = (unsigned)(cpu->dr7 >> (16 + 4 * n)) & 3u;
            if (on && (rw & 1) != 0 && range_touches(page, cpu->dr[n] & ~7ull, 8))
                return true;
        }
    }
    for (unsigned n = 0; unlikely(sc->bp_data) && n < sc->bps; n++)
        if (sc->bp[n].kind != VMC_BP_EXEC && range_touches(page, sc->bp[n].gva, sc->bp[n].bytes))
            return true;
    return false;
}

/* ---- leaving --------------------------------------------------------------------------------- */

static int leave(struct vmci_cpu *cpu, uint32_t kind)
{
    memset(&cpu->exit, 0, sizeof(cpu->exit));
    cpu->exit.kind = kind;
    cpu->exit.rip = cpu->rip;
    return VMCI_EXIT;
}

static int leave_debug(struct vmci_cpu *cpu, uint32_t why, uint64_t detail)
{
    (void)leave(cpu, VMC_EXIT_DEBUG);
    cpu->exit.u.stop.why = why;
    cpu->exit.u.stop.detail = detail;
    return VMCI_EXIT;
}

static int leave_idle(struct vmci_cpu *cpu, uint32_t why)
{
    (void)leave(cpu, VMC_EXIT_IDLE);
    cpu->exit.u.idle.why = why;
    cpu->exit.u.idle.irqs_on = (cpu->rflags & VMC_FLAG_IF) != 0;
    cpu->exit.u.idle.deadline_ns = UINT64_MAX;
    return VMCI_EXIT;
}

/* ---- events ---------------------------------------------------------------------------------- */

/*
 * Is the next instruction a REP with iterations behind it? Its instruction breakpoint was passed,
 * and what interrupts it saves RF set (SDM 3B 18.3.1.1).
 */
static bool mid_rep(const struct vmci_soft_cpu *sc)
{
    return sc->rep_at == sc->cpu.retired && sc->rep_rip == sc->cpu.rip;
}

/* After the delivery of anything: the mode may be another. */
static int delivered(struct vmci_soft_cpu *sc, int rc)
{
    struct vmci_cpu *cpu = &sc->cpu;

    cpu->mid_rep = false;
    sc->rep_at = UINT64_MAX;
    cpu->irq_shadow = 0;
    soft_new_key(sc);
    if (sc->foreign) /* the handler is not ours to run */
        sc->insn_stop = sc->insn_limit = cpu->retired;
    if (rc == VMCI_EXIT && cpu->exit.kind == VMC_EXIT_SHUTDOWN)
        soft_dump_shutdown(sc);
    return rc;
}

/*
 * A guest whose handlers fault at their first instruction retires nothing for ever. Such a fault
 * counts as an instruction, so that budgets and virtual time come to an end.
 */
static int deliver_exception(struct vmci_soft_cpu *sc)
{
    sc->cpu.mid_rep = mid_rep(sc);
    if (sc->cpu.retired == sc->fault_at)
        sc->cpu.retired++;
    sc->fault_at = sc->cpu.retired;
    sc->stat[STAT_EXCEPTIONS]++;
    sc->in_place = true;
    int rc = vmci_deliver_exception(&sc->cpu);
    sc->in_place = false;
    return delivered(sc, rc);
}

static int deliver_event(struct vmci_soft_cpu *sc, const struct vmc_event *e)
{
    sc->stat[STAT_IRQS]++;
    sc->cpu.mid_rep = mid_rep(sc);
    sc->in_place = true;
    int rc = vmci_deliver_event(&sc->cpu, e);
    sc->in_place = false;
    return delivered(sc, rc);
}

/* An instruction gave up: cpu->cur is the one. 0: go on at the next boundary. */
static int trouble(struct vmci_soft_cpu *sc, int rc)
{
    struct vmci_cpu *cpu = &sc->cpu;
    uint64_t rip = vmci_insn_rip(cpu, cpu->cur);

    sc->outcome = (uint8_t)rc;
    cpu->retired += (uint64_t)(cpu->cur - cpu->blk);
    cpu->cur = cpu->blk;
    if (cpu->code_bits != 64)
        rip = (uint32_t)rip;
    /* It did not complete, so breakpoints that it hit are not reported: it will hit them again. */
    if (rc != VMCI_AGAIN && !(rc == VMCI_FAULT && cpu->exc.rip_set))
        cpu->pending_db = sc->held_db;
    if (rc != VMCI_FAULT) {
        cpu->rip = rip;
        if (rc == VMCI_RETRY) {
            soft_mem_again(sc);
            return 0;
        }
        if (rc != VMCI_EXIT) {                      /* VMCI_AGAIN */
            if (cpu->activity == VMC_RUN_RUNNING) { /* else it waits: fp_ferr.c */
                sc->rep_at = cpu->retired;
                sc->rep_rip = rip;
            }
            return 0;
        }
        cpu->exit.rip = rip;
        return VMCI_EXIT;
    }
    if (!cpu->exc.rip_set)
        cpu->rip = rip;
    cpu->exc.rip_set = false;
    io_log_reset(sc);
    return deliver_exception(sc);
}

static int fetch_fault(struct vmci_soft_cpu *sc)
{
    io_log_reset(sc);
    return deliver_exception(sc);
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* Flags of an instruction that did not complete: none has bit 16. */
#define GAVE_UP (VMCI_IF_END | 0x10000u)

/* The first n instructions of b. 0: *flags are those of the last; else what trouble returned. */
static inline int exec_block(struct vmci_soft_cpu *sc, const struct block *b, unsigned n,
                             unsigned *flags)
{
    struct vmci_cpu *cpu = &sc->cpu;
    const struct vmci_insn *in = b->insn;

    cpu->gpr[VMCI_REG_IP] = cpu->rip;
    cpu->blk = in;
    cpu->blk_end = in + n;
    do {
        cpu->cur = in;
        int rc = in->exec(cpu, in);
        if (unlikely(rc != 0)) {
            *flags = GAVE_UP;
            return trouble(sc, rc);
        }
        in++;
    } while (in < cpu->blk_end);
    cpu->cur = cpu->blk;
    cpu->retired += (uint64_t)(in - b->insn);
    *flags = in[-1].flags;
    if ((in[-1].flags & VMCI_IF_BRANCH) == 0)
        cpu->rip = next_rip(cpu, &in[-1]);
    return 0;
}

/* Instructions of b that lie within the limit of CS. */
static unsigned within_limit(const struct vmci_cpu *cpu, const struct block *b, unsigned n)
{
    uint64_t limit = cpu->seg[VMC_CS].limit;

    if (likely(cpu->rip + b->bytes - 1 <= limit))
        return n;
    while (n > 0 && cpu->rip + b->insn[n - 1].next - 1 > limit)
        n--;
    return n;
}

/* Is there an instruction breakpoint of the guest or of the debugger at la? */
static bool exec_bp(const struct vmci_soft_cpu *sc, uint64_t la, bool *guest)
{
    const struct vmci_cpu *cpu = &sc->cpu;

    *guest = false;
    for (unsigned i = 0; sc->bp_exec && i < sc->bps; i++)
        if (sc->bp[i].kind == VMC_BP_EXEC && sc->bp[i].gva == la)
            return true;
    for (unsigned i = 0; i < 4; i++)
        if ((cpu->dr7 >> (2 * i) & 3) != 0 && (cpu->dr7 >> (16 + 4 * i) & 3) == 0 &&
            cpu->dr[i] == la) {
            *guest = true;
            return true;
        }
    return false;
}

/* How many instructions of b come before the next breakpoint. */
static unsigned before_bp(const struct vmci_soft_cpu *sc, const struct block *b, uint64_t la,
                          unsigned n, bool first)
{
    bool guest;

    for (unsigned i = first ? 1 : 0; i < n; i++)
        if (exec_bp(sc, la + b->insn[i].next - b->insn[i].len, &guest))
            return i;
    return n;
}

static bool debug_exec(const struct vmci_soft_cpu *sc)
{
    return sc->bp_exec || (sc->cpu.dr7 & 0xff) != 0;
}

/* #GP in front of any instruction: VIF and VIP, where they are in use (SDM 3B 20.3.2, 20.4). */
static inline bool virtual_irq(const struct vmci_cpu *cpu)
{
    const uint64_t both = VMC_FLAG_VIF | VMC_FLAG_VIP;

    if (likely((cpu->rflags & both) != both))
        return false;
    return cpu->cpl == 3 && (cpu->rflags & VMC_FLAG_IOPL) != VMC_FLAG_IOPL &&
           (cpu->cr4 & ((cpu->rflags & VMC_FLAG_VM) != 0 ? VMC_CR4_VME : VMC_CR4_PVI)) != 0;
}

/* Must the boundary be looked at? */
static inline bool must_look(const struct vmci_soft_cpu *sc)
{
    const struct vmci_cpu *cpu = &sc->cpu;

    return cpu->activity != VMC_RUN_RUNNING || cpu->irq_shadow > 1 || cpu->pending_db != 0 ||
           (cpu->rflags & VMC_FLAG_TF) != 0 || cpu->dr7 != sc->seen_dr7 || virtual_irq(cpu) ||
           ((sc->irq_wait || sc->want_window) && (cpu->rflags & VMC_FLAG_IF) != 0);
}

/* ... or the next instruction be run by itself, because the processor is in a state that lasts for
   one? */
static inline bool special(const struct vmci_soft_cpu *sc)
{
    return must_look(sc) || sc->cpu.irq_shadow != 0 || (sc->cpu.rflags & VMC_FLAG_RF) != 0;
}

/*
 * Run the block, and what follows it, as translated code. left: instructions until the loop must
 * look up. 0: *flags are those of the last instruction; else what trouble returned.
 */
static int exec_translated(struct vmci_soft_cpu *sc, struct block *b, uint64_t left,
                           unsigned *flags)
{
    struct vmci_cpu *cpu = &sc->cpu;

    uint64_t before = cpu->retired;
    int why = bt_run(sc, b, left);
    /* The interpreter knows what to do with this block; and with one that is longer than what is
       left, and looks at that in front of its first instruction. */
    sc->bt.pass = why == BT_LEAVE_FP || (why == BT_LEAVE_BUDGET && cpu->retired == before);
    cpu->cur = cpu->blk; /* left by a call for help: no instruction is under way */
    *flags = why == BT_LEAVE_LOOK ? GAVE_UP : 0;
    return why == BT_LEAVE_EXIT ? VMCI_EXIT : 0;
}

int soft_settle(struct vmci_soft_cpu *sc, int rc)
{
    struct vmci_cpu *cpu = &sc->cpu;
    const struct vmci_insn *in = cpu->cur;

    if (rc != 0) {
        if (trouble(sc, rc) != 0)
            return VMCI_EXIT;
    } else {
        cpu->retired += (uint64_t)(in + 1 - cpu->blk);
        cpu->cur = cpu->blk;
        if ((in->flags & VMCI_IF_BRANCH) == 0)
            cpu->rip = next_rip(cpu, in);
        if ((in->flags & VMCI_IF_END) == 0)
            return 0;
    }
    soft_new_key(sc);
    return must_look(sc) ? SOFT_LOOK : 0;
}

bool soft_passes(struct vmci_soft_cpu *sc)
{
    soft_new_key(sc);
    return !special(sc);
}

/* Run until something happens. 0: look at the boundary; VMCI_EXIT. */
static int run_blocks(struct vmci_soft_cpu *sc)
{
    struct vmci_cpu *cpu = &sc->cpu;
    bool debug = debug_exec(sc);
    bool first = true;
    unsigned flags;

    for (;;) {
        uint64_t la = soft_code_la(cpu);
        struct block *b = sc->code.jc[jc_slot(la)];
        if (unlikely(b == NULL || !soft_valid(sc, b, la))) {
            if (block_find(sc, BLK_MAX_INSNS, &b) != 0)
                return fetch_fault(sc);
        }
        unsigned n = b->n;
        if (unlikely(cpu->retired + n > sc->insn_stop)) {
            if (cpu->retired >= sc->insn_stop)
                return 0;
            n = (unsigned)(sc->insn_stop - cpu->retired);
        }
        if (cpu->code_bits != 64) {
            n = within_limit(cpu, b, n);
            if (unlikely(n == 0)) {
                (void)gp0(cpu);
                return fetch_fault(sc);
            }
        }
        if (unlikely(debug)) {
            n = before_bp(sc, b, la, n, first);
            if (n == 0)
                return 0;
            first = false;
            sc->skip_bp = VMCI_TLB_NONE;
        }
        uint64_t left = sc->insn_stop - cpu->retired;
        int rc;
        if (sc->bt.enabled && !debug && left > BT_MARGIN && !sc->bt.pass && sc->bt.watch == 0 &&
            bt_get(sc, b) != NULL) {
            rc = exec_translated(sc, b, left - BT_MARGIN, &flags);
        } else {
            sc->bt.pass = false;
            rc = exec_block(sc, b, n, &flags);
            if (unlikely(sc->bt.watch != 0) && rc == 0)
                bt_watched(sc, b);
        }
        if (unlikely(rc != 0))
            return rc;
        if ((flags & VMCI_IF_END) != 0) {
            soft_new_key(sc);
            if (unlikely(special(sc)))
                return 0;
        }
        if (unlikely(vmci_load_relaxed(&cpu->request) != 0))
            return 0;
    }
}

/* ---- one instruction ------------------------------------------------------------------------- */

/* Was the instruction, which is complete, a branch that was taken? */
static bool branched(const struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    uint64_t count = cut(cpu->gpr[VMC_RCX], in->addrsize);
    bool zf = (cpu->rflags & VMC_FLAG_ZF) != 0;

    switch (in->op) {
    case VMCI_OP_JCC:
        return condition(cpu->rflags, in->cond);
    case VMCI_OP_JCXZ:
        return count == 0;
    case VMCI_OP_LOOP:
        return count != 0;
    case VMCI_OP_LOOPE:
        return count != 0 && zf;
    case VMCI_OP_LOOPNE:
        return count != 0 && !zf;
    case VMCI_OP_INTO: /* if it had been, TF would be clear */
        return false;
    default:
        return (in->flags & VMCI_IF_BRANCH) != 0;
    }
}

/* Does the single-step trap follow this instruction, if TF was set before it? */
static bool traps(const struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    if (cpu->task_switched) /* TF was that of the old task */
        return false;
    if ((cpu->msr.debugctl & VMC_DEBUGCTL_BTF) != 0 && !branched(cpu, in))
        return false;
    switch (in->op) {
    case VMCI_OP_INT:
    case VMCI_OP_INT1:
    case VMCI_OP_INT3:
    case VMCI_OP_SYSRET: /* its affair */
        return false;
    case VMCI_OP_INTO:
    case VMCI_OP_SYSCALL:
    case VMCI_OP_SYSENTER:
        return (cpu->rflags & VMC_FLAG_TF) != 0;
    default:
        return cpu->irq_shadow != 3; /* not between MOV SS and its successor */
    }
}

static void trace(struct vmci_soft_cpu *sc, const struct vmci_insn *in)
{
    struct vmci_cpu *cpu = &sc->cpu;
    char text[96], line[160];

    if (sc->cpu.vm->trace == NULL)
        return;
    vmci_fp_park(cpu);
    (void)vmci_disasm(cpu->dec, cpu->code_bits, in->raw, in->len, cpu->rip, text, sizeof(text));
    (void)vmci_snprintf(line, sizeof(line), "%u %04x:%016llx %s", cpu->index,
                        cpu->seg[VMC_CS].selector, (unsigned long long)cpu->rip, text);
    cpu->vm->trace(cpu->vm->trace_ctx, cpu->index, line);
}

static int run_one(struct vmci_soft_cpu *sc)
{
    struct vmci_cpu *cpu = &sc->cpu;
    uint64_t la = soft_code_la(cpu);
    uint8_t shadow = cpu->irq_shadow;
    bool tf = (cpu->rflags & VMC_FLAG_TF) != 0, rf = (cpu->rflags & VMC_FLAG_RF) != 0;
    struct block *b = sc->code.jc[jc_slot(la)];
    unsigned flags;

    if (b == NULL || !soft_valid(sc, b, la))
        if (block_find(sc, tf || cpu->vm->trace != NULL ? 1 : BLK_MAX_INSNS, &b) != 0)
            return fetch_fault(sc);
    if (cpu->code_bits != 64 && within_limit(cpu, b, 1) == 0) {
        (void)gp0(cpu);
        return fetch_fault(sc);
    }
    trace(sc, &b->insn[0]);
    sc->stat[STAT_STEPS]++;
    sc->skip_bp = VMCI_TLB_NONE;
    cpu->irq_shadow = 0;
    cpu->rflags &= ~VMC_FLAG_RF;
    sc->one_shot = tf;
    sc->outcome = 0;
    sc->held_db = cpu->pending_db;
    cpu->task_switched = false;
    struct vmci_insn in = b->insn[0];
    int rc = exec_block(sc, b, 1, &flags);
    sc->one_shot = false;
    sc->held_db = 0;
    /* Of several loads of SS in a row the first one counts (SDM 2B, POP); also in QEMU and Bochs. */
    if (unlikely(shadow == 3) && cpu->irq_shadow == 3 && rc == 0 && sc->outcome == 0)
        cpu->irq_shadow = 0;
    soft_new_key(sc);
    if ((rc == VMCI_EXIT && cpu->exit.kind != VMC_EXIT_SHUTDOWN) || sc->outcome == VMCI_RETRY) {
        cpu->irq_shadow = shadow; /* it is run again */
        if (rf)
            cpu->rflags |= VMC_FLAG_RF;
        return rc;
    }
    /* Between iterations of a REP, too, unless it is branches that are stepped. */
    bool between = sc->outcome == VMCI_AGAIN && (cpu->msr.debugctl & VMC_DEBUGCTL_BTF) == 0;
    if (rc == 0 && tf && (sc->outcome == 0 ? traps(cpu, &in) : between))
        cpu->pending_db |= VMC_DR6_BS;
    return rc;
}

/* ---- the boundary ---------------------------------------------------------------------------- */

static void requests(struct vmci_soft_cpu *sc)
{
    struct vmci_cpu *cpu = &sc->cpu;

    if (unlikely(sc->bt.full || sc->bt.ctx_full))
        bt_evict(sc);
    if (vmci_load_relaxed(&cpu->request) == 0)
        return;
    /* What is taken is what is acted on: others set bits at any time. */
    uint32_t req = vmci_fetch_and(&cpu->request, ~(VMCI_REQ_FLUSH | VMCI_REQ_CODE | VMCI_REQ_TRAP |
                                                   VMCI_REQ_IRQ | VMCI_REQ_NMI));
    if ((req & VMCI_REQ_FLUSH) != 0) {
        uint64_t seq = vmci_load_acquire(&cpu->mem->revoke_seq);
        soft_see_a20(sc);
        soft_tlb_forget(sc);
        sc->mem_seen = seq;
        vmci_fence_seq();
        vmci_store_release(&sc->mem_ack, seq);
    }
    if ((req & VMCI_REQ_CODE) != 0)
        smc_process(sc);
    if ((req & VMCI_REQ_IRQ) != 0)
        sc->irq_wait = true;
}

/* A new DR7 decides which pages are accessed directly. */
static void see_dr7(struct vmci_soft_cpu *sc)
{
    uint64_t dr7 = sc->cpu.dr7;

    if (dr7 == sc->seen_dr7 && (dr7 & 0xff) == 0)
        return;
    bool same = dr7 == sc->seen_dr7;
    for (unsigned i = 0; i < 4; i++) {
        same = same && sc->cpu.dr[i] == sc->seen_dr[i];
        sc->seen_dr[i] = sc->cpu.dr[i];
    }
    sc->seen_dr7 = dr7;
    if (!same)
        vmci_tlb_flush(&sc->cpu, true);
}

/* 0: nothing to deliver; 1: something was; VMCI_EXIT is 2. */
#define DELIVERED 1

static int interrupts(struct vmci_soft_cpu *sc)
{
    struct vmci_cpu *cpu = &sc->cpu;
    bool open = (cpu->rflags & VMC_FLAG_IF) != 0 && cpu->irq_shadow == 0;

    if (cpu->nmi_pending != 0 && cpu->nmi_blocked == 0 && cpu->irq_shadow == 0) {
        struct vmc_event nmi = {.vector = VMC_VEC_NMI, .type = VMC_EV_NMI};
        cpu->nmi_pending--;
        return deliver_event(sc, &nmi) == VMCI_EXIT ? VMCI_EXIT : DELIVERED;
    }
    if (!open || !sc->irq_wait || cpu->io == NULL || cpu->io->irq_pending == NULL)
        return 0;
    vmci_fp_park(cpu);
    int vector = cpu->io->irq_pending(cpu->io->ctx);
    if (vector >= 0)
        vector = cpu->io->irq_ack(cpu->io->ctx);
    if (vector < 0) {
        sc->irq_wait = false;
        return 0;
    }
    struct vmc_event e = {.vector = (uint8_t)vector, .type = VMC_EV_IRQ};
    int rc = deliver_event(sc, &e);
    if (rc != VMCI_EXIT)
        return DELIVERED;
    if (cpu->exit.kind != VMC_EXIT_SHUTDOWN)
        cpu->injected = e; /* accepted: must not get lost */
    return VMCI_EXIT;
}

static int events(struct vmci_soft_cpu *sc)
{
    struct vmci_cpu *cpu = &sc->cpu;

    if (cpu->exc.pending)
        return deliver_exception(sc) == VMCI_EXIT ? VMCI_EXIT : DELIVERED;
    /* Data breakpoints of MOV SS wait for its successor, too (SDM 3A 6.8.3). */
    if (cpu->pending_db != 0 && cpu->irq_shadow != 3) {
        memset(&cpu->exc, 0, sizeof(cpu->exc));
        cpu->exc.pending = true;
        cpu->exc.vector = VMC_VEC_DB;
        cpu->exc.payload = cpu->pending_db;
        cpu->pending_db = 0;
        return deliver_exception(sc) == VMCI_EXIT ? VMCI_EXIT : DELIVERED;
    }
    if (cpu->injected.type != VMC_EV_NONE) {
        struct vmc_event e = cpu->injected;
        int rc = deliver_event(sc, &e);
        if (rc != VMCI_EXIT || cpu->exit.kind == VMC_EXIT_SHUTDOWN)
            cpu->injected.type = VMC_EV_NONE;
        return rc == VMCI_EXIT ? VMCI_EXIT : DELIVERED;
    }
    return interrupts(sc);
}

static int limits(struct vmci_soft_cpu *sc)
{
    struct vmci_cpu *cpu = &sc->cpu;

    if ((vmci_load_relaxed(&cpu->request) & VMCI_REQ_KICK) != 0) {
        (void)vmci_fetch_and(&cpu->request, ~VMCI_REQ_KICK);
        return leave(cpu, VMC_EXIT_KICKED);
    }
    if (cpu->retired >= sc->insn_limit)
        return leave(cpu, VMC_EXIT_BUDGET);
    if (sc->pause_limit != 0 && sc->pauses >= sc->pause_limit) {
        sc->pauses = 0;
        return leave(cpu, VMC_EXIT_PAUSE);
    }
    sc->insn_stop = sc->insn_limit;
    if (sc->deadline_ns != 0) {
        if (cpu->pf->now_ns(cpu->pf->ctx) >= sc->deadline_ns)
            return leave(cpu, VMC_EXIT_BUDGET);
        sc->insn_stop = VMCI_MIN(sc->insn_limit, cpu->retired + CLOCK_PERIOD);
    }
    return 0;
}

static int breakpoints(struct vmci_soft_cpu *sc, bool *delivered_one)
{
    struct vmci_cpu *cpu = &sc->cpu;
    uint64_t la = soft_code_la(cpu);
    bool guest;

    if (!debug_exec(sc) || mid_rep(sc) || !exec_bp(sc, la, &guest))
        return 0;
    if (!guest) {
        if (sc->skip_bp == la)
            return 0;
        sc->skip_bp = la;
        return leave_debug(cpu, VMC_DEBUG_BREAKPOINT, la);
    }
    /* The successor of MOV SS is not reported. */
    if ((cpu->rflags & VMC_FLAG_RF) != 0 || cpu->irq_shadow == 3 || vmci_dr_exec_hit(cpu, la) == 0)
        return 0;
    *delivered_one = true;
    return deliver_exception(sc);
}

/* 0: execute; VMCI_EXIT. */
static int boundary(struct vmci_soft_cpu *sc)
{
    struct vmci_cpu *cpu = &sc->cpu;

    for (;;) {
        bool again = false;
        requests(sc);
        see_dr7(sc);
        if (sc->watch_hit) {
            sc->watch_hit = false;
            return leave_debug(cpu, VMC_DEBUG_WATCH, sc->watch_la);
        }
        int rc = limits(sc);
        if (rc != 0)
            return rc;
        if (cpu->activity == VMC_RUN_SHUTDOWN) {
            (void)leave(cpu, VMC_EXIT_SHUTDOWN);
            cpu->exit.u.stop.why = VMC_STOP_TRIPLE_FAULT;
            return VMCI_EXIT;
        }
        if (cpu->activity == VMC_RUN_WAIT_SIPI)
            return leave_idle(cpu, VMC_IDLE_WAIT_SIPI);
        rc = events(sc);
        if (rc == VMCI_EXIT)
            return rc;
        if (rc == DELIVERED)
            continue;
        if (sc->want_window && (cpu->rflags & VMC_FLAG_IF) != 0 && cpu->irq_shadow == 0)
            return leave(cpu, VMC_EXIT_IRQ_WINDOW);
        if (cpu->activity == VMC_RUN_HALTED)
            return leave_idle(cpu, VMC_IDLE_HLT);
        rc = breakpoints(sc, &again);
        if (rc != 0)
            return rc;
        if (again)
            continue;
        if (likely(!virtual_irq(cpu)))
            return 0;
        (void)gp0(cpu);
        if (deliver_exception(sc) == VMCI_EXIT)
            return VMCI_EXIT;
    }
}

int soft_loop(struct vmci_soft_cpu *sc)
{
    struct vmci_cpu *cpu = &sc->cpu;
    int rc;

    soft_new_key(sc);
    do {
        rc = boundary(sc);
        if (rc != 0)
            break;
        bool one = cpu->irq_shadow != 0 || cpu->vm->trace != NULL ||
                   (cpu->rflags & (VMC_FLAG_TF | VMC_FLAG_RF)) != 0;
        rc = one ? run_one(sc) : run_blocks(sc);
    } while (rc == 0);
    return rc;
}
