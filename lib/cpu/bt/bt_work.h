/* SPDX-License-Identifier: BSD-2-Clause */
/* The translator at work on one block. */
#ifndef BT_WORK_H
#define BT_WORK_H

#include "cpu/bt/bt.h"
#include "cpu/bt/bt_int.h"

/* Where the arithmetic flags are (bt_int.h). ANY: at the start of a block that overwrites them
   before anyone can look. BOTH: unchanged copies in either place. */
enum bt_flags { BT_FL_ANY, BT_FL_HOST, BT_FL_MEM, BT_FL_BOTH };

#define BT_NO_REG 16u

/* Code that is rarely reached, put behind the block. */
struct bt_cold {
    size_t site;       /* rel32 to patch, or 0 */
    size_t resume;     /* where the hot code goes on (offset) */
    uint16_t insn;     /* index of the instruction to interpret */
    uint8_t kind;      /* enum bt_cold_kind */
    uint8_t s, t;      /* scratch registers to restore, or BT_NO_REG */
    uint64_t target;   /* LINK: linear address */
    uint8_t live;      /* flags are in EFLAGS: LINK before, INSN when it resumes */
};
enum bt_cold_kind { BT_COLD_INSN, BT_COLD_LINK };
#define BT_COLD_MAX (4 * BLK_MAX_INSNS)

struct bt_work {
    struct vmci_soft_cpu *sc;
    struct block *b;
    struct bt_trans *t;
    struct emit e;
    enum bt_flags flags;
    unsigned i; /* instruction */
    uint64_t la;
    bool failed;
    unsigned cold_count;
    struct bt_cold cold[BT_COLD_MAX];
};

/* Offsets from GS. */
#define GS_BT(field)  ((uint32_t)(offsetof(struct vmci_soft_cpu, bt) + offsetof(struct vmci_bt, field)))
#define GS_CPU(field) ((uint32_t)offsetof(struct vmci_cpu, field))
#define GS_SPILL(n)   (GS_BT(spill) + 8 * (n))
#define GS_GPR(n)     (GS_CPU(gpr) + 8 * (n))

/* bt_flags.c: moving the flags between their places, clobbering RAX's spill slot 2 only. */
void bt_flags_save(struct emit *e);
void bt_flags_restore(struct emit *e);
void bt_need_host(struct bt_work *w);
void bt_need_mem(struct bt_work *w);
/* EFLAGS is about to be clobbered by the translator's own code. */
void bt_clobber(struct bt_work *w);
/* How an instruction uses the flags. */
enum bt_fluse {
    BT_FU_NONE,  /* neither reads nor writes */
    BT_FU_WRITE, /* writes all six and reads none */
    BT_FU_RDWR,  /* reads some, or leaves some as they were */
    BT_FU_READ,
};
enum bt_fluse bt_flag_use(const struct vmci_insn *in);

/* bt_mem.c */
void bt_cold_insn(struct bt_work *w, size_t site, unsigned s, unsigned t);
/* General registers that the instruction names or implies. */
uint32_t bt_regs_used(const struct vmci_insn *in);
/*
 * Check an access and leave the operand's host address in register s. Spills s and t first; the
 * caller reloads them (bt_reload) when it is done. Flags are clobbered (in MEM).
 */
enum bt_acc { BT_ACC_READ, BT_ACC_WRITE };
void bt_pick_scratch(const struct bt_work *w, uint32_t used, unsigned *s, unsigned *t);
void bt_check_ea(struct bt_work *w, const struct vmci_insn *in, enum bt_acc acc, unsigned bytes,
                 unsigned align, unsigned s, unsigned t);
void bt_check_stack(struct bt_work *w, int32_t disp, enum bt_acc acc, unsigned bytes, unsigned s,
                    unsigned t);
void bt_reload(struct bt_work *w, unsigned s, unsigned t);
/* The instruction itself with its memory operand at [s]. */
void bt_emit_rm(struct bt_work *w, const struct vmci_insn *in, unsigned s);
/* The instruction's bytes as they are. */
void bt_emit_copy(struct bt_work *w, const struct vmci_insn *in);

/* bt_branch.c: instructions that end a block. false: not translated. */
bool bt_branch(struct bt_work *w, const struct vmci_insn *in);
/* Go on at target after n instructions of this block were retired. */
void bt_exit_direct(struct bt_work *w, uint64_t target, unsigned n, uint64_t from);

#endif
