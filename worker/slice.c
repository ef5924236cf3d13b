/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/slice.h"

#include <stdlib.h>
#include <string.h>

#include "proto/log.h"
#include "worker/lazy.h"

static bool same_tensors(const struct shard_gguf *card, const struct shard_gguf *file)
{
    size_t n = shard_gguf_n_tensors(card);
    if (shard_gguf_n_tensors(file) != n)
        return false;
    for (size_t i = 0; i < n; i++) {
        const struct shard_tensor *a = shard_gguf_tensor(card, i), *b = shard_gguf_tensor(file, i);
        if (a->type != b->type || a->bytes != b->bytes || strcmp(a->name, b->name) != 0)
            return false;
    }
    return true;
}

/* Opens the local copy that the coordinator named; *out stays NULL where none was named. */
static enum proto_status open_local_copy(struct shard_gguf **out, const struct shard_gguf *card,
                                         const struct proto_load *load, struct proto_error *error)
{
    if (load->n_files == 0)
        return PROTO_OK;
    enum proto_status status = shard_gguf_open(out, load->files[0], error);
    if (status != PROTO_OK)
        return status;
    if (same_tensors(card, *out))
        return PROTO_OK;
    shard_gguf_close(*out);
    *out = NULL;
    return proto_fail(error, PROTO_INVALID,
                      "%s: the file is not the one that the coordinator opened; was it replaced? "
                      "start again",
                      load->files[0]);
}

/* The store only saves time: *out stays NULL where it cannot be opened. */
static void open_store(struct shard_store **out, const struct worker_slice_options *options,
                       bool local)
{
    struct proto_error why;
    if (local && !options->keep_packed)
        return;
    if (shard_store_open(out, options->cache_dir, &why) == PROTO_OK)
        shard_store_limit(*out, options->cache_limit_bytes);
    else
        proto_log(PROTO_LOG_WARN, "WORKER-UNKEPT", "why=\"%s\"", why.text);
}

static bool is_synthetic(const struct proto_load *load)
{
    return load->synthetic && load->synthetic[0];
}

/* *out stays NULL where the model has weights of its own. */
static enum proto_status open_synthetic(struct shard_synthetic **out, const struct shard_gguf *card,
                                        const struct proto_load *load, struct proto_error *error)
{
    if (!is_synthetic(load))
        return PROTO_OK;
    enum proto_status status = shard_synthetic_create(out, load->synthetic, error);
    if (status != PROTO_OK || same_tensors(card, shard_synthetic_gguf(*out)))
        return status;
    shard_synthetic_destroy(*out);
    *out = NULL;
    return proto_fail(error, PROTO_VERSION,
                      "the synthetic model %.64s has other tensors here than at the coordinator; "
                      "install the same release of Caravan on both machines",
                      load->synthetic);
}

/* What is loaded already, before the program at hand. */
struct before {
    const struct worker_slice_options *options;
    uint64_t done, total, fetched; /* of all up to now */
    uint64_t base, base_fetched;
};

static void add_progress(void *arg, uint64_t done, uint64_t total, uint64_t fetched)
{
    struct before *before = arg;
    before->done = before->base + done;
    before->total = before->base + total;
    before->fetched = before->base_fetched + fetched;
    if (before->options->progress)
        before->options->progress(before->options->progress_arg, before->done, before->total,
                                  before->fetched);
}

/* What a slice takes, less experts that could stay in the model's file: those. */
struct needs {
    uint64_t always, experts, least; /* of slots for them */
};

static void add_needs(struct needs *needs, const struct shard_program *program)
{
    uint64_t experts = worker_lazy_weight_bytes(program);
    needs->always += shard_program_weight_bytes(program) - experts;
    needs->experts += experts;
    needs->least += worker_lazy_least_bytes(program);
}

static struct needs needs_of(const struct worker_slice *slice, const struct proto_load *load,
                             const struct worker_slice_options *options)
{
    struct needs needs = {0};
    if (slice->program) {
        unsigned threads = kern_pool_threads(options->compute_pool);
        add_needs(&needs, slice->program);
        needs.always +=
            shard_kv_limit(slice->program, (enum kern_kv)load->kv_type, load->ctx, load->max_seqs) +
            worker_exec_scratch_bytes(slice->program, load->max_rows, threads, load->ctx);
    }
    if (slice->host_program) {
        add_needs(&needs, slice->host_program);
        needs.always += worker_expert_host_bytes(slice->host_program, load->max_rows);
    }
    return needs;
}

