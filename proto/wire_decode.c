/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/wire_internal.h"

#include <stdlib.h>
#include <string.h>

#include "wire.pb-c.h"

/*
 * protobuf-c takes memory as its input asks for it, a few dozen bytes for each two bytes of a
 * hostile frame. It gets it from an arena with a limit: a first buffer that nearly every message
 * fits in, then malloc until the budget is spent.
 */
#define ARENA_FIRST_BYTES  4096u
#define ARENA_BUDGET_BYTES (32u << 20)

struct arena {
    size_t used;  /* of first */
    size_t taken; /* by malloc */
    _Alignas(16) unsigned char first[ARENA_FIRST_BYTES];
};

static void *arena_alloc(void *data, size_t size)
{
    struct arena *arena = data;
    if (size <= ARENA_FIRST_BYTES - arena->used) {
        void *p = arena->first + arena->used;
        /* first is a multiple of 16 long, so the rounded sum stays within. */
        arena->used += (size + 15) & ~(size_t)15;
        return p;
    }
    if (size > ARENA_BUDGET_BYTES - arena->taken)
        return NULL;
    arena->taken += size;
    return malloc(size);
}

static void arena_free(void *data, void *p)
{
    struct arena *arena = data;
    if ((unsigned char *)p < arena->first || (unsigned char *)p >= arena->first + ARENA_FIRST_BYTES)
        free(p);
}

static enum proto_status bad(struct proto_error *error, const char *what)
{
    return proto_fail(error, PROTO_FORMAT, "malformed message: %s", what);
}

/* Bytes of the UTF-8 character at s that a person may be shown, 0 for anything else (RFC 3629). */
static size_t shown_char(const unsigned char *s, size_t left)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (s[0] < 0x80)
        return s[0] >= 0x20 && s[0] != 0x7f;
    size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || n > left)
        return 0;
    uint32_t c = s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3fu);
    }
    bool control = c < 0xa0, surrogate = c >= 0xd800 && c < 0xe000;
    return c >= least[n] && c <= 0x10ffff && !control && !surrogate ? n : 0;
}

/* Copies a peer's string. Control characters and broken UTF-8 become '?': strings end up on
 * terminals, in logs and in JSON. */
static enum proto_status take_text(char **out, const char *s, struct proto_error *error)
{
    size_t len = strlen(s);
    if (len > PROTO_MAX_STRING_BYTES)
        return bad(error, "a string is too long");
    char *copy = malloc(len + 1);
    if (!copy)
        return proto_fail_nomem(error, len + 1, "a string");
    memcpy(copy, s, len + 1);
    for (size_t i = 0; i < len;) {
        size_t n = shown_char((const unsigned char *)copy + i, len - i);
        if (n == 0)
            copy[i] = '?';
        i += n ? n : 1;
    }
    *out = copy;
    return PROTO_OK;
}

static enum proto_status take_key(uint8_t out[PROTO_KEY_BYTES], const ProtobufCBinaryData *key,
                                  struct proto_error *error)
{
    if (key->len != PROTO_KEY_BYTES)
        return bad(error, "a key is not 32 bytes long");
    memcpy(out, key->data, PROTO_KEY_BYTES);
    return PROTO_OK;
}

/* Memory for n items, zeroed; NULL for none. The caller has bounded n. */
static enum proto_status take_array(void *out, size_t n, size_t size, struct proto_error *error)
{
    void *array = n ? calloc(n, size) : NULL;
    if (n && !array)
        return proto_fail_nomem(error, n * size, "a message's list");
    memcpy(out, &array, sizeof array);
    return PROTO_OK;
}

static enum proto_status take_times(struct proto_stage_time **out, uint32_t *n_out,
                                    const uint64_t *words, size_t n_words,
                                    struct proto_error *error)
{
    size_t n = n_words / PROTO__TIME_WORDS;
    if (n_words % PROTO__TIME_WORDS != 0 || n > PROTO_MAX_WORKERS)
        return bad(error, "a wrong number of stage times");
    if (take_array(out, n, sizeof **out, error) != PROTO_OK)
        return PROTO_NOMEM;
    *n_out = (uint32_t)n;
    if (n)
        memcpy(*out, words, n_words * sizeof *words);
    return PROTO_OK;
}

