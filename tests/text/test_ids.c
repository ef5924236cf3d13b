/* SPDX-License-Identifier: Apache-2.0 */
/* Real vocabularies: every list of reference ids, and the way back. Skipped where the shared folder
 * is missing. */
#include <CUnit/Basic.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/stream.h"
#include "coordinator/text/internal.h"

static char folder[512];

static struct text_vocab *open_vocab(const char *name)
{
    char path[600];
    struct shard_gguf *gguf = NULL;
    struct text_vocab *vocab = NULL;
    struct proto_error error = {0};
    snprintf(path, sizeof path, "%s/%s.gguf", folder, name);
    if (shard_gguf_open(&gguf, path, &error) != PROTO_OK ||
        text_vocab_create(&vocab, gguf, &error) != PROTO_OK)
        fprintf(stderr, "%s\n", error.text);
    shard_gguf_close(gguf);
    return vocab;
}

static bool whole_characters(const char *text, size_t len)
{
    for (size_t at = 0; at < len;) {
        int n = text__utf8(text + at, len - at);
        if (n <= 0)
            return false;
        at += (size_t)n;
    }
    return true;
}

/* Token by token: never a part of a character, and all of the text in the end. */
static void check_stream(const struct text_vocab *vocab, const int32_t *ids, size_t n,
                         const char *want, size_t want_len)
{
    struct text_stream *stream = NULL;
    CU_ASSERT_EQUAL_FATAL(text_stream_create(&stream, vocab, NULL, 0, true, NULL), PROTO_OK);
    size_t at = 0;
    bool good = true;
    for (size_t i = 0; i <= n && good; i++) {
        const char *text;
        size_t len;
        bool stopped;
        enum proto_status status =
            i < n ? text_stream_push(stream, ids[i], &text, &len, &stopped, NULL)
                  : text_stream_finish(stream, &text, &len, NULL);
        good = status == PROTO_OK && whole_characters(text, len) && at + len <= want_len &&
               memcmp(want + at, text, len) == 0;
        at += len;
    }
    CU_ASSERT_TRUE(good && at == want_len);
    text_stream_destroy(stream);
}

static void check_case(const struct text_vocab *vocab, const json_t *item)
{
    const json_t *text = json_object_get(item, "text"), *want = json_object_get(item, "ids");
    const char *bytes = json_string_value(text);
    size_t len = json_string_length(text), n = 0;
    int32_t *ids = NULL;
    CU_ASSERT_EQUAL_FATAL(text_encode(vocab, bytes, len, false, &ids, &n, NULL), PROTO_OK);
    bool equal = n == json_array_size(want);
    for (size_t i = 0; i < n && equal; i++)
        equal = ids[i] == json_integer_value(json_array_get(want, i));
    CU_ASSERT_TRUE(equal);
    if (!equal)
        fprintf(stderr, "ids differ: \"%s\"\n", bytes);
    char *back = NULL;
    size_t back_len;
    CU_ASSERT_EQUAL_FATAL(text_decode(vocab, ids, n, false, &back, &back_len, NULL), PROTO_OK);
    CU_ASSERT(back_len == len && memcmp(back, bytes, len) == 0);
    free(back);
    check_stream(vocab, ids, n, bytes, len);
    free(ids);
}

static void check_list(const char *name)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s.json", folder, name);
    json_t *list = json_load_file(path, JSON_ALLOW_NUL, NULL);
    struct text_vocab *vocab = open_vocab(name);
    CU_ASSERT_PTR_NOT_NULL_FATAL(list);
    CU_ASSERT_PTR_NOT_NULL_FATAL(vocab);
    CU_ASSERT(json_array_size(list) > 0);
    for (size_t i = 0; i < json_array_size(list); i++)
        check_case(vocab, json_array_get(list, i));
    text_vocab_destroy(vocab);
    json_decref(list);
}

static void test_llama3(void)
{
    check_list("llama3");
}

static void test_llama4(void)
{
    check_list("llama4");
}

static void test_llama_spm(void)
{
    check_list("llama-spm");
}

static void test_qwen2(void)
{
    check_list("qwen2");
}

static void test_deepseek_v3(void)
{
    check_list("deepseek-v3");
}

static void test_gpt_oss(void)
{
    check_list("gpt-oss");
}

/* Ids that end a generation, and one that does not. */
static void check_ends(const char *name, const int32_t *ends, size_t n, int32_t other)
{
    struct text_vocab *vocab = open_vocab(name);
    CU_ASSERT_PTR_NOT_NULL_FATAL(vocab);
    for (size_t i = 0; i < n; i++)
        CU_ASSERT_TRUE(text_vocab_is_eog(vocab, ends[i]));
    CU_ASSERT_FALSE(text_vocab_is_eog(vocab, other));
    text_vocab_destroy(vocab);
}

static void test_ends(void)
{
    check_ends("llama3", (int32_t[]){128001, 128008, 128009}, 3, 128006);
    check_ends("llama4", (int32_t[]){200001, 200007, 200008}, 3, 200005);
    check_ends("qwen2", (int32_t[]){151643, 151645}, 2, 151644);
    check_ends("deepseek-v3", (int32_t[]){1}, 1, 0);
    /* <|end|> (200007) ends a message of a turn that goes on. */
    check_ends("gpt-oss", (int32_t[]){199999, 200002, 200012}, 3, 200007);
}

/* Control tokens in trusted text. */
static void test_llama4_special(void)
{
    static const char text[] = "<|header_start|>user<|header_end|>\n\nHi<|eot|>";
    struct text_vocab *vocab = open_vocab("llama4");
    CU_ASSERT_PTR_NOT_NULL_FATAL(vocab);
    int32_t *ids = NULL;
    size_t n = 0;
    CU_ASSERT_EQUAL(text_encode_prompt(vocab, text, strlen(text), true, &ids, &n, NULL), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(n, 7);
    CU_ASSERT_EQUAL(ids[0], 200000);
    CU_ASSERT_EQUAL(ids[1], 200005);
    CU_ASSERT_EQUAL(ids[3], 200006);
    CU_ASSERT_EQUAL(ids[4], 368);
    CU_ASSERT_EQUAL(ids[6], 200008);
    free(ids);
    CU_ASSERT_EQUAL(text_encode(vocab, text, strlen(text), false, &ids, &n, NULL), PROTO_OK);
    for (size_t i = 0; i < n; i++)
        CU_ASSERT(ids[i] < 200000);
    free(ids);
    text_vocab_destroy(vocab);
}

int main(void)
{
    const char *shared = getenv("CARAVAN_SHARED");
    snprintf(folder, sizeof folder, "%s/tokenizers", shared ? shared : SOURCE_DIR "/../shared");
    char path[600];
    snprintf(path, sizeof path, "%s/llama4.json", folder);
    FILE *file = fopen(path, "r");
    if (!file) {
        printf("skipped: %s is missing\n", path);
        return 77;
    }
    fclose(file);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("ids", NULL, NULL);
    CU_add_test(suite, "llama3", test_llama3);
    CU_add_test(suite, "llama4", test_llama4);
    CU_add_test(suite, "llama-spm", test_llama_spm);
    CU_add_test(suite, "qwen2", test_qwen2);
    CU_add_test(suite, "deepseek-v3", test_deepseek_v3);
    CU_add_test(suite, "gpt-oss", test_gpt_oss);
    CU_add_test(suite, "ends of generation", test_ends);
    CU_add_test(suite, "llama4 special tokens", test_llama4_special);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
