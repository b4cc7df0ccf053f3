/* SPDX-License-Identifier: BSD-2-Clause */
/* Merging, zero pages, groups, hostile timing, compression and deltas. */
#include "space_rig.h"

#include "sharing/sharing_priv.h"

static struct test_platform tp;
static struct vmc_pool *pool;
static struct vmc_share *sh;
static struct vmc_share_result res;
static const struct vmc_share_budget all = {0};

static int setup(void **state)
{
    struct vmc_share_config cfg = {.size = sizeof(cfg), .seed = 12345};

    (void)state;
    test_platform_init(&tp);
    pool = rig_pool(&tp, 8192);
    return vmc_share_create(pool, &cfg, &sh, NULL);
}

static int teardown(void **state)
{
    (void)state;
    vmc_share_destroy(sh);
    vmc_pool_destroy(pool);
    test_platform_check(&tp);
    return 0;
}

static void scan(void)
{
    assert_int_equal(vmc_share_scan(sh, &all, &res), VMC_OK);
    assert_true(res.pass_done);
}

static void identical_pages_become_one(void **state)
{
    (void)state;
    struct vmc_space *s[4];
    uint64_t before = vmc_pool_free(pool);

    for (unsigned v = 0; v < 4; v++) {
        s[v] = rig_space(pool, 600, 1, NULL);
        for (uint64_t i = 0; i < 500; i++)
            rig_fill(s[v], (i * 7 + v) % 600, i < 400 ? 1000 + i : v * 1000000 + i);
        rig_sample(s[v], NULL);
    }
    scan();
    assert_int_equal(before - vmc_pool_free(pool), 400 + 4 * 100);
    assert_int_equal(res.merged, 4 * 400);
    assert_int_equal(res.freed, 3 * 400);
    for (unsigned v = 0; v < 4; v++)
        for (uint64_t i = 0; i < 500; i++)
            rig_expect(s[v], (i * 7 + v) % 600, i < 400 ? 1000 + i : v * 1000000 + i);
    rig_check(pool);
    /* A second pass has nothing to do. */
    for (unsigned v = 0; v < 4; v++)
        rig_sample(s[v], NULL);
    scan();
    assert_int_equal(res.visited, 0);
    for (unsigned v = 0; v < 4; v++)
        vmc_space_destroy(s[v]);
    assert_int_equal(vmc_pool_free(pool), before);
}

static void writing_a_shared_page_makes_it_private(void **state)
{
    (void)state;
    struct vmc_space *a = rig_space(pool, 10, 1, NULL), *b = rig_space(pool, 10, 1, NULL);
    struct vmc_space_stats st;

    rig_fill(a, 0, 5);
    rig_fill(b, 3, 5);
    rig_fill(b, 4, 5);
    rig_sample(a, NULL);
    rig_sample(b, NULL);
    scan();
    assert_int_equal(vmc_space_state(a, 0), VMC_PAGE_OBJECT);
    vmc_space_stats(b, &st);
    assert_int_equal(st.state[VMC_PAGE_OBJECT], 2);
    rig_fill(b, 3, 6);
    rig_expect(a, 0, 5);
    rig_expect(b, 3, 6);
    rig_expect(b, 4, 5);
    rig_fill(a, 0, 7);
    rig_expect(b, 4, 5);
    rig_fill(b, 4, 8); /* the last: takes the frame over */
    rig_check(pool);
    vmc_space_stats(b, &st);
    assert_int_equal(st.breaks, 2);
    assert_int_equal(pool->objects, 0);
    vmc_space_destroy(a);
    vmc_space_destroy(b);
}

static void zero_pages_give_their_memory_back(void **state)
{
    (void)state;
    struct vmc_space *s = rig_space(pool, 100, 1, NULL);
    uint64_t before = vmc_pool_free(pool);

    for (uint64_t i = 0; i < 100; i++)
        rig_fill(s, i, i % 2 ? i : 0);
    rig_sample(s, NULL);
    scan();
    assert_int_equal(res.zeroed, 50);
    assert_int_equal(before - vmc_pool_free(pool), 50);
    for (uint64_t i = 0; i < 100; i++)
        rig_expect(s, i, i % 2 ? i : 0);
    vmc_space_destroy(s);
}

