/* SPDX-License-Identifier: BSD-2-Clause */
/* The state of a processor after RESET (SDM 3A table 10-1). */
#include "base/base_int.h"
#include <vmcore/x86.h>
#include <vmcore/x86_state.h>

#define XSAVE_MIN_BYTES 576u /* legacy area and header */
#define XSAVE_FCW       0
#define XSAVE_FTW       4
#define XSAVE_MXCSR     24
#define XSAVE_BV        512

#define PAT_RESET 0x0007040600070406ull

static void reset_segments(struct vmc_x86_state *st)
{
    for (unsigned i = 0; i < VMC_SREGS; i++) {
        st->seg[i].limit = 0xffff;
        st->seg[i].attr = VMC_SEG_P | VMC_SEG_S | 3; /* data, writable, accessed */
    }
    st->seg[VMC_CS].selector = 0xf000;
    st->seg[VMC_CS].base = 0xffff0000u;
    st->seg[VMC_CS].attr = VMC_SEG_P | VMC_SEG_S | 0xb; /* code, readable, accessed */
    st->seg[VMC_LDTR].attr = VMC_SEG_P | 2;
    st->seg[VMC_TR].attr = VMC_SEG_P | 0xb;
    st->gdtr.limit = 0xffff;
    st->idtr.limit = 0xffff;
}

void vmc_x86_state_reset(struct vmc_x86_state *st)
{
    memset(st, 0, sizeof(*st));
    st->rip = 0xfff0;
    st->rflags = VMC_FLAG_1;
    reset_segments(st);
    st->cr0 = VMC_CR0_CD | VMC_CR0_NW | VMC_CR0_ET;
    st->xcr0 = VMC_XCR0_X87;
    st->dr6 = VMC_DR6_FIXED;
    st->dr7 = VMC_DR7_FIXED;
    st->msr.pat = PAT_RESET;
    st->msr.misc_enable = 1; /* fast strings */
    st->msr.apic_base = VMC_APIC_DEFAULT_GPA | VMC_APIC_BASE_ENABLE;
    st->injected.type = VMC_EV_NONE;
    st->activity = VMC_RUN_RUNNING;
    st->sipi_vector = UINT32_MAX;
    st->xsave_bytes = XSAVE_MIN_BYTES;
    vmci_st_le16(st->xsave + XSAVE_FCW, 0x40);
    st->xsave[XSAVE_FTW] = 0xff; /* FTW 5555H: every register holds zero */
    vmci_st_le32(st->xsave + XSAVE_MXCSR, 0x1f80);
    vmci_st_le64(st->xsave + XSAVE_BV, VMC_XCR0_X87 | 2);
}
