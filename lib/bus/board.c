/* SPDX-License-Identifier: BSD-2-Clause */
/* The board's list of devices and the life cycle they share. */
#include "base/base_int.h"
#include <vmcore/device.h>

void vmc_board_add(struct vmc_board *bd, struct vmc_device *d)
{
    struct vmc_device **tail = &bd->devices;

    d->instance = 0;
    for (; *tail != NULL; tail = &(*tail)->next) {
        if (vmci_streq((*tail)->ops->name, d->ops->name))
            d->instance = (*tail)->instance + 1;
    }
    d->next = NULL;
    *tail = d;
}

void vmc_board_remove(struct vmc_board *bd, struct vmc_device *d)
{
    for (struct vmc_device **p = &bd->devices; *p != NULL; p = &(*p)->next) {
        if (*p == d) {
            *p = d->next;
            d->next = NULL;
            return;
        }
    }
}

void vmc_board_reset(struct vmc_board *bd)
{
    for (struct vmc_device *d = bd->devices; d != NULL; d = d->next) {
        if (d->ops->reset != NULL)
            d->ops->reset(d->dev);
    }
}

int vmc_board_quiesce(struct vmc_board *bd)
{
    int rc = VMC_OK;

    for (struct vmc_device *d = bd->devices; d != NULL; d = d->next) {
        /* Every device is asked, so that all of them drain at the same time. */
        int one = d->ops->quiesce != NULL ? d->ops->quiesce(d->dev) : VMC_OK;
        if (one < 0 && (rc == VMC_OK || rc == VMC_EAGAIN))
            rc = one;
    }
    return rc;
}

void vmc_board_resume(struct vmc_board *bd)
{
    for (struct vmc_device *d = bd->devices; d != NULL; d = d->next) {
        if (d->ops->resume != NULL)
            d->ops->resume(d->dev);
    }
}

void vmc_board_destroy_devices(struct vmc_board *bd)
{
    while (bd->devices != NULL) {
        struct vmc_device **last = &bd->devices;
        while ((*last)->next != NULL)
            last = &(*last)->next;
        struct vmc_device *d = *last;
        *last = NULL;
        /* The device may free the memory that d lives in. */
        if (d->ops->destroy != NULL)
            d->ops->destroy(d->dev);
    }
}
