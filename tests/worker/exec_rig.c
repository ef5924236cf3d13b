/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/worker/exec_rig.h"
#include "worker/lazy.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[] = "/tmp/caravan-rig-XXXXXX";
static char path[sizeof dir + 16];

static void require(enum proto_status status, const struct proto_error *error)
{
    if (status == PROTO_OK)
        return;
    fprintf(stderr, "%s\n", error->text);
    exit(1);
}

static void remove_files(void)
{
    unlink(path);
    rmdir(dir);
}

static const char *make(const struct shard_mkmodel_options *options, char digest[65])
{
    struct proto_error error;
    char ignored[65];
    if (!path[0]) {
        if (!mkdtemp(dir)) {
            perror(dir);
            exit(1);
        }
        snprintf(path, sizeof path, "%s/model.gguf", dir);
        atexit(remove_files);
    }
    require(shard_mkmodel(options, path, digest ? digest : ignored, &error), &error);
    return path;
}

const char *rig_make(const char *preset, const char *type, uint64_t seed, bool sparse,
                     char digest[65])
{
    const struct shard_mkmodel_options options = {
        .preset = preset, .type = type, .seed = seed, .sparse = sparse};
    return make(&options, digest);
}

const char *rig_make_with(const char *preset, const char *type, const char *const *sets,
                          size_t n_sets)
{
    const struct shard_mkmodel_options options = {
        .preset = preset, .type = type, .seed = 3, .sets = sets, .n_sets = n_sets};
    return make(&options, NULL);
}

void rig_open(struct rig *rig, const char *file)
{
    struct proto_error error;
    memset(rig, 0, sizeof *rig);
    require(shard_gguf_open(&rig->gguf, file, &error), &error);
    require(shard_model_create(&rig->model, rig->gguf, &error), &error);
}

void rig_close(struct rig *rig)
{
    rig_stop(rig);
    shard_model_destroy(rig->model);
    shard_gguf_close(rig->gguf);
}

/* What happens to rows between two stages, as on the wire. */
static void pass_rows(struct rig *rig, uint32_t stage, size_t n)
{
    const struct shard_program *from = rig->stages[stage].program;
    const struct shard_program *to = rig->stages[stage + 1].program;
    worker_exec_pack_rows(from, rig->x, n);
    memcpy(rig->wire, rig->x, n * shard_row_floats(rig->model, from->layer_end) * sizeof(float));
    worker_exec_unpack_rows(to, rig->x, rig->wire, n);
}

/* Bytes arrive at any address. */
static char *odd_copy(const void *bytes, size_t len)
{
    char *copy = malloc(len + 1);
    if (!copy)
        exit(1);
    memcpy(copy + 1, bytes, len);
    return copy + 1;
}

static enum proto_status send_request(void *arg, uint32_t host, uint32_t layer, const void *bytes,
                                      size_t len, struct proto_error *error)
{
    struct rig *rig = arg;
    const void *answer;
    size_t answer_len;
    char *request = odd_copy(bytes, len);
    enum proto_status status = worker_expert_host_run(rig->hosts[host].host, layer, request, len,
                                                      &answer, &answer_len, error);
    free(request - 1);
    if (status != PROTO_OK)
        return status;
    rig->answers[rig->n_answers++] =
        (struct rig_answer){.host = host, .data = odd_copy(answer, answer_len), .len = answer_len};
    rig->n_requests++;
    rig->request_bytes += len;
    rig->answer_bytes += answer_len;
    return PROTO_OK;
}

static void drop_received(struct rig *rig)
{
    if (rig->received)
        free(rig->received - 1);
    rig->received = NULL;
}

