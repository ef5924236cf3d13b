/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/program.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/program_build.h"

#define PI 3.14159265358979323846

uint64_t shard_mask_first(enum shard_mask mask, uint32_t window, uint64_t pos)
{
    if (mask == SHARD_MASK_CHUNK)
        return pos / window * window;
    if (mask == SHARD_MASK_WINDOW)
        return pos < window ? 0 : pos - window + 1;
    return 0;
}

/* The norm that some models have on what a branch adds to the residual. */
static void post_norm(struct builder *b, int16_t dst, const struct shard_layer *layer,
                      enum shard_slot slot)
{
    if (layer->tensor[slot] >= 0)
        norm(b, dst, dst, layer->tensor[slot]);
}

/* k and v are -1 in a layer that sees another's. */
struct qkv {
    int16_t q, k, v;
};

/* Products of their own. Without V's matrix, V is what K is before norms and rotation. */
static struct qkv emit_products(struct builder *b, const struct shard_layer *layer, int16_t h)
{
    bool has_v = layer->tensor[SHARD_ATTN_V] >= 0;
    int32_t wq = matrix(b, layer, SHARD_ATTN_Q);
    int32_t wk = matrix(b, layer, SHARD_ATTN_K);
    int32_t wv = has_v ? matrix(b, layer, SHARD_ATTN_V) : wk;
    /* Operands of all three first, so that the products stand side by side. */
    operand(b, h, wq);
    operand(b, h, wk);
    operand(b, h, wv);
    struct qkv r = {.q = matmul(b, "q", wq, h), .k = matmul(b, "k", wk, h)};
    if (has_v) {
        r.v = matmul(b, "v", wv, h);
    } else {
        uint32_t width = layer->n_head_kv * layer->head_dim_v;
        r.v = floats(b, "v", width);
        copy(b, r.v, r.k, 0, width);
    }
    return r;
}

static struct qkv emit_qkv(struct builder *b, uint32_t il, int16_t h)
{
    const struct shard_layer *layer = &b->model->layers[il];
    uint32_t q_width = layer->n_head * layer->head_dim_k;
    uint32_t k_width = layer->n_head_kv * layer->head_dim_k;
    uint32_t v_width = layer->n_head_kv * layer->head_dim_v;
    struct qkv r = {-1, -1, -1};
    if (layer->kv_layer != il) {
        r.q = matmul(b, "q", matrix(b, layer, SHARD_ATTN_Q), h);
    } else if (layer->tensor[SHARD_ATTN_QKV] >= 0) {
        int16_t fused = matmul(b, "qkv", matrix(b, layer, SHARD_ATTN_QKV), h);
        r = (struct qkv){floats(b, "q", q_width), floats(b, "k", k_width), floats(b, "v", v_width)};
        copy(b, r.q, fused, 0, q_width);
        copy(b, r.k, fused, q_width, k_width);
        copy(b, r.v, fused, q_width + k_width, v_width);
    } else {
        r = emit_products(b, layer, h);
    }
    bias(b, r.q, layer, SHARD_ATTN_Q_BIAS);
    bias(b, r.k, layer, SHARD_ATTN_K_BIAS);
    bias(b, r.v, layer, SHARD_ATTN_V_BIAS);
    return r;
}

static void emit_head_norm(struct builder *b, int16_t dst, uint32_t n_heads, uint32_t head_dim,
                           int32_t w)
{
    struct shard_op *op = emit(b, SHARD_OP_RMS_NORM, dst, dst);
    op->w = w;
    op->n_heads = n_heads;
    op->width = head_dim;
    op->eps = b->model->eps;
}

static void emit_rotation(struct builder *b, int16_t dst, uint32_t n_heads,
                          const struct shard_layer *layer)
{
    struct shard_op *op = emit(b, SHARD_OP_ROPE, dst, b->rope_table[layer->rope_set]);
    op->n_heads = n_heads;
    op->width = layer->head_dim_k;
    op->n_rot = b->model->rope[layer->rope_set].n_rot;
    op->rope = layer->rope;
}

