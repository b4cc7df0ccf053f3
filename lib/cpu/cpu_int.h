/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The software CPU: one state, used by the interpreter, the translator and single-instruction
 * emulation alike.
 *
 * Result convention of everything that can fail inside an instruction (no setjmp, no unwinding):
 *   0           done
 *   VMCI_FAULT  an exception is recorded in cpu->exc; the instruction has had no effect that the
 *               architecture does not define
 *   VMCI_EXIT   the embedder must act (cpu->exit says on what); the instruction is executed again
 *               after completion and finds the answer in the replay log
 * A handler that gets non-zero from a helper returns it at once.
 */
#ifndef CPU_INT_H
#define CPU_INT_H

#include "cpu/decode/insn.h"
#include "mmu/mmu_int.h"
#include <vmcore/engine.h>
#include <vmcore/x86.h>

#define VMCI_FAULT 1
#define VMCI_EXIT  2
/* From executors to the engine only: not finished (a long REP), run it again. */
#define VMCI_AGAIN 3
#define VMCI_RETRY 4 /* nothing happened yet: the page it needs is on its way */

/* ---- software TLB ---------------------------------------------------------------------------- */

/*
 * One direct-mapped table per access mode, so that a change of CPL or of EFLAGS.AC flushes nothing.
 * A tag is the page's linear address negated, so that translated code finds the offset in the page
 * by an addition (LEA, which leaves the flags alone). The host address of a byte is linear address
 * + addend. Columns are separate: translated code scales an index by 8 at most.
 */
enum vmci_tlb_mode {
    VMCI_TLB_SUP,    /* supervisor, SMAP in force (AC clear, or implicit access) */
    VMCI_TLB_SUP_AC, /* supervisor, user pages allowed */
    VMCI_TLB_USER,
    VMCI_TLB_ALIGN, /* CPL 3, CR0.AM and EFLAGS.AC: never filled, so that every access is checked */
    VMCI_TLB_MODES,
};
/* The kernel of bare metal, where most vCPUs only have single instructions emulated, is built with
   smaller tables (cmake/VmcModules.cmake). */
#ifndef VMCI_TLB_BITS
#define VMCI_TLB_BITS 15
#endif
#define VMCI_TLB_SIZE (1u << VMCI_TLB_BITS)

struct vmci_tlb {
    uint64_t rd[VMCI_TLB_SIZE], wr[VMCI_TLB_SIZE], ex[VMCI_TLB_SIZE]; /* tags */
    uintptr_t addend[VMCI_TLB_SIZE];
    uintptr_t page[VMCI_TLB_SIZE]; /* host address of the page's first byte */
};
/* No page's address: of struct tlb_info and the like. */
#define VMCI_TLB_NONE (~0ull)

/*
 * Address bits that select an entry: the low ones of the page number, and one that tells a
 * program's text and data from its stack and mappings, and a kernel's direct map from its text, so
 * that these do not evict each other.
 */
#define VMCI_TLB_HIGH 41
#define VMCI_TLB_MASK (((VMCI_TLB_SIZE / 2 - 1ull) << VMC_PAGE_SHIFT) | 1ull << VMCI_TLB_HIGH)

static inline unsigned vmci_tlb_index(uint64_t la)
{
    return ((unsigned)(la >> VMC_PAGE_SHIFT) & (VMCI_TLB_SIZE / 2 - 1)) |
           ((unsigned)(la >> VMCI_TLB_HIGH) & 1) << (VMCI_TLB_BITS - 1);
}
/*
 * The tag of an invalid entry: of a page whose low bits are half of their range away, so that
 * neither an address that selects the entry nor the end of its operand can lie in it.
 */
static inline uint64_t vmci_tlb_none(unsigned i)
{
    return 0 - ((uint64_t)((i ^ (VMCI_TLB_SIZE / 4)) & (VMCI_TLB_SIZE / 2 - 1)) << VMC_PAGE_SHIFT);
}
/* Do bytes from la on lie in the page of the tag that la selects? */
static inline bool vmci_tlb_hit(uint64_t tag, uint64_t la, unsigned bytes)
{
    return ((la + tag + (bytes - 1)) >> VMC_PAGE_SHIFT) == 0;
}

/* ---- events ---------------------------------------------------------------------------------- */

/* An exception raised by an instruction. */
struct vmci_exc {
    bool pending;
    bool has_code;
    uint8_t vector;
    uint8_t soft; /* 0: fault or trap of the processor; else VMC_EV_SOFT_INT, _SOFT_EXC,
                     _PRIV_SOFT_EXC */
    uint32_t code;
    uint64_t payload; /* #PF: linear address; #DB: DR6 bits */
    bool rip_set;     /* a task switch was committed: cpu->rip is the right one already, leave it */
};

