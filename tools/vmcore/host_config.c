/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The configuration is in libconfig's language. What describes a machine is handed to the parser of
 * "vmcore run" as if it had been typed there, so that the two cannot differ.
 */
#define _GNU_SOURCE
#include "host_config.h"

#include "vmcore_cmd.h"

#include <errno.h>
#include <libconfig.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmcore/memory.h>

#define MAX_ARGS (16 + 2 * (RUN_MAX_DISKS + RUN_MAX_NETS + RUN_MAX_MODULES))

struct reader {
    const char *path;
    int status; /* EXIT_BAD_ARGS once something was wrong */
};

/* A setting may be in a file that the configuration includes. */
static const char *file_of(const struct reader *r, const config_setting_t *at)
{
    const char *file = config_setting_source_file(at);

    return file != NULL ? file : r->path;
}

/* At a setting, or NULL: about the file as a whole. */
static void bad(struct reader *r, const config_setting_t *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void bad(struct reader *r, const config_setting_t *at, const char *fmt, ...)
{
    va_list ap;

    if (at == NULL)
        fprintf(stderr, "vmcore host: %s: ", r->path);
    else
        fprintf(stderr, "vmcore host: %s:%u: ", file_of(r, at), config_setting_source_line(at));
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    r->status = EXIT_BAD_ARGS;
}

bool host_parse_size(const char *text, uint64_t *bytes)
{
    static const char units[] = "KMGT";
    char *end;
    unsigned shift = 20;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    const char *unit = *end != '\0' ? strchr(units, *end) : NULL;
    if (unit != NULL) {
        shift = 10 * (unsigned)(unit - units + 1);
        end++;
    }
    if (errno != 0 || (strcmp(end, "") != 0 && strcmp(end, "iB") != 0) || v > RUN_MAX_MEM >> shift)
        return false;
    *bytes = (uint64_t)v << shift;
    return true;
}

/* ---- kinds of settings -------------------------------------------------------------------------
 */

static const char *get_string(struct reader *r, const config_setting_t *s)
{
    const char *text = config_setting_get_string(s);

    if (text == NULL)
        bad(r, s, "%s: expected a string", config_setting_name(s));
    return text;
}

static void read_string(struct reader *r, const config_setting_t *s, char **out)
{
    const char *text = get_string(r, s);

    free(*out);
    *out = text != NULL ? strdup(text) : NULL;
}

static uint64_t read_number(struct reader *r, const config_setting_t *s, uint64_t min, uint64_t max)
{
    int type = config_setting_type(s);
    long long v =
        type == CONFIG_TYPE_INT || type == CONFIG_TYPE_INT64 ? config_setting_get_int64(s) : -1;

    if (v >= 0 && (uint64_t)v >= min && (uint64_t)v <= max)
        return (uint64_t)v;
    bad(r, s, "%s: must be a number from %llu to %llu", config_setting_name(s),
        (unsigned long long)min, (unsigned long long)max);
    return min;
}

static bool read_bool(struct reader *r, const config_setting_t *s)
{
    if (config_setting_type(s) != CONFIG_TYPE_BOOL)
        bad(r, s, "%s: must be true or false", config_setting_name(s));
    return config_setting_get_bool(s) != 0;
}

static uint64_t read_size(struct reader *r, const config_setting_t *s)
{
    uint64_t v = 0;
    const char *text = get_string(r, s);

    if (text != NULL && !host_parse_size(text, &v))
        bad(r, s, "%s: '%s' is not a size (such as \"256M\")", config_setting_name(s), text);
    if (v != 0 && v < VMC_PAGE_SIZE) /* rounded down it would be none, which no limit is */
        bad(r, s, "%s: '%s' is less than a page", config_setting_name(s), text);
    return v & ~(VMC_PAGE_SIZE - 1ull);
}

/* Speed of this machine's CPUs as Linux tells it, MHz; 0: unknown. */
static double host_mhz(void)
{
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256];
    double mhz = 0;

    while (f != NULL && mhz == 0 && fgets(line, sizeof(line), f) != NULL)
        if (sscanf(line, "cpu MHz : %lf", &mhz) != 1)
            mhz = 0;
    if (f != NULL)
        fclose(f);
    return mhz;
}

