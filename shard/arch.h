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
};

/* The row of a name (len bytes), or NULL. */
const struct shard__arch *shard__arch_find(const char *name, size_t len);

/* Writes the names of all rows, separated by ", ". */
void shard__arch_list(char *text, size_t bytes);

/* A dimension of a tensor, to be looked up in the model and the layer. */
enum shard__dim {
    SHARD__DIM_NONE,
    SHARD__DIM_EMBD,
    SHARD__DIM_Q,   /* heads x key length */
    SHARD__DIM_K,   /* KV heads x key length */
    SHARD__DIM_V,   /* KV heads x value length */
    SHARD__DIM_QKV, /* the three above */
    SHARD__DIM_OUT, /* heads x value length */
    SHARD__DIM_FF,
    SHARD__DIM_FF_EXPERT,
    SHARD__DIM_FF_SHARED,
    SHARD__DIM_EXPERTS
};

/* Which layers have a tensor. */
enum shard__when {
    SHARD__ALWAYS,
    SHARD__OPTIONAL,
    SHARD__UNFUSED, /* unless attn_qkv is there */
    SHARD__DENSE,
    SHARD__MOE,
    SHARD__SHARED
};

struct shard__slot {
    const char *name; /* after "blk.N." */
    enum shard__when when;
    enum shard__dim dims[3];
};

extern const struct shard__slot shard__slots[SHARD_N_SLOTS];

/* Finds the model's tensors and checks their types and shapes; every number of the model and its
 * layers is set already. In model_tensors.c. */
enum proto_status shard__model_find_tensors(struct shard_model *model, struct proto_error *error);

#endif
