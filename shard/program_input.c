/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inputs of layers, as Gemma 3n and the small Gemma 4 models have them besides the residual stream
 * (Gemma4TextModel.get_per_layer_inputs and project_per_layer_inputs, Gemma4TextDecoderLayer of
 * Hugging Face transformers, src/transformers/models/gemma4/modeling_gemma4.py). With P values a
 * layer, L layers and x the scaled embedding of a token:
 *
 *   inputs = (RMS_P(proj x / sqrt(n_embd)) * norm + embd[id] * sqrt(P)) / sqrt(2)    L x P values
 *
 * where RMS_P is taken over the P values of each layer, and each layer's end is
 *
 *   x += RMS(w_proj (gelu(w_gate x) * inputs of the layer)) * post_norm
 */
#include "shard/program_build.h"

#include <math.h>

void shard__emit_inputs(struct builder *b)
{
    const struct shard_model *m = b->model;
    uint32_t width = m->n_layers * m->layer_input;
    if (width == 0)
        return;
    b->layer_inputs = floats(b, "layer_inputs", width);
    emit(b, SHARD_OP_EMBED, b->layer_inputs, -1)->w =
        add_weight(b, SHARD_WEIGHT_PANELS, m->input_embd);
    scale(b, b->layer_inputs, width, (float)sqrt((double)m->layer_input));
    int16_t proj = matmul(b, "input_proj", add_weight(b, SHARD_WEIGHT_PANELS, m->input_proj), b->x);
    scale(b, proj, width, (float)(1.0 / sqrt((double)m->n_embd)));
    struct shard_op *op = emit(b, SHARD_OP_RMS_NORM, proj, proj);
    op->w = add_weight(b, SHARD_WEIGHT_VECTOR, m->input_norm);
    op->n_heads = m->n_layers;
    op->width = m->layer_input;
    op->eps = m->eps;
    emit(b, SHARD_OP_ADD, b->layer_inputs, proj)->width = width;
    scale(b, b->layer_inputs, width, (float)sqrt(0.5));
}

void shard__emit_input(struct builder *b, uint32_t il)
{
    const struct shard_model *m = b->model;
    const struct shard_layer *layer = &m->layers[il];
    if (m->layer_input == 0)
        return;
    int16_t gate = matmul(b, "input_gate", matrix(b, layer, SHARD_INPUT_GATE), b->x);
    int16_t own = floats(b, "layer_input", m->layer_input);
    copy(b, own, b->layer_inputs, (il - b->program->layer_first) * m->layer_input, m->layer_input);
    struct shard_op *op = emit(b, SHARD_OP_GLU, gate, gate);
    op->b = own;
    op->width = m->layer_input;
    op->glu = SHARD_GLU_GELU;
    int16_t y = matmul(b, "y", matrix(b, layer, SHARD_INPUT_PROJ), gate);
    norm(b, y, y, layer->tensor[SHARD_POST_INPUT_NORM]);
    add(b, b->x, y);
}
