/* SPDX-License-Identifier: Apache-2.0 */
/* Methods of strings and dicts. */
#include <string.h>

#include "coordinator/text/template_value.h"

/* Splitting. */

static bool push_part(struct text__run *run, struct text__list *list, const struct text__string *s,
                      size_t first, size_t end)
{
    struct text__value part = text__string(text__part(run, s, first, end - first));
    return part.string && text__work(run, 1) && text__list_push(run, list, &part);
}

static size_t skip_space(const struct text__string *s, size_t at, bool space)
{
    while (at < s->len) {
        size_t next = at;
        if (text__is_space(text__char(text__bytes(s), &next)) != space)
            break;
        at = next;
    }
    return at;
}

static bool split_words(struct text__run *run, const struct text__string *s, int64_t most,
                        struct text__list *list)
{
    for (size_t at = skip_space(s, 0, true); at < s->len;) {
        size_t end = most-- == 0 ? s->len : skip_space(s, at, false);
        if (!push_part(run, list, s, at, end))
            return false;
        at = skip_space(s, end, true);
    }
    return text__work_bytes(run, s->len);
}

static bool split_at(struct text__run *run, const struct text__string *s,
                     const struct text__string *mark, int64_t most, struct text__list *list)
{
    size_t at = 0;
    for (; most != 0; most--) {
        size_t end = text__find(run, s, at, mark);
        if (end == SIZE_MAX)
            break;
        if (!push_part(run, list, s, at, end))
            return false;
        at = end + mark->len;
    }
    return push_part(run, list, s, at, s->len);
}

/* From the right; the parts are turned round at the end. */
static bool split_at_right(struct text__run *run, const struct text__string *s,
                           const struct text__string *mark, int64_t most, struct text__list *list)
{
    size_t end = s->len;
    for (; most != 0; most--) {
        size_t at = text__find_last(run, s, end, mark);
        if (at == SIZE_MAX)
            break;
        if (!push_part(run, list, s, at + mark->len, end))
            return false;
        end = at;
    }
    if (!push_part(run, list, s, 0, end))
        return false;
    for (size_t i = 0; i < list->n / 2; i++) {
        struct text__value swap = list->items[i];
        list->items[i] = list->items[list->n - 1 - i];
        list->items[list->n - 1 - i] = swap;
    }
    return true;
}

static bool split(struct text__run *run, const struct text__value *self,
                  const struct text__bound *args, bool right, struct text__value *out)
{
    const struct text__string *mark = NULL;
    int64_t most = -1;
    bool words = args->v[0].kind == TEXT__ABSENT || args->v[0].kind == TEXT__NONE;
    if ((!words && !text__want_string(run, &args->v[0], "split", &mark)) ||
        (args->v[1].kind != TEXT__ABSENT && !text__want_int(run, &args->v[1], "split", &most)))
        return false;
    if (mark && mark->len == 0)
        return text__fail(run, "split: empty separator");
    if (words && right && most >= 0)
        return text__fail(run, "rsplit: a separator is needed where maxsplit is given");
    struct text__list *list = text__list_new(run, TEXT__LIST_LIST, 2);
    if (!list || !(words   ? split_words(run, self->string, most, list)
                   : right ? split_at_right(run, self->string, mark, most, list)
                           : split_at(run, self->string, mark, most, list)))
        return false;
    *out = text__list(list);
    return true;
}

static bool method_split(struct text__run *run, const struct text__value *self,
                         const struct text__bound *args, struct text__value *out)
{
    return split(run, self, args, false, out);
}

static bool method_rsplit(struct text__run *run, const struct text__value *self,
                          const struct text__bound *args, struct text__value *out)
{
    return split(run, self, args, true, out);
}

/* Bytes of the line's end at `at`, as str.splitlines sees them; 0: none. */
static size_t line_end(const struct text__string *s, size_t at)
{
    size_t next = at;
    uint32_t c = text__char(text__bytes(s), &next);
    if (c == '\r' && next < s->len && text__bytes(s)[next] == '\n')
        return 2;
    bool ends = (c >= '\n' && c <= '\r') || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
                c == 0x2029;
    return ends ? next - at : 0;
}

