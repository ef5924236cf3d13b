/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shard/gguf.h"
#include "shard/gguf_writer.h"

#define CORPUS SOURCE_DIR "/tests/fuzz/corpus/gguf/"

static char folder[] = "/tmp/caravan-gguf-XXXXXX";

static char *path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_file(const char *name, const void *bytes, size_t len, uint64_t size)
{
    FILE *file = fopen(path_of(name), "wb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    CU_ASSERT_EQUAL(fwrite(bytes, 1, len, file), len);
    CU_ASSERT_EQUAL(fclose(file), 0);
    CU_ASSERT_EQUAL(truncate(path_of(name), (off_t)size), 0);
}

static struct shard_gguf_writer *writer(void)
{
    struct shard_gguf_writer *w = shard_gguf_writer_create();
    CU_ASSERT_PTR_NOT_NULL_FATAL(w);
    shard_gguf_writer_str(w, "general.architecture", "llama");
    return w;
}

static void add_tensor(struct shard_gguf_writer *w, const char *name, enum kern_type type,
                       uint64_t in, uint64_t out)
{
    shard_gguf_writer_tensor(w, name, kern_type_find(type), 2, (uint64_t[]){in, out});
}

/* Finishes the writer into a file of header and `data` bytes of zeros; returns the header's
 * length. */
static size_t finish(struct shard_gguf_writer *w, const char *name, uint64_t data)
{
    void *bytes;
    size_t len;
    CU_ASSERT_EQUAL_FATAL(shard_gguf_writer_header(w, &bytes, &len, NULL), PROTO_OK);
    write_file(name, bytes, len, len + data);
    shard_gguf_writer_destroy(w);
    free(bytes);
    return len;
}

static struct shard_gguf *open_ok(const char *name)
{
    struct shard_gguf *gguf;
    struct proto_error error = {.text = ""};
    enum proto_status status = shard_gguf_open(&gguf, path_of(name), &error);
    if (status)
        fprintf(stderr, "%s\n", error.text);
    CU_ASSERT_EQUAL_FATAL(status, PROTO_OK);
    return gguf;
}

static void expect_refused(const char *name, enum proto_status expected, const char *text)
{
    struct shard_gguf *gguf;
    struct proto_error error = {.text = ""};
    CU_ASSERT_EQUAL(shard_gguf_open(&gguf, path_of(name), &error), expected);
    CU_ASSERT_PTR_NULL(gguf);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, text));
    if (!strstr(error.text, text))
        fprintf(stderr, "expected \"%s\" in: %s\n", text, error.text);
}

