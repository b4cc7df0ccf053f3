/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Compare-and-write of the host's files and disks. SCSI COMPARE AND WRITE goes to a disk in memory
 * that reads the command as SBC-3 lays it out: what a disk would refuse, it refuses.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vmcore/status.h>

#include "../../../backends/host/host_caw.h"

#include <cmocka.h>

#define SECTORS 64u

struct target {
    uint8_t data[SECTORS][512];
    unsigned length;    /* of the page of limits; 0: an old disk */
    uint8_t most;       /* blocks that it compares */
    unsigned attention; /* unit attentions that it has to get rid of */
    unsigned commands;
    bool descriptors; /* format of its sense data */
    bool broken, denied;
    uint8_t status; /* that it answers instead, once for each of these */
    uint8_t key;    /* or as sense data */
    unsigned answers;
    bool after_all; /* it has carried the command out */
};

static void sense(const struct target *t, struct sg_io_hdr *h, uint8_t key, uint8_t asc)
{
    memset(h->sbp, 0, h->mx_sb_len);
    h->sbp[0] = t->descriptors ? 0x72 : 0x70;
    h->sbp[t->descriptors ? 1 : 2] = key;
    h->sbp[t->descriptors ? 2 : 12] = asc;
    h->sb_len_wr = t->descriptors ? 8 : 18;
    h->status = 2;
    h->info = SG_INFO_CHECK;
}

static void inquiry(const struct target *t, struct sg_io_hdr *h)
{
    uint8_t page[64] = {0, 0xb0, 0, (uint8_t)t->length, 0, t->most};
    unsigned room = (unsigned)(h->cmdp[3] << 8 | h->cmdp[4]);

    assert_int_equal(h->cmd_len, 6);
    assert_int_equal(h->dxfer_direction, SG_DXFER_FROM_DEV);
    if (h->cmdp[1] != 1 || h->cmdp[2] != 0xb0 || t->length == 0) {
        sense(t, h, 5, 0x24); /* invalid field in CDB */
        return;
    }
    assert_true(room <= h->dxfer_len);
    memcpy(h->dxferp, page, room < sizeof(page) ? room : sizeof(page));
}

static void compare_write(struct target *t, struct sg_io_hdr *h)
{
    const uint8_t *data = h->dxferp;
    uint64_t lba = 0;

    assert_int_equal(h->cmd_len, 16);
    assert_int_equal(h->dxfer_direction, SG_DXFER_TO_DEV);
    for (unsigned i = 0; i < 8; i++)
        lba = lba << 8 | h->cmdp[2 + i];
    assert_int_equal(h->cmdp[1], 0);
    assert_int_equal(h->cmdp[10] | h->cmdp[11] | h->cmdp[12], 0);
    assert_int_equal(h->cmdp[13], 1);
    assert_int_equal(h->dxfer_len, 2 * 512);
    if (lba >= SECTORS) {
        sense(t, h, 5, 0x21); /* out of range */
    } else if (memcmp(t->data[lba], data, 512) != 0) {
        sense(t, h, 0xe, 0x1d);
    } else {
        memcpy(t->data[lba], data + 512, 512);
    }
}

static void read_16(struct target *t, struct sg_io_hdr *h)
{
    uint64_t lba = 0;

    assert_int_equal(h->cmd_len, 16);
    assert_int_equal(h->dxfer_direction, SG_DXFER_FROM_DEV);
    for (unsigned i = 0; i < 8; i++)
        lba = lba << 8 | h->cmdp[2 + i];
    assert_int_equal(h->cmdp[1] | h->cmdp[10] | h->cmdp[11] | h->cmdp[12], 0);
    assert_int_equal(h->cmdp[13], 1);
    assert_int_equal(h->dxfer_len, 512);
    if (lba >= SECTORS)
        sense(t, h, 5, 0x21);
    else
        memcpy(h->dxferp, t->data[lba], 512);
}

