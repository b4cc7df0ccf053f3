/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where numbers do not fit into a few bits any more: references, groups, large pools; bases; spaces
 * that come and go during a pass.
 */
#include "space_rig.h"

#include "sharing/sharing_priv.h"

static struct test_platform tp;
static const struct vmc_share_budget all = {0};

static struct vmc_share *scanner(struct vmc_pool *pool)
{
    struct vmc_share_config cfg = {.size = sizeof(cfg), .seed = 12345};
    struct vmc_share *sh = NULL;

    assert_int_equal(vmc_share_create(pool, &cfg, &sh, NULL), VMC_OK);
    return sh;
}

static int setup(void **state)
{
    (void)state;
    test_platform_init(&tp);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    test_platform_check(&tp);
    return 0;
}

static void scan(struct vmc_share *sh)
{
    struct vmc_share_result res;

    assert_int_equal(vmc_share_scan(sh, &all, &res), VMC_OK);
    assert_true(res.pass_done);
}

/* An object has room for so many references only; the next page begins another. */
static void any_number_of_pages_alike_is_found(void **state)
{
    (void)state;
    enum { STEP = 3000, PAGES = 7 * STEP };
    struct vmc_pool *pool = rig_pool(&tp, 4096);
    struct vmc_share *sh = scanner(pool);
    struct vmc_space *s = rig_space(pool, PAGES, 1, NULL);
    uint64_t objects = (PAGES + VMCI_REFS_MOST - 1) / VMCI_REFS_MOST;
    struct vmc_share_pack_result pr;

    for (uint64_t at = 0; at < PAGES; at += STEP) {
        for (uint64_t i = at; i < at + STEP; i++)
            rig_fill(s, i, 77);
        rig_sample(s, NULL);
        scan(sh);
    }
    assert_int_equal(pool->objects, objects);
    assert_int_equal(pool->used, 1 + objects);
    rig_check(pool);
    for (unsigned i = 0; i < 5; i++)
        rig_sample(s, NULL);
    assert_int_equal(vmc_share_pack(sh, NULL, &all, 0, &pr), VMC_OK);
    assert_int_equal(pr.packed + pr.deltas, objects);
    rig_fill(s, 5, 78);
    for (uint64_t i = 0; i < PAGES; i += 101)
        rig_expect(s, i, 77);
    rig_expect(s, 5, 78);
    rig_check(pool);
    vmc_space_destroy(s);
    assert_int_equal(pool->objects, 0);
    vmc_share_destroy(sh);
    vmc_pool_destroy(pool);
}

/* A host that starts and ends VMs of ever new owners keeps nothing of those that have gone. */
static void groups_that_have_gone_leave_nothing(void **state)
{
    (void)state;
    struct vmc_pool *pool = rig_pool(&tp, 4096);
    struct vmc_share *sh = scanner(pool);
    struct vmc_space *stays = rig_space(pool, 64, 1, NULL);
    struct vmc_share_stats st;
    uint64_t after_first = 0;

    for (uint64_t i = 0; i < 32; i++)
        rig_fill(stays, i, i / 2 + 1);
    rig_sample(stays, NULL);
    scan(sh);
    for (uint64_t salt = 2; salt < 300; salt++) {
        struct vmc_space *s = rig_space(pool, 64, salt, NULL);
        for (uint64_t i = 0; i < 32; i++)
            rig_fill(s, i, i / 2 + 1);
        rig_sample(s, NULL);
        scan(sh);
        for (uint64_t i = 0; i < 32; i += 2) /* merged, but not with the other group's */
            assert_true(s->map[i] == s->map[i + 1] && s->map[i] != stays->map[i]);
        vmc_share_stats(sh, &st);
        assert_int_equal(st.groups, 2);
        after_first = salt == 2 ? st.meta_bytes : after_first;
        assert_int_equal(st.meta_bytes, after_first);
        vmc_space_destroy(s);
    }
    rig_check(pool);
    vmc_space_destroy(stays);
    vmc_share_destroy(sh);
    vmc_pool_destroy(pool);
}

