; SPDX-License-Identifier: BSD-2-Clause
; Hardware task switches: JMP, CALL, IRET, interrupts and exceptions through task gates, 16- and
; 32-bit TSSs, and one broken thing at a time. Faults in a half-made task are caught by a task of
; their own, which reports what it finds and brings the main task back.
%include "kernel.inc"

VECTOR  equ 0x2e
SEL_FT  equ SEL_Z               ; the fault task's TSS
STACKF  equ 0x3000
STACK2  equ 0x2800

%define T2(o) tss2 + o

test_main:
        ; the fault task: gates of #DF, #TS, #NP, #SS, #GP
        mov word [gdt + SEL_FT], 103
        mov word [gdt + SEL_FT + 2], ftss - image_start
        mov dword [gdt + SEL_FT + 4], 0x00008901
        mov ecx, 8
.gate:  cmp ecx, 9
        je .no
        mov dword [idt + ecx * 8], SEL_FT << 16
        mov dword [idt + ecx * 8 + 4], 0x00008500
.no:    inc ecx
        cmp ecx, 14
        jb .gate
        mov dword [idt + VECTOR * 8], SEL_TSS2 << 16
        mov dword [idt + VECTOR * 8 + 4], 0x0000e500

        mov esi, cases
.next:
        call [esi + 4]          ; break something
        mov [current], esi
        push esi
        mov esi, [esi]
        call puts
        pop esi
        mov edi, 0
.how:   mov [how], edi
        push esi
        push edi
        call fresh
        mov esi, [current]
        call [esi + 4]
        call start
        pop edi
        pop esi
        inc edi
        cmp edi, 3
        jb .how
        PRINT 10
        add esi, 8
        cmp esi, cases_end
        jb .next
        call nested
        call sixteen
        jmp v86_tasks

; Both tasks as they should be.
fresh:
        mov byte [gdt + SEL_TSS + 5], 0x8b
        mov word [gdt + SEL_TSS], tss_bytes - 1
        mov word [gdt + SEL_TSS2], 103
        mov dword [gdt + SEL_TSS2 + 4], 0x00008901
        mov byte [gdt + SEL_FT + 5], 0x89
        mov byte [gdt + SEL_LDT + 5], 0x82
        mov dword [gdt + SEL_X], 0x0000ffff
        mov dword [gdt + SEL_X + 4], 0x00cf9300
        mov dword [gdt + SEL_Y], 0x0000ffff
        mov dword [gdt + SEL_Y + 4], 0x00cf9b00
        mov edi, tss2
        xor eax, eax
        mov ecx, 26
        rep stosd
        mov dword [T2(4)], STACK2
        mov dword [T2(8)], SEL_DATA0
        mov dword [T2(0x20)], task2
        mov dword [T2(0x24)], 0x0002
        mov dword [T2(0x28)], 0xaaaa0001
        mov dword [T2(0x2c)], 0xcccc0002
        mov dword [T2(0x38)], STACK2
        mov dword [T2(0x48)], SEL_DATA0
        mov dword [T2(0x4c)], SEL_CODE0
        mov dword [T2(0x50)], SEL_DATA0
        mov dword [T2(0x54)], SEL_DATA0
        mov dword [T2(0x58)], SEL_DATA0
        mov dword [T2(0x5c)], SEL_DATA0
        mov dword [T2(0x60)], 0
        mov dword [T2(0x64)], 0x680000
        ; the fault task begins at its start
        mov dword [ftss + 0x20], fault_task
        mov dword [ftss + 0x24], 2
        mov dword [ftss + 0x38], STACKF
        mov dword [ftss + 0x48], SEL_DATA0
        mov dword [ftss + 0x4c], SEL_CODE0
        mov dword [ftss + 0x50], SEL_DATA0
        mov dword [ftss + 0x54], SEL_DATA0
        mov dword [tss], 0
        ret

; Switch by JMP, CALL or INT (edi); comes back in any case.
start:
        TRY .done
        mov ebx, 0x12345678
        push dword 0x3083       ; some flags
        popfd
        cmp dword [how], 1
        je .call
        ja .int
        push dword 2
        popfd
        jmp SEL_TSS2:0
        jmp .done
.call:  push dword 2
        popfd
        call SEL_TSS2:0
        jmp .done
.int:   push dword 2
        popfd
        int VECTOR
.done:
        PRINT " b"              ; busy: main, second
        mov al, [gdt + SEL_TSS + 5]
        call put8
        mov al, [gdt + SEL_TSS2 + 5]
        call put8
        clts
        ret

