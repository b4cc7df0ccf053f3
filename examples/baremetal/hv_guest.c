/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The life of a guest. Everything it is made of comes out of a memory domain of its own, so its end
 * can be checked page by page.
 */
#include "hv.h"

#include <vmcore/paging.h>

struct hv_config hv_config;
struct hv_guest hv_guests[HV_MAX_GUESTS];
const struct vmc_engine_ops *hv_engine;
struct vmc_engine_info *hv_engine_info;

const char *hv_state_name(const struct hv_guest *g)
{
    static const char *const names[] = {"off", "running", "paused"};
    return names[g->state];
}

struct hv_guest *hv_guest_find(const char *name)
{
    for (uint32_t i = 0; i < hv_config.guests; i++)
        if (hv_streq(hv_config.guest[i].name, name) || (name[0] == (char)('1' + i) && name[1] == 0))
            return &hv_guests[i];
    return NULL;
}

/* The last word of a module's string, without directories, is its name. */
static bool module_named(const struct vmc_bm_module *m, const char *name)
{
    const char *last = m->name;

    for (const char *p = m->name; *p != 0; p++)
        if ((*p == ' ' || *p == '/') && p[1] != 0)
            last = p + 1;
    return hv_streq(last, name);
}

const struct vmc_bm_module *hv_module(const char *name)
{
    for (uint32_t i = 0; i < hv_machine->module_count; i++)
        if (module_named(&hv_machine->modules[i], name))
            return &hv_machine->modules[i];
    return NULL;
}

/* ---- engines ------------------------------------------------------------------------------------
 */

/* What this processor has comes first; the software CPU works everywhere. */
static const struct vmc_engine_ops *engine_number(unsigned i)
{
    struct vmc_error err;
    enum vmc_hw_kind kind = vmc_hw_detect(vmc_bm_platform(), &err);
    const struct vmc_engine_ops *hw = kind == VMC_HW_VMX   ? vmc_engine_vmx()
                                      : kind == VMC_HW_SVM ? vmc_engine_svm()
                                                           : NULL;

    if (i == 0 && hw == NULL)
        hv_print("engine: %s\n", err.text);
    if (hw == NULL)
        i++;
    return i == 0 ? hw : i == 1 ? vmc_engine_soft() : NULL;
}

void hv_engine_cpu_up(void)
{
    struct vmc_error err = {.text = ""};

    if (hv_engine == NULL || hv_engine == vmc_engine_soft())
        return;
    if (vmc_hw_cpu_up(vmc_bm_platform(), &err) != VMC_OK)
        vmc_bm_panic("CPU %u: %s", vmc_bm_this_cpu(), err.text);
}

void hv_engines_init(void)
{
    const struct vmc_platform *pf = vmc_bm_platform();
    struct vmc_error err = {.text = ""};
    const struct vmc_engine_ops *e;
    bool tried = false;

    hv_engine_info = pf->alloc(pf->ctx, sizeof(*hv_engine_info), 64);
    if (hv_engine_info == NULL)
        vmc_bm_panic("out of memory");
    for (unsigned i = 0; (e = engine_number(i)) != NULL; i++) {
        if (!hv_streq(hv_config.engine, "auto") && !hv_streq(hv_config.engine, e->name))
            continue;
        tried = true;
        memset(hv_engine_info, 0, sizeof(*hv_engine_info));
        hv_engine_info->size = sizeof(*hv_engine_info);
        if (e->probe(pf, hv_engine_info, &err) == VMC_OK) {
            hv_engine = e;
            hv_print("engine: %s\n", e->name);
            return;
        }
        hv_print("engine: not %s: %s\n", e->name, err.text);
    }
    if (!tried)
        hv_print("engine: this machine has no '%s', but %s%ssoft\n", hv_config.engine,
                 engine_number(1) != NULL ? engine_number(0)->name : "",
                 engine_number(1) != NULL ? " and " : "");
    hv_print("engine: none, so no guest can be started: set engine = auto in %s\n", HV_CONFIG_NAME);
}

/* ---- making a guest -----------------------------------------------------------------------------
 */

static int say(const struct hv_guest *g, const char *what, int rc, const struct vmc_error *err)
{
    hv_print("%s: %s: %s\n", g->cfg->name, what, err->text[0] != 0 ? err->text : vmc_strerror(rc));
    return rc;
}

/* What a guest boots from; files are open as long as it takes. */
struct image {
    struct vmc_image_src src;
    struct hv_file *file; /* NULL: a module */
};

