/* SPDX-License-Identifier: BSD-2-Clause */
/* The host's platform: large pages for memory that nobody has touched yet. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <vmcore/host.h>

#include <cmocka.h>

#define LARGE ((size_t)2 << 20)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Can this kernel make a large page now? */
static bool host_can(void)
{
    uint8_t *p = mmap(NULL, 2 * LARGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    uint8_t *at = p + (0 - (uintptr_t)p) % LARGE;
    memset(at, 1, LARGE);
    bool can = madvise(at, LARGE, MADV_COLLAPSE) == 0;
    munmap(p, 2 * LARGE);
    return can;
}

static void test_large_pages(void **state)
{
    struct vmc_platform pf;
    struct vmc_error err = {0};
    const size_t bytes = 3 * LARGE + LARGE / 2;
    void *rw;
    const void *rx;

    (void)state;
    if (!host_can()) {
        print_message("this kernel makes no large pages\n");
        skip();
    }
    assert_int_equal(vmc_host_platform_init(&pf, NULL, &err), VMC_OK);
    uint8_t *p = pf.alloc(pf.ctx, bytes, 64);
    assert_non_null(p);
    assert_int_equal(pf.large_pages(pf.ctx, p, bytes), VMC_OK);
    for (size_t k = 0; k < bytes; k += 512)
        assert_int_equal(p[k], 0);
    p[LARGE] = 7;
    assert_int_equal(pf.large_pages(pf.ctx, p + LARGE / 2, LARGE), VMC_OK);
    assert_int_equal(p[LARGE], 7);
    pf.free(pf.ctx, p, bytes, 64);
    assert_int_equal(pf.exec->reserve(pf.ctx, 2 * LARGE, &rw, &rx), VMC_OK);
    assert_int_equal(pf.large_pages(pf.ctx, (uint8_t *)rw + LARGE, LARGE), VMC_OK);
    ((uint8_t *)rw)[LARGE] = 0xc3;
    assert_int_equal(((const uint8_t *)rx)[LARGE], 0xc3);
    pf.exec->release(pf.ctx, rw, rx, 2 * LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_large_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
