/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of the bare-metal kernel know of each other. */
#ifndef BM_INT_H
#define BM_INT_H

#include <stdarg.h>

#include <vmcore/baremetal.h>

#include "bm_asm.h"

#define PAGE          4096ull
#define PAGES(bytes)  (((uint64_t)(bytes) + PAGE - 1) / PAGE)
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define BM_MAX_CPUS VMC_BM_MAX_CPUS

/* The address space: all memory, not executable; mappings made on demand; the kernel itself. */
#ifndef PHYSMAP_BASE /* a fuzz target has it elsewhere */
#define PHYSMAP_BASE 0xffff800000000000ull
#endif
#define VMAP_BASE    0xffffc00000000000ull
#define VMAP_BYTES   (1ull << 39)
#define IMAGE_BASE   0xffffffff80000000ull

/* ---- boot information --------------------------------------------------------------------------
 */

struct bm_range {
    uint64_t base, bytes;
    bool ram;
};

#define BM_MAX_RANGES  256
#define BM_MAX_MODULES VMC_BM_MAX_MODULES

struct bm_boot {
    uint64_t load_pa; /* where the image begins (its link address is IMAGE_BASE + 2 MiB) */
    uint64_t entry_tsc;
    const char *protocol;
    uint64_t rsdp_pa; /* 0: not told; search */
    bool efi;
    struct bm_range range[BM_MAX_RANGES];
    unsigned ranges;
    struct {
        uint64_t pa, bytes;
        char name[128];
    } module[BM_MAX_MODULES];
    unsigned modules;
    char cmdline[512];
    char loader[64];
};
extern struct bm_boot bm_boot;

void bm_boot_parse(uint32_t magic, uint64_t info_pa);
/* Value of "name=" on the command line copied to out, or false. */
bool bm_boot_option(const char *name, char *out, size_t bytes);

/* ---- per-CPU data ------------------------------------------------------------------------------
 */

#define STACK_BYTES (64u << 10) /* of the CPU's own loop */
#define IST_BYTES   (16u << 10)
#define IST_COUNT   5
enum { IST_IRQ = 1, IST_FAULT, IST_NMI, IST_DF, IST_MC };

struct bm_tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3, iomap;
} __attribute__((packed));

/*
 * Found through FS and not GS: translated guest code has the vCPU in GS, and interrupts come while
 * it runs. The compiler's stack protector (in Debian's libraries) wants its canary at FS:0x28.
 */
struct bm_cpu {
    struct bm_cpu *self; /* fs:0 */
    uint64_t pad[4];
    uint64_t canary; /* fs:0x28 */
    uint32_t index, apic_id;
    volatile uint32_t online;
    volatile uint32_t pending; /* an interrupt came since the last wait */
    volatile uint32_t lost;    /* the interrupt that ended a sleep is to be taken for lost */
    volatile uint32_t tlb_flush;
    uint32_t irqs;
    uint64_t timer_ns;  /* what the timer is armed for; UINT64_MAX: nothing */
    uint64_t engine_ns; /* deadline of the vCPU that runs here; 0: none */
    uint64_t idle_ns;
    uint64_t *stack_top;
    uint64_t gdt[5];
    struct bm_tss tss;
    struct vmc_bm_cpu_stats stats;
    struct vmc_bm_fiber *fiber; /* the one that runs; NULL: none */
} __attribute__((aligned(64)));

extern struct bm_cpu *bm_cpus[BM_MAX_CPUS];
extern uint32_t bm_cpu_count;

static inline struct bm_cpu *this_cpu(void)
{
    struct bm_cpu *c;
    __asm__("movq %%fs:0, %0" : "=r"(c));
    return c;
}

/* Registers as bm_entry.S leaves them. */
struct bm_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, code;
    uint64_t rip, cs, rflags, rsp, ss;
};

void bm_cpu_tables(struct bm_cpu *c); /* GDT, TSS, IDT, FS */
void bm_cpu_features(void);           /* control registers, XCR0, PAT */
int bm_cpu_stacks(struct bm_cpu *c);
void bm_idt_init(void);

/* ---- locks -------------------------------------------------------------------------------------
 */

struct bm_lock {
    uint32_t next, owner;
};

static inline void bm_lock(struct bm_lock *l)
{
    uint32_t me = __atomic_fetch_add(&l->next, 1, __ATOMIC_RELAXED);
    while (__atomic_load_n(&l->owner, __ATOMIC_ACQUIRE) != me)
        cpu_relax();
}

static inline void bm_unlock(struct bm_lock *l)
{
    __atomic_store_n(&l->owner, l->owner + 1, __ATOMIC_RELEASE);
}

/* For what interrupt handlers take too. */
static inline bool bm_lock_irq(struct bm_lock *l)
{
    bool on = irq_save();
    bm_lock(l);
    return on;
}

static inline void bm_unlock_irq(struct bm_lock *l, bool on)
{
    bm_unlock(l);
    irq_restore(on);
}

/* ---- memory ------------------------------------------------------------------------------------
 */

