/* SPDX-License-Identifier: Apache-2.0 */
/* Requests on their way in: what is refused, and what becomes a sequence. */
#include "coordinator/parts.h"

#include <stdlib.h>
#include <string.h>

static enum proto_status check_sampling(const struct coord_engine *e, const struct text_sampling *s,
                                        struct proto_error *error)
{
    for (size_t i = 0; i < s->n_biases; i++)
        if (s->biases[i].id < 0 || (uint32_t)s->biases[i].id >= e->model->n_vocab)
            return proto_fail(error, PROTO_INVALID,
                              "logit_bias names token %d: expected 0 to %u, the model's vocabulary",
                              s->biases[i].id, e->model->n_vocab - 1);
    return text_sampling_check(s, error);
}

static enum proto_status check_request(const struct coord_engine *e, const struct coord_request *r,
                                       struct proto_error *error)
{
    uint32_t ctx = e->options.ctx;
    bool generates = r->want == COORD_WANT_TOKENS;
    if (r->n_ids == 0)
        return proto_fail(error, PROTO_INVALID,
                          "the prompt is empty: at least one token is needed");
    for (size_t i = 0; i < r->n_ids; i++)
        if (r->ids[i] < 0 || (uint32_t)r->ids[i] >= e->model->n_vocab)
            return proto_fail(error, PROTO_INVALID,
                              "token %zu is %d: expected 0 to %u, the model's vocabulary", i,
                              r->ids[i], e->model->n_vocab - 1);
    if (r->n_ids + (generates && r->max_tokens) > ctx)
        return proto_fail(error, PROTO_INVALID,
                          "the prompt has %zu tokens%s, the context is %u: shorten it, or start "
                          "with a larger --ctx",
                          r->n_ids, generates ? " and needs room for one more" : "", ctx);
    if (generates && r->max_tokens == 0)
        return proto_fail(error, PROTO_INVALID, "max_tokens is 0: at least 1 is needed");
    if (r->top_logprobs > 20)
        return proto_fail(error, PROTO_INVALID, "logprobs is %u: at most 20", r->top_logprobs);
    return generates ? check_sampling(e, &r->sampling, error) : PROTO_OK;
}

/* Candidates to ask the last stage for; 0: the whole vocabulary. */
static uint32_t candidates_for(const struct coord_engine *e, const struct coord_request *r)
{
    if (r->want == COORD_WANT_LOGITS)
        return 0;
    size_t n_banned;
    text_vocab_suppressed(e->vocab, &n_banned);
    uint32_t n = text_sampling_needs(&r->sampling, n_banned);
    if (n && n < r->top_logprobs)
        n = r->top_logprobs;
    return n > PROTO_MAX_CANDIDATES || n >= e->model->n_vocab ? 0 : n;
}

/* Room for ids grows by doubling at powers of two, so it starts at one. */
static int32_t *copy_ids(const int32_t *ids, size_t n)
{
    size_t cap = 1;
    while (cap < n)
        cap *= 2;
    int32_t *copy = malloc(cap * sizeof *copy);
    if (copy)
        memcpy(copy, ids, n * sizeof *copy);
    return copy;
}

static enum proto_status make_sampler(struct coord_seq *seq, struct coord_engine *e,
                                      const struct text_sampling *s, struct proto_error *error)
{
    static const char *const usual[] = {"\n", ":", "\"", "*"};
    struct text_sampler_tokens tokens = {.context = seq->n_prompt + seq->max_tokens};
    tokens.banned = text_vocab_suppressed(e->vocab, &tokens.n_banned);
    int32_t *breakers = NULL;
    enum proto_status status = PROTO_OK;
    if (s->dry_multiplier > 0)
        status = text_vocab_tokens_with(e->vocab, s->dry_breakers ? s->dry_breakers : usual,
                                        s->dry_breakers ? s->n_dry_breakers : 4, &breakers,
                                        &tokens.n_breakers, error);
    tokens.breakers = breakers;
    if (status == PROTO_OK)
        status = text_sampler_create(&seq->sampler, s, &tokens, error);
    free(breakers);
    return status;
}

static enum proto_status make_seq(struct coord_seq **out, struct coord_engine *e,
                                  const struct coord_request *r, struct proto_error *error)
{
    struct coord_seq *seq = calloc(1, sizeof *seq);
    int32_t *ids = copy_ids(r->ids, r->n_ids);
    enum proto_status status = PROTO_OK;
    if (!seq || !ids) {
        free(seq);
        free(ids);
        return proto_fail_nomem(error, r->n_ids * sizeof *ids, "a request");
    }
    seq->want = r->want;
    seq->ids = ids;
    seq->n_ids = seq->n_prompt = r->n_ids;
    size_t left = e->options.ctx - r->n_ids;
    seq->max_tokens = r->max_tokens < left ? r->max_tokens : (uint32_t)left;
    seq->candidates = candidates_for(e, r);
    seq->top_logprobs = r->top_logprobs;
    seq->ignore_eog = r->ignore_eog;
    if (r->want == COORD_WANT_TOKENS)
        status = make_sampler(seq, e, &r->sampling, error);
    for (size_t i = 0; i < r->n_ids && seq->sampler; i++)
        text_sampler_accept(seq->sampler, r->ids[i]);
    if (seq->sampler && r->sampler)
        text_sampler_restore(seq->sampler, r->sampler);
    if (status == PROTO_OK)
        status = engine__stream_create(&seq->stream, e, r, error);
    if (status == PROTO_OK)
        *out = seq;
    else
        engine__seq_destroy(seq);
    return status;
}

struct submission {
    struct coord_engine *e;
    struct coord_seq *seq;
    enum proto_status status;
    struct proto_error *error;
};

static void submit(void *arg)
{
    struct submission *s = arg;
    size_t n_prompt = s->seq->n_prompt;
    s->status = engine__enqueue(s->e, s->seq, s->error);
    if (s->status != PROTO_OK)
        return;
    s->e->prompt_tokens += n_prompt;
    engine__schedule(s->e);
}

enum proto_status coord_engine_submit(struct coord_engine *e, const struct coord_request *request,
                                      struct coord_stream **out, struct proto_error *error)
{
    struct submission s = {.e = e, .status = PROTO_NOMEM, .error = error};
    enum proto_status status = check_request(e, request, error);
    if (status == PROTO_OK)
        status = make_seq(&s.seq, e, request, error);
    if (status != PROTO_OK)
        return status;
    struct coord_stream *stream = s.seq->stream;
    engine__call(e, submit, &s);
    if (s.status != PROTO_OK) {
        engine__stream_unref(stream);
        engine__seq_destroy(s.seq);
        return s.status;
    }
    *out = stream;
    return PROTO_OK;
}
