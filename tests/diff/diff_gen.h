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
struct diff_gen;
struct diff_case;
/* Decode the case's instruction at rip; false: there is none. */
bool diff_insn_at(struct diff_gen *g, const struct diff_case *c, uint64_t rip,
                  struct vmci_insn *in);

extern const struct diff_flag_use diff_flag_uses[VMCI_OP_COUNT];

#endif
