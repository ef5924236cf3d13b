/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The architecture table and the tensors that a layer may have; private to shard/. Constant data,
 * any thread.
 */
#ifndef SHARD_ARCH_H
#define SHARD_ARCH_H

#include "shard/model.h"

/* A row: what the file's metadata does not say about a family of models. */
struct shard__arch {
    const char *name;
    enum shard_rope rope;
    enum shard_gate gate;
    bool gate_normalised;
    bool gate_on_input;
    bool needs_experts;          /* expert_count and expert_feed_forward_length must be there;
                                    else the FFN's length serves for experts too */
    bool moe_interleaved;        /* layer il is MoE iff (il + 1) % interleave_moe_layer_step == 0 */
    bool shared_expert;          /* beside the routed ones, as wide as one of them */
    uint32_t chunk;              /* attention of rotated layers is chunked; 0: it is full */
    uint32_t nope_every;         /* each nth layer is not rotated and sees everything; 0: none */
    uint32_t temperature_length; /* of the layers that are not rotated; 0: none */
    float temperature_scale;
    uint32_t qk_norm_except; /* rotated Q and K are normalised unless there are this many
                                experts; 0: never */
    enum shard_glu glu;
    bool partial_rotary;      /* rope.dimension_count may be less than the key length */
    bool temperature_in_file; /* of every layer: attention.temperature_scale, and the length before
                                 YaRN's scaling */
    bool ffn_norm_is_post;    /* the norm before the FFN is named post_attention_norm */
    bool windowed;            /* some layers see attention.sliding_window positions */
    uint32_t window_every;    /* layer il is windowed iff il % n < n - 1, where the file does not
                                 say; 0: it must */
    bool rope_by_window;      /* windowed layers have a RoPE base (10000 where the file does not
                                 say) and head dimensions of their own: the keys in _swa */
    bool scaled_embedding;    /* by sqrt(n_embd) */
    bool value_norm;          /* weightless RMS of each head of V */
    bool unscaled_scores;     /* products of Q and K are the scores as they are */
    uint32_t wide_scores;     /* a model of that many layers scales scores by
                                 1 / sqrt(n_embd / heads); 0: none */
    bool dense_beside;        /* a MoE layer has the dense FFN too, and norms for both */
    bool gate_in_file;        /* expert_gating_func says which, softmax where it does not */
    bool mla;                 /* attention over a compressed cache (program_mla.c) */
    bool delta;               /* gated delta-net layers between those of gated attention
                                 (program_delta.c) */
    bool delta_grouped;       /* the V heads of a K head are adjacent, and their beta and alpha come
                                 from one tensor, by K head; else V head j has K head j mod n_k */
    bool layer_inputs;        /* layers may have inputs of their own, and the last ones may see an
                                 earlier layer's keys and values */
    uint64_t needs, may;      /* slots of layers that these have, or may have; see shard__slot */
};

#define SHARD__BIT(slot) ((uint64_t)1 << (slot))

/* The row of a name (len bytes), or NULL. */
const struct shard__arch *shard__arch_find(const char *name, size_t len);

/* Writes the names of all rows, separated by ", ". */
void shard__arch_list(char *text, size_t bytes);

/* A dimension of a tensor, to be looked up in the model and the layer. */
enum shard__dim {
    SHARD__DIM_NONE,
    SHARD__DIM_EMBD,
    SHARD__DIM_Q,   /* heads x key length (MLA: before absorption); twice with gated attention */
    SHARD__DIM_K,   /* KV heads x key length */
    SHARD__DIM_V,   /* KV heads x value length */
    SHARD__DIM_QKV, /* the three above; of a delta-net layer its q, k and v */
    SHARD__DIM_OUT, /* heads x value length (MLA: after v_b) */
    SHARD__DIM_FF,
    SHARD__DIM_FF_EXPERT,
    SHARD__DIM_FF_EXPERT_2, /* twice that */
    SHARD__DIM_FF_SHARED,
    SHARD__DIM_EXPERTS,
    SHARD__DIM_HEADS,
    SHARD__DIM_HEAD, /* key length */
    SHARD__DIM_ONE,
    SHARD__DIM_Q_RANK,     /* MLA: the compressed query */
    SHARD__DIM_KV_RANK,    /* MLA: the compressed key and value */
    SHARD__DIM_KV_ROW,     /* MLA: that and the rotated part of a key */
    SHARD__DIM_NOPE,       /* MLA: the part of a head's query that is not rotated */
    SHARD__DIM_MLA_V,      /* MLA: a head's value */
    SHARD__DIM_KV_B,       /* MLA: heads x both */
    SHARD__DIM_DELTA_V,    /* delta-net: V heads x state size */
    SHARD__DIM_DELTA_IN,   /* delta-net: its q, k, v and z */
    SHARD__DIM_DELTA_NV,   /* delta-net: V heads */
    SHARD__DIM_DELTA_2NV,  /* twice that */
    SHARD__DIM_DELTA_HEAD, /* delta-net: state size */
    SHARD__DIM_INPUT,      /* a layer's own input */
    SHARD__DIM_TAPS        /* delta-net: taps of the convolution */
};

/* Which layers have a tensor. */
enum shard__when {
    SHARD__ALWAYS,
    SHARD__OPTIONAL,
    SHARD__UNFUSED, /* unless attn_qkv is there; not in delta-net layers */
    SHARD__QKV,     /* attn_qkv itself; not beside ssm_in */
    SHARD__DENSE,
    SHARD__MOE,
    SHARD__MOE_UNFUSED, /* MOE, unless ffn_gate_up_exps is there */
    SHARD__MOE_OPTIONAL,
    SHARD__SHARED,
    SHARD__ATTENTION, /* that are no delta-net layers */
    SHARD__DELTA,     /* that are */
    SHARD__DELTA_Z,   /* that are, unless ssm_in is there */
    SHARD__INPUT,     /* all layers of a model whose layers have inputs of their own */
    SHARD__WHOLE_Q,   /* MLA with a query that is not compressed, and all other attention */
    SHARD__RANK_Q,    /* MLA with a compressed query */
    SHARD__SPLIT,     /* MLA with attn_k_b and attn_v_b */
    SHARD__JOINED     /* MLA with attn_kv_b */
};

struct shard__slot {
    const char *name; /* after "blk.N." */
    enum shard__when when;
    enum shard__dim dims[3];
    bool listed; /* only where an architecture's `needs` or `may` lists it */
};

extern const struct shard__slot shard__slots[SHARD_N_SLOTS];

/* Finds the model's tensors and checks their types and shapes; every number of the model and its
 * layers is set already. In model_tensors.c. */
enum proto_status shard__model_find_tensors(struct shard_model *model,
                                            const struct shard__arch *arch,
                                            struct proto_error *error);

#endif