/* Hints of a pool with more than 16 GiB of pages have another form. */
static void large_pools_find_as_much(void **state)
{
    (void)state;
    enum { PAGES = 5000, VMS = 4 };
    struct vmc_pool_config cfg = {.size = sizeof(cfg), .frames = 32768, .max_pages = 1u << 24};
    struct vmc_pool *pool = NULL;
    struct vmc_space *s[VMS];
    struct vmc_share_stats st;

    assert_int_equal(vmc_pool_create(&tp.pf, &cfg, &pool, NULL), VMC_OK);
    struct vmc_share *sh = scanner(pool);
    for (unsigned v = 0; v < VMS; v++) {
        s[v] = rig_space(pool, PAGES, 1, NULL);
        for (uint64_t i = 0; i < PAGES; i++)
            rig_fill(s[v], i, 1 + (i + v) % PAGES);
        rig_sample(s[v], NULL);
        scan(sh); /* the table grows meanwhile */
    }
    assert_int_equal(sh->group[0]->table.ways, SHARE_WIDE_WAYS);
    vmc_share_stats(sh, &st);
    assert_int_equal(pool->objects, PAGES);
    assert_true(st.merged >
                (VMS - 1) * PAGES * 999ull / 1000); /* a full table may lose a hint or two */
    for (unsigned v = 0; v < VMS; v++)
        for (uint64_t i = 0; i < PAGES; i += 7)
            rig_expect(s[v], i, 1 + (i + v) % PAGES);
    for (unsigned v = 0; v < VMS; v++)
        vmc_space_destroy(s[v]);
    vmc_share_destroy(sh);
    vmc_pool_destroy(pool);
}

/* Noise that compresses a little: coding would help, so that quick and small differ. */
static void letters(unsigned char *p, uint64_t seed)
{
    for (unsigned i = 0; i < VMC_PAGE_SIZE; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        p[i] = i < 2560 ? (unsigned char)('a' + (seed >> 40) % 16) : 0;
    }
}

/* What deltas are read against is stored in the form that is quick to read. */
static void bases_of_deltas_are_quick(void **state)
{
    (void)state;
    struct vmc_pool *pool = rig_pool(&tp, 4096);
    struct vmc_share *sh = scanner(pool);
    struct vmc_space *s = rig_space(pool, 16, 1, NULL);
    struct vmc_share_pack_result pr;
    struct vmc_page_ref r;
    unsigned char page[VMC_PAGE_SIZE];
    unsigned bases = 0, deltas = 0;

    for (uint64_t i = 0; i < 16; i++) {
        assert_int_equal(vmc_space_access(s, i, VMC_ACCESS_WRITE, &r), VMC_OK);
        letters(r.ptr, 99);
        ((unsigned char *)r.ptr)[i * 64] = 'Z';
    }
    for (unsigned i = 0; i < 5; i++)
        rig_sample(s, NULL);
    assert_int_equal(vmc_share_pack(sh, NULL, &all, 0, &pr), VMC_OK);
    letters(page, 99);
    size_t quick = vmci_pack(sh->packer, page, NULL, VMCI_PACK_QUICK, sh->scratch, VMCI_PACK_MAX);
    size_t small = vmci_pack(sh->packer, page, NULL, VMCI_PACK_EITHER, sh->scratch, VMCI_PACK_MAX);
    assert_true(small + small / 4 < quick);
    for (uint64_t i = 0; i < 16; i++) {
        const struct vmci_object *o = vmci_object(pool, vmci_entry_value(s->map[i]));
        deltas += vmci_object_kind(o) == VMCI_O_DELTA;
        if (!vmci_object_is_base(o))
            continue;
        bases++;
        assert_true(vmci_object_bytes(pool, o) + 64u > quick);
    }
    assert_true(bases > 0 && deltas > 8);
    rig_check(pool);
    for (uint64_t i = 0; i < 16; i++) {
        letters(page, 99);
        page[i * 64] = 'Z';
        assert_int_equal(vmc_space_access(s, i, 0, &r), VMC_OK);
        assert_memory_equal(r.ptr, page, sizeof(page));
    }
    vmc_space_destroy(s);
    vmc_share_destroy(sh);
    vmc_pool_destroy(pool);
}

