/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/wire_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "wire.pb-c.h"

static_assert(sizeof(struct proto_stage_time) == PROTO__TIME_WORDS * sizeof(uint64_t),
              "a stage's times are copied as words");
static_assert(sizeof(struct proto_host_time) == PROTO__HOST_TIME_WORDS * sizeof(uint64_t) &&
                  sizeof(struct proto_part) == PROTO__PART_WORDS * sizeof(uint32_t),
              "as are what a batch had of a host, and a part of experts");
static_assert((int)PROTO_MSG_ECHOED == (int)WIRE__MSG__BODY_ECHOED,
              "a kind is the number of its body");

/* The body of any message; a pointer to it goes into the oneof. */
union body {
    Wire__Hello hello;
    Wire__Welcome welcome;
    Wire__Refuse refuse;
    Wire__Ping ping;
    Wire__Pong pong;
    Wire__Load load;
    Wire__Progress progress;
    Wire__Ready ready;
    Wire__Failed failed;
    Wire__Piece piece;
    Wire__Hashes hashes;
    Wire__Epoch epoch;
    Wire__Batch batch;
    Wire__Result result;
    Wire__Bye bye;
    Wire__Measure measure;
    Wire__Measured measured;
    Wire__Profile profile;
    Wire__Probe probe;
    Wire__Probed probed;
    Wire__Echo echo;
    Wire__Echoed echoed;
    Wire__Experts experts;
    Wire__ExpertsDone experts_done;
    Wire__Usage usage;
    Wire__Used used;
    Wire__Commit commit;
    Wire__Release release;
    Wire__KvAsk kv_ask;
    Wire__KvHeld kv_held;
    Wire__KvPages kv_pages;
};

static char empty[] = "";

/* The generated structs know no const; packing does not write. */
static char *text(const char *s)
{
    return s ? (char *)s : empty;
}

static ProtobufCBinaryData key(const uint8_t bytes[PROTO_KEY_BYTES])
{
    return (ProtobufCBinaryData){PROTO_KEY_BYTES, (uint8_t *)bytes};
}

static void fill_hello(Wire__Hello *out, const struct proto_hello *hello)
{
    wire__hello__init(out);
    out->version = hello->version;
    out->name = text(hello->name);
    out->proof = key(hello->proof);
    out->endpoint = text(hello->endpoint);
    out->expert_endpoint = text(hello->expert_endpoint);
    out->memory_bytes = hello->memory_bytes;
    out->threads = hello->threads;
    out->epoch = hello->epoch;
    out->isa = text(hello->isa);
}

static void fill_welcome(Wire__Welcome *out, const struct proto_welcome *welcome)
{
    wire__welcome__init(out);
    out->worker = welcome->worker;
    out->ping_ms = welcome->ping_ms;
    out->deadline_ms = welcome->deadline_ms;
    out->profile = welcome->profile;
}

static void fill_refuse(Wire__Refuse *out, const struct proto_refuse *refuse)
{
    wire__refuse__init(out);
    out->status = (uint32_t)refuse->status;
    out->text = text(refuse->text);
}

static void fill_pong(Wire__Pong *out, const struct proto_pong *pong)
{
    wire__pong__init(out);
    out->ping_sent_ns = pong->ping_sent_ns;
    out->received_ns = pong->received_ns;
    out->sent_ns = pong->sent_ns;
    out->steps = pong->steps;
    out->rss_bytes = pong->rss_bytes;
    out->computing = pong->computing;
    out->stale = pong->stale;
}

/* Words that point to a packed list. */
static uint64_t *host_words(const struct proto_host_time *times)
{
    return (uint64_t *)(void *)(uintptr_t)times;
}