static enum proto_status take_host_times(struct proto_host_time **out, uint32_t *n_out,
                                         const uint64_t *words, size_t n_words,
                                         struct proto_error *error)
{
    size_t n = n_words / PROTO__HOST_TIME_WORDS;
    if (n_words % PROTO__HOST_TIME_WORDS != 0 || n > PROTO_MAX_WORKERS)
        return bad(error, "a wrong number of host times");
    if (take_array(out, n, sizeof **out, error) != PROTO_OK)
        return PROTO_NOMEM;
    *n_out = (uint32_t)n;
    if (n)
        memcpy(*out, words, n_words * sizeof *words);
    return PROTO_OK;
}

static enum proto_status take_hello(struct proto_hello *out, const Wire__Hello *hello,
                                    struct proto_error *error)
{
    out->version = hello->version;
    out->memory_bytes = hello->memory_bytes;
    out->threads = hello->threads;
    out->epoch = hello->epoch;
    enum proto_status status = take_text(&out->name, hello->name, error);
    if (status == PROTO_OK)
        status = take_text(&out->endpoint, hello->endpoint, error);
    if (status == PROTO_OK)
        status = take_text(&out->isa, hello->isa, error);
    if (status == PROTO_OK)
        status = take_text(&out->expert_endpoint, hello->expert_endpoint, error);
    /* Another version may prove itself in another way; it must hear that its version differs. */
    if (status == PROTO_OK && hello->version == PROTO_WIRE_VERSION)
        status = take_key(out->proof, &hello->proof, error);
    return status;
}

static enum proto_status take_refuse(struct proto_refuse *out, const Wire__Refuse *refuse,
                                     struct proto_error *error)
{
    /* The reason of a peer of another version may have a number that we do not know. */
    bool known = (uint32_t)proto_status_from_wire(refuse->status) == refuse->status;
    out->status = known ? (enum proto_status)refuse->status : PROTO_REFUSED;
    return take_text(&out->text, refuse->text, error);
}

static enum proto_status take_files(struct proto_load *out, const Wire__Load *load,
                                    struct proto_error *error)
{
    if (load->n_files > PROTO__MAX_FILES)
        return bad(error, "a wrong number of files");
    enum proto_status status = take_array(&out->files, load->n_files, sizeof *out->files, error);
    if (status != PROTO_OK)
        return status;
    out->n_files = (uint32_t)load->n_files;
    for (uint32_t i = 0; i < out->n_files && status == PROTO_OK; i++)
        status = take_text(&out->files[i], load->files[i], error);
    return status;
}

static enum proto_status take_hosts(struct proto_load *out, const Wire__Load *load,
                                    struct proto_error *error)
{
    size_t n = load->n_host_endpoints;
    if (n > PROTO_MAX_WORKERS || load->n_host_names != n ||
        load->host_keys.len != n * PROTO_KEY_BYTES)
        return bad(error, "a wrong number of hosts");
    enum proto_status status = take_array(&out->hosts, n, sizeof *out->hosts, error);
    if (status != PROTO_OK)
        return status;
    out->n_hosts = (uint32_t)n;
    for (size_t i = 0; i < n && status == PROTO_OK; i++) {
        struct proto_host *host = &out->hosts[i];
        memcpy(host->key, load->host_keys.data + i * PROTO_KEY_BYTES, PROTO_KEY_BYTES);
        status = take_text(&host->endpoint, load->host_endpoints[i], error);
        if (status == PROTO_OK)
            status = take_text(&host->name, load->host_names[i], error);
    }
    return status;
}

/* Who holds which experts, and who may ask. */
static enum proto_status take_parts(struct proto_load *out, const Wire__Load *load,
                                    struct proto_error *error)
{
    size_t n = load->n_parts / PROTO__PART_WORDS, n_askers = load->asker_keys.len / PROTO_KEY_BYTES;
    if (load->n_parts % PROTO__PART_WORDS != 0 || n > PROTO_MAX_PARTS)
        return bad(error, "a wrong number of parts");
    if (load->asker_keys.len % PROTO_KEY_BYTES != 0 || n_askers > PROTO_MAX_WORKERS)
        return bad(error, "a wrong number of askers");
    enum proto_status status = take_array(&out->parts, n, sizeof *out->parts, error);
    if (status == PROTO_OK)
        status = take_array(&out->askers, n_askers, sizeof *out->askers, error);
    if (status != PROTO_OK)
        return status;
    out->self = load->self;
    out->n_parts = (uint32_t)n;
    out->n_askers = (uint32_t)n_askers;
    if (n)
        memcpy(out->parts, load->parts, n * sizeof *out->parts);
    if (n_askers)
        memcpy(out->askers, load->asker_keys.data, n_askers * PROTO_KEY_BYTES);
    return PROTO_OK;
}