static void emit_norms_before(struct builder *b, const struct shard_layer *layer, struct qkv r)
{
    int32_t wq = vector(b, layer, SHARD_ATTN_Q_NORM), wk = vector(b, layer, SHARD_ATTN_K_NORM);
    if (wq >= 0)
        emit_head_norm(b, r.q, layer->n_head, layer->head_dim_k, wq);
    if (r.k < 0)
        return;
    if (wk >= 0)
        emit_head_norm(b, r.k, layer->n_head_kv, layer->head_dim_k, wk);
    if (b->model->value_norm)
        emit_head_norm(b, r.v, layer->n_head_kv, layer->head_dim_v, -1);
}

static void emit_positions(struct builder *b, const struct shard_layer *layer, struct qkv r)
{
    const struct shard_model *m = b->model;
    if (layer->rope != SHARD_ROPE_NONE) {
        emit_rotation(b, r.q, layer->n_head, layer);
        if (r.k >= 0)
            emit_rotation(b, r.k, layer->n_head_kv, layer);
    }
    if (layer->qk_norm_after_rope) {
        emit_head_norm(b, r.q, layer->n_head, layer->head_dim_k, -1);
        if (r.k >= 0)
            emit_head_norm(b, r.k, layer->n_head_kv, layer->head_dim_k, -1);
    }
    if (layer->temperature) {
        struct shard_op *op = emit(b, SHARD_OP_TEMPERATURE, r.q, -1);
        op->width = layer->n_head * layer->head_dim_k;
        op->scale = m->temperature_scale;
        op->length = m->temperature_length;
        op->offset = m->temperature_offset;
    }
}

static void emit_attention(struct builder *b, uint32_t il)
{
    const struct shard_model *m = b->model;
    const struct shard_layer *layer = &m->layers[il];
    int16_t h = norm(b, floats(b, "h", m->n_embd), b->x, layer->tensor[SHARD_ATTN_NORM]);
    struct qkv r = emit_qkv(b, il, h);
    emit_norms_before(b, layer, r);
    emit_positions(b, layer, r);
    if (r.k >= 0) {
        kv_store(b, il, r.k, r.v);
        shard__emit_kv_carry(b, il, r.k, r.v);
    }
    int16_t mixed = floats(b, "mixed", (uint64_t)layer->n_head * layer->head_dim_v);
    struct shard_op *op = emit(b, SHARD_OP_ATTENTION, mixed, r.q);
    op->w = vector(b, layer, SHARD_ATTN_SINKS);
    op->layer = layer->kv_layer;
    op->n_heads = layer->n_head;
    op->n_head_kv = layer->n_head_kv;
    op->dim_k = layer->head_dim_k;
    op->dim_v = layer->head_dim_v;
    op->mask = layer->mask;
    op->window = layer->window;
    op->scale = layer->score_scale;
    int16_t y = matmul(b, "y", matrix(b, layer, SHARD_ATTN_OUTPUT), mixed);
    bias(b, y, layer, SHARD_ATTN_OUTPUT_BIAS);
    post_norm(b, y, layer, SHARD_POST_ATTN_NORM);
    add(b, b->x, y);
}

static void emit_glu(struct builder *b, int16_t gate, int16_t up, uint32_t width)
{
    struct shard_op *op = emit(b, SHARD_OP_GLU, gate, gate);
    op->b = up;
    op->width = width;
    op->glu = b->model->glu;
}

/* Returns the buffer of the result. */
static int16_t emit_dense(struct builder *b, const struct shard_layer *layer, int16_t h)
{
    int32_t w_gate = matrix(b, layer, SHARD_FFN_GATE);
    int32_t w_up = matrix(b, layer, SHARD_FFN_UP);
    operand(b, h, w_gate);
    operand(b, h, w_up);
    int16_t gate = matmul(b, "gate", w_gate, h);
    int16_t up = matmul(b, "up", w_up, h);
    emit_glu(b, gate, up, layer->ff);
    return matmul(b, "y", matrix(b, layer, SHARD_FFN_DOWN), gate);
}

