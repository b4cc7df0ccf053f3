/* SPDX-License-Identifier: BSD-2-Clause */
#include "virtio_driver.h"

#include <stdlib.h>
#include <string.h>

#define REQUIRE(cond)                                                                              \
    do {                                                                                           \
        if (!(cond))                                                                               \
            abort();                                                                               \
    } while (0)

/* ---- the board ----------------------------------------------------------------------------- */

static void msi_send(void *ctx, uint64_t addr, uint32_t data)
{
    struct vd_board *b = ctx;

    if (addr == VD_MSI_ADDR && data < VD_VECTORS)
        __atomic_add_fetch(&b->msi[data], 1, __ATOMIC_SEQ_CST);
}

static void set_pin(void *ctx, uint32_t pin, bool level)
{
    struct vd_board *b = ctx;

    __atomic_store_n(&b->pin[pin & 3], level, __ATOMIC_SEQ_CST);
}

static void add_slot(struct vd_board *b, uint64_t gpa, uint64_t bytes, uint32_t attr, void *backing)
{
    struct vmc_mem_slot s = {
        .size = sizeof(s), .attr = attr, .gpa = gpa, .bytes = bytes, .backing = backing};

    REQUIRE(vmc_mem_add(b->bd.mem, &s, NULL) == VMC_OK);
}

void vd_board_init(struct vd_board *b, bool threads)
{
    memset(b, 0, sizeof(*b));
    if (threads)
        test_platform_init_threads(&b->tp);
    else
        test_platform_init(&b->tp);
    const struct vmc_platform *pf = &b->tp.pf;
    b->bd.platform = pf;
    REQUIRE(vmc_mem_create(pf, &b->bd.mem, NULL) == VMC_OK);
    REQUIRE(posix_memalign((void **)&b->ram, 4096, VD_RAM_BYTES) == 0);
    REQUIRE(posix_memalign((void **)&b->ram2, 4096, VD_RAM2_BYTES) == 0);
    memset(b->ram, 0, VD_RAM_BYTES);
    memset(b->ram2, 0, VD_RAM2_BYTES);
    add_slot(b, 0, VD_RAM_BYTES, VMC_MEM_RAM, b->ram);
    add_slot(b, VD_RAM_BYTES, VD_RAM2_BYTES, VMC_MEM_RAM, b->ram2);
    add_slot(b, VD_ROM, 65536, VMC_MEM_ROM, NULL);
    REQUIRE(vmc_bus_create(pf, "pio", 0x10000, &b->bd.pio) == VMC_OK);
    REQUIRE(vmc_bus_create(pf, "mmio", 1ull << 46, &b->bd.mmio) == VMC_OK);
    REQUIRE(vmc_timerq_create(pf, &b->bd.timers) == VMC_OK);
    b->bd.msi = (struct vmc_msi_sink){.send = msi_send, .ctx = b};
    struct vmc_pci_bus_config pc = {.size = sizeof(pc)};
    for (uint32_t i = 0; i < 4; i++)
        pc.intx[i] = (struct vmc_irq_line){.set = set_pin, .ctx = b, .pin = i};
    REQUIRE(vmc_pci_bus_create(&b->bd, &pc, &b->pci, NULL) == VMC_OK);
}

void vd_board_fini(struct vd_board *b)
{
    vmc_board_destroy_devices(&b->bd); /* the PCI bus is one of them */
    vmc_timerq_destroy(b->bd.timers);
    vmc_bus_destroy(b->bd.mmio);
    vmc_bus_destroy(b->bd.pio);
    vmc_mem_destroy(b->bd.mem);
    free(b->ram);
    free(b->ram2);
}

void *vd_ptr(struct vd_board *b, uint64_t gpa)
{
    if (gpa < VD_RAM_BYTES)
        return b->ram + gpa;
    if (gpa < VD_RAM_END)
        return b->ram2 + (gpa - VD_RAM_BYTES);
    return NULL;
}

/* ---- registers ----------------------------------------------------------------------------- */

uint64_t vd_read(struct vd *v, uint64_t gpa, unsigned bytes)
{
    uint64_t value = UINT64_MAX;

    (void)vmc_bus_read(v->b->bd.mmio, gpa, bytes, &value);
    return value;
}

void vd_write(struct vd *v, uint64_t gpa, unsigned bytes, uint64_t value)
{
    (void)vmc_bus_write(v->b->bd.mmio, gpa, bytes, value);
}

static uint32_t cfg(struct vd *v, uint16_t offset, unsigned bytes)
{
    return vmc_pci_config_read(v->b->pci, v->devfn, offset, bytes);
}