static void groups_never_share(void **state)
{
    (void)state;
    struct vmc_space *s[6];

    for (unsigned v = 0; v < 6; v++) {
        s[v] = rig_space(pool, 300, v / 2, NULL);
        for (uint64_t i = 0; i < 300; i++)
            rig_fill(s[v], i, 900 + i);
        rig_sample(s[v], NULL);
    }
    scan();
    assert_int_equal(pool->objects, 3 * 300);
    for (unsigned v = 0; v < 6; v += 2)
        for (uint64_t i = 0; i < 300; i++)
            for (unsigned w = 0; w < 6; w++)
                assert_true((w / 2 == v / 2) == (s[v]->map[i] == s[w]->map[i]));
    struct vmc_share_stats st;
    vmc_share_stats(sh, &st);
    assert_int_equal(st.groups, 3);
    /* And do not compress against each other's pages either. */
    struct vmc_share_pack_result pr;
    for (unsigned k = 0; k < 5; k++)
        for (unsigned v = 0; v < 6; v++)
            rig_sample(s[v], NULL);
    assert_int_equal(vmc_share_pack(sh, NULL, &all, 0, &pr), VMC_OK);
    for (uint32_t i = 0; i < pool->obj_count; i++) {
        const struct vmci_object *o = vmci_object(pool, i);
        int mine = -1, theirs = -1;
        if (vmci_object_kind(o) != VMCI_O_DELTA)
            continue;
        for (unsigned v = 0; v < 6; v++)
            for (uint64_t k = 0; k < 300; k++) {
                if (s[v]->map[k] == vmci_entry(VMCI_E_OBJECT, i))
                    mine = (int)v / 2;
                if (s[v]->map[k] == vmci_entry(VMCI_E_OBJECT, vmci_object_base(pool, o)))
                    theirs = (int)v / 2;
            }
        assert_int_equal(mine, theirs);
    }
    rig_check(pool);
    for (unsigned v = 0; v < 6; v++)
        vmc_space_destroy(s[v]);
}

/* Pages that can still be written are not touched; once they cannot, they are found. */
static void pages_being_written_are_left_alone(void **state)
{
    (void)state;
    struct rig_provider ra = {0}, rb = {0};
    struct vmc_space *a = rig_space(pool, 10, 1, &ra), *b = rig_space(pool, 10, 1, &rb);
    struct vmc_page_ref r;

    rig_fill(a, 0, 5);
    rig_fill(b, 0, 5);
    scan(); /* pointers to write are out */
    assert_int_equal(res.merged, 0);
    assert_int_equal(res.busy, 2);
    rig_sample(a, &ra);
    rig_sample(b, NULL); /* revoked, but not obeyed yet */
    scan();
    assert_int_equal(res.merged, 0);
    assert_int_equal(vmc_space_access(b, 1, VMC_ACCESS_WRITE, &r), VMC_EAGAIN);
    rb.settled_to = rb.ticket;
    assert_int_equal(vmc_space_access(b, 1, VMC_ACCESS_WRITE, &r), VMC_OK);
    scan();
    assert_int_equal(res.merged, 2);
    rig_expect(a, 0, 5);
    rig_expect(b, 0, 5);
    rig_check(pool);
    vmc_space_destroy(a);
    vmc_space_destroy(b);
}

/* A reader may keep its pointer to the frame that is given up until it lets go. */
static void frames_wait_for_readers(void **state)
{
    (void)state;
    struct rig_provider ra = {0}, rb = {0};
    struct vmc_space *a = rig_space(pool, 10, 1, &ra), *b = rig_space(pool, 10, 1, &rb);
    struct vmc_page_ref r;
    unsigned char want[VMC_PAGE_SIZE];

    rig_pattern(want, 5);
    rig_fill(a, 0, 5);
    rig_fill(b, 0, 5);
    rig_sample(a, &ra);
    rig_sample(b, &rb);
    assert_int_equal(vmc_space_access(b, 0, 0, &r), VMC_OK);
    scan();
    assert_int_equal(res.merged, 2);
    struct vmc_pool_stats ps;
    vmc_pool_stats(pool, &ps);
    assert_int_equal(ps.limbo_frames, 1);
    for (uint64_t i = 1; i < 10; i++)
        rig_fill(a, i, 100 + i); /* does not get that frame */
    assert_memory_equal(r.ptr, want, VMC_PAGE_SIZE);
    rig_sample(b, &rb);
    vmc_space_poll(b);
    vmc_pool_stats(pool, &ps);
    assert_int_equal(ps.limbo_frames, 0);
    rig_check(pool);
    vmc_space_destroy(a);
    vmc_space_destroy(b);
}

static void pinned_pages_are_not_merged(void **state)
{
    (void)state;
    struct vmc_space *s = rig_space(pool, 10, 1, NULL);
    struct vmc_page_ref r;

    rig_fill(s, 0, 5);
    rig_fill(s, 1, 5);
    assert_int_equal(vmc_space_pin(s, 1, VMC_ACCESS_WRITE, &r), VMC_OK);
    rig_sample(s, NULL);
    scan();
    assert_int_equal(res.merged, 0);
    rig_pattern(r.ptr, 6); /* a device writes late */
    vmc_space_unpin(s, 1, true);
    scan();
    assert_int_equal(res.merged, 0);
    rig_expect(s, 0, 5);
    rig_expect(s, 1, 6);
    vmc_space_destroy(s);
}

