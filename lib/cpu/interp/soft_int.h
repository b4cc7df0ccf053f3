/* SPDX-License-Identifier: BSD-2-Clause */
/* What the parts of the software CPU's engine share: TLB details, decoded blocks, replay log. */
#ifndef INTERP_SOFT_INT_H
#define INTERP_SOFT_INT_H

#include "cpu/bt/bt.h"
#include "cpu/cpu_int.h"

#define PAGE_MASK (~(uint64_t)(VMC_PAGE_SIZE - 1))

/* ---- software TLB, the part that only the slow path reads ------------------------------------ */

#define TLB_FILLED 3 /* modes that are ever filled: all but VMCI_TLB_ALIGN */

#define TLB_R 1u
#define TLB_W 2u
#define TLB_X 4u

struct tlb_info {
    uint64_t la;  /* page, or VMCI_TLB_NONE */
    uint64_t gpa; /* page */
    uint8_t *hva; /* NULL: device */
    uint8_t *flags;
    uint8_t rights; /* TLB_*: walked for these */
    bool writable;  /* RAM */
    bool global;
    bool watched; /* a data breakpoint lies in the page: no direct access */
    bool keyed;   /* a user page: pkey applies */
    uint8_t pkey;
};

/* Non-global entries filled since the last flush; more than these: all are looked at. */
#define TLB_LOG 2048
/* Entries side by side that are looked at together when many go. */
#define TLB_RUN  64u
#define TLB_RUNS (VMCI_TLB_SIZE / TLB_RUN)
_Static_assert(TLB_RUNS % 64 == 0, "whole words of bits");
/* Is a page among those that can be written directly? */
#define TLB_WR_COUNTS 8192u
/* Which 2 MiB and 1 GiB pages may be in the TLB in pieces (Bloom filter by address). */
#define TLB_LARGE_WORDS 256
/* Pages from which blocks were found (another Bloom filter). */
#define TLB_CODE_WORDS 256
/*
 * Operating systems keep themselves in the upper half of the address space, in global pages, and
 * programs in the lower one. Which mappings changed is known for each half.
 */
#define TLB_HALVES 2

/* ---- decoded blocks -------------------------------------------------------------------------- */

#define BLK_MAX_INSNS 64
#define BLK_JC_BITS   13
#ifdef VMCI_SMALL
#define BLK_HASH_BITS 14
#else
#define BLK_HASH_BITS 16
#endif
#define BLK_PAGE_BITS 11
#define BLK_CHUNK     (2u << 20)
/* So much decoded code a vCPU keeps at most: 48 MiB, or one and a half times its code memory. */
#define BLK_CHUNKS     24u
#define BLK_CHUNKS_MAX (BT_CODE_MAX / BLK_CHUNK * 3 / 2)

struct code_page {
    struct code_page *next; /* hash chain */
    uint64_t gpa;
    uint64_t chunks;      /* 64-byte pieces that hold decoded bytes */
    struct block *blocks; /* that start here; linked by page_next */
    struct block *tails;  /* whose one instruction ends here; linked by tail_next */
    uint32_t misses;      /* writes beside the code */
    uint32_t patience;    /* how many before the code is dropped */
    bool adopted;         /* counted in slot_pages */
    uint64_t woken;       /* bt.jump_naps when its jump targets were last entered again (bt_jumps.c) */
    uint64_t target[VMC_PAGE_SIZE / 64]; /* ... bits of where they begin */
    uint64_t here;        /* where a program has it now, */
    uint64_t left[4];     /* ... and where its translations were before (bt_move.c) */
    uint8_t leaves;
};

