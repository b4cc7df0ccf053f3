/* SPDX-License-Identifier: BSD-2-Clause */
/* Two vCPUs on two threads: cross-modifying code, locked operations, also across cache lines. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu_rig.h"

#define ROUNDS 3000u

static struct cpu_rig rig;
static void *second;

static int setup(void **state)
{
    (void)state;
    struct vmc_error err;
    size_t bytes;

    cpu_rig_create(&rig, 0);
    bytes = (rig.info.vcpu_bytes + 63) & ~(size_t)63;
    second = aligned_alloc(64, bytes);
    if (second == NULL)
        return -1;
    memset(second, 0, bytes);
    return rig.ops->vcpu_init(rig.evm, second, 1, NULL, &err);
}
static int teardown(void **state)
{
    (void)state;
    rig.ops->vcpu_fini(second);
    free(second);
    cpu_rig_destroy(&rig);
    return 0;
}

static void load(void *ev, uint64_t rip, uint64_t rbp)
{
    cpu_rig_mode(&rig, 64, 0);
    rig.st.rip = rip;
    rig.st.gpr[VMC_RBP] = rbp;
    rig.st.gpr[VMC_RSP] -= ev == second ? 0x4000 : 0;
    assert_int_equal(rig.ops->set_state(ev, VMC_ST_ALL & ~(uint32_t)VMC_ST_LAPIC, &rig.st), 0);
}

static void *run(void *ev)
{
    struct vmc_run_limits lim = {.size = sizeof(lim), .max_insns = 20000000000ull};
    struct vmc_exit x = {0};

    if (rig.ops->run(ev, &lim, &x) != 0)
        return NULL;
    return (void *)(uintptr_t)x.kind;
}

/* The test platform counts allocations without locks: let each vCPU make its own now. */
static void warm_up(void)
{
    static const uint8_t hlt = 0xf4;
    void *evs[2] = {rig.ev, second};

    cpu_rig_code(&rig, CPU_RIG_TEXT, &hlt, 1);
    for (unsigned i = 0; i < 2; i++) {
        load(evs[i], CPU_RIG_TEXT, 0);
        assert_int_equal((uintptr_t)run(evs[i]), VMC_EXIT_IDLE);
    }
}

static void run_both(void)
{
    pthread_t t;
    void *a, *b;

    assert_int_equal(pthread_create(&t, NULL, run, second), 0);
    a = run(rig.ev);
    assert_int_equal(pthread_join(t, &b), 0);
    assert_int_equal((uintptr_t)a, VMC_EXIT_IDLE);
    assert_int_equal((uintptr_t)b, VMC_EXIT_IDLE);
}

/*
 * writer:  mov ebx,1                    reader:  mov ebx,1
 *       L: mov [FUNC+1],ebx                      mov esi,FUNC
 *          mov [FLAG],ebx                     L: cmp [FLAG],ebx; jne L
 *       W: cmp [ACK],ebx; jne W                  call rsi; cmp eax,ebx; jne fail
 *          inc ebx; cmp ebx,ebp; jne L; hlt      mov [ACK],ebx; inc ebx; cmp ebx,ebp; jne L; hlt
 *                                          fail: mov [BAD],eax; hlt
 */
#define FUNC 0x30000u
#define FLAG 0x100000u
#define ACK  0x100040u
#define BAD  0x100080u
static const uint8_t writer[] = {
    0xbb, 0x01, 0x00, 0x00, 0x00, 0x89, 0x1c, 0x25, 0x01, 0x00, 0x03, 0x00, 0x89,
    0x1c, 0x25, 0x00, 0x00, 0x10, 0x00, 0x8b, 0x04, 0x25, 0x40, 0x00, 0x10, 0x00,
    0x39, 0xd8, 0x75, 0xf5, 0xff, 0xc3, 0x39, 0xeb, 0x75, 0xe1, 0xf4};
static const uint8_t reader[] = {
    0xbb, 0x01, 0x00, 0x00, 0x00, 0xbe, 0x00, 0x00, 0x03, 0x00, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x10,
    0x00, 0x39, 0xd8, 0x75, 0xf5, 0xff, 0xd6, 0x39, 0xd8, 0x75, 0x0e, 0x89, 0x1c, 0x25, 0x40, 0x00,
    0x10, 0x00, 0xff, 0xc3, 0x39, 0xeb, 0x75, 0xe2, 0xf4, 0x89, 0x04, 0x25, 0x80, 0x00, 0x10, 0x00,
    0xf4};

static void code_written_by_the_other_cpu(void **state)
{
    (void)state;
    static const uint8_t func[] = {0xb8, 0, 0, 0, 0, 0xc3}; /* mov eax, imm32; ret */

    warm_up();
    cpu_rig_code(&rig, CPU_RIG_TEXT, writer, sizeof(writer));
    cpu_rig_code(&rig, CPU_RIG_TEXT + 0x1000, reader, sizeof(reader));
    cpu_rig_code(&rig, FUNC, func, sizeof(func));
    memset(rig.ram + FLAG, 0, 0x100);
    load(rig.ev, CPU_RIG_TEXT, ROUNDS);
    load(second, CPU_RIG_TEXT + 0x1000, ROUNDS);
    run_both();
    uint32_t bad, ack;
    memcpy(&bad, rig.ram + BAD, 4);
    memcpy(&ack, rig.ram + ACK, 4);
    assert_int_equal(bad, 0);
    assert_int_equal(ack, ROUNDS - 1);
}

/* L: lock inc dword [rdi]; lock xadd [rsi], edx; dec ebp; jnz L; hlt, with edx = 1 */
static void count(uint64_t at)
{
    static const uint8_t code[] = {0xba, 1, 0, 0, 0,                    /* mov edx, 1 */
                                   0xf0, 0xff, 0x07,                    /* lock inc dword [rdi] */
                                   0xf0, 0x83, 0x06, 1,                 /* lock add dword [rsi], 1 */
                                   0xff, 0xcd, 0x75, 0xf5, 0xf4};       /* dec ebp; jnz; hlt */
    void *evs[2] = {rig.ev, second};
    uint32_t v[2];

    cpu_rig_code(&rig, CPU_RIG_TEXT, code, sizeof(code));
    memset(rig.ram + at - 16, 0, 64);
    for (unsigned i = 0; i < 2; i++) {
        load(evs[i], CPU_RIG_TEXT, 100000);
        struct vmc_x86_state st = rig.st;
        st.gpr[VMC_RDI] = at;
        st.gpr[VMC_RSI] = at + 8;
        assert_int_equal(rig.ops->set_state(evs[i], VMC_ST_GPR, &st), 0);
    }
    run_both();
    memcpy(&v[0], rig.ram + at, 4);
    memcpy(&v[1], rig.ram + at + 8, 4);
    assert_int_equal(v[0], 200000);
    assert_int_equal(v[1], 200000);
}

static void locked_operations_count(void **state)
{
    (void)state;
    count(CPU_RIG_DATA + 0x1000);         /* aligned */
    count(CPU_RIG_DATA + 0x1000 + 62);    /* across two cache lines */
    count(CPU_RIG_DATA + 0x2000 - 2);     /* across two pages */
    count(CPU_RIG_TEXT + 0x800);          /* beside the running code */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(code_written_by_the_other_cpu),
        cmocka_unit_test(locked_operations_count),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
