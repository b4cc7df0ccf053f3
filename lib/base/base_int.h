/* SPDX-License-Identifier: BSD-2-Clause */
/* Small tools every module may use. Freestanding; no state. */
#ifndef BASE_INT_H
#define BASE_INT_H

#include <stdarg.h>
#include <vmcore/log.h>
#include <vmcore/platform.h>
#include <vmcore/status.h>

/* The compiler's own mem* need these; the platform supplies them (libc or a kernel's shim). */
#ifdef VMC_GENERAL_REGS
/*
 * In modules that may run while a guest's vector registers are live, calls of these, the
 * compiler's own included, go to mem_gpr.c: a C library's would overwrite the registers.
 */
#define VMCI_GPR_NAME(n) __asm__("vmci_gpr_" #n)
#ifdef __clang__ /* names only the calls that are written out; the assembler gets the others */
__asm__(".set memcpy, vmci_gpr_memcpy\n.set memmove, vmci_gpr_memmove\n"
        ".set memset, vmci_gpr_memset\n.set memcmp, vmci_gpr_memcmp");
#endif
#else
#define VMCI_GPR_NAME(n)
#endif
void *memcpy(void *dst, const void *src, size_t n) VMCI_GPR_NAME(memcpy);
void *memmove(void *dst, const void *src, size_t n) VMCI_GPR_NAME(memmove);
void *memset(void *dst, int c, size_t n) VMCI_GPR_NAME(memset);
int memcmp(const void *a, const void *b, size_t n) VMCI_GPR_NAME(memcmp);

/* For functions that access memory as a guest told them to: races there are the guest's own. */
#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if __has_feature(thread_sanitizer) || defined(__SANITIZE_THREAD__)
#define VMCI_GUESTS_RACE __attribute__((no_sanitize("thread")))
#define VMCI_SEES_RACES  /* also inside memcpy */
#else
#define VMCI_GUESTS_RACE
#endif

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define VMCI_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define VMCI_MIN(a, b)     ((a) < (b) ? (a) : (b))
#define VMCI_MAX(a, b)     ((a) > (b) ? (a) : (b))
#define VMCI_CONTAINER_OF(ptr, type, member)                                                       \
    ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define VMCI_BIT(n) (1ull << (n))

/* ---- checked arithmetic (true: it overflowed) --------------------------------------------- */

#define vmci_add_ovf(a, b, out) __builtin_add_overflow(a, b, out)
#define vmci_mul_ovf(a, b, out) __builtin_mul_overflow(a, b, out)

static inline bool vmci_is_pow2(uint64_t v)
{
    return v != 0 && (v & (v - 1)) == 0;
}

static inline uint64_t vmci_align_up(uint64_t v, uint64_t align)
{
    return (v + align - 1) & ~(align - 1);
}

static inline uint64_t vmci_align_down(uint64_t v, uint64_t align)
{
    return v & ~(align - 1);
}

/* offset + bytes lies within limit, without overflowing */
static inline bool vmci_range_ok(uint64_t offset, uint64_t bytes, uint64_t limit)
{
    return offset <= limit && bytes <= limit - offset;
}

/* Clamp an index that has been checked, so that a mispredicted check cannot be exploited. */
static inline size_t vmci_nospec_index(size_t index, size_t size)
{
    size_t mask;
    __asm__("cmp %2, %1; sbb %0, %0" : "=r"(mask) : "r"(index), "r"(size) : "cc");
    return index & mask;
}

/* ---- little-endian bytes ------------------------------------------------------------------- */

static inline uint16_t vmci_ld_le16(const void *p)
{
    uint16_t v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
}
static inline uint32_t vmci_ld_le32(const void *p)
{
    uint32_t v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
}
static inline uint64_t vmci_ld_le64(const void *p)
{
    uint64_t v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
}
static inline void vmci_st_le16(void *p, uint16_t v)
{
    __builtin_memcpy(p, &v, sizeof(v));
}
static inline void vmci_st_le32(void *p, uint32_t v)
{
    __builtin_memcpy(p, &v, sizeof(v));
}
static inline void vmci_st_le64(void *p, uint64_t v)
{
    __builtin_memcpy(p, &v, sizeof(v));
}

