/* SPDX-License-Identifier: BSD-2-Clause */
/* Console and entropy devices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "virtio/virtio_int.h"
#include "virtio_driver.h"
#include <vmcore/virtio_console.h>
#include <vmcore/virtio_rng.h>

#define F_SIZE      1ull
#define F_MULTIPORT 2ull
#define F_EMERG     4ull

struct con_rig {
    struct vd_board b;
    struct vmc_virtio *dev;
    struct vd v;
    char out[2][4096];
    size_t out_bytes[2];
    size_t room; /* the far end takes this much more */
    unsigned ready[2], opens[2], closes[2];
};

static struct con_rig *current;

static int write0(void *ctx, const void *data, size_t n)
{
    struct con_rig *r = current;
    unsigned port = *(unsigned *)ctx;
    n = n < r->room ? n : r->room;
    memcpy(r->out[port] + r->out_bytes[port], data, n);
    r->out_bytes[port] += n;
    r->room -= n;
    return (int)n;
}

static void on_ready(void *ctx, unsigned port)
{
    ((struct con_rig *)ctx)->ready[port]++;
}

static void on_open(void *ctx, unsigned port, bool open)
{
    struct con_rig *r = ctx;
    if (open)
        r->opens[port]++;
    else
        r->closes[port]++;
}

static void open_rig(struct con_rig *r, unsigned ports, uint64_t features, unsigned queues)
{
    static const struct vmc_chardev_ops ops = {.write = write0};
    static unsigned number[2] = {0, 1};
    const struct vmc_virtio_console_port port[2] = {
        {.out = {&ops, &number[0]}, .console = true},
        {.name = "org.example.pipe", .out = {&ops, &number[1]}},
    };
    memset(r, 0, sizeof(*r));
    current = r;
    r->room = SIZE_MAX;
    vd_board_init(&r->b, false);
    struct vmc_virtio_console_config cfg = {
        .virtio = {.size = sizeof(cfg.virtio), .pci = r->b.pci, .slot = VMC_PCI_ANY_SLOT,
                   .queue_size = 16},
        .port_count = ports,
        .cols = 80,
        .rows = 25,
        .ports = port,
        .rx_ready = on_ready,
        .port_open = on_open,
        .ctx = r,
    };
    assert_int_equal(vmc_virtio_console_create(&r->b.bd, &cfg, &r->dev, NULL), VMC_OK);
    assert_true(vd_probe(&r->v, &r->b, r->dev, true));
    assert_true(vd_start(&r->v, features, queues));
}

static void close_rig(struct con_rig *r)
{
    vd_board_fini(&r->b);
    test_platform_check(&r->b.tp);
}

#define BUF(i) (VD_HEAP + (i) * 0x1000ull)

static void send(struct con_rig *r, unsigned q, unsigned i, const void *data, uint32_t n)
{
    const struct vd_buf b = {BUF(i), n, false};
    memcpy(vd_ptr(&r->b, BUF(i)), data, n);
    (void)vd_add(&r->v, q, &b, 1, 0);
    vd_kick(&r->v, q);
}

static void give(struct con_rig *r, unsigned q, unsigned i, uint32_t n)
{
    const struct vd_buf b = {BUF(i), n, true};
    (void)vd_add(&r->v, q, &b, 1, 0);
    vd_kick(&r->v, q);
}

static void output_arrives_in_order_through_a_slow_end(void **state)
{
    (void)state;
    for (unsigned packed = 0; packed < 2; packed++) {
        struct con_rig r;
        unsigned id;
        uint32_t len;
        open_rig(&r, 1, packed ? VD_F_PACKED : 0, 2);
        send(&r, 1, 0, "hello ", 6);
        assert_true(vd_pop(&r.v, 1, &id, &len));
        r.room = 2;
        send(&r, 1, 1, "world", 5);
        send(&r, 1, 2, "!\n", 2);
        assert_false(vd_pop(&r.v, 1, &id, &len)); /* waits in the ring */
        assert_int_equal(r.out_bytes[0], 8);
        r.room = 1;
        vmc_virtio_console_output_ready(r.dev, 0);
        assert_false(vd_pop(&r.v, 1, &id, &len));
        /* nothing is in flight meanwhile: it can be saved */
        assert_int_equal(vmc_board_quiesce(&r.b.bd), VMC_OK);
        r.room = SIZE_MAX;
        vmc_virtio_console_output_ready(r.dev, 0);
        assert_int_equal(r.out_bytes[0], 9);
        vmc_board_resume(&r.b.bd);
        assert_true(vd_pop(&r.v, 1, &id, &len));
        assert_true(vd_pop(&r.v, 1, &id, &len));
        assert_memory_equal(r.out[0], "hello world!\n", 13);
        assert_int_equal(r.out_bytes[0], 13);
        close_rig(&r);
    }
}

