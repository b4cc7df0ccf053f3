/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two vCPUs at work in memory whose pages are merged, compressed and given back all the time: no
 * increment may get lost, and no locked one either.
 */
#include <pthread.h>

#include "space_rig.h"

#include "cpu_rig.h"

#define AT      0x2000000u /* of the moving slot */
#define PAGES   256u
#define WORKED  200u /* pages that the program walks */
#define PROGRAM (AT + 250 * 4096)
#define ROUNDS  100u

/*
 * outer: mov rbx,rdi; mov ecx,WORKED
 *    L:  inc dword [rbx+rsi]; lock inc dword [rbx+16]
 *        mov edx,3000; D: dec edx; jnz D                 (leaves the page alone for a while)
 *        add rbx,4096; dec ecx; jnz L; dec ebp; jnz outer; hlt
 */
static const uint8_t program[] = {0x48, 0x89, 0xfb, 0xb9, WORKED, 0,    0,    0,    0xff, 0x04,
                                  0x33, 0xf0, 0xff, 0x43, 0x10,   0xba, 0xb8, 0x0b, 0,    0,
                                  0xff, 0xca, 0x75, 0xfc, 0x48,   0x81, 0xc3, 0,    0x10, 0,
                                  0,    0xff, 0xc9, 0x75, 0xe5,   0xff, 0xcd, 0x75, 0xd9, 0xf4};

static struct cpu_rig rig;
static struct test_platform tp;
static struct vmc_pool *pool;
static struct vmc_space *space;
static struct vmc_share *sh;
static void *ev[2];

static int setup(void **state)
{
    struct vmc_space_config sc = {
        .size = sizeof(sc), .pages = PAGES, .provider = vmc_mem_provider()};
    struct vmc_share_config hc = {.size = sizeof(hc), .seed = 9};
    struct vmc_error err;
    size_t bytes;

    (void)state;
    test_platform_init_threads(&tp);
    cpu_rig_create(&rig, 0);
    pool = rig_pool(&tp, 1024);
    sc.provider_ctx = rig.mem;
    assert_int_equal(vmc_space_create(pool, &sc, &space, NULL), VMC_OK);
    assert_int_equal(vmc_share_create(pool, &hc, &sh, NULL), VMC_OK);
    struct vmc_mem_slot slot = {.size = sizeof(slot),
                                .attr = VMC_MEM_RAM,
                                .gpa = AT,
                                .bytes = PAGES * 4096,
                                .space = space};
    assert_int_equal(vmc_mem_add(rig.mem, &slot, &err), VMC_OK);
    assert_int_equal(rig.ops->mem_changed(rig.evm), VMC_OK);
    bytes = (rig.info.vcpu_bytes + 63) & ~(size_t)63;
    ev[0] = rig.ev;
    ev[1] = aligned_alloc(64, bytes);
    assert_non_null(ev[1]);
    memset(ev[1], 0, bytes);
    return rig.ops->vcpu_init(rig.evm, ev[1], 1, NULL, &err);
}

static int teardown(void **state)
{
    (void)state;
    rig.ops->vcpu_fini(ev[1]);
    free(ev[1]);
    vmc_share_destroy(sh);
    cpu_rig_destroy(&rig);
    vmc_space_destroy(space);
    vmc_pool_destroy(pool);
    test_platform_check(&tp);
    return 0;
}

static void load(unsigned cpu, uint64_t rip, uint64_t rounds)
{
    cpu_rig_mode(&rig, 64, 0);
    rig.st.rip = rip;
    rig.st.gpr[VMC_RBP] = rounds;
    rig.st.gpr[VMC_RDI] = AT;
    rig.st.gpr[VMC_RSI] = cpu * 8;
    rig.st.gpr[VMC_RSP] -= cpu * 0x4000;
    assert_int_equal(rig.ops->set_state(ev[cpu], VMC_ST_ALL & ~(uint32_t)VMC_ST_LAPIC, &rig.st), 0);
}

static uint32_t running;

static void *run(void *e)
{
    struct vmc_run_limits lim = {.size = sizeof(lim), .max_insns = 20000000000ull};
    struct vmc_exit x = {0};
    int rc = rig.ops->run(e, &lim, &x);

    __atomic_fetch_sub(&running, 1, __ATOMIC_RELEASE);
    return rc != 0 ? NULL : (void *)(uintptr_t)x.kind;
}

/* Everything that moves pages, as fast as it goes. */
static void stir(unsigned round)
{
    struct vmc_share_budget b = {.pages = 100};
    struct vmc_share_result r;
    struct vmc_share_pack_result p;
    uint64_t n;

    if (round % 16 == 0) { /* in between, what was revoked gets time to settle */
        int rc = vmc_space_sample(space, &n);
        assert_true(rc == VMC_OK || rc == VMC_EAGAIN);
    }
    assert_int_equal(vmc_share_scan(sh, &b, &r), VMC_OK);
    if (round % 3 == 0)
        assert_int_equal(vmc_share_pack(sh, space, &b, 0, &p), VMC_OK);
    vmc_space_poll(space);
}

static void nothing_gets_lost_while_pages_move(void **state)
{
    (void)state;
    struct vmc_space_stats st;
    pthread_t t[2];
    void *kind;
    unsigned round = 0;

    /* The platform counts allocations without a lock: let each vCPU make its own now. */
    assert_int_equal(vmc_mem_write(rig.mem, PROGRAM, program, sizeof(program)), VMC_OK);
    for (unsigned i = 0; i < 2; i++) {
        load(i, PROGRAM, 1);
        running = 1;
        assert_int_equal((uintptr_t)run(ev[i]), VMC_EXIT_IDLE);
    }
    assert_int_equal(vmc_mem_set(rig.mem, AT, 0, WORKED * 4096), VMC_OK);
    for (unsigned i = 0; i < 2; i++)
        load(i, PROGRAM, ROUNDS);
    running = 2;
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&t[i], NULL, run, ev[i]), 0);
    while (__atomic_load_n(&running, __ATOMIC_ACQUIRE) != 0)
        stir(round++);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(t[i], &kind), 0);
        assert_int_equal((uintptr_t)kind, VMC_EXIT_IDLE);
    }
    for (uint32_t p = 0; p < WORKED; p++) {
        uint32_t v[6];
        assert_int_equal(vmc_mem_read(rig.mem, AT + p * 4096, v, sizeof(v)), VMC_OK);
        assert_int_equal(v[0], ROUNDS);
        assert_int_equal(v[2], ROUNDS);
        assert_int_equal(v[4], 2 * ROUNDS);
    }
    vmc_space_stats(space, &st);
    print_message("%u rounds, %llu breaks, %llu unpacks\n", round, (unsigned long long)st.breaks,
                  (unsigned long long)st.unpacks);
    assert_true(st.breaks > 0);
    rig_check(pool);
    assert_int_equal(pool->unpack_bad, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_gets_lost_while_pages_move, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
