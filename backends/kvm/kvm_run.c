/* SPDX-License-Identifier: BSD-2-Clause */
/* Entering the guest: signals, deadlines, completions, kicks. */
#define _GNU_SOURCE
#include "kvm_int.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NS_PER_S 1000000000u
/* The kernel's size of a signal set, for KVM_SET_SIGNAL_MASK. */
#define KERNEL_SIGSET_BYTES 8
#define MAX_FAULTS_IN_A_ROW 1000000u
#define MAX_FETCHES         10000u

static int32_t this_thread(void)
{
    return (int32_t)syscall(SYS_gettid);
}

/* ---- signals ------------------------------------------------------------------------------- */

/*
 * The kick signal is blocked in this thread and open inside KVM_RUN. A blocked signal stays pending
 * even when its action is to be ignored, so one that comes too early ends the next KVM_RUN.
 */
static int prepare_thread(struct kvm_evcpu *v)
{
    struct {
        struct kvm_signal_mask head;
        uint64_t set;
    } mask = {.head.len = KERNEL_SIGSET_BYTES};
    sigset_t kick, old;

    sigemptyset(&kick);
    sigaddset(&kick, v->vm->kick_signal);
    if (pthread_sigmask(SIG_BLOCK, &kick, &old) != 0)
        return VMC_EHOST;
    sigdelset(&old, v->vm->kick_signal);
    memcpy((char *)&mask + offsetof(struct kvm_signal_mask, sigset), &old, KERNEL_SIGSET_BYTES);
    if (ioctl(v->fd, KVM_SET_SIGNAL_MASK, &mask) < 0)
        return VMC_EHOST;
    v->masked_tid = this_thread();
    return VMC_OK;
}

/* Take back signals that ended a KVM_RUN or came beside one: a pending one would end the next. */
static int eat_signals(struct kvm_evcpu *v)
{
    const struct timespec zero = {0, 0};
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, v->vm->kick_signal);
    while (sigtimedwait(&set, NULL, &zero) >= 0)
        v->n_signals++;
    /* A sandbox that forbids this call would make us spin. */
    return errno == EAGAIN || errno == EINTR ? VMC_OK : VMC_EHOST;
}

void kvm_kick(void *ev)
{
    struct kvm_evcpu *v = ev;

    __atomic_store_n(&v->kicked, 1u, __ATOMIC_SEQ_CST);
    /* For the time between the look at kicked and KVM_RUN. */
    __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    int32_t tid = __atomic_load_n(&v->tid, __ATOMIC_SEQ_CST);
    if (tid != 0 && tid != this_thread())
        (void)syscall(SYS_tgkill, getpid(), tid, v->vm->kick_signal); /* gone: nothing to kick */
}

/* ---- deadline ------------------------------------------------------------------------------ */

/* A timer of this thread sends it the kick signal. */
static int make_timer(struct kvm_evcpu *v)
{
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = v->vm->kick_signal};

    if (v->have_timer && v->timer_tid == v->masked_tid)
        return VMC_OK;
    kvm_timer_fini(v);
    ev._sigev_un._tid = v->masked_tid;
    if (timer_create(CLOCK_MONOTONIC, &ev, &v->timer) != 0)
        return VMC_EHOST;
    v->have_timer = true;
    v->timer_tid = v->masked_tid;
    v->timer_deadline = 0;
    return VMC_OK;
}

void kvm_timer_fini(struct kvm_evcpu *v)
{
    if (v->have_timer)
        timer_delete(v->timer);
    v->have_timer = false;
    v->timer_deadline = 0;
}

/* Arm for deadline_ns of the platform's clock, which need not be the system's. */
static int arm(struct kvm_evcpu *v, uint64_t deadline_ns)
{
    const struct vmc_platform *pf = v->vm->pf;

    /* One that is armed for the thread that ran the vCPU before does not end this one's run. */
    if (v->timer_deadline == deadline_ns && (deadline_ns == 0 || v->timer_tid == v->masked_tid))
        return VMC_OK;
    if (deadline_ns == 0 && !v->have_timer)
        return VMC_OK;
    int rc = make_timer(v);
    if (rc != VMC_OK)
        return rc;
    uint64_t now = pf->now_ns(pf->ctx);
    uint64_t wait = deadline_ns == 0 ? 0 : deadline_ns > now ? deadline_ns - now : 1;
    struct itimerspec its = {
        .it_value = {.tv_sec = (time_t)(wait / NS_PER_S), .tv_nsec = (long)(wait % NS_PER_S)}};
    if (timer_settime(v->timer, 0, &its, NULL) != 0)
        return VMC_EHOST;
    v->timer_deadline = deadline_ns;
    return VMC_OK;
}

static bool is_past(const struct kvm_evcpu *v, uint64_t deadline_ns)
{
    const struct vmc_platform *pf = v->vm->pf;

    return deadline_ns != 0 && pf->now_ns(pf->ctx) >= deadline_ns;
}

