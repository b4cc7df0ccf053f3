/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Start-up of the C test kernels: from the reset vector of a ROM to C code at 1 MiB, in 32-bit
 * protected mode without paging, or (M64; with LA57 by 5 levels) in 64-bit mode with the first 4 GiB mapped
 * one to one by 2 MiB pages, of which the one at USER_AREA is a user page. Exceptions, and what ends them,
 * are at the end.
 */
#include "kern_asm.h"

#ifdef LA57
#define CR4_LA57 0x1000
#define PT_ROOT  (PT_BASE + 0x6000)
#else
#define CR4_LA57 0
#define PT_ROOT  PT_BASE
#endif

        .section .reset, "ax"
        .code16
reset16:
        cli
        cs lgdtl gdtr16 - reset16 + RESET_OFF
        movl $0x11, %eax
        movl %eax, %cr0
        ljmpl $SEL_CODE32, $rom32
        .code32
rom32:
        movw $SEL_DATA, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %fs
        movw %ax, %gs
        movw %ax, %ss
        cld
        movl $_rom_start, %esi
        movl $_image_start, %edi
        movl $_image_bytes, %ecx
        rep movsb
        movl $_bss_start, %edi
        movl $_bss_bytes, %ecx
        xorl %eax, %eax
        rep stosb
        movl $_start, %eax
        jmp *%eax
        .balign 8
gdt16:  .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr16: .word 23
        .long gdt16
        .balign 16
reset_end:

        .section .vector, "ax"
        .code16
        .byte 0xe9                      /* jmp: IP wraps within the segment */
        .word reset16_ip - 0xfff3

        .text
        .code32
_start:
        movl $STACK_TOP, %esp
        movb $0xff, %al                 /* interrupt controllers off, all lines masked */
        outb %al, $0x21
        outb %al, $0xa1
#ifdef M64
        call map_low
        movl %cr4, %eax
        orl $(0x620 | CR4_LA57), %eax   /* PAE, OSFXSR, OSXMMEXCPT */
        movl %eax, %cr4
        movl $PT_ROOT, %eax
        movl %eax, %cr3
        movl $0xc0000080, %ecx
        rdmsr
        orl $0x901, %eax                /* SCE, LME, NXE */
        wrmsr
        movl $0x80010033, %eax
        movl %eax, %cr0
        lgdt gdtr
        ljmp $SEL_CODE64, $1f
        .code64
1:
#else
        lgdt gdtr
        ljmp $SEL_CODE32, $1f
1:
#endif
        movw $SEL_DATA, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %fs
        movw %ax, %gs
        movw %ax, %ss
#ifdef M64
        movabs $STACK_TOP, %rsp
#endif
        call kern_init
        call test_main
        call kern_exit

#ifdef M64
        .code32
map_low:
        movl $PT_BASE, %edi
        movl $7 * 4096 / 4, %ecx
        xorl %eax, %eax
        rep stosl
        movl $PT_BASE + 0x1007, PT_BASE
        movl $PT_BASE + 0x1000, %edi
        movl $PT_BASE + 0x2007, %eax
        movl $4, %ecx
1:      movl %eax, (%edi)
        addl $0x1000, %eax
        addl $8, %edi
        loop 1b
        movl $PT_BASE + 0x2000, %edi
        movl $0x83, %eax
        movl $2048, %ecx
1:      movl %eax, (%edi)
        addl $0x200000, %eax
        addl $8, %edi
        loop 1b
        orl $4, PT_BASE + 0x2000 + 8 * (USER_AREA >> 21)
#ifdef LA57
        movl $PT_BASE + 7, PT_ROOT
#endif
        ret
        .code64
#endif

/* ---- exceptions ------------------------------------------------------------------------------ */

/* long try_call(void (*fn)(void *), void *arg): -1, or the vector that ended it. */
        .globl try_call
try_call:
#ifdef M64
        pushq %rbx
        pushq %rbp
        pushq %r12
        pushq %r13
        pushq %r14
        pushq %r15
        movq try_sp(%rip), %rax
        pushq %rax
        movq %rsp, try_sp(%rip)
        movq %rdi, %rax
        movq %rsi, %rdi
        call *%rax
        movq $-1, %rax
