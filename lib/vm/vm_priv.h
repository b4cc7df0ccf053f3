/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The VM object and its vCPUs. Members: (c) constant after create or start, (v) the thread that owns
 * the vCPU, (a) atomic, (q) while quiesced.
 */
#ifndef VM_PRIV_H
#define VM_PRIV_H

#include "base/base_int.h"
#include "irq/irq_int.h"
#include <vmcore/vm.h>
#include <vmcore/x86.h>

/* vmc_vcpu.request: why the run loop should look up. */
#define REQ_KICK  0x01u /* the embedder wants the thread back */
#define REQ_PAUSE 0x02u /* the VM pauses */
#define REQ_STOP  0x04u /* the VM stops */
#define REQ_INIT  0x08u
#define REQ_SIPI  0x10u
#define REQ_NMI   0x20u
#define REQ_IRQ   0x40u /* ask the interrupt controllers */
#define REQ_TIMER 0x80u /* an earlier timer was armed */
#define REQ_CLOCK 0x100u /* the paravirtual clock's record is to be written anew */
/* A parked vCPU that one of these wakes leaves the idle state by way of the loop. */
#define REQ_LOOP (REQ_KICK | REQ_PAUSE | REQ_STOP | REQ_INIT | REQ_SIPI | REQ_NMI | REQ_CLOCK)

/* Paravirtual clock of one vCPU (pvclock.c). */
struct pvclock {
    uint64_t msr;    /* (v) last value of the MSR */
    uint64_t wall;   /* (v) */
    uint32_t version; /* (v) */
    uint64_t adjust; /* TSC_ADJUST: by how much the guest moved this TSC. pv_lock */
    uint64_t steal_msr;     /* (v) bit 0: the guest wants to know */
    uint32_t steal_version; /* (v) */
};

struct vmc_vcpu {
    struct vmc_vm *vm;
    uint32_t index;
    void *ev;
    struct vmc_engine_io io;
    struct vmci_lapic *lapic; /* (c) NULL: none, or in the engine */

    uint32_t request;   /* (a) REQ_*; parking waits on it */
    uint32_t nmis;      /* (a) NMIs behind REQ_NMI, at most 2 */
    uint32_t parked;    /* (a) */
    uint32_t in_engine; /* (a) */
    uint32_t in_run;    /* (a) a thread is inside run */
    uint32_t sipi;      /* (a) vector of the last start-up IPI */

    bool wait_sipi;  /* (v) */
    bool owed;       /* (v) an exit waits for its completion */
    bool window;     /* (v) an IRQ_WINDOW exit is asked for */
    uint32_t owed_kind;
    uint32_t exit_mask; /* (v) of the current run */
    uint32_t halted_off; /* (a) in HLT with interrupts off */
    uint32_t asleep;     /* (a) VMC_CAP_IRQCHIP: only another processor can wake it (halt_watch.c) */
    int dead;        /* (v) why it cannot run any more, or 0 */
    uint64_t cr8;    /* (v) task priority, where there is no local APIC */
    struct pvclock pv;
    struct vmc_vcpu_stats stats; /* (v); read by others without a lock */
    struct vmci_loglimit loglimit;
};

/* vmc_vm.gate: nobody may enter. In one word with the count, so that quiesced stays quiesced. */
#define GATE_PAUSED 0x80000000u

/* vmc_vm.in_turns: what a thread does in vmc_vm_run. */
#define TURNS_NONE    0u
#define TURNS_RUNNING 1u
#define TURNS_PARKED  2u

struct vmc_vm {
    const struct vmc_platform *pf;
    const struct vmc_engine_ops *ops;
    void *evm;
    uint32_t flags; /* (c) VMC_VM_* */
    uint32_t max_vcpus;
    struct vmc_engine_info info;
    struct vmc_cpu_policy policy;
    struct vmc_mem *mem;
    struct vmc_board board;
    struct vmci_irqchip chip; /* board NULL: there is none */
    bool engine_inited;
    bool started; /* (q) */
    void (*wake_fn)(void *ctx, uint32_t index); /* (q) */
    void *wake_ctx;                             /* (q) */
    uint64_t (*steal_fn)(void *ctx, uint32_t index); /* (q) */
    void *steal_ctx;                                 /* (q) */
    void (*trace_fn)(void *ctx, uint32_t index, enum vmc_vm_trace what, uint64_t detail); /* (q) */
    void *trace_ctx;                                                                      /* (q) */
    uint64_t tsc_hz;

