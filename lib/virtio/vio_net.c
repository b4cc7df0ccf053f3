/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtio network device (virtio 1.2, 5.1): the data path. No offloads are offered: frames are
 * complete in both directions, and the 12-byte header only counts merged buffers.
 *
 * Threats (tests/unit/virtio/test_net.c, fuzz/virtio_net.c)
 *
 * | guest input                 | bound                                                          |
 * |-----------------------------|----------------------------------------------------------------|
 * | header that asks for offload| not negotiated: the frame is dropped                           |
 * | frame length                | Ethernet header .. VMC_VIRTIO_NET_FRAME_MAX, else dropped      |
 * | tiny receive buffers        | at most the queue's size of them for one frame                 |
 * | no receive buffers          | VMC_EAGAIN to the back end, nothing is kept                    |
 */
#include "base/snapshot.h"
#include "vio_net.h"

#define DEVICE_ID   1u
#define HEADER      12u
#define HDR_FLAGS   0u
#define HDR_GSO     1u
#define HDR_BUFFERS 10u
#define ETH_HEADER  14u

static struct vmci_vq *rx_queue(struct net_dev *d, unsigned pair)
{
    return &d->v.queue[2 * pair];
}

static unsigned control_index(const struct net_dev *d)
{
    return vmci_virtio_has(&d->v, NET_F_MQ) ? 2 * d->pairs : 2;
}

/* ---- transmit ------------------------------------------------------------------------------ */

static void send_frame(struct net_dev *d, struct vmci_chain *ch)
{
    unsigned char header[HEADER];
    struct vmc_iovec *iov = ch->iov;

    if (ch->malformed || vmci_chain_read(ch, 0, header, HEADER) != HEADER ||
        header[HDR_FLAGS] != 0 || header[HDR_GSO] != 0 || ch->out_bytes < HEADER + ETH_HEADER ||
        ch->out_bytes > HEADER + VMC_VIRTIO_NET_FRAME_MAX) {
        (void)vmci_fetch_add(&d->v.stat_malformed, 1);
        return;
    }
    unsigned n = vmci_iov_drop_front(&iov, ch->out_n, HEADER);
    if (vmci_load_acquire(&d->link_up) != 0) /* a full network loses frames, as networks do */
        (void)d->net.ops->send(d->net.ctx, iov, n);
}

static enum vmci_vwork tx_work(struct net_dev *d, struct vmci_vq *q)
{
    struct vmci_chain *ch = &d->pair[q->index / 2].tx;

    for (unsigned i = 0; i < VMCI_VBATCH; i++) {
        vmci_lock(&q->lock);
        int rc = vmci_vq_usable(q) ? vmci_vq_pop(q, ch) : 0;
        vmci_unlock(&q->lock);
        if (rc != 1)
            return VMCI_VWORK_EMPTY;
        send_frame(d, ch);
        vmci_vq_complete(q, ch, 0);
    }
    return VMCI_VWORK_MORE;
}

/* ---- receive ------------------------------------------------------------------------------- */

/* A frame on its way into buffers. */
struct frame {
    const struct vmc_iovec *iov;
    uint32_t iov_count;
    uint32_t piece;  /* current piece of iov */
    size_t in_piece; /* bytes of it done */
    size_t left;
};

/* Copy as much of the frame as the chain holds from offset on. */
static size_t copy_frame(struct frame *f, const struct vmci_chain *ch, size_t offset)
{
    size_t done = 0;

    while (f->left != 0 && f->piece < f->iov_count) {
        const struct vmc_iovec *p = &f->iov[f->piece];
        size_t n = p->bytes - f->in_piece;
        if (n == 0) {
            f->piece++;
            f->in_piece = 0;
            continue;
        }
        size_t put = vmci_chain_write(ch, offset + done, (const char *)p->base + f->in_piece, n);
        done += put;
        f->in_piece += put;
        f->left -= put;
        if (put < n)
            break;
    }
    return done;
}

/*
 * Pop buffers and fill them. Returns how many, 0 without enough, VMC_ELIMIT when the frame can never
 * fit, VMC_EFORMAT when the queue broke. q->lock.
 */
