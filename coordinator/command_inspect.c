/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/commands.h"
#include "coordinator/options.h"
#include "coordinator/report.h"
#include "shard/kv.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LONGEST_STRING 60

static double float_value(const struct shard_gguf_value *v)
{
    double value;
    if (v->kind == SHARD_GGUF_F32)
        return shard_gguf_f32_element(v, 0);
    memcpy(&value, v->data, sizeof value);
    return value;
}

static void print_string(const struct shard_gguf *gguf, const struct shard_gguf_value *v)
{
    struct shard_gguf_string text = {"", 0};
    char key[PROTO_MAX_STRING_BYTES];
    snprintf(key, sizeof key, "%.*s", (int)v->key.len, v->key.data);
    shard_gguf_str(gguf, key, &text, NULL);
    int shown = text.len > LONGEST_STRING ? LONGEST_STRING : (int)text.len;
    printf("\"%.*s\"%s", shown, text.data, text.len > LONGEST_STRING ? " ..." : "");
}

static void print_value(const struct shard_gguf *gguf, const struct shard_gguf_value *v)
{
    static const char *const kinds[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                        "bool", "string", "array", "u64", "i64", "f64"};
    if (v->kind == SHARD_GGUF_ARRAY)
        printf("%" PRIu64 " x %s", v->count, kinds[v->element_kind]);
    else if (v->kind == SHARD_GGUF_STRING)
        print_string(gguf, v);
    else if (v->kind == SHARD_GGUF_F32 || v->kind == SHARD_GGUF_F64)
        printf("%g", float_value(v));
    else
        printf("%" PRId64, shard_gguf_int_element(v, 0));
}

static void print_metadata(const struct shard_gguf *gguf)
{
    for (size_t i = 0; i < shard_gguf_n_values(gguf); i++) {
        const struct shard_gguf_value *v = shard_gguf_value(gguf, i);
        printf("  %-48.*s ", (int)v->key.len, v->key.data);
        print_value(gguf, v);
        putchar('\n');
    }
}

static void print_types(const struct shard_gguf *gguf)
{
    size_t n_types;
    const struct kern_type_info *types = kern_type_all(&n_types);
    printf("\n%-10s %8s %16s %12s\n", "type", "tensors", "values", "bytes");
    for (size_t t = 0; t < n_types; t++) {
        uint64_t tensors = 0, values = 0, bytes = 0;
        char text[16];
        for (size_t i = 0; i < shard_gguf_n_tensors(gguf); i++) {
            const struct shard_tensor *tensor = shard_gguf_tensor(gguf, i);
            if (tensor->type->type != types[t].type)
                continue;
            tensors++;
            bytes += tensor->bytes;
            values += tensor->dims[0] * tensor->dims[1] * tensor->dims[2] * tensor->dims[3];
        }
        coord_format_bytes(bytes, text);
        if (tensors)
            printf("%-10s %8" PRIu64 " %16" PRIu64 " %12s\n", types[t].name, tensors, values, text);
    }
}

static void print_tensors(const struct shard_gguf *gguf)
{
    printf("\n%-36s %-8s %24s %14s\n", "tensor", "type", "shape", "bytes");
    for (size_t i = 0; i < shard_gguf_n_tensors(gguf); i++) {
        const struct shard_tensor *t = shard_gguf_tensor(gguf, i);
        char shape[96];
        int used = 0;
        for (uint32_t d = 0; d < t->n_dims; d++)
            used += snprintf(shape + used, sizeof shape - (size_t)used, "%s%" PRIu64,
                             d ? " x " : "", t->dims[d]);
        printf("%-36s %-8s %24s %14" PRIu64 "\n", t->name, t->type->name, shape, t->bytes);
    }
}