static int sg(void *ctx, struct sg_io_hdr *h)
{
    struct target *t = ctx;

    t->commands++;
    assert_int_equal(h->interface_id, 'S');
    assert_true(h->timeout > 0 && h->timeout <= 8000);
    h->status = 0;
    h->info = SG_INFO_OK;
    if (t->denied)
        return -1;   /* EPERM */
    if (t->broken) { /* on the way */
        h->host_status = 7;
        h->info = SG_INFO_CHECK;
    } else if (t->answers > 0) {
        t->answers--;
        if (t->after_all && h->cmdp[0] == 0x89)
            compare_write(t, h);
        h->status = t->status;
        h->info = SG_INFO_CHECK;
        h->sb_len_wr = 0;
        if (t->key != 0)
            sense(t, h, t->key, 0);
    } else if (t->attention > 0) {
        t->attention--;
        sense(t, h, 6, 0x29);
    } else if (h->cmdp[0] == 0x12) {
        inquiry(t, h);
    } else if (h->cmdp[0] == 0x88) {
        read_16(t, h);
    } else {
        assert_int_equal(h->cmdp[0], 0x89);
        compare_write(t, h);
    }
    return 0;
}

static void disk(struct target *t, struct vmci_caw *c)
{
    *t = (struct target){.length = 60, .most = 1};
    *c = (struct vmci_caw){.kind = VMCI_CAW_SCSI, .fd = -1, .sg = sg, .ctx = t};
    for (unsigned i = 0; i < SECTORS; i++)
        memset(t->data[i], (int)i, 512);
}

static void test_offered(void **state)
{
    static struct target t;
    struct vmci_caw c;

    (void)state;
    disk(&t, &c);
    assert_true(vmci_caw_scsi_offered(&c));
    t.attention = 2; /* as after a reset */
    assert_true(vmci_caw_scsi_offered(&c));
    t.most = 0;
    assert_false(vmci_caw_scsi_offered(&c));
    t.most = 255;
    t.length = 1; /* a page that ends before */
    assert_false(vmci_caw_scsi_offered(&c));
    t.length = 0;
    assert_false(vmci_caw_scsi_offered(&c));
    disk(&t, &c);
    t.denied = true;
    assert_false(vmci_caw_scsi_offered(&c));
    disk(&t, &c);
    t.broken = true;
    assert_false(vmci_caw_scsi_offered(&c));
}

static void test_scsi(void **state)
{
    static struct target t;
    struct vmci_caw c;
    uint8_t was[512], next[512];

    (void)state;
    for (unsigned descriptors = 0; descriptors < 2; descriptors++) {
        disk(&t, &c);
        t.descriptors = descriptors != 0;
        memset(was, 5, sizeof(was));
        memset(next, 0xaa, sizeof(next));
        assert_int_equal(vmci_caw(&c, 5 * 512, was, next, 512), VMC_OK);
        assert_memory_equal(t.data[5], next, 512);
        assert_int_equal(t.data[4][511], 4);
        assert_int_equal(t.data[6][0], 6);
        assert_int_equal(vmci_caw(&c, 5 * 512, was, was, 512), VMC_EAGAIN);
        assert_memory_equal(t.data[5], next, 512);
        c.first = 20; /* a partition */
        memset(was, 25, sizeof(was));
        t.attention = 1; /* nothing was done then: again */
        assert_int_equal(vmci_caw(&c, 5 * 512, was, next, 512), VMC_OK);
        assert_memory_equal(t.data[25], next, 512);
        /* Whatever else is answered is no answer to the question. */
        assert_int_equal(vmci_caw(&c, 60 * 512, was, next, 512), VMC_EIO);
        t.broken = true;
        assert_int_equal(vmci_caw(&c, 5 * 512, next, was, 512), VMC_EIO);
        t.broken = false;
        t.denied = true;
        assert_int_equal(vmci_caw(&c, 5 * 512, next, was, 512), VMC_EPERM);
        t.denied = false;
        t.attention = 1000; /* not for ever */
        t.commands = 0;
        assert_int_equal(vmci_caw(&c, 5 * 512, next, was, 512), VMC_EIO);
        assert_in_range(t.commands, 2, 10);
        assert_memory_equal(t.data[25], next, 512);
        assert_int_equal(vmci_caw(&c, 5 * 512, next, was, 1024), VMC_EINVAL);
        assert_int_equal(vmci_caw(&c, 100, next, was, 512), VMC_EINVAL);
    }
}

