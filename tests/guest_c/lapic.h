/* SPDX-License-Identifier: BSD-2-Clause */
/* Where the registers of the local APIC are (SDM 3A table 10-1). */
#ifndef LAPIC_H
#define LAPIC_H

#define LAPIC 0xfee00000ul
enum {
    ID = 0x20,
    VERSION = 0x30,
    TPR = 0x80,
    PPR = 0xa0,
    EOI = 0xb0,
    LDR = 0xd0,
    DFR = 0xe0,
    SVR = 0xf0,
    ISR = 0x100,
    TMR = 0x180,
    IRR = 0x200,
    ESR = 0x280,
    ICR = 0x300,
    ICR2 = 0x310,
    LVTT = 0x320,
    LVT0 = 0x350,
    LVT1 = 0x360,
    LVTE = 0x370,
    TMICT = 0x380,
    TMCCT = 0x390,
    TDCR = 0x3e0,
};
#define MASKED 0x10000u /* in an LVT */

#endif
