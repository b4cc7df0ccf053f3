/* SPDX-License-Identifier: BSD-2-Clause */
/* Registers, negotiation, interrupts and saved state of the PCI transport. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "blk_rig.h"

static uint32_t cfg(struct rig *r, uint16_t at, unsigned bytes)
{
    return vmc_pci_config_read(r->b.pci, r->v.devfn, at, bytes);
}

static void identifies_as_a_modern_block_device(void **state)
{
    (void)state;
    struct rig r;
    rig_create(&r, NULL, false);
    assert_int_equal(cfg(&r, 0, 2), 0x1af4);
    assert_int_equal(cfg(&r, 2, 2), 0x1042);
    assert_true(cfg(&r, 8, 1) >= 1);
    assert_true(cfg(&r, 0x2e, 2) >= 0x40);
    assert_true((vd_offered(&r.v) & VD_F_VERSION_1) != 0);
    assert_int_equal(vd_read(&r.v, r.v.common + 18, 2), 1);
    rig_close(&r);
}

static void refuses_features_it_cannot_have(void **state)
{
    (void)state;
    struct rig r;
    rig_create(&r, NULL, false);
    /* without VERSION_1 */
    assert_false(vd_negotiate(&r.v, 0));
    vd_driver_ok(&r.v);
    assert_int_equal(vd_status(&r.v) & 4, 0);
    /* a bit that was not offered */
    vd_reset(&r.v);
    vd_write(&r.v, r.v.common + 20, 1, 3);
    vd_write(&r.v, r.v.common + 8, 4, 1);
    vd_write(&r.v, r.v.common + 12, 4, 1u | 1u << 31);
    vd_write(&r.v, r.v.common + 20, 1, 0xb);
    assert_int_equal(vd_status(&r.v), 3);
    /* features cannot change after FEATURES_OK, bits cannot be cleared but by reset */
    assert_true(vd_negotiate(&r.v, VD_F_VERSION_1));
    vd_write(&r.v, r.v.common + 8, 4, 0);
    vd_write(&r.v, r.v.common + 12, 4, 0x200);
    assert_int_equal(vd_read(&r.v, r.v.common + 12, 4), 0);
    vd_write(&r.v, r.v.common + 20, 1, 1);
    assert_int_equal(vd_status(&r.v), 0xb);
    /* feature words beyond the second read zero */
    vd_write(&r.v, r.v.common, 4, 2);
    assert_int_equal(vd_read(&r.v, r.v.common + 4, 4), 0);
    rig_close(&r);
}

static void queue_registers_are_checked(void **state)
{
    (void)state;
    struct rig r;
    rig_create(&r, NULL, false);
    assert_true(vd_negotiate(&r.v, VD_F_VERSION_1));
    uint64_t c = r.v.common;
    vd_write(&r.v, c + 22, 2, 0);
    assert_int_equal(vd_read(&r.v, c + 24, 2), 16);
    const uint16_t bad[] = {0, 3, 17, 32, 0xffff};
    for (unsigned i = 0; i < 5; i++) {
        vd_write(&r.v, c + 24, 2, bad[i]);
        assert_int_equal(vd_read(&r.v, c + 24, 2), 16);
    }
    vd_write(&r.v, c + 24, 2, 8);
    assert_int_equal(vd_read(&r.v, c + 24, 2), 8);
    vd_write(&r.v, c + 26, 2, 1);
    assert_int_equal(vd_read(&r.v, c + 26, 2), 1);
    vd_write(&r.v, c + 26, 2, 2); /* vectors 0 and 1 exist */
    assert_int_equal(vd_read(&r.v, c + 26, 2), 0xffff);
    vd_write(&r.v, c + 16, 2, 7);
    assert_int_equal(vd_read(&r.v, c + 16, 2), 0xffff);
    /* a queue that does not exist */
    vd_write(&r.v, c + 22, 2, 1);
    assert_int_equal(vd_read(&r.v, c + 24, 2), 0);
    vd_write(&r.v, c + 28, 2, 1);
    assert_int_equal(vd_read(&r.v, c + 28, 2), 0);
    /* fixed once enabled */
    vd_queue_setup(&r.v, 0, 8);
    vd_write(&r.v, c + 32, 4, 0x1234000);
    assert_int_equal(vd_read(&r.v, c + 32, 4), VD_RINGS);
    vd_write(&r.v, c + 24, 2, 16);
    assert_int_equal(vd_read(&r.v, c + 24, 2), 8);
    vd_write(&r.v, c + 28, 2, 0);
    assert_int_equal(vd_read(&r.v, c + 28, 2), 1);
    rig_close(&r);
}

