/* SPDX-License-Identifier: BSD-2-Clause */
/* The list of devices, and who drives which. */
#include "kernel/bm_int.h"

static struct vmc_bm_disk disks[VMC_BM_MAX_DISKS];
static struct bm_lease *leases[VMC_BM_MAX_DISKS];
static unsigned disk_count;
static struct vmc_bm_nic *nics[VMC_BM_MAX_NICS];
static unsigned nic_count;

#define MAX_POLLS 64u
static struct {
    void (*poll)(void *ctx);
    void *ctx;
    volatile uint32_t *flag;
} polls[MAX_POLLS];
static unsigned poll_count;
static volatile uint32_t *always[MAX_POLLS];
static unsigned always_count;

#define POLL_NS 200000u
#define LOOK_NS 250000000ull /* between two looks for commands that got lost, or are late */

void bm_disk_add(const char *name, const struct vmc_blockdev *dev, const char *model,
                 struct bm_lease *lease)
{
    struct vmc_block_info info;

    if (disk_count == VMC_BM_MAX_DISKS || dev->ops->info(dev->ctx, &info) != VMC_OK)
        return;
    leases[disk_count] = lease;
    disks[disk_count++] = (struct vmc_bm_disk){.name = name, .model = model, .dev = *dev};
    bm_printf("disk: %s, %llu MiB, sectors of %u, %s\n", name,
              (unsigned long long)(info.bytes >> 20), info.sector_bytes, model);
}

const struct vmc_bm_disk *vmc_bm_disk(uint32_t i)
{
    return i < disk_count ? &disks[i] : NULL;
}

void vmc_bm_disk_lease(const struct vmc_bm_disk *disk, uint64_t end_ns)
{
    __atomic_store_n(&leases[disk - disks]->end_ns, end_ns, __ATOMIC_RELAXED);
}

void bm_nic_add(struct vmc_bm_nic *nic)
{
    if (nic_count == VMC_BM_MAX_NICS)
        return;
    nics[nic_count++] = nic;
    bm_printf("net: %s, %02x:%02x:%02x:%02x:%02x:%02x\n", nic->name, nic->mac[0], nic->mac[1],
              nic->mac[2], nic->mac[3], nic->mac[4], nic->mac[5]);
}

struct vmc_bm_nic *vmc_bm_nic(uint32_t i)
{
    return i < nic_count ? nics[i] : NULL;
}

void bm_poll_add(void (*poll)(void *ctx), void *ctx, volatile uint32_t *flag)
{
    if (poll_count == MAX_POLLS)
        bm_panic("more than %u devices to poll", MAX_POLLS);
    polls[poll_count].poll = poll;
    polls[poll_count].ctx = ctx;
    polls[poll_count++].flag = flag;
}

void bm_poll_always(volatile uint32_t *flag)
{
    if (always_count < MAX_POLLS)
        always[always_count++] = flag;
}

void vmc_bm_poll(void)
{
    static uint64_t looked_ns;
    uint64_t now = bm_now_ns(), last = __atomic_load_n(&looked_ns, __ATOMIC_RELAXED);

    if (now - last > LOOK_NS && now > last &&
        __atomic_compare_exchange_n(&looked_ns, &last, now, false, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED))
        for (unsigned i = 0; i < poll_count; i++)
            *polls[i].flag = 1;
    for (unsigned i = 0; i < always_count; i++)
        *always[i] = 1;
    for (unsigned i = 0; i < poll_count; i++)
        if (*polls[i].flag != 0)
            polls[i].poll(polls[i].ctx);
}

uint64_t bm_poll_deadline(uint64_t now_ns, uint64_t deadline_ns)
{
    bool soon = always_count != 0;

    for (unsigned i = 0; i < poll_count; i++)
        soon = soon || *polls[i].flag != 0;
    return soon && now_ns + POLL_NS < deadline_ns ? now_ns + POLL_NS : deadline_ns;
}

/* ---- who drives what ----------------------------------------------------------------------------
 */

#define ANY 0xffffu

static const struct {
    uint16_t vendor, device; /* ANY: the class decides */
    uint8_t class_code, subclass;
    int prog_if; /* -1: any */
    void (*probe)(const struct bm_pci *p);
} drivers[] = {
    {ANY, ANY, 0x01, 0x01, -1, bm_ata_probe},
    {ANY, ANY, 0x01, 0x06, 0x01, bm_ahci_probe},
    {ANY, ANY, 0x01, 0x08, 0x02, bm_nvme_probe},
    {0x1af4, 0x1001, 0, 0, -1, bm_virtio_blk_probe},
    {0x1af4, 0x1042, 0, 0, -1, bm_virtio_blk_probe},
    {0x1af4, 0x1000, 0, 0, -1, bm_virtio_net_probe},
    {0x1af4, 0x1041, 0, 0, -1, bm_virtio_net_probe},
};

void bm_drivers_init(void)
{
    for (unsigned i = 0; i < bm_pci_count; i++)
        for (unsigned k = 0; k < ARRAY_SIZE(drivers); k++) {
            const struct bm_pci *p = &bm_pci[i];
            bool match = drivers[k].vendor == ANY
                             ? p->class_code == drivers[k].class_code &&
                                   p->subclass == drivers[k].subclass &&
                                   (drivers[k].prog_if < 0 || p->prog_if == drivers[k].prog_if)
                             : p->vendor == drivers[k].vendor && p->device == drivers[k].device;
            if (match)
                drivers[k].probe(p);
        }
}