/* Half of what is left goes to slots for experts: the file's pages need room as well. */
static enum proto_status leave_experts(struct worker_lazy **out,
                                       const struct shard_program *program,
                                       const struct shard_gguf *file, const struct needs *needs,
                                       uint64_t memory_bytes, struct proto_error *error)
{
    double share = (double)worker_lazy_weight_bytes(program) / (double)needs->experts;
    double slots = (double)(memory_bytes - needs->always) / 2 * share;
    return worker_lazy_create(out, program, file, (uint64_t)slots, error);
}

/* Where the slice does not fit into memory, its experts stay in the local copy. */
static enum proto_status load_program(struct worker_weights *weights,
                                      const struct shard_program *program,
                                      const struct needs *needs,
                                      const struct worker_slice_options *options,
                                      struct worker_load_options *how, struct proto_error *error)
{
    uint64_t memory = options->memory_bytes;
    how->lazy = NULL;
    if (how->file && memory && needs->experts && needs->always + needs->experts > memory) {
        if (needs->always + needs->least > memory)
            return proto_fail(error, PROTO_CAPACITY,
                              "%.2f GB of weights besides experts, KV and buffers, and %.2f GB for "
                              "the experts of a layer, are more than the %.2f GB of memory",
                              (double)needs->always / 1e9, (double)needs->least / 1e9,
                              (double)memory / 1e9);
        enum proto_status status =
            leave_experts(&how->lazy, program, how->file, needs, memory, error);
        if (status != PROTO_OK)
            return status;
    }
    return worker_load(weights, program, how, error);
}

static enum proto_status load_both(struct worker_slice *slice, const struct proto_load *load,
                                   const struct worker_slice_options *options,
                                   struct worker_load_options *how, struct proto_error *error)
{
    struct before before = {.options = options};
    struct needs needs = needs_of(slice, load, options);
    enum proto_status status = PROTO_OK;
    how->progress = add_progress;
    how->progress_arg = &before;
    if (slice->program)
        status = load_program(&slice->weights, slice->program, &needs, options, how, error);
    before.base = before.total;
    before.base_fetched = before.fetched;
    if (status == PROTO_OK && slice->host_program)
        status =
            load_program(&slice->host_weights, slice->host_program, &needs, options, how, error);
    return status;
}

/* Weights, not lost, of slices of the same model; `to` has room for two a slice. */
static uint32_t list_loaded(const struct worker_slice *slice,
                            const struct worker_slice_options *options, struct worker_loaded *to)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < options->n_before; i++) {
        struct worker_slice *before = options->before[i];
        if (before->synthetic != slice->synthetic || before->card_bytes != slice->card_bytes ||
            memcmp(before->card, slice->card, slice->card_bytes) != 0 || worker_slice_lost(before))
            continue;
        if (before->program)
            to[n++] = (struct worker_loaded){before->program, &before->weights};
        if (before->host_program)
            to[n++] = (struct worker_loaded){before->host_program, &before->host_weights};
    }
    return n;
}

static enum proto_status load_weights(struct worker_slice *slice, const struct proto_load *load,
                                      const struct worker_slice_options *options,
                                      struct proto_error *error)
{
    struct shard_gguf *file = NULL;
    struct shard_store *store = NULL;
    struct kern_pool *pool = NULL;
    struct shard_synthetic *synthetic = NULL;
    struct worker_loaded loaded[2 * WORKER_MAX_SLICES];
    enum proto_status status = open_synthetic(&synthetic, slice->gguf, load, error);
    if (status == PROTO_OK && !synthetic)
        status = open_local_copy(&file, slice->gguf, load, error);
    if (status == PROTO_OK && !synthetic)
        open_store(&store, options, file != NULL);
    if (status == PROTO_OK)
        status = kern_pool_create(&pool, options->threads, error);
    if (status == PROTO_OK) {
        struct worker_load_options how = {.loaded = loaded,
                                          .n_loaded = list_loaded(slice, options, loaded),
                                          .pool = pool,
                                          .synthetic = synthetic,
                                          .file = file,
                                          .store = store,
                                          .packed = options->keep_packed ? store : NULL,
                                          .fetch = options->fetch,
                                          .cancel = options->cancel};
        status = load_both(slice, load, options, &how, error);
        if (how.fetch && how.fetch->tell)
            how.fetch->tell(how.fetch->arg);
    }
    kern_pool_destroy(pool);
    if (store)
        shard_store_trim(store);
    shard_store_close(store);
    if (slice->weights.lazy || slice->host_weights.lazy)
        slice->file = file;
    else
        shard_gguf_close(file);
    shard_synthetic_destroy(synthetic);
    return status;
}

