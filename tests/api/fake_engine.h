/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine without a cluster: the functions of coordinator/engine.h with canned tokens, so that
 * the HTTP side is tested alone. Every stream writes " hello world" "!" and a 'é' in two
 * byte tokens, then an end token; with an odd seed it starts at the second token. What goes wrong
 * is set here.
 */
#ifndef TESTS_API_FAKE_ENGINE_H
#define TESTS_API_FAKE_ENGINE_H

#include "coordinator/engine.h"
#include "tests/api/fake_vocab.h"

#define FAKE_TEXT     " hello world!\xc3\xa9"
#define FAKE_TEXT_ODD " world!\xc3\xa9"
#define FAKE_TOKENS   6u /* before the end token */
#define FAKE_LOGPROB  (-0.5f)
#define FAKE_MODEL    "fake"

/* NULL if the vocabulary could not be made. Destroyed with coord_engine_destroy. */
struct coord_engine *fake_engine_create(void);

/* Submitting fails with this; PROTO_OK: it works. */
void fake_engine_refuse(struct coord_engine *engine, enum proto_status status);

/* Streams fail with this status after n tokens; PROTO_OK: they do not. */
void fake_engine_fail_after(struct coord_engine *engine, unsigned n, enum proto_status status);

/* Streams fall silent after n tokens, until they are destroyed; UINT_MAX: they do not. */
void fake_engine_stall_after(struct coord_engine *engine, unsigned n);

void fake_engine_set_ready(struct coord_engine *engine, bool ready);

/* The model's chat template; NULL: none, as at first. False if it could not be set. Waits until
 * no request runs, as the next does too. */
bool fake_engine_set_template(struct coord_engine *engine, const char *source);

/* Streams write this text, a byte or a control token at a time, and an end token; NULL: what they
 * wrote at first. */
void fake_engine_say(struct coord_engine *engine, const char *text);

/* The text of the last request's ids, control tokens spelled out. */
const char *fake_engine_prompt(struct coord_engine *engine);

/* Streams submitted so far, and the seed of the i-th. */
unsigned fake_engine_streams(struct coord_engine *engine);
uint64_t fake_engine_seed(struct coord_engine *engine, unsigned i);
/* The last request (ids are not kept, n_ids is). */
struct coord_request fake_engine_request(struct coord_engine *engine);

/* Waits until `streams` were submitted; until all were destroyed. False after 20 s. */
bool fake_engine_wait_streams(struct coord_engine *engine, unsigned streams);
bool fake_engine_wait_idle(struct coord_engine *engine);

#endif
