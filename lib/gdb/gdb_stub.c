/* SPDX-License-Identifier: BSD-2-Clause */
/* Packets of the remote protocol and what they mean for a VM. */
#include "gdb/gdb_priv.h"

enum rx { RX_IDLE, RX_BODY, RX_SUM1, RX_SUM2 };

struct vmc_gdb {
    const struct vmc_platform *pf;
    struct vmc_gdb_config cfg;
    enum rx rx;
    bool running, no_ack, overflow;
    uint8_t sum, sum_given;
    uint32_t vcpu;      /* selected by Hg, or where the stop happened */
    uint32_t cont_vcpu; /* selected by Hc or vCont */
    unsigned bp_count;
    struct vmc_breakpoint bp[GDB_BREAKPOINTS];
    size_t in_len, xml_len;
    char in[GDB_PACKET_BYTES];
    char out[2 * GDB_PACKET_BYTES];
    const struct gdb_arch *arch;
    char xml[GDB_PACKET_BYTES];
    struct vmc_x86_state st;
};

/* ---- writing ------------------------------------------------------------------------------- */

static const char hexdigits[] = "0123456789abcdef";

static void put_char(struct gdb_writer *w, char c)
{
    if (w->len < w->cap)
        w->buf[w->len] = c;
    w->len++;
}

void gdb_put(struct gdb_writer *w, const char *text)
{
    for (; *text != '\0'; text++)
        put_char(w, *text);
}

void gdb_put_hex(struct gdb_writer *w, const void *data, size_t bytes)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < bytes; i++) {
        put_char(w, hexdigits[p[i] >> 4]);
        put_char(w, hexdigits[p[i] & 15]);
    }
}

void gdb_put_num(struct gdb_writer *w, uint64_t v)
{
    char text[20];
    vmci_snprintf(text, sizeof(text), "%lx", (unsigned long)v);
    gdb_put(w, text);
}

static void send_packet(struct vmc_gdb *g, struct gdb_writer *w)
{
    uint8_t sum = 0;
    char tail[4];

    if (w->len > w->cap)
        w->len = w->cap;
    for (size_t i = 0; i < w->len; i++)
        sum = (uint8_t)(sum + (uint8_t)w->buf[i]);
    g->cfg.send(g->cfg.ctx, "$", 1);
    g->cfg.send(g->cfg.ctx, w->buf, w->len);
    vmci_snprintf(tail, sizeof(tail), "#%02x", sum);
    g->cfg.send(g->cfg.ctx, tail, 3);
}

static void send_text(struct vmc_gdb *g, const char *text)
{
    struct gdb_writer w = {.buf = g->out, .cap = sizeof(g->out)};
    gdb_put(&w, text);
    send_packet(g, &w);
}

/* ---- reading ------------------------------------------------------------------------------- */

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static bool get_num(struct gdb_reader *r, uint64_t *out)
{
    const char *start = r->at;
    uint64_t v = 0;

    while (r->at < r->end && hex_value(*r->at) >= 0 && r->at - start < 16)
        v = v << 4 | (uint64_t)hex_value(*r->at++);
    *out = v;
    return r->at > start;
}

static bool get_char(struct gdb_reader *r, char c)
{
    if (r->at >= r->end || *r->at != c)
        return false;
    r->at++;
    return true;
}

static bool starts(struct gdb_reader *r, const char *word)
{
    size_t n = vmci_strlen(word);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0)
        return false;
    r->at += n;
    return true;
}

bool gdb_hex_bytes(struct gdb_reader *r, void *out, size_t bytes)
{
    uint8_t *p = out;

    if ((size_t)(r->end - r->at) < 2 * bytes)
        return false;
    for (size_t i = 0; i < bytes; i++, r->at += 2) {
        int hi = hex_value(r->at[0]);
        int lo = hex_value(r->at[1]);
        if (hi < 0 || lo < 0)
            return false;
        p[i] = (uint8_t)(hi << 4 | lo);
    }
    return true;
}

/* ---- registers and memory ------------------------------------------------------------------ */

static struct vmc_vcpu *selected(struct vmc_gdb *g)
{
    return vmc_vm_vcpu(g->cfg.vm, g->vcpu);
}