static bool method_splitlines(struct text__run *run, const struct text__value *self,
                              const struct text__bound *args, struct text__value *out)
{
    (void)args;
    const struct text__string *s = self->string;
    struct text__list *list = text__list_new(run, TEXT__LIST_LIST, 2);
    size_t first = 0;
    if (!list || !text__work_bytes(run, s->len))
        return false;
    for (size_t at = 0; at < s->len;) {
        size_t end = line_end(s, at);
        if (end == 0) {
            text__char(text__bytes(s), &at);
            continue;
        }
        if (!push_part(run, list, s, first, at))
            return false;
        first = at += end;
    }
    *out = text__list(list);
    return first == s->len || push_part(run, list, s, first, s->len);
}

/* Ends. */

static bool strip(struct text__run *run, const struct text__value *self,
                  const struct text__bound *args, unsigned sides, struct text__value *out)
{
    const struct text__string *chars = NULL;
    bool given = args->v[0].kind != TEXT__ABSENT && args->v[0].kind != TEXT__NONE;
    if (given && !text__want_string(run, &args->v[0], "strip", &chars))
        return false;
    *out = text__string(text__strip(run, self->string, chars, sides));
    return out->string != NULL;
}

static bool method_strip(struct text__run *run, const struct text__value *self,
                         const struct text__bound *args, struct text__value *out)
{
    return strip(run, self, args, TEXT__STRIP_BOTH, out);
}

static bool method_lstrip(struct text__run *run, const struct text__value *self,
                          const struct text__bound *args, struct text__value *out)
{
    return strip(run, self, args, TEXT__STRIP_LEFT, out);
}

static bool method_rstrip(struct text__run *run, const struct text__value *self,
                          const struct text__bound *args, struct text__value *out)
{
    return strip(run, self, args, TEXT__STRIP_RIGHT, out);
}

static bool has_end(const struct text__string *s, const struct text__string *part, bool front)
{
    return part->len <= s->len && memcmp(text__bytes(s) + (front ? 0 : s->len - part->len),
                                         text__bytes(part), part->len) == 0;
}

/* Whether the string begins or ends with a string, or with any of a tuple's. */
static bool test_end(struct text__run *run, const struct text__value *self,
                     const struct text__bound *args, bool front, struct text__value *out)
{
    const char *name = front ? "startswith" : "endswith";
    const struct text__value *any = &args->v[0];
    size_t n = 1;
    if (text__is_list(any, TEXT__LIST_TUPLE)) {
        n = any->list->n;
        any = any->list->items;
    }
    *out = text__bool(false);
    for (size_t i = 0; i < n && !out->boolean; i++) {
        const struct text__string *part;
        if (!text__want_string(run, &any[i], name, &part) || !text__work_bytes(run, part->len))
            return false;
        out->boolean = has_end(self->string, part, front);
    }
    return true;
}

static bool method_startswith(struct text__run *run, const struct text__value *self,
                              const struct text__bound *args, struct text__value *out)
{
    return test_end(run, self, args, true, out);
}

static bool method_endswith(struct text__run *run, const struct text__value *self,
                            const struct text__bound *args, struct text__value *out)
{
    return test_end(run, self, args, false, out);
}

/* Other strings made of it. */

static bool method_upper(struct text__run *run, const struct text__value *self,
                         const struct text__bound *args, struct text__value *out)
{
    (void)args;
    *out = text__string(text__recase(run, self->string, TEXT__CASE_UPPER));
    return out->string != NULL;
}

static bool method_lower(struct text__run *run, const struct text__value *self,
                         const struct text__bound *args, struct text__value *out)
{
    (void)args;
    *out = text__string(text__recase(run, self->string, TEXT__CASE_LOWER));
    return out->string != NULL;
}

static bool method_capitalize(struct text__run *run, const struct text__value *self,
                              const struct text__bound *args, struct text__value *out)
{
    (void)args;
    *out = text__string(text__recase(run, self->string, TEXT__CASE_CAPITAL));
    return out->string != NULL;
}

static bool method_replace(struct text__run *run, const struct text__value *self,
                           const struct text__bound *args, struct text__value *out)
{
    const struct text__string *old, *with;
    int64_t count = -1;
    if (!text__want_string(run, &args->v[0], "replace", &old) ||
        !text__want_string(run, &args->v[1], "replace", &with) ||
        (args->v[2].kind != TEXT__ABSENT && !text__want_int(run, &args->v[2], "replace", &count)))
        return false;
    if (self->string->markup && !(with = text__escape(run, with)))
        return false;
    *out = text__string(text__replace(run, self->string, old, with, count));
    return out->string != NULL;
}