/* Strings, of which NULL is replaced, and keys and layers stand in scratch. */
static enum proto_status fill_load(Wire__Load *out, const struct proto_load *load, void **scratch,
                                   struct proto_error *error)
{
    size_t n_hosts = load->n_hosts, n_holders = load->n_holders;
    size_t n_texts = load->n_files + 2 * n_hosts + n_holders;
    size_t bytes = n_texts * sizeof(char *) + (n_hosts + n_holders) * PROTO_KEY_BYTES +
                   2 * n_holders * sizeof(uint32_t);
    char **files = calloc(1, bytes ? bytes : 1);
    if (!files)
        return proto_fail_nomem(error, bytes, "a load message");
    *scratch = files;
    char **endpoints = files + load->n_files, **names = endpoints + n_hosts;
    char **holders = names + n_hosts;
    uint32_t *layers = (uint32_t *)(holders + n_holders);
    uint8_t *keys = (uint8_t *)(layers + 2 * n_holders);
    uint8_t *holder_keys = keys + n_hosts * PROTO_KEY_BYTES;
    for (size_t i = 0; i < n_holders; i++) {
        holders[i] = text(load->holders[i].endpoint);
        layers[2 * i] = load->holders[i].layer_first;
        layers[2 * i + 1] = load->holders[i].layer_end;
        memcpy(holder_keys + i * PROTO_KEY_BYTES, load->holders[i].key, PROTO_KEY_BYTES);
    }
    for (uint32_t i = 0; i < load->n_files; i++)
        files[i] = text(load->files[i]);
    for (size_t i = 0; i < n_hosts; i++) {
        endpoints[i] = text(load->hosts[i].endpoint);
        names[i] = text(load->hosts[i].name);
        memcpy(keys + i * PROTO_KEY_BYTES, load->hosts[i].key, PROTO_KEY_BYTES);
    }
    wire__load__init(out);
    out->has_stage = load->has_stage;
    out->n_host_endpoints = out->n_host_names = n_hosts;
    out->host_endpoints = endpoints;
    out->host_names = names;
    out->host_keys = (ProtobufCBinaryData){n_hosts * PROTO_KEY_BYTES, keys};
    out->from = load->from;
    out->n_holder_endpoints = n_holders;
    out->holder_endpoints = holders;
    out->holder_keys = (ProtobufCBinaryData){n_holders * PROTO_KEY_BYTES, holder_keys};
    out->n_holder_layers = 2 * n_holders;
    out->holder_layers = layers;
    out->self = load->self;
    out->n_parts = (size_t)load->n_parts * PROTO__PART_WORDS;
    out->parts = (uint32_t *)(void *)load->parts;
    out->asker_keys = (ProtobufCBinaryData){load->n_askers * PROTO_KEY_BYTES,
                                            load->n_askers ? load->askers[0] : NULL};
    out->epoch = load->epoch;
    out->stage = load->stage;
    out->n_stages = load->n_stages;
    out->layer_first = load->layer_first;
    out->layer_end = load->layer_end;
    out->embed = load->embed;
    out->head = load->head;
    out->kv_type = load->kv_type;
    out->ctx = load->ctx;
    out->max_seqs = load->max_seqs;
    out->max_rows = load->max_rows;
    out->inexact = load->inexact;
    out->next_endpoint = text(load->next_endpoint);
    out->synthetic = text(load->synthetic);
    out->next_key = key(load->next_key);
    out->previous_key = key(load->previous_key);
    out->n_files = load->n_files;
    out->files = files;
    return PROTO_OK;
}

static void fill_progress(Wire__Progress *out, const struct proto_progress *progress)
{
    wire__progress__init(out);
    out->epoch = progress->epoch;
    out->done_bytes = progress->done_bytes;
    out->total_bytes = progress->total_bytes;
    out->fetched_bytes = progress->fetched_bytes;
}

static void fill_ready(Wire__Ready *out, const struct proto_ready *ready)
{
    wire__ready__init(out);
    out->epoch = ready->epoch;
    out->weight_bytes = ready->weight_bytes;
    out->kv_limit_bytes = ready->kv_limit_bytes;
    out->scratch_bytes = ready->scratch_bytes;
}

static void fill_failed(Wire__Failed *out, const struct proto_failed *failed)
{
    wire__failed__init(out);
    out->epoch = failed->epoch;
    out->batch = failed->batch;
    out->status = (uint32_t)failed->status;
    out->text = text(failed->text);
    out->unreached = failed->unreached;
}

static void fill_piece(Wire__Piece *out, const struct proto_fetch *piece)
{
    wire__piece__init(out);
    out->epoch = piece->epoch;
    out->tensor = piece->tensor;
    out->piece = piece->piece;
    out->offset = piece->offset;
    out->bytes = piece->bytes;
}

