/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Interrupt controllers of the PC: the 8259 pair, the IOAPIC, a local APIC a vCPU, and the wires
 * and messages between them. None of them knows a CPU: they tell their owner when a vCPU should
 * look (vmci_irqchip_ops), and vCPUs pull the vector.
 *
 * Threads: the PIC, the IOAPIC and the wires share the chip's lock. A local APIC belongs to the
 * thread of its vCPU, except for what other threads do to it - request an interrupt, match its
 * address - which goes through atomics, marked (a). Its timer has a lock of its own, because the
 * timer fires on any thread. Order: chip lock, then timer lock, then the timer queue.
 */
#ifndef IRQ_INT_H
#define IRQ_INT_H

#include <vmcore/engine.h>
#include "base/base_int.h"
#include <vmcore/device.h>
#include <vmcore/irq.h>
#include <vmcore/x86.h>

/* ---- messages ------------------------------------------------------------------------------ */

/* Delivery modes (SDM 3A 11.5.1, 11.6.1). */
enum vmci_irq_mode {
    VMCI_IRQ_FIXED = 0,
    VMCI_IRQ_LOWEST = 1,
    VMCI_IRQ_SMI = 2,
    VMCI_IRQ_NMI = 4,
    VMCI_IRQ_INIT = 5,
    VMCI_IRQ_SIPI = 6,
    VMCI_IRQ_EXTINT = 7,
};

/* An interrupt message on its way to local APICs. */
struct vmci_irq_msg {
    uint32_t dest;
    bool logical;
    bool wide; /* dest is the 32-bit form of x2APIC; else broadcast is 0xff */
    bool level;
    uint8_t mode; /* enum vmci_irq_mode */
    uint8_t vector;
};

/* Decode the address and data of an MSI (SDM 3A 11.11). False: not an interrupt message. */
bool vmci_msi_decode(uint64_t addr, uint32_t data, struct vmci_irq_msg *out);

/* ---- 8259 pair ----------------------------------------------------------------------------- */

struct vmci_pic_unit {
    uint8_t irr, isr, imr;
    uint8_t lines; /* level of each input now */
    uint8_t elcr;  /* inputs that are level-triggered */
    uint8_t lowest; /* the input with the lowest priority */
    uint8_t base;
    uint8_t init_step; /* next ICW expected (2, 3, 4); 0: none */
    bool need_icw4, single, ltim;
    bool auto_eoi, rotate_aeoi, special_mask, special_nested;
    bool read_isr, poll;
};

struct vmci_pic {
    struct vmci_pic_unit unit[2]; /* master, slave on input 2 */
    uint32_t intr;                /* (a) output to the processor */
};

void vmci_pic_reset(struct vmci_pic *p);
/* Drive input 0-15. True when the output rose or stays up: tell the processors. */
bool vmci_pic_set(struct vmci_pic *p, unsigned pin, bool level);
/* Interrupt acknowledge: the vector, or -1 when the output is low. */
int vmci_pic_ack(struct vmci_pic *p);
/* Ports 0x20, 0x21 (unit 0), 0xa0, 0xa1 (unit 1); both say whether the output is up through intr. */
uint8_t vmci_pic_read(struct vmci_pic *p, unsigned unit, unsigned reg);
void vmci_pic_write(struct vmci_pic *p, unsigned unit, unsigned reg, uint8_t v);
void vmci_pic_write_elcr(struct vmci_pic *p, unsigned unit, uint8_t v);

/* ---- IOAPIC -------------------------------------------------------------------------------- */

#define VMCI_IOAPIC_PINS 24
#define VMCI_IOAPIC_GPA  0xfec00000ull

/* Redirection entry (82093AA 3.2.4). */
#define VMCI_RTE_VECTOR     0x00ffull
#define VMCI_RTE_MODE_SHIFT 8
#define VMCI_RTE_LOGICAL    0x0800ull
#define VMCI_RTE_PENDING    0x1000ull
#define VMCI_RTE_POLARITY   0x2000ull
#define VMCI_RTE_REMOTE_IRR 0x4000ull
#define VMCI_RTE_LEVEL      0x8000ull
#define VMCI_RTE_MASKED     0x10000ull
#define VMCI_RTE_DEST_SHIFT 56

struct vmci_irqchip;

struct vmci_ioapic {
    struct vmci_irqchip *chip;
    uint64_t rte[VMCI_IOAPIC_PINS];
    uint32_t lines; /* asserted inputs */
    uint32_t id;
    uint8_t select;
};

