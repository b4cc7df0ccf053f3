/* SPDX-License-Identifier: BSD-2-Clause */
/* What the rest of the software CPU uses of fpu/; instructions come in through decode/insn.h. */
#ifndef FP_H
#define FP_H

#include "cpu/cpu_int.h"

/* Sets cpu->fp. VMC_ENOTSUP without executable memory: the CPU then has no x87 and no SIMD. */
int vmci_fp_create(struct vmci_cpu *cpu, struct vmc_error *err);
void vmci_fp_destroy(struct vmci_cpu *cpu);
/* RESET or INIT. */
void vmci_fp_reset(struct vmci_cpu *cpu, bool init);

/*
 * The state as an XSAVE area (standard format, 64-bit pointers). get writes at most 840 bytes and
 * returns how many; FCS and FDS go into the first four software-available bytes. set: VMC_EINVAL
 * for reserved MXCSR bits or components that the host lacks.
 */
unsigned vmci_fp_get_xsave(struct vmci_cpu *cpu, void *dst);
int vmci_fp_set_xsave(struct vmci_cpu *cpu, const void *src, unsigned bytes);

/* Components of XCR0 that are not in their initial state (XINUSE, SDM 1 13.6). */
uint64_t vmci_fp_in_use(struct vmci_cpu *cpu);

/* Mask of enum vmci_feat: the FP features that the host's unit can run. Executes CPUID. */
uint64_t vmci_fp_host_features(void);

#endif
