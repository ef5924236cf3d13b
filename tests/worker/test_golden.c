/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reference cases: a model made from a seed or kept in a file, token ids, and the logits of some
 * rows. The error of a row set is NMSE, sum (got - want)^2 / sum want^2; the limit is three times
 * that of a good engine of the same integer products, and a little. Models in files say their own.
 */
#include <CUnit/Basic.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/worker/exec_rig.h"

#define CASES_DIR  SOURCE_DIR "/tests/golden/cases"
#define MODELS_DIR SOURCE_DIR "/tests/golden/models"

static const char *const cases[] = {
    "deepseek2-tiny",       "gemma4-e-tiny",     "gemma4-tiny",       "glm4moe-tiny",
    "gpt-oss-tiny",         "llama-k-bf16",      "llama-k-f16",       "llama-k-iq1_m",
    "llama-k-iq1_s",        "llama-k-iq2_s",     "llama-k-iq2_xs",    "llama-k-iq2_xxs",
    "llama-k-iq3_s",        "llama-k-iq3_xxs",   "llama-k-iq4_nl",    "llama-k-iq4_xs",
    "llama-k-mxfp4",        "llama-k-q2_k",      "llama-k-q3_k",      "llama-k-q4_0",
    "llama-k-q4_1",         "llama-k-q4_k",      "llama-k-q5_0",      "llama-k-q5_1",
    "llama-k-q5_k",         "llama-k-q6_k",      "llama-k-q8_0",      "llama2-tiny",
    "llama3-tiny",          "llama4-k-iq2_xxs",  "llama4-k-q4_k",     "llama4-k-q8_0",
    "llama4-maverick-tiny", "llama4-scout-long", "llama4-scout-tiny", "mixtral-tiny",
    "qwen2-tiny",           "qwen3-tiny",        "qwen35moe-tiny",    "qwen3moe-k-mxfp4",
    "qwen3moe-k-q4_k",      "qwen3moe-tiny",
};

static int32_t *int_array(const json_t *array, uint32_t *n)
{
    *n = (uint32_t)json_array_size(array);
    int32_t *values = calloc(*n + 1, sizeof *values);
    for (uint32_t i = 0; values && i < *n; i++)
        values[i] = (int32_t)json_integer_value(json_array_get(array, i));
    return values;
}

static float *read_floats(const char *path, size_t n)
{
    float *values = calloc(n, sizeof *values);
    FILE *file = fopen(path, "rb");
    if (!file || !values || fread(values, sizeof *values, n, file) != n) {
        free(values);
        values = NULL;
    }
    if (file)
        fclose(file);
    return values;
}

static double nmse(const float *got, const float *want, const int32_t *rows, uint32_t n_rows,
                   size_t n_vocab)
{
    double error = 0, norm = 0;
    for (uint32_t r = 0; r < n_rows; r++) {
        const float *g = got + (size_t)rows[r] * n_vocab, *w = want + r * n_vocab;
        for (size_t i = 0; i < n_vocab; i++) {
            error += ((double)g[i] - (double)w[i]) * ((double)g[i] - (double)w[i]);
            norm += (double)w[i] * (double)w[i];
        }
    }
    return error / norm;
}

static double limit_of(const json_t *json)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    double reference = json_number_value(json_object_get(json, "reference_nmse"));
    const char *preset = json_string_value(json_object_get(json, "preset"));
    /* gemma4's activation is rounded to half, whatever the type of the weights. */
    bool rounded = strcmp(type, "F32") != 0 || strncmp(preset, "gemma4", 6) == 0;
    return 3 * reference + (rounded ? 1e-5 : 1e-6);
}

/* Logits of all tokens, in batches of 512 and two threads; NULL on failure. */
static float *compute(struct rig *rig, const int32_t *tokens, uint32_t n)
{
    struct proto_error error = {0};
    float *logits = calloc((size_t)n * rig->model->n_vocab, sizeof *logits);
    rig_start(rig, &(struct rig_options){.threads = 2});
    enum proto_status status =
        logits ? rig_feed(rig, 0, 0, tokens, n, 512, logits, &error) : PROTO_NOMEM;
    if (status != PROTO_OK)
        printf("%s\n", error.text);
    CU_ASSERT_EQUAL_FATAL(status, PROTO_OK);
    return logits;
}

/* Compares the logits of a case's rows with those in its folder. */
static void check_logits(struct rig *rig, const char *folder, const char *name, const json_t *json,
                         double limit)
{
    char path[512];
    uint32_t n_tokens, n_rows;
    int32_t *tokens = int_array(json_object_get(json, "tokens"), &n_tokens);
    int32_t *rows = int_array(json_object_get(json, "rows"), &n_rows);
    size_t n_vocab = (size_t)json_integer_value(json_object_get(json, "vocab"));
    CU_ASSERT_EQUAL_FATAL(n_vocab, rig->model->n_vocab);
    snprintf(path, sizeof path, "%s/%s/logits.f32", folder, name);
    float *want = read_floats(path, n_rows * n_vocab);
    CU_ASSERT_PTR_NOT_NULL_FATAL(want);
    float *got = compute(rig, tokens, n_tokens);
    double error = nmse(got, want, rows, n_rows, n_vocab);
    printf("\n    %-22s nmse %.2e, limit %.2e", name, error, limit);
    CU_ASSERT(error <= limit);
    free(got);
    free(want);
    free(tokens);
    free(rows);
}

