/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Page providers: the same guest on the software CPU and on KVM, while its pages are merged,
 * compressed, swapped and given up; and the windows of the KVM engine by themselves, with threads
 * of this program instead of vCPUs, for hosts without /dev/kvm.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvm_int.h"
#include "kvm_window.h"
#include "test_platform.h"
#include <vmcore/sharing.h>
#include <vmcore/vm.h>
#include <vmcore/x86.h>

#include <cmocka.h>

#define PAGE 4096u

static struct test_platform tp;
static struct vmc_kvm_frames *frames;
static struct vmc_pool *pool;
static struct vmc_share *sh;
static bool can_watch; /* the kernel offers what windows need */

static bool wanted(const char *what)
{
    const char *list = getenv("VMC_TEST_REQUIRE");
    return list != NULL && strstr(list, what) != NULL;
}

/* ---- the pool, and a swap file in memory ----------------------------------------------------- */

static unsigned char *swap_file;
#define SWAP_PAGES 2048u

static int swap_info(void *ctx, struct vmc_block_info *out)
{
    (void)ctx;
    *out = (struct vmc_block_info){.bytes = SWAP_PAGES * PAGE};
    return VMC_OK;
}

static int swap_submit(void *ctx, struct vmc_block_req *r)
{
    (void)ctx;
    unsigned char *at = swap_file + r->offset;
    if (r->op == VMC_BLOCK_WRITE)
        memcpy(at, r->iov[0].base, r->bytes);
    else
        memcpy(r->iov[0].base, at, r->bytes);
    r->status = VMC_OK;
    return VMC_BLOCK_COMPLETE;
}

static const struct vmc_blockdev_ops swap_ops = {.info = swap_info, .submit = swap_submit};

static void pool_up(uint64_t n)
{
    struct vmc_pool_config pc = {.size = sizeof(pc), .max_pages = 8 * n};
    struct vmc_share_config sc = {.size = sizeof(sc), .seed = 7, .order = VMC_SHARE_SEQUENTIAL};
    struct vmc_error err = {0};

    test_platform_init_threads(&tp);
    swap_file = calloc(SWAP_PAGES, PAGE);
    assert_non_null(swap_file);
    assert_int_equal(vmc_kvm_frames_create(n, &frames, &err), VMC_OK);
    vmc_kvm_frames_pool(frames, &pc);
    assert_int_equal(pc.frames, n);
    assert_int_equal(vmc_pool_create(&tp.pf, &pc, &pool, &err), VMC_OK);
    assert_int_equal(vmc_share_create(pool, &sc, &sh, &err), VMC_OK);
}

static void pool_down(void)
{
    vmc_share_destroy(sh);
    vmc_pool_destroy(pool);
    vmc_kvm_frames_destroy(frames);
    free(swap_file);
    test_platform_check(&tp);
}

/* Everything that moves pages, once. */
static void stir(struct vmc_space *const *s, unsigned n, unsigned round)
{
    struct vmc_share_budget b = {.pages = 200};
    struct vmc_share_result r;
    struct vmc_share_pack_result p;
    uint64_t count;

    for (unsigned i = 0; i < n; i++) {
        if (round % 4 == 0) {
            int rc = vmc_space_sample(s[i], &count);
            assert_true(rc == VMC_OK || rc == VMC_EAGAIN);
        }
        if (round % 8 == 5)
            assert_int_not_equal(vmc_space_swap_out(s[i], 8, 400, true, &count), VMC_ENOTSUP);
        vmc_space_poll(s[i]);
    }
    assert_int_equal(vmc_share_scan(sh, &b, &r), VMC_OK);
    if (round % 4 == 3)
        assert_int_equal(vmc_share_pack(sh, NULL, &b, 0, &p), VMC_OK);
}

/* ---- windows, with threads as vCPUs ---------------------------------------------------------- */

struct view {
    struct kvm_window *w;
    struct vmc_space *s;
};

