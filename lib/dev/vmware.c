/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VMware's ports, as guests know them: 5658H says what the hypervisor is, 5670H is the balloon.
 * A call has a magic number in EAX and a command in ECX, arguments in EBX and ESI.
 *
 * Threats (tests/unit/dev/test_vmware.c, fuzz/vmware.c)
 *
 * | guest input                          | bound                                                  |
 * |--------------------------------------|--------------------------------------------------------|
 * | page numbers                         | RAM only, in once, out only when in; else counted      |
 * | a batch: its place and length        | one page of RAM, at most 512 entries, read once        |
 * | a batch that names its own page      | the page is gone; statuses go to what replaces it      |
 * | several vCPUs at once                | each page goes by an atomic bit                        |
 * | calls before START, unknown commands | an error code, nothing else                            |
 */
#include <vmcore/vmware.h>

#include "base/snapshot.h"
#include "dev_priv.h"
#include "mmu/mem_held.h"

#define MAGIC         0x564d5868u
#define BALLOON_MAGIC 0x456c6d6fu

/* Commands of port 5658H. */
enum command { CMD_VERSION = 10, CMD_MEMORY_MIB = 20, CMD_HZ = 45, CMD_VCPU = 68 };
#define VERSION         6u
#define PRODUCT_SERVER  2u
#define VCPU_X2APIC     (1u << 3) /* without interrupt remapping */
#define NOT_IMPLEMENTED UINT32_MAX

/* Commands of the balloon. */
enum balloon_command {
    BAL_START,
    BAL_TARGET,
    BAL_LOCK,
    BAL_UNLOCK,
    BAL_GUEST_ID,
    BAL_BATCH_LOCK = 6,
    BAL_BATCH_UNLOCK,
    BAL_BATCH_2M_LOCK,
    BAL_BATCH_2M_UNLOCK,
};

/* Answers, also of each entry of a batch. */
enum balloon_status {
    BAL_OK,
    BAL_BAD_COMMAND,
    BAL_PAGE_INVALID,
    BAL_PAGE_LOCKED,
    BAL_PAGE_UNLOCKED,
    BAL_RESET = 7,
};
#define BAL_FAILURE UINT32_MAX
#define BAL_AGREED  0x03000000u /* to START: ECX has the capabilities */

#define CAP_BASIC   (1u << 1)
#define CAP_BATCHED (1u << 2)
#define CAP_2M      (1u << 3)
#define CAPS        (CAP_BASIC | CAP_BATCHED | CAP_2M)

#define LARGE_PAGES   512u
#define BATCH_ENTRIES (VMC_PAGE_SIZE / sizeof(uint64_t))
#define ENTRY_STATUS  0x1full
#define CHUNK_ENTRIES 64u

/* All but the pages themselves, which are saved behind it. */
struct vmware_state {
    uint32_t started, capabilities, guest_type, pad;
    uint64_t guest_pages;
};

struct vmc_vmware {
    struct dev_base base;
    struct vmc_vmware_config cfg;
    struct vmci_held held;
    uint64_t target;                       /* (a) pages; the embedder's, survives a reset */
    uint64_t rejected, calls, large_pages; /* (a) */
    struct vmware_state st;                /* (l) */
    uint8_t *image;                        /* (l) where a saved state is put together */
};

/* ---- pages --------------------------------------------------------------------------------- */

static struct vmci_held_run begin(struct vmc_vmware *d, bool in)
{
    return (struct vmci_held_run){
        .in = in, .tell = in ? d->cfg.inflate : d->cfg.deflate, .ctx = d->cfg.ctx};
}

static enum balloon_status status_of(enum vmci_held_result r, bool in)
{
    if (r == VMCI_HELD_MOVED)
        return BAL_OK;
    if (r == VMCI_HELD_NO_RAM)
        return BAL_PAGE_INVALID;
    return in ? BAL_PAGE_LOCKED : BAL_PAGE_UNLOCKED;
}

/* Could all of it go? Whoever changes pages in between gets what it asked for, page by page. */
static enum balloon_status check_large(struct vmc_vmware *d, uint64_t page, bool in)
{
    if (page % LARGE_PAGES != 0)
        return BAL_PAGE_INVALID;
    for (unsigned i = 0; i < LARGE_PAGES; i++) {
        uint64_t p = page + i; /* may wrap: it is a guest's */
        if (vmci_held_slot(&d->held, p) == NULL)
            return BAL_PAGE_INVALID;
        bool is_in = (vmci_load_relaxed(&d->held.bits[p / 64]) & VMCI_BIT(p % 64)) != 0;
        if (is_in == in)
            return in ? BAL_PAGE_LOCKED : BAL_PAGE_UNLOCKED;
    }
    return BAL_OK;
}

