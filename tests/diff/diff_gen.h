/* SPDX-License-Identifier: BSD-2-Clause */
/* Between the generator and the comparison. */
#ifndef DIFF_GEN_H
#define DIFF_GEN_H

#include "cpu/decode/insn.h"
#include <stdint.h>

/* Arithmetic flags that an instruction reads, defines, and leaves undefined. */
struct diff_flag_use {
    uint16_t used, set, undef;
};
extern const struct diff_flag_use diff_flag_uses[VMCI_OP_COUNT];

#endif
