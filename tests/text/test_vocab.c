/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a vocabulary: what is taken from a file, and what is refused. */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>

#include "tests/text/make.h"

static struct proto_error error;

static void test_spm_defaults(void)
{
    struct text_vocab *v = make_small_spm();
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    CU_ASSERT_EQUAL(text_vocab_size(v), 259 + 17);
    CU_ASSERT_EQUAL(text_vocab_bos(v), 1);
    CU_ASSERT_EQUAL(text_vocab_eos(v), 2);
    CU_ASSERT_TRUE(text_vocab_adds_bos(v));
    CU_ASSERT_TRUE(text_vocab_is_eog(v, 2));
    CU_ASSERT_FALSE(text_vocab_is_eog(v, 1));
    CU_ASSERT_FALSE(text_vocab_is_eog(v, -1));
    struct shard_gguf_string piece = text_vocab_piece(v, 259);
    CU_ASSERT(piece.len == 3 && memcmp(piece.data, "\xe2\x96\x81", 3) == 0);
    CU_ASSERT_EQUAL(text_vocab_piece(v, -1).len, 0);
    CU_ASSERT_EQUAL(text_vocab_piece(v, 1 << 30).len, 0);
    CU_ASSERT_EQUAL(text_vocab_max_piece(v), 6);
    text_vocab_destroy(v);
}

static void test_ids_and_flags(void)
{
    struct make make;
    make_begin(&make, "llama4");
    int32_t begin = make_token(&make, "<|begin|>", TEXT_TOKEN_CONTROL, 0);
    int32_t stop = make_token(&make, "<|stop|>", TEXT_TOKEN_CONTROL, 0);
    int32_t turn = make_token(&make, "<|turn|>", TEXT_TOKEN_CONTROL, 0);
    shard_gguf_writer_u32(make.writer, "tokenizer.ggml.bos_token_id", (uint32_t)begin);
    shard_gguf_writer_u32(make.writer, "tokenizer.ggml.eos_token_id", (uint32_t)stop);
    shard_gguf_writer_u32(make.writer, "tokenizer.ggml.eot_token_id", (uint32_t)turn);
    struct text_vocab *v = make_end(&make, &error);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    CU_ASSERT_EQUAL(text_vocab_bos(v), begin);
    CU_ASSERT_EQUAL(text_vocab_eos(v), stop);
    CU_ASSERT_FALSE(text_vocab_adds_bos(v));
    CU_ASSERT_TRUE(text_vocab_is_eog(v, stop));
    CU_ASSERT_TRUE(text_vocab_is_eog(v, turn));
    CU_ASSERT_FALSE(text_vocab_is_eog(v, begin));
    text_vocab_destroy(v);
}

static void test_add_bos_flag(void)
{
    for (int flag = 0; flag < 2; flag++) {
        struct make make;
        make_begin(&make, flag ? "llama4" : "llama3");
        shard_gguf_writer_u32(make.writer, "tokenizer.ggml.bos_token_id", 5);
        shard_gguf_writer_bool(make.writer, "tokenizer.ggml.add_bos_token", flag);
        struct text_vocab *v = make_end(&make, &error);
        CU_ASSERT_PTR_NOT_NULL_FATAL(v);
        CU_ASSERT_EQUAL(text_vocab_adds_bos(v), flag);
        text_vocab_destroy(v);
    }
}

/* <|end|> ends a turn, but not where <|return|> and <|call|> do. */
static void test_spelled_ends(void)
{
    for (int harmony = 0; harmony < 2; harmony++) {
        struct make make;
        make_begin(&make, "gpt-4o");
        int32_t end = make_token(&make, "<|end|>", TEXT_TOKEN_CONTROL, 0);
        int32_t call = make_token(&make, "<|call|>", TEXT_TOKEN_CONTROL, 0);
        int32_t ret = make_token(&make, harmony ? "<|return|>" : "<|x|>", TEXT_TOKEN_CONTROL, 0);
        struct text_vocab *v = make_end(&make, &error);
        CU_ASSERT_PTR_NOT_NULL_FATAL(v);
        CU_ASSERT_EQUAL(text_vocab_is_eog(v, end), !harmony);
        CU_ASSERT_TRUE(text_vocab_is_eog(v, call));
        CU_ASSERT_EQUAL(text_vocab_is_eog(v, ret), harmony);
        CU_ASSERT_EQUAL(text_vocab_eos(v), -1);
        text_vocab_destroy(v);
    }
}

