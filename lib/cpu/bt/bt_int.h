/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Binary translation on the same ISA.
 *
 * Guest registers live in the host registers of the same name, RSP included; GS addresses the vCPU.
 * Instructions are copied; only memory operands, stack operations and control flow are rewritten.
 * What is not translated, and every access that misses the software TLB, is executed by the
 * interpreter for that one instruction, so there is one truth about each instruction.
 *
 * The arithmetic flags are always in EFLAGS: the code that the translator adds uses only
 * instructions that leave them alone (MOV, LEA, PEXT, JRCXZ). In front of an instruction that
 * overwrites all of them it may do as it likes.
 *
 * A translation has a set of scratch registers, at least two, none of which its instructions name;
 * the guest's values of these are in cpu.gpr. Between translations and in the glue the set is
 * BT_CANON. A jump to a translation with the same set goes straight in; else registers are
 * exchanged on the way.
 */
#ifndef BT_INT_H
#define BT_INT_H

#include "cpu/bt/emit.h"
#include "cpu/interp/soft_int.h"

#define BT_CANON ((uint16_t)(1u << 10 | 1u << 11))

struct bt_trans;

/* A place in translated code that has an instruction interpreted. */
struct bt_site {
    const struct vmci_insn *insn;
    struct bt_trans *t;
    struct block *blk; /* of the trace */
    uint64_t rel;      /* ... where it is, from t->la */
    const uint8_t *resume;
    uint32_t before; /* instructions of the trace in front of that block */
    uint8_t group;   /* 1: a group's check failed (bt_group.c): */
    uint8_t reg, index, scale, slot;
    bool write;
    struct bt_cache *cache; /* of the indirect jump or return; NULL */
    uint64_t back;          /* a return that the trace goes on behind: there, from t->la */
    bool returns;           /* ... is there */
    bool shares;            /* ... that it lies in the page of another group */
    bool stop; /* the instruction would have checked another group, too: do not go on behind it */
    bool goes_on;          /* it ends its block, but mostly there is nothing to look at behind it */
    uint8_t fails;         /* of a group's check, in vain */
    uint8_t astray;        /* of a return, that it led elsewhere */
    struct bt_link *alone; /* of a group: to a translation that has others or none, */
    const uint8_t *alone_way; /* ... by way of this */
    bool retry; /* a comparison whose operand the translation needs: resume executes it again */
    uint8_t align;
    int32_t lo; /* its first byte from the register, and how many there are */
    uint32_t span;
    uint32_t counted; /* instructions of the block that were taken off the budget already */
};

/* Where an indirect jump or a return has led (bt_cache.c). */
#define BT_CACHE_SIZE 4u
struct bt_cache {
    struct bt_link *link[BT_CACHE_SIZE];
    struct bt_cache *sibling;          /* the next one of the same translation */
    uint8_t *value[BT_CACHE_SIZE];     /* the constant that the target is compared with */
    uint8_t *start[BT_CACHE_SIZE + 1]; /* each comparison; the way to the interpreter */
    uint8_t *end;
    uint8_t used, strangers;
    bool negated, wide; /* of the constants */
};

/* A jump to a known address. */
struct bt_link {
    struct bt_link *next, **prev; /* among the target's incoming links; prev NULL: not linked */
    struct bt_link *sibling;      /* the next one of the same translation */
    uint8_t *site;                /* rel32 of the jump for targets with the same scratch set */
    uint8_t *canon_site;          /* ... and of the one behind the exchange of registers */
    const uint8_t *site_rx, *canon_rx;
    const uint8_t *stub, *ask; /* where they lead while not linked */
    uint64_t rel;              /* where it leads, from from->la */
    struct bt_trans *from;
    struct bt_link *far_next, **far_prev; /* to another page: among those to pages of this hash */
    uint16_t set;                         /* scratch registers where the jump is */
    struct block *blk;                    /* of the jump, if it leads to another page, and */
    bool far;                             /* ... is linked; both are global */
};

/* What has died when a block dies: traces that go through it. */
struct bt_cover {
    struct bt_cover *next, **prev; /* of the same block; prev NULL: it is dead */
    struct bt_cover *sibling;      /* the next one of the same trace */
    struct bt_trans *t;
};

/*
 * A constant in the code of a translation that depends on where the trace is mapped: on the address
 * rel bytes from its beginning.
 */