static enum proto_status fill_hashes(Wire__Hashes *out, const struct proto_hashes *hashes,
                                     void **scratch, struct proto_error *error)
{
    size_t n = hashes->n_sources, bytes = n * (sizeof(char *) + PROTO_KEY_BYTES);
    char **endpoints = malloc(bytes ? bytes : 1);
    if (!endpoints)
        return proto_fail_nomem(error, bytes, "a message of hashes");
    *scratch = endpoints;
    uint8_t *keys = (uint8_t *)(endpoints + n);
    for (size_t i = 0; i < n; i++) {
        endpoints[i] = text(hashes->sources[i].endpoint);
        memcpy(keys + i * PROTO_KEY_BYTES, hashes->sources[i].key, PROTO_KEY_BYTES);
    }
    wire__hashes__init(out);
    out->epoch = hashes->epoch;
    out->tensor = hashes->tensor;
    out->n_source_endpoints = n;
    out->source_endpoints = endpoints;
    out->source_keys = (ProtobufCBinaryData){n * PROTO_KEY_BYTES, keys};
    return PROTO_OK;
}

static enum proto_status fill_batch(Wire__Batch *out, const struct proto_batch *batch,
                                    void **scratch, struct proto_error *error)
{
    size_t n = batch->n_ranges, words = (size_t)batch->n_times * PROTO__TIME_WORDS;
    size_t need = (n + words) * sizeof(uint64_t) + 4 * n * sizeof(uint32_t);
    uint64_t *pos = malloc(need ? need : 1);
    if (!pos)
        return proto_fail_nomem(error, need, "a batch message");
    *scratch = pos;
    uint64_t *times = pos + n;
    uint32_t *seq = (uint32_t *)(times + words);
    uint32_t *rows = seq + n, *want = rows + n, *candidates = want + n;
    for (size_t i = 0; i < n; i++) {
        const struct proto_range *range = &batch->ranges[i];
        seq[i] = range->seq;
        pos[i] = range->pos;
        rows[i] = range->n;
        want[i] = (uint32_t)range->want;
        candidates[i] = range->candidates;
    }
    if (words)
        memcpy(times, batch->times, words * sizeof *times);
    wire__batch__init(out);
    out->epoch = batch->epoch;
    out->batch = batch->batch;
    out->n_seq = out->n_pos = out->n_n = out->n_want = out->n_candidates = n;
    out->seq = seq;
    out->pos = pos;
    out->n = rows;
    out->want = want;
    out->candidates = candidates;
    out->n_drops = batch->n_drops;
    out->drops = batch->drops;
    out->replay = batch->replay;
    out->stop = batch->stop;
    out->n_times = words;
    out->times = times;
    out->n_host_times = (size_t)batch->n_host_times * PROTO__HOST_TIME_WORDS;
    out->host_times = host_words(batch->host_times);
    return PROTO_OK;
}

static enum proto_status fill_result(Wire__Result *out, const struct proto_result *result,
                                     void **scratch, struct proto_error *error)
{
    size_t n = result->n_rows, words = (size_t)result->n_times * PROTO__TIME_WORDS;
    size_t need = (n + words) * sizeof(uint64_t) + n * (2 * sizeof(uint32_t) + sizeof(float));
    uint64_t *pos = malloc(need ? need : 1);
    if (!pos)
        return proto_fail_nomem(error, need, "a result message");
    *scratch = pos;
    uint64_t *times = pos + n;
    uint32_t *range = (uint32_t *)(times + words), *count = range + n;
    float *lse = (float *)(count + n);
    for (size_t i = 0; i < n; i++) {
        range[i] = result->rows[i].range;
        pos[i] = result->rows[i].pos;
        count[i] = result->rows[i].count;
        lse[i] = result->rows[i].lse;
    }
    if (words)
        memcpy(times, result->times, words * sizeof *times);
    wire__result__init(out);
    out->epoch = result->epoch;
    out->batch = result->batch;
    out->n_vocab = result->n_vocab;
    out->last = result->last;
    out->n_range = out->n_pos = out->n_count = out->n_lse = n;
    out->range = range;
    out->pos = pos;
    out->count = count;
    out->lse = lse;
    out->n_times = words;
    out->times = times;
    out->n_host_times = (size_t)result->n_host_times * PROTO__HOST_TIME_WORDS;
    out->host_times = host_words(result->host_times);
    return PROTO_OK;
}

static void fill_experts(Wire__Experts *out, const struct proto_experts *experts)
{
    wire__experts__init(out);
    out->epoch = experts->epoch;
    out->number = experts->number;
    out->layer = experts->layer;
}

static void fill_experts_done(Wire__ExpertsDone *out, const struct proto_experts_done *done)
{
    wire__experts_done__init(out);
    out->epoch = done->epoch;
    out->number = done->number;
    out->status = (uint32_t)done->status;
    out->text = text(done->text);
    out->compute_ns = done->compute_ns;
}

