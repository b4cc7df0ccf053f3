/* SPDX-License-Identifier: BSD-2-Clause */
/* VMware's ports: what a guest learns, the balloon, and drivers that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "test_board.h"

#include <vmcore/vmware.h>

#define RAM      (16u << 20)
#define PAGES    (RAM / 4096)
#define BATCH    100u /* page of the batch */
#define MAGIC    0x564d5868u
#define BALLOON  0x456c6d6fu
#define ALL_CAPS 0xeu
#define AGREED   0x03000000u

enum { START, TARGET, LOCK, UNLOCK, GUEST_ID, BLOCK = 6, BUNLOCK, LLOCK, LUNLOCK, DOORBELL };
enum { OK, BAD_COMMAND, INVALID, LOCKED, UNLOCKED, RESET = 7 };

struct fx {
    struct test_board b;
    struct vmc_vmware *d;
    uint8_t held[PAGES]; /* by what we were told */
    unsigned told;
};

static void on_inflate(void *ctx, uint64_t gpa, uint64_t bytes)
{
    struct fx *f = ctx;

    f->told++;
    assert_true(gpa % 4096 == 0 && bytes != 0 && bytes % 4096 == 0 && gpa + bytes <= RAM);
    for (uint64_t p = gpa / 4096; p < (gpa + bytes) / 4096; p++)
        assert_int_equal(f->held[p]++, 0);
}

static void on_deflate(void *ctx, uint64_t gpa, uint64_t bytes)
{
    struct fx *f = ctx;

    f->told++;
    assert_true(gpa % 4096 == 0 && bytes != 0 && bytes % 4096 == 0 && gpa + bytes <= RAM);
    for (uint64_t p = gpa / 4096; p < (gpa + bytes) / 4096; p++)
        assert_int_equal(f->held[p]--, 1);
}

static int setup(void **state)
{
    struct fx *f = calloc(1, sizeof(*f));
    const struct vmc_vmware_config cfg = {
        .size = sizeof(cfg), .inflate = on_inflate, .deflate = on_deflate, .ctx = f};

    test_board_init(&f->b, RAM);
    assert_int_equal(vmc_vmware_create(&f->b.bd, &cfg, &f->d, NULL), VMC_OK);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fx *f = *state;

    test_board_fini(&f->b);
    free(f);
    return 0;
}

static struct vmc_port_call call(struct fx *f, uint16_t port, uint32_t magic, uint64_t command,
                                 uint64_t rbx, uint64_t rsi)
{
    struct vmc_port_call c = {.port = port,
                              .rax = magic,
                              .rbx = rbx,
                              .rcx = command,
                              .rdx = port,
                              .rsi = rsi,
                              .tsc_hz = 0x123456789a,
                              .apic_hz = 1000000000};

    assert_true(vmc_vmware_call(f->d, &c));
    return c;
}

static uint32_t balloon(struct fx *f, unsigned command, uint64_t arg1, uint64_t arg2)
{
    return (uint32_t)call(f, VMC_VMWARE_BALLOON_PORT, BALLOON, command, arg1, arg2).rax;
}

static struct vmc_vmware_info info(struct fx *f)
{
    struct vmc_vmware_info i = {.size = sizeof(i)};

    vmc_vmware_balloon_info(f->d, &i);
    return i;
}

static void put_batch(struct fx *f, const uint64_t *pages, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        uint64_t e = pages[i] << 12 | 0xfff; /* statuses are ours */
        assert_int_equal(vmc_mem_write(f->b.bd.mem, BATCH * 4096ull + 8 * i, &e, 8), VMC_OK);
    }
}

static unsigned status_at(struct fx *f, unsigned i)
{
    uint64_t e;

    assert_int_equal(vmc_mem_read(f->b.bd.mem, BATCH * 4096ull + 8 * i, &e, 8), VMC_OK);
    return (unsigned)e & 0x1f;
}

