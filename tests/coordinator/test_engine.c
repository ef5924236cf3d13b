/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine does with workers that are not as they should be. */
#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "coordinator/engine.h"
#include "puppet.h"
#include "shard/mkmodel.h"

#define FIRST_TOKEN 300

static char folder[] = "/tmp/caravan-engine-XXXXXX", model[64], moe_model[64];
static const char *used_model = model;
static struct net_cluster_keys keys;
static uint32_t n_wanted = 1; /* workers that the engine waits for */
static const char *memory;    /* of an engine before; NULL: none */
static enum shard_split_kind split;
static struct coord_engine *engine;
static struct puppet puppet;

static void start(const struct puppet_options *options)
{
    const struct coord_engine_options how = {.model_path = used_model,
                                             .workers = n_wanted,
                                             .memory = memory,
                                             .split = split,
                                             .listen = "tcp://127.0.0.1:0",
                                             .keys = &keys,
                                             .ctx = 64,
                                             .deadline_ms = 60000,
                                             .cache_dir = folder};
    struct proto_error error = {0};
    if (coord_engine_create(&engine, &how, &error) != PROTO_OK) {
        fprintf(stderr, "no engine: %s\n", error.text);
        abort();
    }
    puppet_start(&puppet, coord_engine_endpoint(engine), &keys, options);
}

static void finish(void)
{
    puppet_finish(&puppet);
    coord_engine_destroy(engine);
}

/* Starts a puppet that is ready. */
static void start_ready(void (*on_batch)(struct puppet *puppet, const struct proto_batch *batch))
{
    const struct puppet_options options = {.on_batch = on_batch};
    struct proto_error error = {0};
    start(&options);
    CU_ASSERT_EQUAL_FATAL(coord_engine_wait_ready(engine, &error), PROTO_OK);
}

/* ---- joining ---- */

static uint32_t count_workers(void)
{
    struct coord_status status;
    struct proto_error error;
    CU_ASSERT_EQUAL_FATAL(coord_engine_status(engine, &status, &error), PROTO_OK);
    uint32_t n = status.n_workers;
    coord_status_finish(&status);
    return n;
}

static void check_refused(const struct puppet_options *options, const char *first,
                          const char *second)
{
    start(options);
    CU_ASSERT_FATAL(puppet_wait(&puppet, PROTO_MSG_REFUSE, 1));
    CU_ASSERT_PTR_NOT_NULL(strstr(puppet.refusal, first));
    CU_ASSERT_PTR_NOT_NULL(strstr(puppet.refusal, second));
    CU_ASSERT_PTR_NULL(strstr(puppet.refusal, "llama"));
    for (int kind = PROTO_MSG_HELLO; kind <= PROTO_MSG_USED; kind++)
        CU_ASSERT_EQUAL(puppet_heard(&puppet, kind), kind == PROTO_MSG_REFUSE);
    CU_ASSERT_EQUAL(count_workers(), 0);
    finish();
}

static void test_other_version(void)
{
    const struct puppet_options options = {.version = PROTO_WIRE_VERSION + 7};
    char found[32], expected[32];
    snprintf(found, sizeof found, "version %u", PROTO_WIRE_VERSION + 7);
    snprintf(expected, sizeof expected, "expected %u", PROTO_WIRE_VERSION);
    check_refused(&options, found, expected);
}

static void test_wrong_proof(void)
{
    const struct puppet_options options = {.wrong_proof = true};
    check_refused(&options, "token", "caravan keygen");
}

static void test_failed_load(void)
{
    const struct puppet_options options = {.bad_load = 1};
    struct proto_error error = {0};
    start(&options);
    CU_ASSERT_EQUAL(coord_engine_wait_ready(engine, &error), PROTO_NOSPACE);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "\"puppet\""));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "the strings are tangled"));
    finish();
}

/* ---- who is remembered ---- */

static char *remembered(void)
{
    char *text = coord_engine_memory(engine);
    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    return text;
}

/* A worker that was sent away is not missed by the next engine. */
static void test_drained(void)
{
    const struct puppet_options options = {0};
    struct proto_error error = {0};
    n_wanted = 2;
    start(&options);
    CU_ASSERT_FATAL(puppet_wait(&puppet, PROTO_MSG_WELCOME, 1));
    char *before = remembered();
    CU_ASSERT_PTR_NOT_NULL(strstr(before, " puppet\n"));
    CU_ASSERT_EQUAL(coord_engine_drain(engine, "puppet", &error), PROTO_OK);
    char *after = remembered();
    CU_ASSERT_STRING_EQUAL(after, "");
    free(before);
    free(after);
    finish();
    n_wanted = 1;
}

