/* SPDX-License-Identifier: BSD-2-Clause */
/* "vmcore disk": options and the table of subcommands. */
#define _GNU_SOURCE
#include "disk_cmd.h"

#include <stdlib.h>
#include <string.h>

static const struct sub {
    const char *name, *args, *about;
    int (*run)(struct disk_cmd *c);
    int min, max;
} subs[] = {
    {"create", "DISK SIZE", "make an empty disk", disk_create, 2, 2},
    {"info", "DISK", "kind, size and chain of a disk", disk_info, 1, 1},
    {"snapshot", "PARENT CHILD", "keep a disk as it is; go on writing in CHILD", disk_snapshot, 2,
     2},
    {"commit", "CHILD", "write a snapshot's changes into its parent", disk_commit, 1, 1},
    {"revert", "CHILD", "throw a snapshot's changes away", disk_revert, 1, 1},
    {"clone", "FROM TO", "make a full copy of a disk", disk_clone, 2, 2},
    {"grow", "DISK SIZE", "make a disk larger", disk_grow, 2, 2},
    {"compress", "DISK", "compress what a disk holds; it stays usable", disk_compress, 1, 1},
    {"expand", "DISK", "make a compressed disk a thin one", disk_expand, 1, 1},
    {"check", "DISK", "read the tables and compressed parts of a disk", disk_check, 1, 1},
    {"rm", "DISK", "remove a disk", disk_rm, 1, 1},
    {"rdm", "DISK DEVICE", "map a raw device", disk_rdm, 2, 2},
    {"import", "FILE DISK", "make a disk from an image of the host", disk_import, 2, 2},
    {"write", "FILE DISK", "overwrite a disk with an image of the host", disk_write, 2, 2},
    {"export", "DISK FILE", "copy a disk to an image of the host", disk_export, 2, 2},
};

enum { KEY_JSON = 256, KEY_KIND, KEY_LOG, KEY_PHYSICAL, KEY_EXCLUSIVE, KEY_EXPERIMENTAL,
       KEY_READ_ONLY, KEY_RESERVE, KEY_RDM };

static const struct argp_option options[] = {
    {"json", KEY_JSON, 0, 0, "Print JSON", 0},
    {"quiet", 'q', 0, 0, "No progress", 0},
    {"force", 'f', 0, 0, "export: overwrite", 0},
    {"experimental", KEY_EXPERIMENTAL, 0, 0, "Write to VMFS6, which is not fully known", 0},
    {"exclusive", KEY_EXCLUSIVE, 0, 0, "Nobody else uses the volume: no locks between hosts", 0},
    {"reserve", KEY_RESERVE, 0, 0,
     "SCSI disks: have them shut out hosts that are given up (persistent reservations)", 0},
    {"read-only", KEY_READ_ONLY, 0, 0,
     "info, check, export: only read the volume, and do not wait for other hosts (none may be writing)",
     0},
    {"kind", KEY_KIND, "KIND", 0, "create, clone, import: thin (usual), lazy, eager", 0},
    {"log", KEY_LOG, "FORMAT", 0, "snapshot: cowd (usual up to 2 TiB) or sesparse", 0},
    {"physical", KEY_PHYSICAL, 0, 0, "rdm: a physical mapping", 0},
    {"rdm", KEY_RDM, "DEVICE", 0, "The raw device that the disk may be a mapping of", 0},
    {"format", 'O', "FORMAT", 0, "import, write, export: raw, qcow2, ... (through qemu-img)", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *st)
{
    struct disk_cmd *c = st->input;

    switch (key) {
    case KEY_JSON:
        c->vt.json = true;
        return 0;
    case 'q':
        c->vt.quiet = true;
        return 0;
    case 'f':
        c->vt.force = true;
        return 0;
    case KEY_READ_ONLY:
        c->vt.read_only = true;
        return 0;
    case KEY_EXCLUSIVE:
        c->vt.exclusive = true;
        return 0;
    case KEY_RESERVE:
        c->vt.reserve = true;
        return 0;
    case KEY_EXPERIMENTAL:
        c->vt.experimental = true;
        return 0;
    case KEY_KIND:
        c->kind = strcmp(arg, "thin") == 0    ? VMC_DISK_THIN
                  : strcmp(arg, "lazy") == 0  ? VMC_DISK_LAZY
                  : strcmp(arg, "eager") == 0 ? VMC_DISK_EAGER
                                              : 0;
        if (c->kind == 0)
            argp_error(st, "--kind: thin, lazy or eager, not '%s'", arg);
        return 0;
    case KEY_LOG:
        c->log = strcmp(arg, "cowd") == 0       ? VMC_DISK_COWD
                 : strcmp(arg, "sesparse") == 0 ? VMC_DISK_SESPARSE
                                                : 0;
        if (c->log == 0)
            argp_error(st, "--log: cowd or sesparse, not '%s'", arg);
        return 0;
    case KEY_PHYSICAL:
        c->physical = true;
        return 0;
    case KEY_RDM:
        c->vt.rdm = arg;
        return 0;
    case 'O':
        c->vt.format = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (c->vt.args == VT_ARGS)
            argp_error(st, "too many arguments");
        c->vt.arg[c->vt.args++] = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void usage(FILE *to)
{
    fprintf(to,
            "Usage: vmcore disk COMMAND [OPTION...] DISK [ARGUMENT...]\n\n"
            "DISK is vmfs:VOLUME:/FOLDER/NAME.vmdk, on a VMFS volume, or FOLDER/NAME.vmdk of the "
            "host.\nCHILD of a snapshot is a name in its parent's folder.\n\nCommands:\n");
    for (size_t i = 0; i < sizeof(subs) / sizeof(subs[0]); i++)
        fprintf(to, "  %-9s %-14s %s\n", subs[i].name, subs[i].args, subs[i].about);
}

int cmd_disk(int argc, char **argv)
{
    static struct disk_cmd c = {.kind = VMC_DISK_THIN};

    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
        usage(argc < 2 ? stderr : stdout);
        return argc < 2 ? EXIT_BAD_ARGS : EXIT_OK;
    }
    for (size_t i = 0; i < sizeof(subs) / sizeof(subs[0]); i++) {
        const struct sub *s = &subs[i];
        if (strcmp(argv[1], s->name) != 0)
            continue;
        char name[64];
        struct argp argp = {
            .options = options, .parser = parse, .args_doc = s->args, .doc = s->about};
        snprintf(name, sizeof(name), "vmcore disk %s", s->name);
        argv[1] = name;
        c.vt.name = name;
        argp_err_exit_status = EXIT_BAD_ARGS;
        if (argp_parse(&argp, argc - 1, argv + 1, 0, NULL, &c) != 0)
            return EXIT_BAD_ARGS;
        if (c.vt.args < s->min || c.vt.args > s->max) {
            fprintf(stderr, "%s: usage: %s %s\n", name, name, s->args);
            return EXIT_BAD_ARGS;
        }
        int rc = vt_init(&c.vt);
        if (rc == 0)
            rc = s->run(&c);
        rc = disk_volumes_close(&c.volumes, rc);
        vt_stop_end();
        return rc;
    }
    fprintf(stderr, "vmcore disk: no command '%s'; 'vmcore disk help' lists them\n", argv[1]);
    return EXIT_BAD_ARGS;
}