static bool fetch_state(struct vmc_gdb *g)
{
    struct vmc_vcpu *v = selected(g);
    return v != NULL && vmc_vcpu_get_state(v, VMC_ST_ALL & ~(uint32_t)VMC_ST_LAPIC, &g->st) >= 0;
}

static void read_registers(struct vmc_gdb *g)
{
    struct gdb_writer w = {.buf = g->out, .cap = sizeof(g->out)};
    uint8_t value[16];

    if (!fetch_state(g)) {
        send_text(g, "E01");
        return;
    }
    for (unsigned n = 0; n < gdb_reg_count(g->arch); n++)
        gdb_put_hex(&w, value, gdb_reg_get(g->arch, &g->st, n, value));
    send_packet(g, &w);
}

static void write_registers(struct vmc_gdb *g, struct gdb_reader *r)
{
    uint32_t groups = 0;
    uint8_t value[16];

    if (!fetch_state(g)) {
        send_text(g, "E01");
        return;
    }
    for (unsigned n = 0; n < gdb_reg_count(g->arch) && r->at < r->end; n++) {
        if (!gdb_hex_bytes(r, value, gdb_reg_bytes(g->arch, n)))
            break;
        groups |= gdb_reg_set(g->arch, &g->st, n, value);
    }
    send_text(g, vmc_vcpu_set_state(selected(g), groups, &g->st) == VMC_OK ? "OK" : "E02");
}

static void read_register(struct vmc_gdb *g, struct gdb_reader *r)
{
    struct gdb_writer w = {.buf = g->out, .cap = sizeof(g->out)};
    uint8_t value[16];
    uint64_t n;

    if (!get_num(r, &n) || n >= gdb_reg_count(g->arch) || !fetch_state(g)) {
        send_text(g, "E01");
        return;
    }
    gdb_put_hex(&w, value, gdb_reg_get(g->arch, &g->st, (unsigned)n, value));
    send_packet(g, &w);
}

static void write_register(struct vmc_gdb *g, struct gdb_reader *r)
{
    uint8_t value[16];
    uint64_t n;
    uint32_t groups = 0;

    if (get_num(r, &n) && n < gdb_reg_count(g->arch) && get_char(r, '=') &&
        gdb_hex_bytes(r, value, gdb_reg_bytes(g->arch, (unsigned)n)) && fetch_state(g))
        groups = gdb_reg_set(g->arch, &g->st, (unsigned)n, value);
    bool ok = groups != 0 && vmc_vcpu_set_state(selected(g), groups, &g->st) == VMC_OK;
    send_text(g, ok ? "OK" : "E01");
}

/* Translate as the selected vCPU sees it, without leaving a trace in its page tables. */
static bool translate(struct vmc_gdb *g, uint64_t gva, uint64_t *gpa)
{
    struct vmc_paging pg = {.cr0 = g->st.cr0,
                            .cr3 = g->st.cr3,
                            .cr4 = g->st.cr4,
                            .efer = g->st.efer,
                            .phys_bits = VMC_GPA_BITS};
    struct vmc_walk w;

    memcpy(pg.pdpte, g->st.pdpte, sizeof(pg.pdpte));
    if (vmc_vm_a20_off(g->cfg.vm))
        pg.without |= VMC_PAGING_NO_A20;
    pg.cr0 &= ~VMC_CR0_WP;
    pg.cr4 &= ~(VMC_CR4_SMAP | VMC_CR4_SMEP | VMC_CR4_PKE);
    if (vmc_walk_gva(vmc_vm_mem(g->cfg.vm), &pg, gva, VMC_ACC_READ | VMC_ACC_PROBE, &w) != VMC_OK)
        return false;
    *gpa = w.gpa;
    return true;
}