/* Requests from other threads (cpu->request, atomic): looked at between blocks. */
#define VMCI_REQ_KICK  0x01u /* leave run */
#define VMCI_REQ_IRQ   0x02u /* ask io->irq_pending */
#define VMCI_REQ_FLUSH 0x04u /* drop the software TLB */
#define VMCI_REQ_CODE  0x08u /* code pages were invalidated: drop links to their blocks */
/* Own conditions that end a block (cpu->request too, set by the vCPU's thread). */
#define VMCI_REQ_TRAP 0x10u /* pending debug trap, TF, or inhibited window to step through */
#define VMCI_REQ_NMI  0x20u

#define VMCI_A20 (1ull << 20) /* address bit */

enum vmci_tsc_source {
    VMCI_TSC_HOST, /* the host's invariant TSC */
    VMCI_TSC_NS,   /* platform.now_ns, scaled */
    VMCI_TSC_VIRTUAL,
};

struct vmci_fp;      /* fpu/: guest x87/SSE/AVX state and thunks */
struct vmci_soft_vm; /* engine_soft.c: what the vCPUs of a VM share */

struct vmci_cpu {
    /* -- hot: reached by small displacements from translated code -- */
    uint64_t gpr[18]; /* [VMCI_REG_ZERO] is always 0; [VMCI_REG_IP]: start of the running block */
    uint64_t rip;     /* of the next instruction, at block boundaries; see vmci_insn_rip */
    uint64_t rflags;  /* always exact at instruction boundaries; bit 1 set */
    uint32_t request; /* (a) VMCI_REQ_* */
    uint8_t cpl;
    uint8_t code_bits;               /* 16, 32 or 64: default operand/address size of CS */
    uint8_t stack_bits;              /* 16, 32 or 64: size of SP */
    uint8_t tlb_mode;                /* enum vmci_tlb_mode of explicit data accesses now */
    const struct vmci_insn *cur;     /* the instruction being executed */
    const struct vmci_insn *blk;     /* first instruction of its block */
    const struct vmci_insn *blk_end; /* the block is left here; moved by vmci_stop_block */
    struct vmc_segment seg[VMC_SREGS];
    uint64_t cr0, cr2, cr3, cr4, efer, xcr0;
    uint32_t pkru;     /* changed by vmci_set_pkru */
    uint64_t retired;  /* instructions retired since creation; within a block up to its start */
    uint64_t features; /* 1 << VMCI_FEAT_*: the policy as a mask */
    bool host_bmi;     /* the host has BMI1, BMI2 and LZCNT */

    /* -- system state -- */
    struct vmc_table gdtr, idtr;
    uint64_t pdpte[4];
    uint64_t dr[4], dr6, dr7;
    struct vmc_x86_msrs msr;
    struct vmci_exc exc;
    uint64_t pending_db; /* DR6 bits of a trap to deliver after this instruction */
    bool task_switched;  /* by an instruction; cleared before one that TF may trap */
    bool mid_rep;        /* the event being delivered interrupts a REP between iterations */
    uint8_t irq_shadow;  /* 1: interrupts (STI), 3: and debug traps, NMI (MOV SS): until after the
                            next instruction */
    uint8_t nmi_blocked, nmi_pending;
    uint8_t delivering; /* vector+1 of the event being delivered, for double faults; 0: none */
    struct vmc_event injected;
    uint32_t activity;  /* enum vmc_activity */
    int64_t tsc_offset; /* guest TSC = clock source + offset */
    uint32_t apic_id;

    /* -- from the policy (vmci_apply_policy) -- */
    uint64_t cr4_allowed, efer_allowed, xcr0_allowed; /* bits that the guest may set */
    /* What a state from outside may hold (state_xfer.c). On hardware a guest loads CR3 and bases
       without an exit, as wide as the processor is and not as the CPU model says. */
    uint64_t state_efer;
    uint32_t state_phys_bits;
    bool state_57;
    uint64_t tsc_hz;
    uint64_t tsc_mult; /* TSC ticks a nanosecond, 32.32 fixed point */
    uint64_t
        tsc_base; /* VMCI_TSC_VIRTUAL: clock source = tsc_base + retired; engine_soft.c sets it */
    uint8_t tsc_source; /* enum vmci_tsc_source */
    bool amd;           /* vendor of the CPU model, where Intel and AMD differ */

