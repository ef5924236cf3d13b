/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The routed experts of a layer in a program: which of them it holds, as weights, and the
 * operations that compute them. A program without a placement holds them all.
 */
#include <stdlib.h>

#include "shard/program_build.h"

struct shard_expert_types shard_expert_types(const struct shard_model *model, uint32_t layer)
{
    const long *tensor = model->layers[layer].tensor;
    bool fused = tensor[SHARD_GATE_UP_EXPS] >= 0;
    const long slots[3] = {tensor[fused ? SHARD_GATE_UP_EXPS : SHARD_GATE_EXPS],
                           tensor[fused ? SHARD_GATE_UP_EXPS : SHARD_UP_EXPS],
                           tensor[SHARD_DOWN_EXPS]};
    const struct kern_type_info *types[3];
    for (int i = 0; i < 3; i++)
        types[i] = shard_gguf_tensor(model->gguf, (size_t)slots[i])->type;
    return (struct shard_expert_types){types[0], types[1], types[2], fused};
}

/* Of the experts of layer il: those that part i of the placement gives the program; with i 0 all,
 * where there is no placement. */
static bool holding_of(const struct shard_program *p, uint32_t il, uint32_t i,
                       struct shard_holding *out)
{
    uint32_t n = shard_expert_segments(p->model->ff_expert).n;
    *out = (struct shard_holding){.expert_end = p->model->n_experts, .segment_end = n};
    if (!p->placement)
        return true;
    const struct shard_expert_part *part = &p->placement[i];
    out->expert_first = part->expert_first;
    out->expert_end = part->expert_end;
    shard_part_segments(part, n, &out->segment_first, &out->segment_end);
    return part->worker == p->worker && il >= part->layer_first && il < part->layer_end;
}

static uint32_t n_candidates(const struct shard_program *p)
{
    return p->placement ? p->n_placement : 1;
}

size_t shard__experts_weights(const struct shard_program *p, uint32_t il)
{
    struct shard_holding holding;
    size_t n = 0;
    for (uint32_t i = 0; i < n_candidates(p) && p->model->layers[il].moe; i++)
        n += holding_of(p, il, i, &holding) ? 3 : 0;
    return n;
}

size_t shard__experts_tensors(const struct shard_program *p, uint32_t il)
{
    struct shard_holding holding;
    size_t n = 0;
    for (uint32_t i = 0; i < n_candidates(p) && p->model->layers[il].moe; i++) {
        if (holding_of(p, il, i, &holding))
            n += p->model->layers[il].experts_split
                     ? 3 * (size_t)(holding.expert_end - holding.expert_first)
                     : 3;
    }
    return n;
}

static bool is_held(const struct shard_program *p, uint32_t il, uint32_t expert, uint32_t segment,
                    bool by_anybody)
{
    uint32_t n = shard_expert_segments(p->model->ff_expert).n;
    for (uint32_t i = 0; i < p->n_placement; i++) {
        if ((by_anybody || p->placement[i].worker == p->worker) &&
            shard_part_has(&p->placement[i], n, il, expert, segment))
            return true;
    }
    return false;
}

bool shard__experts_remote(const struct shard_program *p, uint32_t il)
{
    uint32_t n = shard_expert_segments(p->model->ff_expert).n;
    for (uint32_t i = 0; p->placement && i < p->model->n_experts * n; i++) {
        if (!is_held(p, il, i / n, i % n, false))
            return true;
    }
    return false;
}

/* The slot's matrices of a holding's experts. */
static int32_t expert_matrices(struct builder *b, const struct shard_layer *layer,
                               enum shard_slot slot, const struct shard_holding *h)
{
    struct shard_program *p = b->program;
    int32_t w = matrix(b, layer, slot);
    struct shard_weight *weight = &p->weights[w];
    uint32_t n = h->expert_end - h->expert_first;
    weight->n_mats = n;
    if (!layer->experts_split) {
        weight->mat_first = h->expert_first;
        weight->mat_end = h->expert_end;
        return w;
    }
    weight->n_parts = n;
    p->n_parts = weight->first_part;
    for (uint32_t x = h->expert_first; x < h->expert_end; x++)
        p->parts[p->n_parts++] =
            (uint32_t)layer->expert_tensor[3 * x + (uint32_t)(slot - SHARD_GATE_EXPS)];
    return w;
}

