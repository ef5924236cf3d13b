/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shard/plan/search.h"
#include "tests/shard/planned.h"

#define CLUSTERS 200
#define SLACK    1.05

static struct proto_error error;

/* ---- chance ---- */

static uint64_t state;

static uint32_t below(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % n);
}

static double between(double low, double high)
{
    return low * pow(high / low, below(10001) / 10000.0);
}

/* ---- the best of all, by trying them ---- */

struct reference {
    const struct plan_shape *shape;
    const struct plan_cluster *cluster;
    const struct plan_options *options;
    uint32_t n_seats;
    struct {
        uint32_t machine;
        enum plan_device_kind kind;
    } seats[6];
    struct plan_placement *placement;
    double best;
};

static void try_placement(struct reference *r)
{
    struct plan_cost cost;
    plan_placement_measure(r->placement, r->shape, r->cluster);
    if (plan_placement_check(r->placement, r->shape, r->cluster, &error) != PROTO_OK)
        return;
    plan_cost_estimate(&cost, NULL, r->placement, r->shape, r->cluster, &r->options->load, &error);
    r->best = fmin(r->best, plan_objective(&cost, r->options->aim));
}

static uint32_t owner(const struct reference *r, uint32_t layer)
{
    return r->placement->stages[plan_placement_stage(r->placement, layer)].worker;
}

static void put_part(struct reference *r, uint32_t seat, uint32_t layer, uint32_t first,
                     uint32_t end, uint32_t slice, uint32_t n_slices)
{
    struct plan_placement *p = r->placement;
    uint32_t w = plan_placement_worker(p, r->seats[seat].machine, r->seats[seat].kind);
    if (n_slices == 1 && w == owner(r, layer))
        return;
    p->parts[p->n_parts++] =
        (struct shard_expert_part){w, layer, layer + 1, first, end, slice, n_slices};
}

/* Experts of all layers in ranges over the seats, the rest on the stage. */
static void try_ranges(struct reference *r, uint32_t seat, uint32_t *ends)
{
    uint32_t n_experts = r->shape->layers[0].n_experts, known = r->placement->n_workers;
    if (seat < r->n_seats) {
        for (uint32_t end = seat ? ends[seat - 1] : 0; end <= n_experts; end++) {
            ends[seat] = end;
            try_ranges(r, seat + 1, ends);
        }
        return;
    }
    for (uint32_t il = 0; il < r->shape->n_layers; il++) {
        for (uint32_t i = 0, first = 0; i < r->n_seats; first = ends[i++]) {
            if (ends[i] > first)
                put_part(r, i, il, first, ends[i], 0, 1);
        }
    }
    try_placement(r);
    r->placement->n_parts = 0;
    r->placement->n_workers = known;
}

/* Each layer's experts whole on a seat of their own choice, or in slices on any two. */
static void try_layers(struct reference *r, uint32_t layer)
{
    uint32_t known = r->placement->n_workers, parts = r->placement->n_parts;
    uint32_t n_experts = r->shape->layers[0].n_experts;
    if (layer == r->shape->n_layers) {
        try_placement(r);
        return;
    }
    for (uint32_t i = 0; i < r->n_seats; i++) {
        put_part(r, i, layer, 0, n_experts, 0, 1);
        try_layers(r, layer + 1);
        r->placement->n_parts = parts;
        r->placement->n_workers = known;
        for (uint32_t j = 0; j < i; j++) {
            put_part(r, i, layer, 0, n_experts, 0, 2);
            put_part(r, j, layer, 0, n_experts, 1, 2);
            try_layers(r, layer + 1);
            r->placement->n_parts = parts;
            r->placement->n_workers = known;
        }
    }
}

static void try_experts(struct reference *r)
{
    uint32_t ends[6];
    if (r->shape->layers[0].n_experts == 0) {
        try_placement(r);
        return;
    }
    try_ranges(r, 0, ends);
    try_layers(r, 0);
}

