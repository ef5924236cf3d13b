/* SPDX-License-Identifier: Apache-2.0 */
/* Cluster files: what they may say, and where exactly they are wrong. */
#include <CUnit/Basic.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/plan/cluster_file.h"

static struct proto_error error;

static struct plan_cluster *parse(const char *text)
{
    struct plan_cluster *cluster;
    error = (struct proto_error){0};
    enum proto_status status = coord_cluster_parse(&cluster, text, strlen(text), "c.yaml", &error);
    if (status)
        CU_ASSERT_PTR_NULL(cluster);
    return cluster;
}

static struct plan_cluster *parse_good(const char *text)
{
    struct plan_cluster *cluster = parse(text);
    if (!cluster)
        fprintf(stderr, "%s\n", error.text);
    CU_ASSERT_PTR_NOT_NULL_FATAL(cluster);
    return cluster;
}

static bool is_about(double a, double b)
{
    return fabs(a - b) <= 1e-9 * fabs(b);
}

/* Ways as "a>b rtt/mbit", in order. */
static void check_links(const struct plan_cluster *c, const char *expected)
{
    char text[1024] = "";
    size_t len = 0;
    for (uint32_t i = 0; i < c->n_links; i++)
        len +=
            (size_t)snprintf(text + len, sizeof text - len, "%s%s>%s %g/%g", i ? ", " : "",
                             c->machines[c->links[i].from].name, c->machines[c->links[i].to].name,
                             c->links[i].link.rtt_s * 1e3, c->links[i].link.bytes_s * 8e-6);
    CU_ASSERT_STRING_EQUAL(text, expected);
    if (strcmp(text, expected))
        fprintf(stderr, "found %s\n", text);
}

static void test_example(void)
{
    struct plan_cluster *c = parse_good(
        "machines:\n"
        "  - {name: gaming, memory_gb: 64, read_gb_s: 60, gpu: {memory_gb: 12, read_gb_s: 360}}\n"
        "  - {name: mini, memory_gb: 96, read_gb_s: 75, tops_int8: 2.5}\n"
        "link: {rtt_ms: 0.3, mbit_s: 1000}          # between any two\n"
        "links:\n"
        "  - {between: [gaming, mini], rtt_ms: 0.1, mbit_s: 10000}\n");
    const struct plan_machine *gaming = &c->machines[0], *mini = &c->machines[1];
    CU_ASSERT_EQUAL(c->n_machines, 2);
    CU_ASSERT_STRING_EQUAL(gaming->name, "gaming");
    CU_ASSERT_EQUAL(gaming->device[PLAN_CPU].memory_bytes, 64000000000u);
    CU_ASSERT(is_about(gaming->device[PLAN_CPU].read_bytes_s, 60e9));
    CU_ASSERT_EQUAL(gaming->device[PLAN_CPU].ops_rows_s, 0);
    CU_ASSERT_EQUAL(gaming->device[PLAN_GPU].memory_bytes, 12000000000u);
    CU_ASSERT(is_about(gaming->device[PLAN_GPU].read_bytes_s, 360e9));
    CU_ASSERT_EQUAL(mini->device[PLAN_GPU].memory_bytes, 0);
    CU_ASSERT(is_about(mini->device[PLAN_CPU].ops_rows_s, 2.5e12));
    CU_ASSERT(is_about(c->any.rtt_s, 0.3e-3) && is_about(c->any.bytes_s, 125e6));
    check_links(c, "gaming>mini 0.1/10000, mini>gaming 0.1/10000");
    CU_ASSERT_EQUAL(plan_cluster_complete(c, &error), PROTO_OK);
    plan_cluster_destroy(c);
}

