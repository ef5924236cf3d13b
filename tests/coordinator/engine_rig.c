/* SPDX-License-Identifier: Apache-2.0 */
#include "engine_rig.h"

#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "shard/mkmodel.h"

struct rig rig = {.n_wanted = 1};

static char folder[] = "/tmp/caravan-engine-XXXXXX", model[64], moe_model[64];

bool rig_create(void)
{
    const char *sets[] = {"layers=2"};
    const struct shard_mkmodel_options how = {
        .preset = "llama3-tiny", .type = "F32", .seed = 1, .sets = sets, .n_sets = 1};
    const struct shard_mkmodel_options moe = {
        .preset = "qwen3moe-tiny", .type = "F32", .seed = 1, .sets = sets, .n_sets = 1};
    struct proto_error error = {0};
    char digest[65];
    if (!mkdtemp(folder))
        return false;
    snprintf(moe_model, sizeof moe_model, "%s/moe.gguf", folder);
    if (shard_mkmodel(&moe, moe_model, digest, &error) != PROTO_OK)
        return false;
    snprintf(model, sizeof model, "%s/model.gguf", folder);
    return shard_mkmodel(&how, model, digest, &error) == PROTO_OK &&
           net_cluster_keys_generate(&rig.keys, "", &error) == PROTO_OK;
}

void rig_destroy(void)
{
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (system(command) != 0)
        fprintf(stderr, "%s is left\n", folder);
}

void rig_start(const struct puppet_options *options)
{
    const struct coord_engine_options how = {.model_path = rig.moe ? moe_model : model,
                                             .workers = rig.n_wanted,
                                             .memory = rig.memory,
                                             .split = rig.split,
                                             .listen = "tcp://127.0.0.1:0",
                                             .keys = &rig.keys,
                                             .ctx = 64,
                                             .deadline_ms = 60000,
                                             .cache_dir = folder};
    struct proto_error error = {0};
    if (coord_engine_create(&rig.engine, &how, &error) != PROTO_OK) {
        fprintf(stderr, "no engine: %s\n", error.text);
        abort();
    }
    puppet_start(&rig.puppet, coord_engine_endpoint(rig.engine), &rig.keys, options);
}

void rig_finish(void)
{
    puppet_finish(&rig.puppet);
    coord_engine_destroy(rig.engine);
}

void rig_start_ready(void (*on_batch)(struct puppet *puppet, const struct proto_batch *batch))
{
    const struct puppet_options options = {.on_batch = on_batch};
    struct proto_error error = {0};
    rig_start(&options);
    CU_ASSERT_EQUAL_FATAL(coord_engine_wait_ready(rig.engine, &error), PROTO_OK);
}

void rig_make_answer(struct rig_answer *answer, const struct proto_batch *batch)
{
    uint64_t pos = batch->n_ranges ? batch->ranges[0].pos + batch->ranges[0].n - 1 : 0;
    answer->row = (struct proto_result_row){.pos = pos, .count = 1, .lse = 1};
    answer->candidate = (struct rig_candidate){(uint32_t)(RIG_FIRST_TOKEN + pos), 1};
    answer->len = sizeof answer->candidate;
    answer->msg = (struct proto_msg){.kind = PROTO_MSG_RESULT,
                                     .result = {.epoch = batch->epoch,
                                                .batch = batch->batch,
                                                .n_vocab = 512,
                                                .last = true,
                                                .rows = &answer->row,
                                                .n_rows = batch->n_ranges ? 1 : 0}};
    if (!batch->n_ranges)
        answer->len = 0;
}

void rig_send_answer(struct puppet *p, struct rig_answer *answer)
{
    puppet_send(p, &answer->msg, answer->len ? &answer->candidate : NULL, answer->len);
}

void rig_answer_well(struct puppet *p, const struct proto_batch *batch)
{
    struct rig_answer answer;
    rig_make_answer(&answer, batch);
    rig_send_answer(p, &answer);
}

struct coord_event rig_generate(uint32_t n, int32_t *tokens)
{
    const int32_t ids[] = {1, 5, 9};
    struct coord_request request = {.want = COORD_WANT_TOKENS,
                                    .ids = ids,
                                    .n_ids = 3,
                                    .max_tokens = n,
                                    .ignore_eog = true,
                                    .sampling = TEXT_SAMPLING_DEFAULT};
    struct coord_stream *stream;
    struct coord_event event = {0};
    request.sampling.temperature = 0;
    CU_ASSERT_EQUAL_FATAL(coord_engine_submit(rig.engine, &request, &stream, &event.error),
                          PROTO_OK);
    for (;;) {
        CU_ASSERT_FATAL(coord_stream_next(stream, &event, 60000));
        if (event.kind != COORD_EVENT_TOKEN)
            break;
        if (tokens)
            *tokens++ = event.token;
    }
    coord_stream_destroy(stream);
    return event;
}

void rig_check_generates(void)
{
    int32_t tokens[4] = {0};
    struct coord_event end = rig_generate(4, tokens);
    CU_ASSERT_EQUAL(end.kind, COORD_EVENT_DONE);
    for (int i = 0; i < 4; i++)
        CU_ASSERT_EQUAL(tokens[i], RIG_FIRST_TOKEN + 2 + i);
}
