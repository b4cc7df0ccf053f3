/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fibers: a function with a stack of its own, which goes on when it is run and gives the processor
 * back when it yields. So code that waits, as a file system does for its disk, need not keep a
 * processor.
 */
#include "bm_int.h"

/* Keep what calls preserve on this stack and its pointer in *save; go on at to. In bm_entry.S. */
void bm_switch(uint64_t **save, uint64_t *to);

struct vmc_bm_fiber {
    uint64_t *sp, *back; /* where it goes on, and where whoever runs it does */
    void (*fn)(void *arg);
    void *arg;
    uint32_t cpu;
};

static void begin(void)
{
    struct vmc_bm_fiber *f = this_cpu()->fiber;

    f->fn(f->arg);
    bm_panic("a fiber ended");
}

int vmc_bm_fiber_create(size_t stack_bytes, void (*fn)(void *arg), void *arg,
                        struct vmc_bm_fiber **out)
{
    uint64_t pages = PAGES(stack_bytes), pa = bm_pages_alloc(pages, 1, OWNER_KERNEL);
    char *va = pa != 0 ? bm_vmap(pa, pages, MAP_WRITE) : NULL;
    struct vmc_bm_fiber *f = va != NULL ? bm_zalloc(sizeof(*f)) : NULL;

    if (f == NULL) {
        if (va != NULL)
            bm_vunmap(va, pages);
        if (pa != 0)
            bm_pages_free(pa, pages);
        return VMC_ENOMEM;
    }
    uint64_t *top = (uint64_t *)(va + pages * PAGE);
    top[-1] = 0; /* nobody called */
    top[-2] = (uint64_t)begin;
    f->sp = top - 2 - 6; /* registers that calls preserve */
    memset(f->sp, 0, 6 * sizeof(*top));
    f->fn = fn;
    f->arg = arg;
    f->cpu = this_cpu()->index;
    *out = f;
    return VMC_OK;
}

void vmc_bm_fiber_run(struct vmc_bm_fiber *f)
{
    struct bm_cpu *c = this_cpu();

    if (c->fiber != NULL || f->cpu != c->index)
        bm_panic("a fiber is run by another one, or by another processor");
    c->fiber = f;
    bm_switch(&f->back, f->sp);
    c->fiber = NULL;
}

void vmc_bm_fiber_yield(void)
{
    struct vmc_bm_fiber *f = this_cpu()->fiber;

    if (f == NULL)
        bm_panic("nobody to yield to");
    bm_switch(&f->sp, f->back);
}

struct vmc_bm_fiber *vmc_bm_fiber_current(void)
{
    return this_cpu()->fiber;
}
