/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/chat.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* How often the flags are looked at while nothing comes. */
#define POLL_MS 50
#define DIM     "\033[2m"
#define NORMAL  "\033[0m"

struct display {
    struct coord_chat_answer *answer;
    struct coord_interrupt_flags *flags;
    bool terminal, thinking;
    bool failed; /* standard output cannot be written, or memory is short */
};

static bool write_out(const char *text, size_t len)
{
    return fwrite(text, 1, len, stdout) == len && fflush(stdout) == 0;
}

/* Bytes of the control character at the start of a text, which is whole characters: a terminal
 * would obey it. Line ends and tabs are none here. */
static size_t control_bytes(const char *text, size_t len)
{
    const unsigned char *c = (const unsigned char *)text;
    if (len > 1 && c[0] == 0xc2 && c[1] < 0xa0)
        return 2;
    return (c[0] < 0x20 && c[0] != '\n' && c[0] != '\t') || c[0] == 0x7f;
}

/* Without control characters. */
static bool write_visible(const char *text, size_t len)
{
    size_t first = 0, at = 0;
    while (at < len) {
        size_t control = control_bytes(text + at, len - at);
        if (control > 0 && !write_out(text + first, at - first))
            return false;
        at += control > 0 ? control : 1;
        first = control > 0 ? at : first;
    }
    return write_out(text + first, len - first);
}

static bool keep(struct coord_chat_answer *a, const char *text, size_t len)
{
    if (a->cap - a->len <= len) {
        size_t cap = 2 * a->cap + len + 1;
        char *grown = realloc(a->text, cap);
        if (!grown)
            return false;
        a->text = grown;
        a->cap = cap;
    }
    memcpy(a->text + a->len, text, len);
    a->len += len;
    a->text[a->len] = '\0';
    return true;
}

/* Thinking is dim, with an empty line behind it. */
static bool switch_to(struct display *d, bool thinking)
{
    bool changes = d->terminal && d->thinking != thinking;
    const char *mark = thinking ? DIM : NORMAL "\n\n";
    d->thinking = thinking;
    return !changes || write_out(mark, strlen(mark));
}

static bool on_delta(void *user, bool reasoning, const char *text, size_t len)
{
    struct display *d = user;
    if (atomic_load(&d->flags->pressed))
        return false;
    bool shown = d->terminal || !reasoning;
    bool ok = (reasoning || keep(d->answer, text, len)) &&
              (!shown || (switch_to(d, reasoning) &&
                          (d->terminal ? write_visible(text, len) : write_out(text, len))));
    d->failed = !ok;
    return ok;
}

static bool show(struct display *d, const struct text_news *news)
{
    return (news->reasoning_len == 0 || on_delta(d, true, news->reasoning, news->reasoning_len)) &&
           (news->content_len == 0 || on_delta(d, false, news->content, news->content_len));
}

/* Reads the stream's tokens to their end, or until the flags say so. */
static enum proto_status read_answer(struct coord_stream *stream, struct text_answer *text,
                                     struct display *d, struct proto_error *error)
{
    struct coord_event event = {0};
    struct text_news news;
    enum proto_status status = PROTO_OK;
    while (!status && event.kind != COORD_EVENT_DONE) {
        if (atomic_load(&d->flags->pressed))
            return proto_fail(error, PROTO_CANCELLED, "stopped");
        if (!coord_stream_next(stream, &event, POLL_MS))
            continue;
        if (event.kind == COORD_EVENT_FAILED)
            return proto_fail(error, event.error.status, "%s", event.error.text);
        if (event.kind != COORD_EVENT_TOKEN || event.eog)
            continue;
        status = text_answer_push(text, event.token, &news, error);
        if (!status && !show(d, &news))
            return proto_fail(error, PROTO_CANCELLED, "stopped");
    }
    d->answer->finish = event.finish;
    if (!status)
        status = text_answer_finish(text, &news, error);
    if (!status && !show(d, &news))
        status = proto_fail(error, PROTO_CANCELLED, "stopped");
    return status;
}

static enum proto_status answer_here(struct coord_engine *engine, const json_t *messages,
                                     const struct coord_chat_options *options, struct display *d,
                                     struct proto_error *error)
{
    const struct text_chat *chat = coord_engine_chat(engine);
    struct text_chat_prompt prompt;
    struct text_answer *text = NULL;
    struct coord_stream *stream = NULL;
    enum proto_status status =
        text_chat_encode(chat, messages, NULL, (long long)time(NULL), &prompt, error);
    if (status)
        return status;
    const struct coord_request request = {.want = COORD_WANT_TOKENS,
                                          .ids = prompt.ids,
                                          .n_ids = prompt.n_ids,
                                          .max_tokens = options->max_tokens,
                                          .ignore_eog = options->ignore_eog,
                                          .sampling = options->sampling};
    if (!(status = text_answer_create(&text, coord_engine_vocab(engine), text_chat_marks(chat),
                                      prompt.thinking, NULL, 0, error)) &&
        !(status = coord_engine_submit(engine, &request, &stream, error)))
        status = read_answer(stream, text, d, error);
    coord_stream_destroy(stream);
    text_answer_destroy(text);
    text_chat_prompt_finish(&prompt);
    return status;
}

static enum proto_status answer_there(struct api_client *client, const json_t *messages,
                                      const struct coord_chat_options *options, struct display *d,
                                      struct proto_error *error)
{
    const struct api_client_chat request = {.messages = messages,
                                            .max_tokens = options->max_tokens,
                                            .ignore_eog = options->ignore_eog,
                                            .sampling = options->sampling,
                                            .cancel = &d->flags->pressed};
    struct api_client_done done = {0};
    enum proto_status status = api_client_chat(client, &request, on_delta, d, &done, error);
    d->answer->finish = done.finish;
    return status;
}

enum proto_status coord__chat_answer(struct coord_backend *backend, const json_t *messages,
                                     const struct coord_chat_options *options,
                                     struct coord_interrupt_flags *flags,
                                     struct coord_chat_answer *answer, struct proto_error *error)
{
    *answer = (struct coord_chat_answer){0};
    struct display d = {.answer = answer, .flags = flags, .terminal = isatty(STDOUT_FILENO) == 1};
    atomic_store(&flags->pressed, false);
    enum proto_status status = backend->client
                                   ? answer_there(backend->client, messages, options, &d, error)
                                   : answer_here(backend->engine, messages, options, &d, error);
    if (d.failed)
        return proto_fail(error, PROTO_IO, "the answer cannot be written to standard output");
    if (d.thinking)
        switch_to(&d, false);
    if (status == PROTO_CANCELLED && atomic_load(&flags->pressed)) {
        answer->finish = COORD_FINISH_CANCELLED;
        status = PROTO_OK;
    }
    atomic_store(&flags->pressed, false);
    return status;
}