static int fill_buffers(struct net_dev *d, struct net_pair *p, struct vmci_vq *q, struct frame f)
{
    static const unsigned char zero[HEADER];
    bool merge = vmci_virtio_has(&d->v, NET_F_MRG_RXBUF);
    struct vmci_vq_pos before = q->pos;
    uint32_t slots = 0;
    unsigned n = 0;

    while (n == 0 || f.left != 0) {
        struct vmci_chain *ch = n == 0 ? &p->first : &p->rest;
        size_t head = n == 0 ? HEADER : 0;
        /* A full ring that does not hold the frame never will. */
        int rc = n < d->queue_size ? vmci_vq_pop(q, ch) : VMC_ELIMIT;
        if (rc != 1) { /* put back what was taken */
            if (n != 0)
                vmci_chain_release(d->v.mem, &p->first);
            if (rc != VMC_EFORMAT)
                vmci_vq_rewind(q, &before, slots);
            return rc;
        }
        size_t put = 0;
        if (!ch->malformed && ch->in_bytes >= head) {
            (void)vmci_chain_write(ch, 0, zero, head); /* there is room: in_bytes says so */
            put = head + copy_frame(&f, ch, head);
        } else {
            (void)vmci_fetch_add(&d->v.stat_malformed, 1);
        }
        if (n != 0)
            vmci_chain_release(d->v.mem, ch);
        slots += ch->slots;
        p->used[n++] = (struct net_used){ch->id, ch->slots, (uint32_t)put};
        if (!merge)
            break;
    }
    if (!merge && f.left != 0) { /* 5.1.6.3.1: buffers have to be large enough; drop the frame */
        p->used[0].bytes = 0;
        (void)vmci_fetch_add(&d->v.stat_malformed, 1);
    }
    unsigned char le[2];
    vmci_st_le16(le, (uint16_t)n);
    (void)vmci_chain_write(&p->first, HDR_BUFFERS, le, sizeof(le)); /* a malformed one has no room */
    vmci_chain_release(d->v.mem, &p->first);
    return (int)n;
}

/*
 * q->lock. Buffers for a frame; without enough of them the doorbell is turned on. Each further round
 * needs a new buffer in the ring, so there are at most as many as it has entries.
 */
static int buffers_for(struct net_dev *d, struct net_pair *p, struct vmci_vq *q,
                       const struct frame *f)
{
    for (;;) {
        int n = fill_buffers(d, p, q, *f);
        if (n != 0)
            return n;
        vmci_store_release(&p->starving, 1);
        if (!vmci_vq_notify_on(q))
            return 0;
        vmci_store_release(&p->starving, 0);
        vmci_vq_notify_off(q);
    }
}

/* q->lock. VMC_OK, or VMC_EAGAIN when it has to wait. *irq: raise one. */
static int receive(struct net_dev *d, struct net_pair *p, struct vmci_vq *q, const struct frame *f,
                   bool *irq)
{
    int n = vmci_vq_usable(q) ? buffers_for(d, p, q, f) : VMC_ESTATE;

    if (n == VMC_ELIMIT) {
        (void)vmci_fetch_add(&d->v.stat_malformed, 1);
        return VMC_OK; /* dropped */
    }
    if (n < 0)
        return VMC_ESTATE;
    if (n == 0)
        return VMC_EAGAIN;
    for (int i = 0; i < n; i++) {
        struct vmci_chain ch = {.id = p->used[i].id, .slots = p->used[i].slots};
        vmci_vq_stage(q, &ch, p->used[i].bytes);
    }
    vmci_vq_publish(q);
    *irq = vmci_vq_want_irq(q);
    (void)vmci_fetch_add(&d->v.stat_requests, (uint64_t)n);
    return VMC_OK;
}

/* Spread flows over the pairs: the same addresses and ports always meet the same queue. */
static unsigned choose_pair(const struct net_dev *d, const struct vmc_iovec *iov)
{
    uint32_t pairs = vmci_load_acquire(&d->active_pairs);

    if (pairs <= 1 || iov[0].bytes < ETH_HEADER + 24)
        return 0;
    const unsigned char *ip = (const unsigned char *)iov[0].base + ETH_HEADER;
    uint32_t h = vmci_ld_le32(ip + 12) ^ vmci_ld_le32(ip + 16) ^ vmci_ld_le32(ip + 20);
    h ^= h >> 16;
    h ^= h >> 8;
    return h % pairs;
}

int vmc_virtio_net_receive(struct vmc_virtio *v, const struct vmc_iovec *iov, uint32_t iov_count)
{
    struct net_dev *d = vmci_net(v);
    struct frame f = {.iov = iov, .iov_count = iov_count};
    int rc = VMC_OK;
    bool irq = false;

    for (uint32_t i = 0; i < iov_count; i++)
        f.left += iov[i].bytes;
    if (f.left < ETH_HEADER || f.left > VMC_VIRTIO_NET_FRAME_MAX || iov[0].bytes < NET_MAC_BYTES)
        return VMC_EINVAL;
    if (!vmci_virtio_enter(v))
        return VMC_ESTATE;
    if (vmci_load_acquire(&d->link_up) != 0 && vmci_net_wanted(d, iov[0].base)) {
        unsigned pair = choose_pair(d, iov);
        struct vmci_vq *q = rx_queue(d, pair);
        vmci_lock(&q->lock);
        rc = receive(d, &d->pair[pair], q, &f, &irq);
        vmci_unlock(&q->lock);
        if (irq)
            vmci_vq_irq(q);
        vmci_vq_report_broken(q);
    }
    vmci_virtio_leave(v);
    return rc;
}

