/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whoever opens the file takes a lock for as long as it is open, so there is one coordinator a
 * file. One connection, in SQLite's serialized mode: reading happens before there is anything to
 * write, and the writer is the only one that begins transactions.
 */
#include "coordinator/journal_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/log.h"

#define APPLICATION 0x43564e31 /* "CVN1" */
#define VERSION     1
#define BUSY_MS     2000 /* for a coordinator that is just ending */

static const char schema[] =
    "CREATE TABLE fact (name TEXT PRIMARY KEY, value) WITHOUT ROWID;"
    "CREATE TABLE request (number INTEGER PRIMARY KEY, id TEXT NOT NULL, created INTEGER NOT NULL,"
    " chat INTEGER NOT NULL, seed INTEGER NOT NULL, resume INTEGER NOT NULL, body BLOB NOT NULL,"
    " finished INTEGER NOT NULL);"
    "CREATE TABLE prompt (request INTEGER, number INTEGER, ids BLOB NOT NULL,"
    " PRIMARY KEY (request, number)) WITHOUT ROWID;"
    "CREATE TABLE token (request INTEGER, choice INTEGER, pos INTEGER, id INTEGER NOT NULL,"
    " logprob REAL NOT NULL, random INTEGER NOT NULL, mu REAL NOT NULL, top BLOB,"
    " PRIMARY KEY (request, choice, pos)) WITHOUT ROWID;";

/* ---- errors ---- */

enum proto_status journal__file_error(const struct coord_journal *j, int rc,
                                      struct proto_error *error)
{
    const char *why = j->db ? sqlite3_errmsg(j->db) : sqlite3_errstr(rc);
    switch (rc & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return proto_fail(
            error, PROTO_BUSY,
            "the state file %s is in use by another coordinator: end that one, or say "
            "--state with another file",
            j->path);
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
        return proto_fail(error, PROTO_FORMAT,
                          "the state file %s is damaged (%s): move it away (unfinished requests in "
                          "it are lost), or say --state with another file",
                          j->path, why);
    case SQLITE_NOMEM:
        return proto_fail_nomem(error, 0, "the state file");
    default:
        return proto_fail(error, PROTO_IO,
                          "the state file %s cannot be used: %s; make its folder writable, or say "
                          "--state with another file, or --state off",
                          j->path, why);
    }
}

static enum proto_status run(struct coord_journal *j, const char *sql, struct proto_error *error)
{
    int rc = sqlite3_exec(j->db, sql, NULL, NULL, NULL);
    return rc ? journal__file_error(j, rc, error) : PROTO_OK;
}

static enum proto_status ask_integer(struct coord_journal *j, const char *sql, int64_t *out,
                                     struct proto_error *error)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(j->db, sql, -1, &s, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(s);
    *out = rc == SQLITE_ROW ? sqlite3_column_int64(s, 0) : 0;
    sqlite3_finalize(s);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? PROTO_OK : journal__file_error(j, rc, error);
}

enum proto_status journal__odd(const struct coord_journal *j, const char *what,
                               struct proto_error *error)
{
    return proto_fail(error, PROTO_FORMAT,
                      "the state file %s is damaged (%s): move it away (unfinished requests in it "
                      "are lost), or say --state with another file",
                      j->path, what);
}

/* ---- changes ---- */

static int write_request(struct coord_journal *j, sqlite3_stmt *s, const struct journal__change *c)
{
    const struct coord_journal_request *r = &c->request;
    sqlite3_bind_int64(s, 1, (int64_t)c->number);
    sqlite3_bind_text(s, 2, r->id, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 3, r->created);
    sqlite3_bind_int(s, 4, r->chat);
    sqlite3_bind_int64(s, 5, (int64_t)r->seed);
    sqlite3_bind_int64(s, 6, r->resume_s);
    sqlite3_bind_blob64(s, 7, r->body, r->body_len, SQLITE_STATIC);
    int rc = sqlite3_step(s);
    for (size_t i = 0; i < r->n_prompts && rc == SQLITE_DONE; i++) {
        const struct coord_journal_prompt *p = &r->prompts[i];
        sqlite3_bind_int64(j->add_prompt, 1, (int64_t)c->number);
        sqlite3_bind_int64(j->add_prompt, 2, (int64_t)i);
        sqlite3_bind_blob64(j->add_prompt, 3, p->ids, p->n_ids * sizeof *p->ids, SQLITE_STATIC);
        rc = sqlite3_step(j->add_prompt);
        sqlite3_reset(j->add_prompt);
    }
    return rc;
}

