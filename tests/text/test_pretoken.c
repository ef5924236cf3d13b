/* SPDX-License-Identifier: Apache-2.0 */
/* How the pre-tokenisers cut a text: by hand, and long texts of one kind of character. */
#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/internal.h"

static struct proto_error error;

struct cut {
    char text[512];
    size_t len;
};

static enum proto_status add_cut(void *context, const char *piece, size_t len,
                                 struct proto_error *e)
{
    struct cut *cut = context;
    (void)e;
    if (cut->len > 0)
        cut->text[cut->len++] = '|';
    memcpy(cut->text + cut->len, piece, len);
    cut->len += len;
    return PROTO_OK;
}

static void check_cut(const char *name, const char *text, const char *want)
{
    struct shard_gguf_string key = {name, strlen(name)};
    struct text__pretoken *pretoken = NULL;
    struct cut cut = {0};
    CU_ASSERT_EQUAL_FATAL(text__pretoken_create(&pretoken, text__pretoken_rule_find(key), &error),
                          PROTO_OK);
    CU_ASSERT_EQUAL(text__pretoken_split(pretoken, text, strlen(text), add_cut, &cut, &error),
                    PROTO_OK);
    CU_ASSERT_STRING_EQUAL(cut.text, want);
    if (strcmp(cut.text, want) != 0)
        fprintf(stderr, "%s: \"%s\", expected \"%s\"\n", name, cut.text, want);
    text__pretoken_destroy(pretoken);
}

static void test_llama(void)
{
    check_cut("llama3", "Hello world", "Hello| world");
    check_cut("llama3", "a  b   c", "a| | b|  | c");
    check_cut("llama3", "I'm don'T", "I|'m| don|'T");
    check_cut("llama3", "12345", "123|45");
    check_cut("llama3", "x\n\n y \r\nz", "x|\n\n| y| \r\n|z");
    check_cut("llama3", "CamelCase", "CamelCase");
    check_cut("llama3", "--a...\n!", "--|a|...\n|!");
    check_cut("llama3", "a \xff\xc3 b", "a| |\xff\xc3| b"); /* not UTF-8 */
    /* U+180E is no space any more: a run of symbols, not a space and what follows. */
    check_cut("llama3",
              "\xe1\xa0\x8e\xe1\xa0\x8e"
              "a",
              "\xe1\xa0\x8e\xe1\xa0\x8e|a");
    check_cut("llama4", "CamelCase HTMLPage", "Camel|Case| HTMLPage");
    check_cut("llama4", "I'm DON'T", "I'm| DON'T");
    check_cut("llama4", "a/b//\n", "a|/b|//\n");
    check_cut("llama4",
              "\xc3\x89"
              "cole 1234",
              "\xc3\x89"
              "cole| |123|4");
    check_cut("gpt-4o", "e\xcc\x81t", "e\xcc\x81t"); /* a combining mark stays with its letter */
}

#define HAN   "\xe4\xb8\xad\xe6\x96\x87" /* two ideographs */
#define KANA  "\xe3\x81\x82"
#define STOP  "\xe3\x80\x82" /* ideographic full stop: common to several scripts */
#define AGAIN "\xe3\x80\x85" /* a letter, but of the script Han, as the zero is */
#define ZERO  "\xe3\x80\x87"
#define ACUTE "\xcc\x81" /* combining */
#define UE    "\xc3\xbc"

static void test_qwen(void)
{
    check_cut("qwen2", "a 123 I'LL", "a| |1|2|3| I|'LL");
    check_cut("qwen2", "e" ACUTE "t", "e|" ACUTE "t");
    check_cut("qwen2", "x!!\n\n  y", "x|!!\n\n| | y");
    check_cut("deepseek-r1-qwen", "12", "1|2");
    check_cut("qwen35", "e" ACUTE "t 12", "e" ACUTE "t| |1|2");
    check_cut("qwen35", "!" ACUTE, "!" ACUTE); /* a mark may follow any one character */
    check_cut("qwen35", "I've  go", "I|'ve| | go");
}

static void test_tekken(void)
{
    check_cut("tekken", "don't 123", "don|'t| |1|2|3");
    check_cut("tekken", "CamelCase a//\nb", "Camel|Case| a|//\n|b");
    check_cut("tekken", "HTMLPage", "HTMLPage");
}

static void test_glm_and_kimi(void)
{
    check_cut("glm4", "It's 12345", "It|'s| |123|45");
    check_cut("kimi-k2", "a" HAN "b", "a|" HAN "|b");
    check_cut("kimi-k2", " " HAN "don't", " |" HAN "|don't");
    check_cut("kimi-k2", KANA "x 1234", KANA "x| |123|4");
    check_cut("kimi-k2", "a/\nb", "a|/\n|b");
    check_cut("kimi-k2", "CamelCase DON'T x", "Camel|Case| DON'T| x");
    check_cut("kimi-k2", HAN "English" HAN, HAN "|English|" HAN);
    check_cut("kimi-k2", HAN STOP HAN "!\n\n ok", HAN "|" STOP "|" HAN "|!\n\n| ok");
    check_cut("kimi-k2", HAN AGAIN ZERO "1", HAN AGAIN ZERO "|1");
    check_cut("kimi-k2", "e" ACUTE "t" HAN ACUTE "a", "e" ACUTE "t|" HAN "|" ACUTE "a");
}

