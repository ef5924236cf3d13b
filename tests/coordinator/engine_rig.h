/* SPDX-License-Identifier: Apache-2.0 */
/* An engine in this process whose first worker is a puppet, for tests; one at a time. */
#ifndef TESTS_COORDINATOR_ENGINE_RIG_H
#define TESTS_COORDINATOR_ENGINE_RIG_H

#include "coordinator/engine.h"
#include "puppet.h"

/* rig_answer_well's token is this and the position of the row that it is the answer to. */
#define RIG_FIRST_TOKEN 300

struct rig {
    struct net_cluster_keys keys;
    struct coord_engine *engine;
    struct puppet puppet;
    /* What the next engine is to be; a test sets back what it changes. */
    bool moe;           /* the model has experts */
    uint32_t n_wanted;  /* workers that the engine waits for: 1 */
    const char *memory; /* of an engine before; NULL: none */
    enum shard_split_kind split;
};
extern struct rig rig;

/* Makes the models and the cluster's keys. */
bool rig_create(void);
void rig_destroy(void);

void rig_start(const struct puppet_options *options);
void rig_finish(void);
/* Starts a puppet that is ready. */
void rig_start_ready(void (*on_batch)(struct puppet *puppet, const struct proto_batch *batch));

struct rig_candidate {
    uint32_t id;
    float logit;
};

/* A result with one row of one candidate for the first range's last position. */
struct rig_answer {
    struct proto_result_row row;
    struct rig_candidate candidate;
    struct proto_msg msg;
    size_t len;
};
void rig_make_answer(struct rig_answer *answer, const struct proto_batch *batch);
void rig_send_answer(struct puppet *p, struct rig_answer *answer);
/* Both, for struct puppet_options. */
void rig_answer_well(struct puppet *p, const struct proto_batch *batch);

/* Asks for tokens after a prompt of three; what ended it. tokens may be NULL. */
struct coord_event rig_generate(uint32_t n, int32_t *tokens);
/* Asserts that tokens come as rig_answer_well gives them. */
void rig_check_generates(void);

#endif
