/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A kernel that tests the bare-metal backend from inside: processors, time, memory domains, and
 * every disk and network card that the emulated machine has. The disks hold a pattern that the test
 * script made; what is written is checked again by the script. "fault=" on the command line names a
 * mistake to be caught.
 */
#include <vmcore/baremetal.h>

#define MAGIC  0x766d636f72655f31ull
#define CHUNK  (300u << 10)
#define SECTOR 512u

static unsigned passed, failed;
static volatile uint32_t cpus_seen;
static volatile uint64_t ipi_count[VMC_BM_MAX_CPUS];

static void result(bool ok, const char *what)
{
    vmc_bm_printf("%s %s\n", ok ? "PASS" : "FAIL", what);
    if (ok)
        passed++;
    else
        failed++;
}

static void hook(void *ctx, uint32_t cpu)
{
    (void)ctx;
    ipi_count[cpu]++;
}

static volatile bool all_poll; /* the other processors look at the devices as well */

void vmc_bm_cpu_main(uint32_t cpu)
{
    (void)cpu;
    __atomic_add_fetch(&cpus_seen, 1, __ATOMIC_SEQ_CST);
    for (;;)
        if (all_poll)
            vmc_bm_poll();
        else
            vmc_bm_wait(UINT64_MAX);
}

/* ---- time, processors, memory
 * -------------------------------------------------------------------- */

static void test_time(void)
{
    uint64_t t0 = vmc_bm_now_ns();
    uint64_t end = t0 + 20000000;
    unsigned early = 0;

    while (vmc_bm_now_ns() < end)
        vmc_bm_wait(end);
    uint64_t took = vmc_bm_now_ns() - t0;
    for (unsigned i = 0; i < 1000; i++) {
        uint64_t a = vmc_bm_now_ns();
        early += vmc_bm_now_ns() < a;
    }
    vmc_bm_printf("time: a sleep of 20000 us took %llu us\n", (unsigned long long)took / 1000);
    result(took >= 20000000 && early == 0, "time");
}

static void test_cpus(const struct vmc_bm_machine *m)
{
    uint64_t end = vmc_bm_now_ns() + 2000000000;

    while (cpus_seen + 1 < m->cpus && vmc_bm_now_ns() < end)
        vmc_bm_wait(vmc_bm_now_ns() + 1000000);
    result(cpus_seen + 1 == m->cpus, "processors");
    bool all = true;
    for (uint32_t i = 1; i < m->cpus; i++) {
        uint64_t before = ipi_count[i];
        vmc_bm_interrupt(i);
        while (ipi_count[i] == before && vmc_bm_now_ns() < end + 1000000000)
            __asm__ volatile("pause");
        all = all && ipi_count[i] != before;
    }
    result(all, "interrupts between processors");
}

static void test_memory(void)
{
    struct vmc_bm_domain *d;
    struct vmc_bm_memory before, after;
    void *p[200];
    bool ok = true;

    vmc_bm_get_memory(&before);
    ok = vmc_bm_domain_create(&d) == VMC_OK;
    const struct vmc_platform *pf = vmc_bm_domain_platform(d);
    for (unsigned i = 0; ok && i < 200; i++) {
        size_t bytes = 1u + i * i * 37u;
        p[i] = pf->alloc(pf->ctx, bytes, i % 3 == 0 ? 64 : 16);
        ok = p[i] != NULL && ((uintptr_t)p[i] & (i % 3 == 0 ? 63u : 15u)) == 0;
        for (size_t k = 0; ok && k < bytes; k++)
            ((uint8_t *)p[i])[k] = (uint8_t)i;
    }
    for (unsigned i = 0; ok && i < 200; i++) {
        size_t bytes = 1u + i * i * 37u;
        for (size_t k = 0; k < bytes; k++)
            ok = ok && ((uint8_t *)p[i])[k] == (uint8_t)i;
        pf->free(pf->ctx, p[i], bytes, i % 3 == 0 ? 64 : 16);
    }
    result(ok, "memory: objects are apart");
    result(vmc_bm_domain_pages(d) == 0, "memory: empty domains hold no page");
    uint64_t hpa;
    uint8_t *big = pf->pages->alloc(pf->ctx, 9, &hpa);
    ok = big != NULL && hpa % (2u << 20) == 0;
    for (size_t k = 0; ok && k < 2u << 20; k++)
        ok = big[k] == 0;
    result(ok && vmc_bm_domain_pages(d) == 512, "memory: zeroed large pages");
    result(vmc_bm_domain_destroy(d) == 512, "memory: leaks are counted and taken back");
    vmc_bm_get_memory(&after);
    result(before.free_pages == after.free_pages, "memory: every page came back");
}

