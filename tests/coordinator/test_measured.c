/* SPDX-License-Identifier: Apache-2.0 */
/* A running cluster's status as machines and links that the planner takes, and what it predicts. */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/plan/measured.h"
#include "coordinator/plan/prediction.h"
#include "shard/synthetic.h"

static struct coord_worker_status workers[3];
static struct coord_link_status links[8];
static struct shard_expert_part parts[4];
static struct coord_status status;
static double type_ops[KERN_TYPE_SLOTS];
static struct proto_error error;

static void name(struct coord_worker_status *w, const char *text, const char *state)
{
    *w = (struct coord_worker_status){.threads = 4, .memory_bytes = (uint64_t)8 << 30};
    snprintf(w->name, sizeof w->name, "%s", text);
    snprintf(w->state, sizeof w->state, "%s", state);
}

/* a: measured, here. b: lost. c: a child of the coordinator, not measured. */
static void make_status(void)
{
    name(&workers[0], "a", "ready");
    name(&workers[1], "b", "lost");
    name(&workers[2], "c", "joined");
    workers[2].local = true;
    workers[0].profiled = true;
    workers[0].profile = (struct proto_profile){
        .read_bytes_s = 5e10,
        .float_ops_s = 2e11,
        .wake_s = 1e-5,
        .run_s = 1e-6,
        .disk_bytes_s = 3e9,
        .types = {{KERN_Q4_K, 1e11, 1e12}, {KERN_Q6_K, 5e10, 4e11}, {4000, 1, 1}},
        .n_types = 3};
    links[0] = (struct coord_link_status){2, 0, 3e-4, 1e8};
    links[1] = (struct coord_link_status){0, 2, 2e-4, 2e8};
    links[2] = (struct coord_link_status){0, 1, 1, 1};
    links[3] = (struct coord_link_status){1, 0, 1, 1};
    links[4] = (struct coord_link_status){0, COORD_HERE, 4e-4, 3e8};
    links[5] = (struct coord_link_status){COORD_HERE, 2, 2e-4, 1e8};
    status = (struct coord_status){
        .n_workers = 3, .workers = workers, .n_links = 6, .links = links, .parts = parts};
    memset(type_ops, 0, sizeof type_ops);
    type_ops[KERN_Q4_K] = 1e9;
}

