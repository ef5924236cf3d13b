/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop: sockets, timers, signals and child processes of one thread, over libuv. Every
 * call is made by the loop's thread (or before it runs), except net_loop_post and net_loop_stop,
 * which any thread may call. Callbacks run on the loop's thread.
 */
#ifndef NET_LOOP_H
#define NET_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/status.h"

struct net_loop;
struct net_timer;
struct net_child;

enum proto_status net_loop_create(struct net_loop **out, struct proto_error *error);

/* Runs until net_loop_stop. */
void net_loop_run(struct net_loop *loop);

/* Ends net_loop_run soon, or at once if it has yet to be called: a stopped loop stays stopped. May
 * be called more than once and from any thread. */
void net_loop_stop(struct net_loop *loop);

/* Frees the loop. Links, timers and children made on it are destroyed first by their owners;
 * functions posted and not yet run are run. NULL is allowed. */
void net_loop_destroy(struct net_loop *loop);

/* Runs fn(arg) on the loop's thread, in the order of posting. PROTO_NOMEM leaves nothing posted. */
enum proto_status net_loop_post(struct net_loop *loop, void (*fn)(void *arg), void *arg);

/* Monotonic nanoseconds (CLOCK_MONOTONIC, the same for all processes of a machine). Any thread. */
uint64_t net_now_ns(void);

/* A repeating timer: first after period_ms, then every period_ms. */
enum proto_status net_timer_create(struct net_timer **out, struct net_loop *loop,
                                   uint64_t period_ms, void (*fn)(void *arg), void *arg,
                                   struct proto_error *error);
void net_timer_destroy(struct net_timer *timer);

/* Calls fn(arg) when the process gets SIGINT or SIGTERM; once set it stays for the loop's life. */
enum proto_status net_loop_on_terminate(struct net_loop *loop, void (*fn)(void *arg), void *arg,
                                        struct proto_error *error);

/* Starts a program. argv ends with NULL, argv[0] is the path. `input` is written to its standard
 * input, which is then closed; standard error is inherited, standard output goes to standard
 * error. It has a session of its own, so that Ctrl-C at the terminal does not reach it. on_exit is
 * called once when it ends (also if it ended by itself), but not after net_child_destroy; signal is
 * 0 unless a signal ended it. */
enum proto_status net_child_start(struct net_child **out, struct net_loop *loop,
                                  const char *const *argv, const char *input,
                                  void (*on_exit)(void *arg, int64_t code, int signal), void *arg,
                                  struct proto_error *error);
int net_child_pid(const struct net_child *child);
/* Sends SIGTERM to the child and what it started; net_child_destroy sends SIGKILL if it still runs
 * and waits. NULL is allowed. */
void net_child_terminate(struct net_child *child);
void net_child_destroy(struct net_child *child);

#endif
