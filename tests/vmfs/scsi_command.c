/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the test of shared SCSI disks does to a disk besides VMFS:
 *   scsi_command register|reserve|release|clear DEVICE KEY, for persistent reservations
 *   scsi_command keys DEVICE        list the keys that are registered
 *   scsi_command count DEVICE BLOCK TIMES   count up a number in a block, by compare-and-write
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/pr.h>
#include <scsi/sg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <vmcore/host_block.h>

static int reservation(int fd, const char *what, unsigned long long key)
{
    struct pr_registration reg = {.new_key = key, .flags = PR_FL_IGNORE_KEY};
    struct pr_reservation res = {.key = key, .type = PR_WRITE_EXCLUSIVE};
    struct pr_clear clear = {.key = key};

    if (strcmp(what, "register") == 0)
        return ioctl(fd, IOC_PR_REGISTER, &reg);
    if (strcmp(what, "reserve") == 0)
        return ioctl(fd, IOC_PR_RESERVE, &res);
    if (strcmp(what, "release") == 0)
        return ioctl(fd, IOC_PR_RELEASE, &res);
    if (strcmp(what, "clear") == 0)
        return ioctl(fd, IOC_PR_CLEAR, &clear);
    errno = EINVAL;
    return -1;
}

static int keys(const char *device)
{
    unsigned char cdb[10] = {0x5e, 0, 0, 0, 0, 0, 0, 8, 0}, list[2048] = {0}, sense[64];
    int fd = open(device, O_RDWR | O_CLOEXEC);

    for (unsigned tries = 0; fd >= 0 && tries < 8; tries++) {
        struct sg_io_hdr h = {.interface_id = 'S',
                              .dxfer_direction = SG_DXFER_FROM_DEV,
                              .cmd_len = sizeof(cdb),
                              .cmdp = cdb,
                              .mx_sb_len = sizeof(sense),
                              .sbp = sense,
                              .dxfer_len = sizeof(list),
                              .dxferp = list,
                              .timeout = 8000};
        if (ioctl(fd, SG_IO, &h) != 0 || (h.info & SG_INFO_OK_MASK) != SG_INFO_OK)
            continue; /* unit attention */
        for (unsigned at = 8; at < 8u + (list[6] << 8 | list[7]) && at + 8 <= sizeof(list);
             at += 8) {
            for (unsigned i = 0; i < 8; i++)
                printf("%02x", list[at + i]);
            printf("\n");
        }
        close(fd);
        return 0;
    }
    fprintf(stderr, "%s: no keys: %s\n", device, strerror(errno));
    return 1;
}

static int read_block(const struct vmc_blockdev *bd, unsigned long long block, void *data)
{
    struct vmc_iovec iov = {.base = data, .bytes = 512};
    struct vmc_block_req r = {.op = VMC_BLOCK_READ,
                              .flags = VMC_BLOCK_WAITED,
                              .offset = block * 512,
                              .bytes = 512,
                              .iov = &iov,
                              .iov_count = 1};

    return bd->ops->submit(bd->ctx, &r) == VMC_BLOCK_COMPLETE ? r.status : VMC_EIO;
}

/* Add one to the number in a block, count times, however many others do that. */
static int count_up(const char *device, unsigned long long block, unsigned long long count)
{
    struct vmc_host_disk_config c = {.size = sizeof(c), .path = device, .shared = true};
    struct vmc_host_disk *d;
    struct vmc_error err;
    struct vmc_block_info info;
    unsigned long long done = 0, missed = 0, number;
    char was[512], next[512];

    if (vmc_host_disk_open(&c, &d, &err) != VMC_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    struct vmc_blockdev bd = vmc_host_disk_blockdev(d);
    if (bd.ops->info(bd.ctx, &info) != VMC_OK || !info.can_compare_write) {
        fprintf(stderr, "%s: no compare-and-write\n", device);
        return 1;
    }
    while (done < count) {
        int rc = read_block(&bd, block, was);
        if (rc == VMC_OK) {
            memcpy(next, was, sizeof(next));
            memcpy(&number, was, sizeof(number));
            number++;
            memcpy(next, &number, sizeof(number));
            rc = bd.ops->compare_write(bd.ctx, block * 512, was, next, sizeof(next));
        }
        done += rc == VMC_OK;
        missed += rc == VMC_EAGAIN;
        if (rc != VMC_OK && rc != VMC_EAGAIN) {
            fprintf(stderr, "%s: %s\n", device, vmc_status_name(rc));
            return 1;
        }
    }
    printf("%llu times, missed %llu times\n", done, missed);
    vmc_host_disk_close(d);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "count") == 0)
        return count_up(argv[2], strtoull(argv[3], NULL, 0), strtoull(argv[4], NULL, 0));
    if (argc == 3 && strcmp(argv[1], "keys") == 0)
        return keys(argv[2]);
    int fd = argc == 4 ? open(argv[2], O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0 || reservation(fd, argv[1], strtoull(argv[3], NULL, 0)) != 0) {
        fprintf(stderr, "scsi_command %s: %s\n", argc > 1 ? argv[1] : "", strerror(errno));
        return 1;
    }
    close(fd);
    return 0;
}