struct block {
    uint64_t la;  /* where it was last found to be mapped */
    uint64_t key; /* mode, half and its TLB epoch of that; 0: stale, never matches */
    uint64_t gpa;
    uint64_t gpa2; /* second page of a block that is one instruction across pages; else NONE */
    struct block *hash_next, *page_next, *tail_next;
    uint64_t seq; /* tentative until every vCPU has passed this flush; 0: not tentative */
    uint32_t bytes;
    uint16_t n;
    uint8_t bits;
    bool clipped;            /* decoded for a single step: longer code follows */
    bool dead;               /* invalidated */
    bool never;              /* cannot be translated */
    bool by_table;           /* jumps from global pages lead to others: by the table of targets */
    bool apart;              /* groups of its translation are not expected in the same page */
    bool astray;             /* its return does not lead behind the call */
    bool global;             /* as mapped at la: a change of address space leaves it there */
    bool evicted;            /* its translation was, and is not made again yet */
    bool watched;            /* translated again by what was seen of its branches */
    uint8_t heat;            /* runs in the interpreter, up to what makes it worth translating */
    uint16_t runs, taken;    /* while branches were watched: of them, that the last one jumped */
    uint8_t row, rows;       /* ... so often in a row, now and the time before */
    uint16_t unlike;         /* ... how often that was another number than before */
    struct bt_cover *covers; /* traces of others that go through the block */
    struct bt_trans *bt;     /* translations, the one of la first */
    struct vmci_insn insn[];
};
#define GPA_NONE (~0ull)

struct block_cache {
    struct block *jc[1u << BLK_JC_BITS]; /* by linear address */
    struct block *hash[1u << BLK_HASH_BITS];
    struct code_page *page[1u << BLK_PAGE_BITS];
    unsigned char *chunk[BLK_CHUNKS_MAX];
    unsigned chunks, cur;
    size_t used; /* of chunk[cur] */
};

/* Invalidations from other threads: page address | 1, or 0 for a free slot. */
#define INVAL_SLOTS 32
/* Who caches code of which page is kept by hash of the page. */
#define OWNER_SLOTS 4096u

/* ---- replay log ------------------------------------------------------------------------------ */

#define IO_LOG_MAX 160

struct io_log {
    uint64_t stamp; /* vmci_retired_now of the instruction it belongs to */
    unsigned n, pos;
    bool overflow;
    struct {
        uint64_t addr, data;
        uint8_t kind, bytes;
        bool write;
    } e[IO_LOG_MAX];
};

/* ---- read-modify-write of memory ------------------------------------------------------------- */

struct rmw {
    bool slow;   /* rmw_end has something to do */
    bool bounce; /* buf holds the operand: to be written back */
    bool locked; /* holds the VM's split lock */
    uint8_t bytes;
    uint64_t la;
    uint64_t code_gpa; /* memory was modified in place on a page with code */
    _Alignas(16) uint8_t buf[16];
};

/* ---- the vCPU and the VM --------------------------------------------------------------------- */

enum soft_stat {
    STAT_BLOCKS,  /* decoded blocks built */
    STAT_DECODED, /* instructions decoded */
    STAT_LOOKUPS, /* jump cache misses */
    STAT_TLB_FILLS,
    STAT_TLB_FLUSHES,
    STAT_CODE_WRITES, /* stores to pages with code */
    STAT_INVALS,      /* blocks dropped */
    STAT_CACHE_FLUSHES,
    STAT_EXCEPTIONS,
    STAT_IRQS,
    STAT_MMIO,
    STAT_PIO,
    STAT_STEPS, /* instructions executed one at a time */
    STAT_COUNT,
};

#define SOFT_MAX_BP 32

struct vmci_soft_cpu {
    struct vmci_cpu cpu; /* first: engine code converts between the two */

