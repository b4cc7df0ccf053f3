/* SPDX-License-Identifier: BSD-2-Clause */
/* Confinement of the process before guest code runs. */
#ifndef SANDBOX_H
#define SANDBOX_H

#include <stdbool.h>

struct sandbox_needs {
    bool network;     /* user-mode networking opens sockets */
    bool kvm;         /* ioctls on KVM descriptors */
    bool paging;      /* page faults of KVM guests are answered (userfaultfd) */
    bool volumes;     /* disks on volumes: locks on them may be SCSI commands */
};

/*
 * Leave every thread of the process with only the system calls that running a guest needs; all
 * others fail with EPERM. 0, or -1 with a message on standard error.
 */
int sandbox_enter(const struct sandbox_needs *needs);

#endif
