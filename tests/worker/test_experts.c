/* SPDX-License-Identifier: Apache-2.0 */
/* Experts on other workers: the same bits wherever they are, as many frames as there are hosts. */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/worker/exec_rig.h"
#include "tests/worker/expert_plans.h"
#include "tests/worker/model_forms.h"
#include "worker/exec_sum.h"

static struct proto_error error;

/* Logits of the tokens in batches of `batch`; the sequence is forgotten. */
static void run(struct rig *rig, uint32_t n, uint32_t batch, float *logits)
{
    int32_t ids[EXPERT_TOKENS];
    expert_ids(ids, EXPERT_TOKENS);
    enum proto_status status = rig_feed(rig, 0, 0, ids, n, batch, logits, &error);
    if (status != PROTO_OK)
        printf("%s\n", error.text);
    CU_ASSERT_EQUAL(status, PROTO_OK);
    rig_drop(rig, 0);
}

static void check_plan(struct rig *rig, enum expert_deal deal, bool in_file, const float *want)
{
    static const uint32_t batches[] = {1, 3, EXPERT_TOKENS};
    size_t n_vocab = rig->model->n_vocab;
    struct expert_plan plan;
    if (!expert_plan_make(&plan, rig->model, deal))
        return;
    uint32_t ends[2] = {rig->model->n_layers / 2, rig->model->n_layers};
    float *got = calloc(EXPERT_TOKENS * n_vocab, sizeof *got);
    rig_start(rig, &(struct rig_options){.threads = 2,
                                         .max_rows = EXPERT_TOKENS,
                                         .in_file = in_file,
                                         .ends = ends + 2 - plan.n_stages,
                                         .n_stages = plan.n_stages,
                                         .parts = plan.parts,
                                         .n_parts = plan.n});
    for (size_t b = 0; b < 3; b++) {
        uint32_t n = batches[b] == 1 ? 8 : EXPERT_TOKENS;
        run(rig, n, batches[b], got);
        bool same = memcmp(got, want, n * n_vocab * sizeof *got) == 0;
        if (!same)
            printf("%s, %s, batches of %u: other bits\n", rig->model->arch, plan.name, batches[b]);
        CU_ASSERT(same);
    }
    CU_ASSERT(rig->n_requests > 0);
    rig_stop(rig);
    free(got);
}

/* Experts that are packed as rows use them, a few at a time. */
static void check_in_file(struct rig *rig, const float *want)
{
    size_t bytes = EXPERT_TOKENS * (size_t)rig->model->n_vocab * sizeof(float);
    float *got = malloc(bytes);
    rig_start(rig, &(struct rig_options){.threads = 2, .max_rows = EXPERT_TOKENS, .in_file = true});
    CU_ASSERT_PTR_NOT_NULL(rig->stages[0].weights.lazy);
    run(rig, EXPERT_TOKENS, EXPERT_TOKENS, got);
    CU_ASSERT_EQUAL(memcmp(got, want, bytes), 0);
    rig_stop(rig);
    free(got);
    check_plan(rig, EXPERTS_FOUR_HOSTS_OF_SLICES, true, want);
    check_plan(rig, EXPERTS_EACH_OTHER, true, want);
}

static void check_model(const char *path)
{
    struct rig rig;
    rig_open(&rig, path);
    float *want = calloc(EXPERT_TOKENS * (size_t)rig.model->n_vocab, sizeof *want);
    rig_start(&rig, &(struct rig_options){.threads = 2, .max_rows = EXPERT_TOKENS});
    run(&rig, EXPERT_TOKENS, EXPERT_TOKENS, want);
    rig_stop(&rig);
    for (enum expert_deal deal = 0; deal < EXPERTS_N_DEALS; deal++)
        check_plan(&rig, deal, false, want);
    check_in_file(&rig, want);
    free(want);
    rig_close(&rig);
}

