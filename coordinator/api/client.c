/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/api/client_events.h"
#include "coordinator/bench.h"

#include <stdlib.h>
#include <string.h>

/* Logits come only when they are computed. */
#define LOGITS_QUIET_S 600u
#define JSON_QUIET_S   30u
#define BENCH_QUIET_S  3600u
#define PLAN_QUIET_S   120u

/* Status. */

enum proto_status api_client_status_json(struct api_client *client, char **json,
                                         struct proto_error *error)
{
    json_t *answer = NULL;
    enum proto_status status =
        api__exchange_json(client, "/caravan/v1/status", NULL, JSON_QUIET_S, &answer, error);
    if (status)
        return status;
    *json = json_dumps(answer, JSON_INDENT(2));
    json_decref(answer);
    return *json ? PROTO_OK : proto_fail_nomem(error, 0, "the status");
}

static void copy_text(char *out, size_t bytes, const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    snprintf(out, bytes, "%s", text ? text : "");
}

static uint64_t number(const json_t *object, const char *name)
{
    json_int_t value = json_integer_value(json_object_get(object, name));
    return value > 0 ? (uint64_t)value : 0;
}

static bool truth(const json_t *object, const char *name)
{
    return json_is_true(json_object_get(object, name));
}

static double real(const json_t *object, const char *name)
{
    return json_number_value(json_object_get(object, name));
}

static void read_profile(struct proto_profile *p, const json_t *json)
{
    const json_t *types = json_object_get(json, "types");
    p->free_bytes = number(json, "free_bytes");
    p->read_bytes_s = real(json, "read_bytes_s");
    p->float_ops_s = real(json, "float_ops_s");
    p->wake_s = real(json, "wake_s");
    p->run_s = real(json, "run_s");
    p->disk_bytes_s = real(json, "disk_bytes_s");
    const char *machine = json_string_value(json_object_get(json, "machine"));
    p->machine = machine ? strtoull(machine, NULL, 16) : 0;
    p->machine_read_bytes_s = real(json, "machine_read_bytes_s");
    p->machine_ops_s = real(json, "machine_ops_s");
    for (size_t i = 0; i < json_array_size(types) && i < PROTO_MAX_PROFILE_TYPES; i++) {
        const json_t *rate = json_array_get(types, i);
        const char *name = json_string_value(json_object_get(rate, "type"));
        const struct kern_type_info *type = name ? kern_type_by_name(name) : NULL;
        if (type)
            p->types[p->n_types++] = (struct proto_type_rate){type->type, real(rate, "row_ops_s"),
                                                              real(rate, "rows_ops_s")};
    }
}

static void read_experts(struct coord_worker_status *w, const json_t *json)
{
    w->expert_first = (uint32_t)number(json, "first");
    w->expert_end = (uint32_t)number(json, "end");
    w->expert_layer_first = (uint32_t)number(json, "layer_first");
    w->expert_layer_end = (uint32_t)number(json, "layer_end");
    w->expert_slice = (uint32_t)number(json, "slice");
    w->n_slices = (uint32_t)number(json, "n_slices");
    w->experts = (struct coord_expert_times){.requests = number(json, "requests"),
                                             .bytes_in = number(json, "bytes_in"),
                                             .bytes_out = number(json, "bytes_out"),
                                             .compute_ns = number(json, "compute_ns"),
                                             .wire_ns = number(json, "wire_ns"),
                                             .wait_ns = number(json, "wait_ns")};
}

static void read_worker(struct coord_worker_status *w, const json_t *json)
{
    copy_text(w->name, sizeof w->name, json, "name");
    copy_text(w->endpoint, sizeof w->endpoint, json, "endpoint");
    copy_text(w->expert_endpoint, sizeof w->expert_endpoint, json, "expert_endpoint");
    copy_text(w->isa, sizeof w->isa, json, "isa");
    copy_text(w->state, sizeof w->state, json, "state");
    w->local = truth(json, "local");
    w->threads = (uint32_t)number(json, "threads");
    w->layer_first = (uint32_t)number(json, "layer_first");
    w->layer_end = (uint32_t)number(json, "layer_end");
    w->embed = truth(json, "embed");
    w->head = truth(json, "head");
    w->memory_bytes = number(json, "memory_bytes");
    w->weight_bytes = number(json, "weight_bytes");
    w->kv_limit_bytes = number(json, "kv_limit_bytes");
    w->scratch_bytes = number(json, "scratch_bytes");
    w->rss_bytes = number(json, "rss_bytes");
    w->done_bytes = number(json, "done_bytes");
    w->total_bytes = number(json, "total_bytes");
    w->rtt_ms = real(json, "rtt_ms");
    w->batches = number(json, "batches");
    w->rows = number(json, "rows");
    w->compute_ns = number(json, "compute_ns");
    w->queue_ns = number(json, "queue_ns");
    w->wire_ns = number(json, "wire_ns");
    w->wire_back_ns = number(json, "wire_back_ns");
    w->bytes_in = number(json, "bytes_in");
    const json_t *profile = json_object_get(json, "profile");
    w->profiled = json_is_object(profile);
    if (w->profiled)
        read_profile(&w->profile, profile);
    w->expert_wait_ns = number(json, "expert_wait_ns");
    w->slowdown = real(json, "slowdown");
    read_experts(w, json_object_get(json, "experts"));
}

