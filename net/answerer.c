/* SPDX-License-Identifier: Apache-2.0 */
#include "net/answerer.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "proto/log.h"

/* Several times what all workers of a cluster ask ahead. */
#define WAITING_MOST 16384u

/* Of the thread: who computes comes first. */
#define NICE 10

struct order {
    struct order *next;
    struct net_answerer *answerer;
    struct net_link *link;
    net_peer from;
    uint8_t key[PROTO_KEY_BYTES];
    struct proto_msg question, answer;
    struct net_payload *payload;
};

struct net_answerer {
    struct net_answerer_options options;
    struct net_loop *loop;
    pthread_t thread;
    pthread_mutex_t mutex; /* over what follows */
    pthread_cond_t changed;
    bool stopping;
    struct order *first, **last;
    unsigned waiting;
    unsigned posted; /* answers that the loop still holds, and that hold the answerer */
};

static void order_destroy(struct order *order)
{
    net_payload_destroy(order->payload);
    free(order);
}

static void answerer_free(struct net_answerer *answerer)
{
    pthread_cond_destroy(&answerer->changed);
    pthread_mutex_destroy(&answerer->mutex);
    free(answerer);
}

/* On the loop's thread. */
static void send_answer(void *arg)
{
    struct order *order = arg;
    struct net_answerer *answerer = order->answerer;
    struct proto_error error;
    pthread_mutex_lock(&answerer->mutex);
    bool over = answerer->stopping, last = --answerer->posted == 0;
    pthread_mutex_unlock(&answerer->mutex);
    if (!over && answerer->options.complete)
        answerer->options.complete(answerer->options.arg, order->key, &order->answer);
    if (!over && net_link_send(order->link, order->from, &order->answer, &order->payload, &error))
        proto_log(PROTO_LOG_DEBUG, "NET-ANSWER-LOST", "error=\"%s\"", error.text);
    if (over && last)
        answerer_free(answerer);
    order_destroy(order);
}

/* On the answerer's thread. */
static void post_answer(struct net_answerer *answerer, struct order *order)
{
    pthread_mutex_lock(&answerer->mutex);
    answerer->posted++;
    pthread_mutex_unlock(&answerer->mutex);
    if (net_loop_post(answerer->loop, send_answer, order) == PROTO_OK)
        return;
    pthread_mutex_lock(&answerer->mutex);
    answerer->posted--;
    pthread_mutex_unlock(&answerer->mutex);
    order_destroy(order);
}

static struct order *next_order(struct net_answerer *answerer)
{
    pthread_mutex_lock(&answerer->mutex);
    while (!answerer->first && !answerer->stopping)
        pthread_cond_wait(&answerer->changed, &answerer->mutex);
    struct order *order = answerer->stopping ? NULL : answerer->first;
    if (order) {
        answerer->first = order->next;
        answerer->waiting--;
        if (!answerer->first)
            answerer->last = &answerer->first;
    }
    pthread_mutex_unlock(&answerer->mutex);
    return order;
}

static void *answerer_main(void *arg)
{
    struct net_answerer *answerer = arg;
    const struct net_answerer_options *o = &answerer->options;
    struct order *order;
    /* Of this thread alone, in Linux; without it, answers only come at the cost of others. */
    (void)setpriority(PRIO_PROCESS, 0, NICE);
    while ((order = next_order(answerer))) {
        struct proto_error error;
        enum proto_status status =
            o->answer(o->arg, &order->question, &order->answer, &order->payload, &error);
        if (status != PROTO_OK)
            proto_log(PROTO_LOG_WARN, "NET-UNANSWERED", "kind=%s error=\"%s\"",
                      proto_kind_name(order->question.kind), error.text);
        if (status == PROTO_OK)
            post_answer(answerer, order);
        else
            order_destroy(order);
    }
    return NULL;
}

enum proto_status net_answerer_create(struct net_answerer **out, struct net_loop *loop,
                                      const struct net_answerer_options *options,
                                      struct proto_error *error)
{
    *out = NULL;
    struct net_answerer *answerer = calloc(1, sizeof *answerer);
    if (!answerer)
        return proto_fail_nomem(error, sizeof *answerer, options->name);
    answerer->options = *options;
    answerer->loop = loop;
    answerer->last = &answerer->first;
    pthread_mutex_init(&answerer->mutex, NULL);
    pthread_cond_init(&answerer->changed, NULL);
    int rc = pthread_create(&answerer->thread, NULL, answerer_main, answerer);
    if (rc) {
        answerer_free(answerer);
        return proto_fail_errno(error, rc, "start", options->name);
    }
    *out = answerer;
    return PROTO_OK;
}

void net_answerer_destroy(struct net_answerer *answerer)
{
    if (!answerer)
        return;
    pthread_mutex_lock(&answerer->mutex);
    answerer->stopping = true;
    pthread_cond_signal(&answerer->changed);
    pthread_mutex_unlock(&answerer->mutex);
    pthread_join(answerer->thread, NULL);
    while (answerer->first) {
        struct order *order = answerer->first;
        answerer->first = order->next;
        order_destroy(order);
    }
    /* Else the last of what is posted frees it. */
    if (answerer->posted == 0)
        answerer_free(answerer);
}

void net_answerer_ask(struct net_answerer *answerer, struct net_link *link, net_peer from,
                      const uint8_t key[PROTO_KEY_BYTES], const struct proto_msg *question)
{
    struct order *order = calloc(1, sizeof *order);
    if (!order)
        return;
    *order =
        (struct order){.answerer = answerer, .link = link, .from = from, .question = *question};
    memcpy(order->key, key, PROTO_KEY_BYTES);
    pthread_mutex_lock(&answerer->mutex);
    bool room = answerer->waiting < WAITING_MOST;
    if (room) {
        *answerer->last = order;
        answerer->last = &order->next;
        answerer->waiting++;
        pthread_cond_signal(&answerer->changed);
    }
    pthread_mutex_unlock(&answerer->mutex);
    if (room)
        return;
    proto_log(PROTO_LOG_WARN, "NET-UNANSWERED", "kind=%s error=\"%u others wait\"",
              proto_kind_name(question->kind), WAITING_MOST);
    free(order);
}
