/* SPDX-License-Identifier: BSD-2-Clause */
/* The interpreter through its engine: programs in all modes, exits, limits, self-modifying code. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu_rig_one.h"

/* mov ecx, 10; xor eax, eax; L: add eax, ecx; dec ecx; jnz L; hlt */
#define SUM_LOOP 0xb9, 10, 0, 0, 0, 0x31, 0xc0, 0x01, 0xc8, 0xff, 0xc9, 0x75, 0xfa, 0xf4

static void loops_in_each_mode(void **state)
{
    (void)state;
    cpu_rig_mode(&rig, 64, 0);
    CODE(SUM_LOOP);
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.gpr[VMC_RAX], 55);
    assert_int_equal(rig.st.rip, CPU_RIG_TEXT + 14);
    assert_int_equal(rig.exit.retired, 2 + 30 + 1);

    cpu_rig_mode(&rig, 32, 0);
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.gpr[VMC_RAX], 55);

    cpu_rig_mode(&rig, 16, 0);
    /* mov cx, 10; xor ax, ax; L: add ax, cx; loop L; hlt */
    CODE(0xb9, 10, 0, 0x31, 0xc0, 0x01, 0xc8, 0xe2, 0xfc, 0xf4);
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.gpr[VMC_RAX], 55);
    assert_int_equal(rig.st.rip, 10);
}

static void budget_is_exact(void **state)
{
    (void)state;
    cpu_rig_mode(&rig, 64, 0);
    CODE(SUM_LOOP);
    for (uint64_t n = 1; n < 33; n++) {
        cpu_rig_mode(&rig, 64, 0);
        assert_int_equal(cpu_rig_run(&rig, n), VMC_EXIT_BUDGET);
        assert_int_equal(rig.exit.retired, n);
    }
    /* One instruction at a time comes to the same end. */
    cpu_rig_mode(&rig, 64, 0);
    uint32_t kind = cpu_rig_run(&rig, 1);
    for (unsigned i = 0; i < 100 && kind == VMC_EXIT_BUDGET; i++)
        kind = cpu_rig_resume(&rig, 1);
    assert_int_equal(kind, VMC_EXIT_IDLE);
    assert_int_equal(rig.st.gpr[VMC_RAX], 55);
}

static void faults_are_delivered(void **state)
{
    (void)state;
    cpu_rig_mode(&rig, 64, 0);
    CODE(0x0f, 0x0b);
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.rip, CPU_RIG_TRAPS + VMC_VEC_UD + 1);
    uint64_t frame[5];
    memcpy(frame, rig.ram + rig.st.gpr[VMC_RSP], sizeof(frame));
    assert_int_equal(frame[0], CPU_RIG_TEXT);
    assert_int_equal(frame[1], CPU_RIG_CS0);
    assert_int_equal(frame[3], CPU_RIG_STACK);

    /* A page fault in the middle of a block: the state is that of the instruction. */
    cpu_rig_mode(&rig, 64, 0);
    /* mov eax, 1; mov rbx, [0x8000000000]; mov eax, 2 */
    CODE(0xb8, 1, 0, 0, 0, 0x48, 0xb9, 0, 0, 0, 0, 0x80, 0, 0, 0, 0x48, 0x8b, 0x19, 0xb8, 2);
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.rip, CPU_RIG_TRAPS + VMC_VEC_PF + 1);
    assert_int_equal(rig.st.cr2, 0x8000000000);
    assert_int_equal(rig.st.gpr[VMC_RAX], 1);
    memcpy(frame, rig.ram + rig.st.gpr[VMC_RSP], sizeof(frame));
    assert_int_equal(frame[0], 0);
    assert_int_equal(frame[1], CPU_RIG_TEXT + 15);

    /* Divide error in user mode comes up on the stack of the TSS. */
    cpu_rig_mode(&rig, 64, 3);
    CODE(0x31, 0xc9, 0xf7, 0xf1);
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.rip, CPU_RIG_TRAPS + VMC_VEC_DE + 1);
    assert_int_equal(rig.st.seg[VMC_CS].selector, CPU_RIG_CS0);
    assert_int_equal(rig.st.gpr[VMC_RSP], CPU_RIG_STACK - 0x1000 - 40);
}