/* All orders of all sets of seats, with all splits of the layers. */
static void try_stages(struct reference *r, uint32_t used)
{
    struct plan_placement *p = r->placement;
    uint32_t first = p->n_stages ? p->stages[p->n_stages - 1].layer_end : 0;
    if (first == r->shape->n_layers) {
        try_experts(r);
        return;
    }
    for (uint32_t i = 0; i < r->n_seats; i++) {
        for (uint32_t end = first + 1; end <= r->shape->n_layers && !(used & 1u << i); end++) {
            uint32_t known = p->n_workers;
            add_stage(p, r->shape, r->seats[i].machine, r->seats[i].kind, end);
            try_stages(r, used | 1u << i);
            p->n_stages--;
            p->n_workers = known;
        }
    }
}

static double best_of_all(const struct plan_shape *shape, const struct plan_cluster *cluster,
                          const struct plan_options *options)
{
    struct reference r = {.shape = shape,
                          .cluster = cluster,
                          .options = options,
                          .placement = new_placement(),
                          .best = INFINITY};
    for (uint32_t i = 0; i < cluster->n_machines; i++) {
        for (int kind = 0; kind < PLAN_N_DEVICES; kind++) {
            if (!cluster->machines[i].device[kind].memory_bytes)
                continue;
            r.seats[r.n_seats].machine = i;
            r.seats[r.n_seats++].kind = (enum plan_device_kind)kind;
        }
    }
    try_stages(&r, 0);
    plan_placement_destroy(r.placement);
    return r.best;
}

/* ---- small clusters ---- */

static struct plan_named_link links[16];

static void random_cluster(struct made_cluster *made, uint32_t n, double gb)
{
    make_cluster(made, n, gb, 40);
    for (uint32_t i = 0; i < n; i++) {
        struct plan_machine *m = &made->machines[i];
        m->device[PLAN_CPU].memory_bytes = (uint64_t)(between(gb / 3, gb * 2) * 1e9);
        m->device[PLAN_CPU].read_bytes_s = between(10e9, 100e9);
        m->device[PLAN_CPU].ops_rows_s = between(0.3e12, 5e12);
        m->device[PLAN_CPU].ops_row_s = m->device[PLAN_CPU].ops_rows_s / 3;
        m->overhead_s = between(1e-6, 1e-3);
        m->request_s = between(1e-6, 3e-4);
    }
    if (n < 3 && below(2))
        make_gpu(made, below(n), gb / 4, 400);
    if (below(2))
        made->machines[below(n)].coordinator = true;
    made->cluster.any.rtt_s = between(0.05e-3, 5e-3);
    made->cluster.any.bytes_s = between(10e6, 1250e6);
    if (n >= 2 && below(2)) {
        struct plan_link link = {between(0.05e-3, 5e-3), between(10e6, 1250e6)};
        links[0] = (struct plan_named_link){0, 1, link};
        links[1] = (struct plan_named_link){1, 0, link};
        made->cluster.links = links;
        made->cluster.n_links = 2;
    }
}

static struct plan_shape *random_shape(uint32_t n_machines, double *gb)
{
    bool moe = below(4) != 0;
    uint32_t layers = moe ? (n_machines < 3 ? 3 + below(2) : 3) : 3 + below(4);
    uint64_t weights = (uint64_t)between(10e6, 400e6), expert = (uint64_t)between(20e6, 400e6);
    struct plan_shape *shape =
        made_shape(layers, weights, moe ? 4 : 0, moe ? 1 + below(2) : 0, moe ? expert : 0);
    shape->options.max_seqs = 1 + below(8);
    if (below(2)) {
        for (uint32_t il = 0; il < layers; il++) {
            shape->layers[il].beside_bytes = weights / 4;
            shape->layers[il].beside_ops = shape->layers[il].ops / 4;
        }
    }
    *gb = (double)plan_shape_weight_bytes(shape) * between(0.9, 3) / n_machines / 1e9;
    return shape;
}

