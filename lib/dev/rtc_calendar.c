/* SPDX-License-Identifier: BSD-2-Clause */
/* The calendar of the real-time clock: seconds since 1970 to registers and back. */
#include "rtc_priv.h"

#define DAY_S     86400
#define HOUR_PM   0x80u
#define ALARM_ANY 0xc0u /* alarm bytes with both bits set match everything */
#define EPOCH_WDAY 4    /* 1970-01-01 was a Thursday; Sunday is 0 */

struct date {
    int64_t year;
    unsigned month, day; /* from 1 */
};

/*
 * Civil calendar from day numbers and back: eras of 400 years, years that begin in March, so that
 * the leap day comes last (H. Hinnant, "chrono-compatible low-level date algorithms").
 */
static struct date date_of(int64_t days)
{
    int64_t z = days + 719468;
    int64_t era = z / 146097;
    unsigned doe = (unsigned)(z - era * 146097);
    unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    unsigned mp = (5 * doy + 2) / 153;
    unsigned month = mp < 10 ? mp + 3 : mp - 9;

    return (struct date){.year = (int64_t)yoe + era * 400 + (month <= 2),
                         .month = month,
                         .day = doy - (153 * mp + 2) / 5 + 1};
}

static int64_t days_of(struct date d)
{
    int64_t y = d.year - (d.month <= 2);
    int64_t era = y / 400;
    unsigned yoe = (unsigned)(y - era * 400);
    unsigned doy = (153 * (d.month > 2 ? d.month - 3 : d.month + 9) + 2) / 5 + d.day - 1;
    unsigned doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;

    return era * 146097 + (int64_t)doe - 719468;
}

/* ---- register formats ---------------------------------------------------------------------- */

static uint8_t encode(const struct rtc_state *s, unsigned v)
{
    return (uint8_t)((s->ram[REG_B] & B_DM) != 0 ? v : v / 10 << 4 | v % 10);
}

static unsigned decode(const struct rtc_state *s, uint8_t v)
{
    return (s->ram[REG_B] & B_DM) != 0 ? v : (v >> 4) * 10u + (v & 15u);
}

static uint8_t encode_hour(const struct rtc_state *s, unsigned h)
{
    if ((s->ram[REG_B] & B_24H) != 0)
        return encode(s, h);
    unsigned h12 = h % 12 == 0 ? 12 : h % 12;
    return (uint8_t)(encode(s, h12) | (h >= 12 ? HOUR_PM : 0));
}

static unsigned decode_hour(const struct rtc_state *s, uint8_t v)
{
    if ((s->ram[REG_B] & B_24H) != 0)
        return decode(s, v);
    return decode(s, v & (uint8_t)~HOUR_PM) % 12 + ((v & HOUR_PM) != 0 ? 12 : 0);
}

void vmci_rtc_to_regs(struct rtc_state *s, uint64_t now)
{
    if ((s->ram[REG_B] & B_SET) != 0 || !vmci_rtc_running(s))
        return;
    int64_t t = vmci_rtc_second(s, now);
    unsigned in_day = (unsigned)(t % DAY_S);
    struct date d = date_of(t / DAY_S);

    s->ram[REG_SEC] = encode(s, in_day % 60);
    s->ram[REG_MIN] = encode(s, in_day / 60 % 60);
    s->ram[REG_HOUR] = encode_hour(s, in_day / 3600);
    s->ram[REG_WDAY] = encode(s, (unsigned)((t / DAY_S + EPOCH_WDAY) % 7) + 1);
    s->ram[REG_DAY] = encode(s, d.day);
    s->ram[REG_MONTH] = encode(s, d.month);
    s->ram[REG_YEAR] = encode(s, (unsigned)(d.year % 100));
    s->ram[REG_CENTURY] = encode(s, (unsigned)(d.year / 100 % 100));
}

static unsigned clamp(unsigned v, unsigned lo, unsigned hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

void vmci_rtc_from_regs(struct rtc_state *s, uint64_t now)
{
    unsigned century = decode(s, s->ram[REG_CENTURY]);
    struct date d = {
        .year = clamp(century, 19, 99) * 100 + clamp(decode(s, s->ram[REG_YEAR]), 0, 99),
        .month = clamp(decode(s, s->ram[REG_MONTH]), 1, 12),
        .day = clamp(decode(s, s->ram[REG_DAY]), 1, 31),
    };
    int64_t t = days_of(d) * DAY_S +
                (int64_t)clamp(decode_hour(s, s->ram[REG_HOUR]), 0, 23) * 3600 +
                clamp(decode(s, s->ram[REG_MIN]), 0, 59) * 60 +
                clamp(decode(s, s->ram[REG_SEC]), 0, 59);

    s->base_s = VMCI_MIN(VMCI_MAX(t, RTC_MIN_S), RTC_MAX_S);
    s->base_ns = now - (now - s->base_ns) % NS_PER_S; /* the divider goes on */
    s->seen_ns = now;
}

/* ---- alarm --------------------------------------------------------------------------------- */

static bool field_ok(uint8_t alarm, unsigned want, unsigned have)
{
    return (alarm & ALARM_ANY) == ALARM_ANY || want == have;
}

bool vmci_rtc_next_alarm(const struct rtc_state *s, int64_t after, int64_t *when)
{
    uint8_t ah = s->ram[REG_HOUR_ALARM], am = s->ram[REG_MIN_ALARM], as = s->ram[REG_SEC_ALARM];
    unsigned wh = decode_hour(s, ah), wm = decode(s, am), ws = decode(s, as);
    int64_t t = after + 1;

    /* Skip by hours, then minutes, then seconds: at most 25 + 60 + 60 steps to a match. */
    for (unsigned step = 0; step < 25 + 60 + 60; step++) {
        unsigned in_day = (unsigned)(t % DAY_S);
        if (!field_ok(ah, wh, in_day / 3600)) {
            t += 3600 - in_day % 3600;
        } else if (!field_ok(am, wm, in_day / 60 % 60)) {
            t += 60 - in_day % 60;
        } else if (!field_ok(as, ws, in_day % 60)) {
            t++;
        } else {
            *when = t;
            return true;
        }
    }
    return false;
}
