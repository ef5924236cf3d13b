/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that looks after jobs: it drops those whose time is over, submits those of an earlier
 * server, and writes down what a later one needs to know. */
#include "coordinator/api/job.h"

#include <stdlib.h>
#include <string.h>

#define KEEPER_MS 200
/* Finished jobs are kept in memory; the oldest go when there are more, or they are larger. */
#define MAX_KEPT       1000u
#define MAX_KEPT_BYTES ((size_t)64 << 20)
/* A parsed body is larger than its text. */
#define PARSED_FACTOR 8u
#define SECOND_NS     1000000000ull

static size_t kept_bytes(const struct api__job *job)
{
    size_t bytes = sizeof *job + PARSED_FACTOR * job->body_len;
    for (size_t i = 0; i < job->n_logs; i++)
        bytes += job->logs[i].cap * sizeof *job->logs->tokens +
                 job->logs[i].cap_top * sizeof *job->logs->top;
    return bytes;
}

/* Whether the keeper drops a job; the older ones come first. Under the server's mutex. */
static bool is_over(struct api__job *job, uint64_t now_ns, size_t *kept, size_t *bytes)
{
    struct api_server *server = job->server;
    pthread_mutex_lock(&job->mutex);
    uint64_t finished_ns = job->finished_ns;
    size_t mine = finished_ns ? kept_bytes(job) : 0;
    pthread_mutex_unlock(&job->mutex);
    if (finished_ns) {
        bool over = now_ns - finished_ns > server->keep_s * SECOND_NS || *kept > MAX_KEPT ||
                    *bytes > MAX_KEPT_BYTES;
        *kept -= over;
        *bytes -= over ? mine : 0;
        return over && !job->readers;
    }
    return !job->readers && now_ns - job->idle_ns > job->wait_s * SECOND_NS;
}

static void count_kept(const struct api_server *server, size_t *kept, size_t *bytes)
{
    for (struct api__job *job = server->jobs; job; job = job->next) {
        pthread_mutex_lock(&job->mutex);
        *kept += job->finished_ns != 0;
        *bytes += job->finished_ns ? kept_bytes(job) : 0;
        pthread_mutex_unlock(&job->mutex);
    }
}

/* Those whose time is over, out of the list; linked by `next`. */
static struct api__job *sort_out(struct api_server *server, uint64_t now_ns)
{
    struct api__job *over = NULL;
    size_t kept = 0, bytes = 0;
    pthread_mutex_lock(&server->mutex);
    count_kept(server, &kept, &bytes);
    for (struct api__job *job = server->jobs, *next; job; job = next) {
        next = job->next;
        if (!is_over(job, now_ns, &kept, &bytes))
            continue;
        api__job_withdraw(job);
        job->next = over;
        over = job;
    }
    pthread_mutex_unlock(&server->mutex);
    return over;
}

/* One that the engine has not got yet. */
static bool is_new(struct api__job *job)
{
    return !job->submitted;
}

/* One that the engine is done with. */
static bool is_done(struct api__job *job)
{
    pthread_mutex_lock(&job->mutex);
    bool done = job->finished_ns && !job->released;
    pthread_mutex_unlock(&job->mutex);
    return done;
}

/* The first such job, with one reference more. */
static struct api__job *find(struct api_server *server, bool (*fits)(struct api__job *job))
{
    pthread_mutex_lock(&server->mutex);
    struct api__job *job = server->jobs;
    while (job && !fits(job))
        job = job->next;
    if (job)
        job->refs++;
    pthread_mutex_unlock(&server->mutex);
    return job;
}

static void release_all(struct api_server *server)
{
    struct api__job *job;
    while ((job = find(server, is_done))) {
        api__job_release(job);
        api__job_unref(job);
    }
}

static void take_up_all(struct api_server *server)
{
    struct api__job *job;
    bool more = true;
    while (more && (job = find(server, is_new))) {
        more = api__job_take_up(job);
        api__job_unref(job);
    }
}

/* What a later server needs to know of the cluster: who the workers are and what was measured
 * between them, which takes the loop some time to tell where they are many. */
static void note_memory(struct api_server *server)
{
    char *memory = coord_engine_memory(server->engine);
    if (memory && (!server->memory || strcmp(memory, server->memory) != 0)) {
        coord_journal_set(server->journal, "workers", memory);
        free(server->memory);
        server->memory = memory;
        memory = NULL;
    }
    free(memory);
}

/* A new epoch may be of other workers, so it is not waited for the second to be over. */
static void note_cluster(struct api_server *server, bool second_over)
{
    struct coord_status status;
    struct proto_error error;
    if (!server->journal || coord_engine_status(server->engine, &status, &error))
        return;
    bool new_epoch = status.epoch != server->noted_epoch;
    server->noted_epoch = status.epoch;
    coord_status_finish(&status);
    if (new_epoch)
        coord_journal_note_epoch(server->journal, server->noted_epoch);
    if (new_epoch || second_over)
        note_memory(server);
}

static void *keep(void *user)
{
    struct api_server *server = user;
    uint64_t measured_ns = api__now_ns();
    struct timespec end;
    pthread_mutex_lock(&server->mutex);
    while (!server->keeper_ends) {
        pthread_mutex_unlock(&server->mutex);
        uint64_t now_ns = api__now_ns();
        for (struct api__job *job = sort_out(server, now_ns), *next; job; job = next) {
            next = job->next;
            api__job_drop(job);
        }
        take_up_all(server);
        release_all(server);
        bool second_over = now_ns - measured_ns >= SECOND_NS;
        if (second_over) {
            api__note_speed(server, (double)(now_ns - measured_ns) / 1e9);
            measured_ns = now_ns;
        }
        note_cluster(server, second_over);
        api__after_ms(&end, KEEPER_MS);
        pthread_mutex_lock(&server->mutex);
        if (!server->keeper_ends)
            pthread_cond_timedwait(&server->kept, &server->mutex, &end);
    }
    pthread_mutex_unlock(&server->mutex);
    return NULL;
}

enum proto_status api__jobs_start(struct api_server *server, struct proto_error *error)
{
    enum proto_status status = api__jobs_restore(server, error);
    int rc = status ? 0 : pthread_create(&server->keeper, NULL, keep, server);
    server->keeper_started = !status && rc == 0;
    return rc ? proto_fail_errno(error, rc, "start", "the thread that keeps requests") : status;
}

void api__jobs_stop(struct api_server *server)
{
    if (server->keeper_started) {
        pthread_mutex_lock(&server->mutex);
        server->keeper_ends = true;
        pthread_cond_signal(&server->kept);
        pthread_mutex_unlock(&server->mutex);
        pthread_join(server->keeper, NULL);
    }
    api__jobs_free(server);
    free(server->memory);
}
