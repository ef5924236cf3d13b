/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/api/fake_vocab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/gguf_writer.h"

#define N_BYTES 256
#define N_WORDS FAKE_N_WORDS
#define N_MARKS FAKE_N_MARKS
#define N_VOCAB FAKE_N_VOCAB
#define EOS     FAKE_EOS

static const char *const words[N_WORDS] = {"\xe2\x96\x81hello",
                                           "\xe2\x96\x81wor",
                                           "ld",
                                           "!",
                                           "\xe2\x96\x81",
                                           "h",
                                           "e",
                                           "l",
                                           "o",
                                           "w",
                                           "r",
                                           "d",
                                           "\xe2\x96\x81h",
                                           "\xe2\x96\x81he",
                                           "\xe2\x96\x81hel",
                                           "\xe2\x96\x81hell"};
/* Control tokens. */
static const char *const marks[N_MARKS] = {"<|start|>", "<|channel|>",        "<|message|>",
                                           "<|end|>",   "<|START_THINKING|>", "<|END_THINKING|>"};

static struct shard_gguf_writer *write_vocab(const char *source)
{
    static char bytes[N_BYTES][8];
    const char *tokens[N_VOCAB] = {"<unk>", "<s>", "</s>"};
    float scores[N_VOCAB] = {0};
    int32_t types[N_VOCAB] = {TEXT_TOKEN_UNKNOWN, TEXT_TOKEN_CONTROL, TEXT_TOKEN_CONTROL};
    for (int i = 0; i < N_BYTES; i++) {
        snprintf(bytes[i], sizeof bytes[i], "<0x%02X>", i);
        tokens[3 + i] = bytes[i];
        types[3 + i] = TEXT_TOKEN_BYTE;
    }
    for (int i = 0; i < N_WORDS; i++) {
        tokens[3 + N_BYTES + i] = words[i];
        scores[3 + N_BYTES + i] = -(float)i;
        types[3 + N_BYTES + i] = TEXT_TOKEN_NORMAL;
    }
    for (int i = 0; i < N_MARKS; i++) {
        tokens[FAKE_HELLO + N_WORDS + i] = marks[i];
        types[FAKE_HELLO + N_WORDS + i] = TEXT_TOKEN_CONTROL;
    }
    struct shard_gguf_writer *w = shard_gguf_writer_create();
    if (source)
        shard_gguf_writer_str(w, "tokenizer.chat_template", source);
    shard_gguf_writer_str(w, "general.architecture", "llama");
    shard_gguf_writer_str(w, "tokenizer.ggml.model", "llama");
    shard_gguf_writer_strs(w, "tokenizer.ggml.tokens", tokens, N_VOCAB);
    shard_gguf_writer_f32s(w, "tokenizer.ggml.scores", scores, N_VOCAB);
    shard_gguf_writer_i32s(w, "tokenizer.ggml.token_type", types, N_VOCAB);
    shard_gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 1);
    shard_gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", EOS);
    return w;
}

enum proto_status fake_vocab_create(struct text_vocab **vocab, struct text_chat **chat,
                                    const char *source, struct proto_error *error)
{
    struct shard_gguf *gguf = NULL;
    void *bytes = NULL;
    size_t len = 0;
    enum proto_status status;
    struct shard_gguf_writer *w = write_vocab(source);
    if (!(status = shard_gguf_writer_header(w, &bytes, &len, error)) &&
        !(status = shard_gguf_parse(&gguf, bytes, len, "fake", error)) &&
        !(status = text_vocab_create(vocab, gguf, error)))
        status = text_chat_create(chat, gguf, *vocab, error);
    shard_gguf_close(gguf);
    shard_gguf_writer_destroy(w);
    free(bytes);
    return status;
}

int32_t fake_vocab_next(const char *text, size_t *len)
{
    for (int i = 0; i < N_MARKS; i++) {
        *len = strlen(marks[i]);
        if (strncmp(text, marks[i], *len) == 0)
            return FAKE_HELLO + N_WORDS + i;
    }
    *len = 1;
    return 3 + (unsigned char)*text;
}
