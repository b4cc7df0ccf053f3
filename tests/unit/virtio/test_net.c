/* SPDX-License-Identifier: BSD-2-Clause */
/* Network device: frames both ways, merged buffers, receive filter, queue pairs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "virtio_driver.h"
#include <vmcore/virtio_net.h>

#define F_MTU      (1ull << 3)
#define F_MAC      (1ull << 5)
#define F_MRG      (1ull << 15)
#define F_STATUS   (1ull << 16)
#define F_CTRL     (1ull << 17)
#define F_CTRL_RX  (1ull << 18)
#define F_RX_EXTRA (1ull << 20)
#define F_MQ       (1ull << 22)
#define F_CTRL_MAC (1ull << 23)
#define CTRL_ALL   (F_CTRL | F_CTRL_RX | F_RX_EXTRA | F_CTRL_MAC)

static const unsigned char our_mac[6] = {0x52, 0x54, 0, 1, 2, 3};

struct net_rig {
    struct vd_board b;
    struct vmc_virtio *dev;
    struct vd v;
    unsigned char sent[70000];
    size_t sent_bytes;
    unsigned sends, ready;
};

static int on_send(void *ctx, const struct vmc_iovec *iov, uint32_t n)
{
    struct net_rig *r = ctx;
    r->sent_bytes = 0;
    r->sends++;
    for (uint32_t i = 0; i < n; i++) {
        memcpy(r->sent + r->sent_bytes, iov[i].base, iov[i].bytes);
        r->sent_bytes += iov[i].bytes;
    }
    return VMC_OK;
}

static void on_ready(void *ctx)
{
    ((struct net_rig *)ctx)->ready++;
}

static void open_rig(struct net_rig *r, uint64_t features, uint16_t pairs, unsigned queues)
{
    static const struct vmc_netdev_ops ops = {.send = on_send};
    struct vmc_virtio_net_config cfg = {
        .net = {.ops = &ops, .ctx = r},
        .mtu = 1500,
        .pairs = pairs,
        .rx_ready = on_ready,
        .ctx = r,
    };
    memset(r, 0, sizeof(*r));
    vd_board_init(&r->b, false);
    cfg.virtio = (struct vmc_virtio_config){.size = sizeof(cfg.virtio), .pci = r->b.pci,
                                            .slot = VMC_PCI_ANY_SLOT, .queue_size = 16};
    memcpy(cfg.mac, our_mac, 6);
    assert_int_equal(vmc_virtio_net_create(&r->b.bd, &cfg, &r->dev, NULL), VMC_OK);
    assert_true(vd_probe(&r->v, &r->b, r->dev, true));
    assert_true(vd_start(&r->v, features, queues));
    assert_int_equal(r->v.features & features, features);
}

static void close_rig(struct net_rig *r)
{
    vd_board_fini(&r->b);
    test_platform_check(&r->b.tp);
}

#define BUF(i) (VD_HEAP + (i) * 0x2000ull)

static void add_rx(struct net_rig *r, unsigned queue, unsigned i, uint32_t bytes)
{
    const struct vd_buf b = {BUF(i), bytes, true};
    memset(vd_ptr(&r->b, BUF(i)), 0xcc, bytes);
    (void)vd_add(&r->v, queue, &b, 1, 0);
    vd_kick(&r->v, queue);
}

static int push(struct net_rig *r, const unsigned char *dst, unsigned char fill, size_t bytes)
{
    static unsigned char f[70000];
    memset(f, fill, bytes);
    memcpy(f, dst, 6);
    struct vmc_iovec iov[3] = {{f, 10}, {f + 10, 0}, {f + 10, bytes - 10}};
    return vmc_virtio_net_receive(r->dev, iov, 3);
}

static void transmitted_frames_reach_the_network(void **state)
{
    (void)state;
    struct net_rig r;
    unsigned id;
    uint32_t len;
    open_rig(&r, F_MAC | F_MTU | F_STATUS, 0, 2);
    assert_int_equal(vd_read(&r.v, r.v.config + 10, 2), 1500);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(vd_read(&r.v, r.v.config + i, 1), our_mac[i]);
    unsigned char *p = vd_ptr(&r.b, BUF(0));
    memset(p, 0, 12);
    memset(p + 12, 0x77, 100);
    const struct vd_buf two[2] = {{BUF(0), 12, false}, {BUF(0) + 12, 100, false}};
    const struct vd_buf one[1] = {{BUF(0), 112, false}};
    (void)vd_add(&r.v, 1, two, 2, 0);
    (void)vd_add(&r.v, 1, one, 1, 0);
    vd_kick(&r.v, 1);
    assert_int_equal(r.sends, 2);
    assert_int_equal(r.sent_bytes, 100);
    assert_int_equal(r.sent[0], 0x77);
    assert_true(vd_pop(&r.v, 1, &id, &len));
    assert_int_equal(len, 0);
    assert_true(vd_pop(&r.v, 1, &id, &len));
    /* requests for what was not negotiated, and frames of no sensible length */
    struct vd_buf bad = {BUF(0), 112, false};
    p[0] = 1; /* checksum to be filled in */
    (void)vd_add(&r.v, 1, &bad, 1, 0);
    vd_kick(&r.v, 1);
    p[0] = 0;
    p[1] = 1; /* segmentation */
    (void)vd_add(&r.v, 1, &bad, 1, 0);
    vd_kick(&r.v, 1);
    p[1] = 0;
    const uint32_t lengths[] = {1, 11, 12, 25, 0x20000};
    for (unsigned i = 0; i < 5; i++) {
        bad.len = lengths[i];
        (void)vd_add(&r.v, 1, &bad, 1, 0);
        vd_kick(&r.v, 1);
    }
    assert_int_equal(r.sends, 2);
    struct vmc_virtio_stats st;
    vmc_virtio_get_stats(r.dev, &st);
    assert_int_equal(st.malformed, 7);
    assert_int_equal(vd_status(&r.v), 0xf);
    close_rig(&r);
}

