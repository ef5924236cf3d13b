/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/text/make.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int32_t make_token(struct make *make, const char *text, enum text_token_type type, float score)
{
    if (make->n == MAKE_MAX_TOKENS)
        abort();
    make->tokens[make->n] = strdup(text);
    make->types[make->n] = type;
    make->scores[make->n] = score;
    return (int32_t)make->n++;
}

static void add_spm_base(struct make *make)
{
    make_token(make, "<unk>", TEXT_TOKEN_UNKNOWN, 0);
    make_token(make, "<s>", TEXT_TOKEN_CONTROL, 0);
    make_token(make, "</s>", TEXT_TOKEN_CONTROL, 0);
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", byte);
        make_token(make, text, TEXT_TOKEN_BYTE, 0);
    }
}

/* The bytes that do not stand for themselves have the characters U+0100 and up, in order. */
static void add_bpe_base(struct make *make)
{
    unsigned next = 0x100;
    for (unsigned byte = 0; byte < 256; byte++) {
        bool itself = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
        unsigned c = itself ? byte : next++;
        char text[3] = {(char)c};
        if (c >= 0x80) {
            text[0] = (char)(0xc0 | c >> 6);
            text[1] = (char)(0x80 | (c & 0x3f));
        }
        make_token(make, text, TEXT_TOKEN_NORMAL, 0);
    }
}

void make_begin(struct make *make, const char *pre)
{
    *make = (struct make){.writer = shard_gguf_writer_create(), .spm = !pre};
    shard_gguf_writer_str(make->writer, "general.architecture", "llama");
    shard_gguf_writer_str(make->writer, "tokenizer.ggml.model", pre ? "gpt2" : "llama");
    if (pre && *pre)
        shard_gguf_writer_str(make->writer, "tokenizer.ggml.pre", pre);
    if (pre)
        add_bpe_base(make);
    else
        add_spm_base(make);
}

void make_begin_gemma4(struct make *make)
{
    *make = (struct make){.writer = shard_gguf_writer_create()};
    shard_gguf_writer_str(make->writer, "general.architecture", "gemma4");
    shard_gguf_writer_str(make->writer, "tokenizer.ggml.model", "gemma4");
    add_spm_base(make);
}

static void add_missing(struct make *make, const char *text)
{
    for (size_t i = 0; i < make->n; i++) {
        if (strcmp(make->tokens[i], text) == 0)
            return;
    }
    make_token(make, text, TEXT_TOKEN_NORMAL, 0);
}

void make_merge(struct make *make, const char *line)
{
    char left[64], right[64], both[128];
    if (make->n_merges == MAKE_MAX_MERGES || sscanf(line, "%63s %63s", left, right) != 2)
        abort();
    make->merges[make->n_merges++] = line;
    snprintf(both, sizeof both, "%s%s", left, right);
    add_missing(make, left);
    add_missing(make, right);
    add_missing(make, both);
}

static struct text_vocab *read_back(struct make *make, struct proto_error *error)
{
    void *bytes = NULL;
    size_t len;
    struct shard_gguf *gguf = NULL;
    struct text_vocab *vocab = NULL;
    if (shard_gguf_writer_header(make->writer, &bytes, &len, error) == PROTO_OK &&
        shard_gguf_parse(&gguf, bytes, len, "small.gguf", error) == PROTO_OK)
        text_vocab_create(&vocab, gguf, error);
    shard_gguf_close(gguf);
    free(bytes);
    return vocab;
}

struct text_vocab *make_end(struct make *make, struct proto_error *error)
{
    struct shard_gguf_writer *w = make->writer;
    shard_gguf_writer_strs(w, "tokenizer.ggml.tokens", (const char *const *)make->tokens, make->n);
    shard_gguf_writer_i32s(w, "tokenizer.ggml.token_type", make->types, make->n);
    if (make->spm)
        shard_gguf_writer_f32s(w, "tokenizer.ggml.scores", make->scores, make->n);
    else
        shard_gguf_writer_strs(w, "tokenizer.ggml.merges", make->merges, make->n_merges);
    struct text_vocab *vocab = read_back(make, error);
    shard_gguf_writer_destroy(w);
    for (size_t i = 0; i < make->n; i++)
        free(make->tokens[i]);
    return vocab;
}

struct text_vocab *make_small_spm(void)
{
    static const struct {
        const char *text;
        float score;
    } pieces[] = {
        {"\xe2\x96\x81", -1},
        {"a", -2},
        {"b", -3},
        {"c", -4},
        {"\xc3\xa9", -5},
        {"ab", -10},
        {"bc", -9},
        {"abc", -8},
        {"aa", -12},
        {"\xe2\x96\x81"
         "a",
         -11},
        {"\xe2\x96\x81"
         "ab",
         -7},
        {"aaaa", -12},
        {"cc", -9},
        {"bcc", -20},
        {"\xe2\x96\x81\xe2\x96\x81", -6},
    };
    struct make make;
    make_begin(&make, NULL);
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        make_token(&make, pieces[i].text, TEXT_TOKEN_NORMAL, pieces[i].score);
    make_token(&make, "<u>", TEXT_TOKEN_USER, 0);
    make_token(&make, "<u>a", TEXT_TOKEN_USER, 0);
    return make_end(&make, NULL);
}

struct text_vocab *make_small_bpe(void)
{
    struct make make;
    make_begin(&make, "llama-bpe");
    make_merge(&make, "b c");
    make_merge(&make, "a b");
    make_merge(&make, "a a");
    make_merge(&make, "\xc4\xa0 a"); /* U+0120 is the space */
    make_merge(&make, "aa aa");
    make_merge(&make, "ab bc");
    make_token(&make, "xyz", TEXT_TOKEN_NORMAL, 0);
    make_token(&make, "<|begin|>", TEXT_TOKEN_CONTROL, 0);
    make_token(&make, "<|end|>", TEXT_TOKEN_CONTROL, 0);
    return make_end(&make, NULL);
}
