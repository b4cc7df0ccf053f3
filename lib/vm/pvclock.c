/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Paravirtual clock and hypervisor CPUID leaves, as KVM defines them (Linux,
 * Documentation/virt/kvm/x86/msr.rst and cpuid.rst): the guest reads time from the TSC with a scale
 * that we give it, and needs no calibration.
 */
#include "vm/vm_priv.h"

#define LEAF_BASE     0x40000000u
#define LEAF_FEATURES 0x40000001u
#define LEAF_TIMING   0x40000010u

#define FEATURE_NOP_IO_DELAY (1u << 1)
#define FEATURE_CLOCKSOURCE2 (1u << 3)
#define FEATURE_STEAL_TIME   (1u << 5)
#define FEATURE_EXT_DEST_ID  (1u << 15)
#define FEATURE_STABLE       (1u << 24)

#define CPUID_HYPERVISOR (1u << 31)

#define TIME_ENABLE 1u
#define TIME_STABLE 1u /* flag: the TSCs of all vCPUs are one */
#define TIME_BYTES  32u
#define WALL_BYTES  12u

#define STEAL_ENABLE    1u
#define STEAL_RESERVED  0x3eu /* the record is 64 bytes and aligned to that */
#define STEAL_VERSION   8     /* offsets; the stolen time, in ns, comes first */
#define STEAL_PREEMPTED 16
#define STEAL_BYTES     64u

#define NS_PER_S 1000000000u

/* ---- CPUID --------------------------------------------------------------------------------- */

/* features may be NULL. */
static void set_leaves(struct vmc_vm *vm, const struct vmc_cpuid_leaf *base,
                       const struct vmc_cpuid_leaf *features, const struct vmc_cpuid_leaf *timing)
{
    struct vmc_cpuid_leaf first = *vmc_cpu_policy_find(&vm->policy, 1, 0);

    first.ecx |= CPUID_HYPERVISOR;
    if (vmc_cpu_policy_set(&vm->policy, &first) != VMC_OK ||
        vmc_cpu_policy_set(&vm->policy, base) != VMC_OK ||
        (features != NULL && vmc_cpu_policy_set(&vm->policy, features) != VMC_OK) ||
        vmc_cpu_policy_set(&vm->policy, timing) != VMC_OK)
        vmci_log(vm->pf, VMC_LOG_WARN, "vm", "no room in the CPU policy for hypervisor leaves");
}

/* Instead of leaves that an engine may have. ECX of the timing leaf 0: calls are port accesses. */
static void vmware_cpuid(struct vmc_vm *vm, const struct vmc_cpuid_leaf *timing)
{
    const struct vmc_cpuid_leaf base = {
        .leaf = LEAF_BASE,
        .eax = LEAF_TIMING,
        .ebx = 0x61774d56, /* "VMwareVMware" */
        .ecx = 0x4d566572,
        .edx = 0x65726177,
    };

    if (vmc_cpu_policy_hypervisor(&vm->policy, "VMwareVMware", 0) == VMC_OK) /* removes them */
        set_leaves(vm, &base, NULL, timing);
}

void vmci_pvclock_cpuid(struct vmc_vm *vm)
{
    struct vmc_cpuid_leaf base = {
        .leaf = LEAF_BASE,
        .eax = LEAF_TIMING,
        .ebx = 0x4b4d564b, /* "KVMKVMKVM" */
        .ecx = 0x564b4d56,
        .edx = 0x4d,
    };
    struct vmc_cpuid_leaf features = {
        .leaf = LEAF_FEATURES,
        .eax = FEATURE_NOP_IO_DELAY | FEATURE_CLOCKSOURCE2 | FEATURE_EXT_DEST_ID | FEATURE_STABLE,
    };
    struct vmc_cpuid_leaf timing = {
        .leaf = LEAF_TIMING,
        .eax = (uint32_t)(vm->tsc_hz / 1000),
        .ebx = VMCI_APIC_BUS_HZ / 1000,
    };
    const struct vmc_cpuid_leaf *one = vmc_cpu_policy_find(&vm->policy, 1, 0);

    if (one == NULL)
        return;
    if (vm->flags & VMC_VM_VMWARE) {
        vmware_cpuid(vm, &timing);
        return;
    }
    if (vmc_cpu_policy_find(&vm->policy, LEAF_BASE, 0) != NULL)
        return; /* the embedder, or the engine, has leaves of its own */
    if (vm->tsc_hz == 0 || vm->ops->read_tsc == NULL)
        features.eax &= ~(FEATURE_CLOCKSOURCE2 | FEATURE_STABLE);
    if (vm->steal_fn != NULL)
        features.eax |= FEATURE_STEAL_TIME;
    set_leaves(vm, &base, &features, &timing);
}

/* ---- clock --------------------------------------------------------------------------------- */

/* mul and shift such that ns = (ticks << shift) * mul >> 32, for ticks of hz. */
static void time_scale(uint64_t hz, uint32_t *mul, int8_t *shift)
{
    int s = 0;

    /* Bring hz into (10^9, 2 * 10^9], where the factor has its full 32 bits. */
    while (hz > 2ull * NS_PER_S) {
        hz >>= 1;
        s--;
    }
    while (hz <= NS_PER_S) {
        hz <<= 1;
        s++;
    }
    *mul = (uint32_t)(((uint64_t)NS_PER_S << 32) / hz);
    *shift = (int8_t)s;
}

