/* SPDX-License-Identifier: BSD-2-Clause */
/* Interrupt messages, routes, doorbells as eventfds, and coalesced writes. */
#include "kvm_int.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

/* The kernel's form of an MSI address: destination bits 8-31 in the high half (X2APIC_API). */
static void split_address(uint64_t addr, uint32_t *lo, uint32_t *hi)
{
    *lo = (uint32_t)addr & ~0xfe0u;
    *hi = ((uint32_t)(addr >> 5) & 0x7f) << 8;
}

int kvm_msi(void *evm, uint64_t addr, uint32_t data)
{
    struct kvm_evm *vm = evm;
    struct kvm_msi msi = {.data = data};

    split_address(addr, &msi.address_lo, &msi.address_hi);
    /* 0: no processor took it, as when it is disabled; that is the guest's affair. */
    return ioctl(vm->fd, KVM_SIGNAL_MSI, &msi) < 0 ? VMC_EHOST : VMC_OK;
}

int kvm_irq_line(void *evm, uint32_t gsi, bool level)
{
    (void)evm;
    (void)gsi;
    (void)level;
    return VMC_ENOTSUP; /* the IOAPIC and the PIC are the library's */
}

/* Push the whole table; lock held. */
static int push_routes(struct kvm_evm *vm)
{
    struct kvm_irq_routing *r = calloc(1, sizeof(*r) + KVM_PINS * sizeof(r->entries[0]));

    if (r == NULL)
        return VMC_ENOMEM;
    for (uint32_t i = 0; i < KVM_PINS; i++) {
        if (!vm->route[i].used)
            continue;
        struct kvm_irq_routing_entry *e = &r->entries[r->nr++];
        e->gsi = i;
        e->type = KVM_IRQ_ROUTING_MSI;
        e->u.msi.data = vm->route[i].data;
        split_address(vm->route[i].addr, &e->u.msi.address_lo, &e->u.msi.address_hi);
    }
    int rc = ioctl(vm->fd, KVM_SET_GSI_ROUTING, r) < 0 ? VMC_EHOST : VMC_OK;
    free(r);
    return rc;
}

/*
 * With the split irqchip the kernel finds the vectors whose EOI must exit in routes 0-23: MSIs with
 * the level bit. An edge-triggered or unused pin needs no route.
 */
int kvm_ioapic_route(void *evm, uint32_t pin, uint64_t addr, uint32_t data, bool level)
{
    struct kvm_evm *vm = evm;

    if (pin >= KVM_PINS)
        return VMC_ERANGE;
    pthread_mutex_lock(&vm->lock);
    bool same = vm->route[pin].used == level &&
                (!level || (vm->route[pin].addr == addr && vm->route[pin].data == data));
    int rc = VMC_OK;
    if (!same) {
        vm->route[pin].used = level;
        vm->route[pin].addr = addr;
        vm->route[pin].data = data;
        rc = push_routes(vm);
    }
    pthread_mutex_unlock(&vm->lock);
    return rc;
}

int vmc_kvm_ioeventfd(void *evm, bool pio, uint64_t addr, uint32_t bytes, const uint64_t *match,
                      int fd, bool add)
{
    struct kvm_evm *vm = evm;
    struct kvm_ioeventfd req = {
        .addr = addr,
        .len = bytes,
        .fd = fd,
        .datamatch = match != NULL ? *match : 0,
        .flags = (pio ? KVM_IOEVENTFD_FLAG_PIO : 0u) |
                 (match != NULL ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0u) |
                 (add ? 0u : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };

    return ioctl(vm->fd, KVM_IOEVENTFD, &req) < 0 ? VMC_EHOST : VMC_OK;
}

/* ---- coalesced writes ---------------------------------------------------------------------- */

int vmc_kvm_coalesce(void *evm, bool pio, uint64_t addr, uint32_t bytes, bool add)
{
    struct kvm_evm *vm = evm;
    struct kvm_coalesced_mmio_zone zone = {.addr = addr, .size = bytes, .pio = pio};

    if (vm->coalesced_page == 0 ||
        (pio && ioctl(vm->dev, KVM_CHECK_EXTENSION, (long)KVM_CAP_COALESCED_PIO) <= 0))
        return VMC_ENOTSUP;
    int rc = ioctl(vm->fd, add ? KVM_REGISTER_COALESCED_MMIO : KVM_UNREGISTER_COALESCED_MMIO, &zone);
    return rc < 0 ? VMC_EHOST : VMC_OK;
}

void kvm_drain_ring(struct kvm_evcpu *v)
{
    struct kvm_coalesced_mmio_ring *ring = v->ring;

    if (ring == NULL || __atomic_load_n(&ring->first, __ATOMIC_RELAXED) ==
                            __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE))
        return;
    const uint32_t slots = (uint32_t)((VMC_PAGE_SIZE - sizeof(*ring)) /
                                      sizeof(struct kvm_coalesced_mmio));
    pthread_mutex_lock(&v->vm->ring_lock);
    /* Bounded: a vCPU that goes on writing cannot keep us here. */
    for (uint32_t n = 0; n < slots; n++) {
        uint32_t first = __atomic_load_n(&ring->first, __ATOMIC_RELAXED);
        if (first == __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE) || first >= slots)
            break;
        const struct kvm_coalesced_mmio *m = &ring->coalesced_mmio[first];
        uint64_t data = 0;
        memcpy(&data, m->data, m->len <= 8 ? m->len : 8);
        uint32_t low = (uint32_t)data;
        int rc = m->pio ? v->io->pio(v->io->ctx, true, (uint16_t)m->phys_addr, m->len, &low)
                        : v->io->mmio(v->io->ctx, true, m->phys_addr, m->len, &data);
        (void)rc; /* such a write cannot exit any more: it happened long ago */
        __atomic_store_n(&ring->first, (first + 1) % slots, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&v->vm->ring_lock);
}
