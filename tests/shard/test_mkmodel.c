/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <dirent.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shard/gguf.h"
#include "shard/mkmodel.h"

static char folder[] = "/tmp/caravan-mkmodel-XXXXXX";
static char path[128]; /* of the model that a test writes */

/* The golden cases' digests of all tensors, seed 11. */
static const struct {
    const char *preset, *type, *digest;
} golden[] = {
    {"deepseek2-tiny", "F32", "746281f6c451dc95b801993c318e682251dcd9fa458da79b4101a16e277a845d"},
    {"gemma4-tiny", "F32", "589602e17208d78aff93fdd77ba0786e07ee8b502d13c8d735dd28d8c5dd5ce5"},
    {"glm4moe-tiny", "F32", "06631c72441495f1aea6a67dad9fac282eb44c9c3c48005aa7f97ce6eb702f3b"},
    {"gpt-oss-tiny", "F32", "ae2ea26883315c963191fe686747ae7962fa1c043f333e01d8709f4337b633ef"},
    {"llama-k", "BF16", "99f3a632303e9dc5b6a3028ccea041c15f5102d95911210002f61091bd4dfea0"},
    {"llama-k", "F16", "8db52ae8e58c32c6764843d2b74ed75d7148859c0ba0059bb40957249fe59ea7"},
    {"llama-k", "IQ1_M", "78b906b2e84c5aee8339d5fcf88947c538fb71689f6211ae870235cf11d3d066"},
    {"llama-k", "IQ1_S", "8c2f833be9f9bc1d928ee377e27b49f7f99416dc8b0014c4753faabdaa1402d3"},
    {"llama-k", "IQ2_S", "518aeb025c64795d72502b32dcebe3f6f8dfbb7e1b26bfd42464c9845df01616"},
    {"llama-k", "IQ2_XS", "91974c721e1b0e6c04796c208f9575d47a6b4afbd54c08b17e07040f90194cd4"},
    {"llama-k", "IQ2_XXS", "d8ca425aba830af4f76822571813147d2b7b077f22a5087a5631f7e1e8d79e8e"},
    {"llama-k", "IQ3_S", "2d3502b650577b0cdc26345d0537a704213561aeb03e540bee208ccb3421bbe2"},
    {"llama-k", "IQ3_XXS", "4ebb16c20a6eb63be23252b9193ef6c06e1b90d75f095c711abb4aedffd7bbf7"},
    {"llama-k", "IQ4_NL", "30b4e84f4eebbfe68ee69b52fefa9615115547c2e54d1f2376dc7b14976c10cf"},
    {"llama-k", "IQ4_XS", "829dddf8c6557a3be1678449bbb4a4b2c1bbd64dce7051ce618ef4c1de775133"},
    {"llama-k", "MXFP4", "c01473f0371f59d0e91868e6593696b6bc422a8dd009552470a212d327851ada"},
    {"llama-k", "Q2_K", "180171c9d7c1733a2535360f26a4ad981f5329b27ac2aff55b2c593f940e8cc1"},
    {"llama-k", "Q3_K", "c222a051592af0cb24dbc841a3d79d524016a0721ccff01b3527e40206490ef2"},
    {"llama-k", "Q4_0", "ba1047f3475d193626a1a734d7144e8adcca0d11e773e03338d4dc5125ca84ff"},
    {"llama-k", "Q4_1", "83efff21cf4a8c3d895a83dd1cae042fdfda052b08cf1eeefb0918b86e9c01ed"},
    {"llama-k", "Q4_K", "f9f3d6921c0d05cbae12b471b80844ce6c3cd2b3cab44796f55aa35ea694b47a"},
    {"llama-k", "Q5_0", "6a0f3a7895efc7eb7da4f6e59fce9842b767694bec82416ab057f9289f867001"},
    {"llama-k", "Q5_1", "bc1b7bd8aaed67fdf168aef40474a934ff1907bcb5abed2180dbff8328ea24e1"},
    {"llama-k", "Q5_K", "d92020dbc23ccd50616e08d57d449319ac4f2e8e83c0da35ae41aab12ec89453"},
    {"llama-k", "Q6_K", "ed8cbdcb6f40073eff0c6fb90724c10ecb9199791381e8be38108264115a3e65"},
    {"llama-k", "Q8_0", "b492c5288f1ea6a413040e6fc157bae2abcee40b107d2e3e91fcf492f43740d8"},
    {"llama2-tiny", "F32", "0c44b408804d9f25209a95a070d613c2a5aeb1c7cc626165ecbb4b4bbf55f3de"},
    {"llama3-tiny", "F32", "5b92f87a02686d0e049ed0f4046be8dc35f7515d739c1793108073caf28df3c2"},
    {"llama4-k", "IQ2_XXS", "ef117adae879e52d23a4045a4597c8615b640aeaba0b1cab46b230e918be2489"},
    {"llama4-k", "Q4_K", "8056edbd611d357df4feb146196fdba55aaaebf8c11b7b2b6ba757d6aa10c54f"},
    {"llama4-k", "Q8_0", "89371b7d84410bd86317637e920ca6f84267b54e2057b3b5b39005bd0e4c9198"},
    {"llama4-maverick-tiny", "F32",
     "c1124fb6d090e6fe3f420b6209aa0f2a30396291d77c8e70d584065fb74f3a9d"},
    {"llama4-scout-tiny", "F32",
     "c78cdae313a64d9eb2921244b9ff5448d8c88eea9f26c69af9357403f3f0bb52"},
    {"mixtral-tiny", "F32", "782c4bef6ae3892ffa5b25ed1b2d293aa08fafc05e445b20ffdeb06718fa708d"},
    {"qwen2-tiny", "F32", "d7e06d7f3c7954328e7ec3ed50dd1380804fe541016027bf4def6f7c32bbf908"},
    {"qwen3-tiny", "F32", "a50e469ba9d5e2960470e3e2571f6400f3f78a47fc81aafca815328a5e6c8815"},
    {"qwen35moe-tiny", "F32", "40e62ace989109cb0468420978000e3f61cadb00c6da7caaeaa91b3a3e851951"},
    {"qwen3moe-k", "MXFP4", "047989a2e29d4326db429e92d6414e5ac0d9493e6ab3894aef16ae08a7eadbd9"},
    {"qwen3moe-k", "Q3_K", "78aea0fa5c2be3b4eb54214dc82b41d66683531cb61eaaa65d3330bbe51ec9d9"},
    {"qwen3moe-k", "Q4_K", "24349e13a70e5b99b2af04a6fd1c138dde720232fe03485a04c26b4ec5d08323"},
    {"qwen3moe-tiny", "F32", "338da378ce0da563590e932868e3e14553b82561d1245cd14be61925635a4141"},
};