static uint64_t take_back(void *ctx, uint64_t first, uint64_t count)
{
    struct view *v = ctx;
    if (count == 0)
        kvm_window_revoke(v->w, 0, UINT64_MAX);
    else
        kvm_window_revoke(v->w, first, count);
    return 0; /* nobody holds any now */
}
static bool settled(void *ctx, uint64_t ticket)
{
    (void)ctx;
    (void)ticket;
    return true;
}
static const struct vmc_provider_ops view_ops = {.revoke = take_back, .settled = settled};

/* A page that was about to move: once more, as the engine does when KVM_RUN says EFAULT. */
static void again(int sig)
{
    (void)sig;
}

static void view_open(struct view *v, uint64_t pages, uint64_t salt, uint64_t max_mappings)
{
    struct kvm_window_config wc = {
        .frames = frames, .pages = pages, .max_mappings = max_mappings, .around = 4};
    struct vmc_space_config sc = {.size = sizeof(sc),
                                  .pages = pages,
                                  .salt = salt,
                                  .provider = &view_ops,
                                  .provider_ctx = v,
                                  .swap = {.ops = &swap_ops}};
    struct sigaction sa = {.sa_handler = again};
    struct vmc_error err = {0};

    sigaction(SIGSEGV, &sa, NULL);
    assert_int_equal(kvm_window_create(&wc, &v->w, &err), VMC_OK);
    assert_int_equal(vmc_space_create(pool, &sc, &v->s, &err), VMC_OK);
    assert_int_equal(kvm_window_bind(v->w, v->s, 0, &err), VMC_OK);
}

static void view_close(struct view *v)
{
    kvm_window_destroy(v->w);
    vmc_space_destroy(v->s);
    signal(SIGSEGV, SIG_DFL);
}

static volatile uint64_t *word(struct view *v, uint64_t page)
{
    return (volatile uint64_t *)(void *)((char *)kvm_window_base(v->w) + page * PAGE);
}

static void fill(struct view *v, uint64_t page, uint64_t seed)
{
    for (unsigned i = 0; i < PAGE / 8; i++)
        word(v, page)[i] = seed + i % 16;
}
static void expect(struct view *v, uint64_t page, uint64_t seed)
{
    for (unsigned i = 0; i < PAGE / 8; i++)
        assert_int_equal(word(v, page)[i], seed == 0 ? 0 : seed + i % 16);
}

static void touches_bring_pages_in(void **state)
{
    struct view v;

    (void)state;
    if (!can_watch)
        skip();
    pool_up(256);
    view_open(&v, 64, 1, 0);
    expect(&v, 5, 0);
    assert_int_equal(vmc_space_state(v.s, 5), VMC_PAGE_ZERO);
    for (uint64_t p = 0; p < 64; p += 3)
        fill(&v, p, 100 + p);
    for (uint64_t p = 0; p < 64; p++)
        expect(&v, p, p % 3 == 0 ? 100 + p : 0);
    assert_int_equal(vmc_space_state(v.s, 6), VMC_PAGE_PRIVATE);
    fill(&v, 5, 9); /* was read before: a write to a read-only page */
    expect(&v, 5, 9);
    uint64_t n;
    assert_int_equal(vmc_space_sample(v.s, &n), VMC_OK);
    assert_in_range(n, 23, 64);
    expect(&v, 9, 109); /* the entry was dropped; the mapping is still right */
    assert_int_equal(vmc_space_sample(v.s, &n), VMC_OK);
    assert_in_range(n, 1, 4);          /* with neighbours */
    for (uint64_t p = 16; p < 20; p++) /* a gap between neighbours that are there */
        fill(&v, p, 300 + p);
    kvm_window_revoke(v.w, 17, 1);
    expect(&v, 17, 317);
    kvm_window_revoke(v.w, 18, 1);
    fill(&v, 18, 400);
    expect(&v, 18, 400);
    assert_int_equal(vmc_space_drop(v.s, 9, 1, true), 1);
    expect(&v, 9, 0);
    view_close(&v);
    pool_down();
}

