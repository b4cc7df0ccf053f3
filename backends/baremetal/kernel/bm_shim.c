/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The C library that linked code expects: what the compiler emits calls to, and what Debian's
 * libcapstone uses. Compiled without vector registers, as all of the kernel: a guest's may be live.
 */
#include "bm_int.h"

/* clang-format off: prototypes of functions that no header of ours declares */
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t n);
size_t strlen(const char *s);
char *strcpy(char *d, const char *s);
char *strncpy(char *d, const char *s, size_t n);
char *strcat(char *d, const char *s);
char *strchr(const char *s, int c);
char *strrchr(const char *s, int c);
char *strstr(const char *s, const char *what);
long strtol(const char *s, char **end, int base);
void qsort(void *base, size_t n, size_t bytes, int (*cmp)(const void *, const void *));
void *malloc(size_t n);
void *calloc(size_t n, size_t bytes);
void *realloc(void *p, size_t n);
void free(void *p);
int vsnprintf(char *d, size_t n, const char *fmt, va_list ap);
int snprintf(char *d, size_t n, const char *fmt, ...);
int sprintf(char *d, const char *fmt, ...);
int __vsnprintf_chk(char *d, size_t n, int flag, size_t room, const char *fmt, va_list ap);
int __snprintf_chk(char *d, size_t n, int flag, size_t room, const char *fmt, ...);
int __sprintf_chk(char *d, int flag, size_t room, const char *fmt, ...);
char *__strcpy_chk(char *d, const char *s, size_t room);
char *__strncpy_chk(char *d, const char *s, size_t n, size_t room);
char *__strcat_chk(char *d, const char *s, size_t room);
void *__memcpy_chk(void *d, const void *s, size_t n, size_t room);
void *__memmove_chk(void *d, const void *s, size_t n, size_t room);
void *__memset_chk(void *d, int c, size_t n, size_t room);
_Noreturn void __stack_chk_fail(void);
const int **__ctype_tolower_loc(void);
/* clang-format on */

/* ---- memory ------------------------------------------------------------------------------------
 */

/* Eight bytes at a time: emulators count, and pay for, every iteration. */
void *memcpy(void *dst, const void *src, size_t n)
{
    void *d = dst;
    size_t words = n / 8;

    n %= 8;
    __asm__ volatile("rep movsq" : "+D"(d), "+S"(src), "+c"(words) : : "memory");
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(n) : : "memory");
    return dst;
}

void *memmove(void *dst, const void *src, size_t n)
{
    unsigned char *d = dst;
    const unsigned char *s = src;

    if ((uint64_t)dst - (uint64_t)src >= n)
        return memcpy(dst, src, n);
    while (n-- != 0)
        d[n] = s[n];
    return dst;
}

void *memset(void *dst, int c, size_t n)
{
    void *d = dst;
    size_t words = n / 8;
    uint64_t v = 0x0101010101010101ull * (uint8_t)c;

    n %= 8;
    __asm__ volatile("rep stosq" : "+D"(d), "+c"(words) : "a"(v) : "memory");
    __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(v) : "memory");
    return dst;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const unsigned char *x = a, *y = b;

    for (; n != 0; n--, x++, y++)
        if (*x != *y)
            return *x < *y ? -1 : 1;
    return 0;
}

/* ---- strings -----------------------------------------------------------------------------------
 */

size_t strlen(const char *s)
{
    size_t n = 0;
    while (s[n] != 0)
        n++;
    return n;
}

size_t bm_strlen(const char *s)
{
    return strlen(s);
}

int strncmp(const char *a, const char *b, size_t n)
{
    for (; n != 0; n--, a++, b++) {
        if (*a != *b)
            return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
        if (*a == 0)
            break;
    }
    return 0;
}

int strcmp(const char *a, const char *b)
{
    return strncmp(a, b, SIZE_MAX);
}