static void fill_used(Wire__Used *out, const struct proto_used *used)
{
    wire__used__init(out);
    out->epoch = used->epoch;
    out->layer_first = used->layer_first;
    out->n_layers = used->n_layers;
    out->n_experts = used->n_experts;
}

static void fill_epoch(Wire__Epoch *out, uint64_t epoch)
{
    wire__epoch__init(out);
    out->epoch = epoch;
}

static void fill_ping(Wire__Ping *out, const struct proto_ping *ping)
{
    wire__ping__init(out);
    out->sent_ns = ping->sent_ns;
}

static void fill_measure(Wire__Measure *out, const struct proto_measure *measure)
{
    wire__measure__init(out);
    out->bytes = measure->bytes;
}

static void fill_measured(Wire__Measured *out, const struct proto_measured *measured)
{
    wire__measured__init(out);
    out->read_bytes_s = measured->read_bytes_s;
}

static enum proto_status fill_profile(Wire__Profile *out, const struct proto_profile *profile,
                                      void **scratch, struct proto_error *error)
{
    const size_t n = profile->n_types;
    size_t need = n * (2 * sizeof(double) + sizeof(uint32_t));
    double *row = malloc(need ? need : 1);
    if (!row)
        return proto_fail_nomem(error, need, "a profile message");
    *scratch = row;
    double *rows = row + n;
    uint32_t *types = (uint32_t *)(rows + n);
    for (size_t i = 0; i < n; i++) {
        types[i] = profile->types[i].type;
        row[i] = profile->types[i].row_ops_s;
        rows[i] = profile->types[i].rows_ops_s;
    }
    wire__profile__init(out);
    out->free_bytes = profile->free_bytes;
    out->read_bytes_s = profile->read_bytes_s;
    out->float_ops_s = profile->float_ops_s;
    out->wake_s = profile->wake_s;
    out->run_s = profile->run_s;
    out->disk_bytes_s = profile->disk_bytes_s;
    out->machine = profile->machine;
    out->machine_read_bytes_s = profile->machine_read_bytes_s;
    out->machine_ops_s = profile->machine_ops_s;
    out->n_type = out->n_row_ops_s = out->n_rows_ops_s = n;
    out->type = types;
    out->row_ops_s = row;
    out->rows_ops_s = rows;
    return PROTO_OK;
}

static enum proto_status fill_commit(Wire__Commit *out, const struct proto_commit *commit,
                                     void **scratch, struct proto_error *error)
{
    const size_t n = commit->n_held;
    size_t need = n * (2 * sizeof(uint64_t) + sizeof(uint32_t));
    uint64_t *pos = malloc(need ? need : 1);
    if (!pos)
        return proto_fail_nomem(error, need, "a commit message");
    *scratch = pos;
    uint64_t *kept = pos + n;
    uint32_t *seq = (uint32_t *)(kept + n);
    for (size_t i = 0; i < n; i++) {
        seq[i] = commit->held[i].seq;
        kept[i] = commit->held[i].kept;
        pos[i] = commit->held[i].pos;
    }
    wire__commit__init(out);
    out->epoch = commit->epoch;
    out->from = commit->from;
    out->move = commit->move;
    out->moved = commit->moved;
    out->moved_bytes = commit->moved_bytes;
    out->n_seq = out->n_pos = out->n_kept = n;
    out->seq = seq;
    out->pos = pos;
    out->kept = kept;
    return PROTO_OK;
}

static void fill_kv_ask(Wire__KvAsk *out, const struct proto_kv_ask *ask)
{
    wire__kv_ask__init(out);
    out->epoch = ask->epoch;
    out->proof = key(ask->proof);
}

static enum proto_status fill_kv_held(Wire__KvHeld *out, const struct proto_kv_held *held,
                                      void **scratch, struct proto_error *error)
{
    const size_t n = held->n_seqs;
    size_t need = n * (2 * sizeof(uint64_t) + sizeof(uint32_t));
    uint64_t *version = malloc(need ? need : 1);
    if (!version)
        return proto_fail_nomem(error, need, "a list of sequences");
    *scratch = version;
    uint64_t *end = version + n;
    uint32_t *seq = (uint32_t *)(end + n);
    for (size_t i = 0; i < n; i++) {
        seq[i] = held->seqs[i].seq;
        version[i] = held->seqs[i].version;
        end[i] = held->seqs[i].end;
    }
    wire__kv_held__init(out);
    out->epoch = held->epoch;
    out->n_seq = out->n_version = out->n_end = n;
    out->seq = seq;
    out->version = version;
    out->end = end;
    return PROTO_OK;
}

