/* SPDX-License-Identifier: BSD-2-Clause */
/* Floating point and SIMD. */
#include "work.h"

#include <emmintrin.h>
#include <immintrin.h>
#include <string.h>

static uint64_t bits(double d)
{
    uint64_t v;
    memcpy(&v, &d, sizeof(v));
    return v;
}

/* Planets around a sun, in scalar doubles. */
static uint64_t scalar(uint64_t n)
{
    static double pos[5][3], vel[5][3], mass[5];

    for (unsigned i = 0; i < 5; i++)
        for (unsigned k = 0; k < 3; k++) {
            pos[i][k] = (double)(i * 3 + k * k + 1);
            vel[i][k] = (double)k * 0.1 - (double)i * 0.05;
            mass[i] = 1.0 / (double)(i + 1);
        }
    for (uint64_t step = n * 500; step > 0; step--) {
        for (unsigned i = 0; i < 5; i++)
            for (unsigned j = i + 1; j < 5; j++) {
                double d[3], sq = 0.01;
                for (unsigned k = 0; k < 3; k++) {
                    d[k] = pos[i][k] - pos[j][k];
                    sq += d[k] * d[k];
                }
                double mag = 0.0001 / (sq * __builtin_sqrt(sq));
                for (unsigned k = 0; k < 3; k++) {
                    vel[i][k] -= d[k] * mass[j] * mag;
                    vel[j][k] += d[k] * mass[i] * mag;
                }
            }
        for (unsigned i = 0; i < 5; i++)
            for (unsigned k = 0; k < 3; k++)
                pos[i][k] += 0.0001 * vel[i][k];
    }
    return bits(pos[0][0]);
}

#define STREAM 8192

static uint64_t triad(uint64_t n)
{
    static double a[STREAM] __attribute__((aligned(64))), b[STREAM] __attribute__((aligned(64))),
        c[STREAM] __attribute__((aligned(64)));

    for (unsigned i = 0; i < STREAM; i++) {
        b[i] = (double)i;
        c[i] = 1.0 / (double)(i + 1);
    }
    for (uint64_t r = n * 16; r > 0; r--) {
        __m128d s = _mm_set1_pd(3.0);
        for (unsigned i = 0; i < STREAM; i += 2)
            _mm_store_pd(a + i, _mm_add_pd(_mm_load_pd(b + i), _mm_mul_pd(s, _mm_load_pd(c + i))));
        ESCAPE(a);
    }
    return bits(a[STREAM - 1]);
}

#define MAT 48

static double ma[MAT][MAT] __attribute__((aligned(64))), mb[MAT][MAT] __attribute__((aligned(64))),
    mc[MAT][MAT] __attribute__((aligned(64)));

static void fill(void)
{
    for (unsigned i = 0; i < MAT; i++)
        for (unsigned j = 0; j < MAT; j++) {
            ma[i][j] = (double)(i + 2 * j) * 0.5;
            mb[i][j] = (double)(i * j % 7) - 3.0;
        }
}

static uint64_t matmul_sse2(uint64_t n)
{
    fill();
    for (uint64_t r = n * 4; r > 0; r--) {
        for (unsigned i = 0; i < MAT; i++)
            for (unsigned j = 0; j < MAT; j += 4) {
                __m128d s0 = _mm_setzero_pd(), s1 = _mm_setzero_pd();
                for (unsigned k = 0; k < MAT; k++) {
                    __m128d x = _mm_set1_pd(ma[i][k]);
                    s0 = _mm_add_pd(s0, _mm_mul_pd(x, _mm_load_pd(&mb[k][j])));
                    s1 = _mm_add_pd(s1, _mm_mul_pd(x, _mm_load_pd(&mb[k][j + 2])));
                }
                _mm_store_pd(&mc[i][j], s0);
                _mm_store_pd(&mc[i][j + 2], s1);
            }
        ESCAPE(mc);
    }
    return bits(mc[MAT - 1][MAT - 1]);
}

static __attribute__((target("avx2,fma"))) uint64_t matmul_avx2(uint64_t n)
{
    fill();
    for (uint64_t r = n * 8; r > 0; r--) {
        for (unsigned i = 0; i < MAT; i++)
            for (unsigned j = 0; j < MAT; j += 8) {
                __m256d s0 = _mm256_setzero_pd(), s1 = _mm256_setzero_pd();
                for (unsigned k = 0; k < MAT; k++) {
                    __m256d x = _mm256_broadcast_sd(&ma[i][k]);
                    s0 = _mm256_fmadd_pd(x, _mm256_load_pd(&mb[k][j]), s0);
                    s1 = _mm256_fmadd_pd(x, _mm256_load_pd(&mb[k][j + 4]), s1);
                }
                _mm256_store_pd(&mc[i][j], s0);
                _mm256_store_pd(&mc[i][j + 4], s1);
            }
        ESCAPE(mc);
    }
    return bits(mc[MAT - 1][MAT - 1]);
}

/* Horner's rule and a square root in long double. */
static uint64_t x87(uint64_t n)
{
    static volatile long double coef[8] = {1.0L, 0.5L, 0.25L, 0.125L, 3.0L, 0.75L, 1.5L, 0.1L};
    long double sum = 0;

    for (uint64_t r = n * 2000; r > 0; r--) {
        long double x = (long double)(r % 97) / 100.0L, y = 0;
        for (unsigned k = 0; k < 8; k++)
            y = y * x + coef[k];
        sum += __builtin_sqrtl(y);
    }
    return bits((double)sum);
}

const struct work work_fp[] = {
    {"scalar", "fp", scalar},           {"triad", "fp", triad}, {"matmul_sse2", "fp", matmul_sse2},
    {"matmul_avx2", "fp", matmul_avx2}, {"x87", "fp", x87},     {0},
};
