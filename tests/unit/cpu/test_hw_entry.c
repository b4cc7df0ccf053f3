/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The assembly that enters guests, instruction by instruction: it runs here with the trap flag set,
 * and what needs privilege is played when its turn comes. So each barrier against speculation, each
 * register and the order of all that are seen, on any processor.
 */
#define _GNU_SOURCE /* REG_RAX ... */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <cmocka.h>

#include "hw_model.h"

int vmc_vmx_run(void *ctx, struct vmc_hw_vmx_frame *f);
int vmc_svm_run(void *ctx, struct vmc_hw_svm_frame *f);
extern const unsigned char vmc_vmx_exit[];

/* fn(ctx, frame), single-stepped from its first instruction on. */
int step_into(void *fn, void *ctx, void *frame);
__asm__(".text\n"
        ".globl step_into\n"
        ".type step_into, @function\n"
        "step_into:\n"
        "sub $8, %rsp\n"
        "mov %rdi, %rax\n"
        "mov %rsi, %rdi\n"
        "mov %rdx, %rsi\n"
        "pushfq\n"
        "orq $0x100, (%rsp)\n"
        "popfq\n"
        "call *%rax\n"
        "add $8, %rsp\n"
        "ret\n"
        ".size step_into, . - step_into\n");

#define TF            0x100
#define MSR_SPEC_CTRL 0x48u
#define MSR_FLUSH_CMD 0x10bu
#define ALL_BARRIERS  (VMC_HW_CLEAR_CPU | VMC_HW_FILL_RSB | VMC_HW_FLUSH_L1D | VMC_HW_SET_IBRS)
#define FILL          "CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC" /* 32 */

/* General registers in encoding order. */
static const int reg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                               REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                               REG_R12, REG_R13, REG_R14, REG_R15};

/*
 * What happened, a letter each: c CLI, s STI, g CLGI, G STGI, v VMSAVE, l VMLOAD, V VERW, F the
 * L1D's flush, I IBRS, C CALL, L VMLAUNCH, R VMRESUME, E VMRUN, ? what nobody expects.
 */
static struct {
    char log[256];
    unsigned n;
    uint64_t field[HW_MODEL_FIELDS]; /* of the VMCS */
    uint64_t guest[16], after[16];   /* what the guest is to start with, and leaves */
    uint64_t preserved[6];           /* at the start: RBX, RBP, R12 to R15 */
    bool started, wrong_guest, wrong_caller, uncleared;
    uint64_t fail; /* flags by which VMLAUNCH fails */
} play;

static const uint8_t preserved[6] = {3, 5, 12, 13, 14, 15};
static const uint8_t cleared[7] = {1, 2, 7, 8, 9, 10, 11};

static void note(char c)
{
    if (play.n + 1 < sizeof(play.log))
        play.log[play.n++] = c;
}

/* The guest runs: what it was given, but for RSP (and RAX) that are elsewhere; then what it leaves.
 */
static void guest_runs(greg_t *g, bool rax)
{
    for (unsigned i = rax ? 0 : 1; i < 16; i++) {
        if (i == VMC_RSP)
            continue;
        if ((uint64_t)g[reg_of[i]] != play.guest[i])
            play.wrong_guest = true;
        g[reg_of[i]] = (greg_t)play.after[i];
    }
}

/* VMREAD and VMWRITE: registers, or memory at a register and a displacement of 8 bits. */
static unsigned vmcs_access(greg_t *g, const uint8_t *p, bool write)
{
    uint64_t *field = &play.field[g[reg_of[p[2] >> 3 & 7]] % HW_MODEL_FIELDS];
    unsigned rm = p[2] & 7, mod = p[2] >> 6;
    uint64_t *mem;

    if (mod == 3) {
        if (write)
            *field = (uint64_t)g[reg_of[rm]];
        else
            g[reg_of[rm]] = (greg_t)*field;
        return 3;
    }
    if (mod != 1 || rm == VMC_RSP) {
        note('?');
        return 3;
    }
    mem = (uint64_t *)(uintptr_t)(g[reg_of[rm]] + (int8_t)p[3]);
    if (write)
        memcpy(field, mem, 8);
    else
        memcpy(mem, field, 8);
    return 4;
}

