/* SPDX-License-Identifier: Apache-2.0 */
/* Models without files: their sizes against those of published files, and their configurations. */
#include <CUnit/Basic.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "coordinator/files.h"
#include "coordinator/plan/config.h"
#include "coordinator/plan/source.h"
#include "shard/mkmodel.h"

static struct proto_error error;

static struct coord_source open_good(const char *text)
{
    struct coord_source source;
    enum proto_status status = coord_source_open(&source, text, &error);
    if (status)
        fprintf(stderr, "%s\n", error.text);
    CU_ASSERT_FATAL(status == PROTO_OK);
    return source;
}

static uint64_t expert_bytes(const struct shard_model *model)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < shard_gguf_n_tensors(model->gguf); i++) {
        const struct shard_tensor *tensor = shard_gguf_tensor(model->gguf, i);
        if (strstr(tensor->name, "_exps.weight"))
            sum += tensor->bytes;
    }
    return sum;
}

static void check_near(const char *what, double found, double expected, double tolerance)
{
    bool near = fabs(found / expected - 1) <= tolerance;
    CU_ASSERT(near);
    if (!near)
        fprintf(stderr, "%s: %g, expected %g\n", what, found, expected);
}

/* A file of 242.8 GB, of which 234 GB are routed experts; 9.96 GB are read a token. */
static void test_maverick(void)
{
    struct coord_source s = open_good("maverick:Q4_K_M");
    check_near("file", (double)s.file_bytes, 242.8e9, 0.0005);
    check_near("experts", (double)expert_bytes(s.model), 234e9, 0.0005);
    check_near("token", (double)shard_model_bytes_per_token(s.model), 9.96e9, 0.001);
    check_near("parameters", (double)shard_model_parameters(s.model), 400.7e9, 0.0005);
    CU_ASSERT_STRING_EQUAL(s.name, "maverick Q4_K_M");
    CU_ASSERT_PTR_NULL(s.note);
    CU_ASSERT_EQUAL(s.model->n_experts, 128);
    coord_source_close(&s);
}

/* Sizes of published files, in GB: mixtures made by the common rules are within 1%, that of gpt-oss
 * was made by its owners, with other types beside the experts. */
static const struct {
    const char *text;
    double gigabytes, tolerance;
} published[] = {
    {"llama-405b:Q4_K_M", 243.1, 0.01},  {"llama-405b:Q8_0", 431.2, 0.01},
    {"deepseek-v3:Q4_K_M", 404.5, 0.01}, {"qwen3-235b:Q4_K_M", 142.2, 0.01},
    {"qwen3-235b:Q8_0", 249.9, 0.01},    {"mixtral-8x22b:Q4_K_M", 85.6, 0.01},
    {"scout:Q4_K_M", 65.4, 0.01},        {"gpt-oss-120b:MXFP4", 63.4, 0.02},
};

static void test_published(void)
{
    for (size_t i = 0; i < sizeof published / sizeof published[0]; i++) {
        struct coord_source s = open_good(published[i].text);
        check_near(published[i].text, (double)s.file_bytes, published[i].gigabytes * 1e9,
                   published[i].tolerance);
        coord_source_close(&s);
    }
}

/* Every known model in every mixture is a model that the reader of files takes. */
static void test_all_known(void)
{
    size_t n, n_mixtures;
    const struct shard_dims *known = shard_dims_known(&n);
    const struct shard_mixture *mixtures = shard_mixture_all(&n_mixtures);
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < n_mixtures; k++) {
            struct coord_source s;
            enum proto_status status = coord_source_make(&s, &known[i], &mixtures[k], &error);
            CU_ASSERT_EQUAL(status, PROTO_OK);
            if (status)
                fprintf(stderr, "%s %s: %s\n", known[i].preset, mixtures[k].name, error.text);
            CU_ASSERT_PTR_EQUAL(s.note, status ? NULL : known[i].note);
            coord_source_close(&s);
        }
    }
}

