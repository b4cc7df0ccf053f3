/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Persistent reservations: the commands go to a disk in memory that reads them as SPC-4 lays them
 * out, with a path for each of three hosts. vmfs.scsi does the same with Linux's target.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <vmcore/status.h>

#include "../../../backends/host/host_reserve.h"

#include <cmocka.h>

#define PATHS 3u
#define KEY   0x564d430000000000ull

struct disk {
    uint64_t key[PATHS];          /* 0: not registered */
    uint8_t type;                 /* of the reservation; 0: none */
    bool none, no_power, no_type; /* what it cannot do */
    unsigned attention[PATHS];
    unsigned aborted[PATHS]; /* how often */
    bool lio;                /* must not be asked to abort */
    bool deaf;               /* says that it has preempted, and has not */
};

struct path {
    struct disk *d;
    unsigned i;
    struct vmci_caw c;
};

static void sense(struct sg_io_hdr *h, uint8_t key)
{
    memset(h->sbp, 0, h->mx_sb_len);
    h->sbp[0] = 0x70;
    h->sbp[2] = key;
    h->sb_len_wr = 18;
    h->status = 2;
    h->info = SG_INFO_CHECK;
}

static void conflict(struct sg_io_hdr *h)
{
    h->status = 0x18;
    h->info = SG_INFO_CHECK;
}

static void put64(uint8_t *p, uint64_t v)
{
    for (unsigned i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> (56 - 8 * i));
}

static uint64_t get64(const uint8_t *p)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < 8; i++)
        v = v << 8 | p[i];
    return v;
}

static bool anybody(const struct disk *d)
{
    for (unsigned i = 0; i < PATHS; i++)
        if (d->key[i] != 0)
            return true;
    return false;
}

static void in(const struct disk *d, struct sg_io_hdr *h)
{
    uint8_t out[8 + 8 * PATHS] = {0};
    unsigned n = 8, room = (unsigned)(h->cmdp[7] << 8 | h->cmdp[8]);

    assert_int_equal(h->dxfer_direction, SG_DXFER_FROM_DEV);
    assert_int_equal(h->dxfer_len, room);
    if (d->none) {
        sense(h, 5);
        return;
    }
    switch (h->cmdp[1]) {
    case 0:
        for (unsigned i = 0; i < PATHS; i++)
            if (d->key[i] != 0) {
                put64(out + n, d->key[i]);
                n += 8;
            }
        out[7] = (uint8_t)(n - 8);
        break;
    case 1:
        if (d->type != 0) {
            n = 24;
            out[7] = 16;
            out[21] = d->type;
        }
        break;
    case 2:
        out[1] = 8;
        out[2] = d->no_power ? 0 : 1;
        out[3] = 0x80;
        out[4] = d->no_type ? 0x2a : 0xaa;
        break;
    default:
        fail_msg("PERSISTENT RESERVE IN %u", h->cmdp[1]);
    }
    memcpy(h->dxferp, out, n < room ? n : room);
}

static void out(struct disk *d, unsigned i, struct sg_io_hdr *h)
{
    const uint8_t *p = h->dxferp;
    uint64_t key = get64(p), other = get64(p + 8);
    bool found = false;

    assert_int_equal(h->dxfer_direction, SG_DXFER_TO_DEV);
    assert_int_equal(h->dxfer_len, 24);
    assert_int_equal(get64(h->cmdp + 1) & 0xffffffffu, 24u); /* bytes 5 to 8: the length */
    switch (h->cmdp[1]) {
    case 0:
    case 6:
        if (h->cmdp[1] == 0 && key != d->key[i]) {
            conflict(h);
            return;
        }
        assert_int_equal(p[20], 1); /* kept without power */
        d->key[i] = other;
        if (!anybody(d))
            d->type = 0;
        return;
    case 1:
        if (d->key[i] == 0 || key != d->key[i] || (d->type != 0 && d->type != h->cmdp[2])) {
            conflict(h);
            return;
        }
        assert_int_equal(h->cmdp[2], 7);
        d->type = 7;
        return;
    case 4:
    case 5:
        assert_int_equal(h->cmdp[1], d->lio ? 4 : 5);
        assert_int_equal(h->cmdp[2], 7);
        assert_int_not_equal(other, 0); /* that would be everybody */
        if (d->key[i] == 0 || key != d->key[i]) {
            conflict(h);
            return;
        }
        for (unsigned k = 0; k < PATHS; k++)
            if (d->key[k] == other) {
                found = true;
                if (d->deaf)
                    continue;
                d->key[k] = 0;
                d->attention[k]++;
                d->aborted[k] += h->cmdp[1] == 5;
            }
        if (!found)
            conflict(h);
        return;
    default:
        fail_msg("PERSISTENT RESERVE OUT %u", h->cmdp[1]);
    }
}

