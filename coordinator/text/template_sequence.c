/* SPDX-License-Identifier: Apache-2.0 */
/* Filters on lists and dicts. What is lazy in Jinja2 is computed at once here, but can likewise be
 * read only once. Choosing from and mapping what is falsy gives nothing, whatever it is. */
#include "coordinator/text/template_value.h"

static bool done(const struct text__list *list, struct text__value *out)
{
    if (list)
        *out = text__list((struct text__list *)(uintptr_t)list);
    return list != NULL;
}

static bool no_item(struct text__run *run, const char *why, struct text__value *out)
{
    return text__undefined_because(run, why, out);
}

/* A new list of the items that a loop over the value would give. */
static struct text__list *copy_items(struct text__run *run, const struct text__value *v,
                                     enum text__list_type type)
{
    struct text__value *items;
    size_t n;
    if (!text__items(run, v, &items, &n) || !text__work(run, n))
        return NULL;
    struct text__list *list = text__list_new(run, type, n);
    for (size_t i = 0; list && i < n; i++)
        if (!text__list_push(run, list, &items[i]))
            return NULL;
    return list;
}

static bool filter_list(struct text__run *run, const struct text__value *self,
                        const struct text__bound *args, struct text__value *out)
{
    (void)args;
    return done(copy_items(run, self, TEXT__LIST_LIST), out);
}

static bool filter_items(struct text__run *run, const struct text__value *self,
                         const struct text__bound *args, struct text__value *out)
{
    (void)args;
    if (self->kind == TEXT__UNDEFINED)
        return done(text__list_new(run, TEXT__LIST_GENERATOR, 0), out);
    if (self->kind != TEXT__DICT)
        return text__fail(run, "Can only get item pairs from a mapping.");
    struct text__list *list = text__dict_list(run, self->dict, TEXT__LIST_ITEMS);
    if (list)
        list->type = TEXT__LIST_GENERATOR;
    return done(list, out);
}

static bool filter_first(struct text__run *run, const struct text__value *self,
                         const struct text__bound *args, struct text__value *out)
{
    (void)args;
    struct text__value *items;
    size_t n;
    if (!text__items(run, self, &items, &n))
        return false;
    if (n == 0)
        return no_item(run, "No first item, sequence was empty.", out);
    if (text__is_list(self, TEXT__LIST_GENERATOR))
        self->list->taken -= n - 1;
    *out = items[0];
    return true;
}

static bool filter_last(struct text__run *run, const struct text__value *self,
                        const struct text__bound *args, struct text__value *out)
{
    (void)args;
    struct text__value *items;
    size_t n;
    if (text__is_list(self, TEXT__LIST_GENERATOR))
        return text__fail(run, "last: a generator cannot be read from its end");
    if (!text__items(run, self, &items, &n))
        return false;
    if (n == 0)
        return no_item(run, "No last item, sequence was empty.", out);
    *out = items[n - 1];
    return true;
}

static bool filter_reverse(struct text__run *run, const struct text__value *self,
                           const struct text__bound *args, struct text__value *out)
{
    (void)args;
    const struct text__value bounds[3] = {text__none(), text__none(), text__int(-1)};
    struct text__value list = *self;
    if (self->kind == TEXT__STRING)
        return text__slice(run, self, bounds, out);
    if (!done(copy_items(run, self, TEXT__LIST_LIST), &list) ||
        !text__slice(run, &list, bounds, out))
        return false;
    out->list->type = TEXT__LIST_GENERATOR;
    return true;
}

static bool filter_join(struct text__run *run, const struct text__value *self,
                        const struct text__bound *args, struct text__value *out)
{
    struct text__value *items;
    size_t n;
    const struct text__string *between = text__str(run, &args->v[0]);
    struct text__buffer *buffer = text__buffer_new(run);
    if (!between || !buffer || !text__items(run, self, &items, &n))
        return false;
    for (size_t i = 0; i < n; i++) {
        struct text__value item = items[i];
        bool by_attribute = args->v[1].kind != TEXT__ABSENT && args->v[1].kind != TEXT__NONE;
        if ((by_attribute && !text__dotted(run, &items[i], &args->v[1], &item)) ||
            (i > 0 && !text__put_string(run, buffer, between)) ||
            !text__put_str(run, buffer, &item))
            return false;
    }
    *out = text__string(text__whole(run, buffer));
    return out->string != NULL;
}

/* Choosing and changing. */

/* A call's arguments from number `from` on. */
static struct text__call rest_of(const struct text__call *call, size_t from)
{
    struct text__call rest = *call;
    rest.args += from;
    rest.n_args -= from;
    return rest;
}

/* The test that is the call's argument number i; NULL where there is none: truth. */
static bool named_test(struct text__run *run, const struct text__call *call, size_t i,
                       const struct text__callable **test)
{
    const struct text__string *name;
    *test = NULL;
    if (i >= call->n_args)
        return true;
    if (!text__want_string(run, &call->args[i], "select", &name))
        return false;
    *test = text__test_find(name);
    return *test ||
           text__fail(run, "there is no test '%.*s'", (int)text__cut(name, 100), text__bytes(name));
}

