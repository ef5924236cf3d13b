/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The promise of exactness: a row's logits are the same bits whatever the batch, the threads, the
 * cut into slices, the neighbours and the instruction set.
 */
#include <CUnit/Basic.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/blas.h"
#include "shard/gguf_writer.h"
#include "tests/worker/exec_rig.h"
#include "tests/worker/model_forms.h"

#define N_TOKENS 80u

static struct proto_error error;

static const struct {
    const char *preset, *type;
} models[] = {
    {"llama3-tiny", "F32"},        {"mixtral-tiny", "F16"},
    {"llama4-scout-tiny", "BF16"}, {"llama-k", "Q4_0"},
    {"llama-k", "Q6_K"},           {"llama4-k", "Q4_K"},
    {"llama4-k", "Q8_0"},          {"llama4-maverick-tiny", "F32"},
    {"qwen2-tiny", "Q8_0"},        {"qwen3-tiny", "F16"},
    {"qwen3moe-tiny", "F32"},      {"qwen3moe-k", "Q4_K"},
    {"gpt-oss-tiny", "Q8_0"},      {"glm4moe-tiny", "F32"},
    {"gemma4-tiny", "F32"},        {"deepseek2-tiny", "F32"},
    {"deepseek2-tiny", "Q8_0"},    {"qwen35moe-tiny", "F32"},
    {"qwen35moe-tiny", "Q4_0"},    {"llama-k", "IQ1_M"},
    {"llama-k", "IQ3_S"},          {"llama4-k", "IQ2_XXS"},
    {"gemma4-e-tiny", "F32"},      {"gemma4-e-tiny", "Q8_0"},
};
#define N_MODELS (sizeof models / sizeof models[0])

static void fill_ids(int32_t *ids, uint32_t n, uint32_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        ids[i] = (int32_t)(seed >> 16) % 512;
    }
}

/* Logits of N_TOKENS tokens of sequence 0; the caller frees them. */
static float *feed(struct rig *rig, const struct rig_options *options, uint32_t batch)
{
    int32_t ids[N_TOKENS];
    fill_ids(ids, N_TOKENS, 7);
    float *logits = calloc(N_TOKENS * (size_t)rig->model->n_vocab, sizeof *logits);
    CU_ASSERT_PTR_NOT_NULL_FATAL(logits);
    rig_start(rig, options);
    CU_ASSERT_EQUAL(rig_feed(rig, 0, 0, ids, N_TOKENS, batch, logits, &error), PROTO_OK);
    rig_stop(rig);
    return logits;
}

static void check_same(struct rig *rig, const struct rig_options *options, uint32_t batch,
                       const float *want, const char *what)
{
    float *got = feed(rig, options, batch);
    bool same = memcmp(got, want, N_TOKENS * (size_t)rig->model->n_vocab * sizeof *got) == 0;
    if (!same)
        printf("\n    %s differs: %s, batch %u, threads %u", rig->model->name, what, batch,
               options->threads);
    CU_ASSERT(same);
    free(got);
}

static void check_model(struct rig *rig, enum kern_kv kv)
{
    uint32_t n_layers = rig->model->n_layers, each[RIG_MAX_STAGES];
    float *want = feed(rig, &(struct rig_options){.threads = 1, .kv = kv}, 1);
    static const struct {
        unsigned threads;
        uint32_t batch;
    } ways[] = {{1, 7}, {1, 512}, {2, 1}, {2, 16}, {3, 7}, {3, 512}};
    for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++)
        check_same(rig, &(struct rig_options){.threads = ways[w].threads, .kv = kv}, ways[w].batch,
                   want, "batch");
    for (uint32_t il = 0; il < n_layers; il++)
        each[il] = il + 1;
    check_same(rig,
               &(struct rig_options){.ends = each, .n_stages = n_layers, .threads = 2, .kv = kv}, 7,
               want, "a stage a layer");
    for (uint32_t il = 1; il < n_layers; il++) {
        uint32_t ends[2] = {il, n_layers};
        check_same(rig, &(struct rig_options){.ends = ends, .n_stages = 2, .kv = kv}, 512, want,
                   "two stages");
    }
    for (int isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa++) {
        if (kern_table_get((enum kern_isa)isa))
            check_same(rig, &(struct rig_options){.isa = 1 + isa, .kv = kv}, 30, want,
                       kern_table_get((enum kern_isa)isa)->name);
    }
    free(want);
}