static int find_image(const struct hv_guest *g, const char *name, struct image *im)
{
    const struct vmc_bm_module *m;

    if (name == NULL)
        return VMC_OK;
    if (hv_on_volume(name))
        return hv_file_open(g->cfg->name, name, &im->file, &im->src);
    m = hv_module(name);
    if (m == NULL) {
        hv_print("%s: there is no module '%s'\n", g->cfg->name, name);
        return VMC_ENOENT;
    }
    vmc_image_src_memory(&im->src, m->data, m->bytes);
    return VMC_OK;
}

/* PRESET[,+feature|,-feature]... */
static int make_policy(struct hv_guest *g, struct vmc_error *err)
{
    const struct vmc_cpu_policy *ceiling = &hv_engine_info->ceiling;
    const char *p = g->cfg->cpu_model;
    char item[32];
    int rc = VMC_OK;

    for (bool first = true; rc == VMC_OK && *p != 0; first = false) {
        size_t n = 0;
        while (p[n] != 0 && p[n] != ',' && n + 1 < sizeof(item)) {
            item[n] = p[n];
            n++;
        }
        item[n] = 0;
        p += n + (p[n] == ',');
        if (first) {
            rc = vmc_cpu_policy_preset(&g->policy, item, ceiling, err);
        } else if (item[0] != '+' && item[0] != '-') {
            vmc_bm_snprintf(err->text, sizeof(err->text), "'%s' is neither +%s nor -%s", item, item,
                            item);
            rc = VMC_EINVAL;
        } else {
            rc = vmc_cpu_policy_feature(&g->policy, item + 1, item[0] == '+', ceiling, err);
        }
    }
    return rc == VMC_OK ? vmc_cpu_policy_topology(&g->policy, g->cfg->cpus) : rc;
}

static int make_devices(struct hv_guest *g, struct vmc_error *err)
{
    int rc = VMC_OK;

    for (uint32_t i = 0; rc == VMC_OK && i < g->cfg->disks; i++) {
        struct vmc_virtio *dev;
        struct vmc_virtio_blk_config bc = {.virtio = {.size = sizeof(bc.virtio),
                                                      .pci = vmc_pc_pci(g->pc),
                                                      .slot = VMC_PCI_ANY_SLOT}};
        rc = hv_disk_open(g, i, &bc.disk, &bc.read_only);
        if (rc == VMC_OK)
            rc = vmc_virtio_blk_create(vmc_vm_board(g->vm), &bc, &dev, err);
    }
    if (rc == VMC_OK && g->cfg->network)
        rc = hv_net_attach(g, err);
    return rc;
}

/* For translated code of each vCPU: small guests have little code. */
static uint64_t code_bytes(const struct hv_guest *g)
{
    uint64_t bytes = 32u << 20;

    while (bytes > g->cfg->mem_bytes / 4 && bytes > 4u << 20)
        bytes /= 2;
    return bytes;
}

static int make_machine(struct hv_guest *g, struct vmc_error *err)
{
    struct vmc_vm_config vc = {.size = sizeof(vc),
                               .max_vcpus = g->cfg->cpus,
                               .platform = g->pf,
                               .engine = hv_engine,
                               .policy = &g->policy};

    g->soft = (struct vmc_soft_config){
        .size = sizeof(g->soft), .flags = VMC_SOFT_TRANSLATE, .code_bytes = code_bytes(g)};
    if (hv_engine == vmc_engine_soft())
        vc.engine_config = &g->soft;
    g->hw = (struct vmc_hw_config){.size = sizeof(g->hw), .flags = hv_config.apic};
    if (hv_engine != vmc_engine_soft())
        vc.engine_config = &g->hw;
    int rc = vmc_vm_create(&vc, &g->vm, err);
    if (rc != VMC_OK)
        return rc;
    struct vmc_pc_config pc = {.size = sizeof(pc),
                               .ram_bytes = g->cfg->mem_bytes,
                               .ram = g->ram,
                               .cpus = g->cfg->cpus,
                               .serial = {.ops = &hv_console_ops, .ctx = g}};
    rc = vmc_pc_create(g->vm, &pc, &g->pc, err);
    if (rc != VMC_OK)
        return rc;
    vmc_uart_set_input_ready(vmc_pc_serial(g->pc), hv_input_ready, g);
    for (uint32_t i = 0; rc == VMC_OK && i < g->cfg->cpus; i++) {
        g->vcpu[i] = (struct hv_vcpu){.g = g, .index = i};
        rc = vmc_vcpu_create(g->vm, i, &g->vcpu[i].v, err);
    }
    return rc == VMC_OK ? make_devices(g, err) : rc;
}