/* There may be buffers for frames that wait. */
static void feed(struct net_dev *d, unsigned first, unsigned end)
{
    bool any = false;

    for (unsigned i = first; i < end; i++)
        any = vmci_exchange(&d->pair[i].starving, 0) != 0 || any;
    if (any && d->rx_ready != NULL)
        d->rx_ready(d->ctx);
}

void vmci_net_feed_all(struct net_dev *d)
{
    feed(d, 0, d->pairs);
}

static enum vmci_vwork net_work(struct vmc_virtio *v, struct vmci_vq *q)
{
    struct net_dev *d = vmci_net(v);

    if (q->index == control_index(d) && vmci_virtio_has(v, NET_F_CTRL_VQ))
        return vmci_net_control_work(d, q);
    if (q->index >= 2 * d->pairs)
        return VMCI_VWORK_STALLED;
    if ((q->index & 1) != 0)
        return tx_work(d, q);
    feed(d, q->index / 2, q->index / 2 + 1);
    return VMCI_VWORK_STALLED; /* buffers stay until there is a frame */
}

/* ---- configuration and life cycle ---------------------------------------------------------- */

void vmc_virtio_net_set_link(struct vmc_virtio *v, bool up)
{
    struct net_dev *d = vmci_net(v);

    if (vmci_exchange(&d->link_up, up) == (uint32_t)up)
        return;
    vmci_virtio_config_begin(v);
    vmci_st_le16(v->config + NET_CFG_STATUS, up ? NET_S_LINK_UP : 0);
    vmci_virtio_config_end(v, vmci_virtio_has(v, NET_F_STATUS));
}

/* Each control feature needs the control queue (5.1.3.1). */
static bool net_features_ok(struct vmc_virtio *v, uint64_t f)
{
    const uint64_t need_ctrl = NET_F_CTRL_RX | NET_F_CTRL_RX_EXTRA | NET_F_MQ | NET_F_CTRL_MAC_ADDR;

    (void)v;
    return (f & need_ctrl) == 0 || (f & NET_F_CTRL_VQ) != 0;
}

/* Frames that waited for the driver before this one would wait for ever. */
static void net_started(struct vmc_virtio *v)
{
    vmci_net_feed_all(vmci_net(v));
}

static void net_reset(struct vmc_virtio *v)
{
    struct net_dev *d = vmci_net(v);

    vmci_net_filter_reset(d);
    vmci_store_release(&d->active_pairs, 1);
}

static void net_save(struct vmc_virtio *v, struct vmci_vsave *s)
{
    struct net_dev *d = vmci_net(v);

    vmci_vsave_u64(s, d->active_pairs);
    vmci_vsave_u64(s, d->link_up);
    vmci_net_filter_save(d, s);
}

static int net_load(struct vmc_virtio *v, struct vmci_vload *l, bool commit, struct vmc_error *err)
{
    struct net_dev *d = vmci_net(v);
    uint64_t pairs = vmci_vload_u64(l);
    uint64_t link = vmci_vload_u64(l);

    if (pairs == 0 || pairs > d->pairs || link > 1)
        return vmci_error(err, VMC_EFORMAT, "virtio-net/load",
                          "%llu queue pairs in use of %u", (unsigned long long)pairs, d->pairs);
    if (commit) {
        vmci_store_release(&d->active_pairs, (uint32_t)pairs);
        vmci_store_release(&d->link_up, (uint32_t)link);
    }
    return vmci_net_filter_load(d, l, commit, err);
}

static size_t sg_bytes(const struct net_dev *d)
{
    return (1 + 3 * d->pairs) * vmci_chain_bytes(NET_PIECES) +
           d->pairs * d->queue_size * sizeof(struct net_used);
}

static void net_destroy(struct vmc_virtio *v)
{
    struct net_dev *d = vmci_net(v);
    const struct vmc_platform *pf = v->pf;

    vmci_virtio_fini(v);
    vmci_free(pf, d->sg, sg_bytes(d));
    vmci_free(pf, d, sizeof(*d));
}

static const struct vmci_virtio_class net_class = {
    .device = {.name = "virtio-net"},
    .device_id = DEVICE_ID,
    .pci_class = 0x020000,
    .config_bytes = NET_CFG_BYTES,
    .features_ok = net_features_ok,
    .started = net_started,
    .work = net_work,
    .reset = net_reset,
    .save = VMCI_SNAPSHOT(net_save),
    .load = VMCI_SNAPSHOT(net_load),
    .destroy = net_destroy,
};

