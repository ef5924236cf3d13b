/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/compute.h"

#include "kernels/bandwidth.h"
#include "proto/log.h"
#include "worker/answer.h"
#include "worker/profile.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Without work before the machine is measured, where there was work. */
#define REST_NS 1000000000ull

struct job {
    struct job *next;
    struct worker_call *call;   /* NULL: none */
    struct worker_slice *slice; /* NULL: a measurement */
    struct worker_asker *asker; /* of the slice */
    struct proto_batch batch;
    struct net_payload *payload;
    uint64_t received_ns;
    uint64_t measure_bytes;
};

struct worker_compute {
    struct worker_compute_options options;
    struct kern_pool *pool;
    pthread_t thread;
    bool started;
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* queue or stopping */
    struct job *first, **last;
    const struct job *current; /* in work */
    bool stopping;
    bool profile_wanted;
    uint64_t rest_ns; /* it is not measured before then; 0: nothing was tried or done yet */
    unsigned n_held;
    atomic_bool cancel; /* of a profile */
};

static void job_destroy(struct job *job)
{
    if (job->call)
        job->call->fn(job->call, true);
    struct proto_msg msg = {.kind = PROTO_MSG_BATCH, .batch = job->batch};
    proto_msg_finish(&msg);
    net_payload_destroy(job->payload);
    free(job);
}

void worker_output_destroy(struct worker_output *output)
{
    if (!output)
        return;
    proto_msg_finish(&output->msg);
    net_payload_destroy(output->payload);
    free(output);
}

void worker_compute_deliver(struct worker_compute *compute, struct worker_output *output)
{
    output->owner = compute->options.arg;
    compute->options.deliver(compute->options.arg, output);
}

static void deliver_failure(struct worker_compute *compute, const struct job *job,
                            const struct proto_error *error)
{
    struct worker_output *output = calloc(1, sizeof *output);
    char *text = strdup(error->text);
    if (!output || !text) {
        /* The coordinator's deadline for the batch says the rest. */
        free(output);
        free(text);
        return;
    }
    output->batch_done = true;
    output->msg = (struct proto_msg){.kind = PROTO_MSG_FAILED,
                                     .failed = {.epoch = job->batch.epoch,
                                                .batch = job->batch.batch,
                                                .status = error->status,
                                                .text = text}};
    worker_compute_deliver(compute, output);
}

static void free_rows(void *data, void *arg)
{
    (void)arg;
    free(data);
}

/* Appends this stage's times to the batch's. */
static enum proto_status add_times(struct proto_batch *batch, const struct job *job,
                                   uint64_t started_ns, uint64_t waited_ns,
                                   struct proto_error *error)
{
    size_t bytes = (batch->n_times + 1) * sizeof *batch->times;
    struct proto_stage_time *times = realloc(batch->times, bytes);
    if (!times)
        return proto_fail_nomem(error, bytes, "stage times");
    batch->times = times;
    batch->times[batch->n_times++] =
        (struct proto_stage_time){.received_ns = job->received_ns,
                                  .started_ns = started_ns,
                                  .finished_ns = net_now_ns(),
                                  .bytes = job->payload ? net_payload_len(job->payload) : 0,
                                  .expert_wait_ns = waited_ns};
    return PROTO_OK;
}

/* Sends the residual rows on; takes x. */
static enum proto_status pass_on(struct worker_compute *compute, struct job *job, float *x,
                                 size_t rows, struct proto_error *error)
{
    const struct shard_program *program = job->slice->program;
    struct worker_output *output = calloc(1, sizeof *output);
    size_t x_bytes = rows * shard_row_floats(program->model, program->layer_end) * sizeof *x;
    if (output)
        output->payload = net_payload_wrap(x, x_bytes, free_rows, NULL);
    if (!output || !output->payload) {
        free(output);
        free(x);
        return proto_fail_nomem(error, sizeof *output, "a batch's message");
    }
    output->to_next = true;
    output->batch_done = true;
    output->msg.kind = PROTO_MSG_BATCH;
    output->msg.batch = job->batch;
    memset(&job->batch, 0, sizeof job->batch);
    worker_compute_deliver(compute, output);
    return PROTO_OK;
}

