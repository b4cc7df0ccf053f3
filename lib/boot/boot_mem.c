/* SPDX-License-Identifier: BSD-2-Clause */
/* Images and guest memory as the loaders see them: every range is checked here, once. */
#include "boot_priv.h"

/* ---- image --------------------------------------------------------------------------------- */

static int memory_read(void *ctx, uint64_t offset, void *dst, size_t bytes)
{
    memcpy(dst, (const uint8_t *)ctx + offset, bytes);
    return VMC_OK;
}

static const struct vmc_image_ops memory_ops = {.read = memory_read};

void vmc_image_src_memory(struct vmc_image_src *src, const void *data, size_t bytes)
{
    src->ops = &memory_ops;
    src->ctx = (void *)(uintptr_t)data;
    src->bytes = bytes;
}

bool vmci_image_peek(const struct vmc_image_src *src, uint64_t offset, void *dst, size_t bytes)
{
    return vmci_range_ok(offset, bytes, src->bytes) &&
           src->ops->read(src->ctx, offset, dst, bytes) == VMC_OK;
}

static int read_range(struct boot_ctx *c, const struct vmc_image_src *src, uint64_t offset,
                      void *dst, size_t bytes, const char *what)
{
    if (!vmci_range_ok(offset, bytes, src->bytes))
        return vmci_error(c->err, VMC_EFORMAT, "boot/read",
                          "%s: 0x%llx bytes at offset 0x%llx, but the image has only 0x%llx", what,
                          (unsigned long long)bytes, (unsigned long long)offset,
                          (unsigned long long)src->bytes);
    int rc = src->ops->read(src->ctx, offset, dst, bytes);
    if (rc != VMC_OK)
        return vmci_error(c->err, rc, "boot/read", "%s: cannot read the image at 0x%llx", what,
                          (unsigned long long)offset);
    return VMC_OK;
}

int vmci_image_read(struct boot_ctx *c, uint64_t offset, void *dst, size_t bytes, const char *what)
{
    return read_range(c, c->cfg->image, offset, dst, bytes, what);
}

int vmci_image_load(struct boot_ctx *c, const struct vmc_image_src *src, uint64_t offset,
                    uint64_t bytes, uint64_t gpa, const char *what)
{
    for (uint64_t done = 0; done < bytes;) {
        size_t n = (size_t)VMCI_MIN(bytes - done, (uint64_t)sizeof(c->chunk));
        int rc = read_range(c, src, offset + done, c->chunk, n, what);
        if (rc == VMC_OK)
            rc = vmci_boot_write(c, gpa + done, c->chunk, n, what);
        if (rc != VMC_OK)
            return rc;
        done += n;
    }
    return VMC_OK;
}

/* ---- guest memory -------------------------------------------------------------------------- */

int vmci_boot_write(struct boot_ctx *c, uint64_t gpa, const void *src, size_t bytes,
                    const char *what)
{
    if (vmc_mem_load(c->mem, gpa, src, bytes) != VMC_OK)
        return vmci_error(c->err, VMC_ERANGE, "boot/write",
                          "%s: 0x%llx-0x%llx is not guest memory", what, (unsigned long long)gpa,
                          (unsigned long long)(gpa + bytes));
    return VMC_OK;
}

int vmci_boot_zero(struct boot_ctx *c, uint64_t gpa, uint64_t bytes, const char *what)
{
    if (vmc_mem_set(c->mem, gpa, 0, bytes) != VMC_OK)
        return vmci_error(c->err, VMC_ERANGE, "boot/zero",
                          "%s: 0x%llx-0x%llx is not guest memory", what, (unsigned long long)gpa,
                          (unsigned long long)(gpa + bytes));
    return VMC_OK;
}

/* Is all of the range RAM? The map is ascending; neighbouring entries count as one. */
static bool in_ram(const struct boot_ctx *c, uint64_t base, uint64_t bytes)
{
    uint64_t at = base, end = base + bytes;

    if (end < base)
        return false;
    for (unsigned i = 0; i < c->map_count && at < end; i++) {
        const struct vmc_memmap *m = &c->map[i];
        if (m->type == VMC_MEMMAP_RAM && m->base <= at && at - m->base < m->bytes)
            at = m->base + m->bytes;
    }
    return at >= end;
}

static const struct boot_claim *overlap(const struct boot_ctx *c, uint64_t base, uint64_t bytes)
{
    for (unsigned i = 0; i < c->claims; i++) {
        if (base < c->claim[i].end && c->claim[i].base < base + bytes)
            return &c->claim[i];
    }
    return NULL;
}

bool vmci_boot_free(const struct boot_ctx *c, uint64_t base, uint64_t bytes)
{
    return in_ram(c, base, bytes) && overlap(c, base, bytes) == NULL;
}