static bool method_find(struct text__run *run, const struct text__value *self,
                        const struct text__bound *args, struct text__value *out)
{
    const struct text__string *part;
    if (!text__want_string(run, &args->v[0], "find", &part))
        return false;
    size_t at = text__find(run, self->string, 0, part);
    struct text__string before = *self->string;
    before.len = at;
    *out = text__int(at == SIZE_MAX ? -1 : (int64_t)text__n_chars(&before));
    return text__work(run, 1);
}

static bool method_count(struct text__run *run, const struct text__value *self,
                         const struct text__bound *args, struct text__value *out)
{
    const struct text__string *part;
    int64_t n = 0;
    if (!text__want_string(run, &args->v[0], "count", &part))
        return false;
    if (part->len == 0)
        n = (int64_t)text__n_chars(self->string) + 1;
    for (size_t at = 0; part->len && (at = text__find(run, self->string, at, part)) != SIZE_MAX;
         at += part->len)
        n++;
    *out = text__int(n);
    return text__work(run, (uint64_t)n);
}

static bool method_join(struct text__run *run, const struct text__value *self,
                        const struct text__bound *args, struct text__value *out)
{
    struct text__value *items;
    size_t n;
    bool markup = self->string->markup;
    struct text__buffer *buffer = text__buffer_new(run);
    if (!buffer || !text__items(run, &args->v[0], &items, &n))
        return false;
    for (size_t i = 0; i < n; i++) {
        const struct text__string *item;
        if (!text__want_string(run, &items[i], "join", &item) ||
            (markup && !(item = text__escape(run, item))) ||
            (i > 0 && !text__put_string(run, buffer, self->string)) ||
            !text__put_string(run, buffer, item))
            return false;
    }
    struct text__string *joined = text__whole(run, buffer);
    if (!joined)
        return false;
    joined->markup = markup;
    *out = text__string(joined);
    return true;
}

/* str.format. */

/* The argument that a field names: "" is the next one. NULL after a failure. */
static const struct text__value *field_value(struct text__run *run, const struct text__call *call,
                                             const char *field, size_t len, size_t *next)
{
    size_t i = 0, digits = 0;
    while (digits < len && digits < 6 && field[digits] >= '0' && field[digits] <= '9')
        i = 10 * i + (size_t)(field[digits++] - '0');
    if (len == 0)
        i = (*next)++;
    if (digits == len && i < call->n_args)
        return &call->args[i];
    for (size_t k = 0; k < call->n_named; k++)
        if (call->named[k].name->len == len &&
            memcmp(text__bytes(call->named[k].name), field, len) == 0)
            return &call->named[k].value;
    if (memchr(field, ':', len) || memchr(field, '!', len) || memchr(field, '.', len) ||
        memchr(field, '[', len))
        text__fail(run, "format: fields other than {}, {0} and {name} are not supported");
    else
        text__fail(run, "format: there is no argument for a field");
    return NULL;
}

static bool put_field(struct text__run *run, struct text__buffer *buffer,
                      const struct text__value *v, bool markup)
{
    if (!markup)
        return text__put_str(run, buffer, v);
    const struct text__string *s = v->kind == TEXT__STRING ? v->string : text__str(run, v);
    return s && (s = text__escape(run, s)) && text__put_string(run, buffer, s);
}

/* The template from its bracket at *at: one that is doubled, or a field. */
static bool put_bracket(struct text__run *run, struct text__buffer *buffer,
                        const struct text__string *s, const struct text__call *call, size_t *at,
                        size_t *next)
{
    const char *bytes = text__bytes(s), *bracket = bytes + *at;
    bool twice = *at + 1 < s->len && bracket[1] == bracket[0];
    const char *close = memchr(bracket, '}', s->len - *at);
    if (twice) {
        *at += 2;
        return text__put_part(run, buffer, s, *at - 1, 1);
    }
    if (!close || close == bracket)
        return text__fail(run, "format: a single '%c'", *bracket);
    const struct text__value *v =
        field_value(run, call, bracket + 1, (size_t)(close - bracket) - 1, next);
    *at = (size_t)(close - bytes) + 1;
    return v && put_field(run, buffer, v, s->markup);
}

