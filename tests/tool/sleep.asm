; SPDX-License-Identifier: BSD-2-Clause
; A Multiboot kernel that sleeps (ACPI S3) twice, finding everything in the tables, and is woken by the
; alarm of the RTC, or with BUTTON by whoever presses the power button. It ends by writing to
; port F4h: 0, or the number of what is wrong.

        org 100000h
        bits 32

WAKER   equ 1000h           ; where the waking vector points
STATE   equ 2000h           ; survives sleep: 0 asleep, 1 the instruction behind has run
ROUND   equ 2004h
EVT     equ 2008h           ; PM1 event and control ports
CNT     equ 200ch
STAMP   equ 2010h

%macro fail_if 2
        mov bl, %2
        j%1 exit
%endmacro

        align 4
header: dd 1badb002h, 10000h, -(1badb002h + 10000h)
        dd header, 100000h, 0, 0, start

start:  mov esp, 9000h
        mov esi, 0e0000h
.rsdp:  cmp dword [esi], 'RSD '
        je .found
        add esi, 16
        cmp esi, 100000h
        fail_if e, 1
        jmp .rsdp
.found: mov esi, [esi + 16]         ; RSDT
        mov ecx, [esi + 4]
        sub ecx, 36
        shr ecx, 2
.table: mov edi, [esi + 36]
        cmp dword [edi], 'FACP'
        je .facp
        add esi, 4
        loop .table
        mov bl, 2
        jmp exit
.facp:  test byte [edi + 112], 1 << 6 ; RTC status is in fixed registers
        fail_if nz, 3
        mov eax, [edi + 56]
        mov [EVT], eax
        mov eax, [edi + 64]
        mov [CNT], eax
        mov ebp, [edi + 36]
        cmp dword [ebp], 'FACS'
        fail_if ne, 4
        mov dword [ebp + 12], WAKER
        mov esi, [edi + 40]         ; DSDT
        mov ecx, [esi + 4]
.s3:    cmp dword [esi], '_S3_'
        je .copy
        inc esi
        loop .s3
        mov bl, 5
        jmp exit
.copy:  mov ecx, 8                  ; a package of four: 1, 1, 0, 0
.type:  inc esi
        cmp dword [esi], 00010104h
        loopne .type
        fail_if ne, 12
        mov esi, waker
        mov edi, WAKER
        mov ecx, waker.end - waker
        rep movsb
        mov dword [ROUND], 0
        mov dword [STAMP], 'kept'
        call sleep

; Arm what wakes, and sleep. Never returns: the waker comes back to awake.
sleep:  mov edx, [EVT]
        mov ax, 0ffffh              ; clear all status
        out dx, ax
        add edx, 2
%ifdef BUTTON
        mov ax, 100h
        out dx, ax
%else
        mov ax, 400h
        out dx, ax
        mov al, 0ch
        out 70h, al
        in al, 71h
        mov ah, 0c0h                ; any second, minute, hour
        mov al, 1
.alarm: out 70h, al
        xchg al, ah
        out 71h, al
        xchg al, ah
        add al, 2
        cmp al, 7
        jne .alarm
        mov al, 0bh
        out 70h, al
        in al, 71h
        or al, 20h
        out 71h, al
%endif
        mov edx, [CNT]
        mov dword [STATE], 0
        mov ax, 2400h
        out dx, ax
.on:    mov dword [STATE], 1
        jmp .on

; Back in 32-bit code.
awake:  mov ax, 10h
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov esp, 9000h
        cmp dword [STATE], 0
        fail_if ne, 6
        cmp dword [STAMP], 'kept'
        fail_if ne, 7
        mov edx, [EVT]
        in ax, dx
        test ax, 8000h
        fail_if z, 8
%ifdef BUTTON
        test ax, 100h
%else
        test ax, 400h
%endif
        fail_if z, 9
        mov eax, cr0
        test eax, 7ffffffeh & ~60000010h
        fail_if nz, 10
        inc dword [ROUND]
        cmp dword [ROUND], 2
        jne sleep
        mov bl, 0
exit:   mov al, bl
        out 0f4h, al
        hlt

gdt:    dq 0, 00cf9b000000ffffh, 00cf93000000ffffh
gdtr:   dw $ - gdt - 1
        dd gdt

; Copied to WAKER, which is entered in real mode with CS:IP = 0100:0000.
        bits 16
waker:  call .here
.here:  pop ax
        sub ax, .here - waker
        mov bx, cs
        cmp bx, WAKER >> 4
        jne .bad
        or ax, ax
        jnz .bad
        o32 lgdt [cs:.gdtr - waker]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        jmp dword 8:awake
.bad:   mov al, 11
        out 0f4h, al
        hlt
.gdtr:  dw gdtr - gdt - 1
        dd gdt
.end:
