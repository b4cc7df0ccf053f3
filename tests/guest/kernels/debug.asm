; SPDX-License-Identifier: BSD-2-Clause
; Debug registers and single step: DR6 and DR7 images, instruction, data and I/O breakpoints, RF, the
; trap flag and what suspends it, general detect, the T bit of a TSS.
%define HOOK
%include "kernel.inc"

; Every #DB is counted and noted, and execution goes on; other exceptions end a TRY.
hook:
        cmp dword [exc], 2
        jne .no
        mov edi, [hits]
        cmp edi, 12
        jae .full
        mov eax, [exc_eip]
        mov [hit_eip + edi * 4], eax
        mov eax, dr6
        mov [hit_dr6 + edi * 4], eax
        mov eax, [exc_flags]
        mov [hit_flags + edi * 4], eax
        inc dword [hits]
        mov eax, 0
        mov dr6, eax
        ; go on behind the exception, with RF so that an instruction breakpoint is passed
        mov edi, [exc_esp0]
        or dword [edi + 20], 0x10000
        mov eax, [edi]
        lea esp, [edi + 12]
        iretd                   ; EDI is lost; nothing here counts on it
.full:  mov edi, [exc_esp0]
        and dword [edi + 20], ~0x100
        xor eax, eax
        mov dr7, eax
        lea esp, [edi + 12]
        iretd
.no:    ret

%macro START 1
        mov dword [hits], 0
        mov dword [base], %1
        xor eax, eax
        mov dr6, eax
%endmacro
show:
        xor eax, eax
        mov dr7, eax
        xor ecx, ecx
.next:  cmp ecx, [hits]
        jae .end
        PRINT " +"
        mov eax, [hit_eip + ecx * 4]
        sub eax, [base]
        call put16
        mov al, ':'
        call putc
        mov eax, [hit_dr6 + ecx * 4]
        call put32
        mov al, ':'
        call putc
        mov eax, [hit_flags + ecx * 4]
        and eax, 0x10100
        call put32
        inc ecx
        jmp .next
.end:   PRINT 10
        ret

%macro TF_ON 0
        pushfd
        or dword [esp], 0x100
        popfd
%endmacro
%macro TF_OFF 0
        pushfd
        and dword [esp], ~0x100
        popfd
%endmacro

test_main:
        ; images
        mov eax, 0xffffffff
        mov dr6, eax
        mov eax, dr6
        call put32
        PRINT " "
        xor eax, eax
        mov dr6, eax
        mov eax, dr6
        call put32
        PRINT " "
        mov eax, 0x0000dc00
        mov dr7, eax
        mov eax, dr7
        and eax, ~0x2000
        push eax
        xor eax, eax
        START 0
        pop eax
        call put32
        PRINT 10

        PRINT "instruction"
        START .i
        mov eax, .i
        mov dr0, eax
        mov eax, .i3
        mov dr3, eax
        mov eax, 0x81
        mov dr7, eax
.i:     nop
.i2:    nop
.i3:    nop
        call show

        PRINT "data write"
        START .d
        mov eax, data
        mov dr1, eax
        mov eax, 0xd00004
        mov dr7, eax
.d:     mov eax, [data]
        mov [data], eax
        mov byte [data + 3], 1
        mov byte [data + 4], 1
        mov word [data - 1], 1
        call show

        PRINT "data read-write"
        START .r
        mov eax, 0xf0000c
        mov dr7, eax
.r:     mov eax, [data]
        mov [data], eax
        push dword [data]
        pop eax
        call show

        PRINT "rep"
        START .s
        mov edi, data - 2
        mov ecx, 4
        mov eax, 0x100004
        mov dr7, eax
.s:     rep stosb
        call show

        PRINT "disabled ones are reported with enabled"
        START .b
        mov eax, data
        mov dr0, eax
        mov eax, 0x110004
        mov dr7, eax
.b:     mov byte [data], 2
        call show

        PRINT "io"
        START .o
        mov eax, 0x80
        mov dr2, eax
        mov eax, cr4
        or al, 8
        mov cr4, eax
        mov eax, 0x02000020
        mov dr7, eax
.o:     out 0x80, al
        in al, 0x81
        in ax, 0x7f
        call show

        PRINT "mov ss"
        START .m
        mov ax, ss
        mov [data], ax
        mov eax, 0xf00004
        mov dr7, eax
.m:     mov ss, [data]
        nop
        nop
        call show

        PRINT "single step"
        START .t
        TF_ON
.t:     nop
        mov ax, ss
        mov ss, ax
        nop
        sti
        cli
        pushfd
        pop eax
        TF_OFF
        nop
        call show

        PRINT "step over int"
        START .u
        mov byte [idt + 0x2e * 8 + 5], 0x8f
        mov eax, .h
        mov [idt + 0x2e * 8], ax
        shr eax, 16
        mov [idt + 0x2e * 8 + 6], ax
        TF_ON
.u:     int 0x2e
        nop
        TF_OFF
        call show
        jmp .v
.h:     nop
        iretd
.v:
        PRINT "step and rep"
        START .w
        mov edi, data
        mov ecx, 3
        TF_ON
.w:     rep stosb
        nop
        TF_OFF
        call show

        PRINT "general detect"
        START .g
        mov eax, 0x2000
        mov dr7, eax
.g:     mov eax, dr0
        mov eax, dr7
        call put32
        call show

        PRINT "int1"
        START .x
.x:     db 0xf1
        nop
        call show

        PRINT "mov ss and int1"         ; one #DB, not another in its handler
        START .y
        mov ax, ss
        mov [data], ax
        mov eax, data
        mov dr1, eax
        mov eax, 0xf00004
        mov dr7, eax
.y:     mov ss, [data]
        db 0xf1
        nop
        call show

        PRINT "mov ss and a breakpoint" ; of its successor: not seen
        START .z
        mov eax, .z2
        mov dr0, eax
        mov eax, 0xf00005
        mov dr7, eax
.z:     mov ss, [data]
.z2:    nop
        nop
        call show
        ret

        align 16
        dd 0
data:   dd 0, 0, 0
hits:   dd 0
base:   dd 0
hit_eip: times 16 dd 0
hit_dr6: times 16 dd 0
hit_flags: times 16 dd 0

        END_KERNEL
