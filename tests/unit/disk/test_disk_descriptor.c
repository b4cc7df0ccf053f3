/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Descriptors and redo logs as hosts of others write them, here byte by byte: line ends of Windows,
 * another order, blanks, what only they say, parents with their folders.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmcore/disk.h>
#include "disk_rig.h"
#include "test_platform.h"

#include <cmocka.h>

#define SECTORS 8192u

static void put(struct env *e, const char *name, const void *data, size_t bytes)
{
    void *file;

    (void)e->files.ops->remove(e->files.ctx, name, NULL);
    ok(e, e->files.ops->create(e->files.ctx, name, &file, &e->err));
    ok(e, e->files.ops->write(e->files.ctx, file, data, bytes, 0));
    ok(e, e->files.ops->close(e->files.ctx, file));
}

static void put_text(struct env *e, const char *name, const char *text)
{
    put(e, name, text, strlen(text));
}

/* Sector n of a flat extent says n. */
static void put_flat(struct env *e, const char *name)
{
    unsigned char *p = calloc(SECTORS, 512);

    assert_non_null(p);
    for (uint32_t i = 0; i < SECTORS; i++)
        memcpy(p + i * 512u, &i, 4);
    put(e, name, p, SECTORS * 512u);
    free(p);
}

/* What a sector of the disk says. */
static uint32_t sector(struct env *e, const char *name, uint64_t n)
{
    struct vmc_disk *d;
    unsigned char buf[512];
    struct vmc_iovec iov = {.base = buf, .bytes = sizeof(buf)};
    struct vmc_block_req r = {
        .op = VMC_BLOCK_READ, .offset = n * 512, .bytes = 512, .iov = &iov, .iov_count = 1};
    uint32_t says;

    ok(e, vmc_disk_open(&e->tp.pf, &e->files, name, false, &d, &e->err));
    struct vmc_blockdev bd = vmc_disk_blockdev(d);
    assert_int_equal(bd.ops->submit(bd.ctx, &r), VMC_BLOCK_COMPLETE);
    assert_int_equal(r.status, VMC_OK);
    ok(e, vmc_disk_close(d));
    memcpy(&says, buf, 4);
    return says;
}

static const char windows[] =
    "# Disk DescriptorFile\r\nversion=3\r\nencoding=\"UTF-8\"\r\nCID=fffffffe\r\n"
    "parentCID=ffffffff\r\nisNativeSnapshot=\"no\"\r\ncreateType=\"vmfs\"\r\n\r\n"
    "# Extent description\r\nRW 8192 VMFS \"server-flat.vmdk\"\r\n\r\n"
    "# Change Tracking File\r\nchangeTrackPath=\"server-ctk.vmdk\"\r\n\r\n"
    "# The Disk Data Base \r\n#DDB\r\n\r\nddb.adapterType = \"lsilogic\"\r\n"
    "ddb.uuid = \"60 00 C2 9a 41 57 2f 7c-de 0b 3a 81 5f 6c 90 1b\"\r\n"
    "ddb.thinProvisioned = \"1\"\r\n";

static const char disorder[] =
    "\n  # Disk DescriptorFile\nddb.adapterType=\"buslogic\"\nddb.thinProvisioned=\"0\"\n"
    "\tRDONLY  8192\tVMFS \"server-flat.vmdk\" 0\n createType = \"vmfs\"\nparentCID = ffffffff\n"
    "CID = 1A2B3C4D";

static void text_of_others(void **state)
{
    (void)state;
    struct env e;

    env_init(&e);
    put_flat(&e, "server-flat.vmdk");
    put_text(&e, "server.vmdk", windows);
    assert_int_equal(sector(&e, "server.vmdk", 8191), 8191);
    put_text(&e, "server.vmdk", disorder);
    assert_int_equal(sector(&e, "server.vmdk", 4711), 4711);
    struct vmc_disk *d;
    struct vmc_disk_layer layer;
    ok(&e, vmc_disk_open(&e.tp.pf, &e.files, "server.vmdk", false, &d, &e.err));
    ok(&e, vmc_disk_layer(d, 0, &layer));
    assert_false(layer.thin);
    assert_int_equal(layer.cid, 0x1A2B3C4D);
    ok(&e, vmc_disk_close(d));
    /* A second extent is not overlooked, whatever it allows. */
    put_text(&e, "server.vmdk",
             "# Disk DescriptorFile\nCID=1\nparentCID=ffffffff\ncreateType=\"vmfs\"\n"
             "RW 4096 VMFS \"server-flat.vmdk\"\nRDONLY 4096 VMFS \"other-flat.vmdk\"\n");
    assert_int_equal(vmc_disk_open(&e.tp.pf, &e.files, "server.vmdk", false, &d, &e.err),
                     VMC_ENOTSUP);
    env_fini(&e);
}

