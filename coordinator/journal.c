/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is told is a list of changes in memory; the writer takes the whole list at once and writes
 * it without the lock.
 *
 * Epochs: `limit` stands in the file, synced, before any epoch between the previous limit and it is
 * used; whoever opens the file begins above it. So no epoch is used twice, whatever was lost.
 */
#include "coordinator/journal_parts.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proto/log.h"

#define FLUSH_MS      50
#define EPOCH_MARGIN  500u
#define PENDING_BYTES ((size_t)64 << 20) /* what waits for a disk at most */

static void free_changes(struct journal__change *c)
{
    while (c) {
        struct journal__change *next = c->next;
        free(c);
        c = next;
    }
}

/* Under the mutex. */
static void give_up(struct coord_journal *j, const char *why)
{
    if (!j->failed)
        proto_log(PROTO_LOG_WARN, "COORD-STATE-FAILED",
                  "file=%s error=\"%s\" requests are served on, but cannot be resumed after a "
                  "restart",
                  j->path, why);
    j->failed = true;
    free_changes(j->first);
    j->first = NULL;
    j->last = &j->first;
    j->pending_bytes = 0;
    j->n_written = j->n_appended;
    pthread_cond_broadcast(&j->written);
}

/* Under the mutex, which it leaves for the writing. */
static void flush(struct coord_journal *j)
{
    struct journal__change *first = j->first;
    uint64_t n = j->n_appended;
    j->first = NULL;
    j->last = &j->first;
    j->pending_bytes = 0;
    j->urgent = false;
    pthread_mutex_unlock(&j->mutex);
    int rc = journal__write(j, first);
    char why[200];
    snprintf(why, sizeof why, "%s", sqlite3_errmsg(j->db));
    if (rc != SQLITE_OK && !sqlite3_get_autocommit(j->db))
        sqlite3_exec(j->db, "ROLLBACK", NULL, NULL, NULL);
    free_changes(first);
    pthread_mutex_lock(&j->mutex);
    if (rc != SQLITE_OK) {
        give_up(j, why);
        return;
    }
    j->n_written = n;
    pthread_cond_broadcast(&j->written);
}

static struct timespec after_ms(long ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += ms * 1000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}

static void *write_on(void *user)
{
    struct coord_journal *j = user;
    pthread_mutex_lock(&j->mutex);
    while (!j->stopping || j->first) {
        while (!j->first && !j->stopping)
            pthread_cond_wait(&j->filled, &j->mutex);
        /* More will come soon, and one transaction costs little more for it. */
        struct timespec end = after_ms(FLUSH_MS);
        int rc = 0;
        while (!j->urgent && !j->stopping && rc == 0)
            rc = pthread_cond_timedwait(&j->filled, &j->mutex, &end);
        if (j->first)
            flush(j);
    }
    pthread_mutex_unlock(&j->mutex);
    return NULL;
}

/* Takes the change over; NULL: there was no memory for it. False where nothing is kept. */
static bool append(struct coord_journal *j, struct journal__change *c)
{
    pthread_mutex_lock(&j->mutex);
    if (!j->failed && (!c || j->pending_bytes + c->bytes > PENDING_BYTES))
        give_up(j, c ? "the disk is too slow" : "out of memory");
    if (j->failed) {
        free(c);
        pthread_mutex_unlock(&j->mutex);
        return false;
    }
    bool first = !j->first;
    *j->last = c;
    j->last = &c->next;
    j->pending_bytes += c->bytes;
    j->n_appended++;
    if (first)
        pthread_cond_signal(&j->filled);
    pthread_mutex_unlock(&j->mutex);
    return true;
}

void coord_journal_sync(struct coord_journal *j)
{
    if (!j)
        return;
    pthread_mutex_lock(&j->mutex);
    uint64_t last = j->n_appended;
    j->urgent = j->n_written < last;
    pthread_cond_signal(&j->filled);
    while (j->n_written < last)
        pthread_cond_wait(&j->written, &j->mutex);
    pthread_mutex_unlock(&j->mutex);
}

static struct journal__change *make_change(enum journal__kind kind, uint64_t number,
                                           size_t data_bytes)
{
    struct journal__change *c = calloc(1, sizeof *c + data_bytes);
    if (!c)
        return NULL;
    c->kind = kind;
    c->number = number;
    c->bytes = sizeof *c + data_bytes;
    return c;
}

/* ---- what is told ---- */

void coord_journal_set(struct coord_journal *j, const char *name, const char *text)
{
    if (!j)
        return;
    size_t n_name = strlen(name) + 1, n_text = strlen(text) + 1;
    struct journal__change *c = make_change(JOURNAL__SET, 0, n_name + n_text);
    if (c) {
        c->name = memcpy(c->data, name, n_name);
        c->text = memcpy(c->data + n_name, text, n_text);
    }
    append(j, c);
}

