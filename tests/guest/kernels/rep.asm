; SPDX-License-Identifier: BSD-2-Clause
; Repeated string instructions that stop between iterations: data, I/O and instruction breakpoints,
; single step, a fault in the middle. Each case runs 400 times without any of these first, so that a
; translator has translated it, and once with them. For each exception: vector, EIP from the string
; instruction, DR6, RF and TF as saved, ECX, and ESI and EDI from the buffers.
%define HOOK
%include "kernel.inc"

%define EXEC    0x00000003      ; DR7: DR0 execution
%define SRC1    0x0030000c      ; DR1 access, 1 byte
%define DST1    0x01000030      ; DR2 write, 1 byte
%define DST4    0x0d000030      ; DR2 write, 4 bytes
%define OTHER4  0xd00000c0      ; DR3 write, 4 bytes
%define PORT1   0x200000c0      ; DR3 I/O, 1 byte
%define STEP    1
%define DOWN    2

hook:
        pushad
        mov edx, [exc_esp0]
        cmp dword [exc], 2
        je .log
        add dword [edx + 12], 2 ; a fault: go on behind the instruction
.log:   mov edi, [hits]
        cmp edi, 12
        jae .full
        imul edi, edi, 32
        add edi, log
        mov eax, [exc]
        dec eax
        mov [edi], eax
        mov eax, [exc_eip]
        sub eax, [base]
        mov [edi + 4], eax
        mov eax, dr6
        mov [edi + 8], eax
        mov eax, [exc_flags]
        mov [edi + 12], eax
        mov eax, [esp + 24]     ; ECX
        mov [edi + 16], eax
        mov eax, [esp + 4]      ; ESI
        sub eax, src
        mov [edi + 20], eax
        mov eax, [esp]          ; EDI
        sub eax, dst
        mov [edi + 24], eax
        inc dword [hits]
        test byte [edi + 8], 1
        jz .step
        or dword [edx + 20], 0x10000    ; go past an instruction breakpoint; RF is as it was otherwise
.step:  mov eax, [edi + 4]
        cmp eax, 3
        jb .on
.full:  and dword [edx + 20], ~0x100
.on:    xor eax, eax
        mov dr6, eax
        popad
        mov esp, [exc_esp0]
        pop eax
        add esp, 8
        iretd

; Registers of a case; EBX is its number of elements.
load:   mov ecx, ebx
        mov esi, [case_esi]
        mov edi, [case_edi]
        mov eax, 0x04030205
        mov edx, 0x80
        ret

; eax: routine, ebx: elements, ecx: DR7, edx: STEP, DOWN
run_case:
        mov [base], eax
        mov [case_dr7], ecx
        mov [case_how], edx
        mov dr0, eax
        mov dword [rounds], 400
.warm:  call load
        test dword [case_how], DOWN
        jz .up1
        std
.up1:   call [base]
        cld
        dec dword [rounds]
        jnz .warm
        mov dword [hits], 0
        xor eax, eax
        mov dr6, eax
        mov eax, [case_dr7]
        mov dr7, eax
        pushfd
        pop eax
        test dword [case_how], STEP
        jz .nostep
        or eax, 0x100
.nostep:
        test dword [case_how], DOWN
        jz .up2
        or eax, 0x400
.up2:   push eax
        call load
        jmp near .go            ; the stepped code ends its own step
        align 16
.go:    popfd
        call [base]
        pushfd
        and dword [esp], ~0x500
        popfd
        xor eax, eax
        mov dr7, eax
        xor ebx, ebx
.next:  cmp ebx, [hits]
        jae .end
        mov esi, ebx
        shl esi, 5
        add esi, log
        PRINT "  "
        mov eax, [esi]
        call put8
        PRINT " +"
        mov eax, [esi + 4]
        cmp eax, 0x80           ; CALL, before the routine; or RET and what follows
        jb .known
        mov eax, 0xffff
.known: call put16
        PRINT " "
        mov eax, [esi + 8]
        call put16
        mov eax, [esi + 12]
        test eax, 0x10000
        jz .norf
        PRINT " rf"
.norf:  test eax, 0x100
        jz .notf
        PRINT " tf"
.notf:  PRINT " "
        mov eax, [esi + 16]
        call put8
        PRINT " "
        mov eax, [esi + 20]
        call put8
        PRINT " "
        mov eax, [esi + 24]
        call put8
        PRINT 10
        inc ebx
        jmp .next
