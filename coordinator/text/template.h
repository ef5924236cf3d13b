/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chat templates: the part of Jinja2 that models' templates use (reference: the templates
 * themselves), as transformers renders them: trim_blocks and lstrip_blocks on, no autoescape, no
 * trailing newline kept, a sandbox in which values do not change. A template is not trusted: its
 * source is at most 1 MiB; a render ends after 33 million steps (about a second), with more than 64
 * MiB of values, a text of more than 16 MiB, or more than 100 macros inside each other. Constant
 * after creation; any thread.
 */
#ifndef COORDINATOR_TEXT_TEMPLATE_H
#define COORDINATOR_TEXT_TEMPLATE_H

#include <jansson.h>
#include <stddef.h>

#include "proto/status.h"

struct text_template;

/* Parses the source (len bytes of UTF-8). PROTO_FORMAT names the line and what is wrong there;
 * PROTO_LIMIT: it is too long or nested too deeply. Filters and tests that do not exist fail where
 * a render reaches them. */
enum proto_status text_template_create(struct text_template **out, const char *source, size_t len,
                                       struct proto_error *error);
/* NULL is allowed. */
void text_template_destroy(struct text_template *tmpl);

/* Bytes [first, end) of a rendered text that came from the variables' strings (messages, tools),
 * not from the template: special tokens spelled there are not to be parsed. In order, disjoint.
 * They are followed through every operation on strings. A message's role is trusted if it is
 * system, developer, user, assistant, tool or function, as some templates make tokens of it. */
struct text_span {
    size_t first, end;
};

struct text_rendered {
    char *text; /* NUL-terminated */
    size_t len;
    struct text_span *untrusted;
    size_t n_untrusted;
};

/* A zeroed or finished one is allowed. */
void text_rendered_finish(struct text_rendered *rendered);

/* Renders with variables (an object: messages, tools, add_generation_prompt, bos_token, eos_token
 * and any others; bos_token and eos_token are trusted). unix_time is what strftime_now sees (UTC).
 * PROTO_INVALID: the template raised an exception (the error is its text alone, which may have
 * lines) or failed (with the line); PROTO_LIMIT: it went beyond a limit. *out is filled on success
 * and empty otherwise. */
enum proto_status text_template_render(const struct text_template *tmpl, const json_t *variables,
                                       long long unix_time, struct text_rendered *out,
                                       struct proto_error *error);

#endif
