/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "proto/log.h"
#include "worker/fetch_parts.h"

#define IN_FLIGHT_MOST 8u  /* chunks, at a source */
#define SPARED_MOST    2u  /* at the coordinator, whose link all workers share, where others can */
#define FIRST_NS       1e6 /* a chunk's time at a source that has brought none yet */
#define LATEST         0.3 /* weight of the last chunk's time in the mean */
#define ALONE_MOST     2u  /* times that the coordinator is asked again, by itself */

struct fetch_chunk *fetch__chunk(struct worker_fetcher *fetcher, unsigned i)
{
    return &fetcher->chunks[(fetcher->first_chunk + i) % FETCH_CHUNKS_MOST];
}

/* ---- sources ---- */

uint32_t fetch__holders(const struct worker_fetcher *fetcher, uint32_t tensor)
{
    uint32_t mask = 1u << FETCH_COORDINATOR;
    for (size_t i = fetcher->n_holders; i-- > 0;)
        if (fetcher->holders[i].tensor == tensor)
            return mask | fetcher->holders[i].mask;
    return mask;
}

/* The number of the source with this key, a new one if there is none; 0 where there are too many.
 */
static unsigned source_number(struct worker_fetcher *fetcher, const struct fetch_place *place)
{
    unsigned i = 1;
    while (i < fetcher->n_sources &&
           memcmp(fetcher->sources[i].key, place->key, PROTO_KEY_BYTES) != 0)
        i++;
    if (i < fetcher->n_sources)
        return i;
    if (i == FETCH_SOURCES_MOST)
        return 0;
    struct fetch_source *source = &fetcher->sources[fetcher->n_sources++];
    source->fetcher = fetcher;
    memcpy(source->key, place->key, PROTO_KEY_BYTES);
    memcpy(source->endpoint, place->endpoint, sizeof source->endpoint);
    return i;
}

enum proto_status fetch__add_holders(struct worker_fetcher *fetcher,
                                     const struct fetch_answer *answer, struct proto_error *error)
{
    uint32_t mask = 0;
    for (uint32_t i = 0; i < answer->n_sources && fetcher->options.loop; i++) {
        unsigned number = source_number(fetcher, &answer->sources[i]);
        mask |= number ? 1u << number : 0;
    }
    if (!mask)
        return PROTO_OK;
    if (fetcher->n_holders == fetcher->holders_room) {
        size_t room = fetcher->holders_room ? 2 * fetcher->holders_room : 256;
        struct fetch_holders *grown = realloc(fetcher->holders, room * sizeof *grown);
        if (!grown)
            return proto_fail_nomem(error, room * sizeof *grown, "sources of tensors");
        fetcher->holders = grown;
        fetcher->holders_room = room;
    }
    fetcher->holders[fetcher->n_holders++] =
        (struct fetch_holders){.tensor = answer->about.tensor, .mask = mask};
    return PROTO_OK;
}

/* Those that may be asked for a chunk. */
static uint32_t candidates(const struct worker_fetcher *fetcher, const struct fetch_chunk *chunk)
{
    uint32_t mask = fetch__holders(fetcher, chunk->fetch.tensor) & ~chunk->tried;
    for (unsigned i = 0; i < fetcher->n_sources; i++)
        if (fetcher->sources[i].left)
            mask &= ~(1u << i);
    if (fetcher->alone >= 0 && mask >> fetcher->alone & 1)
        mask = 1u << fetcher->alone;
    return mask;
}

static bool is_one(uint32_t mask)
{
    return (mask & (mask - 1)) == 0;
}

/* When a further chunk can be expected of a source. */
static double cost(const struct worker_fetcher *fetcher, unsigned number)
{
    const struct fetch_source *source = &fetcher->sources[number];
    double each = source->chunk_ns > 0 ? source->chunk_ns : FIRST_NS;
    return (source->in_flight + 1) * each;
}

static unsigned in_flight_most(unsigned number, uint32_t mask)
{
    return number == FETCH_COORDINATOR && !is_one(mask) ? SPARED_MOST : IN_FLIGHT_MOST;
}

/* -1 where none has room. */
static int best(const struct worker_fetcher *fetcher, uint32_t mask)
{
    int found = -1;
    for (unsigned i = 0; i < fetcher->n_sources; i++)
        if ((mask >> i & 1) && fetcher->sources[i].in_flight < in_flight_most(i, mask) &&
            (found < 0 || cost(fetcher, i) < cost(fetcher, (unsigned)found)))
            found = (int)i;
    return found;
}

static enum proto_status ask(struct worker_fetcher *fetcher, struct fetch_chunk *chunk,
                             unsigned number, struct proto_error *error)
{
    struct proto_msg msg = {.kind = PROTO_MSG_FETCH, .fetch = chunk->fetch};
    enum proto_status status =
        number == FETCH_COORDINATOR
            ? fetcher->options.send(fetcher->options.arg, &msg, error)
            : fetch__ask_worker(&fetcher->sources[number], &chunk->fetch, error);
    if (status != PROTO_OK)
        return status;
    chunk->state = FETCH_ASKED;
    chunk->source = number;
    chunk->asked_ns = net_now_ns();
    fetcher->sources[number].in_flight++;
    return PROTO_OK;
}

