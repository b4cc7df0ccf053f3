/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * NMIs, interrupts and double faults through task gates; what their delivery pushes when the gate
 * is bad; when NMIs are let in again; order of what waits together (SDM 3A 6.7, 6.9, 8). 32-bit,
 * for a whole machine.
 */
#include "kern.h"

#define LAPIC   0xfee00000ul
#define EOI     0xb0
#define SVR     0xf0
#define ICR     0x300
#define NMI     2
#define DF      8
#define TS      10
#define NP      11
#define GP      13
#define IRQ     0x60
#define SEL_NEW SEL_FREE
#define SEL_BAD (SEL_FREE + 8)

struct tss {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, flags;
    uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi;
    uint32_t es, cs, ss, ds, fs, gs, ldt;
    uint16_t trap, iomap;
};
static struct tss new_tss;
static uint8_t new_stack[4096] __attribute__((aligned(16)));
static struct tss *main_tss;

static void wr(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(LAPIC + reg) = v;
}
static void self_nmi(void)
{
    wr(ICR, 0x4400);
}
static void self_irq(void *vector)
{
    wr(ICR, 0x44000 | (unsigned)(unsigned long)vector);
    __asm__ volatile("sti\n\tnop\n\tnop\n\tcli" : : : "memory");
}
static void nops(void)
{
    for (unsigned i = 0; i < 20; i++)
        __asm__ volatile("nop");
}
static unsigned task_register(void)
{
    unsigned tr;
    __asm__ volatile("str %0" : "=r"(tr));
    return tr & 0xffff;
}
static unsigned type_of(unsigned sel)
{
    return (unsigned)(gdt[sel / 8] >> 40 & 15);
}

/* ---- the other task -------------------------------------------------------------------------- */

/* The code of the task, one round of which ends by the IRET in front of it. With an error code it
 * begins at task_error. */
extern const char task_start[], task_error[];
__asm__(".pushsection .text\n"
        "1: iretl\n"
        "task_start: call task_body\n"
        "jmp 1b\n"
        "2: iretl\n"
        "task_error: popl task_code\n"
        "call task_body\n"
        "jmp 2b\n"
        ".popsection");

uint32_t task_code;
void task_body(void);
static volatile unsigned rounds, other_nmis;
static volatile bool nmi_in_task, eoi_in_task, task_bad;
static void (*task_hook)(void);

void task_body(void)
{
    unsigned long flags = rd_flags();

    rounds++;
    task_bad |= task_register() != SEL_NEW || new_tss.link != SEL_TSS || type_of(SEL_TSS) != 11 ||
                type_of(SEL_NEW) != 11 || (rd_cr0() & 8) == 0 || (flags & 0x4200) != 0x4000;
    __asm__ volatile("clts");
    if (nmi_in_task) { /* waits until the task has ended */
        unsigned r = rounds;
        nmi_in_task = false;
        self_nmi();
        nops();
        task_bad |= rounds != r;
    }
    if (eoi_in_task)
        wr(EOI, 0);
    if (task_hook != NULL)
        task_hook();
}

static uint64_t tss_descriptor(const struct tss *t, unsigned access, unsigned limit)
{
    uint64_t base = (unsigned long)t;
    return limit | (base & 0xffffff) << 16 | (uint64_t)access << 40 | (base >> 24) << 56;
}

static void task_gate(unsigned vector, unsigned sel)
{
    set_raw_gate(vector, 0x0000e50000000000 | (uint64_t)sel << 16);
}

static void new_task(const char *start)
{
    new_tss = (struct tss){.eip = (unsigned long)start,
                           .flags = 2,
                           .esp = (unsigned long)(new_stack + sizeof(new_stack)),
                           .es = SEL_DATA,
                           .cs = SEL_CODE32,
                           .ss = SEL_DATA,
                           .ds = SEL_DATA,
                           .fs = SEL_DATA,
                           .gs = SEL_DATA,
                           .iomap = sizeof(struct tss)};
    gdt[SEL_NEW / 8] = tss_descriptor(&new_tss, 0x89, 103);
    rounds = 0;
    task_bad = false;
    task_hook = NULL;
}

static void check_back(const char *what, unsigned want)
{
    CHECK(rounds == want && !task_bad, "%s: %u rounds%s", what, rounds, task_bad ? ", bad" : "");
    CHECK(task_register() == SEL_TSS && type_of(SEL_TSS) == 11 && type_of(SEL_NEW) == 9,
          "%s: back in %x", what, task_register());
    CHECK((rd_flags() & 0x4000) == 0, "%s: NT", what);
}