static void received_frames_fill_one_buffer(void **state)
{
    (void)state;
    const uint64_t formats[] = {0, VD_F_PACKED, F_MRG, F_MRG | VD_F_PACKED | VD_F_EVENT_IDX};
    for (unsigned f = 0; f < 4; f++) {
        struct net_rig r;
        unsigned id;
        uint32_t len;
        open_rig(&r, formats[f], 0, 2);
        assert_int_equal(push(&r, our_mac, 0x11, 100), VMC_EAGAIN);
        assert_int_equal(r.ready, 0);
        add_rx(&r, 0, 0, 1600);
        assert_int_equal(r.ready, 1);
        for (unsigned i = 0; i < 40; i++) {
            if (i != 0)
                add_rx(&r, 0, 0, 1600);
            assert_int_equal(push(&r, our_mac, (unsigned char)i, 100 + i), VMC_OK);
            assert_true(vd_pop(&r.v, 0, &id, &len));
            assert_int_equal(len, 112 + i);
            unsigned char *p = vd_ptr(&r.b, BUF(0));
            assert_int_equal(p[0], 0);
            assert_int_equal(p[10], 1); /* one buffer */
            assert_memory_equal(p + 12, our_mac, 6);
            assert_int_equal(p[111 + i], (unsigned char)i);
            assert_int_equal(p[112 + i], 0xcc);
        }
        assert_int_equal(r.ready, 1);
        assert_true(r.b.msi[1] >= 1);
        close_rig(&r);
    }
}

static void large_frames_are_spread_over_merged_buffers(void **state)
{
    (void)state;
    for (unsigned packed = 0; packed < 2; packed++) {
        struct net_rig r;
        unsigned id;
        uint32_t len;
        open_rig(&r, F_MRG | VD_F_EVENT_IDX | (packed ? VD_F_PACKED : 0), 0, 2);
        for (unsigned round = 0; round < 20; round++) {
            /* 3000 bytes need four buffers of 1000: with three it waits, nothing is used */
            for (unsigned i = 0; i < 3; i++)
                add_rx(&r, 0, i, 1000);
            assert_int_equal(push(&r, our_mac, 0x42, 3000), VMC_EAGAIN);
            assert_false(vd_pop(&r.v, 0, &id, &len));
            unsigned ready = r.ready;
            const struct vd_buf b = {BUF(3), 1000, true};
            (void)vd_add(&r.v, 0, &b, 1, 0);
            assert_true(vd_wants_kick(&r.v, 0)); /* the device waits for it */
            vd_kick(&r.v, 0);
            assert_int_equal(r.ready, ready + 1);
            assert_int_equal(push(&r, our_mac, 0x42, 3000), VMC_OK);
            uint32_t total = 0;
            for (unsigned i = 0; i < 4; i++) {
                assert_true(vd_pop(&r.v, 0, &id, &len));
                total += len;
            }
            assert_int_equal(total, 3012);
            unsigned char *p = vd_ptr(&r.b, BUF(0));
            assert_int_equal(p[10] | p[11] << 8, 4);
            assert_int_equal(p[999], 0x42);
            assert_int_equal(*(unsigned char *)vd_ptr(&r.b, BUF(3) + 11), 0x42);
        }
        close_rig(&r);
    }
}

