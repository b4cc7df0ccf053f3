/* SPDX-License-Identifier: BSD-2-Clause */
/* What the multiprocessor guest program and those who run it both know. */
#ifndef SMP_GUEST_H
#define SMP_GUEST_H

#define SMP_MAX_CPUS    8
#define SMP_CODE        0x100000 /* load and entry address; EAX: number of the vCPU */
#define SMP_SHARED      0x1000   /* struct smp_shared */
#define SMP_STACKS      0x80000  /* 16 KiB each, upwards */
#define SMP_STACK_BYTES 0x4000
#define SMP_RAM_BYTES   0x200000
#define SMP_PORT        0xf4 /* a vCPU writes its number to it when it is done */

enum smp_mode {
    SMP_COUNT,   /* count for ever */
    SMP_LOCK,    /* rounds times: work alone, then a little under a ticket lock */
    SMP_TAS,     /* the same with a test-and-set lock */
    SMP_BARRIER, /* rounds times: work, then wait for the others at a barrier */
    SMP_TICK,    /* sleep until the local APIC's timer has fired rounds times */
    SMP_IPI,     /* two vCPUs wake each other by interrupts, rounds times */
    SMP_SHOOT, /* rounds times: work, then interrupt all others and wait busily for their answers */
};

/* Little-endian, no implicit padding. */
struct smp_line {
    unsigned int v;
    unsigned int pad[15];
} __attribute__((aligned(64)));

struct smp_cpu {
    unsigned long long progress; /* rounds done */
    unsigned int ticks;          /* interrupts */
    unsigned int asked, answered;
    unsigned int random;
    unsigned int pad[10];
    unsigned char steal[64]; /* the record of VMC_MSR_KVM_STEAL_TIME */
} __attribute__((aligned(64)));

struct smp_shared {
    unsigned int mode, cpus, rounds;
    unsigned int work;     /* loops of two instructions outside the lock, or before the barrier */
    unsigned int critical; /* ... under the lock */
    unsigned int quiet;    /* do not say PAUSE in loops that wait */
    unsigned int vary; /* work and critical are means, of numbers half to one and a half as large */
    unsigned int features; /* out: CPUID 0x40000001 EAX */
    unsigned int pad[8];
    struct smp_line next, owner;    /* ticket lock */
    struct smp_line arrived, sense; /* barrier */
    unsigned long long sum; /* changed under the lock without atomics: cpus * rounds at the end */
    unsigned int pad2[14];
    struct smp_cpu cpu[SMP_MAX_CPUS];
};

#endif
