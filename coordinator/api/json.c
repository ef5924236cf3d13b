/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/api/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Counts nesting and values outside strings; what is not JSON is left to the parser. */
static bool within_limits(const char *body, size_t len, struct api__fault *fault)
{
    size_t depth = 0, values = 0;
    bool quoted = false;
    for (size_t i = 0; i < len; i++) {
        char c = body[i];
        if (quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                quoted = false;
            continue;
        }
        quoted = c == '"';
        if (c == '[' || c == '{')
            depth++, values++;
        else if (c == ',')
            values++;
        else if ((c == ']' || c == '}') && depth > 0)
            depth--;
        if (depth > API__JSON_MAX_DEPTH)
            return api__fault_set(fault, 400, NULL, NULL,
                                  "the body nests deeper than %u levels at byte %zu",
                                  API__JSON_MAX_DEPTH, i);
        if (values > API__JSON_MAX_VALUES)
            return api__fault_set(fault, 400, NULL, NULL, "the body holds more than %u values",
                                  API__JSON_MAX_VALUES);
    }
    return true;
}

json_t *api__json_load(const char *body, size_t len, struct api__fault *fault)
{
    if (!within_limits(body, len, fault))
        return NULL;
    json_error_t error;
    json_t *root =
        json_loadb(len > 0 ? body : "", len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!root) {
        api__fault_set(fault, 400, NULL, NULL, "the body is not JSON: line %d, column %d: %s",
                       error.line, error.column, error.text);
        return NULL;
    }
    if (!json_is_object(root)) {
        api__fault_set(fault, 400, NULL, NULL, "the body is %s, expected an object",
                       api__json_kind(root));
        json_decref(root);
        return NULL;
    }
    return root;
}

/* Bytes of the UTF-8 character at s, 0 if there is none (RFC 3629). */
static size_t utf8_char(const unsigned char *s, size_t len)
{
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (n == 0 || n > len || s[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

json_t *api__json_text(const char *text, size_t len)
{
    json_t *json = json_stringn(text, len);
    if (json)
        return json;
    if (len > SIZE_MAX / 3)
        return NULL;
    char *clean = malloc(len * 3);
    if (!clean)
        return NULL;
    size_t used = 0;
    for (size_t i = 0; i < len;) {
        size_t n = utf8_char((const unsigned char *)text + i, len - i);
        memcpy(clean + used, n > 0 ? text + i : "\xef\xbf\xbd", n > 0 ? n : 3);
        used += n > 0 ? n : 3;
        i += n > 0 ? n : 1;
    }
    json = json_stringn(clean, used);
    free(clean);
    return json;
}

json_t *api__json_token(const char *bytes, size_t len)
{
    json_t *json = json_stringn(bytes, len);
    if (json || len > 4096)
        return json;
    char text[6 + 4 * 4096 + 1] = "bytes:";
    size_t used = 6;
    for (size_t i = 0; i < len; i++)
        used += (size_t)snprintf(text + used, 5, "\\x%02x", (unsigned char)bytes[i]);
    return json_stringn(text, used);
}

const char *api__json_kind(const json_t *json)
{
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "something else";
}

json_t *api__json_field(const json_t *object, const char *name)
{
    json_t *value = json_object_get(object, name);
    return json_is_null(value) ? NULL : value;
}

bool api__json_number(const json_t *object, const char *name, double min, double max, double *out,
                      struct api__fault *fault)
{
    const json_t *value = api__json_field(object, name);
    if (!value)
        return true;
    if (!json_is_number(value))
        return api__fault_set(fault, 400, name, NULL, "%s is %s, expected a number", name,
                              api__json_kind(value));
    double number = json_number_value(value);
    if (!(number >= min && number <= max))
        return api__fault_set(fault, 400, name, NULL, "%s is %g, expected %g to %g", name, number,
                              min, max);
    *out = number;
    return true;
}

bool api__json_integer(const json_t *object, const char *name, json_int_t min, json_int_t max,
                       json_int_t *out, struct api__fault *fault)
{
    const json_t *value = api__json_field(object, name);
    if (!value)
        return true;
    if (!json_is_integer(value))
        return api__fault_set(fault, 400, name, NULL, "%s is %s, expected an integer", name,
                              api__json_kind(value));
    json_int_t number = json_integer_value(value);
    if (number < min || number > max)
        return api__fault_set(fault, 400, name, NULL,
                              "%s is %" JSON_INTEGER_FORMAT ", expected %" JSON_INTEGER_FORMAT
                              " to %" JSON_INTEGER_FORMAT,
                              name, number, min, max);
    *out = number;
    return true;
}

bool api__json_bool(const json_t *object, const char *name, bool *out, struct api__fault *fault)
{
    const json_t *value = api__json_field(object, name);
    if (!value)
        return true;
    if (!json_is_boolean(value))
        return api__fault_set(fault, 400, name, NULL, "%s is %s, expected true or false", name,
                              api__json_kind(value));
    *out = json_is_true(value);
    return true;
}

bool api__json_only(const json_t *object, const char *const *names, size_t n,
                    struct api__fault *fault)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)object, name, value)
    {
        size_t i = 0;
        while (i < n && strcmp(names[i], name) != 0)
            i++;
        if (i == n)
            return api__fault_set(fault, 400, name, "unknown_parameter",
                                  "unknown field '%.48s': take it out or correct its name", name);
    }
    return true;
}

bool api__json_ids(const json_t *array, const char *name, uint32_t n_vocab, int32_t **ids,
                   size_t *n, struct api__fault *fault)
{
    size_t count = json_array_size(array);
    int32_t *list = malloc((count > 0 ? count : 1) * sizeof *list);
    if (!list)
        return api__fault_set(fault, 500, NULL, NULL, "out of memory for %zu token ids", count);
    for (size_t i = 0; i < count; i++) {
        const json_t *value = json_array_get(array, i);
        json_int_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id >= (json_int_t)n_vocab) {
            free(list);
            if (!json_is_integer(value))
                return api__fault_set(fault, 400, name, NULL, "%s[%zu] is %s, expected a token id",
                                      name, i, api__json_kind(value));
            return api__fault_set(fault, 400, name, NULL,
                                  "%s[%zu] is %" JSON_INTEGER_FORMAT
                                  ", expected a token id from 0 to %u",
                                  name, i, id, n_vocab - 1);
        }
        list[i] = (int32_t)id;
    }
    *ids = list;
    *n = count;
    return true;
}