static void emit_route(struct builder *b, const struct shard_layer *layer, int16_t routes,
                       int16_t logits)
{
    const struct shard_model *m = b->model;
    bias(b, logits, layer, SHARD_ROUTER_BIAS);
    struct shard_op *op = emit(b, SHARD_OP_ROUTE, routes, logits);
    op->w = vector(b, layer, SHARD_ROUTER_SELECTION_BIAS);
    op->w2 = vector(b, layer, SHARD_EXPERT_SCALES);
    op->width = m->n_experts;
    op->gate = m->gate;
    op->gate_normalised = m->gate_normalised;
    op->gate_on_input = m->gate_on_input;
    op->scale = m->gate_scale;
    op->n_used = m->n_experts_used;
    op->n_groups = m->n_expert_groups;
    op->n_groups_used = m->n_expert_groups_used;
}

/* The shared expert's buffers: its products with h, then joined and times down. */
struct shared_expert {
    int16_t gate, up, weight; /* weight -1: none */
};

static struct shared_expert emit_shared_products(struct builder *b, const struct shard_layer *layer,
                                                 int16_t h)
{
    struct shared_expert s = {.weight = -1};
    int32_t w_gate = matrix(b, layer, SHARD_GATE_SHARED);
    int32_t w_up = matrix(b, layer, SHARD_UP_SHARED);
    operand(b, h, w_gate);
    operand(b, h, w_up);
    s.gate = matmul(b, "gate", w_gate, h);
    s.up = matmul(b, "up", w_up, h);
    if (layer->tensor[SHARD_SHARED_GATE] >= 0)
        s.weight = matmul(b, "shared_gate", matrix(b, layer, SHARD_SHARED_GATE), h);
    return s;
}

static int16_t emit_shared_down(struct builder *b, const struct shard_layer *layer,
                                struct shared_expert s)
{
    int16_t y = matmul(b, "y", matrix(b, layer, SHARD_DOWN_SHARED), s.gate);
    if (s.weight >= 0)
        emit(b, SHARD_OP_SIGMOID_SCALE, y, s.weight)->width = b->model->n_embd;
    return y;
}

static int16_t emit_routes(struct builder *b, const struct shard_layer *layer, int32_t router,
                           int16_t h)
{
    int16_t logits = matmul(b, "router", router, h);
    int16_t routes =
        buffer(b, "routes", SHARD_BUFFER_ROUTE, KERN_ACT_F32, b->model->n_experts_used, false);
    emit_route(b, layer, routes, logits);
    return routes;
}

/* Rows for other workers leave first, so that they are computed while the shared expert is. */
static int16_t emit_moe_remote(struct builder *b, uint32_t il, int16_t h)
{
    const struct shard_layer *layer = &b->model->layers[il];
    int16_t routes = emit_routes(b, layer, matrix(b, layer, SHARD_ROUTER), h), y = -1;
    shard__emit_experts_send(b, il, h, routes);
    if (b->model->ff_shared) {
        struct shared_expert shared = emit_shared_products(b, layer, h);
        emit_glu(b, shared.gate, shared.up, b->model->ff_shared);
        y = emit_shared_down(b, layer, shared);
    }
    int16_t sum = shard__emit_experts(b, il, h, routes);
    if (y >= 0)
        add(b, sum, y);
    return sum;
}

/* Returns the buffer of the result. */
static int16_t emit_moe(struct builder *b, uint32_t il, int16_t h)
{
    const struct shard_layer *layer = &b->model->layers[il];
    struct shared_expert shared = {.weight = -1};
    if (shard__experts_remote(b->program, il))
        return emit_moe_remote(b, il, h);
    int32_t router = matrix(b, layer, SHARD_ROUTER);
    operand(b, h, router);
    /* The shared expert's first products stand beside the router's, so that they run as one. */
    if (b->model->ff_shared)
        shared = emit_shared_products(b, layer, h);
    int16_t routes = emit_routes(b, layer, router, h);
    if (b->model->ff_shared)
        emit_glu(b, shared.gate, shared.up, b->model->ff_shared);
    int16_t sum = shard__emit_experts(b, il, h, routes);
    if (b->model->ff_shared)
        add(b, sum, emit_shared_down(b, layer, shared));
    return sum;
}

