/* SPDX-License-Identifier: BSD-2-Clause */
/* vmcore ctl: what the control socket of "vmcore host" offers, from the shell. */
#include "ctl_client.h"
#include "host_config.h"
#include "vmcore_cmd.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#define WHO "vmcore ctl"

struct request {
    struct ctl ctl;
    bool json;
    int argc; /* what follows the command */
    char **argv;
};

static void usage(FILE *to)
{
    fprintf(to,
            "Usage: vmcore ctl [--json] SOCKET COMMAND\n\n"
            "Talks to vmcore host (and, as far as it has them, to vmcore run --control).\n\n"
            "  list                 the VMs and their states\n"
            "  stats [VM]           memory of the host and its VMs, in MiB\n"
            "  pause VM, resume VM  stop its processors, and go on\n"
            "  powerdown VM         press its power button\n"
            "  quit [VM]            end a VM, or everything\n"
            "  set VM NAME=VALUE... change what it is entitled to, at once:\n"
            "                       memory-shares=N, memory-reservation=SIZE, memory-limit=SIZE,\n"
            "                       cpu-shares=N, cpu-reservation=CPUS, cpu-limit=CPUS,\n"
            "                       cpu-cap=CPUS (of each processor), cpu-affinity=LIST (0,2-3 or\n"
            "                       all); CPUS: 0.5, or 50%% (limit, cap 0: none)\n"
            "  pools                the pools of VMs that share processors\n"
            "  set-pool POOL NAME=VALUE...  cpu-shares, cpu-reservation, cpu-limit of a pool\n"
            "  balloon VM SIZE      how large its balloon shall be; auto: as the policy says\n"
            "  idle-tax PERCENT     the price of idle memory, 0 to 99\n\n"
            "  -j, --json           print what the socket answered\n"
            "Exit status: 0 done, 2 bad arguments, 4 the host refused or does not answer.\n");
}

static int bad_usage(const char *why)
{
    fprintf(stderr, WHO ": %s; 'vmcore ctl --help' explains\n", why);
    return EXIT_BAD_ARGS;
}

static struct json_object *vm_params(const char *name)
{
    struct json_object *o = json_object_new_object();

    json_object_object_add(o, "vm", json_object_new_string(name));
    return o;
}

/* Print a result as it is. */
static void print_json(struct json_object *o)
{
    printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY));
}

/* ---- looking -----------------------------------------------------------------------------------
 */

static unsigned long long mib(struct json_object *o, const char *name)
{
    return (unsigned long long)(ctl_u64(o, name) >> 20);
}

static void print_vm_line(struct json_object *vm)
{
    printf("%-20s %-8s %4llu CPUs %7llu MiB  %s\n", ctl_text(vm, "name"), ctl_vm_state(vm),
           (unsigned long long)ctl_u64(vm, "cpus"), mib(vm, "memory_bytes"),
           ctl_text(vm, "reason"));
}

static int cmd_list(struct request *r)
{
    struct json_object *o = ctl_call(&r->ctl, "status", NULL);
    struct json_object *vms = ctl_object(o, "vms");

    if (o == NULL)
        return EXIT_ERROR;
    if (r->json)
        print_json(o);
    else if (vms == NULL) /* a single one: vmcore run */
        print_vm_line(o);
    for (size_t i = 0; !r->json && i < ctl_length(vms); i++)
        print_vm_line(ctl_at(vms, i));
    json_object_put(o);
    return EXIT_OK;
}

static void print_host(struct json_object *h)
{
    printf("host: %s, memory %llu MiB, free %llu, private %llu, shared %llu, compressed %llu, "
           "metadata %llu, idle tax %llu %%\n\n",
           ctl_text(h, "state"), mib(h, "memory"), mib(h, "free"), mib(h, "private"),
           mib(h, "shared"), mib(h, "store"), mib(h, "metadata"),
           (unsigned long long)ctl_u64(h, "idle_tax"));
    printf("%-16s %-8s %6s %6s %6s %6s %6s %6s %6s %6s %6s %6s\n", "VM", "STATE", "CONF", "GRANT",
           "TARGET", "ACTIVE", "SHARED", "SAVED", "BALLN", "COMPR", "SWAP", "OVHD");
}

