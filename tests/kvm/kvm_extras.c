/* SPDX-License-Identifier: BSD-2-Clause */
/* Doorbells as eventfds and coalesced writes, with a real-mode guest on the KVM engine. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "test_platform.h"
#include <vmcore/bus.h>
#include <vmcore/kvm.h>
#include <vmcore/vm.h>

#include <cmocka.h>

#define MEM_BYTES 0x10000u
#define CODE      0x1000u
#define INDEX     0x500u /* its writes are coalesced */
#define END       0x510u
#define BELL_PORT 0x520u
#define BELL_GPA  0xa0000u

struct fx {
    struct test_platform tp;
    struct vmc_vm *vm;
    struct vmc_vcpu *v;
    void *ram;
    uint8_t log[16];
    unsigned logged;
    struct vmc_exit x;
};

static uint64_t index_read(void *dev, uint64_t offset, unsigned bytes)
{
    (void)dev;
    (void)offset;
    (void)bytes;
    return 0;
}

static void index_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    struct fx *f = dev;

    (void)offset;
    (void)bytes;
    if (f->logged < sizeof(f->log))
        f->log[f->logged++] = (uint8_t)value;
}

static void up(struct fx *f, const uint8_t *code, size_t bytes)
{
    static const struct vmc_bus_ops ops = {.read = index_read, .write = index_write};
    struct vmc_error err = {0};
    struct vmc_x86_state st;
    struct vmc_vm_config c = {.size = sizeof(c),
                              .max_vcpus = 1,
                              .platform = &f->tp.pf,
                              .engine = vmc_engine_kvm(),
                              .flags = VMC_VM_NO_IRQCHIP | VMC_VM_PIO_EXITS | VMC_VM_MMIO_EXITS};

    test_platform_init_threads(&f->tp);
    f->ram = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(f->ram, MAP_FAILED);
    struct vmc_mem_slot ram = {
        .size = sizeof(ram), .attr = VMC_MEM_RAM, .bytes = MEM_BYTES, .backing = f->ram};
    assert_int_equal(vmc_vm_create(&c, &f->vm, &err), VMC_OK);
    assert_int_equal(vmc_mem_add(vmc_vm_mem(f->vm), &ram, &err), VMC_OK);
    assert_int_equal(vmc_mem_write(vmc_vm_mem(f->vm), CODE, code, bytes), VMC_OK);
    assert_int_equal(vmc_bus_attach(vmc_vm_board(f->vm)->pio, INDEX, 1, &ops, f, &err), VMC_OK);
    assert_int_equal(vmc_vcpu_create(f->vm, 0, &f->v, &err), VMC_OK);
    assert_int_equal(vmc_vm_start(f->vm, &err), VMC_OK);
    assert_int_equal(vmc_vcpu_get_state(f->v, VMC_ST_RIP | VMC_ST_SEG, &st), VMC_OK);
    st.rip = CODE;
    st.seg[VMC_CS].selector = 0;
    st.seg[VMC_CS].base = 0;
    assert_int_equal(vmc_vcpu_set_state(f->v, VMC_ST_RIP | VMC_ST_SEG, &st), VMC_OK);
}

/* Run to the next access that nobody claims, and answer it. */
static void run(struct fx *f)
{
    struct vmc_run_limits lim = {.size = sizeof(lim)};

    assert_int_equal(vmc_vcpu_run(f->v, &lim, &f->x), VMC_OK);
    if (f->x.kind == VMC_EXIT_IO || f->x.kind == VMC_EXIT_MMIO) {
        f->x.answer = VMC_ANSWER_DONE;
        assert_int_equal(vmc_vcpu_complete(f->v, &f->x), VMC_OK);
    }
}

static void down(struct fx *f)
{
    assert_int_equal(vmc_bus_detach(vmc_vm_board(f->vm)->pio, INDEX), VMC_OK);
    vmc_vm_destroy(f->vm);
    munmap(f->ram, MEM_BYTES);
    test_platform_check(&f->tp);
}

static uint64_t exits_of(struct fx *f, uint32_t kind)
{
    struct vmc_vcpu_stats st = {.size = sizeof(st)};

    vmc_vcpu_get_stats(f->v, &st);
    return st.exits[kind];
}

static void coalesced_writes_arrive_in_order_with_the_next_exit(void **state)
{
    /* mov dx, INDEX; mov al, 1; out dx, al; inc ax; out dx, al; inc ax; out dx, al;
       mov dx, END; out dx, al */
    static const uint8_t code[] = {0xba, 0x00, 0x05, 0xb0, 0x01, 0xee, 0x40, 0xee,
                                   0x40, 0xee, 0xba, 0x10, 0x05, 0xee, 0xf4};
    struct fx f = {0};

    (void)state;
    up(&f, code, sizeof(code));
    int rc = vmc_kvm_coalesce(vmc_vm_engine(f.vm), true, INDEX, 1, true);
    if (rc == VMC_ENOTSUP) {
        down(&f);
        printf("**** SKIP: this KVM does not coalesce port writes\n");
        skip();
    }
    assert_int_equal(rc, VMC_OK);
    run(&f);
    assert_int_equal(f.x.kind, VMC_EXIT_IO);
    assert_int_equal(f.x.u.io.port, END);
    assert_int_equal(f.logged, 3);
    assert_memory_equal(f.log, "\x01\x02\x03", 3);
    assert_int_equal(exits_of(&f, VMC_EXIT_IO), 1);
    assert_int_equal(vmc_kvm_coalesce(vmc_vm_engine(f.vm), true, INDEX, 1, false), VMC_OK);
    down(&f);
}

