/* SPDX-License-Identifier: Apache-2.0 */
/* Special tokens in texts that are trusted in part, and BOS. */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/internal.h"
#include "coordinator/text/template.h"
#include "tests/text/make.h"

#define MAX_TEXT 64

static struct proto_error error;
static int32_t bos, end, user;

/* llama-bpe with merges of a and b, <s> for BOS, the control token <|end|> and the user-defined
 * <|u|>. */
static struct text_vocab *make_vocab(bool add_bos)
{
    struct make make;
    make_begin(&make, "llama-bpe");
    make_merge(&make, "a b");
    bos = make_token(&make, "<s>", TEXT_TOKEN_CONTROL, 0);
    end = make_token(&make, "<|end|>", TEXT_TOKEN_CONTROL, 0);
    user = make_token(&make, "<|u|>", TEXT_TOKEN_USER, 0);
    shard_gguf_writer_u32(make.writer, "tokenizer.ggml.bos_token_id", (uint32_t)bos);
    shard_gguf_writer_bool(make.writer, "tokenizer.ggml.add_bos_token", add_bos);
    return make_end(&make, &error);
}

static int32_t *encode(const struct text_vocab *v, const char *text, const struct text_span *spans,
                       size_t n_spans, size_t *n)
{
    int32_t *ids = NULL;
    CU_ASSERT_EQUAL_FATAL(
        text_encode_trusted(v, text, strlen(text), spans, n_spans, &ids, n, &error), PROTO_OK);
    return ids;
}

static size_t count(const int32_t *ids, size_t n, int32_t id)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++)
        found += ids[i] == id;
    return found;
}

/* How often <|end|> is found in "a<|end|>b<|end|>" with one untrusted span. */
static void check_ends(const struct text_vocab *v, size_t first, size_t last, size_t want)
{
    size_t n = 0;
    int32_t *ids = encode(v, "a<|end|>b<|end|>", &(struct text_span){first, last}, 1, &n);
    CU_ASSERT_EQUAL(count(ids, n, end), want);
    free(ids);
}

static void test_spans(void)
{
    struct text_vocab *v = make_vocab(false);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    check_ends(v, 0, 0, 2);
    check_ends(v, 4, 4, 2); /* no bytes */
    check_ends(v, 0, 16, 0);
    check_ends(v, 1, 8, 1);
    check_ends(v, 0, 1, 2);
    check_ends(v, 8, 9, 2);
    check_ends(v, 7, 9, 1); /* the last byte of one */
    check_ends(v, 8, 10, 1);
    check_ends(v, 4, 5, 1);
    check_ends(v, 7, 10, 0);
    text_vocab_destroy(v);
}

/* User-defined tokens are text; merges run over the bounds of spans. */
static void test_text_is_not_cut(void)
{
    struct text_vocab *v = make_vocab(false);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    size_t n = 0;
    int32_t *ids = encode(v, "<|u|>ab", (struct text_span[]){{0, 2}, {2, 6}}, 2, &n);
    CU_ASSERT(n == 2 && ids[0] == user);
    free(ids);
    text_vocab_destroy(v);
}

static void test_bos(void)
{
    for (int add = 0; add < 2; add++) {
        struct text_vocab *v = make_vocab(add);
        CU_ASSERT_PTR_NOT_NULL_FATAL(v);
        size_t n = 0;
        int32_t *ids = encode(v, "a", NULL, 0, &n);
        CU_ASSERT_EQUAL(count(ids, n, bos), (size_t)add);
        free(ids);
        ids = encode(v, "<s>a", NULL, 0, &n);
        CU_ASSERT(n == 2 && ids[0] == bos);
        free(ids);
        ids = encode(v, "<s><s>", NULL, 0, &n); /* the second is the text's own */
        CU_ASSERT_EQUAL(n, 2);
        free(ids);
        ids = encode(v, "<s>a", &(struct text_span){0, 4}, 1, &n);
        CU_ASSERT_EQUAL(count(ids, n, bos), (size_t)add);
        CU_ASSERT_EQUAL(n, (size_t)add + 4);
        free(ids);
        ids = NULL;
        CU_ASSERT_EQUAL(text_encode_prompt(v, "<s>a", 4, true, &ids, &n, &error), PROTO_OK);
        CU_ASSERT_EQUAL(n, 2);
        free(ids);
        ids = NULL;
        CU_ASSERT_EQUAL(text_encode(v, "<s>a", 4, true, &ids, &n, &error), PROTO_OK);
        CU_ASSERT_EQUAL(n, 2);
        free(ids);
        text_vocab_destroy(v);
    }
}

