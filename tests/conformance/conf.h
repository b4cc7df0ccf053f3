/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Harness of the conformance suite: one engine, driven through its operations alone, with a small
 * machine around it.
 *
 *   0x00000-0xeffff  RAM: page tables, GDT, IDT, stubs, code at CODE, stacks
 *   0xf0000-0xfffff  ROM, filled with ROM_BYTE
 *   0xe0000000       a page of device memory, plain bytes
 *   port 0x500-0x507 eight bytes of device registers
 *   port END         the guest is done
 *   port VECTOR      an exception or interrupt stub tells its vector
 */
#ifndef CONF_H
#define CONF_H

#include <stdio.h>
#include <string.h>

#include "test_platform.h"
#include <vmcore/engine.h>
#include <vmcore/x86.h>

#define RAM_BYTES 0xf0000u
#define PML4      0x1000u
#define PDPT      0x2000u
#define PD_LOW    0x3000u
#define PD_HIGH   0x4000u
#define PT_USER   0x5000u
#define GDT       0x6000u
#define IDT       0x7000u
#define TSS       0x7e00u
#define CODE      0x8000u
#define STUBS     0x10000u
#define DATA      0x20000u
#define STACK     0x40000u
#define ROM       0xf0000u
#define ROM_BYTE  0x5a
#define DEV       0xe0000000u
#define DEV_PORT  0x500u
#define END       0x7eu
#define VECTOR    0x7du

#define CS32 0x08
#define DS32 0x10
#define CS64 0x18
#define CPUS 2

struct conf {
    struct test_platform tp;
    const struct vmc_engine_ops *ops;
    struct vmc_engine_info info;
    void *evm, *ev[CPUS];
    struct vmc_engine_io io[CPUS];
    struct vmc_mem *mem;
    uint8_t *ram, *rom;
    uint8_t dev[4096], port[8];
    unsigned dev_accesses;
    struct vmc_x86_state *st; /* scratch */
    struct vmc_exit x;
    /* interrupt source of engines that pull */
    int irq; /* vector that is requested, or -1 */
    int irq_taken;
    uint64_t cr8;
    uint64_t apic_base;
    /* verdict */
    bool emulated; /* KVM that emulates kernel-mode code, with gaps */
    const char *skip;
    bool failed;
};

enum conf_mode { REAL16, PROT32, LONG64 };

/* Guest code in the assembler's Intel syntax. */
#define GUEST(name, bits, text)                                                                    \
    extern const uint8_t name[], name##_end[];                                                     \
    __asm__(".pushsection .rodata\n.code" #bits "\n.intel_syntax noprefix\n" #name ":\n" text      \
            "\n" #name "_end:\n.att_syntax\n.code64\n.popsection\n")

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            conf_fail(c, __FILE__, __LINE__, #cond);                                               \
            return;                                                                                \
        }                                                                                          \
    } while (0)
#define CHECK_EQ(a, b)                                                                             \
    do {                                                                                           \
        uint64_t a_ = (uint64_t)(a), b_ = (uint64_t)(b);                                           \
        if (a_ != b_) {                                                                            \
            conf_fail_eq(c, __FILE__, __LINE__, #a " == " #b, a_, b_);                             \
            return;                                                                                \
        }                                                                                          \
    } while (0)
#define SKIP(why)                                                                                  \
    do {                                                                                           \
        c->skip = why;                                                                             \
        return;                                                                                    \
    } while (0)
/* Leave a test that has been skipped or has failed inside a helper. */
#define STOPPED(c) ((c)->skip != NULL || (c)->failed)
#define NEED(cap)                                                                                  \
    do {                                                                                           \
        if (!(c->info.caps & (cap)))                                                               \
            SKIP("the engine has no " #cap);                                                       \
    } while (0)

void conf_fail(struct conf *c, const char *file, int line, const char *what);
void conf_fail_eq(struct conf *c, const char *file, int line, const char *what, uint64_t a,
                  uint64_t b);

/* Put code at CODE and vCPU cpu into a mode, ready to run it. flags: RFLAGS. */
void conf_load(struct conf *c, enum conf_mode mode, const uint8_t *code, const uint8_t *end);
void conf_start(struct conf *c, unsigned cpu, enum conf_mode mode, uint64_t rip);
#define LOAD(mode, name) conf_load(c, mode, name, name##_end)

/* Run until an exit; what the engine cannot do on an emulated KVM skips the test. False: STOPPED. */
bool conf_run(struct conf *c);
bool conf_run_limits(struct conf *c, uint64_t max_insns, uint64_t deadline_ns);
/* Run, answering device accesses, until anything else: END, VECTOR, IDLE ... False: STOPPED. */
bool conf_serve(struct conf *c);
/* The exit is one of the guest's writes to a port. */
bool conf_is_out(const struct conf *c, uint16_t port);
void conf_complete(struct conf *c);
/* Answer a device access in c->x by the device model and complete it. False: not a device's. */
bool conf_answer(struct conf *c);
bool conf_get(struct conf *c, uint32_t groups);
bool conf_set(struct conf *c, uint32_t groups);

struct conf_test {
    const char *name;
    void (*fn)(struct conf *c);
};
/* Each file's tests; ends with a NULL name. */
extern const struct conf_test conf_state_tests[], conf_exit_tests[], conf_mmio_tests[],
    conf_event_tests[], conf_run_tests[], conf_mem_tests[];

#endif