static bool choose(struct text__run *run, const struct text__value *self,
                   const struct text__call *call, bool by_attribute, bool keep,
                   struct text__value *out)
{
    const struct text__callable *test;
    struct text__value *items;
    size_t n;
    if (!text__truth(self))
        return done(text__list_new(run, TEXT__LIST_GENERATOR, 0), out);
    if (by_attribute && call->n_args == 0)
        return text__fail(run, "Missing parameter for attribute name");
    struct text__list *list = text__list_new(run, TEXT__LIST_GENERATOR, 0);
    if (!list || !named_test(run, call, by_attribute, &test) || !text__items(run, self, &items, &n))
        return false;
    struct text__call rest = test ? rest_of(call, 1 + by_attribute) : *call;
    for (size_t i = 0; i < n; i++) {
        struct text__value tested = items[i], holds;
        if (!text__work(run, 1) ||
            (by_attribute && !text__dotted(run, &items[i], &call->args[0], &tested)))
            return false;
        holds = tested;
        if ((test && !text__invoke(run, test, &tested, &rest, &holds)) ||
            (text__truth(&holds) == keep && !text__list_push(run, list, &items[i])))
            return false;
    }
    return done(list, out);
}

static bool filter_select(struct text__run *run, const struct text__value *self,
                          const struct text__bound *args, struct text__value *out)
{
    return choose(run, self, args->call, false, true, out);
}

static bool filter_reject(struct text__run *run, const struct text__value *self,
                          const struct text__bound *args, struct text__value *out)
{
    return choose(run, self, args->call, false, false, out);
}

static bool filter_selectattr(struct text__run *run, const struct text__value *self,
                              const struct text__bound *args, struct text__value *out)
{
    return choose(run, self, args->call, true, true, out);
}

static bool filter_rejectattr(struct text__run *run, const struct text__value *self,
                              const struct text__bound *args, struct text__value *out)
{
    return choose(run, self, args->call, true, false, out);
}

static const struct text__value *named(const struct text__call *call, const char *name)
{
    for (size_t i = 0; i < call->n_named; i++)
        if (text__string_is(call->named[i].name, name))
            return &call->named[i].value;
    return NULL;
}

static bool map_attribute(struct text__run *run, const struct text__value *item,
                          const struct text__value *attribute, const struct text__value *usual,
                          struct text__value *out)
{
    if (!text__dotted(run, item, attribute, out))
        return false;
    if (out->kind == TEXT__UNDEFINED && usual)
        *out = *usual;
    return true;
}

/* The filter that a call's first argument names. */
static bool named_filter(struct text__run *run, const struct text__call *call,
                         const struct text__callable **filter)
{
    const struct text__string *name;
    if (call->n_args == 0)
        return text__fail(run, "map requires a filter argument");
    if (!text__want_string(run, &call->args[0], "map", &name))
        return false;
    *filter = text__filter_find(name);
    return *filter || text__fail(run, "there is no filter '%.*s'", (int)text__cut(name, 100),
                                 text__bytes(name));
}

static bool map_items(struct text__run *run, const struct text__value *self,
                      const struct text__call *call, struct text__list *list)
{
    const struct text__value *attribute = call->n_args ? NULL : named(call, "attribute");
    const struct text__callable *filter = NULL;
    struct text__value *items;
    size_t n;
    if ((!attribute && !named_filter(run, call, &filter)) || !text__items(run, self, &items, &n))
        return false;
    struct text__call rest = filter ? rest_of(call, 1) : *call;
    for (size_t i = 0; i < n; i++) {
        struct text__value to;
        if (!text__work(run, 1) ||
            !(filter ? text__invoke(run, filter, &items[i], &rest, &to)
                     : map_attribute(run, &items[i], attribute, named(call, "default"), &to)) ||
            !text__list_push(run, list, &to))
            return false;
    }
    return true;
}

static bool filter_map(struct text__run *run, const struct text__value *self,
                       const struct text__bound *args, struct text__value *out)
{
    struct text__list *list = text__list_new(run, TEXT__LIST_GENERATOR, 0);
    /* map can map map. */
    if (!list || !text__enter(run) ||
        (text__truth(self) && !map_items(run, self, args->call, list)))
        return false;
    text__leave(run);
    return done(list, out);
}

/* Order. */

/* What an item is sorted by: itself or an attribute, in lower case unless case matters. */
static bool sort_key(struct text__run *run, const struct text__value *item,
                     const struct text__value *attribute, bool case_sensitive,
                     struct text__value *key)
{
    *key = *item;
    if (attribute->kind != TEXT__ABSENT && attribute->kind != TEXT__NONE &&
        !text__dotted(run, item, attribute, key))
        return false;
    if (key->kind == TEXT__STRING && !case_sensitive)
        key->string = text__recase(run, key->string, TEXT__CASE_LOWER);
    return key->kind != TEXT__STRING || key->string;
}

