/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Speed of the interpreter alone: small 64-bit programs without a machine around them, in millions
 * of guest instructions a second of processor time. Median of five runs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <vmcore/engine.h>
#include <vmcore/host.h>
#include <vmcore/x86.h>

#define RAM   (16u << 20)
#define CODE  0x10000u
#define INSNS 30000000u
#define RUNS  5

struct program {
    const char *name;
    unsigned bytes;
    uint8_t code[96];
};

/* clang-format off */
static const struct program programs[] = {
    /* L: add rax,rbx; xor rcx,rax; lea rdx,[rax+rcx*2]; sub rsi,rdx; dec rdi; jmp L */
    {"alu", 17, {0x48,0x01,0xd8, 0x48,0x31,0xc1, 0x48,0x8d,0x14,0x48, 0x48,0x29,0xd6,
                 0x48,0xff,0xcf, 0xeb,0xee}},
    /* sieve-like: L: mov byte [rbx+rcx],1; add ecx,edx; cmp ecx,0x100000; jb L; xor ecx,ecx; jmp L */
    {"store_loop", 20, {0xc6,0x04,0x0b,0x01, 0x01,0xd1, 0x81,0xf9,0,0,0x10,0, 0x72,0xf2,
                        0x31,0xc9, 0xeb,0xee}},
    /* pointer chase with compare: L: mov rax,[rbx+rcx*8]; add rsi,rax; inc ecx; and ecx,0xffff;
       test rax,rax; jz L; jmp L */
    {"load_loop", 22, {0x48,0x8b,0x04,0xcb, 0x48,0x01,0xc6, 0xff,0xc1, 0x81,0xe1,0xff,0xff,0,0,
                       0x48,0x85,0xc0, 0x74,0xec, 0xeb,0xea}},
    /* calls: L: call F; jmp L; F: push rbp; mov rbp,rsp; mov eax,[rbp+8]; leave; ret */
    {"calls", 16, {0xe8,2,0,0,0, 0xeb,0xf9, 0x55, 0x48,0x89,0xe5, 0x8b,0x45,0x08, 0xc9, 0xc3}},
    /* shifts and multiply: L: imul rax,rbx; shr rax,7; rol rcx,3; bt rax,5; adc rdx,0; jmp L */
    {"shift_mul", 23, {0x48,0x0f,0xaf,0xc3, 0x48,0xc1,0xe8,0x07, 0x48,0xc1,0xc1,0x03,
                       0x48,0x0f,0xba,0xe0,0x05, 0x48,0x83,0xd2,0x00, 0xeb,0xe9}},
    /* locked: L: lock xadd [rbx],rax; lock inc dword [rbx+64]; xchg [rbx+8],rcx; jmp L */
    {"atomics", 15, {0xf0,0x48,0x0f,0xc1,0x03, 0xf0,0xff,0x43,0x40, 0x48,0x87,0x4b,0x08,
                     0xeb,0xf1}},
    /* scalar double: L: addsd xmm0,xmm1; mulsd xmm2,xmm0; movsd [rbx],xmm2; jmp L */
    {"sse", 14, {0xf2,0x0f,0x58,0xc1, 0xf2,0x0f,0x59,0xd0, 0xf2,0x0f,0x11,0x13, 0xeb,0xf2}},
};
/* clang-format on */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "bench_cpu_interp: %s failed\n", what);
        exit(1);
    }
}

static void start_state(struct vmc_x86_state *st)
{
    for (unsigned i = 0; i < 6; i++)
        st->seg[i] = (struct vmc_segment){.selector = i == VMC_CS ? 8 : 16, .limit = 0xffffffff,
                                          .attr = i == VMC_CS ? 0xa09b : 0xc093};
    memset(st->gpr, 0, sizeof(st->gpr));
    st->gpr[VMC_RBX] = 0x100000;
    st->gpr[VMC_RDX] = 7;
    st->gpr[VMC_RSP] = 0x80000;
    st->cr0 = VMC_CR0_PE | VMC_CR0_PG | VMC_CR0_ET | VMC_CR0_NE;
    st->cr4 = VMC_CR4_PAE | VMC_CR4_OSFXSR;
    st->cr3 = 0x1000;
    st->efer = VMC_EFER_LME | VMC_EFER_LMA;
    st->rip = CODE;
    st->rflags = VMC_FLAG_1;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double measure(const struct vmc_engine_ops *ops, void *ev, const struct vmc_x86_state *st)
{
    double mips[RUNS];

    for (unsigned i = 0; i < RUNS; i++) {
        struct vmc_run_limits lim = {.size = sizeof(lim), .max_insns = INSNS};
        struct vmc_exit x;
        must(ops->set_state(ev, VMC_ST_ALL & ~(uint32_t)VMC_ST_LAPIC, st) == 0, "set_state");
        double t = now();
        must(ops->run(ev, &lim, &x) == 0 && x.kind == VMC_EXIT_BUDGET, "run");
        mips[i] = INSNS / (now() - t) / 1e6;
    }
    qsort(mips, RUNS, sizeof(mips[0]), by_value);
    return mips[RUNS / 2];
}

int main(void)
{
    static struct vmc_platform pf;
    static struct vmc_engine_info info;
    static struct vmc_x86_state st;
    struct vmc_error err;
    struct vmc_mem *mem;
    const struct vmc_engine_ops *ops = vmc_engine_soft();
    struct vmc_mem_slot slot = {.size = sizeof(slot), .attr = VMC_MEM_RAM, .bytes = RAM};
    struct vmc_engine_vm_config cfg = {.size = sizeof(cfg), .max_vcpus = 1, .platform = &pf};
    uint64_t pt[3] = {0x2007, 0x3007, 0x87}, huge;

    must(vmc_host_platform_init(&pf, NULL, &err) == 0, "platform");
    must(vmc_mem_create(&pf, &mem, &err) == 0 && vmc_mem_add(mem, &slot, &err) == 0, "memory");
    must(ops->probe(&pf, &info, &err) == 0, "probe");
    void *evm = aligned_alloc(64, (info.vm_bytes + 63) & ~63ull);
    void *ev = aligned_alloc(64, (info.vcpu_bytes + 63) & ~63ull);
    must(evm != NULL && ev != NULL, "allocation");
    memset(evm, 0, info.vm_bytes);
    memset(ev, 0, info.vcpu_bytes);
    cfg.mem = mem;
    must(ops->vm_init(evm, &cfg, &err) == 0, "vm_init");
    must(ops->vcpu_init(evm, ev, 0, NULL, &err) == 0, "vcpu_init");
    must(ops->get_state(ev, VMC_ST_ALL & ~(uint32_t)VMC_ST_LAPIC, &st) == 0, "get_state");
    must(vmc_mem_write(mem, 0x1000, &pt[0], 8) == 0 && vmc_mem_write(mem, 0x2000, &pt[1], 8) == 0,
         "page tables");
    for (unsigned i = 0; i < RAM >> 21; i++) {
        huge = ((uint64_t)i << 21) | 0x87;
        must(vmc_mem_write(mem, 0x3000 + 8 * i, &huge, 8) == 0, "page tables");
    }
    for (unsigned i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
        must(vmc_mem_write(mem, CODE, programs[i].code, sizeof(programs[i].code)) == 0, "code");
        start_state(&st);
        printf("result cpu.interp.%s %.1f MIPS\n", programs[i].name, measure(ops, ev, &st));
    }
    ops->vcpu_fini(ev);
    ops->vm_fini(evm);
    vmc_mem_destroy(mem);
    free(ev);
    free(evm);
    return 0;
}