uint64_t coord_journal_add(struct coord_journal *j, const struct coord_journal_request *r)
{
    if (!j)
        return 0;
    size_t table = r->n_prompts * sizeof *r->prompts, n_id = strlen(r->id) + 1, n_ids = 0;
    for (size_t i = 0; i < r->n_prompts; i++)
        n_ids += r->prompts[i].n_ids;
    pthread_mutex_lock(&j->mutex);
    uint64_t number = j->next_number++;
    pthread_mutex_unlock(&j->mutex);
    struct journal__change *c =
        make_change(JOURNAL__ADD, number, table + n_ids * sizeof(int32_t) + n_id + r->body_len);
    if (c) {
        struct coord_journal_prompt *prompts = (struct coord_journal_prompt *)c->data;
        int32_t *ids = (int32_t *)(c->data + table);
        for (size_t i = 0; i < r->n_prompts; i++) {
            size_t n = r->prompts[i].n_ids;
            prompts[i] =
                (struct coord_journal_prompt){memcpy(ids, r->prompts[i].ids, n * sizeof *ids), n};
            ids += n;
        }
        c->request = *r;
        c->request.prompts = prompts;
        c->request.id = memcpy(ids, r->id, n_id);
        c->request.body = memcpy((char *)ids + n_id, r->body, r->body_len);
    }
    return append(j, c) ? number : 0;
}

void coord_journal_token(struct coord_journal *j, uint64_t number, uint32_t choice, uint64_t pos,
                         const struct coord_event *event)
{
    if (!j || !number)
        return;
    size_t bytes = event->n_top * sizeof *event->top;
    struct journal__change *c = make_change(JOURNAL__TOKEN, number, bytes);
    if (c) {
        c->choice = choice;
        c->pos = pos;
        c->token = event->token;
        c->logprob = event->logprob;
        c->sampler = event->sampler;
        c->n_top = event->n_top;
        c->top = memcpy(c->data, event->top, bytes);
    }
    append(j, c);
}

void coord_journal_finish(struct coord_journal *j, uint64_t number, int64_t when)
{
    if (!j || !number)
        return;
    struct journal__change *c = make_change(JOURNAL__FINISH, number, 0);
    if (c)
        c->when = when;
    append(j, c);
}

void coord_journal_remove(struct coord_journal *j, uint64_t number)
{
    if (j && number)
        append(j, make_change(JOURNAL__REMOVE, number, 0));
}

uint64_t coord_journal_first_epoch(const struct coord_journal *j)
{
    return j ? j->first_epoch : 0;
}

void coord_journal_note_epoch(struct coord_journal *j, uint64_t epoch)
{
    if (!j)
        return;
    uint64_t limit = 0;
    pthread_mutex_lock(&j->mutex);
    if (epoch + EPOCH_MARGIN > j->epoch_limit)
        limit = j->epoch_limit = epoch + JOURNAL__EPOCH_BLOCK;
    pthread_mutex_unlock(&j->mutex);
    if (limit && append(j, make_change(JOURNAL__EPOCH, limit, 0)))
        coord_journal_sync(j);
}

/* ---- life ---- */

static void init_lock(struct coord_journal *j)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&j->mutex, NULL);
    pthread_cond_init(&j->filled, &attr);
    pthread_cond_init(&j->written, &attr);
    pthread_condattr_destroy(&attr);
}

enum proto_status coord_journal_open(struct coord_journal **out, const char *path,
                                     const uint8_t cluster[PROTO_KEY_BYTES],
                                     struct proto_error *error)
{
    struct coord_journal *j = calloc(1, sizeof *j);
    if (!j)
        return proto_fail_nomem(error, sizeof *j, "the state file");
    init_lock(j);
    j->last = &j->first;
    j->path = strdup(path);
    enum proto_status status = j->path ? journal__open_file(j, cluster, error)
                                       : proto_fail_nomem(error, strlen(path), "the state file");
    int rc = status ? 0 : pthread_create(&j->thread, NULL, write_on, j);
    j->thread_started = !status && rc == 0;
    if (rc)
        status = proto_fail_errno(error, rc, "start", "the state file's thread");
    if (status) {
        coord_journal_close(j);
        return status;
    }
    *out = j;
    return PROTO_OK;
}

void coord_journal_close(struct coord_journal *j)
{
    if (!j)
        return;
    if (j->thread_started) {
        pthread_mutex_lock(&j->mutex);
        j->stopping = true;
        pthread_cond_signal(&j->filled);
        pthread_mutex_unlock(&j->mutex);
        pthread_join(j->thread, NULL);
    }
    journal__close_file(j);
    free_changes(j->first);
    pthread_cond_destroy(&j->filled);
    pthread_cond_destroy(&j->written);
    pthread_mutex_destroy(&j->mutex);
    free(j->path);
    free(j);
}