/* The keys of all items. */
static struct text__value *sort_keys(struct text__run *run, const struct text__value *items,
                                     size_t n, const struct text__value *attribute,
                                     const struct text__value *case_sensitive)
{
    struct text__value *keys = text__take(run, n * sizeof *keys);
    for (size_t i = 0; keys && i < n; i++)
        if (!text__work(run, 1) ||
            !sort_key(run, &items[i], attribute, text__truth(case_sensitive), &keys[i]))
            return NULL;
    return keys;
}

static bool filter_sort(struct text__run *run, const struct text__value *self,
                        const struct text__bound *args, struct text__value *out)
{
    struct text__list *list = copy_items(run, self, TEXT__LIST_LIST);
    struct text__value *keys =
        list ? sort_keys(run, list->items, list->n, &args->v[2], &args->v[1]) : NULL;
    return keys && text__sort(run, list->items, keys, list->n, text__truth(&args->v[0])) &&
           done(list, out);
}

static bool filter_dictsort(struct text__run *run, const struct text__value *self,
                            const struct text__bound *args, struct text__value *out)
{
    const struct text__value *by = &args->v[1];
    bool by_value = by->kind == TEXT__STRING && text__string_is(by->string, "value");
    if (self->kind == TEXT__UNDEFINED)
        return text__fail_undefined(run, self);
    if (self->kind != TEXT__DICT)
        return text__fail(run, "dictsort needs a dict, not '%s'", text__type_name(self));
    if (by->kind != TEXT__ABSENT && !by_value &&
        !(by->kind == TEXT__STRING && text__string_is(by->string, "key")))
        return text__fail(run, "You can only sort by either \"key\" or \"value\"");
    const struct text__value place = text__int(by_value);
    struct text__list *list = text__dict_list(run, self->dict, TEXT__LIST_ITEMS);
    struct text__value *keys =
        list ? sort_keys(run, list->items, list->n, &place, &args->v[0]) : NULL;
    if (!keys || !text__sort(run, list->items, keys, list->n, text__truth(&args->v[2])))
        return false;
    list->type = TEXT__LIST_LIST;
    return done(list, out);
}

static bool filter_unique(struct text__run *run, const struct text__value *self,
                          const struct text__bound *args, struct text__value *out)
{
    struct text__value *items, *keys, *seen;
    size_t n;
    struct text__list *list = text__list_new(run, TEXT__LIST_GENERATOR, 0);
    struct text__dict *all = text__dict_new(run, 0);
    if (!list || !all || !text__items(run, self, &items, &n) ||
        !(keys = sort_keys(run, items, n, &args->v[1], &args->v[0])))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!text__dict_get(run, all, &keys[i], &seen) ||
            (!seen && (!text__dict_put(run, all, &keys[i], &keys[i]) ||
                       !text__list_push(run, list, &items[i]))))
            return false;
    return done(list, out);
}

static bool extreme(struct text__run *run, const struct text__value *self,
                    const struct text__bound *args, bool largest, struct text__value *out)
{
    struct text__value *items, *keys;
    size_t n, best = 0;
    if (!text__items(run, self, &items, &n) ||
        !(keys = sort_keys(run, items, n, &args->v[1], &args->v[0])))
        return false;
    if (n == 0)
        return no_item(run, "No aggregated item, sequence was empty.", out);
    for (size_t i = 1; i < n; i++) {
        bool better;
        if (!text__less(run, &keys[largest ? best : i], &keys[largest ? i : best], &better))
            return false;
        best = better ? i : best;
    }
    *out = items[best];
    return true;
}

static bool filter_min(struct text__run *run, const struct text__value *self,
                       const struct text__bound *args, struct text__value *out)
{
    return extreme(run, self, args, false, out);
}

static bool filter_max(struct text__run *run, const struct text__value *self,
                       const struct text__bound *args, struct text__value *out)
{
    return extreme(run, self, args, true, out);
}

const struct text__callable *text__sequence_filter_find(const struct text__string *name)
{
    static const struct text__callable filters[] = {
        {"list", filter_list, 0, false, {NULL}},
        {"items", filter_items, 0, false, {NULL}},
        {"first", filter_first, 0, false, {NULL}},
        {"last", filter_last, 0, false, {NULL}},
        {"reverse", filter_reverse, 0, false, {NULL}},
        {"join", filter_join, 0, false, {"d", "attribute"}},
        {"select", filter_select, 0, true, {NULL}},
        {"reject", filter_reject, 0, true, {NULL}},
        {"selectattr", filter_selectattr, 0, true, {NULL}},
        {"rejectattr", filter_rejectattr, 0, true, {NULL}},
        {"map", filter_map, 0, true, {NULL}},
        {"sort", filter_sort, 0, false, {"reverse", "case_sensitive", "attribute"}},
        {"dictsort", filter_dictsort, 0, false, {"case_sensitive", "by", "reverse"}},
        {"unique", filter_unique, 0, false, {"case_sensitive", "attribute"}},
        {"min", filter_min, 0, false, {"case_sensitive", "attribute"}},
        {"max", filter_max, 0, false, {"case_sensitive", "attribute"}},
    };
    return text__callable_find(filters, sizeof filters / sizeof *filters, name);
}
