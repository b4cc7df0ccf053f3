/* SPDX-License-Identifier: BSD-2-Clause */
/* The configuration of the example hypervisor: what it means, and what is said of each mistake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "hv.h"

static struct hv_config config;
static char message[128];
static unsigned line;

size_t vmc_bm_snprintf(char *buf, size_t bytes, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(buf, bytes, fmt, ap);
    va_end(ap);
    return (size_t)n;
}

static bool parse(const char *text)
{
    message[0] = 0;
    return hv_config_parse(&config, text, strlen(text), message, sizeof(message), &line);
}

#define LONG8  "xxxxxxxx"
#define LONG64 LONG8 LONG8 LONG8 LONG8 LONG8 LONG8 LONG8 LONG8
#define LONG512 LONG64 LONG64 LONG64 LONG64 LONG64 LONG64 LONG64 LONG64

static void everything_is_understood(void **state)
{
    (void)state;
    assert_true(
        parse("# a comment\n"
              "hypervisor { status = 7; rows = 40; hotkey = ^B; when_done = poweroff\n"
              " engine = soft; apic = software; run = \"mem; wait 5\" }\n"
              "guest one { kernel = /k; initrd = i; cmdline = \"a=b c\"; mem = 3M; cpus = 2\n"
              " shares = 20; disk = nvme0; disk = ro:ata0\n"
              " disk = \"vmfs:a b:/c/" LONG64 ".vmdk\"; network = yes; start = no\n"
              " cpu = \"default,-avx2\"; firmware = bios; on_crash = restart }\n"
              "guest two { kernel = k }"));
    assert_int_equal(config.guests, 2);
    assert_int_equal(config.status_s, 7);
    assert_int_equal(config.rows, 40);
    assert_int_equal(config.hot_key, 2);
    assert_true(config.poweroff_when_done);
    assert_string_equal(config.engine, "soft");
    assert_int_equal(config.apic, VMC_HW_CFG_NO_APIC);
    assert_string_equal(config.startup, "mem; wait 5");
    const struct hv_guest_config *g = &config.guest[0];
    assert_string_equal(g->name, "one");
    assert_string_equal(g->kernel, "/k");
    assert_string_equal(g->initrd, "i");
    assert_string_equal(g->firmware, "bios");
    assert_string_equal(g->cmdline, "a=b c");
    assert_string_equal(g->cpu_model, "default,-avx2");
    assert_int_equal(g->mem_bytes, 3 << 20);
    assert_int_equal(g->cpus, 2);
    assert_int_equal(g->shares, 20);
    assert_int_equal(g->disks, 3);
    assert_string_equal(g->disk[1], "ro:ata0");
    assert_string_equal(g->disk[2], "vmfs:a b:/c/" LONG64 ".vmdk");
    assert_true(g->network && g->restart && !g->autostart);
    g = &config.guest[1];
    assert_null(g->initrd);
    assert_null(g->firmware);
    assert_int_equal(g->mem_bytes, 256 << 20);
    assert_true(g->cpus == 1 && g->shares == 1000 && g->autostart && !g->restart && !g->network);
}

static void every_mistake_is_named_with_its_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
        unsigned line;
    } t[] = {
        {"guests x {}", "neither 'guest' nor 'hypervisor': 'guests'", 1},
        {"\nguest a kernel = k }", "expected '{'", 2},
        {"guest a {\n kernel = k\n", "a section is not closed", 3},
        {"guest a {\n kernel k\n}", "expected '='", 2},
        {"guest a {\n kernel = }", "a word is missing", 2},
        {"guest { kernel = k }", "a word is missing", 1},
        {"guest a { cmdline = \"x\n }", "a quote is not closed", 1},
        {"guest " LONG8 LONG8 LONG8 " { }", "too long a value", 1},
        {"guest a { kernel = " LONG512 " }", "too long a value", 1},
        {"guest a { disk = " LONG512 " }", "too long a value", 1},
        {"guest a { cpu = " LONG64 " }", "too long a value", 1},
        {"hypervisor { engine = " LONG64 " }", "too long a value", 1},
        {"guest a { colour = blue }", "a guest has no setting 'colour'", 1},
        {"hypervisor { colour = blue }", "the hypervisor has no setting 'colour'", 1},
        {"guest a { mem = lots }", "not a number 'lots'", 1},
        {"guest a { mem = 4X }", "not a number '4X'", 1},
        {"guest a { mem = 99999999G }", "too large a number '99999999G'", 1},
        {"guest a { mem = 99999999999999999999 }", "too large a number '99999999999999999999'", 1},
        {"guest a { mem = 5000 }", "mem must be whole pages, at least 1M: '5000'", 1},
        {"guest a { cpus = 0 }", "cpus must be 1 to 8: '0'", 1},
        {"guest a { cpus = 9 }", "cpus must be 1 to 8: '9'", 1},
        {"guest a { shares = 0 }", "shares must be 1 to 1000000: '0'", 1},
        {"guest a { shares = 1000001 }", "shares must be 1 to 1000000: '1000001'", 1},
        {"guest a { network = maybe }", "neither yes nor no: 'maybe'", 1},
        {"guest a { start = maybe }", "neither yes nor no: 'maybe'", 1},
        {"guest a { on_crash = cry }", "on_crash is stop or restart, not 'cry'", 1},
        {"guest a { disk=a; disk=b; disk=c; disk=d; disk=e }", "too many disks for guest 'a'", 1},
        {"guest a { kernel = \"\" }", "a name is empty", 1},
        {"guest a { mem = 4M }", "no kernel for guest 'a'", 1},
        {"guest a { kernel = k }\nguest a { kernel = k }", "there are two guests 'a'", 2},
        {"hypervisor { status = 4000 }", "too large a number '4000'", 1},
        {"hypervisor { rows = 201 }", "too large a number '201'", 1},
        {"hypervisor { hotkey = x }", "hotkey is written ^A to ^_, not 'x'", 1},
        {"hypervisor { when_done = cry }", "when_done is poweroff or stay, not 'cry'", 1},
        {"hypervisor { apic = none }", "apic is auto, software or processor, not 'none'", 1},
    };
    for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        if (parse(t[i].text) || line != t[i].line)
            fail_msg("%s: line %u", t[i].text, line);
        assert_string_equal(message, t[i].message);
    }
}

static void guests_are_counted(void **state)
{
    (void)state;
    char text[HV_MAX_GUESTS * 32 + 64];
    size_t n = 0;

    for (unsigned i = 0; i < HV_MAX_GUESTS; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "guest g%u { kernel = k }\n", i);
    assert_true(parse(text));
    assert_int_equal(config.guests, HV_MAX_GUESTS);
    (void)snprintf(text + n, sizeof(text) - n, "guest more { kernel = k }\n");
    assert_false(parse(text));
    assert_string_equal(message, "too many guests");
    assert_int_equal(line, HV_MAX_GUESTS + 1);
}

static void names_have_room(void **state)
{
    (void)state;
    static char text[2 * HV_NAMES];
    size_t n = 0;
    unsigned guests = HV_NAMES / (4 * 513) + 1; /* with a kernel of 512 bytes and four such disks */

    for (unsigned i = 0; i < guests; i++) {
        n += (size_t)snprintf(text + n, sizeof(text) - n, "guest g%u { kernel = k", i);
        for (unsigned k = 0; k < 4; k++)
            n += (size_t)snprintf(text + n, sizeof(text) - n, "; disk = %.511s", LONG512);
        n += (size_t)snprintf(text + n, sizeof(text) - n, " }\n");
    }
    assert_false(parse(text));
    assert_string_equal(message, "the names of files and disks are too long together");
    assert_int_equal(line, 4);
    assert_int_equal(config.guests, 4);
    for (unsigned i = 0; i < 3; i++)
        for (unsigned k = 0; k < 4; k++)
            assert_int_equal(strlen(config.guest[i].disk[k]), 511);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_is_understood),
        cmocka_unit_test(every_mistake_is_named_with_its_line),
        cmocka_unit_test(guests_are_counted),
        cmocka_unit_test(names_have_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
