/* SPDX-License-Identifier: BSD-2-Clause */
/* The chipset: host bridge, ISA bridge and power management share a lock and a saved state. */
#ifndef CHIPSET_PRIV_H
#define CHIPSET_PRIV_H

#include "dev_priv.h"

#define PM_HZ      3579545u
#define PM_BYTES   128
#define PM_DEFAULT 0x600u

struct pm_state {
    uint16_t sts, en, cnt;
    uint16_t pad;
    uint32_t smi_en;
    uint32_t gpe_sts, gpe_en;
    uint8_t apm_cnt, apm_sts, reset_reg, sci_level;
    uint64_t base_ns;   /* the PM timer counts from here */
    uint64_t seen_ns;   /* TMR_STS is up to date until here */
    uint8_t pirq_level; /* bit n: PIRQ n is driven */
    uint8_t pirq_route[8];
    uint8_t pad2[7];
    uint16_t isa_level; /* bit n: ISA interrupt n is driven by PIRQs */
    uint16_t asleep;    /* in S3 */
    uint16_t pad3[2];
};
#define CHIPSET_VERSION 1u

struct vmc_chipset {
    struct dev_base base;
    struct vmc_chipset_config cfg;
    struct vmc_pci_bus *pci;
    struct vmc_pci_func *mch;  /* 00.0 */
    struct vmc_pci_func *lpc;  /* 1f.0 */
    struct pm_state pm;        /* (l) */
    struct vmci_lock map_lock; /* moves of the PM block; taken before the base lock */
    uint16_t pm_base;          /* where it is mapped, 0: nowhere; map_lock */
    /* (l) status bits, and SCI_EN, that a reset in S3 leaves for vmc_chipset_wake */
    uint16_t woken, woken_cnt;
    struct vmc_timer *timer;
    struct vmci_loglimit log;
};

extern const struct vmc_bus_ops vmci_pm_ops, vmci_apm_ops, vmci_reset_ops;

void vmci_pm_reset(struct vmc_chipset *cs);
void vmci_pm_timer_fn(void *ctx, uint64_t deadline_ns);
/* Lock held. */
void vmci_pm_sci_update(struct vmc_chipset *cs);
void vmci_pm_timer_arm(struct vmc_chipset *cs);

#endif
