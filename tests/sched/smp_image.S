/* SPDX-License-Identifier: BSD-2-Clause */
        .section .rodata
        .globl smp_image, smp_image_end
smp_image:
        .incbin SMP_IMAGE
smp_image_end:
        .section .note.GNU-stack, "", @progbits
