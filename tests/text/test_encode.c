/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding and decoding with small vocabularies, against slow code that follows the rules word for
 * word. */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/internal.h"
#include "tests/text/make.h"

#define SPACE    "\xe2\x96\x81"
#define MAX_TEXT 64

static struct proto_error error;
static struct text_vocab *spm, *bpe;

static int make_all(void)
{
    spm = make_small_spm();
    bpe = make_small_bpe();
    return !spm || !bpe;
}

static int destroy_all(void)
{
    text_vocab_destroy(spm);
    text_vocab_destroy(bpe);
    return 0;
}

static uint64_t state = 1;

static unsigned random_below(unsigned n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(state >> 33) % n;
}

/* A text of words from a list, random ones. */
static size_t random_text(const char *const *words, unsigned n_words, char *out)
{
    size_t len = 0;
    for (unsigned n = random_below(16); n > 0; n--) {
        const char *word = words[random_below(n_words)];
        if (len + strlen(word) > MAX_TEXT)
            break;
        memcpy(out + len, word, strlen(word));
        len += strlen(word);
    }
    return len;
}

/* The ids as their stored texts with "|" between. */
static const char *pieces_of(const struct text_vocab *v, const int32_t *ids, size_t n)
{
    static char out[4096];
    size_t len = 0;
    for (size_t i = 0; i < n && len < sizeof out - 300; i++) {
        struct shard_gguf_string piece = text_vocab_piece(v, ids[i]);
        if (i > 0)
            out[len++] = '|';
        memcpy(out + len, piece.data, piece.len);
        len += piece.len;
    }
    out[len] = '\0';
    return out;
}

static void check_pieces(const struct text_vocab *v, const char *text, bool special,
                         const char *want)
{
    int32_t *ids = NULL;
    size_t n = 0;
    CU_ASSERT_EQUAL_FATAL(text_encode(v, text, strlen(text), special, &ids, &n, &error), PROTO_OK);
    CU_ASSERT_STRING_EQUAL(pieces_of(v, ids, n), want);
    free(ids);
}

