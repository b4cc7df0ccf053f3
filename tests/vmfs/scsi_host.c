/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A host of the test of shared SCSI disks:
 *   scsi_host DEVICE plain|reserve [unwatched]   with one command in each line of its input:
 *     open        /f, to write, however long another host keeps it
 *     write C     4096 times the character C to its beginning
 *     read        prints the first character
 *     end         unmounts; the end of the input is a crash
 * Each command prints "ok ...", or the name of an error.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <vmcore/host.h>
#include <vmcore/host_block.h>
#include <vmcore/host_fence.h>
#include <vmcore/host_watchdog.h>
#include <vmcore/vmfs.h>

#define LEASE_MS  8000u
#define WINDOW_MS 2000u
#define BEAT_MS   1000u
#define OPEN_S    90

struct host {
    struct vmc_platform pf;
    struct vmc_error err;
    struct vmc_host_disk *disk;
    struct vmc_blockdev bd;
    struct vmc_host_watchdog *dog;
    struct vmc_host_fence *fence;
    struct vmc_vmfs *v;
    struct vmc_vmfs_file *f;
    atomic_bool stop;
};

static void need(struct host *h, const char *what, int rc)
{
    if (rc >= 0)
        return;
    printf("%s: %s: %s\n", what, vmc_status_name(rc), h->err.text);
    exit(1);
}

static void log_line(void *ctx, int level, const char *module, const char *text)
{
    (void)ctx;
    (void)level;
    fprintf(stderr, "%s: %s\n", module, text);
}

static void *beat(void *arg)
{
    struct host *h = arg;
    struct vmc_error err;

    while (!atomic_load(&h->stop)) {
        usleep(BEAT_MS / 2 * 1000);
        if (vmc_vmfs_renew(h->v, &err) == VMC_EFENCED || vmc_vmfs_beat(h->v, &err) == VMC_EFENCED) {
            fprintf(stderr, "over: %s\n", err.text);
            return NULL;
        }
    }
    return NULL;
}

static void start(struct host *h, const char *device, bool reserve, bool watched)
{
    static const struct vmc_host_log log = {.max_level = VMC_LOG_WARN, .line = log_line};
    struct vmc_host_disk_config dc = {.size = sizeof(dc), .path = device, .shared = true};
    struct vmc_vmfs_fence fence;
    char name[32];

    need(h, "platform", vmc_host_platform_init(&h->pf, &log, &h->err));
    need(h, "disk", vmc_host_disk_open(&dc, &h->disk, &h->err));
    h->bd = vmc_host_disk_blockdev(h->disk);
    if (watched)
        need(h, "watchdog", vmc_host_watchdog_create(&h->dog, &h->err));
    if (reserve) {
        need(h, "fence", vmc_host_fence_create(&h->disk, 1, &h->fence, &h->err));
        fence = vmc_host_fence_ops(h->fence);
    }
    snprintf(name, sizeof(name), "pid %d", (int)getpid());
    struct vmc_vmfs_mount_config c = {.size = sizeof(c),
                                      .devs = &h->bd,
                                      .dev_count = 1,
                                      .host_name = name,
                                      .lease_ms = LEASE_MS,
                                      .window_ms = WINDOW_MS,
                                      .beat_ms = BEAT_MS,
                                      .lease_until = watched ? vmc_host_watchdog_until : NULL,
                                      .lease_ctx = h->dog,
                                      .fence = reserve ? &fence : NULL};
    need(h, "mount", vmc_vmfs_mount(&h->pf, &c, &h->v, &h->err));
}

static int open_file(struct host *h)
{
    time_t end = time(NULL) + OPEN_S;
    int rc;

    do
        rc = vmc_vmfs_open(h->v, "/f", VMC_VMFS_READ | VMC_VMFS_WRITE | VMC_VMFS_CREATE, &h->f,
                           &h->err);
    while (rc == VMC_EBUSY && time(NULL) < end && usleep(200000) == 0);
    return rc;
}

static int command(struct host *h, const char *line, char *answer)
{
    static _Alignas(4096) char data[4096];
    int rc = VMC_EINVAL;

    if (strcmp(line, "open") == 0) {
        rc = open_file(h);
    } else if (strncmp(line, "write ", 6) == 0 && h->f != NULL) {
        memset(data, line[6], sizeof(data));
        int64_t n = vmc_vmfs_pwrite(h->f, data, sizeof(data), 0, &h->err);
        rc = n < 0 ? (int)n : vmc_vmfs_fsync(h->f, &h->err);
    } else if (strcmp(line, "read") == 0 && h->f != NULL) {
        int64_t n = vmc_vmfs_pread(h->f, data, sizeof(data), 0, &h->err);
        rc = n < 0 ? (int)n : VMC_OK;
        *answer = data[0];
    }
    return rc;
}

int main(int argc, char **argv)
{
    static struct host h;
    pthread_t beater;
    char line[64];

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 3)
        return 2;
    start(&h, argv[1], strcmp(argv[2], "reserve") == 0, argc == 3);
    if (pthread_create(&beater, NULL, beat, &h) != 0)
        return 1;
    printf("ok mounted\n");
    while (fgets(line, sizeof(line), stdin) != NULL) {
        char c = '-';
        line[strcspn(line, "\n")] = '\0';
        if (strcmp(line, "end") == 0) {
            atomic_store(&h.stop, true);
            pthread_join(beater, NULL);
            if (h.f != NULL)
                need(&h, "close", vmc_vmfs_close(h.f, &h.err));
            need(&h, "unmount", vmc_vmfs_unmount(h.v, &h.err));
            vmc_host_fence_free(h.fence);
            vmc_host_disk_close(h.disk);
            printf("ok unmounted\n");
            return 0;
        }
        int rc = command(&h, line, &c);
        printf("%s %c\n", rc == VMC_OK ? "ok" : vmc_status_name(rc), c);
    }
    _exit(1);
}
