/* SPDX-License-Identifier: BSD-2-Clause */
/* vmcore sim: the simulators, one word each. */
#include "sim_memory.h"
#include "sim_sched.h"
#include "vmcore_cmd.h"

#include <string.h>

int cmd_sim(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "sched") == 0)
        return cmd_sim_sched(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "memory") == 0)
        return cmd_sim_memory(argc - 1, argv + 1);
    fprintf(argc >= 2 && strcmp(argv[1], "--help") == 0 ? stdout : stderr,
            "Usage: vmcore sim sched [OPTION...] SCENARIO.json\n"
            "       vmcore sim memory [OPTION...] TRACE\n");
    return argc >= 2 && strcmp(argv[1], "--help") == 0 ? EXIT_OK : EXIT_BAD_ARGS;
}
