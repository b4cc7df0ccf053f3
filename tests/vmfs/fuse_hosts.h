/* SPDX-License-Identifier: BSD-2-Clause */
/* The model of what several FUSE mounts of one volume should show, see fuse_hosts.c. */
#ifndef FUSE_HOSTS_H
#define FUSE_HOSTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define HOSTS 4
#define NODES 40
#define NAMES 16
#define DEPTH 4
#define IO    (160u << 10)
/* Where files have data: at the beginning, and behind the direct pointers of a descriptor. */
#define NEAR      (1280u << 10)
#define FAR       (300ull << 20)
#define FAR_BYTES (256u << 10)
#define DATA      (NEAR + FAR_BYTES)

enum kind { NONE, DIRECTORY, REGULAR, LINK };

struct node {
    enum kind kind;
    int parent; /* -1: the top */
    unsigned name;
    mode_t mode;
    uint64_t size;
    unsigned char *data; /* NEAR bytes, then those at FAR */
    char target[40];
    int host, fd; /* the handle that is kept; fd -1: none */
};

/* What the operation under way changes, for when it is cut off. */
struct change {
    bool may_end; /* the mount may go away at any time */
    int a, b;     /* nodes; -1: none */
    struct node old_a, old_b;
    size_t from, to; /* range of data, as the model has it */
    /* What the model had there before: of bytes kept_from .. kept_to of a. */
    unsigned char copy[DATA];
    size_t kept_from, kept_to;
};

extern struct node nodes[NODES];
extern struct change now;
extern pid_t mounts[HOSTS];
extern int hosts, lease_s;
extern const char *vmcore, *volume, *top;
extern uint64_t state, step;
extern const char *failed; /* the call that failed last because its mount had gone */
extern int failed_errno;
extern bool six; /* VMFS6 */

void __attribute__((format(printf, 1, 2), noreturn)) fail(const char *fmt, ...);
uint64_t rnd(uint64_t below);
void nap(unsigned ms);
double seconds(void);

/* ---- mounts and calls ----------------------------------------------------------------------- */

const char *mount_point(int h, char *out);
void start(int h);
/* The mount is gone, or is to go: without a word to the others. */
void end(int h);
void stop(int h);
/* Has the kernel killed it because its lease ended? */
bool ended_by_watchdog(int h);
/*
 * Judges a call: true: it worked; false: its mount is gone, or fenced itself because its heartbeats
 * came late. Anything else is an error of the file system.
 */
bool ok(bool worked, const char *what, const char *path);
/* A lock may still be that of a dead host, or of a handle whose release is on its way. */
bool again(double *since);

#define RETRY(worked, call)                                                                        \
    do {                                                                                           \
        double since = 0;                                                                          \
        do                                                                                         \
            worked = (call);                                                                       \
        while (!worked && again(&since));                                                          \
    } while (0)

/* ---- the model ------------------------------------------------------------------------------- */

char *path_at(int h, int parent, unsigned name, char *out);
char *path_of(int h, int i, char *out);
int find(int parent, unsigned name);
int depth(int i);
bool below(int i, int dir);
int children(int dir);
int pick(enum kind kind);
int pick_dir(void);
/* Offset in the file of what the model has at an index. */
uint64_t offset_of(size_t at);
/* Bytes of data below a file size. */
size_t data_below(uint64_t size);
void remember(int a, int b);
/* Before data of now.a change; once for each operation. */
void keep(size_t from, size_t to);
void fill(unsigned char *p, size_t n);
/* A range inside one of the two areas; short ones near the beginning are the more frequent ones. */
void range(size_t *at, size_t *n);

/* Against the model; false: the mount is gone. */
bool read_and_compare(const char *path, int fd, const struct node *f, size_t at, size_t n);
bool check_stat(int h, int i);
bool check_list(int h, int dir);
bool check_all(int h);

#endif
