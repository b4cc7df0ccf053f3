/* SPDX-License-Identifier: BSD-2-Clause */
/* The translator at work on one block. */
#ifndef BT_WORK_H
#define BT_WORK_H

#include "cpu/bt/bt.h"
#include "cpu/bt/bt_int.h"

/* Instructions of a trace: more than a block has only where short loops are unrolled. */
#define BT_TRACE_MAX 384
/* Runs of a block that tell something if all went the same way. */
#define BT_UNANIMOUS 4u

/* Code that is rarely reached, put behind the block. */
enum bt_cold_kind {
    BT_COLD_INSN,   /* let the interpreter execute instruction i */
    BT_COLD_REFILL, /* a group in a loop has come to another page */
    BT_COLD_STAY,   /* the second copy of a loop cannot be entered */
    BT_COLD_SHORT,  /* ... unless the budget is all that is missing */
    BT_COLD_STRIP,  /* the count of its rounds is used up */
    BT_COLD_LINK,   /* go to target, for the first time */
    BT_COLD_EXIT,   /* leave the trace by a branch in its middle, to target */
    BT_COLD_AWAY,   /* ... by an indirect jump, to where memory or a register says */
    BT_COLD_BUDGET, /* the slice is used up, before or after instruction i */
};
/* Where the guest's RCX is. */
enum bt_rcx { BT_RCX_HOME, BT_RCX_X, BT_RCX_S, BT_RCX_K };

/* Accesses that are checked together (bt_group.c). */
struct bt_group {
    uint8_t reg, index, scale; /* as in an address; EM_NONE */
    uint16_t root[2];          /* the values of reg and index, by number; bt_group.c */
    bool later;                /* ... they are made in the trace */
    uint8_t host;              /* holds the page's addend; EM_NONE: each access for itself */
    uint8_t slot;              /* of bt.keep */
    bool write;
    bool kept;      /* host is the group's wherever the trace is */
    bool mem;       /* the addend is in bt.keep, but where the second copy of a loop has host */
    uint8_t tag;    /* in a loop: holds the page's TLB tag; EM_NONE */
    uint8_t hoist;  /* in a loop: enum bt_hoist */
    bool fixed;     /* ... reg does not change, and index is another */
    bool biased;    /* ... so reg has been added to tag and host */
    bool steady;    /* ... the address moves by a multiple of align, if at all */
    int32_t stride; /* ... how far the address moves each time round */
    bool pair;      /* ... one check may do for two rounds; */
    bool both;      /* ... it does, in the rounds that are translated now */
    size_t behind;  /* ... where the check is done that is for one round */
    uint8_t twin;   /* index + 1 of the group in whose page it is expected; 0: none */
    bool shared;    /* some are expected in its page: its tag is in bt.keep_tag */
    bool shares; /* ... that it lies in its twin's page was checked, and the addend is that one's */
    bool checked; /* ... by instruction at */
    uint16_t at;
    uint16_t count;
    int32_t lo, hi; /* bytes, from the address as it was when the group began */
    uint8_t align;  /* 16, 32: lo and hi must be so aligned; 1 */
};
#define BT_GROUP_MAX  24
#define BT_GROUP_SPAN 1024

/* Checked in front of a loop for as many rounds as stay in the page (bt_hoist.c). The group's host
   register holds the addend, to which reg or the scaled index may have been added. */
enum bt_hoist { BT_HOIST_NOT, BT_HOIST_PLAIN, BT_HOIST_BASE, BT_HOIST_INDEX };

/* An access of a group. */
struct bt_ref {
    uint8_t group;             /* index + 1; 0: none */
    uint8_t reg, index, scale; /* its address, but for registers that hold a constant, */
    int32_t more;              /* ... which is added to the displacement */
    int32_t off;               /* what was added to the group's values until here */
};

