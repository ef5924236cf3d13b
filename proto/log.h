/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log: one line an event on standard error, `LEVEL STABLE-ID key=value ...`. An event is
 * written once, where it is handled. Nothing that happens once a token is above debug. Any thread;
 * a line is written with one write call.
 */
#ifndef PROTO_LOG_H
#define PROTO_LOG_H

enum proto_log_level { PROTO_LOG_ERROR, PROTO_LOG_WARN, PROTO_LOG_INFO, PROTO_LOG_DEBUG };

/* Lines above this level are dropped. Set once at start, before other threads. Default: WARN. */
void proto_log_set_level(enum proto_log_level level);

/* Level of a name ("error", "warn", "info", "debug"); -1 for another word. */
int proto_log_level_by_name(const char *name);

/* Writes `level id formatted-text`. Values with spaces are quoted by the caller ("path=\"%s\""). */
void proto_log(enum proto_log_level level, const char *id, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