static void test_same_bits(void)
{
    for (size_t i = 0; i < N_MODELS; i++) {
        struct rig rig;
        rig_open(&rig, rig_make(models[i].preset, models[i].type, 3, false, NULL));
        check_model(&rig, KERN_KV_F32);
        rig_close(&rig);
    }
}

/* Root of the sum of squares of got - want (got NULL: 0). */
static double distance(const struct rig *rig, const float *got, const float *want)
{
    double sum = 0;
    for (size_t i = 0; i < N_TOKENS * (size_t)rig->model->n_vocab; i++) {
        double d = (double)want[i] - (got ? (double)got[i] : 0);
        sum += d * d;
    }
    return sqrt(sum);
}

/* Not exact, but the same bits for all threads and cuts of a batch of all tokens; near the exact
 * logits, and those themselves where OpenBLAS serves no product. */
static void check_inexact(struct rig *rig, enum kern_isa isa, bool serves)
{
    struct rig_options how = {.isa = 1 + (int)isa};
    uint32_t n_layers = rig->model->n_layers;
    float *exact = feed(rig, &how, N_TOKENS);
    how.inexact = true;
    float *want = feed(rig, &how, N_TOKENS);
    double off = distance(rig, want, exact), size = distance(rig, NULL, exact);
    CU_ASSERT_EQUAL(off > 0, serves);
    CU_ASSERT(off <= 1e-4 * size);
    for (how.threads = 1; how.threads <= 3; how.threads++)
        check_same(rig, &how, N_TOKENS, want, "inexact");
    for (uint32_t il = 1; il < n_layers; il++) {
        uint32_t ends[2] = {il, n_layers};
        check_same(rig,
                   &(struct rig_options){.isa = how.isa,
                                         .inexact = true,
                                         .ends = ends,
                                         .n_stages = 2,
                                         .threads = 1 + il % 3},
                   N_TOKENS, want, "inexact in two stages");
    }
    free(exact);
    free(want);
}

static void test_inexact(void)
{
    static const struct {
        const char *preset, *type;
        bool floats;
    } some[] = {{"llama3-tiny", "F32", true},
                {"mixtral-tiny", "F16", true},
                {"llama4-scout-tiny", "BF16", true},
                {"deepseek2-tiny", "F32", true},
                {"llama-k", "Q8_0", false}};
    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++) {
        struct rig rig;
        rig_open(&rig, rig_make(some[i].preset, some[i].type, 3, false, NULL));
        for (int isa = KERN_ISA_PORTABLE; isa <= KERN_ISA_AMX; isa++) {
            const struct kern_table *table = kern_table_get((enum kern_isa)isa);
            if (table)
                check_inexact(&rig, table->isa,
                              some[i].floats && kern_blas_min_rows(table, KERN_F32) <= N_TOKENS);
        }
        rig_close(&rig);
    }
}

/* A dense model and two with experts, for ThreadSanitizer: what threads do does not depend on the
 * architecture beyond that. */
static void test_threads(void)
{
    static const struct {
        const char *preset, *type;
    } few[] = {{"llama3-tiny", "F32"}, {"mixtral-tiny", "F16"}, {"llama4-k", "Q4_K"}};
    for (size_t i = 0; i < sizeof few / sizeof few[0]; i++) {
        struct rig rig;
        rig_open(&rig, rig_make(few[i].preset, few[i].type, 3, false, NULL));
        float *want = feed(&rig, &(struct rig_options){.threads = 1}, 16);
        for (unsigned threads = 2; threads <= 3; threads++) {
            check_same(&rig, &(struct rig_options){.threads = threads}, 1, want, "one row");
            check_same(&rig, &(struct rig_options){.threads = threads}, 40, want, "many rows");
        }
        free(want);
        rig_close(&rig);
    }
}

