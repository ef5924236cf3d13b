/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/plan/shape.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "shard/kv.h"

/* Additions and products of a delta-net for each value of its state: kern_delta_fn. */
#define DELTA_OPS 7.0

/* Rows that each expert is taken to have been chosen by besides those that were counted. */
#define UNCOUNTED 16.0

static double matrix_ops(const struct shard_weight *w)
{
    return 2.0 * (double)w->n_out * (double)w->k;
}

static void add_ops(struct plan_shape *shape, double *ops, const struct shard_weight *w, double n)
{
    *ops += n * matrix_ops(w);
    shape->type_ops[w->type->type] += n * matrix_ops(w);
}

/* Whether a weight is the shared expert's. */
static bool is_beside(const struct shard_program *program, const struct shard_layer *layer,
                      const struct shard_weight *w)
{
    static const enum shard_slot slots[] = {SHARD_GATE_SHARED, SHARD_UP_SHARED, SHARD_DOWN_SHARED};
    for (size_t i = 0; i < sizeof slots / sizeof slots[0]; i++) {
        if (w->n_parts == 1 && (long)program->parts[w->first_part] == layer->tensor[slots[i]])
            return true;
    }
    return false;
}

static void add_matmul(struct plan_shape *shape, struct plan_layer *out,
                       const struct shard_program *program, const struct shard_layer *layer,
                       const struct shard_op *op)
{
    const struct shard_weight *w = &program->weights[op->w];
    double n = op->kind == SHARD_OP_MATMUL_HEADS ? op->n_heads : 1;
    add_ops(shape, &out->ops, w, n);
    if (is_beside(program, layer, w)) {
        out->beside_ops += matrix_ops(w);
        out->beside_bytes += shard_weight_bytes(w);
    }
}

static void add_experts(struct plan_shape *shape, struct plan_layer *out,
                        const struct shard_program *program, const struct shard_op *op)
{
    const struct shard_model *m = program->model;
    const struct shard_holding *all = &program->holdings[op->first_holding];
    const int32_t weights[] = {all->gate,   all->up,     all->down,
                               op->bias[0], op->bias[1], op->bias[2]};
    const struct shard_weight *gate = &program->weights[all->gate];
    const struct shard_weight *up = &program->weights[all->up < 0 ? all->gate : all->up];
    uint64_t bytes = 0;
    out->n_experts = m->n_experts;
    out->n_used = op->n_used;
    for (size_t i = 0; i < sizeof weights / sizeof weights[0]; i++) {
        if (weights[i] < 0)
            continue;
        const struct shard_weight *w = &program->weights[weights[i]];
        bytes += shard_weight_bytes(w);
        if (w->form == SHARD_WEIGHT_PANELS) {
            out->expert_ops += matrix_ops(w);
            shape->type_ops[w->type->type] += op->n_used * matrix_ops(w);
        }
    }
    out->weight_bytes -= bytes;
    out->expert_bytes = bytes / m->n_experts;
    out->n_segments = shard_expert_segments(m->ff_expert).n;
    out->request_bytes =
        kern_act_bytes(gate->type->act, gate->k) + op->n_used * sizeof(struct shard_choice);
    if (op->c != op->a)
        out->request_bytes += kern_act_bytes(up->type->act, up->k);
    out->answer_bytes = shard_record_floats(m->n_embd) * sizeof(float);
    uint64_t rows = shape->options.max_rows;
    uint64_t host = shard_experts_scratch(program, op, shape->options.max_rows).bytes +
                    rows * (out->request_bytes + out->n_segments * out->answer_bytes);
    uint64_t asker =
        rows * (op->n_used * out->n_segments * out->answer_bytes +
                kern_act_bytes(gate->type->act, gate->k) + kern_act_bytes(up->type->act, up->k));
    shape->host_scratch_bytes = host > shape->host_scratch_bytes ? host : shape->host_scratch_bytes;
    shape->asker_scratch_bytes =
        asker > shape->asker_scratch_bytes ? asker : shape->asker_scratch_bytes;
}

