/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/arch.h"

#include <string.h>

#define QK_NORMS   (SHARD__BIT(SHARD_ATTN_Q_NORM) | SHARD__BIT(SHARD_ATTN_K_NORM))
#define POST_NORMS (SHARD__BIT(SHARD_POST_ATTN_NORM) | SHARD__BIT(SHARD_POST_FFN_NORM))

#define MLA_SLOTS                                                                                  \
    (SHARD__BIT(SHARD_ATTN_Q_A) | SHARD__BIT(SHARD_ATTN_Q_A_NORM) | SHARD__BIT(SHARD_ATTN_Q_B) |   \
     SHARD__BIT(SHARD_ATTN_KV_A) | SHARD__BIT(SHARD_ATTN_KV_A_NORM) | SHARD__BIT(SHARD_ATTN_K_B) | \
     SHARD__BIT(SHARD_ATTN_V_B) | SHARD__BIT(SHARD_ATTN_KV_B))
#define DELTA_SLOTS                                                                                \
    (SHARD__BIT(SHARD_DELTA_Z) | SHARD__BIT(SHARD_DELTA_CONV) | SHARD__BIT(SHARD_DELTA_DT) |       \
     SHARD__BIT(SHARD_DELTA_A) | SHARD__BIT(SHARD_DELTA_NORM) | SHARD__BIT(SHARD_DELTA_OUT))
#define DELTA_APART (SHARD__BIT(SHARD_DELTA_BETA) | SHARD__BIT(SHARD_DELTA_ALPHA))