static void test_cluster(void)
{
    struct plan_cluster *cluster;
    uint32_t *machines = NULL;
    make_status();
    CU_ASSERT_EQUAL_FATAL(coord_cluster_measured(&cluster, &machines, &status, type_ops, &error),
                          PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(cluster->n_machines, 2);
    CU_ASSERT_EQUAL(machines[0], 0);
    CU_ASSERT_EQUAL(machines[1], UINT32_MAX);
    CU_ASSERT_EQUAL(machines[2], 1);
    const struct plan_machine *a = &cluster->machines[0], *c = &cluster->machines[1];
    CU_ASSERT_STRING_EQUAL(a->name, "a");
    CU_ASSERT_STRING_EQUAL(c->name, "c");
    CU_ASSERT_EQUAL(a->device[PLAN_CPU].memory_bytes, (uint64_t)8 << 30);
    CU_ASSERT_EQUAL(a->device[PLAN_CPU].read_bytes_s, 5e10);
    CU_ASSERT_EQUAL(a->device[PLAN_CPU].ops_float_s, 2e11);
    CU_ASSERT_DOUBLE_EQUAL(a->device[PLAN_CPU].ops_row_s, 1e11, 1);
    CU_ASSERT_DOUBLE_EQUAL(a->device[PLAN_CPU].ops_rows_s, 1e12, 1);
    CU_ASSERT_EQUAL(a->disk_bytes_s, 3e9);
    CU_ASSERT_DOUBLE_EQUAL(a->overhead_s, 3e-5, 1e-9);
    CU_ASSERT_EQUAL(a->estimated & PLAN_ESTIMATED_DISK, 0);
    CU_ASSERT_EQUAL(a->threads, 4);
    CU_ASSERT_FALSE(a->coordinator || c->coordinator);
    CU_ASSERT_NOT_EQUAL(a->computer, c->computer);
    CU_ASSERT_FALSE(cluster->shared);
    CU_ASSERT_NOT_EQUAL(c->estimated & PLAN_ESTIMATED_DISK, 0);
    CU_ASSERT(c->device[PLAN_CPU].read_bytes_s > 0);
    plan_cluster_destroy(cluster);
    free(machines);
}

/* A worker that is leaving counts while it has a part. */
static void test_leaving(void)
{
    struct plan_cluster *cluster;
    uint32_t *machines = NULL;
    make_status();
    snprintf(workers[2].state, sizeof workers[2].state, "draining");
    for (uint32_t n = 1; n <= 2; n++) {
        workers[2].layer_end = n - 1;
        CU_ASSERT_EQUAL_FATAL(
            coord_cluster_measured(&cluster, &machines, &status, type_ops, &error), PROTO_OK);
        CU_ASSERT_EQUAL(cluster->n_machines, n);
        CU_ASSERT_EQUAL(machines[2], n == 1 ? UINT32_MAX : 1);
        plan_cluster_destroy(cluster);
        free(machines);
    }
}

static void test_slow(void)
{
    struct plan_cluster *cluster;
    make_status();
    workers[0].slowdown = 2;
    CU_ASSERT_EQUAL_FATAL(coord_cluster_measured(&cluster, NULL, &status, type_ops, &error),
                          PROTO_OK);
    const struct plan_device *cpu = &cluster->machines[0].device[PLAN_CPU];
    CU_ASSERT_EQUAL(cpu->read_bytes_s, 2.5e10);
    CU_ASSERT_EQUAL(cpu->ops_float_s, 1e11);
    CU_ASSERT_DOUBLE_EQUAL(cpu->ops_row_s, 5e10, 1);
    CU_ASSERT_DOUBLE_EQUAL(cpu->ops_rows_s, 5e11, 1);
    plan_cluster_destroy(cluster);
}

static void test_links(void)
{
    struct plan_cluster *cluster;
    make_status();
    CU_ASSERT_EQUAL_FATAL(coord_cluster_measured(&cluster, NULL, &status, type_ops, &error),
                          PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(cluster->n_links, 4);
    CU_ASSERT_EQUAL(plan_cluster_link(cluster, 0, PLAN_ELSEWHERE).bytes_s, 3e8);
    CU_ASSERT_EQUAL(plan_cluster_link(cluster, PLAN_ELSEWHERE, 1).rtt_s, 2e-4);
    CU_ASSERT_EQUAL(plan_cluster_link(cluster, 0, 1).bytes_s, 2e8);
    CU_ASSERT_EQUAL(plan_cluster_link(cluster, 1, 0).bytes_s, 1e8);
    CU_ASSERT_EQUAL(plan_cluster_link(cluster, 1, 0).rtt_s, 3e-4);
    CU_ASSERT_DOUBLE_EQUAL(cluster->any.rtt_s, 3e-4, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(cluster->any.bytes_s, 2e8, 1);
    CU_ASSERT_FALSE(cluster->link_estimated);
    plan_cluster_destroy(cluster);
    /* One direction alone is not named, and without any link there are estimates. */
    status.n_links = 1;
    CU_ASSERT_EQUAL_FATAL(coord_cluster_measured(&cluster, NULL, &status, type_ops, &error),
                          PROTO_OK);
    CU_ASSERT_EQUAL(cluster->n_links, 0);
    CU_ASSERT_TRUE(cluster->link_estimated);
    plan_cluster_destroy(cluster);
}

static void test_nobody(void)
{
    struct plan_cluster *cluster;
    make_status();
    snprintf(workers[0].state, sizeof workers[0].state, "lost");
    snprintf(workers[2].state, sizeof workers[2].state, "lost");
    CU_ASSERT_EQUAL(coord_cluster_measured(&cluster, NULL, &status, type_ops, &error), PROTO_LOST);
    CU_ASSERT_PTR_NULL(cluster);
}

/* ---- predictions ---- */

static struct shard_synthetic *synthetic;
static struct shard_model *model;

/* Both are stages, or with `experts` c holds all experts of a, which is the only stage. */
static void make_plan(bool experts)
{
    uint32_t half = model->n_layers / 2;
    make_status();
    workers[2].profiled = true;
    workers[2].profile = workers[0].profile;
    workers[0].embed = true;
    workers[0].layer_end = experts ? model->n_layers : half;
    workers[0].head = experts;
    if (experts) {
        parts[0] = (struct shard_expert_part){.worker = 2,
                                              .layer_end = model->n_layers,
                                              .expert_end = model->n_experts,
                                              .n_slices = 1};
        status.n_parts = 1;
    } else {
        workers[2].layer_first = half;
        workers[2].layer_end = model->n_layers;
        workers[2].head = true;
    }
    status.ready = true;
    status.kv = KERN_KV_F16;
    status.ctx = 1024;
    status.max_rows = 512;
    status.max_active = 2;
}

static struct coord_prediction predict(uint32_t sequences)
{
    const struct plan_load load = {
        .depth = 32, .prompt = 512, .answer = 64, .sequences = sequences};
    struct coord_prediction p;
    CU_ASSERT_EQUAL_FATAL(coord_predict(&p, &status, model, &load, &error), PROTO_OK);
    CU_ASSERT(p.decode > 0 && p.prefill > p.decode);
    CU_ASSERT(strlen(p.bottleneck) > 0);
    return p;
}

static void test_placement(void)
{
    const uint32_t machines[] = {0, UINT32_MAX, 1};
    struct plan_placement *placement;
    make_plan(true);
    CU_ASSERT_EQUAL_FATAL(coord_placement_of(&placement, &status, machines, &error), PROTO_OK);
    CU_ASSERT_EQUAL(placement->n_workers, 2);
    CU_ASSERT_EQUAL_FATAL(placement->n_stages, 1);
    CU_ASSERT(placement->stages[0].embed && placement->stages[0].head);
    CU_ASSERT_EQUAL(placement->stages[0].layer_end, model->n_layers);
    CU_ASSERT_EQUAL_FATAL(placement->n_parts, 1);
    CU_ASSERT_EQUAL(placement->workers[placement->parts[0].worker].machine, 1);
    CU_ASSERT_EQUAL(placement->parts[0].expert_end, model->n_experts);
    plan_placement_destroy(placement);
}

static void test_predictions(void)
{
    make_plan(false);
    struct coord_prediction alone = predict(1), together = predict(2);
    CU_ASSERT(together.decode > alone.decode);
    workers[0].profile.read_bytes_s *= 4;
    for (uint32_t i = 0; i < 2; i++)
        workers[0].profile.types[i].row_ops_s *= 4;
    CU_ASSERT(predict(1).decode > alone.decode);
    make_plan(true);
    struct coord_prediction near = predict(1);
    links[0].rtt_s = links[1].rtt_s = 0.05;
    CU_ASSERT(predict(1).decode < near.decode / 2);
}

static void test_not_predicted(void)
{
    const struct plan_load load = {.prompt = 8, .sequences = 1};
    struct coord_prediction p;
    make_plan(false);
    workers[2].profiled = false;
    CU_ASSERT_EQUAL(coord_predict(&p, &status, model, &load, &error), PROTO_NOTFOUND);
    CU_ASSERT_EQUAL(p.decode, 0);
    make_plan(false);
    status.ready = false;
    CU_ASSERT_EQUAL(coord_predict(&p, &status, model, &load, &error), PROTO_NOTFOUND);
    make_plan(false);
    status.ctx = 0; /* an older coordinator does not say */
    CU_ASSERT_EQUAL(coord_predict(&p, &status, model, &load, &error), PROTO_LIMIT);
}

static int open_model(void)
{
    return shard_synthetic_create(&synthetic, "llama4-k:Q4_K", &error) ||
           shard_model_create(&model, shard_synthetic_gguf(synthetic), &error);
}

static int close_model(void)
{
    shard_model_destroy(model);
    shard_synthetic_destroy(synthetic);
    return 0;
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("measured", open_model, close_model);
    CU_add_test(suite, "cluster", test_cluster);
    CU_add_test(suite, "a slow machine", test_slow);
    CU_add_test(suite, "a machine that is leaving", test_leaving);
    CU_add_test(suite, "links", test_links);
    CU_add_test(suite, "nobody", test_nobody);
    CU_add_test(suite, "placement", test_placement);
    CU_add_test(suite, "predictions", test_predictions);
    CU_add_test(suite, "not predicted", test_not_predicted);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