static void add_attention(const struct plan_shape *shape, struct plan_layer *out,
                          const struct shard_model *m, const struct shard_op *op)
{
    enum kern_kv kv = shape->options.kv;
    uint64_t key =
        kern_kv_bytes(kv, op->dim_k) + (m->mla.kv_rank ? 0 : kern_kv_bytes(kv, op->dim_v));
    out->key_ops += 2.0 * op->n_heads * (op->dim_k + op->dim_v);
    out->key_bytes += op->n_head_kv * key;
    out->window = op->mask == SHARD_MASK_CAUSAL ? 0 : op->window;
    out->chunked = op->mask == SHARD_MASK_CHUNK;
}

static void add_delta(struct plan_layer *out, const struct shard_delta *d)
{
    double values = (double)d->n_v * d->dim * d->dim;
    out->row_ops += DELTA_OPS * values;
    out->state_bytes += 2 * sizeof(float) * (uint64_t)values;
}

static void fill_layer(struct plan_shape *shape, uint32_t il, const struct shard_program *program)
{
    const struct shard_model *m = shape->model;
    const struct shard_layer *layer = &m->layers[il];
    const struct plan_shape_options *o = &shape->options;
    struct plan_layer *out = &shape->layers[il];
    out->weight_bytes = shard_program_weight_bytes(program);
    for (size_t i = 0; i < program->n_ops; i++) {
        const struct shard_op *op = &program->ops[i];
        if (op->kind == SHARD_OP_MATMUL || op->kind == SHARD_OP_MATMUL_HEADS)
            add_matmul(shape, out, program, layer, op);
        else if (op->kind == SHARD_OP_EXPERTS)
            add_experts(shape, out, program, op);
        else if (op->kind == SHARD_OP_ATTENTION)
            add_attention(shape, out, m, op);
        else if (op->kind == SHARD_OP_DELTA)
            add_delta(out, &m->delta);
    }
    bool own = layer->kv_layer == il;
    out->kv_bytes = own ? shard_kv_limit(program, o->kv, o->ctx, o->max_seqs) : 0;
    out->kv_seen_bytes = layer->kv_shared ? out->kv_bytes : 0;
    out->kv_layer = layer->kv_layer;
    out->row_bytes = (uint64_t)shard_row_floats(m, il) * sizeof(float);
}

static enum proto_status fill_layers(struct plan_shape *shape, struct proto_error *error)
{
    for (uint32_t il = 0; il < shape->n_layers; il++) {
        struct shard_program *program;
        enum proto_status status =
            shard_program_create(&program, shape->model, il, il + 1, false, false, error);
        if (status != PROTO_OK)
            return status;
        fill_layer(shape, il, program);
        shard_program_destroy(program);
    }
    return PROTO_OK;
}

/* Weights of what is not in a layer. */
static enum proto_status end_bytes(uint64_t *bytes, struct plan_shape *shape, bool embed, bool head,
                                   struct proto_error *error)
{
    struct shard_program *program;
    enum proto_status status =
        shard_program_create(&program, shape->model, 0, 0, embed, head, error);
    if (status != PROTO_OK)
        return status;
    *bytes = shard_program_weight_bytes(program);
    for (size_t i = 0; i < program->n_ops && !embed; i++) {
        const struct shard_op *op = &program->ops[i];
        if (op->kind == SHARD_OP_MATMUL)
            add_ops(shape, &shape->head_ops, &program->weights[op->w], 1);
    }
    shard_program_destroy(program);
    return PROTO_OK;
}

static enum proto_status fill_ends(struct plan_shape *shape, struct proto_error *error)
{
    uint64_t both = 0;
    enum proto_status status = end_bytes(&shape->embed_bytes, shape, true, false, error);
    if (status == PROTO_OK)
        status = end_bytes(&shape->head_bytes, shape, false, true, error);
    if (status == PROTO_OK)
        status = end_bytes(&both, shape, true, true, error);
    shape->tied_bytes = shape->embed_bytes + shape->head_bytes - both;
    return status;
}

