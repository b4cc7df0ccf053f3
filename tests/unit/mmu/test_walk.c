/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The walker against the rules of SDM 3A 4.6-4.8 written down a second time, as one predicate over
 * every combination of rights, mode bits and access.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include "mmu/mmu_int.h"
#include "test_platform.h"

#include <cmocka.h>

#define PML4 0x1000ull
#define PDPT 0x2000ull
#define PD   0x3000ull
#define PT   0x4000ull
#define PAGE 0x7000ull
#define GVA  0x40201000ull /* indices 0, 1, 1, 1 */

static struct test_platform tp;
static struct vmc_mem *mem;

static int setup(void **state)
{
    (void)state;
    test_platform_init(&tp);
    if (vmc_mem_create(&tp.pf, &mem, NULL) != VMC_OK)
        return -1;
    struct vmc_mem_slot s = {.size = sizeof(s), .attr = VMC_MEM_RAM, .bytes = 0x800000};
    return vmc_mem_add(mem, &s, NULL);
}

static int teardown(void **state)
{
    (void)state;
    vmc_mem_destroy(mem);
    test_platform_check(&tp);
    return 0;
}

static void put64(uint64_t gpa, uint64_t v)
{
    assert_int_equal(vmc_mem_write(mem, gpa, &v, 8), VMC_OK);
}

static uint64_t get64(uint64_t gpa)
{
    uint64_t v;
    assert_int_equal(vmc_mem_read(mem, gpa, &v, 8), VMC_OK);
    return v;
}

static void build_long(uint64_t pde_flags, uint64_t pte_flags)
{
    put64(PML4, PDPT | 7);
    put64(PDPT + 8, PD | 7);
    put64(PD + 8, PT | pde_flags);
    put64(PT + 8, PAGE | pte_flags);
}

static const struct vmc_paging long_base = {
    .cr0 = VMC_CR0_PE | VMC_CR0_PG | VMC_CR0_WP,
    .cr3 = PML4,
    .cr4 = VMC_CR4_PAE,
    .efer = VMC_EFER_LMA | VMC_EFER_LME | VMC_EFER_NX,
};

/* The rules again, from the manual's text. */
static bool may(const struct vmc_paging *pg, uint64_t pde, uint64_t pte, uint32_t acc)
{
    bool user_page = (pde & 4) && (pte & 4);
    bool writable = (pde & 2) && (pte & 2);
    bool nx = (pg->efer & VMC_EFER_NX) && (((pde | pte) >> 63) & 1);
    if (acc & VMC_ACC_USER) {
        if (!user_page)
            return false;
    } else if (user_page) {
        if ((acc & VMC_ACC_FETCH) && (pg->cr4 & VMC_CR4_SMEP))
            return false;
        if (!(acc & VMC_ACC_FETCH) && (pg->cr4 & VMC_CR4_SMAP) &&
            ((acc & VMC_ACC_IMPLICIT) || !(acc & VMC_ACC_AC)))
            return false;
    }
    if (acc & VMC_ACC_FETCH)
        return !nx;
    if (acc & VMC_ACC_WRITE)
        return writable || (!(acc & VMC_ACC_USER) && !(pg->cr0 & VMC_CR0_WP));
    return true;
}

