/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_SNAPSHOT_H
#define BASE_SNAPSHOT_H

/* A device's function that saves or restores state: nothing in the bare-metal image does either. */
#ifdef VMCI_SMALL
#define VMCI_SNAPSHOT(fn) (0 ? (fn) : NULL)
#else
#define VMCI_SNAPSHOT(fn) (fn)
#endif

#endif