/* A dense FFN and experts side by side, each with norms of its own; the router too. */
static int16_t emit_beside(struct builder *b, uint32_t il, int16_t h)
{
    const struct shard_model *m = b->model;
    const struct shard_layer *layer = &m->layers[il];
    int16_t h_routed = floats(b, "h_routed", m->n_embd);
    norm(b, h_routed, b->x, layer->tensor[SHARD_ROUTER_NORM]);
    scale(b, h_routed, m->n_embd, (float)(1.0 / sqrt((double)m->n_embd)));
    int16_t routes = emit_routes(b, layer, matrix(b, layer, SHARD_ROUTER), h_routed);
    norm(b, h_routed, b->x, layer->tensor[SHARD_EXPERTS_NORM]);
    shard__emit_experts_send(b, il, h_routed, routes);
    int16_t dense = emit_dense(b, layer, h);
    norm(b, dense, dense, layer->tensor[SHARD_POST_DENSE_NORM]);
    int16_t sum = shard__emit_experts(b, il, h_routed, routes);
    norm(b, sum, sum, layer->tensor[SHARD_POST_EXPERTS_NORM]);
    add(b, sum, dense);
    return sum;
}

static void emit_layer(struct builder *b, uint32_t il)
{
    const struct shard_layer *layer = &b->model->layers[il];
    if (b->model->mla.kv_rank)
        shard__emit_mla(b, il);
    else if (layer->delta)
        shard__emit_delta(b, il);
    else if (b->model->gated_attention)
        shard__emit_gated_attention(b, il);
    else
        emit_attention(b, il);
    int16_t h = norm(b, floats(b, "h", b->model->n_embd), b->x, layer->tensor[SHARD_FFN_NORM]);
    int16_t y;
    if (!layer->moe)
        y = emit_dense(b, layer, h);
    else if (b->model->dense_beside)
        y = emit_beside(b, il, h);
    else
        y = emit_moe(b, il, h);
    post_norm(b, y, layer, SHARD_POST_FFN_NORM);
    add(b, b->x, y);
    shard__emit_input(b, il);
    if (layer->tensor[SHARD_LAYER_SCALE] >= 0) {
        struct shard_op *op = emit(b, SHARD_OP_SCALE, b->x, -1);
        op->width = b->model->n_embd;
        op->w = vector(b, layer, SHARD_LAYER_SCALE);
    }
}

static void emit_rope_table(struct builder *b, enum shard_rope_set set)
{
    static const char *const names[SHARD_N_ROPE_SETS] = {"rope", "rope_swa"};
    const struct shard_program *p = b->program;
    bool rotates = false;
    for (uint32_t il = p->layer_first; il < p->layer_end; il++) {
        const struct shard_layer *layer = &b->model->layers[il];
        rotates |= layer->rope != SHARD_ROPE_NONE && layer->rope_set == set;
    }
    if (!rotates)
        return;
    uint32_t n_rot = b->model->rope[set].n_rot;
    b->rope_table[set] = floats(b, names[set], n_rot);
    struct shard_op *op = emit(b, SHARD_OP_ROPE_TABLE, b->rope_table[set], -1);
    op->width = n_rot;
    op->rope_set = set;
    if (set == SHARD_ROPE_GLOBAL && b->model->rope_freqs >= 0)
        op->w = add_weight(b, SHARD_WEIGHT_VECTOR, b->model->rope_freqs);
}

