/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cutting text into pieces before byte-level BPE. A pre-tokeniser is a row of patterns: each is
 * applied to every piece that the one before made, and its matches and the gaps between them are
 * the new pieces. The rows are in pretoken_rules.c.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/internal.h"

#define MAX_STAGES 8u

struct text__pretoken {
    pcre2_code *stages[MAX_STAGES];
    unsigned n_stages;
};

static enum proto_status compile(pcre2_code **out, const char *pattern, struct proto_error *error)
{
    int code;
    PCRE2_SIZE at;
    *out = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                         PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &code, &at, NULL);
    if (!*out) {
        PCRE2_UCHAR text[128];
        pcre2_get_error_message(code, text, sizeof text);
        return proto_fail(error, PROTO_UNSUPPORTED,
                          "pre-tokeniser pattern, offset %zu: %s (this PCRE2 is too old?)",
                          (size_t)at, (const char *)text);
    }
    /* Where this fails (no memory that may be executed), matching interprets the pattern. */
    pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE);
    return PROTO_OK;
}

enum proto_status text__pretoken_create(struct text__pretoken **out,
                                        const struct text__pretoken_rule *rule,
                                        struct proto_error *error)
{
    struct text__pretoken *p = calloc(1, sizeof *p);
    if (!p)
        return proto_fail_nomem(error, sizeof *p, "a pre-tokeniser");
    enum proto_status status = PROTO_OK;
    while (rule->stages[p->n_stages] && p->n_stages < MAX_STAGES && status == PROTO_OK) {
        status = compile(&p->stages[p->n_stages], rule->stages[p->n_stages], error);
        p->n_stages++;
    }
    if (status != PROTO_OK) {
        text__pretoken_destroy(p);
        return status;
    }
    *out = p;
    return PROTO_OK;
}

void text__pretoken_destroy(struct text__pretoken *p)
{
    if (!p)
        return;
    for (unsigned i = 0; i < p->n_stages; i++)
        pcre2_code_free(p->stages[i]);
    free(p);
}

struct split {
    const struct text__pretoken *pretoken;
    pcre2_match_data *data;
    pcre2_match_context *limits;
    text__piece_fn *emit;
    void *context;
};

static enum proto_status split_stage(const struct split *s, unsigned stage, const char *text,
                                     size_t len, struct proto_error *error)
{
    if (len == 0)
        return PROTO_OK;
    if (stage == s->pretoken->n_stages)
        return s->emit(s->context, text, len, error);
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(s->data);
    enum proto_status status = PROTO_OK;
    for (size_t at = 0; at < len && status == PROTO_OK;) {
        int rc = pcre2_match(s->pretoken->stages[stage], (PCRE2_SPTR)text, len, at,
                             PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, s->data, s->limits);
        if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
            return proto_fail(error, PROTO_LIMIT,
                              "cutting a text of %zu bytes into pieces failed at byte %zu (PCRE2 "
                              "error %d); give the text in smaller parts",
                              len, at, rc);
        /* The next stage's matches overwrite the span. */
        size_t start = rc < 0 ? len : span[0], end = rc < 0 ? len : span[1];
        status = split_stage(s, stage + 1, text + at, start - at, error);
        if (status == PROTO_OK)
            status = split_stage(s, stage + 1, text + start, end - start, error);
        at = end;
    }
    return status;
}

/* Bytes from text on that are UTF-8 (valid) or that are not. */
static size_t run_len(const char *text, size_t len, bool valid)
{
    size_t i = 0;
    while (i < len) {
        if (valid && (unsigned char)text[i] < 0x80) {
            i++;
            continue;
        }
        int n = text__utf8(text + i, len - i);
        if ((n > 0) != valid)
            break;
        i += n > 0 ? (size_t)n : n < 0 ? (size_t)-n : len - i;
    }
    return i;
}

static enum proto_status split_runs(const struct split *s, const char *text, size_t len,
                                    struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    bool valid = true;
    while (len > 0 && status == PROTO_OK) {
        size_t run = run_len(text, len, valid);
        status = split_stage(s, valid ? 0 : s->pretoken->n_stages, text, run, error);
        text += run;
        len -= run;
        valid = !valid;
    }
    return status;
}

enum proto_status text__pretoken_split(const struct text__pretoken *pretoken, const char *text,
                                       size_t len, text__piece_fn *emit, void *context,
                                       struct proto_error *error)
{
    struct split s = {.pretoken = pretoken, .emit = emit, .context = context};
    s.data = pcre2_match_data_create(1, NULL);
    s.limits = pcre2_match_context_create(NULL);
    enum proto_status status;
    if (s.data && s.limits) {
        /* A run of one class is walked a few times over, so the steps of one match are bounded by
         * the text's length. */
        pcre2_set_match_limit(s.limits, 10000000u + 2u * (uint32_t)len);
        status = split_runs(&s, text, len, error);
    } else {
        status = proto_fail_nomem(error, sizeof s, "cutting a text into pieces");
    }
    pcre2_match_context_free(s.limits);
    pcre2_match_data_free(s.data);
    return status;
}
