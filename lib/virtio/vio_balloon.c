/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtio memory balloon (virtio 1.2, 5.5). A bitmap of the pages in the balloon keeps the policy
 * behind the ops from seeing a page twice, whatever the driver claims.
 *
 * Threats (tests/unit/virtio/test_balloon.c, fuzz/virtio_balloon.c)
 *
 * | guest input                       | bound                                                     |
 * |-----------------------------------|-----------------------------------------------------------|
 * | page numbers                      | RAM only, in once, out only when in; else counted         |
 * | reported or hinted ranges         | cut to whole pages of RAM                                 |
 * | statistics                        | STATS_READ bytes are read; values are only passed on      |
 * | stale hint identifiers            | ignored                                                   |
 * | poisoned free pages               | not passed on: a dropped page would lose its pattern      |
 */
#include <vmcore/virtio_balloon.h>

#include "base/snapshot.h"
#include "mmu/mem_held.h"
#include "virtio/virtio_int.h"

#define DEVICE_ID  5u
#define PIECES     64u /* of a buffer; Linux reports 32 ranges at once */
#define PFN_BATCH  256u
#define STAT_BYTES 10u
#define STATS_READ (64u * STAT_BYTES)

/* Feature bits (5.5.3). */
#define F_MUST_TELL_HOST VMCI_BIT(0)
#define F_STATS_VQ       VMCI_BIT(1)
#define F_DEFLATE_ON_OOM VMCI_BIT(2)
#define F_FREE_PAGE_HINT VMCI_BIT(3)
#define F_PAGE_POISON    VMCI_BIT(4)
#define F_REPORTING      VMCI_BIT(5)

/* Configuration (5.5.4). */
enum config_reg {
    CFG_NUM_PAGES = 0,
    CFG_ACTUAL = 4,
    CFG_HINT_ID = 8,
    CFG_POISON = 12,
    CFG_BYTES = 16
};
enum hint_id { HINT_STOP, HINT_DONE, HINT_FIRST };

/* Queues by purpose; which index the optional ones have is found out, see find_roles. */
enum role { R_INFLATE, R_DEFLATE, R_STATS, R_HINT, R_REPORT, ROLES };

struct balloon_dev {
    struct vmc_virtio v;
    const struct vmc_balloon_ops *ops; /* (c) never NULL */
    void *ctx;
    uint8_t role_of[ROLES]; /* queue index to role; fixed while the driver is up */

    struct vmci_held held;                           /* pages in the balloon */
    uint64_t rejected, reported_bytes, hinted_bytes; /* (a) */

    uint32_t want_stats;            /* (a) asked by the embedder, the guest not told yet */
    uint32_t asked_stats;           /* (a) the guest was told, its answer is awaited */
    struct vmc_balloon_stats stats; /* (l: v.lock) */

    uint32_t hint_id;     /* (a) current round, or HINT_STOP, HINT_DONE */
    uint32_t hint_last;   /* (a) the latest round; none is used again soon */
    uint32_t hint_active; /* (a) the guest took the round up */

    struct vmci_chain ch[ROLES]; /* by queue index; its worker's */
    void *sg;
};

static struct balloon_dev *balloon(struct vmc_virtio *v)
{
    return VMCI_CONTAINER_OF(v, struct balloon_dev, v);
}

static uint32_t config32(struct balloon_dev *d, unsigned offset)
{
    vmci_lock(&d->v.lock);
    uint32_t v = vmci_ld_le32(d->v.config + offset);
    vmci_unlock(&d->v.lock);
    return v;
}

/* ---- pages --------------------------------------------------------------------------------- */

static void move_pages(struct balloon_dev *d, const struct vmci_chain *ch, bool inflate)
{
    unsigned char le[4 * PFN_BATCH];
    struct vmci_held_run run = {
        .in = inflate, .tell = inflate ? d->ops->inflate : d->ops->deflate, .ctx = d->ctx};
    uint64_t bad = 0;

    for (uint64_t at = 0; at + 4 <= ch->out_bytes;) {
        size_t got = vmci_chain_read(ch, at, le, sizeof(le));
        for (size_t i = 0; i + 4 <= got; i += 4)
            bad += vmci_held_move(&d->held, vmci_ld_le32(le + i), &run) != VMCI_HELD_MOVED;
        if (got < sizeof(le))
            break;
        at += got;
    }
    vmci_held_end(&d->held, &run);
    (void)vmci_fetch_add(&d->rejected, bad);
}

