/* SPDX-License-Identifier: BSD-2-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include "mmu/mmu_int.h"
#include "test_platform.h"

#include <cmocka.h>

static struct test_platform tp;
static struct vmc_mem *mem;

static int setup(void **state)
{
    (void)state;
    test_platform_init(&tp);
    return vmc_mem_create(&tp.pf, &mem, NULL);
}

static int teardown(void **state)
{
    (void)state;
    vmc_mem_destroy(mem);
    test_platform_check(&tp);
    return 0;
}

static int add(uint64_t gpa, uint64_t bytes, uint32_t attr)
{
    struct vmc_mem_slot s = {.size = sizeof(s), .attr = attr, .gpa = gpa, .bytes = bytes};
    return vmc_mem_add(mem, &s, NULL);
}

static void slots_are_checked(void **state)
{
    (void)state;
    assert_int_equal(add(0x10000, 0x10000, VMC_MEM_RAM), VMC_OK);
    assert_int_equal(add(0x1f000, 0x2000, VMC_MEM_RAM), VMC_EEXIST);
    assert_int_equal(add(0xf000, 0x1001, VMC_MEM_RAM), VMC_EINVAL);
    assert_int_equal(add(0x100, 0x1000, VMC_MEM_RAM), VMC_EINVAL);
    assert_int_equal(add(0, 0, VMC_MEM_RAM), VMC_EINVAL);
    assert_int_equal(add(0, 0x1000, VMC_MEM_RAM | VMC_MEM_ROM), VMC_EINVAL);
    assert_int_equal(add(1ull << VMC_GPA_BITS, 0x1000, VMC_MEM_RAM), VMC_ERANGE);
    assert_int_equal(add(0xfffffffffffff000ull, 0x1000, VMC_MEM_RAM), VMC_ERANGE);
    assert_int_equal(vmc_mem_remove(mem, 0x11000), VMC_ENOENT);
    assert_int_equal(vmc_mem_remove(mem, 0x10000), VMC_OK);
    assert_int_equal(add(0x1f000, 0x2000, VMC_MEM_RAM), VMC_OK);
}

static void slots_are_sorted_and_limited(void **state)
{
    (void)state;
    for (unsigned i = 0; i < VMC_MEM_MAX_SLOTS; i++)
        assert_int_equal(add(((i * 7u) % VMC_MEM_MAX_SLOTS) * 0x10000ull, 0x1000, VMC_MEM_RAM),
                         VMC_OK);
    assert_int_equal(add(0x9000000, 0x1000, VMC_MEM_RAM), VMC_ELIMIT);
    struct vmc_mem_slot s;
    uint64_t last = 0;
    for (unsigned i = 0; vmc_mem_slot_at(mem, i, &s) == VMC_OK; i++) {
        assert_true(i == 0 || s.gpa > last);
        last = s.gpa;
    }
}

static void accesses_cross_slots_and_refuse_holes(void **state)
{
    (void)state;
    assert_int_equal(add(0, 0x2000, VMC_MEM_RAM), VMC_OK);
    assert_int_equal(add(0x2000, 0x1000, VMC_MEM_RAM), VMC_OK);
    char in[64];
    char out[64] = {0};
    memset(in, 'x', sizeof(in));
    assert_int_equal(vmc_mem_write(mem, 0x1fe0, in, sizeof(in)), VMC_OK);
    assert_int_equal(vmc_mem_read(mem, 0x1fe0, out, sizeof(out)), VMC_OK);
    assert_memory_equal(in, out, sizeof(in));
    /* A write that does not fit changes nothing. */
    memset(in, 'y', sizeof(in));
    assert_int_equal(vmc_mem_write(mem, 0x2fe0, in, sizeof(in)), VMC_ERANGE);
    assert_int_equal(vmc_mem_read(mem, 0x2fe0, out, 32), VMC_OK);
    assert_int_equal(out[0], 0);
    assert_int_equal(vmc_mem_read(mem, ~0ull - 3, out, 8), VMC_ERANGE);
    assert_int_equal(vmc_mem_set(mem, 0x2ff0, 0x55, 0x10), VMC_OK);
    assert_int_equal(vmc_mem_set(mem, 0x2ff0, 0x55, 0x11), VMC_ERANGE);
}