/* Of the answers that wait, the last; the one received before is no longer valid. */
static enum proto_status receive_answer(void *arg, uint32_t *host, const void **data, size_t *len,
                                        struct proto_error *error)
{
    struct rig *rig = arg;
    drop_received(rig);
    if (rig->n_answers == 0)
        return proto_fail(error, PROTO_TIMEOUT, "no answer");
    struct rig_answer answer = rig->answers[--rig->n_answers];
    if (rig->tamper)
        rig->tamper(rig, &answer);
    rig->received = answer.data;
    *host = answer.host;
    *data = answer.data;
    *len = answer.len;
    return PROTO_OK;
}

static struct shard_split split_of(const struct rig *rig, uint32_t worker)
{
    const struct rig_options *o = &rig->options;
    struct shard_split split = {.worker = worker, .parts = o->parts, .n_parts = o->n_parts};
    if (worker >= o->n_stages)
        return split;
    split.layer_first = worker ? o->ends[worker - 1] : 0;
    split.layer_end = o->ends[worker];
    split.embed = worker == 0;
    split.head = split.layer_end == rig->model->n_layers;
    return split;
}

static const struct kern_table *table_of(const struct rig_options *o)
{
    return kern_table_get(o->isa ? (enum kern_isa)(o->isa - 1) : kern_isa_best());
}

static void load_weights(struct rig *rig, struct worker_weights *weights,
                         const struct shard_program *program)
{
    struct proto_error error;
    struct worker_load_options load = {.pool = rig->pool, .file = rig->gguf};
    if (rig->options.in_file)
        require(worker_lazy_create(&load.lazy, program, rig->gguf, 0, &error), &error);
    require(worker_load(weights, program, &load, &error), &error);
}

static void start_host(struct rig *rig, uint32_t worker)
{
    struct proto_error error;
    struct rig_host *host = &rig->hosts[worker];
    struct shard_split split = split_of(rig, worker);
    if (shard_program_create_host(&host->program, rig->model, &split, &error) != PROTO_OK)
        return;
    load_weights(rig, &host->weights, host->program);
    struct worker_expert_host_options options = {.table = table_of(&rig->options),
                                                 .pool = rig->pool,
                                                 .max_rows = rig->options.max_rows,
                                                 .inexact = rig->options.inexact};
    require(worker_expert_host_create(&host->host, host->program, &host->weights, &options, &error),
            &error);
}

static void stop_host(struct rig_host *host)
{
    worker_expert_host_destroy(host->host);
    worker_weights_finish(&host->weights);
    shard_program_destroy(host->program);
    memset(host, 0, sizeof *host);
}

static void start_stage(struct rig *rig, struct rig_stage *stage, uint32_t worker)
{
    struct proto_error error;
    const struct rig_options *o = &rig->options;
    struct shard_split split = split_of(rig, worker);
    require(shard_program_create_split(&stage->program, rig->model, &split, &error), &error);
    load_weights(rig, &stage->weights, stage->program);
    struct shard_kv_options kv = {.type = o->kv, .max_seqs = o->max_seqs, .ctx = o->ctx};
    require(shard_kv_create(&stage->kv, stage->program, &kv, &error), &error);
    struct worker_exec_options exec = {.table = table_of(o),
                                       .pool = rig->pool,
                                       .kv = stage->kv,
                                       .remote = &rig->remote,
                                       .max_rows = o->max_rows,
                                       .inexact = o->inexact};
    require(worker_exec_create(&stage->exec, stage->program, &stage->weights, &exec, &error),
            &error);
}