/* Every handler is itself an invalid instruction: nothing ever retires. */
static void endless_faults_end_with_the_budget(void **state)
{
    (void)state;
    cpu_rig_mode(&rig, 16, 0);
    static const uint8_t bad[] = {0x0f, 0x0b};
    cpu_rig_code(&rig, CPU_RIG_TRAPS + VMC_VEC_UD, bad, sizeof(bad));
    cpu_rig_code(&rig, CPU_RIG_TEXT, bad, sizeof(bad));
    assert_int_equal(cpu_rig_run(&rig, 1000), VMC_EXIT_BUDGET);
    assert_int_equal(rig.exit.retired, 1000);
    uint64_t sp = rig.st.gpr[VMC_RSP];
    rig.ops->kick(rig.ev);
    assert_int_equal(cpu_rig_resume(&rig, 0), VMC_EXIT_KICKED);

    /* What ran before a state was loaded does not count. */
    for (unsigned i = 0; i < 2; i++) {
        cpu_rig_mode(&rig, 16, 0);
        cpu_rig_code(&rig, CPU_RIG_TRAPS + VMC_VEC_UD, bad, sizeof(bad));
        cpu_rig_code(&rig, CPU_RIG_TEXT, bad, sizeof(bad));
        assert_int_equal(cpu_rig_run(&rig, 1000), VMC_EXIT_BUDGET);
        assert_int_equal(rig.st.gpr[VMC_RSP], sp);
    }
}

static void triple_fault_shuts_down(void **state)
{
    (void)state;
    cpu_rig_mode(&rig, 64, 0);
    rig.st.idtr.limit = 0;
    CODE(0x0f, 0x0b);
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_SHUTDOWN);
    assert_int_equal(rig.exit.u.stop.why, VMC_STOP_TRIPLE_FAULT);
}

static void ports_exit_and_complete(void **state)
{
    (void)state;
    cpu_rig_mode(&rig, 64, 0);
    rig.claim = false;
    /* in eax, 0x10; out dx, al; hlt */
    CODE(0xe5, 0x10, 0xee, 0xf4);
    rig.st.gpr[VMC_RDX] = 0x3f8;
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IO);
    assert_int_equal(rig.exit.u.io.port, 0x10);
    assert_int_equal(rig.exit.u.io.bytes, 4);
    assert_false(rig.exit.u.io.write);
    assert_int_equal(rig.st.rip, CPU_RIG_TEXT);
    struct vmc_run_limits lim = {.size = sizeof(lim)};
    assert_int_equal(rig.ops->run(rig.ev, &lim, &rig.exit), VMC_ESTATE);
    rig.exit.u.io.data = 0x12345678;
    assert_int_equal(rig.ops->complete(rig.ev, &rig.exit), 0);
    assert_int_equal(rig.ops->complete(rig.ev, &rig.exit), VMC_ESTATE);
    assert_int_equal(cpu_rig_resume(&rig, 0), VMC_EXIT_IO);
    assert_true(rig.exit.u.io.write);
    assert_int_equal(rig.exit.u.io.port, 0x3f8);
    assert_int_equal(rig.exit.u.io.data, 0x78);
    assert_int_equal(rig.ops->complete(rig.ev, &rig.exit), 0);
    assert_int_equal(cpu_rig_resume(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.gpr[VMC_RAX], 0x12345678);

    /* Refused: #GP(0) at the instruction. */
    cpu_rig_mode(&rig, 64, 0);
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IO);
    rig.exit.answer = VMC_ANSWER_GP;
    assert_int_equal(rig.ops->complete(rig.ev, &rig.exit), 0);
    assert_int_equal(cpu_rig_resume(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.rip, CPU_RIG_TRAPS + VMC_VEC_GP + 1);
    rig.claim = true;
}

