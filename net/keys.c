/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys and their files. libzmq's CURVE keys are libsodium's crypto_box keys (X25519), so 32 bytes
 * of one are 32 bytes of the other. A file is a line that says what it is and lines of
 * "NAME VALUE"; lines that begin with # are for the reader.
 */
#include "net/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "net/address.h"

#define FILE_BYTES    4096
#define HEX_BYTES     (2 * PROTO_KEY_BYTES + 1)
#define CLUSTER_TITLE "caravan-cluster-keys 1"
#define MACHINE_TITLE "caravan-machine-key 1"

static enum proto_status fail_sodium(struct proto_error *error)
{
    return proto_fail(error, PROTO_IO, "libsodium cannot start: no source of random numbers");
}

enum proto_status net_keypair_generate(struct net_keypair *pair, struct proto_error *error)
{
    if (sodium_init() < 0)
        return fail_sodium(error);
    crypto_box_keypair(pair->public_key, pair->secret_key);
    return PROTO_OK;
}

enum proto_status net_cluster_keys_generate(struct net_cluster_keys *keys, const char *address,
                                            struct proto_error *error)
{
    char endpoint[NET_ADDRESS_BYTES + 16];
    memset(keys, 0, sizeof *keys);
    if (strlen(address) >= sizeof keys->address)
        return proto_fail(error, PROTO_INVALID, "address of %zu bytes, at most %zu are allowed",
                          strlen(address), sizeof keys->address - 1);
    if (strpbrk(address, " \t\r\n"))
        return proto_fail(error, PROTO_INVALID, "address \"%s\": a space is in it", address);
    enum proto_status status =
        address[0] ? net_address_endpoint(address, false, endpoint, sizeof endpoint, error)
                   : PROTO_OK;
    if (status == PROTO_OK)
        status = net_keypair_generate(&keys->pair, error);
    if (status != PROTO_OK)
        return status;
    randombytes_buf(keys->secret, sizeof keys->secret);
    strcpy(keys->address, address);
    return PROTO_OK;
}

/* Where a name of the file is found; NULL if it is missing. The value ends at the line's end. */
static const char *find(const char *text, const char *name, size_t *len)
{
    size_t name_len = strlen(name);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, name_len) == 0 && line[name_len] == ' ') {
            const char *value = line + name_len + 1;
            *len = strcspn(value, "\r\n");
            return value;
        }
    }
    return NULL;
}

static enum proto_status find_key(uint8_t key[PROTO_KEY_BYTES], const char *text, const char *name,
                                  const char *path, struct proto_error *error)
{
    size_t len = 0, got = 0;
    const char *value = find(text, name, &len);
    if (value && len == HEX_BYTES - 1 &&
        sodium_hex2bin(key, PROTO_KEY_BYTES, value, len, NULL, &got, NULL) == 0 &&
        got == PROTO_KEY_BYTES)
        return PROTO_OK;
    return proto_fail(error, PROTO_FORMAT,
                      "%s: expected a line '%s' and 64 hexadecimal digits; restore the file from a "
                      "copy or remove it and make new keys",
                      path, name);
}

static enum proto_status find_pair(struct net_keypair *pair, const char *text, const char *path,
                                   struct proto_error *error)
{
    enum proto_status status = find_key(pair->public_key, text, "public", path, error);
    if (status == PROTO_OK)
        status = find_key(pair->secret_key, text, "secret", path, error);
    if (status != PROTO_OK)
        return status;
    uint8_t public_key[PROTO_KEY_BYTES];
    crypto_scalarmult_base(public_key, pair->secret_key);
    if (memcmp(public_key, pair->public_key, sizeof public_key) != 0)
        return proto_fail(error, PROTO_CORRUPT,
                          "%s: the public key does not belong to the secret key; restore the file "
                          "from a copy or remove it and make new keys",
                          path);
    return PROTO_OK;
}

static enum proto_status check_mode(int fd, const char *path, struct proto_error *error)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return proto_fail_errno(error, errno, "cannot read", path);
    if (!S_ISREG(st.st_mode))
        return proto_fail(error, PROTO_FORMAT, "%s: not a file", path);
    if (st.st_mode & 077)
        return proto_fail(error, PROTO_REFUSED,
                          "%s: others may read this secret (mode %03o); run: chmod 600 %s", path,
                          (unsigned)(st.st_mode & 0777), path);
    return PROTO_OK;
}

/* Reads a whole file of the kind that the title says. */
static enum proto_status read_file(char text[FILE_BYTES], const char *path, const char *title,
                                   struct proto_error *error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return proto_fail_errno(error, errno, "cannot open", path);
    enum proto_status status = check_mode(fd, path, error);
    ssize_t n = 0;
    size_t len = 0;
    while (status == PROTO_OK && (n = read(fd, text + len, FILE_BYTES - 1 - len)) > 0)
        len += (size_t)n;
    if (status == PROTO_OK && n < 0)
        status = proto_fail_errno(error, errno, "cannot read", path);
    close(fd);
    if (status != PROTO_OK)
        return status;
    text[len] = 0;
    size_t title_len = strlen(title);
    if (strncmp(text, title, title_len) != 0 || text[title_len] != '\n')
        return proto_fail(error, PROTO_FORMAT, "%s: expected a file that begins with '%s'", path,
                          title);
    return PROTO_OK;
}