#define OWNER_FREE   0u
#define OWNER_KERNEL 1u
#define OWNER_FIRST  2u

void bm_pmm_init(void);
/* pages contiguous pages aligned to align pages (a power of two), contents undefined; 0: none. */
uint64_t bm_pages_alloc(uint64_t pages, uint64_t align, uint32_t owner);
/* The same, below 4 GiB (for tables that 16- and 32-bit code reads). */
uint64_t bm_pages_alloc_low(uint64_t pages, uint32_t owner);
void bm_pages_free(uint64_t pa, uint64_t pages);
uint64_t bm_pages_owned(uint32_t owner);
/* Take back whatever an owner still has; returns how many pages that was. */
uint64_t bm_pages_reclaim(uint32_t owner);
/* A page of memory below 640 KiB for the start of other CPUs; 0: none. */
uint64_t bm_low_page(void);
void bm_pmm_totals(uint64_t *ram, uint64_t *free);

static inline void *phys_ptr(uint64_t pa)
{
    return (void *)(PHYSMAP_BASE + pa);
}

/* Of any mapped kernel address. */
uint64_t bm_virt_to_phys(const void *va);

/* Is the kernel address readable? */
bool bm_mapped(uint64_t va);

#define MAP_WRITE 1u
#define MAP_EXEC  2u
#define MAP_UC    4u
void bm_paging_init(void);
extern uint64_t bm_kernel_cr3;
/* A top-level table with one page mapped one to one and executable besides everything else. */
uint64_t bm_paging_trampoline(uint64_t pa);
void bm_paging_trampoline_free(uint64_t root);
/* Map pages (contiguous from pa) at a fresh address with unmapped pages around it; NULL: no room.
 */
void *bm_vmap(uint64_t pa, uint64_t pages, unsigned flags);
void bm_vunmap(void *va, uint64_t pages);
void *bm_mmio_map(uint64_t pa, uint64_t bytes);
void bm_tlb_shootdown(void);

struct bm_heap;
struct bm_heap *bm_heap_create(uint32_t owner);
void bm_heap_destroy(struct bm_heap *h);
void *bm_heap_alloc(struct bm_heap *h, size_t bytes, size_t align);
void bm_heap_free(struct bm_heap *h, void *p, size_t bytes, size_t align);
void bm_heap_init(void);
/* The kernel's own: zeroed. */
void *bm_zalloc(size_t bytes);
void bm_free(void *p, size_t bytes);
extern struct bm_heap *bm_kernel_heap;

/* ---- time, interrupts, other CPUs --------------------------------------------------------------
 */

void bm_time_init(void);
uint64_t bm_now_ns(void);
uint64_t bm_tsc_hz(void);
bool bm_tsc_invariant(void);
void bm_delay_us(uint64_t us);
int64_t bm_wall_s(void);
uint64_t bm_ns_to_tsc(uint64_t ns);

#define VEC_DEVICE   0x30u
#define VEC_DEVICES  0xa0u
#define VEC_TIMER    0xf0u
#define VEC_IPI      0xf1u
#define VEC_TLB      0xf2u
#define VEC_POSTED   0xf3u /* taken by a guest, or by nobody (hw.h, notify) */
#define VEC_SPURIOUS 0xffu

void bm_lapic_init(bool first);
uint32_t bm_lapic_id(void);
void bm_lapic_eoi(void);
/* For tests ("lose=N"): is this one of the timer's interrupts to be taken for lost? */
bool bm_lapic_timer_lost(uint64_t count);
void bm_lapic_send(uint32_t apic_id, uint32_t icr_low);
/* Can an interrupt be sent to this one alone? */
bool bm_lapic_reaches(uint32_t apic_id);
void bm_lapic_timer(uint64_t deadline_ns);
uint64_t bm_lapic_msi_addr(void);
void bm_pic_off(void);

typedef void bm_irq_fn(void *ctx);
/* A vector for a device; fn runs in interrupt context. 0: none left. */
unsigned bm_irq_vector(bm_irq_fn *fn, void *ctx);
/* Connect a legacy ISA interrupt; false: there is no IOAPIC for it. */
bool bm_irq_isa(unsigned irq, bm_irq_fn *fn, void *ctx);
void bm_irq_dispatch(unsigned vector);
void bm_smp_start(void);
void bm_smp_go(void);
void bm_trap(struct bm_frame *f);

/* ---- ACPI, PCI ---------------------------------------------------------------------------------
 */

struct bm_acpi {
    uint32_t cpu_apic[BM_MAX_CPUS];
    unsigned cpus;
    uint64_t lapic_pa;
    struct {
        uint64_t pa;
        uint32_t gsi;
    } ioapic[8];
    unsigned ioapics;
    struct {
        uint32_t gsi;
        uint16_t flags;
        bool set;
    } isa[16];
    uint64_t hpet_pa;
    uint16_t pm_timer; /* port, 0: none */
    bool pm_timer_32;
    uint16_t pm1a, pm1b; /* control ports */
    uint16_t s5a, s5b;   /* sleep types, already in place */
    bool has_s5;
    uint8_t reset_space, reset_value;
    uint64_t reset_addr; /* 0: none */
    struct {
        uint64_t pa;
        uint8_t bus_first, bus_last;
    } mcfg[4];
    unsigned mcfgs;
    char oem[7];
};
extern struct bm_acpi bm_acpi;
void bm_acpi_init(void);