struct images {
    struct image kernel, initrd, firmware;
};

/* Says what is missing. */
static int open_images(const struct hv_guest *g, struct images *im)
{
    int rc = find_image(g, g->cfg->kernel, &im->kernel);

    if (rc == VMC_OK)
        rc = find_image(g, g->cfg->initrd, &im->initrd);
    if (rc == VMC_OK)
        rc = find_image(g, g->cfg->firmware, &im->firmware);
    return rc;
}

static void close_images(struct images *im)
{
    hv_file_close(im->kernel.file);
    hv_file_close(im->initrd.file);
    hv_file_close(im->firmware.file);
}

static int boot(struct hv_guest *g, const struct images *im, struct vmc_error *err)
{
    struct vmc_boot_result done;
    struct vmc_pc_boot b = {
        .size = sizeof(b),
        .kind = VMC_BOOT_AUTO,
        .firmware = g->cfg->firmware != NULL ? &im->firmware.src : NULL,
        .kernel = g->cfg->kernel != NULL ? &im->kernel.src : NULL,
        .initrd = g->cfg->initrd != NULL ? &im->initrd.src : NULL,
        .cmdline = g->cfg->cmdline,
        .name = g->cfg->kernel != NULL ? g->cfg->kernel : "",
    };

    return vmc_pc_boot(g->pc, &b, &done, err);
}

static int make(struct hv_guest *g, const struct images *im)
{
    struct vmc_error err = {.text = ""};
    int rc;

    g->ram = g->pf->alloc(g->pf->ctx, g->cfg->mem_bytes,
                          g->cfg->mem_bytes >= 2u << 20 ? 2u << 20 : VMC_PAGE_SIZE);
    if (g->ram == NULL) {
        struct vmc_bm_memory m;
        vmc_bm_get_memory(&m);
        hv_print("%s: no %llu MiB of memory in one piece (%llu MiB are free)\n", g->cfg->name,
                 (unsigned long long)(g->cfg->mem_bytes >> 20),
                 (unsigned long long)(m.free_pages >> 8));
        return VMC_ENOMEM;
    }
    memset(g->ram, 0, g->cfg->mem_bytes);
    rc = make_policy(g, &err);
    if (rc != VMC_OK)
        return say(g, "CPU model", rc, &err);
    rc = make_machine(g, &err);
    if (rc != VMC_OK)
        return say(g, "machine", rc, &err);
    rc = boot(g, im, &err);
    if (rc != VMC_OK)
        return say(g, "boot", rc, &err);
    rc = vmc_vm_start(g->vm, &err);
    return rc == VMC_OK ? hv_sched_add(g) : say(g, "start", rc, &err);
}

static int open_and_make(struct hv_guest *g)
{
    struct images im = {0};
    struct vmc_error err = {.text = ""};
    int rc = vmc_bm_domain_create(&g->domain);

    if (rc != VMC_OK)
        return say(g, "memory domain", rc, &err);
    g->pf = vmc_bm_domain_platform(g->domain);
    rc = open_images(g, &im);
    if (rc == VMC_OK)
        rc = make(g, &im);
    close_images(&im);
    return rc;
}

/* ---- the end of one -----------------------------------------------------------------------------
 */

static void wait_quiesced(struct hv_guest *g)
{
    vmc_vm_pause(g->vm);
    while (!vmc_vm_quiesced(g->vm)) {
        vmc_vm_pause(g->vm);
        __asm__ volatile("pause");
    }
}

/* Requests in flight point into the guest's memory: false when a disk does not finish them. */
static bool drain(struct hv_guest *g)
{
    uint64_t give_up = hv_now() + 30000000000ull; /* disks give up sooner */

    while (vmc_board_quiesce(vmc_vm_board(g->vm)) == VMC_EAGAIN) {
        if (hv_now() > give_up)
            return false;
        vmc_bm_poll();
        (void)hv_volumes_poll(hv_now());
    }
    return true;
}

static void unmake(struct hv_guest *g)
{
    vmc_vm_destroy(g->vm);
    vmc_pc_destroy(g->pc);
    hv_disks_close(g);
    if (g->ram != NULL)
        g->pf->free(g->pf->ctx, g->ram, g->cfg->mem_bytes,
                    g->cfg->mem_bytes >= 2u << 20 ? 2u << 20 : VMC_PAGE_SIZE);
    g->vm = NULL;
    g->pc = NULL;
    g->ram = NULL;
}

