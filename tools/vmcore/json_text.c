/* SPDX-License-Identifier: BSD-2-Clause */
/* Text from outside as JSON, which is UTF-8: a name on a volume is any bytes. */
#include "json_add.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Unicode 15, table 3-7. */
unsigned utf8_bytes(const unsigned char *s)
{
    unsigned n = s[0] < 0x80                    ? 1
                 : s[0] >= 0xc2 && s[0] <= 0xdf ? 2
                 : s[0] >= 0xe0 && s[0] <= 0xef ? 3
                 : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4
                                                : 0;
    unsigned least = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    unsigned most = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;

    for (unsigned i = 1; i < n; i++) {
        if (s[i] < least || s[i] > most)
            return 0;
        least = 0x80;
        most = 0xbf;
    }
    return n;
}

static bool is_utf8(const char *text)
{
    const unsigned char *s = (const unsigned char *)text;

    while (*s != '\0') {
        unsigned n = utf8_bytes(s);
        if (n == 0)
            return false;
        s += n;
    }
    return true;
}

struct json_object *json_text(const char *text)
{
    static const char unknown[] = "\xef\xbf\xbd"; /* U+FFFD */
    const unsigned char *s = (const unsigned char *)text;

    if (is_utf8(text))
        return json_object_new_string(text);
    char *valid = malloc(3 * strlen(text) + 1), *to = valid;
    if (valid == NULL)
        return NULL;
    while (*s != '\0') {
        unsigned n = utf8_bytes(s);
        memcpy(to, n != 0 ? (const char *)s : unknown, n != 0 ? n : 3);
        to += n != 0 ? n : 3;
        s += n != 0 ? n : 1;
    }
    struct json_object *o = json_object_new_string_len(valid, (int)(to - valid));
    free(valid);
    return o;
}

void add_text(struct json_object *o, const char *name, const char *text)
{
    char key[64];

    json_object_object_add(o, name, json_text(text));
    if (is_utf8(text))
        return;
    size_t n = strlen(text);
    char *hex = malloc(2 * n + 1);
    if (hex == NULL)
        return;
    for (size_t i = 0; i < n; i++)
        snprintf(hex + 2 * i, 3, "%02x", (unsigned char)text[i]);
    snprintf(key, sizeof(key), "%s_hex", name);
    json_object_object_add(o, key, json_object_new_string(hex));
    free(hex);
}