static void any_access_anywhere_is_survived(void **state)
{
    (void)state;
    struct rig r;
    rig_create(&r, NULL, false);
    uint64_t bar = r.v.common & ~0xfffull;
    srand(1);
    for (unsigned i = 0; i < 200000; i++) {
        uint64_t at = bar + (uint64_t)rand() % 0x8000;
        unsigned bytes = 1u << (rand() % 4);
        if ((rand() & 1) != 0)
            vd_write(&r.v, at, bytes, (uint64_t)rand() << 33 ^ (uint64_t)rand());
        else
            (void)vd_read(&r.v, at, bytes);
    }
    assert_int_equal(r.b.tp.bugs, 0);
    assert_true(vd_start(&r.v, RIG_F_FLUSH, 1));
    assert_int_equal(rig_do(&r, 1, 0, 512), 0);
    rig_close(&r);
}

static void access_capability_reaches_the_registers(void **state)
{
    (void)state;
    struct rig r;
    rig_create(&r, NULL, false);
    uint16_t cap = r.v.cfg_cap;
    struct vmc_pci_bus *pci = r.b.pci;
    vmc_pci_config_write(pci, r.v.devfn, (uint16_t)(cap + 4), 1, 0);
    vmc_pci_config_write(pci, r.v.devfn, (uint16_t)(cap + 8), 4, 18); /* num_queues */
    vmc_pci_config_write(pci, r.v.devfn, (uint16_t)(cap + 12), 4, 2);
    assert_int_equal(cfg(&r, (uint16_t)(cap + 16), 4), 1);
    /* the status register, by write */
    vmc_pci_config_write(pci, r.v.devfn, (uint16_t)(cap + 8), 4, 20);
    vmc_pci_config_write(pci, r.v.devfn, (uint16_t)(cap + 12), 4, 1);
    vmc_pci_config_write(pci, r.v.devfn, (uint16_t)(cap + 16), 4, 3);
    assert_int_equal(vd_status(&r.v), 3);
    /* nonsense does nothing */
    const uint32_t offsets[] = {0x4000, 0xfffffffc, 0x3fff, 1};
    for (unsigned i = 0; i < 4; i++) {
        vmc_pci_config_write(pci, r.v.devfn, (uint16_t)(cap + 8), 4, offsets[i]);
        vmc_pci_config_write(pci, r.v.devfn, (uint16_t)(cap + 12), 4, i == 3 ? 3 : 4);
        vmc_pci_config_write(pci, r.v.devfn, (uint16_t)(cap + 16), 4, 0);
        (void)cfg(&r, (uint16_t)(cap + 16), 4);
    }
    assert_int_equal(vd_status(&r.v), 3);
    rig_close(&r);
}

static bool any_pin(const struct rig *r)
{
    return r->b.pin[0] || r->b.pin[1] || r->b.pin[2] || r->b.pin[3];
}

static void interrupt_pin_works_without_msix(void **state)
{
    (void)state;
    struct vmc_virtio_blk_config c = {.virtio = {.flags = VMC_VIRTIO_NO_MSIX}};
    struct rig r;
    rig_create(&r, &c, false);
    assert_true(vd_start(&r.v, RIG_F_FLUSH, 1));
    assert_int_equal(vd_read(&r.v, r.v.isr, 1), 0);
    assert_int_equal(rig_do(&r, 1, 0, 512), 0);
    assert_true(any_pin(&r));
    assert_int_equal(vd_read(&r.v, r.v.isr, 1), 1);
    assert_false(any_pin(&r));
    assert_int_equal(vd_read(&r.v, r.v.isr, 1), 0);
    assert_int_equal(vmc_virtio_blk_resized(r.dev), VMC_OK);
    assert_true(any_pin(&r));
    assert_int_equal(vd_read(&r.v, r.v.isr, 1), 2);
    assert_int_equal(rig_do(&r, 1, 0, 512), 0);
    assert_true(any_pin(&r));
    vd_reset(&r.v);
    assert_false(any_pin(&r));
    rig_close(&r);
}

