/* SPDX-License-Identifier: BSD-2-Clause */
/* Pools, spaces and a provider whose vCPUs the test plays itself. */
#ifndef SPACE_RIG_H
#define SPACE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "pages/pages_int.h"
#include "test_platform.h"
#include <vmcore/sharing.h>

#include <cmocka.h>

/* Revokes are obeyed when the test says so: settled_to. */
struct rig_provider {
    uint64_t ticket, settled_to;
    uint64_t first, count; /* of the last revoke */
    unsigned revokes;
};

static inline uint64_t rig_revoke(void *ctx, uint64_t first, uint64_t count)
{
    struct rig_provider *rp = ctx;

    rp->first = first;
    rp->count = count;
    rp->revokes++;
    return ++rp->ticket;
}
static inline bool rig_settled(void *ctx, uint64_t ticket)
{
    const struct rig_provider *rp = ctx;
    return ticket <= rp->settled_to;
}
static const struct vmc_provider_ops rig_ops = {.revoke = rig_revoke, .settled = rig_settled};

static inline struct vmc_pool *rig_pool(struct test_platform *tp, uint64_t frames)
{
    struct vmc_pool_config cfg = {.size = sizeof(cfg), .frames = frames, .max_pages = 8 * frames};
    struct vmc_pool *p = NULL;

    assert_int_equal(vmc_pool_create(&tp->pf, &cfg, &p, NULL), VMC_OK);
    return p;
}

static inline struct vmc_space *rig_space(struct vmc_pool *p, uint64_t pages, uint64_t salt,
                                          struct rig_provider *rp)
{
    struct vmc_space_config cfg = {.size = sizeof(cfg),
                                   .pages = pages,
                                   .salt = salt,
                                   .provider = rp != NULL ? &rig_ops : NULL,
                                   .provider_ctx = rp};
    struct vmc_space *s = NULL;

    assert_int_equal(vmc_space_create(p, &cfg, &s, NULL), VMC_OK);
    return s;
}

/* Fill a page with a pattern that belongs to seed; 0: zeros. */
static inline void rig_pattern(unsigned char *to, uint64_t seed)
{
    uint64_t v = seed;

    for (unsigned i = 0; i < VMC_PAGE_SIZE; i += 8) {
        v = seed == 0 ? 0 : v * 6364136223846793005ull + 1442695040888963407ull;
        uint64_t word = i % 64 < 24 ? v : seed; /* compressible */
        memcpy(to + i, &word, 8);
    }
}
static inline void rig_fill(struct vmc_space *s, uint64_t page, uint64_t seed)
{
    struct vmc_page_ref r;

    assert_int_equal(vmc_space_access(s, page, VMC_ACCESS_WRITE, &r), VMC_OK);
    rig_pattern(r.ptr, seed);
}
static inline void rig_expect(struct vmc_space *s, uint64_t page, uint64_t seed)
{
    unsigned char want[VMC_PAGE_SIZE];
    struct vmc_page_ref r;

    rig_pattern(want, seed);
    assert_int_equal(vmc_space_access(s, page, 0, &r), VMC_OK);
    assert_memory_equal(r.ptr, want, VMC_PAGE_SIZE);
}
/* End a period; vCPUs obey at once. */
static inline void rig_sample(struct vmc_space *s, struct rig_provider *rp)
{
    uint64_t n;

    assert_int_equal(vmc_space_sample(s, &n), VMC_OK);
    if (rp != NULL)
        rp->settled_to = rp->ticket;
}

/* Every frame is accounted for exactly once. */
static inline void rig_check(struct vmc_pool *p)
{
    unsigned char *seen = calloc(1, p->frames);
    uint64_t used = 1, objects = 0;

    assert_non_null(seen);
    seen[0] = 1;
    for (unsigned i = 0; i < VMC_POOL_MAX_SPACES; i++) {
        const struct vmc_space *s = p->space[i];
        for (uint64_t pg = 0; s != NULL && pg < s->pages; pg++) {
            uint32_t e = s->map[pg], f = vmci_entry_value(e);
            if (vmci_entry_state(e) == VMCI_E_PRIVATE) {
                assert_int_equal(seen[f]++, 0);
                used++;
            } else if (vmci_entry_state(e) == VMCI_E_OBJECT) {
                assert_int_not_equal(vmci_object_kind(vmci_object(p, f)), VMCI_O_FREE);
            }
        }
        for (uint32_t k = 0; s != NULL && k < s->limbo_count; k++) {
            assert_int_equal(seen[s->limbo[k]]++, 0);
            used++;
        }
    }
    for (uint32_t i = 0; i < p->obj_count; i++) {
        const struct vmci_object *o = vmci_object(p, i);
        uint32_t refs = 0;
        if (vmci_object_kind(o) == VMCI_O_FREE)
            continue;
        objects++;
        if (vmci_object_kind(o) == VMCI_O_RESIDENT) {
            assert_int_equal(seen[o->where]++, 0);
            used++;
        }
        for (unsigned k = 0; k < VMC_POOL_MAX_SPACES; k++)
            for (uint64_t pg = 0; p->space[k] != NULL && pg < p->space[k]->pages; pg++)
                refs += p->space[k]->map[pg] == vmci_entry(VMCI_E_OBJECT, i);
        for (uint32_t j = 0; j < p->obj_count; j++)
            if (vmci_object_base(p, vmci_object(p, j)) == i) {
                assert_int_not_equal(vmci_object_kind(o), VMCI_O_DELTA);
                refs++;
            }
        assert_int_equal(vmci_object_refs(o), refs);
    }
    assert_int_equal(objects, p->objects);
    assert_int_equal(used + p->store.frames, p->used);
    for (uint64_t f = 0; f < p->frames; f++)
        if (vmci_bit_test(p->free, f))
            assert_int_equal(seen[f], 0);
    free(seen);
}

#endif
