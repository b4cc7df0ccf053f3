/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The firmware configuration device (QEMU, docs/specs/fw_cfg.rst): items behind a selector, a data
 * port that reads them byte by byte, a directory of named files, and a DMA interface.
 *
 * Threats (guest input: selector, DMA descriptor address and contents)
 *   unknown item, read past the end     zeros                               fw_cfg_items
 *   DMA to what is not RAM              error bit, nothing else             fw_cfg_dma
 *   DMA longer than the item            1 MiB of zeros; error bit           fw_cfg_dma
 *   descriptor changed meanwhile        fetched once                        (code)
 */
#include "base/snapshot.h"
#include "dev_priv.h"

#define FW_PORT       0x510
#define FW_PORTS      2
#define DMA_PORT      0x514
#define DMA_PORTS     8
#define FEATURES      0x3u                         /* traditional interface, DMA */
#define DMA_SIGNATURE UINT64_C(0x51454d5520434647) /* "QEMU CFG" */

#define DMA_ERROR      0x01u
#define DMA_READ       0x02u
#define DMA_SKIP       0x04u
#define DMA_SELECT     0x08u
#define DMA_WRITE      0x10u
#define DMA_DESC_BYTES 16
#define CHUNK          1024u
#define ZEROS_MAX      (1u << 20) /* that one request gets past the end of an item */

#define KEY_MASK        0x3fffu /* above: write channel and architecture-specific items */
#define KEY_ARCH        0x8000u
#define ARCH_FIRST      (VMC_FW_CFG_FILE_FIRST + VMC_FW_CFG_MAX_FILES)
#define ARCH_KEYS       16u
#define KEYS            (ARCH_FIRST + ARCH_KEYS)
#define DIR_ENTRY_BYTES 64
#define DIR_BYTES       (4 + VMC_FW_CFG_MAX_FILES * DIR_ENTRY_BYTES)

struct fw_state {
    uint16_t key;
    uint16_t pad;
    uint32_t offset;
    uint32_t dma_high; /* upper half of the descriptor's address, as written */
    uint32_t pad2;
};
#define FW_VERSION 1u

struct fw_item {
    struct vmc_fw_cfg_item item;
    bool present;
    uint8_t small[8]; /* for vmc_fw_cfg_set_int */
};

struct vmc_fw_cfg {
    struct dev_base base;
    struct fw_state st; /* (l) */
    bool restored; /* (l) the item was selected in another machine: what that makes is not here */
    struct fw_item item[KEYS];
    char name[VMC_FW_CFG_MAX_FILES][VMC_FW_CFG_NAME];
    unsigned files;
    uint8_t dir[DIR_BYTES];
};

/* ---- items --------------------------------------------------------------------------------- */

/* Place of a key in the item table, KEYS: there is none. */
static size_t key_index(uint16_t key)
{
    size_t k = key & KEY_MASK;

    if ((key & KEY_ARCH) != 0)
        return k < ARCH_KEYS ? ARCH_FIRST + k : KEYS;
    return k < ARCH_FIRST ? k : KEYS;
}

static const struct vmc_fw_cfg_item *item_of(const struct vmc_fw_cfg *fw, uint16_t key)
{
    size_t k = key_index(key);

    if (k >= KEYS)
        return NULL;
    k = vmci_nospec_index(k, KEYS);
    return fw->item[k].present ? &fw->item[k].item : NULL;
}

static void select_item(struct vmc_fw_cfg *fw, uint16_t key)
{
    const struct vmc_fw_cfg_item *it = item_of(fw, key);

    vmci_lock(&fw->base.lock);
    fw->st.key = key;
    fw->st.offset = 0;
    fw->restored = false;
    vmci_unlock(&fw->base.lock);
    if (it != NULL && it->select != NULL)
        it->select(it->ctx);
}

/*
 * The item that is read, with the lock held. *select: after the lock, before it is read, do what
 * selecting it does.
 */
static const struct vmc_fw_cfg_item *current(struct vmc_fw_cfg *fw, bool *select)
{
    const struct vmc_fw_cfg_item *it = item_of(fw, fw->st.key);

    *select = fw->restored && it != NULL && it->select != NULL;
    fw->restored = false;
    return it;
}

/* Copy from an item; past its end, zeros. */
static int item_read(const struct vmc_fw_cfg_item *it, uint32_t offset, void *dst, uint32_t bytes)
{
    uint32_t have = it != NULL && offset < it->bytes ? it->bytes - offset : 0;
    uint32_t n = VMCI_MIN(have, bytes);
    int rc = VMC_OK;

    if (n != 0 && it->data != NULL)
        memcpy(dst, (const uint8_t *)it->data + offset, n);
    else if (n != 0)
        rc = it->read(it->ctx, offset, dst, n);
    if (rc != VMC_OK)
        n = 0;
    memset((uint8_t *)dst + n, 0, bytes - n);
    return rc;
}