static void quiesce_drains_and_resume_goes_on(void **state)
{
    (void)state;
    struct rig r;
    unsigned id;
    uint32_t len;
    rig_create(&r, NULL, false);
    assert_true(vd_start(&r.v, RIG_F_FLUSH, 1));
    r.disk.hold = true;
    (void)rig_add(&r, 0, 1, 0, 512);
    vd_kick(&r.v, 0);
    assert_int_equal(vmc_board_quiesce(&r.b.bd), VMC_EAGAIN);
    (void)rig_add(&r, 1, 1, 1, 512);
    vd_kick(&r.v, 0);
    assert_int_equal(r.disk.held_count, 1); /* the second one is not started */
    assert_true(mem_disk_finish(&r.disk));
    assert_int_equal(vmc_board_quiesce(&r.b.bd), VMC_OK);
    assert_true(vd_pop(&r.v, 0, &id, &len));
    assert_false(vd_pop(&r.v, 0, &id, &len));
    r.disk.hold = false;
    vmc_board_resume(&r.b.bd);
    assert_true(vd_pop(&r.v, 0, &id, &len));
    rig_close(&r);
}

/* The driver after a reset of the machine waits for the end of what is in flight, and does not see it. */
static void a_request_in_flight_delays_a_machine_reset(void **state)
{
    (void)state;
    struct rig r;
    unsigned id;
    uint32_t len;
    rig_create(&r, NULL, false);
    assert_true(vd_start(&r.v, RIG_F_FLUSH, 1));
    r.disk.hold = true;
    (void)rig_add(&r, 0, 1, 0, 512);
    vd_kick(&r.v, 0);
    assert_true(vmc_virtio_live(r.dev));
    vmc_board_reset(&r.b.bd);
    r.disk.hold = false;
    assert_true(vd_probe(&r.v, &r.b, r.dev, false));
    assert_int_not_equal(vd_status(&r.v), 0);
    assert_false(vmc_virtio_live(r.dev)); /* nobody wants what is in flight */
    assert_true(mem_disk_finish(&r.disk));
    assert_int_equal(vd_status(&r.v), 0);
    assert_true(vd_start(&r.v, RIG_F_FLUSH, 1));
    assert_false(vd_pop(&r.v, 0, &id, &len));
    (void)rig_add(&r, 1, 1, 1, 512);
    vd_kick(&r.v, 0);
    assert_true(vd_pop(&r.v, 0, &id, &len));
    assert_false(vd_pop(&r.v, 0, &id, &len));
    rig_close(&r);
}

static size_t save(struct rig *r, unsigned char *buf, size_t room)
{
    struct vmc_device *d = r->b.bd.devices;
    while (d->next != NULL)
        d = d->next;
    return d->ops->save(d->dev, buf, room);
}

static int load(struct rig *r, const unsigned char *buf, size_t n, struct vmc_error *err)
{
    struct vmc_device *d = r->b.bd.devices;
    while (d->next != NULL)
        d = d->next;
    return d->ops->load(d->dev, buf, n, err);
}

static void saved_state_continues_in_another_machine(void **state)
{
    (void)state;
    for (unsigned packed = 0; packed < 2; packed++) {
        static unsigned char buf[65536];
        static unsigned char again[65536];
        struct rig a;
        struct rig b;
        rig_create(&a, NULL, false);
        assert_true(vd_start(&a.v, RIG_F_FLUSH | VD_F_EVENT_IDX | (packed ? VD_F_PACKED : 0), 1));
        for (unsigned i = 0; i < 21; i++)
            assert_int_equal(rig_do(&a, 1, i, 512), 0);
        assert_int_equal(vmc_board_quiesce(&a.b.bd), VMC_OK);
        size_t n = save(&a, NULL, 0);
        assert_true(n < sizeof(buf));
        assert_int_equal(save(&a, buf, n), n);

        rig_create(&b, NULL, false);
        memcpy(b.b.ram, a.b.ram, VD_RAM_BYTES);
        assert_int_equal(vmc_board_quiesce(&b.b.bd), VMC_OK);
        struct vmc_error err = {0};
        assert_int_equal(load(&b, buf, n, &err), VMC_OK);
        assert_int_equal(save(&b, again, sizeof(again)), n);
        assert_memory_equal(buf, again, n);
        vmc_board_resume(&b.b.bd);
        /* the driver's own state moves over as well */
        struct vmc_virtio *dev = b.v.dev;
        b.v = a.v;
        b.v.b = &b.b;
        b.v.dev = dev;
        for (unsigned i = 0; i < 40; i++)
            assert_int_equal(rig_do(&b, 1, i, 512), 0);
        rig_close(&a);
        rig_close(&b);
    }
}