static enum balloon_status move_one(struct vmc_vmware *d, uint64_t page, bool large,
                                    struct vmci_held_run *run)
{
    enum balloon_status st = large ? check_large(d, page, run->in) : BAL_OK;

    for (unsigned i = 0; st == BAL_OK && i < (large ? LARGE_PAGES : 1); i++)
        st = status_of(vmci_held_move(&d->held, page + i, run), run->in);
    if (st != BAL_OK)
        (void)vmci_fetch_add(&d->rejected, 1);
    else if (large && run->in)
        (void)vmci_fetch_add(&d->large_pages, 1);
    return st;
}

static uint32_t move_page(struct vmc_vmware *d, uint64_t page, bool in)
{
    struct vmci_held_run run = begin(d, in);
    enum balloon_status st = move_one(d, page, false, &run);

    vmci_held_end(&d->held, &run);
    return (uint32_t)st;
}

/*
 * Entries in a page of the guest: page number from bit 12 on, and the status, which we fill in when
 * the page has moved.
 */
static uint32_t move_batch(struct vmc_vmware *d, uint64_t batch_page, uint64_t entries, bool large,
                           bool in)
{
    struct vmc_mem *mem = d->base.bd->mem;
    uint8_t le[CHUNK_ENTRIES * sizeof(uint64_t)];

    if (vmci_held_slot(&d->held, batch_page) == NULL)
        return BAL_PAGE_INVALID;
    if (entries > BATCH_ENTRIES)
        return BAL_FAILURE;
    for (uint64_t at = 0; at < entries; at += CHUNK_ENTRIES) {
        uint64_t n = VMCI_MIN(entries - at, (uint64_t)CHUNK_ENTRIES);
        uint64_t gpa = (batch_page << VMC_PAGE_SHIFT) + at * sizeof(uint64_t);
        struct vmci_held_run run = begin(d, in);
        if (vmc_mem_read(mem, gpa, le, n * sizeof(uint64_t)) != VMC_OK)
            return BAL_PAGE_INVALID;
        for (uint64_t i = 0; i < n; i++) {
            uint64_t e = vmci_ld_le64(le + i * sizeof(e));
            uint64_t st = move_one(d, e >> VMC_PAGE_SHIFT, large, &run);
            vmci_st_le64(le + i * sizeof(e), (e & ~ENTRY_STATUS) | st);
        }
        vmci_held_end(&d->held, &run);
        if (vmc_mem_write(mem, gpa, le, n * sizeof(uint64_t)) != VMC_OK)
            return BAL_PAGE_INVALID;
    }
    return BAL_OK;
}

/* ---- balloon ------------------------------------------------------------------------------- */

/* A driver that starts, or ends, has all of the guest's memory. */
static uint32_t start(struct vmc_vmware *d, struct vmc_port_call *c)
{
    uint32_t caps = (uint32_t)c->rbx & CAPS;

    if ((caps & CAP_BATCHED) == 0)
        caps &= ~CAP_2M;
    vmci_held_clear(&d->held, d->cfg.deflate, d->cfg.ctx);
    vmci_lock(&d->base.lock);
    memset(&d->st, 0, sizeof(d->st));
    d->st.started = caps != 0;
    d->st.capabilities = caps;
    vmci_unlock(&d->base.lock);
    c->rcx = caps;
    return BAL_AGREED;
}

static uint32_t capabilities(struct vmc_vmware *d)
{
    vmci_lock(&d->base.lock);
    uint32_t caps = d->st.capabilities;
    vmci_unlock(&d->base.lock);
    return caps;
}

static void note(struct vmc_vmware *d, uint32_t command, uint64_t arg)
{
    vmci_lock(&d->base.lock);
    if (command == BAL_TARGET)
        d->st.guest_pages = arg;
    else
        d->st.guest_type = (uint32_t)arg;
    vmci_unlock(&d->base.lock);
}

