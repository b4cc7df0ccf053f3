/* SPDX-License-Identifier: BSD-2-Clause */
/* The compressed store by itself: slots of all sizes come and go, and slabs are emptied. */
#include "space_rig.h"

#define OBJECTS 6000u

static struct test_platform tp;
static struct vmc_pool *pool;
static struct kept {
    uint32_t object;
    uint16_t bytes; /* 0: nothing is kept */
    unsigned char with;
} kept[OBJECTS];
static unsigned char data[VMC_PAGE_SIZE];

static int setup(void **state)
{
    (void)state;
    test_platform_init(&tp);
    pool = rig_pool(&tp, 8192);
    for (unsigned i = 0; i < OBJECTS; i++) {
        uint32_t id = vmci_object_new(pool, 0, VMCI_NO_MARK);
        assert_int_not_equal(id, VMCI_NONE);
        kept[i] = (struct kept){.object = id};
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    vmc_pool_destroy(pool);
    test_platform_check(&tp);
    return 0;
}

static uint32_t rnd(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(*seed >> 33);
}

static void keep(struct kept *k, uint16_t bytes, unsigned char with)
{
    uint32_t slot;

    memset(data, with, bytes);
    assert_int_equal(vmci_store_put(pool, k->object, VMCI_NONE, data, bytes, &slot), VMC_OK);
    vmci_object(pool, k->object)->where = slot;
    k->bytes = bytes;
    k->with = with;
}

static void drop(struct kept *k)
{
    vmci_store_drop(pool, vmci_object(pool, k->object)->where, false);
    k->bytes = 0;
}

static void expect(const struct kept *k)
{
    unsigned char got[VMC_PAGE_SIZE];
    uint32_t slot = vmci_object(pool, k->object)->where;

    assert_int_equal(vmci_store_get(pool, slot, false, got), k->bytes);
    for (unsigned i = 0; i < k->bytes; i++)
        assert_int_equal(got[i], k->with);
}

/* Every slab with room is on the list of its class for those about as full; the room is theirs. */
static void check_lists(void)
{
    const struct vmci_store *st = &pool->store;
    uint64_t frames = 0, used = 0;

    for (uint32_t n = 0; n < st->slabs; n++) {
        const struct vmci_slab *sl = &st->chunk[n / VMCI_SLAB_CHUNK][n % VMCI_SLAB_CHUNK];
        used += sl->cls != 0 ? sl->used : 0;
    }
    for (unsigned cls = 0; cls < VMCI_CLASSES; cls++) {
        uint32_t room = 0;
        for (unsigned f = 0; f < VMCI_FILLS; f++) {
            uint32_t before = VMCI_NONE;
            for (uint32_t n = st->partial[cls][f]; n != VMCI_NONE;) {
                const struct vmci_slab *sl = &st->chunk[n / VMCI_SLAB_CHUNK][n % VMCI_SLAB_CHUNK];
                assert_int_equal(sl->cls, cls);
                assert_true(sl->used > 0 && sl->used < sl->slots);
                assert_int_equal(sl->used * VMCI_FILLS / sl->slots, f);
                assert_int_equal(sl->prev, before);
                room += (uint32_t)(sl->slots - sl->used);
                before = n;
                n = sl->next;
            }
        }
        assert_int_equal(st->room[cls], room);
    }
    for (unsigned i = 0; i < OBJECTS; i++)
        frames += kept[i].bytes != 0;
    assert_int_equal(used, frames);
}

static void slabs_are_on_the_list_that_they_belong_to(void **state)
{
    uint64_t seed = 5;

    (void)state;
    for (unsigned round = 0; round < 60; round++) {
        for (unsigned i = 0; i < 2000; i++) {
            struct kept *k = &kept[rnd(&seed) % OBJECTS];
            unsigned c = rnd(&seed) % 8; /* most are of few sizes */
            if (k->bytes != 0)
                drop(k);
            else
                keep(k, (uint16_t)(c == 0 ? 1 + rnd(&seed) % 4000 : 300 * c), (uint8_t)i);
        }
        check_lists();
        (void)vmc_pool_compact(pool, round % 3 == 0 ? UINT64_MAX : 200);
        check_lists();
        for (unsigned i = 0; i < OBJECTS; i += 7)
            if (kept[i].bytes != 0)
                expect(&kept[i]);
    }
    for (unsigned i = 0; i < OBJECTS; i++)
        if (kept[i].bytes != 0)
            drop(&kept[i]);
    check_lists();
    assert_int_equal(pool->store.frames, 0);
}

static void compaction_leaves_less_than_a_slab_of_a_size(void **state)
{
    uint64_t seed = 9, before;

    (void)state;
    for (unsigned i = 0; i < OBJECTS; i++)
        keep(&kept[i], 2000, (uint8_t)i);
    before = pool->store.frames;
    for (unsigned i = 0; i < OBJECTS; i++)
        if (rnd(&seed) % 4 != 0)
            drop(&kept[i]);
    uint64_t freed = vmc_pool_compact(pool, UINT64_MAX);
    check_lists();
    assert_true(freed > before / 4);
    for (unsigned cls = 0; cls < VMCI_CLASSES; cls++)
        assert_true(pool->store.room[cls] < VMCI_SLAB_BYTES / 2000 + 1);
    for (unsigned i = 0; i < OBJECTS; i++)
        if (kept[i].bytes != 0)
            expect(&kept[i]);
    assert_int_equal(vmc_pool_compact(pool, UINT64_MAX), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(slabs_are_on_the_list_that_they_belong_to, setup, teardown),
        cmocka_unit_test_setup_teardown(compaction_leaves_less_than_a_slab_of_a_size, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
