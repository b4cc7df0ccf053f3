/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The only file that includes zstd. All contexts are static, in memory of the platform, so that
 * zstd never allocates. Frames carry no magic number, size or checksum: the caller knows that each
 * is one page, and a page that does not decode to exactly that is an error.
 *
 * A difference is a page compressed with the other one as prefix (ZSTD_CCtx_refPrefix). To read it
 * back the prefix is given as a dictionary of raw content, by reference: ZSTD_DCtx_refPrefix would
 * allocate, and functions that look at the content for a dictionary's header would trust a guest.
 */
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>
#include "pack/pack_priv.h"

#define SITE "pack/zstd"

struct vmci_packer {
    const struct vmc_platform *pf;
    ZSTD_CCtx *cctx;
    size_t bytes; /* of this and the context behind it */
};

struct vmci_unpacker {
    const struct vmc_platform *pf;
    ZSTD_DCtx *dctx;
    unsigned char *ddict; /* room for a dictionary that refers to a page */
    size_t ddict_bytes;
    size_t bytes;
};

#define ALIGN      64u
#define QUICK_PART 3u /* of a packed page: what coding must save at least */
#define HEAD       64u
_Static_assert(sizeof(struct vmci_packer) <= HEAD && sizeof(struct vmci_unpacker) <= HEAD,
               "the context starts behind the head");

static bool set(ZSTD_CCtx *c, ZSTD_cParameter what, int value)
{
    return !ZSTD_isError(ZSTD_CCtx_setParameter(c, what, value));
}

/* Explicit parameters, so that the size that was estimated is the size that is used. */
static bool configure(ZSTD_CCtx *c, int level, const ZSTD_compressionParameters *p)
{
    return set(c, ZSTD_c_compressionLevel, level) &&
           set(c, ZSTD_c_format, ZSTD_f_zstd1_magicless) && set(c, ZSTD_c_contentSizeFlag, 0) &&
           set(c, ZSTD_c_checksumFlag, 0) && set(c, ZSTD_c_dictIDFlag, 0) &&
           set(c, ZSTD_c_windowLog, (int)p->windowLog) && set(c, ZSTD_c_hashLog, (int)p->hashLog) &&
           set(c, ZSTD_c_chainLog, (int)p->chainLog) &&
           set(c, ZSTD_c_searchLog, (int)p->searchLog) &&
           set(c, ZSTD_c_minMatch, (int)p->minMatch) &&
           set(c, ZSTD_c_targetLength, (int)p->targetLength) &&
           set(c, ZSTD_c_strategy, (int)p->strategy);
}

static int create(const struct vmc_platform *pf, int level, ZSTD_compressionParameters p,
                  struct vmci_packer **out, struct vmc_error *err)
{
    if (level < -7 || level > 19 || level == 0)
        return vmci_error(err, VMC_EINVAL, SITE, "compression level %d is not -7 to 19", level);
    size_t need = ZSTD_estimateCCtxSize_usingCParams(p);
    if (ZSTD_isError(need))
        return vmci_error(err, VMC_EINTERNAL, SITE, "no size for level %d: %s", level,
                          ZSTD_getErrorName(need));
    struct vmci_packer *k = vmci_alloc_aligned(pf, HEAD + need, ALIGN);
    if (k == NULL)
        return vmci_error(err, VMC_ENOMEM, SITE, "no memory for a compressor of %zu bytes", need);
    *k = (struct vmci_packer){.pf = pf, .bytes = HEAD + need};
    k->cctx = ZSTD_initStaticCCtx((unsigned char *)k + HEAD, need);
    if (k->cctx == NULL || !configure(k->cctx, level, &p)) {
        vmci_packer_destroy(k);
        return vmci_error(err, VMC_EINTERNAL, SITE, "cannot set up level %d", level);
    }
    *out = k;
    return VMC_OK;
}

int vmci_packer_create(const struct vmc_platform *pf, int level, struct vmci_packer **out,
                       struct vmc_error *err)
{
    /* Small tables that suit a page behind a page of prefix. */
    ZSTD_compressionParameters p = ZSTD_getCParams(level, VMC_PAGE_SIZE, VMC_PAGE_SIZE);

    if (p.windowLog < 13) /* a page and the prefix before it */
        p.windowLog = 13;
    return create(pf, level, p, out, err);
}

int vmci_packer_create_for(const struct vmc_platform *pf, int level, size_t bytes,
                           struct vmci_packer **out, struct vmc_error *err)
{
    return create(pf, level, ZSTD_getCParams(level, bytes, 0), out, err);
}

void vmci_packer_destroy(struct vmci_packer *p)
{
    if (p != NULL)
        vmci_free_aligned(p->pf, p, p->bytes, ALIGN);
}

size_t vmci_packer_bytes(const struct vmci_packer *p)
{
    return p->bytes;
}

static size_t pack(struct vmci_packer *p, const void *page, const void *ref,
                   ZSTD_literalCompressionMode_e literals, void *dst, size_t cap)
{
    (void)ZSTD_CCtx_reset(p->cctx, ZSTD_reset_session_only); /* cannot fail between frames */
    if (!set(p->cctx, ZSTD_c_literalCompressionMode, (int)literals) ||
        (ref != NULL && ZSTD_isError(ZSTD_CCtx_refPrefix(p->cctx, ref, VMC_PAGE_SIZE))))
        return 0;
    size_t n = ZSTD_compress2(p->cctx, dst, cap, page, VMC_PAGE_SIZE);
    return ZSTD_isError(n) ? 0 : n;
}