/* An object's number is used again: what a group remembers of it must not lead to another's
 * contents. */
static void numbers_used_again_do_not_join_groups(void **state)
{
    (void)state;
    struct vmc_pool *pool = rig_pool(&tp, 4096);
    struct vmc_share *sh = scanner(pool);
    struct vmc_space *a = rig_space(pool, 64, 1, NULL), *b = rig_space(pool, 64, 2, NULL);
    uint32_t mine;

    for (uint64_t i = 0; i < 2; i++)
        rig_fill(a, i, 77);
    rig_sample(a, NULL);
    scan(sh);
    mine = a->map[0];
    assert_true(vmci_entry_state(mine) == VMCI_E_OBJECT && a->map[1] == mine);
    for (uint64_t i = 0; i < 2; i++)
        rig_fill(a, i, 100 + i); /* and it is gone */
    for (uint64_t i = 0; i < 2; i++)
        rig_fill(b, i, 77);
    rig_sample(a, NULL);
    rig_sample(b, NULL);
    scan(sh);
    assert_true(b->map[0] == mine && b->map[1] == mine); /* the number, for others */
    for (uint64_t i = 2; i < 5; i++)
        rig_fill(a, i, 77);
    rig_sample(a, NULL);
    scan(sh);
    for (uint64_t i = 2; i < 5; i++)
        assert_true(a->map[i] != mine);
    assert_true(a->map[3] == a->map[4]); /* shared all the same, in the group */
    rig_check(pool);
    vmc_space_destroy(a);
    vmc_space_destroy(b);
    vmc_share_destroy(sh);
    vmc_pool_destroy(pool);
}

/* The last frames are for compression, and for whoever has to come to an end without it. */
static void a_vm_that_ends_gets_the_last_frames(void **state)
{
    (void)state;
    struct vmc_pool *pool = rig_pool(&tp, 8192);
    struct vmc_space *a = rig_space(pool, 9000, 1, NULL), *b = rig_space(pool, 9000, 2, NULL);
    struct vmc_page_ref r;
    uint64_t n = 0, left, got = 0;

    while (vmc_space_access(a, n, VMC_ACCESS_WRITE, &r) == VMC_OK)
        n++;
    left = vmc_pool_free(pool);
    assert_true(left > 0);
    assert_int_equal(vmc_space_access(b, 0, VMC_ACCESS_WRITE, &r), VMC_ENOSPC);
    vmc_space_finish(b);
    while (vmc_space_access(b, got, VMC_ACCESS_WRITE, &r) == VMC_OK)
        got++;
    assert_int_equal(got, left);
    assert_int_equal(vmc_pool_free(pool), 0);
    assert_int_equal(vmc_space_access(a, n, VMC_ACCESS_WRITE, &r), VMC_ENOSPC);
    vmc_space_destroy(b);
    assert_int_equal(vmc_pool_free(pool), left);
    assert_int_equal(vmc_space_access(a, n, VMC_ACCESS_WRITE, &r), VMC_ENOSPC);
    rig_check(pool);
    vmc_space_destroy(a);
    vmc_pool_destroy(pool);
}

/* Bytes that nothing compresses, so many that the page's compressed size is about as large. */
static void fill_noise(struct vmc_space *s, uint64_t page, uint64_t seed, unsigned bytes)
{
    struct vmc_page_ref r;
    unsigned char *p;

    assert_int_equal(vmc_space_access(s, page, VMC_ACCESS_WRITE, &r), VMC_OK);
    p = r.ptr;
    for (unsigned i = 0; i < bytes; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        p[i] = (unsigned char)(seed >> 56);
    }
}