enum bt_fix_kind {
    BT_FIX_LA,   /* 8 bytes: the address */
    BT_FIX_NEG,  /* ... negated */
    BT_FIX_LOW,  /* 4 bytes: its lower half */
    BT_FIX_JUMP, /* the displacement of its entry in the table of jump targets */
    BT_FIX_TLB,  /* ... in the TLB */
};
struct bt_fix {
    int32_t rel;
    uint16_t at; /* from the beginning of the code */
    uint8_t kind;
};

/*
 * The translation of the trace that begins with a block, as mapped at one address. Addresses of
 * code in translations are offsets in CS, what RIP is there: linear ones where CS begins at 0.
 */
struct bt_trans {
    const uint8_t *canon; /* entry with the canonical scratch set */
    const uint8_t *ready; /* ... and FP state known to be usable */
    const uint8_t *inner; /* ... with its own, and FP state known to be usable */
    uint64_t la;
    uint64_t key; /* in the table of jump targets */
    struct bt_ctx ctx;
    struct block *blk;
    struct bt_trans *next;  /* of the same block */
    struct bt_trans *older; /* in the same segment */
    struct bt_link *in, *out;
    struct bt_cover *covers;
    struct bt_cache *caches;
    const struct bt_fix *fix;
    uint16_t fixes;
    uint16_t bytes; /* of code */
    uint16_t set;   /* scratch registers */
    bool stays;     /* it is for this address only (bt_move.c) */
    bool dead;
    bool groups;   /* addends are in registers */
    bool loops;    /* it has a second copy of a loop */
    uint8_t alone; /* it is where another one's check fails; up to BT_ALONE */
    uint8_t mode;  /* enum vmci_tlb_mode that is baked in */
    uint8_t fp;    /* BT_FP_* that it needs */
    uint8_t part;  /* of the budget, that it counts */
    uint8_t spent; /* how often it used that up */
};

/* Where a group's check fails again and again control goes to a translation that has groups of the
   stack only, cut where the page ends now; from there to another one; in the end to one that has
   none. */
#define BT_ALONE 3u

#define BT_FP_SSE 1u /* SSE state live, no unmasked exceptions, usable */
#define BT_FP_AVX 2u
#define BT_FP_X87 4u /* x87 and MMX state live, no unmasked x87 exceptions, usable */

/* Not the address of an operand that was accessed: it is not canonical. */
#define BT_X87_NO_EA (1ull << 63)

/* An x87 instruction that runs natively, for the unit's pointers. */
struct bt_x87 {
    const struct vmci_insn *insn;
    const struct bt_trans *t;
    uint64_t rel; /* from t->la */
};

static inline uint64_t bt_site_la(const struct bt_site *site)
{
    return site->t->la + site->rel;
}
static inline uint64_t bt_link_la(const struct bt_link *l)
{
    return l->from->la + l->rel;
}

/* More than the longest translation of one block, and what it takes of the arena. */
#define BT_BLOCK_MAX  (48u << 10)
#define BT_ARENA_ROOM (64u << 10)
/* Runs of a block in the interpreter before it is translated. */
#define BT_HOT 12
/* ... on this vCPU now: code memory may be too small. */
static inline unsigned bt_hot(const struct vmci_soft_cpu *sc)
{
    return (unsigned)sc->cpu.vm->bt_hot << sc->bt.patience;
}
_Static_assert(BT_HOT << BT_PATIENCE_MAX <= UINT8_MAX, "struct block counts in a byte");
/* Instructions between two looks at the requests of other threads. */
#define BT_SLICE 65536
/* What each part of the budget has at most; how often one is made full again without C. */
#define BT_PART    (BT_SLICE / BT_BUDGETS)
#define BT_REFILLS 3
/* Instructions that may run past the budget: jumps forward within a page are not checked. */
#define BT_MARGIN VMC_PAGE_SIZE

/* Why translated code was left. */
enum bt_leave {
    BT_LEAVE_LOOKUP, /* at cpu->rip, which has no translation that is known to be valid */
    BT_LEAVE_BUDGET, /* at cpu->rip: the slice is used up */
    BT_LEAVE_LOOK,   /* at cpu->rip: the boundary must be looked at */
    BT_LEAVE_EXIT,   /* cpu->exit is for the embedder */
    BT_LEAVE_FP,     /* at cpu->rip: FP state is not usable for native code now */
};

