/* SPDX-License-Identifier: BSD-2-Clause */
/* "vmcore vmfs": options and the table of subcommands. */
#define _GNU_SOURCE
#include "vmfs_tool.h"

#include <stdlib.h>
#include <string.h>

static const struct sub {
    const char *name, *args, *about;
    int (*run)(struct vt *t);
    int min, max;
} subs[] = {
    {"mkfs", "VOLUME", "format a volume", vt_mkfs, 1, 1},
    {"info", "VOLUME", "what a volume says about itself, and who uses it", vt_info, 1, 1},
    {"ls", "VOLUME [PATH]", "list a directory", vt_ls, 1, 2},
    {"tree", "VOLUME [PATH]", "list everything below a directory", vt_tree, 1, 2},
    {"stat", "VOLUME PATH", "everything about one file", vt_stat, 2, 2},
    {"cat", "VOLUME PATH", "write a file to standard output", vt_cat, 2, 2},
    {"cp", "VOLUME FROM TO", "copy a file on a volume", vt_cp, 3, 3},
    {"import", "VOLUME HOSTFILE PATH", "copy a file or disk image onto a volume", vt_import, 3, 3},
    {"export", "VOLUME PATH HOSTFILE", "copy a file off a volume", vt_export, 3, 3},
    {"mkdir", "VOLUME PATH", "make a directory", vt_mkdir, 2, 2},
    {"rm", "VOLUME PATH", "remove a file or directory", vt_rm, 2, 2},
    {"mv", "VOLUME FROM TO", "rename", vt_mv, 3, 3},
    {"truncate", "VOLUME PATH SIZE", "set a file's length", vt_truncate, 3, 3},
    {"df", "VOLUME", "free and used space", vt_df, 1, 1},
    {"fsck", "VOLUME", "check a volume; --repair puts it right", vt_fsck, 1, 1},
    {"mount", "VOLUME DIRECTORY", "mount through FUSE until unmounted", vt_mount_fuse, 2, 2},
    {"nbd", "VOLUME PATH SOCKET", "serve a file over NBD on a Unix socket", vt_nbd, 3, 3},
    {"bench", "VOLUME", "measure metadata operations and I/O", vt_bench, 1, 1},
};

enum { KEY_JSON = 256, KEY_REPAIR, KEY_EXCLUSIVE, KEY_SIZE, KEY_BLOCK, KEY_FDS, KEY_WHOLE, KEY_KIND, KEY_EXPERIMENTAL,
       KEY_SECONDS, KEY_LEASE, KEY_NO_WATCHDOG, KEY_READ_ONLY,
       KEY_RESERVE, KEY_RDM };

#define LEASE_MIN_S 2u
#define LEASE_MAX_S 3600u

static const struct argp_option options[] = {
    {"json", KEY_JSON, 0, 0, "Print JSON", 0},
    {"quiet", 'q', 0, 0, "No progress", 0},
    {"exclusive", KEY_EXCLUSIVE, 0, 0, "Nobody else uses the volume: no locks between hosts", 0},
    {"force", 'f', 0, 0, "Overwrite; mkfs: what is there", 0},
    {"recursive", 'r', 0, 0, "rm: directories with what they hold", 0},
    {"parents", 'p', 0, 0, "mkdir: parents too, and no error if it exists", 0},
    {"repair", KEY_REPAIR, 0, 0, "fsck: put right what is wrong", 0},
    {"experimental", KEY_EXPERIMENTAL, 0, 0, "Make and write to VMFS6, which is not fully known", 0},
    {"label", 'L', "TEXT", 0, "mkfs: name of the volume", 0},
    {"version", 'V', "3|5|6", 0, "mkfs: VMFS version (5)", 0},
    {"size", KEY_SIZE, "SIZE", 0, "mkfs: make files of this size first (each extent)", 0},
    {"block", KEY_BLOCK, "SIZE", 0, "mkfs: file block of VMFS3 (1M, 2M, 4M, 8M)", 0},
    {"files", KEY_FDS, "N", 0, "mkfs: room for so many files", 0},
    {"whole", KEY_WHOLE, 0, 0, "mkfs: no partition table", 0},
    {"format", 'O', "FORMAT", 0, "import, export: raw, qcow2, vmdk, ... (through qemu-img)", 0},
    {"kind", KEY_KIND, "KIND", 0, "import: thin (usual), lazy, eager", 0},
    {"seconds", KEY_SECONDS, "N", 0, "bench: for each measurement (1)", 0},
    {"lease", KEY_LEASE, "SECONDS", 0,
     "mount: a host that is silent for so long is replaced (16)", 0},
    {"read-only", KEY_READ_ONLY, 0, 0,
     "mount, nbd: only read, and do not wait for other hosts (none may be writing)", 0},
    {"reserve", KEY_RESERVE, 0, 0,
     "SCSI disks: have them shut out hosts that are given up (persistent reservations)", 0},
    {"rdm", KEY_RDM, "DEVICE", 0, "nbd: the raw device that the image may be a mapping of", 0},
    {"no-watchdog", KEY_NO_WATCHDOG, 0, 0,
     "Go on after having been stopped for longer than the lease (for debuggers)", 0},
    {0},
};

