/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory slots and the kernel's dirty log. */
#include "kvm_int.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

static size_t dirty_words(const struct kvm_slot *s)
{
    return (size_t)((s->bytes / VMC_PAGE_SIZE + 63) / 64);
}

static int set_region(struct kvm_evm *vm, uint32_t n, bool present)
{
    const struct kvm_slot *s = &vm->slot[n];
    struct kvm_userspace_memory_region r = {
        .slot = n,
        .flags = (s->attr & VMC_MEM_ROM ? KVM_MEM_READONLY : 0) |
                 (s->logging ? KVM_MEM_LOG_DIRTY_PAGES : 0),
        .guest_phys_addr = s->gpa,
        .memory_size = present ? s->bytes : 0,
        .userspace_addr = (uintptr_t)s->hva,
    };

    return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &r) < 0 ? VMC_EHOST : VMC_OK;
}

/* ---- slots with a space ---------------------------------------------------------------------- */

static void revoke(void *ctx, uint64_t gpa, uint64_t bytes)
{
    struct kvm_evm *vm = ctx;

    for (uint32_t n = 0; n < KVM_SLOTS; n++) {
        const struct kvm_slot *s = &vm->slot[n];
        if (s->window == NULL)
            continue;
        if (bytes == 0)
            kvm_window_revoke(s->window, 0, s->bytes / VMC_PAGE_SIZE);
        else if (gpa - s->gpa < s->bytes) /* ranges do not leave a slot */
            kvm_window_revoke(s->window, (gpa - s->gpa) / VMC_PAGE_SIZE, bytes / VMC_PAGE_SIZE);
    }
}

static void close_window(struct kvm_evm *vm, struct kvm_slot *s)
{
    if (s->window == NULL)
        return;
    kvm_window_destroy(s->window);
    s->window = NULL;
    if (--vm->windows == 0)
        vmc_mem_unwatch(vm->mem, &vm->watch);
}

static int open_window(struct kvm_evm *vm, struct kvm_slot *s)
{
    const struct kvm_window_config cfg = {
        .frames = vm->frames, .pages = s->bytes / VMC_PAGE_SIZE, .max_mappings = vm->max_mappings};

    if (vm->frames == NULL)
        return VMC_ENOTSUP;
    int rc = kvm_window_create(&cfg, &s->window, NULL);
    if (rc != VMC_OK)
        return rc;
    if (vm->windows++ == 0) {
        vm->watch = (struct vmc_mem_watch){.revoke = revoke, .ctx = vm};
        vmc_mem_watch(vm->mem, &vm->watch);
    }
    s->hva = kvm_window_base(s->window);
    rc = kvm_window_bind(s->window, s->space, s->space_page, NULL);
    if (rc != VMC_OK)
        close_window(vm, s);
    return rc;
}

bool kvm_mem_access(struct kvm_evm *vm, uint64_t gpa, void *data, unsigned bytes, bool write)
{
    for (uint32_t n = 0; vm->windows != 0 && n < KVM_SLOTS; n++) {
        const struct kvm_slot *s = &vm->slot[n];
        if (s->window != NULL && gpa - s->gpa < s->bytes)
            return (write ? vmc_mem_write(vm->mem, gpa, data, bytes)
                          : vmc_mem_read(vm->mem, gpa, data, bytes)) == VMC_OK;
    }
    return false;
}

/* ---- all slots ------------------------------------------------------------------------------- */

static int drop(struct kvm_evm *vm, uint32_t n)
{
    vm->slot[n].logging = false;
    int rc = set_region(vm, n, false);

    free(vm->slot[n].dirty);
    close_window(vm, &vm->slot[n]);
    vm->slot[n] = (struct kvm_slot){0};
    return rc;
}

/* Is our slot still in the map, unchanged? */
static bool still_there(const struct kvm_evm *vm, const struct kvm_slot *s)
{
    struct vmc_mem_slot m;

    for (unsigned i = 0; vmc_mem_slot_at(vm->mem, i, &m) == VMC_OK; i++) {
        if (m.gpa == s->gpa && m.bytes == s->bytes && m.attr == s->attr && m.space == s->space &&
            (m.space != NULL ? m.space_page == s->space_page : m.backing == s->hva))
            return true;
    }
    return false;
}

static bool known(const struct kvm_evm *vm, const struct vmc_mem_slot *m)
{
    for (uint32_t n = 0; n < KVM_SLOTS; n++) {
        if (vm->slot[n].used && vm->slot[n].gpa == m->gpa)
            return true;
    }
    return false;
}

