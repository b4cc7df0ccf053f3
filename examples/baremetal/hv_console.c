/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One serial line for all consoles. Output comes line by line with the guest's name before it, or
 * raw from the one guest that has the focus. The hot key and a letter go to the hypervisor; all
 * else that is typed goes to one guest.
 */
#include "hv.h"

#define ROOM     8192u     /* of the line's buffer, left to the hypervisor */
#define FLUSH_NS 30000000u /* an unfinished line is shown after this long */
#define MENU     "1-9 one guest, a all, s status, m monitor, hot key again: itself"

/* column_owner: nobody's line is unfinished; the monitor's prompt is. */
#define FRESH_LINE  (-1)
#define PROMPT_LINE (-2)

static volatile uint32_t lock;
static int focus = -1;                /* the guest alone on the terminal, or -1 */
static uint32_t input_to;             /* which guest gets what is typed */
static int column_owner = FRESH_LINE; /* whose unfinished line the cursor is behind */
static bool monitor, menu;
static uint64_t next_status;

static void take(void)
{
    while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
        __asm__ volatile("pause");
}

static void drop(void)
{
    __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
}

/* ---- output -------------------------------------------------------------------------------------
 */

static void fresh_line(void)
{
    if (column_owner != FRESH_LINE)
        vmc_bm_write("\r\n", 2);
    column_owner = FRESH_LINE;
}

/* With the lock: what the guest has of its line. */
static void show_line(struct hv_guest *g, bool end)
{
    char head[HV_NAME + 8];

    if (column_owner != (int)g->number) {
        fresh_line();
        size_t n = vmc_bm_snprintf(head, sizeof(head), "[%s] ", g->cfg->name);
        vmc_bm_write(head, n);
    }
    vmc_bm_write(g->line, g->line_len);
    g->line_len = 0;
    column_owner = (int)g->number;
    if (end) {
        vmc_bm_write("\r\n", 2);
        column_owner = FRESH_LINE;
    }
}

static void put_prefixed(struct hv_guest *g, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\n') {
            show_line(g, true);
        } else if (s[i] != '\r') {
            g->line[g->line_len++] = s[i];
            if (g->line_len == sizeof(g->line))
                show_line(g, false);
        }
    }
    g->line_ns = hv_now();
}

static int console_write(void *ctx, const void *data, size_t bytes)
{
    struct hv_guest *g = ctx;

    /* A guest that floods the line waits for it; its UART asks again. */
    if (vmc_bm_write_room() < ROOM)
        return 0;
    take();
    if (monitor || focus == -1) {
        put_prefixed(g, data, bytes);
    } else if (focus == (int)g->number) {
        vmc_bm_write(data, bytes);
        column_owner = (int)g->number;
    }
    drop();
    return (int)bytes;
}

const struct vmc_chardev_ops hv_console_ops = {.write = console_write};

/* What was typed at the prompt is complete. */
void hv_console_line_done(void)
{
    take();
    fresh_line();
    drop();
}

/* Bytes of the UTF-8 character at p that is not ASCII, nor one from U+0080 to U+009F; 0: there is
 * none. */
