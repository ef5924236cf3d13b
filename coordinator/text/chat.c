/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/text/chat.h"

#include <stdlib.h>
#include <string.h>

#include "coordinator/text/template.h"

#define PROBE "caravan probe"

struct text_chat {
    const struct text_vocab *vocab;
    struct text_template *tmpl; /* NULL: broken says why */
    struct proto_error broken;
    const struct text_marks *marks;
    bool developer; /* the template knows that role */
    bool parts;     /* it takes content only as an array of parts */
};

static const char chatml[] =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/* In the order in which they are looked for. */
static const struct text_marks tags[] = {
    {"<think>", "</think>"},                    /* DeepSeek, Qwen, GLM, Kimi ... */
    {"<|START_THINKING|>", "<|END_THINKING|>"}, /* Command R */
    {"<|channel>thought", "<channel|>"},        /* Gemma 4 */
    {"[THINK]", "[/THINK]"},                    /* Mistral */
};
static const struct text_marks channels = {NULL, NULL};

static const char *const reserved[] = {
    "messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"};
#define N_RESERVED (sizeof reserved / sizeof reserved[0])

bool text_chat_reserves(const char *name)
{
    size_t i = 0;
    while (i < N_RESERVED && strcmp(reserved[i], name) != 0)
        i++;
    return i < N_RESERVED;
}

static bool mentions(struct shard_gguf_string source, const char *text)
{
    return source.len > 0 && memmem(source.data, source.len, text, strlen(text));
}

static bool has_token(const struct text_vocab *vocab, const char *text)
{
    size_t len = strlen(text);
    for (uint32_t id = 0; id < text_vocab_size(vocab); id++) {
        struct shard_gguf_string piece = text_vocab_piece(vocab, (int32_t)id);
        if (piece.len == len && memcmp(piece.data, text, len) == 0)
            return true;
    }
    return false;
}

static const struct text_marks *find_marks(struct shard_gguf_string source,
                                           const struct text_vocab *vocab)
{
    if (mentions(source, "<|channel|>") && has_token(vocab, "<|channel|>") &&
        has_token(vocab, "<|message|>"))
        return &channels;
    for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++)
        if (mentions(source, tags[i].open) || mentions(source, tags[i].close))
            return &tags[i];
    return has_token(vocab, tags[0].open) && has_token(vocab, tags[0].close) ? &tags[0] : NULL;
}

static json_t *token_json(const struct text_vocab *vocab, int32_t id)
{
    struct shard_gguf_string piece = text_vocab_piece(vocab, id);
    json_t *json = json_stringn(piece.data, piece.len);
    return json ? json : json_string("");
}

/* Role and content as this template takes them. */
static json_t *adapt_message(const struct text_chat *chat, const json_t *message)
{
    json_t *adapted = json_copy((json_t *)message);
    const char *role = json_string_value(json_object_get(message, "role"));
    const json_t *content = json_object_get(message, "content");
    int rc = adapted ? 0 : -1;
    if (!rc && role && strcmp(role, "developer") == 0 && !chat->developer)
        rc = json_object_set_new(adapted, "role", json_string("system"));
    if (!rc && chat->parts && json_is_string(content))
        rc = json_object_set_new(
            adapted, "content",
            json_pack("[{s:s, s:O}]", "type", "text", "text", (json_t *)content));
    if (!rc)
        return adapted;
    json_decref(adapted);
    return NULL;
}

static json_t *adapt_messages(const struct text_chat *chat, const json_t *messages)
{
    json_t *adapted = json_array();
    for (size_t i = 0; adapted && i < json_array_size(messages); i++) {
        if (json_array_append_new(adapted, adapt_message(chat, json_array_get(messages, i)))) {
            json_decref(adapted);
            return NULL;
        }
    }
    return adapted;
}

/* What templates are given by transformers, and by the same names: tools and documents that there
 * are none of are None there, not undefined. */
static json_t *make_variables(const struct text_chat *chat, const json_t *messages,
                              const json_t *more)
{
    const struct text_vocab *vocab = chat->vocab;
    json_t *variables =
        json_pack("{s:o, s:n, s:n, s:b, s:o, s:o}", "messages", adapt_messages(chat, messages),
                  "tools", "documents", "add_generation_prompt", true, "bos_token",
                  token_json(vocab, text_vocab_bos(vocab)), "eos_token",
                  token_json(vocab, text_vocab_eos(vocab)));
    if (variables && more && json_object_update_missing(variables, (json_t *)more)) {
        json_decref(variables);
        return NULL;
    }
    return variables;
}