static void frames_that_cannot_fit_are_dropped(void **state)
{
    (void)state;
    struct net_rig r;
    unsigned id;
    uint32_t len;
    open_rig(&r, 0, 0, 2); /* no merging: the buffer is too small */
    add_rx(&r, 0, 0, 200);
    assert_int_equal(push(&r, our_mac, 1, 1000), VMC_OK);
    assert_true(vd_pop(&r.v, 0, &id, &len));
    assert_int_equal(len, 0);
    close_rig(&r);
    open_rig(&r, F_MRG, 0, 2); /* merging: a full ring is too small */
    for (unsigned i = 0; i < 16; i++)
        add_rx(&r, 0, i, 20);
    assert_int_equal(push(&r, our_mac, 1, 1000), VMC_OK);
    assert_false(vd_pop(&r.v, 0, &id, &len));
    assert_int_equal(push(&r, our_mac, 1, 60), VMC_OK);
    assert_true(vd_pop(&r.v, 0, &id, &len));
    assert_int_equal(vd_status(&r.v), 0xf);
    /* lengths no Ethernet has */
    struct vmc_iovec iov = {r.sent, 13};
    assert_int_equal(vmc_virtio_net_receive(r.dev, &iov, 1), VMC_EINVAL);
    iov.bytes = VMC_VIRTIO_NET_FRAME_MAX + 1;
    assert_int_equal(vmc_virtio_net_receive(r.dev, &iov, 1), VMC_EINVAL);
    vd_reset(&r.v);
    assert_int_equal(push(&r, our_mac, 1, 60), VMC_ESTATE);
    close_rig(&r);
}

/* A control command with n bytes of data; returns the acknowledgement. */
static unsigned char control(struct net_rig *r, unsigned q, unsigned cls, unsigned cmd,
                             const void *data, uint32_t n)
{
    unsigned id;
    uint32_t len;
    unsigned char *p = vd_ptr(&r->b, BUF(40));
    p[0] = (unsigned char)cls;
    p[1] = (unsigned char)cmd;
    memcpy(p + 2, data, n);
    p[0x1000] = 0xee;
    const struct vd_buf buf[3] = {
        {BUF(40), 2, false}, {BUF(40) + 2, n, false}, {BUF(40) + 0x1000, 1, true}};
    (void)vd_add(&r->v, q, buf, 3, 0);
    vd_kick(&r->v, q);
    assert_true(vd_pop(&r->v, q, &id, &len));
    return p[0x1000];
}

static bool accepted(struct net_rig *r, const unsigned char *dst)
{
    unsigned id;
    uint32_t len;
    if (push(r, dst, 1, 60) != VMC_OK || !vd_pop(&r->v, 0, &id, &len))
        return false;
    add_rx(r, 0, 0, 200);
    return true;
}