; The second task: says how it was entered, and goes back the way it came.
task2:
        push eax
        pushfd
        PRINT " in"
        pop eax
        call put16
        PRINT ","
        pop eax
        call put32
        PRINT ","
        str ax
        call put16
        mov al, ','
        call putc
        mov ax, [T2(0)]
        call put16
        mov al, ','
        call putc
        mov al, [gdt + SEL_TSS + 5]
        call put8
        mov al, [gdt + SEL_TSS2 + 5]
        call put8
        mov al, ','
        call putc
        mov eax, cr0
        and eax, 8
        call putc_bit
        pushfd
        pop eax
        test eax, 0x4000
        jz .jmp
        mov dword [T2(0x20)], 0
        iretd
        jmp task2
.jmp:
        jmp SEL_TSS:0
        jmp task2
putc_bit:
        setnz al
        add al, '0'
        jmp putc

; A fault that a task gate caught: error code on the stack.
fault_task:
        PRINT " F"
        pop eax
        call put16
        PRINT ","
        mov ax, [ftss]          ; who failed
        call put16
        mov al, ','
        call putc
        mov al, [gdt + SEL_TSS + 5]
        call put8
        mov al, [gdt + SEL_TSS2 + 5]
        call put8
        mov al, ','
        call putc
        mov eax, [tss + 0x20]
        sub eax, start
        cmp word [ftss], SEL_TSS
        je .main
        mov eax, [T2(0x20)]
.main:  call put32
        mov al, ','
        call putc
        mov eax, [T2(0x4c)]
        call put16
        mov ax, [T2(0x50)]
        call put16
        mov ax, [T2(0x54)]
        call put16
        mov ax, [T2(0x60)]
        call put16
        ; the main task goes on where it wanted to
        mov eax, [resume]
        mov [tss + 0x20], eax
        mov eax, [resume_esp]
        mov [tss + 0x38], eax
        mov dword [tss + 0x24], 2
        mov byte [gdt + SEL_TSS + 5], 0x89
        mov word [gdt + SEL_TSS], tss_bytes - 1
        jmp SEL_TSS:0

; ---- what is broken ----------------------------------------------------------------------------
%macro CASE 2
        dd %%name, %%code
        section_%1:
%endmacro

%macro DEF 2
n_%1:   db %2, ":", 0
c_%1:
%endmacro

DEF good, "good"
        ret
DEF limit, "short tss"
        mov word [gdt + SEL_TSS2], 102
        ret
DEF np, "tss not present"
        and byte [gdt + SEL_TSS2 + 5], 0x7f
        ret
DEF busy, "busy tss"
        or byte [gdt + SEL_TSS2 + 5], 2
        ret
DEF ldtti, "ldt in ldt"
        mov word [T2(0x60)], SEL_LDT | 4
        ret
DEF ldttype, "ldt is data"
        mov word [T2(0x60)], SEL_DATA0
        ret
DEF ldtnp, "ldt not present"
        mov word [T2(0x60)], SEL_LDT
        and byte [gdt + SEL_LDT + 5], 0x7f
        ret
DEF ldtok, "ldt"
        mov word [T2(0x60)], SEL_LDT
        mov word [T2(0x54)], 4
        ret
DEF ldtlim, "beyond the ldt"
        mov word [T2(0x60)], SEL_LDT
        mov word [T2(0x54)], 0x24
        ret
DEF csnull, "null cs"
        mov word [T2(0x4c)], 0
        ret
DEF csdata, "cs is data"
        mov word [T2(0x4c)], SEL_DATA0
        ret
DEF csrpl, "rpl of cs"
        mov word [T2(0x4c)], SEL_CODE0 | 1
        ret
DEF csdpl, "dpl of cs"
        mov word [T2(0x4c)], SEL_CODE3 & ~3
        ret
DEF csnp, "cs not present"
        mov word [T2(0x4c)], SEL_Y
        and byte [gdt + SEL_Y + 5], 0x7f
        ret
DEF csout, "beyond the gdt"
        mov word [T2(0x4c)], 0x1000
        ret
DEF csacc, "cs not accessed"
        mov word [T2(0x4c)], SEL_Y
        mov byte [gdt + SEL_Y + 5], 0x9a
        ret
DEF ssnull, "null ss"
        mov word [T2(0x50)], 0
        ret