/* ---- traditional interface ----------------------------------------------------------------- */

static uint64_t fw_read(void *dev, uint64_t offset, unsigned bytes)
{
    struct vmc_fw_cfg *fw = dev;
    uint8_t byte = 0;
    bool select;

    if (offset == 0) /* the selector cannot be read; a 16-bit read of it is nothing special */
        return 0;
    (void)bytes;
    vmci_lock(&fw->base.lock);
    const struct vmc_fw_cfg_item *it = current(fw, &select);
    uint32_t at = fw->st.offset;
    if (it != NULL && at < it->bytes)
        fw->st.offset++;
    vmci_unlock(&fw->base.lock);
    if (select)
        it->select(it->ctx);
    (void)item_read(it, at, &byte, 1); /* a failed read gives zero, there is no error here */
    return byte;
}

static void fw_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    if (offset == 0 && bytes >= 2)
        select_item(dev, (uint16_t)value);
}

static const struct vmc_bus_ops fw_ops = {.read = fw_read, .write = fw_write};

/* ---- DMA ----------------------------------------------------------------------------------- */

static uint32_t be32(uint32_t v)
{
    return __builtin_bswap32(v);
}

static int write_zeros(struct vmc_mem *mem, uint64_t gpa, uint32_t bytes)
{
    static const uint8_t zeros[CHUNK];
    int rc = VMC_OK;

    for (uint32_t done = 0, n; done < bytes && rc == VMC_OK; done += n) {
        n = VMCI_MIN(bytes - done, CHUNK);
        rc = vmc_mem_write(mem, gpa + done, zeros, n);
    }
    return rc;
}

/*
 * Copy length bytes of the selected item to guest memory. No lock is held: the item is the
 * embedder's, and two vCPUs may do this at the same time.
 */
static int dma_read(struct vmc_mem *mem, const struct vmc_fw_cfg_item *it, uint32_t offset,
                    uint32_t length, uint64_t gpa)
{
    uint32_t have = it != NULL && offset < it->bytes ? it->bytes - offset : 0;
    uint32_t copy = VMCI_MIN(have, length);
    uint8_t chunk[CHUNK];

    if (length - copy > ZEROS_MAX)
        return VMC_ERANGE;
    for (uint32_t done = 0, n; done < copy; done += n) {
        n = VMCI_MIN(copy - done, CHUNK);
        int rc = item_read(it, offset + done, chunk, n);
        if (rc == VMC_OK)
            rc = vmc_mem_write(mem, gpa + done, chunk, n);
        if (rc != VMC_OK)
            return rc;
    }
    return write_zeros(mem, gpa + copy, length - copy);
}

static uint32_t dma_execute(struct vmc_fw_cfg *fw, uint32_t control, uint32_t length, uint64_t gpa)
{
    if ((control & DMA_SELECT) != 0)
        select_item(fw, (uint16_t)(control >> 16));
    if ((control & (DMA_READ | DMA_SKIP | DMA_WRITE)) == 0)
        return 0;

    bool select;
    vmci_lock(&fw->base.lock);
    const struct vmc_fw_cfg_item *it = current(fw, &select);
    uint32_t offset = fw->st.offset;
    vmci_unlock(&fw->base.lock);
    if (select)
        it->select(it->ctx);

    int rc = VMC_OK;
    if ((control & DMA_READ) != 0)
        rc = dma_read(fw->base.bd->mem, it, offset, length, gpa);
    else if ((control & DMA_WRITE) != 0)
        rc = VMC_EPERM; /* no item of this machine can be written */
    vmci_lock(&fw->base.lock);
    uint32_t have = it != NULL && offset < it->bytes ? it->bytes - offset : 0;
    fw->st.offset = offset + VMCI_MIN(length, have);
    vmci_unlock(&fw->base.lock);
    return rc == VMC_OK ? 0 : DMA_ERROR;
}