static enum proto_status make(const struct shard_mkmodel_options *options, char digest[65],
                              struct proto_error *error)
{
    error->text[0] = '\0';
    enum proto_status status = shard_mkmodel(options, path, digest, error);
    if (status == PROTO_OK || !error->text[0])
        return status;
    CU_ASSERT_PTR_NULL(strchr(error->text, '\n'));
    return status;
}

/* Files in the folder: a failed run must leave none. */
static int count_files(void)
{
    int n = 0;
    DIR *dir = opendir(folder);
    CU_ASSERT_PTR_NOT_NULL_FATAL(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void test_golden_digests(void)
{
    for (size_t i = 0; i < sizeof golden / sizeof golden[0]; i++) {
        char digest[65];
        struct proto_error error;
        struct shard_mkmodel_options options = {
            .preset = golden[i].preset, .type = golden[i].type, .seed = 11};
        CU_ASSERT_EQUAL(make(&options, digest, &error), PROTO_OK);
        CU_ASSERT_STRING_EQUAL(digest, golden[i].digest);
        if (strcmp(digest, golden[i].digest))
            fprintf(stderr, "%s %s: %s\n", golden[i].preset, golden[i].type, digest);
        struct shard_gguf *gguf;
        CU_ASSERT_EQUAL(shard_gguf_open(&gguf, path, &error), PROTO_OK);
        shard_gguf_close(gguf);
        CU_ASSERT_EQUAL(count_files(), 1);
        unlink(path);
    }
}

static void hash_file(char hex[65])
{
    static unsigned char buffer[1 << 16];
    unsigned char hash[crypto_hash_sha256_BYTES];
    crypto_hash_sha256_state state;
    FILE *file = fopen(path, "rb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    crypto_hash_sha256_init(&state);
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, file)) > 0;)
        crypto_hash_sha256_update(&state, buffer, n);
    fclose(file);
    crypto_hash_sha256_final(&state, hash);
    sodium_bin2hex(hex, 65, hash, sizeof hash);
}

