/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pending x87 errors: #MF, or with CR0.NE clear the PC's way of reporting them (SDM 1 appendix D).
 * A waiting instruction asserts FERR#; unless the machine answers with IGNNE#, the processor
 * freezes in front of it until an interrupt arrives.
 */
#include "fp_int.h"

/* With IGNNE# the instruction runs as if its exceptions were masked. */
static void ignore(struct vmci_cpu *cpu)
{
    struct vmci_fp *fp = cpu->fp;

    vmci_fp_park(cpu);
    fp->ignored = true;
    fp->ignored_fcw = fp->area.fcw;
    fp->area.fcw |= VMCI_FCW_MASKS;
    vmci_fp_refresh(fp);
}

void vmci_fp_unignore(struct vmci_cpu *cpu, const struct vmci_thunk *t)
{
    struct vmci_fp *fp = cpu->fp;
    unsigned special = t != NULL ? t->form.special : VMCI_FS_PLAIN;

    fp->ignored = false;
    vmci_fp_park(cpu);
    if (special != VMCI_FS_FLDCW && special != VMCI_FS_FLDENV && special != VMCI_FS_FRSTOR)
        fp->area.fcw = fp->ignored_fcw;
    vmci_fp_refresh(fp);
}

static bool signal_ferr(struct vmci_cpu *cpu, bool on)
{
    vmci_fp_park(cpu);
    cpu->fp->ferr = on;
    return cpu->io->ferr(cpu->io->ctx, on);
}

static int pending_error(struct vmci_cpu *cpu)
{
    if ((cpu->cr0 & VMC_CR0_NE) != 0 || cpu->io == NULL || cpu->io->ferr == NULL)
        return vmci_raise(cpu, VMC_VEC_MF);
    if (signal_ferr(cpu, true)) {
        ignore(cpu);
        return 0;
    }
    cpu->activity = VMC_RUN_HALTED;
    return VMCI_AGAIN;
}

int vmci_fp_check_mf(struct vmci_cpu *cpu)
{
    struct vmci_fp *fp = cpu->fp;

    if (fp->x87_check && (vmci_fp_run(fp, fp->fnstsw, NULL, 0) & VMCI_FSW_ES) != 0)
        return pending_error(cpu);
    if (unlikely(fp->ferr))
        (void)signal_ferr(cpu, false);
    return 0;
}
