/* SPDX-License-Identifier: BSD-2-Clause */
/* Creation, and everything that is configured: groups, VMs, affinity, CPUs. */
#include "sched_priv.h"

#define DEFAULT_QUANTUM 3000000u
#define FRAMES          8 /* in a quantum */

static const char *site = "sched/config";

/*
 * What one plan costs grows with the number of CPUs, and not with the length of the frame: on very
 * many CPUs frames are longer, so that planning stays a small part of the time of one CPU.
 */
static uint64_t default_quantum(uint32_t cpus)
{
    return cpus <= 256 ? DEFAULT_QUANTUM : (uint64_t)DEFAULT_QUANTUM * cpus / 128;
}

/* ---- memory ---------------------------------------------------------------------------------- */

struct block {
    void **ptr;
    size_t bytes;
};

#define SCHED_BLOCKS 28

/* Every array of the scheduler, with its size: the one list for both allocation and release. */
static uint32_t blocks(struct vmc_sched *s, struct block *b)
{
    size_t cpus = s->ncpus;
    size_t vms = s->max_vms;
    size_t vcpus = s->max_vcpus;
    size_t groups = (size_t)s->max_groups + 1;
    size_t nodes = vms + groups;
    uint32_t n = 0;
#define BLOCK(member, count)                                                                       \
    b[n++] = (struct block){(void **)&s->member, (count) * sizeof(*s->member)}
    BLOCK(cpu, cpus);
    BLOCK(vcpu, vcpus);
    BLOCK(vm, vms);
    BLOCK(group, groups);
    BLOCK(mask, vms * s->mask_words);
    BLOCK(idle_map, s->mask_words);
    BLOCK(kick_map, s->mask_words);
    BLOCK(next_thread, cpus);
    BLOCK(col_cpu, cpus);
    BLOCK(col_of, cpus);
    BLOCK(order, groups);
    BLOCK(child_w, nodes);
    BLOCK(child_lo, nodes);
    BLOCK(child_hi, nodes);
    BLOCK(child_rate, nodes);
    BLOCK(child_vm, nodes);
    BLOCK(rate_before, nodes);
    BLOCK(wf_fixed, nodes);
    BLOCK(heavy, vms);
    BLOCK(heap, vms);
    BLOCK(heap_pos, vms);
    BLOCK(items, vcpus);
    BLOCK(want, vcpus);
    BLOCK(drain, vcpus);
    BLOCK(gangs, vcpus);
    BLOCK(column, cpus);
    BLOCK(gang_order, vcpus);
    BLOCK(vms_list, vms);
#undef BLOCK
    return n;
}

static void release_memory(struct vmc_sched *s)
{
    struct block b[SCHED_BLOCKS];
    uint32_t n = blocks(s, b);

    if (s->cpu != NULL && s->ring_size != 0)
        for (uint32_t i = 0; i < s->ncpus; i++)
            vmci_free(s->pf, s->cpu[i].ring, s->ring_size * sizeof(struct vmc_sched_event));
    for (uint32_t i = 0; i < n; i++)
        vmci_free_aligned(s->pf, *b[i].ptr, b[i].bytes, VMCI_CACHELINE);
    vmci_lock_fini(&s->plan_lock);
    vmci_free_aligned(s->pf, s, sizeof(*s), VMCI_CACHELINE);
}

static int allocate_memory(struct vmc_sched *s)
{
    struct block b[SCHED_BLOCKS];
    uint32_t n = blocks(s, b);

    for (uint32_t i = 0; i < n; i++) {
        *b[i].ptr = vmci_alloc_aligned(s->pf, b[i].bytes, VMCI_CACHELINE);
        if (*b[i].ptr == NULL)
            return VMC_ENOMEM;
        memset(*b[i].ptr, 0, b[i].bytes);
    }
    for (uint32_t i = 0; i < s->ncpus && s->ring_size != 0; i++) {
        s->cpu[i].ring = vmci_zalloc(s->pf, s->ring_size * sizeof(struct vmc_sched_event));
        if (s->cpu[i].ring == NULL)
            return VMC_ENOMEM;
    }
    return VMC_OK;
}

/* ---- create ---------------------------------------------------------------------------------- */