/* The number of a link's end, COORD_HERE for null; false for a name that no worker has. */
static bool read_end(const struct coord_status *s, const json_t *name, uint32_t *end)
{
    *end = COORD_HERE;
    if (json_is_null(name))
        return true;
    for (uint32_t i = 0; i < s->n_workers && json_is_string(name); i++)
        if (strcmp(s->workers[i].name, json_string_value(name)) == 0)
            *end = i;
    return *end != COORD_HERE;
}

static enum proto_status read_links(struct coord_status *s, const json_t *links,
                                    struct proto_error *error)
{
    size_t n = json_array_size(links), most = PROTO_MAX_WORKERS + 1;
    if (n > most * most)
        return api__answer_odd("lists more links than there are", error);
    s->links = calloc(n > 0 ? n : 1, sizeof *s->links);
    if (!s->links)
        return proto_fail_nomem(error, n * sizeof *s->links, "the status");
    for (size_t i = 0; i < n; i++) {
        const json_t *json = json_array_get(links, i);
        struct coord_link_status link = {.rtt_s = real(json, "rtt_s"),
                                         .bytes_s = real(json, "bytes_s")};
        if (read_end(s, json_object_get(json, "from"), &link.from) &&
            read_end(s, json_object_get(json, "to"), &link.to))
            s->links[s->n_links++] = link;
    }
    return PROTO_OK;
}

/* Layers that are not listed have no experts, or nobody has chosen any. */
static enum proto_status read_usage(struct coord_status *s, const json_t *layers,
                                    struct proto_error *error)
{
    size_t i;
    json_t *layer;
    json_array_foreach(layers, i, layer)
    {
        size_t n = json_array_size(json_object_get(layer, "rows"));
        uint64_t il = number(layer, "layer");
        if (n == 0 || n > PROTO_MAX_EXPERTS || il >= PROTO_MAX_LAYERS)
            return api__answer_odd("lists experts that cannot be", error);
        s->n_experts = n > s->n_experts ? (uint32_t)n : s->n_experts;
        s->n_layers = il >= s->n_layers ? (uint32_t)il + 1 : s->n_layers;
    }
    size_t bytes = (size_t)s->n_layers * s->n_experts * sizeof *s->usage;
    if (bytes && !(s->usage = calloc(1, bytes)))
        return proto_fail_nomem(error, bytes, "the status");
    json_array_foreach(layers, i, layer)
    {
        const json_t *rows = json_object_get(layer, "rows");
        uint64_t *counts = s->usage + number(layer, "layer") * s->n_experts;
        for (size_t x = 0; x < json_array_size(rows); x++) {
            json_int_t value = json_integer_value(json_array_get(rows, x));
            counts[x] = value > 0 ? (uint64_t)value : 0;
        }
    }
    return PROTO_OK;
}

static void read_caches(struct coord_caches *c, const json_t *json)
{
    c->moved = number(json, "moved_positions");
    c->moved_bytes = number(json, "moved_bytes");
    c->replayed = number(json, "replayed_positions");
    c->refilled = number(json, "refilled_positions");
}

/* Floats where the answer does not say. */
static enum kern_kv read_kv(const json_t *name)
{
    int kv = json_is_string(name) ? kern_kv_by_name(json_string_value(name)) : -1;
    return kv < 0 ? KERN_KV_F32 : (enum kern_kv)kv;
}