/* An instruction of the trace. */
enum bt_follow {
    BT_FOLLOW_NOT,
    BT_FOLLOW_NEXT,
    BT_FOLLOW_TAKEN,
    BT_FOLLOW_BACK, /* a return behind the call that the trace went through */
    BT_FOLLOW_TO,   /* an indirect jump to the next instruction of the trace */
};
struct bt_step {
    const struct vmci_insn *in;
    struct block *b;
    uint64_t la;     /* of the block, as in struct bt_trans */
    uint16_t before; /* instructions of the blocks before it */
    uint8_t follow;  /* enum bt_follow, of the last one of a block */
    uint16_t lazy;   /* flags may be lost here: the instruction + 1 to get them from again */
    uint16_t after;  /* ... and behind it */
    uint8_t again;   /* enum bt_again: if they were lost, they are made again for it */
    bool kept;       /* CMP or TEST: its memory operand goes to f */
    int32_t moved;   /* RSP behind it, against the beginning of the trace */
    bool later;      /* only added to what is owed to RSP, in the first copy */
    int32_t owed[2]; /* in the first copy: what is still to be added to RSP, before and behind it */
};
enum bt_again {
    BT_AGAIN_NOT,
    BT_AGAIN_FIRST, /* in front of everything */
    BT_AGAIN_OP,    /* behind the check of its operand */
};

/* Which addends, by slot of bt.keep + 1, the scratch registers x and s hold; 0: none. */
struct bt_held {
    uint8_t x, s;
    bool x_last; /* x is the one that was used last */
};

struct bt_cold {
    size_t site;     /* rel32 to patch */
    size_t resume;   /* where the hot code goes on (offset) */
    uint64_t target; /* LINK: linear address; BUDGET: where to go on */
    uint16_t insn;   /* index of the instruction */
    uint8_t kind;    /* enum bt_cold_kind */
    uint8_t rcx;     /* enum bt_rcx */
    uint8_t stub;    /* INSN: enum bt_stub that executes it, or asks for that */
    uint16_t lazy; /* INSN, LINK, BUDGET: flags are made again; EXIT: may be lost: as in bt_step */
    bool io;       /* INSN: IN or OUT at CPL 0 */
    bool counted;
    uint16_t given;         /* ... but for so many instructions, which were given back */
    bool late;              /* INSN: ... and the hot code charges the budget before it goes on */
    bool far;               /* LINK: to another page, by the jump table */
    struct block *blk;      /* ... or by a link: of the jump */
    struct bt_cache *cache; /* LINK: from this place of it; INSN: which is asked for */
    uint8_t place;
    const struct bt_group *group; /* INSN: whose check failed, */
    struct bt_ref ref;            /* ... by this access */
    size_t back;                  /* REFILL: where the check has succeeded, */
    bool wide;                    /* ... which is for two rounds */
    uint16_t set;                 /* scratch registers there */
    bool loop;                    /* in the second copy of a loop */
    uint8_t ahead; /* ... instructions that were charged there but not in the first copy yet */
    uint32_t copy; /* BUDGET: host instruction to execute first: offset and length */
    uint8_t copy_len;
    int32_t moved;            /* RSP, as in struct bt_step */
    int32_t owed;             /* ... what is still to be added to it here */
    int32_t back_owed;        /* ... and at resume */
    struct bt_held back_held; /* what x and s hold at resume */
    uint32_t x87_mark;        /* as in struct bt_work */
};
#define BT_COLD_MAX   (6 * BT_TRACE_MAX)
#define BT_FIX_MAX    1024u
#define BT_PIECES_MAX (BT_COLD_MAX + 2 * BT_TRACE_MAX + 2)

