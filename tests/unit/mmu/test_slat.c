/* SPDX-License-Identifier: BSD-2-Clause */
/* EPT and NPT tables, one body for both formats; shadow tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hw_model.h"

#define RWX (VMCI_SLAT_R | VMCI_SLAT_W | VMCI_SLAT_X)
#define M2  0x200000ull
#define G1  0x40000000ull

static struct hw_model model; /* for its platform */
static const struct vmci_slat_format *const formats[] = {&vmci_ept_format, &vmci_npt_format};
static struct vmci_slat s;

static void begin(const struct vmci_slat_format *f, bool ad)
{
    struct vmc_error err;

    assert_int_equal(hw_model_init(&model, HW_MODEL_FULL, &err), VMC_OK);
    assert_int_equal(vmci_slat_init(&s, &model.tp.pf, f, 3, ad), VMC_OK);
}

static void end(void)
{
    vmci_slat_fini(&s);
    hw_model_fini(&model);
    test_platform_check(&model.tp);
}

/* The entry of a page, for playing the processor. */
static uint64_t *entry(uint64_t gpa, unsigned level)
{
    uint64_t *t = s.root;

    for (unsigned l = 4; l > level; l--)
        t = (uint64_t *)(uintptr_t)(t[(gpa >> (12 + 9 * (l - 1))) & 511] & 0xffffffffff000ull);
    return &t[(gpa >> (12 + 9 * (level - 1))) & 511];
}

static void all_sizes_map(void **state)
{
    (void)state;
    for (unsigned f = 0; f < 2; f++) {
        begin(formats[f], true);
        assert_int_equal(vmci_slat_map(&s, 0x5000, 0x77000, 1, RWX, VMCI_MT_WB), 0);
        assert_int_equal(vmci_slat_map(&s, 4 * M2, 8 * M2, 2, VMCI_SLAT_R, VMCI_MT_WB), 0);
        assert_int_equal(vmci_slat_map(&s, 2 * G1, 5 * G1, 3, RWX, VMCI_MT_UC), 0);
        struct vmci_slat_entry e = vmci_slat_lookup(&s, 0x5123);
        assert_true(e.kind == VMCI_SLAT_LEAF && e.level == 1 && e.hpa == 0x77123 &&
                    e.rights == RWX);
        e = vmci_slat_lookup(&s, 4 * M2 + 0x12345);
        assert_true(e.level == 2 && e.hpa == 8 * M2 + 0x12345 && e.rights == VMCI_SLAT_R);
        e = vmci_slat_lookup(&s, 2 * G1 + 0x3456789);
        assert_true(e.level == 3 && e.hpa == 5 * G1 + 0x3456789);
        assert_int_equal(vmci_slat_lookup(&s, 0x6000).kind, VMCI_SLAT_NONE);
        assert_true(s.leaves[1] == 1 && s.leaves[2] == 1 && s.leaves[3] == 1);
        end();
    }
}

static void large_leaves_split_and_merge(void **state)
{
    (void)state;
    for (unsigned f = 0; f < 2; f++) {
        begin(formats[f], true);
        assert_int_equal(vmci_slat_map(&s, 0, 3 * G1, 3, RWX, VMCI_MT_WB), 0);
        /* One page elsewhere: 1 GiB falls apart to 2 MiB, and one of those to 4 KiB. */
        assert_int_equal(vmci_slat_map(&s, 0x7000, 0x99000, 1, RWX, VMCI_MT_WB), 1);
        assert_int_equal(vmci_slat_lookup(&s, 0x7000).hpa, 0x99000);
        assert_true(vmci_slat_lookup(&s, 0x8000).hpa == 3 * G1 + 0x8000);
        assert_true(vmci_slat_lookup(&s, 9 * M2 + 5).hpa == 3 * G1 + 9 * M2 + 5);
        assert_int_equal(vmci_slat_lookup(&s, 9 * M2).level, 2);
        assert_true(s.leaves[1] == 512 && s.leaves[2] == 511 && s.leaves[3] == 0);
        assert_int_equal(vmci_slat_merge(&s, 0, 2), 0); /* not contiguous */
        assert_int_equal(vmci_slat_map(&s, 0x7000, 3 * G1 + 0x7000, 1, RWX, VMCI_MT_WB), 1);
        assert_int_equal(vmci_slat_merge(&s, 0, 2), 1);
        assert_int_equal(vmci_slat_merge(&s, 0, 3), 1);
        assert_int_equal(vmci_slat_lookup(&s, 0x7000).level, 3);
        vmci_slat_reclaim(&s);
        assert_true(s.tables == 2 && s.leaves[3] == 1 && s.leaves[2] == 0 && s.leaves[1] == 0);
        end();
    }
}

