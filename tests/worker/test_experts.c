/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Experts on other workers: the same bits wherever they are, as many frames as there are hosts, and
 * nothing that a peer sends is believed.
 */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/worker/exec_rig.h"
#include "tests/worker/model_forms.h"
#include "worker/exec_sum.h"
#include "worker/expert_rows.h"

#define N_TOKENS  64u
#define MAX_PARTS 64u

static struct proto_error error;

/* A plan that is being made. */
struct plan {
    struct shard_expert_part parts[MAX_PARTS];
    uint32_t n;
    uint32_t n_layers, n_experts, n_segments;
};

static void give(struct plan *plan, uint32_t worker, uint32_t first, uint32_t end, uint32_t slice,
                 uint32_t n_slices)
{
    plan->parts[plan->n++] = (struct shard_expert_part){.worker = worker,
                                                        .layer_end = plan->n_layers,
                                                        .expert_first = first,
                                                        .expert_end = end,
                                                        .slice = slice,
                                                        .n_slices = n_slices};
}

static bool two_hosts(struct plan *p)
{
    give(p, 1, 0, p->n_experts / 2, 0, 1);
    give(p, 2, p->n_experts / 2, p->n_experts, 0, 1);
    return true;
}

static bool four_hosts_of_slices(struct plan *p)
{
    for (uint32_t w = 0; w < 4; w++)
        give(p, 1 + w, w / 2 * (p->n_experts / 2), p->n_experts / (2 - w / 2), w % 2, 2);
    return p->n_segments >= 2;
}

static bool uneven_hosts(struct plan *p)
{
    give(p, 1, 0, 1, 0, 1);
    give(p, 3, 1, p->n_experts - 2, 0, 1);
    give(p, 2, p->n_experts - 2, p->n_experts, 0, 1);
    return true;
}

static bool a_slice_each(struct plan *p)
{
    for (uint32_t i = 0; i < p->n_segments; i++)
        give(p, 1 + i, 0, p->n_experts, i, p->n_segments);
    return p->n_segments >= 2;
}

static bool uneven_slices(struct plan *p)
{
    give(p, 1, 0, p->n_experts, 0, 3);
    give(p, 0, 0, p->n_experts, 1, 3);
    give(p, 2, 0, p->n_experts, 2, 3);
    return p->n_segments >= 3;
}

static bool replicas(struct plan *p)
{
    give(p, 1, 0, p->n_experts, 0, 1);
    give(p, 2, 0, p->n_experts, 0, 1);
    give(p, 3, 0, p->n_experts / 2, 0, 1);
    if (p->n_segments >= 2) {
        give(p, 4, 0, p->n_experts, 0, 2);
        give(p, 5, 0, p->n_experts, 1, 2);
    }
    return true;
}

/* Some are the stage's own, and the others alternate. */
static bool scattered(struct plan *p)
{
    give(p, 0, 0, p->n_experts / 4, 0, 1);
    give(p, 0, p->n_experts / 2, p->n_experts * 3 / 4, 0, 1);
    for (uint32_t x = 0; x < p->n_experts && p->n < MAX_PARTS; x++) {
        bool own = x < p->n_experts / 4 || (x >= p->n_experts / 2 && x < p->n_experts * 3 / 4);
        if (!own)
            give(p, 1 + x % 2, x, x + 1, 0, 1);
    }
    return p->n_experts <= 16;
}

static bool layers_apart(struct plan *p)
{
    give(p, 1, 0, p->n_experts, 0, 1);
    p->parts[0].layer_end = p->n_layers / 2;
    give(p, 2, 0, p->n_experts, 0, 1);
    p->parts[1].layer_first = p->n_layers / 2;
    return p->n_layers >= 2;
}

/* One worker has whole experts and a slice of the others, in two parts where it has both. */
static bool mixed(struct plan *p)
{
    give(p, 1, 0, p->n_experts / 2, 0, 2);
    give(p, 1, 0, p->n_experts / 2, 1, 2);
    give(p, 1, p->n_experts / 2, p->n_experts, 0, 2);
    give(p, 2, p->n_experts / 2, p->n_experts, 1, 2);
    return p->n_segments >= 2;
}

/* Both stages are hosts of the other. */
static bool each_other(struct plan *p)
{
    give(p, 0, 0, p->n_experts / 2, 0, 1);
    give(p, 1, p->n_experts / 2, p->n_experts, 0, 1);
    return p->n_layers >= 2;
}

