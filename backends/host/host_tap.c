/* SPDX-License-Identifier: BSD-2-Clause */
/* A TAP interface of the host. */
#include "host_net_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define READ_BATCH 64u /* frames between two looks at the guest's */

struct tap {
    struct vmc_host_net *net;
    int fd;
    unsigned char frame[VMCI_NET_FRAME_MAX];
};

static unsigned tap_fill(void *port, struct pollfd *fds, unsigned max, int *timeout_ms, bool read)
{
    struct tap *t = port;

    (void)max;
    (void)timeout_ms;
    fds[0] = (struct pollfd){.fd = t->fd, .events = read ? POLLIN : 0};
    return 1;
}

static void tap_handle(void *port, struct pollfd *fds, unsigned n, bool failed)
{
    struct tap *t = port;

    if (failed || n == 0 || (fds[0].revents & POLLIN) == 0)
        return;
    for (unsigned i = 0; i < READ_BATCH && t->net->in.count == 0; i++) {
        ssize_t got = read(t->fd, t->frame, sizeof(t->frame));
        if (got <= 0)
            break;
        vmci_host_net_to_guest(t->net, t->frame, (size_t)got);
    }
}

static void tap_output(void *port, const void *frame, size_t bytes)
{
    struct tap *t = port;

    /* An interface that is down or full loses the frame. */
    while (write(t->fd, frame, bytes) < 0 && errno == EINTR)
        ;
}

static void tap_close(void *port)
{
    struct tap *t = port;

    close(t->fd);
    free(t);
}

static const struct vmci_net_port_ops tap_ops = {
    .fill = tap_fill,
    .handle = tap_handle,
    .output = tap_output,
    .close = tap_close,
};

static int attach(struct tap *t, const char *ifname, struct vmc_error *err)
{
    const char *site = "host-tap/open";
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI};

    t->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (t->fd < 0)
        return vmci_host_error(err, vmci_host_status(errno), errno, site,
                               "cannot open /dev/net/tun: %s", strerror(errno));
    memcpy(ifr.ifr_name, ifname, strlen(ifname)); /* fits: checked by the caller */
    if (ioctl(t->fd, TUNSETIFF, &ifr) != 0) {
        int e = errno;
        close(t->fd);
        return vmci_host_error(err, e == EBUSY ? VMC_EBUSY : vmci_host_status(e), e, site,
                               e == EPERM ? "no permission to use the TAP interface %s: %s "
                                            "(create it with 'ip tuntap add mode tap user ...')"
                                          : "cannot use the TAP interface %s: %s",
                               ifname, strerror(e));
    }
    return VMC_OK;
}

int vmc_host_tap_open(const struct vmc_host_tap_config *cfg, struct vmc_host_net **out,
                      struct vmc_error *err)
{
    size_t len = cfg->size >= sizeof(*cfg) && cfg->ifname != NULL ? strlen(cfg->ifname) : 0;

    if (len == 0 || len >= IFNAMSIZ || strchr(cfg->ifname, '/') != NULL)
        return vmci_host_error(err, VMC_EINVAL, 0, "host-tap/open",
                               "the name of a network interface has 1 to 15 characters");
    struct tap *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return vmci_host_error(err, VMC_ENOMEM, 0, "host-tap/open", "no memory");
    int rc = attach(t, cfg->ifname, err);
    if (rc != VMC_OK) {
        free(t);
        return rc;
    }
    rc = vmci_host_net_create(&tap_ops, t, out, err);
    if (rc == VMC_OK)
        t->net = *out;
    return rc;
}