static int write_token(sqlite3_stmt *s, const struct journal__change *c)
{
    sqlite3_bind_int64(s, 1, (int64_t)c->number);
    sqlite3_bind_int64(s, 2, c->choice);
    sqlite3_bind_int64(s, 3, (int64_t)c->pos);
    sqlite3_bind_int64(s, 4, c->token);
    sqlite3_bind_double(s, 5, (double)c->logprob);
    sqlite3_bind_int64(s, 6, (int64_t)c->sampler.random);
    sqlite3_bind_double(s, 7, c->sampler.mu);
    sqlite3_bind_blob64(s, 8, c->n_top ? c->top : NULL, c->n_top * sizeof(struct text_candidate),
                        SQLITE_STATIC);
    return sqlite3_step(s);
}

static int remove_request(struct coord_journal *j, sqlite3_stmt *s, const struct journal__change *c)
{
    sqlite3_stmt *const all[] = {j->remove_tokens, j->remove_prompts, s};
    int rc = SQLITE_DONE;
    for (size_t i = 0; i < 3 && rc == SQLITE_DONE; i++) {
        sqlite3_bind_int64(all[i], 1, (int64_t)c->number);
        rc = sqlite3_step(all[i]);
        sqlite3_reset(all[i]);
    }
    return rc;
}

