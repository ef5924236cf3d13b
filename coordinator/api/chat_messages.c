/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/api/chat_messages.h"

#include <stdlib.h>
#include <string.h>

static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
#define N_ROLES (sizeof roles / sizeof roles[0])

/* Beside role and content. */
static const char *const fields[] = {"name", "tool_calls", "tool_call_id", "reasoning_content"};
#define N_FIELDS (sizeof fields / sizeof fields[0])

static bool no_memory(struct api__fault *fault)
{
    return api__fault_set(fault, 500, NULL, NULL, "out of memory for the messages");
}

static bool among(const char *const *names, size_t n, const char *name)
{
    size_t i = 0;
    while (i < n && strcmp(names[i], name) != 0)
        i++;
    return i < n;
}

/* What clients send along with an answer of ours: null, "" or []. */
static bool says_nothing(const json_t *value)
{
    return json_is_null(value) || (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_string(value) && json_string_length(value) == 0);
}

static bool check_fields(const json_t *message, size_t at, struct api__fault *fault)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)message, name, value)
    {
        if (strcmp(name, "role") != 0 && strcmp(name, "content") != 0 &&
            !among(fields, N_FIELDS, name) && !says_nothing(value))
            return api__fault_set(fault, 400, "messages", "unknown_parameter",
                                  "messages[%zu] has the field '%.48s', which is not taken: leave "
                                  "it out",
                                  at, name);
    }
    return true;
}

static bool read_role(const json_t *message, size_t at, const char **role, struct api__fault *fault)
{
    const json_t *json = api__json_field(message, "role");
    if (!json_is_string(json))
        return api__fault_set(fault, 400, "messages", NULL,
                              "messages[%zu].role is %s, expected a string", at,
                              json ? api__json_kind(json) : "missing");
    *role = json_string_value(json);
    if (among(roles, N_ROLES, *role))
        return true;
    return api__fault_set(fault, 400, "messages", NULL,
                          "messages[%zu].role is '%.48s', expected system, developer, user, "
                          "assistant or tool",
                          at, *role);
}

/* What a part that is no text carries. */
static const char *part_kind(const char *type)
{
    static const char *const kinds[][2] = {{"image", "an image"}, {"input_image", "an image"},
                                           {"audio", "audio"},    {"input_audio", "audio"},
                                           {"video", "a video"},  {"file", "a file"}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strncmp(type, kinds[i][0], strlen(kinds[i][0])) == 0)
            return kinds[i][1];
    return "no text";
}

static bool check_part(const json_t *part, size_t at, size_t index, struct api__fault *fault)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    if (!type)
        return api__fault_set(fault, 400, "messages", NULL,
                              "messages[%zu].content[%zu] has no type, expected "
                              "{\"type\": \"text\", \"text\": ...}",
                              at, index);
    if (strcmp(type, "text") != 0)
        return api__fault_set(fault, 400, "messages", "unsupported_content",
                              "messages[%zu].content[%zu] is %s ('%.32s'): this model takes text "
                              "alone",
                              at, index, part_kind(type), type);
    const json_t *text = json_object_get(part, "text");
    if (!json_is_string(text))
        return api__fault_set(fault, 400, "messages", NULL,
                              "messages[%zu].content[%zu].text is %s, expected a string", at, index,
                              text ? api__json_kind(text) : "missing");
    return true;
}

/* The texts of the parts one after the other. */
static json_t *join_parts(const json_t *parts, size_t at, struct api__fault *fault)
{
    size_t len = 0, used = 0;
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i);
        if (!check_part(part, at, i, fault))
            return NULL;
        len += json_string_length(json_object_get(part, "text"));
    }
    char *text = malloc(len + 1);
    for (size_t i = 0; text && i < json_array_size(parts); i++) {
        const json_t *part = json_object_get(json_array_get(parts, i), "text");
        memcpy(text + used, json_string_value(part), json_string_length(part));
        used += json_string_length(part);
    }
    json_t *joined = text ? json_stringn(text, len) : NULL;
    free(text);
    if (!joined)
        no_memory(fault);
    return joined;
}

/* A new reference. An answer that only calls tools has no content. */
static json_t *read_content(const json_t *message, size_t at, const char *role,
                            struct api__fault *fault)
{
    json_t *content = api__json_field(message, "content");
    if (json_is_string(content))
        return json_incref(content);
    bool empty = json_is_array(content) && json_array_size(content) == 0;
    if (json_is_array(content) && !empty)
        return join_parts(content, at, fault);
    if ((!content || empty) && strcmp(role, "assistant") == 0 &&
        api__json_field(message, "tool_calls"))
        return json_string("");
    api__fault_set(fault, 400, "messages", NULL,
                   "messages[%zu].content is %s, expected a string or an array of parts", at,
                   empty     ? "empty"
                   : content ? api__json_kind(content)
                             : "missing");
    return NULL;
}