static void get_text(struct env *e, const char *name, char *out, size_t room)
{
    void *file;
    uint64_t bytes;

    ok(e, e->files.ops->open(e->files.ctx, name, VMC_DISK_PEEK, &file, &e->err));
    ok(e, e->files.ops->size(e->files.ctx, file, &bytes));
    assert_true(bytes < room);
    ok(e, e->files.ops->read(e->files.ctx, file, out, (size_t)bytes, 0));
    out[bytes] = '\0';
    ok(e, e->files.ops->close(e->files.ctx, file));
}

static void says(const char *text, const char *line, bool yes)
{
    if ((strstr(text, line) != NULL) != yes)
        fail_msg("%s \"%s\":\n%s", yes ? "no" : "there is still", line, text);
}

/* Whoever writes to a disk of others leaves what they say of it, but for what is no longer so. */
static void lines_of_others(void **state)
{
    (void)state;
    static const char text_of_host[] =
        "# Disk DescriptorFile\r\nversion=3\r\nencoding=\"UTF-8\"\r\nCID=fffffffe\r\n"
        "parentCID=ffffffff\r\nisNativeSnapshot=\"no\"\r\ncreateType=\"vmfs\"\r\n\r\n"
        "# Extent description\r\nRW 8192 VMFS \"server-flat.vmdk\"\r\n\r\n"
        "# Change Tracking File\r\nchangeTrackPath=\"server-ctk.vmdk\"\r\n\r\n"
        "# The Disk Data Base \r\n#DDB\r\n\r\nddb.adapterType = \"pvscsi\"\r\n"
        "ddb.geometry.cylinders = \"4\"\r\nddb.geometry.heads = \"64\"\r\n"
        "ddb.geometry.sectors = \"32\"\r\n"
        "ddb.longContentID = \"00112233445566778899aabbfffffffe\"\r\n"
        "ddb.uuid = \"60 00 C2 9a 41 57 2f 7c-de 0b 3a 81 5f 6c 90 1b\"\r\n"
        "ddb.virtualHWVersion = \"19\"\r\nddb.thinProvisioned = \"1\"";
    struct env e;
    struct vmc_disk *d;
    struct vmc_disk_layer layer;
    char text[8192], line[80];

    env_init(&e);
    put_flat(&e, "server-flat.vmdk");
    put_text(&e, "server.vmdk", text_of_host);
    for (unsigned i = 0; i < 2; i++) { /* the second time, from a text of ours */
        ok(&e, vmc_disk_open(&e.tp.pf, &e.files, "server.vmdk", true, &d, &e.err));
        ok(&e, vmc_disk_layer(d, 0, &layer));
        ok(&e, vmc_disk_close(d));
        get_text(&e, "server.vmdk", text, sizeof(text));
        assert_int_not_equal(layer.cid, 0xfffffffe);
        snprintf(line, sizeof(line), "\nCID=%08x\n", layer.cid);
        says(text, line, true);
        snprintf(line, sizeof(line), "ddb.longContentID = \"00112233445566778899aabb%08x\"\n",
                 layer.cid);
        says(text, line, true);
        says(text, "version=3\nencoding=\"UTF-8\"\n", true);
        says(text, "isNativeSnapshot=\"no\"\n", true);
        says(text, "ddb.adapterType=\"pvscsi\"\n", true);
        says(text, "ddb.virtualHWVersion=\"19\"\n", true);
        says(text, "ddb.geometry.cylinders = \"4\"\n", true);
        says(text, "ddb.geometry.heads = \"64\"\n", true);
        says(text, "ddb.uuid = \"60 00 C2 9a 41 57 2f 7c-de 0b 3a 81 5f 6c 90 1b\"\n", true);
        says(text, "ddb.thinProvisioned = \"1\"\n", true);
        says(text, "changeTrackPath", false);
        says(text, "lsilogic", false);
        says(text, "\r", false);
    }
    assert_int_equal(sector(&e, "server.vmdk", 4711), 4711);
    ok(&e, vmc_disk_grow(&e.tp.pf, &e.files, "server.vmdk", 16384 * 512, &e.err));
    get_text(&e, "server.vmdk", text, sizeof(text));
    says(text, "RW 16384 VMFS \"server-flat.vmdk\"\n", true);
    says(text, "ddb.geometry.cylinders = \"8\"\n", true);
    says(text, "ddb.uuid = ", true);
    env_fini(&e);
}

