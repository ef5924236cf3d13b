/* SPDX-License-Identifier: Apache-2.0 */
/* `caravan tokenize` and `caravan detokenize`: text to token ids and back, without a cluster. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/commands.h"
#include "coordinator/text/vocab.h"

static const char tokenize_help[] =
    "usage: caravan tokenize -m MODEL [--special] < TEXT\n"
    "\n"
    "Prints the ids of TEXT's tokens, separated by spaces. No BOS is added.\n"
    "\n"
    "  -m, --model MODEL  a GGUF file with a vocabulary; tensors are not needed\n"
    "  --special          special tokens spelled in the text become their ids\n";

static const char detokenize_help[] =
    "usage: caravan detokenize -m MODEL [--special] [ID...] (or < IDS)\n"
    "\n"
    "Prints the text of token ids, given as arguments or on standard input.\n"
    "\n"
    "  -m, --model MODEL  a GGUF file with a vocabulary; tensors are not needed\n"
    "  --special          special tokens are printed as their text, not left out\n";

enum { EXIT_USAGE = 2 };

struct options {
    const char *model;
    bool special;
    bool help;
};

static bool read_options(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {
        {"model", required_argument, NULL, 'm'},
        {"special", no_argument, NULL, 's'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    *o = (struct options){0};
    optind = 0;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, ":m:h", longs, NULL)) != -1;) {
        switch (c) {
        case 'm':
            o->model = optarg;
            break;
        case 's':
            o->special = true;
            break;
        case 'h':
            o->help = true;
            break;
        default:
            fprintf(stderr, "caravan %s: %s %s; see caravan %s --help\n", argv[0],
                    c == ':' ? "a value is missing after" : "unknown option", argv[optind - 1],
                    argv[0]);
            return false;
        }
    }
    if (!o->help && !o->model) {
        fprintf(stderr, "caravan %s: -m MODEL is missing; see caravan %s --help\n", argv[0],
                argv[0]);
        return false;
    }
    return true;
}

static int failed(const char *command, const struct proto_error *error)
{
    fprintf(stderr, "caravan %s: %s\n", command, error->text);
    return EXIT_FAILURE;
}

static enum proto_status read_stdin(char **text, size_t *len, struct proto_error *error)
{
    size_t cap = 1 << 16, n = 0;
    char *buffer = malloc(cap);
    while (buffer) {
        n += fread(buffer + n, 1, cap - 1 - n, stdin);
        if (n + 1 < cap)
            break;
        cap *= 2;
        char *larger = realloc(buffer, cap);
        if (!larger)
            free(buffer);
        buffer = larger;
    }
    if (!buffer)
        return proto_fail_nomem(error, cap, "standard input");
    if (ferror(stdin)) {
        free(buffer);
        return proto_fail_errno(error, errno, "reading", "standard input");
    }
    buffer[n] = '\0';
    *text = buffer;
    *len = n;
    return PROTO_OK;
}

static enum proto_status open_vocab(const char *path, struct text_vocab **vocab,
                                    struct proto_error *error)
{
    struct shard_gguf *gguf;
    enum proto_status status = shard_gguf_open(&gguf, path, error);
    if (status != PROTO_OK)
        return status;
    status = text_vocab_create(vocab, gguf, error);
    shard_gguf_close(gguf);
    return status;
}

static enum proto_status flush_stdout(struct proto_error *error)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return PROTO_OK;
    return proto_fail_errno(error, errno, "writing", "standard output");
}

static enum proto_status tokenize(const struct options *o, struct proto_error *error)
{
    struct text_vocab *vocab = NULL;
    char *text = NULL;
    int32_t *ids = NULL;
    size_t len = 0, n = 0;
    enum proto_status status = open_vocab(o->model, &vocab, error);
    if (status == PROTO_OK)
        status = read_stdin(&text, &len, error);
    if (status == PROTO_OK)
        status = text_encode(vocab, text, len, o->special, &ids, &n, error);
    if (status == PROTO_OK) {
        for (size_t i = 0; i < n; i++)
            printf(i ? " %d" : "%d", ids[i]);
        putchar('\n');
        status = flush_stdout(error);
    }
    free(ids);
    free(text);
    text_vocab_destroy(vocab);
    return status;
}

struct ids {
    int32_t *v;
    size_t n, cap;
};

/* Adds the ids of a text, which are separated by white space. */
static enum proto_status parse_ids(const char *text, size_t len, struct ids *ids,
                                   struct proto_error *error)
{
    static const char space[] = " \t\r\n";
    const char *end_of_text = text + len;
    for (const char *p = text + strspn(text, space); p < end_of_text; p += strspn(p, space)) {
        char *end;
        errno = 0;
        long value = strtol(p, &end, 10);
        bool number = end > p && (*end == '\0' || strchr(space, *end));
        if (!number || errno == ERANGE || value < 0 || value > INT32_MAX ||
            (*end == '\0' && end < end_of_text))
            return proto_fail(error, PROTO_INVALID, "\"%.*s\" is not a token id",
                              (int)strcspn(p, space) % 64, p);
        if (ids->n == ids->cap) {
            size_t cap = ids->cap ? 2 * ids->cap : 256;
            int32_t *v = realloc(ids->v, cap * sizeof *v);
            if (!v)
                return proto_fail_nomem(error, cap * sizeof *v, "token ids");
            ids->v = v;
            ids->cap = cap;
        }
        ids->v[ids->n++] = (int32_t)value;
        p = end;
    }
    return PROTO_OK;
}

