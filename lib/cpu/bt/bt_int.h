/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Binary translation of 64-bit guest code on the same ISA.
 *
 * Guest registers live in the host registers of the same name, RSP included; GS addresses the vCPU.
 * Instructions are copied; only memory operands, stack operations and control flow are rewritten.
 * What is not translated, and every access that misses the software TLB, is executed by the
 * interpreter for that one instruction, so there is one truth about each instruction.
 *
 * The arithmetic flags are in one of two places, known at each point of the translation:
 *   HOST  in EFLAGS
 *   MEM   in bt.flags: EFLAGS may be clobbered
 * Every point where the guest's state can be observed has them in MEM.
 */
#ifndef BT_INT_H
#define BT_INT_H

#include "cpu/bt/emit.h"
#include "cpu/interp/soft_int.h"

struct bt_trans;

/* A jump that leads from one translation straight into another of the same page. */
struct bt_link {
    struct bt_link *next; /* of the target's incoming links */
    uint8_t *site;        /* its rel32, writable view */
    const uint8_t *site_rx;
    const uint8_t *stub;  /* where it leads while not linked */
    uint64_t target_la;
    struct bt_trans *from;
    bool live; /* arrives with the flags in EFLAGS */
};

/* The translation of one block, as mapped at one address. */
struct bt_trans {
    const uint8_t *mem_entry;  /* flags in memory */
    const uint8_t *live_entry; /* flags in EFLAGS */
    uint64_t la;
    struct block *blk;
    struct bt_trans *next; /* of the same block */
    struct bt_link *in;
    uint8_t mode; /* enum vmci_tlb_mode that is baked in */
    uint8_t fp;   /* BT_FP_* that it needs */
};

#define BT_FP_SSE 1u /* SSE state live, no unmasked exceptions, usable */
#define BT_FP_AVX 2u

#define BT_CODE_BYTES (32u << 20)
#define BT_ARENA_BYTES (8u << 20)
/* More than the longest translation of one block. */
#define BT_BLOCK_MAX (32u << 10)
/* Runs of a block in the interpreter before it is translated. */
#define BT_HOT 4
/* Instructions between two looks at the requests of other threads. */
#define BT_SLICE 4000
/* Instructions that may run past the budget: jumps forward within a page are not checked. */
#define BT_MARGIN VMC_PAGE_SIZE

/* Why translated code was left. */
enum bt_leave {
    BT_LEAVE_LOOKUP, /* at cpu->rip, which has no translation that is known to be valid */
    BT_LEAVE_BUDGET, /* at cpu->rip: the slice is used up */
    BT_LEAVE_INSN,   /* after (or in) cpu->cur, which the interpreter executed */
    BT_LEAVE_FP,     /* at cpu->rip: FP state is not usable for native code now */
};

/* bt_glue.c: fixed code at the start of the code memory. */
int bt_make_glue(struct vmci_soft_cpu *sc);

/* bt_translate.c. NULL: it cannot be translated, or there is no room. */
struct bt_trans *bt_translate(struct vmci_soft_cpu *sc, struct block *b);

/* C side of the glue. */
uint64_t bt_c_insn(struct vmci_soft_cpu *sc);
uint64_t bt_c_link(struct vmci_soft_cpu *sc);
uint64_t bt_c_fp(struct vmci_soft_cpu *sc);

#endif
