; SPDX-License-Identifier: BSD-2-Clause
; Virtual-8086 mode: sensitive instructions at every IOPL, with and without VME; the interrupt
; redirection map; frames. The program runs at 3000:0, with its stack at 2000:ff00.
%define HOOK
%include "kernel.inc"

V86_CS  equ 0x3000
V86_SS  equ 0x2000
V86_SP  equ 0xff00

test_main:
        ; DPL 3 gates for INT 3, 4, 21h; the others are DPL 0
        mov byte [idt + 3 * 8 + 5], 0xee
        mov byte [idt + 4 * 8 + 5], 0xef
        mov byte [idt + 0x21 * 8 + 5], 0xee
        ; the program's own vectors: INT 20h..27h at 3000:800h: HLT
        mov edi, 0
        mov ecx, 256
.ivt:   mov dword [edi], V86_CS << 16 | 0x800
        add edi, 4
        loop .ivt
        mov byte [V86_CS * 16 + 0x800], 0xf4
        ; redirection: INT 21h and 23h go to protected mode
        mov byte [tss + 0x68 + 4], 0x0a
        mov eax, cr4
        mov [cr4_plain], eax
        mov dword [vme], 0
.vme:
        mov dword [iopl], 0
.iopl:
        PRINT "vme "
        mov al, [vme]
        call put8
        PRINT " iopl "
        mov al, [iopl]
        call put8
        PRINT 10
        mov esi, programs
.prog:
        call one
        movzx eax, byte [esi]
        lea esi, [esi + eax + 1]
        cmp byte [esi], 0
        jne .prog
        inc dword [iopl]
        cmp dword [iopl], 4
        jb .iopl
        mov eax, [cr4_plain]
        or al, 1
        mov cr4, eax
        inc dword [vme]
        cmp dword [vme], 2
        jb .vme
        mov eax, [cr4_plain]
        mov cr4, eax
        call gate16
        jmp protected_virtual

; length and bytes; HLT behind them ends the program by #GP
programs:
        db 1, 0xfa                      ; cli
        db 1, 0xfb                      ; sti
        db 1, 0x9c                      ; pushf
        db 2, 0x66, 0x9c                ; pushfd
        db 1, 0x9d                      ; popf: 0
        db 2, 0x66, 0x9d                ; popfd: 0
        db 5, 0x68, 0x00, 0x02, 0x9d, 0x90      ; push 200h; popf
        db 5, 0x68, 0x00, 0x01, 0x9d, 0x90      ; push 100h; popf: TF
        db 5, 0x68, 0xd5, 0x7e, 0x9d, 0x90      ; push 7ed5h; popf
        db 1, 0xcc                      ; int3
        db 1, 0xce                      ; into, not taken
        db 5, 0xb0, 0x7f, 0x04, 0x01, 0xce      ; mov al, 7fh; add al, 1; into
        db 1, 0xf1                      ; int1
        db 2, 0xcd, 0x20
        db 2, 0xcd, 0x21
        db 2, 0xcd, 0x23
        db 2, 0xcd, 0x03
        db 9, 0x68, 0x02, 0x02, 0x68, 0x00, 0x30, 0x6a, 0x20, 0xcf      ; iret with IF
        db 9, 0x68, 0x02, 0x00, 0x68, 0x00, 0x30, 0x6a, 0x20, 0xcf      ; without
        db 9, 0x68, 0x02, 0x01, 0x68, 0x00, 0x30, 0x6a, 0x20, 0xcf      ; with TF
        db 14, 0x66, 0x6a, 0x02, 0x66, 0x68, 0x00, 0x30, 0x00, 0x00, 0x66, 0x6a, 0x20, 0x66, 0xcf ; iretd
        db 2, 0xe4, 0x10                ; in al, 10h: allowed by the map
        db 4, 0xba, 0x00, 0x04, 0xec    ; in al, dx at 400h: beyond it
        db 3, 0x0f, 0x20, 0xc0          ; mov eax, cr0
        db 3, 0x0f, 0x22, 0xc0
        db 3, 0x0f, 0x21, 0xc0          ; mov eax, dr0
        db 3, 0x0f, 0x01, 0xe0          ; smsw
        db 3, 0x0f, 0x01, 0xf0          ; lmsw
        db 3, 0x0f, 0x00, 0xc0          ; sldt: #UD
        db 3, 0x0f, 0x00, 0xd8          ; ltr: #UD
        db 3, 0x0f, 0x02, 0xc0          ; lar: #UD
        db 2, 0x63, 0xc0                ; arpl: #UD
        db 5, 0x0f, 0x01, 0x16, 0x00, 0x00      ; lgdt
        db 2, 0x0f, 0x06                ; clts
        db 2, 0x0f, 0x30                ; wrmsr
        db 2, 0x0f, 0x09                ; wbinvd
        db 3, 0xa1, 0xff, 0xff          ; mov ax, [ffffh]
        db 4, 0x8e, 0xd8, 0x8c, 0xdb    ; mov ds, ax; mov bx, ds
        db 5, 0xea, 0x20, 0x00, 0x00, 0x30      ; jmp far 3000:20h
        db 5, 0x9a, 0x20, 0x00, 0x00, 0x30
        db 3, 0x8e, 0xd0, 0x50          ; mov ss, ax; push ax
        db 0

