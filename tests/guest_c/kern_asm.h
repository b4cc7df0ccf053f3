/* SPDX-License-Identifier: BSD-2-Clause */
/* Addresses and selectors of the C test kernels. */
#ifndef KERN_ASM_H
#define KERN_ASM_H

#define ROM_BYTES  0x20000
#define RESET_OFF  0xf000  /* of the start-up code in the segment F000h, or FFFF0000h */
#define PT_BASE    0x10000 /* boot page tables: 6 pages, and one with 5 levels */
#define STACK_TOP  0x80000
#define TSS_STACK  0x90000
#define USER_AREA  0x400000 /* 2 MiB of user pages */
#define USER_STACK (USER_AREA + 0x1ff000)

#define SEL_CODE32  0x08
#define SEL_DATA    0x10
#define SEL_CODE64  0x18
#define SEL_UCODE32 0x23
#define SEL_UDATA   0x2b
#define SEL_UCODE64 0x33
#define SEL_TSS     0x38
#define SEL_LDT     0x48
#define SEL_FREE    0x58 /* the first of 20 */

#endif