static const struct {
    const char *name;
    bool (*make)(struct plan *plan); /* false: not of this model */
    uint32_t n_stages;
} plans[] = {
    {"two hosts", two_hosts, 1},
    {"four hosts, slices of two", four_hosts_of_slices, 1},
    {"uneven hosts", uneven_hosts, 1},
    {"a slice each", a_slice_each, 1},
    {"uneven slices", uneven_slices, 1},
    {"replicas", replicas, 1},
    {"scattered", scattered, 1},
    {"layers apart", layers_apart, 1},
    {"mixed", mixed, 1},
    {"two stages, hosts of each other", each_other, 2},
};
#define N_PLANS (sizeof plans / sizeof plans[0])

static struct plan make_plan(const struct shard_model *m, size_t i, bool *fits)
{
    struct plan plan = {.n_layers = m->n_layers,
                        .n_experts = m->n_experts,
                        .n_segments = shard_expert_segments(m->ff_expert).n};
    *fits = plans[i].make(&plan);
    return plan;
}

static void fill_ids(int32_t *ids, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)((i * 2654435761u >> 7) % 300);
}

/* Logits of the tokens in batches of `batch`; the sequence is forgotten. */
static void run(struct rig *rig, uint32_t n, uint32_t batch, float *logits)
{
    int32_t ids[N_TOKENS];
    fill_ids(ids, N_TOKENS);
    enum proto_status status = rig_feed(rig, 0, 0, ids, n, batch, logits, &error);
    if (status != PROTO_OK)
        printf("%s\n", error.text);
    CU_ASSERT_EQUAL(status, PROTO_OK);
    rig_drop(rig, 0);
}

static void check_plan(struct rig *rig, size_t i, bool in_file, const float *want)
{
    static const uint32_t batches[] = {1, 3, N_TOKENS};
    size_t n_vocab = rig->model->n_vocab;
    bool fits;
    struct plan plan = make_plan(rig->model, i, &fits);
    if (!fits)
        return;
    uint32_t ends[2] = {rig->model->n_layers / 2, rig->model->n_layers};
    float *got = calloc(N_TOKENS * n_vocab, sizeof *got);
    rig_start(rig, &(struct rig_options){.threads = 2,
                                         .max_rows = N_TOKENS,
                                         .in_file = in_file,
                                         .ends = ends + 2 - plans[i].n_stages,
                                         .n_stages = plans[i].n_stages,
                                         .parts = plan.parts,
                                         .n_parts = plan.n});
    for (size_t b = 0; b < 3; b++) {
        uint32_t n = batches[b] == 1 ? 8 : N_TOKENS;
        run(rig, n, batches[b], got);
        bool same = memcmp(got, want, n * n_vocab * sizeof *got) == 0;
        if (!same)
            printf("%s, %s, batches of %u: other bits\n", rig->model->arch, plans[i].name,
                   batches[b]);
        CU_ASSERT(same);
    }
    CU_ASSERT(rig->n_requests > 0);
    rig_stop(rig);
    free(got);
}

/* Experts that are packed as rows use them, a few at a time. */
static void check_in_file(struct rig *rig, const float *want)
{
    size_t bytes = N_TOKENS * (size_t)rig->model->n_vocab * sizeof(float);
    float *got = malloc(bytes);
    rig_start(rig, &(struct rig_options){.threads = 2, .max_rows = N_TOKENS, .in_file = true});
    CU_ASSERT_PTR_NOT_NULL(rig->stages[0].weights.lazy);
    run(rig, N_TOKENS, N_TOKENS, got);
    CU_ASSERT_EQUAL(memcmp(got, want, bytes), 0);
    rig_stop(rig);
    free(got);
    check_plan(rig, 1, true, want);
    check_plan(rig, N_PLANS - 1, true, want);
}

static void check_model(const char *path)
{
    struct rig rig;
    rig_open(&rig, path);
    float *want = calloc(N_TOKENS * (size_t)rig.model->n_vocab, sizeof *want);
    rig_start(&rig, &(struct rig_options){.threads = 2, .max_rows = N_TOKENS});
    run(&rig, N_TOKENS, N_TOKENS, want);
    rig_stop(&rig);
    for (size_t i = 0; i < N_PLANS; i++)
        check_plan(&rig, i, false, want);
    check_in_file(&rig, want);
    free(want);
    rig_close(&rig);
}

/* Made models: what is left of the list of settings is NULL. */
static const struct {
    const char *preset, *type;
    const char *sets[2];
} models[] = {
    {"llama4-scout-tiny", "F32", {NULL}},
    {"llama4-k", "Q4_K", {"ffe=1024", NULL}},
    {"llama4-maverick-tiny", "Q8_0", {"ffe=768", NULL}},
    {"mixtral-tiny", "Q8_0", {"ff=800", NULL}},
    {"qwen3moe-k", "Q4_K", {"ffe=512", "used=3"}},
    {"qwen3moe-k", "Q6_K", {"ffe=768", "used=5"}},
    {"qwen3moe-k", "Q8_0", {"ffe=1280", "used=4"}},
    {"qwen3moe-k", "MXFP4", {"ffe=288", "used=4"}},
    {"qwen3moe-tiny", "F16", {"ffe=320", NULL}},
    {"deepseek2-tiny", "F32", {"ffe=256", NULL}},
    {"gpt-oss-tiny", "F32", {"ffe=416", NULL}},
    {"gpt-oss-tiny", "Q8_0", {"ffe=512", NULL}},
    {"glm4moe-tiny", "Q4_0", {"ffe=1024", NULL}},
    {"qwen35moe-tiny", "F32", {"ffe=512", NULL}},
};
#define N_MODELS (sizeof models / sizeof models[0])

