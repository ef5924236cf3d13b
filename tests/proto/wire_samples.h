/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of every kind, and whether two are the same. */
#ifndef TESTS_PROTO_WIRE_SAMPLES_H
#define TESTS_PROTO_WIRE_SAMPLES_H

#include "proto/wire.h"

/* A message of the kind with every field set to something of its own, or an empty one of a
 * kind that there is not. Borrows static memory. */
struct proto_msg wire_sample(enum proto_kind kind);

/* Asserts that both are of one kind and have the same fields. */
void wire_check_same(const struct proto_msg *a, const struct proto_msg *b);

#endif
