/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/wire_internal.h"

#include <math.h>
#include <string.h>

#define MAX_PERIOD_MS     3600000u
#define MAX_THREADS       65536u
#define MAX_EPOCH         (1ull << 62) /* so that there is always a next one */
#define MAX_MEASURE_BYTES (64ull << 30)
#define MAX_WEIGHT_TYPE   4096u /* numbers of types in files are far below */
/* What no machine reaches, so that sums and quotients of rates stay numbers. */
#define MIN_RATE    1.0
#define MAX_RATE    1e18
#define MAX_SECONDS 3600.0

/* Where a failed check is reported. */
struct check {
    const char *kind;
    enum proto_status status;
    struct proto_error *error;
};

#define TRY(call)                                                                                  \
    do {                                                                                           \
        enum proto_status try_status = (call);                                                     \
        if (try_status != PROTO_OK)                                                                \
            return try_status;                                                                     \
    } while (0)

static enum proto_status number(const struct check *c, const char *field, uint64_t value,
                                uint64_t min, uint64_t max)
{
    if (value >= min && value <= max)
        return PROTO_OK;
    return proto_fail(c->error, c->status, "%s message: %s is %llu, expected %llu to %llu", c->kind,
                      field, (unsigned long long)value, (unsigned long long)min,
                      (unsigned long long)max);
}

static enum proto_status string(const struct check *c, const char *field, const char *value)
{
    if (!value || memchr(value, 0, PROTO_MAX_STRING_BYTES + 1))
        return PROTO_OK;
    return proto_fail(c->error, c->status, "%s message: %s is longer than %u bytes", c->kind, field,
                      PROTO_MAX_STRING_BYTES);
}

static enum proto_status list(const struct check *c, const char *field, const void *items,
                              uint32_t n, uint32_t max)
{
    if (n > 0 && !items)
        return proto_fail(c->error, c->status, "%s message: %s has no items, expected %u", c->kind,
                          field, n);
    return number(c, field, n, 0, max);
}

static enum proto_status is_finite(const struct check *c, const char *field, double value)
{
    if (isfinite(value))
        return PROTO_OK;
    return proto_fail(c->error, c->status, "%s message: %s is not a finite number", c->kind, field);
}

/* A failure's code; OK would be no failure. */
static enum proto_status code(const struct check *c, enum proto_status value)
{
    if (value != PROTO_OK && proto_status_from_wire((unsigned)value) == value)
        return PROTO_OK;
    return proto_fail(c->error, c->status, "%s message: status %u is none of a failure", c->kind,
                      (unsigned)value);
}

static enum proto_status check_hello(const struct check *c, const struct proto_hello *hello)
{
    TRY(string(c, "name", hello->name));
    TRY(string(c, "endpoint", hello->endpoint));
    TRY(string(c, "isa", hello->isa));
    /* What another version means by its fields is unknown, and it must be told so, not that it is
     * malformed. */
    if (hello->version != PROTO_WIRE_VERSION)
        return PROTO_OK;
    TRY(number(c, "epoch", hello->epoch, 0, MAX_EPOCH));
    return number(c, "threads", hello->threads, 1, MAX_THREADS);
}

static enum proto_status check_welcome(const struct check *c, const struct proto_welcome *welcome)
{
    TRY(number(c, "ping_ms", welcome->ping_ms, 1, MAX_PERIOD_MS));
    return number(c, "deadline_ms", welcome->deadline_ms, 1, MAX_PERIOD_MS);
}

static enum proto_status check_part(const struct check *c, const struct proto_part *part,
                                    uint32_t n_hosts)
{
    TRY(number(c, "part's host", part->host, 0, (uint64_t)n_hosts - 1));
    TRY(number(c, "part's layer_end", part->layer_end, 1, PROTO_MAX_LAYERS));
    TRY(number(c, "part's layer_first", part->layer_first, 0, part->layer_end - 1));
    TRY(number(c, "part's expert_end", part->expert_end, 1, PROTO_MAX_EXPERTS));
    TRY(number(c, "part's expert_first", part->expert_first, 0, part->expert_end - 1));
    TRY(number(c, "part's n_slices", part->n_slices, 1, PROTO_MAX_SLICES));
    return number(c, "part's slice", part->slice, 0, part->n_slices - 1);
}

