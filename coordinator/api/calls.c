/* SPDX-License-Identifier: Apache-2.0 */
/* What Caravan's own commands ask of a running cluster, besides completions: tokens of a text, text
 * of tokens, and logits. */
#include "coordinator/api/json.h"

#include <stdlib.h>
#include <string.h>

static bool read_text(const json_t *body, const char **text, size_t *len, struct api__fault *fault)
{
    const json_t *json = api__json_field(body, "text");
    if (!json_is_string(json))
        return api__fault_set(fault, 400, "text", NULL, "text is %s, expected a string",
                              json ? api__json_kind(json) : "missing");
    *text = json_string_value(json);
    *len = json_string_length(json);
    return true;
}

/* {"ids": [...]} and nothing else. */
static bool read_ids(struct api__request *r, int32_t **ids, size_t *n, struct api__fault *fault)
{
    static const char *const fields[] = {"ids"};
    json_t *body = api__json_load(r->body, r->len, fault);
    if (!body)
        return false;
    const json_t *list = api__json_field(body, "ids");
    bool ok = api__json_only(body, fields, 1, fault);
    if (ok && !json_is_array(list))
        ok = api__fault_set(fault, 400, "ids", NULL, "ids is %s, expected an array of token ids",
                            list ? api__json_kind(list) : "missing");
    ok = ok && api__json_ids(list, "ids", text_vocab_size(coord_engine_vocab(r->server->engine)),
                             ids, n, fault);
    json_decref(body);
    return ok;
}

static json_t *ids_json(const int32_t *ids, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        if (json_array_append_new(list, json_integer(ids[i]))) {
            json_decref(list);
            return NULL;
        }
    }
    return json_pack("{s:o}", "ids", list);
}

static json_t *tokenize(struct api__request *r, const json_t *body, struct api__fault *fault)
{
    static const char *const fields[] = {"text", "special", "bos"};
    const struct text_vocab *vocab = coord_engine_vocab(r->server->engine);
    const char *text = NULL;
    size_t len = 0, n = 0;
    bool special = false, bos = false;
    if (!api__json_only(body, fields, 3, fault) || !read_text(body, &text, &len, fault) ||
        !api__json_bool(body, "special", &special, fault) ||
        !api__json_bool(body, "bos", &bos, fault))
        return NULL;
    int32_t *ids = NULL;
    struct proto_error error;
    enum proto_status status = bos ? text_encode_prompt(vocab, text, len, special, &ids, &n, &error)
                                   : text_encode(vocab, text, len, special, &ids, &n, &error);
    if (status) {
        api__fault_from(fault, &error);
        return NULL;
    }
    json_t *json = ids_json(ids, n);
    free(ids);
    return json;
}

enum MHD_Result api__tokenize(struct api__request *r)
{
    struct api__fault fault = {0};
    json_t *body = api__json_load(r->body, r->len, &fault);
    json_t *json = body ? tokenize(r, body, &fault) : NULL;
    json_decref(body);
    return fault.status ? api__reply_fault(r, &fault) : api__reply_json(r, 200, json);
}

enum MHD_Result api__detokenize(struct api__request *r)
{
    struct api__fault fault = {0};
    int32_t *ids = NULL;
    size_t n = 0, len = 0;
    char *text = NULL;
    struct proto_error error;
    if (read_ids(r, &ids, &n, &fault) &&
        text_decode(coord_engine_vocab(r->server->engine), ids, n, true, &text, &len, &error))
        api__fault_from(&fault, &error);
    free(ids);
    if (fault.status)
        return api__reply_fault(r, &fault);
    json_t *json = json_pack("{s:o}", "text", api__json_text(text, len));
    free(text);
    return api__reply_json(r, 200, json);
}

/* Logits: one row a position, n_vocab little-endian float32 each, in the order of positions. */
struct rows {
    const struct api_server *server;
    struct MHD_Connection *connection;
    struct coord_stream *stream;
    struct coord_event event; /* the row being sent; its floats are the stream's */
    size_t row_bytes, sent;   /* of the row */
    uint64_t n_rows, row;
};

static void free_rows(void *user)
{
    struct rows *rows = user;
    coord_stream_destroy(rows->stream);
    free(rows);
}

/* True once the next row is in rows->event. */
static bool next_row(struct rows *rows, struct api__fault *fault)
{
    if (!api__next(rows->server, rows->connection, rows->stream, &rows->event))
        return api__fault_stopping(fault);
    if (rows->event.kind == COORD_EVENT_FAILED)
        return api__fault_from(fault, &rows->event.error);
    if (rows->event.kind != COORD_EVENT_LOGITS || rows->event.pos != rows->row)
        return api__fault_set(fault, 503, NULL, NULL, "the logits ended at position %llu of %llu",
                              (unsigned long long)rows->row, (unsigned long long)rows->n_rows);
    rows->sent = 0;
    return true;
}

static ssize_t read_rows(void *user, uint64_t pos, char *buffer, size_t max)
{
    (void)pos;
    struct rows *rows = user;
    if (rows->sent == rows->row_bytes) {
        if (++rows->row == rows->n_rows)
            return MHD_CONTENT_READER_END_OF_STREAM;
        struct api__fault fault;
        api__working(rows->connection, true);
        bool ok = next_row(rows, &fault);
        api__working(rows->connection, false);
        if (!ok)
            return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    size_t n = rows->row_bytes - rows->sent < max ? rows->row_bytes - rows->sent : max;
    memcpy(buffer, (const char *)rows->event.logits + rows->sent, n);
    rows->sent += n;
    return (ssize_t)n;
}

/* Submits, and waits for the first row: an early failure still gets its status. */
static bool start_rows(struct rows *rows, struct api__request *r, struct api__fault *fault)
{
    int32_t *ids = NULL;
    size_t n = 0;
    if (!read_ids(r, &ids, &n, fault))
        return false;
    rows->server = r->server;
    rows->connection = r->connection;
    rows->row_bytes = coord_engine_model(r->server->engine)->n_vocab * sizeof(float);
    rows->n_rows = n;
    struct coord_request request = {
        .want = COORD_WANT_LOGITS, .ids = ids, .n_ids = n, .sampling = TEXT_SAMPLING_DEFAULT};
    struct proto_error error;
    bool ok = !coord_engine_submit(r->server->engine, &request, &rows->stream, &error) ||
              api__fault_from(fault, &error);
    free(ids);
    return ok && next_row(rows, fault);
}

enum MHD_Result api__logits(struct api__request *r)
{
    struct api__fault fault = {0};
    struct rows *rows = calloc(1, sizeof *rows);
    if (!rows) {
        api__fault_set(&fault, 500, NULL, NULL, "out of memory for logits");
        return api__reply_fault(r, &fault);
    }
    if (!start_rows(rows, r, &fault)) {
        free_rows(rows);
        return api__reply_fault(r, &fault);
    }
    struct MHD_Response *response = MHD_create_response_from_callback(
        rows->n_rows * rows->row_bytes, 1 << 16, read_rows, rows, free_rows);
    if (!response) {
        free_rows(rows);
        return MHD_NO;
    }
    char n_vocab[24];
    snprintf(n_vocab, sizeof n_vocab, "%zu", rows->row_bytes / sizeof(float));
    MHD_add_response_header(response, "Caravan-Vocabulary", n_vocab);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/octet-stream");
    return api__reply(r, 200, response);
}
