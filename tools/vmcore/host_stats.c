/* SPDX-License-Identifier: BSD-2-Clause */
/* The state of a host and its VMs as JSON. Sizes in bytes, times in nanoseconds. */
#include "host.h"

#include "json_add.h"

static void add_pages(struct json_object *o, const char *name, uint64_t pages)
{
    add_u64(o, name, pages * VMC_PAGE_SIZE);
}

static const char *reclaim_name(enum vmc_reclaim_state s)
{
    static const char *const names[VMC_RECLAIM_STATES] = {"high", "clear", "soft", "hard", "low"};
    return names[s];
}

/* ---- a VM --------------------------------------------------------------------------------------
 */

static struct json_object *share_json(const struct host_share *s)
{
    struct json_object *o = json_object_new_object();

    add_u64(o, "shares", s->shares);
    add_u64(o, "reservation", s->reservation);
    add_u64(o, "limit", s->limit);
    return o;
}

/* Under host.lock. */
static struct json_object *memory_json(struct host_vm *vm)
{
    struct json_object *o = share_json(&vm->mem);
    struct vmc_space_stats st;
    uint64_t compressed, in_memory;

    vmc_space_stats(vm->run.space, &st);
    in_memory = st.state[VMC_PAGE_PRIVATE] + st.state[VMC_PAGE_OBJECT];
    compressed = st.state[VMC_PAGE_PACKED] + st.state[VMC_PAGE_DELTA];
    add_pages(o, "configured", st.pages);
    add_pages(o, "granted", in_memory);
    add_u64(o, "consumed", st.consumed_bytes);
    add_pages(o, "active", vmc_active_pages(&vm->active, st.pages));
    add_pages(o, "private", st.state[VMC_PAGE_PRIVATE]);
    add_pages(o, "shared", st.state[VMC_PAGE_OBJECT]);
    add_pages(o, "saved", st.shared_saved);
    add_pages(o, "zero", st.state[VMC_PAGE_ZERO]);
    add_pages(o, "ballooned", st.state[VMC_PAGE_BALLOON]);
    add_pages(o, "compressed", compressed);
    add_pages(o, "swapped", st.state[VMC_PAGE_SWAPPED]);
    add_pages(o, "target", vm->target);
    add_pages(o, "balloon_target",
              vm->balloon_set != UINT64_MAX ? vm->balloon_set : vm->action.balloon_target);
    add_text(o, "balloon_by", vm->balloon_set != UINT64_MAX ? "user" : "policy");
    add_u64(o, "overhead", (uint64_t)atomic_load(&vm->overhead.bytes));
    add_u64(o, "breaks", st.breaks);
    add_u64(o, "unpacks", st.unpacks);
    add_u64(o, "swap_ins", st.swap_ins);
    add_u64(o, "swap_outs", st.swap_outs);
    add_u64(o, "swap_errors", st.swap_errors);
    json_object_object_add(o, "waiting", json_object_new_boolean(vm->blocked || vm->resting));
    return o;
}

static struct json_object *vcpu_json(struct host_vm *vm, unsigned index, uint64_t entitled_permille)
{
    struct json_object *o = json_object_new_object();
    struct vmc_vcpu_stats cpu = {.size = sizeof(cpu)};
    struct vmc_sched_vcpu_stats st = {0};
    struct vmc_sched *sched = vmc_runner_sched(vm->h->runner);

    vmc_vcpu_get_stats(vmc_vm_vcpu(vm->run.vm, index), &cpu);
    uint32_t v = vm->scheduled ? vmc_sched_vcpu(sched, vm->sched_vm, index) : VMC_SCHED_NONE;
    if (v != VMC_SCHED_NONE && vmc_sched_vcpu_stats(sched, v, vmc_runner_now_ns(), &st) != VMC_OK)
        st = (struct vmc_sched_vcpu_stats){0};
    add_u64(o, "index", index);
    add_u64(o, "used_ns", st.used_ns);
    add_u64(o, "ready_ns", st.ready_ns);
    add_u64(o, "costop_ns", st.costop_ns);
    add_u64(o, "wait_ns", st.wait_ns);
    add_u64(o, "stolen_ns", st.stolen_ns);
    add_u64(o, "entitled_permille", entitled_permille);
    add_u64(o, "switches", st.switches);
    add_u64(o, "migrations", st.migrations);
    add_u64(o, "instructions", cpu.retired);
    add_u64(o, "interrupts", cpu.irqs);
    return o;
}

