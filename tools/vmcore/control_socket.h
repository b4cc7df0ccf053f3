/* SPDX-License-Identifier: BSD-2-Clause */
/* The control socket: a listening Unix socket and its clients, driven by the caller's poll loop. */
#ifndef CONTROL_SOCKET_H
#define CONTROL_SOCKET_H

#include "control_rpc.h"

#include <poll.h>

#define CONTROL_MAX_CLIENTS 8

struct control;

/* NULL with a message on standard error when the socket cannot be made. */
struct control *control_open(const char *path, const struct rpc_server *server);
void control_close(struct control *c);
/* Fill up to CONTROL_MAX_CLIENTS + 1 entries; returns how many. */
nfds_t control_poll_fds(struct control *c, struct pollfd *fds);
/* Act on the results of poll over the entries that control_poll_fds filled. */
void control_handle(struct control *c, const struct pollfd *fds, nfds_t count);

#endif
