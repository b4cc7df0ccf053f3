; SPDX-License-Identifier: BSD-2-Clause
; Every access byte in an IDT gate, to code segments of every kind, from levels 0, 1 and 3; the frames
; that good gates push. Then IRET with every flag, at every IOPL.
%include "kernel.inc"

VECTOR  equ 0x2e

test_main:
        call allow_leave
        PRINT "level 0", 10
        call gates
        PRINT "level 1", 10
        mov eax, 1
        call enter_level
        call gates
        call leave_level
        PRINT "level 3", 10
        mov eax, 3
        call enter_level
        call gates
        call leave_level
        call stacks
        call iret_flags
        ret

; target selector, then the descriptor put at SEL_Y
targets:
        dd SEL_CODE0, 0, 0
        dd SEL_CONF, 0, 0
        dd SEL_CODE1, 0, 0
        dd SEL_CODE3, 0, 0
        dd SEL_DATA0, 0, 0
        dd 0, 0, 0
        dd 3, 0, 0
        dd SEL_Y, 0x0000ffff, 0x00cf1b00        ; not present
        dd SEL_Y, 0x0000ffff, 0x00cf9900        ; execute-only: fine
        dd SEL_Y, 0x00000fff, 0x00409b00        ; too short
        dd SEL_Y, 0x0000ffff, 0x00cf3b00        ; not present, level 1
        dd SEL_Y, 0x00000067, 0x00008900        ; a system segment
        dd SEL_LDT, 0, 0
        dd 0x1000, 0, 0                         ; beyond the GDT
        dd 0x000c, 0, 0                         ; no LDT
targets_end:

gates:
        mov dword [access], 0
.next:
        ; task gates belong to another kernel
        mov eax, [access]
        and al, 0x1f
        cmp al, 5
        je .skip
        mov esi, targets
.target:
        mov al, [access]
        call put8
        PRINT " to "
        mov eax, [esi]
        call put16
        cmp dword [esi + 4], 0
        je .std
        mov eax, [esi + 4]
        mov [gdt + SEL_Y], eax
        mov eax, [esi + 8]
        mov [gdt + SEL_Y + 4], eax
        PRINT "="
        call put32
.std:
        push esi
        call one
        pop esi
        PRINT 10
        ; gates of other types fail before they look at the target
        mov al, [access]
        and al, 0x1e
        cmp al, 0x0e
        je .more
        cmp al, 0x06
        jne .skip
.more:
        add esi, 12
        cmp esi, targets_end
        jb .target
.skip:
        inc dword [access]
        cmp dword [access], 256
        jb .next
        ret

make_gate:                      ; selector in ax
        mov edx, landing
        mov cl, [access]
        and cl, 0x1f
        cmp cl, 8
        jae .wide
        ; 16-bit gate: reach landing by a low jump
        mov edx, low_landing
.wide:
        mov [idt + VECTOR * 8], dx
        mov [idt + VECTOR * 8 + 2], ax
        mov byte [idt + VECTOR * 8 + 4], 0
        mov cl, [access]
        mov [idt + VECTOR * 8 + 5], cl
        shr edx, 16
        mov [idt + VECTOR * 8 + 6], dx
        ret

low_landing equ 0x800

one:
        mov eax, [esi]
        call make_gate
        ; jmp landing, at 800h
        mov byte [low_landing], 0xe9
        mov dword [low_landing + 4], 0
        mov eax, landing - (low_landing + 5)
        mov [low_landing + 1], eax
        TRY .done
        push dword [level_flags]        ; no flag is undefined
        popfd
        int VECTOR
        nop
.done:
        cmp dword [landed], 0
        je put_result
        PRINT " cs "
        mov eax, [in_cs]
        call put16
        PRINT " ss "
        mov eax, [in_ss]
        call put16
        PRINT " fl "
        mov eax, [in_flags]
        call put32
        PRINT " sp "
        mov eax, [in_esp]
        call put32
        PRINT ":"
        xor ecx, ecx
.dump:  PRINT " "
        mov eax, [frame + ecx * 4]
        call put32
        inc ecx
        cmp ecx, 6
        jb .dump
        ret

landing:
        mov [ss:in_esp], esp
        pushfd
        pop dword [ss:in_flags]
        mov [ss:landed], esp
        mov [ss:in_cs], cs
        mov [ss:in_ss], ss
%assign i 0
%rep 6
        mov eax, [esp + i * 4]
        mov [ss:frame + i * 4], eax
%assign i i + 1
%endrep
        ud2

; ---- stacks of the TSS, from level 3 -----------------------------------------------------------
; SS0, then the descriptor at SEL_Y
stack_cases:
        dd SEL_DATA0, 0, 0
        dd 0, 0, 0
        dd SEL_DATA3, 0, 0
        dd SEL_DATA0 | 3, 0, 0
        dd SEL_CODE0, 0, 0
        dd SEL_Y, 0x0000ffff, 0x00cf1300        ; not present
        dd SEL_Y, 0x0000ffff, 0x00cf9100        ; read-only
        dd SEL_Y, 0x0000ffff, 0x00cfb300        ; level 1
        dd SEL_Y, 0x00000fff, 0x00409300        ; too short
        dd SEL_Y, 0x00000000, 0x00c09700        ; expand-down, from 1000h
        dd SEL_Y, 0x0000ffff, 0x00409700        ; expand-down, no room
        dd 0x2000, 0, 0
        dd 0x000c, 0, 0