static void test_all_keys(void)
{
    struct plan_cluster *c =
        parse_good("machines:\n"
                   "- name: a\n"
                   "  memory_gb: 1.5e1\n"
                   "  tops_int8_row: 0.25\n"
                   "  tflops: .5\n"
                   "  threads: 12\n"
                   "  disk_gb_s: 3\n"
                   "  overhead_ms: 0.2\n"
                   "  request_ms: 0.04\n"
                   "  coordinator: true\n"
                   "  gpu: {memory_gb: 8, tops_int8: 30, tops_int8_row: 10, tflops: 20}\n");
    const struct plan_machine *a = &c->machines[0];
    CU_ASSERT_EQUAL(a->device[PLAN_CPU].memory_bytes, 15000000000u);
    CU_ASSERT(is_about(a->device[PLAN_CPU].ops_row_s, 0.25e12));
    CU_ASSERT(is_about(a->device[PLAN_CPU].ops_float_s, 0.5e12));
    CU_ASSERT_EQUAL(a->threads, 12);
    CU_ASSERT(is_about(a->disk_bytes_s, 3e9));
    CU_ASSERT(is_about(a->overhead_s, 0.2e-3) && is_about(a->request_s, 0.04e-3));
    CU_ASSERT(a->coordinator);
    CU_ASSERT(is_about(a->device[PLAN_GPU].ops_float_s, 20e12));
    CU_ASSERT_EQUAL(c->n_links, 0);
    CU_ASSERT_EQUAL(c->any.rtt_s, 0);
    plan_cluster_destroy(c);
}

static void test_machines_alike(void)
{
    struct plan_cluster *c = parse_good("machines:\n"
                                        "- {name: big, memory_gb: 64}\n"
                                        "- {name: mini, count: 3, memory_gb: 16}\n"
                                        "link: {rtt_ms: 1, mbit_s: 100}\n"
                                        "links:\n"
                                        "- {between: [mini, big], mbit_s: 1000}\n"
                                        "- {between: [mini, mini], rtt_ms: 2}\n");
    CU_ASSERT_EQUAL(c->n_machines, 4);
    CU_ASSERT_STRING_EQUAL(c->machines[1].name, "mini-1");
    CU_ASSERT_STRING_EQUAL(c->machines[3].name, "mini-3");
    CU_ASSERT_EQUAL(c->n_links, 12);
    CU_ASSERT_EQUAL(plan_cluster_complete(c, &error), PROTO_OK);
    struct plan_link up = plan_cluster_link(c, 2, 0), across = plan_cluster_link(c, 1, 3);
    CU_ASSERT(is_about(up.rtt_s, 1e-3) && is_about(up.bytes_s, 125e6));
    CU_ASSERT(is_about(across.rtt_s, 2e-3) && is_about(across.bytes_s, 12.5e6));
    plan_cluster_destroy(c);
}

static void test_most_machines(void)
{
    struct plan_cluster *c = parse_good("machines: [{name: w, count: 10000, memory_gb: 16}]\n");
    CU_ASSERT_EQUAL(c->n_machines, PLAN_MAX_MACHINES);
    CU_ASSERT_STRING_EQUAL(c->machines[9999].name, "w-10000");
    plan_cluster_destroy(c);
}

static void test_one_way(void)
{
    struct plan_cluster *c =
        parse_good("machines: [{name: a, memory_gb: 1}, {name: b, memory_gb: 1}]\n"
                   "link: {rtt_ms: 1, mbit_s: 100}\n"
                   "links: [{from: b, to: a, rtt_ms: 5, mbit_s: 10}]\n");
    check_links(c, "a>b 1/100, b>a 5/10");
    plan_cluster_destroy(c);
    c = parse_good("machines: [{name: a, memory_gb: 1}, {name: b, memory_gb: 1}]\n"
                   "links:\n"
                   "- {from: b, to: a, rtt_ms: 5, mbit_s: 10}\n"
                   "- {from: a, to: b, rtt_ms: 6, mbit_s: 20}\n");
    check_links(c, "a>b 6/20, b>a 5/10");
    plan_cluster_destroy(c);
}

static void test_aliases(void)
{
    struct plan_cluster *c = parse_good("machines:\n"
                                        "- {name: a, memory_gb: 8, gpu: &g {memory_gb: 2}}\n"
                                        "- {name: b, memory_gb: 8, gpu: *g}\n");
    CU_ASSERT_EQUAL(c->machines[1].device[PLAN_GPU].memory_bytes, 2000000000u);
    plan_cluster_destroy(c);
}

#define MACHINE "machines:\n- {name: a, memory_gb: 64}\n"
#define TWO     MACHINE "- {name: b, memory_gb: 64}\n"
#define THREE   TWO "- {name: c, memory_gb: 64}\n"