static unsigned told, told_written;

static void seen(void *ctx, uint64_t gpa, uint64_t bytes, bool written)
{
    (void)ctx, (void)gpa, (void)bytes;
    told++;
    told_written += written;
}

static void rights_are_lowered_with_one_flush(void **state)
{
    (void)state;
    for (unsigned f = 0; f < 2; f++) {
        begin(formats[f], false);
        for (unsigned i = 0; i < 64; i++)
            assert_int_equal(vmci_slat_map(&s, i * 4096ull, i * 4096ull, 1, RWX, VMCI_MT_WB), 0);
        told = told_written = 0;
        assert_int_equal(vmci_slat_range(&s, VMCI_SLAT_PROTECT, 0x2000, 0x4000, seen, NULL), 1);
        assert_int_equal(told, 4);
        assert_int_equal(told_written, 4);
        assert_int_equal(vmci_slat_lookup(&s, 0x3000).rights & VMCI_SLAT_W, 0);
        assert_int_not_equal(vmci_slat_lookup(&s, 0x6000).rights & VMCI_SLAT_W, 0);
        assert_int_equal(vmci_slat_range(&s, VMCI_SLAT_PROTECT, 0x2000, 0x4000, seen, NULL), 0);
        /* Raising a right needs no flush; mapping elsewhere does. */
        assert_int_equal(vmci_slat_map(&s, 0x3000, 0x3000, 1, RWX, VMCI_MT_WB), 0);
        assert_int_equal(vmci_slat_map(&s, 0x3000, 0x9000, 1, RWX, VMCI_MT_WB), 1);
        assert_int_equal(vmci_slat_range(&s, VMCI_SLAT_UNMAP, 0, 0, NULL, NULL), 1);
        assert_true(s.leaves[1] == 0);
        end();
    }
}

static void dirty_and_accessed_bits(void **state)
{
    (void)state;
    for (unsigned f = 0; f < 2; f++) {
        begin(formats[f], true);
        assert_int_equal(vmci_slat_map(&s, 0, 0, 2, RWX, VMCI_MT_WB), 0);
        *entry(0, 2) |= formats[f]->dirty | formats[f]->accessed;
        assert_true(vmci_slat_lookup(&s, 0).dirty && vmci_slat_lookup(&s, 0).accessed);
        told = told_written = 0;
        /* A part of a dirty large page: it is split, and every piece was dirty. */
        assert_int_equal(vmci_slat_range(&s, VMCI_SLAT_CLEAN, 0x1000, 0x2000, seen, NULL), 1);
        assert_int_equal(told_written, 2);
        assert_false(vmci_slat_lookup(&s, 0x1000).dirty);
        assert_true(vmci_slat_lookup(&s, 0x3000).dirty);
        assert_int_equal(vmci_slat_range(&s, VMCI_SLAT_AGE, 0, 0, NULL, NULL), 1);
        assert_false(vmci_slat_lookup(&s, 0x3000).accessed);
        end();
    }
}

