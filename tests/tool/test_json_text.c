/* SPDX-License-Identifier: BSD-2-Clause */
/* Any bytes as JSON (tools/vmcore/json_text.c): json-c's own reader, made to insist on UTF-8,
 * agrees. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "json_add.h"

/* What a strict reader makes of an object with the text as its member "name". */
static struct json_object *through(const char *text)
{
    struct json_object *o = json_object_new_object();
    struct json_tokener *t = json_tokener_new();

    add_text(o, "name", text);
    const char *s = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
    json_tokener_set_flags(t, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    struct json_object *back = json_tokener_parse_ex(t, s, (int)strlen(s) + 1);
    assert_int_equal(json_tokener_get_error(t), json_tokener_success);
    json_tokener_free(t);
    json_object_put(o);
    return back;
}

static const char *member(struct json_object *o, const char *key)
{
    struct json_object *v = NULL;

    return json_object_object_get_ex(o, key, &v) ? json_object_get_string(v) : NULL;
}

static void expect(const char *text, const char *shown, const char *hex)
{
    struct json_object *o = through(text);

    assert_string_equal(member(o, "name"), shown);
    if (hex == NULL)
        assert_null(member(o, "name_hex"));
    else
        assert_string_equal(member(o, "name_hex"), hex);
    json_object_put(o);
}

#define U "\xef\xbf\xbd"

static void test_known(void **state)
{
    (void)state;
    expect("plain \"quoted\"\n", "plain \"quoted\"\n", NULL);
    expect("", "", NULL);
    expect("gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f", NULL);
    expect("\xe2\x82\xac \xf0\x9f\x92\xbe", "\xe2\x82\xac \xf0\x9f\x92\xbe", NULL);
    expect("gr\xfc\xdf", "gr" U U, "6772fcdf");
    expect("\xed\xa0\x80", U U U, "eda080");                 /* a surrogate */
    expect("\xc0\xaf\xe0\x80\xaf", U U U U U, "c0afe080af"); /* longer than they have to be */
    expect("\xf4\x90\x80\x80", U U U U, "f4908080");         /* beyond the last one */
    expect("cut \xe2\x82", "cut " U U, "63757420e282");
    expect("\xe2\x82z", U U "z", "e2827a");
}

static void test_any(void **state)
{
    uint64_t x = 88172645463325252ull;

    (void)state;
    for (unsigned i = 0; i < 20000; i++) {
        char text[24];
        unsigned n = 1 + i % (sizeof(text) - 1);
        for (unsigned k = 0; k < n; k++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            text[k] = (char)(x % 3 == 0 ? 0x80 | x >> 32 : x >> 40);
            if (text[k] == '\0')
                text[k] = 'z';
        }
        text[n] = '\0';
        struct json_object *o = through(text);
        const char *hex = member(o, "name_hex");
        if (hex == NULL)
            assert_string_equal(member(o, "name"), text);
        else
            assert_int_equal(strlen(hex), 2 * n);
        json_object_put(o);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_known), cmocka_unit_test(test_any)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
