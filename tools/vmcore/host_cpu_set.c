/* SPDX-License-Identifier: BSD-2-Clause */
/* Sets of processors as text: "0,2-3". */
#include "host_config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool parse_cpu(const char **text, unsigned *out)
{
    char *end;

    if (**text < '0' || **text > '9')
        return false;
    errno = 0;
    unsigned long v = strtoul(*text, &end, 10);
    *text = end;
    *out = (unsigned)v;
    return errno == 0 && v < HOST_MAX_CPUS;
}

bool host_parse_cpu_set(const char *text, struct host_cpu_set *out)
{
    struct host_cpu_set set = {.any = strcmp(text, "all") == 0};
    bool more = !set.any;

    while (more) {
        unsigned first, last;
        if (!parse_cpu(&text, &first))
            return false;
        last = first;
        if (*text == '-' && (text++, !parse_cpu(&text, &last)))
            return false;
        if (last < first)
            return false;
        for (unsigned i = first; i <= last; i++)
            set.bits[i / 64] |= 1ull << (i % 64);
        more = *text == ',';
        text += more;
        if (!more && *text != '\0')
            return false;
    }
    *out = set;
    return true;
}

static bool has_cpu(const struct host_cpu_set *set, unsigned i)
{
    return i < HOST_MAX_CPUS && (set->bits[i / 64] >> (i % 64) & 1) != 0;
}

void host_print_cpu_set(const struct host_cpu_set *set, char *out, size_t bytes)
{
    size_t at = 0;

    snprintf(out, bytes, "%s", set->any ? "all" : "");
    for (unsigned i = 0; !set->any && i < HOST_MAX_CPUS && at < bytes; i++) {
        if (!has_cpu(set, i))
            continue;
        unsigned last = i;
        while (has_cpu(set, last + 1))
            last++;
        int n = last == i ? snprintf(out + at, bytes - at, "%s%u", at != 0 ? "," : "", i)
                          : snprintf(out + at, bytes - at, "%s%u-%u", at != 0 ? "," : "", i, last);
        at += (size_t)n;
        i = last;
    }
}