static enum proto_status take_holders(struct proto_load *out, const Wire__Load *load,
                                      struct proto_error *error)
{
    size_t n = load->n_holder_endpoints;
    if (n > PROTO_MAX_WORKERS || load->n_holder_layers != 2 * n ||
        load->holder_keys.len != n * PROTO_KEY_BYTES)
        return bad(error, "a wrong number of holders");
    enum proto_status status = take_array(&out->holders, n, sizeof *out->holders, error);
    if (status != PROTO_OK)
        return status;
    out->from = load->from;
    out->n_holders = (uint32_t)n;
    for (size_t i = 0; i < n && status == PROTO_OK; i++) {
        struct proto_holder *holder = &out->holders[i];
        memcpy(holder->key, load->holder_keys.data + i * PROTO_KEY_BYTES, PROTO_KEY_BYTES);
        holder->layer_first = load->holder_layers[2 * i];
        holder->layer_end = load->holder_layers[2 * i + 1];
        status = take_text(&holder->endpoint, load->holder_endpoints[i], error);
    }
    return status;
}

static enum proto_status take_load(struct proto_load *out, const Wire__Load *load,
                                   struct proto_error *error)
{
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
    out->has_stage = load->has_stage;
    enum proto_status status = take_text(&out->next_endpoint, load->next_endpoint, error);
    if (status == PROTO_OK)
        status = take_text(&out->synthetic, load->synthetic, error);
    if (status == PROTO_OK)
        status = take_key(out->next_key, &load->next_key, error);
    if (status == PROTO_OK)
        status = take_key(out->previous_key, &load->previous_key, error);
    if (status == PROTO_OK)
        status = take_files(out, load, error);
    if (status == PROTO_OK)
        status = take_hosts(out, load, error);
    if (status == PROTO_OK)
        status = take_parts(out, load, error);
    if (status == PROTO_OK)
        status = take_holders(out, load, error);
    return status;
}

static enum proto_status take_failed(struct proto_failed *out, const Wire__Failed *failed,
                                     struct proto_error *error)
{
    if ((uint32_t)proto_status_from_wire(failed->status) != failed->status)
        return bad(error, "an unknown status");
    out->epoch = failed->epoch;
    out->batch = failed->batch;
    out->status = (enum proto_status)failed->status;
    out->unreached = failed->unreached;
    return take_text(&out->text, failed->text, error);
}

static enum proto_status take_batch(struct proto_batch *out, const Wire__Batch *batch,
                                    struct proto_error *error)
{
    size_t n = batch->n_seq;
    if (batch->n_pos != n || batch->n_n != n || batch->n_want != n || batch->n_candidates != n ||
        n > PROTO_MAX_BATCH_RANGES || batch->n_drops > PROTO_MAX_SEQUENCES)
        return bad(error, "a wrong number of ranges");
    out->epoch = batch->epoch;
    out->batch = batch->batch;
    enum proto_status status = take_array(&out->ranges, n, sizeof *out->ranges, error);
    if (status == PROTO_OK)
        status = take_array(&out->drops, batch->n_drops, sizeof *out->drops, error);
    if (status == PROTO_OK)
        status = take_times(&out->times, &out->n_times, batch->times, batch->n_times, error);
    if (status == PROTO_OK)
        status = take_host_times(&out->host_times, &out->n_host_times, batch->host_times,
                                 batch->n_host_times, error);
    if (status != PROTO_OK)
        return status;
    out->replay = batch->replay != 0;
    out->stop = batch->stop;
    out->n_ranges = (uint32_t)n;
    out->n_drops = (uint32_t)batch->n_drops;
    if (out->n_drops)
        memcpy(out->drops, batch->drops, out->n_drops * sizeof *out->drops);
    for (size_t i = 0; i < n; i++) {
        if (batch->want[i] > PROTO_WANT_ALL)
            return bad(error, "an unknown kind of wanted rows");
        out->ranges[i] = (struct proto_range){.seq = batch->seq[i],
                                              .pos = batch->pos[i],
                                              .n = batch->n[i],
                                              .want = (enum proto_want_rows)batch->want[i],
                                              .candidates = batch->candidates[i]};
    }
    return PROTO_OK;
}

