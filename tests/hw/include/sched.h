/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef HW_SCHED_H
#define HW_SCHED_H

#define sched_yield() __builtin_ia32_pause()

#endif
