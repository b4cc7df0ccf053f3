/* SPDX-License-Identifier: BSD-2-Clause */
/* The virtio devices of a run: disks, network cards, entropy, balloon. */
#include "run_vm.h"

#include "disk_full.h"
#include "disk_place.h"
#include "vmcore_cmd.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include <vmcore/host_block.h>
#include <vmcore/host_net.h>
#include <vmcore/virtio_balloon.h>
#include <vmcore/virtio_blk.h>
#include <vmcore/virtio_net.h>
#include <vmcore/virtio_rng.h>
#include <vmcore/vmware.h>

struct run_io {
    struct run_vm *r;
    struct disk {
        struct vmc_host_disk *raw; /* a raw image, or */
        struct disk_place place;   /* where a disk with a descriptor is, */
        struct vmc_disk *disk;     /* and the disk */
        struct disk_full *full;    /* around either, if it is written to */
    } disks[RUN_MAX_DISKS];
    struct disk_volume *volumes;
    struct nic {
        struct vmc_host_net *net;
        struct vmc_virtio *dev;
    } nics[RUN_MAX_NETS];
    struct vmc_virtio *balloon; /* one of the two: */
    struct vmc_vmware *vmware;
};

static struct vmc_virtio_config place(struct run_vm *r)
{
    return (struct vmc_virtio_config){.size = sizeof(struct vmc_virtio_config),
                                      .pci = vmc_pc_pci(r->pc),
                                      .slot = VMC_PCI_ANY_SLOT};
}

/* The same, with doorbells that a thread answers where the engine can pass them on. */
static struct vmc_virtio_config place_with_bells(struct run_vm *r, struct run_bell **bell)
{
    struct vmc_virtio_config c = place(r);

    *bell = run_bells_add(r);
    if (*bell != NULL) {
        c.doorbells_changed = run_bell_changed;
        c.doorbells_ctx = *bell;
    }
    return c;
}

/* Is this file, writable here or there, an earlier disk of the run? */
static bool given_before(const struct run_vm *r, unsigned i)
{
    const struct run_disk *d = r->opt.disks;
    struct stat mine, other;

    for (unsigned k = 0; k < i; k++) {
        if (d[i].read_only && d[k].read_only)
            continue;
        if (strcmp(d[i].path, d[k].path) == 0 ||
            (stat(d[i].path, &mine) == 0 && stat(d[k].path, &other) == 0 &&
             mine.st_dev == other.st_dev && mine.st_ino == other.st_ino))
            return true;
    }
    return false;
}

static int open_disk(struct run_vm *r, unsigned i, struct vmc_blockdev *out, struct vmc_error *err)
{
    const struct run_disk *spec = &r->opt.disks[i];
    struct disk *d = &r->io->disks[i];
    struct vmc_host_disk_config hc = {
        .size = sizeof(hc), .path = spec->path, .read_only = spec->read_only};

    char what[RUN_WHO_BYTES + 16];
    snprintf(what, sizeof(what), "%s: --disk", run_who);
    int rc = 0;
    if (spec->raw || !disk_place_is(spec->path)) {
        if (!spec->raw)
            rc = disk_refuse_format(what, spec->path, "',raw' behind its name");
        if (rc != 0)
            return rc;
        if (vmc_host_disk_open(&hc, &d->raw, err) != VMC_OK)
            return run_vm_fail("--disk", err);
        *out = vmc_host_disk_blockdev(d->raw);
        return 0;
    }
    const struct vt how = {
        .exclusive = spec->exclusive, .reserve = spec->reserve, .rdm = spec->rdm};
    rc = disk_place_open(&d->place, &r->io->volumes, what, spec->path, &how);
    if (rc != 0)
        return rc;
    if (vmc_disk_open(&r->pf, &d->place.files, d->place.name, !spec->read_only, &d->disk, err) !=
        VMC_OK)
        return run_vm_fail(spec->path, err);
    *out = vmc_disk_blockdev(d->disk);
    return 0;
}

/* Writes that find no space wait, unless the user does not want that. */
static int let_wait(struct run_vm *r, unsigned i, struct vmc_blockdev *bd)
{
    const struct run_disk *spec = &r->opt.disks[i];
    struct disk *d = &r->io->disks[i];
    char name[512];

    if (spec->read_only || spec->full_fails)
        return 0;
    snprintf(name, sizeof(name), "%s: --disk %s", run_who, spec->path);
    d->full = disk_full_create(name, *bd, disk_full_flushes(d->disk));
    if (d->full == NULL) {
        fprintf(stderr, "%s: no thread to watch it\n", name);
        return EXIT_ERROR;
    }
    *bd = disk_full_blockdev(d->full);
    return 0;
}

static bool is_live(void *dev)
{
    return vmc_virtio_live(dev);
}

