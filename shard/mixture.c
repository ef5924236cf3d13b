/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/mixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "shard/model.h"

#define BASE KERN_F32 /* in rules */

#define ALWAYS(type)                                                                               \
    {                                                                                              \
        type, SHARD_MIXTURE_ALL, BASE                                                              \
    }
#define IN(where, type)                                                                            \
    {                                                                                              \
        type, SHARD_MIXTURE_##where, BASE                                                          \
    }
#define ELSE(where, type, b)                                                                       \
    {                                                                                              \
        type, SHARD_MIXTURE_##where, b                                                             \
    }

static const struct shard_mixture mixtures[] = {
    {"IQ1_S", KERN_IQ1_S, .output = KERN_Q5_K, .embedding = KERN_Q2_K,
     .v = ELSE(SHARED_KV, KERN_Q4_K, KERN_Q2_K), .down = IN(EIGHTH, KERN_Q2_K),
     .attn_output = ALWAYS(KERN_IQ2_XXS)},
    {"IQ1_M", KERN_IQ1_M, .output = KERN_Q5_K, .embedding = KERN_Q2_K,
     .v = ELSE(SHARED_KV, KERN_Q4_K, KERN_Q2_K), .down = IN(EIGHTH, KERN_Q2_K),
     .attn_output = ALWAYS(KERN_IQ2_XXS)},
    {"IQ2_XXS", KERN_IQ2_XXS, .output = KERN_Q5_K, .embedding = KERN_Q2_K,
     .v = ELSE(SHARED_KV, KERN_Q4_K, KERN_Q2_K), .down = IN(EIGHTH, KERN_Q2_K)},
    {"IQ2_XS", KERN_IQ2_XS, .output = KERN_Q5_K, .embedding = KERN_Q2_K,
     .v = ELSE(SHARED_KV, KERN_Q4_K, KERN_Q2_K), .down = IN(EIGHTH, KERN_Q2_K)},
    {"IQ2_S", KERN_IQ2_XS, .output = KERN_Q5_K, .embedding = KERN_IQ3_S,
     .v = ELSE(SHARED_KV, KERN_Q4_K, KERN_IQ3_S), .down = IN(EIGHTH, KERN_IQ3_S),
     .attn_output = ALWAYS(KERN_IQ3_S)},
    {"IQ2_M", KERN_IQ2_S, .output = KERN_Q5_K, .embedding = KERN_IQ3_S,
     .v = ELSE(SHARED_KV, KERN_Q4_K, KERN_IQ3_S), .down = IN(EIGHTH, KERN_IQ3_S),
     .attn_output = ALWAYS(KERN_IQ3_S)},
    {"Q2_K", KERN_Q2_K, .output = KERN_Q6_K, .v = ELSE(SHARED_KV, KERN_Q4_K, KERN_Q3_K),
     .down = ALWAYS(KERN_Q3_K), .attn_output = ALWAYS(KERN_Q3_K)},
    {"IQ3_XXS", KERN_IQ3_XXS, .output = KERN_Q5_K, .embedding = KERN_IQ3_S,
     .v = ELSE(SHARED_KV, KERN_Q4_K, KERN_IQ3_S), .down = ELSE(EIGHTH, KERN_Q4_K, KERN_Q3_K),
     .attn_output = ALWAYS(KERN_IQ3_S), .qk = KERN_IQ2_S},
    {"IQ3_S", KERN_IQ3_S, .output = KERN_Q6_K, .v = IN(SHARED_KV, KERN_Q4_K)},
    {"IQ3_M", KERN_IQ3_S, .output = KERN_Q6_K, .v = ALWAYS(KERN_Q4_K),
     .down = IN(EIGHTH, KERN_Q4_K), .attn_output = ALWAYS(KERN_Q4_K), .qkv = ALWAYS(KERN_Q4_K)},
    {"Q3_K_S", KERN_Q3_K, .output = KERN_Q6_K},
    {"Q3_K_M", KERN_Q3_K, .output = KERN_Q6_K, .v = ELSE(FIRST_2, KERN_Q5_K, KERN_Q4_K),
     .down = ELSE(SIXTEENTH, KERN_Q5_K, KERN_Q4_K), .attn_output = ALWAYS(KERN_Q4_K),
     .qkv = ALWAYS(KERN_Q4_K)},
    {"Q3_K_L", KERN_Q3_K, .output = KERN_Q6_K, .v = ALWAYS(KERN_Q5_K), .down = ALWAYS(KERN_Q5_K),
     .attn_output = ALWAYS(KERN_Q5_K), .qkv = ALWAYS(KERN_Q4_K)},
    {"IQ4_XS", KERN_IQ4_XS, .output = KERN_Q6_K, .v = IN(SHARED_KV, KERN_Q5_K),
     .down = IN(EIGHTH, KERN_Q5_K)},
    {"IQ4_NL", KERN_IQ4_NL, .output = KERN_Q6_K, .v = IN(SHARED_KV, KERN_Q5_K),
     .down = IN(EIGHTH, KERN_Q5_K)},
    {"MXFP4", KERN_MXFP4, .by_expert = true, .no_more = true, .output = KERN_Q8_0},
    {"Q4_0", KERN_Q4_0, .output = KERN_Q6_K},
    {"Q4_K_S", KERN_Q4_K, .output = KERN_Q6_K, .v = IN(FIRST_4, KERN_Q5_K),
     .down = IN(EIGHTH, KERN_Q5_K)},
    {"Q4_K_M", KERN_Q4_K, .output = KERN_Q6_K, .v = IN(MORE_BITS, KERN_Q6_K),
     .down = IN(MORE_BITS, KERN_Q6_K), .qkv = ALWAYS(KERN_Q5_K)},
    {"Q4_1", KERN_Q4_1, .output = KERN_Q6_K},
    {"Q5_0", KERN_Q5_0, .output = KERN_Q6_K},
    {"Q5_K_S", KERN_Q5_K, .output = KERN_Q6_K},
    {"Q5_K_M", KERN_Q5_K, .output = KERN_Q6_K, .v = IN(MORE_BITS, KERN_Q6_K),
     .down = IN(MORE_BITS, KERN_Q6_K), .qkv = ALWAYS(KERN_Q6_K)},
    {"Q5_1", KERN_Q5_1, .output = KERN_Q6_K},
    {"Q6_K", KERN_Q6_K, .no_more = true, .output = KERN_Q6_K},
    {"Q8_0", KERN_Q8_0, .no_more = true, .output = KERN_Q8_0},
};