static void buffers_without_room_come_back(void **state)
{
    (void)state;
    for (unsigned packed = 0; packed < 2; packed++) {
        struct con_rig r;
        unsigned id;
        uint32_t len;
        open_rig(&r, 1, packed ? VD_F_PACKED : 0, 2);
        send(&r, 0, 0, "read-only", 9);
        assert_int_equal(vmc_virtio_console_input(r.dev, 0, "abc", 3), 0);
        assert_true(vd_pop(&r.v, 0, &id, &len));
        assert_int_equal(len, 0);
        give(&r, 0, 1, 8);
        assert_int_equal(r.ready[0], 1);
        assert_int_equal(vmc_virtio_console_input(r.dev, 0, "abc", 3), 3);
        assert_true(vd_pop(&r.v, 0, &id, &len));
        assert_int_equal(len, 3);
        close_rig(&r);
    }
}

static void input_waits_for_buffers(void **state)
{
    (void)state;
    struct con_rig r;
    unsigned id;
    uint32_t len;
    open_rig(&r, 1, VD_F_EVENT_IDX, 2);
    assert_int_equal(vmc_virtio_console_input(r.dev, 0, "abc", 3), 0);
    give(&r, 0, 0, 2);
    assert_int_equal(r.ready[0], 1);
    assert_int_equal(vmc_virtio_console_input(r.dev, 0, "abc", 3), 2);
    assert_true(vd_pop(&r.v, 0, &id, &len));
    assert_int_equal(len, 2);
    assert_memory_equal(vd_ptr(&r.b, BUF(0)), "ab", 2);
    const struct vd_buf b = {BUF(1), 64, true};
    (void)vd_add(&r.v, 0, &b, 1, 0);
    assert_true(vd_wants_kick(&r.v, 0));
    vd_kick(&r.v, 0);
    assert_int_equal(r.ready[0], 2);
    assert_int_equal(vmc_virtio_console_input(r.dev, 0, "c", 1), 1);
    assert_true(vd_pop(&r.v, 0, &id, &len));
    assert_int_equal(len, 1);
    assert_int_equal(vmc_virtio_console_input(r.dev, 5, "c", 1), VMC_EINVAL);
    close_rig(&r);
}

static void size_and_emergency_write_are_in_the_configuration(void **state)
{
    (void)state;
    struct con_rig r;
    open_rig(&r, 1, F_SIZE | F_EMERG, 2);
    assert_int_equal(vd_read(&r.v, r.v.config, 2), 80);
    assert_int_equal(vd_read(&r.v, r.v.config + 2, 2), 25);
    vmc_virtio_console_resize(r.dev, 132, 43);
    assert_int_equal(vd_read(&r.v, r.v.config, 2), 132);
    assert_int_equal(r.b.msi[0], 1);
    vd_reset(&r.v);
    vd_write(&r.v, r.v.config + 8, 4, '!');
    assert_int_equal(r.out_bytes[0], 1);
    assert_int_equal(r.out[0][0], '!');
    close_rig(&r);
}

static void control(struct con_rig *r, unsigned id, unsigned event, unsigned value)
{
    const unsigned char m[8] = {(unsigned char)id, 0, 0, 0, (unsigned char)event, 0,
                                (unsigned char)value, 0};
    unsigned used;
    uint32_t len;
    send(r, 3, 30, m, 8);
    assert_true(vd_pop(&r->v, 3, &used, &len));
}

/* The next control message; its length. */
static uint32_t message(struct con_rig *r, unsigned char *m)
{
    unsigned id;
    uint32_t len;
    if (!vd_pop(&r->v, 2, &id, &len))
        return 0;
    memcpy(m, vd_ptr(&r->b, BUF(40)), len);
    give(r, 2, 40, 128);
    return len;
}