/* The scratch of a stage is at most that of one that has everything. */
static enum proto_status fill_whole(struct plan_shape *shape, struct proto_error *error)
{
    struct shard_program *program;
    enum proto_status status =
        shard_program_create(&program, shape->model, 0, shape->n_layers, true, true, error);
    if (status != PROTO_OK)
        return status;
    double values = 0, bits = 0;
    shape->scratch_bytes = shard_program_buffer_bytes(program, shape->options.max_rows);
    shape->thread_bytes = shard_attention_scratch_bytes(program, shape->options.ctx);
    for (size_t i = 0; i < program->n_weights; i++) {
        const struct shard_weight *w = &program->weights[i];
        values += w->form == SHARD_WEIGHT_PANELS ? (double)w->n_mats * matrix_ops(w) / 2 : 0;
        bits += w->form == SHARD_WEIGHT_PANELS ? 8.0 * (double)shard_weight_bytes(w) : 0;
    }
    shape->weight_bits = bits / fmax(values, 1);
    shard_program_destroy(program);
    return PROTO_OK;
}

static enum proto_status check_options(const struct shard_model *model,
                                       const struct plan_shape_options *o,
                                       struct proto_error *error)
{
    if (o->ctx == 0 || o->ctx > PROTO_MAX_CONTEXT || o->max_seqs == 0 ||
        o->max_seqs > PROTO_MAX_SEQUENCES || o->max_rows == 0 || o->max_rows > PROTO_MAX_BATCH_ROWS)
        return proto_fail(error, PROTO_LIMIT,
                          "context %llu, sequences %u, batch rows %u: expected 1 to %u, %u, %u",
                          (unsigned long long)o->ctx, o->max_seqs, o->max_rows, PROTO_MAX_CONTEXT,
                          PROTO_MAX_SEQUENCES, PROTO_MAX_BATCH_ROWS);
    return shard_kv_check(model, o->kv, error);
}

static struct plan_shape *new_shape(uint32_t n_layers)
{
    struct plan_shape *shape = calloc(1, sizeof *shape);
    if (!shape)
        return NULL;
    shape->n_layers = n_layers;
    shape->layers = calloc((size_t)n_layers + 1, sizeof *shape->layers);
    if (!shape->layers) {
        free(shape);
        return NULL;
    }
    return shape;
}

enum proto_status plan_shape_create(struct plan_shape **out, const struct shard_model *model,
                                    const struct plan_shape_options *options,
                                    struct proto_error *error)
{
    *out = NULL;
    enum proto_status status = check_options(model, options, error);
    if (status != PROTO_OK)
        return status;
    struct plan_shape *shape = new_shape(model->n_layers);
    if (!shape)
        return proto_fail_nomem(error, model->n_layers * sizeof *shape->layers, "a model's shape");
    shape->model = model;
    shape->options = *options;
    snprintf(shape->name, sizeof shape->name, "%s", model->name);
    status = fill_layers(shape, error);
    if (status == PROTO_OK)
        status = fill_ends(shape, error);
    if (status == PROTO_OK)
        status = fill_whole(shape, error);
    if (status != PROTO_OK) {
        plan_shape_destroy(shape);
        return status;
    }
    *out = shape;
    return PROTO_OK;
}

static void scale_bytes(uint64_t *bytes, double factor)
{
    *bytes = (uint64_t)((double)*bytes * factor);
}

enum proto_status plan_shape_scaled(struct plan_shape **out, const struct plan_shape *shape,
                                    double bits, struct proto_error *error)
{
    struct plan_shape *scaled = new_shape(shape->n_layers);
    *out = NULL;
    if (!scaled)
        return proto_fail_nomem(error, shape->n_layers * sizeof *shape->layers, "a model's shape");
    double factor = bits / shape->weight_bits;
    struct plan_layer *layers = scaled->layers;
    *scaled = *shape;
    scaled->layers = layers;
    scaled->weight_bits = bits;
    scaled->model = NULL;
    scaled->popularity = NULL;
    for (uint32_t il = 0; il < shape->n_layers; il++) {
        layers[il] = shape->layers[il];
        layers[il].popular = NULL;
        scale_bytes(&layers[il].weight_bytes, factor);
        scale_bytes(&layers[il].beside_bytes, factor);
        scale_bytes(&layers[il].expert_bytes, factor);
    }
    scale_bytes(&scaled->embed_bytes, factor);
    scale_bytes(&scaled->head_bytes, factor);
    scale_bytes(&scaled->tied_bytes, factor);
    *out = scaled;
    return PROTO_OK;
}

