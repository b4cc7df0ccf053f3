/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the VT-x and SVM engines share. A vCPU's state lives in v->st; the parts that the control
 * structure (VMCS, VMCB) holds are copied lazily: v->valid says which groups of st are as the guest
 * left them, v->dirty which are newer than the control structure.
 */
#ifndef HW_INT_H
#define HW_INT_H

#include "cpu/emulate.h"
#include "mmu/shadow.h"
#include "mmu/slat.h"
#include <vmcore/hw.h>
#include <vmcore/x86.h>

/* Outcome of one turn of the run loop, beside negative status codes. */
#define HW_RESUME 0
#define HW_LEAVE  1 /* *x is for the VM layer */

/* v->stop: why the guest is not to be entered. Set by any thread. */
#define HW_REQ_KICK  0x1u
#define HW_REQ_IRQ   0x2u
#define HW_REQ_FLUSH 0x4u /* the second-level tables changed, or the shadow must go */

/* v->todo: what is to be done before the next entry. Own thread. */
#define HW_TODO_PUSH  0x01u /* dirty groups */
#define HW_TODO_EVENT 0x02u /* something to inject, or a window to ask for */
#define HW_TODO_IDLE  0x04u /* not running */
#define HW_TODO_SOFT  0x08u /* the processor cannot run this state */
#define HW_TODO_FPU   0x10u /* the guest's FPU state is in memory */
#define HW_TODO_DEBUG 0x20u /* a debugger is attached, or a single step */
#define HW_TODO_FLUSH 0x40u /* this vCPU's TLB */

/* Beside enum vmc_state_group: RSP, which is apart from the other general registers. */
#define HW_ST_RSP (1u << 30)
/* Groups that the control structure holds, at least in part, and that a running guest changes. */
#define HW_ST_GUEST (VMC_ST_SEG | VMC_ST_TABLES | VMC_ST_CTRL | VMC_ST_MSR | HW_ST_RSP)
/* What emulation takes and gives. */
#define HW_ST_EMULATE                                                                              \
    (VMC_ST_GPR | VMC_ST_RIP | VMC_ST_SEG | VMC_ST_TABLES | VMC_ST_CTRL | VMC_ST_DEBUG |           \
     VMC_ST_MSR | VMC_ST_EVENT | VMC_ST_RUN)

enum hw_stat {
    HW_STAT_ENTRIES,
    HW_STAT_CPUID,
    HW_STAT_IO,
    HW_STAT_MSR,
    HW_STAT_CR,
    HW_STAT_HLT,
    HW_STAT_HOST_IRQ,
    HW_STAT_WINDOW,
    HW_STAT_EVENTS, /* injected */
    HW_STAT_EXCEPTION,
    HW_STAT_FAULT,    /* second-level or shadow faults */
    HW_STAT_MAPPED,   /* of these: a page was mapped */
    HW_STAT_BROUGHT,  /* of these: the page's contents had to be brought in */
    HW_STAT_MMIO,     /* device accesses without the software CPU */
    HW_STAT_EMULATED, /* instructions or slices by the software CPU */
    HW_STAT_TIMER,
    HW_STAT_FLUSH,
    HW_STAT_APIC,     /* accesses to the local APIC that the processor did not do by itself */
    HW_STAT_LOG_FULL, /* the processor's log of written pages was full */
    HW_STAT_OTHER,
    HW_STATS,
};

struct hw_vcpu;
struct hw_vm;

/* What differs between the two. All on the vCPU's thread and processor, the structure loaded. */
struct hw_vendor {
    uint32_t id; /* vmc_exit.raw.vendor */
    int (*load)(struct hw_vcpu *v);
    void (*unload)(struct hw_vcpu *v);
    void (*pull)(struct hw_vcpu *v, uint32_t groups);
    void (*push)(struct hw_vcpu *v, uint32_t groups);
    /* Can the processor run the state? Else the software CPU does. */
    bool (*runnable)(struct hw_vcpu *v);
    void (*inject)(struct hw_vcpu *v, const struct vmc_event *e);
    void (*windows)(struct hw_vcpu *v, bool irq, bool nmi);
    void (*flush_tlb)(struct hw_vcpu *v);
    /* Any thread, if hw_vcpu.posting: false, and it is to be asked as usual. */
    bool (*post)(struct hw_vcpu *v);
    /* The task priority that the guest sees without an exit: to the local APIC, and from it. */
    void (*tpr_out)(struct hw_vcpu *v);
    void (*tpr_in)(struct hw_vcpu *v);
    /* Is this 64-bit code? *cr3 is the guest's. */
    bool (*code64)(struct hw_vcpu *v, uint64_t *cr3);
    /* If hw_vm.fetches: 15 bytes of the instruction that exited, or NULL. */
    const uint8_t *(*fetched)(struct hw_vcpu *v);
    /* Make the control structure accessible, outside run. */
    int (*attach)(struct hw_vcpu *v);
    void (*detach)(struct hw_vcpu *v);
    /* Enter and handle exits until one asks for more than to enter again. */
    int (*enter)(struct hw_vcpu *v, struct vmc_exit *x);
};