static void test_code_memory(void)
{
    const struct vmc_platform *pf = vmc_bm_platform();
    static const uint8_t code[] = {0x8d, 0x47, 0x2a, 0xc3}; /* lea eax, [rdi + 42]; ret */
    void *rw;
    const void *rx;

    if (pf->exec->reserve(pf->ctx, 8192, &rw, &rx) != VMC_OK) {
        result(false, "code memory");
        return;
    }
    for (unsigned i = 0; i < sizeof(code); i++)
        ((uint8_t *)rw)[i] = code[i];
    int (*fn)(int) = (int (*)(int))(uintptr_t)rx;
    result(fn(100) == 142, "code memory");
    pf->exec->release(pf->ctx, rw, rx, 8192);
}

/* ---- disks
 * --------------------------------------------------------------------------------------- */

static volatile uint32_t pending;

static void done(struct vmc_block_req *r)
{
    (void)r;
    __atomic_sub_fetch(&pending, 1, __ATOMIC_SEQ_CST);
}

static int wait_all(void)
{
    uint64_t end = vmc_bm_now_ns() + 20000000000ull;

    while (pending != 0 && vmc_bm_now_ns() < end) {
        vmc_bm_poll();
        if (pending != 0)
            vmc_bm_wait(vmc_bm_now_ns() + 10000000);
    }
    return pending == 0 ? VMC_OK : VMC_EIO;
}

static void submit(const struct vmc_blockdev *d, struct vmc_block_req *r)
{
    __atomic_add_fetch(&pending, 1, __ATOMIC_SEQ_CST);
    r->done = done;
    if (d->ops->submit(d->ctx, r) == VMC_BLOCK_COMPLETE)
        done(r);
}

static uint64_t word(uint64_t sector, unsigned i, bool written)
{
    return written ? ~(MAGIC ^ (sector * 64 + i)) : MAGIC ^ (sector * 64 + i);
}

static bool matches(const uint8_t *p, uint64_t offset, uint64_t bytes, bool written)
{
    for (uint64_t i = 0; i < bytes; i += 8) {
        uint64_t v;
        __builtin_memcpy(&v, p + i, 8);
        if (v != word((offset + i) / SECTOR, (unsigned)((offset + i) % SECTOR / 8), written))
            return false;
    }
    return true;
}

static uint32_t seed = 12345;
static uint32_t random32(void)
{
    seed = seed * 1664525u + 1013904223u;
    return seed >> 8;
}

/* Cut a buffer into pieces; odd: at any byte. */
static uint32_t cut(struct vmc_iovec *iov, uint32_t max, uint8_t *p, size_t bytes, bool odd)
{
    uint32_t n = 0;

    while (bytes > 0) {
        size_t k =
            n + 1 == max ? bytes : (odd ? 1 + random32() % 900 : SECTOR * (1 + random32() % 9));
        if (k > bytes)
            k = bytes;
        iov[n++] = (struct vmc_iovec){p, k};
        p += k;
        bytes -= k;
    }
    return n;
}

