/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/mkmodel_spec.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Token types of a GGUF vocabulary. */
enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, BYTE = 6 };

#define SPACE     "\u2581" /* what SentencePiece writes for a space */
#define LETTERS   "etaoinshrdlucmfwygpb"
#define SINGLES   LETTERS "vkxqjzETAOINSHRDLUCMFWYGPBVKXQJZ0123456789.,!?'\"-:;()\n"
#define N_LETTERS (sizeof LETTERS - 1)
#define N_SINGLES (sizeof SINGLES - 1)
#define FIRST     259u /* tokens before the text: three specials and 256 bytes */

struct token {
    char text[24];
};

/* Text token i: the space, single characters, a space and a letter, pairs of letters, fillers. */
static void text_token(struct token *token, uint32_t i)
{
    uint32_t rest = i;
    size_t size = sizeof token->text;
    if (rest == 0)
        snprintf(token->text, size, SPACE);
    else if ((rest -= 1) < N_SINGLES)
        snprintf(token->text, size, "%c", SINGLES[rest]);
    else if ((rest -= N_SINGLES) < N_LETTERS)
        snprintf(token->text, size, SPACE "%c", LETTERS[rest]);
    else if ((rest -= N_LETTERS) < N_LETTERS * N_LETTERS)
        snprintf(token->text, size, "%c%c", LETTERS[rest / N_LETTERS], LETTERS[rest % N_LETTERS]);
    else
        snprintf(token->text, size, "<extra_%" PRIu32 ">", i);
}

static void token_at(struct token *token, int32_t *type, float *score, uint32_t id)
{
    static const char *const specials[] = {"<unk>", "<s>", "</s>"};
    *score = 0;
    if (id < 3) {
        snprintf(token->text, sizeof token->text, "%s", specials[id]);
        *type = id ? CONTROL : UNKNOWN;
    } else if (id < FIRST) {
        snprintf(token->text, sizeof token->text, "<0x%02X>", (unsigned)id - 3);
        *type = BYTE;
    } else {
        text_token(token, id - FIRST);
        *type = NORMAL;
        *score = -(float)(id - FIRST);
    }
}

enum proto_status shard__spec_vocab(struct shard_gguf_writer *writer, uint32_t n,
                                    struct proto_error *error)
{
    struct token *tokens = calloc(n, sizeof *tokens);
    const char **texts = calloc(n, sizeof *texts);
    float *scores = calloc(n, sizeof *scores);
    int32_t *types = calloc(n, sizeof *types);
    enum proto_status status = PROTO_OK;
    if (!tokens || !texts || !scores || !types) {
        status = proto_fail_nomem(error, (sizeof *tokens + sizeof *texts + 8) * (uint64_t)n,
                                  "a model's vocabulary");
        goto done;
    }
    for (uint32_t i = 0; i < n; i++) {
        token_at(&tokens[i], &types[i], &scores[i], i);
        texts[i] = tokens[i].text;
    }
    shard_gguf_writer_str(writer, "tokenizer.ggml.model", "llama");
    shard_gguf_writer_strs(writer, "tokenizer.ggml.tokens", texts, n);
    shard_gguf_writer_f32s(writer, "tokenizer.ggml.scores", scores, n);
    shard_gguf_writer_i32s(writer, "tokenizer.ggml.token_type", types, n);
    shard_gguf_writer_u32(writer, "tokenizer.ggml.bos_token_id", 1);
    shard_gguf_writer_u32(writer, "tokenizer.ggml.eos_token_id", 2);
    shard_gguf_writer_u32(writer, "tokenizer.ggml.unknown_token_id", 0);
    shard_gguf_writer_bool(writer, "tokenizer.ggml.add_bos_token", true);
done:
    free(types);
    free(scores);
    free(texts);
    free(tokens);
    return status;
}
