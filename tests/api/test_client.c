/* SPDX-License-Identifier: Apache-2.0 */
/* The commands' client against the real server. */
#include <CUnit/Basic.h>

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/api/client.h"
#include "coordinator/api/server.h"
#include "coordinator/bench.h"
#include "tests/api/fake_engine.h"

static struct coord_engine *engine;
static struct api_server *server;
static struct api_client *client;

static int set_up(void)
{
    struct proto_error error = {0};
    engine = fake_engine_create();
    const struct api_server_options options = {.listen = "127.0.0.1:0", .api_key = "k"};
    if (!engine || api_server_start(&server, engine, &options, &error) ||
        api_client_create(&client, api_server_url(server), "k", &error)) {
        fprintf(stderr, "%s\n", error.text);
        return -1;
    }
    return 0;
}

static int tear_down(void)
{
    api_client_destroy(client);
    api_server_stop(server);
    coord_engine_destroy(engine);
    return 0;
}

static void test_status(void)
{
    struct coord_status status;
    struct proto_error error;
    CU_ASSERT_EQUAL(api_client_status(client, &status, &error), PROTO_OK);
    CU_ASSERT_STRING_EQUAL(status.model, FAKE_MODEL);
    CU_ASSERT_TRUE(status.ready);
    CU_ASSERT_TRUE(status.inexact);
    CU_ASSERT_EQUAL(status.epoch, 7);
    CU_ASSERT_EQUAL(status.kv, KERN_KV_Q8_0);
    CU_ASSERT_EQUAL(status.ctx, 4096);
    CU_ASSERT_EQUAL(status.max_rows, 256);
    CU_ASSERT_EQUAL(status.n_workers, 2);
    CU_ASSERT_STRING_EQUAL(status.workers[1].name, "worker \"b\"");
    CU_ASSERT_EQUAL(status.workers[1].layer_first, 12);
    CU_ASSERT_EQUAL(status.workers[1].layer_end, 24);
    CU_ASSERT_EQUAL(status.workers[1].rss_bytes, (uint64_t)3 << 30);
    CU_ASSERT_EQUAL(status.workers[1].compute_ns, 5000000000);
    CU_ASSERT_EQUAL(status.workers[1].rtt_ms, 0.5);
    CU_ASSERT_FALSE(status.workers[0].profiled);
    CU_ASSERT_TRUE(status.workers[1].profiled);
    const struct proto_profile *profile = &status.workers[1].profile;
    CU_ASSERT_EQUAL(profile->free_bytes, (uint64_t)5 << 30);
    CU_ASSERT_EQUAL(profile->read_bytes_s, 40.5e9);
    CU_ASSERT_EQUAL(profile->float_ops_s, 1.5e11);
    CU_ASSERT_EQUAL(profile->wake_s, 2e-5);
    CU_ASSERT_EQUAL(profile->run_s, 3e-6);
    CU_ASSERT_EQUAL(profile->disk_bytes_s, 2e9);
    CU_ASSERT_EQUAL(profile->machine, 0xfedcba9876543210u);
    CU_ASSERT_EQUAL(profile->machine_read_bytes_s, 6e10);
    CU_ASSERT_EQUAL(profile->machine_ops_s, 2e12);
    CU_ASSERT_STRING_EQUAL(status.plan, "2 stages, as if");
    CU_ASSERT_EQUAL(profile->n_types, 1);
    CU_ASSERT_EQUAL(profile->types[0].type, KERN_Q4_K);
    CU_ASSERT_EQUAL(profile->types[0].row_ops_s, 7e10);
    CU_ASSERT_EQUAL(profile->types[0].rows_ops_s, 1e12);
    CU_ASSERT_EQUAL_FATAL(status.n_links, 2);
    CU_ASSERT_EQUAL(status.links[0].from, 0);
    CU_ASSERT_EQUAL(status.links[0].to, 1);
    CU_ASSERT_EQUAL(status.links[0].rtt_s, 0.25e-3);
    CU_ASSERT_EQUAL(status.links[0].bytes_s, 125e6);
    CU_ASSERT_EQUAL(status.links[1].from, 1);
    CU_ASSERT_EQUAL(status.links[1].to, COORD_HERE);
    CU_ASSERT_EQUAL(status.workers[0].n_slices, 0);
    const struct coord_worker_status *host = &status.workers[1];
    CU_ASSERT_STRING_EQUAL(host->expert_endpoint, "tcp://10.0.0.2:7");
    CU_ASSERT(host->expert_first == 64 && host->expert_end == 128);
    CU_ASSERT(host->expert_layer_first == 1 && host->expert_layer_end == 12);
    CU_ASSERT(host->expert_slice == 1 && host->n_slices == 2 && host->expert_wait_ns == 3);
    CU_ASSERT_EQUAL(host->slowdown, 1.75);
    const struct coord_expert_times *times = &host->experts;
    CU_ASSERT(times->requests == 11 && times->bytes_in == 12 && times->bytes_out == 13);
    CU_ASSERT(times->compute_ns == 14 && times->wire_ns == 15 && times->wait_ns == 16);
    CU_ASSERT(status.caches.moved == 21 && status.caches.moved_bytes == 22);
    CU_ASSERT(status.caches.replayed == 23 && status.caches.refilled == 24);
    CU_ASSERT_EQUAL_FATAL(status.n_layers, 24);
    CU_ASSERT_EQUAL_FATAL(status.n_experts, 4);
    for (unsigned i = 0; i < 24 * 4; i++)
        CU_ASSERT_EQUAL(status.usage[i], i == 23 * 4 + 2 ? 9 : 0);
    coord_status_finish(&status);
    char *json = NULL;
    CU_ASSERT_EQUAL(api_client_status_json(client, &json, &error), PROTO_OK);
    CU_ASSERT_PTR_NOT_NULL(strstr(json, "\"workers\""));
    free(json);
}

