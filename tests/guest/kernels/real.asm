; SPDX-License-Identifier: BSD-2-Clause
; Real mode: ends of segments and of the stack, limits that survive from protected mode, instructions
; that are not valid or that fault, far transfers, flags, strings that wrap, vectors beyond the IDT.
; Each line has the exception with the distance of its IP from the instruction, or "ok"; then SP,
; EAX, the segment's own words, and the system flags.
%include "kernel.inc"

%define REAL(x) (x - image_start)
R_CS    equ 0x1000
R_DS    equ 0x3000
R_SS    equ 0x4000
SYSTEM_FLAGS equ 0xf700

test_main:
        mov [ret_esp], esp
        mov dword [gdt + SEL_X], 0x0000ffff     ; 64 KiB of data
        mov dword [gdt + SEL_X + 4], 0x00009300
        mov dword [gdt + SEL_Y], 0x0000ffff     ; and of code
        mov dword [gdt + SEL_Y + 4], 0x00009b01
        jmp SEL_Y:REAL(leave32)

        bits 16
leave32:
        mov ax, SEL_X
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov gs, ax
        mov ax, SEL_DATA0
        mov fs, ax              ; keeps its limit of 4 GiB
        mov eax, cr0
        and al, 0xfe
        mov cr0, eax
        jmp R_CS:REAL(real)
real:
        mov ax, R_CS
        mov ds, ax
        mov ss, ax
        mov sp, 0xff00
        xor ax, ax
        mov es, ax
        xor di, di
        mov bx, REAL(vectors)
        mov cx, 256
.ivt:   mov ax, bx
        stosw
        mov ax, R_CS
        stosw
        cmp cx, 256 - 31
        jb .same
        add bx, 9
.same:  loop .ivt
        o32 lidt [REAL(real_idtr)]
        call near tests16
        cli
        ; and back
        mov ax, R_CS
        mov ds, ax
        o32 lidt [REAL(idtr)]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        jmp dword SEL_CODE0:.prot
        bits 32
.prot:  mov ax, SEL_DATA0
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov fs, ax
        mov gs, ax
        mov esp, [ret_esp]
        ret
        bits 16

; vectors 0 to 31, and one for all others
vectors:
%assign v 0
%rep 33
        mov byte [cs:REAL(r_vec)], v
        jmp near fault16 ; 9 bytes
%assign v v + 1
%endrep

fault16:                        ; IP, CS, flags; nothing is pushed here
        mov [cs:REAL(r_eax)], eax
        pop ax
        mov [cs:REAL(r_ip)], ax
        pop ax
        mov [cs:REAL(r_cs)], ax
        pop ax
        mov [cs:REAL(r_flags)], ax
        mov [cs:REAL(r_sp)], sp
        jmp [cs:REAL(r_out)]

; ---- output -------------------------------------------------------------------------------------
puts16:                         ; DS:SI
        lodsb
        test al, al
        jz .end
        out 0xe9, al
        jmp puts16
.end:   ret
hex16:                          ; CX digits of EAX, left to right, from the top
        rol eax, 4
        push ax
        and al, 15
        add al, '0'
        cmp al, '9'
        jbe .d
        add al, 'a' - '0' - 10
.d:     out 0xe9, al
        pop ax
        loop hex16
        mov al, ' '
        out 0xe9, al
        ret

report16:                       ; SI: name
        cld
        mov ax, R_CS
        mov ds, ax
        mov ss, ax
        mov sp, [REAL(base_sp)]
        call puts16
        mov al, ' '
        out 0xe9, al
        cmp byte [REAL(r_vec)], 0xff
        je .ok
        mov al, [REAL(r_vec)]
        shl eax, 24
        mov cx, 2
        call hex16
        mov al, '+'
        out 0xe9, al
        mov ax, [REAL(r_ip)]
        sub ax, [REAL(r_at)]
        shl eax, 16
        mov cx, 4
        call hex16
        cmp word [REAL(r_cs)], R_CS
        je .rest
        mov ax, [REAL(r_cs)]
        shl eax, 16
        mov cx, 4
        call hex16
        jmp .rest
