/* SPDX-License-Identifier: BSD-2-Clause */
/* From a decoded instruction to its executor. */
#include "cpu/interp/exec.h"

/*
 * A VEX prefix is #UD in real and virtual-8086 mode. Blocks are shared by all modes of their width,
 * so the mode is looked at when the instruction is executed.
 */
static EXEC(exec_vex)
{
    if (!vmci_prot_mode(cpu) || vmci_v86_mode(cpu))
        return vmci_raise(cpu, VMC_VEC_UD);
    return ((vmci_exec_fn)(uintptr_t)in->aux)(cpu, in);
}

void vmci_bind(struct vmci_insn *in, unsigned bits)
{
    static vmci_exec_fn (*const families[])(const struct vmci_insn *) = {
        alu_handler,   width_handler, mov_handler, stack_handler,  branch_handler,
        shift_handler, bits_handler,  mul_handler, string_handler, system_handler,
    };

    in->exec = NULL;
    for (unsigned i = 0; in->exec == NULL && i < VMCI_ARRAY_SIZE(families); i++)
        in->exec = families[i](in);
    if (in->exec == NULL)
        in->exec = exec_ud;
    if ((in->flags & VMCI_IF_VEX) != 0 && bits != 64) {
        in->aux = (void *)(uintptr_t)in->exec;
        in->exec = exec_vex;
    }
}