static void rom_is_loaded_but_not_written(void **state)
{
    (void)state;
    uint32_t v = 0x12345678;
    assert_int_equal(add(0xf0000, 0x10000, VMC_MEM_ROM), VMC_OK);
    assert_int_equal(vmc_mem_write(mem, 0xf0000, &v, 4), VMC_ERANGE);
    assert_int_equal(vmc_mem_load(mem, 0xf0000, &v, 4), VMC_OK);
    v = 0;
    assert_int_equal(vmc_mem_read(mem, 0xf0000, &v, 4), VMC_OK);
    assert_int_equal(v, 0x12345678);
    void *hva;
    uint64_t got;
    assert_int_equal(vmc_mem_ref(mem, 0xf0000, 16, true, &hva, &got), VMC_ERANGE);
    assert_int_equal(vmc_mem_ref(mem, 0xffff0, 64, false, &hva, &got), VMC_OK);
    assert_int_equal(got, 16);
}

static void dirty_log_counts_every_writer(void **state)
{
    (void)state;
    uint64_t map[2];
    assert_int_equal(add(0, 100 * 0x1000, VMC_MEM_RAM), VMC_OK);
    assert_int_equal(vmc_mem_dirty_take(mem, 0, 0, 100, map, 2), VMC_ESTATE);
    assert_int_equal(vmc_mem_dirty_start(mem, 0), VMC_OK);
    assert_int_equal(vmc_mem_dirty_start(mem, 0), VMC_EBUSY);
    assert_int_equal(vmc_mem_dirty_start(mem, 1), VMC_OK);
    assert_int_equal(vmc_mem_dirty_take(mem, 0, 0, 100, map, 2), VMC_OK);
    assert_true(map[0] == ~0ull && map[1] == (1ull << 36) - 1);
    assert_int_equal(vmc_mem_dirty_take(mem, 0, 0, 100, map, 2), VMC_OK);
    assert_true(map[0] == 0 && map[1] == 0);

    char b[0x1000] = {0};
    assert_int_equal(vmc_mem_write(mem, 0x1ffe, b, 4), VMC_OK); /* pages 1, 2 */
    assert_int_equal(vmc_mem_load(mem, 70 * 0x1000, b, 1), VMC_OK);
    struct vmci_page pg;
    assert_int_equal(vmci_mem_resolve(mem, 5 * 0x1000 + 7, true, &pg), VMC_OK);
    assert_int_equal(vmci_mem_resolve(mem, 6 * 0x1000, false, &pg), VMC_OK);
    void *hva;
    uint64_t got;
    assert_int_equal(vmc_mem_ref(mem, 9 * 0x1000, 0x1001, true, &hva, &got), VMC_OK);
    assert_int_equal(vmc_mem_dirty_take(mem, 0, 0, 100, map, 2), VMC_OK);
    assert_true(map[0] == (0x6 | 1 << 5 | 3 << 9));
    assert_true(map[1] == 1 << 6);
    vmc_mem_unref(mem, 9 * 0x1000, 0x1001, true);
    assert_int_equal(vmc_mem_dirty_take(mem, 0, 0, 64, map, 1), VMC_OK);
    assert_true(map[0] == 3 << 9);
    /* Bits that were taken can be put back; the other client has lost nothing. */
    assert_int_equal(vmc_mem_dirty_merge(mem, 0, 0, 64, map, 1), VMC_OK);
    assert_int_equal(vmc_mem_dirty_take(mem, 0, 0, 64, map, 1), VMC_OK);
    assert_true(map[0] == 3 << 9);
    assert_int_equal(vmc_mem_dirty_take(mem, 1, 0, 64, map, 1), VMC_OK);
    assert_true(map[0] == ~0ull);
    /* Ranges are checked. */
    assert_int_equal(vmc_mem_dirty_take(mem, 0, 0, 101, map, 2), VMC_ERANGE);
    assert_int_equal(vmc_mem_dirty_take(mem, 0, 0x1000, 64, map, 2), VMC_ERANGE);
    assert_int_equal(vmc_mem_dirty_take(mem, 0, 0, 100, map, 1), VMC_ERANGE);
    vmc_mem_dirty_stop(mem, 0);
    vmc_mem_dirty_stop(mem, 1);
}