/* What is wrong, where it is said to be, and words of the text. */
static const struct {
    const char *text, *place, *words[2];
} bad[] = {
    {"", "1:1", {"empty"}},
    {"# nothing\n", "1:1", {"empty"}},
    {"machines: [\n", "2:1", {"expected YAML"}},
    {"machines:\n\t- a\n", "2:1", {"expected YAML"}},
    {"a: \xff\n", "1:1", {"UTF-8"}},
    {"- a\n", "1:1", {"the file is a list", "{machines: ...}"}},
    {"links: []\n", "1:1", {"no machines"}},
    {MACHINE "---\n" MACHINE, "4:1", {"second document"}},
    {"machines: 5\n", "1:11", {"machines is 5", "expected a list"}},
    {"machines: []\n", "1:11", {"empty list"}},
    {"machines:\n- gaming\n", "2:3", {"a machine is gaming", "expected keys and values"}},
    {MACHINE "link: fast\n", "3:7", {"link is fast"}},
    {MACHINE "speed: 5\n", "3:1", {"the file knows no key speed", "machines, link, links"}},
    {"machines:\n- {name: a, memory_gb: 64, ram: 5}\n", "2:28", {"no key ram", "memory_gb"}},
    {"machines:\n- name: a\n  memory_gb: 64\n  gpu:\n    memory_gb: 12\n    tdp: 300\n",
     "6:5",
     {"a gpu knows no key tdp", "tops_int8"}},
    {"machines:\n- {name: a, memory_gb: 64, memory_gb: 65}\n", "2:28", {"memory_gb twice"}},
    {"machines:\n- {name: a, memory_gb: -64}\n", "2:24", {"memory_gb is -64", "from 0.001"}},
    {"machines:\n- {name: a, memory_gb: 0}\n", "2:24", {"memory_gb is 0"}},
    {"machines:\n- {name: a, memory_gb: 64GB}\n", "2:24", {"memory_gb is 64GB"}},
    {"machines:\n- {name: a, memory_gb: \"64\"}\n", "2:24", {"the text \"64\""}},
    {"machines:\n- {name: a, memory_gb: 1e30}\n", "2:24", {"memory_gb is 1e30", "1000000"}},
    {"machines:\n- {name: a, memory_gb: .inf}\n", "2:24", {"memory_gb is .inf"}},
    {"machines:\n- {name: a, memory_gb: 0x40}\n", "2:24", {"memory_gb is 0x40"}},
    {"machines:\n- {name: a, memory_gb: }\n", "2:24", {"memory_gb is nothing"}},
    {"machines:\n- {name: a, memory_gb: [64]}\n", "2:24", {"memory_gb is a list"}},
    {"machines:\n- {name: a, memory_gb: 64, threads: 2.5}\n", "2:37", {"whole number"}},
    {"machines:\n- {name: a, memory_gb: 64, read_gb_s: -1}\n", "2:39", {"read_gb_s is -1"}},
    {"machines:\n- {name: a, memory_gb: 64, coordinator: yes}\n", "2:41", {"expected true"}},
    {"machines:\n- {name: a, memory_gb: 64, gpu: big}\n", "2:33", {"a gpu is big"}},
    {"machines:\n- {name: a, memory_gb: 64, gpu: {read_gb_s: 5}}\n",
     "2:33",
     {"a gpu has no memory_gb"}},
    {"machines:\n- {name: a}\n", "2:3", {"no memory_gb"}},
    {"machines:\n- {memory_gb: 5}\n", "2:3", {"no name"}},
    {"machines:\n- {name: [a], memory_gb: 5}\n", "2:10", {"name is a list"}},
    {"machines:\n- {name: '', memory_gb: 5}\n", "2:10", {"no spaces"}},
    {"machines:\n- {name: a b, memory_gb: 5}\n", "2:10", {"no spaces"}},
    {"machines:\n- {name: \"a\\x9b2J\", memory_gb: 5}\n", "2:10", {"no spaces"}},
    {"machines:\n- {name: a, memory_gb: \"\\e[2J\"}\n", "2:24", {"control characters"}},
    {"machines:\n- {name: a, memory_gb: 5, count: 0}\n", "2:34", {"count is 0"}},
    {"machines:\n- {name: a, memory_gb: 5, count: 9999}\n- {name: b, memory_gb: 5, count: 2}\n",
     "3:10",
     {"10001 machines"}},
    {TWO "- {name: a, memory_gb: 64}\n", "4:10", {"second machine is named a"}},
    {"machines:\n- {name: a, count: 2, memory_gb: 5}\n- {name: a-2, memory_gb: 5}\n",
     "3:10",
     {"named a-2"}},
    {"machines:\n- {name: a, memory_gb: 5, coordinator: true}\n"
     "- {name: b, memory_gb: 5, coordinator: true}\n",
     "3:3",
     {"second machine"}},
    {TWO "link: {rtt_ms: -0.3}\n", "4:16", {"rtt_ms is -0.3"}},
    {TWO "link: {rtt_ms: 0.3, between: [a, b]}\n", "4:21", {"no key between"}},
    {TWO "links: 7\n", "4:8", {"links is 7"}},
    {TWO "links:\n- {between: [a, x], rtt_ms: 1, mbit_s: 1}\n", "5:17", {"names x", "such as a"}},
    {TWO "links:\n- {between: [a], rtt_ms: 1, mbit_s: 1}\n", "5:13", {"two ends"}},
    {TWO "links:\n- {between: a, rtt_ms: 1, mbit_s: 1}\n", "5:13", {"two ends"}},
    {TWO "links:\n- {rtt_ms: 1, mbit_s: 1}\n", "5:3", {"two ends"}},
    {TWO "links:\n- {from: a, rtt_ms: 1, mbit_s: 1}\n", "5:3", {"two ends"}},
    {TWO "links:\n- {from: a, between: [a, b], rtt_ms: 1, mbit_s: 1}\n", "5:3", {"two ends"}},
    {TWO "links:\n- {between: [a, a], rtt_ms: 1, mbit_s: 1}\n", "5:3", {"from a to itself"}},
    {TWO "links:\n- {between: [a, b], rtt: 1}\n", "5:21", {"no key rtt"}},
    {TWO "links:\n- {between: [a, b], rtt_ms: 1, mbit_s: 1}\n"
         "- {from: b, to: a, rtt_ms: 1, mbit_s: 1}\n",
     "6:3",
     {"from b to a is there twice"}},
    {THREE "links:\n- {between: [a, b], rtt_ms: 1, mbit_s: 1}\n"
           "- {between: [b, c], rtt_ms: 1, mbit_s: 1}\n",
     "6:1",
     {"from a to c is missing", "link: for all"}},
    {TWO "links:\n- {from: a, to: b, rtt_ms: 1, mbit_s: 1}\n", "5:1", {"from b to a is missing"}},
    {"machines: [{name: w, count: 10000, memory_gb: 16}]\n"
     "links: [{between: [w, w], rtt_ms: 1, mbit_s: 1}]\n",
     "2:9",
     {"links, each way counted", "expected at most"}},
};