static int check_config(const struct vmc_sched_config *cfg, struct vmc_error *err)
{
    if (cfg->size != sizeof(*cfg) || cfg->flags != 0)
        return vmci_error(err, VMC_EINVAL, site, "config size %u or flags 0x%x", cfg->size,
                          cfg->flags);
    if (cfg->cpus == 0 || cfg->cpus > VMC_SCHED_MAX_CPUS)
        return vmci_error(err, VMC_EINVAL, site, "cpus is %u, must be 1 to %u", cfg->cpus,
                          VMC_SCHED_MAX_CPUS);
    if (cfg->max_vms == 0 || cfg->max_vms > (1u << 20) || cfg->max_vcpus < cfg->max_vms ||
        cfg->max_vcpus > (1u << 20) || cfg->max_groups > (1u << 16))
        return vmci_error(err, VMC_EINVAL, site, "%u VMs, %u vCPUs, %u groups", cfg->max_vms,
                          cfg->max_vcpus, cfg->max_groups);
    if (cfg->quantum_ns != 0 &&
        (cfg->quantum_ns < VMC_SCHED_MIN_QUANTUM || cfg->quantum_ns > VMC_SCHED_MAX_QUANTUM))
        return vmci_error(err, VMC_EINVAL, site, "quantum is %llu ns, must be %u to %u",
                          (unsigned long long)cfg->quantum_ns, VMC_SCHED_MIN_QUANTUM,
                          VMC_SCHED_MAX_QUANTUM);
    if ((cfg->trace_events & (cfg->trace_events - 1)) != 0 || cfg->trace_events > (1u << 20))
        return vmci_error(err, VMC_EINVAL, site, "trace_events is %u, not a power of two",
                          cfg->trace_events);
    return VMC_OK;
}

static bool same_core(const struct vmc_sched_cpu_topo *a, const struct vmc_sched_cpu_topo *b)
{
    return a->core == b->core && a->llc == b->llc && a->node == b->node;
}

/* Rings of the threads of each core; in thread[], which of its core's threads a CPU is. */
static void find_threads(struct vmc_sched *s, const struct vmc_sched_cpu_topo *topo,
                         uint32_t *thread)
{
    for (uint32_t i = 0; i < s->ncpus; i++) {
        s->next_thread[i] = i;
        thread[i] = 0;
        for (uint32_t j = i; topo != NULL && j-- > 0;) {
            if (!same_core(&topo[i], &topo[j]))
                continue;
            s->next_thread[i] = s->next_thread[j];
            s->next_thread[j] = i;
            thread[i] = thread[j] + 1;
            s->smt = true;
            break;
        }
    }
}

static bool comes_before(const struct vmc_sched_cpu_topo *a, uint32_t thread_a,
                         const struct vmc_sched_cpu_topo *b, uint32_t thread_b)
{
    if (thread_a != thread_b)
        return thread_a < thread_b;
    if (a->node != b->node)
        return a->node < b->node;
    return a->llc != b->llc ? a->llc < b->llc : a->core < b->core;
}

/*
 * Columns: the first threads of all cores before the second ones, so that cores are shared last;
 * among them in the order node, cache, core: wide sets and wrapped items stay close together.
 */
static void order_cpus(struct vmc_sched *s, const struct vmc_sched_cpu_topo *topo)
{
    uint32_t *thread = s->col_of; /* not in use yet */

    find_threads(s, topo, thread);
    for (uint32_t i = 0; i < s->ncpus; i++) {
        uint32_t j = i;
        for (; topo != NULL && j > 0; j--) {
            uint32_t prev = s->col_cpu[j - 1];
            if (!comes_before(&topo[i], thread[i], &topo[prev], thread[prev]))
                break;
            s->col_cpu[j] = prev;
        }
        s->col_cpu[j] = i;
    }
    s->online = s->ncpus;
}

