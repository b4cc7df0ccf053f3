/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What kernels that test a machine expect of it besides the exit port, as QEMU's pc-testdev has it:
 * a register that reads back what was written, one port an interrupt wire, memory behind a device.
 *
 * Threats (guest input: any value of any width)
 *   accesses beyond the buffer   the bus keeps them in the range    test_device_memory
 *   wires held up for ever       as any device can                  test_device_wires
 */
#include "base/snapshot.h"
#include "dev_priv.h"

#define ECHO_PORT  0xe0u /* four bytes; behind them four that take writes and do nothing */
#define ECHO_PORTS 8u
#define ECHO_BYTES 4u
#define WIRE_PORT  0x2000u
#define MEM_GPA    0xff000000u
#define MEM_BYTES  0x10000u

struct test_state {
    uint32_t echo;
    uint32_t wires; /* levels */
    uint8_t mem[MEM_BYTES];
};

struct vmc_test_device {
    struct dev_base base;
    struct vmc_irq_line gsi[VMC_TEST_WIRES];
    struct test_state st;
};

/* ---- register ------------------------------------------------------------------------------ */

static uint8_t echo_read8(void *dev, uint64_t offset)
{
    struct vmc_test_device *t = dev;

    if (offset >= ECHO_BYTES)
        return 0;
    vmci_lock(&t->base.lock);
    uint8_t v = (uint8_t)(t->st.echo >> (8 * offset));
    vmci_unlock(&t->base.lock);
    return v;
}

static void echo_write8(void *dev, uint64_t offset, uint8_t v)
{
    struct vmc_test_device *t = dev;

    if (offset >= ECHO_BYTES)
        return;
    vmci_lock(&t->base.lock);
    t->st.echo = (t->st.echo & ~(0xffu << (8 * offset))) | (uint32_t)v << (8 * offset);
    vmci_unlock(&t->base.lock);
}

DEV_BYTE_OPS(echo);

/* ---- interrupt wires ----------------------------------------------------------------------- */

static uint64_t wire_read(void *dev, uint64_t offset, unsigned bytes)
{
    struct vmc_test_device *t = dev;

    (void)bytes;
    vmci_lock(&t->base.lock);
    uint64_t v = t->st.wires >> offset & 1;
    vmci_unlock(&t->base.lock);
    return v;
}

static void wire_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    struct vmc_test_device *t = dev;
    uint32_t bit = 1u << offset;

    (void)bytes;
    vmci_lock(&t->base.lock);
    t->st.wires = value != 0 ? t->st.wires | bit : t->st.wires & ~bit;
    vmc_irq_set(&t->gsi[offset], value != 0);
    vmci_unlock(&t->base.lock);
}

static const struct vmc_bus_ops wire_ops = {.read = wire_read, .write = wire_write};

/* ---- memory -------------------------------------------------------------------------------- */

static uint8_t mem_read8(void *dev, uint64_t offset)
{
    return vmci_load_relaxed(&((struct vmc_test_device *)dev)->st.mem[offset]);
}

static void mem_write8(void *dev, uint64_t offset, uint8_t v)
{
    vmci_store_relaxed(&((struct vmc_test_device *)dev)->st.mem[offset], v);
}

DEV_BYTE_OPS(mem);

/* ---- life ---------------------------------------------------------------------------------- */

static void test_reset(void *dev)
{
    struct vmc_test_device *t = dev;

    vmci_lock(&t->base.lock);
    for (unsigned i = 0; i < VMC_TEST_WIRES; i++)
        if ((t->st.wires >> i & 1) != 0)
            vmc_irq_set(&t->gsi[i], false);
    memset(&t->st, 0, sizeof(t->st));
    vmci_unlock(&t->base.lock);
}

static size_t test_save(void *dev, void *dst, size_t bytes)
{
    struct vmc_test_device *t = dev;

    vmci_lock(&t->base.lock);
    size_t n = vmci_dev_save(&t->base, 1, &t->st, sizeof(t->st), dst, bytes);
    vmci_unlock(&t->base.lock);
    return n;
}

/* The wires' levels are part of the interrupt controllers' state. */
static int test_load(void *dev, const void *src, size_t bytes, struct vmc_error *err)
{
    struct vmc_test_device *t = dev;
    uint64_t shift;
    struct test_state *st = vmci_zalloc(t->base.bd->platform, sizeof(*st));

    if (st == NULL)
        return vmci_error(err, VMC_ENOMEM, "test-device/load", "no memory");
    int rc = vmci_dev_load(&t->base, 1, src, bytes, st, sizeof(*st), &shift, err);
    vmci_lock(&t->base.lock);
    if (rc == VMC_OK)
        memcpy(&t->st, st, sizeof(t->st));
    t->st.wires &= (1u << VMC_TEST_WIRES) - 1;
    vmci_unlock(&t->base.lock);
    vmci_free(t->base.bd->platform, st, sizeof(*st));
    return rc;
}

static const struct {
    uint64_t base, bytes;
    const struct vmc_bus_ops *ops;
    bool mmio;
} ranges[] = {
    {ECHO_PORT, ECHO_PORTS, &echo_ops, false},
    {WIRE_PORT, VMC_TEST_WIRES, &wire_ops, false},
    {MEM_GPA, MEM_BYTES, &mem_ops, true},
};

static struct vmc_bus *bus_of(struct vmc_board *bd, size_t i)
{
    return ranges[i].mmio ? bd->mmio : bd->pio;
}

static void detach(struct vmc_test_device *t, size_t n)
{
    while (n-- > 0)
        vmci_dev_detach(&t->base, bus_of(t->base.bd, n), ranges[n].base);
}

static void test_destroy(void *dev)
{
    struct vmc_test_device *t = dev;

    detach(t, VMCI_ARRAY_SIZE(ranges));
    vmci_dev_free(&t->base);
}

static const struct vmc_device_ops test_device_ops = {.name = "test-device",
                                                      .reset = test_reset,
                                                      .destroy = test_destroy,
                                                      .save = VMCI_SNAPSHOT(test_save),
                                                      .load = VMCI_SNAPSHOT(test_load)};

int vmc_test_device_create(struct vmc_board *bd, const struct vmc_irq_line gsi[VMC_TEST_WIRES],
                           struct vmc_test_device **out, struct vmc_error *err)
{
    struct vmc_test_device *t = vmci_dev_alloc(bd, sizeof(*t), &test_device_ops, err);

    if (t == NULL)
        return VMC_ENOMEM;
    memcpy(t->gsi, gsi, sizeof(t->gsi));
    for (size_t i = 0; i < VMCI_ARRAY_SIZE(ranges); i++) {
        int rc =
            vmc_bus_attach(bus_of(bd, i), ranges[i].base, ranges[i].bytes, ranges[i].ops, t, err);
        if (rc != VMC_OK) {
            detach(t, i);
            vmci_dev_free(&t->base);
            return rc;
        }
    }
    vmci_dev_publish(&t->base);
    *out = t;
    return VMC_OK;
}
