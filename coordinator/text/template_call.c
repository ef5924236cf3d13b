/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of filters, tests, methods and functions: from what was written to their parameters. And
 * the functions. */
#include <locale.h>
#include <string.h>
#include <time.h>

#include "coordinator/text/template_value.h"

/* Python's sandbox in Jinja2 has the same limit. */
#define MAX_RANGE 100000u

static size_t n_params(const struct text__callable *callable)
{
    size_t n = 0;
    while (n < TEXT__MAX_PARAMS && callable->params[n])
        n++;
    return n;
}

static bool bind_named(struct text__run *run, const struct text__callable *callable,
                       const struct text__named *named, struct text__bound *bound)
{
    for (size_t i = 0; i < n_params(callable); i++) {
        if (!text__string_is(named->name, callable->params[i]))
            continue;
        if (bound->v[i].kind != TEXT__ABSENT)
            return text__fail(run, "%s: the argument '%s' is given twice", callable->name,
                              callable->params[i]);
        bound->v[i] = named->value;
        return true;
    }
    return text__fail(run, "%s takes no argument '%.*s'", callable->name,
                      (int)text__cut(named->name, 100), text__bytes(named->name));
}

static bool bind(struct text__run *run, const struct text__callable *callable,
                 const struct text__call *call, struct text__bound *bound)
{
    if (call->n_args > n_params(callable))
        return text__fail(run, "%s takes %zu arguments at most, not %zu", callable->name,
                          n_params(callable), call->n_args);
    for (size_t i = 0; i < call->n_args; i++)
        bound->v[i] = call->args[i];
    for (size_t i = 0; i < call->n_named; i++)
        if (!bind_named(run, callable, &call->named[i], bound))
            return false;
    for (size_t i = 0; i < callable->required; i++)
        if (bound->v[i].kind == TEXT__ABSENT)
            return text__fail(run, "%s: the argument '%s' is missing", callable->name,
                              callable->params[i]);
    return true;
}

bool text__invoke(struct text__run *run, const struct text__callable *callable,
                  const struct text__value *self, const struct text__call *call,
                  struct text__value *out)
{
    struct text__bound bound = {.call = call};
    return text__work(run, 1) && (callable->variadic || bind(run, callable, call, &bound)) &&
           callable->fn(run, self, &bound, out);
}

const struct text__callable *text__callable_find(const struct text__callable *table, size_t n,
                                                 const struct text__string *name)
{
    for (size_t i = 0; i < n; i++)
        if (text__string_is(name, table[i].name))
            return &table[i];
    return NULL;
}

bool text__want_string(struct text__run *run, const struct text__value *v, const char *of,
                       const struct text__string **out)
{
    *out = NULL;
    if (v->kind == TEXT__UNDEFINED)
        return text__fail_undefined(run, v);
    if (v->kind != TEXT__STRING)
        return text__fail(run, "%s needs a string, not '%s'", of, text__type_name(v));
    *out = v->string;
    return true;
}

bool text__want_int(struct text__run *run, const struct text__value *v, const char *of,
                    int64_t *out)
{
    if (v->kind == TEXT__UNDEFINED)
        return text__fail_undefined(run, v);
    return text__as_int(v, out) ||
           text__fail(run, "%s needs an integer, not '%s'", of, text__type_name(v));
}

/* Functions. */

static bool function_range(struct text__run *run, const struct text__value *self,
                           const struct text__bound *args, struct text__value *out)
{
    (void)self;
    int64_t n[3] = {0, 0, 1};
    for (int i = 0; i < 3; i++)
        if (args->v[i].kind != TEXT__ABSENT && !text__want_int(run, &args->v[i], "range", &n[i]))
            return false;
    int64_t start = n[0], stop = n[1], step = n[2];
    if (args->v[1].kind == TEXT__ABSENT) {
        start = 0;
        stop = n[0];
    }
    if (step == 0)
        return text__fail(run, "range: the step must not be zero");
    uint64_t span = step > 0 ? (stop > start ? (uint64_t)stop - (uint64_t)start : 0)
                             : (start > stop ? (uint64_t)start - (uint64_t)stop : 0);
    uint64_t size = step > 0 ? (uint64_t)step : 0 - (uint64_t)step;
    uint64_t count = span / size + (span % size != 0);
    if (count > MAX_RANGE)
        return text__fail_limit(run, "a range of more than %u numbers", MAX_RANGE);
    struct text__list *list =
        text__work(run, count) ? text__list_new(run, TEXT__LIST_RANGE, count) : NULL;
    for (uint64_t i = 0; list && i < count; i++) {
        struct text__value item = text__int((int64_t)((uint64_t)start + i * (uint64_t)step));
        if (!text__list_push(run, list, &item))
            return false;
    }
    *out = text__list(list);
    return list != NULL;
}

