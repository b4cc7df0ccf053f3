/* SPDX-License-Identifier: BSD-2-Clause */
/* Compression, differences and hashes of pages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "pack/pack_priv.h"
#include "test_platform.h"

#include <cmocka.h>

static struct test_platform tp;
static struct vmci_packer *k;
static struct vmci_unpacker *u;
static uint64_t seed = 88172645463325252ull;

static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

static void fill(unsigned char *p, unsigned kinds)
{
    for (unsigned i = 0; i < VMC_PAGE_SIZE; i++)
        p[i] = (unsigned char)(kinds == 0 ? rnd() >> 20 : rnd() % kinds);
}

static int setup(void **state)
{
    (void)state;
    test_platform_init(&tp);
    return vmci_packer_create(&tp.pf, 1, &k, NULL) != 0 ||
           vmci_unpacker_create(&tp.pf, &u, NULL) != 0;
}

static int teardown(void **state)
{
    (void)state;
    vmci_packer_destroy(k);
    vmci_unpacker_destroy(u);
    test_platform_check(&tp);
    return 0;
}

static void pages_come_back(void **state)
{
    (void)state;
    static unsigned char page[VMC_PAGE_SIZE], back[VMC_PAGE_SIZE], buf[VMCI_PACK_MAX];
    for (int level = -7; level <= 19; level++) {
        struct vmci_packer *p = NULL;
        if (level == 0) {
            assert_int_equal(vmci_packer_create(&tp.pf, 0, &p, NULL), VMC_EINVAL);
            continue;
        }
        assert_int_equal(vmci_packer_create(&tp.pf, level, &p, NULL), VMC_OK);
        for (unsigned kinds = 1; kinds < 64; kinds += 7) {
            fill(page, kinds);
            memcpy(page + 2048, page, 2048); /* fast levels do without Huffman codes */
            size_t n = vmci_pack(p, page, NULL, VMCI_PACK_EITHER, buf, sizeof(buf));
            assert_true(n > 0 && n < VMC_PAGE_SIZE);
            assert_int_equal(vmci_unpack(u, buf, n, NULL, back), VMC_OK);
            assert_memory_equal(page, back, sizeof(page));
        }
        vmci_packer_destroy(p);
    }
    uint64_t allocs = tp.allocs;
    fill(page, 5);
    assert_true(vmci_pack(k, page, NULL, VMCI_PACK_EITHER, buf, sizeof(buf)) > 0);
    assert_int_equal(tp.allocs, allocs);
}

/* Coding is left out where it gains little, and only there, unless quick reading is asked for. */
static void coding_has_to_be_worth_it(void **state)
{
    (void)state;
    static unsigned char page[VMC_PAGE_SIZE], back[VMC_PAGE_SIZE], buf[VMCI_PACK_MAX];
    for (unsigned kinds = 8; kinds <= 250; kinds += 22) {
        fill(page, kinds);
        memset(page + 2560, 0, sizeof(page) - 2560);
        size_t quick = vmci_pack(k, page, NULL, VMCI_PACK_QUICK, buf, sizeof(buf));
        assert_true(quick > 0);
        assert_int_equal(vmci_unpack(u, buf, quick, NULL, back), VMC_OK);
        assert_memory_equal(page, back, sizeof(page));
        size_t n = vmci_pack(k, page, NULL, VMCI_PACK_EITHER, buf, sizeof(buf));
        assert_true(n == quick || n + n / 8 < quick);
        assert_true(kinds > 8 || n < quick);
        assert_true(kinds < 200 || n == quick);
        assert_int_equal(vmci_unpack(u, buf, n, NULL, back), VMC_OK);
        assert_memory_equal(page, back, sizeof(page));
    }
    /* The quick form does not fit: the small one it is. */
    fill(page, 120);
    size_t n = vmci_pack(k, page, NULL, VMCI_PACK_EITHER, buf, 3900);
    assert_true(n > 0);
    assert_int_equal(vmci_unpack(u, buf, n, NULL, back), VMC_OK);
    assert_memory_equal(page, back, sizeof(page));
}

static void random_pages_do_not_fit(void **state)
{
    (void)state;
    static unsigned char page[VMC_PAGE_SIZE], buf[VMCI_PACK_MAX];
    fill(page, 0);
    assert_int_equal(vmci_pack(k, page, NULL, VMCI_PACK_EITHER, buf, 3072), 0);
    fill(page, 4); /* and the next one is not affected */
    assert_true(vmci_pack(k, page, NULL, VMCI_PACK_EITHER, buf, 3072) > 0);
}