/* Sequences that share batches, with ranges of changing lengths, against each alone. */
static void check_neighbours(struct rig *rig, enum kern_kv kv)
{
    enum { SEQS = 3 };
    size_t n_vocab = rig->model->n_vocab, row = n_vocab * sizeof(float);
    int32_t ids[SEQS][N_TOKENS];
    float *alone[SEQS], *got = malloc(512 * row);
    uint64_t pos[SEQS] = {0};
    rig_start(rig, &(struct rig_options){.threads = 2, .kv = kv});
    for (uint32_t s = 0; s < SEQS; s++) {
        fill_ids(ids[s], N_TOKENS, s);
        alone[s] = malloc(N_TOKENS * row);
        CU_ASSERT_EQUAL(rig_feed(rig, 3, 0, ids[s], N_TOKENS, 9, alone[s], &error), PROTO_OK);
    }
    for (uint32_t step = 0; pos[0] < N_TOKENS; step++) {
        struct proto_range ranges[SEQS];
        int32_t batch[SEQS * N_TOKENS];
        uint32_t n_ranges = 0, n_rows = 0;
        for (uint32_t k = 0; k < SEQS; k++) {
            uint32_t s = (k + step) % SEQS, n = 1 + (step * 5 + s * 3) % 8;
            n = n > N_TOKENS - pos[s] ? (uint32_t)(N_TOKENS - pos[s]) : n;
            if (n == 0)
                continue;
            ranges[n_ranges++] = (struct proto_range){s, pos[s], n, PROTO_WANT_ALL, 0};
            memcpy(batch + n_rows, ids[s] + pos[s], n * sizeof batch[0]);
            n_rows += n;
        }
        CU_ASSERT_EQUAL_FATAL(rig_run(rig, ranges, n_ranges, batch, got, &error), PROTO_OK);
        const float *at = got;
        for (uint32_t i = 0; i < n_ranges; i++) {
            const struct proto_range *r = &ranges[i];
            CU_ASSERT(memcmp(at, alone[r->seq] + r->pos * n_vocab, r->n * row) == 0);
            at += r->n * n_vocab;
            pos[r->seq] += r->n;
        }
    }
    for (uint32_t s = 0; s < SEQS; s++)
        free(alone[s]);
    free(got);
    rig_stop(rig);
}

/* A quantised cache, whatever the batch, the threads, the cut and the set. */
static void test_quantised_kv(void)
{
    static const struct {
        const char *preset, *type;
        enum kern_kv kv;
    } wide[] = {{"llama-k", "Q4_0", KERN_KV_Q8_0}, {"llama4-k", "Q4_K", KERN_KV_Q4_0}};
    for (size_t i = 0; i < 2; i++) {
        struct rig rig;
        rig_open(&rig, rig_make(wide[i].preset, wide[i].type, 3, false, NULL));
        check_model(&rig, wide[i].kv);
        check_neighbours(&rig, wide[i].kv);
        rig_close(&rig);
    }
}

static void test_neighbours(void)
{
    for (size_t i = 0; i < N_MODELS; i++) {
        struct rig rig;
        rig_open(&rig, rig_make(models[i].preset, models[i].type, 3, false, NULL));
        check_neighbours(&rig, i % 2 ? KERN_KV_F16 : KERN_KV_F32);
        rig_close(&rig);
    }
}

/* Over a chunk's end, where rows of one batch see different chunks and pages are given back. */
static void test_chunk_boundary(void)
{
    enum { N = 8300, SHOWN = 150 };
    struct rig rig;
    rig_open(&rig, rig_make("llama4-scout-tiny", "F32", 3, false, NULL));
    size_t n_vocab = rig.model->n_vocab;
    int32_t *ids = malloc(N * sizeof *ids);
    float *logits = malloc((size_t)N * n_vocab * sizeof *logits), *first = NULL;
    fill_ids(ids, N, 1);
    for (uint32_t batch = 411; batch <= 512; batch += 101) {
        rig_start(&rig, &(struct rig_options){.threads = 2});
        CU_ASSERT_EQUAL(rig_feed(&rig, 0, 0, ids, N - 20, batch, logits, &error), PROTO_OK);
        CU_ASSERT_EQUAL(
            rig_feed(&rig, 0, N - 20, ids + N - 20, 20, 1, logits + (N - 20) * n_vocab, &error),
            PROTO_OK);
        rig_stop(&rig);
        size_t bytes = SHOWN * n_vocab * sizeof *logits;
        const float *shown = logits + (N - SHOWN) * n_vocab;
        if (first)
            CU_ASSERT(memcmp(first, shown, bytes) == 0);
        first = first ? first : memcpy(malloc(bytes), shown, bytes);
    }
    free(first);
    free(ids);
    free(logits);
    rig_close(&rig);
}

