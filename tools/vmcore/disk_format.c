/* SPDX-License-Identifier: BSD-2-Clause */
/* Images of other programs, which must not be taken for raw disks: a guest would write into them.
 */
#define _GNU_SOURCE
#include "disk_place.h"

#include "vmcore_cmd.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* The names are qemu-img's. */
static const struct {
    const char *name;
    unsigned at, bytes;
    char magic[18];
} formats[] = {
    {"qcow2", 0, 4, "QFI\xfb"},
    {"qed", 0, 4, "QED"},
    {"vmdk", 0, 4, "KDMV"},
    {"vmdk", 0, 17, "# Disk Descriptor"}, /* of a disk in other files */
    {"vdi", 0x40, 4, "\x7f\x10\xda\xbe"},
    {"vpc", 0, 8, "conectix"},
    {"vhdx", 0, 8, "vhdxfile"},
};

const char *disk_image_format(const char *path)
{
    char head[0x44] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return NULL;
    ssize_t n = pread(fd, head, sizeof(head), 0);
    close(fd);
    for (unsigned i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
        if (n >= (ssize_t)(formats[i].at + formats[i].bytes) &&
            memcmp(head + formats[i].at, formats[i].magic, formats[i].bytes) == 0)
            return formats[i].name;
    return NULL;
}

int disk_refuse_format(const char *command, const char *path, const char *as_raw)
{
    const char *format = disk_image_format(path);

    if (format == NULL)
        return 0;
    fprintf(
        stderr,
        "%s: %s: a %s image, not a raw one; 'vmcore disk import -O %s %s NAME.vmdk' makes a disk "
        "of it, and %s takes it for raw\n",
        command, path, format, format, path, as_raw);
    return EXIT_ERROR;
}
