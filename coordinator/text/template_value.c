/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/text/template_value.h"

#include <string.h>

/* Truth, equality, order: as Python's. */

const char *text__type_name(const struct text__value *v)
{
    static const char *const kinds[] = {"Undefined",   "Undefined",
                                        "NoneType",    "bool",
                                        "int",         "float",
                                        "str",         "list",
                                        "dict",        "Namespace",
                                        "LoopContext", "Macro",
                                        "function",    "builtin_function_or_method"};
    static const char *const lists[] = {"list",      "tuple",       "range",     "generator",
                                        "dict_keys", "dict_values", "dict_items"};
    return v->kind == TEXT__LIST ? lists[v->list->type] : kinds[v->kind];
}

struct text__value text__undefined(enum text__kind owner, const struct text__string *name)
{
    return (struct text__value){.kind = TEXT__UNDEFINED, .owner = (uint8_t)owner, .string = name};
}

bool text__undefined_because(struct text__run *run, const char *why, struct text__value *out)
{
    *out = text__undefined(TEXT__STRING, text__borrow(run, why, strlen(why), false));
    return out->string != NULL;
}

bool text__truth(const struct text__value *v)
{
    switch (v->kind) {
    case TEXT__ABSENT:
    case TEXT__UNDEFINED:
    case TEXT__NONE:
        return false;
    case TEXT__BOOL:
        return v->boolean;
    case TEXT__INT:
        return v->integer != 0;
    case TEXT__FLOAT:
        return v->real != 0;
    case TEXT__STRING:
        return v->string->len > 0;
    case TEXT__LIST:
        return v->list->type == TEXT__LIST_GENERATOR || v->list->n > 0;
    case TEXT__DICT:
        return v->dict->n > 0;
    default:
        return true;
    }
}

static double as_real(const struct text__value *v)
{
    int64_t integer;
    return text__as_int(v, &integer) ? (double)integer : v->real;
}

/* -1, 0 or 1; 2 for a NaN. */
static int compare_numbers(const struct text__value *a, const struct text__value *b)
{
    int64_t x, y;
    if (text__as_int(a, &x) && text__as_int(b, &y))
        return (x > y) - (x < y);
    double p = as_real(a), q = as_real(b);
    return p != p || q != q ? 2 : (p > q) - (p < q);
}

static bool lists_equal(struct text__run *run, const struct text__list *a,
                        const struct text__list *b, bool *out)
{
    bool items = a->type <= TEXT__LIST_RANGE;
    *out = a == b;
    if (a == b || !items || a->type != b->type || a->n != b->n)
        return true;
    if (!text__enter(run))
        return false;
    *out = true;
    for (size_t i = 0; i < a->n && *out; i++)
        if (!text__equal(run, &a->items[i], &b->items[i], out))
            return false;
    text__leave(run);
    return true;
}

static bool dicts_equal(struct text__run *run, const struct text__dict *a,
                        const struct text__dict *b, bool *out)
{
    *out = a == b;
    if (a == b || a->n != b->n)
        return true;
    if (!text__enter(run))
        return false;
    *out = true;
    for (size_t i = 0; i < a->n && *out; i++) {
        struct text__value *other;
        if (!text__dict_get(run, b, &a->pairs[i].key, &other))
            return false;
        *out = other != NULL;
        if (other && !text__equal(run, &a->pairs[i].value, other, out))
            return false;
    }
    text__leave(run);
    return true;
}

bool text__equal(struct text__run *run, const struct text__value *a, const struct text__value *b,
                 bool *out)
{
    if (!text__work(run, 1))
        return false;
    *out = false;
    if (text__is_number(a) && text__is_number(b)) {
        *out = compare_numbers(a, b) == 0;
        return true;
    }
    if (a->kind != b->kind)
        return true;
    switch (a->kind) {
    case TEXT__NONE:
    case TEXT__UNDEFINED:
        *out = true;
        return true;
    case TEXT__STRING:
        *out = a->string->len == b->string->len && text__string_compare(a->string, b->string) == 0;
        return text__work_bytes(run, a->string->len);
    case TEXT__LIST:
        return lists_equal(run, a->list, b->list, out);
    case TEXT__DICT:
        return dicts_equal(run, a->dict, b->dict, out);
    default:
        *out = a->object == b->object && a->owner == b->owner && a->index == b->index;
        return true;
    }
}

/* Lists in the order of their first items that differ. */
static bool list_less(struct text__run *run, const struct text__list *a, const struct text__list *b,
                      bool *out)
{
    if (!text__enter(run))
        return false;
    size_t i = 0;
    for (bool equal = true; i < a->n && i < b->n; i++) {
        if (!text__equal(run, &a->items[i], &b->items[i], &equal))
            return false;
        if (!equal)
            break;
    }
    *out = a->n < b->n;
    bool done = i == a->n || i == b->n || text__less(run, &a->items[i], &b->items[i], out);
    text__leave(run);
    return done;
}