static enum proto_status write_all(int fd, const char *text, const char *path,
                                   struct proto_error *error)
{
    size_t len = strlen(text);
    while (len > 0) {
        ssize_t n = write(fd, text, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return proto_fail_errno(error, errno, "cannot write", path);
        text += n;
        len -= (size_t)n;
    }
    return fsync(fd) == 0 ? PROTO_OK : proto_fail_errno(error, errno, "cannot write", path);
}

/* Writes a file that is whole or not there. With keep, a file that exists is left as it is and
 * *kept is set. mkostemp makes it readable by its owner only. */
static enum proto_status write_file(const char *path, const char *text, bool keep, bool *kept,
                                    struct proto_error *error)
{
    size_t bytes = strlen(path) + sizeof ".XXXXXX";
    char *beside = malloc(bytes);
    if (!beside)
        return proto_fail_nomem(error, bytes, "a file name");
    snprintf(beside, bytes, "%s.XXXXXX", path);
    int fd = mkostemp(beside, O_CLOEXEC);
    if (fd < 0) {
        enum proto_status status = proto_fail_errno(error, errno, "cannot write", path);
        free(beside);
        return status;
    }
    enum proto_status status = write_all(fd, text, path, error);
    close(fd);
    *kept = false;
    if (status == PROTO_OK && keep && link(beside, path) != 0) {
        *kept = errno == EEXIST;
        if (!*kept)
            status = proto_fail_errno(error, errno, "cannot write", path);
    }
    if (status == PROTO_OK && !keep && rename(beside, path) != 0)
        status = proto_fail_errno(error, errno, "cannot write", path);
    if (status != PROTO_OK || keep)
        unlink(beside);
    free(beside);
    return status;
}

enum proto_status net_cluster_keys_save(const struct net_cluster_keys *keys, const char *path,
                                        struct proto_error *error)
{
    char text[FILE_BYTES], public_key[HEX_BYTES], secret_key[HEX_BYTES], secret[HEX_BYTES];
    bool kept;
    sodium_bin2hex(public_key, HEX_BYTES, keys->pair.public_key, PROTO_KEY_BYTES);
    sodium_bin2hex(secret_key, HEX_BYTES, keys->pair.secret_key, PROTO_KEY_BYTES);
    sodium_bin2hex(secret, HEX_BYTES, keys->secret, PROTO_KEY_BYTES);
    snprintf(text, sizeof text,
             CLUSTER_TITLE "\n"
                           "# Whoever reads this file can pose as the coordinator.\n"
                           "public %s\nsecret %s\njoin %s\naddress %s\n",
             public_key, secret_key, secret, keys->address);
    enum proto_status status = write_file(path, text, false, &kept, error);
    sodium_memzero(text, sizeof text);
    sodium_memzero(secret_key, sizeof secret_key);
    sodium_memzero(secret, sizeof secret);
    return status;
}

static enum proto_status find_address(struct net_cluster_keys *keys, const char *text,
                                      const char *path, struct proto_error *error)
{
    size_t len = 0;
    const char *value = find(text, "address", &len);
    if (!value || len >= sizeof keys->address)
        return proto_fail(error, PROTO_FORMAT, "%s: expected a line 'address HOST:PORT'", path);
    memcpy(keys->address, value, len);
    keys->address[len] = 0;
    return PROTO_OK;
}

enum proto_status net_cluster_keys_load(struct net_cluster_keys *keys, const char *path,
                                        struct proto_error *error)
{
    char text[FILE_BYTES];
    memset(keys, 0, sizeof *keys);
    if (sodium_init() < 0)
        return fail_sodium(error);
    enum proto_status status = read_file(text, path, CLUSTER_TITLE, error);
    if (status == PROTO_OK)
        status = find_pair(&keys->pair, text, path, error);
    if (status == PROTO_OK)
        status = find_key(keys->secret, text, "join", path, error);
    if (status == PROTO_OK)
        status = find_address(keys, text, path, error);
    if (status != PROTO_OK)
        sodium_memzero(keys, sizeof *keys);
    sodium_memzero(text, sizeof text);
    return status;
}

static enum proto_status keypair_load(struct net_keypair *pair, const char *path,
                                      struct proto_error *error)
{
    char text[FILE_BYTES];
    enum proto_status status = read_file(text, path, MACHINE_TITLE, error);
    if (status == PROTO_OK)
        status = find_pair(pair, text, path, error);
    sodium_memzero(text, sizeof text);
    return status;
}

static enum proto_status keypair_create(struct net_keypair *pair, const char *path, bool *kept,
                                        struct proto_error *error)
{
    char text[FILE_BYTES], public_key[HEX_BYTES], secret_key[HEX_BYTES];
    enum proto_status status = net_keypair_generate(pair, error);
    if (status != PROTO_OK)
        return status;
    sodium_bin2hex(public_key, HEX_BYTES, pair->public_key, PROTO_KEY_BYTES);
    sodium_bin2hex(secret_key, HEX_BYTES, pair->secret_key, PROTO_KEY_BYTES);
    snprintf(text, sizeof text, MACHINE_TITLE "\npublic %s\nsecret %s\n", public_key, secret_key);
    status = write_file(path, text, true, kept, error);
    sodium_memzero(text, sizeof text);
    sodium_memzero(secret_key, sizeof secret_key);
    return status;
}

enum proto_status net_keypair_load_or_create(struct net_keypair *pair, const char *path,
                                             struct proto_error *error)
{
    memset(pair, 0, sizeof *pair);
    if (sodium_init() < 0)
        return fail_sodium(error);
    enum proto_status status = keypair_load(pair, path, error);
    if (status == PROTO_NOTFOUND) {
        bool kept = false;
        status = keypair_create(pair, path, &kept, error);
        /* Another process of this machine was first: its key is the machine's. */
        if (status == PROTO_OK && kept)
            status = keypair_load(pair, path, error);
    }
    if (status != PROTO_OK)
        sodium_memzero(pair, sizeof *pair);
    return status;
}
