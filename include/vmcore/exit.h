/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Why a vCPU stopped.
 */
#ifndef VMCORE_EXIT_H
#define VMCORE_EXIT_H

#include <vmcore/types.h>

VMC_BEGIN_DECLS

/** Architectural kinds; numbers are fixed, new ones are appended. */
enum vmc_exit_kind {
    VMC_EXIT_NONE = 0,
    VMC_EXIT_IO = 1,         /**< completion needed */
    VMC_EXIT_MMIO = 2,       /**< completion needed */
    VMC_EXIT_MSR = 3,        /**< completion needed */
    VMC_EXIT_CPUID = 4,      /**< completion needed */
    VMC_EXIT_HYPERCALL = 5,  /**< completion needed */
    VMC_EXIT_IDLE = 6,       /**< HLT, MWAIT or waiting for a start-up IPI */
    VMC_EXIT_IRQ_WINDOW = 7, /**< the window that was asked for is open */
    VMC_EXIT_GPA_FAULT = 8,
    VMC_EXIT_EXCEPTION = 9,
    VMC_EXIT_DEBUG = 10,
    VMC_EXIT_SHUTDOWN = 11,
    VMC_EXIT_BUDGET = 12, /**< instruction or time limit */
    VMC_EXIT_KICKED = 13,
    VMC_EXIT_EOI = 14,
    VMC_EXIT_FAIL_ENTRY = 15,
    VMC_EXIT_EMULATION = 16,
    VMC_EXIT_PAUSE = 17, /**< vmc_run_limits.pause_limit: it waits busily, for another processor */
};
#define VMC_EXIT_KINDS 18 /**< grows; not part of the ABI */

/** The embedder's answer to an exit that needs completion. */
enum vmc_answer {
    VMC_ANSWER_DONE = 0, /**< data is filled in */
    VMC_ANSWER_GP = 1,   /**< inject #GP(0) instead */
    VMC_ANSWER_UD = 2,   /**< inject #UD instead */
    /** Handle it as if vmc_run_limits.exit_mask had not asked for it. Not for engines. */
    VMC_ANSWER_DEFAULT = 3,
};

/** Why a SHUTDOWN exit happened (vmc_exit.u.stop.why). */
enum vmc_stop {
    VMC_STOP_TRIPLE_FAULT = 1,
    VMC_STOP_RESET = 2,        /**< a device asked for a reset of the machine */
    VMC_STOP_POWER_OFF = 3,    /**< ACPI S5 */
    VMC_STOP_EXIT_PORT = 4,    /**< the guest wrote detail to the exit port */
    VMC_STOP_HALT_FOREVER = 5, /**< HLT with interrupts off and no NMI source */
    VMC_STOP_SUSPEND = 6,      /**< ACPI S3, where it is offered (VMC_PC_SLEEP) */
};

/** Why a DEBUG exit happened. */
enum vmc_debug_why {
    VMC_DEBUG_STEP = 1,
    VMC_DEBUG_BREAKPOINT = 2, /**< detail: address */
    VMC_DEBUG_WATCH = 3,      /**< detail: address */
};

/** Why a vCPU is idle (vmc_exit.u.idle.why). */
enum vmc_idle_why { VMC_IDLE_HLT = 1, VMC_IDLE_MWAIT = 2, VMC_IDLE_WAIT_SIPI = 3 };

/**
 * A guest calls the hypervisor by IN EAX from a port, with arguments in registers
 * (vmc_vm_set_port_calls). The registers are the answer as well; of RAX only EAX, as the
 * instruction has it.
 */
struct vmc_port_call {
    uint32_t vcpu;
    uint16_t port;
    uint16_t pad;
    uint64_t rax, rbx, rcx, rdx, rsi, rdi;
    uint64_t tsc_hz, apic_hz; /**< the guest's TSC and local APIC; 0: unknown */
};

struct vmc_exit {
    uint32_t kind;    /**< enum vmc_exit_kind */
    uint32_t answer;  /**< set by the embedder: enum vmc_answer */
    uint64_t rip;     /**< of the instruction that exits */
    uint64_t retired; /**< instructions retired by this run call, where VMC_CAP_RETIRED */
    union {
        struct {
            uint16_t port;
            uint8_t bytes;
            bool write;
            uint32_t data;
        } io;
        struct {
            uint64_t gpa;
            uint64_t data;
            uint8_t bytes;
            bool write;
        } mmio;
        struct {
            uint32_t index;
            bool write;
            uint64_t value;
        } msr;
        struct {
            uint32_t leaf, subleaf;
            uint32_t eax, ebx, ecx, edx;
        } cpuid;
        struct {
            uint64_t nr;
            uint64_t arg[6];
            uint64_t ret;
        } hypercall;
        struct {
            uint64_t gpa, gva;
            uint32_t access;
            bool gva_valid;
        } gpa_fault;
        struct {
            uint8_t vector;
            bool has_code;
            uint32_t code;
            uint64_t payload;
        } exception;
        struct {
            uint32_t why;         /**< enum vmc_idle_why */
            bool irqs_on;         /**< a maskable interrupt can end it */
            uint64_t deadline_ns; /**< next timer of the VM, UINT64_MAX: none */
        } idle;
        struct {
            uint32_t why;
            uint64_t detail;
        } stop; /**< SHUTDOWN, DEBUG, FAIL_ENTRY */
        struct {
            uint8_t vector;
        } eoi;
        struct {
            uint8_t len;
            uint8_t bytes[15];
        } emulation;
        uint64_t reserved[12];
    } u;
    struct {
        uint32_t vendor;
        uint32_t reason;
        uint64_t info[3];
    } raw; /**< the engine's own numbers, for logs and dumps only */
};

/** Static name of a kind ("io", "mmio" ...); never NULL. */
VMC_API const char *vmc_exit_name(uint32_t kind);

VMC_END_DECLS

#endif