static void doorbells_ring_eventfds_without_an_exit(void **state)
{
    /* mov dx, BELL_PORT; out dx, ax; mov cx, 0xa000; mov ds, cx; mov [0], ax; mov [0], ax;
       mov [0], al; mov dx, END; out dx, al */
    static const uint8_t code[] = {0xba, 0x20, 0x05, 0xef, 0xb9, 0x00, 0xa0, 0x8e,
                                   0xd9, 0xa3, 0x00, 0x00, 0xa3, 0x00, 0x00, 0xa2,
                                   0x00, 0x00, 0xba, 0x10, 0x05, 0xee, 0xf4};
    struct fx f = {0};
    eventfd_t count;

    (void)state;
    up(&f, code, sizeof(code));
    void *evm = vmc_vm_engine(f.vm);
    int port = eventfd(0, EFD_NONBLOCK), mem = eventfd(0, EFD_NONBLOCK);
    assert_int_equal(vmc_kvm_ioeventfd(evm, true, BELL_PORT, 2, NULL, port, true), VMC_OK);
    assert_int_equal(vmc_kvm_ioeventfd(evm, false, BELL_GPA, 2, NULL, mem, true), VMC_OK);
    assert_int_not_equal(vmc_kvm_ioeventfd(evm, false, BELL_GPA, 2, NULL, mem, true), VMC_OK);
    run(&f); /* a write of another width is an exit as ever */
    assert_int_equal(f.x.kind, VMC_EXIT_MMIO);
    assert_int_equal(f.x.u.mmio.bytes, 1);
    assert_int_equal(f.x.u.mmio.gpa, BELL_GPA);
    run(&f);
    assert_int_equal(f.x.u.io.port, END);
    assert_int_equal(eventfd_read(port, &count), 0);
    assert_int_equal(count, 1);
    assert_int_equal(eventfd_read(mem, &count), 0);
    assert_int_equal(count, 2);
    assert_int_equal(vmc_kvm_ioeventfd(evm, false, BELL_GPA, 2, NULL, mem, false), VMC_OK);
    assert_int_not_equal(vmc_kvm_ioeventfd(evm, false, BELL_GPA, 2, NULL, mem, false), VMC_OK);
    close(port);
    close(mem);
    down(&f);
}

/* Half as fast as the kernel's. */
static uint64_t slow_clock(void *ctx)
{
    struct timespec ts;

    (void)ctx;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ((uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec) / 2;
}

static void deadlines_are_of_the_platform_s_clock(void **state)
{
    (void)state;
    static const uint8_t spin[] = {0xeb, 0xfe};
    struct fx *f = calloc(1, sizeof(*f));

    up(f, spin, sizeof(spin));
    f->tp.pf.now_ns = slow_clock;
    alarm(60); /* instead of running for ever */
    for (unsigned i = 0; i < 5; i++) {
        struct vmc_run_limits lim = {.size = sizeof(lim),
                                     .deadline_ns = slow_clock(NULL) + 10000000};
        assert_int_equal(vmc_vcpu_run(f->v, &lim, &f->x), VMC_OK);
        assert_int_equal(f->x.kind, VMC_EXIT_BUDGET);
        assert_true(slow_clock(NULL) >= lim.deadline_ns);
    }
    alarm(0);
    down(f);
    free(f);
}

struct turn {
    struct fx *f;
    struct vmc_run_limits lim;
    int rc;
};

static void *first_turn(void *arg)
{
    struct turn *t = arg;

    t->rc = vmc_vcpu_run(t->f->v, &t->lim, &t->f->x);
    return NULL;
}

/* The rest of a time slice may be another thread's. */
static void deadlines_go_with_the_vcpu(void **state)
{
    (void)state;
    /* mov dx, END; out dx, al; jmp . */
    static const uint8_t code[] = {0xba, 0x10, 0x05, 0xee, 0xeb, 0xfe};
    struct fx *f = calloc(1, sizeof(*f));
    pthread_t thread;

    up(f, code, sizeof(code));
    struct turn t = {.f = f, .lim = {.size = sizeof(t.lim)}};
    t.lim.deadline_ns = f->tp.pf.now_ns(f->tp.pf.ctx) + 500000000;
    assert_int_equal(pthread_create(&thread, NULL, first_turn, &t), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(t.rc, VMC_OK);
    if (f->x.kind == VMC_EXIT_IO) { /* else the machine is too busy to tell */
        f->x.answer = VMC_ANSWER_DONE;
        assert_int_equal(vmc_vcpu_complete(f->v, &f->x), VMC_OK);
    }
    alarm(60); /* instead of running for ever */
    assert_int_equal(vmc_vcpu_run(f->v, &t.lim, &f->x), VMC_OK);
    alarm(0);
    assert_int_equal(f->x.kind, VMC_EXIT_BUDGET);
    down(f);
    free(f);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(coalesced_writes_arrive_in_order_with_the_next_exit),
        cmocka_unit_test(doorbells_ring_eventfds_without_an_exit),
        cmocka_unit_test(deadlines_are_of_the_platform_s_clock),
        cmocka_unit_test(deadlines_go_with_the_vcpu),
    };
    struct vmc_platform pf = {.size = sizeof(pf)};
    struct vmc_engine_info *info = calloc(1, sizeof(*info));
    struct vmc_error err = {0};

    info->size = sizeof(*info);
    int rc = vmc_engine_kvm()->probe(&pf, info, &err);
    free(info);
    if (rc != VMC_OK) {
        const char *need = getenv("VMC_TEST_REQUIRE");
        bool must = need != NULL && strstr(need, "kvm") != NULL;
        printf("**** %s: %s\n", must ? "FAIL" : "SKIP", err.text);
        return must ? 1 : 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
