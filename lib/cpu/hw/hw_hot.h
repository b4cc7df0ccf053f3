/* SPDX-License-Identifier: BSD-2-Clause */
/* Exits that come most often, to be inlined into the path from exit to entry. */
#ifndef HW_HOT_H
#define HW_HOT_H

#include "cpu/hw/hw_int.h"

static inline bool hw_asked_for(const struct hw_vcpu *v, uint32_t kind)
{
    return (v->exit_mask & (1u << kind)) != 0;
}

static inline int hw_owe(struct hw_vcpu *v, uint32_t kind, unsigned len)
{
    v->owed = kind;
    v->owed_emulator = false;
    v->insn_len = (uint8_t)len;
    return HW_LEAVE;
}

/* ---- from one exit to the next entry ----------------------------------------------------------
 */

static inline bool hw_past_deadline(struct hw_vcpu *v)
{
    const struct vmc_platform *pf = v->vm->pf;

    if (v->deadline_ns == 0)
        return false;
    if (likely(v->deadline_tsc != 0)) {
        uint64_t now = v->vm->hw->rdtsc(pf->ctx);
        v->timer_left = v->deadline_tsc - now;
        return (int64_t)v->timer_left <= 0;
    }
    return pf->now_ns(pf->ctx) >= v->deadline_ns;
}

/* May the guest be entered again at once? Else the run loop finds out why not. */
static inline bool hw_again(struct hw_vcpu *v)
{
    return likely((vmci_load_relaxed(&v->stop) | v->todo) == 0) && !hw_past_deadline(v);
}

/* ---- the instruction that exited ------------------------------------------------------------- */

/* Is what was found still so? The entries are looked at again: guests change them without a word.
 */
static inline bool hw_code_still(const struct hw_code_page *c, uint64_t page, uint64_t cr3)
{
    if (c->page != page || c->cr3 != cr3)
        return false;
    /* Entries beyond the last level repeat it. */
    return vmci_load_relaxed(c->entry[0]) == c->value[0] &&
           vmci_load_relaxed(c->entry[1]) == c->value[1] &&
           vmci_load_relaxed(c->entry[2]) == c->value[2] &&
           vmci_load_relaxed(c->entry[3]) == c->value[3];
}

/* At least 15 bytes of 64-bit code at rip, or NULL: they are to be had by the general walker. */
static inline const uint8_t *hw_code_at(struct hw_vcpu *v, uint64_t rip, uint64_t cr3)
{
    uint64_t page = rip & ~(uint64_t)(VMC_PAGE_SIZE - 1), at = rip & (VMC_PAGE_SIZE - 1);

    if (unlikely(at >= VMC_PAGE_SIZE - 15) ||
        (unlikely(!hw_code_still(&v->code, page, cr3)) && !hw_code_find(v, page, cr3)))
        return NULL;
    return v->code.hva + at;
}

/* ---- CPUID ----------------------------------------------------------------------------------- */

static inline __attribute__((always_inline)) int hw_on_cpuid(struct hw_vcpu *v, unsigned len,
                                                             struct vmc_exit *x)
{
    uint64_t *g = v->st.gpr;
    uint32_t leaf = (uint32_t)g[VMC_RAX], subleaf = (uint32_t)g[VMC_RCX];

    v->stat[HW_STAT_CPUID]++;
    if (unlikely(hw_asked_for(v, VMC_EXIT_CPUID))) {
        hw_set_exit(v, x, VMC_EXIT_CPUID);
        x->u.cpuid.leaf = leaf;
        x->u.cpuid.subleaf = subleaf;
        return hw_owe(v, VMC_EXIT_CPUID, len);
    }
    const struct vmc_cpuid_leaf *l = hw_cpuid_plain(v->vm, leaf, subleaf);
    if (likely(l != NULL)) {
        g[VMC_RAX] = l->eax;
        g[VMC_RBX] = l->ebx;
        g[VMC_RCX] = l->ecx;
        g[VMC_RDX] = l->edx;
    } else {
        uint32_t out[4];
        hw_need(v, VMC_ST_CTRL | VMC_ST_SEG);
        vmci_emulator_cpuid(v->emu, &v->st, leaf, subleaf, out);
        g[VMC_RAX] = out[0];
        g[VMC_RBX] = out[1];
        g[VMC_RCX] = out[2];
        g[VMC_RDX] = out[3];
    }
    hw_skip(v, len);
    return HW_RESUME;
}

/* ---- ports ----------------------------------------------------------------------------------- */

/* What IN and OUT of so many bytes move of RAX. */
static inline uint32_t hw_io_mask(unsigned bytes)
{
    static const uint32_t mask[8] = {[1] = 0xff, [2] = 0xffff, [4] = ~0u};

    return mask[bytes & 7];
}

/*
 * IN or OUT of 1, 2 or 4 bytes by whoever answers at once. False: it is for the VM layer, see
 * hw_leave_for_pio. Little is passed on from before the callback to what follows it; write is a
 * constant, for shorter code of each.
 */
static inline __attribute__((always_inline)) bool hw_pio(struct hw_vcpu *v, bool write,
                                                         uint16_t port, unsigned bytes)
{
    uint64_t *rax = &v->st.gpr[VMC_RAX];
    uint32_t data = (uint32_t)*rax; /* buses take what they need */

    hw_callback(v);
    if (unlikely(v->io->pio(v->io->ctx, write, port, bytes, &data) != VMC_IO_DONE))
        return false;
    if (!write) { /* a 32-bit result clears the upper half of RAX */
        uint32_t mask = hw_io_mask(bytes);
        *rax = (bytes == 4 ? 0 : *rax & ~(uint64_t)mask) | (data & mask);
    }
    return true;
}

#endif