    struct rmw rmw;
    struct tlb_info info[TLB_FILLED][VMCI_TLB_SIZE];
    uint32_t tlb_log_n; /* > TLB_LOG: overflowed */
    uint32_t tlb_log[TLB_LOG];
    uint64_t tlb_used[TLB_FILLED][TLB_RUNS / 64]; /* runs with entries filled since all went */
    uint32_t tlb_wr[TLB_WR_COUNTS]; /* entries with write access, by hash of the page's gpa */
    uint16_t tlb_keys;              /* protection keys of user pages that may be in the TLB */
    struct tlb_half {
        uint64_t large_2m[TLB_LARGE_WORDS], large_1g[TLB_LARGE_WORDS];
        uint64_t code[TLB_CODE_WORDS];
        uint64_t epoch;  /* counts changes of mappings of code; part of block keys */
        bool local_code; /* blocks were found in pages that are not global */
    } half[TLB_HALVES];

    uint64_t key[TLB_HALVES]; /* of blocks that may run now */
    uint64_t insn_stop;       /* cpu.retired at which the run loop looks up */
    uint64_t insn_limit;      /* ... at which run returns */
    uint64_t deadline_ns;
    uint32_t pause_limit; /* 0: PAUSEs are not counted */
    uint32_t pauses;      /* without a longer gap; pause_limit: leave */
    uint64_t pause_at;    /* vmci_retired_now of the last one */
    struct block_cache code;
    uint64_t inval[INVAL_SLOTS];      /* (a) */
    uint32_t inval_all;               /* (a) */
    uint16_t slot_pages[OWNER_SLOTS]; /* adopted pages by owner slot */
    uint64_t ack_seq;                 /* (a) code flushes seen; UINT64_MAX: not running */
    uint64_t left_seq;                /* ack_seq when it ran last */

    struct io_log log;
    bool foreign;  /* single instructions of somebody else's state: trust nothing (emulate.h) */
    bool resuming; /* emulate.c: an exit was completed */
    bool owed;     /* an exit waits for completion */
    bool stashed;  /* completion led to another exit: the next run reports it */
    bool want_window;
    bool irq_wait;                 /* an interrupt was pending when it could not be taken */
    bool one_shot;                 /* REP executes one iteration */
    uint8_t outcome;               /* what the last instruction that gave up returned */
    uint64_t held_db;              /* what MOV SS held back for the instruction under way */
    uint8_t exit_len;              /* of the instruction that made a hypercall */
    uint64_t seen_dr7, seen_dr[4]; /* what the TLB knows of */
    uint64_t fault_at;             /* cpu.retired when the last exception was delivered */
    uint64_t rep_at, rep_rip;      /* cpu.retired and rip when a REP gave up between iterations */
    uint64_t uncounted;            /* instructions retired by completions since the last run */
    uint64_t run_start;            /* cpu.retired when run was entered */
    uint64_t skip_bp;              /* breakpoint at this address was reported: go over it once */

    struct vmc_breakpoint bp[SOFT_MAX_BP];
    unsigned bps;
    bool bp_exec, bp_data;
    bool watch_hit;
    uint64_t watch_la;

    /* Pages that move (softmem.c). */
    uint64_t mem_ack;   /* (a) revokes obeyed; UINT64_MAX: not running */
    uint64_t mem_seen;  /* of these, the last for which the TLB was dropped */
    uint64_t mem_gpa;   /* page that is waited for */
    uint32_t mem_tries; /* since something was had */
    bool in_place;      /* no pointers are held across accesses: wait in the middle */

    uint64_t stat[STAT_COUNT];
    struct vmci_bt bt;
};

#define SOFT_MAX_CPUS 64

struct vmci_soft_vm {
    const struct vmc_platform *pf;
    struct vmc_mem *mem;
    struct vmci_mem_listener listener;
    struct vmc_cpu_policy policy;
    uint32_t count; /* (a) */
    bool virtual_time;
    bool translate;  /* VMC_SOFT_TRANSLATE */
    size_t bt_bytes; /* code memory of a vCPU */
    uint8_t bt_hot;  /* runs of a block in the interpreter before it is translated */
    void (*trace)(void *ctx, uint32_t vcpu, const char *line); /* of every instruction */
    void *trace_ctx;
    void (*translated)(void *ctx, uint32_t vcpu, const struct vmc_translation *t);
    void *translated_ctx;
    uint32_t a20_off;             /* (a) vCPUs look at it with VMCI_REQ_FLUSH */
    uint32_t split_lock;          /* (a) held by locked accesses across pages */
    uint64_t code_seq;            /* (a) counts requests to give up write access to code pages */
    uint64_t owners[OWNER_SLOTS]; /* (a) by hash of the page: vCPUs that may cache its code */
    struct vmci_soft_cpu *cpu[SOFT_MAX_CPUS]; /* (a) */
};

