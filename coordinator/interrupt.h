/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ctrl-C for commands that wait on an engine. Signals are blocked in every thread and taken by a
 * thread of their own: the first SIGINT or SIGTERM interrupts the engine, the second ends the
 * program at once. A chat has flags instead.
 */
#ifndef COORDINATOR_INTERRUPT_H
#define COORDINATOR_INTERRUPT_H

#include <stdatomic.h>

#include "coordinator/engine.h"

/* Blocks the signals; called before any other thread is started. */
void coord_interrupt_block(void);

/* Starts the thread. The engine (NULL: there is none) is destroyed after coord_interrupt_end. */
enum proto_status coord_interrupt_begin(struct coord_engine *engine, struct proto_error *error);
void coord_interrupt_end(void);

struct coord_interrupt_flags {
    atomic_bool soft;    /* SIGINT only sets `pressed`, however often it comes */
    atomic_bool pressed; /* whoever acts on it clears it */
    atomic_bool ended;   /* by SIGTERM, or SIGINT where it is not soft */
};

/* From now on signals set these, which must be static. */
void coord_interrupt_catch(struct coord_interrupt_flags *flags);

#endif
