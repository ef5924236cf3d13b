/* SPDX-License-Identifier: Apache-2.0 */
/* Which experts a row gets, and with what weights. */
#include <CUnit/Basic.h>
#include <math.h>
#include <string.h>

#include "worker/exec_state.h"

#define EXPERTS 8u

static struct shard_choice choices[4];

/* Routes one row; a bias may be NULL. */
static void route(struct shard_op op, float logits[EXPERTS], float *bias)
{
    char *buffers[2] = {(char *)choices, (char *)logits};
    size_t strides[2] = {sizeof choices, EXPERTS * sizeof *logits};
    void *data[1] = {bias};
    struct worker_weights weights = {.data = data, .n = 1};
    struct worker_exec e = {.weights = &weights, .buffers = buffers, .strides = strides};
    op.dst = 0;
    op.a = 1;
    op.w = bias ? 0 : -1;
    op.w2 = -1;
    op.width = EXPERTS;
    op.scale = op.scale == 0.0f ? 1.0f : op.scale;
    worker__route(&e, &op, 0);
}

static double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

static void test_softmax(void)
{
    float logits[EXPERTS] = {0, 1, 3, 1, -2, 3, 0, 0};
    double sum = 0;
    for (int i = 0; i < 8; i++)
        sum += exp((double)logits[i]);
    route((struct shard_op){.gate = SHARD_GATE_SOFTMAX, .n_used = 3}, logits, NULL);
    CU_ASSERT(choices[0].expert == 2 && choices[1].expert == 5 && choices[2].expert == 1);
    CU_ASSERT_DOUBLE_EQUAL(choices[0].weight, exp(3) / sum, 1e-6);
    CU_ASSERT_DOUBLE_EQUAL(choices[2].weight, exp(1) / sum, 1e-6);
}

/* What is added for the choice is not in the weights. */
static void test_bias(void)
{
    float logits[EXPERTS] = {0, 1, 3, 1, -2, 3, 0, 0};
    float bias[EXPERTS] = {0, 0, 0, 0, 9, 0, 0, 0.8f};
    struct shard_op op = {.gate = SHARD_GATE_SIGMOID, .n_used = 2, .scale = 2.5f};
    op.gate_normalised = true;
    route(op, logits, bias);
    CU_ASSERT(choices[0].expert == 4 && choices[1].expert == 7);
    double sum = sigmoid(-2) + sigmoid(0);
    CU_ASSERT_DOUBLE_EQUAL(choices[0].weight, 2.5 * sigmoid(-2) / sum, 1e-6);
    CU_ASSERT_DOUBLE_EQUAL(choices[1].weight, 2.5 * sigmoid(0) / sum, 1e-6);
    op.gate = SHARD_GATE_SOFTMAX;
    bias[7] = 0.0f;
    route(op, logits, bias);
    CU_ASSERT(choices[0].expert == 4 && choices[1].expert == 2);
}

/* With sigmoid a group counts by its two best, with softmax by its best. */
static void test_groups(void)
{
    float logits[EXPERTS] = {4, -9, 1, 1, 1.5f, 1.4f, -1, 3};
    struct shard_op op = {.gate = SHARD_GATE_SIGMOID, .n_used = 2, .n_groups = 4};
    op.n_groups_used = 1;
    route(op, logits, NULL);
    CU_ASSERT(choices[0].expert == 4 && choices[1].expert == 5);
    op.n_groups_used = 2;
    route(op, logits, NULL);
    CU_ASSERT(choices[0].expert == 4 && choices[1].expert == 5);
    op.n_used = 4;
    route(op, logits, NULL);
    CU_ASSERT(choices[2].expert == 2 && choices[3].expert == 3);
    op = (struct shard_op){.gate = SHARD_GATE_SOFTMAX, .n_used = 2, .n_groups = 4};
    op.n_groups_used = 2;
    route(op, logits, NULL);
    CU_ASSERT(choices[0].expert == 0 && choices[1].expert == 7);
}

/* Groups are chosen with the biases in. */
static void test_biased_groups(void)
{
    float logits[EXPERTS] = {4, 4, 1, 1, 1, 1, 1, 1};
    float bias[EXPERTS] = {0, 0, 0, 0, 0, 0, 1, 0};
    struct shard_op op = {.gate = SHARD_GATE_SIGMOID, .n_used = 2, .n_groups = 4};
    op.n_groups_used = 1;
    route(op, logits, bias);
    CU_ASSERT(choices[0].expert == 6 && choices[1].expert == 7);
    CU_ASSERT_EQUAL(choices[0].weight, choices[1].weight);
}

/* Nonsense gives some choice of experts that exist. */
static void test_not_finite(void)
{
    float logits[EXPERTS] = {NAN, INFINITY, -INFINITY, NAN, NAN, NAN, -INFINITY, NAN};
    for (int groups = 0; groups < 2; groups++) {
        for (int gate = 0; gate < 2; gate++) {
            struct shard_op op = {.gate = gate ? SHARD_GATE_SIGMOID : SHARD_GATE_SOFTMAX};
            op.n_used = 4;
            op.n_groups = groups ? 4 : 0;
            op.n_groups_used = 2;
            memset(choices, 0xff, sizeof choices);
            route(op, logits, NULL);
            for (int i = 0; i < 4; i++)
                CU_ASSERT(choices[i].expert < EXPERTS);
        }
    }
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("route", NULL, NULL);
    CU_add_test(suite, "softmax", test_softmax);
    CU_add_test(suite, "bias", test_bias);
    CU_add_test(suite, "groups", test_groups);
    CU_add_test(suite, "biased groups", test_biased_groups);
    CU_add_test(suite, "not finite", test_not_finite);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