static void place_storage(struct net_dev *d)
{
    size_t stride = vmci_chain_bytes(NET_PIECES);
    unsigned char *sg = d->sg;
    struct net_used *used = (struct net_used *)(void *)(sg + (1 + 3 * d->pairs) * stride);

    vmci_chain_place(&d->ctl, sg, NET_PIECES);
    for (unsigned i = 0; i < d->pairs; i++) {
        struct net_pair *p = &d->pair[i];
        vmci_chain_place(&p->first, sg + (1 + 3 * i) * stride, NET_PIECES);
        vmci_chain_place(&p->rest, sg + (2 + 3 * i) * stride, NET_PIECES);
        vmci_chain_place(&p->tx, sg + (3 + 3 * i) * stride, NET_PIECES);
        p->used = used + (size_t)i * d->queue_size;
    }
}

static uint64_t features_of(const struct net_dev *d, const struct vmc_virtio_net_config *cfg)
{
    static const unsigned char none[NET_MAC_BYTES];
    uint64_t f = NET_F_MRG_RXBUF | NET_F_STATUS | NET_F_CTRL_VQ | NET_F_CTRL_RX |
                 NET_F_CTRL_RX_EXTRA | NET_F_CTRL_MAC_ADDR;

    if (memcmp(d->mac, none, sizeof(none)) != 0)
        f |= NET_F_MAC;
    if (cfg->mtu != 0)
        f |= NET_F_MTU;
    if (d->pairs > 1)
        f |= NET_F_MQ;
    return f;
}

static int check(const struct vmc_virtio_net_config *cfg, struct vmc_error *err)
{
    const char *site = "virtio-net/create";

    if (cfg->net.ops == NULL)
        return vmci_error(err, VMC_EINVAL, site, "no network");
    if (cfg->pairs > VMC_VIRTIO_NET_PAIRS_MAX)
        return vmci_error(err, VMC_EINVAL, site, "%u queue pairs, at most %u are possible",
                          cfg->pairs, VMC_VIRTIO_NET_PAIRS_MAX);
    if (cfg->mtu != 0 && cfg->mtu < 68)
        return vmci_error(err, VMC_EINVAL, site, "an MTU of %u is below 68", cfg->mtu);
    if ((cfg->mac[0] & 1) != 0)
        return vmci_error(err, VMC_EINVAL, site, "the MAC address is a group address");
    return VMC_OK;
}

int vmc_virtio_net_create(struct vmc_board *bd, const struct vmc_virtio_net_config *cfg,
                          struct vmc_virtio **out, struct vmc_error *err)
{
    const struct vmc_platform *pf = bd->platform;
    uint16_t size;
    int rc = vmci_virtio_check_config(&cfg->virtio, &size, err);

    if (rc == VMC_OK)
        rc = check(cfg, err);
    if (rc != VMC_OK)
        return rc;
    struct net_dev *d = vmci_zalloc(pf, sizeof(*d));
    if (d == NULL)
        return vmci_error(err, VMC_ENOMEM, "virtio-net/create", "no memory");
    d->net = cfg->net;
    d->rx_ready = cfg->rx_ready;
    d->ctx = cfg->ctx;
    d->pairs = cfg->pairs != 0 ? cfg->pairs : 1;
    d->queue_size = size;
    d->active_pairs = 1;
    d->link_up = 1;
    memcpy(d->mac, cfg->mac, sizeof(d->mac));
    memcpy(d->filter.mac, cfg->mac, sizeof(d->mac));
    d->filter.mode = 1u << NET_RX_PROMISC;
    d->sg = vmci_zalloc(pf, sg_bytes(d));
    if (d->sg == NULL) {
        rc = vmci_error(err, VMC_ENOMEM, "virtio-net/create", "no memory");
        goto no_sg;
    }
    place_storage(d);
    memcpy(d->v.config + NET_CFG_MAC, d->mac, NET_MAC_BYTES);
    vmci_st_le16(d->v.config + NET_CFG_STATUS, NET_S_LINK_UP);
    vmci_st_le16(d->v.config + NET_CFG_PAIRS, (uint16_t)d->pairs);
    vmci_st_le16(d->v.config + NET_CFG_MTU, cfg->mtu);
    rc = vmci_virtio_init(&d->v, bd, &cfg->virtio, &net_class, features_of(d, cfg),
                          2 * d->pairs + 1, err);
    if (rc == VMC_OK) {
        *out = &d->v;
        return VMC_OK;
    }
    vmci_free(pf, d->sg, sg_bytes(d));
no_sg:
    vmci_free(pf, d, sizeof(*d));
    return rc;
}
