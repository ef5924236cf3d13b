/* SPDX-License-Identifier: Apache-2.0 */
/*
 * jansson's calls fail where a part is NULL for want of memory and free the others, so that only
 * the whole is asked after.
 */
#include "coordinator/plan/json.h"

static json_t *make_budget(const struct plan_budget *b)
{
    return json_pack("{s:f, s:f, s:f, s:f}", "compute_s", b->compute_s, "memory_s", b->memory_s,
                     "wire_s", b->wire_s, "wait_s", b->wait_s);
}

/* A file's name may be no UTF-8. */
static json_t *make_text(const char *text)
{
    json_t *json = json_string(text);
    return json ? json : json_string("?");
}

static json_t *make_bound(const struct coord_plan_view *view, const struct plan_bottleneck *bound)
{
    char text[PLAN_BOTTLENECK_TEXT];
    return make_text(plan_bottleneck_text(bound, view->cluster, text));
}

static json_t *make_model(const struct coord_plan_view *view)
{
    const struct coord_source *s = view->source;
    return json_pack("{s:o, s:I, s:I, s:I, s:I, s:b}", "name", make_text(s->name), "parameters",
                     (json_int_t)shard_model_parameters(s->model), "file_bytes",
                     (json_int_t)s->file_bytes, "memory_bytes",
                     (json_int_t)plan_shape_weight_bytes(view->shape), "token_bytes",
                     (json_int_t)plan_shape_token_bytes(view->shape), "runs", s->note == NULL);
}

static json_t *make_stages(const struct plan_placement *p, uint32_t worker)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < p->n_stages; i++) {
        const struct plan_stage *s = &p->stages[i];
        if (s->worker == worker)
            json_array_append_new(list,
                                  json_pack("{s:i, s:i, s:i, s:b, s:b}", "stage", i, "layer_first",
                                            s->layer_first, "layer_end", s->layer_end, "embed",
                                            s->embed, "head", s->head));
    }
    return list;
}

static json_t *make_parts(const struct plan_placement *p, uint32_t worker)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < p->n_parts; i++) {
        const struct shard_expert_part *e = &p->parts[i];
        if (e->worker == worker)
            json_array_append_new(list, json_pack("{s:i, s:i, s:i, s:i, s:i, s:i}", "layer_first",
                                                  e->layer_first, "layer_end", e->layer_end,
                                                  "expert_first", e->expert_first, "expert_end",
                                                  e->expert_end, "slice", e->slice, "slices",
                                                  e->n_slices));
    }
    return list;
}

static json_t *make_worker(const struct coord_plan_view *view, uint32_t i)
{
    const struct plan_placement *p = view->answer->placement;
    const struct plan_worker *w = &p->workers[i];
    const struct plan_usage *usage = &view->usage[i];
    return json_pack("{s:o, s:s, s:o, s:o, s:I, s:I, s:I, s:I, s:o, s:f}", "machine",
                     make_text(view->cluster->machines[w->machine].name), "device",
                     w->device == PLAN_GPU ? "gpu" : "cpu", "stages", make_stages(p, i), "experts",
                     make_parts(p, i), "weight_bytes", (json_int_t)w->weight_bytes, "kv_bytes",
                     (json_int_t)w->kv_bytes, "scratch_bytes", (json_int_t)w->scratch_bytes,
                     "memory_bytes", (json_int_t)coord_plan_worker_memory(view, i), "token",
                     make_budget(&usage->token), "busy", usage->busy);
}

static json_t *make_workers(const struct coord_plan_view *view)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < view->answer->placement->n_workers; i++)
        json_array_append_new(list, make_worker(view, i));
    return list;
}

static json_t *make_idle(const struct coord_plan_view *view)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < view->answer->n_idle; i++) {
        const struct plan_idle *idle = &view->answer->idle[i];
        json_array_append_new(list,
                              json_pack("{s:o, s:o}", "machine",
                                        make_text(view->cluster->machines[idle->machine].name),
                                        "why", make_text(idle->why)));
    }
    return list;
}

static json_t *make_changes(const struct coord_plan_view *view)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < view->n_changes; i++) {
        const struct plan_change *change = &view->changes[i];
        json_array_append_new(
            list, json_pack("{s:o, s:f}", "change", make_text(change->text), "gain", change->gain));
    }
    return list;
}

static json_t *make_predicted(const struct coord_plan_view *view)
{
    const struct plan_cost *c = &view->answer->cost;
    json_t *one =
        json_pack("{s:f, s:f, s:o, s:o, s:o}", "prefill_tokens_s", view->load.prompt / c->prompt_s,
                  "decode_tokens_s", 1 / c->decode_s, "prefill_bottleneck",
                  make_bound(view, &c->prefill_bound), "decode_bottleneck",
                  make_bound(view, &c->decode_bound), "token", make_budget(&c->token));
    json_t *many =
        json_pack("{s:i, s:f, s:f, s:o}", "sequences", view->load.sequences, "prefill_tokens_s",
                  1 / c->row_s, "decode_tokens_s", view->load.sequences / c->step_s, "bottleneck",
                  make_bound(view, &c->many_bound));
    return json_pack("{s:o, s:o, s:f, s:f}", "one", one, "many", many, "frames", c->frames,
                     "wire_bytes", c->wire_bytes);
}

json_t *coord_plan_json(const struct coord_plan_view *view)
{
    const struct plan_shape_options *o = &view->shape->options;
    return json_pack("{s:o, s:I, s:i, s:s, s:o, s:o, s:o, s:o, s:b}", "model", make_model(view),
                     "ctx", (json_int_t)o->ctx, "sequences", o->max_seqs, "kv", kern_kv_name(o->kv),
                     "workers", make_workers(view), "left_out", make_idle(view), "predicted",
                     make_predicted(view), "changes", make_changes(view), "link_estimated",
                     view->cluster->link_estimated);
}

enum proto_status coord_plan_print_json(const struct coord_plan_view *view, FILE *out,
                                        struct proto_error *error)
{
    json_t *json = coord_plan_json(view);
    bool written = json && json_dumpf(json, out, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) == 0;
    fputc('\n', out);
    json_decref(json);
    return written ? PROTO_OK
                   : proto_fail(error, PROTO_IO, "the plan could not be written as JSON");
}