static uint32_t move(struct vmc_vmware *d, uint32_t command, uint32_t caps, uint64_t arg,
                     uint64_t entries)
{
    static const uint32_t needs[] = {
        [BAL_LOCK] = CAP_BASIC,         [BAL_UNLOCK] = CAP_BASIC,
        [BAL_BATCH_LOCK] = CAP_BATCHED, [BAL_BATCH_UNLOCK] = CAP_BATCHED,
        [BAL_BATCH_2M_LOCK] = CAP_2M,   [BAL_BATCH_2M_UNLOCK] = CAP_2M};
    bool in = command == BAL_LOCK || command == BAL_BATCH_LOCK || command == BAL_BATCH_2M_LOCK;

    if (command >= VMCI_ARRAY_SIZE(needs) || (caps & needs[command]) == 0)
        return BAL_BAD_COMMAND;
    if (command == BAL_LOCK || command == BAL_UNLOCK)
        return move_page(d, arg, in);
    return move_batch(d, arg, entries, needs[command] == CAP_2M, in);
}

static void balloon_call(struct vmc_vmware *d, struct vmc_port_call *c)
{
    uint32_t command = (uint32_t)c->rcx;
    uint32_t status = BAL_OK;

    (void)vmci_fetch_add(&d->calls, 1);
    if (command == BAL_START) {
        c->rax = start(d, c);
        return;
    }
    uint32_t caps = capabilities(d);
    if (caps == 0)
        status = BAL_RESET;
    else if (command == BAL_TARGET || command == BAL_GUEST_ID)
        note(d, command, c->rbx);
    else
        status = move(d, command, caps, c->rbx, c->rsi);
    c->rax = status;
    if (command != BAL_GUEST_ID)
        c->rbx = vmci_load_relaxed(&d->target);
}

/* ---- hypervisor ---------------------------------------------------------------------------- */

static void hypervisor_call(struct vmc_vmware *d, struct vmc_port_call *c)
{
    switch ((uint32_t)c->rcx & 0xffff) {
    case CMD_VERSION:
        c->rax = VERSION;
        c->rbx = MAGIC;
        c->rcx = PRODUCT_SERVER;
        break;
    case CMD_MEMORY_MIB:
        c->rax = (uint32_t)(d->held.ram_pages >> (20 - VMC_PAGE_SHIFT));
        break;
    case CMD_HZ: /* unknown: EBX stays as the guest set it, all ones */
        if (c->tsc_hz == 0)
            break;
        c->rax = (uint32_t)c->tsc_hz;
        c->rbx = (uint32_t)(c->tsc_hz >> 32);
        c->rcx = (uint32_t)c->apic_hz;
        break;
    case CMD_VCPU:
        c->rax = VCPU_X2APIC;
        break;
    default:
        c->rax = NOT_IMPLEMENTED;
        break;
    }
}

bool vmc_vmware_call(struct vmc_vmware *d, struct vmc_port_call *c)
{
    if (c->port == VMC_VMWARE_PORT && (uint32_t)c->rax == MAGIC)
        hypervisor_call(d, c);
    else if (c->port == VMC_VMWARE_BALLOON_PORT && (uint32_t)c->rax == BALLOON_MAGIC)
        balloon_call(d, c);
    else
        return false;
    return true;
}

/* ---- embedder ------------------------------------------------------------------------------ */

void vmc_vmware_set_target(struct vmc_vmware *d, uint64_t pages)
{
    vmci_store_relaxed(&d->target, VMCI_MIN(pages, d->held.ram_pages));
}

void vmc_vmware_balloon_info(struct vmc_vmware *d, struct vmc_vmware_info *out)
{
    vmci_lock(&d->base.lock);
    struct vmware_state st = d->st;
    vmci_unlock(&d->base.lock);
    *out = (struct vmc_vmware_info){.size = sizeof(*out),
                                    .capabilities = st.capabilities,
                                    .target_pages = vmci_load_relaxed(&d->target),
                                    .held_pages = vmci_load_relaxed(&d->held.pages),
                                    .guest_pages = st.guest_pages,
                                    .rejected = vmci_load_relaxed(&d->rejected),
                                    .calls = vmci_load_relaxed(&d->calls),
                                    .large_pages = vmci_load_relaxed(&d->large_pages),
                                    .guest_type = st.guest_type,
                                    .driver = st.started != 0};
}

/* The protocol has no word for what a guest could spare. */
void vmc_vmware_look(struct vmc_vmware *d, struct vmc_balloon_seen *out)
{
    struct vmc_vmware_info info;

    vmc_vmware_balloon_info(d, &info);
    *out = (struct vmc_balloon_seen){
        .driver = info.driver, .held = info.held_pages, .total = info.guest_pages};
}

/* ---- life ---------------------------------------------------------------------------------- */

static void vmware_reset(void *dev)
{
    struct vmc_vmware *d = dev;

    vmci_held_clear(&d->held, d->cfg.deflate, d->cfg.ctx);
    vmci_lock(&d->base.lock);
    memset(&d->st, 0, sizeof(d->st));
    vmci_unlock(&d->base.lock);
}