void vmci_ioapic_reset(struct vmci_ioapic *io);
void vmci_ioapic_set(struct vmci_ioapic *io, unsigned pin, bool level);
void vmci_ioapic_eoi(struct vmci_ioapic *io, uint8_t vector);
uint64_t vmci_ioapic_read(struct vmci_ioapic *io, uint64_t offset, unsigned bytes);
void vmci_ioapic_write(struct vmci_ioapic *io, uint64_t offset, unsigned bytes, uint64_t v);
/* Tell the owner about every pin's message (vmci_irqchip_ops.route), after a load. */
void vmci_ioapic_publish(struct vmci_ioapic *io);

/* ---- local APIC ---------------------------------------------------------------------------- */

/* Offsets of registers in the xAPIC page (SDM 3A table 11-1); x2APIC MSR = 0x800 + offset / 16. */
enum vmci_apic_reg {
    VMCI_APIC_ID = 0x20,
    VMCI_APIC_VERSION = 0x30,
    VMCI_APIC_TPR = 0x80,
    VMCI_APIC_APR = 0x90,
    VMCI_APIC_PPR = 0xa0,
    VMCI_APIC_EOI = 0xb0,
    VMCI_APIC_RRD = 0xc0,
    VMCI_APIC_LDR = 0xd0,
    VMCI_APIC_DFR = 0xe0,
    VMCI_APIC_SVR = 0xf0,
    VMCI_APIC_ISR = 0x100,
    VMCI_APIC_TMR = 0x180,
    VMCI_APIC_IRR = 0x200,
    VMCI_APIC_ESR = 0x280,
    VMCI_APIC_ICR = 0x300,
    VMCI_APIC_ICR2 = 0x310,
    VMCI_APIC_LVT_TIMER = 0x320,
    VMCI_APIC_LVT_THERMAL = 0x330,
    VMCI_APIC_LVT_PERF = 0x340,
    VMCI_APIC_LVT_LINT0 = 0x350,
    VMCI_APIC_LVT_LINT1 = 0x360,
    VMCI_APIC_LVT_ERROR = 0x370,
    VMCI_APIC_TIMER_INIT = 0x380,
    VMCI_APIC_TIMER_CURRENT = 0x390,
    VMCI_APIC_TIMER_DIVIDE = 0x3e0,
    VMCI_APIC_SELF_IPI = 0x3f0,
};

#define VMCI_SVR_ENABLE       0x100u
#define VMCI_SVR_NO_BROADCAST 0x1000u

#define VMCI_LVT_MASKED     0x10000u
#define VMCI_LVT_MODE_SHIFT 8
#define VMCI_LVT_LEVEL      0x8000u
enum vmci_lvt { VMCI_LVT_TIMER, VMCI_LVT_THERMAL, VMCI_LVT_PERF, VMCI_LVT_LINT0, VMCI_LVT_LINT1,
                VMCI_LVT_ERROR, VMCI_LVTS };

#define VMCI_TIMER_MODE     0x60000u
#define VMCI_TIMER_ONESHOT  0x00000u
#define VMCI_TIMER_PERIODIC 0x20000u
#define VMCI_TIMER_DEADLINE 0x40000u

/* Bits of the error status register. */
#define VMCI_ESR_SEND_VECTOR 0x20u
#define VMCI_ESR_RECV_VECTOR 0x40u
#define VMCI_ESR_REGISTER    0x80u

/* Six LVT entries; the broadcast of EOIs can be suppressed. */
#define VMCI_APIC_VERSION_VALUE (0x14u | (VMCI_LVTS - 1) << 16 | 1u << 24)

/* The APIC timer counts at 1 GHz before division, so a count is a nanosecond. */
#define VMCI_APIC_BUS_HZ 1000000000u

struct vmci_lapic {
    struct vmci_irqchip *chip;
    uint32_t index; /* of the vCPU */
    uint32_t id;    /* (c) */
    uint64_t base;  /* (a) IA32_APIC_BASE */
    bool has_x2apic, has_deadline; /* (c) from CPUID */
    uint8_t phys_bits;             /* (c) the same: width of the base address */

    uint32_t irr[8], tmr[8]; /* (a) */
    uint32_t irr_words;      /* (a) words of irr that may be non-zero */
    uint32_t isr[8];         /* (v) */
    uint32_t extint;         /* (a) an IOAPIC asked for an 8259 interrupt here */
    uint32_t esr_new;        /* (a) errors since the last write to ESR */
    uint32_t ldr, dfr, svr, ppr; /* (a) read by senders */
    uint32_t lvt[VMCI_LVTS];     /* (a) */
    uint32_t tpr, esr, icr, icr2; /* (v) */