struct heard {
    char text[256];
    unsigned calls, stop_after;
};

static bool on_text(void *user, const char *text, size_t len)
{
    struct heard *heard = user;
    strncat(heard->text, text, len);
    return ++heard->calls != heard->stop_after;
}

static struct api_client_completion request_of(const char *prompt)
{
    struct api_client_completion request = {.prompt = prompt,
                                            .prompt_len = strlen(prompt),
                                            .max_tokens = 20,
                                            .sampling = TEXT_SAMPLING_DEFAULT};
    return request;
}

static void test_complete(void)
{
    struct api_client_completion request = request_of("hello");
    request.sampling.seed = 6;
    request.sampling.temperature = 0.3f;
    request.sampling.frequency_penalty = 0.5f;
    request.sampling.repeat_last_n = 9;
    request.sampling.biases = &(struct text_bias){4, 2};
    request.sampling.n_biases = 1;
    struct heard heard = {0};
    struct api_client_done done;
    struct proto_error error;
    CU_ASSERT_EQUAL(api_client_complete(client, &request, on_text, &heard, &done, &error),
                    PROTO_OK);
    CU_ASSERT_STRING_EQUAL(heard.text, FAKE_TEXT);
    CU_ASSERT_EQUAL(done.finish, COORD_FINISH_STOP);
    CU_ASSERT_EQUAL(done.n_generated, FAKE_TOKENS + 1);
    CU_ASSERT_EQUAL(done.n_prompt, 2);
    struct text_sampling s = fake_engine_request(engine).sampling;
    CU_ASSERT_EQUAL(memcmp(&s.temperature, &request.sampling.temperature, sizeof(float)), 0);
    CU_ASSERT_EQUAL(s.top_p, request.sampling.top_p);
    CU_ASSERT_EQUAL(s.min_p, request.sampling.min_p);
    CU_ASSERT_EQUAL(s.seed, 6);
    CU_ASSERT(s.n_biases == 1 && s.frequency_penalty == 0.5f && s.top_n_sigma == -1);
    CU_ASSERT(s.n_steps == TEXT_N_STEPS && s.repeat_last_n == 9 && s.dry_last_n == -1);
    const int32_t ids[] = {1, FAKE_HELLO, 5};
    request = (struct api_client_completion){
        .ids = ids, .n_ids = 3, .max_tokens = 2, .sampling = TEXT_SAMPLING_DEFAULT};
    heard = (struct heard){0};
    CU_ASSERT_EQUAL(api_client_complete(client, &request, on_text, &heard, &done, &error),
                    PROTO_OK);
    CU_ASSERT_STRING_EQUAL(heard.text, " hello wor");
    CU_ASSERT_EQUAL(done.finish, COORD_FINISH_LENGTH);
    CU_ASSERT_EQUAL(done.n_prompt, 3);
}

static void test_complete_ended(void)
{
    struct api_client_completion request = request_of("x");
    struct heard heard = {.stop_after = 1};
    struct api_client_done done;
    struct proto_error error;
    CU_ASSERT_EQUAL(api_client_complete(client, &request, on_text, &heard, &done, &error),
                    PROTO_CANCELLED);
    CU_ASSERT_TRUE(fake_engine_wait_idle(engine));
    fake_engine_fail_after(engine, 1, PROTO_LOST);
    heard = (struct heard){0};
    CU_ASSERT_EQUAL(api_client_complete(client, &request, on_text, &heard, &done, &error),
                    PROTO_LOST);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "failed as told"));
    CU_ASSERT_STRING_EQUAL(heard.text, " hello");
    fake_engine_fail_after(engine, 0, PROTO_OK);
    fake_engine_refuse(engine, PROTO_BUSY);
    CU_ASSERT_EQUAL(api_client_complete(client, &request, on_text, &heard, &done, &error),
                    PROTO_BUSY);
    fake_engine_refuse(engine, PROTO_OK);
}

struct seen {
    uint64_t rows;
    size_t n_vocab;
    bool wrong;
    uint64_t stop_after;
};

