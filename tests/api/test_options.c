/* SPDX-License-Identifier: Apache-2.0 */
/* Reading command lines, and the status table. */
#include <CUnit/Basic.h>

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "coordinator/options.h"
#include "coordinator/status_table.h"

static struct coord_cli cli;
static bool json;
static const char *prompt;
static char said[1024]; /* on standard error */

/* Reads a command line (words separated by one space) of a command that has options of its own. */
static int parse(const char *line)
{
    const struct coord_option options[] = {
        {'p', "prompt", "TEXT", "the prompt", COORD_OPTION_TEXT, &prompt, 0, 0, NULL},
        {0, "json", NULL, "as JSON", COORD_OPTION_FLAG, &json, 0, 0, NULL},
    };
    const struct coord_command command = {.name = "test",
                                          .positional = "[FILE]",
                                          .summary = "A test.",
                                          .groups = 15,
                                          .options = options,
                                          .n_options = 2,
                                          .max_positional = 1};
    static char words[512];
    char *argv[32] = {"test"};
    int argc = 1;
    snprintf(words, sizeof words, "%s", line);
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    coord_cli_default(&cli);
    json = false;
    prompt = NULL;
    fflush(stderr);
    int real = dup(STDERR_FILENO);
    FILE *file = tmpfile();
    dup2(fileno(file), STDERR_FILENO);
    int rc = coord_cli_parse(&cli, &command, argc, argv);
    fflush(stderr);
    dup2(real, STDERR_FILENO);
    close(real);
    rewind(file);
    said[fread(said, 1, sizeof said - 1, file)] = '\0';
    fclose(file);
    return rc;
}

static void test_good(void)
{
    CU_ASSERT_EQUAL(parse("-m a.gguf -t4 --ctx=100 --kv f16 --temp 0 --seed 18446744073709551615 "
                          "-p -x --json -v -v --layers 0-3,4-7 file"),
                    -1);
    CU_ASSERT_STRING_EQUAL(cli.model, "a.gguf");
    CU_ASSERT_EQUAL(cli.threads, 4);
    CU_ASSERT_EQUAL(cli.ctx, 100);
    CU_ASSERT_EQUAL(cli.kv, KERN_KV_F16);
    CU_ASSERT_EQUAL(cli.sampling.temperature, 0);
    CU_ASSERT_EQUAL(cli.sampling.seed, UINT64_MAX);
    CU_ASSERT_STRING_EQUAL(prompt, "-x");
    CU_ASSERT_TRUE(json);
    CU_ASSERT_EQUAL(cli.log_level, PROTO_LOG_DEBUG);
    CU_ASSERT_STRING_EQUAL(cli.layers, "0-3,4-7");
    CU_ASSERT_EQUAL(cli.n_positional, 1);
    CU_ASSERT_EQUAL(parse("-- -m"), -1);
    CU_ASSERT_STRING_EQUAL(cli.positional[0], "-m");
    CU_ASSERT_EQUAL(parse("-c 5 --local-workers 3 --deadline 0.5"), -1);
    CU_ASSERT_EQUAL(cli.ctx, 5);
    CU_ASSERT_TRUE(cli.local_workers_given);
    CU_ASSERT_EQUAL(said[0], '\0');
    CU_ASSERT_EQUAL(parse("--logit-bias 5=-2.5 --logit-bias 6=+1 --logit-bias 7=-inf "
                          "--samplers top_k;temperature --dry-sequence-breaker x "
                          "--frequency-penalty -0.5 --repeat-last-n 3"),
                    -1);
    const struct text_sampling *s = &cli.sampling;
    CU_ASSERT_FATAL(s->n_biases == 3 && s->n_dry_breakers == 1);
    CU_ASSERT(s->biases[0].id == 5 && s->biases[0].bias == -2.5f && s->biases[1].bias == 1);
    CU_ASSERT(s->biases[2].bias == -INFINITY);
    CU_ASSERT(s->n_steps == 2 && s->steps[1] == TEXT_STEP_TEMPERATURE);
    CU_ASSERT_STRING_EQUAL(s->dry_breakers[0], "x");
    CU_ASSERT(s->frequency_penalty == -0.5f && s->repeat_last_n == 3);
    proto_log_set_level(PROTO_LOG_WARN);
}

