/* SPDX-License-Identifier: Apache-2.0 */
/* `caravan bench` on a running cluster: the coordinator measures, one bench at a time. */
#include "coordinator/api/json.h"
#include "coordinator/bench.h"

#include <stdlib.h>

static bool read_params(const json_t *body, struct coord_bench_params *p, struct api__fault *fault)
{
    static const char *const fields[] = {"prompt_tokens", "tokens", "rounds", "depth", "sequences"};
    uint32_t *const targets[] = {&p->n_prompt, &p->n_generate, &p->n_rounds, &p->n_depth,
                                 &p->n_sequences};
    const size_t n = sizeof fields / sizeof fields[0];
    if (!api__json_only(body, fields, n, fault))
        return false;
    for (size_t i = 0; i < n; i++) {
        json_int_t value = *targets[i];
        if (!api__json_integer(body, fields[i], 1, PROTO_MAX_CONTEXT, &value, fault))
            return false;
        *targets[i] = (uint32_t)value;
    }
    return true;
}

/* {"text": tables for people, "result": the measurements}; NULL without memory. */
static json_t *result_json(const struct coord_bench *bench)
{
    char *text = NULL, *json = coord_bench_json(bench);
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    if (out) {
        coord_bench_print(bench, out);
        fclose(out);
    }
    json_t *result = json ? json_loads(json, 0, NULL) : NULL;
    json_t *answer =
        text && result ? json_pack("{s:s#, s:O}", "text", text, (int)len, "result", result) : NULL;
    json_decref(result);
    free(json);
    free(text);
    return answer;
}

static json_t *bench(struct api__request *r, struct api__fault *fault)
{
    struct coord_bench_params params = COORD_BENCH_DEFAULT;
    struct coord_bench result;
    struct proto_error error;
    json_t *body = api__json_load(r->body, r->len, fault);
    bool ok = body && read_params(body, &params, fault);
    json_decref(body);
    if (!ok)
        return NULL;
    if (coord_bench_run(r->server->engine, &params, &result, &error) != PROTO_OK) {
        api__fault_from(fault, &error);
        return NULL;
    }
    json_t *answer = result_json(&result);
    coord_bench_finish(&result);
    return answer;
}

enum MHD_Result api__bench(struct api__request *r)
{
    struct api__fault fault = {0};
    json_t *answer = NULL;
    if (atomic_exchange(&r->server->measuring, true)) {
        api__fault_set(&fault, 429, NULL, NULL, "another bench is running; try again later");
        return api__reply_fault(r, &fault);
    }
    api__working(r->connection, true);
    answer = bench(r, &fault);
    api__working(r->connection, false);
    atomic_store(&r->server->measuring, false);
    return fault.status ? api__reply_fault(r, &fault) : api__reply_json(r, 200, answer);
}
