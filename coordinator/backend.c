/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/backend.h"

#include "coordinator/interrupt.h"
#include "coordinator/text/stream.h"

#include <stdlib.h>
#include <string.h>

static enum proto_status start_engine(struct coord_backend *backend, const struct coord_cli *cli,
                                      uint64_t ctx_needed, struct proto_error *error)
{
    struct coord_engine_options options;
    char listen[NET_ADDRESS_BYTES];
    enum proto_status status = coord_cli_engine(cli, &options, &backend->keys, listen, error);
    if (status != PROTO_OK)
        return status;
    options.progress = true;
    options.ctx_needed = ctx_needed;
    if (options.parallel == 0)
        options.parallel = 1;
    coord_interrupt_block();
    status = coord_engine_create(&backend->engine, &options, error);
    if (status != PROTO_OK)
        return status;
    status = coord_interrupt_begin(backend->engine, error);
    if (status != PROTO_OK) {
        coord_engine_destroy(backend->engine);
        backend->engine = NULL;
        return status;
    }
    return coord_engine_wait_ready(backend->engine, error);
}

enum proto_status coord_backend_open(struct coord_backend *backend, const struct coord_cli *cli,
                                     uint64_t ctx_needed, struct proto_error *error)
{
    memset(backend, 0, sizeof *backend);
    if (cli->server)
        return api_client_create(&backend->client, cli->server, cli->api_key, error);
    if (!cli->model && !cli->synthetic)
        return proto_fail(error, PROTO_INVALID,
                          "no model: say --model FILE.gguf, or --server URL of a running "
                          "coordinator");
    enum proto_status status = start_engine(backend, cli, ctx_needed, error);
    if (status != PROTO_OK)
        coord_backend_close(backend);
    return status;
}

void coord_backend_close(struct coord_backend *backend)
{
    if (backend->engine) {
        coord_interrupt_end();
        coord_engine_destroy(backend->engine);
    }
    api_client_destroy(backend->client);
    memset(backend, 0, sizeof *backend);
}

enum proto_status coord_backend_tokenize(struct coord_backend *backend, const char *text,
                                         size_t len, bool special, bool bos, int32_t **ids,
                                         size_t *n, struct proto_error *error)
{
    if (backend->client)
        return api_client_tokenize(backend->client, text, len, special, bos, ids, n, error);
    const struct text_vocab *vocab = coord_engine_vocab(backend->engine);
    return bos ? text_encode_prompt(vocab, text, len, special, ids, n, error)
               : text_encode(vocab, text, len, special, ids, n, error);
}

enum proto_status coord_backend_logits(struct coord_backend *backend, const int32_t *ids, size_t n,
                                       api_client_row_fn *on_row, void *user,
                                       struct proto_error *error)
{
    if (backend->client)
        return api_client_logits(backend->client, ids, n, on_row, user, error);
    struct coord_request request = {.want = COORD_WANT_LOGITS, .ids = ids, .n_ids = n};
    struct coord_stream *stream;
    struct coord_event event = {0};
    enum proto_status status = coord_engine_submit(backend->engine, &request, &stream, error);
    if (status != PROTO_OK)
        return status;
    size_t n_vocab = coord_engine_model(backend->engine)->n_vocab;
    while (status == PROTO_OK && coord_stream_next(stream, &event, -1)) {
        if (event.kind == COORD_EVENT_FAILED)
            status = proto_fail(error, event.error.status, "%s", event.error.text);
        else if (event.kind == COORD_EVENT_DONE)
            break;
        else if (event.kind == COORD_EVENT_LOGITS &&
                 !on_row(user, event.pos, event.logits, n_vocab))
            status = proto_fail(error, PROTO_CANCELLED, "stopped");
    }
    coord_stream_destroy(stream);
    return status;
}

static enum proto_status show(api_client_text_fn *on_text, void *user, const char *text, size_t len,
                              struct proto_error *error)
{
    return len == 0 || on_text(user, text, len)
               ? PROTO_OK
               : proto_fail(error, PROTO_CANCELLED, "the output cannot be written");
}

/* Reads a stream's tokens as text until its end. */
static enum proto_status read_text(struct coord_stream *stream, struct text_stream *decoder,
                                   api_client_text_fn *on_text, void *user,
                                   struct coord_event *done, struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    const char *text;
    size_t len;
    bool stopped;
    while (status == PROTO_OK && coord_stream_next(stream, done, -1)) {
        if (done->kind == COORD_EVENT_FAILED)
            return proto_fail(error, done->error.status, "%s", done->error.text);
        if (done->kind == COORD_EVENT_DONE)
            break;
        if (done->eog)
            continue;
        status = text_stream_push(decoder, done->token, &text, &len, &stopped, error);
        if (status == PROTO_OK)
            status = show(on_text, user, text, len, error);
    }
    if (status == PROTO_OK)
        status = text_stream_finish(decoder, &text, &len, error);
    return status == PROTO_OK ? show(on_text, user, text, len, error) : status;
}

static enum proto_status complete_here(struct coord_backend *backend,
                                       const struct coord_request *request,
                                       api_client_text_fn *on_text, void *user,
                                       struct coord_event *done, struct proto_error *error)
{
    struct text_stream *decoder = NULL;
    struct coord_stream *stream = NULL;
    enum proto_status status;
    if ((status = text_stream_create(&decoder, coord_engine_vocab(backend->engine), NULL, 0, false,
                                     error)) == PROTO_OK &&
        (status = coord_engine_submit(backend->engine, request, &stream, error)) == PROTO_OK)
        status = read_text(stream, decoder, on_text, user, done, error);
    coord_stream_destroy(stream);
    text_stream_destroy(decoder);
    return status;
}

enum proto_status coord_backend_complete(struct coord_backend *backend,
                                         const struct api_client_completion *request, bool special,
                                         api_client_text_fn *on_text, void *user,
                                         struct coord_event *done, struct proto_error *error)
{
    memset(done, 0, sizeof *done);
    if (backend->client) {
        struct api_client_done end = {0};
        enum proto_status status =
            api_client_complete(backend->client, request, on_text, user, &end, error);
        done->finish = end.finish;
        done->n_prompt = (uint32_t)end.n_prompt;
        done->n_generated = (uint32_t)end.n_generated;
        return status;
    }
    struct coord_request r = {.want = COORD_WANT_TOKENS,
                              .max_tokens = request->max_tokens,
                              .ignore_eog = request->ignore_eog,
                              .sampling = request->sampling};
    int32_t *ids = NULL;
    enum proto_status status = coord_backend_tokenize(backend, request->prompt, request->prompt_len,
                                                      special, true, &ids, &r.n_ids, error);
    r.ids = ids;
    if (status == PROTO_OK)
        status = complete_here(backend, &r, on_text, user, done, error);
    free(ids);
    return status;
}

int coord_client_command(const struct coord_command *command, int argc, char **argv,
                         coord_client_fn *fn, void *user)
{
    struct coord_cli cli;
    struct proto_error error;
    struct api_client *client = NULL;
    coord_cli_default(&cli);
    int stop = coord_cli_parse(&cli, command, argc, argv);
    if (stop >= 0)
        return stop;
    enum proto_status status = api_client_create(&client, cli.server, cli.api_key, &error);
    if (status == PROTO_OK)
        status = fn(client, &cli, user, &error);
    api_client_destroy(client);
    return status ? coord_cli_fail(command, &error) : 0;
}
