/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The payloads of bench/cpu as one static program: an ordinary process, or the first process of a
 * guest. It says "@ready", then does what lines of input ask for: "NAME COUNT" runs a payload COUNT
 * times and answers "@done NAME CHECKSUM"; "quit" ends. Nothing here looks at a clock: who asks
 * measures.
 */
#define _GNU_SOURCE
#include "work.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static const struct work *const groups[] = {work_int, work_fp, work_mem, work_sys};

static const struct work *find(const char *name)
{
    for (unsigned g = 0; g < sizeof(groups) / sizeof(groups[0]); g++)
        for (const struct work *w = groups[g]; w->name != NULL; w++)
            if (strcmp(w->name, name) == 0)
                return w;
    return NULL;
}

static void list(void)
{
    for (unsigned g = 0; g < sizeof(groups) / sizeof(groups[0]); g++)
        for (const struct work *w = groups[g]; w->name != NULL; w++)
            printf("%s %s\n", w->group, w->name);
}

static void first_process(void)
{
    struct termios t;

    mkdir("/proc", 0755);
    mkdir("/dev", 0755);
    mkdir("/tmp", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    mount("tmpfs", "/tmp", "tmpfs", 0, NULL);
    int fd = open("/dev/ttyS0", O_RDWR);
    if (fd < 0)
        return;
    for (int k = 0; k < 3; k++)
        dup2(fd, k);
    if (fd > 2)
        close(fd);
    tcgetattr(0, &t);
    t.c_lflag &= ~(tcflag_t)ECHO;
    tcsetattr(0, TCSANOW, &t);
}

/* Processor time of this process and of the children that it waited for. */
static unsigned long long cpu_us(void)
{
    static const int who[] = {RUSAGE_SELF, RUSAGE_CHILDREN};
    unsigned long long us = 0;

    for (unsigned i = 0; i < 2; i++) {
        struct rusage r;
        getrusage(who[i], &r);
        us += (unsigned long long)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1000000u +
              (unsigned long long)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
    }
    return us;
}

static void serve(void)
{
    char line[128], name[32];
    unsigned long long count;

    puts("@ready");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin) != NULL && strncmp(line, "quit", 4) != 0) {
        const struct work *w = NULL;
        if (sscanf(line, "%31s %llu", name, &count) == 2)
            w = find(name);
        if (w == NULL) {
            puts("@error");
        } else if (strstr(name, "avx2") != NULL && !__builtin_cpu_supports("avx2")) {
            printf("@done %s unsupported 0\n", name);
        } else {
            unsigned long long before = cpu_us();
            uint64_t sum = w->run(count);
            printf("@done %s %llx %llu\n", name, (unsigned long long)sum, cpu_us() - before);
        }
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "exit") == 0)
        return 7;
    if (argc > 1 && strcmp(argv[1], "list") == 0) {
        list();
        return 0;
    }
    if (getpid() != 1) {
        serve();
        return 0;
    }
    /* Linux treats signals of its first process specially: an ordinary one does the work. */
    first_process();
    if (fork() == 0) {
        serve();
        _exit(0);
    }
    wait(NULL);
    reboot(RB_POWER_OFF);
    return 1;
}
