/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * The privileged operations of hw.h for a kernel on x86-64.
 */
#ifndef BAREMETAL_HW_H
#define BAREMETAL_HW_H

#include <vmcore/hw.h>

/** Fill in every operation that is an instruction; flags, percpu, to_phys and timer are not touched. */
void vmc_baremetal_hw(struct vmc_hw_ops *ops);

#endif
