/* SPDX-License-Identifier: BSD-2-Clause */
/* What the vmfs subcommands share: options, opening of volumes, messages. */
#ifndef VMFS_TOOL_H
#define VMFS_TOOL_H

#include <argp.h>
#include <json-c/json.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>

#include <vmcore/host.h>
#include <vmcore/host_block.h>
#include <vmcore/host_fence.h>
#include <vmcore/host_file.h>
#include <vmcore/host_watchdog.h>
#include <vmcore/vmfs.h>

#include "vmcore_cmd.h"

#define VT_ARGS 8

/* One run of a subcommand. */
struct vt {
    const char *name;
    struct vmc_platform pf;
    struct vmc_error err;
    /* options */
    bool json, quiet, repair, exclusive, force, recursive, parents, no_partition, experimental;
    bool no_watchdog;
    bool reserve;       /* shut hosts out of the disks that are given up */
    bool may_read_only; /* a volume that cannot be written is mounted read-only */
    bool read_only;     /* asked for; it is so */
    const char *label, *format, *kind;
    char *rdm; /* the raw device that a disk's mapping may use */
    uint64_t size, block;
    uint32_t version, fds, lease_s;
    double seconds; /* bench: for each measurement; 0: not said */
    const char *arg[VT_ARGS];
    int args;
    /* the volume */
    bool async; /* devices with requests in flight: for guests */
    struct vmc_host_file *file[VMC_VMFS_MAX_EXTENTS];
    struct vmc_host_disk *disk[VMC_VMFS_MAX_EXTENTS];
    struct vmc_blockdev bd[VMC_VMFS_MAX_EXTENTS];
    struct stat st[VMC_VMFS_MAX_EXTENTS];
    uint32_t files;
    struct vmc_vmfs *v;
    pthread_t renewer, beater;
    bool renewing, beating;
    int stop_fd;
    struct vmc_host_watchdog *watchdog;
    struct vmc_host_fence *fence;
};

int vt_init(struct vt *t);
/* The devices of "a.img,b.img". 0 or an exit status after a message. */
int vt_open_devices(struct vt *t, const char *spec, bool read_only);
int vt_mount(struct vt *t, const char *spec, uint32_t flags);
/* Unmount and close; status goes through, or becomes an error. */
int vt_close(struct vt *t, int status);
int vt_fail(const struct vt *t, const char *what);
void vt_json(struct json_object *o);
/* Text from a volume for a person: what a terminal would obey becomes '?'. Returns text. */
char *vt_plain(char *text);
const char *vt_type_name(uint32_t type);
const char *vt_bytes(uint64_t n, char *buf, size_t bytes);
double vt_now(void);
void vt_progress(const struct vt *t, const char *what, uint64_t done, uint64_t total, double since);
bool vt_parse_size(const char *s, uint64_t *out);

/* vmfs_copy.c */
bool vt_all_zero(const char *p, size_t n);
/* seek: at off; otherwise where the file is. */
int vt_write_all(struct vt *t, int fd, const char *p, size_t n, off_t off, bool seek);
/*
 * What an export writes to, of that many bytes; -1 after a message. *device: it may hold something else
 * where nothing is written. vt_out_close: rc goes through, or becomes an error.
 */
int vt_out_open(struct vt *t, const char *to, uint64_t bytes, bool *device);
int vt_out_zeros(struct vt *t, int fd, uint64_t at, uint64_t end);
int vt_out_close(struct vt *t, const char *to, int fd, bool device, int rc);
/* Let qemu-img turn an image into another format; from_fmt NULL: it finds out. */
int vt_convert(struct vt *t, const char *from_fmt, const char *from, const char *to_fmt,
               const char *to);
int vt_temp_name(struct vt *t, char *path, size_t bytes);
/* A file or a block device of the host, to be read, and its size. 0, or an exit status after a message. */
int vt_open_host(struct vt *t, const char *host, int *fd, off_t *size);
/* Data of the host's file from *off on; *end: where it stops being data. False: no more. */
bool vt_next_data(int fd, off_t *off, off_t *end, off_t size);

/*
 * vmfs_new.c: files that get their name when they are whole. After vt_new_* returned 0, the contents are
 * written to path or f; vt_new_*_end gives them their name, or with another rc than 0 removes them.
 * --force: what has the name is replaced then.
 */
struct vt_new_host {
    char *path, *to; /* to NULL: a device, written as it is */
};
int vt_new_host(struct vt *t, struct vt_new_host *n, const char *to);
int vt_new_host_end(struct vt *t, struct vt_new_host *n, int rc);

struct vt_new_file {
    const char *to;
    char path[VMC_VMFS_PATH_MAX + 32];
    struct vmc_vmfs_file *f;
};
int vt_new_file(struct vt *t, struct vt_new_file *n, const char *to);
int vt_new_file_end(struct vt *t, struct vt_new_file *n, int rc);
#define VT_NEW_PREFIX ".vmcore-" /* its name until then; 16 hexadecimal digits follow */

/*
 * vmfs_stop.c: whoever makes something that must not stay half made watches for signals that end the
 * command, looks from time to time whether one came, and gives up then as after an error.
 */
void vt_stop_watch(void);
bool vt_stopped(const struct vt *t); /* after a message */
void vt_stop_helper(pid_t pid);      /* a process that is to end, too; 0: it has */
void vt_stop_end(void);              /* at the command's end: of the signal that came */

/* vmfs_left.c: such files whose makers were killed. In a folder: remove them. */
void vt_left_remove(struct vt *t, const char *dir);
/* On the whole volume, which has so many directories: print them, or add them to a list. */
void vt_left_show(struct vt *t, uint64_t dirs, struct json_object *list);

int vt_mkfs(struct vt *t);
int vt_info(struct vt *t);
int vt_df(struct vt *t);
int vt_ls(struct vt *t);
int vt_tree(struct vt *t);
int vt_stat(struct vt *t);
int vt_cat(struct vt *t);
int vt_cp(struct vt *t);
int vt_import(struct vt *t);
int vt_export(struct vt *t);
int vt_mkdir(struct vt *t);
int vt_rm(struct vt *t);
int vt_mv(struct vt *t);
int vt_truncate(struct vt *t);
int vt_fsck(struct vt *t);
int vt_mount_fuse(struct vt *t);
int vt_nbd(struct vt *t);
int vt_bench(struct vt *t);

#endif