static float *input_rows(const struct job *job, size_t rows)
{
    const struct shard_program *program = job->slice->program;
    size_t bytes = rows * worker_exec_stride(program) * sizeof(float);
    float *x = aligned_alloc(64, (bytes + 64) & ~(size_t)63);
    if (x && !program->embed && rows)
        worker_exec_unpack_rows(program, x, net_payload_data(job->payload), rows);
    return x;
}

static enum proto_status copy_ids(int32_t **out, const struct job *job, size_t rows,
                                  struct proto_error *error)
{
    if (!job->slice->load.embed)
        return PROTO_OK;
    *out = malloc(rows * 4 + 4);
    if (!*out)
        return proto_fail_nomem(error, rows * 4, "token ids");
    if (rows)
        memcpy(*out, net_payload_data(job->payload), rows * 4);
    return PROTO_OK;
}

static void forget_sequence(struct worker_slice *slice, uint32_t seq)
{
    shard_kv_drop(slice->kv, seq);
    worker_boundary_drop(slice->boundary, seq);
}

static void drop_sequences(const struct job *job)
{
    for (uint32_t i = 0; i < job->batch.n_drops; i++)
        if (job->batch.drops[i] < job->slice->load.max_seqs)
            forget_sequence(job->slice, job->batch.drops[i]);
}

static enum proto_status run_program(const struct job *job, float *x, struct worker_answer *answer,
                                     struct proto_error *error)
{
    size_t rows = proto_batch_rows(&job->batch);
    int32_t *ids = NULL;
    enum proto_status status = copy_ids(&ids, job, rows, error);
    if (status == PROTO_OK && rows) {
        struct worker_batch batch = {
            .ranges = job->batch.ranges, .n_ranges = job->batch.n_ranges, .ids = ids, .x = x};
        status = worker_exec_run(job->slice->exec, &batch, worker_answer_rows, answer, error);
    }
    free(ids);
    return status;
}

static void deliver_answer(void *arg, struct worker_output *output)
{
    worker_compute_deliver(arg, output);
}

static bool passes_on(const struct job *job)
{
    return !job->slice->load.head && job->batch.stop != job->slice->load.stage + 1;
}

/* Sends on again what was sent on before. */
static enum proto_status run_replay(struct worker_compute *compute, struct job *job,
                                    struct proto_error *error)
{
    const struct worker_boundary *boundary = job->slice->boundary;
    size_t rows = proto_batch_rows(&job->batch), row_bytes = worker_boundary_row_bytes(boundary);
    char *x = aligned_alloc(64, (rows * row_bytes + 64) & ~(size_t)63), *to = x;
    if (!x)
        return proto_fail_nomem(error, rows * row_bytes, "a batch's rows");
    for (uint32_t i = 0; i < job->batch.n_ranges; i++) {
        const struct proto_range *r = &job->batch.ranges[i];
        const void *kept = worker_boundary_rows(boundary, r->seq, r->pos, r->n);
        if (!kept) {
            free(x);
            return proto_fail(error, PROTO_NOTFOUND,
                              "rows of sequence %u are asked for that are not kept", r->seq);
        }
        memcpy(to, kept, r->n * row_bytes);
        to += r->n * row_bytes;
    }
    job->batch.replay = false;
    return pass_on(compute, job, (float *)(void *)x, rows, error);
}