enum proto_status fetch__assign(struct worker_fetcher *fetcher, struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    for (unsigned i = 0; i < fetcher->n_chunks && status == PROTO_OK; i++) {
        struct fetch_chunk *chunk = fetch__chunk(fetcher, i);
        if (chunk->state != FETCH_WANTED)
            continue;
        uint32_t mask = candidates(fetcher, chunk);
        if (!mask)
            return proto_fail(error, PROTO_NOTFOUND,
                              "tensor %" PRIu32 ", piece %" PRIu64
                              ": neither the coordinator nor any worker has it any more; put the "
                              "model file back and restart the coordinator",
                              chunk->fetch.tensor, chunk->fetch.piece);
        int number = best(fetcher, mask);
        if (number >= 0)
            status = ask(fetcher, chunk, (unsigned)number, error);
    }
    return status;
}

/* What a source was asked for is wanted again. */
static void take_back(struct worker_fetcher *fetcher, struct fetch_source *source)
{
    for (unsigned i = 0; i < fetcher->n_chunks; i++) {
        struct fetch_chunk *chunk = fetch__chunk(fetcher, i);
        if (chunk->state == FETCH_ASKED && &fetcher->sources[chunk->source] == source)
            chunk->state = FETCH_WANTED;
    }
    source->in_flight = 0;
}

void fetch__leave(struct worker_fetcher *fetcher, struct fetch_source *source, const char *why)
{
    if (source->left)
        return;
    proto_log(PROTO_LOG_WARN, "WORKER-SOURCE-LEFT", "source=%s why=\"%s\"", source->endpoint, why);
    source->left = true;
    take_back(fetcher, source);
}

/* Since when nothing of what it was asked for has come; 0: it was asked for nothing. */
static uint64_t silent_since(struct worker_fetcher *fetcher, unsigned number)
{
    uint64_t since_ns = 0;
    for (unsigned i = 0; i < fetcher->n_chunks; i++) {
        const struct fetch_chunk *chunk = fetch__chunk(fetcher, i);
        if (chunk->state == FETCH_ASKED && chunk->source == number &&
            (!since_ns || chunk->asked_ns < since_ns))
            since_ns = chunk->asked_ns;
    }
    uint64_t heard_ns = fetcher->sources[number].heard_ns;
    return since_ns && heard_ns > since_ns ? heard_ns : since_ns;
}

/* The coordinator is never left, for it may be hashing; but others are asked first from then on. */
void fetch__leave_silent(struct worker_fetcher *fetcher, uint64_t now_ns)
{
    uint64_t silence_ns = fetcher->options.silence_ms * 1000000ull;
    for (unsigned i = 0; i < fetcher->n_sources; i++) {
        struct fetch_source *source = &fetcher->sources[i];
        uint64_t since_ns = silent_since(fetcher, i);
        if (!since_ns || now_ns - since_ns < silence_ns)
            continue;
        if (i != FETCH_COORDINATOR) {
            fetch__leave(fetcher, source, "it does not answer");
        } else if (fetcher->n_sources > 1) {
            source->chunk_ns = (double)silence_ns;
            take_back(fetcher, source);
        }
    }
}

/* ---- chunks ---- */

static struct fetch_chunk *find_chunk(struct worker_fetcher *fetcher, unsigned source,
                                      const struct proto_chunk *about)
{
    for (unsigned i = 0; i < fetcher->n_chunks; i++) {
        struct fetch_chunk *chunk = fetch__chunk(fetcher, i);
        if (chunk->state == FETCH_ASKED && chunk->source == source &&
            chunk->fetch.tensor == about->tensor && chunk->fetch.piece == about->piece &&
            chunk->fetch.offset == about->offset)
            return chunk;
    }
    return NULL;
}

static void note_lack(struct worker_fetcher *fetcher, struct fetch_source *source,
                      struct fetch_chunk *lacking)
{
    const unsigned number = (unsigned)(source - fetcher->sources);
    source->lacks = true;
    source->lacks_tensor = lacking->fetch.tensor;
    source->lacks_piece = lacking->fetch.piece;
    lacking->state = FETCH_WANTED;
    for (unsigned i = 0; i < fetcher->n_chunks; i++) {
        struct fetch_chunk *chunk = fetch__chunk(fetcher, i);
        if (chunk->fetch.tensor == lacking->fetch.tensor &&
            chunk->fetch.piece == lacking->fetch.piece)
            chunk->tried |= 1u << number;
    }
}

static void note_time(struct fetch_source *source, const struct fetch_chunk *chunk)
{
    uint64_t now_ns = net_now_ns();
    uint64_t from_ns = source->heard_ns > chunk->asked_ns ? source->heard_ns : chunk->asked_ns;
    double took_ns = (double)(now_ns - from_ns);
    source->chunk_ns =
        source->chunk_ns > 0 ? source->chunk_ns * (1 - LATEST) + took_ns * LATEST : took_ns;
    source->heard_ns = now_ns;
}

