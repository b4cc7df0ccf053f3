/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Damaged volumes: every byte of every kind of metadata is changed in turn. Nothing may crash or
 * loop; what cannot be used is an error with a text; the checker repairs what it repairs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmfs_model.h"

#include <cmocka.h>

#define MIB (1ull << 20)
#define LV  0x1100000ull

struct area {
    const char *name;
    uint64_t offset, bytes;
};

static const struct area areas5[] = {
    {"LVM header", 0x100000, 0x2a0},
    {"extent table", 0x180200, 0x700},
    {"descriptor", LV + 0x200000, 0x120},
    {"heartbeats", LV + 0x300000, 0x400},
    {"fdc header", LV + 0x400000, 0x20},
    {"fdc cluster", LV + 0x410000, 0x254},
    {"root FD", LV + 0x420000, 0x410},
    {"fbb FD", LV + 0x420800, 0x410},
    {"pbc FD", LV + 0x421800, 0x410},
    {"sbc FD", LV + 0x422000, 0x410},
    {"user FDs", LV + 0x424000, 0x1500},
    {"root directory", LV + 0x500000, 0x700},
    {"fbb header", LV + 0x600000, 0x20},
    {"fbb cluster", LV + 0x610000, 0x254},
    {"host records", LV, 0x400},
    {"journal", LV + 0x210000, 0x800},
    {NULL, 0, 0},
};

static const struct area areas6[] = {
    {"LVM header", 0x100000, 0xd8},
    {"volume table", 0x101000, 0x98},
    {"descriptor", LV + 0x200000, 0x158},
    {"heartbeats", LV + 0x300000, 0xa4},
    {"fdc header", LV + 0x700000, 0x58},
    {"fdc cluster lock", LV + 0x710000, 0x44},
    {"fdc cluster", LV + 0x711000, 0xa0},
    {"root FD", LV + 0x721000, 0x90},
    {"root pointers", LV + 0x721600, 0x20},
    {"fbb FD", LV + 0x723000, 0x90},
    {"fbb pointers", LV + 0x723600, 0x10},
    {"sbc FD", LV + 0x729000, 0x90},
    {"user FD lock", LV + 0x732000, 0x44},
    {"user FD", LV + 0x733000, 0x240},
    {"user pointers", LV + 0x733600, 0x20},
    {"user FD 2", LV + 0x735000, 0x240},
    {"directory header", LV + 0x800000, 0x18},
    {"dots", LV + 0x8003a8, 0x280},
    {"directory map", LV + 0x810000, 0x60},
    {"entries", LV + 0x811000, 0xa00},
    {"fbb header", LV + 0x900000, 0x48},
    {"fbb child header", LV + 0x901000, 0x58},
    {"lfb cluster", LV + 0x911010, 0x80},
    {"sfb cluster", LV + 0x921010, 0xf0},
    {"host records", LV, 0x200},
    {"mark", LV + 0x1ff000, 0x18},
    {"journal", LV + 0x210000, 0x800},
    {NULL, 0, 0},
};

/* Look at everything; every failure has to come with a text. */
static void walk(struct vmc_vmfs *v, const char *path, unsigned depth)
{
    struct vmc_vmfs_dirent d;
    struct vmc_vmfs_stat st;
    struct vmc_error err = {0};
    uint64_t cookie = 0;
    char sub[2048], buf[4096];

    for (unsigned n = 0; depth < 5 && n < 200; n++) {
        err.text[0] = '\0';
        int rc = vmc_vmfs_readdir(v, path, &cookie, &d, &err);
        if (rc < 0)
            assert_true(err.text[0] != '\0');
        if (rc != 1)
            return;
        if (d.name[0] == '.' && (d.name[1] == '\0' || d.name[1] == '.'))
            continue;
        int length =
            snprintf(sub, sizeof(sub), "%s/%s", strcmp(path, "/") == 0 ? "" : path, d.name);
        if (length >= (int)sizeof(sub))
            continue;
        if (vmc_vmfs_stat(v, sub, &st, &err) != VMC_OK)
            continue;
        if (st.type == VMC_VMFS_DIR)
            walk(v, sub, depth + 1);
        struct vmc_vmfs_file *f;
        if (st.type != VMC_VMFS_FILE || vmc_vmfs_open(v, sub, VMC_VMFS_READ, &f, &err) != VMC_OK)
            continue;
        struct vmc_vmfs_extent x;
        (void)!vmc_vmfs_extent(f, 0, &x, &err);
        for (unsigned k = 0; k < 4; k++)
            (void)!vmc_vmfs_pread(f, buf, sizeof(buf), k * st.bytes / 4, &err);
        (void)!vmc_vmfs_close(f, &err);
    }
}

