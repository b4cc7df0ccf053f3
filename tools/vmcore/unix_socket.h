/* SPDX-License-Identifier: BSD-2-Clause */
/* A listening Unix socket with a name. */
#ifndef UNIX_SOCKET_H
#define UNIX_SOCKET_H

/*
 * Listen on path, for this user only, without blocking. A socket that a dead process left behind is
 * replaced; one in use and any other file are not. -1 with a message on standard error, begun by
 * who.
 */
int unix_socket_listen(const char *who, const char *path, int backlog);

#endif