static void print_memory(struct json_object *vm)
{
    struct json_object *m = ctl_object(vm, "memory");

    printf("%-16s %-8s %6llu %6llu %6llu %6llu %6llu %6llu %6llu %6llu %6llu %6llu\n",
           ctl_text(vm, "name"), ctl_vm_state(vm), mib(m, "configured"), mib(m, "granted"),
           mib(m, "target"), mib(m, "active"), mib(m, "shared"), mib(m, "saved"),
           mib(m, "ballooned"), mib(m, "compressed"), mib(m, "swapped"), mib(m, "overhead"));
}

static int cmd_stats(struct request *r)
{
    struct json_object *o = ctl_call(&r->ctl, "stats", NULL);
    struct json_object *vms = ctl_object(o, "vms");
    bool found = r->argc == 0;

    if (o == NULL)
        return EXIT_ERROR;
    for (size_t i = 0; !found && i < ctl_length(vms); i++)
        found = strcmp(ctl_text(ctl_at(vms, i), "name"), r->argv[0]) == 0;
    if (!found)
        fprintf(stderr, WHO ": there is no VM '%s'\n", r->argv[0]);
    else if (!r->json)
        print_host(ctl_object(o, "host"));
    else if (r->argc == 0)
        print_json(o);
    for (size_t i = 0; found && i < ctl_length(vms); i++) {
        struct json_object *vm = ctl_at(vms, i);
        bool asked = r->argc == 1 && strcmp(ctl_text(vm, "name"), r->argv[0]) == 0;
        if (!r->json && (asked || r->argc == 0))
            print_memory(vm);
        else if (r->json && asked)
            print_json(vm);
    }
    json_object_put(o);
    return found ? EXIT_OK : EXIT_ERROR;
}

/* ---- doing -------------------------------------------------------------------------------------
 */

static int call(struct request *r, const char *method, struct json_object *params)
{
    struct json_object *o = ctl_call(&r->ctl, method, params);

    if (o == NULL)
        return EXIT_ERROR;
    if (r->json)
        print_json(o);
    json_object_put(o);
    return EXIT_OK;
}

static int cmd_pause(struct request *r)
{
    return call(r, "pause", vm_params(r->argv[0]));
}

static int cmd_resume(struct request *r)
{
    return call(r, "resume", vm_params(r->argv[0]));
}

static int cmd_powerdown(struct request *r)
{
    return call(r, "powerdown", vm_params(r->argv[0]));
}

static int cmd_quit(struct request *r)
{
    return call(r, "quit", r->argc == 1 ? vm_params(r->argv[0]) : NULL);
}

static bool parse_count(const char *text, uint64_t max, uint64_t *out)
{
    char *end;

    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    *out = v;
    return *text >= '0' && *text <= '9' && errno == 0 && *end == '\0' && v <= max;
}

/* CPUs, as 0.5 or 50%, in millionths. */
static bool parse_cpus(const char *text, uint64_t *out)
{
    char *end;
    double v = strtod(text, &end);

    if (end != text && strcmp(end, "%") == 0) {
        v /= 100;
        end++;
    }
    if (end == text || *end != '\0' || !(v >= 0 && v <= HOST_MAX_CPUS))
        return false;
    *out = (uint64_t)(v * 1000000 + 0.5);
    return true;
}

static bool add_setting(struct json_object *params, char *arg)
{
    static const struct {
        const char *name, *param;
        enum { COUNT, SIZE, CPUS, SET } kind;
    } settings[] = {
        {"memory-shares", "memory_shares", COUNT},
        {"memory-reservation", "memory_reservation", SIZE},
        {"memory-limit", "memory_limit", SIZE},
        {"cpu-shares", "cpu_shares", COUNT},
        {"cpu-reservation", "cpu_reservation", CPUS},
        {"cpu-limit", "cpu_limit", CPUS},
        {"cpu-cap", "cpu_cap", CPUS},
        {"cpu-affinity", "cpu_affinity", SET},
    };
    char *value = strchr(arg, '=');
    struct host_cpu_set set;
    uint64_t v = 0;

    if (value == NULL)
        return false;
    *value++ = '\0';
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        if (strcmp(arg, settings[i].name) != 0)
            continue;
        bool ok = settings[i].kind == COUNT  ? parse_count(value, HOST_MAX_SHARES, &v)
                  : settings[i].kind == SIZE ? host_parse_size(value, &v)
                  : settings[i].kind == CPUS ? parse_cpus(value, &v)
                                             : host_parse_cpu_set(value, &set);
        if (ok && settings[i].kind == SET)
            json_object_object_add(params, settings[i].param, json_object_new_string(value));
        else if (ok)
            json_object_object_add(params, settings[i].param, json_object_new_uint64(v));
        return ok;
    }
    return false;
}

