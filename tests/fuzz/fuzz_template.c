/* SPDX-License-Identifier: Apache-2.0 */
/* A chat template and, behind a NUL, its variables as JSON: parsed or refused, rendered or failed,
 * within its limits. What is rendered is UTF-8 and its untrusted bytes are in order. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/template_value.h"
#include "fuzz.h"

static const char usual[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\" Hi \\u00e9\\n\"},{\"role\":\"assistant\","
    "\"content\":null,\"n\":1.5,\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":"
    "{\"a\":[1,true]}}}]}],\"tools\":null,\"add_generation_prompt\":true,\"bos_token\":\"<s>\","
    "\"eos_token\":\"</s>\"}";

static void check_rendered(const struct text_rendered *rendered)
{
    size_t end = 0;
    json_t *utf8 = json_stringn(rendered->text, rendered->len);
    FUZZ_CHECK(utf8 && rendered->text[rendered->len] == '\0');
    json_decref(utf8);
    for (size_t i = 0; i < rendered->n_untrusted; i++) {
        FUZZ_CHECK(rendered->untrusted[i].first >= end);
        FUZZ_CHECK(rendered->untrusted[i].end > rendered->untrusted[i].first);
        end = rendered->untrusted[i].end;
    }
    FUZZ_CHECK(end <= rendered->len);
}

static void render(const struct text_template *tmpl, const json_t *variables)
{
    static const struct text__limits limits = {
        .steps = 20000, .memory_bytes = (size_t)4 << 20, .text_bytes = (size_t)256 << 10};
    struct text_rendered rendered;
    struct proto_error error = {0};
    enum proto_status status =
        text__render(tmpl, variables, 1768435200, &limits, &rendered, &error);
    FUZZ_CHECK(status == error.status);
    if (status) {
        FUZZ_CHECK(status == PROTO_INVALID || status == PROTO_LIMIT);
        FUZZ_CHECK(!rendered.text && !rendered.untrusted);
        json_t *utf8 = json_string(error.text);
        FUZZ_CHECK(utf8);
        json_decref(utf8);
        return;
    }
    check_rendered(&rendered);
    text_rendered_finish(&rendered);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const char *source = (const char *)data;
    const char *nul = len ? memchr(source, 0, len) : NULL;
    size_t source_len = nul ? (size_t)(nul - source) : len;
    struct text_template *tmpl;
    struct proto_error error = {0};
    enum proto_status status = text_template_create(&tmpl, source, source_len, &error);
    if (status) {
        FUZZ_CHECK(status == error.status && !tmpl);
        FUZZ_CHECK(error.text[0] && !strchr(error.text, '\n'));
        return 0;
    }
    json_t *variables = NULL;
    if (nul)
        variables = json_loadb(nul + 1, len - source_len - 1, JSON_ALLOW_NUL, NULL);
    if (!json_is_object(variables)) {
        json_decref(variables);
        variables = json_loads(usual, 0, NULL);
    }
    if (variables)
        render(tmpl, variables);
    json_decref(variables);
    text_template_destroy(tmpl);
    return 0;
}