/* Never more than 5% worse than the best of all. */
static void test_near_best(void)
{
    uint32_t none = 0;
    double worst = 0, sum = 0;
    state = 5;
    for (uint32_t i = 0; i < CLUSTERS; i++) {
        struct made_cluster made;
        struct plan_answer *answer;
        struct plan_options options = {.aim = (enum plan_aim)(i % 3)};
        uint32_t n = 1 + below(3);
        double gb, found = INFINITY;
        struct plan_shape *shape = random_shape(n, &gb);
        random_cluster(&made, n, gb);
        double best = best_of_all(shape, &made.cluster, &options);
        if (plan_search(&answer, shape, &made.cluster, &options, &error) == PROTO_OK) {
            CU_ASSERT_EQUAL(plan_placement_check(answer->placement, shape, &made.cluster, &error),
                            PROTO_OK);
            found = plan_objective(&answer->cost, options.aim);
            plan_answer_destroy(answer);
        } else {
            CU_ASSERT_EQUAL(error.status, PROTO_CAPACITY);
        }
        none += isinf(best);
        if (!isinf(best)) {
            worst = fmax(worst, found / best);
            sum += found / best;
            if (found > best * SLACK)
                printf("cluster %u: %g, the best is %g\n", i, found, best);
            CU_ASSERT(found <= best * SLACK);
        }
        destroy_shape(shape);
    }
    printf("worst %.4f, mean %.4f, %u do not fit: ", worst, sum / (CLUSTERS - none), none);
    CU_ASSERT(none > 5 && none < CLUSTERS / 2);
}

/* ---- what is asked for ---- */

static const struct plan_shape_options sizes = {
    .kv = KERN_KV_F16, .ctx = 4096, .max_seqs = 1, .max_rows = 512};

static struct plan_answer *search(const struct plan_shape *shape, const struct made_cluster *made,
                                  const struct plan_options *options)
{
    struct plan_answer *answer = NULL;
    if (plan_search(&answer, shape, &made->cluster, options, &error) != PROTO_OK)
        return NULL;
    CU_ASSERT_EQUAL(plan_placement_check(answer->placement, shape, &made->cluster, &error),
                    PROTO_OK);
    return answer;
}

static uint32_t last_machine(const struct plan_answer *a)
{
    const struct plan_placement *p = a->placement;
    return p->workers[p->stages[p->n_stages - 1].worker].machine;
}

/* The design's cluster: the trunk on the GPU, the experts on the others, better than layers alone.
 */
static void test_maverick(void)
{
    struct plan_shape *shape = preset_shape("maverick", "Q4_K", &sizes);
    struct made_cluster made;
    make_cluster(&made, 6, 64, 40);
    make_gpu(&made, 2, 12, 360);
    made.machines[4].coordinator = true;
    struct plan_options options = {.aim = PLAN_LATENCY};
    struct plan_answer *best = search(shape, &made, &options);
    options.split = PLAN_SPLIT_LAYERS;
    struct plan_answer *layers = search(shape, &made, &options);
    options.cpu_only = true;
    struct plan_answer *cpu = search(shape, &made, &options);
    CU_ASSERT_FATAL(best && layers && cpu);
    CU_ASSERT(1 / best->cost.decode_s > 15);
    CU_ASSERT_EQUAL(best->placement->n_stages, 1);
    CU_ASSERT_EQUAL(best->placement->workers[best->placement->stages[0].worker].device, PLAN_GPU);
    CU_ASSERT_EQUAL(layers->placement->n_parts, 0);
    CU_ASSERT(best->cost.decode_s < 0.5 * layers->cost.decode_s);
    CU_ASSERT_FALSE(plan_placement_uses_gpu(cpu->placement));
    CU_ASSERT_DOUBLE_EQUAL(1 / cpu->cost.decode_s, 4.2, 0.2);
    /* The CPUs are alike, so the head is where the coordinator is. */
    CU_ASSERT_EQUAL(last_machine(cpu), 4);
    plan_answer_destroy(best);
    plan_answer_destroy(layers);
    plan_answer_destroy(cpu);
    destroy_shape(shape);
}