/* Copy page by page; returns how many bytes were reached. */
static size_t transfer(struct vmc_gdb *g, uint64_t gva, uint8_t *buf, size_t bytes, bool write)
{
    struct vmc_mem *mem = vmc_vm_mem(g->cfg.vm);
    size_t done = 0;

    while (done < bytes) {
        uint64_t gpa;
        size_t run = VMCI_MIN(bytes - done, VMC_PAGE_SIZE - ((gva + done) & (VMC_PAGE_SIZE - 1)));
        if (!translate(g, gva + done, &gpa))
            break;
        int rc = write ? vmc_mem_load(mem, gpa, buf + done, run)
                       : vmc_mem_read(mem, gpa, buf + done, run);
        if (rc != VMC_OK)
            break;
        done += run;
    }
    return done;
}

static void read_memory(struct vmc_gdb *g, struct gdb_reader *r)
{
    struct gdb_writer w = {.buf = g->out, .cap = sizeof(g->out)};
    uint64_t addr, bytes;

    if (!get_num(r, &addr) || !get_char(r, ',') || !get_num(r, &bytes) || !fetch_state(g)) {
        send_text(g, "E01");
        return;
    }
    bytes = VMCI_MIN(bytes, GDB_PACKET_BYTES / 2);
    uint8_t *data = (uint8_t *)g->out + sizeof(g->out) - bytes; /* hex grows towards it, not past */
    size_t got = transfer(g, addr, data, bytes, false);
    if (got == 0 && bytes > 0) {
        send_text(g, "E14");
        return;
    }
    gdb_put_hex(&w, data, got);
    send_packet(g, &w);
}

static void write_memory(struct vmc_gdb *g, struct gdb_reader *r, bool binary)
{
    uint64_t addr, bytes;

    if (!get_num(r, &addr) || !get_char(r, ',') || !get_num(r, &bytes) || !get_char(r, ':') ||
        bytes > GDB_PACKET_BYTES / 2 || !fetch_state(g)) {
        send_text(g, "E01");
        return;
    }
    uint8_t *data = (uint8_t *)g->out;
    if (binary) {
        size_t n = 0;
        for (; r->at < r->end && n < bytes; n++, r->at++) {
            bool escaped = *r->at == '}' && r->at + 1 < r->end;
            if (escaped)
                r->at++;
            data[n] = (uint8_t)(escaped ? *r->at ^ 0x20 : *r->at);
        }
        bytes = n == bytes ? bytes : UINT64_MAX;
    } else if (!gdb_hex_bytes(r, data, bytes)) {
        bytes = UINT64_MAX;
    }
    bool ok = bytes != UINT64_MAX && transfer(g, addr, data, bytes, true) == bytes;
    send_text(g, ok ? "OK" : "E14");
}

/* ---- breakpoints --------------------------------------------------------------------------- */

static bool push_breakpoints(struct vmc_gdb *g)
{
    bool ok = true;
    for (uint32_t i = 0; i < g->cfg.vcpus; i++) {
        struct vmc_vcpu *v = vmc_vm_vcpu(g->cfg.vm, i);
        if (v != NULL && vmc_vcpu_set_debug(v, g->bp, g->bp_count) != VMC_OK)
            ok = false;
    }
    return ok;
}

static void breakpoint(struct vmc_gdb *g, struct gdb_reader *r, bool insert)
{
    static const uint8_t kinds[] = {VMC_BP_EXEC, VMC_BP_EXEC, VMC_BP_WRITE, VMC_BP_READ, VMC_BP_RW};
    uint64_t type, addr, bytes;

    if (!get_num(r, &type) || !get_char(r, ',') || !get_num(r, &addr) || !get_char(r, ',') ||
        !get_num(r, &bytes)) {
        send_text(g, "E01");
        return;
    }
    if (type >= VMCI_ARRAY_SIZE(kinds)) {
        send_text(g, "");
        return;
    }
    struct vmc_breakpoint b = {
        .gva = addr, .bytes = type <= 1 ? 1 : (uint32_t)VMCI_MIN(bytes, 8u), .kind = kinds[type]};
    unsigned i = 0;
    while (i < g->bp_count &&
           (g->bp[i].gva != b.gva || g->bp[i].kind != b.kind || g->bp[i].bytes != b.bytes))
        i++;
    bool added = insert && i == g->bp_count;
    if (added && i == GDB_BREAKPOINTS) {
        send_text(g, "E0c");
        return;
    }
    if (added)
        g->bp[g->bp_count++] = b;
    else if (!insert && i < g->bp_count)
        g->bp[i] = g->bp[--g->bp_count];
    bool ok = push_breakpoints(g);
    if (!ok && added) { /* one that the engine refuses must not cost the others */
        g->bp_count--;
        (void)push_breakpoints(g);
    }
    send_text(g, ok ? "OK" : "E02");
}

