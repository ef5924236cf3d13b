/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/stream.h"
#include "tests/text/make.h"

static struct proto_error error;
static struct text_vocab *spm, *bpe; /* in bpe, the id of a byte is the byte */

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

/* Pushes a token; returns what is shown, terminated. */
static const char *push(struct text_stream *stream, int32_t id, bool *stopped)
{
    static char out[256];
    const char *text = NULL;
    size_t len = 0;
    CU_ASSERT_EQUAL(text_stream_push(stream, id, &text, &len, stopped, &error), PROTO_OK);
    CU_ASSERT_FATAL(len < sizeof out);
    memcpy(out, text, len);
    out[len] = '\0';
    return out;
}

static const char *finish(struct text_stream *stream)
{
    static char out[256];
    const char *text = NULL;
    size_t len = 0;
    CU_ASSERT_EQUAL(text_stream_finish(stream, &text, &len, &error), PROTO_OK);
    CU_ASSERT_FATAL(len < sizeof out);
    memcpy(out, text, len);
    out[len] = '\0';
    return out;
}

static struct text_stream *create(const struct text_vocab *vocab, const char *const *stops,
                                  size_t n_stops, bool strip)
{
    struct text_stream *stream = NULL;
    CU_ASSERT_EQUAL_FATAL(text_stream_create(&stream, vocab, stops, n_stops, strip, &error),
                          PROTO_OK);
    return stream;
}

/* Pushes the bytes of `in`; all that is shown must be `want`, and `stop` says whether a stop string
 * ended it. */
static void check_text(const char *const *stops, size_t n_stops, const char *in, const char *want,
                       bool stop)
{
    struct text_stream *stream = create(bpe, stops, n_stops, false);
    char out[512] = "";
    bool stopped = false;
    for (const char *p = in; *p && !stopped; p++)
        strcat(out, push(stream, (unsigned char)*p, &stopped));
    strcat(out, finish(stream));
    CU_ASSERT_STRING_EQUAL(out, want);
    CU_ASSERT_EQUAL(stopped, stop);
    text_stream_destroy(stream);
}

static void test_characters_are_whole(void)
{
    struct text_stream *stream = create(bpe, NULL, 0, false);
    bool stopped;
    CU_ASSERT_STRING_EQUAL(push(stream, 'x', &stopped), "x");
    CU_ASSERT_STRING_EQUAL(push(stream, 0xf0, &stopped), "");
    CU_ASSERT_STRING_EQUAL(push(stream, 0x9f, &stopped), "");
    CU_ASSERT_STRING_EQUAL(push(stream, 0xa6, &stopped), "");
    CU_ASSERT_STRING_EQUAL(push(stream, 0x99, &stopped), "\xf0\x9f\xa6\x99");
    CU_ASSERT_FALSE(stopped);
    CU_ASSERT_STRING_EQUAL(finish(stream), "");
    text_stream_destroy(stream);
}

static void test_broken_characters(void)
{
    check_text(NULL, 0,
               "a\xff"
               "b",
               "a\xef\xbf\xbd"
               "b",
               false);
    check_text(NULL, 0,
               "a\xf0\x9f"
               "b",
               "a\xef\xbf\xbd"
               "b",
               false);
    check_text(NULL, 0, "\xc3", "\xef\xbf\xbd", false);
    check_text(NULL, 0, "\xf0\x9f\xa6", "\xef\xbf\xbd", false);
    check_text(NULL, 0, "\xe0\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", false);
    check_text(NULL, 0, "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", false);
    check_text(NULL, 0, "\xf4\x90", "\xef\xbf\xbd\xef\xbf\xbd", false);
    check_text(NULL, 0, "\xc3\xc3\xa9", "\xef\xbf\xbd\xc3\xa9", false);
}

static void test_stops(void)
{
    static const char *const stops[] = {"END", "\n\n", "aab"};
    check_text(stops, 3, "some text", "some text", false);
    check_text(stops, 3, "some END text", "some ", true);
    check_text(stops, 3, "some EN text", "some EN text", false);
    check_text(stops, 3, "END", "", true);
    check_text(stops, 3, "x\ny\n\nz", "x\ny", true);
    check_text(stops, 3, "aaab", "a", true);
    check_text(stops, 3, "EENDx", "E", true);
    check_text(stops, 3, "xEN", "xEN", false); /* held back to the end */
}

static void test_stop_is_held_back(void)
{
    static const char *const stops[] = {"bcx"};
    struct text_stream *stream = create(bpe, stops, 1, false);
    bool stopped;
    CU_ASSERT_STRING_EQUAL(push(stream, 'a', &stopped), "a");
    CU_ASSERT_STRING_EQUAL(push(stream, 'b', &stopped), "");
    CU_ASSERT_STRING_EQUAL(push(stream, 'c', &stopped), "");
    CU_ASSERT_STRING_EQUAL(push(stream, 'b', &stopped), "bc");
    CU_ASSERT_STRING_EQUAL(push(stream, 'c', &stopped), "");
    CU_ASSERT_STRING_EQUAL(push(stream, 'x', &stopped), "");
    CU_ASSERT_TRUE(stopped);
    CU_ASSERT_STRING_EQUAL(push(stream, 'a', &stopped), "");
    CU_ASSERT_TRUE(stopped);
    CU_ASSERT_STRING_EQUAL(finish(stream), "");
    text_stream_destroy(stream);
}

static void test_space_at_start(void)
{
    int32_t space_a = 259 + 9;
    bool stopped;
    struct text_stream *stream = create(spm, NULL, 0, true);
    CU_ASSERT_STRING_EQUAL(push(stream, 1, &stopped), ""); /* control tokens show nothing */
    CU_ASSERT_STRING_EQUAL(push(stream, space_a, &stopped), "a");
    CU_ASSERT_STRING_EQUAL(push(stream, space_a, &stopped), " a");
    text_stream_destroy(stream);
    stream = create(spm, NULL, 0, false);
    CU_ASSERT_STRING_EQUAL(push(stream, space_a, &stopped), " a");
    text_stream_destroy(stream);
    stream = create(bpe, NULL, 0, true); /* byte-level text has its own spaces only */
    CU_ASSERT_STRING_EQUAL(push(stream, ' ', &stopped), " ");
    text_stream_destroy(stream);
}

static void test_bad_input(void)
{
    static const char *const stops[] = {"x", ""};
    struct text_stream *stream = NULL;
    CU_ASSERT_EQUAL(text_stream_create(&stream, spm, stops, 2, false, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "stop string 2"));
    stream = create(spm, NULL, 0, false);
    const char *text;
    size_t len;
    bool stopped;
    CU_ASSERT_EQUAL(text_stream_push(stream, -1, &text, &len, &stopped, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(text_stream_push(stream, 70000, &text, &len, &stopped, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "70000"));
    text_stream_destroy(stream);
    text_stream_destroy(NULL);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("stream", make_all, destroy_all);
    CU_add_test(suite, "characters are whole", test_characters_are_whole);
    CU_add_test(suite, "broken characters", test_broken_characters);
    CU_add_test(suite, "stops", test_stops);
    CU_add_test(suite, "a stop is held back", test_stop_is_held_back);
    CU_add_test(suite, "space at the start", test_space_at_start);
    CU_add_test(suite, "bad input", test_bad_input);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