static bool one_read(const struct vmc_blockdev *d, uint8_t *buf, uint64_t offset, size_t bytes,
                     bool odd, bool written)
{
    struct vmc_iovec iov[16];
    struct vmc_block_req r = {.op = VMC_BLOCK_READ, .offset = offset, .bytes = bytes, .iov = iov};

    r.iov_count = cut(iov, 16, buf, bytes, odd);
    submit(d, &r);
    return wait_all() == VMC_OK && r.status == VMC_OK && matches(buf, offset, bytes, written);
}

static bool reads(const struct vmc_blockdev *d, uint8_t *buf, uint64_t half, uint32_t unit)
{
    for (unsigned i = 0; i < 60; i++) {
        size_t bytes = unit * (1 + random32() % (CHUNK / 2 / unit));
        uint64_t offset = random32() % ((half - bytes) / unit) * unit;
        if (!one_read(d, buf + (i % 4 == 3 ? 2 : 0), offset, bytes, i % 4 == 3, false))
            return false;
    }
    return true;
}

/* Many at once; every piece of the first half is read by one of them. */
static bool many(const struct vmc_blockdev *d, uint8_t *buf, uint32_t unit)
{
    struct vmc_iovec iov[40];
    struct vmc_block_req r[40];
    bool ok = true;

    for (unsigned i = 0; i < 40; i++) {
        iov[i] = (struct vmc_iovec){buf + i * unit, unit};
        r[i] = (struct vmc_block_req){.op = VMC_BLOCK_READ,
                                      .offset = (uint64_t)i * 7 * unit,
                                      .bytes = unit,
                                      .iov = &iov[i],
                                      .iov_count = 1};
        submit(d, &r[i]);
    }
    ok = wait_all() == VMC_OK;
    for (unsigned i = 0; ok && i < 40; i++)
        ok = r[i].status == VMC_OK && matches(buf + i * unit, (uint64_t)i * 7 * unit, unit, false);
    return ok;
}

#define ROUNDS  5u
#define AT_ONCE 70u

static volatile uint32_t finished[AT_ONCE];

static void done_slowly(struct vmc_block_req *r)
{
    uint64_t end = vmc_bm_now_ns() + 1000000;

    while (vmc_bm_now_ns() < end) /* others find what has finished meanwhile */
        ;
    __atomic_add_fetch((volatile uint32_t *)r->opaque, 1, __ATOMIC_SEQ_CST);
}

/* Every processor looks for what has finished: each request is done once. */
static bool by_all_processors(const struct vmc_bm_machine *m, const struct vmc_blockdev *d,
                              uint8_t *buf, uint32_t unit)
{
    static struct vmc_iovec iov[AT_ONCE];
    static struct vmc_block_req r[AT_ONCE];
    bool ok = true;

    all_poll = true;
    for (uint32_t i = 1; i < m->cpus; i++)
        vmc_bm_interrupt(i);
    for (unsigned n = 0; ok && n < ROUNDS; n++) {
        uint64_t end = vmc_bm_now_ns() + 20000000000ull;
        uint32_t left = AT_ONCE;
        for (unsigned i = 0; i < AT_ONCE; i++) {
            finished[i] = 0;
            iov[i] = (struct vmc_iovec){buf + i * unit, unit};
            r[i] = (struct vmc_block_req){.op = VMC_BLOCK_READ,
                                          .offset = (uint64_t)(i * 7 + n) * unit,
                                          .bytes = unit,
                                          .iov = &iov[i],
                                          .iov_count = 1,
                                          .done = done_slowly,
                                          .opaque = (void *)(uintptr_t)&finished[i]};
            if (d->ops->submit(d->ctx, &r[i]) == VMC_BLOCK_COMPLETE)
                done_slowly(&r[i]);
        }
        while (left != 0 && vmc_bm_now_ns() < end) {
            vmc_bm_poll();
            left = 0;
            for (unsigned i = 0; i < AT_ONCE; i++)
                left += finished[i] == 0;
        }
        for (unsigned i = 0; i < AT_ONCE; i++)
            ok = ok && finished[i] == 1 && r[i].status == VMC_OK &&
                 matches(buf + i * unit, (uint64_t)(i * 7 + n) * unit, unit, false);
    }
    all_poll = false;
    return ok;
}