static char path[] = "/tmp/caravan-experts-XXXXXX";

static const char *make_model(const char *preset, const char *type, const char *const *sets,
                              size_t n_sets)
{
    struct shard_mkmodel_options options = {
        .preset = preset, .type = type, .seed = 3, .sets = sets, .n_sets = n_sets};
    char digest[65];
    enum proto_status status = shard_mkmodel(&options, path, digest, &error);
    if (status != PROTO_OK)
        printf("%s\n", error.text);
    CU_ASSERT_EQUAL_FATAL(status, PROTO_OK);
    return path;
}

static void test_models(void)
{
    for (size_t i = 0; i < N_MODELS; i++) {
        size_t n = 0;
        while (n < 2 && models[i].sets[n])
            n++;
        check_model(make_model(models[i].preset, models[i].type, models[i].sets, n));
    }
}

static void check_form(const char *preset, const char *type, const char *set,
                       struct model_form form)
{
    struct rig rig;
    char other[sizeof path + 2];
    snprintf(other, sizeof other, "%s.f", path);
    rig_open(&rig, make_model(preset, type, &set, 1));
    model_rewrite(rig.gguf, form, other);
    rig_close(&rig);
    check_model(other);
    unlink(other);
}

/* Experts in tensors of their own, gate and up in one, and experts beside a dense FFN. */
static void test_forms(void)
{
    check_form("mixtral-tiny", "Q8_0", "ff=768", (struct model_form){.split = true});
    check_form("mixtral-tiny", "Q4_0", "ff=512", (struct model_form){.fuse_experts = true});
    check_form("gpt-oss-tiny", "F32", "ffe=416", (struct model_form){.fuse_experts = true});
    check_model(SOURCE_DIR "/tests/golden/models/gemma4-experts/model.gguf");
}

/* Every instruction set: their kernels see the same segments. */
static void test_sets(void)
{
    struct rig rig;
    static const char *const sets[] = {"ffe=768", "used=4"};
    rig_open(&rig, make_model("qwen3moe-k", "Q5_K", sets, 2));
    size_t bytes = N_TOKENS * (size_t)rig.model->n_vocab * sizeof(float);
    float *want = malloc(bytes), *got = malloc(bytes);
    bool fits, first = true;
    struct plan plan = make_plan(rig.model, 3, &fits);
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa != KERN_N_ISAS; isa = kern_isa_next(isa)) {
        rig_start(&rig, &(struct rig_options){.max_rows = N_TOKENS,
                                              .isa = 1 + (int)isa,
                                              .parts = first ? NULL : plan.parts,
                                              .n_parts = plan.n});
        run(&rig, N_TOKENS, N_TOKENS, first ? want : got);
        CU_ASSERT(first || memcmp(got, want, bytes) == 0);
        first = false;
        rig_stop(&rig);
    }
    free(want);
    free(got);
    rig_close(&rig);
}

