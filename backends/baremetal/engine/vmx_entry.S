/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VT-x: enter the guest, and come back.
 *
 * int vmc_vmx_run(void *ctx, struct vmc_hw_vmx_frame *f)
 *
 * A request that is made after the look at *stop sends an interrupt; interrupts being off, it stays
 * pending and ends the guest at its first instruction.
 */
#include "entry_macros.h"

#define GUEST_RIP        0x681e
#define GUEST_RFLAGS     0x6820
#define HOST_RSP         0x6c14
#define PREEMPTION_TIMER 0x482e
#define EXIT_REASON      0x4402
#define EXIT_INSN_LEN    0x440c
#define QUALIFICATION    0x6400
#define INTERRUPTIBILITY 0x4824
#define GUEST_PHYSICAL   0x2400
#define IDT_INFO         0x4408
#define INSN_ERROR       0x4400

	.text
	.globl vmc_vmx_run
	.type vmc_vmx_run, @function
vmc_vmx_run:
	PUSH_HOST
	pushq %rsi
	cli
	movq F_STOP(%rsi), %rax
	cmpl $0, (%rax)
	jne .Lstopped
	movl $HOST_RSP, %eax
	vmwrite %rsp, %rax
	movl $GUEST_RIP, %eax
	vmwrite F_RIP(%rsi), %rax
	movl F_FLAGS(%rsi), %ecx
	testl $HW_TIMER, %ecx
	jz 1f
	movl $PREEMPTION_TIMER, %eax
	vmwrite F_TIMER(%rsi), %rax
1:	testl $(HW_CLEAR_CPU | HW_FLUSH_L1D | HW_POSTED), %ecx
	jnz .Lbarriers
.Lload:
	movq F_GPR(%rsi), %rax
	testl $HW_LAUNCHED, %ecx /* survives the moves */
	LOAD_GUEST %rax
	movq 0x30(%rax), %rsi
	movq (%rax), %rax
	jz .Llaunch
	vmresume
	jmp .Lfailed
.Llaunch:
	vmlaunch
	jmp .Lfailed

	.globl vmc_vmx_exit
vmc_vmx_exit:
	pushq %rax
	movq 8(%rsp), %rax
	movq F_GPR(%rax), %rax
	SAVE_GUEST %rax
	popq (%rax)
	popq %rsi
	/* VMREAD stores 8 bytes: in this order, the narrow fields overlap nothing that is set. */
	movl $EXIT_REASON, %eax
	vmread %rax, F_REASON(%rsi)
	movl $EXIT_INSN_LEN, %eax
	vmread %rax, F_LEN(%rsi)
	movl $INTERRUPTIBILITY, %eax
	vmread %rax, %rdx
	movl %edx, F_INTR(%rsi)
	movl $GUEST_RIP, %eax
	vmread %rax, F_RIP(%rsi)
	movl $GUEST_RFLAGS, %eax
	vmread %rax, F_RFLAGS(%rsi)
	movl $QUALIFICATION, %eax
	vmread %rax, F_QUAL(%rsi)
	movl $IDT_INFO, %eax
	vmread %rax, F_IDT(%rsi)
	movl $GUEST_PHYSICAL, %eax
	vmread %rax, F_GPA(%rsi) /* fails, and stores nothing, without EPT */
	testl $(HW_FILL_RSB | HW_SET_IBRS), F_FLAGS(%rsi)
	jnz .Lafter
.Lclear:
	CLEAR_GUEST
	POP_HOST
	xorl %eax, %eax
	sti
	ret

.Lstopped:
	popq %rsi
	POP_HOST
	movl $RC_STOPPED, %eax
	sti
	ret

.Lafter:
	BARRIERS_AFTER F_FLAGS, .Lclear

.Lbarriers:
	testl $HW_POSTED, %ecx
	jz 2f
	movq F_POSTED(%rsi), %rax
	cmpl $0, (%rax)
	jne .Lstopped
2:	testl $HW_FLUSH_L1D, %ecx
	jz 3f
	movl %ecx, %r8d
	movl $MSR_FLUSH_CMD, %ecx
	movl $1, %eax
	xorl %edx, %edx
	wrmsr
	movl %r8d, %ecx
3:	testl $HW_CLEAR_CPU, %ecx
	jz .Lload
	pushq $0
	movw %ds, (%rsp)
	verw (%rsp)
	addq $8, %rsp
	jmp .Lload

.Lfailed: /* the flags say how; RSP is what it was */
	popq %rsi
	jc .Linvalid
	movl $INSN_ERROR, %eax
	vmread %rax, F_REASON(%rsi)
	POP_HOST
	movl $RC_FAIL, %eax
	sti
	ret
.Linvalid:
	POP_HOST
	movl $RC_FAIL_VMCS, %eax
	sti
	ret
	.size vmc_vmx_run, . - vmc_vmx_run
	.section .note.GNU-stack, "", @progbits
