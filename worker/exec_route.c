/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A row's experts and their weights, from the router's logits. Groups of experts are
 * chosen as DeepSeek-V2 and V3 do (DeepseekV2Moe and DeepseekV3TopkRouter of Hugging Face
 * transformers): the first by a group's best expert, the second by its two best, biases added.
 */
#include "worker/exec_state.h"

#include <math.h>
#include <string.h>

#include "kernels/math.h"

/* The best experts by logit, in falling order; of equal ones the lower number is better. */
static void choose(struct shard_choice *choices, uint32_t n_used, const float *logits, uint32_t n)
{
    uint32_t have = 0;
    for (uint32_t x = 0; x < n; x++) {
        uint32_t at = have < n_used ? have : n_used;
        while (at > 0 && logits[x] > choices[at - 1].weight)
            at--;
        if (at == n_used)
            continue;
        have += have < n_used;
        memmove(&choices[at + 1], &choices[at], (have - 1 - at) * sizeof *choices);
        choices[at] = (struct shard_choice){.expert = x, .weight = logits[x]};
    }
}

/* Weights of the chosen: softmax over all logits, or over theirs alone. */
static void softmax_weights(struct shard_choice *choices, uint32_t n_used, const float *logits,
                            uint32_t n, bool selected_only)
{
    float max = choices[0].weight, sum = 0.0f;
    for (uint32_t x = 0; x < n && !selected_only; x++)
        max = logits[x] > max ? logits[x] : max;
    if (selected_only) {
        for (uint32_t i = 0; i < n_used; i++)
            sum += kern_expf(choices[i].weight - max);
    } else {
        for (uint32_t x = 0; x < n; x++)
            sum += kern_expf(logits[x] - max);
    }
    for (uint32_t i = 0; i < n_used; i++)
        choices[i].weight = kern_expf(choices[i].weight - max) / sum;
}

/* What a group is worth: its best score, or the sum of its two best. */
static float group_score(const float *scores, uint32_t n, bool two)
{
    float best = -INFINITY, second = -INFINITY;
    for (uint32_t x = 0; x < n; x++) {
        if (scores[x] > best) {
            second = best;
            best = scores[x];
        } else if (scores[x] > second) {
            second = scores[x];
        }
    }
    return two && n > 1 ? best + second : best;
}

/* Experts outside the best groups are out of the question. */
static void mask_groups(const struct shard_op *op, float *scores)
{
    struct shard_choice groups[PROTO_MAX_EXPERTS];
    float worth[PROTO_MAX_EXPERTS];
    bool kept[PROTO_MAX_EXPERTS] = {false};
    uint32_t each = op->width / op->n_groups;
    for (uint32_t g = 0; g < op->n_groups; g++)
        worth[g] = group_score(scores + g * each, each, op->gate == SHARD_GATE_SIGMOID);
    choose(groups, op->n_groups_used, worth, op->n_groups);
    for (uint32_t i = 0; i < op->n_groups_used; i++)
        kept[groups[i].expert] = true;
    for (uint32_t x = 0; x < op->width; x++)
        scores[x] = kept[x / each] ? scores[x] : -INFINITY;
}

static void score_experts(const struct shard_op *op, float *scores, const float *logits)
{
    if (op->gate == SHARD_GATE_SIGMOID) {
        for (uint32_t x = 0; x < op->width; x++)
            scores[x] = kern_sigmoidf(logits[x]);
        return;
    }
    struct shard_choice all[PROTO_MAX_EXPERTS];
    for (uint32_t x = 0; x < op->width; x++)
        all[x] = (struct shard_choice){.expert = x, .weight = logits[x]};
    softmax_weights(all, op->width, logits, op->width, false);
    for (uint32_t x = 0; x < op->width; x++)
        scores[x] = all[x].weight;
}

/* The choice may be by other numbers than the logits, which the weights come from. */
static void choose_experts(const struct worker_exec *e, const struct shard_op *op,
                           struct shard_choice *choices, const float *logits)
{
    if (op->w < 0 && op->n_groups == 0) {
        choose(choices, op->n_used, logits, op->width);
        return;
    }
    float scores[PROTO_MAX_EXPERTS];
    score_experts(op, scores, logits);
    const float *bias = op->w < 0 ? NULL : e->weights->data[op->w];
    for (uint32_t x = 0; bias && x < op->width; x++)
        scores[x] += bias[x];
    if (op->n_groups)
        mask_groups(op, scores);
    choose(choices, op->n_used, scores, op->width);
    for (uint32_t i = 0; i < op->n_used; i++)
        choices[i].weight = logits[choices[i].expert];
}

void worker__route(const struct worker_exec *e, const struct shard_op *op, size_t row)
{
    struct shard_choice *choices = worker__at(e, op->dst, row);
    const float *logits = worker__at(e, op->a, row);
    choose_experts(e, op, choices, logits);
    if (op->gate == SHARD_GATE_SIGMOID) {
        for (uint32_t i = 0; i < op->n_used; i++)
            choices[i].weight = 1.0f / (1.0f + kern_expf(-choices[i].weight));
    } else {
        softmax_weights(choices, op->n_used, logits, op->width,
                        op->gate == SHARD_GATE_SOFTMAX_SELECTED);
    }
    float divisor = 1.0f;
    if (op->gate_normalised) {
        float sum = 0.0f;
        for (uint32_t i = 0; i < op->n_used; i++)
            sum += choices[i].weight;
        divisor = sum > 0x1p-14f ? sum : 0x1p-14f;
    }
    for (uint32_t i = 0; i < op->n_used; i++)
        choices[i].weight = choices[i].weight / divisor * op->scale;
    const float *factors = op->w2 < 0 ? NULL : e->weights->data[op->w2];
    for (uint32_t i = 0; factors && i < op->n_used; i++)
        choices[i].weight *= factors[choices[i].expert];
}