static error_t number(struct argp_state *st, const char *what, const char *arg, uint64_t max,
                      uint64_t *out)
{
    if (!vt_parse_size(arg, out))
        argp_error(st, "%s: '%s' is no size", what, arg);
    if (*out > max)
        argp_error(st, "%s: %s is too large", what, arg);
    return 0;
}

static error_t parse(int key, char *arg, struct argp_state *st)
{
    struct vt *t = st->input;
    uint64_t n = 0;
    char *end;

    switch (key) {
    case KEY_JSON:
        t->json = true;
        return 0;
    case 'q':
        t->quiet = true;
        return 0;
    case KEY_EXCLUSIVE:
        t->exclusive = true;
        return 0;
    case KEY_RDM:
        t->rdm = arg;
        return 0;
    case KEY_RESERVE:
        t->reserve = true;
        return 0;
    case 'f':
        t->force = true;
        return 0;
    case 'r':
        t->recursive = true;
        return 0;
    case 'p':
        t->parents = true;
        return 0;
    case KEY_REPAIR:
        t->repair = true;
        return 0;
    case KEY_EXPERIMENTAL:
        t->experimental = true;
        return 0;
    case 'L':
        t->label = arg;
        return 0;
    case 'V':
        if (strlen(arg) != 1 || strchr("356", arg[0]) == NULL)
            argp_error(st, "--version: 3, 5 or 6, not '%s'", arg);
        t->version = (uint32_t)(arg[0] - '0');
        return 0;
    case KEY_SIZE:
        return number(st, "--size", arg, INT64_MAX, &t->size);
    case KEY_BLOCK:
        return number(st, "--block", arg, UINT32_MAX, &t->block);
    case KEY_FDS:
        number(st, "--files", arg, UINT32_MAX, &n);
        t->fds = (uint32_t)n;
        return 0;
    case KEY_WHOLE:
        t->no_partition = true;
        return 0;
    case 'O':
        t->format = arg;
        return 0;
    case KEY_KIND:
        if (strcmp(arg, "thin") != 0 && strcmp(arg, "lazy") != 0 && strcmp(arg, "eager") != 0)
            argp_error(st, "--kind: thin, lazy or eager, not '%s'", arg);
        t->kind = arg;
        return 0;
    case KEY_SECONDS:
        t->seconds = strtod(arg, &end);
        if (end == arg || *end != '\0' || !(t->seconds > 0 && t->seconds <= 1e6))
            argp_error(st, "--seconds: a positive number of seconds, not '%s'", arg);
        return 0;
    case KEY_LEASE:
        number(st, "--lease", arg, UINT64_MAX, &n);
        if (n < LEASE_MIN_S || n > LEASE_MAX_S)
            argp_error(st, "--lease: %u to %u seconds", LEASE_MIN_S, LEASE_MAX_S);
        t->lease_s = (uint32_t)n;
        return 0;
    case KEY_READ_ONLY:
        t->read_only = true;
        return 0;
    case KEY_NO_WATCHDOG:
        t->no_watchdog = true;
        return 0;
    case ARGP_KEY_ARG:
        if (t->args == VT_ARGS)
            argp_error(st, "too many arguments");
        t->arg[t->args++] = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void usage(FILE *to)
{
    fprintf(to, "Usage: vmcore vmfs COMMAND [OPTION...] VOLUME[,VOLUME...] [ARGUMENT...]\n\n"
                "VOLUME is an image file or a disk; the extents of one volume are separated by "
                "commas.\n\nCommands:\n");
    for (size_t i = 0; i < sizeof(subs) / sizeof(subs[0]); i++)
        fprintf(to, "  %-9s %-22s %s\n", subs[i].name, subs[i].args, subs[i].about);
}

int cmd_vmfs(int argc, char **argv)
{
    static struct vt t;

    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
        usage(argc < 2 ? stderr : stdout);
        return argc < 2 ? EXIT_BAD_ARGS : EXIT_OK;
    }
    for (size_t i = 0; i < sizeof(subs) / sizeof(subs[0]); i++) {
        const struct sub *s = &subs[i];
        if (strcmp(argv[1], s->name) != 0)
            continue;
        char name[64];
        struct argp argp = {.options = options, .parser = parse, .args_doc = s->args,
                            .doc = s->about};
        snprintf(name, sizeof(name), "vmcore vmfs %s", s->name);
        argv[1] = name;
        t.name = name;
        argp_err_exit_status = EXIT_BAD_ARGS;
        if (argp_parse(&argp, argc - 1, argv + 1, 0, NULL, &t) != 0)
            return EXIT_BAD_ARGS;
        if (t.args < s->min || t.args > s->max) {
            fprintf(stderr, "%s: usage: %s %s\n", name, name, s->args);
            return EXIT_BAD_ARGS;
        }
        int rc = vt_init(&t);
        if (rc == 0)
            rc = s->run(&t);
        vt_stop_end();
        return rc;
    }
    fprintf(stderr, "vmcore vmfs: no command '%s'; see vmcore vmfs --help\n", argv[1]);
    return EXIT_BAD_ARGS;
}
