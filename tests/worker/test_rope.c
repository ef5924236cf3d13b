/* SPDX-License-Identifier: Apache-2.0 */
/* Rotation angles far out: the table of cosines and sines against long double. */
#include <CUnit/Basic.h>
#include <math.h>
#include <stdlib.h>

#include "tests/worker/exec_rig.h"
#include "worker/exec_state.h"

/* Rounding to float, and what is left of an angle of 10^7 radians in double. */
#define TOLERANCE 4e-8L

static const struct shard_op *find_table(const struct worker_exec *e)
{
    for (size_t i = 0; i < e->program->n_ops; i++)
        if (e->program->ops[i].kind == SHARD_OP_ROPE_TABLE)
            return &e->program->ops[i];
    return NULL;
}

static void check_position(struct worker_exec *e, const struct shard_op *op, uint64_t pos,
                           long double theta)
{
    e->rows[0].pos = pos;
    worker__rows_run(e, op, 0, 1);
    const float *cs = worker__at(e, op->dst, 0);
    const float *divisors = op->w >= 0 ? e->weights->data[op->w] : NULL;
    for (uint32_t i = 0; i < op->width / 2; i++) {
        long double angle = (long double)pos * powl(theta, -2.0L * i / op->width);
        angle /= divisors ? (long double)divisors[i] : 1;
        CU_ASSERT(fabsl((long double)cs[2 * i] - cosl(angle)) < TOLERANCE);
        CU_ASSERT(fabsl((long double)cs[2 * i + 1] - sinl(angle)) < TOLERANCE);
    }
}

static void check_preset(const char *preset, long double theta)
{
    static const uint64_t positions[] = {0, 1, 8191, 65537, 1000003, 9999999};
    struct rig rig;
    rig_open(&rig, rig_make(preset, "F32", 3, false, NULL));
    rig_start(&rig, &(struct rig_options){0});
    struct worker_exec *e = rig.stages[0].exec;
    const struct shard_op *op = find_table(e);
    CU_ASSERT_PTR_NOT_NULL_FATAL(op);
    for (size_t i = 0; i < sizeof positions / sizeof positions[0]; i++)
        check_position(e, op, positions[i], theta);
    rig_stop(&rig);
    rig_close(&rig);
}

static void test_plain(void)
{
    check_preset("llama2-tiny", 10000.0L);
}

static void test_divided(void)
{
    check_preset("llama3-tiny", 500000.0L);
    check_preset("llama4-scout-tiny", 500000.0L);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("rope", NULL, NULL);
    CU_add_test(suite, "angles", test_plain);
    CU_add_test(suite, "angles divided by a tensor", test_divided);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