static int cmd_pools(struct request *r)
{
    struct json_object *o = ctl_call(&r->ctl, "stats", NULL);
    struct json_object *pools = ctl_object(o, "cpu_pools");

    if (o == NULL)
        return EXIT_ERROR;
    if (r->json && pools != NULL)
        print_json(pools);
    for (size_t i = 0; !r->json && i < ctl_length(pools); i++) {
        struct json_object *p = ctl_at(pools, i);
        struct json_object *cpu = ctl_object(p, "cpu");
        printf("%-16s in %-16s %7llu shares, reservation %.2f CPUs, limit %.2f\n",
               ctl_text(p, "name"), ctl_text(p, "parent")[0] != '\0' ? ctl_text(p, "parent") : "-",
               (unsigned long long)ctl_u64(cpu, "shares"),
               (double)ctl_u64(cpu, "reservation") / 1e6, (double)ctl_u64(cpu, "limit") / 1e6);
    }
    json_object_put(o);
    return EXIT_OK;
}

static int set(struct request *r, const char *method, struct json_object *params)
{
    for (int i = 1; i < r->argc; i++) {
        if (add_setting(params, r->argv[i]))
            continue;
        json_object_put(params);
        return bad_usage("a setting is not known or has no sensible value");
    }
    return call(r, method, params);
}

static int cmd_set(struct request *r)
{
    return set(r, "set", vm_params(r->argv[0]));
}

static int cmd_set_pool(struct request *r)
{
    struct json_object *params = json_object_new_object();

    json_object_object_add(params, "pool", json_object_new_string(r->argv[0]));
    return set(r, "set_pool", params);
}

static int cmd_balloon(struct request *r)
{
    struct json_object *params = vm_params(r->argv[0]);
    uint64_t bytes = 0;

    if (strcmp(r->argv[1], "auto") == 0) {
        json_object_object_add(params, "target", NULL);
    } else if (host_parse_size(r->argv[1], &bytes)) {
        json_object_object_add(params, "target", json_object_new_uint64(bytes));
    } else {
        json_object_put(params);
        return bad_usage("the balloon's size is not a size (64M, or auto)");
    }
    return call(r, "balloon", params);
}

static int cmd_idle_tax(struct request *r)
{
    struct json_object *params = json_object_new_object();
    uint64_t percent = 0;

    if (!parse_count(r->argv[0], 99, &percent)) {
        json_object_put(params);
        return bad_usage("the idle tax is a number from 0 to 99");
    }
    json_object_object_add(params, "percent", json_object_new_uint64(percent));
    return call(r, "idle_tax", params);
}

int cmd_ctl(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(struct request *);
        int min, max; /* arguments */
    } commands[] = {
        {"list", cmd_list, 0, 0},
        {"stats", cmd_stats, 0, 1},
        {"pause", cmd_pause, 1, 1},
        {"resume", cmd_resume, 1, 1},
        {"powerdown", cmd_powerdown, 1, 1},
        {"quit", cmd_quit, 0, 1},
        {"set", cmd_set, 2, 32},
        {"set-pool", cmd_set_pool, 2, 32},
        {"pools", cmd_pools, 0, 0},
        {"balloon", cmd_balloon, 2, 2},
        {"idle-tax", cmd_idle_tax, 1, 1},
    };
    static const struct option longs[] = {
        {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    struct request r = {0};
    int c;

    optind = 1;
    while ((c = getopt_long(argc, argv, "jh", longs, NULL)) != -1) {
        if (c == 'h')
            usage(stdout);
        if (c != 'j')
            return c == 'h' ? EXIT_OK : EXIT_BAD_ARGS;
        r.json = true;
    }
    if (argc - optind < 2)
        return bad_usage("give a socket and a command");
    r.argc = argc - optind - 2;
    r.argv = argv + optind + 2;
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(argv[optind + 1], commands[i].name) != 0)
            continue;
        if (r.argc < commands[i].min || r.argc > commands[i].max)
            return bad_usage("wrong number of arguments");
        if (ctl_open(&r.ctl, WHO, argv[optind]) != 0)
            return EXIT_ERROR;
        int rc = commands[i].run(&r);
        ctl_close(&r.ctl);
        return rc;
    }
    return bad_usage("no such command");
}
