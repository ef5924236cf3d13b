/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes pass two stages. `raw` holds the end of what came, as long as it may be the beginning of a
 * character (3 bytes at most between calls). `text` holds whole characters: the first `shown` bytes
 * were given out by the call before, the rest is held back since a stop string may begin there.
 */
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/internal.h"
#include "coordinator/text/stream.h"

#define REPLACEMENT       "\xef\xbf\xbd" /* U+FFFD */
#define REPLACEMENT_BYTES 3u

struct text_stream {
    const struct text_vocab *vocab;
    struct shard_gguf_string *stops; /* the strings follow in the same block */
    size_t n_stops;
    bool at_start; /* a leading space is still to be dropped */
    bool stopped;
    char raw[4];
    size_t n_raw;
    char *text;
    size_t len, cap, shown;
};

enum proto_status text_stream_create(struct text_stream **out, const struct text_vocab *vocab,
                                     const char *const *stops, size_t n_stops, bool strip_space,
                                     struct proto_error *error)
{
    size_t bytes = n_stops * sizeof(struct shard_gguf_string);
    for (size_t i = 0; i < n_stops; i++) {
        if (stops[i][0] == '\0')
            return proto_fail(error, PROTO_INVALID,
                              "stop string %zu is empty; give text or leave it out", i + 1);
        bytes += strlen(stops[i]);
    }
    struct text_stream *s = calloc(1, sizeof *s);
    if (!s)
        return proto_fail_nomem(error, sizeof *s, "a text stream");
    s->stops = malloc(bytes + 1);
    if (!s->stops) {
        free(s);
        return proto_fail_nomem(error, bytes + 1, "stop strings");
    }
    s->vocab = vocab;
    s->n_stops = n_stops;
    s->at_start = strip_space && text__drops_space(vocab);
    char *copy = (char *)(s->stops + n_stops);
    for (size_t i = 0; i < n_stops; i++) {
        size_t len = strlen(stops[i]);
        memcpy(copy, stops[i], len);
        s->stops[i] = (struct shard_gguf_string){copy, len};
        copy += len;
    }
    *out = s;
    return PROTO_OK;
}

void text_stream_destroy(struct text_stream *s)
{
    if (!s)
        return;
    free(s->stops);
    free(s->text);
    free(s);
}

/* Forgets what was shown and makes room for `more` bytes. */
static enum proto_status make_room(struct text_stream *s, size_t more, struct proto_error *error)
{
    s->len -= s->shown;
    if (s->shown > 0)
        memmove(s->text, s->text + s->shown, s->len);
    s->shown = 0;
    if (s->len + more <= s->cap)
        return PROTO_OK;
    size_t cap = 2 * s->cap + more;
    char *text = realloc(s->text, cap);
    if (!text)
        return proto_fail_nomem(error, cap, "a text stream");
    s->text = text;
    s->cap = cap;
    return PROTO_OK;
}

static void append(struct text_stream *s, const char *bytes, size_t len)
{
    memcpy(s->text + s->len, bytes, len);
    s->len += len;
}

/* Moves what is whole from raw to text. */
static void settle_raw(struct text_stream *s)
{
    while (s->n_raw > 0) {
        int n = text__utf8(s->raw, s->n_raw);
        if (n == 0)
            return;
        size_t used = (size_t)(n > 0 ? n : -n);
        append(s, n > 0 ? s->raw : REPLACEMENT, n > 0 ? used : REPLACEMENT_BYTES);
        s->n_raw -= used;
        memmove(s->raw, s->raw + used, s->n_raw);
    }
}

/* Where the first stop string begins in the text held; its length if there is none. */
static size_t find_stop(const struct text_stream *s)
{
    size_t first = s->len;
    for (size_t i = 0; i < s->n_stops; i++) {
        const char *at = memmem(s->text, s->len, s->stops[i].data, s->stops[i].len);
        if (at && (size_t)(at - s->text) < first)
            first = (size_t)(at - s->text);
    }
    return first;
}

/* Bytes at the end of the text that are the beginning of a stop string. */
static size_t maybe_stop(const struct text_stream *s)
{
    size_t most = 0;
    for (size_t i = 0; i < s->n_stops; i++) {
        struct shard_gguf_string stop = s->stops[i];
        for (size_t n = stop.len - 1; n > most; n--) {
            if (n <= s->len && memcmp(s->text + s->len - n, stop.data, n) == 0)
                most = n;
        }
    }
    return most;
}

enum proto_status text_stream_push(struct text_stream *s, int32_t id, const char **text,
                                   size_t *len, bool *stopped, struct proto_error *error)
{
    *text = "";
    *len = 0;
    *stopped = s->stopped;
    if (id < 0 || (uint32_t)id >= text_vocab_size(s->vocab))
        return proto_fail(error, PROTO_INVALID,
                          "token id %d is not in the vocabulary; ids are 0 to %u", id,
                          text_vocab_size(s->vocab) - 1);
    if (s->stopped)
        return PROTO_OK;
    struct shard_gguf_string piece = text__token_text(s->vocab, id, false);
    size_t skip = s->at_start && piece.len > 0 && piece.data[0] == ' ';
    s->at_start = s->at_start && piece.len == 0;
    enum proto_status status = make_room(s, (piece.len + sizeof s->raw) * REPLACEMENT_BYTES, error);
    if (status != PROTO_OK)
        return status;
    for (size_t i = skip; i < piece.len; i++) {
        s->raw[s->n_raw++] = piece.data[i];
        settle_raw(s);
    }
    size_t stop = find_stop(s);
    s->stopped = *stopped = stop < s->len;
    if (s->stopped)
        s->len = stop;
    s->shown = s->stopped ? stop : s->len - maybe_stop(s);
    *text = s->shown > 0 ? s->text : "";
    *len = s->shown;
    return PROTO_OK;
}

enum proto_status text_stream_finish(struct text_stream *s, const char **text, size_t *len,
                                     struct proto_error *error)
{
    *text = "";
    *len = 0;
    if (s->stopped)
        return PROTO_OK;
    enum proto_status status = make_room(s, REPLACEMENT_BYTES, error);
    if (status != PROTO_OK)
        return status;
    if (s->n_raw > 0)
        append(s, REPLACEMENT, REPLACEMENT_BYTES);
    s->n_raw = 0;
    s->shown = s->len;
    *text = s->shown > 0 ? s->text : "";
    *len = s->shown;
    return PROTO_OK;
}