static void a_guest_learns_where_it_is(void **state)
{
    struct fx *f = *state;

    struct vmc_port_call c = call(f, VMC_VMWARE_PORT, MAGIC, 10, UINT32_MAX, 0);
    assert_true((uint32_t)c.rax != UINT32_MAX && c.rbx == MAGIC);
    c = call(f, VMC_VMWARE_PORT, MAGIC, 45, UINT32_MAX, 0);
    assert_int_equal(c.rax | c.rbx << 32, 0x123456789a);
    assert_int_equal(c.rcx, 1000000000);
    c = call(f, VMC_VMWARE_PORT, MAGIC, 20, 0, 0);
    assert_int_equal(c.rax, RAM >> 20);
    c = call(f, VMC_VMWARE_PORT, MAGIC, 68, 0, 0);
    assert_int_equal(c.rax, 8);
    c = call(f, VMC_VMWARE_PORT, MAGIC, 4711, 5, 6);
    assert_int_equal(c.rax, UINT32_MAX);
    assert_int_equal(c.rbx, 5);
    c = (struct vmc_port_call){.port = VMC_VMWARE_PORT, .rax = MAGIC, .rcx = 45, .rbx = UINT32_MAX};
    assert_true(vmc_vmware_call(f->d, &c)); /* a clock that is not known */
    assert_int_equal(c.rbx, UINT32_MAX);
}

static void wrong_magic_is_no_call(void **state)
{
    struct fx *f = *state;
    struct vmc_port_call c = {.port = VMC_VMWARE_PORT, .rax = BALLOON, .rcx = 10};

    assert_false(vmc_vmware_call(f->d, &c));
    c.port = VMC_VMWARE_BALLOON_PORT;
    c.rax = MAGIC;
    assert_false(vmc_vmware_call(f->d, &c));
    c.port = VMC_VMWARE_PORT + 1;
    assert_false(vmc_vmware_call(f->d, &c));
    assert_int_equal(c.rcx, 10);
}

static void nothing_happens_before_start(void **state)
{
    struct fx *f = *state;

    for (unsigned i = TARGET; i < 20; i++)
        assert_int_equal(balloon(f, i, 5, 1), RESET);
    assert_int_equal(f->told, 0);
    assert_int_equal(balloon(f, START, 0, 0), AGREED); /* a driver that leaves */
    assert_int_equal(balloon(f, LOCK, 5, 0), RESET);
    assert_false(info(f).driver);
}

static void capabilities_are_agreed(void **state)
{
    struct fx *f = *state;

    struct vmc_port_call c = call(f, VMC_VMWARE_BALLOON_PORT, BALLOON, START, UINT32_MAX, 0);
    assert_int_equal(c.rax, AGREED);
    assert_int_equal(c.rcx, ALL_CAPS); /* no doorbell, no targets beyond 32 bits */
    assert_int_equal(balloon(f, DOORBELL, 1, 1), BAD_COMMAND);
    assert_int_equal(balloon(f, 5, 1, 1), BAD_COMMAND);
    assert_int_equal(balloon(f, UINT32_MAX, 1, 1), BAD_COMMAND);
    c = call(f, VMC_VMWARE_BALLOON_PORT, BALLOON, START, 2, 0);
    assert_int_equal(c.rcx, 2);
    assert_int_equal(balloon(f, BLOCK, BATCH, 1), BAD_COMMAND);
    assert_int_equal(balloon(f, LLOCK, BATCH, 1), BAD_COMMAND);
    c = call(f, VMC_VMWARE_BALLOON_PORT, BALLOON, START, 8, 0); /* large pages come in batches */
    assert_int_equal(c.rcx, 0);
}