/* One frame a host and layer, and as many bytes as worker/expert_rows.h says. */
static void test_frames(void)
{
    struct rig rig;
    int32_t ids[N_TOKENS];
    static const char *const sets[] = {"ffe=1024", "used=2"};
    rig_open(&rig, make_model("qwen3moe-k", "Q4_K", sets, 2));
    bool fits;
    struct plan plan = make_plan(rig.model, 3, &fits);
    float *logits = malloc(N_TOKENS * (size_t)rig.model->n_vocab * sizeof *logits);
    fill_ids(ids, N_TOKENS);
    rig_start(&rig, &(struct rig_options){.parts = plan.parts, .n_parts = plan.n});
    CU_ASSERT_EQUAL(rig_feed(&rig, 0, 0, ids, 40, 40, logits, &error), PROTO_OK);
    CU_ASSERT_EQUAL(rig.n_requests, 2 * 4);
    /* n_embd 256: a record of 256 + 32 + 4 bytes, up to 64; 2 experts in one group a row. */
    CU_ASSERT_EQUAL(rig.request_bytes, 2 * 4 * (16 + 40 * (320 + 3 * 8)));
    CU_ASSERT_EQUAL(rig.answer_bytes, 2 * 4 * 40 * 256 * 4);
    free(logits);
    rig_close(&rig);
}

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
    int32_t ids[N_TOKENS];
    static const char *const sets[] = {"ffe=512", "used=4"};
    fill_ids(ids, N_TOKENS);
    rig_open(&rig, make_model("qwen3moe-k", "Q4_K", sets, 2));
    float *logits = malloc(N_TOKENS * (size_t)rig.model->n_vocab * sizeof *logits);
    for (int i = 0; i < N_TAMPERS; i++) {
        bool fits;
        struct plan plan = make_plan(rig.model, 0, &fits);
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
    rig_open(&rig, make_model("qwen3moe-k", "Q4_K", sets, 2));
    bool fits;
    struct plan plan = make_plan(rig.model, 0, &fits);
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

/* Of experts 1, 2 and 6 of 8, the first two come together, and then the third; of 2, 4 and 5, the
 * last two. 2^24 + 1 is 2^24 in floats. */
static void test_order(void)
{
    const struct kern_table *table = kern_table_get(KERN_ISA_PORTABLE);
    _Alignas(64) float big[16] = {0x1p24f}, one[16] = {1.0f}, other[16] = {1.0f};
    struct worker__term terms[3] = {{1, big}, {2, one}, {6, other}};
    CU_ASSERT(worker__sum_terms(table, terms, 3, 0, 8, 1)[0] == 0x1p24f);
    big[0] = 0x1p24f;
    terms[0].number = 2;
    terms[1].number = 4;
    terms[2].number = 5;
    CU_ASSERT(worker__sum_terms(table, terms, 3, 0, 8, 1)[0] == 0x1p24f + 2.0f);
    CU_ASSERT_EQUAL(worker__segment_nodes(4, 0, 4), 1);
    CU_ASSERT_EQUAL(worker__segment_nodes(4, 1, 4), 2);
    CU_ASSERT_EQUAL(worker__segment_nodes(3, 0, 2), 2);
    CU_ASSERT_EQUAL(worker__segment_node(3, 1, 3), 3);
    struct shard_segments s = shard_expert_segments(2880);
    CU_ASSERT(s.n == 4 && s.at[1] == 704 && s.at[2] == 1440 && s.at[4] == 2880);
    s = shard_expert_segments(768);
    CU_ASSERT(s.n == 3 && s.at[1] == 256 && s.at[3] == 768);
    CU_ASSERT_EQUAL(shard_expert_segments(224).n, 1);
    CU_ASSERT_EQUAL(shard_expert_segments(300).n, 1);
}

static enum proto_status cut(const struct shard_model *m, const struct plan *plan)
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
    rig_open(&rig, make_model("qwen3moe-k", "Q4_K", sets, 2));
    bool fits;
    struct plan good = make_plan(rig.model, 0, &fits), bad = good;
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

/* A host takes no more memory for weights than its share, nor the stage more than the rest. */
static void test_memory(void)
{
    struct rig rig;
    rig_open(&rig, make_model("llama4-k", "Q4_K", NULL, 0));
    bool fits;
    struct plan plan = make_plan(rig.model, 0, &fits);
    uint64_t sum = 0, whole;
    rig_start(&rig, &(struct rig_options){.max_rows = 8});
    whole = shard_program_weight_bytes(rig.stages[0].program);
    rig_stop(&rig);
    rig_start(&rig, &(struct rig_options){.max_rows = 8, .parts = plan.parts, .n_parts = plan.n});
    sum = shard_program_weight_bytes(rig.stages[0].program);
    for (int w = 1; w <= 2; w++)
        sum += shard_program_weight_bytes(rig.hosts[w].program);
    CU_ASSERT_EQUAL(sum, whole);
    CU_ASSERT_EQUAL(shard_program_weight_bytes(rig.hosts[1].program),
                    shard_program_weight_bytes(rig.hosts[2].program));
    CU_ASSERT(worker_expert_host_bytes(rig.hosts[1].program, 8) > 0);
    rig_close(&rig);
}

int main(void)
{
    int fd = mkstemp(path);
    if (fd < 0)
        return 1;
    close(fd);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("experts", NULL, NULL);
    CU_add_test(suite, "same bits wherever they are", test_models);
    CU_add_test(suite, "other forms of models", test_forms);
    CU_add_test(suite, "every instruction set", test_sets);
    CU_add_test(suite, "frames and bytes", test_frames);
    CU_add_test(suite, "hostile answers", test_hostile_answers);
    CU_add_test(suite, "hostile requests", test_hostile_requests);
    CU_add_test(suite, "order of additions", test_order);
    CU_add_test(suite, "plans refused", test_plans_refused);
    CU_add_test(suite, "memory", test_memory);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    unlink(path);
    return failures != 0;
}
