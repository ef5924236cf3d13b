/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/program.h"

static const char *const op_names[] = {
    [SHARD_OP_EMBED] = "embed",
    [SHARD_OP_ROPE_TABLE] = "rope_table",
    [SHARD_OP_RMS_NORM] = "rms_norm",
    [SHARD_OP_QUANT] = "quant",
    [SHARD_OP_MATMUL] = "matmul",
    [SHARD_OP_BIAS] = "bias",
    [SHARD_OP_COPY] = "copy",
    [SHARD_OP_ROPE] = "rope",
    [SHARD_OP_SCALE] = "scale",
    [SHARD_OP_SOFTCAP] = "softcap",
    [SHARD_OP_TEMPERATURE] = "temperature",
    [SHARD_OP_KV_STORE] = "kv_store",
    [SHARD_OP_ATTENTION] = "attention",
    [SHARD_OP_GLU] = "glu",
    [SHARD_OP_ADD] = "add",
    [SHARD_OP_ROUTE] = "route",
    [SHARD_OP_EXPERTS] = "experts",
    [SHARD_OP_EXPERTS_SEND] = "send",
    [SHARD_OP_COPY_HEADS] = "copy_heads",
    [SHARD_OP_MATMUL_HEADS] = "matmul_heads",
    [SHARD_OP_SIGMOID_MUL] = "sigmoid_mul",
    [SHARD_OP_SIGMOID_SCALE] = "sigmoid_scale",
    [SHARD_OP_UNIT] = "unit",
    [SHARD_OP_CONV] = "conv",
    [SHARD_OP_DELTA] = "delta",
    [SHARD_OP_SELECT] = "select",
};

static const char *const mask_names[] = {
    [SHARD_MASK_CAUSAL] = "causal",
    [SHARD_MASK_WINDOW] = "window",
    [SHARD_MASK_CHUNK] = "chunk",
};

static const char *const glu_names[] = {
    [SHARD_GLU_SILU] = "silu",
    [SHARD_GLU_GELU] = "gelu",
    [SHARD_GLU_SWIGLU_OAI] = "clamped swish",
};

static const char *const gate_names[] = {
    [SHARD_GATE_SOFTMAX] = "softmax",
    [SHARD_GATE_SIGMOID] = "sigmoid",
    [SHARD_GATE_SOFTMAX_SELECTED] = "softmax of the selected",
};

static void print_weight(const struct shard_program *p, int32_t w, FILE *out)
{
    if (w < 0)
        return;
    const struct shard_weight *weight = &p->weights[w];
    const struct shard_tensor *t = shard_gguf_tensor(p->model->gguf, p->parts[weight->first_part]);
    fprintf(out, "  %s", t->name);
    if (weight->form == SHARD_WEIGHT_VECTOR)
        fprintf(out, " {%llu}", (unsigned long long)weight->n_out);
    else if (weight->n_mats == 1)
        fprintf(out, " {%llu, %llu} %s", (unsigned long long)weight->k,
                (unsigned long long)weight->n_out, weight->type->name);
    else
        fprintf(out, " {%llu, %llu, %u} %s", (unsigned long long)weight->k,
                (unsigned long long)weight->n_out, weight->n_mats, weight->type->name);
}

