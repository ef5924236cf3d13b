/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/api/params.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "coordinator/api/chat_messages.h"

/* A chat's own fields, beside those that it shares with completions. */
static const char *const own[] = {
    "messages",
    "max_completion_tokens",
    "top_logprobs",
    "chat_template_kwargs",
    "reasoning_effort",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "function_call",
    "response_format",
    "modalities",
    "audio",
    "prediction",
    "web_search_options",
    /* Of no consequence here: */
    "store",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
};

/* Fields of completions that a chat does not have. */
static const char *const not_shared[] = {"prompt", "echo", "suffix", "best_of"};

static bool among(const char *const *names, size_t n, const char *name)
{
    size_t i = 0;
    while (i < n && strcmp(names[i], name) != 0)
        i++;
    return i < n;
}

static bool check_names(const json_t *body, struct api__fault *fault)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)body, name, value)
    {
        bool shared = api__params_has(name) &&
                      !among(not_shared, sizeof not_shared / sizeof not_shared[0], name);
        if (!shared && !among(own, sizeof own / sizeof own[0], name))
            return api__fault_set(fault, 400, name, "unknown_parameter",
                                  "unknown field '%.48s': take it out or correct its name", name);
    }
    return true;
}

static bool unsupported(const char *name, struct api__fault *fault)
{
    return api__fault_set(fault, 400, name, "unsupported_parameter",
                          "%s is not supported by this version: leave it out", name);
}

/* The value as it says that nothing is wanted. */
static bool is_neutral(const json_t *value, const char *const neutral[2])
{
    const char *text = json_string_value(value);
    if (!text)
        text = json_string_value(json_object_get(value, "type"));
    return (json_is_array(value) && json_array_size(value) == 0) ||
           (text && ((neutral[0] && strcmp(text, neutral[0]) == 0) ||
                     (neutral[1] && strcmp(text, neutral[1]) == 0)));
}

static bool check_modalities(const json_t *body, struct api__fault *fault)
{
    const json_t *modalities = api__json_field(body, "modalities");
    if (modalities && !json_is_array(modalities))
        return api__fault_set(fault, 400, "modalities", NULL,
                              "modalities is %s, expected an array of strings",
                              api__json_kind(modalities));
    for (size_t i = 0; i < json_array_size(modalities); i++) {
        const char *name = json_string_value(json_array_get(modalities, i));
        if (!name || strcmp(name, "text") != 0)
            return api__fault_set(fault, 400, "modalities", "unsupported_parameter",
                                  "modalities holds %.32s, but only text is supported by this "
                                  "version",
                                  name ? name : api__json_kind(json_array_get(modalities, i)));
    }
    return true;
}

/* Tools and enforced formats would change the answer. */
static bool check_unsupported(const json_t *body, struct api__fault *fault)
{
    static const struct {
        const char *name, *neutral[2];
    } refused[] = {{"tools", {NULL, NULL}},
                   {"tool_choice", {"none", "auto"}},
                   {"functions", {NULL, NULL}},
                   {"function_call", {"none", "auto"}},
                   {"response_format", {"text", NULL}},
                   {"audio", {NULL, NULL}},
                   {"prediction", {NULL, NULL}},
                   {"web_search_options", {NULL, NULL}}};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        const json_t *value = api__json_field(body, refused[i].name);
        if (value && !is_neutral(value, refused[i].neutral))
            return unsupported(refused[i].name, fault);
    }
    return check_modalities(body, fault);
}

static bool read_max_tokens(struct api__params *p, const json_t *body, struct api__fault *fault)
{
    json_int_t old = 0, now = 0;
    if (!api__json_integer(body, "max_tokens", 1, PROTO_MAX_CONTEXT, &old, fault) ||
        !api__json_integer(body, "max_completion_tokens", 1, PROTO_MAX_CONTEXT, &now, fault))
        return false;
    if (old && now && old != now)
        return api__fault_set(fault, 400, "max_tokens", NULL,
                              "max_tokens is %lld and max_completion_tokens is %lld: they are the "
                              "same, give one",
                              (long long)old, (long long)now);
    p->max_tokens = now ? (uint32_t)now : old ? (uint32_t)old : PROTO_MAX_CONTEXT;
    return true;
}

