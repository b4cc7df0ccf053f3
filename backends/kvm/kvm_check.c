/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Can KVM run a kernel here? There are machines whose /dev/kvm emulates kernel-mode code slowly and
 * with gaps; asking it for its abilities does not tell. So a guest tries: kernel-mode loops, a
 * software interrupt, SSE and FXSAVE under paging in long mode, and a port write with the result.
 */
#include "kvm_int.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <vmcore/vm.h>

#define GUEST_BYTES 0x10000u
#define PML4        0x1000u
#define PDPT        0x2000u
#define PD          0x3000u
#define GDT         0x4000u
#define IDT         0x5000u
#define CODE        0x6000u
#define HANDLER     0x7000u
#define STACK       0xa000u
#define PORT        0x510u

#define LOOPS       500000u
#define INSNS       (2ull * LOOPS)
#define BUDGET_NS   300000000u /* hardware needs one millisecond */
/* Hardware does thousands, KVM in an emulated machine tens, an emulated kernel mode about two. */
#define MIN_PER_US  4u

static const uint8_t code[] = {
    /* what an emulator is most likely to lack comes first: it is then found out at once */
    0xcd, 0x80,                                                       /* int 0x80 */
    0x0f, 0x10, 0x04, 0x24,                                           /* movups xmm0, [rsp] */
    0x0f, 0x11, 0x44, 0x24, 0xe0,                                     /* movups [rsp-32], xmm0 */
    0x0f, 0xae, 0x04, 0x25, 0x00, 0x80, 0, 0,                         /* fxsave [0x8000] */
    0xb9, LOOPS & 0xff, (LOOPS >> 8) & 0xff, (LOOPS >> 16) & 0xff, 0, /* mov ecx, LOOPS */
    0xff, 0xc9,                                                       /* dec ecx */
    0x75, 0xfc,                                                       /* jnz -4 */
    0x88, 0xd8,                                                       /* mov al, bl */
    0x66, 0xba, PORT & 0xff, PORT >> 8,                               /* mov dx, PORT */
    0xee,                                                             /* out dx, al */
    0xf4,                                                             /* hlt */
};
static const uint8_t handler[] = {0x80, 0xc3, 0x5a, /* add bl, 0x5a */
                                  0x48, 0xcf};      /* iretq */

static void put64(uint8_t *mem, uint32_t at, uint64_t v)
{
    memcpy(mem + at, &v, sizeof(v));
}

static void build_guest(uint8_t *mem)
{
    memset(mem, 0, GUEST_BYTES);
    put64(mem, PML4, PDPT | 3);
    put64(mem, PDPT, PD | 3);
    put64(mem, PD, 0x83); /* the first 2 MiB, writable */
    put64(mem, GDT + 8, 0x00af9b000000ffffull);
    put64(mem, GDT + 16, 0x00cf93000000ffffull);
    put64(mem, IDT + 0x80 * 16, (uint64_t)HANDLER | 8ull << 16 | 0x8e00ull << 32);
    memcpy(mem + CODE, code, sizeof(code));
    memcpy(mem + HANDLER, handler, sizeof(handler));
}

static void long_mode(struct vmc_x86_state *st)
{
    vmc_x86_state_reset(st);
    st->cr0 = VMC_CR0_PE | VMC_CR0_ET | VMC_CR0_NE | VMC_CR0_MP | VMC_CR0_PG;
    st->cr3 = PML4;
    st->cr4 = VMC_CR4_PAE | VMC_CR4_OSFXSR;
    st->efer = VMC_EFER_LME | VMC_EFER_LMA;
    for (unsigned i = VMC_ES; i <= VMC_GS; i++)
        st->seg[i] = (struct vmc_segment){.limit = ~0u, .attr = 0xc093, .selector = 16};
    st->seg[VMC_CS] = (struct vmc_segment){.limit = ~0u, .attr = 0xa09b, .selector = 8};
    st->gdtr = (struct vmc_table){.base = GDT, .limit = 23};
    st->idtr = (struct vmc_table){.base = IDT, .limit = 0xfff};
    st->rip = CODE;
    st->gpr[VMC_RSP] = STACK;
    st->rflags = VMC_FLAG_1;
}

static int judge(const struct vmc_platform *pf, uint64_t start, const struct vmc_exit *x,
                 struct vmc_kvm_report *r, struct vmc_error *err)
{
    uint64_t ns = pf->now_ns(pf->ctx) - start;
    int rc;

