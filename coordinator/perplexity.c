/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/perplexity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct score {
    const int32_t *window;
    uint32_t ctx;
    double sum, sum_squares;
    uint64_t n;
};

double coord_negative_log_likelihood(const float *logits, size_t n_vocab, int32_t id)
{
    double max = logits[0], sum = 0;
    for (size_t i = 1; i < n_vocab; i++)
        max = logits[i] > max ? logits[i] : max;
    for (size_t i = 0; i < n_vocab; i++)
        sum += exp(logits[i] - max);
    return log(sum) + max - logits[id];
}

static bool score_row(void *user, uint64_t pos, const float *row, size_t n_vocab)
{
    struct score *score = user;
    if (pos < score->ctx / 2 || pos + 1 >= score->ctx)
        return true;
    double nll = coord_negative_log_likelihood(row, n_vocab, score->window[pos + 1]);
    score->sum += nll;
    score->sum_squares += nll * nll;
    score->n++;
    return true;
}

enum proto_status coord_perplexity(struct coord_backend *backend, const int32_t *ids, size_t n,
                                   uint32_t ctx, int32_t bos,
                                   void (*progress)(uint64_t done, uint64_t of, double so_far),
                                   struct coord_perplexity *out, struct proto_error *error)
{
    uint64_t n_windows = n / ctx;
    if (ctx < 4 || n_windows == 0)
        return proto_fail(error, PROTO_INVALID,
                          "the text has %zu tokens: at least one window of --ctx %u (4 or more) is "
                          "needed",
                          n, ctx);
    int32_t *window = malloc(ctx * sizeof *window);
    if (!window)
        return proto_fail_nomem(error, ctx * sizeof *window, "a window");
    struct score score = {.window = window, .ctx = ctx};
    enum proto_status status = PROTO_OK;
    for (uint64_t i = 0; i < n_windows && status == PROTO_OK; i++) {
        memcpy(window, ids + i * ctx, ctx * sizeof *window);
        if (bos >= 0)
            window[0] = bos;
        status = coord_backend_logits(backend, window, ctx, score_row, &score, error);
        if (status == PROTO_OK && progress)
            progress(i + 1, n_windows, exp(score.sum / (double)score.n));
    }
    free(window);
    if (status != PROTO_OK)
        return status;
    double mean = score.sum / (double)score.n;
    double variance = score.sum_squares / (double)score.n - mean * mean;
    out->value = exp(mean);
    out->std_error = score.n > 1 ? out->value * sqrt(fmax(variance, 0) / (double)(score.n - 1)) : 0;
    out->n_windows = n_windows;
    out->n_scored = score.n;
    return PROTO_OK;
}