/* The kind of a disk of others and the word of its extent belong together. */
static void kind_of_others(void **state)
{
    (void)state;
    struct env e;
    struct vmc_disk *d;
    char text[8192];

    env_init(&e);
    put_flat(&e, "server-flat.vmdk");
    put_text(&e, "server.vmdk",
             "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
             "createType=\"monolithicFlat\"\n\nRW 8192 FLAT \"server-flat.vmdk\" 0\n");
    ok(&e, vmc_disk_open(&e.tp.pf, &e.files, "server.vmdk", true, &d, &e.err));
    ok(&e, vmc_disk_close(d));
    get_text(&e, "server.vmdk", text, sizeof(text));
    says(text, "fffffffe", false);
    says(text, "createType=\"monolithicFlat\"\n", true);
    says(text, "\nRW 8192 FLAT \"server-flat.vmdk\" 0\n", true);
    ok(&e, vmc_disk_grow(&e.tp.pf, &e.files, "server.vmdk", 16384 * 512, &e.err));
    get_text(&e, "server.vmdk", text, sizeof(text));
    says(text, "\nRW 16384 FLAT \"server-flat.vmdk\" 0\n", true);
    assert_int_equal(sector(&e, "server.vmdk", 4711), 4711);
    env_fini(&e);
}

/* A snapshot: header, directory at sector 4, one table, one grain; the parent by its full path. */
/* A redo log in which sector 5000 was written. */
static void put_log(struct env *e, const char *parent)
{
    static const uint32_t header[] = {0x44574f43, 1, 3, SECTORS, 1, 4, 2, 40};
    unsigned char log[41 * 512] = {0};
    uint32_t table = 5, grain = 37, says = 0xC0FFEE;
    char text[600];

    memcpy(log, header, sizeof(header));
    memcpy(log + 4 * 512 + 4, &table, 4);                 /* of sectors 4096 to 8191 */
    memcpy(log + 5 * 512 + (5000 - 4096) * 4, &grain, 4); /* sector 5000 */
    memcpy(log + 37 * 512, &says, 4);
    put(e, "server-000001-delta.vmdk", log, sizeof(log));
    snprintf(text, sizeof(text),
             "# Disk DescriptorFile\r\nversion=1\r\nCID=31415926\r\nparentCID=fffffffe\r\n"
             "createType=\"vmfsSparse\"\r\nparentFileNameHint=\"%s\"\r\n"
             "RW 8192 VMFSSPARSE \"server-000001-delta.vmdk\"\r\n",
             parent);
    put_text(e, "server-000001.vmdk", text);
}

static void expect_log(struct env *e)
{
    assert_int_equal(sector(e, "server-000001.vmdk", 5000), 0xC0FFEE);
    assert_int_equal(sector(e, "server-000001.vmdk", 4999), 4999);
    assert_int_equal(sector(e, "server-000001.vmdk", 0), 0);
}

#define VOLUME "/vmfs/volumes/4f000001-10000001-0001-020000000001"

/* The parent is named with the folder it once was in, and lies beside its snapshot. */
static void snapshot_of_others(void **state)
{
    (void)state;
    struct env e;

    env_init(&e);
    put_flat(&e, "server-flat.vmdk");
    put_text(&e, "server.vmdk", windows);
    put_log(&e, VOLUME "/server/server.vmdk");
    expect_log(&e);
    env_fini(&e);
}

/* The parent is in another folder; something of its name lies beside the snapshot, or nothing. */
static void parent_elsewhere(void **state)
{
    (void)state;
    static const struct {
        const char *hint, *folder;
    } at[] = {{VOLUME "/base/server.vmdk", "/base/"},
              {"/base/server.vmdk", "/base/"},
              {"../base/server.vmdk", "../base/"}};

    for (unsigned i = 0; i < 2 * sizeof(at) / sizeof(at[0]); i++) {
        struct env e;
        struct vmc_disk *d;
        struct vmc_disk_layer l;
        char name[64];
        env_init(&e);
        snprintf(name, sizeof(name), "%sserver-flat.vmdk", at[i / 2].folder);
        put_flat(&e, name);
        snprintf(name, sizeof(name), "%sserver.vmdk", at[i / 2].folder);
        put_text(&e, name, windows);
        if (i % 2 != 0)
            put_text(&e, "server.vmdk", disorder); /* another disk, by its content id */
        put_log(&e, at[i / 2].hint);
        expect_log(&e);
        /* Written to, it still knows its parent; the parent is not written to. */
        ok(&e, vmc_disk_open(&e.tp.pf, &e.files, "server-000001.vmdk", true, &d, &e.err));
        assert_int_equal(vmc_disk_depth(d), 2);
        ok(&e, vmc_disk_layer(d, 1, &l));
        assert_string_equal(l.name, name);
        ok(&e, vmc_disk_close(d));
        expect_log(&e);
        assert_int_equal(vmc_disk_commit(&e.tp.pf, &e.files, "server-000001.vmdk", NULL, &e.err),
                         VMC_ENOTSUP);
        assert_non_null(strstr(e.err.text, "another folder"));
        expect_log(&e);
        env_fini(&e);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_of_others),
        cmocka_unit_test(lines_of_others),
        cmocka_unit_test(kind_of_others),
        cmocka_unit_test(snapshot_of_others),
        cmocka_unit_test(parent_elsewhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