/* CPUID leaves that depend on nothing, for the short way. */
#define HW_CPUID_SLOTS 256u
struct hw_cpuid {
    uint8_t first[HW_CPUID_SLOTS]; /* hash of the leaf: 1 + index of the first entry; 0: none */
    uint8_t next[VMC_CPUID_MAX_LEAVES];
};

/* Tags (VPID, ASID) of a processor; see hw_tag.c. */
struct hw_tags {
    uint64_t generation;
    uint32_t next, max; /* max 0: the processor has no tags */
};

/* struct vmc_hw_ops.percpu. */
struct hw_percpu {
    uint32_t kind; /* enum vmc_hw_kind; NONE: not up */
    uint32_t owes_flush; /* of every tag, before one is used */
    struct hw_tags tags;
    void *page[2]; /* VT-x: the VMXON region; SVM: host save area, VMCB of the host's state */
    uint64_t hpa[2];
    const struct hw_vcpu *last; /* that ran here, compared only */
    uint64_t old_cr4;
    uint64_t xcr0; /* the host's, 0: there is no XSAVE */
    uint64_t tsc_ratio; /* SVM: as the MSR was last written, 0: never */
};

/* Speculation barriers, chosen by CPUID (hw_spec.c). */
struct hw_spec {
    bool ibpb;            /* at a change of vCPU */
    uint32_t entry_flags; /* VMC_HW_CLEAR_CPU, FLUSH_L1D, FILL_RSB, SET_IBRS */
};

struct vmx_caps {
    uint64_t basic, misc, ept_vpid, vmfunc;
    uint64_t cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1;
    /* Allowed settings, TRUE ones where there are: low half must be 1, high half may be 1. */
    uint64_t pin, proc, proc2, exit, entry;
    uint32_t phys_bits;
    /* The controls as chosen. */
    uint32_t use_pin, use_proc, use_proc2, use_exit, use_entry;
    bool ept, ept_ad, ept_1g, ept_2m, ug, vpid, timer, tpr_shadow, msr_bitmap, pml, xsaves;
    bool tsc_scaling, save_efer, save_pat, invpcid, rdtscp;
    bool vid, posted; /* the local APIC in the processor; requests without an exit */
    bool weak_vid;    /* vid without posted interrupts in the processor: Bochs 2.7 (vmx_apic.c) */
    unsigned timer_shift;
};

struct svm_caps {
    uint32_t asids, features;
    bool npt, nrips, flush_asid, clean_bits, decode, tsc_ratio, pause_filter, vgif, npt_1g;
    bool lbr;        /* DBGCTL is the guest's own */
    bool offer_irqs; /* see svm_inject */
};