static void ports_are_announced_named_and_opened(void **state)
{
    (void)state;
    struct con_rig r;
    unsigned char m[128];
    unsigned id;
    uint32_t len;
    open_rig(&r, 2, F_MULTIPORT | F_SIZE, 6);
    control(&r, 0, 0, 1); /* driver ready, but it has given no buffer yet */
    assert_int_equal(message(&r, m), 0);
    give(&r, 2, 40, 128);
    assert_int_equal(message(&r, m), 8);
    assert_int_equal(m[4], 1); /* add port 0 */
    assert_int_equal(m[0], 0);
    assert_int_equal(message(&r, m), 8);
    assert_int_equal(m[0], 1);
    assert_int_equal(message(&r, m), 0);
    control(&r, 0, 3, 1); /* port 0 ready */
    assert_int_equal(message(&r, m), 8);
    assert_int_equal(m[4], 4); /* is a console */
    assert_int_equal(message(&r, m), 12);
    assert_int_equal(m[4], 5); /* its size: rows, columns */
    assert_int_equal(m[8], 25);
    assert_int_equal(m[10], 80);
    assert_int_equal(message(&r, m), 8);
    assert_int_equal(m[4], 6); /* open */
    control(&r, 1, 3, 1);
    assert_int_equal(message(&r, m), 8); /* open comes first, by number */
    assert_int_equal(message(&r, m), 8 + 16);
    assert_int_equal(m[4], 7);
    assert_memory_equal(m + 8, "org.example.pipe", 16);
    /* no input before the guest opened the port */
    give(&r, 4, 50, 64);
    assert_int_equal(vmc_virtio_console_input(r.dev, 1, "x", 1), 0);
    control(&r, 1, 6, 1);
    assert_int_equal(r.opens[1], 1);
    assert_int_equal(r.ready[1], 1);
    assert_int_equal(vmc_virtio_console_input(r.dev, 1, "x", 1), 1);
    assert_true(vd_pop(&r.v, 4, &id, &len));
    send(&r, 5, 60, "pipe", 4);
    assert_memory_equal(r.out[1], "pipe", 4);
    control(&r, 1, 6, 0);
    assert_int_equal(r.closes[1], 1);
    /* hostile messages */
    control(&r, 200, 6, 1);
    control(&r, 1, 99, 1);
    send(&r, 3, 30, "short", 5);
    assert_int_equal(vd_status(&r.v), 0xf);
    control(&r, 1, 6, 1);
    vd_reset(&r.v);
    assert_int_equal(r.closes[1], 2);
    close_rig(&r);
}

static void entropy_fills_what_was_asked_for(void **state)
{
    (void)state;
    struct vd_board b;
    struct vmc_virtio *dev;
    struct vd v;
    unsigned id;
    uint32_t len;
    vd_board_init(&b, false);
    const struct vmc_virtio_rng_config cfg = {
        .virtio = {.size = sizeof(cfg.virtio), .pci = b.pci, .slot = VMC_PCI_ANY_SLOT}};
    assert_int_equal(vmc_virtio_rng_create(&b.bd, &cfg, &dev, NULL), VMC_OK);
    assert_true(vd_probe(&v, &b, dev, true));
    assert_true(vd_start(&v, VD_F_PACKED, 1));
    unsigned char *p = vd_ptr(&b, VD_HEAP);
    const struct vd_buf buf[2] = {{VD_HEAP, 100, true}, {VD_HEAP + 200, 28, true}};
    (void)vd_add(&v, 0, buf, 2, 0);
    vd_kick(&v, 0);
    assert_true(vd_pop(&v, 0, &id, &len));
    assert_int_equal(len, 128);
    static const unsigned char zero[32];
    assert_memory_not_equal(p, zero, 32);
    assert_memory_not_equal(p + 200, zero, 28);
    assert_memory_equal(p + 100, zero, 32);
    /* more than a request gets, and a buffer that cannot be filled */
    const struct vd_buf big = {VD_HEAP, 1 << 20, true};
    const struct vd_buf out = {VD_HEAP, 64, false};
    (void)vd_add(&v, 0, &big, 1, 0);
    (void)vd_add(&v, 0, &out, 1, 0);
    vd_kick(&v, 0);
    assert_true(vd_pop(&v, 0, &id, &len));
    assert_int_equal(len, 4096);
    assert_true(vd_pop(&v, 0, &id, &len));
    assert_int_equal(len, 0);
    vd_board_fini(&b);
    test_platform_check(&b.tp);
    /* a platform without entropy has no such device */
    vd_board_init(&b, false);
    b.tp.pf.entropy = NULL;
    struct vmc_error err;
    assert_int_equal(vmc_virtio_rng_create(&b.bd, &cfg, &dev, &err), VMC_ENOTSUP);
    vd_board_fini(&b);
}

/* Entropy that somebody pauses, or resets, the device for in the middle of a request. */
static struct vmc_virtio *stopping;
static bool pausing;

