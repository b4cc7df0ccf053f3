/* SPDX-License-Identifier: BSD-2-Clause */
/* What the name of a disk says before anything is opened. */
#define _GNU_SOURCE
#include "disk_place.h"

#include <string.h>

#define PREFIX DISK_PLACE_VMFS

size_t disk_place_volumes(const char *spec)
{
    if (strncmp(spec, PREFIX, strlen(PREFIX)) != 0)
        return 0;
    /* A path on the volume begins with "/"; the volume's own name may hold ":". */
    const char *end = NULL;
    for (const char *p = spec + strlen(PREFIX); (p = strstr(p, ":/")) != NULL; p++)
        end = p;
    return end != NULL ? (size_t)(end - spec) : 0;
}

bool disk_place_is(const char *spec)
{
    size_t n = strlen(spec);

    return strncmp(spec, PREFIX, strlen(PREFIX)) == 0 ||
           (n > 5 && strcmp(spec + n - 5, ".vmdk") == 0);
}