struct bt_work {
    struct vmci_soft_cpu *sc;
    struct block *b; /* of instruction i */
    struct bt_trans *t;
    struct emit e;
    unsigned i; /* instruction */
    unsigned n; /* instructions to translate */
    struct bt_step step[BT_TRACE_MAX];
    unsigned fp;   /* BT_FP_* that the trace needs */
    unsigned word; /* 8, or 4 for 32- and 16-bit code: size of addresses; in flat code also of
                      pushes and branch targets */
    unsigned bits; /* of the code */
    bool seg;      /* it is not flat: bt_seg.c */
    uint64_t la;
    unsigned x, s;  /* scratch registers */
    uint16_t set;   /* all of them; t->set but in the second copy of a loop */
    uint16_t hint;  /* the set of who asked for the translation */
    uint32_t used;  /* registers that the trace names, and scratch registers */
    bool loop;      /* translating the second copy (bt_loop.c), */
    bool twice;     /* ... which has two rounds, charged together, */
    bool second;    /* ... and this is the second of them */
    bool wide;      /* ... in which accesses of both are checked by the first, if they can be */
    bool top;       /* ... which charges its rounds before they begin */
    unsigned ahead; /* cold: as in struct bt_cold */
    bool cold_phase;
    size_t loop_site; /* rel32 of the first copy's jump to its beginning; 0: none */
    size_t loop_top;
    size_t counted_at;           /* where the first copy goes on when it has counted at an end */
    int32_t counted_owed;        /* ... owed there */
    bool around_inner;           /* the trace goes around loops in it: it may be long, */
    bool ways;                   /* ... or on behind indirect jumps */
    bool few_rounds;             /* the trace is a loop that is left soon, mostly */
    uint16_t around;             /* at the jump back flags may be lost: as in struct bt_step */
    bool strip;                  /* the count in the second copy is what its hoisted checks allow */
    size_t start[BT_TRACE_MAX];  /* where each instruction begins in the first copy */
    size_t resume[BT_TRACE_MAX]; /* ... and where it goes on behind it */
    uint16_t lazy;               /* flags may be lost now: as in struct bt_step */
    uint16_t lost;               /* they are; the same */
    uint16_t lost_top;           /* ... where the second copy of a loop begins */
    int32_t moved;               /* RSP now, as in struct bt_step */
    int32_t owed;                /* what is still to be added to RSP (bt_stack.c) */
    unsigned f;                  /* keeps an operand, for the flags; EM_NONE */
    unsigned k;                  /* keeps RCX during checks; EM_NONE: memory does */
    unsigned copy_k[2];          /* ... in the first copy, and in the second one of a loop */
    unsigned count;              /* holds the budget in the second copy; EM_NONE: memory does */
    bool counted;                /* the budget was charged */
    uint32_t x87_mark;           /* of the last x87 instruction, not stored yet; 0: none */
    uint8_t x87_seg;             /* what bt.x87_seg is now; UINT8_MAX: not known */
    bool failed;
    bool moves; /* what is to be changed when the trace is mapped elsewhere is known: */
    unsigned fixes;
    struct bt_fix fix[BT_FIX_MAX];
    unsigned group_count;
    uint16_t group_regs; /* registers that hold addends */
    bool sharing;        /* groups may have twins; there is no second copy then */
    bool holds;          /* instruction w->i uses x and s for the addend of its operand only */
    struct bt_held held;
    struct bt_group group[BT_GROUP_MAX];
    struct bt_ref ref[BT_TRACE_MAX];       /* of each explicit operand */
    struct bt_ref stack_ref[BT_TRACE_MAX]; /* of each push, pop, call and return */
    int budget_cold; /* BUDGET entry that waits for its host instruction; or -1 */
    unsigned cold_count;
    struct bt_cold cold[BT_COLD_MAX];
    unsigned pieces; /* for vmc_soft_config.translated */
    struct vmc_code_piece piece[BT_PIECES_MAX];
};

/* Offsets from GS. */
#define GS_BT(field)                                                                               \
    ((uint32_t)(offsetof(struct vmci_soft_cpu, bt) + offsetof(struct vmci_bt, field)))
#define GS_CPU(field)   ((uint32_t)offsetof(struct vmci_cpu, field))
#define GS_SPILL(n)     (GS_BT(spill) + 8 * (n))
#define GS_BUDGET(w, n) (GS_BT(budget) + 8u * (((w)->t->part + (n)) % BT_BUDGETS))
#define GS_GPR(n)       (GS_CPU(gpr) + 8 * (n))

/* bt_flags.c: moving the flags between EFLAGS and bt.flags, by way of RAX. */
void bt_flags_save(struct emit *e);
void bt_flags_restore(struct emit *e);
/*
 * Where may checks destroy the flags? Behind an instruction whose flags can be had again from its
 * operands, as long as these are there: in cold code, and in front of what reads the flags, if they
 * were lost by then. With w->f, memory operands of CMP and TEST are kept there.
 */