static enum proto_status run_batch(struct worker_compute *compute, struct job *job,
                                   struct proto_error *error)
{
    uint64_t started_ns = net_now_ns();
    size_t rows = proto_batch_rows(&job->batch);
    drop_sequences(job);
    float *x = input_rows(job, rows);
    if (!x)
        return proto_fail_nomem(error,
                                rows * worker_exec_stride(job->slice->program) * sizeof(float),
                                "a batch's rows");
    worker_asker_begin(job->asker);
    struct worker_answer answer;
    worker_answer_init(&answer, &job->batch, compute->options.table, job->slice->model->n_vocab,
                       deliver_answer, compute);
    enum proto_status status = run_program(job, x, &answer, error);
    if (status == PROTO_OK && worker_slice_lost(job->slice))
        status = proto_fail(error, PROTO_IO,
                            "a packed weight was cut short while it was in use; is another program "
                            "writing to the piece cache?");
    if (status == PROTO_OK)
        status = add_times(&job->batch, job, started_ns, worker_asker_waited_ns(job->asker), error);
    if (status == PROTO_OK)
        status = worker_asker_add_times(job->asker, &job->batch, error);
    if (status == PROTO_OK && passes_on(job)) {
        worker_exec_pack_rows(job->slice->program, x, rows);
        worker_boundary_keep(job->slice->boundary, job->batch.ranges, job->batch.n_ranges, x);
        return pass_on(compute, job, x, rows, error);
    }
    if (status == PROTO_OK)
        status = worker_answer_finish(&answer, error);
    worker_answer_discard(&answer);
    free(x);
    return status;
}

static void run_measure(struct worker_compute *compute, const struct job *job)
{
    struct worker_output *output = calloc(1, sizeof *output);
    if (!output)
        return;
    output->msg.kind = PROTO_MSG_MEASURED;
    struct proto_error error;
    (void)kern_read_bandwidth(compute->pool, job->measure_bytes, 5,
                              &output->msg.measured.read_bytes_s, &error); /* 0: it could not */
    worker_compute_deliver(compute, output);
}

static enum proto_status measure_profile(struct worker_compute *compute)
{
    const struct worker_profile_options options = {.pool = compute->pool,
                                                   .table = compute->options.table,
                                                   .cache_dir = compute->options.cache_dir,
                                                   .machine = compute->options.machine,
                                                   .cancel = &compute->cancel};
    struct proto_error error = {0};
    struct worker_output *output = calloc(1, sizeof *output);
    if (!output)
        return PROTO_NOMEM;
    output->msg.kind = PROTO_MSG_PROFILE;
    enum proto_status status = worker_profile_get(&output->msg.profile, &options, &error);
    if (status == PROTO_OK) {
        worker_compute_deliver(compute, output);
        return status;
    }
    free(output);
    if (status != PROTO_CANCELLED)
        proto_log(PROTO_LOG_WARN, "WORKER-PROFILE-FAILED", "error=\"%s\"", error.text);
    return status;
}

/* What is in the way of it comes first; then it is begun again. While it must not be measured, one
 * that is kept will do. */
static void run_profile(struct worker_compute *compute)
{
    pthread_mutex_lock(&compute->mutex);
    compute->profile_wanted = false;
    atomic_store(&compute->cancel, compute->n_held > 0 || compute->first || compute->stopping);
    pthread_mutex_unlock(&compute->mutex);
    enum proto_status status = measure_profile(compute);
    pthread_mutex_lock(&compute->mutex);
    compute->profile_wanted |= status == PROTO_CANCELLED;
    compute->rest_ns = net_now_ns() + REST_NS;
    pthread_mutex_unlock(&compute->mutex);
}

static bool may_profile(const struct worker_compute *compute)
{
    if (!compute->profile_wanted || compute->rest_ns == 0)
        return compute->profile_wanted;
    return compute->n_held == 0 && net_now_ns() >= compute->rest_ns;
}