static void fill_kv_chunk(Wire__KvPages *out, const struct proto_kv_chunk *chunk)
{
    wire__kv_pages__init(out);
    out->epoch = chunk->epoch;
    out->seq = chunk->seq;
    out->version = chunk->version;
    out->layer = chunk->layer;
    out->page = chunk->page;
    out->n = chunk->n;
}

static void fill_kv_fetch(Wire__KvPages *out, const struct proto_kv_fetch *fetch)
{
    const struct proto_kv_chunk chunk = {.epoch = fetch->epoch,
                                         .seq = fetch->seq,
                                         .version = fetch->version,
                                         .layer = fetch->layer,
                                         .page = fetch->page,
                                         .n = fetch->n};
    fill_kv_chunk(out, &chunk);
    out->bytes = fetch->bytes;
    out->proof = key(fetch->proof);
}

static void fill_probe(Wire__Probe *out, const struct proto_probe *probe)
{
    wire__probe__init(out);
    out->number = probe->number;
    out->endpoint = text(probe->endpoint);
    out->key = key(probe->key);
}

static void fill_probed(Wire__Probed *out, const struct proto_probed *probed)
{
    wire__probed__init(out);
    out->number = probed->number;
    out->rtt_s = probed->rtt_s;
    out->bytes_s = probed->bytes_s;
}

static void fill_echo(Wire__Echo *out, const struct proto_echo *echo)
{
    wire__echo__init(out);
    out->number = echo->number;
    out->proof = key(echo->proof);
}

static void fill_echoed(Wire__Echoed *out, const struct proto_echoed *echoed)
{
    wire__echoed__init(out);
    out->number = echoed->number;
}

/* WANT, FETCH and CHUNK as the one body that carries them. */
static struct proto_fetch piece_of(const struct proto_msg *msg)
{
    switch (msg->kind) {
    case PROTO_MSG_WANT:
        return (struct proto_fetch){.epoch = msg->want.epoch, .tensor = msg->want.tensor};
    case PROTO_MSG_CHUNK:
        return (struct proto_fetch){.epoch = msg->chunk.epoch,
                                    .tensor = msg->chunk.tensor,
                                    .piece = msg->chunk.piece,
                                    .offset = msg->chunk.offset};
    default:
        return msg->fetch;
    }
}