try_out:
        movq try_sp(%rip), %rsp
        popq %rcx
        movq %rcx, try_sp(%rip)
        popq %r15
        popq %r14
        popq %r13
        popq %r12
        popq %rbp
        popq %rbx
        ret
#else
        pushl %ebx
        pushl %ebp
        pushl %esi
        pushl %edi
        pushl try_sp
        movl 24(%esp), %eax
        movl 28(%esp), %edx
        movl %esp, try_sp
        pushl %edx
        call *%eax
        movl $-1, %eax
try_out:
        movl try_sp, %esp
        popl try_sp
        popl %edi
        popl %esi
        popl %ebp
        popl %ebx
        ret
#endif

/* void try_abandon(long result): end the innermost try_call, from wherever we are. */
        .globl try_abandon
try_abandon:
        movw $SEL_DATA, %cx
        movw %cx, %ss
        movw %cx, %ds
        movw %cx, %es
#ifdef M64
        movq %rdi, %rax
#else
        movl 4(%esp), %eax
#endif
        jmp try_out

/* user_call(fn, arg): go to level 3; it ends by an exception or INT 80h only. */
        .globl user_call
user_call:
#ifdef M64
        pushq $SEL_UDATA
        pushq $USER_STACK
        pushfq
        pushq $SEL_UCODE64
        pushq %rdi
        movq %rsi, %rdi
        movq %rsi, %rbx
        iretq
#else
        movl 4(%esp), %eax
        movl 8(%esp), %ebx
        pushl $SEL_UDATA
        pushl $USER_STACK
        pushfl
        pushl $SEL_UCODE32
        pushl %eax
        movl $SEL_UDATA, %ecx
        xorl %edx, %edx
        movw %cx, %ds
        movw %cx, %es
        iretl
#endif

        .altmacro
        .macro stub n
        .balign 16
        .if \n == 8 || (\n >= 10 && \n <= 14) || \n == 17 || \n == 21 || \n == 29 || \n == 30
        .else
        push $0
        .endif
        push $\n
        jmp exc_common
        .endm
        .balign 16
        .globl exc_stubs
exc_stubs:
        .set i, 0
        .rept 256
        stub %i
        .set i, i + 1
        .endr

exc_common:
#ifdef M64
        .irp r, rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
        pushq %\r
        .endr
        cld
        movq %rsp, %rdi
        call exc_entry
        .globl exc_return
exc_return:
        .irp r, r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax
        popq %\r
        .endr
        addq $16, %rsp
        iretq
#else
        .irp r, eax, ecx, edx, ebx, ebp, esi, edi
        pushl %\r
        .endr
        .irp r, ds, es, fs, gs
        pushl %\r
        .endr
        cld
        movw $SEL_DATA, %ax
        movw %ax, %ds
        movw %ax, %es
        pushl %esp
        call exc_entry
        addl $20, %esp
        .irp r, edi, esi, ebp, ebx, edx, ecx, eax
        popl %\r
        .endr
        addl $8, %esp
        iretl
#endif

        .data
        .balign 8
        .globl try_sp
try_sp: .quad 0
        .balign 8
        .globl gdt
gdt:    .quad 0
        .quad 0x00cf9b000000ffff        /* CODE32 */
        .quad 0x00cf93000000ffff        /* DATA */
        .quad 0x00af9b000000ffff        /* CODE64 */
        .quad 0x00cffb000000ffff        /* UCODE32 */
        .quad 0x00cff3000000ffff        /* UDATA */
        .quad 0x00affb000000ffff        /* UCODE64 */
        .quad 0, 0                      /* TSS */
        .quad 0, 0                      /* LDT */
        .fill 20, 8, 0                  /* for tests */
gdtr:   .word 31 * 8 - 1
#ifdef M64
        .quad gdt
#else
        .long gdt
#endif

        .section .note.GNU-stack, "", @progbits