static void test_bad(void)
{
    static const struct {
        const char *line, *expected;
    } cases[] = {
        {"--nothing", "unknown option --nothing"},
        {"-x", "unknown option -x"},
        {"-m", "-m needs a value: -m FILE"},
        {"--json=1", "--json takes no value, found '1'"},
        {"-t 0", "-t 0: expected a whole number from 1 to 1024"},
        {"-t 1025", "-t 1025: expected"},
        {"--threads 4x", "--threads 4x: expected"},
        {"--threads=", "--threads : expected"},
        {"--threads 1e1", "--threads 1e1: expected"},
        {"--threads -1", "--threads -1: expected"},
        {"--ctx 99999999999999999999", "--ctx 99999999999999999999: expected"},
        {"--kv q8", "--kv q8: expected f32, f16, q8_0 or q4_0"},
        {"--exact no", "--exact no: expected on or off"},
        {"--split rows", "--split rows: expected auto, layers or experts"},
        {"--split", "--split needs a value"},
        {"--stages 0", "--stages 0: expected a whole number from 1"},
        {"--expert-slices 65", "--expert-slices 65: expected"},
        {"--replicas x", "--replicas x: expected"},
        {"--exact", "--exact needs a value: --exact on|off"},
        {"--temp nan", "--temp nan: expected a number from 0 to 100"},
        {"--temp -0.5", "--temp -0.5: expected"},
        {"--top-p 0", "--top-p 0: expected"},
        {"--top-p 1.5", "--top-p 1.5: expected"},
        {"--seed -1", "--seed -1: expected"},
        {"--seed 18446744073709551616", "--seed 18446744073709551616: expected"},
        {"--samplers top_k;x", "--samplers top_k;x: samplers has \"x\""},
        {"--logit-bias 5", "--logit-bias 5: expected a token's id"},
        {"--logit-bias 5=x", "--logit-bias 5=x: expected"},
        {"--logit-bias -5=1", "--logit-bias -5=1: expected"},
        {"--logit-bias 5=1 --logit-bias 6=1 --logit-bias 5=2", "given twice for token 5"},
        {"--samplers top_k;top_k", "samplers has top_k twice"},
        {"--samplers top_k --temp 0", "samplers leaves the temperature out"},
        {"--min-p 1.1", "--min-p 1.1: expected a number from 0 to 1"},
        {"--top-k -1", "--top-k -1: expected"},
        {"--repeat-last-n -1", "--repeat-last-n -1: expected"},
        {"--dynatemp-range 1 --temp 0", "dynatemp_range is 1 at a temperature of 0"},
        {"--mirostat 2 --xtc-probability 0.5", "xtc_probability is 0.5, but mirostat"},
        {"--mirostat 2 --temp 0", "temperature is 0, which leaves mirostat nothing"},
        {"--mirostat 1", "mirostat is 1"},
        {"--deadline inf", "--deadline inf: expected"},
        {"a b", "unexpected argument 'b'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CU_ASSERT_EQUAL(parse(cases[i].line), 2);
        bool ok = strncmp(said, "caravan test: ", 14) == 0 && strstr(said, cases[i].expected) &&
                  strstr(said, "caravan test --help");
        CU_ASSERT_TRUE(ok);
        if (!ok)
            fprintf(stderr, "%s -> %s", cases[i].line, said);
    }
}

static void test_engine(void)
{
    struct coord_engine_options options;
    struct net_cluster_keys keys;
    char listen[NET_ADDRESS_BYTES];
    struct proto_error error;
    parse("");
    CU_ASSERT_EQUAL(coord_cli_engine(&cli, &options, &keys, listen, &error), PROTO_INVALID);
    parse("-m f --deadline 1.5 --batch 7");
    CU_ASSERT_EQUAL(coord_cli_engine(&cli, &options, &keys, listen, &error), PROTO_OK);
    CU_ASSERT_EQUAL(options.local_workers, 1);
    CU_ASSERT_EQUAL(options.deadline_ms, 1500);
    CU_ASSERT_EQUAL(options.batch, 7);
    CU_ASSERT_EQUAL(options.kv, KERN_KV_F32);
    CU_ASSERT_PTR_NULL(options.keys);
    CU_ASSERT_FALSE(options.inexact);
    parse("-m f --exact off");
    CU_ASSERT_EQUAL(coord_cli_engine(&cli, &options, &keys, listen, &error), PROTO_OK);
    CU_ASSERT_TRUE(options.inexact);
    parse("-m f --split experts --stages 2 --expert-slices 3 --replicas 4");
    CU_ASSERT_EQUAL(coord_cli_engine(&cli, &options, &keys, listen, &error), PROTO_OK);
    CU_ASSERT_EQUAL(options.split, SHARD_SPLIT_EXPERTS);
    CU_ASSERT(options.stages == 2 && options.slices == 3 && options.replicas == 4);
    parse("-m f --split layers --replicas 2");
    CU_ASSERT_EQUAL(coord_cli_engine(&cli, &options, &keys, listen, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "--replicas is for --split experts"));
    parse("-m f --exact off --exact=on");
    CU_ASSERT_EQUAL(coord_cli_engine(&cli, &options, &keys, listen, &error), PROTO_OK);
    CU_ASSERT_FALSE(options.inexact);
    parse("-m f --local-workers 0");
    CU_ASSERT_EQUAL(coord_cli_engine(&cli, &options, &keys, listen, &error), PROTO_INVALID);
    parse("-m f --workers 2 --cluster-key /nonexistent/key");
    CU_ASSERT_EQUAL(coord_cli_engine(&cli, &options, &keys, listen, &error), PROTO_NOTFOUND);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "caravan keygen"));
}