/* Two processors fault at a page; one maps it and writes, then the other maps it again. */
static void faults_at_once_lose_nothing(void **state)
{
    (void)state;
    for (unsigned f = 0; f < 2; f++)
        for (unsigned level = 1; level <= 2; level++) {
            uint64_t ad = formats[f]->dirty | formats[f]->accessed;
            begin(formats[f], true);
            assert_int_equal(vmci_slat_map(&s, M2, 5 * M2, level, RWX, VMCI_MT_WB), 0);
            *entry(M2, level) |= ad;
            assert_int_equal(vmci_slat_map(&s, M2, 5 * M2, level, RWX, VMCI_MT_WB), 0);
            assert_true(vmci_slat_lookup(&s, M2).dirty && vmci_slat_lookup(&s, M2).accessed);
            /* Of another page nothing is known. */
            assert_int_equal(vmci_slat_map(&s, M2, 6 * M2, level, RWX, VMCI_MT_WB), 1);
            assert_false(vmci_slat_lookup(&s, M2).dirty || vmci_slat_lookup(&s, M2).accessed);
            assert_int_equal(s.leaves[level], 1);
            end();
        }
}

/* The processor writes to a page that is about to go. */
static bool stale_and_written(void *ctx, uint64_t gpa, unsigned level, uint64_t hpa,
                              uint32_t rights)
{
    (void)hpa, (void)rights;
    *entry(gpa, level) |= ((const struct vmci_slat_format *)ctx)->dirty;
    return true;
}

static void last_writes_are_told(void **state)
{
    (void)state;
    for (unsigned f = 0; f < 2; f++) {
        begin(formats[f], true);
        assert_int_equal(vmci_slat_map(&s, 0x3000, 0x9000, 1, RWX, VMCI_MT_WB), 0);
        told = told_written = 0;
        assert_int_equal(vmci_slat_recheck(&s, 0x3000, 0x1000, stale_and_written, seen,
                                           (void *)(uintptr_t)formats[f]),
                         1);
        assert_true(told == 1 && told_written == 1);
        end();
    }
}

static void device_pages(void **state)
{
    (void)state;
    begin(&vmci_ept_format, true);
    assert_int_equal(vmci_slat_map_mmio(&s, 0xfee00000u), 0);
    assert_int_equal(vmci_slat_lookup(&s, 0xfee00000u).kind, VMCI_SLAT_MMIO);
    assert_int_equal(*entry(0xfee00000u, 1) & 7, 2); /* write without read */
    assert_int_equal(vmci_slat_map(&s, 0xfee00000u, 0x1000, 1, RWX, VMCI_MT_WB), 1);
    end();
    begin(&vmci_npt_format, true);
    assert_int_equal(vmci_slat_map_mmio(&s, 0xfee00000u), VMC_ENOTSUP);
    end();
}

static void against_a_simple_model(void **state)
{
    (void)state;
    static uint64_t want[4096]; /* hpa of each page of 16 MiB, 0: none */
    uint64_t seed = 0x12345;

    for (unsigned f = 0; f < 2; f++) {
        begin(formats[f], true);
        memset(want, 0, sizeof(want));
        for (unsigned step = 0; step < 4000; step++) {
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            unsigned r = (unsigned)(seed >> 33);
            unsigned page = r % 4096;
            if (r & 0x10000) {
                uint64_t hpa = (uint64_t)(r % 1000 + 1) << 12;
                assert_true(vmci_slat_map(&s, page * 4096ull, hpa, 1, RWX, VMCI_MT_WB) >= 0);
                want[page] = hpa;
            } else if (r & 0x20000) {
                unsigned first = page & ~511u;
                uint64_t hpa = (uint64_t)(r % 100 + 1) * M2;
                assert_true(vmci_slat_map(&s, first * 4096ull, hpa, 2, RWX, VMCI_MT_WB) >= 0);
                for (unsigned i = 0; i < 512; i++)
                    want[first + i] = hpa + i * 4096ull;
            } else if (r & 0x40000) {
                (void)vmci_slat_merge(&s, page * 4096ull & ~(M2 - 1), 2);
            } else {
                unsigned n = VMCI_MIN(r % 64u + 1, 4096 - page);
                (void)vmci_slat_range(&s, VMCI_SLAT_PROTECT, page * 4096ull, n * 4096ull, NULL,
                                      NULL);
            }
            vmci_slat_reclaim(&s);
            for (unsigned i = 0; i < 8; i++) {
                unsigned p = (page + i * 509) % 4096;
                struct vmci_slat_entry e = vmci_slat_lookup(&s, p * 4096ull);
                assert_true(want[p] == 0 ? e.kind == VMCI_SLAT_NONE : e.hpa == want[p]);
            }
        }
        end();
    }
}