static void init_state(struct vmc_sched *s, const struct vmc_sched_config *cfg)
{
    s->planned = FRAME_NONE;
    s->claimed = FRAME_NONE;
    s->light_served = NONE;
    memset(s->wheel, 0xff, sizeof(s->wheel));
    for (uint32_t i = 0; i < s->max_vcpus; i++) {
        s->vcpu[i].st = ST_FREE;
        s->vcpu[i].plan_frame = 0;
    }
    for (uint32_t i = 0; i < s->ncpus; i++) {
        struct sched_cpu *c = &s->cpu[i];
        c->cur = NONE;
        c->last = NONE;
        c->yield_next = NONE;
        c->payer = NONE;
        c->now = s->start;
        c->online = 1;
        c->fill_cursor = (uint32_t)((uint64_t)i * s->max_vcpus / s->ncpus);
        c->tab[0].frame = FRAME_NONE;
        c->tab[1].frame = FRAME_NONE;
        memset(c->boost, 0xff, sizeof(c->boost));
    }
    s->group[0] = (struct sched_group){.used = 1, .parent = NONE, .share = {.shares = 1}};
    s->v = s->vq = (uint64_t)1 << 50; /* far from 0, so that eligible times may lie before it */
    order_cpus(s, cfg->topo);
    s->dirty_tree = true;
}

int vmc_sched_create(const struct vmc_platform *pf, const struct vmc_sched_config *cfg,
                     struct vmc_sched **out, struct vmc_error *err)
{
    int rc = vmc_platform_check(pf, err);
    if (rc == VMC_OK)
        rc = check_config(cfg, err);
    if (rc != VMC_OK)
        return rc;
    struct vmc_sched *s = vmci_alloc_aligned(pf, sizeof(*s), VMCI_CACHELINE);
    if (s == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "%zu bytes", sizeof(*s));
    memset(s, 0, sizeof(*s));
    s->pf = pf;
    s->ncpus = cfg->cpus;
    s->max_groups = cfg->max_groups;
    s->max_vms = cfg->max_vms;
    s->max_vcpus = cfg->max_vcpus;
    s->frame_ns = (cfg->quantum_ns != 0 ? cfg->quantum_ns : default_quantum(cfg->cpus)) / FRAMES;
    s->sigma = s->frame_ns / 8;
    s->min_piece = (uint32_t)(s->frame_ns / 64);
    s->start = cfg->start_ns;
    s->costop = cfg->costop_ns != 0 ? cfg->costop_ns : s->frame_ns;
    s->costart = cfg->costart_ns != 0 ? cfg->costart_ns : s->costop / 2;
    s->ring_size = cfg->trace_events;
    s->mask_words = (s->ncpus + 63) / 64;
    s->fill_named = s->ncpus > LARGE_HOST ? FILL_NAMED : FILL_FIRST;
    rc = vmci_lock_init(&s->plan_lock, pf);
    if (rc == VMC_OK)
        rc = allocate_memory(s);
    if (rc != VMC_OK) {
        release_memory(s);
        return vmci_error(err, rc, site, "arrays for %u vCPUs and %u CPUs", cfg->max_vcpus,
                          cfg->cpus);
    }
    init_state(s, cfg);
    *out = s;
    return VMC_OK;
}

void vmc_sched_destroy(struct vmc_sched *s)
{
    if (s != NULL)
        release_memory(s);
}

/* ---- shares ---------------------------------------------------------------------------------- */

static int check_share(const struct vmc_sched *s, const struct vmc_sched_share *sh,
                       struct vmc_error *err)
{
    uint64_t all = (uint64_t)s->ncpus * VMC_SCHED_WHOLE_CPU;

    if (sh->shares == 0 || sh->shares > VMC_SCHED_MAX_SHARES)
        return vmci_error(err, VMC_EINVAL, site, "shares is %u, must be 1 to %u", sh->shares,
                          VMC_SCHED_MAX_SHARES);
    if (sh->reservation > all)
        return vmci_error(err, VMC_ENOSPC, site, "reservation %llu exceeds all CPUs, %llu",
                          (unsigned long long)sh->reservation, (unsigned long long)all);
    if (sh->limit != 0 && (sh->limit < sh->reservation || sh->limit < VMC_SCHED_WHOLE_CPU / 1000))
        return vmci_error(err, VMC_EINVAL, site,
                          "limit %llu is below the reservation or below a thousandth of a CPU",
                          (unsigned long long)sh->limit);
    return VMC_OK;
}