/* Fills the body; what it points to beside *msg is in *scratch. */
/* Messages without lists. */
static void fill_plain(union body *body, const struct proto_msg *msg)
{
    struct proto_fetch piece;
    switch (msg->kind) {
    case PROTO_MSG_HELLO:
        fill_hello(&body->hello, &msg->hello);
        break;
    case PROTO_MSG_WELCOME:
        fill_welcome(&body->welcome, &msg->welcome);
        break;
    case PROTO_MSG_REFUSE:
        fill_refuse(&body->refuse, &msg->refuse);
        break;
    case PROTO_MSG_PING:
        fill_ping(&body->ping, &msg->ping);
        break;
    case PROTO_MSG_PONG:
        fill_pong(&body->pong, &msg->pong);
        break;
    case PROTO_MSG_PROGRESS:
        fill_progress(&body->progress, &msg->progress);
        break;
    case PROTO_MSG_READY:
        fill_ready(&body->ready, &msg->ready);
        break;
    case PROTO_MSG_FAILED:
        fill_failed(&body->failed, &msg->failed);
        break;
    case PROTO_MSG_WANT:
    case PROTO_MSG_FETCH:
    case PROTO_MSG_CHUNK:
        piece = piece_of(msg);
        fill_piece(&body->piece, &piece);
        if (msg->kind == PROTO_MSG_FETCH)
            body->piece.proof = key(msg->fetch.proof);
        break;
    case PROTO_MSG_LINK:
    case PROTO_MSG_LINKED:
    case PROTO_MSG_KV_LOST:
        fill_epoch(&body->epoch, msg->link.epoch);
        break;
    case PROTO_MSG_BYE:
        wire__bye__init(&body->bye);
        body->bye.drained = msg->bye.drained;
        break;
    case PROTO_MSG_MEASURE:
        fill_measure(&body->measure, &msg->measure);
        break;
    case PROTO_MSG_MEASURED:
        fill_measured(&body->measured, &msg->measured);
        break;
    case PROTO_MSG_PROBE:
        fill_probe(&body->probe, &msg->probe);
        break;
    case PROTO_MSG_PROBED:
        fill_probed(&body->probed, &msg->probed);
        break;
    case PROTO_MSG_ECHO:
        fill_echo(&body->echo, &msg->echo);
        break;
    case PROTO_MSG_ECHOED:
        fill_echoed(&body->echoed, &msg->echoed);
        break;
    case PROTO_MSG_EXPERTS:
        fill_experts(&body->experts, &msg->experts);
        break;
    case PROTO_MSG_EXPERTS_DONE:
        fill_experts_done(&body->experts_done, &msg->experts_done);
        break;
    case PROTO_MSG_KV_ASK:
        fill_kv_ask(&body->kv_ask, &msg->kv_ask);
        break;
    case PROTO_MSG_KV_FETCH:
        fill_kv_fetch(&body->kv_pages, &msg->kv_fetch);
        break;
    case PROTO_MSG_KV_CHUNK:
        fill_kv_chunk(&body->kv_pages, &msg->kv_chunk);
        break;
    case PROTO_MSG_RELEASE:
        wire__release__init(&body->release);
        body->release.epoch = msg->release.epoch;
        body->release.older = msg->release.older;
        break;
    case PROTO_MSG_USAGE:
        wire__usage__init(&body->usage);
        break;
    case PROTO_MSG_USED:
        fill_used(&body->used, &msg->used);
        break;
    case PROTO_MSG_LOAD:
    case PROTO_MSG_HASHES:
    case PROTO_MSG_BATCH:
    case PROTO_MSG_RESULT:
    case PROTO_MSG_PROFILE:
    case PROTO_MSG_COMMIT:
    case PROTO_MSG_COMMITTED:
    case PROTO_MSG_KV_HELD:
        break; /* see fill */
    }
}

static enum proto_status fill(union body *body, const struct proto_msg *msg, void **scratch,
                              struct proto_error *error)
{
    switch (msg->kind) {
    case PROTO_MSG_LOAD:
        return fill_load(&body->load, &msg->load, scratch, error);
    case PROTO_MSG_HASHES:
        return fill_hashes(&body->hashes, &msg->hashes, scratch, error);
    case PROTO_MSG_BATCH:
        return fill_batch(&body->batch, &msg->batch, scratch, error);
    case PROTO_MSG_RESULT:
        return fill_result(&body->result, &msg->result, scratch, error);
    case PROTO_MSG_PROFILE:
        return fill_profile(&body->profile, &msg->profile, scratch, error);
    case PROTO_MSG_KV_HELD:
        return fill_kv_held(&body->kv_held, &msg->kv_held, scratch, error);
    case PROTO_MSG_COMMIT:
    case PROTO_MSG_COMMITTED:
        return fill_commit(&body->commit, &msg->commit, scratch, error);
    default:
        fill_plain(body, msg);
        return PROTO_OK;
    }
}

static enum proto_status pack(const Wire__Msg *wire, uint8_t **bytes, size_t *len,
                              struct proto_error *error)
{
    size_t need = wire__msg__get_packed_size(wire);
    if (need > PROTO_MAX_HEADER_BYTES)
        return proto_fail(error, PROTO_LIMIT, "message of %zu bytes, at most %u can be sent", need,
                          PROTO_MAX_HEADER_BYTES);
    *bytes = malloc(need ? need : 1);
    if (!*bytes)
        return proto_fail_nomem(error, need, "a message");
    *len = wire__msg__pack(wire, *bytes);
    return PROTO_OK;
}

enum proto_status proto_msg_encode(const struct proto_msg *msg, uint8_t **bytes, size_t *len,
                                   struct proto_error *error)
{
    *bytes = NULL;
    *len = 0;
    enum proto_status status = proto__msg_check(msg, PROTO_INVALID, error);
    if (status != PROTO_OK)
        return status;
    union body body;
    void *scratch = NULL;
    status = fill(&body, msg, &scratch, error);
    if (status == PROTO_OK) {
        Wire__Msg wire = WIRE__MSG__INIT;
        wire.body_case = (Wire__Msg__BodyCase)msg->kind;
        /* All members of the oneof are pointers that stand at the same place. */
        wire.hello = &body.hello;
        status = pack(&wire, bytes, len, error);
    }
    free(scratch);
    return status;
}
