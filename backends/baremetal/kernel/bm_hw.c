/* SPDX-License-Identifier: BSD-2-Clause */
/* What the VT-x and SVM engines need of this kernel (hw.h). */
#include "bm_hw.h"

#include "engine/baremetal_hw.h"

static void *percpu[BM_MAX_CPUS];
static struct vmc_hw_ops ops;

static void *op_percpu(void *ctx)
{
    uint32_t cpu = this_cpu()->index;

    (void)ctx;
    if (percpu[cpu] == NULL) {
        percpu[cpu] = bm_heap_alloc(bm_kernel_heap, VMC_HW_PERCPU_BYTES, 64);
        if (percpu[cpu] == NULL)
            bm_panic("no memory for the engines' data of CPU %u", cpu);
        memset(percpu[cpu], 0, VMC_HW_PERCPU_BYTES);
    }
    return percpu[cpu];
}

static uint64_t op_to_phys(void *ctx, const void *va, uint64_t *run)
{
    uint64_t a = (uint64_t)va;

    (void)ctx;
    if (a >= PHYSMAP_BASE && a < VMAP_BASE) { /* the map of all memory: one piece */
        *run = VMAP_BASE - a;
        return a - PHYSMAP_BASE;
    }
    if (!bm_mapped(a))
        return VMC_HW_NO_PHYS;
    *run = PAGE - (a & (PAGE - 1));
    return bm_virt_to_phys(va);
}

/*
 * An earlier timer of somebody else stays; one too many does no harm. Until the engine takes it
 * back it fires again and again: the first time may be just before the guest is entered.
 */
static void op_timer(void *ctx, uint64_t deadline_ns)
{
    struct bm_cpu *c = this_cpu();

    (void)ctx;
    __atomic_store_n(&c->engine_ns, deadline_ns, __ATOMIC_RELAXED);
    if (deadline_ns != 0 && deadline_ns < c->timer_ns)
        vmc_bm_timer(deadline_ns);
}

static void op_notify(void *ctx, uint32_t cpu)
{
    (void)ctx;
    if (cpu < bm_cpu_count && bm_cpus[cpu]->online)
        bm_lapic_send(bm_cpus[cpu]->apic_id, VEC_POSTED | 0x4000);
}

const struct vmc_hw_ops *bm_hw_ops(void)
{
    if (ops.size == 0) {
        ops.flags = VMC_HW_KEEPS_FPU; /* the kernel is built without them */
        ops.percpu = op_percpu;
        ops.to_phys = op_to_phys;
        ops.timer = op_timer;
        ops.notify = op_notify;
        ops.notify_vector = VEC_POSTED;
        vmc_baremetal_hw(&ops);
    }
    return &ops;
}
