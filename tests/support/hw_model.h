/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A model of a processor with VT-x or SVM for tests: the VMCS is an array, entering the guest is a
 * function of the test, which plays the guest by filling in what an exit leaves behind.
 */
#ifndef HW_MODEL_H
#define HW_MODEL_H

#include "cpu/hw/svm_int.h"
#include "cpu/hw/vmx_int.h"
#include "test_platform.h"

#define HW_MODEL_RAM    0x100000u
#define HW_MODEL_FIELDS 0x7000u /* encodings of VMCS fields are below */

enum hw_model_cpu {
    HW_MODEL_FULL,   /* VT-x with EPT and everything else */
    HW_MODEL_NO_UG,  /* ... without unrestricted guest */
    HW_MODEL_NO_EPT, /* ... without secondary controls but for the first ones */
    HW_MODEL_APIC,   /* as FULL, with the local APIC in the processor and posted interrupts */
    HW_MODEL_NPT,    /* SVM */
    HW_MODEL_NO_NPT, /* SVM without nested paging, next RIP and clean bits */
    HW_MODEL_DECODE, /* SVM without nested paging, but decode assists, next RIP, LBRs, TSC ratio */
    HW_MODEL_CPUS,
};

struct hw_model {
    struct test_platform tp;
    struct vmc_hw_ops ops;
    enum hw_model_cpu cpu;
    _Alignas(64) unsigned char percpu[VMC_HW_PERCPU_BYTES];
    uint64_t field[HW_MODEL_FIELDS]; /* of the one VMCS, by encoding */
    uint64_t current;                /* VMPTRLD */
    struct {
        uint32_t index;
        uint64_t value;
    } msr[64];
    unsigned msrs;
    uint64_t cr[5], dr[8], xcr0;
    unsigned invepts, invvpids, raised, raised_vector, interrupts, notifies;
    /* Called for an entry; returns VMC_HW_*. */
    int (*vmx)(struct hw_model *m, struct vmc_hw_vmx_frame *f);
    int (*svm)(struct hw_model *m, struct vmc_hw_svm_frame *f);
    void *arg;
    /* One VM with one vCPU. */
    const struct vmc_engine_ops *engine;
    struct vmc_engine_info info;
    struct vmc_mem *mem;
    uint8_t *ram;
    struct hw_vm *vm;
    struct hw_vcpu *v;
    struct vmc_engine_io io;
    struct { /* HW_MODEL_APIC: the local APIC when it is not lent */
        uint32_t mode; /* VMC_APIC_* */
        uint32_t irr[8], isr[8], level[8];
        bool lent;
        unsigned lends, eois, eoi_vector;
    } apic;
    int irq;
    unsigned acks;
    uint64_t tpr, last_pio, last_mmio, last_msr;
    unsigned mmio_bytes;               /* of the last MMIO */
    uint64_t mmio_value, mmio_written; /* what devices read as; what was written */
    int io_answer;
    struct vmc_exit x;
};

/* What hw_model_again goes back to. */
struct hw_model_copy {
    struct hw_model m;
    struct hw_vcpu v;
    struct vmcb vmcb;
    unsigned char msr_load[VMC_PAGE_SIZE];
};

/* 0 or a status; *err as the engine gave it. */
int hw_model_init(struct hw_model *m, enum hw_model_cpu cpu, struct vmc_error *err);
void hw_model_fini(struct hw_model *m);
/*
 * To be as after hw_model_init again, for far less: keep remembers how that was, again goes back to
 * it. Only the software CPU and the guest's CPU model are not made anew. Dirty logging is off.
 */
void hw_model_keep(const struct hw_model *m, struct hw_model_copy *as_new);
int hw_model_again(struct hw_model *m, const struct hw_model_copy *as_new);
void hw_model_set_msr(struct hw_model *m, uint32_t index, uint64_t value);
uint64_t hw_model_get_msr(struct hw_model *m, uint32_t index);
/* 64-bit code at 0x8000, identity-mapped. */
int hw_model_long_mode(struct hw_model *m);
int hw_model_run(struct hw_model *m);
/* A policy with a TSC of hz (0: the processor's) on a processor with one of 1 GHz. */
int hw_model_set_tsc(struct hw_model *m, uint64_t hz, struct vmc_error *err);

#endif
