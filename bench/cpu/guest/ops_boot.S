/* SPDX-License-Identifier: BSD-2-Clause */
/* Multiboot entry of the kernel that measures single operations: to long mode, then C. */
        .set    FLAGS, 0x3
        .section .multiboot, "a"
        .balign 4
        .long   0x1badb002, FLAGS, -(0x1badb002 + FLAGS)

        .text
        .code32
        .global _start
_start:
        cli
        mov     $stack_top, %esp
        /* 1 GiB of 2 MiB pages, global, at its own address */
        mov     $pd_low, %edi
        mov     $0x183, %eax
1:      mov     %eax, (%edi)
        movl    $0, 4(%edi)
        add     $8, %edi
        add     $0x200000, %eax
        cmp     $0x40000183, %eax
        jne     1b
        movl    $pdpt + 7, pml4
        movl    $pd_low + 7, pdpt
        mov     $0x6a0, %eax            /* PAE, PGE, OSFXSR, OSXMMEXCPT */
        mov     %eax, %cr4
        mov     $pml4, %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx       /* EFER: SCE, LME */
        rdmsr
        or      $0x101, %eax
        wrmsr
        mov     $0x80010003, %eax       /* PG, WP, MP, PE */
        mov     %eax, %cr0
        lgdt    boot_gdtr
        ljmp    $8, $long_mode

        .code64
long_mode:
        xor     %eax, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $stack_top, %rsp
        call    kernel_main
2:      cli
        hlt
        jmp     2b

        .balign 8
boot_gdt:
        .quad   0, 0x00209b0000000000
boot_gdtr:
        .word   15
        .long   boot_gdt

/* ---- entries --------------------------------------------------------------------------------- */

        .global on_syscall, on_int, on_page_fault, on_serial, on_ipi, on_spurious, on_leave
        .global enter_user
        .balign 64
on_syscall:
        sysretq
        .balign 64
on_int:
        iretq
        .balign 64
/* Goes on behind the instruction of two bytes that faulted. */
on_page_fault:
        push    %rax
        mov     %cr2, %rax
        pop     %rax
        add     $8, %rsp
        addq    $3, (%rsp)            /* over mov (%rbp), %eax */
        iretq
        .balign 64
on_serial:
        push    %rax
        mov     $0x20, %al
        out     %al, $0x20
        pop     %rax
        iretq
        .balign 64
on_ipi:
        push    %rax
        mov     lapic, %rax
        movl    $0, 0xb0(%rax)
        incq    ipis
        pop     %rax
on_spurious:
        iretq

/* enter_user(rip, rsp, count, address): runs user code until it executes INT 0x81. */
enter_user:
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, kernel_rsp
        mov     %rdx, %rbx
        mov     %rcx, %rbp
        pushq   $0x23
        push    %rsi
        pushq   $0x202
        pushq   $0x2b
        push    %rdi
        iretq
on_leave:
        mov     kernel_rsp, %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret

/* ---- user code: RBX times, RBP is an address --------------------------------------------------- */

        .section .user, "ax"
        .balign 4096
        .global user_start, user_syscall, user_fault, user_int, user_end
user_start:
user_syscall:
        .rept 8
        syscall
        .endr
        sub     $8, %rbx
        ja      user_syscall
        int     $0x81
        .balign 64
user_fault:
        .rept 8
        mov     (%rbp), %eax
        .endr
        sub     $8, %rbx
        ja      user_fault
        int     $0x81
        .balign 64
user_int:
        .rept 8
        int     $0x80
        .endr
        sub     $8, %rbx
        ja      user_int
        int     $0x81
        .balign 4096
user_end:

        .bss
        .balign 4096
        .global pml4, pdpt, pd_low, pd_user, pd_high, pt_user, stack_top
pml4:   .skip   4096
pdpt:   .skip   4096
pd_low: .skip   4096
pd_user: .skip  4096
pd_high: .skip  4096
pt_user: .skip  4096
        .skip   16384
stack_top:
kernel_rsp: .skip 8
        .section .note.GNU-stack, "", @progbits
