/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A weight is filled piece by piece. A piece is whole panels of one matrix, so where its packed
 * form goes follows from its place in the tensor alone, and nothing but the piece at hand is held
 * twice.
 */
#include "worker/load.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "worker/load_source.h"

#define ALIGNMENT 64u
#define HUGE_PAGE (2u << 20)

struct load {
    const struct shard_program *program;
    const struct worker_load_options *options;
    uint64_t done, total, fetched;
};

/* The matrices of a weight that come from one tensor. */
struct target {
    const struct shard_weight *weight;
    uint8_t *memory;    /* of the weight */
    uint64_t mat_first; /* matrix of the weight that is the tensor's first */
};

struct packing {
    const struct kern_type_info *type;
    uint8_t *to;
    const uint8_t *from;
    uint64_t rows, k;
};

static void pack_panels(void *arg, size_t first, size_t last, unsigned thread)
{
    (void)thread;
    const struct packing *packing = arg;
    uint64_t row = first * KERN_PANEL, end = last * KERN_PANEL;
    if (end > packing->rows)
        end = packing->rows;
    kern_pack(packing->type, packing->to + first * kern_panel_bytes(packing->type, packing->k),
              packing->from + row * kern_type_bytes(packing->type, packing->k), end - row,
              packing->k);
}

static void pack_piece(const struct target *target, const struct shard_piece *piece,
                       const uint8_t *data, struct kern_pool *pool)
{
    const struct shard_weight *weight = target->weight;
    uint64_t mat = target->mat_first + piece->mat, panel = piece->row_first / KERN_PANEL;
    struct packing packing = {
        .type = weight->type,
        .to = target->memory + mat * kern_packed_bytes(weight->type, weight->n_out, weight->k) +
              panel * kern_panel_bytes(weight->type, weight->k),
        .from = data,
        .rows = piece->rows,
        .k = weight->k,
    };
    kern_pool_run(pool, (piece->rows + KERN_PANEL - 1) / KERN_PANEL, 0, pack_panels, &packing);
}

/* A panel of a tensor whose rows are dealt to matrices; it has rows of one matrix only. */
static void pack_dealt_panel(const struct target *target, const struct kern_type_info *type,
                             uint64_t row, const uint8_t *from)
{
    const struct shard_weight *w = target->weight;
    uint64_t mat = row / w->row_every, at = row % w->row_every - w->row_first;
    uint8_t *to = target->memory + mat * kern_packed_bytes(w->type, w->n_out, w->k);
    if (row % w->row_every < w->row_first || at >= (w->transposed ? w->k : w->n_out))
        return;
    if (!w->transposed) {
        to += at / KERN_PANEL * kern_panel_bytes(w->type, w->k);
        kern_pack(type, to, from, KERN_PANEL, w->k);
        return;
    }
    for (uint64_t i = 0; i < KERN_PANEL; i++) {
        float values[PROTO_MAX_HEAD_DIM];
        kern_dequantize(type, from + i * kern_type_bytes(type, w->n_out), w->n_out, values);
        kern_pack_column((float *)(void *)to, w->n_out, w->k, at + i, values);
    }
}

static void pack_dealt_piece(const struct target *target, const struct kern_type_info *type,
                             uint64_t row_bytes, const struct shard_piece *piece,
                             const uint8_t *data)
{
    for (uint64_t i = 0; i < piece->rows; i += KERN_PANEL)
        pack_dealt_panel(target, type, piece->row_first + i, data + i * row_bytes);
}

static enum proto_status load_piece(struct load *load, struct worker__source *source, uint64_t i,
                                    const struct target *target, struct proto_error *error)
{
    struct worker__loan loan;
    uint64_t fetched_before = source->fetched;
    enum proto_status status = worker__source_borrow(source, i, &loan, error);
    load->fetched += source->fetched - fetched_before;
    if (status)
        return status;
    struct shard_piece piece = shard_pieces_get(source->tensor, i);
    uint64_t width = source->tensor->dims[0];
    if (target->weight->form == SHARD_WEIGHT_VECTOR)
        kern_dequantize(source->tensor->type, loan.data, piece.rows * width,
                        (float *)target->memory + piece.row_first * width);
    else if (target->weight->row_every)
        pack_dealt_piece(target, source->tensor->type, kern_type_bytes(source->tensor->type, width),
                         &piece, loan.data);
    else
        pack_piece(target, &piece, loan.data, load->options->pool);
    worker__source_return(source, i, &loan);
    load->done += piece.bytes;
    if (load->options->progress)
        load->options->progress(load->options->progress_arg, load->done, load->total,
                                load->fetched);
    return PROTO_OK;
}

static bool fits_dealt(const struct shard_weight *weight, const struct shard_tensor *tensor)
{
    uint64_t taken = weight->transposed ? weight->k : weight->n_out;
    uint64_t width = weight->transposed ? weight->n_out : weight->k;
    enum kern_type type = weight->transposed ? KERN_F32 : tensor->type->type;
    return tensor->dims[0] == width && width <= PROTO_MAX_HEAD_DIM &&
           tensor->dims[1] == (uint64_t)weight->n_mats * weight->row_every &&
           tensor->dims[2] == 1 && tensor->dims[3] == 1 && weight->n_parts == 1 &&
           weight->row_first + taken <= weight->row_every && weight->row_every % KERN_PANEL == 0 &&
           weight->row_first % KERN_PANEL == 0 && taken % KERN_PANEL == 0 &&
           weight->type->type == type;
}

