/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Single instructions for engines on hardware: MMIO and string-I/O exits, real-mode code on VT-x
 * without unrestricted guest, stepping over. It is the software CPU itself, working on a state that
 * belongs to somebody else:
 *
 *   - the guest changes memory and page tables without telling, so nothing is trusted from one
 *     call to the next: translations are dropped, decoded code is compared with memory;
 *   - interrupts are the engine's business: none is taken here.
 *
 * One emulator a vCPU; on the thread that owns the vCPU.
 */
#ifndef CPU_EMULATE_H
#define CPU_EMULATE_H

#include <vmcore/engine.h>
#include <vmcore/paging.h>

struct vmci_emulator;

/* policy and io are borrowed; io's interrupt callbacks are not used. VMC_ENOMEM. */
int vmci_emulator_create(const struct vmc_platform *pf, struct vmc_mem *mem, uint32_t index,
                         const struct vmc_cpu_policy *policy, const struct vmc_engine_io *io,
                         struct vmci_emulator **out, struct vmc_error *err);
void vmci_emulator_destroy(struct vmci_emulator *e);

/*
 * Execute at most n instructions. groups says which parts of *st are valid and are to be updated;
 * what it does not name is as the last call left it. VMC_ST_FPU is needed only when the instruction
 * may be x87, MMX, SSE or AVX. Exceptions of the instruction are delivered: *st is then the state
 * at the handler's first instruction. 0: *out as run of the software engine returns it, BUDGET when
 * n instructions were done. IO, MMIO and MSR exits: call vmci_emulate_complete, then vmci_emulate
 * again. VMC_EINVAL: *st is no state of a processor.
 */
int vmci_emulate(struct vmci_emulator *e, uint32_t groups, struct vmc_x86_state *st, uint64_t n,
                 struct vmc_exit *out);
int vmci_emulate_complete(struct vmci_emulator *e, const struct vmc_exit *done);

/*
 * The state without executing anything: set checks it (VMC_EINVAL) and brings it into the form that
 * get returns. An access that is under way is forgotten.
 */
int vmci_emulator_set(struct vmci_emulator *e, uint32_t groups, const struct vmc_x86_state *st);
int vmci_emulator_get(struct vmci_emulator *e, uint32_t groups, struct vmc_x86_state *st);
int vmci_emulator_set_policy(struct vmci_emulator *e, const struct vmc_cpu_policy *policy,
                             struct vmc_error *err);
/* DEBUG exits as set_debug of the software engine gives them. */
int vmci_emulator_set_debug(struct vmci_emulator *e, const struct vmc_breakpoint *bp, size_t n);
/* What the guest's page tables may say by the CPU model: phys_bits and without of *pg. */
void vmci_emulator_paging(const struct vmci_emulator *e, struct vmc_paging *pg);
/* Guest TSC minus host TSC, to be set before and read after emulation. */
int64_t *vmci_emulator_tsc_offset(struct vmci_emulator *e);
/* The guest's TSC as the emulator has it now. */
uint64_t vmci_emulator_tsc(struct vmci_emulator *e);
/* CPUID as the guest sees it in state st, of which SEG and CTRL are looked at. */
void vmci_emulator_cpuid(struct vmci_emulator *e, const struct vmc_x86_state *st, uint32_t leaf,
                         uint32_t subleaf, uint32_t out[4]);

#endif
