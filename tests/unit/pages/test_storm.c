/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Everything at once: vCPUs and devices read and write the pages of two VMs while other threads
 * merge, compress, swap, sample and give up the same pages. Every word that is read must be the
 * last one written there, or newer, whoever wrote it.
 *
 * Each page has a few words that count. What was last written to a word, and what is being written,
 * stand beside it (lo, hi); writers of a page take turns, readers do not wait for them. Giving a
 * page up changes its generation, and what was read across that is not judged.
 */
#define _GNU_SOURCE
#include "space_rig.h"

#include <pthread.h>
#include <stdio.h>
#include <time.h>

#define SPACES 2u
#define VCPUS  2u /* of each space */
#define PAGES  1536u
#define FRAMES 2600u
#define WORDS  3u
#define HOT    24u   /* pages that half of all accesses go to */
#define ROUNDS 1500u /* of the thread that moves pages */

static struct test_platform tp;
static struct vmc_pool *pool;
static struct vmc_share *share;

struct counted {
    uint64_t lo[WORDS], hi[WORDS]; /* (a) */
    uint32_t gen;                  /* (a) odd: being given up */
    uint32_t turn;                 /* (a) a writer's */
};

struct vcpu {
    struct vm *vm;
    uint64_t ack; /* (a) revokes obeyed; UINT64_MAX: holds nothing */
    uint64_t seen;
    uint64_t seed;
    unsigned char *rd[PAGES], *wr[PAGES];
};

struct vm {
    struct vmc_space *space;
    struct counted page[PAGES];
    struct vcpu cpu[VCPUS];
    uint64_t seq; /* (a) revokes */
    unsigned char *swap;
};

static struct vm vms[SPACES];
static uint64_t clock_now; /* (a) writes so far, of everybody: what they write */
static uint32_t stop;      /* (a) 1: no more accesses; 2: nothing moves; 3: the disk is idle */
static uint64_t drops, device_ops; /* (a) */

static const unsigned word_at[WORDS] = {0, 264, 511};

static uint64_t rnd(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    return *seed >> 33;
}

static unsigned pick(uint64_t *seed)
{
    return (unsigned)(rnd(seed) % 2 == 0 ? rnd(seed) % HOT * 61 : rnd(seed) % PAGES);
}

static bool running(void)
{
    return vmci_load_acquire(&stop) == 0;
}

/* ---- the provider ------------------------------------------------------------------------------
 */

static uint64_t revoke(void *ctx, uint64_t first, uint64_t count)
{
    struct vm *vm = ctx;

    (void)first;
    (void)count;
    return __atomic_add_fetch(&vm->seq, 1, __ATOMIC_SEQ_CST);
}

static bool settled(void *ctx, uint64_t ticket)
{
    struct vm *vm = ctx;

    for (unsigned i = 0; i < VCPUS; i++)
        if (vmci_load_acquire(&vm->cpu[i].ack) < ticket)
            return false;
    return true;
}

static const struct vmc_provider_ops provider = {.revoke = revoke, .settled = settled};

static void obey(struct vcpu *c)
{
    uint64_t seq = __atomic_load_n(&c->vm->seq, __ATOMIC_SEQ_CST);

    if (seq != c->seen) {
        memset(c->rd, 0, sizeof(c->rd));
        memset(c->wr, 0, sizeof(c->wr));
        c->seen = seq;
    }
    vmci_store_release(&c->ack, seq);
}

static void leave(struct vcpu *c)
{
    vmci_store_release(&c->ack, UINT64_MAX);
}

static void enter(struct vcpu *c)
{
    __atomic_store_n(&c->ack, 0, __ATOMIC_SEQ_CST);
    obey(c);
}

/* ---- a swap file whose requests take a while ---------------------------------------------------
 */