/* What is reserved directly below a group, without the node "except" (a group has the top bit). */
static uint64_t reserved_below(const struct vmc_sched *s, uint32_t group, uint32_t except)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < s->max_vms; i++)
        if (s->vm[i].used == 1 && s->vm[i].parent == group && except != i)
            sum += s->vm[i].share.reservation;
    for (uint32_t i = 1; i <= s->max_groups; i++)
        if (s->group[i].used && s->group[i].parent == group && except != (i | GROUP_BIT))
            sum += s->group[i].share.reservation;
    return sum;
}

static int admit(const struct vmc_sched *s, uint32_t parent, uint32_t except,
                 const struct vmc_sched_share *sh, struct vmc_error *err)
{
    uint64_t room = parent == VMC_SCHED_ROOT ? (uint64_t)s->ncpus * VMC_SCHED_WHOLE_CPU
                                             : s->group[parent].share.reservation;

    if (sh->reservation == 0)
        return VMC_OK;
    uint64_t sum = reserved_below(s, parent, except);
    if (sum + sh->reservation > room)
        return vmci_error(err, VMC_ENOSPC, site,
                          "group %u reserves %llu, of which %llu is taken and %llu wanted", parent,
                          (unsigned long long)room, (unsigned long long)sum,
                          (unsigned long long)sh->reservation);
    return VMC_OK;
}

/* ---- groups ---------------------------------------------------------------------------------- */

static bool group_valid(const struct vmc_sched *s, uint32_t group)
{
    return group <= s->max_groups && s->group[group].used;
}

static int add_group(struct vmc_sched *s, uint32_t parent, const struct vmc_sched_share *share,
                     uint32_t *group, struct vmc_error *err)
{
    uint32_t g = 1;

    if (!group_valid(s, parent))
        return vmci_error(err, VMC_ENOENT, site, "no group %u", parent);
    if (s->group[parent].depth + 1 > VMC_SCHED_MAX_DEPTH)
        return vmci_error(err, VMC_ELIMIT, site, "groups nest deeper than %u", VMC_SCHED_MAX_DEPTH);
    int rc = admit(s, parent, NONE, share, err);
    if (rc != VMC_OK)
        return rc;
    while (g <= s->max_groups && s->group[g].used)
        g++;
    if (g > s->max_groups)
        return vmci_error(err, VMC_ELIMIT, site, "all %u groups are in use", s->max_groups);
    s->group[g] = (struct sched_group){
        .used = 1, .parent = parent, .depth = s->group[parent].depth + 1, .share = *share};
    s->dirty_tree = true;
    *group = g;
    return VMC_OK;
}

int vmc_sched_group_add(struct vmc_sched *s, uint32_t parent, const struct vmc_sched_share *share,
                        uint32_t *group, struct vmc_error *err)
{
    int rc = check_share(s, share, err);
    if (rc != VMC_OK)
        return rc;
    vmci_lock(&s->plan_lock);
    rc = add_group(s, parent, share, group, err);
    vmci_unlock(&s->plan_lock);
    return rc;
}

int vmc_sched_group_remove(struct vmc_sched *s, uint32_t group)
{
    int rc = VMC_OK;

    vmci_lock(&s->plan_lock);
    if (group == VMC_SCHED_ROOT || !group_valid(s, group))
        rc = VMC_ENOENT;
    for (uint32_t i = 0; rc == VMC_OK && i < s->max_vms; i++)
        if (s->vm[i].used == 1 && s->vm[i].parent == group)
            rc = VMC_EBUSY;
    for (uint32_t i = 1; rc == VMC_OK && i <= s->max_groups; i++)
        if (s->group[i].used && s->group[i].parent == group)
            rc = VMC_EBUSY;
    if (rc == VMC_OK) {
        s->group[group].used = 0;
        s->dirty_tree = true;
    }
    vmci_unlock(&s->plan_lock);
    return rc;
}

