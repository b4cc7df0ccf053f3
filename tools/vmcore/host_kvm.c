/* SPDX-License-Identifier: BSD-2-Clause */
/* The pool of a host with VMs on KVM: memory that the kernel can map to several places. */
#include "host.h"

#include "vmcore_cmd.h"

#include <stdio.h>

#include <vmcore/kvm.h>

static unsigned kvm_vms(const struct host *h)
{
    unsigned n = 0;

    for (unsigned i = 0; i < h->cfg.vm_count; i++)
        n += h->cfg.vms[i].run.engine == RUN_ENGINE_KVM;
    return n;
}

bool host_kvm_wanted(const struct host *h)
{
    return kvm_vms(h) != 0;
}

#ifdef VMC_HAVE_KVM
#define SLOTS       2u     /* of a VM that are large: below and above 4 GiB */
#define MAP_COUNT   65530u /* the kernel's default */
#define MAPS_OTHERS 4096u  /* for libraries, stacks, and the ends of small slots */

/* The kernel's limit is the process's, and all windows of all VMs share it. */
static uint64_t mappings_for_each(unsigned vms)
{
    unsigned long long limit = MAP_COUNT;
    FILE *f = fopen("/proc/sys/vm/max_map_count", "re");

    if (f != NULL) {
        if (fscanf(f, "%llu", &limit) != 1)
            limit = MAP_COUNT;
        fclose(f);
    }
    uint64_t room = limit > 2 * MAPS_OTHERS ? limit - MAPS_OTHERS : limit / 2;
    uint64_t each = room / (vms * SLOTS);
    return each != 0 ? each : 1;
}

int host_kvm_memory(struct host *h, struct vmc_pool_config *pc)
{
    struct vmc_error err = {0};

    if (vmc_kvm_frames_create(h->frames, &h->kvm_frames, &err) != VMC_OK) {
        fprintf(stderr, "vmcore host: host_memory: %s\n", err.text);
        return EXIT_ERROR;
    }
    vmc_kvm_frames_pool(h->kvm_frames, pc);
    h->max_mappings = mappings_for_each(kvm_vms(h));
    return 0;
}

void host_kvm_memory_free(struct host *h)
{
    vmc_kvm_frames_destroy(h->kvm_frames);
}

#else

int host_kvm_memory(struct host *h, struct vmc_pool_config *pc)
{
    (void)h;
    (void)pc;
    fprintf(stderr, "vmcore host: engine: this build has no KVM engine\n");
    return EXIT_ERROR;
}

void host_kvm_memory_free(struct host *h)
{
    (void)h;
}

#endif
