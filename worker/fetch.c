/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/fetch_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "net/keys.h"
#include "proto/log.h"

#define SILENCE_MS 3000u
#define LOOK_MS    100u /* between two looks for who is silent */

enum proto_status worker_fetcher_create(struct worker_fetcher **out,
                                        const struct worker_fetcher_options *options,
                                        struct proto_error *error)
{
    struct worker_fetcher *fetcher = calloc(1, sizeof *fetcher);
    if (!fetcher)
        return proto_fail_nomem(error, sizeof *fetcher, "fetching weights");
    fetcher->options = *options;
    if (!fetcher->options.silence_ms)
        fetcher->options.silence_ms = SILENCE_MS;
    fetcher->last = &fetcher->first;
    fetcher->n_sources = 1;
    fetcher->alone = -1;
    shard_tag_key(fetcher->tag_key);
    if (options->loop)
        net_proof_make(fetcher->proof, options->secret, options->own->public_key);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&fetcher->mutex, NULL);
    pthread_cond_init(&fetcher->changed, &attr);
    pthread_condattr_destroy(&attr);
    *out = fetcher;
    return PROTO_OK;
}

void worker_fetcher_close(struct worker_fetcher *fetcher)
{
    if (!fetcher || fetcher->closed)
        return;
    fetcher->closed = true;
    fetch__close_links(fetcher);
}

static void answer_destroy(struct fetch_answer *answer)
{
    net_payload_destroy(answer->payload);
    free(answer);
}

void worker_fetcher_destroy(struct worker_fetcher *fetcher)
{
    if (!fetcher)
        return;
    pthread_mutex_lock(&fetcher->mutex);
    fetcher->over = true;
    bool last = fetcher->posted == 0;
    pthread_mutex_unlock(&fetcher->mutex);
    if (last)
        fetch__free(fetcher);
}

void fetch__free(struct worker_fetcher *fetcher)
{
    while (fetcher->first) {
        struct fetch_answer *answer = fetcher->first;
        fetcher->first = answer->next;
        answer_destroy(answer);
    }
    for (unsigned i = 0; i < fetcher->n_chunks; i++)
        net_payload_destroy(fetch__chunk(fetcher, i)->payload);
    net_payload_destroy(fetcher->given);
    free(fetcher->holders);
    pthread_cond_destroy(&fetcher->changed);
    pthread_mutex_destroy(&fetcher->mutex);
    free(fetcher);
}

void worker_fetcher_hashes(struct worker_fetcher *fetcher, const struct proto_hashes *hashes,
                           struct net_payload **payload)
{
    struct proto_chunk about = {.epoch = hashes->epoch, .tensor = hashes->tensor};
    fetch__push(fetcher, FETCH_COORDINATOR, PROTO_MSG_HASHES, &about, payload, hashes);
}

void worker_fetcher_chunk(struct worker_fetcher *fetcher, const struct proto_chunk *chunk,
                          struct net_payload **payload)
{
    fetch__push(fetcher, FETCH_COORDINATOR, PROTO_MSG_CHUNK, chunk, payload, NULL);
}

void worker_fetcher_fail(struct worker_fetcher *fetcher, const struct proto_error *error)
{
    pthread_mutex_lock(&fetcher->mutex);
    if (fetcher->failure.status == PROTO_OK)
        fetcher->failure = *error;
    pthread_cond_signal(&fetcher->changed);
    pthread_mutex_unlock(&fetcher->mutex);
}

static struct timespec soon(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_nsec += LOOK_MS * 1000000l;
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    return at;
}

/* The next answer, which the caller owns; NULL where none came soon. */
static enum proto_status next_answer(struct worker_fetcher *fetcher, struct fetch_answer **out,
                                     struct proto_error *error)
{
    struct timespec deadline = soon();
    int rc = 0;
    pthread_mutex_lock(&fetcher->mutex);
    while (!fetcher->first && fetcher->failure.status == PROTO_OK && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&fetcher->changed, &fetcher->mutex, &deadline);
    struct fetch_answer *answer = fetcher->first;
    if (answer) {
        fetcher->first = answer->next;
        if (!fetcher->first)
            fetcher->last = &fetcher->first;
    }
    struct proto_error failure = fetcher->failure;
    pthread_mutex_unlock(&fetcher->mutex);
    *out = answer;
    return answer || failure.status == PROTO_OK
               ? PROTO_OK
               : proto_fail(error, failure.status, "%s", failure.text);
}

/* Waits for an answer and takes it, or looks who is silent. One to WANT goes to *hashes, which may
 * be NULL, and is the caller's. */
static enum proto_status step(struct worker_fetcher *fetcher, struct fetch_answer **hashes,
                              struct proto_error *error)
{
    struct fetch_answer *answer;
    enum proto_status status = next_answer(fetcher, &answer, error);
    if (status != PROTO_OK)
        return status;
    uint64_t now_ns = net_now_ns();
    if (!answer) {
        fetch__leave_silent(fetcher, now_ns);
        if (now_ns - fetcher->progress_ns < fetcher->options.deadline_ms * 1000000ull)
            return PROTO_OK;
        return proto_fail(error, PROTO_TIMEOUT,
                          "no weights arrived from the coordinator for %u s; is its disk or the "
                          "network stuck?",
                          fetcher->options.deadline_ms / 1000);
    }
    fetcher->progress_ns = now_ns;
    if (answer->kind == PROTO_MSG_HASHES && hashes && !*hashes) {
        *hashes = answer;
        return PROTO_OK;
    }
    if (answer->kind == PROTO_MSG_CHUNK)
        status = fetch__take_chunk(fetcher, answer, error);
    else if (answer->kind == PROTO_MSG_BYE)
        fetch__leave(fetcher, &fetcher->sources[answer->source], "it cannot be reached");
    answer_destroy(answer);
    return status;
}

