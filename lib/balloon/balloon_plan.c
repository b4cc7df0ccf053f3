/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Targets for all VMs at once: the fixed point of min-funding revocation with an idle-memory tax.
 *
 * A VM with S shares, A active pages and P pages pays the price S / cost(P), where
 * cost(P) = P up to A, and A + (P - A) * 100 / (100 - tax) beyond: an idle page costs more than an
 * active one. Revocation takes pages from whoever pays least, until all prices are equal, or a VM
 * is at a bound. So at the fixed point cost(P) = S * x for one number x, or P is a bound; the sum
 * of P over all VMs, as a function of x, is continuous, monotonic and linear in pieces, and x is
 * where it meets the memory that there is. x is found by Newton steps that are kept inside a
 * bracket; it is final, and exact, when no VM is in another piece than the step assumed.
 */
#include "base/base_int.h"
#include <vmcore/balloon.h>

#define SITE         "balloon/plan"
#define MAX_STEPS    256u
#define FRAC_BITS    40u /* of x while it is searched for */
#define BINS         256u
#define COARSE_BITS  10u /* x stays below 2^46, so that cost * 100 fits */
#define COARSE_STEPS 16u

__extension__ typedef unsigned __int128 u128;

/* The bounds and the bend of one VM's line. */
struct line {
    uint64_t lo, hi, bend, shares;
};

static struct line line_of(const struct vmc_balloon_vm *v)
{
    uint64_t hi = v->limit != 0 ? VMCI_MIN(v->limit, v->configured) : v->configured;
    return (struct line){.lo = VMCI_MIN(v->reservation, hi),
                         .hi = hi,
                         .bend = VMCI_MIN(v->active, v->configured),
                         .shares = v->shares};
}

static int check_one(const struct vmc_balloon_vm *v, size_t i, struct vmc_error *err)
{
    if (v->shares == 0 || v->shares > VMC_BALLOON_MAX_SHARES)
        return vmci_error(err, VMC_EINVAL, SITE, "VM %zu has %u shares, not 1 to %u", i, v->shares,
                          VMC_BALLOON_MAX_SHARES);
    if (v->configured > VMC_BALLOON_MAX_PAGES || v->overhead > VMC_BALLOON_MAX_PAGES)
        return vmci_error(err, VMC_EINVAL, SITE, "VM %zu is larger than %llu pages", i,
                          VMC_BALLOON_MAX_PAGES);
    uint64_t limit = v->limit != 0 ? v->limit : v->configured;
    if (v->reservation > limit || v->reservation > v->configured)
        return vmci_error(err, VMC_EINVAL, SITE,
                          "VM %zu has a reservation of %llu pages above its limit of %llu", i,
                          (unsigned long long)v->reservation,
                          (unsigned long long)VMCI_MIN(limit, v->configured));
    return VMC_OK;
}

struct totals {
    uint64_t overhead, lo, hi, shares;
};

static int check(const struct vmc_balloon_vm *vms, size_t n, uint32_t tax, struct totals *t,
                 struct vmc_error *err)
{
    *t = (struct totals){0};
    if (n > VMC_BALLOON_MAX_VMS || tax > VMC_BALLOON_MAX_TAX)
        return vmci_error(err, VMC_EINVAL, SITE, "%zu VMs or a tax of %u %% is too much", n, tax);
    for (size_t i = 0; i < n; i++) {
        int rc = check_one(&vms[i], i, err);
        if (rc != VMC_OK)
            return rc;
        struct line l = line_of(&vms[i]);
        t->overhead += vms[i].overhead;
        t->lo += l.lo;
        t->hi += l.hi;
        t->shares += l.shares;
    }
    return VMC_OK;
}

/* 100 times the sum of all VMs' pages near x is base + slope * x. */
struct piece {
    uint64_t base, slope;
};

/* The line that the sum follows at x, and the sum itself, rounded down a little. */
static uint64_t piece_at(const struct vmc_balloon_vm *vms, size_t n, u128 x, uint64_t keep,
                         struct piece *p)
{
    uint64_t sum = 0;

    *p = (struct piece){0};
    for (size_t i = 0; i < n; i++) {
        struct line l = line_of(&vms[i]);
        u128 wide = l.shares * x >> FRAC_BITS;
        uint64_t cost =
            wide > VMC_BALLOON_MAX_PAGES * 128 ? VMC_BALLOON_MAX_PAGES * 128 : (uint64_t)wide;
        bool idle = cost > l.bend;
        uint64_t pages = idle ? l.bend + (cost - l.bend) * keep / 100 : cost;
        if (pages >= l.hi || pages < l.lo) {
            pages = pages < l.lo ? l.lo : l.hi;
            p->base += 100 * pages;
        } else {
            p->base += idle ? l.bend * (100 - keep) : 0;
            p->slope += l.shares * (idle ? keep : 100);
        }
        sum += pages;
    }
    return sum;
}