one:    ; program at esi
        mov edi, V86_CS * 16
        xor eax, eax
        mov ecx, 16
        mov al, 0xf4
        rep stosb
        mov edi, V86_CS * 16
        movzx ecx, byte [esi]
        push esi
        inc esi
        rep movsb
        pop esi
        ; print the bytes
        movzx ecx, byte [esi]
        xor edx, edx
.bytes: mov al, [esi + edx + 1]
        call put8
        inc edx
        loop .bytes
        mov byte [V86_CS * 16 + 0x20], 0xf4
        mov edi, V86_SS * 16 + V86_SP - 32
        xor eax, eax
        mov ecx, 16
        rep stosd
        mov edi, 4
.cases: ; IF and VIF: 200h, 0, and with VIP in VME
        mov [flag_case], edi
        pushad
        call run_v86
        popad
        dec edi
        jnz .cases
        PRINT 10
        ret

flag_images:
        dd 0x020002, 0x020202, 0x1a0202, 0x0a0002

run_v86:
        TRY .done
        mov eax, [flag_case]
        mov edx, [flag_images + eax * 4 - 4]
        mov ecx, [iopl]
        shl ecx, 12
        or edx, ecx
        push dword 0x5000       ; gs
        push dword 0x4000       ; fs
        push dword 0x1234       ; ds
        push dword 0x2345       ; es
        push dword V86_SS
        push dword V86_SP
        push edx
        push dword V86_CS
        push dword 0
        xor eax, eax
        xor ebx, ebx
        xor edx, edx
        iretd
.done:
        PRINT " | "
        mov eax, [exc]
        dec eax
        call put8
        mov al, ':'
        call putc
        mov eax, [exc_code]
        call put16
        xor ecx, ecx
.frame: mov al, ' '
        call putc
        mov eax, [frame + ecx * 4]
        call put32
        inc ecx
        cmp ecx, 5
        jb .frame
        mov al, ' '
        call putc
        mov eax, [frame + 6 * 4]
        call put16
        mov ax, [V86_SS * 16 + V86_SP - 2]
        call put16
        ret

; called by the common exception entry: keep the frame
hook:
        mov esi, [exc_esp0]
        add esi, 12
        mov edi, frame
        mov ecx, 9
        mov ax, ds
        mov es, ax
        rep movsd
        ret

; ---- a 16-bit gate: nine words, and none of the offset's upper half ---------------------------------
gate16:
        PRINT "16-bit gate"
        mov dword [gdt + SEL_X], 0x0000ffff     ; 32-bit code at 10000h
        mov dword [gdt + SEL_X + 4], 0x00409b01
        mov eax, .handler - image_start
        or eax, SEL_X << 16
        mov [idt + 0x22 * 8], eax
        mov dword [idt + 0x22 * 8 + 4], 0xffffe600
        mov dword [V86_CS * 16], 0xf422cd       ; int 22h; hlt
        mov [gate16_esp], esp
        push dword 0x5000
        push dword 0x4000
        push dword 0x1234
        push dword 0x2345
        push dword V86_SS
        push dword V86_SP
        push dword 0x023202
        push dword V86_CS
        push dword 0
        iretd
