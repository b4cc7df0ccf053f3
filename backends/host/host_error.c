/* SPDX-License-Identifier: BSD-2-Clause */
#include "host_priv.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

int vmci_host_error(struct vmc_error *err, int code, int host_code, const char *site,
                    const char *fmt, ...)
{
    va_list ap;

    if (err == NULL)
        return code;
    err->code = code;
    err->host_code = host_code;
    err->site = site;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    return code;
}

int vmci_host_status(int host_errno)
{
    switch (host_errno) {
    case 0:
        return VMC_OK;
    case ENOMEM:
        return VMC_ENOMEM;
    case ENOENT:
        return VMC_ENOENT;
    case EACCES:
    case EPERM:
    case EROFS:
    case EBADE: /* a SCSI disk is reserved by another host */
        return VMC_EPERM;
    case EINVAL:
        return VMC_EINVAL;
    case EOPNOTSUPP:
    case ENOSYS:
        return VMC_ENOTSUP;
    case ENOSPC:
    case EDQUOT:
        return VMC_ENOSPC;
    case EAGAIN:
        return VMC_EAGAIN;
    case EBUSY:
        return VMC_EBUSY;
    case EEXIST:
        return VMC_EEXIST;
    case EIO:
        return VMC_EIO;
    default:
        return VMC_EHOST;
    }
}