static void check_listen(const char *path, const char *more, unsigned local, const char *expected)
{
    struct coord_engine_options options;
    struct net_cluster_keys keys;
    char listen[NET_ADDRESS_BYTES], line[256];
    struct proto_error error = {0};
    snprintf(line, sizeof line, "-m f --workers 2 --cluster-key %s%s", path, more);
    CU_ASSERT_EQUAL(parse(line), -1);
    CU_ASSERT_EQUAL_FATAL(coord_cli_engine(&cli, &options, &keys, listen, &error), PROTO_OK);
    CU_ASSERT_EQUAL(options.local_workers, local);
    CU_ASSERT_EQUAL(options.workers, 2);
    CU_ASSERT_PTR_EQUAL(options.keys, &keys);
    CU_ASSERT_STRING_EQUAL(options.listen, expected);
}

static void test_door(void)
{
    char folder[] = "/tmp/caravan-options-XXXXXX", path[64];
    struct net_cluster_keys keys;
    struct proto_error error;
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/key", folder);
    CU_ASSERT_EQUAL(net_cluster_keys_generate(&keys, "example.net:7000", &error), PROTO_OK);
    CU_ASSERT_EQUAL(net_cluster_keys_save(&keys, path, &error), PROTO_OK);
    check_listen(path, "", 0, "tcp://*:7000");
    check_listen(path, " --local-workers 1", 1, "tcp://*:7000");
    check_listen(path, " --worker-listen 10.0.0.1:5", 0, "tcp://10.0.0.1:5");
    check_listen(path, " --worker-listen :5", 0, "tcp://*:5");
    unlink(path);
    rmdir(folder);
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fputs(text, file);
    fclose(file);
}