static enum proto_status check_hosts(const struct check *c, const struct proto_load *load)
{
    TRY(list(c, "hosts", load->hosts, load->n_hosts, PROTO_MAX_WORKERS));
    TRY(list(c, "parts", load->parts, load->n_parts, load->n_hosts ? PROTO_MAX_PARTS : 0));
    TRY(list(c, "askers", load->askers, load->n_askers, PROTO_MAX_WORKERS));
    for (uint32_t i = 0; i < load->n_hosts; i++) {
        TRY(string(c, "host's endpoint", load->hosts[i].endpoint));
        TRY(string(c, "host's name", load->hosts[i].name));
    }
    for (uint32_t i = 0; i < load->n_parts; i++)
        TRY(check_part(c, &load->parts[i], load->n_hosts));
    if (load->self == PROTO_NO_HOST)
        return PROTO_OK;
    return number(c, "self", load->self + 1ull, 1, load->n_hosts);
}

static enum proto_status check_holders(const struct check *c, const struct proto_load *load)
{
    TRY(list(c, "holders", load->holders, load->n_holders, PROTO_MAX_WORKERS));
    for (uint32_t i = 0; i < load->n_holders; i++) {
        const struct proto_holder *holder = &load->holders[i];
        TRY(string(c, "endpoint", holder->endpoint));
        TRY(number(c, "layer_end", holder->layer_end, 0, PROTO_MAX_LAYERS));
        TRY(number(c, "layer_first", holder->layer_first, 0, holder->layer_end));
    }
    return PROTO_OK;
}

static enum proto_status check_load(const struct check *c, const struct proto_load *load)
{
    bool has_stage = load->has_stage;
    TRY(number(c, "n_stages", load->n_stages, 1, PROTO_MAX_WORKERS));
    TRY(number(c, "stage", load->stage, 0, load->n_stages - 1));
    if (!has_stage && (load->layer_end || load->embed || load->head))
        return proto_fail(c->error, c->status, "%s message: layers without a stage", c->kind);
    TRY(number(c, "layer_end", load->layer_end, 0, PROTO_MAX_LAYERS));
    TRY(number(c, "layer_first", load->layer_first, 0, load->layer_end));
    TRY(number(c, "ctx", load->ctx, 1, PROTO_MAX_CONTEXT));
    TRY(number(c, "max_seqs", load->max_seqs, 1, PROTO_MAX_SEQUENCES));
    TRY(number(c, "max_rows", load->max_rows, 1, PROTO_MAX_BATCH_ROWS));
    TRY(string(c, "next_endpoint", load->next_endpoint));
    TRY(string(c, "synthetic", load->synthetic));
    TRY(list(c, "files", load->files, load->n_files, PROTO__MAX_FILES));
    for (uint32_t i = 0; i < load->n_files; i++)
        TRY(string(c, "files", load->files[i]));
    TRY(check_holders(c, load));
    return check_hosts(c, load);
}

static enum proto_status check_fetch(const struct check *c, const struct proto_fetch *fetch)
{
    TRY(number(c, "tensor", fetch->tensor, 0, PROTO_MAX_TENSORS - 1));
    TRY(number(c, "bytes", fetch->bytes, 1, PROTO_CHUNK_BYTES));
    return number(c, "offset", fetch->offset, 0, PROTO_PIECE_BYTES - fetch->bytes);
}

static enum proto_status check_chunk(const struct check *c, const struct proto_chunk *chunk)
{
    TRY(number(c, "tensor", chunk->tensor, 0, PROTO_MAX_TENSORS - 1));
    return number(c, "offset", chunk->offset, 0, PROTO_PIECE_BYTES - 1);
}

