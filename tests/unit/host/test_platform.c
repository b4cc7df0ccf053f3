/* SPDX-License-Identifier: BSD-2-Clause */
/* The host's platform: large pages for memory that nobody has touched yet; guest memory. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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

/* Does the kernel's list of our mappings give that flag for the one at p? */
static bool has_flag(const void *p, const char *flag)
{
    FILE *f = fopen("/proc/self/smaps", "re");
    char line[512];
    bool ours = false, found = false;

    assert_non_null(f);
    while (fgets(line, sizeof(line), f) != NULL) {
        unsigned long long from, to;
        if (sscanf(line, "%llx-%llx ", &from, &to) == 2)
            ours = from <= (uintptr_t)p && (uintptr_t)p < to;
        if (ours && strncmp(line, "VmFlags:", 8) == 0)
            found = strstr(line, flag) != NULL;
    }
    fclose(f);
    return found;
}

static void test_guest_memory_that_is_merged(void **state)
{
    struct vmc_error err = {0};
    void *p;
    bool running;

    (void)state;
    if (access("/sys/kernel/mm/ksm/run", F_OK) != 0) {
        print_message("this kernel merges no pages\n");
        skip();
    }
    assert_int_equal(vmc_host_guest_memory(LARGE, NULL, &p, &err), VMC_OK);
    memset(p, 7, LARGE);
    assert_false(has_flag(p, " mg"));
    assert_int_equal(vmc_host_guest_memory_merge(p, LARGE, &running, &err), VMC_OK);
    assert_true(has_flag(p, " mg"));
    assert_int_equal(((uint8_t *)p)[LARGE - 1], 7);
    vmc_host_guest_memory_free(p, LARGE);
}

static void test_guest_memory_that_others_map(void **state)
{
    struct vmc_error err = {0};
    void *p;
    int fd = -1;

    (void)state;
    assert_int_equal(vmc_host_guest_memory(LARGE, &fd, &p, &err), VMC_OK);
    uint8_t *q = mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(q != MAP_FAILED);
    ((uint8_t *)p)[4096] = 9;
    assert_int_equal(q[4096], 9);
    munmap(q, LARGE);
    close(fd);
    vmc_host_guest_memory_free(p, LARGE);
    assert_int_equal(vmc_host_guest_memory((size_t)1 << 60, NULL, &p, &err), VMC_ENOMEM);
    assert_non_null(strstr(err.text, "MiB of guest memory"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_large_pages),
        cmocka_unit_test(test_guest_memory_that_is_merged),
        cmocka_unit_test(test_guest_memory_that_others_map),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
