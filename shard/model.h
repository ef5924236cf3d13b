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
    SHARD_GATE_UP_EXPS, /* gate's rows, then up's, of each expert; else those two are there */
    SHARD_ATTN_Q_NORM,
    SHARD_ATTN_K_NORM,
    SHARD_ATTN_SINKS,
    SHARD_POST_ATTN_NORM, /* of what attention adds to the residual */
    SHARD_POST_FFN_NORM,
    SHARD_LAYER_SCALE, /* of the residual, at the end */
    SHARD_ROUTER_BIAS,
    SHARD_ROUTER_SELECTION_BIAS,
    SHARD_GATE_EXPS_BIAS,
    SHARD_UP_EXPS_BIAS,
    SHARD_DOWN_EXPS_BIAS,
    SHARD_ROUTER_NORM, /* from here on: of a dense FFN and experts side by side */
    SHARD_EXPERTS_NORM,
    SHARD_POST_DENSE_NORM,
    SHARD_POST_EXPERTS_NORM,
    SHARD_EXPERT_SCALES, /* factors of the weights that the router gives */
    SHARD_SHARED_GATE,   /* the shared expert's result is multiplied by its sigmoid */
    SHARD_ATTN_Q_A,      /* MLA */
    SHARD_ATTN_Q_A_NORM,
    SHARD_ATTN_Q_B,
    SHARD_ATTN_KV_A,
    SHARD_ATTN_KV_A_NORM,
    SHARD_ATTN_K_B,
    SHARD_ATTN_V_B,
    SHARD_ATTN_KV_B, /* rows of both, by head: k_b's, not transposed, and v_b's */
    SHARD_DELTA_IN,  /* delta-net; by K head its q and k, and v and z of its V heads */
    SHARD_DELTA_Z,
    SHARD_DELTA_CONV,
    SHARD_DELTA_DT,
    SHARD_DELTA_A,
    SHARD_DELTA_BETA,
    SHARD_DELTA_ALPHA,
    SHARD_DELTA_BETA_ALPHA,
    SHARD_DELTA_NORM,
    SHARD_DELTA_OUT,
    SHARD_INPUT_GATE, /* a layer's own input */
    SHARD_INPUT_PROJ,
    SHARD_POST_INPUT_NORM,
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

/* How an FFN joins gate and up: kernels/table.h has the formulas. */
enum shard_glu { SHARD_GLU_SILU, SHARD_GLU_GELU, SHARD_GLU_SWIGLU_OAI };

/* Sets of RoPE angles that a model may have. */
enum shard_rope_set { SHARD_ROPE_GLOBAL, SHARD_ROPE_WINDOWED, SHARD_N_ROPE_SETS };

/* Angles of a set, for pairs k < n_rot / 2 of a head: position * base^(-2k / n_rot) / scale. With
 * YaRN (factor above 0) slow pairs are divided by the factor and fast ones are not; the formulas
 * are those of "YaRN: Efficient Context Window Extension of Large Language Models", section 3. */
struct shard_rope_params {
    uint32_t n_rot;
    double base;
    double scale; /* linear factor: angles are divided by it */
    double yarn_factor, yarn_beta_fast, yarn_beta_slow;
    uint32_t original_ctx; /* context before YaRN */
    float gain;            /* cos and sin are multiplied by it */
};

/*
 * Multi-head latent attention in its absorbed form: one KV head whose keys are the compressed row
 * and its rotated part [kv_rank | n_rot], and whose values are the first kv_rank of them.
 * shard_model.head_dim_k is their sum and head_dim_v is kv_rank.
 */
struct shard_mla {
    uint32_t kv_rank; /* 0: the model has none */
    uint32_t q_rank;  /* 0: the query is not compressed */
    uint32_t nope;    /* a head's query has this many values that are not rotated, then n_rot */
    uint32_t dim_v;   /* of a head's value, decompressed */
    bool joined;      /* the file has attn_kv_b in place of attn_k_b and attn_v_b */
};

#define SHARD_MAX_TAPS 16u

/* Gated delta-net layers: n_v heads, each with a state of dim x dim; n_k heads of queries and
 * keys. */