/* MOV dword [FEE00300h], imm; INT 80h: an NMI to itself, or an interrupt. */
static long from_user(uint32_t icr)
{
    uint8_t code[] = {0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0, 0, 0, 0, 0x90, 0x90, 0x90, 0xcd, 0x80};

    memcpy(code + 6, &icr, 4);
    memcpy((void *)USER_AREA, code, sizeof(code));
    return try_user(USER_AREA, 0);
}

static void nmi_tasks(void)
{
    new_task(task_start);
    task_gate(NMI, SEL_NEW);
    self_nmi();
    nops();
    check_back("NMI", 1);
    rounds = 0;
    nmi_in_task = true;
    self_nmi();
    nops();
    check_back("NMI in its task", 2);
    rounds = 0;
    __asm__ volatile("int $2");
    check_back("INT 2", 1);
    rounds = 0;
    CHECK(from_user(0x4400) == -1, "NMI at level 3: %ld", fault.vector);
    check_back("NMI at level 3", 1);
    CHECK((main_tss->cs & 3) == 3 && main_tss->eip == USER_AREA + 10, "NMI at level 3: saved %x:%x",
          (unsigned)main_tss->cs, (unsigned)main_tss->eip);
    rounds = 0;
    CHECK(from_user(0x44400) == -1, "NMI to itself by shorthand: %ld", fault.vector);
    check_back("NMI to itself by shorthand", 1);
    set_gate(NMI, 0, false);
}

static void irq_tasks(void)
{
    new_task(task_start);
    task_gate(IRQ, SEL_NEW);
    eoi_in_task = true;
    self_irq((void *)IRQ);
    check_back("interrupt", 1);
    rounds = 0;
    self_irq((void *)IRQ);
    check_back("interrupt, again", 1);
    eoi_in_task = false;
    set_gate(IRQ, 0, false);
}

/* ---- gates that are not good ----------------------------------------------------------------- */

static void irq_fault(const char *what, long vector, unsigned long code)
{
    long r = try_call(self_irq, (void *)IRQ);
    CHECK(r == vector && fault.code == code, "interrupt, %s: exception %ld, code %lx", what, r,
          fault.code);
    wr(EOI, 0);
}

static void nmi_now(void *p)
{
    (void)p;
    self_nmi();
    nops();
}

/* IRET to the next instruction, which lets NMIs in. */
static void iret(void)
{
    __asm__ volatile("pushfl\n\tpush %%cs\n\tpush $1f\n\tiretl\n1:" : : : "memory");
}

static void set_idt_limit(unsigned limit)
{
    struct {
        uint16_t limit;
        uint32_t base;
    } __attribute__((packed)) r;

    __asm__ volatile("sidt %0" : "=m"(r));
    r.limit = (uint16_t)limit;
    __asm__ volatile("lidt %0" : : "m"(r));
}

/* Error codes say that the event came from outside: bit 0. */
static void bad_gates(void)
{
    new_task(task_start);
    task_gate(IRQ, SEL_NEW);
    gdt[SEL_NEW / 8] = tss_descriptor(&new_tss, 0x09, 103);
    irq_fault("TSS not present", NP, SEL_NEW | 1);
    gdt[SEL_NEW / 8] = tss_descriptor(&new_tss, 0x8b, 103);
    irq_fault("TSS busy", GP, SEL_NEW | 1);
    gdt[SEL_NEW / 8] = tss_descriptor(&new_tss, 0x89, 102);
    irq_fault("TSS short", TS, SEL_NEW | 1);
    task_gate(IRQ, SEL_DATA);
    irq_fault("no TSS", GP, SEL_DATA | 1);
    task_gate(IRQ, 0);
    irq_fault("NULL TSS", GP, 1);
    task_gate(IRQ, SEL_NEW | 4);
    irq_fault("TSS in the LDT", GP, (SEL_NEW | 4) | 1);
    set_raw_gate(IRQ, 0x00000e0000000000 | SEL_CODE32 << 16);
    irq_fault("gate not present", NP, IRQ * 8 + 3);
    set_raw_gate(IRQ, 0x0000820000000000 | SEL_CODE32 << 16);
    irq_fault("no gate", GP, IRQ * 8 + 3);
    set_raw_gate(IRQ, 0x00008e0000000000 | SEL_DATA << 16);
    irq_fault("gate to data", GP, SEL_DATA | 1);
    set_raw_gate(IRQ, 0x00008e0000000000);
    irq_fault("gate to nowhere", GP, 1);
    set_gate(IRQ, 0, false);
    set_idt_limit(IRQ * 8 + 6);
    irq_fault("beyond the IDT", GP, IRQ * 8 + 3);
    set_idt_limit(256 * 8 - 1);

    set_raw_gate(NMI, 0x00000e0000000000 | SEL_CODE32 << 16);
    long r = try_call(nmi_now, NULL);
    CHECK(r == NP && fault.code == NMI * 8 + 3, "NMI, gate not present: exception %ld, code %lx", r,
          fault.code);
    set_gate(NMI, 0, false);
    iret();

    /* The fault of a segment of the new task belongs to the new task. */
    new_task(task_start);
    new_tss.ds = SEL_BAD;
    gdt[SEL_BAD / 8] = 0x00cf98000000ffff; /* execute only */
    task_gate(IRQ, SEL_NEW);
    irq_fault("DS of the new task", TS, SEL_BAD | 1);
    CHECK(task_register() == SEL_NEW && new_tss.link == SEL_TSS, "in task %x", task_register());
    gdt[SEL_TSS / 8] = tss_descriptor(main_tss, 0x89, 103);
    gdt[SEL_NEW / 8] = tss_descriptor(&new_tss, 0x89, 103);
    __asm__ volatile("ltr %w0\n\tclts" : : "r"(SEL_TSS));
    __asm__ volatile("pushl $2\n\tpopfl" : : : "cc", "memory");
    set_gate(IRQ, 0, false);
}

