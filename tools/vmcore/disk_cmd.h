/* SPDX-License-Identifier: BSD-2-Clause */
/* One run of "vmcore disk". */
#ifndef DISK_CMD_H
#define DISK_CMD_H

#include "disk_place.h"

struct disk_cmd {
    struct vt vt; /* options and messages; its volume is not used */
    uint32_t kind, log;
    bool physical;
    struct disk_volume *volumes;
    double since; /* of the operation whose progress is shown */
};

int disk_create(struct disk_cmd *c);
int disk_info(struct disk_cmd *c);
int disk_snapshot(struct disk_cmd *c);
int disk_commit(struct disk_cmd *c);
int disk_revert(struct disk_cmd *c);
int disk_clone(struct disk_cmd *c);
int disk_grow(struct disk_cmd *c);
int disk_rm(struct disk_cmd *c);
int disk_compress(struct disk_cmd *c);
int disk_expand(struct disk_cmd *c);
int disk_check(struct disk_cmd *c);
int disk_rdm(struct disk_cmd *c);
int disk_import(struct disk_cmd *c);
int disk_write(struct disk_cmd *c);
int disk_export(struct disk_cmd *c);

#endif
