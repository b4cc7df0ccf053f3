/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * memcpy and its kin for the modules that run while a guest's vector registers are live in the
 * host's: a C library's own would overwrite them. base_int.h gives those modules these names.
 */
#include "base_int.h"

void *vmci_gpr_memcpy(void *dst, const void *src, size_t n);
void *vmci_gpr_memmove(void *dst, const void *src, size_t n);
void *vmci_gpr_memset(void *dst, int c, size_t n);
int vmci_gpr_memcmp(const void *a, const void *b, size_t n);

void *vmci_gpr_memcpy(void *dst, const void *src, size_t n)
{
    unsigned char *d = dst;
    const unsigned char *s = src;

    /* The string instruction takes tens of cycles to begin. */
    if (n <= 256) {
        /* The empty instructions keep the compiler from making calls of memcpy of the loops. */
        for (; n >= 8; n -= 8, d += 8, s += 8) {
            vmci_st_le64(d, vmci_ld_le64(s));
            __asm__ volatile("" : : : "memory");
        }
        for (; n != 0; n--) {
            *d++ = *s++;
            __asm__ volatile("" : : : "memory");
        }
        return dst;
    }
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
    return dst;
}

void *vmci_gpr_memmove(void *dst, const void *src, size_t n)
{
    if ((uintptr_t)dst - (uintptr_t)src >= n)
        return vmci_gpr_memcpy(dst, src, n);
    unsigned char *d = (unsigned char *)dst + n;
    const unsigned char *s = (const unsigned char *)src + n;
    for (; n >= 8; n -= 8) {
        d -= 8;
        s -= 8;
        vmci_st_le64(d, vmci_ld_le64(s));
    }
    while (n-- != 0)
        *--d = *--s;
    return dst;
}

void *vmci_gpr_memset(void *dst, int c, size_t n)
{
    void *d = dst;
    __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
    return dst;
}

int vmci_gpr_memcmp(const void *a, const void *b, size_t n)
{
    const unsigned char *x = a, *y = b;
    while (n >= 8 && vmci_ld_le64(x) == vmci_ld_le64(y)) {
        x += 8;
        y += 8;
        n -= 8;
    }
    for (; n != 0; n--, x++, y++) {
        if (*x != *y)
            return *x < *y ? -1 : 1;
    }
    return 0;
}