#define SCATTER 100u

/* One request of more pieces than a controller takes at once, none of which joins the one before.
 */
static bool scattered(const struct vmc_blockdev *d, uint8_t *buf, uint32_t unit)
{
    static struct vmc_iovec iov[SCATTER];
    struct vmc_block_req r = {.op = VMC_BLOCK_READ,
                              .offset = 3 * unit,
                              .bytes = SCATTER * unit,
                              .iov = iov,
                              .iov_count = SCATTER};
    bool ok = true;

    for (unsigned i = 0; i < SCATTER; i++)
        iov[i] = (struct vmc_iovec){buf + (SCATTER - 1 - i) % (CHUNK / unit) * unit, unit};
    submit(d, &r);
    ok = wait_all() == VMC_OK && r.status == VMC_OK;
    for (unsigned i = SCATTER > CHUNK / unit ? SCATTER - CHUNK / unit : 0; ok && i < SCATTER; i++)
        ok = matches(iov[i].base, (3ull + i) * unit, unit, false);
    return ok;
}

/* The second half gets the inverted pattern. */
static bool writes(const struct vmc_blockdev *d, uint8_t *buf, uint64_t half, uint64_t bytes)
{
    bool ok = true;

    for (uint64_t at = half; ok && at < bytes;) {
        size_t n = bytes - at < CHUNK ? (size_t)(bytes - at) : CHUNK;
        struct vmc_iovec iov[16];
        struct vmc_block_req r = {.op = VMC_BLOCK_WRITE, .offset = at, .bytes = n, .iov = iov};
        for (size_t i = 0; i < n; i += 8) {
            uint64_t v = word((at + i) / SECTOR, (unsigned)((at + i) % SECTOR / 8), true);
            __builtin_memcpy(buf + i, &v, 8);
        }
        r.iov_count = cut(iov, 16, buf, n, false);
        submit(d, &r);
        ok = wait_all() == VMC_OK && r.status == VMC_OK;
        at += n;
    }
    struct vmc_block_req f = {.op = VMC_BLOCK_FLUSH};
    submit(d, &f);
    ok = ok && wait_all() == VMC_OK && f.status == VMC_OK;
    for (uint64_t at = half; ok && at < bytes; at += CHUNK)
        ok = one_read(d, buf, at, bytes - at < CHUNK ? (size_t)(bytes - at) : CHUNK, false, true);
    return ok;
}

/* Once a lease is over nothing is written; reading goes on. */
static bool leases(const struct vmc_bm_disk *disk, uint8_t *buf, uint64_t half, uint32_t unit)
{
    const struct vmc_blockdev *d = &disk->dev;
    struct vmc_iovec iov = {buf, unit};
    struct vmc_block_req r = {
        .op = VMC_BLOCK_WRITE, .offset = half, .bytes = unit, .iov = &iov, .iov_count = 1};
    bool ok;

    __builtin_memset(buf, 0xee, unit);
    vmc_bm_disk_lease(disk, vmc_bm_now_ns());
    submit(d, &r);
    ok = wait_all() == VMC_OK && r.status == VMC_EFENCED;
    ok = ok && one_read(d, buf, half, unit, false, true);
    struct vmc_block_req f = {.op = VMC_BLOCK_FLUSH};
    submit(d, &f);
    ok = ok && wait_all() == VMC_OK && f.status == VMC_OK;
    vmc_bm_disk_lease(disk, vmc_bm_now_ns() + 600000000000ull);
    submit(d, &r);
    ok = ok && wait_all() == VMC_OK && r.status == VMC_OK;
    vmc_bm_disk_lease(disk, 0);
    submit(d, &r);
    return ok && wait_all() == VMC_OK && r.status == VMC_OK &&
           one_read(d, buf, half, unit, false, true);
}