static void merged_pages_part_again(void **state)
{
    struct view a, b;

    (void)state;
    if (!can_watch)
        skip();
    pool_up(512);
    view_open(&a, 64, 1, 0);
    view_open(&b, 64, 1, 0);
    for (uint64_t p = 0; p < 64; p++) {
        fill(&a, p, 1000 + p % 8);
        fill(&b, p, 1000 + p % 8);
    }
    struct vmc_space *s[2] = {a.s, b.s};
    struct vmc_pool_stats ps;
    uint64_t n;
    assert_int_equal(vmc_space_sample(a.s, &n), VMC_OK);
    assert_int_equal(vmc_space_sample(b.s, &n), VMC_OK);
    stir(s, 2, 1);
    vmc_pool_stats(pool, &ps);
    assert_int_equal(ps.objects, 8);
    assert_int_equal(ps.private_frames, 0);
    for (uint64_t p = 0; p < 64; p++)
        expect(&a, p, 1000 + p % 8);
    for (uint64_t p = 0; p < 64; p += 2)
        fill(&a, p, 7000 + p);
    for (uint64_t p = 0; p < 64; p++) {
        expect(&a, p, p % 2 == 0 ? 7000 + p : 1000 + p % 8);
        expect(&b, p, 1000 + p % 8);
    }
    assert_int_equal(vmc_space_state(b.s, 0), VMC_PAGE_OBJECT);
    /* Cold ones are compressed and swapped, and come back. */
    for (unsigned i = 0; i < 24; i++)
        stir(s, 2, i);
    vmc_pool_stats(pool, &ps);
    assert_true(ps.packed_objects + ps.delta_objects > 0);
    for (uint64_t p = 0; p < 64; p++) {
        expect(&a, p, p % 2 == 0 ? 7000 + p : 1000 + p % 8);
        expect(&b, p, 1000 + p % 8);
    }
    view_close(&a);
    view_close(&b);
    pool_down();
}

static void few_mappings_do(void **state)
{
    enum { PAGES = 2048 };
    struct kvm_window_stats st;
    struct view v;

    (void)state;
    if (!can_watch)
        skip();
    pool_up(PAGES + 64);
    view_open(&v, PAGES, 1, 300);
    for (uint64_t i = 0; i < PAGES; i++) /* no frame is next to its neighbour's */
        fill(&v, i * 1031 % PAGES, 5 + i);
    for (unsigned round = 0; round < 2; round++)
        for (uint64_t i = 0; i < PAGES; i++)
            expect(&v, i * 1031 % PAGES, 5 + i);
    kvm_window_get_stats(v.w, &st);
    assert_true(st.mappings <= 302);
    assert_true(st.evictions > 0);
    printf("# %llu faults, %llu pages placed anew, %llu mappings, %llu blocks evicted\n",
           (unsigned long long)st.faults, (unsigned long long)st.remaps,
           (unsigned long long)st.mappings, (unsigned long long)st.evictions);
    view_close(&v);
    pool_down();
}

static void *write_one(void *arg)
{
    fill(arg, 100, 77);
    return NULL;
}

/* A VM that finds no free frame waits, and no one else does. */
static void a_full_pool_stalls_and_recovers(void **state)
{
    struct view v;

    (void)state;
    if (!can_watch)
        skip();
    pool_up(64);
    view_open(&v, 128, 1, 0);
    for (uint64_t p = 0; p < 40; p++)
        fill(&v, p, 50 + p);
    vmc_pool_set_budget(pool, 41);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, write_one, &v), 0);
    usleep(20000);
    expect(&v, 3, 53); /* goes on meanwhile */
    uint64_t n;
    assert_int_equal(vmc_space_sample(v.s, &n), VMC_OK);
    vmc_pool_set_budget(pool, 64);
    expect(&v, 39, 89);
    pthread_join(t, NULL);
    expect(&v, 100, 77);
    view_close(&v);
    pool_down();
}

/* ---- nothing gets lost ----------------------------------------------------------------------- */

#define WORKED  160u
#define ROUNDS  100u
#define STIRRED 1500u /* rounds; then the workers may end in peace, however slow the host is */

struct worker {
    struct view *v;
    unsigned index;
};
static uint32_t working;

