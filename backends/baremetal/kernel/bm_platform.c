/* SPDX-License-Identifier: BSD-2-Clause */
/* struct vmc_platform on this kernel, one for each memory domain. */
#include "bm_hw.h"

#include <vmcore/log.h>

#define MAX_DOMAINS 256u

struct vmc_bm_domain {
    uint32_t owner;
    struct bm_heap *heap;
    struct vmc_platform pf;
};

static struct vmc_bm_domain kernel_domain;
static uint8_t domain_used[MAX_DOMAINS];
static struct bm_lock domain_lock;

/* ---- memory ------------------------------------------------------------------------------------
 */

static void *pf_alloc(void *ctx, size_t bytes, size_t align)
{
    struct vmc_bm_domain *d = ctx;
    return bm_heap_alloc(d->heap, bytes, align);
}

static void pf_free(void *ctx, void *p, size_t bytes, size_t align)
{
    struct vmc_bm_domain *d = ctx;
    bm_heap_free(d->heap, p, bytes, align);
}

static void *pages_alloc(void *ctx, unsigned order, uint64_t *hpa)
{
    struct vmc_bm_domain *d = ctx;
    uint64_t n = order < 40 ? 1ull << order : 0;
    uint64_t pa = bm_pages_alloc(n, n, d->owner);

    if (pa == 0)
        return NULL;
    memset(phys_ptr(pa), 0, n * PAGE);
    *hpa = pa;
    return phys_ptr(pa);
}

static void pages_free(void *ctx, void *va, unsigned order)
{
    (void)ctx;
    bm_pages_free(bm_virt_to_phys(va), 1ull << order);
}

static void *pages_to_virt(void *ctx, uint64_t hpa)
{
    (void)ctx;
    return phys_ptr(hpa);
}

/* ---- code: written through the map of all memory, executed elsewhere
 * ----------------------------- */

static int exec_reserve(void *ctx, size_t bytes, void **rw, const void **rx)
{
    struct vmc_bm_domain *d = ctx;
    uint64_t pa = bm_pages_alloc(PAGES(bytes), 1, d->owner);

    if (pa == 0)
        return VMC_ENOMEM;
    void *x = bm_vmap(pa, PAGES(bytes), MAP_EXEC);
    if (x == NULL) {
        bm_pages_free(pa, PAGES(bytes));
        return VMC_ENOMEM;
    }
    memset(phys_ptr(pa), 0xcc, PAGES(bytes) * PAGE); /* whatever was there is no code */
    *rw = phys_ptr(pa);
    *rx = x;
    return VMC_OK;
}

static void exec_release(void *ctx, void *rw, const void *rx, size_t bytes)
{
    (void)ctx;
    bm_vunmap((void *)(uint64_t)rx, PAGES(bytes));
    bm_pages_free(bm_virt_to_phys(rw), PAGES(bytes));
}

/* ---- the rest -----------------------------------------------------------------------------------
 */

static int sync_init(void *ctx, void *lock)
{
    (void)ctx;
    *(struct bm_lock *)lock = (struct bm_lock){0};
    return VMC_OK;
}

static void sync_fini(void *ctx, void *lock)
{
    (void)ctx;
    (void)lock;
}

static void sync_lock(void *ctx, void *lock)
{
    (void)ctx;
    bm_lock(lock);
}

static void sync_unlock(void *ctx, void *lock)
{
    (void)ctx;
    bm_unlock(lock);
}

/* vCPUs sleep in the embedder's loop; only a wait for other processors comes here. */
static void sync_park(void *ctx, const uint32_t *word, uint32_t expect, uint64_t deadline_ns)
{
    (void)ctx;
    while (__atomic_load_n(word, __ATOMIC_SEQ_CST) == expect) {
        uint64_t now = bm_now_ns();
        if (now >= deadline_ns)
            return;
        uint64_t nap = now + 100000;
        vmc_bm_wait(nap < deadline_ns ? nap : deadline_ns);
    }
}

static void sync_wake(void *ctx, const uint32_t *word)
{
    (void)ctx;
    (void)word; /* who sleeps looks again by itself */
}

static uint32_t cpu_this(void *ctx)
{
    (void)ctx;
    return this_cpu()->index;
}

static void cpu_interrupt(void *ctx, uint32_t cpu)
{
    (void)ctx;
    vmc_bm_interrupt(cpu);
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ull;
    return x ^ x >> 33;
}

/* RDRAND where there is one; the jitter of the clock goes in too. */
static uint64_t random64(void)
{
    static uint64_t pool;
    uint32_t r[4];
    uint64_t v = 0;

    cpuid(1, 0, r);
    if (r[2] & (1u << 30)) {
        unsigned char ok = 0;
        for (unsigned i = 0; i < 16 && !ok; i++)
            __asm__ volatile("rdrand %0\n\tsetc %1" : "=r"(v), "=qm"(ok) : : "cc");
    } else {
        for (unsigned i = 0; i < 64; i++) {
            v = mix(v ^ rdtsc());
            (void)inb(0x80); /* takes as long as it likes */
        }
    }
    return mix(__atomic_add_fetch(&pool, v ^ rdtsc(), __ATOMIC_RELAXED) ^ v);
}

