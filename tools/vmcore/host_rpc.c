/* SPDX-License-Identifier: BSD-2-Clause */
/* The methods of a host's control socket. vmcore-host(5) lists them. */
#include "host.h"

#include "control_rpc.h"

#include <stdio.h>
#include <string.h>

/* Answers are made one at a time, on the main thread. */
static char text[256];

static struct json_object *yes(void)
{
    return json_object_new_boolean(true);
}

static struct json_object *no(const char **message, const char *why)
{
    *message = why;
    return NULL;
}

/* The VM that "vm" in the parameters names. */
static struct host_vm *find_vm(struct host *h, struct json_object *params, const char **message)
{
    struct json_object *name = NULL;

    if (!json_object_is_type(params, json_type_object) ||
        !json_object_object_get_ex(params, "vm", &name) ||
        !json_object_is_type(name, json_type_string)) {
        *message = "the parameters need \"vm\", the name of a VM";
        return NULL;
    }
    for (unsigned i = 0; i < h->count; i++)
        if (strcmp(h->vms[i]->run.opt.name, json_object_get_string(name)) == 0)
            return h->vms[i];
    *message = "there is no VM of this name";
    return NULL;
}

static struct host_vm *find_running(struct host *h, struct json_object *params,
                                    const char **message)
{
    struct host_vm *vm = find_vm(h, params, message);

    if (vm != NULL && vm->state == HOST_VM_RUNNING)
        return vm;
    if (vm != NULL)
        *message = "the VM has ended";
    return NULL;
}

/* ---- looking -----------------------------------------------------------------------------------
 */

static struct json_object *rpc_status(void *ctx, struct json_object *params, const char **message)
{
    (void)params;
    (void)message;
    return host_status_json(ctx);
}

static struct json_object *rpc_stats(void *ctx, struct json_object *params, const char **message)
{
    (void)params;
    (void)message;
    return host_stats_json(ctx);
}

/* ---- life of a VM ------------------------------------------------------------------------------
 */

static struct host_vm *find_going(struct host *h, struct json_object *params, const char **message)
{
    struct host_vm *vm = find_running(h, params, message);

    if (vm == NULL || vm->then == HOST_VM_GO_ON)
        return vm;
    *message = vm->then == HOST_VM_END ? "the VM is ending" : "the VM is being reset";
    return NULL;
}

static struct json_object *rpc_pause(void *ctx, struct json_object *params, const char **message)
{
    struct host_vm *vm = find_going(ctx, params, message);

    if (vm == NULL)
        return NULL;
    if (!vm->user_paused)
        host_vm_pause(vm);
    return yes();
}

static struct json_object *rpc_resume(void *ctx, struct json_object *params, const char **message)
{
    struct host_vm *vm = find_going(ctx, params, message);

    if (vm == NULL)
        return NULL;
    if (vm->user_paused)
        host_vm_resume(vm);
    return yes();
}

static struct json_object *rpc_powerdown(void *ctx, struct json_object *params,
                                         const char **message)
{
    struct host_vm *vm = find_running(ctx, params, message);

    if (vm == NULL)
        return NULL;
    vmc_pc_power_button(vm->run.pc);
    return yes();
}

/* A VM, or without "vm" the whole host. */
static struct json_object *rpc_quit(void *ctx, struct json_object *params, const char **message)
{
    struct host *h = ctx;
    struct host_vm *vm;

    if (params == NULL ||
        (json_object_is_type(params, json_type_object) && json_object_object_length(params) == 0)) {
        atomic_fetch_add(&h->quits, 1);
        return yes();
    }
    vm = find_running(h, params, message);
    if (vm == NULL)
        return NULL;
    host_vm_end(vm, "ended by the user");
    return yes();
}

/* ---- entitlements ------------------------------------------------------------------------------
 */

/* A number among the parameters; false: it makes no sense. Without it *out stays as it is. */
static bool number(struct json_object *params, const char *name, uint64_t max, uint64_t *out)
{
    struct json_object *o = NULL;

    if (!json_object_object_get_ex(params, name, &o))
        return true;
    if (!json_object_is_type(o, json_type_int) || json_object_get_int64(o) < 0 ||
        json_object_get_uint64(o) > max)
        return false;
    *out = json_object_get_uint64(o);
    return true;
}