void rig_start(struct rig *rig, const struct rig_options *options)
{
    struct proto_error error;
    rig->options = *options;
    struct rig_options *o = &rig->options;
    o->threads = o->threads ? o->threads : 1;
    o->max_rows = o->max_rows ? o->max_rows : 512;
    o->max_seqs = o->max_seqs ? o->max_seqs : 4;
    if (!o->ends) {
        o->ends = &rig->model->n_layers;
        o->n_stages = 1;
    }
    require(kern_pool_create(&rig->pool, o->threads, &error), &error);
    rig->remote =
        (struct worker_remote){.send = send_request, .receive = receive_answer, .arg = rig};
    for (uint32_t s = 0; s < o->n_stages; s++)
        start_stage(rig, &rig->stages[s], s);
    for (uint32_t w = 0; w < RIG_MAX_WORKERS && o->parts; w++)
        start_host(rig, w);
    size_t stride = 0;
    for (uint32_t s = 0; s < o->n_stages; s++) {
        size_t of = worker_exec_stride(rig->stages[s].program);
        stride = of > stride ? of : stride;
    }
    size_t bytes = o->max_rows * stride * sizeof(float);
    rig->x = aligned_alloc(64, bytes);
    rig->wire = malloc(bytes);
    require(rig->x && rig->wire ? PROTO_OK : proto_fail_nomem(&error, bytes, "rows"), &error);
}

void rig_stop(struct rig *rig)
{
    for (uint32_t s = 0; s < RIG_MAX_STAGES; s++) {
        struct rig_stage *stage = &rig->stages[s];
        worker_exec_destroy(stage->exec);
        shard_kv_destroy(stage->kv);
        worker_weights_finish(&stage->weights);
        shard_program_destroy(stage->program);
        memset(stage, 0, sizeof *stage);
    }
    for (uint32_t w = 0; w < RIG_MAX_WORKERS; w++)
        stop_host(&rig->hosts[w]);
    drop_received(rig);
    while (rig->n_answers > 0)
        free(rig->answers[--rig->n_answers].data - 1);
    kern_pool_destroy(rig->pool);
    free(rig->x);
    free(rig->wire);
    rig->pool = NULL;
    rig->x = rig->wire = NULL;
}

struct sink {
    float *to;
    size_t n_vocab;
};

static enum proto_status take_logits(void *arg, const struct worker_result_row *rows,
                                     uint32_t n_rows, float *logits, size_t ld,
                                     struct proto_error *error)
{
    struct sink *sink = arg;
    (void)rows;
    (void)error;
    for (uint32_t r = 0; r < n_rows; r++) {
        memcpy(sink->to, logits + r * ld, sink->n_vocab * sizeof(float));
        sink->to += sink->n_vocab;
    }
    return PROTO_OK;
}

enum proto_status rig_run(struct rig *rig, const struct proto_range *ranges, uint32_t n_ranges,
                          const int32_t *ids, float *logits, struct proto_error *error)
{
    struct sink sink = {.to = logits, .n_vocab = rig->model->n_vocab};
    struct worker_batch batch = {.ranges = ranges, .n_ranges = n_ranges, .ids = ids, .x = rig->x};
    enum proto_status status = PROTO_OK;
    size_t n_rows = 0;
    for (uint32_t i = 0; i < n_ranges; i++)
        n_rows += ranges[i].n;
    for (uint32_t s = 0; s < rig->options.n_stages && status == PROTO_OK; s++) {
        status = worker_exec_run(rig->stages[s].exec, &batch, take_logits, &sink, error);
        if (status == PROTO_OK && s + 1 < rig->options.n_stages)
            pass_rows(rig, s, n_rows);
    }
    return status;
}

enum proto_status rig_feed(struct rig *rig, uint32_t seq, uint64_t pos, const int32_t *ids,
                           uint32_t n, uint32_t batch, float *logits, struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    for (uint32_t i = 0; i < n && status == PROTO_OK; i += batch) {
        struct proto_range range = {
            .seq = seq, .pos = pos + i, .n = n - i < batch ? n - i : batch, .want = PROTO_WANT_ALL};
        status = rig_run(rig, &range, 1, ids + i, logits + (size_t)i * rig->model->n_vocab, error);
    }
    return status;
}

void rig_drop(struct rig *rig, uint32_t seq)
{
    for (uint32_t s = 0; s < rig->options.n_stages; s++)
        shard_kv_drop(rig->stages[s].kv, seq);
}
