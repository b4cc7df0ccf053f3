; SPDX-License-Identifier: BSD-2-Clause
; Long mode: descriptors of every kind from 64-bit code, gates with and without IST, call gates,
; IRETQ, SYSCALL and SYSRET, SYSENTER and SYSEXIT, segment bases, canonical checks, mode switches.
%include "kernel.inc"

PML4    equ 0x100000
PDPT    equ 0x101000
PD      equ 0x102000
IDT64   equ 0x103000
RSP0    equ 0x105000
IST1    equ 0x106000
IST2    equ 0x107000
RING3   equ 0x108000
WORK    equ 0x109000
OTHER   equ 0x10b000            ; another stack of level 0

SEL_CODE64U equ 0x93            ; behind RAW; the GDT is enlarged
SEL_TSS64   equ 0xa0
SEL_GATE    equ 0xb0

test_main:
        ; identity map of 1 GiB by 2 MiB pages, user
        mov edi, PML4
        xor eax, eax
        mov ecx, 0x3000 / 4
        rep stosd
        mov dword [PML4], PDPT | 7
        mov dword [PML4 + 8 * 256], PDPT | 7    ; and at ffff800000000000h
        mov dword [PDPT], PD | 7
        mov edi, PD
        mov eax, 0x87
        mov ecx, 512
.map:   mov [edi], eax
        add eax, 0x200000
        add edi, 8
        loop .map
        mov dword [0x8000 + 0], 0
        ; a larger GDT at WORK
        mov esi, gdt
        mov edi, WORK
        mov ecx, GDT_BYTES / 4
        rep movsd
        mov dword [WORK + 0x90], 0x0000ffff
        mov dword [WORK + 0x94], 0x00affb00
        mov dword [WORK + 0x98], 0
        mov dword [WORK + 0x9c], 0
        mov dword [WORK + SEL_TSS64], 0x50000000 | 103
        mov dword [WORK + SEL_TSS64 + 4], 0x00008910 ; base 105000h
        mov dword [WORK + SEL_TSS64 + 8], 0
        mov dword [WORK + SEL_TSS64 + 12], 0
        mov edi, 0x105000
        xor eax, eax
        mov ecx, 64
        rep stosd
        mov dword [0x105004], RSP0
        mov dword [0x105024], IST1
        mov dword [0x10502c], IST2
        ; IDT
        mov edi, IDT64
        mov ecx, 0
.idt:   mov eax, ecx
        shl eax, 4
        add eax, stubs64
        mov [edi], ax
        mov word [edi + 2], SEL_CODE64
        mov word [edi + 4], 0x8e00
        mov dword [edi + 8], 0
        mov dword [edi + 12], 0
        shr eax, 16
        mov [edi + 6], ax
        add edi, 16
        inc ecx
        cmp ecx, 48
        jb .idt
        lgdt [gdtr64_32]
        mov eax, cr4
        or eax, 0x620
        mov cr4, eax
        mov eax, PML4
        mov cr3, eax
        mov ecx, 0xc0000080
        rdmsr
        or eax, 0x901
        wrmsr
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        jmp SEL_CODE64:start64
gdtr64_32:
        dw 0x1ff
        dd WORK

        bits 64
        default abs
start64:
        mov rsp, STACK0
        lidt [idtr64]
        mov ax, SEL_TSS64
        ltr ax
        call matrix64
        call ss_loads
        call frames
        call callgates
        call syscalls
        call bases
        call canonical
        call modes
        ; back to 32 bits
        mov rax, rsp
        push qword SEL_CODE0
        push qword leave64
        retfq
idtr64: dw 48 * 16 - 1
        dq IDT64

        bits 32
leave64:
        mov ax, SEL_DATA0
        mov ss, ax
        mov eax, cr0
        and eax, 0x7fffffff
        mov cr0, eax
        mov ecx, 0xc0000080
        rdmsr
        call put32
        PRINT 10
        jmp finish              ; the way back to the caller was lost in 64-bit code

        bits 64
; ---- the common code of this kernel, for 64-bit code ------------------------------------------------
%macro PRINT64 1+
        push rsi
        lea rsi, [rel %%s]
        call puts64
        pop rsi
        jmp %%e
