/* SPDX-License-Identifier: Apache-2.0 */
/* Experts on other workers: nothing that a peer sends is believed, and no plan that leaves some
 * out. */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>

#include "tests/worker/exec_rig.h"
#include "tests/worker/expert_plans.h"
#include "worker/expert_rows.h"

static struct proto_error error;

static enum {
    TAMPER_SHORT,
    TAMPER_LONG,
    TAMPER_EMPTY,
    TAMPER_STRANGER,
    TAMPER_TWICE,
    N_TAMPERS
} tampering;

static void tamper(struct rig *rig, struct rig_answer *answer)
{
    static uint32_t last;
    switch (tampering) {
    case TAMPER_SHORT:
        answer->len--;
        break;
    case TAMPER_LONG:
        answer->len++;
        break;
    case TAMPER_EMPTY:
        answer->len = 0;
        break;
    case TAMPER_STRANGER:
        answer->host = 77;
        break;
    case TAMPER_TWICE:
        if (rig->n_answers > 0)
            last = answer->host;
        answer->host = last;
        break;
    case N_TAMPERS:
        break;
    }
}

static void test_hostile_answers(void)
{
    struct rig rig;
    int32_t ids[EXPERT_TOKENS];
    static const char *const sets[] = {"ffe=512", "used=4"};
    expert_ids(ids, EXPERT_TOKENS);
    rig_open(&rig, rig_make_with("qwen3moe-k", "Q4_K", sets, 2));
    float *logits = malloc(EXPERT_TOKENS * (size_t)rig.model->n_vocab * sizeof *logits);
    for (int i = 0; i < N_TAMPERS; i++) {
        struct expert_plan plan;
        expert_plan_make(&plan, rig.model, EXPERTS_TWO_HOSTS);
        rig_start(&rig, &(struct rig_options){.parts = plan.parts, .n_parts = plan.n});
        rig.tamper = tamper;
        tampering = (unsigned)i;
        CU_ASSERT_EQUAL(rig_feed(&rig, 0, 0, ids, 20, 20, logits, &error), PROTO_FORMAT);
        CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "experts of layer 0"));
        rig.tamper = NULL;
        rig_stop(&rig);
    }
    free(logits);
    rig_close(&rig);
}

/* A request of two rows, taken apart and changed before it is written again. */
struct request {
    struct worker_expert_shape shape;
    struct worker_expert_rows rows;
    struct worker_expert_group groups[8];
    struct worker_expert_member members[8];
};

static struct request request(void)
{
    struct request r = {.shape = {.n_embd = 256,
                                  .n_experts = 8,
                                  .n_used = 2,
                                  .n_segments = 2,
                                  .gate_bytes = 320,
                                  .max_rows = 4},
                        .rows = {.n_rows = 2, .n_groups = 3, .n_members = 4}};
    r.groups[0] = (struct worker_expert_group){.n_members = 1, .segment_end = 2};
    r.groups[1] = r.groups[0];
    r.groups[2] =
        (struct worker_expert_group){.row = 1, .n_members = 2, .segment_end = 2, .joined = true};
    for (uint32_t i = 0; i < 4; i++)
        r.members[i] = (struct worker_expert_member){.expert = i, .weight = 0.5f};
    return r;
}

/* What a host that has experts 0 to 3 says to it; `len` more bytes than it should have. */
static enum proto_status ask(struct rig *rig, struct request *r, uint32_t layer, long more)
{
    const void *answer;
    size_t answer_len;
    r->rows.groups = r->groups;
    r->rows.members = r->members;
    size_t len = worker_expert_request_bytes(&r->shape, &r->rows);
    char *bytes = calloc(1, len + 64), *end = worker_expert_rows_write(bytes, &r->rows);
    memset(end, 0x80, r->rows.n_rows * r->shape.gate_bytes);
    enum proto_status status = worker_expert_host_run(
        rig->hosts[1].host, layer, bytes, (size_t)((long)len + more), &answer, &answer_len, &error);
    CU_ASSERT(status != PROTO_OK || answer_len == 5 * 256 * sizeof(float));
    free(bytes);
    return status;
}

