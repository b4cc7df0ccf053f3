/* SPDX-License-Identifier: BSD-2-Clause */
/* Slots whose pages are where a space says: accessors, windows, walks. */
#include "space_rig.h"

#include "mmu/mmu_int.h"

static struct test_platform tp;
static struct vmc_pool *pool;
static struct vmc_mem *mem;
static struct vmc_space *space;

static int setup(void **state)
{
    struct vmc_space_config cfg = {.size = sizeof(cfg), .pages = 2048};

    (void)state;
    test_platform_init(&tp);
    pool = rig_pool(&tp, 4096);
    assert_int_equal(vmc_mem_create(&tp.pf, &mem, NULL), VMC_OK);
    cfg.provider = vmc_mem_provider();
    cfg.provider_ctx = mem;
    assert_int_equal(vmc_space_create(pool, &cfg, &space, NULL), VMC_OK);
    struct vmc_mem_slot s = {
        .size = sizeof(s), .attr = VMC_MEM_RAM, .bytes = 1024 * 4096, .space = space};
    assert_int_equal(vmc_mem_add(mem, &s, NULL), VMC_OK);
    s.gpa = 1ull << 32;
    s.space_page = 1024;
    return vmc_mem_add(mem, &s, NULL);
}

static int teardown(void **state)
{
    (void)state;
    vmc_mem_destroy(mem);
    vmc_space_destroy(space);
    vmc_pool_destroy(pool);
    test_platform_check(&tp);
    return 0;
}

static void slots_with_spaces_are_checked(void **state)
{
    (void)state;
    struct vmc_mem_slot s = {.size = sizeof(s),
                             .attr = VMC_MEM_RAM,
                             .gpa = 1ull << 33,
                             .bytes = 1025 * 4096,
                             .space = space,
                             .space_page = 1024};
    assert_int_equal(vmc_mem_add(mem, &s, NULL), VMC_EINVAL); /* beyond the space */
    s.bytes = 4096;
    s.attr = VMC_MEM_ROM;
    assert_int_equal(vmc_mem_add(mem, &s, NULL), VMC_EINVAL);
    struct vmc_space *other = rig_space(pool, 10, 0, NULL); /* not this map's */
    s = (struct vmc_mem_slot){
        .size = sizeof(s), .attr = VMC_MEM_RAM, .gpa = 1ull << 33, .bytes = 4096, .space = other};
    assert_int_equal(vmc_mem_add(mem, &s, NULL), VMC_EINVAL);
    vmc_space_destroy(other);
}

static void copies_cross_pages_and_reach_the_space(void **state)
{
    (void)state;
    unsigned char in[10000], out[10000];

    for (unsigned i = 0; i < sizeof(in); i++)
        in[i] = (unsigned char)(i * 7);
    assert_int_equal(vmc_mem_write(mem, 0x1ff0, in, sizeof(in)), VMC_OK);
    assert_int_equal(vmc_mem_read(mem, 0x1ff0, out, sizeof(out)), VMC_OK);
    assert_memory_equal(in, out, sizeof(in));
    assert_int_equal(vmc_space_read(space, 2, 0, out, 16, 0), VMC_OK);
    assert_memory_equal(in + 16, out, 16);
    assert_int_equal(vmc_mem_write(mem, (1ull << 32) + 8, in, 8), VMC_OK);
    assert_int_equal(vmc_space_read(space, 1024, 8, out, 8, 0), VMC_OK);
    assert_memory_equal(in, out, 8);
    assert_int_equal(vmc_mem_set(mem, 0x2000, 0x5a, 0x1800), VMC_OK);
    assert_int_equal(vmc_mem_read(mem, 0x37ff, out, 1), VMC_OK);
    assert_int_equal(out[0], 0x5a);
    assert_int_equal(vmc_mem_write(mem, 1024 * 4096 - 4, in, 8), VMC_ERANGE);
}

