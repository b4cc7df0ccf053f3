/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The hardware engines in memory whose pages move: a played guest reads and writes pages of a space
 * through EPT, NPT and shadow tables, while they are merged, compressed, sampled and given back. It
 * must never see anything but what it wrote.
 */
#include "space_rig.h"

#include "hw_model.h"

#define AT     0x2000000u
#define PAGES  256u
#define ROUNDS 400u
#define TURNS  60u /* accesses of a round */

static struct hw_model model;
static struct vmc_pool *pool;
static struct vmc_space *space;
static struct vmc_share *share;
static uint32_t written[PAGES]; /* what the guest wrote to each page, 0: nothing yet */
static unsigned left, faults, hits;
static uint64_t seed;
static struct {
    bool open; /* an access that faulted, to be made again */
    unsigned page;
    bool write;
} access;

static uint64_t rnd(void)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return seed >> 33;
}

/* Where the processor would find the page, NULL: it faults. */
static uint32_t *translate(uint64_t gpa, bool write)
{
    if (!model.vm->nested) {
        uint64_t e = vmci_shadow_peek(&model.v->shadow, gpa);
        if ((e & 1) == 0 || (write && (e & 2) == 0))
            return NULL;
        return (uint32_t *)(uintptr_t)(e & 0x000ffffffffff000ull);
    }
    struct vmci_slat_entry e = vmci_slat_lookup(&model.vm->slat, gpa);
    uint32_t need = VMCI_SLAT_R | (write ? VMCI_SLAT_W : 0);
    if (e.kind != VMCI_SLAT_LEAF || (e.rights & need) != need)
        return NULL;
    return (uint32_t *)(uintptr_t)e.hpa;
}

/* True: nothing is left to do; false: the access under way faults. */
static bool play(void)
{
    while (left > 0) {
        if (!access.open) {
            access.page = (unsigned)(rnd() % PAGES);
            access.write = rnd() % 3 == 0;
            access.open = true;
        }
        uint32_t *p = translate(AT + (uint64_t)access.page * VMC_PAGE_SIZE, access.write);
        if (p == NULL) {
            faults++;
            return false;
        }
        if (p[5] != written[access.page])
            fail_msg("page %u: %u, not %u", access.page, p[5], written[access.page]);
        if (access.write)
            p[5] = written[access.page] = (uint32_t)(rnd() % 4); /* often equal: to be merged */
        hits++;
        access.open = false;
        left--;
    }
    return true;
}

static int on_vmx(struct hw_model *m, struct vmc_hw_vmx_frame *f)
{
    m->field[VMCS_IDT_INFO] = 0;
    if (play()) {
        f->reason = VMX_HLT;
        f->insn_len = 0;
        return VMC_HW_EXITED;
    }
    uint64_t gpa = AT + (uint64_t)access.page * VMC_PAGE_SIZE;
    if (m->vm->nested) {
        f->reason = VMX_EPT_VIOLATION;
        f->qualification = (access.write ? 2 : 1) | 0x180;
        m->field[VMCS_GUEST_PHYSICAL] = gpa;
    } else {
        f->reason = VMX_EXC_NMI;
        f->qualification = gpa; /* mapped one to one */
        m->field[VMCS_EXIT_INTR_INFO] = VMC_VEC_PF | VMC_EV_EXCEPTION << 8 | INTR_CODE | INTR_VALID;
        m->field[VMCS_EXIT_INTR_CODE] = access.write ? VMC_PF_WRITE : 0;
    }
    return VMC_HW_EXITED;
}

static int on_svm(struct hw_model *m, struct vmc_hw_svm_frame *f)
{
    struct vmcb *b = m->v->u.svm.vmcb;

    (void)f;
    b->exit_int_info = 0;
    if (play()) {
        b->exit_code = SVM_HLT;
        b->nrip = b->rip;
        return VMC_HW_EXITED;
    }
    b->exit_code = m->vm->nested ? SVM_NPF : SVM_EXC + VMC_VEC_PF;
    b->exit_info1 = (m->vm->nested ? 0x100000004ull : 0) | (access.write ? VMC_PF_WRITE : 0);
    b->exit_info2 = AT + (uint64_t)access.page * VMC_PAGE_SIZE;
    return VMC_HW_EXITED;
}