struct hw_vm {
    const struct vmc_platform *pf;
    const struct vmc_hw_ops *hw;
    struct vmc_mem *mem;
    const struct hw_vendor *vendor;
    struct vmci_mem_listener listener;
    struct vmc_cpu_policy policy;
    struct hw_cpuid cpuid;
    struct hw_spec spec;
    uint64_t tsc_hz;       /* of the guest's TSC, 0: not known */
    uint64_t tsc_mult;     /* guest ticks for one of the host's, as a fraction; 0: one */
    unsigned tsc_fraction; /* bits of tsc_mult below the point; 0: the processor cannot scale */
    uint64_t xcr0_mask;    /* components that the guest may use; 0: no XSAVE, FXSAVE serves */
    uint32_t max_vcpus, flags;
    bool nested;    /* EPT or NPT, not shadow tables */
    bool keeps_fpu; /* VMC_HW_KEEPS_FPU */
    bool amd;       /* the guest's CPU model */
    bool fetches;   /* exits come with bytes of the instruction */
    bool own_xcr0;  /* XSETBV does not exit, though it should: see svm_engine.c */
    struct vmci_slat slat;
    struct vmci_lock lock; /* slat */
    unsigned max_leaf;
    struct hw_vcpu *vcpu[64];
    /* Shared by all vCPUs. */
    void *msr_bitmap, *io_bitmap;
    uint64_t msr_bitmap_hpa, io_bitmap_hpa;
    uint32_t msr_order, io_order;
    /* VT-x with the local APIC in the processor: what guests' accesses are recognised by. */
    void *apic_page, *msr_bitmap_x2;
    uint64_t apic_page_hpa, msr_bitmap_x2_hpa;
    bool apic_page_used; /* (a) it is, or may be, mapped */
    union {
        struct vmx_caps vmx;
        struct svm_caps svm;
    } caps;
};
#define HW_MAX_VCPUS 64u

/* Where the code page of the last exit lies, and the four guest table entries that say so. */
struct hw_code_page {
    uint64_t page, cr3; /* linear address of the page, ~0: none */
    const uint64_t *entry[4];
    uint64_t value[4];
    unsigned levels;
    const uint8_t *hva;
};

struct vmx_vcpu {
    void *vmcs;
    uint64_t vmcs_hpa;
    void *vapic; /* virtual-APIC page: the TPR, or all (vmx_apic.c) */
    uint64_t vapic_hpa;
    void *msr_load; /* entry and exit MSR-load areas, where EFER has no field */
    uint64_t msr_load_hpa;
    uint64_t log_hpa; /* of hw_vcpu.log */
    struct vmc_hw_vmx_frame frame;
    uint32_t proc, proc2, entry, exc_bitmap, interruptibility;
    uint32_t idt_info, idt_code, idt_len;
    bool launched;
    uint8_t tpr;        /* as the local APIC knows it */
    bool lent;          /* its registers are in vapic */
    uint8_t serviced;   /* highest vector in service when they were lent */
    uint32_t apic_mode; /* VMC_APIC_*, of the controls */
    uint64_t eoi_exits[4];
};

struct svm_vcpu {
    struct vmcb *vmcb;
    uint64_t vmcb_hpa;
    struct vmc_hw_svm_frame frame;
    uint32_t clean; /* VMCB clean bits after an exit */
    bool step_over; /* an NMI waits for the end of an interrupt shadow */
    bool offered;   /* the interrupt of hw_vcpu.inflight is a virtual one of the VMCB */
    uint8_t tpr;
    uint64_t inject_entry, inject_rip; /* the entry with the last injected event, by number */
};

struct hw_vcpu {
    struct vmc_x86_state st; /* first: its general registers are what entry code works on */
    struct hw_vm *vm;
    const struct vmc_engine_io *io;
    struct vmci_emulator *emu;
    uint32_t index;
    uint32_t stop;     /* (a) HW_REQ_* */
    uint32_t in_guest; /* (a) between the last look at stop and the exit */
    uint32_t cpu;      /* (a) where it is loaded */
    uint32_t todo;
    uint32_t valid, dirty;
    uint32_t exit_mask;
    struct vmc_event inflight; /* handed to the vendor for the next entry */
    uint32_t owed;             /* kind of the exit that waits for completion, 0: none */
    bool owed_emulator;        /* ... by the emulator */
    bool stashed;              /* completion led to another exit, in stash */
    bool loaded, fpu_live;
    bool irq_wait;    /* an interrupt may be pending: ask */
    bool want_window; /* of the VM layer */
    bool delivers;    /* the processor delivers interrupts of the local APIC */
    bool posting;     /* (a) they can be posted while it is in the guest */
    bool debugger, step;
    uint32_t last_cpu;   /* where its translations may be cached; UINT32_MAX: nowhere */
    uint64_t last_owner; /* generation there */
    uint32_t tag;
    uint64_t tag_generation;
    uint64_t deadline_ns, deadline_tsc; /* 0: none */
    uint64_t timer_left;                /* ticks to deadline_tsc at this entry */
    int64_t tsc_offset;
    uint8_t insn_len; /* of the exit that waits for completion */
    struct hw_code_page code;
    uint64_t *log; /* page of HW_LOG_ENTRIES, if the processor logs written pages; HW_LOG_NONE */
    struct vmci_shadow shadow;
    struct vmc_exit stash;
    uint32_t stash_owed;
    uint64_t stat[HW_STATS];
    union {
        struct vmx_vcpu vmx;
        struct svm_vcpu svm;
    } u;
};

