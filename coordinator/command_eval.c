/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/backend.h"
#include "coordinator/commands.h"
#include "coordinator/files.h"
#include "coordinator/perplexity.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct eval_options {
    const char *ids, *logits, *perplexity;
};

/* ---- logits ---- */

/* "1 2 3" (spaces, commas, newlines) into ids; malloc'ed. */
static enum proto_status parse_ids(const char *text, int32_t **out, size_t *n,
                                   struct proto_error *error)
{
    int32_t *ids = malloc((strlen(text) / 2 + 1) * sizeof *ids);
    size_t count = 0;
    if (!ids)
        return proto_fail_nomem(error, strlen(text) * 2, "token ids");
    for (const char *at = text + strspn(text, " ,\t\n"); *at; at += strspn(at, " ,\t\n")) {
        char *end;
        errno = 0;
        long long id = strtoll(at, &end, 10);
        if (end == at || errno || id < 0 || id > INT32_MAX || !strchr(" ,\t\n", *end)) {
            free(ids);
            return proto_fail(error, PROTO_INVALID,
                              "--ids: expected numbers from 0 on with spaces between, found "
                              "\"%.20s\"",
                              at);
        }
        ids[count++] = (int32_t)id;
        at = end;
    }
    if (count == 0) {
        free(ids);
        return proto_fail(error, PROTO_INVALID, "--ids: no ids");
    }
    *out = ids;
    *n = count;
    return PROTO_OK;
}

struct output {
    FILE *file;
    uint64_t next;
};

static bool write_row(void *user, uint64_t pos, const float *row, size_t n_vocab)
{
    struct output *output = user;
    return pos == output->next++ && fwrite(row, sizeof *row, n_vocab, output->file) == n_vocab;
}

/* A file appears whole or not at all; a device or a pipe is written as it is. */
static enum proto_status write_logits(struct coord_backend *backend, const int32_t *ids, size_t n,
                                      const char *path, struct proto_error *error)
{
    char partial[4096];
    struct stat info;
    bool replace = stat(path, &info) != 0 || S_ISREG(info.st_mode);
    const char *suffix = replace ? ".part" : "";
    if ((size_t)snprintf(partial, sizeof partial, "%s%s", path, suffix) >= sizeof partial)
        return proto_fail(error, PROTO_INVALID, "--logits: the path is too long");
    struct output output = {.file = fopen(partial, "wb")};
    if (!output.file)
        return proto_fail_errno(error, errno, "write", partial);
    enum proto_status status = coord_backend_logits(backend, ids, n, write_row, &output, error);
    if (status == PROTO_CANCELLED && ferror(output.file))
        status = proto_fail_errno(error, errno, "write", path);
    if (fclose(output.file) != 0 && status == PROTO_OK)
        status = proto_fail_errno(error, errno, "write", path);
    if (status == PROTO_OK && output.next != n)
        status = proto_fail(error, PROTO_FORMAT, "%llu rows of logits came back, expected %zu",
                            (unsigned long long)output.next, n);
    if (status == PROTO_OK && replace && rename(partial, path) != 0)
        status = proto_fail_errno(error, errno, "write", path);
    if (status != PROTO_OK && replace)
        unlink(partial);
    return status;
}

static enum proto_status eval_logits(const struct coord_cli *cli, const struct eval_options *o,
                                     struct proto_error *error)
{
    struct coord_backend backend;
    int32_t *ids = NULL;
    size_t n = 0;
    enum proto_status status = parse_ids(o->ids, &ids, &n, error);
    if (status != PROTO_OK)
        return status;
    status = coord_backend_open(&backend, cli, n, error);
    if (status == PROTO_OK) {
        status = write_logits(&backend, ids, n, o->logits, error);
        coord_backend_close(&backend);
    }
    free(ids);
    return status;
}

/* ---- perplexity ---- */

static void show_window(uint64_t done, uint64_t of, double so_far)
{
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\rwindow %llu of %llu: %.4f\033[K%s", (unsigned long long)done,
                (unsigned long long)of, so_far, done == of ? "\r\033[K" : "");
}

static enum proto_status measure(struct coord_backend *backend, const struct coord_cli *cli,
                                 const char *path, struct proto_error *error)
{
    struct coord_perplexity result;
    char *text;
    size_t len, n;
    int32_t *ids = NULL;
    enum proto_status status = coord_read_file(path, &text, &len, error);
    if (status != PROTO_OK)
        return status;
    status = coord_backend_tokenize(backend, text, len, false, true, &ids, &n, error);
    free(text);
    if (status == PROTO_OK) {
        /* With BOS in front, the first id is it. */
        int32_t bos = n && backend->engine ? text_vocab_bos(coord_engine_vocab(backend->engine))
                      : n                  ? ids[0]
                                           : -1;
        status = coord_perplexity(backend, ids, n, cli->ctx, bos, show_window, &result, error);
    }
    free(ids);
    if (status == PROTO_OK)
        printf("perplexity: %.4f +- %.4f (%llu windows of %u, %llu tokens scored)\n", result.value,
               result.std_error, (unsigned long long)result.n_windows, cli->ctx,
               (unsigned long long)result.n_scored);
    return status;
}

static enum proto_status eval_perplexity(const struct coord_cli *cli, const struct eval_options *o,
                                         struct proto_error *error)
{
    struct coord_backend backend;
    struct coord_cli own = *cli;
    if (own.ctx == 0)
        own.ctx = 512;
    enum proto_status status = coord_backend_open(&backend, &own, own.ctx, error);
    if (status == PROTO_OK) {
        status = measure(&backend, &own, o->perplexity, error);
        coord_backend_close(&backend);
    }
    return status;
}

int command_eval(int argc, char **argv)
{
    struct eval_options o = {0};
    const struct coord_option options[] = {
        {0, "ids", "\"1 2 3\"", "token ids to compute", COORD_OPTION_TEXT, &o.ids, 0, 0, NULL},
        {0, "logits", "FILE", "write float32 logits there, one row a position", COORD_OPTION_TEXT,
         &o.logits, 0, 0, NULL},
        {0, "perplexity", "FILE", "measure the perplexity of a text in windows of --ctx",
         COORD_OPTION_TEXT, &o.perplexity, 0, 0, NULL},
    };
    const struct coord_command command = {
        .name = "eval",
        .positional = "",
        .summary = "Computes logits: --ids with --logits, or --perplexity.",
        .groups = COORD_OPTIONS_MODEL | COORD_OPTIONS_CLUSTER | COORD_OPTIONS_SERVER,
        .options = options,
        .n_options = sizeof options / sizeof *options};
    struct coord_cli cli;
    struct proto_error error;
    enum proto_status status;
    coord_cli_default(&cli);
    int stop = coord_cli_parse(&cli, &command, argc, argv);
    if (stop >= 0)
        return stop;
    if (o.perplexity && !o.ids && !o.logits)
        status = eval_perplexity(&cli, &o, &error);
    else if (o.ids && o.logits && !o.perplexity)
        status = eval_logits(&cli, &o, &error);
    else
        status = proto_fail(&error, PROTO_INVALID,
                            "say --ids \"1 2 3\" --logits FILE, or --perplexity FILE");
    return status == PROTO_OK ? 0 : coord_cli_fail(&command, &error);
}