static bool method_format(struct text__run *run, const struct text__value *self,
                          const struct text__bound *args, struct text__value *out)
{
    const struct text__string *s = self->string;
    struct text__buffer *buffer = text__buffer_new(run);
    size_t next = 0;
    for (size_t at = 0; buffer && at < s->len;) {
        size_t plain = at;
        while (plain < s->len && text__bytes(s)[plain] != '{' && text__bytes(s)[plain] != '}')
            plain++;
        if (!text__put_part(run, buffer, s, at, plain - at))
            return false;
        at = plain;
        if (at < s->len && !put_bracket(run, buffer, s, args->call, &at, &next))
            return false;
    }
    struct text__string *whole = buffer ? text__whole(run, buffer) : NULL;
    if (whole)
        whole->markup = s->markup;
    *out = text__string(whole);
    return whole != NULL;
}

/* Dicts. */

static bool method_get(struct text__run *run, const struct text__value *self,
                       const struct text__bound *args, struct text__value *out)
{
    struct text__value *found;
    if (!text__dict_get(run, self->dict, &args->v[0], &found))
        return false;
    *out = found ? *found : args->v[1].kind == TEXT__ABSENT ? text__none() : args->v[1];
    return true;
}

static bool dict_list(struct text__run *run, const struct text__value *self,
                      enum text__list_type type, struct text__value *out)
{
    *out = text__list(text__dict_list(run, self->dict, type));
    return out->list != NULL;
}

static bool method_items(struct text__run *run, const struct text__value *self,
                         const struct text__bound *args, struct text__value *out)
{
    (void)args;
    return dict_list(run, self, TEXT__LIST_ITEMS, out);
}

static bool method_keys(struct text__run *run, const struct text__value *self,
                        const struct text__bound *args, struct text__value *out)
{
    (void)args;
    return dict_list(run, self, TEXT__LIST_KEYS, out);
}

static bool method_values(struct text__run *run, const struct text__value *self,
                          const struct text__bound *args, struct text__value *out)
{
    (void)args;
    return dict_list(run, self, TEXT__LIST_VALUES, out);
}

static const struct text__callable of_string[] = {
    {"split", method_split, 0, false, {"sep", "maxsplit"}},
    {"rsplit", method_rsplit, 0, false, {"sep", "maxsplit"}},
    {"splitlines", method_splitlines, 0, false, {NULL}},
    {"strip", method_strip, 0, false, {"chars"}},
    {"lstrip", method_lstrip, 0, false, {"chars"}},
    {"rstrip", method_rstrip, 0, false, {"chars"}},
    {"startswith", method_startswith, 1, false, {"prefix"}},
    {"endswith", method_endswith, 1, false, {"suffix"}},
    {"upper", method_upper, 0, false, {NULL}},
    {"lower", method_lower, 0, false, {NULL}},
    {"capitalize", method_capitalize, 0, false, {NULL}},
    {"replace", method_replace, 2, false, {"old", "new", "count"}},
    {"find", method_find, 1, false, {"sub"}},
    {"count", method_count, 1, false, {"sub"}},
    {"join", method_join, 1, false, {"iterable"}},
    {"format", method_format, 0, true, {NULL}},
};

static const struct text__callable of_dict[] = {
    {"get", method_get, 1, false, {"key", "default"}},
    {"items", method_items, 0, false, {NULL}},
    {"keys", method_keys, 0, false, {NULL}},
    {"values", method_values, 0, false, {NULL}},
};

static const struct text__callable *methods_of(enum text__kind kind, size_t *n)
{
    *n = kind == TEXT__STRING ? sizeof of_string / sizeof *of_string
         : kind == TEXT__DICT ? sizeof of_dict / sizeof *of_dict
                              : 0;
    return kind == TEXT__STRING ? of_string : of_dict;
}

bool text__method_find(const struct text__value *object, const struct text__string *name,
                       struct text__value *out)
{
    size_t n;
    const struct text__callable *table = methods_of(object->kind, &n);
    const struct text__callable *method = text__callable_find(table, n, name);
    if (!method)
        return false;
    *out = (struct text__value){.kind = TEXT__METHOD,
                                .owner = object->kind,
                                .index = (uint16_t)(method - table),
                                .object = object->object};
    return true;
}

const struct text__callable *text__method(const struct text__value *method,
                                          struct text__value *self)
{
    size_t n;
    *self = (struct text__value){.kind = method->owner, .object = method->object};
    return &methods_of(method->owner, &n)[method->index];
}