/* Is all of the range in slots of RAM? */
static bool in_slots(const struct boot_ctx *c, uint64_t base, uint64_t bytes)
{
    struct vmc_mem_slot s = {.size = sizeof(s)};
    uint64_t at = base, end = base + bytes;

    if (end < base)
        return false;
    for (unsigned i = 0; at < end && vmc_mem_slot_at(c->mem, i, &s) == VMC_OK; i++) {
        if (s.attr == VMC_MEM_RAM && s.gpa <= at && at - s.gpa < s.bytes)
            at = s.gpa + s.bytes;
    }
    return at >= end;
}

static int claim(struct boot_ctx *c, uint64_t base, uint64_t bytes, bool ram, const char *what)
{
    if (!ram)
        return vmci_error(c->err, VMC_ERANGE, "boot/claim",
                          "%s: 0x%llx bytes at 0x%llx do not fit guest memory", what,
                          (unsigned long long)bytes, (unsigned long long)base);
    const struct boot_claim *other = overlap(c, base, bytes);
    if (other != NULL)
        return vmci_error(c->err, VMC_EFORMAT, "boot/claim",
                          "%s at 0x%llx-0x%llx overlaps %s at 0x%llx-0x%llx", what,
                          (unsigned long long)base, (unsigned long long)(base + bytes),
                          other->what, (unsigned long long)other->base,
                          (unsigned long long)other->end);
    if (c->claims == MAX_CLAIMS)
        return vmci_error(c->err, VMC_ELIMIT, "boot/claim", "%s: more than %d pieces", what,
                          MAX_CLAIMS);
    c->claim[c->claims++] = (struct boot_claim){base, base + bytes, what};
    return VMC_OK;
}

int vmci_boot_claim(struct boot_ctx *c, uint64_t base, uint64_t bytes, const char *what)
{
    return bytes == 0 ? VMC_OK : claim(c, base, bytes, in_ram(c, base, bytes), what);
}

int vmci_boot_claim_fixed(struct boot_ctx *c, uint64_t base, uint64_t bytes, const char *what)
{
    return bytes == 0 ? VMC_OK : claim(c, base, bytes, in_slots(c, base, bytes), what);
}

/*
 * A free place ends where RAM, the limit or a claim begins (going up: starts where one ends), so
 * those are the only candidates to try.
 */
static bool try_place(const struct boot_ctx *c, uint64_t at, uint64_t bytes, uint64_t min,
                      uint64_t max)
{
    return at >= min && vmci_range_ok(at, bytes, max) && vmci_boot_free(c, at, bytes);
}

int vmci_boot_alloc_high(struct boot_ctx *c, uint64_t bytes, uint64_t align, uint64_t min,
                         uint64_t max, const char *what, uint64_t *base)
{
    uint64_t best = 0;
    bool found = false;

    for (unsigned i = 0; i < c->map_count + c->claims + 1; i++) {
        uint64_t end = max;
        if (i < c->map_count)
            end = c->map[i].base + c->map[i].bytes;
        else if (i < c->map_count + c->claims)
            end = c->claim[i - c->map_count].base;
        end = VMCI_MIN(end, max);
        if (end < bytes)
            continue;
        uint64_t at = vmci_align_down(end - bytes, align);
        if (try_place(c, at, bytes, min, max) && (!found || at > best)) {
            best = at;
            found = true;
        }
    }
    if (!found)
        return vmci_error(c->err, VMC_ERANGE, "boot/alloc",
                          "%s: no 0x%llx bytes of guest memory are free below 0x%llx", what,
                          (unsigned long long)bytes, (unsigned long long)max);
    *base = best;
    return vmci_boot_claim(c, best, bytes, what);
}

int vmci_boot_alloc_low(struct boot_ctx *c, uint64_t bytes, uint64_t align, uint64_t min,
                        uint64_t max, const char *what, uint64_t *base)
{
    uint64_t best = UINT64_MAX;

    for (unsigned i = 0; i < c->map_count + c->claims + 1; i++) {
        uint64_t from = min;
        if (i < c->map_count)
            from = c->map[i].base;
        else if (i < c->map_count + c->claims)
            from = c->claim[i - c->map_count].end;
        uint64_t at = vmci_align_up(VMCI_MAX(from, min), align);
        if (at < best && try_place(c, at, bytes, min, max))
            best = at;
    }
    if (best == UINT64_MAX)
        return vmci_error(c->err, VMC_ERANGE, "boot/alloc",
                          "%s: no 0x%llx bytes of guest memory are free between 0x%llx and 0x%llx",
                          what, (unsigned long long)bytes, (unsigned long long)min,
                          (unsigned long long)max);
    *base = best;
    return vmci_boot_claim(c, best, bytes, what);
}

int vmci_boot_place(struct boot_ctx *c, const void *data, size_t bytes, const char *what,
                    uint64_t *base)
{
    int rc = vmci_boot_alloc_low(c, bytes, 16, LOW_START, LOW_END, what, base);

    return rc == VMC_OK ? vmci_boot_write(c, *base, data, bytes, what) : rc;
}