/* A model's header in another quantisation is that of a file of it. */
static void test_other_type(void)
{
    static const char *const names[] = {"maverick",     "mixtral-8x22b", "deepseek-v3",
                                        "qwen3.5-397b", "gpt-oss-120b",  "gemma-4-26b"};
    static const char *const types[] = {"Q4_K_M", "IQ2_XXS", "MXFP4", "Q2_K"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char text[64];
        snprintf(text, sizeof text, "%s:Q8_0", names[i]);
        struct coord_source q8 = open_good(text);
        for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
            struct coord_source as;
            snprintf(text, sizeof text, "%s:%s", names[i], types[t]);
            struct coord_source made = open_good(text);
            CU_ASSERT_EQUAL(coord_source_as(&as, &q8, shard_mixture_find(types[t]), &error),
                            PROTO_OK);
            CU_ASSERT_EQUAL(as.file_bytes, made.file_bytes);
            if (as.file_bytes != made.file_bytes)
                fprintf(stderr, "%s: %llu\n", text, (unsigned long long)as.file_bytes);
            coord_source_close(&as);
            coord_source_close(&made);
        }
        coord_source_close(&q8);
    }
}

/* A preset has the bytes of the file that mkmodel writes. */
static void test_file(void)
{
    char path[] = "/tmp/caravan-source-XXXXXX", digest[65];
    close(mkstemp(path));
    struct shard_mkmodel_options options = {
        .preset = "llama4-5b", .type = "Q4_K_M", .seed = 1, .sparse = true};
    CU_ASSERT_EQUAL(shard_mkmodel(&options, path, digest, &error), PROTO_OK);
    struct coord_source file = open_good(path), made = open_good("llama4-5b:Q4_K_M");
    CU_ASSERT_EQUAL(file.file_bytes, made.file_bytes);
    CU_ASSERT_EQUAL(shard_model_bytes_per_token(file.model),
                    shard_model_bytes_per_token(made.model));
    CU_ASSERT_STRING_EQUAL(file.name, strrchr(path, '/') + 1);
    coord_source_close(&file);
    coord_source_close(&made);
    unlink(path);
}

/* Forms of a family that no preset has: a query that is not compressed, a head that is the
 * embedding, dense layers before delta-nets. */
static void test_other_dims(void)
{
    static const struct {
        const char *preset, *set, *tensor;
        bool there;
    } cases[] = {
        {"deepseek2-tiny", "qlora=0", "blk.0.attn_q.weight", true},
        {"llama3-tiny", "tied=1", "output.weight", false},
        {"qwen35moe-tiny", "dense=2", "blk.1.ffn_gate.weight", true},
    };
    struct shard_mixture f32 = shard_mixture_uniform(kern_type_by_name("F32"));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct shard_dims dims;
        struct coord_source s;
        CU_ASSERT_EQUAL(shard_dims_read(&dims, cases[i].preset, &cases[i].set, 1, &error),
                        PROTO_OK);
        enum proto_status status = coord_source_make(&s, &dims, &f32, &error);
        CU_ASSERT_EQUAL_FATAL(status, PROTO_OK);
        CU_ASSERT_EQUAL(shard_gguf_find_tensor(s.gguf, cases[i].tensor) >= 0, cases[i].there);
        coord_source_close(&s);
    }
}

static void check_refused(const char *text, const char *words)
{
    struct coord_source s;
    CU_ASSERT_NOT_EQUAL(coord_source_open(&s, text, &error), PROTO_OK);
    CU_ASSERT_PTR_NULL(s.model);
    bool right = strstr(error.text, words) && !strchr(error.text, '\n');
    CU_ASSERT(right);
    if (!right)
        fprintf(stderr, "expected \"%s\", found \"%s\"\n", words, error.text);
}

static void test_bad_names(void)
{
    check_refused("nowhere.gguf", "no file and no known model");
    check_refused("maverick", "maverick:Q4_K_M");
    check_refused("maverick:Q9", "no quantisation is named \"Q9\"");
    check_refused("maveric:Q4_K_M", "no preset is named \"maveric\"");
    check_refused("llama3-tiny:Q4_K", "rows of 64 values");
    check_refused("/etc/passwd", "GGUF");
    check_refused("/etc/passwd:Q4_K", "expected JSON");
    check_refused(":Q4_K", "no preset");
    check_refused("maverick:", "no quantisation");
}