%%s:    db %1, 0
%%e:
%endmacro
puts64: push rax
.n:     lodsb
        test al, al
        jz .e
        out 0xe9, al
        jmp .n
.e:     pop rax
        ret
%macro PUTHEX64 2
%1:     push rcx
        push rax
        push rdx
        mov ecx, %2
        mov rdx, rax
        ror rdx, 4 * %2
%%n:    rol rdx, 4
        mov al, dl
        and al, 15
        add al, '0'
        cmp al, '9'
        jbe %%d
        add al, 'a' - '0' - 10
%%d:    out 0xe9, al
        loop %%n
        pop rdx
        pop rax
        pop rcx
        ret
%endmacro
        PUTHEX64 h8, 2
        PUTHEX64 h16, 4
        PUTHEX64 h32, 8
        PUTHEX64 h64, 16

%macro TRY64 1
        mov dword [exc], 0
        mov dword [exc_code], 0
        mov dword [landed], 0
        mov dword [resume], %1
        mov [resume_rsp], rsp
%endmacro

result64:
        push rax
        mov eax, [exc]
        test eax, eax
        jnz .f
        PRINT64 " ok"
        pop rax
        ret
.f:     PRINT64 " "
        dec eax
        call h8
        mov al, ':'
        out 0xe9, al
        mov eax, [exc_code]
        call h16
        pop rax
        ret
%macro REPORT64 1
        PRINT64 %1
        call result64
%endmacro
newline: mov al, 10
        out 0xe9, al
        ret

        align 16
stubs64:
%assign v 0
%rep 48
        align 16
%if v == 8 || (v >= 10 && v <= 14) || v == 17 || v == 21
%else
        push qword 0
%endif
        push qword v
        jmp near common64
%assign v v + 1
%endrep
        align 16
; Always back to level 0.
common64:
        cld
        mov [saved_rax], rax
        mov eax, [rsp]
        inc eax
        mov [exc], eax
        mov rax, [rsp + 8]
        mov [exc_code], eax
%assign i 0
%rep 5
        mov rax, [rsp + 16 + 8 * i]
        mov [frame64 + 8 * i], rax
%assign i i + 1
%endrep
        mov [exc_rsp], rsp
        mov [exc_ss], ss
        mov ax, SEL_DATA0
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov rsp, [resume_rsp]
        cmp dword [resume], 0
        je unexpected64
        mov eax, [resume]
        mov dword [resume], 0
        push qword 0x3002
        popfq
        jmp rax
unexpected64:
        mov rsp, STACK0
        PRINT64 "unexpected exception "
        call result64
        mov rax, [frame64]
        call h64
        call newline
        mov al, 1
        out 0xf4, al
        hlt

; ---- every access byte ------------------------------------------------------------------------------
matrix64:
        mov dword [access64], 0
.next:
        mov al, [access64]
        call h8
        xor r15d, r15d          ; flags: as for 32-bit code, then L, then L and D
.flags:
        mov eax, [access64]
        mov dword [WORK + SEL_X], 0x0000ffff
        shl eax, 8
        mov ecx, r15d
        shl ecx, 21
        or eax, 0x008f0000
        add eax, ecx
        mov [WORK + SEL_X + 4], eax
        mov dword [WORK + SEL_X + 8], 0
        mov dword [WORK + SEL_X + 12], 0
        test byte [access64], 0x10
        jnz .seg
        ; system types: LDT and TSS of 104 bytes at 105000h; call gates to 64-bit code
        mov dword [WORK + SEL_X], 0x50000000 | 103
        mov al, [access64]
        mov byte [WORK + SEL_X + 4], 0x10
        mov word [WORK + SEL_X + 6], 0
        and al, 15
        cmp al, 12
        jne .seg
        mov dword [WORK + SEL_X], SEL_CODE64 << 16
        mov eax, landing64
        mov [WORK + SEL_X], ax
        mov byte [WORK + SEL_X + 4], 0
        mov byte [WORK + SEL_X + 6], 1
.seg:
        mov rbx, SEL_X
        TRY64 .ds
        mov ds, bx
.ds:    push rax
        mov ax, SEL_DATA0
        mov ds, ax
        pop rax
        REPORT64 " ds"
        TRY64 .ss
        mov ss, bx