void bt_flags_plan(struct bt_work *w);
/* How many checks and look-ups do better for it. */
unsigned bt_flags_gain(const struct bt_work *w);
/* The trace begins again after its end. */
void bt_flags_plan_around(struct bt_work *w);
/* Does the instruction move RSP by a constant and leave the flags alone? */
bool bt_moves_rsp(const struct bt_work *w, const struct vmci_insn *in, int32_t *by);
/* ADD or SUB of a constant to RSP. */
bool bt_adjusts_rsp(const struct bt_work *w, const struct vmci_insn *in);
/* Make flags again; scratch is lost. The second: if they are lost now. */
void bt_flags_again(struct bt_work *w, unsigned recipe, unsigned scratch);
void bt_flags_need(struct bt_work *w, unsigned scratch);
/* The operand of CMP or TEST, at *a, goes to w->f if somebody wants it again: true. */
bool bt_flags_keep(struct bt_work *w, const struct vmci_insn *in, const struct em_addr *a);
/* How an instruction uses the flags. */
enum bt_fluse {
    BT_FU_NONE,  /* neither reads nor writes */
    BT_FU_WRITE, /* writes all six and reads none */
    BT_FU_RDWR,  /* reads some, or leaves some as they were */
    BT_FU_READ,
};
enum bt_fluse bt_flag_use(const struct vmci_insn *in);
/* The same for instruction i, FP ones included. */
enum bt_fluse bt_step_use(const struct bt_work *w, unsigned i);
/* bt_trace.c: what follows b; around: also more than once around loops. false: b is gone. */
bool bt_trace(struct bt_work *w, struct block *b, bool around);
/* The trace cannot have more than n instructions: how many are in front of the first place within a
   block that is jumped to more often than the trace begins. */
unsigned bt_before_hotter(const struct bt_work *w, unsigned n);

/* bt_regs.c */
/* General registers that the instruction names or implies. */
uint32_t bt_regs_used(const struct vmci_insn *in);
/* Choose w->n and the scratch set. */
void bt_pick_set(struct bt_work *w);
/* From one scratch set to another. */
void bt_exchange(struct emit *e, uint16_t from, uint16_t to);

/* Is a register well spent on keeping RCX? */
bool bt_keeps_rcx(const struct bt_work *w);
/* An unused register, of w->hint if there is one, that compilers use least; EM_NONE. */
unsigned bt_unused(const struct bt_work *w, uint32_t used);
/* General registers that the instruction may change; all, if it is interpreted. */
uint32_t bt_regs_written(const struct bt_work *w, const struct vmci_insn *in);

/* bt_group.c */
/* Mask that must find nothing in the offset of a group's first byte, or of its last aligned piece:
   as an immediate, and in memory. */
static inline uint32_t bt_group_mask(const struct bt_group *g)
{
    return (uint32_t)PAGE_MASK | (g->align - 1u);
}
static inline uint32_t bt_group_gs_mask(const struct bt_group *g)
{
    return GS_BT(page_mask) + (g->align == 16 ? 8 : g->align == 32 ? 16 : 0);
}
/* Where that piece begins. In front of the last byte of a group that is not aligned. */
static inline int32_t bt_group_last(const struct bt_group *g)
{
    return g->hi - g->align;
}
/* Find the groups of the block and give them registers. */
void bt_groups(struct bt_work *w, uint32_t used);
/* Is the access part of a group? Then *out is where it is; checks, if it is the first. */
bool bt_group_use(struct bt_work *w, const struct bt_ref *r, int32_t disp, struct em_addr *out);
/* Instruction w->i is not translated after all. */
void bt_groups_undo(struct bt_work *w);
/* In front of instruction w->i, and behind it: do x and s keep the addends they hold? Are they to
   be loaded again after something else? */
void bt_hold_begin(struct bt_work *w, const struct vmci_insn *in, enum bt_follow follow);
void bt_hold_end(struct bt_work *w);
void bt_hold_again(struct bt_work *w, const struct bt_held *h);

/* Which register the instruction adds what constant to; false: it does something else. */
bool bt_moves(const struct vmci_insn *in, unsigned *reg, int64_t *by);
static inline struct em_addr bt_group_addr(const struct bt_group *g, int32_t disp)
{
    return (struct em_addr){g->reg, g->index, g->scale, disp};
}
static inline struct em_addr bt_ref_addr(const struct bt_ref *r, int32_t disp)
{
    return (struct em_addr){r->reg, r->index, r->scale, disp};
}

/* bt_stack.c */
/* The guest's RSP moves by so much; the host's may stay for now, and w->owed changes instead. */
void bt_rsp_move(struct bt_work *w, int32_t by);
/* Bring RSP up to date. Flags stay. */
void bt_rsp_pay(struct bt_work *w);
/* RSP is up to date: back to code that owes so much. */
void bt_rsp_borrow(struct emit *e, int32_t owed);
/* May instruction w->i be executed while RSP is not up to date? */
bool bt_rsp_may_owe(const struct bt_work *w, const struct vmci_insn *in, enum bt_follow follow);
/* Is it an ADD or SUB to RSP that need not be executed at all? Its flags can be had again behind
   it, where anybody wants them. */