/* Going back over positions, as after a rejected draft, leaves nothing behind. */
static void test_rewind(void)
{
    struct rig rig;
    int32_t ids[N_TOKENS], other[N_TOKENS];
    rig_open(&rig, rig_make("llama4-k", "Q8_0", 3, false, NULL));
    size_t n_vocab = rig.model->n_vocab, bytes = 20 * n_vocab * sizeof(float);
    float *want = malloc(N_TOKENS * n_vocab * sizeof *want), *got = malloc(bytes);
    fill_ids(ids, N_TOKENS, 1);
    fill_ids(other, N_TOKENS, 2);
    rig_start(&rig, &(struct rig_options){.threads = 1});
    CU_ASSERT_EQUAL(rig_feed(&rig, 0, 0, ids, N_TOKENS, 64, want, &error), PROTO_OK);
    CU_ASSERT_EQUAL(rig_feed(&rig, 0, 40, other, 20, 20, got, &error), PROTO_OK);
    CU_ASSERT(memcmp(got, want + 40 * n_vocab, bytes) != 0);
    CU_ASSERT_EQUAL(rig_feed(&rig, 0, 40, ids + 40, 20, 20, got, &error), PROTO_OK);
    CU_ASSERT(memcmp(got, want + 40 * n_vocab, bytes) == 0);
    rig_drop(&rig, 0);
    CU_ASSERT_EQUAL(rig_feed(&rig, 0, 0, ids, 20, 3, got, &error), PROTO_OK);
    CU_ASSERT(memcmp(got, want, bytes) == 0);
    free(want);
    free(got);
    rig_close(&rig);
}

struct seen {
    uint32_t n;
    struct worker_result_row rows[64];
    bool refuse;
};

static enum proto_status see(void *arg, const struct worker_result_row *rows, uint32_t n_rows,
                             float *logits, size_t ld, struct proto_error *failure)
{
    struct seen *seen = arg;
    (void)logits;
    CU_ASSERT(n_rows >= 1 && n_rows <= SHARD_TAIL_ROWS && ld >= 512);
    for (uint32_t i = 0; i < n_rows && seen->n < 64; i++)
        seen->rows[seen->n++] = rows[i];
    return seen->refuse ? proto_fail(failure, PROTO_CANCELLED, "enough") : PROTO_OK;
}

static void test_wanted_rows(void)
{
    struct rig rig;
    int32_t ids[64];
    rig_open(&rig, rig_make("llama3-tiny", "F32", 3, false, NULL));
    rig_start(&rig, &(struct rig_options){.threads = 1});
    fill_ids(ids, 64, 1);
    struct proto_range ranges[] = {{2, 0, 5, PROTO_WANT_LAST, 0},
                                   {0, 0, 9, PROTO_WANT_NONE, 0},
                                   {1, 0, 20, PROTO_WANT_ALL, 0},
                                   {3, 0, 1, PROTO_WANT_LAST, 0}};
    struct worker_batch batch = {.ranges = ranges, .n_ranges = 4, .ids = ids, .x = rig.x};
    struct seen seen = {0};
    struct worker_exec *exec = rig.stages[0].exec;
    CU_ASSERT_EQUAL(worker_exec_run(exec, &batch, see, &seen, &error), PROTO_OK);
    CU_ASSERT_EQUAL(seen.n, 22);
    CU_ASSERT(seen.rows[0].range == 0 && seen.rows[0].pos == 4);
    CU_ASSERT(seen.rows[1].range == 2 && seen.rows[1].pos == 0);
    CU_ASSERT(seen.rows[20].range == 2 && seen.rows[20].pos == 19);
    CU_ASSERT(seen.rows[21].range == 3 && seen.rows[21].pos == 0);
    uint64_t steps = worker_exec_steps(exec);
    CU_ASSERT(steps >= rig.stages[0].program->n_ops);
    seen = (struct seen){.refuse = true};
    CU_ASSERT_EQUAL(worker_exec_run(exec, &batch, see, &seen, &error), PROTO_CANCELLED);
    CU_ASSERT_EQUAL(seen.n, SHARD_TAIL_ROWS);
    CU_ASSERT(worker_exec_steps(exec) > steps);
    rig_close(&rig);
}

