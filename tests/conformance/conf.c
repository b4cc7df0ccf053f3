/* SPDX-License-Identifier: BSD-2-Clause */
/* The harness and the program. */
#define _GNU_SOURCE
#include "conf.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef VMC_HAVE_KVM
#include <vmcore/kvm.h>
#endif
#ifdef VMC_HAVE_HW
#include <vmcore/hw.h>
#endif

#define RUN_NS 60000000000u /* far beyond what any guest here needs */

void conf_fail(struct conf *c, const char *file, int line, const char *what)
{
    const char *base = strrchr(file, '/');

    if (!c->failed)
        printf("    %s:%d: %s\n      last exit: %s rip 0x%llx\n", base != NULL ? base + 1 : file,
               line, what, vmc_exit_name(c->x.kind), (unsigned long long)c->x.rip);
    c->failed = true;
}

void conf_fail_eq(struct conf *c, const char *file, int line, const char *what, uint64_t a,
                  uint64_t b)
{
    if (!c->failed)
        printf("    0x%llx != 0x%llx\n", (unsigned long long)a, (unsigned long long)b);
    conf_fail(c, file, line, what);
}

/* ---- what the engine may ask --------------------------------------------------------------- */

/* Every access exits: that is what the suite looks at. */
static int io_pio(void *ctx, bool write, uint16_t port, unsigned bytes, uint32_t *data)
{
    (void)ctx, (void)write, (void)port, (void)bytes, (void)data;
    return VMC_IO_EXIT;
}

static int io_mmio(void *ctx, bool write, uint64_t gpa, unsigned bytes, uint64_t *data)
{
    (void)ctx, (void)write, (void)gpa, (void)bytes, (void)data;
    return VMC_IO_EXIT;
}

static int io_msr(void *ctx, bool write, uint32_t index, uint64_t *value)
{
    (void)ctx, (void)write, (void)index, (void)value;
    return VMC_IO_EXIT;
}

static int io_pending(void *ctx)
{
    struct conf *c = ctx;
    return __atomic_load_n(&c->irq, __ATOMIC_ACQUIRE);
}

static int io_ack(void *ctx)
{
    struct conf *c = ctx;
    c->irq_taken++;
    return __atomic_exchange_n(&c->irq, -1, __ATOMIC_ACQ_REL);
}

static uint64_t io_get_tpr(void *ctx)
{
    return ((struct conf *)ctx)->cr8;
}

static void io_set_tpr(void *ctx, uint64_t cr8)
{
    ((struct conf *)ctx)->cr8 = cr8;
}

static const struct vmc_engine_io io_ops = {
    .pio = io_pio, .mmio = io_mmio, .msr = io_msr, .irq_pending = io_pending, .irq_ack = io_ack,
    .get_tpr = io_get_tpr, .set_tpr = io_set_tpr};

/* ---- guests -------------------------------------------------------------------------------- */

static void put64(struct conf *c, uint32_t at, uint64_t v)
{
    memcpy(c->ram + at, &v, sizeof(v));
}