static enum proto_status gather_ids(char **args, int n_args, struct ids *ids,
                                    struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    if (n_args == 0) {
        char *text;
        size_t len;
        status = read_stdin(&text, &len, error);
        if (status != PROTO_OK)
            return status;
        status = parse_ids(text, len, ids, error);
        free(text);
    }
    for (int i = 0; i < n_args && status == PROTO_OK; i++)
        status = parse_ids(args[i], strlen(args[i]), ids, error);
    return status;
}

static enum proto_status detokenize(const struct options *o, char **args, int n_args,
                                    struct proto_error *error)
{
    struct text_vocab *vocab = NULL;
    struct ids ids = {0};
    char *text = NULL;
    size_t len = 0;
    enum proto_status status = open_vocab(o->model, &vocab, error);
    if (status == PROTO_OK)
        status = gather_ids(args, n_args, &ids, error);
    if (status == PROTO_OK)
        status = text_decode(vocab, ids.v, ids.n, o->special, &text, &len, error);
    if (status == PROTO_OK) {
        fwrite(text, 1, len, stdout);
        status = flush_stdout(error);
    }
    free(text);
    free(ids.v);
    text_vocab_destroy(vocab);
    return status;
}

int command_tokenize(int argc, char **argv)
{
    struct options o;
    struct proto_error error;
    if (!read_options(argc, argv, &o))
        return EXIT_USAGE;
    if (o.help) {
        fputs(tokenize_help, stdout);
        return EXIT_SUCCESS;
    }
    if (optind < argc) {
        fprintf(stderr,
                "caravan tokenize: \"%s\" is too much: the text is read from standard "
                "input\n",
                argv[optind]);
        return EXIT_USAGE;
    }
    return tokenize(&o, &error) == PROTO_OK ? EXIT_SUCCESS : failed(argv[0], &error);
}

int command_detokenize(int argc, char **argv)
{
    struct options o;
    struct proto_error error;
    if (!read_options(argc, argv, &o))
        return EXIT_USAGE;
    if (o.help) {
        fputs(detokenize_help, stdout);
        return EXIT_SUCCESS;
    }
    return detokenize(&o, argv + optind, argc - optind, &error) == PROTO_OK
               ? EXIT_SUCCESS
               : failed(argv[0], &error);
}
