/* SPDX-License-Identifier: Apache-2.0 */
/* Filters on single values. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/template_value.h"

/* The value as a string that stays markup if it is. */
static const struct text__string *soft(struct text__run *run, const struct text__value *v)
{
    return v->kind == TEXT__STRING ? v->string : text__str(run, v);
}

static bool filter_default(struct text__run *run, const struct text__value *self,
                           const struct text__bound *args, struct text__value *out)
{
    bool falsy = args->v[1].kind != TEXT__ABSENT && text__truth(&args->v[1]);
    *out = *self;
    if (self->kind != TEXT__UNDEFINED && !(falsy && !text__truth(self)))
        return true;
    *out = args->v[0];
    if (out->kind == TEXT__ABSENT)
        *out = text__string(text__borrow(run, "", 0, false));
    return out->kind != TEXT__STRING || out->string;
}

static bool filter_length(struct text__run *run, const struct text__value *self,
                          const struct text__bound *args, struct text__value *out)
{
    (void)args;
    size_t n;
    if (!text__length(run, self, &n))
        return false;
    *out = text__int((int64_t)n);
    return true;
}

static bool filter_string(struct text__run *run, const struct text__value *self,
                          const struct text__bound *args, struct text__value *out)
{
    (void)args;
    *out = text__string(soft(run, self));
    return out->string != NULL;
}

static bool filter_safe(struct text__run *run, const struct text__value *self,
                        const struct text__bound *args, struct text__value *out)
{
    (void)args;
    const struct text__string *s = soft(run, self);
    struct text__string *markup = s ? text__take(run, sizeof *markup) : NULL;
    if (!markup)
        return false;
    *markup = *s;
    markup->markup = true;
    *out = text__string(markup);
    return true;
}

static bool filter_trim(struct text__run *run, const struct text__value *self,
                        const struct text__bound *args, struct text__value *out)
{
    const struct text__string *chars = NULL, *s = soft(run, self);
    bool given = args->v[0].kind != TEXT__ABSENT && args->v[0].kind != TEXT__NONE;
    if (!s || (given && !text__want_string(run, &args->v[0], "trim", &chars)))
        return false;
    *out = text__string(text__strip(run, s, chars, TEXT__STRIP_BOTH));
    return out->string != NULL;
}

static bool recase(struct text__run *run, const struct text__value *self, enum text__case to,
                   struct text__value *out)
{
    const struct text__string *s = soft(run, self);
    *out = text__string(s ? text__recase(run, s, to) : NULL);
    return out->string != NULL;
}

static bool filter_upper(struct text__run *run, const struct text__value *self,
                         const struct text__bound *args, struct text__value *out)
{
    (void)args;
    return recase(run, self, TEXT__CASE_UPPER, out);
}

static bool filter_lower(struct text__run *run, const struct text__value *self,
                         const struct text__bound *args, struct text__value *out)
{
    (void)args;
    return recase(run, self, TEXT__CASE_LOWER, out);
}

static bool filter_capitalize(struct text__run *run, const struct text__value *self,
                              const struct text__bound *args, struct text__value *out)
{
    (void)args;
    return recase(run, self, TEXT__CASE_CAPITAL, out);
}

static bool filter_title(struct text__run *run, const struct text__value *self,
                         const struct text__bound *args, struct text__value *out)
{
    (void)args;
    return recase(run, self, TEXT__CASE_TITLE, out);
}

static bool filter_replace(struct text__run *run, const struct text__value *self,
                           const struct text__bound *args, struct text__value *out)
{
    int64_t count = -1;
    bool given = args->v[2].kind != TEXT__ABSENT && args->v[2].kind != TEXT__NONE;
    if (given && !text__want_int(run, &args->v[2], "replace", &count))
        return false;
    const struct text__string *s = text__str(run, self);
    const struct text__string *old = text__str(run, &args->v[0]);
    const struct text__string *with = text__str(run, &args->v[1]);
    *out = text__string(s && old && with ? text__replace(run, s, old, with, count) : NULL);
    return out->string != NULL;
}