static bool read_logprobs(struct api__params *p, const json_t *body, struct api__fault *fault)
{
    bool wanted = false;
    json_int_t top = -1;
    if (!api__json_bool(body, "logprobs", &wanted, fault) ||
        !api__json_integer(body, "top_logprobs", 0, 20, &top, fault))
        return false;
    if (top >= 0 && !wanted)
        return api__fault_set(fault, 400, "top_logprobs", NULL,
                              "top_logprobs needs \"logprobs\": true");
    p->top_logprobs = !wanted ? -1 : top > 0 ? (int)top : 0;
    return true;
}

/* Further variables of the template; a new reference. */
static json_t *read_variables(const json_t *body, struct api__fault *fault)
{
    json_t *kwargs = api__json_field(body, "chat_template_kwargs");
    json_t *effort = api__json_field(body, "reasoning_effort");
    const char *name;
    json_t *value;
    if (kwargs && !json_is_object(kwargs))
        api__fault_set(fault, 400, "chat_template_kwargs", NULL,
                       "chat_template_kwargs is %s, expected an object", api__json_kind(kwargs));
    json_t *again = effort ? api__json_field(kwargs, "reasoning_effort") : NULL;
    if (again && !json_equal(effort, again))
        api__fault_set(fault, 400, "reasoning_effort", NULL,
                       "reasoning_effort differs from chat_template_kwargs.reasoning_effort: give "
                       "one");
    json_object_foreach(kwargs, name, value)
    {
        if (text_chat_reserves(name))
            api__fault_set(fault, 400, "chat_template_kwargs", NULL,
                           "chat_template_kwargs sets %.48s, which the server sets: leave it out",
                           name);
    }
    if (effort && !json_is_string(effort))
        api__fault_set(fault, 400, "reasoning_effort", NULL,
                       "reasoning_effort is %s, expected a string", api__json_kind(effort));
    if (fault->status)
        return NULL;
    json_t *variables = json_pack("{s:O*}", "reasoning_effort", effort);
    if (variables && kwargs && json_object_update(variables, kwargs)) {
        json_decref(variables);
        variables = NULL;
    }
    if (!variables)
        api__fault_set(fault, 500, NULL, NULL, "out of memory for chat_template_kwargs");
    return variables;
}

/* What a template does not take is the request's fault. */
static bool refused(const struct proto_error *error, struct api__fault *fault)
{
    switch (error->status) {
    case PROTO_LIMIT:
    case PROTO_FORMAT:
    case PROTO_UNSUPPORTED:
        return api__fault_set(fault, 400, "messages", "chat_template", "%s", error->text);
    default:
        return api__fault_from(fault, error);
    }
}

static bool render(struct api__params *p, const json_t *messages, const json_t *variables,
                   const struct text_chat *chat, struct api__fault *fault)
{
    struct text_chat_prompt prompt;
    struct proto_error error;
    if (text_chat_encode(chat, messages, variables, (long long)time(NULL), &prompt, &error))
        return refused(&error, fault);
    p->prompts = calloc(1, sizeof *p->prompts);
    if (!p->prompts) {
        text_chat_prompt_finish(&prompt);
        return api__fault_set(fault, 500, NULL, NULL, "out of memory for a prompt");
    }
    p->n_prompts = 1;
    p->prompts[0] = (struct api__prompt){.ids = prompt.ids, .n_ids = prompt.n_ids};
    p->marks = text_chat_marks(chat);
    p->thinking = prompt.thinking;
    return prompt.n_ids > 0 || api__fault_set(fault, 400, "messages", "chat_template",
                                              "the chat template makes nothing of these messages");
}

bool api__chat_params_read(struct api__params *params, const json_t *body, const char *model,
                           const struct text_vocab *vocab, const struct text_chat *chat,
                           struct api__fault *fault)
{
    *params = (struct api__params){0};
    if (!check_names(body, fault) || !check_unsupported(body, fault) ||
        !api__params_read_shared(params, body, model, vocab, fault) ||
        !read_max_tokens(params, body, fault) || !read_logprobs(params, body, fault))
        return false;
    json_t *messages = api__chat_messages(body, fault);
    json_t *variables = messages ? read_variables(body, fault) : NULL;
    bool ok = variables && render(params, messages, variables, chat, fault);
    json_decref(messages);
    json_decref(variables);
    return ok;
}
