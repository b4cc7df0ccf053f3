/* SPDX-License-Identifier: BSD-2-Clause */
#include "run_options.h"

#include "disk_place.h"
#include "vmcore_cmd.h"

#include <argp.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmcore/cpuid.h>

char run_who[RUN_WHO_BYTES] = "vmcore run";

enum key {
    KEY_ENGINE = 0x100,
    KEY_NAME,
    KEY_KERNEL,
    KEY_INITRD,
    KEY_CMDLINE,
    KEY_MODULE,
    KEY_FIRMWARE,
    KEY_LOAD_AT,
    KEY_MEM,
    KEY_MERGE,
    KEY_CPUS,
    KEY_DISK,
    KEY_NET,
    KEY_SERIAL,
    KEY_DEBUGCON,
    KEY_DEBUGCON_PORT,
    KEY_PARALLEL,
    KEY_CPU,
    KEY_HYPERVISOR,
    KEY_EXIT_PORT,
    KEY_POST_PORT,
    KEY_TIMEOUT,
    KEY_STATS,
    KEY_DUMP_MEMORY,
    KEY_CONTROL,
    KEY_GDB,
    KEY_TRACE,
    KEY_TRACE_INSN,
    KEY_DETERMINISTIC,
    KEY_WORKERS,
    KEY_NO_TRANSLATE,
    KEY_PERF_MAP,
    KEY_CODE_MEMORY,
    KEY_NO_SANDBOX,
    KEY_VERBOSE,
};