static void test_forced(void)
{
    struct plan_shape *shape = preset_shape("qwen3moe-3b", "Q4_K", &sizes);
    struct made_cluster made;
    make_cluster(&made, 6, 8, 40);
    struct plan_options options = {.split = PLAN_SPLIT_EXPERTS, .slices = 2, .stages = 2};
    struct plan_answer *a = search(shape, &made, &options);
    CU_ASSERT_PTR_NOT_NULL_FATAL(a);
    CU_ASSERT_EQUAL(a->placement->n_stages, 2);
    CU_ASSERT(a->placement->n_parts >= 2);
    for (uint32_t i = 0; i < a->placement->n_parts; i++)
        CU_ASSERT_EQUAL(a->placement->parts[i].n_slices, 2);
    plan_answer_destroy(a);

    options = (struct plan_options){.split = PLAN_SPLIT_EXPERTS, .replicas = 2, .stages = 1};
    a = search(shape, &made, &options);
    CU_ASSERT_PTR_NOT_NULL_FATAL(a);
    for (uint32_t i = 0; i + 1 < a->placement->n_parts; i += 2) {
        const struct shard_expert_part *one = &a->placement->parts[i], *two = one + 1;
        CU_ASSERT_EQUAL(one->expert_first, two->expert_first);
        CU_ASSERT_NOT_EQUAL(one->worker, two->worker);
    }
    plan_answer_destroy(a);

    static const struct plan_options bad[] = {{.stages = 17}, {.slices = 5}, {.replicas = 7}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CU_ASSERT_PTR_NULL(search(shape, &made, &bad[i]));
        CU_ASSERT_EQUAL(error.status, PROTO_INVALID);
    }
    destroy_shape(shape);
}

/* A slow machine behind a slow link is left out, and it is said why. */
static void test_left_out(void)
{
    struct plan_shape *shape = preset_shape("llama-1b", "Q8_0", &sizes);
    struct made_cluster made;
    make_cluster(&made, 2, 4, 60);
    snprintf(made.machines[1].name, sizeof made.machines[1].name, "tortoise");
    made.machines[1].device[PLAN_CPU].read_bytes_s = 5e9;
    struct plan_answer *a = search(shape, &made, &(struct plan_options){0});
    CU_ASSERT_PTR_NOT_NULL_FATAL(a);
    CU_ASSERT_EQUAL_FATAL(a->n_idle, 1);
    CU_ASSERT_EQUAL(a->idle[0].machine, 1);
    CU_ASSERT(a->idle[0].loss > 0.05);
    CU_ASSERT_PTR_NOT_NULL(strstr(a->idle[0].why, "with tortoise it would be"));
    plan_answer_destroy(a);
    destroy_shape(shape);
}

static const struct plan_type types[] = {
    {"Q2_K", 2.63}, {"Q4_0", 4.5}, {"Q8_0", 8.5}, {"Q3_K", 3.44}, {"F16", 16}};