static void wait_for_work(struct worker_compute *compute)
{
    struct timespec until = {.tv_sec = (time_t)(compute->rest_ns / 1000000000u),
                             .tv_nsec = (long)(compute->rest_ns % 1000000000u)};
    if (compute->profile_wanted && compute->n_held == 0)
        pthread_cond_timedwait(&compute->changed, &compute->mutex, &until);
    else
        pthread_cond_wait(&compute->changed, &compute->mutex);
}

/* False at the end; *job stays NULL where the machine is to be measured. */
static bool next_job(struct worker_compute *compute, struct job **job)
{
    *job = NULL;
    pthread_mutex_lock(&compute->mutex);
    while (!compute->first && !compute->stopping && !may_profile(compute))
        wait_for_work(compute);
    bool stopping = compute->stopping;
    if (!stopping && compute->first) {
        *job = compute->first;
        compute->first = (*job)->next;
        if (!compute->first)
            compute->last = &compute->first;
        compute->current = *job;
    }
    pthread_mutex_unlock(&compute->mutex);
    return !stopping;
}

static void run_job(struct worker_compute *compute, struct job *job)
{
    struct proto_error error = {0};
    if (job->call) {
        struct worker_call *call = job->call;
        job->call = NULL;
        call->fn(call, false);
    } else if (!job->slice) {
        run_measure(compute, job);
    } else if ((job->batch.replay ? run_replay : run_batch)(compute, job, &error) != PROTO_OK) {
        deliver_failure(compute, job, &error);
    }
}

/* Out of sight of worker_compute_active before it is freed. */
static void end_job(struct worker_compute *compute, struct job *job)
{
    pthread_mutex_lock(&compute->mutex);
    compute->current = NULL;
    compute->rest_ns = net_now_ns() + REST_NS;
    pthread_mutex_unlock(&compute->mutex);
    job_destroy(job);
}

static void *compute_main(void *arg)
{
    struct worker_compute *compute = arg;
    struct job *job;
    while (next_job(compute, &job)) {
        if (job) {
            run_job(compute, job);
            end_job(compute, job);
        } else {
            run_profile(compute);
        }
    }
    return NULL;
}

static void init_lock(struct worker_compute *compute)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&compute->mutex, NULL);
    pthread_cond_init(&compute->changed, &attr);
    pthread_condattr_destroy(&attr);
}

enum proto_status worker_compute_create(struct worker_compute **out,
                                        const struct worker_compute_options *options,
                                        struct proto_error *error)
{
    struct worker_compute *compute = calloc(1, sizeof *compute);
    if (!compute)
        return proto_fail_nomem(error, sizeof *compute, "the computing thread");
    compute->options = *options;
    compute->last = &compute->first;
    init_lock(compute);
    enum proto_status status = kern_pool_create(&compute->pool, options->threads, error);
    if (status == PROTO_OK) {
        int rc = pthread_create(&compute->thread, NULL, compute_main, compute);
        compute->started = rc == 0;
        if (rc)
            status = proto_fail_errno(error, rc, "start", "the computing thread");
    }
    if (status != PROTO_OK) {
        worker_compute_destroy(compute);
        return status;
    }
    *out = compute;
    return PROTO_OK;
}

/* Takes the batches of a slice off the queue, or everything (NULL). */
static struct job *take_jobs(struct worker_compute *compute, const struct worker_slice *slice)
{
    struct job **at = &compute->first, *taken = NULL;
    while (*at) {
        struct job *job = *at;
        if (slice && job->slice != slice) {
            at = &job->next;
            continue;
        }
        *at = job->next;
        job->next = taken;
        taken = job;
    }
    compute->last = at;
    return taken;
}

static void destroy_jobs(struct job *jobs)
{
    while (jobs) {
        struct job *job = jobs;
        jobs = job->next;
        job_destroy(job);
    }
}

void worker_compute_forget(struct worker_compute *compute, const struct worker_slice *slice)
{
    if (!slice)
        return;
    pthread_mutex_lock(&compute->mutex);
    struct job *jobs = take_jobs(compute, slice);
    pthread_mutex_unlock(&compute->mutex);
    destroy_jobs(jobs);
}