/* The call's named arguments, behind the pairs of a dict if one is given. */
static bool collect(struct text__run *run, const char *name, const struct text__call *call,
                    struct text__value *out)
{
    struct text__dict *dict = text__dict_new(run, call->n_named);
    if (!dict)
        return false;
    if (call->n_args > 1 || (call->n_args == 1 && call->args[0].kind != TEXT__DICT))
        return text__fail(run, "%s takes named arguments, or one dict", name);
    for (size_t i = 0; call->n_args == 1 && i < call->args[0].dict->n; i++) {
        const struct text__pair *pair = &call->args[0].dict->pairs[i];
        if (!text__dict_put(run, dict, &pair->key, &pair->value))
            return false;
    }
    for (size_t i = 0; i < call->n_named; i++) {
        struct text__value key = text__string(call->named[i].name);
        if (!text__dict_put(run, dict, &key, &call->named[i].value))
            return false;
    }
    *out = text__dict(dict);
    return true;
}

static bool function_dict(struct text__run *run, const struct text__value *self,
                          const struct text__bound *args, struct text__value *out)
{
    (void)self;
    return collect(run, "dict", args->call, out);
}

static bool function_namespace(struct text__run *run, const struct text__value *self,
                               const struct text__bound *args, struct text__value *out)
{
    (void)self;
    if (!collect(run, "namespace", args->call, out))
        return false;
    out->kind = TEXT__NAMESPACE;
    return true;
}

/* The exception's text is the whole error: templates speak to people there. */
static bool function_raise(struct text__run *run, const struct text__value *self,
                           const struct text__bound *args, struct text__value *out)
{
    (void)self;
    (void)out;
    const struct text__string *text = text__str(run, &args->v[0]);
    if (!text)
        return false;
    run->status = proto_fail(run->error, PROTO_INVALID, "%.*s",
                             (int)text__cut(text, PROTO_ERROR_TEXT_BYTES - 1), text__bytes(text));
    return false;
}

static bool function_strftime(struct text__run *run, const struct text__value *self,
                              const struct text__bound *args, struct text__value *out)
{
    (void)self;
    char format[128], text[512];
    const struct text__string *wanted;
    time_t now = (time_t)run->unix_time;
    struct tm date;
    if (!text__want_string(run, &args->v[0], "strftime_now", &wanted))
        return false;
    if (wanted->len >= sizeof format || !gmtime_r(&now, &date))
        return text__fail(run, "strftime_now: a format or a date that is out of range");
    memcpy(format, text__bytes(wanted), wanted->len);
    format[wanted->len] = '\0';
    locale_t english = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!english)
        return text__fail(run, "strftime_now: there is no locale");
    size_t n = strftime_l(text, sizeof text, format, &date, english);
    freelocale(english);
    struct text__buffer *buffer = text__buffer_new(run);
    if (!buffer || !text__put(run, buffer, text, n, false))
        return false;
    *out = text__string(text__whole(run, buffer));
    return out->string != NULL;
}

const struct text__callable *text__function_find(const struct text__string *name)
{
    static const struct text__callable functions[] = {
        {"range", function_range, 1, false, {"start", "stop", "step"}},
        {"dict", function_dict, 0, true, {NULL}},
        {"namespace", function_namespace, 0, true, {NULL}},
        {"raise_exception", function_raise, 1, false, {"message"}},
        {"strftime_now", function_strftime, 1, false, {"format"}},
    };
    return text__callable_find(functions, sizeof functions / sizeof *functions, name);
}
