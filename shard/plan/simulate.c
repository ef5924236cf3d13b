/* SPDX-License-Identifier: Apache-2.0 */
/* The coordinator of the simulation: requests arrive, wait for a place, and are put into batches as
 * coordinator/scheduler.c does. */
#include "shard/plan/simulate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shard/plan/sim.h"

#define NONE         UINT32_MAX
#define MOST_TOKENS  (1u << 23) /* whose times are kept */
#define MOST_CLIENTS (1u << 20)
#define MOST_ZIPF    4.0

struct request {
    double arrived, last; /* last: when its last token came */
    uint32_t prompt, answer;
    uint32_t sent;      /* rows of the prompt that were sent */
    uint32_t tokens;    /* of the answer that came */
    uint32_t in_flight; /* batches */
    uint32_t next;      /* in the line of those waiting, or of those in work */
};

struct line {
    uint32_t first, last, n;
};

struct office {
    struct plan__sim sim;
    const struct plan_simulation *options;
    uint32_t max_seqs, max_rows;
    struct request *requests;
    uint32_t n_requests, n_arrived, n_done;
    struct line waiting, active;
    uint32_t free_batches[PROTO_MAX_LAYERS + 1], n_free;
    double *first_s, *request_s, *token_s;
    size_t n_tokens, room_tokens;
    double queue_area, queue_at; /* requests waiting, times seconds */
    uint32_t waiting_at_last;    /* when the last request came */
};

static void append(struct office *o, struct line *line, uint32_t r)
{
    o->requests[r].next = NONE;
    if (line->n++ == 0)
        line->first = r;
    else
        o->requests[line->last].next = r;
    line->last = r;
}

static uint32_t take_first(const struct office *o, struct line *line)
{
    uint32_t r = line->first;
    line->first = o->requests[r].next;
    line->n--;
    return r;
}

/* ---- requests ---- */

static uint32_t length(struct office *o, uint32_t mean)
{
    if (!o->options->spread || mean <= 1)
        return mean;
    double n = plan__sim_exponential(&o->sim.chance, mean - 1.0);
    return 1 + (uint32_t)fmin(n, 16.0 * mean);
}

static void schedule_arrival(struct office *o, double at)
{
    if (o->n_requests == o->options->requests)
        return;
    struct request *r = &o->requests[o->n_requests];
    *r = (struct request){.prompt = length(o, o->options->prompt),
                          .answer = length(o, o->options->answer)};
    r->prompt = r->prompt ? r->prompt : 1;
    plan__sim_push(&o->sim, (struct plan__sim_event){
                                .at = at, .kind = PLAN__SIM_ARRIVAL, .batch = o->n_requests++});
}

static void count_queue(struct office *o)
{
    o->queue_area += o->waiting.n * (o->sim.now - o->queue_at);
    o->queue_at = o->sim.now;
}

static void arrive(struct office *o, uint32_t r)
{
    count_queue(o);
    o->requests[r].arrived = o->requests[r].last = o->sim.now;
    append(o, &o->waiting, r);
    o->n_arrived++;
    if (o->n_arrived == o->options->requests)
        o->waiting_at_last = o->waiting.n;
    if (o->options->arrivals_s > 0)
        schedule_arrival(o, o->sim.now +
                                plan__sim_exponential(&o->sim.chance, 1 / o->options->arrivals_s));
}

/* ---- batches ---- */

static bool generating(const struct request *r)
{
    return r->tokens > 0;
}

static void add(struct office *o, struct plan__sim_batch *b, uint32_t index, uint32_t rows)
{
    struct request *r = &o->requests[index];
    uint32_t pos = generating(r) ? r->prompt + r->tokens - 1 : r->sent;
    bool wanted = generating(r) || r->sent + rows == r->prompt;
    b->members[b->n_members] = index;
    b->member_rows[b->n_members++] = rows;
    b->depth += rows * (pos + (rows - 1) / 2.0);
    b->rows += rows;
    b->seqs++;
    b->wanted += wanted;
    r->in_flight++;
    if (!generating(r))
        r->sent += rows;
}

