/* SPDX-License-Identifier: BSD-2-Clause */
/* The translator as the engine sees it. */
#ifndef BT_H
#define BT_H

#include "base/base_int.h"

struct vmci_soft_cpu;
struct block;
struct bt_trans;
struct bt_link;
struct bt_work;

/* Per vCPU; embedded in struct vmci_soft_cpu so that translated code reaches it through GS. */
struct vmci_bt {
    uint64_t spill[3]; /* scratch registers' guest values */
    uint64_t flags;    /* OF in bit 0, SETcc-style; LAHF's image in bits 15:8 */
    int64_t budget;    /* instructions left; below 0: leave */
    uint64_t slice_end; /* cpu.retired when the budget reaches 0 */
    uint64_t host_rsp;
    uint64_t host_gs;
    uint64_t resume;  /* host address to go on at */
    uint64_t target;
    struct bt_link *link; /* the link stub that was taken */
    struct bt_trans *cur; /* translation that called for help */
    uint8_t fp_ready;     /* BT_FP_*: FP instructions may run natively */
    bool enabled;
    bool pass; /* let the interpreter run the next block */
    bool full; /* code memory is used up: the engine flushes */

    uint8_t *rw;
    const uint8_t *rx;
    size_t used, glue;
    uint8_t *arena;
    size_t arena_used;
    const uint8_t *enter, *leave_lookup, *leave_budget, *call_insn, *call_link, *call_fp;
    const uint8_t *dispatch[3]; /* by TLB mode */

    struct bt_work *work;
    uint64_t lacks; /* 1 << VMCI_FEAT_*: of general-register instructions: only interpreted */
    int rc; /* of the instruction that ended a run */
    uint64_t st_translated, st_flushes, st_calls, st_links, st_lookups, st_slices;
};

/* Make code memory. VMC_ENOTSUP: this host or platform cannot; the interpreter does it all. */
int bt_init(struct vmci_soft_cpu *sc);
void bt_fini(struct vmci_soft_cpu *sc);
/* Forget every translation (the block cache was emptied, or code memory is full). */
void bt_flush(struct vmci_soft_cpu *sc);
/* The block dies: nothing may reach its translations any more. */
void bt_kill(struct vmci_soft_cpu *sc, struct block *b);

/*
 * Run translated code from block b, which is valid at cpu->rip, for at most limit instructions.
 * Returns enum bt_leave. BT_LEAVE_INSN: as if the interpreter's loop had just executed cpu->cur of
 * block cpu->blk, with result bt.rc.
 */
int bt_run(struct vmci_soft_cpu *sc, struct block *b, uint64_t limit);
/* b has a translation for now, or gets one; NULL: let the interpreter do it. */
struct bt_trans *bt_get(struct vmci_soft_cpu *sc, struct block *b);

#endif