DEF sscode, "ss is code"
        mov word [T2(0x50)], SEL_CODE0
        ret
DEF ssro, "read-only ss"
        mov word [T2(0x50)], SEL_X
        mov byte [gdt + SEL_X + 5], 0x91
        ret
DEF ssrpl, "rpl of ss"
        mov word [T2(0x50)], SEL_DATA0 | 3
        ret
DEF ssdpl, "dpl of ss"
        mov word [T2(0x50)], SEL_DATA3 & ~3
        ret
DEF ssnp, "ss not present"
        mov word [T2(0x50)], SEL_X
        mov byte [gdt + SEL_X + 5], 0x13
        ret
DEF dscode, "ds execute-only"
        mov word [T2(0x54)], SEL_X
        mov byte [gdt + SEL_X + 5], 0x99
        ret
DEF dsrpl, "rpl of ds"
        mov word [T2(0x54)], SEL_DATA0 | 3
        ret
DEF dsnp, "ds not present"
        mov word [T2(0x54)], SEL_X
        mov byte [gdt + SEL_X + 5], 0x13
        ret
DEF dssys, "ds is a tss"
        mov word [T2(0x54)], SEL_TSS
        ret
DEF dsout, "gs beyond the gdt"
        mov word [T2(0x5c)], 0x2000
        ret
DEF dsnull, "null es"
        mov word [T2(0x48)], 3
        ret
DEF eip, "eip beyond cs"
        mov word [T2(0x4c)], SEL_Y
        mov dword [gdt + SEL_Y], 0x00000fff
        mov byte [gdt + SEL_Y + 6], 0x40
        ret

        align 8
cases:
%macro ROW 1-*
%rep %0
        dd n_%1, c_%1
%rotate 1
%endrep
%endmacro
        ROW good, limit, np, busy, ldtti, ldttype, ldtnp, ldtok, ldtlim, csnull, csdata, csrpl
        ROW csdpl, csnp, csout, csacc, ssnull, sscode, ssro, ssrpl, ssdpl, ssnp
        ROW dscode, dsrpl, dsnp, dssys, dsout, dsnull, eip
cases_end:

; ---- links ---------------------------------------------------------------------------------------
; IRET with NT set and a back link to this or that.
nested:
        PRINT "iret", 10
        mov ebx, links
.next:
        call fresh
        mov dword [T2(0x20)], .arrived
        mov dword [T2(0x38)], esp
        mov eax, [ebx]
        mov [tss], ax
        call put16
        mov eax, [ebx + 4]
        mov [gdt + SEL_TSS2 + 5], al
        call put8
        mov [T2(0x34)], ebx
        TRY .done
        push dword 0x4002
        popfd
        iretd
.arrived:
        PRINT " arrived, busy "
        mov al, [gdt + SEL_TSS + 5]
        call put8
        mov al, [gdt + SEL_TSS2 + 5]
        call put8
        PRINT " flags saved "
        mov eax, [tss + 0x24]
        call put16
        mov dword [tss + 0x20], .done
        mov [tss + 0x38], esp
        mov [tss + 0x34], ebx
        mov byte [gdt + SEL_TSS + 5], 0x89
        jmp SEL_TSS:0
.done:
        push dword 2
        popfd
        mov ebx, [link_at]
        PRINT 10
        add ebx, 8
        mov [link_at], ebx
        cmp ebx, links_end
        jb .next
        ret
        align 4
link_at: dd links
links:  dd SEL_TSS2, 0x8b
        dd SEL_TSS2, 0x89       ; not busy
        dd SEL_TSS2, 0x0b       ; not present
        dd SEL_LDT, 0x8b
        dd SEL_DATA0, 0x8b
        dd 0, 0x8b
        dd SEL_TSS2 | 4, 0x8b
        dd 0x3000, 0x8b
links_end:

; ---- a 16-bit TSS --------------------------------------------------------------------------------
sixteen:
        PRINT "16-bit", 10
        call fresh
        mov dword [gdt + SEL_TSS2 + 4], 0x00008101
        mov word [gdt + SEL_TSS2], 43
        mov word [gdt + SEL_Y + 2], 0
        mov byte [gdt + SEL_Y + 4], 1           ; code at 10000h: 16-bit IP
        mov edi, tss2
        xor eax, eax
        mov ecx, 12
        rep stosd
        mov word [T2(0x0e)], .task - image_start
        mov word [T2(0x10)], 2
        mov word [T2(0x12)], 0xa001
        mov word [T2(0x14)], 0xc002
        mov word [T2(0x1a)], STACK2
        mov word [T2(0x22)], SEL_DATA0
        mov word [T2(0x24)], SEL_Y
        mov word [T2(0x26)], SEL_D16
        mov word [T2(0x28)], SEL_DATA0
        mov ecx, 0x11112222
        mov edx, 0x33334444
        TRY .done
        call SEL_TSS2:0
        jmp .done