static struct shard_gguf *parse_corpus(const char *name, enum proto_status *status,
                                       struct proto_error *error)
{
    char path[512];
    uint8_t bytes[8192];
    struct shard_gguf *gguf;
    snprintf(path, sizeof path, CORPUS "%s", name);
    FILE *file = fopen(path, "rb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    size_t len = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    *status = shard_gguf_parse(&gguf, bytes, len, name, error);
    return gguf;
}

/* Each file breaks one rule; the text must be about that rule. */
static const struct {
    const char *name;
    enum proto_status status;
    const char *text;
} broken[] = {
    {"bad-empty", PROTO_FORMAT, "needs 4 bytes, 0 are left"},
    {"bad-magic", PROTO_FORMAT, "47 47 4d 4c, expected 47 47 55 46"},
    {"bad-version-1", PROTO_UNSUPPORTED, "version 1, expected 2 or 3"},
    {"bad-version-4", PROTO_UNSUPPORTED, "version 4, expected 2 or 3"},
    {"bad-big-endian", PROTO_UNSUPPORTED, "big-endian"},
    {"bad-many-tensors", PROTO_LIMIT, "tensors, at most 1048576"},
    {"bad-limit-tensors", PROTO_LIMIT, "1048577 tensors, at most 1048576"},
    {"bad-more-tensors", PROTO_FORMAT, "3 tensors are announced"},
    {"bad-many-values", PROTO_FORMAT, "metadata values are announced"},
    {"bad-value-type", PROTO_FORMAT, "\"k\" has the value type 13"},
    {"bad-element-type", PROTO_FORMAT, "\"k\" has the value type 99"},
    {"bad-nested-array", PROTO_UNSUPPORTED, "\"k\" is an array of arrays"},
    {"bad-array-count", PROTO_LIMIT, "at most 1073741824"},
    {"bad-array-long", PROTO_FORMAT, "needs 8589934592 bytes, 8 are left"},
    {"bad-array-overflow", PROTO_LIMIT, "at most 1073741824"},
    {"bad-strings-count", PROTO_FORMAT, "strings of an array are announced"},
    {"bad-string-length", PROTO_FORMAT, "needs 536870912 bytes"},
    {"bad-string-cap", PROTO_LIMIT, "at most 1073741824"},
    {"bad-key-length", PROTO_LIMIT, "18446744073709551615 bytes long"},
    {"bad-key-empty", PROTO_FORMAT, "is empty"},
    {"bad-key-control", PROTO_FORMAT, "\"a?b\" holds the control character 0x0a"},
    {"bad-key-twice", PROTO_FORMAT, "\"k\" occurs twice"},
    {"bad-alignment-0", PROTO_FORMAT, "is 0, expected a power of two"},
    {"bad-alignment-24", PROTO_FORMAT, "is 24, expected a power of two"},
    {"bad-alignment-type", PROTO_FORMAT, "expected u32"},
    {"bad-alignment-u64", PROTO_FORMAT, "expected u32"},
    {"bad-tensor-name-64", PROTO_LIMIT, "64 bytes, at most 63"},
    {"bad-tensor-name-empty", PROTO_FORMAT, "tensor name before byte 32 is empty"},
    {"bad-tensor-name-nul", PROTO_FORMAT, "control character 0x00"},
    {"bad-tensor-twice", PROTO_FORMAT, "two tensors are named \"a\""},
    {"bad-dims-0", PROTO_FORMAT, "\"a\" has 0 as dimension 0"},
    {"bad-dims-none", PROTO_FORMAT, "\"a\" has 0 dimensions"},
    {"bad-dims-5", PROTO_FORMAT, "\"a\" has 5 dimensions"},
    {"bad-dims-many", PROTO_FORMAT, "2147483648 dimensions"},
    {"bad-dims-product", PROTO_LIMIT, "more than 2^63 elements"},
    {"bad-dims-2-63", PROTO_LIMIT, "more than 2^63 elements"},
    {"bad-dims-bytes", PROTO_LIMIT, "longer than 2^64 bytes"},
    {"bad-row", PROTO_FORMAT, "33 values, expected a multiple of 32, the block of Q8_0"},
    {"bad-row-k", PROTO_FORMAT, "128 values, expected a multiple of 256, the block of Q4_K"},
    {"bad-type-retired", PROTO_UNSUPPORTED, "\"a\" has type 4, which is unknown"},
    {"bad-type-ik", PROTO_UNSUPPORTED, "\"a\" has type 139, written by ik_llama.cpp"},
    {"bad-type-huge", PROTO_UNSUPPORTED, "\"a\" has type 4294967295"},
    {"bad-offset-unaligned", PROTO_FORMAT, "33, expected a multiple of the alignment 32"},
    {"bad-offset-overlap", PROTO_FORMAT, "offset 32 and overlaps tensor \"a\", expected 64"},
    {"bad-offset-gap", PROTO_FORMAT, "offset 96, expected 32"},
    {"bad-offset-first", PROTO_FORMAT, "offset 32, expected 0"},
    {"bad-offset-2-64", PROTO_LIMIT, "ends beyond 2^64"},
};

static void test_broken_rules(void)
{
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        enum proto_status status;
        struct proto_error error = {.text = ""};
        struct shard_gguf *gguf = parse_corpus(broken[i].name, &status, &error);
        CU_ASSERT_PTR_NULL(gguf);
        CU_ASSERT_EQUAL(status, broken[i].status);
        CU_ASSERT_EQUAL(strncmp(error.text, broken[i].name, strlen(broken[i].name)), 0);
        CU_ASSERT_PTR_NOT_NULL(strstr(error.text, broken[i].text));
        if (!strstr(error.text, broken[i].text))
            fprintf(stderr, "expected \"%s\" in: %s\n", broken[i].text, error.text);
        shard_gguf_close(gguf);
    }
}