static enum proto_status take_result(struct proto_result *out, const Wire__Result *result,
                                     struct proto_error *error)
{
    size_t n = result->n_range;
    if (result->n_pos != n || result->n_count != n || result->n_lse != n ||
        n > PROTO_MAX_BATCH_ROWS)
        return bad(error, "a wrong number of rows");
    out->epoch = result->epoch;
    out->batch = result->batch;
    out->n_vocab = result->n_vocab;
    out->last = result->last;
    enum proto_status status = take_array(&out->rows, n, sizeof *out->rows, error);
    if (status == PROTO_OK)
        status = take_times(&out->times, &out->n_times, result->times, result->n_times, error);
    if (status == PROTO_OK)
        status = take_host_times(&out->host_times, &out->n_host_times, result->host_times,
                                 result->n_host_times, error);
    if (status != PROTO_OK)
        return status;
    out->n_rows = (uint32_t)n;
    for (size_t i = 0; i < n; i++)
        out->rows[i] = (struct proto_result_row){.range = result->range[i],
                                                 .pos = result->pos[i],
                                                 .count = result->count[i],
                                                 .lse = result->lse[i]};
    return PROTO_OK;
}

static enum proto_status take_profile(struct proto_profile *out, const Wire__Profile *profile,
                                      struct proto_error *error)
{
    size_t n = profile->n_type;
    if (profile->n_row_ops_s != n || profile->n_rows_ops_s != n || n > PROTO_MAX_PROFILE_TYPES)
        return bad(error, "a wrong number of types");
    *out = (struct proto_profile){.free_bytes = profile->free_bytes,
                                  .read_bytes_s = profile->read_bytes_s,
                                  .float_ops_s = profile->float_ops_s,
                                  .wake_s = profile->wake_s,
                                  .run_s = profile->run_s,
                                  .disk_bytes_s = profile->disk_bytes_s,
                                  .machine = profile->machine,
                                  .machine_read_bytes_s = profile->machine_read_bytes_s,
                                  .machine_ops_s = profile->machine_ops_s,
                                  .n_types = (uint32_t)n};
    for (size_t i = 0; i < n; i++)
        out->types[i] = (struct proto_type_rate){.type = profile->type[i],
                                                 .row_ops_s = profile->row_ops_s[i],
                                                 .rows_ops_s = profile->rows_ops_s[i]};
    return PROTO_OK;
}

static enum proto_status take_probe(struct proto_probe *out, const Wire__Probe *probe,
                                    struct proto_error *error)
{
    out->number = probe->number;
    enum proto_status status = take_text(&out->endpoint, probe->endpoint, error);
    return status == PROTO_OK ? take_key(out->key, &probe->key, error) : status;
}

static enum proto_status take_fetch(struct proto_fetch *out, const Wire__Piece *fetch,
                                    struct proto_error *error)
{
    *out = (struct proto_fetch){.epoch = fetch->epoch,
                                .tensor = fetch->tensor,
                                .piece = fetch->piece,
                                .offset = fetch->offset,
                                .bytes = fetch->bytes};
    return take_key(out->proof, &fetch->proof, error);
}

static enum proto_status take_hashes(struct proto_hashes *out, const Wire__Hashes *hashes,
                                     struct proto_error *error)
{
    size_t n = hashes->n_source_endpoints;
    if (n > PROTO_MAX_SOURCES || hashes->source_keys.len != n * PROTO_KEY_BYTES)
        return bad(error, "a wrong number of sources");
    out->epoch = hashes->epoch;
    out->tensor = hashes->tensor;
    enum proto_status status = take_array(&out->sources, n, sizeof *out->sources, error);
    if (status != PROTO_OK)
        return status;
    out->n_sources = (uint32_t)n;
    for (size_t i = 0; i < n && status == PROTO_OK; i++) {
        memcpy(out->sources[i].key, hashes->source_keys.data + i * PROTO_KEY_BYTES,
               PROTO_KEY_BYTES);
        status = take_text(&out->sources[i].endpoint, hashes->source_endpoints[i], error);
    }
    return status;
}

static enum proto_status take_done(struct proto_experts_done *out, const Wire__ExpertsDone *done,
                                   struct proto_error *error)
{
    if ((uint32_t)proto_status_from_wire(done->status) != done->status)
        return bad(error, "an unknown status");
    out->epoch = done->epoch;
    out->number = done->number;
    out->status = (enum proto_status)done->status;
    out->compute_ns = done->compute_ns;
    return take_text(&out->text, done->text, error);
}