static enum proto_status host_times(const struct check *c, const struct proto_host_time *times,
                                    uint32_t n)
{
    TRY(list(c, "host_times", times, n, PROTO_MAX_WORKERS));
    for (uint32_t i = 0; i < n; i++)
        TRY(number(c, "host", times[i].host, 0, PROTO_MAX_WORKERS - 1));
    return PROTO_OK;
}

static enum proto_status check_batch(const struct check *c, const struct proto_batch *batch)
{
    TRY(number(c, "batch", batch->batch, 1, UINT64_MAX));
    TRY(list(c, "ranges", batch->ranges, batch->n_ranges, PROTO_MAX_BATCH_RANGES));
    TRY(list(c, "drops", batch->drops, batch->n_drops, PROTO_MAX_SEQUENCES));
    TRY(list(c, "times", batch->times, batch->n_times, PROTO_MAX_WORKERS));
    TRY(number(c, "stop", batch->stop, 0, PROTO_MAX_WORKERS));
    TRY(host_times(c, batch->host_times, batch->n_host_times));
    for (uint32_t i = 0; i < batch->n_ranges; i++) {
        const struct proto_range *range = &batch->ranges[i];
        TRY(number(c, "seq", range->seq, 0, PROTO_MAX_SEQUENCES - 1));
        TRY(number(c, "n", range->n, 1, PROTO_MAX_BATCH_ROWS));
        TRY(number(c, "pos", range->pos, 0, PROTO_MAX_CONTEXT - range->n));
        TRY(number(c, "want", (unsigned)range->want, PROTO_WANT_NONE, PROTO_WANT_ALL));
        TRY(number(c, "candidates", range->candidates, 0, PROTO_MAX_CANDIDATES));
    }
    for (uint32_t i = 0; i < batch->n_drops; i++)
        TRY(number(c, "drops", batch->drops[i], 0, PROTO_MAX_SEQUENCES - 1));
    return number(c, "rows", proto_batch_rows(batch), 0, PROTO_MAX_BATCH_ROWS);
}

static enum proto_status check_result(const struct check *c, const struct proto_result *result)
{
    TRY(number(c, "batch", result->batch, 1, UINT64_MAX));
    TRY(list(c, "rows", result->rows, result->n_rows, PROTO_MAX_BATCH_ROWS));
    TRY(list(c, "times", result->times, result->n_times, PROTO_MAX_WORKERS));
    TRY(host_times(c, result->host_times, result->n_host_times));
    TRY(number(c, "n_vocab", result->n_vocab, result->n_rows > 0, PROTO_MAX_VOCAB));
    for (uint32_t i = 0; i < result->n_rows; i++) {
        const struct proto_result_row *row = &result->rows[i];
        uint32_t most =
            result->n_vocab < PROTO_MAX_CANDIDATES ? result->n_vocab : PROTO_MAX_CANDIDATES;
        TRY(number(c, "range", row->range, 0, PROTO_MAX_BATCH_RANGES - 1));
        TRY(number(c, "pos", row->pos, 0, PROTO_MAX_CONTEXT - 1));
        TRY(number(c, "count", row->count, 0, most));
        TRY(is_finite(c, "lse", row->lse));
    }
    return PROTO_OK;
}

static enum proto_status check_measured(const struct check *c,
                                        const struct proto_measured *measured)
{
    TRY(is_finite(c, "read_bytes_s", measured->read_bytes_s));
    if (measured->read_bytes_s < 0)
        return proto_fail(c->error, c->status, "%s message: read_bytes_s is negative", c->kind);
    return PROTO_OK;
}

static enum proto_status real(const struct check *c, const char *field, double value, double min,
                              double max)
{
    if (value >= min && value <= max) /* false for what is no number */
        return PROTO_OK;
    return proto_fail(c->error, c->status, "%s message: %s is %g, expected %g to %g", c->kind,
                      field, value, min, max);
}

