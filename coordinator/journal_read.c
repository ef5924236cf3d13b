/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/journal_parts.h"

#include <stdlib.h>
#include <string.h>

char *coord_journal_get(struct coord_journal *j, const char *name)
{
    sqlite3_stmt *s = NULL;
    char *text = NULL;
    if (!j)
        return NULL;
    if (sqlite3_prepare_v2(j->db, "SELECT value FROM fact WHERE name = ?", -1, &s, NULL) ==
        SQLITE_OK) {
        sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
        if (sqlite3_step(s) == SQLITE_ROW && sqlite3_column_type(s, 0) == SQLITE_TEXT)
            text = strdup((const char *)sqlite3_column_text(s, 0));
    }
    sqlite3_finalize(s);
    return text;
}

/* The prompts of a request; *prompts is malloc'ed, with the ids behind. */
static enum proto_status read_prompts(struct coord_journal *j, uint64_t number,
                                      struct coord_journal_prompt **prompts, size_t *n,
                                      struct proto_error *error)
{
    static const char sql[] = "SELECT ids, (SELECT count(*) FROM prompt WHERE request = ?1),"
                              " (SELECT sum(length(ids)) FROM prompt WHERE request = ?1)"
                              " FROM prompt WHERE request = ?1 ORDER BY number";
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(j->db, sql, -1, &s, NULL);
    char *ids = NULL;
    *prompts = NULL;
    *n = 0;
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(s, 1, (int64_t)number);
    while (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        size_t table = (size_t)sqlite3_column_int64(s, 1) * sizeof **prompts;
        if (!*prompts && !(*prompts = malloc(table + (size_t)sqlite3_column_int64(s, 2)))) {
            sqlite3_finalize(s);
            return proto_fail_nomem(error, table, "a kept request");
        }
        if (!ids)
            ids = (char *)*prompts + table;
        size_t bytes = (size_t)sqlite3_column_bytes(s, 0);
        if (bytes)
            memcpy(ids, sqlite3_column_blob(s, 0), bytes);
        (*prompts)[(*n)++] =
            (struct coord_journal_prompt){(const int32_t *)ids, bytes / sizeof(int32_t)};
        ids += bytes;
        rc = bytes % sizeof(int32_t) ? SQLITE_CORRUPT : SQLITE_OK;
    }
    sqlite3_finalize(s);
    if (rc != SQLITE_DONE) {
        free(*prompts);
        *prompts = NULL;
    }
    return rc == SQLITE_DONE      ? PROTO_OK
           : rc == SQLITE_CORRUPT ? journal__odd(j, "a prompt is no list of tokens", error)
                                  : journal__file_error(j, rc, error);
}

/* A row of tokens as an event; false where it is none. */
static bool read_token(sqlite3_stmt *s, struct coord_event *event)
{
    size_t bytes = (size_t)sqlite3_column_bytes(s, 6);
    *event = (struct coord_event){
        .kind = COORD_EVENT_TOKEN,
        .token = sqlite3_column_int(s, 2),
        .logprob = (float)sqlite3_column_double(s, 3),
        .sampler = {(uint64_t)sqlite3_column_int64(s, 4), sqlite3_column_double(s, 5)}};
    if (bytes > sizeof event->top || bytes % sizeof event->top[0])
        return false;
    if (bytes)
        memcpy(event->top, sqlite3_column_blob(s, 6), bytes);
    event->n_top = (uint32_t)(bytes / sizeof event->top[0]);
    return true;
}

static enum proto_status read_tokens(struct coord_journal *j, uint64_t number,
                                     const struct coord_journal_reader *reader,
                                     struct proto_error *error)
{
    static const char sql[] = "SELECT choice, pos, id, logprob, random, mu, top FROM token"
                              " WHERE request = ? ORDER BY choice, pos";
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(j->db, sql, -1, &s, NULL);
    int64_t choice = -1, pos = 0;
    bool sane = true, more = true;
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(s, 1, (int64_t)number);
    while (rc == SQLITE_OK && sane && more && sqlite3_step(s) == SQLITE_ROW) {
        struct coord_event event;
        pos = sqlite3_column_int64(s, 0) == choice ? pos + 1 : 0;
        choice = sqlite3_column_int64(s, 0);
        sane = sqlite3_column_int64(s, 1) == pos && choice >= 0 && choice <= UINT32_MAX &&
               read_token(s, &event);
        if (sane)
            more = reader->on_token(reader->user, (uint32_t)choice, &event);
    }
    rc = rc == SQLITE_OK ? sqlite3_reset(s) : rc;
    sqlite3_finalize(s);
    if (!sane)
        return journal__odd(j, "a token is missing", error);
    return rc ? journal__file_error(j, rc, error) : PROTO_OK;
}

static enum proto_status read_request(struct coord_journal *j, sqlite3_stmt *s,
                                      const struct coord_journal_reader *reader, bool *more,
                                      struct proto_error *error)
{
    struct coord_journal_request r = {.number = (uint64_t)sqlite3_column_int64(s, 0),
                                      .id = (const char *)sqlite3_column_text(s, 1),
                                      .created = sqlite3_column_int64(s, 2),
                                      .chat = sqlite3_column_int(s, 3),
                                      .seed = (uint64_t)sqlite3_column_int64(s, 4),
                                      .resume_s = (uint32_t)sqlite3_column_int64(s, 5),
                                      .body = sqlite3_column_blob(s, 6),
                                      .body_len = (size_t)sqlite3_column_bytes(s, 6),
                                      .finished = sqlite3_column_int64(s, 7)};
    struct coord_journal_prompt *prompts = NULL;
    if (!r.id || !r.body)
        return journal__odd(j, "a request without a body", error);
    enum proto_status status = read_prompts(j, r.number, &prompts, &r.n_prompts, error);
    if (status)
        return status;
    r.prompts = prompts;
    *more = reader->on_request(reader->user, &r);
    free(prompts);
    return *more ? read_tokens(j, r.number, reader, error) : PROTO_OK;
}

enum proto_status coord_journal_read(struct coord_journal *j,
                                     const struct coord_journal_reader *reader,
                                     struct proto_error *error)
{
    static const char sql[] = "SELECT number, id, created, chat, seed, resume, body, finished"
                              " FROM request ORDER BY number";
    sqlite3_stmt *s = NULL;
    if (!j)
        return PROTO_OK;
    int rc = sqlite3_prepare_v2(j->db, sql, -1, &s, NULL);
    enum proto_status status = PROTO_OK;
    bool more = true;
    while (rc == SQLITE_OK && !status && more && sqlite3_step(s) == SQLITE_ROW)
        status = read_request(j, s, reader, &more, error);
    rc = rc == SQLITE_OK ? sqlite3_reset(s) : rc;
    sqlite3_finalize(s);
    return !status && rc ? journal__file_error(j, rc, error) : status;
}