/* Rows of the holding's segments alone, gate's and up's where they are one matrix. */
static void cut_rows(struct shard_weight *weight, const struct shard_segments *s,
                     const struct shard_holding *h)
{
    uint32_t ff = s->at[s->n], first = s->at[h->segment_first], end = s->at[h->segment_end];
    if (end - first == ff)
        return;
    weight->n_out = weight->n_out / ff * (end - first);
    weight->row_every = ff;
    weight->row_first = first;
    weight->row_n = end - first;
}

static void cut_columns(struct shard_weight *weight, const struct shard_segments *s,
                        const struct shard_holding *h)
{
    if (s->n == 1)
        return;
    weight->columns.n = h->segment_end - h->segment_first;
    for (uint32_t i = 0; i <= weight->columns.n; i++)
        weight->columns.at[i] = s->at[h->segment_first + i];
    weight->k = weight->columns.at[weight->columns.n] - weight->columns.at[0];
}

static void add_holding(struct builder *b, const struct shard_layer *layer,
                        struct shard_holding holding)
{
    struct shard_program *p = b->program;
    struct shard_segments s = shard_expert_segments(b->model->ff_expert);
    bool fused = layer->tensor[SHARD_GATE_UP_EXPS] >= 0;
    holding.gate =
        expert_matrices(b, layer, fused ? SHARD_GATE_UP_EXPS : SHARD_GATE_EXPS, &holding);
    holding.up = fused ? -1 : expert_matrices(b, layer, SHARD_UP_EXPS, &holding);
    holding.down = expert_matrices(b, layer, SHARD_DOWN_EXPS, &holding);
    cut_rows(&p->weights[holding.gate], &s, &holding);
    if (!fused)
        cut_rows(&p->weights[holding.up], &s, &holding);
    cut_columns(&p->weights[holding.down], &s, &holding);
    p->holdings[p->n_holdings++] = holding;
}

static struct shard_op *emit_op(struct builder *b, enum shard_op_kind kind, uint32_t il,
                                int16_t dst, int16_t x_gate)
{
    const struct shard_model *m = b->model;
    struct shard_op *op = emit(b, kind, dst, x_gate);
    op->layer = il;
    op->glu = m->glu;
    op->width = m->ff_expert;
    op->gate_on_input = m->gate_on_input;
    op->n_used = m->n_experts_used;
    return op;
}

void shard__emit_experts_send(struct builder *b, uint32_t il, int16_t h, int16_t routes)
{
    struct shard_expert_types types = shard_expert_types(b->model, il);
    int16_t x_gate = operand_of(b, h, types.gate, b->model->n_embd);
    int16_t x_up = operand_of(b, h, types.up, b->model->n_embd);
    if (!shard__experts_remote(b->program, il))
        return;
    struct shard_op *op = emit_op(b, SHARD_OP_EXPERTS_SEND, il, -1, x_gate);
    op->b = routes;
    op->c = x_up;
}

/* The operation with the program's holdings of the layer. */
static struct shard_op *emit_holdings(struct builder *b, uint32_t il, int16_t dst, int16_t x_gate)
{
    const struct shard_layer *layer = &b->model->layers[il];
    struct shard_program *p = b->program;
    struct shard_op *op = emit_op(b, SHARD_OP_EXPERTS, il, dst, x_gate);
    struct shard_holding holding;
    op->first_holding = (uint32_t)p->n_holdings;
    for (uint32_t i = 0; i < n_candidates(p); i++) {
        if (holding_of(p, il, i, &holding))
            add_holding(b, layer, holding);
    }
    op->n_holdings = (uint32_t)p->n_holdings - op->first_holding;
    if (op->n_holdings == 0)
        return op;
    op->bias[0] = vector(b, layer, SHARD_GATE_EXPS_BIAS);
    op->bias[1] = vector(b, layer, SHARD_UP_EXPS_BIAS);
    op->bias[2] = vector(b, layer, SHARD_DOWN_EXPS_BIAS);
    return op;
}