/* ---- shadow tables ----------------------------------------------------------------------------
 */

static void shadow_of_every_paging_mode(void **state)
{
    (void)state;
    struct vmc_error err;
    struct vmci_shadow sh;
    struct vmc_walk w;
    bool flushed;

    assert_int_equal(hw_model_init(&model, HW_MODEL_FULL, &err), VMC_OK);
    assert_int_equal(vmci_shadow_init(&sh, &model.tp.pf, model.mem, model.ops.to_phys), VMC_OK);
    assert_true(sh.root_hpa < 1ull << 32);
    uint64_t hpa = (uint64_t)(uintptr_t)(model.ram + 0x6000);
    const uint64_t mask = 0x000ffffffffff000ull;
    struct vmc_paging pg = {.cr0 = VMC_CR0_PE};

    /* Without paging. */
    assert_int_equal(vmci_shadow_fault(&sh, &pg, 0x6123, VMC_ACC_WRITE, &w, &flushed),
                     VMCI_SHADOW_MAPPED);
    assert_true((vmci_shadow_peek(&sh, 0x6123) & mask) == hpa);
    /* 32-bit paging, a 4 MiB page: INVLPG anywhere in it drops all its pieces. */
    vmci_shadow_flush(&sh);
    uint32_t *pd = (uint32_t *)(void *)(model.ram + 0x1000);
    pd[1] = 0 | 0x87;
    pg.cr0 |= VMC_CR0_PG | VMC_CR0_WP;
    pg.cr3 = 0x1000;
    pg.cr4 = VMC_CR4_PSE;
    assert_int_equal(vmci_shadow_fault(&sh, &pg, 0x406000, 0, &w, &flushed), VMCI_SHADOW_MAPPED);
    assert_true((vmci_shadow_peek(&sh, 0x406000) & mask) == hpa);
    assert_int_equal(vmci_shadow_peek(&sh, 0x406000) & 2, 0); /* not written yet */
    assert_int_equal(vmci_shadow_fault(&sh, &pg, 0x406000, VMC_ACC_WRITE, &w, &flushed),
                     VMCI_SHADOW_MAPPED);
    assert_int_equal(vmci_shadow_peek(&sh, 0x406000) & 2, 2);
    assert_int_equal(pd[1] & 0x60, 0x60); /* accessed and dirty in the guest's table */
    vmci_shadow_invlpg(&sh, 0x7ff000);
    assert_int_equal(vmci_shadow_peek(&sh, 0x406000), 0);
    assert_int_equal(vmci_shadow_fault(&sh, &pg, 0x800000, VMC_ACC_USER, &w, &flushed),
                     VMCI_SHADOW_FAULT);
    assert_int_equal(w.fault_code, VMC_PF_USER);
    /* A supervisor's write with WP clear, then a user's read of the same page. */
    pd[1] = 0 | 0x85;
    pg.cr0 &= ~VMC_CR0_WP;
    assert_int_equal(vmci_shadow_fault(&sh, &pg, 0x406000, VMC_ACC_WRITE, &w, &flushed),
                     VMCI_SHADOW_MAPPED);
    assert_int_equal(vmci_shadow_peek(&sh, 0x406000) & 7, 3);
    assert_int_equal(vmci_shadow_fault(&sh, &pg, 0x406000, VMC_ACC_USER, &w, &flushed),
                     VMCI_SHADOW_MAPPED);
    assert_int_equal(vmci_shadow_peek(&sh, 0x406000) & 7, 5);
    /* PAE, from its registers. */
    vmci_shadow_flush(&sh);
    uint64_t *pae = (uint64_t *)(void *)(model.ram + 0x2000);
    pae[0] = 0 | 0xe7;
    pg.cr4 = VMC_CR4_PAE;
    pg.pdpte[3] = 0x2001;
    assert_int_equal(vmci_shadow_fault(&sh, &pg, 0xc0006000u, 0, &w, &flushed), VMCI_SHADOW_MAPPED);
    assert_true((vmci_shadow_peek(&sh, 0xc0006000u) & mask) == hpa);
    /* 4-level, no-execute, and a hole. */
    vmci_shadow_load(&sh, true, 0x3000);
    uint64_t *l4 = (uint64_t *)(void *)(model.ram + 0x3000);
    l4[511] = 0x4007;
    ((uint64_t *)(void *)(model.ram + 0x4000))[510] = 0 | 0xe7 | 1ull << 63;
    pg.cr3 = 0x3000;
    pg.efer = VMC_EFER_LMA | VMC_EFER_LME | VMC_EFER_NX;
    uint64_t top = 0xffffffff80000000ull;
    assert_int_equal(vmci_shadow_fault(&sh, &pg, top + 0x6000, 0, &w, &flushed),
                     VMCI_SHADOW_MAPPED);
    assert_true(vmci_shadow_peek(&sh, top + 0x6000) >> 63);
    assert_int_equal(vmci_shadow_fault(&sh, &pg, top + 0x6000, VMC_ACC_FETCH, &w, &flushed),
                     VMCI_SHADOW_FAULT);
    assert_int_equal(vmci_shadow_fault(&sh, &pg, top + 0x20000000, 0, &w, &flushed),
                     VMCI_SHADOW_EMULATE);
    vmci_shadow_fini(&sh);
    hw_model_fini(&model);
    test_platform_check(&model.tp);
}