/* Whole files: metadata, its order, padding. */
static void test_whole_files(void)
{
    static const struct {
        const char *preset, *type;
        uint64_t seed;
        const char *sha256;
    } files[] = {
        {"llama2-tiny", "F16", 1,
         "d114832768332146ac415454bd57de46f12078fd335e44625dc5960404bc128f"},
        {"gemma4-tiny", "BF16", 7,
         "b0ff540e7efcee1b76cda6c2ab0bf6060474d5c7e6b4aad3ff89a5712657ee48"},
        {"deepseek2-tiny", "Q8_0", 2,
         "150a8aabbf404b50cbbac431475d745bfaa3c6995c2c853992dbe9502de26a35"},
        {"qwen35moe-tiny", "F32", 3,
         "ce6b32391666dd2e684dda325e5f5de5bf314fe498251569eb7011b81e530a99"},
        {"llama4-k", "Q4_K", 4, "b5886e63ff6bc7d20d0c04ca72565439df647afbd89db748976ac06f28ecf6f3"},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char digest[65], hex[65];
        struct proto_error error;
        struct shard_mkmodel_options options = {
            .preset = files[i].preset, .type = files[i].type, .seed = files[i].seed};
        CU_ASSERT_EQUAL_FATAL(make(&options, digest, &error), PROTO_OK);
        hash_file(hex);
        CU_ASSERT_STRING_EQUAL(hex, files[i].sha256);
        unlink(path);
    }
}

static uint32_t read_u32(const char *key)
{
    struct shard_gguf *gguf;
    uint32_t value = 0;
    CU_ASSERT_EQUAL_FATAL(shard_gguf_open(&gguf, path, NULL), PROTO_OK);
    CU_ASSERT_EQUAL(shard_gguf_u32(gguf, key, &value, NULL), PROTO_OK);
    shard_gguf_close(gguf);
    return value;
}

static void test_sets_change_dimensions(void)
{
    char digest[65];
    struct proto_error error;
    struct shard_mkmodel_options options = {.preset = "llama2-tiny",
                                            .type = "q8_0",
                                            .seed = 1,
                                            .sets = (const char *[]){"layers=2", "theta=1e6"},
                                            .n_sets = 2};
    CU_ASSERT_EQUAL_FATAL(make(&options, digest, &error), PROTO_OK);
    CU_ASSERT_EQUAL(read_u32("llama.block_count"), 2);
    struct shard_gguf *gguf;
    float theta = 0;
    CU_ASSERT_EQUAL_FATAL(shard_gguf_open(&gguf, path, NULL), PROTO_OK);
    CU_ASSERT(!shard_gguf_f32(gguf, "llama.rope.freq_base", &theta, NULL) && theta == 1e6f);
    CU_ASSERT(shard_gguf_find_tensor(gguf, "blk.1.attn_q.weight") >= 0);
    CU_ASSERT_EQUAL(shard_gguf_find_tensor(gguf, "blk.2.attn_q.weight"), -1);
    shard_gguf_close(gguf);
    unlink(path);
}