static void forget_breakpoints(struct vmc_gdb *g)
{
    if (g->bp_count == 0)
        return;
    g->bp_count = 0;
    (void)push_breakpoints(g); /* the debugger goes away either way */
}

/* ---- threads, queries ---------------------------------------------------------------------- */

/* Thread ids are vCPU numbers plus one; 0 and -1 mean any. */
static bool get_thread(struct gdb_reader *r, uint32_t *vcpu, uint32_t vcpus)
{
    uint64_t id;

    if (get_char(r, '-')) {
        (void)get_num(r, &id);
        return true;
    }
    if (!get_num(r, &id))
        return false;
    if (id == 0)
        return true;
    if (id > vcpus)
        return false;
    *vcpu = (uint32_t)id - 1;
    return true;
}

static void query_threads(struct vmc_gdb *g)
{
    struct gdb_writer w = {.buf = g->out, .cap = sizeof(g->out)};
    for (uint32_t i = 0; i < g->cfg.vcpus; i++) {
        gdb_put(&w, i == 0 ? "m" : ",");
        gdb_put_num(&w, i + 1);
    }
    send_packet(g, &w);
}

static void query_features(struct vmc_gdb *g, struct gdb_reader *r)
{
    struct gdb_writer w = {.buf = g->out, .cap = sizeof(g->out)};
    uint64_t offset, bytes;

    if (!starts(r, "target.xml:") || !get_num(r, &offset) || !get_char(r, ',') ||
        !get_num(r, &bytes)) {
        send_text(g, "E00");
        return;
    }
    size_t len = g->xml_len;
    offset = VMCI_MIN(offset, (uint64_t)len);
    uint64_t n = VMCI_MIN(VMCI_MIN(bytes, len - offset), (uint64_t)GDB_PACKET_BYTES);
    put_char(&w, offset + n < len ? 'm' : 'l');
    for (uint64_t i = 0; i < n; i++)
        put_char(&w, g->xml[offset + i]);
    send_packet(g, &w);
}

static void query_extra(struct vmc_gdb *g, struct gdb_reader *r)
{
    struct gdb_writer w = {.buf = g->out, .cap = sizeof(g->out)};
    char text[32];
    uint64_t id;

    if (!get_num(r, &id) || id == 0 || id > g->cfg.vcpus) {
        send_text(g, "E01");
        return;
    }
    size_t n = vmci_snprintf(text, sizeof(text), "vCPU %u", (unsigned)(id - 1));
    gdb_put_hex(&w, text, n);
    send_packet(g, &w);
}

static void query(struct vmc_gdb *g, struct gdb_reader *r)
{
    struct gdb_writer w = {.buf = g->out, .cap = sizeof(g->out)};

    if (starts(r, "Supported")) {
        gdb_put(&w, "PacketSize=");
        gdb_put_num(&w, GDB_PACKET_BYTES - 16);
        gdb_put(&w, ";QStartNoAckMode+;qXfer:features:read+;vContSupported+;hwbreak+;swbreak-");
        send_packet(g, &w);
    } else if (starts(r, "Xfer:features:read:")) {
        query_features(g, r);
    } else if (starts(r, "fThreadInfo")) {
        query_threads(g);
    } else if (starts(r, "sThreadInfo")) {
        send_text(g, "l");
    } else if (starts(r, "ThreadExtraInfo,")) {
        query_extra(g, r);
    } else if (starts(r, "Attached")) {
        send_text(g, "1");
    } else if (r->at + 1 == r->end && *r->at == 'C') {
        gdb_put(&w, "QC");
        gdb_put_num(&w, g->vcpu + 1);
        send_packet(g, &w);
    } else {
        send_text(g, "");
    }
}

/* ---- running ------------------------------------------------------------------------------- */

static enum vmc_gdb_action resume(struct vmc_gdb *g, bool step)
{
    g->running = true;
    return step ? VMC_GDB_STEP : VMC_GDB_CONTINUE;
}