.handler:
        mov [ss:gate16_sel], ds
        mov [ss:gate16_sel + 2], es
        mov [ss:gate16_sel + 4], fs
        mov [ss:gate16_sel + 6], gs
        mov [ss:gate16_sel + 8], ss
        mov ax, SEL_DATA0
        mov ds, ax
        mov es, ax
        mov fs, ax
        mov gs, ax
        pushfd
        pop dword [gate16_flags]
        mov ecx, STACK0T
        sub ecx, esp
        mov [gate16_sel + 10], cx
        mov esi, esp
        mov edi, gate16_sel + 12
        mov ecx, 9
        rep movsw
        mov esp, [gate16_esp]
        jmp SEL_CODE0:.flat
.flat:  xor ecx, ecx
.print: mov al, ' '
        call putc
        mov ax, [gate16_sel + ecx * 2]
        call put16
        inc ecx
        cmp ecx, 15
        jb .print
        mov al, ' '
        call putc
        mov eax, [gate16_flags]
        and eax, 0x27700
        call put32
        PRINT 10
        ret

; ---- the virtual flags of programs in protected mode (CR4.PVI) ---------------------------------
pvi_programs:
        db 1, 0x90                      ; nop
        db 1, 0xfa                      ; cli
        db 1, 0xfb                      ; sti
        db 2, 0x9c, 0x58                ; pushf; pop eax
        db 7, 0x68, 0x00, 0x02, 0x00, 0x00, 0x9d, 0x90  ; push 200h; popf
        db 2, 0xcd, 0x20
        db 2, 0xcd, 0x21
        db 0
pvi_images:
        dd 0x000002, 0x080202, 0x100002, 0x180202

protected_virtual:
        mov eax, [cr4_plain]
        or al, 2
        mov cr4, eax
        mov dword [iopl], 0
.iopl:  PRINT "pvi iopl "
        mov al, [iopl]
        call put8
        PRINT 10
        mov esi, pvi_programs
.prog:  mov edi, V86_CS * 16
        mov al, 0xf4
        mov ecx, 16
        rep stosb
        mov edi, V86_CS * 16
        movzx ecx, byte [esi]
        inc esi
        push esi
        push ecx
        rep movsb
        pop ecx
        pop esi
.bytes: lodsb
        call put8
        loop .bytes
        mov dword [flag_case], 0
.case:  pushad
        call run_pvi
        popad
        inc dword [flag_case]
        cmp dword [flag_case], 4
        jb .case
        PRINT 10
        cmp byte [esi], 0
        jne .prog
        inc dword [iopl]
        cmp dword [iopl], 4
        jb .iopl
        mov eax, [cr4_plain]
        mov cr4, eax
        ret

run_pvi:
        TRY .done
        mov eax, [flag_case]
        mov edx, [pvi_images + eax * 4]
        mov ecx, [iopl]
        shl ecx, 12
        or edx, ecx
        push dword SEL_DATA3
        push dword STACK3
        push edx
        push dword SEL_CODE3
        push dword V86_CS * 16
        xor eax, eax
        iretd
.done:  PRINT " | "
        mov eax, [exc]
        dec eax
        call put8
        mov al, ':'
        call putc
        mov eax, [exc_code]
        call put16
        mov al, ' '
        call putc
        mov al, [frame]
        call put8
        mov al, ' '
        call putc
        mov eax, [frame + 8]
        jmp put32

        align 8
cr4_plain: dd 0
vme:    dd 0
iopl:   dd 0
flag_case: dd 0
frame:  times 9 dd 0
gate16_esp: dd 0
gate16_flags: dd 0
gate16_sel: times 16 dw 0

        END_KERNEL
