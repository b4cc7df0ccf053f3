/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How fast a stock guest's virtio-balloon gives memory back: boots Linux, asks for a balloon, and
 * prints "ready", then for each line of standard input "inflate MIB" or "deflate" a line "done".
 * bench/memory/balloon measures from outside, as it does QEMU.
 * usage: bench_balloon KERNEL INITRD soft|kvm MIB
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "file_image.h"
#include <vmcore/host.h>
#include <vmcore/kvm.h>
#include <vmcore/pc.h>
#include <vmcore/virtio_balloon.h>

static struct vmc_platform pf;
static struct vmc_vm *vm;
static struct vmc_pc *pc;
static struct vmc_virtio *balloon;

static void must(int rc, const char *what, const struct vmc_error *err)
{
    if (rc == VMC_OK)
        return;
    fprintf(stderr, "bench_balloon: %s: %s\n", what, err->text);
    exit(1);
}

/* As QEMU does it. */
static void give_back(void *ctx, uint64_t gpa, uint64_t bytes)
{
    void *hva;
    uint64_t got;

    (void)ctx;
    while (bytes > 0 && vmc_mem_ref(vmc_vm_mem(vm), gpa, bytes, true, &hva, &got) == VMC_OK) {
        madvise(hva, got, MADV_DONTNEED);
        vmc_mem_unref(vmc_vm_mem(vm), gpa, got, true);
        gpa += got;
        bytes -= got;
    }
}

static int serial_write(void *ctx, const void *data, size_t n)
{
    (void)ctx;
    return (int)fwrite(data, 1, n, stderr);
}

static void create(bool kvm, uint64_t ram_bytes)
{
    static const struct vmc_balloon_ops ops = {.inflate = give_back};
    static const struct vmc_chardev_ops serial = {.write = serial_write};
    /* As vmcore runs it, and QEMU: hot code is translated. */
    static const struct vmc_soft_config soft = {.size = sizeof(soft), .flags = VMC_SOFT_TRANSLATE};
    const struct vmc_vm_config vc = {.size = sizeof(vc),
                                     .max_vcpus = 1,
                                     .platform = &pf,
                                     .engine = kvm ? vmc_engine_kvm() : vmc_engine_soft(),
                                     .engine_config = kvm ? NULL : &soft};
    const struct vmc_pc_config pcc = {
        .size = sizeof(pcc), .ram_bytes = ram_bytes, .cpus = 1, .serial = {.ops = &serial}};
    struct vmc_error err = {0};
    struct vmc_vcpu *vcpu;

    must(vmc_host_platform_init(&pf, NULL, &err), "platform", &err);
    must(vmc_vm_create(&vc, &vm, &err), "VM", &err);
    must(vmc_pc_create(vm, &pcc, &pc, &err), "machine", &err);
    const struct vmc_virtio_balloon_config bc = {
        .virtio = {.size = sizeof(bc.virtio), .pci = vmc_pc_pci(pc), .slot = VMC_PCI_ANY_SLOT},
        .ops = &ops};
    must(vmc_virtio_balloon_create(vmc_vm_board(vm), &bc, &balloon, &err), "balloon", &err);
    must(vmc_vcpu_create(vm, 0, &vcpu, &err), "vCPU", &err);
}

static uint64_t held(void)
{
    struct vmc_balloon_info i = {.size = sizeof(i)};
    vmc_virtio_balloon_info(balloon, &i);
    return i.held_pages;
}

static void *obey(void *arg)
{
    char line[64];

    (void)arg;
    while (!vmc_virtio_live(balloon))
        usleep(10000);
    sleep(3); /* until the guest is idle */
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin) != NULL) {
        unsigned long long mib = 0;
        (void)sscanf(line, "inflate %llu", &mib);
        vmc_virtio_balloon_set_target(balloon, mib << 8);
        while (held() != mib << 8)
            usleep(1000);
        puts("done");
        fflush(stdout);
    }
    exit(0);
}

int main(int argc, char **argv)
{
    static struct file_image images[2];
    struct vmc_boot_result done;
    struct vmc_error err = {0};
    struct vmc_exit x = {0};
    pthread_t t;

    if (argc != 5) {
        fprintf(stderr, "usage: bench_balloon KERNEL INITRD soft|kvm MIB\n");
        return 2;
    }
    create(strcmp(argv[3], "kvm") == 0, strtoull(argv[4], NULL, 10) << 20);
    file_image_open(&images[0], argv[1]);
    file_image_open(&images[1], argv[2]);
    const struct vmc_pc_boot b = {.size = sizeof(b),
                                  .kind = VMC_BOOT_AUTO,
                                  .kernel = &images[0].src,
                                  .initrd = &images[1].src,
                                  .cmdline = "console=ttyS0 quiet panic=-1 run=sleep+3000"};
    must(vmc_pc_boot(pc, &b, &done, &err), "boot", &err);
    must(vmc_vm_start(vm, &err), "start", &err);
    if (pthread_create(&t, NULL, obey, NULL) != 0)
        return 1;
    while (x.kind != VMC_EXIT_SHUTDOWN) {
        struct vmc_run_limits lim = {.size = sizeof(lim),
                                     .flags = VMC_RUN_PARK | VMC_RUN_SELF_TIMED};
        if (vmc_vcpu_run(vmc_vm_vcpu(vm, 0), &lim, &x) < 0)
            return 1;
    }
    return 1;
}