/* ---- completion ---------------------------------------------------------------------------- */

int kvm_complete(void *ev, const struct vmc_exit *done)
{
    struct kvm_evcpu *v = ev;
    struct kvm_run *r = v->run;

    if (v->debt != DEBT_ANSWER)
        return VMC_ESTATE;
    if (done->kind != v->exit_kind)
        return VMC_EINVAL;
    if (done->answer != VMC_ANSWER_DONE && done->kind != VMC_EXIT_MSR)
        return VMC_ENOTSUP; /* the kernel has decided that the access is legal */
    if (done->kind == VMC_EXIT_IO && !done->u.io.write)
        memcpy((char *)r + r->io.data_offset + v->io_index * r->io.size, &done->u.io.data,
               r->io.size);
    else if (done->kind == VMC_EXIT_MMIO && !done->u.mmio.write)
        memcpy(r->mmio.data, &done->u.mmio.data, r->mmio.len);
    else if (done->kind == VMC_EXIT_MSR) {
        r->msr.error = done->answer != VMC_ANSWER_DONE;
        r->msr.data = done->u.msr.value;
    }
    /* A string instruction delivers several elements in one exit: present them one by one. */
    if (done->kind == VMC_EXIT_IO && v->io_index + 1 < r->io.count) {
        v->io_index++;
        v->stashed = true;
        v->debt = DEBT_NONE;
        return VMC_OK;
    }
    v->io_index = 0;
    v->debt = DEBT_ENTRY;
    return VMC_OK;
}

int kvm_settle(struct kvm_evcpu *v)
{
    if (v->debt != DEBT_ENTRY)
        return VMC_OK;
    __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    int rc = ioctl(v->fd, KVM_RUN, 0);
    if (rc < 0 && errno != EINTR && errno != EAGAIN)
        return VMC_EHOST;
    v->debt = DEBT_NONE;
    /* The instruction may want more (an access that crosses a page): report that next. */
    if (rc == 0)
        v->stashed = true;
    return VMC_OK;
}

/* ---- run ----------------------------------------------------------------------------------- */

static int apply_debug(struct kvm_evcpu *v, bool step)
{
    if (v->stepping != step) {
        v->stepping = step;
        v->debug_dirty = true;
    }
    if (!v->debug_dirty)
        return VMC_OK;
    struct kvm_guest_debug d = v->debug;
    if (step)
        d.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
    if (ioctl(v->fd, KVM_SET_GUEST_DEBUG, &d) < 0)
        return VMC_EHOST;
    v->debug_dirty = false;
    return VMC_OK;
}

static void leave_with(struct kvm_evcpu *v, struct vmc_exit *out, uint32_t kind)
{
    memset(out, 0, sizeof(*out));
    out->kind = kind;
    out->rip = v->run->s.regs.regs.rip;
}

/*
 * Could KVM not fetch the instruction that it was to emulate? It does not wait for a page that is
 * on its way, or while a signal is pending; that looks like an instruction which it does not know.
 */
static bool may_be_fetched_later(struct kvm_evcpu *v)
{
    const struct kvm_run *r = v->run;

    return v->vm->windows != 0 && v->vm->plain_failures &&
           r->exit_reason == KVM_EXIT_INTERNAL_ERROR &&
           r->internal.suberror == KVM_INTERNAL_ERROR_EMULATION &&
           ++v->faults_in_a_row < MAX_FETCHES;
}

/* One KVM_RUN. 0: an exit to decode; 1: nothing happened; negative: the host failed. */
static int enter(struct kvm_evcpu *v)
{
    bool sync_cr8 = v->vm->user_apic;

    if (sync_cr8)
        v->run->cr8 = v->io->get_tpr(v->io->ctx);
    uint64_t cr8 = v->run->cr8;
    v->n_runs++;
    int rc = ioctl(v->fd, KVM_RUN, 0);
    int host = errno;
    if (sync_cr8 && v->run->cr8 != cr8)
        v->io->set_tpr(v->io->ctx, v->run->cr8);
    kvm_drain_ring(v);
    v->debt = DEBT_NONE; /* the kernel has taken the last answer */
    if (rc == 0 && may_be_fetched_later(v)) {
        rc = eat_signals(v);
        (void)sched_yield();
        return rc == VMC_OK ? 1 : rc;
    }
    if (rc == 0) {
        v->faults_in_a_row = 0;
        return 0;
    }
    /* A page on its way to another frame (kvm_window.h): the instruction is executed again. */
    if (host == EFAULT && v->vm->windows != 0 && ++v->faults_in_a_row < MAX_FAULTS_IN_A_ROW) {
        (void)sched_yield();
        return 1;
    }
    if (host != EINTR && host != EAGAIN)
        return VMC_EHOST;
    rc = eat_signals(v);
    return rc == VMC_OK ? 1 : rc;
}

