/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SCSI-3 persistent reservations. The type is "write exclusive, all registrants": every registered
 * path holds the reservation, so it lasts until the last one leaves, whoever came first.
 */
#include "host_reserve.h"

#include "host_priv.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define INQUIRY       0x12
#define INQUIRY_BYTES 36u
#define VENDOR        8 /* where it is, 8 bytes */

#define RESERVE_IN          0x5e
#define READ_KEYS           0
#define READ_RESERVATION    1
#define REPORT_CAPABILITIES 2

#define RESERVE_OUT       0x5f
#define REGISTER          0
#define RESERVE           1
#define PREEMPT           4
#define PREEMPT_AND_ABORT 5
#define REGISTER_ANYHOW   6 /* REGISTER AND IGNORE EXISTING KEY */

#define TYPE       7u   /* write exclusive, all registrants; of the whole disk (scope 0) */
#define OUT_BYTES  24u  /* of parameters */
#define KEEP       0x01 /* APTPL: the disk keeps registrations without power */
#define KEYS_BYTES 0x4000u
#define HEAD       8u          /* generation and length, before what a disk lists */
#define LIO_WAIT_S 2           /* for what such a target has begun */
#define OUR_MARK   0x564d43ull /* the upper 24 bits of keys of VMFS hosts of ours */

static int ask(struct vmci_caw *c, uint8_t what, void *data, uint16_t bytes)
{
    uint8_t cdb[10] = {RESERVE_IN, what};
    uint16_t room = htobe16(bytes);

    memset(data, 0, bytes);
    memcpy(cdb + 7, &room, sizeof(room));
    int rc = vmci_scsi_command(c, cdb, sizeof(cdb), SG_DXFER_FROM_DEV, data, bytes);
    return rc > 0 ? VMC_EIO : rc;
}

/* VMC_EPERM: reservation conflict; sense keys are those of vmci_scsi_command. */
static int tell(struct vmci_caw *c, uint8_t what, uint64_t key, uint64_t other, uint8_t flags)
{
    uint8_t cdb[10] = {RESERVE_OUT, what, TYPE}, data[OUT_BYTES] = {0};
    uint64_t k = htobe64(key), o = htobe64(other);

    cdb[8] = OUT_BYTES;
    memcpy(data, &k, sizeof(k));
    memcpy(data + 8, &o, sizeof(o));
    data[20] = flags;
    int rc = vmci_scsi_command(c, cdb, sizeof(cdb), SG_DXFER_TO_DEV, data, sizeof(data));
    return rc > 0 ? VMC_EIO : rc;
}

static uint32_t load32(const uint8_t *p)
{
    uint32_t n;

    memcpy(&n, p, sizeof(n));
    return be32toh(n);
}

static uint64_t load64(const uint8_t *p)
{
    uint64_t n;

    memcpy(&n, p, sizeof(n));
    return be64toh(n);
}

struct seen {
    bool key, whom; /* registered */
    bool foreign;   /* so is one that is not a VMFS host of ours */
};

static int look(struct vmci_caw *c, uint64_t key, uint64_t whom, struct seen *out)
{
    uint8_t *list = malloc(KEYS_BYTES);

    *out = (struct seen){0};
    if (list == NULL)
        return VMC_ENOMEM;
    int rc = ask(c, READ_KEYS, list, KEYS_BYTES);
    uint32_t bytes = load32(list + 4);
    if (rc == VMC_OK && bytes > KEYS_BYTES - HEAD)
        rc = VMC_ELIMIT;
    for (uint32_t at = 0; rc == VMC_OK && at + 8 <= bytes; at += 8) {
        uint64_t k = load64(list + HEAD + at);
        out->key = out->key || k == key;
        out->whom = out->whom || k == whom;
        out->foreign = out->foreign || k >> 40 != OUR_MARK;
    }
    free(list);
    return rc;
}

/* *type: of the reservation, with its scope; 0: none. */
static int reservation(struct vmci_caw *c, unsigned *type)
{
    uint8_t r[24];
    int rc = ask(c, READ_RESERVATION, r, sizeof(r));

    *type = rc == VMC_OK && load32(r + 4) >= 16 ? r[21] : 0;
    return rc;
}