static enum proto_status take_hashes(struct worker_fetcher *fetcher,
                                     const struct fetch_answer *answer, uint32_t tensor,
                                     uint8_t *hashes, uint64_t n_pieces, struct proto_error *error)
{
    size_t expected = n_pieces * PROTO_HASH_BYTES;
    size_t found = answer->payload ? net_payload_len(answer->payload) : 0;
    if (!answer->payload && expected)
        return proto_fail(error, PROTO_NOTFOUND,
                          "hashes of tensor %u: the coordinator does not know them and cannot read "
                          "its model file any more; put the file back and restart it",
                          tensor);
    if (answer->about.tensor != tensor || found != expected)
        return proto_fail(error, PROTO_FORMAT,
                          "hashes of tensor %u: expected %zu bytes from the coordinator, found "
                          "%zu of tensor %u",
                          tensor, expected, found, answer->about.tensor);
    if (expected)
        memcpy(hashes, net_payload_data(answer->payload), expected);
    return fetch__add_holders(fetcher, answer, error);
}

static enum proto_status fetch_hashes(void *arg, uint32_t tensor, uint8_t *hashes,
                                      uint64_t n_pieces, struct proto_error *error)
{
    struct worker_fetcher *fetcher = arg;
    struct fetch_answer *answer = NULL;
    struct proto_msg msg = {.kind = PROTO_MSG_WANT,
                            .want = {.epoch = fetcher->options.epoch, .tensor = tensor}};
    enum proto_status status = fetcher->options.send(fetcher->options.arg, &msg, error);
    fetcher->progress_ns = net_now_ns();
    while (status == PROTO_OK && !answer)
        status = step(fetcher, &answer, error);
    if (status == PROTO_OK)
        status = take_hashes(fetcher, answer, tensor, hashes, n_pieces, error);
    if (answer)
        answer_destroy(answer);
    return status;
}

static enum proto_status fetch_request(void *arg, uint32_t tensor, uint64_t piece, uint64_t offset,
                                       uint32_t bytes, struct proto_error *error)
{
    struct worker_fetcher *fetcher = arg;
    if (fetcher->n_chunks == FETCH_CHUNKS_MOST)
        return proto_fail(error, PROTO_LIMIT, "more than %u chunks asked for ahead",
                          FETCH_CHUNKS_MOST);
    struct fetch_chunk *chunk = fetch__chunk(fetcher, fetcher->n_chunks++);
    *chunk = (struct fetch_chunk){.fetch = {.epoch = fetcher->options.epoch,
                                            .tensor = tensor,
                                            .piece = piece,
                                            .offset = offset,
                                            .bytes = bytes}};
    for (unsigned i = 0; i < fetcher->n_sources; i++) {
        const struct fetch_source *source = &fetcher->sources[i];
        if (source->lacks && source->lacks_tensor == tensor && source->lacks_piece == piece)
            chunk->tried |= 1u << i;
    }
    return fetch__assign(fetcher, error);
}

/* The end of a load. */
static void fetch_tell(void *arg)
{
    const struct worker_fetcher *fetcher = arg;
    for (unsigned i = 0; i < fetcher->n_sources; i++)
        if (fetcher->sources[i].bytes)
            proto_log(PROTO_LOG_INFO, "WORKER-FETCHED", "from=%s bytes=%llu",
                      i == FETCH_COORDINATOR ? "coordinator" : fetcher->sources[i].endpoint,
                      (unsigned long long)fetcher->sources[i].bytes);
}

static enum proto_status fetch_receive(void *arg, const void **data, size_t *len,
                                       struct proto_error *error)
{
    struct worker_fetcher *fetcher = arg;
    if (fetcher->n_chunks == 0)
        return proto_fail(error, PROTO_INVALID, "no chunk was asked for");
    struct fetch_chunk *chunk = fetch__chunk(fetcher, 0);
    enum proto_status status = PROTO_OK;
    fetcher->progress_ns = net_now_ns();
    while (status == PROTO_OK && chunk->state != FETCH_HERE) {
        status = step(fetcher, NULL, error);
        if (status == PROTO_OK)
            status = fetch__assign(fetcher, error);
    }
    if (status != PROTO_OK)
        return status;
    fetch__note(fetcher, chunk);
    net_payload_destroy(fetcher->given);
    fetcher->given = chunk->payload;
    chunk->payload = NULL;
    fetcher->first_chunk = (fetcher->first_chunk + 1) % FETCH_CHUNKS_MOST;
    fetcher->n_chunks--;
    *data = net_payload_data(fetcher->given);
    *len = net_payload_len(fetcher->given);
    return PROTO_OK;
}

/* Answers that come all the same are nobody's. */
static void fetch_drop(void *arg)
{
    struct worker_fetcher *fetcher = arg;
    for (unsigned i = 0; i < fetcher->n_chunks; i++) {
        struct fetch_chunk *chunk = fetch__chunk(fetcher, i);
        if (chunk->state == FETCH_ASKED)
            fetcher->sources[chunk->source].in_flight--;
        net_payload_destroy(chunk->payload);
    }
    fetcher->n_chunks = 0;
}

static bool fetch_judge(void *arg, uint32_t tensor, uint64_t piece, bool right)
{
    return fetch__judge(arg, tensor, piece, right);
}

struct worker_fetch worker_fetcher_calls(struct worker_fetcher *fetcher)
{
    return (struct worker_fetch){.hashes = fetch_hashes,
                                 .request = fetch_request,
                                 .receive = fetch_receive,
                                 .drop = fetch_drop,
                                 .judge = fetch_judge,
                                 .tell = fetch_tell,
                                 .arg = fetcher};
}