/* What is not known is an error: a misspelt limit must not go by unseen. */
static bool only_known(struct json_object *params, const char *const *known, size_t count)
{
    json_object_object_foreach(params, key, value)
    {
        size_t i = 0;
        (void)value;
        while (i < count && strcmp(key, known[i]) != 0)
            i++;
        if (i == count)
            return false;
    }
    return true;
}

static bool read_share(struct json_object *params, const char *const names[3], uint64_t max,
                       struct host_share *s)
{
    uint64_t shares = s->shares;
    bool ok = number(params, names[0], HOST_MAX_SHARES, &shares) && shares != 0 &&
              number(params, names[1], max, &s->reservation) &&
              number(params, names[2], max, &s->limit);

    s->shares = (uint32_t)shares;
    return ok && (s->limit == 0 || s->reservation <= s->limit);
}

static bool same(const struct host_share *a, const struct host_share *b)
{
    return a->shares == b->shares && a->reservation == b->reservation && a->limit == b->limit;
}

static bool same_cpu(const struct host_cpu *a, const struct host_cpu *b)
{
    return same(&a->share, &b->share) && a->cap == b->cap && a->set.any == b->set.any &&
           memcmp(a->set.bits, b->set.bits, sizeof(a->set.bits)) == 0;
}

/* Both change, or neither. */
static struct json_object *set_shares(struct host_vm *vm, const struct host_share *mem,
                                      const struct host_cpu *cpu, const char **message)
{
    struct host *h = vm->h;
    struct vmc_error err = {0};
    int rc = VMC_OK;

    pthread_mutex_lock(&h->lock);
    if (!same(mem, &vm->mem))
        rc = host_policy_admit(h, vm, mem, &err);
    if (rc == VMC_OK && !same_cpu(cpu, &vm->cpu))
        rc = host_cpu_set(vm, cpu, &err);
    if (rc == VMC_OK)
        vm->mem = *mem;
    pthread_mutex_unlock(&h->lock);
    if (rc != VMC_OK) {
        snprintf(text, sizeof(text), "%s", err.text);
        return no(message, text);
    }
    host_policy_wake(h);
    return yes();
}

static const char *const cpu_names[3] = {"cpu_shares", "cpu_reservation", "cpu_limit"};
static const char cpu_rules[] =
    "cpu: shares are 1 to 1000000; reservation and limit are millionths of a CPU, at most what "
    "there is, the reservation not above the limit";

/* "cpu_cap" and "cpu_affinity". */
static bool read_cap_and_set(struct json_object *params, struct host_cpu *cpu)
{
    struct json_object *o = NULL;
    uint64_t cap = cpu->cap;
    bool ok = number(params, "cpu_cap", 1000000, &cap) && (cap == 0 || cap >= 1000);

    cpu->cap = (uint32_t)cap;
    if (ok && json_object_object_get_ex(params, "cpu_affinity", &o))
        ok = json_object_is_type(o, json_type_string) &&
             host_parse_cpu_set(json_object_get_string(o), &cpu->set);
    return ok;
}

static struct json_object *rpc_set(void *ctx, struct json_object *params, const char **message)
{
    static const char *const mem_names[3] = {"memory_shares", "memory_reservation", "memory_limit"};
    static const char *const known[] = {"vm",           "memory_shares", "memory_reservation",
                                        "memory_limit", "cpu_shares",    "cpu_reservation",
                                        "cpu_limit",    "cpu_cap",       "cpu_affinity"};
    struct host_vm *vm = find_running(ctx, params, message);

    if (vm == NULL)
        return NULL;
    struct host_share mem = vm->mem;
    struct host_cpu cpu = vm->cpu;
    if (!only_known(params, known, sizeof(known) / sizeof(known[0])))
        return no(message, "a parameter is not known");
    if (!read_share(params, mem_names, vm->run.opt.mem_bytes, &mem))
        return no(message, "memory: shares are 1 to 1000000; reservation and limit are bytes, at "
                           "most what the VM has, the reservation not above the limit");
    if (mem.limit != 0 && mem.limit < VMC_PAGE_SIZE) /* rounded down it would be none */
        return no(message, "memory: the limit is less than a page");
    if (!read_share(params, cpu_names, vm->run.opt.cpus * 1000000ull, &cpu.share))
        return no(message, cpu_rules);
    if (!read_cap_and_set(params, &cpu))
        return no(message, "cpu: the cap is 1000 to 1000000 millionths of a CPU, 0: none; the "
                           "affinity is a list of processors such as \"0,2-3\", or \"all\"");
    mem.reservation &= ~(VMC_PAGE_SIZE - 1ull);
    mem.limit &= ~(VMC_PAGE_SIZE - 1ull);
    return set_shares(vm, &mem, &cpu, message);
}

