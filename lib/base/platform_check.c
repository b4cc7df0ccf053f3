/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/base_int.h"

static const char site[] = "platform/check";

int vmc_platform_check(const struct vmc_platform *pf, struct vmc_error *err)
{
    if (pf == NULL)
        return vmci_error(err, VMC_EINVAL, site, "no platform given");
    if (pf->size < offsetof(struct vmc_platform, pages))
        return vmci_error(err, VMC_EINVAL, site, "platform.size is %u, at least %zu is needed",
                          pf->size, offsetof(struct vmc_platform, pages));
    if (pf->flags != 0)
        return vmci_error(err, VMC_EINVAL, site, "platform.flags has unknown bits 0x%x", pf->flags);
    if (pf->alloc == NULL || pf->free == NULL || pf->now_ns == NULL)
        return vmci_error(err, VMC_EINVAL, site, "platform lacks %s",
                          pf->alloc == NULL  ? "alloc"
                          : pf->free == NULL ? "free"
                                             : "now_ns");
    if (vmci_pf_has(pf, pages) &&
        (pf->pages->alloc == NULL || pf->pages->free == NULL || pf->pages->to_virt == NULL))
        return vmci_error(err, VMC_EINVAL, site, "platform.pages is incomplete");
    if (vmci_pf_has(pf, exec) && (pf->exec->reserve == NULL || pf->exec->release == NULL))
        return vmci_error(err, VMC_EINVAL, site, "platform.exec is incomplete");
    if (vmci_pf_has(pf, sync)) {
        const struct vmc_sync_ops *s = pf->sync;
        if (s->lock_bytes > VMC_LOCK_BYTES)
            return vmci_error(err, VMC_EINVAL, site, "platform.sync.lock_bytes is %zu, at most %d",
                              s->lock_bytes, VMC_LOCK_BYTES);
        if (s->lock_init == NULL || s->lock_fini == NULL || s->lock == NULL || s->unlock == NULL ||
            s->park == NULL || s->wake == NULL)
            return vmci_error(err, VMC_EINVAL, site, "platform.sync is incomplete");
    }
    if (vmci_pf_has(pf, cpu) && (pf->cpu->this_cpu == NULL || pf->cpu->interrupt == NULL))
        return vmci_error(err, VMC_EINVAL, site, "platform.cpu is incomplete");
    if (vmci_pf_has(pf, entropy) && pf->entropy->fill == NULL)
        return vmci_error(err, VMC_EINVAL, site, "platform.entropy is incomplete");
    return VMC_OK;
}

int vmci_lock_init(struct vmci_lock *l, const struct vmc_platform *pf)
{
    l->pf = NULL;
    if (!vmci_pf_has(pf, sync))
        return VMC_OK;
    int rc = pf->sync->lock_init(pf->ctx, l->obj);
    if (rc == VMC_OK)
        l->pf = pf;
    return rc;
}

void vmci_lock_fini(struct vmci_lock *l)
{
    if (l->pf != NULL)
        l->pf->sync->lock_fini(l->pf->ctx, l->obj);
    l->pf = NULL;
}