    /* -- environment -- */
    const struct vmc_platform *pf;
    struct vmc_mem *mem;
    const struct vmc_engine_io *io;
    struct vmci_soft_vm *vm;
    const struct vmc_cpu_policy *policy;
    uint32_t phys_bits;
    uint32_t paging_lacks; /* enum vmc_paging_lack */
    uint32_t index;
    struct vmc_exit exit; /* filled when VMCI_EXIT is returned */
    struct vmci_fp *fp;
    struct vmci_decoder *dec;

    struct vmci_tlb tlb[VMCI_TLB_MODES];
};

static inline bool vmci_long_mode(const struct vmci_cpu *cpu)
{
    return (cpu->efer & VMC_EFER_LMA) != 0;
}
static inline bool vmci_prot_mode(const struct vmci_cpu *cpu)
{
    return (cpu->cr0 & VMC_CR0_PE) != 0;
}
static inline bool vmci_v86_mode(const struct vmci_cpu *cpu)
{
    return (cpu->rflags & VMC_FLAG_VM) != 0;
}
static inline unsigned vmci_iopl(const struct vmci_cpu *cpu)
{
    return (unsigned)((cpu->rflags & VMC_FLAG_IOPL) >> VMC_FLAG_IOPL_SHIFT);
}
/* Canonical for 48 bits, and so for 57. */
static inline bool vmci_canonical48(uint64_t la)
{
    return (uint64_t)((int64_t)(la << 16) >> 16) == la;
}
static inline bool vmci_canonical57(uint64_t la)
{
    return (uint64_t)((int64_t)(la << 7) >> 7) == la;
}
/* Of an address that is accessed or branched to. */
static inline bool vmci_canonical(const struct vmci_cpu *cpu, uint64_t la)
{
    return likely(vmci_canonical48(la)) || ((cpu->cr4 & VMC_CR4_LA57) != 0 && vmci_canonical57(la));
}
/*
 * Of an address that is only loaded: into an MSR, a segment base, GDTR or IDTR, or to be
 * invalidated. Processors with 5-level paging take 57 bits there, whether it is switched on or not.
 */
static inline bool vmci_canonical_max(const struct vmci_cpu *cpu, uint64_t la)
{
    return likely(vmci_canonical48(la)) ||
           ((cpu->cr4_allowed & VMC_CR4_LA57) != 0 && vmci_canonical57(la));
}

/*
 * Within a block cpu->rip is stale: an executor finds its own address here. The engine sets
 * cpu->rip to the faulting instruction before it delivers an exception.
 */
static inline uint64_t vmci_next_rip(const struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    return cpu->gpr[VMCI_REG_IP] + in->next;
}
static inline uint64_t vmci_insn_rip(const struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    return cpu->gpr[VMCI_REG_IP] + in->next - in->len;
}

/* Instructions retired before the current one. */
static inline uint64_t vmci_retired_now(const struct vmci_cpu *cpu)
{
    return cpu->retired + (uint64_t)(cpu->cur - cpu->blk);
}
/* Leave the block after the current instruction, for the engine to look at what has changed. */
static inline void vmci_stop_block(struct vmci_cpu *cpu)
{
    if (cpu->cur != NULL)
        cpu->blk_end = cpu->cur + 1;
    (void)vmci_fetch_or(&cpu->request, VMCI_REQ_TRAP);
}

