/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of the example hypervisor share. */
#ifndef HV_H
#define HV_H

#include <vmcore/baremetal.h>
#include <vmcore/hw.h>
#include <vmcore/sched.h>
#include <vmcore/vmcore.h>

#define HV_CONFIG_NAME "vmcore.conf"
#define HV_MAX_GUESTS  16u
#define HV_MAX_VCPUS   8u
#define HV_MAX_DISKS   4u
#define HV_NAME        24u
#define HV_TEXT        512u
#define HV_NAMES       8192u
#define NEVER          UINT64_MAX

/* ---- configuration ------------------------------------------------------------------------------
 */

/* A guest as the configuration describes it. */
struct hv_guest_config {
    char name[HV_NAME];
    /* A boot module, or vmfs:VOLUME:/PATH; NULL: none. In names of hv_config. */
    const char *kernel, *initrd, *firmware;
    char cmdline[HV_TEXT];
    const char *disk[HV_MAX_DISKS]; /* ... or a disk; "ro:" before it: read-only */
    uint32_t disks;
    uint64_t mem_bytes;
    uint32_t cpus;
    uint32_t shares;
    char cpu_model[64]; /* preset[,+feature|,-feature]... */
    bool restart;       /* after a triple fault */
    bool network;
    bool autostart;
};

struct hv_config {
    struct hv_guest_config guest[HV_MAX_GUESTS];
    uint32_t guests;
    uint32_t status_s; /* seconds between status lines, 0: none */
    uint32_t rows;     /* of the terminal, to keep them at its bottom; 0: they scroll */
    char hot_key;      /* control character that opens the hypervisor's menu */
    bool poweroff_when_done;
    char engine[16];       /* "auto", or the name of one */
    uint32_t apic;         /* VT-x: VMC_HW_CFG_APIC, VMC_HW_CFG_NO_APIC or as the engine likes */
    char startup[HV_TEXT]; /* monitor commands to run at start, separated by ';' */
    char names[HV_NAMES];  /* of what guests boot from, and of their disks */
    uint32_t names_used;
};

/* Parse text; false: *message says what is wrong, *line where. */
bool hv_config_parse(struct hv_config *c, const char *text, size_t bytes, char *message,
                     size_t room, unsigned *line);

/* ---- guests -------------------------------------------------------------------------------------
 */

enum hv_state { HV_OFF, HV_RUNNING, HV_PAUSED };

struct hv_guest;

struct hv_vcpu {
    struct hv_guest *g;
    struct vmc_vcpu *v;
    uint32_t index;
    uint32_t entity;
    volatile uint32_t failed; /* it cannot go on */
};

struct hv_guest {
    const struct hv_guest_config *cfg;
    uint32_t number;
    volatile uint32_t state; /* enum hv_state */
    char ended[96];          /* why it is off */

    struct vmc_bm_domain *domain;
    const struct vmc_platform *pf;
    struct vmc_vm *vm;
    struct vmc_pc *pc;
    void *ram;
    struct vmc_virtio *nic;
    const struct vmc_engine_ops *engine;
    struct vmc_soft_config soft;
    struct vmc_hw_config hw;
    struct vmc_cpu_policy policy;
    struct hv_vcpu vcpu[HV_MAX_VCPUS];
    uint32_t sched_vm;
    struct hv_ramdisk *ramdisk[HV_MAX_DISKS];
    struct hv_vmdk *vmdk[HV_MAX_DISKS];

    volatile uint32_t attention; /* a vCPU stopped: processor 0 looks */
    volatile uint32_t failed;    /* a vCPU cannot go on: failure says why */
    char failure[96];
    uint32_t timer_owner; /* processor that answers for the timers */
    uint64_t start_ns, status_used_ns, status_stolen_ns;
    uint64_t reset_ns; /* resets since then are counted */
    uint32_t resets;

    /* console */
    char line[160];
    uint32_t line_len;
    uint64_t line_ns;
    char input[256]; /* typed, not yet taken by the guest's UART */
    uint32_t input_len;
};

extern struct hv_config hv_config;
extern struct hv_guest hv_guests[HV_MAX_GUESTS];
extern const struct vmc_bm_machine *hv_machine;

