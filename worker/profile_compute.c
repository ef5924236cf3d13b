/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products are cut into chunks as the executor cuts them, over one large buffer that is packed anew
 * for each type: a few panels of seeded weights, repeated.
 */
#include "worker/profile_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/bandwidth.h"
#include "kernels/machine.h"
#include "worker/cut.h"

#define K           2048u /* of the products */
#define MANY_ROWS   512u
#define SEED_PANELS 8u
#define READ_ROUNDS 16u
#define READ_S      0.15
#define MOST_PASSES 1024u
#define ROW_PASSES  16u   /* passes of one row over all weights */
#define ROW_S       0.04  /* for which a measurement goes on */
#define PROBE_S     0.004 /* that looks whether it would take long */
#define ROWS_S      0.05
#define ATTENTION_S 0.08
#define MEETINGS    128u
#define MEETINGS_S  0.06
#define MEET_S      0.0005 /* for which threads wait for one another on a machine that is busy */

/* Of those that models come in; of others the planner thinks as of the slowest of these. */
static const enum kern_type types[] = {KERN_Q8_0,  KERN_Q4_0,   KERN_Q4_K,    KERN_Q6_K,
                                       KERN_Q2_K,  KERN_F16,    KERN_IQ2_XXS, KERN_Q3_K,
                                       KERN_Q5_K,  KERN_IQ4_XS, KERN_MXFP4,   KERN_IQ3_XXS,
                                       KERN_IQ3_S, KERN_IQ2_XS, KERN_IQ1_S,   KERN_BF16};

struct bench {
    const struct worker_profile_options *options;
    const struct kern_type_info *type;
    const struct worker__profile_memory *memory;
    uint8_t *weights, *x;
    float *y;
    size_t bytes; /* of weights */
    size_t x_bytes;
    /* The product at hand. */
    size_t n_panels, panel_bytes, chunk_panels, n_rows, block_rows;
    size_t first_panel; /* of a pass, which covers n_panels */
};

double worker__profile_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double worker__profile_median(double *times, size_t n)
{
    qsort(times, n, sizeof *times, by_value);
    return times[n / 2];
}

/* Seconds of a typical pass of those that fit into `budget_s`; one at least, and where the machine
 * is busy three within as many times the budget. next(arg), unless it is NULL, is called between
 * two. */
static double typical_pass(kern_pool_fn *fn, void *arg,
                           const struct worker_profile_options *options, size_t n_items,
                           double budget_s, void (*next)(void *arg))
{
    double start = worker__profile_now(), before = start, spent = 0, times[MOST_PASSES];
    size_t n = 0;
    while (n < MOST_PASSES && (spent < budget_s || (n < 3 && spent < 3 * budget_s)) &&
           !worker__profile_cancelled(options)) {
        kern_pool_run(options->pool, n_items, 1, fn, arg);
        times[n++] = worker__profile_now() - before;
        if (next)
            next(arg);
        before = worker__profile_now();
        spent = before - start;
    }
    return n ? fmax(worker__profile_median(times, n), 1e-9) : 1;
}

/* ---- products ---- */

/* Bytes 0x20 to 0x3b wherever a type has its scales make halves that are positive and normal. */
static void seed_bytes(uint8_t *bytes, size_t n)
{
    uint32_t random = 1;
    for (size_t i = 0; i < n; i++) {
        random = random * 1664525u + 1013904223u;
        bytes[i] = (uint8_t)(0x20 + (random >> 16) % 28);
    }
}

static void repeat_panels(void *arg, size_t first, size_t last, unsigned thread)
{
    (void)thread;
    const struct bench *b = arg;
    for (size_t i = first; i < last; i++)
        memcpy(b->weights + (i + SEED_PANELS) * b->panel_bytes,
               b->weights + i % SEED_PANELS * b->panel_bytes, b->panel_bytes);
}

static enum proto_status pack_weights(struct bench *b, struct proto_error *error)
{
    size_t rows = SEED_PANELS * KERN_PANEL, bytes = kern_type_bytes(b->type, rows * K);
    uint8_t *file = malloc(bytes);
    if (!file)
        return proto_fail_nomem(error, bytes, "measuring products");
    seed_bytes(file, bytes);
    kern_pack(b->type, b->weights, file, rows, K);
    free(file);
    b->panel_bytes = kern_panel_bytes(b->type, K);
    kern_pool_run(b->options->pool, b->bytes / b->panel_bytes - SEED_PANELS, 0, repeat_panels, b);
    return PROTO_OK;
}

