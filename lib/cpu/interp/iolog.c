/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Device accesses of one instruction. What was completed is kept until the instruction is done, so
 * that an instruction that has to leave for the embedder in its middle can simply be run again.
 */
#include "cpu/interp/mem.h"

void io_log_reset(struct vmci_soft_cpu *sc)
{
    sc->log.n = sc->log.pos = 0;
}

static void append(struct io_log *log, enum vmci_io_kind kind, bool write, uint64_t addr,
                   unsigned bytes, uint64_t data)
{
    if (log->n == IO_LOG_MAX)
        return;
    log->e[log->n].addr = addr;
    log->e[log->n].data = data;
    log->e[log->n].kind = (uint8_t)kind;
    log->e[log->n].bytes = (uint8_t)bytes;
    log->e[log->n].write = write;
    log->pos = ++log->n;
}

void io_log_answer(struct vmci_soft_cpu *sc, uint64_t data)
{
    const struct vmc_exit *x = &sc->cpu.exit;

    if (x->kind == VMC_EXIT_IO)
        append(&sc->log, VMCI_IO_PIO, x->u.io.write, x->u.io.port, x->u.io.bytes, data);
    else if (x->kind == VMC_EXIT_MMIO)
        append(&sc->log, VMCI_IO_MMIO, x->u.mmio.write, x->u.mmio.gpa, x->u.mmio.bytes, data);
    else
        append(&sc->log, VMCI_IO_MSR, x->u.msr.write, x->u.msr.index, 8, data);
    sc->log.pos = 0;
}

static int leave(struct vmci_cpu *cpu, enum vmci_io_kind kind, bool write, uint64_t addr,
                 unsigned bytes, uint64_t data)
{
    struct vmc_exit *x = &cpu->exit;

    memset(x, 0, sizeof(*x));
    switch (kind) {
    case VMCI_IO_PIO:
        x->kind = VMC_EXIT_IO;
        x->u.io.port = (uint16_t)addr;
        x->u.io.bytes = (uint8_t)bytes;
        x->u.io.write = write;
        x->u.io.data = write ? (uint32_t)data : 0;
        break;
    case VMCI_IO_MMIO:
        x->kind = VMC_EXIT_MMIO;
        x->u.mmio.gpa = addr;
        x->u.mmio.bytes = (uint8_t)bytes;
        x->u.mmio.write = write;
        x->u.mmio.data = write ? data : 0;
        break;
    case VMCI_IO_MSR:
        x->kind = VMC_EXIT_MSR;
        x->u.msr.index = (uint32_t)addr;
        x->u.msr.write = write;
        x->u.msr.value = write ? data : 0;
        break;
    }
    soft_of(cpu)->log.pos = 0;
    return VMCI_EXIT;
}

static int ask(struct vmci_cpu *cpu, enum vmci_io_kind kind, bool write, uint64_t addr,
               unsigned bytes, uint64_t *data)
{
    const struct vmc_engine_io *io = cpu->io;
    uint32_t d32 = (uint32_t)*data;
    int rc = VMC_IO_EXIT;

    if (io == NULL)
        return rc;
    vmci_fp_park(cpu);
    /* A device may wait for others to let go of a page, so this vCPU must not hold any meanwhile.
     */
    soft_mem_leave(soft_of(cpu));
    switch (kind) {
    case VMCI_IO_PIO:
        if (io->pio != NULL) {
            rc = io->pio(io->ctx, write, (uint16_t)addr, bytes, &d32);
            *data = write ? *data : d32;
        }
        break;
    case VMCI_IO_MMIO:
        if (io->mmio != NULL)
            rc = io->mmio(io->ctx, write, addr, bytes, data);
        break;
    case VMCI_IO_MSR:
        if (io->msr != NULL)
            rc = io->msr(io->ctx, write, (uint32_t)addr, data);
        break;
    }
    soft_mem_enter(soft_of(cpu));
    return rc;
}

int vmci_io_access(struct vmci_cpu *cpu, enum vmci_io_kind kind, bool write, uint64_t addr,
                   unsigned bytes, uint64_t *data)
{
    struct vmci_soft_cpu *sc = soft_of(cpu);
    struct io_log *log = &sc->log;
    uint64_t stamp = vmci_retired_now(cpu);

    if (log->stamp != stamp) {
        log->stamp = stamp;
        log->n = log->pos = 0;
    }
    if (log->pos < log->n) {
        if (!write)
            *data = log->e[log->pos].data;
        log->pos++;
        return 0;
    }
    if (log->n == IO_LOG_MAX) { /* no instruction makes so many accesses to a device */
        memset(&cpu->exit, 0, sizeof(cpu->exit));
        cpu->exit.kind = VMC_EXIT_EMULATION;
        return VMCI_EXIT;
    }
    sc->stat[kind == VMCI_IO_MMIO ? STAT_MMIO : STAT_PIO]++;
    uint64_t v = write ? *data : 0;
    int rc = ask(cpu, kind, write, addr, bytes, &v);
    if (rc == VMC_IO_GP)
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    if (rc != VMC_IO_DONE)
        return leave(cpu, kind, write, addr, bytes, *data);
    if (bytes < 8)
        v &= (1ull << (8 * bytes)) - 1;
    append(log, kind, write, addr, bytes, v);
    if (!write)
        *data = v;
    /* The interrupt or kick that it caused comes before the next instruction. */
    if (vmci_load_relaxed(&cpu->request) != 0 && cpu->blk_end > cpu->cur + 1)
        cpu->blk_end = cpu->cur + 1;
    return 0;
}