#define N_MIXTURES (sizeof mixtures / sizeof mixtures[0])

const struct shard_mixture *shard_mixture_all(size_t *count)
{
    *count = N_MIXTURES;
    return mixtures;
}

const struct shard_mixture *shard_mixture_find(const char *name)
{
    for (size_t i = 0; i < N_MIXTURES; i++)
        if (!strcasecmp(mixtures[i].name, name))
            return &mixtures[i];
    return NULL;
}

struct shard_mixture shard_mixture_uniform(const struct kern_type_info *type)
{
    return (struct shard_mixture){.name = type->name, .base = type->type, .uniform = true};
}

static void add_name(char *list, size_t size, const char *name)
{
    size_t len = strlen(list);
    snprintf(list + len, size - len, "%s%s", len ? " " : "", name);
}

enum proto_status shard_mixture_read(struct shard_mixture *out, const char *name,
                                     struct proto_error *error)
{
    size_t n;
    const struct shard_mixture *mixture = shard_mixture_find(name);
    const struct kern_type_info *type = kern_type_by_name(name), *types = kern_type_all(&n);
    if (!mixture && !type) {
        char list[PROTO_ERROR_TEXT_BYTES] = "";
        for (size_t i = 0; i < N_MIXTURES; i++)
            add_name(list, sizeof list, mixtures[i].name);
        for (size_t i = 0; i < n; i++)
            if (!shard_mixture_find(types[i].name))
                add_name(list, sizeof list, types[i].name);
        return proto_fail(error, PROTO_INVALID,
                          "no quantisation is named \"%.64s\", expected one "
                          "of: %s",
                          name, list);
    }
    *out = mixture ? *mixture : shard_mixture_uniform(type);
    return PROTO_OK;
}

static bool has(const char *name, const char *word)
{
    return strstr(name, word) != NULL;
}

static bool applies(enum shard_mixture_where where, const struct shard_mixture_tensor *t)
{
    uint32_t i = t->layer, n = t->n_layers, eighth = n / 8;
    switch (where) {
    case SHARD_MIXTURE_ALL:
        return true;
    case SHARD_MIXTURE_MORE_BITS:
        return i < eighth || i >= 7 * n / 8 || (i - eighth) % 3 == 2;
    case SHARD_MIXTURE_EIGHTH:
        return i < eighth;
    case SHARD_MIXTURE_SIXTEENTH:
        return i < n / 16;
    case SHARD_MIXTURE_FIRST_2:
        return i < 2;
    case SHARD_MIXTURE_FIRST_4:
        return i < 4;
    case SHARD_MIXTURE_SHARED_KV:
        return t->heads_per_kv >= 4 || t->n_experts >= 4;
    }
    return false;
}