static void note_cap(struct vd *v, uint8_t cap, uint64_t bar)
{
    uint64_t at = bar + cfg(v, (uint16_t)(cap + 8), 4);

    switch (cfg(v, (uint16_t)(cap + 3), 1)) {
    case 1:
        v->common = at;
        break;
    case 2:
        v->notify = at;
        v->notify_multiplier = cfg(v, (uint16_t)(cap + 16), 4);
        break;
    case 3:
        v->isr = at;
        break;
    case 4:
        v->config = at;
        break;
    case 5:
        v->cfg_cap = cap;
        break;
    default:
        break;
    }
}

static void enable_msix(struct vd *v, uint8_t cap, uint64_t bar)
{
    uint32_t control = cfg(v, (uint16_t)(cap + 2), 2);
    uint64_t table = bar + (cfg(v, (uint16_t)(cap + 4), 4) & ~7u);

    for (unsigned i = 0; i <= (control & 0x7ff); i++) {
        vd_write(v, table + i * 16, 4, VD_MSI_ADDR);
        vd_write(v, table + i * 16 + 4, 4, 0);
        vd_write(v, table + i * 16 + 8, 4, i);
        vd_write(v, table + i * 16 + 12, 4, 0);
    }
    vmc_pci_config_write(v->b->pci, v->devfn, (uint16_t)(cap + 2), 2, control | 0x8000);
}

bool vd_probe(struct vd *v, struct vd_board *b, struct vmc_virtio *dev, bool msix)
{
    memset(v, 0, sizeof(*v));
    v->b = b;
    v->dev = dev;
    v->devfn = vmc_pci_func_devfn(vmc_virtio_pci_func(dev));
    uint64_t bar = VD_BAR + v->devfn * 0x100000ull;
    if (cfg(v, VMC_PCI_VENDOR_ID, 2) != 0x1af4)
        return false;
    vmc_pci_config_write(b->pci, v->devfn, VMC_PCI_BAR0, 4, (uint32_t)bar);
    vmc_pci_config_write(b->pci, v->devfn, VMC_PCI_BAR0 + 4, 4, 0);
    vmc_pci_config_write(b->pci, v->devfn, VMC_PCI_COMMAND, 2,
                         VMC_PCI_COMMAND_MEMORY | VMC_PCI_COMMAND_MASTER);
    for (uint8_t cap = (uint8_t)cfg(v, VMC_PCI_CAP_PTR, 1); cap != 0;
         cap = (uint8_t)cfg(v, (uint16_t)(cap + 1), 1)) {
        uint8_t id = (uint8_t)cfg(v, cap, 1);
        if (id == VMC_PCI_CAP_ID_VENDOR)
            note_cap(v, cap, bar);
        else if (id == VMC_PCI_CAP_ID_MSIX && msix)
            enable_msix(v, cap, bar);
    }
    return v->common != 0 && v->notify != 0 && v->isr != 0 && v->cfg_cap != 0;
}

uint8_t vd_status(struct vd *v)
{
    return (uint8_t)vd_read(v, v->common + 20, 1);
}

void vd_reset(struct vd *v)
{
    vd_write(v, v->common + 20, 1, 0);
}

uint64_t vd_offered(struct vd *v)
{
    vd_write(v, v->common, 4, 0);
    uint64_t f = vd_read(v, v->common + 4, 4);
    vd_write(v, v->common, 4, 1);
    return f | vd_read(v, v->common + 4, 4) << 32;
}

bool vd_negotiate(struct vd *v, uint64_t want)
{
    vd_reset(v);
    if (vd_status(v) != 0)
        return false;
    vd_write(v, v->common + 20, 1, 1);
    vd_write(v, v->common + 20, 1, 3);
    v->features = want & vd_offered(v);
    vd_write(v, v->common + 8, 4, 0);
    vd_write(v, v->common + 12, 4, (uint32_t)v->features);
    vd_write(v, v->common + 8, 4, 1);
    vd_write(v, v->common + 12, 4, v->features >> 32);
    vd_write(v, v->common + 20, 1, 0xb);
    vd_write(v, v->common + 16, 2, 0);
    return (vd_status(v) & 8) != 0;
}

/* Memory that a device or another thread may be looking at. */
static void clear_shared(struct vd *v, uint64_t gpa, size_t bytes)
{
    unsigned char *p = vd_ptr(v->b, gpa);

    for (size_t i = 0; i < bytes; i += 2)
        __atomic_store_n((uint16_t *)(void *)(p + i), 0, __ATOMIC_RELAXED);
}