/* An even share of the sequences that generate. */
static void add_generating(struct office *o, struct plan__sim_batch *b)
{
    uint32_t n = 0, stages = o->sim.placement->n_stages;
    for (uint32_t r = o->active.first, i = 0; i < o->active.n; r = o->requests[r].next, i++)
        n += generating(&o->requests[r]);
    uint32_t share = (n + stages - 1) / stages;
    for (uint32_t r = o->active.first, i = 0; i < o->active.n && share; i++) {
        if (generating(&o->requests[r]) && !o->requests[r].in_flight && b->rows < o->max_rows) {
            add(o, b, r, 1);
            share--;
        }
        r = o->requests[r].next;
    }
}

static void add_prompts(struct office *o, struct plan__sim_batch *b)
{
    double rows = 0;
    for (uint32_t r = o->active.first, i = 0; i < o->active.n; r = o->requests[r].next, i++)
        rows += generating(&o->requests[r]) ? 0 : o->requests[r].prompt;
    double room = fmin(plan__chunk_rows(rows, o->sim.placement->n_stages, o->max_rows),
                       o->max_rows - b->rows);
    for (uint32_t r = o->active.first, i = 0; i < o->active.n && room >= 1; i++) {
        uint32_t left = o->requests[r].prompt - o->requests[r].sent;
        if (!generating(&o->requests[r]) && left > 0) {
            uint32_t n = left < room ? left : (uint32_t)room;
            add(o, b, r, n);
            room -= n;
        }
        r = o->requests[r].next;
    }
}

static bool reading(const struct office *o)
{
    for (uint32_t r = o->active.first, i = 0; i < o->active.n; r = o->requests[r].next, i++) {
        if (!generating(&o->requests[r]) && o->requests[r].sent < o->requests[r].prompt)
            return true;
    }
    return false;
}

static bool dispatch(struct office *o)
{
    uint32_t most = o->sim.placement->n_stages + (reading(o) ? 1 : 0);
    if (o->n_free == 0 || o->sim.n_batches - o->n_free >= most || o->active.n == 0)
        return false;
    uint32_t index = o->free_batches[o->n_free - 1];
    struct plan__sim_batch *b = &o->sim.batches[index];
    b->rows = b->seqs = b->depth = b->wanted = 0;
    b->n_members = 0;
    add_generating(o, b);
    add_prompts(o, b);
    if (b->rows <= 0)
        return false;
    b->depth /= b->rows;
    o->n_free--;
    plan__sim_send_batch(&o->sim, index);
    append(o, &o->active, take_first(o, &o->active));
    return true;
}

static void schedule(struct office *o)
{
    count_queue(o);
    while (o->waiting.n > 0 && o->active.n < o->max_seqs)
        append(o, &o->active, take_first(o, &o->waiting));
    while (dispatch(o))
        continue;
}

static void take_token(struct office *o, uint32_t index)
{
    struct request *r = &o->requests[index];
    if (r->tokens == 0)
        o->first_s[index] = o->sim.now - r->arrived;
    else if (o->n_tokens < o->room_tokens)
        o->token_s[o->n_tokens++] = o->sim.now - r->last;
    r->last = o->sim.now;
    r->tokens++;
}

static void retire(struct office *o)
{
    for (uint32_t i = o->active.n; i > 0; i--) {
        uint32_t r = take_first(o, &o->active);
        if (o->requests[r].tokens < o->requests[r].answer) {
            append(o, &o->active, r);
            continue;
        }
        o->request_s[r] = o->sim.now - o->requests[r].arrived;
        o->n_done++;
        if (o->options->arrivals_s <= 0)
            schedule_arrival(o, o->sim.now);
    }
}

static void finish_batch(struct office *o, uint32_t index)
{
    struct plan__sim_batch *b = &o->sim.batches[index];
    bool done = false;
    for (uint32_t i = 0; i < b->n_members; i++) {
        struct request *r = &o->requests[b->members[i]];
        r->in_flight--;
        if (generating(r) || (r->sent == r->prompt && r->in_flight == 0))
            take_token(o, b->members[i]);
        done |= r->tokens >= r->answer;
    }
    if (done)
        retire(o);
    o->free_batches[o->n_free++] = index;
}