enum proto_status fetch__take_chunk(struct worker_fetcher *fetcher, struct fetch_answer *answer,
                                    struct proto_error *error)
{
    struct fetch_source *source = &fetcher->sources[answer->source];
    struct fetch_chunk *chunk = find_chunk(fetcher, answer->source, &answer->about);
    size_t found = answer->payload ? net_payload_len(answer->payload) : 0;
    if (!chunk) /* it was asked of somebody else meanwhile */
        return PROTO_OK;
    if (found != 0 && found != chunk->fetch.bytes) {
        if (answer->source != FETCH_COORDINATOR) {
            fetch__leave(fetcher, source, "it sent another number of bytes");
            return PROTO_OK;
        }
        return proto_fail(error, PROTO_FORMAT,
                          "the coordinator sent %zu bytes of tensor %u, piece %llu: not what was "
                          "asked for",
                          found, answer->about.tensor, (unsigned long long)answer->about.piece);
    }
    source->in_flight--;
    note_time(source, chunk);
    if (found == 0) {
        note_lack(fetcher, source, chunk);
        return PROTO_OK;
    }
    chunk->state = FETCH_HERE;
    chunk->payload = answer->payload;
    answer->payload = NULL;
    return PROTO_OK;
}

/* ---- who lied ---- */

void fetch__note(struct worker_fetcher *fetcher, const struct fetch_chunk *chunk)
{
    struct fetch_record *now = &fetcher->now;
    const unsigned most = sizeof now->chunks / sizeof *now->chunks;
    const struct net_payload *payload = chunk->payload;
    fetcher->sources[chunk->source].bytes += chunk->fetch.bytes;
    if (now->tensor != chunk->fetch.tensor || now->piece != chunk->fetch.piece)
        now->n = 0;
    now->tensor = chunk->fetch.tensor;
    now->piece = chunk->fetch.piece;
    if (now->n == most) /* a piece of one panel may be longer than others: no blame for it */
        return;
    now->chunks[now->n].offset = chunk->fetch.offset;
    now->chunks[now->n].source = chunk->source;
    if (!is_one(fetch__holders(fetcher, chunk->fetch.tensor)))
        shard_tag(now->chunks[now->n].tag, net_payload_data(payload), net_payload_len(payload),
                  fetcher->tag_key);
    now->n++;
}

/* Those that brought chunks of the piece. */
static uint32_t bringers(const struct fetch_record *record)
{
    uint32_t mask = 0;
    for (unsigned i = 0; i < record->n; i++)
        mask |= 1u << record->chunks[i].source;
    return mask;
}

static void blame(struct worker_fetcher *fetcher, unsigned number)
{
    if (number != FETCH_COORDINATOR)
        fetch__leave(fetcher, &fetcher->sources[number], "it sent wrong bytes");
}

/* The right piece is known: who sent other chunks of it before? */
static void blame_suspects(struct worker_fetcher *fetcher)
{
    const struct fetch_record *right = &fetcher->now, *wrong = &fetcher->suspect;
    if (wrong->tensor != right->tensor || wrong->piece != right->piece)
        return;
    for (unsigned i = 0; i < wrong->n; i++)
        for (unsigned j = 0; j < right->n; j++)
            if (wrong->chunks[i].offset == right->chunks[j].offset &&
                memcmp(wrong->chunks[i].tag, right->chunks[j].tag, SHARD_TAG_BYTES) != 0)
                blame(fetcher, wrong->chunks[i].source);
}

/* The next source that is asked alone; false where all were. */
static bool choose_alone(struct worker_fetcher *fetcher, uint32_t tensor)
{
    uint32_t mask = fetch__holders(fetcher, tensor) & ~fetcher->was_alone;
    for (unsigned i = 0; i < fetcher->n_sources; i++) {
        if (!(mask >> i & 1) || fetcher->sources[i].left)
            continue;
        fetcher->alone = (int)i;
        if (i != FETCH_COORDINATOR || ++fetcher->coordinator_wrong == ALONE_MOST)
            fetcher->was_alone |= 1u << i;
        return true;
    }
    return false;
}

static void start_over(struct worker_fetcher *fetcher)
{
    fetcher->suspect.n = fetcher->now.n = 0;
    fetcher->alone = -1;
    fetcher->was_alone = 0;
    fetcher->coordinator_wrong = 0;
}

bool fetch__judge(struct worker_fetcher *fetcher, uint32_t tensor, uint64_t piece, bool right)
{
    struct fetch_record *now = &fetcher->now;
    uint32_t mask = bringers(now);
    if (right) {
        blame_suspects(fetcher);
        start_over(fetcher);
        return true;
    }
    proto_log(PROTO_LOG_WARN, "WORKER-PIECE-WRONG", "tensor=%" PRIu32 " piece=%" PRIu64, tensor,
              piece);
    /* Bytes from an earlier start are nobody's here. */
    if (mask && is_one(mask) && now->chunks[0].offset == 0)
        blame(fetcher, now->chunks[0].source);
    else if (mask && !is_one(mask) && !fetcher->suspect.n)
        fetcher->suspect = *now;
    now->n = 0;
    if (choose_alone(fetcher, tensor))
        return true;
    start_over(fetcher);
    return false;
}