static uint64_t random_state;

static uint64_t rnd(void)
{
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return random_state >> 20;
}

#define TABLES                                                                                     \
    224u /* pages of RAM that are page tables, each at every level and of every process */

static uint64_t *table(unsigned page)
{
    return (uint64_t *)(void *)(model.ram + page * VMC_PAGE_SIZE);
}

/* An entry that is valid at every level: a table, or a large page of low memory. */
static uint64_t random_entry(void)
{
    uint64_t r = rnd(), rights = (r & 7) != 0 ? 7 : 1 | (r >> 3 & 6);

    if ((r >> 8) % 8 == 0)
        return 0;
    if ((r >> 8) % 8 == 1 && (r >> 16) % 4 == 0)
        return rights | 0x80 | (r >> 20 & 0x60);
    return rights | (r >> 24) % TABLES << VMC_PAGE_SHIFT | (r >> 20 & 0x60);
}

/* Nothing that the processor would use may differ from what the guest's tables now say. */
static void check_shadow(const struct vmci_shadow *sh, const struct vmc_paging *pg, uint64_t gva)
{
    uint64_t e = vmci_shadow_peek(sh, gva);
    struct vmc_walk w;

    if (e == 0)
        return;
    assert_int_equal(vmc_walk_gva(model.mem, pg, gva, VMC_ACC_PROBE, &w), VMC_OK);
    assert_int_equal(e & 0x000ffffffffff000ull,
                     (uint64_t)(uintptr_t)(model.ram + (w.gpa & ~0xfffull)));
    assert_true((e & 2) == 0 || (w.rights & (VMC_RIGHT_WRITE | VMC_RIGHT_DIRTY)) ==
                                    (VMC_RIGHT_WRITE | VMC_RIGHT_DIRTY));
    assert_int_equal((e & 4) != 0, (w.rights & VMC_RIGHT_USER) != 0);
    assert_int_equal(e >> 63, (w.rights & VMC_RIGHT_EXEC) == 0);
}

