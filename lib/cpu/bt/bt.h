/* SPDX-License-Identifier: BSD-2-Clause */
/* The translator as the engine sees it. */
#ifndef BT_H
#define BT_H

#include "base/base_int.h"
#include "cpu/decode/insn.h"
#include <vmcore/x86_state.h>

struct vmci_soft_cpu;
struct block;
struct bt_trans;
struct bt_site;
struct bt_link;
struct bt_work;

/*
 * Where indirect jumps and jumps to other pages go: a direct-mapped table by linear address, one
 * for each TLB mode. Translated code looks targets up by itself. Entry 0 is never used: with a mask
 * of 0 (bt.jump_mask) every look-up misses.
 */
#ifdef VMCI_SMALL
#define BT_JUMP_BITS 16
#else
#define BT_JUMP_BITS 17
#endif
#define BT_JUMP_SIZE (1u << BT_JUMP_BITS)
/*
 * The index is the low bits of la + (la >> BT_JUMP_FOLD): kernels are larger than the table, and
 * functions begin at multiples of 16. The entries of one page still lie side by side.
 */
#define BT_JUMP_FOLD  8
#define BT_JUMP_MASK  ((uint64_t)BT_JUMP_SIZE - 1)
#define BT_JUMP_MODES 3

struct bt_jump {
    uint64_t neg;        /* linear address, negated */
    const uint8_t *host; /* where its translation begins */
};

/* Answers of CPUID: a direct-mapped table by EAX | ECX << 32. Entries that hold nothing match no
   key that selects them. */
#define BT_LEAVES    64u
#define BT_LEAF_MASK (7ull | 7ull << 31) /* bits of the key that make the index */
struct bt_leaf {
    uint64_t neg; /* key, negated */
    uint32_t reg[4];
    uint64_t pad;
};
/* What IRET has last loaded, to CPL 0 and to CPL 3. */
struct bt_iret {
    uint64_t selectors;        /* CS | SS << 16 */
    uint64_t la[2], raw[2];    /* where their descriptors are, and what they were */
    struct vmc_segment seg[2]; /* what CS and SS became */
};
/* On what they, and the way to read the time-stamp counter, depend. */
struct bt_seen {
    uint64_t cr4, xcr0, xss, misc_enable, apic_id;
    uint64_t cr0;                 /* FP state */
    uint64_t gdt_base, gdt_limit; /* IRET */
};

/*
 * What a translation takes for granted of segments (bt_seg.c). In 64-bit code, and in 32-bit code
 * whose code, data and stack segments are flat, id is 0 and so is base.
 */
struct bt_ctx {
    uint32_t base, limit; /* of CS */
    uint32_t id;
    uint8_t bits, stack; /* of code: 16, 32, 64; bytes of SP */
    bool real;           /* loads of segment registers look at no descriptors, and cannot fail */
};
#define BT_CONTEXTS 1024u

/* A segment as translated code checks it: an access whose last byte is at offset last is in order
   if last + rd, or last + wr, is below 0. Others are for the interpreter. */
struct bt_view {
    uint64_t base;
    int64_t rd, wr;
};
#define BT_VIEWS 6u

/* Blocks that are interpreted to see which way branches go, at most. */
#define BT_WAYS 600u

#define BT_BUDGETS   8u
#define BT_FAR_LISTS 4096u

/* Groups of accesses in one translation (bt_group.c). */
#define BT_GROUP_REGS 3
#define BT_GROUP_MEM  12

/* Entries that a change of address space makes invalid, since the last one. */
#define BT_JUMP_LOG 16384u
/* Of so many pages that INVLPG took out lately so many entries are known. */
#define BT_JUMP_KNOWN_PAGES 16u
#define BT_JUMP_KNOWN       4u

/* Code memory by default, what of it is used at first, and what it may be set to; the arena has
   half as much. */
#define BT_CODE_BYTES (128u << 20)
#define BT_CODE_FIRST (64u << 20)
#define BT_CODE_MIN   (4u << 20)
#define BT_CODE_MAX   (1u << 30)
/*
 * Code memory is filled segment by segment, in a circle: what is in the next one goes when the
 * current one is full. They are as large as large pages, or there are BT_SEGMENTS of them; and
 * there are more when much of what went is translated again.
 */
#define BT_SEGMENT      (2u << 20)
#define BT_SEGMENTS     16u
#define BT_SEGMENTS_MAX (BT_CODE_MAX / BT_SEGMENT)
/* Where there can be no more blocks run up to so many times two times as often before they are
   translated. */