.end:   ret

%macro CASE 5                   ; text, routine, elements, DR7, how
        PRINT %1, 10
        mov eax, %2
        mov ebx, %3
        mov ecx, %4
        mov edx, %5
        call run_case
%endmacro

test_main:
        mov eax, cr4
        or al, 8
        mov cr4, eax
        mov eax, src + 3
        mov dr1, eax
        mov eax, dst + 2
        mov dr2, eax
        mov dword [case_esi], src
        mov dword [case_edi], dst

        CASE "movsb, destination", r_movsb, 6, DST1, 0
        CASE "movsb, source", r_movsb, 6, SRC1, 0
        CASE "movsb, source and destination", r_movsb, 6, SRC1 | DST1, 0
        mov eax, src + 2
        mov dr1, eax
        CASE "movsb, both at once", r_movsb, 6, SRC1 | DST1, 0
        CASE "movsb, last iteration", r_movsb, 3, DST1, 0
        CASE "movsb, not reached", r_movsb, 2, DST1, 0
        CASE "movsb, no iteration", r_movsb, 0, DST1 | SRC1, 0
        CASE "stosb", r_stosb, 4, DST1, 0
        CASE "movsb again", r_movsb, 6, 0, 0
        CASE "lodsb", r_lodsb, 4, SRC1, 0
        CASE "repe cmpsb", r_cmpsb, 4, SRC1, 0
        mov byte [dst + 2], 0
        CASE "repe cmpsb, at the difference", r_cmpsb, 4, SRC1, 0
        mov eax, dst + 1
        mov dr1, eax
        CASE "repne scasb", r_scasb, 4, SRC1, 0

        mov eax, dst + 4
        mov dr2, eax
        mov eax, dst + 8
        mov dr3, eax
        CASE "movsd, two", r_movsd, 4, DST4 | OTHER4, 0
        CASE "stosw, two in each of two", r_stosw, 8, DST4 | OTHER4, 0
        mov dword [case_esi], src + 12
        mov dword [case_edi], dst + 12
        CASE "movsd, downwards", r_movsd, 4, DST4 | OTHER4, DOWN
        mov dword [case_esi], src
        mov dword [case_edi], dst

        CASE "instruction", r_movsb, 4, EXEC, 0
        mov eax, dst + 2
        mov dr2, eax
        CASE "instruction and data", r_movsb, 4, EXEC | DST1, 0
        CASE "instruction, no iteration", r_movsb, 0, EXEC, 0
        CASE "step", r_movsb, 3, 0, STEP
        CASE "step, no iteration", r_movsb, 0, 0, STEP
        CASE "step and data", r_movsb, 4, DST1, STEP
        CASE "step, repe cmpsb", r_cmpsb, 8, 0, STEP

        mov eax, 0x80
        mov dr3, eax
        CASE "outsb", r_outsb, 3, PORT1, 0
        CASE "step, outsb", r_outsb, 2, 0, STEP

        ; a data segment that ends behind dst + 2
        mov eax, dst + 2
        mov [gdt + SEL_X], ax
        mov word [gdt + SEL_X + 2], 0
        mov word [gdt + SEL_X + 4], 0x9300
        shr eax, 16
        or al, 0x40
        mov [gdt + SEL_X + 6], ax
        mov ax, SEL_X
        mov es, ax
        mov dword [resume], 0
        CASE "end of the segment", r_movsb, 6, 0, 0
        CASE "step to the end of the segment", r_movsb, 6, 0, STEP
        mov ax, SEL_DATA0
        mov es, ax
        ret

%macro ROUTINE 2+
        align 64
%1:     %2
        nop
        ret
%endmacro
        ROUTINE r_movsb, rep movsb
        ROUTINE r_stosb, rep stosb
        ROUTINE r_lodsb, rep lodsb
        ROUTINE r_cmpsb, repe cmpsb
        ROUTINE r_scasb, repne scasb
        ROUTINE r_movsd, rep movsd
        ROUTINE r_stosw, rep stosw      ; three bytes: behind it is + 3
        ROUTINE r_outsb, rep outsb
        align 64
src:    db 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16
        align 64
dst:    times 16 db 0
        align 16
hits:   dd 0
base:   dd 0
rounds: dd 0
case_esi: dd 0
case_edi: dd 0
case_dr7: dd 0
case_how: dd 0
log:    times 12 * 8 dd 0

        END_KERNEL
