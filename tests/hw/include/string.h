/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef HW_STRING_H
#define HW_STRING_H

#include <stddef.h>

void *memcpy(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t n);
char *strstr(const char *s, const char *what);
char *strrchr(const char *s, int c);
size_t strlen(const char *s);

#endif