static enum proto_status prepare_stage(struct worker_slice *slice, const struct proto_load *load,
                                       const struct worker_slice_options *options,
                                       struct proto_error *error)
{
    enum kern_kv type = (enum kern_kv)load->kv_type;
    enum proto_status status = shard_kv_check(slice->program->model, type, error);
    if (status != PROTO_OK)
        return status;
    slice->weight_bytes += shard_program_weight_bytes(slice->program);
    slice->kv_limit_bytes = shard_kv_limit(slice->program, type, load->ctx, load->max_seqs);
    slice->scratch_bytes += worker_exec_scratch_bytes(
        slice->program, load->max_rows, kern_pool_threads(options->compute_pool), load->ctx);
    struct shard_kv_options kv = {.type = type,
                                  .ctx = load->ctx,
                                  .max_seqs = load->max_seqs,
                                  .max_bytes = slice->kv_limit_bytes};
    status = shard_kv_create(&slice->kv, slice->program, &kv, error);
    if (status != PROTO_OK)
        return status;
    if (!load->head && options->boundary_bytes)
        status =
            worker_boundary_create(&slice->boundary, load->max_seqs,
                                   shard_row_floats(slice->model, load->layer_end) * sizeof(float),
                                   options->boundary_bytes, error);
    if (status != PROTO_OK)
        return status;
    slice->remote = options->remote;
    struct worker_exec_options exec = {.table = options->table,
                                       .pool = options->compute_pool,
                                       .kv = slice->kv,
                                       .remote = &slice->remote,
                                       .max_rows = load->max_rows,
                                       .inexact = load->inexact};
    return worker_exec_create(&slice->exec, slice->program, &slice->weights, &exec, error);
}

static enum proto_status prepare_host(struct worker_slice *slice, const struct proto_load *load,
                                      const struct worker_slice_options *options,
                                      struct proto_error *error)
{
    slice->weight_bytes += shard_program_weight_bytes(slice->host_program);
    slice->scratch_bytes += worker_expert_host_bytes(slice->host_program, load->max_rows);
    struct worker_expert_host_options how = {.table = options->table,
                                             .pool = options->compute_pool,
                                             .max_rows = load->max_rows,
                                             .inexact = load->inexact};
    return worker_expert_host_create(&slice->host, slice->host_program, &slice->host_weights, &how,
                                     error);
}

static void remember_load(struct worker_slice *slice, const struct proto_load *load)
{
    slice->load = *load;
    slice->load.next_endpoint = NULL;
    slice->load.synthetic = NULL;
    slice->synthetic = is_synthetic(load);
    slice->load.files = NULL;
    slice->load.n_files = 0;
    slice->load.hosts = NULL;
    slice->load.parts = NULL;
    slice->load.askers = NULL;
    slice->load.holders = NULL;
    slice->load.n_hosts = slice->load.n_askers = slice->load.n_holders = 0;
}

static struct shard_expert_part part_of(const struct proto_part *part)
{
    return (struct shard_expert_part){.worker = part->host,
                                      .layer_first = part->layer_first,
                                      .layer_end = part->layer_end,
                                      .expert_first = part->expert_first,
                                      .expert_end = part->expert_end,
                                      .slice = part->slice,
                                      .n_slices = part->n_slices};
}

