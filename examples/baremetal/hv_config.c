/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The configuration file: sections in braces, "key = value" inside, values bare or in double
 * quotes, '#' starts a comment, ';' may end an entry.
 *
 *   hypervisor { status = 5; when_done = poweroff }
 *   guest web  { kernel = vmlinuz; initrd = initrd; cmdline = "console=ttyS0"; mem = 256M }
 */
#include "hv.h"

struct parser {
    struct hv_config *config;
    const char *p, *end;
    unsigned line;
    char *message;
    size_t room;
    bool failed;
};

static bool fail(struct parser *s, const char *what, const char *detail)
{
    if (!s->failed)
        vmc_bm_snprintf(s->message, s->room, "%s%s%s%s", what, detail[0] != 0 ? " '" : "", detail,
                        detail[0] != 0 ? "'" : "");
    s->failed = true;
    return false;
}

static void skip(struct parser *s, bool separators)
{
    while (s->p < s->end) {
        if (*s->p == '#') {
            while (s->p < s->end && *s->p != '\n')
                s->p++;
        } else if (*s->p == '\n') {
            s->line++;
            s->p++;
        } else if (*s->p == ' ' || *s->p == '\t' || *s->p == '\r' || *s->p == 0 ||
                   (separators && *s->p == ';')) {
            s->p++;
        } else {
            return;
        }
    }
}

static bool is_word(char c)
{
    return c > ' ' && c != '{' && c != '}' && c != '=' && c != '#' && c != '"' && c != ';';
}

/* A bare word, or a string in quotes. */
static bool word(struct parser *s, char *out, size_t room)
{
    size_t n = 0;

    skip(s, false);
    bool quoted = s->p < s->end && *s->p == '"';
    if (quoted)
        s->p++;
    while (s->p < s->end && (quoted ? *s->p != '"' && *s->p != '\n'
                                    : is_word(*s->p) || (*s->p == '=' && n > 0 && out[0] == '/'))) {
        if (n + 1 >= room)
            return fail(s, "too long a value", "");
        out[n++] = *s->p++;
    }
    out[n] = 0;
    if (quoted) {
        if (s->p == s->end || *s->p != '"')
            return fail(s, "a quote is not closed", "");
        s->p++;
        return true;
    }
    return n > 0 || fail(s, "a word is missing", "");
}

static bool expect(struct parser *s, char c)
{
    char text[2] = {c, 0};

    skip(s, false);
    if (s->p < s->end && *s->p == c) {
        s->p++;
        return true;
    }
    return fail(s, "expected", text);
}

static bool number(struct parser *s, const char *v, uint64_t max, uint64_t *out)
{
    uint64_t n = 0;
    const char *p = v;

    for (; *p >= '0' && *p <= '9'; p++) {
        if (n > UINT64_MAX / 10 - 1)
            return fail(s, "too large a number", v);
        n = n * 10 + (uint64_t)(*p - '0');
    }
    unsigned shift = *p == 'K' ? 10 : *p == 'M' ? 20 : *p == 'G' ? 30 : 0;
    if (shift != 0)
        p++;
    if (p == v || *p != 0)
        return fail(s, "not a number", v);
    if (n > max >> shift)
        return fail(s, "too large a number", v);
    *out = n << shift;
    return true;
}

static bool copy(struct parser *s, char *out, size_t room, const char *v)
{
    if (hv_strlen(v) >= room)
        return fail(s, "too long a value", "");
    hv_strcpy(out, room, v);
    return true;
}

/* A name of any length. */
static bool keep(struct parser *s, const char **out, const char *v)
{
    struct hv_config *c = s->config;
    size_t n = hv_strlen(v) + 1;

    if (n == 1)
        return fail(s, "a name is empty", "");
    if (n > sizeof(c->names) - c->names_used)
        return fail(s, "the names of files and disks are too long together", "");
    *out = memcpy(c->names + c->names_used, v, n);
    c->names_used += (uint32_t)n;
    return true;
}

static bool boolean(struct parser *s, const char *v, bool *out)
{
    *out = hv_streq(v, "yes") || hv_streq(v, "on");
    return *out || hv_streq(v, "no") || hv_streq(v, "off") || fail(s, "neither yes nor no:", v);
}

/* ---- sections ----------------------------------------------------------------------------------
 */

static bool guest_key(struct parser *s, struct hv_guest_config *g, const char *key, const char *v)
{
    uint64_t n = 0;

    if (hv_streq(key, "kernel")) {
        return keep(s, &g->kernel, v);
    } else if (hv_streq(key, "initrd")) {
        return keep(s, &g->initrd, v);
    } else if (hv_streq(key, "firmware")) {
        return keep(s, &g->firmware, v);
    } else if (hv_streq(key, "cmdline")) {
        return copy(s, g->cmdline, sizeof(g->cmdline), v);
    } else if (hv_streq(key, "cpu")) {
        return copy(s, g->cpu_model, sizeof(g->cpu_model), v);
    } else if (hv_streq(key, "disk")) {
        if (g->disks == HV_MAX_DISKS)
            return fail(s, "too many disks for guest", g->name);
        return keep(s, &g->disk[g->disks++], v);
    } else if (hv_streq(key, "mem")) {
        if (!number(s, v, VMC_PC_MAX_RAM, &g->mem_bytes))
            return false;
        if (g->mem_bytes < VMC_PC_MIN_RAM || g->mem_bytes % VMC_PAGE_SIZE != 0)
            return fail(s, "mem must be whole pages, at least 1M:", v);
    } else if (hv_streq(key, "cpus")) {
        if (!number(s, v, UINT64_MAX, &n))
            return false;
        if (n == 0 || n > HV_MAX_VCPUS)
            return fail(s, "cpus must be 1 to 8:", v);
        g->cpus = (uint32_t)n;
    } else if (hv_streq(key, "shares")) {
        if (!number(s, v, UINT64_MAX, &n))
            return false;
        if (n == 0 || n > VMC_SCHED_MAX_SHARES)
            return fail(s, "shares must be 1 to 1000000:", v);
        g->shares = (uint32_t)n;
    } else if (hv_streq(key, "network")) {
        return boolean(s, v, &g->network);
    } else if (hv_streq(key, "on_crash")) {
        g->restart = hv_streq(v, "restart");
        if (!g->restart && !hv_streq(v, "stop"))
            return fail(s, "on_crash is stop or restart, not", v);
    } else if (hv_streq(key, "start")) {
        return boolean(s, v, &g->autostart);
    } else {
        return fail(s, "a guest has no setting", key);
    }
    return true;
}