static enum proto_status take_commit(struct proto_commit *out, const Wire__Commit *commit,
                                     struct proto_error *error)
{
    size_t n = commit->n_seq;
    if (commit->n_pos != n || commit->n_kept != n || n > PROTO_MAX_SEQUENCES)
        return bad(error, "a wrong number of sequences");
    if (take_array(&out->held, n, sizeof *out->held, error) != PROTO_OK)
        return PROTO_NOMEM;
    out->epoch = commit->epoch;
    out->from = commit->from;
    out->move = commit->move != 0;
    out->moved = commit->moved;
    out->moved_bytes = commit->moved_bytes;
    out->n_held = (uint32_t)n;
    for (size_t i = 0; i < n; i++)
        out->held[i] = (struct proto_held){commit->seq[i], commit->pos[i], commit->kept[i]};
    return PROTO_OK;
}

static enum proto_status take_kv_held(struct proto_kv_held *out, const Wire__KvHeld *held,
                                      struct proto_error *error)
{
    size_t n = held->n_seq;
    if (held->n_version != n || held->n_end != n || n > PROTO_MAX_SEQUENCES)
        return bad(error, "a wrong number of sequences");
    if (take_array(&out->seqs, n, sizeof *out->seqs, error) != PROTO_OK)
        return PROTO_NOMEM;
    out->epoch = held->epoch;
    out->n_seqs = (uint32_t)n;
    for (size_t i = 0; i < n; i++)
        out->seqs[i] = (struct proto_kv_seq){held->seq[i], held->version[i], held->end[i]};
    return PROTO_OK;
}

static enum proto_status take_kv_fetch(struct proto_kv_fetch *out, const Wire__KvPages *fetch,
                                       struct proto_error *error)
{
    *out = (struct proto_kv_fetch){.epoch = fetch->epoch,
                                   .seq = fetch->seq,
                                   .version = fetch->version,
                                   .layer = fetch->layer,
                                   .page = fetch->page,
                                   .n = fetch->n,
                                   .bytes = fetch->bytes};
    return take_key(out->proof, &fetch->proof, error);
}

/* The bodies without lists and strings. */
static void take_plain(struct proto_msg *out, const Wire__Msg *wire)
{
    switch (out->kind) {
    case PROTO_MSG_WELCOME:
        out->welcome =
            (struct proto_welcome){wire->welcome->worker, wire->welcome->ping_ms,
                                   wire->welcome->deadline_ms, wire->welcome->profile != 0};
        break;
    case PROTO_MSG_PING:
        out->ping.sent_ns = wire->ping->sent_ns;
        break;
    case PROTO_MSG_PONG:
        out->pong = (struct proto_pong){.ping_sent_ns = wire->pong->ping_sent_ns,
                                        .received_ns = wire->pong->received_ns,
                                        .sent_ns = wire->pong->sent_ns,
                                        .steps = wire->pong->steps,
                                        .rss_bytes = wire->pong->rss_bytes,
                                        .computing = wire->pong->computing != 0,
                                        .stale = wire->pong->stale};
        break;
    case PROTO_MSG_PROGRESS:
        out->progress = (struct proto_progress){.epoch = wire->progress->epoch,
                                                .done_bytes = wire->progress->done_bytes,
                                                .total_bytes = wire->progress->total_bytes,
                                                .fetched_bytes = wire->progress->fetched_bytes};
        break;
    case PROTO_MSG_READY:
        out->ready = (struct proto_ready){.epoch = wire->ready->epoch,
                                          .weight_bytes = wire->ready->weight_bytes,
                                          .kv_limit_bytes = wire->ready->kv_limit_bytes,
                                          .scratch_bytes = wire->ready->scratch_bytes};
        break;
    case PROTO_MSG_WANT:
        out->want = (struct proto_want){wire->want->epoch, wire->want->tensor};
        break;
    case PROTO_MSG_CHUNK:
        out->chunk = (struct proto_chunk){.epoch = wire->chunk->epoch,
                                          .tensor = wire->chunk->tensor,
                                          .piece = wire->chunk->piece,
                                          .offset = wire->chunk->offset};
        break;
    case PROTO_MSG_LINK:
    case PROTO_MSG_LINKED:
    case PROTO_MSG_KV_LOST:
        out->link.epoch = wire->link->epoch;
        break;
    case PROTO_MSG_MEASURE:
        out->measure.bytes = wire->measure->bytes;
        break;
    case PROTO_MSG_MEASURED:
        out->measured.read_bytes_s = wire->measured->read_bytes_s;
        break;
    case PROTO_MSG_PROBED:
        out->probed =
            (struct proto_probed){wire->probed->number, wire->probed->rtt_s, wire->probed->bytes_s};
        break;
    case PROTO_MSG_RELEASE:
        out->release = (struct proto_release){wire->release->epoch, wire->release->older != 0};
        break;
    case PROTO_MSG_BYE:
        out->bye.drained = wire->bye->drained != 0;
        break;
    case PROTO_MSG_KV_CHUNK:
        out->kv_chunk = (struct proto_kv_chunk){.epoch = wire->kv_chunk->epoch,
                                                .seq = wire->kv_chunk->seq,
                                                .version = wire->kv_chunk->version,
                                                .layer = wire->kv_chunk->layer,
                                                .page = wire->kv_chunk->page,
                                                .n = wire->kv_chunk->n};
        break;
    case PROTO_MSG_ECHOED:
        out->echoed.number = wire->echoed->number;
        break;
    case PROTO_MSG_EXPERTS:
        out->experts = (struct proto_experts){.epoch = wire->experts->epoch,
                                              .number = wire->experts->number,
                                              .layer = wire->experts->layer};
        break;
    case PROTO_MSG_USED:
        out->used = (struct proto_used){.epoch = wire->used->epoch,
                                        .layer_first = wire->used->layer_first,
                                        .n_layers = wire->used->n_layers,
                                        .n_experts = wire->used->n_experts};
        break;
    default:
        break;
    }
}