#define BT_PATIENCE_MAX 4u

/* Per vCPU; embedded in struct vmci_soft_cpu so that translated code reaches it through GS. */
struct vmci_bt {
    uint64_t flags; /* OF in bit 0, SETcc-style; LAHF's image in bits 15:8 */
    /* Instructions left, in parts, of which each translation counts one: that of one is not made to
       wait for the count of the one before it. One is below 0: leave. */
    int64_t budget[BT_BUDGETS];
    uint64_t runs;      /* of bt_run */
    uint64_t slice_end; /* cpu.retired when all of them together are 0 */
    int64_t refills;    /* how often translated code may make a part full again by itself */
    uint64_t host_rsp;
    uint64_t host_gs;
    uint64_t resume; /* host address to go on at */
    uint64_t target;
    uint64_t spill[2];
    /* Addends of groups, and an operand, while the interpreter is called; addends of groups that
       have no register. */
    uint64_t keep[BT_GROUP_REGS + 1 + BT_GROUP_MEM];
    uint64_t keep_tag[BT_GROUP_REGS + 1 + BT_GROUP_MEM]; /* ... and TLB tags of their pages */
    const void *site;              /* what called for help: struct bt_site, bt_link or bt_trans */
    const struct bt_site *retried; /* what was last executed again, and when that was */
    uint64_t retried_at;
    const struct bt_trans *spent; /* whose part of the budget was used up; NULL: not known */
    unsigned watch; /* blocks that the interpreter runs, to count which way branches go */
    unsigned ways;  /* ... of which so many have run, the last time: */
    uint64_t way[BT_WAYS]; /* their addresses in guest memory */
    uint16_t hint;  /* scratch registers where a translation is asked for */
    uint8_t alone;  /* ... and that it has fewer groups (BT_ALONE) */

    /* Constants in memory: PEXT takes its mask from there. */
    uint64_t tlb_mask;     /* page number bits that select a TLB entry */
    uint64_t page_mask[3]; /* address bits above the page offset; and the low 4, 5 bits */
    uint64_t sign_mask;
    uint64_t not_if, not_df, only_df, not_arith, only_of; /* of RFLAGS */
    uint64_t leaf_mask;
    uint64_t not_low2, high17, bits16_1; /* of MSR numbers and addresses */
    uint64_t bit_mask[2];                /* of bit numbers in 4 and 8 bytes */
    uint32_t base_at[3];                 /* where FS_BASE and the next two MSRs are, from GS */
    bool tsc_slow[2]; /* the interpreter must read the time-stamp counter: at CPL 0, 3 */
    bool no_fsgsbase; /* CR4 does not allow RDFSBASE and its like */
    struct bt_seen seen;
    struct bt_leaf leaf[BT_LEAVES];
    struct bt_iret iret[2];
    uint64_t jump_mask; /* (a) BT_JUMP_MASK; 0 while there are requests */

    uint8_t fp_lacks[8];              /* by BT_FP_*: not all of them may run natively now */
    uint8_t fp_lacks_of;              /* the fp_ready that it was made for */
    struct bt_view view[BT_VIEWS];    /* of 16- and 32-bit code */
    struct bt_ctx ctx;                /* of now */
    struct bt_ctx known[BT_CONTEXTS]; /* a hash table; id 0: empty */
    uint32_t ctx_ids;                 /* how many that are */
    uint32_t x87_mark; /* arena offset of the struct bt_x87 that ran last; 0: C knows */
    uint64_t x87_ea;   /* ... the last memory operand since C knew; BT_X87_NO_EA */
    uint8_t x87_seg;   /* ... its segment */
    uint8_t fp_ready;  /* BT_FP_*: they may */
    bool enabled;
    bool pass;          /* let the interpreter run the next block */
    uint8_t large_rest; /* segments to begin until the platform is asked for large pages again */
    uint64_t large_pages[BT_SEGMENTS_MAX / 64]; /* bits of segments that have them */
    bool full;     /* the segment is used up: the engine goes on to the next */
    bool ctx_full; /* too many contexts: the engine forgets everything */