static const struct argp_option option_table[] = {
    {NULL, 0, NULL, 0, "What runs:", 1},
    {"kernel", KEY_KERNEL, "FILE", 0,
     "Linux bzImage, ELF (PVH, 64-bit entry or Multiboot) or Multiboot image", 0},
    {"initrd", KEY_INITRD, "FILE", 0, "Initial RAM disk", 0},
    {"cmdline", KEY_CMDLINE, "STR", 0, "Kernel command line", 0},
    {"module", KEY_MODULE, "FILE[,ARGS]", 0, "Multiboot module (may be repeated)", 0},
    {"firmware", KEY_FIRMWARE, "FILE", 0, "ROM image started at the reset vector", 0},
    {"load-at", KEY_LOAD_AT, "ADDR", 0,
     "Take --kernel as a flat binary, loaded and started at ADDR in real mode", 0},
    {NULL, 0, NULL, 0, "The machine:", 2},
    {"engine", KEY_ENGINE, "auto|kvm|soft", 0, "What executes guest code (default: auto)", 0},
    {"name", KEY_NAME, "N", 0, "Name of the VM", 0},
    {"mem", KEY_MEM, "SIZE", 0, "Memory, with suffix K, M (default), G or T (default: 512M)", 0},
    {"merge", KEY_MERGE, NULL, 0,
     "Let the kernel store memory that equals other processes' once (KSM); guests can find out", 0},
    {"cpus", KEY_CPUS, "N", 0, "Number of processors (default: 1)", 0},
    {"cpu", KEY_CPU, "PRESET[,+FEATURE|,-FEATURE]...", 0, "CPU model; \"help\" lists the presets",
     0},
    {"disk", KEY_DISK, "DISK[,ro][,raw][,exclusive][,reserve][,rdm=DEVICE][,full=fail][,serial=S]", 0,
     "virtio disk: a raw image, a .vmdk, or vmfs:VOLUME:/PATH.vmdk (may be repeated)", 0},
    {"net", KEY_NET, "user|tap:IFNAME", 0, "virtio network card (may be repeated)", 0},
    {"serial", KEY_SERIAL, "stdio|file:PATH|unix:PATH|pty|none", 0,
     "First serial port (default: stdio)", 0},
    {"debugcon", KEY_DEBUGCON, "stdio|file:PATH", 0, "Debug console on port 0xe9", 0},
    {"debugcon-port", KEY_DEBUGCON_PORT, "PORT", 0,
     "The debug console is on this port, too, such as 0x402 (may be repeated)", 0},
    {"parallel", KEY_PARALLEL, "stdio|file:PATH", 0,
     "A printer on the first parallel port (0x378); without it there is no such port", 0},
    {"hypervisor", KEY_HYPERVISOR, "kvm|vmware|none", 0,
     "Whose interface the guest finds (default: kvm); vmware: with VMware's balloon", 0},
    {"post-port", KEY_POST_PORT, "PORT", 0,
     "Print each POST code that firmware writes there, mostly 0x80, on standard error", 0},
    {"exit-port", KEY_EXIT_PORT, "PORT", 0,
     "A guest write of V there ends the run with exit status (V << 1) | 1; with a device for tests",
     0},
    {NULL, 0, NULL, 0, "Running:", 3},
    {"timeout", KEY_TIMEOUT, "SECONDS", 0, "End the run with exit status 124", 0},
    {"stats", KEY_STATS, "FILE", 0, "Write statistics as JSON at the end", 0},
    {"dump-memory", KEY_DUMP_MEMORY, "FILE", 0,
     "Write the guest's memory at the end; byte n of the file is address n", 0},
    {"control", KEY_CONTROL, "SOCKET", 0, "Serve JSON-RPC 2.0 on a Unix socket", 0},
    {"gdb", KEY_GDB, "PORT[,i386|,x86-64]", 0,
     "Wait for gdb on 127.0.0.1:PORT, 0: any that is free (software engine)", 0},
    {"trace", KEY_TRACE, "FILE", 0,
     "Write what the processors do, for ui.perfetto.dev: running, halted, interrupts", 0},
    {"trace-insn", KEY_TRACE_INSN, "FILE", 0,
     "Write every instruction executed, disassembled (software engine)", 0},
    {"deterministic", KEY_DETERMINISTIC, NULL, 0,
     "All processors on one thread, time from retired instructions (software engine)", 0},
    {"workers", KEY_WORKERS, "N", 0,
     "Let the processors share N threads under vmcore's own scheduler (default: a thread each)", 0},
    {"perf-map", KEY_PERF_MAP, NULL, 0,
     "Tell perf(1) where translated code is, in /tmp/perf-PID.map", 0},
    {"code-memory", KEY_CODE_MEMORY, "SIZE", 0,
     "Memory for translated code of each processor, at most: 4M to 1024M, a power of two (default: "
     "128M)",
     0},
    {"no-translate", KEY_NO_TRANSLATE, NULL, 0,
     "Interpret all code, without binary translation (software engine)", 0},
    {"no-sandbox", KEY_NO_SANDBOX, NULL, 0, "Do not confine the process (for debugging)", 0},
    {"verbose", KEY_VERBOSE, NULL, 0, "Say more on standard error", 0},
    {NULL, 0, NULL, 0, NULL, 0},
};

static const char doc[] =
    "Start a virtual machine.\v"
    "Exit status: 0 the guest powered off; (V << 1) | 1 it wrote V to the exit port; 2 bad "
    "arguments; 4 another error; 6 the guest crashed (triple fault); 124 timeout.\n\n"
    "On a terminal, Ctrl-A x leaves and Ctrl-A h helps.";

static void bad_usage(const struct argp_state *st, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), noreturn));

static void bad_usage(const struct argp_state *st, const char *fmt, ...)
{
    const struct run_options *o = st->input;
    va_list ap;

    fprintf(stderr, "%s: ", run_who);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\n");
    if (!o->from_file)
        argp_state_help(st, stderr, ARGP_HELP_SEE);
    exit(EXIT_BAD_ARGS);
}

static char *dup(const char *s)
{
    char *d = strdup(s);
    if (d == NULL) {
        fprintf(stderr, "%s: out of memory\n", run_who);
        exit(EXIT_ERROR);
    }
    return d;
}

static void set(char **where, const char *value)
{
    free(*where);
    *where = dup(value);
}