    struct vmci_lock stop_lock;
    uint32_t stop_why; /* (a) 0: none */
    uint64_t stop_detail;

    struct vmc_timer *halt_timer; /* VMC_CAP_IRQCHIP: halt_watch.c; else NULL */
    uint32_t halt_looks;          /* its own: looks in a row that found every vCPU asleep */

    uint32_t gate;       /* (a) vCPUs inside run, and GATE_PAUSED; pause_wait parks on it */
    uint32_t self_timed; /* (a) vCPUs that advance the timers */

    /* Paravirtual clock: one reference for all vCPUs, so that it is the same everywhere. */
    struct vmci_lock pv_lock;
    bool pv_valid;
    uint64_t pv_tsc, pv_ns; /* the TSC of a vCPU whose guest did not move it */
    uint32_t pv_mul;
    int8_t pv_shift;

    /* vmc_vm_run */
    uint32_t in_turns;   /* (a) TURNS_* */
    uint32_t turn_wakes; /* (a) counts requests that found it parked; it parks on this */
    uint32_t turn;       /* (v) vCPU whose slice it is */
    uint64_t slice_left; /* (v) instructions left of it */
    uint64_t clock_ns;  /* (v) virtual time, in deterministic mode */

    uint32_t a20_off; /* (a) address line 20 is masked */

    bool (*ferr)(void *ctx, bool asserted); /* (q) vmc_vm_set_ferr */
    void *ferr_ctx;
    bool (*call_fn)(void *ctx, struct vmc_port_call *call); /* (q) vmc_vm_set_port_calls */
    void *call_ctx;
    uint16_t call_first, call_last;

    struct vmc_vcpu **vcpu; /* max_vcpus entries */
};

static inline bool engine_has(const struct vmc_vm *vm, uint32_t cap)
{
    return (vm->info.caps & cap) != 0;
}

/* Counters have one writer; readers may see them late, but never torn. */
static inline void count(uint64_t *counter, uint64_t n)
{
    vmci_store_relaxed(counter, *counter + n);
}

static inline void note_trace(const struct vmc_vcpu *v, enum vmc_vm_trace what, uint64_t detail)
{
    if (unlikely(v->vm->trace_fn != NULL))
        v->vm->trace_fn(v->vm->trace_ctx, v->index, what, detail);
}

/* ---- vcpu.c -------------------------------------------------------------------------------- */

/* Set request bits and get the vCPU's attention. Any thread, signal-safe. */
void vmci_vcpu_request(struct vmc_vcpu *v, uint32_t bits);
void vmci_vcpu_destroy(struct vmc_vcpu *v);
/* Room for a vCPU's state, which is too large for a stack. */
struct vmc_x86_state *vmci_state_alloc(struct vmc_vm *vm);
void vmci_state_free(struct vmc_vm *vm, struct vmc_x86_state *st);
int vmci_vcpu_reset(struct vmc_vcpu *v);

int vmci_vcpu_do_init(struct vmc_vcpu *v);
int vmci_vcpu_do_sipi(struct vmc_vcpu *v);

/* ---- vm_irq.c ------------------------------------------------------------------------------ */

extern const struct vmci_irqchip_ops vmci_vm_irq_ops;        /* local APICs in here */
extern const struct vmci_irqchip_ops vmci_vm_irq_engine_ops; /* in the engine */
/* For engines that do not pull: inject what is pending, or ask for a window. */
int vmci_vcpu_deliver(struct vmc_vcpu *v);
/* Is there an interrupt that could end HLT? */
int vmci_vcpu_irq_pending(struct vmc_vcpu *v);
int vmci_vcpu_irq_ack(struct vmc_vcpu *v);

/* ---- vm_io.c ------------------------------------------------------------------------------- */