static void check_config(const char *text, const char *words)
{
    struct shard_dims dims;
    CU_ASSERT_NOT_EQUAL(coord_config_parse(&dims, text, strlen(text), "c.json", &error), PROTO_OK);
    bool right = strstr(error.text, words) && !strncmp(error.text, "c.json:", 7);
    CU_ASSERT(right);
    if (!right)
        fprintf(stderr, "expected \"%s\", found \"%s\"\n", words, error.text);
}

#define SIZES                                                                                      \
    "\"num_hidden_layers\": 2, \"hidden_size\": 256, \"num_attention_heads\": 4, "                 \
    "\"vocab_size\": 100, \"max_position_embeddings\": 512"

static void test_bad_configs(void)
{
    check_config("{", "c.json:1:");
    check_config("[]", "no model_type");
    check_config("{\"model_type\": 5}", "no model_type");
    check_config("{\"model_type\": \"mamba\"}", "model_type is mamba, expected one of: llama");
    check_config("{\"model_type\": \"llama\"}", "no num_hidden_layers");
    check_config("{\"model_type\": \"llama\", \"num_hidden_layers\": 0}", "from 1 to 512");
    check_config("{\"model_type\": \"llama\", \"num_hidden_layers\": \"2\"}", "whole number");
    check_config("{\"model_type\": \"llama\", \"num_hidden_layers\": 1e3}", "whole number");
    check_config("{\"model_type\": \"llama\", " SIZES ", \"rope_theta\": -1}", "above 0");
    check_config("{\"model_type\": \"llama\", " SIZES "}", "no intermediate_size");
    check_config("{\"model_type\": \"qwen3_moe\", " SIZES ", \"intermediate_size\": 512, "
                 "\"moe_intermediate_size\": 64, \"num_experts\": 4, \"num_experts_per_tok\": 5}",
                 "5 of 4 experts");
    check_config("{\"model_type\": \"kimi_linear\", " SIZES "}", "no num_experts");
}

static void test_good_config(void)
{
    static const char text[] = "{\"model_type\": \"llama\", " SIZES
                               ", \"intermediate_size\": 512, \"tie_word_embeddings\": true}";
    struct shard_dims dims;
    struct coord_source s;
    CU_ASSERT_EQUAL(coord_config_parse(&dims, text, strlen(text), "c.json", &error), PROTO_OK);
    CU_ASSERT_EQUAL(coord_source_make(&s, &dims, shard_mixture_find("Q4_K_M"), &error), PROTO_OK);
    CU_ASSERT_FATAL(s.model != NULL);
    CU_ASSERT_EQUAL(s.model->output, s.model->token_embd);
    CU_ASSERT_EQUAL(s.model->n_vocab, 100);
    CU_ASSERT_EQUAL(s.model->layers[0].n_head_kv, 4);
    coord_source_close(&s);
}

/* A known model, and what its configuration's file is called. */
static const struct {
    const char *name, *file;
} configs[] = {
    {"maverick", "meta-llama--Llama-4-Maverick-17B-128E-Instruct"},
    {"scout", "meta-llama--Llama-4-Scout-17B-16E-Instruct"},
    {"llama-405b", "meta-llama--Meta-Llama-3.1-405B"},
    {"mixtral-8x22b", "mistralai--Mixtral-8x22B-v0.1"},
    {"deepseek-v3", "deepseek-ai--DeepSeek-V3"},
    {"deepseek-v3.2", "deepseek-ai--DeepSeek-V3.2"},
    {"deepseek-v4-flash", "deepseek-ai--DeepSeek-V4-Flash"},
    {"deepseek-v4-pro", "deepseek-ai--DeepSeek-V4-Pro"},
    {"qwen3-235b", "Qwen--Qwen3-235B-A22B"},
    {"qwen3.5-397b", "Qwen--Qwen3.5-397B-A17B"},
    {"gpt-oss-120b", "openai--gpt-oss-120b"},
    {"kimi-k2.5", "moonshotai--Kimi-K2.5"},
    {"kimi-k3", "moonshotai--Kimi-K3"},
    {"glm-5.2", "zai-org--GLM-5.2"},
    {"minimax-m3", "MiniMaxAI--MiniMax-M3"},
    {"gemma-4-26b", "google--gemma-4-26B-A4B"},
};