int vmc_sched_group_set(struct vmc_sched *s, uint32_t group, const struct vmc_sched_share *share,
                        struct vmc_error *err)
{
    int rc = check_share(s, share, err);
    if (rc != VMC_OK)
        return rc;
    vmci_lock(&s->plan_lock);
    if (group == VMC_SCHED_ROOT || !group_valid(s, group))
        rc = vmci_error(err, VMC_ENOENT, site, "no group %u to change", group);
    if (rc == VMC_OK)
        rc = admit(s, s->group[group].parent, group | GROUP_BIT, share, err);
    if (rc == VMC_OK && reserved_below(s, group, NONE) > share->reservation)
        rc = vmci_error(err, VMC_ENOSPC, site, "members of group %u reserve more", group);
    if (rc == VMC_OK) {
        s->group[group].share = *share;
        s->dirty = true;
    }
    vmci_unlock(&s->plan_lock);
    return rc;
}

/* ---- VMs ------------------------------------------------------------------------------------- */

/* First of n consecutive unused entities, or NONE. */
static uint32_t find_entities(const struct vmc_sched *s, uint32_t n)
{
    uint32_t run = 0;

    for (uint32_t i = 0; i < s->max_vcpus; i++) {
        run = vmci_load_acquire(&s->vcpu[i].st) == ST_FREE ? run + 1 : 0;
        if (run == n)
            return i + 1 - n;
    }
    return NONE;
}

static bool mask_usable(const struct vmc_sched *s, const uint64_t *mask, uint32_t words)
{
    for (uint32_t c = 0; c < s->ncpus; c++)
        if (c / 64 < words && vmci_bit_test(mask, c))
            return true;
    return false;
}

static void set_mask(struct vmc_sched *s, uint32_t vm, const uint64_t *mask, uint32_t words)
{
    bool all = true;

    for (uint32_t w = 0; w < s->mask_words; w++) {
        uint64_t valid = s->ncpus - w * 64 >= 64 ? ~0ull : (1ull << (s->ncpus - w * 64)) - 1;
        uint64_t bits = mask == NULL ? valid : w < words ? mask[w] & valid : 0;
        vmci_store_relaxed(&vm_mask(s, vm)[w], bits);
        all = all && bits == valid;
    }
    s->nrestricted -= s->vm[vm].restricted;
    vmci_store_relaxed(&s->vm[vm].restricted, all ? 0u : 1u);
    s->nrestricted += s->vm[vm].restricted;
    s->dirty = true;
}

static void set_cap(const struct vmc_sched *s, struct sched_vm *m, uint32_t cap)
{
    m->vcpu_cap = cap != 0 ? cap : VMC_SCHED_WHOLE_CPU;
    vmci_store_relaxed(&m->cap, ((s->frame_ns * m->vcpu_cap) / VMC_SCHED_WHOLE_CPU) << C_SHIFT);
}

static int check_cap(uint32_t cap, struct vmc_error *err)
{
    if (cap > VMC_SCHED_WHOLE_CPU || (cap != 0 && cap < VMC_SCHED_WHOLE_CPU / 1000))
        return vmci_error(err, VMC_EINVAL, site, "vcpu_cap is %u, must be 1000 to %u", cap,
                          VMC_SCHED_WHOLE_CPU);
    return VMC_OK;
}

static void init_vm(struct vmc_sched *s, uint32_t vm, uint32_t first, uint32_t group,
                    const struct vmc_sched_vm_config *cfg)
{
    struct sched_vm *m = &s->vm[vm];

    /* All but used, which others may be looking at. */
    memset(m, 0, offsetof(struct sched_vm, used));
    memset(&m->used + 1, 0, sizeof(*m) - offsetof(struct sched_vm, used) - sizeof(m->used));
    m->mode = cfg->coscheduling;
    m->n = cfg->vcpus;
    m->first = first;
    vmci_store_release(&m->used, 1u);
    m->parent = group;
    m->share = cfg->share;
    set_cap(s, m, cfg->vcpu_cap);
    s->heap_pos[vm] = NONE;
    m->wheel_bucket = NONE;
    m->hi_affinity = UINT64_MAX;
    m->no_extra = m->vcpu_cap < VMC_SCHED_WHOLE_CPU;
    set_mask(s, vm, cfg->affinity, cfg->affinity_words);
    for (uint32_t i = 0; i < cfg->vcpus; i++) {
        struct sched_vcpu *v = &s->vcpu[first + i];
        /* all but the state, at which CPUs look for somebody to run */
        memset((char *)v + sizeof(v->st), 0, sizeof(*v) - sizeof(v->st));
        v->leaves = NONE;
        v->vm = vm;
        v->index = (uint8_t)i;
        v->cpu = s->col_cpu[(first + i) % s->online];
        v->ts = s->start;
        v->tokens = s->frame_ns / 4;
        v->tokens_at = s->start;
        v->shared = m->n > 1 && m->mode != VMC_SCHED_CO_NONE;
        vmci_store_release(&v->st, ST_BLOCKED);
    }
    s->dirty_tree = true;
}

