/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/fetch.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* More than any loader asks for ahead. */
#define MAX_OUTSTANDING 64u

struct answer {
    struct answer *next;
    enum proto_kind kind; /* HASHES or CHUNK */
    struct proto_chunk about;
    struct net_payload *payload;
};

struct worker_fetcher {
    struct worker_fetcher_options options;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct answer *first, **last;
    struct proto_error failure; /* status OK: none */
    /* The loading thread's own. */
    struct proto_fetch asked[MAX_OUTSTANDING];
    unsigned asked_first, asked_count;
    struct net_payload *given; /* what the last receive returned */
};

enum proto_status worker_fetcher_create(struct worker_fetcher **out,
                                        const struct worker_fetcher_options *options,
                                        struct proto_error *error)
{
    struct worker_fetcher *fetcher = calloc(1, sizeof *fetcher);
    if (!fetcher)
        return proto_fail_nomem(error, sizeof *fetcher, "fetching weights");
    fetcher->options = *options;
    fetcher->last = &fetcher->first;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&fetcher->mutex, NULL);
    pthread_cond_init(&fetcher->changed, &attr);
    pthread_condattr_destroy(&attr);
    *out = fetcher;
    return PROTO_OK;
}

void worker_fetcher_destroy(struct worker_fetcher *fetcher)
{
    if (!fetcher)
        return;
    while (fetcher->first) {
        struct answer *answer = fetcher->first;
        fetcher->first = answer->next;
        net_payload_destroy(answer->payload);
        free(answer);
    }
    net_payload_destroy(fetcher->given);
    pthread_cond_destroy(&fetcher->changed);
    pthread_mutex_destroy(&fetcher->mutex);
    free(fetcher);
}

static void push_answer(struct worker_fetcher *fetcher, enum proto_kind kind,
                        const struct proto_chunk *about, struct net_payload **payload)
{
    struct answer *answer = about->epoch == fetcher->options.epoch ? malloc(sizeof *answer) : NULL;
    if (answer) {
        *answer = (struct answer){.kind = kind, .about = *about, .payload = *payload};
        pthread_mutex_lock(&fetcher->mutex);
        *fetcher->last = answer;
        fetcher->last = &answer->next;
        pthread_cond_signal(&fetcher->changed);
        pthread_mutex_unlock(&fetcher->mutex);
    } else {
        net_payload_destroy(*payload);
    }
    *payload = NULL;
}

void worker_fetcher_hashes(struct worker_fetcher *fetcher, const struct proto_hashes *hashes,
                           struct net_payload **payload)
{
    struct proto_chunk about = {.epoch = hashes->epoch, .tensor = hashes->tensor};
    push_answer(fetcher, PROTO_MSG_HASHES, &about, payload);
}

void worker_fetcher_chunk(struct worker_fetcher *fetcher, const struct proto_chunk *chunk,
                          struct net_payload **payload)
{
    push_answer(fetcher, PROTO_MSG_CHUNK, chunk, payload);
}

void worker_fetcher_fail(struct worker_fetcher *fetcher, const struct proto_error *error)
{
    pthread_mutex_lock(&fetcher->mutex);
    if (fetcher->failure.status == PROTO_OK)
        fetcher->failure = *error;
    pthread_cond_signal(&fetcher->changed);
    pthread_mutex_unlock(&fetcher->mutex);
}

static struct timespec deadline_after(uint32_t ms)
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

/* The next answer, which the caller owns. */
static enum proto_status wait_answer(struct worker_fetcher *fetcher, struct answer **out,
                                     struct proto_error *error)
{
    struct timespec deadline = deadline_after(fetcher->options.deadline_ms);
    int rc = 0;
    pthread_mutex_lock(&fetcher->mutex);
    while (!fetcher->first && fetcher->failure.status == PROTO_OK && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&fetcher->changed, &fetcher->mutex, &deadline);
    struct answer *answer = fetcher->first;
    if (answer) {
        fetcher->first = answer->next;
        if (!fetcher->first)
            fetcher->last = &fetcher->first;
    }
    struct proto_error failure = fetcher->failure;
    pthread_mutex_unlock(&fetcher->mutex);
    *out = answer;
    if (answer)
        return PROTO_OK;
    if (failure.status != PROTO_OK)
        return proto_fail(error, failure.status, "%s", failure.text);
    return proto_fail(error, PROTO_TIMEOUT,
                      "no weights arrived from the coordinator for %u s; is its disk or the "
                      "network stuck?",
                      fetcher->options.deadline_ms / 1000);
}