static void budgets_interrupt_a_pass(void **state)
{
    (void)state;
    struct vmc_space *s = rig_space(pool, 4000, 1, NULL);
    struct vmc_share_budget b = {.pages = 128};
    unsigned calls = 0;
    uint64_t merged = 0;

    for (uint64_t i = 0; i < 4000; i++)
        rig_fill(s, i, 1 + i % 500);
    rig_sample(s, NULL);
    do {
        assert_int_equal(vmc_share_scan(sh, &b, &res), VMC_OK);
        assert_true(res.visited <= 128 + 64);
        merged += res.merged;
        calls++;
    } while (!res.pass_done);
    assert_true(calls >= 20);
    assert_int_equal(pool->objects, 500);
    assert_int_equal(merged, 4000);
    b = (struct vmc_share_budget){.ns = 1}; /* the clock of this platform stands still */
    assert_int_equal(vmc_share_scan(sh, &b, &res), VMC_OK);
    vmc_space_destroy(s);
}

static void every_order_finds_everything(void **state)
{
    (void)state;
    for (unsigned order = 0; order <= VMC_SHARE_RANDOM; order++) {
        struct vmc_share_config cfg = {.size = sizeof(cfg), .seed = 1, .order = order};
        struct vmc_space *s = rig_space(pool, 3000, 1, NULL);
        vmc_share_destroy(sh);
        sh = NULL;
        assert_int_equal(vmc_share_create(pool, &cfg, &sh, NULL), VMC_OK);
        for (uint64_t i = 0; i < 3000; i++)
            rig_fill(s, i, 1 + i % 300);
        rig_sample(s, NULL);
        unsigned calls = 0;
        do {
            assert_int_equal(vmc_share_scan(sh, &all, &res), VMC_OK);
        } while (!res.pass_done && ++calls < 100);
        assert_int_equal(pool->objects, 300);
        vmc_space_destroy(s);
    }
}

/* Objects say by a number whose they are: two scanners would take each other's for theirs. */
static void a_pool_has_one_scanner(void **state)
{
    (void)state;
    struct vmc_share_config cfg = {.size = sizeof(cfg), .seed = 1};
    struct vmc_share *other = NULL;
    struct vmc_error err;

    assert_int_equal(vmc_share_create(pool, &cfg, &other, &err), VMC_EEXIST);
    assert_null(other);
    vmc_share_destroy(sh);
    sh = NULL;
    tp.fail_after = tp.allocs + 2; /* one that cannot be made is not there */
    assert_int_equal(vmc_share_create(pool, &cfg, &sh, &err), VMC_ENOMEM);
    tp.fail_after = 0;
    assert_int_equal(vmc_share_create(pool, &cfg, &sh, &err), VMC_OK);
}

static void tables_grow_and_keep_what_they_know(void **state)
{
    (void)state;
    struct vmc_space *a = rig_space(pool, 7000, 1, NULL);
    struct vmc_space *b = rig_space(pool, 1000, 1, NULL);

    for (uint64_t i = 0; i < 100; i++)
        rig_fill(a, i, i + 1);
    rig_sample(a, NULL);
    scan();
    for (uint64_t i = 100; i < 6000; i++)
        rig_fill(a, i, i + 1);
    rig_sample(a, NULL);
    scan();
    struct vmc_share_stats st;
    vmc_share_stats(sh, &st);
    assert_int_equal(st.lost_hints, 0);
    assert_int_equal(st.hints, 6000);
    for (uint64_t i = 0; i < 1000; i++)
        rig_fill(b, i, 1 + i * 6);
    rig_sample(b, NULL);
    scan();
    assert_int_equal(pool->objects, 1000);
    rig_check(pool);
    vmc_space_destroy(a);
    vmc_space_destroy(b);
}

/* Changed pages leave hints behind that must not do harm. */
static void stale_hints_are_noticed(void **state)
{
    (void)state;
    struct vmc_space *s = rig_space(pool, 2000, 1, NULL);

    for (unsigned round = 1; round <= 5; round++) {
        for (uint64_t i = 0; i < 2000; i++)
            rig_fill(s, i, round * 10000 + i % 1500);
        rig_sample(s, NULL);
        scan();
        for (uint64_t i = 0; i < 2000; i++)
            rig_expect(s, i, round * 10000 + i % 1500);
        rig_sample(s, NULL);
        rig_check(pool);
    }
    vmc_space_destroy(s);
}

/* ---- compression ----------------------------------------------------------------------------- */