static int entropy_fill(void *ctx, void *dst, size_t bytes)
{
    uint8_t *d = dst;

    (void)ctx;
    while (bytes > 0) {
        uint64_t v = random64();
        size_t n = bytes < 8 ? bytes : 8;
        memcpy(d, &v, n);
        d += n;
        bytes -= n;
    }
    return VMC_OK;
}

static uint64_t pf_now(void *ctx)
{
    (void)ctx;
    return bm_now_ns();
}

static int64_t pf_wall(void *ctx)
{
    (void)ctx;
    return bm_wall_s();
}

static void pf_log(void *ctx, int level, const char *module, const char *text)
{
    (void)ctx;
    if (level <= VMC_LOG_WARN)
        bm_printf("vmcore: %s: %s: %s\n", vmc_log_level_name(level), module, text);
}

static void pf_bug(void *ctx, const char *file, int line, const char *text)
{
    (void)ctx;
    bm_panic("internal error at %s:%d: %s", file, line, text);
}

static const struct vmc_pages_ops pages_ops = {pages_alloc, pages_free, pages_to_virt};
static const struct vmc_exec_ops exec_ops = {exec_reserve, exec_release};
static const struct vmc_sync_ops sync_ops = {
    .lock_bytes = sizeof(struct bm_lock),
    .lock_init = sync_init,
    .lock_fini = sync_fini,
    .lock = sync_lock,
    .unlock = sync_unlock,
    .park = sync_park,
    .wake = sync_wake,
};
static const struct vmc_cpu_ops cpu_ops = {cpu_this, cpu_interrupt};
static const struct vmc_entropy_ops entropy_ops = {entropy_fill};

static void domain_init(struct vmc_bm_domain *d, uint32_t owner, struct bm_heap *heap)
{
    d->owner = owner;
    d->heap = heap;
    d->pf = (struct vmc_platform){
        .size = sizeof(d->pf),
        .ctx = d,
        .alloc = pf_alloc,
        .free = pf_free,
        .now_ns = pf_now,
        .log = pf_log,
        .bug = pf_bug,
        .pages = &pages_ops,
        .exec = &exec_ops,
        .sync = &sync_ops,
        .cpu = &cpu_ops,
        .entropy = &entropy_ops,
        .tsc_hz = bm_tsc_hz(),
        .wall_s = pf_wall,
        .hw = bm_hw_ops(),
    };
}

void bm_platform_init(void)
{
    domain_init(&kernel_domain, OWNER_KERNEL, bm_kernel_heap);
}

const struct vmc_platform *vmc_bm_platform(void)
{
    return &kernel_domain.pf;
}

/* ---- domains ------------------------------------------------------------------------------------
 */

int vmc_bm_domain_create(struct vmc_bm_domain **out)
{
    uint32_t i = 0;

    bm_lock(&domain_lock);
    while (i < MAX_DOMAINS && domain_used[i])
        i++;
    if (i < MAX_DOMAINS)
        domain_used[i] = 1;
    bm_unlock(&domain_lock);
    if (i == MAX_DOMAINS)
        return VMC_ELIMIT;
    struct vmc_bm_domain *d = bm_zalloc(sizeof(*d));
    struct bm_heap *h = d != NULL ? bm_heap_create(OWNER_FIRST + i) : NULL;
    if (h == NULL) {
        bm_free(d, sizeof(*d));
        domain_used[i] = 0;
        return VMC_ENOMEM;
    }
    domain_init(d, OWNER_FIRST + i, h);
    *out = d;
    return VMC_OK;
}

uint64_t vmc_bm_domain_destroy(struct vmc_bm_domain *d)
{
    if (d == NULL)
        return 0;
    uint64_t leaked = bm_pages_reclaim(d->owner);
    bm_heap_destroy(d->heap);
    __atomic_store_n(&domain_used[d->owner - OWNER_FIRST], 0, __ATOMIC_RELEASE);
    bm_free(d, sizeof(*d));
    return leaked;
}

const struct vmc_platform *vmc_bm_domain_platform(struct vmc_bm_domain *d)
{
    return &d->pf;
}

uint64_t vmc_bm_domain_pages(struct vmc_bm_domain *d)
{
    return bm_pages_owned(d->owner);
}

void vmc_bm_get_memory(struct vmc_bm_memory *out)
{
    bm_pmm_totals(&out->ram_pages, &out->free_pages);
    out->kernel_pages = bm_pages_owned(OWNER_KERNEL);
}