static bool has_code(unsigned vector)
{
    return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

/* push rax; mov al, vector; out VECTOR, al; pop rax; [add rsp, 8]; iretq */
static void build_stubs(struct conf *c)
{
    for (unsigned v = 0; v < 256; v++) {
        uint8_t code[16] = {0x50, 0xb0, (uint8_t)v, 0xe6, VECTOR, 0x58};
        static const uint8_t drop[] = {0x48, 0x83, 0xc4, 0x08}, ret[] = {0x48, 0xcf};
        uint8_t *p = code + 6;
        if (has_code(v)) {
            memcpy(p, drop, sizeof(drop));
            p += sizeof(drop);
        }
        memcpy(p, ret, sizeof(ret));
        memcpy(c->ram + STUBS + v * 16, code, sizeof(code));
        uint64_t at = STUBS + v * 16;
        if (v < 224) /* the table ends before the TSS */
            put64(c, IDT + v * 16, (at & 0xffff) | (uint64_t)CS64 << 16 | 0x8e00ull << 32 |
                                       (at >> 16) << 48);
    }
}

static void build_tables(struct conf *c)
{
    put64(c, PML4, PDPT | 7);
    put64(c, PDPT, PD_LOW | 7);
    put64(c, PDPT + 24, PD_HIGH | 7);
    put64(c, PD_LOW, PT_USER | 7);
    for (unsigned i = 0; i < 256; i++) /* the first MiB by small pages */
        put64(c, PT_USER + i * 8, i * 4096ull | 7);
    for (unsigned i = 0; i < 512; i++) /* 3-4 GiB: devices */
        put64(c, PD_HIGH + i * 8, (0xc0000000ull + i * 0x200000ull) | 0x87);
    put64(c, GDT + CS32, 0x00cf9b000000ffffull);
    put64(c, GDT + DS32, 0x00cf93000000ffffull);
    put64(c, GDT + CS64, 0x00af9b000000ffffull);
    build_stubs(c);
}

static void segments(struct vmc_x86_state *st, enum conf_mode mode)
{
    static const struct vmc_segment data32 = {.limit = ~0u, .attr = 0xc093, .selector = DS32};

    if (mode == REAL16) {
        for (unsigned i = VMC_ES; i <= VMC_GS; i++)
            st->seg[i] = (struct vmc_segment){.limit = 0xffff, .attr = i == VMC_CS ? 0x9b : 0x93};
        st->seg[VMC_ES].selector = 0x2000; /* DATA */
        st->seg[VMC_ES].base = DATA;
        return;
    }
    for (unsigned i = VMC_ES; i <= VMC_GS; i++)
        st->seg[i] = data32;
    st->seg[VMC_CS] = mode == PROT32
                          ? (struct vmc_segment){.limit = ~0u, .attr = 0xc09b, .selector = CS32}
                          : (struct vmc_segment){.limit = ~0u, .attr = 0xa09b, .selector = CS64};
    st->seg[VMC_TR] = (struct vmc_segment){.base = TSS, .limit = 0x67, .attr = 0x8b};
}

void conf_start(struct conf *c, unsigned cpu, enum conf_mode mode, uint64_t rip)
{
    struct vmc_x86_state *st = c->st;

    vmc_x86_state_reset(st);
    segments(st, mode);
    st->cr0 = VMC_CR0_ET | VMC_CR0_NE;
    if (mode != REAL16) {
        st->cr0 |= VMC_CR0_PE;
        st->gdtr = (struct vmc_table){.base = GDT, .limit = 0x1f};
    }
    if (mode == LONG64) {
        st->cr0 |= VMC_CR0_PG | VMC_CR0_WP;
        st->cr3 = PML4;
        st->cr4 = VMC_CR4_PAE | VMC_CR4_OSFXSR;
        st->efer = VMC_EFER_LME | VMC_EFER_LMA;
        st->idtr = (struct vmc_table){.base = IDT, .limit = 224 * 16 - 1};
    }
    st->rip = rip;
    st->gpr[VMC_RSP] = (mode == REAL16 ? 0x7000u : STACK) - cpu * 0x1000u;
    CHECK_EQ(c->ops->set_state(c->ev[cpu],
                               VMC_ST_GPR | VMC_ST_RIP | VMC_ST_SEG | VMC_ST_TABLES | VMC_ST_CTRL |
                                   VMC_ST_DEBUG | VMC_ST_EVENT | VMC_ST_RUN,
                               st),
             VMC_OK);
}

void conf_load(struct conf *c, enum conf_mode mode, const uint8_t *code, const uint8_t *end)
{
    if (vmc_mem_write(c->mem, CODE, code, (size_t)(end - code)) != VMC_OK)
        conf_fail(c, __FILE__, __LINE__, "guest code fits");
    conf_start(c, 0, mode, CODE);
}

/* ---- running ------------------------------------------------------------------------------- */

bool conf_run_limits(struct conf *c, uint64_t max_insns, uint64_t deadline_ns)
{
    struct vmc_run_limits lim = {
        .size = sizeof(lim), .max_insns = max_insns, .deadline_ns = deadline_ns};

    if (STOPPED(c))
        return false;
    int rc = c->ops->run(c->ev[0], &lim, &c->x);
    if (rc != VMC_OK) {
        printf("    run: %s\n", vmc_strerror(rc));
        conf_fail(c, __FILE__, __LINE__, "run succeeds");
        return false;
    }
    bool gap = c->x.kind == VMC_EXIT_EMULATION || c->x.kind == VMC_EXIT_FAIL_ENTRY;
    if (gap && c->emulated)
        c->skip = "this emulated KVM lacks an instruction of the test";
    return !STOPPED(c);
}

bool conf_run(struct conf *c)
{
    uint64_t now = c->tp.pf.now_ns(c->tp.pf.ctx);

    return conf_run_limits(c, 0, c->info.caps & VMC_CAP_DEADLINE ? now + RUN_NS : 0);
}

void conf_complete(struct conf *c)
{
    c->x.answer = VMC_ANSWER_DONE;
    CHECK_EQ(c->ops->complete(c->ev[0], &c->x), VMC_OK);
}

bool conf_is_out(const struct conf *c, uint16_t port)
{
    return c->x.kind == VMC_EXIT_IO && c->x.u.io.write && c->x.u.io.port == port;
}

bool conf_answer(struct conf *c)
{
    struct vmc_exit *x = &c->x;

    if (x->kind == VMC_EXIT_IO && x->u.io.port >= DEV_PORT &&
        x->u.io.port + x->u.io.bytes <= DEV_PORT + sizeof(c->port)) {
        uint8_t *at = c->port + (x->u.io.port - DEV_PORT);
        if (x->u.io.write)
            memcpy(at, &x->u.io.data, x->u.io.bytes);
        else
            memcpy(&x->u.io.data, at, x->u.io.bytes);
    } else if (x->kind == VMC_EXIT_MMIO && x->u.mmio.gpa >= DEV &&
               x->u.mmio.gpa + x->u.mmio.bytes <= DEV + sizeof(c->dev)) {
        uint8_t *at = c->dev + (x->u.mmio.gpa - DEV);
        if (x->u.mmio.write)
            memcpy(at, &x->u.mmio.data, x->u.mmio.bytes);
        else
            memcpy(&x->u.mmio.data, at, x->u.mmio.bytes);
    } else {
        return false;
    }
    c->dev_accesses++;
    conf_complete(c);
    return true;
}

bool conf_serve(struct conf *c)
{
    do {
        if (!conf_run(c))
            return false;
    } while (conf_answer(c) && !c->failed);
    return !STOPPED(c);
}

bool conf_get(struct conf *c, uint32_t groups)
{
    int rc = c->ops->get_state(c->ev[0], groups, c->st);
    if (rc != VMC_OK)
        conf_fail(c, __FILE__, __LINE__, "get_state succeeds");
    return rc == VMC_OK;
}

bool conf_set(struct conf *c, uint32_t groups)
{
    int rc = c->ops->set_state(c->ev[0], groups, c->st);
    if (rc != VMC_OK) {
        printf("    set_state(0x%x): %s\n", groups, vmc_strerror(rc));
        conf_fail(c, __FILE__, __LINE__, "set_state succeeds");
    }
    return rc == VMC_OK;
}

/* ---- one engine ---------------------------------------------------------------------------- */

static void *page_memory(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p != MAP_FAILED ? p : NULL;
}

static bool add_memory(struct conf *c, struct vmc_error *err)
{
    struct vmc_mem_slot ram = {.size = sizeof(ram), .attr = VMC_MEM_RAM, .bytes = RAM_BYTES};
    struct vmc_mem_slot rom = {
        .size = sizeof(rom), .attr = VMC_MEM_ROM, .gpa = ROM, .bytes = 0x10000};

    ram.backing = c->ram = page_memory(RAM_BYTES);
    rom.backing = c->rom = page_memory(0x10000);
    if (c->ram == NULL || c->rom == NULL)
        return false;
    memset(c->rom, ROM_BYTE, 0x10000);
    return vmc_mem_create(&c->tp.pf, &c->mem, err) == VMC_OK &&
           vmc_mem_add(c->mem, &ram, err) == VMC_OK && vmc_mem_add(c->mem, &rom, err) == VMC_OK;
}

static bool up(struct conf *c, struct vmc_error *err)
{
    struct vmc_engine_vm_config cfg = {.size = sizeof(cfg), .max_vcpus = CPUS};

    c->irq = -1;
    c->skip = NULL;
    c->failed = false;
    cfg.platform = &c->tp.pf;
    if (!add_memory(c, err))
        return false;
    cfg.mem = c->mem;
    c->evm = aligned_alloc(64, (c->info.vm_bytes + 63) & ~(size_t)63);
    memset(c->evm, 0, c->info.vm_bytes);
    if (c->ops->vm_init(c->evm, &cfg, err) != VMC_OK)
        return false;
    for (unsigned i = 0; i < CPUS; i++) {
        c->ev[i] = aligned_alloc(64, (c->info.vcpu_bytes + 63) & ~(size_t)63);
        memset(c->ev[i], 0, c->info.vcpu_bytes);
        c->io[i] = io_ops;
        c->io[i].ctx = c;
        if (c->ops->vcpu_init(c->evm, c->ev[i], i, &c->io[i], err) != VMC_OK)
            return false;
    }
    build_tables(c);
    return c->ops->set_policy(c->evm, &c->info.ceiling, err) == VMC_OK &&
           c->ops->mem_changed(c->evm) == VMC_OK;
}

static void down(struct conf *c)
{
    for (unsigned i = 0; i < CPUS; i++) {
        c->ops->vcpu_fini(c->ev[i]);
        free(c->ev[i]);
    }
    c->ops->vm_fini(c->evm);
    free(c->evm);
    vmc_mem_destroy(c->mem);
    munmap(c->ram, RAM_BYTES);
    munmap(c->rom, 0x10000);
    memset(c->dev, 0, sizeof(c->dev));
    memset(c->port, 0, sizeof(c->port));
    c->dev_accesses = 0;
    c->irq_taken = 0;
    c->cr8 = 0;
}

static const struct {
    const char *title;
    const struct conf_test *tests;
} groups[] = {
    {"state", conf_state_tests}, {"exits", conf_exit_tests}, {"mmio", conf_mmio_tests},
    {"events", conf_event_tests}, {"run", conf_run_tests}, {"memory", conf_mem_tests},
};

static void run_test(struct conf *c, const struct conf_test *t, unsigned counts[3])
{
    struct vmc_error err = {.text = ""};

    printf("  %s\n", t->name);
    if (!up(c, &err)) {
        printf("    FAIL: the engine does not start: %s\n", err.text);
        counts[1]++;
        return;
    }
    const char *without = getenv("VMC_CONFORMANCE_WITHOUT");
    if (without != NULL && strstr(without, t->name) != NULL)
        c->skip = "not on this machine, says VMC_CONFORMANCE_WITHOUT";
    else
        t->fn(c);
    if (!c->failed && c->skip == NULL && c->tp.bugs != 0)
        conf_fail(c, __FILE__, __LINE__, "no broken invariant is reported");
    c->tp.bugs = 0;
    if (c->failed) {
        printf("    FAIL\n");
        counts[1]++;
    } else if (c->skip != NULL) {
        printf("    skipped: %s\n", c->skip);
        counts[2]++;
    } else {
        counts[0]++;
    }
    down(c);
    fflush(stdout);
}

static const struct vmc_engine_ops *engine_named(const char *name)
{
    if (strcmp(name, "soft") == 0)
        return vmc_engine_soft();
#ifdef VMC_HAVE_KVM
    if (strcmp(name, "kvm") == 0)
        return vmc_engine_kvm();
    if (strcmp(name, "kvm-user-apic") == 0)
        return vmc_engine_kvm_user_apic();
#endif
#ifdef VMC_HAVE_HW /* in the kernel of tests/hw */
    if (strcmp(name, "vmx") == 0)
        return vmc_engine_vmx();
    if (strcmp(name, "svm") == 0)
        return vmc_engine_svm();
#endif
    return NULL;
}

static int missing(const char *name, const char *why)
{
    const char *require = getenv("VMC_TEST_REQUIRE");
    bool needed = require != NULL && strstr(require, strncmp(name, "kvm", 3) == 0 ? "kvm" : name);

    printf("**** %s: engine %s: %s\n", needed ? "FAIL" : "SKIP", name, why);
    return needed ? 1 : 77;
}

static bool kvm_is_emulated(struct conf *c)
{
#ifdef VMC_HAVE_KVM
    struct vmc_kvm_report r;
    struct vmc_error err;
    if (strncmp(c->ops->name, "kvm", 3) == 0 && vmc_kvm_check(&c->tp.pf, &r, &err) != VMC_OK) {
        printf("note: %s\n", r.missing);
        return true;
    }
#endif
    (void)c;
    return false;
}

int main(int argc, char **argv)
{
    static struct conf conf;
    struct conf *c = &conf;
    struct vmc_error err = {.text = ""};
    unsigned counts[3] = {0, 0, 0}; /* passed, failed, skipped */

    if (argc < 2) {
        fprintf(stderr, "usage: conformance ENGINE [TEST]\n");
        return 2;
    }
    alarm(1500);
    test_platform_init_threads(&c->tp);
    c->ops = engine_named(argv[1]);
    if (c->ops == NULL)
        return missing(argv[1], "not built in");
    if (c->ops->probe(&c->tp.pf, &c->info, &err) != VMC_OK)
        return missing(argv[1], err.text);
    c->emulated = kvm_is_emulated(c);
    c->st = aligned_alloc(64, (sizeof(*c->st) + 63) & ~(size_t)63);
    for (size_t g = 0; g < sizeof(groups) / sizeof(groups[0]); g++) {
        printf("%s:\n", groups[g].title);
        for (const struct conf_test *t = groups[g].tests; t->name != NULL; t++) {
            if (argc < 3 || strcmp(argv[2], t->name) == 0)
                run_test(c, t, counts);
        }
    }
    free(c->st);
    printf("RESULT: %s: %u passed, %u failed, %u skipped\n", argv[1], counts[0], counts[1],
           counts[2]);
    return counts[1] != 0 || counts[0] == 0;
}