/* Part of a CPU, as "50%" or "1200MHz", in millionths. */
static uint64_t read_cpu_part(struct reader *r, const config_setting_t *s, const char *text)
{
    char *end;
    double v = strtod(text, &end);
    double one = strcmp(end, "%") == 0 ? 100 : strcmp(end, "MHz") == 0 ? host_mhz() : -1;

    if (one == 0)
        bad(r, s, "%s: this machine does not tell how fast its CPUs are: say \"50%%\" or 0.5",
            config_setting_name(s));
    else if (end == text || one < 0 || !(v >= 0 && v <= one * RUN_MAX_CPUS))
        bad(r, s, "%s: '%s' is neither a number of CPUs nor such as \"50%%\" or \"1200MHz\"",
            config_setting_name(s), text);
    else
        return (uint64_t)(v / one * 1000000.0 + 0.5);
    return 0;
}

/* CPUs, as 1.5 or 2, or a part of one in other units, in millionths. */
static uint64_t read_cpus(struct reader *r, const config_setting_t *s)
{
    if (config_setting_type(s) == CONFIG_TYPE_STRING)
        return read_cpu_part(r, s, config_setting_get_string(s));
    double v = config_setting_type(s) == CONFIG_TYPE_FLOAT ? config_setting_get_float(s)
                                                           : (double)config_setting_get_int64(s);

    if (config_setting_is_number(s) && v >= 0 && v <= RUN_MAX_CPUS)
        return (uint64_t)(v * 1000000.0 + 0.5);
    bad(r, s, "%s: must be a number of CPUs from 0 to %d", config_setting_name(s), RUN_MAX_CPUS);
    return 0;
}

static uint32_t read_cap(struct reader *r, const config_setting_t *s)
{
    uint64_t v = read_cpus(r, s);

    if (r->status == 0 && (v < 1000 || v > 1000000))
        bad(r, s, "%s: a processor can be held to 0.001 to 1 of one of the host",
            config_setting_name(s));
    return (uint32_t)v;
}

static void read_cpu_set(struct reader *r, const config_setting_t *s, struct host_cpu_set *out)
{
    const char *text = get_string(r, s);

    if (text != NULL && !host_parse_cpu_set(text, out))
        bad(r, s, "%s: '%s' is not a list of processors (such as \"0,2-3\", or \"all\")",
            config_setting_name(s), text);
}

static void read_share(struct reader *r, const config_setting_t *g, struct host_share *out,
                       uint64_t (*amount)(struct reader *, const config_setting_t *))
{
    if (!config_setting_is_group(g)) {
        bad(r, g, "%s: expected { shares, reservation, limit }", config_setting_name(g));
        return;
    }
    for (unsigned i = 0; i < (unsigned)config_setting_length(g); i++) {
        const config_setting_t *s = config_setting_get_elem(g, i);
        const char *name = config_setting_name(s);
        if (strcmp(name, "shares") == 0)
            out->shares = (uint32_t)read_number(r, s, 1, HOST_MAX_SHARES);
        else if (strcmp(name, "reservation") == 0)
            out->reservation = amount(r, s);
        else if (strcmp(name, "limit") == 0)
            out->limit = amount(r, s);
        else
            bad(r, s, "%s: unknown (shares, reservation, limit)", name);
    }
    if (out->limit != 0 && out->reservation > out->limit)
        bad(r, g, "%s: the reservation is larger than the limit", config_setting_name(g));
}

/* ---- a VM --------------------------------------------------------------------------------------
 */

/* A command line for run_options_parse under construction. */
struct args {
    char *argv[MAX_ARGS + 2];
    int argc;
};

static void add_arg(struct args *a, const char *option, const char *value)
{
    char *text = NULL;

    if (value == NULL || a->argc > MAX_ARGS || asprintf(&text, "--%s=%s", option, value) < 0)
        return;
    a->argv[a->argc++] = text;
    a->argv[a->argc] = NULL;
}

static void add_number(struct args *a, const char *option, uint64_t v)
{
    char text[24];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)v);
    add_arg(a, option, text);
}

/* One string, or a list of them: an option each. */
static void add_list(struct reader *r, struct args *a, const char *option,
                     const config_setting_t *s, unsigned max)
{
    if (config_setting_type(s) == CONFIG_TYPE_STRING) {
        add_arg(a, option, config_setting_get_string(s));
        return;
    }
    unsigned n = config_setting_is_aggregate(s) ? (unsigned)config_setting_length(s) : 0;
    if (!config_setting_is_aggregate(s) || config_setting_is_group(s) || n > max)
        bad(r, s, "%s: expected a string, or a list of at most %u", config_setting_name(s), max);
    for (unsigned i = 0; i < n && i < max; i++)
        add_arg(a, option, get_string(r, config_setting_get_elem(s, i)));
}

