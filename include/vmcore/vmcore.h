/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Everything an embedder of the machine needs, in one include.
 */
#ifndef VMCORE_VMCORE_H
#define VMCORE_VMCORE_H

#include <vmcore/boot.h>
#include <vmcore/bus.h>
#include <vmcore/cpuid.h>
#include <vmcore/device.h>
#include <vmcore/devices.h>
#include <vmcore/engine.h>
#include <vmcore/exit.h>
#include <vmcore/io.h>
#include <vmcore/irq.h>
#include <vmcore/log.h>
#include <vmcore/memory.h>
#include <vmcore/platform.h>
#include <vmcore/paging.h>
#include <vmcore/pc.h>
#include <vmcore/pci.h>
#include <vmcore/status.h>
#include <vmcore/timer.h>
#include <vmcore/types.h>
#include <vmcore/virtio.h>
#include <vmcore/virtio_balloon.h>
#include <vmcore/virtio_blk.h>
#include <vmcore/virtio_console.h>
#include <vmcore/virtio_net.h>
#include <vmcore/virtio_rng.h>
#include <vmcore/vm.h>
#include <vmcore/vmware.h>
#include <vmcore/x86.h>
#include <vmcore/x86_state.h>

#endif
