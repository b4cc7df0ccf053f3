; SPDX-License-Identifier: BSD-2-Clause
; Instructions of the 386 where their operands or their faults are out of the ordinary: ARPL and
; read-only segments, ENTER and the last byte of its frame, PUSH and POP of ESP, LEA, BOUND, bit
; offsets, segment wrap of strings and stacks, LOCK, in 32-bit and in 16-bit code.
%define HOOK
%include "kernel.inc"

PAGES   equ 0x20000             ; page directory, and a table behind it
FRAME   equ 0x30000             ; the page whose neighbour below is read-only

hook:   mov eax, cr2
        mov [cr2_seen], eax
        ret

%macro SHOW 1+                  ; run with a fault or without
        PRINT %1
        call put_result
        PRINT 10
%endmacro
%macro CHECKED 2+               ; name, instruction
        TRY %%out
        %2
%%out:  SHOW %1
%endmacro

; a read-only and an expand-down segment at X and Y, 4 KiB of data each
segments:
        mov dword [gdt + SEL_X], (data & 0xffff) << 16 | 0xfff
        mov dword [gdt + SEL_X + 4], 0x00409100 | data >> 16
        mov dword [gdt + SEL_Y], (data & 0xffff) << 16 | 0xfff
        mov dword [gdt + SEL_Y + 4], 0x00409700 | data >> 16
        ret

arpls:
        mov ax, SEL_X
        mov es, ax
        mov word [data], 0xfff3
        mov word [data + 2], 0xfff0
        mov ebx, 2
        CHECKED "arpl, nothing to change, read-only", arpl [es:0], bx
        mov ax, SEL_X
        mov es, ax
        mov ebx, 2
        CHECKED "arpl, a change, read-only", arpl [es:2], bx
        mov ebx, 2
        CHECKED "arpl", arpl [data + 2], bx
        movzx eax, word [data + 2]
        call put32
        mov eax, 0xfff0
        mov ebx, 3
        arpl ax, bx
        call put32
        mov eax, 0x1fff3
        mov ebx, 2
        arpl ax, bx
        call put32
        setz al
        call put8
        PRINT 10
        mov ax, SEL_DATA0
        mov es, ax
        ret

; paging: all but the page below FRAME is writable
paging_on:
        mov edi, PAGES
        mov ecx, 1024
        xor eax, eax
        rep stosd
        mov dword [PAGES], PAGES + 0x1007
        mov edi, PAGES + 0x1000
        mov eax, 7
.next:  stosd
        add eax, 0x1000
        cmp eax, 0x400007
        jb .next
        and dword [PAGES + 0x1000 + 4 * ((FRAME >> 12) - 1)], ~2
        mov eax, PAGES
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        ret
paging_off:
        mov eax, cr0
        and eax, 0x7fffffff
        mov cr0, eax
        ret

%macro ENTERS 3                 ; bytes above FRAME, size, level
        TRY %%out
        mov ebp, STACK0
        mov esp, FRAME + %1
        enter %2, %3
%%out:  PRINT "enter "
        mov eax, (%2) << 16 | (%3) << 8 | %1 ; size, level, bytes above
        call put32
        call put_result
        cmp dword [exc], 0
        je %%no
        PRINT " cr2 "
        mov eax, [cr2_seen]
        call put32
%%no:   PRINT 10
%endmacro
enters:                         ; at level 3, so that faults have a stack of their own
        call paging_on
        mov eax, 3
        call enter_level
        mov [keep_esp], esp
        ENTERS 4, 0, 0
        mov esp, [keep_esp]
        ENTERS 4, 1, 0
        mov esp, [keep_esp]
        ENTERS 4, 4096, 0
        mov esp, [keep_esp]
        ENTERS 4, 8192, 0
        mov esp, [keep_esp]
        ENTERS 8, 0, 1
        mov esp, [keep_esp]
        ENTERS 8, 3, 1
        mov esp, [keep_esp]
        ENTERS 16, 0, 3
        mov esp, [keep_esp]
        ENTERS 12, 0, 3
        mov esp, [keep_esp]
        call leave_level
        call paging_off
        ret

stacks:
        mov ebp, esp
        push esp
        pop eax
        sub eax, ebp
        call put32
        mov dword [esp - 4], 0x12345678
        sub esp, 4
        pop esp
        mov eax, esp
        mov esp, ebp
        call put32
        push dword 5
        pop dword [esp - 4]     ; the address is that after the increment
        mov eax, [esp - 4]
        call put32
        mov eax, esp
        sub eax, ebp
        call put32
        pushad
        mov eax, [esp + 12]
        sub eax, ebp
        call put32
        popad
        mov eax, 0xffff8888
        push ax
        sub ebp, esp
        mov eax, ebp
        call put32
        pop ax
        mov eax, ds
        call put32
        PRINT 10
        ret