bool text__less(struct text__run *run, const struct text__value *a, const struct text__value *b,
                bool *out)
{
    if (!text__work(run, 1))
        return false;
    if (text__is_number(a) && text__is_number(b)) {
        *out = compare_numbers(a, b) == -1;
        return true;
    }
    if (a->kind == TEXT__STRING && b->kind == TEXT__STRING) {
        *out = text__string_compare(a->string, b->string) < 0;
        return text__work_bytes(run,
                                a->string->len < b->string->len ? a->string->len : b->string->len);
    }
    if (a->kind == TEXT__LIST && b->kind == TEXT__LIST && a->list->type == b->list->type &&
        a->list->type <= TEXT__LIST_TUPLE)
        return list_less(run, a->list, b->list, out);
    if (a->kind == TEXT__UNDEFINED || b->kind == TEXT__UNDEFINED)
        return text__fail_undefined(run, a->kind == TEXT__UNDEFINED ? a : b);
    return text__fail(run, "'<' is not possible between '%s' and '%s'", text__type_name(a),
                      text__type_name(b));
}

static bool contains_item(struct text__run *run, const struct text__value *container,
                          const struct text__value *item, bool *out)
{
    struct text__value *items;
    size_t n;
    if (!text__items(run, container, &items, &n))
        return false;
    for (size_t i = 0; i < n && !*out; i++)
        if (!text__equal(run, &items[i], item, out))
            return false;
    return true;
}

bool text__contains(struct text__run *run, const struct text__value *container,
                    const struct text__value *item, bool *out)
{
    struct text__value *found;
    *out = false;
    switch (container->kind) {
    case TEXT__STRING:
        if (item->kind != TEXT__STRING)
            return text__fail(run, "'in' a string needs a string on its left, not '%s'",
                              text__type_name(item));
        *out = text__find(run, container->string, 0, item->string) != SIZE_MAX;
        return text__work(run, 1);
    case TEXT__DICT:
        if (!text__dict_get(run, container->dict, item, &found))
            return false;
        *out = found != NULL;
        return true;
    default:
        return contains_item(run, container, item, out);
    }
}

bool text__length(struct text__run *run, const struct text__value *v, size_t *out)
{
    switch (v->kind) {
    case TEXT__UNDEFINED:
        *out = 0;
        return true;
    case TEXT__STRING:
        *out = text__n_chars(v->string);
        return text__work_bytes(run, v->string->len);
    case TEXT__DICT:
        *out = v->dict->n;
        return true;
    case TEXT__LOOP:
        *out = v->loop->n;
        return true;
    case TEXT__LIST:
        *out = v->list->n;
        if (v->list->type != TEXT__LIST_GENERATOR)
            return true;
        break;
    default:
        break;
    }
    return text__fail(run, "a value of type '%s' has no length", text__type_name(v));
}

/* Iteration. */

static bool string_items(struct text__run *run, const struct text__string *s,
                         struct text__value **items, size_t *n)
{
    *n = text__n_chars(s);
    *items = text__take(run, *n * sizeof **items);
    if (!*items || !text__work(run, *n))
        return false;
    for (size_t i = 0, at = 0; i < *n; i++) {
        size_t first = at;
        text__char(text__bytes(s), &at);
        const struct text__string *c = text__part(run, s, first, at - first);
        if (!c)
            return false;
        (*items)[i] = text__string(c);
    }
    return true;
}

bool text__items(struct text__run *run, const struct text__value *v, struct text__value **items,
                 size_t *n)
{
    struct text__list *list;
    *items = NULL;
    *n = 0;
    switch (v->kind) {
    case TEXT__UNDEFINED:
        return true;
    case TEXT__STRING:
        return string_items(run, v->string, items, n);
    case TEXT__LIST:
        list = v->list;
        break;
    case TEXT__DICT:
        list = text__dict_list(run, v->dict, TEXT__LIST_KEYS);
        if (!list)
            return false;
        break;
    default:
        return text__fail(run, "'%s' object is not iterable", text__type_name(v));
    }
    *items = list->items ? list->items + list->taken : NULL;
    *n = list->n - list->taken;
    if (list->type == TEXT__LIST_GENERATOR)
        list->taken = list->n;
    return true;
}

/* Lists. */

