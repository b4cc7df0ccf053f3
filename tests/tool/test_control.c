/* SPDX-License-Identifier: BSD-2-Clause */
/* The control socket when the process has no descriptor left for a client. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "control_socket.h"
#include "run_options.h"

char run_who[RUN_WHO_BYTES] = "test";

#define LONG_MS 60000 /* which only a bug takes */

static struct json_object *hello(void *ctx, struct json_object *params, const char **message)
{
    (void)ctx;
    (void)params;
    (void)message;
    return json_object_new_string("hello");
}

/* One turn of the loop that serves the socket; how many descriptors were ready. */
static int turn(struct control *c, int timeout_ms)
{
    struct pollfd fds[CONTROL_MAX_CLIENTS + 1];
    nfds_t n = control_poll_fds(c, fds);
    int ready = poll(fds, n, timeout_ms);

    control_handle(c, fds, n);
    return ready;
}

static void no_descriptor_is_no_reason_to_spin(void **state)
{
    static const char ask[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"hello\"}\n";
    const struct rpc_method method = {.name = "hello", .call = hello};
    const struct rpc_server server = {.methods = &method, .count = 1};
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    struct rlimit usual, none;
    char dir[] = "/tmp/test_control.XXXXXX", reply[256];

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/s", dir);
    struct control *c = control_open(sa.sun_path, &server);
    assert_non_null(c);
    int client = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(client, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(send(client, ask, strlen(ask), 0), (ssize_t)strlen(ask));

    int lowest = fcntl(client, F_DUPFD, 0); /* no descriptor from here on */
    assert_true(lowest >= 0);
    close(lowest);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &usual), 0);
    none = (struct rlimit){.rlim_cur = (rlim_t)lowest, .rlim_max = usual.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    int tried = turn(c, LONG_MS), after = turn(c, 0);
    int later = turn(c, LONG_MS), again = turn(c, 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &usual), 0);
    assert_int_equal(tried, 1);
    assert_int_equal(after, 0); /* the client waits, and the loop sleeps */
    assert_int_equal(later, 1); /* then it tries once more */
    assert_int_equal(again, 0);

    ssize_t n = -1;
    for (unsigned i = 0; i < 10 && n < 0; i++) { /* accept, receive and answer */
        assert_int_equal(turn(c, LONG_MS), 1);
        n = recv(client, reply, sizeof(reply) - 1, MSG_DONTWAIT);
    }
    assert_true(n > 0);
    reply[n] = '\0';
    assert_non_null(strstr(reply, "\"hello\""));
    close(client);
    control_close(c);
    assert_int_equal(rmdir(dir), 0);
}

/* What a process made that was killed before it listened is removed by the next one; nothing else. */
static void sockets_of_the_dead_are_removed(void **state)
{
    static const struct {
        const char *name;
        bool old, listens, stays;
    } left[] = {
        {"s.1", true, false, false}, {"s.2", false, false, true}, {"s.3", true, true, true},
        {"s.4x", true, false, true}, {"t.5", true, false, true},  {"s.", true, false, true},
    };
    const struct timespec past[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    const struct rpc_server server = {.count = 0};
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    char dir[] = "/tmp/test_control.XXXXXX";
    int fd[6];

    (void)state;
    assert_non_null(mkdtemp(dir));
    for (unsigned i = 0; i < 6; i++) {
        snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/%s", dir, left[i].name);
        fd[i] = socket(AF_UNIX, SOCK_STREAM, 0);
        assert_int_equal(bind(fd[i], (struct sockaddr *)&sa, sizeof(sa)), 0);
        if (left[i].listens)
            assert_int_equal(listen(fd[i], 1), 0);
        if (left[i].old)
            assert_int_equal(utimensat(AT_FDCWD, sa.sun_path, past, 0), 0);
    }
    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/s", dir);
    struct control *c = control_open(sa.sun_path, &server);
    assert_non_null(c);
    for (unsigned i = 0; i < 6; i++) {
        snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/%s", dir, left[i].name);
        assert_int_equal(unlink(sa.sun_path), left[i].stays ? 0 : -1);
        close(fd[i]);
    }
    control_close(c);
    assert_int_equal(rmdir(dir), 0);
}

/* The answer to a request, as text; NULL: there is none. */
static char *answer(const char *request)
{
    const struct rpc_method method = {.name = "hello", .call = hello};
    const struct rpc_server server = {.methods = &method, .count = 1};
    struct json_object *q = json_tokener_parse(request), *r = rpc_answer(&server, q);
    char *text = r != NULL ? strdup(json_object_to_json_string(r)) : NULL;

    json_object_put(q);
    json_object_put(r);
    return text;
}

static void notifications_are_not_answered(void **state)
{
    static const struct {
        const char *rest, *in_answer;
    } requests[] = {
        {"\"method\":\"hello\"", "hello"},
        {"\"method\":\"no\"", "not found"},
        {"\"method\":\"hello\",\"params\":1", "params"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
        char request[256];
        snprintf(request, sizeof(request), "{\"jsonrpc\":\"2.0\",%s}", requests[i].rest);
        assert_null(answer(request));
        snprintf(request, sizeof(request), "{\"jsonrpc\":\"2.0\",\"id\":1,%s}", requests[i].rest);
        char *text = answer(request);
        assert_non_null(text);
        assert_non_null(strstr(text, requests[i].in_answer));
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_descriptor_is_no_reason_to_spin),
        cmocka_unit_test(sockets_of_the_dead_are_removed),
        cmocka_unit_test(notifications_are_not_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