static uint64_t random_gva(void)
{
    uint64_t r = rnd(); /* few values of each index, so that addresses meet */

    return (r & 3) << 39 | (r >> 4 & 3) << 30 | (r >> 8 & 7) << 21 | (r >> 12 & 15) << 12;
}

/*
 * Tables made at random, each serving as any level of any process, changed at random. After a
 * change of CR3 nothing that is kept may differ from them, after INVLPG nothing at that address.
 */
static void shadows_are_kept_and_right(void **state)
{
    (void)state;
    struct vmc_error err;
    struct vmci_shadow sh;
    struct vmc_walk w;
    bool flushed;
    unsigned mapped = 0, full = 0, right = 0;

    assert_int_equal(hw_model_init(&model, HW_MODEL_FULL, &err), VMC_OK);
    assert_int_equal(vmci_shadow_init(&sh, &model.tp.pf, model.mem, model.ops.to_phys), VMC_OK);
    random_state = 5;
    for (unsigned t = 0; t < TABLES; t++)
        for (unsigned i = 0; i < 512; i++)
            table(t)[i] = random_entry() & (i < 4 ? ~0x80ull : ~0ull);
    struct vmc_paging pg = {.cr0 = VMC_CR0_PE | VMC_CR0_PG | VMC_CR0_WP,
                            .cr4 = VMC_CR4_PAE,
                            .efer = VMC_EFER_LMA | VMC_EFER_LME | VMC_EFER_NX};
    vmci_shadow_load(&sh, true, 0);
    sh.limit = 200; /* so that they run out */
    for (unsigned step = 0; step < 60000; step++) {
        uint64_t gva = random_gva(), r = rnd();
        if (r % 16 < 12) {
            uint32_t access =
                ((r >> 8) % 3 == 0 ? VMC_ACC_WRITE : 0) | ((r >> 12) % 3 == 0 ? VMC_ACC_USER : 0);
            enum vmci_shadow_result res = vmci_shadow_fault(&sh, &pg, gva, access, &w, &flushed);
            full += flushed;
            if (res == VMCI_SHADOW_MAPPED) {
                uint64_t e = vmci_shadow_peek(&sh, gva);
                assert_int_not_equal(e, 0);
                assert_true((access & VMC_ACC_WRITE) == 0 || (e & 2) != 0);
                mapped++;
            }
        } else if (r % 16 < 14) {
            /* A leaf or a table on the way changes, at most one entry since the last flush. */
            table((unsigned)(rnd() % TABLES))[rnd() % 16] = random_entry() & ~0x80ull;
            if (r % 2 == 0) {
                vmci_shadow_invlpg(&sh, gva);
                check_shadow(&sh, &pg, gva);
            }
            vmci_shadow_load(&sh, true, pg.cr3);
        } else {
            pg.cr3 = rnd() % TABLES << VMC_PAGE_SHIFT;
            vmci_shadow_load(&sh, true, pg.cr3);
        }
        if (r % 16 >= 12)
            for (unsigned i = 0; i < 20; i++) {
                gva = random_gva();
                right += vmci_shadow_peek(&sh, gva) != 0;
                check_shadow(&sh, &pg, gva);
            }
    }
    assert_true(mapped > 1000 && right > 1000 && full > 0 && sh.kept > 1000 && sh.ahead > 0);
    vmci_shadow_fini(&sh);
    hw_model_fini(&model);
    test_platform_check(&model.tp);
}