/* A width in spaces, or a string, into a string. */
static const struct text__string *indention(struct text__run *run, const struct text__value *v,
                                            int64_t width)
{
    if (v->kind == TEXT__STRING)
        return v->string;
    if (v->kind != TEXT__ABSENT && !text__want_int(run, v, "indent", &width))
        return NULL;
    struct text__buffer *buffer = text__buffer_new(run);
    for (int64_t i = 0; buffer && i < width; i++)
        if (!text__put(run, buffer, " ", 1, false))
            return NULL;
    return buffer ? text__whole(run, buffer) : NULL;
}

static bool put_lines(struct text__run *run, struct text__buffer *buffer,
                      const struct text__list *lines, const struct text__string *indent, bool first,
                      bool blank)
{
    for (size_t i = 0; i < lines->n; i++) {
        const struct text__string *line = lines->items[i].string;
        bool indented = i == 0 ? first : blank || line->len > 0;
        if ((i > 0 && !text__put(run, buffer, "\n", 1, false)) ||
            (indented && !text__put_string(run, buffer, indent)) ||
            !text__put_string(run, buffer, line))
            return false;
    }
    return true;
}

static bool filter_indent(struct text__run *run, const struct text__value *self,
                          const struct text__bound *args, struct text__value *out)
{
    static const struct text__call no_arguments = {0};
    struct text__value s = text__string(soft(run, self)), lines, method;
    const struct text__string *indent = indention(run, &args->v[0], 4);
    struct text__string *line_end = text__borrow(run, "\n", 1, false);
    struct text__string *name = text__borrow(run, "splitlines", 10, false);
    struct text__buffer *buffer = text__buffer_new(run);
    if (!s.string || !indent || !line_end || !name || !buffer ||
        !(s.string = text__concat(run, s.string, line_end)) ||
        !text__method_find(&s, name, &method) ||
        !text__invoke(run, text__method(&method, &s), &s, &no_arguments, &lines) ||
        !put_lines(run, buffer, lines.list, indent, text__truth(&args->v[1]),
                   text__truth(&args->v[2])))
        return false;
    struct text__string *whole = text__whole(run, buffer);
    if (whole)
        whole->markup = s.string->markup;
    *out = text__string(whole);
    return whole != NULL;
}

static bool separators(struct text__run *run, const struct text__value *v,
                       struct text__json_style *style)
{
    if (v->kind == TEXT__ABSENT || v->kind == TEXT__NONE)
        return true;
    bool two = v->kind == TEXT__LIST && v->list->type <= TEXT__LIST_TUPLE && v->list->n == 2;
    if (!two)
        return text__fail(run, "tojson: separators must be a tuple of two strings");
    return text__want_string(run, &v->list->items[0], "tojson", &style->item_separator) &&
           text__want_string(run, &v->list->items[1], "tojson", &style->key_separator);
}

static bool filter_tojson(struct text__run *run, const struct text__value *self,
                          const struct text__bound *args, struct text__value *out)
{
    struct text__json_style style = {.ensure_ascii = text__truth(&args->v[0]),
                                     .sort_keys = text__truth(&args->v[3])};
    bool indented = args->v[1].kind != TEXT__ABSENT && args->v[1].kind != TEXT__NONE;
    if ((indented && !(style.indent = indention(run, &args->v[1], 0))) ||
        !separators(run, &args->v[2], &style))
        return false;
    struct text__buffer *buffer = text__buffer_new(run);
    if (!buffer || !text__put_json(run, buffer, &style, self))
        return false;
    *out = text__string(text__whole(run, buffer));
    return out->string != NULL;
}

static bool filter_from_json(struct text__run *run, const struct text__value *self,
                             const struct text__bound *args, struct text__value *out)
{
    (void)args;
    const struct text__string *s;
    return text__want_string(run, self, "from_json", &s) && text__parse_json(run, s, out);
}

/* Numbers. */

/* The string without white space around it and without "_" between digits; false if it is longer
 * than a number can sensibly be. */
