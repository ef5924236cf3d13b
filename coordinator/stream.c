/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Logits that wait to be read beyond this hold back the batches that would bring more. */
#define FULL_BYTES (64u << 20)

struct node {
    struct node *next;
    struct coord_event event;
    size_t logits_bytes;
    float logits[];
};

struct coord_stream {
    struct coord_engine *engine;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct node *first, **last;
    struct node *given; /* what the last next returned */
    size_t queued_bytes;
    coord_event_fn *on_event; /* takes the events in place of the queue; NULL: they are queued */
    void *user;
    unsigned refs;
    bool abandoned, ended;
};

enum proto_status engine__stream_create(struct coord_stream **out, struct coord_engine *e,
                                        const struct coord_request *request,
                                        struct proto_error *error)
{
    struct coord_stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return proto_fail_nomem(error, sizeof *stream, "a stream");
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&stream->mutex, NULL);
    pthread_cond_init(&stream->changed, &attr);
    pthread_condattr_destroy(&attr);
    stream->engine = e;
    stream->on_event = request->on_event;
    stream->user = request->user;
    stream->last = &stream->first;
    stream->refs = 2;
    *out = stream;
    return PROTO_OK;
}

void engine__stream_unref(struct coord_stream *stream)
{
    pthread_mutex_lock(&stream->mutex);
    unsigned left = --stream->refs;
    pthread_mutex_unlock(&stream->mutex);
    if (left)
        return;
    while (stream->first) {
        struct node *node = stream->first;
        stream->first = node->next;
        free(node);
    }
    free(stream->given);
    pthread_cond_destroy(&stream->changed);
    pthread_mutex_destroy(&stream->mutex);
    free(stream);
}

static bool ends(const struct coord_event *event)
{
    return event->kind == COORD_EVENT_DONE || event->kind == COORD_EVENT_FAILED;
}

/* Under the lock, so that nothing comes once the stream has been given up. */
static void hand_over(struct coord_stream *stream, const struct coord_event *event)
{
    pthread_mutex_lock(&stream->mutex);
    if (!stream->abandoned && !stream->ended) {
        stream->abandoned = !stream->on_event(stream->user, event);
        stream->ended = ends(event);
    }
    pthread_mutex_unlock(&stream->mutex);
}

bool engine__stream_push(struct coord_stream *stream, const struct coord_event *event,
                         const void *logits, size_t logits_bytes)
{
    if (stream->on_event) {
        hand_over(stream, event);
        return true;
    }
    struct node *node = malloc(sizeof *node + logits_bytes);
    if (!node)
        return false;
    *node = (struct node){.event = *event, .logits_bytes = logits_bytes};
    if (logits_bytes) {
        memcpy(node->logits, logits, logits_bytes);
        node->event.logits = node->logits;
    }
    pthread_mutex_lock(&stream->mutex);
    *stream->last = node;
    stream->last = &node->next;
    stream->queued_bytes += logits_bytes;
    pthread_cond_signal(&stream->changed);
    pthread_mutex_unlock(&stream->mutex);
    return true;
}

bool engine__stream_abandoned(struct coord_stream *stream)
{
    pthread_mutex_lock(&stream->mutex);
    bool abandoned = stream->abandoned;
    pthread_mutex_unlock(&stream->mutex);
    return abandoned;
}

bool engine__stream_full(struct coord_stream *stream)
{
    pthread_mutex_lock(&stream->mutex);
    bool full = stream->queued_bytes > FULL_BYTES;
    pthread_mutex_unlock(&stream->mutex);
    return full;
}

static struct timespec deadline_after(int ms)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += ms / 1000;
    at.tv_nsec += (long)(ms % 1000) * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    return at;
}

static void schedule_again(void *arg)
{
    engine__schedule(arg);
}

bool coord_stream_next(struct coord_stream *stream, struct coord_event *event, int timeout_ms)
{
    struct timespec deadline = deadline_after(timeout_ms < 0 ? 0 : timeout_ms);
    int rc = 0;
    pthread_mutex_lock(&stream->mutex);
    free(stream->given);
    stream->given = NULL;
    while (!stream->first && !stream->ended && rc != ETIMEDOUT)
        rc = timeout_ms < 0 ? pthread_cond_wait(&stream->changed, &stream->mutex)
                            : pthread_cond_timedwait(&stream->changed, &stream->mutex, &deadline);
    struct node *node = stream->first;
    bool was_full = stream->queued_bytes > FULL_BYTES, is_full = was_full;
    if (node) {
        stream->first = node->next;
        if (!stream->first)
            stream->last = &stream->first;
        stream->queued_bytes -= node->logits_bytes;
        is_full = stream->queued_bytes > FULL_BYTES;
        stream->given = node;
        stream->ended = ends(&node->event);
        *event = node->event;
    }
    pthread_mutex_unlock(&stream->mutex);
    if (was_full && !is_full)
        net_loop_post(stream->engine->loop, schedule_again, stream->engine);
    return node != NULL;
}

void coord_stream_destroy(struct coord_stream *stream)
{
    if (!stream)
        return;
    struct coord_engine *engine = stream->engine;
    pthread_mutex_lock(&stream->mutex);
    stream->abandoned = true;
    bool ended = stream->ended;
    pthread_mutex_unlock(&stream->mutex);
    engine__stream_unref(stream);
    /* The scheduler finds the abandoned sequence and frees its slot. */
    if (!ended)
        net_loop_post(engine->loop, schedule_again, engine);
}