static struct json_object *vcpus_json(struct host_vm *vm)
{
    struct json_object *list = json_object_new_array();
    struct vmc_sched *sched = vmc_runner_sched(vm->h->runner);
    struct vmc_sched_vm_stats st = {0};
    unsigned n = vm->run.opt.cpus;
    uint64_t permille = 0;

    if (vm->state != HOST_VM_RUNNING)
        return list;
    if (vm->scheduled && vmc_sched_vm_stats(sched, vm->sched_vm, &st) == VMC_OK)
        permille = st.entitled_per_frame_ns * 1000 / vmc_sched_frame_ns(sched) / n;
    for (unsigned i = 0; i < n; i++)
        json_object_array_add(list, vcpu_json(vm, i, permille));
    return list;
}

static struct json_object *disks_json(struct host_vm *vm)
{
    struct json_object *list = json_object_new_array();

    for (unsigned i = 0; i < vm->run.opt.disk_count; i++) {
        struct json_object *o = json_object_new_object();
        struct host_disk *d = &vm->disks[i];
        add_text(o, "path", vm->run.opt.disks[i].path);
        add_u64(o, "reads", atomic_load(&d->reads));
        add_u64(o, "writes", atomic_load(&d->writes));
        add_u64(o, "read_bytes", atomic_load(&d->read_bytes));
        add_u64(o, "write_bytes", atomic_load(&d->write_bytes));
        add_u64(o, "others", atomic_load(&d->others));
        add_bool(o, "waits_for_space",
                 vm->state == HOST_VM_RUNNING && run_io_disk_waits(&vm->run, i));
        json_object_array_add(list, o);
    }
    return list;
}

static struct json_object *vm_head_json(const struct host_vm *vm)
{
    struct json_object *o = json_object_new_object();

    add_text(o, "name", vm->run.opt.name);
    add_text(o, "state", host_vm_state_name(vm));
    if (vm->state == HOST_VM_ENDED)
        add_text(o, "reason", vm->end_reason);
    add_u64(o, "cpus", vm->run.opt.cpus);
    add_u64(o, "memory_bytes", vm->run.opt.mem_bytes);
    add_bool(o, "waits_for_space", vm->state == HOST_VM_RUNNING && run_io_waits(&vm->run));
    return o;
}

static const char *pool_name(const struct host *h, unsigned pool)
{
    return pool == HOST_NO_POOL ? "" : h->cfg.cpu_pools[pool].name;
}

static struct json_object *cpu_json(const struct host_vm *vm)
{
    struct json_object *o = share_json(&vm->cpu.share);
    char set[4 * HOST_MAX_CPUS];

    host_print_cpu_set(&vm->cpu.set, set, sizeof(set));
    add_u64(o, "cap", vm->cpu.cap);
    add_text(o, "affinity", set);
    add_text(o, "pool", pool_name(vm->h, vm->cfg->cpu_pool));
    return o;
}

static struct json_object *vm_json(struct host_vm *vm)
{
    struct json_object *o = vm_head_json(vm);

    json_object_object_add(o, "memory", memory_json(vm));
    json_object_object_add(o, "cpu", cpu_json(vm));
    json_object_object_add(o, "vcpus", vcpus_json(vm));
    json_object_object_add(o, "disks", disks_json(vm));
    return o;
}

/* ---- the host ----------------------------------------------------------------------------------
 */

