/* SPDX-License-Identifier: Apache-2.0 */
/* Characters and stop strings that several tokens make, a byte each: no answer cuts a character in
 * two, in one piece or streamed, and the logprobs' bytes are those that were generated. */
#include <CUnit/Basic.h>

#include <string.h>

#include "tests/api/chat_call.h"

#define E_ACUTE "\xc3\xa9"
#define EURO    "\xe2\x82\xac"
#define KIP     "\xe2\x82\xad" /* differs from the euro sign in its last byte */
#define LLAMA   "\xf0\x9f\xa6\x99"
#define BROKEN  "\xef\xbf\xbd"

struct said {
    char text[256];          /* all events' */
    unsigned char bytes[64]; /* all logprobs' */
    size_t n_bytes;
    unsigned events, broken; /* events with text; of those, with U+FFFD */
    char finish[16];
    json_int_t offset; /* the last of a completion's */
};

static const json_t *get(const json_t *json, const char *name)
{
    return json_object_get(json, name);
}

static void add_text(struct said *said, const char *text)
{
    if (!text || !*text)
        return;
    said->events++;
    said->broken += strstr(text, BROKEN) != NULL;
    strncat(said->text, text, sizeof said->text - 1 - strlen(said->text));
}

static void add_byte(struct said *said, json_int_t byte)
{
    CU_ASSERT_FATAL(byte >= 0 && byte < 256 && said->n_bytes < sizeof said->bytes);
    said->bytes[said->n_bytes++] = (unsigned char)byte;
}

/* The fake engine's tokens are characters of ASCII or single bytes, "bytes:\xc3". */
static void add_token(struct said *said, const char *token)
{
    unsigned byte = (unsigned char)token[0];
    CU_ASSERT_TRUE(strlen(token) == 1 || sscanf(token, "bytes:\\x%2x", &byte) == 1);
    add_byte(said, (json_int_t)byte);
}

static void add_logprobs(struct said *said, const json_t *logprobs)
{
    const json_t *content = get(logprobs, "content"), *tokens = get(logprobs, "tokens");
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *bytes = get(json_array_get(content, i), "bytes");
        for (size_t k = 0; k < json_array_size(bytes); k++)
            add_byte(said, json_integer_value(json_array_get(bytes, k)));
    }
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        json_int_t offset = json_integer_value(json_array_get(get(logprobs, "text_offset"), i));
        CU_ASSERT(offset >= said->offset);
        said->offset = offset;
        add_token(said, json_string_value(json_array_get(tokens, i)));
    }
}

static void add_choice(struct said *said, const json_t *json)
{
    const json_t *choice = json_array_get(get(json, "choices"), 0);
    const char *finish = json_string_value(get(choice, "finish_reason"));
    CU_ASSERT_PTR_NOT_NULL(choice);
    add_text(said, json_string_value(get(choice, "text")));
    add_text(said, json_string_value(get(get(choice, "message"), "content")));
    add_text(said, json_string_value(get(get(choice, "delta"), "content")));
    add_logprobs(said, get(choice, "logprobs"));
    if (finish)
        snprintf(said->finish, sizeof said->finish, "%s", finish);
}

static struct said ask(const char *path, const char *start, bool stream, const char *more)
{
    struct said said = {0};
    char body[512];
    snprintf(body, sizeof body, "{%s, \"seed\": 0, \"stream\": %s%s}", start,
             stream ? "true" : "false", more);
    struct answer answer = call(chat_url, "POST", path, "", body);
    CU_ASSERT_EQUAL_FATAL(answer.status, 200);
    char *at = answer.body, *line;
    while ((line = strsep(&at, "\n"))) {
        const char *text = stream && strncmp(line, "data: ", 6) == 0 ? line + 6 : line;
        json_t *json = json_loads(text, 0, NULL);
        if (json)
            add_choice(&said, json);
        json_decref(json);
    }
    answer_finish(&answer);
    return said;
}

/* What the model says, what is shown of it, and how many of its bytes were generated. */
static void check(const char *says, const char *more, const char *shown, size_t n_bytes,
                  const char *finish)
{
    static const struct {
        const char *path, *start;
    } calls[] = {
        {"/v1/completions", "\"prompt\": \"x\", \"logprobs\": 0"},
        {"/v1/chat/completions", CHAT_HI + 1},
    };
    fake_engine_say(chat_engine, says);
    for (unsigned i = 0; i < 4; i++) {
        char rest[256];
        bool chat = i & 1, stream = i & 2;
        snprintf(rest, sizeof rest, "%s%s", chat ? ", \"logprobs\": true" : "", more);
        struct said said = ask(calls[chat].path, calls[chat].start, stream, rest);
        CU_ASSERT_STRING_EQUAL(said.text, shown);
        CU_ASSERT_STRING_EQUAL(said.finish, finish);
        CU_ASSERT_EQUAL(said.n_bytes, n_bytes);
        CU_ASSERT_EQUAL(memcmp(said.bytes, says, n_bytes), 0);
        CU_ASSERT_EQUAL(said.broken, strstr(shown, BROKEN) != NULL);
        CU_ASSERT(!stream || strlen(shown) < 5 || said.events > 1);
    }
    fake_engine_say(chat_engine, NULL);
}

static void test_characters(void)
{
    static const char text[] = "a" E_ACUTE EURO LLAMA "b" KIP;
    check(text, "", text, strlen(text), "stop");
    /* The end of what may be generated is in a character's middle. */
    check(LLAMA LLAMA, ", \"max_tokens\": 6", LLAMA BROKEN, 6, "length");
    /* It never becomes a character. */
    check("a\xf0\x9f"
          "b",
          "", "a" BROKEN "b", 4, "stop");
}

static void test_stops(void)
{
    check("a" EURO "b" LLAMA "cd", ", \"stop\": \"" LLAMA "c\"", "a" EURO "b", 10, "stop");
    check("a" EURO "b", ", \"stop\": [\"zz\", \"" EURO "\"]", "a", 4, "stop");
    /* Two bytes of a stop string are another character's. */
    check("a" KIP "b" KIP, ", \"stop\": \"" EURO "\"", "a" KIP "b" KIP, 8, "stop");
    check(KIP EURO "b", ", \"stop\": \"" EURO "\"", KIP, 6, "stop");
    check("x" E_ACUTE E_ACUTE "y", ", \"stop\": \"" E_ACUTE "y\"", "x" E_ACUTE, 6, "stop");
    /* Begun, but not completed. */
    check("x" E_ACUTE LLAMA, ", \"stop\": \"" E_ACUTE LLAMA "!\"", "x" E_ACUTE LLAMA, 7, "stop");
    check("ab" LLAMA, ", \"stop\": \"b" EURO "\"", "ab" LLAMA, 6, "stop");
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("characters", chat_set_up, chat_tear_down);
    CU_add_test(suite, "characters", test_characters);
    CU_add_test(suite, "stops", test_stops);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned bad = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
    CU_cleanup_registry();
    return bad > 0;
}