static void test_deepseek(void)
{
    check_cut("deepseek-v3", "Hello world!", "Hello| world|!");
    check_cut("deepseek-v3", "x=12345", "x|=|123|45");
    check_cut("deepseek-v3", "(foo) .bar", "(foo|)| .|bar");
    check_cut("deepseek-v3", "a" HAN KANA "b", "a|" HAN KANA "|b");
    check_cut("deepseek-v3", "a  b\n\n c", "a| | b|\n\n| c");
    check_cut("deepseek-v3", "e" ACUTE "t", "e" ACUTE "t");
    check_cut("deepseek-v3", "\x01\x02 a", "\x01\x02| a"); /* what no pattern takes */
    check_cut("deepseek-llm", "Hello world!", "Hello| world|!");
    check_cut("deepseek-llm", "a\r\n\nb", "a|\r|\n|\n|b");
    /* The third pattern's range from : to ~ has the ASCII letters in it. */
    check_cut("deepseek-llm", "gr" UE "n 12345", "gr|" UE "|n| |12345");
    check_cut("deepseek-llm", UE UE " " UE, UE UE "| " UE);
    check_cut("deepseek-llm", "a   ", "a|   ");
    check_cut("deepseek-llm", "a   b", "a|  | b");
    check_cut("deepseek-llm", "a " HAN "b", "a| |" HAN "|b");
    check_cut("deepseek-llm", "a\xe3\x80\x82", "a|\xe3\x80\x82");      /* U+3002 */
    check_cut("deepseek-llm", "\xf0\x90\x90\x80", "\xf0\x90\x90\x80"); /* U+10400 */
}

static void test_default(void)
{
    check_cut("default", "Hello world", "Hello| world");
    check_cut("default", "Hi, it's", "Hi|,| it|'|s"); /* punctuation is cut out first */
    check_cut("default", "a 1234567", "a| |123|456|7");
    check_cut("default", "a  b", "a| | b");
    check_cut("default", "a=b$", "a|=|b|$");
    check_cut("default", "x\n\ny", "x|\n|\n|y");
}

static enum proto_status count_bytes(void *context, const char *piece, size_t len,
                                     struct proto_error *e)
{
    size_t *total = context;
    (void)piece;
    (void)e;
    *total += len;
    return PROTO_OK;
}

/* A megabyte of `unit`, `end` after it. Where a run is walked anew for each of its characters,
 * this takes the better part of an hour. */
static void check_long(const char *name, const char *unit, const char *end)
{
    struct shard_gguf_string key = {name, strlen(name)};
    struct text__pretoken *pretoken = NULL;
    size_t step = strlen(unit), len = (1 << 20) / step * step + strlen(end), total = 0;
    char *text = malloc(len + 1);
    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    for (size_t i = 0; i + step + strlen(end) <= len; i += step)
        memcpy(text + i, unit, step);
    memcpy(text + len - strlen(end), end, strlen(end));
    CU_ASSERT_EQUAL_FATAL(text__pretoken_create(&pretoken, text__pretoken_rule_find(key), &error),
                          PROTO_OK);
    CU_ASSERT_EQUAL(text__pretoken_split(pretoken, text, len, count_bytes, &total, &error),
                    PROTO_OK);
    CU_ASSERT_EQUAL(total, len);
    text__pretoken_destroy(pretoken);
    free(text);
}

static void test_long(void)
{
    static const char *const names[] = {"llama3", "llama4",      "tekken",       "kimi-k2",
                                        "qwen2",  "qwen35",      "default",      "glm4",
                                        "gpt-4o", "deepseek-v3", "deepseek-llm", "falcon3"};
    static const char *const units[] = {"a", "A", "aA", " ", "\n",  "\r", " \n",  "7",
                                        "!", "'", "/",  HAN, ACUTE, UE,   "\x01", "\xe3\x80\x80"};
    for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            check_long(names[n], units[u], "");
            check_long(names[n], units[u], "1");
        }
    }
}

static void test_every_rule_compiles(void)
{
    char names[512];
    text__pretoken_rule_names(names, sizeof names);
    CU_ASSERT(strlen(names) < sizeof names - 1);
    for (char *name = strtok(names, ", "); name; name = strtok(NULL, ", "))
        check_cut(name, "a", "a");
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("pre-tokenisers", NULL, NULL);
    CU_add_test(suite, "llama", test_llama);
    CU_add_test(suite, "qwen", test_qwen);
    CU_add_test(suite, "tekken", test_tekken);
    CU_add_test(suite, "glm and kimi", test_glm_and_kimi);
    CU_add_test(suite, "deepseek", test_deepseek);
    CU_add_test(suite, "default", test_default);
    CU_add_test(suite, "long texts", test_long);
    CU_add_test(suite, "every rule compiles", test_every_rule_compiles);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