bool bm_streq(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

char *strcpy(char *d, const char *s)
{
    memcpy(d, s, strlen(s) + 1);
    return d;
}

char *strncpy(char *d, const char *s, size_t n)
{
    size_t i = 0;
    for (; i < n && s[i] != 0; i++)
        d[i] = s[i];
    for (; i < n; i++)
        d[i] = 0;
    return d;
}

char *strcat(char *d, const char *s)
{
    strcpy(d + strlen(d), s);
    return d;
}

char *strchr(const char *s, int c)
{
    for (;; s++) {
        if (*s == (char)c)
            return (char *)(uint64_t)s;
        if (*s == 0)
            return NULL;
    }
}

char *strrchr(const char *s, int c)
{
    const char *found = NULL;
    for (;; s++) {
        if (*s == (char)c)
            found = s;
        if (*s == 0)
            return (char *)(uint64_t)found;
    }
}

char *strstr(const char *s, const char *what)
{
    size_t n = strlen(what);
    for (;; s++) {
        if (strncmp(s, what, n) == 0)
            return (char *)(uint64_t)s;
        if (*s == 0)
            return NULL;
    }
}

long strtol(const char *s, char **end, int base)
{
    bool neg = false;
    uint64_t v = 0;

    while (*s == ' ' || *s == '\t')
        s++;
    if (*s == '-' || *s == '+')
        neg = *s++ == '-';
    if ((base == 0 || base == 16) && s[0] == '0' && (s[1] | 32) == 'x') {
        base = 16;
        s += 2;
    } else if (base == 0) {
        base = *s == '0' ? 8 : 10;
    }
    for (;; s++) {
        int d = *s >= '0' && *s <= '9'                 ? *s - '0'
                : (*s | 32) >= 'a' && (*s | 32) <= 'z' ? (*s | 32) - 'a' + 10
                                                       : 99;
        if (d >= base)
            break;
        v = v * (unsigned)base + (unsigned)d;
    }
    if (end != NULL)
        *end = (char *)(uint64_t)s;
    return neg ? -(long)v : (long)v;
}

/* Heap sort: no recursion, no memory. */
static void swap(char *a, char *b, size_t n)
{
    for (; n != 0; n--, a++, b++) {
        char c = *a;
        *a = *b;
        *b = c;
    }
}

static void sift(char *a, size_t i, size_t n, size_t w, int (*cmp)(const void *, const void *))
{
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= n)
            return;
        if (c + 1 < n && cmp(a + c * w, a + (c + 1) * w) < 0)
            c++;
        if (cmp(a + i * w, a + c * w) >= 0)
            return;
        swap(a + i * w, a + c * w, w);
        i = c;
    }
}

void qsort(void *base, size_t n, size_t w, int (*cmp)(const void *, const void *))
{
    char *a = base;

    for (size_t i = n / 2; i-- > 0;)
        sift(a, i, n, w, cmp);
    while (n > 1) {
        n--;
        swap(a, a + n * w, w);
        sift(a, 0, n, w, cmp);
    }
}

/* ---- allocation: the size before each block -----------------------------------------------------
 */

#define HEAD 16u

void *malloc(size_t n)
{
    if (n > SIZE_MAX - HEAD)
        return NULL;
    uint64_t *p = bm_heap_alloc(bm_kernel_heap, n + HEAD, 16);
    if (p == NULL)
        return NULL;
    p[0] = n + HEAD;
    return p + 2;
}

void free(void *p)
{
    uint64_t *q = p;
    if (q != NULL)
        bm_heap_free(bm_kernel_heap, q - 2, q[-2], 16);
}

void *calloc(size_t n, size_t bytes)
{
    size_t all;
    if (__builtin_mul_overflow(n, bytes, &all))
        return NULL;
    void *p = malloc(all);
    if (p != NULL)
        memset(p, 0, all);
    return p;
}

void *realloc(void *p, size_t n)
{
    void *q = malloc(n);
    if (p == NULL || q == NULL)
        return q;
    size_t old = ((uint64_t *)p)[-2] - HEAD;
    memcpy(q, p, old < n ? old : n);
    free(p);
    return q;
}