static enum proto_status take_card(struct worker_slice *slice, const struct proto_load *load,
                                   const void *card, size_t card_bytes, struct proto_error *error)
{
    slice->card_bytes = card_bytes;
    slice->card = malloc(card_bytes ? card_bytes : 1);
    slice->parts = calloc(load->n_parts + 1, sizeof *slice->parts);
    if (!slice->card || !slice->parts)
        return proto_fail_nomem(error, card_bytes, "the model card");
    memcpy(slice->card, card, card_bytes);
    for (uint32_t i = 0; i < load->n_parts; i++)
        slice->parts[i] = part_of(&load->parts[i]);
    enum proto_status status =
        shard_gguf_parse(&slice->gguf, card, card_bytes, "model card", error);
    return status == PROTO_OK ? shard_model_create(&slice->model, slice->gguf, error) : status;
}

/* Whether the worker has experts for stages of others. */
static bool hosts_experts(const struct proto_load *load, const struct shard_model *model)
{
    for (uint32_t i = 0; i < load->n_parts; i++) {
        const struct proto_part *p = &load->parts[i];
        for (uint32_t il = p->layer_first; il < p->layer_end && il < model->n_layers; il++)
            if (p->host == load->self && model->layers[il].moe &&
                (il < load->layer_first || il >= load->layer_end))
                return true;
    }
    return false;
}

static enum proto_status cut(struct worker_slice *slice, const struct proto_load *load,
                             struct proto_error *error)
{
    struct shard_split split = {.layer_first = load->layer_first,
                                .layer_end = load->layer_end,
                                .embed = load->embed,
                                .head = load->head,
                                .worker = load->self,
                                .parts = load->n_parts ? slice->parts : NULL,
                                .n_parts = load->n_parts};
    enum proto_status status = PROTO_OK;
    if (load->has_stage)
        status = shard_program_create_split(&slice->program, slice->model, &split, error);
    if (status == PROTO_OK && hosts_experts(load, slice->model))
        status = shard_program_create_host(&slice->host_program, slice->model, &split, error);
    return status;
}

/* Others may have them from now on; without that they ask elsewhere. */
static void offer_weights(struct worker_slice *slice, struct worker_supply *supply)
{
    if (slice->synthetic)
        return;
    slice->supply = supply;
    worker_supply_add(supply, slice->program, &slice->weights, NULL);
    worker_supply_add(supply, slice->host_program, &slice->host_weights, NULL);
}

enum proto_status worker_slice_create(struct worker_slice **out, const struct proto_load *load,
                                      const void *card, size_t card_bytes,
                                      const struct worker_slice_options *options,
                                      struct proto_error *error)
{
    struct worker_slice *slice = calloc(1, sizeof *slice);
    if (!slice)
        return proto_fail_nomem(error, sizeof *slice, "a slice");
    enum proto_status status;
    remember_load(slice, load);
    if ((status = take_card(slice, load, card, card_bytes, error)) ||
        (status = cut(slice, load, error)) ||
        (status = load_weights(slice, load, options, error)) ||
        (slice->program && (status = prepare_stage(slice, load, options, error))) ||
        (slice->host_program && (status = prepare_host(slice, load, options, error)))) {
        worker_slice_destroy(slice);
        return status;
    }
    offer_weights(slice, options->supply);
    *out = slice;
    return PROTO_OK;
}

bool worker_slice_lost(const struct worker_slice *slice)
{
    return worker_weights_lost(&slice->weights) || worker_weights_lost(&slice->host_weights);
}

void worker_slice_destroy(struct worker_slice *slice)
{
    if (!slice)
        return;
    worker_supply_remove(slice->supply, &slice->weights);
    worker_supply_remove(slice->supply, &slice->host_weights);
    worker_expert_host_destroy(slice->host);
    worker_weights_finish(&slice->host_weights);
    shard_program_destroy(slice->host_program);
    worker_exec_destroy(slice->exec);
    worker_boundary_destroy(slice->boundary);
    shard_kv_destroy(slice->kv);
    worker_weights_finish(&slice->weights);
    shard_program_destroy(slice->program);
    shard_model_destroy(slice->model);
    shard_gguf_close(slice->file);
    shard_gguf_close(slice->gguf);
    free(slice->parts);
    free(slice->card);
    free(slice);
}