static bool parse_u64(const char *s, uint64_t *out, char **end)
{
    if (*s < '0' || *s > '9')
        return false;
    errno = 0;
    *out = strtoull(s, end, 0);
    return errno == 0 && *end != s;
}

static uint64_t parse_size(const char *opt, const char *arg, uint64_t min, uint64_t max,
                           struct argp_state *st)
{
    char *end;
    uint64_t v = 0;
    unsigned shift = 20;

    if (!parse_u64(arg, &v, &end))
        bad_usage(st, "--%s %s: not a size", opt, arg);
    switch (*end) {
    case 'k':
    case 'K':
        shift = 10;
        end++;
        break;
    case 'm':
    case 'M':
        end++;
        break;
    case 'g':
    case 'G':
        shift = 30;
        end++;
        break;
    case 't':
    case 'T':
        shift = 40;
        end++;
        break;
    default:
        break;
    }
    if (strcmp(end, "") != 0 && strcmp(end, "B") != 0 && strcmp(end, "iB") != 0)
        bad_usage(st, "--%s %s: unknown suffix '%s'", opt, arg, end);
    if (v > max >> shift || v << shift < min)
        bad_usage(st, "--%s %s: must be between %lluM and %lluM", opt, arg,
                  (unsigned long long)(min >> 20), (unsigned long long)(max >> 20));
    return v << shift;
}

static uint64_t parse_range(const char *opt, const char *arg, uint64_t min, uint64_t max,
                            struct argp_state *st)
{
    char *end;
    uint64_t v = 0;

    if (!parse_u64(arg, &v, &end) || *end != '\0' || v < min || v > max)
        bad_usage(st, "--%s %s: must be a number from %llu to %llu", opt, arg,
                  (unsigned long long)min, (unsigned long long)max);
    return v;
}

static void parse_disk(char *arg, struct argp_state *st, struct run_options *o)
{
    if (o->disk_count == RUN_MAX_DISKS)
        bad_usage(st, "--disk: at most %d disks", RUN_MAX_DISKS);
    struct run_disk *d = &o->disks[o->disk_count++];
    char *copy = dup(arg);
    /* The extents of a volume are separated by commas too. */
    char *rest = copy + disk_place_volumes(copy);
    strsep(&rest, ",");
    d->path = dup(copy);
    while (rest != NULL) {
        const char *word = strsep(&rest, ",");
        if (strcmp(word, "ro") == 0)
            d->read_only = true;
        else if (strcmp(word, "raw") == 0)
            d->raw = true;
        else if (strcmp(word, "exclusive") == 0 && disk_place_volumes(d->path) != 0)
            d->exclusive = true;
        else if (strcmp(word, "reserve") == 0 && disk_place_volumes(d->path) != 0)
            d->reserve = true;
        else if (strcmp(word, "exclusive") == 0 || strcmp(word, "reserve") == 0)
            bad_usage(st, "--disk %s: %s is for disks on volumes (vmfs:...)", arg, word);
        else if (strcmp(word, "full=fail") == 0 || strcmp(word, "full=wait") == 0)
            d->full_fails = word[5] == 'f';
        else if (strncmp(word, "full=", 5) == 0)
            bad_usage(st, "--disk %s: full= is followed by wait or fail", arg);
        else if (strncmp(word, "serial=", 7) == 0 && word[7] != '\0' && strlen(word + 7) <= 20)
            set(&d->serial, word + 7);
        else if (strncmp(word, "rdm=", 4) == 0 && word[4] != '\0')
            set(&d->rdm, word + 4);
        else if (strncmp(word, "serial=", 7) == 0)
            bad_usage(st, "--disk %s: a serial number has 1 to 20 characters", arg);
        else
            bad_usage(st,
                      "--disk %s: unknown option '%s' (ro, raw, exclusive, reserve, rdm=DEVICE, full=fail, serial=S)",
                      arg, word);
    }
    if (d->path[0] == '\0')
        bad_usage(st, "--disk %s: no path", arg);
    free(copy);
}