static enum kern_type or_base(const struct shard_mixture *m, enum kern_type type)
{
    return type == BASE ? m->base : type;
}

static enum kern_type follow(const struct shard_mixture *m, const struct shard_mixture_rule *rule,
                             const struct shard_mixture_tensor *t)
{
    return or_base(m, applies(rule->where, t) ? rule->a : rule->b);
}

/* Models of 8 experts have small attention, of which nothing is saved. */
static enum kern_type of_8_experts(const struct shard_mixture *m,
                                   const struct shard_mixture_tensor *t, enum kern_type type)
{
    if (m->no_more || t->n_experts != 8)
        return type;
    bool below_3_bits = m->output == KERN_Q5_K && m->base != KERN_IQ3_XXS;
    if (has(t->name, "attn_v.weight") || has(t->name, "attn_k.weight"))
        return below_3_bits ? KERN_Q4_K : KERN_Q8_0;
    return has(t->name, "attn_output.weight") && kern_type_find(m->base)->block == 256 &&
                   m->base != KERN_Q5_K
               ? KERN_Q5_K
               : type;
}

static enum kern_type choose(const struct shard_mixture *m, const struct shard_mixture_tensor *t)
{
    if (t->is_head)
        return or_base(m, m->output);
    if (m->by_expert)
        return t->experts ? m->base : KERN_Q8_0;
    if (has(t->name, "token_embd.weight"))
        return or_base(m, m->embedding);
    if (has(t->name, "attn_v.weight"))
        return of_8_experts(m, t, follow(m, &m->v, t));
    if (has(t->name, "attn_k.weight") || has(t->name, "attn_q.weight"))
        return of_8_experts(m, t, or_base(m, m->qk));
    if (has(t->name, "ffn_down"))
        return follow(m, &m->down, t);
    if (has(t->name, "attn_output.weight"))
        return of_8_experts(m, t, follow(m, &m->attn_output, t));
    if (has(t->name, "attn_qkv.weight"))
        return follow(m, &m->qkv, t);
    return m->base;
}

/* What stands in for a type whose blocks do not fill a row: of blocks of 32, else of 1. */
static enum kern_type stand_in(enum kern_type type, uint64_t row)
{
    if (row % 32)
        return KERN_F16;
    switch (type) {
    case KERN_Q4_K:
        return KERN_Q5_0;
    case KERN_Q5_K:
        return KERN_Q5_1;
    case KERN_Q6_K:
        return KERN_Q8_0;
    default:
        return KERN_IQ4_NL;
    }
}

const struct kern_type_info *shard_mixture_type(const struct shard_mixture *mixture,
                                                const struct shard_mixture_tensor *tensor)
{
    if (mixture->uniform)
        return kern_type_find(mixture->base);
    const struct kern_type_info *type = kern_type_find(choose(mixture, tensor));
    return tensor->row % type->block ? kern_type_find(stand_in(type->type, tensor->row)) : type;
}

/* Vectors, routers and convolutions stay as they are. */
static bool is_quantised(const struct shard_tensor *tensor)
{
    const char *dot = strrchr(tensor->name, '.');
    return tensor->n_dims > 1 && dot && !strcmp(dot, ".weight") && !has(tensor->name, "_norm.") &&
           !has(tensor->name, "ffn_gate_inp") && !has(tensor->name, "ssm_conv1d");
}

struct card {
    const struct shard_mixture *mixture;
    const struct shard_model *model;
};

static const struct kern_type_info *type_in_card(const void *arg, const struct shard_tensor *tensor)
{
    const struct card *card = arg;
    const struct shard_model *m = card->model;
    if (!is_quantised(tensor))
        return tensor->type;
    const struct shard_mixture_tensor t = {
        .name = tensor->name,
        .layer = has(tensor->name, "blk.") ? (uint32_t)strtoul(tensor->name + 4, NULL, 10) : 0,
        .n_layers = m->n_layers,
        .heads_per_kv = m->layers[0].n_head / m->layers[0].n_head_kv,
        .n_experts = m->n_experts,
        .row = tensor->dims[0],
        .experts = has(tensor->name, "_exps.weight"),
        .is_head = tensor == shard_gguf_tensor(m->gguf, (size_t)m->output),
    };
    return shard_mixture_type(card->mixture, &t);
}

enum proto_status shard_mixture_card(const struct shard_mixture *mixture,
                                     const struct shard_model *model, void **bytes, size_t *len,
                                     struct proto_error *error)
{
    const struct card card = {mixture, model};
    return shard_gguf_card_as(model->gguf, type_in_card, &card, bytes, len, error);
}