/* A vCPU, or NULL. Those who take pages back may look while vCPUs are still being created. */
static inline struct vmci_soft_cpu *soft_cpu_at(const struct vmci_soft_vm *vm, uint32_t i)
{
    return vmci_load_acquire(&vm->cpu[i]);
}

static inline struct vmci_soft_cpu *soft_of(struct vmci_cpu *cpu)
{
    return (struct vmci_soft_cpu *)(void *)cpu;
}

/* ---- softmem.c ------------------------------------------------------------------------------- */

void soft_mem_enter(struct vmci_soft_cpu *sc);
void soft_mem_leave(struct vmci_soft_cpu *sc);
/* Drop what was revoked. Only where no pointer is held. */
void soft_mem_obey(struct vmci_soft_cpu *sc);
/* Before an instruction that ended with VMCI_RETRY is executed again. */
void soft_mem_again(struct vmci_soft_cpu *sc);
/* Bring the page in. 0: look again; VMCI_RETRY. */
int soft_mem_bring(struct vmci_soft_cpu *sc, uint64_t gpa, bool write);
bool soft_mem_settled(void *ctx, uint64_t seq);

/* ---- softtlb.c ------------------------------------------------------------------------------- */

void soft_tlb_init(struct vmci_soft_cpu *sc);
/*
 * Translate a page. acc: TLB_R, TLB_W or TLB_X; mode: a filled one. 0 or VMCI_FAULT (#PF recorded).
 */
int soft_tlb_get(struct vmci_cpu *cpu, unsigned mode, uint64_t la, unsigned acc, uint32_t extra,
                 struct tlb_info **out);
/* Give up direct write access to one page (own thread), or to all. */
void soft_tlb_drop_write(struct vmci_soft_cpu *sc, uint64_t gpa);
/* Take over the state of address line 20, before the TLB is flushed. */
static inline void soft_see_a20(struct vmci_soft_cpu *sc)
{
    sc->cpu.paging_lacks &= ~(uint32_t)VMC_PAGING_NO_A20;
    if (vmci_load_acquire(&sc->cpu.vm->a20_off) != 0)
        sc->cpu.paging_lacks |= VMC_PAGING_NO_A20;
}
/* The memory map or dirty log asks: drop everything that was cached of guest memory. */
void soft_tlb_forget(struct vmci_soft_cpu *sc);

/* soft_loop.c: does a data breakpoint lie in the page? */
bool soft_watched(const struct vmci_soft_cpu *sc, uint64_t page);

int vmci_ld_slow(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, void *dst);
int vmci_st_slow(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, const void *src);
/* See rmw_begin in mem.h. */
void *vmci_rmw_slow(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, bool lock, int *rc);
int vmci_rmw_end(struct vmci_cpu *cpu);
int vmci_insn_la_seg(struct vmci_cpu *cpu, const struct vmci_insn *in, uint64_t ea, unsigned bytes,
                     bool write, uint64_t *la);

/* ---- iolog.c --------------------------------------------------------------------------------- */

void io_log_reset(struct vmci_soft_cpu *sc);
/* Enter the embedder's answer to cpu->exit. */
void io_log_answer(struct vmci_soft_cpu *sc, uint64_t data);

/* ---- blocks.c, smc.c ------------------------------------------------------------------------- */

