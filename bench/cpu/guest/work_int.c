/* SPDX-License-Identifier: BSD-2-Clause */
/* User-mode integer code. */
#include "work.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* ---- sieve of Eratosthenes ------------------------------------------------------------------- */

#define SIEVE 65536

static uint64_t sieve(uint64_t n)
{
    static uint8_t composite[SIEVE];
    uint64_t count = 0;

    while (n-- > 0) {
        memset(composite, 0, sizeof(composite));
        for (unsigned p = 2; p < SIEVE; p++) {
            if (composite[p])
                continue;
            count++;
            for (unsigned m = 2 * p; m < SIEVE; m += p)
                composite[m] = 1;
        }
        ESCAPE(composite);
    }
    return count;
}

/* ---- SHA-256 (FIPS 180-4) -------------------------------------------------------------------- */

static const uint32_t sha_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t ror(uint32_t x, unsigned n)
{
    return x >> n | x << (32 - n);
}

static void sha_block(uint32_t h[8], const uint8_t *p)
{
    uint32_t w[64], v[8];

    for (unsigned i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 |
               (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (unsigned i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] + (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, h, sizeof(v));
    for (unsigned i = 0; i < 64; i++) {
        uint32_t t1 = v[7] + (ror(v[4], 6) ^ ror(v[4], 11) ^ ror(v[4], 25)) +
                      ((v[4] & v[5]) ^ (~v[4] & v[6])) + sha_k[i] + w[i];
        uint32_t t2 = (ror(v[0], 2) ^ ror(v[0], 13) ^ ror(v[0], 22)) +
                      ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof(v[0]));
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (unsigned i = 0; i < 8; i++)
        h[i] += v[i];
}

static uint64_t sha256(uint64_t n)
{
    static uint8_t data[16384];
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

    while (n-- > 0)
        for (unsigned at = 0; at < sizeof(data); at += 64)
            sha_block(h, data + at);
    return (uint64_t)h[0] << 32 | h[7];
}

/* ---- a bytecode interpreter ------------------------------------------------------------------ */

enum { OP_PUSH, OP_ADD, OP_SUB, OP_MUL, OP_XOR, OP_LOAD, OP_STORE, OP_JNZ, OP_DUP, OP_HALT };

/* x = 1; for (i = 3000; i != 0; i--) x = (x * 31 ^ i) + 7 */
static const int32_t program[] = {OP_PUSH, 3000,    OP_STORE, 0,       OP_PUSH, 1,        OP_STORE,
                                  1,       OP_LOAD, 1,        OP_PUSH, 31,      OP_MUL,   OP_LOAD,
                                  0,       OP_XOR,  OP_PUSH,  7,       OP_ADD,  OP_STORE, 1,
                                  OP_LOAD, 0,       OP_PUSH,  1,       OP_SUB,  OP_DUP,   OP_STORE,
                                  0,       OP_JNZ,  8,        OP_LOAD, 1,       OP_HALT};

static uint32_t interpret(const int32_t *code)
{
    uint32_t stack[16], var[4] = {0};
    unsigned sp = 0;
    const int32_t *pc = code;

    for (;;) {
        switch (*pc++) {
        case OP_PUSH:
            stack[sp++] = (uint32_t)*pc++;
            break;
        case OP_ADD:
            sp--;
            stack[sp - 1] += stack[sp];
            break;
        case OP_SUB:
            sp--;
            stack[sp - 1] -= stack[sp];
            break;
        case OP_MUL:
            sp--;
            stack[sp - 1] *= stack[sp];
            break;
        case OP_XOR:
            sp--;
            stack[sp - 1] ^= stack[sp];
            break;
        case OP_LOAD:
            stack[sp++] = var[*pc++];
            break;
        case OP_STORE:
            var[*pc++] = stack[--sp];
            break;
        case OP_JNZ:
            pc = stack[--sp] != 0 ? code + *pc : pc + 1;
            break;
        case OP_DUP:
            stack[sp] = stack[sp - 1];
            sp++;
            break;
        default:
            return stack[sp - 1];
        }
    }
}

static uint64_t interp(uint64_t n)
{
    uint64_t sum = 0;

    while (n-- > 0) {
        const int32_t *p = program;
        ESCAPE(&p);
        sum += interpret(p);
    }
    return sum;
}

/* ---- quicksort ------------------------------------------------------------------------------- */

static void sort(uint32_t *a, long lo, long hi)
{
    while (lo < hi) {
        uint32_t pivot = a[(lo + hi) / 2];
        long i = lo, j = hi;
        while (i <= j) {
            while (a[i] < pivot)
                i++;
            while (a[j] > pivot)
                j--;
            if (i <= j) {
                uint32_t t = a[i];
                a[i++] = a[j];
                a[j--] = t;
            }
        }
        if (j - lo < hi - i) {
            sort(a, lo, j);
            lo = i;
        } else {
            sort(a, i, hi);
            hi = j;
        }
    }
}

static uint64_t quicksort(uint64_t n)
{
    static uint32_t a[8192];
    uint32_t seed = 1;
    uint64_t sum = 0;

    while (n-- > 0) {
        for (unsigned i = 0; i < 8192; i++)
            a[i] = next_random(&seed);
        sort(a, 0, 8191);
        sum += a[17];
    }
    return sum;
}

/* ---- counting words -------------------------------------------------------------------------- */

static char text[65536];

static void make_text(void)
{
    uint32_t seed = 7;

    if (text[0] != 0)
        return;
    for (unsigned i = 0; i < sizeof(text);) {
        uint32_t word = next_random(&seed) % 400;
        unsigned len = 2 + word % 9;
        for (unsigned k = 0; k < len && i < sizeof(text) - 1; k++)
            text[i++] = (char)('a' + (word * 7 + k * k * 3) % 26);
        text[i++] = ' ';
    }
}

static uint64_t words(uint64_t n)
{
    static struct entry {
        uint32_t hash, count;
        const char *at;
        unsigned len;
    } table[2048];
    uint64_t distinct = 0;

    make_text();
    while (n-- > 0) {
        memset(table, 0, sizeof(table));
        for (const char *p = text, *end = text + sizeof(text); p < end;) {
            const char *at = p;
            uint32_t h = 2166136261u;
            while (p < end && *p != ' ')
                h = (h ^ (uint8_t)*p++) * 16777619u;
            unsigned len = (unsigned)(p - at);
            p++;
            for (unsigned slot = h % 2048;; slot = (slot + 1) % 2048) {
                struct entry *e = &table[slot];
                if (e->count == 0) {
                    *e = (struct entry){h, 1, at, len};
                    distinct++;
                    break;
                }
                if (e->hash == h && e->len == len && memcmp(e->at, at, len) == 0) {
                    e->count++;
                    break;
                }
            }
        }
        ESCAPE(table);
    }
    return distinct;
}

/* ---- calls ----------------------------------------------------------------------------------- */

static __attribute__((noinline, optimize("no-optimize-sibling-calls,no-inline"))) uint64_t
fib(unsigned n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t recurse(uint64_t n)
{
    uint64_t sum = 0;

    while (n-- > 0)
        sum += fib(18);
    return sum;
}

#define STEP(n, expr)                                                                              \
    static __attribute__((noinline)) uint64_t step##n(uint64_t x)                                  \
    {                                                                                              \
        return expr;                                                                               \
    }
STEP(0, x + 1)
STEP(1, x ^ x >> 3)
STEP(2, x * 5)
STEP(3, x - (x >> 7))
STEP(4, x | 1)
STEP(5, ~x)
STEP(6, x << 1 ^ 0x1b)
STEP(7, x + (x << 4))

static uint64_t indirect(uint64_t n)
{
    static uint64_t (*const steps[8])(uint64_t) = {step0, step1, step2, step3,
                                                   step4, step5, step6, step7};
    uint64_t (*const *volatile table)(uint64_t) = steps;
    uint64_t x = 1;

    while (n-- > 0)
        for (unsigned i = 0; i < 8192; i++)
            x = table[(i * 5 + (i >> 4)) & 7](x);
    return x;
}

/* ---- gzip ------------------------------------------------------------------------------------ */

static uint64_t gzip(uint64_t n)
{
    static uint8_t out[sizeof(text) + 1024];
    uint64_t total = 0;

    make_text();
    while (n-- > 0) {
        z_stream z = {.next_in = (uint8_t *)text,
                      .avail_in = 16384,
                      .next_out = out,
                      .avail_out = sizeof(out)};
        if (deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
            abort();
        if (deflate(&z, Z_FINISH) != Z_STREAM_END)
            abort();
        total += z.total_out;
        deflateEnd(&z);
    }
    return total;
}

const struct work work_int[] = {
    {"sieve", "int", sieve},         {"sha256", "int", sha256}, {"interp", "int", interp},
    {"quicksort", "int", quicksort}, {"words", "int", words},   {"recurse", "int", recurse},
    {"indirect", "int", indirect},   {"gzip", "int", gzip},     {0},
};
