/* SPDX-License-Identifier: BSD-2-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/base_int.h"
#include "test_platform.h"

#include <vmcore/log.h>

#include <cmocka.h>

static void fmt_agrees_with_libc(void **state)
{
    (void)state;
    char ours[128];
    char libc[128];
#define SAME(...)                                                                                  \
    do {                                                                                           \
        size_t n = vmci_snprintf(ours, sizeof(ours), __VA_ARGS__);                                 \
        int m = snprintf(libc, sizeof(libc), __VA_ARGS__);                                         \
        assert_string_equal(ours, libc);                                                           \
        assert_int_equal(n, m);                                                                    \
    } while (0)
    SAME("%d %i %u", -5, 17, 4000000000u);
    SAME("%08x|%-8x|%8X", 0xabcu, 0xabcu, 0xabcu);
    SAME("%lx %llu %zu", 0x123456789abcul, 18446744073709551615ull, (size_t)99);
    SAME("%ld %lld", (long)INT64_MIN, (long long)INT64_MAX);
    SAME("%s|%10s|%-10s|%.3s", "abc", "abc", "abc", "abcdef");
    SAME("%c%%%c", 'x', 'y');
    SAME("%05d|%5d|%-5d|", -42, -42, -42);
    SAME("%*d|%.*s", 6, 42, 2, "hello");
}

static void fmt_truncates_and_terminates(void **state)
{
    (void)state;
    char buf[5];
    assert_int_equal(vmci_snprintf(buf, sizeof(buf), "%s", "abcdefgh"), 8);
    assert_string_equal(buf, "abcd");
    assert_int_equal(vmci_snprintf(NULL, 0, "%d", 12345), 5);
}

static void status_names_are_complete(void **state)
{
    (void)state;
    assert_string_equal(vmc_status_name(VMC_EINVAL), "VMC_EINVAL");
    assert_string_equal(vmc_strerror(VMC_EFORMAT), "malformed data");
    assert_string_equal(vmc_strerror(0), "success");
    assert_string_equal(vmc_strerror(-1000), "unknown status");
}

static void log_levels_have_names(void **state)
{
    (void)state;
    assert_string_equal(vmc_log_level_name(VMC_LOG_ERROR), "error");
    assert_string_equal(vmc_log_level_name(VMC_LOG_WARN), "warning");
    assert_string_equal(vmc_log_level_name(VMC_LOG_DEBUG), "debug");
    assert_string_equal(vmc_log_level_name(VMC_LOG_DEBUG + 1), "?");
    assert_string_equal(vmc_log_level_name(-1), "?");
}

static void error_record_is_filled(void **state)
{
    (void)state;
    struct vmc_error err;
    assert_int_equal(vmci_error(&err, VMC_ERANGE, "a/b", "field %s is %u", "x", 7u), VMC_ERANGE);
    assert_int_equal(err.code, VMC_ERANGE);
    assert_string_equal(err.text, "field x is 7");
    assert_string_equal(err.site, "a/b");
    assert_int_equal(vmci_error(NULL, VMC_EIO, "a/b", "x"), VMC_EIO);
}

static void crc32c_matches_rfc3720(void **state)
{
    (void)state;
    unsigned char zeros[32] = {0};
    unsigned char ones[32];
    memset(ones, 0xff, sizeof(ones));
    assert_int_equal(vmci_crc32c(0, zeros, 32), 0x8a9136aa);
    assert_int_equal(vmci_crc32c(0, ones, 32), 0x62a8ab43);
    assert_int_equal(vmci_crc32c(0, "123456789", 9), 0xe3069283);
}

static void platform_check_explains(void **state)
{
    (void)state;
    struct test_platform tp;
    struct vmc_error err;
    test_platform_init(&tp);
    assert_int_equal(vmc_platform_check(&tp.pf, &err), VMC_OK);
    struct vmc_platform bad = tp.pf;
    bad.free = NULL;
    assert_int_equal(vmc_platform_check(&bad, &err), VMC_EINVAL);
    assert_string_equal(err.text, "platform lacks free");
    assert_int_equal(vmc_platform_check(NULL, &err), VMC_EINVAL);
    bad = tp.pf;
    bad.size = 8;
    assert_int_equal(vmc_platform_check(&bad, &err), VMC_EINVAL);
}

static void nospec_index_clamps(void **state)
{
    (void)state;
    assert_int_equal(vmci_nospec_index(3, 4), 3);
    assert_int_equal(vmci_nospec_index(4, 4), 0);
    assert_int_equal(vmci_nospec_index(SIZE_MAX, 4), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fmt_agrees_with_libc),
        cmocka_unit_test(fmt_truncates_and_terminates),
        cmocka_unit_test(status_names_are_complete),
        cmocka_unit_test(log_levels_have_names),
        cmocka_unit_test(error_record_is_filled),
        cmocka_unit_test(crc32c_matches_rfc3720),
        cmocka_unit_test(platform_check_explains),
        cmocka_unit_test(nospec_index_clamps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