/* ---- results ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static struct plan_percentiles percentiles(double *values, size_t n)
{
    double sum = 0;
    if (n == 0)
        return (struct plan_percentiles){0};
    qsort(values, n, sizeof *values, by_value);
    for (size_t i = 0; i < n; i++)
        sum += values[i];
    return (struct plan_percentiles){.mean = sum / (double)n,
                                     .p50 = values[n / 2],
                                     .p90 = values[n * 9 / 10],
                                     .p99 = values[n * 99 / 100],
                                     .max = values[n - 1]};
}

static void find_busiest(struct plan_simulated *out, const struct plan__sim *sim)
{
    double seconds = out->seconds > 0 ? out->seconds : 1;
    out->busiest.kind = PLAN_BOUND_COMPUTE;
    out->busiest_link.kind = PLAN_BOUND_LINK;
    for (uint32_t w = 0; w < sim->placement->n_workers; w++) {
        const struct plan_worker *worker = &sim->placement->workers[w];
        if (sim->busy[w] / seconds > out->busiest.share) {
            out->busiest.share = sim->busy[w] / seconds;
            out->busiest.machine = worker->machine;
            out->busiest.device = worker->device;
        }
    }
    for (uint32_t m = 0; m < sim->cluster->n_machines; m++) {
        if (sim->link_busy[m] / seconds > out->busiest_link.share) {
            out->busiest_link.share = sim->link_busy[m] / seconds;
            out->busiest_link.machine = m;
        }
    }
}

static void report(struct plan_simulated *out, struct office *o)
{
    double prompts = 0, answers = 0, seconds = o->sim.now > 0 ? o->sim.now : 1;
    for (uint32_t i = 0; i < o->n_requests; i++) {
        prompts += o->options->prompt ? o->requests[i].prompt : 0;
        answers += o->requests[i].answer;
    }
    *out = (struct plan_simulated){.seconds = o->sim.now,
                                   .prompt_tokens_s = prompts / seconds,
                                   .answer_tokens_s = answers / seconds,
                                   .requests_s = o->n_done / seconds,
                                   .first_s = percentiles(o->first_s, o->n_done),
                                   .token_s = percentiles(o->token_s, o->n_tokens),
                                   .request_s = percentiles(o->request_s, o->n_done),
                                   .queue_mean = o->queue_area / seconds};
    /* A tenth of all still waits, and more than can be served at once. */
    out->saturated = o->options->arrivals_s > 0 && o->waiting_at_last > o->n_requests / 10 &&
                     o->waiting_at_last > o->max_seqs;
    find_busiest(out, &o->sim);
}

/* ---- the run ---- */

static enum proto_status check_options(const struct plan_simulation *o, struct proto_error *error)
{
    bool closed = o->arrivals_s <= 0;
    if (o->requests == 0 || o->requests > MOST_CLIENTS || o->answer == 0 ||
        o->answer > MOST_TOKENS || o->prompt > PROTO_MAX_CONTEXT)
        return proto_fail(error, PROTO_LIMIT,
                          "%u requests of %u tokens and %u: expected 1 to %u, 0 to %u, 1 to %u",
                          o->requests, o->prompt, o->answer, MOST_CLIENTS, PROTO_MAX_CONTEXT,
                          MOST_TOKENS);
    if (closed && (o->clients == 0 || o->clients > MOST_CLIENTS))
        return proto_fail(error, PROTO_LIMIT, "%u clients, expected 1 to %u", o->clients,
                          MOST_CLIENTS);
    if (!isfinite(o->arrivals_s) || o->arrivals_s < 0 || !(o->zipf >= 0 && o->zipf <= MOST_ZIPF))
        return proto_fail(error, PROTO_LIMIT,
                          "%g requests a second and skew %g: expected 0 or more, and 0 to %g",
                          o->arrivals_s, o->zipf, MOST_ZIPF);
    if (o->max_seqs > PROTO_MAX_SEQUENCES || o->max_rows > PROTO_MAX_BATCH_ROWS)
        return proto_fail(error, PROTO_LIMIT,
                          "%u sequences and batches of %u rows, expected at most %u and %u",
                          o->max_seqs, o->max_rows, PROTO_MAX_SEQUENCES, PROTO_MAX_BATCH_ROWS);
    return PROTO_OK;
}

