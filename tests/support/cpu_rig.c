/* SPDX-License-Identifier: BSD-2-Clause */
#include "cpu_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "cpu_rig: %s failed\n", what);
        abort();
    }
}

/* ---- devices --------------------------------------------------------------------------------- */

static int rig_pio(void *ctx, bool write, uint16_t port, unsigned bytes, uint32_t *data)
{
    struct cpu_rig *r = ctx;

    (void)bytes;
    if (!r->claim)
        return VMC_IO_EXIT;
    if (write) {
        r->port_writes++;
        r->last_port = port;
        r->last_data = *data;
    } else {
        *data = r->port_in;
    }
    return VMC_IO_DONE;
}

static int rig_mmio(void *ctx, bool write, uint64_t gpa, unsigned bytes, uint64_t *data)
{
    struct cpu_rig *r = ctx;

    (void)gpa;
    (void)bytes;
    if (!r->claim)
        return VMC_IO_EXIT;
    if (write)
        r->mmio_writes++;
    else
        *data = r->mmio_in;
    return VMC_IO_DONE;
}

static int rig_msr(void *ctx, bool write, uint32_t index, uint64_t *value)
{
    (void)ctx;
    (void)write;
    (void)index;
    (void)value;
    return VMC_IO_GP;
}

static int rig_irq_pending(void *ctx)
{
    return ((struct cpu_rig *)ctx)->irq;
}

static int rig_irq_ack(void *ctx)
{
    struct cpu_rig *r = ctx;
    int v = r->irq;

    r->irq = -1;
    return v;
}

/* ---- life cycle ------------------------------------------------------------------------------ */

static void *zeroed(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) & ~(size_t)63);

    must(p != NULL, "allocation");
    memset(p, 0, bytes);
    return p;
}

void cpu_rig_create(struct cpu_rig *r, uint32_t flags)
{
    cpu_rig_create_soft(r, flags, 0);
}

void cpu_rig_create_soft(struct cpu_rig *r, uint32_t flags, uint32_t soft_flags)
{
    struct vmc_soft_config soft = {.size = sizeof(soft), .flags = soft_flags};

    cpu_rig_create_with(r, flags, &soft);
}

void cpu_rig_create_with(struct cpu_rig *r, uint32_t flags, const struct vmc_soft_config *soft)
{
    struct vmc_error err = {0};

    memset(r, 0, sizeof(*r));
    test_platform_init(&r->tp);
    r->ops = vmc_engine_soft();
    r->irq = -1;
    r->claim = true;
    must(vmc_mem_create(&r->tp.pf, &r->mem, &err) == 0, "vmc_mem_create");
    r->ram = aligned_alloc(4096, CPU_RIG_RAM);
    must(r->ram != NULL, "RAM");
    memset(r->ram, 0, CPU_RIG_RAM);
    struct vmc_mem_slot slot = {.size = sizeof(slot), .attr = VMC_MEM_RAM, .gpa = 0,
                                .bytes = CPU_RIG_RAM, .backing = r->ram};
    must(vmc_mem_add(r->mem, &slot, &err) == 0, "vmc_mem_add");
    must(r->ops->probe(&r->tp.pf, &r->info, &err) == 0, "probe");
    r->evm = zeroed(r->info.vm_bytes);
    r->ev = zeroed(r->info.vcpu_bytes);
    struct vmc_engine_vm_config cfg = {.size = sizeof(cfg), .max_vcpus = 4,
                                       .platform = &r->tp.pf, .mem = r->mem, .flags = flags,
                                       .engine_config = soft};
    must(r->ops->vm_init(r->evm, &cfg, &err) == 0, "vm_init");
    r->io = (struct vmc_engine_io){.ctx = r, .pio = rig_pio, .mmio = rig_mmio, .msr = rig_msr,
                                   .irq_pending = rig_irq_pending, .irq_ack = rig_irq_ack};
    must(r->ops->vcpu_init(r->evm, r->ev, 0, &r->io, &err) == 0, "vcpu_init");
    must(r->ops->set_policy(r->evm, &r->info.ceiling, &err) == 0, "set_policy");
    must(r->ops->get_state(r->ev, VMC_ST_ALL, &r->st) == 0, "get_state");
}