/* {"name", "arguments"}, the arguments as an object. */
static json_t *read_function(const json_t *call, size_t at, struct api__fault *fault)
{
    const json_t *function = json_object_get(call, "function");
    json_t *name = json_object_get(function, "name");
    json_t *arguments = json_object_get(function, "arguments");
    if (!json_is_string(name)) {
        api__fault_set(fault, 400, "messages", NULL,
                       "messages[%zu].tool_calls holds a call without function.name", at);
        return NULL;
    }
    if (json_is_object(arguments))
        return json_pack("{s:O, s:O}", "name", name, "arguments", arguments);
    struct api__fault ignored;
    json_t *parsed =
        json_is_string(arguments)
            ? api__json_load(json_string_value(arguments), json_string_length(arguments), &ignored)
            : NULL;
    if (parsed)
        return json_pack("{s:O, s:o}", "name", name, "arguments", parsed);
    api__fault_set(fault, 400, "messages", NULL,
                   "messages[%zu].tool_calls: the arguments of %.48s are not a JSON object", at,
                   json_string_value(name));
    return NULL;
}

static json_t *read_calls(const json_t *calls, size_t at, struct api__fault *fault)
{
    if (!json_is_array(calls)) {
        api__fault_set(fault, 400, "messages", NULL,
                       "messages[%zu].tool_calls is %s, expected an array", at,
                       api__json_kind(calls));
        return NULL;
    }
    json_t *list = json_array();
    for (size_t i = 0; list && i < json_array_size(calls); i++) {
        const json_t *call = json_array_get(calls, i);
        json_t *function = read_function(call, at, fault);
        json_t *id = api__json_field(call, "id");
        if (!function || json_array_append_new(list, json_pack("{s:O*, s:s, s:o}", "id", id, "type",
                                                               "function", "function", function))) {
            json_decref(list);
            list = NULL;
        }
    }
    if (!list && !fault->status)
        no_memory(fault);
    return list;
}

/* The fields beside role and content that are there. */
static bool add_fields(json_t *out, const json_t *message, size_t at, struct api__fault *fault)
{
    for (size_t i = 0; i < N_FIELDS; i++) {
        json_t *value = api__json_field(message, fields[i]);
        if (!value || says_nothing(value))
            continue;
        bool calls = strcmp(fields[i], "tool_calls") == 0;
        if (!calls && !json_is_string(value))
            return api__fault_set(fault, 400, "messages", NULL,
                                  "messages[%zu].%s is %s, expected a string", at, fields[i],
                                  api__json_kind(value));
        json_t *read = calls ? read_calls(value, at, fault) : json_incref(value);
        if (!read)
            return false;
        if (json_object_set_new(out, fields[i], read))
            return no_memory(fault);
    }
    return true;
}

static json_t *read_message(const json_t *message, size_t at, struct api__fault *fault)
{
    const char *role = NULL;
    if (!json_is_object(message)) {
        api__fault_set(fault, 400, "messages", NULL, "messages[%zu] is %s, expected an object", at,
                       api__json_kind(message));
        return NULL;
    }
    if (!check_fields(message, at, fault) || !read_role(message, at, &role, fault))
        return NULL;
    json_t *content = read_content(message, at, role, fault);
    if (!content)
        return NULL;
    json_t *out = json_pack("{s:s, s:o}", "role", role, "content", content);
    if (out && add_fields(out, message, at, fault))
        return out;
    if (!fault->status)
        no_memory(fault);
    json_decref(out);
    return NULL;
}

json_t *api__chat_messages(const json_t *body, struct api__fault *fault)
{
    const json_t *messages = api__json_field(body, "messages");
    size_t n = json_array_size(messages);
    if (n == 0) {
        api__fault_set(fault, 400, "messages", NULL,
                       "messages is %s, expected at least one message",
                       !messages                 ? "missing"
                       : json_is_array(messages) ? "empty"
                                                 : api__json_kind(messages));
        return NULL;
    }
    json_t *list = json_array();
    for (size_t i = 0; list && i < n; i++) {
        json_t *message = read_message(json_array_get(messages, i), i, fault);
        if (!message || json_array_append_new(list, message)) {
            json_decref(list);
            list = NULL;
        }
    }
    if (!list && !fault->status)
        no_memory(fault);
    return list;
}
