/* SPDX-License-Identifier: BSD-2-Clause */
/* "vmcore run". */
#define _GNU_SOURCE
#include "run_vm.h"

#include "vmcore_cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* A file to write at the end, opened before the process is confined; -1: not asked for. */
static bool open_output(const char *option, const char *path, int *fd)
{
    *fd = -1;
    if (path == NULL)
        return true;
    *fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (*fd >= 0)
        return true;
    fprintf(stderr, "vmcore run: --%s %s: %s\n", option, path, strerror(errno));
    return false;
}

static int run(struct run_vm *r)
{
    int stats_fd = -1, dump_fd = -1;
    sigset_t set;

    run_loop_block_signals(&set);
    r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->wake_fd < 0) {
        fprintf(stderr, "vmcore run: eventfd: %s\n", strerror(errno));
        return EXIT_ERROR;
    }
    if (!open_output("stats", r->opt.stats_path, &stats_fd) ||
        !open_output("dump-memory", r->opt.dump_path, &dump_fd))
        return EXIT_ERROR;
    int rc = run_console_open(r);
    if (rc == 0)
        rc = run_vm_create(r);
    if (rc == 0) {
        bool keys = isatty(STDIN_FILENO) && r->opt.serial.kind == RUN_CHR_STDIO;
        if (keys || r->opt.engine == RUN_ENGINE_AUTO)
            fprintf(stderr, "vmcore: engine %s%s\r\n", r->engine->name,
                    keys ? "; Ctrl-A x leaves, Ctrl-A h helps" : "");
        rc = run_loop(r, stats_fd);
        if (dump_fd >= 0 && !r->left && run_dump_memory(r, dump_fd) != 0)
            rc = EXIT_ERROR;
    }
    if (r->left) { /* memory must stay what it is for as long as there is a process */
        if (dump_fd >= 0)
            fprintf(stderr, "vmcore run: --dump-memory %s: not written, requests are in flight\n",
                    r->opt.dump_path);
        run_console_close(r);
        fflush(NULL);
        _exit(rc);
    }
    run_vm_destroy(r);
    if (stats_fd >= 0)
        close(stats_fd);
    if (dump_fd >= 0)
        close(dump_fd);
    close(r->wake_fd);
    return rc;
}

int run_with(int argc, char **argv,
             void (*translated)(void *run, uint32_t vcpu, const struct vmc_translation *t))
{
    static struct run_vm r = {.kernel.fd = -1,
                              .initrd.fd = -1,
                              .firmware.fd = -1,
                              .lock = PTHREAD_MUTEX_INITIALIZER,
                              .changed = PTHREAD_COND_INITIALIZER};

    for (unsigned i = 0; i < RUN_MAX_MODULES; i++)
        r.modules[i].fd = -1;
    r.translated = translated;
    int rc = run_options_parse(argc, argv, false, &r.opt);
    if (rc < 0)
        rc = run(&r);
    run_options_free(&r.opt);
    return rc;
}

int cmd_run(int argc, char **argv)
{
    return run_with(argc, argv, NULL);
}
