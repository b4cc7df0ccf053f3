/* SPDX-License-Identifier: BSD-2-Clause */
/* Small things the files of this backend share. */
#ifndef HOST_PRIV_H
#define HOST_PRIV_H

#include <vmcore/status.h>

#include <stddef.h>

/* Fill err (may be NULL), with host_code an errno or 0, and return code. */
int vmci_host_error(struct vmc_error *err, int code, int host_code, const char *site,
                    const char *fmt, ...) VMC_PRINTF(5, 6);
/* The status that fits an errno. */
int vmci_host_status(int host_errno);

#endif