static bool beyond(const struct vmc_blockdev *d, uint8_t *buf, uint64_t bytes, uint32_t unit)
{
    struct vmc_iovec iov = {buf, 2 * unit};
    struct vmc_block_req r = {.op = VMC_BLOCK_READ,
                              .offset = bytes - unit,
                              .bytes = 2 * unit,
                              .iov = &iov,
                              .iov_count = 1};

    submit(d, &r);
    return wait_all() == VMC_OK && r.status == VMC_ERANGE;
}

/* A disk that takes minutes for what it is asked is written to under a lease that ends soon. */
static void test_late(const struct vmc_bm_disk *disk)
{
    enum { WRITES = 8, BYTES = 512 << 10 };
    static struct vmc_iovec iov[WRITES];
    static struct vmc_block_req r[WRITES + 1];
    const struct vmc_platform *pf = vmc_bm_platform();
    uint8_t *buf = pf->alloc(pf->ctx, BYTES, 4096);
    uint64_t start = vmc_bm_now_ns();
    unsigned ended = 0, refused = 0;
    char text[96];

    vmc_bm_disk_lease(disk, start + 3000000000ull);
    for (unsigned i = 0; buf != NULL && i < WRITES; i++) {
        iov[i] = (struct vmc_iovec){buf, BYTES};
        r[i] = (struct vmc_block_req){.op = VMC_BLOCK_WRITE,
                                      .offset = i * BYTES,
                                      .bytes = BYTES,
                                      .iov = &iov[i],
                                      .iov_count = 1};
        submit(&disk->dev, &r[i]);
    }
    bool all = wait_all() == VMC_OK;
    for (unsigned i = 0; i < WRITES; i++) {
        ended += r[i].status == VMC_EIO;
        refused += r[i].status == VMC_EFENCED;
    }
    vmc_bm_printf("%s: %u writes ended and %u not begun after %llu ms\n", disk->name, ended,
                  refused, (unsigned long long)((vmc_bm_now_ns() - start) / 1000000));
    r[WRITES] = r[0];
    submit(&disk->dev, &r[WRITES]);
    all = wait_all() == VMC_OK && all;
    vmc_bm_snprintf(text, sizeof(text), "disk %s: no write after its lease", disk->name);
    result(all && ended > 0 && r[WRITES].status == VMC_EFENCED, text);
    vmc_bm_disk_lease(disk, 0);
    pf->free(pf->ctx, buf, BYTES, 4096);
}

/*
 * A disk that takes minutes for what it is asked: everything ends in time, with errors, and the
 * controller works on: it answers a flush.
 */
static void test_stalled(const struct vmc_bm_disk *disk)
{
    enum { READS = 8, BYTES = 512 << 10 };
    static struct vmc_iovec iov[READS];
    static struct vmc_block_req r[READS];
    const struct vmc_platform *pf = vmc_bm_platform();
    uint8_t *buf = pf->alloc(pf->ctx, READS * BYTES, 4096);
    uint64_t start = vmc_bm_now_ns();
    unsigned errors = 0;
    char text[96];

    for (unsigned i = 0; buf != NULL && i < READS; i++) {
        iov[i] = (struct vmc_iovec){buf + i * BYTES, BYTES};
        r[i] = (struct vmc_block_req){.op = VMC_BLOCK_READ,
                                      .offset = i * BYTES,
                                      .bytes = BYTES,
                                      .iov = &iov[i],
                                      .iov_count = 1};
        submit(&disk->dev, &r[i]);
    }
    while (pending != 0 && vmc_bm_now_ns() - start < 300000000000ull)
        (void)wait_all();
    for (unsigned i = 0; i < READS; i++)
        errors += r[i].status == VMC_EIO;
    vmc_bm_printf("%s: %u errors after %llu s\n", disk->name, errors,
                  (unsigned long long)((vmc_bm_now_ns() - start) / 1000000000));
    vmc_bm_snprintf(text, sizeof(text), "disk %s: what stalls ends with an error", disk->name);
    result(pending == 0 && errors > 0, text);
    struct vmc_block_req f = {.op = VMC_BLOCK_FLUSH};
    submit(&disk->dev, &f);
    vmc_bm_snprintf(text, sizeof(text), "disk %s: works again", disk->name);
    result(wait_all() == VMC_OK && f.status == VMC_OK, text);
    pf->free(pf->ctx, buf, READS * BYTES, 4096);
}