static void emit_head(struct builder *b)
{
    const struct shard_model *m = b->model;
    struct shard_program *p = b->program;
    p->tail = p->n_ops;
    int16_t x = buffer(b, "wanted", SHARD_BUFFER_F32, KERN_ACT_F32, m->n_embd, true);
    emit(b, SHARD_OP_SELECT, x, b->x)->width = m->n_embd;
    norm(b, x, x, m->output_norm);
    bool tied = m->output == m->token_embd && b->embedding >= 0;
    int32_t w = tied ? b->embedding : add_weight(b, SHARD_WEIGHT_PANELS, m->output);
    p->logits = matmul(b, "logits", w, x);
    if (m->logit_softcap > 0.0f) {
        struct shard_op *op = emit(b, SHARD_OP_SOFTCAP, p->logits, -1);
        op->width = m->n_vocab;
        op->scale = m->logit_softcap;
    }
}

static void emit_embedding(struct builder *b)
{
    const struct shard_model *m = b->model;
    b->embedding = add_weight(b, SHARD_WEIGHT_PANELS, m->token_embd);
    emit(b, SHARD_OP_EMBED, b->x, -1)->w = b->embedding;
    if (m->embd_scale != 1.0f)
        scale(b, b->x, m->n_embd, m->embd_scale);
    shard__emit_inputs(b);
}

static void emit_program(struct builder *b)
{
    struct shard_program *p = b->program;
    b->x = floats(b, "x", b->model->n_embd);
    b->embedding = -1;
    if (p->embed)
        emit_embedding(b);
    else
        shard__emit_arrival(b);
    emit_rope_table(b, SHARD_ROPE_GLOBAL);
    emit_rope_table(b, SHARD_ROPE_WINDOWED);
    for (uint32_t il = p->layer_first; il < p->layer_end; il++)
        emit_layer(b, il);
    if (!p->head)
        shard__emit_departure(b);
    p->tail = p->n_ops;
    if (p->head)
        emit_head(b);
}

/* The pair that turns `turns` times within the context before scaling. */
static double yarn_pair(const struct shard_rope_params *params, double turns)
{
    double length = params->original_ctx / (2.0 * PI * turns);
    return params->n_rot * log(length) / (2.0 * log(params->base));
}

void shard_rope_fill(double *freqs, const struct shard_rope_params *params)
{
    double last = params->n_rot - 1.0, low = 0, high = 0;
    if (params->yarn_factor > 0) {
        low = fmax(0.0, floor(yarn_pair(params, params->yarn_beta_fast)));
        high = fmin(last, ceil(yarn_pair(params, params->yarn_beta_slow)));
    }
    for (uint32_t i = 0; i < params->n_rot / 2; i++) {
        freqs[i] = pow(params->base, -2.0 * i / params->n_rot) / params->scale;
        if (params->yarn_factor > 0) {
            double slow = fmin(fmax((i - low) / fmax(0.001, high - low), 0.0), 1.0);
            freqs[i] *= (1.0 - slow) + slow / params->yarn_factor;
        }
    }
}

/* What the program has room for. */
struct room {
    size_t ops, weights, tensors;
};

static struct room room_of(const struct shard_program *p)
{
    size_t n_layers = p->layer_end - p->layer_first;
    struct room room = {.ops = n_layers * OPS_PER_LAYER + OPS_BESIDES + p->model->n_layers,
                        .weights = n_layers * SHARD_N_SLOTS + WEIGHTS_BESIDES};
    room.tensors = room.weights;
    for (uint32_t il = 0; il < p->model->n_layers; il++) {
        room.weights += shard__experts_weights(p, il) + 3; /* and biases */
        room.tensors += shard__experts_tensors(p, il) + 3;
    }
    return room;
}

static enum proto_status allocate(struct shard_program *p, struct proto_error *error)
{
    struct room room = room_of(p);
    p->ops = calloc(room.ops, sizeof p->ops[0]);
    p->buffers = calloc(MAX_BUFFERS, sizeof p->buffers[0]);
    p->weights = calloc(room.weights, sizeof p->weights[0]);
    p->parts = calloc(room.tensors, sizeof p->parts[0]);
    bool failed = !p->ops || !p->buffers || !p->weights || !p->parts;
    for (int set = 0; set < SHARD_N_ROPE_SETS; set++) {
        p->rope_freqs[set] = calloc(p->model->rope[set].n_rot / 2 + 1, sizeof(double));
        failed = failed || !p->rope_freqs[set];
    }
    if (failed)
        return proto_fail_nomem(error, room.ops * sizeof p->ops[0], "a slice's program");
    return PROTO_OK;
}

