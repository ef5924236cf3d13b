/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of wire.c share. */
#ifndef PROTO_WIRE_INTERNAL_H
#define PROTO_WIRE_INTERNAL_H

#include "proto/wire.h"

/* Files of a split model that a LOAD may name. */
#define PROTO__MAX_FILES 1024u

/* A time of each stage travels as so many numbers. */
#define PROTO__TIME_WORDS 6u

/* And so do a part of experts, and what a batch had of a host. */
#define PROTO__PART_WORDS      7u
#define PROTO__HOST_TIME_WORDS 7u

/* Checks every field against limits.h. Both sides of the wire do it: a message that was encoded
 * also decodes. Fails with `status`; the text names the field and its bounds. */
enum proto_status proto__msg_check(const struct proto_msg *msg, enum proto_status status,
                                   struct proto_error *error);

#endif