static void check_round_trip(const struct text_vocab *v, const char *text, size_t len)
{
    int32_t *ids = NULL;
    size_t n = 0, back_len = 0;
    char *back = NULL;
    CU_ASSERT_EQUAL_FATAL(text_encode(v, text, len, false, &ids, &n, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(text_decode(v, ids, n, false, &back, &back_len, &error), PROTO_OK);
    CU_ASSERT(back_len == len && memcmp(back, text, len) == 0 && back[len] == '\0');
    free(back);
    free(ids);
}

static void test_spm_pieces(void)
{
    check_pieces(spm, "", false, "");
    check_pieces(spm, "a", false, SPACE "a");
    check_pieces(spm, " a", false, SPACE SPACE "|a");
    check_pieces(spm, "abc", false, SPACE "|abc");
    check_pieces(spm, "caaaa", false, SPACE "|c|aaaa");
    check_pieces(spm, "caaa", false, SPACE "|c|aa|a"); /* ties: the left one */
    check_pieces(spm, "\xc3\xa9z", false, SPACE "|\xc3\xa9|<0x7A>");
    check_pieces(spm, "\xc3", false, SPACE "|<0xC3>");
    check_pieces(spm, "\xe4\xb8\x80", false, SPACE "|<0xE4>|<0xB8>|<0x80>");
}

static void test_bpe_pieces(void)
{
    check_pieces(bpe, "", false, "");
    check_pieces(bpe, "abc", false, "a|bc");
    check_pieces(bpe, "abbc", false, "abbc");
    check_pieces(bpe, "aaaaa", false, "aaaa|a");
    check_pieces(bpe, " ab", false, "\xc4\xa0|ab");
    check_pieces(bpe, " a", false,
                 "\xc4\xa0"
                 "a");
    check_pieces(bpe, "xyz", false, "xyz"); /* a token as a whole, though nothing merges into it */
    check_pieces(bpe, "xyza", false, "x|y|z|a");
    check_pieces(bpe, "\n", false, "\xc4\x8a");
}

static void test_special_pieces(void)
{
    check_pieces(bpe, "a<|end|>a", true, "a|<|end|>|a");
    check_pieces(bpe, "a<|end|>a", false, "a|<|||e|n|d|||>|a");
    check_pieces(spm, "a<u>a", false, SPACE "a|<u>a");
    check_pieces(spm, "<u>b<s>", true, "<u>|" SPACE "|b|<s>");
    check_pieces(spm, "<s>", false, SPACE "|<0x3C>|<0x73>|<0x3E>");
    check_pieces(spm, "<u><u>ab", false, "<u>|<u>a|" SPACE "|b");
}

/* A token with a space after another character: merges may then cross word boundaries. */
static void test_space_inside(void)
{
    struct make make;
    make_begin(&make, NULL);
    make_token(&make, SPACE, TEXT_TOKEN_NORMAL, -1);
    make_token(&make, "a", TEXT_TOKEN_NORMAL, -2);
    make_token(&make, "a" SPACE, TEXT_TOKEN_NORMAL, -4);
    make_token(&make, "a" SPACE "a", TEXT_TOKEN_NORMAL, -3);
    struct text_vocab *v = make_end(&make, &error);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    check_pieces(v, "a a", false, SPACE "|a" SPACE "a");
    text_vocab_destroy(v);
}

/* Of two special tokens with one text, the lower id counts. */
static void test_same_text(void)
{
    struct make make;
    make_begin(&make, "llama3");
    int32_t first = make_token(&make, "<d>", TEXT_TOKEN_USER, 0);
    make_token(&make, "<d>", TEXT_TOKEN_USER, 0);
    struct text_vocab *v = make_end(&make, &error);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    int32_t *ids = NULL;
    size_t n = 0;
    CU_ASSERT_EQUAL_FATAL(text_encode(v, "<d>", 3, false, &ids, &n, &error), PROTO_OK);
    CU_ASSERT(n == 1 && ids[0] == first);
    free(ids);
    text_vocab_destroy(v);
}

static void test_prompt(void)
{
    int32_t *ids = NULL;
    size_t n = 0;
    CU_ASSERT_EQUAL(text_encode_prompt(spm, "a", 1, false, &ids, &n, &error), PROTO_OK);
    CU_ASSERT(n == 2 && ids[0] == 1);
    free(ids);
    CU_ASSERT_EQUAL(text_encode_prompt(spm, "", 0, false, &ids, &n, &error), PROTO_OK);
    CU_ASSERT(n == 1 && ids[0] == 1);
    free(ids);
    CU_ASSERT_EQUAL(text_encode_prompt(bpe, "a", 1, false, &ids, &n, &error), PROTO_OK);
    CU_ASSERT_EQUAL(n, 1); /* there is no BOS */
    free(ids);
}

static void test_every_byte(void)
{
    char text[4];
    for (unsigned byte = 0; byte < 256; byte++) {
        memset(text, (int)byte, sizeof text);
        for (size_t len = 1; len <= sizeof text; len++) {
            check_round_trip(spm, text, len);
            check_round_trip(bpe, text, len);
        }
    }
    for (int round = 0; round < 2000; round++) {
        char noise[MAX_TEXT];
        for (size_t i = 0; i < sizeof noise; i++)
            noise[i] = (char)random_below(256);
        check_round_trip(spm, noise, random_below(MAX_TEXT + 1));
        check_round_trip(bpe, noise, random_below(MAX_TEXT + 1));
    }
}

/* A long piece must not take quadratic time: at a million bytes that would be minutes. */
static void test_long(void)
{
    size_t len = 1 << 20;
    char *text = malloc(len);
    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    static const char fills[] = {'a', 'A', ' ', '\n', '!', (char)0xff};
    for (size_t i = 0; i < sizeof fills; i++) {
        memset(text, fills[i], len);
        check_round_trip(spm, text, len);
        check_round_trip(bpe, text, len);
    }
    free(text);
}

/* The slow way to merge: the list of pieces is searched anew for each merge. */
struct slow {
    char text[MAX_TEXT * 3];
    size_t ends[MAX_TEXT * 3]; /* of the pieces */
    size_t n;
};

static double spm_priority(const char *text, size_t len)
{
    int32_t id = text__map_find(&spm->map, &spm->stored, text, len);
    return id < 0 ? -1 : (double)UINT32_MAX - (double)spm->ranks[id];
}

static size_t best_pair(const struct slow *s)
{
    size_t best = s->n;
    double highest = -1;
    for (size_t i = 0; i + 1 < s->n; i++) {
        size_t start = i ? s->ends[i - 1] : 0;
        double priority = spm_priority(s->text + start, s->ends[i + 1] - start);
        if (priority > highest) {
            highest = priority;
            best = i;
        }
    }
    return best;
}

static void slow_spm(const char *text, size_t len, struct slow *s)
{
    size_t n = 0;
    *s = (struct slow){0};
    for (size_t i = 0; i <= len && len > 0; i++) {
        if (i == 0 || text[i - 1] == ' ') {
            memcpy(s->text + n, SPACE, 3);
            n += 3;
        } else {
            s->text[n++] = text[i - 1];
        }
        if (i == 0 || (text[i - 1] & 0xc0) != 0x80)
            s->n++;
        s->ends[s->n - 1] = n;
    }
    for (size_t i; (i = best_pair(s)) < s->n; s->n--)
        memmove(s->ends + i, s->ends + i + 1, (s->n - i - 1) * sizeof *s->ends);
}

static void test_spm_against_slow(void)
{
    static const char *const words[] = {"a", "b", "c", " ", "\xc3\xa9", "cc", "  ", "aa"};
    for (int round = 0; round < 20000; round++) {
        char text[MAX_TEXT];
        size_t len = random_text(words, 8, text);
        struct slow slow;
        slow_spm(text, len, &slow);
        int32_t *ids = NULL;
        size_t n = 0, at = 0;
        CU_ASSERT_EQUAL_FATAL(text_encode(spm, text, len, false, &ids, &n, &error), PROTO_OK);
        bool equal = n == slow.n;
        for (size_t i = 0; i < n && equal; at = slow.ends[i++]) {
            struct shard_gguf_string piece = text_vocab_piece(spm, ids[i]);
            equal =
                piece.len == slow.ends[i] - at && !memcmp(piece.data, slow.text + at, piece.len);
        }
        CU_ASSERT_TRUE(equal);
        free(ids);
    }
}

/* Lines of the small vocabulary's merges that fit pieces i and i + 1, the first of them. */
static size_t bpe_rank(const struct slow *s, size_t i)
{
    static const char *const merges[][2] = {{"b", "c"}, {"a", "b"},   {"a", "a"},
                                            {" ", "a"}, {"aa", "aa"}, {"ab", "bc"}};
    const char *left = s->text + (i ? s->ends[i - 1] : 0), *right = s->text + s->ends[i];
    size_t left_len = (size_t)(right - left), right_len = s->ends[i + 1] - s->ends[i];
    for (size_t m = 0; m < 6; m++) {
        if (strlen(merges[m][0]) == left_len && !memcmp(merges[m][0], left, left_len) &&
            strlen(merges[m][1]) == right_len && !memcmp(merges[m][1], right, right_len))
            return m;
    }
    return 6;
}

static void slow_bpe(const char *text, size_t len, struct slow *s)
{
    *s = (struct slow){.n = len};
    memcpy(s->text, text, len);
    for (size_t i = 0; i < len; i++)
        s->ends[i] = i + 1;
    for (size_t lowest = 0; lowest < 6;) {
        size_t best = 0;
        lowest = 6;
        for (size_t i = 0; i + 1 < s->n; i++) {
            if (bpe_rank(s, i) < lowest) {
                lowest = bpe_rank(s, i);
                best = i;
            }
        }
        if (lowest == 6)
            return;
        s->n--;
        memmove(s->ends + best, s->ends + best + 1, (s->n - best) * sizeof *s->ends);
    }
}

/* One word, so that it is one piece before merging. */
static void test_bpe_against_slow(void)
{
    static const char *const words[] = {"a", "b", "c", "aa", "bc"};
    for (int round = 0; round < 20000; round++) {
        char text[MAX_TEXT + 1] = " ";
        size_t len = 1 + random_text(words, 5, text + 1);
        struct slow slow;
        slow_bpe(text, len, &slow);
        int32_t *ids = NULL;
        size_t n = 0, at = 0;
        CU_ASSERT_EQUAL_FATAL(text_encode(bpe, text, len, false, &ids, &n, &error), PROTO_OK);
        bool equal = n == slow.n;
        for (size_t i = 0; i < n && equal; at = slow.ends[i++])
            equal = text_decode_token(bpe, ids[i], false, NULL, 0) == slow.ends[i] - at;
        CU_ASSERT_TRUE(equal);
        free(ids);
    }
}

/* The rule for special tokens, word for word. */
static void slow_partition(const struct text_vocab *v, const char *text, size_t len, int32_t *owner)
{
    for (size_t i = 0; i < len; i++)
        owner[i] = -1;
    for (size_t size = text_vocab_max_piece(v); size > 0; size--) {
        for (uint32_t id = 0; id < v->n; id++) {
            struct shard_gguf_string s = text_vocab_piece(v, (int32_t)id);
            if (s.len != size || v->types[id] != TEXT_TOKEN_USER)
                continue;
            for (size_t at = 0; at + size <= len; at++) {
                bool match = memcmp(text + at, s.data, size) == 0;
                for (size_t i = 0; i < size && match; i++)
                    match = owner[at + i] == -1;
                for (size_t i = 0; i < size && match; i++)
                    owner[at + i] = i ? -2 : (int32_t)id;
            }
        }
    }
}

static void check_partition(const struct text_vocab *v, const char *text, size_t len)
{
    int32_t owner[MAX_TEXT];
    struct text__span *spans = NULL;
    size_t n = 0, found = 0;
    slow_partition(v, text, len, owner);
    struct text__trust trust = {0};
    CU_ASSERT_EQUAL_FATAL(text__partition(v, text, len, &trust, &spans, &n, &error), PROTO_OK);
    bool equal = true;
    for (size_t at = 0; at < len; at++) {
        if (owner[at] < 0)
            continue;
        equal = equal && found < n && spans[found].at == at && spans[found].id == owner[at];
        found++;
    }
    CU_ASSERT_TRUE(equal && found == n);
    free(spans);
}

static void test_partition_against_slow(void)
{
    static const char *const specials[] = {"x",  "xx",   "xy",    "yxx",   "xyx",  "yyyy",
                                           "zx", "xyxz", "zzzzz", "xzxzx", "yzyz", "zy"};
    static const char *const letters[] = {"x", "y", "z", "w"};
    for (unsigned skip = 0; skip < 12; skip++) {
        struct make make;
        make_begin(&make, "llama3");
        for (unsigned i = skip; i < 12; i += 1 + skip % 3)
            make_token(&make, specials[i], TEXT_TOKEN_USER, 0);
        struct text_vocab *v = make_end(&make, &error);
        CU_ASSERT_PTR_NOT_NULL_FATAL(v);
        for (int round = 0; round < 3000; round++) {
            char text[MAX_TEXT];
            size_t len = random_text(letters, 4, text);
            check_partition(v, text, len);
        }
        text_vocab_destroy(v);
    }
}

static void test_decode_token(void)
{
    char out[8] = "";
    CU_ASSERT_EQUAL(text_decode_token(spm, 259 + 9, false, out, sizeof out), 2);
    CU_ASSERT(memcmp(out, " a", 2) == 0);
    CU_ASSERT_EQUAL(text_decode_token(spm, 1, false, out, sizeof out), 0);
    CU_ASSERT_EQUAL(text_decode_token(spm, 1, true, out, 2), 3);
    CU_ASSERT(memcmp(out, "<sa", 2) == 0);
    CU_ASSERT_EQUAL(text_decode_token(spm, 3 + 0xff, false, out, sizeof out), 1);
    CU_ASSERT_EQUAL((unsigned char)out[0], 0xff);
    CU_ASSERT_EQUAL(text_decode_token(spm, -5, true, NULL, 0), 0);
    CU_ASSERT_EQUAL(text_decode_token(bpe, ' ', false, out, sizeof out), 1);
    CU_ASSERT_EQUAL(out[0], ' ');
}

static void check_decode(const struct text_vocab *v, const int32_t *ids, size_t n, bool special,
                         const char *want)
{
    char *text = NULL;
    size_t len = 0;
    CU_ASSERT_EQUAL_FATAL(text_decode(v, ids, n, special, &text, &len, &error), PROTO_OK);
    CU_ASSERT_STRING_EQUAL(text, want);
    CU_ASSERT_EQUAL(len, strlen(want));
    free(text);
}

static void test_decode(void)
{
    int32_t space_a = 259 + 9;
    check_decode(spm, (int32_t[]){space_a, space_a}, 2, false, "a a");
    check_decode(spm, (int32_t[]){1, space_a}, 2, false, "a");
    check_decode(spm, (int32_t[]){1, space_a, 2}, 3, true, "<s>a</s>");
    check_decode(spm, (int32_t[]){2, space_a}, 2, true, "</s> a");
    check_decode(spm, NULL, 0, false, "");
    check_decode(bpe, (int32_t[]){' ', 'a'}, 2, false, " a");
    char *text = NULL;
    size_t len;
    CU_ASSERT_EQUAL(text_decode(spm, (int32_t[]){3, 9999}, 2, false, &text, &len, &error),
                    PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "9999"));
    CU_ASSERT_EQUAL(text_decode(spm, (int32_t[]){-1}, 1, false, &text, &len, &error),
                    PROTO_INVALID);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("encode", make_all, destroy_all);
    CU_add_test(suite, "spm pieces", test_spm_pieces);
    CU_add_test(suite, "bpe pieces", test_bpe_pieces);
    CU_add_test(suite, "special tokens", test_special_pieces);
    CU_add_test(suite, "space inside a token", test_space_inside);
    CU_add_test(suite, "two with one text", test_same_text);
    CU_add_test(suite, "prompt", test_prompt);
    CU_add_test(suite, "every byte", test_every_byte);
    CU_add_test(suite, "long texts", test_long);
    CU_add_test(suite, "spm against slow", test_spm_against_slow);
    CU_add_test(suite, "bpe against slow", test_bpe_against_slow);
    CU_add_test(suite, "partition against slow", test_partition_against_slow);
    CU_add_test(suite, "one token's text", test_decode_token);
    CU_add_test(suite, "decode", test_decode);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
