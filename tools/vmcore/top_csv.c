/* SPDX-License-Identifier: BSD-2-Clause */
#include "ctl_client.h"
#include "top_view.h"

#include <string.h>

static const char *const memory[] = {"configured", "granted", "consumed", "active",
                                     "shared",     "saved",   "zero",     "ballooned",
                                     "compressed", "swapped", "target",   "overhead"};
#define MEMORY (sizeof(memory) / sizeof(memory[0]))

static const char *const cpu[] = {"used_ns", "ready_ns", "costop_ns", "wait_ns", "stolen_ns"};
#define CPU (sizeof(cpu) / sizeof(cpu[0]))

/*
 * A counter's growth; from zero where there is nothing earlier. One that falls has not begun anew:
 * what a processor used counts as its own until it is known what of it was stolen.
 */
static uint64_t growth(struct json_object *before, struct json_object *now, const char *name)
{
    uint64_t b = ctl_u64(before, name), n = ctl_u64(now, name);

    return n > b ? n - b : 0;
}

static double seconds(const struct top_sample *s)
{
    uint64_t ns = s->before != NULL ? s->now_ns - s->before_ns
                                    : ctl_u64(ctl_object(s->now, "host"), "uptime_ns");

    return ns > 0 ? (double)ns / 1e9 : 1;
}

double top_rate(const struct top_sample *s, struct json_object *before, struct json_object *now,
                const char *name)
{
    return (double)growth(before, now, name) / seconds(s);
}

double top_percent(const struct top_sample *s, struct json_object *before, struct json_object *now,
                   const char *name)
{
    return top_rate(s, before, now, name) / 1e7;
}

struct json_object *top_vm_before(const struct top_sample *s, struct json_object *vm)
{
    struct json_object *list = ctl_object(s->before, "vms");

    for (size_t i = 0; i < ctl_length(list); i++)
        if (strcmp(ctl_text(ctl_at(list, i), "name"), ctl_text(vm, "name")) == 0)
            return ctl_at(list, i);
    return NULL;
}

void top_csv_header(FILE *f)
{
    fprintf(f, "time_s,host_state,host_free_mib,vm,state");
    for (size_t i = 0; i < MEMORY; i++)
        fprintf(f, ",%s_mib", memory[i]);
    fprintf(f, ",swap_in_per_s,swap_out_per_s,unpack_per_s");
    fprintf(
        f,
        ",used_percent,ready_percent,costop_percent,wait_percent,stolen_percent,entitled_percent");
    fprintf(f, ",reads_per_s,writes_per_s,read_mib_per_s,write_mib_per_s");
    fprintf(f, ",cpu_pool,cpu_affinity,cpu_cap_percent\n");
}

static void csv_memory(const struct top_sample *s, struct json_object *b, struct json_object *n,
                       FILE *f)
{
    for (size_t i = 0; i < MEMORY; i++)
        fprintf(f, ",%.2f", (double)ctl_u64(n, memory[i]) / 1048576);
    fprintf(f, ",%.1f,%.1f,%.1f", top_rate(s, b, n, "swap_ins"), top_rate(s, b, n, "swap_outs"),
            top_rate(s, b, n, "unpacks"));
}

/* All vCPUs of the VM together. */
static void csv_cpu(const struct top_sample *s, struct json_object *b, struct json_object *n,
                    FILE *f)
{
    uint64_t entitled = 0;

    for (size_t k = 0; k < CPU; k++) {
        double sum = 0;
        for (size_t i = 0; i < ctl_length(n); i++)
            sum += top_percent(s, ctl_at(b, i), ctl_at(n, i), cpu[k]);
        fprintf(f, ",%.1f", sum);
    }
    for (size_t i = 0; i < ctl_length(n); i++)
        entitled += ctl_u64(ctl_at(n, i), "entitled_permille");
    fprintf(f, ",%.1f", (double)entitled / 10);
}

static void csv_disks(const struct top_sample *s, struct json_object *b, struct json_object *n,
                      FILE *f)
{
    double sum[4] = {0};

    for (size_t i = 0; i < ctl_length(n); i++) {
        sum[0] += top_rate(s, ctl_at(b, i), ctl_at(n, i), "reads");
        sum[1] += top_rate(s, ctl_at(b, i), ctl_at(n, i), "writes");
        sum[2] += top_rate(s, ctl_at(b, i), ctl_at(n, i), "read_bytes") / 1048576;
        sum[3] += top_rate(s, ctl_at(b, i), ctl_at(n, i), "write_bytes") / 1048576;
    }
    fprintf(f, ",%.1f,%.1f,%.2f,%.2f", sum[0], sum[1], sum[2], sum[3]);
}

/* A name goes in quotes, its own doubled (RFC 4180). */
static void csv_text(const char *text, FILE *f)
{
    fputc('"', f);
    for (; *text != '\0'; text++) {
        if (*text == '"')
            fputc('"', f);
        fputc(*text, f);
    }
    fputc('"', f);
}

static void csv_policy(struct json_object *policy, FILE *f)
{
    fputc(',', f);
    csv_text(ctl_text(policy, "pool"), f);
    fputc(',', f);
    csv_text(ctl_text(policy, "affinity"), f);
    fprintf(f, ",%.1f\n", (double)ctl_u64(policy, "cap") / 10000);
}

void top_csv(const struct top_sample *s, FILE *f)
{
    struct json_object *host = ctl_object(s->now, "host"), *vms = ctl_object(s->now, "vms");

    for (size_t i = 0; i < ctl_length(vms); i++) {
        struct json_object *vm = ctl_at(vms, i), *before = top_vm_before(s, vm);
        fprintf(f, "%.1f,%s,%.2f,", (double)ctl_u64(host, "uptime_ns") / 1e9,
                ctl_text(host, "state"), (double)ctl_u64(host, "free") / 1048576);
        csv_text(ctl_text(vm, "name"), f);
        fprintf(f, ",%s", ctl_vm_state(vm));
        csv_memory(s, ctl_object(before, "memory"), ctl_object(vm, "memory"), f);
        csv_cpu(s, ctl_object(before, "vcpus"), ctl_object(vm, "vcpus"), f);
        csv_disks(s, ctl_object(before, "disks"), ctl_object(vm, "disks"), f);
        csv_policy(ctl_object(vm, "cpu"), f);
    }
}