/* Whatever the size, the store is little larger than what is in it. */
static void slots_of_any_size_fill_their_slabs(void **state)
{
    (void)state;
    enum { PAGES = 1500 };
    static const unsigned sizes[] = {200, 1400, 2490, 2970, 3000};
    struct vmc_share_pack_result pr;
    struct vmc_pool_stats st;

    for (unsigned k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
        struct vmc_pool *pool = rig_pool(&tp, 4096);
        struct vmc_share *sh = scanner(pool);
        struct vmc_space *s = rig_space(pool, PAGES, 1, NULL);
        for (uint64_t i = 0; i < PAGES; i++)
            fill_noise(s, i, i + 1, sizes[k]);
        for (unsigned i = 0; i < 5; i++)
            rig_sample(s, NULL);
        assert_int_equal(vmc_share_pack(sh, NULL, &all, 0, &pr), VMC_OK);
        assert_int_equal(pr.packed + pr.deltas, PAGES);
        vmc_pool_stats(pool, &st);
        assert_true(st.store_frames * VMC_PAGE_SIZE * 100 <=
                    st.packed_bytes * 103 + PAGES * 38ull * 100 + 8ull * VMC_PAGE_SIZE * 100);
        rig_check(pool);
        vmc_space_destroy(s);
        vmc_pool_stats(pool, &st);
        assert_int_equal(st.store_frames, 0);
        vmc_share_destroy(sh);
        vmc_pool_destroy(pool);
    }
}

/* The index of similar pages has room for those of VMs that come later. */
static void similar_pages_are_found_in_vms_that_come_later(void **state)
{
    (void)state;
    enum { SMALL = 4, LARGE = 40000, ALIKE = 6000 };
    struct vmc_pool *pool = rig_pool(&tp, 16384);
    struct vmc_share *sh = scanner(pool);
    struct vmc_space *a = rig_space(pool, SMALL, 1, NULL), *b;
    struct vmc_share_pack_result pr;
    struct vmc_page_ref r;

    for (uint64_t i = 0; i < SMALL; i++)
        fill_noise(a, i, i + 1, 2048);
    for (unsigned i = 0; i < 5; i++)
        rig_sample(a, NULL);
    assert_int_equal(vmc_share_pack(sh, NULL, &all, 0, &pr), VMC_OK);
    assert_int_equal(pr.packed, SMALL);
    unsigned bits = sh->group[0]->sim.bits;
    assert_int_equal(bits, SIM_BITS_MIN);
    b = rig_space(pool, LARGE, 1, NULL);
    for (uint64_t i = 0; i < 2 * ALIKE; i++) { /* each differs a little from one before */
        fill_noise(b, i, 1000 + i % ALIKE, 2048);
        assert_int_equal(vmc_space_access(b, i, VMC_ACCESS_WRITE, &r), VMC_OK);
        memcpy((unsigned char *)r.ptr + 64, &i, sizeof(i));
    }
    for (unsigned i = 0; i < 5; i++) {
        rig_sample(a, NULL);
        rig_sample(b, NULL);
    }
    do {
        assert_int_equal(vmc_share_pack(sh, NULL, &all, 0, &pr), VMC_OK);
    } while (pr.packed == 0);
    assert_true(sh->group[0]->sim.bits > bits);
    assert_int_equal(pr.packed + pr.deltas, 2 * ALIKE);
    assert_true(pr.deltas > ALIKE / 3); /* 4096 entries would have room for 1000 pages */
    for (uint64_t i = 0; i < 2 * ALIKE; i += 499) {
        uint64_t got;
        assert_int_equal(vmc_space_read(b, i, 64, &got, sizeof(got), 0), VMC_OK);
        assert_int_equal(got, i);
    }
    rig_check(pool);
    vmc_space_destroy(a);
    vmc_space_destroy(b);
    vmc_share_destroy(sh);
    vmc_pool_destroy(pool);
}