static unsigned wrmsr(const greg_t *g)
{
    uint32_t msr = (uint32_t)g[REG_RCX];
    bool one = g[REG_RAX] == 1 && (uint32_t)g[REG_RDX] == 0;

    note(one && msr == MSR_FLUSH_CMD ? 'F' : one && msr == MSR_SPEC_CTRL ? 'I' : '?');
    return 2;
}

static void vm_enters(greg_t *g, char how)
{
    note(how);
    if (play.fail != 0) {
        g[REG_EFL] |= (greg_t)play.fail;
        g[REG_RIP] += 3;
        return;
    }
    guest_runs(g, true);
    play.field[0x681e] += 2;
    g[REG_EFL] = TF | 2; /* as an exit leaves them */
    g[REG_RSP] = (greg_t)play.field[0x6c14];
    g[REG_RIP] = (greg_t)(uintptr_t)vmc_vmx_exit;
}

/* 0F 01 with a register: the instructions of VT-x and SVM. */
static void vm_instruction(greg_t *g, uint8_t modrm)
{
    static const char svm[] = "E?lvGg"; /* from D8 on */

    if (modrm == 0xc2 || modrm == 0xc3) {
        vm_enters(g, modrm == 0xc2 ? 'L' : 'R');
        return;
    }
    note(modrm >= 0xd8 && modrm <= 0xdd ? svm[modrm - 0xd8] : '?');
    if (modrm == 0xd8)
        guest_runs(g, false);
    g[REG_RIP] += 3;
}

/* The instruction at RIP, if it needs privilege. */
static bool plays(greg_t *g)
{
    const uint8_t *p = (const uint8_t *)(uintptr_t)g[REG_RIP];

    if (p[0] == 0xfa || p[0] == 0xfb) {
        note(p[0] == 0xfa ? 'c' : 's');
        g[REG_RIP]++;
    } else if (p[0] == 0x0f && p[1] == 0x30) {
        g[REG_RIP] += wrmsr(g);
    } else if (p[0] == 0x0f && (p[1] == 0x78 || p[1] == 0x79)) {
        g[REG_RIP] += vmcs_access(g, p, p[1] == 0x79);
    } else if (p[0] == 0x0f && p[1] == 0x01 && p[2] >= 0xc0) {
        vm_instruction(g, p[2]);
    } else {
        return false;
    }
    return true;
}

static void on_step(int sig, siginfo_t *info, void *context)
{
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;

    (void)sig, (void)info;
    for (unsigned i = 0; i < 6 && !play.started; i++)
        play.preserved[i] = (uint64_t)g[reg_of[preserved[i]]];
    play.started = true;
    while (plays(g))
        ;
    const uint8_t *p = (const uint8_t *)(uintptr_t)g[REG_RIP];
    if (p[0] == 0x0f && p[1] == 0x00 && (p[2] >> 3 & 7) == 5)
        note(p[2] >> 6 != 3 ? 'V' : '?'); /* only of memory is it promised to clear buffers */
    else if (p[0] == 0xe8)
        note('C');
    if (p[0] != 0xc3)
        return;
    for (unsigned i = 0; i < 6; i++)
        play.wrong_caller |= play.preserved[i] != (uint64_t)g[reg_of[preserved[i]]];
    for (unsigned i = 0; i < 7; i++)
        play.uncleared |= g[reg_of[cleared[i]]] != 0;
    g[REG_EFL] &= ~(greg_t)TF;
}

/* ---- VT-x ------------------------------------------------------------------------------------ */

static uint64_t gpr[16];
static uint32_t stop, posted;
static struct vmc_hw_vmx_frame vmx;
static struct vmc_hw_svm_frame svm;

