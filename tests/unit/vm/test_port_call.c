/* SPDX-License-Identifier: BSD-2-Clause */
/* Guests that call the hypervisor by IN: registers go there and come back, on the software CPU. */
#include "vm_fixture.h"

#include <vmcore/vmware.h>

#define FIRST 0x5658
#define LAST  0x5670
#define CODE  0x1000

struct seen {
    struct vmc_port_call call;
    unsigned calls;
    bool refuse;
};

static struct seen seen;

static bool on_call(void *ctx, struct vmc_port_call *c)
{
    struct seen *s = ctx;

    s->call = *c;
    s->calls++;
    if (s->refuse)
        return false;
    c->rax = 0xaaaaaaaa11111111;
    c->rbx = 0x2222222222222222;
    c->rcx = 0x3333333333333333;
    c->rdx = 0x4444444444444444;
    c->rsi = 0x5555555555555555;
    c->rdi = 0x6666666666666666;
    return true;
}

/* Real mode at CODE: IN EAX, DX (or what code says); INC BP; HLT. Returns the state at HLT. */
static const struct vmc_x86_state *run(struct vm_fx *f, const char *code, size_t bytes,
                                       uint32_t flags, uint16_t port, uint32_t exit_mask)
{
    static struct vmc_x86_state st;
    struct vmc_soft_config soft = {.size = sizeof(soft)};
    struct vmc_vm_config c = {.size = sizeof(c),
                              .max_vcpus = 1,
                              .platform = &f->tp.pf,
                              .engine = vmc_engine_soft(),
                              .engine_config = &soft,
                              .flags = flags};
    struct vmc_mem_slot ram = {.size = sizeof(ram), .attr = VMC_MEM_RAM, .bytes = 1 << 20};
    struct vmc_run_limits lim = {.size = sizeof(lim), .exit_mask = exit_mask};

    memset(&seen.call, 0, sizeof(seen.call));
    seen.calls = 0;
    assert_int_equal(vmc_vm_create(&c, &f->vm, NULL), VMC_OK);
    assert_int_equal(vmc_vcpu_create(f->vm, 0, &f->v[0], NULL), VMC_OK);
    assert_int_equal(vmc_mem_add(vmc_vm_mem(f->vm), &ram, NULL), VMC_OK);
    vmc_vm_set_port_calls(f->vm, FIRST, LAST, on_call, &seen);
    assert_int_equal(vmc_vm_start(f->vm, NULL), VMC_OK);
    assert_int_equal(vmc_mem_write(vmc_vm_mem(f->vm), CODE, code, bytes), VMC_OK);
    uint32_t groups = VMC_ST_GPR | VMC_ST_RIP | VMC_ST_SEG;
    assert_int_equal(vmc_vcpu_get_state(f->v[0], groups, &st), VMC_OK);
    st.seg[VMC_CS].base = 0;
    st.seg[VMC_CS].selector = 0;
    st.rip = CODE;
    for (unsigned i = 0; i < 16; i++)
        st.gpr[i] = 0x1000000000000000ull * i + i;
    st.gpr[VMC_RDX] = 0xdddd0000u | port;
    assert_int_equal(vmc_vcpu_set_state(f->v[0], groups, &st), VMC_OK);
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &f->x), VMC_OK);
    if (exit_mask != 0) {
        assert_int_equal(f->x.kind, VMC_EXIT_IO);
        f->x.answer = VMC_ANSWER_DEFAULT;
        assert_int_equal(vmc_vcpu_complete(f->v[0], &f->x), VMC_OK);
        lim.exit_mask = 0;
        assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &f->x), VMC_OK);
    }
    assert_true(f->x.kind == VMC_EXIT_IDLE || f->x.kind == VMC_EXIT_SHUTDOWN);
    assert_int_equal(vmc_vcpu_get_state(f->v[0], VMC_ST_GPR | VMC_ST_RIP, &st), VMC_OK);
    assert_int_equal(st.rip, CODE + bytes);
    assert_int_equal((uint16_t)st.gpr[VMC_RBP], VMC_RBP + 1); /* once, and the IN before it */
    return &st;
}