/* A table that is unlinked, changed, named by INVLPG and linked again must not be as it was. */
static void unlinked_shadows_miss_nothing(void **state)
{
    (void)state;
    struct vmc_error err;
    struct vmci_shadow sh;
    struct vmc_walk w;
    bool flushed;
    struct vmc_paging pg = {.cr0 = VMC_CR0_PE | VMC_CR0_PG | VMC_CR0_WP,
                            .cr3 = 0x10000,
                            .cr4 = VMC_CR4_PAE,
                            .efer = VMC_EFER_LMA | VMC_EFER_LME | VMC_EFER_NX};
    const uint64_t gva = 0x5000, mask = 0x000ffffffffff000ull;

    assert_int_equal(hw_model_init(&model, HW_MODEL_FULL, &err), VMC_OK);
    assert_int_equal(vmci_shadow_init(&sh, &model.tp.pf, model.mem, model.ops.to_phys), VMC_OK);
    for (unsigned l = 0; l < 3; l++)
        table(16 + l)[0] = (17ull + l) << 12 | 7;
    table(19)[5] = 0x40007;
    table(19)[6] = 0x41007 | 0x60; /* accessed and dirty: mapped ahead */
    vmci_shadow_load(&sh, true, pg.cr3);
    assert_int_equal(vmci_shadow_fault(&sh, &pg, gva, VMC_ACC_WRITE, &w, &flushed),
                     VMCI_SHADOW_MAPPED);
    assert_int_equal(vmci_shadow_peek(&sh, gva) & mask, (uint64_t)(uintptr_t)(model.ram + 0x40000));
    assert_int_equal(vmci_shadow_peek(&sh, 0x6000) & 7, 7);
    uint64_t kept = sh.kept;
    vmci_shadow_load(&sh, true, 0x20000);
    vmci_shadow_load(&sh, true, pg.cr3);
    assert_int_equal(sh.kept, kept + 1);
    assert_int_equal(vmci_shadow_peek(&sh, gva) & 7, 7); /* found again */
    for (unsigned level = 0; level < 3; level++) {
        uint64_t link = table(16 + level)[0];
        uint64_t to = 0x50000 + level * 0x1000;
        table(16 + level)[0] = 0;
        vmci_shadow_invlpg(&sh, gva);
        assert_int_equal(vmci_shadow_peek(&sh, gva), 0);
        table(19)[5] = to | 7;
        vmci_shadow_invlpg(&sh, gva);
        table(16 + level)[0] = link;
        assert_int_equal(vmci_shadow_fault(&sh, &pg, 0x6000, 0, &w, &flushed), VMCI_SHADOW_MAPPED);
        uint64_t e = vmci_shadow_peek(&sh, gva);
        assert_true(e == 0 || (e & mask) == (uint64_t)(uintptr_t)(model.ram + to));
        assert_int_equal(vmci_shadow_fault(&sh, &pg, gva, VMC_ACC_WRITE, &w, &flushed),
                         VMCI_SHADOW_MAPPED);
        assert_int_equal(vmci_shadow_peek(&sh, gva) & mask, (uint64_t)(uintptr_t)(model.ram + to));
    }
    vmci_shadow_fini(&sh);
    hw_model_fini(&model);
    test_platform_check(&model.tp);
}

/* Another vCPU changes an entry after it was walked; asked for its host address. */
static struct {
    uint64_t *entry, value;
} change;

static uint64_t change_and_to_phys(void *ctx, const void *va, uint64_t *run)
{
    if (change.entry != NULL)
        *change.entry = change.value;
    change.entry = NULL;
    return model.ops.to_phys(ctx, va, run);
}

