/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of /v1/chat/completions share: templates, and a server to ask. */
#ifndef TESTS_API_CHAT_CALL_H
#define TESTS_API_CHAT_CALL_H

#include "coordinator/api/server.h"
#include "tests/api/call.h"
#include "tests/api/fake_engine.h"

#define CHAT_TURNS                                                                                 \
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + "               \
    "'<|im_end|>\\n' }}"                                                                           \
    "{% endfor %}{{ '<|im_start|>assistant\\n' }}"
/* Thinks unless it is told not to; the prompt may end behind the opening mark. */
#define CHAT_THINKS                                                                                \
    CHAT_TURNS "{% if enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
#define CHAT_OPENS CHAT_TURNS "{% set opens_thinking = true %}{{ '<think>\\n' }}"
#define CHAT_TAGS  CHAT_TURNS "{# <|START_THINKING|> #}"
#define CHAT_HARMONY                                                                               \
    "{% for m in messages %}"                                                                      \
    "{{ '<|start|>' + m['role'] + '<|message|>' + m['content'] + '<|end|>' }}{% endfor %}"         \
    "{{ '<|start|>assistant' }}{# <|channel|> #}"
#define CHAT_PARTS                                                                                 \
    "{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}"          \
    "{% endfor %}"
#define CHAT_RAISES "{{ raise_exception('no ' + messages[0]['role']) }}"
#define CHAT_LOOPS  "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"
#define CHAT_BROKEN "{% if %}"

/* One message of the user, to go in front of other fields. */
#define CHAT_HI "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]"

extern struct coord_engine *chat_engine;
extern const char *chat_url;

int chat_set_up(void);
int chat_tear_down(void);

/* The answer to a body, which must have that HTTP status. The caller's reference. */
json_t *chat_post(const char *body, int status);

#endif