void vd_queue_setup(struct vd *v, unsigned i, unsigned size)
{
    struct vd_queue *q = &v->q[i];
    uint64_t base = VD_RINGS + (uint64_t)i * VD_RING_STEP;

    memset(q, 0, sizeof(*q));
    vd_write(v, v->common + 22, 2, i);
    if (size != 0)
        vd_write(v, v->common + 24, 2, size);
    q->index = i;
    q->size = (unsigned)vd_read(v, v->common + 24, 2);
    q->desc = base;
    q->driver = base + 0x8000;
    q->device = base + 0x10000;
    q->avail_wrap = q->used_wrap = true;
    const uint64_t area[3] = {q->desc, q->driver, q->device};
    clear_shared(v, q->desc, 16 * q->size);
    clear_shared(v, q->driver, 6 + 2 * q->size);
    clear_shared(v, q->device, 6 + 8 * q->size);
    for (unsigned a = 0; a < 3; a++) {
        vd_write(v, v->common + 32 + 8 * a, 4, (uint32_t)area[a]);
        vd_write(v, v->common + 36 + 8 * a, 4, area[a] >> 32);
    }
    vd_write(v, v->common + 26, 2, i + 1);
    vd_write(v, v->common + 28, 2, 1);
}

void vd_driver_ok(struct vd *v)
{
    vd_write(v, v->common + 20, 1, 0xf);
}

bool vd_start(struct vd *v, uint64_t want, unsigned queues)
{
    if (!vd_negotiate(v, want | VD_F_VERSION_1))
        return false;
    for (unsigned i = 0; i < queues; i++)
        vd_queue_setup(v, i, 0);
    vd_driver_ok(v);
    return true;
}

/* ---- rings --------------------------------------------------------------------------------- */

static void put16(struct vd *v, uint64_t gpa, uint16_t x)
{
    __atomic_store_n((uint16_t *)vd_ptr(v->b, gpa), x, __ATOMIC_SEQ_CST);
}

static uint16_t get16(struct vd *v, uint64_t gpa)
{
    return __atomic_load_n((uint16_t *)vd_ptr(v->b, gpa), __ATOMIC_SEQ_CST);
}

static uint32_t get32(struct vd *v, uint64_t gpa)
{
    return __atomic_load_n((uint32_t *)vd_ptr(v->b, gpa), __ATOMIC_SEQ_CST);
}

static void put_desc(struct vd *v, uint64_t at, uint64_t addr, uint32_t len, uint16_t flags,
                     uint16_t next)
{
    uint64_t *w = vd_ptr(v->b, at);

    __atomic_store_n(&w[0], addr, __ATOMIC_RELAXED);
    __atomic_store_n(&w[1], (uint64_t)len | (uint64_t)flags << 32 | (uint64_t)next << 48,
                     __ATOMIC_RELEASE);
}

void vd_raw_desc(struct vd *v, unsigned queue, unsigned i, uint64_t addr, uint32_t len,
                 uint16_t flags, uint16_t next)
{
    put_desc(v, v->q[queue].desc + (uint64_t)i * 16, addr, len, flags, next);
}

void vd_raw_avail_idx(struct vd *v, unsigned queue, uint16_t idx)
{
    v->q[queue].avail_idx = idx;
    put16(v, v->q[queue].driver + 2, idx);
}

void vd_raw_avail(struct vd *v, unsigned queue, uint16_t head)
{
    struct vd_queue *q = &v->q[queue];

    put16(v, q->driver + 4 + 2 * (q->avail_idx % q->size), head);
    vd_raw_avail_idx(v, queue, (uint16_t)(q->avail_idx + 1));
}

/* Entries of a packed table carry the flags behind the ID, and no NEXT. */
static void put_table(struct vd *v, uint64_t at, const struct vd_buf *buf, unsigned n)
{
    bool packed = (v->features & VD_F_PACKED) != 0;

    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = buf[i].write ? VD_WRITE : 0;
        if (packed)
            put_desc(v, at + i * 16, buf[i].gpa, buf[i].len, 0, flags);
        else
            put_desc(v, at + i * 16, buf[i].gpa, buf[i].len,
                     (uint16_t)(flags | (i + 1 < n ? VD_NEXT : 0)), (uint16_t)(i + 1));
    }
}

static unsigned add_split(struct vd *v, struct vd_queue *q, const struct vd_buf *buf, unsigned n,
                          uint64_t indirect)
{
    unsigned head = q->next_desc;
    unsigned used = indirect != 0 ? 1 : n;

    if (indirect != 0) {
        put_table(v, indirect, buf, n);
        vd_raw_desc(v, q->index, head, indirect, n * 16, VD_INDIRECT, 0);
    }
    for (unsigned i = 0; i < n && indirect == 0; i++)
        vd_raw_desc(v, q->index, (head + i) % q->size, buf[i].gpa, buf[i].len,
                    (uint16_t)((buf[i].write ? VD_WRITE : 0) | (i + 1 < n ? VD_NEXT : 0)),
                    (uint16_t)((head + i + 1) % q->size));
    q->next_desc = (uint16_t)((head + used) % q->size);
    vd_raw_avail(v, q->index, (uint16_t)head);
    return head;
}