static void targets_are_told_and_clamped(void **state)
{
    struct fx *f = *state;

    (void)balloon(f, START, ALL_CAPS, 0);
    vmc_vmware_set_target(f->d, 77);
    struct vmc_port_call c = call(f, VMC_VMWARE_BALLOON_PORT, BALLOON, TARGET, 4000, 0);
    assert_int_equal(c.rax, OK);
    assert_int_equal(c.rbx, 77);
    assert_int_equal(info(f).guest_pages, 4000);
    vmc_vmware_set_target(f->d, UINT64_MAX);
    c = call(f, VMC_VMWARE_BALLOON_PORT, BALLOON, LOCK, 3, 0); /* every answer has it */
    assert_int_equal(c.rax, OK);
    assert_int_equal(c.rbx, PAGES);
    assert_int_equal(balloon(f, GUEST_ID, 1, 0), OK);
    struct vmc_vmware_info i = info(f);
    assert_int_equal(i.guest_type, 1);
    assert_int_equal(i.held_pages, 1);
    assert_int_equal(i.target_pages, PAGES);
    struct vmc_balloon_seen seen;
    vmc_vmware_look(f->d, &seen);
    assert_true(seen.driver && !seen.said);
    assert_int_equal(seen.held, 1);
}

static void single_pages_go_in_once(void **state)
{
    struct fx *f = *state;

    (void)balloon(f, START, 2, 0);
    assert_int_equal(balloon(f, LOCK, 7, 0), OK);
    assert_int_equal(balloon(f, LOCK, 7, 0), LOCKED);
    assert_int_equal(balloon(f, UNLOCK, 8, 0), UNLOCKED);
    assert_int_equal(balloon(f, LOCK, PAGES, 0), INVALID);
    assert_int_equal(balloon(f, LOCK, UINT64_MAX, 0), INVALID);
    assert_int_equal(balloon(f, UNLOCK, 1ull << 52, 0), INVALID);
    assert_int_equal(info(f).held_pages, 1);
    assert_int_equal(info(f).rejected, 5);
    assert_int_equal(balloon(f, UNLOCK, 7, 0), OK);
    assert_int_equal(info(f).held_pages, 0);
    assert_int_equal(f->told, 2);
}

static void batches_answer_for_each_page(void **state)
{
    struct fx *f = *state;
    const uint64_t pages[] = {10, 11, 12, 9, 11, PAGES, ~0ull >> 12, 20};

    (void)balloon(f, START, ALL_CAPS, 0);
    put_batch(f, pages, 8);
    assert_int_equal(balloon(f, BLOCK, BATCH, 8), OK);
    const unsigned want[] = {OK, OK, OK, OK, LOCKED, INVALID, INVALID, OK};
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(status_at(f, i), want[i]);
    assert_int_equal(f->told, 2); /* 9 to 12 as one range */
    assert_int_equal(info(f).held_pages, 5);
    assert_int_equal(balloon(f, BUNLOCK, BATCH, 8), OK);
    const unsigned back[] = {OK, OK, OK, OK, UNLOCKED, INVALID, INVALID, OK};
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(status_at(f, i), back[i]);
    assert_int_equal(info(f).held_pages, 0);
}

static void batches_lie_in_one_page_of_ram(void **state)
{
    struct fx *f = *state;

    (void)balloon(f, START, ALL_CAPS, 0);
    assert_int_equal(balloon(f, BLOCK, PAGES, 1), INVALID);
    assert_int_equal(balloon(f, BLOCK, UINT64_MAX, 1), INVALID);
    assert_int_equal(balloon(f, BLOCK, BATCH, 513), UINT32_MAX);
    assert_int_equal(balloon(f, BLOCK, BATCH, UINT64_MAX), UINT32_MAX);
    assert_int_equal(f->told, 0);
    assert_int_equal(balloon(f, BLOCK, BATCH, 0), OK);
    assert_int_equal(balloon(f, BLOCK, BATCH, 512), OK); /* page 0, again and again */
    assert_int_equal(info(f).held_pages, 1);
    assert_int_equal(info(f).rejected, 511);
}

static void large_pages_go_whole(void **state)
{
    struct fx *f = *state;
    const uint64_t pages[] = {512, 1024, 513, PAGES, PAGES - 512, 512};

    (void)balloon(f, START, ALL_CAPS, 0);
    assert_int_equal(balloon(f, LOCK, 1024 + 5, 0), OK);
    put_batch(f, pages, 6);
    assert_int_equal(balloon(f, LLOCK, BATCH, 6), OK);
    const unsigned want[] = {OK, LOCKED, INVALID, INVALID, OK, LOCKED};
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(status_at(f, i), want[i]);
    assert_int_equal(info(f).held_pages, 1025);
    assert_int_equal(info(f).large_pages, 2);
    assert_int_equal(f->told, 3);
    assert_int_equal(balloon(f, UNLOCK, 600, 0), OK); /* a piece of one */
    assert_int_equal(balloon(f, LUNLOCK, BATCH, 6), OK);
    assert_int_equal(status_at(f, 0), UNLOCKED);
    assert_int_equal(status_at(f, 4), OK);
    assert_int_equal(info(f).held_pages, 512);
}

