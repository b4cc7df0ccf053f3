/* SPDX-License-Identifier: BSD-2-Clause */
/* How "vmcore top" shows a sample: CSV lines, or pages of a terminal. */
#ifndef TOP_VIEW_H
#define TOP_VIEW_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Two answers of "stats", for rates; before is NULL at first. */
struct top_sample {
    struct json_object *before, *now;
    uint64_t before_ns, now_ns;
};

enum top_page { TOP_CPU, TOP_MEMORY, TOP_DISK };

/* top_csv.c: one line a VM and vCPU. */
void top_csv_header(FILE *f);
void top_csv(const struct top_sample *s, FILE *f);
/* What changed between the samples: percent of the time, and a rate per second. */
double top_percent(const struct top_sample *s, struct json_object *before, struct json_object *now,
                   const char *name);
double top_rate(const struct top_sample *s, struct json_object *before, struct json_object *now,
                const char *name);
/* The VM of the earlier sample that has the name of this one, or NULL. */
struct json_object *top_vm_before(const struct top_sample *s, struct json_object *vm);

/* top_screen.c: ncurses. */
/* NULL, or why there is none. */
const char *top_screen_open(double delay_s);
void top_screen_close(void);
/* Show, and wait for the time between samples; keys change the page. false: leave. */
bool top_screen_show(const struct top_sample *s, enum top_page *page);

#endif
