/* SPDX-License-Identifier: BSD-2-Clause */
/* The list of devices, and who drives which. */
#include "kernel/bm_int.h"

static struct vmc_bm_disk disks[VMC_BM_MAX_DISKS];
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

void bm_disk_add(const char *name, const struct vmc_blockdev *dev, const char *model)
{
    struct vmc_block_info info;

    if (disk_count == VMC_BM_MAX_DISKS || dev->ops->info(dev->ctx, &info) != VMC_OK)
        return;
    disks[disk_count++] = (struct vmc_bm_disk){.name = name, .model = model, .dev = *dev};
    bm_printf("disk: %s, %llu MiB, sectors of %u, %s\n", name,
              (unsigned long long)(info.bytes >> 20), info.sector_bytes, model);
}

const struct vmc_bm_disk *vmc_bm_disk(uint32_t i)
{
    return i < disk_count ? &disks[i] : NULL;
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

void vmc_bm_poll(void)
{
    for (unsigned i = 0; i < poll_count; i++)
        if (*polls[i].flag != 0)
            polls[i].poll(polls[i].ctx);
}

void bm_drivers_init(void)
{
}