/* After more requests than its queue holds, a disk rests: none of them is taken for lost. */
static void test_rest(const struct vmc_bm_disk *disk)
{
    enum { READS = 64 };
    static struct vmc_iovec iov[READS];
    static struct vmc_block_req r[READS];
    static uint8_t buf[4096] __attribute__((aligned(4096)));
    char text[96];

    for (unsigned i = 0; i < READS; i++) {
        iov[i] = (struct vmc_iovec){buf, sizeof(buf)};
        r[i] = (struct vmc_block_req){
            .op = VMC_BLOCK_READ, .bytes = sizeof(buf), .iov = &iov[i], .iov_count = 1};
        submit(&disk->dev, &r[i]);
    }
    bool ok = wait_all() == VMC_OK;
    for (uint64_t end = vmc_bm_now_ns() + 18000000000ull; vmc_bm_now_ns() < end;) {
        vmc_bm_poll();
        vmc_bm_wait(vmc_bm_now_ns() + 10000000);
    }
    for (unsigned i = 0; i < READS; i++)
        ok = ok && r[i].status == VMC_OK;
    vmc_bm_snprintf(text, sizeof(text), "disk %s: rests", disk->name);
    result(ok && pending == 0, text);
}

static void test_disk(const struct vmc_bm_machine *m, const struct vmc_bm_disk *disk)
{
    const struct vmc_platform *pf = vmc_bm_platform();
    uint8_t *buf = pf->alloc(pf->ctx, CHUNK + 4096, 4096);
    struct vmc_block_info info;
    char text[64];

    bool ok = buf != NULL && disk->dev.ops->info(disk->dev.ctx, &info) == VMC_OK;
    uint64_t half = ok ? info.bytes / 2 / info.sector_bytes * info.sector_bytes : 0;
    vmc_bm_snprintf(text, sizeof(text), "disk %s: reads", disk->name);
    result(ok && reads(&disk->dev, buf, half, info.sector_bytes), text);
    vmc_bm_snprintf(text, sizeof(text), "disk %s: many at once", disk->name);
    result(ok && many(&disk->dev, buf, info.sector_bytes), text);
    vmc_bm_snprintf(text, sizeof(text), "disk %s: seen by all processors", disk->name);
    result(ok && by_all_processors(m, &disk->dev, buf, info.sector_bytes), text);
    vmc_bm_snprintf(text, sizeof(text), "disk %s: one of many pieces", disk->name);
    result(ok && scattered(&disk->dev, buf, info.sector_bytes), text);
    vmc_bm_snprintf(text, sizeof(text), "disk %s: writes", disk->name);
    result(ok && writes(&disk->dev, buf, half, info.bytes), text);
    vmc_bm_snprintf(text, sizeof(text), "disk %s: leases", disk->name);
    result(ok && leases(disk, buf, half, info.sector_bytes), text);
    vmc_bm_snprintf(text, sizeof(text), "disk %s: beyond its end", disk->name);
    result(ok && beyond(&disk->dev, buf, info.bytes, info.sector_bytes), text);
    pf->free(pf->ctx, buf, CHUNK + 4096, 4096);
}

/* ---- network: ask who has 10.0.2.2, QEMU's gateway
 * ------------------------------------------------ */

static volatile bool answered;

static void receive(void *ctx, const void *frame, size_t bytes)
{
    const uint8_t *f = frame;

    (void)ctx;
    if (bytes >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 2 && f[28] == 10 && f[31] == 2)
        answered = true;
}

