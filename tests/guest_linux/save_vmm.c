/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A VM that goes on in another one: a stock Linux guest with two processors is stopped in the
 * middle of its work when it says "SAVE-ME", its state is taken by the public interface, as
 * docs/embedding.md describes it, and loaded into a second VM, where the guest finishes.
 * Usage: save_vmm KERNEL INITRD DISK CMDLINE. The guest's console is standard output.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <vmcore/host.h>
#include <vmcore/host_block.h>
#include <vmcore/pc.h>
#include <vmcore/virtio_blk.h>
#include <vmcore/virtio_rng.h>
#include <vmcore/vmcore.h>

#define CPUS  2u
#define RAM   (192ull << 20)
#define CHUNK (1u << 20)

struct machine {
    struct vmc_vm *vm;
    struct vmc_pc *pc;
    struct vmc_vcpu *vcpu[CPUS];
    struct vmc_host_disk *disk;
    char line[128];
    size_t n;
    bool save;    /* the guest asked for it */
    uint32_t why; /* it ended: enum vmc_stop */
};

static struct vmc_platform pf;

static void must(const char *what, int rc, const struct vmc_error *err)
{
    if (rc >= 0)
        return;
    fprintf(stderr, "%s: %s: %s\n", what, vmc_status_name(rc), err != NULL ? err->text : "");
    exit(1);
}

static int serial_write(void *ctx, const void *data, size_t bytes)
{
    struct machine *m = ctx;
    const char *p = data;

    for (size_t i = 0; i < bytes; i++) {
        putchar(p[i]);
        if (p[i] != '\n' && m->n + 1 < sizeof(m->line)) {
            m->line[m->n++] = p[i];
            continue;
        }
        m->line[m->n] = 0;
        m->n = 0;
        fflush(stdout);
        if (strstr(m->line, "SAVE-ME") != NULL) {
            __atomic_store_n(&m->save, true, __ATOMIC_RELAXED);
            vmc_vm_pause(m->vm);
        }
    }
    return (int)bytes;
}

static const struct vmc_chardev_ops serial_ops = {.write = serial_write};

static void build(struct machine *m, const char *disk)
{
    static const struct vmc_soft_config soft = {.size = sizeof(soft), .flags = VMC_SOFT_TRANSLATE};
    struct vmc_vm_config vc = {.size = sizeof(vc),
                               .max_vcpus = CPUS,
                               .platform = &pf,
                               .engine = vmc_engine_soft(),
                               .engine_config = &soft};
    struct vmc_pc_config pc = {
        .size = sizeof(pc), .ram_bytes = RAM, .cpus = CPUS, .serial = {&serial_ops, m}};
    struct vmc_host_disk_config dc = {.size = sizeof(dc), .path = disk};
    struct vmc_error err = {0};
    struct vmc_virtio *dev;

    must("VM", vmc_vm_create(&vc, &m->vm, &err), &err);
    must("machine", vmc_pc_create(m->vm, &pc, &m->pc, &err), &err);
    must(disk, vmc_host_disk_open(&dc, &m->disk, &err), &err);
    struct vmc_virtio_config at = {
        .size = sizeof(at), .pci = vmc_pc_pci(m->pc), .slot = VMC_PCI_ANY_SLOT};
    struct vmc_virtio_blk_config bc = {.virtio = at, .disk = vmc_host_disk_blockdev(m->disk)};
    struct vmc_virtio_rng_config rc = {.virtio = at};
    must("disk", vmc_virtio_blk_create(vmc_vm_board(m->vm), &bc, &dev, &err), &err);
    must("entropy", vmc_virtio_rng_create(vmc_vm_board(m->vm), &rc, &dev, &err), &err);
    for (uint32_t i = 0; i < CPUS; i++)
        must("vCPU", vmc_vcpu_create(m->vm, i, &m->vcpu[i], &err), &err);
    must("start", vmc_vm_start(m->vm, &err), &err);
}

struct job {
    struct machine *m;
    struct vmc_vcpu *v;
};

static void *vcpu_main(void *arg)
{
    struct job *j = arg;
    struct vmc_run_limits lim = {.size = sizeof(lim), .flags = VMC_RUN_PARK | VMC_RUN_SELF_TIMED};
    struct vmc_exit x;

    do {
        must("run", vmc_vcpu_run(j->v, &lim, &x), NULL);
        if (x.kind == VMC_EXIT_SHUTDOWN)
            __atomic_store_n(&j->m->why, x.u.stop.why, __ATOMIC_RELAXED);
    } while (x.kind != VMC_EXIT_SHUTDOWN && !vmc_vm_paused(j->m->vm));
    return NULL;
}

