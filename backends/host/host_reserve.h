/* SPDX-License-Identifier: BSD-2-Clause */
/* SCSI-3 persistent reservations (SPC-4, 5.13): every registered path may write, nobody else. */
#ifndef HOST_RESERVE_H
#define HOST_RESERVE_H

#include "host_caw.h"

/* VMC_ENOTSUP with *why: the disk cannot, or would forget it with its power. */
int vmci_reserve_offered(struct vmci_caw *c, const char **why);
/*
 * Register this path under a key, whatever it was registered under before, and reserve the disk for
 * those that are. VMC_EBUSY with *why: it is used by other software.
 */
int vmci_reserve_join(struct vmci_caw *c, uint64_t key, const char **why);
/* VMC_EFENCED: the key is not registered, or the disk is not reserved, any more. */
int vmci_reserve_check(struct vmci_caw *c, uint64_t key);
/* Remove another key and abort what its path had asked for. VMC_EFENCED: our own is gone. */
int vmci_reserve_evict(struct vmci_caw *c, uint64_t key, uint64_t whom);
int vmci_reserve_leave(struct vmci_caw *c, uint64_t key);

#endif