/* ---- formatted output --------------------------------------------------------------------------
 */

int vsnprintf(char *d, size_t n, const char *fmt, va_list ap)
{
    return (int)bm_vsnprintf(d, n, fmt, ap);
}

#define FORWARD(call)                                                                              \
    va_list ap;                                                                                    \
    va_start(ap, fmt);                                                                             \
    int n_ = (int)(call);                                                                          \
    va_end(ap);                                                                                    \
    return n_

int snprintf(char *d, size_t n, const char *fmt, ...)
{
    FORWARD(bm_vsnprintf(d, n, fmt, ap));
}

int sprintf(char *d, const char *fmt, ...)
{
    FORWARD(bm_vsnprintf(d, SIZE_MAX / 2, fmt, ap));
}

int __vsnprintf_chk(char *d, size_t n, int flag, size_t room, const char *fmt, va_list ap)
{
    (void)flag;
    return (int)bm_vsnprintf(d, n < room ? n : room, fmt, ap);
}

int __snprintf_chk(char *d, size_t n, int flag, size_t room, const char *fmt, ...)
{
    (void)flag;
    FORWARD(bm_vsnprintf(d, n < room ? n : room, fmt, ap));
}

int __sprintf_chk(char *d, int flag, size_t room, const char *fmt, ...)
{
    (void)flag;
    FORWARD(bm_vsnprintf(d, room, fmt, ap));
}

static void check(size_t n, size_t room)
{
    if (n > room)
        bm_panic("a library copies %zu bytes into %zu", n, room);
}

char *__strcpy_chk(char *d, const char *s, size_t room)
{
    check(strlen(s) + 1, room);
    return strcpy(d, s);
}

char *__strncpy_chk(char *d, const char *s, size_t n, size_t room)
{
    check(n, room);
    return strncpy(d, s, n);
}

char *__strcat_chk(char *d, const char *s, size_t room)
{
    check(strlen(d) + strlen(s) + 1, room);
    return strcat(d, s);
}

void *__memcpy_chk(void *d, const void *s, size_t n, size_t room)
{
    check(n, room);
    return memcpy(d, s, n);
}

void *__memmove_chk(void *d, const void *s, size_t n, size_t room)
{
    check(n, room);
    return memmove(d, s, n);
}

void *__memset_chk(void *d, int c, size_t n, size_t room)
{
    check(n, room);
    return memset(d, c, n);
}

_Noreturn void __stack_chk_fail(void)
{
    bm_panic("stack overflow in a library");
}

const int **__ctype_tolower_loc(void)
{
    static int lower[384];
    static const int *table = lower + 128;

    if (lower[128 + 'A'] == 0)
        for (int i = -128; i < 256; i++)
            lower[128 + i] = i >= 'A' && i <= 'Z' ? i + 32 : i;
    return &table;
}

/* ---- libcapstone: x86 only ---------------------------------------------------------------------
 */

/*
 * Debian's library registers every architecture in one table. With these in their place the linker
 * leaves the other disassemblers out; opening one of them fails (CS_ERR_ARCH).
 */
#define NO_ARCH(name)                                                                              \
    int name##_global_init(void *ud);                                                              \
    int name##_global_init(void *ud)                                                               \
    {                                                                                              \
        (void)ud;                                                                                  \
        return 2;                                                                                  \
    }                                                                                              \
    int name##_option(void *handle, int type, size_t value);                                       \
    int name##_option(void *handle, int type, size_t value)                                        \
    {                                                                                              \
        (void)handle;                                                                              \
        (void)type;                                                                                \
        (void)value;                                                                               \
        return 2;                                                                                  \
    }
NO_ARCH(AArch64)
NO_ARCH(ARM)
NO_ARCH(EVM)
NO_ARCH(M680X)
NO_ARCH(M68K)
NO_ARCH(Mips)
NO_ARCH(PPC)
NO_ARCH(Sparc)
NO_ARCH(SystemZ)
NO_ARCH(TMS320C64x)
NO_ARCH(XCore)