static void mmio_read_modify_write(void **state)
{
    (void)state;
    cpu_rig_mode(&rig, 64, 0);
    rig.claim = false;
    /* add dword [rbx], 5; hlt: a read exit, then a write exit, then done */
    CODE(0x83, 0x03, 5, 0xf4);
    rig.st.gpr[VMC_RBX] = 0x20000000;
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_MMIO);
    assert_false(rig.exit.u.mmio.write);
    assert_int_equal(rig.exit.u.mmio.gpa, 0x20000000);
    assert_int_equal(rig.exit.u.mmio.bytes, 4);
    rig.exit.u.mmio.data = 37;
    assert_int_equal(rig.ops->complete(rig.ev, &rig.exit), 0);
    assert_int_equal(cpu_rig_resume(&rig, 0), VMC_EXIT_MMIO);
    assert_true(rig.exit.u.mmio.write);
    assert_int_equal(rig.exit.u.mmio.data, 42);
    assert_int_equal(rig.ops->complete(rig.ev, &rig.exit), 0);
    assert_int_equal(cpu_rig_resume(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.rip, CPU_RIG_TEXT + 4);
    rig.claim = true;
}

static void stores_into_the_running_block(void **state)
{
    (void)state;
    cpu_rig_mode(&rig, 64, 0);
    /* mov byte [rip+1], 7 (over the next instruction's immediate); mov al, 1; hlt */
    CODE(0xc6, 0x05, 1, 0, 0, 0, 7, 0xb0, 1, 0xf4);
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.gpr[VMC_RAX], 7);

    /* The same from a loop that patches itself each time round. */
    cpu_rig_mode(&rig, 64, 0);
    /* mov ecx,5; L: inc byte [rip+6]; add eax, imm8 (starts 0); dec ecx; jnz L; hlt */
    CODE(0xb9, 5, 0, 0, 0, 0xfe, 0x05, 2, 0, 0, 0, 0x83, 0xc0, 0, 0xff, 0xc9, 0x75, 0xf3, 0xf4);
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.gpr[VMC_RAX], 1 + 2 + 3 + 4 + 5);
}

static void device_writes_reach_cached_code(void **state)
{
    (void)state;
    cpu_rig_mode(&rig, 64, 0);
    CODE(0xb0, 1, 0xf4);
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.gpr[VMC_RAX], 1);
    CODE(0xb0, 2, 0xf4);
    cpu_rig_mode(&rig, 64, 0);
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.gpr[VMC_RAX], 2);
}

static void instructions_across_pages(void **state)
{
    (void)state;
    static const uint8_t code[] = {0xb8, 0x44, 0x33, 0x22, 0x11, 0xf4};

    for (unsigned k = 1; k < 5; k++) {
        uint64_t at = CPU_RIG_TEXT + 0x1000 - k;
        cpu_rig_code(&rig, at, code, sizeof(code));
        cpu_rig_mode(&rig, 64, 0);
        rig.st.rip = at;
        assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
        assert_int_equal(rig.st.gpr[VMC_RAX], 0x11223344);
        /* A write to the second page is seen. */
        uint8_t other = 0x55;
        cpu_rig_code(&rig, at + 4, &other, 1);
        cpu_rig_mode(&rig, 64, 0);
        rig.st.rip = at;
        assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
        assert_int_equal(rig.st.gpr[VMC_RAX], 0x55223344);
    }
}

static void fetch_faults_on_the_second_page(void **state)
{
    (void)state;
    static const uint8_t code[] = {0x90, 0xb8, 0x44, 0x33, 0x22, 0x11, 0xf4};
    uint64_t pt = 0x40000, page = 0x400000;

    /* 4 KiB pages from 4 MiB on: the first maps RIG_DATA's page, the second nothing. */
    cpu_rig_mode(&rig, 64, 0);
    uint64_t pde = pt | 7, pte = CPU_RIG_DATA | 7;
    memcpy(rig.ram + CPU_RIG_PML4 + 0x2000 + 8 * (page >> 21), &pde, 8);
    memcpy(rig.ram + pt, &pte, 8);
    cpu_rig_code(&rig, CPU_RIG_DATA + 0xffc, code, 4);
    rig.st.rip = page + 0xffc;
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.rip, CPU_RIG_TRAPS + VMC_VEC_PF + 1);
    assert_int_equal(rig.st.cr2, page + 0x1000);
    uint64_t frame[2];
    memcpy(frame, rig.ram + rig.st.gpr[VMC_RSP], sizeof(frame));
    assert_int_equal(frame[1], page + 0xffd);
}