.ok:    mov si, REAL(msg_ok)
        call puts16
.rest:  mov ax, [REAL(r_sp)]
        shl eax, 16
        mov cx, 4
        call hex16
        mov eax, [REAL(r_eax)]
        mov cx, 8
        call hex16
        mov ax, [REAL(r_flags)]
        and ax, SYSTEM_FLAGS
        shl eax, 16
        mov cx, 4
        call hex16
        mov al, 10
        out 0xe9, al
        mov bx, [REAL(r_next)]
        jmp bx
msg_ok: db "ok ", 0

; ---- one instruction ----------------------------------------------------------------------------
prepare:                        ; return address on the kernel's stack
        pop word [cs:REAL(r_next)]
        mov [cs:REAL(base_sp)], sp
        mov byte [cs:REAL(r_vec)], 0xff
        mov ax, R_DS
        mov ds, ax
        mov es, ax
        mov ax, R_SS
        mov ss, ax
        mov esp, 0x800
        push word 2
        popf
        mov eax, 0x11112222
        mov ebx, 0x100
        mov ecx, 4
        mov edx, 0xffff
        mov esi, 0xfffe
        mov edi, 0x200
        mov ebp, 0xffff
        jmp [cs:REAL(r_next)]
; R name, set-up, instruction; or BEGIN, lines of set-up, INSN, lines, END name. SS:SP of the instruction
; may be anything that takes an exception.
%macro BEGIN 0
%push r
        call prepare
        mov word [cs:REAL(r_out)], REAL(%$out)
        mov word [cs:REAL(r_at)], REAL(%$insn)
%endmacro
%macro INSN 0
%$insn:
%endmacro
%macro END 1
        mov [cs:REAL(r_eax)], eax
        mov [cs:REAL(r_sp)], sp
        mov sp, 0x700
        pushf
        pop word [cs:REAL(r_flags)]
%$out:  mov word [cs:REAL(r_next)], REAL(%$next)
        mov si, REAL(%$name)
        jmp near report16
%$name: db %1, 0
%$next:
%pop
%endmacro
%macro R 3
        BEGIN
        %2
        INSN
        %3
        END %1
%endmacro
%macro U 2
        R %1, nop, {%2}
%endmacro