void worker_compute_destroy(struct worker_compute *compute)
{
    if (!compute)
        return;
    pthread_mutex_lock(&compute->mutex);
    compute->stopping = true;
    atomic_store(&compute->cancel, true);
    pthread_cond_broadcast(&compute->changed);
    pthread_mutex_unlock(&compute->mutex);
    if (compute->started)
        pthread_join(compute->thread, NULL);
    destroy_jobs(take_jobs(compute, NULL));
    kern_pool_destroy(compute->pool);
    pthread_cond_destroy(&compute->changed);
    pthread_mutex_destroy(&compute->mutex);
    free(compute);
}

struct kern_pool *worker_compute_pool(struct worker_compute *compute)
{
    return compute->pool;
}

static void enqueue(struct worker_compute *compute, struct job *job)
{
    pthread_mutex_lock(&compute->mutex);
    *compute->last = job;
    compute->last = &job->next;
    atomic_store(&compute->cancel, true);
    pthread_cond_broadcast(&compute->changed);
    pthread_mutex_unlock(&compute->mutex);
}

enum proto_status worker_compute_call(struct worker_compute *compute, struct worker_call *call,
                                      struct proto_error *error)
{
    struct job *job = calloc(1, sizeof *job);
    if (!job)
        return proto_fail_nomem(error, sizeof *job, "a change of slices");
    job->call = call;
    enqueue(compute, job);
    return PROTO_OK;
}

bool worker_compute_active(struct worker_compute *compute)
{
    pthread_mutex_lock(&compute->mutex);
    const struct job *job = compute->current;
    bool active = job && job->slice && !worker_asker_waiting(job->asker);
    pthread_mutex_unlock(&compute->mutex);
    return active;
}

enum proto_status worker_compute_batch(struct worker_compute *compute, struct worker_slice *slice,
                                       struct worker_asker *asker, struct proto_batch *batch,
                                       struct net_payload **payload, uint64_t received_ns,
                                       struct proto_error *error)
{
    struct job *job = calloc(1, sizeof *job);
    if (!job) {
        struct proto_msg msg = {.kind = PROTO_MSG_BATCH, .batch = *batch};
        proto_msg_finish(&msg);
        net_payload_destroy(*payload);
    } else {
        job->slice = slice;
        job->asker = asker;
        job->batch = *batch;
        job->payload = *payload;
        job->received_ns = received_ns;
        enqueue(compute, job);
    }
    memset(batch, 0, sizeof *batch);
    *payload = NULL;
    return job ? PROTO_OK : proto_fail_nomem(error, sizeof *job, "a batch");
}

enum proto_status worker_compute_measure(struct worker_compute *compute, uint64_t bytes,
                                         struct proto_error *error)
{
    struct job *job = calloc(1, sizeof *job);
    if (!job)
        return proto_fail_nomem(error, sizeof *job, "a measurement");
    job->measure_bytes = bytes;
    enqueue(compute, job);
    return PROTO_OK;
}

void worker_compute_profile(struct worker_compute *compute)
{
    pthread_mutex_lock(&compute->mutex);
    compute->profile_wanted = true;
    compute->rest_ns = 0;
    pthread_cond_broadcast(&compute->changed);
    pthread_mutex_unlock(&compute->mutex);
}

void worker_compute_hold(struct worker_compute *compute)
{
    pthread_mutex_lock(&compute->mutex);
    compute->n_held++;
    atomic_store(&compute->cancel, true);
    pthread_mutex_unlock(&compute->mutex);
}

void worker_compute_let_go(struct worker_compute *compute)
{
    pthread_mutex_lock(&compute->mutex);
    compute->n_held--;
    compute->rest_ns = net_now_ns() + REST_NS;
    pthread_cond_broadcast(&compute->changed);
    pthread_mutex_unlock(&compute->mutex);
}