static void rights_match_the_manual(void **state)
{
    (void)state;
    static const uint32_t kinds[] = {VMC_ACC_READ, VMC_ACC_WRITE, VMC_ACC_FETCH};
    unsigned cases = 0;
    for (unsigned bits = 0; bits < 64; bits++) {
        uint64_t pde = 1 | (bits & 1 ? 2 : 0) | (bits & 2 ? 4 : 0) | (bits & 4 ? 1ull << 63 : 0);
        uint64_t pte = 1 | (bits & 8 ? 2 : 0) | (bits & 16 ? 4 : 0) | (bits & 32 ? 1ull << 63 : 0);
        for (unsigned ctl = 0; ctl < 8; ctl++) {
            struct vmc_paging pg = long_base;
            if (ctl & 1)
                pg.cr0 &= ~VMC_CR0_WP;
            if (ctl & 2)
                pg.cr4 |= VMC_CR4_SMEP;
            if (ctl & 4)
                pg.cr4 |= VMC_CR4_SMAP;
            for (unsigned k = 0; k < 3; k++) {
                for (unsigned who = 0; who < 4; who++) {
                    uint32_t acc = kinds[k] | (who == 0   ? VMC_ACC_USER
                                               : who == 1 ? VMC_ACC_AC
                                               : who == 2 ? VMC_ACC_IMPLICIT | VMC_ACC_AC
                                                          : 0);
                    struct vmc_walk w;
                    build_long(pde, pte);
                    int rc = vmc_walk_gva(mem, &pg, GVA + 5, acc, &w);
                    bool ok = may(&pg, pde, pte, acc);
                    assert_int_equal(rc, ok ? VMC_OK : VMC_GUEST_FAULT);
                    if (ok) {
                        assert_int_equal(w.gpa, PAGE + 5);
                        assert_true(get64(PT + 8) & get64(PD + 8) & get64(PDPT + 8) & 0x20);
                        assert_int_equal((get64(PT + 8) & 0x40) != 0, (acc & VMC_ACC_WRITE) != 0);
                    } else {
                        uint32_t code = VMC_PF_P | (acc & VMC_ACC_USER ? VMC_PF_USER : 0) |
                                        (acc & VMC_ACC_WRITE ? VMC_PF_WRITE : 0) |
                                        (acc & VMC_ACC_FETCH ? VMC_PF_FETCH : 0);
                        assert_int_equal(w.fault_code, code);
                        assert_int_equal(get64(PT + 8) & 0x60, 0);
                        assert_int_equal(get64(PD + 8) & 0x20, 0); /* nothing was accessed */
                    }
                    cases++;
                }
            }
        }
    }
    assert_int_equal(cases, 64 * 8 * 12);
}

static void not_present_and_reserved_bits_fault(void **state)
{
    (void)state;
    struct vmc_walk w;
    struct vmc_paging pg = long_base;
    build_long(7, 0);
    assert_int_equal(vmc_walk_gva(mem, &pg, GVA, VMC_ACC_WRITE, &w), VMC_GUEST_FAULT);
    assert_int_equal(w.fault_code, VMC_PF_WRITE);
    build_long(7, 7 | 1ull << 45);
    assert_int_equal(vmc_walk_gva(mem, &pg, GVA, VMC_ACC_USER, &w), VMC_GUEST_FAULT);
    assert_int_equal(w.fault_code, VMC_PF_P | VMC_PF_RSVD | VMC_PF_USER);
    pg.phys_bits = 46;
    assert_int_equal(vmc_walk_gva(mem, &pg, GVA, VMC_ACC_USER, &w), VMC_OK);
    /* NX is reserved while NXE is clear. */
    pg = long_base;
    pg.efer &= ~VMC_EFER_NX;
    build_long(7, 7 | 1ull << 63);
    assert_int_equal(vmc_walk_gva(mem, &pg, GVA, 0, &w), VMC_GUEST_FAULT);
    assert_int_equal(w.fault_code, VMC_PF_P | VMC_PF_RSVD);
    /* Without NXE and SMEP the fetch bit is not reported. */
    build_long(7, 0);
    assert_int_equal(vmc_walk_gva(mem, &pg, GVA, VMC_ACC_FETCH, &w), VMC_GUEST_FAULT);
    assert_int_equal(w.fault_code, 0);
    /* Tables outside memory read as all ones. */
    build_long(7, 7);
    put64(PD + 8, 0x3fff0000ull | 7);
    assert_int_equal(vmc_walk_gva(mem, &long_base, GVA, 0, &w), VMC_GUEST_FAULT);
    assert_int_equal(w.fault_code, VMC_PF_P | VMC_PF_RSVD);
}

static void large_pages_translate(void **state)
{
    (void)state;
    struct vmc_walk w;
    build_long(7, 7);
    put64(PD + 8, 0x200000 | 0x80 | 7 | 0x100);
    assert_int_equal(vmc_walk_gva(mem, &long_base, GVA + 0x123, VMC_ACC_WRITE, &w), VMC_OK);
    assert_int_equal(w.gpa, 0x200000 + 0x1123);
    assert_int_equal(w.page_bytes, 0x200000);
    assert_true(get64(PD + 8) & 0x40);
    put64(PD + 8, 0x202000 | 0x80 | 7);
    assert_int_equal(vmc_walk_gva(mem, &long_base, GVA, 0, &w), VMC_GUEST_FAULT);
    put64(PDPT + 8, 0x40000000ull | 0x80 | 7);
    assert_int_equal(vmc_walk_gva(mem, &long_base, GVA, 0, &w), VMC_OK);
    assert_int_equal(w.gpa, 0x40000000ull + 0x201000);
    assert_int_equal(w.page_bytes, 0x40000000);
    struct vmc_paging lacks = long_base;
    lacks.without = VMC_PAGING_NO_1G;
    assert_int_equal(vmc_walk_gva(mem, &lacks, GVA, 0, &w), VMC_GUEST_FAULT);
    assert_int_equal(w.fault_code, VMC_PF_P | VMC_PF_RSVD);
    put64(PML4, PDPT | 7 | 0x80);
    assert_int_equal(vmc_walk_gva(mem, &long_base, GVA, 0, &w), VMC_GUEST_FAULT);
}