static void receive_filter_is_the_drivers(void **state)
{
    (void)state;
    static const unsigned char broadcast[6] = {255, 255, 255, 255, 255, 255};
    static const unsigned char multi[6] = {1, 0, 0x5e, 0, 0, 1};
    static const unsigned char other[6] = {2, 9, 9, 9, 9, 9};
    struct net_rig r;
    open_rig(&r, CTRL_ALL | F_MAC, 0, 3);
    for (unsigned i = 0; i < 4; i++)
        add_rx(&r, 0, i, 200);
    assert_true(accepted(&r, other)); /* promiscuous at first */
    assert_int_equal(control(&r, 2, 0, 0, "\0", 1), 0);
    assert_false(accepted(&r, other));
    assert_false(accepted(&r, multi));
    assert_true(accepted(&r, our_mac));
    assert_true(accepted(&r, broadcast));
    assert_int_equal(control(&r, 2, 0, 1, "\1", 1), 0); /* all multicast */
    assert_true(accepted(&r, multi));
    assert_int_equal(control(&r, 2, 0, 1, "\0", 1), 0);
    assert_int_equal(control(&r, 2, 0, 5, "\1", 1), 0); /* no broadcast */
    assert_false(accepted(&r, broadcast));
    /* tables: one unicast, one multicast */
    unsigned char t[20] = {1, 0, 0, 0};
    memcpy(t + 4, other, 6);
    t[10] = 1;
    memcpy(t + 14, multi, 6);
    assert_int_equal(control(&r, 2, 1, 0, t, 20), 0);
    assert_true(accepted(&r, other));
    assert_true(accepted(&r, multi));
    /* tables that lie about their length are refused */
    t[0] = 200;
    assert_int_equal(control(&r, 2, 1, 0, t, 20), 1);
    memset(t, 0xff, 4);
    assert_int_equal(control(&r, 2, 1, 0, t, 20), 1);
    assert_int_equal(control(&r, 2, 1, 0, t, 3), 1);
    /* more entries than we keep: everything is let in */
    static unsigned char big[8 + 100 * 6] = {100};
    assert_int_equal(control(&r, 2, 1, 0, big, sizeof(big)), 0);
    assert_true(accepted(&r, other));
    /* our address */
    assert_int_equal(control(&r, 2, 1, 0, "\0\0\0\0\0\0\0\0", 8), 0);
    assert_int_equal(control(&r, 2, 1, 1, other, 6), 0);
    assert_true(accepted(&r, other));
    assert_false(accepted(&r, our_mac));
    assert_int_equal(vd_read(&r.v, r.v.config, 1), other[0]);
    /* nonsense */
    assert_int_equal(control(&r, 2, 9, 0, "\0", 1), 1);
    assert_int_equal(control(&r, 2, 0, 6, "\0", 1), 1);
    assert_int_equal(control(&r, 2, 4, 0, "\2\0", 2), 1);
    vd_reset(&r.v); /* a reset forgets all of it */
    assert_int_equal(vd_read(&r.v, r.v.config, 1), our_mac[0]);
    close_rig(&r);
}

static void queue_pairs_share_the_flows(void **state)
{
    (void)state;
    struct net_rig r;
    unsigned id;
    uint32_t len;
    open_rig(&r, CTRL_ALL | F_MQ, 4, 9);
    assert_int_equal(vd_read(&r.v, r.v.config + 8, 2), 4);
    for (unsigned p = 0; p < 4; p++)
        for (unsigned i = 0; i < 12; i++)
            add_rx(&r, 2 * p, p * 12 + i, 200);
    unsigned hit[4] = {0};
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned flow = 0; flow < 8; flow++) {
            unsigned char f[60] = {0};
            memcpy(f, our_mac, 6);
            f[26] = 10;
            f[34] = (unsigned char)flow;
            struct vmc_iovec iov = {f, sizeof(f)};
            assert_int_equal(vmc_virtio_net_receive(r.dev, &iov, 1), VMC_OK);
            for (unsigned p = 0; p < 4; p++)
                if (vd_pop(&r.v, 2 * p, &id, &len))
                    hit[p]++;
        }
        if (round == 0) { /* one pair until the driver asks for more */
            assert_int_equal(hit[0], 8);
            assert_int_equal(control(&r, 8, 4, 0, "\4\0", 2), 0);
            assert_int_equal(control(&r, 8, 4, 0, "\5\0", 2), 1);
            assert_int_equal(control(&r, 8, 4, 0, "\0\0", 2), 1);
        }
    }
    assert_true(hit[1] + hit[2] + hit[3] > 0);
    assert_int_equal(hit[0] + hit[1] + hit[2] + hit[3], 16);
    close_rig(&r);
}

/* Frames wait for buffers that their driver, or their pair, will never have: they are asked for again. */
static void waiting_frames_outlive_driver_and_pair(void **state)
{
    (void)state;
    struct net_rig r;
    unsigned id;
    uint32_t len;
    open_rig(&r, F_MRG, 0, 2);
    assert_int_equal(push(&r, our_mac, 1, 100), VMC_EAGAIN);
    vd_reset(&r.v);
    assert_int_equal(r.ready, 0);
    assert_int_equal(push(&r, our_mac, 1, 100), VMC_ESTATE);
    assert_true(vd_start(&r.v, F_MRG, 2));
    assert_int_equal(r.ready, 1);
    add_rx(&r, 0, 0, 200);
    assert_int_equal(push(&r, our_mac, 1, 100), VMC_OK);
    assert_true(vd_pop(&r.v, 0, &id, &len));
    close_rig(&r);

    open_rig(&r, CTRL_ALL | F_MQ, 4, 9);
    assert_int_equal(control(&r, 8, 4, 0, "\4\0", 2), 0);
    int rc = VMC_OK;
    for (unsigned flow = 0; flow < 16 && rc == VMC_OK; flow++) {
        unsigned char f[60] = {0};
        memcpy(f, our_mac, 6);
        f[34] = (unsigned char)flow;
        struct vmc_iovec iov = {f, sizeof(f)};
        add_rx(&r, 0, flow % 12, 200);
        rc = vmc_virtio_net_receive(r.dev, &iov, 1);
        (void)vd_pop(&r.v, 0, &id, &len);
    }
    assert_int_equal(rc, VMC_EAGAIN); /* of a pair without buffers */
    unsigned before = r.ready;
    assert_int_equal(control(&r, 8, 4, 0, "\1\0", 2), 0);
    assert_int_equal(r.ready, before + 1);
    close_rig(&r);
}

