/* SPDX-License-Identifier: BSD-2-Clause */
/* The image that reads no VMFS volumes: what hv_volume.c and hv_vmdk.c are in the other one. */
#include "hv.h"

bool hv_on_volume(const char *spec)
{
    (void)spec;
    return false;
}

void hv_volumes_init(void)
{
}

const char *hv_volumes_config(size_t *bytes, char *where, size_t room)
{
    (void)bytes;
    (void)where;
    (void)room;
    return NULL;
}

uint64_t hv_volumes_poll(uint64_t now)
{
    (void)now;
    return NEVER;
}

void hv_volumes_close(void)
{
}

void hv_volumes_show(void)
{
    hv_print("this image reads no volumes\n");
}

const char *hv_volume_on_disk(uint32_t k)
{
    (void)k;
    return NULL;
}

int hv_vmdk_open(struct hv_guest *g, uint32_t i, const char *spec, bool read_only,
                 struct vmc_blockdev *out)
{
    (void)g;
    (void)i;
    (void)spec;
    (void)read_only;
    (void)out;
    return VMC_ENOTSUP;
}

void hv_vmdk_close(struct hv_guest *g, uint32_t i)
{
    (void)g;
    (void)i;
}

int hv_file_open(const char *who, const char *spec, struct hv_file **out, struct vmc_image_src *src)
{
    (void)who;
    (void)spec;
    (void)out;
    (void)src;
    return VMC_ENOTSUP;
}

void hv_file_close(struct hv_file *f)
{
    (void)f;
}
