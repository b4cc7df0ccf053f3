/* SPDX-License-Identifier: BSD-2-Clause */
/* Descriptors: the text file that names a disk's extent and its parent. */
#include "disk/disk_priv.h"

static const char site[] = SITE("descriptor");

/* The value after key at the beginning of a line; NULL: no such line. */
static const char *value(const char *text, const char *key)
{
    size_t n = vmci_strlen(key);

    for (const char *p = text; *p != '\0';) {
        if (memcmp(p, key, VMCI_MIN(n, vmci_strlen(p))) == 0 && vmci_strlen(p) >= n)
            return p + n;
        while (*p != '\0' && *p != '\n')
            p++;
        if (*p == '\n')
            p++;
    }
    return NULL;
}

static uint64_t number(const char *p, unsigned base)
{
    uint64_t v = 0;

    for (;; p++) {
        unsigned d = *p >= '0' && *p <= '9'   ? (unsigned)(*p - '0')
                     : *p >= 'a' && *p <= 'f' ? (unsigned)(*p - 'a' + 10)
                     : *p >= 'A' && *p <= 'F' ? (unsigned)(*p - 'A' + 10)
                                              : 99;
        if (d >= base || v > UINT64_MAX / 32)
            return v;
        v = v * base + d;
    }
}

/* A quoted name without folders: descriptors come from anywhere. */
static bool quoted(const char *p, char *out)
{
    size_t n = 0;

    while (*p != '\0' && *p != '\n' && *p != '"')
        p++;
    if (*p != '"')
        return false;
    for (p++; *p != '"'; p++) {
        if (*p == '\0' || *p == '\n' || *p == '/' || n + 1 >= DISK_NAME)
            return false;
        out[n++] = *p;
    }
    out[n] = '\0';
    return n > 0;
}

static int parse(const char *text, const char *name, struct descriptor *d, struct vmc_error *err)
{
    const char *rw = value(text, "RW "), *cid = value(text, "CID="), *p;

    memset(d, 0, sizeof(*d));
    if (value(text, "# Disk DescriptorFile") == NULL || rw == NULL || cid == NULL)
        return vmci_error(err, VMC_EFORMAT, site, "%s is no disk descriptor", name);
    d->cid = (uint32_t)number(cid, 16);
    p = value(text, "parentCID=");
    d->parent_cid = p != NULL ? (uint32_t)number(p, 16) : UINT32_MAX;
    d->sectors = number(rw, 10);
    for (p = rw; *p >= '0' && *p <= '9'; p++)
        ;
    while (*p == ' ')
        p++;
    d->sparse = memcmp(p, "VMFSSPARSE", VMCI_MIN(vmci_strlen(p), 10u)) == 0;
    if (!d->sparse && memcmp(p, "VMFS ", VMCI_MIN(vmci_strlen(p), 5u)) != 0 &&
        memcmp(p, "FLAT ", VMCI_MIN(vmci_strlen(p), 5u)) != 0)
        return vmci_error(err, VMC_ENOTSUP, site, "%s: the extent is not VMFS, FLAT or VMFSSPARSE",
                          name);
    if (d->sectors == 0 || d->sectors > 1ull << 37 || !quoted(p, d->extent))
        return vmci_error(err, VMC_EFORMAT, site, "%s: extent of %llu sectors without a proper name",
                          name, (unsigned long long)d->sectors);
    p = value(text, "parentFileNameHint=");
    if (d->sparse && (p == NULL || !quoted(p, d->parent)))
        return vmci_error(err, VMC_EFORMAT, site, "%s: a redo log without a parent", name);
    p = value(text, "ddb.thinProvisioned = \"1\"");
    d->thin = p != NULL;
    return VMC_OK;
}

int vmci_disk_desc_read(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                        const char *name, struct descriptor *d, struct vmc_error *err)
{
    uint64_t bytes = 0;
    void *file;
    int rc = files->ops->open(files->ctx, name, false, &file, err);

    if (rc != VMC_OK)
        return rc;
    char *text = vmci_zalloc(pf, DISK_DESC + 1);
    rc = text == NULL ? vmci_error(err, VMC_ENOMEM, site, "no memory")
                      : files->ops->size(files->ctx, file, &bytes);
    if (rc == VMC_OK && (bytes == 0 || bytes > DISK_DESC))
        rc = vmci_error(err, VMC_EFORMAT, site, "%s: %llu bytes are no descriptor", name,
                        (unsigned long long)bytes);
    if (rc == VMC_OK) {
        rc = files->ops->read(files->ctx, file, text, (size_t)bytes, 0);
        if (rc != VMC_OK)
            vmci_error(err, rc, site, "%s cannot be read", name);
    }
    if (rc == VMC_OK)
        rc = parse(text, name, d, err);
    vmci_free(pf, text, DISK_DESC + 1);
    int rc2 = files->ops->close(files->ctx, file);
    return rc != VMC_OK ? rc : rc2;
}

static size_t print(const struct descriptor *d, char *out)
{
    /* Geometry as VMware's tools give it for this size: 255 heads, 63 sectors. */
    uint64_t cylinders = d->sectors / (255 * 63);
    size_t n = vmci_snprintf(out, DISK_DESC,
                             "# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=%08x\n"
                             "createType=\"%s\"\n",
                             d->cid, d->parent_cid, d->sparse ? "vmfsSparse" : "vmfs");
    if (d->sparse)
        n += vmci_snprintf(out + n, DISK_DESC - n, "parentFileNameHint=\"%s\"\n", d->parent);
    n += vmci_snprintf(out + n, DISK_DESC - n,
                       "# Extent description\nRW %llu %s \"%s\"\n\n# The Disk Data Base\n#DDB\n\n"
                       "ddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"%llu\"\n"
                       "ddb.geometry.heads = \"255\"\nddb.geometry.sectors = \"63\"\n"
                       "ddb.adapterType = \"lsilogic\"\n%s",
                       (unsigned long long)d->sectors, d->sparse ? "VMFSSPARSE" : "VMFS", d->extent,
                       (unsigned long long)VMCI_MIN(cylinders, 65535u),
                       d->thin ? "ddb.thinProvisioned = \"1\"\n" : "");
    return n;
}

int vmci_disk_desc_write(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                         const char *name, const struct descriptor *d, struct vmc_error *err)
{
    void *file;
    char *text = vmci_zalloc(pf, DISK_DESC);

    if (text == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory");
    int rc = files->ops->create(files->ctx, name, &file, err);
    if (rc == VMC_OK) {
        rc = files->ops->write(files->ctx, file, text, print(d, text), 0);
        if (rc == VMC_OK)
            rc = files->ops->flush(files->ctx, file);
        int rc2 = files->ops->close(files->ctx, file);
        rc = rc != VMC_OK ? rc : rc2;
        if (rc != VMC_OK)
            vmci_error(err, rc, site, "%s cannot be written", name);
    }
    vmci_free(pf, text, DISK_DESC);
    return rc;
}

int vmci_disk_extent_name(const char *name, const char *suffix, char *out, struct vmc_error *err)
{
    size_t n = vmci_strlen(name);

    if (n < 6 || n + vmci_strlen(suffix) >= DISK_NAME || !vmci_streq(name + n - 5, ".vmdk"))
        return vmci_error(err, VMC_EINVAL, site, "%s: the name of a disk ends in .vmdk", name);
    vmci_snprintf(out, DISK_NAME, "%.*s%s.vmdk", (int)(n - 5), name, suffix);
    return VMC_OK;
}