stack_cases_end:

stacks:
        PRINT "stacks", 10
        mov dword [access], 0xee
        mov ax, SEL_CODE0
        call make_gate
        ; a conforming handler of level 3 for the faults keeps off the broken stack
        mov esi, stack_cases
.next:
        mov eax, [esi]
        call put16
        PRINT "="
        mov eax, [esi + 8]
        call put32
        cmp dword [esi + 4], 0
        je .std
        mov [gdt + SEL_Y + 4], eax
        mov eax, [esi + 4]
        mov [gdt + SEL_Y], eax
.std:
        push esi
        mov edi, idt + 10 * 8           ; save the gates of #TS, #NP, #SS, #GP
        mov edx, conf_stubs
        mov ecx, 4
.conf:  push dword [edi]
        push dword [edi + 4]
        mov word [edi + 2], SEL_CONF
        mov [edi], dx
        mov eax, edx
        shr eax, 16
        mov [edi + 6], ax
        add edx, 16
        add edi, 8
        loop .conf
        mov [saved_gates], esp
        mov eax, 3
        call enter_level
        mov esi, [saved_gates]
        mov esi, [esi + 32]             ; pushed above
        mov eax, [esi]
        ; only now: nothing may need the stack of level 0 from here to INT
        TRY .done
        mov [tss + 8], ax
        int VECTOR
        nop
.done:
        mov word [tss + 8], SEL_DATA0
        mov edx, [saved_gates]
        mov edi, idt + 13 * 8
        mov ecx, 4
.back:  mov eax, [edx]
        mov [edi + 4], eax
        mov eax, [edx + 4]
        mov [edi], eax
        add edx, 8
        sub edi, 8
        loop .back
        cmp dword [landed], 0
        je .fault
        PRINT " landed "
        mov eax, [in_ss]
        call put16
        PRINT " sp "
        mov eax, [in_esp]
        call put32
        jmp .report
.fault: call put_result
.report:
        PRINT 10
        call leave_level
        add esp, 32
        pop esi
        add esi, 12
        cmp esi, stack_cases_end
        jb .next
        mov word [tss + 8], SEL_DATA0
        ret

        align 16
conf_stubs:
%assign v 10
%rep 4
        align 16
        mov dword [exc], v + 1
        jmp near conf_handler
%assign v v + 1
%endrep
conf_handler:                           ; at level 3
        pop dword [exc_code]
        mov esp, [resume_esp]
        jmp [resume]

; ---- IRET and POPF: which flags change -----------------------------------------------------------
iret_flags:
        PRINT "flags", 10
        mov dword [iopl], 0
.iopl:
        mov eax, [iopl]
        shl eax, 12
        or eax, 2
        mov [case_flags], eax
        ; from level 0
        PRINT "level 0 iopl "
        mov eax, [iopl]
        call put8
        mov dword [case_cs], SEL_CODE0
        call flags_at_level
        PRINT 10
        inc dword [iopl]
        cmp dword [iopl], 4
        jb .iopl
        ret

; Every bit of EFLAGS but VM and TF, one at a time and all, loaded by IRETD, IRET, POPFD, POPF.
flags_at_level:
        mov dword [bit], 0
.next:
        mov ecx, [bit]
        mov eax, 1
        shl eax, cl
        cmp ecx, 22
        jb .one
        mov eax, 0x3d7ed7 & ~0x4000
.one:   test eax, 0x20100 | 0x4000      ; VM, TF, NT have tests of their own
        jz .go
        jmp .skip
.go:    mov [image], eax
        ; iretd
        push dword [case_flags]
        popfd
        push dword [image]
        push cs
        push dword .i1
        iretd
.i1:    pushfd
        pop eax
        call show
        ; iret, 16 bits: the return address is cut, so go through low memory
        mov byte [low_landing], 0xe9
        mov eax, .i2 - (low_landing + 5)
        mov [low_landing + 1], eax
        push dword [case_flags]
        popfd
        mov eax, [image]
        push ax
        push word SEL_CODE0
        push word low_landing
        o16 iret
.i2:    pushfd
        pop eax
        call show
        push dword [case_flags]
        popfd
        push dword [image]
        popfd
        pushfd
        pop eax
        call show
        push dword [case_flags]
        popfd
        mov eax, [image]
        push ax
        popfw
        pushfd
        pop eax
        call show
        push dword 2
        popfd
.skip:
        inc dword [bit]
        cmp dword [bit], 23
        jb .next
        ret
show:   push eax
        push dword 2
        popfd
        PRINT " "
        pop eax
        jmp put32

        align 8
access: dd 0
saved_gates: dd 0
in_cs:  dd 0
in_ss:  dd 0
in_esp: dd 0
in_flags: dd 0
frame:  times 6 dd 0
iopl:   dd 0
bit:    dd 0
image:  dd 0
case_flags: dd 0
case_cs: dd 0

        END_KERNEL