static void differences_are_small(void **state)
{
    (void)state;
    static unsigned char ref[VMC_PAGE_SIZE], page[VMC_PAGE_SIZE], back[VMC_PAGE_SIZE];
    static unsigned char buf[VMCI_PACK_MAX];
    for (int level = -3; level <= 3; level++) {
        struct vmci_packer *p = NULL;
        if (level == 0)
            continue;
        assert_int_equal(vmci_packer_create(&tp.pf, level, &p, NULL), VMC_OK);
        fill(ref, 0);
        memcpy(ref, "\x37\xa4\x30\xec", 4); /* a guest may write what looks like a dictionary */
        memcpy(page, ref, sizeof(page));
        for (unsigned i = 0; i < 8; i++)
            page[rnd() % VMC_PAGE_SIZE] ^= 0x55;
        size_t n = vmci_pack(p, page, ref, VMCI_PACK_EITHER, buf, sizeof(buf));
        assert_true(n > 0 && n < 400);
        assert_int_equal(vmci_unpack(u, buf, n, ref, back), VMC_OK);
        assert_memory_equal(page, back, sizeof(page));
        /* The reference does not stick to the next page. */
        fill(page, 3);
        n = vmci_pack(p, page, NULL, VMCI_PACK_EITHER, buf, sizeof(buf));
        assert_int_equal(vmci_unpack(u, buf, n, NULL, back), VMC_OK);
        assert_memory_equal(page, back, sizeof(page));
        vmci_packer_destroy(p);
    }
}

static void garbage_is_refused(void **state)
{
    (void)state;
    static unsigned char page[VMC_PAGE_SIZE], back[VMC_PAGE_SIZE], buf[VMCI_PACK_MAX];
    fill(page, 9);
    size_t n = vmci_pack(k, page, NULL, VMCI_PACK_EITHER, buf, sizeof(buf));
    assert_true(n > 0);
    assert_int_equal(vmci_unpack(u, buf, 0, NULL, back), VMC_EFORMAT);
    for (size_t cut = 1; cut < n; cut += 13)
        assert_int_equal(vmci_unpack(u, buf, cut, NULL, back), VMC_EFORMAT);
    for (unsigned i = 0; i < 20000; i++) { /* must neither crash nor read beyond */
        unsigned char *bad = malloc(n);
        assert_non_null(bad);
        memcpy(bad, buf, n);
        bad[rnd() % n] ^= (unsigned char)(1 + rnd() % 255);
        (void)vmci_unpack(u, bad, n, NULL, back);
        free(bad);
    }
    assert_int_equal(vmci_unpack(u, buf, n, NULL, back), VMC_OK);
    assert_memory_equal(page, back, sizeof(page));
}

static void hashes_agree_and_are_keyed(void **state)
{
    (void)state;
    static unsigned char page[VMC_PAGE_SIZE];
    vmci_page_hash_fn best = vmci_page_hash_best();
    fill(page, 0);
    uint64_t h = best(page, 1);
    assert_int_equal(h, vmci_hash64(page, sizeof(page), 1)); /* the scalar form */
    assert_true(best(page, 2) != h);
    page[VMC_PAGE_SIZE - 1] ^= 1;
    assert_true(best(page, 1) != h);
}

static void one_bit_is_not_zero(void **state)
{
    (void)state;
    static unsigned char page[VMC_PAGE_SIZE] __attribute__((aligned(64)));
    assert_true(vmci_page_is_zero(page));
    for (unsigned i = 0; i < VMC_PAGE_SIZE; i++) {
        page[i] = (unsigned char)(1u << i % 8);
        assert_false(vmci_page_is_zero(page));
        page[i] = 0;
    }
}

static void no_memory_is_reported(void **state)
{
    (void)state;
    struct vmci_packer *p = NULL;
    struct vmci_unpacker *q = NULL;
    tp.fail_after = tp.allocs + 1;
    assert_int_equal(vmci_packer_create(&tp.pf, 1, &p, NULL), VMC_ENOMEM);
    assert_int_equal(vmci_unpacker_create(&tp.pf, &q, NULL), VMC_ENOMEM);
    tp.fail_after = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(pages_come_back, setup, teardown),
        cmocka_unit_test_setup_teardown(coding_has_to_be_worth_it, setup, teardown),
        cmocka_unit_test_setup_teardown(random_pages_do_not_fit, setup, teardown),
        cmocka_unit_test_setup_teardown(differences_are_small, setup, teardown),
        cmocka_unit_test_setup_teardown(garbage_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(hashes_agree_and_are_keyed, setup, teardown),
        cmocka_unit_test_setup_teardown(one_bit_is_not_zero, setup, teardown),
        cmocka_unit_test_setup_teardown(no_memory_is_reported, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
