/* SPDX-License-Identifier: BSD-2-Clause */
#include "ctl_client.h"
#include "top_view.h"

#include <ncurses.h>
#include <stdarg.h>
#include <string.h>
#include <term.h>
#include <unistd.h>

static SCREEN *screen;

const char *top_screen_open(double delay_s)
{
    if (!isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO))
        return "no terminal";
    screen = newterm(NULL, stdout, stdin);
    if (screen == NULL)
        return "the type of the terminal (TERM) is not known";
    if (tigetstr("cup") == NULL || tigetstr("cup") == (char *)-1) {
        top_screen_close();
        return "this type of terminal (TERM) cannot move its cursor";
    }
    cbreak();
    noecho();
    keypad(stdscr, TRUE);
    curs_set(0);
    timeout((int)(delay_s * 1000));
    return NULL;
}

void top_screen_close(void)
{
    endwin();
    delscreen(screen);
    screen = NULL;
}

static double mib(struct json_object *o, const char *name)
{
    return (double)ctl_u64(o, name) / 1048576;
}

/* A line that ends where the screen does. */
static void line(int row, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void line(int row, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    mvaddnstr(row, 0, text, COLS);
}

/* ---- the pages ---------------------------------------------------------------------------------
 */

static void show_head(const struct top_sample *s, enum top_page page)
{
    static const char *const names[] = {"processors", "memory", "disks"};
    struct json_object *h = ctl_object(s->now, "host");
    struct json_object *cpus = ctl_object(s->now, "cpus");
    struct json_object *before = ctl_object(s->before, "cpus");
    unsigned up = (unsigned)(ctl_u64(h, "uptime_ns") / 1000000000u);
    double busy = 0;

    for (size_t i = 0; i < ctl_length(cpus); i++)
        busy += top_percent(s, ctl_at(before, i), ctl_at(cpus, i), "busy_ns");
    line(0, "vmcore top: %s   up %u:%02u:%02u   %zu VMs   %zu CPUs, %.0f %% busy", names[page],
         up / 3600, up / 60 % 60, up % 60, ctl_length(ctl_object(s->now, "vms")), ctl_length(cpus),
         busy);
    line(1,
         "memory (MiB): %.0f total, %.0f free, %.0f private, %.0f shared, %.0f compressed, "
         "%.1f metadata",
         mib(h, "memory"), mib(h, "free"), mib(h, "private"), mib(h, "shared"), mib(h, "store"),
         mib(h, "metadata"));
    line(2, "state: %s   minimum free: %.0f   idle tax: %llu %%", ctl_text(h, "state"),
         mib(h, "minimum_free"), (unsigned long long)ctl_u64(h, "idle_tax"));
}

static void title(const char *text)
{
    attron(A_REVERSE);
    line(4, "%-*s", COLS, text);
    attroff(A_REVERSE);
}

static int show_cpu(const struct top_sample *s, struct json_object *vm, int row)
{
    struct json_object *n = ctl_object(vm, "vcpus");
    struct json_object *b = ctl_object(top_vm_before(s, vm), "vcpus");

    for (size_t i = 0; i < ctl_length(n) && row < LINES; i++) {
        struct json_object *x = ctl_at(n, i), *y = ctl_at(b, i);
        line(row++, "%-16.16s %4zu %6.1f %6.1f %6.1f %6.1f %6.1f %6.1f  %-10.10s %.16s",
             ctl_text(vm, "name"), i, top_percent(s, y, x, "used_ns"),
             top_percent(s, y, x, "ready_ns"), top_percent(s, y, x, "costop_ns"),
             top_percent(s, y, x, "wait_ns"), top_percent(s, y, x, "stolen_ns"),
             (double)ctl_u64(x, "entitled_permille") / 10,
             ctl_text(ctl_object(vm, "cpu"), "affinity"), ctl_text(ctl_object(vm, "cpu"), "pool"));
    }
    return row;
}

/* Is the pool of that name the VM's, or above it? Pools come after those above them. */
static bool is_in(struct json_object *pools, struct json_object *vm, const char *name)
{
    const char *at = ctl_text(ctl_object(vm, "cpu"), "pool");

    for (size_t i = ctl_length(pools); i-- > 0 && strcmp(at, name) != 0;)
        if (strcmp(ctl_text(ctl_at(pools, i), "name"), at) == 0)
            at = ctl_text(ctl_at(pools, i), "parent");
    return strcmp(at, name) == 0;
}

/* What all VMs of each pool have and are entitled to, in percent of a processor. */
static void show_pools(const struct top_sample *s, int row)
{
    struct json_object *pools = ctl_object(s->now, "cpu_pools");
    struct json_object *vms = ctl_object(s->now, "vms");

    for (size_t i = 0; i < ctl_length(pools) && row < LINES; i++) {
        const char *name = ctl_text(ctl_at(pools, i), "name");
        double used = 0;
        double entitled = 0;
        for (size_t k = 0; k < ctl_length(vms); k++) {
            struct json_object *vm = ctl_at(vms, k);
            struct json_object *n = ctl_object(vm, "vcpus");
            struct json_object *b = ctl_object(top_vm_before(s, vm), "vcpus");
            for (size_t j = 0; j < ctl_length(n) && is_in(pools, vm, name); j++) {
                used += top_percent(s, ctl_at(b, j), ctl_at(n, j), "used_ns");
                entitled += (double)ctl_u64(ctl_at(n, j), "entitled_permille") / 10;
            }
        }
        line(row++, "%-16.16s pool %6.1f %34.1f  %-10s %.16s", name, used, entitled, "",
             ctl_text(ctl_at(pools, i), "parent"));
    }
}

/* The parts of memory in full need so many of the terminal. */
#define WIDE 95

static int show_memory(const struct top_sample *s, struct json_object *vm, int row)
{
    static const char *const parts[] = {"configured", "granted", "target",    "active",
                                          "shared",     "saved",   "ballooned", "compressed",
                                          "swapped",    "overhead"};
    struct json_object *m = ctl_object(vm, "memory");
    int name = COLS >= WIDE ? 16 : 10, number = COLS >= WIDE ? 6 : 5;
    char text[128];
    size_t at = 0;

    (void)s;
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && at < sizeof(text); i++)
        at += (size_t)snprintf(text + at, sizeof(text) - at, " %*.0f", number, mib(m, parts[i]));
    line(row, "%-*.*s%s %-8s", name, name, ctl_text(vm, "name"), text, ctl_vm_state(vm));
    return row + 1;
}

