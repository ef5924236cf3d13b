/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>

#include "shard/program.h"
#include "tests/shard/edited.h"

struct fixture {
    struct shard_gguf *gguf;
    struct shard_model *model;
    struct shard_program *program;
};

static struct proto_error error;

/* Cuts layers [first, end) of an opened header, which is closed with the fixture. */
static struct fixture cut(struct shard_gguf *gguf, uint32_t first, uint32_t end, bool embed,
                          bool head)
{
    struct fixture f = {.gguf = gguf};
    CU_ASSERT_EQUAL_FATAL(shard_model_create(&f.model, gguf, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(
        shard_program_create(&f.program, f.model, first, end, embed, head, &error), PROTO_OK);
    return f;
}

static void finish(struct fixture *f)
{
    shard_program_destroy(f->program);
    shard_model_destroy(f->model);
    shard_gguf_close(f->gguf);
}

static size_t count(const struct shard_program *p, enum shard_op_kind kind)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n_ops; i++)
        n += p->ops[i].kind == kind;
    return n;
}

static void check_kinds(const struct shard_program *p, const enum shard_op_kind *kinds, size_t n)
{
    CU_ASSERT_EQUAL(p->n_ops, n);
    for (size_t i = 0; i < n && i < p->n_ops; i++)
        CU_ASSERT_EQUAL(p->ops[i].kind, kinds[i]);
}

static void test_dense_layer(void)
{
    static const enum shard_op_kind kinds[] = {
        SHARD_OP_EMBED,  SHARD_OP_ROPE_TABLE, SHARD_OP_RMS_NORM,  SHARD_OP_QUANT,
        SHARD_OP_MATMUL, SHARD_OP_MATMUL,     SHARD_OP_MATMUL,    SHARD_OP_ROPE,
        SHARD_OP_ROPE,   SHARD_OP_KV_STORE,   SHARD_OP_ATTENTION, SHARD_OP_QUANT,
        SHARD_OP_MATMUL, SHARD_OP_ADD,        SHARD_OP_RMS_NORM,  SHARD_OP_QUANT,
        SHARD_OP_MATMUL, SHARD_OP_MATMUL,     SHARD_OP_GLU,       SHARD_OP_QUANT,
        SHARD_OP_MATMUL, SHARD_OP_ADD,        SHARD_OP_SELECT,    SHARD_OP_RMS_NORM,
        SHARD_OP_QUANT,  SHARD_OP_MATMUL,
    };
    struct fixture f = cut(preset_open("llama-k", "Q4_K", false), 0, 2, true, true);
    struct fixture one = cut(preset_open("llama-k", "Q4_K", false), 0, 1, true, true);
    check_kinds(one.program, kinds, sizeof kinds / sizeof kinds[0]);
    CU_ASSERT_EQUAL(one.program->ops[one.program->tail].kind, SHARD_OP_SELECT);
    CU_ASSERT_EQUAL(one.program->buffers[one.program->logits].width, 512);
    CU_ASSERT(one.program->buffers[one.program->logits].tail);
    CU_ASSERT_EQUAL(count(f.program, SHARD_OP_ROPE_TABLE), 1);
    CU_ASSERT_EQUAL(f.program->n_buffers, one.program->n_buffers);
    finish(&one);
    finish(&f);
}

/* Float products read float buffers as they are. */
static void test_float_operands(void)
{
    struct fixture f = cut(preset_open("llama3-tiny", "F32", false), 0, 3, true, true);
    CU_ASSERT_EQUAL(count(f.program, SHARD_OP_QUANT), 0);
    const struct shard_op *table = &f.program->ops[1];
    CU_ASSERT(table->kind == SHARD_OP_ROPE_TABLE && table->w >= 0);
    CU_ASSERT_EQUAL(f.program->weights[table->w].n_out, 8);
    finish(&f);
}