/*
 * Linux's target waits in PREEMPT AND ABORT for the work queue that carries it out, where commands
 * come to it by one (its loopback, vhost; seen with Linux 6.1): no disk of it answers again.
 */
static bool is_lio(struct vmci_caw *c)
{
    uint8_t cdb[6] = {INQUIRY, 0, 0, 0, INQUIRY_BYTES}, data[INQUIRY_BYTES] = {0};

    return vmci_scsi_command(c, cdb, sizeof(cdb), SG_DXFER_FROM_DEV, data, sizeof(data)) !=
               VMC_OK || /* it does not say: the way that all can go */
           memcmp(data + VENDOR, "LIO-ORG ", 8) == 0;
}

int vmci_reserve_offered(struct vmci_caw *c, const char **why)
{
    uint8_t caps[8];

    *why = "it has no persistent reservations";
    if (ask(c, REPORT_CAPABILITIES, caps, sizeof(caps)) != VMC_OK || (caps[0] << 8 | caps[1]) < 8)
        return VMC_ENOTSUP;
    *why = "its reservations are lost with its power";
    if ((caps[2] & 0x01) == 0)
        return VMC_ENOTSUP;
    *why = "it has no reservations of the type \"write exclusive, all registrants\"";
    if ((caps[3] & 0x80) != 0 && (caps[4] & 0x80) == 0)
        return VMC_ENOTSUP;
    *why = NULL;
    c->no_abort = is_lio(c);
    return VMC_OK;
}

int vmci_reserve_join(struct vmci_caw *c, uint64_t key, const char **why)
{
    struct seen seen;
    unsigned type;
    int rc = look(c, key, 0, &seen);

    *why = NULL;
    if (rc == VMC_OK && seen.foreign) {
        *why = "other software has registered with it";
        return VMC_EBUSY;
    }
    if (rc == VMC_OK)
        rc = tell(c, REGISTER_ANYHOW, 0, key, KEEP);
    if (rc == VMC_EPERM)
        *why = "it refuses a registration (for another user than root the kernel does)";
    if (rc != VMC_OK)
        return rc;
    rc = reservation(c, &type);
    if (rc == VMC_OK && type == 0)
        rc = tell(c, RESERVE, key, 0, 0);
    /* By another host at the same time, perhaps. */
    if (rc == VMC_OK || rc == VMC_EPERM)
        rc = reservation(c, &type);
    if (rc == VMC_OK && type != TYPE) {
        *why = "it is reserved in another way";
        rc = VMC_EBUSY;
    }
    if (rc != VMC_OK)
        (void)vmci_reserve_leave(c, key); /* what went wrong first is what counts */
    return rc;
}

int vmci_reserve_check(struct vmci_caw *c, uint64_t key)
{
    struct seen seen;
    unsigned type = TYPE;
    int rc = look(c, key, 0, &seen);

    if (rc == VMC_OK)
        rc = reservation(c, &type);
    return rc == VMC_OK && (!seen.key || type != TYPE) ? VMC_EFENCED : rc;
}

int vmci_reserve_evict(struct vmci_caw *c, uint64_t key, uint64_t whom)
{
    struct seen seen;
    unsigned type = TYPE;
    /*
     * A conflict says that one of the two is not registered. Where the disk takes too long, the
     * kernel gives up and resets it, which ends what everybody had asked for: then the key is gone.
     */
    int rc = tell(c, c->no_abort ? PREEMPT : PREEMPT_AND_ABORT, key, whom, 0);

    if (rc == VMC_OK && c->no_abort)
        nanosleep(&(struct timespec){.tv_sec = LIO_WAIT_S}, NULL);
    if (rc == VMC_OK || rc == VMC_EPERM)
        rc = look(c, key, whom, &seen);
    if (rc == VMC_OK)
        rc = reservation(c, &type);
    if (rc != VMC_OK)
        return rc;
    return !seen.key || type != TYPE ? VMC_EFENCED : seen.whom ? VMC_EIO : VMC_OK;
}

int vmci_reserve_leave(struct vmci_caw *c, uint64_t key)
{
    return tell(c, REGISTER, key, 0, KEEP);
}
