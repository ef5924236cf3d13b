/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/log.h"
#include "worker/fetch_parts.h"

/* A question on its way to the loop's thread. */
struct question {
    struct fetch_source *source;
    struct proto_msg msg;
};

static void fill_places(struct fetch_answer *answer, const struct proto_hashes *hashes)
{
    for (uint32_t i = 0; i < hashes->n_sources; i++) {
        struct fetch_place *place = &answer->sources[answer->n_sources];
        int len =
            snprintf(place->endpoint, sizeof place->endpoint, "%s", hashes->sources[i].endpoint);
        memcpy(place->key, hashes->sources[i].key, PROTO_KEY_BYTES);
        if (len > 0 && (size_t)len < sizeof place->endpoint)
            answer->n_sources++;
    }
}

void fetch__push(struct worker_fetcher *fetcher, unsigned source, enum proto_kind kind,
                 const struct proto_chunk *about, struct net_payload **payload,
                 const struct proto_hashes *hashes)
{
    struct fetch_answer *answer = NULL;
    size_t places = hashes ? hashes->n_sources : 0;
    if (about->epoch == fetcher->options.epoch)
        answer = malloc(sizeof *answer + places * sizeof *answer->sources);
    if (!answer) {
        net_payload_destroy(payload ? *payload : NULL);
    } else {
        *answer = (struct fetch_answer){
            .source = source, .kind = kind, .about = *about, .payload = payload ? *payload : NULL};
        if (hashes)
            fill_places(answer, hashes);
        pthread_mutex_lock(&fetcher->mutex);
        *fetcher->last = answer;
        fetcher->last = &answer->next;
        pthread_cond_signal(&fetcher->changed);
        pthread_mutex_unlock(&fetcher->mutex);
    }
    if (payload)
        *payload = NULL;
}

static unsigned number_of(const struct fetch_source *source)
{
    return (unsigned)(source - source->fetcher->sources);
}

static void push_lost(struct fetch_source *source)
{
    const struct proto_chunk about = {.epoch = source->fetcher->options.epoch};
    fetch__push(source->fetcher, number_of(source), PROTO_MSG_BYE, &about, NULL, NULL);
}

static void on_chunk(void *arg, net_peer from, const uint8_t *key, struct proto_msg *msg,
                     struct net_payload **payload)
{
    struct fetch_source *source = arg;
    (void)from, (void)key;
    if (msg->kind == PROTO_MSG_CHUNK)
        fetch__push(source->fetcher, number_of(source), PROTO_MSG_CHUNK, &msg->chunk, payload,
                    NULL);
}

static void on_bad(void *arg, net_peer from, const uint8_t *key, const struct proto_error *error)
{
    (void)from, (void)key, (void)error;
    push_lost(arg);
}

/* A question has left the loop; frees the fetcher with the last one if it is over. */
static void unpost(struct worker_fetcher *fetcher)
{
    pthread_mutex_lock(&fetcher->mutex);
    bool last = --fetcher->posted == 0 && fetcher->over;
    pthread_mutex_unlock(&fetcher->mutex);
    if (last)
        fetch__free(fetcher);
}

/* On the loop's thread. */
static void send_question(void *arg)
{
    struct question *question = arg;
    struct fetch_source *source = question->source;
    struct worker_fetcher *fetcher = source->fetcher;
    const struct net_link_handler handler = {
        .on_message = on_chunk, .on_bad = on_bad, .arg = source};
    struct proto_error error;
    enum proto_status status = PROTO_OK;
    if (!fetcher->closed && !source->link)
        status = net_link_connect(&source->link, fetcher->options.loop, source->endpoint,
                                  fetcher->options.own, source->key, &handler, &error);
    if (!fetcher->closed && status == PROTO_OK)
        status = net_link_send(source->link, 0, &question->msg, NULL, &error);
    if (status != PROTO_OK) {
        proto_log(PROTO_LOG_DEBUG, "WORKER-FETCH-SEND", "error=\"%s\"", error.text);
        push_lost(source);
    }
    free(question);
    unpost(fetcher);
}

enum proto_status fetch__ask_worker(struct fetch_source *source, const struct proto_fetch *fetch,
                                    struct proto_error *error)
{
    struct worker_fetcher *fetcher = source->fetcher;
    struct question *question = malloc(sizeof *question);
    if (!question)
        return proto_fail_nomem(error, sizeof *question, "a message");
    *question =
        (struct question){.source = source, .msg = {.kind = PROTO_MSG_FETCH, .fetch = *fetch}};
    memcpy(question->msg.fetch.proof, fetcher->proof, PROTO_KEY_BYTES);
    pthread_mutex_lock(&fetcher->mutex);
    fetcher->posted++;
    pthread_mutex_unlock(&fetcher->mutex);
    if (net_loop_post(fetcher->options.loop, send_question, question) != PROTO_OK) {
        free(question);
        unpost(fetcher);
        return proto_fail_nomem(error, sizeof *question, "a message");
    }
    return PROTO_OK;
}

void fetch__close_links(struct worker_fetcher *fetcher)
{
    for (unsigned i = 0; i < FETCH_SOURCES_MOST; i++) {
        net_link_destroy(fetcher->sources[i].link, 0);
        fetcher->sources[i].link = NULL;
    }
}