static int fill_and_stop(void *ctx, void *dst, size_t bytes)
{
    (void)ctx;
    memset(dst, 0x5a, bytes);
    if (stopping != NULL && pausing)
        (void)vmci_virtio_dev_quiesce(stopping); /* busy with us */
    else if (stopping != NULL)
        vmci_virtio_dev_reset(stopping);
    stopping = NULL;
    return VMC_OK;
}

/* A board without timers is one whose devices finish all they are asked for at once. */
static void devices_without_timers_stop_in_the_middle(void **state)
{
    (void)state;
    static const struct vmc_entropy_ops ops = {.fill = fill_and_stop};
    const struct vd_buf buf = {VD_HEAP, 100, true};
    struct vmc_virtio *dev;
    struct vd_board b;
    struct vd v;
    unsigned id;
    uint32_t len;

    for (unsigned i = 0; i < 2; i++) {
        vd_board_init(&b, false);
        struct vmc_timerq *timers = b.bd.timers;
        b.bd.timers = NULL;
        b.tp.pf.entropy = &ops;
        const struct vmc_virtio_rng_config cfg = {
            .virtio = {.size = sizeof(cfg.virtio), .pci = b.pci, .slot = VMC_PCI_ANY_SLOT}};
        assert_int_equal(vmc_virtio_rng_create(&b.bd, &cfg, &dev, NULL), VMC_OK);
        assert_true(vd_probe(&v, &b, dev, true));
        assert_true(vd_start(&v, 0, 1));
        for (unsigned k = 0; k < 40; k++) /* more than are taken at once */
            (void)vd_add(&v, 0, &buf, 1, 0);
        stopping = dev;
        pausing = i == 0;
        vd_kick(&v, 0);
        if (pausing) {
            vmci_virtio_dev_resume(dev);
            for (unsigned k = 0; k < 40; k++)
                assert_true(vd_pop(&v, 0, &id, &len));
        } else {
            assert_int_equal(vmci_virtio_status(dev), 0);
        }
        b.bd.timers = timers;
        vd_board_fini(&b);
        test_platform_check(&b.tp);
    }
}

/* Entropy that takes its time. */
static unsigned requests;

static int fill_slowly(void *ctx, void *dst, size_t bytes)
{
    struct test_platform *tp = ctx;

    memset(dst, 0x5a, bytes);
    tp->now_ns += 100000;
    requests++;
    return VMC_OK;
}

/* The thread that is kicked may be one that other guests need. */
static void slow_requests_do_not_keep_a_thread(void **state)
{
    (void)state;
    static const struct vmc_entropy_ops ops = {.fill = fill_slowly};
    const struct vd_buf buf = {VD_HEAP, 64, true};
    struct vmc_virtio *dev;
    struct vd_board b;
    struct vd v;
    unsigned id;
    uint32_t len;

    vd_board_init(&b, false);
    b.tp.pf.entropy = &ops;
    const struct vmc_virtio_rng_config cfg = {
        .virtio = {.size = sizeof(cfg.virtio), .pci = b.pci, .slot = VMC_PCI_ANY_SLOT}};
    assert_int_equal(vmc_virtio_rng_create(&b.bd, &cfg, &dev, NULL), VMC_OK);
    assert_true(vd_probe(&v, &b, dev, true));
    assert_true(vd_start(&v, 0, 1));
    requests = 0;
    for (unsigned k = 0; k < 200; k++)
        (void)vd_add(&v, 0, &buf, 1, 0);
    vd_kick(&v, 0);
    assert_in_range(requests, 1, 64 + 1); /* the first batch, and one that ended the slice */
    for (unsigned i = 0; i < 10; i++) { /* timers go on */
        unsigned before = requests;
        vmc_timerq_advance(b.bd.timers, b.tp.now_ns);
        assert_true(requests - before <= 64 + 1);
    }
    assert_int_equal(requests, 200);
    for (unsigned k = 0; k < 200; k++)
        assert_true(vd_pop(&v, 0, &id, &len));
    vd_board_fini(&b);
    test_platform_check(&b.tp);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(output_arrives_in_order_through_a_slow_end),
        cmocka_unit_test(buffers_without_room_come_back),
        cmocka_unit_test(input_waits_for_buffers),
        cmocka_unit_test(size_and_emergency_write_are_in_the_configuration),
        cmocka_unit_test(ports_are_announced_named_and_opened),
        cmocka_unit_test(entropy_fills_what_was_asked_for),
        cmocka_unit_test(devices_without_timers_stop_in_the_middle),
        cmocka_unit_test(slow_requests_do_not_keep_a_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