extern const struct vmc_engine_io vmci_vm_engine_io;
/* A port, memory or MSR access by the machine: VMC_IO_*. */
int vmci_vcpu_pio(struct vmc_vcpu *v, bool write, uint16_t port, unsigned bytes, uint32_t *data);
int vmci_vcpu_mmio(struct vmc_vcpu *v, bool write, uint64_t gpa, unsigned bytes, uint64_t *data);
int vmci_vcpu_msr(struct vmc_vcpu *v, bool write, uint32_t index, uint64_t *value);

/* ---- port_call.c --------------------------------------------------------------------------- */

/* Could this read be a call of the hypervisor? It needs an exit then, for the registers. */
static inline bool is_port_call(const struct vmc_vm *vm, bool write, uint16_t port, unsigned bytes)
{
    return unlikely(vm->call_fn != NULL) && !write && bytes == 4 && port >= vm->call_first &&
           port <= vm->call_last;
}
/* Make it, and finish the exit: 1 when it was one, 0 when it was not, or negative. */
int vmci_port_call(struct vmc_vcpu *v, struct vmc_exit *x);

/* ---- halt_watch.c -------------------------------------------------------------------------- */

int vmci_halt_watch_init(struct vmc_vm *vm);
void vmci_halt_watch_start(struct vmc_vm *vm);
void vmci_halt_watch_fini(struct vmc_vm *vm);

/* ---- pvclock.c ----------------------------------------------------------------------------- */

int vmci_pvclock_msr(struct vmc_vcpu *v, bool write, uint32_t index, uint64_t *value);
void vmci_pvclock_cpuid(struct vmc_vm *vm);
void vmci_pvclock_reset(struct vmc_vcpu *v);
/* TSC_ADJUST was set from outside. */
void vmci_pvclock_set_adjust(struct vmc_vcpu *v, uint64_t adjust);
/* The guest moved this vCPU's TSC. */
void vmci_pvclock_tsc_moved(struct vmc_vcpu *v);
/* REQ_CLOCK: it moved another one's. */
void vmci_pvclock_renew(struct vmc_vcpu *v);
/* The time stolen so far, for guests that asked for it (v->pv.steal_msr). */
void vmci_steal_enter(struct vmc_vcpu *v);
void vmci_steal_leave(struct vmc_vcpu *v, bool preempted);

/* ---- exit_table.c -------------------------------------------------------------------------- */

/* What becomes of an exit. */
enum exit_action {
    EXIT_RESUME, /* handled: run on */
    EXIT_RETURN, /* the embedder's */
    EXIT_OWED,   /* the embedder's, and it must complete it */
    EXIT_IDLE,   /* nothing to run until an interrupt comes */
};
/* Negative: the host failed. */
int vmci_vcpu_dispatch(struct vmc_vcpu *v, const struct vmc_run_limits *lim, struct vmc_exit *x);
/* Handle an exit that was returned to the embedder, which wants the default after all. */
int vmci_vcpu_default(struct vmc_vcpu *v, const struct vmc_exit *x);

/* ---- run.c --------------------------------------------------------------------------------- */

/* What one pass of the loop takes from its caller. */
struct slice {
    const struct vmc_run_limits *lim; /* of the caller of run */
    uint64_t max_insns;               /* 0: no limit */
    uint64_t deadline_ns;             /* 0: none */
    uint64_t virtual_ns;
    uint32_t pause_limit;             /* 0: none */
};
/*
 * One pass: requests, interrupts, engine, dispatch. enum exit_action or negative; *x is valid for
 * every action but RESUME, and x->retired is what the engine retired in any case.
 */
int vmci_vcpu_pass(struct vmc_vcpu *v, const struct slice *s, struct vmc_exit *x);
/* Enter and leave the state of being run; false: the VM is paused, *x says KICKED. */
bool vmci_vcpu_enter(struct vmc_vcpu *v, struct vmc_exit *x);
void vmci_vcpu_leave(struct vmc_vcpu *v);
/* Check a vCPU and limits before a run. */
int vmci_vcpu_check_run(const struct vmc_vcpu *v, const struct vmc_run_limits *lim);
/* Fill an IDLE exit; or SHUTDOWN, when nothing can ever wake the VM. */
void vmci_vcpu_idle_exit(struct vmc_vcpu *v, struct vmc_exit *x);
static inline void set_exit(struct vmc_exit *x, uint32_t kind)
{
    memset(x, 0, sizeof(*x));
    x->kind = kind;
}

#endif
