/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * x87 operands that go round the end of what an address of the instruction reaches. An environment
 * is seven numbers of 2 or 4 bytes, and each register, also that of FLD, FSTP, FBLD and FBSTP, one
 * of 8 bytes and one of 2. Each has an address of its own, which wraps; a number that lies across
 * the end does not (as an EPYC 9004 does it).
 */
#include "fp_int.h"

/* The size of the number at this offset of an operand. */
static unsigned number_at(unsigned bytes, unsigned at)
{
    unsigned env = bytes == 28 || bytes == 108 ? 28 : bytes == 14 || bytes == 94 ? 14 : 0;

    if (at < env)
        return env / 7;
    return (at - env) % 10 == 0 ? 8 : 2;
}

/* 64-bit addresses wrap only where they are not canonical. */
bool vmci_fp_wraps(const struct vmci_insn *in, uint64_t ea, unsigned bytes)
{
    if (in->addrsize == 8 ||
        (bytes != 10 && bytes != 14 && bytes != 28 && bytes != 94 && bytes != 108))
        return false;
    return ea + bytes > (in->addrsize == 4 ? 1ull << 32 : 1ull << 16);
}

/* The linear address of the number at ea + at. */
static int number_la(struct vmci_cpu *cpu, const struct vmci_insn *in, uint64_t ea, unsigned n,
                     bool write, uint64_t *la)
{
    return vmci_seg_la(cpu, in->seg, in->addrsize == 4 ? (uint32_t)ea : (uint16_t)ea, n, write, la);
}

int vmci_fp_wrapped_probe(struct vmci_cpu *cpu, const struct vmci_insn *in, unsigned bytes,
                          bool write)
{
    uint64_t ea = vmci_ea(cpu, in), la;

    for (unsigned at = 0, n; at < bytes; at += n) {
        n = number_at(bytes, at);
        int r = number_la(cpu, in, ea + at, n, write, &la);
        if (r == 0 && at == 0)
            r = vmci_fp_check_ac(cpu, la, bytes);
        if (r == 0 && write)
            r = vmci_probe_wr(cpu, la, n);
        if (r != 0)
            return r;
    }
    return 0;
}

int vmci_fp_wrapped_read(struct vmci_cpu *cpu, const struct vmci_insn *in, uint8_t *p,
                         unsigned bytes)
{
    uint64_t ea = vmci_ea(cpu, in), la;

    for (unsigned at = 0, n; at < bytes; at += n) {
        n = number_at(bytes, at);
        int r = number_la(cpu, in, ea + at, n, false, &la);
        if (r == 0)
            r = vmci_rd_block(cpu, la, p + at, n);
        if (r != 0)
            return r;
    }
    return 0;
}

int vmci_fp_wrapped_write(struct vmci_cpu *cpu, const struct vmci_insn *in, const uint8_t *p,
                          unsigned bytes)
{
    uint64_t ea = vmci_ea(cpu, in), la;

    for (unsigned at = 0, n; at < bytes; at += n) {
        n = number_at(bytes, at);
        int r = number_la(cpu, in, ea + at, n, true, &la);
        if (r == 0)
            r = vmci_wr_block(cpu, la, p + at, n);
        if (r != 0)
            return r;
    }
    return 0;
}