static void dma_run(struct vmc_fw_cfg *fw, uint64_t desc)
{
    uint8_t d[DMA_DESC_BYTES];

    if (vmc_mem_read(fw->base.bd->mem, desc, d, sizeof(d)) != VMC_OK)
        return;
    uint32_t control = be32(vmci_ld_le32(d));
    uint32_t length = be32(vmci_ld_le32(d + 4));
    uint64_t gpa = (uint64_t)be32(vmci_ld_le32(d + 8)) << 32 | be32(vmci_ld_le32(d + 12));

    uint32_t result = dma_execute(fw, control, length, gpa);
    vmci_st_le32(d, be32(result));
    /* A descriptor in ROM: the guest will wait for ever, which is its own doing. */
    if (vmc_mem_write(fw->base.bd->mem, desc, d, 4) != VMC_OK)
        vmci_log(fw->base.bd->platform, VMC_LOG_DEBUG, "fw_cfg", "descriptor is not in RAM");
}

static uint64_t dma_port_read(void *dev, uint64_t offset, unsigned bytes)
{
    uint64_t v = 0;

    (void)dev;
    for (unsigned i = 0; i < bytes && offset + i < DMA_PORTS; i++) /* big-endian register */
        v |= (DMA_SIGNATURE >> (56 - 8 * (offset + i)) & 0xff) << (8 * i);
    return v;
}

static void dma_port_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    struct vmc_fw_cfg *fw = dev;
    uint64_t desc = 0;
    bool go = false;

    vmci_lock(&fw->base.lock);
    if (bytes == 4 && offset == 0) {
        fw->st.dma_high = be32((uint32_t)value);
    } else if (bytes == 4 && offset == 4) {
        desc = (uint64_t)fw->st.dma_high << 32 | be32((uint32_t)value);
        fw->st.dma_high = 0;
        go = true;
    } else if (bytes == 8 && offset == 0) {
        desc = __builtin_bswap64(value);
        go = true;
    }
    vmci_unlock(&fw->base.lock);
    if (go)
        dma_run(fw, desc);
}

static const struct vmc_bus_ops dma_ops = {.read = dma_port_read, .write = dma_port_write};

/* ---- contents ------------------------------------------------------------------------------ */

static bool item_ok(const struct vmc_fw_cfg_item *it)
{
    return (it->data != NULL) != (it->read != NULL) || it->bytes == 0;
}

/* Keys that the machine's builder may set: neither files nor their directory. */
static size_t settable_index(uint16_t key)
{
    size_t k = key_index(key);

    return k == VMC_FW_CFG_FILE_DIR || (k >= VMC_FW_CFG_FILE_FIRST && k < ARCH_FIRST) ? KEYS : k;
}

int vmc_fw_cfg_set(struct vmc_fw_cfg *fw, uint16_t key, const struct vmc_fw_cfg_item *item)
{
    size_t k = settable_index(key);

    if (k >= KEYS || !item_ok(item))
        return VMC_EINVAL;
    fw->item[k].item = *item;
    fw->item[k].present = true;
    return VMC_OK;
}

int vmc_fw_cfg_set_int(struct vmc_fw_cfg *fw, uint16_t key, uint64_t value, unsigned bytes)
{
    size_t k = settable_index(key);

    if (k >= KEYS || (bytes != 2 && bytes != 4 && bytes != 8))
        return VMC_EINVAL;
    struct fw_item *it = &fw->item[k];
    vmci_st_le64(it->small, value);
    it->item = (struct vmc_fw_cfg_item){.data = it->small, .bytes = bytes};
    it->present = true;
    return VMC_OK;
}

/* Names in order, since firmware may rely on it. */
static bool name_before(const char *a, const char *b)
{
    while (*a != '\0' && *a == *b) {
        a++;
        b++;
    }
    return (unsigned char)*a < (unsigned char)*b;
}

static void dir_build(struct vmc_fw_cfg *fw)
{
    vmci_st_le32(fw->dir, be32(fw->files));
    for (unsigned i = 0; i < fw->files; i++) {
        uint8_t *e = fw->dir + 4 + i * DIR_ENTRY_BYTES;
        unsigned key = VMC_FW_CFG_FILE_FIRST + i;
        vmci_st_le32(e, be32(fw->item[key].item.bytes));
        vmci_st_le16(e + 4, __builtin_bswap16((uint16_t)key));
        vmci_st_le16(e + 6, 0);
        memcpy(e + 8, fw->name[i], VMC_FW_CFG_NAME);
    }
    struct fw_item *dir = &fw->item[VMC_FW_CFG_FILE_DIR];
    dir->item = (struct vmc_fw_cfg_item){.data = fw->dir, .bytes = 4 + fw->files * DIR_ENTRY_BYTES};
    dir->present = true;
}