static void quantize_rows(struct bench *b)
{
    float row[K];
    b->x_bytes = kern_act_bytes(b->type->act, K);
    for (size_t i = 0; i < K; i++)
        row[i] = (float)((i * 2654435761u >> 7) % 2001) / 1000.0f - 1.0f;
    for (size_t r = 0; r < MANY_ROWS; r++)
        b->options->table->quantize[b->type->act](b->x + r * b->x_bytes, row, K, 1, K);
}

static void multiply(void *arg, size_t first, size_t last, unsigned thread)
{
    (void)thread;
    const struct bench *b = arg;
    size_t ldy = b->n_rows > 1 ? b->n_panels * KERN_PANEL : 0;
    for (size_t i = first; i < last; i++) {
        size_t panel = i * b->chunk_panels, end = panel + b->chunk_panels;
        end = end < b->n_panels ? end : b->n_panels;
        for (size_t r = 0; r < b->n_rows; r += b->block_rows) {
            size_t n = b->n_rows - r < b->block_rows ? b->n_rows - r : b->block_rows;
            b->options->table->matmul[b->type->type](
                b->y + r * ldy + panel * KERN_PANEL, ldy,
                b->weights + (b->first_panel + panel) * b->panel_bytes, end - panel,
                b->x + r * b->x_bytes, b->x_bytes, n, K);
        }
    }
}

/* The panels behind those of the pass before, which the caches may still hold. */
static void next_panels(void *arg)
{
    struct bench *b = arg;
    b->first_panel += b->n_panels;
    if (b->first_panel + b->n_panels <= b->bytes / b->panel_bytes)
        return;
    b->first_panel = 0;
    worker__profile_scrub(b->memory, b->options->pool);
}

/* Operations a second of n_rows rows by n_panels panels, in passes until the budget is spent. */
static double rate_of(struct bench *b, size_t n_rows, size_t n_panels, double budget_s)
{
    const struct kern_table *table = b->options->table;
    b->first_panel = 0;
    b->n_rows = n_rows;
    b->n_panels = n_panels;
    b->chunk_panels = worker_cut_panels(table, b->type->type, b->panel_bytes, n_panels, n_rows,
                                        kern_pool_threads(b->options->pool));
    b->block_rows = worker_cut_rows(table, b->type->type, b->x_bytes, n_rows);
    size_t chunks = (n_panels + b->chunk_panels - 1) / b->chunk_panels;
    double seconds = typical_pass(multiply, b, b->options, chunks, budget_s, next_panels);
    return 2.0 * (double)n_rows * (double)n_panels * KERN_PANEL * K / seconds;
}

/* The same; where the kernels are so slow that a few of the panels take long, by these. */
static double product_rate(struct bench *b, size_t n_rows, size_t n_panels, double budget_s)
{
    size_t threads = kern_pool_threads(b->options->pool);
    size_t few = n_rows == 1 ? n_panels / 8 : threads;
    if (few < n_panels) {
        double rate = rate_of(b, n_rows, few ? few : 1, PROBE_S);
        if (2.0 * (double)n_rows * (double)n_panels * KERN_PANEL * K / rate > budget_s)
            return rate;
    }
    return rate_of(b, n_rows, n_panels, budget_s);
}

/* Panels of the product of many rows: chunks enough that no thread waits long for the last. */
static size_t many_panels(const struct worker_profile_options *options)
{
    size_t panels = 8 * (size_t)kern_pool_threads(options->pool);
    return panels < 32 ? 32 : panels;
}

static enum proto_status measure_type(struct bench *b, enum kern_type type,
                                      struct proto_profile *out, struct proto_error *error)
{
    b->type = kern_type_find(type);
    size_t all = b->bytes / kern_panel_bytes(b->type, K), many = many_panels(b->options);
    enum proto_status status = pack_weights(b, error);
    if (status)
        return status;
    quantize_rows(b);
    out->types[out->n_types++] = (struct proto_type_rate){
        .type = type,
        .row_ops_s = product_rate(b, 1, all / ROW_PASSES, ROW_S),
        .rows_ops_s = product_rate(b, MANY_ROWS, many < all ? many : all, ROWS_S)};
    return PROTO_OK;
}