    struct vmci_lock timer_lock;
    struct vmc_timer *timer;
    uint32_t timer_init, timer_divide; /* (l) register values */
    uint64_t timer_due;      /* (l) ns of the next expiry, 0: stopped */
    uint64_t timer_armed;    /* (l) deadline given to the queue: tells stale callbacks */
    uint64_t tsc_deadline;   /* (l) */
};

int vmci_lapic_init(struct vmci_lapic *l, struct vmci_irqchip *chip, uint32_t index,
                    struct vmc_timerq *timers);
void vmci_lapic_fini(struct vmci_lapic *l);
/* init: an INIT keeps the base address and mode. */
void vmci_lapic_reset(struct vmci_lapic *l, bool init);

/* Highest-priority vector that may be delivered now, or -1; and accept it. vCPU's thread. */
int vmci_lapic_pending(struct vmci_lapic *l);
int vmci_lapic_ack(struct vmci_lapic *l);
/* Deliver one message that is meant for this APIC; false: it takes none. Any thread. */
bool vmci_lapic_accept(struct vmci_lapic *l, const struct vmci_irq_msg *m);
/* An entry of the local vector table fires. Any thread. */
void vmci_lapic_local(struct vmci_lapic *l, enum vmci_lvt entry);
void vmci_lapic_error(struct vmci_lapic *l, uint32_t bits);
/* Does it take interrupts of the 8259 now? Any thread. */
bool vmci_lapic_takes_extint(const struct vmci_lapic *l);
/* Tell the owner when something became deliverable. */
void vmci_lapic_update(struct vmci_lapic *l);
void vmci_lapic_update_ppr(struct vmci_lapic *l);
void vmci_lapic_eoi(struct vmci_lapic *l);

static inline bool vmci_lapic_on(const struct vmci_lapic *l)
{
    return (vmci_load_relaxed(&l->base) & VMC_APIC_BASE_ENABLE) != 0;
}
static inline bool vmci_lapic_x2(const struct vmci_lapic *l)
{
    return (vmci_load_relaxed(&l->base) & VMC_APIC_BASE_X2APIC) != 0;
}
/* Is gpa in the APIC page, and the page switched on (xAPIC mode)? */
static inline bool vmci_lapic_claims(const struct vmci_lapic *l, uint64_t gpa)
{
    uint64_t base = vmci_load_relaxed(&l->base);
    return ((gpa ^ base) >> VMC_PAGE_SHIFT) == 0 &&
           (base & (VMC_APIC_BASE_ENABLE | VMC_APIC_BASE_X2APIC)) == VMC_APIC_BASE_ENABLE;
}

uint64_t vmci_lapic_read(struct vmci_lapic *l, uint32_t offset, unsigned bytes);
void vmci_lapic_write(struct vmci_lapic *l, uint32_t offset, unsigned bytes, uint64_t v);
/* x2APIC MSRs 0x800-0x8ff, IA32_APIC_BASE, IA32_TSC_DEADLINE. False: #GP(0). */
bool vmci_lapic_rdmsr(struct vmci_lapic *l, uint32_t index, uint64_t *v);
bool vmci_lapic_wrmsr(struct vmci_lapic *l, uint32_t index, uint64_t v);
uint64_t vmci_lapic_get_tpr(const struct vmci_lapic *l);
void vmci_lapic_set_tpr(struct vmci_lapic *l, uint64_t cr8);
/* The register page of struct vmc_x86_state. */
void vmci_lapic_get_page(struct vmci_lapic *l, uint8_t page[1024]);
void vmci_lapic_set_page(struct vmci_lapic *l, const uint8_t page[1024]);
/* The page after RESET, for engines that own the APIC. */
void vmci_lapic_reset_page(uint8_t page[1024], uint32_t id);

/* Lending to the processor (lapic_lend.c), on the vCPU's thread: struct vmc_engine_io. */
uint32_t vmci_lapic_lend(struct vmci_lapic *l, uint8_t page[1024], uint32_t level[8]);
bool vmci_lapic_return(struct vmci_lapic *l, const uint8_t page[1024]);
void vmci_lapic_eoi_done(struct vmci_lapic *l, uint8_t vector);
/* Any thread. */
bool vmci_lapic_post(struct vmci_lapic *l, uint32_t requests[8]);
void vmci_lapic_unpost(struct vmci_lapic *l, uint32_t requests[8]);

