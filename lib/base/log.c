/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/base_int.h"

#define LINE_BYTES 512

const char *vmc_log_level_name(int level)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};

    if (level < 0 || (size_t)level >= VMCI_ARRAY_SIZE(names))
        return "?";
    return names[level];
}

void vmci_log(const struct vmc_platform *pf, int level, const char *module, const char *fmt, ...)
{
    char line[LINE_BYTES];
    va_list ap;

    if (pf->log == NULL)
        return;
    va_start(ap, fmt);
    vmci_vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    pf->log(pf->ctx, level, module, line);
}

void vmci_bug(const struct vmc_platform *pf, const char *file, int line, const char *text)
{
    if (pf->bug != NULL)
        pf->bug(pf->ctx, file, line, text);
}