static unsigned add_packed(struct vd *v, struct vd_queue *q, const struct vd_buf *buf, unsigned n,
                           uint64_t indirect)
{
    unsigned head = q->avail_idx;
    unsigned used = indirect != 0 ? 1 : n;
    uint16_t head_flags = 0;

    if (indirect != 0)
        put_table(v, indirect, buf, n);
    for (unsigned i = 0; i < used; i++) {
        uint16_t flags = q->avail_wrap ? 0x0080 : 0x8000;
        uint64_t at = q->desc + (uint64_t)q->avail_idx * 16;
        if (indirect != 0)
            flags |= VD_INDIRECT;
        else
            flags |= (uint16_t)((buf[i].write ? VD_WRITE : 0) | (i + 1 < n ? VD_NEXT : 0));
        uint64_t *w = vd_ptr(v->b, at);
        __atomic_store_n(&w[0], indirect != 0 ? indirect : buf[i].gpa, __ATOMIC_RELAXED);
        __atomic_store_n((uint32_t *)(w + 1), indirect != 0 ? n * 16 : buf[i].len,
                         __ATOMIC_RELAXED);
        put16(v, at + 12, (uint16_t)head);
        if (i == 0)
            head_flags = flags;
        else
            put16(v, at + 14, flags);
        if (++q->avail_idx == q->size) {
            q->avail_idx = 0;
            q->avail_wrap = !q->avail_wrap;
        }
    }
    q->slots[head] = (uint16_t)used;
    put16(v, q->desc + (uint64_t)head * 16 + 14, head_flags);
    return head;
}

unsigned vd_add(struct vd *v, unsigned queue, const struct vd_buf *buf, unsigned n,
                uint64_t indirect)
{
    struct vd_queue *q = &v->q[queue];

    return (v->features & VD_F_PACKED) != 0 ? add_packed(v, q, buf, n, indirect)
                                            : add_split(v, q, buf, n, indirect);
}

void vd_kick(struct vd *v, unsigned queue)
{
    v->q[queue].old_idx = v->q[queue].avail_idx;
    vd_write(v, v->notify + queue * v->notify_multiplier, 2, queue);
}

bool vd_wants_kick(struct vd *v, unsigned queue)
{
    struct vd_queue *q = &v->q[queue];

    if ((v->features & VD_F_PACKED) != 0) {
        uint16_t flags = get16(v, q->device + 2) & 3;
        if (flags != 2)
            return flags == 0;
        uint16_t word = get16(v, q->device);
        uint16_t event = word & 0x7fff;
        if ((word >> 15) != q->avail_wrap)
            event = (uint16_t)(event - q->size);
        uint16_t since = (uint16_t)(q->avail_idx - q->old_idx);
        if (since > q->size)
            since = (uint16_t)(since + q->size);
        return (uint16_t)(q->avail_idx - event - 1) < since;
    }
    if ((v->features & VD_F_EVENT_IDX) == 0)
        return (get16(v, q->device) & 1) == 0;
    uint16_t event = get16(v, q->device + 4 + 8 * q->size);
    return (uint16_t)(q->avail_idx - event - 1) < (uint16_t)(q->avail_idx - q->old_idx);
}

bool vd_pop(struct vd *v, unsigned queue, unsigned *id, uint32_t *len)
{
    struct vd_queue *q = &v->q[queue];

    if ((v->features & VD_F_PACKED) != 0) {
        uint64_t at = q->desc + (uint64_t)q->used_idx * 16;
        uint16_t flags = get16(v, at + 14);
        bool avail = (flags & 0x0080) != 0;
        bool used = (flags & 0x8000) != 0;
        if (avail != q->used_wrap || used != q->used_wrap)
            return false;
        *id = get16(v, at + 12);
        *len = get32(v, at + 8);
        unsigned to = q->used_idx + q->slots[*id % 1024];
        if (to >= q->size) {
            to -= q->size;
            q->used_wrap = !q->used_wrap;
        }
        q->used_idx = (uint16_t)to;
        return true;
    }
    if (get16(v, q->device + 2) == q->used_idx)
        return false;
    uint64_t at = q->device + 4 + 8 * (uint64_t)(q->used_idx % q->size);
    *id = get32(v, at);
    *len = get32(v, at + 4);
    q->used_idx++;
    return true;
}

void vd_irq_after(struct vd *v, unsigned queue, uint16_t i)
{
    struct vd_queue *q = &v->q[queue];

    if ((v->features & VD_F_PACKED) != 0) {
        put16(v, q->driver, i);
        put16(v, q->driver + 2, 2);
    } else {
        put16(v, q->driver + 4 + 2 * q->size, i);
    }
}

void vd_irq_off(struct vd *v, unsigned queue)
{
    put16(v, v->q[queue].driver + ((v->features & VD_F_PACKED) != 0 ? 2 : 0), 1);
}
