/* SPDX-License-Identifier: BSD-2-Clause */
/* Descriptors: the text file that names a disk's extent and its parent. */
#include "disk/disk_priv.h"

static const char site[] = SITE("descriptor");

static bool starts(const char *p, const char *word)
{
    while (*word != '\0')
        if (*p++ != *word++)
            return false;
    return true;
}

static const char *blanks(const char *p)
{
    while (*p == ' ' || *p == '\t')
        p++;
    return p;
}

static const char *next_line(const char *p)
{
    while (*p != '\0' && *p != '\n')
        p++;
    return *p == '\n' ? p + 1 : p;
}

/* What follows "key =" on a line, with or without blanks; NULL: there is no such line. */
static const char *value(const char *text, const char *key)
{
    for (const char *p = text; *p != '\0'; p = next_line(p)) {
        p = blanks(p);
        if (!starts(p, key))
            continue;
        p = blanks(p + vmci_strlen(key));
        if (*p == '=')
            return blanks(p + 1);
    }
    return NULL;
}

/* The size in the first line of an extent, "ACCESS SECTORS TYPE NAME"; NULL: there is none. */
static const char *extent_line(const char *text)
{
    static const char *const access[] = {"RW", "RDONLY"};

    for (const char *p = text; *p != '\0'; p = next_line(p)) {
        p = blanks(p);
        for (unsigned i = 0; i < VMCI_ARRAY_SIZE(access); i++) {
            const char *size = p + vmci_strlen(access[i]);
            if (starts(p, access[i]) && blanks(size) != size)
                return blanks(size);
        }
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

static bool unquote(const char *p, bool folders, char *out)
{
    size_t n = 0;

    while (*p != '\0' && *p != '\n' && *p != '"')
        p++;
    if (*p != '"')
        return false;
    for (p++; *p != '"'; p++) {
        if (*p == '\0' || *p == '\n' || (*p == '/' && !folders) || n + 1 >= DISK_NAME)
            return false;
        out[n++] = *p;
    }
    out[n] = '\0';
    return n > 0;
}

/* A quoted name without folders: descriptors come from anywhere. */
static bool quoted(const char *p, char *out)
{
    return unquote(p, false, out);
}

/* Hosts name a parent with its folders too: path keeps them, out is the name alone. */
static bool quoted_last(const char *p, char *out, char *path)
{
    if (!unquote(p, true, out))
        return false;
    for (size_t i = vmci_strlen(out); i-- > 0;)
        if (out[i] == '/') {
            memcpy(path, out, DISK_NAME);
            memmove(out, out + i + 1, vmci_strlen(out + i + 1) + 1);
            break;
        }
    return out[0] != '\0';
}

static const struct {
    const char *word, *create_type;
    uint32_t format;
} formats[] = {
    /* The first row of a format is how it is written. */
    {"VMFS ", "vmfs", VMC_DISK_FLAT},
    {"FLAT ", "monolithicFlat", VMC_DISK_FLAT},
    {"VMFSSPARSE ", "vmfsSparse", VMC_DISK_COWD},
    {"SESPARSE ", "seSparse", VMC_DISK_SESPARSE},
    /* Ours: a word that others do not know, so that they refuse it instead of reading nonsense. */
    {"VMCPACKED ", "vmcorePacked", VMC_DISK_PACKED},
    {"VMFSRDM ", "vmfsRawDeviceMap", VMC_DISK_RDM},
    {"VMFSRDM ", "vmfsPassthroughRawDeviceMap", VMC_DISK_RDM_PHYSICAL},
    {"VMFSRDMP ", "vmfsPassthroughRawDeviceMap", VMC_DISK_RDM_PHYSICAL},
};

static const char *create_type(uint32_t format)
{
    uint32_t i = 0;

    while (formats[i].format != format)
        i++;
    return formats[i].create_type;
}

static uint32_t format_of(const char *text, const char *word)
{
    const char *type = value(text, "createType");

    for (uint32_t i = 0; i < VMCI_ARRAY_SIZE(formats); i++) {
        if (!starts(word, formats[i].word))
            continue;
        /* One word stands for both kinds of raw device mappings. */
        if (formats[i].format == VMC_DISK_RDM && type != NULL &&
            starts(type, "\"vmfsPassthroughRawDeviceMap"))
            continue;
        return formats[i].format;
    }
    return 0;
}

static const char *after_name(const char *p)
{
    for (unsigned quotes = 0; *p != '\0' && *p != '\n' && quotes < 2; p++)
        quotes += *p == '"';
    return blanks(p);
}

static int parse_extent(const char *text, const char *rw, const char *name, struct descriptor *d,
                        struct vmc_error *err)
{
    const char *p = rw;

    d->sectors = number(rw, 10);
    while (*p >= '0' && *p <= '9')
        p++;
    p = blanks(p);
    d->format = format_of(text, p);
    if (d->format == 0)
        return vmci_error(err, VMC_ENOTSUP, site, "%s: an extent of this type is not supported",
                          name);
    if (d->sectors == 0 || d->sectors > 1ull << 37 || !quoted(p, d->extent))
        return vmci_error(err, VMC_EFORMAT, site,
                          "%s: extent of %llu sectors without a proper name", name,
                          (unsigned long long)d->sectors);
    if (extent_line(next_line(p)) != NULL || number(after_name(p), 10) != 0)
        return vmci_error(err, VMC_ENOTSUP, site,
                          "%s: several extents, or one that does not begin with its file", name);
    return VMC_OK;
}

static bool is_descriptor(const char *text)
{
    for (const char *p = text; *p != '\0'; p = next_line(p))
        if (starts(blanks(p), "# Disk DescriptorFile"))
            return true;
    return false;
}

static int parse(const char *text, const char *name, struct descriptor *d, struct vmc_error *err)
{
    const char *rw = extent_line(text), *cid = value(text, "CID"), *p;

    memset(d, 0, sizeof(*d));
    if (!is_descriptor(text) || rw == NULL || cid == NULL)
        return vmci_error(err, VMC_EFORMAT, site, "%s is no disk descriptor", name);
    d->cid = (uint32_t)number(cid, 16);
    p = value(text, "parentCID");
    d->parent_cid = p != NULL ? (uint32_t)number(p, 16) : UINT32_MAX;
    int rc = parse_extent(text, rw, name, d, err);
    if (rc != VMC_OK)
        return rc;
    p = value(text, "parentFileNameHint");
    if (vmci_disk_is_log(d) && (p == NULL || !quoted_last(p, d->parent, d->parent_path)))
        return vmci_error(err, VMC_EFORMAT, site, "%s: a redo log without a parent", name);
    p = value(text, "ddb.vmcore.rawDevice");
    if (p != NULL && !unquote(p, true, d->device))
        return vmci_error(err, VMC_EFORMAT, site, "%s: the name of the raw device", name);
    p = value(text, "ddb.thinProvisioned");
    d->thin = p != NULL && starts(p, "\"1\"");
    return VMC_OK;
}

/* The text of a descriptor, DISK_DESC + 1 bytes to be freed. */
static int read_text(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                     const char *name, char **out, struct vmc_error *err)
{
    uint64_t bytes = 0;
    void *file;
    int rc = files->ops->open(files->ctx, name, VMC_DISK_PEEK, &file, err);

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
    int rc2 = files->ops->close(files->ctx, file);
    rc = rc != VMC_OK ? rc : rc2;
    if (rc == VMC_OK)
        *out = text;
    else
        vmci_free(pf, text, DISK_DESC + 1);
    return rc;
}

int vmci_disk_desc_read(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                        const char *name, struct descriptor *d, struct vmc_error *err)
{
    char *text;
    int rc = read_text(pf, files, name, &text, err);

    if (rc != VMC_OK)
        return rc;
    rc = parse(text, name, d, err);
    vmci_free(pf, text, DISK_DESC + 1);
    return rc;
}

/* ---- writing -----------------------------------------------------------------------------------
 * What is replaced keeps what only others say: the identity of the disk, its adapter, its geometry.
 * Not what they believe of its contents (the file of changed blocks): we do not keep that up.
 */

struct text {
    char *p;
    size_t n; /* more than DISK_DESC: it did not fit */
};

static void VMC_PRINTF(2, 3) add(struct text *t, const char *fmt, ...)
{
    va_list ap;
    size_t at = VMCI_MIN(t->n, (size_t)DISK_DESC);

    va_start(ap, fmt);
    t->n += vmci_vsnprintf(t->p + at, DISK_DESC + 1 - at, fmt, ap);
    va_end(ap);
}

static int line_length(const char *p)
{
    int n = 0;

    while (p[n] != '\0' && p[n] != '\n' && p[n] != '\r')
        n++;
    return n;
}

/* A line "key=value" as it was; other: if there was none. */
static void add_line(struct text *t, const char *old, const char *key, const char *other)
{
    const char *v = old != NULL ? value(old, key) : NULL;

    if (v != NULL)
        add(t, "%s=%.*s\n", key, line_length(v), v);
    else if (other != NULL)
        add(t, "%s=%s\n", key, other);
}

static uint64_t quoted_number(const char *old, const char *key, uint64_t other)
{
    const char *v = old != NULL ? value(old, key) : NULL;
    uint64_t n = v != NULL ? number(v + (*v == '"'), 10) : 0;

    return n != 0 ? n : other;
}

/* What others say of the disk; its long content id ends in the short one. */
static void add_others(struct text *t, const char *old, uint32_t cid)
{
    static const char *const ours[] = {"ddb.virtualHWVersion", "ddb.geometry.cylinders",
                                       "ddb.geometry.heads",   "ddb.geometry.sectors",
                                       "ddb.adapterType",      "ddb.thinProvisioned",
                                       "ddb.vmcore.rawDevice"};

    for (const char *p = old; *p != '\0'; p = next_line(p)) {
        const char *key = blanks(p), *v = NULL;
        if (!starts(key, "ddb."))
            continue;
        bool known = false;
        for (unsigned i = 0; i < VMCI_ARRAY_SIZE(ours); i++) {
            const char *end = key + vmci_strlen(ours[i]);
            known = known || (starts(key, ours[i]) && *blanks(end) == '=');
        }
        if (known)
            continue;
        if (starts(key, "ddb.longContentID"))
            v = value(key, "ddb.longContentID");
        if (v != NULL && line_length(v) >= 34 && v[0] == '"' && v[33] == '"')
            add(t, "ddb.longContentID = %.*s%08x\"\n", 25, v, cid);
        else
            add(t, "%.*s\n", line_length(key), key);
    }
}

/* Its word goes with createType: it is that of old, if that one is kept. */
static void add_extent(struct text *t, const struct descriptor *d, const char *old)
{
    const char *word = old != NULL ? extent_line(old) : NULL;
    uint32_t i = 0;

    while (word != NULL && *word >= '0' && *word <= '9')
        word++;
    while (word == NULL ? formats[i].format != d->format : !starts(blanks(word), formats[i].word))
        i++;
    /* The place in the file is said of this one only. */
    add(t, "# Extent description\nRW %llu %s\"%s\"%s\n", (unsigned long long)d->sectors,
        formats[i].word, d->extent, vmci_streq(formats[i].word, "FLAT ") ? " 0" : "");
}

/* old: the text that this one replaces, was what it says; or NULL. */
static void print(struct text *t, const struct descriptor *d, const char *old,
                  const struct descriptor *was)
{
    uint64_t heads = quoted_number(old, "ddb.geometry.heads", 255);
    uint64_t track = quoted_number(old, "ddb.geometry.sectors", 63);
    /* Geometry as VMware's tools give it for this size: 255 heads, 63 sectors. */
    uint64_t fit = VMCI_MIN(d->sectors / VMCI_MIN(heads, 255u) / VMCI_MIN(track, 255u), 65535u);
    bool same = old != NULL && was->sectors == d->sectors;
    uint64_t cylinders = quoted_number(same ? old : NULL, "ddb.geometry.cylinders", fit);

    add(t, "# Disk DescriptorFile\n");
    add_line(t, old, "version", "1");
    add_line(t, old, "encoding", NULL);
    add(t, "CID=%08x\nparentCID=%08x\n", d->cid, d->parent_cid);
    add_line(t, old, "isNativeSnapshot", NULL);
    const char *type = old != NULL && was->format == d->format ? value(old, "createType") : NULL;
    if (type != NULL)
        add(t, "createType=%.*s\n", line_length(type), type);
    else
        add(t, "createType=\"%s\"\n", create_type(d->format));
    if (vmci_disk_is_log(d))
        add(t, "parentFileNameHint=\"%s\"\n",
            d->parent_path[0] != '\0' ? d->parent_path : d->parent);
    add_extent(t, d, type != NULL ? old : NULL);
    add(t, "\n# The Disk Data Base\n#DDB\n\n");
    add_line(t, old, "ddb.virtualHWVersion", "\"4\"");
    add(t,
        "ddb.geometry.cylinders = \"%llu\"\nddb.geometry.heads = \"%llu\"\n"
        "ddb.geometry.sectors = \"%llu\"\n",
        (unsigned long long)cylinders, (unsigned long long)heads, (unsigned long long)track);
    add_line(t, old, "ddb.adapterType", "\"lsilogic\"");
    if (d->thin)
        add(t, "ddb.thinProvisioned = \"1\"\n");
    if (d->device[0] != '\0')
        add(t, "ddb.vmcore.rawDevice = \"%s\"\n", d->device);
    if (old != NULL)
        add_others(t, old, d->cid);
}

static int write_text(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                      const char *name, const struct descriptor *d, const char *old,
                      struct vmc_error *err)
{
    struct text t = {.p = vmci_zalloc(pf, DISK_DESC + 1)};
    struct descriptor *was = vmci_zalloc(pf, sizeof(*was));
    int rc = t.p == NULL || was == NULL ? vmci_error(err, VMC_ENOMEM, site, "no memory") : VMC_OK;
    void *file;

    if (rc == VMC_OK && (old == NULL || parse(old, name, was, NULL) != VMC_OK))
        old = NULL;
    if (rc == VMC_OK)
        print(&t, d, old, was);
    if (rc == VMC_OK && t.n > DISK_DESC) { /* others say too much */
        t.n = 0;
        print(&t, d, NULL, NULL);
    }
    if (rc == VMC_OK)
        rc = files->ops->create(files->ctx, name, &file, err);
    if (rc == VMC_OK) {
        rc = files->ops->write(files->ctx, file, t.p, t.n, 0);
        if (rc == VMC_OK)
            rc = files->ops->flush(files->ctx, file);
        int rc2 = files->ops->close(files->ctx, file);
        rc = rc != VMC_OK ? rc : rc2;
        if (rc != VMC_OK)
            vmci_error(err, rc, site, "%s cannot be written", name);
    }
    vmci_free(pf, was, sizeof(*was));
    vmci_free(pf, t.p, DISK_DESC + 1);
    return rc;
}

int vmci_disk_desc_write(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                         const char *name, const struct descriptor *d, bool replace,
                         struct vmc_error *err)
{
    char temp[DISK_NAME];
    void *file;

    if (!replace && files->ops->open(files->ctx, name, VMC_DISK_PEEK, &file, NULL) == VMC_OK) {
        (void)files->ops->close(files->ctx, file); /* only looked at */
        return vmci_error(err, VMC_EEXIST, site, "%s exists", name);
    }
    /* Under another name until it is whole. */
    if (vmci_snprintf(temp, sizeof(temp), "%s.new", name) >= sizeof(temp))
        return vmci_error(err, VMC_EINVAL, site, "%s: too long a name", name);
    (void)files->ops->remove(files->ctx, temp, NULL); /* left by a crash */
    char *old = NULL;
    if (replace && read_text(pf, files, name, &old, NULL) != VMC_OK)
        old = NULL; /* nothing to keep */
    int rc = write_text(pf, files, temp, d, old, err);
    vmci_free(pf, old, DISK_DESC + 1);
    return rc == VMC_OK ? files->ops->rename(files->ctx, temp, name, err) : rc;
}

int vmci_disk_extent_name(const char *name, const char *suffix, char *out, struct vmc_error *err)
{
    size_t n = vmci_strlen(name);

    /* Descriptors name extents that lie beside them, in quotes and on one line. */
    for (size_t i = 0; i < n; i++) {
        if (name[i] == '/')
            return vmci_error(err, VMC_EINVAL, site, "%s: a name with a folder", name);
        if (name[i] == '"' || (unsigned char)name[i] < ' ')
            return vmci_error(err, VMC_EINVAL, site,
                              "%s: a name with a quote or a control character", name);
    }
    if (n < 6 || n + vmci_strlen(suffix) >= DISK_NAME || !vmci_streq(name + n - 5, ".vmdk"))
        return vmci_error(err, VMC_EINVAL, site, "%s: the name of a disk ends in .vmdk", name);
    vmci_snprintf(out, DISK_NAME, "%.*s%s.vmdk", (int)(n - 5), name, suffix);
    return VMC_OK;
}

int vmci_disk_no_children(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                          const char *name, const char *except, struct vmc_error *err)
{
    struct descriptor *d = vmci_zalloc(pf, sizeof(*d));
    char other[DISK_NAME];
    uint64_t cookie = 0;
    int rc = d == NULL ? vmci_error(err, VMC_ENOMEM, site, "no memory") : VMC_OK;

    while (rc == VMC_OK &&
           (rc = files->ops->list(files->ctx, &cookie, other, sizeof(other), err)) == 1) {
        size_t n = vmci_strlen(other);
        rc = VMC_OK;
        if (n < 6 || !vmci_streq(other + n - 5, ".vmdk") || vmci_streq(other, name) ||
            (except != NULL && vmci_streq(other, except)))
            continue;
        /* Extents have this suffix too: what is no descriptor is no child. */
        if (vmci_disk_desc_read(pf, files, other, d, NULL) == VMC_OK && vmci_disk_is_log(d) &&
            vmci_streq(d->parent, name))
            rc = vmci_error(err, VMC_EBUSY, site, "%s has a snapshot, %s: use that one", name,
                            other);
    }
    vmci_free(pf, d, sizeof(*d));
    return rc;
}

uint32_t vmci_disk_new_cid(const struct vmc_platform *pf)
{
    uint32_t cid = (uint32_t)pf->now_ns(pf->ctx);

    if (vmci_pf_has(pf, entropy) && pf->entropy->fill(pf->ctx, &cid, sizeof(cid)) != VMC_OK)
        cid ^= 0x5a5a5a5a; /* an id that tells contents apart, no secret */
    return cid >= UINT32_MAX - 1 ? 1 : cid;
}