static void test_nic(struct vmc_bm_nic *nic)
{
    uint8_t f[60] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t arp[] = {8, 6, 0, 1, 8, 0, 6, 4, 0, 1};
    static const uint8_t ip[] = {10, 0, 2, 15}, gateway[] = {10, 0, 2, 2};
    uint64_t end = vmc_bm_now_ns() + 5000000000ull;

    __builtin_memcpy(f + 6, nic->mac, 6);
    __builtin_memcpy(f + 12, arp, sizeof(arp));
    __builtin_memcpy(f + 22, nic->mac, 6);
    __builtin_memcpy(f + 28, ip, 4);
    __builtin_memcpy(f + 38, gateway, 4);
    struct vmc_iovec iov[2] = {{f, 20}, {f + 20, 40}};
    nic->receive = receive;
    int rc = nic->dev.ops->send(nic->dev.ctx, iov, 2);
    while (rc == VMC_OK && !answered && vmc_bm_now_ns() < end) {
        vmc_bm_poll();
        vmc_bm_wait(vmc_bm_now_ns() + 10000000);
    }
    result(answered, "network: the gateway answers");
}

/* ---- mistakes that must not go unnoticed
 * ---------------------------------------------------------- */

static int overflow(volatile int depth)
{
    volatile char big[1024];

    if (depth < 0)
        return 0;
    big[depth % 1024] = (char)depth;
    return overflow(depth + 1) + big[depth % 7];
}

static void make_mistake(const char *which)
{
    const struct vmc_platform *pf = vmc_bm_platform();

    switch (which[0]) {
    case 'c': { /* code is not writable */
        uint8_t *p = (uint8_t *)(uintptr_t)vmc_bm_cpu_main;
        __asm__("" : "+r"(p)); /* the compiler loses functions that are written to */
        *(volatile uint8_t *)p = 0x90;
        break;
    }
    case 'd': { /* data is not executable */
        uint8_t *p = pf->alloc(pf->ctx, 4096, 4096);
        p[0] = 0xc3;
        ((void (*)(void))(uintptr_t)p)();
        break;
    }
    case 's': /* stacks end in an unmapped page */
        (void)overflow(0);
        break;
    case 'f': { /* freed memory is not used */
        uint8_t *p = pf->alloc(pf->ctx, 4096, 4096);
        pf->free(pf->ctx, p, 4096, 4096);
        p[100] = 1;
        (void)pf->alloc(pf->ctx, 4096, 4096);
        break;
    }
    case 'l': /* nothing is mapped one to one */
        *(volatile uint8_t *)0x200000 = 1;
        break;
    default:
        break;
    }
    result(false, "the mistake was caught");
}

static const char *option(const char *cmdline, const char *name)
{
    size_t n = 0;

    while (name[n] != 0)
        n++;
    for (const char *p = cmdline; *p != 0; p++) {
        size_t i = 0;
        while (i < n && p[i] == name[i])
            i++;
        if (i == n)
            return p + n;
    }
    return NULL;
}

void vmc_bm_main(const struct vmc_bm_machine *m)
{
    const struct vmc_bm_disk *d;
    const char *fault = option(m->cmdline, "fault=");

    vmc_bm_set_hook(hook, NULL);
    if (fault != NULL)
        make_mistake(fault);
    test_time();
    test_cpus(m);
    test_memory();
    test_code_memory();
    bool stalls = option(m->cmdline, "stalls=") != NULL;
    for (uint32_t i = 0; (d = vmc_bm_disk(i)) != NULL; i++)
        if (stalls) {
            test_late(d);
            test_stalled(d);
        } else {
            test_disk(m, d);
        }
    for (uint32_t i = 0; option(m->cmdline, "rest=") != NULL && (d = vmc_bm_disk(i)) != NULL; i++)
        test_rest(d);
    if (vmc_bm_nic(0) != NULL)
        test_nic(vmc_bm_nic(0));
    vmc_bm_printf("RESULT: %u passed, %u failed\n", passed, failed);
    vmc_bm_power_off();
}