static void filter_and_pairs_survive_a_save(void **state)
{
    (void)state;
    static unsigned char buf[8192];
    static const unsigned char other[6] = {2, 9, 9, 9, 9, 9};
    struct net_rig a;
    struct net_rig b;
    open_rig(&a, CTRL_ALL | F_MQ, 4, 9);
    assert_int_equal(control(&a, 8, 0, 0, "\0", 1), 0);
    assert_int_equal(control(&a, 8, 4, 0, "\2\0", 2), 0);
    add_rx(&a, 0, 0, 200);
    vmc_virtio_net_set_link(a.dev, false);
    assert_int_equal(vmc_board_quiesce(&a.b.bd), VMC_OK);
    struct vmc_device *d = a.b.bd.devices->next;
    size_t n = d->ops->save(d->dev, buf, sizeof(buf));
    assert_true(n <= sizeof(buf));
    open_rig(&b, CTRL_ALL | F_MQ, 4, 9);
    memcpy(b.b.ram, a.b.ram, VD_RAM_BYTES);
    assert_int_equal(vmc_board_quiesce(&b.b.bd), VMC_OK);
    d = b.b.bd.devices->next;
    assert_int_equal(d->ops->load(d->dev, buf, n, NULL), VMC_OK);
    vmc_board_resume(&b.b.bd);
    struct vmc_virtio *dev = b.v.dev;
    b.v = a.v;
    b.v.b = &b.b;
    b.v.dev = dev;
    assert_false(accepted(&b, our_mac)); /* no link */
    vmc_virtio_net_set_link(b.dev, true);
    assert_false(accepted(&b, other));
    assert_true(accepted(&b, our_mac));
    close_rig(&a);
    close_rig(&b);
}

static void link_state_is_announced(void **state)
{
    (void)state;
    struct net_rig r;
    open_rig(&r, F_STATUS, 0, 2);
    add_rx(&r, 0, 0, 200);
    assert_int_equal(vd_read(&r.v, r.v.config + 6, 2), 1);
    vmc_virtio_net_set_link(r.dev, false);
    assert_int_equal(vd_read(&r.v, r.v.config + 6, 2), 0);
    assert_int_equal(r.b.msi[0], 1);
    unsigned id;
    uint32_t len;
    assert_int_equal(push(&r, our_mac, 1, 60), VMC_OK); /* dropped */
    assert_false(vd_pop(&r.v, 0, &id, &len));
    vmc_virtio_net_set_link(r.dev, false);
    assert_int_equal(r.b.msi[0], 1);
    vmc_virtio_net_set_link(r.dev, true);
    assert_int_equal(push(&r, our_mac, 1, 60), VMC_OK);
    assert_true(vd_pop(&r.v, 0, &id, &len));
    close_rig(&r);
}

static void control_features_need_the_control_queue(void **state)
{
    (void)state;
    struct net_rig r;
    open_rig(&r, F_MAC, 0, 2);
    assert_false(vd_negotiate(&r.v, VD_F_VERSION_1 | F_CTRL_RX));
    assert_true(vd_negotiate(&r.v, VD_F_VERSION_1 | F_CTRL | F_CTRL_RX));
    close_rig(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transmitted_frames_reach_the_network),
        cmocka_unit_test(received_frames_fill_one_buffer),
        cmocka_unit_test(large_frames_are_spread_over_merged_buffers),
        cmocka_unit_test(frames_that_cannot_fit_are_dropped),
        cmocka_unit_test(receive_filter_is_the_drivers),
        cmocka_unit_test(queue_pairs_share_the_flows),
        cmocka_unit_test(waiting_frames_outlive_driver_and_pair),
        cmocka_unit_test(filter_and_pairs_survive_a_save),
        cmocka_unit_test(link_state_is_announced),
        cmocka_unit_test(control_features_need_the_control_queue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
