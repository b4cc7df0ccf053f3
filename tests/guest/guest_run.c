/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Runs a test kernel (a ROM, see kernels/kernel.inc and ../guest_c) on the software CPU and prints
 * what it reports on port E9h; with a second file, compares the report with it. The status is what
 * the kernel wrote to port F4h.
 *
 * usage: guest_run [-t] kernel.bin [expected.txt [model [feature...]]]     -t: translate everything
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test_platform.h"

#include <vmcore/engine.h>

#define ROM_UNIT    0x10000u
#define ROM_MAX     0x40000u
#define RAM_BYTES   (16u << 20)
#define REPORT_MAX  (8u << 20)
#define PORT_REPORT 0xe9
#define PORT_END    0xf4

struct run {
    char *report;
    size_t bytes;
    bool ended;
    uint32_t status;
    const struct vmc_engine_ops *ops;
    void *ev;
};

static int pio(void *ctx, bool write, uint16_t port, unsigned bytes, uint32_t *data)
{
    struct run *r = ctx;

    (void)bytes;
    if (!write) {
        *data = ~0u;
    } else if (port == PORT_REPORT && r->bytes < REPORT_MAX) {
        r->report[r->bytes++] = (char)*data;
    } else if (port == PORT_END) {
        r->ended = true;
        r->status = *data;
        r->ops->kick(r->ev);
    }
    return VMC_IO_DONE;
}

static int mmio(void *ctx, bool write, uint64_t gpa, unsigned bytes, uint64_t *data)
{
    (void)ctx;
    (void)gpa;
    (void)bytes;
    if (!write)
        *data = ~0ull;
    return VMC_IO_DONE;
}

static int msr(void *ctx, bool write, uint32_t index, uint64_t *value)
{
    (void)ctx;
    (void)write;
    (void)index;
    (void)value;
    return VMC_IO_GP;
}

static void die(const char *what, const char *detail)
{
    fprintf(stderr, "guest_run: %s: %s\n", what, detail);
    exit(2);
}

static void *read_file(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        die("cannot open", path);
    char *p = malloc(REPORT_MAX);
    *bytes = fread(p, 1, REPORT_MAX, f);
    fclose(f);
    return p;
}

static void add(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes, uint32_t attr)
{
    struct vmc_mem_slot s = {.size = sizeof(s), .attr = attr, .gpa = gpa, .bytes = bytes};
    struct vmc_error err;
    if (vmc_mem_add(mem, &s, &err) != VMC_OK)
        die("memory", err.text);
}

static void load(struct vmc_mem *mem, const uint8_t *rom, size_t bytes)
{
    uint64_t top = 0x100000000ull - bytes;

    add(mem, 0, 0xf0000, VMC_MEM_RAM);
    add(mem, 0xf0000, ROM_UNIT, VMC_MEM_ROM);
    add(mem, 0x100000, RAM_BYTES - 0x100000, VMC_MEM_RAM);
    add(mem, top, bytes, VMC_MEM_ROM);
    if (vmc_mem_load(mem, 0xf0000, rom + bytes - ROM_UNIT, ROM_UNIT) != VMC_OK ||
        vmc_mem_load(mem, top, rom, bytes) != VMC_OK)
        die("memory", "cannot load the ROM");
}

/* 0: ended by the kernel itself. */
static int run(struct run *r)
{
    struct vmc_run_limits lim = {.size = sizeof(lim), .max_insns = 2000000000ull};
    struct vmc_exit x;

    while (!r->ended) {
        if (r->ops->run(r->ev, &lim, &x) != VMC_OK)
            die("run", "the engine failed");
        if (x.kind == VMC_EXIT_KICKED)
            continue;
        fprintf(stderr, "guest_run: stopped by %s at %llx, detail %llx\n", vmc_exit_name(x.kind),
                (unsigned long long)x.rip, (unsigned long long)x.u.stop.detail);
        return 1;
    }
    return r->status != 0;
}

/* Prints the first line that differs. */
static int compare(const struct run *r, const char *path)
{
    size_t bytes;
    char *want = read_file(path, &bytes);
    size_t line = 1;
    size_t start = 0;

    for (size_t i = 0; i < bytes || i < r->bytes; i++) {
        if (i >= bytes || i >= r->bytes || want[i] != r->report[i]) {
            size_t we = start;
            size_t ge = start;
            while (we < bytes && want[we] != '\n')
                we++;
            while (ge < r->bytes && r->report[ge] != '\n')
                ge++;
            printf("line %zu differs\nwant: %.*s\n got: %.*s\n", line, (int)(we - start),
                   want + start, (int)(ge - start), r->report + start);
            free(want);
            return 1;
        }
        if (want[i] == '\n') {
            line++;
            start = i + 1;
        }
    }
    printf("%zu lines as expected\n", line - 1);
    free(want);
    return 0;
}