static void let_cool(struct vmc_space *s)
{
    for (unsigned i = 0; i < 5; i++)
        rig_sample(s, NULL);
}

static void cold_pages_are_compressed_and_come_back(void **state)
{
    (void)state;
    struct vmc_space *s = rig_space(pool, 3000, 1, NULL);
    struct vmc_share_pack_result pr;
    struct vmc_pool_stats ps;
    uint64_t before = vmc_pool_free(pool);

    for (uint64_t i = 0; i < 3000; i++)
        rig_fill(s, i, 1 + i % 2000);
    let_cool(s);
    scan();
    let_cool(s);
    assert_int_equal(vmc_share_pack(sh, NULL, &all, 0, &pr), VMC_OK);
    assert_true(pr.pass_done);
    assert_int_equal(pr.packed + pr.deltas, 2000);
    vmc_pool_stats(pool, &ps);
    assert_int_equal(ps.private_frames + ps.object_frames, 0);
    assert_true(before - ps.free < 1400);
    rig_check(pool);
    for (uint64_t i = 0; i < 3000; i++)
        rig_expect(s, i, 1 + i % 2000);
    rig_check(pool);
    vmc_pool_stats(pool, &ps);
    assert_int_equal(ps.packed_objects + ps.delta_objects, 0);
    assert_int_equal(ps.store_frames, 0);
    assert_int_equal(ps.unpack_bad, 0);
    let_cool(s);
    assert_int_equal(vmc_share_pack(sh, NULL, &all, 0, &pr), VMC_OK);
    for (uint64_t i = 0; i < 3000; i += 3)
        rig_fill(s, i, 5000 + i); /* writes need no look at the old contents of their own */
    for (uint64_t i = 0; i < 3000; i++)
        rig_expect(s, i, i % 3 == 0 ? 5000 + i : 1 + i % 2000);
    rig_check(pool);
    vmc_space_destroy(s);
    vmc_pool_stats(pool, &ps);
    assert_int_equal(ps.objects, 0);
    assert_int_equal(vmc_pool_free(pool), before);
}

static void similar_pages_become_deltas(void **state)
{
    (void)state;
    struct vmc_space *s = rig_space(pool, 400, 1, NULL);
    struct vmc_share_pack_result pr;
    struct vmc_page_ref r;

    for (uint64_t i = 0; i < 400; i++) {
        assert_int_equal(vmc_space_access(s, i, VMC_ACCESS_WRITE, &r), VMC_OK);
        rig_pattern(r.ptr, 1 + i % 4); /* four kinds, each page a little different */
        for (unsigned k = 0; k < 4; k++)
            memcpy((char *)r.ptr + k * 1024 + i % 64 * 8, &i, sizeof(i));
    }
    let_cool(s);
    assert_int_equal(vmc_share_pack(sh, s, &all, 0, &pr), VMC_OK);
    assert_true(pr.deltas > 350);
    rig_check(pool);
    for (uint64_t i = 0; i < 400; i++) {
        unsigned char want[VMC_PAGE_SIZE];
        rig_pattern(want, 1 + i % 4);
        for (unsigned k = 0; k < 4; k++)
            memcpy(want + k * 1024 + i % 64 * 8, &i, sizeof(i));
        assert_int_equal(vmc_space_access(s, i, 0, &r), VMC_OK);
        assert_memory_equal(r.ptr, want, VMC_PAGE_SIZE);
    }
    rig_check(pool);
    assert_int_equal(pool->deltas, 0);
    assert_int_equal(pool->objects, 4); /* the pages that the others were compared with */
    vmc_space_destroy(s);
    assert_int_equal(pool->objects, 0);
}

/* 3300 bytes of 64 letters: a quarter less with a code for each, and more than pages may take
 * without. */
static void fill_letters(unsigned char *page, uint64_t differ)
{
    uint32_t r = 1;

    memset(page, 0, VMC_PAGE_SIZE);
    for (unsigned i = 0; i < 3300; i++) {
        r = r * 1664525u + 1013904223u;
        page[i] = (unsigned char)('0' + (r >> 26));
    }
    memcpy(page + 256, &differ, sizeof(differ));
}

