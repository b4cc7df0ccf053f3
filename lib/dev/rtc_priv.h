/* SPDX-License-Identifier: BSD-2-Clause */
/* The real-time clock: its state, and the calendar behind it. */
#ifndef RTC_PRIV_H
#define RTC_PRIV_H

#include "dev_priv.h"

enum {
    REG_SEC,
    REG_SEC_ALARM,
    REG_MIN,
    REG_MIN_ALARM,
    REG_HOUR,
    REG_HOUR_ALARM,
    REG_WDAY,
    REG_DAY,
    REG_MONTH,
    REG_YEAR,
    REG_A,
    REG_B,
    REG_C,
    REG_D,
    REG_CENTURY = 0x32,
};

#define CMOS_BYTES 128
#define UIP_NS     244000u

#define A_UIP     0x80u
#define A_DV      0x70u
#define A_DV_ON   0x20u /* a 32768 Hz crystal; anything else stops the divider */
#define A_DEFAULT 0x26u

#define B_SET 0x80u
#define B_DM  0x04u /* binary, not BCD */
#define B_24H 0x02u

/* Flags of register C; the enables of register B have the same places. */
#define C_IRQF 0x80u
#define C_PF   0x40u
#define C_AF   0x20u
#define C_UF   0x10u

#define D_VRT 0x80u

#define RTC_DEFAULT_S INT64_C(946684800)    /* 2000-01-01 */
#define RTC_MIN_S     INT64_C(0)            /* 1970-01-01 */
#define RTC_MAX_S     INT64_C(253402300799) /* 9999-12-31 23:59:59 */

struct rtc_state {
    int64_t base_s;    /* the time, in seconds since 1970, ... */
    uint64_t base_ns;  /* ... at this reading of the clock */
    uint64_t seen_ns;  /* register C is up to date until here */
    uint64_t event_ns; /* next interrupt, 0: none */
    uint8_t index, index2;
    uint8_t irq_level;
    uint8_t alarm_level;
    uint8_t pad[4];
    uint8_t ram[CMOS_BYTES]; /* time registers hold the time only while SET or the divider is off */
    uint8_t ram2[CMOS_BYTES];
};
#define RTC_VERSION 1u

struct vmc_rtc {
    struct dev_base base;
    struct vmc_irq_line irq;
    struct vmc_irq_line alarm;                   /* to the chipset, which wakes by it */
    struct rtc_state st;                         /* (l) */
    uint8_t init[CMOS_BYTES], init2[CMOS_BYTES]; /* what the machine's builder put there */
    struct vmc_timer *timer;
};

/* Does the divider chain run? */
static inline bool vmci_rtc_running(const struct rtc_state *s)
{
    return (s->ram[REG_A] & A_DV) == A_DV_ON;
}

static inline int64_t vmci_rtc_second(const struct rtc_state *s, uint64_t ns)
{
    return s->base_s + (int64_t)((ns - s->base_ns) / NS_PER_S);
}

static inline uint64_t vmci_rtc_ns_of(const struct rtc_state *s, int64_t second)
{
    return s->base_ns + (uint64_t)(second - s->base_s) * NS_PER_S;
}

static inline bool vmci_rtc_is_time(unsigned index)
{
    return index == REG_SEC || index == REG_MIN || index == REG_HOUR ||
           (index >= REG_WDAY && index <= REG_YEAR) || index == REG_CENTURY;
}

/* Registers from the time, unless they are frozen; and the time from the registers. */
void vmci_rtc_to_regs(struct rtc_state *s, uint64_t now);
void vmci_rtc_from_regs(struct rtc_state *s, uint64_t now);
/* First second after a given one that the alarm registers match. */
bool vmci_rtc_next_alarm(const struct rtc_state *s, int64_t after, int64_t *when);

#endif
