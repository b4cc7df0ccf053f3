/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/base_int.h"

const char *vmc_strerror(int status)
{
    if (status == VMC_GUEST_FAULT)
        return "guest fault";
    if (status >= 0)
        return "success";
    switch (status) {
#define TEXT(name, number, text)                                                                   \
    case name:                                                                                     \
        return text;
        VMC_STATUS_LIST(TEXT)
#undef TEXT
    default:
        return "unknown status";
    }
}

const char *vmc_status_name(int status)
{
    switch (status) {
    case VMC_OK:
        return "VMC_OK";
    case VMC_GUEST_FAULT:
        return "VMC_GUEST_FAULT";
#define NAME(name, number, text)                                                                   \
    case name:                                                                                     \
        return #name;
        VMC_STATUS_LIST(NAME)
#undef NAME
    default:
        return "?";
    }
}

static int fill(struct vmc_error *err, int code, int host_code, const char *site, const char *fmt,
                va_list ap)
{
    if (err != NULL) {
        err->code = code;
        err->host_code = host_code;
        err->site = site;
        vmci_vsnprintf(err->text, sizeof(err->text), fmt, ap);
    }
    return code;
}

int vmci_error(struct vmc_error *err, int code, const char *site, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(err, code, 0, site, fmt, ap);
    va_end(ap);
    return code;
}

int vmci_error_host(struct vmc_error *err, int code, int host_code, const char *site,
                    const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(err, code, host_code, site, fmt, ap);
    va_end(ap);
    return code;
}
