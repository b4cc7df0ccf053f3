/* SPDX-License-Identifier: BSD-2-Clause */
/* The GDB stub: any bytes from the debugger, against a small VM of the software engine. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <vmcore/gdb.h>
#include <vmcore/host.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ignore(void *ctx, const void *data, size_t bytes)
{
    (void)ctx;
    (void)data;
    (void)bytes;
}

static struct vmc_platform pf;
static struct vmc_vm *vm;

static void destroy_vm(void)
{
    vmc_vm_destroy(vm);
}

static int make_vm(void)
{
    struct vmc_vm_config cfg = {.size = sizeof(cfg),
                                .max_vcpus = 1,
                                .platform = &pf,
                                .engine = vmc_engine_soft(),
                                .flags = VMC_VM_NO_IRQCHIP};
    struct vmc_mem_slot ram = {.size = sizeof(ram), .attr = VMC_MEM_RAM, .bytes = 0x10000};
    struct vmc_vcpu *v;

    int rc = vmc_host_platform_init(&pf, NULL, NULL);
    if (rc == VMC_OK)
        rc = vmc_vm_create(&cfg, &vm, NULL);
    if (rc == VMC_OK)
        rc = vmc_mem_add(vmc_vm_mem(vm), &ram, NULL);
    if (rc == VMC_OK)
        rc = vmc_vcpu_create(vm, 0, &v, NULL);
    return rc == VMC_OK ? vmc_vm_start(vm, NULL) : rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vmc_gdb *g;

    if (vm == NULL && (make_vm() != VMC_OK || atexit(destroy_vm) != 0))
        __builtin_trap();
    struct vmc_gdb_config cfg = {.size = sizeof(cfg), .vcpus = 1, .vm = vm, .send = ignore};
    if (vmc_gdb_create(&pf, &cfg, &g, NULL) != VMC_OK)
        return 0;
    vmc_gdb_connected(g);
    for (size_t at = 0; at < size;) {
        size_t used = 0;
        enum vmc_gdb_action a = vmc_gdb_input(g, data + at, size - at, &used);
        at += used;
        if (a == VMC_GDB_CONTINUE || a == VMC_GDB_STEP || a == VMC_GDB_INTERRUPT)
            vmc_gdb_stopped(g, 0, NULL);
    }
    vmc_gdb_destroy(g);
    return 0;
}
