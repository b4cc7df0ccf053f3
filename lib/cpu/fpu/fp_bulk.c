/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Copying and filling memory through vector registers. Within a page REP MOVS and REP STOS of the
 * host take 20 to 30 cycles to begin with; strings that go through many pages of a guest are cut at
 * the borders of both sides. The registers may hold the guest's state, so what they held is put
 * back. Nobody sees that they were used: which components are in use is told by content
 * (fp_xsave.c).
 */
#include "cpu/fpu/fp_bulk.h"
#include "cpu/interp/mem.h"

bool vmci_fp_bulk(const struct vmci_cpu *cpu)
{
    /* Guests with AVX execute VZEROUPPER where it matters; for others the upper halves stay clean,
       which makes SSE fast on some processors. */
    return !VMCI_FP_EAGER && cpu->fp != NULL && cpu->fp->has_avx && (cpu->xcr0 & VMC_XCR0_AVX) != 0;
}

VMCI_GUESTS_RACE void vmci_fp_bulk_copy(void *to, const void *from, size_t bytes)
{
    uint8_t keep[4 * 32];

    __asm__ volatile("vmovdqu %%ymm0, (%[keep])\n\t"
                     "vmovdqu %%ymm1, 32(%[keep])\n\t"
                     "vmovdqu %%ymm2, 64(%[keep])\n\t"
                     "vmovdqu %%ymm3, 96(%[keep])\n\t"
                     "jmp 2f\n\t"
                     ".p2align 6\n\t"
                     "1:\tvmovdqu (%[s]), %%ymm0\n\t"
                     "vmovdqu 32(%[s]), %%ymm1\n\t"
                     "vmovdqu 64(%[s]), %%ymm2\n\t"
                     "vmovdqu 96(%[s]), %%ymm3\n\t"
                     "vmovdqu %%ymm0, (%[d])\n\t"
                     "vmovdqu %%ymm1, 32(%[d])\n\t"
                     "vmovdqu %%ymm2, 64(%[d])\n\t"
                     "vmovdqu %%ymm3, 96(%[d])\n\t"
                     "sub $-128, %[s]\n\t"
                     "sub $-128, %[d]\n\t"
                     "2:\tsub $128, %[n]\n\t"
                     "jae 1b\n\t"
                     "test $64, %b[n]\n\t"
                     "jz 3f\n\t"
                     "vmovdqu (%[s]), %%ymm0\n\t"
                     "vmovdqu 32(%[s]), %%ymm1\n\t"
                     "vmovdqu %%ymm0, (%[d])\n\t"
                     "vmovdqu %%ymm1, 32(%[d])\n\t"
                     "add $64, %[s]\n\t"
                     "add $64, %[d]\n\t"
                     "3:\ttest $32, %b[n]\n\t"
                     "jz 4f\n\t"
                     "vmovdqu (%[s]), %%ymm0\n\t"
                     "vmovdqu %%ymm0, (%[d])\n\t"
                     "add $32, %[s]\n\t"
                     "add $32, %[d]\n\t"
                     "4:\ttest $16, %b[n]\n\t"
                     "jz 5f\n\t"
                     "vmovdqu (%[s]), %%xmm0\n\t"
                     "vmovdqu %%xmm0, (%[d])\n\t"
                     "add $16, %[s]\n\t"
                     "add $16, %[d]\n\t"
                     "5:\tvmovdqu (%[keep]), %%ymm0\n\t"
                     "vmovdqu 32(%[keep]), %%ymm1\n\t"
                     "vmovdqu 64(%[keep]), %%ymm2\n\t"
                     "vmovdqu 96(%[keep]), %%ymm3\n\t"
                     : [s] "+r"(from), [d] "+r"(to), [n] "+r"(bytes)
                     : [keep] "r"(keep)
                     : "memory", "cc");
    uint8_t *d = to; /* the rest, with each element in one piece and each byte written once */
    const uint8_t *s = from;
    if ((bytes & 8) != 0)
        *(volatile u64_u *)d = *(const volatile u64_u *)s;
    d += bytes & 8;
    s += bytes & 8;
    if ((bytes & 4) != 0)
        *(volatile u32_u *)d = *(const volatile u32_u *)s;
    d += bytes & 4;
    s += bytes & 4;
    if ((bytes & 2) != 0)
        *(volatile u16_u *)d = *(const volatile u16_u *)s;
    if ((bytes & 1) != 0)
        d[bytes & 2] = s[bytes & 2];
}

VMCI_GUESTS_RACE void vmci_fp_bulk_fill(void *to, uint64_t pattern, size_t bytes)
{
    uint8_t keep[32];

    __asm__ volatile("vmovdqu %%ymm0, (%[keep])\n\t"
                     "vmovq %[v], %%xmm0\n\t"
                     "vpunpcklqdq %%xmm0, %%xmm0, %%xmm0\n\t"
                     "vinsertf128 $1, %%xmm0, %%ymm0, %%ymm0\n\t"
                     "jmp 2f\n\t"
                     ".p2align 6\n"
                     "1:\tvmovdqu %%ymm0, (%[d])\n\t"
                     "vmovdqu %%ymm0, 32(%[d])\n\t"
                     "vmovdqu %%ymm0, 64(%[d])\n\t"
                     "vmovdqu %%ymm0, 96(%[d])\n\t"
                     "sub $-128, %[d]\n"
                     "2:\tsub $128, %[n]\n\t"
                     "jae 1b\n\t"
                     "test $64, %b[n]\n\t"
                     "jz 3f\n\t"
                     "vmovdqu %%ymm0, (%[d])\n\t"
                     "vmovdqu %%ymm0, 32(%[d])\n\t"
                     "add $64, %[d]\n"
                     "3:\ttest $32, %b[n]\n\t"
                     "jz 4f\n\t"
                     "vmovdqu %%ymm0, (%[d])\n\t"
                     "add $32, %[d]\n"
                     "4:\ttest $16, %b[n]\n\t"
                     "jz 5f\n\t"
                     "vmovdqu %%xmm0, (%[d])\n\t"
                     "add $16, %[d]\n"
                     "5:\tvmovdqu (%[keep]), %%ymm0\n\t"
                     : [d] "+r"(to), [n] "+r"(bytes)
                     : [keep] "r"(keep), [v] "r"(pattern)
                     : "memory", "cc");
    uint8_t *d = to;
    if ((bytes & 8) != 0)
        *(volatile u64_u *)d = pattern;
    d += bytes & 8;
    if ((bytes & 4) != 0)
        *(volatile u32_u *)d = (uint32_t)pattern;
    d += bytes & 4;
    if ((bytes & 2) != 0)
        *(volatile u16_u *)d = (uint16_t)pattern;
    if ((bytes & 1) != 0)
        d[bytes & 2] = (uint8_t)pattern;
}
