/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers questions that take long (a disk is read, bytes are hashed) on a thread of its own, one
 * after another, and sends the answers on the loop's thread. All calls on the loop's thread.
 */
#ifndef NET_ANSWERER_H
#define NET_ANSWERER_H

#include "net/link.h"

struct net_answerer;

struct net_answerer_options {
    /* Fills the answer, which arrives zeroed, and its payload, on the answerer's thread. Nothing is
     * sent where it fails, and the error is logged. The question holds no pointers. */
    enum proto_status (*answer)(void *arg, const struct proto_msg *question,
                                struct proto_msg *answer, struct net_payload **payload,
                                struct proto_error *error);
    /* Called on the loop's thread before an answer is sent to the peer with this key; may be
     * NULL. What it points the answer to is its own. */
    void (*complete)(void *arg, const uint8_t key[PROTO_KEY_BYTES], struct proto_msg *answer);
    void *arg;
    const char *name; /* of the thread, for errors */
};

enum proto_status net_answerer_create(struct net_answerer **out, struct net_loop *loop,
                                      const struct net_answerer_options *options,
                                      struct proto_error *error);

/* Waits for the answer in work; nothing is sent any more. Before the links that were named are
 * destroyed. NULL is allowed. */
void net_answerer_destroy(struct net_answerer *answerer);

/* Puts a question behind those that wait already; `link` outlives the answerer. One too
 * many is dropped, and logged. */
void net_answerer_ask(struct net_answerer *answerer, struct net_link *link, net_peer from,
                      const uint8_t key[PROTO_KEY_BYTES], const struct proto_msg *question);

#endif
