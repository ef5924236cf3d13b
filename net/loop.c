/* SPDX-License-Identifier: Apache-2.0 */
#include "net/internal.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

struct post {
    void (*fn)(void *arg);
    void *arg;
    struct post *next;
};

struct net_loop {
    uv_loop_t uv;
    uv_async_t wake;
    bool has_uv, has_wake, has_lock, has_signals;
    void *zmq;
    struct net__socket *zap;
    atomic_uint held;
    atomic_bool stopped;

    pthread_mutex_t lock;
    struct post *first, **last; /* under lock */

    uv_signal_t signals[2];
    void (*on_terminate)(void *arg);
    void *terminate_arg;
};

struct net_timer {
    uv_timer_t uv;
    struct net_loop *loop;
    void (*fn)(void *arg);
    void *arg;
};

uv_loop_t *net__loop_uv(struct net_loop *loop)
{
    return &loop->uv;
}

void *net__loop_zmq(struct net_loop *loop)
{
    return loop->zmq;
}

void net__loop_hold(struct net_loop *loop)
{
    atomic_fetch_add(&loop->held, 1);
}

void net__loop_release(struct net_loop *loop)
{
    unsigned before = atomic_fetch_sub(&loop->held, 1);
    assert(before > 0);
    (void)before;
}

/* Runs what was posted up to now; what these post comes at the next turn. */
static bool run_posted(struct net_loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    struct post *post = loop->first;
    loop->first = NULL;
    loop->last = &loop->first;
    pthread_mutex_unlock(&loop->lock);
    bool any = post != NULL;
    while (post) {
        struct post *next = post->next;
        post->fn(post->arg);
        free(post);
        post = next;
    }
    return any;
}

static void on_wake(uv_async_t *wake)
{
    struct net_loop *loop = wake->data;
    run_posted(loop);
    if (atomic_load(&loop->stopped))
        uv_stop(&loop->uv);
}

static enum proto_status loop_init(struct net_loop *loop, struct proto_error *error)
{
    int rc = uv_loop_init(&loop->uv);
    loop->has_uv = rc == 0;
    if (rc == 0) {
        rc = uv_async_init(&loop->uv, &loop->wake, on_wake);
        loop->has_wake = rc == 0;
        loop->wake.data = loop;
    }
    if (rc == 0) {
        rc = -pthread_mutex_init(&loop->lock, NULL);
        loop->has_lock = rc == 0;
    }
    if (rc != 0)
        return proto_fail_errno(error, -rc, "cannot create", "an event loop");
    loop->zmq = zmq_ctx_new();
    if (!loop->zmq)
        return proto_fail_errno(error, errno, "cannot create", "a ZeroMQ context");
    return net__zap_create(&loop->zap, loop, error);
}

enum proto_status net_loop_create(struct net_loop **out, struct proto_error *error)
{
    *out = NULL;
    struct net_loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return proto_fail_nomem(error, sizeof *loop, "an event loop");
    loop->last = &loop->first;
    enum proto_status status = loop_init(loop, error);
    if (status != PROTO_OK) {
        net_loop_destroy(loop);
        return status;
    }
    *out = loop;
    return PROTO_OK;
}

void net_loop_run(struct net_loop *loop)
{
    while (!atomic_load(&loop->stopped))
        uv_run(&loop->uv, UV_RUN_DEFAULT);
}

void net_loop_stop(struct net_loop *loop)
{
    atomic_store(&loop->stopped, true);
    uv_async_send(&loop->wake);
}

void net_loop_destroy(struct net_loop *loop)
{
    if (!loop)
        return;
    while (loop->has_lock && run_posted(loop))
        ;
    net__socket_close(loop->zap, 0, NULL, NULL);
    if (loop->has_wake)
        uv_close((uv_handle_t *)&loop->wake, NULL);
    for (int i = 0; loop->has_signals && i < 2; i++)
        uv_close((uv_handle_t *)&loop->signals[i], NULL);
    assert(atomic_load(&loop->held) == 0);
    if (loop->has_uv) {
        while (uv_run(&loop->uv, UV_RUN_DEFAULT) != 0)
            ;
        uv_loop_close(&loop->uv);
    }
    /* Waits for messages that linger. */
    while (loop->zmq && zmq_ctx_term(loop->zmq) != 0 && errno == EINTR)
        ;
    if (loop->has_lock)
        pthread_mutex_destroy(&loop->lock);
    free(loop);
}

enum proto_status net_loop_post(struct net_loop *loop, void (*fn)(void *arg), void *arg)
{
    struct post *post = malloc(sizeof *post);
    if (!post)
        return PROTO_NOMEM;
    *post = (struct post){fn, arg, NULL};
    pthread_mutex_lock(&loop->lock);
    *loop->last = post;
    loop->last = &post->next;
    pthread_mutex_unlock(&loop->lock);
    uv_async_send(&loop->wake);
    return PROTO_OK;
}

uint64_t net_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void on_timer(uv_timer_t *uv)
{
    struct net_timer *timer = uv->data;
    timer->fn(timer->arg);
}

enum proto_status net_timer_create(struct net_timer **out, struct net_loop *loop,
                                   uint64_t period_ms, void (*fn)(void *arg), void *arg,
                                   struct proto_error *error)
{
    *out = NULL;
    struct net_timer *timer = calloc(1, sizeof *timer);
    if (!timer)
        return proto_fail_nomem(error, sizeof *timer, "a timer");
    timer->loop = loop;
    timer->fn = fn;
    timer->arg = arg;
    uv_timer_init(&loop->uv, &timer->uv);
    timer->uv.data = timer;
    /* libuv counts from its idea of now, which is old if this turn took long. */
    uv_update_time(&loop->uv);
    uint64_t period = period_ms ? period_ms : 1;
    uv_timer_start(&timer->uv, on_timer, period, period);
    net__loop_hold(loop);
    *out = timer;
    return PROTO_OK;
}

static void free_timer(uv_handle_t *uv)
{
    free(uv->data);
}

void net_timer_destroy(struct net_timer *timer)
{
    if (!timer)
        return;
    net__loop_release(timer->loop);
    uv_close((uv_handle_t *)&timer->uv, free_timer);
}

static void on_signal(uv_signal_t *uv, int number)
{
    (void)number;
    struct net_loop *loop = uv->data;
    loop->on_terminate(loop->terminate_arg);
}

enum proto_status net_loop_on_terminate(struct net_loop *loop, void (*fn)(void *arg), void *arg,
                                        struct proto_error *error)
{
    static const int numbers[] = {SIGINT, SIGTERM};
    loop->on_terminate = fn;
    loop->terminate_arg = arg;
    if (loop->has_signals)
        return PROTO_OK;
    for (int i = 0; i < 2; i++) {
        uv_signal_init(&loop->uv, &loop->signals[i]);
        loop->signals[i].data = loop;
    }
    loop->has_signals = true;
    for (int i = 0; i < 2; i++) {
        int rc = uv_signal_start(&loop->signals[i], on_signal, numbers[i]);
        if (rc != 0)
            return proto_fail_errno(error, -rc, "cannot handle", "signals");
    }
    return PROTO_OK;
}
