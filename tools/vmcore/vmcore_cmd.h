/* SPDX-License-Identifier: BSD-2-Clause */
/* What the subcommands share. */
#ifndef VMCORE_CMD_H
#define VMCORE_CMD_H

/* Exit statuses of our own are even; a guest's are (v << 1) | 1. */
enum {
    EXIT_OK = 0,
    EXIT_BAD_ARGS = 2,
    EXIT_ERROR = 4,
    EXIT_GUEST_CRASH = 6,
    EXIT_TIMEOUT = 124,
};

int cmd_run(int argc, char **argv);
int cmd_trace(int argc, char **argv);
int cmd_host(int argc, char **argv);
int cmd_ctl(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_vmfs(int argc, char **argv);
int cmd_disk(int argc, char **argv);
int cmd_sim(int argc, char **argv);

#endif