static int show_disk(const struct top_sample *s, struct json_object *vm, int row)
{
    struct json_object *n = ctl_object(vm, "disks");
    struct json_object *b = ctl_object(top_vm_before(s, vm), "disks");

    for (size_t i = 0; i < ctl_length(n) && row < LINES; i++) {
        struct json_object *x = ctl_at(n, i), *y = ctl_at(b, i);
        line(row++, "%-16.16s %8.1f %8.1f %8.2f %8.2f  %.40s", ctl_text(vm, "name"),
             top_rate(s, y, x, "reads"), top_rate(s, y, x, "writes"),
             top_rate(s, y, x, "read_bytes") / 1048576, top_rate(s, y, x, "write_bytes") / 1048576,
             ctl_text(x, "path"));
    }
    return row;
}

static void show(const struct top_sample *s, enum top_page page)
{
    static const struct {
        const char *title;
        const char *narrow; /* or NULL: the same */
        int (*line)(const struct top_sample *, struct json_object *, int row);
    } pages[] = {
        [TOP_CPU] =
            {"VM               vCPU  %USED   %RDY  %CSTP  %WAIT  %STLN   %ENT  CPUS       POOL",
             NULL, show_cpu},
        [TOP_MEMORY] =
            {"VM                 CONF  GRANT TARGET ACTIVE SHARED  SAVED  BALLN  COMPR "
             "  SWAP   OVHD STATE",
             "VM          CONF GRANT   TGT  ACTV  SHRD SAVED BALLN COMPR  SWAP  OVHD STATE",
             show_memory},
        [TOP_DISK] = {"VM                 READS/s WRITES/s  READ MB WRITE MB  DISK", NULL,
                      show_disk},
    };
    struct json_object *vms = ctl_object(s->now, "vms");
    int row = 5;

    erase();
    show_head(s, page);
    title(COLS < WIDE && pages[page].narrow != NULL ? pages[page].narrow : pages[page].title);
    for (size_t i = 0; i < ctl_length(vms) && row < LINES; i++)
        row = pages[page].line(s, ctl_at(vms, i), row);
    if (page == TOP_CPU)
        show_pools(s, row);
    refresh();
}

bool top_screen_show(const struct top_sample *s, enum top_page *page)
{
    for (;;) {
        show(s, *page);
        switch (getch()) {
        case 'c':
            *page = TOP_CPU;
            break;
        case 'm':
            *page = TOP_MEMORY;
            break;
        case 'd':
            *page = TOP_DISK;
            break;
        case KEY_RESIZE:
            break;
        case 'q':
            return false;
        default: /* time is over, or a key that asks for a sample at once */
            return true;
        }
    }
}
