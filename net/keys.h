/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys. A cluster has a CURVE key pair and a secret. The join token prints the cluster's public
 * key, the secret and an address; who has it may join. A machine has a CURVE key pair of its own.
 * Any thread.
 */
#ifndef NET_KEYS_H
#define NET_KEYS_H

#include "proto/limits.h"
#include "proto/status.h"

#include <stdint.h>

struct net_keypair {
    uint8_t public_key[PROTO_KEY_BYTES];
    uint8_t secret_key[PROTO_KEY_BYTES];
};

#define NET_ADDRESS_BYTES 256

struct net_token {
    uint8_t cluster_key[PROTO_KEY_BYTES]; /* public */
    uint8_t secret[PROTO_KEY_BYTES];
    char address[NET_ADDRESS_BYTES]; /* "host:port", or "" */
};

struct net_cluster_keys {
    struct net_keypair pair;
    uint8_t secret[PROTO_KEY_BYTES];
    char address[NET_ADDRESS_BYTES];
};

#define NET_TOKEN_TEXT_BYTES 512

enum proto_status net_keypair_generate(struct net_keypair *pair, struct proto_error *error);
enum proto_status net_cluster_keys_generate(struct net_cluster_keys *keys, const char *address,
                                            struct proto_error *error);

/* Files are text, mode 0600, written beside and renamed. Loading a file that others may read is
 * PROTO_REFUSED, with the chmod to run. */
enum proto_status net_cluster_keys_save(const struct net_cluster_keys *keys, const char *path,
                                        struct proto_error *error);
enum proto_status net_cluster_keys_load(struct net_cluster_keys *keys, const char *path,
                                        struct proto_error *error);

/* Loads the machine's key pair; makes the file if it is missing. */
enum proto_status net_keypair_load_or_create(struct net_keypair *pair, const char *path,
                                             struct proto_error *error);

/* "caravan1-" and URL-safe base64 of keys, address and a checksum; a token that was cut or mistyped
 * gives PROTO_FORMAT that says so. */
void net_token_format(const struct net_cluster_keys *keys, char text[NET_TOKEN_TEXT_BYTES]);
enum proto_status net_token_parse(struct net_token *token, const char *text,
                                  struct proto_error *error);

/* Keyed BLAKE2b of a worker's public key: what a hello carries. Check is constant-time. */
void net_proof_make(uint8_t proof[PROTO_KEY_BYTES], const uint8_t secret[PROTO_KEY_BYTES],
                    const uint8_t public_key[PROTO_KEY_BYTES]);
int net_proof_ok(const uint8_t proof[PROTO_KEY_BYTES], const uint8_t secret[PROTO_KEY_BYTES],
                 const uint8_t public_key[PROTO_KEY_BYTES]);

/* Default files: $XDG_CONFIG_HOME/caravan/NAME, else $HOME/.config/caravan/NAME. The folder is
 * created (0700). */
enum proto_status net_config_path(char *path, unsigned long bytes, const char *name,
                                  struct proto_error *error);

#endif
