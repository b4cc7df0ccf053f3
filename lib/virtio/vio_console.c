/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtio console (virtio 1.2, 5.3). Output that the chardev does not take yet stays in the ring:
 * the chain is put back with a note of how much of it is done, so nothing is held while the device
 * is drained or saved.
 *
 * Threats (tests/unit/virtio/test_console.c, fuzz/virtio_console.c)
 *
 * | guest input                 | bound                                                          |
 * |-----------------------------|----------------------------------------------------------------|
 * | control message             | 8 bytes are read; port id checked; unknown events ignored      |
 * | many control messages       | answers are bits per port, not a queue                         |
 * | output while the far end is slow | waits in the guest's own ring                             |
 * | a changed chain while it waits | the offset is clamped to the chain's length                 |
 */
#include <vmcore/virtio_console.h>

#include "base/snapshot.h"
#include "virtio/virtio_int.h"

#define DEVICE_ID 3u
#define PIECES    64u /* of a buffer; Linux uses up to 32 */
#define INPUT_MAX 0x40000000u

/* Feature bits (5.3.3) and configuration (5.3.4). */
#define F_SIZE        VMCI_BIT(0)
#define F_MULTIPORT   VMCI_BIT(1)
#define F_EMERG_WRITE VMCI_BIT(2)
enum config_reg { CFG_COLS = 0, CFG_ROWS = 2, CFG_PORTS = 4, CFG_EMERG = 8, CFG_BYTES = 12 };

/* Control messages (5.3.6.2). */
enum event {
    EV_DEVICE_READY,
    EV_DEVICE_ADD,
    EV_DEVICE_REMOVE,
    EV_PORT_READY,
    EV_CONSOLE_PORT,
    EV_RESIZE,
    EV_PORT_OPEN,
    EV_PORT_NAME,
};
#define MESSAGE_BYTES 8u

#define Q_CONTROL_RX 2u
#define Q_CONTROL_TX 3u

struct port {
    struct vmc_chardev out;     /* (c) */
    bool console;               /* (c) */
    unsigned name_bytes;        /* (c) */
    char name[VMC_VIRTIO_CONSOLE_NAME];
    uint32_t pending;   /* (a) bit per enum event to be sent, lowest first */
    uint32_t open;      /* (a) the guest has it open */
    uint32_t starving;  /* (a) input waits for buffers */
    uint64_t tx_done;   /* bytes of the next output chain already written; its worker's */
    struct vmci_chain rx, tx; /* rx: the queue's lock; tx: its worker's */
};

struct console_dev {
    struct vmc_virtio v;
    unsigned port_count;
    void (*rx_ready)(void *ctx, unsigned port);
    void (*port_open)(void *ctx, unsigned port, bool open);
    void *ctx;
    struct vmci_chain ctl_rx, ctl_tx; /* their workers' */
    struct port port[VMC_VIRTIO_CONSOLE_PORTS_MAX];
    void *sg; /* storage of all chains */
};

static struct console_dev *console(struct vmc_virtio *v)
{
    return VMCI_CONTAINER_OF(v, struct console_dev, v);
}

/* Queues 0 and 1 belong to port 0, 2 and 3 to control, 4 and 5 to port 1 ... (5.3.2). */
static struct vmci_vq *port_queue(struct console_dev *d, unsigned port, bool tx)
{
    unsigned i = port == 0 ? 0 : 2 + 2 * port;

    return &d->v.queue[i + tx];
}

static bool multiport(const struct console_dev *d)
{
    return vmci_virtio_has(&d->v, F_MULTIPORT);
}

/* ---- output -------------------------------------------------------------------------------- */

static int pop(struct vmci_vq *q, struct vmci_chain *ch)
{
    vmci_lock(&q->lock);
    int rc = vmci_vq_usable(q) ? vmci_vq_pop(q, ch) : 0;
    vmci_unlock(&q->lock);
    return rc;
}

/* Write a chain from p->tx_done on; true: all of it is out. */
static bool write_out(struct port *p)
{
    struct vmc_iovec *iov = p->tx.iov;
    unsigned n = vmci_iov_drop_front(&iov, p->tx.out_n, p->tx_done);

    for (unsigned i = 0; i < n && p->out.ops != NULL; i++) {
        size_t done = 0;
        while (done < iov[i].bytes) {
            size_t want = VMCI_MIN(iov[i].bytes - done, (size_t)INPUT_MAX);
            int rc = p->out.ops->write(p->out.ctx, (const char *)iov[i].base + done, want);
            if (rc < 0)
                return true; /* nobody there: the rest is lost, as on a wire */
            done += (size_t)rc;
            p->tx_done += (size_t)rc;
            if ((size_t)rc < want)
                return false;
        }
    }
    return true;
}

