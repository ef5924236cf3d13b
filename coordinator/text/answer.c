/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tokens pass a text_stream, whose text is then cut. Two forms:
 *
 * Marks: the answer begins with an opening mark (or the prompt ended with it), thinking follows up
 * to the closing mark, then content. The marks are looked for in the text, since not every
 * vocabulary has tokens for them; a control token that belongs to a mark adds its spelling.
 *
 * Channels (OpenAI's harmony): messages of the form
 *   <|start|>ROLE<|channel|>NAME<|message|>TEXT<|end|>
 * of which the prompt holds "<|start|>assistant". Here the marks are always tokens, and the same
 * characters in a text are only text.
 */
#include "coordinator/text/answer.h"

#include <stdlib.h>
#include <string.h>

#include "coordinator/text/stream.h"

#define CHANNEL_BYTES 16u

struct bytes {
    char *data;
    size_t len, cap;
};

struct text_answer {
    const struct text_vocab *vocab;
    const struct text_marks *marks;
    struct text_stream *stream;
    enum text_place place;
    bool skip_space;   /* white space comes next and is dropped */
    struct bytes held; /* of marks: may be the beginning of one */
    bool naming;       /* of channels: the name comes */
    char channel[CHANNEL_BYTES];
    struct bytes reasoning, content; /* what the last call gave out */
};

static enum proto_status add(struct bytes *b, const char *data, size_t len,
                             struct proto_error *error)
{
    if (len == 0)
        return PROTO_OK;
    if (b->cap - b->len < len) {
        size_t cap = 2 * b->cap + len;
        char *grown = realloc(b->data, cap);
        if (!grown)
            return proto_fail_nomem(error, cap, "an answer");
        b->data = grown;
        b->cap = cap;
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
    return PROTO_OK;
}

static void drop_front(struct bytes *b, size_t n)
{
    b->len -= n;
    if (n > 0)
        memmove(b->data, b->data + n, b->len);
}

enum proto_status text_answer_create(struct text_answer **out, const struct text_vocab *vocab,
                                     const struct text_marks *marks, bool thinking,
                                     const char *const *stops, size_t n_stops,
                                     struct proto_error *error)
{
    struct text_answer *a = calloc(1, sizeof *a);
    if (!a)
        return proto_fail_nomem(error, sizeof *a, "an answer");
    a->vocab = vocab;
    a->marks = marks;
    a->place = !marks || !marks->open ? TEXT_PLACE_CONTENT
               : thinking             ? TEXT_PLACE_REASONING
                                      : TEXT_PLACE_UNDECIDED;
    a->skip_space = a->place == TEXT_PLACE_REASONING;
    enum proto_status status = text_stream_create(&a->stream, vocab, stops, n_stops, false, error);
    if (status) {
        text_answer_destroy(a);
        return status;
    }
    *out = a;
    return PROTO_OK;
}

void text_answer_destroy(struct text_answer *a)
{
    if (!a)
        return;
    text_stream_destroy(a->stream);
    free(a->held.data);
    free(a->reasoning.data);
    free(a->content.data);
    free(a);
}

enum text_place text_answer_place(const struct text_answer *a)
{
    return a->place == TEXT_PLACE_CONTENT && a->skip_space ? TEXT_PLACE_REASONING : a->place;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static size_t leading_space(const struct bytes *b)
{
    size_t n = 0;
    while (n < b->len && is_space(b->data[n]))
        n++;
    return n;
}

/* Length without the white space at the end of the first n bytes. */
static size_t without_space(const struct bytes *b, size_t n)
{
    while (n > 0 && is_space(b->data[n - 1]))
        n--;
    return n;
}

/* Bytes at the end that are the beginning of the mark. */
static size_t begun(const struct bytes *b, const char *mark)
{
    size_t n = strlen(mark) - 1;
    if (n > b->len)
        n = b->len;
    while (n > 0 && memcmp(b->data + b->len - n, mark, n) != 0)
        n--;
    return n;
}

/* True once it is known how the answer begins. */
static bool decide(struct text_answer *a)
{
    size_t space = leading_space(&a->held), n_open = strlen(a->marks->open);
    size_t n = a->held.len - space;
    bool fits =
        n == 0 || memcmp(a->held.data + space, a->marks->open, n < n_open ? n : n_open) == 0;
    if (fits && n < n_open)
        return false;
    a->place = fits ? TEXT_PLACE_REASONING : TEXT_PLACE_CONTENT;
    a->skip_space = fits;
    if (fits)
        drop_front(&a->held, space + n_open);
    return true;
}

static enum proto_status cut_reasoning(struct text_answer *a, struct proto_error *error)
{
    struct bytes *held = &a->held;
    const char *mark = a->marks->close;
    const char *end = held->len > 0 ? memmem(held->data, held->len, mark, strlen(mark)) : NULL;
    /* White space is only shown once something follows it. */
    size_t until = end ? (size_t)(end - held->data) : held->len - begun(held, mark);
    size_t n = without_space(held, until);
    enum proto_status status = add(&a->reasoning, held->data, n, error);
    drop_front(held, end ? until + strlen(mark) : n);
    if (end) {
        a->place = TEXT_PLACE_CONTENT;
        a->skip_space = true;
    }
    return status;
}

/* Cuts what is held as far as it can be. */
static enum proto_status cut(struct text_answer *a, struct proto_error *error)
{
    if (a->place == TEXT_PLACE_UNDECIDED && !decide(a))
        return PROTO_OK;
    enum proto_status status = PROTO_OK;
    if (a->skip_space)
        drop_front(&a->held, leading_space(&a->held));
    a->skip_space = a->skip_space && a->held.len == 0;
    if (a->place == TEXT_PLACE_REASONING) {
        status = cut_reasoning(a, error);
        return status || a->place == TEXT_PLACE_REASONING ? status : cut(a, error);
    }
    status = add(&a->content, a->held.data, a->held.len, error);
    a->held.len = 0;
    return status;
}

static enum proto_status take_text(struct text_answer *a, const char *text, size_t len,
                                   struct proto_error *error)
{
    if (a->marks && a->marks->open) {
        enum proto_status status = add(&a->held, text, len, error);
        return status ? status : cut(a, error);
    }
    if (a->place == TEXT_PLACE_HEADER) {
        size_t used = strlen(a->channel);
        for (size_t i = 0; a->naming && i < len && used + 1 < sizeof a->channel; i++)
            a->channel[used++] = text[i];
        a->channel[used] = '\0';
        return PROTO_OK;
    }
    return add(a->place == TEXT_PLACE_REASONING ? &a->reasoning : &a->content, text, len, error);
}

static bool is(struct shard_gguf_string piece, const char *text)
{
    return piece.len == strlen(text) && memcmp(piece.data, text, piece.len) == 0;
}

static bool is_harmony(struct shard_gguf_string piece)
{
    return is(piece, "<|start|>") || is(piece, "<|channel|>") || is(piece, "<|constrain|>") ||
           is(piece, "<|message|>") || is(piece, "<|end|>");
}

static void take_harmony(struct text_answer *a, struct shard_gguf_string piece)
{
    if (is(piece, "<|message|>")) {
        bool thinks = strncmp(a->channel, "analysis", 8) == 0;
        a->place = thinks ? TEXT_PLACE_REASONING : TEXT_PLACE_CONTENT;
        return;
    }
    a->place = TEXT_PLACE_HEADER;
    a->naming = is(piece, "<|channel|>");
    if (a->naming || is(piece, "<|start|>"))
        a->channel[0] = '\0';
}

/* What the stream holds back is text of the place before the mark. */
static enum proto_status flush(struct text_answer *a, struct proto_error *error)
{
    const char *text;
    size_t len;
    enum proto_status status = text_stream_finish(a->stream, &text, &len, error);
    return status ? status : take_text(a, text, len, error);
}

/* Whether the token is a mark's, or a part of one, that decoding would leave out. */
static bool silent_mark(const struct text_answer *a, int32_t id, struct shard_gguf_string piece)
{
    const struct text_marks *m = a->marks;
    return piece.len > 0 && text_decode_token(a->vocab, id, false, NULL, 0) == 0 &&
           (memmem(m->open, strlen(m->open), piece.data, piece.len) ||
            memmem(m->close, strlen(m->close), piece.data, piece.len));
}

/* Takes tokens that are marks; *taken says whether this was one. */
static enum proto_status take_mark(struct text_answer *a, int32_t id, bool *taken,
                                   struct proto_error *error)
{
    *taken = false;
    if (!a->marks || id < 0 || (uint32_t)id >= text_vocab_size(a->vocab))
        return PROTO_OK;
    struct shard_gguf_string piece = text_vocab_piece(a->vocab, id);
    *taken = a->marks->open ? silent_mark(a, id, piece) : is_harmony(piece);
    if (!*taken)
        return PROTO_OK;
    enum proto_status status = flush(a, error);
    if (status || a->marks->open)
        return status ? status : take_text(a, piece.data, piece.len, error);
    take_harmony(a, piece);
    return PROTO_OK;
}

static void report(const struct text_answer *a, bool stopped, struct text_news *news)
{
    *news = (struct text_news){.reasoning = a->reasoning.data ? a->reasoning.data : "",
                               .reasoning_len = a->reasoning.len,
                               .content = a->content.data ? a->content.data : "",
                               .content_len = a->content.len,
                               .stopped = stopped};
}

/* The end of what is held: the beginning of a mark that never came is text. */
static enum proto_status release(struct text_answer *a, struct proto_error *error)
{
    bool thinks = a->place == TEXT_PLACE_REASONING;
    struct bytes *out = thinks ? &a->reasoning : &a->content;
    size_t n = thinks ? without_space(&a->held, a->held.len) : a->held.len;
    enum proto_status status = add(out, a->held.data, n, error);
    a->held.len = 0;
    return status;
}

enum proto_status text_answer_push(struct text_answer *a, int32_t id, struct text_news *news,
                                   struct proto_error *error)
{
    a->reasoning.len = a->content.len = 0;
    bool taken, stopped = false;
    const char *text = "";
    size_t len = 0;
    enum proto_status status = take_mark(a, id, &taken, error);
    if (!status && !taken &&
        !(status = text_stream_push(a->stream, id, &text, &len, &stopped, error)))
        status = take_text(a, text, len, error);
    if (!status && stopped)
        status = release(a, error);
    report(a, stopped, news);
    return status;
}

enum proto_status text_answer_finish(struct text_answer *a, struct text_news *news,
                                     struct proto_error *error)
{
    a->reasoning.len = a->content.len = 0;
    enum proto_status status = flush(a, error);
    if (!status)
        status = release(a, error);
    report(a, false, news);
    return status;
}
