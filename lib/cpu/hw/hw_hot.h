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

static inline __attribute__((always_inline)) int hw_on_pio(struct hw_vcpu *v, bool write,
                                                           uint16_t port, unsigned bytes,
                                                           unsigned len, struct vmc_exit *x)
{
    uint64_t *rax = &v->st.gpr[VMC_RAX];
    uint32_t mask = bytes >= 4 ? ~0u : (1u << (8 * bytes)) - 1;
    uint32_t data = (uint32_t)*rax & mask;

    v->stat[HW_STAT_IO]++;
    hw_callback(v);
    if (likely(v->io->pio(v->io->ctx, write, port, bytes, &data) == VMC_IO_DONE)) {
        if (!write) /* a 32-bit result clears the upper half of RAX */
            *rax = bytes >= 4 ? data : (*rax & ~(uint64_t)mask) | (data & mask);
        hw_skip(v, len);
        return HW_RESUME;
    }
    hw_set_exit(v, x, VMC_EXIT_IO);
    x->u.io.port = port;
    x->u.io.bytes = (uint8_t)bytes;
    x->u.io.write = write;
    x->u.io.data = write ? data : 0;
    return hw_owe(v, VMC_EXIT_IO, len);
}

#endif