static void entries_that_change_under_way(void **state)
{
    (void)state;
    /* Another page by the leaf, or by the table above it; the same, no longer dirty; a piece. */
    static const struct {
        unsigned page, index;
        uint64_t value;
    } cases[] = {{19, 5, 0x50067}, {18, 0, 20u << 12 | 0x27}, {19, 5, 0x40027}, {18, 0, 0xe7}};
    const uint64_t gva = 0x5000, mask = 0x000ffffffffff000ull;
    struct vmc_paging pg = {.cr0 = VMC_CR0_PE | VMC_CR0_PG | VMC_CR0_WP,
                            .cr3 = 0x10000,
                            .cr4 = VMC_CR4_PAE,
                            .efer = VMC_EFER_LMA | VMC_EFER_LME | VMC_EFER_NX};
    struct vmc_error err;
    struct vmci_shadow sh;
    struct vmc_walk w;
    bool flushed;

    for (unsigned c = 0; c < VMCI_ARRAY_SIZE(cases); c++) {
        assert_int_equal(hw_model_init(&model, HW_MODEL_FULL, &err), VMC_OK);
        assert_int_equal(vmci_shadow_init(&sh, &model.tp.pf, model.mem, change_and_to_phys),
                         VMC_OK);
        for (unsigned l = 0; l < 3; l++)
            table(16 + l)[0] = (17ull + l) << 12 | 7;
        table(19)[5] = 0x40007;
        table(20)[5] = 0x51067;
        vmci_shadow_load(&sh, true, pg.cr3);
        change.entry = &table(cases[c].page)[cases[c].index];
        change.value = cases[c].value;
        for (unsigned i = 0; i < 2; i++) {
            assert_int_equal(vmci_shadow_fault(&sh, &pg, gva, VMC_ACC_WRITE, &w, &flushed),
                             VMCI_SHADOW_MAPPED);
            assert_null(change.entry);
            /* The other vCPU asks for a flush; what is kept is so. */
            vmci_shadow_load(&sh, true, pg.cr3);
            uint64_t e = vmci_shadow_peek(&sh, gva);
            struct vmc_walk now;
            assert_int_equal(vmc_walk_gva(model.mem, &pg, gva, VMC_ACC_PROBE, &now), VMC_OK);
            if (e != 0) {
                assert_true((e & mask) == (uint64_t)(uintptr_t)(model.ram + (now.gpa & mask)));
                assert_true((e & 2) == 0 || (now.rights & VMC_RIGHT_DIRTY) != 0);
            }
            assert_true(i == 0 || e != 0); /* found the next time */
        }
        vmci_shadow_fini(&sh);
        hw_model_fini(&model);
        test_platform_check(&model.tp);
    }
}

/* A supervisor's write with WP clear makes a page the supervisor's, which SMAP does not look at. */
static void smap_is_not_lost_with_wp_clear(void **state)
{
    (void)state;
    struct vmc_error err;
    struct vmci_shadow sh;
    struct vmc_walk w;
    bool flushed;
    struct vmc_paging pg = {
        .cr0 = VMC_CR0_PE | VMC_CR0_PG, .cr3 = 0x1000, .cr4 = VMC_CR4_PSE | VMC_CR4_SMAP};

    assert_int_equal(hw_model_init(&model, HW_MODEL_FULL, &err), VMC_OK);
    assert_int_equal(vmci_shadow_init(&sh, &model.tp.pf, model.mem, model.ops.to_phys), VMC_OK);
    ((uint32_t *)(void *)(model.ram + 0x1000))[1] = 0x85;
    assert_int_equal(
        vmci_shadow_fault(&sh, &pg, 0x406000, VMC_ACC_WRITE | VMC_ACC_AC, &w, &flushed),
        VMCI_SHADOW_EMULATE);
    assert_int_equal(vmci_shadow_peek(&sh, 0x406000), 0);
    vmci_shadow_fini(&sh);
    hw_model_fini(&model);
    test_platform_check(&model.tp);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_sizes_map),
        cmocka_unit_test(large_leaves_split_and_merge),
        cmocka_unit_test(rights_are_lowered_with_one_flush),
        cmocka_unit_test(dirty_and_accessed_bits),
        cmocka_unit_test(faults_at_once_lose_nothing),
        cmocka_unit_test(last_writes_are_told),
        cmocka_unit_test(device_pages),
        cmocka_unit_test(against_a_simple_model),
        cmocka_unit_test(shadow_of_every_paging_mode),
        cmocka_unit_test(shadows_are_kept_and_right),
        cmocka_unit_test(unlinked_shadows_miss_nothing),
        cmocka_unit_test(entries_that_change_under_way),
        cmocka_unit_test(smap_is_not_lost_with_wp_clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
