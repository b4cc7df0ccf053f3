/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BM_HW_H
#define BM_HW_H

#include "bm_int.h"

struct vmc_hw_ops;
/* The privileged operations for struct vmc_platform. First called before other CPUs start. */
const struct vmc_hw_ops *bm_hw_ops(void);

#endif