static int check_vm(const struct vmc_sched *s, const struct vmc_sched_vm_config *cfg,
                    struct vmc_error *err)
{
    if (cfg->size != sizeof(*cfg))
        return vmci_error(err, VMC_EINVAL, site, "vm config size %u", cfg->size);
    if (cfg->vcpus == 0 || cfg->vcpus > VMC_SCHED_MAX_WIDTH)
        return vmci_error(err, VMC_EINVAL, site, "vcpus is %u, must be 1 to %u", cfg->vcpus,
                          VMC_SCHED_MAX_WIDTH);
    if (cfg->coscheduling > VMC_SCHED_CO_STRICT)
        return vmci_error(err, VMC_EINVAL, site, "coscheduling is %u", cfg->coscheduling);
    int rc = check_cap(cfg->vcpu_cap, err);
    if (rc != VMC_OK)
        return rc;
    if (cfg->affinity != NULL && !mask_usable(s, cfg->affinity, cfg->affinity_words))
        return vmci_error(err, VMC_EINVAL, site, "the affinity names no CPU below %u", s->ncpus);
    return check_share(s, &cfg->share, err);
}

static int add_vm(struct vmc_sched *s, uint32_t group, const struct vmc_sched_vm_config *cfg,
                  uint32_t *vm, struct vmc_error *err)
{
    uint32_t i = 0;

    if (!group_valid(s, group))
        return vmci_error(err, VMC_ENOENT, site, "no group %u", group);
    int rc = admit(s, group, NONE, &cfg->share, err);
    if (rc != VMC_OK)
        return rc;
    while (i < s->max_vms && s->vm[i].used)
        i++;
    uint32_t first = find_entities(s, cfg->vcpus);
    if (i == s->max_vms || first == NONE)
        return vmci_error(err, VMC_ELIMIT, site, "no room for a VM of %u vCPUs", cfg->vcpus);
    init_vm(s, i, first, group, cfg);
    *vm = i;
    return VMC_OK;
}

int vmc_sched_vm_add(struct vmc_sched *s, uint32_t group, const struct vmc_sched_vm_config *cfg,
                     uint32_t *vm, struct vmc_error *err)
{
    int rc = check_vm(s, cfg, err);
    if (rc != VMC_OK)
        return rc;
    vmci_lock(&s->plan_lock);
    rc = add_vm(s, group, cfg, vm, err);
    vmci_unlock(&s->plan_lock);
    return rc;
}

static bool vm_valid(const struct vmc_sched *s, uint32_t vm)
{
    return vm < s->max_vms && s->vm[vm].used == 1;
}

int vmc_sched_vm_remove(struct vmc_sched *s, uint32_t vm)
{
    int rc = VMC_ENOENT;

    vmci_lock(&s->plan_lock);
    if (vm_valid(s, vm)) {
        struct sched_vm *m = &s->vm[vm];
        for (uint32_t i = 0; i < m->n; i++) {
            struct sched_vcpu *v = &s->vcpu[m->first + i];
            (void)vmci_fetch_or(&v->st, ST_DEAD);
            if (v->in_fluid == FLUID_IN)
                vmci_store_relaxed(&s->runnable, s->runnable - 1);
            for (uint32_t d = 0; v->in_fluid == FLUID_DRAINS && d < s->ndrain; d++)
                if (s->drain[d] == m->first + i)
                    s->drain[d--] = s->drain[--s->ndrain];
            v->in_fluid = FLUID_OUT;
        }
        vmci_store_relaxed(&m->active, 0);
        vmci_sched_set_class(s, vm, CLS_IDLE);
        set_mask(s, vm, NULL, 0);
        vmci_store_release(&m->used, 2u);
        s->ndying++;
        s->dirty_tree = true;
        rc = VMC_OK;
    }
    vmci_unlock(&s->plan_lock);
    return rc;
}

