/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest memory whose pages move (slots with a space): bringing pages in, and letting go of pointers
 * when they are revoked.
 *
 * A vCPU in run holds pointers in its TLB; it counts as a holder from soft_mem_enter to
 * soft_mem_leave. A revoke is obeyed at boundaries, by dropping the TLB. An instruction that
 * touches a page that is not to be had yet gives up without effect (VMCI_RETRY) and is executed
 * again after a boundary: it may hold pointers itself. Where none is held, in the middle of
 * fetching code and of delivering events, the vCPU obeys on the spot and goes on (in_place).
 */
#include "cpu/interp/soft_loop.h"

#define SPIN_TRIES 4u

void soft_mem_obey(struct vmci_soft_cpu *sc)
{
    uint64_t seq = vmci_load_acquire(&sc->cpu.mem->revoke_seq);

    if (seq != sc->mem_seen) {
        soft_tlb_forget(sc);
        sc->mem_seen = seq;
        /* Translated code keeps pointers in registers: it must not go on behind this instruction.
         */
        soft_request(sc, VMCI_REQ_FLUSH);
    }
    vmci_fence_seq(); /* what was stored through the pointers comes first */
    vmci_store_release(&sc->mem_ack, seq);
}

void soft_mem_enter(struct vmci_soft_cpu *sc)
{
    (void)vmci_exchange(&sc->mem_ack, 0); /* first be counted, then look */
    uint64_t seq = vmci_load_acquire(&sc->cpu.mem->revoke_seq);
    if (likely(seq == sc->mem_seen)) /* nothing was stored through pointers since soft_mem_leave */
        vmci_store_release(&sc->mem_ack, seq);
    else
        soft_mem_obey(sc);
}

void soft_mem_leave(struct vmci_soft_cpu *sc)
{
    vmci_store_release(&sc->mem_ack, UINT64_MAX);
}

bool soft_mem_settled(void *ctx, uint64_t seq)
{
    const struct vmci_soft_vm *vm = ctx;

    for (uint32_t i = 0; i < vmci_load_acquire(&vm->count); i++) {
        const struct vmci_soft_cpu *sc = soft_cpu_at(vm, i);
        if (sc != NULL && vmci_load_acquire(&sc->mem_ack) < seq)
            return false;
    }
    return true;
}

/* No pointer is held here: obey, and sleep a little where that did not help a few times. */
static void give_way(struct vmci_soft_cpu *sc)
{
    if (++sc->mem_tries <= SPIN_TRIES) {
        soft_mem_obey(sc);
        vmci_cpu_relax();
        return;
    }
    soft_mem_leave(sc);
    vmci_mem_wait(sc->cpu.mem, sc->mem_gpa);
    soft_mem_enter(sc);
}

void soft_mem_again(struct vmci_soft_cpu *sc)
{
    vmci_fp_park(&sc->cpu);
    give_way(sc);
}

int soft_mem_bring(struct vmci_soft_cpu *sc, uint64_t gpa, bool write)
{
    vmci_fp_park(&sc->cpu); /* decompression uses what registers it likes */
    for (;;) {
        if (vmci_mem_fault(sc->cpu.mem, gpa, write) == VMC_OK) {
            sc->mem_tries = 0;
            return 0;
        }
        sc->mem_gpa = gpa;
        if (!sc->in_place)
            return VMCI_RETRY;
        give_way(sc);
    }
}