    r->insns_per_us = (uint32_t)(INSNS * 1000 / (ns != 0 ? ns : 1));
    if (x->kind == VMC_EXIT_BUDGET) {
        r->insns_per_us = 0;
        rc = kvm_set_error(err, VMC_ENOTSUP,
                           "KVM is emulated here: kernel-mode code made less than %llu "
                           "instructions in %u ms",
                           (unsigned long long)INSNS, BUDGET_NS / 1000000);
    } else if (x->kind == VMC_EXIT_EMULATION) {
        rc = kvm_set_error(err, VMC_ENOTSUP,
                           "KVM is emulated here and lacks kernel-mode instruction %02x %02x %02x",
                           x->u.emulation.bytes[0], x->u.emulation.bytes[1],
                           x->u.emulation.bytes[2]);
    } else if (x->kind != VMC_EXIT_IO || x->u.io.port != PORT || x->u.io.data != 0x5a) {
        rc = kvm_set_error(err, VMC_ENOTSUP,
                           "a small kernel-mode guest fails on KVM: exit %s, reason %u, detail %llu",
                           vmc_exit_name(x->kind), x->raw.reason,
                           (unsigned long long)x->u.stop.detail);
    } else if (r->insns_per_us < MIN_PER_US) {
        rc = kvm_set_error(err, VMC_ENOTSUP,
                           "KVM is emulated here: kernel-mode code runs at %u instructions a "
                           "microsecond",
                           r->insns_per_us);
    } else {
        r->runs_kernels = true;
        rc = VMC_OK;
    }
    return rc;
}

static int try_guest(const struct vmc_platform *pf, struct vmc_vm *vm, void *mem,
                     struct vmc_kvm_report *r, struct vmc_error *err)
{
    struct vmc_mem_slot slot = {
        .size = sizeof(slot), .attr = VMC_MEM_RAM, .bytes = GUEST_BYTES, .backing = mem};
    struct vmc_x86_state *st = pf->alloc(pf->ctx, sizeof(*st), 64);
    struct vmc_vcpu *v;
    struct vmc_exit x;

    if (st == NULL)
        return kvm_set_error(err, VMC_ENOMEM, "no memory for the self-test");
    int rc = vmc_vcpu_create(vm, 0, &v, err);
    if (rc == VMC_OK)
        rc = vmc_mem_add(vmc_vm_mem(vm), &slot, err);
    if (rc == VMC_OK)
        rc = vmc_vm_start(vm, err);
    if (rc == VMC_OK) {
        long_mode(st);
        rc = vmc_vcpu_set_state(v, VMC_ST_GPR | VMC_ST_RIP | VMC_ST_SEG | VMC_ST_TABLES |
                                       VMC_ST_CTRL, st);
        if (rc == VMC_OK) {
            uint64_t start = pf->now_ns(pf->ctx);
            struct vmc_run_limits lim = {.size = sizeof(lim), .deadline_ns = start + BUDGET_NS};
            rc = vmc_vcpu_run(v, &lim, &x);
            if (rc == VMC_OK)
                rc = judge(pf, start, &x, r, err);
        } else {
            rc = kvm_set_error(err, rc, "KVM refuses the state of a long-mode guest");
        }
    }
    pf->free(pf->ctx, st, sizeof(*st), 64);
    return rc;
}

static int self_test(const struct vmc_platform *pf, struct vmc_kvm_report *r,
                     struct vmc_error *err)
{
    struct vmc_vm_config cfg = {
        .size = sizeof(cfg),
        .max_vcpus = 1,
        .platform = pf,
        .engine = vmc_engine_kvm(),
        .flags = VMC_VM_PIO_EXITS,
    };
    struct vmc_vm *vm = NULL;
    void *mem = pf->alloc(pf->ctx, GUEST_BYTES, VMC_PAGE_SIZE);

    if (mem == NULL)
        return kvm_set_error(err, VMC_ENOMEM, "no memory for the self-test");
    build_guest(mem);
    int rc = vmc_vm_create(&cfg, &vm, err);
    if (rc == VMC_OK)
        rc = try_guest(pf, vm, mem, r, err);
    vmc_vm_destroy(vm);
    pf->free(pf->ctx, mem, GUEST_BYTES, VMC_PAGE_SIZE);
    return rc;
}

int vmc_kvm_check(const struct vmc_platform *pf, struct vmc_kvm_report *report,
                  struct vmc_error *err)
{
    struct vmc_error own = {.text = ""};

    memset(report, 0, sizeof(*report));
    report->size = sizeof(*report);
    int rc = kvm_open_checked(false, &own);
    if (rc >= 0) {
        close(rc);
        report->api_version = KVM_API_VERSION;
        report->complete = true;
        rc = self_test(pf, report, &own);
    }
    if (rc < 0) {
        (void)snprintf(report->missing, sizeof(report->missing), "%s", own.text);
        if (err != NULL)
            *err = own;
        return VMC_ENOTSUP;
    }
    return VMC_OK;
}