struct text__list *text__list_new(struct text__run *run, enum text__list_type type, size_t cap)
{
    if (cap > run->limits.memory_bytes / sizeof(struct text__value)) {
        text__fail_limit(run, "more than %zu bytes of values", run->limits.memory_bytes);
        return NULL;
    }
    struct text__list *list = text__take(run, sizeof *list);
    struct text__backing *backing = text__take(run, sizeof *backing);
    struct text__value *items = text__take(run, cap * sizeof *items);
    if (!list || !backing || !items)
        return NULL;
    *backing = (struct text__backing){items, 0, cap};
    *list = (struct text__list){.type = type, .items = items, .backing = backing};
    return list;
}

bool text__list_push(struct text__run *run, struct text__list *list, const struct text__value *item)
{
    struct text__backing *b = list->backing;
    if (b->n == b->cap) {
        size_t cap = b->cap ? 2 * b->cap : 8;
        struct text__value *items =
            text__arena_grow(&run->arena, b->items, b->cap * sizeof *items, cap * sizeof *items);
        if (!items)
            return text__fail_memory(run, cap * sizeof *items);
        list->items = items + (list->items - b->items);
        b->items = items;
        b->cap = cap;
    }
    b->items[b->n++] = *item;
    list->n++;
    return true;
}

/* A list that begins as a copy of `from`; where nothing was added behind that one yet, in the same
 * memory. */
static struct text__list *list_continue(struct text__run *run, const struct text__list *from,
                                        size_t more)
{
    const struct text__backing *b = from->backing;
    if (b && from->items && from->items + from->n == b->items + b->n && from->n > 0) {
        struct text__list *list = text__take(run, sizeof *list);
        if (list)
            *list = *from;
        return list;
    }
    struct text__list *list = text__list_new(run, from->type, from->n + more);
    for (size_t i = 0; list && i < from->n; i++)
        if (!text__list_push(run, list, &from->items[i]))
            return NULL;
    return list;
}

struct text__list *text__list_join(struct text__run *run, const struct text__list *a,
                                   const struct text__list *b)
{
    size_t n = b->n;
    struct text__list *list = text__work(run, b->n) ? list_continue(run, a, n) : NULL;
    for (size_t i = 0; list && i < n; i++)
        if (!text__list_push(run, list, &b->items[i]))
            return NULL;
    return list;
}

/* Dicts. */

#define FEW_PAIRS 8u

static bool hash_key(struct text__run *run, const struct text__value *key, uint64_t *hash)
{
    uint64_t h = 0xcbf29ce484222325u;
    if (text__is_number(key)) {
        double real = as_real(key) + 0.0;
        memcpy(&h, &real, sizeof h);
        h *= 0x9e3779b97f4a7c15u;
    } else if (key->kind == TEXT__STRING) {
        for (size_t i = 0; i < key->string->len; i++)
            h = (h ^ (unsigned char)text__bytes(key->string)[i]) * 0x100000001b3u;
        if (!text__work_bytes(run, key->string->len))
            return false;
    } else if (text__is_list(key, TEXT__LIST_TUPLE)) {
        if (!text__enter(run))
            return false;
        for (size_t i = 0; i < key->list->n; i++) {
            uint64_t item;
            if (!text__work(run, 1) || !hash_key(run, &key->list->items[i], &item))
                return false;
            h = (h ^ item) * 0x100000001b3u;
        }
        text__leave(run);
    } else if (key->kind == TEXT__LIST || key->kind == TEXT__DICT) {
        return text__fail(run, "unhashable type: '%s'", text__type_name(key));
    }
    *hash = h ^ h >> 32;
    return true;
}

struct text__dict *text__dict_new(struct text__run *run, size_t cap)
{
    struct text__dict *dict = text__take(run, sizeof *dict);
    if (dict)
        dict->pairs = text__take(run, cap * sizeof *dict->pairs);
    if (!dict || !dict->pairs)
        return NULL;
    dict->cap = cap;
    return dict;
}

/* The slot where the key is or would be. */
static bool find_slot(struct text__run *run, const struct text__dict *dict,
                      const struct text__value *key, uint64_t hash, uint32_t **slot)
{
    for (size_t i = hash & (dict->n_slots - 1);; i = (i + 1) & (dict->n_slots - 1)) {
        bool same;
        *slot = &dict->slots[i];
        if (**slot == 0)
            return true;
        if (!text__equal(run, &dict->pairs[**slot - 1].key, key, &same))
            return false;
        if (same)
            return true;
    }
}

bool text__dict_get(struct text__run *run, const struct text__dict *dict,
                    const struct text__value *key, struct text__value **out)
{
    uint64_t hash;
    uint32_t *slot;
    *out = NULL;
    if (!hash_key(run, key, &hash))
        return false;
    if (dict->slots) {
        if (!find_slot(run, dict, key, hash, &slot))
            return false;
        *out = *slot ? &dict->pairs[*slot - 1].value : NULL;
        return true;
    }
    for (size_t i = 0; i < dict->n; i++) {
        bool same;
        if (!text__equal(run, &dict->pairs[i].key, key, &same))
            return false;
        if (same) {
            *out = &dict->pairs[i].value;
            return true;
        }
    }
    return true;
}

