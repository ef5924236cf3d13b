/* SPDX-License-Identifier: Apache-2.0 */
/* JSON into values and values into JSON, the latter as Python's json.dumps writes it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "coordinator/text/template_value.h"

/* jansson takes up to a hundred times as much memory, which the run's limit does not see. */
#define MAX_PARSED_BYTES ((size_t)1 << 20)

/* From JSON. */

static bool from_array(struct text__run *run, const json_t *json, bool untrusted,
                       struct text__value *out)
{
    size_t n = json_array_size(json);
    struct text__list *list = text__list_new(run, TEXT__LIST_LIST, n);
    for (size_t i = 0; list && i < n; i++) {
        struct text__value item;
        if (!text__from_json(run, json_array_get(json, i), untrusted, &item) ||
            !text__list_push(run, list, &item))
            return false;
    }
    if (list)
        *out = text__list(list);
    return list != NULL;
}

static bool is_role_name(const json_t *json)
{
    static const char *const roles[] = {"system",    "developer", "user",
                                        "assistant", "tool",      "function"};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (json_is_string(json) && strcmp(json_string_value(json), roles[i]) == 0)
            return true;
    return false;
}

static bool from_object(struct text__run *run, const json_t *json, bool untrusted, bool message,
                        struct text__value *out)
{
    struct text__dict *dict = text__dict_new(run, json_object_size(json));
    if (!dict)
        return false;
    /* jansson's iterators take an object that is not const, but change nothing. */
    json_t *object = (json_t *)(uintptr_t)json;
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
        const char *name = json_object_iter_key(it);
        const json_t *member = json_object_iter_value(it);
        bool role = message && strcmp(name, "role") == 0 && is_role_name(member);
        struct text__string *string = text__borrow(run, name, strlen(name), untrusted);
        struct text__value key = text__string(string), value;
        if (!string || !text__from_json(run, member, untrusted && !role, &value) ||
            !text__dict_put(run, dict, &key, &value))
            return false;
    }
    *out = text__dict(dict);
    return true;
}

static bool from_container(struct text__run *run, const json_t *json, bool untrusted,
                           struct text__value *out)
{
    if (!text__enter(run))
        return false;
    bool done = json_is_array(json) ? from_array(run, json, untrusted, out)
                                    : from_object(run, json, untrusted, false, out);
    text__leave(run);
    return done;
}

bool text__from_json(struct text__run *run, const json_t *json, bool untrusted,
                     struct text__value *out)
{
    if (!text__work(run, 1))
        return false;
    switch (json_typeof(json)) {
    case JSON_NULL:
        *out = text__none();
        return true;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = text__bool(json_is_true(json));
        return true;
    case JSON_INTEGER:
        *out = text__int(json_integer_value(json));
        return true;
    case JSON_REAL:
        *out = text__real(json_real_value(json));
        return true;
    case JSON_STRING:
        *out = text__string(
            text__borrow(run, json_string_value(json), json_string_length(json), untrusted));
        return out->string != NULL;
    default:
        return from_container(run, json, untrusted, out);
    }
}

bool text__from_messages(struct text__run *run, const json_t *messages, struct text__value *out)
{
    if (!json_is_array(messages))
        return text__from_json(run, messages, true, out);
    size_t n = json_array_size(messages);
    struct text__list *list = text__list_new(run, TEXT__LIST_LIST, n);
    for (size_t i = 0; list && i < n; i++) {
        const json_t *json = json_array_get(messages, i);
        struct text__value message;
        if (!(json_is_object(json) ? from_object(run, json, true, true, &message)
                                   : text__from_json(run, json, true, &message)) ||
            !text__list_push(run, list, &message))
            return false;
    }
    if (list)
        *out = text__list(list);
    return list != NULL;
}

/* The strings of a value that jansson is about to free. */
static bool keep_strings(struct text__run *run, struct text__value *v);