/* The budget: what is left of it; is it used up, as far as translations see? */
static inline uint64_t bt_left(const struct vmci_bt *bt)
{
    const int64_t *n = bt->budget;

    return (uint64_t)n[0] + (uint64_t)n[1] + (uint64_t)n[2] + (uint64_t)n[3] + (uint64_t)n[4] +
           (uint64_t)n[5] + (uint64_t)n[6] + (uint64_t)n[7];
}
static inline bool bt_spent(const struct vmci_bt *bt)
{
    const int64_t *n = bt->budget;

    return (n[0] | n[1] | n[2] | n[3] | n[4] | n[5] | n[6] | n[7]) < 0;
}
_Static_assert(BT_BUDGETS == 8, "a loop would not be unrolled");
static inline uint64_t bt_retired(const struct vmci_bt *bt)
{
    return bt->slice_end - bt_left(bt);
}
/* Instructions were executed elsewhere: so many, all in all. */
static inline void bt_set_retired(struct vmci_bt *bt, uint64_t retired)
{
    bt->budget[0] += (int64_t)(bt_retired(bt) - retired);
}

/* bt_glue.c: fixed code at the start of the code memory. */
int bt_make_glue(struct vmci_soft_cpu *sc);

/* Fixed code that executes an instruction; 0: none. */
enum bt_stub { BT_STUB_NONE, BT_STUB_SYSCALL, BT_STUB_SYSRET, BT_STUB_IRET, BT_STUBS };
/* bt_syscall.c: part of the glue. */
struct emit;
void bt_make_syscall(struct emit *e, struct vmci_bt *bt);
/* IRET was interpreted in 64-bit code; what it loads may be another thing from now on. */
void bt_iret_done(struct vmci_soft_cpu *sc);
void bt_iret_forget(struct vmci_bt *bt);

/* bt_sys.c: constants that its code takes from memory. */
void bt_sys_init(struct vmci_soft_cpu *sc);
/* What depends on control registers and MSRs may have changed; or on the CPU model. */
void bt_sys_see(struct vmci_soft_cpu *sc);
void bt_sys_forget(struct vmci_soft_cpu *sc);
/* The interpreter has executed it. leaf: EAX and ECX before, for CPUID. */
void bt_sys_done(struct vmci_soft_cpu *sc, const struct vmci_insn *in, uint64_t leaf);

/* bt_fp.c: the x87 pointers are those of the x87 instruction that translated code ran last. */
void bt_x87_settle(struct vmci_soft_cpu *sc);
/* Bring FP state into the registers if it may be used natively. Which of BT_FP_* may. */
uint8_t bt_fp_ready(struct vmci_soft_cpu *sc);
/* After anything that may have parked the state or changed a control register: may t run? */
bool bt_fp_usable(struct vmci_soft_cpu *sc, const struct bt_trans *t);

/* bt_translate.c. NULL: it cannot be translated, or there is no room. */
struct bt_trans *bt_translate(struct vmci_soft_cpu *sc, struct block *b);

/* bt_seg.c: is the processor's state what translations with c are for? */
bool bt_ctx_fits(const struct vmci_soft_cpu *sc, const struct bt_ctx *c);
/* Make bt.ctx that of now. false: there are too many. */
bool bt_see_ctx(struct vmci_soft_cpu *sc);
/* All translations are gone. */
void bt_forget_ctx(struct vmci_bt *bt);
/* Segment registers may have changed: make what translated code looks at. */
void bt_see_segments(struct vmci_soft_cpu *sc);
/*
 * Code at la as the table of jump targets has it: the linear address, and in code that is not flat
 * the context above it, which makes it an address that is never canonical.
 */
static inline uint64_t bt_key(const struct bt_ctx *c, uint64_t la)
{
    return c->id == 0 ? la : (uint32_t)(la + c->base) | (uint64_t)c->id << 32 | 1ull << 62;
}
/* The same for a block where it was last found. */
static inline uint64_t bt_block_key(const struct bt_ctx *c, const struct block *b)
{
    return c->id == 0 ? b->la : b->la | (uint64_t)c->id << 32 | 1ull << 62;
}
/* Where it begins in CS; does it end there? */
static inline uint64_t bt_block_start(const struct bt_ctx *c, const struct block *b)
{
    return c->id == 0 ? b->la : (uint32_t)(b->la - c->base);
}
static inline bool bt_block_fits(const struct bt_ctx *c, const struct block *b)
{
    return c->bits == 64 || bt_block_start(c, b) + b->bytes - 1 <= c->limit;
}
/* RIP is not longer than the code's addresses. */
static inline uint64_t bt_cut(const struct bt_ctx *c, uint64_t la)
{
    return c->bits == 64 ? la : (uint32_t)la;
}
static inline uint64_t bt_key_la(uint64_t key)
{
    return key >> 62 == 1 ? (uint32_t)key : key;
}