static void test_refusals(void)
{
    struct rig rig;
    int32_t ids[64];
    rig_open(&rig, rig_make("llama3-tiny", "F32", 3, false, NULL));
    rig_start(&rig, &(struct rig_options){.max_rows = 16, .max_seqs = 2, .ctx = 40});
    fill_ids(ids, 64, 1);
    static const struct {
        struct proto_range ranges[2];
        uint32_t n;
        const char *word;
    } bad[] = {
        {{{2, 0, 1, PROTO_WANT_ALL, 0}}, 1, "sequence 2"},
        {{{0, 0, 0, PROTO_WANT_ALL, 0}}, 1, "0 rows"},
        {{{0, 0, 17, PROTO_WANT_ALL, 0}}, 1, "at most 16"},
        {{{0, 0, 9, PROTO_WANT_ALL, 0}, {1, 0, 8, PROTO_WANT_ALL, 0}}, 2, "after 9 others"},
        {{{0, 0, UINT32_MAX, PROTO_WANT_ALL, 0}}, 1, "at most 16"},
        {{{0, 1, 1, PROTO_WANT_ALL, 0}}, 1, "position 1"},
        {{{0, 0, 1, PROTO_WANT_ALL, 0}, {0, 1, 1, PROTO_WANT_ALL, 0}}, 2, "twice"},
        {{{0, UINT64_MAX, 2, PROTO_WANT_ALL, 0}}, 1, "position 18446744073709551615"},
    };
    float *logits = malloc(64 * 512 * sizeof *logits);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CU_ASSERT_EQUAL(rig_run(&rig, bad[i].ranges, bad[i].n, ids, logits, &error), PROTO_INVALID);
        CU_ASSERT_PTR_NOT_NULL(strstr(error.text, bad[i].word));
    }
    CU_ASSERT_EQUAL(rig_feed(&rig, 0, 0, ids, 41, 16, logits, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "context of 40"));
    ids[3] = 512;
    CU_ASSERT_EQUAL(rig_feed(&rig, 1, 0, ids, 8, 8, logits, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "token id 512, expected 0 to 511"));
    ids[3] = -1;
    CU_ASSERT_EQUAL(rig_feed(&rig, 1, 0, ids, 8, 8, logits, &error), PROTO_INVALID);
    free(logits);
    rig_close(&rig);
}

static void check_form(const struct shard_gguf *gguf, struct model_form form)
{
    char path[] = "/tmp/caravan-form-XXXXXX";
    struct rig rig;
    float *logits[2];
    int fd = mkstemp(path);
    CU_ASSERT_FATAL(fd >= 0);
    fclose(fdopen(fd, "wb"));
    size_t bytes = 0;
    for (int i = 0; i < 2; i++) {
        model_rewrite(gguf, i ? form : (struct model_form){0}, path);
        rig_open(&rig, path);
        logits[i] = feed(&rig, &(struct rig_options){.threads = 2}, 20);
        bytes = N_TOKENS * (size_t)rig.model->n_vocab * sizeof(float);
        rig_close(&rig);
    }
    CU_ASSERT(memcmp(logits[0], logits[1], bytes) == 0);
    free(logits[0]);
    free(logits[1]);
    remove(path);
}

static void test_forms(void)
{
    struct rig rig;
    rig_open(&rig, rig_make("llama-k", "Q4_K", 3, false, NULL));
    check_form(rig.gguf, (struct model_form){.fuse = true});
    check_form(rig.gguf, (struct model_form){.tie = true});
    rig_close(&rig);
    rig_open(&rig, rig_make("mixtral-tiny", "Q8_0", 3, false, NULL));
    check_form(rig.gguf, (struct model_form){.split = true});
    check_form(rig.gguf, (struct model_form){.fuse_experts = true});
    rig_close(&rig);
    rig_open(&rig, rig_make("gpt-oss-tiny", "F32", 3, false, NULL));
    check_form(rig.gguf, (struct model_form){.fuse_experts = true});
    rig_close(&rig);
}

static void add_tests(CU_pSuite suite)
{
    CU_add_test(suite, "same bits for any batch, threads, cut and set", test_same_bits);
    CU_add_test(suite, "same bits beside other sequences", test_neighbours);
    CU_add_test(suite, "same bits with a quantised cache", test_quantised_kv);
    CU_add_test(suite, "same bits for any threads and cut, not exact", test_inexact);
    CU_add_test(suite, "same bits over a chunk's end", test_chunk_boundary);
    CU_add_test(suite, "going back", test_rewind);
    CU_add_test(suite, "wanted rows", test_wanted_rows);
    CU_add_test(suite, "refusals", test_refusals);
    CU_add_test(suite, "other forms of the same model", test_forms);
}

/* With the argument "threads": only what ThreadSanitizer is to look at. */
int main(int argc, char **argv)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("exec", NULL, NULL);
    if (argc > 1 && strcmp(argv[1], "threads") == 0)
        CU_add_test(suite, "same bits with several threads", test_threads);
    else
        add_tests(suite);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