static enum proto_status read_status(struct coord_status *s, const json_t *json,
                                     struct proto_error *error)
{
    const json_t *workers = json_object_get(json, "workers");
    size_t n = json_array_size(workers);
    if (!json_is_array(workers) || n > PROTO_MAX_WORKERS)
        return api__answer_odd("lists no workers", error);
    *s = (struct coord_status){0};
    s->workers = calloc(n > 0 ? n : 1, sizeof *s->workers);
    if (!s->workers)
        return proto_fail_nomem(error, n * sizeof *s->workers, "the status");
    s->n_workers = (uint32_t)n;
    for (size_t i = 0; i < n; i++)
        read_worker(&s->workers[i], json_array_get(workers, i));
    copy_text(s->model, sizeof s->model, json, "model");
    copy_text(s->missing, sizeof s->missing, json, "missing");
    copy_text(s->plan, sizeof s->plan, json, "plan");
    s->epoch = number(json, "epoch");
    s->ready = truth(json, "ready");
    s->kv = read_kv(json_object_get(json, "kv"));
    s->ctx = (uint32_t)number(json, "ctx");
    s->max_rows = (uint32_t)number(json, "max_rows");
    s->inexact = json_is_false(json_object_get(json, "exact"));
    s->active = (uint32_t)number(json, "active");
    s->waiting = (uint32_t)number(json, "waiting");
    s->max_active = (uint32_t)number(json, "max_active");
    s->requests = number(json, "requests");
    s->requests_failed = number(json, "requests_failed");
    s->prompt_tokens = number(json, "prompt_tokens");
    s->generated_tokens = number(json, "generated_tokens");
    read_caches(&s->caches, json_object_get(json, "caches"));
    enum proto_status status = read_links(s, json_object_get(json, "links"), error);
    if (!status)
        status = read_usage(s, json_object_get(json, "expert_usage"), error);
    if (status)
        coord_status_finish(s);
    return status;
}

enum proto_status api_client_status(struct api_client *client, struct coord_status *out,
                                    struct proto_error *error)
{
    json_t *answer = NULL;
    enum proto_status status =
        api__exchange_json(client, "/caravan/v1/status", NULL, JSON_QUIET_S, &answer, error);
    if (status)
        return status;
    status = read_status(out, answer, error);
    json_decref(answer);
    return status;
}

/* Completions. */