.ss:    mov ax, SEL_DATA0
        mov ss, ax
        REPORT64 " ss"
        lar eax, ebx
        setz cl
        lsl edx, ebx
        setz ch
        PRINT64 " "
        mov ax, cx
        call h16
        TRY64 .jmp
        mov dword [far64], landing64
        mov dword [far64 + 4], 0
        mov [far64 + 8], bx
        jmp far qword [far64]
.jmp:   mov dword [resume], 0
        REPORT64 " jmp"
        TRY64 .call
        call far qword [far64]
.call:  mov rsp, [resume_rsp]
        REPORT64 " call"
        TRY64 .ret
        push rbx
        mov eax, landing64
        push rax
        retfq
.ret:   mov rsp, [resume_rsp]
        REPORT64 " ret"
        TRY64 .iret
        push qword SEL_DATA0
        push qword OTHER
        push qword 0x3002
        push rbx
        mov eax, landing64
        push rax
        iretq
.iret:  mov rsp, [resume_rsp]
        REPORT64 " iret"
        TRY64 .lldt
        lldt bx
.lldt:  REPORT64 " lldt"
        TRY64 .ltr
        ltr bx
.ltr:   REPORT64 " ltr"
        and byte [WORK + SEL_TSS64 + 5], 0xfd
        mov ax, SEL_TSS64
        ltr ax
        xor eax, eax
        lldt ax
        PRINT64 " |"
        inc r15d
        cmp r15d, 4
        je .done
        test byte [access64], 0x10
        jz .done                ; flags mean nothing in system descriptors
        jmp .flags
.done:
        call newline
        inc dword [access64]
        cmp dword [access64], 256
        jb .next
        ret

; Arrives in 64-bit or compatibility mode, at level 0: bytes that mean the same in both.
        align 16
landing64:
        nop
        bits 32
        db 0x0f, 0x0b                   ; ud2: the handler is 64-bit code and takes us back
        bits 64

; ---- null and other stack segments ------------------------------------------------------------------
ss_loads:
        PRINT64 "ss", 10
        xor ebx, ebx
.next:  TRY64 .r
        mov ss, bx
.r:     mov ax, SEL_DATA0
        mov ss, ax
        mov ax, bx
        call h16
        call result64
        ; as the SS of IRETQ to level 0 and to level 3
        TRY64 .i
        push rbx
        push qword OTHER
        push qword 0x3002
        push qword SEL_CODE64
        push qword .ok
        iretq
.ok:    nop
.i:     mov rsp, [resume_rsp]
        mov dword [resume], 0
        mov ax, ss
        call h16
        call result64
        mov ax, SEL_DATA0
        mov ss, ax
        TRY64 .u
        push rbx
        push qword RING3
        push qword 0x3002
        push qword SEL_CODE64U
        push qword .user
        iretq
.user:  ud2
.u:     call result64
        mov rax, [frame64 + 8]
        call h16
        mov rax, [frame64 + 32]
        call h16
        call newline
        inc ebx
        cmp ebx, 0x28
        jb .next
        ret

; ---- frames -------------------------------------------------------------------------------------------
show_frame:
        PRINT64 " ss now "
        mov ax, [exc_ss]
        call h16
        PRINT64 " sp "
        mov rax, [exc_rsp]
        call h64
        xor ecx, ecx
.n:     PRINT64 " "
        mov rax, [frame64 + rcx * 8]
        call h64
        inc ecx
        cmp ecx, 5
        jb .n
        jmp newline

frames:
        PRINT64 "frames", 10
        TRY64 .a
        ud2
.a:     call show_frame
        TRY64 .b
        mov rsp, OTHER - 3              ; alignment
        ud2
.b:     call show_frame
        mov byte [IDT64 + 6 * 16 + 4], 1        ; IST 1
        TRY64 .c
        ud2
.c:     call show_frame
        TRY64 .d
        push qword SEL_DATA3
        push qword RING3 - 7
        push qword 0x3247
        push qword SEL_CODE64U
        push qword .u
        iretq