static bool number_text(struct text__run *run, const struct text__string *s, char out[64])
{
    const struct text__string *bare = text__strip(run, s, NULL, TEXT__STRIP_BOTH);
    size_t n = 0;
    out[0] = '\0';
    if (!bare || bare->len >= 64)
        return false;
    for (size_t i = 0; i < bare->len; i++) {
        char c = text__bytes(bare)[i];
        if (c != '_')
            out[n++] = c;
    }
    out[n] = '\0';
    return n > 0;
}

static bool string_to_real(struct text__run *run, const struct text__string *s, double *out)
{
    char text[64], *end;
    if (!number_text(run, s, text) || text[strspn(text, "+-.0123456789eE")])
        return false;
    *out = strtod(text, &end);
    return *end == '\0';
}

static bool to_real(struct text__run *run, const struct text__value *v, double *out)
{
    int64_t integer;
    if (v->kind == TEXT__STRING)
        return string_to_real(run, v->string, out);
    if (text__as_int(v, &integer))
        *out = (double)integer;
    else
        *out = v->real;
    return text__is_number(v);
}

static bool string_to_int(struct text__run *run, const struct text__string *s, int64_t base,
                          int64_t *out)
{
    char text[64], *end;
    if (!number_text(run, s, text))
        return false;
    errno = 0;
    *out = strtoll(text, &end, (int)base);
    return *end == '\0' && errno == 0;
}

static bool filter_int(struct text__run *run, const struct text__value *self,
                       const struct text__bound *args, struct text__value *out)
{
    int64_t base = 10, integer;
    double real;
    if (self->kind == TEXT__UNDEFINED)
        return text__fail_undefined(run, self);
    if (args->v[1].kind != TEXT__ABSENT && !text__want_int(run, &args->v[1], "int", &base))
        return false;
    if (base < 2 || base > 36)
        return text__fail(run, "int: the base must be from 2 to 36");
    *out = args->v[0].kind == TEXT__ABSENT ? text__int(0) : args->v[0];
    if (text__as_int(self, &integer) ||
        (self->kind == TEXT__STRING && string_to_int(run, self->string, base, &integer)))
        *out = text__int(integer);
    else if (to_real(run, self, &real) && fabs(real) < 9.2e18)
        *out = text__int((int64_t)real);
    return run->status == PROTO_OK;
}

static bool filter_float(struct text__run *run, const struct text__value *self,
                         const struct text__bound *args, struct text__value *out)
{
    double real;
    if (self->kind == TEXT__UNDEFINED)
        return text__fail_undefined(run, self);
    *out = args->v[0].kind == TEXT__ABSENT ? text__real(0) : args->v[0];
    if (to_real(run, self, &real))
        *out = text__real(real);
    return run->status == PROTO_OK;
}

const struct text__callable *text__filter_find(const struct text__string *name)
{
    static const struct text__callable filters[] = {
        {"default", filter_default, 0, false, {"default_value", "boolean"}},
        {"d", filter_default, 0, false, {"default_value", "boolean"}},
        {"length", filter_length, 0, false, {NULL}},
        {"count", filter_length, 0, false, {NULL}},
        {"string", filter_string, 0, false, {NULL}},
        {"safe", filter_safe, 0, false, {NULL}},
        {"trim", filter_trim, 0, false, {"chars"}},
        {"upper", filter_upper, 0, false, {NULL}},
        {"lower", filter_lower, 0, false, {NULL}},
        {"capitalize", filter_capitalize, 0, false, {NULL}},
        {"title", filter_title, 0, false, {NULL}},
        {"replace", filter_replace, 2, false, {"old", "new", "count"}},
        {"indent", filter_indent, 0, false, {"width", "first", "blank"}},
        {"tojson", filter_tojson, 0, false, {"ensure_ascii", "indent", "separators", "sort_keys"}},
        {"from_json", filter_from_json, 0, false, {NULL}},
        {"int", filter_int, 0, false, {"default", "base"}},
        {"float", filter_float, 0, false, {"default"}},
    };
    const struct text__callable *found =
        text__callable_find(filters, sizeof filters / sizeof *filters, name);
    return found ? found : text__sequence_filter_find(name);
}