/* ---- strings ------------------------------------------------------------------------------- */

static inline size_t vmci_strlen(const char *s)
{
    size_t n = 0;
    while (s[n] != '\0')
        n++;
    return n;
}

static inline bool vmci_streq(const char *a, const char *b)
{
    while (*a != '\0' && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

/* ---- text, errors, log --------------------------------------------------------------------- */

/*
 * snprintf for %s %c %d %i %u %x %X %p %% with 0, -, width, .precision (strings), and the length
 * modifiers h l ll z. Always terminates; returns the length it would have had.
 */
size_t vmci_vsnprintf(char *dst, size_t bytes, const char *fmt, va_list ap);
size_t vmci_snprintf(char *dst, size_t bytes, const char *fmt, ...) VMC_PRINTF(3, 4);

/* Fill err (may be NULL) and return code, so that callers write "return vmci_error(...)". */
int vmci_error(struct vmc_error *err, int code, const char *site, const char *fmt, ...)
    VMC_PRINTF(4, 5);
int vmci_error_host(struct vmc_error *err, int code, int host_code, const char *site,
                    const char *fmt, ...) VMC_PRINTF(5, 6);

void vmci_log(const struct vmc_platform *pf, int level, const char *module, const char *fmt, ...)
    VMC_PRINTF(4, 5);

/* A budget for messages that a guest can trigger: the first few are printed, the rest counted. */
struct vmci_loglimit {
    uint32_t used;
};
#define VMCI_LOGLIMIT_MAX 16
static inline bool vmci_loglimit_ok(struct vmci_loglimit *l)
{
    return __atomic_fetch_add(&l->used, 1, __ATOMIC_RELAXED) < VMCI_LOGLIMIT_MAX;
}

/* A broken invariant of our own: tell the platform. The caller then fails with VMC_EINTERNAL. */
void vmci_bug(const struct vmc_platform *pf, const char *file, int line, const char *text);

#ifdef VMC_DEBUG
#define vmci_assert(cond)                                                                          \
    do {                                                                                           \
        if (unlikely(!(cond)))                                                                     \
            __builtin_trap();                                                                      \
    } while (0)
#else
#define vmci_assert(cond) ((void)sizeof(!(cond)))
#endif

/* ---- platform shims ------------------------------------------------------------------------ */

/* Has the caller's struct the member, and is it set? */
#define vmci_pf_has(pf, member)                                                                    \
    ((pf)->size >= offsetof(struct vmc_platform, member) + sizeof((pf)->member) && (pf)->member)

#define VMCI_CACHELINE 64

static inline void *vmci_alloc_aligned(const struct vmc_platform *pf, size_t bytes, size_t align)
{
    return pf->alloc(pf->ctx, bytes, align);
}
static inline void vmci_free_aligned(const struct vmc_platform *pf, void *p, size_t bytes,
                                     size_t align)
{
    if (p != NULL)
        pf->free(pf->ctx, p, bytes, align);
}
/* A hint: see struct vmc_platform. Smaller allocations are left alone. */
static inline bool vmci_large_pages(const struct vmc_platform *pf, void *p, size_t bytes,
                                    size_t allocated)
{
    return allocated >= (size_t)2 << 20 && vmci_pf_has(pf, large_pages) &&
           pf->large_pages(pf->ctx, p, bytes) == VMC_OK;
}
/* Zeroed, 16-byte aligned; free with vmci_free and the same size. */
static inline void *vmci_zalloc(const struct vmc_platform *pf, size_t bytes)
{
    void *p = pf->alloc(pf->ctx, bytes, 16);
    if (p != NULL)
        memset(p, 0, bytes);
    return p;
}
static inline void vmci_free(const struct vmc_platform *pf, void *p, size_t bytes)
{
    if (p != NULL)
        pf->free(pf->ctx, p, bytes, 16);
}

/* A lock of the platform; does nothing where the platform has no threads. */
struct vmci_lock {
    const struct vmc_platform *pf; /* NULL: no threads */
    _Alignas(16) unsigned char obj[VMC_LOCK_BYTES];
};

int vmci_lock_init(struct vmci_lock *l, const struct vmc_platform *pf);
void vmci_lock_fini(struct vmci_lock *l);
static inline void vmci_lock(struct vmci_lock *l)
{
    if (l->pf != NULL)
        l->pf->sync->lock(l->pf->ctx, l->obj);
}
static inline void vmci_unlock(struct vmci_lock *l)
{
    if (l->pf != NULL)
        l->pf->sync->unlock(l->pf->ctx, l->obj);
}

/* ---- intrusive doubly linked list ---------------------------------------------------------- */

struct vmci_list {
    struct vmci_list *next, *prev;
};
static inline void vmci_list_init(struct vmci_list *h)
{
    h->next = h->prev = h;
}
static inline bool vmci_list_empty(const struct vmci_list *h)
{
    return h->next == h;
}
static inline void vmci_list_insert_after(struct vmci_list *pos, struct vmci_list *n)
{
    n->prev = pos;
    n->next = pos->next;
    pos->next->prev = n;
    pos->next = n;
}
static inline void vmci_list_add_tail(struct vmci_list *h, struct vmci_list *n)
{
    vmci_list_insert_after(h->prev, n);
}
static inline void vmci_list_add_head(struct vmci_list *h, struct vmci_list *n)
{
    vmci_list_insert_after(h, n);
}
static inline void vmci_list_del(struct vmci_list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    n->next = n->prev = n;
}
#define vmci_list_for(pos, head)           for ((pos) = (head)->next; (pos) != (head); (pos) = (pos)->next)
#define vmci_list_entry(pos, type, member) VMCI_CONTAINER_OF(pos, type, member)

/* ---- bitmaps of 64-bit words --------------------------------------------------------------- */

#define VMCI_BITMAP_WORDS(bits) (((bits) + 63) / 64)
static inline bool vmci_bit_test(const uint64_t *map, uint64_t bit)
{
    return (map[bit / 64] >> (bit % 64)) & 1;
}
static inline void vmci_bit_set(uint64_t *map, uint64_t bit)
{
    map[bit / 64] |= 1ull << (bit % 64);
}
static inline void vmci_bit_clear(uint64_t *map, uint64_t bit)
{
    map[bit / 64] &= ~(1ull << (bit % 64));
}
/* Returns the old value. */
static inline bool vmci_bit_set_atomic(uint64_t *map, uint64_t bit)
{
    uint64_t mask = 1ull << (bit % 64);
    return (__atomic_fetch_or(&map[bit / 64], mask, __ATOMIC_ACQ_REL) & mask) != 0;
}

/* ---- atomics, with the order in the name --------------------------------------------------- */

#define vmci_load_relaxed(p)     __atomic_load_n(p, __ATOMIC_RELAXED)
#define vmci_load_acquire(p)     __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define vmci_store_relaxed(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)
#define vmci_store_release(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
#define vmci_fetch_add(p, v)     __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL)
#define vmci_fetch_or(p, v)      __atomic_fetch_or(p, v, __ATOMIC_ACQ_REL)
#define vmci_fetch_and(p, v)     __atomic_fetch_and(p, v, __ATOMIC_ACQ_REL)
#define vmci_exchange(p, v)      __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL)
#ifdef __SANITIZE_THREAD__ /* it does not model fences: the weaker order hides no report */
#define vmci_fence_seq() __asm__ volatile("mfence" ::: "memory")
#else
#define vmci_fence_seq() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#endif

/* ---- timer queue ---------------------------------------------------------------------------- */

struct vmc_timerq;
/* A second hook like vmc_timerq_set_notify, for the VM that owns the queue. */
void vmci_timerq_set_owner_notify(struct vmc_timerq *q, void (*fn)(void *ctx), void *ctx);

/* One turn of a busy wait. */
static inline void vmci_cpu_relax(void)
{
    __builtin_ia32_pause();
}

/* ---- checksums and hashes ------------------------------------------------------------------ */

uint32_t vmci_crc32c(uint32_t seed, const void *data, size_t bytes);
uint64_t vmci_hash64(const void *data, size_t bytes, uint64_t seed);
struct vmci_hash128 {
    uint64_t lo, hi;
};
struct vmci_hash128 vmci_hash128(const void *data, size_t bytes, uint64_t seed);

#endif
