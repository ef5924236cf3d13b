/* SPDX-License-Identifier: Apache-2.0 */
/* Making templates and rendering them: the limits, and where a run keeps its failure. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/template_tree.h"

const struct text__limits text__default_limits = {
    .steps = (uint64_t)1 << 25, /* about a second */
    .memory_bytes = (size_t)64 << 20,
    .text_bytes = (size_t)16 << 20,
};

/* Creation. */

/* Bytes of the UTF-8 character at text; 0 if there is none. */
static size_t char_bytes(const unsigned char *text, size_t len)
{
    if (text[0] < 0x80)
        return 1;
    size_t n = text[0] >= 0xf0 ? 4 : text[0] >= 0xe0 ? 3 : 2;
    if (text[0] < 0xc2 || text[0] > 0xf4 || n > len)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xf0 && text[1] < 0x90);
    bool surrogate = text[0] == 0xed && text[1] >= 0xa0;
    bool beyond = text[0] == 0xf4 && text[1] >= 0x90;
    return overlong || surrogate || beyond ? 0 : n;
}

static bool is_utf8(const char *text, size_t len)
{
    for (size_t at = 0, n; at < len; at += n)
        if (!(n = char_bytes((const unsigned char *)text + at, len - at)))
            return false;
    return true;
}

/* Copies the source with \n for every line's end, but without one at its end. */
static size_t copy_source(char *out, const char *source, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (source[i] == '\r' && i + 1 < len && source[i + 1] == '\n')
            continue;
        out[n++] = source[i] == '\r' ? '\n' : source[i];
    }
    return n > 0 && out[n - 1] == '\n' ? n - 1 : n;
}

static enum proto_status parse(struct text_template *tmpl, const char *source, size_t len,
                               struct proto_error *error)
{
    struct text__token *tokens;
    char *copy = text__arena_take(&tmpl->arena, len + 1);
    if (!copy)
        return proto_fail_nomem(error, len, "a template");
    enum proto_status status = text__lex(copy, copy_source(copy, source, len), &tokens, error);
    if (status == PROTO_OK)
        status = text__parse(tmpl, tokens, error);
    free(tokens);
    return status;
}

enum proto_status text_template_create(struct text_template **out, const char *source, size_t len,
                                       struct proto_error *error)
{
    *out = NULL;
    if (len > TEXT__MAX_SOURCE_BYTES)
        return proto_fail(error, PROTO_LIMIT, "the template has %zu bytes; at most %zu are read",
                          len, TEXT__MAX_SOURCE_BYTES);
    if (!is_utf8(source, len))
        return proto_fail(error, PROTO_FORMAT, "the template is not UTF-8");
    struct text_template *tmpl = calloc(1, sizeof *tmpl);
    if (!tmpl)
        return proto_fail_nomem(error, sizeof *tmpl, "a template");
    text__arena_init(&tmpl->arena, TEXT__MAX_TREE_BYTES);
    enum proto_status status = parse(tmpl, source, len, error);
    if (status != PROTO_OK) {
        text_template_destroy(tmpl);
        return status;
    }
    *out = tmpl;
    return PROTO_OK;
}

void text_template_destroy(struct text_template *tmpl)
{
    if (!tmpl)
        return;
    text__arena_finish(&tmpl->arena);
    free(tmpl);
}

/* A run's failures. The first one stays. */

static bool fail(struct text__run *run, enum proto_status status, const char *format, va_list args)
{
    char text[PROTO_ERROR_TEXT_BYTES - 32];
    vsnprintf(text, sizeof text, format, args);
    /* What a message holds may be part of it, but it is one line. */
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20)
            *c = ' ';
    if (run->status == PROTO_OK)
        run->status = proto_fail(run->error, status, "template line %u: %s", run->line, text);
    return false;
}

bool text__fail(struct text__run *run, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fail(run, PROTO_INVALID, format, args);
    va_end(args);
    return false;
}

bool text__fail_limit(struct text__run *run, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fail(run, PROTO_LIMIT, format, args);
    va_end(args);
    return false;
}

bool text__fail_undefined(struct text__run *run, const struct text__value *value)
{
    int len = (int)text__cut(value->string, 200);
    const char *name = text__bytes(value->string);
    struct text__value owner = {.kind = value->owner};
    if (value->owner == TEXT__STRING)
        return text__fail(run, "%.*s", len, name);
    if (value->owner == TEXT__ABSENT)
        return text__fail(run, "'%.*s' is undefined", len, name);
    return text__fail(run, "'%s object' has no attribute '%.*s'",
                      owner.kind == TEXT__LIST ? "list" : text__type_name(&owner), len, name);
}

