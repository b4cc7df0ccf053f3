/* SPDX-License-Identifier: BSD-2-Clause */
/* Debug registers and breakpoints (SDM 3B chapter 18.2, 18.3). */
#include "sys_priv.h"

#define DR6_WRITABLE 0xe00full
#define DR7_WRITABLE 0xffff23ffull
#define DR7_ENABLES  0xffull

enum dr_rw { DR_EXEC, DR_WRITE, DR_IO, DR_READ_WRITE };

static int check_access(struct vmci_cpu *cpu, unsigned *n)
{
    if (*n > 7 || ((*n == 4 || *n == 5) && (cpu->cr4 & VMC_CR4_DE) != 0))
        return vmci_raise(cpu, VMC_VEC_UD);
    if (cpu->cpl != 0)
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    if ((cpu->dr7 & VMC_DR7_GD) != 0) {
        int r = vmci_raise(cpu, VMC_VEC_DB);
        cpu->exc.payload = VMC_DR6_BD;
        return r;
    }
    if (*n == 4 || *n == 5)
        *n += 2;
    return 0;
}

int vmci_dr_read(struct vmci_cpu *cpu, unsigned n, uint64_t *out)
{
    int r = check_access(cpu, &n);

    if (r != 0)
        return r;
    *out = n < 4 ? cpu->dr[n] : n == 6 ? cpu->dr6 : cpu->dr7;
    return 0;
}

int vmci_dr_write(struct vmci_cpu *cpu, unsigned n, uint64_t v)
{
    int r = check_access(cpu, &n);

    if (r != 0)
        return r;
    if (n >= 6 && (v >> 32) != 0)
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    if (n == 6) {
        cpu->dr6 = (v & DR6_WRITABLE) | VMC_DR6_FIXED;
        return 0;
    }
    bool watched = (cpu->dr7 & DR7_ENABLES) != 0;
    if (n < 4)
        cpu->dr[n] = v;
    else
        cpu->dr7 = (v & DR7_WRITABLE) | VMC_DR7_FIXED;
    /* The software TLB knows which pages are watched. */
    if (watched || (cpu->dr7 & DR7_ENABLES) != 0)
        vmci_tlb_flush(cpu, true);
    return 0;
}

static enum dr_rw rw_of(uint64_t dr7, unsigned i)
{
    return (enum dr_rw)(dr7 >> (16 + 4 * i) & 3u);
}

/* Length field 0, 1, 2, 3: 1, 2, 8, 4 bytes; breakpoints are aligned to their length. */
static unsigned bytes_of(uint64_t dr7, unsigned i)
{
    static const uint8_t len[] = {1, 2, 8, 4};
    return len[dr7 >> (18 + 4 * i) & 3u];
}

static bool enabled(uint64_t dr7, unsigned i)
{
    return (dr7 >> (2 * i) & 3u) != 0;
}

/*
 * DR6 bits for an access to [at, at+bytes) by breakpoints whose R/W field is in kinds (a bit mask).
 * Breakpoints that match but are disabled are reported only together with one that is enabled.
 */
static uint64_t match(const struct vmci_cpu *cpu, unsigned kinds, uint64_t at, unsigned bytes)
{
    uint64_t hits = 0;
    bool any = false;

    for (unsigned i = 0; i < 4; i++) {
        unsigned len = bytes_of(cpu->dr7, i);
        uint64_t first = cpu->dr[i] & ~(uint64_t)(len - 1);

        if ((kinds >> rw_of(cpu->dr7, i) & 1u) == 0)
            continue;
        /* Wrap-safe overlap of two short ranges. */
        if (first - at >= bytes && at - first >= len)
            continue;
        hits |= 1u << i;
        any = any || enabled(cpu->dr7, i);
    }
    return any ? hits : 0;
}

static void trap(struct vmci_cpu *cpu, uint64_t hits)
{
    if (hits == 0)
        return;
    cpu->pending_db |= hits;
    vmci_stop_block(cpu);
}

void vmci_dr_data_hit(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, bool write)
{
    if ((cpu->dr7 & DR7_ENABLES) != 0)
        trap(cpu, match(cpu, write ? 1u << DR_WRITE | 1u << DR_READ_WRITE : 1u << DR_READ_WRITE,
                        la, bytes));
}

void sys_dr_io_hit(struct vmci_cpu *cpu, uint16_t port, unsigned bytes)
{
    if ((cpu->dr7 & DR7_ENABLES) != 0 && (cpu->cr4 & VMC_CR4_DE) != 0)
        trap(cpu, match(cpu, 1u << DR_IO, port, bytes));
}

int vmci_dr_exec_hit(struct vmci_cpu *cpu, uint64_t la)
{
    uint64_t hits;
    int r;

    if ((cpu->dr7 & DR7_ENABLES) == 0 || (cpu->rflags & VMC_FLAG_RF) != 0)
        return 0;
    hits = match(cpu, 1u << DR_EXEC, la, 1);
    if (hits == 0)
        return 0;
    r = vmci_raise(cpu, VMC_VEC_DB);
    cpu->exc.payload = hits;
    return r;
}
