/* SPDX-License-Identifier: BSD-2-Clause */
/* The monitor: a command line of the hypervisor's own behind the hot key. */
#include "hv.h"

#define PROMPT    "vmcore> "
#define MAX_STATS 64u

static char line[128];
static uint32_t len;
static const char *script; /* commands of the configuration that are left; NULL: none */
static uint64_t script_at; /* when they go on */

/* ---- commands -----------------------------------------------------------------------------------
 */

static bool cmd_list(struct hv_guest *none)
{
    (void)none;
    for (uint32_t i = 0; i < hv_config.guests; i++) {
        const struct hv_guest *g = &hv_guests[i];
        hv_print("%u %-12s %-8s %u vCPUs %6llu MiB shares %u%s%s\n", i + 1, g->cfg->name,
                 hv_state_name(g), g->cfg->cpus, (unsigned long long)(g->cfg->mem_bytes >> 20),
                 g->cfg->shares, g->ended[0] != 0 && g->state == HV_OFF ? ": " : "",
                 g->state == HV_OFF ? g->ended : "");
    }
    return true;
}

static void stats_vcpu(struct hv_guest *g, uint32_t i)
{
    struct vmc_vcpu_stats st = {.size = sizeof(st)};
    const char *names[MAX_STATS];
    uint64_t values[MAX_STATS];

    vmc_vcpu_get_stats(g->vcpu[i].v, &st);
    hv_print(
        "vCPU %u: %llu ms in the guest, %llu interrupts, %llu port and %llu memory accesses to "
        "devices\n",
        i, (unsigned long long)(st.guest_ns / 1000000), (unsigned long long)st.irqs,
        (unsigned long long)st.pio, (unsigned long long)st.mmio);
    if (st.retired != 0) /* processors do not count */
        hv_print("  instructions           %llu\n", (unsigned long long)st.retired);
    for (uint32_t k = 0; k < VMC_EXIT_KINDS; k++)
        if (st.exits[k] != 0)
            hv_print("  exit %-12s %llu\n", vmc_exit_name(k), (unsigned long long)st.exits[k]);
    size_t n = vmc_vcpu_engine_stats(g->vcpu[i].v, names, values, MAX_STATS);
    for (size_t k = 0; k < n && k < MAX_STATS; k++)
        if (values[k] != 0)
            hv_print("  %-22s %llu\n", names[k], (unsigned long long)values[k]);
}

static bool cmd_stats(struct hv_guest *g)
{
    for (uint32_t i = 0; i < g->cfg->cpus && g->state != HV_OFF; i++)
        stats_vcpu(g, i);
    return true;
}

static bool cmd_pause(struct hv_guest *g)
{
    hv_guest_pause(g);
    hv_print("%s: %s\n", g->cfg->name, hv_state_name(g));
    return true;
}

static bool cmd_resume(struct hv_guest *g)
{
    hv_guest_resume(g);
    hv_print("%s: %s\n", g->cfg->name, hv_state_name(g));
    return true;
}

static bool cmd_kill(struct hv_guest *g)
{
    hv_guest_end(g, "killed");
    return true;
}

static bool cmd_start(struct hv_guest *g)
{
    if (hv_guest_start(g) == VMC_ESTATE)
        hv_print("%s is %s\n", g->cfg->name, hv_state_name(g));
    return true;
}

static bool cmd_button(struct hv_guest *g)
{
    if (g->state == HV_RUNNING)
        vmc_pc_power_button(g->pc);
    return true;
}

static bool cmd_mem(struct hv_guest *none)
{
    struct vmc_bm_memory m;

    (void)none;
    vmc_bm_get_memory(&m);
    hv_print("memory: %llu pages, %llu free, %llu of the kernel and modules\n",
             (unsigned long long)m.ram_pages, (unsigned long long)m.free_pages,
             (unsigned long long)m.kernel_pages);
    for (uint32_t i = 0; i < hv_config.guests; i++)
        if (hv_guests[i].state != HV_OFF)
            hv_print("  %-12s %llu pages\n", hv_guests[i].cfg->name,
                     (unsigned long long)vmc_bm_domain_pages(hv_guests[i].domain));
    return true;
}