static void damaged_state_is_refused_and_changes_nothing(void **state)
{
    (void)state;
    static unsigned char buf[65536];
    static unsigned char before[65536];
    static unsigned char after[65536];
    struct rig r;
    rig_create(&r, NULL, false);
    assert_true(vd_start(&r.v, RIG_F_FLUSH, 1));
    assert_int_equal(rig_do(&r, 1, 0, 512), 0);
    assert_int_equal(vmc_board_quiesce(&r.b.bd), VMC_OK);
    size_t n = save(&r, before, sizeof(before));
    for (size_t cut = 0; cut < n; cut += 7) { /* every length */
        struct vmc_error err = {0};
        assert_true(load(&r, before, cut, &err) < 0);
        assert_true(err.text[0] != 0);
        assert_int_equal(save(&r, after, sizeof(after)), n);
        assert_memory_equal(before, after, n);
    }
    srand(2);
    for (unsigned i = 0; i < 3000; i++) { /* wrong values: refused, or loaded whole */
        memcpy(buf, before, n);
        for (unsigned k = 0; k < 3; k++)
            buf[(unsigned)rand() % n] = (unsigned char)rand();
        (void)!load(&r, buf, n, NULL);
        assert_int_equal(load(&r, before, n, NULL), VMC_OK);
    }
    assert_int_equal(r.b.tp.bugs, 0);
    vmc_board_resume(&r.b.bd);
    assert_int_equal(rig_do(&r, 1, 0, 512), 0);
    rig_close(&r);
}

static void creation_fails_cleanly_without_memory(void **state)
{
    (void)state;
    struct vd_board b;
    struct mem_disk disk;
    vd_board_init(&b, false);
    mem_disk_init(&disk, 1 << 20, 512);
    struct vmc_virtio_blk_config cfg = {
        .virtio = {.size = sizeof(cfg.virtio), .pci = b.pci, .slot = VMC_PCI_ANY_SLOT},
        .disk = mem_disk_blockdev(&disk),
        .queues = 2,
    };
    uint64_t live = b.tp.live;
    int rc = VMC_ENOMEM;
    for (unsigned n = 1; rc == VMC_ENOMEM; n++) {
        struct vmc_virtio *dev;
        struct vmc_error err = {0};
        b.tp.fail_after = b.tp.allocs + n;
        rc = vmc_virtio_blk_create(&b.bd, &cfg, &dev, &err);
        b.tp.fail_after = 0;
        if (rc == VMC_OK)
            break;
        assert_int_equal(rc, VMC_ENOMEM);
        assert_true(err.text[0] != 0);
        assert_int_equal(b.tp.live, live);
        assert_true(n < 100);
    }
    assert_int_equal(rc, VMC_OK);
    vd_board_fini(&b);
    mem_disk_fini(&disk);
    test_platform_check(&b.tp);
}

static void bad_configurations_are_refused(void **state)
{
    (void)state;
    struct vd_board b;
    struct mem_disk disk;
    struct vmc_virtio *dev;
    vd_board_init(&b, false);
    mem_disk_init(&disk, 1 << 20, 512);
    const struct vmc_virtio_blk_config good = {
        .virtio = {.size = sizeof(good.virtio), .pci = b.pci, .slot = VMC_PCI_ANY_SLOT},
        .disk = mem_disk_blockdev(&disk),
    };
    struct vmc_virtio_blk_config bad[6];
    for (unsigned i = 0; i < 6; i++)
        bad[i] = good;
    bad[0].virtio.size = 3;
    bad[1].virtio.pci = NULL;
    bad[2].virtio.queue_size = 100;
    bad[3].virtio.queue_size = 2048;
    bad[4].serial = "longer than twenty bytes";
    bad[5].queues = 17;
    for (unsigned i = 0; i < 6; i++) {
        struct vmc_error err = {0};
        assert_int_equal(vmc_virtio_blk_create(&b.bd, &bad[i], &dev, &err), VMC_EINVAL);
        assert_true(err.text[0] != 0);
    }
    vd_board_fini(&b);
    mem_disk_fini(&disk);
    test_platform_check(&b.tp);
}