/* One pair of TSC and time for all vCPUs, taken by the first that asks. pv_lock is held. */
static bool take_reference(struct vmc_vcpu *v)
{
    struct vmc_vm *vm = v->vm;
    uint64_t tsc, hz = 0;

    if (vm->pv_valid)
        return true;
    if (vm->ops->read_tsc == NULL || vm->ops->read_tsc(v->ev, &tsc, &hz, NULL) != VMC_OK || hz == 0)
        return false;
    vm->pv_tsc = tsc - v->pv.adjust;
    vm->pv_ns = vmc_timerq_now(vm->board.timers);
    time_scale(hz, &vm->pv_mul, &vm->pv_shift);
    vm->pv_valid = true;
    return true;
}

/*
 * Another pair on the same line: the time that the guest knows goes on, and no vCPU's TSC is behind
 * its record, which a write of the TSC may have set far back. pv_lock is held.
 */
static void move_reference(struct vmc_vcpu *v)
{
    struct vmc_vm *vm = v->vm;
    uint64_t tsc, hz;

    if (vm->ops->read_tsc(v->ev, &tsc, &hz, NULL) != VMC_OK)
        return;
    uint64_t ticks = tsc - v->pv.adjust - vm->pv_tsc;
    if (ticks >> 63 != 0) /* another processor's, a little behind */
        return;
    vm->pv_tsc += ticks;
    ticks = vm->pv_shift >= 0 ? ticks << vm->pv_shift : ticks >> -vm->pv_shift;
    vm->pv_ns += (uint64_t)((unsigned __int128)ticks * vm->pv_mul >> 32);
}

/* Are the TSCs of all vCPUs one? pv_lock is held. */
static bool tscs_are_one(const struct vmc_vm *vm, uint64_t adjust)
{
    for (uint32_t i = 0; i < vm->max_vcpus; i++)
        if (vm->vcpu[i] != NULL && vm->vcpu[i]->pv.adjust != adjust)
            return false;
    return true;
}

/* Write all but the version between an odd and an even version. */
static int write_versioned(struct vmc_vcpu *v, uint64_t gpa, uint8_t *rec, size_t bytes)
{
    struct vmc_mem *mem = v->vm->mem;

    v->pv.version = (v->pv.version + 1) | 1;
    vmci_st_le32(rec, v->pv.version);
    int rc = vmc_mem_write(mem, gpa, rec, 4);
    if (rc == VMC_OK)
        rc = vmc_mem_write(mem, gpa + 4, rec + 4, bytes - 4);
    vmci_st_le32(rec, ++v->pv.version);
    return rc == VMC_OK ? vmc_mem_write(mem, gpa, rec, 4) : rc;
}

static int write_time(struct vmc_vcpu *v)
{
    struct vmc_vm *vm = v->vm;
    uint8_t rec[TIME_BYTES] = {0};

    vmci_lock(&vm->pv_lock);
    bool valid = take_reference(v);
    vmci_st_le64(rec + 8, vm->pv_tsc + v->pv.adjust);
    vmci_st_le64(rec + 16, vm->pv_ns);
    vmci_st_le32(rec + 24, vm->pv_mul);
    rec[28] = (uint8_t)vm->pv_shift;
    rec[29] = tscs_are_one(vm, v->pv.adjust) ? TIME_STABLE : 0;
    vmci_unlock(&vm->pv_lock);
    return valid && write_versioned(v, v->pv.msr & ~(uint64_t)TIME_ENABLE, rec, sizeof(rec)) ==
                        VMC_OK
               ? VMC_IO_DONE
               : VMC_IO_GP;
}

static int set_system_time(struct vmc_vcpu *v, uint64_t value)
{
    v->pv.msr = value;
    return (value & TIME_ENABLE) != 0 ? write_time(v) : VMC_IO_DONE;
}

void vmci_pvclock_renew(struct vmc_vcpu *v)
{
    if ((v->pv.msr & TIME_ENABLE) != 0)
        (void)write_time(v); /* a record that went away with its memory is the guest's loss */
}

void vmci_pvclock_set_adjust(struct vmc_vcpu *v, uint64_t adjust)
{
    vmci_lock(&v->vm->pv_lock);
    v->pv.adjust = adjust;
    vmci_unlock(&v->vm->pv_lock);
}

