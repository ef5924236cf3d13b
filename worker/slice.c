/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/slice.h"

#include <stdlib.h>
#include <string.h>

#include "proto/log.h"

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

/* With a local copy the store only saves time: *out stays NULL where it cannot be opened. */
static enum proto_status open_store(struct shard_store **out,
                                    const struct worker_slice_options *options, bool local,
                                    struct proto_error *error)
{
    if (local && !options->keep_packed)
        return PROTO_OK;
    enum proto_status status = shard_store_open(out, options->cache_dir, error);
    if (status == PROTO_OK || !local)
        return status;
    proto_log(PROTO_LOG_WARN, "WORKER-UNPACKED", "why=\"%s\"", error->text);
    return PROTO_OK;
}

static enum proto_status load_weights(struct worker_slice *slice, const struct proto_load *load,
                                      const struct worker_slice_options *options,
                                      struct proto_error *error)
{
    struct shard_gguf *file = NULL;
    struct shard_store *store = NULL;
    struct kern_pool *pool = NULL;
    enum proto_status status = open_local_copy(&file, slice->gguf, load, error);
    if (status == PROTO_OK)
        status = open_store(&store, options, file != NULL, error);
    if (status == PROTO_OK)
        status = kern_pool_create(&pool, options->threads, error);
    if (status == PROTO_OK) {
        struct worker_load_options how = {.pool = pool,
                                          .file = file,
                                          .store = store,
                                          .packed = options->keep_packed ? store : NULL,
                                          .fetch = options->fetch,
                                          .progress = options->progress,
                                          .progress_arg = options->progress_arg,
                                          .cancel = options->cancel};
        status = worker_load(&slice->weights, slice->program, &how, error);
    }
    kern_pool_destroy(pool);
    shard_store_close(store);
    shard_gguf_close(file);
    return status;
}

static enum proto_status prepare_execution(struct worker_slice *slice,
                                           const struct proto_load *load,
                                           const struct worker_slice_options *options,
                                           struct proto_error *error)
{
    enum kern_kv type = (enum kern_kv)load->kv_type;
    enum proto_status status = shard_kv_check(slice->program->model, type, error);
    if (status != PROTO_OK)
        return status;
    slice->kv_limit_bytes = shard_kv_limit(slice->program, type, load->ctx, load->max_seqs);
    slice->scratch_bytes = worker_exec_scratch_bytes(
        slice->program, load->max_rows, kern_pool_threads(options->compute_pool), load->ctx);
    struct shard_kv_options kv = {.type = type,
                                  .ctx = load->ctx,
                                  .max_seqs = load->max_seqs,
                                  .max_bytes = slice->kv_limit_bytes};
    status = shard_kv_create(&slice->kv, slice->program, &kv, error);
    if (status != PROTO_OK)
        return status;
    struct worker_exec_options exec = {.table = options->table,
                                       .pool = options->compute_pool,
                                       .kv = slice->kv,
                                       .max_rows = load->max_rows,
                                       .inexact = load->inexact};
    return worker_exec_create(&slice->exec, slice->program, &slice->weights, &exec, error);
}

static void remember_load(struct worker_slice *slice, const struct proto_load *load)
{
    slice->load = *load;
    slice->load.next_endpoint = NULL;
    slice->load.files = NULL;
    slice->load.n_files = 0;
}

enum proto_status worker_slice_create(struct worker_slice **out, const struct proto_load *load,
                                      const void *card, size_t card_bytes,
                                      const struct worker_slice_options *options,
                                      struct proto_error *error)
{
    struct worker_slice *slice = calloc(1, sizeof *slice);
    if (!slice)
        return proto_fail_nomem(error, sizeof *slice, "a slice");
    enum proto_status status = PROTO_OK;
    remember_load(slice, load);
    slice->card = malloc(card_bytes ? card_bytes : 1);
    slice->card_bytes = card_bytes;
    if (!slice->card) {
        status = proto_fail_nomem(error, card_bytes, "the model card");
        goto fail;
    }
    memcpy(slice->card, card, card_bytes);
    if ((status = shard_gguf_parse(&slice->gguf, card, card_bytes, "model card", error)) ||
        (status = shard_model_create(&slice->model, slice->gguf, error)) ||
        (status = shard_program_create(&slice->program, slice->model, load->layer_first,
                                       load->layer_end, load->embed, load->head, error)) ||
        (status = load_weights(slice, load, options, error)) ||
        (status = prepare_execution(slice, load, options, error)))
        goto fail;
    *out = slice;
    return PROTO_OK;
fail:
    worker_slice_destroy(slice);
    return status;
}

void worker_slice_destroy(struct worker_slice *slice)
{
    if (!slice)
        return;
    worker_exec_destroy(slice->exec);
    shard_kv_destroy(slice->kv);
    worker_weights_finish(&slice->weights);
    shard_program_destroy(slice->program);
    shard_model_destroy(slice->model);
    shard_gguf_close(slice->gguf);
    free(slice->card);
    free(slice);
}

bool worker_slice_serves(const struct worker_slice *slice, const struct proto_load *load,
                         const void *card, size_t card_bytes)
{
    const struct proto_load *have = &slice->load;
    return have->layer_first == load->layer_first && have->layer_end == load->layer_end &&
           have->embed == load->embed && have->head == load->head &&
           have->kv_type == load->kv_type && have->ctx == load->ctx &&
           have->max_seqs == load->max_seqs && have->max_rows == load->max_rows &&
           have->inexact == load->inexact && slice->card_bytes == card_bytes &&
           memcmp(slice->card, card, card_bytes) == 0;
}

void worker_slice_renew(struct worker_slice *slice, uint64_t epoch)
{
    slice->load.epoch = epoch;
    for (uint32_t seq = 0; seq < slice->load.max_seqs; seq++)
        shard_kv_drop(slice->kv, seq);
}