/* What a disk answers that has no time, that ends a command, or that is somebody else's. */
static void test_answers(void **state)
{
    static struct target t;
    struct vmci_caw c;
    uint8_t was[512], next[512];
    static const struct {
        uint8_t status, key;
        int rc;
    } cases[] = {
        {0x08, 0, VMC_OK},    /* busy */
        {0x28, 0, VMC_OK},    /* its queue is full */
        {0x02, 2, VMC_OK},    /* not ready: a path that changes sides */
        {0x02, 0xb, VMC_OK},  /* aborted */
        {0x18, 0, VMC_EPERM}, /* reserved by another host */
        {0x02, 3, VMC_EIO},   /* medium error */
        {0x02, 7, VMC_EIO},   /* protected */
    };

    (void)state;
    memset(was, 5, sizeof(was));
    memset(next, 0xaa, sizeof(next));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        disk(&t, &c);
        t.status = cases[i].status;
        t.key = cases[i].key;
        t.answers = 2;
        assert_int_equal(vmci_caw(&c, 5 * 512, was, next, 512), cases[i].rc);
        assert_int_equal(t.data[5][0], cases[i].rc == VMC_OK ? 0xaa : 5);
        t.answers = 1000; /* not for ever */
        t.commands = 0;
        memset(t.data[5], 5, 512);
        assert_int_equal(vmci_caw(&c, 5 * 512, was, next, 512),
                         cases[i].rc == VMC_OK ? VMC_EIO : cases[i].rc);
        assert_in_range(t.commands, 1, 10);
    }
    /* Carried out, and aborted then: the second try tells that the sector is another one. */
    disk(&t, &c);
    t.status = 2;
    t.key = 0xb;
    t.answers = 1;
    t.after_all = true;
    assert_int_equal(vmci_caw(&c, 5 * 512, was, next, 512), VMC_EAGAIN);
    assert_memory_equal(t.data[5], next, 512);
}

/* A partition that is not where it is thought to be is found out by what it holds. */
static void test_there(void **state)
{
    static struct target t;
    struct vmci_caw c;
    uint8_t sector[512];

    (void)state;
    disk(&t, &c);
    c.first = 20;
    memset(sector, 23, sizeof(sector));
    t.attention = 1;
    assert_true(vmci_caw_scsi_there(&c, 3 * 512, sector));
    assert_false(vmci_caw_scsi_there(&c, 4 * 512, sector));
    assert_false(vmci_caw_scsi_there(&c, 60 * 512, sector));
    c.first = 0;
    assert_false(vmci_caw_scsi_there(&c, 3 * 512, sector));
    t.denied = true;
    assert_false(vmci_caw_scsi_there(&c, 23 * 512, sector));
}

static void test_file(void **state)
{
    struct vmci_caw c;
    char path[] = "/tmp/vmc-caw-XXXXXX", a[512], b[512];
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    unlink(path);
    memset(a, 1, sizeof(a));
    memset(b, 2, sizeof(b));
    assert_int_equal(pwrite(fd, a, sizeof(a), 512), sizeof(a));
    vmci_caw_find(&c, fd);
    assert_int_equal(c.kind, VMCI_CAW_LOCK);
    assert_int_equal(vmci_caw(&c, 512, b, b, 512), VMC_EAGAIN);
    assert_int_equal(vmci_caw(&c, 512, a, b, 512), VMC_OK);
    assert_int_equal(pread(fd, a, sizeof(a), 512), sizeof(a));
    assert_memory_equal(a, b, 512);
    c.kind = VMCI_CAW_NONE;
    assert_int_equal(vmci_caw(&c, 512, a, b, 512), VMC_ENOTSUP);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_offered), cmocka_unit_test(test_scsi),
                                       cmocka_unit_test(test_answers), cmocka_unit_test(test_there),
                                       cmocka_unit_test(test_file)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