static int sg(void *ctx, struct sg_io_hdr *h)
{
    struct path *p = ctx;

    if (h->cmdp[0] == 0x12) {
        assert_int_equal(h->cmd_len, 6);
        assert_int_equal(h->cmdp[1], 0);
        assert_true(h->dxfer_len == 36 && h->cmdp[4] == 36);
        memset(h->dxferp, ' ', 36);
        memcpy((char *)h->dxferp + 8, p->d->lio ? "LIO-ORG DISK" : "LINUX   DISK", 12);
        h->status = 0;
        h->info = SG_INFO_OK;
        return 0;
    }
    assert_int_equal(h->cmd_len, 10);
    assert_int_equal(h->cmdp[9], 0);
    h->status = 0;
    h->info = SG_INFO_OK;
    if (p->d->attention[p->i] > 0) {
        p->d->attention[p->i]--;
        sense(h, 6);
    } else if (h->cmdp[0] == 0x5e) {
        in(p->d, h);
    } else {
        assert_int_equal(h->cmdp[0], 0x5f);
        out(p->d, p->i, h);
    }
    return 0;
}

static void paths(struct disk *d, struct path *p)
{
    *d = (struct disk){.attention = {1, 1, 1}};
    for (unsigned i = 0; i < PATHS; i++)
        p[i] = (struct path){.d = d, .i = i, .c = {.fd = -1, .sg = sg, .ctx = &p[i]}};
}

static void test_offered(void **state)
{
    struct disk d;
    struct path p[PATHS];
    const char *why;

    (void)state;
    paths(&d, p);
    assert_int_equal(vmci_reserve_offered(&p[0].c, &why), VMC_OK);
    d.no_type = true;
    assert_int_equal(vmci_reserve_offered(&p[0].c, &why), VMC_ENOTSUP);
    assert_non_null(strstr(why, "all registrants"));
    d.no_power = true;
    assert_int_equal(vmci_reserve_offered(&p[0].c, &why), VMC_ENOTSUP);
    assert_non_null(strstr(why, "power"));
    d.none = true;
    assert_int_equal(vmci_reserve_offered(&p[0].c, &why), VMC_ENOTSUP);
    assert_false(anybody(&d));
}

static void test_join_and_leave(void **state)
{
    struct disk d;
    struct path p[PATHS];
    const char *why;

    (void)state;
    paths(&d, p);
    assert_int_equal(vmci_reserve_check(&p[0].c, KEY + 1), VMC_EFENCED);
    assert_int_equal(vmci_reserve_join(&p[0].c, KEY + 1, &why), VMC_OK);
    assert_int_equal(d.type, 7);
    assert_int_equal(vmci_reserve_join(&p[1].c, KEY + 2, &why), VMC_OK);
    assert_int_equal(vmci_reserve_check(&p[0].c, KEY + 1), VMC_OK);
    assert_int_equal(vmci_reserve_leave(&p[0].c, KEY + 1), VMC_OK);
    assert_int_equal(d.type, 7); /* the second one still has it */
    assert_int_equal(vmci_reserve_check(&p[1].c, KEY + 2), VMC_OK);
    assert_int_equal(vmci_reserve_check(&p[0].c, KEY + 1), VMC_EFENCED);
    /* What a process that was killed left is replaced by the next one on its path. */
    assert_int_equal(vmci_reserve_join(&p[1].c, KEY + 3, &why), VMC_OK);
    assert_true(d.key[1] == KEY + 3);
    assert_int_equal(vmci_reserve_leave(&p[1].c, KEY + 3), VMC_OK);
    assert_int_equal(d.type, 0);
}

