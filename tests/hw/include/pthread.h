/* SPDX-License-Identifier: BSD-2-Clause */
/* A thread is a function that another processor runs; there is one at a time. */
#ifndef HW_PTHREAD_H
#define HW_PTHREAD_H

#include <stddef.h>

typedef int pthread_t;

int hw_thread_start(void *(*fn)(void *), void *arg);
void hw_thread_wait(void);

#define pthread_create(t, attr, fn, arg) ((void)(t), (void)(attr), hw_thread_start(fn, arg))
#define pthread_join(t, result)          ((void)(t), (void)(result), hw_thread_wait())

#endif