static void test_token_sets(void)
{
    struct make make;
    make_begin(&make, "llama3");
    int32_t colon = make_token(&make, "a:b", TEXT_TOKEN_NORMAL, 0);
    const int32_t never[] = {7, 9};
    shard_gguf_writer_i32s(make.writer, "tokenizer.ggml.suppress_tokens", never, 2);
    struct text_vocab *v = make_end(&make, &error);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    size_t n = 0;
    const int32_t *suppressed = text_vocab_suppressed(v, &n);
    CU_ASSERT(n == 2 && suppressed[0] == 7 && suppressed[1] == 9);
    int32_t *ids = NULL;
    CU_ASSERT_EQUAL_FATAL(
        text_vocab_tokens_with(v, (const char *const[]){":", "\n"}, 2, &ids, &n, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(n, 3); /* the two bytes, which are not in the order of their values */
    CU_ASSERT_EQUAL(ids[2], colon);
    free(ids);
    text_vocab_destroy(v);
}

/* Refusals: each function spoils one thing of a good vocabulary. */

static void no_scores(struct make *make)
{
    make->spm = false;
}

static void fewer_scores(struct make *make)
{
    static const float one[] = {0};
    shard_gguf_writer_f32s(make->writer, "tokenizer.ggml.scores", one, 1);
    make->spm = false;
}

static void score_is_nan(struct make *make)
{
    make->scores[7] = 0.0f / 0.0f;
}

static void unknown_type(struct make *make)
{
    make->types[9] = 7;
}

static void bos_out_of_range(struct make *make)
{
    shard_gguf_writer_u32(make->writer, "tokenizer.ggml.bos_token_id", 4711);
}

static void eos_is_text(struct make *make)
{
    shard_gguf_writer_str(make->writer, "tokenizer.ggml.eos_token_id", "2");
}

static void suppressed_out_of_range(struct make *make)
{
    const int32_t never[] = {7, 4711};
    shard_gguf_writer_i32s(make->writer, "tokenizer.ggml.suppress_tokens", never, 2);
}

static void suppressed_is_text(struct make *make)
{
    shard_gguf_writer_str(make->writer, "tokenizer.ggml.suppress_tokens", "7");
}

static void merge_without_space(struct make *make)
{
    make->merges[make->n_merges++] = "ab";
}

static void merge_of_no_token(struct make *make)
{
    make->merges[make->n_merges++] = "a qq";
}

static void merge_into_no_token(struct make *make)
{
    make->merges[make->n_merges++] = "a q";
}

static void check_refused(const char *pre, void (*spoil)(struct make *), enum proto_status status,
                          const char *word)
{
    struct make make;
    make_begin(&make, pre);
    if (spoil)
        spoil(&make);
    error.status = PROTO_OK;
    error.text[0] = '\0';
    struct text_vocab *v = make_end(&make, &error);
    CU_ASSERT_PTR_NULL(v);
    CU_ASSERT_EQUAL(error.status, status);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, word));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "small.gguf"));
    text_vocab_destroy(v);
}