/* What is not about the machine; false: it is. */
static bool read_vm_policy(struct reader *r, const config_setting_t *s, struct host_vm_config *vm)
{
    const char *name = config_setting_name(s);

    if (strcmp(name, "memory_policy") == 0)
        read_share(r, s, &vm->mem, read_size);
    else if (strcmp(name, "cpu_policy") == 0)
        read_share(r, s, &vm->cpu.share, read_cpus);
    else if (strcmp(name, "cpu_pool") == 0)
        vm->pool = get_string(r, s) != NULL ? s : NULL;
    else if (strcmp(name, "cpu_cap") == 0)
        vm->cpu.cap = read_cap(r, s);
    else if (strcmp(name, "cpu_affinity") == 0)
        read_cpu_set(r, s, &vm->cpu.set);
    else if (strcmp(name, "trust") == 0)
        read_string(r, s, &vm->trust);
    else if (strcmp(name, "large_pages") == 0)
        vm->large = read_bool(r, s);
    else
        return false;
    return true;
}

static void read_vm_machine(struct reader *r, const config_setting_t *s, struct args *a)
{
    static const struct {
        const char *setting, *option;
    } texts[] = {
        {"name", "name"},         {"kernel", "kernel"},
        {"initrd", "initrd"},     {"cmdline", "cmdline"},
        {"firmware", "firmware"}, {"memory", "mem"},
        {"cpu", "cpu"},           {"serial", "serial"},
        {"debugcon", "debugcon"}, {"hypervisor", "hypervisor"},
        {"engine", "engine"},
    };
    const char *name = config_setting_name(s);

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        if (strcmp(name, texts[i].setting) == 0) {
            add_arg(a, texts[i].option, get_string(r, s));
            return;
        }
    }
    if (strcmp(name, "cpus") == 0)
        add_number(a, "cpus", read_number(r, s, 1, RUN_MAX_CPUS));
    else if (strcmp(name, "load_at") == 0)
        add_number(a, "load-at", read_number(r, s, 0, 0xfffff));
    else if (strcmp(name, "exit_port") == 0)
        add_number(a, "exit-port", read_number(r, s, 1, 0xffff));
    else if (strcmp(name, "disks") == 0)
        add_list(r, a, "disk", s, RUN_MAX_DISKS);
    else if (strcmp(name, "nets") == 0)
        add_list(r, a, "net", s, RUN_MAX_NETS);
    else if (strcmp(name, "modules") == 0)
        add_list(r, a, "module", s, RUN_MAX_MODULES);
    else
        bad(r, s, "%s: no such setting of a VM", name);
}

static void check_vm(struct reader *r, const config_setting_t *g, struct host_vm_config *vm)
{
    if (vm->run.serial.kind == RUN_CHR_STDIO || vm->run.debugcon.kind == RUN_CHR_STDIO)
        bad(r, g, "VM '%s': a console cannot be on stdio here", vm->run.name);
    if (vm->run.engine == RUN_ENGINE_AUTO)
        bad(r, g, "VM '%s': engine: expected \"soft\" or \"kvm\"", vm->run.name);
    if (vm->mem.reservation > vm->run.mem_bytes)
        bad(r, g, "VM '%s': more memory is reserved than it has", vm->run.name);
    if (vm->mem.limit > vm->run.mem_bytes)
        bad(r, g, "VM '%s': the memory limit is more than it has", vm->run.name);
    if (vm->cpu.share.reservation > vm->run.cpus * 1000000ull)
        bad(r, g, "VM '%s': more CPU is reserved than it has processors", vm->run.name);
}

