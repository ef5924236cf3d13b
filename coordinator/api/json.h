/* SPDX-License-Identifier: Apache-2.0 */
/* JSON that comes from a client, and text that goes to one. No state, any thread. */
#ifndef COORDINATOR_API_JSON_H
#define COORDINATOR_API_JSON_H

#include "coordinator/api/http.h"

/* Nesting and number of values that a body may have. Values cost far more memory parsed than
 * written, so they are counted before parsing. */
#define API__JSON_MAX_DEPTH  16u
#define API__JSON_MAX_VALUES (2u << 20)

/* A body as one JSON object, else NULL and a 400. Strings may hold NUL. The caller's reference. */
json_t *api__json_load(const char *body, size_t len, struct api__fault *fault);

/* A string of bytes that may not be UTF-8; what is not becomes U+FFFD. NULL without memory. */
json_t *api__json_text(const char *text, size_t len);

/* A token's bytes as OpenAI spells them where they are not UTF-8: "bytes:\xe2\x80". */
json_t *api__json_token(const char *bytes, size_t len);

/* Fields of an object. Absent and null leave *out as it is. False and a 400 that names the field,
 * what was found and what is allowed otherwise. */
bool api__json_number(const json_t *object, const char *name, double min, double max, double *out,
                      struct api__fault *fault);
bool api__json_integer(const json_t *object, const char *name, json_int_t min, json_int_t max,
                       json_int_t *out, struct api__fault *fault);
bool api__json_bool(const json_t *object, const char *name, bool *out, struct api__fault *fault);

/* The field, or NULL where it is absent or null. */
json_t *api__json_field(const json_t *object, const char *name);

/* "a string", "an array", ... for messages. */
const char *api__json_kind(const json_t *json);

/* 400 unless every field's name is among n names. */
bool api__json_only(const json_t *object, const char *const *names, size_t n,
                    struct api__fault *fault);

/* An array of token ids below n_vocab; *ids is malloc'ed, the caller's. 400 that names the first
 * element at fault. name is the field's, for messages. */
bool api__json_ids(const json_t *array, const char *name, uint32_t n_vocab, int32_t **ids,
                   size_t *n, struct api__fault *fault);

#endif