/* Until the guest powers off or wants to be saved. */
static void run(struct machine *m)
{
    pthread_t thread[CPUS];
    struct job job[CPUS];

    for (uint32_t i = 0; i < CPUS; i++) {
        job[i] = (struct job){.m = m, .v = m->vcpu[i]};
        if (pthread_create(&thread[i], NULL, vcpu_main, &job[i]) != 0)
            abort();
    }
    for (uint32_t i = 0; i < CPUS; i++)
        pthread_join(thread[i], NULL);
}

/* No request is under way any more; then the disk is free for the other machine. */
static void quiesce(struct machine *m)
{
    int rc;

    while ((rc = vmc_board_quiesce(vmc_vm_board(m->vm))) == VMC_EAGAIN)
        usleep(1000);
    must("quiesce", rc, NULL);
    vmc_host_disk_close(m->disk);
    m->disk = NULL;
}

static void copy_memory(struct vmc_mem *from, struct vmc_mem *to)
{
    static char chunk[CHUNK];
    struct vmc_mem_slot s;

    for (unsigned i = 0; vmc_mem_slot_at(from, i, &s) == VMC_OK; i++)
        for (uint64_t at = 0; at < s.bytes; at += CHUNK) {
            size_t n = s.bytes - at < CHUNK ? (size_t)(s.bytes - at) : CHUNK;
            must("memory", vmc_mem_read(from, s.gpa + at, chunk, n), NULL);
            must("memory", vmc_mem_load(to, s.gpa + at, chunk, n), NULL);
        }
}

/* Both boards have the same devices in the same order. Returns how many have a state. */
static unsigned copy_devices(const struct vmc_board *from, const struct vmc_board *to)
{
    static char state[65536];
    struct vmc_error err = {0};
    unsigned count = 0;
    struct vmc_device *t = to->devices;

    for (struct vmc_device *d = from->devices; d != NULL; d = d->next, t = t->next) {
        if (t == NULL || strcmp(d->ops->name, t->ops->name) != 0)
            abort();
        if (d->ops->save == NULL)
            continue;
        size_t n = d->ops->save(d->dev, state, sizeof(state));
        if (n > sizeof(state))
            abort();
        must(d->ops->name, t->ops->load(t->dev, state, n, &err), &err);
        count++;
    }
    return count;
}

/* Returns what is to be freed once the image is loaded. */
static char *image(const char *path, struct vmc_image_src *src)
{
    FILE *f = fopen(path, "rb");

    if (f == NULL || fseek(f, 0, SEEK_END) != 0) {
        perror(path);
        exit(1);
    }
    size_t n = (size_t)ftell(f);
    char *data = malloc(n);
    rewind(f);
    if (data == NULL || fread(data, 1, n, f) != n)
        abort();
    fclose(f);
    vmc_image_src_memory(src, data, n);
    return data;
}

static void boot(struct machine *m, const char *kernel, const char *initrd, const char *cmdline)
{
    struct vmc_image_src k, r;
    struct vmc_pc_boot b = {.size = sizeof(b), .kernel = &k, .initrd = &r, .cmdline = cmdline};
    struct vmc_boot_result result;
    struct vmc_error err = {0};

    char *kernel_data = image(kernel, &k);
    char *initrd_data = image(initrd, &r);
    must("boot", vmc_pc_boot(m->pc, &b, &result, &err), &err);
    free(kernel_data);
    free(initrd_data);
}

static void destroy(struct machine *m)
{
    vmc_vm_destroy(m->vm);
    vmc_pc_destroy(m->pc);
    vmc_host_disk_close(m->disk);
}

int main(int argc, char **argv)
{
    static struct machine first, second;
    static struct vmc_x86_state st;
    struct vmc_error err = {0};

    if (argc != 5) {
        fprintf(stderr, "usage: save_vmm KERNEL INITRD DISK CMDLINE\n");
        return 2;
    }
    must("platform", vmc_host_platform_init(&pf, NULL, &err), &err);
    build(&first, argv[3]);
    boot(&first, argv[1], argv[2], argv[4]);
    run(&first);
    if (!first.save) {
        fprintf(stderr, "the guest ended (%u) before it was to be saved\n", first.why);
        return 1;
    }
    quiesce(&first);
    build(&second, argv[3]);
    copy_memory(vmc_vm_mem(first.vm), vmc_vm_mem(second.vm));
    unsigned devices = copy_devices(vmc_vm_board(first.vm), vmc_vm_board(second.vm));
    for (uint32_t i = 0; i < CPUS; i++) {
        must("state", vmc_vcpu_get_state(first.vcpu[i], VMC_ST_ALL, &st), NULL);
        must("state", vmc_vcpu_set_state(second.vcpu[i], VMC_ST_ALL, &st), NULL);
    }
    destroy(&first);
    printf("[%u devices restored]\n", devices);
    run(&second);
    bool off = second.why == VMC_STOP_POWER_OFF;
    destroy(&second);
    return off ? 0 : 1;
}