.task:
        mov [t2_esp], esp               ; PRINT needs a flat stack
        movzx esp, sp
        mov bx, SEL_DATA0
        mov ss, bx
        push ecx
        push eax
        PRINT "eax "
        pop eax
        call put32
        PRINT " ecx "
        pop eax
        call put32
        PRINT " ebp "
        mov eax, ebp
        call put32
        PRINT " esp "
        mov eax, [t2_esp]
        call put32
        PRINT " fs "
        mov ax, fs
        call put16
        PRINT " link "
        mov ax, [T2(0)]
        call put16
        PRINT " saved edx "
        mov eax, [tss + 0x30]
        call put32
        mov ecx, 0x55556666
        mov ax, SEL_DATA0
        mov fs, ax
        mov gs, ax
        iretd
.done:
        PRINT " ecx "
        mov eax, ecx
        call put32
        PRINT " saved cx "
        mov eax, [T2(0x14)]
        call put16
        mov ax, [T2(0x24)]
        call put16
        PRINT 10
        ret

; ---- a task in virtual-8086 mode, left through task gates and entered again by IRET -----------------
V86_CS  equ 0x3000
BACK    equ 0x2d                ; task gate to the main task
v86_tasks:
        PRINT "virtual-8086", 10
        mov dword [idt + 6 * 8], SEL_TSS << 16
        mov dword [idt + 6 * 8 + 4], 0x00008500
        mov dword [idt + BACK * 8], SEL_TSS << 16
        mov dword [idt + BACK * 8 + 4], 0x0000e500
        mov dword [V86_CS * 16], 0x90900b0f     ; ud2
        mov dword [V86_CS * 16 + 0x10], 0x90900000 | BACK << 8 | 0xcd
        mov dword [V86_CS * 16 + 0x14], 0x0b0f
        mov dword [V86_CS * 16 + 0x20], 0x0b0fd88c      ; mov ax, ds; ud2
        mov edi, 0
.next:  push edi
        call fresh
        pop edi
        mov eax, [.images + edi * 8]
        mov [T2(0x24)], eax
        mov eax, [.images + edi * 8 + 4]
        mov [T2(0x20)], eax
        mov dword [T2(0x4c)], V86_CS
        mov dword [T2(0x50)], 0x2000
        mov dword [T2(0x38)], 0x1234ff00
        mov dword [T2(0x48)], 0x4001
        mov dword [T2(0x54)], 0x5002
        mov dword [T2(0x58)], 0x6003
        mov dword [T2(0x5c)], 0x7004
        TRY .done
        jmp SEL_TSS2:0
        call .show
        iretd                   ; NT and the link lead back to it
        call .show
.done:  pushfd
        and dword [esp], ~0x4000
        popfd
        clts
        call put_result
        PRINT 10
        inc edi
        cmp edi, 5
        jb .next
        ret
.show:  PRINT "link "
        mov ax, [tss]
        call put16
        PRINT " busy "
        mov al, [gdt + SEL_TSS + 5]
        call put8
        mov al, [gdt + SEL_TSS2 + 5]
        call put8
        PRINT " flags "
        pushfd
        pop eax
        and eax, 0x4000
        call put16
        PRINT " saved "
        mov ecx, 0x20
.words: mov eax, [tss2 + ecx]
        call put32
        mov al, ' '
        call putc
        add ecx, 4
        cmp ecx, 0x2c
        jb .words
        mov eax, [T2(0x38)]
        call put32
        PRINT " "
        mov ecx, 0x48
.segs:  mov eax, [tss2 + ecx]
        call put16
        add ecx, 4
        cmp ecx, 0x60
        jb .segs
        PRINT " | "
        ret
.images: ; EFLAGS, EIP
        dd 0x00020002, 0, 0x00023002, 0, 0x00023202, 0x10, 0x00020202, 0x20, 0x00033ed7, 0x20

        align 8
current: dd 0
how:     dd 0
t2_esp:  dd 0
        align 16
ftss:   times 104 db 0

        END_KERNEL