static enum vmci_vwork tx_work(struct console_dev *d, struct port *p, struct vmci_vq *q)
{
    for (unsigned i = 0; i < VMCI_VBATCH; i++) {
        vmci_lock(&q->lock);
        struct vmci_vq_pos before = q->pos;
        int rc = vmci_vq_usable(q) ? vmci_vq_pop(q, &p->tx) : 0;
        vmci_unlock(&q->lock);
        if (rc != 1)
            return VMCI_VWORK_EMPTY;
        if (p->tx.malformed)
            (void)vmci_fetch_add(&d->v.stat_malformed, 1);
        else if (!write_out(p)) {
            vmci_chain_release(d->v.mem, &p->tx);
            vmci_lock(&q->lock);
            vmci_vq_rewind(q, &before, p->tx.slots);
            vmci_unlock(&q->lock);
            return VMCI_VWORK_STALLED;
        }
        p->tx_done = 0;
        vmci_vq_complete(q, &p->tx, 0);
    }
    return VMCI_VWORK_MORE;
}

void vmc_virtio_console_output_ready(struct vmc_virtio *v, unsigned port)
{
    struct console_dev *d = console(v);

    if (port < d->port_count)
        vmci_vq_run(port_queue(d, port, true));
}

/* ---- input --------------------------------------------------------------------------------- */

/* q->lock. Fill buffers; returns bytes taken. */
static size_t fill_input(struct console_dev *d, struct port *p, struct vmci_vq *q,
                         const unsigned char *data, size_t bytes)
{
    unsigned useless = 0; /* buffers without room, which another vCPU may add for ever */
    size_t done = 0;

    while (done < bytes && vmci_vq_usable(q)) {
        if (useless > q->size) {
            vmci_store_release(&p->starving, 1); /* goes on when the driver notifies */
            (void)vmci_vq_notify_on(q);
            break;
        }
        int rc = vmci_vq_pop(q, &p->rx);
        if (rc < 0)
            break;
        if (rc == 0) {
            if (vmci_vq_notify_on(q)) {
                vmci_vq_notify_off(q);
                continue;
            }
            vmci_store_release(&p->starving, 1);
            break;
        }
        size_t n = p->rx.malformed ? 0 : vmci_chain_write(&p->rx, 0, data + done, bytes - done);
        if (n == 0) {
            useless++;
            (void)vmci_fetch_add(&d->v.stat_malformed, 1);
        }
        vmci_chain_release(d->v.mem, &p->rx);
        vmci_vq_stage(q, &p->rx, (uint32_t)n);
        done += n;
        (void)vmci_fetch_add(&d->v.stat_requests, 1);
    }
    return done;
}

int vmc_virtio_console_input(struct vmc_virtio *v, unsigned port, const void *data, size_t bytes)
{
    struct console_dev *d = console(v);
    size_t done = 0;
    bool irq = false;

    if (port >= d->port_count)
        return VMC_EINVAL;
    struct port *p = &d->port[vmci_nospec_index(port, d->port_count)];
    vmci_store_release(&p->starving, 1); /* until proved otherwise: live, open, room */
    if (!vmci_virtio_enter(v))
        return 0;
    struct vmci_vq *q = port_queue(d, port, false);
    if (!multiport(d) || vmci_load_acquire(&p->open) != 0) {
        vmci_lock(&q->lock);
        vmci_store_release(&p->starving, 0);
        done = fill_input(d, p, q, data, VMCI_MIN(bytes, (size_t)INPUT_MAX));
        if (vmci_vq_usable(q) && q->staged != 0) { /* buffers without room go back too */
            vmci_vq_publish(q);
            irq = vmci_vq_want_irq(q);
        }
        vmci_unlock(&q->lock);
    }
    if (irq)
        vmci_vq_irq(q);
    vmci_vq_report_broken(q);
    vmci_virtio_leave(v);
    return (int)done;
}

static void feed(struct console_dev *d, unsigned port)
{
    if (vmci_exchange(&d->port[port].starving, 0) != 0 && d->rx_ready != NULL)
        d->rx_ready(d->ctx, port);
}

