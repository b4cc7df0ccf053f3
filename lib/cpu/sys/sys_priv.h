/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of sys/ share: descriptors, stacks under construction, events.
 *
 * Rule of every far transfer here: read and check everything, write memory, and only then change
 * registers, so that a fault leaves the state from before the instruction. Task switches have a
 * commit point of their own (task.c).
 */
#ifndef SYS_PRIV_H
#define SYS_PRIV_H

#include "cpu/cpu_int.h"

/* Types of system descriptors (SDM 3A table 3-2). In long mode only 2, 9, b, c, e, f exist. */
enum sys_type {
    SYS_TSS16_AVL = 1,
    SYS_LDT = 2,
    SYS_TSS16_BUSY = 3,
    SYS_CALL16 = 4,
    SYS_TASK_GATE = 5,
    SYS_INT16 = 6,
    SYS_TRAP16 = 7,
    SYS_TSS32_AVL = 9,
    SYS_TSS32_BUSY = 11,
    SYS_CALL32 = 12,
    SYS_INT32 = 14,
    SYS_TRAP32 = 15,
};
#define SYS_TYPE_BUSY 2u /* distinguishes the busy types of a TSS */
#define SYS_TYPE_32   8u

/* Bits of the type of code and data descriptors. */
#define SEG_ACCESSED 1u
#define SEG_WRITABLE 2u /* data */
#define SEG_READABLE 2u /* code */
#define SEG_EXPDOWN  4u /* data */
#define SEG_CONFORM  4u /* code */
#define SEG_CODE     8u

/* What real mode and virtual-8086 mode put into a descriptor cache. */
#define SEG_ATTR_REAL (VMC_SEG_P | VMC_SEG_S | SEG_WRITABLE | SEG_ACCESSED)
#define SEG_ATTR_V86  (SEG_ATTR_REAL | VMC_SEG_DPL)

struct sys_desc {
    uint64_t la; /* where it was read */
    uint32_t lo, hi;
    uint32_t base_hi; /* 16-byte descriptors: third dword */
};

static inline unsigned sys_rpl(uint16_t sel)
{
    return sel & 3u;
}
static inline bool sys_null(uint16_t sel)
{
    return (sel & 0xfffcu) == 0;
}
static inline unsigned sys_d_type(const struct sys_desc *d)
{
    return (d->hi >> 8) & 15u;
}
static inline bool sys_d_is_seg(const struct sys_desc *d)
{
    return (d->hi & 0x1000u) != 0;
}
static inline unsigned sys_d_dpl(const struct sys_desc *d)
{
    return (d->hi >> 13) & 3u;
}
static inline bool sys_d_present(const struct sys_desc *d)
{
    return (d->hi & 0x8000u) != 0;
}
static inline bool sys_d_l(const struct sys_desc *d)
{
    return (d->hi & 0x200000u) != 0;
}
static inline bool sys_d_db(const struct sys_desc *d)
{
    return (d->hi & 0x400000u) != 0;
}
static inline bool sys_d_is_code(const struct sys_desc *d)
{
    return sys_d_is_seg(d) && (sys_d_type(d) & SEG_CODE) != 0;
}
static inline bool sys_d_conforming(const struct sys_desc *d)
{
    return (sys_d_type(d) & SEG_CONFORM) != 0;
}
static inline bool sys_d_writable(const struct sys_desc *d)
{
    return sys_d_is_seg(d) && (sys_d_type(d) & (SEG_CODE | SEG_WRITABLE)) == SEG_WRITABLE;
}
static inline uint32_t sys_d_limit(const struct sys_desc *d)
{
    uint32_t l = (d->hi & 0xf0000u) | (d->lo & 0xffffu);
    return (d->hi & 0x800000u) != 0 ? (l << 12) | 0xfffu : l;
}
/* Gates. */
static inline uint16_t sys_g_selector(const struct sys_desc *d)
{
    return (uint16_t)(d->lo >> 16);
}
static inline uint32_t sys_g_offset(const struct sys_desc *d)
{
    return (d->hi & 0xffff0000u) | (d->lo & 0xffffu);
}
static inline unsigned sys_attr_dpl(uint32_t attr)
{
    return (attr & VMC_SEG_DPL) >> VMC_SEG_DPL_SHIFT;
}

/* Linear addresses of system structures wrap at 4 GiB outside long mode. */
static inline uint64_t sys_la(const struct vmci_cpu *cpu, uint64_t la)
{
    return vmci_long_mode(cpu) ? la : (uint32_t)la;
}

