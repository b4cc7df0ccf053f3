/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest memory for executors: the TLB hit path inline, everything else behind a call. */
#ifndef INTERP_MEM_H
#define INTERP_MEM_H

#include "cpu/interp/soft_int.h"

/* Any alignment, and one access of that size to the compiler. */
typedef uint16_t __attribute__((aligned(1), may_alias)) u16_u;
typedef uint32_t __attribute__((aligned(1), may_alias)) u32_u;
typedef uint64_t __attribute__((aligned(1), may_alias)) u64_u;
typedef uint8_t u8_u;

/*
 * Copy without libc, whose memcpy uses vector registers: the guest's may be live in them. Bytes go
 * in ascending order.
 */
static inline void copy_bytes(void *dst, const void *src, size_t n)
{
    __asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

static inline struct vmci_tlb *tlb_now(struct vmci_cpu *cpu)
{
    return &cpu->tlb[cpu->tlb_mode];
}

#define MEM_ACCESSORS(n, T)                                                                        \
    VMCI_GUESTS_RACE static inline int ld##n(struct vmci_cpu *cpu, uint64_t la, T *out)            \
    {                                                                                              \
        const struct vmci_tlb *t = tlb_now(cpu);                                                   \
        unsigned i = vmci_tlb_index(la);                                                           \
        if (likely(vmci_tlb_hit(t->rd[i], la, sizeof(T)))) {                                       \
            *out = *(const volatile T##_u *)(t->addend[i] + la);                                   \
            return 0;                                                                              \
        }                                                                                          \
        return vmci_ld_slow(cpu, la, sizeof(T), out);                                              \
    }                                                                                              \
    VMCI_GUESTS_RACE static inline int st##n(struct vmci_cpu *cpu, uint64_t la, T v)               \
    {                                                                                              \
        const struct vmci_tlb *t = tlb_now(cpu);                                                   \
        unsigned i = vmci_tlb_index(la);                                                           \
        if (likely(vmci_tlb_hit(t->wr[i], la, sizeof(T)))) {                                       \
            *(volatile T##_u *)(t->addend[i] + la) = v;                                            \
            return 0;                                                                              \
        }                                                                                          \
        return vmci_st_slow(cpu, la, sizeof(T), &v);                                               \
    }

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
MEM_ACCESSORS(8, u8)
MEM_ACCESSORS(16, u16)
MEM_ACCESSORS(32, u32)
MEM_ACCESSORS(64, u64)
#undef MEM_ACCESSORS

/*
 * Host address of an operand to read, modify and write in place, after all checks for writing; or
 * NULL with *rc set. lock: the access must be one atomic operation. Then, if rmw.slow is set,
 * vmci_rmw_end must succeed before the instruction changes any register or flag.
 */
static inline void *rmw_begin(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, bool lock,
                              int *rc)
{
    const struct vmci_tlb *t = tlb_now(cpu);
    unsigned i = vmci_tlb_index(la);

    if (likely(vmci_tlb_hit(t->wr[i], la, bytes)))
        return (void *)(t->addend[i] + la);
    return vmci_rmw_slow(cpu, la, bytes, lock, rc);
}
static inline int rmw_done(struct vmci_cpu *cpu)
{
    return unlikely(soft_of(cpu)->rmw.slow) ? vmci_rmw_end(cpu) : 0;
}

/*
 * REP MOVS or REP STOS of 64-bit code without a segment's base, upwards: as much as the TLB has, 64
 * KiB at most, with registers as between two iterations. Is that all of it?
 */
bool vmci_string_whole(struct vmci_cpu *cpu, const struct vmci_insn *in);

/* Linear address of the memory operand, segment checks done. */
static inline int insn_la(struct vmci_cpu *cpu, const struct vmci_insn *in, unsigned bytes,
                          bool write, uint64_t *la)
{
    if (likely((in->flags & VMCI_IF_LINEAR) != 0)) {
        *la = cpu->gpr[in->base] + (cpu->gpr[in->index] << in->scale) + (uint64_t)in->disp;
        return 0;
    }
    return vmci_insn_la_seg(cpu, in, vmci_ea(cpu, in), bytes, write, la);
}

/*
 * Two numbers, one behind the other: far pointers, bounds, what LGDT loads. They are two accesses, and
 * the address of the second wraps as addresses of the instruction do.
 */
int vmci_rd_pair(struct vmci_cpu *cpu, const struct vmci_insn *in, unsigned bytes0, unsigned bytes1,
                 uint64_t *v0, uint64_t *v1);

#endif