/* Effective address of the memory operand: offset in its segment, cut to the address size. */
static inline uint64_t vmci_ea(const struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    uint64_t ea = cpu->gpr[in->base] + (cpu->gpr[in->index] << in->scale) + (uint64_t)in->disp;
    if (in->addrsize == 8)
        return ea;
    return in->addrsize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

/* ---- exceptions (sys/event.c) ---------------------------------------------------------------- */

/* Record an exception and return VMCI_FAULT. */
int vmci_raise(struct vmci_cpu *cpu, unsigned vector);
int vmci_raise_code(struct vmci_cpu *cpu, unsigned vector, uint32_t code);
int vmci_raise_pf(struct vmci_cpu *cpu, uint64_t la, uint32_t code);

/*
 * Deliver the recorded exception through the IDT (real, protected, virtual-8086, long mode; task
 * gates), turning faults during delivery into double and triple faults. 0; VMCI_EXIT (triple
 * fault: cpu->exit is SHUTDOWN; or an access needs the embedder). rip must be that of the faulting
 * (or next, for traps) instruction.
 */
int vmci_deliver_exception(struct vmci_cpu *cpu);
/* Deliver an external interrupt, NMI or injected event. */
int vmci_deliver_event(struct vmci_cpu *cpu, const struct vmc_event *ev);

/* ---- memory by linear address (softtlb.c) ---------------------------------------------------- */

/* With the rights of the current CPL and AC. All little-endian, any alignment, page crossings
   exact: a write that faults on its second page has written nothing. */
int vmci_rd(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, uint64_t *out); /* 1,2,4,8 */
int vmci_wr(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, uint64_t v);
/* Any length up to 64; for SIMD, descriptors, fxsave pieces. */
int vmci_rd_block(struct vmci_cpu *cpu, uint64_t la, void *dst, unsigned bytes);
int vmci_wr_block(struct vmci_cpu *cpu, uint64_t la, const void *src, unsigned bytes);
/* Would a write of [la, la+bytes) fault? Raises the fault it would. */
int vmci_probe_wr(struct vmci_cpu *cpu, uint64_t la, unsigned bytes);
/* Implicit supervisor accesses: descriptor tables, TSS, IDT. */
int vmci_rd_sys(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, uint64_t *out);
int vmci_wr_sys(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, uint64_t v);
/* Locked: the byte at la gets the bits of set, or loses those of clear. *old: what it was. */
int vmci_mark_sys(struct vmci_cpu *cpu, uint64_t la, uint8_t set, uint8_t clear, uint8_t *old);
/* With the rights of a given CPL: pushes onto the stack of another privilege level. */
int vmci_rd_cpl(struct vmci_cpu *cpu, unsigned cpl, uint64_t la, unsigned bytes, uint64_t *out);
int vmci_wr_cpl(struct vmci_cpu *cpu, unsigned cpl, uint64_t la, unsigned bytes, uint64_t v);
/* Host address of bytes that need nothing but a load or store with these rights now; NULL: the
   functions above know. Good until the next access by linear address. */
void *vmci_direct_cpl(struct vmci_cpu *cpu, unsigned cpl, uint64_t la, unsigned bytes, bool write);
int vmci_probe_wr_cpl(struct vmci_cpu *cpu, unsigned cpl, uint64_t la, unsigned bytes);

/*
 * An access to a device: through vmc_engine_io, or an exit, by way of the replay log. A read fills
 * *data. addr: port, guest-physical address or MSR number. 0; VMCI_FAULT (MSR: #GP); VMCI_EXIT.
 */
enum vmci_io_kind { VMCI_IO_PIO, VMCI_IO_MMIO, VMCI_IO_MSR };
int vmci_io_access(struct vmci_cpu *cpu, enum vmci_io_kind kind, bool write, uint64_t addr,
                   unsigned bytes, uint64_t *data);

void vmci_tlb_flush(struct vmci_cpu *cpu, bool globals_too);
void vmci_tlb_flush_page(struct vmci_cpu *cpu, uint64_t la);
/* Access rights of protection keys. The instruction must end its block. */
void vmci_set_pkru(struct vmci_cpu *cpu, uint32_t pkru);

/*
 * Segmentation: linear address of seg:offset for an access, with limit, type and canonical checks
 * (#GP or #SS). offset is already cut to the address size.
 */
int vmci_seg_la(struct vmci_cpu *cpu, unsigned seg, uint64_t offset, unsigned bytes, bool write,
                uint64_t *la);

/* ---- system helpers (sys/) ------------------------------------------------------------------- */

/* After any change of CR0, CR4, EFER, CS, SS, RFLAGS.VM/AC or CPL: recompute cpl, code_bits,
   stack_bits, tlb_mode. */
void vmci_update_mode(struct vmci_cpu *cpu);

/* RFLAGS as POPF/IRET change it: bits outside mask keep their value; VM and RF never by POPF. */
void vmci_set_rflags(struct vmci_cpu *cpu, uint64_t value, uint64_t mask);

/* MOV/POP/Lxx to a data segment register or SS (never CS). */
int vmci_load_sreg(struct vmci_cpu *cpu, unsigned seg, uint16_t selector);
int vmci_lldt(struct vmci_cpu *cpu, uint16_t selector);
int vmci_ltr(struct vmci_cpu *cpu, uint16_t selector);
/* opbytes: operand size 2, 4 or 8. next: address of the next instruction (return address). */
int vmci_far_jmp(struct vmci_cpu *cpu, uint16_t selector, uint64_t offset, unsigned opbytes,
                 uint64_t next);
int vmci_far_call(struct vmci_cpu *cpu, uint16_t selector, uint64_t offset, unsigned opbytes,
                  uint64_t next);
int vmci_far_ret(struct vmci_cpu *cpu, unsigned opbytes, uint16_t release);
int vmci_iret(struct vmci_cpu *cpu, unsigned opbytes, uint64_t next);
/* INT n, INT3, INTO, INT1: soft is VMC_EV_SOFT_INT, _SOFT_EXC or _PRIV_SOFT_EXC. */
int vmci_soft_int(struct vmci_cpu *cpu, unsigned vector, unsigned soft, uint64_t next);
int vmci_syscall(struct vmci_cpu *cpu, uint64_t next);
int vmci_sysret(struct vmci_cpu *cpu, unsigned opbytes);
int vmci_sysenter(struct vmci_cpu *cpu);
int vmci_sysexit(struct vmci_cpu *cpu, unsigned opbytes);

/* LAR, LSL, VERR, VERW: *zf says whether the selector qualifies. */
int vmci_lar(struct vmci_cpu *cpu, uint16_t selector, uint32_t *out, bool *zf);
int vmci_lsl(struct vmci_cpu *cpu, uint16_t selector, uint32_t *out, bool *zf);
int vmci_verrw(struct vmci_cpu *cpu, uint16_t selector, bool write, bool *zf);

/* MOV CR/DR, LMSW, CLTS and XSETBV, all checks included. */
int vmci_cr_read(struct vmci_cpu *cpu, unsigned n, uint64_t *out);
int vmci_cr_write(struct vmci_cpu *cpu, unsigned n, uint64_t v);
int vmci_dr_read(struct vmci_cpu *cpu, unsigned n, uint64_t *out);
int vmci_dr_write(struct vmci_cpu *cpu, unsigned n, uint64_t v);
int vmci_lmsw(struct vmci_cpu *cpu, uint16_t v);
int vmci_clts(struct vmci_cpu *cpu);
int vmci_xsetbv(struct vmci_cpu *cpu, uint32_t index, uint64_t v);
int vmci_xgetbv(struct vmci_cpu *cpu, uint32_t index, uint64_t *out);

/* RDMSR, WRMSR after the privilege check; machine MSRs go to io->msr. */
int vmci_msr_read(struct vmci_cpu *cpu, uint32_t index, uint64_t *out);
int vmci_msr_write(struct vmci_cpu *cpu, uint32_t index, uint64_t v);
void vmci_cpuid(struct vmci_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
uint64_t vmci_tsc(struct vmci_cpu *cpu);

int vmci_invlpg(struct vmci_cpu *cpu, uint64_t la);
int vmci_invpcid(struct vmci_cpu *cpu, uint64_t type, uint64_t pcid, uint64_t la);

/* May the current CPL use the port (IOPL, I/O permission map)? 0 or #GP. */
int vmci_io_check(struct vmci_cpu *cpu, uint16_t port, unsigned bytes);
/* IN/OUT after the check, I/O breakpoints included; through vmci_io_access. */
int vmci_pio(struct vmci_cpu *cpu, bool write, uint16_t port, unsigned bytes, uint32_t *data);

/* Debug registers: does a data access or the instruction at la hit a breakpoint? Sets pending_db
   for data; vmci_dr_exec_hit raises #DB. Called only when DR7 enables something. */
void vmci_dr_data_hit(struct vmci_cpu *cpu, uint64_t la, unsigned bytes, bool write);
int vmci_dr_exec_hit(struct vmci_cpu *cpu, uint64_t la);

/* Set the state after RESET or INIT (everything but the FP state, which fpu/ resets). */
void vmci_cpu_reset(struct vmci_cpu *cpu, bool init);

/* ---- CPU model and state transfer (sys/) ----------------------------------------------------- */

/*
 * The most that the software CPU can run. fp_features: vmci_fp_host_features(), or 0 without FP.
 * Executes CPUID.
 */
void vmci_soft_ceiling(struct vmc_cpu_policy *out, uint64_t fp_features);
/*
 * Make policy (kept by the caller) the CPU's model: features, phys_bits, allowed bits, TSC rate.
 * To be called before the first vmci_cpu_reset, and again when the policy changes; tsc_source is
 * left alone when it is VMCI_TSC_VIRTUAL.
 */
void vmci_apply_policy(struct vmci_cpu *cpu, const struct vmc_cpu_policy *policy);

/*
 * Between struct vmci_cpu and the transfer format: all groups but VMC_ST_FPU and VMC_ST_LAPIC.
 * set checks everything first: VMC_EINVAL and no change for a state that no processor can be in.
 * set flushes the TLB as needed.
 */
void vmci_cpu_get_state(struct vmci_cpu *cpu, uint32_t groups, struct vmc_x86_state *st);
int vmci_cpu_set_state(struct vmci_cpu *cpu, uint32_t groups, const struct vmc_x86_state *st);

#endif