static void windows_pin_and_count_as_dirty(void **state)
{
    (void)state;
    uint64_t got, map[16] = {0};
    void *hva;

    assert_int_equal(vmc_mem_dirty_start(mem, 0), VMC_OK);
    assert_int_equal(vmc_mem_dirty_take(mem, 0, 0, 1024, map, 16), VMC_OK);
    assert_int_equal(vmc_mem_ref(mem, 0x5800, 0x3000, true, &hva, &got), VMC_OK);
    assert_true(got >= 0x800 && got <= 0x3000);
    memset(hva, 7, got);
    assert_true(vmc_space_drop(space, 5, 1, true) == 0); /* pinned */
    vmc_mem_unref(mem, 0x5800, got, true);
    assert_int_equal(space->pins, 0);
    assert_int_equal(vmc_mem_dirty_take(mem, 0, 0, 1024, map, 16), VMC_OK);
    assert_true((map[0] & (1u << 5)) != 0);
    vmc_mem_dirty_stop(mem, 0);
}

/* The first whole page of such a range would be page 0. */
static void ranges_at_the_end_of_addresses_drop_nothing(void **state)
{
    (void)state;
    const uint64_t end = ~0ull;

    rig_fill(space, 0, 7);
    rig_fill(space, 1, 8);
    assert_int_equal(vmc_mem_drop(mem, end - 100, 50, true), 0);
    assert_int_equal(vmc_mem_drop(mem, end - 100, 101, false), 0);
    assert_int_equal(vmc_mem_drop(mem, end - 5000, 4999, false), 0);
    rig_expect(space, 0, 7);
    rig_expect(space, 1, 8);
}

static void rings_become_contiguous(void **state)
{
    (void)state;
    unsigned char in[4 * 4096], out[4 * 4096];
    void *hva;

    for (uint64_t i = 0; i < 4; i++) { /* as far apart as can be */
        rig_fill(space, 103 - i, i + 1);
        rig_fill(space, 200 + i, 99);
    }
    assert_int_equal(vmc_mem_read(mem, 100 * 4096, in, sizeof(in)), VMC_OK);
    assert_int_equal(vmci_mem_ref_whole(mem, 100 * 4096 + 64, sizeof(in) - 64, true, &hva), VMC_OK);
    assert_memory_equal(hva, in + 64, sizeof(in) - 64);
    memset(hva, 0x77, 100);
    assert_int_equal(vmc_mem_read(mem, 100 * 4096, out, sizeof(out)), VMC_OK);
    memset(in + 64, 0x77, 100);
    assert_memory_equal(in, out, sizeof(in));
    vmc_mem_unref(mem, 100 * 4096 + 64, sizeof(in) - 64, true);
    rig_check(pool);
    assert_int_equal(vmci_mem_ref_whole(mem, 1023 * 4096, 8192, true, &hva), VMC_ERANGE);
    assert_int_equal(space->pins, 0);
}

/* Page tables may be shared or away like any other page. */
static void walks_bring_tables_in(void **state)
{
    (void)state;
    struct vmc_paging pg = {.cr0 = VMC_CR0_PG | 1,
                            .cr4 = VMC_CR4_PAE,
                            .efer = VMC_EFER_LMA | VMC_EFER_LME,
                            .cr3 = 0x10000};
    struct vmc_walk w;

    for (unsigned l = 0; l < 4; l++) {
        uint64_t e = (0x11000ull + l * 0x1000) | 3;
        assert_int_equal(vmc_mem_write(mem, 0x10000 + l * 0x1000, &e, 8), VMC_OK);
    }
    assert_int_equal(vmc_walk_gva(mem, &pg, 0x123, VMC_ACC_WRITE, &w), VMC_OK);
    assert_int_equal(w.gpa, 0x14123);
    uint64_t e;
    assert_int_equal(vmc_mem_read(mem, 0x13000, &e, 8), VMC_OK);
    assert_int_equal(e, 0x14063); /* accessed and dirty */
    assert_int_equal(vmci_walk_gva(mem, &pg, 1ull << 39, 0, &w), VMC_GUEST_FAULT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(slots_with_spaces_are_checked, setup, teardown),
        cmocka_unit_test_setup_teardown(copies_cross_pages_and_reach_the_space, setup, teardown),
        cmocka_unit_test_setup_teardown(windows_pin_and_count_as_dirty, setup, teardown),
        cmocka_unit_test_setup_teardown(ranges_at_the_end_of_addresses_drop_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(rings_become_contiguous, setup, teardown),
        cmocka_unit_test_setup_teardown(walks_bring_tables_in, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