/* Consumers of one kind share an operand; another kind has its own. */
static void test_mixed_operands(void)
{
    struct shard_gguf *base = preset_open("llama-k", "Q4_K", false);
    struct edit edits[] = {
        {.tensor = "blk.0.attn_v.weight", .dims = {256, 64}, .type = KERN_Q8_0},
        {.tensor = "blk.0.attn_k.weight", .dims = {256, 64}, .type = KERN_Q6_K},
        {.tensor = "blk.0.ffn_up.weight", .dims = {256, 512}, .type = KERN_F16},
    };
    struct fixture f = cut(edited(base, edits, 3), 0, 1, false, false);
    const struct shard_program *p = f.program;
    const struct shard_op *q = NULL, *k = NULL, *v = NULL, *up = NULL;
    for (size_t i = 0; i < p->n_ops; i++) {
        const struct shard_op *op = &p->ops[i];
        if (op->kind != SHARD_OP_MATMUL)
            continue;
        const char *name = shard_gguf_tensor(f.gguf, p->parts[p->weights[op->w].first_part])->name;
        q = strstr(name, "attn_q") ? op : q;
        k = strstr(name, "attn_k") ? op : k;
        v = strstr(name, "attn_v") ? op : v;
        up = strstr(name, "ffn_up") ? op : up;
    }
    CU_ASSERT_FATAL(q && k && v && up);
    CU_ASSERT_EQUAL(q->a, k->a);
    CU_ASSERT_EQUAL(p->buffers[q->a].act, KERN_ACT_Q8_256);
    CU_ASSERT_EQUAL(p->buffers[v->a].act, KERN_ACT_Q8_32);
    CU_ASSERT_EQUAL(p->buffers[up->a].kind, SHARD_BUFFER_F32);
    CU_ASSERT_EQUAL(count(p, SHARD_OP_QUANT), 5);
    finish(&f);
    shard_gguf_close(base);
}

static void test_tied_output(void)
{
    struct shard_gguf *base = preset_open("llama-k", "Q8_0", false);
    struct edit tied = {.drop_tensor = "output.weight"};
    struct fixture f = cut(edited(base, &tied, 1), 0, 2, true, true);
    struct fixture last = cut(edited(base, &tied, 1), 1, 2, false, true);
    const struct shard_program *p = f.program;
    CU_ASSERT_EQUAL(p->ops[0].w, p->ops[p->n_ops - 1].w);
    CU_ASSERT_EQUAL(p->n_weights, 1 + 2 * 9 + 1);
    CU_ASSERT_EQUAL(last.program->n_weights, 9 + 2);
    finish(&f);
    finish(&last);
    shard_gguf_close(base);
}

static void test_llama4(void)
{
    struct fixture f = cut(preset_open("llama4-scout-tiny", "F32", false), 2, 4, false, false);
    const struct shard_program *p = f.program;
    CU_ASSERT_EQUAL(count(p, SHARD_OP_ROPE), 2);
    CU_ASSERT_EQUAL(count(p, SHARD_OP_TEMPERATURE), 1);
    CU_ASSERT_EQUAL(count(p, SHARD_OP_RMS_NORM), 2 * 2 + 2);
    CU_ASSERT_EQUAL(count(p, SHARD_OP_EXPERTS), 2);
    CU_ASSERT_EQUAL(p->tail, p->n_ops);
    CU_ASSERT_EQUAL(p->logits, -1);
    /* The norm of Q and K comes after their rotation. */
    for (size_t i = 1; i < p->n_ops; i++) {
        if (p->ops[i].kind == SHARD_OP_RMS_NORM && p->ops[i].w < 0)
            CU_ASSERT(p->ops[i - 2].kind == SHARD_OP_ROPE && p->ops[i - 2].dst == p->ops[i].dst);
    }
    finish(&f);
}