.u:     ud2
.d:     call show_frame
        mov byte [IDT64 + 6 * 16 + 4], 0
        TRY64 .e
        push qword SEL_DATA3
        push qword RING3 - 7
        push qword 0x3247
        push qword SEL_CODE64U
        push qword .u
        iretq
.e:     call show_frame
        ; IST whose slot lies beyond the TSS
        mov byte [IDT64 + 6 * 16 + 4], 1
        mov dword [0x105024], 0
        mov dword [0x105028], 0x8000            ; not canonical
        TRY64 .f
        ud2
.f:     call result64
        mov dword [0x105024], IST1
        mov dword [0x105028], 0
        mov byte [IDT64 + 6 * 16 + 4], 0
        ; gates
        mov r14, gate_words
.g:     mov eax, [r14]
        mov [IDT64 + 0x2e * 16 + 4], ax
        mov eax, [r14 + 4]
        mov [IDT64 + 0x2e * 16 + 2], ax
        mov ax, [r14]
        call h16
        mov ax, [r14 + 4]
        call h16
        TRY64 .h
        int 0x2e
.h:     call result64
        PRINT64 " "
        add r14, 8
        cmp r14, gate_words_end
        jb .g
        mov word [IDT64 + 0x2e * 16 + 2], SEL_CODE64
        mov word [IDT64 + 0x2e * 16 + 4], 0x8e00
        mov dword [IDT64 + 0x2e * 16 + 8], 0x8000
        TRY64 .i
        int 0x2e                        ; handler not canonical
.i:     call result64
        mov dword [IDT64 + 0x2e * 16 + 8], 0
        jmp newline
gate_words:
        dd 0x8e00, SEL_CODE64, 0x8f00, SEL_CODE64, 0x0e00, SEL_CODE64, 0x8600, SEL_CODE64
        dd 0x8500, SEL_CODE64, 0x8c00, SEL_CODE64, 0x8e00, SEL_CODE0, 0x8e00, SEL_DATA0
        dd 0x8e00, 0, 0x8e00, SEL_CODE64U, 0x8e00, 0x1000, 0x8e07, SEL_CODE64
gate_words_end:

; ---- call gates ---------------------------------------------------------------------------------------
callgates:
        PRINT64 "call gates", 10
        mov dword [WORK + SEL_GATE], SEL_CODE64 << 16
        mov eax, gate_entry
        mov [WORK + SEL_GATE], ax
        mov dword [WORK + SEL_GATE + 4], 0x0001ec00
        mov dword [WORK + SEL_GATE + 8], 0
        mov dword [WORK + SEL_GATE + 12], 0
        mov dword [far64], 0
        mov dword [far64 + 4], 0
        mov word [far64 + 8], SEL_GATE
        TRY64 .a
        call far qword [far64]
.a:     PRINT64 "same "
        call gate_show
        TRY64 .b
        push qword SEL_DATA3
        push qword RING3
        push qword 0x3002
        push qword SEL_CODE64U
        push qword .u
        iretq
.u:     mov word [far64 + 8], SEL_GATE | 3
        call far qword [far64]
        ud2
.b:     PRINT64 "inner "
        call gate_show
        ; the upper half of the gate
        mov dword [WORK + SEL_GATE + 12], 0x1f00
        TRY64 .c
        call far qword [far64]
.c:     call result64
        mov dword [WORK + SEL_GATE + 12], 0
        mov dword [WORK + SEL_GATE + 8], 0x8000
        TRY64 .d
        call far qword [far64]
.d:     call result64
        mov dword [WORK + SEL_GATE + 8], 0
        mov word [WORK + SEL_GATE + 2], SEL_CODE0 ; not 64-bit code
        TRY64 .e
        call far qword [far64]
.e:     call result64
        ; from compatibility mode at level 3, and back
        mov word [WORK + SEL_GATE + 2], SEL_CODE64
        TRY64 .f
        push qword SEL_DATA3
        push qword RING3
        push qword 0x3002
        push qword SEL_CODE3
        push qword .compat
        iretq
        bits 32
.compat: call (SEL_GATE | 3):0
        ud2
        bits 64
.f:     PRINT64 "compat "
        call gate_show
        ret