/* bt_evict.c: let the jump lead to t, in the same page; or in another one, both of which are
   global; mappings of all pages, of one page are about to change. */
void bt_link_far(struct vmci_bt *bt, struct bt_link *l, struct bt_trans *t);
void bt_far_flush(struct vmci_bt *bt);
void bt_far_flush_page(struct vmci_bt *bt, uint64_t la);
void bt_far_flush_range(struct vmci_bt *bt, uint64_t la, uint64_t bytes);
/* Let the jump lead to t; the block belongs to the trace of t; fill segment n. */
void bt_link_to(struct bt_link *l, struct bt_trans *t);
/* From the way out of a group, whose check fails, to a translation with others or none. */
void bt_link_alone(const struct bt_site *site, struct bt_trans *t);
/* Nothing may reach the translation any more. */
void bt_drop(struct vmci_soft_cpu *sc, struct bt_trans *t);
void bt_cover_add(struct bt_cover *c, struct block *b, struct bt_trans *t);
void bt_segment_begin(struct vmci_soft_cpu *sc, unsigned n);

/* bt_jumps.c: where the table has an address, as translated code computes it (bt_branch.c). */
static inline unsigned bt_jump_index(uint64_t la)
{
    return (unsigned)((la + (la >> BT_JUMP_FOLD)) & BT_JUMP_MASK);
}
/* cpu->rip is translated as t. */
void bt_jumps_enter(struct vmci_soft_cpu *sc, const struct bt_trans *t);
/* Was it there? */
bool bt_jumps_forget(struct vmci_soft_cpu *sc, const struct bt_trans *t);
void bt_jumps_init(struct vmci_soft_cpu *sc);
/* The code size has changed since the table of the current mode was filled? Empties it. */
void bt_jumps_bits(struct vmci_soft_cpu *sc);

/* Is there room for another translation in the current segment? */
static inline bool bt_has_room(const struct vmci_bt *bt)
{
    return bt->used_end - bt->used >= BT_BLOCK_MAX &&
           bt->arena_end - bt->arena_used >= BT_ARENA_ROOM;
}

/* bt_move.c: b, a program's, was found where it has no translation. If its page was mapped
   elsewhere before, what was translated there may move. */
void bt_come(struct vmci_soft_cpu *sc, struct block *b);

/* The constants of the translation are of where it is now. */
void bt_cache_moved(const struct bt_trans *t);
/* bt_cache.c: the interpreter has executed the jump of the site, which led to t. */
void bt_cache_enter(const struct bt_site *site, struct bt_trans *t);

/* bt_watch.c: bt.spent has used up its part of the budget. */
void bt_sample(struct vmci_soft_cpu *sc);
/* Was the branch that ends b watched for long enough? */
bool bt_branch_known(const struct vmci_soft_cpu *sc, const struct block *b);
/* Of the runs of the last of n blocks that were seen behind the others, in this order: most led to
   *to, in the same page; how many of how many. false: they are not enough to tell. */
bool bt_branch_way(const struct vmci_soft_cpu *sc, const uint64_t *gpa, unsigned n, uint64_t *to,
                   unsigned *most, unsigned *all);
/* How often it jumps before it does not, if that is the same each time; else 0. */
unsigned bt_branch_row(const struct block *b);

/* C side of the glue. */
uint64_t bt_c_insn(struct vmci_soft_cpu *sc);
uint64_t bt_c_io(struct vmci_soft_cpu *sc);
uint64_t bt_c_string(struct vmci_soft_cpu *sc);
uint64_t bt_c_link(struct vmci_soft_cpu *sc);
uint64_t bt_c_find(struct vmci_soft_cpu *sc);
uint64_t bt_c_fp(struct vmci_soft_cpu *sc);
uint64_t bt_c_budget(struct vmci_soft_cpu *sc);

#endif
