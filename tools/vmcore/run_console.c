/* SPDX-License-Identifier: BSD-2-Clause */
/* Where the serial line, the debug console and the printer of a run lead. */
#include "run_vm.h"

#include "vmcore_cmd.h"

#include <stdio.h>
#include <unistd.h>

static int open_one(const struct run_chr *spec, const char *what, bool keys,
                    struct vmc_host_char **out)
{
    static const uint32_t kinds[] = {
        [RUN_CHR_STDIO] = VMC_HOST_CHAR_STDIO,
        [RUN_CHR_FILE] = VMC_HOST_CHAR_FILE,
        [RUN_CHR_UNIX] = VMC_HOST_CHAR_UNIX,
        [RUN_CHR_PTY] = VMC_HOST_CHAR_PTY,
    };
    struct vmc_error err = {0};

    if (spec->kind == RUN_CHR_NONE)
        return 0;
    struct vmc_host_char_config cfg = {
        .size = sizeof(cfg), .kind = kinds[spec->kind], .path = spec->path, .escape = keys};
    if (vmc_host_char_open(&cfg, out, &err) != VMC_OK)
        return run_vm_fail(what, &err);
    if (spec->kind == RUN_CHR_PTY)
        fprintf(stderr, "vmcore: %s is on %s\n", what + 2, vmc_host_char_name(*out));
    return 0;
}

int run_console_open(struct run_vm *r)
{
    bool keys = isatty(STDIN_FILENO) && r->opt.serial.kind == RUN_CHR_STDIO;
    int rc = open_one(&r->opt.serial, "--serial", keys, &r->serial);

    if (rc == 0)
        rc = open_one(&r->opt.debugcon, "--debugcon", false, &r->debugcon);
    return rc == 0 ? open_one(&r->opt.parallel, "--parallel", false, &r->printer) : rc;
}

struct vmc_chardev run_console_dev(struct vmc_host_char *c)
{
    return c != NULL ? vmc_host_char_dev(c) : (struct vmc_chardev){0};
}

static int post_code(void *ctx, const void *data, size_t bytes)
{
    (void)ctx;
    fprintf(stderr, "vmcore: POST code %02x\r\n", *(const uint8_t *)data);
    return (int)bytes;
}

struct vmc_chardev run_console_post(void)
{
    static const struct vmc_chardev_ops ops = {.write = post_code};

    return (struct vmc_chardev){.ops = &ops};
}

/* ---- the serial line's events, on the channel's thread ----------------------------------------
 */

static int serial_input(void *ctx, const void *data, size_t bytes)
{
    struct run_vm *r = ctx;

    return (int)vmc_uart_input(vmc_pc_serial(r->pc), data, bytes);
}

static void serial_writable(void *ctx)
{
    struct run_vm *r = ctx;

    vmc_uart_output_ready(vmc_pc_serial(r->pc));
}

static void serial_quit(void *ctx)
{
    struct run_vm *r = ctx;

    pthread_mutex_lock(&r->lock);
    r->quit_key = true;
    pthread_mutex_unlock(&r->lock);
    run_wake(r);
}

static void serial_input_ready(void *ctx)
{
    struct run_vm *r = ctx;

    vmc_host_char_input_ready(r->serial);
}

int run_console_start(struct run_vm *r)
{
    static const struct vmc_host_char_events serial = {
        .input = serial_input, .writable = serial_writable, .quit = serial_quit};
    static const struct vmc_host_char_events output_only = {0};
    struct vmc_error err = {0};

    if (r->serial != NULL) {
        vmc_uart_set_input_ready(vmc_pc_serial(r->pc), serial_input_ready, r);
        if (vmc_host_char_start(r->serial, &serial, r, &err) != VMC_OK)
            return run_vm_fail("--serial", &err);
    }
    if (r->debugcon != NULL && vmc_host_char_start(r->debugcon, &output_only, r, &err) != VMC_OK)
        return run_vm_fail("--debugcon", &err);
    if (r->printer != NULL && vmc_host_char_start(r->printer, &output_only, r, &err) != VMC_OK)
        return run_vm_fail("--parallel", &err);
    return 0;
}

void run_console_close(struct run_vm *r)
{
    vmc_host_char_close(r->serial);
    vmc_host_char_close(r->debugcon);
    vmc_host_char_close(r->printer);
    r->serial = r->debugcon = r->printer = NULL;
}
