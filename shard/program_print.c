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
    [SHARD_OP_TEMPERATURE] = "temperature",
    [SHARD_OP_KV_STORE] = "kv_store",
    [SHARD_OP_ATTENTION] = "attention",
    [SHARD_OP_SILU_MUL] = "silu_mul",
    [SHARD_OP_ADD] = "add",
    [SHARD_OP_ROUTE] = "route",
    [SHARD_OP_EXPERTS] = "experts",
    [SHARD_OP_SELECT] = "select",
};

static const char *const mask_names[] = {
    [SHARD_MASK_CAUSAL] = "causal",
    [SHARD_MASK_WINDOW] = "window",
    [SHARD_MASK_CHUNK] = "chunk",
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
        break;
    case SHARD_OP_TEMPERATURE:
        fprintf(out, "  1 + %g ln(1 + (p + 1) / %u)", (double)op->scale, op->length);
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
        break;
    case SHARD_OP_EXPERTS:
        fprintf(out, "  weights on the %s", op->gate_on_input ? "input" : "output");
        break;
    default:
        break;
    }
}

static void print_op(const struct shard_program *p, size_t i, FILE *out)
{
    const struct shard_op *op = &p->ops[i];
    const int16_t sources[3] = {op->a, op->b, op->c == op->a ? -1 : op->c};
    fprintf(out, "%4zu  %-11s", i, op_names[op->kind]);
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
    print_weight(p, op->w3, out);
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