/* SDM 3A table 4-4: bits 21:(M-19) are reserved, M the lesser of 40 and MAXPHYADDR. */
static void large_pages_of_2_levels_reserve_what_has_no_address(void **state)
{
    (void)state;
    static const struct {
        unsigned phys_bits;
        uint32_t without;
        unsigned first; /* reserved bit */
    } t[] = {{46, 0, 21},
             {40, 0, 21},
             {39, 0, 20},
             {36, 0, 17},
             {32, 0, 13},
             {40, VMC_PAGING_NO_PSE36, 13},
             {32, VMC_PAGING_NO_PSE36, 13}};

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++)
        for (unsigned bit = 13; bit <= 21; bit++) {
            struct vmc_paging pg = {
                .cr0 = VMC_CR0_PE | VMC_CR0_PG, .cr3 = PML4, .cr4 = VMC_CR4_PSE};
            uint32_t pde = 0x400000 | 0x80 | 7 | 1u << bit;
            struct vmc_walk w;

            pg.phys_bits = t[i].phys_bits;
            pg.without = t[i].without;
            assert_int_equal(vmc_mem_write(mem, PML4 + 4 * (GVA >> 22), &pde, 4), VMC_OK);
            int rc = vmc_walk_gva(mem, &pg, GVA, 0, &w);
            if (bit >= t[i].first) {
                assert_int_equal(rc, VMC_GUEST_FAULT);
                assert_int_equal(w.fault_code, VMC_PF_P | VMC_PF_RSVD);
            } else {
                assert_int_equal(rc, VMC_OK);
                assert_int_equal(w.gpa, (1ull << (bit + 19)) + 0x400000 + (GVA & 0x3fffff));
            }
        }
}

static void two_level_and_pae_translate(void **state)
{
    (void)state;
    struct vmc_walk w;
    struct vmc_paging pg = {.cr0 = VMC_CR0_PE | VMC_CR0_PG, .cr3 = PML4};
    uint32_t pde = PT | 7;
    uint32_t pte = PAGE | 7;
    assert_int_equal(vmc_mem_write(mem, PML4 + 4 * (GVA >> 22), &pde, 4), VMC_OK);
    assert_int_equal(vmc_mem_write(mem, PT + 4 * ((GVA >> 12) & 0x3ff), &pte, 4), VMC_OK);
    assert_int_equal(vmc_walk_gva(mem, &pg, GVA + 9, VMC_ACC_WRITE, &w), VMC_OK);
    assert_int_equal(w.gpa, PAGE + 9);
    /* 4 MiB page, with and without CR4.PSE; PSE-36 puts bits 39:32 into 20:13. */
    pde = 0x400000 | 0x80 | 7 | (3u << 13);
    assert_int_equal(vmc_mem_write(mem, PML4 + 4 * (GVA >> 22), &pde, 4), VMC_OK);
    pg.cr4 = VMC_CR4_PSE;
    assert_int_equal(vmc_walk_gva(mem, &pg, GVA, 0, &w), VMC_OK);
    assert_int_equal(w.gpa, 0x300400000ull + (GVA & 0x3fffff));
    pde |= 1u << 21;
    assert_int_equal(vmc_mem_write(mem, PML4 + 4 * (GVA >> 22), &pde, 4), VMC_OK);
    assert_int_equal(vmc_walk_gva(mem, &pg, GVA, 0, &w), VMC_GUEST_FAULT);

    /* PAE: the PDPTE registers rule, not memory. */
    struct vmc_paging pae = {.cr0 = VMC_CR0_PE | VMC_CR0_PG, .cr4 = VMC_CR4_PAE};
    build_long(7, 7);
    put64(PDPT + 8, PD | 1);
    assert_int_equal(vmc_walk_load_pdpte(mem, PDPT, 0, pae.pdpte), VMC_OK);
    put64(PDPT + 8, 0);
    assert_int_equal(vmc_walk_gva(mem, &pae, GVA + 1, 0, &w), VMC_OK);
    assert_int_equal(w.gpa, PAGE + 1);
    assert_int_equal(vmc_walk_gva(mem, &pae, 0x80000000u, 0, &w), VMC_GUEST_FAULT);
    assert_int_equal(w.fault_code, 0);
    put64(PDPT + 8, PD | 7);
    assert_int_equal(vmc_walk_load_pdpte(mem, PDPT, 0, pae.pdpte), VMC_GUEST_FAULT);
}

