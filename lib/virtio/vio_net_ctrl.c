/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Control queue of the network device (virtio 1.2, 5.1.6.5): receive filter, MAC address, number of
 * queue pairs.
 *
 * Threats (tests/unit/virtio/test_net.c, fuzz/virtio_net.c): a MAC table may claim 2^32 entries;
 * what does not fit NET_MAC_TABLE becomes "all", what does not fit the buffer is an error.
 */
#include "vio_net.h"

enum ctrl_class { CLASS_RX = 0, CLASS_MAC = 1, CLASS_MQ = 4 };
enum { MAC_TABLE_SET = 0, MAC_ADDR_SET = 1, MQ_PAIRS_SET = 0 };
enum ctrl_ack { ACK_OK = 0, ACK_ERR = 1 };
#define HEADER 2u /* class, command */

static bool ctrl_rx(struct net_dev *d, unsigned command)
{
    unsigned char on;

    if (!vmci_virtio_has(&d->v, NET_F_CTRL_RX) || command >= NET_RX_MODES ||
        (command > NET_RX_ALLMULTI && !vmci_virtio_has(&d->v, NET_F_CTRL_RX_EXTRA)) ||
        vmci_chain_read(&d->ctl, HEADER, &on, 1) != 1)
        return false;
    vmci_lock(&d->v.lock);
    if (on != 0)
        d->filter.mode |= 1u << command;
    else
        d->filter.mode &= ~(1u << command);
    vmci_unlock(&d->v.lock);
    return true;
}

/* One table at offset; *bytes is its length. The table is the copy that is used. */
static bool read_table(struct net_dev *d, uint64_t offset, struct net_mac_table *t, uint64_t *bytes)
{
    unsigned char le[4];

    if (vmci_chain_read(&d->ctl, offset, le, sizeof(le)) != sizeof(le))
        return false;
    uint64_t n = vmci_ld_le32(le);
    *bytes = 4 + n * NET_MAC_BYTES;
    if (offset + *bytes > d->ctl.out_bytes)
        return false;
    t->overflow = n > NET_MAC_TABLE;
    t->count = t->overflow ? 0 : (uint32_t)n;
    size_t want = t->count * (size_t)NET_MAC_BYTES;
    return vmci_chain_read(&d->ctl, offset + 4, t->mac, want) == want;
}

static bool mac_table_set(struct net_dev *d)
{
    struct net_mac_table uni;
    struct net_mac_table multi;
    uint64_t uni_bytes;
    uint64_t multi_bytes;

    if (!vmci_virtio_has(&d->v, NET_F_CTRL_RX) ||
        !read_table(d, HEADER, &uni, &uni_bytes) ||
        !read_table(d, HEADER + uni_bytes, &multi, &multi_bytes))
        return false;
    vmci_lock(&d->v.lock);
    d->filter.uni = uni;
    d->filter.multi = multi;
    vmci_unlock(&d->v.lock);
    return true;
}

static bool mac_addr_set(struct net_dev *d)
{
    unsigned char mac[NET_MAC_BYTES];

    if (!vmci_virtio_has(&d->v, NET_F_CTRL_MAC_ADDR) ||
        vmci_chain_read(&d->ctl, HEADER, mac, sizeof(mac)) != sizeof(mac))
        return false;
    vmci_virtio_config_begin(&d->v);
    memcpy(d->filter.mac, mac, sizeof(mac));
    memcpy(d->v.config + NET_CFG_MAC, mac, sizeof(mac));
    vmci_virtio_config_end(&d->v, false);
    return true;
}

static bool pairs_set(struct net_dev *d)
{
    unsigned char le[2];

    if (!vmci_virtio_has(&d->v, NET_F_MQ) ||
        vmci_chain_read(&d->ctl, HEADER, le, sizeof(le)) != sizeof(le))
        return false;
    unsigned n = vmci_ld_le16(le);
    if (n == 0 || n > d->pairs)
        return false;
    vmci_store_release(&d->active_pairs, n);
    vmci_net_feed_all(d); /* what waits for a pair that is not used any more goes to another */
    return true;
}

static bool control(struct net_dev *d)
{
    unsigned char h[HEADER];

    if (d->ctl.malformed || vmci_chain_read(&d->ctl, 0, h, sizeof(h)) != sizeof(h))
        return false;
    switch (h[0]) {
    case CLASS_RX:
        return ctrl_rx(d, h[1]);
    case CLASS_MAC:
        return h[1] == MAC_TABLE_SET ? mac_table_set(d) : h[1] == MAC_ADDR_SET && mac_addr_set(d);
    case CLASS_MQ:
        return h[1] == MQ_PAIRS_SET && pairs_set(d);
    default:
        return false;
    }
}