static void test_key_file(void)
{
    char path[] = "/tmp/caravan-key-XXXXXX", line[64], longest[1100];
    close(mkstemp(path));
    snprintf(line, sizeof line, "--api-key-file %s", path);
    write_file(path, "not a secret\nmore\n");
    CU_ASSERT_EQUAL(parse(line), -1);
    CU_ASSERT_STRING_EQUAL(cli.api_key, "not a secret");
    CU_ASSERT_EQUAL(parse("--api-key k"), -1);
    CU_ASSERT_STRING_EQUAL(cli.api_key, "k");
    memset(longest, 'k', sizeof longest);
    longest[sizeof longest - 1] = 0;
    const char *const bad[] = {"", "\nkey\n", longest};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        write_file(path, bad[i]);
        CU_ASSERT_EQUAL(parse(line), 2);
        CU_ASSERT_PTR_NOT_NULL(strstr(said, "expected a key of 1 to"));
    }
    unlink(path);
    CU_ASSERT_EQUAL(parse(line), 2);
    CU_ASSERT_PTR_NOT_NULL(strstr(said, "cannot be read: No such file"));
}

static void test_table(void)
{
    struct coord_worker_status workers[2] = {
        {.name = "a",
         .state = "ready",
         .isa = "avx512",
         .threads = 16,
         .layer_end = 12,
         .rss_bytes = 2500000000,
         .rtt_ms = 0.25,
         .slowdown = 1.75,
         .rows = 10,
         .compute_ns = 50000000},
        {.name = "a-longer-name",
         .state = "loading",
         .isa = "avx2",
         .threads = 2,
         .done_bytes = 50,
         .total_bytes = 200,
         .expert_end = 8,
         .expert_layer_end = 12,
         .n_slices = 2},
    };
    uint64_t usage[] = {1, 2, 0, 1, 0, 0, 0, 0, 3, 0, 1, 0};
    const struct coord_status status = {
        .n_workers = 2, .workers = workers, .usage = usage, .n_layers = 3, .n_experts = 4};
    char *text = NULL, *rest = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    coord_status_table(out, &status);
    fclose(out);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, " 5.000 "));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, " ready, 1.8x slower "));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "loading 25%"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "2.50 GB"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, " 1/2 of experts 0-7 of layers 0-11 "));
    size_t width = strcspn(text, "\n"), lines = 0;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        CU_ASSERT_EQUAL(strlen(line), width);
        /* A round trip that is not known is not said to be none. */
        CU_ASSERT(lines != 2 || !strstr(line, "0.000"));
        lines++;
    }
    CU_ASSERT_EQUAL(lines, 3);
    free(text);
    out = open_memstream(&text, &len);
    coord_status_usage(out, &status);
    fclose(out);
    CU_ASSERT_STRING_EQUAL(text, "most used: expert 0 of layer 2, 75.00% of its layer's choices\n"
                                 "least used: expert 2 of layer 0, 0.00% of its layer's choices\n");
    free(text);
}

static void test_caches(void)
{
    const struct coord_caches caches[] = {{0}, {7, 2500000000, 0, 12}};
    const char *const texts[] = {
        "", "caches: 7 positions moved between workers, 2.50 GB; 0 computed again by all stages, "
            "12 by one\n"};
    for (int i = 0; i < 2; i++) {
        char *text = NULL;
        size_t len = 0;
        FILE *out = open_memstream(&text, &len);
        coord_status_caches(out, &caches[i]);
        fclose(out);
        CU_ASSERT_STRING_EQUAL(text, texts[i]);
        free(text);
    }
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("options", NULL, NULL);
    CU_add_test(suite, "good", test_good);
    CU_add_test(suite, "bad", test_bad);
    CU_add_test(suite, "engine", test_engine);
    CU_add_test(suite, "door", test_door);
    CU_add_test(suite, "key file", test_key_file);
    CU_add_test(suite, "table", test_table);
    CU_add_test(suite, "caches", test_caches);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned bad = CU_get_number_of_failures();
    CU_cleanup_registry();
    return bad > 0;
}
