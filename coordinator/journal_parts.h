/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the journal share; only they include it.
 *
 *   journal.c        what is told, and the thread that writes it
 *   journal_file.c   the file: what it is, whose, and changes into it
 *   journal_read.c   what is in it
 */
#ifndef COORDINATOR_JOURNAL_PARTS_H
#define COORDINATOR_JOURNAL_PARTS_H

#include <pthread.h>
#include <sqlite3.h>

#include "coordinator/journal.h"

#define JOURNAL__EPOCH_BLOCK 1000u

enum journal__kind {
    JOURNAL__SET,
    JOURNAL__ADD,
    JOURNAL__TOKEN,
    JOURNAL__FINISH,
    JOURNAL__REMOVE,
    JOURNAL__EPOCH
};

/* A change that waits to be written. */
struct journal__change {
    struct journal__change *next;
    enum journal__kind kind;
    size_t bytes;    /* of memory */
    uint64_t number; /* of a request; JOURNAL__EPOCH: the limit */
    /* JOURNAL__TOKEN */
    uint32_t choice, n_top;
    uint64_t pos;
    int32_t token;
    float logprob;
    struct text_sampler_state sampler;
    const void *top;
    int64_t when;                         /* JOURNAL__FINISH */
    const char *name, *text;              /* JOURNAL__SET */
    struct coord_journal_request request; /* JOURNAL__ADD */
    char data[];                          /* what the pointers point to */
};

struct coord_journal {
    sqlite3 *db;
    sqlite3_stmt *statements[JOURNAL__EPOCH + 1], *add_prompt, *remove_prompts, *remove_tokens;
    char *path;
    uint64_t first_epoch;
    pthread_t thread;
    bool thread_started;
    pthread_mutex_t mutex; /* of what follows */
    pthread_cond_t filled, written;
    struct journal__change *first, **last;
    size_t pending_bytes;
    uint64_t n_appended, n_written; /* changes */
    uint64_t next_number, epoch_limit;
    bool urgent, stopping;
    bool failed; /* nothing is kept any more */
};

/* SQLite's error as one that names the file and what to do. */
enum proto_status journal__file_error(const struct coord_journal *j, int rc,
                                      struct proto_error *error);
/* The file is damaged: what is odd about it. */
enum proto_status journal__odd(const struct coord_journal *j, const char *what,
                               struct proto_error *error);

/* Opens the file at j->path and checks that it is the cluster's. */
enum proto_status journal__open_file(struct coord_journal *j, const uint8_t *cluster,
                                     struct proto_error *error);
void journal__close_file(struct coord_journal *j);

/* Writes a list of changes in one transaction; an SQLite code. */
int journal__write(struct coord_journal *j, const struct journal__change *first);

#endif