static void prepare(void)
{
    memset(&play, 0, sizeof(play));
    for (unsigned i = 0; i < 16; i++) {
        gpr[i] = play.guest[i] = 0x1111111111111111ull * (i + 1);
        play.after[i] = ~gpr[i];
    }
    stop = posted = 0;
    vmx = (struct vmc_hw_vmx_frame){.gpr = gpr, .stop = &stop, .posted = &posted, .rip = 0x1234};
    svm = (struct vmc_hw_svm_frame){
        .gpr = gpr, .stop = &stop, .vmcb = 0xaaaa000, .host_vmcb = 0xbbbb000};
}

/* The registers that the guest left are in gpr but for RSP (and RAX) that are elsewhere. */
static void check_saved(bool rax)
{
    assert_false(play.wrong_guest);
    assert_false(play.wrong_caller);
    assert_false(play.uncleared);
    for (unsigned i = rax ? 0 : 1; i < 16; i++)
        assert_int_equal(gpr[i], i == VMC_RSP ? play.guest[i] : play.after[i]);
}

static void vmx_case(uint32_t flags, const char *log)
{
    prepare();
    vmx.flags = flags;
    play.field[0x4402] = 0x0a;  /* reason */
    play.field[0x440c] = 2;     /* length */
    play.field[0x4824] = 8;     /* interruptibility */
    play.field[0x6400] = 0x77;  /* qualification */
    play.field[0x6820] = 0x202; /* RFLAGS */
    play.field[0x4408] = 0x55;  /* IDT-vectoring information */
    play.field[0x2400] = 0x99;  /* guest-physical address */
    assert_int_equal(step_into((void *)(uintptr_t)vmc_vmx_run, NULL, &vmx), VMC_HW_EXITED);
    assert_string_equal(play.log, log);
    check_saved(true);
    assert_int_equal(vmx.reason, 0x0a);
    assert_int_equal(vmx.insn_len, 2);
    assert_int_equal(vmx.interruptibility, 8);
    assert_int_equal(vmx.qualification, 0x77);
    assert_int_equal(vmx.rflags, 0x202);
    assert_int_equal(vmx.idt_info, 0x55);
    assert_int_equal(vmx.gpa, 0x99);
    assert_int_equal(vmx.rip, 0x1236);
    assert_int_equal(vmx.flags, flags);
}

static void vmx_barriers_follow_the_flags(void **state)
{
    (void)state;
    vmx_case(0, "cLs");
    vmx_case(VMC_HW_LAUNCHED, "cRs");
    vmx_case(VMC_HW_CLEAR_CPU, "cVLs");
    vmx_case(VMC_HW_FLUSH_L1D | VMC_HW_LAUNCHED, "cFRs");
    vmx_case(VMC_HW_FLUSH_L1D | VMC_HW_CLEAR_CPU | VMC_HW_LAUNCHED, "cFVRs");
    vmx_case(VMC_HW_POSTED | VMC_HW_CLEAR_CPU, "cVLs");
    vmx_case(VMC_HW_FILL_RSB, "cL" FILL "s");
    vmx_case(VMC_HW_SET_IBRS, "cLIs");
    vmx_case(ALL_BARRIERS | VMC_HW_LAUNCHED, "cFVR" FILL "Is");
}

static void vmx_timer_is_set(void **state)
{
    (void)state;
    prepare();
    vmx.timer = 4711;
    assert_int_equal(step_into((void *)(uintptr_t)vmc_vmx_run, NULL, &vmx), VMC_HW_EXITED);
    assert_int_equal(play.field[0x482e], 0);
    prepare();
    vmx.timer = 4711;
    vmx.flags = VMC_HW_TIMER;
    assert_int_equal(step_into((void *)(uintptr_t)vmc_vmx_run, NULL, &vmx), VMC_HW_EXITED);
    assert_int_equal(play.field[0x482e], 4711);
}

static void vmx_requests_come_first(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        prepare();
        stop = i == 0;
        posted = i == 1;
        vmx.flags = VMC_HW_POSTED | ALL_BARRIERS;
        assert_int_equal(step_into((void *)(uintptr_t)vmc_vmx_run, NULL, &vmx), VMC_HW_STOPPED);
        assert_string_equal(play.log, "cs");
        assert_false(play.wrong_caller);
    }
}