static void test_refused(void)
{
    check_refused(NULL, no_scores, PROTO_FORMAT, "tokenizer.ggml.scores");
    check_refused(NULL, fewer_scores, PROTO_FORMAT, "tokenizer.ggml.scores");
    check_refused(NULL, score_is_nan, PROTO_FORMAT, "token 7");
    check_refused(NULL, unknown_type, PROTO_FORMAT, "token 9 has type 7");
    check_refused(NULL, bos_out_of_range, PROTO_FORMAT, "4711");
    check_refused(NULL, eos_is_text, PROTO_FORMAT, "tokenizer.ggml.eos_token_id");
    check_refused(NULL, suppressed_out_of_range, PROTO_FORMAT, "suppress_tokens holds 4711");
    check_refused(NULL, suppressed_is_text, PROTO_FORMAT, "suppress_tokens must be");
    check_refused("klingon", NULL, PROTO_UNSUPPORTED, "llama-bpe, llama3");
    check_refused("llama3", merge_without_space, PROTO_FORMAT, "line 0");
    check_refused("llama3", merge_of_no_token, PROTO_FORMAT, "line 0 ends with");
    check_refused("llama3", merge_into_no_token, PROTO_FORMAT, "line 0 makes");
}

/* Ids of "it's" where ' and s have a merge: whether they meet is up to the pre-tokeniser. */
static size_t length_of_contraction(const char *pre)
{
    struct make make;
    int32_t *ids = NULL;
    size_t n = 0;
    make_begin(&make, pre);
    make_merge(&make, "' s");
    struct text_vocab *v = make_end(&make, &error);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    CU_ASSERT_EQUAL(text_encode(v, "it's", 4, false, &ids, &n, &error), PROTO_OK);
    CU_ASSERT_FALSE(text_vocab_adds_bos(v) && *pre == '\0');
    free(ids);
    text_vocab_destroy(v);
    return n;
}

/* Old files do not say how they split text. */
static void test_no_pretokeniser(void)
{
    CU_ASSERT_EQUAL(length_of_contraction("llama3"), 3);
    CU_ASSERT_EQUAL(length_of_contraction("default"), 4);
    CU_ASSERT_EQUAL(length_of_contraction(""), 4);
}

/* A file with these keys only. */
static void check_keys_refused(const char *model, bool tokens, enum proto_status status,
                               const char *word)
{
    static const char *const one[] = {"a"};
    struct shard_gguf_writer *w = shard_gguf_writer_create();
    void *bytes = NULL;
    size_t len;
    struct shard_gguf *gguf = NULL;
    struct text_vocab *v = NULL;
    if (model)
        shard_gguf_writer_str(w, "tokenizer.ggml.model", model);
    if (tokens)
        shard_gguf_writer_strs(w, "tokenizer.ggml.tokens", one, 1);
    CU_ASSERT_EQUAL(shard_gguf_writer_header(w, &bytes, &len, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_gguf_parse(&gguf, bytes, len, "small.gguf", &error), PROTO_OK);
    CU_ASSERT_EQUAL(text_vocab_create(&v, gguf, &error), status);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, word));
    shard_gguf_close(gguf);
    shard_gguf_writer_destroy(w);
    free(bytes);
}

static void test_keys_refused(void)
{
    check_keys_refused(NULL, true, PROTO_FORMAT, "tokenizer.ggml.model is missing");
    check_keys_refused("bert", true, PROTO_UNSUPPORTED, "\"bert\"");
    check_keys_refused("llama", false, PROTO_FORMAT, "tokenizer.ggml.tokens");
    check_keys_refused("gpt2", true, PROTO_FORMAT, "tokenizer.ggml.merges");
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("vocab", NULL, NULL);
    CU_add_test(suite, "spm defaults", test_spm_defaults);
    CU_add_test(suite, "ids and flags", test_ids_and_flags);
    CU_add_test(suite, "add_bos flag", test_add_bos_flag);
    CU_add_test(suite, "spelled ends", test_spelled_ends);
    CU_add_test(suite, "token sets", test_token_sets);
    CU_add_test(suite, "refused", test_refused);
    CU_add_test(suite, "no pre-tokeniser", test_no_pretokeniser);
    CU_add_test(suite, "keys refused", test_keys_refused);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