/* The block at cpu->rip: 0 and *out, or VMCI_FAULT. max: instructions wanted (1: single step). */
int block_find(struct vmci_soft_cpu *sc, unsigned max, struct block **out);
/*
 * The block at la, whose guest-physical address is gpa, in a page of which code was just found:
 * NULL if there is none and decode is not set, or if it is not one to keep.
 */
struct block *block_ahead(struct vmci_soft_cpu *sc, uint64_t la, uint64_t gpa, bool decode);
void block_flush_all(struct vmci_soft_cpu *sc);
void block_cache_free(struct vmci_soft_cpu *sc);
void block_kill(struct vmci_soft_cpu *sc, struct block *b);
struct code_page *code_page_find(struct vmci_soft_cpu *sc, uint64_t gpa);
/* Still what the memory holds? */
bool block_verify(struct vmci_soft_cpu *sc, struct block *b);

/* This vCPU is about to cache code of the page: every writer will tell. */
void smc_adopt_page(struct vmci_soft_cpu *sc, struct code_page *p, uint8_t *flags);
/* The last block of a page is gone; or of all pages. */
void smc_disown_page(struct vmci_soft_cpu *sc, struct code_page *p);
void smc_disown_all(struct vmci_soft_cpu *sc);
/* This vCPU wrote bytes of a page that is flagged VMCI_PG_CODE. */
void smc_written(struct vmci_soft_cpu *sc, uint64_t gpa, unsigned bytes, uint8_t *flags);
/* Any thread: code of these bytes is stale. */
void smc_notify(struct vmci_soft_vm *vm, uint64_t gpa, uint64_t bytes,
                const struct vmci_soft_cpu *except);
/* Process what other threads asked for (VMCI_REQ_CODE). */
void smc_process(struct vmci_soft_cpu *sc);
/* Have all vCPUs passed the flush seq? */
bool smc_settled(const struct vmci_soft_vm *vm, uint64_t seq);
void smc_enter(struct vmci_soft_cpu *sc);
void smc_leave(struct vmci_soft_cpu *sc);

/* From another thread: translated code looks up as well. */
static inline void soft_request(struct vmci_soft_cpu *sc, uint32_t bits)
{
    (void)vmci_fetch_or(&sc->cpu.request, bits);
    vmci_store_release(&sc->bt.jump_mask, 0ull);
}

static inline uint64_t code_bits_key(const struct vmci_cpu *cpu)
{
    return (cpu->code_bits == 64 ? 2u : cpu->code_bits == 32 ? 1u : 0u) | (cpu->cpl == 3 ? 4u : 0u);
}
static inline void soft_new_key(struct vmci_soft_cpu *sc)
{
    uint64_t bits = 0x80 | code_bits_key(&sc->cpu);

    sc->key[0] = sc->half[0].epoch << 8 | bits;
    sc->key[1] = sc->half[1].epoch << 8 | bits | 8;
}
/* Which of the bits of tlb_half.code is the page's. */
static inline unsigned tlb_code_bit(uint64_t la)
{
    return (unsigned)(((la >> VMC_PAGE_SHIFT) * 0x9e3779b97f4a7c15ull) >> 50); /* 14 bits */
}
static inline unsigned soft_half(uint64_t la)
{
    return (unsigned)(la >> 63);
}
/* Is b what the processor would execute at la? */
static inline bool soft_valid(const struct vmci_soft_cpu *sc, const struct block *b, uint64_t la)
{
    return b->la == la && b->key == sc->key[soft_half(la)];
}

/* Linear address of rip. */
static inline uint64_t soft_code_la(const struct vmci_cpu *cpu)
{
    if (likely(cpu->code_bits == 64))
        return cpu->rip;
    return (uint32_t)(cpu->seg[VMC_CS].base + cpu->rip);
}

static inline unsigned jc_slot(uint64_t la)
{
    return (unsigned)((la ^ (la >> 12)) & ((1u << BLK_JC_BITS) - 1));
}

#endif