static int write_change(struct coord_journal *j, const struct journal__change *c)
{
    sqlite3_stmt *s = j->statements[c->kind];
    int rc = SQLITE_DONE;
    switch (c->kind) {
    case JOURNAL__SET:
        sqlite3_bind_text(s, 1, c->name, -1, SQLITE_STATIC);
        sqlite3_bind_text(s, 2, c->text, -1, SQLITE_STATIC);
        rc = sqlite3_step(s);
        break;
    case JOURNAL__ADD:
        rc = write_request(j, s, c);
        break;
    case JOURNAL__TOKEN:
        rc = write_token(s, c);
        break;
    case JOURNAL__FINISH:
        sqlite3_bind_int64(s, 1, (int64_t)c->number);
        sqlite3_bind_int64(s, 2, c->when);
        rc = sqlite3_step(s);
        break;
    case JOURNAL__REMOVE:
        rc = remove_request(j, s, c);
        break;
    case JOURNAL__EPOCH:
        sqlite3_bind_int64(s, 1, (int64_t)c->number);
        rc = sqlite3_step(s);
        break;
    }
    sqlite3_reset(s);
    sqlite3_clear_bindings(s);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* One transaction, synced where it has an epoch in it. */
int journal__write(struct coord_journal *j, const struct journal__change *first)
{
    bool sync = false;
    for (const struct journal__change *c = first; c; c = c->next)
        sync |= c->kind == JOURNAL__EPOCH;
    int rc = sqlite3_exec(j->db,
                          sync ? "PRAGMA synchronous = FULL; BEGIN IMMEDIATE"
                               : "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE",
                          NULL, NULL, NULL);
    for (const struct journal__change *c = first; c && rc == SQLITE_OK; c = c->next)
        rc = write_change(j, c);
    return rc == SQLITE_OK ? sqlite3_exec(j->db, "COMMIT", NULL, NULL, NULL) : rc;
}

/* ---- life ---- */

/* A file that is not ours is left as it is. */
static enum proto_status check_file(struct coord_journal *j, bool *fresh, struct proto_error *error)
{
    int64_t application, version, tables;
    enum proto_status status;
    if ((status = ask_integer(j, "SELECT count(*) FROM sqlite_schema", &tables, error)) ||
        (status = ask_integer(j, "PRAGMA application_id", &application, error)) ||
        (status = ask_integer(j, "PRAGMA user_version", &version, error)))
        return status;
    *fresh = tables == 0 && application == 0;
    if (*fresh)
        return PROTO_OK;
    if (application != APPLICATION)
        return proto_fail(
            error, PROTO_FORMAT,
            "%s is another program's database, not a state file of caravan serve: say "
            "--state with another file",
            j->path);
    if (version != VERSION)
        return proto_fail(error, PROTO_VERSION,
                          "the state file %s has format %lld, expected %d: another release of "
                          "Caravan wrote it; move it away, or say --state with another file",
                          j->path, (long long)version, VERSION);
    return PROTO_OK;
}

static enum proto_status check_whole(struct coord_journal *j, struct proto_error *error)
{
    sqlite3_stmt *s = NULL;
    char why[200] = "it cannot be checked";
    int rc = sqlite3_prepare_v2(j->db, "PRAGMA quick_check(1)", -1, &s, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW)
        snprintf(why, sizeof why, "%s", (const char *)sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
    if (rc != SQLITE_ROW)
        return journal__file_error(j, rc, error);
    return strcmp(why, "ok") == 0 ? PROTO_OK : journal__odd(j, why, error);
}

static enum proto_status set_up(struct coord_journal *j, struct proto_error *error)
{
    char sql[160];
    snprintf(sql, sizeof sql, "BEGIN; PRAGMA application_id = %d; PRAGMA user_version = %d;",
             APPLICATION, VERSION);
    enum proto_status status;
    if ((status = run(j, sql, error)) || (status = run(j, schema, error)))
        return status;
    return run(j, "COMMIT", error);
}

static void cluster_text(const uint8_t key[PROTO_KEY_BYTES], char text[2 * PROTO_KEY_BYTES + 1])
{
    sodium_bin2hex(text, 2 * PROTO_KEY_BYTES + 1, key, PROTO_KEY_BYTES);
}

static enum proto_status put_fact(struct coord_journal *j, const char *name, const char *value,
                                  struct proto_error *error)
{
    char *sql = sqlite3_mprintf("INSERT OR REPLACE INTO fact VALUES (%Q, %Q)", name, value);
    enum proto_status status = sql ? run(j, sql, error) : proto_fail_nomem(error, 0, "a fact");
    sqlite3_free(sql);
    return status;
}

/* The cluster that the file is of is the first that opens it. */
static enum proto_status check_cluster(struct coord_journal *j, const uint8_t *key,
                                       struct proto_error *error)
{
    char mine[2 * PROTO_KEY_BYTES + 1];
    cluster_text(key, mine);
    char *found = coord_journal_get(j, "cluster");
    bool same = found && strcmp(found, mine) == 0;
    enum proto_status status = PROTO_OK;
    if (!found)
        status = put_fact(j, "cluster", mine, error);
    else if (!same)
        status = proto_fail(error, PROTO_REFUSED,
                            "the state file %s is of the cluster with key %.16s..., this one's key "
                            "is %.16s...: say --state with another file",
                            j->path, found, mine);
    free(found);
    return status;
}

/* Begins above every epoch that may have been used, and says so before it uses one. */
static enum proto_status take_epochs(struct coord_journal *j, struct proto_error *error)
{
    int64_t limit;
    enum proto_status status = ask_integer(
        j, "SELECT CAST(value AS INTEGER) FROM fact WHERE name = 'epoch'", &limit, error);
    if (status)
        return status;
    char text[24];
    j->first_epoch = limit > 0 ? (uint64_t)limit : 0;
    j->epoch_limit = j->first_epoch + JOURNAL__EPOCH_BLOCK;
    snprintf(text, sizeof text, "%llu", (unsigned long long)j->epoch_limit);
    return put_fact(j, "epoch", text, error);
}

static enum proto_status prepare(struct coord_journal *j, struct proto_error *error)
{
    const struct {
        sqlite3_stmt **out;
        const char *sql;
    } all[] = {
        {&j->statements[JOURNAL__SET], "INSERT OR REPLACE INTO fact VALUES (?, ?)"},
        {&j->statements[JOURNAL__ADD], "INSERT INTO request VALUES (?, ?, ?, ?, ?, ?, ?, 0)"},
        {&j->statements[JOURNAL__TOKEN],
         "INSERT OR IGNORE INTO token VALUES (?, ?, ?, ?, ?, ?, ?, ?)"},
        {&j->statements[JOURNAL__FINISH], "UPDATE request SET finished = ?2 WHERE number = ?1"},
        {&j->statements[JOURNAL__REMOVE], "DELETE FROM request WHERE number = ?"},
        {&j->statements[JOURNAL__EPOCH], "UPDATE fact SET value = ? WHERE name = 'epoch'"},
        {&j->add_prompt, "INSERT INTO prompt VALUES (?, ?, ?)"},
        {&j->remove_prompts, "DELETE FROM prompt WHERE request = ?"},
        {&j->remove_tokens, "DELETE FROM token WHERE request = ?"},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        int rc = sqlite3_prepare_v2(j->db, all[i].sql, -1, all[i].out, NULL);
        if (rc)
            return journal__file_error(j, rc, error);
    }
    return PROTO_OK;
}

/* Prompts are nobody else's business. */
static enum proto_status make_private(const char *path, struct proto_error *error)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return proto_fail(error, PROTO_IO,
                          "cannot open the state file \"%s\": %s: say --state with a file that can "
                          "be written, or --state off",
                          path, strerror(errno));
    close(fd);
    return PROTO_OK;
}

enum proto_status journal__open_file(struct coord_journal *j, const uint8_t *cluster,
                                     struct proto_error *error)
{
    bool fresh = false;
    int64_t last = 0;
    enum proto_status status = make_private(j->path, error);
    if (status)
        return status;
    int rc = sqlite3_open_v2(j->path, &j->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_FULLMUTEX, NULL);
    if (rc)
        return journal__file_error(j, rc, error);
    sqlite3_extended_result_codes(j->db, 1);
    sqlite3_busy_timeout(j->db, BUSY_MS);
    /* A look at what it is comes before anything that would change it. */
    if ((status = check_file(j, &fresh, error)) ||
        (status = run(j,
                      "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;"
                      "PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF",
                      error)) ||
        (fresh && (status = set_up(j, error))) || (status = check_whole(j, error)) ||
        (status = check_cluster(j, cluster, error)) || (status = take_epochs(j, error)) ||
        (status = ask_integer(j, "SELECT max(number) FROM request", &last, error)))
        return status;
    j->next_number = (uint64_t)(last > 0 ? last : 0) + 1;
    return prepare(j, error);
}

void journal__close_file(struct coord_journal *j)
{
    sqlite3_stmt *const others[] = {j->add_prompt, j->remove_prompts, j->remove_tokens};
    for (size_t i = 0; i < sizeof j->statements / sizeof j->statements[0]; i++)
        sqlite3_finalize(j->statements[i]);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        sqlite3_finalize(others[i]);
    sqlite3_close(j->db);
}

enum proto_status coord_journal_set_model(struct coord_journal *j, const char *model,
                                          struct proto_error *error)
{
    if (!j)
        return PROTO_OK;
    char *found = coord_journal_get(j, "model");
    bool same = found && strcmp(found, model) == 0;
    enum proto_status status = PROTO_OK;
    if (found && !same) {
        proto_log(PROTO_LOG_WARN, "COORD-STATE-MODEL",
                  "file=%s its requests are of another model and are forgotten", j->path);
        status = run(j, "DELETE FROM token; DELETE FROM prompt; DELETE FROM request", error);
    }
    free(found);
    return status || same ? status : put_fact(j, "model", model, error);
}

static bool make_folder(const char *path)
{
    return mkdir(path, 0700) == 0 || errno == EEXIST;
}

enum proto_status coord_journal_path(char *path, size_t bytes, const char *what,
                                     struct proto_error *error)
{
    uint8_t hash[8];
    char name[2 * sizeof hash + 1], base[PATH_MAX];
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    crypto_generichash(hash, sizeof hash, (const uint8_t *)what, strlen(what), NULL, 0);
    sodium_bin2hex(name, sizeof name, hash, sizeof hash);
    if (!(state && *state) && !(home && *home))
        return proto_fail(
            error, PROTO_NOTFOUND,
            "there is no HOME to keep the coordinator's state in: say --state FILE, or "
            "--state off");
    int n = state && *state ? snprintf(base, sizeof base, "%s", state)
                            : snprintf(base, sizeof base, "%s/.local", home);
    bool made = n < (int)sizeof base - 16 && make_folder(base);
    if (made && !(state && *state)) {
        strcat(base, "/state");
        made = make_folder(base);
    }
    if (made) {
        strcat(base, "/caravan");
        made = make_folder(base);
    }
    if (!made)
        return proto_fail(error, PROTO_IO,
                          "the folder %.300s for the coordinator's state cannot be made: %s; say "
                          "--state FILE, or --state off",
                          base, strerror(errno));
    n = snprintf(path, bytes, "%s/%s.state", base, name);
    return n < (int)bytes ? PROTO_OK
                          : proto_fail(error, PROTO_LIMIT, "%.200s: the path is too long", base);
}