static void test_every_prefix_is_refused(void)
{
    struct shard_gguf_writer *w = writer();
    void *bytes;
    size_t len;
    shard_gguf_writer_strs(w, "tokenizer.ggml.tokens", (const char *[]){"<s>", "", "a"}, 3);
    add_tensor(w, "a", KERN_F32, 8, 2);
    CU_ASSERT_EQUAL_FATAL(shard_gguf_writer_header(w, &bytes, &len, NULL), PROTO_OK);
    shard_gguf_writer_destroy(w);
    /* The last tensor's offset ends the header; what follows is padding. */
    size_t parsed = 0;
    for (size_t n = 0; n <= len; n++) {
        struct shard_gguf *gguf;
        enum proto_status status = shard_gguf_parse(&gguf, bytes, n, "cut", NULL);
        CU_ASSERT(status == PROTO_OK || status == PROTO_FORMAT);
        parsed += status == PROTO_OK;
        shard_gguf_close(gguf);
    }
    CU_ASSERT(parsed >= 1 && parsed <= 32);
    free(bytes);
}

static void test_valid_files_parse(void)
{
    static const char *const names[] = {
        "ok-no-tensors", "ok-nothing",     "ok-every-kind",           "ok-version-2",
        "ok-padded",     "ok-alignment-1", "ok-type-without-kernels", "ok-alignment-4096",
        "ok-four-dims",  "ok-experts-5g",  "ok-split-keys",           "ok-name-63",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        enum proto_status status;
        struct proto_error error = {.text = ""};
        struct shard_gguf *gguf = parse_corpus(names[i], &status, &error);
        if (status)
            fprintf(stderr, "%s\n", error.text);
        CU_ASSERT_EQUAL(status, PROTO_OK);
        shard_gguf_close(gguf);
    }
}

static void test_integers(void)
{
    enum proto_status status;
    struct proto_error error;
    struct shard_gguf *gguf = parse_corpus("ok-every-kind", &status, &error);
    uint32_t narrow = 7;
    uint64_t wide = 7;
    CU_ASSERT_PTR_NOT_NULL_FATAL(gguf);
    CU_ASSERT(!shard_gguf_u32(gguf, "u8", &narrow, NULL) && narrow == 200);
    CU_ASSERT(!shard_gguf_u32(gguf, "u16", &narrow, NULL) && narrow == 60000);
    CU_ASSERT(!shard_gguf_u32(gguf, "u32", &narrow, NULL) && narrow == 1u << 31);
    CU_ASSERT(!shard_gguf_u64(gguf, "u64", &wide, NULL) && wide == (uint64_t)1 << 63);
    CU_ASSERT_EQUAL(shard_gguf_u32(gguf, "none", &narrow, NULL), PROTO_NOTFOUND);
    CU_ASSERT_EQUAL(shard_gguf_u32(gguf, "u64", &narrow, &error), PROTO_FORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "9223372036854775808, expected 0 to 4294967295"));
    CU_ASSERT_EQUAL(shard_gguf_u64(gguf, "i64", &wide, &error), PROTO_FORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "holds -3"));
    CU_ASSERT_EQUAL(shard_gguf_u32(gguf, "f32", &narrow, &error), PROTO_FORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "is of type f32, expected an integer"));
    CU_ASSERT_EQUAL(shard_gguf_u32(gguf, "a.u8", &narrow, &error), PROTO_FORMAT);
    CU_ASSERT_EQUAL(shard_gguf_u32(gguf, "bool", &narrow, &error), PROTO_FORMAT);
    CU_ASSERT(narrow == 1u << 31 && wide == (uint64_t)1 << 63);
    CU_ASSERT_EQUAL(shard_gguf_int_element(shard_gguf_find(gguf, "a.i16"), 0), -2);
    CU_ASSERT_EQUAL(shard_gguf_int_element(shard_gguf_find(gguf, "a.u64"), 0), INT64_MAX);
    shard_gguf_close(gguf);
}

static void test_per_layer_integers(void)
{
    enum proto_status status;
    struct proto_error error;
    struct shard_gguf *gguf = parse_corpus("ok-every-kind", &status, &error);
    uint32_t value = 7;
    CU_ASSERT_PTR_NOT_NULL_FATAL(gguf);
    CU_ASSERT(!shard_gguf_u32_at(gguf, "a.u32", 2, &value, NULL) && value == 3);
    CU_ASSERT(!shard_gguf_u32_at(gguf, "a.bool", 0, &value, NULL) && value == 0);
    CU_ASSERT(!shard_gguf_u32_at(gguf, "u8", 11, &value, NULL) && value == 200);
    CU_ASSERT_EQUAL(shard_gguf_u32_at(gguf, "a.u32", 3, &value, &error), PROTO_FORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "has 3 elements, expected at least 4"));
    CU_ASSERT_EQUAL(shard_gguf_u32_at(gguf, "none", 0, &value, NULL), PROTO_NOTFOUND);
    CU_ASSERT_EQUAL(shard_gguf_u32_at(gguf, "a.f32", 0, &value, &error), PROTO_FORMAT);
    shard_gguf_close(gguf);
}

