/* SPDX-License-Identifier: BSD-2-Clause */
/* Statistics of a VM as JSON, for --stats and the control socket. */
#include "json_add.h"
#include "run_vm.h"

#include <sys/resource.h>

#define MAX_ENGINE_STATS 384

static struct json_object *vcpu_json(struct vmc_vcpu *v, unsigned index)
{
    struct vmc_vcpu_stats st = {.size = sizeof(st)};
    struct json_object *o = json_object_new_object();
    struct json_object *exits = json_object_new_object();
    struct json_object *engine = json_object_new_object();
    const char *names[MAX_ENGINE_STATS];
    uint64_t values[MAX_ENGINE_STATS];

    vmc_vcpu_get_stats(v, &st);
    add_u64(o, "index", index);
    add_u64(o, "instructions", st.retired);
    add_u64(o, "guest_ns", st.guest_ns);
    add_u64(o, "idle_ns", st.idle_ns);
    add_u64(o, "interrupts", st.irqs);
    add_u64(o, "port_accesses", st.pio);
    add_u64(o, "mmio_accesses", st.mmio);
    for (uint32_t k = 1; k < VMC_EXIT_KINDS; k++)
        if (st.exits[k] != 0)
            add_u64(exits, vmc_exit_name(k), st.exits[k]);
    json_object_object_add(o, "exits", exits);
    size_t n = vmc_vcpu_engine_stats(v, names, values, MAX_ENGINE_STATS);
    for (size_t i = 0; i < n && i < MAX_ENGINE_STATS; i++)
        add_u64(engine, names[i], values[i]);
    json_object_object_add(o, "engine", engine);
    return o;
}

struct json_object *run_stats_json(struct run_vm *r)
{
    struct json_object *o = json_object_new_object();
    struct json_object *cpus = json_object_new_array();
    struct json_object *host = json_object_new_object();
    struct rusage ru;

    json_object_object_add(o, "name", json_object_new_string(r->opt.name));
    json_object_object_add(o, "engine", json_object_new_string(r->engine->name));
    add_u64(o, "memory_bytes", r->opt.mem_bytes);
    add_u64(o, "wall_ns", r->pf.now_ns(r->pf.ctx) - r->start_ns);
    for (unsigned i = 0; i < r->opt.cpus; i++)
        json_object_array_add(cpus, vcpu_json(vmc_vm_vcpu(r->vm, i), i));
    json_object_object_add(o, "vcpus", cpus);
    if (getrusage(RUSAGE_SELF, &ru) == 0) {
        add_u64(host, "user_us",
                (uint64_t)ru.ru_utime.tv_sec * 1000000u + (uint64_t)ru.ru_utime.tv_usec);
        add_u64(host, "system_us",
                (uint64_t)ru.ru_stime.tv_sec * 1000000u + (uint64_t)ru.ru_stime.tv_usec);
        add_u64(host, "max_rss_bytes", (uint64_t)ru.ru_maxrss * 1024u);
    }
    json_object_object_add(o, "host", host);
    return o;
}