static struct {
    pthread_mutex_t lock;
    struct {
        struct vm *vm;
        struct vmc_block_req *req;
    } queue[SPACES * VMCI_SWAP_IO];
    unsigned count;
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int swap_info(void *ctx, struct vmc_block_info *out)
{
    (void)ctx;
    *out = (struct vmc_block_info){.bytes = PAGES * VMC_PAGE_SIZE, .sector_bytes = 512};
    return VMC_OK;
}

static int swap_submit(void *ctx, struct vmc_block_req *r)
{
    pthread_mutex_lock(&disk.lock);
    disk.queue[disk.count].vm = ctx;
    disk.queue[disk.count++].req = r;
    pthread_mutex_unlock(&disk.lock);
    return VMC_BLOCK_PENDING;
}

static const struct vmc_blockdev_ops swap_ops = {.info = swap_info, .submit = swap_submit};

/* Requests are done in any order. */
static bool serve_one(uint64_t *seed)
{
    struct vmc_block_req *r = NULL;
    struct vm *vm = NULL;

    pthread_mutex_lock(&disk.lock);
    if (disk.count > 0) {
        unsigned i = (unsigned)(rnd(seed) % disk.count);
        r = disk.queue[i].req;
        vm = disk.queue[i].vm;
        disk.queue[i] = disk.queue[--disk.count];
    }
    pthread_mutex_unlock(&disk.lock);
    if (r == NULL)
        return false;
    if (r->op == VMC_BLOCK_WRITE)
        memcpy(vm->swap + r->offset, r->iov[0].base, r->bytes);
    else
        memcpy(r->iov[0].base, vm->swap + r->offset, r->bytes);
    r->status = VMC_OK;
    r->done(r);
    return true;
}

static void *disk_thread(void *arg)
{
    uint64_t seed = 77;

    (void)arg;
    while (vmci_load_acquire(&stop) < 3) {
        const struct timespec t = {.tv_nsec = 200000};
        if (!serve_one(&seed) || rnd(&seed) % 4 == 0)
            nanosleep(&t, NULL);
    }
    while (serve_one(&seed)) { /* writes of pages that were all taken back: nobody waits for them */
    }
    return NULL;
}

/* ---- what is read and written ------------------------------------------------------------------
 */

struct look {
    uint32_t gen;
    uint64_t lo;
};

static struct look before(struct counted *p, unsigned w)
{
    uint32_t gen = vmci_load_acquire(&p->gen);
    return (struct look){.gen = gen, .lo = vmci_load_acquire(&p->lo[w])};
}

static void judge(struct vm *vm, unsigned page, unsigned w, struct look b, uint64_t value,
                  const char *who)
{
    struct counted *p = &vm->page[page];
    uint64_t hi = vmci_load_acquire(&p->hi[w]);

    vmci_fence_seq();
    if ((b.gen & 1) != 0 || vmci_load_acquire(&p->gen) != b.gen)
        return;
    if (value >= b.lo && value <= hi)
        return;
    fprintf(stderr, "%s reads VM %u page %u word %u: %llu, not %llu to %llu\n", who,
            (unsigned)(vm - vms), page, w, (unsigned long long)value, (unsigned long long)b.lo,
            (unsigned long long)hi);
    abort();
}

static bool take_turn(struct counted *p)
{
    return __atomic_exchange_n(&p->turn, 1, __ATOMIC_ACQUIRE) == 0;
}

static void end_turn(struct counted *p)
{
    vmci_store_release(&p->turn, 0u);
}

/* Numbers repeat a little, so that pages become equal. */
static uint64_t next_value(void)
{
    return (__atomic_add_fetch(&clock_now, 1, __ATOMIC_SEQ_CST) >> 9) + 1;
}

static uint64_t *word_of(unsigned char *ptr, unsigned w)
{
    return (uint64_t *)(void *)ptr + word_at[w];
}

/* ---- vCPUs -------------------------------------------------------------------------------------
 */

/* A pointer, or NULL when a boundary has to be passed first. */
static unsigned char *pointer(struct vcpu *c, unsigned page, bool write)
{
    unsigned char **cache = write ? c->wr : c->rd;
    struct vmc_page_ref ref;

    if (cache[page] != NULL)
        return cache[page];
    int rc = vmc_space_access(c->vm->space, page, write ? VMC_ACCESS_WRITE : 0, &ref);
    if (rc == VMC_OK) {
        cache[page] = ref.ptr;
        if (ref.writable)
            c->wr[page] = ref.ptr;
        return ref.ptr;
    }
    if (rc != VMC_EAGAIN && rc != VMC_ENOSPC) {
        fprintf(stderr, "access to page %u: %d\n", page, rc);
        abort();
    }
    return NULL;
}

static bool read_once(struct vcpu *c, unsigned page, unsigned w)
{
    struct look b = before(&c->vm->page[page], w);
    unsigned char *ptr = pointer(c, page, false);

    if (ptr == NULL)
        return false;
    judge(c->vm, page, w, b, vmci_load_acquire(word_of(ptr, w)), "a vCPU");
    return true;
}

static bool write_once(struct vcpu *c, unsigned page, unsigned w)
{
    struct counted *p = &c->vm->page[page];

    if (!take_turn(p))
        return true;
    unsigned char *ptr = pointer(c, page, true);
    if (ptr != NULL) {
        uint64_t v = next_value();
        __atomic_store_n(&p->hi[w], v, __ATOMIC_SEQ_CST);
        vmci_store_release(word_of(ptr, w), v);
        vmci_store_release(&p->lo[w], v);
    }
    end_turn(p);
    return ptr != NULL;
}

static void *vcpu_thread(void *arg)
{
    struct vcpu *c = arg;

    enter(c);
    while (running()) {
        unsigned page = pick(&c->seed), w = (unsigned)(rnd(&c->seed) % WORDS), tries = 0;
        bool write = rnd(&c->seed) % 3 == 0;
        while (!(write ? write_once(c, page, w) : read_once(c, page, w))) {
            if (++tries % 4 != 0) {
                obey(c);
                continue;
            }
            leave(c);
            vmc_space_wait(c->vm->space);
            enter(c);
        }
        if (rnd(&c->seed) % 8 == 0)
            obey(c);
    }
    leave(c);
    return NULL;
}

/* ---- devices, and the balloon ------------------------------------------------------------------
 */

static void device_write(struct vm *vm, unsigned page, unsigned w)
{
    struct counted *p = &vm->page[page];
    uint64_t v = next_value();

    __atomic_store_n(&p->hi[w], v, __ATOMIC_SEQ_CST);
    assert_int_equal(vmc_space_write(vm->space, page, word_at[w] * 8, &v, 8, 0), VMC_OK);
    vmci_store_release(&p->lo[w], v);
}

static void device_read(struct vm *vm, unsigned page, unsigned w)
{
    struct look b = before(&vm->page[page], w);
    uint64_t v;

    assert_int_equal(vmc_space_read(vm->space, page, word_at[w] * 8, &v, 8, 0), VMC_OK);
    judge(vm, page, w, b, v, "a device");
}

/* A ring: pages moved together, and written through one window. */
static void use_window(struct vm *vm, unsigned page, unsigned w)
{
    struct vmc_page_ref ref;

    if (vmci_space_gather(vm->space, page, 1) != VMC_OK)
        return;
    assert_int_equal(vmc_space_pin(vm->space, page, VMC_ACCESS_WRITE, &ref), VMC_OK);
    for (unsigned i = 0; i < 20; i++) {
        uint64_t v = next_value();
        __atomic_store_n(&vm->page[page].hi[w], v, __ATOMIC_SEQ_CST);
        vmci_store_release(word_of(ref.ptr, w), v);
        vmci_store_release(&vm->page[page].lo[w], v);
    }
    vmc_space_unpin(vm->space, page, true);
}

/* Pages from first on are given up: afterwards they are zero, or (when some were in use) also not.
 */
static void give_up(struct vm *vm, unsigned first, unsigned count, bool balloon)
{
    unsigned n = 0;

    while (n < count && take_turn(&vm->page[first + n]))
        n++;
    for (unsigned i = 0; n == count && i < n; i++) {
        (void)__atomic_add_fetch(&vm->page[first + i].gen, 1, __ATOMIC_SEQ_CST);
        for (unsigned w = 0; w < WORDS; w++)
            __atomic_store_n(&vm->page[first + i].lo[w], 0, __ATOMIC_SEQ_CST);
    }
    uint64_t gone = n == count ? vmc_space_drop(vm->space, first, n, balloon) : 0;
    for (unsigned i = 0; n == count && i < n; i++) {
        for (unsigned w = 0; gone == n && w < WORDS; w++)
            __atomic_store_n(&vm->page[first + i].hi[w], 0, __ATOMIC_SEQ_CST);
        (void)__atomic_add_fetch(&vm->page[first + i].gen, 1, __ATOMIC_SEQ_CST);
    }
    if (balloon && n == count)
        vmc_space_return(vm->space, first, n);
    for (unsigned i = 0; i < n; i++)
        end_turn(&vm->page[first + i]);
    (void)vmci_fetch_add(&drops, gone);
}

static void *device_thread(void *arg)
{
    struct vm *vm = arg;
    uint64_t seed = 1000 + (uint64_t)(vm - vms);

    while (running()) {
        unsigned page = pick(&seed), w = (unsigned)(rnd(&seed) % WORDS);
        unsigned what = (unsigned)(rnd(&seed) % 16);
        (void)vmci_fetch_add(&device_ops, 1);
        if (what < 4) {
            device_read(vm, page, w);
        } else if (what < 8 && take_turn(&vm->page[page])) {
            if (what < 7)
                device_write(vm, page, w);
            else
                use_window(vm, page, w);
            end_turn(&vm->page[page]);
        } else if (what == 8 && rnd(&seed) % 8 == 0) {
            unsigned first = (unsigned)(rnd(&seed) % (PAGES - 8));
            give_up(vm, first, 1 + (unsigned)(rnd(&seed) % 8), rnd(&seed) % 2 != 0);
        } else if (what == 9 && rnd(&seed) % 256 == 0) {
            give_up(vm, (unsigned)(rnd(&seed) % 3) * 512, 512, rnd(&seed) % 2 != 0);
        }
    }
    return NULL;
}

/* ---- everything that moves pages ---------------------------------------------------------------
 */

static struct vmc_share_pack_result packs;
static struct vmc_share_result scans;

static void stir(uint64_t *seed)
{
    const struct vmc_share_budget b = {.pages = 1 + rnd(seed) % 300};
    struct vmc_share_result r;
    struct vmc_share_pack_result k;
    uint64_t n;

    for (unsigned i = 0; i < SPACES; i++) {
        int rc = rnd(seed) % 4 == 0 ? vmc_space_sample(vms[i].space, &n) : VMC_OK;
        assert_true(rc == VMC_OK || rc == VMC_EAGAIN);
        if (rnd(seed) % 4 == 0)
            assert_int_not_equal(vmc_space_swap_out(vms[i].space, 16, 400, rnd(seed) % 2 != 0, &n),
                                 VMC_ENOTSUP);
        vmc_space_poll(vms[i].space);
    }
    assert_int_equal(vmc_share_scan(share, &b, &r), VMC_OK);
    scans.merged += r.merged;
    scans.zeroed += r.zeroed;
    if (rnd(seed) % 2 == 0) {
        assert_int_equal(vmc_share_pack(share, NULL, &b, 0, &k), VMC_OK);
        packs.packed += k.packed;
        packs.deltas += k.deltas;
    }
    if (rnd(seed) % 16 == 0)
        (void)vmc_pool_compact(pool, 100);
}

static void *policy_thread(void *arg)
{
    uint64_t seed = 4711;

    (void)arg;
    for (unsigned i = 0; vmci_load_acquire(&stop) < 2; i++) {
        const struct timespec t = {.tv_nsec = 100000};
        stir(&seed); /* also for those who wait for a frame at the end */
        if (i == ROUNDS)
            vmci_store_release(&stop, 1u);
        nanosleep(&t, NULL);
    }
    return NULL;
}

/* ---- the test ----------------------------------------------------------------------------------
 */

static void open_vm(struct vm *vm, unsigned i)
{
    struct vmc_space_config sc = {.size = sizeof(sc),
                                  .flags = i == 0 ? VMC_SPACE_LARGE : 0,
                                  .pages = PAGES,
                                  .provider = &provider,
                                  .provider_ctx = vm,
                                  .swap = {.ops = &swap_ops, .ctx = vm}};

    memset(vm, 0, sizeof(*vm));
    vm->swap = calloc(PAGES, VMC_PAGE_SIZE);
    assert_non_null(vm->swap);
    assert_int_equal(vmc_space_create(pool, &sc, &vm->space, NULL), VMC_OK);
    for (unsigned k = 0; k < VCPUS; k++) {
        vm->cpu[k].vm = vm;
        vm->cpu[k].ack = UINT64_MAX;
        vm->cpu[k].seed = 100 * (i + 1) + k;
    }
}

/* Nobody runs any more: every word is exactly the last one written. */
static void check_vm(struct vm *vm)
{
    for (unsigned page = 0; page < PAGES; page++) {
        struct counted *p = &vm->page[page];
        for (unsigned w = 0; w < WORDS; w++) {
            uint64_t v;
            assert_int_equal(vmc_space_read(vm->space, page, word_at[w] * 8, &v, 8, 0), VMC_OK);
            assert_true(v >= p->lo[w] && v <= p->hi[w]);
        }
    }
}

static bool pending(void)
{
    bool any = false;

    for (unsigned i = 0; i < SPACES; i++) {
        vmc_space_poll(vms[i].space);
        any = any || vms[i].space->pending_count != 0;
        assert_int_equal(vms[i].space->pins, 0);
    }
    return any;
}

static void everybody_at_once(void **state)
{
    pthread_t vcpu[SPACES * VCPUS], device[SPACES], policy, server;
    struct vmc_share_config shc = {.size = sizeof(shc), .seed = 3};
    struct vmc_space_stats st, sum = {0};

    (void)state;
    test_platform_init_threads(&tp);
    pool = rig_pool(&tp, FRAMES);
    assert_int_equal(vmc_share_create(pool, &shc, &share, NULL), VMC_OK);
    for (unsigned i = 0; i < SPACES; i++)
        open_vm(&vms[i], i);
    pthread_create(&server, NULL, disk_thread, NULL);
    pthread_create(&policy, NULL, policy_thread, NULL);
    for (unsigned i = 0; i < SPACES; i++)
        pthread_create(&device[i], NULL, device_thread, &vms[i]);
    for (unsigned i = 0; i < SPACES * VCPUS; i++)
        pthread_create(&vcpu[i], NULL, vcpu_thread, &vms[i / VCPUS].cpu[i % VCPUS]);
    for (unsigned i = 0; i < SPACES * VCPUS; i++)
        pthread_join(vcpu[i], NULL);
    for (unsigned i = 0; i < SPACES; i++)
        pthread_join(device[i], NULL);

    for (unsigned i = 0; i < SPACES; i++) {
        vmc_space_stats(vms[i].space, &st);
        sum.breaks += st.breaks;
        sum.unpacks += st.unpacks;
        sum.swap_ins += st.swap_ins;
        assert_int_equal(st.swap_errors, 0);
    }
    for (unsigned i = 0; i < SPACES; i++)
        check_vm(&vms[i]);
    vmci_store_release(&stop, 2u);
    pthread_join(policy, NULL);
    print_message("merged %llu, zeroed %llu, packed %llu, deltas %llu, breaks %llu, unpacked %llu, "
                  "swapped in %llu, given up %llu, device operations %llu\n",
                  (unsigned long long)scans.merged, (unsigned long long)scans.zeroed,
                  (unsigned long long)packs.packed, (unsigned long long)packs.deltas,
                  (unsigned long long)sum.breaks, (unsigned long long)sum.unpacks,
                  (unsigned long long)sum.swap_ins, (unsigned long long)drops,
                  (unsigned long long)device_ops);
    assert_true(scans.merged > 0 && packs.packed > 0 && sum.breaks > 0 && sum.unpacks > 0 &&
                sum.swap_ins > 0 && drops > 0 && device_ops > 0);
    while (pending())
        vmc_space_wait(vms[0].space);
    vmci_store_release(&stop, 3u);
    pthread_join(server, NULL);
    rig_check(pool);
    vmc_share_destroy(share);
    for (unsigned i = 0; i < SPACES; i++) {
        vmc_space_destroy(vms[i].space);
        free(vms[i].swap);
    }
    vmc_pool_destroy(pool);
    test_platform_check(&tp);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(everybody_at_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