/* Timer registers (lapic_timer.c). */
void vmci_apic_timer_reset(struct vmci_lapic *l);
void vmci_apic_timer_set_lvt(struct vmci_lapic *l, uint32_t lvt);
void vmci_apic_timer_set_init(struct vmci_lapic *l, uint32_t count);
void vmci_apic_timer_set_divide(struct vmci_lapic *l, uint32_t divide);
uint32_t vmci_apic_timer_current(struct vmci_lapic *l);
uint64_t vmci_apic_timer_get_deadline(struct vmci_lapic *l);
void vmci_apic_timer_set_deadline(struct vmci_lapic *l, uint64_t tsc);
/* The TSC was written: an armed deadline counts by the new one. */
void vmci_apic_timer_tsc_moved(struct vmci_lapic *l);
/* Restore a running count (snapshot). */
void vmci_apic_timer_set_current(struct vmci_lapic *l, uint32_t count);
vmc_timer_fn vmci_apic_timer_fire;

/* ---- the chip ------------------------------------------------------------------------------ */

/* What the owner of the controllers does for them. Any thread, unless said otherwise. */
struct vmci_irqchip_ops {
    /* vCPU number index should ask vmci_lapic_pending again. */
    void (*notify)(void *ctx, uint32_t index);
    void (*nmi)(void *ctx, uint32_t index);
    void (*init)(void *ctx, uint32_t index);
    void (*sipi)(void *ctx, uint32_t index, uint8_t vector);
    /* TSC of a vCPU and its frequency, on that vCPU's thread. */
    void (*tsc)(void *ctx, uint32_t index, uint64_t *tsc, uint64_t *hz);
    /* Only where the local APICs live in the engine: */
    void (*msi)(void *ctx, uint64_t addr, uint32_t data);
    void (*route)(void *ctx, unsigned pin, uint64_t addr, uint32_t data, bool level);
};

struct vmci_irqchip {
    const struct vmc_platform *pf;
    const struct vmci_irqchip_ops *ops;
    void *ctx;
    struct vmc_board *board;
    struct vmci_lock lock;
    uint64_t sources[VMCI_IOAPIC_PINS];     /* (l) asserted sources of each wire */
    uint32_t source_count[VMCI_IOAPIC_PINS]; /* (q) */
    struct vmci_pic pic;                     /* (l) */
    struct vmci_ioapic ioapic;               /* (l) */
    struct vmc_device dev_pic, dev_ioapic;
    uint32_t lapics;  /* how many; 0: they live in the engine */
    uint32_t next_lowest; /* (a) where the search for a lowest-priority target begins */
    struct vmci_lapic *lapic;
    struct vmci_loglimit loglimit;
};

/*
 * Create the controllers on a board: PIC and ELCR ports, IOAPIC page, MSI sink. lapics: 0 when
 * the engine owns the local APICs.
 */
int vmci_irqchip_init(struct vmci_irqchip *chip, struct vmc_board *board, uint32_t lapics,
                      const struct vmci_irqchip_ops *ops, void *ctx, struct vmc_error *err);
void vmci_irqchip_fini(struct vmci_irqchip *chip);
/* A new source of wire gsi, or an unconnected line. */
struct vmc_irq_line vmci_irqchip_line(struct vmci_irqchip *chip, uint32_t gsi);
/*
 * Deliver to every local APIC that matches, or hand to the engine; false: none of them took it. Any
 * thread.
 */
bool vmci_irqchip_deliver(struct vmci_irqchip *chip, const struct vmci_irq_msg *m);
/* Interrupt command of one local APIC: shorthand 0 none, 1 self, 2 all, 3 all but self. */
void vmci_irqchip_ipi(struct vmci_irqchip *chip, struct vmci_lapic *from, unsigned shorthand,
                      const struct vmci_irq_msg *m);
void vmci_irqchip_msi(struct vmci_irqchip *chip, uint64_t addr, uint32_t data);
/* A local APIC finished a level-triggered vector. */
void vmci_irqchip_eoi(struct vmci_irqchip *chip, uint8_t vector);
/* Interrupt acknowledge of the 8259; -1: its output is low. Any vCPU's thread. */
int vmci_irqchip_pic_ack(struct vmci_irqchip *chip);
/* The 8259's output is up: wake who takes it. Chip lock held. */
void vmci_irqchip_pic_output(struct vmci_irqchip *chip, bool up);

#endif
