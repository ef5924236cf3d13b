/* SPDX-License-Identifier: Apache-2.0 */
/* What the server says about itself: health, models, the cluster's status. */
#include "coordinator/api/http.h"

#include "kernels/type.h"

#include <string.h>

/* False after a reply's fault was set. */
static bool read_status(struct api__request *r, struct coord_status *status,
                        struct api__fault *fault)
{
    struct proto_error error;
    return !coord_engine_status(r->server->engine, status, &error) ||
           api__fault_from(fault, &error);
}

enum MHD_Result api__health(struct api__request *r)
{
    struct coord_status status;
    struct api__fault fault = {0};
    if (!read_status(r, &status, &fault))
        return api__reply_fault(r, &fault);
    if (!status.ready)
        api__fault_set(&fault, 503, NULL, "not_ready", "%s",
                       status.missing[0] ? status.missing : "the model is being loaded");
    coord_status_finish(&status);
    if (fault.status)
        return api__reply_fault(r, &fault);
    return api__reply_json(r, 200, json_pack("{s:s}", "status", "ok"));
}

static json_t *model_json(const struct api_server *server)
{
    return json_pack("{s:s, s:s, s:I, s:s}", "id", server->model, "object", "model", "created",
                     (json_int_t)server->started, "owned_by", "caravan");
}

enum MHD_Result api__models(struct api__request *r)
{
    return api__reply_json(
        r, 200, json_pack("{s:s, s:[o]}", "object", "list", "data", model_json(r->server)));
}

enum MHD_Result api__model(struct api__request *r)
{
    if (strcmp(r->rest, r->server->model) == 0)
        return api__reply_json(r, 200, model_json(r->server));
    struct api__fault fault;
    api__fault_set(&fault, 404, "model", "model_not_found",
                   "there is no model '%.100s' here, only '%s'", r->rest, r->server->model);
    return api__reply_fault(r, &fault);
}

static json_t *profile_json(const struct proto_profile *p)
{
    json_t *types = json_array();
    for (uint32_t i = 0; i < p->n_types; i++) {
        const struct proto_type_rate *rate = &p->types[i];
        const struct kern_type_info *type = kern_type_find(rate->type);
        if (type)
            json_array_append_new(types,
                                  json_pack("{s:s, s:f, s:f}", "type", type->name, "row_ops_s",
                                            rate->row_ops_s, "rows_ops_s", rate->rows_ops_s));
    }
    char machine[17];
    snprintf(machine, sizeof machine, "%016llx", (unsigned long long)p->machine);
    return json_pack("{s:s, s:f, s:f, s:I, s:f, s:f, s:f, s:f, s:f, s:o}", "machine", machine,
                     "machine_read_bytes_s", p->machine_read_bytes_s, "machine_ops_s",
                     p->machine_ops_s, "free_bytes", (json_int_t)p->free_bytes, "read_bytes_s",
                     p->read_bytes_s, "float_ops_s", p->float_ops_s, "wake_s", p->wake_s, "run_s",
                     p->run_s, "disk_bytes_s", p->disk_bytes_s, "types", types);
}

/* What the worker holds for stages, and what they had of it; null: nothing. */
static json_t *experts_json(const struct coord_worker_status *w)
{
    const struct coord_expert_times *t = &w->experts;
    if (w->n_slices == 0)
        return json_null();
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "first",
                     (json_int_t)w->expert_first, "end", (json_int_t)w->expert_end, "layer_first",
                     (json_int_t)w->expert_layer_first, "layer_end",
                     (json_int_t)w->expert_layer_end, "slice", (json_int_t)w->expert_slice,
                     "n_slices", (json_int_t)w->n_slices, "requests", (json_int_t)t->requests,
                     "bytes_in", (json_int_t)t->bytes_in, "bytes_out", (json_int_t)t->bytes_out,
                     "compute_ns", (json_int_t)t->compute_ns, "wire_ns", (json_int_t)t->wire_ns,
                     "wait_ns", (json_int_t)t->wait_ns);
}

static json_t *worker_json(const struct coord_worker_status *w)
{
    json_t *json =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:I, s:I, s:I, s:b, s:b}", "name", w->name,
                  "endpoint", w->endpoint, "expert_endpoint", w->expert_endpoint, "isa", w->isa,
                  "state", w->state, "local", w->local, "threads", (json_int_t)w->threads,
                  "layer_first", (json_int_t)w->layer_first, "layer_end", (json_int_t)w->layer_end,
                  "embed", w->embed, "head", w->head);
    json_t *numbers = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, "
        "s:I, s:o}",
        "memory_bytes", (json_int_t)w->memory_bytes, "weight_bytes", (json_int_t)w->weight_bytes,
        "kv_limit_bytes", (json_int_t)w->kv_limit_bytes, "scratch_bytes",
        (json_int_t)w->scratch_bytes, "rss_bytes", (json_int_t)w->rss_bytes, "done_bytes",
        (json_int_t)w->done_bytes, "total_bytes", (json_int_t)w->total_bytes, "rtt_ms", w->rtt_ms,
        "batches", (json_int_t)w->batches, "rows", (json_int_t)w->rows, "compute_ns",
        (json_int_t)w->compute_ns, "queue_ns", (json_int_t)w->queue_ns, "wire_ns",
        (json_int_t)w->wire_ns, "wire_back_ns", (json_int_t)w->wire_back_ns, "bytes_in",
        (json_int_t)w->bytes_in, "expert_wait_ns", (json_int_t)w->expert_wait_ns, "slowdown",
        w->slowdown, "stale_frames", (json_int_t)w->stale_frames, "experts", experts_json(w));
    json_t *profile = w->profiled ? profile_json(&w->profile) : json_null();
    if (json_object_set_new(numbers, "profile", profile) || !json ||
        json_object_update_new(json, numbers)) {
        json_decref(json);
        return NULL;
    }
    return json;
}

