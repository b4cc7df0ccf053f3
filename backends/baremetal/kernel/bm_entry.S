/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Interrupt and exception entry. Every vector has a stack of its own kind (IST): the interrupted
 * code may be library code with a red zone or translated guest code, whose RSP is the guest's.
 */
    .text
    .globl bm_vectors
    .align 16
bm_vectors:
    .set v, 0
    .rept 256
    .align 16
    .if v == 8 || (v >= 10 && v <= 14) || v == 17 || v == 21 || v == 29 || v == 30
    .else
    pushq $0
    .endif
    pushq $v
    jmp common
    .set v, v + 1
    .endr

common:
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    call bm_trap
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp
    iretq

/* bm_call_on(stack top, fn, argument): go on there for ever. */
    .globl bm_call_on
bm_call_on:
    movq %rdi, %rsp
    movq %rdx, %rdi
    xorl %ebp, %ebp
    pushq $0
    jmp *%rsi

/* bm_switch(where to keep the stack pointer, another one): what calls preserve stays on the stack. */
    .globl bm_switch
bm_switch:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret
    .section .note.GNU-stack, "", @progbits
