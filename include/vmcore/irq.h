/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Interrupt wires between devices and interrupt controllers.
 */
#ifndef VMCORE_IRQ_H
#define VMCORE_IRQ_H

#include <vmcore/platform.h>

VMC_BEGIN_DECLS

/** One end of a wire, by value. A zeroed line is not connected. */
struct vmc_irq_line {
    void (*set)(void *ctx, uint32_t pin, bool level);
    void *ctx;
    uint32_t pin;
};

/** Drive a line. Any thread; a device may hold its own lock. */
static inline void vmc_irq_set(const struct vmc_irq_line *line, bool level)
{
    if (line->set != NULL)
        line->set(line->ctx, line->pin, level);
}

/** Where message-signalled interrupts go, by value. */
struct vmc_msi_sink {
    void (*send)(void *ctx, uint64_t addr, uint32_t data);
    void *ctx;
};

static inline void vmc_msi_send(const struct vmc_msi_sink *sink, uint64_t addr, uint32_t data)
{
    if (sink->send != NULL)
        sink->send(sink->ctx, addr, data);
}

VMC_END_DECLS

#endif