static void a_batch_may_give_its_own_page(void **state)
{
    struct fx *f = *state;
    const uint64_t page = BATCH;

    (void)balloon(f, START, ALL_CAPS, 0);
    put_batch(f, &page, 1);
    assert_int_equal(balloon(f, BLOCK, BATCH, 1), OK);
    assert_int_equal(f->held[BATCH], 1);
}

static void a_new_driver_has_everything(void **state)
{
    struct fx *f = *state;

    (void)balloon(f, START, ALL_CAPS, 0);
    for (unsigned p = 0; p < 50; p++)
        assert_int_equal(balloon(f, LOCK, p * 3, 0), OK);
    (void)balloon(f, START, ALL_CAPS, 0);
    assert_int_equal(info(f).held_pages, 0);
    for (unsigned p = 0; p < PAGES; p++)
        assert_int_equal(f->held[p], 0);
    assert_int_equal(balloon(f, LOCK, 3, 0), OK);
    vmc_board_reset(&f->b.bd);
    assert_int_equal(f->held[3], 0);
    assert_false(info(f).driver);
    assert_int_equal(balloon(f, LOCK, 3, 0), RESET);
}

static void state_is_saved(void **state)
{
    struct fx *f = *state;

    (void)balloon(f, START, ALL_CAPS, 0);
    (void)balloon(f, GUEST_ID, 1, 0);
    assert_int_equal(balloon(f, LOCK, 3, 0), OK);
    assert_int_equal(balloon(f, LOCK, 999, 0), OK);
    struct vmc_device *dev = f->b.bd.devices;
    size_t n = dev->ops->save(dev->dev, NULL, 0);
    uint8_t *image = malloc(n);
    f->b.tp.fail_after = 1; /* needs no memory: there is no other length that says so */
    assert_int_equal(dev->ops->save(dev->dev, image, n), n);
    f->b.tp.fail_after = 0;
    vmc_board_reset(&f->b.bd);
    assert_int_equal(info(f).held_pages, 0);
    f->held[3] = f->held[999] = 1; /* memory is loaded with it */
    assert_int_equal(dev->ops->load(dev->dev, image, n, NULL), VMC_OK);
    assert_int_equal(info(f).held_pages, 2);
    assert_int_equal(info(f).guest_type, 1);
    assert_int_equal(balloon(f, LOCK, 999, 0), LOCKED);
    assert_int_equal(balloon(f, UNLOCK, 999, 0), OK);
    struct vmc_error err = {0};
    image[n - 1] = 0xff; /* the last word's pages are RAM; capabilities that do not exist are not */
    memset(image + 16 + 4, 0xff, 4);
    assert_int_equal(dev->ops->load(dev->dev, image, n, &err), VMC_EFORMAT);
    assert_int_equal(dev->ops->load(dev->dev, image, n - 8, &err), VMC_EFORMAT);
    assert_int_equal(info(f).held_pages, 1); /* nothing changed */
    free(image);
}

#define vmw_test(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        vmw_test(a_guest_learns_where_it_is),   vmw_test(wrong_magic_is_no_call),
        vmw_test(nothing_happens_before_start), vmw_test(capabilities_are_agreed),
        vmw_test(targets_are_told_and_clamped), vmw_test(single_pages_go_in_once),
        vmw_test(batches_answer_for_each_page), vmw_test(batches_lie_in_one_page_of_ram),
        vmw_test(large_pages_go_whole),         vmw_test(a_batch_may_give_its_own_page),
        vmw_test(a_new_driver_has_everything),  vmw_test(state_is_saved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
