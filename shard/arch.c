/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/arch.h"

#include <string.h>

static const struct shard__arch archs[] = {
    {
        .name = "llama",
        .rope = SHARD_ROPE_NORM,
        .gate = SHARD_GATE_SOFTMAX,
        .gate_normalised = true,
    },
    {
        .name = "llama4",
        .rope = SHARD_ROPE_NORM,
        .gate = SHARD_GATE_SIGMOID,
        .gate_on_input = true,
        .needs_experts = true,
        .moe_interleaved = true,
        .shared_expert = true,
        .chunk = 8192,
        .nope_every = 4,
        .temperature_length = 8192,
        .temperature_scale = 0.1f,
        .qk_norm_except = 128,
    },
};

#define EMBD      SHARD__DIM_EMBD
#define FF        SHARD__DIM_FF
#define FF_EXPERT SHARD__DIM_FF_EXPERT
#define FF_SHARED SHARD__DIM_FF_SHARED
#define EXPERTS   SHARD__DIM_EXPERTS

const struct shard__slot shard__slots[SHARD_N_SLOTS] = {
    [SHARD_ATTN_NORM] = {"attn_norm.weight", SHARD__ALWAYS, {EMBD}},
    [SHARD_ATTN_Q] = {"attn_q.weight", SHARD__UNFUSED, {EMBD, SHARD__DIM_Q}},
    [SHARD_ATTN_K] = {"attn_k.weight", SHARD__UNFUSED, {EMBD, SHARD__DIM_K}},
    [SHARD_ATTN_V] = {"attn_v.weight", SHARD__UNFUSED, {EMBD, SHARD__DIM_V}},
    [SHARD_ATTN_QKV] = {"attn_qkv.weight", SHARD__OPTIONAL, {EMBD, SHARD__DIM_QKV}},
    [SHARD_ATTN_OUTPUT] = {"attn_output.weight", SHARD__ALWAYS, {SHARD__DIM_OUT, EMBD}},
    [SHARD_ATTN_Q_BIAS] = {"attn_q.bias", SHARD__OPTIONAL, {SHARD__DIM_Q}},
    [SHARD_ATTN_K_BIAS] = {"attn_k.bias", SHARD__OPTIONAL, {SHARD__DIM_K}},
    [SHARD_ATTN_V_BIAS] = {"attn_v.bias", SHARD__OPTIONAL, {SHARD__DIM_V}},
    [SHARD_ATTN_OUTPUT_BIAS] = {"attn_output.bias", SHARD__OPTIONAL, {EMBD}},
    [SHARD_FFN_NORM] = {"ffn_norm.weight", SHARD__ALWAYS, {EMBD}},
    [SHARD_FFN_GATE] = {"ffn_gate.weight", SHARD__DENSE, {EMBD, FF}},
    [SHARD_FFN_UP] = {"ffn_up.weight", SHARD__DENSE, {EMBD, FF}},
    [SHARD_FFN_DOWN] = {"ffn_down.weight", SHARD__DENSE, {FF, EMBD}},
    [SHARD_ROUTER] = {"ffn_gate_inp.weight", SHARD__MOE, {EMBD, EXPERTS}},
    [SHARD_GATE_EXPS] = {"ffn_gate_exps.weight", SHARD__MOE, {EMBD, FF_EXPERT, EXPERTS}},
    [SHARD_UP_EXPS] = {"ffn_up_exps.weight", SHARD__MOE, {EMBD, FF_EXPERT, EXPERTS}},
    [SHARD_DOWN_EXPS] = {"ffn_down_exps.weight", SHARD__MOE, {FF_EXPERT, EMBD, EXPERTS}},
    [SHARD_GATE_SHARED] = {"ffn_gate_shexp.weight", SHARD__SHARED, {EMBD, FF_SHARED}},
    [SHARD_UP_SHARED] = {"ffn_up_shexp.weight", SHARD__SHARED, {EMBD, FF_SHARED}},
    [SHARD_DOWN_SHARED] = {"ffn_down_shexp.weight", SHARD__SHARED, {FF_SHARED, EMBD}},
};

#define N_ARCHS (sizeof archs / sizeof archs[0])

const struct shard__arch *shard__arch_find(const char *name, size_t len)
{
    for (size_t i = 0; i < N_ARCHS; i++) {
        if (strlen(archs[i].name) == len && memcmp(archs[i].name, name, len) == 0)
            return &archs[i];
    }
    return NULL;
}

void shard__arch_list(char *text, size_t bytes)
{
    size_t len = 0;
    text[0] = '\0';
    for (size_t i = 0; i < N_ARCHS; i++) {
        size_t need = strlen(archs[i].name) + 2;
        if (len + need >= bytes)
            break;
        if (i > 0)
            len = (size_t)(stpcpy(text + len, ", ") - text);
        len = (size_t)(stpcpy(text + len, archs[i].name) - text);
    }
}