static void test_hostile_requests(void)
{
    struct rig rig;
    static const char *const sets[] = {"ffe=512", "used=2"};
    rig_open(&rig, rig_make_with("qwen3moe-k", "Q4_K", sets, 2));
    struct expert_plan plan;
    expert_plan_make(&plan, rig.model, EXPERTS_TWO_HOSTS);
    rig_start(&rig, &(struct rig_options){.max_rows = 4, .parts = plan.parts, .n_parts = plan.n});
    struct request r = request();
    CU_ASSERT_EQUAL(ask(&rig, &r, 0, 0), PROTO_OK);
    CU_ASSERT_EQUAL(ask(&rig, &r, 0, -1), PROTO_FORMAT);
    CU_ASSERT_EQUAL(ask(&rig, &r, 0, 64), PROTO_FORMAT);
    CU_ASSERT_EQUAL(ask(&rig, &r, 2, 0), PROTO_NOTFOUND);
#define REFUSED(change, status)                                                                    \
    do {                                                                                           \
        r = request();                                                                             \
        change;                                                                                    \
        CU_ASSERT_EQUAL(ask(&rig, &r, 0, 0), status);                                              \
    } while (0)
    REFUSED(r.members[3].expert = 4, PROTO_NOTFOUND);
    REFUSED(r.members[3].expert = 8, PROTO_FORMAT);
    REFUSED(r.members[3].expert = UINT32_MAX, PROTO_FORMAT);
    REFUSED(r.members[3].expert = 2, PROTO_FORMAT); /* twice */
    REFUSED(r.members[2].expert = 5, PROTO_FORMAT); /* not in order */
    REFUSED(r.members[1].expert = 0, PROTO_FORMAT); /* twice, in two groups */
    REFUSED(r.groups[0].segment_end = 3, PROTO_FORMAT);
    REFUSED(r.groups[0].segment_end = 0, PROTO_FORMAT);
    REFUSED(r.groups[0].segment_first = 2, PROTO_FORMAT);
    REFUSED(r.groups[0].n_members = 0, PROTO_FORMAT);
    REFUSED(r.groups[2].n_members = 3, PROTO_FORMAT);
    REFUSED(r.groups[2].n_members = 1, PROTO_FORMAT);
    REFUSED(r.groups[2].n_members = UINT16_MAX, PROTO_FORMAT);
    REFUSED(r.groups[2].row = 0, PROTO_FORMAT); /* and none for row 1; three experts a row */
    REFUSED(r.groups[2].row = 2, PROTO_FORMAT);
    REFUSED(r.groups[0].row = 1, PROTO_FORMAT);
    REFUSED(r.rows.n_rows = 3, PROTO_FORMAT);
    REFUSED(r.rows.n_groups = 2, PROTO_FORMAT);
    REFUSED(r.rows.n_groups = 0, PROTO_FORMAT);
#undef REFUSED
    /* What is said to be in it is bounded before it is looked for. */
    const void *answer;
    size_t len;
    for (int i = 0; i < 4; i++) {
        uint32_t header[4] = {1, 1, 1, 0};
        header[i] = UINT32_MAX;
        CU_ASSERT_EQUAL(worker_expert_host_run(rig.hosts[1].host, 0, header, sizeof header, &answer,
                                               &len, &error),
                        PROTO_FORMAT);
    }
    CU_ASSERT_EQUAL(worker_expert_host_run(rig.hosts[1].host, 0, "", 0, &answer, &len, &error),
                    PROTO_FORMAT);
    r = request();
    CU_ASSERT_EQUAL(ask(&rig, &r, 0, 0), PROTO_OK);
    rig_close(&rig);
}

static enum proto_status cut(const struct shard_model *m, const struct expert_plan *plan)
{
    struct shard_program *p;
    struct shard_split split = {.layer_end = m->n_layers,
                                .embed = true,
                                .head = true,
                                .parts = plan->parts,
                                .n_parts = plan->n};
    enum proto_status status = shard_program_create_split(&p, m, &split, &error);
    shard_program_destroy(p);
    return status;
}

static void test_plans_refused(void)
{
    struct rig rig;
    static const char *const sets[] = {"ffe=512", "used=2"};
    rig_open(&rig, rig_make_with("qwen3moe-k", "Q4_K", sets, 2));
    struct expert_plan good, bad;
    expert_plan_make(&good, rig.model, EXPERTS_TWO_HOSTS);
    bad = good;
    CU_ASSERT_EQUAL(cut(rig.model, &good), PROTO_OK);
    bad.n = 1;
    CU_ASSERT_EQUAL(cut(rig.model, &bad), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "no worker holds all of expert 4 of layer 0"));
    bad = good;
    bad.parts[1].expert_end = 9;
    CU_ASSERT_EQUAL(cut(rig.model, &bad), PROTO_INVALID);
    bad = good;
    bad.parts[1].layer_end = 3;
    CU_ASSERT_EQUAL(cut(rig.model, &bad), PROTO_INVALID);
    bad = good;
    bad.parts[1].n_slices = 3;
    CU_ASSERT_EQUAL(cut(rig.model, &bad), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "cut into 2"));
    bad.parts[1].n_slices = 2;
    CU_ASSERT_EQUAL(cut(rig.model, &bad), PROTO_INVALID);
    rig_close(&rig);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("experts refused", NULL, NULL);
    CU_add_test(suite, "hostile answers", test_hostile_answers);
    CU_add_test(suite, "hostile requests", test_hostile_requests);
    CU_add_test(suite, "plans refused", test_plans_refused);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