bool text__fail_memory(struct text__run *run, size_t bytes)
{
    if (run->arena.exhausted)
        return text__fail_limit(run, "it needs more than %zu bytes of values",
                                run->limits.memory_bytes);
    if (run->status == PROTO_OK)
        run->status = proto_fail_nomem(run->error, bytes, "a rendered template");
    return false;
}

void *text__take(struct text__run *run, size_t bytes)
{
    void *piece = text__arena_take(&run->arena, bytes);
    if (!piece)
        text__fail_memory(run, bytes);
    return piece;
}

static bool count_work(struct text__run *run, uint64_t work)
{
    uint64_t most = run->limits.steps * TEXT__STEP_BYTES;
    if (run->status != PROTO_OK)
        return false;
    if (work <= most - run->work) {
        run->work += work;
        return true;
    }
    return text__fail_limit(run, "it takes more than %llu steps",
                            (unsigned long long)run->limits.steps);
}

bool text__work(struct text__run *run, uint64_t steps)
{
    return count_work(run, steps * TEXT__STEP_BYTES);
}

bool text__work_bytes(struct text__run *run, size_t bytes)
{
    return count_work(run, bytes + 16);
}

bool text__enter(struct text__run *run)
{
    if (run->depth == TEXT__MAX_DEPTH)
        return text__fail_limit(run, "statements, expressions or values are nested too deeply");
    run->depth++;
    return true;
}

void text__leave(struct text__run *run)
{
    run->depth--;
}

/* Rendering. */

/* Those variables that the template has names for. */
static bool set_variables(struct text__run *run, struct text__scope *scope, const json_t *variables)
{
    for (unsigned i = 0; i < run->tmpl->n_names; i++) {
        const struct text__string *s = run->tmpl->names[i];
        const json_t *json = json_object_getn(variables, text__bytes(s), s->len);
        struct text__value value;
        if (!json)
            continue;
        bool trusted = text__string_is(s, "bos_token") || text__string_is(s, "eos_token");
        bool done = text__string_is(s, "messages") ? text__from_messages(run, json, &value)
                                                   : text__from_json(run, json, !trusted, &value);
        if (!done || !text__scope_set(run, scope, i, &value))
            return false;
    }
    return true;
}

static bool run_template(struct text__run *run, const json_t *variables)
{
    struct text__scope *scope = text__take(run, sizeof *scope);
    run->out = text__buffer_new(run);
    return scope && run->out && set_variables(run, scope, variables) &&
           text__exec(run, scope, run->tmpl->body);
}

/* Out of the arena. */
static enum proto_status copy_out(const struct text__buffer *from, struct text_rendered *out,
                                  struct proto_error *error)
{
    size_t spans_bytes = from->n_spans * sizeof *out->untrusted;
    out->text = malloc(from->len + 1);
    out->untrusted = malloc(spans_bytes ? spans_bytes : 1);
    if (!out->text || !out->untrusted) {
        text_rendered_finish(out);
        return proto_fail_nomem(error, from->len + spans_bytes, "a rendered template");
    }
    if (from->len)
        memcpy(out->text, from->data, from->len);
    out->text[from->len] = '\0';
    out->len = from->len;
    if (spans_bytes)
        memcpy(out->untrusted, from->spans, spans_bytes);
    out->n_untrusted = from->n_spans;
    return PROTO_OK;
}

enum proto_status text__render(const struct text_template *tmpl, const json_t *variables,
                               long long unix_time, const struct text__limits *limits,
                               struct text_rendered *out, struct proto_error *error)
{
    struct text__run run = {
        .tmpl = tmpl, .limits = *limits, .line = 1, .unix_time = unix_time, .error = error};
    *out = (struct text_rendered){0};
    if (!json_is_object(variables))
        return proto_fail(error, PROTO_INVALID, "a template's variables must be a JSON object");
    text__arena_init(&run.arena, limits->memory_bytes);
    run_template(&run, variables);
    enum proto_status status = run.status;
    if (status == PROTO_OK)
        status = copy_out(run.out, out, error);
    text__arena_finish(&run.arena);
    return status;
}

enum proto_status text_template_render(const struct text_template *tmpl, const json_t *variables,
                                       long long unix_time, struct text_rendered *out,
                                       struct proto_error *error)
{
    return text__render(tmpl, variables, unix_time, &text__default_limits, out, error);
}

void text_rendered_finish(struct text_rendered *rendered)
{
    free(rendered->text);
    free(rendered->untrusted);
    *rendered = (struct text_rendered){0};
}