/* The whole pages of a range of RAM. */
static bool whole_pages(const struct vmci_vref *ref, uint64_t *gpa, uint64_t *bytes)
{
    uint64_t end = vmci_align_down(ref->gpa + ref->bytes, VMC_PAGE_SIZE);

    *gpa = vmci_align_up(ref->gpa, VMC_PAGE_SIZE);
    *bytes = end > *gpa ? end - *gpa : 0;
    return *bytes != 0;
}

/*
 * Ranges of free pages, reported or hinted. They are not mapped: a window would bring into memory,
 * and pin, just the pages that are to go, in as many pieces as their frames are scattered.
 */
static void free_ranges(struct balloon_dev *d, const struct vmci_chain *ch,
                        void (*tell)(void *, uint64_t, uint64_t), uint64_t *counter)
{
    uint64_t total = 0;
    uint64_t gpa;
    uint64_t bytes;

    if (config32(d, CFG_POISON) != 0)
        return; /* 5.5.6.7: the pages must read back as the poison */
    for (unsigned i = 0; i < ch->in_n; i++) {
        if (!whole_pages(&ch->ref[ch->out_n + i], &gpa, &bytes))
            continue;
        total += bytes;
        if (tell != NULL)
            tell(d->ctx, gpa, bytes);
    }
    (void)vmci_fetch_add(counter, total);
}

/* ---- hints --------------------------------------------------------------------------------- */

static void hint_chain(struct balloon_dev *d, const struct vmci_chain *ch)
{
    unsigned char le[4];

    if (ch->out_bytes != 0) { /* a command: start of our round, or the end */
        if (vmci_chain_read(ch, 0, le, sizeof(le)) != sizeof(le))
            return;
        uint32_t id = vmci_ld_le32(le);
        bool ours = id >= HINT_FIRST && id == vmci_load_acquire(&d->hint_id);
        bool was = vmci_exchange(&d->hint_active, ours) != 0;
        if (was && !ours && d->ops->hint_done != NULL)
            d->ops->hint_done(d->ctx);
        return;
    }
    if (vmci_load_acquire(&d->hint_active) != 0)
        free_ranges(d, ch, d->ops->hint, &d->hinted_bytes);
}

static void set_hint_id(struct balloon_dev *d, uint32_t id)
{
    vmci_virtio_config_begin(&d->v);
    vmci_store_release(&d->hint_id, id);
    vmci_st_le32(d->v.config + CFG_HINT_ID, id);
    vmci_virtio_config_end(&d->v, vmci_virtio_has(&d->v, F_FREE_PAGE_HINT));
}

int vmc_virtio_balloon_hint_start(struct vmc_virtio *v)
{
    struct balloon_dev *d = balloon(v);

    if (!vmc_virtio_live(v) || !vmci_virtio_has(v, F_FREE_PAGE_HINT))
        return VMC_ENOTSUP;
    uint32_t id = vmci_load_acquire(&d->hint_last) + 1;
    if (id < HINT_FIRST)
        id = HINT_FIRST;
    vmci_store_release(&d->hint_last, id);
    set_hint_id(d, id);
    return VMC_OK;
}

void vmc_virtio_balloon_hint_stop(struct vmc_virtio *v)
{
    set_hint_id(balloon(v), HINT_STOP);
}

void vmc_virtio_balloon_hint_release(struct vmc_virtio *v)
{
    set_hint_id(balloon(v), HINT_DONE);
}

/* ---- statistics ---------------------------------------------------------------------------- */

static void parse_stats(struct balloon_dev *d, const struct vmci_chain *ch)
{
    unsigned char buf[STATS_READ];
    struct vmc_balloon_stats st = {.when_ns = d->v.pf->now_ns(d->v.pf->ctx)};
    size_t got = vmci_chain_read(ch, 0, buf, sizeof(buf));

    for (size_t i = 0; i + STAT_BYTES <= got; i += STAT_BYTES) {
        unsigned tag = vmci_ld_le16(buf + i);
        if (tag >= VMC_BALLOON_STATS)
            continue;
        st.value[tag] = vmci_ld_le64(buf + i + 2);
        st.valid |= 1u << tag;
    }
    vmci_lock(&d->v.lock);
    d->stats = st;
    vmci_unlock(&d->v.lock);
    if (vmci_exchange(&d->asked_stats, 0) != 0 && d->ops->stats != NULL)
        d->ops->stats(d->ctx, &st);
}

