/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE
#include "disk_place.h"

#include <stdlib.h>
#include <string.h>

static int mount_volume(struct disk_volume **volumes, const char *command, char *spec,
                        const struct vt *options, struct disk_volume **out)
{
    for (struct disk_volume *v = *volumes; v != NULL; v = v->next)
        if (strcmp(v->spec, spec) == 0) {
            free(spec);
            if (v->vt.exclusive != options->exclusive || v->vt.reserve != options->reserve) {
                fprintf(stderr, "%s: %s: all disks of a volume are %s, or none\n", command, v->spec,
                        v->vt.exclusive != options->exclusive ? "exclusive" : "with reserve");
                return EXIT_BAD_ARGS;
            }
            *out = v;
            return 0;
        }
    struct disk_volume *v = calloc(1, sizeof(*v));
    if (v == NULL) {
        free(spec);
        return EXIT_ERROR;
    }
    v->spec = spec;
    v->vt.name = command;
    v->vt.async = true;
    v->vt.may_read_only = true;
    v->vt.exclusive = options->exclusive;
    v->vt.reserve = options->reserve;
    v->vt.read_only = options->read_only;
    v->vt.quiet = options->quiet;
    v->vt.experimental = options->experimental;
    int rc = vt_init(&v->vt);
    if (rc == 0)
        rc = vt_mount(&v->vt, spec, 0);
    if (rc != 0) {
        free(v->spec);
        free(v);
        return rc;
    }
    v->next = *volumes;
    *volumes = *out = v;
    return 0;
}

static int on_volume(struct disk_place *p, struct disk_volume **volumes, const char *command,
                     const char *spec, const struct vt *options)
{
    size_t n = disk_place_volumes(spec);

    if (n <= strlen(DISK_PLACE_VMFS)) {
        fprintf(stderr, "%s: %s: expected vmfs:VOLUME:/PATH\n", command, spec);
        return EXIT_BAD_ARGS;
    }
    char *volume = strndup(spec + strlen(DISK_PLACE_VMFS), n - strlen(DISK_PLACE_VMFS));
    p->path = strdup(spec + n + 1);
    if (volume == NULL || p->path == NULL) {
        free(volume);
        return EXIT_ERROR;
    }
    return mount_volume(volumes, command, volume, options, &p->volume);
}

int disk_place_open(struct disk_place *p, struct disk_volume **volumes, const char *command,
                    const char *spec, const struct vt *options)
{
    struct vmc_error err = {0};

    *p = (struct disk_place){0};
    bool vmfs = strncmp(spec, DISK_PLACE_VMFS, strlen(DISK_PLACE_VMFS)) == 0;
    int rc = 0;
    if (vmfs)
        rc = on_volume(p, volumes, command, spec, options);
    else
        p->path = strdup(spec);
    if (rc != 0 || p->path == NULL) {
        disk_place_close(p);
        return rc != 0 ? rc : EXIT_ERROR;
    }
    char *slash = strrchr(p->path, '/');
    p->name = slash != NULL ? slash + 1 : p->path;
    p->folder = slash == NULL      ? strdup(".")
                : slash == p->path ? strdup("/")
                                   : strndup(p->path, (size_t)(slash - p->path));
    if (p->folder != NULL && vmfs) {
        p->vmfs = (struct vmc_disk_vmfs){.volume = p->volume->vt.v,
                                         .folder = p->folder,
                                         .raw_open = vmc_host_raw_open,
                                         .raw_close = vmc_host_raw_close,
                                         .raw_ctx = options->rdm};
        p->files = vmc_disk_vmfs_files(&p->vmfs);
    } else if (p->folder != NULL && vmc_host_folder_open(p->folder, &p->host, &err) == VMC_OK) {
        vmc_host_folder_allow_raw(p->host, options->rdm);
        p->files = vmc_host_folder_files(p->host);
    } else {
        fprintf(stderr, "%s: %s\n", command, p->folder == NULL ? "no memory" : err.text);
        disk_place_close(p);
        return EXIT_ERROR;
    }
    return 0;
}

void disk_place_close(struct disk_place *p)
{
    vmc_host_folder_close(p->host);
    free(p->path);
    free(p->folder);
    *p = (struct disk_place){0};
}

int disk_volumes_close(struct disk_volume **volumes, int status)
{
    while (*volumes != NULL) {
        struct disk_volume *v = *volumes;
        *volumes = v->next;
        status = vt_close(&v->vt, status);
        free(v->spec);
        free(v);
    }
    return status;
}
