/* SPDX-License-Identifier: BSD-2-Clause */
/* SVM: what its files share. */
#ifndef HW_SVM_INT_H
#define HW_SVM_INT_H

#include "cpu/hw/hw_int.h"
#include "cpu/hw/vmcb.h"

/* VMC_ENOTSUP: err says what is missing. flags: VMC_HW_CFG_*. */
int svm_caps_read(const struct vmc_platform *pf, uint32_t flags, struct svm_caps *out,
                  struct vmc_error *err);
/* The checks of VMRUN (APM 2 15.5.1). VMC_OK, or VMC_EINVAL: err says which fails. */
int svm_check(const struct vmcb *b, unsigned phys_bits, struct vmc_error *err);

void svm_setup(struct hw_vcpu *v);
void svm_pull(struct hw_vcpu *v, uint32_t groups);
void svm_push(struct hw_vcpu *v, uint32_t groups);
void svm_inject(struct hw_vcpu *v, const struct vmc_event *e);
void svm_take_back(struct hw_vcpu *v);
void svm_windows(struct hw_vcpu *v, bool irq, bool nmi);
bool svm_code64(struct hw_vcpu *v, uint64_t *cr3);
const uint8_t *svm_fetched(struct hw_vcpu *v);
void svm_flush_tlb(struct hw_vcpu *v);
void svm_tpr_out(struct hw_vcpu *v);
void svm_tpr_in(struct hw_vcpu *v);
int svm_load(struct hw_vcpu *v);
void svm_unload(struct hw_vcpu *v);
int svm_enter(struct hw_vcpu *v, struct vmc_exit *x);
int svm_handle(struct hw_vcpu *v, struct vmc_exit *x);
/* Length of the instruction that exited, whose opcode has n bytes: prefixes are counted. 0: cannot
 * tell. */
unsigned svm_insn_len(struct hw_vcpu *v, unsigned n);

#endif