static void probe_changes_nothing(void **state)
{
    (void)state;
    struct vmc_walk w;
    build_long(7, 7);
    assert_int_equal(vmc_walk_gva(mem, &long_base, GVA, VMC_ACC_WRITE | VMC_ACC_PROBE, &w), VMC_OK);
    assert_int_equal(get64(PT + 8), PAGE | 7);
    assert_int_equal(get64(PML4), PDPT | 7);
}

static void paging_off_is_identity(void **state)
{
    (void)state;
    struct vmc_paging pg = {.cr0 = VMC_CR0_PE};
    struct vmc_walk w;
    assert_int_equal(vmc_walk_gva(mem, &pg, 0x123456789ull, VMC_ACC_WRITE | VMC_ACC_USER, &w),
                     VMC_OK);
    assert_int_equal(w.gpa, 0x23456789);
}

/* Tables and pages lie where bit 20 is 0. */
static void address_line_20_may_be_off(void **state)
{
    (void)state;
    struct vmc_paging flat = {.cr0 = VMC_CR0_PE, .without = VMC_PAGING_NO_A20};
    struct vmc_paging pg = long_base;
    struct vmc_walk w;

    assert_int_equal(vmc_walk_gva(mem, &flat, 0x12345678, 0, &w), VMC_OK);
    assert_int_equal(w.gpa, 0x12245678);
    build_long(7, 7);
    put64(PML4, get64(PML4) | 1 << 20);
    put64(PT + 8, get64(PT + 8) | 1 << 20);
    pg.cr3 |= 1 << 20;
    pg.without = VMC_PAGING_NO_A20;
    assert_int_equal(vmc_walk_gva(mem, &pg, GVA + 5, VMC_ACC_WRITE, &w), VMC_OK);
    assert_int_equal(w.gpa, PAGE + 5);
    assert_int_equal(get64(PT + 8) & 0x160, 0x60); /* accessed and dirty */
    put64(PD + 8 * ((GVA >> 21) & 511), 0x2000e7); /* a page of 2 MiB: bit 20 is in its offset */
    assert_int_equal(vmc_walk_gva(mem, &pg, (GVA & ~0x1fffffull) + 0x123456, 0, &w), VMC_OK);
    assert_int_equal(w.gpa, 0x223456 & ~(1 << 20));
}

static void protection_keys_apply_to_user_pages(void **state)
{
    (void)state;
    struct vmc_paging pg = long_base;
    struct vmc_walk w;
    pg.cr4 |= VMC_CR4_PKE;
    build_long(7, 7 | 3ull << 59);
    pg.pkru = 1u << 6;
    assert_int_equal(vmc_walk_gva(mem, &pg, GVA, VMC_ACC_USER, &w), VMC_GUEST_FAULT);
    assert_int_equal(w.fault_code, VMC_PF_P | VMC_PF_PK | VMC_PF_USER);
    pg.pkru = 1u << 7;
    assert_int_equal(vmc_walk_gva(mem, &pg, GVA, VMC_ACC_USER, &w), VMC_OK);
    assert_int_equal(vmc_walk_gva(mem, &pg, GVA, VMC_ACC_USER | VMC_ACC_WRITE, &w),
                     VMC_GUEST_FAULT);
    assert_int_equal(vmc_walk_gva(mem, &pg, GVA, VMC_ACC_USER | VMC_ACC_FETCH, &w), VMC_OK);
    build_long(7, 3 | 3ull << 59);
    pg.pkru = ~0u;
    assert_int_equal(vmc_walk_gva(mem, &pg, GVA, VMC_ACC_WRITE, &w), VMC_OK);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(rights_match_the_manual), T(not_present_and_reserved_bits_fault),
        T(large_pages_translate),   T(two_level_and_pae_translate),
        T(large_pages_of_2_levels_reserve_what_has_no_address),
        T(probe_changes_nothing),   T(paging_off_is_identity),
        T(protection_keys_apply_to_user_pages), T(address_line_20_may_be_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