/*
 * The driver leaves one buffer in the queue; giving it back asks for new numbers (5.5.6.3). It
 * stays in the ring meanwhile, so that nothing is held while the device is drained or saved.
 */
static enum vmci_vwork stats_work(struct balloon_dev *d, struct vmci_vq *q, struct vmci_chain *ch)
{
    vmci_lock(&q->lock);
    struct vmci_vq_pos before = q->pos;
    int rc = vmci_vq_usable(q) ? vmci_vq_pop(q, ch) : 0;
    vmci_unlock(&q->lock);
    if (rc != 1)
        return VMCI_VWORK_EMPTY;
    parse_stats(d, ch);
    if (vmci_exchange(&d->want_stats, 0) != 0) {
        vmci_store_release(&d->asked_stats, 1);
        vmci_vq_complete(q, ch, 0);
        return VMCI_VWORK_MORE;
    }
    vmci_chain_release(d->v.mem, ch);
    vmci_lock(&q->lock);
    vmci_vq_rewind(q, &before, ch->slots);
    vmci_unlock(&q->lock);
    return VMCI_VWORK_STALLED;
}

static unsigned index_of(const struct balloon_dev *d, enum role role)
{
    unsigned i = 0;

    while (i < ROLES - 1 && d->role_of[i] != role)
        i++;
    return i;
}

int vmc_virtio_balloon_request_stats(struct vmc_virtio *v)
{
    struct balloon_dev *d = balloon(v);

    if (!vmc_virtio_live(v) || !vmci_virtio_has(v, F_STATS_VQ))
        return VMC_ENOTSUP;
    if (vmci_load_acquire(&d->asked_stats) != 0 || vmci_exchange(&d->want_stats, 1) != 0)
        return VMC_EAGAIN;
    /* The buffer may be in a page that is not in memory, and the caller who everybody waits for. */
    vmci_vq_run_soon(&v->queue[index_of(d, R_STATS)]);
    return VMC_OK;
}

void vmc_virtio_balloon_stats(struct vmc_virtio *v, struct vmc_balloon_stats *out)
{
    vmci_lock(&v->lock);
    *out = balloon(v)->stats;
    vmci_unlock(&v->lock);
}

/* ---- queues -------------------------------------------------------------------------------- */

static uint64_t feature_of(enum role role)
{
    static const uint64_t need[ROLES] = {
        [R_STATS] = F_STATS_VQ, [R_HINT] = F_FREE_PAGE_HINT, [R_REPORT] = F_REPORTING};

    return need[role];
}

/*
 * By 5.5.2 each queue has a fixed index. Drivers that leave an optional one out may number the
 * following ones without a gap instead (Linux before 6.11). What they enabled tells which they do.
 */
static void find_roles(struct balloon_dev *d)
{
    bool fixed = true;
    unsigned next = R_STATS;

    for (unsigned i = R_STATS; i < ROLES; i++)
        if (vmci_virtio_has(&d->v, feature_of(i)) && !d->v.queue[i].enabled)
            fixed = false;
    for (unsigned i = 0; i < ROLES; i++)
        d->role_of[i] = (uint8_t)i;
    if (fixed)
        return;
    for (unsigned i = R_STATS; i < ROLES; i++)
        if (vmci_virtio_has(&d->v, feature_of(i)))
            d->role_of[next++] = (uint8_t)i;
    while (next < ROLES)
        d->role_of[next++] = ROLES; /* nothing */
}

static void one_chain(struct balloon_dev *d, struct vmci_vq *q, struct vmci_chain *ch,
                      unsigned role)
{
    if (ch->malformed) {
        (void)vmci_fetch_add(&d->v.stat_malformed, 1);
    } else if (role == R_INFLATE || role == R_DEFLATE) {
        move_pages(d, ch, role == R_INFLATE);
    } else {
        if (role == R_HINT)
            hint_chain(d, ch);
        else if (role == R_REPORT)
            free_ranges(d, ch, d->ops->report, &d->reported_bytes);
    }
    vmci_vq_complete(q, ch, 0);
}

static enum vmci_vwork balloon_work(struct vmc_virtio *v, struct vmci_vq *q)
{
    struct balloon_dev *d = balloon(v);
    unsigned role = d->role_of[q->index];
    struct vmci_chain *ch = &d->ch[q->index];