/* Of the first n types. */
static enum proto_status measure_products(struct proto_profile *out, size_t n,
                                          const struct worker__profile_memory *memory,
                                          const struct worker_profile_options *options,
                                          struct proto_error *error)
{
    struct bench b = {
        .options = options, .memory = memory, .weights = memory->bytes, .bytes = memory->n};
    /* One row of all panels, or many of a few; of the type whose panels are smallest. */
    size_t panels = b.bytes / kern_panel_bytes(kern_type_find(KERN_IQ1_S), K);
    size_t many = many_panels(options) * MANY_ROWS, y_floats = panels > many ? panels : many;
    size_t y_bytes = y_floats * KERN_PANEL * sizeof(float);
    size_t x_bytes = MANY_ROWS * kern_act_bytes(KERN_ACT_F32, K);
    enum proto_status status = PROTO_OK;
    b.x = aligned_alloc(64, x_bytes);
    b.y = aligned_alloc(64, y_bytes);
    if (!b.x || !b.y)
        status = proto_fail_nomem(error, x_bytes + y_bytes, "measuring products");
    for (size_t i = 0; i < n && !status; i++)
        status = worker__profile_cancelled(options) ? worker__profile_fail_cancelled(error)
                                                    : measure_type(&b, types[i], out, error);
    free(b.x);
    free(b.y);
    return status;
}

/* ---- attention ---- */

/* A head's width, query heads of a KV head, KV heads, and positions before a row. */
enum { DIM = 128, QUERIES = 4, HEADS = 8, POSITIONS = 1024 };

struct attention {
    const struct kern_table *table;
    float *kv, *out, *scores; /* keys, then values, of each head; of each thread */
    const float *q;
};

static void attend(void *arg, size_t first, size_t last, unsigned thread)
{
    const struct attention *a = arg;
    for (size_t i = first; i < last; i++) {
        const void *keys = a->kv + i % HEADS * (2 * POSITIONS * DIM);
        const void *values = (const float *)keys + POSITIONS * DIM;
        struct kern_span all = {0, POSITIONS - 1};
        struct kern_attention call = {.out = a->out + (size_t)thread * QUERIES * DIM,
                                      .q = a->q,
                                      .spans = &all,
                                      .n_rows = 1,
                                      .k_pages = &keys,
                                      .v_pages = &values,
                                      .scores = a->scores + (size_t)thread * QUERIES * POSITIONS,
                                      .n_q = QUERIES,
                                      .dim_k = DIM,
                                      .dim_v = DIM,
                                      .page_rows = POSITIONS,
                                      .scale = 0.09f,
                                      .kv = KERN_KV_F32};
        a->table->attention(&call);
    }
}

/* A query and a position cost 2 DIM operations for the score and as many for the sum. */
static enum proto_status measure_attention(struct proto_profile *out,
                                           const struct worker_profile_options *options,
                                           struct proto_error *error)
{
    static const _Alignas(64) float q[QUERIES * DIM];
    size_t threads = kern_pool_threads(options->pool);
    size_t kv = (size_t)HEADS * 2 * POSITIONS * DIM, scratch = threads * QUERIES * POSITIONS;
    size_t bytes = (kv + scratch + threads * QUERIES * DIM) * sizeof(float);
    float *memory = aligned_alloc(64, bytes);
    if (!memory)
        return proto_fail_nomem(error, bytes, "measuring attention");
    for (size_t i = 0; i < kv; i++)
        memory[i] = (float)(i % 251) / 251.0f - 0.5f;
    struct attention a = {.table = options->table,
                          .kv = memory,
                          .scores = memory + kv,
                          .out = memory + kv + scratch,
                          .q = q};
    size_t items = 4 * (threads < HEADS ? HEADS : threads);
    double seconds = typical_pass(attend, &a, options, items, ATTENTION_S, NULL);
    out->float_ops_s = 4.0 * (double)items * QUERIES * DIM * POSITIONS / seconds;
    free(memory);
    return PROTO_OK;
}

/* ---- the pool ---- */

/* Where every thread has one item, none is done before all have begun. */
struct meeting {
    size_t expected;
    atomic_size_t there;
};

static void meet(void *arg, size_t first, size_t last, unsigned thread)
{
    (void)thread;
    struct meeting *meeting = arg;
    double start = worker__profile_now();
    atomic_fetch_add(&meeting->there, last - first);
    while (atomic_load(&meeting->there) < meeting->expected &&
           worker__profile_now() - start < MEET_S)
        ;
}

