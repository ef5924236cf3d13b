/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lines that a person types, with history and line editing at a terminal (libedit), or plain lines
 * of standard input. Waiting ends with the flags' `ended`; at a terminal `pressed` empties the
 * line. One thread, one at a time.
 */
#ifndef COORDINATOR_CHAT_INPUT_H
#define COORDINATOR_CHAT_INPUT_H

#include "coordinator/interrupt.h"

struct coord_input;

/* flags are borrowed. */
enum proto_status coord_input_create(struct coord_input **out, struct coord_interrupt_flags *flags,
                                     struct proto_error *error);
void coord_input_destroy(struct coord_input *input);

/* Whether standard input is a terminal. */
bool coord_input_is_terminal(const struct coord_input *input);

/* The next line without its end, borrowed until the next call; NULL: there are no more, or an
 * error, then error->status is not PROTO_OK. */
const char *coord_input_line(struct coord_input *input, struct proto_error *error);

#endif