static void parse_net(const char *arg, struct argp_state *st, struct run_options *o)
{
    if (o->net_count == RUN_MAX_NETS)
        bad_usage(st, "--net: at most %d network cards", RUN_MAX_NETS);
    struct run_net *n = &o->nets[o->net_count++];
    if (strcmp(arg, "tap:") == 0) {
        bad_usage(st, "--net tap: the name of the interface is missing (tap:IFNAME)");
    } else if (strncmp(arg, "tap:", 4) == 0) {
        n->tap = true;
        n->ifname = dup(arg + 4);
    } else if (strcmp(arg, "user") != 0) {
        bad_usage(st, "--net %s: expected user or tap:IFNAME", arg);
    }
}

static void parse_module(const char *arg, struct argp_state *st, struct run_options *o)
{
    if (o->module_count == RUN_MAX_MODULES)
        bad_usage(st, "--module: at most %d modules", RUN_MAX_MODULES);
    struct run_module *m = &o->modules[o->module_count++];
    const char *comma = strchr(arg, ',');
    m->path = dup(arg);
    if (comma != NULL)
        m->path[comma - arg] = '\0';
    if (m->path[0] == '\0')
        bad_usage(st, "--module %s: no path", arg);
    /* The string of a Multiboot module begins with its name, like a command line. */
    m->args = dup(arg);
    if (comma != NULL)
        m->args[comma - arg] = ' ';
}

static void parse_chr(const char *opt, const char *arg, bool full, struct argp_state *st,
                      struct run_chr *c)
{
    free(c->path);
    c->path = NULL;
    if (strcmp(arg, "stdio") == 0) {
        c->kind = RUN_CHR_STDIO;
    } else if (strncmp(arg, "file:", 5) == 0 && arg[5] != '\0') {
        c->kind = RUN_CHR_FILE;
        c->path = dup(arg + 5);
    } else if (full && strncmp(arg, "unix:", 5) == 0 && arg[5] != '\0') {
        c->kind = RUN_CHR_UNIX;
        c->path = dup(arg + 5);
    } else if (full && strcmp(arg, "pty") == 0) {
        c->kind = RUN_CHR_PTY;
    } else if (strcmp(arg, "none") == 0) {
        c->kind = RUN_CHR_NONE;
    } else {
        bad_usage(st, "--%s %s: expected stdio, file:PATH%s", opt, arg,
                  full ? ", unix:PATH, pty or none" : " or none");
    }
}

static void list_cpus(void)
{
    const char *about;
    const char *name;

    for (unsigned i = 0; (name = vmc_cpu_preset_name(i, &about)) != NULL; i++)
        printf("%-14s %s\n", name, about);
    exit(EXIT_OK);
}

static void parse_timeout(const char *arg, struct argp_state *st, struct run_options *o)
{
    char *end;

    errno = 0;
    o->timeout_s = strtod(arg, &end);
    if (errno != 0 || end == arg || *end != '\0' || !isfinite(o->timeout_s) || o->timeout_s <= 0 ||
        o->timeout_s > 1e9)
        bad_usage(st, "--timeout %s: must be a positive number of seconds", arg);
}

static void parse_engine(const char *arg, struct argp_state *st, struct run_options *o)
{
    if (strcmp(arg, "auto") == 0)
        o->engine = RUN_ENGINE_AUTO;
    else if (strcmp(arg, "kvm") == 0)
        o->engine = RUN_ENGINE_KVM;
    else if (strcmp(arg, "soft") == 0)
        o->engine = RUN_ENGINE_SOFT;
    else
        bad_usage(st, "--engine %s: expected auto, kvm or soft", arg);
}