static json_t *ids_json(const int32_t *ids, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        if (json_array_append_new(list, json_integer(ids[i]))) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

struct text_sink {
    api_client_text_fn *on_text;
    void *user;
};

static bool take_completion(void *user, const json_t *choice)
{
    const struct text_sink *sink = user;
    const json_t *text = json_object_get(choice, "text");
    return json_string_length(text) == 0 ||
           sink->on_text(sink->user, json_string_value(text), json_string_length(text));
}

enum proto_status api_client_complete(struct api_client *client,
                                      const struct api_client_completion *request,
                                      api_client_text_fn *on_text, void *user,
                                      struct api_client_done *done, struct proto_error *error)
{
    json_t *prompt = request->prompt ? json_stringn(request->prompt, request->prompt_len)
                                     : ids_json(request->ids, request->n_ids);
    json_t *body =
        prompt ? api__generation_body(request->max_tokens, request->ignore_eog, &request->sampling)
               : NULL;
    if (!body || json_object_set(body, "prompt", prompt)) {
        json_decref(prompt);
        json_decref(body);
        return proto_fail(error, PROTO_INVALID, "the prompt is not UTF-8");
    }
    json_decref(prompt);
    struct text_sink sink = {on_text, user};
    const struct api__generation generation = {.path = "/v1/completions",
                                               .body = body,
                                               .on_choice = take_completion,
                                               .user = &sink,
                                               .done = done};
    enum proto_status status = api__generate(client, &generation, error);
    json_decref(body);
    return status;
}

/* Chats. */

struct chat_sink {
    api_client_delta_fn *on_delta;
    void *user;
};

static bool take_delta(void *user, const json_t *choice)
{
    const struct chat_sink *sink = user;
    const json_t *delta = json_object_get(choice, "delta");
    const json_t *thought = json_object_get(delta, "reasoning_content");
    const json_t *text = json_object_get(delta, "content");
    return (json_string_length(thought) == 0 ||
            sink->on_delta(sink->user, true, json_string_value(thought),
                           json_string_length(thought))) &&
           (json_string_length(text) == 0 ||
            sink->on_delta(sink->user, false, json_string_value(text), json_string_length(text)));
}

enum proto_status api_client_chat(struct api_client *client, const struct api_client_chat *request,
                                  api_client_delta_fn *on_delta, void *user,
                                  struct api_client_done *done, struct proto_error *error)
{
    json_t *body =
        api__generation_body(request->max_tokens, request->ignore_eog, &request->sampling);
    if (!body || json_object_set(body, "messages", (json_t *)request->messages)) {
        json_decref(body);
        return proto_fail_nomem(error, 0, "a chat");
    }
    struct chat_sink sink = {on_delta, user};
    const struct api__generation generation = {.path = "/v1/chat/completions",
                                               .body = body,
                                               .cancel = request->cancel,
                                               .on_choice = take_delta,
                                               .user = &sink,
                                               .done = done};
    enum proto_status status = api__generate(client, &generation, error);
    json_decref(body);
    return status;
}

/* Logits. */

struct rows {
    struct api_client *client;
    api_client_row_fn *on_row;
    void *user;
    float *row;          /* allocated once the answer says how long it is */
    size_t n_vocab, len; /* len: bytes of the row so far */
    uint64_t pos, n_rows;
};

static enum proto_status start_rows(struct rows *rows, struct proto_error *error)
{
    const char *text = api__answer_header(rows->client, "Caravan-Vocabulary");
    unsigned long n = text ? strtoul(text, NULL, 10) : 0;
    if (n == 0 || n > PROTO_MAX_VOCAB)
        return api__answer_odd("does not say how long a row of logits is", error);
    rows->n_vocab = n;
    rows->row = malloc(n * sizeof *rows->row);
    return rows->row ? PROTO_OK : proto_fail_nomem(error, n * sizeof(float), "a row of logits");
}

static enum proto_status sink_rows(void *user, const char *data, size_t len,
                                   struct proto_error *error)
{
    struct rows *rows = user;
    enum proto_status status = rows->row ? PROTO_OK : start_rows(rows, error);
    size_t row_bytes = rows->n_vocab * sizeof(float);
    while (!status && len > 0) {
        size_t n = row_bytes - rows->len < len ? row_bytes - rows->len : len;
        memcpy((char *)rows->row + rows->len, data, n);
        rows->len += n;
        data += n;
        len -= n;
        if (rows->len < row_bytes)
            continue;
        rows->len = 0;
        if (rows->pos == rows->n_rows)
            status = api__answer_odd("has more rows than were asked for", error);
        else if (!rows->on_row(rows->user, rows->pos++, rows->row, rows->n_vocab))
            status = proto_fail(error, PROTO_CANCELLED, "the evaluation was ended");
    }
    return status;
}

enum proto_status api_client_logits(struct api_client *client, const int32_t *ids, size_t n_ids,
                                    api_client_row_fn *on_row, void *user,
                                    struct proto_error *error)
{
    json_t *body = json_pack("{s:o}", "ids", ids_json(ids, n_ids));
    if (!body)
        return proto_fail_nomem(error, n_ids, "a request");
    struct rows rows = {.client = client, .on_row = on_row, .user = user, .n_rows = n_ids};
    const struct api__exchange exchange = {.path = "/caravan/v1/logits",
                                           .body = body,
                                           .quiet_s = LOGITS_QUIET_S,
                                           .sink = sink_rows,
                                           .user = &rows};
    enum proto_status status = api__exchange(client, &exchange, error);
    if (!status && rows.pos != n_ids)
        status =
            proto_fail(error, PROTO_LOST, "the coordinator sent %llu rows of logits, expected %zu",
                       (unsigned long long)rows.pos, n_ids);
    json_decref(body);
    free(rows.row);
    return status;
}

/* Tokens. */

enum proto_status api_client_tokenize(struct api_client *client, const char *text, size_t len,
                                      bool special, bool bos, int32_t **ids, size_t *n,
                                      struct proto_error *error)
{
    json_t *body = json_pack("{s:o, s:b, s:b}", "text", json_stringn(text, len), "special", special,
                             "bos", bos);
    if (!body)
        return proto_fail(error, PROTO_INVALID, "the text is not UTF-8");
    json_t *answer = NULL;
    enum proto_status status =
        api__exchange_json(client, "/caravan/v1/tokenize", body, JSON_QUIET_S, &answer, error);
    json_decref(body);
    if (status)
        return status;
    const json_t *list = json_object_get(answer, "ids");
    size_t count = json_array_size(list);
    *ids = malloc((count > 0 ? count : 1) * sizeof **ids);
    if (!*ids)
        status = proto_fail_nomem(error, count * sizeof **ids, "token ids");
    else if (!json_is_array(list))
        status = api__answer_odd("has no token ids", error);
    for (size_t i = 0; !status && i < count; i++) {
        json_int_t id = json_integer_value(json_array_get(list, i));
        if (id < 0 || id >= (json_int_t)PROTO_MAX_VOCAB)
            status = api__answer_odd("has a token id that cannot be", error);
        (*ids)[i] = (int32_t)id;
    }
    json_decref(answer);
    if (status) {
        free(*ids);
        *ids = NULL;
    }
    *n = count;
    return status;
}

enum proto_status api_client_detokenize(struct api_client *client, const int32_t *ids, size_t n,
                                        char **text, size_t *len, struct proto_error *error)
{
    json_t *body = json_pack("{s:o}", "ids", ids_json(ids, n));
    if (!body)
        return proto_fail_nomem(error, n, "a request");
    json_t *answer = NULL;
    enum proto_status status =
        api__exchange_json(client, "/caravan/v1/detokenize", body, JSON_QUIET_S, &answer, error);
    json_decref(body);
    if (status)
        return status;
    const json_t *value = json_object_get(answer, "text");
    *len = json_string_length(value);
    *text = json_is_string(value) ? malloc(*len + 1) : NULL;
    if (*text)
        memcpy(*text, json_string_value(value), *len + 1);
    else
        status = json_is_string(value) ? proto_fail_nomem(error, *len + 1, "a text")
                                       : api__answer_odd("has no text", error);
    json_decref(answer);
    return status;
}

enum proto_status api_client_bench(struct api_client *client,
                                   const struct coord_bench_params *params, bool as_json,
                                   char **text, struct proto_error *error)
{
    json_t *answer = NULL;
    json_t *body = json_pack("{s:i, s:i, s:i, s:i, s:i}", "prompt_tokens", (int)params->n_prompt,
                             "tokens", (int)params->n_generate, "rounds", (int)params->n_rounds,
                             "depth", (int)params->n_depth, "sequences", (int)params->n_sequences);
    if (!body)
        return proto_fail_nomem(error, sizeof *params, "a question");
    enum proto_status status =
        api__exchange_json(client, "/caravan/v1/bench", body, BENCH_QUIET_S, &answer, error);
    json_decref(body);
    if (status)
        return status;
    const json_t *tables = json_object_get(answer, "text");
    const json_t *result = json_object_get(answer, "result");
    if (!json_is_string(tables) || !json_is_object(result))
        status = api__answer_odd("is no measurement", error);
    else if (!(*text = as_json ? json_dumps(result, JSON_INDENT(2) | JSON_REAL_PRECISION(6))
                               : strdup(json_string_value(tables))))
        status = proto_fail_nomem(error, json_string_length(tables), "the measurement");
    json_decref(answer);
    return status;
}

enum proto_status api_client_plan(struct api_client *client, struct api_client_plan *plan,
                                  struct proto_error *error)
{
    json_t *answer = NULL;
    json_t *body = json_pack("{s:s, s:b, s:b}", "for", plan->aim, "apply", plan->apply, "html",
                             plan->html);
    plan->text = plan->page = NULL;
    if (!body)
        return proto_fail_nomem(error, sizeof *plan, "a question");
    enum proto_status status =
        api__exchange_json(client, "/caravan/v1/cluster/plan", body, PLAN_QUIET_S, &answer, error);
    json_decref(body);
    if (status)
        return status;
    const json_t *text = json_object_get(answer, "text"), *page = json_object_get(answer, "html");
    const json_t *result = json_object_get(answer, "result");
    plan->applied = truth(answer, "applied");
    if (!json_is_string(text) || !json_is_object(result) || (plan->html && !json_is_string(page)))
        status = api__answer_odd("is no comparison of plans", error);
    else if (!(plan->text = plan->as_json
                                ? json_dumps(result, JSON_INDENT(1) | JSON_REAL_PRECISION(9))
                                : strdup(json_string_value(text))) ||
             (plan->html && !(plan->page = strdup(json_string_value(page)))))
        status = proto_fail_nomem(error, json_string_length(text), "the comparison");
    json_decref(answer);
    return status;
}

enum proto_status api_client_drain(struct api_client *client, const char *worker,
                                   struct proto_error *error)
{
    json_t *answer = NULL;
    json_t *body = json_pack("{s:s}", "worker", worker);
    if (!body)
        return proto_fail(error, PROTO_INVALID, "the worker's name is no UTF-8");
    enum proto_status status =
        api__exchange_json(client, "/caravan/v1/cluster/drain", body, JSON_QUIET_S, &answer, error);
    json_decref(body);
    json_decref(answer);
    return status;
}