static void release(struct hv_guest *g, uint64_t pages)
{
    uint64_t leaked = vmc_bm_domain_destroy(g->domain);

    g->domain = NULL;
    hv_print("%s: %llu pages returned, %llu leaked\n", g->cfg->name,
             (unsigned long long)(pages - leaked), (unsigned long long)leaked);
}

int hv_guest_start(struct hv_guest *g)
{
    if (g->state != HV_OFF)
        return VMC_ESTATE;
    if (hv_engine == NULL) {
        hv_print("%s: cannot be started: no engine\n", g->cfg->name);
        return VMC_ENOTSUP;
    }
    const struct hv_guest_config *cfg = g->cfg;
    uint32_t number = g->number;
    memset(g, 0, sizeof(*g));
    g->cfg = cfg;
    g->number = number;
    int rc = open_and_make(g);
    if (rc != VMC_OK) {
        hv_net_detach(g);
        hv_sync_cpus(); /* one may be giving it a frame of another guest */
        if (g->domain != NULL) {
            uint64_t pages = vmc_bm_domain_pages(g->domain);
            unmake(g);
            release(g, pages);
        }
        hv_strcpy(g->ended, sizeof(g->ended), "could not be started");
        return rc;
    }
    g->start_ns = hv_now();
    hv_print("%s: started, %u vCPUs, %llu MiB, %llu pages in all\n", g->cfg->name, g->cfg->cpus,
             (unsigned long long)(g->cfg->mem_bytes >> 20),
             (unsigned long long)vmc_bm_domain_pages(g->domain));
    g->state = HV_RUNNING;
    hv_timer_notify(g);
    hv_wake_all(g);
    return VMC_OK;
}

void hv_guest_end(struct hv_guest *g, const char *why)
{
    if (g->state == HV_OFF)
        return;
    uint64_t pages = vmc_bm_domain_pages(g->domain);
    g->state = HV_PAUSED;
    wait_quiesced(g);
    hv_net_detach(g);
    if (!drain(g)) {
        hv_print("%s: %s, but a disk does not finish its requests: its memory stays\n",
                 g->cfg->name, why);
        return; /* paused for ever; killing it again tries again */
    }
    g->state = HV_OFF; /* the loops of the processors look at this */
    hv_sched_remove(g);
    vmc_vm_set_wake_hook(g->vm, NULL, NULL);
    vmc_timerq_set_notify(vmc_vm_board(g->vm)->timers, NULL, NULL);
    hv_console_forget(g);
    unmake(g);
    hv_strcpy(g->ended, sizeof(g->ended), why);
    hv_print("%s: ended: %s\n", g->cfg->name, why);
    release(g, pages);
}

void hv_guest_pause(struct hv_guest *g)
{
    if (g->state != HV_RUNNING)
        return;
    g->state = HV_PAUSED;
    wait_quiesced(g);
    if (!drain(g))
        hv_print("%s: paused, but a disk is not done with its requests\n", g->cfg->name);
}

void hv_guest_resume(struct hv_guest *g)
{
    if (g->state != HV_PAUSED)
        return;
    vmc_board_resume(vmc_vm_board(g->vm));
    vmc_vm_resume(g->vm);
    g->state = HV_RUNNING;
    hv_wake_all(g);
}

/* ---- guests that stop by themselves
 * -------------------------------------------------------------- */

/* One that does nothing but start again is not let go on for ever. */
#define RESETS_NS 60000000000ull
#define RESETS    10u

static bool resets_again_and_again(struct hv_guest *g)
{
    uint64_t now = hv_now();

    if (now - g->reset_ns > RESETS_NS) {
        g->reset_ns = now;
        g->resets = 0;
    }
    return ++g->resets > RESETS;
}

static void reboot(struct hv_guest *g)
{
    struct vmc_error err = {.text = ""};

    if (resets_again_and_again(g)) {
        hv_guest_end(g, "reset more than ten times in a minute");
        return;
    }
    g->state = HV_PAUSED;
    wait_quiesced(g);
    if (!drain(g)) { /* what comes late would go to the memory of the next boot */
        hv_guest_end(g, "a reset");
        return;
    }
    struct images im = {0};
    int rc = vmc_vm_reset(g->vm);
    if (rc == VMC_OK)
        rc = open_images(g, &im);
    if (rc == VMC_OK)
        rc = boot(g, &im, &err);
    close_images(&im);
    if (rc != VMC_OK) {
        hv_guest_end(g, "the reset failed");
        return;
    }
    hv_print("%s: reset\n", g->cfg->name);
    hv_guest_resume(g);
}