#define N_CONFIGS (sizeof configs / sizeof configs[0])

static const struct shard_dims *find_known(const char *name)
{
    size_t n;
    const struct shard_dims *known = shard_dims_known(&n);
    for (size_t i = 0; i < n; i++)
        if (!strcmp(known[i].preset, name))
            return &known[i];
    return NULL;
}

static void print_dims(const struct shard_dims *d)
{
    const uint32_t *numbers = &d->layers;
    fprintf(stderr, "%s %s theta %g eps %g:", d->preset, d->arch, d->theta, d->eps);
    for (; numbers < &d->ctx; numbers++)
        fprintf(stderr, " %u", *numbers);
    fprintf(stderr, " |");
    for (numbers = &d->experts; numbers <= &d->tied; numbers++)
        fprintf(stderr, " %u", *numbers);
    fprintf(stderr, "\n");
}

static bool same_dims(const struct shard_dims *a, const struct shard_dims *b)
{
    return !strcmp(a->arch, b->arch) && fabs(a->theta / b->theta - 1) < 1e-9 &&
           fabs(a->eps / b->eps - 1) < 1e-9 &&
           !memcmp(&a->layers, &b->layers,
                   offsetof(struct shard_dims, theta) - offsetof(struct shard_dims, layers)) &&
           !memcmp(&a->experts, &b->experts,
                   offsetof(struct shard_dims, tied) + sizeof a->tied -
                       offsetof(struct shard_dims, experts)) &&
           !a->note == !b->note;
}

static void check_known(const char *folder, size_t i)
{
    char path[512], *bytes;
    size_t len;
    struct shard_dims dims;
    const struct shard_dims *known = find_known(configs[i].name);
    snprintf(path, sizeof path, "%s/configs/%s_config.json", folder, configs[i].file);
    CU_ASSERT_PTR_NOT_NULL_FATAL(known);
    CU_ASSERT_EQUAL_FATAL(coord_read_file(path, &bytes, &len, &error), PROTO_OK);
    enum proto_status status = coord_config_parse(&dims, bytes, len, path, &error);
    CU_ASSERT_EQUAL(status, PROTO_OK);
    bool same = !status && same_dims(known, &dims);
    CU_ASSERT(same);
    if (status)
        fprintf(stderr, "%s\n", error.text);
    else if (!same)
        print_dims(known), print_dims(&dims);
    free(bytes);
}

static const char *shared_folder(void)
{
    const char *folder = getenv("CARAVAN_SHARED");
    return folder ? folder : SOURCE_DIR "/../shared";
}

/* The rows of known models against their configurations, where those are at hand. */
static void test_known_configs(void)
{
    DIR *dir = opendir(shared_folder());
    if (!dir) {
        printf("skipped: %s is missing ", shared_folder());
        return;
    }
    closedir(dir);
    size_t n;
    shard_dims_known(&n);
    CU_ASSERT_EQUAL(n, N_CONFIGS);
    for (size_t i = 0; i < N_CONFIGS; i++)
        check_known(shared_folder(), i);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("source", NULL, NULL);
    CU_add_test(suite, "maverick", test_maverick);
    CU_add_test(suite, "published files", test_published);
    CU_add_test(suite, "all known models in all mixtures", test_all_known);
    CU_add_test(suite, "other types", test_other_type);
    CU_add_test(suite, "as mkmodel writes it", test_file);
    CU_add_test(suite, "other dimensions", test_other_dims);
    CU_add_test(suite, "bad names", test_bad_names);
    CU_add_test(suite, "bad configurations", test_bad_configs);
    CU_add_test(suite, "good configuration", test_good_config);
    CU_add_test(suite, "known models and their configurations", test_known_configs);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
