/* SPDX-License-Identifier: Apache-2.0 */
/* Gemma 4's tokeniser with a small vocabulary. */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/stream.h"
#include "tests/text/make.h"

#define SPACE "\xe2\x96\x81"
#define UE    "\xc3\xbc"

static struct proto_error error;
static struct text_vocab *vocab;

static int make_all(void)
{
    struct make make;
    make_begin_gemma4(&make);
    shard_gguf_writer_u32(make.writer, "tokenizer.ggml.bos_token_id", 1);
    shard_gguf_writer_bool(make.writer, "tokenizer.ggml.add_bos_token", false);
    make_merge(&make, "b c");
    make_merge(&make, "a b");
    make_merge(&make, SPACE " a");
    make_merge(&make, "a " UE);
    make_merge(&make, SPACE " " SPACE);
    make_token(&make, "\n", TEXT_TOKEN_NORMAL, 0);
    make_token(&make, "\n\n", TEXT_TOKEN_NORMAL, 0);
    make_token(&make, "<turn|>", TEXT_TOKEN_CONTROL, 0);
    vocab = make_end(&make, &error);
    return !vocab;
}

static int destroy_all(void)
{
    text_vocab_destroy(vocab);
    return 0;
}

static void check_pieces(const char *text, bool special, const char *want)
{
    int32_t *ids = NULL;
    size_t n = 0, len = 0;
    char out[512];
    CU_ASSERT_EQUAL_FATAL(text_encode(vocab, text, strlen(text), special, &ids, &n, &error),
                          PROTO_OK);
    for (size_t i = 0; i < n && len < sizeof out - 64; i++) {
        struct shard_gguf_string piece = text_vocab_piece(vocab, ids[i]);
        if (i > 0)
            out[len++] = '|';
        memcpy(out + len, piece.data, piece.len);
        len += piece.len;
    }
    out[len] = '\0';
    CU_ASSERT_STRING_EQUAL(out, want);
    char *back = NULL;
    CU_ASSERT_EQUAL_FATAL(text_decode(vocab, ids, n, true, &back, &len, &error), PROTO_OK);
    CU_ASSERT_STRING_EQUAL(back, text);
    free(back);
    free(ids);
}

static void test_pieces(void)
{
    check_pieces("", false, "");
    check_pieces("abc", false, "a|bc");
    check_pieces(" ab", false, SPACE "|ab"); /* no space goes before, and none is dropped */
    check_pieces(" a", false, SPACE "a");
    check_pieces("a  a", false, "a|" SPACE "|" SPACE "a");
    check_pieces("a" UE, false, "a" UE);
    check_pieces("z" UE, false, "<0x7A>|" UE);
    check_pieces("\xe4\xb8\x80", false, "<0xE4>|<0xB8>|<0x80>");
    check_pieces("\xff", false, "<0xFF>");
}

static void test_newlines(void)
{
    check_pieces("\n", false, "\n");
    check_pieces("a\n\nb", false, "a|\n\n|b");
    check_pieces("\n\n\n", false, "\n|\n|\n"); /* no token: merged like other text */
    check_pieces("\n \n", false, "\n|" SPACE "|\n");
}

static void test_ids(void)
{
    int32_t *ids = NULL;
    size_t n = 0;
    CU_ASSERT_TRUE(text_vocab_adds_bos(vocab)); /* though the flag says no */
    CU_ASSERT_EQUAL(text_encode_prompt(vocab, "a<turn|>", 8, true, &ids, &n, &error), PROTO_OK);
    CU_ASSERT(n == 3 && ids[0] == 1 && text_vocab_is_eog(vocab, ids[2]));
    free(ids);
}

/* Byte tokens that make a character are shown when it is whole. */
static void test_stream(void)
{
    struct text_stream *stream = NULL;
    const char *text = NULL;
    size_t len = 0;
    bool stopped = false;
    CU_ASSERT_EQUAL_FATAL(text_stream_create(&stream, vocab, NULL, 0, true, &error), PROTO_OK);
    const int32_t bytes[] = {3 + ' ', 3 + 0xe4, 3 + 0xb8, 3 + 0x80};
    const char *const shown[] = {" ", "", "", "\xe4\xb8\x80"};
    for (size_t i = 0; i < 4; i++) {
        CU_ASSERT_EQUAL(text_stream_push(stream, bytes[i], &text, &len, &stopped, &error),
                        PROTO_OK);
        CU_ASSERT(len == strlen(shown[i]) && memcmp(text, shown[i], len) == 0);
    }
    text_stream_destroy(stream);
}

static void test_long(void)
{
    size_t len = 1 << 20;
    char *text = malloc(len);
    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    static const char fills[] = {'a', ' ', '\n', 'z', (char)0xff};
    for (size_t i = 0; i < sizeof fills; i++) {
        int32_t *ids = NULL;
        char *back = NULL;
        size_t n = 0, back_len = 0;
        memset(text, fills[i], len);
        CU_ASSERT_EQUAL_FATAL(text_encode(vocab, text, len, false, &ids, &n, &error), PROTO_OK);
        CU_ASSERT_EQUAL_FATAL(text_decode(vocab, ids, n, false, &back, &back_len, &error),
                              PROTO_OK);
        CU_ASSERT(back_len == len && memcmp(back, text, len) == 0);
        free(back);
        free(ids);
    }
    free(text);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("gemma4", make_all, destroy_all);
    CU_add_test(suite, "pieces", test_pieces);
    CU_add_test(suite, "newlines", test_newlines);
    CU_add_test(suite, "ids", test_ids);
    CU_add_test(suite, "stream", test_stream);
    CU_add_test(suite, "long texts", test_long);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
