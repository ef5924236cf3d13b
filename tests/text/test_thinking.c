/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/answer.h"
#include "tests/text/make.h"

static struct proto_error error;
static struct text_vocab *bpe; /* the id of a byte is the byte; <|end|> is a control token */
static const struct text_marks tags = {"<think>", "</think>"};
static const struct text_marks silent = {"<|begin|>go", "<|end|>"};

static int make_all(void)
{
    bpe = make_small_bpe();
    return !bpe;
}

static int destroy_all(void)
{
    text_vocab_destroy(bpe);
    return 0;
}

struct said {
    char reasoning[256], content[256];
    bool stopped;
    enum text_place place;
};

static void add_news(struct said *said, const struct text_news *news)
{
    strncat(said->reasoning, news->reasoning, news->reasoning_len);
    strncat(said->content, news->content, news->content_len);
    said->stopped |= news->stopped;
}

/* The token that the text begins with: a control token that is spelled there, else a byte. */
static int32_t next_token(const char *text, size_t *len)
{
    static const char *const names[] = {"<|begin|>", "<|end|>"};
    for (int i = 0; i < 2; i++) {
        *len = strlen(names[i]);
        for (uint32_t id = 256; strncmp(text, names[i], *len) == 0; id++) {
            struct shard_gguf_string piece = text_vocab_piece(bpe, (int32_t)id);
            if (piece.len == *len && memcmp(piece.data, names[i], *len) == 0)
                return (int32_t)id;
        }
    }
    *len = 1;
    return (unsigned char)*text;
}

static struct said run(const struct text_marks *marks, bool thinking, const char *stop,
                       const char *text)
{
    struct said said = {0};
    struct text_news news;
    struct text_answer *answer = NULL;
    CU_ASSERT_EQUAL_FATAL(
        text_answer_create(&answer, bpe, marks, thinking, &stop, stop != NULL, &error), PROTO_OK);
    for (size_t len; *text && !said.stopped; text += len) {
        int32_t id = next_token(text, &len);
        CU_ASSERT_EQUAL(text_answer_push(answer, id, &news, &error), PROTO_OK);
        add_news(&said, &news);
    }
    if (!said.stopped) {
        CU_ASSERT_EQUAL(text_answer_finish(answer, &news, &error), PROTO_OK);
        add_news(&said, &news);
    }
    said.place = text_answer_place(answer);
    text_answer_destroy(answer);
    return said;
}

static void check(const struct text_marks *marks, bool thinking, const char *text,
                  const char *reasoning, const char *content)
{
    struct said said = run(marks, thinking, NULL, text);
    CU_ASSERT_STRING_EQUAL(said.reasoning, reasoning);
    CU_ASSERT_STRING_EQUAL(said.content, content);
}

static void test_marks(void)
{
    check(NULL, false, " <think>a</think> b", "", " <think>a</think> b");
    check(&tags, false, " <think> a </think>\n b ", "a", "b ");
    check(&tags, false, "<think>a < b </thin</think></think>", "a < b </thin", "</think>");
    check(&tags, false, "a <think>b", "", "a <think>b");
    check(&tags, false, " <thin", "", " <thin");
    check(&tags, false, "<think>a </th", "a </th", "");
    check(&tags, false, "", "", "");
    check(&tags, true, "\na\n\nb\n</think>c", "a\n\nb", "c");
    check(&tags, true, " \n ", "", "");
}

static void test_silent_marks(void)
{
    check(&silent, false, "<|begin|>go on<|end|> so", "on", "so");
    check(&silent, false, "<|begin|>no", "", "<|begin|>no");
    check(NULL, false, "a<|end|>b", "", "ab");
}

static void test_places(void)
{
    CU_ASSERT_EQUAL(run(NULL, false, NULL, "").place, TEXT_PLACE_CONTENT);
    CU_ASSERT_EQUAL(run(&tags, false, NULL, " <th").place, TEXT_PLACE_UNDECIDED);
    CU_ASSERT_EQUAL(run(&tags, false, NULL, " <tx").place, TEXT_PLACE_CONTENT);
    CU_ASSERT_EQUAL(run(&tags, false, NULL, "<think>").place, TEXT_PLACE_REASONING);
    CU_ASSERT_EQUAL(run(&tags, true, NULL, "</think>\n").place, TEXT_PLACE_REASONING);
    CU_ASSERT_EQUAL(run(&tags, true, NULL, "</think>\nx").place, TEXT_PLACE_CONTENT);
}

static void test_stops(void)
{
    struct said said = run(&tags, true, "xx", "a b</think>c dxxe");
    CU_ASSERT_TRUE(said.stopped);
    CU_ASSERT_STRING_EQUAL(said.reasoning, "a b");
    CU_ASSERT_STRING_EQUAL(said.content, "c d");
    said = run(&tags, false, "xx", "<thixx");
    CU_ASSERT_TRUE(said.stopped);
    CU_ASSERT_STRING_EQUAL(said.content, "<thi");
    /* What is held back for a stop string stays before a control token that is a mark. */
    said = run(&silent, true, "xx", "ax<|end|>xb");
    CU_ASSERT_FALSE(said.stopped);
    CU_ASSERT_STRING_EQUAL(said.reasoning, "ax");
    CU_ASSERT_STRING_EQUAL(said.content, "xb");
}

static void test_bad_id(void)
{
    struct text_answer *answer = NULL;
    struct text_news news;
    CU_ASSERT_EQUAL(text_answer_create(&answer, bpe, &tags, false, NULL, 0, &error), PROTO_OK);
    CU_ASSERT_EQUAL(text_answer_push(answer, -1, &news, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(text_answer_push(answer, 1 << 20, &news, &error), PROTO_INVALID);
    text_answer_destroy(answer);
    text_answer_destroy(NULL);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("answer", make_all, destroy_all);
    CU_add_test(suite, "marks", test_marks);
    CU_add_test(suite, "silent marks", test_silent_marks);
    CU_add_test(suite, "places", test_places);
    CU_add_test(suite, "stop strings", test_stops);
    CU_add_test(suite, "bad ids", test_bad_id);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned bad = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
    CU_cleanup_registry();
    return bad > 0;
}