#define IN32 "\x66\xed\x45\xf4"
#define IN16 "\xed\x45\xf4"
#define OUT  "\x66\xef\x45\xf4"

static void registers_go_and_come_back(void **state)
{
    struct vm_fx *f = *state;
    const struct vmc_x86_state *st = run(f, IN32, 4, 0, FIRST, 0);

    assert_int_equal(seen.calls, 1);
    assert_int_equal(seen.call.port, FIRST);
    assert_int_equal(seen.call.rax, 0);
    assert_int_equal(seen.call.rcx, 0x1000000000000001);
    assert_int_equal(seen.call.rbx, 0x3000000000000003);
    assert_int_equal(seen.call.rsi, 0x6000000000000006);
    assert_int_equal(seen.call.rdi, 0x7000000000000007);
    assert_true(seen.call.tsc_hz != 0 && seen.call.apic_hz != 0);
    assert_int_equal((uint32_t)st->gpr[VMC_RAX], 0x11111111);
    assert_int_equal(st->gpr[VMC_RBX], 0x2222222222222222);
    assert_int_equal(st->gpr[VMC_RCX], 0x3333333333333333);
    assert_int_equal(st->gpr[VMC_RDX], 0x4444444444444444);
    assert_int_equal(st->gpr[VMC_RSI], 0x5555555555555555);
    assert_int_equal(st->gpr[VMC_RDI], 0x6666666666666666);
    assert_int_equal(st->gpr[VMC_R8], 0x8000000000000008);
}

static void calls_that_are_refused_read_the_port(void **state)
{
    struct vm_fx *f = *state;

    seen.refuse = true;
    const struct vmc_x86_state *st = run(f, IN32, 4, 0, LAST, 0);
    seen.refuse = false;
    assert_int_equal(seen.calls, 1);
    assert_int_equal((uint32_t)st->gpr[VMC_RAX], UINT32_MAX); /* nothing is there */
    assert_int_equal(st->gpr[VMC_RBX], 0x3000000000000003);
}

static void only_reads_of_eax_inside_are_calls(void **state)
{
    struct vm_fx *f = *state;

    (void)run(f, IN16, 3, 0, FIRST, 0);
    assert_int_equal(seen.calls, 0);
    vmc_vm_destroy(f->vm);
    (void)run(f, OUT, 4, 0, FIRST, 0);
    assert_int_equal(seen.calls, 0);
    vmc_vm_destroy(f->vm);
    (void)run(f, IN32, 4, 0, FIRST - 1, 0);
    assert_int_equal(seen.calls, 0);
    vmc_vm_destroy(f->vm);
    (void)run(f, IN32, 4, 0, LAST + 1, 0);
    assert_int_equal(seen.calls, 0);
}

static void embedders_see_the_exit_first(void **state)
{
    struct vm_fx *f = *state;
    const struct vmc_x86_state *st = run(f, IN32, 4, 0, FIRST, 1u << VMC_EXIT_IO);

    assert_int_equal(seen.calls, 1);
    assert_int_equal(st->gpr[VMC_RBX], 0x2222222222222222);
}

static void cpuid_names_vmware_when_asked(void **state)
{
    struct vm_fx *f = *state;
    const struct vmc_cpuid_leaf *l;

    (void)run(f, IN32, 4, VMC_VM_VMWARE, FIRST, 0);
    l = vmc_cpu_policy_find(&f->vm->policy, 0x40000000, 0);
    assert_non_null(l);
    assert_memory_equal(&l->ebx, "VMwareVMware", 12);
    assert_int_equal(l->eax, 0x40000010);
    assert_null(vmc_cpu_policy_find(&f->vm->policy, 0x40000001, 0));
    assert_true(vmc_cpu_policy_find(&f->vm->policy, 1, 0)->ecx & 1u << 31);
    l = vmc_cpu_policy_find(&f->vm->policy, 0x40000010, 0);
    assert_int_equal(l->ecx, 0); /* calls are by port */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        vm_test(registers_go_and_come_back),         vm_test(calls_that_are_refused_read_the_port),
        vm_test(only_reads_of_eax_inside_are_calls), vm_test(embedders_see_the_exit_first),
        vm_test(cpuid_names_vmware_when_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
