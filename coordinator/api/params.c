/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/api/params.h"
#include "coordinator/api/sampling.h"

#include <stdlib.h>
#include <string.h>

#define MAX_STOP_BYTES 1024u

static const char *const fields[] = {
    "model",    "prompt", "max_tokens", API__SAMPLING_FIELDS, "n",          "stop",
    "logprobs", "echo",   "stream",     "stream_options",     "ignore_eos", "suffix",
    "best_of",  "user",   "grammar",    "json_schema",
};

static bool check_model(const json_t *body, const char *model, struct api__fault *fault)
{
    const json_t *name = api__json_field(body, "model");
    if (!name)
        return true;
    if (!json_is_string(name))
        return api__fault_set(fault, 400, "model", NULL, "model is %s, expected a string",
                              api__json_kind(name));
    if (json_string_length(name) == strlen(model) && strcmp(json_string_value(name), model) == 0)
        return true;
    return api__fault_set(fault, 404, "model", "model_not_found",
                          "there is no model '%.100s' here, only '%s'", json_string_value(name),
                          model);
}

/* Fields that would change the result and are not offered. */
static bool check_unsupported(const json_t *body, struct api__fault *fault)
{
    static const char *const refused[] = {"suffix", "grammar", "json_schema"};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (api__json_field(body, refused[i]))
            return api__fault_set(fault, 400, refused[i], "unsupported_parameter",
                                  "%s is not supported by this version: leave it out", refused[i]);
    return true;
}

static bool read_u32(const json_t *body, const char *name, json_int_t min, json_int_t max,
                     uint32_t *out, struct api__fault *fault)
{
    json_int_t value = *out;
    if (!api__json_integer(body, name, min, max, &value, fault))
        return false;
    *out = (uint32_t)value;
    return true;
}

static bool read_sampling(const json_t *body, const struct text_vocab *vocab,
                          struct text_sampling *s, struct api__fault *fault)
{
    *s = TEXT_SAMPLING_DEFAULT;
    s->temperature = 1.0f;
    s->top_p = 1.0f;
    return api__sampling_read(body, text_vocab_size(vocab), s, fault);
}

static bool add_stop(struct api__params *p, const json_t *stop, struct api__fault *fault)
{
    if (!json_is_string(stop))
        return api__fault_set(fault, 400, "stop", NULL,
                              "stop holds %s, expected a string or an array of strings",
                              api__json_kind(stop));
    const char *text = json_string_value(stop);
    size_t len = json_string_length(stop);
    if (len == 0 || len > MAX_STOP_BYTES || strlen(text) != len)
        return api__fault_set(fault, 400, "stop", NULL,
                              "a stop string has %zu bytes, expected 1 to %u and no NUL", len,
                              MAX_STOP_BYTES);
    p->stops[p->n_stops++] = text;
    return true;
}

static bool read_stops(struct api__params *p, const json_t *body, struct api__fault *fault)
{
    const json_t *stop = api__json_field(body, "stop");
    if (!stop)
        return true;
    if (!json_is_array(stop))
        return add_stop(p, stop, fault);
    if (json_array_size(stop) > API__MAX_STOPS)
        return api__fault_set(fault, 400, "stop", NULL,
                              "stop has %zu strings, at most %u are taken", json_array_size(stop),
                              API__MAX_STOPS);
    for (size_t i = 0; i < json_array_size(stop); i++)
        if (!add_stop(p, json_array_get(stop, i), fault))
            return false;
    return true;
}

/* Only as many as are answered with. */
static bool check_best_of(const json_t *body, uint32_t n, struct api__fault *fault)
{
    json_int_t best_of = n;
    if (!api__json_integer(body, "best_of", 1, API__MAX_CHOICES, &best_of, fault))
        return false;
    if (best_of < n)
        return api__fault_set(
            fault, 400, "best_of", NULL,
            "best_of is %lld and n is %u: the best %u cannot be chosen from fewer",
            (long long)best_of, n, n);
    return best_of == n || api__fault_set(fault, 400, "best_of", "unsupported_parameter",
                                          "best_of above n is not supported by this version: leave "
                                          "it out");
}

static bool read_completion(struct api__params *p, const json_t *body, struct api__fault *fault)
{
    p->max_tokens = 16;
    json_int_t logprobs = -1;
    if (!read_u32(body, "max_tokens", 1, PROTO_MAX_CONTEXT, &p->max_tokens, fault) ||
        !api__json_integer(body, "logprobs", 0, 20, &logprobs, fault) ||
        !api__json_bool(body, "echo", &p->echo, fault) || !check_best_of(body, p->n, fault))
        return false;
    p->top_logprobs = (int)logprobs;
    if (p->echo && logprobs >= 0)
        return api__fault_set(fault, 400, "logprobs", "unsupported_parameter",
                              "logprobs together with echo is not supported: leave one out");
    return true;
}

