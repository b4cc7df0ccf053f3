/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Status codes and the error record.
 *
 * Every fallible function returns an int: zero or positive is success, negative is one of
 * VMC_E*. The numbers are fixed for ever. The library never sets errno.
 */
#ifndef VMCORE_STATUS_H
#define VMCORE_STATUS_H

#include <vmcore/types.h>

VMC_BEGIN_DECLS

/** X(enumerator, number, text): the one list from which codes, names and texts are made. */
#define VMC_STATUS_LIST(X)                                                                         \
    X(VMC_EINVAL, -1, "invalid argument")                                                          \
    X(VMC_ENOMEM, -2, "out of memory")                                                             \
    X(VMC_ENOTSUP, -3, "not supported")                                                            \
    X(VMC_EBUSY, -4, "busy")                                                                       \
    X(VMC_ESTATE, -5, "wrong state for this call")                                                 \
    X(VMC_ERANGE, -6, "out of range")                                                              \
    X(VMC_EEXIST, -7, "already exists")                                                            \
    X(VMC_ENOENT, -8, "not found")                                                                 \
    X(VMC_EPERM, -9, "not permitted")                                                              \
    X(VMC_EIO, -10, "input/output error")                                                          \
    X(VMC_EAGAIN, -11, "try again")                                                                \
    X(VMC_EFORMAT, -12, "malformed data")                                                          \
    X(VMC_EVERSION, -13, "unsupported version")                                                    \
    X(VMC_ECHECKSUM, -14, "checksum mismatch")                                                     \
    X(VMC_EOVERFLOW, -15, "arithmetic overflow")                                                   \
    X(VMC_ELIMIT, -16, "limit exceeded")                                                           \
    X(VMC_ECANCELED, -17, "canceled")                                                              \
    X(VMC_EHOST, -18, "host failure")                                                              \
    X(VMC_EINTERNAL, -19, "internal error")                                                        \
    X(VMC_ENOSPC, -20, "no space left")                                                            \
    X(VMC_EFENCED, -21, "fenced: the lease on the shared resource was lost")

/** Status of a call; see #VMC_STATUS_LIST. */
enum vmc_status {
    VMC_GUEST_FAULT = 1, /**< a guest translation faulted; the fault record is valid */
    VMC_OK = 0,
#define VMC_STATUS_ENUM_(name, number, text) name = number,
    VMC_STATUS_LIST(VMC_STATUS_ENUM_)
#undef VMC_STATUS_ENUM_
};

#define VMC_ERROR_TEXT 240

/**
 * Details of a failure. Caller memory; needs no initialisation; written only when the call fails.
 * Functions accept NULL in its place.
 */
struct vmc_error {
    int code;                  /**< VMC_E* */
    int host_code;             /**< errno of the host, VM-instruction error ..., or 0 */
    const char *site;          /**< static string "module/step" */
    char text[VMC_ERROR_TEXT]; /**< one sentence that says what was wrong and where */
};

/** Short text for a status; never NULL. Any thread. */
VMC_API const char *vmc_strerror(int status);
/** Symbolic name of a status ("VMC_EINVAL"); never NULL. Any thread. */
VMC_API const char *vmc_status_name(int status);

VMC_END_DECLS

#endif