void plan_shape_destroy(struct plan_shape *shape)
{
    if (!shape)
        return;
    free(shape->layers);
    free(shape->popularity);
    free(shape);
}

uint64_t plan_shape_weight_bytes(const struct plan_shape *shape)
{
    uint64_t sum = shape->embed_bytes + shape->head_bytes - shape->tied_bytes;
    for (uint32_t il = 0; il < shape->n_layers; il++) {
        const struct plan_layer *l = &shape->layers[il];
        sum += l->weight_bytes + l->n_experts * l->expert_bytes;
    }
    return sum;
}

uint64_t plan_shape_token_bytes(const struct plan_shape *shape)
{
    uint64_t sum = shape->head_bytes;
    for (uint32_t il = 0; il < shape->n_layers; il++) {
        const struct plan_layer *l = &shape->layers[il];
        sum += l->weight_bytes + l->n_used * l->expert_bytes;
    }
    return sum;
}

uint32_t plan_shape_moe_layers(const struct plan_shape *shape)
{
    uint32_t n = 0;
    for (uint32_t il = 0; il < shape->n_layers; il++)
        n += shape->layers[il].n_experts > 0;
    return n;
}

double plan_layer_keys(const struct plan_layer *layer, double depth)
{
    double window = (double)layer->window;
    if (layer->window == 0 || depth + 1 <= window)
        return depth + 1;
    return layer->chunked ? window / 2 : window;
}

double plan_layer_touched(const struct plan_layer *layer, double experts, double rows)
{
    return plan_layer_touched_of(layer, experts, experts, rows);
}

double plan_layer_touched_of(const struct plan_layer *layer, double experts, double popularity,
                             double rows)
{
    if (layer->n_experts == 0 || experts <= 0)
        return 0;
    double used = layer->n_used * (popularity / experts) / layer->n_experts;
    return used >= 1 ? experts : experts * -expm1(rows * log1p(-used));
}

double plan_layer_popularity(const struct plan_layer *layer, uint32_t first, uint32_t end)
{
    return layer->popular ? (double)(layer->popular[end] - layer->popular[first])
                          : (double)(end - first);
}

enum proto_status plan_shape_popularity(struct plan_shape *shape, const uint64_t *counts,
                                        uint32_t n_layers, uint32_t n_experts,
                                        struct proto_error *error)
{
    size_t width = (size_t)n_experts + 1;
    if (n_layers != shape->n_layers)
        return proto_fail(error, PROTO_INVALID, "%u layers' experts were counted, %s has %u",
                          n_layers, shape->name, shape->n_layers);
    float *all = calloc(width * n_layers, sizeof *all);
    if (!all)
        return proto_fail_nomem(error, width * n_layers * sizeof *all, "experts' popularity");
    for (uint32_t il = 0; il < n_layers; il++) {
        struct plan_layer *layer = &shape->layers[il];
        const uint64_t *rows = counts + (size_t)il * n_experts;
        float *popular = all + il * width;
        double sum = 0;
        layer->popular = NULL;
        if (layer->n_experts != n_experts)
            continue;
        for (uint32_t i = 0; i < n_experts; i++)
            sum += (double)rows[i] + UNCOUNTED;
        for (uint32_t i = 0; i < n_experts; i++)
            popular[i + 1] = popular[i] + (float)(((double)rows[i] + UNCOUNTED) / sum * n_experts);
        layer->popular = popular;
    }
    free(shape->popularity);
    shape->popularity = all;
    return PROTO_OK;
}