static void test_other_kinds(void)
{
    enum proto_status status;
    struct proto_error error;
    struct shard_gguf *gguf = parse_corpus("ok-every-kind", &status, &error);
    float real = 0;
    bool flag = false;
    struct shard_gguf_string text;
    CU_ASSERT_PTR_NOT_NULL_FATAL(gguf);
    CU_ASSERT(!shard_gguf_f32(gguf, "f32", &real, NULL) && real == 1.5f);
    CU_ASSERT(!shard_gguf_f32(gguf, "f64", &real, NULL) && real == 2.5f);
    CU_ASSERT_EQUAL(shard_gguf_f32(gguf, "u32", &real, NULL), PROTO_FORMAT);
    CU_ASSERT(!shard_gguf_bool(gguf, "bool", &flag, NULL) && flag);
    CU_ASSERT_EQUAL(shard_gguf_bool(gguf, "u8", &flag, NULL), PROTO_FORMAT);
    CU_ASSERT(!shard_gguf_str(gguf, "bytes", &text, NULL) && text.len == 3);
    CU_ASSERT_EQUAL(memcmp(text.data, "\0\xff\n", 3), 0);
    CU_ASSERT(!shard_gguf_str(gguf, "empty", &text, NULL) && text.len == 0);
    CU_ASSERT_EQUAL(shard_gguf_str(gguf, "u8", &text, NULL), PROTO_FORMAT);
    CU_ASSERT_EQUAL(shard_gguf_f32_element(shard_gguf_find(gguf, "a.f32"), 1), -1.0f);
    const struct shard_gguf_value *tokens = shard_gguf_find(gguf, "tokenizer.ggml.tokens");
    CU_ASSERT_PTR_NOT_NULL_FATAL(tokens);
    CU_ASSERT(tokens->count == 3 && tokens->strings[2].len == 4);
    CU_ASSERT_EQUAL(memcmp(tokens->strings[2].data, "\u2581a", 4), 0);
    shard_gguf_close(gguf);
}

static void test_large_tensors(void)
{
    enum proto_status status;
    struct proto_error error;
    struct shard_gguf *gguf = parse_corpus("ok-experts-5g", &status, &error);
    CU_ASSERT_PTR_NOT_NULL_FATAL(gguf);
    const struct shard_tensor *tensor = shard_gguf_tensor(gguf, 0);
    CU_ASSERT_EQUAL(tensor->bytes, (uint64_t)5120 * 8192 * 128 / 256 * 144);
    CU_ASSERT_EQUAL(tensor->dims[3], 1);
    CU_ASSERT_PTR_NULL(tensor->data);
    shard_gguf_close(gguf);
}

static void test_mapped_file(void)
{
    struct shard_gguf_writer *w = writer();
    add_tensor(w, "b", KERN_F32, 3, 1);
    add_tensor(w, "a", KERN_Q8_0, 32, 2);
    size_t header = finish(w, "two.gguf", 32 + 68);
    struct shard_gguf *gguf = open_ok("two.gguf");
    CU_ASSERT_EQUAL(shard_gguf_version(gguf), 3);
    CU_ASSERT_EQUAL(shard_gguf_n_files(gguf), 1);
    CU_ASSERT_STRING_EQUAL(shard_gguf_path(gguf, 0), path_of("two.gguf"));
    CU_ASSERT_EQUAL(shard_gguf_find_tensor(gguf, "b"), 0);
    CU_ASSERT_EQUAL(shard_gguf_find_tensor(gguf, "a"), 1);
    CU_ASSERT_EQUAL(shard_gguf_find_tensor(gguf, "c"), -1);
    const struct shard_tensor *a = shard_gguf_tensor(gguf, 1);
    CU_ASSERT(a->offset == header + 32 && a->bytes == 68 && a->data[67] == 0);
    shard_gguf_close(gguf);

    CU_ASSERT_EQUAL(truncate(path_of("two.gguf"), (off_t)header + 32 + 67), 0);
    char text[96];
    snprintf(text, sizeof text, "needs %zu bytes, has %zu; download it again", header + 100,
             header + 99);
    expect_refused("two.gguf", PROTO_FORMAT, text);
}

