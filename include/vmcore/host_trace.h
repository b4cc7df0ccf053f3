/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * What the vCPUs of VMs do, as Chrome trace events (JSON), which ui.perfetto.dev opens. Each VM is
 * a process there and each vCPU a thread of it. Library: vmcore_host.
 */
#ifndef VMCORE_HOST_TRACE_H
#define VMCORE_HOST_TRACE_H

#include <vmcore/vm.h>

VMC_BEGIN_DECLS

struct vmc_host_trace;

/** Create the file. VMC_EIO, VMC_ENOMEM. */
VMC_API VMC_MUST_CHECK int vmc_host_trace_open(const char *path, struct vmc_host_trace **out,
                                               struct vmc_error *err);
/**
 * Record the vCPUs of vm, which must exist, under a name: it takes the VM's trace hook. While
 * quiesced. VMC_ENOMEM.
 */
VMC_API VMC_MUST_CHECK int vmc_host_trace_vm(struct vmc_host_trace *t, struct vmc_vm *vm,
                                             const char *name);
/**
 * End the file, and say whether all of it could be written: VMC_EIO. The VMs must be quiesced, or
 * destroyed. NULL is allowed.
 */
VMC_API VMC_MUST_CHECK int vmc_host_trace_close(struct vmc_host_trace *t);

VMC_END_DECLS

#endif