/* The slices of a model hold each tensor once. */
static void test_parts(void)
{
    struct shard_gguf *base = preset_open("llama4-maverick-tiny", "Q8_0", false);
    struct shard_model *m;
    CU_ASSERT_EQUAL_FATAL(shard_model_create(&m, base, &error), PROTO_OK);
    unsigned *held = calloc(shard_gguf_n_tensors(base), sizeof *held);
    for (uint32_t first = 0; first < 6; first += 2) {
        struct shard_program *p;
        CU_ASSERT_EQUAL_FATAL(
            shard_program_create(&p, m, first, first + 2, first == 0, first == 4, &error),
            PROTO_OK);
        uint64_t bytes = 0;
        for (size_t i = 0; i < p->n_weights; i++)
            bytes += shard_weight_bytes(&p->weights[i]);
        CU_ASSERT_EQUAL(bytes, shard_program_weight_bytes(p));
        for (size_t i = 0; i < p->n_parts; i++)
            held[p->parts[i]]++;
        shard_program_destroy(p);
    }
    for (size_t i = 0; i < shard_gguf_n_tensors(base); i++)
        CU_ASSERT_EQUAL(held[i], 1);
    free(held);
    shard_model_destroy(m);
    shard_gguf_close(base);
}

static void test_refusals(void)
{
    struct fixture f = cut(preset_open("llama-k", "Q4_K", false), 0, 2, true, true);
    struct shard_program *p;
    CU_ASSERT_EQUAL(shard_program_create(&p, f.model, 1, 3, false, true, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "2 layers"));
    CU_ASSERT_EQUAL(shard_program_create(&p, f.model, 2, 1, true, true, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(shard_program_create(&p, f.model, 1, 1, false, false, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NULL(p);
    finish(&f);
}

static void test_masks(void)
{
    CU_ASSERT_EQUAL(shard_mask_first(SHARD_MASK_CAUSAL, 0, 1000), 0);
    CU_ASSERT_EQUAL(shard_mask_first(SHARD_MASK_CHUNK, 8192, 8191), 0);
    CU_ASSERT_EQUAL(shard_mask_first(SHARD_MASK_CHUNK, 8192, 8192), 8192);
    CU_ASSERT_EQUAL(shard_mask_first(SHARD_MASK_WINDOW, 32, 31), 0);
    CU_ASSERT_EQUAL(shard_mask_first(SHARD_MASK_WINDOW, 32, 32), 1);
}

static void test_print(void)
{
    static const char *const lines[] = {
        "layers 0 to 4, embedding, head",
        "embed       x  token_embd.weight {256, 512} Q4_K\n",
        "quant       h.q8_256 <- h\n",
        "matmul      q <- h.q8_256  blk.0.attn_q.weight {256, 256} Q4_K\n",
        "rope        q <- rope  heads 8 x 32, pairs\n",
        "attention   mixed <- q  layer 0, heads 8, KV heads 2, chunk 8192\n",
        "attention   mixed <- q  layer 3, heads 8, KV heads 2, causal\n",
        "route       routes <- router  best 1 of 8, sigmoid\n",
        "blk.1.ffn_gate_exps.weight {256, 256, 8} Q4_K",
        "for the rows whose results are wanted:\n",
        "matmul      logits <- wanted.q8_256  output.weight {256, 512} Q4_K\n",
    };
    struct fixture f = cut(preset_open("llama4-k", "Q4_K", false), 0, 4, true, true);
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    shard_program_print(f.program, out);
    fclose(out);
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        if (!strstr(text, lines[i]))
            printf("\n    missing: %s", lines[i]);
        CU_ASSERT_PTR_NOT_NULL(strstr(text, lines[i]));
    }
    free(text);
    finish(&f);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("program", NULL, NULL);
    CU_add_test(suite, "a dense layer", test_dense_layer);
    CU_add_test(suite, "float operands", test_float_operands);
    CU_add_test(suite, "mixed operands", test_mixed_operands);
    CU_add_test(suite, "tied output", test_tied_output);
    CU_add_test(suite, "llama4", test_llama4);
    CU_add_test(suite, "parts", test_parts);
    CU_add_test(suite, "refusals", test_refusals);
    CU_add_test(suite, "masks", test_masks);
    CU_add_test(suite, "print", test_print);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