static void test_files_that_are_none(void)
{
    write_file("empty.gguf", "", 0, 0);
    expect_refused("empty.gguf", PROTO_FORMAT, "is empty");
    expect_refused("absent.gguf", PROTO_NOTFOUND, "cannot open");
    expect_refused(".", PROTO_INVALID, "not a regular file");
    CU_ASSERT_EQUAL(mkfifo(path_of("fifo.gguf"), 0600), 0);
    expect_refused("fifo.gguf", PROTO_INVALID, "not a regular file");
}

/* A file of a split set with one tensor of 32 bytes, named by its number. */
static void write_split(const char *name, uint32_t no, uint32_t count, uint32_t total)
{
    char tensor[16];
    struct shard_gguf_writer *w = no ? shard_gguf_writer_create() : writer();
    shard_gguf_writer_u32(w, "split.no", no);
    shard_gguf_writer_u32(w, "split.count", count);
    shard_gguf_writer_u32(w, "split.tensors.count", total);
    snprintf(tensor, sizeof tensor, "t%u", no);
    add_tensor(w, tensor, KERN_F32, 8, 1);
    finish(w, name, 32);
}

static void test_split_files(void)
{
    write_split("m-00001-of-00003.gguf", 0, 3, 3);
    write_split("m-00002-of-00003.gguf", 1, 3, 3);
    expect_refused("m-00001-of-00003.gguf", PROTO_NOTFOUND,
                   "file 3 of 3 of a split set is missing");
    write_split("m-00003-of-00003.gguf", 2, 3, 3);
    struct shard_gguf *gguf = open_ok("m-00001-of-00003.gguf");
    CU_ASSERT_EQUAL(shard_gguf_n_files(gguf), 3);
    CU_ASSERT_EQUAL(shard_gguf_n_tensors(gguf), 3);
    CU_ASSERT_EQUAL(shard_gguf_tensor(gguf, 2)->file, 2);
    CU_ASSERT_PTR_NOT_NULL(strstr(shard_gguf_path(gguf, 2), "m-00003-of-00003.gguf"));
    CU_ASSERT_EQUAL(shard_gguf_find_tensor(gguf, "t1"), 1);
    CU_ASSERT_EQUAL(shard_gguf_tensor(gguf, 2)->data[31], 0);
    shard_gguf_close(gguf);
    expect_refused("m-00002-of-00003.gguf", PROTO_INVALID, "open the first, ");
}

static void test_split_files_that_disagree(void)
{
    write_split("n-00001-of-00002.gguf", 0, 2, 3);
    write_split("n-00002-of-00002.gguf", 1, 2, 3);
    expect_refused("n-00001-of-00002.gguf", PROTO_FORMAT, "holds 2 tensors, expected 3");
    write_split("n-00001-of-00002.gguf", 0, 2, 2);
    write_split("n-00002-of-00002.gguf", 0, 2, 2);
    expect_refused("n-00001-of-00002.gguf", PROTO_FORMAT,
                   "is file 1 of 2 of a split set, expected");
    write_split("n-00002-of-00002.gguf", 1, 3, 2);
    expect_refused("n-00001-of-00002.gguf", PROTO_FORMAT,
                   "is file 2 of 3 of a split set, expected");

    struct shard_gguf_writer *w = shard_gguf_writer_create();
    shard_gguf_writer_u32(w, "split.no", 1);
    shard_gguf_writer_u32(w, "split.count", 2);
    add_tensor(w, "t0", KERN_F32, 8, 1);
    size_t header = finish(w, "n-00002-of-00002.gguf", 32);
    expect_refused("n-00001-of-00002.gguf", PROTO_FORMAT, "two tensors are named \"t0\"");
    CU_ASSERT_EQUAL(truncate(path_of("n-00002-of-00002.gguf"), (off_t)header + 31), 0);
    expect_refused("n-00001-of-00002.gguf", PROTO_FORMAT, "file is truncated");

    write_split("renamed.gguf", 0, 2, 2);
    expect_refused("renamed.gguf", PROTO_FORMAT, "must end in \"-00001-of-00002.gguf\"");
}