static enum proto_status open_office(struct office *o, const struct plan_shape *shape,
                                     struct proto_error *error)
{
    size_t n = o->options->requests;
    uint64_t tokens = n * (uint64_t)o->options->answer * (o->options->spread ? 2 : 1);
    o->max_seqs = o->options->max_seqs ? o->options->max_seqs : shape->options.max_seqs;
    o->max_rows = o->options->max_rows ? o->options->max_rows : shape->options.max_rows;
    o->room_tokens = tokens < MOST_TOKENS ? tokens : MOST_TOKENS;
    o->requests = calloc(n, sizeof *o->requests);
    o->first_s = calloc(n, sizeof *o->first_s);
    o->request_s = calloc(n, sizeof *o->request_s);
    o->token_s = calloc(o->room_tokens + 1, sizeof *o->token_s);
    if (!o->requests || !o->first_s || !o->request_s || !o->token_s)
        return proto_fail_nomem(error, tokens * sizeof *o->token_s, "the simulation");
    return PROTO_OK;
}

static enum proto_status run(struct office *o, struct proto_error *error)
{
    struct plan__sim_event event;
    uint32_t first = o->options->arrivals_s > 0 ? 1 : o->options->clients;
    for (uint32_t i = 0; i < o->sim.n_batches; i++)
        o->free_batches[o->n_free++] = i;
    for (uint32_t i = 0; i < first; i++)
        schedule_arrival(o, 0);
    while (o->n_done < o->options->requests && !o->sim.nomem && plan__sim_pop(&o->sim, &event)) {
        if (event.kind == PLAN__SIM_ARRIVAL)
            arrive(o, event.batch);
        else if (event.kind == PLAN__SIM_DONE)
            finish_batch(o, event.batch);
        else
            plan__sim_step(&o->sim, &event);
        if (event.kind == PLAN__SIM_ARRIVAL || event.kind == PLAN__SIM_DONE)
            schedule(o);
    }
    if (o->sim.nomem)
        return proto_fail_nomem(error, o->sim.room * sizeof event, "the simulation's events");
    return PROTO_OK;
}

enum proto_status plan_simulate(struct plan_simulated *out, const struct plan_placement *placement,
                                const struct plan_shape *shape, const struct plan_cluster *cluster,
                                const struct plan_simulation *options, struct proto_error *error)
{
    enum proto_status status = check_options(options, error);
    if (status == PROTO_OK && placement->n_stages > PROTO_MAX_LAYERS)
        status = proto_fail(error, PROTO_LIMIT, "%u stages, expected at most %u",
                            placement->n_stages, PROTO_MAX_LAYERS);
    if (status != PROTO_OK)
        return status;
    struct office *o = calloc(1, sizeof *o);
    if (!o)
        return proto_fail_nomem(error, sizeof *o, "the simulation");
    o->options = options;
    status = open_office(o, shape, error);
    if (status == PROTO_OK)
        status = plan__sim_init(&o->sim, placement, shape, cluster, options, o->max_seqs, error);
    if (status == PROTO_OK)
        status = run(o, error);
    if (status == PROTO_OK)
        report(out, o);
    plan__sim_finish(&o->sim);
    free(o->requests);
    free(o->first_s);
    free(o->request_s);
    free(o->token_s);
    free(o);
    return status;
}

enum proto_status plan_saturation(struct plan_simulated *out,
                                  const struct plan_placement *placement,
                                  const struct plan_shape *shape,
                                  const struct plan_cluster *cluster,
                                  const struct plan_simulation *options, struct proto_error *error)
{
    struct plan_simulation closed = *options;
    uint32_t seqs = options->max_seqs ? options->max_seqs : shape->options.max_seqs;
    closed.arrivals_s = 0;
    closed.clients = 2 * seqs;
    return plan_simulate(out, placement, shape, cluster, &closed, error);
}