/* What a sequence takes: a row a type. Windowed layers stop growing at their window. */
static void print_kv(const struct shard_model *model, const struct shard_program *program,
                     uint64_t ctx)
{
    uint64_t weights = shard_program_weight_bytes(program), rows = SHARD_KV_PAGE_ROWS;
    uint64_t states = shard_kv_bytes(program, KERN_KV_F32, 0);
    char header[48], state[16];
    snprintf(header, sizeof header, "%" PRIu64 " tokens", ctx);
    printf("\n%-10s %16s %20s %18s\n", "KV", "bytes a token", header, "with the weights");
    for (enum kern_kv kv = 0; kv < KERN_N_KV; kv++) {
        char whole[16], all[16];
        if (shard_kv_check(model, kv, NULL) != PROTO_OK) {
            printf("%-10s %16s  (heads are not a multiple of %zu wide)\n", kern_kv_name(kv), "-",
                   kern_kv_block(kv));
            continue;
        }
        uint64_t bytes = shard_kv_bytes(program, kv, ctx);
        coord_format_bytes(bytes, whole);
        coord_format_bytes(bytes + weights, all);
        printf("%-10s %16" PRIu64 " %20s %18s\n", kern_kv_name(kv),
               (shard_kv_bytes(program, kv, rows) - states) / rows, whole, all);
    }
    coord_format_bytes(states, state);
    if (states)
        printf("of which recurrent states: %s a sequence, and up to %u copies\n", state,
               SHARD_KV_SNAPSHOTS);
}

static void print_model(const struct shard_model *model, const struct shard_program *program,
                        uint64_t ctx)
{
    char whole[16], token[16];
    coord_format_bytes(shard_program_weight_bytes(program), whole);
    coord_format_bytes(shard_model_bytes_per_token(model), token);
    printf("\narchitecture %s: %u layers, %u wide, vocabulary %u, context %u", model->arch,
           model->n_layers, model->n_embd, model->n_vocab, model->n_ctx);
    if (model->n_experts)
        printf(", %u of %u experts", model->n_experts_used, model->n_experts);
    printf("\nparameters   %.3f billion\n", (double)shard_model_parameters(model) / 1e9);
    printf("in memory    %s of weights; a token reads %s\n", whole, token);
    print_kv(model, program, ctx ? ctx : model->n_ctx);
}

static enum proto_status show_model(const struct shard_gguf *gguf, bool with_program, uint64_t ctx,
                                    struct proto_error *error)
{
    struct shard_model *model = NULL;
    struct shard_program *program = NULL;
    enum proto_status status = shard_model_create(&model, gguf, error);
    if (status == PROTO_OK)
        status = shard_program_create(&program, model, 0, model->n_layers, true, true, error);
    if (status == PROTO_OK) {
        if (with_program)
            shard_program_print(program, stdout);
        else
            print_model(model, program, ctx);
    }
    shard_program_destroy(program);
    shard_model_destroy(model);
    return status;
}

static enum proto_status inspect(const char *path, bool with_program, bool with_tensors,
                                 uint64_t ctx, struct proto_error *error)
{
    struct shard_gguf *gguf = NULL;
    enum proto_status status = shard_gguf_open(&gguf, path, error);
    if (status != PROTO_OK)
        return status;
    if (!with_program) {
        size_t n = shard_gguf_n_files(gguf);
        printf("%s: GGUF v%u, %zu file%s\n", path, shard_gguf_version(gguf), n, n == 1 ? "" : "s");
        print_metadata(gguf);
        print_types(gguf);
        if (with_tensors)
            print_tensors(gguf);
    }
    /* A file that holds only a vocabulary has no model to show. */
    if (shard_gguf_n_tensors(gguf) || with_program)
        status = show_model(gguf, with_program, ctx, error);
    shard_gguf_close(gguf);
    return status;
}

int command_inspect(int argc, char **argv)
{
    bool with_program = false, with_tensors = false;
    uint32_t ctx = 0;
    const struct coord_option options[] = {
        {0, "program", NULL, "print the operations that compute the model", COORD_OPTION_FLAG,
         &with_program, 0, 0, NULL},
        {0, "tensors", NULL, "list every tensor", COORD_OPTION_FLAG, &with_tensors, 0, 0, NULL},
        {'c', "ctx", "N", "the memory of a context of N tokens (the model's)", COORD_OPTION_U32,
         &ctx, 1, PROTO_MAX_CONTEXT, NULL},
    };
    const struct coord_command command = {
        .name = "inspect",
        .positional = "MODEL",
        .summary = "Shows what a model file holds, what it takes in memory and how it is computed.",
        .options = options,
        .n_options = sizeof options / sizeof *options,
        .min_positional = 1,
        .max_positional = 1};
    struct coord_cli cli;
    struct proto_error error;
    coord_cli_default(&cli);
    int stop = coord_cli_parse(&cli, &command, argc, argv);
    if (stop >= 0)
        return stop;
    return inspect(cli.positional[0], with_program, with_tensors, ctx, &error) == PROTO_OK
               ? 0
               : coord_cli_fail(&command, &error);
}