static bool read_output(struct api__params *p, const json_t *body, struct api__fault *fault)
{
    p->n = 1;
    if (!read_u32(body, "n", 1, API__MAX_CHOICES, &p->n, fault) ||
        !api__json_bool(body, "stream", &p->stream, fault) ||
        !api__json_bool(body, "ignore_eos", &p->ignore_eos, fault))
        return false;
    const json_t *options = api__json_field(body, "stream_options");
    static const char *const known[] = {"include_usage"};
    if (options && !json_is_object(options))
        return api__fault_set(fault, 400, "stream_options", NULL,
                              "stream_options is %s, expected an object", api__json_kind(options));
    if (options && !p->stream)
        return api__fault_set(fault, 400, "stream_options", NULL,
                              "stream_options needs \"stream\": true");
    return !options || (api__json_only(options, known, 1, fault) &&
                        api__json_bool(options, "include_usage", &p->include_usage, fault));
}

static bool read_prompt(struct api__prompt *prompt, const json_t *json,
                        const struct text_vocab *vocab, struct api__fault *fault)
{
    if (json_is_array(json)) {
        if (!api__json_ids(json, "prompt", text_vocab_size(vocab), &prompt->ids, &prompt->n_ids,
                           fault))
            return false;
    } else if (json_is_string(json)) {
        prompt->text = json_string_value(json);
        prompt->text_len = json_string_length(json);
        struct proto_error error;
        if (text_encode_prompt(vocab, prompt->text, prompt->text_len, true, &prompt->ids,
                               &prompt->n_ids, &error))
            return api__fault_from(fault, &error);
    } else {
        return api__fault_set(fault, 400, "prompt", NULL,
                              "prompt holds %s, expected a string or an array of token ids",
                              api__json_kind(json));
    }
    if (prompt->n_ids == 0)
        return api__fault_set(fault, 400, "prompt", NULL,
                              "the prompt is empty, expected at least one token");
    return true;
}

static bool read_prompts(struct api__params *p, const json_t *body, const struct text_vocab *vocab,
                         struct api__fault *fault)
{
    json_t *prompt = api__json_field(body, "prompt");
    if (!prompt)
        return api__fault_set(fault, 400, "prompt", NULL, "prompt is missing");
    /* An array of numbers is one prompt, any other array is a list of prompts. */
    bool list = json_is_array(prompt) && !json_is_number(json_array_get(prompt, 0));
    size_t n = list ? json_array_size(prompt) : 1;
    if (n == 0 || n > API__MAX_CHOICES / p->n)
        return api__fault_set(fault, 400, "prompt", NULL,
                              "prompt asks for %zu prompts with n = %u, expected 1 to %u choices "
                              "in all",
                              n, p->n, API__MAX_CHOICES);
    p->prompts = calloc(n, sizeof *p->prompts);
    if (!p->prompts)
        return api__fault_set(fault, 500, NULL, NULL, "out of memory for %zu prompts", n);
    p->n_prompts = n;
    for (size_t i = 0; i < n; i++)
        if (!read_prompt(&p->prompts[i], list ? json_array_get(prompt, i) : prompt, vocab, fault))
            return false;
    return true;
}

bool api__params_read_shared(struct api__params *params, const json_t *body, const char *model,
                             const struct text_vocab *vocab, struct api__fault *fault)
{
    return check_model(body, model, fault) && check_unsupported(body, fault) &&
           read_output(params, body, fault) &&
           read_sampling(body, vocab, &params->sampling, fault) && read_stops(params, body, fault);
}

bool api__params_read(struct api__params *params, const json_t *body, const char *model,
                      const struct text_vocab *vocab, struct api__fault *fault)
{
    *params = (struct api__params){0};
    return api__json_only(body, fields, sizeof fields / sizeof fields[0], fault) &&
           api__params_read_shared(params, body, model, vocab, fault) &&
           read_completion(params, body, fault) && read_prompts(params, body, vocab, fault);
}

bool api__params_has(const char *name)
{
    size_t i = 0, n = sizeof fields / sizeof fields[0];
    while (i < n && strcmp(fields[i], name) != 0)
        i++;
    return i < n;
}

void api__params_finish(struct api__params *params)
{
    for (size_t i = 0; i < params->n_prompts; i++)
        free(params->prompts[i].ids);
    free(params->prompts);
    api__sampling_finish(&params->sampling);
    *params = (struct api__params){0};
}
