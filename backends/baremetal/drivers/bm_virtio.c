/* SPDX-License-Identifier: BSD-2-Clause */
#include "bm_virtio.h"

#define CAP_VENDOR 0x09u
enum { CFG_COMMON = 1, CFG_NOTIFY, CFG_ISR, CFG_DEVICE };

#define C_DFSELECT    0x00
#define C_DF          0x04
#define C_GFSELECT    0x08
#define C_GF          0x0c
#define C_MSIX        0x10
#define C_STATUS      0x14
#define C_Q_SELECT    0x16
#define C_Q_SIZE      0x18
#define C_Q_MSIX      0x1a
#define C_Q_ENABLE    0x1c
#define C_Q_NOTIFY    0x1e
#define C_Q_DESC      0x20
#define C_Q_AVAIL     0x28
#define C_Q_USED      0x30
#define S_ACK         1u
#define S_DRIVER      2u
#define S_DRIVER_OK   4u
#define S_FEATURES_OK 8u

static void wr16(volatile char *p, uint16_t v)
{
    *(volatile uint16_t *)p = v;
}

static uint16_t rd16(volatile char *p)
{
    return *(volatile uint16_t *)p;
}

static void wr8(volatile char *p, uint8_t v)
{
    *(volatile uint8_t *)p = v;
}

static uint8_t rd8(volatile char *p)
{
    return *(volatile uint8_t *)p;
}

static volatile char *map_cap(const struct bm_pci *p, unsigned cap)
{
    bool io;
    uint64_t size;
    uint32_t offset = bm_pci_rd32(p, cap + 8), bytes = bm_pci_rd32(p, cap + 12);
    unsigned bar = bm_pci_rd8(p, cap + 4);
    uint64_t pa = bar < 6 ? bm_pci_bar(p, bar, &io, &size) : 0;

    if (pa == 0 || io || offset > size || bytes > size - offset)
        return NULL;
    return bm_mmio_map(pa + offset, bytes);
}

static bool find_structures(struct bm_virtio *v)
{
    const struct bm_pci *p = v->pci;

    for (unsigned cap = bm_pci_cap(p, CAP_VENDOR, 0); cap != 0;
         cap = bm_pci_cap(p, CAP_VENDOR, cap)) {
        switch (bm_pci_rd8(p, cap + 3)) {
        case CFG_COMMON:
            v->common = v->common != NULL ? v->common : map_cap(p, cap);
            break;
        case CFG_NOTIFY:
            if (v->notify == NULL) {
                v->notify = map_cap(p, cap);
                v->notify_mul = bm_pci_rd32(p, cap + 16);
            }
            break;
        case CFG_ISR:
            v->isr = v->isr != NULL ? v->isr : map_cap(p, cap);
            break;
        case CFG_DEVICE:
            v->device = v->device != NULL ? v->device : map_cap(p, cap);
            break;
        default:
            break;
        }
    }
    return v->common != NULL && v->notify != NULL && v->device != NULL;
}

bool bm_virtio_reset(struct bm_virtio *v)
{
    wr8(v->common + C_STATUS, 0);
    for (unsigned i = 0; rd8(v->common + C_STATUS) != 0 && i < 10000; i++)
        bm_delay_us(100);
    return rd8(v->common + C_STATUS) == 0;
}

bool bm_virtio_start(struct bm_virtio *v, const struct bm_pci *p, uint64_t want)
{
    v->pci = p;
    bm_pci_enable(p);
    if (!find_structures(v))
        return false; /* a legacy device */
    if (!bm_virtio_reset(v))
        return false;
    wr8(v->common + C_STATUS, S_ACK | S_DRIVER);
    uint64_t have = 0;
    for (unsigned i = 0; i < 2; i++) {
        mmio_wr32(v->common + C_DFSELECT, i);
        have |= (uint64_t)mmio_rd32(v->common + C_DF) << 32 * i;
    }
    v->features = have & (want | VIRTIO_F_VERSION_1);
    for (unsigned i = 0; i < 2; i++) {
        mmio_wr32(v->common + C_GFSELECT, i);
        mmio_wr32(v->common + C_GF, (uint32_t)(v->features >> 32 * i));
    }
    wr8(v->common + C_STATUS, S_ACK | S_DRIVER | S_FEATURES_OK);
    return (v->features & VIRTIO_F_VERSION_1) != 0 &&
           (rd8(v->common + C_STATUS) & S_FEATURES_OK) != 0;
}

