/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From the boot loader's 32-bit protected mode to bm_start in 64-bit mode at its link address.
 * Everything here is position-independent: EBP is where the image was loaded.
 */
#define LOAD        0x200000
#define IMAGE_BASE  0xffffffff80000000
#define MB1_MAGIC   0x1badb002
#define MB1_FLAGS   3 /* page-aligned modules, memory map */
#define MB2_MAGIC   0xe85250d6

    .section .boot.header, "ax"
    .code32
    .align 8
mb2_header:
    .long MB2_MAGIC, 0, mb2_end - mb2_header, -(MB2_MAGIC + (mb2_end - mb2_header))
    .align 8 /* modules page-aligned */
    .word 6, 0
    .long 8
    .align 8 /* relocatable: below 1 GiB, aligned to 2 MiB, as low as possible */
    .word 10, 1
    .long 24, LOAD, 0x40000000, 0x200000, 1
    .align 8
    .word 0, 0
    .long 8
mb2_end:
    .align 4
mb1_header:
    .long MB1_MAGIC, MB1_FLAGS, -(MB1_MAGIC + MB1_FLAGS)

    .section .boot.text, "ax"
    .globl bm_boot_entry
bm_boot_entry:
    cli
    cld
    movl %eax, %esi                 /* magic */
    movl %ebx, %edi                 /* boot information: its first word lends us a stack */
    movl (%ebx), %ecx
    leal 4(%ebx), %esp
    call 1f
1:  popl %ebp
    movl %ecx, (%edi)
    subl $(1b - LOAD), %ebp         /* load address */
    leal bm_boot_stack_top - LOAD(%ebp), %esp

    movl $0x80000000, %eax          /* long mode? */
    cpuid
    cmpl $0x80000001, %eax
    jb no_long_mode
    movl $0x80000001, %eax
    cpuid
    btl $29, %edx
    jnc no_long_mode
    movl %edx, nx_word - LOAD(%ebp)
    rdtsc
    movl %eax, tsc_word - LOAD(%ebp)
    movl %edx, tsc_word + 4 - LOAD(%ebp)

    /* Tables: 0 PML4, 1 PDPT of the first 4 GiB, 2-5 its PDs, 6 PDPT and 7 PD of the image. */
    leal bm_boot_tables - LOAD(%ebp), %ebx
    pushl %edi
    movl %ebx, %edi
    xorl %eax, %eax
    movl $(8 * 1024), %ecx
    rep stosl
    popl %edi
    leal 0x1003(%ebx), %eax
    movl %eax, (%ebx)               /* one to one */
    movl %eax, 256 * 8(%ebx)        /* PHYSMAP_BASE */
    leal 0x6003(%ebx), %eax
    movl %eax, 511 * 8(%ebx)
    leal 0x2003(%ebx), %eax
    movl %eax, 0x1000(%ebx)
    addl $0x1000, %eax
    movl %eax, 0x1008(%ebx)
    addl $0x1000, %eax
    movl %eax, 0x1010(%ebx)
    addl $0x1000, %eax
    movl %eax, 0x1018(%ebx)
    leal 0x7003(%ebx), %eax
    movl %eax, 0x6000 + 510 * 8(%ebx)
    movl $0x83, %eax
    xorl %ecx, %ecx
2:  movl %eax, 0x2000(%ebx,%ecx,8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $2048, %ecx
    jb 2b
    leal 0x83(%ebp), %eax
    movl $1, %ecx
3:  movl %eax, 0x7000(%ebx,%ecx,8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $64, %ecx
    jb 3b

    movl %cr4, %eax
    orl $(1 << 5), %eax             /* PAE */
    movl %eax, %cr4
    movl %ebx, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $(1 << 8), %eax             /* LME */
    btl $20, nx_word - LOAD(%ebp)
    jnc 4f
    orl $(1 << 11), %eax            /* NXE */
4:  wrmsr
    movl %cr0, %eax
    andl $0x9fffffff, %eax          /* CD and NW off */
    orl $0x80010021, %eax           /* PG, WP, NE, PE */
    movl %eax, %cr0

    leal boot_gdt - LOAD(%ebp), %eax
    movl %eax, boot_gdtr + 2 - LOAD(%ebp)
    lgdt boot_gdtr - LOAD(%ebp)
    leal long_mode - LOAD(%ebp), %eax
    pushl $8
    pushl %eax
    lret

no_long_mode:                       /* say so on COM1 */
    leal no_long_text - LOAD(%ebp), %esi
    movw $0x3f8, %dx
5:  lodsb
    testb %al, %al
    jz 6f
    outb %al, %dx
    jmp 5b
6:  hlt
    jmp 6b

    .code64
long_mode:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl %edi, %eax                 /* bm_start(magic, information, load address, tsc) */
    movl %esi, %edi
    movl %eax, %esi
    movl %ebp, %edx
    movq tsc_word(%rip), %rcx
    movabsq $bm_start_stack_top, %rsp
    xorl %ebp, %ebp
    pushq $0
    movabsq $bm_start, %rax
    jmp *%rax

    .align 8
boot_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
boot_gdtr:
    .word 23
    .long 0, 0
nx_word:
    .long 0
    .align 8
tsc_word:
    .quad 0
no_long_text:
    .asciz "vmcore: this processor has no 64-bit mode\r\n"
    .align 16
    .skip 256
bm_boot_stack_top:

    .section .bss, "aw", @nobits
    .align 16
    .skip 16384
    .globl bm_start_stack_top
bm_start_stack_top:

/*
 * Start of the other processors: copied to a page below 640 KiB, whose address is patched in by
 * bm_smp.c. Real mode, protected mode, long mode on tables that map this page one to one.
 */
    .section .rodata
    .globl bm_ap_start, bm_ap_end, bm_ap_data, bm_ap_gdtr, bm_ap_far32, bm_ap_far64
    .align 16
    .code16
bm_ap_start:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    xorl %ebx, %ebx
    movw %ax, %bx
    shll $4, %ebx                   /* address of this page */
    lgdtl bm_ap_gdtr - bm_ap_start
    movl %cr0, %eax
    andl $0x9fffffff, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl *(bm_ap_far32 - bm_ap_start)
    .code32
ap_protected:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl %cr4, %eax
    orl $(1 << 5), %eax
    movl %eax, %cr4
    movl bm_ap_data - bm_ap_start(%ebx), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl bm_ap_data + 4 - bm_ap_start(%ebx), %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80010021, %eax
    movl %eax, %cr0
    ljmpl *(bm_ap_far64 - bm_ap_start)(%ebx)
    .code64
ap_long:
    movl %ebx, %ebx
    movq bm_ap_data + 8 - bm_ap_start(%rbx), %rsp
    movq bm_ap_data + 16 - bm_ap_start(%rbx), %rdi
    movq bm_ap_data + 24 - bm_ap_start(%rbx), %rax
    xorl %ebp, %ebp
    pushq $0
    jmp *%rax
    .align 8
ap_gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
bm_ap_gdtr:
    .word 31
    .long ap_gdt - bm_ap_start      /* + page */
bm_ap_far32:
    .long ap_protected - bm_ap_start /* + page */
    .word 8
bm_ap_far64:
    .long ap_long - bm_ap_start     /* + page */
    .word 24
    .align 8
bm_ap_data:                         /* cr3, efer bits, stack, argument, entry */
    .skip 32
bm_ap_end:
    .section .note.GNU-stack, "", @progbits