static void answer_destroy(struct answer *answer)
{
    net_payload_destroy(answer->payload);
    free(answer);
}

static enum proto_status fetch_hashes(void *arg, uint32_t tensor, uint8_t *hashes,
                                      uint64_t n_pieces, struct proto_error *error)
{
    struct worker_fetcher *fetcher = arg;
    struct proto_msg msg = {.kind = PROTO_MSG_WANT,
                            .want = {.epoch = fetcher->options.epoch, .tensor = tensor}};
    enum proto_status status = fetcher->options.send(fetcher->options.arg, &msg, error);
    struct answer *answer = NULL;
    if (status == PROTO_OK)
        status = wait_answer(fetcher, &answer, error);
    if (status != PROTO_OK)
        return status;
    size_t expected = n_pieces * PROTO_HASH_BYTES;
    size_t found = answer->payload ? net_payload_len(answer->payload) : 0;
    if (answer->kind != PROTO_MSG_HASHES || answer->about.tensor != tensor || found != expected)
        status = proto_fail(error, PROTO_FORMAT,
                            "hashes of tensor %u: expected %zu bytes from the coordinator, found "
                            "%zu of tensor %u",
                            tensor, expected, found, answer->about.tensor);
    else if (expected)
        memcpy(hashes, net_payload_data(answer->payload), expected);
    answer_destroy(answer);
    return status;
}

static enum proto_status fetch_request(void *arg, uint32_t tensor, uint64_t piece, uint64_t offset,
                                       uint32_t bytes, struct proto_error *error)
{
    struct worker_fetcher *fetcher = arg;
    if (fetcher->asked_count == MAX_OUTSTANDING)
        return proto_fail(error, PROTO_LIMIT, "more than %u chunks asked for ahead",
                          MAX_OUTSTANDING);
    struct proto_msg msg = {.kind = PROTO_MSG_FETCH,
                            .fetch = {.epoch = fetcher->options.epoch,
                                      .tensor = tensor,
                                      .piece = piece,
                                      .offset = offset,
                                      .bytes = bytes}};
    enum proto_status status = fetcher->options.send(fetcher->options.arg, &msg, error);
    if (status == PROTO_OK)
        fetcher->asked[(fetcher->asked_first + fetcher->asked_count++) % MAX_OUTSTANDING] =
            msg.fetch;
    return status;
}

static enum proto_status fetch_receive(void *arg, const void **data, size_t *len,
                                       struct proto_error *error)
{
    struct worker_fetcher *fetcher = arg;
    struct answer *answer = NULL;
    enum proto_status status = wait_answer(fetcher, &answer, error);
    if (status != PROTO_OK)
        return status;
    const struct proto_fetch *asked = &fetcher->asked[fetcher->asked_first];
    size_t found = answer->payload ? net_payload_len(answer->payload) : 0;
    if (fetcher->asked_count == 0 || answer->kind != PROTO_MSG_CHUNK ||
        answer->about.tensor != asked->tensor || answer->about.piece != asked->piece ||
        answer->about.offset != asked->offset || found != asked->bytes) {
        status = proto_fail(error, PROTO_FORMAT,
                            "the coordinator sent %zu bytes of tensor %u, piece %llu: not what was "
                            "asked for",
                            found, answer->about.tensor, (unsigned long long)answer->about.piece);
        answer_destroy(answer);
        return status;
    }
    fetcher->asked_first = (fetcher->asked_first + 1) % MAX_OUTSTANDING;
    fetcher->asked_count--;
    net_payload_destroy(fetcher->given);
    fetcher->given = answer->payload;
    *data = net_payload_data(fetcher->given);
    *len = found;
    free(answer);
    return PROTO_OK;
}

struct worker_fetch worker_fetcher_calls(struct worker_fetcher *fetcher)
{
    return (struct worker_fetch){
        .hashes = fetch_hashes, .request = fetch_request, .receive = fetch_receive, .arg = fetcher};
}