static enum proto_status render(const struct text_chat *chat, const json_t *messages,
                                const json_t *more, long long unix_time, struct text_rendered *out,
                                struct proto_error *error)
{
    json_t *variables = make_variables(chat, messages, more);
    if (!variables)
        return proto_fail(error, PROTO_NOMEM, "out of memory for a conversation of %zu messages",
                          json_array_size(messages));
    enum proto_status status = text_template_render(chat->tmpl, variables, unix_time, out, error);
    json_decref(variables);
    return status;
}

/* Whether the text of a user's message comes out. *error says why not, unless it simply does not.
 */
static bool shows_probe(const struct text_chat *chat, struct proto_error *error)
{
    struct text_rendered rendered;
    error->status = PROTO_OK;
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", PROBE);
    if (!messages)
        return false;
    bool shown = !render(chat, messages, NULL, 0, &rendered, error);
    json_decref(messages);
    if (!shown)
        return false;
    shown = strstr(rendered.text, PROBE) != NULL;
    text_rendered_finish(&rendered);
    return shown;
}

/* One short message is the least that a template can be asked for: where even that is beyond a
 * limit, no request needs to find it out again. */
static void probe_content(struct text_chat *chat)
{
    struct proto_error error, ignored;
    if (!chat->tmpl || shows_probe(chat, &error))
        return;
    if (error.status == PROTO_LIMIT) {
        chat->broken = error;
        text_template_destroy(chat->tmpl);
        chat->tmpl = NULL;
        return;
    }
    chat->parts = true;
    chat->parts = shows_probe(chat, &ignored);
}

enum proto_status text_chat_create(struct text_chat **out, const struct shard_gguf *gguf,
                                   const struct text_vocab *vocab, struct proto_error *error)
{
    struct shard_gguf_string source = {chatml, sizeof chatml - 1};
    enum proto_status status = shard_gguf_str(gguf, "tokenizer.chat_template", &source, error);
    if (status && status != PROTO_NOTFOUND)
        return status;
    struct text_chat *chat = calloc(1, sizeof *chat);
    if (!chat)
        return proto_fail_nomem(error, sizeof *chat, "a chat template");
    chat->vocab = vocab;
    chat->marks = find_marks(source, vocab);
    chat->developer = mentions(source, "developer");
    if (text_template_create(&chat->tmpl, source.data, source.len, &chat->broken))
        chat->tmpl = NULL;
    probe_content(chat);
    *out = chat;
    return PROTO_OK;
}

void text_chat_destroy(struct text_chat *chat)
{
    if (!chat)
        return;
    text_template_destroy(chat->tmpl);
    free(chat);
}

enum proto_status text_chat_check(const struct text_chat *chat, struct proto_error *error)
{
    if (chat->tmpl)
        return PROTO_OK;
    return proto_fail(error, chat->broken.status,
                      "the model's chat template cannot be used, only completions can: %.400s",
                      chat->broken.text);
}

const struct text_marks *text_chat_marks(const struct text_chat *chat)
{
    return chat->marks;
}

/* Whether the template's own text ends with the opening mark. */
static bool ends_thinking(const struct text_chat *chat, const struct text_rendered *r)
{
    if (!chat->marks || !chat->marks->open)
        return false;
    size_t end = r->len, n = strlen(chat->marks->open);
    while (end > 0 && strchr(" \n\r\t", r->text[end - 1]))
        end--;
    size_t trusted = r->n_untrusted > 0 ? r->untrusted[r->n_untrusted - 1].end : 0;
    return end >= trusted + n && memcmp(r->text + end - n, chat->marks->open, n) == 0;
}

enum proto_status text_chat_encode(const struct text_chat *chat, const json_t *messages,
                                   const json_t *variables, long long unix_time,
                                   struct text_chat_prompt *out, struct proto_error *error)
{
    *out = (struct text_chat_prompt){0};
    struct text_rendered rendered;
    enum proto_status status = text_chat_check(chat, error);
    if (!status)
        status = render(chat, messages, variables, unix_time, &rendered, error);
    if (status)
        return status;
    out->thinking = ends_thinking(chat, &rendered);
    status = text_encode_trusted(chat->vocab, rendered.text, rendered.len, rendered.untrusted,
                                 rendered.n_untrusted, &out->ids, &out->n_ids, error);
    text_rendered_finish(&rendered);
    return status;
}

void text_chat_prompt_finish(struct text_chat_prompt *prompt)
{
    free(prompt->ids);
    *prompt = (struct text_chat_prompt){0};
}
