/* SPDX-License-Identifier: BSD-2-Clause */
/* Compiled and run in a guest, and natively: integer, vector and floating-point loops. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef float v8f __attribute__((vector_size(32)));
typedef int32_t v8i __attribute__((vector_size(32)));
typedef uint8_t v16b __attribute__((vector_size(16)));

static uint64_t hash = 0xcbf29ce484222325u;

static void mix(const void *p, size_t n)
{
    for (const uint8_t *b = p; n > 0; n--)
        hash = (hash ^ *b++) * 0x100000001b3u;
}

static uint64_t state = 88172645463325252u;
static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void vectors(void)
{
    v8f f = {1, 2, 3, 4, 5, 6, 7, 8}, g = f;
    v8i i = {0};
    v16b b = {0};

    for (int n = 0; n < 200000; n++) {
        f = f * 1.0001f + g / 3.0f;
        g = g - f * 0.00001f;
        i = i * 1103515245 + (v8i){1, 2, 3, 4, 5, 6, 7, 8};
        i ^= i >> 3;
        b = b + (v16b){1, 3, 5, 7, 9, 11, 13, 15} - (b >> 1);
    }
    mix(&f, sizeof(f));
    mix(&i, sizeof(i));
    mix(&b, sizeof(b));
}

static void scalars(void)
{
    long double x = 1.0L;
    double y = 0.5;
    unsigned __int128 w = 1;

    for (int n = 1; n < 300000; n++) {
        uint64_t r = next();
        x = x * 1.0000001L + 1.0L / n;
        y = __builtin_sqrt(y * y + (double)(r >> 40)) * 0.5;
        w = w * r + (r ^ (uint64_t)(w >> 64));
        uint64_t q = r / (n | 1u), m = (uint64_t)((int64_t)r % (n + 7));
        uint64_t t = (uint64_t)__builtin_popcountll(r) + (uint64_t)__builtin_clzll(r | 1) +
                     __builtin_bswap64(r) + (r << (n & 63) | r >> (-n & 63));
        mix(&q, sizeof(q));
        mix(&m, sizeof(m));
        mix(&t, sizeof(t));
    }
    char text[200];
    mix(text, (size_t)snprintf(text, sizeof(text), "%.18Lg %.17g %llx", x, y,
                               (unsigned long long)(w >> 64)));
    puts(text);
}

int main(void)
{
    vectors();
    scalars();
    printf("%016llx\n", (unsigned long long)hash);
    return 0;
}