/* All on processor 0. Messages go to the console. */
int hv_guest_start(struct hv_guest *g);
void hv_guest_end(struct hv_guest *g, const char *why);
void hv_guest_pause(struct hv_guest *g);
void hv_guest_resume(struct hv_guest *g);
/* Look at guests that stopped by themselves. */
void hv_guests_look(void);
struct hv_guest *hv_guest_find(const char *name);
const char *hv_state_name(const struct hv_guest *g);
const struct vmc_bm_module *hv_module(const char *name);
void hv_engines_init(void);
/* On every processor before it runs vCPUs. */
void hv_engine_cpu_up(void);
extern const struct vmc_engine_ops *hv_engine;
extern struct vmc_engine_info *hv_engine_info;

/* ---- processors ---------------------------------------------------------------------------------
 */

extern struct vmc_sched *hv_sched;
void hv_sched_init(void);
_Noreturn void hv_loop(uint32_t cpu);
/* Every other processor has passed the top of its loop since: nobody looks at what was removed. */
void hv_sync_cpus(void);
int hv_sched_add(struct hv_guest *g);
void hv_sched_remove(struct hv_guest *g);
void hv_wake_all(struct hv_guest *g);
/* Call processor 0's attention to something. */
void hv_attention(void);
void hv_timer_notify(void *ctx);

/* ---- console and monitor ------------------------------------------------------------------------
 */

void hv_console_init(void);
extern const struct vmc_chardev_ops hv_console_ops;
void hv_print(const char *fmt, ...) VMC_PRINTF(1, 2);
/* Input, flushing of partial lines, status lines; returns when it wants to be called again. */
uint64_t hv_console_poll(uint64_t now_ns);
void hv_console_line_done(void);
void hv_console_forget(struct hv_guest *g);
void hv_console_focus(int guest); /* -1: all, with prefixes */
void hv_status_now(void);
void hv_input_ready(void *ctx);

void hv_monitor_enter(void);
/* False: the monitor was left. */
bool hv_monitor_key(char c);
/* Commands to run from now on, separated by ';'. The text has to stay. */
void hv_monitor_script(const char *text);
/* Run those that are due; when the next one is, or NEVER: there is none. */
uint64_t hv_monitor_poll(uint64_t now);
bool hv_monitor_scripted(void);

/* ---- disks: of the machine, on a VMFS volume, or a module as a disk in memory -------------------
 */

struct hv_ramdisk;
int hv_disk_open(struct hv_guest *g, uint32_t i, struct vmc_blockdev *out, bool *read_only);
void hv_disks_close(struct hv_guest *g);

/* ---- volumes: VMFS on the machine's disks (docs/baremetal.md says what waits where) -------------
 * All on processor 0. An image without them has hv_no_volumes.c.
 */

#define HV_VMFS "vmfs:"

/* Find and mount them, and say so. */
void hv_volumes_init(void);
/* Unmount them; guests have ended. */
void hv_volumes_close(void);
/* Go on with what waited; returns when it wants to be called again. */
uint64_t hv_volumes_poll(uint64_t now);
void hv_volumes_show(void);
/* Is a name vmfs:...? */
bool hv_on_volume(const char *spec);
/* The volume that disk k of the machine belongs to; NULL: none. */
const char *hv_volume_on_disk(uint32_t k);
/* The configuration of the first volume that has one, there for ever, or NULL; where: its name. */
const char *hv_volumes_config(size_t *bytes, char *where, size_t room);

struct hv_vmdk;
/* Both tell what is wrong. */
int hv_vmdk_open(struct hv_guest *g, uint32_t i, const char *spec, bool read_only,
                 struct vmc_blockdev *out);
void hv_vmdk_close(struct hv_guest *g, uint32_t i);

struct hv_file;
/* A file to boot from. Messages begin with who. */
int hv_file_open(const char *who, const char *spec, struct hv_file **out,
                 struct vmc_image_src *src);
/* NULL is allowed. */
void hv_file_close(struct hv_file *f);

/* ---- network ------------------------------------------------------------------------------------
 */

int hv_net_attach(struct hv_guest *g, struct vmc_error *err);
void hv_net_detach(struct hv_guest *g);
void hv_net_init(void);

/* ---- small things -------------------------------------------------------------------------------
 */

void *memcpy(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);
bool hv_streq(const char *a, const char *b);
size_t hv_strlen(const char *s);
void hv_strcpy(char *dst, size_t room, const char *src);
static inline uint64_t hv_now(void)
{
    return vmc_bm_now_ns();
}

#endif