/* Which of a log's bitmaps a device may be marking at this moment, nobody knows. */
static void a_log_ends_while_a_device_marks(void **state)
{
    (void)state;
    uint64_t map[1];
    uint32_t v = 1;
    assert_int_equal(add(0, 64 * 0x1000, VMC_MEM_RAM), VMC_OK);
    assert_int_equal(vmc_mem_dirty_start(mem, 0), VMC_OK);
    uint64_t live = tp.live;
    vmc_mem_dirty_stop(mem, 0);
    assert_int_equal(tp.live, live);
    assert_int_equal(vmc_mem_dirty_take(mem, 0, 0, 64, map, 1), VMC_ESTATE);
    assert_int_equal(vmc_mem_dirty_merge(mem, 0, 0, 64, map, 1), VMC_ESTATE);
    /* The next log begins with every page again, and takes no more memory. */
    assert_int_equal(vmc_mem_dirty_start(mem, 0), VMC_OK);
    assert_int_equal(tp.live, live);
    assert_int_equal(vmc_mem_dirty_take(mem, 0, 0, 64, map, 1), VMC_OK);
    assert_true(map[0] == ~0ull);
    /* Nobody marks for a client that has stopped. */
    assert_int_equal(vmc_mem_dirty_start(mem, 1), VMC_OK);
    vmc_mem_dirty_stop(mem, 0);
    assert_int_equal(vmc_mem_write(mem, 0x3000, &v, 4), VMC_OK);
    assert_int_equal(mem->slot[0].dirty[0][0], 0);
    vmc_mem_dirty_stop(mem, 1);
}

static uint64_t code_gpa, code_bytes, flushes;

static void on_code(void *ctx, uint64_t gpa, uint64_t bytes)
{
    (void)ctx;
    code_gpa = gpa;
    code_bytes += bytes;
}

static void on_flush(void *ctx, uint64_t gpa, uint64_t bytes)
{
    (void)ctx;
    (void)gpa;
    (void)bytes;
    flushes++;
}

static void writes_to_code_pages_are_reported(void **state)
{
    (void)state;
    struct vmci_mem_listener l = {.code_write = on_code, .flush = on_flush};
    struct vmci_page pg;
    uint32_t v = 0;
    code_gpa = code_bytes = flushes = 0;
    assert_int_equal(add(0, 0x4000, VMC_MEM_RAM), VMC_OK);
    vmci_mem_listen(mem, &l);
    assert_int_equal(vmc_mem_write(mem, 0x1ffe, &v, 4), VMC_OK);
    assert_int_equal(code_bytes, 0);
    assert_int_equal(vmci_mem_resolve(mem, 0x2000, false, &pg), VMC_OK);
    *pg.flags |= VMCI_PG_CODE;
    assert_int_equal(vmc_mem_write(mem, 0x1ffe, &v, 4), VMC_OK);
    assert_int_equal(code_gpa, 0x2000);
    assert_int_equal(code_bytes, 2);
    assert_int_equal(vmc_mem_dirty_start(mem, 0), VMC_OK);
    assert_true(flushes > 0);
    vmc_mem_dirty_stop(mem, 0);
    vmci_mem_unlisten(mem, &l);
}

static void failed_allocations_leak_nothing(void **state)
{
    (void)state;
    for (uint64_t n = 1; n < 6; n++) {
        uint64_t live = tp.live;
        tp.fail_after = tp.allocs + n;
        int rc = add(0x100000 * n, 0x3000, VMC_MEM_RAM);
        tp.fail_after = 0;
        if (rc == VMC_OK)
            break;
        assert_int_equal(rc, VMC_ENOMEM);
        assert_int_equal(tp.live, live);
    }
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(slots_are_checked),
        T(slots_are_sorted_and_limited),
        T(accesses_cross_slots_and_refuse_holes),
        T(rom_is_loaded_but_not_written),
        T(dirty_log_counts_every_writer),
        T(a_log_ends_while_a_device_marks),
        T(writes_to_code_pages_are_reported),
        T(failed_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
