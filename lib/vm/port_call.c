/* SPDX-License-Identifier: BSD-2-Clause */
/* Calls of the hypervisor that a guest makes by IN, with arguments in registers. */
#include "vm/vm_priv.h"

void vmc_vm_set_port_calls(struct vmc_vm *vm, uint16_t first, uint16_t last,
                           bool (*fn)(void *ctx, struct vmc_port_call *call), void *ctx)
{
    vm->call_first = first;
    vm->call_last = last;
    vm->call_ctx = ctx;
    vm->call_fn = fn;
}

static void get_registers(struct vmc_port_call *c, const struct vmc_x86_state *st)
{
    c->rax = st->gpr[VMC_RAX];
    c->rbx = st->gpr[VMC_RBX];
    c->rcx = st->gpr[VMC_RCX];
    c->rdx = st->gpr[VMC_RDX];
    c->rsi = st->gpr[VMC_RSI];
    c->rdi = st->gpr[VMC_RDI];
}

static void put_registers(struct vmc_x86_state *st, const struct vmc_port_call *c)
{
    st->gpr[VMC_RBX] = c->rbx;
    st->gpr[VMC_RCX] = c->rcx;
    st->gpr[VMC_RDX] = c->rdx;
    st->gpr[VMC_RSI] = c->rsi;
    st->gpr[VMC_RDI] = c->rdi;
}

/*
 * IN sets EAX, by the exit's completion; the other registers follow when it has retired. INS from
 * such a port looks the same from here: a guest that does this loses its own registers only.
 */
static int call(struct vmc_vcpu *v, struct vmc_exit *x, struct vmc_x86_state *st)
{
    struct vmc_vm *vm = v->vm;
    struct vmc_port_call c = {
        .vcpu = v->index, .port = x->u.io.port, .tsc_hz = vm->tsc_hz, .apic_hz = VMCI_APIC_BUS_HZ};
    int rc = vm->ops->get_state(v->ev, VMC_ST_GPR, st);

    if (rc != VMC_OK)
        return rc;
    get_registers(&c, st);
    if (!vm->call_fn(vm->call_ctx, &c))
        return 0;
    count(&v->stats.pio, 1);
    x->u.io.data = (uint32_t)c.rax;
    x->answer = VMC_ANSWER_DONE;
    rc = vm->ops->complete(v->ev, x);
    if (rc == VMC_OK)
        rc = vm->ops->get_state(v->ev, VMC_ST_GPR, st);
    if (rc != VMC_OK)
        return rc;
    put_registers(st, &c);
    rc = vm->ops->set_state(v->ev, VMC_ST_GPR, st);
    return rc < 0 ? rc : 1;
}

int vmci_port_call(struct vmc_vcpu *v, struct vmc_exit *x)
{
    struct vmc_x86_state *st = vmci_state_alloc(v->vm);

    if (st == NULL)
        return VMC_ENOMEM;
    int rc = call(v, x, st);
    vmci_state_free(v->vm, st);
    return rc;
}
