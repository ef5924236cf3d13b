/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measures an engine: prefill and decode, the memory's read bandwidth, and where the time of each
 * went, stage by stage. Medians of several rounds after one that is not counted.
 */
#ifndef COORDINATOR_BENCH_H
#define COORDINATOR_BENCH_H

#include "coordinator/engine.h"
#include "coordinator/plan/prediction.h"

struct coord_bench_params {
    uint32_t n_prompt;   /* tokens of a prompt */
    uint32_t n_generate; /* tokens generated */
    uint32_t n_rounds;
    uint32_t n_depth;     /* positions before the first token that is generated */
    uint32_t n_sequences; /* that generate together */
};

#define COORD_BENCH_DEFAULT                                                                        \
    ((struct coord_bench_params){                                                                  \
        .n_prompt = 512, .n_generate = 64, .n_rounds = 3, .n_depth = 1, .n_sequences = 1})

/* The context that a measurement needs. */
uint64_t coord_bench_ctx(const struct coord_bench_params *params);

struct coord_bench {
    struct coord_bench_params params;
    double prefill, decode; /* tokens a second, of all sequences together; medians */
    double prefill_min, prefill_max, decode_min, decode_max;
    double bus_bytes_s;       /* read bandwidth of the first stage's worker, median */
    double bus_share;         /* of it that decoding's weights take, median of the rounds */
    uint64_t bytes_per_token; /* weights read for a decoded token */
    struct coord_status prefill_status, decode_status; /* times of all counted rounds */
    struct coord_prediction predicted;                 /* zeros where machines were not measured */
};

/* Runs it; nothing else may use the engine. The caller finishes *out. */
enum proto_status coord_bench_run(struct coord_engine *engine,
                                  const struct coord_bench_params *params, struct coord_bench *out,
                                  struct proto_error *error);
void coord_bench_finish(struct coord_bench *bench);

/* A prompt (malloc'ed, NULL on lack of memory), and a greedy request of it that generates so many
 * tokens whatever they are. */
int32_t *coord_bench_ids(uint32_t n, uint32_t n_vocab);
enum proto_status coord_bench_submit(struct coord_engine *engine, const int32_t *ids,
                                     uint32_t n_ids, uint32_t n_generate,
                                     struct coord_stream **stream, struct proto_error *error);

/* As one JSON object (malloc'ed, NUL-terminated; NULL on lack of memory), and as tables. */
char *coord_bench_json(const struct coord_bench *bench);
void coord_bench_print(const struct coord_bench *bench, FILE *out);

#endif