/* "pool": its name, and what of the entitlements of "set" a pool has. */
static struct json_object *rpc_set_pool(void *ctx, struct json_object *params, const char **message)
{
    static const char *const known[] = {"pool", "cpu_shares", "cpu_reservation", "cpu_limit"};
    struct host *h = ctx;
    struct json_object *name = NULL;
    struct vmc_error err = {0};
    unsigned i = 0;

    if (!json_object_is_type(params, json_type_object) ||
        !json_object_object_get_ex(params, "pool", &name) ||
        !json_object_is_type(name, json_type_string))
        return no(message, "the parameters need \"pool\", the name of a pool");
    while (i < h->cfg.cpu_pool_count &&
           strcmp(h->cfg.cpu_pools[i].name, json_object_get_string(name)) != 0)
        i++;
    if (i == h->cfg.cpu_pool_count)
        return no(message, "there is no pool of this name");
    if (!only_known(params, known, sizeof(known) / sizeof(known[0])))
        return no(message, "a parameter is not known");
    struct host_share share = h->cpu_pools[i].share;
    if (!read_share(params, cpu_names, HOST_MAX_CPUS * 1000000ull, &share))
        return no(message, cpu_rules);
    if (host_cpu_pool_set(h, i, &share, &err) != VMC_OK) {
        snprintf(text, sizeof(text), "%s", err.text);
        return no(message, text);
    }
    return yes();
}

/* "target": bytes that the balloon shall hold, or null: as the policy says. */
static struct json_object *rpc_balloon(void *ctx, struct json_object *params, const char **message)
{
    static const char *const known[] = {"vm", "target"};
    struct host_vm *vm = find_running(ctx, params, message);
    struct json_object *o = NULL;
    uint64_t bytes = UINT64_MAX;

    if (vm == NULL)
        return NULL;
    if (!only_known(params, known, sizeof(known) / sizeof(known[0])) ||
        !json_object_object_get_ex(params, "target", &o) ||
        (o != NULL && !number(params, "target", vm->run.opt.mem_bytes, &bytes)))
        return no(message, "\"target\" is the balloon's size in bytes, at most the VM's memory, or "
                           "null");
    pthread_mutex_lock(&vm->h->lock);
    vm->balloon_set = bytes == UINT64_MAX ? UINT64_MAX : bytes / VMC_PAGE_SIZE;
    pthread_mutex_unlock(&vm->h->lock);
    host_policy_wake(vm->h);
    return yes();
}

static struct json_object *rpc_idle_tax(void *ctx, struct json_object *params, const char **message)
{
    struct host *h = ctx;
    uint64_t percent = UINT64_MAX;

    if (!json_object_is_type(params, json_type_object) ||
        !number(params, "percent", VMC_BALLOON_MAX_TAX, &percent) || percent == UINT64_MAX)
        return no(message, "\"percent\" must be from 0 to 99");
    pthread_mutex_lock(&h->lock);
    h->idle_tax = (unsigned)percent;
    pthread_mutex_unlock(&h->lock);
    host_policy_wake(h);
    return yes();
}

struct rpc_server host_rpc_server(struct host *h)
{
    static const struct rpc_method methods[] = {
        {"status", rpc_status},     {"stats", rpc_stats},         {"pause", rpc_pause},
        {"resume", rpc_resume},     {"powerdown", rpc_powerdown}, {"quit", rpc_quit},
        {"set", rpc_set},           {"balloon", rpc_balloon},     {"idle_tax", rpc_idle_tax},
        {"set_pool", rpc_set_pool},
    };
    return (struct rpc_server){
        .methods = methods, .count = sizeof(methods) / sizeof(methods[0]), .ctx = h};
}
