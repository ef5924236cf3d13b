/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attributes, indexes and slices. As in Jinja2's sandbox, object.name looks for an attribute of
 * Python's object first and for an item then, object["name"] the other way round: a dict's "items"
 * is its method unless written ["items"] where there is such a key. What would change a value is
 * unsafe, and undefined.
 */
#include <stdio.h>
#include <string.h>

#include "coordinator/text/template_value.h"

static bool loop_attribute(struct text__run *run, const struct text__loop *loop,
                           const struct text__string *name, struct text__value *out)
{
    const struct {
        const char *name;
        struct text__value value;
    } known[] = {
        {"index0", text__int((int64_t)loop->i)},
        {"index", text__int((int64_t)loop->i + 1)},
        {"revindex0", text__int((int64_t)(loop->n - loop->i) - 1)},
        {"revindex", text__int((int64_t)(loop->n - loop->i))},
        {"first", text__bool(loop->i == 0)},
        {"last", text__bool(loop->i + 1 == loop->n)},
        {"length", text__int((int64_t)loop->n)},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (text__string_is(name, known[i].name)) {
            *out = known[i].value;
            return true;
        }
    if (text__string_is(name, "previtem")) {
        if (loop->i == 0)
            return text__undefined_because(run, "there is no previous item", out);
        *out = loop->items[loop->i - 1];
    } else if (text__string_is(name, "nextitem")) {
        if (loop->i + 1 == loop->n)
            return text__undefined_because(run, "there is no next item", out);
        *out = loop->items[loop->i + 1];
    }
    return true;
}

/* Whether a method of that name would change its object. */
static bool is_unsafe(const struct text__value *object, const struct text__string *name)
{
    static const char *const of_list[] = {"append", "clear",   "extend", "insert",
                                          "pop",    "reverse", "remove", "sort"};
    static const char *const of_dict[] = {"clear", "pop", "popitem", "setdefault", "update"};
    bool dict = object->kind == TEXT__DICT;
    const char *const *names = dict ? of_dict : of_list;
    size_t n = dict ? sizeof of_dict / sizeof *of_dict : sizeof of_list / sizeof *of_list;
    for (size_t i = 0; i < n; i++)
        if ((dict || text__is_list(object, TEXT__LIST_LIST)) && text__string_is(name, names[i]))
            return true;
    return false;
}

/* An attribute of Python's object; *out stays ABSENT if there is none. */
static bool python_attribute(struct text__run *run, const struct text__value *object,
                             const struct text__string *name, struct text__value *out)
{
    char why[160];
    *out = (struct text__value){0};
    if (object->kind == TEXT__LOOP)
        return loop_attribute(run, object->loop, name, out);
    if (object->kind == TEXT__NAMESPACE) {
        struct text__value key = text__string(name), *found;
        if (!text__dict_get(run, object->dict, &key, &found))
            return false;
        if (found)
            *out = *found;
        return true;
    }
    if (text__method_find(object, name, out) || !is_unsafe(object, name))
        return true;
    int n = snprintf(why, sizeof why, "access to attribute '%.*s' of '%s' object is unsafe.",
                     (int)name->len, text__bytes(name), text__type_name(object));
    char *kept = text__take(run, (size_t)n + 1);
    return kept && text__undefined_because(run, memcpy(kept, why, (size_t)n + 1), out);
}

/* Item i of n, counted from the end if it is negative; false if there is none. */
static bool place_of(int64_t i, size_t n, size_t *place)
{
    if (i < 0)
        i += (int64_t)n;
    *place = (size_t)i;
    return i >= 0 && (size_t)i < n;
}

static bool string_item(struct text__run *run, const struct text__string *s, int64_t i,
                        struct text__value *out)
{
    size_t place, n = text__n_chars(s);
    if (!text__work_bytes(run, 8 * s->len))
        return false;
    if (!place_of(i, n, &place))
        return true;
    size_t first = text__char_offset(s, place), end = first;
    text__char(text__bytes(s), &end);
    *out = text__string(text__part(run, s, first, end - first));
    return out->string != NULL;
}

/* object[key]; *out stays ABSENT if there is no such item. */
static bool item(struct text__run *run, const struct text__value *object,
                 const struct text__value *key, struct text__value *out)
{
    int64_t i;
    size_t place;
    *out = (struct text__value){0};
    if (object->kind == TEXT__DICT) {
        struct text__value *found = NULL;
        bool hashable = key->kind != TEXT__DICT && !text__is_list(key, TEXT__LIST_LIST);
        if (hashable && !text__dict_get(run, object->dict, key, &found))
            return false;
        if (found)
            *out = *found;
    } else if (object->kind == TEXT__STRING && text__as_int(key, &i)) {
        return string_item(run, object->string, i, out);
    } else if (object->kind == TEXT__LIST && text__as_int(key, &i) &&
               object->list->type <= TEXT__LIST_RANGE && place_of(i, object->list->n, &place)) {
        *out = object->list->items[place];
    }
    return true;
}

bool text__attribute(struct text__run *run, const struct text__value *object,
                     const struct text__string *name, struct text__value *out)
{
    struct text__value key = text__string(name);
    if (object->kind == TEXT__UNDEFINED)
        return text__fail_undefined(run, object);
    if (!python_attribute(run, object, name, out))
        return false;
    if (out->kind == TEXT__ABSENT && !item(run, object, &key, out))
        return false;
    if (out->kind == TEXT__ABSENT)
        *out = text__undefined((enum text__kind)object->kind, name);
    return true;
}

bool text__index(struct text__run *run, const struct text__value *object,
                 const struct text__value *key, struct text__value *out)
{
    if (object->kind == TEXT__UNDEFINED)
        return text__fail_undefined(run, object);
    if (!item(run, object, key, out))
        return false;
    if (out->kind == TEXT__ABSENT && key->kind == TEXT__STRING &&
        !python_attribute(run, object, key->string, out))
        return false;
    if (out->kind != TEXT__ABSENT)
        return true;
    const struct text__string *name = text__str(run, key);
    *out = text__undefined((enum text__kind)object->kind, name);
    return name != NULL;
}

/* A slice's bound in 0..n, or -1..n-1 for a negative step. */
static bool bound(struct text__run *run, const struct text__value *v, int64_t usual, int64_t n,
                  bool backwards, int64_t *out)
{
    *out = usual;
    if (v->kind == TEXT__NONE)
        return true;
    if (!text__as_int(v, out))
        return text__fail(run, "a slice's bounds must be integers, not '%s'", text__type_name(v));
    if (*out < 0)
        *out += n;
    if (*out < 0)
        *out = backwards ? -1 : 0;
    if (*out >= n)
        *out = backwards ? n - 1 : n;
    return true;
}

/* What a slice of n items takes: count of them, from first on. */
struct taken {
    int64_t first, step;
    size_t count;
};

static bool resolve_slice(struct text__run *run, const struct text__value bounds[3], int64_t n,
                          struct taken *taken)
{
    int64_t step = 1, start, stop;
    if (bounds[2].kind != TEXT__NONE && !text__as_int(&bounds[2], &step))
        return text__fail(run, "a slice's step must be an integer, not '%s'",
                          text__type_name(&bounds[2]));
    if (step == 0)
        return text__fail(run, "a slice's step must not be zero");
    bool back = step < 0;
    if (!bound(run, &bounds[0], back ? n - 1 : 0, n, back, &start) ||
        !bound(run, &bounds[1], back ? -1 : n, n, back, &stop))
        return false;
    /* A step beyond the length is as good as the length; it cannot overflow then. */
    step = step > n + 1 ? n + 1 : step < -n - 1 ? -n - 1 : step;
    int64_t span = back ? start - stop : stop - start, size = back ? -step : step;
    *taken = (struct taken){start, step, span > 0 ? (size_t)((span + size - 1) / size) : 0};
    return true;
}

static bool slice_list(struct text__run *run, const struct text__list *from,
                       const struct taken *taken, struct text__value *out)
{
    struct text__list *list;
    if (taken->step == 1) {
        list = text__take(run, sizeof *list);
        if (!list)
            return false;
        *list = *from;
        if (from->items)
            list->items = from->items + taken->first;
        list->n = taken->count;
        *out = text__list(list);
        return true;
    }
    list = text__work(run, taken->count) ? text__list_new(run, from->type, taken->count) : NULL;
    for (size_t i = 0; list && i < taken->count; i++)
        if (!text__list_push(run, list, &from->items[taken->first + (int64_t)i * taken->step]))
            return false;
    if (list)
        *out = text__list(list);
    return list != NULL;
}

static bool slice_string(struct text__run *run, const struct text__value *object,
                         const struct taken *taken, struct text__value *out)
{
    const struct text__string *s = object->string;
    if (taken->step == 1) {
        size_t first = text__char_offset(s, (size_t)taken->first);
        size_t end = text__char_offset(s, (size_t)taken->first + taken->count);
        *out = text__string(text__part(run, s, first, end - first));
        return out->string != NULL;
    }
    struct text__value *chars;
    size_t n;
    struct text__buffer *buffer = text__buffer_new(run);
    if (!buffer || !text__items(run, object, &chars, &n))
        return false;
    for (size_t i = 0; i < taken->count; i++)
        if (!text__put_string(run, buffer, chars[taken->first + (int64_t)i * taken->step].string))
            return false;
    *out = text__string(text__whole(run, buffer));
    return out->string != NULL;
}

bool text__slice(struct text__run *run, const struct text__value *object,
                 const struct text__value bounds[3], struct text__value *out)
{
    size_t n;
    struct taken taken;
    if (object->kind == TEXT__UNDEFINED)
        return text__fail_undefined(run, object);
    if (object->kind == TEXT__STRING) {
        if (!text__length(run, object, &n) || !resolve_slice(run, bounds, (int64_t)n, &taken) ||
            !text__work_bytes(run, 8 * object->string->len))
            return false;
        return slice_string(run, object, &taken, out);
    }
    if (object->kind == TEXT__LIST && object->list->type <= TEXT__LIST_RANGE)
        return resolve_slice(run, bounds, (int64_t)object->list->n, &taken) &&
               slice_list(run, object->list, &taken, out);
    if (object->kind == TEXT__DICT)
        return text__fail(run, "unhashable type: 'slice'");
    return text__undefined_because(run, "only strings and lists can be sliced", out);
}

/* One part of a dotted path: an index if it is all digits. */
static bool path_part(struct text__run *run, const struct text__value *object,
                      const struct text__string *part, struct text__value *out)
{
    int64_t i = 0;
    struct text__value key = text__string(part);
    for (size_t at = 0; at < part->len && i >= 0; at++) {
        char c = text__bytes(part)[at];
        i = c >= '0' && c <= '9' && i < INT32_MAX ? 10 * i + (c - '0') : -1;
    }
    if (part->len > 0 && i >= 0)
        key = text__int(i);
    return text__index(run, object, &key, out);
}

bool text__dotted(struct text__run *run, const struct text__value *object,
                  const struct text__value *path, struct text__value *out)
{
    if (path->kind == TEXT__INT)
        return text__index(run, object, path, out);
    if (path->kind != TEXT__STRING)
        return text__fail(run, "an attribute's name must be a string, not '%s'",
                          text__type_name(path));
    const struct text__string *s = path->string;
    *out = *object;
    for (size_t first = 0; first <= s->len;) {
        const char *dot =
            s->len > first ? memchr(text__bytes(s) + first, '.', s->len - first) : NULL;
        size_t end = dot ? (size_t)(dot - text__bytes(s)) : s->len;
        const struct text__string *part = text__part(run, s, first, end - first);
        struct text__value from = *out;
        if (!part || !path_part(run, &from, part, out))
            return false;
        first = end + 1;
    }
    return true;
}
