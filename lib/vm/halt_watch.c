/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Finds a machine whose processors have all halted with interrupts off, where the local APICs, and
 * so HLT, are the engine's: a halted vCPU stays inside run. A timer kicks every vCPU now and then;
 * the engine then tells whether it sleeps (VMC_EXIT_IDLE). One look does not settle it, since one
 * processor can have woken another between their looks; several in a row do.
 */
#include "vm/vm_priv.h"

#define LOOK_NS 300000000u
#define LOOKS   3u

static void look(void *ctx, uint64_t deadline_ns)
{
    struct vmc_vm *vm = ctx;
    bool all = true;

    for (uint32_t i = 0; i < vm->max_vcpus; i++) {
        if (vm->vcpu[i] != NULL && !vmci_exchange(&vm->vcpu[i]->asleep, 0u))
            all = false;
    }
    vm->halt_looks = all ? vm->halt_looks + 1 : 0;
    if (vm->halt_looks > LOOKS) {
        vm->halt_looks = 0;
        vmc_vm_request_stop(vm, VMC_STOP_HALT_FOREVER, 0);
    } else {
        for (uint32_t i = 0; i < vm->max_vcpus; i++) {
            if (vm->vcpu[i] != NULL)
                vmci_vcpu_request(vm->vcpu[i], REQ_TIMER);
        }
    }
    vmc_timer_arm(vm->halt_timer, deadline_ns + LOOK_NS);
}

int vmci_halt_watch_init(struct vmc_vm *vm)
{
    if (!engine_has(vm, VMC_CAP_IRQCHIP))
        return VMC_OK;
    return vmc_timer_create(vm->board.timers, "halt-watch", look, vm, &vm->halt_timer);
}

void vmci_halt_watch_start(struct vmc_vm *vm)
{
    if (vm->halt_timer != NULL)
        vmc_timer_arm(vm->halt_timer, vmc_timerq_now(vm->board.timers) + LOOK_NS);
}

void vmci_halt_watch_fini(struct vmc_vm *vm)
{
    vmc_timer_destroy(vm->halt_timer);
    vm->halt_timer = NULL;
}
