/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The join token: "caravan1-" and unpadded URL-safe base64 of
 *     cluster's public key (32) | secret (32) | address (0 to 255) | checksum (8)
 * where the checksum is the head of BLAKE2b-256 of what is before it.
 */
#include "net/keys.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PREFIX         "caravan1-"
#define CHECKSUM_BYTES 8
#define FIXED_BYTES    (2 * PROTO_KEY_BYTES + CHECKSUM_BYTES)
#define RAW_BYTES      (FIXED_BYTES + NET_ADDRESS_BYTES - 1)

static_assert(sizeof PREFIX + (RAW_BYTES * 4 + 2) / 3 <= NET_TOKEN_TEXT_BYTES,
              "the longest token fits");

static void checksum(uint8_t out[CHECKSUM_BYTES], const uint8_t *raw, size_t len)
{
    uint8_t hash[PROTO_HASH_BYTES];
    crypto_generichash(hash, sizeof hash, raw, len, NULL, 0);
    memcpy(out, hash, CHECKSUM_BYTES);
}

void net_token_format(const struct net_cluster_keys *keys, char text[NET_TOKEN_TEXT_BYTES])
{
    uint8_t raw[RAW_BYTES];
    size_t address_len = strnlen(keys->address, NET_ADDRESS_BYTES - 1);
    size_t len = 2 * PROTO_KEY_BYTES + address_len;
    memcpy(raw, keys->pair.public_key, PROTO_KEY_BYTES);
    memcpy(raw + PROTO_KEY_BYTES, keys->secret, PROTO_KEY_BYTES);
    memcpy(raw + 2 * PROTO_KEY_BYTES, keys->address, address_len);
    checksum(raw + len, raw, len);
    strcpy(text, PREFIX);
    sodium_bin2base64(text + strlen(PREFIX), NET_TOKEN_TEXT_BYTES - strlen(PREFIX), raw,
                      len + CHECKSUM_BYTES, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    sodium_memzero(raw, sizeof raw);
}

static enum proto_status decode(struct net_token *token, const char *text, size_t text_len,
                                struct proto_error *error)
{
    uint8_t raw[RAW_BYTES], sum[CHECKSUM_BYTES];
    size_t len = 0;
    const char *end = text;
    int rc = sodium_base642bin(raw, sizeof raw, text, text_len, NULL, &len, &end,
                               sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    enum proto_status status = PROTO_OK;
    if (rc == 0 && end == text + text_len && len >= FIXED_BYTES)
        checksum(sum, raw, len - CHECKSUM_BYTES);
    else
        status = PROTO_FORMAT;
    if (status == PROTO_OK && memcmp(sum, raw + len - CHECKSUM_BYTES, CHECKSUM_BYTES) == 0) {
        memcpy(token->cluster_key, raw, PROTO_KEY_BYTES);
        memcpy(token->secret, raw + PROTO_KEY_BYTES, PROTO_KEY_BYTES);
        memcpy(token->address, raw + 2 * PROTO_KEY_BYTES, len - FIXED_BYTES);
    } else {
        status = proto_fail(error, PROTO_FORMAT,
                            "the join token was cut or mistyped; copy the whole line that 'caravan "
                            "keygen' printed");
    }
    sodium_memzero(raw, sizeof raw);
    return status;
}

enum proto_status net_token_parse(struct net_token *token, const char *text,
                                  struct proto_error *error)
{
    memset(token, 0, sizeof *token);
    text += strspn(text, " \t\r\n");
    size_t len = strcspn(text, " \t\r\n");
    if (text[len + strspn(text + len, " \t\r\n")] != 0 || len >= NET_TOKEN_TEXT_BYTES ||
        strncmp(text, PREFIX, strlen(PREFIX)) != 0)
        return proto_fail(error, PROTO_FORMAT,
                          "not a join token: expected one word that begins with " PREFIX
                          ", as 'caravan keygen' prints it");
    return decode(token, text + strlen(PREFIX), len - strlen(PREFIX), error);
}

void net_proof_make(uint8_t proof[PROTO_KEY_BYTES], const uint8_t secret[PROTO_KEY_BYTES],
                    const uint8_t public_key[PROTO_KEY_BYTES])
{
    crypto_generichash(proof, PROTO_KEY_BYTES, public_key, PROTO_KEY_BYTES, secret,
                       PROTO_KEY_BYTES);
}

int net_proof_ok(const uint8_t proof[PROTO_KEY_BYTES], const uint8_t secret[PROTO_KEY_BYTES],
                 const uint8_t public_key[PROTO_KEY_BYTES])
{
    uint8_t expected[PROTO_KEY_BYTES];
    net_proof_make(expected, secret, public_key);
    return sodium_memcmp(expected, proof, sizeof expected) == 0;
}

/* Makes every folder above the file; those that exist stay as they are. */
static enum proto_status make_folders(char *path, struct proto_error *error)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        int rc = mkdir(path, 0700), why = errno;
        enum proto_status status = PROTO_OK;
        if (rc != 0 && why != EEXIST)
            status = proto_fail_errno(error, why, "cannot make folder", path);
        *slash = '/';
        if (status != PROTO_OK)
            return status;
    }
    return PROTO_OK;
}

enum proto_status net_config_path(char *path, unsigned long bytes, const char *name,
                                  struct proto_error *error)
{
    const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    int n;
    /* The base directory specification: a relative path is as good as none. */
    if (config && config[0] == '/')
        n = snprintf(path, bytes, "%s/caravan/%s", config, name);
    else if (home && home[0] == '/')
        n = snprintf(path, bytes, "%s/.config/caravan/%s", home, name);
    else
        return proto_fail(error, PROTO_NOTFOUND,
                          "no folder for %s: neither XDG_CONFIG_HOME nor HOME is set", name);
    if (n < 0 || (unsigned long)n >= bytes)
        return proto_fail(error, PROTO_LIMIT, "the path of %s is longer than %lu bytes", name,
                          bytes - 1);
    return make_folders(path, error);
}