/* Made models: what is left of the list of settings is NULL. */
static const struct {
    const char *preset, *type;
    const char *sets[2];
} models[] = {
    {"llama4-scout-tiny", "F32", {NULL}},
    {"llama4-k", "Q4_K", {"ffe=1024", NULL}},
    {"llama4-maverick-tiny", "Q8_0", {"ffe=768", NULL}},
    {"mixtral-tiny", "Q8_0", {"ff=800", NULL}},
    {"qwen3moe-k", "Q4_K", {"ffe=512", "used=3"}},
    {"qwen3moe-k", "Q6_K", {"ffe=768", "used=5"}},
    {"qwen3moe-k", "Q8_0", {"ffe=1280", "used=4"}},
    {"qwen3moe-k", "MXFP4", {"ffe=288", "used=4"}},
    {"qwen3moe-tiny", "F16", {"ffe=320", NULL}},
    {"deepseek2-tiny", "F32", {"ffe=256", NULL}},
    {"gpt-oss-tiny", "F32", {"ffe=416", NULL}},
    {"gpt-oss-tiny", "Q8_0", {"ffe=512", NULL}},
    {"glm4moe-tiny", "Q4_0", {"ffe=1024", NULL}},
    {"qwen35moe-tiny", "F32", {"ffe=512", NULL}},
};
#define N_MODELS (sizeof models / sizeof models[0])

static void test_models(void)
{
    for (size_t i = 0; i < N_MODELS; i++) {
        size_t n = 0;
        while (n < 2 && models[i].sets[n])
            n++;
        check_model(rig_make_with(models[i].preset, models[i].type, models[i].sets, n));
    }
}

static void check_form(const char *preset, const char *type, const char *set,
                       struct model_form form)
{
    struct rig rig;
    char other[256];
    const char *path = rig_make_with(preset, type, &set, 1);
    snprintf(other, sizeof other, "%s.f", path);
    rig_open(&rig, path);
    model_rewrite(rig.gguf, form, other);
    rig_close(&rig);
    check_model(other);
    unlink(other);
}

/* Experts in tensors of their own, gate and up in one, and experts beside a dense FFN. */
static void test_forms(void)
{
    check_form("mixtral-tiny", "Q8_0", "ff=768", (struct model_form){.split = true});
    check_form("mixtral-tiny", "Q4_0", "ff=512", (struct model_form){.fuse_experts = true});
    check_form("gpt-oss-tiny", "F32", "ffe=416", (struct model_form){.fuse_experts = true});
    check_model(SOURCE_DIR "/tests/golden/models/gemma4-experts/model.gguf");
}

/* Every instruction set: their kernels see the same segments. */
static void test_sets(void)
{
    struct rig rig;
    static const char *const sets[] = {"ffe=768", "used=4"};
    rig_open(&rig, rig_make_with("qwen3moe-k", "Q5_K", sets, 2));
    size_t bytes = EXPERT_TOKENS * (size_t)rig.model->n_vocab * sizeof(float);
    float *want = malloc(bytes), *got = malloc(bytes);
    bool first = true;
    struct expert_plan plan;
    expert_plan_make(&plan, rig.model, EXPERTS_A_SLICE_EACH);
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa != KERN_N_ISAS; isa = kern_isa_next(isa)) {
        rig_start(&rig, &(struct rig_options){.max_rows = EXPERT_TOKENS,
                                              .isa = 1 + (int)isa,
                                              .parts = first ? NULL : plan.parts,
                                              .n_parts = plan.n});
        run(&rig, EXPERT_TOKENS, EXPERT_TOKENS, first ? want : got);
        CU_ASSERT(first || memcmp(got, want, bytes) == 0);
        first = false;
        rig_stop(&rig);
    }
    free(want);
    free(got);
    rig_close(&rig);
}

