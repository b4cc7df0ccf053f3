/* SPDX-License-Identifier: BSD-2-Clause */
/* Put the machine together from the options. */
#define _GNU_SOURCE
#include "run_vm.h"

#include "vmcore_cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE 2
#endif

#include <vmcore/kvm.h>

int run_vm_fail(const char *what, const struct vmc_error *err)
{
    fprintf(stderr, "%s: %s: %s\n", run_who, what, err->text);
    return EXIT_ERROR;
}

/* ---- images -------------------------------------------------------------------------------- */

static int image_read(void *ctx, uint64_t offset, void *dst, size_t bytes)
{
    const struct run_image *img = ctx;
    char *d = dst;

    while (bytes > 0) {
        ssize_t n = pread(img->fd, d, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return VMC_EIO;
        d += n;
        offset += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return VMC_OK;
}

static int image_open(struct run_image *img, const char *opt, const char *path)
{
    static const struct vmc_image_ops ops = {.read = image_read};
    struct stat st;

    img->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (img->fd < 0 || fstat(img->fd, &st) != 0) {
        fprintf(stderr, "%s: --%s %s: %s\n", run_who, opt, path, strerror(errno));
        return EXIT_ERROR;
    }
    if (!S_ISREG(st.st_mode)) {
        fprintf(stderr, "%s: --%s %s: not a regular file\n", run_who, opt, path);
        return EXIT_ERROR;
    }
    img->src = (struct vmc_image_src){.ops = &ops, .ctx = img, .bytes = (uint64_t)st.st_size};
    return 0;
}

static void image_close(struct run_image *img)
{
    if (img->fd >= 0)
        close(img->fd);
    img->fd = -1;
}

static int open_images(struct run_vm *r)
{
    const struct run_options *o = &r->opt;
    int rc = 0;

    if (o->kernel != NULL)
        rc = image_open(&r->kernel, "kernel", o->kernel);
    if (rc == 0 && o->initrd != NULL)
        rc = image_open(&r->initrd, "initrd", o->initrd);
    if (rc == 0 && o->firmware != NULL)
        rc = image_open(&r->firmware, "firmware", o->firmware);
    for (unsigned i = 0; rc == 0 && i < o->module_count; i++) {
        rc = image_open(&r->modules[i], "module", o->modules[i].path);
        r->boot_modules[i] =
            (struct vmc_boot_module){.image = r->modules[i].src, .args = o->modules[i].args};
    }
    return rc;
}

/* ---- engine -------------------------------------------------------------------------------- */

static int probe(struct run_vm *r, const struct vmc_engine_ops *engine,
                 struct vmc_engine_info *info, struct vmc_error *err)
{
    r->engine = engine;
    memset(info, 0, sizeof(*info));
    info->size = sizeof(*info);
    return engine->probe(&r->pf, info, err);
}

#ifdef VMC_HAVE_KVM
/* Why KVM is not what "auto" wants; NULL: it is. */
static const char *kvm_unfit(struct run_vm *r, struct vmc_kvm_report *rep, struct vmc_error *err)
{
    rep->size = sizeof(*rep);
    if (vmc_kvm_check(&r->pf, rep, err) != VMC_OK)
        return err->text;
    return rep->runs_kernels ? NULL : rep->missing;
}
#endif

/* KVM where it can run a kernel (or is asked for by name), the software CPU otherwise. */
static int choose_engine(struct run_vm *r, struct vmc_engine_info *info)
{
    struct vmc_error err = {0};

#ifdef VMC_HAVE_KVM
    struct vmc_kvm_report rep = {0};
    const char *why = NULL;
    if (r->opt.engine == RUN_ENGINE_AUTO)
        why = kvm_unfit(r, &rep, &err);
    if (r->opt.engine != RUN_ENGINE_SOFT && why == NULL) {
        /* on a worker, a halted vCPU must leave run */
        const struct vmc_engine_ops *kvm =
            r->opt.workers != 0 || r->hooks != NULL ? vmc_engine_kvm_user_apic() : vmc_engine_kvm();
        if (probe(r, kvm, info, &err) == VMC_OK)
            return 0;
        why = err.text;
    }
#else
    const char *why = "this build has no KVM engine";
#endif
    if (r->opt.engine == RUN_ENGINE_KVM) {
        fprintf(stderr, "%s: --engine kvm: %s\n", run_who, why);
        return EXIT_ERROR;
    }
    if (r->opt.engine == RUN_ENGINE_AUTO && r->opt.verbose)
        fprintf(stderr, "%s: not using KVM: %s\n", run_who, why);
    if (probe(r, vmc_engine_soft(), info, &err) != VMC_OK)
        return run_vm_fail("the software engine does not work here", &err);
    return 0;
}

/* PRESET[,+feature|,-feature]... */
static int build_policy(struct run_vm *r, const struct vmc_cpu_policy *ceiling)
{
    struct vmc_error err = {0};
    char *copy = strdup(r->opt.cpu_model != NULL ? r->opt.cpu_model : "default");
    char *rest = copy;
    const char *preset = copy == NULL ? NULL : strsep(&rest, ",");

    if (preset == NULL)
        return EXIT_ERROR;
    int rc = vmc_cpu_policy_preset(&r->policy, preset, ceiling, &err);
    while (rc == VMC_OK && rest != NULL) {
        const char *f = strsep(&rest, ",");
        if (f[0] != '+' && f[0] != '-') {
            fprintf(stderr, "%s: --cpu: '%s' must start with + or -\n", run_who, f);
            free(copy);
            return EXIT_BAD_ARGS;
        }
        rc = vmc_cpu_policy_feature(&r->policy, f + 1, f[0] == '+', ceiling, &err);
    }
    free(copy);
    if (rc == VMC_OK)
        rc = vmc_cpu_policy_topology(&r->policy, r->opt.cpus);
    if (rc != VMC_OK) {
        run_vm_fail("--cpu", &err);
        return EXIT_BAD_ARGS;
    }
    return 0;
}

/* ---- the machine --------------------------------------------------------------------------- */

static int check_memory(const struct run_vm *r)
{
    struct sysinfo si;

    if (sysinfo(&si) != 0)
        return 0;
    uint64_t have = (uint64_t)(si.totalram + si.totalswap) * si.mem_unit;
    if (r->opt.mem_bytes <= have)
        return 0;
    fprintf(stderr, "%s: --mem: %llu MiB asked for, this host has %llu MiB\n", run_who,
            (unsigned long long)(r->opt.mem_bytes >> 20), (unsigned long long)(have >> 20));
    return EXIT_ERROR;
}

/* vCPUs write whole lines; stdio's own lock keeps them apart. */
static void trace_line(void *ctx, uint32_t vcpu, const char *line)
{
    (void)vcpu;
    fprintf(ctx, "%s\n", line);
}

/* A symbol for perf(1), which reads /tmp/perf-PID.map. */
static void perf_symbol(void *ctx, uint32_t vcpu, const struct vmc_translation *t)
{
    fprintf(ctx, "%llx %zx guest_%llx_cpu%u\n", (unsigned long long)(uintptr_t)t->host, t->bytes,
            (unsigned long long)t->gva, vcpu);
}

static int open_perf_map(struct run_vm *r)
{
    char path[64];

    snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    r->perf_map = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (r->perf_map == NULL) {
        fprintf(stderr, "%s: --perf-map: %s: %s\n", run_who, path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return EXIT_ERROR;
    }
    setvbuf(r->perf_map, NULL, _IOLBF, 0); /* perf may look while we run */
    r->soft.translated = perf_symbol;
    r->soft.translated_ctx = r->perf_map;
    return 0;
}

/* Translated code sets the GS base itself, which a kernel may forbid whatever CPUID says. */
static bool can_translate(const struct run_vm *r)
{
    return r->opt.translate && (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE) != 0;
}

static uint32_t hypervisor_flag(enum run_hypervisor h)
{
    if (h == RUN_HYPERVISOR_VMWARE)
        return VMC_VM_VMWARE;
    return h == RUN_HYPERVISOR_NONE ? VMC_VM_NO_PARAVIRT : 0;
}

/* Memory of our own, unless hooks give the guest pages. */
static int create_memory(struct run_vm *r)
{
    struct vmc_error err = {0};
    bool running;

    if (r->hooks != NULL)
        return r->hooks->memory(r->hooks_ctx);
    if (vmc_host_guest_memory(r->opt.mem_bytes, NULL, &r->ram, &err) != VMC_OK)
        return run_vm_fail("--mem", &err);
    if (!r->opt.merge)
        return 0;
    if (vmc_host_guest_memory_merge(r->ram, r->opt.mem_bytes, &running, &err) != VMC_OK)
        return run_vm_fail("--merge", &err);
    if (!running)
        fprintf(stderr,
                "%s: --merge: nothing is merged until 1 is written to "
                "/sys/kernel/mm/ksm/run\n",
                run_who);
    return 0;
}

static int create_machine(struct run_vm *r, const struct vmc_engine_info *info)
{
    struct vmc_error err = {0};

    if (r->opt.cpus > info->max_vcpus) {
        fprintf(stderr, "%s: --cpus %u: the %s engine runs at most %u\n", run_who, r->opt.cpus,
                r->engine->name, info->max_vcpus);
        return EXIT_ERROR;
    }
    r->soft = (struct vmc_soft_config){.size = sizeof(r->soft),
                                       .flags = can_translate(r) ? VMC_SOFT_TRANSLATE : 0,
                                       .code_bytes = r->opt.code_bytes};
    if (r->opt.trace_path != NULL) {
        r->trace = fopen(r->opt.trace_path, "we");
        if (r->trace == NULL) {
            fprintf(stderr, "%s: --trace-insn %s: %s\n", run_who, r->opt.trace_path,
                    strerror(errno));
            return EXIT_ERROR;
        }
        r->soft.trace = trace_line;
        r->soft.trace_ctx = r->trace;
    }
    if (r->opt.perf_map && open_perf_map(r) != 0)
        return EXIT_ERROR;
    if (r->translated != NULL) {
        r->soft.translated = r->translated;
        r->soft.translated_ctx = r;
    }
    struct vmc_kvm_config kvm = {
        .size = sizeof(kvm), .frames = r->frames, .max_mappings = r->max_mappings};
    struct vmc_vm_config vc = {
        .size = sizeof(vc),
        .max_vcpus = r->opt.cpus,
        .platform = &r->pf,
        .engine = r->engine,
        .engine_config = r->engine == vmc_engine_soft() ? (const void *)&r->soft : &kvm,
        .policy = &r->policy,
        .flags =
            (r->opt.deterministic ? VMC_VM_DETERMINISTIC : 0) | hypervisor_flag(r->opt.hypervisor),
    };
    if (vmc_vm_create(&vc, &r->vm, &err) != VMC_OK)
        return run_vm_fail("cannot create the VM", &err);
    int rc = create_memory(r);
    if (rc != 0)
        return rc;

    struct vmc_pc_config pc = {
        .size = sizeof(pc),
        /* Where run_loop.c can wait for what wakes it. */
        .flags = r->hooks == NULL && !r->opt.deterministic ? VMC_PC_SLEEP : 0,
        .ram_bytes = r->opt.mem_bytes,
        .ram = r->ram,
        .ram_space = r->space,
        .cpus = r->opt.cpus,
        .exit_port = r->opt.exit_port > 0 ? (uint32_t)r->opt.exit_port : 0,
        .serial = run_console_dev(r->serial),
        .debugcon = run_console_dev(r->debugcon),
        .post_port =
            r->opt.post_port > 0 && r->opt.post_port != 0x80 ? (uint32_t)r->opt.post_port : 0,
        .post = r->opt.post_port > 0 ? run_console_post() : (struct vmc_chardev){0},
    };
    if (vmc_pc_create(r->vm, &pc, &r->pc, &err) != VMC_OK) {
        run_vm_fail("cannot create the machine", &err);
        return err.code == VMC_EEXIST ? EXIT_BAD_ARGS : EXIT_ERROR;
    }
    rc = run_parallel_create(r);
    if (rc == 0)
        rc = run_kvm_coalesce(r);
    if (rc == 0)
        rc = run_io_create(r);
    if (rc != 0)
        return rc;
    for (unsigned i = 0; i < r->opt.cpus; i++) {
        struct vmc_vcpu *v;
        if (vmc_vcpu_create(r->vm, i, &v, &err) != VMC_OK)
            return run_vm_fail("cannot create a vCPU", &err);
    }
    if (r->opt.events_path == NULL)
        return 0;
    if (vmc_host_trace_open(r->opt.events_path, &r->events, &err) != VMC_OK ||
        vmc_host_trace_vm(r->events, r->vm, r->opt.name) != VMC_OK)
        return run_vm_fail("--trace", &err);
    return 0;
}

int run_vm_boot(struct run_vm *r)
{
    struct vmc_error err = {0};
    struct vmc_boot_result done;
    struct vmc_pc_boot b = {
        .size = sizeof(b),
        .kind = r->opt.load_flat ? VMC_BOOT_FLAT : VMC_BOOT_AUTO,
        .firmware = r->firmware.fd >= 0 ? &r->firmware.src : NULL,
        .kernel = r->kernel.fd >= 0 ? &r->kernel.src : NULL,
        .initrd = r->initrd.fd >= 0 ? &r->initrd.src : NULL,
        .cmdline = r->opt.cmdline,
        .name = r->opt.kernel,
        .modules = r->boot_modules,
        .module_count = r->opt.module_count,
        .flat_mode = VMC_FLAT_REAL,
        .flat_gpa = r->opt.load_at,
    };
    if (vmc_pc_boot(r->pc, &b, &done, &err) != VMC_OK) {
        fprintf(stderr, "%s: --%s %s: %s\n", run_who, r->opt.firmware ? "firmware" : "kernel",
                r->opt.firmware ? r->opt.firmware : r->opt.kernel, err.text);
        return EXIT_ERROR;
    }
    if (r->opt.verbose)
        fprintf(stderr, "%s: %s, entry at 0x%llx\n", run_who, vmc_boot_kind_name(done.kind),
                (unsigned long long)done.entry);
    return 0;
}

/* The same numbers in every run (splitmix64). The VM runs on one thread then. */
static int fixed_entropy(void *ctx, void *dst, size_t bytes)
{
    static uint64_t state;
    uint8_t *p = dst;

    (void)ctx;
    for (size_t i = 0; i < bytes; i++) {
        uint64_t z = state += 0x9e3779b97f4a7c15ull;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ z >> 27) * 0x94d049bb133111ebull;
        p[i] = (uint8_t)(z ^ z >> 31);
    }
    return VMC_OK;
}

/* What a guest could tell two runs apart by. */
static void make_repeatable(struct vmc_platform *pf)
{
    static const struct vmc_entropy_ops fixed = {.fill = fixed_entropy};

    pf->entropy = &fixed;
    pf->wall_s = NULL;
    pf->wall_ns = NULL;
}

int run_vm_create(struct run_vm *r)
{
    struct vmc_error err = {0};
    struct vmc_engine_info *info = calloc(1, sizeof(*info));

    r->log.max_level = r->opt.verbose ? VMC_LOG_INFO : VMC_LOG_WARN;
    int rc = info == NULL ? EXIT_ERROR : r->hooks != NULL ? 0 : check_memory(r);
    if (rc == 0 && vmc_host_platform_init(&r->pf, &r->log, &err) != VMC_OK)
        rc = run_vm_fail("platform", &err);
    if (r->opt.deterministic)
        make_repeatable(&r->pf);
    if (rc == 0 && r->hooks != NULL)
        r->hooks->platform(r->hooks_ctx, &r->pf);
    if (rc == 0)
        rc = open_images(r);
    if (rc == 0)
        rc = choose_engine(r, info);
    if (rc == 0)
        rc = build_policy(r, &info->ceiling);
    if (rc == 0)
        rc = create_machine(r, info);
    if (rc == 0)
        rc = run_vm_boot(r);
    if (rc == 0 && r->hooks != NULL)
        rc = r->hooks->schedule(r->hooks_ctx);
    else if (rc == 0 && r->opt.workers != 0)
        rc = run_runner_attach(r);
    if (rc == 0 && vmc_vm_start(r->vm, &err) != VMC_OK)
        rc = run_vm_fail("cannot start the VM", &err);
    free(info);
    return rc;
}

void run_vm_destroy(struct run_vm *r)
{
    run_io_stop(r);
    run_runner_stop(r);
    run_console_close(r);
    vmc_pc_destroy(r->pc);
    vmc_vm_destroy(r->vm);
    run_io_destroy(r);
    if (r->ram != NULL)
        vmc_host_guest_memory_free(r->ram, r->opt.mem_bytes);
    if (vmc_host_trace_close(r->events) != VMC_OK)
        fprintf(stderr, "vmcore run: --trace %s: not all of it could be written\n",
                r->opt.events_path);
    if (r->trace != NULL)
        fclose(r->trace);
    if (r->perf_map != NULL)
        fclose(r->perf_map);
    image_close(&r->kernel);
    image_close(&r->initrd);
    image_close(&r->firmware);
    for (unsigned i = 0; i < RUN_MAX_MODULES; i++)
        image_close(&r->modules[i]);
}