static void check_bad(const char *text, const char *place, const char *const words[2])
{
    char start[32];
    snprintf(start, sizeof start, "c.yaml:%s: ", place);
    CU_ASSERT_PTR_NULL(parse(text));
    bool right = !strncmp(error.text, start, strlen(start)) && !strchr(error.text, '\n');
    for (int i = 0; i < 2 && words[i]; i++)
        right = right && strstr(error.text, words[i]);
    CU_ASSERT(right);
    if (!right)
        fprintf(stderr, "expected %s%s, found %s\n", start, words[0], error.text);
}

static void test_bad(void)
{
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        check_bad(bad[i].text, bad[i].place, bad[i].words);
}

static void test_long_file(void)
{
    size_t len = (16u << 20) + 1;
    char *text = malloc(len);
    struct plan_cluster *c;
    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    memset(text, '#', len);
    CU_ASSERT_EQUAL(coord_cluster_parse(&c, text, len, "c.yaml", &error), PROTO_LIMIT);
    free(text);
}

static void test_missing_file(void)
{
    struct plan_cluster *c;
    CU_ASSERT_EQUAL(coord_cluster_read(&c, "/nowhere/c.yaml", &error), PROTO_NOTFOUND);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "/nowhere/c.yaml"));
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("cluster file", NULL, NULL);
    CU_add_test(suite, "example", test_example);
    CU_add_test(suite, "all keys", test_all_keys);
    CU_add_test(suite, "machines alike", test_machines_alike);
    CU_add_test(suite, "most machines", test_most_machines);
    CU_add_test(suite, "one way", test_one_way);
    CU_add_test(suite, "aliases", test_aliases);
    CU_add_test(suite, "bad files", test_bad);
    CU_add_test(suite, "long file", test_long_file);
    CU_add_test(suite, "missing file", test_missing_file);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