bool bm_virtio_queue(struct bm_virtio *v, struct bm_vq *q, uint16_t index)
{
    wr16(v->common + C_Q_SELECT, index);
    uint16_t max = rd16(v->common + C_Q_SIZE);
    uint64_t pa = q->desc != NULL ? bm_virt_to_phys(q->desc) : bm_pages_alloc(3, 1, OWNER_KERNEL);
    if (max == 0 || pa == 0)
        return false;
    memset(phys_ptr(pa), 0, 3 * PAGE);
    *q = (struct bm_vq){.size = max < VQ_SIZE ? max : (uint16_t)VQ_SIZE, .index = index};
    q->desc = phys_ptr(pa);
    q->avail = phys_ptr(pa + PAGE);
    q->used = phys_ptr(pa + 2 * PAGE);
    for (uint16_t i = 0; i < q->size; i++)
        q->desc[i].next = (uint16_t)(i + 1);
    q->free_count = q->size;
    wr16(v->common + C_Q_SIZE, q->size);
    wr16(v->common + C_Q_MSIX, 0); /* entry 0 serves all */
    mmio_wr64(v->common + C_Q_DESC, pa);
    mmio_wr64(v->common + C_Q_AVAIL, pa + PAGE);
    mmio_wr64(v->common + C_Q_USED, pa + 2 * PAGE);
    q->doorbell = v->notify + (uint32_t)rd16(v->common + C_Q_NOTIFY) * v->notify_mul;
    wr16(v->common + C_Q_ENABLE, 1);
    return true;
}

void bm_virtio_live(struct bm_virtio *v)
{
    wr8(v->common + C_STATUS, S_ACK | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
}

bool bm_vq_add(struct bm_vq *q, const struct vq_desc *d, unsigned n, void *token)
{
    uint16_t head = q->free_head;

    if (n > q->free_count)
        return false;
    for (unsigned i = 0; i < n; i++) {
        struct vq_desc *e = &q->desc[q->free_head];
        uint16_t next = e->next;
        *e = d[i];
        e->flags = (uint16_t)((d[i].flags & VQ_WRITE) | (i + 1 < n ? VQ_NEXT : 0));
        e->next = next;
        q->free_head = next;
    }
    q->free_count = (uint16_t)(q->free_count - n);
    q->token[head] = token;
    q->avail[2 + q->avail[1] % q->size] = head;
    __atomic_store_n(&q->avail[1], (uint16_t)(q->avail[1] + 1), __ATOMIC_RELEASE);
    return true;
}

void bm_vq_kick(struct bm_vq *q)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if ((q->used[0] & 1) == 0) /* the device wants to be told */
        wr16(q->doorbell, q->index);
}

void *bm_vq_get(struct bm_vq *q, uint32_t *bytes)
{
    if (__atomic_load_n(&q->used[1], __ATOMIC_ACQUIRE) == q->used_seen)
        return NULL;
    const volatile uint16_t *e = q->used + 2 + (q->used_seen % q->size) * 4;
    uint32_t head = e[0] | (uint32_t)e[1] << 16;
    *bytes = e[2] | (uint32_t)e[3] << 16;
    q->used_seen++;
    if (head >= q->size || q->token[head] == NULL)
        bm_panic("a virtio device returns descriptor %u, which it was not given", head);
    void *token = q->token[head];
    q->token[head] = NULL;
    uint16_t last = (uint16_t)head, n = 1;
    while (q->desc[last].flags & VQ_NEXT) {
        last = q->desc[last].next;
        n++;
    }
    q->desc[last].next = q->free_head;
    q->free_head = (uint16_t)head;
    q->free_count = (uint16_t)(q->free_count + n);
    return token;
}