void cpu_rig_destroy(struct cpu_rig *r)
{
    r->ops->vcpu_fini(r->ev);
    r->ops->vm_fini(r->evm);
    vmc_mem_destroy(r->mem);
    free(r->ev);
    free(r->evm);
    free(r->ram);
    test_platform_check(&r->tp);
}

/* ---- set-up of a mode ------------------------------------------------------------------------ */

static void put64(struct cpu_rig *r, uint64_t gpa, uint64_t v)
{
    memcpy(r->ram + gpa, &v, 8);
}

static void page_tables(struct cpu_rig *r)
{
    put64(r, CPU_RIG_PML4, (CPU_RIG_PML4 + 0x1000) | 7);
    put64(r, CPU_RIG_PML4 + 0x1000, (CPU_RIG_PML4 + 0x2000) | 7);
    for (unsigned i = 0; i < 512; i++)
        put64(r, CPU_RIG_PML4 + 0x2000 + 8 * i, ((uint64_t)i << 21) | 0x87);
}

/* 16-byte gates in long mode, else 8-byte ones: interrupt gates to the HLTs. */
static void traps(struct cpu_rig *r, unsigned bits)
{
    for (unsigned v = 0; v < 256; v++) {
        uint64_t at = CPU_RIG_TRAPS + v;
        r->ram[at] = 0xf4;
        uint64_t gate = (at & 0xffff) | (uint64_t)CPU_RIG_CS0 << 16 | 0xeeull << 40 |
                        (at & 0xffff0000) << 32;
        if (bits == 64) {
            put64(r, CPU_RIG_IDT + 16 * v, gate);
            put64(r, CPU_RIG_IDT + 16 * v + 8, 0);
        } else if (bits == 32) {
            put64(r, CPU_RIG_IDT + 8 * v, gate);
        } else { /* real mode: offset, segment */
            uint32_t p = (uint32_t)(at & 0xf) | (uint32_t)(at >> 4) << 16;
            memcpy(r->ram + CPU_RIG_IDT + 4 * v, &p, 4);
        }
    }
}

static uint64_t flat(unsigned access, unsigned flags)
{
    return 0x000f00000000ffffull | (uint64_t)access << 40 | (uint64_t)flags << 52;
}

static void set_seg(struct vmc_segment *s, uint16_t sel, uint32_t attr)
{
    *s = (struct vmc_segment){.selector = sel, .limit = 0xffffffffu, .attr = attr};
}

static void protected_segs(struct cpu_rig *r, unsigned bits, unsigned cpl)
{
    struct vmc_x86_state *st = &r->st;
    unsigned cf = bits == 64 ? 0xa : 0xc;
    uint32_t dpl = cpl << VMC_SEG_DPL_SHIFT;

    put64(r, CPU_RIG_GDT + 0x08, flat(0x9b, cf));
    put64(r, CPU_RIG_GDT + 0x10, flat(0x93, 0xc));
    put64(r, CPU_RIG_GDT + 0x18, flat(0xfb, cf));
    put64(r, CPU_RIG_GDT + 0x20, flat(0xf3, 0xc));
    set_seg(&st->seg[VMC_CS], cpl == 3 ? CPU_RIG_CS3 : CPU_RIG_CS0,
            0x9b | dpl | VMC_SEG_G | (bits == 64 ? VMC_SEG_L : VMC_SEG_DB));
    for (unsigned i = 0; i < 6; i++)
        if (i != VMC_CS)
            set_seg(&st->seg[i], cpl == 3 ? CPU_RIG_DS3 : CPU_RIG_DS0,
                    0x93 | dpl | VMC_SEG_G | VMC_SEG_DB);
    st->seg[VMC_TR] = (struct vmc_segment){
        .selector = 0x28, .base = CPU_RIG_TSS, .limit = 0x67, .attr = 0x8b};
    st->seg[VMC_LDTR] = (struct vmc_segment){.attr = VMC_SEG_UNUSABLE};
    put64(r, CPU_RIG_TSS + 4, CPU_RIG_STACK - 0x1000); /* RSP0 or ESP0 */
    if (bits == 32)
        put64(r, CPU_RIG_TSS + 8, CPU_RIG_DS0);
}