/* x as a fraction. */
struct price {
    u128 num;
    uint64_t den;
};

/* 100 * den times the pages of a VM at x: exact. */
static u128 exact_pages(const struct line *l, const struct price *x, uint64_t keep)
{
    u128 cost = l->shares * x->num;
    u128 bend = (u128)l->bend * x->den;

    return cost <= bend ? 100 * cost : 100 * bend + (cost - bend) * keep;
}

/* Do all VMs together get exactly the pages there are? */
static bool is_final(const struct vmc_balloon_vm *vms, size_t n, const struct price *x,
                     uint64_t keep, uint64_t pages)
{
    uint64_t d100 = 100 * x->den;
    u128 sum = 0;

    for (size_t i = 0; i < n; i++) {
        struct line l = line_of(&vms[i]);
        u128 want = exact_pages(&l, x, keep);
        u128 lo = (u128)l.lo * d100, hi = (u128)l.hi * d100;
        sum += want < lo ? lo : want > hi ? hi : want;
    }
    return sum == (u128)pages * d100;
}

/* ---- rounding -------------------------------------------------------------------------------- */

/*
 * The spare pages go to the largest fractions, one each: find the smallest fraction that gets one,
 * byte by byte from the top, like a radix sort that follows one bucket only.
 */
static uint64_t round_up(struct vmc_balloon_vm *vms, size_t n, uint64_t spare, uint64_t d100)
{
    uint32_t bin[BINS];
    uint64_t prefix = 0;
    int shift = 56;

    if (spare == 0)
        return 0;
    while (shift > 0 && d100 >> shift == 0)
        shift -= 8;
    for (; shift >= 0; shift -= 8) {
        memset(bin, 0, sizeof(bin));
        for (size_t i = 0; i < n; i++) {
            uint64_t f = vms[i].scratch;
            if (f != 0 && (shift >= 56 || f >> (shift + 8) == prefix))
                bin[f >> shift & 0xff]++;
        }
        int b = BINS - 1;
        while (b > 0 && bin[b] < spare)
            spare -= bin[b--];
        prefix = prefix << 8 | (unsigned)b;
    }
    /* prefix is the smallest fraction that gets a page; spare of those equal to it do. */
    for (size_t i = 0; i < n; i++) {
        uint64_t f = vms[i].scratch;
        if (f == 0 || f < prefix || (f == prefix && spare == 0))
            continue;
        if (f == prefix)
            spare--;
        vms[i].target++;
    }
    return spare;
}

static void settle(struct vmc_balloon_vm *vms, size_t n, const struct price *x, uint64_t keep,
                   uint64_t pages)
{
    uint64_t d100 = 100 * x->den;

    for (size_t i = 0; i < n; i++) {
        struct line l = line_of(&vms[i]);
        u128 want = exact_pages(&l, x, keep);
        vms[i].scratch = 0;
        if (want <= (u128)l.lo * d100) {
            vms[i].target = l.lo;
        } else if (want >= (u128)l.hi * d100) {
            vms[i].target = l.hi;
        } else {
            vms[i].target = (uint64_t)(want / d100);
            vms[i].scratch = (uint64_t)want - vms[i].target * d100; /* below d100: exact */
        }
        pages -= vms[i].target;
    }
    pages = round_up(vms, n, pages, d100);
    /* Only where corners lie closer together than the search could tell apart: pages are left. */
    for (size_t i = 0; i < n && pages > 0; i++) {
        struct line l = line_of(&vms[i]);
        uint64_t more = VMCI_MIN(l.hi - vms[i].target, pages);
        vms[i].target += more;
        pages -= more;
    }
}

/* ---- the search ------------------------------------------------------------------------------ */

/*
 * Newton steps in 64-bit arithmetic, which is most of the way and cheap. Good to a few pages; where
 * a corner makes it swing, it just stops.
 */
static u128 approach(const struct vmc_balloon_vm *vms, size_t n, const struct totals *t,
                     uint64_t pages, uint64_t keep)
{
    uint64_t x = (uint64_t)(((u128)pages << COARSE_BITS) / t->shares);

    for (unsigned step = 0; step < COARSE_STEPS; step++) {
        uint64_t base = 0, slope = 0;
        for (size_t i = 0; i < n; i++) {
            struct line l = line_of(&vms[i]);
            uint64_t cost = (uint64_t)((u128)l.shares * x >> COARSE_BITS);
            /* Where a VM is can not be predicted: masks, no branches. */
            uint64_t idle = 0ull - (cost > l.bend);
            uint64_t part = (cost - l.bend) & idle;
            uint64_t bent = 100 * (cost - part) + part * keep;
            uint64_t inside = 0ull - ((bent >= 100 * l.lo) & (bent < 100 * l.hi));
            uint64_t rate = 100 - ((100 - keep) & idle);
            base += (l.bend * (100 - keep) & idle & inside) |
                    (100 * (bent < 100 * l.lo ? l.lo : l.hi) & ~inside);
            slope += l.shares * rate & inside;
        }
        if (slope == 0 || base > 100 * pages)
            break;
        u128 next = ((u128)(100 * pages - base) << COARSE_BITS) / slope;
        if (next >> 46 != 0 || (uint64_t)next == x)
            break;
        x = (uint64_t)next;
    }
    return (u128)x << (FRAC_BITS - COARSE_BITS);
}

