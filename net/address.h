/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses that people type, and the endpoints that sockets take. Any thread. */
#ifndef NET_ADDRESS_H
#define NET_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/status.h"

/* "HOST:PORT", "[V6]:PORT", "tcp://HOST:PORT" or "ipc://..." as an endpoint. A port of 0 is allowed
 * only for listening. PROTO_INVALID shows what was given and what is allowed. */
enum proto_status net_address_endpoint(const char *address, bool listening, char *endpoint,
                                       size_t bytes, struct proto_error *error);

/* The address of this machine, as "IP" or "[V6]", that packets towards a tcp endpoint leave from:
 * what other machines of that network can reach. Nothing is sent. */
enum proto_status net_address_towards(const char *endpoint, char *host, size_t bytes,
                                      struct proto_error *error);

/* The port of a tcp endpoint, or "" . */
const char *net_address_port(const char *endpoint);

#endif