static inline void sys_request(struct vmci_cpu *cpu, uint32_t bits)
{
    (void)vmci_fetch_or(&cpu->request, bits);
}

/* ---- segment.c: descriptors and segment registers -------------------------------------------- */

/* Raise vector with a selector error code. ext is 0 or 1. */
int sys_raise_sel(struct vmci_cpu *cpu, unsigned vector, uint16_t sel, unsigned ext);
/* Is the descriptor (bytes 8 or 16) within its table? */
bool sys_desc_addr(const struct vmci_cpu *cpu, uint16_t sel, unsigned bytes, uint64_t *la);
/* Read eight bytes; outside its table: vector(sel). */
int sys_desc_read(struct vmci_cpu *cpu, uint16_t sel, unsigned vector, unsigned ext,
                  struct sys_desc *d);
/* Long mode: the second half of a system descriptor, whose type field must be 0. */
int sys_desc_read_hi(struct vmci_cpu *cpu, uint16_t sel, unsigned vector, unsigned ext,
                     struct sys_desc *d);
/* Set bits of the access byte in memory (and in d). */
int sys_desc_mark(struct vmci_cpu *cpu, struct sys_desc *d, unsigned type_bits);
int sys_desc_set_accessed(struct vmci_cpu *cpu, struct sys_desc *d);
void sys_desc_to_seg(const struct sys_desc *d, uint16_t sel, struct vmc_segment *s);
/* Checks for a data segment at a CPL; raises #GP, or #TS in a task switch. */
int sys_load_data(struct vmci_cpu *cpu, unsigned seg, uint16_t sel, unsigned cpl, unsigned vector,
                  unsigned ext);
void sys_seg_null(struct vmc_segment *s, uint16_t sel);
/* NULL SS of 64-bit mode; its DPL carries the CPL. */
void sys_ss_null(struct vmc_segment *s, unsigned cpl);
void sys_seg_real(struct vmci_cpu *cpu, unsigned seg, uint16_t sel);
void sys_seg_v86(struct vmc_segment *s, uint16_t sel);
/* Flat segments of SYSCALL and SYSENTER. */
void sys_seg_flat_code(struct vmc_segment *s, uint16_t sel, unsigned cpl, bool l);
void sys_seg_flat_stack(struct vmc_segment *s, uint16_t sel, unsigned cpl);
/* After a return to a less privileged level: NULL the data segments it may not have. */
void sys_drop_data_segs(struct vmci_cpu *cpu, unsigned cpl);

/* Is [off, off+bytes) within the limit of a segment? (not 64-bit mode) */
static inline bool sys_in_limit(const struct vmc_segment *s, uint64_t off, unsigned bytes)
{
    uint64_t last = off + bytes - 1;

    if ((s->attr & (VMC_SEG_UNUSABLE | VMC_SEG_P)) != VMC_SEG_P)
        return false;
    if ((s->attr & (VMC_SEG_S | SEG_CODE | SEG_EXPDOWN)) == (VMC_SEG_S | SEG_EXPDOWN))
        return off > s->limit && last <= ((s->attr & VMC_SEG_DB) != 0 ? 0xffffffffu : 0xffffu);
    return last <= s->limit;
}

/* ---- far_stack.c: stacks under construction -------------------------------------------------- */

struct sys_stack {
    struct vmc_segment ss;
    uint64_t sp;
    unsigned bits;    /* 16, 32, 64 */
    unsigned cpl;     /* whose rights the accesses have */
    uint32_t ss_code; /* error code of #SS */
};

void sys_stack_current(const struct vmci_cpu *cpu, struct sys_stack *s);
/* Size of SP for a stack segment, in code of the given kind. */
unsigned sys_stack_bits(const struct vmc_segment *ss, bool code64);
/* #SS unless n items of size bytes can be pushed. */
int sys_push_room(struct vmci_cpu *cpu, const struct sys_stack *s, unsigned n, unsigned bytes);
int sys_push(struct vmci_cpu *cpu, struct sys_stack *s, unsigned bytes, uint64_t v);
int sys_pop(struct vmci_cpu *cpu, struct sys_stack *s, unsigned bytes, uint64_t *v);
/*
 * The quadwords that were pushed onto or are popped from a 64-bit stack, first one at the lowest
 * address, if all of them can be accessed directly; NULL: item by item.
 */
uint64_t *sys_frame(struct vmci_cpu *cpu, const struct sys_stack *s, uint64_t sp, unsigned n,
                    bool write);
