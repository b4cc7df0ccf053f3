/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmcore_cmd.h"

int cmd_run(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    return EXIT_ERROR;
}