/*
 * Where the definitions are: the modules of the same names in Hugging Face transformers,
 * src/transformers/models/<name>/modeling_<name>.py (gpt-oss: gpt_oss, glm4moe: glm4_moe, mistral3:
 * ministral3). Of these, what is less known:
 *
 * glm4moe (Glm4MoeTopkRouter): sigmoid scores; the best of score + bias; the scores themselves are
 * divided by their sum and scaled. Rotary on the first half of a head. Layers after block_count -
 * nextn_predict_layers predict further tokens and are not run.
 *
 * gemma4 (Gemma4TextAttention, Gemma4TextDecoderLayer, Gemma4TextRouter): Q and K are normalised
 * with weights and rotated, V without either; layers that see everything may lack V's projection
 * and take K's, before K's norm. A MoE layer's dense FFN and experts both start from the residual,
 * each with norms before and after, and their sum is normalised again. The router reads the
 * residual, normalised without weights, times a vector, times 1 / sqrt(n_embd); its weights, which
 * sum to one, are multiplied by a number of each expert. At its end a layer multiplies the
 * residual by a number of its own.
 * In small models each layer has an input of its own (program_input.c), and the last
 * attention.shared_kv_layers have no K and V: they see those of the last layer before them that
 * sees as far as they do (Gemma4TextAttention.kv_shared_layer_index).
 *
 * deepseek2 and mistral4 are defined by deepseek_v2 and deepseek_v3; qwen35 and qwen35moe by
 * qwen3_5 and qwen3_5_moe, of which qwen3_next has the parts (torch_recurrent_gated_delta_rule,
 * Qwen3NextGatedDeltaNet, Qwen3NextAttention).
 */
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
    {
        .name = "qwen2",
        .rope = SHARD_ROPE_NEOX,
    },
    {
        .name = "qwen3",
        .rope = SHARD_ROPE_NEOX,
        .needs = QK_NORMS,
    },
    {
        .name = "qwen3moe",
        .rope = SHARD_ROPE_NEOX,
        .gate = SHARD_GATE_SOFTMAX,
        .gate_normalised = true,
        .needs_experts = true,
        .needs = QK_NORMS,
    },
    {
        .name = "gpt-oss",
        .rope = SHARD_ROPE_NEOX,
        .gate = SHARD_GATE_SOFTMAX_SELECTED,
        .needs_experts = true,
        .glu = SHARD_GLU_SWIGLU_OAI,
        .ffn_norm_is_post = true,
        .windowed = true,
        .window_every = 2,
        .needs = SHARD__BIT(SHARD_ATTN_SINKS) | SHARD__BIT(SHARD_ROUTER_BIAS) |
                 SHARD__BIT(SHARD_GATE_EXPS_BIAS) | SHARD__BIT(SHARD_UP_EXPS_BIAS) |
                 SHARD__BIT(SHARD_DOWN_EXPS_BIAS),
    },
    {
        .name = "glm4moe",
        .rope = SHARD_ROPE_NEOX,
        .gate = SHARD_GATE_SIGMOID,
        .gate_normalised = true,
        .needs_experts = true,
        .shared_expert = true,
        .partial_rotary = true,
        .ffn_norm_is_post = true,
        .may = QK_NORMS | SHARD__BIT(SHARD_ROUTER_SELECTION_BIAS),
    },
    {
        .name = "gemma3",
        .rope = SHARD_ROPE_NEOX,
        .glu = SHARD_GLU_GELU,
        .windowed = true,
        .window_every = 6,
        .rope_by_window = true,
        .scaled_embedding = true,
        .wide_scores = 62,
        .needs = QK_NORMS | POST_NORMS,
    },
    {
        .name = "gemma4",
        .rope = SHARD_ROPE_NEOX,
        .gate = SHARD_GATE_SOFTMAX,
        .gate_normalised = true,
        .glu = SHARD_GLU_GELU,
        .windowed = true,
        .rope_by_window = true,
        .scaled_embedding = true,
        .value_norm = true,
        .unscaled_scores = true,
        .dense_beside = true,
        .layer_inputs = true,
        .needs = QK_NORMS | POST_NORMS | SHARD__BIT(SHARD_ROUTER_NORM) |
                 SHARD__BIT(SHARD_EXPERTS_NORM) | SHARD__BIT(SHARD_POST_DENSE_NORM) |
                 SHARD__BIT(SHARD_POST_EXPERTS_NORM),
        .may = SHARD__BIT(SHARD_ATTN_V) | SHARD__BIT(SHARD_LAYER_SCALE) |
               SHARD__BIT(SHARD_EXPERT_SCALES),
    },
    {
        .name = "mistral3",
        .rope = SHARD_ROPE_NORM,
        .gate = SHARD_GATE_SOFTMAX,
        .gate_normalised = true,
        .temperature_in_file = true,
    },
    {
        .name = "deepseek2",
        .rope = SHARD_ROPE_NORM,
        .gate_in_file = true,
        .shared_expert = true,
        .partial_rotary = true,
        .temperature_in_file = true,
        .mla = true,
        .needs = MLA_SLOTS,
        .may = SHARD__BIT(SHARD_ROUTER_SELECTION_BIAS),
    },
    {
        .name = "mistral4",
        .rope = SHARD_ROPE_NORM,
        .gate_in_file = true,
        .shared_expert = true,
        .partial_rotary = true,
        .temperature_in_file = true,
        .mla = true,
        .needs = MLA_SLOTS,
        .may = SHARD__BIT(SHARD_ROUTER_SELECTION_BIAS),
    },
    {
        .name = "qwen3next",
        .rope = SHARD_ROPE_NEOX,
        .gate = SHARD_GATE_SOFTMAX,
        .gate_normalised = true,
        .needs_experts = true,
        .shared_expert = true,
        .partial_rotary = true,
        .ffn_norm_is_post = true,
        .delta = true,
        .delta_grouped = true,
        .needs = QK_NORMS | DELTA_SLOTS | SHARD__BIT(SHARD_DELTA_BETA_ALPHA) |
                 SHARD__BIT(SHARD_SHARED_GATE),
        .may = SHARD__BIT(SHARD_DELTA_IN),
    },
    {
        .name = "qwen35",
        .rope = SHARD_ROPE_NEOX,
        .partial_rotary = true,
        .ffn_norm_is_post = true,
        .delta = true,
        .needs = QK_NORMS | DELTA_SLOTS | DELTA_APART,
    },
    {
        .name = "qwen35moe",
        .rope = SHARD_ROPE_NEOX,
        .gate = SHARD_GATE_SOFTMAX,
        .gate_normalised = true,
        .needs_experts = true,
        .shared_expert = true,
        .partial_rotary = true,
        .ffn_norm_is_post = true,
        .delta = true,
        .needs = QK_NORMS | DELTA_SLOTS | DELTA_APART | SHARD__BIT(SHARD_SHARED_GATE),
    },
};

#define EMBD      SHARD__DIM_EMBD
#define FF        SHARD__DIM_FF
#define FF_EXPERT SHARD__DIM_FF_EXPERT
#define FF_SHARED SHARD__DIM_FF_SHARED
#define EXPERTS   SHARD__DIM_EXPERTS
#define HEAD      SHARD__DIM_HEAD
#define HEADS     SHARD__DIM_HEADS
#define Q_RANK    SHARD__DIM_Q_RANK
#define KV_RANK   SHARD__DIM_KV_RANK

