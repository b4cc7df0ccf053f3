/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the fuzzers of virtio devices share: the input is a program for a driver that is half honest.
 * Byte 0: ring features. Then operations, a byte each with their operands; see step().
 */
#ifndef VIRTIO_FUZZ_H
#define VIRTIO_FUZZ_H

#define VD_RAM_BYTES (5u << 20)

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem_disk.c"
#include "virtio_driver.c"

#define FUZZ_STEPS 400

struct fuzz_in {
    const uint8_t *p;
    size_t left;
};

/* What a device adds. */
struct fuzz_device {
    struct vmc_virtio *(*create)(struct vd_board *b);
    unsigned queues;
    uint64_t features; /* the device's own, all wanted */
    /* Something happens outside. */
    void (*event)(struct vd *v, struct fuzz_in *in);
    void (*drain)(void); /* finish what is in flight */
    void (*end)(void);   /* the device is gone */
};

static inline uint8_t in8(struct fuzz_in *in)
{
    if (in->left == 0)
        return 0;
    in->left--;
    return *in->p++;
}

static inline uint64_t in_bytes(struct fuzz_in *in, unsigned n)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < n; i++)
        v |= (uint64_t)in8(in) << (8 * i);
    return v;
}

/* ---- a platform without cmocka ------------------------------------------------------------- */

static void *fz_alloc(void *ctx, size_t bytes, size_t align)
{
    void *p = NULL;
    (void)ctx;
    return posix_memalign(&p, align < 16 ? 16 : align, bytes != 0 ? bytes : 1) == 0 ? p : NULL;
}

static void fz_free(void *ctx, void *p, size_t bytes, size_t align)
{
    (void)ctx;
    (void)bytes;
    (void)align;
    free(p);
}

static uint64_t fz_now(void *ctx)
{
    return ((struct test_platform *)ctx)->now_ns;
}

static void fz_bug(void *ctx, const char *file, int line, const char *text)
{
    (void)ctx;
    fprintf(stderr, "%s:%d: %s\n", file, line, text);
    abort();
}

static int fz_entropy(void *ctx, void *dst, size_t bytes)
{
    (void)ctx;
    memset(dst, 0x5a, bytes);
    return VMC_OK;
}

void test_platform_init(struct test_platform *tp)
{
    static const struct vmc_entropy_ops entropy = {.fill = fz_entropy};

    memset(tp, 0, sizeof(*tp));
    tp->now_ns = 1;
    tp->pf = (struct vmc_platform){
        .size = sizeof(tp->pf),
        .ctx = tp,
        .alloc = fz_alloc,
        .free = fz_free,
        .now_ns = fz_now,
        .bug = fz_bug,
        .entropy = &entropy,
    };
}

void test_platform_init_threads(struct test_platform *tp)
{
    test_platform_init(tp);
}

/* ---- operations ---------------------------------------------------------------------------- */

/* Mostly memory that means something: rings, buffers, the ends of RAM; sometimes anything. */
static inline uint64_t fz_gpa(struct fuzz_in *in)
{
    uint8_t how = in8(in);

    switch (how & 7) {
    case 0:
        return in_bytes(in, 8);
    case 1:
        return VD_RAM_BYTES - 64 + in8(in);
    case 2:
        return VD_RAM_END - 64 + in8(in);
    case 3:
        return VD_RINGS + in_bytes(in, 3) % (4 * VD_RING_STEP);
    default:
        return VD_HEAP + in_bytes(in, 2);
    }
}

static inline void fz_poke(struct vd *v, struct fuzz_in *in)
{
    uint64_t gpa = fz_gpa(in);
    unsigned n = 1 + in8(in) % 64;

    for (unsigned i = 0; i < n; i++) {
        uint8_t byte = in8(in);
        if (gpa + i < VD_RAM_END) {
            unsigned char *p = vd_ptr(v->b, gpa + i);
            *p = byte;
        }
    }
}

static inline void fz_add(struct vd *v, struct fuzz_in *in, unsigned queues)
{
    struct vd_buf buf[6];
    unsigned q = in8(in) % queues;
    uint8_t how = in8(in);
    unsigned n = 1 + how % 6;

    if (v->q[q].size == 0 || n >= v->q[q].size)
        return;
    for (unsigned i = 0; i < n; i++) {
        uint8_t len = in8(in);
        buf[i] = (struct vd_buf){fz_gpa(in), (len & 0x80) != 0 ? (len & 0x7fu) * 512u : len,
                                 (in8(in) & 1) != 0};
    }
    for (unsigned i = 1; i < n && (how & 0x40) == 0; i++) /* mostly in the right order */
        buf[i].write |= buf[i - 1].write;
    (void)vd_add(v, q, buf, n, (how & 0x80) != 0 ? VD_HEAP + 0xf000 : 0);
    vd_kick(v, q);
}