/* Under host.lock. */
static struct json_object *host_json(struct host *h)
{
    struct json_object *o = json_object_new_object();
    struct vmc_pool_stats p;
    struct vmc_share_stats sh;

    vmc_pool_stats(h->pool, &p);
    vmc_share_stats(h->share, &sh);
    add_text(o, "state", reclaim_name(h->state));
    add_u64(o, "uptime_ns", h->pf.now_ns(h->pf.ctx) - h->start_ns);
    add_pages(o, "memory", p.frames);
    add_pages(o, "free", p.free);
    add_pages(o, "private", p.private_frames);
    add_pages(o, "shared", p.object_frames);
    add_pages(o, "store", p.store_frames);
    add_u64(o, "store_payload", p.packed_bytes);
    add_pages(o, "limbo", p.limbo_frames);
    add_u64(o, "metadata", p.meta_bytes + sh.meta_bytes);
    add_pages(o, "minimum_free", h->thresholds.below[VMC_RECLAIM_CLEAR]);
    add_u64(o, "idle_tax", h->idle_tax);
    add_u64(o, "pages_scanned", h->stats.scanned);
    add_u64(o, "pages_merged", h->stats.merged);
    add_u64(o, "pages_zeroed", h->stats.zeroed);
    add_u64(o, "pages_compressed", h->stats.packed);
    add_u64(o, "pages_as_deltas", h->stats.deltas);
    add_u64(o, "pages_swapped", h->stats.swapped);
    add_u64(o, "scan_passes", sh.passes);
    add_u64(o, "times_waited", h->stats.blocked);
    add_u64(o, "turns", h->stats.turns);
    add_u64(o, "samples", h->stats.samples);
    return o;
}

static struct json_object *pools_json(struct host *h)
{
    struct json_object *list = json_object_new_array();

    for (unsigned i = 0; i < h->cfg.cpu_pool_count; i++) {
        struct json_object *o = json_object_new_object();
        add_text(o, "name", h->cfg.cpu_pools[i].name);
        add_text(o, "parent", pool_name(h, h->cfg.cpu_pools[i].parent));
        json_object_object_add(o, "cpu", share_json(&h->cpu_pools[i].share));
        json_object_array_add(list, o);
    }
    return list;
}

static struct json_object *cpus_json(struct host *h)
{
    struct json_object *list = json_object_new_array();
    struct vmc_sched_cpu_stats st;

    for (uint32_t i = 0;
         i < HOST_MAX_CPUS && vmc_sched_cpu_stats(vmc_runner_sched(h->runner), i, &st) == VMC_OK;
         i++) {
        struct json_object *o = json_object_new_object();
        add_u64(o, "busy_ns", st.busy_ns);
        add_u64(o, "idle_ns", st.idle_ns);
        add_u64(o, "switches", st.switches);
        json_object_array_add(list, o);
    }
    return list;
}

struct json_object *host_status_json(struct host *h)
{
    struct json_object *o = json_object_new_object();
    struct json_object *list = json_object_new_array();

    pthread_mutex_lock(&h->lock);
    add_text(o, "state", reclaim_name(h->state));
    pthread_mutex_unlock(&h->lock);
    add_u64(o, "memory_bytes", h->cfg.memory);
    for (unsigned i = 0; i < h->count; i++)
        json_object_array_add(list, vm_head_json(h->vms[i]));
    json_object_object_add(o, "vms", list);
    return o;
}

struct json_object *host_stats_json(struct host *h)
{
    struct json_object *o = json_object_new_object();
    struct json_object *list = json_object_new_array();

    pthread_mutex_lock(&h->lock);
    json_object_object_add(o, "host", host_json(h));
    for (unsigned i = 0; i < h->count; i++)
        json_object_array_add(list, vm_json(h->vms[i]));
    pthread_mutex_unlock(&h->lock);
    json_object_object_add(o, "cpus", cpus_json(h));
    json_object_object_add(o, "cpu_pools", pools_json(h));
    json_object_object_add(o, "vms", list);
    return o;
}