static unsigned wide(const uint8_t *p) /* ends with 0 */
{
    unsigned n = *p >= 0xc2 && *p <= 0xdf   ? 2
                 : *p >= 0xe0 && *p <= 0xef ? 3
                 : *p >= 0xf0 && *p <= 0xf4 ? 4
                                            : 0;

    for (unsigned i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return p[0] == 0xc2 && p[1] <= 0x9f ? 0 : n;
}

/* Without what a terminal would obey: names come from disks that anybody may have written. */
static void write_plain(const char *text, size_t n)
{
    for (size_t i = 0, part; i < n; i += part) {
        const uint8_t *p = (const uint8_t *)text + i;
        part = wide(p);
        bool shown = part != 0 || (*p >= 0x20 && *p < 0x7f);
        part = part != 0 ? part : 1;
        vmc_bm_write(shown ? text + i : "?", part);
    }
}

/* The hypervisor's own lines. */
void hv_print(const char *fmt, ...)
{
    char text[400];
    va_list ap;

    __builtin_va_start(ap, fmt);
    size_t n = vmc_bm_vsnprintf(text, sizeof(text), fmt, ap);
    __builtin_va_end(ap);
    if (n >= sizeof(text))
        n = sizeof(text) - 1;
    take();
    fresh_line();
    vmc_bm_write("[vmcore] ", 9);
    bool line = n > 0 && text[n - 1] == '\n';
    write_plain(text, line ? n - 1 : n);
    if (line)
        vmc_bm_write("\r\n", 2);
    drop();
}

void hv_console_forget(struct hv_guest *g)
{
    take();
    if (g->line_len != 0)
        show_line(g, true);
    if (column_owner == (int)g->number)
        fresh_line();
    if (focus == (int)g->number)
        focus = -1;
    drop();
}

void hv_console_focus(int guest)
{
    take();
    fresh_line();
    focus = guest;
    if (guest >= 0)
        input_to = (uint32_t)guest;
    drop();
    if (guest >= 0)
        hv_print("console of %s alone; hot key and a: all\n", hv_guests[guest].cfg->name);
    else
        hv_print("consoles of all guests; input goes to %s\n", hv_guests[input_to].cfg->name);
}

static uint64_t flush_partial(uint64_t now)
{
    uint64_t next = NEVER;

    take();
    for (uint32_t i = 0; i < hv_config.guests; i++) {
        struct hv_guest *g = &hv_guests[i];
        if (g->line_len == 0)
            continue;
        uint64_t due = g->line_ns + FLUSH_NS;
        if (due <= now)
            show_line(g, false);
        else if (due < next)
            next = due;
    }
    drop();
    return next;
}

/* ---- status -------------------------------------------------------------------------------------
 */

/*
 * What its vCPUs had, and what a host of this machine took away while they ran: which of the two a
 * slice was is known at its end, so the one that is open does not count.
 */
static void times_of(const struct hv_guest *g, uint64_t now, uint64_t *used, uint64_t *stolen)
{
    struct vmc_sched_vm_stats vm = {0};
    struct vmc_sched_vcpu_stats st;

    *stolen = 0;
    *used = vmc_sched_vm_stats(hv_sched, g->sched_vm, &vm) == VMC_OK ? vm.used_ns : 0;
    for (uint32_t i = 0; i < g->cfg->cpus; i++)
        if (vmc_sched_vcpu_stats(hv_sched, g->vcpu[i].entity, now, &st) == VMC_OK)
            *stolen += st.stolen_ns;
}

/* In permille of a processor, as a percentage. */
static size_t percent(char *out, size_t room, const char *what, uint64_t ns, uint64_t span_ns)
{
    uint64_t permille = span_ns != 0 ? ns * 1000 / span_ns : 0;

    return vmc_bm_snprintf(out, room, "%s %llu.%llu%%, ", what, (unsigned long long)(permille / 10),
                           (unsigned long long)(permille % 10));
}

static void status_of(struct hv_guest *g, uint64_t now, uint64_t span_ns, char *out, size_t room)
{
    struct vmc_vcpu_stats st = {.size = sizeof(st)};
    uint64_t exits = 0, irqs = 0, used, stolen;
    char cpu[64];

    if (g->state == HV_OFF) {
        vmc_bm_snprintf(out, room, "%s off (%s)", g->cfg->name, g->ended);
        return;
    }
    for (uint32_t i = 0; i < g->cfg->cpus; i++) {
        vmc_vcpu_get_stats(g->vcpu[i].v, &st);
        exits += st.pio + st.mmio;
        irqs += st.irqs;
    }
    times_of(g, now, &used, &stolen);
    size_t n = percent(cpu, sizeof(cpu), "cpu", used - g->status_used_ns, span_ns);
    if ((stolen - g->status_stolen_ns) / 100 > span_ns / 10000) /* an emulated machine may starve */
        percent(cpu + n, sizeof(cpu) - n, "stolen", stolen - g->status_stolen_ns, span_ns);
    g->status_used_ns = used;
    g->status_stolen_ns = stolen;
    vmc_bm_snprintf(
        out, room, "%s %s: %s%llu MiB, %llu device accesses, %llu interrupts, up %llu s",
        g->cfg->name, hv_state_name(g), cpu,
        (unsigned long long)(vmc_bm_domain_pages(g->domain) >> 8), (unsigned long long)exits,
        (unsigned long long)irqs, (unsigned long long)((now - g->start_ns) / 1000000000u));
}

/* At the bottom of the terminal, below the region that scrolls; the cursor stays where it is. */
static void draw(uint32_t i, const char *text)
{
    char out[300];
    size_t n = vmc_bm_snprintf(out, sizeof(out), "\0337\033[%u;1H\033[7m%.110s\033[0m\033[K\0338",
                               hv_config.rows - hv_config.guests + 1 + i, text);

    take();
    vmc_bm_write(out, n);
    drop();
}

void hv_status_now(void)
{
    static uint64_t last;
    uint64_t now = hv_now();
    char text[200];

    for (uint32_t i = 0; i < hv_config.guests; i++) {
        status_of(&hv_guests[i], now, now - last, text, sizeof(text));
        if (hv_config.rows > hv_config.guests + 2)
            draw(i, text);
        else
            hv_print("status: %s\n", text);
    }
    last = now;
}

/* ---- input --------------------------------------------------------------------------------------
 */

static void feed(struct hv_guest *g)
{
    if (g->state != HV_RUNNING || g->input_len == 0)
        return;
    size_t n = vmc_uart_input(vmc_pc_serial(g->pc), g->input, g->input_len);
    for (size_t i = n; i < g->input_len; i++)
        g->input[i - n] = g->input[i];
    g->input_len -= (uint32_t)n;
}

/* The guest's UART has room again: processor 0 goes on feeding. */
void hv_input_ready(void *ctx)
{
    (void)ctx;
    hv_attention();
}

static void to_guest(char c)
{
    struct hv_guest *g = &hv_guests[input_to];

    if (g->input_len < sizeof(g->input))
        g->input[g->input_len++] = c;
    feed(g);
}

static void menu_key(char c)
{
    menu = false;
    if (c == hv_config.hot_key) {
        to_guest(c);
    } else if (c >= '1' && c <= '9' && (uint32_t)(c - '1') < hv_config.guests) {
        hv_console_focus(c - '1');
    } else if (c == 'a') {
        hv_console_focus(-1);
    } else if (c == 's') {
        hv_status_now();
    } else if (c == 'm') {
        monitor = true;
        hv_monitor_enter();
        take();
        column_owner = PROMPT_LINE;
        drop();
    } else {
        hv_print("%s\n", MENU);
    }
}

static void key(char c)
{
    if (monitor) {
        monitor = hv_monitor_key(c);
        take();
        column_owner = monitor ? PROMPT_LINE : column_owner;
        drop();
    } else if (menu) {
        menu_key(c);
    } else if (c == hv_config.hot_key) {
        menu = true;
    } else {
        to_guest(c);
    }
}

uint64_t hv_console_poll(uint64_t now)
{
    char buf[64];
    size_t n = vmc_bm_read(buf, sizeof(buf));

    for (size_t i = 0; i < n; i++)
        key(buf[i]);
    for (uint32_t i = 0; i < hv_config.guests; i++)
        feed(&hv_guests[i]);
    uint64_t next = flush_partial(now);
    if (hv_config.status_s != 0) {
        if (now >= next_status) {
            if (next_status != 0)
                hv_status_now();
            next_status = now + hv_config.status_s * 1000000000ull;
        }
        if (next_status < next)
            next = next_status;
    }
    return next;
}

void hv_console_init(void)
{
    char text[32];

    if (hv_config.rows > hv_config.guests + 2) { /* the rest of the screen scrolls */
        size_t n =
            vmc_bm_snprintf(text, sizeof(text), "\033[1;%ur\033[%u;1H",
                            hv_config.rows - hv_config.guests, hv_config.rows - hv_config.guests);
        vmc_bm_write(text, n);
    }
}