static void search(struct vmc_balloon_vm *vms, size_t n, const struct totals *t, uint64_t pages,
                   uint64_t keep)
{
    /* Every VM is at its upper bound when it can pay for all of it: x at most that for one share.
     */
    u128 lo = 0, hi = (u128)(VMC_BALLOON_MAX_PAGES * 100) << FRAC_BITS;
    u128 x = approach(vms, n, t, pages, keep);
    struct price exact;
    bool found = false;

    for (unsigned step = 0; step < MAX_STEPS && lo < hi; step++) {
        struct piece p;
        uint64_t sum = piece_at(vms, n, x, keep, &p);
        bool newton = p.slope != 0 && 100 * pages >= p.base;
        if (newton) {
            exact = (struct price){.num = 100 * pages - p.base, .den = p.slope};
            found = is_final(vms, n, &exact, keep, pages);
            if (found)
                break;
        }
        if (sum < pages)
            lo = VMCI_MAX(lo, x + 1);
        else
            hi = VMCI_MIN(hi, x);
        u128 next = newton ? (exact.num << FRAC_BITS) / exact.den : 0;
        x = newton && next > lo && next < hi && step % 4 != 3 ? next : lo + (hi - lo) / 2;
    }
    if (!found) /* the last x with too few pages; its sum is rounded down, too */
        exact = (struct price){.num = lo != 0 ? lo - 1 : 0, .den = 1ull << FRAC_BITS};
    settle(vms, n, &exact, keep, pages);
}

/* Not enough for the reservations: all get the same part of theirs. */
static int scale_down(struct vmc_balloon_vm *vms, size_t n, const struct totals *t, uint64_t host,
                      struct vmc_error *err)
{
    uint64_t pages = host > t->overhead ? host - t->overhead : 0;

    for (size_t i = 0; i < n; i++)
        vms[i].target = t->lo == 0 ? 0 : (uint64_t)((u128)vms[i].reservation * pages / t->lo);
    return vmci_error(err, VMC_ENOSPC, SITE,
                      "reservations of %llu and overheads of %llu pages exceed the host's %llu",
                      (unsigned long long)t->lo, (unsigned long long)t->overhead,
                      (unsigned long long)host);
}

int vmc_balloon_plan(struct vmc_balloon_vm *vms, size_t n, uint64_t host_pages,
                     uint32_t idle_tax_percent, struct vmc_error *err)
{
    struct totals t;
    int rc = check(vms, n, idle_tax_percent, &t, err);

    if (rc != VMC_OK)
        return rc;
    if (host_pages < t.overhead || host_pages - t.overhead < t.lo)
        return scale_down(vms, n, &t, host_pages, err);
    uint64_t pages = host_pages - t.overhead;
    if (pages >= t.hi || pages == t.lo) {
        for (size_t i = 0; i < n; i++) {
            struct line l = line_of(&vms[i]);
            vms[i].target = pages >= t.hi ? l.hi : l.lo;
        }
        return VMC_OK;
    }
    search(vms, n, &t, pages, 100 - idle_tax_percent);
    return VMC_OK;
}

int vmc_balloon_admit(const struct vmc_balloon_vm *vms, size_t n,
                      const struct vmc_balloon_admission *host, struct vmc_error *err)
{
    struct totals t;
    int rc = check(vms, n, 0, &t, err);
    uint64_t swap = 0;

    if (rc != VMC_OK)
        return rc;
    for (size_t i = 0; i < n; i++)
        swap += vms[i].configured - vms[i].reservation;
    if (t.lo + t.overhead > host->host_pages)
        return vmci_error(err, VMC_ENOSPC, "balloon/admit",
                          "reservations and overheads need %llu pages more than the host has",
                          (unsigned long long)(t.lo + t.overhead - host->host_pages));
    if (swap > host->swap_pages)
        return vmci_error(err, VMC_ENOSPC, "balloon/admit",
                          "memory that is not reserved needs %llu pages more of swap space",
                          (unsigned long long)(swap - host->swap_pages));
    return VMC_OK;
}
