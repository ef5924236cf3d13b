/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a coordinator must still know after it was killed, in one SQLite file: whose cluster and
 * which model it is, epochs that were used, requests with the tokens that they have so far, and
 * facts by name. Changes are appended to a list in memory and written by a thread of its own, one
 * transaction every 50 ms (WAL, synchronous=NORMAL: a killed process loses at most those, a machine
 * without power a little more), so nobody but coord_journal_sync's caller waits for a disk.
 *
 * When the file cannot be written (a full disk), one warning says so, and from then on nothing is
 * kept: every call still works. Any thread, unless said otherwise. Where a journal is asked for,
 * NULL is one that keeps nothing.
 */
#ifndef COORDINATOR_JOURNAL_H
#define COORDINATOR_JOURNAL_H

#include "coordinator/engine.h"

struct coord_journal;

/* Opens or makes the file (mode 0600). cluster: the cluster's public key; zeros for one without.
 * Errors name the file and what to do: PROTO_FORMAT for what is damaged or no journal,
 * PROTO_VERSION for a later version's, PROTO_REFUSED for another cluster's, PROTO_BUSY for one in
 * use. */
enum proto_status coord_journal_open(struct coord_journal **out, const char *path,
                                     const uint8_t cluster[PROTO_KEY_BYTES],
                                     struct proto_error *error);
/* Writes what is left. NULL is allowed. */
void coord_journal_close(struct coord_journal *journal);

/* $XDG_STATE_HOME/caravan/NAME.state, else $HOME/.local/state/caravan/NAME.state, NAME being a hash
 * of `what`. The folder is made (0700). */
enum proto_status coord_journal_path(char *path, size_t bytes, const char *what,
                                     struct proto_error *error);

/* Every epoch up to this one may have been used; 0 for a new file. */
uint64_t coord_journal_first_epoch(const struct coord_journal *journal);
/* Says how far epochs have come. Blocks of them are written down before they are reached. */
void coord_journal_note_epoch(struct coord_journal *journal, uint64_t epoch);

/* Requests of another model are forgotten. Before the calls below. */
enum proto_status coord_journal_set_model(struct coord_journal *journal, const char *model,
                                          struct proto_error *error);

/* Facts: the last value of a name; malloc'ed, NULL where there is none. */
void coord_journal_set(struct coord_journal *journal, const char *name, const char *text);
char *coord_journal_get(struct coord_journal *journal, const char *name);

struct coord_journal_prompt {
    const int32_t *ids;
    size_t n_ids;
};

struct coord_journal_request {
    uint64_t number; /* within the journal; coord_journal_add gives it */
    const char *id;  /* for clients */
    int64_t created; /* Unix time */
    bool chat;
    uint64_t seed;
    uint32_t resume_s;
    const char *body; /* as the client sent it */
    size_t body_len;
    const struct coord_journal_prompt *prompts;
    size_t n_prompts;
    int64_t finished; /* Unix time; 0: not yet */
};

/* Keeps a request. Its number, 0 where nothing is kept. */
uint64_t coord_journal_add(struct coord_journal *journal,
                           const struct coord_journal_request *request);
/* Waits until all that was told so far is written, or will not be. */
void coord_journal_sync(struct coord_journal *journal);
/* Token `pos` (from 0, one after the other) of one of its choices: a COORD_EVENT_TOKEN. */
void coord_journal_token(struct coord_journal *journal, uint64_t number, uint32_t choice,
                         uint64_t pos, const struct coord_event *event);
void coord_journal_finish(struct coord_journal *journal, uint64_t number, int64_t when);
void coord_journal_remove(struct coord_journal *journal, uint64_t number);

/* What the file has, oldest first: each request, then its tokens, of each choice in their order.
 * What the callbacks get is valid during the call. False ends the reading. Before anything is
 * added. */
struct coord_journal_reader {
    bool (*on_request)(void *user, const struct coord_journal_request *request);
    bool (*on_token)(void *user, uint32_t choice, const struct coord_event *event);
    void *user;
};
enum proto_status coord_journal_read(struct coord_journal *journal,
                                     const struct coord_journal_reader *reader,
                                     struct proto_error *error);

#endif