static inline void *hw_ctx(const struct hw_vcpu *v)
{
    return v->vm->pf->ctx;
}

/* ---- hw_run.c: the loop, and what is alike in both ------------------------------------------- */

#define HW_LOG_ENTRIES 512u
#define HW_LOG_NONE    UINT64_MAX /* taken, or not written yet */

/* The guest's clock (VT-x: SDM 3C 26.3; SVM: APM 2 15.30.5). */
static inline uint64_t hw_scale_tsc(const struct hw_vm *vm, uint64_t host)
{
    if (likely(vm->tsc_mult == 0))
        return host;
    return (uint64_t)((unsigned __int128)host * vm->tsc_mult >> vm->tsc_fraction);
}

static inline uint64_t hw_guest_tsc(const struct hw_vcpu *v)
{
    return hw_scale_tsc(v->vm, v->vm->hw->rdtsc(hw_ctx(v))) + (uint64_t)v->tsc_offset;
}

#define XSAVE_BV 512u /* offset of the header in an XSAVE area */

void hw_set_exit(struct hw_vcpu *v, struct vmc_exit *x, uint32_t kind);
int hw_run(void *ev, const struct vmc_run_limits *lim, struct vmc_exit *out);
int hw_complete(void *ev, const struct vmc_exit *done);
void hw_host_irq(struct hw_vcpu *v);
void hw_kick(void *ev);
void hw_irq_notify(void *ev);
/* Make the groups of v->st what the guest has now. */
static inline void hw_need(struct hw_vcpu *v, uint32_t groups)
{
    uint32_t missing = groups & ~v->valid;

    if (missing != 0) {
        v->vm->vendor->pull(v, missing);
        v->valid |= missing;
    }
}
/* v->st was changed. */
static inline void hw_changed(struct hw_vcpu *v, uint32_t groups)
{
    v->valid |= groups;
    v->dirty |= groups;
    v->todo |= HW_TODO_PUSH;
}
/* What walks of the guest's page tables depend on; VMC_ST_CTRL is valid. */
static inline void hw_paging(const struct hw_vcpu *v, struct vmc_paging *pg)
{
    const struct vmc_x86_state *st = &v->st;

    *pg = (struct vmc_paging){.cr0 = st->cr0, .cr3 = st->cr3, .cr4 = st->cr4, .efer = st->efer};
    memcpy(pg->pdpte, st->pdpte, sizeof(pg->pdpte));
    vmci_emulator_paging(v->emu, pg);
}
/* Both interrupt shadows at once. */
static inline uint32_t hw_shadows(const struct hw_vcpu *v)
{
    const size_t at = offsetof(struct vmc_x86_state, sti_shadow);

    _Static_assert(offsetof(struct vmc_x86_state, ss_shadow) ==
                       offsetof(struct vmc_x86_state, sti_shadow) + 1,
                   "side by side");
    return vmci_ld_le16((const unsigned char *)&v->st + at);
}
static inline bool hw_shadowed(const struct hw_vcpu *v)
{
    return hw_shadows(v) != 0;
}
/* Step over the instruction that exited. */
void hw_skipped(struct hw_vcpu *v);
static inline void hw_skip(struct hw_vcpu *v, unsigned len)
{
    v->st.rip += len;
    if (unlikely((hw_shadows(v) | (v->st.rflags & (VMC_FLAG_TF | VMC_FLAG_RF))) != 0))
        hw_skipped(v);
}

/* ---- hw_exit.c: handlers ----------------------------------------------------------------------
 */

/* Each is a turn's outcome. len: of the instruction. */
int hw_on_msr(struct hw_vcpu *v, bool write, unsigned len, struct vmc_exit *x);
int hw_leave_for_pio(struct hw_vcpu *v, bool write, uint16_t port, unsigned bytes, unsigned len,
                     struct vmc_exit *x);
