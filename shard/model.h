/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a model is: the numbers and flags of its architecture, checked, and where each tensor of
 * each layer lies. An architecture is data: a row of the table in shard/arch.c plus the file's
 * metadata. Constant after creation, any thread.
 */
#ifndef SHARD_MODEL_H
#define SHARD_MODEL_H

#include <stdbool.h>

#include "shard/gguf.h"

/* Tensors a layer may have. The table in shard/arch.c gives names and shapes. */
enum shard_slot {
    SHARD_ATTN_NORM,
    SHARD_ATTN_Q,
    SHARD_ATTN_K,
    SHARD_ATTN_V,
    SHARD_ATTN_QKV,
    SHARD_ATTN_OUTPUT,
    SHARD_ATTN_Q_BIAS,
    SHARD_ATTN_K_BIAS,
    SHARD_ATTN_V_BIAS,
    SHARD_ATTN_OUTPUT_BIAS,
    SHARD_FFN_NORM,
    SHARD_FFN_GATE,
    SHARD_FFN_UP,
    SHARD_FFN_DOWN,
    SHARD_ROUTER,
    SHARD_GATE_EXPS,
    SHARD_UP_EXPS,
    SHARD_DOWN_EXPS,
    SHARD_GATE_SHARED,
    SHARD_UP_SHARED,
    SHARD_DOWN_SHARED,
    SHARD_N_SLOTS
};

/* RoPE pairs (2i, 2i+1) or (i, i + n/2). */
enum shard_rope { SHARD_ROPE_NONE, SHARD_ROPE_NORM, SHARD_ROPE_NEOX };

/* Which keys a query at position p sees, besides j <= p. */
enum shard_mask {
    SHARD_MASK_CAUSAL,
    SHARD_MASK_WINDOW, /* p - j < window */
    SHARD_MASK_CHUNK   /* j >= floor(p / window) * window */
};

/* How router logits become weights. */
enum shard_gate { SHARD_GATE_SOFTMAX, SHARD_GATE_SIGMOID, SHARD_GATE_SOFTMAX_SELECTED };

struct shard_layer {
    long tensor[SHARD_N_SLOTS]; /* index in the gguf, -1: none */
    /* Experts stored one tensor each (old Mixtral): tensor[slot] is expert 0's and experts_split is
     * set; expert x's is expert_tensor[3 * x + {0 gate, 1 up, 2 down}]. */
    bool experts_split;
    long *expert_tensor;
    bool moe;
    uint32_t n_head, n_head_kv, ff; /* ff: width of the dense FFN */
    enum shard_rope rope;
    enum shard_mask mask;
    uint32_t window;
    bool qk_norm_after_rope; /* weightless RMS of each head of Q and K */
    bool temperature;        /* Q *= 1 + 0.1 ln(1 + floor((p + 1) / temperature_length)) */
};

struct shard_model {
    const struct shard_gguf *gguf; /* borrowed: outlives the model */
    char arch[32];
    char name[128];
    uint32_t n_layers, n_embd, n_vocab, n_ctx;
    uint32_t head_dim_k, head_dim_v, n_rot;
    float eps;
    double rope_base;
    double rope_scale; /* linear factor: angles are divided by it */
    uint32_t n_experts, n_experts_used, ff_expert, ff_shared; /* ff_shared 0: no shared expert */
    enum shard_gate gate;
    bool gate_normalised; /* weights divided by their sum */
    bool gate_on_input;   /* the weight multiplies the expert's input (llama4) */
    float gate_scale;
    uint32_t temperature_length;
    float temperature_scale;
    long token_embd, output_norm, output, rope_freqs; /* -1: none; output may equal token_embd */
    struct shard_layer *layers;
};

/* Reads and checks everything: known architecture, needed keys, limits, each tensor's type and
 * shape. gguf is borrowed. */
enum proto_status shard_model_create(struct shard_model **out, const struct shard_gguf *gguf,
                                     struct proto_error *error);
void shard_model_destroy(struct shard_model *model);

/* Bytes of a layer's tensors in the file; of the embedding table; of the head (norm and output). */
uint64_t shard_model_layer_bytes(const struct shard_model *model, uint32_t layer);
uint64_t shard_model_embd_bytes(const struct shard_model *model);
uint64_t shard_model_head_bytes(const struct shard_model *model);

/* Total parameters, and those that one token's matrix products read. */
uint64_t shard_model_parameters(const struct shard_model *model);
uint64_t shard_model_bytes_per_token(const struct shard_model *model);

#endif