    if (role == R_STATS)
        return stats_work(d, q, ch);
    for (unsigned i = 0; i < VMCI_VBATCH; i++) {
        vmci_lock(&q->lock);
        int rc = vmci_vq_usable(q) ? vmci_vq_pop(q, ch) : 0;
        vmci_unlock(&q->lock);
        if (rc != 1)
            return VMCI_VWORK_EMPTY;
        one_chain(d, q, ch, role);
    }
    return VMCI_VWORK_MORE;
}

/* ---- targets and state --------------------------------------------------------------------- */

void vmc_virtio_balloon_set_target(struct vmc_virtio *v, uint64_t pages)
{
    struct balloon_dev *d = balloon(v);
    uint64_t most = VMCI_MIN(d->held.ram_pages, (uint64_t)UINT32_MAX);
    uint32_t target = (uint32_t)VMCI_MIN(pages, most);

    vmci_virtio_config_begin(v);
    bool change = vmci_ld_le32(v->config + CFG_NUM_PAGES) != target;
    vmci_st_le32(v->config + CFG_NUM_PAGES, target);
    vmci_virtio_config_end(v, change);
}

void vmc_virtio_balloon_info(struct vmc_virtio *v, struct vmc_balloon_info *out)
{
    struct balloon_dev *d = balloon(v);
    bool live = vmc_virtio_live(v);

    out->target_pages = config32(d, CFG_NUM_PAGES);
    out->actual_pages = config32(d, CFG_ACTUAL);
    out->held_pages = vmci_load_relaxed(&d->held.pages);
    out->reported_bytes = vmci_load_relaxed(&d->reported_bytes);
    out->hinted_bytes = vmci_load_relaxed(&d->hinted_bytes);
    out->rejected = vmci_load_relaxed(&d->rejected);
    out->stats_supported = live && vmci_virtio_has(v, F_STATS_VQ);
    out->reporting = live && vmci_virtio_has(v, F_REPORTING);
    out->hinting = live && vmci_virtio_has(v, F_FREE_PAGE_HINT);
}

static void balloon_config_written(struct vmc_virtio *v, unsigned offset, unsigned bytes)
{
    struct balloon_dev *d = balloon(v);

    if (offset < CFG_ACTUAL + 4 && offset + bytes > CFG_ACTUAL && d->ops->actual != NULL)
        d->ops->actual(d->ctx, config32(d, CFG_ACTUAL));
}

static void balloon_started(struct vmc_virtio *v)
{
    find_roles(balloon(v));
}

/* A driver that starts anew owns all its memory: give everything back. */
static void balloon_reset(struct vmc_virtio *v)
{
    struct balloon_dev *d = balloon(v);

    vmci_held_clear(&d->held, d->ops->deflate, d->ctx);
    vmci_store_relaxed(&d->want_stats, 0);
    vmci_store_relaxed(&d->asked_stats, 0);
    vmci_store_relaxed(&d->hint_active, 0);
    vmci_virtio_config_begin(v);
    vmci_store_release(&d->hint_id, HINT_STOP);
    memset(v->config + CFG_ACTUAL, 0, CFG_BYTES - CFG_ACTUAL);
    vmci_virtio_config_end(v, false);
}

static void balloon_save(struct vmc_virtio *v, struct vmci_vsave *s)
{
    struct balloon_dev *d = balloon(v);

    vmci_vsave_u64(s, d->hint_id);
    vmci_vsave_u64(s, d->hint_last);
    vmci_vsave_u64(s, d->hint_active);
    vmci_vsave_u64(s, d->want_stats);
    vmci_vsave_u64(s, d->asked_stats);
    vmci_vsave_u64(s, d->held.limit);
    for (uint64_t w = 0; w < VMCI_BITMAP_WORDS(d->held.limit); w++)
        vmci_vsave_u64(s, d->held.bits[w]);
}