/* A worker by its name, the coordinator as null. */
static json_t *end_json(const struct coord_status *s, uint32_t end)
{
    return end == COORD_HERE ? json_null() : json_string(s->workers[end].name);
}

static json_t *links_json(const struct coord_status *s)
{
    json_t *links = json_array();
    for (uint32_t i = 0; i < s->n_links; i++) {
        const struct coord_link_status *link = &s->links[i];
        json_array_append_new(links, json_pack("{s:o, s:o, s:f, s:f}", "from",
                                               end_json(s, link->from), "to", end_json(s, link->to),
                                               "rtt_s", link->rtt_s, "bytes_s", link->bytes_s));
    }
    return links;
}

/* Experts that are elsewhere than with their stage. */
static json_t *parts_json(const struct coord_status *s)
{
    json_t *parts = json_array();
    for (uint32_t i = 0; i < s->n_parts; i++) {
        const struct shard_expert_part *p = &s->parts[i];
        json_array_append_new(parts,
                              json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i}", "worker",
                                        s->workers[p->worker].name, "layer_first",
                                        (int)p->layer_first, "layer_end", (int)p->layer_end,
                                        "first", (int)p->expert_first, "end", (int)p->expert_end,
                                        "slice", (int)p->slice, "n_slices", (int)p->n_slices));
    }
    return parts;
}

/* Rows that chose each expert, a list for each layer that has experts; null: the model is dense. */
static json_t *usage_json(const struct coord_status *s)
{
    if (!s->usage)
        return json_null();
    json_t *layers = json_array();
    for (uint32_t il = 0; il < s->n_layers; il++) {
        const uint64_t *counts = s->usage + (size_t)il * s->n_experts;
        json_t *list = json_array();
        bool any = false;
        for (uint32_t i = 0; i < s->n_experts; i++) {
            any |= counts[i] > 0;
            json_array_append_new(list, json_integer((json_int_t)counts[i]));
        }
        if (any)
            json_array_append_new(layers,
                                  json_pack("{s:I, s:O}", "layer", (json_int_t)il, "rows", list));
        json_decref(list);
    }
    return layers;
}

static json_t *caches_json(const struct coord_caches *c)
{
    return json_pack("{s:I, s:I, s:I, s:I}", "moved_positions", (json_int_t)c->moved, "moved_bytes",
                     (json_int_t)c->moved_bytes, "replayed_positions", (json_int_t)c->replayed,
                     "refilled_positions", (json_int_t)c->refilled);
}

static json_t *status_json(const struct coord_status *s)
{
    json_t *workers = json_array();
    for (uint32_t i = 0; i < s->n_workers; i++) {
        if (json_array_append_new(workers, worker_json(&s->workers[i]))) {
            json_decref(workers);
            return NULL;
        }
    }
    return json_pack(
        "{s:s, s:I, s:s, s:I, s:I, s:b, s:b, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, "
        "s:o, s:s, s:o, s:o, s:I}",
        "model", s->model, "epoch", (json_int_t)s->epoch, "kv", kern_kv_name(s->kv), "ctx",
        (json_int_t)s->ctx, "max_rows", (json_int_t)s->max_rows, "ready", s->ready, "exact",
        !s->inexact, "missing", s->missing, "active", (json_int_t)s->active, "waiting",
        (json_int_t)s->waiting, "max_active", (json_int_t)s->max_active, "requests",
        (json_int_t)s->requests, "requests_failed", (json_int_t)s->requests_failed, "prompt_tokens",
        (json_int_t)s->prompt_tokens, "generated_tokens", (json_int_t)s->generated_tokens,
        "workers", workers, "links", links_json(s), "expert_usage", usage_json(s), "plan", s->plan,
        "parts", parts_json(s), "caches", caches_json(&s->caches), "stale_frames",
        (json_int_t)s->stale_frames);
}

enum MHD_Result api__status(struct api__request *r)
{
    struct coord_status status;
    struct api__fault fault = {0};
    if (!read_status(r, &status, &fault))
        return api__reply_fault(r, &fault);
    json_t *json = status_json(&status);
    coord_status_finish(&status);
    return api__reply_json(r, 200, json);
}