static bool cmd_sched(struct hv_guest *none)
{
    struct vmc_sched_cpu_stats c;
    struct vmc_sched_vcpu_stats v;

    (void)none;
    for (uint32_t i = 0; i < hv_machine->cpus; i++)
        if (vmc_sched_cpu_stats(hv_sched, i, &c) == VMC_OK)
            hv_print("CPU %u: busy %llu ms, idle %llu ms, %llu switches\n", i,
                     (unsigned long long)(c.busy_ns / 1000000),
                     (unsigned long long)(c.idle_ns / 1000000), (unsigned long long)c.switches);
    for (uint32_t i = 0; i < hv_config.guests; i++)
        for (uint32_t k = 0; k < hv_guests[i].cfg->cpus && hv_guests[i].state != HV_OFF; k++)
            if (vmc_sched_vcpu_stats(hv_sched, hv_guests[i].vcpu[k].entity, hv_now(), &v) == VMC_OK)
                hv_print("%s.%u: ran %llu ms, stolen %llu ms, ready %llu ms, co-stopped %llu ms, "
                         "%llu switches, %llu migrations\n",
                         hv_guests[i].cfg->name, k, (unsigned long long)(v.used_ns / 1000000),
                         (unsigned long long)(v.stolen_ns / 1000000),
                         (unsigned long long)(v.ready_ns / 1000000),
                         (unsigned long long)(v.costop_ns / 1000000),
                         (unsigned long long)v.switches, (unsigned long long)v.migrations);
    return true;
}

static bool cmd_cpus(struct hv_guest *none)
{
    struct vmc_bm_cpu_stats s;

    (void)none;
    for (uint32_t i = 0; i < hv_machine->cpus; i++) {
        vmc_bm_get_cpu_stats(i, &s);
        hv_print("CPU %u: %llu interrupts, %llu of the timer, %llu from others, halted %llu ms\n",
                 i, (unsigned long long)s.interrupts, (unsigned long long)s.timer_ticks,
                 (unsigned long long)s.ipis, (unsigned long long)(s.idle_ns / 1000000));
    }
    return true;
}

static bool cmd_disks(struct hv_guest *none)
{
    const struct vmc_bm_disk *d;
    struct vmc_block_info info;

    (void)none;
    if (vmc_bm_disk(0) == NULL)
        hv_print("no disks\n");
    for (uint32_t i = 0; (d = vmc_bm_disk(i)) != NULL; i++)
        if (d->dev.ops->info(d->dev.ctx, &info) == VMC_OK)
            hv_print("%s: %llu MiB, %s\n", d->name, (unsigned long long)(info.bytes >> 20),
                     d->model);
    return true;
}

static bool cmd_volumes(struct hv_guest *none)
{
    (void)none;
    hv_volumes_show();
    return true;
}

static bool cmd_poweroff(struct hv_guest *none)
{
    (void)none;
    for (uint32_t i = 0; i < hv_config.guests; i++)
        hv_guest_end(&hv_guests[i], "the machine is switched off");
    hv_volumes_close();
    vmc_bm_power_off();
}

static bool cmd_reboot(struct hv_guest *none)
{
    (void)none;
    for (uint32_t i = 0; i < hv_config.guests; i++)
        hv_guest_end(&hv_guests[i], "the machine starts again");
    hv_volumes_close();
    vmc_bm_reset();
}

static bool cmd_panic(struct hv_guest *none)
{
    (void)none;
    vmc_bm_panic("asked for by the monitor");
}

static bool cmd_quit(struct hv_guest *none)
{
    (void)none;
    return false;
}

static bool cmd_help(struct hv_guest *none);