static enum proto_status check_cut(const struct shard_model *model, uint32_t first, uint32_t end,
                                   bool embed, bool head, struct proto_error *error)
{
    bool nothing = first == end && !embed && !head;
    if (first > end || end > model->n_layers || nothing)
        return proto_fail(error, PROTO_INVALID,
                          "cannot cut layers %u to %u (the end not included) of a model with %u "
                          "layers",
                          first, end, model->n_layers);
    return PROTO_OK;
}

/* An empty program with room for everything. */
static enum proto_status prepare(struct shard_program **out, const struct shard_model *model,
                                 const struct shard_split *split, struct proto_error *error)
{
    struct shard_program *p = *out = calloc(1, sizeof *p);
    if (!p)
        return proto_fail_nomem(error, sizeof *p, "a slice's program");
    *p = (struct shard_program){.model = model,
                                .layer_first = split->layer_first,
                                .layer_end = split->layer_end,
                                .embed = split->embed,
                                .head = split->head,
                                .logits = -1};
    enum proto_status status = shard__experts_init(p, split, error);
    return status == PROTO_OK ? allocate(p, error) : status;
}

static enum proto_status fail_program(struct shard_program **out, enum proto_status status)
{
    shard_program_destroy(*out);
    *out = NULL;
    return status;
}

enum proto_status shard_program_create_split(struct shard_program **out,
                                             const struct shard_model *model,
                                             const struct shard_split *split,
                                             struct proto_error *error)
{
    *out = NULL;
    enum proto_status status =
        check_cut(model, split->layer_first, split->layer_end, split->embed, split->head, error);
    if (status == PROTO_OK)
        status = prepare(out, model, split, error);
    if (status != PROTO_OK)
        return fail_program(out, status);
    struct builder b = {.program = *out, .model = model, .rope_table = {-1, -1}};
    emit_program(&b);
    for (int set = 0; set < SHARD_N_ROPE_SETS; set++)
        shard_rope_fill((*out)->rope_freqs[set], &model->rope[set]);
    return PROTO_OK;
}

enum proto_status shard_program_create(struct shard_program **out, const struct shard_model *model,
                                       uint32_t layer_first, uint32_t layer_end, bool embed,
                                       bool head, struct proto_error *error)
{
    struct shard_split split = {
        .layer_first = layer_first, .layer_end = layer_end, .embed = embed, .head = head};
    return shard_program_create_split(out, model, &split, error);
}

enum proto_status shard_program_create_host(struct shard_program **out,
                                            const struct shard_model *model,
                                            const struct shard_split *split,
                                            struct proto_error *error)
{
    struct shard_split hosted = {
        .worker = split->worker, .parts = split->parts, .n_parts = split->n_parts};
    *out = NULL;
    enum proto_status status = prepare(out, model, &hosted, error);
    if (status != PROTO_OK)
        return fail_program(out, status);
    struct builder b = {.program = *out, .model = model};
    b.x = floats(&b, "x", model->n_embd);
    for (uint32_t il = 0; il < model->n_layers && split->parts; il++) {
        if (il < split->layer_first || il >= split->layer_end)
            shard__emit_hosted(&b, il);
    }
    (*out)->tail = (*out)->n_ops;
    if ((*out)->n_ops == 0)
        return fail_program(
            out, proto_fail(error, PROTO_INVALID,
                            "worker %u has no experts outside of its own layers to compute",
                            split->worker));
    return PROTO_OK;
}

void shard_program_destroy(struct shard_program *program)
{
    if (!program)
        return;
    free(program->ops);
    free(program->buffers);
    free(program->weights);
    free(program->parts);
    free(program->holdings);
    free(program->placement);
    for (int set = 0; set < SHARD_N_ROPE_SETS; set++)
        free(program->rope_freqs[set]);
    free(program);
}
