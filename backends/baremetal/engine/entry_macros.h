/* SPDX-License-Identifier: BSD-2-Clause */
/* Pieces of both entry paths. \base points at 16 registers in encoding order. */

#include "frame_offsets.h"

#define MSR_SPEC_CTRL 0x48
#define MSR_FLUSH_CMD 0x10b

.macro PUSH_HOST
	pushq %rbx
	pushq %rbp
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
.endm

.macro POP_HOST
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %rbp
	popq %rbx
.endm

/* The guest's values must not steer speculation in the host. */
.macro CLEAR_GUEST
	xorl %ecx, %ecx
	xorl %edx, %edx
	xorl %edi, %edi
	xorl %r8d, %r8d
	xorl %r9d, %r9d
	xorl %r10d, %r10d
	xorl %r11d, %r11d
.endm

/* All but RAX, RSP and \last. */
.macro LOAD_GUEST base
	movq 0x08(\base), %rcx
	movq 0x10(\base), %rdx
	movq 0x18(\base), %rbx
	movq 0x28(\base), %rbp
	movq 0x38(\base), %rdi
	movq 0x40(\base), %r8
	movq 0x48(\base), %r9
	movq 0x50(\base), %r10
	movq 0x58(\base), %r11
	movq 0x60(\base), %r12
	movq 0x68(\base), %r13
	movq 0x70(\base), %r14
	movq 0x78(\base), %r15
.endm

.macro SAVE_GUEST base
	movq %rcx, 0x08(\base)
	movq %rdx, 0x10(\base)
	movq %rbx, 0x18(\base)
	movq %rbp, 0x28(\base)
	movq %rsi, 0x30(\base)
	movq %rdi, 0x38(\base)
	movq %r8, 0x40(\base)
	movq %r9, 0x48(\base)
	movq %r10, 0x50(\base)
	movq %r11, 0x58(\base)
	movq %r12, 0x60(\base)
	movq %r13, 0x68(\base)
	movq %r14, 0x70(\base)
	movq %r15, 0x78(\base)
.endm

/*
 * Fill the return stack buffer with harmless targets: 32 calls that are never returned from.
 * Uses RAX.
 */
.macro FILL_RSB
	movl $16, %eax
901:	call 903f
902:	pause
	lfence
	jmp 902b
903:	call 905f
904:	pause
	lfence
	jmp 904b
905:	addq $16, %rsp
	decl %eax
	jnz 901b
.endm

/* What the frame at RSI asks for after an exit; its flags are at \flags. Goes on at \next. */
.macro BARRIERS_AFTER flags, next
	testl $HW_FILL_RSB, \flags(%rsi)
	jz 911f
	FILL_RSB
911:	testl $HW_SET_IBRS, \flags(%rsi)
	jz \next
	movl $MSR_SPEC_CTRL, %ecx
	movl $1, %eax
	xorl %edx, %edx
	wrmsr
	jmp \next
.endm