static void test_refused(void)
{
    static const struct text_span wrong[][2] = {
        {{0, 2}, {1, 3}}, {{2, 3}, {0, 1}}, {{0, 1}, {3, 2}}, {{0, 1}, {2, 5}}};
    struct text_vocab *v = make_vocab(false);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        int32_t *ids = NULL;
        size_t n = 0;
        CU_ASSERT_EQUAL(text_encode_trusted(v, "abcd", 4, wrong[i], 2, &ids, &n, &error),
                        PROTO_INVALID);
        CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "span 2"));
    }
    text_vocab_destroy(v);
}

/* The rule, word for word. */

static uint64_t state = 7;

static unsigned random_below(unsigned n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(state >> 33) % n;
}

static bool fits(const int32_t *owner, const bool *untrusted, size_t at, size_t size, bool control)
{
    for (size_t i = at; i < at + size; i++) {
        if (owner[i] != -1 || (control && untrusted[i]))
            return false;
    }
    return true;
}

static void slow_partition(const struct text_vocab *v, const char *text, size_t len,
                           const bool *untrusted, int32_t *owner)
{
    for (size_t i = 0; i < len; i++)
        owner[i] = -1;
    for (size_t size = text_vocab_max_piece(v); size > 0; size--) {
        for (uint32_t id = 0; id < v->n; id++) {
            struct shard_gguf_string s = text_vocab_piece(v, (int32_t)id);
            bool control = v->types[id] == TEXT_TOKEN_CONTROL;
            if (s.len != size || (!control && v->types[id] != TEXT_TOKEN_USER))
                continue;
            for (size_t at = 0; at + size <= len; at++) {
                if (memcmp(text + at, s.data, size) != 0 ||
                    !fits(owner, untrusted, at, size, control))
                    continue;
                for (size_t i = 0; i < size; i++)
                    owner[at + i] = i ? -2 : (int32_t)id;
            }
        }
    }
}

static void check_partition(const struct text_vocab *v)
{
    char text[MAX_TEXT];
    bool untrusted[MAX_TEXT] = {false};
    int32_t owner[MAX_TEXT];
    struct text_span spans[MAX_TEXT];
    size_t len = random_below(MAX_TEXT), n_spans = 0, n = 0, found = 0;
    for (size_t i = 0; i < len; i++)
        text[i] = (char)('w' + random_below(4));
    for (size_t at = random_below(8), end_at; at < len; at = end_at + random_below(8)) {
        end_at = at + 1 + random_below(6) < len ? at + 1 + random_below(6) : len;
        if (end_at <= at || end_at > len)
            break;
        spans[n_spans++] = (struct text_span){at, end_at};
        memset(untrusted + at, true, end_at - at);
    }
    slow_partition(v, text, len, untrusted, owner);
    struct text__trust trust = {true, spans, n_spans};
    struct text__span *got = NULL;
    CU_ASSERT_EQUAL_FATAL(text__partition(v, text, len, &trust, &got, &n, &error), PROTO_OK);
    bool equal = true;
    for (size_t at = 0; at < len; at++) {
        if (owner[at] < 0)
            continue;
        equal = equal && found < n && got[found].at == at && got[found].id == owner[at];
        found++;
    }
    CU_ASSERT_TRUE(equal && found == n);
    free(got);
}

static void test_against_slow(void)
{
    static const char *const specials[] = {"x",  "xx",   "xy",    "yxx",   "xyx",  "yyyy",
                                           "zx", "xyxz", "zzzzz", "xzxzx", "yzyz", "zy"};
    for (unsigned skip = 0; skip < 12; skip++) {
        struct make make;
        make_begin(&make, "llama3");
        for (unsigned i = skip; i < 12; i += 1 + skip % 3)
            make_token(&make, specials[i], i % 3 ? TEXT_TOKEN_CONTROL : TEXT_TOKEN_USER, 0);
        struct text_vocab *v = make_end(&make, &error);
        CU_ASSERT_PTR_NOT_NULL_FATAL(v);
        for (int round = 0; round < 3000; round++)
            check_partition(v);
        text_vocab_destroy(v);
    }
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("trust", NULL, NULL);
    CU_add_test(suite, "spans", test_spans);
    CU_add_test(suite, "text is not cut", test_text_is_not_cut);
    CU_add_test(suite, "BOS", test_bos);
    CU_add_test(suite, "refused spans", test_refused);
    CU_add_test(suite, "against slow", test_against_slow);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