static void what_deltas_refer_to_is_quick_to_read(void **state)
{
    (void)state;
    struct vmc_space *s = rig_space(pool, 2, 1, NULL);
    struct vmc_share_pack_result pr;
    unsigned char want[VMC_PAGE_SIZE];
    struct vmc_page_ref r;

    for (uint64_t i = 0; i < 2; i++) {
        assert_int_equal(vmc_space_access(s, i, VMC_ACCESS_WRITE, &r), VMC_OK);
        fill_letters(r.ptr, i + 1);
    }
    let_cool(s);
    assert_int_equal(vmc_share_pack(sh, s, &all, 0, &pr), VMC_OK);
    assert_int_equal(pr.packed, 1);
    assert_int_equal(pr.deltas, 1);
    const struct vmci_object *o = vmci_object(pool, vmci_entry_value(s->map[0]));
    assert_true(vmci_object_is_base(o));
    assert_int_equal(vmci_object_kind(o), VMCI_O_PACKED);
    assert_true(vmci_object_bytes(pool, o) > sh->max_packed); /* the letters as they are */
    for (uint64_t i = 0; i < 2; i++) {
        assert_int_equal(vmc_space_access(s, 1 - i, 0, &r), VMC_OK);
        fill_letters(want, 2 - i);
        assert_memory_equal(r.ptr, want, VMC_PAGE_SIZE);
    }
    rig_check(pool);
    vmc_space_destroy(s);
}

/* A mixture of lines of three kinds, most of them of the first, and a few that are its own. */
static void fill_mixture(unsigned char *page, uint64_t seed)
{
    uint64_t r = seed * 0x9e3779b97f4a7c15ull;

    for (unsigned line = 0; line < VMC_PAGE_SIZE / 64; line++) {
        r = r * 6364136223846793005ull + 1442695040888963407ull;
        unsigned roll = (unsigned)(r >> 33) % 16;
        uint64_t kind = roll < 11 ? seed % 3 : roll < 14 ? (seed / 3) % 3 : roll < 15 ? 3 : r;
        for (unsigned i = 0; i < 8; i++) {
            uint64_t w = (kind * 64 + line) * 0xbf58476d1ce4e5b9ull + i * 0x94d049bb133111ebull;
            w = kind == 3 ? line / 8 : (w ^ w >> 29) & 0x0f0f0f0f0f0f0f0full;
            memcpy(page + line * 64 + i * 8, &w, sizeof(w));
        }
    }
}

/* A base that is read gets a frame again; compressed anew it must not become a delta itself. */
static void what_deltas_refer_to_never_becomes_a_delta(void **state)
{
    enum { PAGES = 400 };
    (void)state;
    struct vmc_space *s = rig_space(pool, PAGES, 1, NULL);
    struct vmc_share_pack_result pr;
    uint64_t seed[PAGES], r = 7, deltas = 0;
    unsigned char want[VMC_PAGE_SIZE];
    struct vmc_page_ref ref;

    for (unsigned i = 0; i < PAGES; i++)
        seed[i] = 0;
    for (unsigned round = 0; round < 30; round++) {
        for (unsigned i = 0; i < PAGES; i++) {
            r = r * 6364136223846793005ull + 1442695040888963407ull;
            unsigned what = (unsigned)(r >> 33) % 16;
            if (seed[i] == 0 || what == 0) {
                seed[i] = r >> 20;
                assert_int_equal(vmc_space_access(s, i, VMC_ACCESS_WRITE, &ref), VMC_OK);
                fill_mixture(ref.ptr, seed[i]);
            } else if (what < 5) {
                assert_int_equal(vmc_space_access(s, i, 0, &ref), VMC_OK);
                fill_mixture(want, seed[i]);
                assert_memory_equal(ref.ptr, want, VMC_PAGE_SIZE);
            }
        }
        let_cool(s);
        assert_int_equal(vmc_share_pack(sh, NULL, &all, 0, &pr), VMC_OK);
        deltas += pr.deltas;
        rig_check(pool);
    }
    assert_true(deltas > PAGES);
    for (unsigned i = 0; i < PAGES; i++) {
        assert_int_equal(vmc_space_access(s, i, 0, &ref), VMC_OK);
        fill_mixture(want, seed[i]);
        assert_memory_equal(ref.ptr, want, VMC_PAGE_SIZE);
    }
    vmc_space_destroy(s);
    assert_int_equal(pool->objects, 0);
}

static void hot_pages_are_not_compressed(void **state)
{
    (void)state;
    struct rig_provider rp = {0};
    struct vmc_space *s = rig_space(pool, 100, 1, &rp);
    struct vmc_share_pack_result pr;

    for (uint64_t i = 0; i < 100; i++)
        rig_fill(s, i, i + 1);
    rig_sample(s, &rp);
    assert_int_equal(vmc_share_pack(sh, s, &all, 0, &pr), VMC_OK);
    assert_int_equal(pr.visited, 0); /* accessed in the last period */
    rig_sample(s, &rp);
    for (uint64_t i = 0; i < 50; i++)
        rig_expect(s, i, i + 1);
    assert_int_equal(vmc_share_pack(sh, s, &all, 0, &pr), VMC_OK);
    assert_int_equal(pr.packed + pr.deltas, 50);
    struct vmc_share_budget b = {.pages = 10};
    rig_sample(s, &rp);
    rig_sample(s, &rp);
    assert_int_equal(vmc_share_pack(sh, s, &b, 3, &pr), VMC_OK);
    assert_int_equal(pr.freed, 3);
    vmc_space_destroy(s);
}