/* ---- NMIs let in ----------------------------------------------------------------------------- */

extern uint8_t exc_stubs[];
static volatile unsigned long nmi_at[4];

static void bad_iret(void *p)
{
    __asm__ volatile("pushfl\n\tpushl %0\n\tpushl $0\n\tiretl" : : "r"(p) : "memory");
}

/* The first NMI's handler asks for another one and executes an IRET that faults. */
static bool on_nmi(struct regs *r)
{
    if (r->vector != NMI)
        return false;
    if (other_nmis < 4)
        nmi_at[other_nmis] = r->rip;
    if (other_nmis++ > 0)
        return true;
    self_nmi();
    nops();
    task_bad |= other_nmis != 1;
    long e = try_call(bad_iret, (void *)SEL_DATA);
    task_bad |= e != GP || fault.code != SEL_DATA || other_nmis != 2;
    return true;
}

static void unblocking(void)
{
    other_nmis = 0;
    task_bad = false;
    exc_hook = on_nmi;
    self_nmi();
    nops();
    exc_hook = NULL;
    CHECK(other_nmis == 2 && !task_bad, "NMI after an IRET that faults: %u", other_nmis);
    CHECK(nmi_at[1] == (unsigned long)exc_stubs + 16 * GP, "NMI after an IRET that faults: at %lx",
          nmi_at[1]);
}

/* ---- order ----------------------------------------------------------------------------------- */

static volatile unsigned order[8], orders;

static bool on_any(struct regs *r)
{
    if (orders < 8)
        order[orders] = r->vector;
    orders++;
    if (r->vector >= 0x20 && r->vector != 0x33)
        wr(EOI, 0);
    return true;
}

static void check_order(const char *what, unsigned a, unsigned b, unsigned c)
{
    CHECK(orders == 3 && order[0] == a && order[1] == b && order[2] == c, "%s: %u, %x %x %x", what,
          orders, order[0], order[1], order[2]);
    orders = 0;
}

static void priorities(void)
{
    exc_hook = on_any;
    orders = 0;
    /* In the shadow of STI nothing comes, then the NMI, then interrupts; INT is an instruction. */
    wr(ICR, 0x44000 | 0x61);
    wr(ICR, 0x44000 | 0x71);
    __asm__ volatile("sti\n\tint $0x33\n\tnop\n\tcli" : : : "memory");
    check_order("INT behind STI", 0x33, 0x71, 0x61);
    wr(ICR, 0x44000 | 0x61);
    __asm__ volatile("sti\n\tmovl $0x4400, 0xfee00300\n\tint $0x33\n\tcli" : : : "memory");
    check_order("NMI by the instruction behind STI", NMI, 0x61, 0x33);
    wr(ICR, 0x44000 | 0x61);
    __asm__ volatile("mov %%ss, %%eax\n\tsti\n\tmov %%eax, %%ss\n\tint $0x33\n\tint $0x33\n\tcli"
                     :
                     :
                     : "eax", "memory");
    CHECK(orders == 3 && (order[0] == 0x33 || order[0] == 0x61), "MOV SS behind STI: %u", orders);
    orders = 0;
    exc_hook = NULL;
}