static int balloon_load(struct vmc_virtio *v, struct vmci_vload *l, bool commit,
                        struct vmc_error *err)
{
    struct balloon_dev *d = balloon(v);
    uint64_t f[6];
    uint64_t count = 0;

    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(f); i++)
        f[i] = vmci_vload_u64(l);
    if ((f[0] | f[1]) > UINT32_MAX || (f[2] | f[3] | f[4]) > 1 || f[5] != d->held.limit)
        return vmci_error(err, VMC_EFORMAT, "virtio-balloon/load",
                          "state of a machine with %llu pages, not %llu", (unsigned long long)f[5],
                          (unsigned long long)d->held.limit);
    for (uint64_t w = 0; w < VMCI_BITMAP_WORDS(d->held.limit); w++) {
        uint64_t bits = vmci_vload_u64(l);
        if (commit)
            vmci_store_relaxed(&d->held.bits[w], bits);
        for (; bits != 0; bits &= bits - 1) {
            uint64_t page = w * 64 + (unsigned)__builtin_ctzll(bits);
            if (vmci_held_slot(&d->held, page) == NULL)
                return vmci_error(err, VMC_EFORMAT, "virtio-balloon/load",
                                  "page %#llx in the balloon is not RAM",
                                  (unsigned long long)(page << VMC_PAGE_SHIFT));
            count++;
        }
    }
    if (commit) {
        vmci_store_relaxed(&d->hint_id, (uint32_t)f[0]);
        vmci_store_relaxed(&d->hint_last, (uint32_t)f[1]);
        vmci_store_relaxed(&d->hint_active, (uint32_t)f[2]);
        vmci_store_relaxed(&d->want_stats, (uint32_t)f[3]);
        vmci_store_relaxed(&d->asked_stats, (uint32_t)f[4]);
        vmci_store_relaxed(&d->held.pages, count);
        find_roles(d);
    }
    return VMC_OK;
}

static size_t sg_bytes(void)
{
    return ROLES * vmci_chain_bytes(PIECES);
}

static void free_all(struct balloon_dev *d, const struct vmc_platform *pf)
{
    vmci_held_fini(&d->held);
    vmci_free(pf, d->sg, sg_bytes());
    vmci_free(pf, d, sizeof(*d));
}

static void balloon_destroy(struct vmc_virtio *v)
{
    const struct vmc_platform *pf = v->pf;

    vmci_virtio_fini(v);
    free_all(balloon(v), pf);
}

static const struct vmci_virtio_class balloon_class = {
    .device = {.name = "virtio-balloon"},
    .device_id = DEVICE_ID,
    .pci_class = 0x00ff00,
    .config_bytes = CFG_BYTES,
    .config_writable = 0xfull << CFG_ACTUAL | 0xfull << CFG_POISON,
    .started = balloon_started,
    .work = balloon_work,
    .config_written = balloon_config_written,
    .reset = balloon_reset,
    .save = VMCI_SNAPSHOT(balloon_save),
    .load = VMCI_SNAPSHOT(balloon_load),
    .destroy = balloon_destroy,
};

int vmc_virtio_balloon_create(struct vmc_board *bd, const struct vmc_virtio_balloon_config *cfg,
                              struct vmc_virtio **out, struct vmc_error *err)
{
    static const struct vmc_balloon_ops no_ops;
    const struct vmc_platform *pf = bd->platform;
    struct balloon_dev *d = vmci_zalloc(pf, sizeof(*d));
    uint64_t features = F_MUST_TELL_HOST | F_STATS_VQ | F_PAGE_POISON;

    if (d == NULL)
        return vmci_error(err, VMC_ENOMEM, "virtio-balloon/create", "no memory");
    d->ops = cfg->ops != NULL ? cfg->ops : &no_ops;
    d->ctx = cfg->ctx;
    int rc = vmci_held_init(&d->held, bd->mem, err);
    d->sg = vmci_zalloc(pf, sg_bytes());
    if (rc == VMC_OK && d->sg == NULL)
        rc = vmci_error(err, VMC_ENOMEM, "virtio-balloon/create", "no memory");
    if (rc != VMC_OK) {
        free_all(d, pf);
        return rc;
    }
    for (unsigned i = 0; i < ROLES; i++) {
        vmci_chain_place(&d->ch[i], (unsigned char *)d->sg + i * vmci_chain_bytes(PIECES), PIECES);
        d->ch[i].unmapped = true; /* nothing is ever written to a buffer of the driver */
    }
    if (cfg->deflate_on_oom)
        features |= F_DEFLATE_ON_OOM;
    if (cfg->free_page_hinting)
        features |= F_FREE_PAGE_HINT;
    if (cfg->free_page_reporting)
        features |= F_REPORTING;
    rc = vmci_virtio_init(&d->v, bd, &cfg->virtio, &balloon_class, features, ROLES, err);
    if (rc != VMC_OK) {
        free_all(d, pf);
        return rc;
    }
    *out = &d->v;
    return VMC_OK;
}