static int add_disk(struct run_vm *r, unsigned i)
{
    const struct run_disk *d = &r->opt.disks[i];
    struct vmc_error err = {0};
    struct run_bell *bell;
    struct vmc_virtio_blk_config bc = {
        .virtio = place_with_bells(r, &bell), .serial = d->serial, .read_only = d->read_only};
    struct vmc_virtio *dev;

    if (given_before(r, i)) {
        fprintf(stderr, "%s: --disk %s: given twice; one of the two must write to it alone\n",
                run_who, d->path);
        return EXIT_BAD_ARGS;
    }
    int rc = open_disk(r, i, &bc.disk, &err);
    if (rc == 0)
        rc = let_wait(r, i, &bc.disk);
    if (rc != 0)
        return rc;
    if (r->hooks != NULL)
        bc.disk = r->hooks->disk(r->hooks_ctx, i, bc.disk);
    if (vmc_virtio_blk_create(vmc_vm_board(r->vm), &bc, &dev, &err) != VMC_OK)
        return run_vm_fail("--disk", &err);
    if (r->io->disks[i].full != NULL)
        disk_full_watch(r->io->disks[i].full, is_live, dev);
    run_bell_attach(bell, dev);
    return 0;
}

static int nic_receive(void *ctx, const struct vmc_iovec *iov, uint32_t iov_count)
{
    struct nic *n = ctx;
    return vmc_virtio_net_receive(n->dev, iov, iov_count);
}

static void nic_rx_ready(void *ctx)
{
    struct nic *n = ctx;
    vmc_host_net_rx_ready(n->net);
}

static int open_net(const struct run_net *spec, struct vmc_host_net **out, struct vmc_error *err)
{
    struct vmc_host_tap_config tap = {.size = sizeof(tap), .ifname = spec->ifname};
    struct vmc_host_user_net_config user = {.size = sizeof(user)};

    return spec->tap ? vmc_host_tap_open(&tap, out, err) : vmc_host_user_net_open(&user, out, err);
}

static int add_nic(struct run_vm *r, unsigned i)
{
    struct nic *n = &r->io->nics[i];
    struct vmc_error err = {0};

    if (open_net(&r->opt.nets[i], &n->net, &err) != VMC_OK)
        return run_vm_fail("--net", &err);
    struct run_bell *bell;
    struct vmc_virtio_net_config nc = {.virtio = place_with_bells(r, &bell),
                                       .net = vmc_host_net_dev(n->net),
                                       .mac = {0x52, 0x54, 0x00, 0x12, 0x34, (uint8_t)(0x56 + i)},
                                       .rx_ready = nic_rx_ready,
                                       .ctx = n};
    if (vmc_virtio_net_create(vmc_vm_board(r->vm), &nc, &n->dev, &err) != VMC_OK ||
        vmc_host_net_start(n->net, nic_receive, n, &err) != VMC_OK)
        return run_vm_fail("--net", &err);
    run_bell_attach(bell, n->dev);
    return 0;
}

/* Pages that the guest gives up go back to the host at once; it reads zeroes if it uses them. */
static void give_back(void *ctx, uint64_t gpa, uint64_t bytes)
{
    struct run_vm *r = ctx;
    void *hva;
    uint64_t got;

    while (bytes > 0 && vmc_mem_ref(vmc_vm_mem(r->vm), gpa, bytes, true, &hva, &got) == VMC_OK) {
        madvise(hva, got, MADV_DONTNEED); /* failure costs memory, nothing else */
        vmc_mem_unref(vmc_vm_mem(r->vm), gpa, got, true);
        gpa += got;
        bytes -= got;
    }
}

static bool vmware_call(void *ctx, struct vmc_port_call *call)
{
    return vmc_vmware_call(ctx, call);
}

static int add_vmware(struct run_vm *r, const struct vmc_balloon_ops *ops, void *ctx)
{
    struct vmc_error err = {0};
    struct vmc_vmware_config vc = {
        .size = sizeof(vc), .inflate = ops->inflate, .deflate = ops->deflate, .ctx = ctx};

    if (vmc_vmware_create(vmc_vm_board(r->vm), &vc, &r->io->vmware, &err) != VMC_OK)
        return run_vm_fail("--hypervisor vmware", &err);
    vmc_vm_set_port_calls(r->vm, VMC_VMWARE_PORT, VMC_VMWARE_BALLOON_PORT, vmware_call,
                          r->io->vmware);
    return 0;
}

