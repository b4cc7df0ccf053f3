/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Names of log levels. Messages reach the embedder through vmc_platform.log.
 */
#ifndef VMCORE_LOG_H
#define VMCORE_LOG_H

#include <vmcore/platform.h>

VMC_BEGIN_DECLS

/** "error", "warning", "info", "debug", or "?". Any thread. */
VMC_API const char *vmc_log_level_name(int level);

VMC_END_DECLS

#endif
