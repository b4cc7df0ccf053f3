/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Page contents as data: hashing, the zero test, compression, differences between pages.
 *
 * These functions use vector registers, as do the libraries behind them. They must not run where a
 * guest's vector state is live in the host's registers: a kernel saves it first, and the software
 * CPU parks it before it asks for a page (docs/memory.md, "FPU state").
 */
#ifndef PACK_INT_H
#define PACK_INT_H

#include "base/base_int.h"

/* ---- hashing --------------------------------------------------------------------------------- */

/* A keyed hash of a 4 KiB page, by the widest vectors the host has. */
typedef uint64_t (*vmci_page_hash_fn)(const void *page, uint64_t seed);
vmci_page_hash_fn vmci_page_hash_best(void);

/* Is every byte of the page 0? Stops at the first that is not. */
bool vmci_page_is_zero(const void *page);

/* ---- compression ----------------------------------------------------------------------------- */

#define VMCI_PACK_MAX VMC_PAGE_SIZE /* no result is larger */

/* A compressor and decompressor in memory of the platform. One thread at a time. */
struct vmci_packer;

/* level: zstd's, -7 to 19. VMC_ENOMEM, VMC_EINVAL. */
int vmci_packer_create(const struct vmc_platform *pf, int level, struct vmci_packer **out,
                       struct vmc_error *err);
/* The same for blocks of any size up to bytes (vmci_pack_block()). */
int vmci_packer_create_for(const struct vmc_platform *pf, int level, size_t bytes,
                           struct vmci_packer **out, struct vmc_error *err);
void vmci_packer_destroy(struct vmci_packer *p);
size_t vmci_packer_bytes(const struct vmci_packer *p);

/*
 * Literals (bytes that are no repetition) are Huffman-coded, which makes pages smaller and doubles
 * the time to read them; or they are left as they are.
 */
enum vmci_pack_style {
    VMCI_PACK_QUICK, /* left as they are */
    VMCI_PACK_EITHER /* coded, unless that saves less than a third of the result */
};

/*
 * Compress a page, as a difference to ref unless that is NULL. Returns the size, or 0 when it does
 * not fit in cap (at most VMCI_PACK_MAX) bytes.
 */
size_t vmci_pack(struct vmci_packer *p, const void *page, const void *ref,
                 enum vmci_pack_style style, void *dst, size_t cap);

/* Compress bytes of any number up to what the packer is for. 0: it does not fit in cap. */
size_t vmci_pack_block(struct vmci_packer *p, const void *src, size_t bytes, void *dst, size_t cap);

/* A decompressor only: small. One thread at a time. */
struct vmci_unpacker;
int vmci_unpacker_create(const struct vmc_platform *pf, struct vmci_unpacker **out,
                         struct vmc_error *err);
void vmci_unpacker_destroy(struct vmci_unpacker *u);
size_t vmci_unpacker_bytes(const struct vmci_unpacker *u);
/* VMC_OK, or VMC_EFORMAT when src is not exactly one page compressed against ref. */
int vmci_unpack(struct vmci_unpacker *u, const void *src, size_t bytes, const void *ref,
                void *page);
/* VMC_OK, or VMC_EFORMAT when src is not exactly bytes, compressed by vmci_pack_block(). */
int vmci_unpack_block(struct vmci_unpacker *u, const void *src, size_t n, void *dst, size_t bytes);

#endif
