/* SPDX-License-Identifier: BSD-2-Clause */
/* Between the engine's operations and the run loop. */
#ifndef INTERP_SOFT_LOOP_H
#define INTERP_SOFT_LOOP_H

#include "cpu/interp/soft_int.h"

/* Execute until there is something to report in cpu.exit. Limits are in sc. */
int soft_loop(struct vmci_soft_cpu *sc);
/*
 * Translated code had cpu->cur executed, which gave rc and ended its block, or failed. Delivers an
 * exception and makes cpu->rip and cpu->retired right. 0: execution goes on at cpu->rip, and the
 * shadow of STI and RF last for the next instruction; SOFT_LOOK: the boundary must be looked at
 * first; VMCI_EXIT.
 */
#define SOFT_LOOK 1
int soft_settle(struct vmci_soft_cpu *sc, int rc);
/* Translated code had an instruction executed that ends its block. May the next one follow at once?
 */
bool soft_passes(struct vmci_soft_cpu *sc);
/* Log what a processor looked like as it shut down, and why. */
void soft_dump_shutdown(struct vmci_soft_cpu *sc);

#endif
