/* SPDX-License-Identifier: BSD-2-Clause */
/* The translator at work on one block. */
#ifndef BT_WORK_H
#define BT_WORK_H

#include "cpu/bt/bt.h"
#include "cpu/bt/bt_int.h"

/* Code that is rarely reached, put behind the block. */
enum bt_cold_kind {
    BT_COLD_INSN,   /* let the interpreter execute instruction i */
    BT_COLD_LINK,   /* go to target, for the first time */
    BT_COLD_BUDGET, /* the slice is used up, before or after instruction i */
};
/* Where the guest's RCX is. */
enum bt_rcx { BT_RCX_HOME, BT_RCX_X, BT_RCX_S, BT_RCX_MEM };

struct bt_cold {
    size_t site;     /* rel32 to patch */
    size_t resume;   /* where the hot code goes on (offset) */
    uint64_t target; /* LINK: linear address; BUDGET: where to go on */
    uint16_t insn;   /* index of the instruction */
    uint8_t kind;    /* enum bt_cold_kind */
    uint8_t rcx;     /* enum bt_rcx */
    bool counted;
    bool far;      /* LINK: to another page: by the jump table */
    uint32_t copy; /* BUDGET: host instruction to execute first: offset and length */
    uint8_t copy_len;
};
#define BT_COLD_MAX (6 * BLK_MAX_INSNS)

struct bt_work {
    struct vmci_soft_cpu *sc;
    struct block *b;
    struct bt_trans *t;
    struct emit e;
    unsigned i; /* instruction */
    unsigned n; /* instructions to translate */
    uint64_t la;
    unsigned x, s; /* scratch registers */
    bool counted;  /* the budget was charged */
    bool check;    /* ... and must be looked at */
    bool failed;
    int budget_cold; /* BUDGET entry that waits for its host instruction; or -1 */
    unsigned cold_count;
    struct bt_cold cold[BT_COLD_MAX];
};

/* Offsets from GS. */
#define GS_BT(field)                                                                               \
    ((uint32_t)(offsetof(struct vmci_soft_cpu, bt) + offsetof(struct vmci_bt, field)))
#define GS_CPU(field) ((uint32_t)offsetof(struct vmci_cpu, field))
#define GS_SPILL(n)   (GS_BT(spill) + 8 * (n))
#define GS_GPR(n)     (GS_CPU(gpr) + 8 * (n))

/* bt_flags.c: moving the flags between EFLAGS and bt.flags, by way of RAX. */
void bt_flags_save(struct emit *e);
void bt_flags_restore(struct emit *e);
/* How an instruction uses the flags. */
enum bt_fluse {
    BT_FU_NONE,  /* neither reads nor writes */
    BT_FU_WRITE, /* writes all six and reads none */
    BT_FU_RDWR,  /* reads some, or leaves some as they were */
    BT_FU_READ,
};
enum bt_fluse bt_flag_use(const struct vmci_insn *in);

/* bt_regs.c */
/* General registers that the instruction names or implies. */
uint32_t bt_regs_used(const struct vmci_insn *in);
/* Choose w->n and the scratch set. */
void bt_pick_set(struct bt_work *w);
/* From one scratch set to another. */
void bt_exchange(struct emit *e, uint16_t from, uint16_t to);

/* bt_mem.c */
enum bt_acc { BT_ACC_READ, BT_ACC_WRITE };
/*
 * Check an access to in's memory operand; *out is what to encode instead of it, for one instruction
 * that leaves w->s and w->x alone. Flags stay. false: not possible here.
 */
bool bt_check_ea(struct bt_work *w, const struct vmci_insn *in, enum bt_acc acc, unsigned bytes,
                 unsigned align, struct em_addr *out);
/* The same for [RSP + disp]. */
bool bt_check_stack(struct bt_work *w, int32_t disp, enum bt_acc acc, unsigned bytes,
                    struct em_addr *out);
/* The instruction itself with its memory operand at *a. */
void bt_emit_rm(struct bt_work *w, const struct vmci_insn *in, const struct em_addr *a);
/* The instruction's bytes as they are. */
void bt_emit_copy(struct bt_work *w, const struct vmci_insn *in);

/* bt_budget.c */
/* In front of the host instruction of one that overwrites the flags; and behind it. */
void bt_count_before(struct bt_work *w, enum bt_fluse use);
void bt_count_after(struct bt_work *w, size_t at);
/* The block ends with instruction w->i, or before it if it is beyond the last one. */
void bt_count_end(struct bt_work *w);

/* Cold code. */
struct bt_cold *bt_cold(struct bt_work *w, enum bt_cold_kind kind, size_t site);
void bt_cold_insn(struct bt_work *w, size_t site, enum bt_rcx rcx);
void bt_emit_cold(struct bt_work *w);

/* bt_branch.c: instructions that end a block. false: not translated. */
bool bt_branch(struct bt_work *w, const struct vmci_insn *in);
/* Does the branch need a look at the budget? */
bool bt_branch_checks(const struct bt_work *w, const struct vmci_insn *in);
/* Go on at target; the budget was charged. */
void bt_exit_direct(struct bt_work *w, uint64_t target);

#endif