/* Everything that moves pages. */
static void stir(unsigned round)
{
    struct vmc_share_budget b = {.pages = 100};
    struct vmc_share_result r;
    struct vmc_share_pack_result p;
    uint64_t n;

    if (round % 8 == 0)
        assert_int_equal(vmc_space_sample(space, &n), VMC_OK);
    assert_int_equal(vmc_share_scan(share, &b, &r), VMC_OK);
    if (round % 3 == 0)
        assert_int_equal(vmc_share_pack(share, space, &b, 0, &p), VMC_OK);
    if (round % 5 == 0) { /* a page goes to the balloon and comes back as zeros */
        uint64_t page = rnd() % PAGES;
        if (!access.open || access.page != page) {
            assert_int_equal(vmc_space_drop(space, page, 1, true), 1);
            written[page] = 0;
        }
    }
    vmc_space_poll(space);
}

static void pages_move_under(enum hw_model_cpu cpu)
{
    struct vmc_space_config sc = {
        .size = sizeof(sc), .pages = PAGES, .provider = vmc_mem_provider()};
    struct vmc_share_config hc = {.size = sizeof(hc), .seed = 9};
    struct vmc_space_stats st;
    struct vmc_error err = {.text = ""};

    if (hw_model_init(&model, cpu, &err) != VMC_OK)
        fail_msg("%s", err.text);
    model.vmx = on_vmx;
    model.svm = on_svm;
    pool = rig_pool(&model.tp, 1024);
    sc.provider_ctx = model.mem;
    assert_int_equal(vmc_space_create(pool, &sc, &space, NULL), VMC_OK);
    assert_int_equal(vmc_share_create(pool, &hc, &share, NULL), VMC_OK);
    struct vmc_mem_slot slot = {.size = sizeof(slot),
                                .attr = VMC_MEM_RAM,
                                .gpa = AT,
                                .bytes = PAGES * VMC_PAGE_SIZE,
                                .space = space};
    assert_int_equal(vmc_mem_add(model.mem, &slot, &err), VMC_OK);
    assert_int_equal(hw_model_long_mode(&model), VMC_OK);
    memset(written, 0, sizeof(written));
    faults = hits = 0;
    access.open = false;
    seed = 3;
    for (unsigned round = 0; round < ROUNDS; round++) {
        left = TURNS;
        model.v->st.activity = VMC_RUN_RUNNING; /* the last round ended with HLT */
        model.v->todo &= ~HW_TODO_IDLE;
        assert_int_equal(hw_model_run(&model), VMC_OK);
        assert_int_equal(model.x.kind, VMC_EXIT_IDLE);
        assert_int_equal(left, 0);
        stir(round);
    }
    for (unsigned i = 0; i < PAGES; i++) {
        uint32_t v;
        assert_int_equal(vmc_mem_read(model.mem, AT + i * VMC_PAGE_SIZE + 20, &v, 4), VMC_OK);
        assert_int_equal(v, written[i]);
    }
    vmc_space_stats(space, &st);
    print_message("%u accesses, %u faults, %llu breaks, %llu unpacks\n", hits, faults,
                  (unsigned long long)st.breaks, (unsigned long long)st.unpacks);
    /* A revoke drops all of the shadow tables. */
    assert_true(st.breaks > 0 && (faults < hits || !model.vm->nested));
    rig_check(pool);
    vmc_share_destroy(share);
    hw_model_fini(&model);
    vmc_space_destroy(space);
    vmc_pool_destroy(pool);
    test_platform_check(&model.tp);
}

static void under_ept(void **state)
{
    (void)state;
    pages_move_under(HW_MODEL_FULL);
}

static void under_npt(void **state)
{
    (void)state;
    pages_move_under(HW_MODEL_NPT);
}

static void under_shadow_tables_of_vtx(void **state)
{
    (void)state;
    pages_move_under(HW_MODEL_NO_EPT);
}

static void under_shadow_tables_of_svm(void **state)
{
    (void)state;
    pages_move_under(HW_MODEL_NO_NPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(under_ept),
        cmocka_unit_test(under_npt),
        cmocka_unit_test(under_shadow_tables_of_vtx),
        cmocka_unit_test(under_shadow_tables_of_svm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
