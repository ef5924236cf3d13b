/* SPDX-License-Identifier: Apache-2.0 */
#include "net/internal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct net_child {
    uv_process_t uv;
    struct net_loop *loop;
    bool exited;
    void (*on_exit)(void *arg, int64_t code, int signal);
    void *arg;
};

/* The input as a file in memory: the child reads it at its own pace, meets its end, and neither
 * side can block or get SIGPIPE. */
static int input_file(const char *input)
{
    int fd = memfd_create("input", MFD_CLOEXEC);
    size_t len = input ? strlen(input) : 0;
    while (fd >= 0 && len > 0) {
        ssize_t n = write(fd, input, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            int why = errno;
            close(fd);
            errno = why;
            return -1;
        }
        input += n;
        len -= (size_t)n;
    }
    if (fd >= 0)
        lseek(fd, 0, SEEK_SET);
    return fd;
}

static void on_exit_uv(uv_process_t *uv, int64_t code, int number)
{
    struct net_child *child = uv->data;
    child->exited = true;
    child->on_exit(child->arg, code, number);
}

static void free_child(uv_handle_t *uv)
{
    free(uv->data);
}

static int spawn(struct net_child *child, const char *const *argv, int in)
{
    uv_stdio_container_t stdio[3] = {
        {.flags = UV_INHERIT_FD, .data.fd = in},
        {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO},
        {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO},
    };
    uv_process_options_t options = {
        .exit_cb = on_exit_uv,
        .file = argv[0],
        .args = (char **)argv,
        .stdio_count = 3,
        .stdio = stdio,
        /* A session of its own: Ctrl-C at the terminal goes to the parent alone, which ends its
         * children in order. */
        .flags = UV_PROCESS_DETACHED,
    };
    child->uv.data = child;
    return uv_spawn(net__loop_uv(child->loop), &child->uv, &options);
}

enum proto_status net_child_start(struct net_child **out, struct net_loop *loop,
                                  const char *const *argv, const char *input,
                                  void (*on_exit)(void *arg, int64_t code, int signal), void *arg,
                                  struct proto_error *error)
{
    *out = NULL;
    struct net_child *child = calloc(1, sizeof *child);
    if (!child)
        return proto_fail_nomem(error, sizeof *child, "a child process");
    child->loop = loop;
    child->on_exit = on_exit;
    child->arg = arg;
    int in = input_file(input);
    if (in < 0) {
        enum proto_status status =
            proto_fail_errno(error, errno, "cannot make the input of", argv[0]);
        free(child);
        return status;
    }
    int rc = spawn(child, argv, in);
    close(in);
    if (rc != 0) {
        uv_close((uv_handle_t *)&child->uv, free_child);
        return proto_fail_errno(error, -rc, "cannot start", argv[0]);
    }
    net__loop_hold(loop);
    *out = child;
    return PROTO_OK;
}

int net_child_pid(const struct net_child *child)
{
    return child->uv.pid;
}

void net_child_terminate(struct net_child *child)
{
    if (child && !child->exited)
        kill(-child->uv.pid, SIGTERM);
}

void net_child_destroy(struct net_child *child)
{
    if (!child)
        return;
    if (!child->exited) {
        kill(-child->uv.pid, SIGKILL);
        while (waitpid(child->uv.pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    net__loop_release(child->loop);
    uv_close((uv_handle_t *)&child->uv, free_child);
}