/* Does the vCPU sleep in the kernel where nothing but another processor can wake it? */
static bool sleeps(struct kvm_evcpu *v, struct vmc_exit *out)
{
    struct kvm_mp_state mp;
    struct kvm_regs regs;
    uint32_t why = VMC_IDLE_WAIT_SIPI;

    if (v->vm->user_apic || v->vm->no_irqchip || v->debt != DEBT_NONE || v->stashed ||
        ioctl(v->fd, KVM_GET_MP_STATE, &mp) < 0 || mp.mp_state == KVM_MP_STATE_RUNNABLE)
        return false;
    if (mp.mp_state == KVM_MP_STATE_HALTED) {
        if (ioctl(v->fd, KVM_GET_REGS, &regs) < 0 || (regs.rflags & VMC_FLAG_IF) != 0)
            return false;
        why = VMC_IDLE_HLT;
    }
    leave_with(v, out, VMC_EXIT_IDLE);
    out->u.idle.why = why;
    return true;
}

static int loop(struct kvm_evcpu *v, const struct vmc_run_limits *lim, struct vmc_exit *out)
{
    for (;;) {
        __atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
        if (__atomic_exchange_n(&v->kicked, 0u, __ATOMIC_SEQ_CST)) {
            if (!sleeps(v, out))
                leave_with(v, out, VMC_EXIT_KICKED);
            return VMC_OK;
        }
        if (v->stashed) {
            v->stashed = false;
            if (kvm_decode_exit(v, out))
                return VMC_OK;
        }
        if (is_past(v, lim->deadline_ns)) {
            leave_with(v, out, VMC_EXIT_BUDGET);
            return VMC_OK;
        }
        if (v->halted) {
            leave_with(v, out, VMC_EXIT_IDLE);
            out->u.idle.why = VMC_IDLE_HLT;
            out->u.idle.irqs_on = v->run->if_flag;
            return VMC_OK;
        }
        int rc = enter(v);
        /* It may have been the timer, which runs by another clock than the deadline's. */
        if (rc > 0 && lim->deadline_ns != 0 && !is_past(v, lim->deadline_ns)) {
            v->timer_deadline = 0;
            rc = arm(v, lim->deadline_ns) == VMC_OK ? 1 : VMC_EHOST;
        }
        if (rc < 0)
            return rc;
        if (rc == 0 && kvm_decode_exit(v, out))
            return VMC_OK;
    }
}

int kvm_run(void *ev, const struct vmc_run_limits *lim, struct vmc_exit *out)
{
    struct kvm_evcpu *v = ev;

    if (v->debt == DEBT_ANSWER)
        return VMC_ESTATE;
    if (lim->max_insns > 1)
        return VMC_ENOTSUP;
    int rc = v->masked_tid == this_thread() ? VMC_OK : prepare_thread(v);
    if (rc == VMC_OK)
        rc = apply_debug(v, lim->max_insns == 1);
    if (rc == VMC_OK)
        rc = arm(v, lim->deadline_ns);
    if (rc != VMC_OK)
        return rc;
    __atomic_store_n(&v->tid, v->masked_tid, __ATOMIC_SEQ_CST);
    rc = loop(v, lim, out);
    __atomic_store_n(&v->tid, 0, __ATOMIC_SEQ_CST);
    return rc;
}

int kvm_want_window(void *ev, bool on)
{
    struct kvm_evcpu *v = ev;

    v->run->request_interrupt_window = on;
    return VMC_OK;
}

int kvm_set_debug(void *ev, const struct vmc_breakpoint *bp, size_t n)
{
    struct kvm_evcpu *v = ev;
    /* R/W field of DR7 by kind: execute, write, access; there is no read-only one. */
    static const uint64_t rw[] = {
        [VMC_BP_EXEC] = 0, [VMC_BP_WRITE] = 1, [VMC_BP_RW] = 3, [VMC_BP_READ] = 3};

    if (n > 4)
        return VMC_ELIMIT; /* debug registers */
    memset(&v->debug, 0, sizeof(v->debug));
    for (size_t i = 0; i < n; i++) {
        if (bp[i].kind > VMC_BP_READ || bp[i].bytes == 0 || bp[i].bytes > 8 ||
            (bp[i].bytes & (bp[i].bytes - 1)) != 0 || (bp[i].gva & (bp[i].bytes - 1)) != 0)
            return VMC_EINVAL;
        uint64_t len = bp[i].kind == VMC_BP_EXEC ? 0 : bp[i].bytes == 8 ? 2 : bp[i].bytes - 1;
        v->watch_addr[i] = bp[i].gva;
        v->watch_kind[i] = bp[i].kind;
        v->debug.arch.debugreg[i] = bp[i].gva;
        v->debug.arch.debugreg[7] |= 2ull << (2 * i) | (rw[bp[i].kind] | len << 2) << (16 + 4 * i);
    }
    if (n != 0) {
        v->debug.arch.debugreg[7] |= VMC_DR7_FIXED;
        v->debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    }
    v->debug_dirty = true;
    return VMC_OK;
}