tests16:
        ; ends of segments
        R "byte at ffff", nop, {mov al, [0xffff]}
        R "word at ffff", nop, {mov ax, [0xffff]}
        R "store at ffff", nop, {mov [0xffff], ax}
        R "dword at fffd", nop, {mov eax, [0xfffd]}
        R "dword at fffc", nop, {mov dword [0xfffc], eax}
        R "add at ffff", nop, {add [0xffff], ax}
        R "stack segment at ffff", nop, {mov ax, [bp]}
        R "bp + 1 wraps", nop, {mov ax, [bp + 1]}
        R "32-bit address 10000", {mov ebx, 0x10000}, {mov al, [ebx]}
        R "32-bit address in SS", {mov ebp, 0x10000}, {mov al, [ebp]}
        R "32-bit address -1", {mov ebx, 0xffffffff}, {mov al, [ebx + 0]}
        R "FS: 4 GiB", nop, {mov al, [fs:dword 0xfffff]}
        R "FS: 4 GiB after a load", {mov fs, dx}, {mov al, [fs:dword 0x10000]}
        R "lgs at fffd", nop, {lgs ax, [0xfffd]}
        R "les at fffc", nop, {les ax, [0xfffc]}
        R "bound at fffd", nop, {bound bx, [0xfffd]}
        R "bt before the segment", {mov ax, -1}, {bt [0], ax}
        R "bts wraps", {mov eax, -16}, {bts word [0xe], ax}
        R "xlat wraps", {mov bx, 0xffff}, {xlatb}
        R "fld at fffd", nop, {fld dword [0xfffd]}
        R "fld at ffff in SS", nop, {fld dword [bp]}
        ; the stack
        R "push at 0", {xor sp, sp}, {push ax}
        R "push dword at 2", {mov sp, 2}, {push eax}
        R "push dword at 4", {mov sp, 4}, {push eax}
        R "pop at ffff", {mov sp, 0xffff}, {pop ax}
        R "pop dword at fffe", {mov sp, 0xfffe}, {pop eax}
        R "pop word at fffe", {mov sp, 0xfffe}, {pop ax}
        R "pusha at 7", {mov sp, 7}, {pusha}
        R "pusha at 8", {mov sp, 8}, {pusha}
        R "popa at fff8", {mov sp, 0xfff8}, {popa}
        R "popa at fffd", {mov sp, 0xfffd}, {popa}
        R "pushad at 6", {mov sp, 6}, {pushad}
        R "pusha at 15", {mov sp, 15}, {pusha}
        R "pusha at 17", {mov sp, 17}, {pusha}
        R "pushad at 17", {mov sp, 17}, {pushad}
        R "ESP above 64 KiB", {mov esp, 0x10800}, {push eax}
        R "enter", {mov sp, 0x20}, {enter 0x10, 0}
        R "enter, 3 levels", {mov sp, 0x16}, {enter 4, 3}
        R "leave", {mov bp, 0x900}, {leave}
        R "push, 32 bits", {mov word [ss:0x7fe], 0x5a5a}, {push dword 0}
        R "pushf, 32 bits, at 2", {mov sp, 2}, {pushfd}
        BEGIN
        mov sp, 2
        INSN
        call dword %$insn
        END "call near at 2, 32 bits"
        ; not valid, or faults
        U "arpl", {db 0x63, 0xc0}
        U "lar", {db 0x0f, 0x02, 0xc0}
        U "lsl", {db 0x0f, 0x03, 0xc0}
        U "sldt", {db 0x0f, 0x00, 0xc0}
        U "str", {db 0x0f, 0x00, 0xc8}
        U "lldt", {db 0x0f, 0x00, 0xd0}
        U "ltr", {db 0x0f, 0x00, 0xd8}
        U "verr", {db 0x0f, 0x00, 0xe0}
        U "verw", {db 0x0f, 0x00, 0xe8}
        U "mov cs", {db 0x8e, 0xc8}
        U "mov segment 6", {db 0x8e, 0xf0}
        U "mov cr1", {db 0x0f, 0x20, 0xc8}
        U "ud2", {db 0x0f, 0x0b}
        U "lock mov", {db 0xf0, 0x89, 0x07}
        U "lock add register", {db 0xf0, 0x01, 0xc0}
        U "les register", {db 0xc4, 0xc0}
        U "lea register", {db 0x8d, 0xc0}
        U "lgdt register", {db 0x0f, 0x01, 0xd0}
        U "vex", {db 0xc4, 0xe1, 0x78, 0x77}
        R "vector beyond the IDT", {o32 lidt [cs:REAL(short_idtr)]}, {int 0x40}
        R "vector inside", nop, {int 0x12}
        o32 lidt [cs:REAL(real_idtr)]
        R "paging without protection", {mov eax, 0x80000000}, {mov cr0, eax}
        R "rdmsr", {mov ecx, 0x12345678}, {rdmsr}
        R "div by 0", {xor bx, bx}, {div bx}
        R "idiv overflow", {mov dx, 0x7fff}, {idiv bl}
        R "aam 0", nop, {aam 0}
        R "int3", nop, {int3}
        R "int1", nop, {db 0xf1}
        R "int 21h", nop, {int 0x21}
        R "into", {mov al, 0x7f}, {add al, 1}
        BEGIN
        mov al, 0x7f
        inc al
        INSN
        into
        END "into, taken"
        BEGIN
        INSN
        times 14 cs
        nop
        END "15 bytes"
        BEGIN
        INSN
        times 15 cs
        nop
        END "16 bytes"
        ; transfers
        R "far jump beyond 64 KiB", nop, {jmp dword R_CS:0x12345}
        R "near jump beyond 64 KiB", nop, {db 0x66, 0xe9, 0, 0, 1, 0}
        R "jump indirect beyond 64 KiB", {mov eax, 0x10000}, {jmp eax}
        R "call beyond 64 KiB", nop, {db 0x66, 0xe8, 0, 0, 1, 0}
        R "far call at 2", {mov sp, 2}, {call dword R_CS:0x100}
        R "ret beyond 64 KiB", {push dword 0x10000}, {o32 ret}
        BEGIN
        push dword R_CS
        push dword 0x10000
        INSN
        o32 retf
        END "retf beyond 64 KiB"
        BEGIN
        push dword 2
        push dword R_CS
        push dword 0x10000
        INSN
        iretd
        END "iretd beyond 64 KiB"
        R "retf at fffd", {mov sp, 0xfffd}, {retf}
        R "iret at fffb", {mov sp, 0xfffb}, {iret}
        R "loop, address size 32", {mov ecx, 0x10001}, {a32 loop $ + 3}
        R "jcxz, ECX is 10000", {mov ecx, 0x10000}, {jcxz $ + 3}
        R "jecxz, ECX is 10000", {mov ecx, 0x10000}, {jecxz $ + 3}
        R "off the end", {mov word [0xfffe], 0x9090}, {jmp R_DS:0xfffe}
        R "across the end", {mov byte [0xffff], 0xb0}, {jmp R_DS:0xffff}
        ; strings
        R "movsb wraps", nop, {rep movsb}
        R "movsw wraps", nop, {rep movsw}
        R "movsw at ffff", {inc si}, {rep movsw}
        R "lodsd at fffe", nop, {lodsd}
        R "stosw at ffff", {mov di, 0xffff}, {stosw}
        R "32-bit movsb off the end", nop, {a32 rep movsb}
        BEGIN
        INSN
        mov eax, esi
        shl eax, 16
        mov ax, cx
        END "ESI and ECX"
        BEGIN
        std
        mov si, 1
        INSN
        rep movsb
        END "movsb downwards"
        R "cmpsb, CX is 0", {xor cx, cx}, {repe cmpsb}
        ; flags
        R "popf", {push word 0x7ed7}, {popf}
        R "popf, 0", {push word 0}, {popf}
        R "popfd", {push dword 0x00247ed7}, {popfd}
        BEGIN
        push dword 0x003f0002
        popfd
        pushfd
        pop eax
        push dword 2
        popfd
        INSN
        END "flags above 16"
        BEGIN
        push dword 0x00247002
        push dword R_CS
        push dword REAL(%$behind)
        INSN
        iretd
        %$behind: pushfd
        pop eax
        END "iretd's flags"
        BEGIN
        push word 0x102
        INSN
        popf
        nop
        END "single step"
        BEGIN
        mov ax, R_SS
        push word 0x102
        INSN
        popf
        mov ss, ax
        nop
        nop
        END "single step over mov ss"
        BEGIN
        mov ax, 0xff00
        INSN
        sahf
        lahf
        END "sahf"
        ; sizes
        R "mov from segment", {mov eax, -1}, {mov eax, ds}
        R "smsw", {mov eax, -1}, {smsw ax}
        BEGIN
        INSN
        smsw eax
        and eax, 0x7fffffe1
        END "smsw, 32 bits"
        BEGIN
        mov dword [bx + 2], -1
        INSN
        o16 sgdt [bx]
        mov eax, [bx + 2]
        END "sgdt, 16 bits"
        BEGIN
        mov dword [bx + 2], 0xa5123456
        mov word [bx], 0x7f
        o16 lgdt [bx]
        INSN
        o32 sgdt [bx]
        mov eax, [bx + 2]
        END "lgdt, 16 bits"
        o32 lgdt [cs:REAL(gdtr)]
        R "bswap 32", nop, {bswap eax}
        R "imul", {mov eax, 0x80000001}, {imul eax, eax, 3}
        BEGIN
        push word 0x3202
        popf
        INSN
        END "iopl"
        ret

        align 4
ret_esp: dd 0
r_eax:  dd 0
r_out:  dw 0
r_at:   dw 0
r_ip:   dw 0
r_cs:   dw 0
r_sp:   dw 0
r_flags: dw 0
r_next: dw 0
base_sp: dw 0
r_vec:  db 0
        align 4
real_idtr: dw 0x3ff
        dd 0
short_idtr: dw 0x7f
        dd 0

        END_KERNEL