static void rep_strings(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 10000; i++)
        rig.ram[CPU_RIG_DATA + i] = (uint8_t)(i * 7);
    cpu_rig_mode(&rig, 64, 0);
    CODE(0xf3, 0xa4, 0xf4); /* rep movsb; hlt */
    rig.st.gpr[VMC_RSI] = CPU_RIG_DATA;
    rig.st.gpr[VMC_RDI] = CPU_RIG_DATA + 0x10123;
    rig.st.gpr[VMC_RCX] = 10000;
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
    assert_memory_equal(rig.ram + CPU_RIG_DATA, rig.ram + CPU_RIG_DATA + 0x10123, 10000);
    assert_int_equal(rig.st.gpr[VMC_RCX], 0);
    assert_int_equal(rig.st.gpr[VMC_RDI], CPU_RIG_DATA + 0x10123 + 10000);
    assert_int_equal(rig.exit.retired, 2);

    /* repne scasb finds the byte. */
    cpu_rig_mode(&rig, 64, 0);
    CODE(0xf2, 0xae, 0xf4);
    memset(rig.ram + CPU_RIG_DATA, 1, 6000);
    rig.ram[CPU_RIG_DATA + 5000] = 9;
    rig.st.gpr[VMC_RDI] = CPU_RIG_DATA;
    rig.st.gpr[VMC_RCX] = ~0ull;
    rig.st.gpr[VMC_RAX] = 9;
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.gpr[VMC_RDI], CPU_RIG_DATA + 5001);
    assert_true(rig.st.rflags & VMC_FLAG_ZF);

    /* A fault in the middle leaves the counts of what was done. */
    cpu_rig_mode(&rig, 64, 0);
    CODE(0xf3, 0xab, 0xf4); /* rep stosd */
    rig.st.gpr[VMC_RDI] = (1ull << 30) - 16;
    rig.st.gpr[VMC_RCX] = 10;
    rig.claim = true;
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.rip, CPU_RIG_TRAPS + VMC_VEC_PF + 1);
    assert_int_equal(rig.st.gpr[VMC_RCX], 6);
    assert_int_equal(rig.st.gpr[VMC_RDI], 1ull << 30);
    assert_int_equal(rig.st.cr2, 1ull << 30);
}

static void kick_ends_a_long_rep(void **state)
{
    (void)state;
    cpu_rig_mode(&rig, 64, 0);
    CODE(0xf3, 0x6e, 0xf4); /* rep outsb, 2^64 - 1 times */
    rig.st.gpr[VMC_RSI] = CPU_RIG_DATA;
    rig.st.gpr[VMC_RCX] = 1000000;
    rig.ops->kick(rig.ev);
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_KICKED);
    assert_int_equal(cpu_rig_resume(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.port_writes, 1000000 % 0x1000000);
}

static void interrupts_wait_for_the_shadow(void **state)
{
    (void)state;
    cpu_rig_mode(&rig, 64, 0);
    CODE(0xfb, 0x90, 0x90, 0xf4); /* sti; nop; nop; hlt */
    rig.irq = 0x40;
    rig.ops->irq_notify(rig.ev);
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.rip, CPU_RIG_TRAPS + 0x40 + 1);
    uint64_t rip;
    memcpy(&rip, rig.ram + rig.st.gpr[VMC_RSP], 8);
    assert_int_equal(rip, CPU_RIG_TEXT + 2);
    assert_int_equal(rig.irq, -1);
}

static void single_step_traps(void **state)
{
    (void)state;
    cpu_rig_mode(&rig, 64, 0);
    CODE(0x90, 0x90, 0xf4);
    rig.st.rflags |= VMC_FLAG_TF;
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.rip, CPU_RIG_TRAPS + VMC_VEC_DB + 1);
    uint64_t rip;
    memcpy(&rip, rig.ram + rig.st.gpr[VMC_RSP], 8);
    assert_int_equal(rip, CPU_RIG_TEXT + 1);
    assert_true(rig.st.dr6 & VMC_DR6_BS);
}