static const struct {
    const char *name;
    bool guest; /* takes the name or number of one */
    bool (*fn)(struct hv_guest *g);
    const char *help;
} commands[] = {
    {"list", false, cmd_list, "the guests"},
    {"stats", true, cmd_stats, "exits by reason and counters of a guest"},
    {"pause", true, cmd_pause, "stop a guest where it is"},
    {"resume", true, cmd_resume, "let it go on"},
    {"kill", true, cmd_kill, "end it and take back its memory"},
    {"start", true, cmd_start, "start one that is off"},
    {"button", true, cmd_button, "press its power button"},
    {"mem", false, cmd_mem, "memory, page by page"},
    {"sched", false, cmd_sched, "what the scheduler gave to whom"},
    {"cpus", false, cmd_cpus, "the processors"},
    {"disks", false, cmd_disks, "the disks of the machine"},
    {"volumes", false, cmd_volumes, "VMFS volumes on them: space, hosts, disks in use"},
    {"poweroff", false, cmd_poweroff, "end all guests and switch off"},
    {"reboot", false, cmd_reboot, "end all guests and start again"},
    {"panic", false, cmd_panic, "show what a panic looks like"},
    {"quit", false, cmd_quit, "back to the guests"},
    {"help", false, cmd_help, "this"},
};
#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static bool cmd_help(struct hv_guest *none)
{
    (void)none;
    for (size_t i = 0; i < COMMANDS; i++)
        hv_print("%-9s%-6s %s\n", commands[i].name, commands[i].guest ? " GUEST" : "",
                 commands[i].help);
    return true;
}

static bool execute(const char *text)
{
    char name[16], arg[HV_NAME];
    size_t n = 0, k = 0;

    while (*text == ' ')
        text++;
    while (text[n] != 0 && text[n] != ' ' && n + 1 < sizeof(name)) {
        name[n] = text[n];
        n++;
    }
    name[n] = 0;
    for (text += n; *text == ' ';)
        text++;
    while (text[k] != 0 && text[k] != ' ' && k + 1 < sizeof(arg)) {
        arg[k] = text[k];
        k++;
    }
    arg[k] = 0;
    if (n == 0)
        return true;
    for (size_t i = 0; i < COMMANDS; i++) {
        if (!hv_streq(commands[i].name, name))
            continue;
        struct hv_guest *g = commands[i].guest ? hv_guest_find(arg) : NULL;
        if (commands[i].guest && g == NULL) {
            hv_print("%s: there is no guest '%s'\n", name, arg);
            return true;
        }
        return commands[i].fn(g);
    }
    hv_print("no command '%s'; 'help' lists them\n", name);
    return true;
}

/* ---- commands of the configuration --------------------------------------------------------------
 */

/* "wait MS": the guests run meanwhile. */
static bool wait_command(const char *text, uint64_t now)
{
    static const char word[] = "wait ";
    uint64_t ms = 0;

    while (*text == ' ')
        text++;
    for (size_t i = 0; i + 1 < sizeof(word); i++)
        if (*text++ != word[i])
            return false;
    for (; *text >= '0' && *text <= '9' && ms < 1000000000; text++)
        ms = ms * 10 + (uint64_t)(*text - '0');
    script_at = now + ms * 1000000;
    return true;
}

void hv_monitor_script(const char *commands_text)
{
    script = commands_text;
}

bool hv_monitor_scripted(void)
{
    return script != NULL;
}

uint64_t hv_monitor_poll(uint64_t now)
{
    char cmd[64];

    while (script != NULL) {
        size_t n = 0;
        if (now < script_at)
            return script_at;
        for (; *script != ';' && *script != 0; script++)
            if (n + 1 < sizeof(cmd))
                cmd[n++] = *script;
        cmd[n] = 0;
        script = *script == 0 ? NULL : script + 1;
        if (!wait_command(cmd, now))
            (void)execute(cmd);
    }
    return NEVER;
}

/* ---- the command line ---------------------------------------------------------------------------
 */

void hv_monitor_enter(void)
{
    len = 0;
    hv_print("monitor; 'help' lists commands, 'quit' leaves\n");
    vmc_bm_write(PROMPT, sizeof(PROMPT) - 1);
}

bool hv_monitor_key(char c)
{
    bool stay = true;

    if (c == '\r' || c == '\n') {
        hv_console_line_done();
        line[len] = 0;
        len = 0;
        stay = execute(line);
        if (stay)
            vmc_bm_write(PROMPT, sizeof(PROMPT) - 1);
    } else if (c == 0x7f || c == '\b') {
        if (len > 0) {
            len--;
            vmc_bm_write("\b \b", 3);
        }
    } else if (c >= ' ' && len + 1 < sizeof(line)) {
        line[len++] = c;
        vmc_bm_write(&c, 1);
    }
    return stay;
}
