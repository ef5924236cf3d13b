/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows between stages. Token ids go to the first stage alone, so what later layers need of them
 * besides the residual row travels behind it:
 *
 *   [ x | K, V of each earlier layer whose keys and values later layers see | inputs of the layers
 *     to come ]
 *
 * Each part starts at a multiple of 16 floats. A stage keeps a cache of its own of the keys and
 * values that its layers see, made of the same floats, so a cut between a layer and those that
 * share its keys and values changes no bit. Buffer 0 is as wide as the wider of a stage's two rows:
 * the inputs are taken out at the start and put behind at the end, while keys and values have the
 * same place in every row that has them, and stay or are put there by their layer.
 */
#include "shard/program_build.h"

static uint32_t k_width(const struct shard_layer *layer)
{
    return layer->n_head_kv * layer->head_dim_k;
}

static uint32_t v_width(const struct shard_layer *layer)
{
    return layer->n_head_kv * layer->head_dim_v;
}

/* Where what follows the keys and values of layers before `layer` starts. */
static uint32_t offset_at(const struct shard_model *m, uint32_t layer)
{
    size_t at = shard_record_floats(m->n_embd);
    for (uint32_t il = 0; il < layer; il++) {
        const struct shard_layer *l = &m->layers[il];
        if (l->kv_shared)
            at += shard_record_floats(k_width(l)) + shard_record_floats(v_width(l));
    }
    return (uint32_t)at;
}

uint32_t shard_row_floats(const struct shard_model *model, uint32_t layer)
{
    if (layer >= model->n_layers)
        return (uint32_t)shard_record_floats(model->n_embd);
    size_t inputs = (size_t)(model->n_layers - layer) * model->layer_input;
    return offset_at(model, layer) + (uint32_t)shard_record_floats(inputs);
}

bool shard_keeps_kv(const struct shard_model *model, uint32_t first, uint32_t end, uint32_t il)
{
    for (uint32_t i = first; i < end; i++) {
        if (model->layers[i].kv_layer == il)
            return true;
    }
    return false;
}

uint32_t shard_program_cache_first(const struct shard_program *program)
{
    uint32_t first = program->layer_first;
    for (uint32_t il = program->layer_first; il < program->layer_end; il++) {
        uint32_t of = program->model->layers[il].kv_layer;
        first = of < first ? of : first;
    }
    return first;
}

static void put_behind(struct builder *b, uint32_t at, int16_t src, uint32_t offset, uint32_t width)
{
    copy_heads(
        b, b->x, src,
        &(struct heads_copy){.n_heads = 1, .width = width, .offset = offset, .dst_offset = at});
}

static void widen_rows(struct builder *b, uint32_t layer)
{
    floats(b, "x", shard_row_floats(b->model, layer));
}

static void take_kv(struct builder *b, uint32_t il)
{
    const struct shard_layer *layer = &b->model->layers[il];
    uint32_t at = offset_at(b->model, il), n_k = k_width(layer), n_v = v_width(layer);
    int16_t k = floats(b, "k", n_k), v = floats(b, "v", n_v);
    copy(b, k, b->x, at, n_k);
    copy(b, v, b->x, at + (uint32_t)shard_record_floats(n_k), n_v);
    kv_store(b, il, k, v);
}

void shard__emit_arrival(struct builder *b)
{
    const struct shard_model *m = b->model;
    uint32_t first = b->program->layer_first, end = b->program->layer_end;
    uint32_t width = (m->n_layers - first) * m->layer_input;
    widen_rows(b, first);
    for (uint32_t il = 0; il < first; il++) {
        if (m->layers[il].kv_shared && shard_keeps_kv(m, first, end, il))
            take_kv(b, il);
    }
    if (width == 0)
        return;
    b->layer_inputs = floats(b, "layer_inputs", width);
    copy(b, b->layer_inputs, b->x, offset_at(m, first), width);
}

void shard__emit_kv_carry(struct builder *b, uint32_t il, int16_t k, int16_t v)
{
    const struct shard_layer *layer = &b->model->layers[il];
    if (!layer->kv_shared || b->program->layer_end == b->model->n_layers)
        return;
    uint32_t at = offset_at(b->model, il), n_k = k_width(layer);
    put_behind(b, at, k, 0, n_k);
    put_behind(b, at + (uint32_t)shard_record_floats(n_k), v, 0, v_width(layer));
}

void shard__emit_departure(struct builder *b)
{
    const struct shard_model *m = b->model;
    uint32_t first = b->program->layer_first, end = b->program->layer_end;
    uint32_t width = (m->n_layers - end) * m->layer_input;
    widen_rows(b, end);
    if (width > 0)
        put_behind(b, offset_at(m, end), b->layer_inputs, (end - first) * m->layer_input, width);
}