/* Write SP or ESP or RSP. */
void sys_sp_set(struct vmci_cpu *cpu, unsigned bits, uint64_t sp);
/* SP and SS for a privilege level from the TSS; every check of a new stack. code64: long mode. */
int sys_stack_from_tss(struct vmci_cpu *cpu, unsigned dpl, unsigned ext, struct sys_stack *s);
/* IST (1..7) or RSP0..2 of a 64-bit TSS. */
int sys_rsp_from_tss64(struct vmci_cpu *cpu, unsigned offset, unsigned ext, uint64_t *rsp);

/* ---- far.c ----------------------------------------------------------------------------------- */

/* A code segment that was checked, and the place in it to go on. */
struct sys_target {
    struct sys_desc d;
    uint16_t sel; /* RPL is the new CPL */
    uint64_t rip;
};
/* Would code of this descriptor run in 64-bit mode? */
static inline bool sys_target64(const struct vmci_cpu *cpu, const struct sys_desc *d)
{
    return vmci_long_mode(cpu) && sys_d_l(d);
}
/* #GP(ext) unless rip is within the segment's limit or canonical. */
int sys_target_check_rip(struct vmci_cpu *cpu, const struct sys_target *t, unsigned ext);
/* Load CS and RIP: cannot fail. Does not call vmci_update_mode. */
void sys_target_enter(struct vmci_cpu *cpu, const struct sys_target *t);
/* CS for RET and IRET: checks against RPL. */
int sys_return_cs(struct vmci_cpu *cpu, uint16_t sel, struct sys_target *t);
/* SS for RET and IRET to the CPL of the target. */
int sys_return_ss(struct vmci_cpu *cpu, uint16_t sel, const struct sys_target *t,
                  struct sys_desc *d, struct vmc_segment *ss);

/* ---- task.c ---------------------------------------------------------------------------------- */

enum sys_task_how { SYS_TASK_JMP, SYS_TASK_CALL, SYS_TASK_IRET, SYS_TASK_EVENT };

struct sys_task {
    enum sys_task_how how;
    uint16_t sel;      /* of the new TSS */
    struct sys_desc d; /* its descriptor: type and presence checked */
    uint64_t rip;      /* saved into the old TSS */
    uint64_t rflags;   /* the same */
    unsigned ext;
    bool has_code; /* push an error code onto the new task's stack */
    uint32_t code;
};
int sys_task_switch(struct vmci_cpu *cpu, struct sys_task *t);
/* Through the selector of a task gate or of a TSS descriptor; vector of the checks' faults. */
int sys_task_read_tss(struct vmci_cpu *cpu, struct sys_task *t, unsigned vector);

/* ---- event.c --------------------------------------------------------------------------------- */

struct sys_event {
    uint8_t vector;
    uint8_t soft; /* 0 or a VMC_EV_ type of a software event */
    bool has_code;
    unsigned ext; /* EXT bit for faults on the way */
    uint32_t code;
    uint64_t rip, rflags; /* what the frame holds */
};
static inline bool sys_soft_checked(const struct sys_event *e) /* the gate's DPL counts */
{
    return e->soft == VMC_EV_SOFT_INT || e->soft == VMC_EV_SOFT_EXC;
}
int sys_event_real(struct vmci_cpu *cpu, const struct sys_event *e);
int sys_event_prot(struct vmci_cpu *cpu, const struct sys_event *e);
int sys_event_long(struct vmci_cpu *cpu, const struct sys_event *e);
/* INT n of virtual-8086 mode through the program's own vector table (VME). */
int sys_event_v86_redirect(struct vmci_cpu *cpu, const struct sys_event *e);
static inline uint32_t sys_idt_code(const struct sys_event *e)
{
    return (uint32_t)e->vector * 8u + 2u + e->ext;
}

/* ---- others ---------------------------------------------------------------------------------- */

/* MOV to CR3 inside a task switch; vector of a bad PDPTE. */
int sys_task_set_cr3(struct vmci_cpu *cpu, uint64_t v);
void sys_cr0_set_ts(struct vmci_cpu *cpu);
/* Breakpoint of an I/O port (CR4.DE). */
void sys_dr_io_hit(struct vmci_cpu *cpu, uint16_t port, unsigned bytes);
/* Is the interrupt redirection bit of a vector clear (8086 handler)? #GP(0) if it is unreachable. */
int sys_vme_redirected(struct vmci_cpu *cpu, unsigned vector, bool *redirected);

#endif