static bool keep_string(struct text__run *run, const struct text__string *s)
{
    char *bytes = text__take(run, s->len + 1);
    if (!bytes)
        return false;
    memcpy(bytes, text__bytes(s), s->len);
    s->buffer->data = bytes;
    return text__work_bytes(run, s->len);
}

static bool keep_members(struct text__run *run, struct text__dict *dict)
{
    for (size_t i = 0; i < dict->n; i++)
        if (!keep_string(run, dict->pairs[i].key.string) ||
            !keep_strings(run, &dict->pairs[i].value))
            return false;
    return true;
}

static bool keep_strings(struct text__run *run, struct text__value *v)
{
    if (v->kind == TEXT__STRING)
        return keep_string(run, v->string);
    if (v->kind == TEXT__DICT)
        return keep_members(run, v->dict);
    for (size_t i = 0; v->kind == TEXT__LIST && i < v->list->n; i++)
        if (!keep_strings(run, &v->list->items[i]))
            return false;
    return true;
}

bool text__parse_json(struct text__run *run, const struct text__string *s, struct text__value *out)
{
    json_error_t why;
    if (s->len > MAX_PARSED_BYTES)
        return text__fail_limit(run, "from_json: a text longer than %zu bytes", MAX_PARSED_BYTES);
    if (!text__work(run, 1 + s->len / 16))
        return false;
    json_t *json = json_loadb(text__bytes(s), s->len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
    if (!json)
        return text__fail(run, "a string is no JSON: %s", why.text);
    bool untrusted = false;
    for (size_t i = 0; i < s->len && !untrusted; i++)
        untrusted = text__untrusted_at(s, i);
    bool done = text__from_json(run, json, untrusted, out) && keep_strings(run, out);
    json_decref(json);
    return done;
}

/* To JSON. */

struct writer {
    struct text__run *run;
    struct text__buffer *buffer;
    const struct text__json_style *style;
    unsigned level;
};

static bool put_value(struct writer *w, const struct text__value *v);

static bool put_text(struct writer *w, const char *text)
{
    return text__put(w->run, w->buffer, text, strlen(text), false);
}

static bool needs_escape(const struct writer *w, uint32_t c)
{
    return c < 0x20 || c == '"' || c == '\\' || (w->style->ensure_ascii && c >= 0x7f);
}

static bool put_escape(struct writer *w, uint32_t c, bool untrusted)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    char text[16];
    const char *known = c && c < 0x80 ? strchr(from, (int)c) : NULL;
    if (known)
        snprintf(text, sizeof text, "\\%c", to[known - from]);
    else if (c < 0x10000)
        snprintf(text, sizeof text, "\\u%04x", c);
    else
        snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10),
                 0xdc00 + ((c - 0x10000) & 0x3ff));
    return text__put(w->run, w->buffer, text, strlen(text), untrusted);
}

static bool put_json_string(struct writer *w, const struct text__string *s)
{
    const char *bytes = text__bytes(s);
    bool untrusted = s->len > 0 && text__untrusted_at(s, 0);
    size_t done = 0;
    if (!text__put(w->run, w->buffer, "\"", 1, untrusted))
        return false;
    for (size_t at = 0; at < s->len;) {
        size_t first = at;
        uint32_t c = text__char(bytes, &at);
        if (!needs_escape(w, c))
            continue;
        untrusted = text__untrusted_at(s, first);
        if (!text__put_part(w->run, w->buffer, s, done, first - done) ||
            !put_escape(w, c, untrusted))
            return false;
        done = at;
    }
    untrusted = s->len > 0 && text__untrusted_at(s, s->len - 1);
    return text__put_part(w->run, w->buffer, s, done, s->len - done) &&
           text__put(w->run, w->buffer, "\"", 1, untrusted);
}

static bool put_number(struct writer *w, const struct text__value *v)
{
    char text[TEXT__FLOAT_BYTES];
    if (v->kind == TEXT__INT)
        snprintf(text, sizeof text, "%lld", (long long)v->integer);
    else if (isfinite(v->real))
        text__float_text(v->real, text);
    else
        snprintf(text, sizeof text, "%s",
                 isnan(v->real) ? "NaN"
                 : v->real > 0  ? "Infinity"
                                : "-Infinity");
    return put_text(w, text);
}