/*
 * What coding saved on the literals of a page, by the header of its only block's literals section
 * (RFC 8878, 3.1.1.3.1.1): behind 2 bytes of frame header and 3 of block header.
 */
static size_t coding_saved(const unsigned char *f, size_t n)
{
    enum { AT = 5, COMPRESSED = 2, TREELESS = 3 };
    static const unsigned char width[4] = {10, 10, 14, 18};

    if (n < AT + 5 || (f[2] >> 1 & 3) != COMPRESSED)
        return 0;
    unsigned type = f[AT] & 3, bits = width[f[AT] >> 2 & 3];
    if (type != COMPRESSED && type != TREELESS)
        return 0;
    uint64_t h = vmci_ld_le32(f + AT) | (uint64_t)f[AT + 4] << 32;
    size_t plain = (size_t)(h >> 4 & (VMCI_BIT(bits) - 1));
    size_t coded = (size_t)(h >> (4 + bits) & (VMCI_BIT(bits) - 1));
    return plain > coded ? plain - coded : 0;
}

size_t vmci_pack(struct vmci_packer *p, const void *page, const void *ref,
                 enum vmci_pack_style style, void *dst, size_t cap)
{
    cap = VMCI_MIN(cap, (size_t)VMCI_PACK_MAX);
    if (style == VMCI_PACK_QUICK)
        return pack(p, page, ref, ZSTD_lcm_uncompressed, dst, cap);
    size_t n = pack(p, page, ref, ZSTD_lcm_auto, dst, cap), saved = coding_saved(dst, n);
    if (saved == 0 || saved > n / QUICK_PART)
        return n;
    size_t quick = pack(p, page, ref, ZSTD_lcm_uncompressed, dst, cap);
    return quick != 0 ? quick : pack(p, page, ref, ZSTD_lcm_auto, dst, cap);
}

size_t vmci_pack_block(struct vmci_packer *p, const void *src, size_t bytes, void *dst, size_t cap)
{
    (void)ZSTD_CCtx_reset(p->cctx, ZSTD_reset_session_only); /* cannot fail between frames */
    size_t n = ZSTD_compress2(p->cctx, dst, cap, src, bytes);
    return ZSTD_isError(n) ? 0 : n;
}

int vmci_unpacker_create(const struct vmc_platform *pf, struct vmci_unpacker **out,
                         struct vmc_error *err)
{
    size_t context = (size_t)vmci_align_up(ZSTD_estimateDCtxSize(), ALIGN);
    size_t dict = ZSTD_estimateDDictSize(VMC_PAGE_SIZE, ZSTD_dlm_byRef);
    size_t need = context + dict;
    struct vmci_unpacker *u = vmci_alloc_aligned(pf, HEAD + need, ALIGN);

    if (u == NULL)
        return vmci_error(err, VMC_ENOMEM, SITE, "no memory for a decompressor of %zu bytes", need);
    *u = (struct vmci_unpacker){.pf = pf,
                                .bytes = HEAD + need,
                                .ddict_bytes = dict,
                                .ddict = (unsigned char *)u + HEAD + context};
    u->dctx = ZSTD_initStaticDCtx((unsigned char *)u + HEAD, context);
    if (u->dctx == NULL ||
        ZSTD_isError(ZSTD_DCtx_setParameter(u->dctx, ZSTD_d_format, ZSTD_f_zstd1_magicless))) {
        vmci_unpacker_destroy(u);
        return vmci_error(err, VMC_EINTERNAL, SITE, "cannot set up a decompressor");
    }
    *out = u;
    return VMC_OK;
}

void vmci_unpacker_destroy(struct vmci_unpacker *u)
{
    if (u != NULL)
        vmci_free_aligned(u->pf, u, u->bytes, ALIGN);
}

size_t vmci_unpacker_bytes(const struct vmci_unpacker *u)
{
    return u->bytes;
}

int vmci_unpack(struct vmci_unpacker *u, const void *src, size_t bytes, const void *ref, void *page)
{
    const ZSTD_DDict *dict = NULL;
    size_t n;

    if (ref != NULL) {
        dict = ZSTD_initStaticDDict(u->ddict, u->ddict_bytes, ref, VMC_PAGE_SIZE, ZSTD_dlm_byRef,
                                    ZSTD_dct_rawContent);
        if (dict == NULL)
            return VMC_EINTERNAL;
        n = ZSTD_decompress_usingDDict(u->dctx, page, VMC_PAGE_SIZE, src, bytes, dict);
    } else {
        n = ZSTD_decompressDCtx(u->dctx, page, VMC_PAGE_SIZE, src, bytes);
    }
    return n == VMC_PAGE_SIZE ? VMC_OK : VMC_EFORMAT;
}

int vmci_unpack_block(struct vmci_unpacker *u, const void *src, size_t n, void *dst, size_t bytes)
{
    return ZSTD_decompressDCtx(u->dctx, dst, bytes, src, n) == bytes ? VMC_OK : VMC_EFORMAT;
}
