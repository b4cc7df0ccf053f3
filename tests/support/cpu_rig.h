/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The software CPU by itself: RAM at 0, identity mapping, flat segments, code bytes at RIG_TEXT,
 * no devices. Port writes are recorded; reads of ports answer from rig.port_in.
 */
#ifndef CPU_RIG_H
#define CPU_RIG_H

#include "test_platform.h"

#include <vmcore/engine.h>
#include <vmcore/x86.h>

#define CPU_RIG_RAM   (16u << 20)
#define CPU_RIG_PML4  0x1000u
#define CPU_RIG_GDT   0x5000u
#define CPU_RIG_IDT   0x6000u
#define CPU_RIG_TSS   0x7000u
#define CPU_RIG_TRAPS 0x8000u /* vector n is handled by HLT at CPU_RIG_TRAPS + n */
#define CPU_RIG_TEXT  0x10000u
#define CPU_RIG_STACK 0x80000u
#define CPU_RIG_DATA  0x100000u

/* Selectors: ring 0 and ring 3 flat code and data for each mode. */
#define CPU_RIG_CS0 0x08u
#define CPU_RIG_DS0 0x10u
#define CPU_RIG_CS3 0x1bu
#define CPU_RIG_DS3 0x23u

struct cpu_rig {
    struct test_platform tp;
    const struct vmc_engine_ops *ops;
    struct vmc_mem *mem;
    unsigned char *ram;
    void *evm, *ev;
    struct vmc_engine_info info;
    struct vmc_engine_io io;
    struct vmc_x86_state st;
    struct vmc_exit exit;
    bool claim; /* the io callbacks claim every access; else they exit */
    uint32_t port_in;
    uint64_t mmio_in;
    unsigned port_writes, mmio_writes;
    uint16_t last_port;
    uint32_t last_data;
    int irq; /* vector that is pending, or -1 */
};

/* threads: with the real clock and locks. flags: VMC_ENGINE_*. */
void cpu_rig_create(struct cpu_rig *r, uint32_t flags);
/* The same with VMC_SOFT_* flags. */
void cpu_rig_create_soft(struct cpu_rig *r, uint32_t flags, uint32_t soft_flags);
void cpu_rig_create_with(struct cpu_rig *r, uint32_t flags, const struct vmc_soft_config *soft);
void cpu_rig_destroy(struct cpu_rig *r);
/* Set rig.st to flat code of that width and CPL at CPU_RIG_TEXT (16: real mode), IDT included. */
void cpu_rig_mode(struct cpu_rig *r, unsigned bits, unsigned cpl);
/* Write code bytes to memory (told to the engine as a device's write). */
void cpu_rig_code(struct cpu_rig *r, uint64_t gpa, const void *bytes, size_t n);
/* Load rig.st, run at most n instructions (0: until an exit), store rig.st; returns the exit kind. */
uint32_t cpu_rig_run(struct cpu_rig *r, uint64_t n);
/* Go on without loading rig.st. */
uint32_t cpu_rig_resume(struct cpu_rig *r, uint64_t n);
/* A statistic of the engine; the program ends if there is none of that name. */
uint64_t cpu_rig_stat(struct cpu_rig *r, const char *name);

#endif
