/* SPDX-License-Identifier: BSD-2-Clause */
/* The KVM engine's own structs. Linux, Documentation/virt/kvm/api.rst describes every request. */
#ifndef KVM_INT_H
#define KVM_INT_H

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "kvm_window.h"
#include <vmcore/x86.h>

#define KVM_PINS  24 /* IOAPIC pins, routes 0-23 */
#define KVM_SLOTS VMC_MEM_MAX_SLOTS

/* A memory slot as the kernel knows it. */
struct kvm_slot {
    bool used;
    uint32_t attr;
    uint64_t gpa, bytes;
    void *hva;
    bool logging;
    uint64_t *dirty; /* bits fetched from the kernel and not yet taken; NULL: not logging */
    struct vmc_space *space; /* NULL: plain memory */
    uint64_t space_page;
    struct kvm_window *window; /* where the space's pages are mapped */
};

struct kvm_evcpu;

struct kvm_evm {
    const struct vmc_platform *pf;
    struct vmc_mem *mem;
    int dev, fd;
    bool user_apic; /* local APICs in the library */
    bool no_irqchip; /* no interrupt controllers at all */
    int kick_signal;
    uint32_t run_bytes; /* of the kvm_run mapping */
    uint32_t coalesced_page; /* of the ring in that mapping, 0: none */
    bool has_sregs2, has_triple;
    uint64_t tsc_hz;
    uint32_t max_vcpus;
    pthread_mutex_t lock; /* routes, slots */
    struct kvm_slot slot[KVM_SLOTS];
    bool log_dirty;
    struct vmc_kvm_frames *frames; /* NULL: no paged memory */
    uint64_t max_mappings;         /* of a window, 0: its default */
    bool plain_failures;           /* what KVM cannot emulate leaves the state as it was */
    unsigned windows;              /* slots that have one */
    struct vmc_mem_watch watch;
    struct {
        bool used;
        uint64_t addr;
        uint32_t data;
    } route[KVM_PINS];
    pthread_mutex_t ring_lock; /* one drains the ring of coalesced writes at a time */
    struct vmc_cpu_policy policy;
    bool have_policy;
    struct kvm_evcpu *vcpu[]; /* max_vcpus */
};

/* What a vCPU owes before its state is whole again. */
enum kvm_debt {
    DEBT_NONE,
    DEBT_ANSWER, /* the embedder owes complete() */
    DEBT_ENTRY,  /* the answer is in kvm_run; the kernel takes it with the next KVM_RUN */
};

struct kvm_evcpu {
    struct kvm_evm *vm;
    const struct vmc_engine_io *io;
    uint32_t index;
    int fd;
    struct kvm_run *run;
    struct kvm_coalesced_mmio_ring *ring;

    uint32_t kicked; /* atomic */
    int32_t tid;     /* atomic: thread inside run, 0: none */
    int32_t masked_tid; /* thread whose signal mask was prepared */

    enum kvm_debt debt;
    bool stashed;      /* an exit was taken while paying a debt: report it first */
    uint32_t io_index; /* element of a string I/O exit */
    uint32_t exit_kind; /* the kind that is owed */
    bool halted;        /* no local APIC in the kernel: HLT is ours to remember */
    bool stepping, breakpoints;
    struct kvm_guest_debug debug;
    uint64_t watch_addr[4];
    uint32_t watch_kind[4];
    bool debug_dirty;

    timer_t timer;
    bool have_timer;
    int32_t timer_tid;
    uint64_t timer_deadline; /* that is armed, 0: none */

    uint32_t faults_in_a_row; /* KVM_RUN could not get at a page */
    uint64_t n_runs, n_signals; /* statistics */
};

/* ---- kvm_probe.c --------------------------------------------------------------------------- */

/* Fill err from errno and return VMC_EHOST. */
int kvm_host_error(struct vmc_error *err, const char *what);
int kvm_set_error(struct vmc_error *err, int code, const char *fmt, ...) VMC_PRINTF(3, 4);
/* Open /dev/kvm and check every ability that the engine needs; the descriptor, or VMC_E*. */
int kvm_open_checked(bool user_apic, struct vmc_error *err);
int kvm_probe_split(const struct vmc_platform *pf, struct vmc_engine_info *out,
                    struct vmc_error *err);
int kvm_probe_user(const struct vmc_platform *pf, struct vmc_engine_info *out,
                   struct vmc_error *err);

/* ---- kvm_policy.c -------------------------------------------------------------------------- */

int kvm_ceiling(int dev, bool user_apic, struct vmc_cpu_policy *out, struct vmc_error *err);
int kvm_set_policy(void *evm, const struct vmc_cpu_policy *policy, struct vmc_error *err);

/* ---- kvm_mem.c ----------------------------------------------------------------------------- */

int kvm_mem_changed(void *evm);
int kvm_dirty_log(void *evm, bool on);
int kvm_dirty_fetch(void *evm, uint64_t gpa, uint64_t pages, uint64_t *bitmap);
void kvm_mem_fini(struct kvm_evm *vm);
/*
 * An instruction that the kernel emulates touched a page that was about to move, and comes out as a
 * device access: make it. false: that is no paged memory.
 */
bool kvm_mem_access(struct kvm_evm *vm, uint64_t gpa, void *data, unsigned bytes, bool write);

/* ---- kvm_irq.c ----------------------------------------------------------------------------- */

int kvm_msi(void *evm, uint64_t addr, uint32_t data);
int kvm_irq_line(void *evm, uint32_t gsi, bool level);
int kvm_ioapic_route(void *evm, uint32_t pin, uint64_t addr, uint32_t data, bool level);
/* Hand the kernel every coalesced write, in order, to the bus. */
void kvm_drain_ring(struct kvm_evcpu *v);

/* ---- kvm_state.c --------------------------------------------------------------------------- */

int kvm_get_state(void *ev, uint32_t groups, struct vmc_x86_state *st);
int kvm_set_state(void *ev, uint32_t groups, const struct vmc_x86_state *st);
int kvm_read_tsc(void *ev, uint64_t *tsc, uint64_t *hz, uint64_t *clock);
int kvm_can_inject(void *ev, const struct vmc_event *e);
int kvm_inject(void *ev, const struct vmc_event *e);

/* ---- kvm_run.c ----------------------------------------------------------------------------- */

int kvm_run(void *ev, const struct vmc_run_limits *lim, struct vmc_exit *out);
int kvm_complete(void *ev, const struct vmc_exit *done);
/* Make the kernel take an answer that waits in kvm_run, so that the state is whole. */
int kvm_settle(struct kvm_evcpu *v);
void kvm_kick(void *ev);
int kvm_want_window(void *ev, bool on);
int kvm_set_debug(void *ev, const struct vmc_breakpoint *bp, size_t n);
void kvm_timer_fini(struct kvm_evcpu *v);

/* ---- kvm_exit.c ---------------------------------------------------------------------------- */

/* Translate kvm_run into *out. True: report it; false: handled, run on. */
bool kvm_decode_exit(struct kvm_evcpu *v, struct vmc_exit *out);

#endif
