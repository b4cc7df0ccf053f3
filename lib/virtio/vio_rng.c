/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtio entropy device (virtio 1.2, 5.4).
 *
 * Threats (tests/unit/virtio/test_rng.c, fuzz/virtio_rng.c): the guest chooses how many bytes it
 * asks for; a request gets at most FILL_MAX, which 5.4.6.2 allows.
 */
#include <vmcore/virtio_rng.h>

#include "virtio/virtio_int.h"

#define DEVICE_ID 4u
#define FILL_MAX  4096u
#define PIECES    64u /* of a request; Linux uses one */

struct rng_dev {
    struct vmc_virtio v;
    struct vmci_chain ch;
    unsigned char sg[PIECES * (sizeof(struct vmc_iovec) + sizeof(struct vmci_vref))];
};

static uint32_t fill(struct rng_dev *d)
{
    const struct vmc_platform *pf = d->v.pf;
    const struct vmc_iovec *iov = d->ch.iov + d->ch.out_n;
    uint32_t done = 0;

    for (unsigned i = 0; i < d->ch.in_n && done < FILL_MAX; i++) {
        size_t n = VMCI_MIN(iov[i].bytes, (size_t)(FILL_MAX - done));
        if (pf->entropy->fill(pf->ctx, iov[i].base, n) != VMC_OK)
            break;
        done += (uint32_t)n;
    }
    return done;
}

static enum vmci_vwork rng_work(struct vmc_virtio *v, struct vmci_vq *q)
{
    struct rng_dev *d = VMCI_CONTAINER_OF(v, struct rng_dev, v);

    for (unsigned i = 0; i < VMCI_VBATCH; i++) {
        vmci_lock(&q->lock);
        int rc = vmci_vq_usable(q) ? vmci_vq_pop(q, &d->ch) : 0;
        vmci_unlock(&q->lock);
        if (rc != 1)
            return VMCI_VWORK_EMPTY;
        if (d->ch.malformed || d->ch.in_bytes == 0) {
            (void)vmci_fetch_add(&v->stat_malformed, 1);
            vmci_vq_complete(q, &d->ch, 0);
            continue;
        }
        vmci_vq_complete(q, &d->ch, fill(d));
    }
    return VMCI_VWORK_MORE;
}

static void rng_destroy(struct vmc_virtio *v)
{
    struct rng_dev *d = VMCI_CONTAINER_OF(v, struct rng_dev, v);
    const struct vmc_platform *pf = v->pf;

    vmci_virtio_fini(v);
    vmci_free(pf, d, sizeof(*d));
}

static const struct vmci_virtio_class rng_class = {
    .device = {.name = "virtio-rng"},
    .device_id = DEVICE_ID,
    .pci_class = 0x00ff00,
    .work = rng_work,
    .destroy = rng_destroy,
};

int vmc_virtio_rng_create(struct vmc_board *bd, const struct vmc_virtio_rng_config *cfg,
                          struct vmc_virtio **out, struct vmc_error *err)
{
    const struct vmc_platform *pf = bd->platform;

    if (!vmci_pf_has(pf, entropy))
        return vmci_error(err, VMC_ENOTSUP, "virtio-rng/create", "the platform has no entropy");
    struct rng_dev *d = vmci_zalloc(pf, sizeof(*d));
    if (d == NULL)
        return vmci_error(err, VMC_ENOMEM, "virtio-rng/create", "no memory");
    vmci_chain_place(&d->ch, d->sg, PIECES);
    int rc = vmci_virtio_init(&d->v, bd, &cfg->virtio, &rng_class, 0, 1, err);
    if (rc != VMC_OK) {
        vmci_free(pf, d, sizeof(*d));
        return rc;
    }
    *out = &d->v;
    return VMC_OK;
}
