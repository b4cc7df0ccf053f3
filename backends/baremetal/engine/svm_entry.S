/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SVM: enter the guest, and come back.
 *
 * int vmc_svm_run(void *ctx, struct vmc_hw_svm_frame *f)
 *
 * GIF is clear from the look at *stop on, so a request's interrupt cannot come before VMRUN; IF is
 * set, so that it then ends the guest (APM 2 15.21.1: V_INTR_MASKING).
 */
#include "entry_macros.h"

	.text
	.globl vmc_svm_run
	.type vmc_svm_run, @function
vmc_svm_run:
	PUSH_HOST
	pushq %rsi
	clgi
	sti
	movq F_STOP(%rsi), %rax
	cmpl $0, (%rax)
	jne .Lstopped
	testl $(HW_CLEAR_CPU | HW_FLUSH_L1D), F_SVM_FLAGS(%rsi)
	jnz .Lbarriers
.Lload:
	movq F_HOST_VMCB(%rsi), %rax
	vmsave %rax
	movq F_VMCB(%rsi), %rax
	vmload %rax
	movq F_GPR(%rsi), %rsi
	LOAD_GUEST %rsi
	movq 0x30(%rsi), %rsi
	vmrun %rax
	vmsave %rax
	movq (%rsp), %rax
	movq F_GPR(%rax), %rax
	SAVE_GUEST %rax
	popq %rsi
	movq F_HOST_VMCB(%rsi), %rax
	vmload %rax
	testl $(HW_FILL_RSB | HW_SET_IBRS), F_SVM_FLAGS(%rsi)
	jnz .Lafter
.Lclear:
	CLEAR_GUEST
	POP_HOST
	xorl %eax, %eax
	stgi
	ret

.Lstopped:
	popq %rsi
	POP_HOST
	movl $RC_STOPPED, %eax
	stgi
	ret

.Lafter:
	BARRIERS_AFTER F_SVM_FLAGS, .Lclear

.Lbarriers:
	testl $HW_FLUSH_L1D, F_SVM_FLAGS(%rsi)
	jz 3f
	movl $MSR_FLUSH_CMD, %ecx
	movl $1, %eax
	xorl %edx, %edx
	wrmsr
3:	testl $HW_CLEAR_CPU, F_SVM_FLAGS(%rsi)
	jz .Lload
	pushq $0
	movw %ds, (%rsp)
	verw (%rsp)
	addq $8, %rsp
	jmp .Lload
	.size vmc_svm_run, . - vmc_svm_run
	.section .note.GNU-stack, "", @progbits