static void compaction_frees_frames(void **state)
{
    (void)state;
    struct vmc_space *s = rig_space(pool, 4000, 1, NULL);
    struct vmc_share_pack_result pr;
    struct vmc_pool_stats before, after;

    for (uint64_t i = 0; i < 4000; i++)
        rig_fill(s, i, i + 1);
    let_cool(s);
    assert_int_equal(vmc_share_pack(sh, s, &all, 0, &pr), VMC_OK);
    for (uint64_t i = 0; i < 4000; i++)
        if (i % 8 != 0)
            assert_int_equal(vmc_space_drop(s, i, 1, true), 1);
    vmc_pool_stats(pool, &before);
    assert_true(vmc_pool_compact(pool, 100) > 0);
    while (vmc_pool_compact(pool, 1000) > 0)
        ;
    vmc_pool_stats(pool, &after);
    assert_true(after.store_frames * 2 < before.store_frames);
    assert_int_equal(after.packed_bytes, before.packed_bytes);
    rig_check(pool);
    for (uint64_t i = 0; i < 4000; i += 8)
        rig_expect(s, i, i + 1);
    assert_int_equal(pool->unpack_bad, 0);
    vmc_space_destroy(s);
}

/* A broken store must not pass for good memory. */
/* Guests took every frame that they can have: there is room to compress what is cold all the same.
 */
static void a_full_pool_can_still_compress(void **state)
{
    (void)state;
    struct vmc_space *s = rig_space(pool, 9000, 1, NULL);
    struct vmc_share_pack_result r;
    struct vmc_page_ref ref;
    uint64_t n = 0;

    while (vmc_space_access(s, n, VMC_ACCESS_WRITE, &ref) == VMC_OK)
        rig_pattern(ref.ptr, ++n);
    assert_int_equal(vmc_space_access(s, n, VMC_ACCESS_WRITE, &ref), VMC_ENOSPC);
    assert_true(vmc_pool_free(pool) > 0 && vmc_pool_free(pool) < 100);
    let_cool(s);
    assert_int_equal(vmc_share_pack(sh, s, &all, 1000, &r), VMC_OK);
    assert_true(r.freed >= 1000);
    assert_true(vmc_pool_free(pool) > 300);
    rig_fill(s, n, n + 1);
    for (uint64_t i = 0; i < 100; i++)
        rig_expect(s, i * 80, i * 80 + 1);
    rig_check(pool);
    vmc_space_destroy(s);
}

static void shared_contents_are_compressed_when_nobody_touches_them(void **state)
{
    (void)state;
    struct vmc_space *a = rig_space(pool, 400, 1, NULL), *b = rig_space(pool, 400, 1, NULL);
    struct vmc_share_pack_result r;
    struct vmc_pool_stats ps;

    for (uint64_t i = 0; i < 300; i++) {
        rig_fill(a, i, i + 1);
        rig_fill(b, i, i + 1);
    }
    rig_fill(a, 350, 12345); /* private, and as cold */
    let_cool(a);
    let_cool(b);
    scan();
    assert_int_equal(vmc_share_pack_shared(sh, &all, 0, &r), VMC_OK);
    assert_true(r.pass_done && r.freed == 0); /* they were made just now */
    for (unsigned i = 0; i < 4; i++) {
        rig_sample(a, NULL);
        rig_sample(b, NULL);
    }
    assert_int_equal(vmc_share_pack_shared(sh, &all, 100, &r), VMC_OK);
    assert_int_equal(r.freed, 100);
    assert_int_equal(vmc_share_pack_shared(sh, &all, 0, &r), VMC_OK);
    assert_true(r.pass_done);
    vmc_pool_stats(pool, &ps);
    assert_int_equal(ps.packed_objects + ps.delta_objects, 300);
    assert_int_equal(vmc_space_state(a, 350), VMC_PAGE_PRIVATE);
    for (uint64_t i = 0; i < 300; i++) {
        rig_expect(a, i, i + 1);
        rig_expect(b, i, i + 1);
    }
    rig_check(pool);
    vmc_space_destroy(a);
    vmc_space_destroy(b);
}