static void doorbell_address_is_where_the_bar_is(void **state)
{
    (void)state;
    struct rig r;
    uint64_t gpa;
    rig_create(&r, NULL, false);
    assert_true(vmc_virtio_doorbell(r.dev, 0, &gpa));
    assert_int_equal(gpa, r.v.notify);
    assert_false(vmc_virtio_doorbell(r.dev, 1, &gpa));
    vmc_pci_config_write(r.b.pci, r.v.devfn, VMC_PCI_COMMAND, 2, 0);
    assert_false(vmc_virtio_doorbell(r.dev, 0, &gpa));
    rig_close(&r);
}

struct bell {
    struct vmc_virtio *dev;
    unsigned calls;
    uint64_t gpa; /* at the last call; 0: nowhere */
};

static void bell_moved(void *ctx)
{
    struct bell *b = ctx;

    b->calls++;
    b->gpa = 0;
    if (b->dev != NULL && vmc_virtio_live(b->dev))
        (void)vmc_virtio_doorbell(b->dev, 0, &b->gpa); /* else it stays 0 */
}

static void changes_of_doorbells_are_announced(void **state)
{
    (void)state;
    struct rig r;
    struct bell b = {0};
    const struct vmc_virtio_blk_config cfg = {
        .virtio = {.doorbells_changed = bell_moved, .doorbells_ctx = &b}};
    rig_create(&r, &cfg, false);
    b.dev = r.dev;
    assert_int_equal(b.gpa, 0); /* no driver yet */
    vd_reset(&r.v);
    assert_true(vd_start(&r.v, VD_F_VERSION_1, 1));
    assert_int_equal(b.gpa, r.v.notify);
    vmc_pci_config_write(r.b.pci, r.v.devfn, VMC_PCI_COMMAND, 2, 4);
    assert_int_equal(b.gpa, 0); /* not decoded */
    vmc_pci_config_write(r.b.pci, r.v.devfn, VMC_PCI_COMMAND, 2, 6);
    assert_int_equal(b.gpa, r.v.notify);
    vmc_pci_config_write(r.b.pci, r.v.devfn, VMC_PCI_BAR0, 4, (uint32_t)r.v.notify + 0x100000);
    assert_int_not_equal(b.gpa, r.v.notify);
    vmc_pci_config_write(r.b.pci, r.v.devfn, VMC_PCI_BAR0, 4, (uint32_t)(r.v.notify & ~0x7fffull));
    assert_int_equal(b.gpa, r.v.notify);
    unsigned calls = b.calls;
    vd_reset(&r.v);
    assert_true(b.calls > calls);
    assert_int_equal(b.gpa, 0);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identifies_as_a_modern_block_device),
        cmocka_unit_test(refuses_features_it_cannot_have),
        cmocka_unit_test(queue_registers_are_checked),
        cmocka_unit_test(any_access_anywhere_is_survived),
        cmocka_unit_test(access_capability_reaches_the_registers),
        cmocka_unit_test(interrupt_pin_works_without_msix),
        cmocka_unit_test(quiesce_drains_and_resume_goes_on),
        cmocka_unit_test(a_request_in_flight_delays_a_machine_reset),
        cmocka_unit_test(saved_state_continues_in_another_machine),
        cmocka_unit_test(damaged_state_is_refused_and_changes_nothing),
        cmocka_unit_test(creation_fails_cleanly_without_memory),
        cmocka_unit_test(bad_configurations_are_refused),
        cmocka_unit_test(doorbell_address_is_where_the_bar_is),
        cmocka_unit_test(changes_of_doorbells_are_announced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