static void real_segs(struct cpu_rig *r)
{
    for (unsigned i = 0; i < 6; i++)
        r->st.seg[i] = (struct vmc_segment){.limit = 0xffff, .attr = 0x93};
    r->st.seg[VMC_CS].selector = CPU_RIG_TEXT >> 4;
    r->st.seg[VMC_CS].base = CPU_RIG_TEXT;
    r->st.seg[VMC_DS].selector = r->st.seg[VMC_ES].selector = 0x2000;
    r->st.seg[VMC_DS].base = r->st.seg[VMC_ES].base = 0x20000;
    r->st.seg[VMC_SS].selector = 0x7000;
    r->st.seg[VMC_SS].base = 0x70000;
    r->st.seg[VMC_TR] = (struct vmc_segment){.limit = 0xffff, .attr = 0x8b};
    r->st.seg[VMC_LDTR] = (struct vmc_segment){.limit = 0xffff, .attr = 0x82};
}

void cpu_rig_mode(struct cpu_rig *r, unsigned bits, unsigned cpl)
{
    struct vmc_x86_state *st = &r->st;

    vmc_x86_state_reset(st);
    traps(r, bits);
    st->rflags = VMC_FLAG_1;
    st->gdtr = (struct vmc_table){.base = CPU_RIG_GDT, .limit = 0xff};
    st->idtr = (struct vmc_table){.base = CPU_RIG_IDT,
                                  .limit = bits == 64 ? 0xfff : bits == 32 ? 0x7ff : 0x3ff};
    st->rip = CPU_RIG_TEXT;
    st->gpr[VMC_RSP] = CPU_RIG_STACK;
    st->cr0 = VMC_CR0_ET | VMC_CR0_NE;
    st->cr4 = VMC_CR4_OSFXSR | VMC_CR4_OSXMMEXCPT;
    if (bits == 16) {
        real_segs(r);
        st->rip = 0;
        st->gpr[VMC_RSP] = 0xfff0;
        return;
    }
    protected_segs(r, bits, cpl);
    st->cr0 |= VMC_CR0_PE;
    if (bits == 64) {
        page_tables(r);
        st->cr0 |= VMC_CR0_PG | VMC_CR0_WP;
        st->cr3 = CPU_RIG_PML4;
        st->cr4 |= VMC_CR4_PAE | VMC_CR4_PGE;
        st->efer = VMC_EFER_LME | VMC_EFER_LMA | VMC_EFER_SCE | VMC_EFER_NX;
    }
}

void cpu_rig_code(struct cpu_rig *r, uint64_t gpa, const void *bytes, size_t n)
{
    must(vmc_mem_write(r->mem, gpa, bytes, n) == 0, "vmc_mem_write");
}

/* ---- running --------------------------------------------------------------------------------- */

uint32_t cpu_rig_resume(struct cpu_rig *r, uint64_t n)
{
    struct vmc_run_limits lim = {.size = sizeof(lim), .max_insns = n};

    must(r->ops->run(r->ev, &lim, &r->exit) == 0, "run");
    must(r->ops->get_state(r->ev, VMC_ST_ALL & ~(uint32_t)VMC_ST_LAPIC, &r->st) == 0,
         "get_state");
    return r->exit.kind;
}

uint32_t cpu_rig_run(struct cpu_rig *r, uint64_t n)
{
    must(r->ops->set_state(r->ev, VMC_ST_ALL & ~(uint32_t)VMC_ST_LAPIC, &r->st) == 0,
         "set_state");
    return cpu_rig_resume(r, n);
}

/* ---- seeing ---------------------------------------------------------------------------------- */

uint64_t cpu_rig_stat(struct cpu_rig *r, const char *name)
{
    const char *names[1024];
    uint64_t values[1024];
    size_t n = r->ops->stats(r->ev, names, values, 1024);

    for (size_t k = 0; k < n && k < 1024; k++)
        if (strcmp(names[k], name) == 0)
            return values[k];
    must(false, name);
    return 0;
}