static size_t state_bytes(const struct vmc_vmware *d)
{
    return sizeof(d->st) + VMCI_BITMAP_WORDS(d->held.limit) * sizeof(uint64_t);
}

static size_t vmware_save(void *dev, void *dst, size_t bytes)
{
    struct vmc_vmware *d = dev;
    size_t all = state_bytes(d);

    vmci_lock(&d->base.lock);
    memcpy(d->image, &d->st, sizeof(d->st));
    memcpy(d->image + sizeof(d->st), d->held.bits, all - sizeof(d->st));
    size_t n = vmci_dev_save(&d->base, 1, d->image, all, dst, bytes);
    vmci_unlock(&d->base.lock);
    return n;
}

static int check_saved(struct vmc_vmware *d, const struct vmware_state *st, const uint64_t *bits,
                       uint64_t *count, struct vmc_error *err)
{
    if (st->started != (st->capabilities != 0) || (st->capabilities & ~CAPS) != 0)
        return vmci_error(err, VMC_EFORMAT, "vmware/load", "capabilities 0x%x do not exist",
                          st->capabilities);
    for (uint64_t w = 0; w < VMCI_BITMAP_WORDS(d->held.limit); w++) {
        for (uint64_t b = bits[w]; b != 0; b &= b - 1) {
            uint64_t page = w * 64 + (unsigned)__builtin_ctzll(b);
            if (vmci_held_slot(&d->held, page) == NULL)
                return vmci_error(err, VMC_EFORMAT, "vmware/load",
                                  "page 0x%llx in the balloon is not RAM",
                                  (unsigned long long)page);
            ++*count;
        }
    }
    return VMC_OK;
}

static int vmware_load(void *dev, const void *src, size_t bytes, struct vmc_error *err)
{
    struct vmc_vmware *d = dev;
    size_t all = state_bytes(d);
    uint64_t shift, count = 0;
    struct vmware_state st;
    uint8_t *tmp = vmci_zalloc(d->base.bd->platform, all);

    if (tmp == NULL)
        return vmci_error(err, VMC_ENOMEM, "vmware/load", "no memory");
    const uint64_t *bits = (const uint64_t *)(const void *)(tmp + sizeof(st));
    int rc = vmci_dev_load(&d->base, 1, src, bytes, tmp, all, &shift, err);
    memcpy(&st, tmp, sizeof(st));
    if (rc == VMC_OK)
        rc = check_saved(d, &st, bits, &count, err);
    if (rc == VMC_OK) {
        vmci_lock(&d->base.lock);
        d->st = st;
        memcpy(d->held.bits, bits, all - sizeof(st));
        vmci_store_relaxed(&d->held.pages, count);
        vmci_unlock(&d->base.lock);
    }
    vmci_free(d->base.bd->platform, tmp, all);
    return rc;
}

static void vmware_destroy(void *dev)
{
    struct vmc_vmware *d = dev;

    vmci_free(d->base.bd->platform, d->image, state_bytes(d));
    vmci_held_fini(&d->held);
    vmci_dev_free(&d->base);
}

static const struct vmc_device_ops vmware_ops = {.name = "vmware",
                                                 .reset = vmware_reset,
                                                 .destroy = vmware_destroy,
                                                 .save = VMCI_SNAPSHOT(vmware_save),
                                                 .load = VMCI_SNAPSHOT(vmware_load)};

int vmc_vmware_create(struct vmc_board *bd, const struct vmc_vmware_config *cfg,
                      struct vmc_vmware **out, struct vmc_error *err)
{
    if (cfg->size != sizeof(*cfg))
        return vmci_error(err, VMC_EINVAL, "vmware/create", "bad configuration size");
    struct vmc_vmware *d = vmci_dev_alloc(bd, sizeof(*d), &vmware_ops, err);
    if (d == NULL)
        return VMC_ENOMEM;
    d->cfg = *cfg;
    int rc = vmci_held_init(&d->held, bd->mem, err);
    if (rc != VMC_OK) {
        vmci_dev_free(&d->base);
        return rc;
    }
    d->image = vmci_zalloc(bd->platform, state_bytes(d));
    if (d->image == NULL) {
        vmci_held_fini(&d->held);
        vmci_dev_free(&d->base);
        return vmci_error(err, VMC_ENOMEM, "vmware/create", "no memory");
    }
    vmci_dev_publish(&d->base);
    *out = d;
    return VMC_OK;
}