int hw_on_hlt(struct hw_vcpu *v, unsigned len);
int hw_on_hypercall(struct hw_vcpu *v, unsigned len, struct vmc_exit *x);
/* Execute at most n instructions by the software CPU. */
int hw_emulate(struct hw_vcpu *v, uint64_t n, struct vmc_exit *x);
/* An instruction that may have changed what paging depends on. */
int hw_emulate_system(struct hw_vcpu *v, struct vmc_exit *x);
/* Second-level fault at gpa. rights wanted: VMCI_SLAT_*. */
int hw_on_gpa_fault(struct hw_vcpu *v, uint64_t gpa, uint32_t want, struct vmc_exit *x);
/* #PF under shadow paging. */
int hw_on_page_fault(struct hw_vcpu *v, uint64_t gva, uint32_t code, struct vmc_exit *x);
int hw_on_invlpg(struct hw_vcpu *v, uint64_t gva, unsigned len);
int hw_on_read_cr(struct hw_vcpu *v, uint64_t value, unsigned gpr, unsigned len);
/* MOV to CR3 under shadow paging. */
int hw_on_mov_cr3(struct hw_vcpu *v, unsigned gpr, unsigned len, struct vmc_exit *x);
int hw_shutdown(struct hw_vcpu *v, struct vmc_exit *x);
/* Queue an exception for the next entry; one on top of another becomes #DF or a triple fault. */
int hw_raise(struct hw_vcpu *v, unsigned vector, bool has_code, uint32_t code, struct vmc_exit *x);
void hw_fpu_park(struct hw_vcpu *v);
void hw_pull_xcr0(struct hw_vcpu *v);
/* Before a callback of vmc_engine_io. */
static inline void hw_callback(struct hw_vcpu *v)
{
    if (unlikely(!v->vm->keeps_fpu))
        hw_fpu_park(v);
}
uint64_t *hw_gpr(struct hw_vcpu *v, unsigned reg); /* RSP made valid; mark HW_ST_RSP when written */

/* ---- hw_code.c, hw_mmio.c ----------------------------------------------------------------------
 */

bool hw_code_find(struct hw_vcpu *v, uint64_t page, uint64_t cr3);
static inline void hw_code_forget(struct hw_vcpu *v)
{
    v->code.page = ~0ull;
}
/* An access to a device at gpa, where there is no memory: the short way, or the software CPU's. */
int hw_on_mmio(struct hw_vcpu *v, uint64_t gpa, struct vmc_exit *x);

/* ---- hw_cpuid.c -------------------------------------------------------------------------------
 */

void hw_ceiling(const struct vmc_platform *pf, bool nested, bool invpcid, bool rdtscp,
                struct vmc_cpu_policy *out);
void hw_cpuid_index(struct hw_vm *vm);
static inline uint32_t hw_cpuid_slot(uint32_t leaf)
{
    return leaf * 0x9e3779b1u >> 24;
}
/* The entry of a plain leaf; NULL: depends on state, or is out of range. */
static inline const struct vmc_cpuid_leaf *hw_cpuid_plain(const struct hw_vm *vm, uint32_t leaf,
                                                          uint32_t subleaf)
{
    for (uint32_t i = vm->cpuid.first[hw_cpuid_slot(leaf)]; i != 0; i = vm->cpuid.next[i - 1]) {
        const struct vmc_cpuid_leaf *l = &vm->policy.leaf[i - 1];
        if (likely(l->leaf == leaf &&
                   ((l->flags & VMC_CPUID_SUBLEAF) == 0 || l->subleaf == subleaf)))
            return l;
    }
    return NULL;
}

/* ---- hw_mem.c ---------------------------------------------------------------------------------
 */

int hw_mem_init(struct hw_vm *vm, const struct vmci_slat_format *fmt, unsigned max_leaf, bool ad,
                struct vmc_error *err);
void hw_mem_fini(struct hw_vm *vm);
/*
 * 0: mapped; VMC_ENOENT: a device, or a write to ROM; VMC_EAGAIN: the page is a space's, and has to
 * be brought in first (vmci_mem_fault); VMC_ENOMEM; VMC_EHOST.
 */