bounds:
        mov dword [data], 10
        mov dword [data + 4], 20
        mov eax, 10
        CHECKED "bound, lower", bound eax, [data]
        mov eax, 20
        CHECKED "bound, upper", bound eax, [data]
        mov eax, 21
        CHECKED "bound, above", bound eax, [data]
        mov dword [data], -1
        mov dword [data + 4], 0x7fff0000
        mov eax, 0xfffe
        CHECKED "bound, 16 bits, signed", bound ax, [data]
        mov eax, 0x1ffff
        CHECKED "bound, 16 bits, equal", bound ax, [data]
        ret

bits_far:
        mov edi, data + 16
        mov ecx, 8
        sub edi, 16
        xor eax, eax
        rep stosd
        mov eax, -1
        bts dword [data + 16], eax
        mov eax, 33
        bts dword [data + 16], eax
        mov eax, -17
        bts word [data + 16], ax
        bts dword [data + 16], 35 ; modulo 32
        mov eax, -33
        btc dword [data + 16], eax
        xor ecx, ecx
.next:  mov eax, [data + 4 * ecx]
        call put32
        PRINT " "
        inc ecx
        cmp ecx, 8
        jb .next
        PRINT 10
        ret

locks:
        CHECKED "lock mov", db 0xf0, 0x89, 0x05, 0, 0, 2, 0
        CHECKED "lock cmp", db 0xf0, 0x39, 0x05, 0, 0, 2, 0
        CHECKED "lock add reg", db 0xf0, 0x01, 0xc0
        CHECKED "lock add", lock add [data], eax
        CHECKED "lock test", db 0xf0, 0x85, 0x05, 0, 0, 2, 0
        CHECKED "lock bt", db 0xf0, 0x0f, 0xa3, 0x05, 0, 0, 2, 0
        CHECKED "lock bts", lock bts dword [data], 1
        CHECKED "lock xchg", lock xchg [data], eax
        CHECKED "lock shl", db 0xf0, 0xd1, 0x25, 0, 0, 2, 0
        CHECKED "lock neg", lock neg dword [data]
        CHECKED "lock push", db 0xf0, 0x50
        CHECKED "lock movs", db 0xf0, 0xa4
        CHECKED "lea reg", db 0x8d, 0xc0
        CHECKED "les reg", db 0xc4, 0xc0
        CHECKED "mov cs", db 0x8e, 0xc8
        CHECKED "mov from segment 6", db 0x8c, 0xf0
        CHECKED "mov cr1", db 0x0f, 0x20, 0xc8
        CHECKED "pop /1", db 0x8f, 0xc8
        CHECKED "mov imm /1", db 0xc7, 0x08, 0, 0, 0, 0
        CHECKED "inc /2", db 0xfe, 0xd0
        CHECKED "push /7", db 0xff, 0xf8
        CHECKED "15 bytes", times 13 db 0x26
        CHECKED "16 bytes", times 15 db 0x2e
        ret

; expand-down: valid are the offsets above the limit, up to 64 KiB or 4 GiB
limits:
        mov ax, SEL_Y
        mov fs, ax
        CHECKED "expand-down, below", mov al, [fs:0xfff]
        mov ax, SEL_Y
        mov fs, ax
        CHECKED "expand-down, first", mov al, [fs:0x1000]
        mov ax, SEL_X
        mov fs, ax
        CHECKED "read-only, last dword", mov eax, [fs:0xffc]
        mov ax, SEL_X
        mov fs, ax
        CHECKED "read-only, one too far", mov eax, [fs:0xffd]
        mov ax, SEL_X
        mov fs, ax
        CHECKED "read-only, around the end", mov eax, [fs:0xfffffffe]
        mov ax, SEL_X
        mov fs, ax
        CHECKED "read-only, write", mov [fs:0], al
        mov ax, SEL_X
        mov fs, ax
        CHECKED "read-only, add 0", add byte [fs:0], 0
        mov ax, SEL_X
        mov fs, ax
        CHECKED "read-only, bt", bt dword [fs:0], 1
        mov ax, SEL_X
        mov fs, ax
        mov ecx, 0
        CHECKED "read-only, shl 0", shl byte [fs:0], cl
        mov ax, SEL_X
        mov fs, ax
        CHECKED "read-only, as SS", mov ss, ax
        xor eax, eax
        mov fs, ax
        CHECKED "null", mov al, [fs:0]
        ret

test_main:
        call allow_leave
        call segments
        call arpls
        call enters
        call stacks
        call bounds
        call bits_far
        call locks
        call limits
        ret

        align 16
keep_esp: dd 0
cr2_seen: dd 0
data    equ 0x20000 - 0x1000    ; in RAM behind the image
        END_KERNEL