/* 225 GB of holes: offsets beyond 32 bits, tensors of 5 G elements. */
static void test_sparse_model_of_full_size(void)
{
    char digest[65];
    struct proto_error error;
    struct stat info;
    struct shard_gguf *gguf;
    struct shard_mkmodel_options options = {
        .preset = "maverick", .type = "Q4_K", .seed = 1, .sparse = true};
    enum proto_status status = make(&options, digest, &error);
    if (status == PROTO_IO || status == PROTO_NOSPACE) {
        printf("skipped: this file system holds no sparse file of 225 GB\n");
        return;
    }
    CU_ASSERT_EQUAL_FATAL(status, PROTO_OK);
    CU_ASSERT_STRING_EQUAL(digest, "");
    CU_ASSERT_EQUAL(stat(path, &info), 0);
    CU_ASSERT_EQUAL(info.st_size, 225462167712);
    CU_ASSERT_EQUAL_FATAL(shard_gguf_open(&gguf, path, &error), PROTO_OK);
    long i = shard_gguf_find_tensor(gguf, "blk.47.ffn_down_exps.weight");
    CU_ASSERT_FATAL(i >= 0);
    const struct shard_tensor *tensor = shard_gguf_tensor(gguf, (size_t)i);
    CU_ASSERT_EQUAL(tensor->bytes, (uint64_t)8192 * 5120 * 128 / 256 * 144);
    CU_ASSERT(tensor->offset > (uint64_t)200 << 30);
    CU_ASSERT_EQUAL(tensor->data[tensor->bytes - 1], 0);
    shard_gguf_close(gguf);
    unlink(path);
}

static void test_bad_options(void)
{
    static const struct {
        const char *preset, *type, *set, *text;
    } bad[] = {
        {"llama9", "F16", NULL, "no preset is named \"llama9\", expected one of: llama2-tiny"},
        {"llama2-tiny", "Q9", NULL, "no quantisation is named \"Q9\", expected one of: IQ1_S"},
        {"llama2-tiny", "Q4_K", NULL,
         "tensor \"token_embd.weight\" has rows of 64 values, expected a multiple of 256, the "
         "block "
         "of Q4_K"},
        {"llama2-tiny", "F16", "foo=1", "no key \"foo\", expected one of: layers embd heads"},
        {"llama2-tiny", "F16", "layers", "has no \"=\""},
        {"llama2-tiny", "F16", "layers=", "expected an integer from 1 to 512"},
        {"llama2-tiny", "F16", "layers=0", "expected an integer from 1 to 512"},
        {"llama2-tiny", "F16", "layers=513", "expected an integer from 1 to 512"},
        {"llama2-tiny", "F16", "layers=2x", "expected an integer"},
        {"llama2-tiny", "F16", "eps=nan", "expected a number above 0"},
        {"llama2-tiny", "F16", "eps=1e-300", "expected a number above 0"},
        {"llama2-tiny", "F16", "experts=4", "uses 0 of them"},
        {"llama4-k", "F16", "step=0", "every 0-th layer"},
        {"gemma4-tiny", "F32", "every=0", "every 0-th layer"},
        {"qwen35moe-tiny", "F32", "every=0", "every 0-th layer"},
        {"llama4-k", "F16", "ffe=0", "\"blk.1.ffn_gate_exps.weight\" would have a dimension of 0"},
        {"llama3-tiny", "F16", "hd=1", "\"rope_freqs.weight\" would have a dimension of 0"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char digest[65];
        struct proto_error error;
        struct shard_mkmodel_options options = {.preset = bad[i].preset,
                                                .type = bad[i].type,
                                                .sets = &bad[i].set,
                                                .n_sets = bad[i].set != NULL};
        CU_ASSERT_EQUAL(make(&options, digest, &error), PROTO_INVALID);
        CU_ASSERT_PTR_NOT_NULL(strstr(error.text, bad[i].text));
        if (!strstr(error.text, bad[i].text))
            fprintf(stderr, "expected \"%s\" in: %s\n", bad[i].text, error.text);
    }
    CU_ASSERT_EQUAL(count_files(), 0);
}

static void test_bad_targets(void)
{
    char digest[65];
    struct proto_error error;
    struct shard_mkmodel_options options = {.preset = "llama2-tiny", .type = "F16"};
    CU_ASSERT_EQUAL(shard_mkmodel(&options, folder, digest, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(shard_mkmodel(&options, "/dev/null", digest, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "/dev/null: is not a regular file"));
    CU_ASSERT_EQUAL(shard_mkmodel(&options, "/nowhere/m.gguf", digest, &error), PROTO_NOTFOUND);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "cannot create /nowhere/m.gguf"));
}

/* A limit on the size of files stands in for a full disk. */
static void test_no_room_leaves_no_file(void)
{
    struct rlimit old, small;
    char digest[65];
    struct proto_error error;
    CU_ASSERT_EQUAL_FATAL(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 100000;
    signal(SIGXFSZ, SIG_IGN);
    CU_ASSERT_EQUAL_FATAL(setrlimit(RLIMIT_FSIZE, &small), 0);
    struct shard_mkmodel_options options = {.preset = "llama2-tiny", .type = "F16"};
    enum proto_status status = make(&options, digest, &error);
    setrlimit(RLIMIT_FSIZE, &old);
    CU_ASSERT(status == PROTO_IO || status == PROTO_NOSPACE);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "cannot write "));
    CU_ASSERT_EQUAL(count_files(), 0);
}