static void test_card(void)
{
    write_split("c-00001-of-00002.gguf", 0, 2, 2);
    write_split("c-00002-of-00002.gguf", 1, 2, 2);
    struct shard_gguf *gguf = open_ok("c-00001-of-00002.gguf"), *card;
    void *bytes;
    size_t len;
    CU_ASSERT_EQUAL_FATAL(shard_gguf_card(gguf, &bytes, &len, NULL), PROTO_OK);
    shard_gguf_close(gguf);
    CU_ASSERT_EQUAL_FATAL(shard_gguf_parse(&card, bytes, len, "card", NULL), PROTO_OK);
    free(bytes);
    CU_ASSERT_EQUAL(shard_gguf_n_values(card), 1);
    CU_ASSERT_PTR_NOT_NULL(shard_gguf_find(card, "general.architecture"));
    CU_ASSERT_EQUAL(shard_gguf_n_tensors(card), 2);
    CU_ASSERT_STRING_EQUAL(shard_gguf_tensor(card, 1)->name, "t1");
    CU_ASSERT_EQUAL(shard_gguf_tensor(card, 1)->offset, len + 32);
    shard_gguf_close(card);
}

static void test_card_keeps_metadata(void)
{
    enum proto_status status;
    struct proto_error error;
    struct shard_gguf *gguf = parse_corpus("ok-every-kind", &status, &error), *card;
    void *bytes;
    size_t len;
    CU_ASSERT_PTR_NOT_NULL_FATAL(gguf);
    CU_ASSERT_EQUAL_FATAL(shard_gguf_card(gguf, &bytes, &len, NULL), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_gguf_parse(&card, bytes, len, "card", NULL), PROTO_OK);
    CU_ASSERT_EQUAL(shard_gguf_n_values(card) + 1, shard_gguf_n_values(gguf));
    CU_ASSERT_PTR_NULL(shard_gguf_find(card, "tokenizer.ggml.tokens"));
    uint32_t value = 0;
    CU_ASSERT(!shard_gguf_u32_at(card, "a.u32", 2, &value, NULL) && value == 3);
    struct shard_gguf_string text;
    CU_ASSERT(!shard_gguf_str(card, "bytes", &text, NULL) && text.len == 3);
    free(bytes);
    shard_gguf_close(card);
    shard_gguf_close(gguf);
}

static void test_writer_refuses_too_much(void)
{
    struct shard_gguf_writer *w = writer();
    void *bytes;
    size_t len;
    for (int i = 0; i < 3; i++)
        add_tensor(w, (char[]){(char)('a' + i), '\0'}, KERN_F32, (uint64_t)1 << 31, 1u << 29);
    CU_ASSERT_EQUAL(shard_gguf_writer_header(w, &bytes, &len, NULL), PROTO_OK);
    free(bytes);
    for (int i = 0; i < 16; i++)
        add_tensor(w, "more", KERN_F32, (uint64_t)1 << 31, 1u << 29);
    CU_ASSERT_EQUAL(shard_gguf_writer_header(w, &bytes, &len, NULL), PROTO_LIMIT);
    CU_ASSERT_PTR_NULL(bytes);
    shard_gguf_writer_destroy(w);
}

static int make_folder(void)
{
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

int main(void)
{
    if (CU_initialize_registry())
        return 1;
    CU_pSuite suite = CU_add_suite("gguf", make_folder, remove_folder);
    CU_add_test(suite, "broken rules", test_broken_rules);
    CU_add_test(suite, "every prefix is refused", test_every_prefix_is_refused);
    CU_add_test(suite, "valid files parse", test_valid_files_parse);
    CU_add_test(suite, "integers", test_integers);
    CU_add_test(suite, "per-layer integers", test_per_layer_integers);
    CU_add_test(suite, "other kinds", test_other_kinds);
    CU_add_test(suite, "large tensors", test_large_tensors);
    CU_add_test(suite, "mapped file", test_mapped_file);
    CU_add_test(suite, "files that are none", test_files_that_are_none);
    CU_add_test(suite, "split files", test_split_files);
    CU_add_test(suite, "split files that disagree", test_split_files_that_disagree);
    CU_add_test(suite, "card", test_card);
    CU_add_test(suite, "card keeps metadata", test_card_keeps_metadata);
    CU_add_test(suite, "writer refuses too much", test_writer_refuses_too_much);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures ? 1 : 0;
}