/* Was code translated that has segments? All of these kernels begin in real mode. */
static int expect_segmented(const struct run *r)
{
#ifndef VMC_SANITIZED /* such builds have no translator */
    const char *names[1024];
    uint64_t values[1024];
    size_t n = r->ops->stats(r->ev, names, values, 1024);

    for (size_t k = 0; k < n && k < 1024; k++)
        if (strcmp(names[k], "bt.segmented") == 0 && values[k] != 0) {
            printf("%llu translations of code with segments\n", (unsigned long long)values[k]);
            return 0;
        }
    printf("no code with segments was translated\n");
    return 1;
#else
    (void)r;
    return 0;
#endif
}

int main(int argc, char **argv)
{
    struct test_platform tp;
    struct vmc_engine_info info;
    struct vmc_cpu_policy policy;
    struct vmc_error err;
    struct run r = {.ops = vmc_engine_soft()};
    struct vmc_engine_io io = {.ctx = &r, .pio = pio, .mmio = mmio, .msr = msr};
    struct vmc_mem *mem;
    size_t bytes;

    struct vmc_soft_config soft = {.size = sizeof(soft)};
    if (argc > 1 && strcmp(argv[1], "-t") == 0) {
        soft.flags = VMC_SOFT_TRANSLATE_ALL;
        argc--;
        argv++;
    }
    if (argc < 2)
        die("usage", "guest_run [-t] kernel.bin [expected.txt [model [feature...]]]");
    void *rom = read_file(argv[1], &bytes);
    if (bytes == 0 || bytes % ROM_UNIT != 0 || bytes > ROM_MAX)
        die(argv[1], "is not 64, 128, 192 or 256 KiB");
    test_platform_init_threads(&tp);
    if (vmc_mem_create(&tp.pf, &mem, &err) != VMC_OK || r.ops->probe(&tp.pf, &info, &err) != VMC_OK)
        die("set-up", err.text);
    load(mem, rom, bytes);
    if (vmc_cpu_policy_preset(&policy, argc > 3 ? argv[3] : "max", &info.ceiling, &err) != VMC_OK)
        die("model", err.text);
    for (int i = 4; i < argc; i++)
        if (vmc_cpu_policy_feature(&policy, argv[i], true, &info.ceiling, &err) != VMC_OK)
            die("feature", err.text);
    void *evm = aligned_alloc(64, (info.vm_bytes + 63) & ~(size_t)63);
    r.ev = aligned_alloc(64, (info.vcpu_bytes + 63) & ~(size_t)63);
    r.report = malloc(REPORT_MAX);
    memset(evm, 0, info.vm_bytes);
    memset(r.ev, 0, info.vcpu_bytes);
    struct vmc_engine_vm_config cfg = {.size = sizeof(cfg),
                                       .max_vcpus = 1,
                                       .platform = &tp.pf,
                                       .mem = mem,
                                       .engine_config = &soft};
    if (r.ops->vm_init(evm, &cfg, &err) != VMC_OK ||
        r.ops->vcpu_init(evm, r.ev, 0, &io, &err) != VMC_OK ||
        r.ops->set_policy(evm, &policy, &err) != VMC_OK || r.ops->mem_changed(evm) != VMC_OK)
        die("engine", err.text);
    int rc = run(&r);
    if (argc < 3 || argv[2][0] == '-' || rc != 0)
        fwrite(r.report, 1, r.bytes, stdout);
    if (argc > 2 && argv[2][0] != '-' && rc == 0)
        rc = compare(&r, argv[2]);
    if (argc > 2 && argv[2][0] != '-' && soft.flags != 0 && rc == 0)
        rc = expect_segmented(&r);
    r.ops->vcpu_fini(r.ev);
    r.ops->vm_fini(evm);
    vmc_mem_destroy(mem);
    free(evm);
    free(r.ev);
    free(r.report);
    free(rom);
    if (rc == 0 && tp.live != 0)
        die("leak", "allocations are left");
    return rc;
}