/* vCont;ACTION[:THREAD]... : a step of one thread, or everything goes on. */
static enum vmc_gdb_action vcont(struct vmc_gdb *g, struct gdb_reader *r)
{
    bool step = false;

    while (get_char(r, ';') && r->at < r->end) {
        char what = *r->at++;
        uint32_t vcpu = g->vcpu;
        if (what == 'C' || what == 'S') {
            uint64_t signal;
            (void)get_num(r, &signal);
        }
        if (get_char(r, ':') && !get_thread(r, &vcpu, g->cfg.vcpus)) {
            send_text(g, "E01");
            return VMC_GDB_NONE;
        }
        if ((what == 's' || what == 'S') && !step) {
            step = true;
            g->cont_vcpu = vcpu;
        }
    }
    return resume(g, step);
}

static void select_thread(struct vmc_gdb *g, struct gdb_reader *r)
{
    bool general = get_char(r, 'g');
    bool ok = general || get_char(r, 'c');
    ok = ok && get_thread(r, general ? &g->vcpu : &g->cont_vcpu, g->cfg.vcpus);
    send_text(g, ok ? "OK" : "E01");
}

static void send_stop(struct vmc_gdb *g, const char *reason, uint64_t addr, bool has_addr)
{
    struct gdb_writer w = {.buf = g->out, .cap = sizeof(g->out)};
    gdb_put(&w, "T05thread:");
    gdb_put_num(&w, g->vcpu + 1);
    gdb_put(&w, ";");
    gdb_put(&w, reason);
    if (has_addr)
        gdb_put_num(&w, addr);
    if (*reason != '\0')
        gdb_put(&w, ";");
    send_packet(g, &w);
}

void vmc_gdb_stopped(struct vmc_gdb *g, uint32_t vcpu, const struct vmc_exit *exit)
{
    if (!g->running)
        return;
    g->running = false;
    g->vcpu = g->cont_vcpu = vcpu < g->cfg.vcpus ? vcpu : 0;
    if (exit == NULL)
        send_text(g, "T02");
    else if (exit->kind == VMC_EXIT_SHUTDOWN && exit->u.stop.why == VMC_STOP_TRIPLE_FAULT)
        send_text(g, "T0b");
    else if (exit->kind == VMC_EXIT_SHUTDOWN)
        send_text(g, "W00");
    else if (exit->kind == VMC_EXIT_DEBUG && exit->u.stop.why == VMC_DEBUG_WATCH)
        send_stop(g, "watch:", exit->u.stop.detail, true);
    else if (exit->kind == VMC_EXIT_DEBUG && exit->u.stop.why == VMC_DEBUG_BREAKPOINT)
        send_stop(g, "hwbreak:", 0, false);
    else
        send_stop(g, "", 0, false);
}

static enum vmc_gdb_action handle_packet(struct vmc_gdb *g)
{
    struct gdb_reader r = {.at = g->in, .end = g->in + g->in_len};

    if (g->in_len == 0) {
        send_text(g, "");
        return VMC_GDB_NONE;
    }
    char kind = *r.at++;
    switch (kind) {
    case '?':
        send_stop(g, "", 0, false);
        break;
    case 'g':
        read_registers(g);
        break;
    case 'G':
        write_registers(g, &r);
        break;
    case 'p':
        read_register(g, &r);
        break;
    case 'P':
        write_register(g, &r);
        break;
    case 'm':
        read_memory(g, &r);
        break;
    case 'M':
    case 'X':
        write_memory(g, &r, kind == 'X');
        break;
    case 'Z':
    case 'z':
        breakpoint(g, &r, kind == 'Z');
        break;
    case 'H':
        select_thread(g, &r);
        break;
    case 'T': {
        uint32_t v = 0;
        send_text(g, get_thread(&r, &v, g->cfg.vcpus) ? "OK" : "E01");
        break;
    }
    case 'q':
        query(g, &r);
        break;
    case 'Q':
        if (starts(&r, "StartNoAckMode")) {
            send_text(g, "OK");
            g->no_ack = true;
        } else {
            send_text(g, "");
        }
        break;
    case 'c':
    case 's':
        return resume(g, kind == 's');
    case 'v':
        if (starts(&r, "Cont?"))
            send_text(g, "vCont;c;C;s;S");
        else if (starts(&r, "Cont"))
            return vcont(g, &r);
        else
            send_text(g, "");
        break;
    case 'D':
        forget_breakpoints(g);
        send_text(g, "OK");
        g->running = true;
        return VMC_GDB_DETACH;
    case 'k':
        return VMC_GDB_KILL;
    default:
        send_text(g, "");
        break;
    }
    return VMC_GDB_NONE;
}

