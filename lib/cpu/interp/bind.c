/* SPDX-License-Identifier: BSD-2-Clause */
/* From a decoded instruction to its executor. */
#include "cpu/interp/exec.h"

void vmci_bind(struct vmci_insn *in, unsigned bits)
{
    static vmci_exec_fn (*const families[])(const struct vmci_insn *) = {
        alu_handler,  mov_handler,   stack_handler,  branch_handler, shift_handler,
        bits_handler, mul_handler,   string_handler, system_handler,
    };

    (void)bits;
    in->exec = NULL;
    for (unsigned i = 0; in->exec == NULL && i < VMCI_ARRAY_SIZE(families); i++)
        in->exec = families[i](in);
    if (in->exec == NULL)
        in->exec = exec_ud;
}