static inline void fz_drain(struct vd *v, unsigned queues)
{
    unsigned id;
    uint32_t len;

    for (unsigned q = 0; q < queues; q++)
        for (unsigned i = 0; i < 64 && v->q[q].size != 0 && vd_pop(v, q, &id, &len); i++)
            ;
}

static bool fz_state_forged; /* a changed state was loaded: what the device did before is void */

static inline void fz_save_load(struct vd *v, struct fuzz_in *in)
{
    static unsigned char state[1 << 16];
    struct vmc_device *d = v->b->bd.devices;

    while (d->next != NULL)
        d = d->next;
    if (vmc_board_quiesce(&v->b->bd) == VMC_OK) {
        size_t n = d->ops->save(d->dev, state, sizeof(state));
        unsigned changes = in8(in) % 8;
        for (unsigned i = 0; i < changes && n <= sizeof(state); i++)
            state[in_bytes(in, 2) % n] = in8(in);
        if (n <= sizeof(state) && d->ops->load(d->dev, state, n, NULL) == VMC_OK && changes != 0)
            fz_state_forged = true;
    }
    vmc_board_resume(&v->b->bd);
}

static inline void fz_step(struct vd *v, struct fuzz_in *in, const struct fuzz_device *dev)
{
    uint64_t bar = v->common;
    uint16_t at;

    switch (in8(in) % 12) {
    case 0:
        at = (uint16_t)(in_bytes(in, 2) % 0x6000);
        vd_write(v, bar + at, 1u << (in8(in) & 3), in_bytes(in, 8));
        break;
    case 1:
        (void)vd_read(v, bar + in_bytes(in, 2) % 0x8000, 1u << (in8(in) & 3));
        break;
    case 2: /* common configuration, where it counts */
        at = (uint16_t)(in8(in) % 60);
        vd_write(v, bar + at, 1u << (in8(in) & 3), in_bytes(in, 4));
        break;
    case 3:
        vd_write(v, v->config + in8(in) % 64, 1u << (in8(in) & 3), in_bytes(in, 4));
        break;
    case 4:
        vmc_pci_config_write(v->b->pci, v->devfn, in8(in), 1u << (in8(in) % 3),
                             (uint32_t)in_bytes(in, 4));
        break;
    case 5:
        vd_kick(v, in8(in) % dev->queues);
        break;
    case 6:
    case 7:
        fz_poke(v, in);
        break;
    case 8:
    case 9:
        fz_add(v, in, dev->queues);
        break;
    case 10:
        if (dev->event != NULL)
            dev->event(v, in);
        fz_drain(v, dev->queues);
        break;
    default:
        if ((in8(in) & 1) != 0)
            (void)vd_start(v, dev->features | in_bytes(in, 5), dev->queues);
        else
            fz_save_load(v, in);
        break;
    }
}

/* One board for all inputs; what they mostly write to is cleared. */
static inline struct vd_board *fuzz_board(void)
{
    static struct vd_board b;

    if (b.ram == NULL)
        vd_board_init(&b, false);
    memset(b.ram + VD_HEAP, 0, 0x20000);
    memset(b.ram + VD_RAM_BYTES - 4096, 0, 4096);
    memset(b.ram2, 0, 4096);
    return &b;
}

/* Destroy the device of this input. */
static inline void fuzz_end(struct vd_board *b)
{
    struct vmc_device *d = b->bd.devices;

    b->tp.now_ns += 1000000;
    vmc_timerq_advance(b->bd.timers, b->tp.now_ns);
    while (d->next != NULL)
        d = d->next;
    vmc_board_remove(&b->bd, d);
    d->ops->destroy(d->dev);
}

static inline int fuzz_virtio(const uint8_t *data, size_t size, const struct fuzz_device *dev)
{
    struct vd_board *b = fuzz_board();
    static struct vd v;
    struct fuzz_in in = {data, size};
    uint8_t rings = in8(&in);
    fz_state_forged = false;
    uint64_t features = dev->features | ((rings & 1) != 0 ? VD_F_PACKED : 0) |
                        ((rings & 2) != 0 ? VD_F_EVENT_IDX : 0) |
                        ((rings & 4) != 0 ? VD_F_INDIRECT : 0);

    struct vmc_virtio *d = dev->create(b);
    if (d == NULL || !vd_probe(&v, b, d, (rings & 8) != 0))
        abort();
    (void)vd_start(&v, features, dev->queues);
    for (unsigned i = 0; i < FUZZ_STEPS && in.left != 0; i++)
        fz_step(&v, &in, dev);
    if (dev->drain != NULL)
        dev->drain();
    fuzz_end(b);
    if (dev->end != NULL)
        dev->end();
    return 0;
}

#define FUZZ_CONFIG(board)                                                                         \
    {                                                                                              \
        .size = sizeof(struct vmc_virtio_config), .pci = (board)->pci, .slot = VMC_PCI_ANY_SLOT,   \
        .queue_size = 16                                                                           \
    }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