static void guest_breakpoints(void **state)
{
    (void)state;
    /* Instruction. */
    cpu_rig_mode(&rig, 64, 0);
    CODE(0x90, 0x90, 0x90, 0xf4);
    rig.st.dr[1] = CPU_RIG_TEXT + 2;
    rig.st.dr7 = VMC_DR7_FIXED | 8;
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.rip, CPU_RIG_TRAPS + VMC_VEC_DB + 1);
    uint64_t rip;
    memcpy(&rip, rig.ram + rig.st.gpr[VMC_RSP], 8);
    assert_int_equal(rip, CPU_RIG_TEXT + 2);
    assert_int_equal(rig.st.dr6 & 15, 2);
    /* Data: a trap after the store. */
    cpu_rig_mode(&rig, 64, 0);
    CODE(0x90, 0x89, 0x03, 0x90, 0xf4); /* nop; mov [rbx], eax; nop; hlt */
    rig.st.gpr[VMC_RBX] = CPU_RIG_DATA + 8;
    rig.st.dr[0] = CPU_RIG_DATA + 8;
    rig.st.dr7 = VMC_DR7_FIXED | 2 | 0xd0000; /* write, 4 bytes */
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.st.rip, CPU_RIG_TRAPS + VMC_VEC_DB + 1);
    memcpy(&rip, rig.ram + rig.st.gpr[VMC_RSP], 8);
    assert_int_equal(rip, CPU_RIG_TEXT + 3);
    assert_int_equal(rig.st.dr6 & 15, 1);
}

static void debugger_breakpoints(void **state)
{
    (void)state;
    cpu_rig_mode(&rig, 64, 0);
    CODE(0x90, 0x90, 0x89, 0x03, 0x90, 0xf4);
    rig.st.gpr[VMC_RBX] = CPU_RIG_DATA + 8;
    struct vmc_breakpoint bp[2] = {{CPU_RIG_TEXT + 1, 1, VMC_BP_EXEC},
                                   {CPU_RIG_DATA + 8, 2, VMC_BP_WRITE}};
    assert_int_equal(rig.ops->set_debug(rig.ev, bp, 2), 0);
    assert_int_equal(cpu_rig_run(&rig, 0), VMC_EXIT_DEBUG);
    assert_int_equal(rig.exit.u.stop.why, VMC_DEBUG_BREAKPOINT);
    assert_int_equal(rig.st.rip, CPU_RIG_TEXT + 1);
    assert_int_equal(cpu_rig_resume(&rig, 0), VMC_EXIT_DEBUG);
    assert_int_equal(rig.exit.u.stop.why, VMC_DEBUG_WATCH);
    assert_int_equal(rig.st.rip, CPU_RIG_TEXT + 4);
    assert_int_equal(cpu_rig_resume(&rig, 0), VMC_EXIT_IDLE);
    assert_int_equal(rig.ops->set_debug(rig.ev, NULL, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loops_in_each_mode),
        cmocka_unit_test(budget_is_exact),
        cmocka_unit_test(faults_are_delivered),
        cmocka_unit_test(endless_faults_end_with_the_budget),
        cmocka_unit_test(triple_fault_shuts_down),
        cmocka_unit_test(ports_exit_and_complete),
        cmocka_unit_test(mmio_read_modify_write),
        cmocka_unit_test(stores_into_the_running_block),
        cmocka_unit_test(device_writes_reach_cached_code),
        cmocka_unit_test(instructions_across_pages),
        cmocka_unit_test(fetch_faults_on_the_second_page),
        cmocka_unit_test(rep_strings),
        cmocka_unit_test(kick_ends_a_long_rep),
        cmocka_unit_test(interrupts_wait_for_the_shadow),
        cmocka_unit_test(single_step_traps),
        cmocka_unit_test(guest_breakpoints),
        cmocka_unit_test(debugger_breakpoints),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