bool bt_rsp_later(const struct bt_work *w, const struct vmci_insn *in);
/* What is to be added to displacements from the register. */
static inline int32_t bt_owed(const struct bt_work *w, unsigned reg)
{
    return reg == EM_RSP ? w->owed : 0;
}

/* bt_hoist.c */
/* Which groups of the loop can be checked in front of it? The others have BT_HOIST_NOT. */
void bt_hoist_find(struct bt_work *w);
/* In front of the second copy: check the hoisted groups, and make the count for them. again: it is
   used up; what does not move need not be looked at. */
void bt_hoist_enter(struct bt_work *w, bool again);
/* The addends of kept groups as the first copy has them. */
void bt_hoist_leave(struct bt_work *w);
/* The flags may be lost while the second copy of a loop is entered. */
static inline bool bt_loop_lazy(const struct bt_work *w)
{
    return w->around != 0;
}

/* bt_loop.c */
#define LOOP_MAX 48u /* instructions of a loop that is translated twice */
/* May the trace, which is not translated yet, have a second copy? */
bool bt_loop_likely(const struct bt_work *w);
/* Prepare the second copy. false: none is wanted. */
bool bt_loop(struct bt_work *w);
/* Prepare its second round. false: it has one only. */
bool bt_loop_again(struct bt_work *w);
/* Prepare two more rounds, with checks of their own. false: those that it has do. */
bool bt_loop_apart(struct bt_work *w);
/* The second copy cannot be entered: one more round in the first one. */
void bt_loop_stay(struct bt_work *w, size_t site, enum bt_rcx rcx);
/* The register that holds the address: its base, or x, where it is computed. */
unsigned bt_loop_place(struct bt_work *w, const struct em_addr *at);
/* The check of a group that has a tag. */
void bt_loop_check(struct bt_work *w, struct bt_group *g, const struct bt_ref *r);
/* Cold: look the page up; falls through where the TLB has not got it. */
void bt_loop_refill(struct bt_work *w, const struct bt_cold *c);
/* Cold: the count is used up in front of a round; make another one. */
void bt_loop_strip(struct bt_work *w, const struct bt_cold *c);

/* bt_translate.c */
/* Host code of instruction i begins here; i = w->n: of none. */
void bt_piece(struct bt_work *w, enum vmc_code_kind kind, unsigned i);
/* Make instruction i the current one. */
static inline const struct vmci_insn *bt_step(struct bt_work *w, unsigned i)
{
    w->i = i;
    w->b = w->step[i].b;
    w->la = w->step[i].la;
    return w->step[i].in;
}
static inline unsigned bt_wide(const struct bt_work *w)
{
    return w->word == 8 ? EM_W : 0;
}
/* An address within the code's address space. */
static inline uint64_t bt_wrap(const struct bt_work *w, uint64_t la)
{
    return w->word == 8 ? la : (uint32_t)la;
}
static inline uint64_t bt_linear(const struct bt_work *w, uint64_t la)
{
    return w->word == 8 ? la : (uint32_t)(la + w->sc->bt.ctx.base);
}
/* Where a relative branch goes that is in front of next. */
static inline uint64_t bt_target(const struct bt_work *w, const struct vmci_insn *in, uint64_t next)
{
    uint64_t to = bt_wrap(w, next + (uint64_t)in->imm);

    return w->seg && in->opsize == 2 ? (uint16_t)to : to;
}
/* Is it in the code segment, if it has a limit? */
static inline bool bt_in_limit(const struct bt_work *w, uint64_t la)
{
    return w->word == 8 || la <= w->sc->bt.ctx.limit;
}
/* Where control goes after instruction i of the trace, unless a branch leaves it. */
uint64_t bt_after(const struct bt_work *w, unsigned i);
/* BT_FP_* that a block needs. */
unsigned bt_block_fp(const struct bt_work *w, const struct block *b);
enum bt_acc { BT_ACC_READ, BT_ACC_WRITE };
struct bt_access {
    enum bt_acc acc;
    unsigned bytes, align;
};
/* Is the FP instruction run natively; does it write the flags then? */
bool bt_fp_native(const struct bt_work *w, const struct vmci_insn *in);
bool bt_fp_flags(const struct bt_work *w, const struct vmci_insn *in);
/* The explicit memory operand of an instruction that is translated. */
bool bt_operand(const struct bt_work *w, const struct vmci_insn *in, struct bt_access *a);
/* POP to memory that is translated. */
bool bt_pop_mem_native(const struct bt_work *w, const struct vmci_insn *in);
/* Is the instruction as long as its opcode says (bt_length.c)? */
bool bt_length_fits(const struct bt_work *w, const struct vmci_insn *in);
/* Is it an integer instruction that runs as it is, but for its memory operand? */
bool bt_copyable(const struct bt_work *w, const struct vmci_insn *in);