/* ---- double fault ---------------------------------------------------------------------------- */

extern const char after_df[];

static void df_hook(void)
{
    main_tss->eip = (unsigned long)after_df;
    main_tss->ss = SEL_DATA;
    main_tss->esp = main_tss->ebx;
}

extern const char df_push[];

/* A PUSH beyond the stack segment, whose #SS finds no room either. */
static void double_fault(void)
{
    new_task(task_error);
    task_hook = df_hook;
    task_code = 1;
    task_gate(DF, SEL_NEW);
    gdt[SEL_BAD / 8] = 0x0040920000000fff;
    __asm__ volatile("mov %%esp, %%ebx\n\tmov %w0, %%ss\n\tmov $2, %%esp\n"
                     "df_push: push %%eax\n"
                     "after_df:"
                     :
                     : "r"(SEL_BAD)
                     : "ebx", "memory");
    check_back("double fault", 1);
    CHECK(task_code == 0, "double fault: code %x", (unsigned)task_code);
    set_gate(DF, 0, false);
}

/* ---- debug registers ------------------------------------------------------------------------- */

static volatile unsigned long db_at, db_dr6, db_dr7;

static bool on_debug(struct regs *r)
{
    if (r->vector != 1)
        return false;
    db_at = r->rip;
    __asm__ volatile("mov %%dr6, %0\n\tmov %%dr7, %1" : "=r"(db_dr6), "=r"(db_dr7));
    __asm__ volatile("mov %0, %%dr6" : : "r"(0));
    return true;
}

/* T in the TSS: a trap before the first instruction; breakpoints of the task are forgotten. */
static void debug_trap(void)
{
    new_task(task_start);
    new_tss.trap = 1;
    exc_hook = on_debug;
    __asm__ volatile("mov %0, %%dr6\n\tmov %1, %%dr0\n\tmov %1, %%dr1\n\tmov %2, %%dr7"
                     :
                     : "r"(0), "r"(&task_code), "r"(0x009)); /* L0, G1 */
    __asm__ volatile("lcall %0, $0" : : "i"(SEL_NEW) : "memory");
    check_back("T", 1);
    CHECK(db_at == (unsigned long)task_start && (db_dr6 & 0xe00f) == 0x8000 && (db_dr7 & 15) == 8,
          "T: trap at %lx, DR6 %lx, DR7 %lx", db_at, db_dr6, db_dr7);
    __asm__ volatile("mov %0, %%dr7" : : "r"(0));
    exc_hook = NULL;
}

static volatile unsigned steps;
static volatile unsigned long first_step;

static bool on_step(struct regs *r)
{
    if (r->vector != 1)
        return false;
    if (steps++ == 0)
        first_step = r->rip;
    if (r->rip == (unsigned long)task_body)
        r->flags &= ~0x100ul;
    __asm__ volatile("mov %0, %%dr6" : : "r"(0));
    return true;
}

/* TF of the old task does not trap in the new one; the new task's does. */
static void step_switch(void)
{
    unsigned long here;

    exc_hook = on_step;
    new_task(task_start);
    steps = 0;
    __asm__ volatile("mov $1f, %0\n\tpushfl\n\torl $0x100, (%%esp)\n\tpopfl\n\tlcall %1, $0\n"
                     "1:\tnop\n\tpushfl\n\tandl $~0x100, (%%esp)\n\tpopfl"
                     : "=&r"(here)
                     : "i"(SEL_NEW)
                     : "memory", "cc");
    check_back("TF of the old task", 1);
    CHECK(steps == 4 && first_step == here + 1,
          "TF of the old task: %u traps, the first at %lx, not %lx", steps, first_step, here + 1);
    new_task(task_start);
    new_tss.flags = 0x102;
    steps = 0;
    __asm__ volatile("lcall %0, $0" : : "i"(SEL_NEW) : "memory");
    check_back("TF of the new task", 1);
    CHECK(steps == 1 && first_step == (unsigned long)task_body,
          "TF of the new task: %u traps, the first at %lx", steps, first_step);
    exc_hook = NULL;
}

void test_main(void)
{
    uint64_t d = gdt[SEL_TSS / 8];

    main_tss = (struct tss *)(unsigned long)((d >> 16 & 0xffffff) | (d >> 56) << 24);
    wr(SVR, 0x1ff);
    nmi_tasks();
    irq_tasks();
    bad_gates();
    unblocking();
    priorities();
    double_fault();
    debug_trap();
    step_switch();
}