static void read_vm(struct reader *r, const config_setting_t *g, struct host_vm_config *vm,
                    unsigned index)
{
    struct args a = {.argc = 1};
    char name[32];
    const char *given = NULL;

    vm->mem.shares = vm->cpu.share.shares = 1000;
    vm->cpu.set.any = true;
    vm->cpu_pool = HOST_NO_POOL;
    if (!config_setting_is_group(g)) {
        bad(r, g, "vms: expected a list of groups, ( { ... }, { ... } )");
        return;
    }
    if (!config_setting_lookup_string(g, "name", &given)) {
        snprintf(name, sizeof(name), "vm%u", index + 1);
        add_arg(&a, "name", name);
        given = name;
    }
    add_arg(&a, "serial", "none");
    add_arg(&a, "engine", "soft");
    for (unsigned i = 0; i < (unsigned)config_setting_length(g); i++) {
        const config_setting_t *s = config_setting_get_elem(g, i);
        if (!read_vm_policy(r, s, vm))
            read_vm_machine(r, s, &a);
    }
    if (r->status == 0) {
        snprintf(run_who, sizeof(run_who), "vmcore host: %s:%u: VM '%.40s'", file_of(r, g),
                 config_setting_source_line(g), given);
        if (run_options_parse(a.argc, a.argv, true, &vm->run) >= 0)
            r->status = EXIT_BAD_ARGS;
        else
            check_vm(r, g, vm);
    }
    for (int i = 1; i < a.argc; i++)
        free(a.argv[i]);
}

/* ---- the file ----------------------------------------------------------------------------------
 */

static void read_vms(struct reader *r, const config_setting_t *list, struct host_config *c)
{
    unsigned n = config_setting_is_list(list) ? (unsigned)config_setting_length(list) : 0;

    if (n == 0 || n > HOST_MAX_VMS) {
        bad(r, list, "vms: expected a list of 1 to %d VMs, ( { ... }, { ... } )", HOST_MAX_VMS);
        return;
    }
    c->vms = calloc(n, sizeof(*c->vms));
    if (c->vms == NULL) {
        fprintf(stderr, "vmcore host: out of memory\n");
        r->status = EXIT_ERROR;
        return;
    }
    c->vm_count = n;
    for (unsigned i = 0; r->status == 0 && i < n; i++) {
        const config_setting_t *g = config_setting_get_elem(list, i);
        read_vm(r, g, &c->vms[i], i);
        for (unsigned k = 0; r->status == 0 && k < i; k++)
            if (strcmp(c->vms[k].run.name, c->vms[i].run.name) == 0)
                bad(r, g, "two VMs are called '%s'", c->vms[i].run.name);
    }
}

static unsigned find_pool(const struct host_config *c, const char *name)
{
    for (unsigned i = 0; i < c->cpu_pool_count; i++)
        if (c->cpu_pools[i].name != NULL && strcmp(c->cpu_pools[i].name, name) == 0)
            return i;
    return HOST_NO_POOL;
}

/* c->cpu_pools has those before it, so that no pool is below itself. */
static void read_cpu_pool(struct reader *r, const config_setting_t *g, struct host_config *c)
{
    struct host_cpu_pool_config *p = &c->cpu_pools[c->cpu_pool_count];
    const char *text = NULL;

    p->parent = HOST_NO_POOL;
    p->share.shares = 1000;
    if (!config_setting_is_group(g) || !config_setting_lookup_string(g, "name", &text)) {
        bad(r, g, "cpu_pools: expected a list of groups with names, ( { name = \"...\"; } )");
        return;
    }
    if (find_pool(c, text) != HOST_NO_POOL)
        bad(r, g, "two pools are called '%s'", text);
    for (unsigned i = 0; i < (unsigned)config_setting_length(g); i++) {
        const config_setting_t *s = config_setting_get_elem(g, i);
        const char *name = config_setting_name(s);
        if (strcmp(name, "name") == 0) {
            read_string(r, s, &p->name);
        } else if (strcmp(name, "parent") == 0) {
            text = get_string(r, s);
            if (text != NULL && (p->parent = find_pool(c, text)) == HOST_NO_POOL)
                bad(r, s, "parent: there is no pool '%s' before this one", text);
        } else if (strcmp(name, "cpu_policy") == 0) {
            read_share(r, s, &p->share, read_cpus);
        } else {
            bad(r, s, "%s: no such setting of a pool", name);
        }
    }
    c->cpu_pool_count++;
}

static void read_cpu_pools(struct reader *r, const config_setting_t *list, struct host_config *c)
{
    unsigned n = config_setting_is_list(list) ? (unsigned)config_setting_length(list) : 0;

    if (n == 0 || n > HOST_MAX_POOLS) {
        bad(r, list, "cpu_pools: expected a list of 1 to %d pools, ( { ... }, { ... } )",
            HOST_MAX_POOLS);
        return;
    }
    c->cpu_pools = calloc(n, sizeof(*c->cpu_pools));
    if (c->cpu_pools == NULL) {
        fprintf(stderr, "vmcore host: out of memory\n");
        r->status = EXIT_ERROR;
    }
    for (unsigned i = 0; r->status == 0 && i < n; i++)
        read_cpu_pool(r, config_setting_get_elem(list, i), c);
}

