/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Anything in any order on two VMs of one pool: guests write, lie about balloons, vCPUs obey late,
 * the swap file fails or is tampered with. What a VM reads must be what it wrote, zeros where it
 * gave the page up, or an error.
 */
#include <stdlib.h>
#include <string.h>

#include "pages/pages_int.h"
#include <vmcore/sharing.h>

#define VMS   2u
#define PAGES 64u

static uint64_t live, bugs;

static void *pf_alloc(void *ctx, size_t bytes, size_t align)
{
    (void)ctx;
    live++;
    return aligned_alloc(align, (bytes + align - 1) / align * align);
}
static void pf_free(void *ctx, void *p, size_t bytes, size_t align)
{
    (void)ctx, (void)bytes, (void)align;
    live--;
    free(p);
}
static uint64_t pf_now(void *ctx)
{
    (void)ctx;
    return 0;
}
static void pf_bug(void *ctx, const char *file, int line, const char *text)
{
    (void)ctx, (void)file, (void)line, (void)text;
    bugs++;
}
static const struct vmc_platform platform = {
    .size = sizeof(platform), .alloc = pf_alloc, .free = pf_free, .now_ns = pf_now, .bug = pf_bug};

struct vm {
    struct vmc_space *space;
    uint64_t ticket, settled;
    uint8_t want[PAGES];
    unsigned char file[PAGES * VMC_PAGE_SIZE];
    bool fail;
};

static uint64_t revoke(void *ctx, uint64_t first, uint64_t count)
{
    struct vm *v = ctx;

    (void)first, (void)count;
    return ++v->ticket;
}
static bool settled(void *ctx, uint64_t ticket)
{
    return ticket <= ((struct vm *)ctx)->settled;
}
static const struct vmc_provider_ops provider = {.revoke = revoke, .settled = settled};

static int file_info(void *ctx, struct vmc_block_info *out)
{
    (void)ctx;
    *out = (struct vmc_block_info){.bytes = PAGES * VMC_PAGE_SIZE, .sector_bytes = 512};
    return VMC_OK;
}
static int file_submit(void *ctx, struct vmc_block_req *r)
{
    struct vm *v = ctx;

    r->status = v->fail ? VMC_EIO : VMC_OK;
    if (!v->fail && r->op == VMC_BLOCK_WRITE)
        memcpy(v->file + r->offset, r->iov[0].base, r->bytes);
    else if (!v->fail)
        memcpy(r->iov[0].base, v->file + r->offset, r->bytes);
    return VMC_BLOCK_COMPLETE;
}
static const struct vmc_blockdev_ops file_ops = {.info = file_info, .submit = file_submit};

static void pattern(unsigned char *to, uint8_t seed)
{
    for (unsigned i = 0; i < VMC_PAGE_SIZE; i++)
        to[i] = (unsigned char)(seed == 0 ? 0 : seed * (i / 7 % 31 + 1));
}

static void check(struct vm *v, uint64_t page)
{
    unsigned char want[VMC_PAGE_SIZE];
    struct vmc_page_ref r;

    if (vmc_space_access(v->space, page, 0, &r) != VMC_OK)
        return;
    pattern(want, v->want[page]);
    if (memcmp(r.ptr, want, sizeof(want)) != 0)
        abort();
}

static void write_page(struct vm *v, uint64_t page, uint8_t seed)
{
    struct vmc_page_ref r;

    if (vmc_space_access(v->space, page, VMC_ACCESS_WRITE, &r) != VMC_OK)
        return;
    pattern(r.ptr, seed);
    v->want[page] = seed;
}

static void drop(struct vm *v, uint64_t page, uint64_t count, bool balloon)
{
    v->settled = UINT64_MAX; /* these vCPUs obey at once */
    (void)vmc_space_drop(v->space, page, count, balloon);
    v->settled = v->ticket;
    for (uint64_t i = page; i < page + count && i < PAGES; i++) {
        enum vmc_page_state st = vmc_space_state(v->space, i);
        if (st == VMC_PAGE_ZERO || st == VMC_PAGE_BALLOON)
            v->want[i] = 0;
    }
}

static void step(struct vmc_pool *pool, struct vmc_share *sh, struct vm *v, const uint8_t *op)
{
    uint64_t page = op[1] % PAGES, n;
    struct vmc_share_budget b = {.pages = 1 + op[2] % 64};
    struct vmc_share_result r;
    struct vmc_share_pack_result p;
    int rc = VMC_OK;

    switch (op[0] % 12) {
    case 0:
    case 1:
    case 2:
        write_page(v, page, op[2] % 8);
        break;
    case 3:
        check(v, page);
        break;
    case 4:
        rc = vmc_space_sample(v->space, &n);
        break;
    case 5:
        v->settled = v->ticket;
        break;
    case 6:
        rc = vmc_share_scan(sh, &b, &r);
        break;
    case 7:
        rc = vmc_share_pack(sh, op[2] & 1 ? v->space : NULL, &b, op[2] % 5, &p);
        break;
    case 8:
        rc = vmc_space_swap_out(v->space, op[2] % 40, PAGES, op[2] & 128, &n);
        break;
    case 9:
        drop(v, page, op[2], op[0] & 16);
        vmc_space_return(v->space, page, op[2]);
        break;
    case 10:
        v->fail = op[2] & 1;
        v->file[(op[1] * 256u + op[2]) * 4 % sizeof(v->file)] ^= op[2] >> 7; /* tampering */
        break;
    default:
        (void)vmc_pool_compact(pool, op[2]);
        vmc_space_poll(v->space);
    }
    (void)rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct vm vm[VMS];
    struct vmc_pool_config pc = {.size = sizeof(pc), .frames = 80};
    struct vmc_share_config sc = {.size = sizeof(sc), .seed = 1};
    struct vmc_pool *pool;
    struct vmc_share *sh;

    memset(vm, 0, sizeof(vm));
    if (vmc_pool_create(&platform, &pc, &pool, NULL) != VMC_OK ||
        vmc_share_create(pool, &sc, &sh, NULL) != VMC_OK)
        abort();
    for (unsigned i = 0; i < VMS; i++) {
        struct vmc_space_config c = {.size = sizeof(c),
                                     .pages = PAGES,
                                     .salt = bytes > 0 && (data[0] & 1) ? i : 0,
                                     .provider = &provider,
                                     .provider_ctx = &vm[i],
                                     .swap = {.ops = &file_ops, .ctx = &vm[i]}};
        if (bytes == 0 || vmc_space_create(pool, &c, &vm[i].space, NULL) != VMC_OK)
            break;
    }
    for (size_t i = 1; vm[VMS - 1].space != NULL && i + 3 <= bytes && i < 6000; i += 3)
        step(pool, sh, &vm[data[i] >> 5 & 1], data + i);
    for (unsigned i = 0; i < VMS && vm[i].space != NULL; i++) {
        vm[i].settled = vm[i].ticket;
        vm[i].fail = false;
        for (uint64_t p = 0; p < PAGES; p++)
            check(&vm[i], p);
    }
    if (pool->unpack_bad != 0 || bugs != 0)
        abort();
    vmc_share_destroy(sh);
    for (unsigned i = 0; i < VMS; i++)
        vmc_space_destroy(vm[i].space);
    vmc_pool_destroy(pool);
    if (live != 0)
        abort();
    return 0;
}