/* Overwrite what a page was compressed to. */
static void damage(const struct vmc_space *s, uint64_t page)
{
    const struct vmci_object *o = vmci_object(pool, vmci_entry_value(s->map[page]));
    const unsigned char bad[VMC_PAGE_SIZE] = {0xff, 0xff, 0xff, 0xff};
    const struct vmci_slab *sl = &pool->store.chunk[0][o->where >> VMCI_SLOT_BITS];
    uint32_t at = (o->where & 1023) * sl->cls * VMCI_CLASS_STEP + VMCI_SLOT_HEAD +
                  (vmci_object_kind(o) == VMCI_O_DELTA ? 4 : 0);

    memcpy(vmci_frame(pool, sl->frame[at / 4096]) + at % 4096, bad,
           VMCI_MIN(4096 - at % 4096, (uint32_t)vmci_object_bytes(pool, o) / 2));
}

static void damage_in_the_store_is_reported(void **state)
{
    (void)state;
    struct vmc_space *s = rig_space(pool, 64, 1, NULL), *other = rig_space(pool, 64, 1, NULL);
    struct vmc_share_pack_result pr;
    struct vmc_space_stats st;
    struct vmc_page_ref r;
    unsigned bad = 0;

    for (uint64_t i = 0; i < 64; i++) {
        rig_fill(s, i, i * 977 + 1);
        rig_fill(other, i, i < 8 ? i * 977 + 1 : i * 977 + 2); /* the first are the same */
    }
    let_cool(s);
    let_cool(other);
    scan();
    for (unsigned i = 0; i < 4; i++) { /* and what they share becomes cold */
        rig_sample(s, NULL);
        rig_sample(other, NULL);
    }
    assert_int_equal(vmc_share_pack(sh, NULL, &all, 0, &pr), VMC_OK);
    for (uint64_t i = 0; i < 64; i++)
        damage(s, i);
    tp.bugs = 0;
    for (uint64_t i = 0; i < 64; i++)
        bad += vmc_space_access(s, i, 0, &r) == VMC_EINTERNAL;
    assert_true(bad > 32);
    assert_in_range(tp.bugs, 1, bad); /* less and less often */
    vmc_space_stats(s, &st);
    assert_int_equal(st.unpack_lost, bad);
    assert_in_range(st.lost_page, 0, 63);
    /* That VM ends, and comes to where it stops. The other one has lost what they shared only. */
    vmc_space_abandon(s);
    for (uint64_t i = 0; i < 64; i++)
        assert_int_equal(vmc_space_access(s, i, i % 2 == 0 ? VMC_ACCESS_WRITE : 0, &r), VMC_OK);
    assert_int_equal(vmc_space_access(other, 0, VMC_ACCESS_WRITE, &r), VMC_EINTERNAL);
    vmc_space_stats(other, &st);
    assert_int_equal(st.unpack_lost, 1);
    assert_int_equal(st.lost_page, 0);
    rig_check(pool);
    tp.bugs = 0;
    vmc_space_destroy(s);
    vmc_space_destroy(other);
}

/* ---- anything at any time -------------------------------------------------------------------- */

static uint64_t seed = 1;
static uint64_t rnd(uint64_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % below;
}

