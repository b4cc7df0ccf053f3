/* SPDX-License-Identifier: BSD-2-Clause */
/* The common part of the platform devices. */
#include "dev_priv.h"

void *vmci_dev_alloc(struct vmc_board *bd, size_t bytes, const struct vmc_device_ops *ops,
                     struct vmc_error *err)
{
    struct dev_base *d = vmci_zalloc(bd->platform, bytes);

    if (d == NULL) {
        vmci_error(err, VMC_ENOMEM, "dev/create", "no memory for the %s", ops->name);
        return NULL;
    }
    if (vmci_lock_init(&d->lock, bd->platform) != VMC_OK) {
        vmci_free(bd->platform, d, bytes);
        vmci_error(err, VMC_ENOMEM, "dev/create", "no lock for the %s", ops->name);
        return NULL;
    }
    d->bd = bd;
    d->bytes = bytes;
    d->device.ops = ops;
    d->device.dev = d;
    return d;
}

void vmci_dev_publish(struct dev_base *d)
{
    vmc_board_add(d->bd, &d->device);
}

void vmci_dev_free(struct dev_base *d)
{
    vmc_board_remove(d->bd, &d->device);
    vmci_lock_fini(&d->lock);
    vmci_free(d->bd->platform, d, d->bytes);
}

void vmci_dev_detach(struct dev_base *d, struct vmc_bus *bus, uint64_t base)
{
    if (vmc_bus_detach(bus, base) != VMC_OK)
        vmci_bug(d->bd->platform, __FILE__, __LINE__, "a device is not on its bus");
}

size_t vmci_dev_save(struct dev_base *d, uint32_t version, const void *state, size_t state_bytes,
                     void *dst, size_t bytes)
{
    struct dev_saved h = {
        .now_ns = dev_now(d), .version = version, .bytes = (uint32_t)state_bytes};

    if (bytes >= sizeof(h) + state_bytes) {
        memcpy(dst, &h, sizeof(h));
        memcpy((uint8_t *)dst + sizeof(h), state, state_bytes);
    }
    return sizeof(h) + state_bytes;
}

int vmci_dev_load(struct dev_base *d, uint32_t version, const void *src, size_t bytes, void *tmp,
                  size_t state_bytes, uint64_t *shift_ns, struct vmc_error *err)
{
    const char *name = d->device.ops->name;
    struct dev_saved h;

    if (bytes != sizeof(h) + state_bytes)
        return vmci_error(err, VMC_EFORMAT, "dev/load", "%s: %zu bytes of state, not %zu", name,
                          bytes, sizeof(h) + state_bytes);
    memcpy(&h, src, sizeof(h));
    if (h.version != version || h.bytes != state_bytes)
        return vmci_error(err, VMC_EVERSION, "dev/load", "%s: state version %u, not %u", name,
                          h.version, version);
    memcpy(tmp, (const uint8_t *)src + sizeof(h), state_bytes);
    *shift_ns = dev_now(d) - h.now_ns;
    return VMC_OK;
}
