/* SPDX-License-Identifier: Apache-2.0 */
/* Values as text: Python's str() and repr(). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/template_tree.h"

static bool put_repr(struct text__run *run, struct text__buffer *buffer,
                     const struct text__value *v);

static bool put_text(struct text__run *run, struct text__buffer *buffer, const char *text)
{
    return text__put(run, buffer, text, strlen(text), false);
}

/* The digits of %e put as Python does: no exponent between 1e-4 and 1e16, at least one decimal. */
static void place_digits(const char *scientific, char out[TEXT__FLOAT_BYTES])
{
    char digits[20];
    size_t n = 0, at = 0;
    const char *p = scientific;
    if (*p == '-')
        out[at++] = *p++;
    for (; *p != 'e'; p++)
        if (*p != '.')
            digits[n++] = *p;
    int exponent = atoi(p + 1);
    while (n > 1 && digits[n - 1] == '0')
        n--;
    if (exponent < -4 || exponent >= 16) {
        at += (size_t)snprintf(out + at, TEXT__FLOAT_BYTES - at, "%c%s%.*se%+03d", digits[0],
                               n > 1 ? "." : "", (int)n - 1, digits + 1, exponent);
        return;
    }
    if (exponent < 0) {
        snprintf(out + at, TEXT__FLOAT_BYTES - at, "0.%.*s%.*s", -exponent - 1, "000", (int)n,
                 digits);
        return;
    }
    for (int i = 0; i < (int)n || i <= exponent + 1; i++) {
        if (i == exponent + 1)
            out[at++] = '.';
        out[at++] = i < (int)n ? digits[i] : '0';
    }
    out[at] = '\0';
}

void text__float_text(double real, char out[TEXT__FLOAT_BYTES])
{
    char scientific[TEXT__FLOAT_BYTES];
    if (!isfinite(real)) {
        snprintf(out, TEXT__FLOAT_BYTES, "%s", isnan(real) ? "nan" : real > 0 ? "inf" : "-inf");
        return;
    }
    for (int precision = 0; precision <= 16; precision++) {
        snprintf(scientific, sizeof scientific, "%.*e", precision, real);
        if (strtod(scientific, NULL) == real)
            break;
    }
    place_digits(scientific, out);
}

