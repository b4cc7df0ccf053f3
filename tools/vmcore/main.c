/* SPDX-License-Identifier: BSD-2-Clause */
/* vmcore: one command, a table of subcommands. */
#include "vmcore_cmd.h"

#include <stdio.h>
#include <string.h>

static int cmd_help(int argc, char **argv);
static int cmd_version(int argc, char **argv);

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
} commands[] = {
    {"run", cmd_run, "start a virtual machine"},
    {"trace", cmd_trace, "show translated code beside the guest's"},
    {"host", cmd_host, "run several virtual machines on shared memory"},
    {"ctl", cmd_ctl, "look at and change what a host runs"},
    {"top", cmd_top, "show what a host and its virtual machines do"},
    {"disk", cmd_disk, "make, snapshot, copy and grow disks of virtual machines"},
    {"sim", cmd_sim, "simulate scheduling and memory policy"},
    {"vmfs", cmd_vmfs, "format, read, write, check and mount VMFS volumes"},
    {"help", cmd_help, "list the commands"},
    {"version", cmd_version, "print the version"},
};

static void usage(FILE *to)
{
    fprintf(to, "Usage: vmcore COMMAND [OPTION...]\n\nCommands:\n");
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].about);
    fprintf(to, "\n'vmcore COMMAND --help' explains a command. See also vmcore(1).\n");
}

static int cmd_help(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    usage(stdout);
    return 0;
}

static int cmd_version(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    printf("vmcore %s\n", VMCORE_VERSION);
    return 0;
}

/* Output that was lost, on a full disk for instance, is an error. */
static int written(int rc)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return rc;
    fprintf(stderr, "vmcore: standard output cannot be written\n");
    return rc == EXIT_OK ? EXIT_ERROR : rc;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return EXIT_BAD_ARGS;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        name = "help";
    if (strcmp(name, "--version") == 0)
        name = "version";
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        if (strcmp(name, commands[i].name) == 0)
            return written(commands[i].run(argc - 1, argv + 1));
    fprintf(stderr, "vmcore: no command '%s'; 'vmcore help' lists them\n", name);
    return EXIT_BAD_ARGS;
}