gate_entry:
        mov [gate_rsp], rsp
        mov [gate_ss], ss
        mov rax, [rsp]
        mov [gate_frame], rax
        mov rax, [rsp + 8]
        mov [gate_frame + 8], rax
        mov rax, [rsp + 16]
        mov [gate_frame + 16], rax
        mov rax, [rsp + 24]
        mov [gate_frame + 24], rax
        retfq
gate_show:
        call result64
        PRINT64 " ss "
        mov ax, [gate_ss]
        call h16
        mov rax, [gate_rsp]
        call h64
        xor ecx, ecx
.n:     PRINT64 " "
        mov rax, [gate_frame + rcx * 8]
        call h64
        inc ecx
        cmp ecx, 4
        jb .n
        jmp newline

; ---- system calls ---------------------------------------------------------------------------------------
; index, high, low
%macro WRMSR64 3
        mov ecx, %1
        mov edx, %2
        mov eax, %3
        wrmsr
%endmacro
syscalls:
        PRINT64 "syscall", 10
        WRMSR64 0xc0000081, (0x0018 << 16) | SEL_CODE64, 0      ; STAR
        WRMSR64 0xc0000082, 0, sys_entry
        WRMSR64 0xc0000084, 0, 0x47700
        TRY64 .a
        push qword SEL_DATA3
        push qword RING3
        push qword 0x43ed7 & ~0x100
        push qword SEL_CODE64U
        push qword .u
        iretq
.u:     syscall
.after: nop
        ud2
.a:     call result64
        call sys_show
        ; SYSRET to 64-bit code, and to compatibility mode
        WRMSR64 0xc0000081, ((SEL_CODE64U - 16) << 16) | SEL_CODE64, 0
        TRY64 .b
        mov ecx, .to64
        mov r11, 0x3f7fd7 & ~0x100
        o64 sysret
.to64:  mov [sys_cs], cs
        mov [sys_ss], ss
        pushfq
        pop qword [sys_r11]
        ud2
.b:     call result64
        call sys_show
        WRMSR64 0xc0000081, (SEL_CODE3 << 16) | SEL_CODE64, 0
        TRY64 .c
        mov ecx, .to32
        mov r11, 0x3202
        o32 sysret
        bits 32
.to32:  mov [sys_cs], cs
        mov [sys_ss], ss
        ud2
        bits 64
.c:     call result64
        call sys_show
        ; without SCE
        mov ecx, 0xc0000080
        rdmsr
        and al, 0xfe
        wrmsr
        TRY64 .d
        syscall
.d:     call result64
        mov ecx, 0xc0000080
        rdmsr
        or al, 1
        wrmsr
        ; SYSENTER, SYSEXIT
        WRMSR64 0x174, 0, 0
        TRY64 .e
        sysenter
.e:     call result64
        TRY64 .e2
        o64 sysexit
.e2:    call result64
        call newline
        ret
sys_entry:
        mov [sys_cs], cs
        mov [sys_ss], ss
        mov [sys_rcx], rcx
        mov [sys_r11], r11
        pushfq
        pop qword [sys_fl]
        ud2
sys_show:
        PRINT64 " cs "
        mov ax, [sys_cs]
        call h16
        PRINT64 " ss "
        mov ax, [sys_ss]
        call h16
        PRINT64 " rcx "
        mov rax, [sys_rcx]
        call h64
        PRINT64 " r11 "
        mov rax, [sys_r11]
        and rax, ~0x10000
        call h64
        PRINT64 " fl "
        mov rax, [sys_fl]
        call h64
        jmp newline

; ---- FS, GS ---------------------------------------------------------------------------------------------
bases:
        PRINT64 "bases", 10
        WRMSR64 0xc0000100, 0xffff8000, 0x00109000
        WRMSR64 0xc0000101, 0x00000000, 0x00109000
        WRMSR64 0xc0000102, 0xffff8000, 0x00109100
        mov dword [WORK + 0x200], 0x11223344
        mov dword [WORK + 0x300], 0x55667788
        mov eax, [fs:0x200]
        call h32
        mov eax, [gs:0x200]
        call h32
        swapgs
        mov eax, [gs:0x200]
        call h32
        PRINT64 " "
        ; loading a selector loads the base, NULL clears it
        mov ax, SEL_DATA0
        mov fs, ax
        mov ecx, 0xc0000100
        rdmsr
        call h32
        mov eax, edx
        call h32
        xor eax, eax
        mov gs, ax
        mov ecx, 0xc0000101
        rdmsr
        call h32
        mov eax, edx
        call h32
        TRY64 .a
        WRMSR64 0xc0000100, 0x08000000, 0