/* Slots for twice the pairs there is room for. */
static bool make_slots(struct text__run *run, struct text__dict *dict)
{
    size_t n_slots = 2 * FEW_PAIRS;
    while (n_slots < 2 * dict->cap)
        n_slots *= 2;
    dict->slots = text__take(run, n_slots * sizeof *dict->slots);
    dict->n_slots = n_slots;
    for (size_t i = 0; dict->slots && i < dict->n; i++) {
        uint64_t hash;
        uint32_t *slot;
        if (!hash_key(run, &dict->pairs[i].key, &hash) ||
            !find_slot(run, dict, &dict->pairs[i].key, hash, &slot))
            return false;
        *slot = (uint32_t)i + 1;
    }
    return dict->slots != NULL;
}

static bool grow_pairs(struct text__run *run, struct text__dict *dict)
{
    size_t cap = dict->cap ? 2 * dict->cap : 4;
    struct text__pair *pairs = text__take(run, cap * sizeof *pairs);
    if (!pairs)
        return false;
    if (dict->n)
        memcpy(pairs, dict->pairs, dict->n * sizeof *pairs);
    dict->pairs = pairs;
    dict->cap = cap;
    dict->slots = NULL;
    return true;
}

bool text__dict_put(struct text__run *run, struct text__dict *dict, const struct text__value *key,
                    const struct text__value *value)
{
    struct text__value *present;
    if (!text__dict_get(run, dict, key, &present))
        return false;
    if (present) {
        *present = *value;
        return true;
    }
    if (dict->n == dict->cap && !grow_pairs(run, dict))
        return false;
    dict->pairs[dict->n++] = (struct text__pair){*key, *value};
    if (!dict->slots)
        return dict->n <= FEW_PAIRS || make_slots(run, dict);
    uint64_t hash;
    uint32_t *slot;
    if (!hash_key(run, key, &hash) || !find_slot(run, dict, key, hash, &slot))
        return false;
    *slot = (uint32_t)dict->n;
    return true;
}

struct text__list *text__dict_list(struct text__run *run, const struct text__dict *dict,
                                   enum text__list_type type)
{
    struct text__list *list = text__work(run, dict->n) ? text__list_new(run, type, dict->n) : NULL;
    for (size_t i = 0; list && i < dict->n; i++) {
        struct text__value item =
            type == TEXT__LIST_VALUES ? dict->pairs[i].value : dict->pairs[i].key;
        if (type == TEXT__LIST_ITEMS) {
            struct text__list *pair = text__list_new(run, TEXT__LIST_TUPLE, 2);
            if (!pair || !text__list_push(run, pair, &dict->pairs[i].key) ||
                !text__list_push(run, pair, &dict->pairs[i].value))
                return NULL;
            item = text__list(pair);
        }
        if (!text__list_push(run, list, &item))
            return NULL;
    }
    return list;
}

/* Sorting. */

struct sorted {
    struct text__value item, key;
};

/* Merges from[first, middle) and from[middle, end) into to. */
static bool merge(struct text__run *run, const struct sorted *from, struct sorted *to, size_t first,
                  size_t middle, size_t end, bool reverse)
{
    size_t a = first, b = middle;
    for (size_t i = first; i < end; i++) {
        bool right = a == middle;
        /* The right one comes first only if it must: equal items keep their order. */
        if (a < middle && b < end &&
            !(reverse ? text__less(run, &from[a].key, &from[b].key, &right)
                      : text__less(run, &from[b].key, &from[a].key, &right)))
            return false;
        to[i] = right ? from[b++] : from[a++];
    }
    return true;
}

bool text__sort(struct text__run *run, struct text__value *items, struct text__value *keys,
                size_t n, bool reverse)
{
    struct sorted *from = text__take(run, n * sizeof *from);
    struct sorted *to = text__take(run, n * sizeof *to);
    if (!from || !to)
        return false;
    for (size_t i = 0; i < n; i++)
        from[i] = (struct sorted){items[i], keys[i]};
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t first = 0; first < n; first += 2 * width) {
            size_t middle = n - first < width ? n : first + width;
            size_t end = n - first < 2 * width ? n : first + 2 * width;
            if (!merge(run, from, to, first, middle, end, reverse))
                return false;
        }
        struct sorted *swap = from;
        from = to;
        to = swap;
    }
    for (size_t i = 0; i < n; i++)
        items[i] = from[i].item;
    return true;
}