static void *work(void *arg)
{
    const struct worker *k = arg;

    for (unsigned r = 0; r < ROUNDS; r++) {
        for (uint64_t p = 0; p < WORKED; p++) {
            word(k->v, p)[k->index]++;
            __atomic_fetch_add(word(k->v, p) + 8, 1, __ATOMIC_RELAXED);
        }
        if (r % 16 == 0)
            usleep(1000); /* so that pages are left alone for a while */
    }
    __atomic_fetch_sub(&working, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void threads_lose_nothing_while_pages_move(void **state)
{
    struct view v;
    struct worker k[2] = {{&v, 0}, {&v, 1}};
    pthread_t t[2];

    (void)state;
    if (!can_watch)
        skip();
    pool_up(400);
    view_open(&v, WORKED, 1, 100);
    working = 2;
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&t[i], NULL, work, &k[i]), 0);
    for (unsigned round = 0; __atomic_load_n(&working, __ATOMIC_ACQUIRE) != 0; round++) {
        if (round < STIRRED)
            stir(&v.s, 1, round);
        usleep(500);
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    for (uint64_t p = 0; p < WORKED; p++) {
        assert_int_equal(word(&v, p)[0], ROUNDS);
        assert_int_equal(word(&v, p)[1], ROUNDS);
        assert_int_equal(word(&v, p)[8], 2 * ROUNDS);
    }
    struct vmc_space_stats st;
    vmc_space_stats(v.s, &st);
    printf("# %llu breaks, %llu unpacked, %llu swapped in\n", (unsigned long long)st.breaks,
           (unsigned long long)st.unpacks, (unsigned long long)st.swap_ins);
    view_close(&v);
    pool_down();
}

/* ---- a guest --------------------------------------------------------------------------------- */

#define RAM_PAGES 256u
#define CODE      0x1000u
#define FIRST     16u /* page that the program begins with */

/*
 *        mov bp,laps
 * outer: mov ax,0x1000; mov cx,WORKED
 *   L:   mov es,ax; inc word es:[0]; inc word es:[0x800]; add ax,0x100
 *        mov dx,200; D: dec dx; jnz D; loop L; dec bp; jnz outer; hlt
 */
static const uint8_t program[] = {0xbd, 0x00, 0x00, 0xb8, 0x00, 0x10, 0xb9, WORKED, 0x00,
                                  0x8e, 0xc0, 0x26, 0xff, 0x06, 0x00, 0x00, 0x26,   0xff,
                                  0x06, 0x00, 0x08, 0x05, 0x00, 0x01, 0xba, 0xc8,   0x00,
                                  0x4a, 0x75, 0xfd, 0xe2, 0xe9, 0x4d, 0x75, 0xe0,   0xf4};

/*
 * The same in 64-bit mode, which is what the software CPU translates:
 *        mov ebp,laps
 * outer: mov eax,0x10000; mov ecx,WORKED
 *   L:   inc word [rax]; inc word [rax+0x800]; add eax,0x1000
 *        mov edx,200; D: dec edx; jnz D; dec ecx; jnz L; dec ebp; jnz outer; hlt
 */
static const uint8_t program64[] = {0xbd, 0x00,   0x00, 0x00, 0x00, 0xb8, 0x00, 0x00, 0x01, 0x00,
                                    0xb9, WORKED, 0x00, 0x00, 0x00, 0x66, 0xff, 0x00, 0x66, 0xff,
                                    0x80, 0x00,   0x08, 0x00, 0x00, 0x05, 0x00, 0x10, 0x00, 0x00,
                                    0xba, 0xc8,   0x00, 0x00, 0x00, 0xff, 0xca, 0x75, 0xfc, 0xff,
                                    0xc9, 0x75,   0xe4, 0xff, 0xcd, 0x75, 0xd6, 0xf4};
#define TABLES 180u /* pages of its page tables: three, the first 2 MiB are what they are */

static struct vmc_vm *vm;
static struct vmc_vcpu *vcpu;
static struct vmc_space *ram;

static void put64(uint64_t gpa, uint64_t value)
{
    assert_int_equal(vmc_mem_write(vmc_vm_mem(vm), gpa, &value, sizeof(value)), VMC_OK);
}

static void long_mode(struct vmc_x86_state *st)
{
    put64(TABLES * PAGE, (TABLES + 1) * PAGE | 3);
    put64((TABLES + 1) * PAGE, (TABLES + 2) * PAGE | 3);
    put64((TABLES + 2) * PAGE, 0x83);
    for (unsigned i = VMC_ES; i <= VMC_GS; i++)
        st->seg[i] = (struct vmc_segment){.limit = ~0u, .attr = 0xc093, .selector = 16};
    st->seg[VMC_CS] = (struct vmc_segment){.limit = ~0u, .attr = 0xa09b, .selector = 8};
    st->cr0 = VMC_CR0_ET | VMC_CR0_NE | VMC_CR0_PE | VMC_CR0_PG | VMC_CR0_WP;
    st->cr3 = TABLES * PAGE;
    st->cr4 = VMC_CR4_PAE | VMC_CR4_OSFXSR;
    st->efer = VMC_EFER_LME | VMC_EFER_LMA;
}

static const struct vmc_soft_config translator = {.size = sizeof(translator),
                                                  .flags = VMC_SOFT_TRANSLATE_ALL};

/* soft: how the software CPU works; not NULL: the program in 64-bit mode. */
static int guest_up(const struct vmc_engine_ops *engine, const struct vmc_soft_config *soft,
                    uint16_t laps)
{
    const uint32_t groups = VMC_ST_RIP | VMC_ST_SEG | VMC_ST_CTRL;
    struct vmc_kvm_config kc = {.size = sizeof(kc), .frames = frames};
    struct vmc_vm_config c = {.size = sizeof(c),
                              .max_vcpus = 1,
                              .platform = &tp.pf,
                              .engine = engine,
                              .flags = VMC_VM_NO_IRQCHIP};
    struct vmc_error err = {0};
    struct vmc_x86_state st;

    c.engine_config = engine != vmc_engine_soft() ? (const void *)&kc : soft;
    int rc = vmc_vm_create(&c, &vm, &err);
    if (rc != VMC_OK) {
        print_message("SKIPPED: %s: %s\n", engine->name, err.text);
        return rc;
    }
    struct vmc_space_config sc = {.size = sizeof(sc),
                                  .pages = RAM_PAGES,
                                  .provider = vmc_mem_provider(),
                                  .provider_ctx = vmc_vm_mem(vm),
                                  .swap = {.ops = &swap_ops}};
    assert_int_equal(vmc_space_create(pool, &sc, &ram, &err), VMC_OK);
    struct vmc_mem_slot slot = {
        .size = sizeof(slot), .attr = VMC_MEM_RAM, .bytes = RAM_PAGES * PAGE, .space = ram};
    assert_int_equal(vmc_mem_add(vmc_vm_mem(vm), &slot, &err), VMC_OK);
    assert_int_equal(vmc_mem_write(vmc_vm_mem(vm), CODE, soft != NULL ? program64 : program,
                                   soft != NULL ? sizeof(program64) : sizeof(program)),
                     VMC_OK);
    assert_int_equal(vmc_mem_write(vmc_vm_mem(vm), CODE + 1, &laps, 2), VMC_OK);
    assert_int_equal(vmc_vcpu_create(vm, 0, &vcpu, &err), VMC_OK);
    assert_int_equal(vmc_vm_start(vm, &err), VMC_OK);
    assert_int_equal(vmc_vcpu_get_state(vcpu, groups, &st), VMC_OK);
    st.rip = CODE;
    st.seg[VMC_CS].selector = 0;
    st.seg[VMC_CS].base = 0;
    if (soft != NULL)
        long_mode(&st);
    assert_int_equal(vmc_vcpu_set_state(vcpu, groups, &st), VMC_OK);
    return VMC_OK;
}

static void *run_guest(void *arg)
{
    struct vmc_run_limits lim = {.size = sizeof(lim)};
    struct vmc_exit x = {0};
    int rc;

    (void)arg;
    do {
        rc = vmc_vcpu_run(vcpu, &lim, &x);
    } while (rc >= 0 && (x.kind == VMC_EXIT_KICKED || x.kind == VMC_EXIT_BUDGET));
    __atomic_store_n(&working, 0, __ATOMIC_RELEASE);
    if (rc < 0 || x.kind != VMC_EXIT_IDLE)
        printf("# run answered %d, exit %s\n", rc, vmc_exit_name(x.kind));
    return rc >= 0 && x.kind == VMC_EXIT_IDLE ? vcpu : NULL;
}

/* Value of one of the engine's counters. */
static uint64_t counter(const char *name)
{
    const char *names[256];
    uint64_t values[256];
    size_t n = vmc_vcpu_engine_stats(vcpu, names, values, 256);

    for (size_t i = 0; i < n && i < 256; i++)
        if (strcmp(names[i], name) == 0)
            return values[i];
    return 0;
}

static void guest_loses_nothing(const struct vmc_engine_ops *engine,
                                const struct vmc_soft_config *soft, uint16_t laps)
{
    pthread_t t;
    void *ended;

    pool_up(600);
    if (guest_up(engine, soft, laps) != VMC_OK) {
        pool_down();
        assert_false(wanted("kvm"));
        skip();
    }
    working = 1;
    assert_int_equal(pthread_create(&t, NULL, run_guest, NULL), 0);
    for (unsigned round = 0; __atomic_load_n(&working, __ATOMIC_ACQUIRE) != 0; round++) {
        if (round < STIRRED) {
            stir(&ram, 1, round);
            /* What the guest does not use is given up and taken back all the time. */
            (void)vmc_mem_drop(vmc_vm_mem(vm), 200 * PAGE, 40 * PAGE, true);
            vmc_mem_return(vmc_vm_mem(vm), 200 * PAGE, 40 * PAGE);
        }
        usleep(500);
    }
    pthread_join(t, &ended);
    assert_non_null(ended);
    for (uint64_t p = FIRST; p < FIRST + WORKED; p++) {
        uint16_t got[2] = {0};
        assert_int_equal(vmc_mem_read(vmc_vm_mem(vm), p * PAGE, &got[0], 2), VMC_OK);
        assert_int_equal(vmc_mem_read(vmc_vm_mem(vm), p * PAGE + 0x800, &got[1], 2), VMC_OK);
        assert_int_equal(got[0], laps);
        assert_int_equal(got[1], laps);
    }
    struct vmc_space_stats st;
    vmc_space_stats(ram, &st);
    printf("# %s: %llu translated, %llu breaks, %llu unpacked, %llu swapped in\n", engine->name,
           (unsigned long long)counter("bt.translated"), (unsigned long long)st.breaks,
           (unsigned long long)st.unpacks, (unsigned long long)st.swap_ins);
    vmc_vm_destroy(vm);
    vmc_space_destroy(ram);
    pool_down();
}

static void on_the_software_cpu(void **state)
{
    (void)state;
    guest_loses_nothing(vmc_engine_soft(), NULL, 2000);
}

/* Builds with sanitizers have no translator: they interpret the same program. */
#ifdef VMC_SANITIZED
#define TRANSLATED_LAPS 500
#else
#define TRANSLATED_LAPS 20000
#endif

static void on_the_translator(void **state)
{
    (void)state;
    guest_loses_nothing(vmc_engine_soft(), &translator, TRANSLATED_LAPS);
}

/*
 *        mov ax,0x2000; mov ds,ax; mov byte [0],RETF; call 0x2000:0; mov byte [0x10],0x5a; hlt
 *
 * A page that is written, then executed, then written once more.
 */
static const uint8_t patching[] = {0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xc6, 0x06, 0x00, 0x00, 0xcb, 0x9a,
                                   0x00, 0x00, 0x00, 0x20, 0xc6, 0x06, 0x10, 0x00, 0x5a, 0xf4};

static void executed_pages_stay_writable(void **state)
{
    uint8_t got = 0;

    (void)state;
    pool_up(600);
    assert_int_equal(guest_up(vmc_engine_soft(), NULL, 1), VMC_OK);
    assert_int_equal(vmc_mem_write(vmc_vm_mem(vm), CODE, patching, sizeof(patching)), VMC_OK);
    assert_non_null(run_guest(NULL));
    assert_int_equal(vmc_mem_read(vmc_vm_mem(vm), 0x20010, &got, 1), VMC_OK);
    assert_int_equal(got, 0x5a);
    vmc_vm_destroy(vm);
    vmc_space_destroy(ram);
    pool_down();
}

static void on_kvm(void **state)
{
    (void)state;
    if (!can_watch)
        skip();
    guest_loses_nothing(vmc_engine_kvm(), NULL, 25);
}

static void without_frames_paged_slots_are_refused(void **state)
{
    struct vmc_vm_config c = {.size = sizeof(c),
                              .max_vcpus = 1,
                              .platform = &tp.pf,
                              .engine = vmc_engine_kvm(),
                              .flags = VMC_VM_NO_IRQCHIP};
    struct vmc_error err = {0};

    (void)state;
    pool_up(64);
    if (vmc_vm_create(&c, &vm, &err) != VMC_OK) {
        pool_down();
        assert_false(wanted("kvm"));
        skip();
    }
    struct vmc_space_config sc = {.size = sizeof(sc),
                                  .pages = 16,
                                  .provider = vmc_mem_provider(),
                                  .provider_ctx = vmc_vm_mem(vm)};
    assert_int_equal(vmc_space_create(pool, &sc, &ram, &err), VMC_OK);
    struct vmc_mem_slot slot = {
        .size = sizeof(slot), .attr = VMC_MEM_RAM, .bytes = 16 * PAGE, .space = ram};
    int rc = vmc_mem_add(vmc_vm_mem(vm), &slot, &err);
    if (rc == VMC_OK) {
        assert_int_equal(vmc_vcpu_create(vm, 0, &vcpu, &err), VMC_OK);
        rc = vmc_vm_start(vm, &err);
    }
    assert_int_equal(rc, VMC_ENOTSUP);
    vmc_vm_destroy(vm);
    vmc_space_destroy(ram);
    pool_down();
}

/* A kernel that refuses every change of a slot: the engine's slots stay as the kernel has them. */
static void refused_dirty_logs_change_nothing(void **state)
{
    struct kvm_evm k = {.fd = -1, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct kvm_slot *s = &k.slot[0];

    (void)state;
    *s = (struct kvm_slot){.used = true, .attr = VMC_MEM_RAM, .bytes = 16 * PAGE};
    assert_int_equal(kvm_dirty_log(&k, true), VMC_EHOST);
    assert_false(s->logging);
    assert_null(s->dirty);

    s->logging = true;
    s->dirty = calloc(1, sizeof(s->dirty[0]));
    assert_non_null(s->dirty);
    s->dirty[0] = 2;
    assert_int_equal(kvm_dirty_log(&k, false), VMC_EHOST);
    assert_true(s->logging); /* fetches still come to the bits */
    assert_non_null(s->dirty);
    assert_int_equal(s->dirty[0], 2);
    free(s->dirty);
}

static void look_for_userfaultfd(void)
{
    struct kvm_window_config wc = {.pages = 1};
    struct kvm_window *w = NULL;
    struct vmc_error err = {0};

    can_watch = kvm_window_create(&wc, &w, &err) == VMC_OK;
    if (can_watch)
        kvm_window_destroy(w);
    else
        printf("SKIPPED: windows: %s\n", err.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(touches_bring_pages_in),
        cmocka_unit_test(merged_pages_part_again),
        cmocka_unit_test(few_mappings_do),
        cmocka_unit_test(a_full_pool_stalls_and_recovers),
        cmocka_unit_test(threads_lose_nothing_while_pages_move),
        cmocka_unit_test(on_the_software_cpu),
        cmocka_unit_test(on_the_translator),
        cmocka_unit_test(executed_pages_stay_writable),
        cmocka_unit_test(on_kvm),
        cmocka_unit_test(without_frames_paged_slots_are_refused),
        cmocka_unit_test(refused_dirty_logs_change_nothing),
    };
    look_for_userfaultfd();
    if (!can_watch && wanted("userfaultfd"))
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