enum vmci_vwork vmci_net_control_work(struct net_dev *d, struct vmci_vq *q)
{
    for (unsigned i = 0; i < VMCI_VBATCH; i++) {
        vmci_lock(&q->lock);
        int rc = vmci_vq_usable(q) ? vmci_vq_pop(q, &d->ctl) : 0;
        vmci_unlock(&q->lock);
        if (rc != 1)
            return VMCI_VWORK_EMPTY;
        bool ok = control(d);
        unsigned char ack = ok ? ACK_OK : ACK_ERR;
        if (!ok)
            (void)vmci_fetch_add(&d->v.stat_malformed, 1);
        vmci_vq_complete(q, &d->ctl, (uint32_t)vmci_chain_write(&d->ctl, 0, &ack, 1));
    }
    return VMCI_VWORK_MORE;
}

/* ---- the filter ---------------------------------------------------------------------------- */

static bool in_table(const struct net_mac_table *t, const unsigned char *mac)
{
    for (uint32_t i = 0; i < t->count; i++)
        if (memcmp(t->mac[i], mac, NET_MAC_BYTES) == 0)
            return true;
    return t->overflow != 0;
}

static bool mode(const struct net_filter *f, enum net_rx_mode m)
{
    return (f->mode >> m & 1) != 0;
}

bool vmci_net_wanted(struct net_dev *d, const unsigned char *dst)
{
    static const unsigned char broadcast[NET_MAC_BYTES] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    const struct net_filter *f = &d->filter;
    bool wanted;

    vmci_lock(&d->v.lock);
    if (mode(f, NET_RX_PROMISC))
        wanted = true;
    else if (memcmp(dst, broadcast, NET_MAC_BYTES) == 0)
        wanted = !mode(f, NET_RX_NOBCAST);
    else if ((dst[0] & 1) != 0)
        wanted = !mode(f, NET_RX_NOMULTI) && (mode(f, NET_RX_ALLMULTI) || in_table(&f->multi, dst));
    else
        wanted = !mode(f, NET_RX_NOUNI) &&
                 (mode(f, NET_RX_ALLUNI) || memcmp(dst, f->mac, NET_MAC_BYTES) == 0 ||
                  in_table(&f->uni, dst));
    vmci_unlock(&d->v.lock);
    return wanted;
}

void vmci_net_filter_reset(struct net_dev *d)
{
    vmci_virtio_config_begin(&d->v);
    memset(&d->filter, 0, sizeof(d->filter));
    d->filter.mode = 1u << NET_RX_PROMISC; /* until a driver says otherwise */
    memcpy(d->filter.mac, d->mac, NET_MAC_BYTES);
    memcpy(d->v.config + NET_CFG_MAC, d->mac, NET_MAC_BYTES);
    vmci_virtio_config_end(&d->v, false);
}

void vmci_net_filter_save(struct net_dev *d, struct vmci_vsave *s)
{
    const struct net_mac_table *const t[] = {&d->filter.uni, &d->filter.multi};

    vmci_vsave_u64(s, d->filter.mode);
    vmci_vsave_bytes(s, d->filter.mac, NET_MAC_BYTES);
    for (unsigned i = 0; i < 2; i++) {
        vmci_vsave_u64(s, t[i]->count);
        vmci_vsave_u64(s, t[i]->overflow);
        vmci_vsave_bytes(s, t[i]->mac, sizeof(t[i]->mac));
    }
}

int vmci_net_filter_load(struct net_dev *d, struct vmci_vload *l, bool commit,
                         struct vmc_error *err)
{
    struct net_filter f;
    struct net_mac_table *const t[] = {&f.uni, &f.multi};
    uint64_t modes = vmci_vload_u64(l);

    vmci_vload_bytes(l, f.mac, NET_MAC_BYTES);
    f.mode = (uint32_t)modes;
    for (unsigned i = 0; i < 2; i++) {
        uint64_t count = vmci_vload_u64(l);
        uint64_t overflow = vmci_vload_u64(l);
        vmci_vload_bytes(l, t[i]->mac, sizeof(t[i]->mac));
        if (count > NET_MAC_TABLE || overflow > 1 || modes >= 1u << NET_RX_MODES)
            return vmci_error(err, VMC_EFORMAT, "virtio-net/load",
                              "the receive filter is out of range");
        t[i]->count = (uint32_t)count;
        t[i]->overflow = (uint32_t)overflow;
    }
    if (commit) {
        vmci_lock(&d->v.lock);
        d->filter = f;
        vmci_unlock(&d->v.lock);
    }
    return VMC_OK;
}
