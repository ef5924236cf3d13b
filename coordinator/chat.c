/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/chat.h"

#include <stdlib.h>
#include <string.h>

#include "coordinator/chat_input.h"

struct chat {
    struct coord_backend *backend;
    struct coord_chat_options options;
    struct coord_input *input;
    json_t *messages;
    bool over;
};

/* Signals belong to the process. */
static struct coord_interrupt_flags flags;

static const char help[] = "/clear  forget the conversation\n"
                           "/help   this text\n"
                           "/quit   end, as Ctrl-D does\n"
                           "Ctrl-C stops an answer. Any other line is a message.\n";

static enum proto_status say(struct chat *chat, const char *role, const char *text,
                             struct proto_error *error)
{
    json_t *content = json_string(text);
    if (!content)
        return proto_fail(error, PROTO_INVALID, "the %s's message is not UTF-8", role);
    json_t *message = json_pack("{s:s, s:o}", "role", role, "content", content);
    return json_array_append_new(chat->messages, message)
               ? proto_fail_nomem(error, strlen(text), "a message")
               : PROTO_OK;
}

/* The conversation's beginning. */
static enum proto_status start_over(struct chat *chat, struct proto_error *error)
{
    json_array_clear(chat->messages);
    return chat->options.system ? say(chat, "system", chat->options.system, error) : PROTO_OK;
}

/* One turn. A message without an answer is taken back: roles alternate. */
static enum proto_status turn(struct chat *chat, const char *line, struct proto_error *error)
{
    struct coord_chat_answer answer = {0};
    enum proto_status status = say(chat, "user", line, error);
    if (status)
        return status;
    status =
        coord__chat_answer(chat->backend, chat->messages, &chat->options, &flags, &answer, error);
    fputs("\n", stdout);
    fflush(stdout);
    if (!status && answer.len > 0)
        status = say(chat, "assistant", answer.text, error);
    if (status || answer.len == 0)
        json_array_remove(chat->messages, json_array_size(chat->messages) - 1);
    if (!status && answer.finish == COORD_FINISH_LENGTH)
        fprintf(stderr, "caravan run: the answer was cut off: it is as long as --tokens or the "
                        "context (--ctx) allows\n");
    free(answer.text);
    chat->options.sampling.seed++;
    return status;
}

static enum proto_status command(struct chat *chat, const char *line, struct proto_error *error)
{
    if (strcmp(line, "/clear") == 0)
        return start_over(chat, error);
    if (strcmp(line, "/quit") == 0)
        chat->over = true;
    else if (strcmp(line, "/help") == 0)
        fputs(help, stderr);
    else
        fprintf(stderr, "there is no %.32s; /help says what there is\n", line);
    return PROTO_OK;
}

/* Errors of a turn end a chat whose lines come from a program, not one with a person. */
static enum proto_status converse(struct chat *chat, struct proto_error *error)
{
    bool person = coord_input_is_terminal(chat->input);
    enum proto_status status = start_over(chat, error);
    if (!status && person)
        fputs("Type a message. /help says what else there is, Ctrl-D ends.\n", stderr);
    while (!status && !chat->over) {
        const char *line = coord_input_line(chat->input, error);
        if (!line)
            return error->status;
        if (person && line[0] == '/')
            status = command(chat, line, error);
        else if (line[strspn(line, " \t\r")])
            status = turn(chat, line, error);
        if (status && person && status != PROTO_IO && !atomic_load(&flags.ended)) {
            fprintf(stderr, "caravan run: %s\n", error->text);
            fputs("The message is taken back; /clear forgets the conversation.\n", stderr);
            status = PROTO_OK;
        }
    }
    return status;
}

static enum proto_status chat_with(struct chat *chat, struct proto_error *error)
{
    enum proto_status status = coord_input_create(&chat->input, &flags, error);
    if (status)
        return status;
    bool person = coord_input_is_terminal(chat->input);
    atomic_store(&flags.soft, person);
    coord_interrupt_catch(&flags);
    status = converse(chat, error);
    if (person && !chat->over)
        fputs("\n", stderr);
    atomic_store(&flags.soft, false);
    coord_input_destroy(chat->input);
    return atomic_load(&flags.ended) ? proto_fail(error, PROTO_CANCELLED, "interrupted") : status;
}

enum proto_status coord_chat(struct coord_backend *backend,
                             const struct coord_chat_options *options, struct proto_error *error)
{
    struct chat chat = {.backend = backend, .options = *options, .messages = json_array()};
    if (!chat.messages)
        return proto_fail_nomem(error, 0, "a conversation");
    enum proto_status status = PROTO_OK;
    if (backend->engine) {
        status = text_chat_check(coord_engine_chat(backend->engine), error);
    } else {
        coord_interrupt_block();
        status = coord_interrupt_begin(NULL, error);
    }
    if (!status) {
        status = chat_with(&chat, error);
        if (!backend->engine)
            coord_interrupt_end();
    }
    json_decref(chat.messages);
    return status;
}
