; SPDX-License-Identifier: BSD-2-Clause
; Every access byte in a descriptor, used in every way, from levels 0, 1 and 3.
%include "kernel.inc"

test_main:
        call allow_leave
        mov dword [cur_level], 0
        PRINT "level 0", 10
        call matrix
        PRINT "level 1", 10
        mov eax, 1
        call enter_level
        mov dword [cur_level], 1
        call matrix
        call leave_level
        PRINT "level 3", 10
        mov eax, 3
        call enter_level
        mov dword [cur_level], 3
        call matrix
        call leave_level
        ret

%macro REPORT 1
        PRINT %1
        call put_result
%endmacro

; One way to use selector ax, then a report.
matrix:
        mov dword [access], 0
.next:
        mov eax, [access]
        call put8
        call each_rpl
        PRINT 10
        inc dword [access]
        cmp dword [access], 256
        jb .next
        ret

each_rpl:
        mov dword [sel], SEL_X
        call uses
        PRINT " |"
        mov dword [sel], SEL_X | 3
        call uses
        ret

; Limit FFFFFh pages and base 0; for system types: base of tss2, limit 103. Gates: to CODE0.
make:
        mov ecx, [access]
        test cl, 0x10
        jz .system
        mov dword [gdt + SEL_X], 0x0000ffff
        mov ch, 0xcf
        mov dword [gdt + SEL_X + 4], 0x00cf0000
        mov [gdt + SEL_X + 5], cl
        ret
.system:
        mov eax, ecx
        and al, 15
        cmp al, 4
        je .gate
        cmp al, 12
        je .gate
        cmp al, 5
        je .gate
        mov word [gdt + SEL_X], 103
        mov word [gdt + SEL_X + 2], tss2 - image_start
        mov dword [gdt + SEL_X + 4], 0x00000001
        mov [gdt + SEL_X + 5], cl
        ret
.gate:
        mov dword [gdt + SEL_X], SEL_Y << 16 | (landing - image_start)
        mov dword [gdt + SEL_X + 4], 0x00010000
        mov [gdt + SEL_X + 5], cl
        ; level 3 code behind it, a level 0 LDT for task gates: always a fault, or the same level
        mov dword [gdt + SEL_Y], 0x0000ffff
        mov dword [gdt + SEL_Y + 4], 0x00cffb00
        and cl, 15
        cmp cl, 4
        jne .wide
        mov byte [gdt + SEL_Y + 4], 1 ; a 16-bit offset from base 10000h
        mov word [gdt + SEL_X + 6], 0
.wide:  ret

uses:
        call make
        TRY .ds1
        mov eax, [sel]
        mov ds, ax
        mov ax, [cs:level_ss]
        mov ds, ax
.ds1:   REPORT " ds"
        TRY .ss1
        mov eax, [sel]
        mov edx, [level_ss]
        mov ss, ax
        mov ss, dx
.ss1:   REPORT " ss"
        call lar_etc
        ; system types that would switch tasks are tested elsewhere
        mov eax, [access]
        and al, 0x1f
        cmp al, 1
        je .skip
        cmp al, 9
        je .skip
        TRY .jmp1
        mov eax, [sel]
        mov [farptr + 4], ax
        mov dword [farptr], landing
        mov dword [back], .jmp1
        jmp far [farptr]
.jmp1:  REPORT " jmp"
        TRY .call1
        mov eax, [sel]
        mov [farptr + 4], ax
        mov dword [back], .call1
        call far [farptr]
.call1: mov esp, [resume_esp]
        REPORT " call"
        TRY .ret1
        mov dword [back], .ret1
        push dword [level_ss]   ; for returns to an outer level
        push dword STACK3
        mov eax, esp
        push dword [sel]
        push dword landing
        retf
.ret1:  mov esp, [resume_esp]
        REPORT " ret"
.skip:
        TRY .lldt1
        mov eax, [sel]
        lldt ax
.lldt1: REPORT " lldt"
        TRY .ltr1
        mov eax, [sel]
        ltr ax
.ltr1:  REPORT " ltr"
        ; what is in memory now: accessed and busy bits
        PRINT " mem "
        mov al, [gdt + SEL_X + 5]
        call put8
        call restore_tr
        ret

restore_tr:
        cmp dword [level], 0
        jne .no
        mov byte [gdt + SEL_TSS + 5], 0x89
        mov ax, SEL_TSS
        ltr ax
        xor eax, eax
        lldt ax
.no:    ret

lar_etc:
        mov eax, [sel]
        mov edx, 0x5555
        lar edx, eax
        pushfd
        PRINT " lar "
        test byte [esp], 0x40
        jz .nolar
        mov eax, edx
        and eax, 0xfff0ff00     ; the limit bits are not defined
        call put32
        jmp .lsl
.nolar: PRINT "-"
.lsl:   popfd
        mov eax, [sel]
        mov edx, 0x5555
        lsl edx, eax
        pushfd
        PRINT " lsl "
        test byte [esp], 0x40
        jz .nolsl
        mov eax, edx
        call put32
        jmp .ver
.nolsl: PRINT "-"
.ver:   popfd
        mov eax, [sel]
        verr ax
        setz [esp - 8]
        mov dl, [esp - 8]
        verw ax
        setz dh
        PRINT " v"
        mov al, dl
        call put8
        mov al, dh
        call put8
        ret

; Far transfers arrive here, in the segment under test.
landing:
        mov eax, cs
        and eax, 3
        cmp eax, [ss:level]
        je .same
        mov eax, cs             ; RET to an outer level: the exception brings us back
        mov [ss:landed], eax
        ud2
.same:
        mov ax, [ss:level_ss]
        mov ss, ax
        mov ds, ax
        mov es, ax
        mov esp, [resume_esp]
        mov eax, [level_cs]
        mov [farback + 4], ax
        mov eax, [back]
        mov [farback], eax
        mov dword [resume], 0
        jmp far [farback]

        align 8
access: dd 0
sel:    dd 0
cur_level: dd 0
back:   dd 0
farptr: dq 0
farback: dq 0

        END_KERNEL
