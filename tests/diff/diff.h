/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Differential testing of user-mode code: the same instructions, registers and memory on several
 * executors (the host CPU, the software CPU ...), results compared exactly.
 *
 * Every executor gives the code the same linear addresses, so that fault addresses, return
 * addresses and the x87 instruction pointer agree. A case ends by a jump to DIFF_EXIT or by an
 * exception.
 */
#ifndef DIFF_H
#define DIFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DIFF_CODE       0x10000000u /* two pages, executable, read-only for the code itself */
#define DIFF_CODE_PAGES 2u
#define DIFF_DATA       0x20000000u /* two pages read-write, one read-only, then nothing */
#define DIFF_DATA_RW    2u
#define DIFF_STACK      0x30000000u /* one page, nothing above and below */
/* Not a sum of the others, so that base + index does not hit it. */
#define DIFF_EXIT       0x3a570000u
#define DIFF_PAGE       4096u
#define DIFF_MEM_BYTES  (4 * DIFF_PAGE) /* data (3 pages), stack: what is filled and compared */

/* Selectors, the same for every executor: Linux' flat ones, and 16-bit ones in the LDT. */
#define DIFF_CS64 0x33u
#define DIFF_CS32 0x23u
#define DIFF_DS   0x2bu
#define DIFF_LDT_CODE16  0x07u /* base DIFF_CODE */
#define DIFF_LDT_DATA16  0x0fu /* base DIFF_DATA */
#define DIFF_LDT_STACK16 0x17u /* base DIFF_STACK, limit one page */
/* Data segments of 16- and 32-bit code that are not the usual ones: from entry DIFF_LDT_SEGS of the
   LDT on, in the order of diff_segs. */
#define DIFF_LDT_SEGS 3u
#define DIFF_SEGS     8u
struct diff_seg {
    uint32_t base, limit; /* the limit as the descriptor has it */
    uint16_t attr;        /* struct vmc_segment */
};
extern const struct diff_seg diff_segs[DIFF_SEGS];
static inline unsigned diff_seg_sel(unsigned kind) /* kind: from 1 on */
{
    return (DIFF_LDT_SEGS + kind - 1) << 3 | 7;
}
#define DIFF_FS_BASE 0x140ull
#define DIFF_GS_BASE (0ull - 0x2c0)

#define DIFF_MAX_INSNS 10u
#define DIFF_CODE_MAX  224u
#define DIFF_MAX_BYTES 15u /* of an instruction */

/* FXSAVE layout and the upper halves of YMM. */
struct diff_fp {
    uint16_t fcw, fsw;
    uint8_t ftw, rsvd0;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16];
    uint8_t xmm[16][16];
    uint8_t rest[96];
    uint64_t header[8];
    uint8_t ymmh[16][16];
};

struct diff_regs {
    uint64_t gpr[16]; /* encoding order */
    uint64_t rip, rflags;
    _Alignas(64) struct diff_fp fp;
};

struct diff_case {
    uint8_t bits; /* 64, 32, 16 */
    uint8_t insns;
    uint8_t ds, es; /* 0: the usual segment, else 1 + an index of diff_segs */
    uint8_t len[DIFF_MAX_INSNS];
    uint16_t code_at;    /* offset of the first instruction in the code pages */
    uint16_t code_bytes; /* without the jump to DIFF_EXIT */
    uint8_t code[DIFF_CODE_MAX];
    uint64_t seed;     /* of the memory and of the FP registers */
    uint8_t fp_kind;   /* what the FP registers hold: enum diff_fp_kind */
    uint8_t data_kind; /* the same for memory */
    struct diff_regs in; /* rip and fp are derived: diff_case_finish */
};

enum diff_fp_kind { DIFF_INTS, DIFF_FLOATS, DIFF_DOUBLES, DIFF_MIXED, DIFF_KINDS };

#define DIFF_END     0x100u /* reached DIFF_EXIT */
#define DIFF_HANG    0x101u /* did not end within its budget of instructions */
#define DIFF_DEAD    0x102u /* the executor broke down */
#define DIFF_STOPPED 0x103u /* did not end in time, was stopped anywhere */