static json_t *load_case(const char *folder, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s/case.json", folder, name);
    json_t *json = json_load_file(path, 0, NULL);
    CU_ASSERT_PTR_NOT_NULL_FATAL(json);
    return json;
}

static void check_case(const char *name)
{
    char digest[65];
    struct rig rig;
    json_t *json = load_case(CASES_DIR, name);
    rig_open(&rig,
             rig_make(json_string_value(json_object_get(json, "preset")),
                      json_string_value(json_object_get(json, "type")),
                      (uint64_t)json_integer_value(json_object_get(json, "seed")), false, digest));
    CU_ASSERT_STRING_EQUAL(digest, json_string_value(json_object_get(json, "tensors_sha256")));
    check_logits(&rig, CASES_DIR, name, json, limit_of(json));
    rig_close(&rig);
    json_decref(json);
}

static void test_cases(void)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_case(cases[i]);
}

/* Models in odd shapes and of what mkmodel does not make; tests/golden/make_models.py makes them.
 */
static void test_models(void)
{
    static const char *const models[] = {
        "deepseek2-v2", "deepseek2-v3",   "gemma3",   "gemma4-experts", "glm4moe",   "gpt-oss",
        "mistral3",     "llama-by-layer", "mistral4", "qwen35",         "qwen3next",
    };
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        char path[512];
        struct rig rig;
        json_t *json = load_case(MODELS_DIR, models[i]);
        snprintf(path, sizeof path, "%s/%s/model.gguf", MODELS_DIR, models[i]);
        rig_open(&rig, path);
        check_logits(&rig, MODELS_DIR, models[i], json,
                     json_number_value(json_object_get(json, "nmse_limit")));
        rig_close(&rig);
        json_decref(json);
    }
}

static int32_t best(const float *logits, uint32_t n)
{
    uint32_t at = 0;
    for (uint32_t i = 1; i < n; i++)
        at = logits[i] > logits[at] ? i : at;
    return (int32_t)at;
}

/* Greedy ids after a prompt, compared with those expected. */
static void check_greedy(struct rig *rig, const json_t *json)
{
    uint32_t n_prompt, n_ids, n_vocab = rig->model->n_vocab;
    int32_t *prompt = int_array(json_object_get(json, "prompt_ids"), &n_prompt);
    int32_t *ids = int_array(json_object_get(json, "ids"), &n_ids);
    float *logits = calloc((size_t)n_prompt * n_vocab, sizeof *logits);
    struct proto_error error;
    CU_ASSERT_EQUAL_FATAL(rig_feed(rig, 0, 0, prompt, n_prompt, 512, logits, &error), PROTO_OK);
    int32_t next = best(logits + (size_t)(n_prompt - 1) * n_vocab, n_vocab);
    uint32_t same = 0;
    for (; same < n_ids && next == ids[same]; same++) {
        enum proto_status status = rig_feed(rig, 0, n_prompt + same, &next, 1, 1, logits, &error);
        CU_ASSERT_EQUAL_FATAL(status, PROTO_OK);
        next = best(logits, n_vocab);
    }
    CU_ASSERT_EQUAL(same, n_ids);
    rig_drop(rig, 0);
    free(prompt);
    free(ids);
    free(logits);
}

static void test_stories(void)
{
    const char *shared = getenv("CARAVAN_SHARED");
    char model[512], greedy[512];
    struct rig rig;
    shared = shared ? shared : SOURCE_DIR "/../shared";
    snprintf(model, sizeof model, "%s/models/stories260K.gguf", shared);
    snprintf(greedy, sizeof greedy, "%s/models/stories260K.greedy.json", shared);
    if (access(model, R_OK) != 0) {
        printf("skipped: %s is missing\n", model);
        return;
    }
    json_t *json = json_load_file(greedy, 0, NULL);
    CU_ASSERT_PTR_NOT_NULL_FATAL(json);
    rig_open(&rig, model);
    rig_start(&rig, &(struct rig_options){.threads = 2});
    for (size_t i = 0; i < json_array_size(json); i++)
        check_greedy(&rig, json_array_get(json, i));
    rig_close(&rig);
    json_decref(json);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("golden", NULL, NULL);
    CU_add_test(suite, "reference logits", test_cases);
    CU_add_test(suite, "reference logits of models in files", test_models);
    CU_add_test(suite, "greedy ids of a trained model", test_stories);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