/* What an earlier scanner left behind belongs to no group of a later one. */
static void scanners_come_and_go(void **state)
{
    (void)state;
    struct vmc_pool *pool = rig_pool(&tp, 4096);
    struct vmc_share *sh = scanner(pool);
    struct vmc_space *a = rig_space(pool, 64, 1, NULL), *b = rig_space(pool, 64, 2, NULL);
    struct vmc_share_pack_result pr;

    for (uint64_t i = 0; i < 64; i++)
        fill_noise(a, i, 1 + i / 2, 2048);
    rig_sample(a, NULL);
    scan(sh);
    assert_int_equal(pool->objects, 32);
    vmc_share_destroy(sh);
    sh = scanner(pool);
    rig_sample(b, NULL);
    for (unsigned i = 0; i < 5; i++) {
        rig_sample(a, NULL);
        rig_sample(b, NULL);
    }
    assert_int_equal(vmc_share_pack_shared(sh, &all, 0, &pr), VMC_OK); /* no group is there yet */
    assert_int_equal(pr.packed, 32);
    /* The other group is the first now, and its pages are as similar as can be. */
    for (uint64_t i = 0; i < 32; i++)
        fill_noise(b, i, 1 + i, 2048);
    for (unsigned i = 0; i < 5; i++) {
        rig_sample(a, NULL);
        rig_sample(b, NULL);
    }
    scan(sh);
    assert_int_equal(vmc_share_pack(sh, NULL, &all, 0, &pr), VMC_OK);
    for (uint64_t i = 0; i < 32; i++)
        assert_int_equal(vmc_space_state(b, i), VMC_PAGE_PACKED);
    rig_check(pool);
    vmc_space_destroy(a);
    vmc_space_destroy(b);
    vmc_share_destroy(sh);
    vmc_pool_destroy(pool);
}

static void pack_cold(struct vmc_share *sh, struct vmc_space *s, struct vmc_space *other)
{
    struct vmc_share_pack_result pr;

    for (unsigned k = 0; k < 5; k++) {
        rig_sample(s, NULL);
        rig_sample(other, NULL);
    }
    assert_int_equal(vmc_share_pack(sh, s, &all, 0, &pr), VMC_OK);
    assert_int_equal(pr.packed, 8);
}

/* A space that has the place of one of another group, and no memory for a group of its own. */
static void without_a_group_pages_join_none(void **state)
{
    (void)state;
    struct vmc_pool *pool = rig_pool(&tp, 4096);
    struct vmc_share *sh = scanner(pool);
    struct vmc_space *a = rig_space(pool, 64, 1, NULL), *other = rig_space(pool, 64, 1, NULL);
    uint32_t index = a->index;

    for (uint64_t i = 0; i < 8; i++)
        rig_fill(a, i, 10 + i);
    pack_cold(sh, a, other);
    assert_int_equal(vmci_object(pool, vmci_entry_value(a->map[0]))->mark, share_mark(sh, a));
    vmc_space_destroy(a);
    struct vmc_space *b = rig_space(pool, 64, 2, NULL);
    assert_int_equal(b->index, index);
    for (uint64_t i = 0; i < 8; i++)
        rig_fill(b, i, 10 + i);
    tp.fail_after = tp.allocs + 1;
    pack_cold(sh, b, other);
    tp.fail_after = 0;
    for (uint64_t i = 0; i < 8; i++) {
        assert_true(vmci_entry_state(b->map[i]) == VMCI_E_OBJECT);
        assert_int_equal(vmci_object(pool, vmci_entry_value(b->map[i]))->mark, VMCI_NO_MARK);
        rig_expect(b, i, 10 + i);
    }
    rig_check(pool);
    vmc_space_destroy(b);
    vmc_space_destroy(other);
    vmc_share_destroy(sh);
    vmc_pool_destroy(pool);
}