/* ---- control ------------------------------------------------------------------------------- */

static void post(struct console_dev *d, unsigned port, enum event ev)
{
    (void)vmci_fetch_or(&d->port[port].pending, 1u << ev);
}

/* The message for an event; returns its length. */
static size_t compose(struct console_dev *d, unsigned port, enum event ev, unsigned char *m)
{
    const struct port *p = &d->port[port];
    size_t n = MESSAGE_BYTES;

    vmci_st_le32(m, port);
    vmci_st_le16(m + 4, (uint16_t)ev);
    vmci_st_le16(m + 6, 1);
    if (ev == EV_PORT_NAME) { /* without the final zero */
        memcpy(m + n, p->name, p->name_bytes);
        n += p->name_bytes;
    } else if (ev == EV_RESIZE) {
        /* 5.3.6.2 has columns first; drivers in use, Linux among them, read rows first. */
        vmci_lock(&d->v.lock);
        memcpy(m + n, d->v.config + CFG_ROWS, 2);
        memcpy(m + n + 2, d->v.config + CFG_COLS, 2);
        vmci_unlock(&d->v.lock);
        n += 4;
    }
    return n;
}

/* Send what is pending as far as there are buffers. */
static enum vmci_vwork control_send(struct console_dev *d, struct vmci_vq *q)
{
    for (unsigned port = 0; port < d->port_count; port++) {
        uint32_t pending;
        while ((pending = vmci_load_acquire(&d->port[port].pending)) != 0) {
            unsigned char m[MESSAGE_BYTES + VMC_VIRTIO_CONSOLE_NAME];
            enum event ev = (enum event)__builtin_ctz(pending);
            int rc = pop(q, &d->ctl_rx);
            if (rc != 1) {
                /* EMPTY turns doorbells on; the driver's next buffer brings us back. */
                return VMCI_VWORK_EMPTY;
            }
            (void)vmci_fetch_and(&d->port[port].pending, ~(1u << ev));
            size_t n = d->ctl_rx.malformed ? 0 : compose(d, port, ev, m);
            size_t written = vmci_chain_write(&d->ctl_rx, 0, m, n);
            if (n == 0 || written < n)
                (void)vmci_fetch_add(&d->v.stat_malformed, 1);
            vmci_vq_complete(q, &d->ctl_rx, (uint32_t)written);
        }
    }
    return VMCI_VWORK_STALLED;
}

static void opened(struct console_dev *d, unsigned port, bool open)
{
    if (vmci_exchange(&d->port[port].open, open) == (uint32_t)open)
        return;
    if (d->port_open != NULL)
        d->port_open(d->ctx, port, open);
    if (open)
        feed(d, port);
}

static void control_message(struct console_dev *d, const unsigned char *m)
{
    uint32_t id = vmci_ld_le32(m);
    uint16_t value = vmci_ld_le16(m + 6);
    enum event ev = (enum event)vmci_ld_le16(m + 4);

    if (ev == EV_DEVICE_READY) {
        for (unsigned i = 0; i < d->port_count && value != 0; i++)
            post(d, i, EV_DEVICE_ADD);
        return;
    }
    if (id >= d->port_count)
        return;
    id = (uint32_t)vmci_nospec_index(id, d->port_count);
    if (ev == EV_PORT_READY && value != 0) {
        if (d->port[id].console) {
            post(d, id, EV_CONSOLE_PORT);
            if (vmci_virtio_has(&d->v, F_SIZE))
                post(d, id, EV_RESIZE);
        }
        if (d->port[id].name_bytes != 0)
            post(d, id, EV_PORT_NAME);
        post(d, id, EV_PORT_OPEN);
    } else if (ev == EV_PORT_OPEN) {
        opened(d, id, value != 0);
    }
}

static enum vmci_vwork control_receive(struct console_dev *d, struct vmci_vq *q)
{
    enum vmci_vwork how = VMCI_VWORK_MORE;

    for (unsigned i = 0; i < VMCI_VBATCH; i++) {
        unsigned char m[MESSAGE_BYTES];
        if (pop(q, &d->ctl_tx) != 1) {
            how = VMCI_VWORK_EMPTY;
            break;
        }
        if (!d->ctl_tx.malformed && vmci_chain_read(&d->ctl_tx, 0, m, sizeof(m)) == sizeof(m))
            control_message(d, m);
        else
            (void)vmci_fetch_add(&d->v.stat_malformed, 1);
        vmci_vq_complete(q, &d->ctl_tx, 0);
    }
    vmci_vq_run(&d->v.queue[Q_CONTROL_RX]);
    return how;
}

