/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many requests at an engine, and what the planner's simulator (shard/plan/simulate.h) expects of
 * them: clients that each send a request when their last is answered.
 */
#ifndef COORDINATOR_BENCH_LOAD_H
#define COORDINATOR_BENCH_LOAD_H

#include "coordinator/engine.h"

#include <stdio.h>

#define COORD_LOAD_MAX_CLIENTS  PROTO_MAX_SEQUENCES
#define COORD_LOAD_MAX_REQUESTS 100000u

struct coord_load_params {
    uint32_t clients, requests;    /* requests of all clients together */
    uint32_t n_prompt, n_generate; /* tokens of each */
};

/* What they had; medians in seconds. */
struct coord_load_rates {
    double prompt_tokens_s, answer_tokens_s;
    double first_s;   /* to the first token */
    double token_s;   /* between two tokens of a sequence */
    double request_s; /* to the last token */
};

struct coord_load {
    struct coord_load_params params;
    struct coord_load_rates measured;
    struct coord_load_rates simulated; /* zeros where machines were not measured */
};

/* Runs it, after one request that is not counted; nothing else may use the engine. */
enum proto_status coord_load_run(struct coord_engine *engine,
                                 const struct coord_load_params *params, struct coord_load *out,
                                 struct proto_error *error);

/* As one JSON object (malloc'ed, NUL-terminated; NULL on lack of memory), and as a table. */
char *coord_load_json(const struct coord_load *load);
void coord_load_print(const struct coord_load *load, FILE *out);

#endif