struct shard_delta {
    uint32_t n_v; /* 0: the model has none */
    uint32_t n_k, dim;
    uint32_t taps; /* of the causal convolution over q, k and v */
    bool grouped;  /* V head j has K head j / (n_v / n_k), else j mod n_k */
};

struct shard_layer {
    long tensor[SHARD_N_SLOTS]; /* index in the gguf, -1: none */
    /* Experts stored one tensor each (old Mixtral): tensor[slot] is expert 0's and experts_split is
     * set; expert x's is expert_tensor[3 * x + {0 gate, 1 up, 2 down}]. */
    bool experts_split;
    long *expert_tensor;
    bool moe;
    bool delta;                     /* a gated delta-net layer: no keys and values, but a state */
    uint32_t n_head, n_head_kv, ff; /* ff: width of the dense FFN */
    uint32_t head_dim_k, head_dim_v;
    uint32_t kv_layer; /* whose keys and values it sees: its own, or those of an earlier layer */
    bool kv_shared;    /* later layers see its keys and values too */
    enum shard_rope_set rope_set;
    float score_scale; /* of products of Q and K */
    enum shard_rope rope;
    enum shard_mask mask;
    uint32_t window;
    bool qk_norm_after_rope; /* weightless RMS of each head of Q and K */
    bool temperature;        /* Q *= 1 + temperature_scale *
                                ln(1 + floor((p + temperature_offset) / temperature_length)) */
};

struct shard_model {
    const struct shard_gguf *gguf; /* borrowed: outlives the model */
    char arch[32];
    char name[128];
    uint32_t n_layers, n_embd, n_vocab, n_ctx;
    uint32_t n_skipped; /* blocks after the layers, which predict further tokens and are not run */
    uint32_t head_dim_k, head_dim_v; /* of the layers that see everything */
    float eps;
    struct shard_rope_params rope[SHARD_N_ROPE_SETS];
    float embd_scale; /* embeddings are multiplied by it */
    bool value_norm;  /* weightless RMS of each head of V */
    enum shard_glu glu;
    float logit_softcap; /* logits become c tanh(logit / c); 0: they stay */
    struct shard_mla mla;
    struct shard_delta delta;
    bool gated_attention; /* attn_q gives [q | gate] by head; attention's result is multiplied by
                             the gate's sigmoid */
    uint32_t n_experts, n_experts_used, ff_expert, ff_shared; /* ff_shared 0: no shared expert */
    enum shard_gate gate;
    bool gate_normalised; /* weights divided by their sum */
    bool gate_on_input;   /* the weight multiplies the expert's input (llama4) */
    float gate_scale;
    uint32_t layer_input; /* values of a token's input to each layer besides the residual; 0: there
                             is none (program_input.c) */
    bool dense_beside;    /* MoE layers have a dense FFN beside the experts */
    uint32_t n_expert_groups, n_expert_groups_used; /* experts are chosen from the best groups of
                                                       adjacent ones; 0: from all */
    uint32_t temperature_length, temperature_offset;
    float temperature_scale;
    long token_embd, output_norm, output, rope_freqs; /* -1: none; output may equal token_embd */
    long input_embd, input_proj, input_norm;          /* of layers' own inputs; -1: none */
    struct shard_layer *layers;
};

/* Reads and checks everything: known architecture, needed keys, limits, each tensor's type and
 * shape. Errors name the file. gguf is borrowed. */
enum proto_status shard_model_create(struct shard_model **out, const struct shard_gguf *gguf,
                                     struct proto_error *error);
void shard_model_destroy(struct shard_model *model);

/* Bytes of a layer's tensors in the file; of what makes embeddings; of the head (norm and output).
 */
uint64_t shard_model_layer_bytes(const struct shard_model *model, uint32_t layer);
uint64_t shard_model_embd_bytes(const struct shard_model *model);
uint64_t shard_model_head_bytes(const struct shard_model *model);

/* Total parameters, and those that one token's matrix products read. */
uint64_t shard_model_parameters(const struct shard_model *model);
uint64_t shard_model_bytes_per_token(const struct shard_model *model);

#endif