static bool hypervisor_key(struct parser *s, struct hv_config *c, const char *key, const char *v)
{
    uint64_t n = 0;

    if (hv_streq(key, "status")) {
        if (!number(s, v, 3600, &n))
            return false;
        c->status_s = (uint32_t)n;
    } else if (hv_streq(key, "rows")) {
        if (!number(s, v, 200, &n))
            return false;
        c->rows = (uint32_t)n;
    } else if (hv_streq(key, "hotkey")) {
        if (v[0] != '^' || v[1] < 'A' || v[1] > '_' || v[2] != 0)
            return fail(s, "hotkey is written ^A to ^_, not", v);
        c->hot_key = (char)(v[1] - '@');
    } else if (hv_streq(key, "when_done")) {
        c->poweroff_when_done = hv_streq(v, "poweroff");
        if (!c->poweroff_when_done && !hv_streq(v, "stay"))
            return fail(s, "when_done is poweroff or stay, not", v);
    } else if (hv_streq(key, "engine")) {
        return copy(s, c->engine, sizeof(c->engine), v);
    } else if (hv_streq(key, "apic")) {
        c->apic = hv_streq(v, "processor")  ? VMC_HW_CFG_APIC
                  : hv_streq(v, "software") ? VMC_HW_CFG_NO_APIC
                                            : 0;
        if (c->apic == 0 && !hv_streq(v, "auto"))
            return fail(s, "apic is auto, software or processor, not", v);
    } else if (hv_streq(key, "run")) {
        return copy(s, c->startup, sizeof(c->startup), v);
    } else {
        return fail(s, "the hypervisor has no setting", key);
    }
    return true;
}

static bool section_body(struct parser *s, struct hv_config *c, struct hv_guest_config *g)
{
    char key[32], value[HV_TEXT];

    if (!expect(s, '{'))
        return false;
    for (;;) {
        skip(s, true);
        if (s->p == s->end)
            return fail(s, "a section is not closed", "");
        if (*s->p == '}') {
            s->p++;
            return true;
        }
        if (!word(s, key, sizeof(key)) || !expect(s, '=') || !word(s, value, sizeof(value)))
            return false;
        if (g != NULL ? !guest_key(s, g, key, value) : !hypervisor_key(s, c, key, value))
            return false;
    }
}

static bool new_guest(struct parser *s, struct hv_config *c)
{
    struct hv_guest_config *g = &c->guest[c->guests];

    if (c->guests == HV_MAX_GUESTS)
        return fail(s, "too many guests", "");
    *g = (struct hv_guest_config){.mem_bytes = 256ull << 20,
                                  .cpus = 1,
                                  .shares = 1000,
                                  .autostart = true,
                                  .cpu_model = "default"};
    if (!word(s, g->name, sizeof(g->name)))
        return false;
    for (uint32_t i = 0; i < c->guests; i++)
        if (hv_streq(c->guest[i].name, g->name))
            return fail(s, "there are two guests", g->name);
    c->guests++;
    if (!section_body(s, c, g))
        return false;
    return g->kernel != NULL || g->firmware != NULL || fail(s, "no kernel for guest", g->name);
}

bool hv_config_parse(struct hv_config *c, const char *text, size_t bytes, char *message,
                     size_t room, unsigned *line)
{
    struct parser s = {.config = c,
                       .p = text,
                       .end = text + bytes,
                       .line = 1,
                       .message = message,
                       .room = room};
    char kind[32];
    bool ok = true;

    *c = (struct hv_config){.hot_key = 1, .engine = "auto"};
    while (ok) { /* nothing is skipped behind a mistake: its line is told */
        skip(&s, true);
        if (s.p == s.end)
            break;
        ok = word(&s, kind, sizeof(kind));
        if (ok && hv_streq(kind, "guest"))
            ok = new_guest(&s, c);
        else if (ok && hv_streq(kind, "hypervisor"))
            ok = section_body(&s, c, NULL);
        else if (ok)
            ok = fail(&s, "neither 'guest' nor 'hypervisor':", kind);
    }
    *line = s.line;
    return ok;
}

/* ---- small things -------------------------------------------------------------------------------
 */

bool hv_streq(const char *a, const char *b)
{
    while (*a != 0 && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

size_t hv_strlen(const char *s)
{
    size_t n = 0;
    while (s[n] != 0)
        n++;
    return n;
}

void hv_strcpy(char *dst, size_t room, const char *src)
{
    size_t n = 0;
    while (n + 1 < room && src[n] != 0) {
        dst[n] = src[n];
        n++;
    }
    dst[n] = 0;
}