static void random_histories_lose_nothing(void **state)
{
    (void)state;
    enum { V = 4, N = 256 };
    static uint64_t want[V][N];
    struct rig_provider rp[V] = {{0}};
    struct vmc_space *s[V];
    struct vmc_share_pack_result pr;
    struct vmc_page_ref r;

    memset(want, 0, sizeof(want));
    vmc_pool_set_budget(pool, 700);
    for (unsigned v = 0; v < V; v++)
        s[v] = rig_space(pool, N, v / 3, &rp[v]);
    for (unsigned step = 0; step < 60000; step++) {
        unsigned v = (unsigned)rnd(V);
        uint64_t page = rnd(N), what = rnd(100), n;
        struct vmc_share_budget b = {.pages = 1 + rnd(200)};
        if (what < 45) {
            uint64_t next = rnd(5) == 0 ? 0 : 1 + rnd(60);
            int rc = vmc_space_access(s[v], page, VMC_ACCESS_WRITE, &r);
            if (rc == VMC_EAGAIN) {
                rp[v].settled_to = rp[v].ticket;
                rc = vmc_space_access(s[v], page, VMC_ACCESS_WRITE, &r);
            }
            if (rc == VMC_OK) {
                rig_pattern(r.ptr, next);
                want[v][page] = next;
            } else {
                assert_int_equal(rc, VMC_ENOSPC);
            }
        } else if (what < 70) {
            unsigned char buf[VMC_PAGE_SIZE];
            int rc = vmc_space_access(s[v], page, 0, &r);
            rig_pattern(buf, want[v][page]);
            if (rc == VMC_OK)
                assert_memory_equal(r.ptr, buf, VMC_PAGE_SIZE);
            else
                assert_true(rc == VMC_ENOSPC || rc == VMC_EAGAIN);
        } else if (what < 80) {
            assert_int_equal(vmc_share_scan(sh, &b, &res), VMC_OK);
        } else if (what < 86) {
            assert_int_equal(vmc_share_pack(sh, rnd(2) ? s[v] : NULL, &b, rnd(20), &pr), VMC_OK);
        } else if (what < 93) {
            int rc = vmc_space_sample(s[v], &n);
            assert_true(rc == VMC_OK || rc == VMC_EAGAIN);
            if (rnd(2))
                rp[v].settled_to = rp[v].ticket;
        } else if (what < 96) {
            uint64_t count = 1 + rnd(8);
            if (page + count > N)
                continue;
            rp[v].settled_to = rp[v].ticket + 1; /* obeys at once */
            if (vmc_space_drop(s[v], page, count, rnd(2)) == count)
                memset(&want[v][page], 0, count * sizeof(want[0][0]));
            else
                for (uint64_t i = page; i < page + count; i++)
                    if (vmc_space_state(s[v], i) == VMC_PAGE_ZERO ||
                        vmc_space_state(s[v], i) == VMC_PAGE_BALLOON)
                        want[v][i] = 0;
            rp[v].settled_to = rp[v].ticket;
        } else if (what < 97) {
            (void)vmc_pool_compact(pool, rnd(500));
        } else if (what < 98) {
            vmc_space_poll(s[v]);
        } else if (what == 99 && rnd(50) == 0) {
            vmc_space_destroy(s[v]);
            rp[v] = (struct rig_provider){0};
            s[v] = rig_space(pool, N, v / 3, &rp[v]);
            memset(want[v], 0, sizeof(want[v]));
        }
        if (step % 5000 == 0)
            rig_check(pool);
    }
    for (unsigned v = 0; v < V; v++) {
        rp[v].settled_to = rp[v].ticket;
        for (uint64_t i = 0; i < N; i++)
            if (vmc_space_access(s[v], i, 0, &r) == VMC_OK)
                rig_expect(s[v], i, want[v][i]);
    }
    assert_int_equal(pool->unpack_bad, 0);
    rig_check(pool);
    for (unsigned v = 0; v < V; v++)
        vmc_space_destroy(s[v]);
}

static void rates_follow_the_yield(void **state)
{
    (void)state;
    struct vmc_share_result much = {.visited = 1000, .merged = 500}, none = {.visited = 1000};
    uint64_t b = 1000;

    assert_true(vmc_share_next_budget(sh, b, &much) > b);
    assert_true(vmc_share_next_budget(sh, b, &none) < b);
    for (unsigned i = 0; i < 100; i++)
        b = vmc_share_next_budget(sh, b, &none);
    assert_true(b > 0 && b < 1000);
    for (unsigned i = 0; i < 100; i++)
        b = vmc_share_next_budget(sh, b, &much);
    assert_true(b < 1ull << 40);
}

static void failing_allocations_cost_only_hints(void **state)
{
    (void)state;
    struct vmc_space *s = rig_space(pool, 2000, 1, NULL);

    for (uint64_t i = 0; i < 2000; i++)
        rig_fill(s, i, 1 + i % 100);
    rig_sample(s, NULL);
    tp.fail_after = tp.allocs + 1;
    scan();
    tp.fail_after = 0;
    for (uint64_t i = 0; i < 2000; i++)
        rig_expect(s, i, 1 + i % 100);
    rig_check(pool);
    vmc_space_destroy(s);
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(identical_pages_become_one),
        T(writing_a_shared_page_makes_it_private),
        T(zero_pages_give_their_memory_back),
        T(groups_never_share),
        T(pages_being_written_are_left_alone),
        T(frames_wait_for_readers),
        T(pinned_pages_are_not_merged),
        T(budgets_interrupt_a_pass),
        T(every_order_finds_everything), T(a_pool_has_one_scanner),
        T(tables_grow_and_keep_what_they_know),
        T(stale_hints_are_noticed),
        T(cold_pages_are_compressed_and_come_back),
        T(similar_pages_become_deltas),
        T(what_deltas_refer_to_is_quick_to_read),
        T(what_deltas_refer_to_never_becomes_a_delta),
        T(hot_pages_are_not_compressed),
        T(compaction_frees_frames),
        T(a_full_pool_can_still_compress),
        T(shared_contents_are_compressed_when_nobody_touches_them),
        T(damage_in_the_store_is_reported),
        T(random_histories_lose_nothing),
        T(rates_follow_the_yield),
        T(failing_allocations_cost_only_hints),
    };
#undef T
    if (argc > 1)
        seed = strtoull(argv[1], NULL, 0) | 1;
    print_message("seed %llu\n", (unsigned long long)seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