static int add_balloon(struct run_vm *r)
{
    static const struct vmc_balloon_ops plain = {.inflate = give_back, .report = give_back};
    const struct vmc_balloon_ops *ops = r->hooks != NULL ? r->hooks->balloon : &plain;
    void *ctx = r->hooks != NULL ? r->hooks_ctx : r;
    struct vmc_error err = {0};
    struct vmc_virtio_balloon_config bc = {.virtio = place(r),
                                           .ops = ops,
                                           .ctx = ctx,
                                           .deflate_on_oom = true,
                                           .free_page_reporting = true};

    if (r->opt.hypervisor == RUN_HYPERVISOR_VMWARE)
        return add_vmware(r, ops, ctx);
    if (vmc_virtio_balloon_create(vmc_vm_board(r->vm), &bc, &r->io->balloon, &err) != VMC_OK)
        return run_vm_fail("balloon device", &err);
    return 0;
}

static int add_rng_and_balloon(struct run_vm *r)
{
    struct vmc_error err = {0};
    struct vmc_virtio *rng;
    struct vmc_virtio_rng_config rc = {.virtio = place(r)};

    if (vmc_virtio_rng_create(vmc_vm_board(r->vm), &rc, &rng, &err) != VMC_OK)
        return run_vm_fail("entropy device", &err);
    return add_balloon(r);
}

int run_io_create(struct run_vm *r)
{
    int rc = 0;

    r->io = calloc(1, sizeof(*r->io));
    if (r->io == NULL)
        return EXIT_ERROR;
    r->io->r = r;
    for (unsigned i = 0; rc == 0 && i < r->opt.disk_count; i++)
        rc = add_disk(r, i);
    for (unsigned i = 0; rc == 0 && i < r->opt.net_count; i++)
        rc = add_nic(r, i);
    return rc == 0 ? add_rng_and_balloon(r) : rc;
}

void run_io_fail_waiting(struct run_vm *r, bool fail)
{
    for (unsigned i = 0; i < r->opt.disk_count; i++)
        if (r->io->disks[i].full != NULL)
            disk_full_fail(r->io->disks[i].full, fail);
}

bool run_io_disk_waits(const struct run_vm *r, unsigned i)
{
    return r->io != NULL && r->io->disks[i].full != NULL && disk_full_waits(r->io->disks[i].full);
}

bool run_io_waits(const struct run_vm *r)
{
    for (unsigned i = 0; i < r->opt.disk_count; i++)
        if (run_io_disk_waits(r, i))
            return true;
    return false;
}

bool run_io_settled(struct run_vm *r)
{
    return vmc_board_quiesce(vmc_vm_board(r->vm)) != VMC_EAGAIN;
}

void run_io_quiesce(struct run_vm *r)
{
    const struct timespec nap = {.tv_nsec = 100000};

    /* A disk may take its time, one that is full any time: who asks is not kept for so long. */
    for (int i = 0; !run_io_settled(r) && i < (run_io_waits(r) ? 200 : 2000); i++)
        nanosleep(&nap, NULL);
}

void run_io_stop(struct run_vm *r)
{
    if (r->io == NULL)
        return;
    run_bells_stop(r);
    run_io_fail_waiting(r, true);
    for (unsigned i = 0; i < RUN_MAX_NETS; i++) {
        vmc_host_net_close(r->io->nics[i].net);
        r->io->nics[i].net = NULL;
    }
}

void run_io_destroy(struct run_vm *r)
{
    if (r->io == NULL)
        return;
    run_bells_free(r);
    for (unsigned i = 0; i < RUN_MAX_DISKS; i++) {
        struct disk *d = &r->io->disks[i];
        disk_full_free(d->full);
        vmc_host_disk_close(d->raw);
        int rc = d->disk != NULL ? vmc_disk_close(d->disk) : VMC_OK;
        if (rc != VMC_OK)
            fprintf(stderr, "%s: --disk %s: closing it: %s\n", run_who, r->opt.disks[i].path,
                    vmc_strerror(rc));
        disk_place_close(&d->place);
    }
    (void)disk_volumes_close(&r->io->volumes, 0); /* says what is wrong */
    free(r->io);
    r->io = NULL;
}

void run_io_balloon_target(struct run_vm *r, uint64_t pages)
{
    if (r->io->vmware != NULL)
        vmc_vmware_set_target(r->io->vmware, pages);
    else
        vmc_virtio_balloon_set_target(r->io->balloon, pages);
}

void run_io_balloon_look(struct run_vm *r, struct vmc_balloon_seen *out)
{
    if (r->io->vmware != NULL)
        vmc_vmware_look(r->io->vmware, out);
    else
        vmc_virtio_balloon_look(r->io->balloon, out);
}

bool run_io_uses_network(const struct run_vm *r)
{
    for (unsigned i = 0; i < r->opt.net_count; i++)
        if (!r->opt.nets[i].tap)
            return true;
    return false;
}

bool run_io_uses_volumes(const struct run_vm *r)
{
    return r->io != NULL && r->io->volumes != NULL;
}
