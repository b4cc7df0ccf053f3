/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tags of cached translations: VPIDs and ASIDs. Each processor hands them out in order and never
 * twice within a generation; when they run out it starts a new generation, and every vCPU takes a
 * new tag as it next runs there. A tag is thus free of old translations by construction, and giving
 * a vCPU a new one is the cheapest complete flush.
 */
#include "cpu/hw/hw_int.h"

void hw_tag_new(struct hw_vcpu *v, struct hw_percpu *pc)
{
    struct hw_tags *t = &pc->tags;

    if (t->max == 0) {
        v->tag = 0;
        return;
    }
    if (t->next > t->max) {
        /* Generations are unique over all processors: the number says whose it is as well. */
        t->generation += 1ull << 16;
        t->next = 1;
        pc->owes_flush = 1; /* everything must go before the first tag is used again */
    }
    v->tag = t->next++;
    v->tag_generation = t->generation;
}
