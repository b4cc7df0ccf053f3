/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Boot sector: adds one to the number in sector 1 of its disk, prints "boot number N" on the serial
 * port and powers off.
 */
    .code16
    .globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    sti
    movb %dl, drive
    movw $packet, %si
    movb $0x42, %ah
    movb drive, %dl
    int $0x13
    jc fail
    incl 0x8000
    movw $packet, %si
    movw $0x4300, %ax
    movb drive, %dl
    int $0x13
    jc fail
    cli /* the firmware's last words go out with its timer, and would come between ours */
    movw $msg, %si
    call puts
    movb 0x8000, %al
    addb $'0', %al
    call putc
    movb $'\n', %al
    call putc
    jmp off
fail:
    cli
    movw $bad, %si
    call puts
off:
    movw $0x604, %dx
    movw $0x2000, %ax
    outw %ax, %dx
    hlt
    jmp off
puts:
    lodsb
    testb %al, %al
    jz 1f
    call putc
    jmp puts
1:  ret
putc:
    movw $0x3f8, %dx
    outb %al, %dx
    ret
drive: .byte 0
msg: .asciz "boot number "
bad: .asciz "disk error\n"
    .align 4
packet: .byte 16, 0
    .word 1, 0x8000, 0
    .quad 1
    .org 510
    .word 0xaa55