static void test_others(void **state)
{
    struct disk d;
    struct path p[PATHS];
    const char *why;

    (void)state;
    paths(&d, p);
    d.key[2] = 0x1234; /* of a cluster of other software */
    assert_int_equal(vmci_reserve_join(&p[0].c, KEY + 1, &why), VMC_EBUSY);
    assert_non_null(why);
    assert_true(d.key[0] == 0);
    d.key[2] = KEY + 2;
    d.type = 1; /* of one host */
    assert_int_equal(vmci_reserve_join(&p[0].c, KEY + 1, &why), VMC_EBUSY);
    assert_non_null(why);
    assert_true(d.key[0] == 0 && d.type == 1);
}

static void test_evict(void **state)
{
    struct disk d;
    struct path p[PATHS];
    const char *why;

    (void)state;
    paths(&d, p);
    for (unsigned i = 0; i < PATHS; i++)
        assert_int_equal(vmci_reserve_join(&p[i].c, KEY + 1 + i, &why), VMC_OK);
    assert_int_equal(vmci_reserve_evict(&p[1].c, KEY + 2, KEY + 1), VMC_OK);
    assert_true(d.key[0] == 0 && d.aborted[0] == 1 && d.key[2] == KEY + 3 && d.type == 7);
    assert_int_equal(d.aborted[1] + d.aborted[2], 0);
    /* A second rescuer finds it done. */
    assert_int_equal(vmci_reserve_evict(&p[2].c, KEY + 3, KEY + 1), VMC_OK);
    /* Who was shut out shuts nobody out, and learns it. */
    assert_int_equal(vmci_reserve_evict(&p[0].c, KEY + 1, KEY + 2), VMC_EFENCED);
    assert_int_equal(vmci_reserve_check(&p[0].c, KEY + 1), VMC_EFENCED);
    assert_true(d.key[1] == KEY + 2);
    /* A disk that does not do what it says. */
    d.deaf = true;
    assert_int_equal(vmci_reserve_evict(&p[1].c, KEY + 2, KEY + 3), VMC_EIO);
    d.deaf = false;
    /* An administrator took the reservation away: whoever goes on does so without protection. */
    d.type = 0;
    assert_int_equal(vmci_reserve_check(&p[1].c, KEY + 2), VMC_EFENCED);
    assert_int_equal(vmci_reserve_evict(&p[1].c, KEY + 2, KEY + 3), VMC_EFENCED);
}

static void test_lio(void **state)
{
    struct disk d;
    struct path p[PATHS];
    const char *why;

    (void)state;
    paths(&d, p);
    d.lio = true;
    for (unsigned i = 0; i < PATHS; i++) {
        assert_int_equal(vmci_reserve_offered(&p[i].c, &why), VMC_OK);
        assert_int_equal(vmci_reserve_join(&p[i].c, KEY + 1 + i, &why), VMC_OK);
    }
    assert_int_equal(vmci_reserve_evict(&p[1].c, KEY + 2, KEY + 1), VMC_OK);
    assert_true(d.key[0] == 0 && d.aborted[0] == 0 && d.key[2] == KEY + 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_offered), cmocka_unit_test(test_join_and_leave),
        cmocka_unit_test(test_others),  cmocka_unit_test(test_evict),
        cmocka_unit_test(test_lio),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