/* Numbers, four a line. */
static void report_words(const char *name, const char *what, const uint64_t *w, unsigned n)
{
    for (unsigned i = 0; i + 3 < n; i += 4)
        hv_print("%s: %s: %llx %llx %llx %llx\n", name, what, (unsigned long long)w[i],
                 (unsigned long long)w[i + 1], (unsigned long long)w[i + 2],
                 (unsigned long long)w[i + 3]);
}

/* What lies on a vCPU's stack says who called what it was doing. */
static void report_stack(const struct hv_guest *g, const struct vmc_x86_state *st)
{
    struct vmc_paging pg = {.cr0 = st->cr0, .cr3 = st->cr3, .cr4 = st->cr4, .efer = st->efer};
    uint64_t words[32], la = st->gpr[VMC_RSP];
    struct vmc_walk w;
    unsigned n = 0;

    if ((st->efer & VMC_EFER_LMA) == 0)
        la = (uint32_t)(st->seg[VMC_SS].base + la);
    memcpy(pg.pdpte, st->pdpte, sizeof(pg.pdpte));
    while (n < 32 && vmc_walk_gva(vmc_vm_mem(g->vm), &pg, la, VMC_ACC_PROBE, &w) == VMC_OK &&
           vmc_mem_read(vmc_vm_mem(g->vm), w.gpa, &words[n], 8) == VMC_OK) {
        la += 8;
        n++;
    }
    report_words(g->cfg->name, "stack", words, n);
}

static void report_vcpu(const struct hv_guest *g, uint32_t index, const struct vmc_x86_state *st)
{
    typedef unsigned long long ull;

    hv_print("%s: vCPU %u at %04x:%llx, stack %04x:%llx, flags %llx\n", g->cfg->name, index,
             st->seg[VMC_CS].selector, (ull)st->rip, st->seg[VMC_SS].selector,
             (ull)st->gpr[VMC_RSP], (ull)st->rflags);
    hv_print("%s: CR0 %llx CR2 %llx CR3 %llx CR4 %llx EFER %llx IDT %llx, limit %x\n", g->cfg->name,
             (ull)st->cr0, (ull)st->cr2, (ull)st->cr3, (ull)st->cr4, (ull)st->efer,
             (ull)st->idtr.base, st->idtr.limit);
    report_words(g->cfg->name, "RAX, RCX, RDX, RBX; RSP to RDI; R8 to R15", st->gpr, 16);
    report_stack(g, st);
}

/* What vCPUs were doing that cannot go on. Their guest is paused. */
static void report_crash(const struct hv_guest *g)
{
    static struct vmc_x86_state st;
    const uint32_t groups =
        VMC_ST_GPR | VMC_ST_RIP | VMC_ST_SEG | VMC_ST_TABLES | VMC_ST_CTRL | VMC_ST_RUN;

    for (uint32_t i = 0; i < g->cfg->cpus; i++)
        if (vmc_vcpu_get_state(g->vcpu[i].v, groups, &st) == VMC_OK &&
            (st.activity == VMC_RUN_SHUTDOWN || g->vcpu[i].failed))
            report_vcpu(g, i, &st);
}

static void look_at(struct hv_guest *g)
{
    uint32_t why;
    uint64_t detail;

    g->attention = 0;
    if (g->state == HV_OFF)
        return;
    if (g->failed) {
        hv_guest_pause(g);
        report_crash(g);
        hv_guest_end(g, g->failure);
        return;
    }
    if (!vmc_vm_stopped(g->vm, &why, &detail))
        return;
    switch (why) {
    case VMC_STOP_RESET:
        reboot(g);
        break;
    case VMC_STOP_POWER_OFF:
        hv_guest_end(g, "powered off");
        break;
    case VMC_STOP_TRIPLE_FAULT:
        hv_guest_pause(g);
        report_crash(g);
        if (g->cfg->restart)
            reboot(g);
        else
            hv_guest_end(g, "crashed: triple fault");
        break;
    case VMC_STOP_HALT_FOREVER:
        hv_guest_end(g, "halted with interrupts off");
        break;
    default:
        hv_guest_end(g, "stopped");
        break;
    }
}

void hv_guests_look(void)
{
    uint32_t on = 0;

    for (uint32_t i = 0; i < hv_config.guests; i++) {
        if (hv_guests[i].attention)
            look_at(&hv_guests[i]);
        on += hv_guests[i].state != HV_OFF;
    }
    if (on == 0 && hv_config.poweroff_when_done && !hv_monitor_scripted()) {
        hv_print("every guest has ended, switching off\n");
        hv_volumes_close();
        vmc_bm_power_off();
    }
}