static int add(struct kvm_evm *vm, const struct vmc_mem_slot *m)
{
    uint32_t n = 0;

    while (n < KVM_SLOTS && vm->slot[n].used)
        n++;
    if (n == KVM_SLOTS)
        return VMC_ELIMIT;
    struct kvm_slot *s = &vm->slot[n];
    *s = (struct kvm_slot){.used = true,
                           .attr = m->attr,
                           .gpa = m->gpa,
                           .bytes = m->bytes,
                           .hva = m->backing,
                           .space = m->space,
                           .space_page = m->space_page};
    int rc = m->space != NULL ? open_window(vm, s) : VMC_OK;
    if (rc != VMC_OK) {
        *s = (struct kvm_slot){0};
        return rc;
    }
    if (vm->log_dirty && !(s->attr & VMC_MEM_ROM)) {
        s->dirty = calloc(dirty_words(s), sizeof(s->dirty[0]));
        s->logging = true;
        rc = s->dirty != NULL ? VMC_OK : VMC_ENOMEM;
    }
    if (rc == VMC_OK)
        rc = set_region(vm, n, true);
    if (rc != VMC_OK) {
        free(s->dirty);
        close_window(vm, s);
        *s = (struct kvm_slot){0};
    }
    return rc;
}

int kvm_mem_changed(void *evm)
{
    struct kvm_evm *vm = evm;
    struct vmc_mem_slot m;
    int rc = VMC_OK;

    for (uint32_t n = 0; n < KVM_SLOTS && rc == VMC_OK; n++) {
        if (vm->slot[n].used && !still_there(vm, &vm->slot[n]))
            rc = drop(vm, n);
    }
    for (unsigned i = 0; rc == VMC_OK && vmc_mem_slot_at(vm->mem, i, &m) == VMC_OK; i++) {
        if (!known(vm, &m))
            rc = add(vm, &m);
    }
    return rc;
}

int kvm_dirty_log(void *evm, bool on)
{
    struct kvm_evm *vm = evm;
    int rc = VMC_OK;

    vm->log_dirty = on;
    for (uint32_t n = 0; n < KVM_SLOTS && rc == VMC_OK; n++) {
        struct kvm_slot *s = &vm->slot[n];
        if (!s->used || (s->attr & VMC_MEM_ROM) || s->logging == on)
            continue;
        if (on)
            s->dirty = calloc(dirty_words(s), sizeof(s->dirty[0]));
        if (s->dirty == NULL)
            return VMC_ENOMEM;
        s->logging = on;
        rc = set_region(vm, n, true);
        if (rc != VMC_OK)
            s->logging = !on;
        if (!s->logging) { /* as long as the kernel logs, fetches come to our bits */
            free(s->dirty);
            s->dirty = NULL;
        }
    }
    return rc;
}

/* Take the kernel's bits of a slot (which clears them there) into ours. */
static int collect(struct kvm_evm *vm, uint32_t n)
{
    struct kvm_slot *s = &vm->slot[n];
    size_t words = dirty_words(s);
    uint64_t *fresh = calloc(words, sizeof(fresh[0]));
    struct kvm_dirty_log log = {.slot = n, .dirty_bitmap = fresh};

    if (fresh == NULL)
        return VMC_ENOMEM;
    int rc = ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log) < 0 ? VMC_EHOST : VMC_OK;
    for (size_t i = 0; rc == VMC_OK && i < words; i++)
        s->dirty[i] |= fresh[i];
    free(fresh);
    return rc;
}

int kvm_dirty_fetch(void *evm, uint64_t gpa, uint64_t pages, uint64_t *bitmap)
{
    struct kvm_evm *vm = evm;

    for (uint32_t n = 0; n < KVM_SLOTS; n++) {
        struct kvm_slot *s = &vm->slot[n];
        if (!s->used || gpa - s->gpa >= s->bytes || !s->logging)
            continue;
        uint64_t first = (gpa - s->gpa) / VMC_PAGE_SIZE;
        if (pages > s->bytes / VMC_PAGE_SIZE - first)
            return VMC_ERANGE;
        pthread_mutex_lock(&vm->lock);
        int rc = collect(vm, n);
        for (uint64_t p = 0; rc == VMC_OK && p < pages; p++) {
            uint64_t at = first + p, mask = 1ull << (at % 64);
            if (s->dirty[at / 64] & mask) {
                s->dirty[at / 64] &= ~mask;
                bitmap[p / 64] |= 1ull << (p % 64);
            }
        }
        pthread_mutex_unlock(&vm->lock);
        return rc;
    }
    return VMC_OK; /* ROM, or nobody asked for a log */
}

void kvm_mem_fini(struct kvm_evm *vm)
{
    for (uint32_t n = 0; n < KVM_SLOTS; n++) {
        free(vm->slot[n].dirty);
        close_window(vm, &vm->slot[n]);
    }
}
