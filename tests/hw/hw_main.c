/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The conformance suite on the bare-metal kernel, with the engine of the processor it finds. The
 * command line may say engine=NAME, test=NAME and bench=all (or one kind
 * of exit).
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmcore/hw.h>

#include "hw_bench.h"
#include "test_platform.h"

int conf_main(int argc, char **argv);

/* ---- C's library ------------------------------------------------------------------------------
 */

struct header {
    size_t bytes, align;
};

void *hw_alloc(size_t align, size_t bytes)
{
    const struct vmc_platform *pf = vmc_bm_platform();
    size_t a = align < 64 ? 64 : align;
    unsigned char *p = pf->alloc(pf->ctx, bytes + a, a);

    if (p == NULL)
        return NULL;
    struct header *h = (struct header *)(void *)(p + a - sizeof(*h));
    h->bytes = bytes + a;
    h->align = a;
    return p + a;
}

void *hw_alloc_zeroed(size_t bytes)
{
    void *p = hw_alloc(VMC_PAGE_SIZE, bytes);

    if (p != NULL)
        memset(p, 0, bytes);
    return p;
}

void hw_free(void *p)
{
    const struct vmc_platform *pf = vmc_bm_platform();

    if (p == NULL)
        return;
    struct header h = ((struct header *)p)[-1];
    (pf->free)(pf->ctx, (unsigned char *)p - h.align, h.bytes, h.align);
}

static char without[128];

/* What the suite is told not to run: without=NAME on the command line. */
const char *hw_getenv(const char *name)
{
    return strcmp(name, "VMC_CONFORMANCE_WITHOUT") == 0 && without[0] != 0 ? without : NULL;
}

/* ---- the other processor ----------------------------------------------------------------------
 */

static struct {
    void *(*fn)(void *);
    void *arg;
    uint32_t state; /* 0: idle, 1: wanted */
    uint32_t cpus_up;
} work;

static void up(uint32_t cpu)
{
    struct vmc_error err;

    if (vmc_hw_cpu_up(vmc_bm_platform(), &err) != VMC_OK)
        printf("processor %u: %s\n", cpu, err.text);
}

void vmc_bm_cpu_main(uint32_t cpu)
{
    up(cpu);
    __atomic_fetch_add(&work.cpus_up, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        if (cpu == 1 && __atomic_load_n(&work.state, __ATOMIC_ACQUIRE) == 1) {
            (void)work.fn(work.arg);
            __atomic_store_n(&work.state, 0, __ATOMIC_RELEASE);
        }
        vmc_bm_wait(UINT64_MAX); /* emulated processors that spin cost time */
    }
}

int hw_thread_start(void *(*fn)(void *), void *arg)
{
    if (__atomic_load_n(&work.cpus_up, __ATOMIC_ACQUIRE) == 0)
        return -1;
    work.fn = fn;
    work.arg = arg;
    __atomic_store_n(&work.state, 1, __ATOMIC_RELEASE);
    vmc_bm_interrupt(1);
    return 0;
}

void hw_thread_wait(void)
{
    while (__atomic_load_n(&work.state, __ATOMIC_ACQUIRE) != 0)
        __builtin_ia32_pause();
}

void test_platform_init_threads(struct test_platform *tp)
{
    tp->pf = *vmc_bm_platform();
    tp->bugs = 0;
}

/* ---- verdict ----------------------------------------------------------------------------------
 */

static void out8(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static _Noreturn void verdict(bool pass)
{
    printf("RESULT: %s\n", pass ? "PASS" : "FAIL");
    for (uint64_t end = vmc_bm_now_ns() + 50000000; vmc_bm_now_ns() < end;)
        vmc_bm_poll(); /* the last bytes leave the serial port */
    __asm__ volatile("outl %0, %1" : : "a"(pass ? 0x10u : 0x11u), "Nd"((uint16_t)0x501));
    if (pass)
        out8(0x8900, 'D');
    for (const char *s = "Shutdown"; *s != 0; s++)
        out8(0x8900, (uint8_t)*s);
    vmc_bm_power_off();
}

/* Value of "name=" on the command line. */
static bool option(const char *line, const char *name, char *value, size_t bytes)
{
    size_t n = strlen(name), i = 0;
    const char *p = strstr(line, name);

    if (p == NULL)
        return false;
    for (p += n; *p != 0 && *p != ' ' && i + 1 < bytes; p++)
        value[i++] = *p;
    value[i] = 0;
    return true;
}

void vmc_bm_main(const struct vmc_bm_machine *machine)
{
    static const char *const kinds[] = {"soft", "vmx", "svm"};
    char engine[16], test[64];
    char name[] = "conformance";
    char *argv[] = {name, engine, test, NULL};
    struct vmc_error err = {.text = "none"};
    enum vmc_hw_kind kind = vmc_hw_detect(vmc_bm_platform(), &err);

    printf("%u processors, TSC %llu Hz, engine %s (%s)\n", machine->cpus,
           (unsigned long long)machine->tsc_hz, kinds[kind], err.text);
    if (kind != VMC_HW_NONE) {
        up(0);
        while (__atomic_load_n(&work.cpus_up, __ATOMIC_ACQUIRE) + 1 < machine->cpus)
            __builtin_ia32_pause();
    }
    if (!option(machine->cmdline, "engine=", engine, sizeof(engine)))
        memcpy(engine, kinds[kind], strlen(kinds[kind]) + 1);
    if (option(machine->cmdline, "bench=", test, sizeof(test)))
        verdict(hw_bench(engine, strcmp(test, "all") == 0 ? "" : test));
    (void)option(machine->cmdline, "without=", without, sizeof(without));
    bool one = option(machine->cmdline, "test=", test, sizeof(test));
    verdict(conf_main(one ? 3 : 2, argv) == 0);
}