static void print_details(const struct shard_op *op, FILE *out)
{
    switch (op->kind) {
    case SHARD_OP_RMS_NORM:
        fprintf(out, "  groups %u x %u, eps %g", op->n_heads, op->width, (double)op->eps);
        break;
    case SHARD_OP_COPY:
        fprintf(out, "  %u values from %u", op->width, op->offset);
        break;
    case SHARD_OP_ROPE:
        fprintf(out, "  heads %u x %u, %s", op->n_heads, op->width,
                op->rope == SHARD_ROPE_NEOX ? "halves" : "pairs");
        if (op->n_rot != op->width)
            fprintf(out, " of the first %u", op->n_rot);
        break;
    case SHARD_OP_SCALE:
        if (op->w < 0)
            fprintf(out, "  by %g", (double)op->scale);
        break;
    case SHARD_OP_SOFTCAP:
        fprintf(out, "  at %g", (double)op->scale);
        break;
    case SHARD_OP_GLU:
        fprintf(out, "  %s", glu_names[op->glu]);
        break;
    case SHARD_OP_TEMPERATURE:
        fprintf(out, "  1 + %g ln(1 + (p + %u) / %u)", (double)op->scale, op->offset, op->length);
        break;
    case SHARD_OP_COPY_HEADS:
        fprintf(out, "  heads %u x %u, from %u by %u to %u by %u", op->n_heads, op->width,
                op->offset, op->stride, op->dst_offset, op->dst_stride);
        break;
    case SHARD_OP_UNIT:
        fprintf(out, "  heads %u x %u from %u, length %g", op->n_heads, op->width, op->offset,
                (double)op->scale);
        break;
    case SHARD_OP_CONV:
        fprintf(out, "  layer %u, channels %u", op->layer, op->width);
        break;
    case SHARD_OP_DELTA:
        fprintf(out, "  layer %u, heads %u x %u, K heads %u", op->layer, op->n_heads, op->width,
                op->n_head_kv);
        break;
    case SHARD_OP_KV_STORE:
        fprintf(out, "  layer %u, KV heads %u", op->layer, op->n_head_kv);
        break;
    case SHARD_OP_ATTENTION:
        fprintf(out, "  layer %u, heads %u, KV heads %u, %s", op->layer, op->n_heads, op->n_head_kv,
                mask_names[op->mask]);
        if (op->mask != SHARD_MASK_CAUSAL)
            fprintf(out, " %u", op->window);
        break;
    case SHARD_OP_ROUTE:
        fprintf(out, "  best %u of %u, %s%s", op->n_used, op->width, gate_names[op->gate],
                op->gate_normalised ? ", normalised" : "");
        if (op->n_groups)
            fprintf(out, ", best %u of %u groups", op->n_groups_used, op->n_groups);
        break;
    case SHARD_OP_EXPERTS:
        fprintf(out, "  %s, weights on the %s", glu_names[op->glu],
                op->gate_on_input ? "input" : "output");
        if (op->remote)
            fprintf(out, ", others' added");
        break;
    default:
        break;
    }
}

static void print_holding(const struct shard_program *p, const struct shard_holding *h, FILE *out)
{
    uint32_t n = shard_expert_segments(p->model->ff_expert).n;
    print_weight(p, h->gate, out);
    print_weight(p, h->up, out);
    print_weight(p, h->down, out);
    if (h->expert_end - h->expert_first < p->model->n_experts)
        fprintf(out, " (experts %u to %u)", h->expert_first, h->expert_end);
    if (h->segment_end - h->segment_first < n)
        fprintf(out, " (segments %u to %u of %u)", h->segment_first, h->segment_end, n);
}

static void print_op(const struct shard_program *p, size_t number, FILE *out)
{
    const struct shard_op *op = &p->ops[number];
    const int16_t sources[3] = {op->a, op->b, op->c == op->a ? -1 : op->c};
    fprintf(out, "%4zu  %-11s", number, op_names[op->kind]);
    if (op->dst >= 0)
        fprintf(out, " %s", p->buffers[op->dst].name);
    const char *mark = " <- ";
    for (int s = 0; s < 3; s++) {
        if (sources[s] < 0)
            continue;
        fprintf(out, "%s%s", mark, p->buffers[sources[s]].name);
        mark = ", ";
    }
    print_weight(p, op->w, out);
    print_weight(p, op->w2, out);
    for (uint32_t i = 0; i < op->n_holdings; i++)
        print_holding(p, &p->holdings[op->first_holding + i], out);
    for (int i = 0; i < 3; i++)
        print_weight(p, op->bias[i], out);
    print_details(op, out);
    fputc('\n', out);
}

void shard_program_print(const struct shard_program *program, FILE *out)
{
    fprintf(out, "program of %s, layers %u to %u%s%s: %zu operations, %zu buffers, %zu weights\n",
            program->model->name, program->layer_first, program->layer_end,
            program->embed ? ", embedding" : "", program->head ? ", head" : "", program->n_ops,
            program->n_buffers, program->n_weights);
    for (size_t i = 0; i < program->n_ops; i++) {
        if (i == program->tail)
            fprintf(out, "      for the rows whose results are wanted:\n");
        print_op(program, i, out);
    }
}