int hw_mem_fault(struct hw_vm *vm, uint64_t gpa, uint32_t want);
int hw_mem_changed(void *evm);
/* The page at gpa, which is not of the memory map, is not to be mapped any more. */
void hw_mem_forget(struct hw_vm *vm, uint64_t gpa);
int hw_dirty_log(void *evm, bool on);
int hw_dirty_fetch(void *evm, uint64_t gpa, uint64_t pages, uint64_t *bitmap);
/* Take what the processors logged of written pages into the memory map's log. */
void hw_log_drain(struct hw_vm *vm);
static inline bool hw_logging(const struct hw_vm *vm)
{
    return vmci_load_relaxed(&vm->mem->dirty_clients) != 0;
}
/* Make every vCPU drop cached translations, and wait until none runs on old ones. */
void hw_shootdown(struct hw_vm *vm);

/* ---- hw_tag.c, hw_spec.c ----------------------------------------------------------------------
 */

/* The vCPU needs a tag on this processor without old translations. True: it got a new one. */
void hw_tag_new(struct hw_vcpu *v, struct hw_percpu *pc);
static inline struct hw_percpu *hw_percpu(const struct vmc_platform *pf)
{
    return pf->hw->percpu(pf->ctx);
}
void hw_spec_choose(const struct vmc_platform *pf, struct hw_spec *out);
/* This processor is to run guests: what has to be switched on once. */
void hw_spec_cpu_up(const struct vmc_platform *pf);
/* A vCPU starts to run on this processor. */
void hw_spec_switch(struct hw_vcpu *v, struct hw_percpu *pc);

/* ---- hw_vcpu.c: engine operations that are alike --------------------------------------------- */

int hw_vm_init(struct hw_vm *vm, const struct vmc_engine_vm_config *cfg,
               const struct hw_vendor *vendor, struct vmc_error *err);
int hw_vcpu_init(struct hw_vm *vm, struct hw_vcpu *v, uint32_t index,
                 const struct vmc_engine_io *io, struct vmc_error *err);
/* Let others find it, once it is complete: those who take pages back may look at any time. */
void hw_vcpu_publish(struct hw_vcpu *v);
void hw_vcpu_fini(struct hw_vcpu *v);
int hw_set_policy(void *evm, const struct vmc_cpu_policy *policy, struct vmc_error *err);
int hw_get_state(void *ev, uint32_t groups, struct vmc_x86_state *st);
int hw_set_state(void *ev, uint32_t groups, const struct vmc_x86_state *st);
int hw_can_inject(void *ev, const struct vmc_event *e);
int hw_inject(void *ev, const struct vmc_event *e);
int hw_want_window(void *ev, bool on);
int hw_read_tsc(void *ev, uint64_t *tsc, uint64_t *hz, uint64_t *clock);
int hw_set_debug(void *ev, const struct vmc_breakpoint *bp, size_t n);
size_t hw_stats(void *ev, const char **names, uint64_t *values, size_t max);
int hw_platform_ok(const struct vmc_platform *pf, const char *site, struct vmc_error *err);
/* Load and unload around an access to the control structure from outside run. */
bool hw_grab(struct hw_vcpu *v);
void hw_drop(struct hw_vcpu *v, bool grabbed);

/* The operations of struct vmc_engine_ops that both engines share. */
#define HW_ENGINE_OPS                                                                              \
    .abi = VMC_ENGINE_ABI, .set_policy = hw_set_policy, .run = hw_run, .complete = hw_complete,    \
    .get_state = hw_get_state, .set_state = hw_set_state, .can_inject = hw_can_inject,             \
    .inject = hw_inject, .want_window = hw_want_window, .kick = hw_kick,                           \
    .irq_notify = hw_irq_notify, .mem_changed = hw_mem_changed, .dirty_log = hw_dirty_log,         \
    .dirty_fetch = hw_dirty_fetch, .read_tsc = hw_read_tsc, .set_debug = hw_set_debug,             \
    .stats = hw_stats

/* hw_cpu.c calls these */
int vmx_cpu_up(const struct vmc_platform *pf, struct hw_percpu *pc, struct vmc_error *err);
void vmx_cpu_down(const struct vmc_platform *pf, struct hw_percpu *pc);
int svm_cpu_up(const struct vmc_platform *pf, struct hw_percpu *pc, struct vmc_error *err);
void svm_cpu_down(const struct vmc_platform *pf, struct hw_percpu *pc);

_Static_assert(sizeof(struct hw_percpu) <= VMC_HW_PERCPU_BYTES, "percpu block");

#endif
