/* SPDX-License-Identifier: BSD-2-Clause */
/* Offsets in the frames of hw.h, for assembly; checked in hw_ops.c. */
#ifndef FRAME_OFFSETS_H
#define FRAME_OFFSETS_H

#define F_GPR   0
#define F_STOP  8
/* VT-x */
#define F_RIP      16
#define F_RFLAGS   24
#define F_QUAL     32
#define F_REASON   40
#define F_LEN      44
#define F_INTR     48
#define F_FLAGS    52
#define F_TIMER    56
#define F_GPA      64
#define F_IDT      72
#define F_POSTED   80
/* SVM */
#define F_VMCB      16
#define F_HOST_VMCB 24
#define F_SVM_FLAGS 32

#define HW_LAUNCHED  0x01
#define HW_TIMER     0x02
#define HW_CLEAR_CPU 0x04
#define HW_FILL_RSB  0x08
#define HW_FLUSH_L1D 0x10
#define HW_SET_IBRS  0x20
#define HW_POSTED    0x40

#define RC_EXITED    0
#define RC_STOPPED   1
#define RC_FAIL      2
#define RC_FAIL_VMCS 3

#endif