static enum proto_status check_profile(const struct check *c, const struct proto_profile *profile)
{
    TRY(real(c, "read_bytes_s", profile->read_bytes_s, MIN_RATE, MAX_RATE));
    TRY(real(c, "float_ops_s", profile->float_ops_s, MIN_RATE, MAX_RATE));
    TRY(real(c, "wake_s", profile->wake_s, 0, MAX_SECONDS));
    TRY(real(c, "run_s", profile->run_s, 0, MAX_SECONDS));
    TRY(real(c, "disk_bytes_s", profile->disk_bytes_s, 0, MAX_RATE));
    TRY(real(c, "machine_read_bytes_s", profile->machine_read_bytes_s, 0, MAX_RATE));
    TRY(real(c, "machine_ops_s", profile->machine_ops_s, 0, MAX_RATE));
    TRY(number(c, "types", profile->n_types, 0, PROTO_MAX_PROFILE_TYPES));
    for (uint32_t i = 0; i < profile->n_types; i++) {
        TRY(number(c, "type", profile->types[i].type, 0, MAX_WEIGHT_TYPE));
        TRY(real(c, "row_ops_s", profile->types[i].row_ops_s, MIN_RATE, MAX_RATE));
        TRY(real(c, "rows_ops_s", profile->types[i].rows_ops_s, MIN_RATE, MAX_RATE));
    }
    return PROTO_OK;
}

static enum proto_status check_done(const struct check *c, const struct proto_experts_done *done)
{
    if (done->status != PROTO_OK)
        TRY(code(c, done->status));
    return string(c, "text", done->text);
}

static enum proto_status check_hashes(const struct check *c, const struct proto_hashes *hashes)
{
    TRY(list(c, "sources", hashes->sources, hashes->n_sources, PROTO_MAX_SOURCES));
    for (uint32_t i = 0; i < hashes->n_sources; i++)
        TRY(string(c, "endpoint", hashes->sources[i].endpoint));
    return number(c, "tensor", hashes->tensor, 0, PROTO_MAX_TENSORS - 1);
}

static enum proto_status check_used(const struct check *c, const struct proto_used *used)
{
    TRY(number(c, "n_experts", used->n_experts, 0, PROTO_MAX_EXPERTS));
    TRY(number(c, "n_layers", used->n_layers, 0, PROTO_MAX_LAYERS));
    return number(c, "layer_first", used->layer_first, 0, PROTO_MAX_LAYERS - used->n_layers);
}

static enum proto_status check_commit(const struct check *c, const struct proto_commit *commit)
{
    TRY(list(c, "held", commit->held, commit->n_held, PROTO_MAX_SEQUENCES));
    for (uint32_t i = 0; i < commit->n_held; i++) {
        TRY(number(c, "seq", commit->held[i].seq, 0, PROTO_MAX_SEQUENCES - 1));
        TRY(number(c, "pos", commit->held[i].pos, 0, PROTO_MAX_CONTEXT));
        TRY(number(c, "kept", commit->held[i].kept, 0, PROTO_MAX_CONTEXT));
    }
    return PROTO_OK;
}

static enum proto_status check_kv_held(const struct check *c, const struct proto_kv_held *held)
{
    TRY(list(c, "seqs", held->seqs, held->n_seqs, PROTO_MAX_SEQUENCES));
    for (uint32_t i = 0; i < held->n_seqs; i++) {
        TRY(number(c, "seq", held->seqs[i].seq, 0, PROTO_MAX_SEQUENCES - 1));
        TRY(number(c, "end", held->seqs[i].end, 0, PROTO_MAX_CONTEXT));
    }
    return PROTO_OK;
}

static enum proto_status check_kv_chunk(const struct check *c, const struct proto_kv_chunk *chunk)
{
    TRY(number(c, "seq", chunk->seq, 0, PROTO_MAX_SEQUENCES - 1));
    TRY(number(c, "layer", chunk->layer, 0, PROTO_MAX_LAYERS - 1));
    TRY(number(c, "n", chunk->n, 0, PROTO_MAX_KV_PAGES));
    return number(c, "page", chunk->page, 0, PROTO_MAX_CONTEXT);
}