/* bt_mem.c */
/*
 * Check an access to in's memory operand; *out is what to encode instead of it, for one instruction
 * that leaves w->s and w->x alone. Flags stay. false: not possible here.
 */
bool bt_check_ea(struct bt_work *w, const struct vmci_insn *in, enum bt_acc acc, unsigned bytes,
                 unsigned align, struct em_addr *out);
/* The same for the element of opsize bytes that has bit opnd[1], a register, of a bit string. */
bool bt_check_bit(struct bt_work *w, const struct vmci_insn *in, enum bt_acc acc,
                  struct em_addr *out);
/* The same for bytes at the linear address in x; away: RCX is, and comes back. */
void bt_check_linear(struct bt_work *w, enum bt_acc acc, unsigned bytes, unsigned align, bool away,
                     struct em_addr *out);
/* RCX is needed: from here to bt_rcx_back it is in w->k or in memory. */
void bt_rcx_away(struct bt_work *w);
void bt_rcx_back(struct bt_work *w);
/* The same as bt_check_ea for [RSP + disp]. */
bool bt_check_stack(struct bt_work *w, int32_t disp, enum bt_acc acc, unsigned bytes,
                    struct em_addr *out);
/* The instruction itself with its memory operand at *a. */
void bt_emit_rm(struct bt_work *w, const struct vmci_insn *in, const struct em_addr *a);
/* The instruction's bytes as they are, of the prefixes those that mean something. */
void bt_emit_copy(struct bt_work *w, const struct vmci_insn *in);

/* bt_budget.c */
/* In front of the host instruction of one that overwrites the flags; and behind it. */
void bt_count_before(struct bt_work *w, enum bt_fluse use);
void bt_count_after(struct bt_work *w, size_t at);
/* At the beginning of the second copy of a loop: charge all of its rounds. */
void bt_count_top(struct bt_work *w);
/* Cold: the copy cannot be entered; if that is for want of budget there may be more, and control
   goes to back. Falls through otherwise. */
void bt_count_short(struct bt_work *w, const uint8_t *back);
/* What the copy charges at once. */
unsigned bt_count_charged(const struct bt_work *w);
/* Cold: where a part of the budget is used up it is made full again, and control goes to back;
   falls through where C must look. rcx: it is free, and the flags are not; else they are. */
void bt_count_refill(struct bt_work *w, const uint8_t *back, bool rcx);
/* The trace is left by instruction w->i, or in front of it if it is beyond the last one. */
void bt_count_end(struct bt_work *w);
/* ... in the middle, by instruction n or in front of it: what was charged too much is given back.
 */
void bt_count_back(struct bt_work *w, unsigned n);
/* The trace is left behind its first n instructions, which were not charged, to la, with this set
   of scratch registers. */
void bt_count_some(struct bt_work *w, unsigned n, uint64_t la, uint16_t set);
/* Charge all; C looks at the budget before control comes here again. */
void bt_count_late(struct bt_work *w);

/* bt_move.c: may the translation be of a page that is mapped elsewhere later? */
bool bt_movable(const struct bt_trans *t);
/* The constant that was just emitted is made of address la, which moves with the trace. */
void bt_fix(struct bt_work *w, enum bt_fix_kind kind, uint64_t la);
/* mov reg, such an address; negated; its lower half. */
void bt_mov_la(struct bt_work *w, unsigned reg, uint64_t la);
void bt_mov_neg(struct bt_work *w, unsigned reg, uint64_t la);
void bt_mov_low(struct bt_work *w, unsigned reg, uint64_t la);

/* Control leaves the second copy of a loop here: its count goes to memory. */
void bt_count_keep(struct bt_work *w);
/* What was charged there for the round behind this one, or before the first copy would do so. */
unsigned bt_count_ahead(const struct bt_work *w);

/* Cold code. */
struct bt_cold *bt_cold(struct bt_work *w, enum bt_cold_kind kind, size_t site);
void bt_cold_insn(struct bt_work *w, size_t site, enum bt_rcx rcx);
/* Room for a record that lives as long as the translation; NULL: it fails. */
void *bt_record(struct bt_work *w, size_t bytes);
void bt_emit_cold(struct bt_work *w);