struct diff_result {
    uint32_t vector; /* exception, or DIFF_* */
    uint32_t code;   /* its error code */
    uint64_t cr2;    /* #PF only */
    struct diff_regs out;
    uint8_t mem[DIFF_MEM_BYTES];
};

struct diff_executor {
    const char *name;
    /* NULL: not possible here; *why says it. */
    void *(*create)(const char **why);
    void (*destroy)(void *ctx);
    bool (*has_bits)(void *ctx, unsigned bits);
    /* Run n cases. */
    void (*run)(void *ctx, const struct diff_case *c, struct diff_result *r, unsigned n);
};

/* What the software CPU offers here: enum vmci_feat bits; both executors run only that. */
uint64_t diff_features(void);

extern const struct diff_executor diff_native;
extern const struct diff_executor diff_soft;
extern const struct diff_executor diff_bt;

/* ---- random numbers -------------------------------------------------------------------------- */

struct diff_rng {
    uint64_t s;
};
uint64_t diff_rand(struct diff_rng *r);
static inline unsigned diff_below(struct diff_rng *r, unsigned n)
{
    return (unsigned)((diff_rand(r) >> 11) % n);
}
static inline bool diff_chance(struct diff_rng *r, unsigned percent)
{
    return diff_below(r, 100) < percent;
}

/* ---- cases ----------------------------------------------------------------------------------- */

struct diff_gen;
/* Enumerates every instruction that the decoder accepts. features: mask of enum vmci_feat. */
struct diff_gen *diff_gen_create(uint64_t features);
void diff_gen_destroy(struct diff_gen *g);
/* Share of integer instructions in a case; 50 unless set. */
void diff_gen_mix(struct diff_gen *g, unsigned int_percent);
/* How many instruction forms there are, and the case for a seed. */
unsigned diff_gen_forms(const struct diff_gen *g, unsigned bits);
void diff_gen_case(struct diff_gen *g, unsigned bits, uint64_t seed, struct diff_case *c);
/* One instruction of a given form. */
void diff_gen_form(struct diff_gen *g, unsigned bits, unsigned form, uint64_t seed,
                   struct diff_case *c);
/* Registers for one instruction of random bytes (diff_raw.c), of which the first one is there. */
void diff_gen_raw(struct diff_gen *g, unsigned bits, uint64_t seed, struct diff_case *c);
/* Bytes that are safe to run. */
void diff_raw_bytes(struct diff_rng *r, unsigned bits, uint8_t b[DIFF_MAX_BYTES]);
/* The instruction ends, n bytes long, where the executable pages do. */
void diff_raw_length(struct diff_case *c, unsigned n);
/* Did the processor ask for more bytes than there are? */
bool diff_raw_wants_more(const struct diff_case *c, const struct diff_result *r);
/* Remove instruction i. */
void diff_case_drop(struct diff_case *c, unsigned i);

/* Derive what the seed determines. */
void diff_case_finish(struct diff_case *c);
/* The initial data and stack pages. */
void diff_case_memory(const struct diff_case *c, uint8_t mem[DIFF_MEM_BYTES]);
/* The code pages: INT3, the case's instructions, a jump to DIFF_EXIT, INT3. */
void diff_case_code_pages(const struct diff_case *c, uint8_t out[DIFF_CODE_PAGES * DIFF_PAGE]);

/* Flags that are undefined before the instruction at rip (or at the end of the case). */
uint64_t diff_undefined_flags(struct diff_gen *g, const struct diff_case *c, uint64_t rip);

/* Do the results agree? If not and text is not NULL, it says where. */
bool diff_same(struct diff_gen *g, const struct diff_case *c, const struct diff_result *a,
               const struct diff_result *b, char *text, size_t bytes);

/* Text form, for tests/vectors. write: to a FILE; read: false at the end of the file. */
void diff_case_print(void *file, struct diff_gen *g, const struct diff_case *c);
bool diff_case_read(void *file, struct diff_case *c, bool *bad);

#endif