/* The memory was sized by the weight, the writes go by the tensor: they must agree. */
static enum proto_status check_shape(const struct shard_weight *weight, uint64_t mat_first,
                                     const struct shard_tensor *tensor, struct proto_error *error)
{
    uint64_t mats = tensor->dims[2] * tensor->dims[3];
    bool fits = weight->form == SHARD_WEIGHT_VECTOR
                    ? tensor->dims[0] <= weight->n_out &&
                          weight->n_out / tensor->dims[0] == tensor->dims[1] &&
                          weight->n_out % tensor->dims[0] == 0 && mats == 1 && weight->n_parts == 1
                    : tensor->type == weight->type && tensor->dims[0] == weight->k &&
                          tensor->dims[1] == weight->n_out && mat_first <= weight->n_mats &&
                          mats <= weight->n_mats - mat_first;
    if (weight->row_every)
        fits = fits_dealt(weight, tensor);
    if (fits)
        return PROTO_OK;
    return proto_fail(error, PROTO_INVALID,
                      "tensor %s of %" PRIu64 " x %" PRIu64 " x %" PRIu64
                      " does not fit a weight of %" PRIu64 " x %" PRIu64 " x %" PRIu32,
                      tensor->name, tensor->dims[0], tensor->dims[1], mats, weight->k,
                      weight->n_out, weight->n_mats);
}

static enum proto_status load_tensor(struct load *load, uint32_t number, struct target *target,
                                     struct proto_error *error)
{
    const struct shard_gguf *card = load->program->model->gguf;
    const struct shard_tensor *tensor = shard_gguf_tensor(card, number);
    enum proto_status status = check_shape(target->weight, target->mat_first, tensor, error);
    if (status)
        return status;
    const atomic_bool *cancel = load->options->cancel;
    struct worker__source source;
    status = worker__source_init(&source, load->options, card, number, error);
    for (uint64_t i = 0; i < shard_pieces_count(tensor) && !status; i++) {
        if (cancel && atomic_load(cancel))
            status = proto_fail(error, PROTO_CANCELLED, "loading was cancelled");
        else
            status = load_piece(load, &source, i, target, error);
    }
    worker__source_finish(&source);
    target->mat_first += tensor->dims[2] * tensor->dims[3];
    return status;
}

static enum proto_status take_memory(const struct shard_weight *weight, uint8_t **out,
                                     struct proto_error *error)
{
    uint64_t bytes = shard_weight_bytes(weight);
    bool large = bytes >= HUGE_PAGE;
    void *memory;
    if (posix_memalign(&memory, large ? HUGE_PAGE : ALIGNMENT, bytes) != 0)
        return proto_fail_nomem(error, bytes, "a weight");
    if (large) /* whole huge pages only: the last, in part used, would cost up to 2 MiB a weight */
        madvise(memory, bytes & ~(uint64_t)(HUGE_PAGE - 1), MADV_HUGEPAGE);
    if (weight->form == SHARD_WEIGHT_VECTOR)
        memset(memory, 0, bytes); /* the padding after the values */
    *out = memory;
    return PROTO_OK;
}

static enum proto_status load_weight(struct load *load, const struct shard_weight *weight,
                                     void **out, struct proto_error *error)
{
    struct target target = {.weight = weight};
    enum proto_status status = take_memory(weight, &target.memory, error);
    *out = target.memory;
    for (uint32_t i = 0; i < weight->n_parts && !status; i++)
        status = load_tensor(load, load->program->parts[weight->first_part + i], &target, error);
    return status;
}

static uint64_t bytes_to_load(const struct shard_program *program)
{
    uint64_t total = 0;
    for (size_t i = 0; i < program->n_parts; i++)
        total += shard_gguf_tensor(program->model->gguf, program->parts[i])->bytes;
    return total;
}

enum proto_status worker_load(struct worker_weights *out, const struct shard_program *program,
                              const struct worker_load_options *options, struct proto_error *error)
{
    struct load load = {.program = program, .options = options, .total = bytes_to_load(program)};
    *out = (struct worker_weights){.n = program->n_weights};
    out->data = calloc(program->n_weights + 1, sizeof *out->data);
    if (!out->data)
        return proto_fail_nomem(error, program->n_weights * sizeof *out->data, "weights");
    enum proto_status status = PROTO_OK;
    for (size_t i = 0; i < program->n_weights && !status; i++)
        status = load_weight(&load, &program->weights[i], &out->data[i], error);
    if (status)
        worker_weights_finish(out);
    return status;
}

void worker_weights_finish(struct worker_weights *weights)
{
    for (size_t i = 0; weights->data && i < weights->n; i++)
        free(weights->data[i]);
    free(weights->data);
    *weights = (struct worker_weights){0};
}