static double time_meeting(struct kern_pool *pool)
{
    struct meeting meeting = {.expected = kern_pool_threads(pool)};
    double start = worker__profile_now();
    kern_pool_run(pool, meeting.expected, 1, meet, &meeting);
    return worker__profile_now() - start;
}

/* `pause`: before each, NULL for none. */
static double meeting_time(struct kern_pool *pool, const struct timespec *pause)
{
    double times[MEETINGS], start = worker__profile_now();
    size_t n = 0;
    while (n < MEETINGS && (n == 0 || worker__profile_now() - start < MEETINGS_S)) {
        if (pause)
            nanosleep(pause, NULL);
        times[n++] = time_meeting(pool);
    }
    return worker__profile_median(times, n);
}

/* The threads sleep after 50 microseconds without work (pool.h). */
static void measure_pool(struct proto_profile *out, struct kern_pool *pool)
{
    const struct timespec pause = {.tv_nsec = 500000};
    out->wake_s = meeting_time(pool, &pause);
    time_meeting(pool);
    out->run_s = meeting_time(pool, NULL);
}

/* Memory is read at least as fast as the products of one row read their weights: their passes are
 * shorter than those of the plain read, and on a busy machine more of them are undisturbed. */
static void raise_read_rate(struct proto_profile *out)
{
    for (uint32_t i = 0; i < out->n_types; i++) {
        const struct kern_type_info *type = kern_type_find(out->types[i].type);
        double ops = 2.0 * KERN_PANEL * type->block; /* of a packed block */
        out->read_bytes_s =
            fmax(out->read_bytes_s, out->types[i].row_ops_s / ops * type->packed_bytes);
    }
}

/* ---- the machine ---- */

static double reading_rate(const struct worker_profile_options *options,
                           const struct worker__profile_memory *memory)
{
    double times[READ_ROUNDS], start = worker__profile_now();
    size_t n = 0;
    while (n < READ_ROUNDS && (n < 3 || worker__profile_now() - start < READ_S) &&
           !worker__profile_cancelled(options)) {
        worker__profile_scrub(memory, options->pool);
        times[n++] = kern_read_pass(options->pool, memory->bytes, memory->n);
    }
    return n ? (double)memory->n / worker__profile_median(times, n) : 0;
}

/* What other workers of this machine may leave: what all processors do together. Those that this
 * process may not run on are taken to be like the others. */
static enum proto_status measure_machine(struct proto_profile *out,
                                         const struct worker__profile_memory *memory,
                                         const struct worker_profile_options *options,
                                         struct proto_error *error)
{
    unsigned usable = kern_machine_processors();
    double online = (double)sysconf(_SC_NPROCESSORS_ONLN);
    struct worker_profile_options all = *options;
    struct proto_profile machine = *out;
    enum proto_status status = PROTO_OK;
    if (kern_pool_threads(options->pool) < usable) {
        machine.n_types = 0;
        status = kern_pool_create(&all.pool, usable, error);
        if (!status) {
            machine.read_bytes_s = reading_rate(&all, memory);
            status = measure_products(&machine, 1, memory, &all, error);
        }
        kern_pool_destroy(all.pool == options->pool ? NULL : all.pool);
    }
    if (status)
        return status;
    double more = fmax(online / usable, 1);
    out->machine_read_bytes_s = more * fmax(machine.read_bytes_s, out->read_bytes_s);
    out->machine_ops_s = more * fmax(machine.types[0].rows_ops_s, out->types[0].rows_ops_s);
    return PROTO_OK;
}

enum proto_status worker__profile_compute(struct proto_profile *out,
                                          const struct worker__profile_memory *memory,
                                          const struct worker_profile_options *options,
                                          struct proto_error *error)
{
    out->read_bytes_s = reading_rate(options, memory);
    enum proto_status status = measure_attention(out, options, error);
    if (status)
        return status;
    measure_pool(out, options->pool);
    status = measure_products(out, sizeof types / sizeof types[0], memory, options, error);
    raise_read_rate(out);
    if (!status)
        status = measure_machine(out, memory, options, error);
    return !status && worker__profile_cancelled(options) ? worker__profile_fail_cancelled(error)
                                                         : status;
}