static void parse_hypervisor(const char *arg, struct argp_state *st, struct run_options *o)
{
    static const char *const words[] = {[RUN_HYPERVISOR_KVM] = "kvm",
                                        [RUN_HYPERVISOR_VMWARE] = "vmware",
                                        [RUN_HYPERVISOR_NONE] = "none"};

    for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(arg, words[i]) == 0) {
            o->hypervisor = (enum run_hypervisor)i;
            return;
        }
    }
    bad_usage(st, "--hypervisor %s: expected kvm, vmware or none", arg);
}

static void parse_gdb(const char *arg, struct argp_state *st, struct run_options *o)
{
    char *port = dup(arg);
    char *arch = strchr(port, ',');

    o->gdb_arch = RUN_GDB_AUTO;
    if (arch != NULL)
        *arch++ = '\0';
    o->gdb = true;
    o->gdb_port = (int)parse_range("gdb", port, 0, 65535, st);
    if (arch != NULL && strcmp(arch, "i386") == 0)
        o->gdb_arch = RUN_GDB_I386;
    else if (arch != NULL && strcmp(arch, "x86-64") == 0)
        o->gdb_arch = RUN_GDB_X86_64;
    else if (arch != NULL)
        bad_usage(st, "--gdb %s: expected i386 or x86-64 behind the port", arg);
    free(port);
}

static void check(struct argp_state *st, struct run_options *o)
{
    if (o->kernel == NULL && o->firmware == NULL)
        bad_usage(st, "nothing to run: give --kernel FILE or --firmware FILE");
    if (o->kernel == NULL && (o->initrd != NULL || o->module_count > 0))
        bad_usage(st, "--initrd and --module need --kernel");
    if (o->load_flat && o->kernel == NULL)
        bad_usage(st, "--load-at needs --kernel");
    if (o->engine == RUN_ENGINE_KVM &&
        (o->gdb || o->trace_path != NULL || o->deterministic || o->perf_map))
        bad_usage(st, "--gdb, --trace-insn, --deterministic and --perf-map need --engine soft");
    if (o->workers != 0 && o->deterministic)
        bad_usage(st, "--workers and --deterministic exclude each other");
    if (o->gdb || o->trace_path != NULL || o->deterministic || o->perf_map)
        o->engine = RUN_ENGINE_SOFT;
}

