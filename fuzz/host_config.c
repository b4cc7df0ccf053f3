/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Configuration files of "vmcore host": any text. What a machine is made of goes through the parser
 * of the command line, which ends the process when it does not like something; not here.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../tools/vmcore/host_config.h"
#include "../tools/vmcore/vmcore_cmd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void host_config_exit(int status) __attribute__((noreturn)); /* "exit" of the files under test */
int __lsan_is_turned_off(void);

static jmp_buf out;

void host_config_exit(int status)
{
    longjmp(out, status != 0 ? status : 1);
}

/* What the parsers hold when they end the process is not theirs to free. */
int __lsan_is_turned_off(void)
{
    return 1;
}

static void load(const char *path)
{
    static struct host_config c;

    if (setjmp(out) != 0)
        return;
    int rc = host_config_load(path, NULL, &c);
    if (rc != 0 && rc != EXIT_BAD_ARGS && rc != EXIT_ERROR)
        abort();
    /* What is accepted is in the bounds that the rest of the command relies on. */
    for (unsigned i = 0; rc == 0 && i < c.vm_count; i++) {
        const struct host_vm_config *vm = &c.vms[i];
        if (vm->run.name == NULL || vm->run.cpus == 0 || vm->run.cpus > RUN_MAX_CPUS ||
            vm->run.mem_bytes == 0 || vm->run.mem_bytes > RUN_MAX_MEM ||
            vm->mem.reservation > vm->run.mem_bytes || vm->mem.limit > vm->run.mem_bytes ||
            vm->mem.shares == 0 || vm->cpu.share.shares == 0 || vm->cpu.cap > 1000000 ||
            (vm->cpu_pool != HOST_NO_POOL && vm->cpu_pool >= c.cpu_pool_count))
            abort();
    }
    for (unsigned i = 0; rc == 0 && i < c.cpu_pool_count; i++)
        if (c.cpu_pools[i].parent != HOST_NO_POOL && c.cpu_pools[i].parent >= i)
            abort();
    host_config_free(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    char path[32];

    if (fd < 0) {
        fd = memfd_create("config", 0);
        stdout = stderr = fopen("/dev/null", "w");
        if (fd < 0 || stderr == NULL)
            abort();
    }
    /* libconfig opens what a file includes; that is the business of whoever writes the file. */
    if (memmem(data, size, "@include", 8) != NULL)
        return 0;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
        abort();
    load(path);
    return 0;
}