/* ---- the device ---------------------------------------------------------------------------- */

static enum vmci_vwork console_work(struct vmc_virtio *v, struct vmci_vq *q)
{
    struct console_dev *d = console(v);
    unsigned i = q->index;

    if (i == Q_CONTROL_RX)
        return control_send(d, q);
    if (i == Q_CONTROL_TX)
        return control_receive(d, q);
    unsigned port = i < 2 ? 0 : (i - 2) / 2;
    if ((i & 1) != 0)
        return tx_work(d, &d->port[port], q);
    feed(d, port);
    return VMCI_VWORK_STALLED; /* buffers stay until there is input */
}

static void console_started(struct vmc_virtio *v)
{
    struct console_dev *d = console(v);

    if (!multiport(d)) /* a single port is open by being there */
        feed(d, 0);
}

static void console_config_written(struct vmc_virtio *v, unsigned offset, unsigned bytes)
{
    struct console_dev *d = console(v);
    const struct vmc_chardev *out = &d->port[0].out;
    char c;

    if (offset > CFG_EMERG || offset + bytes <= CFG_EMERG)
        return;
    vmci_lock(&v->lock);
    c = (char)v->config[CFG_EMERG];
    vmci_unlock(&v->lock);
    if (out->ops != NULL) /* 5.3.4: works before the driver is up; a slow far end loses it */
        (void)out->ops->write(out->ctx, &c, 1);
}

void vmc_virtio_console_resize(struct vmc_virtio *v, uint16_t cols, uint16_t rows)
{
    struct console_dev *d = console(v);

    vmci_virtio_config_begin(v);
    vmci_st_le16(v->config + CFG_COLS, cols);
    vmci_st_le16(v->config + CFG_ROWS, rows);
    vmci_virtio_config_end(v, vmci_virtio_has(v, F_SIZE) && !multiport(d));
    if (!multiport(d) || !vmci_virtio_has(v, F_SIZE))
        return;
    for (unsigned i = 0; i < d->port_count; i++)
        if (d->port[i].console && vmci_load_acquire(&d->port[i].open) != 0)
            post(d, i, EV_RESIZE);
    vmci_vq_run(&v->queue[Q_CONTROL_RX]);
}

static void console_reset(struct vmc_virtio *v)
{
    struct console_dev *d = console(v);

    for (unsigned i = 0; i < d->port_count; i++) {
        vmci_store_relaxed(&d->port[i].pending, 0);
        d->port[i].tx_done = 0;
        opened(d, i, false);
    }
}

static void console_save(struct vmc_virtio *v, struct vmci_vsave *s)
{
    struct console_dev *d = console(v);

    for (unsigned i = 0; i < d->port_count; i++) {
        vmci_vsave_u64(s, d->port[i].pending);
        vmci_vsave_u64(s, d->port[i].open);
        vmci_vsave_u64(s, d->port[i].tx_done);
    }
}

static int console_load(struct vmc_virtio *v, struct vmci_vload *l, bool commit,
                        struct vmc_error *err)
{
    struct console_dev *d = console(v);

    for (unsigned i = 0; i < d->port_count; i++) {
        uint64_t pending = vmci_vload_u64(l);
        uint64_t open = vmci_vload_u64(l);
        uint64_t done = vmci_vload_u64(l);
        if (pending >= 1u << (EV_PORT_NAME + 1) || open > 1)
            return vmci_error(err, VMC_EFORMAT, "virtio-console/load",
                              "state of port %u is out of range", i);
        if (!commit)
            continue;
        vmci_store_relaxed(&d->port[i].pending, (uint32_t)pending);
        vmci_store_relaxed(&d->port[i].open, (uint32_t)open);
        d->port[i].tx_done = done;
    }
    return VMC_OK;
}

static size_t sg_bytes(const struct console_dev *d)
{
    return (2 + 2 * d->port_count) * vmci_chain_bytes(PIECES);
}

static void console_destroy(struct vmc_virtio *v)
{
    struct console_dev *d = console(v);
    const struct vmc_platform *pf = v->pf;

    vmci_virtio_fini(v);
    vmci_free(pf, d->sg, sg_bytes(d));
    vmci_free(pf, d, sizeof(*d));
}