/* One frame a host and layer, and as many bytes as worker/expert_rows.h says. */
static void test_frames(void)
{
    struct rig rig;
    int32_t ids[EXPERT_TOKENS];
    static const char *const sets[] = {"ffe=1024", "used=2"};
    rig_open(&rig, rig_make_with("qwen3moe-k", "Q4_K", sets, 2));
    struct expert_plan plan;
    expert_plan_make(&plan, rig.model, EXPERTS_A_SLICE_EACH);
    float *logits = malloc(EXPERT_TOKENS * (size_t)rig.model->n_vocab * sizeof *logits);
    expert_ids(ids, EXPERT_TOKENS);
    rig_start(&rig, &(struct rig_options){.parts = plan.parts, .n_parts = plan.n});
    CU_ASSERT_EQUAL(rig_feed(&rig, 0, 0, ids, 40, 40, logits, &error), PROTO_OK);
    CU_ASSERT_EQUAL(rig.n_requests, 2 * 4);
    /* n_embd 256: a record of 256 + 32 + 4 bytes, up to 64; 2 experts in one group a row. */
    CU_ASSERT_EQUAL(rig.request_bytes, 2 * 4 * (16 + 40 * (320 + 3 * 8)));
    CU_ASSERT_EQUAL(rig.answer_bytes, 2 * 4 * 40 * 256 * 4);
    free(logits);
    rig_close(&rig);
}

/* Of experts 1, 2 and 6 of 8, the first two come together, and then the third; of 2, 4 and 5, the
 * last two. 2^24 + 1 is 2^24 in floats. */
static void test_order(void)
{
    const struct kern_table *table = kern_table_get(KERN_ISA_PORTABLE);
    _Alignas(64) float big[16] = {0x1p24f}, one[16] = {1.0f}, other[16] = {1.0f};
    struct worker__term terms[3] = {{1, big}, {2, one}, {6, other}};
    CU_ASSERT(worker__sum_terms(table, terms, 3, 0, 8, 1)[0] == 0x1p24f);
    big[0] = 0x1p24f;
    terms[0].number = 2;
    terms[1].number = 4;
    terms[2].number = 5;
    CU_ASSERT(worker__sum_terms(table, terms, 3, 0, 8, 1)[0] == 0x1p24f + 2.0f);
    CU_ASSERT_EQUAL(worker__segment_nodes(4, 0, 4), 1);
    CU_ASSERT_EQUAL(worker__segment_nodes(4, 1, 4), 2);
    CU_ASSERT_EQUAL(worker__segment_nodes(3, 0, 2), 2);
    CU_ASSERT_EQUAL(worker__segment_node(3, 1, 3), 3);
    struct shard_segments s = shard_expert_segments(2880);
    CU_ASSERT(s.n == 4 && s.at[1] == 704 && s.at[2] == 1440 && s.at[4] == 2880);
    s = shard_expert_segments(768);
    CU_ASSERT(s.n == 3 && s.at[1] == 256 && s.at[3] == 768);
    CU_ASSERT_EQUAL(shard_expert_segments(224).n, 1);
    CU_ASSERT_EQUAL(shard_expert_segments(300).n, 1);
}

/* A host takes no more memory for weights than its share, nor the stage more than the rest. */
static void test_memory(void)
{
    struct rig rig;
    rig_open(&rig, rig_make_with("llama4-k", "Q4_K", NULL, 0));
    struct expert_plan plan;
    expert_plan_make(&plan, rig.model, EXPERTS_TWO_HOSTS);
    uint64_t sum = 0, whole;
    rig_start(&rig, &(struct rig_options){.max_rows = 8});
    whole = shard_program_weight_bytes(rig.stages[0].program);
    rig_stop(&rig);
    rig_start(&rig, &(struct rig_options){.max_rows = 8, .parts = plan.parts, .n_parts = plan.n});
    sum = shard_program_weight_bytes(rig.stages[0].program);
    for (int w = 1; w <= 2; w++)
        sum += shard_program_weight_bytes(rig.hosts[w].program);
    CU_ASSERT_EQUAL(sum, whole);
    CU_ASSERT_EQUAL(shard_program_weight_bytes(rig.hosts[1].program),
                    shard_program_weight_bytes(rig.hosts[2].program));
    CU_ASSERT(worker_expert_host_bytes(rig.hosts[1].program, 8) > 0);
    rig_close(&rig);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("experts", NULL, NULL);
    CU_add_test(suite, "same bits wherever they are", test_models);
    CU_add_test(suite, "other forms of models", test_forms);
    CU_add_test(suite, "every instruction set", test_sets);
    CU_add_test(suite, "frames and bytes", test_frames);
    CU_add_test(suite, "order of additions", test_order);
    CU_add_test(suite, "memory", test_memory);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