static enum proto_status check_kv_fetch(const struct check *c, const struct proto_kv_fetch *fetch)
{
    const struct proto_kv_chunk chunk = {
        .seq = fetch->seq, .layer = fetch->layer, .page = fetch->page, .n = fetch->n};
    TRY(number(c, "bytes", fetch->bytes, 1, PROTO_MAX_PAYLOAD_BYTES));
    return check_kv_chunk(c, &chunk);
}

enum proto_status proto__msg_check(const struct proto_msg *msg, enum proto_status status,
                                   struct proto_error *error)
{
    const struct check c = {proto_kind_name(msg->kind), status, error};
    switch (msg->kind) {
    case PROTO_MSG_HELLO:
        return check_hello(&c, &msg->hello);
    case PROTO_MSG_WELCOME:
        return check_welcome(&c, &msg->welcome);
    case PROTO_MSG_REFUSE:
        TRY(code(&c, msg->refuse.status));
        return string(&c, "text", msg->refuse.text);
    case PROTO_MSG_LOAD:
        return check_load(&c, &msg->load);
    case PROTO_MSG_PROGRESS:
        return number(&c, "done_bytes", msg->progress.done_bytes, 0, msg->progress.total_bytes);
    case PROTO_MSG_FAILED:
        TRY(code(&c, msg->failed.status));
        return string(&c, "text", msg->failed.text);
    case PROTO_MSG_WANT:
        return number(&c, "tensor", msg->want.tensor, 0, PROTO_MAX_TENSORS - 1);
    case PROTO_MSG_HASHES:
        return check_hashes(&c, &msg->hashes);
    case PROTO_MSG_FETCH:
        return check_fetch(&c, &msg->fetch);
    case PROTO_MSG_CHUNK:
        return check_chunk(&c, &msg->chunk);
    case PROTO_MSG_BATCH:
        return check_batch(&c, &msg->batch);
    case PROTO_MSG_RESULT:
        return check_result(&c, &msg->result);
    case PROTO_MSG_MEASURE:
        return number(&c, "bytes", msg->measure.bytes, 1, MAX_MEASURE_BYTES);
    case PROTO_MSG_MEASURED:
        return check_measured(&c, &msg->measured);
    case PROTO_MSG_PROFILE:
        return check_profile(&c, &msg->profile);
    case PROTO_MSG_PROBE:
        return string(&c, "endpoint", msg->probe.endpoint);
    case PROTO_MSG_PROBED:
        TRY(real(&c, "rtt_s", msg->probed.rtt_s, 0, MAX_SECONDS));
        return real(&c, "bytes_s", msg->probed.bytes_s, 0, MAX_RATE);
    case PROTO_MSG_EXPERTS:
        return number(&c, "layer", msg->experts.layer, 0, PROTO_MAX_LAYERS - 1);
    case PROTO_MSG_EXPERTS_DONE:
        return check_done(&c, &msg->experts_done);
    case PROTO_MSG_USED:
        return check_used(&c, &msg->used);
    case PROTO_MSG_COMMIT:
    case PROTO_MSG_COMMITTED:
        return check_commit(&c, &msg->commit);
    case PROTO_MSG_KV_HELD:
        return check_kv_held(&c, &msg->kv_held);
    case PROTO_MSG_KV_FETCH:
        return check_kv_fetch(&c, &msg->kv_fetch);
    case PROTO_MSG_KV_CHUNK:
        return check_kv_chunk(&c, &msg->kv_chunk);
    case PROTO_MSG_PING:
    case PROTO_MSG_PONG:
    case PROTO_MSG_READY:
    case PROTO_MSG_LINK:
    case PROTO_MSG_LINKED:
    case PROTO_MSG_BYE:
    case PROTO_MSG_ECHO:
    case PROTO_MSG_ECHOED:
    case PROTO_MSG_USAGE:
    case PROTO_MSG_RELEASE:
    case PROTO_MSG_KV_ASK:
    case PROTO_MSG_KV_LOST:
        return PROTO_OK;
    }
    return proto_fail(error, status, "message of unknown kind %u", (unsigned)msg->kind);
}