static void check_missing(const char *known, const char *expected)
{
    const struct puppet_options options = {.wrong_proof = true};
    struct coord_status status;
    struct proto_error error;
    memory = known;
    start(&options);
    CU_ASSERT_FATAL(puppet_wait(&puppet, PROTO_MSG_REFUSE, 1));
    CU_ASSERT_EQUAL_FATAL(coord_engine_status(engine, &status, &error), PROTO_OK);
    CU_ASSERT_STRING_EQUAL(status.missing, expected);
    coord_status_finish(&status);
    finish();
    memory = NULL;
}

#define KEY "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde"

static void test_missing(void)
{
    check_missing(NULL, "0 of 1 workers are here");
    check_missing("worker " KEY "0 h a\n", "worker \"a\" is lost; 0 of 1 workers are here");
    check_missing("worker " KEY "0 h a\nworker " KEY "1 h b\n",
                  "worker \"a\", worker \"b\" are lost; 0 of 1 workers are here");
}

/* ---- results ---- */

struct candidate {
    uint32_t id;
    float logit;
};

/* A result with one row of one candidate for the first range's last position. */
struct answer {
    struct proto_result_row row;
    struct candidate candidate;
    struct proto_msg msg;
    size_t len;
};

static void make_answer(struct answer *answer, const struct proto_batch *batch)
{
    uint64_t pos = batch->n_ranges ? batch->ranges[0].pos + batch->ranges[0].n - 1 : 0;
    answer->row = (struct proto_result_row){.pos = pos, .count = 1, .lse = 1};
    answer->candidate = (struct candidate){(uint32_t)(FIRST_TOKEN + pos), 1};
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

static void send_answer(struct puppet *p, struct answer *answer)
{
    puppet_send(p, &answer->msg, answer->len ? &answer->candidate : NULL, answer->len);
}

static void answer_well(struct puppet *p, const struct proto_batch *batch)
{
    struct answer answer;
    make_answer(&answer, batch);
    send_answer(p, &answer);
}

/* Asks for tokens after a prompt of three; what ended it. tokens may be NULL. */
static struct coord_event generate(uint32_t n, int32_t *tokens)
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
    CU_ASSERT_EQUAL_FATAL(coord_engine_submit(engine, &request, &stream, &event.error), PROTO_OK);
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

static void check_generates(void)
{
    int32_t tokens[4] = {0};
    struct coord_event end = generate(4, tokens);
    CU_ASSERT_EQUAL(end.kind, COORD_EVENT_DONE);
    for (int i = 0; i < 4; i++)
        CU_ASSERT_EQUAL(tokens[i], FIRST_TOKEN + 2 + i);
}

static void test_good_answers(void)
{
    start_ready(answer_well);
    check_generates();
    finish();
}

/* A model that was served is loaded again by itself after a load that failed. */
static void test_failed_reload(void)
{
    const struct puppet_options options = {.bad_load = 2, .on_batch = answer_well};
    struct proto_error error = {0};
    start(&options);
    CU_ASSERT_EQUAL(coord_engine_wait_ready(engine, &error), PROTO_OK);
    check_generates();
    puppet_rejoin(&puppet);
    CU_ASSERT_FATAL(puppet_wait(&puppet, PROTO_MSG_LOAD, 3));
    CU_ASSERT_EQUAL_FATAL(coord_engine_wait_ready(engine, &error), PROTO_OK);
    check_generates();
    finish();
}

/* Joins as well, after those before. */
static void join(struct puppet *another, const struct puppet_options *options)
{
    puppet_start(another, coord_engine_endpoint(engine), &keys, options);
    CU_ASSERT_FATAL(puppet_wait(another, PROTO_MSG_WELCOME, 1));
}

/* Where a stage cannot reach a host, another one takes the host's place, not the stage's. */
static void test_unreached_host(void)
{
    const struct puppet_options stage = {.bad_load = 2, .unreached = 2}, host = {0};
    const struct proto_msg bye = {.kind = PROTO_MSG_BYE};
    struct puppet hosts[2], standby, other;
    struct proto_error error = {0};
    used_model = moe_model;
    split = SHARD_SPLIT_EXPERTS;
    n_wanted = 3;
    start(&stage);
    CU_ASSERT_FATAL(puppet_wait(&puppet, PROTO_MSG_WELCOME, 1));
    join(&hosts[0], &host);
    join(&hosts[1], &host);
    CU_ASSERT_EQUAL_FATAL(coord_engine_wait_ready(engine, &error), PROTO_OK);
    join(&standby, &host);
    puppet_post(&hosts[1], &bye);
    CU_ASSERT_FATAL(puppet_wait(&standby, PROTO_MSG_LOAD, 1));
    CU_ASSERT_FATAL(puppet_wait(&standby, PROTO_MSG_RELEASE, 1));
    join(&other, &host);
    CU_ASSERT(puppet_wait(&other, PROTO_MSG_COMMIT, 1));
    CU_ASSERT_EQUAL(puppet_heard(&puppet, PROTO_MSG_LOAD), 3);
    CU_ASSERT_EQUAL(puppet_heard(&standby, PROTO_MSG_LOAD), 1);
    puppet_finish(&hosts[0]);
    puppet_finish(&hosts[1]);
    puppet_finish(&standby);
    puppet_finish(&other);
    finish();
    used_model = model;
    split = SHARD_SPLIT_AUTO;
    n_wanted = 1;
}

/* The request fails and the worker is given up, with a text that has these words. */
static void check_given_up(void (*on_batch)(struct puppet *puppet, const struct proto_batch *batch),
                           const char *word)
{
    start_ready(on_batch);
    struct coord_event end = generate(4, NULL);
    CU_ASSERT_EQUAL(end.kind, COORD_EVENT_FAILED);
    CU_ASSERT_EQUAL(end.error.status, PROTO_LOST);
    CU_ASSERT_PTR_NOT_NULL(strstr(end.error.text, "\"puppet\""));
    CU_ASSERT_PTR_NOT_NULL(strstr(end.error.text, word));
    finish();
}

static void answer_other_vocabulary(struct puppet *p, const struct proto_batch *batch)
{
    struct answer answer;
    make_answer(&answer, batch);
    answer.msg.result.n_vocab = 511;
    send_answer(p, &answer);
}

static void test_other_vocabulary(void)
{
    check_given_up(answer_other_vocabulary, "vocabulary");
}

static void answer_short(struct puppet *p, const struct proto_batch *batch)
{
    struct answer answer;
    make_answer(&answer, batch);
    answer.len--;
    send_answer(p, &answer);
}

static void test_short_payload(void)
{
    check_given_up(answer_short, "bytes");
}

static void answer_without_rows(struct puppet *p, const struct proto_batch *batch)
{
    struct answer answer;
    make_answer(&answer, batch);
    answer.msg.result.n_rows = 0;
    answer.len = 0;
    send_answer(p, &answer);
}

/* Nobody waits for ever for a row that will not come. */
static void test_missing_rows(void)
{
    check_given_up(answer_without_rows, "left out");
}

static void answer_other_row(struct puppet *p, const struct proto_batch *batch)
{
    struct answer answer;
    make_answer(&answer, batch);
    answer.row.pos++;
    send_answer(p, &answer);
}

static void test_row_that_nobody_wants(void)
{
    check_given_up(answer_other_row, "left out");
}

static void answer_strange_token(struct puppet *p, const struct proto_batch *batch)
{
    struct answer answer;
    make_answer(&answer, batch);
    answer.candidate.id = 512;
    send_answer(p, &answer);
}

static void test_token_out_of_range(void)
{
    start_ready(answer_strange_token);
    struct coord_event end = generate(4, NULL);
    CU_ASSERT_EQUAL(end.kind, COORD_EVENT_FAILED);
    CU_ASSERT_PTR_NOT_NULL(strstr(end.error.text, "vocabulary"));
    finish();
}

static void answer_failed(struct puppet *p, const struct proto_batch *batch)
{
    struct proto_msg msg = {.kind = PROTO_MSG_FAILED,
                            .failed = {.epoch = batch->epoch,
                                       .batch = batch->batch,
                                       .status = PROTO_NOMEM,
                                       .text = "no wood is left"}};
    puppet_send(p, &msg, NULL, 0);
}

/* A batch that failed ends its requests and nothing else. */
static void test_failed_batch(void)
{
    start_ready(answer_failed);
    for (int i = 0; i < 2; i++) {
        struct coord_event end = generate(4, NULL);
        CU_ASSERT_EQUAL(end.kind, COORD_EVENT_FAILED);
        CU_ASSERT_EQUAL(end.error.status, PROTO_NOMEM);
        CU_ASSERT_PTR_NOT_NULL(strstr(end.error.text, "no wood is left"));
    }
    finish();
}

static void answer_with_noise(struct puppet *p, const struct proto_batch *batch)
{
    /* A host that no plan has. */
    struct proto_host_time time = {.host = 200, .requests = 1};
    struct answer answer;
    make_answer(&answer, batch);
    answer.msg.result.host_times = &time;
    answer.msg.result.n_host_times = 1;
    answer.msg.result.batch += 1000;
    send_answer(p, &answer);
    answer.msg.result.batch -= 1000;
    answer.msg.result.epoch++;
    send_answer(p, &answer);
    answer.msg.result.epoch--;
    send_answer(p, &answer);
    send_answer(p, &answer); /* once more, when it is over */
}

/* Results of batches and epochs that are not, and messages out of turn, change nothing. */
static void test_out_of_turn(void)
{
    start_ready(answer_with_noise);
    struct proto_msg messages[] = {
        {.kind = PROTO_MSG_READY, .ready = {.epoch = 1}},
        {.kind = PROTO_MSG_READY, .ready = {.epoch = 77}},
        {.kind = PROTO_MSG_PROGRESS, .progress = {.epoch = 1, .done_bytes = 1, .total_bytes = 9}},
        {.kind = PROTO_MSG_FAILED, .failed = {.epoch = 1, .status = PROTO_IO, .text = "?"}},
        {.kind = PROTO_MSG_FAILED,
         .failed = {.epoch = 1, .batch = 12345, .status = PROTO_IO, .text = "?"}},
        {.kind = PROTO_MSG_WANT, .want = {.epoch = 1, .tensor = 4000}},
        {.kind = PROTO_MSG_FETCH, .fetch = {.epoch = 1, .tensor = 4000, .bytes = 16}},
        {.kind = PROTO_MSG_FETCH, .fetch = {.epoch = 1, .piece = 1u << 31, .bytes = 16}},
        {.kind = PROTO_MSG_FETCH, .fetch = {.epoch = 1, .offset = 67000000, .bytes = 16}},
        {.kind = PROTO_MSG_LINK, .link = {.epoch = 1}},
        {.kind = PROTO_MSG_WELCOME, .welcome = {.ping_ms = 1, .deadline_ms = 1}},
        {.kind = PROTO_MSG_MEASURED, .measured = {.read_bytes_s = 1}},
        {.kind = PROTO_MSG_EXPERTS, .experts = {.epoch = 1, .number = 1}},
        {.kind = PROTO_MSG_EXPERTS_DONE, .experts_done = {.epoch = 1, .number = 1}},
        {.kind = PROTO_MSG_USAGE},
        {.kind = PROTO_MSG_USED, .used = {.epoch = 1, .n_layers = 2, .n_experts = 8}},
    };
    for (size_t i = 0; i < sizeof messages / sizeof *messages; i++)
        puppet_post(&puppet, &messages[i]);
    /* Answered: what was sent before has been taken. */
    struct proto_msg want = {.kind = PROTO_MSG_WANT, .want = {.epoch = 1, .tensor = 0}};
    puppet_post(&puppet, &want);
    CU_ASSERT(puppet_wait(&puppet, PROTO_MSG_HASHES, 1));
    CU_ASSERT_EQUAL(puppet_heard(&puppet, PROTO_MSG_CHUNK), 0);
    check_generates();
    check_generates();
    CU_ASSERT_EQUAL(puppet_heard(&puppet, PROTO_MSG_LOAD), 1);
    finish();
}

/* A worker that says goodbye ends what it was doing. */
static void answer_goodbye(struct puppet *p, const struct proto_batch *batch)
{
    struct proto_msg msg = {.kind = PROTO_MSG_BYE};
    (void)batch;
    puppet_send(p, &msg, NULL, 0);
}

static void test_goodbye(void)
{
    check_given_up(answer_goodbye, "left the cluster");
}

/* ---- statistics of experts ---- */

/* Counts for all layers of the model: expert i of a layer was chosen i times. */
static void send_counts(struct puppet *p, uint64_t epoch, uint32_t layer_first)
{
    const struct shard_model *m = coord_engine_model(engine);
    uint32_t counts[256];
    size_t n = (size_t)m->n_layers * m->n_experts;
    CU_ASSERT_FATAL(n > 0 && n <= 256);
    for (size_t i = 0; i < n; i++)
        counts[i] = (uint32_t)(i % m->n_experts);
    struct proto_msg msg = {.kind = PROTO_MSG_USED,
                            .used = {.epoch = epoch,
                                     .layer_first = layer_first,
                                     .n_layers = m->n_layers,
                                     .n_experts = m->n_experts}};
    puppet_send(p, &msg, counts, n * sizeof *counts);
}

/* Twice in each batch of rows (one that only drops a sequence may come after all answers), and once
 * for a plan that is not. */
static void answer_and_count(struct puppet *p, const struct proto_batch *batch)
{
    for (int i = 0; i < 2 && proto_batch_rows(batch) > 0; i++)
        send_counts(p, batch->epoch, 0);
    send_counts(p, batch->epoch + 1, 0);
    answer_well(p, batch);
}

static void test_usage(void)
{
    struct coord_status status;
    struct proto_error error;
    used_model = moe_model;
    start_ready(answer_and_count);
    check_generates();
    CU_ASSERT_EQUAL_FATAL(coord_engine_status(engine, &status, &error), PROTO_OK);
    const struct shard_model *m = coord_engine_model(engine);
    CU_ASSERT_PTR_NOT_NULL_FATAL(status.usage);
    CU_ASSERT(status.n_layers == m->n_layers && status.n_experts == m->n_experts);
    for (size_t i = 0; i < (size_t)m->n_layers * m->n_experts; i++)
        CU_ASSERT_EQUAL(status.usage[i], 2 * 4 * (i % m->n_experts));
    coord_status_finish(&status);
    finish();
    used_model = model;
}

static void count_other_layers(struct puppet *p, const struct proto_batch *batch)
{
    send_counts(p, batch->epoch, 1);
}

static void test_usage_of_other_layers(void)
{
    used_model = moe_model;
    check_given_up(count_other_layers, "statistics");
    used_model = model;
}

/* ---- requests ---- */

static enum proto_status try(const int32_t *ids, size_t n_ids, uint32_t max_tokens,
                             struct proto_error *error)
{
    struct coord_request request = {.want = COORD_WANT_TOKENS,
                                    .ids = ids,
                                    .n_ids = n_ids,
                                    .max_tokens = max_tokens,
                                    .sampling = TEXT_SAMPLING_DEFAULT};
    struct coord_stream *stream = NULL;
    enum proto_status status = coord_engine_submit(engine, &request, &stream, error);
    coord_stream_destroy(stream);
    return status;
}

static void test_bad_requests(void)
{
    int32_t ids[65] = {1, 512};
    struct proto_error error = {0};
    start_ready(answer_well);
    CU_ASSERT_EQUAL(try(ids, 0, 4, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(try(ids, 2, 4, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "512"));
    ids[1] = -1;
    CU_ASSERT_EQUAL(try(ids, 2, 4, &error), PROTO_INVALID);
    ids[1] = 3;
    CU_ASSERT_EQUAL(try(ids, 2, 0, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(try(ids, 64, 1, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "64"));
    CU_ASSERT_EQUAL(try(ids, 63, 1000, &error), PROTO_OK);
    check_generates();
    finish();
}

static bool make_model(void)
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
           net_cluster_keys_generate(&keys, "", &error) == PROTO_OK;
}

static void remove_folder(void)
{
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (system(command) != 0)
        fprintf(stderr, "%s is left\n", folder);
}

int main(void)
{
    if (!make_model() || CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    CU_pSuite suite = CU_add_suite("engine", NULL, NULL);
    CU_add_test(suite, "a worker of another version", test_other_version);
    CU_add_test(suite, "a worker without the secret", test_wrong_proof);
    CU_add_test(suite, "a load that fails", test_failed_load);
    CU_add_test(suite, "a worker that was sent away", test_drained);
    CU_add_test(suite, "who is missing", test_missing);
    CU_add_test(suite, "good answers", test_good_answers);
    CU_add_test(suite, "a load that fails later", test_failed_reload);
    CU_add_test(suite, "a host that is not reached", test_unreached_host);
    CU_add_test(suite, "a result for another vocabulary", test_other_vocabulary);
    CU_add_test(suite, "a payload that is too short", test_short_payload);
    CU_add_test(suite, "a result without its rows", test_missing_rows);
    CU_add_test(suite, "a row that nobody wants", test_row_that_nobody_wants);
    CU_add_test(suite, "a token out of range", test_token_out_of_range);
    CU_add_test(suite, "a batch that fails", test_failed_batch);
    CU_add_test(suite, "messages out of turn", test_out_of_turn);
    CU_add_test(suite, "a goodbye", test_goodbye);
    CU_add_test(suite, "statistics of experts", test_usage);
    CU_add_test(suite, "statistics of other layers", test_usage_of_other_layers);
    CU_add_test(suite, "bad requests", test_bad_requests);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    remove_folder();
    return failures ? 1 : 0;
}