int vmc_sched_vm_set(struct vmc_sched *s, uint32_t vm, const struct vmc_sched_share *share,
                     struct vmc_error *err)
{
    int rc = check_share(s, share, err);
    if (rc != VMC_OK)
        return rc;
    vmci_lock(&s->plan_lock);
    if (!vm_valid(s, vm))
        rc = vmci_error(err, VMC_ENOENT, site, "no VM %u", vm);
    if (rc == VMC_OK)
        rc = admit(s, s->vm[vm].parent, vm, share, err);
    if (rc == VMC_OK) {
        s->vm[vm].share = *share;
        s->dirty = true;
    }
    vmci_unlock(&s->plan_lock);
    return rc;
}

int vmc_sched_vm_set_cap(struct vmc_sched *s, uint32_t vm, uint32_t cap, struct vmc_error *err)
{
    int rc = check_cap(cap, err);
    if (rc != VMC_OK)
        return rc;
    vmci_lock(&s->plan_lock);
    if (vm_valid(s, vm)) {
        set_cap(s, &s->vm[vm], cap);
        s->dirty = true;
    } else {
        rc = vmci_error(err, VMC_ENOENT, site, "no VM %u", vm);
    }
    vmci_unlock(&s->plan_lock);
    return rc;
}

int vmc_sched_vm_set_affinity(struct vmc_sched *s, uint32_t vm, const uint64_t *mask,
                              uint32_t words)
{
    int rc = VMC_OK;

    vmci_lock(&s->plan_lock);
    if (!vm_valid(s, vm))
        rc = VMC_ENOENT;
    else if (mask != NULL && !mask_usable(s, mask, words))
        rc = VMC_EINVAL;
    else
        set_mask(s, vm, mask, words);
    vmci_unlock(&s->plan_lock);
    return rc;
}

uint32_t vmc_sched_vcpu(const struct vmc_sched *s, uint32_t vm, uint32_t index)
{
    if (vm >= s->max_vms || vmci_load_acquire(&s->vm[vm].used) == 0 || index >= s->vm[vm].n)
        return NONE;
    return s->vm[vm].first + index;
}

uint32_t vmc_sched_vcpu_cpu(const struct vmc_sched *s, uint32_t vcpu)
{
    if (vcpu >= s->max_vcpus || (vmci_load_acquire(&s->vcpu[vcpu].st) & ST_ONCPU) == 0)
        return NONE;
    return vmci_load_relaxed(&s->vcpu[vcpu].cpu);
}

/* ---- CPUs ------------------------------------------------------------------------------------ */

static void remove_column(struct vmc_sched *s, uint32_t cpu)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < s->online; i++)
        if (s->col_cpu[i] != cpu)
            s->col_cpu[n++] = s->col_cpu[i];
    vmci_store_relaxed(&s->online, n);
}

int vmc_sched_cpu_set_online(struct vmc_sched *s, uint32_t cpu, bool online)
{
    int rc = VMC_OK;

    if (cpu >= s->ncpus)
        return VMC_ENOENT;
    vmci_lock(&s->plan_lock);
    struct sched_cpu *c = &s->cpu[cpu];
    if (!online && c->online && s->online == 1) {
        rc = VMC_EBUSY;
    } else if (online && !c->online) {
        s->col_cpu[s->online] = cpu;
        vmci_store_relaxed(&s->online, s->online + 1);
        vmci_store_relaxed(&c->online, 1u);
        s->dirty = true;
    } else if (!online && c->online) {
        remove_column(s, cpu);
        vmci_store_relaxed(&c->online, 0u);
        (void)vmci_fetch_and(&s->idle_map[cpu / 64], ~(1ull << (cpu % 64)));
        s->dirty = true;
    }
    vmci_unlock(&s->plan_lock);
    return rc;
}