int vmc_fw_cfg_add_file(struct vmc_fw_cfg *fw, const char *name, const struct vmc_fw_cfg_item *item)
{
    size_t len = vmci_strlen(name);
    unsigned at = 0;

    if (len == 0 || len >= VMC_FW_CFG_NAME || !item_ok(item))
        return VMC_EINVAL;
    while (at < fw->files && name_before(fw->name[at], name))
        at++;
    if (at == fw->files || !vmci_streq(fw->name[at], name)) {
        if (fw->files == VMC_FW_CFG_MAX_FILES)
            return VMC_ELIMIT;
        for (unsigned i = fw->files; i > at; i--) {
            memcpy(fw->name[i], fw->name[i - 1], VMC_FW_CFG_NAME);
            fw->item[VMC_FW_CFG_FILE_FIRST + i] = fw->item[VMC_FW_CFG_FILE_FIRST + i - 1];
        }
        fw->files++;
        memset(fw->name[at], 0, VMC_FW_CFG_NAME);
        memcpy(fw->name[at], name, len);
    }
    fw->item[VMC_FW_CFG_FILE_FIRST + at].item = *item;
    fw->item[VMC_FW_CFG_FILE_FIRST + at].present = true;
    dir_build(fw);
    return VMC_OK;
}

/* ---- life cycle ---------------------------------------------------------------------------- */

static void fw_reset(void *dev)
{
    struct vmc_fw_cfg *fw = dev;

    vmci_lock(&fw->base.lock);
    memset(&fw->st, 0, sizeof(fw->st));
    fw->restored = false;
    vmci_unlock(&fw->base.lock);
}

static size_t fw_save(void *dev, void *dst, size_t bytes)
{
    struct vmc_fw_cfg *fw = dev;

    vmci_lock(&fw->base.lock);
    size_t n = vmci_dev_save(&fw->base, FW_VERSION, &fw->st, sizeof(fw->st), dst, bytes);
    vmci_unlock(&fw->base.lock);
    return n;
}

static int fw_load(void *dev, const void *src, size_t bytes, struct vmc_error *err)
{
    struct vmc_fw_cfg *fw = dev;
    struct fw_state s; /* every value is checked where it is used */
    uint64_t shift;
    int rc = vmci_dev_load(&fw->base, FW_VERSION, src, bytes, &s, sizeof(s), &shift, err);

    if (rc != VMC_OK)
        return rc;
    vmci_lock(&fw->base.lock);
    fw->st = s;
    fw->restored = true;
    vmci_unlock(&fw->base.lock);
    return VMC_OK;
}

static void fw_destroy(void *dev)
{
    struct vmc_fw_cfg *fw = dev;

    vmci_dev_detach(&fw->base, fw->base.bd->pio, FW_PORT);
    vmci_dev_detach(&fw->base, fw->base.bd->pio, DMA_PORT);
    vmci_dev_free(&fw->base);
}

static const struct vmc_device_ops fw_device_ops = {.name = "fw-cfg",
                                                    .reset = fw_reset,
                                                    .destroy = fw_destroy,
                                                    .save = VMCI_SNAPSHOT(fw_save),
                                                    .load = VMCI_SNAPSHOT(fw_load)};

int vmc_fw_cfg_create(struct vmc_board *bd, struct vmc_fw_cfg **out, struct vmc_error *err)
{
    static const char signature[4] = {'Q', 'E', 'M', 'U'};
    struct vmc_fw_cfg *fw = vmci_dev_alloc(bd, sizeof(*fw), &fw_device_ops, err);

    if (fw == NULL)
        return VMC_ENOMEM;
    fw->item[VMC_FW_CFG_SIGNATURE].item =
        (struct vmc_fw_cfg_item){.data = signature, .bytes = sizeof(signature)};
    fw->item[VMC_FW_CFG_SIGNATURE].present = true;
    vmci_st_le32(fw->item[VMC_FW_CFG_ID].small, FEATURES);
    fw->item[VMC_FW_CFG_ID].item =
        (struct vmc_fw_cfg_item){.data = fw->item[VMC_FW_CFG_ID].small, .bytes = 4};
    fw->item[VMC_FW_CFG_ID].present = true;
    dir_build(fw);
    int rc = vmc_bus_attach(bd->pio, FW_PORT, FW_PORTS, &fw_ops, fw, err);
    if (rc != VMC_OK)
        goto free;
    rc = vmc_bus_attach(bd->pio, DMA_PORT, DMA_PORTS, &dma_ops, fw, err);
    if (rc != VMC_OK)
        goto ports;
    vmci_dev_publish(&fw->base);
    *out = fw;
    return VMC_OK;
ports:
    vmci_dev_detach(&fw->base, bd->pio, FW_PORT);
free:
    vmci_dev_free(&fw->base);
    return rc;
}