static bool on_row(void *user, uint64_t pos, const float *row, size_t n_vocab)
{
    struct seen *seen = user;
    seen->wrong |= pos != seen->rows;
    seen->n_vocab = n_vocab;
    for (size_t i = 0; i < n_vocab; i++)
        seen->wrong |= row[i] != (float)pos * 1000.0f + (float)i;
    return ++seen->rows != seen->stop_after;
}

static void test_logits(void)
{
    int32_t ids[300];
    for (int i = 0; i < 300; i++)
        ids[i] = i % 200;
    struct seen seen = {0};
    struct proto_error error;
    CU_ASSERT_EQUAL(api_client_logits(client, ids, 300, on_row, &seen, &error), PROTO_OK);
    CU_ASSERT_EQUAL(seen.rows, 300);
    CU_ASSERT_EQUAL(seen.n_vocab, text_vocab_size(coord_engine_vocab(engine)));
    CU_ASSERT_FALSE(seen.wrong);
    seen = (struct seen){.stop_after = 3};
    CU_ASSERT_EQUAL(api_client_logits(client, ids, 300, on_row, &seen, &error), PROTO_CANCELLED);
    fake_engine_fail_after(engine, 100, PROTO_LOST);
    seen = (struct seen){0};
    CU_ASSERT_EQUAL(api_client_logits(client, ids, 300, on_row, &seen, &error), PROTO_LOST);
    CU_ASSERT_TRUE(seen.rows <= 100);
    fake_engine_fail_after(engine, 0, PROTO_OK);
    CU_ASSERT_TRUE(fake_engine_wait_idle(engine));
}

static void test_bench(void)
{
    struct coord_bench_params params = COORD_BENCH_DEFAULT;
    params.n_prompt = 100;
    params.n_generate = 8;
    params.n_depth = 20;
    params.n_sequences = 2;
    struct proto_error error;
    char *text = NULL;
    CU_ASSERT_EQUAL_FATAL(api_client_bench(client, &params, true, &text, &error), PROTO_OK);
    json_t *result = json_loads(text, 0, NULL);
    CU_ASSERT_EQUAL(json_number_value(json_object_get(result, "prefill")), 200);
    CU_ASSERT_EQUAL(json_number_value(json_object_get(result, "decode")), 8);
    CU_ASSERT_EQUAL(json_number_value(json_object_get(result, "bus_gb_s")), 10);
    CU_ASSERT_EQUAL(json_array_size(json_object_get(result, "stages")), 2);
    json_decref(result);
    free(text);
    CU_ASSERT_EQUAL_FATAL(api_client_bench(client, &params, false, &text, &error), PROTO_OK);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "memory reads 10.0 GB/s"));
    free(text);
    params.n_depth = 1 << 20;
    CU_ASSERT_EQUAL(api_client_bench(client, &params, true, &text, &error), PROTO_INVALID);
}

static void test_tokens(void)
{
    int32_t *ids = NULL;
    size_t n = 0, len = 0;
    struct proto_error error;
    CU_ASSERT_EQUAL(api_client_tokenize(client, "hello", 5, false, true, &ids, &n, &error),
                    PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(n, 2);
    CU_ASSERT_EQUAL(ids[0], 1);
    CU_ASSERT_EQUAL(ids[1], FAKE_HELLO);
    char *text = NULL;
    CU_ASSERT_EQUAL(api_client_detokenize(client, ids + 1, 1, &text, &len, &error), PROTO_OK);
    CU_ASSERT_STRING_EQUAL(text, "hello");
    CU_ASSERT_EQUAL(len, 5);
    free(ids);
    free(text);
}

static void test_nobody(void)
{
    struct api_client *lost = NULL;
    struct coord_status status;
    struct proto_error error;
    /* Port 1 of the loopback address: nobody may listen there without being root and odd. */
    CU_ASSERT_EQUAL(api_client_create(&lost, "127.0.0.1:1/", NULL, &error), PROTO_OK);
    CU_ASSERT_EQUAL(api_client_status(lost, &status, &error), PROTO_NOTFOUND);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "no coordinator answers at http://127.0.0.1:1;"));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "caravan serve"));
    api_client_destroy(lost);
    CU_ASSERT_EQUAL(api_client_create(&lost, "bad url", NULL, &error), PROTO_INVALID);
}

static void test_wrong_key(void)
{
    struct api_client *other = NULL;
    struct coord_status status;
    struct proto_error error;
    CU_ASSERT_EQUAL(api_client_create(&other, api_server_url(server), "no", &error), PROTO_OK);
    CU_ASSERT_EQUAL(api_client_status(other, &status, &error), PROTO_REFUSED);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "key"));
    api_client_destroy(other);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("client", set_up, tear_down);
    CU_add_test(suite, "status", test_status);
    CU_add_test(suite, "complete", test_complete);
    CU_add_test(suite, "complete ended", test_complete_ended);
    CU_add_test(suite, "logits", test_logits);
    CU_add_test(suite, "bench", test_bench);
    CU_add_test(suite, "tokens", test_tokens);
    CU_add_test(suite, "nobody", test_nobody);
    CU_add_test(suite, "wrong key", test_wrong_key);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned bad = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
    CU_cleanup_registry();
    return bad > 0;
}