int16_t shard__emit_experts(struct builder *b, uint32_t il, int16_t h, int16_t routes)
{
    struct shard_expert_types types = shard_expert_types(b->model, il);
    int16_t dst = floats(b, "experts", b->model->n_embd);
    int16_t x_gate = operand_of(b, h, types.gate, b->model->n_embd);
    int16_t x_up = operand_of(b, h, types.up, b->model->n_embd);
    struct shard_op *op = emit_holdings(b, il, dst, x_gate);
    op->b = routes;
    op->c = x_up;
    op->remote = shard__experts_remote(b->program, il);
    return dst;
}

void shard__emit_hosted(struct builder *b, uint32_t il)
{
    if (shard__experts_weights(b->program, il) > 0)
        emit_holdings(b, il, -1, -1);
}

static enum proto_status check_part(const struct shard_model *m,
                                    const struct shard_expert_part *part, struct proto_error *error)
{
    uint32_t n = shard_expert_segments(m->ff_expert).n;
    if (part->layer_first >= part->layer_end || part->layer_end > m->n_layers ||
        part->expert_first >= part->expert_end || part->expert_end > m->n_experts)
        return proto_fail(error, PROTO_INVALID,
                          "worker %u is to hold experts %u to %u of layers %u to %u (the ends not "
                          "included), and the model has %u experts in %u layers",
                          part->worker, part->expert_first, part->expert_end, part->layer_first,
                          part->layer_end, m->n_experts, m->n_layers);
    if (part->slice >= part->n_slices || part->n_slices > n)
        return proto_fail(error, PROTO_INVALID,
                          "worker %u is to hold slice %u of %u, and experts of %u values can be "
                          "cut into %u: use fewer slices",
                          part->worker, part->slice, part->n_slices, m->ff_expert, n);
    return PROTO_OK;
}

static enum proto_status check_held(const struct shard_program *p, uint32_t il,
                                    struct proto_error *error)
{
    uint32_t n = shard_expert_segments(p->model->ff_expert).n;
    for (uint32_t i = 0; i < p->model->n_experts * n; i++) {
        if (!is_held(p, il, i / n, i % n, true))
            return proto_fail(error, PROTO_INVALID,
                              "no worker holds all of expert %u of layer %u; the plan must give "
                              "every expert to some worker",
                              i / n, il);
    }
    return PROTO_OK;
}

static enum proto_status copy_placement(struct shard_program *p, const struct shard_split *split,
                                        struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    p->worker = split->worker;
    if (!split->parts)
        return PROTO_OK;
    p->placement = calloc((size_t)split->n_parts + 1, sizeof *p->placement);
    if (!p->placement)
        return proto_fail_nomem(error, split->n_parts * sizeof *p->placement, "parts of experts");
    p->n_placement = split->n_parts;
    for (uint32_t i = 0; i < split->n_parts && !status; i++) {
        p->placement[i] = split->parts[i];
        status = check_part(p->model, &split->parts[i], error);
    }
    return status;
}

enum proto_status shard__experts_init(struct shard_program *p, const struct shard_split *split,
                                      struct proto_error *error)
{
    size_t n = 0;
    enum proto_status status = copy_placement(p, split, error);
    for (uint32_t il = 0; il < p->model->n_layers && !status; il++) {
        bool own = il >= p->layer_first && il < p->layer_end && p->model->layers[il].moe;
        if (own && p->placement)
            status = check_held(p, il, error);
        n += shard__experts_weights(p, il) / 3;
    }
    if (status != PROTO_OK)
        return status;
    p->holdings = calloc(n + 1, sizeof *p->holdings);
    return p->holdings ? PROTO_OK
                       : proto_fail_nomem(error, n * sizeof *p->holdings, "held experts");
}
