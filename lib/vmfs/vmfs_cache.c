/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Cache of metadata: pages of 4 KiB, valid and dirty per 512-byte sector. A page with dirty
 * sectors belongs to the running transaction. Pages are only evicted between operations
 * (vmci_fs_cache_trim), so pointers into them stay good within one.
 */
#include "vmfs/vmfs_priv.h"

static uint32_t slot_of(const struct fs_cache *c, uint64_t lv)
{
    return (uint32_t)(((lv / FS_PAGE) * 0x9E3779B97F4A7C15ull) >> 32) & (c->hash_size - 1);
}

int vmci_fs_cache_init(struct vmc_vmfs *v, size_t bytes)
{
    struct fs_cache *c = &v->cache;

    vmci_list_init(&c->lru);
    c->max_pages = (uint32_t)VMCI_MAX(bytes / FS_PAGE, 256u);
    c->hash_size = 256;
    while (c->hash_size < c->max_pages && c->hash_size < 1u << 20)
        c->hash_size *= 2;
    c->hash = vmci_zalloc(v->pf, c->hash_size * sizeof(*c->hash));
    return c->hash != NULL ? VMC_OK : VMC_ENOMEM;
}

static void page_free(struct vmc_vmfs *v, struct fs_page *p)
{
    struct fs_page **at = &v->cache.hash[slot_of(&v->cache, p->lv)];

    while (*at != p)
        at = &(*at)->hnext;
    *at = p->hnext;
    vmci_list_del(&p->lru);
    v->cache.pages--;
    vmci_free_aligned(v->pf, p->data, FS_PAGE, FS_PAGE);
    vmci_free(v->pf, p, sizeof(*p));
}

void vmci_fs_cache_fini(struct vmc_vmfs *v)
{
    struct fs_cache *c = &v->cache;

    if (c->hash == NULL)
        return;
    while (!vmci_list_empty(&c->lru))
        page_free(v, vmci_list_entry(c->lru.next, struct fs_page, lru));
    vmci_free(v->pf, c->hash, c->hash_size * sizeof(*c->hash));
    c->hash = NULL;
}

void vmci_fs_cache_trim(struct vmc_vmfs *v)
{
    struct fs_cache *c = &v->cache;
    struct vmci_list *at = c->lru.prev;

    while (c->pages > c->max_pages && at != &c->lru) {
        struct fs_page *p = vmci_list_entry(at, struct fs_page, lru);
        at = at->prev;
        if (p->pins == 0 && p->dirty == 0)
            page_free(v, p);
    }
}

int vmci_fs_page(struct vmc_vmfs *v, uint64_t lv, struct fs_page **out, struct vmc_error *err)
{
    struct fs_cache *c = &v->cache;
    uint64_t base = vmci_align_down(lv, FS_PAGE);
    uint32_t slot = slot_of(c, base);

    for (struct fs_page *p = c->hash[slot]; p != NULL; p = p->hnext)
        if (p->lv == base) {
            if (c->lru.next != &p->lru) {
                vmci_list_del(&p->lru);
                vmci_list_add_head(&c->lru, &p->lru);
            }
            *out = p;
            return VMC_OK;
        }
    struct fs_page *p = vmci_zalloc(v->pf, sizeof(*p));
    uint8_t *data = vmci_alloc_aligned(v->pf, FS_PAGE, FS_PAGE);
    if (p == NULL || data == NULL) {
        vmci_free(v->pf, p, sizeof(*p));
        vmci_free_aligned(v->pf, data, FS_PAGE, FS_PAGE);
        return vmci_error(err, VMC_ENOMEM, SITE("cache"), "no memory for metadata");
    }
    p->lv = base;
    p->data = data;
    p->hnext = c->hash[slot];
    c->hash[slot] = p;
    vmci_list_add_head(&c->lru, &p->lru);
    c->pages++;
    *out = p;
    return VMC_OK;
}

/* Pages of a file's contents are worthless once the file's epoch has changed. */
static void check_epoch(struct fs_page *p, uint64_t epoch)
{
    if (epoch != 0 && p->epoch != epoch) {
        p->valid &= p->dirty;
        p->epoch = epoch;
    }
}

int vmci_fs_page_read(struct vmc_vmfs *v, uint64_t lv, uint32_t bytes, uint64_t epoch,
                      struct fs_page **out, struct vmc_error *err)
{
    struct fs_page *p;
    int rc = vmci_fs_page(v, lv, &p, err);

    if (rc != VMC_OK)
        return rc;
    check_epoch(p, epoch);
    uint32_t need = vmci_fs_sector_mask(lv, bytes);
    if (v->ro && v->dev[0].info.sector_bytes > FS_SECTOR)
        need = 0xFF; /* whole device sectors */
    uint32_t missing = need & ~p->valid;
    while (missing != 0) {
        uint32_t first = (uint32_t)__builtin_ctz(missing);
        uint32_t n = 1;
        while (first + n < FS_PAGE_SECTORS && (missing >> (first + n) & 1))
            n++;
        rc = vmci_fs_read(v, p->lv + first * FS_SECTOR, p->data + first * FS_SECTOR,
                          (uint64_t)n * FS_SECTOR, err);
        if (rc != VMC_OK)
            return rc;
        uint32_t got = ((1u << n) - 1) << first;
        p->valid |= (uint8_t)got;
        missing &= ~got;
    }
    *out = p;
    return VMC_OK;
}

int vmci_fs_page_new(struct vmc_vmfs *v, uint64_t lv, uint32_t bytes, uint64_t epoch,
                     struct fs_page **out, struct vmc_error *err)
{
    int rc = vmci_fs_page(v, lv, out, err);

    if (rc != VMC_OK)
        return rc;
    check_epoch(*out, epoch);
    memset(vmci_fs_at(*out, lv), 0, bytes);
    (*out)->valid |= (uint8_t)vmci_fs_sector_mask(lv, bytes);
    return VMC_OK;
}

void vmci_fs_page_drop(struct vmc_vmfs *v, uint64_t lv, uint64_t bytes)
{
    struct fs_cache *c = &v->cache;

    for (uint64_t at = vmci_align_down(lv, FS_PAGE); at < lv + bytes; at += FS_PAGE) {
        for (struct fs_page *p = c->hash[slot_of(c, at)]; p != NULL; p = p->hnext) {
            if (p->lv != at)
                continue;
            uint64_t from = VMCI_MAX(at, lv), to = VMCI_MIN(at + FS_PAGE, lv + bytes);
            p->valid &= (uint8_t)~vmci_fs_sector_mask(from, (uint32_t)(to - from));
            break;
        }
    }
}