/* bt_cache.c: try the last targets; x holds that of now, and RSP moves if it is one of them. */
void bt_cache(struct bt_work *w, int32_t pops);

/* bt_sys.c: a system instruction. false: not translated. */
bool bt_sys(struct bt_work *w, const struct vmci_insn *in);
/* It ends its block, but mostly changes nothing that matters for what follows: a trace goes on. */
bool bt_sys_goes_on(const struct vmci_insn *in);

/* bt_syscall.c: SYSCALL, SYSRET. false: not translated. */
bool bt_syscall(struct bt_work *w, const struct vmci_insn *in);

/* bt_string.c: REP MOVS and REP STOS that run natively within a page. */
bool bt_string_native(const struct bt_work *w, const struct vmci_insn *in);
bool bt_string(struct bt_work *w, const struct vmci_insn *in);

/* bt_arith.c: bit strings in memory; DIV and IDIV. Is it run natively, mostly; translate it. */
bool bt_bit_string_native(const struct bt_work *w, const struct vmci_insn *in);
bool bt_bit_string(struct bt_work *w, const struct vmci_insn *in);
bool bt_divide_native(const struct bt_work *w, const struct vmci_insn *in);
bool bt_divide(struct bt_work *w, const struct vmci_insn *in);

/* To cold code if RCX, which is away, is 0. */
void bt_unless_rcx(struct bt_work *w);
/* bt_sys.c: ... unless the number of 1, 2 or 4 bytes at gs:[disp] is 0. */
void bt_unless_zero(struct bt_work *w, unsigned bytes, uint32_t disp);

/* bt_seg.c: the same as bt_check_ea with base, limit and type of a segment. */
bool bt_seg_check(struct bt_work *w, const struct vmci_insn *in, enum bt_acc acc, unsigned bytes,
                  unsigned align, struct em_addr *out);
/* Pushes, pops, LEA and loads of segment registers where they are not as in flat code. */
bool bt_seg_push(struct bt_work *w, const struct vmci_insn *in);
bool bt_seg_pop(struct bt_work *w, const struct vmci_insn *in);
bool bt_seg_leave(struct bt_work *w, const struct vmci_insn *in);
bool bt_seg_lea(struct bt_work *w, const struct vmci_insn *in);
bool bt_seg_load(struct bt_work *w, const struct vmci_insn *in);
/* Is the push, pop, near call or return run natively? */
bool bt_seg_stacked(const struct bt_work *w, const struct vmci_insn *in);
/* CALL's push; RET: its target to x, and the move of SP. */
bool bt_seg_push_return(struct bt_work *w, const struct vmci_insn *in, uint64_t next);
bool bt_seg_return(struct bt_work *w, const struct vmci_insn *in);
void bt_seg_returned(struct bt_work *w, const struct vmci_insn *in);
/* mov or movzx reg, operand of opsize bytes: nothing is left of the register's upper half. */
void bt_seg_fetch(struct bt_work *w, const struct vmci_insn *in, unsigned reg,
                  const struct em_addr *a);

/* bt_fp.c: an x87 instruction that may run natively. */
struct vmci_fp_form;
/* Store the mark that waits, in front of anything by which control may leave hot code. */
void bt_x87_store(struct bt_work *w);
/* ... unless instruction in, which is next, leaves by way of cold code only. */
void bt_x87_before(struct bt_work *w, const struct vmci_insn *in, enum bt_follow follow);
bool bt_x87(struct bt_work *w, const struct vmci_insn *in, const struct vmci_fp_form *form);

/* Linear address of the instruction being translated. */
uint64_t bt_insn_la(const struct bt_work *w, const struct vmci_insn *in);
/* bt_branch.c: instructions that end a block. false: not translated. */
bool bt_branch(struct bt_work *w, const struct vmci_insn *in);
/* A branch in the middle of the trace. */
bool bt_branch_follow(struct bt_work *w, const struct vmci_insn *in, enum bt_follow follow);
/* Out of the trace by an indirect jump in its middle: to x, or to the register that is named. */
void bt_jump_away(struct bt_work *w, const struct vmci_insn *in);
/* Go on at target; the budget was charged. */
void bt_exit_direct(struct bt_work *w, uint64_t target);

#endif