/* Without posted interrupts nobody looks at their word. */
static void vmx_posts_only_where_asked(void **state)
{
    (void)state;
    prepare();
    posted = 1;
    vmx.flags = VMC_HW_CLEAR_CPU;
    assert_int_equal(step_into((void *)(uintptr_t)vmc_vmx_run, NULL, &vmx), VMC_HW_EXITED);
    assert_string_equal(play.log, "cVLs");
}

static void vmx_failures_are_told(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        prepare();
        play.fail = i & 1 ? 0x01 : 0x40; /* CF: no VMCS; ZF: there is an error number */
        play.field[0x4400] = 7;
        vmx.flags = i & 2 ? VMC_HW_LAUNCHED : VMC_HW_CLEAR_CPU;
        assert_int_equal(step_into((void *)(uintptr_t)vmc_vmx_run, NULL, &vmx),
                         i & 1 ? VMC_HW_FAIL_VMCS : VMC_HW_FAIL);
        assert_string_equal(play.log, i & 2 ? "cRs" : "cVLs");
        assert_int_equal(vmx.reason, i & 1 ? 0 : 7);
        assert_false(play.wrong_caller);
    }
}

/* ---- SVM ------------------------------------------------------------------------------------- */

static void svm_case(uint32_t flags, const char *log)
{
    prepare();
    svm.flags = flags;
    assert_int_equal(step_into((void *)(uintptr_t)vmc_svm_run, NULL, &svm), VMC_HW_EXITED);
    assert_string_equal(play.log, log);
    check_saved(false);
}

static void svm_barriers_follow_the_flags(void **state)
{
    (void)state;
    svm_case(0, "gsvlEvlG");
    svm_case(VMC_HW_CLEAR_CPU, "gsVvlEvlG");
    svm_case(VMC_HW_FLUSH_L1D, "gsFvlEvlG");
    svm_case(VMC_HW_FILL_RSB, "gsvlEvl" FILL "G");
    svm_case(VMC_HW_SET_IBRS, "gsvlEvlIG");
    svm_case(ALL_BARRIERS, "gsFVvlEvl" FILL "IG");
    prepare();
    stop = 1;
    svm.flags = ALL_BARRIERS;
    assert_int_equal(step_into((void *)(uintptr_t)vmc_svm_run, NULL, &svm), VMC_HW_STOPPED);
    assert_string_equal(play.log, "gsG");
}

/* What the policy chose is what entries are asked for. */
static void engines_pass_the_policy_on(void **state)
{
    (void)state;
    static struct hw_model m;
    struct vmc_error err = {.text = ""};

    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(hw_model_init(&m, i == 0 ? HW_MODEL_FULL : HW_MODEL_NPT, &err), VMC_OK);
        uint32_t *flags = i == 0 ? &m.v->u.vmx.frame.flags : &m.v->u.svm.frame.flags;
        assert_int_equal(*flags & ALL_BARRIERS, 0);
        m.engine->vcpu_fini(m.v);
        memset(m.v, 0, m.info.vcpu_bytes);
        m.vm->spec.entry_flags = ALL_BARRIERS;
        assert_int_equal(m.engine->vcpu_init(m.vm, m.v, 0, &m.io, &err), VMC_OK);
        assert_int_equal(*flags & ALL_BARRIERS, ALL_BARRIERS);
        hw_model_fini(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vmx_barriers_follow_the_flags),
        cmocka_unit_test(vmx_timer_is_set),
        cmocka_unit_test(vmx_requests_come_first),
        cmocka_unit_test(vmx_posts_only_where_asked),
        cmocka_unit_test(vmx_failures_are_told),
        cmocka_unit_test(svm_barriers_follow_the_flags),
        cmocka_unit_test(engines_pass_the_policy_on),
    };
    struct sigaction sa = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO | SA_NODEFER};

    if (sigaction(SIGTRAP, &sa, NULL) != 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