/* A byte of the stream; true when it ends a good packet. */
static bool receive(struct vmc_gdb *g, char c)
{
    switch (g->rx) {
    case RX_IDLE:
        if (c == '$') {
            g->rx = RX_BODY;
            g->in_len = 0;
            g->sum = 0;
            g->overflow = false;
        }
        return false;
    case RX_BODY:
        if (c == '#') {
            g->rx = RX_SUM1;
            return false;
        }
        g->sum = (uint8_t)(g->sum + (uint8_t)c);
        if (g->in_len < sizeof(g->in))
            g->in[g->in_len++] = c;
        else
            g->overflow = true;
        return false;
    case RX_SUM1:
        g->sum_given = (uint8_t)((hex_value(c) & 15) << 4);
        g->rx = RX_SUM2;
        return false;
    case RX_SUM2:
        g->sum_given |= (uint8_t)(hex_value(c) & 15);
        g->rx = RX_IDLE;
        bool good = !g->overflow && g->sum_given == g->sum;
        if (!g->no_ack)
            g->cfg.send(g->cfg.ctx, good ? "+" : "-", 1);
        return good;
    }
    return false;
}

enum vmc_gdb_action vmc_gdb_input(struct vmc_gdb *g, const void *data, size_t bytes, size_t *used)
{
    const char *p = data;

    for (size_t i = 0; i < bytes; i++) {
        if (g->rx == RX_IDLE && p[i] == 3) {
            *used = i + 1;
            if (g->running)
                return VMC_GDB_INTERRUPT;
            continue;
        }
        if (g->running)
            continue;
        if (!receive(g, p[i]))
            continue;
        enum vmc_gdb_action action = handle_packet(g);
        if (action != VMC_GDB_NONE) {
            *used = i + 1;
            return action;
        }
    }
    *used = bytes;
    return VMC_GDB_NONE;
}

void vmc_gdb_connected(struct vmc_gdb *g)
{
    forget_breakpoints(g);
    g->rx = RX_IDLE;
    g->running = false;
    g->no_ack = false;
    g->vcpu = g->cont_vcpu = 0;
}

uint32_t vmc_gdb_step_vcpu(const struct vmc_gdb *g)
{
    return g->cont_vcpu;
}

int vmc_gdb_create(const struct vmc_platform *pf, const struct vmc_gdb_config *cfg,
                   struct vmc_gdb **out, struct vmc_error *err)
{
    if (cfg->size != sizeof(*cfg) || cfg->vm == NULL || cfg->send == NULL || cfg->vcpus == 0 ||
        (cfg->flags & ~VMC_GDB_I386) != 0)
        return vmci_error(err, VMC_EINVAL, "gdb/create", "incomplete configuration");
    struct vmc_gdb *g = vmci_alloc_aligned(pf, sizeof(*g), VMCI_CACHELINE);
    if (g == NULL)
        return vmci_error(err, VMC_ENOMEM, "gdb/create", "no memory for the stub");
    memset(g, 0, sizeof(*g));
    g->pf = pf;
    g->cfg = *cfg;
    g->arch = (cfg->flags & VMC_GDB_I386) != 0 ? &gdb_i386 : &gdb_x86_64;
    g->xml_len = gdb_target_xml(g->arch, g->xml, sizeof(g->xml));
    *out = g;
    return VMC_OK;
}

void vmc_gdb_destroy(struct vmc_gdb *g)
{
    if (g != NULL)
        vmci_free_aligned(g->pf, g, sizeof(*g), VMCI_CACHELINE);
}