static const struct vmci_virtio_class console_class = {
    .device = {.name = "virtio-console"},
    .device_id = DEVICE_ID,
    .pci_class = 0x078000, /* other communication controller */
    .config_bytes = CFG_BYTES,
    .config_writable = 0xfull << CFG_EMERG,
    .started = console_started,
    .work = console_work,
    .config_written = console_config_written,
    .reset = console_reset,
    .save = VMCI_SNAPSHOT(console_save),
    .load = VMCI_SNAPSHOT(console_load),
    .destroy = console_destroy,
};

static int configure(struct console_dev *d, const struct vmc_virtio_console_config *cfg,
                     struct vmc_error *err)
{
    const char *site = "virtio-console/create";
    static const struct vmc_virtio_console_port silent = {.console = true};

    d->port_count = cfg->port_count != 0 ? cfg->port_count : 1;
    if (d->port_count > VMC_VIRTIO_CONSOLE_PORTS_MAX)
        return vmci_error(err, VMC_EINVAL, site, "%u ports, at most %u are possible",
                          d->port_count, VMC_VIRTIO_CONSOLE_PORTS_MAX);
    if (cfg->port_count != 0 && cfg->ports == NULL)
        return vmci_error(err, VMC_EINVAL, site, "ports is NULL");
    for (unsigned i = 0; i < d->port_count; i++) {
        const struct vmc_virtio_console_port *from = cfg->ports != NULL ? &cfg->ports[i] : &silent;
        struct port *p = &d->port[i];
        size_t len = from->name != NULL ? vmci_strlen(from->name) : 0;
        if (len > sizeof(p->name))
            return vmci_error(err, VMC_EINVAL, site, "the name of port %u is longer than %u bytes",
                              i, VMC_VIRTIO_CONSOLE_NAME);
        if (len != 0)
            memcpy(p->name, from->name, len);
        p->name_bytes = (unsigned)len;
        p->out = from->out;
        p->console = from->console;
    }
    d->rx_ready = cfg->rx_ready;
    d->port_open = cfg->port_open;
    d->ctx = cfg->ctx;
    return VMC_OK;
}

static void place_chains(struct console_dev *d)
{
    unsigned char *sg = d->sg;
    size_t stride = vmci_chain_bytes(PIECES);

    vmci_chain_place(&d->ctl_rx, sg, PIECES);
    vmci_chain_place(&d->ctl_tx, sg + stride, PIECES);
    for (unsigned i = 0; i < d->port_count; i++) {
        vmci_chain_place(&d->port[i].rx, sg + (2 + 2 * i) * stride, PIECES);
        vmci_chain_place(&d->port[i].tx, sg + (3 + 2 * i) * stride, PIECES);
    }
}

int vmc_virtio_console_create(struct vmc_board *bd, const struct vmc_virtio_console_config *cfg,
                              struct vmc_virtio **out, struct vmc_error *err)
{
    const struct vmc_platform *pf = bd->platform;
    struct console_dev *d = vmci_zalloc(pf, sizeof(*d));

    if (d == NULL)
        return vmci_error(err, VMC_ENOMEM, "virtio-console/create", "no memory");
    int rc = configure(d, cfg, err);
    if (rc != VMC_OK)
        goto fail;
    d->sg = vmci_zalloc(pf, sg_bytes(d));
    if (d->sg == NULL) {
        rc = vmci_error(err, VMC_ENOMEM, "virtio-console/create", "no memory");
        goto fail;
    }
    place_chains(d);
    uint64_t features = F_EMERG_WRITE;
    if (cfg->cols != 0 && cfg->rows != 0)
        features |= F_SIZE;
    bool multi = d->port_count > 1 || !d->port[0].console;
    if (multi)
        features |= F_MULTIPORT;
    vmci_st_le16(d->v.config + CFG_COLS, cfg->cols);
    vmci_st_le16(d->v.config + CFG_ROWS, cfg->rows);
    vmci_st_le32(d->v.config + CFG_PORTS, d->port_count);
    rc = vmci_virtio_init(&d->v, bd, &cfg->virtio, &console_class, features,
                          multi ? 2 + 2 * d->port_count : 2, err);
    if (rc == VMC_OK) {
        *out = &d->v;
        return VMC_OK;
    }
    vmci_free(pf, d->sg, sg_bytes(d));
fail:
    vmci_free(pf, d, sizeof(*d));
    return rc;
}