static void test_does_not_fit(void)
{
    struct plan_shape *shape = preset_shape("llama-1b", "Q8_0", &sizes);
    const struct plan_options options = {.types = types, .n_types = 5};
    struct made_cluster made;
    make_cluster(&made, 2, 0.5, 40);
    CU_ASSERT_PTR_NULL(search(shape, &made, &options));
    CU_ASSERT_EQUAL(error.status, PROTO_CAPACITY);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "are missing"));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "take it as Q4_0"));
    CU_ASSERT_EQUAL(plan_largest_type(shape, &made.cluster, &options), 1);
    CU_ASSERT_EQUAL(plan_largest_context(shape, &made.cluster, &options), 0);

    /* What is recommended fits. */
    struct plan_shape *smaller;
    CU_ASSERT_EQUAL(plan_shape_scaled(&smaller, shape, 4.5, &error), PROTO_OK);
    struct plan_answer *a = search(smaller, &made, &options);
    CU_ASSERT_PTR_NOT_NULL(a);
    plan_answer_destroy(a);
    plan_shape_destroy(smaller);

    make_cluster(&made, 1, 0.05, 40);
    CU_ASSERT_PTR_NULL(search(shape, &made, &options));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "no type is small enough"));
    destroy_shape(shape);

    struct plan_shape_options far = sizes;
    far.ctx = 1u << 20;
    shape = preset_shape("llama-1b", "Q8_0", &far);
    make_cluster(&made, 2, 2, 40);
    CU_ASSERT_PTR_NULL(search(shape, &made, &options));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "(--ctx "));
    destroy_shape(shape);
}

static const struct plan_change *change_of(const struct plan_change *changes, uint32_t n,
                                           enum plan_change_kind kind, int type)
{
    for (uint32_t i = 0; i < n; i++) {
        if (changes[i].kind == kind && changes[i].type == type)
            return &changes[i];
    }
    return NULL;
}

/* One machine reads all weights for each token: fewer bits help in proportion, a second machine
 * does not, and without it nothing fits. */
static void test_advice(void)
{
    struct plan_shape *shape = preset_shape("llama-1b", "Q8_0", &sizes);
    struct plan_options options = {.types = types, .n_types = 5};
    struct made_cluster made;
    struct plan_change changes[16];
    uint32_t n = 16;
    make_cluster(&made, 2, 4, 40);
    made.machines[1].device[PLAN_CPU].memory_bytes = 300000000;
    struct plan_answer *a = search(shape, &made, &options);
    CU_ASSERT_PTR_NOT_NULL_FATAL(a);
    CU_ASSERT_EQUAL(plan_advise(changes, &n, a, shape, &made.cluster, &options, &error), PROTO_OK);
    for (uint32_t i = 0; i + 1 < n; i++)
        CU_ASSERT(!changes[i + 1].fits || changes[i].gain >= changes[i + 1].gain);
    const struct plan_change *half = change_of(changes, n, PLAN_OTHER_TYPE, 1);
    const struct plan_change *same = change_of(changes, n, PLAN_OTHER_TYPE, 2);
    const struct plan_change *more = change_of(changes, n, PLAN_MORE_MACHINES, -1);
    const struct plan_change *without = change_of(changes, n, PLAN_WITHOUT_MACHINE, -1);
    CU_ASSERT_FATAL(half && more && without && !same);
    CU_ASSERT(half->gain > 0.5 && half->gain < 0.9);
    CU_ASSERT(more->gain < 0.2);
    CU_ASSERT(!without->fits);
    plan_answer_destroy(a);

    /* Where nothing fits, what makes it fit comes first. */
    make_cluster(&made, 1, 0.8, 40);
    n = 16;
    CU_ASSERT_PTR_NULL(search(shape, &made, &options));
    CU_ASSERT_EQUAL(plan_advise(changes, &n, NULL, shape, &made.cluster, &options, &error),
                    PROTO_OK);
    CU_ASSERT_FATAL(n > 2);
    CU_ASSERT(changes[0].fits && !changes[n - 1].fits);
    CU_ASSERT_STRING_EQUAL(changes[n - 1].text, "the model as F16");
    destroy_shape(shape);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("plan search", NULL, NULL);
    CU_add_test(suite, "near the best of all", test_near_best);
    CU_add_test(suite, "Maverick", test_maverick);
    CU_add_test(suite, "what is asked for", test_forced);
    CU_add_test(suite, "machines left out", test_left_out);
    CU_add_test(suite, "does not fit", test_does_not_fit);
    CU_add_test(suite, "advice", test_advice);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