/* How far, TSC_ADJUST tells: it takes part in every move. */
void vmci_pvclock_tsc_moved(struct vmc_vcpu *v)
{
    struct vmc_vm *vm = v->vm;
    struct vmc_x86_state *st = vmci_state_alloc(vm);

    if (st == NULL || vm->ops->get_state(v->ev, VMC_ST_MSR, st) != VMC_OK) {
        if (st != NULL)
            vmci_state_free(vm, st);
        return;
    }
    vmci_lock(&vm->pv_lock);
    v->pv.adjust = st->msr.tsc_adjust;
    bool valid = vm->pv_valid;
    if (valid)
        move_reference(v);
    vmci_unlock(&vm->pv_lock);
    vmci_state_free(vm, st);
    if (!valid)
        return;
    vmci_pvclock_renew(v);
    for (uint32_t i = 0; i < vm->max_vcpus; i++)
        if (vm->vcpu[i] != NULL && vm->vcpu[i] != v)
            vmci_vcpu_request(vm->vcpu[i], REQ_CLOCK);
}

/* Nanoseconds since 1970. */
static uint64_t wall_now(const struct vmc_vm *vm)
{
    const struct vmc_platform *pf = vm->pf;
    bool deterministic = (vm->flags & VMC_VM_DETERMINISTIC) != 0;

    if (!deterministic && vmci_pf_has(pf, wall_ns))
        return (uint64_t)pf->wall_ns(pf->ctx);
    if (!deterministic && vmci_pf_has(pf, wall_s))
        return (uint64_t)pf->wall_s(pf->ctx) * NS_PER_S;
    return 946684800ull * NS_PER_S; /* 2000-01-01, like the RTC */
}

/* Wall clock time at which the system time was zero. */
static int set_wall_clock(struct vmc_vcpu *v, uint64_t value)
{
    uint8_t rec[WALL_BYTES] = {0};
    uint64_t boot = wall_now(v->vm) - vmc_timerq_now(v->vm->board.timers);

    v->pv.wall = value;
    vmci_st_le32(rec + 4, (uint32_t)(boot / NS_PER_S));
    vmci_st_le32(rec + 8, (uint32_t)(boot % NS_PER_S));
    return write_versioned(v, value, rec, sizeof(rec)) == VMC_OK ? VMC_IO_DONE : VMC_IO_GP;
}

/* ---- stolen time --------------------------------------------------------------------------- */

/*
 * The record of a guest that asked for it: written when run is entered, which is when time was
 * stolen, and when it is left. A record that went away with its memory is the guest's loss.
 */
static int write_steal(struct vmc_vcpu *v, bool preempted)
{
    struct vmc_vm *vm = v->vm;
    uint64_t gpa = v->pv.steal_msr & ~(uint64_t)(STEAL_ENABLE | STEAL_RESERVED);
    uint8_t le[8];

    vmci_st_le64(le, vm->steal_fn(vm->steal_ctx, v->index));
    v->pv.steal_version += 2; /* even: readers of one vCPU, its own, see no change under way */
    int rc = vmc_mem_write(vm->mem, gpa, le, sizeof(le));
    vmci_st_le32(le, v->pv.steal_version);
    le[4] = preempted;
    if (rc == VMC_OK)
        rc = vmc_mem_write(vm->mem, gpa + STEAL_VERSION, le, 4);
    return rc == VMC_OK ? vmc_mem_write(vm->mem, gpa + STEAL_PREEMPTED, le + 4, 1) : rc;
}

void vmci_steal_enter(struct vmc_vcpu *v)
{
    (void)write_steal(v, false);
}

void vmci_steal_leave(struct vmc_vcpu *v, bool preempted)
{
    (void)write_steal(v, preempted);
}

static int steal_msr(struct vmc_vcpu *v, bool write, uint64_t *value)
{
    if (v->vm->steal_fn == NULL)
        return VMC_IO_GP;
    if (!write) {
        *value = v->pv.steal_msr;
        return VMC_IO_DONE;
    }
    if ((*value & STEAL_RESERVED) != 0)
        return VMC_IO_GP;
    uint8_t zero[STEAL_BYTES] = {0};
    v->pv.steal_msr = *value;
    if ((*value & STEAL_ENABLE) == 0)
        return VMC_IO_DONE;
    if (vmc_mem_write(v->vm->mem, *value & ~(uint64_t)STEAL_ENABLE, zero, sizeof(zero)) == VMC_OK &&
        write_steal(v, false) == VMC_OK)
        return VMC_IO_DONE;
    v->pv.steal_msr = 0;
    return VMC_IO_GP;
}

void vmc_vm_set_steal_clock(struct vmc_vm *vm, uint64_t (*fn)(void *ctx, uint32_t index), void *ctx)
{
    vm->steal_ctx = ctx;
    vm->steal_fn = fn;
}

int vmci_pvclock_msr(struct vmc_vcpu *v, bool write, uint32_t index, uint64_t *value)
{
    if (v->vm->flags & (VMC_VM_NO_PARAVIRT | VMC_VM_VMWARE))
        return VMC_IO_GP;
    if (index == VMC_MSR_KVM_STEAL_TIME)
        return steal_msr(v, write, value);
    if (index == VMC_MSR_KVM_SYSTEM_TIME) {
        if (write)
            return set_system_time(v, *value);
        *value = v->pv.msr;
    } else {
        if (write)
            return set_wall_clock(v, *value);
        *value = v->pv.wall;
    }
    return VMC_IO_DONE;
}

void vmci_pvclock_reset(struct vmc_vcpu *v)
{
    v->pv = (struct pvclock){0};
}