static int try_mount(struct model_env *e, uint32_t flags, struct vmc_vmfs **v)
{
    struct vmc_vmfs_mount_config c = {.size = sizeof(c),
                                      .flags = flags | VMC_VMFS_EXCLUSIVE | VMC_VMFS_EXPERIMENTAL,
                                      .devs = e->host[0].bd,
                                      .dev_count = 1};
    e->err.text[0] = '\0';
    int rc = vmc_vmfs_mount(&e->tp.pf, &c, v, &e->err);
    if (rc != VMC_OK)
        assert_true(e->err.text[0] != '\0');
    return rc;
}

/* Writing on a damaged volume may fail, but must not crash either. */
static void use(struct model_env *e, struct vmc_vmfs *v)
{
    struct vmc_vmfs_file *f;
    char buf[20000] = {1};

    (void)!vmc_vmfs_mkdir(v, "/new", 0700, &e->err);
    if (vmc_vmfs_open(v, "/new/file", VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &e->err) == VMC_OK) {
        (void)!vmc_vmfs_pwrite(f, buf, sizeof(buf), 0, &e->err);
        (void)!vmc_vmfs_close(f, &e->err);
    }
    (void)!vmc_vmfs_remove(v, "/new/file", &e->err);
    (void)!vmc_vmfs_rename(v, "/n1", "/n2", 0, &e->err);
}

static void damage(struct model_env *e, uint64_t at, unsigned kind)
{
    unsigned char *p = e->disk[0].data + at;

    switch (kind) {
    case 0:
        *p ^= 0xFF;
        break;
    case 1:
        *p += 1;
        break;
    case 2:
        memset(p, 0, 4);
        break;
    default:
        memset(p, 0xFF, 4);
        break;
    }
}

static uint64_t repaired_clean, tried;

static void one(struct model_env *e, uint64_t at, unsigned kind)
{
    struct vmc_vmfs *v;
    struct vmc_vmfs_fsck_result r;
    struct vmc_vmfs_fsck_config look = {.size = sizeof(look)},
                                fix = {.size = sizeof(fix), .repair = true};

    damage(e, at, kind);
    if (try_mount(e, VMC_VMFS_RDONLY, &v) == VMC_OK) {
        walk(v, "/", 0);
        (void)!vmc_vmfs_fsck(v, &look, &r, &e->err);
        (void)!vmc_vmfs_unmount(v, &e->err);
    }
    if (try_mount(e, VMC_VMFS_REPAIR, &v) == VMC_OK) {
        tried++;
        for (unsigned i = 0; i < 3; i++)
            if (vmc_vmfs_fsck(v, &fix, &r, &e->err) != VMC_OK)
                break;
        (void)!vmc_vmfs_unmount(v, &e->err);
        if (try_mount(e, VMC_VMFS_RDONLY, &v) == VMC_OK) {
            if (vmc_vmfs_fsck(v, &look, &r, &e->err) == VMC_OK && r.errors == 0)
                repaired_clean++;
            (void)!vmc_vmfs_unmount(v, &e->err);
        }
    }
    if (try_mount(e, 0, &v) == VMC_OK) {
        use(e, v);
        (void)!vmc_vmfs_unmount(v, &e->err);
    }
}

static void campaign(uint32_t version, const struct area *areas, unsigned step)
{
    struct model_env e;
    struct model m;
    uint64_t used = (version == 6 ? 80 : 40) * MIB;
    unsigned n = 0;

    repaired_clean = tried = 0;
    model_env_init(&e, 1, 300 * MIB, version, 1, 1);
    e.small = true;
    model_init(&m, 5);
    model_mount(&e, 0);
    for (unsigned i = 0; i < 120; i++)
        assert_true(model_step(&e, 0, &m));
    model_unmount(&e, &m, 0);
    unsigned char *good = malloc(used);
    memcpy(good, e.disk[0].data, used);
    for (unsigned a = 0; areas[a].name != NULL; a++)
        for (uint64_t at = n++ % step; at < areas[a].bytes; at += step) {
            one(&e, areas[a].offset + at, (unsigned)(at / step) % 4);
            memcpy(e.disk[0].data, good, used);
        }
    print_message("repair attempted %llu times, clean afterwards %llu times\n",
                  (unsigned long long)tried, (unsigned long long)repaired_clean);
    assert_true(repaired_clean * 10 > tried * 8);
    free(good);
    model_env_fini(&e);
}

static unsigned step(void)
{
    const char *s = getenv("VMC_VMFS_HOSTILE_STEP");

    return s != NULL ? (unsigned)strtoul(s, NULL, 0) : 29;
}

static void every_field_changed(void **state)
{
    (void)state;
    campaign(5, areas5, step());
}

static void every_field_of_vmfs6_changed(void **state)
{
    (void)state;
    campaign(6, areas6, step());
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_field_changed),
                                       cmocka_unit_test(every_field_of_vmfs6_changed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