.a:     call result64
        jmp newline

; ---- canonical addresses --------------------------------------------------------------------------------
canonical:
        PRINT64 "canonical", 10
        mov byte [IDT64 + 12 * 16 + 4], 2       ; RSP is of no use for these
        mov byte [IDT64 + 13 * 16 + 4], 2
        mov byte [IDT64 + 14 * 16 + 4], 2
        mov rbx, 0x0000800000000000
%macro CANON 1+
        TRY64 %%r
        %1
%%r:    mov rsp, [resume_rsp]
        call result64
%endmacro
        CANON mov al, [rbx]
        mov rbp, rbx
        CANON mov al, [rbp]
        mov rsp, [resume_rsp]
        TRY64 .p
        lea rsp, [rbx + 8]
        push rax
.p:     call result64
        TRY64 .q
        mov rsp, rbx            ; just below it is canonical, but not mapped
        push rax
.q:     call result64
        CANON jmp rbx
        CANON call rbx
        TRY64 .r
        push rbx
        ret
.r:     mov rsp, [resume_rsp]
        call result64
        CANON mov al, [rbx - 1]
        mov rsi, rbx
        CANON lodsb
        CANON invlpg [rbx]
        CANON lgdt [rbx]
        TRY64 .i
        push qword SEL_DATA0
        push qword OTHER
        push qword 2
        push qword SEL_CODE64
        push rbx
        iretq
.i:     mov rsp, [resume_rsp]
        call result64
        mov rax, 0x00007fffffffffff
        TRY64 .x
        mov ebx, [rax]
.x:     call result64
        jmp newline

; ---- checks of the mode ---------------------------------------------------------------------------------
modes:
        PRINT64 "modes", 10
        TRY64 .a
        mov rax, cr0
        btr rax, 31
        mov cr0, rax
.a:     call result64
        TRY64 .b
        mov rax, cr4
        btr rax, 5
        mov cr4, rax
.b:     call result64
        TRY64 .c
        mov ecx, 0xc0000080
        rdmsr
        btr eax, 8
        wrmsr
.c:     call result64
        TRY64 .d
        mov rax, cr0
        bts rax, 32
        mov cr0, rax
.d:     call result64
        TRY64 .e
        mov rax, cr4
        bts rax, 63
        mov cr4, rax
.e:     call result64
        TRY64 .f
        mov eax, 16
        mov cr8, rax
.f:     call result64
        TRY64 .g
        mov eax, 9
        mov cr8, rax
        mov rax, cr8
        mov ecx, eax
        xor eax, eax
        mov cr8, rax
.g:     call result64
        TRY64 .h
        mov rax, dr7
        bts rax, 32
        mov dr7, rax
.h:     call result64
        TRY64 .i
        mov rax, 0x0008000000000000
        mov cr3, rax
.i:     call result64
        TRY64 .j
        db 0x0f, 0x20, 0xc8             ; mov rax, cr1
.j:     call result64
        pushfq
        or dword [rsp], 0x4000
        popfq
        TRY64 .k
        push qword SEL_DATA0
        push qword OTHER
        push qword 2
        push qword SEL_CODE64
        push qword .k
        iretq                           ; NT
.k:     mov rsp, [resume_rsp]
        call result64
        push qword 2
        popfq
        TRY64 .l
        int 0x2f + 1                    ; beyond the IDT
.l:     call result64
        jmp newline

        align 16
access64:  dd 0
        align 16
saved_rax: dq 0
frame64:   times 5 dq 0
exc_rsp:   dq 0
exc_ss:    dq 0
resume_rsp: dq 0
far64:     dq 0, 0
gate_rsp:  dq 0
gate_ss:   dq 0
gate_frame: times 4 dq 0
sys_cs:    dq 0
sys_ss:    dq 0
sys_rcx:   dq 0
sys_r11:   dq 0
sys_fl:    dq 0

        END_KERNEL
