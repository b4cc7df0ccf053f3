/* SPDX-License-Identifier: BSD-2-Clause */
/* What to say when a guest shuts itself down. */
#include "cpu/interp/exec.h"
#include "cpu/interp/soft_loop.h"

#define SITE "cpu"

static const char *vector_name(unsigned v)
{
    static const char *const names[] = {
        "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "#9",
        "#TS", "#NP", "#SS", "#GP", "#PF", "#15", "#MF", "#AC", "#MC", "#XM",
    };
    return v < VMCI_ARRAY_SIZE(names) ? names[v] : "event";
}

static void dump_seg(struct vmci_cpu *cpu, const char *name, unsigned s)
{
    const struct vmc_segment *g = &cpu->seg[s];

    vmci_log(cpu->pf, VMC_LOG_ERROR, SITE, "  %s %04x base %016llx limit %08x attr %05x", name,
             g->selector, (unsigned long long)g->base, g->limit, g->attr);
}

static void dump_regs(struct vmci_cpu *cpu)
{
    static const char *const names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8 ", "r9 ", "r10", "r11", "r12", "r13", "r14", "r15"};
    static const char *const segs[VMC_SREGS] = {"es  ", "cs  ", "ss  ", "ds  ",
                                                "fs  ", "gs  ", "ldtr", "tr  "};

    for (unsigned i = 0; i < 16; i += 4)
        vmci_log(cpu->pf, VMC_LOG_ERROR, SITE, "  %s %016llx %s %016llx %s %016llx %s %016llx",
                 names[i], (unsigned long long)cpu->gpr[i], names[i + 1],
                 (unsigned long long)cpu->gpr[i + 1], names[i + 2],
                 (unsigned long long)cpu->gpr[i + 2], names[i + 3],
                 (unsigned long long)cpu->gpr[i + 3]);
    for (unsigned i = 0; i < VMC_SREGS; i++)
        dump_seg(cpu, segs[i], i);
    vmci_log(cpu->pf, VMC_LOG_ERROR, SITE,
             "  cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx efer %04llx",
             (unsigned long long)cpu->cr0, (unsigned long long)cpu->cr2,
             (unsigned long long)cpu->cr3, (unsigned long long)cpu->cr4,
             (unsigned long long)cpu->efer);
    vmci_log(cpu->pf, VMC_LOG_ERROR, SITE, "  gdt %016llx/%04x idt %016llx/%04x",
             (unsigned long long)cpu->gdtr.base, cpu->gdtr.limit,
             (unsigned long long)cpu->idtr.base, cpu->idtr.limit);
}

static void dump_code(struct vmci_cpu *cpu)
{
    struct vmc_paging pg = {.cr0 = cpu->cr0, .cr3 = cpu->cr3, .cr4 = cpu->cr4,
                            .efer = cpu->efer, .phys_bits = cpu->phys_bits,
                            .without = cpu->paging_lacks};
    struct vmc_walk w;
    uint8_t bytes[VMCI_INSN_MAX];
    char text[96];
    uint64_t la = soft_code_la(cpu);

    for (unsigned i = 0; i < 4; i++)
        pg.pdpte[i] = cpu->pdpte[i];
    if (vmc_walk_gva(cpu->mem, &pg, la, VMC_ACC_READ | VMC_ACC_PROBE, &w) != 0) {
        vmci_log(cpu->pf, VMC_LOG_ERROR, SITE, "  the code at %016llx is not mapped",
                 (unsigned long long)la);
        return;
    }
    size_t n = VMCI_MIN(sizeof(bytes), VMC_PAGE_SIZE - (size_t)(la % VMC_PAGE_SIZE));
    if (vmc_mem_read(cpu->mem, w.gpa, bytes, n) != VMC_OK)
        return;
    (void)vmci_disasm(cpu->dec, cpu->code_bits, bytes, (unsigned)n, cpu->rip, text, sizeof(text));
    vmci_log(cpu->pf, VMC_LOG_ERROR, SITE, "  code: %s", text);
}

void soft_dump_shutdown(struct vmci_soft_cpu *sc)
{
    struct vmci_cpu *cpu = &sc->cpu;
    const struct vmc_exit *x = &cpu->exit;
    unsigned second = (unsigned)(x->raw.info[1] & 0xff);

    vmci_fp_park(cpu);
    vmci_log(cpu->pf, VMC_LOG_ERROR, SITE,
             "vCPU %u: triple fault at %04x:%016llx (%u-bit, CPL %u) after %llu instructions",
             cpu->index, cpu->seg[VMC_CS].selector, (unsigned long long)cpu->rip, cpu->code_bits,
             cpu->cpl, (unsigned long long)cpu->retired);
    vmci_log(cpu->pf, VMC_LOG_ERROR, SITE,
             "  it began with %s code %04x; delivering the double fault raised %s code %04x "
             "(address %016llx)",
             vector_name(x->raw.reason), (unsigned)x->raw.info[0], vector_name(second),
             (unsigned)(x->raw.info[1] >> 32), (unsigned long long)x->raw.info[2]);
    dump_regs(cpu);
    dump_code(cpu);
}
