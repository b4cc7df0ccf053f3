/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * A GDB remote stub without transport: bytes in, bytes out, and what to do with the VM.
 *
 * The embedder owns the connection and the vCPU threads. While the VM runs only an interrupt
 * (0x03) is acted on; everything else is answered while the VM is quiesced.
 * Protocol: "Debugging with GDB", appendix E.
 */
#ifndef VMCORE_GDB_H
#define VMCORE_GDB_H

#include <vmcore/vm.h>

VMC_BEGIN_DECLS

struct vmc_gdb;

/** What the debugger asks of the embedder. */
enum vmc_gdb_action {
    VMC_GDB_NONE,      /**< stay as you are */
    VMC_GDB_CONTINUE,  /**< let every vCPU run */
    VMC_GDB_STEP,      /**< run only vCPU vmc_gdb_step_vcpu for one instruction */
    VMC_GDB_INTERRUPT, /**< pause, then call vmc_gdb_stopped */
    VMC_GDB_DETACH,    /**< breakpoints are gone: let it run and close the connection */
    VMC_GDB_KILL,      /**< end the VM */
};

/**
 * Describe a 32-bit processor: what GDB expects when it debugs a 32-bit program. Otherwise it is a
 * 64-bit one, in whatever mode it runs. The description cannot change during a session.
 */
#define VMC_GDB_I386 1u
struct vmc_gdb_config {
    uint32_t size;
    uint32_t vcpus;
    struct vmc_vm *vm; /**< borrowed */
    /** Send bytes to the debugger; never blocks for long. */
    void (*send)(void *ctx, const void *data, size_t bytes);
    void *ctx;
    uint32_t flags; /**< VMC_GDB_* */
    uint32_t pad;
};

/** A stub for cfg->vm, not connected yet. *pf is borrowed. VMC_EINVAL, VMC_ENOMEM. */
VMC_API VMC_MUST_CHECK int vmc_gdb_create(const struct vmc_platform *pf,
                                          const struct vmc_gdb_config *cfg, struct vmc_gdb **out,
                                          struct vmc_error *err);
/** Free it; breakpoints that a debugger has set stay as they are. NULL is allowed. */
VMC_API void vmc_gdb_destroy(struct vmc_gdb *g);
/**
 * A new connection, or the end of one without a word: protocol state starts anew, and breakpoints of
 * the debugger before are gone. VM quiesced.
 */
VMC_API void vmc_gdb_connected(struct vmc_gdb *g);
/**
 * Bytes from the debugger. Consumes up to the end of the packet that needs an action and says in
 * *used how many; call again with the rest. VM quiesced, unless running (see above).
 */
VMC_API enum vmc_gdb_action vmc_gdb_input(struct vmc_gdb *g, const void *data, size_t bytes,
                                          size_t *used);
/** The VM stopped: tell the debugger. exit NULL: because of an interrupt. VM quiesced. */
VMC_API void vmc_gdb_stopped(struct vmc_gdb *g, uint32_t vcpu, const struct vmc_exit *exit);
/** Which vCPU VMC_GDB_STEP means. */
VMC_API uint32_t vmc_gdb_step_vcpu(const struct vmc_gdb *g);

VMC_END_DECLS

#endif