    uint8_t *rw;
    const uint8_t *rx;
    size_t code_bytes, glue;
    size_t used, used_end; /* of the current segment */
    uint8_t *arena;
    size_t arena_used, arena_end;
    unsigned segment;
    unsigned segments, segments_max; /* in the circle; that there is room for */
    size_t segment_bytes;
    uint8_t patience;                       /* up to BT_PATIENCE_MAX */
    uint32_t made_new, made_again;          /* since the circle began; of what was evicted before */
    struct bt_trans *made[BT_SEGMENTS_MAX]; /* the last one of each segment */
    const uint8_t *enter, *leave_lookup, *leave_budget;
    const uint8_t *call_insn, *call_io, *call_string, *call_link, *call_find, *call_fp;
    const uint8_t *stub[4]; /* by enum bt_stub */

    struct bt_work *work;
    uint64_t lacks; /* 1 << VMCI_FEAT_*: of general-register instructions: only interpreted */
    uint64_t st_op[VMCI_OP_COUNT]; /* instructions that translated code had interpreted */
    uint64_t st_translated, st_flushes, st_calls, st_links, st_lookups, st_slices, st_jumps;
    uint64_t
        st_segmented;    /* translations of 16-bit code and of code with other than flat segments */
    uint64_t st_apart;   /* translations given up as groups that were in one page no longer are */
    uint64_t st_around;  /* translations that go around loops in them more than once */
    uint64_t st_ways;    /* translations that go on behind indirect jumps */
    uint64_t st_watched; /* translations that were made again by what was seen of branches */
    uint64_t st_moved;   /* translations that came to another address */
    uint64_t st_evictions, st_stop_max; /* ns that one eviction or flush took at most */

    struct bt_link *far[BT_FAR_LISTS]; /* links to other pages, by page */
    bool far_any;                      /* false: there are none */
    uint8_t jump_bits[BT_JUMP_MODES];  /* 64, or 32: filled for other code */
    uint32_t jump_log_n;               /* > BT_JUMP_LOG: overflowed */
    uint32_t jump_log[BT_JUMP_LOG];    /* index | mode << BT_JUMP_BITS */
    bool jump_used[BT_JUMP_MODES];     /* something was entered since the table was cleared */
    uint64_t jump_pages[256];          /* Bloom filter of the pages in the tables */
    struct bt_jump_known {
        uint64_t page;              /* all of its entries are at these places; ~0: none */
        uint32_t n;                 /* > BT_JUMP_KNOWN: too many to name them */
        uint32_t at[BT_JUMP_KNOWN]; /* as in the log */
    } jump_known[BT_JUMP_KNOWN_PAGES];
    uint64_t jump_naps;              /* how often entries of programs went to sleep */
    uint64_t jump_gpa[BT_JUMP_SIZE]; /* of programs: in which page the target was */
    _Alignas(16) struct bt_jump jumps[BT_JUMP_MODES][BT_JUMP_SIZE];
};

/* Make code memory. VMC_ENOTSUP: this host or platform cannot; the interpreter does it all. */
int bt_init(struct vmci_soft_cpu *sc);
void bt_fini(struct vmci_soft_cpu *sc);
/* Forget every translation (the block cache was emptied, code memory is full, or the CPU model is
   another). */
void bt_flush(struct vmci_soft_cpu *sc);
/* At a boundary: the current segment is full. Forget what is in the next one, and go on there. */
void bt_evict(struct vmci_soft_cpu *sc);
/* An eviction or flush began at that time. */
void bt_stopped(struct vmci_soft_cpu *sc, uint64_t since);
/* The block dies: nothing may reach its translations any more. */
void bt_kill(struct vmci_soft_cpu *sc, struct block *b);

/* Mappings are about to change: all, all that are not global, those of one page. */
void bt_jumps_flush(struct vmci_soft_cpu *sc, bool globals_too);
void bt_jumps_flush_page(struct vmci_soft_cpu *sc, uint64_t la);
void bt_jumps_flush_range(struct vmci_soft_cpu *sc, uint64_t la, uint64_t bytes);
/* After a request was handled: translated code may find its targets again. */
void bt_jumps_open(struct vmci_soft_cpu *sc);

/*
 * Run translated code from block b, which is valid at cpu->rip, for at most limit instructions.
 * Returns enum bt_leave.
 */
int bt_run(struct vmci_soft_cpu *sc, struct block *b, uint64_t limit);
/* While bt.watch is not 0: the interpreter has executed all of b. */
void bt_watched(struct vmci_soft_cpu *sc, struct block *b);
/* b has a translation for now, or gets one; NULL: let the interpreter do it. */
struct bt_trans *bt_get(struct vmci_soft_cpu *sc, struct block *b);

#endif