static void some(struct vmc_share *sh, unsigned words, struct vmc_share_result *sum)
{
    struct vmc_share_budget word = {.pages = 64};
    struct vmc_share_result res;

    *sum = (struct vmc_share_result){0};
    for (; words > 0 && !sum->pass_done; words--) {
        assert_int_equal(vmc_share_scan(sh, &word, &res), VMC_OK);
        sum->visited += res.visited;
        sum->merged += res.merged;
        sum->pass_done = res.pass_done;
    }
}

static struct vmc_space *filled(struct vmc_pool *pool, uint64_t pages, uint64_t salt, uint64_t each)
{
    struct vmc_space *s = rig_space(pool, pages, salt, NULL);

    for (uint64_t i = 0; i < pages; i++)
        rig_fill(s, i, 1 + i / each);
    rig_sample(s, NULL);
    return s;
}

/* Spaces are looked at abreast; one of them goes in the middle, and another is where it was. */
static void spaces_come_and_go_during_a_pass(void **state)
{
    (void)state;
    enum { AT_ONCE = 4, A = 3000, B = 700, C = 1000 };
    struct vmc_share_config cfg = {.size = sizeof(cfg), .seed = 7, .order = VMC_SHARE_SEQUENTIAL};
    struct vmc_pool *pool = rig_pool(&tp, 8192);
    struct vmc_share *sh = NULL;
    struct vmc_share_result sum;

    assert_int_equal(vmc_share_create(pool, &cfg, &sh, NULL), VMC_OK);
    struct vmc_space *a = filled(pool, A, 1, 1), *b = filled(pool, B, 1, 1);
    struct vmc_space *c = filled(pool, C, 1, 1);
    some(sh, 3 * AT_ONCE, &sum);
    assert_int_equal(sum.visited, 3 * AT_ONCE * 64);
    assert_int_equal(sum.merged, sum.visited);
    assert_int_equal(pool->objects, AT_ONCE * 64);
    uint32_t index = b->index;
    vmc_space_destroy(b);
    b = filled(pool, B, 2, 2);
    assert_int_equal(b->index, index);
    some(sh, 1000, &sum);
    assert_true(sum.pass_done);
    assert_int_equal(sum.visited, A + B + C - 3 * AT_ONCE * 64);
    assert_int_equal(pool->objects, C + (B - AT_ONCE * 64) / 2);
    some(sh, 1000, &sum);
    assert_true(sum.pass_done);
    assert_int_equal(sum.visited, AT_ONCE * 64);
    assert_int_equal(pool->objects, C + B / 2);
    rig_check(pool);
    for (uint64_t i = 0; i < B; i++)
        rig_expect(b, i, 1 + i / 2);
    for (uint64_t i = 0; i < C; i++)
        rig_expect(c, i, 1 + i);
    vmc_space_destroy(a);
    vmc_space_destroy(b);
    vmc_space_destroy(c);
    some(sh, 1, &sum); /* without any, a pass is over at once */
    assert_true(sum.pass_done);
    vmc_share_destroy(sh);
    vmc_pool_destroy(pool);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(any_number_of_pages_alike_is_found),
        T(groups_that_have_gone_leave_nothing),
        T(large_pools_find_as_much),
        T(bases_of_deltas_are_quick),
        T(numbers_used_again_do_not_join_groups),
        T(a_vm_that_ends_gets_the_last_frames),
        T(slots_of_any_size_fill_their_slabs),
        T(similar_pages_are_found_in_vms_that_come_later),
        T(without_a_group_pages_join_none),
        T(spaces_come_and_go_during_a_pass),
        T(scanners_come_and_go),
    };
#undef T
    return cmocka_run_group_tests(tests, NULL, NULL);
}