static void read_host(struct reader *r, const config_setting_t *s, struct host_config *c)
{
    const char *name = config_setting_name(s);

    if (strcmp(name, "host_memory") == 0)
        c->memory = read_size(r, s);
    else if (strcmp(name, "control") == 0)
        read_string(r, s, &c->control);
    else if (strcmp(name, "swap") == 0)
        read_string(r, s, &c->swap_dir);
    else if (strcmp(name, "idle_tax") == 0)
        c->idle_tax = (unsigned)read_number(r, s, 0, 99);
    else if (strcmp(name, "sample_ms") == 0)
        c->period_ms = (unsigned)read_number(r, s, 100, 60000);
    else if (strcmp(name, "cpus") == 0)
        c->cpus = (unsigned)read_number(r, s, 1, HOST_MAX_CPUS);
    else if (strcmp(name, "quantum_us") == 0)
        c->quantum_us = (unsigned)read_number(r, s, 400, 60000);
    else if (strcmp(name, "sharing") == 0)
        c->no_sharing = !read_bool(r, s);
    else if (strcmp(name, "compression") == 0)
        c->no_compression = !read_bool(r, s);
    else if (strcmp(name, "cpu_pools") == 0)
        read_cpu_pools(r, s, c);
    else if (strcmp(name, "vms") == 0)
        read_vms(r, s, c);
    else
        bad(r, s, "%s: no such setting", name);
}

static void check_host(struct reader *r, struct host_config *c)
{
    for (unsigned i = 0; i < c->vm_count; i++) {
        struct host_vm_config *vm = &c->vms[i];
        const char *pool = vm->pool != NULL ? config_setting_get_string(vm->pool) : NULL;
        if (pool != NULL && (vm->cpu_pool = find_pool(c, pool)) == HOST_NO_POOL)
            bad(r, vm->pool, "VM '%s': there is no pool '%s'", vm->run.name, pool);
        vm->pool = NULL; /* it goes with the file */
    }
    if (c->vm_count == 0)
        bad(r, NULL, "no VMs: give vms = ( { ... } )");
    else if (c->memory < 16ull << 20)
        bad(r, NULL, "host_memory must be given, here or by --host-memory, and be 16M or more");
}

int host_config_load(const char *path, const char *memory, struct host_config *c)
{
    struct reader r = {.path = path};
    config_t cfg;

    *c = (struct host_config){.idle_tax = 75, .period_ms = 1000};
    config_init(&cfg);
    errno = 0;
    if (!config_read_file(&cfg, path)) {
        if (config_error_type(&cfg) == CONFIG_ERR_FILE_IO) {
            fprintf(stderr, "vmcore host: %s: %s\n", path,
                    errno != 0 ? strerror(errno) : "cannot be read");
            config_destroy(&cfg);
            return EXIT_ERROR;
        }
        fprintf(stderr, "vmcore host: %s:%d: %s\n",
                config_error_file(&cfg) != NULL ? config_error_file(&cfg) : path,
                config_error_line(&cfg), config_error_text(&cfg));
        config_destroy(&cfg);
        return EXIT_BAD_ARGS;
    }
    const config_setting_t *root = config_root_setting(&cfg);
    for (unsigned i = 0; r.status == 0 && i < (unsigned)config_setting_length(root); i++)
        read_host(&r, config_setting_get_elem(root, i), c);
    if (r.status == 0 && memory != NULL && !host_parse_size(memory, &c->memory)) {
        fprintf(stderr, "vmcore host: --host-memory %s: not a size\n", memory);
        r.status = EXIT_BAD_ARGS;
    }
    if (r.status == 0)
        check_host(&r, c);
    config_destroy(&cfg);
    snprintf(run_who, sizeof(run_who), "vmcore host");
    return r.status;
}

void host_config_free(struct host_config *c)
{
    for (unsigned i = 0; i < c->vm_count; i++) {
        run_options_free(&c->vms[i].run);
        free(c->vms[i].trust);
    }
    for (unsigned i = 0; i < c->cpu_pool_count; i++)
        free(c->cpu_pools[i].name);
    free(c->cpu_pools);
    free(c->vms);
    free(c->control);
    free(c->swap_dir);
    *c = (struct host_config){0};
}