static error_t parse_opt(int key, char *arg, struct argp_state *st)
{
    struct run_options *o = st->input;

    switch (key) {
    case KEY_ENGINE:
        parse_engine(arg, st, o);
        break;
    case KEY_NAME:
        set(&o->name, arg);
        break;
    case KEY_KERNEL:
        set(&o->kernel, arg);
        break;
    case KEY_INITRD:
        set(&o->initrd, arg);
        break;
    case KEY_CMDLINE:
        set(&o->cmdline, arg);
        break;
    case KEY_MODULE:
        parse_module(arg, st, o);
        break;
    case KEY_FIRMWARE:
        set(&o->firmware, arg);
        break;
    case KEY_LOAD_AT:
        o->load_at = parse_range("load-at", arg, 0, 0xfffff, st);
        o->load_flat = true;
        break;
    case KEY_MEM:
        o->mem_bytes = parse_size("mem", arg, RUN_MIN_MEM, RUN_MAX_MEM, st) & ~0xfffull;
        break;
    case KEY_MERGE:
        o->merge = true;
        break;
    case KEY_CPUS:
        o->cpus = (unsigned)parse_range("cpus", arg, 1, RUN_MAX_CPUS, st);
        break;
    case KEY_DISK:
        parse_disk(arg, st, o);
        break;
    case KEY_NET:
        parse_net(arg, st, o);
        break;
    case KEY_SERIAL:
        parse_chr("serial", arg, true, st, &o->serial);
        break;
    case KEY_DEBUGCON:
        parse_chr("debugcon", arg, false, st, &o->debugcon);
        break;
    case KEY_DEBUGCON_PORT:
        if (o->debugcon_port_count == RUN_MAX_DEBUGCON_PORTS)
            bad_usage(st, "--debugcon-port: at most %d ports", RUN_MAX_DEBUGCON_PORTS);
        o->debugcon_ports[o->debugcon_port_count++] =
            (uint16_t)parse_range("debugcon-port", arg, 1, 0xffff, st);
        break;
    case KEY_PARALLEL:
        parse_chr("parallel", arg, false, st, &o->parallel);
        break;
    case KEY_CPU:
        if (strcmp(arg, "help") == 0)
            list_cpus();
        set(&o->cpu_model, arg);
        break;
    case KEY_HYPERVISOR:
        parse_hypervisor(arg, st, o);
        break;
    case KEY_POST_PORT:
        o->post_port = (int)parse_range("post-port", arg, 1, 0xffff, st);
        break;
    case KEY_EXIT_PORT:
        o->exit_port = (int)parse_range("exit-port", arg, 1, 0xffff, st);
        break;
    case KEY_TIMEOUT:
        parse_timeout(arg, st, o);
        break;
    case KEY_STATS:
        set(&o->stats_path, arg);
        break;
    case KEY_DUMP_MEMORY:
        set(&o->dump_path, arg);
        break;
    case KEY_CONTROL:
        set(&o->control_path, arg);
        break;
    case KEY_GDB:
        parse_gdb(arg, st, o);
        break;
    case KEY_TRACE:
        set(&o->events_path, arg);
        break;
    case KEY_TRACE_INSN:
        set(&o->trace_path, arg);
        break;
    case KEY_DETERMINISTIC:
        o->deterministic = true;
        break;
    case KEY_WORKERS:
        o->workers = (unsigned)parse_range("workers", arg, 1, RUN_MAX_CPUS, st);
        break;
    case KEY_PERF_MAP:
        o->perf_map = true;
        break;
    case KEY_CODE_MEMORY:
        o->code_bytes = parse_size("code-memory", arg, 4ull << 20, 1ull << 30, st);
        if ((o->code_bytes & (o->code_bytes - 1)) != 0)
            bad_usage(st, "--code-memory %s: not a power of two", arg);
        break;
    case KEY_NO_TRANSLATE:
        o->translate = false;
        break;
    case KEY_NO_SANDBOX:
        o->no_sandbox = true;
        break;
    case KEY_VERBOSE:
        o->verbose = true;
        break;
    case ARGP_KEY_ARG:
        bad_usage(st, "unexpected argument '%s'", arg);
        break;
    case ARGP_KEY_END:
        check(st, o);
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

int run_options_parse(int argc, char **argv, bool from_file, struct run_options *o)
{
    static const struct argp argp = {.options = option_table, .parser = parse_opt, .doc = doc};

    memset(o, 0, sizeof(*o));
    o->from_file = from_file;
    o->mem_bytes = 512ull << 20;
    o->cpus = 1;
    o->translate = true;
    o->exit_port = o->post_port = -1;
    o->serial.kind = RUN_CHR_STDIO;
    argp_err_exit_status = EXIT_BAD_ARGS;
    argv[0] = run_who;
    if (argp_parse(&argp, argc, argv, 0, NULL, o) != 0)
        return EXIT_BAD_ARGS;
    if (o->name == NULL)
        set(&o->name, "vm");
    return -1;
}

void run_options_free(struct run_options *o)
{
    for (unsigned i = 0; i < o->disk_count; i++) {
        free(o->disks[i].path);
        free(o->disks[i].serial);
        free(o->disks[i].rdm);
    }
    for (unsigned i = 0; i < o->net_count; i++)
        free(o->nets[i].ifname);
    for (unsigned i = 0; i < o->module_count; i++) {
        free(o->modules[i].path);
        free(o->modules[i].args);
    }
    free(o->name);
    free(o->kernel);
    free(o->initrd);
    free(o->cmdline);
    free(o->firmware);
    free(o->serial.path);
    free(o->debugcon.path);
    free(o->parallel.path);
    free(o->cpu_model);
    free(o->stats_path);
    free(o->dump_path);
    free(o->control_path);
    free(o->events_path);
    free(o->trace_path);
}