static enum proto_status take(struct proto_msg *out, const Wire__Msg *wire,
                              struct proto_error *error)
{
    if (wire->body_case == WIRE__MSG__BODY__NOT_SET)
        return bad(error, "it is of no kind that this version knows");
    out->kind = (enum proto_kind)wire->body_case;
    switch (out->kind) {
    case PROTO_MSG_HELLO:
        return take_hello(&out->hello, wire->hello, error);
    case PROTO_MSG_REFUSE:
        return take_refuse(&out->refuse, wire->refuse, error);
    case PROTO_MSG_LOAD:
        return take_load(&out->load, wire->load, error);
    case PROTO_MSG_FAILED:
        return take_failed(&out->failed, wire->failed, error);
    case PROTO_MSG_BATCH:
        return take_batch(&out->batch, wire->batch, error);
    case PROTO_MSG_RESULT:
        return take_result(&out->result, wire->result, error);
    case PROTO_MSG_PROFILE:
        return take_profile(&out->profile, wire->profile, error);
    case PROTO_MSG_PROBE:
        return take_probe(&out->probe, wire->probe, error);
    case PROTO_MSG_ECHO:
        out->echo.number = wire->echo->number;
        return take_key(out->echo.proof, &wire->echo->proof, error);
    case PROTO_MSG_FETCH:
        return take_fetch(&out->fetch, wire->fetch, error);
    case PROTO_MSG_HASHES:
        return take_hashes(&out->hashes, wire->hashes, error);
    case PROTO_MSG_EXPERTS_DONE:
        return take_done(&out->experts_done, wire->experts_done, error);
    case PROTO_MSG_COMMIT:
    case PROTO_MSG_COMMITTED:
        return take_commit(&out->commit, wire->commit, error);
    case PROTO_MSG_KV_ASK:
        out->kv_ask.epoch = wire->kv_ask->epoch;
        return take_key(out->kv_ask.proof, &wire->kv_ask->proof, error);
    case PROTO_MSG_KV_HELD:
        return take_kv_held(&out->kv_held, wire->kv_held, error);
    case PROTO_MSG_KV_FETCH:
        return take_kv_fetch(&out->kv_fetch, wire->kv_fetch, error);
    default:
        take_plain(out, wire);
        return PROTO_OK;
    }
}

enum proto_status proto_msg_decode(const void *bytes, size_t len, struct proto_msg *msg,
                                   struct proto_error *error)
{
    memset(msg, 0, sizeof *msg);
    if (len > PROTO_MAX_HEADER_BYTES)
        return proto_fail(error, PROTO_FORMAT, "malformed message: %zu bytes, at most %u", len,
                          PROTO_MAX_HEADER_BYTES);
    struct arena arena;
    arena.used = arena.taken = 0;
    ProtobufCAllocator allocator = {arena_alloc, arena_free, &arena};
    Wire__Msg *wire = wire__msg__unpack(&allocator, len, bytes);
    if (!wire)
        return bad(error, "it does not parse");
    enum proto_status status = take(msg, wire, error);
    wire__msg__free_unpacked(wire, &allocator);
    if (status == PROTO_OK)
        status = proto__msg_check(msg, PROTO_FORMAT, error);
    if (status != PROTO_OK)
        proto_msg_finish(msg);
    return status;
}