static bool put_escape(struct text__run *run, struct text__buffer *buffer, uint32_t c, char quote,
                       bool untrusted)
{
    char text[16];
    if (c == '\n' || c == '\r' || c == '\t')
        snprintf(text, sizeof text, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
    else if (c == '\\' || c == (uint32_t)(unsigned char)quote)
        snprintf(text, sizeof text, "\\%c", (char)c);
    else
        snprintf(text, sizeof text, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
    return text__put(run, buffer, text, strlen(text), untrusted);
}

/* A string in quotes, the kind that it does not contain if possible. */
static bool put_quoted(struct text__run *run, struct text__buffer *buffer,
                       const struct text__string *s)
{
    const char *bytes = text__bytes(s);
    char quote = s->len && memchr(bytes, '\'', s->len) && !memchr(bytes, '"', s->len) ? '"' : '\'';
    size_t done = 0;
    if (!text__put(run, buffer, &quote, 1, false))
        return false;
    for (size_t at = 0; at < s->len;) {
        size_t first = at;
        uint32_t c = text__char(bytes, &at);
        if (c != '\\' && c != (uint32_t)(unsigned char)quote && text__is_printable(c))
            continue;
        if (!text__put_part(run, buffer, s, done, first - done) ||
            !put_escape(run, buffer, c, quote, text__untrusted_at(s, first)))
            return false;
        done = at;
    }
    return text__put_part(run, buffer, s, done, s->len - done) &&
           text__put(run, buffer, &quote, 1, false);
}

static bool put_items(struct text__run *run, struct text__buffer *buffer,
                      const struct text__list *list, const char *open, const char *close)
{
    if (!put_text(run, buffer, open))
        return false;
    for (size_t i = 0; i < list->n; i++)
        if ((i > 0 && !put_text(run, buffer, ", ")) || !put_repr(run, buffer, &list->items[i]))
            return false;
    return put_text(run, buffer, close);
}

/* By its first and last number, which is enough for a step of 1. */
static bool put_range(struct text__run *run, struct text__buffer *buffer,
                      const struct text__list *list)
{
    char text[100];
    int64_t first = list->n ? list->items[0].integer : 0, step = 1, stop = 0;
    if (list->n > 1)
        step = list->items[1].integer - first;
    if (list->n)
        stop = list->items[list->n - 1].integer + step;
    snprintf(text, sizeof text, step == 1 ? "range(%lld, %lld)" : "range(%lld, %lld, %lld)",
             (long long)first, (long long)stop, (long long)step);
    return put_text(run, buffer, text);
}

static bool put_list(struct text__run *run, struct text__buffer *buffer,
                     const struct text__list *list)
{
    switch (list->type) {
    case TEXT__LIST_LIST:
        return put_items(run, buffer, list, "[", "]");
    case TEXT__LIST_TUPLE:
        return put_items(run, buffer, list, "(", list->n == 1 ? ",)" : ")");
    case TEXT__LIST_RANGE:
        return put_range(run, buffer, list);
    case TEXT__LIST_KEYS:
        return put_items(run, buffer, list, "dict_keys([", "])");
    case TEXT__LIST_VALUES:
        return put_items(run, buffer, list, "dict_values([", "])");
    case TEXT__LIST_ITEMS:
        return put_items(run, buffer, list, "dict_items([", "])");
    default:
        return put_text(run, buffer, "<generator object>");
    }
}

static bool put_dict(struct text__run *run, struct text__buffer *buffer,
                     const struct text__dict *dict)
{
    if (!put_text(run, buffer, "{"))
        return false;
    for (size_t i = 0; i < dict->n; i++)
        if ((i > 0 && !put_text(run, buffer, ", ")) ||
            !put_repr(run, buffer, &dict->pairs[i].key) || !put_text(run, buffer, ": ") ||
            !put_repr(run, buffer, &dict->pairs[i].value))
            return false;
    return put_text(run, buffer, "}");
}

static bool put_container(struct text__run *run, struct text__buffer *buffer,
                          const struct text__value *v)
{
    if (!text__enter(run))
        return false;
    bool done;
    if (v->kind == TEXT__LIST)
        done = put_list(run, buffer, v->list);
    else if (v->kind == TEXT__DICT)
        done = put_dict(run, buffer, v->dict);
    else
        done = put_text(run, buffer, "<Namespace ") && put_dict(run, buffer, v->dict) &&
               put_text(run, buffer, ">");
    text__leave(run);
    return done;
}

static bool put_repr(struct text__run *run, struct text__buffer *buffer,
                     const struct text__value *v)
{
    if (v->kind == TEXT__STRING)
        return put_quoted(run, buffer, v->string);
    if (v->kind == TEXT__UNDEFINED)
        return put_text(run, buffer, "Undefined");
    return text__put_str(run, buffer, v);
}

bool text__put_str(struct text__run *run, struct text__buffer *buffer, const struct text__value *v)
{
    char text[TEXT__FLOAT_BYTES];
    if (!text__work(run, 1))
        return false;
    switch (v->kind) {
    case TEXT__ABSENT:
    case TEXT__UNDEFINED:
        return true;
    case TEXT__NONE:
        return put_text(run, buffer, "None");
    case TEXT__BOOL:
        return put_text(run, buffer, v->boolean ? "True" : "False");
    case TEXT__INT:
        snprintf(text, sizeof text, "%lld", (long long)v->integer);
        return put_text(run, buffer, text);
    case TEXT__FLOAT:
        text__float_text(v->real, text);
        return put_text(run, buffer, text);
    case TEXT__STRING:
        return text__put_string(run, buffer, v->string);
    case TEXT__LIST:
    case TEXT__DICT:
    case TEXT__NAMESPACE:
        return put_container(run, buffer, v);
    case TEXT__MACRO:
        return put_text(run, buffer, "<Macro '") &&
               text__put_string(run, buffer, v->macro->node->value.string) &&
               put_text(run, buffer, "'>");
    default:
        return put_text(run, buffer, "<") && put_text(run, buffer, text__type_name(v)) &&
               put_text(run, buffer, ">");
    }
}

const struct text__string *text__str(struct text__run *run, const struct text__value *v)
{
    if (v->kind == TEXT__STRING && !v->string->markup)
        return v->string;
    if (v->kind == TEXT__STRING) {
        struct text__string *plain = text__take(run, sizeof *plain);
        if (plain) {
            *plain = *v->string;
            plain->markup = false;
        }
        return plain;
    }
    struct text__buffer *buffer = text__buffer_new(run);
    if (!buffer || !text__put_str(run, buffer, v))
        return NULL;
    return text__whole(run, buffer);
}