struct seen {
    uint64_t calls, done, total;
};

static void note(void *arg, uint64_t done, uint64_t total)
{
    struct seen *seen = arg;
    CU_ASSERT(done > seen->done && done <= total);
    *seen = (struct seen){.calls = seen->calls + 1, .done = done, .total = total};
}

static void test_progress(void)
{
    char digest[65];
    struct proto_error error;
    struct seen seen = {0};
    struct shard_mkmodel_options options = {
        .preset = "llama2-tiny", .type = "F32", .progress = note, .progress_arg = &seen};
    CU_ASSERT_EQUAL(make(&options, digest, &error), PROTO_OK);
    CU_ASSERT(seen.calls > 0 && seen.total - seen.done < 32 * 64);
    unlink(path);
}

/* Large enough for several threads: their work must not depend on who did it. */
static void test_threads(void)
{
    char digest[65];
    struct proto_error error;
    struct shard_mkmodel_options options = {.preset = "llama-k",
                                            .type = "Q8_0",
                                            .seed = 5,
                                            .sets = (const char *[]){"ff=32768"},
                                            .n_sets = 1};
    CU_ASSERT_EQUAL(make(&options, digest, &error), PROTO_OK);
    CU_ASSERT_STRING_EQUAL(digest,
                           "8a9c94c178762d85b9303008fe2adf3d7d052be2d77d7b67f5a94a1a8f9c6c7a");
    unlink(path);
}

static void test_list(void)
{
    char *text;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    CU_ASSERT_PTR_NOT_NULL_FATAL(out);
    shard_mkmodel_list(out);
    fclose(out);
    CU_ASSERT_EQUAL(strncmp(text, "llama2-tiny\nllama3-tiny\n", 24), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "\nmaverick\nscout\n"));
    free(text);
}

static int make_folder(void)
{
    if (!mkdtemp(folder) || sodium_init() < 0)
        return -1;
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    return 0;
}

static int remove_folder(void)
{
    return rmdir(folder);
}

int main(void)
{
    if (CU_initialize_registry())
        return 1;
    CU_pSuite suite = CU_add_suite("mkmodel", make_folder, remove_folder);
    CU_add_test(suite, "golden digests", test_golden_digests);
    CU_add_test(suite, "whole files", test_whole_files);
    CU_add_test(suite, "sets change dimensions", test_sets_change_dimensions);
    CU_add_test(suite, "sparse model of full size", test_sparse_model_of_full_size);
    CU_add_test(suite, "bad options", test_bad_options);
    CU_add_test(suite, "bad targets", test_bad_targets);
    CU_add_test(suite, "no room leaves no file", test_no_room_leaves_no_file);
    CU_add_test(suite, "progress", test_progress);
    CU_add_test(suite, "threads", test_threads);
    CU_add_test(suite, "list", test_list);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures ? 1 : 0;
}
