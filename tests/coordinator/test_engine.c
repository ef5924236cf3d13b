/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine does with workers that do not join or load as they should, and with requests. */
#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_rig.h"

/* ---- joining ---- */

static uint32_t count_workers(void)
{
    struct coord_status status;
    struct proto_error error;
    CU_ASSERT_EQUAL_FATAL(coord_engine_status(rig.engine, &status, &error), PROTO_OK);
    uint32_t n = status.n_workers;
    coord_status_finish(&status);
    return n;
}

static void check_refused(const struct puppet_options *options, const char *first,
                          const char *second)
{
    rig_start(options);
    CU_ASSERT_FATAL(puppet_wait(&rig.puppet, PROTO_MSG_REFUSE, 1));
    CU_ASSERT_PTR_NOT_NULL(strstr(rig.puppet.refusal, first));
    CU_ASSERT_PTR_NOT_NULL(strstr(rig.puppet.refusal, second));
    CU_ASSERT_PTR_NULL(strstr(rig.puppet.refusal, "llama"));
    for (int kind = PROTO_MSG_HELLO; kind <= PROTO_MSG_USED; kind++)
        CU_ASSERT_EQUAL(puppet_heard(&rig.puppet, kind), kind == PROTO_MSG_REFUSE);
    CU_ASSERT_EQUAL(count_workers(), 0);
    rig_finish();
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
    rig_start(&options);
    CU_ASSERT_EQUAL(coord_engine_wait_ready(rig.engine, &error), PROTO_NOSPACE);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "\"puppet\""));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "the strings are tangled"));
    rig_finish();
}

/* ---- who is remembered ---- */

static char *remembered(void)
{
    char *text = coord_engine_memory(rig.engine);
    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    return text;
}

/* A worker that was sent away is not missed by the next engine. */
static void test_drained(void)
{
    const struct puppet_options options = {0};
    struct proto_error error = {0};
    rig.n_wanted = 2;
    rig_start(&options);
    CU_ASSERT_FATAL(puppet_wait(&rig.puppet, PROTO_MSG_WELCOME, 1));
    char *before = remembered();
    CU_ASSERT_PTR_NOT_NULL(strstr(before, " puppet\n"));
    CU_ASSERT_EQUAL(coord_engine_drain(rig.engine, "puppet", &error), PROTO_OK);
    char *after = remembered();
    CU_ASSERT_STRING_EQUAL(after, "");
    free(before);
    free(after);
    rig_finish();
    rig.n_wanted = 1;
}

static void check_missing(const char *known, const char *expected)
{
    const struct puppet_options options = {.wrong_proof = true};
    struct coord_status status;
    struct proto_error error;
    rig.memory = known;
    rig_start(&options);
    CU_ASSERT_FATAL(puppet_wait(&rig.puppet, PROTO_MSG_REFUSE, 1));
    CU_ASSERT_EQUAL_FATAL(coord_engine_status(rig.engine, &status, &error), PROTO_OK);
    CU_ASSERT_STRING_EQUAL(status.missing, expected);
    coord_status_finish(&status);
    rig_finish();
    rig.memory = NULL;
}

#define KEY "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde"

static void test_missing(void)
{
    check_missing(NULL, "0 of 1 workers are here");
    check_missing("worker " KEY "0 h a\n", "worker \"a\" is lost; 0 of 1 workers are here");
    check_missing("worker " KEY "0 h a\nworker " KEY "1 h b\n",
                  "worker \"a\", worker \"b\" are lost; 0 of 1 workers are here");
}

/* ---- loads ---- */

/* A model that was served is loaded again by itself after a load that failed. */
static void test_failed_reload(void)
{
    const struct puppet_options options = {.bad_load = 2, .on_batch = rig_answer_well};
    struct proto_error error = {0};
    rig_start(&options);
    CU_ASSERT_EQUAL(coord_engine_wait_ready(rig.engine, &error), PROTO_OK);
    rig_check_generates();
    puppet_rejoin(&rig.puppet);
    CU_ASSERT_FATAL(puppet_wait(&rig.puppet, PROTO_MSG_LOAD, 3));
    CU_ASSERT_EQUAL_FATAL(coord_engine_wait_ready(rig.engine, &error), PROTO_OK);
    rig_check_generates();
    rig_finish();
}

/* Joins as well, after those before. */
static void join(struct puppet *another, const struct puppet_options *options)
{
    puppet_start(another, coord_engine_endpoint(rig.engine), &rig.keys, options);
    CU_ASSERT_FATAL(puppet_wait(another, PROTO_MSG_WELCOME, 1));
}

/* Where a stage cannot reach a host, another one takes the host's place, not the stage's. */
static void test_unreached_host(void)
{
    const struct puppet_options stage = {.bad_load = 2, .unreached = 2}, host = {0};
    const struct proto_msg bye = {.kind = PROTO_MSG_BYE};
    struct puppet hosts[2], standby, other;
    struct proto_error error = {0};
    rig.moe = true;
    rig.split = SHARD_SPLIT_EXPERTS;
    rig.n_wanted = 3;
    rig_start(&stage);
    CU_ASSERT_FATAL(puppet_wait(&rig.puppet, PROTO_MSG_WELCOME, 1));
    join(&hosts[0], &host);
    join(&hosts[1], &host);
    CU_ASSERT_EQUAL_FATAL(coord_engine_wait_ready(rig.engine, &error), PROTO_OK);
    join(&standby, &host);
    puppet_post(&hosts[1], &bye);
    CU_ASSERT_FATAL(puppet_wait(&standby, PROTO_MSG_LOAD, 1));
    CU_ASSERT_FATAL(puppet_wait(&standby, PROTO_MSG_RELEASE, 1));
    join(&other, &host);
    CU_ASSERT(puppet_wait(&other, PROTO_MSG_COMMIT, 1));
    CU_ASSERT_EQUAL(puppet_heard(&rig.puppet, PROTO_MSG_LOAD), 3);
    CU_ASSERT_EQUAL(puppet_heard(&standby, PROTO_MSG_LOAD), 1);
    puppet_finish(&hosts[0]);
    puppet_finish(&hosts[1]);
    puppet_finish(&standby);
    puppet_finish(&other);
    rig_finish();
    rig.moe = false;
    rig.split = SHARD_SPLIT_AUTO;
    rig.n_wanted = 1;
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
    enum proto_status status = coord_engine_submit(rig.engine, &request, &stream, error);
    coord_stream_destroy(stream);
    return status;
}

static void test_bad_requests(void)
{
    int32_t ids[65] = {1, 512};
    struct proto_error error = {0};
    rig_start_ready(rig_answer_well);
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
    rig_check_generates();
    rig_finish();
}

int main(void)
{
    if (!rig_create() || CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    CU_pSuite suite = CU_add_suite("engine", NULL, NULL);
    CU_add_test(suite, "a worker of another version", test_other_version);
    CU_add_test(suite, "a worker without the secret", test_wrong_proof);
    CU_add_test(suite, "a load that fails", test_failed_load);
    CU_add_test(suite, "a worker that was sent away", test_drained);
    CU_add_test(suite, "who is missing", test_missing);
    CU_add_test(suite, "a load that fails later", test_failed_reload);
    CU_add_test(suite, "a host that is not reached", test_unreached_host);
    CU_add_test(suite, "bad requests", test_bad_requests);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    rig_destroy();
    return failures ? 1 : 0;
}
