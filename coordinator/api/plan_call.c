/* SPDX-License-Identifier: Apache-2.0 */
/* `caravan plan` on a running cluster: the plan in force beside the best, one question at a time.
 */
#include "coordinator/api/json.h"
#include "coordinator/plan/compare.h"
#include "coordinator/plan/explain.h"

#include <stdlib.h>
#include <string.h>

struct question {
    enum plan_aim aim;
    bool apply, html;
};

static bool read_aim(const json_t *body, enum plan_aim *aim, struct api__fault *fault)
{
    static const char *const names[] = {"latency", "throughput", "balanced"};
    const json_t *value = api__json_field(body, "for");
    const char *text = json_string_value(value);
    for (int i = 0; i < 3 && text; i++)
        if (strcmp(text, names[i]) == 0)
            *aim = (enum plan_aim)i;
    if (!value || (text && strcmp(text, names[*aim]) == 0))
        return true;
    return api__fault_set(fault, 400, "for", NULL,
                          "for is %s%.32s%s, expected \"latency\", \"throughput\" or \"balanced\"",
                          text ? "\"" : "", text ? text : api__json_kind(value), text ? "\"" : "");
}

static bool read_question(const json_t *body, struct question *q, struct api__fault *fault)
{
    static const char *const fields[] = {"for", "apply", "html"};
    return api__json_only(body, fields, sizeof fields / sizeof fields[0], fault) &&
           read_aim(body, &q->aim, fault) && api__json_bool(body, "apply", &q->apply, fault) &&
           api__json_bool(body, "html", &q->html, fault);
}

/* What `print` writes, as a string; NULL without memory. */
static json_t *text_json(const struct coord_comparison *c,
                         void (*print)(const struct coord_comparison *c, FILE *out))
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    if (!out)
        return NULL;
    print(c, out);
    fclose(out);
    json_t *json = text ? api__json_text(text, len) : NULL;
    free(text);
    return json;
}

static void print_text(const struct coord_comparison *c, FILE *out)
{
    struct proto_error error;
    coord_comparison_print(c, out, &error);
}

/* Asks for the best plan to be put in force. */
static enum proto_status apply(struct coord_engine *engine, const struct coord_comparison *c,
                               struct proto_error *error)
{
    const char *names[PROTO_MAX_WORKERS];
    struct shard_plan *plan = NULL;
    enum proto_status status =
        shard_plan_from(&plan, c->best.answer->placement, c->best.shape, error);
    if (status)
        return status;
    coord_plan_explain(plan->why, sizeof plan->why, c->best.answer->placement,
                       &c->best.answer->cost, c->cluster, &c->best.load, c->best.options.aim);
    for (uint32_t i = 0; i < c->cluster->n_machines; i++)
        names[i] = c->cluster->machines[i].name;
    return coord_engine_apply_plan(engine, &plan, names, c->cluster->n_machines, error);
}

static json_t *answer(struct api_server *server, const struct question *q,
                      const struct coord_comparison *c, struct api__fault *fault)
{
    struct proto_error error;
    bool applies = q->apply && !c->same;
    if (applies && apply(server->engine, c, &error) != PROTO_OK) {
        api__fault_from(fault, &error);
        return NULL;
    }
    json_t *json = json_pack("{s:o, s:o, s:b}", "text", text_json(c, print_text), "result",
                             coord_comparison_json(c), "applied", applies);
    if (json && q->html)
        json_object_set_new(json, "html", text_json(c, coord_comparison_print_html));
    return json;
}

static json_t *compare(struct api_server *server, const struct question *q,
                       struct api__fault *fault)
{
    struct coord_status status;
    struct coord_comparison c;
    struct proto_error error;
    json_t *json = NULL;
    if (coord_engine_status(server->engine, &status, &error) != PROTO_OK) {
        api__fault_from(fault, &error);
        return NULL;
    }
    if (coord_compare(&c, &status, coord_engine_model(server->engine), q->aim, &error) == PROTO_OK)
        json = answer(server, q, &c, fault);
    else if (error.status == PROTO_NOTFOUND || error.status == PROTO_CAPACITY)
        api__fault_set(fault, 409, NULL, "no_plan", "%s", error.text);
    else
        api__fault_from(fault, &error);
    coord_comparison_finish(&c);
    coord_status_finish(&status);
    return json;
}

enum MHD_Result api__plan(struct api__request *r)
{
    struct api__fault fault = {0};
    struct question q = {0};
    json_t *body = api__json_load(r->body, r->len, &fault), *json = NULL;
    bool ok = body && read_question(body, &q, &fault);
    json_decref(body);
    if (ok && atomic_exchange(&r->server->planning, true)) {
        api__fault_set(&fault, 429, NULL, NULL,
                       "another plan is being looked for; try again later");
    } else if (ok) {
        api__working(r->connection, true);
        json = compare(r->server, &q, &fault);
        api__working(r->connection, false);
        atomic_store(&r->server->planning, false);
    }
    return fault.status ? api__reply_fault(r, &fault) : api__reply_json(r, 200, json);
}