static bool put_line(struct writer *w)
{
    if (!w->style->indent)
        return true;
    if (!put_text(w, "\n"))
        return false;
    for (unsigned i = 0; i < w->level; i++)
        if (!text__put_string(w->run, w->buffer, w->style->indent))
            return false;
    return true;
}

/* Before an item: what parts it from the one before. */
static bool put_separator(struct writer *w, bool first)
{
    if (!first && w->style->item_separator &&
        !text__put_string(w->run, w->buffer, w->style->item_separator))
        return false;
    if (!first && !w->style->item_separator && !put_text(w, w->style->indent ? "," : ", "))
        return false;
    return put_line(w);
}

static bool put_array(struct writer *w, const struct text__list *list)
{
    if (list->n == 0)
        return put_text(w, "[]");
    if (!put_text(w, "["))
        return false;
    w->level++;
    for (size_t i = 0; i < list->n; i++)
        if (!put_separator(w, i == 0) || !put_value(w, &list->items[i]))
            return false;
    w->level--;
    return put_line(w) && put_text(w, "]");
}

static bool put_key(struct writer *w, const struct text__value *key)
{
    if (key->kind == TEXT__STRING)
        return put_json_string(w, key->string);
    if (!text__is_number(key) && key->kind != TEXT__NONE)
        return text__fail(w->run, "tojson: a key must be a string, not '%s'", text__type_name(key));
    return put_text(w, "\"") && put_value(w, key) && put_text(w, "\"");
}

static bool put_object(struct writer *w, const struct text__dict *dict)
{
    if (dict->n == 0)
        return put_text(w, "{}");
    struct text__list *keys = text__dict_list(w->run, dict, TEXT__LIST_KEYS);
    struct text__list *values = text__dict_list(w->run, dict, TEXT__LIST_VALUES);
    if (!keys || !values || !put_text(w, "{"))
        return false;
    if (w->style->sort_keys && (!text__sort(w->run, values->items, keys->items, keys->n, false) ||
                                !text__sort(w->run, keys->items, keys->items, keys->n, false)))
        return false;
    w->level++;
    for (size_t i = 0; i < keys->n; i++) {
        if (!put_separator(w, i == 0) || !put_key(w, &keys->items[i]))
            return false;
        if (w->style->key_separator ? !text__put_string(w->run, w->buffer, w->style->key_separator)
                                    : !put_text(w, ": "))
            return false;
        if (!put_value(w, &values->items[i]))
            return false;
    }
    w->level--;
    return put_line(w) && put_text(w, "}");
}

static bool put_container(struct writer *w, const struct text__value *v)
{
    bool known =
        v->kind == TEXT__DICT || (v->kind == TEXT__LIST && v->list->type <= TEXT__LIST_TUPLE);
    if (!known)
        return text__fail(w->run, "tojson: a value of type '%s' is no JSON", text__type_name(v));
    if (!text__enter(w->run))
        return false;
    bool done = v->kind == TEXT__DICT ? put_object(w, v->dict) : put_array(w, v->list);
    text__leave(w->run);
    return done;
}

static bool put_value(struct writer *w, const struct text__value *v)
{
    if (!text__work(w->run, 1))
        return false;
    switch (v->kind) {
    case TEXT__NONE:
        return put_text(w, "null");
    case TEXT__BOOL:
        return put_text(w, v->boolean ? "true" : "false");
    case TEXT__INT:
    case TEXT__FLOAT:
        return put_number(w, v);
    case TEXT__STRING:
        return put_json_string(w, v->string);
    default:
        return put_container(w, v);
    }
}

bool text__put_json(struct text__run *run, struct text__buffer *buffer,
                    const struct text__json_style *style, const struct text__value *v)
{
    struct writer w = {run, buffer, style, 0};
    return put_value(&w, v);
}