struct bm_pci {
    uint8_t bus, dev, fn;
    uint16_t vendor, device;
    uint8_t class_code, subclass, prog_if;
};
#define BM_MAX_PCI 128
extern struct bm_pci bm_pci[BM_MAX_PCI];
extern unsigned bm_pci_count;
void bm_pci_init(void);
uint32_t bm_pci_rd32(const struct bm_pci *p, unsigned reg);
void bm_pci_wr32(const struct bm_pci *p, unsigned reg, uint32_t v);
uint16_t bm_pci_rd16(const struct bm_pci *p, unsigned reg);
void bm_pci_wr16(const struct bm_pci *p, unsigned reg, uint16_t v);
uint8_t bm_pci_rd8(const struct bm_pci *p, unsigned reg);
/* Address of BAR n; *io says which space; *bytes its size. 0: none. */
uint64_t bm_pci_bar(const struct bm_pci *p, unsigned n, bool *io, uint64_t *bytes);
/* Capability id, from the one after reg "after" (0: first); 0: none. */
unsigned bm_pci_cap(const struct bm_pci *p, unsigned id, unsigned after);
/* Memory, I/O, bus mastering on. */
void bm_pci_enable(const struct bm_pci *p);
/* Bus mastering off: whatever the device still does, it reaches no memory. */
void bm_pci_stop(const struct bm_pci *p);
/* One message-signalled interrupt (MSI, or MSI-X entry 0); false: the function has neither. */
bool bm_pci_msi(const struct bm_pci *p, bm_irq_fn *fn, void *ctx);

/* ---- console, panic, end -----------------------------------------------------------------------
 */

void bm_serial_init(void);
void bm_serial_irq(void);
void bm_serial_flush(void);
void bm_serial_panic(void);
void bm_puts(const char *s, size_t n);
void bm_printf(const char *fmt, ...) VMC_PRINTF(1, 2);
_Noreturn void bm_panic(const char *fmt, ...) VMC_PRINTF(1, 2);
_Noreturn void bm_panic_frame(const struct bm_frame *f, const char *what);
size_t bm_vsnprintf(char *dst, size_t bytes, const char *fmt, va_list ap);
size_t bm_snprintf(char *dst, size_t bytes, const char *fmt, ...) VMC_PRINTF(3, 4);
size_t bm_strlen(const char *s);
bool bm_streq(const char *a, const char *b);
void bm_platform_init(void);

/* ---- drivers ------------------------------------------------------------------------------------
 */

/* Until when a disk may be written to (vmc_bm_disk_lease); 0: for ever. */
struct bm_lease {
    uint64_t end_ns;
};
/* May the request not be begun any more, or not be under way? */
static inline bool bm_late(const struct vmc_block_req *r, const struct bm_lease *l)
{
    uint64_t end = __atomic_load_n(&l->end_ns, __ATOMIC_RELAXED);
    return r->op == VMC_BLOCK_WRITE && end != 0 && bm_now_ns() >= end;
}
void bm_disk_add(const char *name, const struct vmc_blockdev *dev, const char *model,
                 struct bm_lease *lease);
/* poll is called by vmc_bm_poll on some CPU when *flag is not 0 (it clears it itself). */
void bm_poll_add(void (*poll)(void *ctx), void *ctx, volatile uint32_t *flag);
/* A disk's command that takes longer has got lost: its controller is started anew. */
#define BM_DISK_LIMIT_NS 15000000000ull
#define BM_DISK_LOST     "after 15 s"
#define BM_DISK_LATE     "at the end of a lease"
/* The device has no interrupt: look at it with every poll. */
void bm_poll_always(volatile uint32_t *flag);
/* When somebody has to look at devices again if nothing else happens. */
uint64_t bm_poll_deadline(uint64_t now_ns, uint64_t deadline_ns);
/* Requests that a controller cannot take as they lie (bm_bounce.c). */
bool bm_bounce_needed(const struct vmc_block_req *r, uint32_t align, uint32_t unit);
int bm_bounce_submit(struct vmc_block_req *r, const struct vmc_blockdev *dev);
void bm_nic_add(struct vmc_bm_nic *nic);
void bm_ata_probe(const struct bm_pci *p);
void bm_ahci_probe(const struct bm_pci *p);
void bm_nvme_probe(const struct bm_pci *p);
void bm_virtio_blk_probe(const struct bm_pci *p);
void bm_virtio_net_probe(const struct bm_pci *p);
void bm_drivers_init(void);

void *memcpy(void *dst, const void *src, size_t n);
void *memmove(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);

#endif
