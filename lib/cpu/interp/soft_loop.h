/* SPDX-License-Identifier: BSD-2-Clause */
/* Between the engine's operations and the run loop. */
#ifndef INTERP_SOFT_LOOP_H
#define INTERP_SOFT_LOOP_H

#include "cpu/interp/soft_int.h"

/* Execute until there is something to report in cpu.exit. Limits are in sc. */
int soft_loop(struct vmci_soft_cpu *sc);
/* Log what a processor looked like as it shut down, and why. */
void soft_dump_shutdown(struct vmci_soft_cpu *sc);

#endif
