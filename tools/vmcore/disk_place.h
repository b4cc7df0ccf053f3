/* SPDX-License-Identifier: BSD-2-Clause */
/* Where a VM disk is: "vmfs:VOLUME[,VOLUME...]:/folder/name.vmdk", or a path of the host. */
#ifndef DISK_PLACE_H
#define DISK_PLACE_H

#include "vmfs_tool.h"

#include <vmcore/disk.h>
#include <vmcore/host_block.h>

/* A mounted volume; several disks of one command share it. */
struct disk_volume {
    struct disk_volume *next;
    char *spec;
    struct vt vt;
};

struct disk_place {
    char *path, *folder; /* of the descriptor, and of what it lies in */
    const char *name;    /* in path */
    struct disk_volume *volume;
    struct vmc_disk_vmfs vmfs;
    struct vmc_host_folder *host;
    struct vmc_disk_files files;
};

#define DISK_PLACE_VMFS "vmfs:" /* begins the name of a disk on a volume */

/* disk_spec.c: is this the name of a disk with a descriptor, or a raw image? */
bool disk_place_is(const char *spec);
/* The format of a host's file that is an image of another program, as qemu-img names it; or NULL.
 */
const char *disk_image_format(const char *path);
/* Say so if it is one, and what to do: as_raw is how to insist. 0 or an exit status. */
int disk_refuse_format(const char *command, const char *path, const char *as_raw);
/* Length of "vmfs:VOLUMES" in "vmfs:VOLUMES:/path", or 0: not of that form. */
size_t disk_place_volumes(const char *spec);
/*
 * Open where the disk is; *volumes is a list that is shared and goes on with it. command: for
 * messages, which are printed; options: how to mount. 0 or an exit status.
 */
int disk_place_open(struct disk_place *p, struct disk_volume **volumes, const char *command,
                    const char *spec, const struct vt *options);
void disk_place_close(struct disk_place *p);
/* Unmount everything; status goes through, or becomes an error. */
int disk_volumes_close(struct disk_volume **volumes, int status);

#endif
