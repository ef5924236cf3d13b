/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling parameters as JSON fields of a request, both ways. No state, any thread. */
#ifndef COORDINATOR_API_SAMPLING_H
#define COORDINATOR_API_SAMPLING_H

#include "coordinator/api/json.h"

/* The fields that api__sampling_read knows. */
#define API__SAMPLING_FIELDS                                                                       \
    "temperature", "top_p", "top_k", "min_p", "typical", "typical_p", "top_n_sigma",               \
        "repetition_penalty", "repeat_penalty", "repeat_last_n", "frequency_penalty",              \
        "presence_penalty", "dry_multiplier", "dry_base", "dry_allowed_length",                    \
        "dry_penalty_last_n", "dry_sequence_breakers", "xtc_probability", "xtc_threshold",         \
        "dynatemp_range", "dynatemp_exponent", "mirostat", "mirostat_tau", "mirostat_eta",         \
        "samplers", "logit_bias", "seed"

/* Reads the fields of `body`, which must outlive *s, over what *s has already (but the seed, which
 * is random where none is given) and checks the whole. False with *fault set otherwise. *s needs
 * api__sampling_finish either way. */
bool api__sampling_read(const json_t *body, uint32_t n_vocab, struct text_sampling *s,
                        struct api__fault *fault);
/* Frees the lists that api__sampling_read made. */
void api__sampling_finish(struct text_sampling *s);

/* Sets the fields of `body` to what *s says. False without memory. */
bool api__sampling_write(json_t *body, const struct text_sampling *s);

#endif
