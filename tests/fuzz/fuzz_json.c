/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as the body of a completion and of chats, whose templates look at all that a body may
 * bring: read or refused with a status and a text. What is read keeps its promises. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/api/params.h"
#include "fuzz.h"
#include "tests/api/fake_vocab.h"

#define MODEL "fake"

/* As the models' own templates are, in short. */
static const char everything[] =
    "{%- macro arguments(call) -%}"
    "{%- for key, value in call.arguments|items -%}"
    "{{ key ~ '=' ~ (value if value is string else value|tojson) }}"
    "{{- ', ' if not loop.last }}{%- endfor -%}"
    "{%- endmacro -%}"
    "{%- set ns = namespace(system='', last=-1) -%}"
    "{%- for m in messages -%}{%- if m.role == 'system' -%}"
    "{%- set ns.system = ns.system + m.content.strip() + '\n' -%}{%- endif -%}"
    "{%- if m['role'] == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{{ bos_token ~ ns.system ~ strftime_now('%d %b %Y') }}"
    "{%- if ns.last < 0 -%}{{ raise_exception('no user in ' ~ messages|length) }}{%- endif -%}"
    "{%- for m in messages if m.role != 'system' -%}"
    "<|start|>{{ m.role }}{{ '/' ~ m.name if m.name }}<|message|>"
    "{%- if '</think>' in m.content -%}{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    "{%- else -%}{{ m.content|trim }}{%- endif -%}"
    "{%- if m.reasoning_content is defined and loop.index0 > ns.last -%}"
    "<think>{{ m.reasoning_content|replace('\n', ' ') }}</think>{%- endif -%}"
    "{%- for call in m.tool_calls or [] -%}"
    "{{ call.id|default('none') }}:{{ call.function.name }}({{ arguments(call.function) }})"
    "{{ call|tojson(indent=2) }}{%- endfor -%}<|end|>{%- endfor -%}"
    "{%- if tools is not none -%}{{ tools|map(attribute='name')|join(', ') }}{%- endif -%}"
    "{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}<think></think>"
    "{%- elif reasoning_effort -%}{{ reasoning_effort.upper() }}<think>{%- endif -%}"
    "{{- more.items()|list|sort|string if more is mapping else (more|string)[::-1] }}";

static const char parts[] =
    "{% for m in messages %}{% for part in m['content'] %}{{ part['text'][:100] }}{% endfor %}"
    "{% endfor %}";

/* NULL: ChatML. */
static const char *const templates[] = {NULL, everything, parts};
#define N_CHATS (sizeof templates / sizeof templates[0])

static struct text_vocab *vocabs[N_CHATS];
static struct text_chat *chats[N_CHATS];

static void check_read(const struct api__params *p, const struct text_vocab *vocab)
{
    FUZZ_CHECK(p->n >= 1 && p->n_prompts >= 1 && p->n * p->n_prompts <= API__MAX_CHOICES);
    FUZZ_CHECK(p->max_tokens >= 1 && p->max_tokens <= PROTO_MAX_CONTEXT);
    FUZZ_CHECK(p->n_stops <= API__MAX_STOPS);
    FUZZ_CHECK(p->top_logprobs >= -1 && p->top_logprobs <= 20);
    for (size_t i = 0; i < p->n_stops; i++)
        FUZZ_CHECK(p->stops[i][0] != '\0');
    for (size_t i = 0; i < p->n_prompts; i++) {
        FUZZ_CHECK(p->prompts[i].n_ids >= 1);
        for (size_t k = 0; k < p->prompts[i].n_ids; k++)
            FUZZ_CHECK((uint32_t)p->prompts[i].ids[k] < text_vocab_size(vocab));
    }
    struct proto_error error;
    FUZZ_CHECK(!text_sampling_check(&p->sampling, &error));
}

static void check_fault(const struct api__fault *fault)
{
    FUZZ_CHECK(fault->status == 400 || fault->status == 404);
    FUZZ_CHECK(fault->message[0]);
    json_t *json = api__fault_json(fault);
    FUZZ_CHECK(json);
    json_decref(json);
}

static void make_chats(void)
{
    for (size_t i = 0; i < N_CHATS; i++) {
        struct proto_error error;
        if (!vocabs[i] && (fake_vocab_create(&vocabs[i], &chats[i], templates[i], &error) ||
                           text_chat_check(chats[i], &error))) {
            fprintf(stderr, "%s\n", error.text);
            abort();
        }
    }
}

/* chat NULL: as a completion. */
static void read_body(const json_t *body, const struct text_vocab *vocab,
                      const struct text_chat *chat)
{
    struct api__params params;
    struct api__fault fault = {0};
    bool ok = chat ? api__chat_params_read(&params, body, MODEL, vocab, chat, &fault)
                   : api__params_read(&params, body, MODEL, vocab, &fault);
    if (ok)
        check_read(&params, vocab);
    else
        check_fault(&fault);
    api__params_finish(&params);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    make_chats();
    struct api__fault fault = {0};
    json_t *body = api__json_load((const char *)data, len, &fault);
    if (!body) {
        check_fault(&fault);
        return 0;
    }
    read_body(body, vocabs[0], NULL);
    for (size_t i = 0; i < N_CHATS; i++)
        read_body(body, vocabs[i], chats[i]);
    json_decref(body);
    return 0;
}