const struct shard__slot shard__slots[SHARD_N_SLOTS] = {
    [SHARD_ATTN_NORM] = {"attn_norm.weight", SHARD__ALWAYS, {EMBD}},
    [SHARD_ATTN_Q] = {"attn_q.weight", SHARD__WHOLE_Q, {EMBD, SHARD__DIM_Q}},
    [SHARD_ATTN_K] = {"attn_k.weight", SHARD__UNFUSED, {EMBD, SHARD__DIM_K}},
    [SHARD_ATTN_V] = {"attn_v.weight", SHARD__UNFUSED, {EMBD, SHARD__DIM_V}},
    [SHARD_ATTN_QKV] = {"attn_qkv.weight", SHARD__QKV, {EMBD, SHARD__DIM_QKV}},
    [SHARD_ATTN_OUTPUT] = {"attn_output.weight", SHARD__ATTENTION, {SHARD__DIM_OUT, EMBD}},
    [SHARD_ATTN_Q_BIAS] = {"attn_q.bias", SHARD__OPTIONAL, {SHARD__DIM_Q}},
    [SHARD_ATTN_K_BIAS] = {"attn_k.bias", SHARD__OPTIONAL, {SHARD__DIM_K}},
    [SHARD_ATTN_V_BIAS] = {"attn_v.bias", SHARD__OPTIONAL, {SHARD__DIM_V}},
    [SHARD_ATTN_OUTPUT_BIAS] = {"attn_output.bias", SHARD__OPTIONAL, {EMBD}},
    [SHARD_FFN_NORM] = {"ffn_norm.weight", SHARD__ALWAYS, {EMBD}},
    [SHARD_FFN_GATE] = {"ffn_gate.weight", SHARD__DENSE, {EMBD, FF}},
    [SHARD_FFN_UP] = {"ffn_up.weight", SHARD__DENSE, {EMBD, FF}},
    [SHARD_FFN_DOWN] = {"ffn_down.weight", SHARD__DENSE, {FF, EMBD}},
    [SHARD_ROUTER] = {"ffn_gate_inp.weight", SHARD__MOE, {EMBD, EXPERTS}},
    [SHARD_GATE_EXPS] = {"ffn_gate_exps.weight", SHARD__MOE_UNFUSED, {EMBD, FF_EXPERT, EXPERTS}},
    [SHARD_UP_EXPS] = {"ffn_up_exps.weight", SHARD__MOE_UNFUSED, {EMBD, FF_EXPERT, EXPERTS}},
    [SHARD_DOWN_EXPS] = {"ffn_down_exps.weight", SHARD__MOE, {FF_EXPERT, EMBD, EXPERTS}},
    [SHARD_GATE_SHARED] = {"ffn_gate_shexp.weight", SHARD__SHARED, {EMBD, FF_SHARED}},
    [SHARD_UP_SHARED] = {"ffn_up_shexp.weight", SHARD__SHARED, {EMBD, FF_SHARED}},
    [SHARD_DOWN_SHARED] = {"ffn_down_shexp.weight", SHARD__SHARED, {FF_SHARED, EMBD}},
    [SHARD_GATE_UP_EXPS] = {"ffn_gate_up_exps.weight",
                            SHARD__MOE_OPTIONAL,
                            {EMBD, SHARD__DIM_FF_EXPERT_2, EXPERTS}},
    [SHARD_ATTN_Q_NORM] = {"attn_q_norm.weight", SHARD__ATTENTION, {HEAD}, true},
    [SHARD_ATTN_K_NORM] = {"attn_k_norm.weight", SHARD__ATTENTION, {HEAD}, true},
    [SHARD_ATTN_SINKS] = {"attn_sinks.weight", SHARD__ALWAYS, {SHARD__DIM_HEADS}, true},
    [SHARD_POST_ATTN_NORM] = {"post_attention_norm.weight", SHARD__ALWAYS, {EMBD}, true},
    [SHARD_POST_FFN_NORM] = {"post_ffw_norm.weight", SHARD__ALWAYS, {EMBD}, true},
    [SHARD_LAYER_SCALE] = {"layer_output_scale.weight", SHARD__ALWAYS, {SHARD__DIM_ONE}, true},
    [SHARD_ROUTER_BIAS] = {"ffn_gate_inp.bias", SHARD__MOE, {EXPERTS}, true},
    [SHARD_ROUTER_SELECTION_BIAS] = {"exp_probs_b.bias", SHARD__MOE, {EXPERTS}, true},
    [SHARD_GATE_EXPS_BIAS] = {"ffn_gate_exps.bias", SHARD__MOE, {FF_EXPERT, EXPERTS}, true},
    [SHARD_UP_EXPS_BIAS] = {"ffn_up_exps.bias", SHARD__MOE, {FF_EXPERT, EXPERTS}, true},
    [SHARD_DOWN_EXPS_BIAS] = {"ffn_down_exps.bias", SHARD__MOE, {EMBD, EXPERTS}, true},
    [SHARD_ROUTER_NORM] = {"ffn_gate_inp.scale", SHARD__MOE, {EMBD}, true},
    [SHARD_EXPERTS_NORM] = {"pre_ffw_norm_2.weight", SHARD__MOE, {EMBD}, true},
    [SHARD_POST_DENSE_NORM] = {"post_ffw_norm_1.weight", SHARD__MOE, {EMBD}, true},
    [SHARD_POST_EXPERTS_NORM] = {"post_ffw_norm_2.weight", SHARD__MOE, {EMBD}, true},
    [SHARD_EXPERT_SCALES] = {"ffn_down_exps.scale", SHARD__MOE, {EXPERTS}, true},
    [SHARD_SHARED_GATE] = {"ffn_gate_inp_shexp.weight", SHARD__SHARED, {EMBD}, true},
    [SHARD_ATTN_Q_A] = {"attn_q_a.weight", SHARD__RANK_Q, {EMBD, Q_RANK}, true},
    [SHARD_ATTN_Q_A_NORM] = {"attn_q_a_norm.weight", SHARD__RANK_Q, {Q_RANK}, true},
    [SHARD_ATTN_Q_B] = {"attn_q_b.weight", SHARD__RANK_Q, {Q_RANK, SHARD__DIM_Q}, true},
    [SHARD_ATTN_KV_A] = {"attn_kv_a_mqa.weight", SHARD__ALWAYS, {EMBD, SHARD__DIM_KV_ROW}, true},
    [SHARD_ATTN_KV_A_NORM] = {"attn_kv_a_norm.weight", SHARD__ALWAYS, {KV_RANK}, true},
    [SHARD_ATTN_K_B] = {"attn_k_b.weight", SHARD__SPLIT, {SHARD__DIM_NOPE, KV_RANK, HEADS}, true},
    [SHARD_ATTN_V_B] = {"attn_v_b.weight", SHARD__SPLIT, {KV_RANK, SHARD__DIM_MLA_V, HEADS}, true},
    [SHARD_ATTN_KV_B] = {"attn_kv_b.weight", SHARD__JOINED, {KV_RANK, SHARD__DIM_KV_B}, true},
    [SHARD_DELTA_IN] = {"ssm_in.weight", SHARD__DELTA, {EMBD, SHARD__DIM_DELTA_IN}, true},
    [SHARD_DELTA_Z] = {"attn_gate.weight", SHARD__DELTA_Z, {EMBD, SHARD__DIM_DELTA_V}, true},
    [SHARD_DELTA_CONV] = {"ssm_conv1d.weight",
                          SHARD__DELTA,
                          {SHARD__DIM_TAPS, SHARD__DIM_QKV},
                          true},
    [SHARD_DELTA_DT] = {"ssm_dt.bias", SHARD__DELTA, {SHARD__DIM_DELTA_NV}, true},
    [SHARD_DELTA_A] = {"ssm_a", SHARD__DELTA, {SHARD__DIM_DELTA_NV}, true},
    [SHARD_DELTA_BETA] = {"ssm_beta.weight", SHARD__DELTA, {EMBD, SHARD__DIM_DELTA_NV}, true},
    [SHARD_DELTA_ALPHA] = {"ssm_alpha.weight", SHARD__DELTA, {EMBD, SHARD__DIM_DELTA_NV}, true},
    [SHARD_DELTA_BETA_ALPHA] = {"ssm_ba.weight", SHARD__DELTA, {EMBD, SHARD__DIM_DELTA_2NV}, true},
    [SHARD_DELTA_NORM] = {"ssm_norm.weight", SHARD__DELTA, {SHARD__DIM_DELTA_HEAD}, true},
    [SHARD_DELTA_OUT] = {"ssm_out.weight", SHARD__DELTA, {SHARD__DIM_DELTA_V, EMBD}, true},
    [SHARD_INPUT_GATE] = {"inp_gate.weight", SHARD__INPUT, {EMBD, SHARD__DIM_INPUT}},
    [SHARD_INPUT_PROJ] = {"proj.weight", SHARD__INPUT, {SHARD__DIM_INPUT, EMBD}},
    [SHARD_POST_INPUT_NORM] = {"post_norm.weight", SHARD__INPUT, {EMBD}},
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
