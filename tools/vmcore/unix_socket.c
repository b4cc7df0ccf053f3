/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE
#include "unix_socket.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* 0, or the errno of what a client finds there. */
static int knock(const struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int e = fd >= 0 && connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 ? 0 : errno;

    if (fd >= 0)
        close(fd);
    return e;
}

/* Does somebody listen there? */
static bool in_use(const struct sockaddr_un *addr)
{
    int e = knock(addr);

    return e == 0 || e == EAGAIN; /* who has not accepted others yet */
}

#define LEFT_S 60 /* nobody takes so long between making a socket and listening */

/* Is it PATH.NUMBER, as below? */
static bool is_ours(const char *name, const char *base)
{
    size_t n = strlen(base);

    return strncmp(name, base, n) == 0 && name[n] == '.' && name[n + 1] != '\0' &&
           strspn(name + n + 1, "0123456789") == strlen(name + n + 1);
}

/* What processes left that were killed before somebody listened. */
static void remove_left(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *base = slash != NULL ? slash + 1 : path;
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct dirent *e;
    struct stat st;

    int bytes = slash == NULL ? 1 : slash == path ? 1 : (int)(slash - path);
    int n =
        snprintf(addr.sun_path, sizeof(addr.sun_path), "%.*s", bytes, slash == NULL ? "." : path);
    DIR *d = n > 0 ? opendir(addr.sun_path) : NULL;
    while (d != NULL && (e = readdir(d)) != NULL) {
        if (!is_ours(e->d_name, base) ||
            fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISSOCK(st.st_mode) ||
            time(NULL) - st.st_mtime < LEFT_S ||
            snprintf(addr.sun_path, sizeof(addr.sun_path), "%.*s%s", (int)(base - path), path,
                     e->d_name) >= (int)sizeof(addr.sun_path))
            continue;
        if (knock(&addr) == ECONNREFUSED)
            unlinkat(dirfd(d), e->d_name, 0);
    }
    if (d != NULL)
        closedir(d);
}

/* Never over a file that is there. Some file systems, such as NFS, do that with links only. */
static bool rename_new(const char *from, const char *to)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return true;
    return errno == EINVAL && link(from, to) == 0 && unlink(from) == 0;
}

int unix_socket_listen(const char *who, const char *path, int backlog)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct stat st;

    if (strlen(path) >= sizeof(addr.sun_path)) {
        fprintf(stderr, "%s: %s: too long a name for a socket\n", who, path);
        return -1;
    }
    strcpy(addr.sun_path, path);
    if (in_use(&addr)) {
        fprintf(stderr, "%s: %s: in use by another process\n", who, path);
        return -1;
    }
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
        unlink(path);
    remove_left(path);
    /* It gets its name when somebody listens: whoever waits for the name can connect. */
    const char *at = addr.sun_path;
    int n = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s.%d", path, (int)getpid());
    bool later = n > 0 && n < (int)sizeof(addr.sun_path);
    if (!later)
        strcpy(addr.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool bound = fd >= 0 && bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0;
    bool ready = bound && chmod(at, 0600) == 0 && listen(fd, backlog) == 0 &&
                 (!later || rename_new(at, path));
    if (!ready) {
        fprintf(stderr, "%s: %s: %s\n", who, path, strerror(errno));
        if (fd >= 0)
            close(fd);
    }
    if (bound && !ready)
        unlink(at);
    return ready ? fd : -1;
}
